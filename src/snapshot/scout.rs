//! The walk over a backing tree, in the order of a manifest. Directories and entries that come soon are opened, listed and
//! looked at ahead, by a crew of threads: unchanged files cost little but that, and on a cold disk it is waiting. Whoever walks
//! does himself what he comes to before one of the crew has begun it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;
use std::vec;

use parking_lot::{Condvar, Mutex};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::capture::{Clock, Mode, is_past};
use super::error::{Result, SnapshotError};
use super::manifest::MAX_DEPTH;
use crate::volume::descriptor::{DESCRIPTOR, LINKS_DIR, PRIVATE_DIR};
use crate::volume::disk::{Dir, Kind, RawEntry, Stat};
use crate::volume::names::{EntryClass, classify};

/// Entries that are looked at together.
const BATCH: usize = 1024;
/// Batches of one directory that are looked at ahead.
const BATCHES: usize = 2;
/// Directories of one directory that are entered ahead, each open.
const DIRS: usize = 8;
/// Levels on which that is done: what waits for the walk has a bound, in memory and in descriptors.
const LEVELS: usize = 8;
/// Names of a directory that are kept for the walk; one with more is listed again when it is there.
const NAMES: usize = 4 * BATCH;
/// Jobs that wait for the crew at most; the walk has begun the others.
const WAITING: usize = LEVELS * (DIRS + BATCHES);
/// Threads. A disk answers several questions at once.
const CREW: usize = 4;

/// What stands next in the order of a manifest. `settled`: whatever changed after the stat shows in the ctime.
pub enum Found<'a> {
    /// Anything but a directory, in `dir`.
    Entry { dir: &'a Arc<dyn Dir>, name: Vec<u8>, stat: &'a Stat, settled: bool },
    /// A directory, opened. What is in it follows, and then [`Found::Up`].
    Down { dir: &'a Arc<dyn Dir>, name: Vec<u8>, stat: &'a Stat, settled: bool },
    /// The end of a directory.
    Up,
}

/// Walks a tree.
#[derive(Clone, Copy)]
pub struct Scout<'a> {
    /// Whether the tree changes.
    pub mode: Mode,
    /// The backing's clock.
    pub clock: &'a Clock,
}

/// Which directory it is: what is taken of it depends on that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    /// The volume's own.
    Private,
    Elsewhere,
}

/// Names, sorted, with what stat said of each. None of what is gone.
struct Batch {
    names: Vec<RawEntry>,
    stats: Vec<Option<(Stat, bool)>>,
}

/// A directory that was opened.
struct Opened {
    dir: Arc<dyn Dir>,
    /// None if there is too much in it to be kept.
    listed: Option<Listed>,
}

/// What is in a directory: the first batch, and the names behind it.
struct Listed {
    first: Batch,
    rest: vec::IntoIter<RawEntry>,
}

impl<'a> Scout<'a> {
    /// Gives `take` all that is below `root`, in order. What is in a directory of which it answers false is left out.
    pub fn run(&self, root: &Arc<dyn Dir>, take: &mut dyn FnMut(Found) -> Result<bool>) -> Result<()> {
        let apart = Apart::begin();
        let crew = Crew::default();
        thread::scope(|scope| {
            let dismissal = Dismissal(&crew);
            for _ in 0..CREW {
                let (crew, apart) = (&crew, apart.as_ref());
                scope.spawn(move || {
                    if let Some(apart) = apart {
                        // Best effort: it runs elsewhere, then, and perhaps more slowly.
                        let _ = sched_setaffinity(None, &apart.theirs);
                    }
                    crew.work();
                });
            }
            let walked = Walk { scout: *self, crew: &crew, levels: Vec::new() }.below(root, take);
            drop(dismissal);
            walked
        })
    }

    /// Opens a directory, and lists it unless it is too large. None if it is gone.
    fn enter(self, parent: &dyn Dir, name: &[u8], place: Place) -> Result<Option<Opened>> {
        let Some(dir) = self.mode.there(parent.open_dir(name), "opening a directory of")? else {
            return Ok(None);
        };
        let Some(listed) = self.list(&*dir, place, NAMES)? else { return Ok(None) };
        Ok(Some(Opened { dir, listed }))
    }

    /// Lists a directory, and looks at its first entries. None inside if there are more than `most`; None if it is gone.
    fn list(self, dir: &dyn Dir, place: Place, most: usize) -> Result<Option<Option<Listed>>> {
        let Some(mut names) = self.mode.there(dir.entries(), "listing a directory of")? else {
            return Ok(None);
        };
        if names.len() > most {
            return Ok(Some(None));
        }
        names.retain(|entry| place.takes(&entry.name));
        names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut rest = names.into_iter();
        let first = self.look(dir, rest.by_ref().take(BATCH).collect())?;
        Ok(Some(Some(Listed { first, rest })))
    }

    /// Asks for the stat of entries, in the order of their inode numbers, in which they lie on the disk and, more often than
    /// not, in memory.
    fn look(self, dir: &dyn Dir, names: Vec<RawEntry>) -> Result<Batch> {
        let mut order: Vec<(u64, usize)> = names.iter().map(|name| name.ino).zip(0..).collect();
        order.sort_unstable();
        let mut stats = vec![None; names.len()];
        // Before the stats: a change behind one of them is then later than this.
        let now = self.clock.now();
        for (_, at) in order {
            let stat = self.mode.there(dir.stat_at(&names[at].name), "looking at an entry of")?;
            stats[at] = stat.map(|stat| (stat, is_past(stat.ctime, now)));
        }
        Ok(Batch { names, stats })
    }
}

impl Place {
    /// Where a directory in this one is.
    fn below(self, name: &[u8]) -> Self {
        if self == Self::Root && name == PRIVATE_DIR { Self::Private } else { Self::Elsewhere }
    }

    /// False for what is no part of the captured tree.
    fn takes(self, name: &[u8]) -> bool {
        match self {
            Self::Root if name == DESCRIPTOR => false,
            Self::Private => name == LINKS_DIR,
            Self::Root | Self::Elsewhere => classify(name) != EntryClass::Temporary,
        }
    }
}

type Entering<'a> = Job<'a, Result<Option<Opened>>>;

/// A directory that is being walked.
struct Level<'a> {
    dir: Arc<dyn Dir>,
    place: Place,
    names: vec::IntoIter<RawEntry>,
    stats: vec::IntoIter<Option<(Stat, bool)>>,
    /// Names behind those.
    rest: vec::IntoIter<RawEntry>,
    looks: VecDeque<Arc<Job<'a, Result<Batch>>>>,
    /// Directories of the batch that are being entered, in order.
    enters: VecDeque<(Vec<u8>, Arc<Entering<'a>>)>,
    /// Names of the batch, counted from its end, among which no directory was entered yet.
    unentered: usize,
}

struct Walk<'a, 'c> {
    scout: Scout<'a>,
    crew: &'c Crew<'a>,
    levels: Vec<Level<'a>>,
}

impl<'a> Walk<'a, '_> {
    /// All that is below the root. Not by calling itself: whoever uses the volume decides how deep a tree is, and a thread's stack
    /// is small.
    fn below(&mut self, root: &Arc<dyn Dir>, take: &mut dyn FnMut(Found) -> Result<bool>) -> Result<()> {
        let root = Opened { dir: root.clone(), listed: None };
        self.descend(root, Place::Root)?;
        while let Some(level) = self.levels.last_mut() {
            let Some(RawEntry { name, .. }) = level.names.next() else {
                if !self.next_batch()? {
                    self.levels.pop();
                    if !self.levels.is_empty() {
                        take(Found::Up)?;
                    }
                }
                continue;
            };
            // It was sent ahead, whatever it is by now.
            let was_sent = level.enters.front().is_some_and(|(sent, _)| *sent == name);
            let sent = if was_sent { level.enters.pop_front() } else { None };
            // There is one for each name.
            let Some((stat, settled)) = level.stats.next().flatten() else { continue };
            if stat.kind != Kind::Directory {
                take(Found::Entry { dir: &level.dir, name, stat: &stat, settled })?;
                continue;
            }
            let place = level.place.below(&name);
            let opened = match sent {
                Some((_, job)) => job.result(self.crew),
                None => self.scout.enter(&*level.dir, &name, place),
            };
            let Some(opened) = opened? else { continue };
            if self.levels.len() >= MAX_DEPTH {
                return Err(SnapshotError::Refused(format!(
                    "the volume has directories that are over {MAX_DEPTH} levels deep, which no snapshot holds: move them up, \
                     or remove them"
                )));
            }
            self.send_ahead();
            if take(Found::Down { dir: &opened.dir, name, stat: &stat, settled })?
                && !self.descend(opened, place)?
            {
                take(Found::Up)?;
            }
        }
        Ok(())
    }

    /// What follows is what is in a directory. False if it is gone.
    fn descend(&mut self, opened: Opened, place: Place) -> Result<bool> {
        let Opened { dir, listed } = opened;
        let listed = match listed {
            Some(listed) => Some(listed),
            None => self.scout.list(&*dir, place, usize::MAX)?.flatten(),
        };
        let Some(Listed { first, rest }) = listed else { return Ok(false) };
        self.levels.push(Level {
            dir,
            place,
            unentered: first.names.len(),
            names: first.names.into_iter(),
            stats: first.stats.into_iter(),
            rest,
            looks: VecDeque::new(),
            enters: VecDeque::new(),
        });
        self.look_ahead();
        self.send_ahead();
        Ok(true)
    }

    /// The next batch of the directory where it is. False if there is none.
    fn next_batch(&mut self) -> Result<bool> {
        let Some(level) = self.levels.last_mut() else { return Ok(false) };
        let Some(look) = level.looks.pop_front() else { return Ok(false) };
        let Batch { names, stats } = look.result(self.crew)?;
        level.unentered = names.len();
        level.enters.clear();
        (level.names, level.stats) = (names.into_iter(), stats.into_iter());
        self.look_ahead();
        self.send_ahead();
        Ok(true)
    }

    fn look_ahead(&mut self) {
        let scout = self.scout;
        let Some(level) = self.levels.last_mut() else { return };
        while level.looks.len() < BATCHES && !level.rest.as_slice().is_empty() {
            let names: Vec<RawEntry> = level.rest.by_ref().take(BATCH).collect();
            let dir = level.dir.clone();
            level.looks.push_back(self.crew.give(move || scout.look(&*dir, names)));
        }
    }

    /// Has the next directories entered; half of what may be ahead, or more, at once.
    fn send_ahead(&mut self) {
        let scout = self.scout;
        let deep = self.levels.len() > LEVELS;
        let Some(level) = self.levels.last_mut().filter(|_| !deep) else { return };
        if level.enters.len() > DIRS / 2 {
            return;
        }
        let names = level.names.as_slice();
        // Walked past, without having been sent ahead.
        level.unentered = level.unentered.min(names.len());
        while level.enters.len() < DIRS && level.unentered > 0 {
            let RawEntry { name, kind, .. } = &names[names.len() - level.unentered];
            level.unentered -= 1;
            if *kind == Kind::Directory {
                let (dir, of, place) = (level.dir.clone(), name.clone(), level.place.below(name));
                let job = self.crew.give(move || scout.enter(&*dir, &of, place));
                level.enters.push_back((name.clone(), job));
            }
        }
    }
}

/// Something to be done, by whoever comes to it first.
struct Job<'a, T> {
    state: Mutex<State<'a, T>>,
    done: Condvar,
}

enum State<'a, T> {
    Waiting(Box<dyn FnOnce() -> T + Send + 'a>),
    Begun,
    Done(T),
    /// Who had begun has panicked.
    Lost,
}

impl<T> Job<'_, T> {
    /// What came of it. To be asked once. While one of the crew is at it, others are done here.
    fn result(&self, crew: &Crew) -> T {
        loop {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Begun) {
                State::Waiting(work) => {
                    drop(state);
                    return work();
                }
                State::Begun => {
                    drop(state);
                    let other = crew.orders.lock().jobs.pop_front();
                    match other {
                        Some(other) => other.begin(),
                        None => {
                            let mut state = self.state.lock();
                            self.done.wait_while(&mut state, |state| matches!(state, State::Begun));
                        }
                    }
                }
                State::Done(result) => return result,
                // As its thread's join would.
                State::Lost => resume_unwind(Box::new("a thread that looked ahead has panicked")),
            }
        }
    }
}

/// A job, for those of the crew.
trait Work: Send + Sync {
    /// Does it, unless somebody has begun.
    fn begin(&self);
    /// True if nobody has begun.
    fn is_waiting(&self) -> bool;
}

impl<T: Send> Work for Job<'_, T> {
    fn begin(&self) {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Begun) {
            State::Waiting(work) => {
                drop(state);
                let result = catch_unwind(AssertUnwindSafe(work));
                *self.state.lock() = result.map_or(State::Lost, State::Done);
                self.done.notify_all();
            }
            other => *state = other,
        }
    }

    fn is_waiting(&self) -> bool {
        matches!(*self.state.lock(), State::Waiting(_))
    }
}

/// Who does jobs ahead of the walk.
#[derive(Default)]
struct Crew<'a> {
    orders: Mutex<Orders<'a>>,
    given: Condvar,
}

#[derive(Default)]
struct Orders<'a> {
    jobs: VecDeque<Arc<dyn Work + 'a>>,
    dismissed: bool,
}

impl<'a> Crew<'a> {
    fn give<T: Send + 'a>(&self, work: impl FnOnce() -> T + Send + 'a) -> Arc<Job<'a, T>> {
        let job = Arc::new(Job { state: Mutex::new(State::Waiting(Box::new(work))), done: Condvar::new() });
        let mut orders = self.orders.lock();
        if orders.jobs.len() >= 2 * WAITING {
            orders.jobs.retain(|job| job.is_waiting());
        }
        orders.jobs.push_back(job.clone());
        drop(orders);
        self.given.notify_one();
        job
    }

    /// Until it is dismissed.
    fn work(&self) {
        let mut orders = self.orders.lock();
        while !orders.dismissed {
            let Some(job) = orders.jobs.pop_front() else {
                self.given.wait(&mut orders);
                continue;
            };
            drop(orders);
            job.begin();
            orders = self.orders.lock();
        }
    }
}

/// Sends the crew home when the walk is over, however it ends.
struct Dismissal<'a, 'c>(&'c Crew<'a>);

impl Drop for Dismissal<'_, '_> {
    fn drop(&mut self) {
        self.0.orders.lock().dismissed = true;
        self.0.given.notify_all();
    }
}

/// Keeps the walk and its crew on different halves of the processors while it lasts. A scheduler that takes the processor on
/// which one has gone to sleep for busy, as in a virtual machine whose host says so of halted ones, wakes it on that of the
/// other each time, and they share one.
struct Apart {
    /// Processors of this thread before.
    before: CpuSet,
    /// Those that are the crew's.
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

#[cfg(test)]
mod tests;
