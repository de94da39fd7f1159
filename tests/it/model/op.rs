//! Random operations.

use kmsfs::volume::disk::{Kind, RenameMode, XattrMode};
use proptest::prelude::*;

/// Which entry: a directory by its place among those that are there, and a name: small numbers choose
/// one that is there, others one of [`name_of`].
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub dir: usize,
    pub name: usize,
}

/// Names that are tried, of every length that matters.
pub fn name_of(number: usize) -> Vec<u8> {
    match number % 7 {
        0 => b"a".to_vec(),
        1 => b"b".to_vec(),
        2 => "\u{e4}\n \u{fffd}".as_bytes().to_vec(),
        3 => vec![b'c'; 175],
        4 => vec![b'c'; 176],
        5 => vec![0xff; 255],
        _ => vec![b'd'; 256],
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    Create { at: At, write: bool },
    Mkdir(At),
    Mknod(At, Kind),
    Symlink(At, usize),
    Link(At, At),
    Unlink(At),
    Rmdir(At),
    Rename(At, At, RenameMode),
    Open { at: At, write: bool, truncate: bool },
    Read { handle: usize, offset: usize, len: usize },
    Write { handle: usize, offset: usize, len: usize },
    Append { handle: usize, len: usize },
    TruncateHandle { handle: usize, size: usize },
    Truncate { at: At, size: usize },
    Chmod(At, u32),
    Mtime(At, u32),
    SetXattr(At, usize, usize, XattrMode),
    RemoveXattr(At, usize),
    Xattrs(At),
    Stat(At),
    ReadDir(At, usize),
    Fsync { handle: usize, data_only: bool },
    FsyncDir(At),
    Flush(usize),
    Release(usize),
    Forget,
    Remount,
}

/// What the operations are to be like.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// With remounts, and changes of mtime.
    pub whole: bool,
    /// Of about 40: how many are fsync or fsyncdir.
    pub syncs: u32,
}

fn at() -> impl Strategy<Value = At> + Clone {
    (0..6usize, 0..40usize).prop_map(|(dir, name)| At { dir, name })
}

/// Offsets and sizes about the ends of blocks, or anywhere.
fn place() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![
        (0..5usize, 0..3usize).prop_map(|(n, d)| (n * 4064 + d).saturating_sub(1)),
        0..20_000usize,
        0..100usize,
    ]
}

fn length() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![1..60usize, 1..9000usize, Just(4064), Just(4096)]
}

pub fn op(style: Style) -> BoxedStrategy<Op> {
    let handle = 0..8usize;
    let xattr_mode = prop_oneof![Just(XattrMode::Any), Just(XattrMode::Create), Just(XattrMode::Replace)];
    let rename_mode = prop_oneof![
        3 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        1 => Just(RenameMode::Exchange)
    ];
    let special = prop_oneof![
        Just(Kind::File),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice)
    ];
    let target = prop_oneof![3 => 1..80usize, 1 => 3000..3080usize, 1 => 4080..4097usize];
    let write = (handle.clone(), place(), length());
    let tree = prop_oneof![
        5 => (at(), prop::bool::weighted(0.9)).prop_map(|(at, write)| Op::Create { at, write }),
        3 => at().prop_map(Op::Mkdir),
        1 => (at(), special).prop_map(|(at, kind)| Op::Mknod(at, kind)),
        1 => (at(), target).prop_map(|(at, len)| Op::Symlink(at, len)),
        1 => (at(), at()).prop_map(|(from, to)| Op::Link(from, to)),
        2 => at().prop_map(Op::Unlink),
        2 => at().prop_map(Op::Rmdir),
        5 => (at(), at(), rename_mode).prop_map(|(from, to, mode)| Op::Rename(from, to, mode)),
        1 => (at(), 0..8u32).prop_map(|(at, bits)| Op::Chmod(at, bits)),
        2 => (at(), 0..3usize, 0..200usize, xattr_mode)
            .prop_map(|(at, name, len, mode)| Op::SetXattr(at, name, len, mode)),
        1 => (at(), 0..3usize).prop_map(|(at, name)| Op::RemoveXattr(at, name)),
    ];
    let content = prop_oneof![
        3 => (at(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(at, write, truncate)| Op::Open { at, write, truncate: truncate && write }),
        3 => (handle.clone(), place(), 0..9000usize)
            .prop_map(|(handle, offset, len)| Op::Read { handle, offset, len }),
        6 => write.prop_map(|(handle, offset, len)| Op::Write { handle, offset, len }),
        4 => (handle.clone(), length()).prop_map(|(handle, len)| Op::Append { handle, len }),
        1 => (handle.clone(), place()).prop_map(|(handle, size)| Op::TruncateHandle { handle, size }),
        1 => (at(), place()).prop_map(|(at, size)| Op::Truncate { at, size }),
        1 => handle.clone().prop_map(Op::Flush),
        4 => handle.clone().prop_map(Op::Release),
    ];
    let look = prop_oneof![
        2 => at().prop_map(Op::Stat),
        1 => at().prop_map(Op::Xattrs),
        1 => (at(), 1..4usize).prop_map(|(at, batch)| Op::ReadDir(at, batch)),
        1 => Just(Op::Forget),
    ];
    let sync = prop_oneof![
        3 => (handle, any::<bool>()).prop_map(|(handle, data_only)| Op::Fsync { handle, data_only }),
        1 => at().prop_map(Op::FsyncDir),
    ];
    let mut all =
        vec![(14, tree.boxed()), (14, content.boxed()), (5, look.boxed()), (style.syncs, sync.boxed())];
    if style.whole {
        let whole =
            prop_oneof![(at(), any::<u32>()).prop_map(|(at, sec)| Op::Mtime(at, sec)), Just(Op::Remount)];
        all.push((2, whole.boxed()));
    }
    prop::strategy::Union::new_weighted(all).boxed()
}
