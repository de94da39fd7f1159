//! The objects that the kernel knows: node numbers, where they are in the tree, how often they were looked up.
//!
//! A node's number is the backing's inode number, so that it is stable. A number that the backing gives again
//! while the kernel still remembers its first bearer gets another generation. Nobody holds a file open whose
//! number is given again: an open file keeps its inode.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::disk::{Dir, Kind, Stat};
use super::error::{Result, VolumeError};
use super::file::File;
use super::names::DirId;
use super::types::{NodeId, ROOT};

/// A directory of the volume, held open.
pub struct Directory {
    /// The backing directory.
    pub dir: Arc<dyn Dir>,
    /// Associated data of its names.
    pub id: DirId,
}

/// One name of an object: an entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Link {
    /// The directory.
    pub parent: NodeId,
    /// The encrypted name in it.
    pub entry: Vec<u8>,
}

/// One object.
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Number of the backing's inode.
    pub ino: u64,
    /// Its kind.
    pub kind: Kind,
    /// See [`super::Attr::generation`].
    pub generation: u64,
    /// The names of it that were seen.
    links: Mutex<Vec<Link>>,
    /// Its last name is being removed: the number may be given again before that is known here.
    leaving: AtomicBool,
    /// Its last name is gone: the number may be given again.
    gone: AtomicBool,
    /// Held while the file is being opened or closed, so that it has one [`File`].
    pub opening: Mutex<()>,
    /// The content, while it is open.
    file: Mutex<Option<Arc<File>>>,
    /// The directory, while it is held open.
    directory: Mutex<Option<Arc<Directory>>>,
}

impl Node {
    fn new(id: NodeId, stat: &Stat, generation: u64) -> Self {
        Self {
            id,
            ino: stat.ino,
            kind: stat.kind,
            generation,
            links: Mutex::default(),
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            opening: Mutex::new(()),
            file: Mutex::default(),
            directory: Mutex::default(),
        }
    }

    /// Any name of it; None if all that were known are gone.
    pub fn link(&self) -> Option<Link> {
        self.links.lock().first().cloned()
    }

    /// All names of it that are known, the surest first.
    pub fn links(&self) -> Vec<Link> {
        self.links.lock().clone()
    }

    /// True if this is one of its names: under the lock of the name's directory, where names are given and taken.
    pub fn is_at(&self, link: &Link) -> bool {
        self.links.lock().contains(link) && !self.is_gone()
    }

    /// True if what is at `link` now, under its number, is another object.
    fn is_another(&self, stat: &Stat, link: &Link) -> bool {
        let left = self.leaving.load(Ordering::Acquire) && !self.links.lock().contains(link);
        left || self.is_gone() || self.kind != stat.kind
    }

    fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
        *self.directory.lock() = None;
    }

    /// True if its last name is being removed, or gone: the number may be another's by now.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) || self.is_gone()
    }

    /// True if its last name is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// The content, if it is open.
    pub fn file(&self) -> Option<Arc<File>> {
        self.file.lock().clone()
    }

    /// Sets or takes away the open content.
    pub fn set_file(&self, file: Option<Arc<File>>) {
        *self.file.lock() = file;
    }

    /// The directory, if it is held open.
    pub fn directory(&self) -> Option<Arc<Directory>> {
        self.directory.lock().clone()
    }
}

/// All nodes.
pub struct Nodes {
    /// Device and inode number of the root.
    dev: u64,
    root_ino: u64,
    generations: AtomicU64,
    changes: AtomicU64,
    table: Mutex<HashMap<NodeId, Known>>,
    /// Nodes whose directory is held open, oldest first; the root is not among them.
    held: Mutex<VecDeque<Arc<Node>>>,
    max_held: usize,
}

struct Known {
    node: Arc<Node>,
    /// Lookups that were not forgotten.
    lookups: u64,
    /// Names of known nodes in this directory.
    children: u64,
}

impl Nodes {
    /// Knows the root only.
    pub fn new(root: Directory, stat: &Stat, max_held: usize) -> Self {
        let node = Node::new(ROOT, stat, 0);
        *node.directory.lock() = Some(Arc::new(root));
        let known = Known { node: Arc::new(node), lookups: 1, children: 0 };
        Self {
            dev: stat.dev,
            root_ino: stat.ino,
            generations: AtomicU64::new(1),
            changes: AtomicU64::new(0),
            table: Mutex::new([(ROOT, known)].into()),
            held: Mutex::default(),
            max_held: max_held.max(1),
        }
    }

    /// Number of a backing inode: its own, but the root and inode 1 change places.
    pub fn id_of(&self, ino: u64) -> NodeId {
        match ino {
            ino if ino == self.root_ino => ROOT,
            ROOT => self.root_ino,
            ino => ino,
        }
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// A known node.
    pub fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        self.table.lock().get(&id).map(|k| k.node.clone()).ok_or(VolumeError::Stale)
    }

    /// The open content of all nodes.
    pub fn open_files(&self) -> Vec<Arc<File>> {
        self.table.lock().values().filter_map(|k| k.node.file()).collect()
    }

    /// Counts a lookup of the object at `link`. Under the lock of the name's directory.
    pub fn remember(&self, stat: &Stat, link: &Link) -> Result<Arc<Node>> {
        self.remember_in(&mut self.table.lock(), stat, link)
    }

    /// The same without that lock, of what was seen there after [`Self::changes`] was `before`. None if a name has gone since
    /// then: it may be this one, and would stay with the node.
    pub fn remember_since(&self, before: u64, stat: &Stat, link: &Link) -> Result<Option<Arc<Node>>> {
        let mut table = self.table.lock();
        // Names are taken from nodes under the lock of the table: one that goes from here on finds the node.
        if self.changes() != before {
            return Ok(None);
        }
        self.remember_in(&mut table, stat, link).map(Some)
    }

    fn remember_in(&self, table: &mut HashMap<NodeId, Known>, stat: &Stat, link: &Link) -> Result<Arc<Node>> {
        if stat.dev != self.dev {
            return Err(VolumeError::Unsupported("another filesystem mounted inside a volume"));
        }
        let id = self.id_of(stat.ino);
        let known = table.entry(id).or_insert_with(|| {
            let generation = self.generations.load(Ordering::Relaxed);
            Known { node: Arc::new(Node::new(id, stat, generation)), lookups: 0, children: 0 }
        });
        if known.node.is_another(stat, link) {
            // The backing has given the number again; the lookups of the first bearer are still to be forgotten.
            let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
            known.node = Arc::new(Node::new(id, stat, generation));
        }
        known.lookups += 1;
        let node = known.node.clone();
        Self::add_link(table, &node, link);
        Ok(node)
    }

    fn add_link(table: &mut HashMap<NodeId, Known>, node: &Node, link: &Link) {
        let mut links = node.links.lock();
        if !links.contains(link) {
            // Nearly all have one name, and a vector grows to four.
            links.reserve_exact(1);
            links.push(link.clone());
            if let Some(parent) = table.get_mut(&link.parent) {
                parent.children += 1;
            }
        }
    }

    fn remove_link(table: &mut HashMap<NodeId, Known>, node: &Node, link: &Link) {
        let mut links = node.links.lock();
        if let Some(at) = links.iter().position(|l| l == link) {
            links.remove(at);
            drop(links);
            Self::lose_child(table, link.parent);
        }
    }

    fn lose_child(table: &mut HashMap<NodeId, Known>, parent: NodeId) {
        if let Some(known) = table.get_mut(&parent) {
            known.children = known.children.saturating_sub(1);
            Self::drop_if_unused(table, parent);
        }
    }

    /// A node goes when nobody remembers it, nothing known is in it, and it is not open.
    fn drop_if_unused(table: &mut HashMap<NodeId, Known>, id: NodeId) {
        let mut id = id;
        // Upwards: the last known name in a directory may have kept that.
        while id != ROOT {
            let unused = |k: &Known| k.lookups == 0 && k.children == 0 && k.node.file().is_none();
            if !table.get(&id).is_some_and(unused) {
                return;
            }
            let Some(known) = table.remove(&id) else { return };
            let links = std::mem::take(&mut *known.node.links.lock());
            // All but one parent are few: hard links of one file in several directories.
            for link in links.iter().skip(1) {
                Self::lose_child(table, link.parent);
            }
            let Some(first) = links.first() else { return };
            if let Some(parent) = table.get_mut(&first.parent) {
                parent.children = parent.children.saturating_sub(1);
            }
            id = first.parent;
        }
    }

    /// Counts one more lookup of a known node, that is to be taken back; false if it is not known.
    pub fn keep(&self, id: NodeId) -> bool {
        self.table.lock().get_mut(&id).map(|known| known.lookups += 1).is_some()
    }

    /// Takes back lookups.
    pub fn forget(&self, id: NodeId, count: u64) {
        let mut table = self.table.lock();
        if let Some(known) = table.get_mut(&id) {
            known.lookups = known.lookups.saturating_sub(count);
            Self::drop_if_unused(&mut table, id);
        }
    }

    /// A file was closed: it may be the last that kept its node.
    pub fn closed(&self, id: NodeId) {
        Self::drop_if_unused(&mut self.table.lock(), id);
    }

    /// Takes a name away in the backing by `take`; with `last` the object has no other, and its number may be given again
    /// before `take` is back. Under the lock of the name's directory.
    pub fn unlink<T>(
        &self,
        stat: &Stat,
        link: &Link,
        last: bool,
        take: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        // Known, so that who gets the number meanwhile is told apart.
        let node = self.remember(stat, link)?;
        node.leaving.store(last, Ordering::Release);
        let taken = take();
        if taken.is_ok() {
            self.unlinked(&node, link, last);
        } else {
            node.leaving.store(false, Ordering::Release);
        }
        self.forget(node.id, 1);
        taken
    }

    fn unlinked(&self, node: &Arc<Node>, link: &Link, last: bool) {
        let mut table = self.table.lock();
        self.changes.fetch_add(1, Ordering::Release);
        if last {
            node.set_gone();
        }
        Self::remove_link(&mut table, node, link);
        // Who has the number now, and was taken for the other by a late look at the name.
        let now = table.get(&node.id).map(|known| known.node.clone());
        if let Some(now) = now.filter(|now| !Arc::ptr_eq(now, node)) {
            Self::remove_link(&mut table, &now, link);
        }
    }

    /// Moves whenever a name has gone. What was looked up without that is where it was seen.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// An object has another name in the place of one.
    pub fn moved(&self, ino: u64, from: &Link, to: &Link) {
        let mut table = self.table.lock();
        self.changes.fetch_add(1, Ordering::Release);
        let Some(node) = table.get(&self.id_of(ino)).map(|k| k.node.clone()) else { return };
        Self::add_link(&mut table, &node, to);
        // A lookup may have brought others, and not looked again yet.
        let mut links = node.links.lock();
        links.sort_by_key(|link| link != to);
        drop(links);
        Self::remove_link(&mut table, &node, from);
    }

    /// Keeps a node's directory open, and lets the one go that was opened first if there are too many.
    pub fn hold(&self, node: &Arc<Node>, directory: Arc<Directory>) {
        *node.directory.lock() = Some(directory);
        let mut held = self.held.lock();
        held.push_back(node.clone());
        if held.len() > self.max_held
            && let Some(oldest) = held.pop_front()
        {
            *oldest.directory.lock() = None;
        }
    }
}
