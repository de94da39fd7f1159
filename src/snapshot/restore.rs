//! Making a volume of a snapshot: the encrypted directory, as it stood. Cut at any moment, it goes on when it is called
//! again; what stands already is read and compared. kmsfs.json comes last: until then the target is no volume.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use parking_lot::Mutex;

use super::capture::KEPT_XATTRS;
use super::catalogue::Opened;
use super::depot::Depot;
use super::descriptor::Pack;
use super::dir::{marker, read_stored, volume_json};
use super::error::{On, Result, SnapshotError};
use super::manifest::{Entry, EntryPath, Manifest, Stored};
use crate::crypto::mac::{self, Blake3};
use crate::kms::{Ledger, SnapshotAction};
use crate::volume::descriptor::{DESCRIPTOR, LOCK, PRIVATE_DIR, read_file, replace_file};
use crate::volume::disk::{BackingFile, Change, Dir, Kind, SetTime, XattrMode};
use crate::volume::epoch::EPOCH;
use crate::volume::layout::PAGE;
use crate::volume::names::temporary_name;

/// In the private directory of a target that is not whole yet: the snapshot's id.
const MARK: &[u8] = b"restoring";
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// setuid and setgid.
const SET_IDS: u32 = 0o6000;
/// Files that wait for a thread.
const QUEUE: usize = 256;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Regular files that were written, each name.
    pub files: u64,
    /// Those that stood already, from an attempt that was cut.
    pub already: u64,
    /// Entries that could not be given to their owners: that needs root.
    pub owners_lost: u64,
}

#[derive(Default)]
struct Tally {
    files: AtomicU64,
    already: AtomicU64,
    owners_lost: AtomicU64,
}

/// Restores into `target`, which is empty or what a cut attempt with the same snapshot left. `seen` is told of each file,
/// with its bytes. All is on the medium when this returns.
pub fn restore(
    snapshot: &Opened,
    target: &Arc<dyn Dir>,
    ledger: &dyn Ledger,
    threads: usize,
    seen: &(dyn Fn(u64) + Sync),
) -> Result<Restored> {
    let private = prepare(snapshot, target)?;
    if target.stat_at(DESCRIPTOR).is_ok() {
        // An attempt before came to its end but for the mark; since then it may have been used.
        private.unlink(MARK).on("finishing", "the restored volume")?;
        let already = snapshot.descriptor.counts.files;
        return Ok(Restored { already, ..Restored::default() });
    }
    let work = Work {
        depot: &*snapshot.depot,
        packs: &snapshot.descriptor.packs,
        tally: Tally::default(),
        seen,
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    let (send, receive) = sync_channel(QUEUE);
    let receive = Mutex::new(receive);
    let walked = thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| work.serve(&receive));
        }
        // The sender is dropped with the walk, which ends the threads.
        work.lay_out(&snapshot.manifest, target, send)
    });
    if let Some(error) = work.error.lock().take() {
        return Err(error);
    }
    walked?;
    work.settle(&snapshot.manifest, target)?;

    drop(private.lock(LOCK, true).on("making the lock of", "the restored volume")?);
    replace_file(&*private, EPOCH, &marker(&snapshot.descriptor)?)?;
    target.sync_fs().on("syncing", "the restored volume")?;
    ledger.record(snapshot.descriptor.event(SnapshotAction::Restore), true)?;
    replace_file(&**target, DESCRIPTOR, &volume_json(&snapshot.descriptor, &snapshot.volume)?)?;
    private.unlink(MARK).on("finishing", "the restored volume")?;
    private.sync().on("syncing", "the restored volume")?;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let Tally { files, already, owners_lost } = &work.tally;
    Ok(Restored { files: of(files), already: of(already), owners_lost: of(owners_lost) })
}

/// Sees that the target is empty or ours, and marks it. Answers its private directory.
fn prepare(snapshot: &Opened, target: &Arc<dyn Dir>) -> Result<Arc<dyn Dir>> {
    let what = "preparing";
    let shown = "the target";
    let entries = target.entries().on(what, shown)?;
    let own = entries.iter().any(|entry| entry.name == PRIVATE_DIR);
    let id = snapshot.descriptor.snapshot_id.to_string();
    if !own {
        if !entries.is_empty() {
            return Err(SnapshotError::Refused(
                "the target is not empty; choose an empty directory, or one that is not there yet".to_owned(),
            ));
        }
        match target.mkdir(PRIVATE_DIR, 0o700) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e).on(what, shown),
            _ => {}
        }
    }
    let private = target.open_dir(PRIVATE_DIR).on(what, shown)?;
    match read_file(&*private, MARK, 64) {
        Ok(mark) if mark == id.as_bytes() => return Ok(private),
        Ok(_) => {
            return Err(SnapshotError::Refused(
                "another snapshot was being restored into the target; empty it, or go on with that one"
                    .to_owned(),
            ));
        }
        Err(e) if !e.is_not_found() => return Err(e.into()),
        Err(_) => {}
    }
    let foreign = |name: &[u8]| name != PRIVATE_DIR;
    if entries.iter().any(|e| foreign(&e.name))
        || !private.entries().on(what, shown)?.iter().all(|e| is_temporary(&e.name))
    {
        return Err(SnapshotError::Refused(
            "the target holds a volume or something else; choose an empty directory".to_owned(),
        ));
    }
    replace_file(&*private, MARK, id.as_bytes())?;
    target.sync().on(what, shown)?;
    Ok(private)
}

fn is_temporary(name: &[u8]) -> bool {
    crate::volume::names::classify(name) == crate::volume::names::EntryClass::Temporary
}

/// A file to be written.
struct Job {
    dir: Arc<dyn Dir>,
    entry: Box<Entry>,
}

struct Work<'a> {
    depot: &'a dyn Depot,
    packs: &'a [Pack],
    tally: Tally,
    seen: &'a (dyn Fn(u64) + Sync),
    failed: AtomicBool,
    error: Mutex<Option<SnapshotError>>,
}

impl Work<'_> {
    fn serve(&self, jobs: &Mutex<Receiver<Job>>) {
        let mut buffer = vec![0; CHUNK];
        loop {
            // The lock is let go before the file is written.
            let job = jobs.lock().recv();
            let Ok(Job { dir, entry }) = job else { return };
            if self.failed.load(Ordering::Acquire) {
                continue;
            }
            if let Err(error) = self.file(&*dir, &entry, &mut buffer) {
                self.failed.store(true, Ordering::Release);
                self.error.lock().get_or_insert(error);
            }
        }
    }

    /// First pass: directories, links and the like here, files by the threads. Directories are open to their owner until the
    /// last pass.
    fn lay_out(&self, manifest: &Manifest, target: &Arc<dyn Dir>, jobs: SyncSender<Job>) -> Result<()> {
        let mut above: Vec<Arc<dyn Dir>> = Vec::new();
        let mut linked: HashMap<(u64, u64), ()> = HashMap::new();
        let mut entries = manifest.entries()?;
        while let Some(entry) = entries.next_entry()? {
            if self.failed.load(Ordering::Acquire) {
                return Ok(());
            }
            above.truncate(entry.depth as usize);
            let kind = entry.meta.kind();
            let Some(parent) = above.last() else {
                clear(&**target)?;
                above.push(target.clone());
                continue;
            };
            let name = &entry.name;
            if kind == Kind::Directory {
                above.push(open_or_make(&**parent, name)?);
                continue;
            }
            // The other names of a file are linked in the last pass.
            if entry.meta.nlink > 1 && linked.insert((entry.meta.dev, entry.meta.ino), ()).is_some() {
                continue;
            }
            if kind == Kind::File {
                // Fails only if all threads are gone, and then one has told why.
                let _ = jobs.send(Job { dir: parent.clone(), entry });
                continue;
            }
            self.other(&**parent, &entry)?;
        }
        Ok(())
    }

    /// A symbolic link, FIFO, socket or device; made under a temporary name, so that what stands is whole.
    fn other(&self, dir: &dyn Dir, entry: &Entry) -> Result<()> {
        let shown = String::from_utf8_lossy(&entry.name);
        let what = "making";
        let kind = entry.meta.kind();
        match dir.stat_at(&entry.name) {
            Ok(there) if there.kind == kind => return self.attributes(dir, Some(&entry.name), entry),
            Ok(_) => dir.unlink(&entry.name).on(what, &shown)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).on(what, &shown),
        }
        let temporary = temporary_name()?;
        match kind {
            Kind::Symlink => dir.symlink(&entry.target, &temporary).on(what, &shown)?,
            kind => dir.mknod(&temporary, kind, 0o600, entry.meta.rdev).on(what, &shown)?,
        }
        self.attributes(dir, Some(&temporary), entry)?;
        dir.rename(&temporary, dir, &entry.name, crate::volume::disk::RenameMode::Replace).on(what, &shown)
    }

    fn file(&self, dir: &dyn Dir, entry: &Entry, buffer: &mut [u8]) -> Result<()> {
        // Every file has content: the manifest's reader has seen to it.
        let Some(stored) = &entry.stored else { return Ok(()) };
        let shown = String::from_utf8_lossy(&entry.name);
        if stands(dir, entry, stored, buffer).on("comparing", &shown)? {
            self.attributes(dir, Some(&entry.name), entry)?;
            self.tally.already.fetch_add(1, Ordering::Relaxed);
            (self.seen)(entry.meta.size);
            return Ok(());
        }
        let temporary = temporary_name()?;
        let file = dir.create_file(&temporary, 0o600).on("creating", &shown)?;
        let mut digest = Blake3::new();
        for extent in &stored.extents {
            let (mut at, end) = (extent.page * PAGE, (extent.page + extent.pages) * PAGE);
            while at < end {
                let piece = &mut buffer[..CHUNK.min((end - at) as usize)];
                read_stored(self.depot, self.packs, stored, piece, at)?;
                digest.update(piece);
                file.write_at(piece, at).on("writing", &shown)?;
                at += piece.len() as u64;
            }
        }
        if !mac::equal(&digest.finish(), &stored.digest) {
            // Best effort: it goes at the next attempt too.
            let _ = dir.unlink(&temporary);
            return Err(SnapshotError::damaged(format!(
                "the pages of {shown} in the depot are not those that were captured"
            )));
        }
        file.set_len(entry.meta.size).on("writing", &shown)?;
        drop(file);
        self.attributes(dir, Some(&temporary), entry)?;
        let renamed = dir.rename(&temporary, dir, &entry.name, crate::volume::disk::RenameMode::Replace);
        renamed.on("naming", &shown)?;
        self.tally.files.fetch_add(1, Ordering::Relaxed);
        (self.seen)(entry.meta.size);
        Ok(())
    }

    /// Owner, attributes, mode and times, in an order in which none undoes or forbids another. What stands already gets them too:
    /// another user may have begun.
    fn attributes(&self, dir: &dyn Dir, name: Option<&[u8]>, entry: &Entry) -> Result<()> {
        let shown = String::from_utf8_lossy(&entry.name);
        let what = "setting the attributes of";
        let stat = entry.meta.stat(0);
        let owner = Change { uid: Some(stat.uid), gid: Some(stat.gid), ..Change::default() };
        let mut perm = stat.perm;
        match dir.change(name, &owner) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                self.tally.owners_lost.fetch_add(1, Ordering::Relaxed);
                // They would lend the rights of whoever restores.
                if stat.kind != Kind::Directory {
                    perm &= !SET_IDS;
                }
            }
            changed => changed.on(what, &shown)?,
        }
        // None is captured that is no such. A manifest can also be made by whoever was let open the volume key, and must
        // not give capabilities where root restores.
        if entry.xattrs.iter().any(|(attr, _)| !KEPT_XATTRS.iter().any(|kept| attr.starts_with(kept))) {
            return Err(SnapshotError::damaged(format!(
                "the manifest's entry {shown} has an extended attribute that no snapshot holds"
            )));
        }
        for (attr, value) in &entry.xattrs {
            dir.set_xattr(name, attr, value, XattrMode::Any).on(what, &shown)?;
        }
        if stat.kind != Kind::Symlink {
            let mode = Change { perm: Some(perm), ..Change::default() };
            dir.change(name, &mode).on(what, &shown)?;
        }
        let (atime, mtime) = (SetTime::At(stat.atime), SetTime::At(stat.mtime));
        dir.change(name, &Change { atime, mtime, ..Change::default() }).on(what, &shown)
    }

    /// Last pass: further names of files, and the attributes of directories, deepest first.
    fn settle(&self, manifest: &Manifest, target: &Arc<dyn Dir>) -> Result<()> {
        let mut above: Vec<(Arc<dyn Dir>, Box<Entry>)> = Vec::new();
        let mut first: HashMap<(u64, u64), EntryPath> = HashMap::new();
        let mut entries = manifest.entries()?;
        while let Some(entry) = entries.next_entry()? {
            while above.len() > entry.depth as usize {
                self.leave(&mut above)?;
            }
            let Some((parent, _)) = above.last() else {
                above.push((target.clone(), entry));
                continue;
            };
            if entry.meta.kind() == Kind::Directory {
                let dir =
                    parent.open_dir(&entry.name).on("opening", &String::from_utf8_lossy(&entry.name))?;
                above.push((dir, entry));
            } else if entry.meta.nlink > 1 {
                let object = (entry.meta.dev, entry.meta.ino);
                match first.get(&object) {
                    None => {
                        first.insert(object, entries.path().clone());
                    }
                    Some(path) => self.link(target, path, &**parent, &entry)?,
                }
            }
        }
        while !above.is_empty() {
            self.leave(&mut above)?;
        }
        Ok(())
    }

    fn leave(&self, above: &mut Vec<(Arc<dyn Dir>, Box<Entry>)>) -> Result<()> {
        match above.pop() {
            Some((dir, entry)) => self.attributes(&*dir, None, &entry),
            None => Ok(()),
        }
    }

    fn link(&self, target: &Arc<dyn Dir>, path: &EntryPath, to: &dyn Dir, entry: &Entry) -> Result<()> {
        let shown = String::from_utf8_lossy(&entry.name);
        let what = "linking";
        let Some((name, dirs)) = path.split_last() else { return Ok(()) };
        let mut dir = target.clone();
        for component in dirs {
            dir = dir.open_dir(component).on(what, &shown)?;
        }
        let there = dir.stat_at(name).on(what, &shown)?;
        match to.stat_at(&entry.name) {
            Ok(stands) if (stands.dev, stands.ino) == (there.dev, there.ino) => {}
            Ok(_) => {
                to.unlink(&entry.name).on(what, &shown)?;
                dir.link(name, to, &entry.name).on(what, &shown)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                dir.link(name, to, &entry.name).on(what, &shown)?
            }
            Err(e) => return Err(e).on(what, &shown),
        }
        if entry.meta.kind() == Kind::File {
            self.tally.files.fetch_add(1, Ordering::Relaxed);
        }
        (self.seen)(entry.meta.size);
        Ok(())
    }
}

/// Takes away what a cut attempt left, and what new entries would inherit.
fn clear(dir: &dyn Dir) -> Result<()> {
    match dir.remove_xattr(None, b"system.posix_acl_default") {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
            return Err(e).on("sweeping", "the target");
        }
        _ => {}
    }
    for entry in dir.entries().on("sweeping", "the target")? {
        if is_temporary(&entry.name) {
            dir.unlink(&entry.name).on("sweeping", "the target")?;
        }
    }
    Ok(())
}

/// A directory, made, or as a cut attempt left it: perhaps with its last mode already.
fn open_or_make(parent: &dyn Dir, name: &[u8]) -> Result<Arc<dyn Dir>> {
    let shown = String::from_utf8_lossy(name);
    let what = "making the directory";
    match parent.mkdir(name, 0o700) {
        Ok(()) => parent.open_dir(name).on(what, &shown),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let open = Change { perm: Some(0o700), ..Change::default() };
            parent.change(Some(name), &open).on(what, &shown)?;
            let dir = parent.open_dir(name).on(what, &shown)?;
            clear(&*dir)?;
            Ok(dir)
        }
        Err(e) => Err(e).on(what, &shown),
    }
}

/// True if the file stands there with all its bytes. After a power cut a name may be there without them.
fn stands(dir: &dyn Dir, entry: &Entry, stored: &Stored, buffer: &mut [u8]) -> io::Result<bool> {
    let file = match dir.open_file(&entry.name, false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        // Made by an attempt before, with a mode under which its owner may not read it.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        opened => opened?,
    };
    let (is, due) = (file.stat()?, entry.meta.stat(0));
    // Set before the name was given.
    if (is.size, is.mtime) != (due.size, due.mtime) {
        return Ok(false);
    }
    let mut digest = Blake3::new();
    let mut end_of_last = 0;
    for extent in &stored.extents {
        if !is_hole(&*file, end_of_last, extent.page * PAGE, buffer)? {
            return Ok(false);
        }
        let (mut at, end) = (extent.page * PAGE, (extent.page + extent.pages) * PAGE);
        while at < end {
            let piece = &mut buffer[..CHUNK.min((end - at) as usize)];
            if file.read_at(piece, at)? < piece.len() {
                return Ok(false);
            }
            digest.update(piece);
            at += piece.len() as u64;
        }
        end_of_last = end;
    }
    Ok(is_hole(&*file, end_of_last, entry.meta.size, buffer)? && mac::equal(&digest.finish(), &stored.digest))
}

/// True if nothing but zeros is there.
fn is_hole(file: &dyn BackingFile, mut from: u64, to: u64, buffer: &mut [u8]) -> io::Result<bool> {
    while from < to {
        match file.next_data(from)? {
            Some(data) if data < to => from = from.max(data),
            _ => return Ok(true),
        }
        let piece = &mut buffer[..CHUNK.min((to - from) as usize)];
        let read = file.read_at(piece, from)?;
        if !crate::volume::header::is_zero(&piece[..read]) || read == 0 {
            return Ok(read == 0);
        }
        from += read as u64;
    }
    Ok(true)
}
