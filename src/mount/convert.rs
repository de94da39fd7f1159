//! fuser's numbers to the volume's types, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, OpenAccMode, OpenFlags, RenameFlags, TimeOrNow};

use crate::volume::disk::{Kind, RenameMode, SetTime, Stat, Time, XattrMode};
use crate::volume::{Attr, NodeId, OpenMode};

pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// What mknod(2) makes; None for what it does not.
pub(crate) fn kind_of_mode(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        // A mode without a type is a regular file's.
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::CharDevice),
        libc::S_IFBLK => Some(Kind::BlockDevice),
        _ => None,
    }
}

pub(crate) fn perm(mode: u32, umask: u32) -> u32 {
    mode & !umask & 0o7777
}

pub(crate) fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let start = if time.sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    start.and_then(|t| t.checked_add(Duration::from_nanos(time.nsec.into()))).unwrap_or(UNIX_EPOCH)
}

/// A time that came from the kernel. Before 1970 fuser 0.18 gives -(seconds + nanoseconds) where the kernel
/// said -seconds + nanoseconds; this takes that back.
fn time_from_kernel(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Time { sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() }
        }
        Err(before) => {
            let before = before.duration();
            let sec = i64::try_from(before.as_secs()).map_or(i64::MIN, |sec| -sec);
            Time { sec, nsec: before.subsec_nanos() }
        }
    }
}

pub(crate) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Omit,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::At(time_from_kernel(time)),
    }
}

pub(crate) fn open_mode(flags: OpenFlags, kill_priv: bool) -> OpenMode {
    let access = flags.acc_mode();
    let truncate = flags.0 & libc::O_TRUNC != 0;
    OpenMode {
        read: access != OpenAccMode::O_WRONLY,
        // O_RDONLY | O_TRUNC truncates too.
        write: access != OpenAccMode::O_RDONLY || truncate,
        truncate,
        kill_priv: truncate && kill_priv,
    }
}

/// None for flags that mean something else.
pub(crate) fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

/// None for flags that mean something else.
pub(crate) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    match flags {
        0 => Some(XattrMode::Any),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        _ => None,
    }
}

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    let Attr { node, stat, .. } = attr;
    FileAttr {
        ino: INodeNo(*node),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.kind),
        perm: (stat.perm & 0o7777) as u16,
        nlink: u32::try_from(stat.nlink).unwrap_or(u32::MAX),
        uid: stat.uid,
        gid: stat.gid,
        // The kernel's 32-bit encoding is the low half of the C library's 64-bit one.
        rdev: stat.rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

/// Attributes that say no more than the number and the kind.
pub(crate) fn bare_attr(ino: NodeId, kind: Kind) -> FileAttr {
    let zero = Time::default();
    let stat = Stat {
        dev: 0,
        ino,
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    };
    file_attr(&Attr { node: ino, generation: 0, stat })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 7] = [
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::Fifo,
        Kind::Socket,
        Kind::CharDevice,
        Kind::BlockDevice,
    ];

    #[test]
    fn every_kind_has_its_own_type() {
        let types: std::collections::HashSet<_> = KINDS.into_iter().map(file_type).collect();
        assert_eq!(types.len(), KINDS.len());
    }

    #[test]
    fn mknod_makes_no_directories_and_links() {
        assert_eq!(kind_of_mode(libc::S_IFREG | 0o644), Some(Kind::File));
        assert_eq!(kind_of_mode(0o644), Some(Kind::File));
        assert_eq!(kind_of_mode(libc::S_IFIFO | 0o4755), Some(Kind::Fifo));
        assert_eq!(kind_of_mode(libc::S_IFDIR), None);
        assert_eq!(kind_of_mode(libc::S_IFLNK), None);
    }

    #[test]
    fn the_umask_takes_bits_away_and_the_type_is_no_permission() {
        assert_eq!(perm(libc::S_IFREG | 0o6777, 0o022), 0o6755);
    }

    #[test]
    fn times_around_1970_keep_their_nanoseconds() {
        for (sec, nsec) in
            [(0, 0), (1, 5), (-1, 0), (-2, 800_000_000), (i64::from(i32::MIN), 1), (1 << 40, 999_999_999)]
        {
            let time = system_time(Time { sec, nsec });
            let (whole, rest) = match time.duration_since(UNIX_EPOCH) {
                Ok(d) => (i128::from(d.as_secs()), i128::from(d.subsec_nanos())),
                Err(e) => (-i128::from(e.duration().as_secs()), -i128::from(e.duration().subsec_nanos())),
            };
            let billion = 1_000_000_000;
            assert_eq!(whole * billion + rest, i128::from(sec) * billion + i128::from(nsec), "{sec} {nsec}");
        }
        assert_eq!(system_time(Time { sec: i64::MIN, nsec: 0 }).duration_since(UNIX_EPOCH).ok(), None);
    }

    #[test]
    fn a_time_before_1970_survives_the_way_through_fuser() {
        // As fuser 0.18 makes it of (-2 s, 800,000,000 ns).
        let time = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let set = set_time(Some(TimeOrNow::SpecificTime(time)));
        assert_eq!(set, SetTime::At(Time { sec: -2, nsec: 800_000_000 }));
        let time = UNIX_EPOCH + Duration::new(2, 3);
        assert_eq!(set_time(Some(TimeOrNow::SpecificTime(time))), SetTime::At(Time { sec: 2, nsec: 3 }));
        assert_eq!(set_time(Some(TimeOrNow::Now)), SetTime::Now);
        assert_eq!(set_time(None), SetTime::Omit);
    }

    #[test]
    fn open_flags_say_what_is_asked_for() {
        let mode = |flags| open_mode(OpenFlags(flags), true);
        let plain = OpenMode { read: true, write: false, truncate: false, kill_priv: false };
        assert_eq!(mode(libc::O_RDONLY), plain);
        assert_eq!(mode(libc::O_WRONLY | libc::O_APPEND), OpenMode { read: false, write: true, ..plain });
        assert_eq!(mode(libc::O_RDWR), OpenMode { write: true, ..plain });
        let cut = OpenMode { read: true, write: true, truncate: true, kill_priv: true };
        assert_eq!(mode(libc::O_RDONLY | libc::O_TRUNC), cut);
        assert_eq!(
            open_mode(OpenFlags(libc::O_RDWR | libc::O_TRUNC), false),
            OpenMode { kill_priv: false, ..cut }
        );
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert_eq!(rename_mode(RenameFlags::empty()), Some(RenameMode::Replace));
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE), Some(RenameMode::NoReplace));
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE), Some(RenameMode::Exchange));
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), None);
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_NOREPLACE), None);
        assert_eq!(xattr_mode(libc::XATTR_CREATE), Some(XattrMode::Create));
        assert_eq!(xattr_mode(3), None);
    }

    #[test]
    fn attributes_keep_their_values() {
        let stat = Stat {
            dev: 9,
            ino: 7,
            kind: Kind::CharDevice,
            perm: 0o4711,
            nlink: u64::MAX,
            uid: 1,
            gid: 2,
            rdev: libc::makedev(0x123, 0x45678),
            size: 3,
            blocks: 4,
            atime: Time { sec: 5, nsec: 6 },
            mtime: Time { sec: 7, nsec: 8 },
            ctime: Time { sec: 9, nsec: 10 },
        };
        let attr = file_attr(&Attr { node: 77, generation: 1, stat });
        assert_eq!((attr.ino, attr.size, attr.blocks), (INodeNo(77), 3, 4));
        assert_eq!((attr.perm, attr.nlink, attr.uid, attr.gid), (0o4711, u32::MAX, 1, 2));
        assert_eq!(attr.mtime, UNIX_EPOCH + Duration::new(7, 8));
        // new_encode_dev of include/linux/kdev_t.h
        assert_eq!(attr.rdev, 0x78 | (0x123 << 8) | (0x456 << 20));
    }
}
