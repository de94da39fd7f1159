//! After a crash: every file that it may have cut is mended, and its rubbish is taken away.

use std::io;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::descriptor::PRIVATE_DIR;
use super::disk::{Dir, Kind, RawEntry, Time};
use super::each::upwards;
use super::error::{Attempt, Result, VolumeError};
use super::files::read_header;
use super::names::{self, EntryClass, classify};
use super::nodes::{Directory, Link};
use super::types::{Caller, NodeId, ROOT};

/// Removes an entry with all that is in it.
pub(super) fn remove_tree(dir: &dyn Dir, entry: &RawEntry) -> Result<()> {
    remove_entry(dir, &entry.name, entry.kind).attempt("taking away what an earlier attempt left")
}

pub(super) fn remove_entry(dir: &dyn Dir, name: &[u8], kind: Kind) -> io::Result<()> {
    upwards(dir, name, kind, &mut |dir, name, kind| match kind {
        Kind::Directory => dir.rmdir(name),
        _ => dir.unlink(name),
    })
}

/// What was seen on the way through the tree.
#[derive(Default)]
struct Findings {
    /// Files that could not be mended, and why the first.
    failed: usize,
    first: Option<VolumeError>,
}

impl Core {
    /// True if an unclean epoch's files are not all mended.
    pub(super) fn needs_mending(&self) -> bool {
        self.epoch.lock().unclean.iter().any(|u| !u.mended)
    }

    /// Mends what unclean epochs may have cut, and takes away their rubbish, where that is not done in the
    /// background; returns when it is done. An error if a file could not be mended: the next mount tries again.
    pub fn mend(&self) -> Result<()> {
        self.writable()?;
        let _alone = self.mending.lock();
        if !self.needs_mending() {
            return Ok(());
        }
        let begun = self.epoch.lock().start;
        let mut findings = Findings::default();
        // Directories are taken by node, so that a rename meanwhile does not hide one.
        let mut waiting = vec![ROOT];
        while let Some(node) = waiting.pop() {
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            let swept = self.sweep(node, begun, &mut waiting, &mut findings);
            if node != ROOT {
                self.nodes.forget(node, 1);
            }
            if let Err(error) = swept {
                findings.fail(error);
            }
        }
        for node in waiting {
            self.nodes.forget(node, 1);
        }
        match findings.first {
            Some(error) => {
                tracing::warn!(files = findings.failed, %error, "files that a crash may have cut could not be mended yet");
                Err(error)
            }
            None if self.stop.load(Ordering::Acquire) => Ok(()),
            None => self.mark_mended(),
        }
    }

    fn mark_mended(&self) -> Result<()> {
        let mut epoch = self.epoch.lock();
        for unclean in &mut epoch.unclean {
            unclean.mended = true;
        }
        epoch.write(&*self.private, &self.keys)
    }

    /// Temporary files of the volume itself.
    pub(super) fn sweep_private(&self) -> Result<()> {
        let begun = self.epoch.lock().start;
        for dir in [&self.private, &self.root] {
            for entry in dir.entries().attempt("looking for leftovers")? {
                if classify(&entry.name) == EntryClass::Temporary && entry.kind != Kind::Directory {
                    take_away(&**dir, &entry, begun);
                }
            }
        }
        Ok(())
    }

    /// One directory: rubbish goes, files are mended, directories are put on the list.
    fn sweep(
        &self,
        node: NodeId,
        begun: Time,
        waiting: &mut Vec<NodeId>,
        findings: &mut Findings,
    ) -> Result<()> {
        let directory = match self.directory(node) {
            Ok(directory) => directory,
            // Removed meanwhile, or damaged: that is told to whoever enters it.
            Err(e) if e.is_not_found() || matches!(e, VolumeError::Stale | VolumeError::Damaged { .. }) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for entry in directory.dir.entries().attempt("looking for files to mend")? {
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            match classify(&entry.name) {
                EntryClass::Temporary => {
                    let _names = self.lock_directory(node);
                    take_away(&*directory.dir, &entry, begun);
                }
                EntryClass::LongName => {
                    let _names = self.lock_directory(node);
                    let named = directory.dir.stat_at(names::entry_of_long_name(&entry.name));
                    if named.is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                        // Rubbish: whether it goes now or later does not matter.
                        let _ = directory.dir.unlink(&entry.name);
                    }
                }
                EntryClass::Name | EntryClass::Long => {
                    let link = Link { parent: node, entry: entry.name };
                    match self.sweep_entry(&directory, &link, waiting) {
                        Err(VolumeError::NotFound | VolumeError::Stale) | Ok(()) => {}
                        Err(error) => findings.fail(error),
                    }
                }
                EntryClass::Reserved => {}
            }
        }
        Ok(())
    }

    fn sweep_entry(&self, directory: &Directory, link: &Link, waiting: &mut Vec<NodeId>) -> Result<()> {
        let stat = directory.dir.stat_at(&link.entry).on_entry("looking for files to mend")?;
        match stat.kind {
            Kind::Directory => {
                waiting.push(self.found(directory, link)?.0.id);
                Ok(())
            }
            Kind::File if self.epoch.lock().excuses_time(stat.ctime) => {
                let (node, _) = self.found(directory, link)?;
                let mended = self.mend_file(directory, link, &node);
                self.nodes.forget(node.id, 1);
                mended
            }
            _ => Ok(()),
        }
    }

    /// Opening for writing is what mends. A file that is open, or that this mount finalised, is whole.
    fn mend_file(&self, directory: &Directory, link: &Link, node: &super::nodes::Node) -> Result<()> {
        let _opening = node.opening.lock();
        if node.file().is_some() {
            return Ok(());
        }
        let file = directory.dir.open_file(&link.entry, false).on_entry("looking at a file to mend")?;
        match read_header(&*file) {
            Ok((_, Some(header))) if header.epoch == self.epoch_number => return Ok(()),
            // Damage, not a crash: told to whoever opens it.
            Err(VolumeError::Damaged { .. }) => return Ok(()),
            read => drop(read?),
        }
        drop(file);
        match self.open_existing(own_process(), node, true) {
            // Told already; it will not get better by trying again.
            Err(VolumeError::Damaged { .. }) => Ok(()),
            opened => opened.map(drop),
        }
    }
}

impl Findings {
    fn fail(&mut self, error: VolumeError) {
        self.failed += 1;
        self.first.get_or_insert(error);
    }
}

/// Whoever runs the mount.
pub(super) fn own_process() -> Caller {
    Caller { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

/// Removes a temporary entry of before this mount.
fn take_away(dir: &dyn Dir, entry: &RawEntry, begun: Time) {
    if entry.name == PRIVATE_DIR || !dir.stat_at(&entry.name).is_ok_and(|s| s.ctime < begun) {
        return;
    }
    if let Err(error) = remove_entry(dir, &entry.name, entry.kind) {
        tracing::warn!(%error, "a leftover of a crash could not be removed");
    }
}
