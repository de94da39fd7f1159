//! The backing directory, as the volume sees it, behind traits, so that tests can plug in one that
//! loses power. Names are single components of at most 255 bytes. Errors are the operating system's
//! ([`std::io::Error`] with a raw OS error).

use std::any::Any;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What kind of object an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Seconds and nanoseconds since 1970.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Time {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds below 10^9.
    pub nsec: u32,
}

/// stat(2) of a backing object; `size` is the backing's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Kind.
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky (07777).
    pub perm: u32,
    /// Hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
}

/// A new value of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The backing's clock.
    Now,
    /// This one.
    At(Time),
}

/// chmod, chown, utimensat in one; a field that is None stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// 07777.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: SetTime,
    /// Last change of content.
    pub mtime: SetTime,
}

impl Default for Change {
    fn default() -> Self {
        Self { perm: None, uid: None, gid: None, atime: SetTime::Omit, mtime: SetTime::Omit }
    }
}

impl Change {
    /// Sets the time of the last change of content, and nothing else.
    pub fn mtime(mtime: Time) -> Self {
        Self { mtime: SetTime::At(mtime), ..Self::default() }
    }
}

/// renameat2(2)'s ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace what stands there.
    Replace,
    /// EEXIST if something stands there.
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEntry {
    /// Name; never `.` or `..`.
    pub name: Vec<u8>,
    /// Kind.
    pub kind: Kind,
    /// Inode number.
    pub ino: u64,
}

/// statvfs(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsStat {
    /// Block size in bytes.
    pub bsize: u64,
    /// Fragment size in bytes.
    pub frsize: u64,
    /// Fragments.
    pub blocks: u64,
    /// Free fragments.
    pub bfree: u64,
    /// Free fragments for the unprivileged.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Longest name.
    pub namemax: u64,
}

/// How setxattr(2) treats what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Any,
    /// EEXIST if it exists.
    Create,
    /// ENODATA if it does not.
    Replace,
}

/// A directory of the backing filesystem, held open.
pub trait Dir: Send + Sync {
    /// For an implementation to find its own type again in [`Dir::rename`] and [`Dir::link`].
    fn as_any(&self) -> &dyn Any;
    /// Opens a directory below, not following a link (ENOTDIR, ELOOP).
    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>>;
    /// stat of the directory itself.
    fn stat(&self) -> io::Result<Stat>;
    /// lstat of an entry.
    fn stat_at(&self, name: &[u8]) -> io::Result<Stat>;
    /// Opens a regular file, not following a link; `write` for reading and writing.
    fn open_file(&self, name: &[u8], write: bool) -> io::Result<Arc<dyn BackingFile>>;
    /// Creates a regular file for reading and writing; EEXIST if the name is taken.
    fn create_file(&self, name: &[u8], perm: u32) -> io::Result<Arc<dyn BackingFile>>;
    /// mkdir.
    fn mkdir(&self, name: &[u8], perm: u32) -> io::Result<()>;
    /// mknod of a FIFO, socket or device (or an empty file).
    fn mknod(&self, name: &[u8], kind: Kind, perm: u32, rdev: u64) -> io::Result<()>;
    /// symlink.
    fn symlink(&self, target: &[u8], name: &[u8]) -> io::Result<()>;
    /// readlink.
    fn readlink(&self, name: &[u8]) -> io::Result<Vec<u8>>;
    /// Hard link, not following a link.
    fn link(&self, name: &[u8], to_dir: &dyn Dir, to_name: &[u8]) -> io::Result<()>;
    /// unlink.
    fn unlink(&self, name: &[u8]) -> io::Result<()>;
    /// rmdir.
    fn rmdir(&self, name: &[u8]) -> io::Result<()>;
    /// renameat2.
    fn rename(&self, name: &[u8], to_dir: &dyn Dir, to_name: &[u8], mode: RenameMode) -> io::Result<()>;
    /// All entries, in any order.
    fn entries(&self) -> io::Result<Vec<RawEntry>>;
    /// chmod, chown, utimensat of an entry (never through a link), or of the directory if None.
    /// chmod comes last, because chown clears suid and sgid.
    fn change(&self, name: Option<&[u8]>, change: &Change) -> io::Result<()>;
    /// fsync of the directory.
    fn sync(&self) -> io::Result<()>;
    /// syncfs of the filesystem it is on.
    fn sync_fs(&self) -> io::Result<()>;
    /// statvfs of the filesystem it is on.
    fn fs_stat(&self) -> io::Result<FsStat>;
    /// True where the filesystem keeps the order of metadata operations over a crash (ext4, xfs, tmpfs).
    fn orders_metadata(&self) -> bool;
    /// True where a rename over a file flushes the new one first (ext4's auto_da_alloc).
    fn flushes_on_rename(&self) -> bool;
    /// getxattr of an entry, or of the directory if None.
    fn get_xattr(&self, name: Option<&[u8]>, attr: &[u8]) -> io::Result<Vec<u8>>;
    /// setxattr.
    fn set_xattr(&self, name: Option<&[u8]>, attr: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()>;
    /// listxattr, one item a name.
    fn list_xattr(&self, name: Option<&[u8]>) -> io::Result<Vec<Vec<u8>>>;
    /// removexattr.
    fn remove_xattr(&self, name: Option<&[u8]>, attr: &[u8]) -> io::Result<()>;
    /// flock on an entry (created if absent and `exclusive`); WouldBlock if another holds it. Held until
    /// the answer is dropped, or the process dies.
    fn lock(&self, name: &[u8], exclusive: bool) -> io::Result<Box<dyn Send + Sync>>;
}

#[expect(clippy::len_without_is_empty, reason = "is_empty would be one more call to fstat")]
/// A regular file of the backing filesystem, held open. Offsets and lengths in bytes.
pub trait BackingFile: Send + Sync {
    /// st_size.
    fn len(&self) -> io::Result<u64>;
    /// fstat.
    fn stat(&self) -> io::Result<Stat>;
    /// pread until `buf` is full or the file ends; the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// pwrite of everything, or an error (what was written before it may stand).
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// ftruncate.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// fdatasync: the bytes, and the size if it grew.
    fn sync(&self) -> io::Result<()>;
    /// fsync: everything.
    fn sync_all(&self) -> io::Result<()>;
    /// sync_file_range(WAIT_BEFORE): waits for pages under writeback, reports its error.
    fn wait_writeback(&self, offset: u64, len: u64) -> io::Result<()>;
    /// sync_file_range(WRITE) of the whole file: starts writeback, does not wait.
    fn start_writeback(&self) -> io::Result<()>;
    /// fchmod, fchown, futimens; chmod last.
    fn change(&self, change: &Change) -> io::Result<()>;
    /// SEEK_DATA at or after `offset`; None if only a hole follows. A backing without it answers `offset`.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// FICLONERANGE: lets `to` have a range of this file from `at` on without copying it, where the filesystem can.
    fn clone_range(&self, offset: u64, len: u64, to: BorrowedFd, at: u64) -> io::Result<()> {
        let _ = (offset, len, to, at);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// fgetxattr.
    fn get_xattr(&self, attr: &[u8]) -> io::Result<Vec<u8>>;
    /// fsetxattr.
    fn set_xattr(&self, attr: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()>;
    /// flistxattr.
    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>>;
    /// fremovexattr.
    fn remove_xattr(&self, attr: &[u8]) -> io::Result<()>;
}
