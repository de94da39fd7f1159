//! Shredding inside a mount: files are open, and others are made, renamed and removed elsewhere in the volume.
//!
//! All of it happens behind the closed gate, so that nothing comes into the tree or leaves it, and no name is given to a file
//! meanwhile. A file's `opening` is held while its header is written, so that nobody opens it by the old one; whoever has it open
//! loses it: its keys go from memory, and with them whatever could write the old header back.

use std::collections::HashSet;
use std::io;

use parking_lot::Mutex;

use super::super::core::Core;
use super::super::disk::Kind;
use super::super::error::{Attempt, Result, VolumeError};
use super::super::names::{EntryClass, classify, long_name_link};
use super::super::nodes::{Directory, Link};
use super::super::types::NodeId;
use super::super::walk::{PATIENCE, Scope, Turn};
use super::{Doomed, Options, Report, SYNC, entry_of, lose_keys};

/// What the kernel must forget of what it has mounted.
#[derive(Debug, Default)]
pub struct Forget {
    /// The directory in which a name is gone, and that name.
    pub name: Option<(NodeId, Vec<u8>)>,
    /// Of what it may have pages and attributes.
    pub nodes: Vec<NodeId>,
}

/// A file that has lost its keys.
struct Lost {
    had_keys: bool,
    was_open: bool,
}

impl Core {
    /// Shreds what [`super::shred`] does, while the volume is mounted. `seen` is told of every file that is done with, and answers
    /// whether to go on. Changes wait meanwhile; reading goes on. What the kernel must forget is to be told to it whatever came
    /// of the rest.
    ///
    /// # Errors
    /// As there.
    pub fn shred(
        &self,
        below: &[Vec<u8>],
        options: &Options,
        seen: &(dyn Fn() -> bool + Sync),
    ) -> (Result<Report>, Forget) {
        let (mut forget, touched) = (Forget::default(), Mutex::default());
        let done = self.shred_held(below, options, seen, &touched, &mut forget.name);
        // Most of them nobody knows but who has just looked.
        let known = |node: &NodeId| self.nodes.get(*node).is_ok();
        forget.nodes = touched.into_inner().into_iter().filter(known).collect();
        (done, forget)
    }

    fn shred_held(
        &self,
        below: &[Vec<u8>],
        options: &Options,
        seen: &(dyn Fn() -> bool + Sync),
        touched: &Mutex<HashSet<NodeId>>,
        gone: &mut Option<(NodeId, Vec<u8>)>,
    ) -> Result<Report> {
        let (name, above) = entry_of(below)?;
        self.settled()?;
        // Most of what waits for the disk gets there while everybody goes on.
        self.root.sync_fs().attempt("syncing the backing filesystem")?;
        let closed = self.gate.close_within(PATIENCE).ok_or(VolumeError::NotStill)?;
        let parent = self.descend(above)?;
        let directory = self.directory(parent.node)?;
        let kind = directory.dir.stat_at(name).on_entry("looking for what to shred")?.kind;
        let mut report = Report::default();
        if matches!(kind, Kind::File | Kind::Directory) {
            let doomed = Doomed::find(&self.root, below, (&*directory.dir, name, kind), options)?;
            self.record(doomed.event(self.volume_id(), options.uid), true)?;
            let done = Mutex::new(&mut report);
            let count = |lost: Lost| {
                let mut done = done.lock();
                done.add(lost.had_keys);
                done.open += u64::from(lost.was_open);
            };
            let work = |directory: &Directory, links: &[Link], _: Turn| {
                links.iter().map(|link| self.shred_file(directory, link, touched)).collect()
            };
            let scope = Scope { below, threads: options.threads, again: false };
            let (failed, cut) = self.every_file(&scope, &work, &count, seen)?;
            (report.failed, report.cut) = (failed, cut);
            let all = report.shredded + report.empty + report.failed.count;
            if !cut && all < doomed.files() {
                report.failed.add(&below.join(&b'/'), &strange());
            }
        }
        self.root.sync_fs().attempt(SYNC)?;
        if report.failed.count > 0 || report.cut {
            return Ok(report);
        }
        // Before it is too late: a long name stands in a link beside it.
        let plain = self.plain_name(&directory, name);
        let (link, mut nodes) = (Link { parent: parent.node, entry: name.clone() }, Vec::new());
        let left = self.take_out(&directory, &link, &mut nodes);
        touched.lock().extend(nodes);
        *gone = plain.map(|plain| (parent.node, plain));
        let left = left?;
        drop(closed);
        if let Some(left) = left {
            // Which takes its time. A crash leaves rubbish without keys, that the next mount takes away.
            match self.take_apart(&*directory.dir, &left, Kind::Directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).attempt("removing what was shredded");
                }
                _ => {}
            }
        }
        self.root.sync_fs().attempt("syncing the backing filesystem")?;
        report.removed = true;
        Ok(report)
    }

    fn shred_file(
        &self,
        directory: &Directory,
        link: &Link,
        touched: &Mutex<HashSet<NodeId>>,
    ) -> Result<Lost> {
        self.shred_at(directory, link, touched).map_err(|error| match error {
            // Which a walk passes over.
            VolumeError::Stale => strange(),
            error if error.is_not_found() => strange(),
            error => error,
        })
    }

    fn shred_at(&self, directory: &Directory, link: &Link, touched: &Mutex<HashSet<NodeId>>) -> Result<Lost> {
        let (_kept, node) = self.file_at(directory, link)?;
        touched.lock().insert(node.id);
        // Not for ever: one who opens it may wait for the gate, if a crash excuses the file.
        let _opening = node.opening.try_lock_for(PATIENCE).ok_or(VolumeError::NotStill)?;
        let Some(file) = node.file() else {
            let id = lose_keys(&*self.of_inode(directory, link, self.nodes.ino_of(node.id))?)?;
            if let Some(id) = &id {
                self.leases.end(id);
            }
            return Ok(Lost { had_keys: id.is_some(), was_open: false });
        };
        // Under another of its names it may have been done already.
        let was_open = !file.content.is_shredded();
        let backing = match file.is_writable() {
            true => file.content.file(),
            false => self.of_inode(directory, link, self.nodes.ino_of(node.id))?,
        };
        let had_keys = file.content.shred(&*backing);
        self.leases.end(&file.id);
        Ok(Lost { had_keys: had_keys?, was_open })
    }

    /// The plaintext of an entry's name; None if it is not one that a mount shows.
    fn plain_name(&self, directory: &Directory, entry: &[u8]) -> Option<Vec<u8>> {
        let full = match classify(entry) {
            EntryClass::Long => directory.dir.readlink(&long_name_link(entry)).ok()?,
            _ => entry.to_vec(),
        };
        self.keys.decode_name(&directory.id, &full).ok()
    }
}

fn strange() -> VolumeError {
    VolumeError::Invalid("the backing directory was changed by something else than the mount; try again")
}
