//! Who walks a backing tree ahead of a pass: names, sorted, and what stat says of them. On a thread of its own, since half of the
//! time that unchanged files cost is spent here.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::capture::{Clock, Mode, is_gone, is_past};
use super::error::{On, Result, SnapshotError};
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
        thread::scope(|scope| {
            let (out, found) = sync_channel::<Batch>(AHEAD);
            scope.spawn(move || {
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

impl Walk<'_> {
    fn below(&mut self, dir: &Arc<dyn Dir>) -> std::result::Result<(), Unheard> {
        let Some(entries) = self.there(dir.entries(), "listing a directory of")? else { return Ok(()) };
        let names = entries.into_iter().map(|entry| entry.name).filter(|name| self.takes(name));
        let mut names: Vec<Vec<u8>> = names.collect();
        names.sort_unstable();
        for name in names {
            // Before the stat: a change behind it is then later than this.
            let now = self.scout.clock.now();
            let Some(stat) = self.there(dir.stat_at(&name), "looking at an entry of")? else { continue };
            let settled = is_past(stat.ctime, now);
            if stat.kind != Kind::Directory {
                self.give(Ok(Found::Entry { dir: dir.clone(), name, stat, settled }))?;
                continue;
            }
            let Some(inner) = self.there(dir.open_dir(&name), "opening a directory of")? else { continue };
            let private = self.depth == 0 && name == PRIVATE_DIR;
            self.give(Ok(Found::Down { dir: inner.clone(), name, stat, settled }))?;
            let outside = std::mem::replace(&mut self.in_private, private);
            self.depth += 1;
            self.below(&inner)?;
            self.depth -= 1;
            self.in_private = outside;
            self.give(Ok(Found::Up))?;
        }
        Ok(())
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
