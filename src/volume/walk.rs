//! Every file of a volume while it is mounted: what [`super::each`] is to one that nobody has mounted. Directories are taken by
//! node, so that a rename meanwhile does not hide one, and what is renamed during a walk can be looked at once more, at its
//! new place.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::core::Core;
use super::disk::{BackingFile, Kind};
use super::each::{BATCH, Failures, in_threads, joined};
use super::error::{Attempt, Result, VolumeError};
use super::files::read_header;
use super::header::{self, Header, WrappedKey};
use super::names::{EntryClass, classify};
use super::nodes::{Directory, Link, Node};
use super::rewrap::{open_to_write, put_page};
use super::types::{NodeId, ROOT};

/// How long mending is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A node that stays known until this is dropped. The lookup that it takes back was counted by who makes it.
pub(super) struct Kept<'a> {
    pub core: &'a Core,
    pub node: NodeId,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.core.nodes.forget(self.node, 1);
    }
}

/// What was renamed while a walk is under way that must miss nothing; None at other times. The parents are kept known.
#[derive(Default)]
pub struct Moved(Mutex<Option<HashSet<Link>>>);

/// How often what was renamed meanwhile is looked for at its new places. Each time that takes as long as what was renamed since
/// the time before, so that few are needed unless renaming is all that is done.
const ROUNDS: usize = 64;

/// What is done with the files that a walk finds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// What there is to do.
    Act,
    /// Nothing, behind the closed gate: what there would be to do is [`not_reached`].
    Look,
}

/// Of what is renamed all the time.
pub(super) fn not_reached() -> VolumeError {
    VolumeError::Invalid(
        "it is renamed again and again, faster than it can be looked for; call it again when less is renamed",
    )
}

/// What a walk goes through, and how.
pub(super) struct Scope<'a> {
    /// Entries of the backing that lead from the root to a directory or file. Empty: the whole volume.
    pub below: &'a [Vec<u8>],
    /// Threads.
    pub threads: usize,
    /// What is renamed meanwhile is looked at again, until nothing is left behind the closed gate, or else it is a failure. To be
    /// begun with [`Core::note_moves`].
    pub again: bool,
}

/// How a file's keys are replaced.
#[derive(Clone, Copy)]
pub(super) struct Replace {
    /// Leave its mtime alone.
    pub keep_mtime: bool,
    /// What was decided by the old keys holds no more.
    pub end_lease: bool,
}

/// What is done with some files of one directory; an outcome for each.
pub(super) type Work<'a, T> = dyn Fn(&Directory, &[Link], Turn) -> Vec<Result<T>> + Sync + 'a;

/// Files of one directory, with its path from the root in stored names.
type Batch<'a> = (Arc<Kept<'a>>, Arc<Directory>, Arc<[u8]>, Vec<Vec<u8>>);

/// Where files come from, and where they go.
struct Walk<'a, 'b> {
    core: &'a Core,
    goes_on: &'b (dyn Fn() -> bool + Sync),
    failures: &'b Mutex<Failures>,
    turn: Turn,
    /// Directories that were listed: what comes into one later has been noted, or is made as everything shall be.
    listed: &'b mut HashSet<NodeId>,
    give: &'b mut dyn FnMut(Batch<'a>),
}

impl Core {
    /// Stored names for plaintext ones, from the root.
    pub fn stored_path(&self, plain: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let mut kept: Option<Kept> = None;
        let mut stored = Vec::with_capacity(plain.len());
        for (at, name) in plain.iter().enumerate() {
            let parent = kept.as_ref().map_or(ROOT, |kept| kept.node);
            let directory = self.directory(parent)?;
            let entry = self.keys.encode_name(&directory.id, name)?.entry;
            if at + 1 < plain.len() {
                let attr = self.enter(&directory, Link { parent, entry: entry.clone() })?;
                kept = Some(Kept { core: self, node: attr.node });
            }
            stored.push(entry);
        }
        Ok(stored)
    }

    /// Number of files below the directory that stored names lead to.
    pub fn count_files(&self, below: &[Vec<u8>]) -> Result<u64> {
        super::rewrap::count(&self.root, below)
    }

    /// For who writes headers: an error unless what a crash may have cut is mended. Such a write moves the ctime, which would
    /// else excuse what no crash has touched.
    pub(super) fn settled(&self) -> Result<()> {
        self.writable()?;
        drop(self.mending.try_lock_for(PATIENCE).ok_or(VolumeError::NotSettled)?);
        if self.needs_mending() { Err(VolumeError::NotSettled) } else { Ok(()) }
    }

    /// From now on names that are given are noted, for the walk that follows. Behind the closed gate.
    pub(super) fn note_moves(&self) {
        *self.moved.0.lock() = Some(HashSet::new());
    }

    /// A name that a walk must look at again. To be called when the name stands.
    pub(super) fn note_moved(&self, link: &Link) {
        if let Some(moved) = &mut *self.moved.0.lock()
            && !moved.contains(link)
            && self.nodes.keep(link.parent)
        {
            moved.insert(link.clone());
        }
    }

    /// Works on every file. `done` is told of what went well, `seen` of every file that is done with, and answers whether to
    /// go on. True: it did not, and the rest waits.
    pub(super) fn every_file<T>(
        &self,
        scope: &Scope,
        work: &Work<T>,
        done: &(dyn Fn(T) + Sync),
        seen: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Failures, bool)> {
        let walked = self.walk(scope, work, done, seen);
        // What is noted for another walk is none of this one's.
        let noted = if scope.again { self.moved.0.lock().take() } else { None };
        for link in noted.into_iter().flatten() {
            self.nodes.forget(link.parent, 1);
        }
        walked
    }

    /// The tree, then what was renamed meanwhile, until nothing was, or so often that there is no end to it: what is still to be
    /// done then is told.
    fn walk<'s, T>(
        &'s self,
        scope: &Scope,
        work: &Work<T>,
        done: &(dyn Fn(T) + Sync),
        seen: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Failures, bool)> {
        let failures = Mutex::new(Failures::default());
        let stopped = AtomicBool::new(false);
        let goes_on = || !stopped.load(Ordering::Relaxed);
        let work = |turn, (kept, directory, path, names): Batch<'s>| {
            if !goes_on() {
                return;
            }
            let links = names.into_iter().map(|entry| Link { parent: kept.node, entry });
            let links: Vec<_> = links.collect();
            for (link, outcome) in links.iter().zip(work(&directory, &links, turn)) {
                match outcome {
                    Ok(outcome) => done(outcome),
                    // Removed, or renamed and noted.
                    Err(e) if e.is_not_found() || matches!(e, VolumeError::Stale) => {}
                    Err(error) if scope.again && self.is_gone(&directory, link, turn) => drop(error),
                    Err(error) => failures.lock().add(&joined(&path, &link.entry), &error),
                }
                // Who is told may wait for the gate.
                if turn == Turn::Act && !seen() {
                    stopped.store(true, Ordering::Relaxed);
                }
            }
        };
        let mut listed = HashSet::new();
        let mut walk = |turn, feed: &mut dyn FnMut(&mut Walk<'s, '_>) -> Result<()>| {
            in_threads(scope.threads, &|batch| work(turn, batch), |give| {
                let (goes_on, failures, listed) = (&goes_on, &failures, &mut listed);
                feed(&mut Walk { core: self, goes_on, failures, turn, listed, give })
            })
        };
        walk(Turn::Act, &mut |walk| walk.below_root(scope.below))?;
        let mut rounds = 0;
        while goes_on() && scope.again {
            // Whoever is renaming has noted it when the gate is closed.
            let closed = self.gate.close();
            let last = rounds == ROUNDS;
            let noted = {
                let mut moved = self.moved.0.lock();
                let noted = moved.as_mut().map(std::mem::take).unwrap_or_default();
                if noted.is_empty() || last {
                    *moved = None;
                }
                noted
            };
            if noted.is_empty() {
                break;
            }
            // Open again, but for the last time.
            let closed = last.then_some(closed);
            let turn = if last { Turn::Look } else { Turn::Act };
            let mut noted = noted.into_iter().map(|link| {
                let kept = Arc::new(Kept { core: self, node: link.parent });
                (kept, link)
            });
            walk(turn, &mut |walk| {
                for (kept, link) in &mut noted {
                    if self.is_below(link.parent, scope.below) {
                        walk.at(kept, Arc::default(), &link.entry);
                    } else {
                        walk.leave(link.parent);
                    }
                }
                Ok(())
            })?;
            drop(closed);
            if last {
                break;
            }
            rounds += 1;
        }
        Ok((failures.into_inner(), !goes_on()))
    }

    /// True if a file is not there any more. What is being shredded has lost its keys before its name, and both behind the
    /// closed gate.
    fn is_gone(&self, directory: &Directory, link: &Link, turn: Turn) -> bool {
        let _change = (turn == Turn::Act).then(|| self.gate.enter());
        let parent_is = self.nodes.get(link.parent).is_ok_and(|parent| parent.is_gone());
        parent_is || directory.dir.stat_at(&link.entry).is_err_and(|e| e.kind() == ErrorKind::NotFound)
    }

    /// True if a directory is the one that stored names lead to, or below it.
    fn is_below(&self, directory: NodeId, below: &[Vec<u8>]) -> bool {
        let mut path = Vec::new();
        let mut node = directory;
        while node != ROOT {
            let Some(link) = self.nodes.get(node).ok().and_then(|node| node.link()) else { return false };
            path.push(link.entry);
            node = link.parent;
        }
        path.iter().rev().zip(below).filter(|(a, b)| a == b).count() == below.len()
    }

    /// The directory that stored names lead to.
    pub(super) fn descend(&self, below: &[Vec<u8>]) -> Result<Kept<'_>> {
        // The kernel keeps the root, and so does one more.
        self.nodes.keep(ROOT);
        let mut kept = Kept { core: self, node: ROOT };
        for entry in below {
            let directory = self.directory(kept.node)?;
            let found = self.enter(&directory, Link { parent: kept.node, entry: entry.clone() })?;
            kept = Kept { core: self, node: found.node };
            if found.stat.kind != Kind::Directory {
                return Err(VolumeError::NotDirectory);
            }
        }
        Ok(kept)
    }

    /// The file at a name, and its node.
    pub(super) fn file_at(&self, directory: &Directory, link: &Link) -> Result<(Kept<'_>, Arc<Node>)> {
        let (node, stat) = self.found(directory, link)?;
        let kept = Kept { core: self, node: node.id };
        if stat.kind == Kind::File { Ok((kept, node)) } else { Err(VolumeError::Stale) }
    }

    /// The backing file at a name, open for writing, if it is still this one.
    pub(super) fn of_inode(
        &self,
        directory: &Directory,
        link: &Link,
        ino: u64,
    ) -> Result<Arc<dyn BackingFile>> {
        let file = open_to_write(&*directory.dir, &link.entry)?;
        let found = file.stat().attempt("asking for a file's attributes")?.ino;
        if found == ino { Ok(file) } else { Err(VolumeError::Stale) }
    }

    /// Puts other wrapped keys into a file in the place of its header's, in memory too if it is open; false, and nothing is
    /// done, if others stand there by now.
    pub(super) fn replace_keys(
        &self,
        directory: &Directory,
        link: &Link,
        node: &Node,
        (header, new): (&Header, &[WrappedKey]),
        how: Replace,
    ) -> Result<bool> {
        let _change = self.gate.enter();
        // Nobody who is being told yes by the old keys is heard after the lease has ended.
        let _opening = node.opening.lock();
        let open = node.file();
        let backing = match open.as_ref().filter(|file| file.is_writable()) {
            Some(file) => file.content.file(),
            None => match self.of_inode(directory, link, self.nodes.ino_of(node.id)) {
                // Another file has the name by now.
                Err(VolumeError::Stale) => return Ok(false),
                opened => opened?,
            },
        };
        let written = if let Some(file) = open {
            file.content.set_wrapped(&header.keys, new, &*backing, how.keep_mtime)?
        } else if node.is_leaving() {
            // And it has the number too, but another node. From here on the number is this one's, since it is open.
            false
        } else {
            let (page, there) = read_header(&*backing)?;
            let same = there.is_some_and(|there| there.keys == header.keys);
            if same {
                put_page(&*backing, &*header::with_keys(&page, new)?, how.keep_mtime)?;
            }
            same
        };
        if written && how.end_lease {
            self.leases.end(&header.file_id);
        }
        Ok(written)
    }
}

impl<'a> Walk<'a, '_> {
    /// From where stored names lead to.
    fn below_root(&mut self, below: &[Vec<u8>]) -> Result<()> {
        let core = self.core;
        // The kernel keeps the root, and so does one more.
        core.nodes.keep(ROOT);
        let mut kept = Arc::new(Kept { core, node: ROOT });
        let mut path: Arc<[u8]> = Arc::default();
        for (at, entry) in below.iter().enumerate() {
            let directory = core.directory(kept.node)?;
            let found = core.enter(&directory, Link { parent: kept.node, entry: entry.clone() })?;
            let found_kept = Kept { core, node: found.node };
            match found.stat.kind {
                Kind::Directory => {
                    path = joined(&path, entry);
                    kept = Arc::new(found_kept);
                }
                Kind::File if at + 1 == below.len() => {
                    (self.give)((kept, directory, path, vec![entry.clone()]));
                    return Ok(());
                }
                _ => return Err(VolumeError::NotDirectory),
            }
        }
        self.down(kept, path);
        Ok(())
    }

    /// An entry, whatever it is.
    fn at(&mut self, parent: Arc<Kept<'a>>, path: Arc<[u8]>, entry: &[u8]) {
        let core = self.core;
        let link = Link { parent: parent.node, entry: entry.to_vec() };
        let found =
            core.directory(parent.node).and_then(|directory| Ok((core.enter(&directory, link)?, directory)));
        match found {
            Ok((attr, directory)) => {
                let kept = Arc::new(Kept { core, node: attr.node });
                match attr.stat.kind {
                    Kind::Directory => self.down(kept, joined(&path, entry)),
                    Kind::File => (self.give)((parent, directory, path, vec![entry.to_vec()])),
                    _ => {}
                }
            }
            Err(error) => self.failed(&joined(&path, entry), error),
        }
    }

    fn failed(&self, path: &[u8], error: VolumeError) {
        // Removed, or renamed and noted; what was removed may have given its number to a file.
        if !error.is_not_found() && !matches!(error, VolumeError::Stale | VolumeError::NotDirectory) {
            self.failures.lock().add(path, &error);
        }
    }

    /// A directory and all below it.
    fn down(&mut self, kept: Arc<Kept<'a>>, path: Arc<[u8]>) {
        let mut waiting = vec![(kept, path)];
        while let Some((kept, path)) = waiting.pop() {
            if !(self.goes_on)() {
                return;
            }
            if self.listed.contains(&kept.node) {
                continue;
            }
            if self.turn == Turn::Look {
                self.failed(&path, not_reached());
                continue;
            }
            match self.list(&kept, &path, &mut waiting) {
                ControlFlow::Continue(()) => drop(self.listed.insert(kept.node)),
                ControlFlow::Break(error) => self.failed(&path, error),
            }
        }
    }

    /// Something has come into a directory that is not in what is gone through, at the moment. When the directory comes back, or
    /// one above it, that is still to be found.
    fn leave(&mut self, directory: NodeId) {
        let mut node = directory;
        while node != ROOT {
            self.listed.remove(&node);
            let Some(link) = self.core.nodes.get(node).ok().and_then(|node| node.link()) else { return };
            node = link.parent;
        }
    }

    fn list(
        &mut self,
        kept: &Arc<Kept<'a>>,
        path: &Arc<[u8]>,
        waiting: &mut Vec<(Arc<Kept<'a>>, Arc<[u8]>)>,
    ) -> ControlFlow<VolumeError> {
        let core = self.core;
        let listed = core.directory(kept.node).and_then(|directory| {
            let entries = directory.dir.entries().attempt("listing a directory")?;
            Ok((directory, entries))
        });
        let (directory, entries) = match listed {
            Ok(listed) => listed,
            Err(error) => return ControlFlow::Break(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            match (classify(&entry.name), entry.kind) {
                (EntryClass::Name | EntryClass::Long, Kind::File) => files.push(entry.name),
                (EntryClass::Name | EntryClass::Long, Kind::Directory) => {
                    let below = joined(path, &entry.name);
                    match core.enter(&directory, Link { parent: kept.node, entry: entry.name }) {
                        Ok(attr) => waiting.push((Arc::new(Kept { core, node: attr.node }), below)),
                        Err(error) => self.failed(&below, error),
                    }
                }
                _ => {}
            }
        }
        for names in files.chunks(BATCH) {
            (self.give)((kept.clone(), directory.clone(), path.clone(), names.to_vec()));
        }
        ControlFlow::Continue(())
    }
}
