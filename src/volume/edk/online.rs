//! Recipients added and removed inside a mount, as rewrapping does it there: the list, and with it for whom new files are wrapped,
//! changes behind the closed gate; each file's header while nobody can open it, in memory too if it is open; what is renamed
//! meanwhile is looked at once more.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::core::Core;
use super::super::descriptor::{self, DESCRIPTOR, Descriptor};
use super::super::error::{Attempt, Result, VolumeError};
use super::super::files::read_header;
use super::super::nodes::{Directory, Link};
use super::super::recipients::{Opens, OtherRegions, Recipients};
use super::super::walk::{Replace, Scope, Turn, not_reached};
use super::{Change, Options, Plan, Report, Wish};
use crate::kms::KeyService;

/// How often a file is tried whose keys change between reading and writing them.
const TRIES: usize = 16;

#[derive(Clone, Copy)]
enum Outcome {
    Changed,
    Already,
    Empty,
}

impl Core {
    /// Changes what [`super::change`] does, while the volume is mounted. `here` and `regions` are asked in the name of whoever
    /// wants it; for new files the mount's own key service is. `seen` is told of every file that is done with, and answers
    /// whether to go on; if not, what is done stays and the rest waits for the next call.
    ///
    /// # Errors
    /// As there.
    pub fn change_recipients(
        &self,
        here: &Arc<dyn KeyService>,
        regions: &OtherRegions,
        change: &Change,
        options: &Options,
        seen: &(dyn Fn() -> bool + Sync),
    ) -> Result<Report> {
        self.settled()?;
        let plan = Plan::new(self.descriptor.read().clone(), here, regions, change)?;
        let mut report = plan.report();
        if !options.dry_run {
            let closed = self.gate.close();
            if report.volume_key {
                descriptor::replace_file(&*self.root, DESCRIPTOR, &plan.new.encode()?)?;
                self.go_by(plan.new.clone());
            }
            self.note_moves();
            drop(closed);
        }
        let done = Mutex::new(&mut report);
        let count = |outcome| {
            let mut done = done.lock();
            match outcome {
                Outcome::Changed => done.changed += 1,
                Outcome::Already => done.already += 1,
                Outcome::Empty => done.empty += 1,
            }
        };
        let work = |directory: &Directory, links: &[Link], turn: Turn| {
            links.iter().map(|link| self.change_file(&plan, options, directory, link, turn)).collect()
        };
        let scope = Scope { below: &[], threads: options.threads, again: !options.dry_run };
        let (failed, cut) = self.every_file(&scope, &work, &count, seen)?;
        (report.failed, report.cut) = (failed, cut);
        if !options.dry_run {
            self.root.sync_fs().attempt("syncing the backing filesystem")?;
        }
        Ok(report)
    }

    /// Goes by another descriptor, which is written already. Called behind the closed gate.
    pub(in crate::volume) fn go_by(&self, new: Descriptor) {
        let (list, region) = (&new.recipients, &new.region);
        let opens = Opens::new(region, list, self.options.only.as_deref());
        let recipients = Recipients::new(list.clone(), region.clone(), self.options.regions.clone());
        *self.opens.write() = Arc::new(opens);
        self.pool.use_recipients(recipients);
        *self.descriptor.write() = new;
    }

    fn change_file(
        &self,
        plan: &Plan,
        options: &Options,
        directory: &Directory,
        link: &Link,
        turn: Turn,
    ) -> Result<Outcome> {
        let what = "looking at a file to change its keys";
        let wish = if options.dry_run || turn == Turn::Look { Wish::Tell } else { Wish::Make };
        for _ in 0..TRIES {
            let (_kept, node) = self.file_at(directory, link)?;
            let (page, header) = match node.file() {
                // What is in memory was verified when it was opened, and its page may be written at any moment.
                Some(file) => (None, Some(file.content.header())),
                None => {
                    let file = directory.dir.open_file(&link.entry, false).on_entry(what)?;
                    if file.stat().attempt(what)?.ino != self.nodes.ino_of(node.id) {
                        return Err(VolumeError::Stale);
                    }
                    let (page, header) = read_header(&*file)?;
                    (Some(page), header)
                }
            };
            let Some(header) = header.filter(|header| !header.keys.is_empty()) else {
                return Ok(Outcome::Empty);
            };
            let Some(keys) = plan.keys_of(wish, &header, page.as_deref())? else {
                return Ok(Outcome::Already);
            };
            match turn {
                Turn::Look => return Err(not_reached()),
                Turn::Act if options.dry_run => return Ok(Outcome::Changed),
                Turn::Act => {}
            }
            // It may have been decided by a key that goes.
            let end_lease = matches!(plan.change, Change::Remove(_));
            let how = Replace { keep_mtime: options.keep_mtime, end_lease };
            if self.replace_keys(directory, link, &node, (&header, &keys), how)? {
                return Ok(Outcome::Changed);
            }
        }
        Err(VolumeError::Invalid("the file's keys change all the time"))
    }
}
