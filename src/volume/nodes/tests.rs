use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::volume::disk::Time;
use crate::volume::host::HostDir;
use crate::volume::names::base64url;

const ROOT_INO: u64 = 500;

fn stat(ino: u64, kind: Kind, nlink: u64) -> Stat {
    let time = Time::default();
    let (perm, uid, gid, rdev, size, blocks) = (0o644, 0, 0, 0, 0, 0);
    Stat {
        dev: 9,
        ino,
        kind,
        perm,
        nlink,
        uid,
        gid,
        rdev,
        size,
        blocks,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

fn directory(temp: &tempfile::TempDir) -> Directory {
    Directory { dir: HostDir::open(temp.path()).unwrap(), id: [0; 16] }
}

/// 112 is a size class of the allocator, which has no other up to 128: a mount that has made a million files would need 16 MB more.
/// Two counts stand before what an Arc points to.
#[test]
fn a_million_nodes_are_112_mb() {
    assert!(size_of::<Node>() + 2 * size_of::<usize>() <= 112, "{} bytes", size_of::<Node>());
    assert_eq!(size_of::<ById>(), size_of::<usize>());
}

#[test]
fn the_root_and_inode_1_change_places() {
    let temp = tempfile::tempdir().unwrap();
    let nodes = Nodes::new(directory(&temp), &stat(ROOT_INO, Kind::Directory, 2), 1);
    for ino in [1, 2, ROOT_INO, 7] {
        assert_eq!(nodes.ino_of(nodes.id_of(ino)), ino);
    }
    assert_eq!((nodes.id_of(ROOT_INO), nodes.id_of(1), nodes.id_of(2)), (ROOT, ROOT_INO, 2));
}

/// Whoever can write to the backing may have made it so, on a filesystem that lets him.
#[test]
fn a_directory_in_itself_holds_nothing_up() {
    let temp = tempfile::tempdir().unwrap();
    let nodes = Nodes::new(directory(&temp), &stat(ROOT_INO, Kind::Directory, 2), 1);
    let link = |parent, name: u8| Link { parent, entry: base64url(&[name; 20]) };
    let node = nodes.remember(&stat(7, Kind::Directory, 2), &link(ROOT, b'a')).unwrap();
    nodes.remember(&stat(7, Kind::Directory, 2), &link(7, b'b')).unwrap();
    nodes.moved(7, &link(ROOT, b'a'), &link(7, b'a'));
    assert_eq!(node.links(), [link(7, b'a'), link(7, b'b')]);
    nodes.forget(7, 2);
    nodes.unlink(&stat(7, Kind::Directory, 2), &link(7, b'b'), true, || Ok(())).unwrap();
    assert!(node.is_gone());
}

#[test]
fn as_many_directories_are_held_as_may_be() {
    let temp = tempfile::tempdir().unwrap();
    let nodes = Nodes::new(directory(&temp), &stat(ROOT_INO, Kind::Directory, 2), 2);
    let remember = |ino: u64| {
        let link = Link { parent: ROOT, entry: base64url(&ino.to_le_bytes()) };
        let node = nodes.remember(&stat(ino, Kind::Directory, 2), &link).unwrap();
        nodes.hold(&node, Arc::new(directory(&temp)));
        node
    };
    let held: Vec<_> = (2..6).map(remember).collect();
    let open: Vec<_> = held.iter().map(|node| node.directory().is_some()).collect();
    assert_eq!(open, [false, false, true, true]);
    assert!(nodes.get(ROOT).unwrap().directory().is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Look(usize),
    Forget(u64, u64),
    Create(usize, u64, Kind),
    Link(u64, usize),
    Unlink(usize, bool),
    Rename(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (name, ino) = (|| 0..NAMES.len(), || 4..8u64);
    let kind = prop_oneof![9 => Just(Kind::File), 1 => Just(Kind::Symlink)];
    prop_oneof![
        4 => name().prop_map(Step::Look),
        3 => (2..8u64, 0..4u64).prop_map(|(id, count)| Step::Forget(id, count)),
        4 => (name(), ino(), kind).prop_map(|(name, ino, kind)| Step::Create(name, ino, kind)),
        2 => (ino(), name()).prop_map(|(ino, name)| Step::Link(ino, name)),
        3 => (name(), prop::bool::weighted(0.8)).prop_map(|(name, goes)| Step::Unlink(name, goes)),
        2 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
    ]
}

/// Two directories, 2 in the root and 3 in that, and names of files in all three.
const NAMES: [(NodeId, u8); 8] =
    [(ROOT, 2), (2, 3), (ROOT, b'a'), (ROOT, b'b'), (2, b'a'), (2, b'b'), (3, b'a'), (3, b'b')];

fn link(name: usize) -> Link {
    Link { parent: NAMES[name].0, entry: base64url(&[NAMES[name].1; 20]) }
}

/// The backing, and what the table should know.
#[derive(Default)]
struct Model {
    /// Inode, and which of those that bore its number, by name.
    backing: BTreeMap<usize, (u64, Kind, u64)>,
    births: u64,
    known: HashMap<u64, Seen>,
}

#[derive(Default, Clone)]
struct Seen {
    lookups: u64,
    birth: u64,
    names: Vec<usize>,
    generation: u64,
}

impl Model {
    fn links_of(&self, ino: u64) -> u64 {
        self.backing.values().filter(|there| there.0 == ino).count() as u64
    }

    /// A lookup, in the table too.
    fn remember(&mut self, nodes: &Nodes, name: usize) {
        let (ino, kind, birth) = self.backing[&name];
        let node = nodes.remember(&stat(ino, kind, self.links_of(ino)), &link(name)).unwrap();
        assert_eq!((node.id, node.kind, node.is_leaving()), (ino, kind, false));
        assert!(node.links().contains(&link(name)) && node.is_at(&link(name)));
        let before = self.known.get(&ino).cloned();
        let seen = self.known.entry(ino).or_default();
        match before {
            Some(before) if before.birth == birth => assert_eq!(node.generation(), before.generation),
            Some(before) => {
                assert_ne!(node.generation(), before.generation, "two bearers of a number look like one");
                seen.names.clear();
            }
            None => {}
        }
        (seen.birth, seen.generation) = (birth, node.generation());
        seen.lookups += 1;
        if !seen.names.contains(&name) {
            seen.names.push(name);
        }
    }

    fn knows(&self, id: NodeId) -> bool {
        id == ROOT || self.known.contains_key(&id)
    }

    fn lose(&mut self, name: usize, ino: u64) {
        if let Some(seen) = self.known.get_mut(&ino) {
            seen.names.retain(|n| *n != name);
        }
    }

    /// What nobody remembers and nothing known is in goes.
    fn settle(&mut self) {
        loop {
            let parents: Vec<_> =
                self.known.values().flat_map(|seen| &seen.names).map(|name| NAMES[*name].0).collect();
            let before = self.known.len();
            self.known.retain(|ino, seen| seen.lookups > 0 || parents.contains(ino));
            if self.known.len() == before {
                return;
            }
        }
    }

    fn step(&mut self, nodes: &Nodes, step: Step) {
        let at = match step {
            Step::Look(name) | Step::Create(name, ..) | Step::Link(_, name) | Step::Unlink(name, _) => name,
            Step::Rename(from, _) => from,
            Step::Forget(..) => 0,
        };
        let files = 2..;
        // The kernel asks in directories that it knows.
        if !self.knows(NAMES[at].0) {
            return;
        }
        match step {
            Step::Look(name) if self.backing.contains_key(&name) => self.remember(nodes, name),
            Step::Forget(id, count) => {
                let count = count.min(self.known.get(&id).map_or(0, |seen| seen.lookups));
                nodes.forget(id, count);
                if let Some(seen) = self.known.get_mut(&id) {
                    seen.lookups -= count;
                }
            }
            Step::Create(name, ino, kind)
                if files.contains(&name) && !self.backing.contains_key(&name) && self.links_of(ino) == 0 =>
            {
                self.births += 1;
                self.backing.insert(name, (ino, kind, self.births));
                self.remember(nodes, name);
            }
            Step::Link(ino, name) if files.contains(&name) && !self.backing.contains_key(&name) => {
                let Some(there) = self.backing.values().find(|there| there.0 == ino).copied() else { return };
                self.backing.insert(name, there);
                self.remember(nodes, name);
            }
            Step::Unlink(name, goes) if files.contains(&name) && self.backing.contains_key(&name) => {
                // So that it is known, as it is by who removes it.
                self.remember(nodes, name);
                let (ino, kind, _) = self.backing[&name];
                let nlink = self.links_of(ino);
                let take = || if goes { Ok(()) } else { Err(VolumeError::ReadOnly) };
                let taken = nodes.unlink(&stat(ino, kind, nlink), &link(name), nlink == 1, take);
                assert_eq!(taken.is_ok(), goes);
                let gone = nodes.get(ino).unwrap().is_gone();
                assert_eq!(gone, goes && nlink == 1);
                if goes {
                    self.backing.remove(&name);
                    self.lose(name, ino);
                }
                nodes.forget(ino, 1);
                self.known.entry(ino).and_modify(|seen| seen.lookups -= 1);
            }
            Step::Rename(from, to)
                if from >= 2
                    && to >= 2
                    && self.knows(NAMES[to].0)
                    && self.backing.contains_key(&from)
                    && !self.backing.contains_key(&to) =>
            {
                let there = self.backing.remove(&from).unwrap();
                self.backing.insert(to, there);
                nodes.moved(there.0, &link(from), &link(to));
                self.lose(from, there.0);
                if let Some(seen) = self.known.get_mut(&there.0) {
                    seen.names.push(to);
                    assert_eq!(
                        nodes.get(there.0).unwrap().link(),
                        Some(link(to)),
                        "the surest is the new one"
                    );
                }
            }
            _ => {}
        }
    }

    /// The table knows what it should, by the names that it should.
    fn check(&mut self, nodes: &Nodes) {
        self.settle();
        assert_eq!(nodes.len(), self.known.len() + 1);
        for (ino, seen) in &self.known {
            let mut names: Vec<_> = seen.names.iter().map(|name| link(*name)).collect();
            let mut links = nodes.get(*ino).unwrap().links();
            let key = |link: &Link| (link.parent, link.entry.clone());
            names.sort_by_key(key);
            links.sort_by_key(key);
            assert_eq!(links, names, "names of {ino}");
        }
    }
}

proptest! {
    /// Numbers are given again while the kernel remembers who bore them; whoever is forgotten is gone, and none before.
    #[test]
    fn the_table_knows_what_the_kernel_does(steps in prop::collection::vec(step(), 0..80)) {
        let temp = tempfile::tempdir().unwrap();
        let nodes = Nodes::new(directory(&temp), &stat(ROOT_INO, Kind::Directory, 3), 1);
        let mut model = Model::default();
        model.backing.insert(0, (2, Kind::Directory, 0));
        model.backing.insert(1, (3, Kind::Directory, 0));
        for step in steps {
            model.step(&nodes, step);
            model.check(&nodes);
        }
        for (ino, seen) in &mut model.known {
            nodes.forget(*ino, std::mem::take(&mut seen.lookups));
        }
        model.check(&nodes);
        prop_assert_eq!(nodes.len(), 1);
    }
}
