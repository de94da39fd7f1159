//! What must be on the medium, and when: the header before the first block, a trace before a block changes its
//! length in place, the flag of holes before a sync, the final size at the last close.

use super::super::header::WrappedKey;
use super::super::{rewrap, shred};
use super::*;

impl Content {
    /// Before a block of an earlier epoch gets another length in its place: the disk may write the block before
    /// the metadata that tells of the change, and then nothing would excuse a length that does not fit. Once for
    /// each file and epoch.
    pub(super) fn leave_trace(&self) -> Result<()> {
        if self.state.lock().traced {
            return Ok(());
        }
        // As in fsync, no page changes while it is written.
        let _guard = self.locks.exclusive(ALL);
        let mut state = self.state.lock();
        if !state.traced {
            let due = page_end(blocks_for(state.size));
            let what = "telling the disk that a file changes";
            self.file().set_len(due).attempt(what)?;
            state.stat_len = due;
            self.file().sync_all().attempt(what)?;
            state.traced = true;
        }
        Ok(())
    }

    /// No block before its header: a file whose first page is zeros is an empty one after a crash.
    /// mtime changes, as it does with a write.
    pub(super) fn write_header_first(&self) -> Result<()> {
        if self.state.lock().on_disk.is_none() {
            let _guard = self.locks.exclusive(0..1);
            let mut state = self.state.lock();
            if state.on_disk.is_none() {
                self.put_header(&mut state)?;
                state.stat_len = state.stat_len.max(PAGE);
            }
        }
        Ok(())
    }

    /// A header for a file that has none, where nothing is written to the file: mtime is kept.
    pub fn ensure_header(&self) -> Result<()> {
        if self.state.lock().on_disk.is_some() {
            return Ok(());
        }
        if self.is_shredded() {
            return Ok(());
        }
        self.keeping_mtime(|| self.write_header_first())
    }

    fn keeping_mtime(&self, f: impl FnOnce() -> Result<()>) -> Result<()> {
        let mtime = self.file().stat().attempt("asking for a file's times")?.mtime;
        f()?;
        self.file().change(&Change::mtime(mtime)).attempt("keeping a file's times")
    }

    fn put_header(&self, state: &mut State) -> Result<()> {
        let page = state.header.encode(&*self.keys()?)?;
        self.file().wait_writeback(0, PAGE).attempt("waiting for a header's writeback")?;
        self.file().write_at(&page[..], 0).attempt("writing a file's header")?;
        state.on_disk = Some(state.header.clone());
        Ok(())
    }

    /// Puts other wrapped keys in the place of `old`, in memory and in the backing, there in one page write; `file` is the
    /// backing file, open for writing. False, and nothing done, if others stand there.
    pub fn set_wrapped(
        &self,
        old: &[WrappedKey],
        new: &[WrappedKey],
        file: &dyn BackingFile,
        keep_mtime: bool,
    ) -> Result<bool> {
        let _guard = self.locks.exclusive(0..1);
        let mut state = self.state.lock();
        if state.header.keys != old {
            return Ok(false);
        }
        // The rest of the page stays: what is to come into it is the finalising's.
        if let Some(on_disk) = &state.on_disk {
            let on_disk = Header { keys: new.to_vec(), ..on_disk.clone() };
            rewrap::put_page(file, &*on_disk.encode(&*self.keys()?)?, keep_mtime)?;
            state.on_disk = Some(on_disk);
        }
        state.header.keys = new.to_vec();
        Ok(true)
    }

    /// Destroys the file's keys, in memory and in the backing: `file` is the backing file, open for writing. What is being read
    /// or written is done first; nothing is afterwards. True if a header stood in the backing. After an error in writing there
    /// is nothing in memory all the same.
    pub fn shred(&self, file: &dyn BackingFile) -> Result<bool> {
        let _guard = self.locks.exclusive(ALL);
        let mut state = self.state.lock();
        // First: no header is written from here on, whatever comes of the rest.
        *self.keys.write() = None;
        state.header.keys.clear();
        if let Some(on_disk) = &mut state.on_disk {
            on_disk.keys.clear();
        }
        drop(state);
        shred::lose_keys(file).map(|lost| lost.is_some())
    }

    /// The header as a crash must find it: it is there, and tells of holes if there are any. mtime is kept.
    pub fn settle_header(&self) -> Result<()> {
        self.ensure_header()?;
        if !self.is_shredded() && self.needs_sparse_flag() {
            let _guard = self.locks.exclusive(0..1);
            let mut state = self.state.lock();
            state.header.flags |= SPARSE;
            self.keeping_mtime(|| self.put_header(&mut state))?;
        }
        Ok(())
    }

    /// fdatasync, or fsync: what was written is durable when this returns.
    pub fn sync(&self, data_only: bool) -> Result<()> {
        while !self.sync_settled(data_only)? {
            self.settle_header()?;
        }
        Ok(())
    }

    /// The same, which changes nothing; false, and not synced, if [`Self::settle_header`] has something to do.
    pub fn sync_settled(&self, data_only: bool) -> Result<bool> {
        // Held across the sync: no page changes while it is written.
        let _guard = self.locks.shared(ALL);
        // What a program believes to have written is not there any more.
        self.keys()?;
        if self.state.lock().on_disk.is_none() || self.needs_sparse_flag() {
            return Ok(false);
        }
        let synced = if data_only { self.file().sync() } else { self.file().sync_all() };
        synced.attempt("syncing a file").map(|()| true)
    }

    fn needs_sparse_flag(&self) -> bool {
        let state = self.state.lock();
        let flagged = state.on_disk.as_ref().is_some_and(|h| h.flags & SPARSE != 0);
        !state.gaps.is_empty() && !flagged
    }

    /// Final size and epoch into the header, r into st_size; skipped when already right. mtime is kept.
    pub fn finalise(&self) -> Result<()> {
        let _guard = self.locks.exclusive(ALL);
        if self.is_shredded() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let due = stat_size(state.size);
        let sparse = if state.gaps.is_empty() { 0 } else { SPARSE };
        let right = |header: &Header| header.size == state.size && header.flags & sparse == sparse;
        if state.stat_len == due && right(&state.header) && state.on_disk.as_ref() == Some(&state.header) {
            return Ok(());
        }
        let mut header = state.header.clone();
        header.size = state.size;
        header.flags |= sparse;
        // A header may reach the disk before the rest: without a trace of the change it excuses the file.
        if state.traced || state.header.size != state.size {
            header.epoch = self.epoch;
        }
        state.header = header;
        self.keeping_mtime(|| {
            self.put_header(&mut state)?;
            if state.stat_len != due {
                self.file().set_len(due).attempt("setting a file's final length")?;
                state.stat_len = due;
            }
            Ok(())
        })
    }
}
