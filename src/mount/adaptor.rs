//! The requests of the kernel, one by one. Nothing is decided here: a number becomes a type, the volume is
//! asked, its answer becomes a number.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::convert;
use super::errno::{Teller, errno};
use crate::volume::disk::{Change, Kind};
use crate::volume::{Attr, Caller, NodeId, Result, SetAttr, Volume, VolumeError};

/// How long the kernel believes names, their absence and attributes: for as long as it likes, because
/// nothing but this mount changes the tree.
const TTL: Duration = Duration::from_secs(3600);
/// The largest request, in bytes.
pub(crate) const MAX_REQUEST: u32 = 1 << 20;
/// Requests of readahead and writeback that may wait at once.
const MAX_BACKGROUND: u16 = 64;
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// Stands for an entry of a listing that has no attributes (it vanished, or is damaged): the entry shows,
/// the kernel refuses its impossible size and asks by lookup when somebody wants more. No node bears it.
const NO_NODE: NodeId = NodeId::MAX;

thread_local! {
    /// Plaintext of one read, kept for the next one.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct Adaptor {
    volume: Arc<Volume>,
    /// Set before the first request.
    notifier: Arc<OnceLock<Notifier>>,
    teller: Teller,
    isolate: bool,
}

impl Adaptor {
    pub(crate) fn new(volume: Arc<Volume>, notifier: Arc<OnceLock<Notifier>>, isolate: bool) -> Self {
        Self { volume, notifier, teller: Teller::default(), isolate }
    }

    /// Makes the kernel forget a file's attributes, after a request whose answer has none has cleared suid and
    /// sgid: it would show the old mode for a [`TTL`]. A negative offset leaves the pages alone, so that this
    /// waits for nothing; the request's own file is held by whoever asks.
    fn forget_mode(&self, ino: INodeNo) {
        if let Some(Err(error)) = self.notifier.get().map(|notifier| notifier.inval_inode(ino, -1, 0)) {
            tracing::debug!(%error, ino = ino.0, "the kernel keeps a file's attributes");
        }
    }

    /// The permissions of a new object: where the directory has a default ACL that takes the umask's place.
    fn perm(&self, parent: INodeNo, mode: u32, umask: u32) -> u32 {
        let inherits = mode & umask & 0o777 != 0 && self.volume.get_xattr(parent.0, DEFAULT_ACL).is_ok();
        convert::perm(mode, if inherits { 0 } else { umask })
    }

    fn open_flags(&self) -> FopenFlags {
        if self.isolate { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::FOPEN_KEEP_CACHE }
    }

    /// The number for a program, the line for the log.
    fn fail(&self, req: &Request, op: &'static str, node: Option<NodeId>, error: &VolumeError) -> Errno {
        self.teller.tell(&self.volume, op, node, req.uid(), error);
        Errno::from_i32(errno(error))
    }

    fn empty(&self, req: &Request, op: &'static str, ino: INodeNo, reply: ReplyEmpty, result: Result<()>) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(req, op, Some(ino.0), &error)),
        }
    }

    fn entry(&self, req: &Request, op: &'static str, ino: INodeNo, reply: ReplyEntry, result: Result<Attr>) {
        match result {
            Ok(attr) => reply.entry(&TTL, &convert::file_attr(&attr), Generation(attr.generation)),
            Err(error) => reply.error(self.fail(req, op, Some(ino.0), &error)),
        }
    }

    fn bytes(
        &self,
        req: &Request,
        op: &'static str,
        ino: INodeNo,
        size: u32,
        reply: ReplyXattr,
        result: Result<Vec<u8>>,
    ) {
        match result {
            Ok(value) => match u32::try_from(value.len()) {
                Ok(len) if size == 0 => reply.size(len),
                Ok(len) if len <= size => reply.data(&value),
                Ok(_) => reply.error(Errno::ERANGE),
                Err(_) => reply.error(Errno::E2BIG),
            },
            Err(error) => reply.error(self.fail(req, op, Some(ino.0), &error)),
        }
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

/// Whether a change of size clears suid and sgid: fuser drops the kernel's own word for it (FATTR_ and
/// FUSE_OPEN_KILL_SUIDGID), which is that the caller lacks CAP_FSETID.
fn lacks_fsetid(req: &Request) -> bool {
    req.uid() != 0
}

impl Filesystem for Adaptor {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_WRITEBACK_CACHE;
        // What an older kernel lacks is left out; each of them only makes things faster or finer.
        if let Err(lacking) = config.add_capabilities(wanted) {
            tracing::debug!(?lacking, "the kernel's FUSE lacks capabilities");
            let _ = config.add_capabilities(wanted & !lacking);
        }
        // The kernel offers less readahead than this; the mount raises it afterwards, if it may.
        if let Err(most) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        config
            .set_max_write(MAX_REQUEST)
            .map_err(|most| io::Error::other(format!("fuser takes writes of at most {most} bytes")))?;
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.volume.lookup(parent.0, name.as_bytes()) {
            // Node 0 with a time to live: the kernel remembers that the name is free.
            Err(error) if error.is_not_found() => {
                reply.entry(&TTL, &convert::bare_attr(0, Kind::File), Generation(0));
            }
            result => self.entry(req, "lookup", parent, reply, result),
        }
    }

    // batch_forget calls this for each.
    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        if ino.0 != NO_NODE {
            self.volume.forget(ino.0, count);
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.volume.getattr(ino.0, fh.map(|fh| fh.0)) {
            Ok(attr) => reply.attr(&TTL, &convert::file_attr(&attr)),
            Err(error) => reply.error(self.fail(req, "getattr", Some(ino.0), &error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            perm: mode.map(|mode| convert::perm(mode, 0)),
            uid,
            gid,
            atime: convert::set_time(atime),
            mtime: convert::set_time(mtime),
        };
        // A change of owner clears the bits whoever asks.
        let kill_priv = uid.is_some() || gid.is_some() || (size.is_some() && lacks_fsetid(req));
        let set = SetAttr { size, change, kill_priv };
        match self.volume.setattr(caller(req), ino.0, fh.map(|fh| fh.0), &set) {
            Ok(attr) => reply.attr(&TTL, &convert::file_attr(&attr)),
            Err(error) => reply.error(self.fail(req, "setattr", Some(ino.0), &error)),
        }
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.volume.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.fail(req, "readlink", Some(ino.0), &error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = convert::kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        let perm = self.perm(parent, mode, umask);
        let made = self.volume.mknod(caller(req), parent.0, name.as_bytes(), kind, perm, rdev.into());
        self.entry(req, "mknod", parent, reply, made);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.volume.mkdir(caller(req), parent.0, name.as_bytes(), self.perm(parent, mode, umask));
        self.entry(req, "mkdir", parent, reply, made);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(req, "unlink", parent, reply, self.volume.unlink(parent.0, name.as_bytes()));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(req, "rmdir", parent, reply, self.volume.rmdir(parent.0, name.as_bytes()));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let made = self.volume.symlink(caller(req), parent.0, name.as_bytes(), target);
        self.entry(req, "symlink", parent, reply, made);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let moved = self.volume.rename(parent.0, name.as_bytes(), newparent.0, newname.as_bytes(), mode);
        self.empty(req, "rename", parent, reply, moved);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let made = self.volume.link(ino.0, newparent.0, newname.as_bytes());
        self.entry(req, "link", ino, reply, made);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let perm = self.perm(parent, mode, umask);
        let open = convert::open_mode(OpenFlags(flags), lacks_fsetid(req));
        match self.volume.create(caller(req), parent.0, name.as_bytes(), perm, open) {
            Ok((attr, handle)) => reply.created(
                &TTL,
                &convert::file_attr(&attr),
                Generation(attr.generation),
                FileHandle(handle),
                self.open_flags(),
            ),
            Err(error) => reply.error(self.fail(req, "create", Some(parent.0), &error)),
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mode = convert::open_mode(flags, lacks_fsetid(req));
        match self.volume.open_file(caller(req), ino.0, mode) {
            Ok(handle) => {
                if mode.kill_priv {
                    self.forget_mode(ino);
                }
                reply.opened(FileHandle(handle), self.open_flags());
            }
            Err(error) => reply.error(self.fail(req, "open", Some(ino.0), &error)),
        }
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.volume.read(fh.0, offset, &mut buffer[..size]) {
                Ok(read) => reply.data(&buffer[..read]),
                Err(error) => reply.error(self.fail(req, "read", Some(ino.0), &error)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill_priv = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.volume.write(fh.0, offset, data, kill_priv) {
            Ok(()) => {
                if kill_priv {
                    self.forget_mode(ino);
                }
                // One request has at most MAX_REQUEST bytes.
                reply.written(data.len() as u32);
            }
            Err(error) => reply.error(self.fail(req, "write", Some(ino.0), &error)),
        }
    }

    // At close the kernel has written all dirty pages by then and told their errors, and the volume keeps
    // nothing back. Said once, it sends no FLUSH any more: warm reads of small files nearly double.
    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.empty(req, "fsync", ino, reply, self.volume.fsync(fh.0, datasync));
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.empty(req, "release", ino, reply, self.volume.release(fh.0));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.open_dir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(self.fail(req, "opendir", Some(ino.0), &error)),
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.volume.read_dir(fh.0, offset, &mut |entry| {
            let (ino, kind) = (INodeNo(entry.ino), convert::file_type(entry.kind));
            !reply.add(ino, entry.next_offset, kind, OsStr::from_bytes(&entry.name))
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(req, "readdir", Some(ino.0), &error)),
        }
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result = self.volume.read_dir_plus(fh.0, offset, &mut |entry, attr| {
            let (ttl, file, generation) = match attr {
                Some(attr) => (TTL, convert::file_attr(attr), attr.generation),
                // The kernel makes no node of these two.
                None if entry.name == b"." || entry.name == b".." => {
                    (TTL, convert::bare_attr(entry.ino, entry.kind), 0)
                }
                None => {
                    let mut file = convert::bare_attr(NO_NODE, entry.kind);
                    file.size = u64::MAX;
                    (Duration::ZERO, file, 0)
                }
            };
            let name = OsStr::from_bytes(&entry.name);
            !reply.add(file.ino, entry.next_offset, name, &ttl, &file, Generation(generation))
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(req, "readdirplus", Some(ino.0), &error)),
        }
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.empty(req, "fsyncdir", ino, reply, self.volume.fsync_dir(ino.0));
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.volume.release_dir(fh.0);
        reply.ok();
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.volume.statfs() {
            Ok(fs) => {
                let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                let (bsize, namemax, frsize) = (small(fs.bsize), small(fs.namemax), small(fs.frsize));
                reply.statfs(fs.blocks, fs.bfree, fs.bavail, fs.files, fs.ffree, bsize, namemax, frsize);
            }
            Err(error) => reply.error(self.fail(req, "statfs", Some(ino.0), &error)),
        }
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.volume.get_xattr(ino.0, name.as_bytes());
        self.bytes(req, "getxattr", ino, size, reply, value);
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
        self.empty(req, "setxattr", ino, reply, self.volume.set_xattr(ino.0, name.as_bytes(), value, mode));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.volume.list_xattr(ino.0).map(|names| {
            names.into_iter().fold(Vec::new(), |mut all, name| {
                all.extend_from_slice(&name);
                all.push(0);
                all
            })
        });
        self.bytes(req, "listxattr", ino, size, reply, names);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(req, "removexattr", ino, reply, self.volume.remove_xattr(ino.0, name.as_bytes()));
    }

    // What is not offered. The kernel asks once and then does without (ENOSYS), or tells the program.

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
