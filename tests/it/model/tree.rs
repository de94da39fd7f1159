//! A tree of files as POSIX has it, in memory. Errors are errno.
//!
//! For the power-cut tests it also remembers, for each file, what was synced and what was done to it since.

use std::collections::BTreeMap;
use std::sync::Arc;

use kmsfs::volume::disk::{Kind, RenameMode, Time, XattrMode};

pub type Id = u64;
pub type Answer<T> = Result<T, i32>;

pub const ROOT: Id = 1;

#[derive(Debug, Clone)]
pub struct Tree {
    pub nodes: BTreeMap<Id, Arc<Node>>,
    next: Id,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub body: Body,
    pub perm: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Known only after it was set.
    pub mtime: Option<Time>,
    /// Handles.
    pub open: usize,
}

#[derive(Debug, Clone)]
pub enum Body {
    File(Content),
    Dir(BTreeMap<Vec<u8>, Id>),
    Link(Vec<u8>),
    Special(Kind, u64),
}

/// A file's bytes, and what a power cut may make of them.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub now: Vec<u8>,
    /// As of the last fsync.
    pub synced: Vec<u8>,
    /// Done since.
    pub since: Vec<Edit>,
    /// How often it was synced.
    pub syncs: u32,
}

#[derive(Debug, Clone)]
pub enum Edit {
    Write(usize, Vec<u8>),
    Size(usize),
}

impl Content {
    fn edit(&mut self, edit: Edit) {
        match &edit {
            Edit::Write(at, data) => {
                let end = at + data.len();
                self.now.resize(self.now.len().max(end), 0);
                self.now[*at..end].copy_from_slice(data);
            }
            Edit::Size(size) => self.now.resize(*size, 0),
        }
        self.since.push(edit);
    }
}

impl Node {
    fn new(body: Body, perm: u32) -> Self {
        Self { body, perm, xattrs: BTreeMap::new(), mtime: None, open: 0 }
    }

    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::File(_) => Kind::File,
            Body::Dir(_) => Kind::Directory,
            Body::Link(_) => Kind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    pub fn size(&self) -> Option<u64> {
        match &self.body {
            Body::File(content) => Some(content.now.len() as u64),
            Body::Link(target) => Some(target.len() as u64),
            Body::Dir(_) | Body::Special(..) => None,
        }
    }

    pub fn content(&self) -> Option<&Content> {
        if let Body::File(content) = &self.body { Some(content) } else { None }
    }
}

impl Tree {
    pub fn new() -> Self {
        let root = Node::new(Body::Dir(BTreeMap::new()), 0o700);
        Self { nodes: [(ROOT, Arc::new(root))].into(), next: ROOT + 1 }
    }

    /// A node that is known to exist.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&id).expect("the runner uses ids of this tree"))
    }

    pub fn entries(&self, dir: Id) -> Answer<&BTreeMap<Vec<u8>, Id>> {
        match &self.nodes.get(&dir).ok_or(libc::ESTALE)?.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn entries_mut(&mut self, dir: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.node_mut(dir).body {
            Body::Dir(entries) => entries,
            _ => panic!("the caller has looked that it is a directory"),
        }
    }

    pub fn links(&self, id: Id) -> u64 {
        let dirs =
            self.nodes.values().filter_map(|n| if let Body::Dir(e) = &n.body { Some(e) } else { None });
        dirs.flat_map(BTreeMap::values).filter(|e| **e == id).count() as u64
    }

    /// Directories that have a path, by id.
    pub fn dirs(&self) -> Vec<Id> {
        let is_dir = |n: &Arc<Node>| matches!(n.body, Body::Dir(_));
        self.nodes.iter().filter(|(_, n)| is_dir(n)).map(|(id, _)| *id).collect()
    }

    /// Names from the root to a directory.
    pub fn path(&self, dir: Id) -> Vec<Vec<u8>> {
        let (mut path, mut at) = (Vec::new(), dir);
        while at != ROOT {
            let above = self.nodes.iter().find_map(|(id, n)| match &n.body {
                Body::Dir(entries) => {
                    entries.iter().find(|(_, e)| **e == at).map(|(name, _)| (*id, name.clone()))
                }
                _ => None,
            });
            let (above, name) = above.expect("a directory without a path is gone from the tree");
            path.push(name);
            at = above;
        }
        path.reverse();
        path
    }

    pub fn lookup(&self, dir: Id, name: &[u8]) -> Answer<Id> {
        if name.len() > 255 {
            return Err(libc::ENAMETOOLONG);
        }
        self.entries(dir)?.get(name).copied().ok_or(libc::ENOENT)
    }

    fn forget_if_gone(&mut self, id: Id) {
        if self.nodes.get(&id).is_some_and(|n| n.open == 0) && self.links(id) == 0 {
            self.nodes.remove(&id);
        }
    }

    pub fn make(&mut self, dir: Id, name: &[u8], body: Body, perm: u32) -> Answer<Id> {
        // The kernel takes the target in before it looks at the name.
        if matches!(&body, Body::Link(target) if target.len() > 4095) {
            return Err(libc::ENAMETOOLONG);
        }
        match self.lookup(dir, name) {
            Err(libc::ENOENT) => {}
            Ok(_) => return Err(libc::EEXIST),
            Err(e) => return Err(e),
        }
        let inherited = if matches!(body, Body::Dir(_)) { self.node(dir).perm & 0o2000 } else { 0 };
        let perm = perm | inherited;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Arc::new(Node::new(body, perm)));
        self.entries_mut(dir).insert(name.to_vec(), id);
        Ok(id)
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Answer<()> {
        match self.lookup(dir, name) {
            Err(libc::ENOENT) => {}
            Ok(_) => return Err(libc::EEXIST),
            Err(e) => return Err(e),
        }
        self.entries_mut(dir).insert(name.to_vec(), id);
        Ok(())
    }

    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Answer<()> {
        let id = self.lookup(dir, name)?;
        if matches!(self.node(id).body, Body::Dir(_)) {
            return Err(libc::EISDIR);
        }
        self.entries_mut(dir).remove(name);
        self.forget_if_gone(id);
        Ok(())
    }

    pub fn rmdir(&mut self, dir: Id, name: &[u8]) -> Answer<()> {
        let id = self.lookup(dir, name)?;
        if !self.entries(id)?.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.entries_mut(dir).remove(name);
        self.forget_if_gone(id);
        Ok(())
    }

    /// True if `id` is `below` or a directory above it.
    fn is_above(&self, id: Id, below: Id) -> bool {
        id == below || self.entries(id).is_ok_and(|e| e.values().any(|child| self.is_above(*child, below)))
    }

    /// True for a rename of a directory into itself, or over one above: the kernel refuses that by itself.
    pub fn is_circular(&self, dir: Id, name: &[u8], to: Id, to_name: &[u8]) -> bool {
        let into_itself = self.lookup(dir, name).is_ok_and(|id| self.is_above(id, to));
        into_itself || self.lookup(to, to_name).is_ok_and(|there| self.is_above(there, dir))
    }

    pub fn rename(&mut self, dir: Id, name: &[u8], to: Id, to_name: &[u8], mode: RenameMode) -> Answer<()> {
        // The kernel looks both names up before it decides.
        if name.len().max(to_name.len()) > 255 {
            return Err(libc::ENAMETOOLONG);
        }
        let id = self.lookup(dir, name)?;
        let there = match self.lookup(to, to_name) {
            Ok(there) => Some(there),
            Err(libc::ENOENT) => None,
            Err(e) => return Err(e),
        };
        let is_dir = |id: Id| self.entries(id).is_ok();
        let up = there.is_some_and(|there| is_dir(there) && self.is_above(there, dir));
        match (mode, there) {
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if is_dir(id) && self.is_above(id, to) {
            return Err(libc::EINVAL);
        }
        if up {
            return Err(if mode == RenameMode::Exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if there == Some(id) {
            return Ok(());
        }
        if let (RenameMode::Replace, Some(there)) = (mode, there) {
            match (is_dir(id), is_dir(there)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(there)?.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.entries_mut(dir).remove(name);
        self.entries_mut(to).insert(to_name.to_vec(), id);
        match (mode, there) {
            (RenameMode::Exchange, Some(there)) => drop(self.entries_mut(dir).insert(name.to_vec(), there)),
            (_, Some(there)) => self.forget_if_gone(there),
            (_, None) => {}
        }
        Ok(())
    }

    pub fn opened(&mut self, id: Id) {
        self.node_mut(id).open += 1;
    }

    pub fn released(&mut self, id: Id) {
        self.node_mut(id).open -= 1;
        self.forget_if_gone(id);
    }

    pub fn read(&self, id: Id, offset: usize, len: usize) -> &[u8] {
        let now = &self.node(id).content().expect("only files are opened").now;
        let start = offset.min(now.len());
        &now[start..(start + len).min(now.len())]
    }

    pub fn edit(&mut self, id: Id, edit: Edit) {
        let node = self.node_mut(id);
        if let Body::File(content) = &mut node.body {
            content.edit(edit);
            node.mtime = None;
            // As kill_priv asks.
            node.perm &= if node.perm & 0o010 != 0 { !0o6000 } else { !0o4000 };
        }
    }

    pub fn sync(&mut self, id: Id) {
        if let Body::File(content) = &mut self.node_mut(id).body {
            content.synced = content.now.clone();
            content.since.clear();
            content.syncs += 1;
        }
    }

    pub fn sync_all(&mut self) {
        self.nodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.sync(id));
    }

    pub fn chmod(&mut self, id: Id, perm: u32) {
        self.node_mut(id).perm = perm;
    }

    pub fn set_mtime(&mut self, id: Id, mtime: Option<Time>) {
        self.node_mut(id).mtime = mtime;
    }

    pub fn get_xattr(&self, id: Id, name: &[u8]) -> Answer<Vec<u8>> {
        self.node(id).xattrs.get(name).cloned().ok_or(libc::ENODATA)
    }

    pub fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], mode: XattrMode) -> Answer<()> {
        match (mode, self.node(id).xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(libc::EEXIST),
            (XattrMode::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        self.node_mut(id).xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    pub fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Answer<()> {
        self.get_xattr(id, name)?;
        self.node_mut(id).xattrs.remove(name);
        Ok(())
    }
}
