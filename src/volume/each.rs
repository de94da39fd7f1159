//! Every file of a backing tree, without knowing its names: found by one thread, worked on by several.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use parking_lot::Mutex;

use super::disk::{Dir, Kind, RawEntry};
use super::error::{Attempt, Result, VolumeError};
use super::names::{EntryClass, classify};

/// Files that a thread takes at once.
pub(super) const BATCH: usize = 32;
/// Failures that are kept with their reasons.
const TOLD: usize = 10;

/// What could not be done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// In the backing directory, from the volume's root.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Failures: how many, and the first few.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failures {
    /// All.
    pub count: u64,
    /// At most ten.
    pub first: Vec<Failure>,
}

impl Failures {
    pub(super) fn join(&mut self, others: Self) {
        self.count += others.count;
        self.first.extend(others.first);
        self.first.truncate(TOLD);
    }

    pub(super) fn add(&mut self, path: &[u8], error: &VolumeError) {
        self.count += 1;
        if self.first.len() < TOLD {
            let path = String::from_utf8_lossy(path).into_owned();
            self.first.push(Failure { path, reason: error.to_string() });
        }
    }
}

/// What is done with a file of a directory.
pub(super) type Work<'a> = dyn Fn(&dyn Dir, &[u8]) -> Result<()> + Sync + 'a;

/// What is done with some files of a directory; an outcome for each.
pub(super) type BatchWork<'a> = dyn Fn(&dyn Dir, &[Vec<u8>]) -> Vec<Result<()>> + Sync + 'a;

/// A directory to go through: one with its path from the root, or the name of one below that.
type Waiting = (Arc<dyn Dir>, Arc<[u8]>, Option<Vec<u8>>);

/// A directory with its path from the root, and names of files in it.
pub(super) type Found<'a> = &'a mut dyn FnMut(&Arc<dyn Dir>, &Arc<[u8]>, Vec<Vec<u8>>);

/// Goes through a tree without knowing its names. What cannot be looked into is given to `failed`.
pub(super) fn walk(
    root: &Arc<dyn Dir>,
    below: &[Vec<u8>],
    found: Found,
    failed: &mut dyn FnMut(&[u8], &VolumeError),
) -> Result<()> {
    let mut start = root.clone();
    let mut path: Arc<[u8]> = Arc::default();
    for name in below {
        if start.stat_at(name).on_entry("looking for what to go through")?.kind == Kind::File {
            found(&start, &path, vec![name.clone()]);
            return Ok(());
        }
        start = start.open_dir(name).on_entry("looking for what to go through")?;
        path = joined(&path, name);
    }
    // Directories that wait are not open, only those above them.
    let mut waiting: Vec<Waiting> = vec![(start, path, None)];
    while let Some((parent, path, name)) = waiting.pop() {
        let (dir, path) = match name {
            None => (parent, path),
            Some(name) => {
                let path = joined(&path, &name);
                match parent.open_dir(&name).on_entry("opening a directory") {
                    Ok(dir) => (dir, path),
                    Err(error) => {
                        failed(&path, &error);
                        continue;
                    }
                }
            }
        };
        let entries = match dir.entries().attempt("listing a directory") {
            Ok(entries) => entries,
            Err(error) => {
                failed(&path, &error);
                continue;
            }
        };
        let mut files = Vec::new();
        for entry in entries {
            match (classify(&entry.name), entry.kind) {
                (EntryClass::Name | EntryClass::Long, Kind::File) => files.push(entry.name),
                (EntryClass::Name | EntryClass::Long, Kind::Directory) => {
                    waiting.push((dir.clone(), path.clone(), Some(entry.name)));
                }
                _ => {}
            }
        }
        if !files.is_empty() {
            found(&dir, &path, files);
        }
    }
    Ok(())
}

pub(super) fn joined(path: &[u8], name: &[u8]) -> Arc<[u8]> {
    if path.is_empty() { name.into() } else { [path, b"/", name].concat().into() }
}

/// A directory whose entries are being visited, and its name in the one above.
struct Level {
    dir: Arc<dyn Dir>,
    name: Vec<u8>,
    left: Vec<RawEntry>,
}

/// What is done with an entry.
pub(super) type Visit<'a> = dyn FnMut(&dyn Dir, &[u8], Kind) -> io::Result<()> + 'a;

/// Visits an entry and all that is in it, what is in a directory before the directory. Not by calling itself: whoever may make
/// directories decides how deep a tree is, and a thread's stack is small.
pub(super) fn upwards(dir: &dyn Dir, name: &[u8], kind: Kind, visit: &mut Visit) -> io::Result<()> {
    let enter = |dir: Arc<dyn Dir>, name: &[u8]| -> io::Result<Level> {
        Ok(Level { left: dir.entries()?, dir, name: name.to_vec() })
    };
    if kind != Kind::Directory {
        return visit(dir, name, kind);
    }
    let mut levels = vec![enter(dir.open_dir(name)?, name)?];
    while let Some(level) = levels.last_mut() {
        match level.left.pop() {
            Some(entry) if entry.kind == Kind::Directory => {
                let inner = enter(level.dir.open_dir(&entry.name)?, &entry.name)?;
                levels.push(inner);
            }
            Some(entry) => visit(&*level.dir, &entry.name, entry.kind)?,
            None => {
                let name = std::mem::take(&mut level.name);
                levels.pop();
                let above = levels.last().map_or(dir, |level| &*level.dir);
                visit(above, &name, Kind::Directory)?;
            }
        }
    }
    Ok(())
}

/// Kept while the files of a directory are worked on.
pub(super) type Kept = Box<dyn Send + Sync>;

/// Does something with every file, in several threads. One that is gone meanwhile is none; what else fails is told.
pub(super) fn each_file(
    root: &Arc<dyn Dir>,
    below: &[Vec<u8>],
    threads: usize,
    work: &Work,
) -> Result<Failures> {
    each_file_in(root, below, threads, &|_| Ok(Box::new(())), work)
}

/// The same; what `enter` answers of a directory is dropped when its files are done.
pub(super) fn each_file_in(
    root: &Arc<dyn Dir>,
    below: &[Vec<u8>],
    threads: usize,
    enter: &dyn Fn(&Arc<dyn Dir>) -> Result<Kept>,
    work: &Work,
) -> Result<Failures> {
    each_batch_in(root, below, threads, enter, &|dir, names| {
        names.iter().map(|name| work(dir, name)).collect()
    })
}

/// The same as [`each_file`] with some files of one directory at once.
pub(super) fn each_batch(
    root: &Arc<dyn Dir>,
    below: &[Vec<u8>],
    threads: usize,
    work: &BatchWork,
) -> Result<Failures> {
    each_batch_in(root, below, threads, &|_| Ok(Box::new(())), work)
}

fn each_batch_in(
    root: &Arc<dyn Dir>,
    below: &[Vec<u8>],
    threads: usize,
    enter: &dyn Fn(&Arc<dyn Dir>) -> Result<Kept>,
    work: &BatchWork,
) -> Result<Failures> {
    type Batch = (Arc<dyn Dir>, Arc<[u8]>, Vec<Vec<u8>>, Arc<Kept>);
    let failures = Mutex::new(Failures::default());
    let work = |(dir, path, names, _kept): Batch| {
        for (name, outcome) in names.iter().zip(work(&*dir, &names)) {
            match outcome {
                Err(error) if !error.is_not_found() => failures.lock().add(&joined(&path, name), &error),
                _ => {}
            }
        }
    };
    in_threads(threads, &work, |give| {
        walk(
            root,
            below,
            &mut |dir, path, names| {
                let kept = match enter(dir) {
                    Ok(kept) => Arc::new(kept),
                    Err(error) => return failures.lock().add(path, &error),
                };
                for names in names.chunks(BATCH) {
                    give((dir.clone(), path.clone(), names.to_vec(), kept.clone()));
                }
            },
            &mut |path, error| failures.lock().add(path, error),
        )
    })?;
    Ok(failures.into_inner())
}

/// Works in several threads on what `feed` gives, which runs in this one; a few things wait at most.
pub(super) fn in_threads<B: Send, T>(
    threads: usize,
    work: &(dyn Fn(B) + Sync),
    feed: impl FnOnce(&mut dyn FnMut(B)) -> T,
) -> T {
    let threads = threads.max(1);
    let (give, take) = mpsc::sync_channel::<B>(threads);
    let take = Mutex::new(take);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let next = || take.lock().recv();
                while let Ok(batch) = next() {
                    work(batch);
                }
            });
        }
        // Fails only if all threads are gone, which then panicked and are told of by the scope.
        let fed = feed(&mut |batch| drop(give.send(batch)));
        drop(give);
        fed
    })
}
