//! Rewrapping inside a mount: files are open, made, renamed and removed meanwhile.
//!
//! A file's `opening` is held while its header is written, so that nobody opens it by the old one; one that is open
//! gets the new keys in memory too, or its finalising would write the old ones back. The key of new files changes
//! behind the closed gate, so that whoever creates a file is before it, and is found by the walk, or after it. What is
//! renamed during the walk is looked at once more, at its new place.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::core::Core;
use super::super::descriptor::{self, DESCRIPTOR};
use super::super::disk::Kind;
use super::super::each::{BATCH, Failures, in_threads, joined};
use super::super::error::{Attempt, Result, VolumeError};
use super::super::files::read_header;
use super::super::header::{Header, WrappedKey};
use super::super::keys::file_context;
use super::super::names::{EntryClass, classify};
use super::super::nodes::{Directory, Link};
use super::super::types::{NodeId, ROOT};
use super::{Job, Options, Outcome, Regions, Report, open_to_write};
use crate::kms::KeyService;

/// How long mending is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a file is tried whose keys change between reading and writing them.
const TRIES: usize = 16;

/// A node that stays known until this is dropped.
struct Kept<'a> {
    core: &'a Core,
    node: NodeId,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.core.nodes.forget(self.node, 1);
    }
}

/// What was renamed while [`Core::rewrap`] is under way; None at other times. The parents are kept known.
#[derive(Default)]
pub struct Moved(Mutex<Option<Vec<Link>>>);

/// What is to be done with a file.
enum Looked<'a> {
    Done(Outcome),
    /// Its node, and what its header said.
    Due(Kept<'a>, Header),
}

/// Files of one directory, with its path from the root in stored names.
type Batch<'a> = (Arc<Kept<'a>>, Arc<Directory>, Arc<[u8]>, Vec<Vec<u8>>);

/// Where files come from, and where they go.
struct Walk<'a, 'b> {
    core: &'a Core,
    goes_on: &'b (dyn Fn() -> bool + Sync),
    failures: &'b Mutex<Failures>,
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
        super::count(&self.root, below)
    }

    /// A name that a rewrapping must look at again. To be called when the name stands.
    pub(in super::super) fn note_moved(&self, link: &Link) {
        if let Some(moved) = &mut *self.moved.0.lock()
            && self.nodes.keep(link.parent)
        {
            moved.push(link.clone());
        }
    }

    /// Rewraps what [`super::rewrap`] does, while the volume is mounted. `seen` is told of every file that is done
    /// with, and answers whether to go on; if not, what is done stays and the rest waits for the next call.
    ///
    /// # Errors
    /// As there; another region's key cannot be the target.
    pub fn rewrap(
        &self,
        here: &Arc<dyn KeyService>,
        regions: &Regions,
        options: &Options,
        seen: &(dyn Fn() -> bool + Sync),
    ) -> Result<Report> {
        self.writable()?;
        // As without a mount: a header's write moves the ctime, which would excuse what no crash has touched.
        drop(self.mending.try_lock_for(PATIENCE).ok_or(VolumeError::NotSettled)?);
        if self.needs_mending() {
            return Err(VolumeError::NotSettled);
        }
        let descriptor = self.descriptor.read().clone();
        let (job, volume_key) = Job::begin(&descriptor, here, regions, options)?;
        if job.region != descriptor.region {
            return Err(VolumeError::Invalid(
                "a volume comes under a key of another region only while it is not mounted",
            ));
        }
        let mut report = job.report(&descriptor);
        if !options.dry_run {
            let closed = self.gate.close();
            if report.volume_key {
                let changed = job.descriptor(&descriptor, volume_key)?;
                descriptor::replace_file(&*self.root, DESCRIPTOR, &changed.encode()?)?;
                *self.descriptor.write() = changed;
            }
            if options.below.is_empty() {
                self.pool.use_key(job.under.0.clone());
            }
            *self.moved.0.lock() = Some(Vec::new());
            drop(closed);
        }
        let done = Mutex::new(&mut report);
        let walked = self.rewrap_all(&job, seen, &|outcome| done.lock().add(outcome));
        for link in self.moved.0.lock().take().into_iter().flatten() {
            self.nodes.forget(link.parent, 1);
        }
        let (failed, cut) = walked?;
        report.failed = failed;
        report.cut = cut;
        if !options.dry_run {
            self.root.sync_fs().attempt("syncing the backing filesystem")?;
        }
        Ok(report)
    }

    /// The tree, then what was renamed meanwhile, until nothing was. True: it was told to stop.
    fn rewrap_all<'s>(
        &'s self,
        job: &Job,
        seen: &(dyn Fn() -> bool + Sync),
        done: &(dyn Fn(Outcome) + Sync),
    ) -> Result<(Failures, bool)> {
        let failures = Mutex::new(Failures::default());
        let stopped = AtomicBool::new(false);
        let goes_on = || !stopped.load(Ordering::Relaxed);
        let work = |(kept, directory, path, names): Batch<'s>| {
            if !goes_on() {
                return;
            }
            let links = names.into_iter().map(|entry| Link { parent: kept.node, entry });
            let links: Vec<_> = links.collect();
            for (link, outcome) in links.iter().zip(self.rewrap_entries(job, &directory, &links)) {
                match outcome {
                    Ok(outcome) => done(outcome),
                    // Removed, or renamed and noted.
                    Err(e) if e.is_not_found() || matches!(e, VolumeError::Stale) => {}
                    Err(error) => failures.lock().add(&joined(&path, &link.entry), &error),
                }
                if !seen() {
                    stopped.store(true, Ordering::Relaxed);
                }
            }
        };
        let threads = job.options.threads;
        let walk = |feed: &mut dyn FnMut(&mut Walk<'s, '_>) -> Result<()>| {
            in_threads(threads, &work, |give| {
                feed(&mut Walk { core: self, goes_on: &goes_on, failures: &failures, give })
            })
        };
        walk(&mut |walk| walk.below_root(&job.options.below))?;
        while goes_on() && !job.options.dry_run {
            let moved = {
                // Whoever is renaming has noted it when the gate is closed.
                let _closed = self.gate.close();
                let mut moved = self.moved.0.lock();
                match moved.as_mut().map(std::mem::take) {
                    Some(links) if !links.is_empty() => links,
                    _ => {
                        *moved = None;
                        break;
                    }
                }
            };
            let mut moved = moved.into_iter().map(|link| {
                let kept = Arc::new(Kept { core: self, node: link.parent });
                (kept, link)
            });
            walk(&mut |walk| {
                for (kept, link) in &mut moved {
                    if self.is_below(link.parent, &job.options.below) {
                        walk.at(kept, Arc::default(), &link.entry);
                    }
                }
                Ok(())
            })?;
        }
        Ok((failures.into_inner(), !goes_on()))
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

    /// Some files of one directory; an outcome for each.
    fn rewrap_entries(&self, job: &Job, directory: &Directory, links: &[Link]) -> Vec<Result<Outcome>> {
        let looked: Vec<_> = links.iter().map(|link| self.look(job, directory, link)).collect();
        let headers = looked.iter().flatten().filter_map(|looked| match looked {
            Looked::Due(_, header) => Some(header),
            Looked::Done(_) => None,
        });
        let mut wrapped = job.wrap_all(&headers.collect::<Vec<_>>()).into_iter();
        let outcome = |(looked, link): (Result<Looked>, &Link)| match looked? {
            Looked::Done(outcome) => Ok(outcome),
            Looked::Due(kept, header) => {
                let wrapped = wrapped.next().ok_or(VolumeError::Invalid("a key was not rewrapped"))?;
                self.put(job, directory, link, kept, header, wrapped?)
            }
        };
        looked.into_iter().zip(links).map(outcome).collect()
    }

    fn look<'s>(&'s self, job: &Job, directory: &Directory, link: &Link) -> Result<Looked<'s>> {
        let what = "looking at a file to rewrap its key";
        let stat = directory.dir.stat_at(&link.entry).on_entry(what)?;
        if stat.kind != Kind::File {
            return Err(VolumeError::Stale);
        }
        let node = self.nodes.remember(&stat, link)?;
        let kept = Kept { core: self, node: node.id };
        let header = match node.file() {
            Some(file) => Some(file.content.header()),
            None => {
                let file = directory.dir.open_file(&link.entry, false).on_entry(what)?;
                if file.stat().attempt(what)?.ino != node.ino {
                    return Err(VolumeError::Stale);
                }
                read_header(&*file)?.1
            }
        };
        let Some(header) = header.filter(|header| !header.keys.is_empty()) else {
            return Ok(Looked::Done(Outcome::Empty));
        };
        if header.keys.first().is_some_and(|key| job.is_there(key)) {
            return Ok(Looked::Done(Outcome::Already));
        }
        if job.options.dry_run {
            return Ok(Looked::Done(Outcome::Rewrapped));
        }
        Ok(Looked::Due(kept, header))
    }

    /// Puts a file's new keys where the old ones are, if they still are those that were looked at.
    fn put<'s>(
        &'s self,
        job: &Job,
        directory: &Directory,
        link: &Link,
        mut kept: Kept<'s>,
        mut header: Header,
        mut wrapped: Vec<WrappedKey>,
    ) -> Result<Outcome> {
        for _ in 0..TRIES {
            {
                // Anew each time: the file may have been removed, and its inode number be another's by now.
                let node = self.nodes.get(kept.node)?;
                let _change = self.gate.enter();
                let _opening = node.opening.lock();
                let written = match node.file() {
                    Some(file) => {
                        let backing = if file.is_writable() {
                            file.content.file()
                        } else {
                            self.of_inode(directory, link, node.ino)?
                        };
                        let keep_mtime = job.options.keep_mtime;
                        file.content.set_wrapped(&header.keys, &wrapped, &*backing, keep_mtime)?
                    }
                    None => {
                        let file = self.of_inode(directory, link, node.ino)?;
                        let (page, there) = read_header(&*file)?;
                        let same = there.is_some_and(|there| there.keys == header.keys);
                        if same {
                            let page = super::header::with_keys(&page, &wrapped)?;
                            super::put_page(&*file, &page, job.options.keep_mtime)?;
                        }
                        same
                    }
                };
                if written {
                    let key = |keys: &[WrappedKey]| keys.first().map(|key| key.key_arn.clone());
                    if key(&header.keys) != key(&wrapped) {
                        // The decisions were about the other key.
                        self.leases.end(&header.file_id);
                    }
                    return Ok(Outcome::Rewrapped);
                }
            }
            match self.look(job, directory, link)? {
                // Under another name it was done meanwhile, say.
                Looked::Done(outcome) => return Ok(outcome),
                Looked::Due(now_kept, now) => (kept, header) = (now_kept, now),
            }
            wrapped = job.wrap_one(&header.keys, &file_context(&job.volume, &header.file_id))?;
        }
        Err(VolumeError::Invalid("the file's keys change all the time"))
    }

    /// The backing file at a name, open for writing, if it is still this one.
    fn of_inode(&self, directory: &Directory, link: &Link, ino: u64) -> Result<Arc<dyn super::BackingFile>> {
        let file = open_to_write(&*directory.dir, &link.entry)?;
        let found = file.stat().attempt("asking for a file's attributes")?.ino;
        if found == ino { Ok(file) } else { Err(VolumeError::Stale) }
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
        // Removed, or renamed and noted.
        if !error.is_not_found() && !matches!(error, VolumeError::Stale) {
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
            if let ControlFlow::Break(error) = self.list(&kept, &path, &mut waiting) {
                self.failed(&path, error);
            }
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
