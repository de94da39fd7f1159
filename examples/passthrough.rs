//! An unencrypted directory through FUSE, by the same library and with the same settings as `kmsfs::mount`: one
//! pread or pwrite for each request, and no bookkeeping beyond what FUSE asks for. What it reaches is the
//! limit that kmsfs is measured against (docs/benchmarks.md); it is no filesystem to keep files in (hard
//! links share no node here).
//!
//! `passthrough BACKING POINT` serves until POINT is unmounted. The options are for finding the best settings.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use fuser::{
    BsdFileFlags, Config, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno as OsError;

const TTL: Duration = Duration::from_secs(3600);
const MAX_REQUEST: u32 = 1 << 20;
const ROOT: u64 = 1;

#[derive(Parser)]
struct Args {
    backing: PathBuf,
    point: PathBuf,
    /// Threads that serve requests.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// One device for all threads.
    #[arg(long)]
    no_clone: bool,
    /// Requests of readahead and writeback that may wait at once.
    #[arg(long, default_value_t = 64)]
    background: u16,
    /// When listings bring attributes: auto, always, never.
    #[arg(long, default_value = "auto")]
    readdirplus: String,
    /// Without POSIX ACLs.
    #[arg(long)]
    no_acl: bool,
    /// Let the kernel send FLUSH at each close.
    #[arg(long)]
    flush: bool,
    /// Readahead in KiB; 0 leaves the kernel's.
    #[arg(long, default_value_t = 1024)]
    readahead: u32,
}

type Result<T> = std::result::Result<T, OsError>;

struct Node {
    /// Of a directory.
    dir: Option<Arc<OwnedFd>>,
    parent: u64,
    name: Box<[u8]>,
    lookups: u64,
}

struct Listing {
    entries: Vec<(Vec<u8>, u64, FileType)>,
}

struct Passthrough {
    args: Args,
    nodes: Mutex<HashMap<u64, Node>>,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
    next_listing: AtomicU64,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn errno(error: OsError) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

/// A handle is the descriptor's number.
fn borrow(fh: FileHandle) -> BorrowedFd<'static> {
    // SAFETY: the kernel names only handles that open or create gave, and none after its release.
    unsafe { BorrowedFd::borrow_raw(fh.0 as i32) }
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn time(sec: i64, nsec: u64) -> SystemTime {
    UNIX_EPOCH + Duration::new(u64::try_from(sec).unwrap_or(0), nsec as u32)
}

fn attr(ino: u64, stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(stat.st_mode),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            Timespec { tv_sec: since.as_secs() as i64, tv_nsec: i64::from(since.subsec_nanos()) }
        }
    }
}

impl Passthrough {
    fn dir(&self, ino: u64) -> Result<Arc<OwnedFd>> {
        self.nodes.lock().get(&ino).and_then(|node| node.dir.clone()).ok_or(OsError::NOTDIR)
    }

    /// Where a node is found: its parent and its name there (empty for a directory itself).
    fn place(&self, ino: u64) -> Result<(Arc<OwnedFd>, Box<[u8]>)> {
        let nodes = self.nodes.lock();
        let node = nodes.get(&ino).ok_or(OsError::STALE)?;
        if let Some(dir) = &node.dir {
            return Ok((dir.clone(), Box::default()));
        }
        let parent = nodes.get(&node.parent).and_then(|parent| parent.dir.clone()).ok_or(OsError::STALE)?;
        Ok((parent, node.name.clone()))
    }

    /// For calls that take only a path.
    fn path(&self, ino: u64) -> Result<PathBuf> {
        use std::os::fd::AsRawFd;
        let (dir, name) = self.place(ino)?;
        let base = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        Ok(if name.is_empty() { base } else { base.join(OsStr::from_bytes(&name)) })
    }

    fn stat(&self, ino: u64) -> Result<Stat> {
        let (dir, name) = self.place(ino)?;
        rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH)
    }

    /// Counts a lookup of what `stat` describes.
    fn remember(&self, parent: u64, parent_dir: &OwnedFd, name: &[u8], stat: &Stat) -> Result<FileAttr> {
        let ino = stat.st_ino;
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get_mut(&ino) {
            node.lookups += 1;
            if node.parent != parent || *node.name != *name {
                node.parent = parent;
                node.name = name.into();
            }
        } else {
            let dir = if kind(stat.st_mode) == FileType::Directory {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Some(Arc::new(rustix::fs::openat(parent_dir, name, flags, Mode::empty())?))
            } else {
                None
            };
            nodes.insert(ino, Node { dir, parent, name: name.into(), lookups: 1 });
        }
        Ok(attr(ino, stat))
    }

    fn look(&self, parent: u64, name: &OsStr) -> Result<FileAttr> {
        let dir = self.dir(parent)?;
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.remember(parent, &dir, name.as_bytes(), &stat)
    }

    fn make(&self, req: &Request, dir: &OwnedFd, name: &OsStr) {
        if req.uid() != 0 {
            let (uid, gid) = (rustix::fs::Uid::from_raw(req.uid()), rustix::fs::Gid::from_raw(req.gid()));
            let _ = rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    fn open_at(&self, ino: u64, flags: i32) -> Result<OwnedFd> {
        let (dir, name) = self.place(ino)?;
        rustix::fs::openat(&dir, &*name, backing_flags(flags) | OFlags::NOFOLLOW, Mode::empty())
    }

    fn change(
        &self,
        ino: u64,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        size: Option<u64>,
        times: &Timestamps,
        fh: Option<FileHandle>,
    ) -> Result<FileAttr> {
        if let Some(size) = size {
            match fh {
                Some(fh) => rustix::fs::ftruncate(borrow(fh), size)?,
                None => rustix::fs::ftruncate(self.open_at(ino, libc::O_WRONLY)?, size)?,
            }
        }
        let omit = |t: &Timespec| t.tv_nsec == UTIME_OMIT;
        if let (Some(fh), None, (None, None)) = (fh, mode, owner) {
            if !(omit(&times.last_access) && omit(&times.last_modification)) {
                rustix::fs::futimens(borrow(fh), times)?;
            }
            return Ok(attr(ino, &rustix::fs::fstat(borrow(fh))?));
        }
        let path = self.path(ino)?;
        if owner != (None, None) {
            let (uid, gid) = (owner.0.map(rustix::fs::Uid::from_raw), owner.1.map(rustix::fs::Gid::from_raw));
            rustix::fs::chownat(rustix::fs::CWD, &path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = mode {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode & 0o7777))?;
        }
        if !(omit(&times.last_access) && omit(&times.last_modification)) {
            rustix::fs::utimensat(rustix::fs::CWD, &path, times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(attr(ino, &self.stat(ino)?))
    }

    fn list(&self, ino: u64) -> Result<Listing> {
        let dir = rustix::fs::openat(
            &*self.dir(ino)?,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::new(dir)? {
            let entry = entry?;
            let kind = match entry.file_type() {
                rustix::fs::FileType::Directory => FileType::Directory,
                rustix::fs::FileType::Symlink => FileType::Symlink,
                _ => FileType::RegularFile,
            };
            entries.push((entry.file_name().to_bytes().to_vec(), entry.ino(), kind));
        }
        Ok(Listing { entries })
    }

    fn open_flags() -> FopenFlags {
        FopenFlags::FOPEN_KEEP_CACHE
    }
}

/// With a writeback cache the kernel reads on every handle, and appends by itself.
fn backing_flags(flags: i32) -> OFlags {
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
    let mut out = if writes { OFlags::RDWR } else { OFlags::RDONLY } | OFlags::CLOEXEC;
    if flags & libc::O_TRUNC != 0 {
        out |= OFlags::TRUNC;
    }
    out
}

fn entry(reply: ReplyEntry, result: Result<FileAttr>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(errno(error)),
    }
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn value(reply: ReplyXattr, size: u32, read: impl Fn(&mut [u8]) -> Result<usize>) {
    let mut buffer = vec![0; size as usize];
    match read(&mut buffer) {
        Ok(len) if size == 0 => reply.size(len as u32),
        Ok(len) => reply.data(&buffer[..len]),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_WRITEBACK_CACHE;
        match self.args.readdirplus.as_str() {
            "auto" => wanted |= InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO,
            "always" => wanted |= InitFlags::FUSE_DO_READDIRPLUS,
            _ => {}
        }
        if !self.args.no_acl {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        if let Err(lacking) = config.add_capabilities(wanted) {
            let _ = config.add_capabilities(wanted & !lacking);
        }
        if let Err(most) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(self.args.background);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look(parent.0, name) {
            Err(OsError::NOENT) => reply.entry(&TTL, &absent(), Generation(0)),
            result => entry(reply, result),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get_mut(&ino.0) {
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups == 0 && ino.0 != ROOT {
                nodes.remove(&ino.0);
            }
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let stat = fh.map_or_else(|| self.stat(ino.0), |fh| rustix::fs::fstat(borrow(fh)));
        match stat {
            Ok(stat) => reply.attr(&TTL, &attr(ino.0, &stat)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
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
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        match self.change(ino.0, mode, (uid, gid), size, &times, fh) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let target =
            self.place(ino.0).and_then(|(dir, name)| rustix::fs::readlinkat(&dir, &*name, Vec::new()));
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = self.dir(parent.0).and_then(|dir| {
            let kind = rustix::fs::FileType::from_raw_mode(mode);
            rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(mode & 0o7777), rdev.into())?;
            self.make(req, &dir, name);
            self.look(parent.0, name)
        });
        entry(reply, made);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let made = self.dir(parent.0).and_then(|dir| {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode & 0o7777))?;
            self.make(req, &dir, name);
            self.look(parent.0, name)
        });
        entry(reply, made);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.dir(parent.0).and_then(|dir| rustix::fs::unlinkat(&dir, name, AtFlags::empty()));
        empty(reply, done);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.dir(parent.0).and_then(|dir| rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR));
        empty(reply, done);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.dir(parent.0).and_then(|dir| {
            rustix::fs::symlinkat(target, &dir, name)?;
            self.make(req, &dir, name);
            self.look(parent.0, name)
        });
        entry(reply, made);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let done = self.dir(parent.0).and_then(|from| {
            let to = self.dir(newparent.0)?;
            rustix::fs::renameat_with(&from, name, &to, newname, flags)?;
            let moved = rustix::fs::statat(&to, newname, AtFlags::SYMLINK_NOFOLLOW)?;
            if let Some(node) = self.nodes.lock().get_mut(&moved.st_ino) {
                node.parent = newparent.0;
                node.name = newname.as_bytes().into();
            }
            Ok(())
        });
        empty(reply, done);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let made = self.place(ino.0).and_then(|(dir, name)| {
            let to = self.dir(newparent.0)?;
            rustix::fs::linkat(&dir, &*name, &to, newname, AtFlags::empty())?;
            self.look(newparent.0, newname)
        });
        entry(reply, made);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.dir(parent.0).and_then(|dir| {
            let flags =
                (backing_flags(flags) & !OFlags::TRUNC) | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let file = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(mode & 0o7777))?;
            self.make(req, &dir, name);
            let attr = self.remember(parent.0, &dir, name.as_bytes(), &rustix::fs::fstat(&file)?)?;
            Ok((attr, file))
        });
        match made {
            Ok((attr, file)) => {
                let fh = FileHandle(file.into_raw_fd() as u64);
                reply.created(&TTL, &attr, Generation(0), fh, Self::open_flags());
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_at(ino.0, flags.0) {
            Ok(file) => reply.opened(FileHandle(file.into_raw_fd() as u64), Self::open_flags()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
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
            match rustix::io::pread(borrow(fh), &mut buffer[..size], offset) {
                Ok(read) => reply.data(&buffer[..read]),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match rustix::io::pwrite(borrow(fh), data, offset) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.args.flush {
            reply.ok();
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let file = borrow(fh);
        empty(reply, if datasync { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // SAFETY: the handle's descriptor is this filesystem's own, and this is its last use.
        drop(unsafe { OwnedFd::from_raw_fd(fh.0 as i32) });
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.list(ino.0) {
            Ok(listing) => {
                let handle = self.next_listing.fetch_add(1, Ordering::Relaxed);
                self.listings.lock().insert(handle, Arc::new(listing));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(listing) = self.listings.lock().get(&fh.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        for (at, (name, ino, kind)) in listing.entries.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), at as u64 + 1, *kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = self.listings.lock().get(&fh.0).cloned();
        let (Some(listing), Ok(dir)) = (listing, self.dir(ino.0)) else { return reply.error(Errno::EBADF) };
        for (at, (name, entry_ino, kind)) in listing.entries.iter().enumerate().skip(offset as usize) {
            let dots = name == b"." || name == b"..";
            let file = if dots {
                FileAttr { ino: INodeNo(*entry_ino), kind: *kind, ..absent() }
            } else {
                match rustix::fs::statat(&dir, &**name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => attr(stat.st_ino, &stat),
                    Err(_) => continue,
                }
            };
            if reply.add(file.ino, at as u64 + 1, OsStr::from_bytes(name), &TTL, &file, Generation(0)) {
                break;
            }
            if !dots {
                let mut nodes = self.nodes.lock();
                let node = nodes.entry(file.ino.0).or_insert_with(|| Node {
                    dir: None,
                    parent: ino.0,
                    name: name.as_slice().into(),
                    lookups: 0,
                });
                node.lookups += 1;
                if file.kind == FileType::Directory && node.dir.is_none() {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    node.dir = rustix::fs::openat(&dir, &**name, flags, Mode::empty()).ok().map(Arc::new);
                }
            }
        }
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let done = self.dir(ino.0).and_then(|dir| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::fsync(rustix::fs::openat(&dir, ".", flags, Mode::empty())?)
        });
        empty(reply, done);
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.lock().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.dir(ROOT).and_then(|dir| rustix::fs::fstatvfs(&dir)) {
            Ok(fs) => reply.statfs(
                fs.f_blocks,
                fs.f_bfree,
                fs.f_bavail,
                fs.f_files,
                fs.f_ffree,
                fs.f_bsize as u32,
                fs.f_namemax as u32,
                fs.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.path(ino.0) {
            Ok(path) => value(reply, size, |buffer| rustix::fs::lgetxattr(&path, name, buffer)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::XattrFlags::from_bits_retain(flags as u32);
        let done = self.path(ino.0).and_then(|path| rustix::fs::lsetxattr(&path, name, value, flags));
        empty(reply, done);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.path(ino.0) {
            Ok(path) => value(reply, size, |buffer| rustix::fs::llistxattr(&path, buffer)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.path(ino.0).and_then(|path| rustix::fs::lremovexattr(&path, name)));
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
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    rustix::process::umask(Mode::empty());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Arc::new(rustix::fs::open(&args.backing, flags, Mode::empty())?);
    let (point, readahead) = (args.point.clone(), args.readahead);

    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(args.backing.display().to_string()),
        MountOption::CUSTOM("subtype=passthrough".into()),
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(args.threads);
    config.clone_fd = !args.no_clone;

    let node = Node { dir: Some(root), parent: ROOT, name: Box::default(), lookups: 1 };
    let filesystem = Passthrough {
        args,
        nodes: Mutex::new(HashMap::from([(ROOT, node)])),
        listings: Mutex::default(),
        next_listing: AtomicU64::new(1),
    };
    let session = Session::new(filesystem, &point, &config)?.spawn()?;
    if readahead > 0 {
        let dev = std::fs::metadata(&point)?.dev();
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let _ =
            std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), readahead.to_string());
    }
    session.join()
}
