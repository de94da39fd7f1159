//! Files made unreadable and taken away: what opens their data keys is overwritten, on the medium, before the names go. No key
//! is needed for it. The data stays where it is until the disk reuses its blocks, and nothing opens it there.

mod online;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::descriptor::{self, Descriptor, LINKS_DIR};
use super::disk::{BackingFile, Dir, Kind};
use super::each::{Failures, each_file, upwards};
use super::error::{Attempt, Result, VolumeError};
use super::header::{FileId, array, is_zero, without_keys};
use super::layout::PAGE;
use super::names::{self, EntryClass, classify, long_name_link, overflow_name};
use super::rekey::RELINK;
use super::rewrap::open_to_write;
use crate::kms::{FileEvent, Ledger};

pub use online::Forget;

const SYNC: &str = "bringing overwritten headers to the medium";

/// How.
#[derive(Debug, Clone)]
pub struct Options {
    /// Also files that have further names elsewhere, under which they become unreadable too.
    pub hard_links: bool,
    /// Threads.
    pub threads: usize,
    /// Who asks for it, on this machine: the event names it.
    pub uid: u32,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Names of files whose wrapped keys were overwritten, or had been.
    pub shredded: u64,
    /// Names of files that never had a key on the medium.
    pub empty: u64,
    /// Files that somebody had open, who reads and writes nothing of them any more.
    pub open: u64,
    /// The names are gone. Not if anything failed: it can then be called again.
    pub removed: bool,
    /// What could not be overwritten.
    pub failed: Failures,
    /// It was told to stop before all was overwritten; nothing was removed, and the next call goes on.
    pub cut: bool,
}

/// Shreds what is at the entries `below` of the volume in `root`, a file or a tree. Nobody may have it mounted. With a `ledger`
/// it is recorded, before the first key is overwritten.
///
/// First every header loses its wrapped keys, then all is brought to the medium, then the names go. Cut at any moment, it can be
/// called again as long as the name is there; what has lost its keys is damaged for whoever opens it.
///
/// # Errors
/// [`VolumeError::Invalid`], and nothing has changed, if a file has names elsewhere and they may not become unreadable.
pub fn shred(
    root: &Arc<dyn Dir>,
    below: &[Vec<u8>],
    options: &Options,
    ledger: Option<&dyn Ledger>,
) -> Result<Report> {
    let (name, above) = entry_of(below)?;
    let alone = descriptor::alone(root, false)?;
    if alone.private.stat_at(RELINK).is_ok() {
        return Err(VolumeError::Invalid(
            "a rekeying of the volume was cut, and a file with several names may be there twice: mount it once, or call \
             `kmsfs rekey` again, and then shred",
        ));
    }
    let what = "looking for what to shred";
    let mut dir = root.clone();
    for step in above {
        dir = dir.open_dir(step).on_entry(what)?;
    }
    let kind = dir.stat_at(name).on_entry(what)?.kind;
    let mut report = Report::default();
    if matches!(kind, Kind::File | Kind::Directory) {
        let doomed = Doomed::find(root, below, (&*dir, name, kind), options)?;
        if let Some(ledger) = ledger {
            let volume_id = hex::encode(Descriptor::read(&**root)?.id);
            ledger.record(doomed.event(volume_id, options.uid), true)?;
        }
        let done = Mutex::new(&mut report);
        let failed = each_file(root, below, options.threads, &|dir, name| {
            let had_keys = lose_keys(&*open_to_write(dir, name)?)?.is_some();
            done.lock().add(had_keys);
            Ok(())
        })?;
        report.failed = failed;
    }
    report.failed.join(rubbish(&*alone.private)?);
    root.sync_fs().attempt(SYNC)?;
    if report.failed.count == 0 {
        let links = alone.private.open_dir(LINKS_DIR).attempt(what)?;
        remove(&*dir, name, kind, &*links).attempt("removing what was shredded")?;
        if classify(name) == EntryClass::Long {
            // Best effort: a link with a long name whose entry is gone is rubbish.
            let _ = dir.unlink(&long_name_link(name));
        }
        root.sync_fs().attempt("syncing the backing filesystem")?;
        report.removed = true;
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, had_keys: bool) {
        if had_keys {
            self.shredded += 1;
        } else {
            self.empty += 1;
        }
    }
}

/// The entry that is to go, and what leads to its directory.
fn entry_of(below: &[Vec<u8>]) -> Result<(&Vec<u8>, &[Vec<u8>])> {
    let Some((name, above)) = below.split_last() else {
        return Err(VolumeError::Invalid(
            "a whole volume is not shredded file by file: name what is in it, or delete its KMS key (`kmsfs key schedule-deletion`), \
             after which no copy opens",
        ));
    };
    if matches!(classify(name), EntryClass::Reserved | EntryClass::LongName) {
        return Err(VolumeError::Invalid(
            "that is one of the volume's own entries, not a file or directory in it",
        ));
    }
    Ok((name, above))
}

/// What is going to lose its keys, as it is recorded.
enum Doomed {
    /// One file; None if it has no header.
    File(Option<FileId>),
    /// A directory with so many names of files in it.
    Tree(u64),
}

impl Doomed {
    /// Looks, and refuses what has names elsewhere. Nothing may change there meanwhile.
    fn find(
        root: &Arc<dyn Dir>,
        below: &[Vec<u8>],
        (dir, name, kind): (&dyn Dir, &[u8], Kind),
        options: &Options,
    ) -> Result<Self> {
        let (files, elsewhere) = names_elsewhere(root, below, options.threads)?;
        if elsewhere > 0 && !options.hard_links {
            return Err(VolumeError::Invalid(
                "files there have further names (hard links) elsewhere, under which they would become unreadable too; --hard-links \
                 if that is meant",
            ));
        }
        if kind == Kind::Directory {
            return Ok(Self::Tree(files));
        }
        let file = dir.open_file(name, false).on_entry("opening a file")?;
        let mut page = [0; 32];
        let read = file.read_at(&mut page, 0).attempt("reading a file's header")?;
        Ok(Self::File((!is_zero(&page[..read])).then(|| array(&page, 16))))
    }

    fn files(&self) -> u64 {
        match self {
            Self::File(_) => 1,
            Self::Tree(files) => *files,
        }
    }

    fn event(&self, volume_id: String, uid: u32) -> FileEvent {
        match self {
            Self::File(id) => FileEvent::ShredFile { volume_id, file_id: id.map(hex::encode), uid },
            Self::Tree(files) => FileEvent::ShredTree { volume_id, files: *files, uid },
        }
    }
}

/// What a cut rekeying left may be the file that is shredded, under its new key: it loses its keys too. The next mount, or the
/// next rekeying, takes it away.
fn rubbish(private: &dyn Dir) -> Result<Failures> {
    let mut failed = Failures::default();
    for entry in private.entries().attempt("looking for what a rekeying left")? {
        if classify(&entry.name) == EntryClass::Temporary
            && entry.kind == Kind::File
            && let Err(error) = open_to_write(private, &entry.name).and_then(|file| lose_keys(&*file))
        {
            failed.add(&entry.name, &error);
        }
    }
    Ok(failed)
}

/// How many names of files are below, and how many files there have names that are not.
fn names_elsewhere(root: &Arc<dyn Dir>, below: &[Vec<u8>], threads: usize) -> Result<(u64, usize)> {
    // Of each inode with several names: those that were found, and all.
    let linked: Mutex<HashMap<u64, (u64, u64)>> = Mutex::default();
    let files = AtomicU64::new(0);
    each_file(root, below, threads, &|dir, name| {
        let stat = dir.stat_at(name).on_entry("looking for a file's names")?;
        files.fetch_add(1, Ordering::Relaxed);
        if stat.nlink > 1 {
            linked.lock().entry(stat.ino).or_insert((0, stat.nlink)).0 += 1;
        }
        Ok(())
    })?;
    let elsewhere = linked.into_inner().values().filter(|(here, all)| here < all).count();
    Ok((files.into_inner(), elsewhere))
}

/// Overwrites a file's wrapped keys; answers the id that its header gives, None if it never had one. A damaged header loses
/// what stands in their place.
pub(super) fn lose_keys(file: &dyn BackingFile) -> Result<Option<FileId>> {
    let mut page = Box::new([0; PAGE as usize]);
    let read = file.read_at(&mut page[..], 0).attempt("reading a file's header")?;
    if is_zero(&page[..read]) {
        return Ok(None);
    }
    let page = without_keys(&page);
    file.wait_writeback(0, PAGE).attempt("waiting for a file's header")?;
    // No more than there was.
    file.write_at(&page[..read], 0).attempt("overwriting a file's wrapped keys")?;
    Ok(Some(array(&page[..], 16)))
}

/// Removes an entry with all that is in it, and the pieces of long targets that lose their last name. In its place, so that a
/// cut removal is found again.
fn remove(dir: &dyn Dir, name: &[u8], kind: Kind, links: &dyn Dir) -> std::io::Result<()> {
    upwards(dir, name, kind, &mut |dir, name, kind| {
        if kind == Kind::Symlink
            && dir.stat_at(name)?.nlink == 1
            && let Ok(target) = dir.readlink(name)
            && let Some(id) = names::overflow_id(&target)
        {
            for index in 0.. {
                if links.unlink(&overflow_name(id, index)).is_err() {
                    break;
                }
            }
        }
        if kind == Kind::Directory { dir.rmdir(name) } else { dir.unlink(name) }
    })
}
