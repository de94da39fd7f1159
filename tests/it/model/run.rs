//! Does the same on a [`Volume`] and on the [`Tree`], and compares the answers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use kmsfs::volume::disk::{Change, Kind, SetTime, Time};
use kmsfs::volume::{
    Attr, Caller, HandleId, NodeId, OpenMode, ROOT as VOLUME_ROOT, SetAttr, Volume, VolumeError,
};

use super::op::{At, Op, name_of};
use super::tree::{Answer, Body, Content, Edit, Id, ROOT, Tree};

/// What does not agree.
pub type Checked<T> = Result<T, String>;

pub const CALLER: Caller = Caller { uid: 0, gid: 0 };

type Opener = Box<dyn FnMut() -> Result<Volume, VolumeError> + Send>;

pub struct Runner {
    pub tree: Tree,
    volume: Option<Arc<Volume>>,
    /// Opens the volume again; None if it cannot be remounted.
    opener: Option<Opener>,
    /// Node of the volume that is the tree's root.
    root: NodeId,
    /// Lookups that the volume still counts.
    known: BTreeMap<Id, (NodeId, u64)>,
    handles: Vec<Open>,
    made: u32,
    made_dirs: u32,
    writes: u64,
    /// Objects are told apart by their permission bits, also after a remount.
    numbered: bool,
}

#[derive(Clone, Copy)]
struct Open {
    id: Id,
    handle: HandleId,
    read: bool,
    write: bool,
}

/// What a step did that makes something durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    Nothing,
    File {
        id: Id,
        data_only: bool,
    },
    Dir(Id),
    /// A clean unmount.
    All,
}

/// Error numbers as the mount gives them.
pub fn errno(error: &VolumeError) -> i32 {
    match error {
        VolumeError::Backing { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        VolumeError::NotFound => libc::ENOENT,
        VolumeError::Exists => libc::EEXIST,
        VolumeError::NotDirectory => libc::ENOTDIR,
        VolumeError::IsDirectory => libc::EISDIR,
        VolumeError::NotEmpty => libc::ENOTEMPTY,
        VolumeError::NameTooLong => libc::ENAMETOOLONG,
        VolumeError::ReadOnly => libc::EROFS,
        VolumeError::Stale => libc::ESTALE,
        VolumeError::Invalid(_) => libc::EINVAL,
        VolumeError::NoXattr => libc::ENODATA,
        VolumeError::Unsupported(_) => libc::EOPNOTSUPP,
        VolumeError::TooLarge => libc::EFBIG,
        VolumeError::BadHandle => libc::EBADF,
        VolumeError::NotPermitted(_) => libc::EPERM,
        _ => libc::EIO,
    }
}

/// The volume's and the model's answer: both, if they are answers; None if both are the same error.
fn both<T, M>(what: &str, volume: Result<T, VolumeError>, model: Answer<M>) -> Checked<Option<(T, M)>> {
    match (volume, model) {
        (Ok(volume), Ok(model)) => Ok(Some((volume, model))),
        (Err(volume), Err(model)) if errno(&volume) == model => Ok(None),
        (Err(volume), Err(model)) => {
            Err(format!("{what}: errno {} ({volume:?}) instead of {model}", errno(&volume)))
        }
        (Ok(_), Err(model)) => Err(format!("{what}: done, instead of errno {model}")),
        (Err(volume), Ok(_)) => Err(format!("{what}: {volume:?}")),
    }
}

fn same<T: PartialEq + Debug>(what: &str, found: &T, due: &T) -> Checked<()> {
    if found == due { Ok(()) } else { Err(format!("{what}: {found:?} instead of {due:?}")) }
}

/// Bytes that no other write has at this place.
pub fn pattern(write: u64, len: usize) -> Vec<u8> {
    let byte = |at: usize| {
        let x = ((write << 32) | (at as u64 / 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).to_le_bytes()[at % 8] | 1
    };
    (0..len).map(byte).collect()
}

fn xattr_name(number: usize) -> Vec<u8> {
    [&b"user.a"[..], b"user.mime_type", b"user.\xc3\xa4 long one, with all that can be in it"][number % 3]
        .to_vec()
}

/// Reads a whole file in pieces.
pub fn read_all(volume: &Volume, node: NodeId) -> Result<Vec<u8>, VolumeError> {
    let mode = OpenMode { read: true, write: false, truncate: false, kill_priv: false };
    let handle = volume.open_file(CALLER, node, mode)?;
    let (mut out, mut buf) = (Vec::new(), vec![0; 9000]);
    loop {
        let read = volume.read(handle, out.len() as u64, &mut buf)?;
        out.extend_from_slice(&buf[..read]);
        if read < buf.len() {
            volume.release(handle)?;
            return Ok(out);
        }
    }
}

impl Runner {
    /// On a fresh volume that `opener` opens again and again.
    pub fn new(mut opener: Opener, numbered: bool) -> Checked<Self> {
        let volume = opener().map_err(|e| format!("open: {e:?}"))?;
        let mut runner = Self::below(Arc::new(volume), VOLUME_ROOT);
        (runner.opener, runner.numbered) = (Some(opener), numbered);
        Ok(runner)
    }

    /// On an empty directory of a volume that is open.
    pub fn below(volume: Arc<Volume>, root: NodeId) -> Self {
        Self {
            tree: Tree::new(),
            volume: Some(volume),
            opener: None,
            root,
            known: BTreeMap::new(),
            handles: Vec::new(),
            made: 0,
            made_dirs: 0,
            writes: 0,
            numbered: true,
        }
    }

    pub fn volume(&self) -> Arc<Volume> {
        self.volume.clone().expect("only a remount takes it, and puts one back")
    }

    /// False after a remount that failed.
    pub fn is_open(&self) -> bool {
        self.volume.is_some()
    }

    /// Chooses from the tree as it stands: directory, name.
    fn choose(&self, at: At) -> (Id, Vec<u8>) {
        let dirs = self.tree.dirs();
        let dir = dirs[at.dir % dirs.len()];
        let entries = self.tree.entries(dir).expect("dirs() lists directories");
        match entries.keys().nth(at.name % 32 % entries.len().max(1)) {
            Some(name) if at.name < 32 => (dir, name.clone()),
            _ => (dir, name_of(at.name)),
        }
    }

    fn perm(&mut self) -> u32 {
        self.made += 1;
        if self.numbered { self.made } else { 0o700 | self.made & 0o55 }
    }

    /// Directories have their owner's permissions: where metadata is not ordered, a mode that lacks them may
    /// come after the directory.
    fn dir_perm(&mut self) -> u32 {
        self.made_dirs += 1;
        0o700 | self.made_dirs & if self.numbered { 0o77 } else { 0o55 }
    }

    fn dir_node(&mut self, dir: Id) -> Checked<NodeId> {
        let (mut at, mut node) = (ROOT, self.root);
        if let Some((node, _)) = self.known.get(&dir) {
            return Ok(*node);
        }
        for name in self.tree.path(dir) {
            let id = self.tree.lookup(at, &name).map_err(|e| format!("the model's own path: errno {e}"))?;
            let attr =
                self.volume().lookup(node, &name).map_err(|e| format!("lookup of a directory: {e:?}"))?;
            self.looked_up(id, &attr)?;
            (at, node) = (id, attr.node);
        }
        Ok(node)
    }

    /// One more lookup of an object; its attributes must be right.
    fn looked_up(&mut self, id: Id, attr: &Attr) -> Checked<()> {
        let known = self.known.entry(id).or_insert((attr.node, 0));
        known.1 += 1;
        same("node of one object", &attr.node, &known.0)?;
        self.check_attr(id, attr)
    }

    fn check_attr(&self, id: Id, attr: &Attr) -> Checked<()> {
        let (node, stat) = (self.tree.node(id), &attr.stat);
        same("kind", &stat.kind, &node.kind())?;
        same("ino", &stat.ino, &attr.node)?;
        if stat.kind != Kind::Symlink {
            same("perm", &stat.perm, &node.perm)?;
        }
        if let Some(size) = node.size() {
            same("size", &stat.size, &size)?;
        }
        if stat.kind != Kind::Directory {
            same("nlink", &stat.nlink, &self.tree.links(id))?;
        }
        if let Body::Special(Kind::CharDevice | Kind::BlockDevice, rdev) = node.body {
            same("rdev", &stat.rdev, &rdev)?;
        }
        if let Some(mtime) = node.mtime {
            same("mtime", &stat.mtime, &mtime)?;
        }
        Ok(())
    }

    /// Looks an entry up in both; None if both answer the same error.
    fn find(&mut self, at: At) -> Checked<Option<(Id, NodeId)>> {
        let (dir, name) = self.choose(at);
        let parent = self.dir_node(dir)?;
        let found = both("lookup", self.volume().lookup(parent, &name), self.tree.lookup(dir, &name))?;
        let Some((attr, id)) = found else { return Ok(None) };
        self.looked_up(id, &attr)?;
        Ok(Some((id, attr.node)))
    }

    fn handle(&self, number: usize) -> Option<Open> {
        let count = self.handles.len();
        (count > 0).then(|| self.handles[number % count])
    }

    fn is_file(&self, id: Id) -> bool {
        self.tree.node(id).content().is_some()
    }

    /// One operation on both.
    pub fn step(&mut self, op: &Op) -> Checked<Synced> {
        match *op {
            Op::Create { at, write } => self.create(at, write)?,
            Op::Mkdir(at) => {
                let (dir, name) = self.choose(at);
                let (parent, perm) = (self.dir_node(dir)?, self.dir_perm());
                let made = self.volume().mkdir(CALLER, parent, &name, perm);
                self.made(made, dir, &name, Body::Dir(BTreeMap::new()), perm)?;
            }
            Op::Mknod(at, kind) => {
                let (dir, name) = self.choose(at);
                let (parent, perm) = (self.dir_node(dir)?, self.perm());
                let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
                let rdev = if device { 0x103 } else { 0 };
                let made = self.volume().mknod(CALLER, parent, &name, kind, perm, rdev);
                let body = match kind {
                    Kind::File => Body::File(Content::default()),
                    kind => Body::Special(kind, rdev),
                };
                self.made(made, dir, &name, body, perm)?;
            }
            Op::Symlink(at, len) => {
                let (dir, name) = self.choose(at);
                let (parent, _) = (self.dir_node(dir)?, self.perm());
                let target = format!("{:x<len$}", self.made).into_bytes()[..len].to_vec();
                let made = self.volume().symlink(CALLER, parent, &name, &target);
                self.made(made, dir, &name, Body::Link(target), 0o777)?;
            }
            Op::Link(from, to) => self.link(from, to)?,
            Op::Unlink(at) => {
                let (dir, name) = self.choose(at);
                let parent = self.dir_node(dir)?;
                both("unlink", self.volume().unlink(parent, &name), self.tree.unlink(dir, &name))?;
            }
            Op::Rmdir(at) => {
                let (dir, name) = self.choose(at);
                let parent = self.dir_node(dir)?;
                both("rmdir", self.volume().rmdir(parent, &name), self.tree.rmdir(dir, &name))?;
            }
            Op::Rename(from, to, mode) => {
                let ((dir, name), (to_dir, to_name)) = (self.choose(from), self.choose(to));
                let (parent, to_parent) = (self.dir_node(dir)?, self.dir_node(to_dir)?);
                let renamed = self.volume().rename(parent, &name, to_parent, &to_name, mode);
                if self.tree.is_circular(dir, &name, to_dir, &to_name) {
                    // The kernel lets none of these through; whichever error is right.
                    return same("a rename into itself fails", &renamed.is_err(), &true)
                        .map(|()| Synced::Nothing);
                }
                both("rename", renamed, self.tree.rename(dir, &name, to_dir, &to_name, mode))?;
            }
            Op::Open { at, write, truncate } => self.open(at, write, truncate)?,
            Op::Read { handle, offset, len } => {
                if let Some(open) = self.handle(handle).filter(|open| open.read) {
                    let mut buf = vec![0xee; len];
                    let read = self.volume().read(open.handle, offset as u64, &mut buf);
                    let read = read.map_err(|e| format!("read: {e:?}"))?;
                    let due = self.tree.read(open.id, offset, len);
                    same("bytes read", &read, &due.len())?;
                    if &buf[..read] != due {
                        let at = buf.iter().zip(due).position(|(a, b)| a != b);
                        return Err(format!("read at {offset}: other bytes, first at {at:?} of {read}"));
                    }
                }
            }
            Op::Write { handle, offset, len } => self.write(handle, Some(offset), len)?,
            Op::Append { handle, len } => self.write(handle, None, len)?,
            Op::TruncateHandle { handle, size } => {
                if let Some(open) = self.handle(handle).filter(|open| open.write) {
                    let node = self.node_of(open.id)?;
                    self.truncate(open.id, node, Some(open.handle), size)?;
                }
            }
            Op::Truncate { at, size } => {
                if let Some((id, node)) = self.find(at)?.filter(|(id, _)| self.is_file(*id)) {
                    self.truncate(id, node, None, size)?;
                }
            }
            Op::Chmod(at, bits) => {
                if let Some((id, node)) =
                    self.find(at)?.filter(|(id, _)| self.tree.node(*id).kind() != Kind::Symlink)
                {
                    let perm = self.tree.node(id).perm & 0o777
                        | if self.numbered { (bits & 1) << 9 } else { bits << 9 };
                    let set = Change { perm: Some(perm), ..Change::default() };
                    self.tree.chmod(id, perm);
                    self.setattr(id, node, None, &SetAttr { change: set, ..SetAttr::default() })?;
                }
            }
            Op::Mtime(at, sec) => {
                if let Some((id, node)) = self.find(at)? {
                    let mtime = Time { sec: i64::from(sec), nsec: sec % 1_000_000_000 };
                    // Of a directory it changes with the next entry.
                    self.tree.set_mtime(id, self.is_file(id).then_some(mtime));
                    let change = Change { mtime: SetTime::At(mtime), ..Change::default() };
                    self.setattr(id, node, None, &SetAttr { change, ..SetAttr::default() })?;
                }
            }
            Op::SetXattr(at, name, len, mode) => {
                if let Some((id, node)) = self.find_owner(at)? {
                    self.writes += 1;
                    let (name, value) = (xattr_name(name), pattern(self.writes, len));
                    let set = self.volume().set_xattr(node, &name, &value, mode);
                    both("setxattr", set, self.tree.set_xattr(id, &name, &value, mode))?;
                }
            }
            Op::RemoveXattr(at, name) => {
                if let Some((id, node)) = self.find_owner(at)? {
                    let name = xattr_name(name);
                    let removed = self.volume().remove_xattr(node, &name);
                    both("removexattr", removed, self.tree.remove_xattr(id, &name))?;
                }
            }
            Op::Xattrs(at) => {
                if let Some((id, node)) = self.find_owner(at)? {
                    self.check_xattrs(id, node)?;
                }
            }
            Op::Stat(at) => {
                if let Some((id, node)) = self.find(at)? {
                    let attr = self.volume().getattr(node, None).map_err(|e| format!("getattr: {e:?}"))?;
                    self.check_attr(id, &attr)?;
                    self.check_target(id, node)?;
                }
            }
            Op::ReadDir(at, batch) => {
                let dirs = self.tree.dirs();
                self.check_dir(dirs[at.dir % dirs.len()], batch)?;
            }
            Op::Fsync { handle, data_only } => {
                if let Some(open) = self.handle(handle) {
                    self.volume().fsync(open.handle, data_only).map_err(|e| format!("fsync: {e:?}"))?;
                    self.tree.sync(open.id);
                    return Ok(Synced::File { id: open.id, data_only });
                }
            }
            Op::FsyncDir(at) => {
                let dirs = self.tree.dirs();
                let dir = dirs[at.dir % dirs.len()];
                let node = self.dir_node(dir)?;
                self.volume().fsync_dir(node).map_err(|e| format!("fsyncdir: {e:?}"))?;
                return Ok(Synced::Dir(dir));
            }
            Op::Flush(handle) => {
                if let Some(open) = self.handle(handle) {
                    self.volume().flush(open.handle).map_err(|e| format!("flush: {e:?}"))?;
                }
            }
            Op::Release(handle) => {
                if !self.handles.is_empty() {
                    let open = self.handles.remove(handle % self.handles.len());
                    self.volume().release(open.handle).map_err(|e| format!("release: {e:?}"))?;
                    self.tree.released(open.id);
                }
            }
            Op::Forget => self.forget(),
            Op::Remount => {
                self.remount()?;
                self.tree.sync_all();
                return Ok(Synced::All);
            }
        }
        Ok(Synced::Nothing)
    }

    fn find_owner(&mut self, at: At) -> Checked<Option<(Id, NodeId)>> {
        // The kernel lets no one set user attributes of other kinds.
        Ok(self
            .find(at)?
            .filter(|(id, _)| matches!(self.tree.node(*id).kind(), Kind::File | Kind::Directory)))
    }

    fn node_of(&self, id: Id) -> Checked<NodeId> {
        self.known.get(&id).map(|k| k.0).ok_or_else(|| "an open file is not known".to_owned())
    }

    /// An object was made, or both refuse.
    fn made(
        &mut self,
        volume: Result<Attr, VolumeError>,
        dir: Id,
        name: &[u8],
        body: Body,
        perm: u32,
    ) -> Checked<()> {
        if let Some((attr, id)) = both("making an entry", volume, self.tree.make(dir, name, body, perm))? {
            self.looked_up(id, &attr)?;
        }
        Ok(())
    }

    fn create(&mut self, at: At, write: bool) -> Checked<()> {
        let (dir, name) = self.choose(at);
        let (parent, perm) = (self.dir_node(dir)?, self.perm());
        let mode = OpenMode { read: true, write, truncate: false, kill_priv: false };
        let created = self.volume().create(CALLER, parent, &name, perm, mode);
        let model = self.tree.make(dir, &name, Body::File(Content::default()), perm);
        if let Some(((attr, handle), id)) = both("create", created, model)? {
            self.looked_up(id, &attr)?;
            self.tree.opened(id);
            self.handles.push(Open { id, handle, read: true, write });
        }
        Ok(())
    }

    fn open(&mut self, at: At, write: bool, truncate: bool) -> Checked<()> {
        let Some((id, node)) = self.find(at)?.filter(|(id, _)| self.is_file(*id)) else { return Ok(()) };
        let mode = OpenMode { read: true, write, truncate, kill_priv: truncate };
        let handle = self.volume().open_file(CALLER, node, mode).map_err(|e| format!("open: {e:?}"))?;
        self.tree.opened(id);
        if truncate {
            self.tree.edit(id, Edit::Size(0));
        }
        self.handles.push(Open { id, handle, read: true, write });
        Ok(())
    }

    fn link(&mut self, from: At, to: At) -> Checked<()> {
        let Some((id, node)) = self.find(from)? else { return Ok(()) };
        if self.tree.node(id).kind() == Kind::Directory {
            return Ok(());
        }
        let (dir, name) = self.choose(to);
        let parent = self.dir_node(dir)?;
        let linked = both("link", self.volume().link(node, parent, &name), self.tree.link(id, dir, &name))?;
        linked.map_or(Ok(()), |(attr, ())| self.looked_up(id, &attr))
    }

    fn write(&mut self, handle: usize, offset: Option<usize>, len: usize) -> Checked<()> {
        let Some(open) = self.handle(handle).filter(|open| open.write) else { return Ok(()) };
        let end = self.tree.node(open.id).content().map_or(0, |c| c.now.len());
        let offset = offset.unwrap_or(end);
        self.writes += 1;
        let data = pattern(self.writes, len);
        let written = self.volume().write(open.handle, offset as u64, &data, true);
        written.map_err(|e| format!("write: {e:?}"))?;
        self.tree.edit(open.id, Edit::Write(offset, data));
        Ok(())
    }

    fn truncate(&mut self, id: Id, node: NodeId, handle: Option<HandleId>, size: usize) -> Checked<()> {
        self.tree.edit(id, Edit::Size(size));
        let set = SetAttr { size: Some(size as u64), kill_priv: true, ..SetAttr::default() };
        self.setattr(id, node, handle, &set)
    }

    fn setattr(&mut self, id: Id, node: NodeId, handle: Option<HandleId>, set: &SetAttr) -> Checked<()> {
        let attr = self.volume().setattr(CALLER, node, handle, set);
        self.check_attr(id, &attr.map_err(|e| format!("setattr {set:?}: {e:?}"))?)
    }

    fn check_target(&self, id: Id, node: NodeId) -> Checked<()> {
        if let Body::Link(target) = &self.tree.node(id).body {
            let found = self.volume().readlink(node).map_err(|e| format!("readlink: {e:?}"))?;
            same("target", &found, target)?;
        }
        Ok(())
    }

    fn check_xattrs(&self, id: Id, node: NodeId) -> Checked<()> {
        let due = &self.tree.node(id).xattrs;
        let mut found = BTreeMap::new();
        for name in self.volume().list_xattr(node).map_err(|e| format!("listxattr: {e:?}"))? {
            let value = self.volume().get_xattr(node, &name).map_err(|e| format!("getxattr: {e:?}"))?;
            found.insert(name, value);
        }
        same("attributes", &found, due)?;
        let none =
            both("getxattr", self.volume().get_xattr(node, b"user.none"), Err::<(), _>(libc::ENODATA))?;
        same("an attribute that is none", &none.is_none(), &true)
    }

    /// Lists a directory in calls of `batch` entries, and again with attributes.
    fn check_dir(&mut self, dir: Id, batch: usize) -> Checked<()> {
        let (volume, node) = (self.volume(), self.dir_node(dir)?);
        let handle = volume.open_dir(node).map_err(|e| format!("opendir: {e:?}"))?;
        let (mut plain, mut full) = (Vec::new(), Vec::new());
        for (plus, list) in [(false, &mut plain), (true, &mut full)] {
            let mut offset = 0;
            loop {
                let before = list.len();
                let mut add = |entry: &kmsfs::volume::DirEntry, attr: Option<&Attr>| {
                    let takes = list.len() < before + batch;
                    if takes {
                        list.push((entry.clone(), attr.copied()));
                    }
                    takes
                };
                let read = if plus {
                    volume.read_dir_plus(handle, offset, &mut add)
                } else {
                    volume.read_dir(handle, offset, &mut |entry| add(entry, None))
                };
                read.map_err(|e| format!("readdir: {e:?}"))?;
                if list.len() == before {
                    break;
                }
                offset = list[list.len() - 1].0.next_offset;
            }
        }
        volume.release_dir(handle);
        let entries =
            self.tree.entries(dir).map_err(|e| format!("the model's own directory: errno {e}"))?.clone();
        for (list, plus) in [(plain, false), (full, true)] {
            let dots: Vec<_> = list.iter().take(2).map(|e| &e.0.name[..]).collect();
            same("first entries", &dots, &vec![&b"."[..], b".."])?;
            let mut found: Vec<_> = list[2..].iter().map(|(e, _)| (e.name.clone(), e.kind)).collect();
            found.sort_by(|a, b| a.0.cmp(&b.0));
            let due: Vec<_> = entries.iter().map(|(n, id)| (n.clone(), self.tree.node(*id).kind())).collect();
            same("entries", &found, &due)?;
            for (entry, attr) in &list[2..] {
                match attr {
                    Some(attr) if plus => self.looked_up(entries[&entry.name], attr)?,
                    None if !plus => {}
                    _ => return Err(format!("readdirplus: {entry:?} has attributes {attr:?}")),
                }
            }
        }
        Ok(())
    }

    /// The kernel forgets what nobody holds open.
    fn forget(&mut self) {
        let open: Vec<Id> = self.handles.iter().map(|open| open.id).collect();
        let volume = self.volume();
        self.known.retain(|id, (node, lookups)| {
            let held = open.contains(id);
            if !held {
                volume.forget(*node, *lookups);
            }
            held
        });
    }

    fn remount(&mut self) -> Checked<()> {
        self.close()?;
        let opener = self.opener.as_mut().ok_or("this volume cannot be remounted")?;
        self.volume = Some(Arc::new(opener().map_err(|e| format!("open: {e:?}"))?));
        self.check_all()
    }

    /// Releases and forgets all, and closes the volume.
    pub fn close(&mut self) -> Checked<()> {
        for open in std::mem::take(&mut self.handles) {
            self.volume().release(open.handle).map_err(|e| format!("release: {e:?}"))?;
            self.tree.released(open.id);
        }
        self.forget();
        let volume = self.volume.take().ok_or("closed twice")?;
        volume.close().map_err(|e| format!("close: {e:?}"))
    }

    /// Compares everything.
    pub fn check_all(&mut self) -> Checked<()> {
        for dir in self.tree.dirs() {
            self.check_dir(dir, 100)?;
            for id in
                self.tree.entries(dir).map(|e| e.values().copied().collect::<Vec<_>>()).unwrap_or_default()
            {
                let (node, kind) = (self.node_of(id)?, self.tree.node(id).kind());
                self.check_target(id, node)?;
                if matches!(kind, Kind::File | Kind::Directory) {
                    self.check_xattrs(id, node)?;
                }
                if let Some(content) = self.tree.node(id).content() {
                    let found = read_all(&self.volume(), node).map_err(|e| format!("reading all: {e:?}"))?;
                    same("length of content", &found.len(), &content.now.len())?;
                    let other = found.iter().zip(&content.now).position(|(a, b)| a != b);
                    same("first byte that differs", &other, &None)?;
                }
            }
        }
        Ok(())
    }
}
