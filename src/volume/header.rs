//! Page 0 of a file (docs/format.md, "Header").

use super::error::{Result, VolumeError};
use super::keys::FileKeys;
use super::layout::PAGE;
use crate::crypto::mac;

/// Random name of a file in contexts, keys and the log.
pub type FileId = [u8; 16];

/// The page.
pub type Page = [u8; PAGE as usize];

/// Holes are allowed.
pub const SPARSE: u16 = 1;
/// Not a file of a volume: made with a public key alone ([`super::sealed`]).
pub const SEALED: u16 = 4;

const MAGIC: &[u8; 8] = b"KMSFSFIL";
const FORMAT: u16 = super::FORMAT_VERSION as u16;
const MAC_AT: usize = 80;
const KEYS_AT: usize = 112;

/// A data key under a KMS key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// KMS key.
    pub key_arn: String,
    /// CiphertextBlob.
    pub ciphertext: Vec<u8>,
}

/// What page 0 says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// [`SPARSE`] or 0; [`SEALED`] outside of volumes.
    pub flags: u16,
    /// Generation of the content key for new writes.
    pub generation: u16,
    /// Write requests of that generation in units of 65536, rounded up.
    pub used: u16,
    /// The file.
    pub file_id: FileId,
    /// Plaintext bytes when it was finalised.
    pub size: u64,
    /// Epoch when it was finalised.
    pub epoch: u64,
    /// Commits to the data key.
    pub commitment: [u8; 32],
    /// One to four.
    pub keys: Vec<WrappedKey>,
}

impl Header {
    /// The page, under the file's header key.
    pub fn encode(&self, keys: &FileKeys) -> Result<Box<Page>> {
        let mut page = Box::new([0; PAGE as usize]);
        page[..8].copy_from_slice(MAGIC);
        page[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        page[10..12].copy_from_slice(&self.flags.to_le_bytes());
        page[12..14].copy_from_slice(&self.generation.to_le_bytes());
        page[14..16].copy_from_slice(&self.used.to_le_bytes());
        page[16..32].copy_from_slice(&self.file_id);
        page[32..40].copy_from_slice(&self.size.to_le_bytes());
        page[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        page[48..80].copy_from_slice(&self.commitment);
        let mac = mac::hmac_sha256(keys.header(), &[&page[..MAC_AT]]);
        page[MAC_AT..KEYS_AT].copy_from_slice(&mac);
        put_keys(&mut page, &self.keys)?;
        Ok(page)
    }

    /// Reads a page of a volume's file. Nothing is authenticated yet: [`Self::verify`] needs the data key.
    pub fn parse(page: &[u8]) -> Result<Self> {
        if is_sealed(page) {
            return Err(VolumeError::damaged(
                "the file is not of this volume: it was made with a public key by `kmsfs encrypt`, and \
                 `kmsfs decrypt` opens it",
            ));
        }
        Self::read(page, SPARSE)
    }

    /// Reads page 0 of a sealed file, as [`Self::parse`] does a volume's.
    pub fn parse_sealed(page: &[u8]) -> Result<Self> {
        if page.len() == PAGE as usize && &page[..8] == MAGIC && !is_sealed(page) {
            return Err(VolumeError::damaged("the file belongs to a volume; read it through its mount"));
        }
        Self::read(page, SEALED)
    }

    fn read(page: &[u8], known: u16) -> Result<Self> {
        let bad = |what: &str| VolumeError::damaged(format!("the file's header {what}"));
        if page.len() != PAGE as usize {
            return Err(bad("is shorter than a page"));
        }
        if &page[..8] != MAGIC {
            return Err(bad("is not one that kmsfs wrote"));
        }
        if u16_at(page, 8) != FORMAT {
            return Err(bad(&format!("has format {}, known is {FORMAT}", u16_at(page, 8))));
        }
        let flags = u16_at(page, 10);
        if flags & !known != 0 {
            return Err(bad(&format!(
                "has flags {flags:#x} that this version does not know; use a newer kmsfs"
            )));
        }
        let count = page[KEYS_AT];
        if count == 0 && is_zero(&page[KEYS_AT..]) {
            return Err(bad(
                "holds no wrapped key any more: it was shredded, and nothing opens it; remove it",
            ));
        }
        if !(1..=4).contains(&count) {
            return Err(bad(&format!("lists {count} wrapped keys")));
        }
        let mut rest = &page[KEYS_AT + 1..];
        let mut keys = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (lengths, after) = rest.split_at_checked(4).ok_or_else(|| bad("has a cut list of keys"))?;
            let (arn_len, blob_len) = (usize::from(u16_at(lengths, 0)), usize::from(u16_at(lengths, 2)));
            let (arn, after) =
                after.split_at_checked(arn_len).ok_or_else(|| bad("has a cut list of keys"))?;
            let (blob, after) =
                after.split_at_checked(blob_len).ok_or_else(|| bad("has a cut list of keys"))?;
            let key_arn =
                str::from_utf8(arn).map_err(|_| bad("names a key in something that is not UTF-8"))?;
            keys.push(WrappedKey { key_arn: key_arn.to_owned(), ciphertext: blob.to_vec() });
            rest = after;
        }
        if !is_zero(rest) {
            return Err(bad("has bytes behind its keys"));
        }
        Ok(Self {
            flags,
            generation: u16_at(page, 12),
            used: u16_at(page, 14),
            file_id: array(page, 16),
            size: u64::from_le_bytes(array(page, 32)),
            epoch: u64::from_le_bytes(array(page, 40)),
            commitment: array(page, 48),
            keys,
        })
    }

    /// Ends the generation: new writes have another content key.
    pub fn next_generation(&mut self) -> Result<()> {
        self.generation = (self.generation.checked_add(1))
            .ok_or(VolumeError::Unsupported("a file that used up its content keys; copy it"))?;
        self.used = 0;
        Ok(())
    }

    /// Checks the commitment to the data key and the MAC of `page`, from which this was parsed.
    pub fn verify(&self, page: &[u8], keys: &FileKeys) -> Result<()> {
        if !mac::equal(&self.commitment, keys.commitment()) {
            return Err(VolumeError::damaged(
                "the file's header belongs to another data key, file or volume",
            ));
        }
        mac::verify_hmac_sha256(keys.header(), &[&page[..MAC_AT]], &page[MAC_AT..KEYS_AT])
            .map_err(|_| VolumeError::damaged("the file's header was changed"))
    }
}

/// The same page with other wrapped keys. They stand outside of the MAC, so this needs no key.
pub fn with_keys(page: &Page, keys: &[WrappedKey]) -> Result<Box<Page>> {
    let mut changed = Box::new(*page);
    put_keys(&mut changed, keys)?;
    Ok(changed)
}

/// The same page without any: nothing opens the file any more.
pub fn without_keys(page: &Page) -> Box<Page> {
    let mut changed = Box::new(*page);
    changed[KEYS_AT..].fill(0);
    changed
}

/// Writes the part behind the MAC.
fn put_keys(page: &mut Page, keys: &[WrappedKey]) -> Result<()> {
    if keys.is_empty() || keys.len() > 4 {
        return Err(VolumeError::Invalid("a file takes one to four wrapped data keys"));
    }
    page[KEYS_AT] = keys.len() as u8;
    let mut at = KEYS_AT + 1;
    for key in keys {
        let (arn, blob) = (key.key_arn.as_bytes(), &key.ciphertext);
        let end = at + 4 + arn.len() + blob.len();
        if end > page.len() || arn.len() > usize::from(u16::MAX) {
            return Err(VolumeError::Invalid("the wrapped data keys do not fit into a file's header"));
        }
        page[at..at + 2].copy_from_slice(&(arn.len() as u16).to_le_bytes());
        page[at + 2..at + 4].copy_from_slice(&(blob.len() as u16).to_le_bytes());
        page[at + 4..at + 4 + arn.len()].copy_from_slice(arn);
        page[at + 4 + arn.len()..end].copy_from_slice(blob);
        at = end;
    }
    page[at..].fill(0);
    Ok(())
}

/// True if the bytes begin as a sealed file does.
pub fn is_sealed(start: &[u8]) -> bool {
    start.len() >= 12 && &start[..8] == MAGIC && u16_at(start, 10) & SEALED != 0
}

/// True for a page (or a cut one) of nothing but zeros.
pub fn is_zero(page: &[u8]) -> bool {
    let (chunks, rest) = page.as_chunks::<16>();
    chunks.iter().all(|c| u128::from_ne_bytes(*c) == 0) && rest.iter().all(|&b| b == 0)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// `N` bytes at `at`; the caller has checked the length.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
