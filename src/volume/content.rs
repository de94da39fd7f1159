//! The content of one open file: plaintext offsets in, pages out. One [`Content`] per backing file, shared by
//! all who hold it open.
//!
//! What a power cut leaves at any moment: pages are written whole, the length grows before the pages that
//! need it, and a file of an unfinished epoch is excused until it is mended (docs/format.md, "After a
//! crash"). Pages are locked by range; page 0 is the header.

mod settle;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::block::{self, BlockHead};
use super::disk::{BackingFile, Change};
use super::error::{Attempt, Result, VolumeError};
use super::header::{Header, Page, SPARSE, is_zero};
use super::keys::FileKeys;
use super::layout::{
    BLOCK, MAX_SIZE, PAGE, block_len, block_of, blocks_for, page_end, page_offset, size_of_stat, stat_size,
};
use super::locks::{RangeGuard, RangeLocks};
use crate::crypto::{AeadKey, NonceRun};

/// Blocks that are read or written with one call; larger requests are cut.
const BATCH: u64 = 272;
/// Write requests that one unit of the header's counter stands for.
const UNIT: u32 = 1 << 16;
/// Units after which a generation ends: 2^31 requests.
const MAX_UNITS: u16 = 1 << 15;
const ALL: Range<u64> = 0..u64::MAX;

thread_local! {
    /// Ciphertext of one request.
    static PAGES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A file's content, open.
pub struct Content {
    /// Replaced when a file that was opened for reading is opened for writing.
    file: RwLock<Arc<dyn BackingFile>>,
    /// None once the file was shredded: from then on nothing of it is read or written, no header either.
    keys: RwLock<Option<Arc<FileKeys>>>,
    /// Epoch of this mount.
    epoch: u64,
    /// What a crash cut is read as it is: the file cannot be mended on a read-only mount.
    excused: bool,
    locks: RangeLocks,
    state: Mutex<State>,
}

struct State {
    /// As it shall stand on disk.
    header: Header,
    /// As it stands there; None before the first write.
    on_disk: Option<Header>,
    /// Plaintext bytes.
    size: u64,
    /// st_size.
    stat_len: u64,
    /// Blocks that are in no page yet, [start, end).
    gaps: BTreeMap<u64, u64>,
    /// Write requests that the header's counter still covers.
    covered: u32,
    /// ctime or header say on the medium that this epoch has changed the file: a crash excuses it.
    traced: bool,
}

impl State {
    /// True if a page of zeros is no damage there.
    fn may_be_hole(&self, number: u64) -> bool {
        self.header.flags & SPARSE != 0
            || self.gaps.range(..=number).next_back().is_some_and(|g| number < *g.1)
    }
}

impl Content {
    /// A new, empty backing file; nothing is written before the first write or the finalising.
    pub fn create(file: Arc<dyn BackingFile>, keys: Arc<FileKeys>, header: Header) -> Self {
        let epoch = header.epoch;
        let gaps = BTreeMap::new();
        let state = State { header, on_disk: None, size: 0, stat_len: 0, gaps, covered: 0, traced: true };
        Self::new(file, keys, epoch, false, state)
    }

    /// A finalised file: its header, page 0 from which that was parsed, and the length must agree.
    pub fn open(
        file: Arc<dyn BackingFile>,
        keys: Arc<FileKeys>,
        header: Header,
        page: &Page,
        epoch: u64,
    ) -> Result<Self> {
        let stat_len = file.len().attempt("asking for a file's length")?;
        Self::open_of_length(file, stat_len, keys, header, page, epoch)
    }

    /// The same, where the length of the backing file is known.
    pub fn open_of_length(
        file: Arc<dyn BackingFile>,
        stat_len: u64,
        keys: Arc<FileKeys>,
        header: Header,
        page: &Page,
        epoch: u64,
    ) -> Result<Self> {
        header.verify(page, &keys)?;
        if size_of_stat(stat_len) != Some(header.size) {
            let size = header.size;
            return Err(VolumeError::damaged(format!(
                "the file has {stat_len} bytes, which do not hold {size}"
            )));
        }
        let (on_disk, traced, gaps) = (Some(header.clone()), header.epoch == epoch, BTreeMap::new());
        let state = State { size: header.size, header, on_disk, stat_len, gaps, covered: 0, traced };
        Ok(Self::new(file, keys, epoch, false, state))
    }

    /// For reading only: a file that a crash may have cut, of the size that [`super::mend::examine`] found.
    pub fn open_excused(
        file: Arc<dyn BackingFile>,
        keys: Arc<FileKeys>,
        header: Header,
        page: &Page,
        size: u64,
    ) -> Result<Self> {
        header.verify(page, &keys)?;
        let stat_len = file.len().attempt("asking for a file's length")?;
        let (on_disk, epoch, gaps) = (Some(header.clone()), header.epoch, BTreeMap::new());
        let state = State { size, header, on_disk, stat_len, gaps, covered: 0, traced: false };
        Ok(Self::new(file, keys, epoch, true, state))
    }

    fn new(file: Arc<dyn BackingFile>, keys: Arc<FileKeys>, epoch: u64, excused: bool, state: State) -> Self {
        let (file, keys, state) = (RwLock::new(file), RwLock::new(Some(keys)), Mutex::new(state));
        Self { file, keys, epoch, excused, locks: RangeLocks::default(), state }
    }

    /// The backing file.
    pub fn file(&self) -> Arc<dyn BackingFile> {
        self.file.read().clone()
    }

    /// The same backing file, opened for writing where it was for reading.
    pub fn set_file(&self, file: Arc<dyn BackingFile>) {
        *self.file.write() = file;
    }

    /// Nobody has it open any more: see [`FileKeys::rest`].
    pub fn rest(&self) {
        if let Some(keys) = &*self.keys.read() {
            keys.rest();
        }
    }

    /// Its keys, to be asked for before anything changes.
    fn keys(&self) -> Result<Arc<FileKeys>> {
        self.keys.read().clone().ok_or(VolumeError::Shredded)
    }

    /// True once its keys were destroyed.
    pub fn is_shredded(&self) -> bool {
        self.keys.read().is_none()
    }

    /// Plaintext bytes.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// What the header says, or will say.
    pub fn header(&self) -> Header {
        self.state.lock().header.clone()
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() || offset >= MAX_SIZE {
            return Ok(0);
        }
        let wished = offset.saturating_add(buf.len() as u64).min(MAX_SIZE);
        let _guard = self.locks.shared(pages(block_of(offset)..blocks_for(wished)));
        self.keys()?;
        let size = self.size();
        let end = wished.min(size);
        if offset >= end {
            return Ok(0);
        }
        let mut block = block_of(offset);
        while block * BLOCK < end {
            let last = blocks_for(end).min(block + BATCH);
            self.read_blocks(block..last, size, offset, end, buf)?;
            block = last;
        }
        Ok((end - offset) as usize)
    }

    /// Decrypts blocks whose pages are locked into the part of `buf` (plaintext from `offset`) they fill.
    fn read_blocks(
        &self,
        blocks: Range<u64>,
        size: u64,
        offset: u64,
        end: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        with_pages(&blocks, |cipher| {
            let read = self.file().read_at(cipher, page_offset(blocks.start)).attempt("reading a file")?;
            let mut key = None;
            for (i, page) in cipher.chunks(PAGE as usize).enumerate() {
                let number = blocks.start + i as u64;
                let start = number * BLOCK;
                let (from, to) = (start.max(offset), (start + BLOCK).min(end));
                let out = &mut buf[(from - offset) as usize..(to - offset) as usize];
                let page = if read >= (i + 1) * PAGE as usize { page } else { &[] };
                if out.len() == BLOCK as usize {
                    self.open_block(number, size, page, out, &mut key)?;
                } else {
                    let mut plain = [0; BLOCK as usize];
                    self.open_block(number, size, page, &mut plain, &mut key)?;
                    out.copy_from_slice(&plain[(from - start) as usize..(to - start) as usize]);
                }
            }
            Ok(())
        })
    }

    /// One block into 4064 bytes, zeros behind its length; `known` is the key of the block before. What a file holds is not wiped from memory as keys are: the
    /// kernel's page cache has it too, and wiping each block took a quarter of a small write's time.
    fn open_block(
        &self,
        number: u64,
        size: u64,
        page: &[u8],
        plain: &mut [u8],
        known: &mut Option<(u16, Arc<AeadKey>)>,
    ) -> Result<()> {
        if is_zero(page) {
            if !self.state.lock().may_be_hole(number) {
                let what = if page.is_empty() { "is cut off" } else { "was zeroed" };
                return Err(VolumeError::damaged(format!("block {number} {what}")));
            }
            plain.fill(0);
            return Ok(());
        }
        let head = BlockHead::parse(page)?;
        let due = block_len(size, number);
        let key = match known.take() {
            Some((generation, key)) if generation == head.generation => key,
            _ => self.keys()?.content(head.generation)?,
        };
        block::open(&key, head, number, page, plain)?;
        *known = Some((head.generation, key));
        if self.excused {
            return Ok(());
        }
        if u64::from(head.len) != due {
            plain.fill(0);
            return Err(VolumeError::damaged(format!(
                "block {number} holds {} bytes instead of {due}",
                head.len
            )));
        }
        Ok(())
    }

    /// Writes all of `data`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > MAX_SIZE) {
            return Err(VolumeError::TooLarge);
        }
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            // Cut at a block's end, so that no block is written twice.
            let room = (block_of(offset) + BATCH) * BLOCK - offset;
            let (now, later) = data.split_at(data.len().min(room as usize));
            self.write_batch(offset, now)?;
            offset += now.len() as u64;
            data = later;
        }
        Ok(())
    }

    fn write_batch(&self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        let blocks = block_of(offset)..blocks_for(end);
        let (_guard, before) = self.reserve(&blocks, offset, end)?;
        let written = self.write_reserved(&blocks, offset, data, before);
        if written.is_err() && end > before {
            self.take_back(&blocks, before, end);
        }
        written
    }

    /// Locks what a write needs, and grows the file for it. Answers the size before.
    fn reserve(&self, blocks: &Range<u64>, offset: u64, end: u64) -> Result<(RangeGuard<'_>, u64)> {
        self.keys()?;
        self.write_header_first()?;
        let size = self.size();
        if end > size && !size.is_multiple_of(BLOCK) {
            self.leave_trace()?;
        }
        loop {
            // A write beyond a partial tail block fills that up: it is written too.
            let seen = self.size();
            let first = tail_to_fill(seen, offset).unwrap_or(blocks.start).min(blocks.start);
            let guard = self.locks.exclusive(pages(first..blocks.end));
            let mut state = self.state.lock();
            if tail_to_fill(state.size, offset).is_some_and(|tail| tail < first) {
                continue;
            }
            let before = state.size;
            self.count_request(&mut state)?;
            if end > before {
                let old_blocks = blocks_for(before);
                let due = page_end(blocks.end.max(old_blocks));
                if state.stat_len != due {
                    self.file().set_len(due).attempt("growing a file")?;
                    state.stat_len = due;
                }
                if blocks.start > old_blocks {
                    state.gaps.insert(old_blocks, blocks.start);
                }
                state.size = end;
            }
            return Ok((guard, before));
        }
    }

    fn count_request(&self, state: &mut State) -> Result<()> {
        if state.covered == 0 {
            if state.header.used >= MAX_UNITS {
                state.header.next_generation()?;
            }
            state.header.used += 1;
            state.covered = UNIT;
        }
        state.covered -= 1;
        Ok(())
    }

    fn write_reserved(&self, blocks: &Range<u64>, offset: u64, data: &[u8], before: u64) -> Result<()> {
        let (generation, size) = {
            let state = self.state.lock();
            (state.header.generation, state.size)
        };
        let end = offset + data.len() as u64;
        let key = self.keys()?.content(generation)?;
        let mut nonces = NonceRun::start()?;
        with_pages(blocks, |cipher| {
            // The usual small write changes a part of two blocks: they are read with one call.
            let pair = blocks.end - blocks.start == 2 && blocks.end <= blocks_for(before);
            let what = "reading blocks to change them";
            let read_before =
                pair && self.file().read_at(cipher, page_offset(blocks.start)).attempt(what)? == cipher.len();
            for (number, page) in blocks.clone().zip(cipher.chunks_mut(PAGE as usize)) {
                let start = number * BLOCK;
                // Bytes of the block after this write; only the last block is not full.
                let due = block_len(size, number) as usize;
                let (from, to) = (start.max(offset), (start + BLOCK).min(end));
                let new = &data[(from - offset) as usize..(to - offset) as usize];
                if new.len() == due {
                    block::seal(&key, nonces.take(), number, generation, new, page)?;
                } else {
                    let mut plain = [0; BLOCK as usize];
                    if read_before {
                        self.open_block(number, before, page, &mut plain, &mut None)?;
                    } else {
                        self.read_old(number, before, &mut plain)?;
                    }
                    plain[(from - start) as usize..(to - start) as usize].copy_from_slice(new);
                    block::seal(&key, nonces.take(), number, generation, &plain[..due], page)?;
                }
            }
            self.put_pages(blocks.clone(), before, cipher)
        })?;
        // The old tail comes last: if the write fails before it, taking back the growth leaves it right.
        if let Some(tail) = tail_to_fill(before, offset).filter(|tail| *tail < blocks.start) {
            let mut plain = [0; BLOCK as usize];
            self.read_old(tail, before, &mut plain)?;
            let mut page = [0; PAGE as usize];
            block::seal(&key, nonces.take(), tail, generation, &plain, &mut page)?;
            self.put_pages(tail..tail + 1, before, &page)?;
        }
        Ok(())
    }

    /// Plaintext of a block in a file of `before` bytes, before it is rewritten; zeros beyond that size. Not
    /// through [`PAGES`], which a caller may hold.
    fn read_old(&self, number: u64, before: u64, plain: &mut [u8]) -> Result<()> {
        if number >= blocks_for(before) {
            plain.fill(0);
            return Ok(());
        }
        let mut page = [0; PAGE as usize];
        let read =
            self.file().read_at(&mut page, page_offset(number)).attempt("reading a block to change it")?;
        self.open_block(number, before, if read == page.len() { &page } else { &[] }, plain, &mut None)
    }

    /// Writes pages that are locked; those of a file of `before` bytes are rewritten, so their writeback is
    /// awaited: the kernel may otherwise write a page while it changes.
    fn put_pages(&self, blocks: Range<u64>, before: u64, cipher: &[u8]) -> Result<()> {
        let old = blocks.end.min(blocks_for(before)).saturating_sub(blocks.start);
        if old > 0 {
            let waited = self.file().wait_writeback(page_offset(blocks.start), old * PAGE);
            waited.attempt("waiting for a block's writeback")?;
        }
        self.file().write_at(cipher, page_offset(blocks.start)).attempt("writing a file")?;
        fill_gaps(&mut self.state.lock().gaps, &blocks);
        Ok(())
    }

    /// A write that grew the file failed, maybe after a part of it: its growth goes, or, if somebody has grown
    /// the file further, what it did not write is a hole. What was the tail gets the length that is due again.
    fn take_back(&self, blocks: &Range<u64>, before: u64, end: u64) {
        let old_blocks = blocks_for(before);
        let mut state = self.state.lock();
        if state.size == end && self.file().set_len(page_end(old_blocks)).is_ok() {
            state.stat_len = page_end(old_blocks);
            state.size = before;
            cut_gaps(&mut state.gaps, old_blocks);
        } else if blocks.end > old_blocks {
            state.gaps.insert(blocks.start.max(old_blocks), blocks.end);
        }
        let (size, generation) = (state.size, state.header.generation);
        drop(state);
        if !before.is_multiple_of(BLOCK) {
            // Best effort: the error that counts is the write's.
            let _ = self.refit(old_blocks - 1, block_len(size, old_blocks - 1), generation);
        }
    }

    /// Gives a block, whose page is locked, this length where it has another: cut, or zeros behind it.
    fn refit(&self, number: u64, due: u64, generation: u16) -> Result<()> {
        let what = "mending a block after a write failed";
        let mut page = [0; PAGE as usize];
        let read = self.file().read_at(&mut page, page_offset(number)).attempt(what)?;
        if is_zero(&page[..read]) {
            return Ok(());
        }
        let head = BlockHead::parse(&page[..read])?;
        if u64::from(head.len) == due {
            return Ok(());
        }
        let mut plain = [0; BLOCK as usize];
        block::open(&*self.keys()?.content(head.generation)?, head, number, &page[..read], &mut plain)?;
        let (key, mut nonces) = (self.keys()?.content(generation)?, NonceRun::start()?);
        block::seal(&key, nonces.take(), number, generation, &plain[..due as usize], &mut page)?;
        self.file().wait_writeback(page_offset(number), PAGE).attempt(what)?;
        self.file().write_at(&page, page_offset(number)).attempt(what)
    }

    /// truncate(2): cuts, or grows by zeros.
    pub fn set_size(&self, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(VolumeError::TooLarge);
        }
        self.keys()?;
        self.write_header_first()?;
        let before = self.size();
        if size > before {
            // The last block is always a real page: its authenticated length tells the size after a crash.
            return self.write_batch(size - 1, &[0]);
        }
        if size < before && !size.is_multiple_of(BLOCK) {
            self.leave_trace()?;
        }
        let _guard = self.locks.exclusive(ALL);
        let mut state = self.state.lock();
        let before = state.size;
        if size >= before {
            return Ok(());
        }
        let kept = blocks_for(size);
        // A tail that gets shorter is written anew; so is one that may be a hole, which a last block never is.
        let tail = kept
            .checked_sub(1)
            .filter(|&tail| block_len(size, tail) != block_len(before, tail) || state.may_be_hole(tail));
        if tail.is_some() {
            self.count_request(&mut state)?;
        }
        let generation = state.header.generation;
        drop(state);
        // The tail's old content is read before anything changes; then: cut, write the tail.
        let mut page = [0; PAGE as usize];
        if let Some(tail) = tail {
            let (key, mut nonces) = (self.keys()?.content(generation)?, NonceRun::start()?);
            let len = block_len(size, tail) as usize;
            let mut plain = [0; BLOCK as usize];
            self.read_old(tail, before, &mut plain)?;
            block::seal(&key, nonces.take(), tail, generation, &plain[..len], &mut page)?;
        }
        self.file().set_len(page_end(kept)).attempt("cutting a file")?;
        {
            let mut state = self.state.lock();
            state.stat_len = page_end(kept);
            state.size = size;
            cut_gaps(&mut state.gaps, kept);
        }
        if let Some(tail) = tail {
            let written = self.put_pages(tail..kept, size, &page);
            if written.is_err() {
                // The tail is as it was: so much of the file is left.
                self.state.lock().size = before.min(kept * BLOCK);
            }
            return written;
        }
        Ok(())
    }
}

/// Lends this thread's buffer for the ciphertext of `blocks`.
fn with_pages<T>(blocks: &Range<u64>, f: impl FnOnce(&mut [u8]) -> Result<T>) -> Result<T> {
    let len = ((blocks.end - blocks.start) * PAGE) as usize;
    PAGES.with_borrow_mut(|cipher| {
        if cipher.len() < len {
            cipher.resize(len, 0);
        }
        f(&mut cipher[..len])
    })
}

/// The partial last block that a write at `offset` leaves behind, and so fills up.
fn tail_to_fill(size: u64, offset: u64) -> Option<u64> {
    let tail = blocks_for(size).checked_sub(1)?;
    (!size.is_multiple_of(BLOCK) && offset > size).then_some(tail)
}

/// Lock range of blocks.
fn pages(blocks: Range<u64>) -> Range<u64> {
    blocks.start + 1..blocks.end + 1
}

/// Takes written blocks out of the gaps.
fn fill_gaps(gaps: &mut BTreeMap<u64, u64>, blocks: &Range<u64>) {
    while let Some((&start, &end)) = gaps.range(..blocks.end).next_back().filter(|g| *g.1 > blocks.start) {
        gaps.remove(&start);
        if start < blocks.start {
            gaps.insert(start, blocks.start);
        }
        if end > blocks.end {
            gaps.insert(blocks.end, end);
        }
    }
}

/// Forgets gaps behind the end.
fn cut_gaps(gaps: &mut BTreeMap<u64, u64>, blocks: u64) {
    gaps.split_off(&blocks);
    if let Some(mut last) = gaps.last_entry() {
        let end = (*last.get()).min(blocks);
        last.insert(end);
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::HostDir;
    use super::super::sample;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    struct Bench {
        temp: tempfile::TempDir,
        keys: Arc<FileKeys>,
    }

    impl Bench {
        fn new() -> Self {
            Self { temp: tempfile::tempdir().unwrap(), keys: sample::keys() }
        }

        fn create(&self) -> Content {
            let file = HostDir::open(self.temp.path()).unwrap().create_file(b"f", 0o600).unwrap();
            Content::create(file, self.keys.clone(), sample::header(&self.keys))
        }

        fn open(&self) -> Result<Content> {
            let file = HostDir::open(self.temp.path()).unwrap().open_file(b"f", true).unwrap();
            let mut page = [0; PAGE as usize];
            file.read_at(&mut page, 0).unwrap();
            Content::open(file, self.keys.clone(), Header::parse(&page)?, &page, 2)
        }
    }

    fn all(content: &Content) -> Result<Vec<u8>> {
        let mut out = vec![0xee; content.size() as usize + 10];
        let read = content.read(0, &mut out)?;
        out.truncate(read);
        Ok(out)
    }

    #[derive(Debug, Clone)]
    enum Op {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Read(u64, usize),
        Sync,
        Reopen,
    }

    fn op() -> impl Strategy<Value = Op> {
        let near = prop_oneof![
            0..20_000u64,
            (0..6u64, 0..3u64).prop_map(|(n, d)| (n * BLOCK + d).saturating_sub(1))
        ];
        let bytes = prop_oneof![vec(any::<u8>(), 1..40), vec(any::<u8>(), 4000..9000)];
        prop_oneof![
            4 => (near.clone(), bytes).prop_map(|(at, data)| Op::Write(at, data)),
            2 => near.clone().prop_map(Op::Truncate),
            2 => (near, 0..9000usize).prop_map(|(at, len)| Op::Read(at, len)),
            1 => Just(Op::Sync),
            1 => Just(Op::Reopen),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_vector_of_bytes(ops in vec(op(), 1..40)) {
            let bench = Bench::new();
            let (mut content, mut model) = (bench.create(), Vec::new());
            for op in ops {
                match op {
                    Op::Write(at, data) => {
                        let end = at as usize + data.len();
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&data);
                        content.write(at, &data).unwrap();
                    }
                    Op::Truncate(size) => {
                        model.resize(size as usize, 0);
                        content.set_size(size).unwrap();
                    }
                    Op::Read(at, len) => {
                        let mut buf = vec![0; len];
                        let read = content.read(at, &mut buf).unwrap();
                        let start = (at as usize).min(model.len());
                        prop_assert_eq!(&buf[..read], &model[start..(start + len).min(model.len())]);
                    }
                    Op::Sync => content.sync(true).unwrap(),
                    Op::Reopen => {
                        content.finalise().unwrap();
                        content = bench.open().unwrap();
                    }
                }
                prop_assert_eq!(content.size(), model.len() as u64);
            }
            prop_assert_eq!(&all(&content).unwrap(), &model);
            content.finalise().unwrap();
            prop_assert_eq!(&all(&bench.open().unwrap()).unwrap(), &model);
        }
    }

    #[test]
    fn damage_is_an_error_and_never_wrong_bytes() {
        let bench = Bench::new();
        let content = bench.create();
        content.write(0, &[7; 3 * BLOCK as usize + 5]).unwrap();
        content.finalise().unwrap();
        let path = bench.temp.path().join("f");
        let good = std::fs::read(&path).unwrap();
        let check = |bytes: Vec<u8>| {
            std::fs::write(&path, bytes).unwrap();
            let result = bench.open().and_then(|content| all(&content));
            assert!(matches!(result, Err(VolumeError::Damaged { .. })), "{:?}", result.map(|b| b.len()));
        };
        for page in 0..5 {
            let range = page * 4096..(page + 1) * 4096;
            let mut changed = good.clone();
            changed[range.start + 60] ^= 1;
            check(changed);
            let mut zeroed = good.clone();
            zeroed[range].fill(0);
            check(zeroed);
        }
        let mut swapped = good.clone();
        let (left, right) = swapped.split_at_mut(2 * 4096);
        left[4096..].swap_with_slice(&mut right[..4096]);
        check(swapped);
        check(good[..good.len() - 1].to_vec());
        check(good[..3 * 4096].to_vec());
        check(good[..100].to_vec());
    }

    #[test]
    fn writers_in_parallel_fill_each_others_gaps() {
        let bench = Bench::new();
        let content = bench.create();
        let data: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (content, data) = (&content, &data);
                scope.spawn(move || {
                    for (i, chunk) in
                        data.chunks(4096).enumerate().filter(|(i, _)| i % 4 == thread).rev_pairs()
                    {
                        content.write(i as u64 * 4096, chunk).unwrap();
                    }
                });
            }
        });
        content.sync(true).unwrap();
        content.finalise().unwrap();
        assert_eq!(content.header().flags, 0, "no gap is left");
        assert!(all(&bench.open().unwrap()).unwrap() == data);
    }

    trait RevPairs: Iterator + Sized {
        /// Swaps neighbours, so that requests come out of order as the kernel's writeback does.
        fn rev_pairs(self) -> std::vec::IntoIter<Self::Item> {
            let mut items: Vec<_> = self.collect();
            items.chunks_mut(2).for_each(<[_]>::reverse);
            items.into_iter()
        }
    }

    impl<I: Iterator> RevPairs for I {}
}
