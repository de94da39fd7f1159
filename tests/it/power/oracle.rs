//! What a power cut may leave, said by what was done and what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use kmsfs::volume::disk::{Kind, RenameMode};
use kmsfs::volume::{Attr, DirEntry, NodeId, Volume};

use crate::model::op::Op;
use crate::model::run::{Checked, Synced, read_all};
use crate::model::tree::{Body, Content, Edit, Id, Node, ROOT, Tree};

/// One operation, between two numbers of the disk's calls.
pub struct Done {
    pub op: Op,
    pub start: u64,
    pub end: u64,
    pub synced: Synced,
    /// As it stood afterwards.
    pub tree: Tree,
}

/// All that one caller did, from an empty directory on.
#[derive(Default)]
pub struct History(pub Vec<Done>);

/// What is found after a cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub kind: Kind,
    pub perm: u32,
    pub target: Vec<u8>,
    pub xattrs: Xattrs,
    pub entries: BTreeMap<Vec<u8>, Object>,
    pub content: Vec<u8>,
}

/// Everything below a directory. Any error is a broken promise: nothing was damaged.
pub fn dump(volume: &Volume, node: NodeId, attr: Option<&Attr>) -> Checked<Object> {
    let attr = match attr {
        Some(attr) => *attr,
        None => volume.getattr(node, None).map_err(|e| format!("getattr: {e:?}"))?,
    };
    let (kind, perm) = (attr.stat.kind, attr.stat.perm);
    let mut object = Object {
        kind,
        perm,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
        entries: BTreeMap::new(),
        content: Vec::new(),
    };
    let named = |what: &str, e| format!("{what} of {kind:?} {perm:#o}: {e:?}");
    match kind {
        Kind::File => {
            object.content = read_all(volume, node).map_err(|e| named("reading", e))?;
            if object.content.len() as u64 != attr.stat.size {
                let (said, is) = (attr.stat.size, object.content.len());
                return Err(format!("{kind:?} {perm:#o} says {said} bytes and has {is}"));
            }
        }
        Kind::Symlink => object.target = volume.readlink(node).map_err(|e| named("readlink", e))?,
        Kind::Directory => {
            let handle = volume.open_dir(node).map_err(|e| named("opendir", e))?;
            let mut list: Vec<(DirEntry, Option<Attr>)> = Vec::new();
            let mut add = |entry: &DirEntry, attr: Option<&Attr>| {
                list.push((entry.clone(), attr.copied()));
                true
            };
            volume.read_dir_plus(handle, 0, &mut add).map_err(|e| named("readdir", e))?;
            volume.release_dir(handle);
            for (entry, attr) in list.into_iter().filter(|(e, _)| e.name != b"." && e.name != b"..") {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                let attr = attr.ok_or_else(|| format!("entry {name:?} of {perm:#o} has no attributes"))?;
                let child = dump(volume, attr.node, Some(&attr)).map_err(|e| format!("{name:.8}/{e}"))?;
                volume.forget(attr.node, 1);
                if object.entries.insert(entry.name, child).is_some() {
                    return Err(format!("entry {name:?} of {perm:#o} is there twice"));
                }
            }
        }
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {}
    }
    if matches!(kind, Kind::File | Kind::Directory) {
        for name in volume.list_xattr(node).map_err(|e| named("listxattr", e))? {
            let value = volume.get_xattr(node, &name).map_err(|e| named("getxattr", e))?;
            object.xattrs.insert(name, value);
        }
    }
    Ok(object)
}

/// The number by which an object is known again.
fn number(perm: u32) -> u32 {
    perm & 0o777
}

/// The trees that stood one after the other, and what of them is durable.
struct Trees<'a> {
    trees: Vec<&'a Tree>,
    ops: Vec<&'a Op>,
    synced: &'a [Done],
    /// Contents as of here: what the operation in flight may have written counts, what it would have synced not.
    content: &'a Tree,
}

impl History {
    /// Checks what is found after a cut at call number `cut`.
    pub fn check(&self, first: &Tree, cut: u64, ordered: bool, found: &Object) -> Checked<()> {
        let acknowledged = self.0.partition_point(|done| done.end < cut);
        let begun = self.0.partition_point(|done| done.start < cut);
        let trees: Vec<&Tree> =
            std::iter::once(first).chain(self.0[..begun].iter().map(|done| &done.tree)).collect();
        let in_flight = self.0[acknowledged..begun].last();
        let content = match in_flight {
            Some(done) if done.synced == Synced::Nothing => &done.tree,
            _ => trees[acknowledged],
        };
        let ops = self.0[..begun].iter().map(|done| &done.op).collect();
        let all = Trees { trees, ops, synced: &self.0[..acknowledged], content };
        // Where metadata is not ordered, nothing is known of the order of renames.
        let stands = if ordered { all.is_one_of(found) } else { all.is_made_of(found).map(|()| 0) };
        stands.and_then(|at| all.has_content(found, at)).map_err(|e| {
            let last = &self.0[acknowledged.saturating_sub(6)..begun];
            let ops: Vec<_> = last.iter().map(|done| (&done.op, done.start, done.end)).collect();
            format!("{e}\n{acknowledged} operations acknowledged, {begun} begun; the last ones: {ops:#?}")
        })
    }
}

impl Trees<'_> {
    /// On a disk that keeps metadata in order: the tree is one that stood, and none older than what was synced.
    /// Answers after how many operations.
    fn is_one_of(&self, found: &Object) -> Checked<usize> {
        let floor = self.floor();
        let mut differences = Vec::new();
        for (at, tree) in self.trees.iter().enumerate().skip(floor) {
            match differs(tree, ROOT, found) {
                None => return Ok(at),
                Some(difference) => differences.push(format!("after {at} operations: {difference}")),
            }
            let between = self.ops.get(at).and_then(|op| between(tree, self.trees[at + 1], op));
            if between.is_some_and(|between| differs(&between, ROOT, found).is_none()) {
                return Ok(at);
            }
        }
        let shown = differences.len().saturating_sub(4);
        Err(format!("the tree never stood so; floor {floor}: {:#?}", &differences[shown..]))
    }

    /// The latest tree that acknowledged syncs have made durable.
    fn floor(&self) -> usize {
        let mut floor = 0;
        for (at, done) in self.synced.iter().enumerate() {
            let touched = |touches: &dyn Fn(&Tree, &Tree) -> bool| {
                (0..at).rev().find(|&i| touches(self.trees[i], self.trees[i + 1])).map_or(0, |i| i + 1)
            };
            floor = floor.max(match done.synced {
                Synced::Nothing => 0,
                Synced::All => at + 1,
                Synced::File { id, data_only: true } => {
                    touched(&|a, b| !a.nodes.contains_key(&id) && b.nodes.contains_key(&id))
                }
                Synced::File { id, data_only: false } | Synced::Dir(id) => {
                    touched(&|a, b| names(a, id) != names(b, id) || attributes(a, id) != attributes(b, id))
                }
            });
        }
        floor
    }

    /// On a disk that does not: every entry and every object's attributes are some that stood, and none older
    /// than what was synced.
    fn is_made_of(&self, found: &Object) -> Checked<()> {
        let (mut dirs, mut entries, mut nodes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (at, done) in self.synced.iter().enumerate() {
            let (tree, at) = (&done.tree, at + 1);
            let mut above: Vec<Id> = match done.synced {
                Synced::Nothing => continue,
                Synced::All => tree.nodes.keys().copied().collect(),
                Synced::File { id, .. } | Synced::Dir(id) => vec![id],
            };
            for id in &above {
                dirs.insert(*id, at);
                if !matches!(done.synced, Synced::File { data_only: true, .. }) {
                    nodes.insert(*id, at);
                }
            }
            let mut seen = BTreeSet::new();
            while let Some(id) = above.pop().filter(|id| seen.insert(*id)) {
                for (dir, name) in parents(tree, id) {
                    entries.insert((dir, name), at);
                    above.push(dir);
                }
            }
        }
        let floors = Floors { dirs, entries, nodes };
        self.check_dir(&floors, ROOT, found)
    }

    fn check_dir(&self, floors: &Floors, dir: Id, found: &Object) -> Checked<()> {
        let mut names: BTreeSet<&Vec<u8>> = found.entries.keys().collect();
        for tree in &self.trees {
            names.extend(tree.entries(dir).into_iter().flat_map(BTreeMap::keys));
        }
        for name in names {
            let key = (dir, name.clone());
            let of_entry = floors.entries.get(&key).copied().unwrap_or(0);
            let floor = floors.dirs.get(&dir).copied().unwrap_or(0).max(of_entry);
            let mut candidates = BTreeSet::new();
            for (at, tree) in self.trees.iter().enumerate().skip(floor) {
                let between = self.ops.get(at).and_then(|op| between(tree, self.trees[at + 1], op));
                for tree in [Some(*tree), between.as_ref()].into_iter().flatten() {
                    candidates.insert(tree.entries(dir).ok().and_then(|e| e.get(name).copied()));
                }
            }
            let object = found.entries.get(name);
            let id = object.and_then(|object| self.identify(object, &candidates));
            if object.is_some() != id.is_some() || (id.is_none() && !candidates.contains(&None)) {
                let shown = String::from_utf8_lossy(name);
                let object = object.map(|o| (o.kind, number(o.perm)));
                return Err(format!(
                    "entry {shown:.8?} of {dir} is {object:?}, may be {candidates:?} (floor {floor})"
                ));
            }
            let (Some(object), Some(id)) = (object, id) else { continue };
            let floor = floors.nodes.get(&id).copied().unwrap_or(0);
            let stood = |tree: &&&Tree| tree.nodes.get(&id).is_some_and(|n| same_attributes(n, object));
            if !self.trees[floor..].iter().any(|tree| stood(&tree)) {
                return Err(format!(
                    "object {id} never had these attributes: {:#o} {:?}",
                    object.perm, object.xattrs
                ));
            }
            if object.kind == Kind::Directory {
                self.check_dir(floors, id, object)?;
            }
        }
        Ok(())
    }

    /// Which of the candidates an object is.
    fn identify(&self, object: &Object, candidates: &BTreeSet<Option<Id>>) -> Option<Id> {
        candidates.iter().flatten().copied().find(|id| {
            let node = self.trees.iter().find_map(|tree| tree.nodes.get(id));
            node.is_some_and(|node| is_same(node, object))
        })
    }

    /// What was synced is there, and nothing that was never written. The tree is as after `at` operations.
    fn has_content(&self, found: &Object, at: usize) -> Checked<()> {
        for child in found.entries.values() {
            if child.kind == Kind::File {
                let id_in = |tree: &Tree| tree.nodes.iter().find(|n| is_same(n.1, child)).map(|n| *n.0);
                let id = self.trees.iter().find_map(|tree| id_in(tree));
                let id = id.ok_or_else(|| format!("file {:#o} never was", child.perm))?;
                let of = |tree: &Tree| tree.nodes.get(&id).and_then(|n| n.content().cloned());
                let content = of(self.content).or_else(|| self.trees.iter().rev().find_map(|tree| of(tree)));
                let content = content.ok_or_else(|| format!("file {:#o} is none", child.perm))?;
                let content = self.as_renamed(id, at, content);
                allowed(&content, &child.content).map_err(|e| format!("file {:#o}: {e}", child.perm))?;
            }
            self.has_content(child, at)?;
        }
        Ok(())
    }

    /// A file that was closed, and replaced another by a rename that stands, has what it had then, as if it had
    /// been synced.
    fn as_renamed(&self, id: Id, at: usize, content: Content) -> Content {
        let replaced = |i: &usize| {
            let (before, after) = (self.trees[*i], self.trees[i + 1]);
            matches!(self.ops[*i], Op::Rename(_, _, RenameMode::Replace))
                && parents(after, id)
                    .iter()
                    .any(|(dir, name)| before.lookup(*dir, name).is_ok_and(|there| there != id))
        };
        let Some(at) = (0..at).rev().find(replaced) else { return content };
        let then = self.trees[at].nodes.get(&id).filter(|n| n.open == 0).and_then(|n| n.content());
        match then.filter(|then| then.syncs == content.syncs) {
            Some(then) => {
                let since = content.since[then.since.len()..].to_vec();
                Content { synced: then.now.clone(), since, ..content }
            }
            None => content,
        }
    }
}

/// Indices of trees below which a thing is not found.
struct Floors {
    dirs: BTreeMap<Id, usize>,
    entries: BTreeMap<(Id, Vec<u8>), usize>,
    nodes: BTreeMap<Id, usize>,
}

/// One and the same object, whatever its attributes.
fn is_same(node: &Node, object: &Object) -> bool {
    node.kind() == object.kind
        && match &node.body {
            Body::Link(target) => *target == object.target,
            _ => number(node.perm) == number(object.perm),
        }
}

fn same_attributes(node: &Node, object: &Object) -> bool {
    // A file that was never synced may lose its header, and its attributes with that.
    let empty = object.content.is_empty() && object.xattrs.is_empty();
    let lost = empty && node.content().is_some_and(|content| content.syncs == 0);
    (object.kind == Kind::Symlink || node.perm == object.perm) && (node.xattrs == object.xattrs || lost)
}

/// Where `tree` below `id` is not `found`.
fn differs(tree: &Tree, id: Id, found: &Object) -> Option<String> {
    let node = tree.node(id);
    if id != ROOT && (!is_same(node, found) || !same_attributes(node, found)) {
        let due = (node.kind(), node.perm, node.xattrs.keys());
        return Some(format!("{:?} instead of {due:?}", (found.kind, found.perm, found.xattrs.keys())));
    }
    let Body::Dir(entries) = &node.body else { return None };
    let names = |name: &Vec<u8>| format!("{:.8}", String::from_utf8_lossy(name));
    if let Some(name) = entries.keys().find(|name| !found.entries.contains_key(*name)) {
        return Some(format!("{:?} is missing", names(name)));
    }
    if let Some(name) = found.entries.keys().find(|name| !entries.contains_key(*name)) {
        return Some(format!("{:?} is there", names(name)));
    }
    entries.iter().find_map(|(name, id)| {
        differs(tree, *id, &found.entries[name]).map(|e| format!("{:?}: {e}", names(name)))
    })
}

/// What may be seen in the middle of an operation: a directory that replaces an empty one is exchanged with it,
/// and that is removed afterwards.
fn between(before: &Tree, after: &Tree, op: &Op) -> Option<Tree> {
    if !matches!(op, Op::Rename(_, _, RenameMode::Replace)) {
        return None;
    }
    let gone = before.dirs().into_iter().find(|dir| !after.nodes.contains_key(dir))?;
    let (to, to_name) = parents(before, gone).pop()?;
    let moved = after.lookup(to, &to_name).ok()?;
    let (from, name) = parents(before, moved).pop()?;
    let mut tree = before.clone();
    tree.rename(from, &name, to, &to_name, RenameMode::Exchange).ok()?;
    Some(tree)
}

/// Directory and name of each entry that leads to `id`.
fn parents(tree: &Tree, id: Id) -> Vec<(Id, Vec<u8>)> {
    let mut found = Vec::new();
    for dir in tree.dirs() {
        let entries = tree.entries(dir).into_iter().flatten();
        found.extend(entries.filter(|e| *e.1 == id).map(|(name, _)| (dir, name.clone())));
    }
    found
}

/// Entries that lead to an object, and those in it.
type Names = (Vec<(Id, Vec<u8>)>, Option<BTreeMap<Vec<u8>, Id>>);

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

fn names(tree: &Tree, id: Id) -> Names {
    (parents(tree, id), tree.entries(id).ok().cloned())
}

fn attributes(tree: &Tree, id: Id) -> Option<(u32, &Xattrs)> {
    tree.nodes.get(&id).map(|n| (n.perm, &n.xattrs))
}

/// Checks a file's bytes: those synced and not written again since, exactly; others may be any that were
/// there or were written, or zeros where the file may have ended meanwhile.
pub fn allowed(content: &Content, found: &[u8]) -> Checked<()> {
    let mut lens = vec![content.synced.len()];
    for edit in &content.since {
        let before = lens[lens.len() - 1];
        lens.push(match edit {
            Edit::Write(at, data) => before.max(at + data.len()),
            Edit::Size(size) => *size,
        });
    }
    let (min, max) = lens.iter().fold((usize::MAX, 0), |(min, max), len| (min.min(*len), max.max(*len)));
    // Where the last block of a file with holes is lost, only the end of its page tells the size: zeros up to it.
    let (most, rest) = (max.next_multiple_of(4064), found.get(max..).unwrap_or_default());
    if found.len() < min || found.len() > most || rest.iter().any(|b| *b != 0) {
        let synced = content.synced.len();
        return Err(format!("{} bytes, of {synced} synced; may be {min} to {max}", found.len()));
    }
    for (at, byte) in found.iter().enumerate() {
        let synced = content.synced.get(at) == Some(byte);
        let zero = *byte == 0 && at >= min;
        let written = || {
            content.since.iter().any(|edit| match edit {
                Edit::Write(start, data) => at >= *start && data.get(at - start) == Some(byte),
                Edit::Size(_) => false,
            })
        };
        if !synced && !zero && !written() {
            let (len, synced) = (found.len(), content.synced.len());
            return Err(format!(
                "byte {at} of {len} was never written there ({synced} synced, minimum {min})"
            ));
        }
    }
    Ok(())
}
