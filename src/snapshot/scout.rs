//! Who walks a backing tree ahead of a pass: names, sorted, and what stat says of them. On a thread of its own, since half of the
//! time that unchanged files cost is spent here.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::capture::{Clock, Mode, is_gone, is_past};
use super::error::{On, Result, SnapshotError};
use super::manifest::MAX_DEPTH;
use crate::volume::descriptor::{DESCRIPTOR, LINKS_DIR, PRIVATE_DIR};
use crate::volume::disk::{Dir, Kind, Stat};
use crate::volume::names::{EntryClass, classify};

/// What is handed over at once.
const BATCH: usize = 1024;
/// Directories in a batch: each is open.
const DIRS: usize = 32;
/// Batches that wait.
const AHEAD: usize = 8;

/// What stands next in the order of a manifest. `settled`: whatever changed after the stat shows in the ctime.
pub enum Found {
    /// Anything but a directory, in `dir`.
    Entry { dir: Arc<dyn Dir>, name: Vec<u8>, stat: Stat, settled: bool },
    /// A directory, opened. What is in it follows, and then [`Found::Up`].
    Down { dir: Arc<dyn Dir>, name: Vec<u8>, stat: Stat, settled: bool },
    /// The end of a directory.
    Up,
}

/// Walks a tree.
pub struct Scout<'a> {
    /// Whether the tree changes.
    pub mode: Mode,
    /// The backing's clock.
    pub clock: &'a Clock,
}

/// Of a walk that its reader has ended.
struct Unheard;

/// An entry, with what stat says of it and whether that is settled.
type Looked = (Vec<u8>, Stat, bool);

/// A directory that is being walked.
struct Level {
    dir: Arc<dyn Dir>,
    /// Names, with inode numbers, that were not looked at.
    left: std::vec::IntoIter<(Vec<u8>, u64)>,
    /// Those that were.
    looked: std::vec::IntoIter<Looked>,
    /// What [`Walk::in_private`] is above it.
    outside: bool,
}

type Batch = Vec<std::result::Result<Found, SnapshotError>>;

struct Walk<'a> {
    scout: &'a Scout<'a>,
    out: SyncSender<Batch>,
    batch: Batch,
    dirs: usize,
    /// Names that lead to where it is.
    depth: usize,
    in_private: bool,
}

impl Scout<'_> {
    /// Gives `take` all that is below `root`, in order. What is in a directory of which it answers false is left out.
    pub fn run(&self, root: &Arc<dyn Dir>, take: &mut dyn FnMut(Found) -> Result<bool>) -> Result<()> {
        let apart = Apart::begin();
        thread::scope(|scope| {
            let (out, found) = sync_channel::<Batch>(AHEAD);
            let theirs = apart.as_ref().map(|apart| apart.theirs);
            scope.spawn(move || {
                if let Some(theirs) = theirs {
                    // Best effort: it runs elsewhere, then, and perhaps more slowly.
                    let _ = sched_setaffinity(None, &theirs);
                }
                let mut walk =
                    Walk { scout: self, out, batch: Batch::new(), dirs: 0, depth: 0, in_private: false };
                // Nobody hears what else there would be.
                let _ = walk.below(root).and_then(|()| walk.send());
            });
            // Directories that are passed over, one in the other.
            let mut passed_over = 0u64;
            for found in found.into_iter().flatten() {
                let found = found?;
                match &found {
                    Found::Down { .. } if passed_over > 0 => passed_over += 1,
                    Found::Up if passed_over > 0 => passed_over -= 1,
                    Found::Entry { .. } if passed_over > 0 => {}
                    _ => passed_over += u64::from(!take(found)?),
                }
            }
            Ok(())
        })
    }
}

/// Keeps the two threads of a walk on different halves of the processors while it lasts. A scheduler that takes the processor
/// on which one has gone to sleep for busy, as in a virtual machine whose host says so of halted ones, wakes it on that of
/// the other each time, and they share one.
struct Apart {
    /// Processors of this thread before.
    before: CpuSet,
    /// Those that are the other's.
    theirs: CpuSet,
}

impl Apart {
    /// None where there is one processor, or nothing is told of them.
    fn begin() -> Option<Self> {
        let before = sched_getaffinity(None).ok()?;
        let here = sched_getcpu();
        let (mut ours, mut theirs) = (CpuSet::new(), CpuSet::new());
        let processors = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
        for (place, cpu) in processors.enumerate() {
            if place % 2 == 0 { &mut ours } else { &mut theirs }.set(cpu);
        }
        if theirs.is_set(here) {
            std::mem::swap(&mut ours, &mut theirs);
        }
        if ours.count() == 0 || theirs.count() == 0 {
            return None;
        }
        sched_setaffinity(None, &ours).ok()?;
        Some(Self { before, theirs })
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Best effort: half of the processors are enough for what follows.
        let _ = sched_setaffinity(None, &self.before);
    }
}

impl Walk<'_> {
    /// All that is below the root. Not by calling itself: whoever uses the volume decides how deep a tree is, and a thread's stack
    /// is small.
    fn below(&mut self, root: &Arc<dyn Dir>) -> std::result::Result<(), Unheard> {
        let mut levels: Vec<Level> = self.level(root, false)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            if let Some((name, stat, settled)) = level.looked.next() {
                let dir = level.dir.clone();
                if let Some(inner) = self.entry(&dir, name, stat, settled)? {
                    levels.push(inner);
                }
                continue;
            }
            let some: Vec<_> = level.left.by_ref().take(BATCH).collect();
            if !some.is_empty() {
                let dir = level.dir.clone();
                level.looked = self.look(&dir, some)?.into_iter();
                continue;
            }
            self.in_private = level.outside;
            levels.pop();
            if !levels.is_empty() {
                self.depth -= 1;
                self.give(Ok(Found::Up))?;
            }
        }
        Ok(())
    }

    /// A directory's names, sorted. None if it is gone.
    fn level(&mut self, dir: &Arc<dyn Dir>, outside: bool) -> std::result::Result<Option<Level>, Unheard> {
        let Some(entries) = self.there(dir.entries(), "listing a directory of")? else { return Ok(None) };
        let mut left: Vec<(Vec<u8>, u64)> =
            entries.into_iter().filter(|e| self.takes(&e.name)).map(|e| (e.name, e.ino)).collect();
        left.sort_unstable();
        Ok(Some(Level { dir: dir.clone(), left: left.into_iter(), looked: Vec::new().into_iter(), outside }))
    }

    /// What stat says of some entries, in their order. Asked in the order of their inode numbers, in which they lie on the
    /// disk and, more often than not, in memory. What is gone is left out.
    fn look(
        &mut self,
        dir: &Arc<dyn Dir>,
        some: Vec<(Vec<u8>, u64)>,
    ) -> std::result::Result<Vec<Looked>, Unheard> {
        let mut order: Vec<usize> = (0..some.len()).collect();
        order.sort_unstable_by_key(|at| some[*at].1);
        let mut stats = vec![None; some.len()];
        // Before the stats: a change behind one of them is then later than this.
        let now = self.scout.clock.now();
        for at in order {
            stats[at] = self.there(dir.stat_at(&some[at].0), "looking at an entry of")?;
        }
        let found = some.into_iter().zip(stats);
        Ok(found.filter_map(|((name, _), stat)| stat.map(|s| (name, s, is_past(s.ctime, now)))).collect())
    }

    /// The next in order. A directory that was entered is answered: what is in it follows.
    fn entry(
        &mut self,
        dir: &Arc<dyn Dir>,
        name: Vec<u8>,
        stat: Stat,
        settled: bool,
    ) -> std::result::Result<Option<Level>, Unheard> {
        if stat.kind != Kind::Directory {
            self.give(Ok(Found::Entry { dir: dir.clone(), name, stat, settled }))?;
            return Ok(None);
        }
        let Some(inner) = self.there(dir.open_dir(&name), "opening a directory of")? else { return Ok(None) };
        if self.depth + 1 >= MAX_DEPTH {
            self.give(Err(SnapshotError::Refused(format!(
                "the volume has directories that are over {MAX_DEPTH} levels deep, which no snapshot holds: move them up, or \
                 remove them"
            ))))?;
            self.send()?;
            return Err(Unheard);
        }
        let private = self.depth == 0 && name == PRIVATE_DIR;
        self.give(Ok(Found::Down { dir: inner.clone(), name, stat, settled }))?;
        let outside = std::mem::replace(&mut self.in_private, private);
        self.depth += 1;
        let level = self.level(&inner, outside)?;
        if level.is_none() {
            self.in_private = outside;
            self.depth -= 1;
            self.give(Ok(Found::Up))?;
        }
        Ok(level)
    }

    /// False for what is no part of the captured tree.
    fn takes(&self, name: &[u8]) -> bool {
        match self.depth {
            0 if name == DESCRIPTOR => false,
            1 if self.in_private => name == LINKS_DIR,
            _ => classify(name) != EntryClass::Temporary,
        }
    }

    /// What is gone is None where the tree may change.
    fn there<T>(
        &mut self,
        result: io::Result<T>,
        what: &'static str,
    ) -> std::result::Result<Option<T>, Unheard> {
        match result {
            Err(e) if self.scout.mode == Mode::Live && is_gone(&e) => Ok(None),
            result => match result.on(what, "the volume") {
                Ok(there) => Ok(Some(there)),
                Err(error) => {
                    self.give(Err(error))?;
                    self.send()?;
                    Err(Unheard)
                }
            },
        }
    }

    fn give(&mut self, found: std::result::Result<Found, SnapshotError>) -> std::result::Result<(), Unheard> {
        self.dirs += usize::from(matches!(found, Ok(Found::Down { .. })));
        self.batch.push(found);
        if self.batch.len() < BATCH && self.dirs < DIRS { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> std::result::Result<(), Unheard> {
        self.dirs = 0;
        let next = Batch::with_capacity(self.batch.len());
        self.out.send(std::mem::replace(&mut self.batch, next)).map_err(|_| Unheard)
    }
}
