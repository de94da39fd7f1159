//! Files that are sealed with a public key alone, outside of any volume and without a key service
//! (docs/format.md, "Sealed files"). Read and written as streams, in memory that does not grow with them.

use std::io::{self, Read, Write};

use zeroize::Zeroizing;

use super::block::{self, BlockHead};
use super::error::{Attempt, Result, VolumeError};
use super::header::{Header, Page, SEALED, WrappedKey, array};
use super::keys::{DataKey, FileKeys};
use super::layout::{BLOCK, MAX_SIZE, PAGE, blocks_for};
use crate::crypto::asymmetric::{Oaep, PublicKey};
use crate::crypto::{NonceRun, Secret, SecretVec, mac, random};
use crate::kms::KmsError;

pub use super::header::is_sealed;

/// Blocks that are read, sealed or opened, and written at once; a run of nonces.
const RUN: usize = 64;
/// Runs under one content key.
const GENERATION: u64 = 1 << 31;
/// Size in page 0, which is written before the end of the input is known.
const NOT_YET: u64 = u64::MAX;
/// Where the header's fixed part ends and its wrapped keys begin.
const FIXED: usize = 112;

/// Who can open the file.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// RSA.
    pub key: PublicKey,
    /// ARN of the KMS key whose public key it is, if that is known: a hint for whoever opens the file.
    pub key_arn: Option<String>,
}

impl Recipient {
    /// What stands in the header: the ARN, or else the fingerprint of the public key.
    fn name(&self) -> String {
        self.key_arn.clone().unwrap_or_else(|| fingerprint(&self.key))
    }
}

/// `spki-sha256:` and the SHA-256 of the SubjectPublicKeyInfo in hex.
pub fn fingerprint(key: &PublicKey) -> String {
    format!("spki-sha256:{}", hex::encode(mac::sha256(&[key.der()])))
}

/// Seals all of `input` for one to four recipients. Answers the bytes of plaintext.
///
/// # Errors
/// [`VolumeError::Crypto`] if a key is not RSA, [`VolumeError::Backing`] of either stream.
pub fn seal(input: &mut dyn Read, output: &mut dyn Write, recipients: &[Recipient]) -> Result<u64> {
    let file_id = random()?;
    let data = Secret::<32>::generate()?;
    let wrap = |to: &Recipient| {
        let ciphertext = to.key.encrypt(Oaep::Sha256, data.expose())?;
        Ok(WrappedKey { key_arn: to.name(), ciphertext })
    };
    let wrapped = recipients.iter().map(wrap).collect::<Result<Vec<_>>>()?;
    let keys = FileKeys::derive_sealed(DataKey(data), &file_id)?;
    let mut header = Header {
        flags: SEALED,
        generation: 0,
        used: 0,
        file_id,
        size: NOT_YET,
        epoch: 0,
        commitment: *keys.commitment(),
        keys: wrapped,
    };
    put(output, &header.encode(&keys)?[..])?;

    let mut plaintext = Zeroizing::new(vec![0; RUN * BLOCK as usize]);
    let mut pages = vec![0; RUN * PAGE as usize];
    let (mut size, mut block) = (0, 0);
    for run in 0.. {
        let len = fill(input, &mut plaintext)?;
        size += len as u64;
        // Which also keeps the generations below 2^13.
        if size > MAX_SIZE {
            return Err(VolumeError::TooLarge);
        }
        let generation = (run / GENERATION) as u16;
        let (key, mut nonces) = (keys.content(generation)?, NonceRun::start()?);
        let mut end = 0;
        for (piece, page) in plaintext[..len].chunks(BLOCK as usize).zip(pages.chunks_mut(PAGE as usize)) {
            block::seal(&key, nonces.take(), block, generation, piece, page)?;
            block += 1;
            end += page.len();
        }
        put(output, &pages[..end])?;
        if len < plaintext.len() {
            break;
        }
    }
    header.size = size;
    put(output, &end_page(&header, &keys)?[..])?;
    Ok(size)
}

/// A sealed file whose page 0 was read.
pub struct Sealed<R> {
    input: R,
    page: Box<Page>,
    header: Header,
}

impl<R: Read> Sealed<R> {
    /// Reads page 0. Nothing is authenticated yet.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`] if it is no sealed file.
    pub fn begin(mut input: R) -> Result<Self> {
        let mut page = Box::new([0; PAGE as usize]);
        let len = fill(&mut input, &mut page[..])?;
        let header = Header::parse_sealed(&page[..len])?;
        if header.size != NOT_YET {
            return Err(VolumeError::damaged("the file begins with the page that ends it"));
        }
        Ok(Self { input, page, header })
    }

    /// What page 0 says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes the plaintext; `unwrap` opens one of the wrapped data keys. Answers its bytes. Each block is written
    /// only after it is authenticated; that the file is whole is known at the end, and until then what was
    /// written is only its beginning.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`] if the file is not what was sealed, [`VolumeError::Key`] if `unwrap` opens no data
    /// key, [`VolumeError::Backing`] of either stream.
    pub fn open(
        mut self,
        output: &mut dyn Write,
        unwrap: &dyn Fn(&WrappedKey) -> std::result::Result<SecretVec, KmsError>,
    ) -> Result<u64> {
        let keys = self.keys(unwrap)?;
        self.header.verify(&self.page[..], &keys)?;
        let mut plaintext = Zeroizing::new(vec![0; RUN * BLOCK as usize]);
        let mut pages = vec![0; (RUN + 1) * PAGE as usize];
        let (mut size, mut block, mut short) = (0, 0, false);
        // The last page read is kept back: it may be the one that ends the file.
        let mut kept = 0;
        loop {
            let len = kept + fill(&mut self.input, &mut pages[kept..])?;
            let ended = len < pages.len();
            let blocks = (len / PAGE as usize).saturating_sub(1);
            let mut end = 0;
            for page in pages[..blocks * PAGE as usize].chunks(PAGE as usize) {
                if short {
                    return Err(VolumeError::damaged(format!(
                        "block {} is short and not the last",
                        block - 1
                    )));
                }
                let head = BlockHead::parse(page)?;
                let key = keys.content(head.generation)?;
                // Blocks before a short one are full, so that the plaintext has no gaps.
                block::open(&key, head, block, page, &mut plaintext[end..end + BLOCK as usize])?;
                short = u64::from(head.len) < BLOCK;
                end += usize::from(head.len);
                block += 1;
            }
            size += end as u64;
            if ended {
                let last = pages.get(blocks * PAGE as usize..len).unwrap_or_default();
                self.check_end(&keys, last, size, block)?;
            }
            put(output, &plaintext[..end])?;
            if ended {
                return Ok(size);
            }
            pages.copy_within(RUN * PAGE as usize.., 0);
            kept = PAGE as usize;
        }
    }

    /// The first wrapped key that opens to this file's data key.
    fn keys(
        &self,
        unwrap: &dyn Fn(&WrappedKey) -> std::result::Result<SecretVec, KmsError>,
    ) -> Result<FileKeys> {
        let mut refusal = None;
        for wrapped in &self.header.keys {
            let plain = match unwrap(wrapped) {
                Ok(plain) => plain,
                Err(error) => {
                    refusal.get_or_insert(error);
                    continue;
                }
            };
            if let Ok(data) = Secret::from_slice(plain.expose()) {
                let keys = FileKeys::derive_sealed(DataKey(data), &self.header.file_id)?;
                if mac::equal(&self.header.commitment, keys.commitment()) {
                    return Ok(keys);
                }
            }
        }
        Err(match refusal {
            Some(error) => error.into(),
            None => VolumeError::damaged("what the file's wrapped data keys open to is not its data key"),
        })
    }

    /// The last page must be this header's with the size of what came before.
    fn check_end(&self, keys: &FileKeys, page: &[u8], size: u64, blocks: u64) -> Result<()> {
        let cut = |what: &str| VolumeError::damaged(format!("the file is cut: {what}"));
        if page.len() != PAGE as usize {
            return Err(cut("it ends inside a page, or before the page that ends it"));
        }
        let Some(said) = said_size(page) else {
            return Err(cut("the page that ends it is absent, or another"));
        };
        let due = end_page(&Header { size: said, ..self.header.clone() }, keys)?;
        if !mac::equal(&due[..], page) {
            return Err(VolumeError::damaged(
                "the page that ends the file was changed, or is another file's",
            ));
        }
        if said != size || blocks_for(said) != blocks {
            return Err(cut(&format!("it holds {size} of {said} bytes")));
        }
        Ok(())
    }
}

/// The page that ends a file: the fixed part of the header with the size, then zeros.
fn end_page(header: &Header, keys: &FileKeys) -> Result<Box<Page>> {
    let mut page = header.encode(keys)?;
    page[FIXED..].fill(0);
    Ok(page)
}

/// The size that the last page of a sealed file tells, which only opening the file authenticates. None for
/// another page.
pub fn said_size(page: &[u8]) -> Option<u64> {
    let size = u64::from_le_bytes(array(page.get(..PAGE as usize)?, 32));
    (is_sealed(page) && size <= MAX_SIZE).then_some(size)
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match input.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).attempt(READING),
        }
    }
    Ok(len)
}

fn put(output: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    output.write_all(bytes).attempt(WRITING)
}

/// What was attempted when a [`VolumeError::Backing`] is the input's.
pub const READING: &str = "reading the input";
/// What was attempted when it is the output's.
pub const WRITING: &str = "writing the output";

#[cfg(test)]
mod tests;
