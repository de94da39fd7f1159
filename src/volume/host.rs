//! The real backing directory: `*at` system calls on descriptors held open. Directories are O_PATH
//! descriptors, so that a mount may hold many without holding them open for reading.

use std::any::Any;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, RawDir, RenameFlags, Timestamps, Uid,
};
use rustix::fs::{XattrFlags, makedev};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::disk::{
    BackingFile, Change, Dir, FsStat, Kind, RawEntry, RenameMode, SetTime, Stat, Time, XattrMode,
};

const EXT4_MAGIC: i64 = 0xef53;
const XFS_MAGIC: i64 = 0x5846_5342;
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A directory of this machine.
pub struct HostDir {
    fd: OwnedFd,
    /// f_type of the filesystem it is on (statfs(2)).
    fs_type: i64,
}

/// A regular file of this machine.
pub struct HostFile(OwnedFd);

impl From<OwnedFd> for HostFile {
    /// A regular file that is open.
    fn from(file: OwnedFd) -> Self {
        Self(file)
    }
}

impl HostDir {
    /// Opens a directory by path, following links.
    pub fn open(path: &Path) -> io::Result<Arc<dyn Dir>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| fs::open(path, flags, Mode::empty()))?;
        Ok(Arc::new(Self::new(fd)?))
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let fs_type = fs::fstatfs(&fd)?.f_type;
        Ok(Self { fd, fs_type })
    }

    /// The same directory, open for reading: O_PATH descriptors cannot be synced or listed.
    fn readable(&self) -> io::Result<OwnedFd> {
        self.at(b".", OFlags::RDONLY | OFlags::DIRECTORY, 0)
    }

    fn at(&self, name: &[u8], flags: OFlags, perm: u32) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(retry_on_intr(|| fs::openat(&self.fd, name, flags, Mode::from_raw_mode(perm)))?)
    }

    /// A path for calls that take no descriptor: xattr(7) has no `*at` form before Linux 6.13, chmod(2)
    /// without following links none before 6.6.
    fn proc_path(fd: BorrowedFd, name: Option<&[u8]>) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.unwrap_or(b"."));
        path
    }

    fn host(dir: &dyn Dir) -> io::Result<&Self> {
        dir.as_any().downcast_ref().ok_or_else(|| Errno::XDEV.into())
    }
}

impl Dir for HostDir {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>> {
        let fd = self.at(name, OFlags::PATH | OFlags::DIRECTORY, 0)?;
        Ok(Arc::new(Self::new(fd)?))
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(convert(&fs::fstat(&self.fd)?))
    }

    fn stat_at(&self, name: &[u8]) -> io::Result<Stat> {
        Ok(convert(&fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn open_file(&self, name: &[u8], write: bool) -> io::Result<Arc<dyn BackingFile>> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        // NONBLOCK: a FIFO that somebody put there must not make the mount wait.
        let fd = self.at(name, access | OFlags::NONBLOCK, 0)?;
        Ok(Arc::new(HostFile(fd)))
    }

    fn create_file(&self, name: &[u8], perm: u32) -> io::Result<Arc<dyn BackingFile>> {
        let fd = self.at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, perm)?;
        Ok(Arc::new(HostFile(fd)))
    }

    fn mkdir(&self, name: &[u8], perm: u32) -> io::Result<()> {
        Ok(fs::mkdirat(&self.fd, name, Mode::from_raw_mode(perm))?)
    }

    fn mknod(&self, name: &[u8], kind: Kind, perm: u32, rdev: u64) -> io::Result<()> {
        let file_type = match kind {
            Kind::File => FileType::RegularFile,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Directory | Kind::Symlink => return Err(Errno::INVAL.into()),
        };
        let dev = makedev(fs::major(rdev), fs::minor(rdev));
        Ok(fs::mknodat(&self.fd, name, file_type, Mode::from_raw_mode(perm), dev)?)
    }

    fn symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()> {
        Ok(fs::symlinkat(target, &self.fd, name)?)
    }

    fn readlink(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(fs::readlinkat(&self.fd, name, Vec::with_capacity(256))?.into_bytes())
    }

    fn link(&self, name: &[u8], to_dir: &dyn Dir, to_name: &[u8]) -> io::Result<()> {
        Ok(fs::linkat(&self.fd, name, &Self::host(to_dir)?.fd, to_name, AtFlags::empty())?)
    }

    fn unlink(&self, name: &[u8]) -> io::Result<()> {
        Ok(fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn rmdir(&self, name: &[u8]) -> io::Result<()> {
        Ok(fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    fn rename(&self, name: &[u8], to_dir: &dyn Dir, to_name: &[u8], mode: RenameMode) -> io::Result<()> {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(fs::renameat_with(&self.fd, name, &Self::host(to_dir)?.fd, to_name, flags)?)
    }

    fn entries(&self) -> io::Result<Vec<RawEntry>> {
        let fd = self.readable()?;
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut dir = RawDir::new(&fd, &mut buffer);
        let mut out = Vec::new();
        while let Some(entry) = dir.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match kind_of(entry.file_type()) {
                Some(kind) => kind,
                // Some filesystems do not say; an entry that vanished meanwhile is none.
                None => match self.stat_at(name) {
                    Ok(stat) => stat.kind,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
            };
            out.push(RawEntry { name: name.to_vec(), kind, ino: entry.ino() });
        }
        Ok(out)
    }

    fn change(&self, name: Option<&[u8]>, change: &Change) -> io::Result<()> {
        let at = name.unwrap_or(b".");
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = owners(change);
            fs::chownat(&self.fd, at, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(perm) = change.perm {
            // An O_PATH descriptor of the object itself: its /proc path follows no further link.
            let object = self.at(at, OFlags::PATH, 0)?;
            let path = format!("/proc/self/fd/{}", object.as_raw_fd());
            fs::chmod(path, Mode::from_raw_mode(perm))?;
        }
        if let Some(times) = timestamps(change) {
            fs::utimensat(&self.fd, at, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(self.readable()?)?)
    }

    fn sync_fs(&self) -> io::Result<()> {
        Ok(fs::syncfs(self.readable()?)?)
    }

    fn fs_stat(&self) -> io::Result<FsStat> {
        let s = fs::fstatvfs(&self.fd)?;
        Ok(FsStat {
            bsize: s.f_bsize,
            frsize: s.f_frsize,
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            namemax: s.f_namemax,
        })
    }

    fn orders_metadata(&self) -> bool {
        [EXT4_MAGIC, XFS_MAGIC, TMPFS_MAGIC].contains(&self.fs_type)
    }

    fn flushes_on_rename(&self) -> bool {
        self.fs_type == EXT4_MAGIC
    }

    fn get_xattr(&self, name: Option<&[u8]>, attr: &[u8]) -> io::Result<Vec<u8>> {
        let path = Self::proc_path(self.fd.as_fd(), name);
        grow(|buffer| fs::lgetxattr(&path[..], attr, buffer), || fs::lgetxattr_query(&path[..], attr))
    }

    fn set_xattr(&self, name: Option<&[u8]>, attr: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        Ok(fs::lsetxattr(&Self::proc_path(self.fd.as_fd(), name)[..], attr, value, xattr_flags(mode))?)
    }

    fn list_xattr(&self, name: Option<&[u8]>) -> io::Result<Vec<Vec<u8>>> {
        let path = Self::proc_path(self.fd.as_fd(), name);
        grow(|buffer| fs::llistxattr(&path[..], buffer), || fs::llistxattr_query(&path[..]))
            .map(|l| names(&l))
    }

    fn remove_xattr(&self, name: Option<&[u8]>, attr: &[u8]) -> io::Result<()> {
        Ok(fs::lremovexattr(&Self::proc_path(self.fd.as_fd(), name)[..], attr)?)
    }

    fn lock(&self, name: &[u8], exclusive: bool) -> io::Result<Box<dyn Send + Sync>> {
        let (fd, how) = if exclusive {
            let fd = self.at(name, OFlags::RDWR | OFlags::CREATE, 0o600)?;
            (fd, FlockOperation::NonBlockingLockExclusive)
        } else {
            (self.at(name, OFlags::RDONLY, 0)?, FlockOperation::NonBlockingLockShared)
        };
        retry_on_intr(|| fs::flock(&fd, how))?;
        Ok(Box::new(HostLock(fd)))
    }
}

/// A lock that is held.
struct HostLock(OwnedFd);

impl Drop for HostLock {
    /// Closing alone would not do: a child between fork and exec holds the same open file, and so the lock.
    fn drop(&mut self) {
        // Best effort: the descriptor is closed next.
        let _ = fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// sync_file_range(2); a backing that does not know it has nothing to order.
fn sync_range(file: BorrowedFd, offset: u64, len: u64, flags: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, and no memory is passed.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, len as i64, flags) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE) => Ok(()),
        _ => Err(error),
    }
}

/// Has the kernel begin to write a range of a file to its disk, so that a later sync waits for less. No promise in itself.
pub fn begin_writeback(file: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
    sync_range(file, offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

impl BackingFile for HostFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.stat()?.size)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(convert(&fs::fstat(&self.0)?))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let read = retry_on_intr(|| pread(&self.0, &mut buf[done..], offset + done as u64))?;
            if read == 0 {
                break;
            }
            done += read;
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            match retry_on_intr(|| pwrite(&self.0, &data[done..], offset + done as u64))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => done += written,
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::ftruncate(&self.0, len))?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fdatasync(&self.0))?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::fsync(&self.0))?)
    }

    fn wait_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        sync_range(self.0.as_fd(), offset, len, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
    }

    fn start_writeback(&self) -> io::Result<()> {
        begin_writeback(self.0.as_fd(), 0, 0)
    }

    fn change(&self, change: &Change) -> io::Result<()> {
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = owners(change);
            fs::fchown(&self.0, uid, gid)?;
        }
        if let Some(perm) = change.perm {
            fs::fchmod(&self.0, Mode::from_raw_mode(perm))?;
        }
        if let Some(times) = timestamps(change) {
            fs::futimens(&self.0, &times)?;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match fs::seek(&self.0, fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL) => Ok(Some(offset)),
            Err(e) => Err(e.into()),
        }
    }

    fn clone_range(&self, offset: u64, len: u64, to: BorrowedFd, at: u64) -> io::Result<()> {
        let range = libc::file_clone_range {
            src_fd: self.0.as_raw_fd().into(),
            src_offset: offset,
            src_length: len,
            dest_offset: at,
        };
        // SAFETY: both descriptors are open for the length of the call, which only reads the struct it is given.
        match unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONERANGE as _, &raw const range) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn get_xattr(&self, attr: &[u8]) -> io::Result<Vec<u8>> {
        grow(|buffer| fs::fgetxattr(&self.0, attr, buffer), || fs::fgetxattr_query(&self.0, attr))
    }

    fn set_xattr(&self, attr: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        Ok(fs::fsetxattr(&self.0, attr, value, xattr_flags(mode))?)
    }

    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        grow(|buffer| fs::flistxattr(&self.0, buffer), || fs::flistxattr_query(&self.0)).map(|l| names(&l))
    }

    fn remove_xattr(&self, attr: &[u8]) -> io::Result<()> {
        Ok(fs::fremovexattr(&self.0, attr)?)
    }
}

/// Asks for a length and reads that much, again if it grew meanwhile.
fn grow(
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    query: impl Fn() -> rustix::io::Result<usize>,
) -> io::Result<Vec<u8>> {
    loop {
        let mut buffer = vec![0; query()?];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match read(&mut buffer) {
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e.into()),
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
        }
    }
}

fn names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect()
}

fn xattr_flags(mode: XattrMode) -> XattrFlags {
    match mode {
        XattrMode::Any => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    }
}

fn owners(change: &Change) -> (Option<Uid>, Option<Gid>) {
    (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw))
}

/// None if no time changes.
fn timestamps(change: &Change) -> Option<Timestamps> {
    let spec = |time| match time {
        SetTime::Omit => fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        SetTime::Now => fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
        SetTime::At(t) => fs::Timespec { tv_sec: t.sec, tv_nsec: t.nsec.into() },
    };
    if (change.atime, change.mtime) == (SetTime::Omit, SetTime::Omit) {
        return None;
    }
    Some(Timestamps { last_access: spec(change.atime), last_modification: spec(change.mtime) })
}

fn kind_of(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

fn convert(s: &fs::Stat) -> Stat {
    let time = |sec, nsec| Time { sec, nsec };
    Stat {
        dev: s.st_dev,
        ino: s.st_ino,
        // stat always knows; the arm for Unknown cannot be reached.
        kind: kind_of(FileType::from_raw_mode(s.st_mode)).unwrap_or(Kind::File),
        perm: s.st_mode & 0o7777,
        nlink: s.st_nlink,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev,
        size: s.st_size as u64,
        blocks: s.st_blocks as u64,
        atime: time(s.st_atime, s.st_atime_nsec as u32),
        mtime: time(s.st_mtime, s.st_mtime_nsec as u32),
        ctime: time(s.st_ctime, s.st_ctime_nsec as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T>(result: io::Result<T>) -> Option<i32> {
        result.err().and_then(|e| e.raw_os_error())
    }

    #[test]
    fn files_keep_bytes_sizes_and_attributes() {
        let temp = tempfile::tempdir().unwrap();
        let dir = HostDir::open(temp.path()).unwrap();
        let file = dir.create_file(b"f", 0o640).unwrap();
        assert_eq!(kind(dir.create_file(b"f", 0o640)), Some(libc::EEXIST));
        file.write_at(b"abc", 4094).unwrap();
        let mut buf = [9; 8];
        assert_eq!(file.read_at(&mut buf, 4093).unwrap(), 4);
        assert_eq!(&buf[..4], b"\0abc");
        file.set_len(8192).unwrap();
        file.wait_writeback(0, 4096).unwrap();
        file.start_writeback().unwrap();
        file.sync().unwrap();
        assert_eq!(file.next_data(8192).unwrap(), None);
        let at = SetTime::At(Time { sec: -7, nsec: 5 });
        dir.change(Some(b"f"), &Change { perm: Some(0o4711), mtime: at, ..Change::default() }).unwrap();
        let stat = dir.stat_at(b"f").unwrap();
        assert_eq!((stat.perm, stat.size, stat.mtime), (0o4711, 8192, Time { sec: -7, nsec: 5 }));
        assert_eq!(stat, file.stat().unwrap());
        file.set_xattr(b"user.a", b"1", XattrMode::Create).unwrap();
        assert_eq!(kind(dir.set_xattr(Some(b"f"), b"user.a", b"2", XattrMode::Create)), Some(libc::EEXIST));
        dir.set_xattr(Some(b"f"), b"user.a", b"22", XattrMode::Replace).unwrap();
        assert_eq!(file.get_xattr(b"user.a").unwrap(), b"22");
        assert!(dir.list_xattr(Some(b"f")).unwrap().contains(&b"user.a".to_vec()));
        file.remove_xattr(b"user.a").unwrap();
        assert_eq!(kind(dir.get_xattr(Some(b"f"), b"user.a")), Some(libc::ENODATA));
    }

    #[test]
    fn names_move_and_links_are_never_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = HostDir::open(temp.path()).unwrap();
        dir.mkdir(b"d", 0o755).unwrap();
        let below = dir.open_dir(b"d").unwrap();
        dir.symlink(b"d", b"l").unwrap();
        assert_eq!(kind(dir.open_dir(b"l")), Some(libc::ENOTDIR));
        assert_eq!(kind(dir.open_file(b"l", false)), Some(libc::ELOOP));
        assert!(dir.change(Some(b"l"), &Change { perm: Some(0o777), ..Change::default() }).is_err());
        assert_eq!(dir.stat_at(b"d").unwrap().perm, 0o755);
        assert_eq!(dir.readlink(b"l").unwrap(), b"d");
        drop(dir.create_file(b"a", 0o600).unwrap());
        dir.link(b"a", &*below, b"b").unwrap();
        assert_eq!(kind(dir.rename(b"a", &*below, b"b", RenameMode::NoReplace)), Some(libc::EEXIST));
        dir.rename(b"l", &*below, b"b", RenameMode::Exchange).unwrap();
        assert_eq!(below.stat_at(b"b").unwrap().kind, Kind::Symlink);
        below.mknod(b"p", Kind::Fifo, 0o600, 0).unwrap();
        let mut found: Vec<_> = below.entries().unwrap().into_iter().map(|e| (e.name, e.kind)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found, [(b"b".to_vec(), Kind::Symlink), (b"p".to_vec(), Kind::Fifo)]);
        below.sync().unwrap();
        dir.sync_fs().unwrap();
    }

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let dir = HostDir::open(temp.path()).unwrap();
        let first = dir.lock(b"lock", true).unwrap();
        assert_eq!(kind(dir.lock(b"lock", false)), Some(libc::EWOULDBLOCK));
        drop(first);
        let _readers = [dir.lock(b"lock", false).unwrap(), dir.lock(b"lock", false).unwrap()];
        assert_eq!(kind(dir.lock(b"lock", true)), Some(libc::EWOULDBLOCK));
    }
}
