//! The objects that the kernel knows: node numbers, where they are in the tree, how often they were looked up.
//!
//! A node's number is the backing's inode number, so that it is stable. A number that the backing gives again
//! while the kernel still remembers its first bearer gets another generation. Nobody holds a file open whose
//! number is given again: an open file keeps its inode.

mod state;

use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use self::state::{Place, State};
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

/// One object. A million of them are as much as its size: see the test of it below.
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// See [`Node::generation`].
    generation: u32,
    /// Its kind.
    pub kind: Kind,
    /// Its last name is being removed: the number may be given again before that is known here.
    leaving: AtomicBool,
    /// Its last name is gone: the number may be given again.
    gone: AtomicBool,
    /// Held while the file is being opened or closed, so that it has one [`File`].
    pub opening: Mutex<()>,
    /// Names and counts change under the lock of the table too. Of no two nodes at once: one may be in itself, if somebody has
    /// made the backing so.
    state: Mutex<State>,
}

impl Node {
    fn new(id: NodeId, stat: &Stat, generation: u32) -> Self {
        Self {
            id,
            generation,
            kind: stat.kind,
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            opening: Mutex::new(()),
            state: Mutex::default(),
        }
    }

    /// See [`super::Attr::generation`]. It tells one bearer of a number from the last one, so that it may begin anew after 2^32.
    pub fn generation(&self) -> u64 {
        self.generation.into()
    }

    /// Any name of it; None if all that were known are gone.
    pub fn link(&self) -> Option<Link> {
        self.state.lock().places().next().map(Link::from)
    }

    /// All names of it that are known, the surest first.
    pub fn links(&self) -> Vec<Link> {
        self.state.lock().places().map(Link::from).collect()
    }

    /// True if this is one of its names: under the lock of the name's directory, where names are given and taken.
    pub fn is_at(&self, link: &Link) -> bool {
        self.state.lock().has(&link.into()) && !self.is_gone()
    }

    /// True if what is at `place` now, under its number, is another object.
    fn is_another(&self, stat: &Stat, place: &Place) -> bool {
        let left = self.leaving.load(Ordering::Acquire) && !self.state.lock().has(place);
        left || self.is_gone() || self.kind != stat.kind
    }

    fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.let_go();
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
        self.state.lock().file().cloned()
    }

    /// Sets or takes away the open content.
    pub fn set_file(&self, file: Option<Arc<File>>) {
        let before = self.state.lock().set_file(file);
        drop(before);
    }

    /// The directory, if it is held open.
    pub fn directory(&self) -> Option<Arc<Directory>> {
        self.state.lock().directory().cloned()
    }

    /// It is not held open any more.
    fn let_go(&self) {
        let before = self.state.lock().set_directory(None);
        drop(before);
    }

    /// Nobody remembers it, nothing known is in it, and it is not open.
    fn is_unused(&self) -> bool {
        let state = self.state.lock();
        state.lookups == 0 && state.children() == 0 && state.file().is_none()
    }
}

/// All nodes.
pub struct Nodes {
    /// Device and inode number of the root.
    dev: u64,
    root_ino: u64,
    generations: AtomicU32,
    changes: AtomicU64,
    table: Mutex<Table>,
    /// Nodes whose directory is held open, oldest first; the root is not among them.
    held: Mutex<VecDeque<Arc<Node>>>,
    max_held: usize,
}

/// By number. A node's counts stand in it: a slot is as small as can be, since half of them are empty after the table has grown.
type Table = HashSet<ById>;

struct ById(Arc<Node>);

impl Borrow<NodeId> for ById {
    fn borrow(&self) -> &NodeId {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl Nodes {
    /// Knows the root only.
    pub fn new(root: Directory, stat: &Stat, max_held: usize) -> Self {
        let node = Node::new(ROOT, stat, 0);
        let mut state = node.state.lock();
        state.lookups = 1;
        state.set_directory(Some(Arc::new(root)));
        drop(state);
        Self {
            dev: stat.dev,
            root_ino: stat.ino,
            generations: AtomicU32::new(1),
            changes: AtomicU64::new(0),
            table: Mutex::new([ById(Arc::new(node))].into()),
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

    /// Number of a node's backing inode: what has changed places does so again.
    pub fn ino_of(&self, id: NodeId) -> u64 {
        self.id_of(id)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// A known node.
    pub fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        known(&self.table.lock(), id).cloned().ok_or(VolumeError::Stale)
    }

    /// The open content of all nodes.
    pub fn open_files(&self) -> Vec<Arc<File>> {
        self.table.lock().iter().filter_map(|known| known.0.file()).collect()
    }

    /// Counts a lookup of the object at `link`. Under the lock of the name's directory.
    pub fn remember(&self, stat: &Stat, link: &Link) -> Result<Arc<Node>> {
        self.remember_in(&mut self.table.lock(), stat, link.into())
    }

    /// The same without that lock, of what was seen there after [`Self::changes`] was `before`. None if a name has gone since
    /// then: it may be this one, and would stay with the node.
    pub fn remember_since(&self, before: u64, stat: &Stat, link: &Link) -> Result<Option<Arc<Node>>> {
        let place = link.into();
        let mut table = self.table.lock();
        // Names are taken from nodes under the lock of the table: one that goes from here on finds the node.
        if self.changes() != before {
            return Ok(None);
        }
        self.remember_in(&mut table, stat, place).map(Some)
    }

    fn remember_in(&self, table: &mut Table, stat: &Stat, place: Place) -> Result<Arc<Node>> {
        if stat.dev != self.dev {
            return Err(VolumeError::Unsupported("another filesystem mounted inside a volume"));
        }
        let id = self.id_of(stat.ino);
        let node = match known(table, id) {
            Some(node) if !node.is_another(stat, &place) => node.clone(),
            None => {
                let node = Arc::new(Node::new(id, stat, self.generations.load(Ordering::Relaxed)));
                table.insert(ById(node.clone()));
                node
            }
            Some(first) => {
                // The backing has given the number again; the lookups of the first bearer are still to be forgotten.
                let (lookups, children) = {
                    let first = first.state.lock();
                    (first.lookups, first.children())
                };
                let generation = self.generations.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                let node = Arc::new(Node::new(id, stat, generation));
                let mut state = node.state.lock();
                state.lookups = lookups;
                state.set_children(children);
                drop(state);
                table.replace(ById(node.clone()));
                node
            }
        };
        node.state.lock().lookups += 1;
        Self::add_place(table, &node, place);
        Ok(node)
    }

    fn add_place(table: &Table, node: &Node, place: Place) {
        let parent = place.parent;
        if node.state.lock().add(place)
            && let Some(parent) = known(table, parent)
        {
            let mut parent = parent.state.lock();
            let children = parent.children() + 1;
            parent.set_children(children);
        }
    }

    fn remove_place(table: &mut Table, node: &Node, place: &Place) {
        if node.state.lock().remove(place) {
            Self::lose_child(table, place.parent);
            Self::drop_if_unused(table, place.parent);
        }
    }

    fn lose_child(table: &Table, parent: NodeId) {
        if let Some(parent) = known(table, parent) {
            let mut parent = parent.state.lock();
            let children = parent.children().saturating_sub(1);
            parent.set_children(children);
        }
    }

    /// A node goes when nobody remembers it, nothing known is in it, and it is not open.
    fn drop_if_unused(table: &mut Table, id: NodeId) {
        let mut id = id;
        // Upwards: the last known name in a directory may have kept that.
        while id != ROOT {
            if !known(table, id).is_some_and(|node| node.is_unused()) {
                return;
            }
            let Some(ById(node)) = table.take(&id) else { return };
            let places = node.state.lock().take_places();
            // All but one parent are few: hard links of one file in several directories.
            for place in places.iter().skip(1) {
                Self::lose_child(table, place.parent);
                Self::drop_if_unused(table, place.parent);
            }
            let Some(first) = places.first() else { return };
            Self::lose_child(table, first.parent);
            id = first.parent;
        }
    }

    /// Counts one more lookup of a known node, that is to be taken back; false if it is not known.
    pub fn keep(&self, id: NodeId) -> bool {
        known(&self.table.lock(), id).map(|node| node.state.lock().lookups += 1).is_some()
    }

    /// Takes back lookups.
    pub fn forget(&self, id: NodeId, count: u64) {
        let mut table = self.table.lock();
        if let Some(node) = known(&table, id) {
            let mut state = node.state.lock();
            state.lookups = state.lookups.saturating_sub(count);
            drop(state);
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
        let place = link.into();
        let mut table = self.table.lock();
        self.changes.fetch_add(1, Ordering::Release);
        if last {
            node.set_gone();
        }
        Self::remove_place(&mut table, node, &place);
        // Who has the number now, and was taken for the other by a late look at the name.
        let now = known(&table, node.id).filter(|now| !Arc::ptr_eq(now, node)).cloned();
        if let Some(now) = now {
            Self::remove_place(&mut table, &now, &place);
        }
    }

    /// Moves whenever a name has gone. What was looked up without that is where it was seen.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// An object has another name in the place of one.
    pub fn moved(&self, ino: u64, from: &Link, to: &Link) {
        let (from, to) = (from.into(), Place::from(to));
        let mut table = self.table.lock();
        self.changes.fetch_add(1, Ordering::Release);
        let Some(node) = known(&table, self.id_of(ino)).cloned() else { return };
        Self::add_place(&table, &node, to.clone());
        // A lookup may have brought others, and not looked again yet.
        node.state.lock().prefer(&to);
        Self::remove_place(&mut table, &node, &from);
    }

    /// Keeps a node's directory open, and lets the one go that was opened first if there are too many.
    pub fn hold(&self, node: &Arc<Node>, directory: Arc<Directory>) {
        let before = node.state.lock().set_directory(Some(directory));
        drop(before);
        let mut held = self.held.lock();
        held.push_back(node.clone());
        if held.len() > self.max_held
            && let Some(oldest) = held.pop_front()
        {
            oldest.let_go();
        }
    }
}

fn known(table: &Table, id: NodeId) -> Option<&Arc<Node>> {
    table.get(&id).map(|known| &known.0)
}

#[cfg(test)]
mod tests;
