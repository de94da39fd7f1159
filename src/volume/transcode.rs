//! Re-encryption: a finalised file from one data key to another, and names, targets and attributes from one volume's
//! keys to another's. Streams; nothing here knows where the pages are kept.
//!
//! What comes out is a file that was written by nobody but this: its key generations begin anew, its size, holes and
//! st_size stay. Damage is an error that names the block. What was handed on before an error is the beginning of a
//! file and no file: whoever writes it does so under a temporary name and throws it away.
//!
//! # Why a nonce cannot repeat
//!
//! The new data key was generated for this file and sealed nothing before, and a file is refused whose two keys are
//! one. Each window of at most [`LARGEST_WINDOW`] blocks is one write request in the sense of [`crate::crypto`]: it draws a
//! fresh 96-bit start and counts up from it, and after 2^31 windows the next generation begins. The header counts the
//! windows as requests, so that later writes go on from there. A second attempt under the same new key draws new
//! starts.

use zeroize::Zeroizing;

use super::block::{self, BlockHead};
use super::disk::BackingFile;
use super::error::{Attempt, Result, VolumeError};
use super::header::{FileId, Header, Page, SPARSE, WrappedKey, is_zero};
use super::keys::{FileKeys, VolumeKeys};
use super::layout::{BLOCK, PAGE, block_len, blocks_for, size_of_stat};
use super::names::{DirId, NATIVE_XATTRS, StoredName, XATTR_PREFIX};
use crate::crypto::{AeadKey, NonceRun, mac};

/// Blocks that are read, opened, sealed and handed on at once: what a core's cache holds from the first step to the last.
pub const WINDOW: u64 = 64;
/// The most of them: where each reading costs a request, fewer and larger ones do.
pub const LARGEST_WINDOW: u64 = 272;
/// Windows under one generation of the content key.
const GENERATION: u64 = 1 << 31;
/// Windows that one unit of the header's counter stands for.
const UNIT: u64 = 1 << 16;
const PAGE_LEN: usize = PAGE as usize;

/// The file as it is.
pub struct Old<'a> {
    /// Page 0.
    pub page: &'a Page,
    /// What that says.
    pub header: &'a Header,
    /// The keys it is under.
    pub keys: &'a FileKeys,
    /// Length of the backing file.
    pub st_size: u64,
}

/// The file to be. Its length is the old one's.
pub struct New<'a> {
    /// The id from which `keys` are derived.
    pub file_id: FileId,
    /// The keys to come under, of a data key that has sealed nothing.
    pub keys: &'a FileKeys,
    /// That data key, wrapped.
    pub wrapped: Vec<WrappedKey>,
    /// Epoch in which the new file is finalised.
    pub epoch: u64,
}

/// Where the old pages are.
pub trait Source {
    /// Fills `pages`, whole ones, from page `first`; a page in a hole is zeros. Whole pages read: fewer only where
    /// the file ends.
    fn read(&mut self, first: u64, pages: &mut [u8]) -> Result<usize>;

    /// The first page at or after `page` that may hold data; None if there is none.
    fn next_data(&mut self, page: u64) -> Result<Option<u64>>;
}

impl Source for &dyn BackingFile {
    fn read(&mut self, first: u64, pages: &mut [u8]) -> Result<usize> {
        Ok(self.read_at(pages, first * PAGE).attempt("reading a file")? / PAGE_LEN)
    }

    fn next_data(&mut self, page: u64) -> Result<Option<u64>> {
        let found = BackingFile::next_data(*self, page * PAGE).attempt("looking for a file's data")?;
        Ok(found.map(|offset| offset / PAGE))
    }
}

/// Takes new pages: the number of the first, and whole pages from there. Numbers grow; what is left out is a hole.
pub type Sink<'a> = dyn FnMut(u64, &[u8]) -> Result<()> + 'a;

/// Buffers for one file after the other; one for each thread.
pub struct Transcoder {
    /// Blocks of one.
    window: u64,
    /// A page for the header, and a window.
    pages: Vec<u8>,
    plain: Zeroizing<Vec<u8>>,
}

impl Default for Transcoder {
    fn default() -> Self {
        Self::new(WINDOW)
    }
}

impl Transcoder {
    /// With windows of so many blocks, from [`WINDOW`] to [`LARGEST_WINDOW`].
    pub fn new(window: u64) -> Self {
        let window = window.clamp(WINDOW, LARGEST_WINDOW);
        let pages = vec![0; (1 + window) as usize * PAGE_LEN];
        Self { window, pages, plain: Zeroizing::new(vec![0; BLOCK as usize]) }
    }

    /// Re-encrypts one file. `old.page` is authenticated here. Answers the new header.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`] with the block that is; whatever `source` and `sink` answer.
    pub fn file(&mut self, old: &Old, new: New, source: &mut dyn Source, sink: &mut Sink) -> Result<Header> {
        old.header.verify(old.page, old.keys)?;
        let (size, st_size) = (old.header.size, old.st_size);
        if size_of_stat(st_size) != Some(size) {
            return Err(VolumeError::damaged(format!(
                "the file has {st_size} bytes, which do not hold {size}"
            )));
        }
        if mac::equal(old.keys.commitment(), new.keys.commitment()) {
            return Err(VolumeError::Invalid("re-encryption of a file under the key that it has"));
        }
        let blocks = blocks_for(size);
        // At most: holes are skipped, and windows then begin elsewhere, but each still stands for as many blocks.
        let windows = blocks.div_ceil(self.window);
        let last = windows.saturating_sub(1);
        let header = Header {
            flags: old.header.flags & SPARSE,
            // Both fit: MAX_SIZE has less than 2^44 windows.
            generation: (last / GENERATION) as u16,
            used: if windows == 0 { 0 } else { (last % GENERATION / UNIT + 1) as u16 },
            file_id: new.file_id,
            size,
            epoch: new.epoch,
            commitment: *new.keys.commitment(),
            keys: new.wrapped,
        };
        let sparse = header.flags & SPARSE != 0;
        self.pages[..PAGE_LEN].copy_from_slice(&header.encode(new.keys)?[..]);
        // Page 0 goes with the first window, so that a small file is handed on at once.
        let mut with_header = true;
        let mut opening = None;
        let (mut block, mut window) = (0, 0);
        while block < blocks {
            if sparse {
                let data = source.next_data(1 + block)?.map_or(blocks, |page| page.max(1 + block) - 1);
                if data >= blocks {
                    return Err(hole_at_the_end(blocks - 1));
                }
                block = data;
            }
            let count = (blocks - block).min(self.window);
            let pages = &mut self.pages[PAGE_LEN..][..count as usize * PAGE_LEN];
            let read = source.read(1 + block, pages)?;
            if (read as u64) < count {
                return Err(VolumeError::damaged(format!("block {} is cut off", block + read as u64)));
            }
            let generation = (window / GENERATION) as u16;
            let mut seal = Seal {
                opening: &mut opening,
                old: old.keys,
                key: &*new.keys.content(generation)?,
                generation,
                nonces: NonceRun::start()?,
                plain: &mut self.plain,
            };
            // Where pages that are not handed on yet begin, in pages of the buffer; page 0 of it is the header.
            let mut from = if with_header && block == 0 { 0 } else { 1 };
            if with_header && block > 0 {
                sink(0, &self.pages[..PAGE_LEN])?;
            }
            with_header = false;
            for i in 0..count {
                let (number, at) = (block + i, 1 + i as usize);
                let page = &mut self.pages[at * PAGE_LEN..][..PAGE_LEN];
                if is_zero(page) {
                    if !sparse {
                        return Err(VolumeError::damaged(format!("block {number} was zeroed")));
                    }
                    if number + 1 == blocks {
                        return Err(hole_at_the_end(number));
                    }
                    if from < at {
                        sink(block + from as u64, &self.pages[from * PAGE_LEN..at * PAGE_LEN])?;
                    }
                    from = at + 1;
                    continue;
                }
                seal.page(number, block_len(size, number), page)?;
            }
            let end = 1 + count as usize;
            if from < end {
                sink(block + from as u64, &self.pages[from * PAGE_LEN..end * PAGE_LEN])?;
            }
            block += count;
            window += 1;
        }
        if with_header {
            sink(0, &self.pages[..PAGE_LEN])?;
        }
        Ok(header)
    }
}

fn hole_at_the_end(block: u64) -> VolumeError {
    VolumeError::damaged(format!("block {block}, the last, was zeroed"))
}

/// One window.
struct Seal<'a> {
    /// The key of the block before, with its generation.
    opening: &'a mut Option<(u16, std::sync::Arc<AeadKey>)>,
    old: &'a FileKeys,
    key: &'a AeadKey,
    generation: u16,
    nonces: NonceRun,
    plain: &'a mut [u8],
}

impl Seal<'_> {
    /// One page, in its place.
    fn page(&mut self, number: u64, due: u64, page: &mut [u8]) -> Result<()> {
        let head = BlockHead::parse(page)
            .map_err(|_| VolumeError::damaged(format!("block {number} is none that kmsfs wrote")))?;
        if u64::from(head.len) != due {
            return Err(VolumeError::damaged(format!(
                "block {number} holds {} bytes instead of {due}",
                head.len
            )));
        }
        let key = match self.opening.take() {
            Some((generation, key)) if generation == head.generation => key,
            _ => self.old.content(head.generation)?,
        };
        block::open(&key, head, number, page, self.plain)?;
        *self.opening = Some((head.generation, key));
        let plain = &self.plain[..due as usize];
        Ok(block::seal(self.key, self.nonces.take(), number, self.generation, plain, page)?)
    }
}

/// What is under a volume's keys, brought under another's.
pub struct Rename<'a> {
    /// The keys it is under.
    pub from: &'a VolumeKeys,
    /// The keys to come under.
    pub to: &'a VolumeKeys,
}

impl Rename<'_> {
    /// An encrypted name (of a `long.` entry: the target of its link) of the directory `from`, which is to be `to`.
    pub fn name(&self, from: &DirId, to: &DirId, full: &[u8]) -> Result<StoredName> {
        self.to.encode_name(to, &self.from.decode_name(from, full)?)
    }

    /// The text of a symbolic link's target; where it stands in pieces, all of them together. The new one is as long, and
    /// the same whenever it is asked for: it keeps the nonce. Under one key that is as random as before, and AES-SIV takes
    /// no harm from one that comes twice.
    pub fn target(&self, text: &[u8]) -> Result<Vec<u8>> {
        let (nonce, target) = self.from.decode_target_text(text)?;
        self.to.encode_target_text(&nonce, &Zeroizing::new(target))
    }

    /// A file's or directory's attributes as the backing has them: name and value. `from` is the owner's id, `to` the
    /// one it is to have. ACLs stay; what is neither ours nor an ACL belongs to the backing and is left out.
    pub fn xattrs(
        &self,
        from: &[u8; 16],
        to: &[u8; 16],
        stored: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut out = Vec::with_capacity(stored.len());
        for (name, value) in stored {
            if NATIVE_XATTRS.contains(&&name[..]) {
                out.push((name.clone(), value.clone()));
            } else if name.starts_with(XATTR_PREFIX) {
                let plain = self.from.decode_xattr_name(name);
                let plain = plain.ok_or_else(|| {
                    VolumeError::damaged("the name of an extended attribute does not authenticate")
                })?;
                let value = Zeroizing::new(self.from.open_xattr(from, &plain, value)?);
                out.push((self.to.encode_xattr_name(&plain)?, self.to.seal_xattr(to, &plain, &value)?));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
