//! Rewrapping inside a mount: files are open, made, renamed and removed meanwhile.
//!
//! A file's `opening` is held while its header is written, so that nobody opens it by the old one; one that is open
//! gets the new keys in memory too, or its finalising would write the old ones back. The key of new files changes
//! behind the closed gate, so that whoever creates a file is before it, and is found by the walk, or after it. What is
//! renamed during the walk is looked at once more, at its new place.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::core::Core;
use super::super::descriptor::{self, DESCRIPTOR};
use super::super::error::{Attempt, Result, VolumeError};
use super::super::files::read_header;
use super::super::header::{Header, WrappedKey};
use super::super::nodes::{Directory, Link};
use super::super::walk::{Kept, Replace, Scope, Turn, not_reached};
use super::{Job, Options, Outcome, Regions, Report};
use crate::kms::KeyService;

/// How often a file is tried whose keys change between reading and writing them.
const TRIES: usize = 16;

/// What is to be done with a file.
enum Looked<'a> {
    Done(Outcome),
    /// Its node, and what its header said.
    Due(Kept<'a>, Header),
}

impl Core {
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
        self.settled()?;
        let descriptor = self.descriptor.read().clone();
        let job = Job::begin(&descriptor, Some(&self.keys), here, regions, options)?;
        if job.region != descriptor.region {
            return Err(VolumeError::Invalid(
                "a volume comes under a key of another region only while it is not mounted",
            ));
        }
        let mut report = job.report();
        if !options.dry_run {
            // The key service may be asked for it: before everybody waits.
            let changed = report.volume_key.then(|| job.descriptor()).transpose()?;
            let closed = self.gate.close();
            if let Some(changed) = changed {
                descriptor::replace_file(&*self.root, DESCRIPTOR, &changed.encode()?)?;
                self.go_by(changed);
            }
            if options.below.is_empty() {
                self.pool.use_key(job.under.0.clone());
            }
            self.note_moves();
            drop(closed);
        }
        let done = Mutex::new(&mut report);
        let scope = Scope { below: &options.below, threads: options.threads, again: !options.dry_run };
        let work = |directory: &Directory, links: &[Link], turn: Turn| {
            self.rewrap_entries(&job, directory, links, turn)
        };
        let (failed, cut) = self.every_file(&scope, &work, &|outcome| done.lock().add(outcome), seen)?;
        report.failed = failed;
        report.cut = cut;
        if !options.dry_run {
            self.root.sync_fs().attempt("syncing the backing filesystem")?;
        }
        Ok(report)
    }

    /// Some files of one directory; an outcome for each.
    fn rewrap_entries(
        &self,
        job: &Job,
        directory: &Directory,
        links: &[Link],
        turn: Turn,
    ) -> Vec<Result<Outcome>> {
        let looked: Vec<_> = links.iter().map(|link| self.look(job, directory, link)).collect();
        if turn == Turn::Look {
            let outcome = |looked: Result<Looked>| match looked? {
                Looked::Done(outcome) => Ok(outcome),
                Looked::Due(..) => Err(not_reached()),
            };
            return looked.into_iter().map(outcome).collect();
        }
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
        let (kept, node) = self.file_at(directory, link)?;
        let header = match node.file() {
            Some(file) => Some(file.content.header()),
            None => {
                let file = directory.dir.open_file(&link.entry, false).on_entry(what)?;
                if file.stat().attempt(what)?.ino != self.nodes.ino_of(node.id) {
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
            // Anew each time: the file may have been removed, and its inode number be another's by now.
            let node = self.nodes.get(kept.node)?;
            let key = |keys: &[WrappedKey]| keys.first().map(|key| key.key_arn.clone());
            // Decisions about another key are none about this one.
            let how =
                Replace { keep_mtime: job.options.keep_mtime, end_lease: key(&header.keys) != key(&wrapped) };
            if self.replace_keys(directory, link, &node, (&header, &wrapped), how)? {
                return Ok(Outcome::Rewrapped);
            }
            match self.look(job, directory, link)? {
                // Under another name it was done meanwhile, say.
                Looked::Done(outcome) => return Ok(outcome),
                Looked::Due(now_kept, now) => (kept, header) = (now_kept, now),
            }
            wrapped = job.wrap_one(&header)?;
        }
        Err(VolumeError::Invalid("the file's keys change all the time"))
    }
}
