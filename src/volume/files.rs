//! Opening files: who may, and what is there. Reading, writing, closing.

use std::io;
use std::sync::Arc;

use super::attrs::Place;
use super::content::Content;
use super::core::{Core, OpenHandle};
use super::disk::{BackingFile, Change, Dir, Stat, Time};
use super::error::{Attempt, Result, VolumeError};
use super::file::File;
use super::header::{Header, Page, is_zero};
use super::keys::{DataKey, FileKeys, SharedKey};
use super::layout::{BLOCK, PAGE, size_of_stat, whole_blocks};
use super::mend;
use super::names::XATTR_PREFIX;
use super::nodes::{Directory, Link, Node};
use super::types::{Attr, Caller, HandleId, NodeId, OpenMode};
use crate::crypto::Secret;
use crate::kms::FileEvent;

/// Page 0 of a backing file, with what it says; None for a file without a header.
pub(super) fn read_header(file: &dyn BackingFile) -> Result<(Box<Page>, Option<Header>)> {
    let mut page = Box::new([0; PAGE as usize]);
    let read = file.read_at(&mut page[..], 0).attempt("reading a file's header")?;
    let header = if is_zero(&page[..read]) { None } else { Some(Header::parse(&page[..read])?) };
    Ok((page, header))
}

impl Core {
    /// Asks the key service for a file's key. The first wrapped key that it opens and that the commitment
    /// confirms counts.
    pub(super) fn ask_for_key(&self, header: &Header) -> Result<Arc<FileKeys>> {
        // Not under the lock: a key service may be far away.
        let opens = self.opens.read().clone();
        Ok(Arc::new(FileKeys::unwrap(&*self.service, &opens, &self.keys, header)?))
    }

    /// A file's key for somebody who opens it: inside a live lease without asking, which is recorded.
    fn keys_for(&self, caller: Caller, header: &Header) -> Result<Arc<FileKeys>> {
        let mark = self.leases.mark();
        if let Some(keys) = self.leases.get(&header.file_id) {
            let event = FileEvent::OpenFile {
                volume_id: self.volume_id(),
                file_id: hex::encode(header.file_id),
                key_arn: header.keys.first().map(|k| k.key_arn.clone()).unwrap_or_default(),
                uid: caller.uid,
            };
            self.record(event, self.options.audit_opens_sync)?;
            return Ok(keys);
        }
        let keys = self.ask_for_key(header)?;
        self.leases.put(header.file_id, keys.clone(), mark);
        Ok(keys)
    }

    /// A new file's key and header. Nothing is in the backing yet.
    fn new_keys(&self) -> Result<(Arc<FileKeys>, Header)> {
        let mark = self.leases.mark();
        let SharedKey { file_id, data, wrapped } = self.pool.take(&*self.service)?;
        let keys = Arc::new(FileKeys::derive(data, &self.keys, &file_id)?);
        self.leases.put(file_id, keys.clone(), mark);
        let header = Header {
            flags: 0,
            generation: 0,
            used: 0,
            file_id,
            size: 0,
            epoch: self.epoch_number,
            commitment: *keys.commitment(),
            keys: wrapped,
        };
        Ok((keys, header))
    }

    /// True if a crash may have cut a file with this header. What this mount finalised is what it says.
    fn is_excused(&self, header: &Header, ctime: Time) -> bool {
        let epoch = self.epoch.lock();
        (self.options.read_only || header.epoch != self.epoch_number)
            && (epoch.excuses_header(header) || epoch.excuses_time(ctime))
    }

    /// Plaintext bytes of a file that is not open, as stat tells them. What is damaged has its size guessed:
    /// opening it is what fails.
    pub(super) fn closed_size(&self, place: &Place, stat: &Stat) -> u64 {
        // Mending may have gone on since: the length may be of before, though all is mended now.
        let doubtful = place.mending && self.epoch.lock().may_have_touched(stat.ctime);
        match size_of_stat(stat.size) {
            Some(size) if !doubtful => size,
            said => {
                let examined = self.examined_size(&*place.directory.dir, place.entry, stat);
                examined.or(said).unwrap_or(whole_blocks(stat.size) * BLOCK)
            }
        }
    }

    fn examined_size(&self, dir: &dyn Dir, entry: &[u8], stat: &Stat) -> Option<u64> {
        let file = dir.open_file(entry, false).ok()?;
        match read_header(&*file).ok()?.1 {
            None => Some(0),
            Some(header) if self.is_excused(&header, stat.ctime) => {
                Some(mend::examine(&*file, &header).ok()?.size)
            }
            Some(header) => Some(header.size),
        }
    }

    /// The backing file of a node, its attributes, and whether it can be written to.
    fn open_backing(&self, node: &Node, write: bool) -> Result<(Arc<dyn BackingFile>, Stat, bool)> {
        self.at_link(node, |directory, link| {
            let wish = write || !self.options.read_only;
            let opened = match directory.dir.open_file(&link.entry, wish) {
                // A file that its owner may not write to, say.
                Err(e) if wish && !write && may_be_readable(&e) => {
                    directory.dir.open_file(&link.entry, false).map(|file| (file, false))
                }
                opened => opened.map(|file| (file, wish)),
            };
            let (file, writable) = opened.on_entry("opening a file")?;
            let stat = file.stat().attempt("asking for a file's attributes")?;
            if stat.ino == self.nodes.ino_of(node.id) {
                Ok((file, stat, writable))
            } else {
                Err(VolumeError::Stale)
            }
        })
    }

    /// Opens the content of a node that is not open; its `opening` is held.
    fn open_content(&self, caller: Caller, node: &Node, write: bool) -> Result<Arc<File>> {
        let (file, stat, writable) = self.open_backing(node, write)?;
        let (page, header) = read_header(&*file).inspect_err(|e| self.tell_damage(None, e))?;
        let file_id = header.as_ref().map(|h| hex::encode(h.file_id));
        let content = match header {
            Some(header) => self.open_with_header(caller, file, writable, &stat, (header, &page)),
            None => self.open_without_header(file, writable, &stat),
        };
        let content = content.inspect_err(|e| self.tell_damage(file_id, e))?;
        Ok(Arc::new(File::new(node.id, content, writable, stat.perm)))
    }

    fn open_with_header(
        &self,
        caller: Caller,
        file: Arc<dyn BackingFile>,
        writable: bool,
        stat: &Stat,
        (header, page): (Header, &Page),
    ) -> Result<Content> {
        let keys = self.keys_for(caller, &header)?;
        if !self.is_excused(&header, stat.ctime) {
            return Content::open_of_length(file, stat.size, keys, header, page, self.epoch_number);
        }
        if !writable {
            let size = mend::examine(&*file, &header)?.size;
            return Content::open_excused(file, keys, header, page, size);
        }
        let file_id = hex::encode(header.file_id);
        // Whoever changes a file may wait for it to be opened.
        let _change = self.gate.enter_again();
        let (content, size_before) = mend::mend(file, keys, header, page, self.epoch_number)?;
        let (volume_id, size_after) = (self.volume_id(), content.size());
        self.record(FileEvent::MendFile { volume_id, file_id, size_before, size_after }, false)?;
        Ok(content)
    }

    /// An empty file, if a crash excuses it.
    fn open_without_header(
        &self,
        file: Arc<dyn BackingFile>,
        writable: bool,
        stat: &Stat,
    ) -> Result<Content> {
        if !self.epoch.lock().excuses_time(stat.ctime) {
            return Err(VolumeError::damaged("the file has no header"));
        }
        if !writable {
            // Nothing will be written under this key.
            let keys = Arc::new(FileKeys::derive(DataKey(Secret::generate()?), &self.keys, &[0; 16])?);
            let header = Header {
                flags: 0,
                generation: 0,
                used: 0,
                file_id: [0; 16],
                size: 0,
                epoch: self.epoch_number,
                commitment: *keys.commitment(),
                keys: Vec::new(),
            };
            return Ok(Content::create(file, keys, header));
        }
        // As above. Inside, so that it is the key that new files have now.
        let _change = self.gate.enter_again();
        let (keys, header) = self.new_keys()?;
        let what = "starting an empty file anew";
        file.set_len(0).and_then(|()| file.sync()).attempt(what)?;
        // Attributes are bound to the id that went with the header.
        for attr in file.list_xattr().attempt(what)?.iter().filter(|attr| attr.starts_with(XATTR_PREFIX)) {
            file.remove_xattr(attr).attempt(what)?;
        }
        let content = Content::create(file, keys, header);
        content.finalise()?;
        Ok(content)
    }

    /// One line and one event for damage that was met; other errors are their reader's.
    pub(super) fn tell_damage(&self, file_id: Option<String>, error: &VolumeError) {
        let VolumeError::Damaged { what } = error else { return };
        let file = file_id.as_deref().unwrap_or("unknown");
        tracing::error!(file, what, "damaged; restore the file from a backup");
        let event = FileEvent::DamagedFile { volume_id: self.volume_id(), file_id, what: what.clone() };
        if let Err(error) = self.record(event, false) {
            tracing::error!(%error, "the damage could not be recorded");
        }
    }

    /// Opens a regular file: the decision of the key service, or of a live lease.
    pub fn open_file(&self, caller: Caller, node: NodeId, mode: OpenMode) -> Result<HandleId> {
        if mode.write || mode.truncate {
            self.writable()?;
        }
        self.notice_changes()?;
        let node = self.nodes.get(node)?;
        let opening = node.opening.lock();
        let write = mode.write || mode.truncate;
        let file = match node.file() {
            Some(file) if file.content.is_shredded() => return Err(VolumeError::Shredded),
            Some(file) => {
                self.keys_for(caller, &file.content.header())?;
                if write && !file.is_writable() {
                    file.content.set_file(self.open_backing(&node, true)?.0);
                    file.set_writable();
                }
                file
            }
            None => {
                let file = self.open_existing(caller, &node, write)?;
                node.set_file(Some(file.clone()));
                file
            }
        };
        file.set_revoked(false);
        let handle = self.hand_out(node.clone(), file.clone(), write);
        drop(opening);
        if mode.truncate {
            let change = self.changing()?;
            let cut = file.content.set_size(0);
            let cut = cut.and_then(|()| if mode.kill_priv { file.drop_privileges() } else { Ok(()) });
            drop(change);
            if let Err(error) = cut {
                self.release(handle)?;
                return Err(error);
            }
        }
        Ok(handle)
    }

    pub(super) fn open_existing(&self, caller: Caller, node: &Node, write: bool) -> Result<Arc<File>> {
        match node.kind {
            super::disk::Kind::File => self.open_content(caller, node, write),
            super::disk::Kind::Directory => Err(VolumeError::IsDirectory),
            _ => Err(VolumeError::Invalid("only regular files have content here")),
        }
    }

    fn hand_out(&self, node: Arc<Node>, file: Arc<File>, write: bool) -> HandleId {
        file.enter(write);
        let handle = self.new_handle();
        self.files.write().insert(handle, Arc::new(OpenHandle { node, file, write }));
        handle
    }

    /// Creates a regular file (EEXIST if there) and opens it. Counts a lookup. `perm` has the umask applied;
    /// the process's own umask should be 0.
    pub fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        perm: u32,
        mode: OpenMode,
    ) -> Result<(Attr, HandleId)> {
        self.writable()?;
        self.notice_changes()?;
        let directory = self.directory(parent)?;
        let stored = self.keys.encode_name(&directory.id, name)?;
        let turn = self.pool.turn();
        let (mut keys, mut header) = self.new_keys()?;
        let _change = self.changing()?;
        // It may have been shredded while this one waited, and not be taken apart yet.
        let directory = self.directory(parent)?;
        if self.pool.turn() != turn {
            // Whoever has changed the key of new files does not find this one.
            (keys, header) = self.new_keys()?;
        }
        let _names = self.lock_directory(parent);
        let (file, mut stat) = self.with_long_name(&directory, &stored, || {
            let file = directory.dir.create_file(&stored.entry, perm).on_entry("creating a file")?;
            // Nobody has seen the file yet.
            let undo = |_: &io::Error| drop(directory.dir.unlink(&stored.entry));
            let stat = file.stat().inspect_err(undo).attempt("asking for a file's attributes")?;
            Ok((file, stat))
        })?;
        if let Some(change) = self.owner_of_new(caller, &directory, &stat, perm)? {
            let owned = file.change(&change).and_then(|()| file.stat());
            // Nobody has seen the file yet.
            let undo = |_: &io::Error| drop(directory.dir.unlink(&stored.entry));
            stat = owned.inspect_err(undo).attempt("giving a new file to its owner")?;
        }
        let link = Link { parent, entry: stored.entry };
        let node = self.nodes.remember(&stat, &link)?;
        let file = Arc::new(File::new(node.id, Content::create(file, keys, header), true, stat.perm));
        node.set_file(Some(file.clone()));
        let attr = self.attr(&node, stat, None)?;
        Ok((attr, self.hand_out(node, file, mode.write)))
    }

    /// What must change so that a new object belongs to its creator; None if it does. In a directory with
    /// sgid the group is the directory's.
    pub(super) fn owner_of_new(
        &self,
        caller: Caller,
        parent: &Directory,
        stat: &Stat,
        perm: u32,
    ) -> Result<Option<Change>> {
        if !self.options.chown_to_caller || (stat.uid, stat.gid) == (caller.uid, caller.gid) {
            return Ok(None);
        }
        let inherited = stat.gid != caller.gid
            && parent.dir.stat().attempt("asking for a directory's attributes")?.perm & 0o2000 != 0;
        let gid = (!inherited && stat.gid != caller.gid).then_some(caller.gid);
        let uid = (stat.uid != caller.uid).then_some(caller.uid);
        // chown clears suid and sgid.
        let perm = (perm & 0o6000 != 0 && stat.kind == super::disk::Kind::File).then_some(stat.perm);
        let change = Change { uid, gid, perm, ..Change::default() };
        Ok((uid.is_some() || gid.is_some()).then_some(change))
    }

    pub(super) fn handle(&self, handle: HandleId) -> Result<Arc<OpenHandle>> {
        self.files.read().get(&handle).cloned().ok_or(VolumeError::BadHandle)
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    pub fn read(&self, handle: HandleId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = &self.handle(handle)?.file;
        if file.is_revoked() {
            return Err(VolumeError::Revoked { file_id: hex::encode(file.id) });
        }
        let read = file.content.read(offset, buf);
        read.inspect_err(|e| self.tell_damage(Some(hex::encode(file.id)), e))
    }

    /// Writes all of `data`; with `kill_priv` clears suid, and sgid of a group-executable file. A handle keeps
    /// its authority to write: what the kernel writes back under it may be somebody else's.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8], kill_priv: bool) -> Result<()> {
        let open = self.handle(handle)?;
        if !open.write {
            return Err(VolumeError::BadHandle);
        }
        let _change = self.changing()?;
        if kill_priv {
            open.file.drop_privileges()?;
        }
        let written = open.file.content.write(offset, data);
        written.inspect_err(|e| self.tell_damage(Some(hex::encode(open.file.id)), e))
    }

    /// fsync, or fdatasync if `data_only`.
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        let open = self.handle(handle)?;
        if !open.file.is_writable() {
            return Ok(());
        }
        while !open.file.content.sync_settled(data_only)? {
            let _change = self.changing()?;
            open.file.content.settle_header()?;
        }
        Ok(())
    }

    /// close(2) of one descriptor. Nothing waits to be written here: an error has been told already.
    pub fn flush(&self, handle: HandleId) -> Result<()> {
        self.handle(handle).map(drop)
    }

    /// The last close; the last writer's finalises the file. A file that cannot be finalised stays open, so
    /// that the next close, or the unmount, tries again.
    pub fn release(&self, handle: HandleId) -> Result<()> {
        let open = self.files.write().remove(&handle).ok_or(VolumeError::BadHandle)?;
        let (node, file) = (&open.node, &open.file);
        let opening = node.opening.lock();
        let users = file.leave(open.write);
        if users.writers == 0 && file.is_writable() && !node.is_gone() {
            file.content.finalise()?;
        }
        if users.handles == 0 {
            file.content.rest();
            node.set_file(None);
            drop(opening);
            self.nodes.closed(node.id);
        }
        Ok(())
    }

    /// truncate(2) of a file, open or not. Through the gate already.
    pub(super) fn set_size(
        &self,
        caller: Caller,
        node: NodeId,
        handle: Option<HandleId>,
        size: u64,
        kill_priv: bool,
    ) -> Result<()> {
        let own = handle.filter(|&h| self.handle(h).is_ok_and(|open| open.write));
        let used = match own {
            Some(handle) => handle,
            None => {
                let mode = OpenMode { read: false, write: true, truncate: false, kill_priv: false };
                self.open_file(caller, node, mode)?
            }
        };
        let file = self.handle(used)?.file.clone();
        let cut = file.content.set_size(size);
        let cut = cut.and_then(|()| if kill_priv { file.drop_privileges() } else { Ok(()) });
        let closed = if own.is_none() { self.release(used) } else { Ok(()) };
        cut.and(closed).inspect_err(|e| self.tell_damage(Some(hex::encode(file.id)), e))
    }
}

fn may_be_readable(error: &io::Error) -> bool {
    use io::ErrorKind::{ExecutableFileBusy, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ExecutableFileBusy)
}
