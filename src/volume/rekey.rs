//! New data keys for files, with their data encrypted anew (docs/format.md, "Rekeying"): for when a data key may be known to
//! somebody. Each file is written under a temporary name, synced, and renamed into its place.

mod journal;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::journal::{Progress, Relink};
pub(super) use self::journal::{RELINK, finish};
use super::descriptor::{self, Descriptor, Unwrapped};
use super::disk::{BackingFile, Change, Dir, Kind, RenameMode, SetTime, Stat, Time};
use super::each::{Failures, each_file_in, joined, walk};
use super::epoch::{Epoch, backing_now};
use super::error::{Attempt, Result};
use super::files::read_header;
use super::header::{Header, Page};
use super::keys::{FileKeys, Maker, SharedKey, VolumeKeys};
use super::layout::PAGE;
use super::names::{self, EntryClass, NATIVE_XATTRS, classify};
use super::recipients::{Opens, OtherRegions, Recipients};
use super::transcode::{New, Old, Transcoder};
use crate::kms::KeyService;

/// What to rekey, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Entries of the backing that lead from the volume's root to a directory or file. Empty: the whole volume.
    pub below: Vec<Vec<u8>>,
    /// Leave the files' mtime alone. Else it goes on by a second, for backups that compare only size and mtime.
    pub keep_mtime: bool,
    /// Write nothing, and ask for no file's key.
    pub dry_run: bool,
    /// Threads.
    pub threads: usize,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// An earlier run of this was cut, and has been gone on with.
    pub resumed: bool,
    /// Files that have a new data key; one with several names counts once.
    pub renewed: u64,
    /// Their bytes in the backing.
    pub bytes: u64,
    /// Files that an earlier run gave a new one.
    pub already: u64,
    /// Files without a header, and so without a key.
    pub empty: u64,
    /// Renewed files that have names outside of the volume too, under which they are as they were.
    pub outside: u64,
    /// Files and directories that were left as they are.
    pub failed: Failures,
}

/// Gives every file of the volume in `root` a new data key and encrypts its data anew. Nobody may have it mounted, and it must
/// have been closed cleanly. `here` is the key service of the volume's region; `seen` is told of every file that is done with.
///
/// Cut at any moment, each file is whole under its old key or its new one; called again for the same part of the volume, it
/// does what is left. All is on the medium when this returns without an error.
pub fn rekey(
    root: &Arc<dyn Dir>,
    here: &Arc<dyn KeyService>,
    regions: &OtherRegions,
    options: &Options,
    seen: &(dyn Fn() + Sync),
) -> Result<Report> {
    let alone = descriptor::alone(root, true)?;
    let private = &alone.private;
    let descriptor = Descriptor::read(&**root)?;
    let Unwrapped { keys: volume, own, .. } = descriptor.unwrap(&**here, None)?;
    finish(root, private, &volume)?;
    let epoch = Epoch::read(&**private, &volume)?;
    let scope = options.below.join(&b'/');
    let mut progress = Progress::read(&**private, &volume)?.filter(|there| there.scope == scope);
    let mut report = Report { resumed: progress.is_some(), ..Report::default() };
    let linked = linked_files(root)?;
    let mut done_in = progress.as_ref().map(|there| there.epochs.clone()).unwrap_or_default();
    let mut number = epoch.number;
    if !options.dry_run {
        sweep(&**private)?;
        // An epoch of this run's own, by which its files are known; clean, for each is whole before it is seen. The marker
        // first: a number that is among the done ones must never become a mount's.
        let next = Epoch { number: epoch.number + 1, start: backing_now(&**private)?, clean: true, ..epoch };
        next.write(&**private, &volume)?;
        number = next.number;
        done_in.push(number);
        progress = Some(Progress { scope, epochs: done_in.clone() });
        if let Some(progress) = &progress {
            progress.write(&**private, &volume)?;
        }
    }
    let recipients =
        Recipients::new(descriptor.recipients.clone(), descriptor.region.clone(), regions.clone());
    let job = Job {
        root,
        private,
        here: &**here,
        opens: Opens::new(&descriptor.region, &descriptor.recipients, None),
        maker: Maker::new(own, volume.id, recipients),
        volume: &volume,
        epoch: number,
        done_in,
        options,
        transcoders: Mutex::default(),
        bytes: AtomicU64::new(0),
    };
    let mut failed = Failures::default();
    for (ino, names) in &linked {
        if names.iter().any(|name| name.starts_with(&options.below)) {
            match job.several(*ino, names) {
                Ok(Outcome::Renewed { outside }) => {
                    report.renewed += 1;
                    report.outside += u64::from(outside);
                }
                Ok(Outcome::Already) => report.already += 1,
                Ok(Outcome::Empty) => report.empty += 1,
                Ok(Outcome::Told) => {}
                Err(error) => failed.add(&names[0].join(&b'/'), &error),
            }
        }
    }
    let done = Mutex::new(&mut report);
    let others = each_file_in(
        root,
        &options.below,
        options.threads,
        &|dir| if options.dry_run { Ok(Box::new(())) } else { KeptTimes::of(dir) },
        &|dir, name| {
            let outcome = job.single(dir, name);
            seen();
            let mut done = done.lock();
            match outcome? {
                Outcome::Renewed { .. } => done.renewed += 1,
                Outcome::Already => done.already += 1,
                Outcome::Empty => done.empty += 1,
                Outcome::Told => {}
            }
            Ok(())
        },
    )?;
    failed.join(others);
    report.failed = failed;
    report.bytes = job.bytes.into_inner();
    if !options.dry_run {
        root.sync_fs().attempt("syncing the backing filesystem")?;
        // With failures it is kept, so that the next call does only what is left.
        if report.failed.count == 0 {
            Progress::remove(&**private)?;
        }
    }
    Ok(report)
}

/// Names of a file: entries from the volume's root.
type Name = Vec<Vec<u8>>;

/// Files with several names, with all their names in the volume, in any order.
fn linked_files(root: &Arc<dyn Dir>) -> Result<HashMap<u64, Vec<Name>>> {
    let mut linked: HashMap<u64, Vec<Name>> = HashMap::new();
    let mut unseen = None;
    walk(
        root,
        &[],
        &mut |dir, path, names| {
            for name in names {
                match dir.stat_at(&name) {
                    Ok(stat) if stat.nlink > 1 && stat.kind == Kind::File => {
                        let path = joined(path, &name);
                        let steps = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
                        linked.entry(stat.ino).or_default().push(steps);
                    }
                    Ok(_) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => unseen = Some(e),
                }
            }
        },
        // Told when its files are looked for.
        &mut |_, _| (),
    )?;
    match unseen {
        Some(error) => Err(error).attempt("looking for files with several names"),
        None => Ok(linked),
    }
}

/// Takes away what a cut run left. Nobody else is here.
fn sweep(private: &dyn Dir) -> Result<()> {
    let what = "taking away what an earlier run left";
    for entry in private.entries().attempt(what)? {
        if classify(&entry.name) == EntryClass::Temporary && entry.kind == Kind::File {
            private.unlink(&entry.name).attempt(what)?;
        }
    }
    Ok(())
}

/// Gives a directory its times again when its files are done: a rename changes them.
struct KeptTimes {
    dir: Arc<dyn Dir>,
    stat: Stat,
}

impl KeptTimes {
    fn of(dir: &Arc<dyn Dir>) -> Result<Box<dyn Send + Sync>> {
        let stat = dir.stat().attempt("asking for a directory's times")?;
        Ok(Box::new(Self { dir: dir.clone(), stat }))
    }
}

impl Drop for KeptTimes {
    fn drop(&mut self) {
        if let Err(error) = self.dir.change(None, &times(&self.stat)) {
            tracing::warn!(%error, "a directory's time of modification is that of the rekeying");
        }
    }
}

fn times(stat: &Stat) -> Change {
    Change { atime: SetTime::At(stat.atime), mtime: SetTime::At(stat.mtime), ..Change::default() }
}

enum Outcome {
    Renewed {
        /// It has names outside of the volume.
        outside: bool,
    },
    Already,
    Empty,
    /// A further name, or what was looked after before.
    Told,
}

struct Job<'a> {
    root: &'a Arc<dyn Dir>,
    private: &'a Arc<dyn Dir>,
    here: &'a dyn KeyService,
    opens: Opens,
    maker: Maker,
    volume: &'a VolumeKeys,
    /// Of this run.
    epoch: u64,
    /// Of all runs of this rekeying.
    done_in: Vec<u64>,
    options: &'a Options,
    /// Buffers that no thread uses.
    transcoders: Mutex<Vec<Transcoder>>,
    bytes: AtomicU64,
}

impl Job<'_> {
    /// A file with one name.
    fn single(&self, dir: &dyn Dir, name: &[u8]) -> Result<Outcome> {
        let file = dir.open_file(name, false).on_entry("opening a file")?;
        let stat = file.stat().attempt("asking for a file's attributes")?;
        // Renewed or told before. The inode may be the new one, which is not among them.
        if stat.nlink > 1 {
            return Ok(Outcome::Told);
        }
        let (header, page) = match self.to_do(&*file)? {
            Ok(found) => found,
            Err(outcome) => return Ok(outcome),
        };
        self.bytes.fetch_add(stat.size, Ordering::Relaxed);
        if self.options.dry_run {
            return Ok(Outcome::Renewed { outside: false });
        }
        let made = self.renew(&*file, &stat, &header, &page)?;
        let renamed = self.private.rename(&made, dir, name, RenameMode::Replace);
        if renamed.is_err() {
            // Best effort: the error that counts is the one above.
            let _ = self.private.unlink(&made);
        }
        renamed.attempt("putting a rekeyed file into its place")?;
        Ok(Outcome::Renewed { outside: false })
    }

    /// A file with several names, all of which come to the new one.
    fn several(&self, ino: u64, names: &[Name]) -> Result<Outcome> {
        let what = "opening a file";
        let Some((name, above)) = names.first().and_then(|name| name.split_last()) else {
            return Ok(Outcome::Already);
        };
        let mut dir = self.root.clone();
        for step in above {
            dir = dir.open_dir(step).on_entry(what)?;
        }
        let file = dir.open_file(name, false).on_entry(what)?;
        let stat = file.stat().attempt("asking for a file's attributes")?;
        let (header, page) = match self.to_do(&*file)? {
            Ok(found) => found,
            Err(outcome) => return Ok(outcome),
        };
        let outside = stat.nlink > names.len() as u64;
        self.bytes.fetch_add(stat.size, Ordering::Relaxed);
        if self.options.dry_run {
            return Ok(Outcome::Renewed { outside });
        }
        let made = self.renew(&*file, &stat, &header, &page)?;
        let relink = Relink { old: ino, file_id: header.file_id, new: made, names: names.to_vec() };
        relink.write(&**self.private, self.volume)?;
        relink.finish(self.root, self.private)?;
        Ok(Outcome::Renewed { outside })
    }

    /// The header of a file that is still to be renewed, or what it is instead.
    fn to_do(&self, file: &dyn BackingFile) -> Result<std::result::Result<(Header, Box<Page>), Outcome>> {
        Ok(match read_header(file)? {
            (_, None) => Err(Outcome::Empty),
            (_, Some(header)) if self.done_in.contains(&header.epoch) => Err(Outcome::Already),
            (page, Some(header)) => Ok((header, page)),
        })
    }

    /// Writes the file anew, in the private directory; synced when this returns. Answers its temporary name.
    fn renew(&self, old: &dyn BackingFile, stat: &Stat, header: &Header, page: &Page) -> Result<Vec<u8>> {
        let keys = FileKeys::unwrap(self.here, &self.opens, self.volume, header)?;
        // The id stays, to which extended attributes are bound. All else is derived from the new data key.
        let SharedKey { file_id, data, wrapped } = self.maker.make_for(self.here, header.file_id)?;
        let new = FileKeys::derive(data, self.volume, &file_id)?;
        let temporary = names::temporary_name()?;
        let file = self
            .private
            .create_file(&temporary, 0o600)
            .attempt("making a rekeyed file beside the old one")?;
        let written = self.write(&*file, old, stat, (header, page, &keys), (&new, wrapped));
        if written.is_err() {
            // Best effort: the error that counts is the one above.
            let _ = self.private.unlink(&temporary);
        }
        written.map(|()| temporary)
    }

    fn write(
        &self,
        file: &dyn BackingFile,
        old: &dyn BackingFile,
        stat: &Stat,
        (header, page, keys): (&Header, &Page, &FileKeys),
        (new, wrapped): (&FileKeys, Vec<super::header::WrappedKey>),
    ) -> Result<()> {
        let what = "writing a rekeyed file";
        let mut transcoder = self.transcoders.lock().pop().unwrap_or_default();
        let from = Old { page, header, keys, st_size: stat.size };
        let to = New { file_id: header.file_id, keys: new, wrapped, epoch: self.epoch };
        let mut source = old;
        transcoder.file(&from, to, &mut source, &mut |first, pages| {
            file.write_at(pages, first * PAGE).attempt(what)
        })?;
        self.transcoders.lock().push(transcoder);
        file.set_len(stat.size).attempt(what)?;
        for attr in old.list_xattr().attempt(what)? {
            if attr.starts_with(b"user.") || NATIVE_XATTRS.contains(&&attr[..]) {
                let value = old.get_xattr(&attr).attempt(what)?;
                let set = file.set_xattr(&attr, &value, super::disk::XattrMode::Any);
                set.attempt("giving a rekeyed file its extended attributes")?;
            }
        }
        let made = file.stat().attempt(what)?;
        let Time { sec, nsec } = stat.mtime;
        let sec = if self.options.keep_mtime { sec } else { sec.saturating_add(1) };
        let change = Change {
            perm: Some(stat.perm),
            uid: (made.uid != stat.uid).then_some(stat.uid),
            gid: (made.gid != stat.gid).then_some(stat.gid),
            atime: SetTime::At(stat.atime),
            mtime: SetTime::At(Time { sec, nsec }),
        };
        file.change(&change).attempt("giving a rekeyed file its mode, owner and times")?;
        file.sync_all().attempt("syncing a rekeyed file")
    }
}
