//! Is a snapshot what was captured? And what is in it, under its true names?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use parking_lot::Mutex;

use super::catalogue::{Opened, pack_checker};
use super::depot::pack_path;
use super::dir::{SnapshotDir, read_stored};
use super::error::{On, Result, SnapshotError};
use super::manifest::Stored;
use crate::crypto::mac::{self, Blake3};
use crate::kms::{KeyService, Ledger};
use crate::volume::disk::{Dir, Kind, RawEntry};
use crate::volume::keys::VolumeKeys;
use crate::volume::layout::{BLOCK, PAGE, size_of_stat, whole_blocks};
use crate::volume::names::{DIR_ID, DirId, EntryClass, classify, long_name_link, parse_dir_id};
use crate::volume::{Caller, OpenMode, ROOT, Volume, VolumeOptions};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// Files that wait for a thread.
const QUEUE: usize = 256;
/// Failures that are kept with their reasons.
const TOLD: usize = 10;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Regular files whose pages were read.
    pub files: u64,
    /// Bytes of their pages.
    pub bytes: u64,
    /// How many files, or packs, are not what they were.
    pub damaged: u64,
    /// The first of them, with what does not fit.
    pub first: Vec<String>,
}

impl Verified {
    fn damage(&mut self, what: String) {
        self.damaged += 1;
        if self.first.len() < TOLD {
            self.first.push(what);
        }
    }
}

/// Reads every page of a snapshot whose descriptor and manifest have been authenticated, and compares. `seen` is told of each
/// file, with its bytes. An error is what kept it from being verified; damage stands in the answer.
pub fn verify(snapshot: &Opened, threads: usize, seen: &(dyn Fn(u64) + Sync)) -> Result<Verified> {
    let mut found = Verified::default();
    let mut stands = pack_checker(snapshot.depot.clone());
    for pack in snapshot.descriptor.standing_packs() {
        if !stands(&pack.id, pack.pages)? {
            found.damage(format!("{}: missing, or not as long as it was", pack_path(&pack.id.0)));
        }
    }
    let found = Mutex::new(found);
    let (send, receive) = sync_channel::<(String, Stored)>(QUEUE);
    let receive = Mutex::new(receive);
    let failed = AtomicBool::new(false);
    let error = Mutex::new(None);
    let serve = |jobs: &Mutex<Receiver<(String, Stored)>>| {
        let mut buffer = vec![0; CHUNK];
        loop {
            let job = jobs.lock().recv();
            let Ok((path, stored)) = job else { return };
            if failed.load(Ordering::Acquire) {
                continue;
            }
            let bytes = stored.pages() * PAGE;
            let checked = check(snapshot, &stored, &mut buffer);
            let mut found = found.lock();
            found.files += 1;
            found.bytes += bytes;
            match checked {
                Ok(true) => {}
                Ok(false) => found.damage(format!("{path}: its pages are not those that were captured")),
                Err(SnapshotError::Damaged(what)) => found.damage(format!("{path}: {what}")),
                Err(e) => {
                    failed.store(true, Ordering::Release);
                    error.lock().get_or_insert(e);
                }
            }
            drop(found);
            seen(bytes);
        }
    };
    let walked = thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| serve(&receive));
        }
        let send = send;
        let mut entries = snapshot.manifest.entries()?;
        while let Some(entry) = entries.next_entry()? {
            let Some(stored) = entry.stored else { continue };
            let path = entries.path().iter().map(|name| String::from_utf8_lossy(name));
            let path = path.collect::<Vec<_>>().join("/");
            if failed.load(Ordering::Acquire) || send.send((path, stored)).is_err() {
                break;
            }
        }
        Ok(())
    });
    match error.into_inner() {
        Some(error) => Err(error),
        None => walked.map(|()| found.into_inner()),
    }
}

fn check(snapshot: &Opened, stored: &Stored, buffer: &mut [u8]) -> Result<bool> {
    let mut digest = Blake3::new();
    for extent in &stored.extents {
        let (mut at, end) = (extent.page * PAGE, (extent.page + extent.pages) * PAGE);
        while at < end {
            let piece = &mut buffer[..CHUNK.min((end - at) as usize)];
            read_stored(&*snapshot.depot, &snapshot.descriptor.packs, stored, piece, at)?;
            digest.update(piece);
            at += piece.len() as u64;
        }
    }
    Ok(mac::equal(&digest.finish(), &stored.digest))
}

/// Opens every file of a snapshot by its key (one Decrypt each) and every block, every name, target and attribute. `tree` is
/// the snapshot as a directory.
pub fn verify_deep(
    tree: Arc<dyn Dir>,
    service: Arc<dyn KeyService>,
    ledger: Arc<dyn Ledger>,
    seen: &dyn Fn(u64),
) -> Result<Verified> {
    let options = VolumeOptions { read_only: true, pool: 0, ..VolumeOptions::default() };
    let volume = Volume::open(tree, service, ledger, options)?;
    let mut deep = Deep { volume, found: Verified::default(), buffer: vec![0; CHUNK], seen };
    deep.tree()?;
    Ok(deep.found)
}

struct Deep<'a> {
    volume: Volume,
    found: Verified,
    buffer: Vec<u8>,
    seen: &'a dyn Fn(u64),
}

/// A directory whose entries are being looked at.
struct Level {
    node: u64,
    handle: u64,
    path: String,
    offset: u64,
    /// The last first.
    names: Vec<Vec<u8>>,
}

const CALLER: Caller = Caller { uid: 0, gid: 0 };

impl Deep<'_> {
    /// All that is below the root. Not by calling itself: whoever uses the volume decides how deep a tree is, and a stack is small.
    fn tree(&mut self) -> Result<()> {
        let mut levels = vec![self.enter(ROOT, String::new())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = self.next_name(level)? else {
                self.volume.release_dir(level.handle);
                self.volume.forget(level.node, u64::from(level.node != ROOT));
                levels.pop();
                continue;
            };
            let path = format!("{}/{}", level.path, String::from_utf8_lossy(&name));
            let entered = match self.entry(level.node, &name) {
                Ok(Some(node)) => self.enter(node, path.clone()).map(Some),
                done => done.map(|_| None),
            };
            match entered {
                Ok(below) => levels.extend(below),
                Err(error) => self.tell(&path, error)?,
            }
        }
        Ok(())
    }

    fn enter(&mut self, node: u64, path: String) -> Result<Level> {
        let handle = self.volume.open_dir(node).inspect_err(|_| {
            self.volume.forget(node, u64::from(node != ROOT));
        })?;
        Ok(Level { node, handle, path, offset: 0, names: Vec::new() })
    }

    /// The next name of a directory; None behind the last. What cannot be listed is damage.
    fn next_name(&mut self, level: &mut Level) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(name) = level.names.pop() {
                return Ok(Some(name));
            }
            let mut last = None;
            let listed = self.volume.read_dir(level.handle, level.offset, &mut |entry| {
                last = Some(entry.next_offset);
                if entry.name != b"." && entry.name != b".." {
                    level.names.push(entry.name.clone());
                }
                level.names.len() < 512
            });
            level.names.reverse();
            match (listed, last) {
                (Err(error), _) => {
                    self.tell(&level.path, error)?;
                    return Ok(None);
                }
                (Ok(_), None) => return Ok(None),
                (Ok(_), Some(last)) => level.offset = last,
            }
        }
    }

    /// Damage is counted; a refusal of the key service ends it.
    fn tell(&mut self, path: &str, error: impl Into<SnapshotError>) -> Result<()> {
        use crate::volume::VolumeError;
        match error.into() {
            SnapshotError::Volume(VolumeError::Key(refused)) => Err(VolumeError::Key(refused).into()),
            error => {
                self.found.damage(format!("{path}: {error}"));
                Ok(())
            }
        }
    }

    /// One entry. The node of a directory, which is kept: its entries are to follow.
    fn entry(&mut self, parent: u64, name: &[u8]) -> Result<Option<u64>> {
        let attr = self.volume.lookup(parent, name)?;
        let done = match attr.stat.kind {
            Kind::Directory => return Ok(Some(attr.node)),
            Kind::File => self.file(attr.node, attr.stat.size),
            Kind::Symlink => self.volume.readlink(attr.node).map(drop).map_err(Into::into),
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Ok(()),
        };
        self.volume.forget(attr.node, 1);
        done.map(|()| None)
    }

    fn file(&mut self, node: u64, size: u64) -> Result<()> {
        let mode = OpenMode { read: true, write: false, truncate: false, kill_priv: false };
        let handle = self.volume.open_file(CALLER, node, mode)?;
        let mut offset = 0;
        let read = loop {
            match self.volume.read(handle, offset, &mut self.buffer) {
                Ok(0) => break Ok(()),
                Ok(read) => offset += read as u64,
                Err(e) => break Err(e),
            }
        };
        self.volume.release(handle)?;
        self.found.files += 1;
        self.found.bytes += offset;
        (self.seen)(offset);
        read?;
        for attr in self.volume.list_xattr(node)? {
            self.volume.get_xattr(node, &attr)?;
        }
        if offset != size {
            return Err(SnapshotError::damaged(format!("{offset} of {size} bytes are there")));
        }
        Ok(())
    }
}

/// A file of a snapshot under its true name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// Plaintext path, from the volume's root; what is not UTF-8 is replaced.
    pub path: String,
    /// What it is.
    pub kind: &'static str,
    /// Plaintext bytes of a file, as its length gives them.
    pub size: u64,
    /// Hex of the BLAKE3 of a file's pages as they are stored.
    pub digest: Option<String>,
}

/// Tells of every entry under its true name. Opens names only: no file's key is needed. `tree` is the snapshot as a directory.
pub fn list_files(
    tree: &Arc<dyn Dir>,
    volume: &VolumeKeys,
    tell: &mut dyn FnMut(Listed) -> Result<()>,
) -> Result<()> {
    // Not by calling itself: see above.
    let mut levels = vec![(tree.clone(), String::new(), names_of(tree, volume, "")?)];
    while let Some((dir, above, names)) = levels.last_mut() {
        let Some((name, entry)) = names.pop() else {
            levels.pop();
            continue;
        };
        let path = format!("{above}/{}", String::from_utf8_lossy(&name));
        let stat = dir.stat_at(&entry.name).on("looking at", &path)?;
        let (kind, size) = match entry.kind {
            Kind::File => ("file", size_of_stat(stat.size).unwrap_or(whole_blocks(stat.size) * BLOCK)),
            Kind::Directory => ("directory", 0),
            Kind::Symlink => ("symlink", 0),
            Kind::Fifo => ("fifo", 0),
            Kind::Socket => ("socket", 0),
            Kind::CharDevice => ("char-device", 0),
            Kind::BlockDevice => ("block-device", 0),
        };
        let digest = dir.as_any().downcast_ref::<SnapshotDir>().and_then(|dir| dir.digest(&entry.name));
        tell(Listed { path: path.clone(), kind, size, digest: digest.map(hex::encode) })?;
        if entry.kind == Kind::Directory {
            let inner = dir.open_dir(&entry.name).on("opening", &path)?;
            let names = names_of(&inner, volume, &path)?;
            levels.push((inner, path, names));
        }
    }
    Ok(())
}

/// The true names of a directory's entries, with these; the last first.
fn names_of(dir: &Arc<dyn Dir>, volume: &VolumeKeys, path: &str) -> Result<Vec<(Vec<u8>, RawEntry)>> {
    let id: DirId = parse_dir_id(&dir.readlink(DIR_ID).on("reading the id of", path)?)?;
    let mut found = Vec::new();
    for entry in dir.entries().on("listing", path)? {
        let full = match classify(&entry.name) {
            EntryClass::Name => entry.name.clone(),
            EntryClass::Long => {
                dir.readlink(&long_name_link(&entry.name)).on("reading a long name in", path)?
            }
            EntryClass::LongName | EntryClass::Temporary | EntryClass::Reserved => continue,
        };
        found.push((volume.decode_name(&id, &full)?, entry));
    }
    found.sort_by(|a, b| b.0.cmp(&a.0));
    Ok(found)
}
