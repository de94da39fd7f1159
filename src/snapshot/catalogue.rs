//! The snapshots of a depot: found, read, deleted, and what nobody names swept away.

use std::collections::HashSet;
use std::sync::Arc;

use super::capture::{Stream, Usable, scratch};
use super::depot::{Depot, PACKS, SNAPSHOTS, Sink, descriptor_path, manifest_path, pack_path};
use super::descriptor::{Descriptor, Id, MAX_DESCRIPTOR, check_name};
use super::error::{On, Result, SnapshotError};
use super::fixed::{Fixed, ReadOnly, as_io};
use super::manifest::Manifest;
use crate::kms::{KeyService, Ledger, SnapshotAction};
use crate::volume::disk::{BackingFile, Dir, Stat};
use crate::volume::keys::VolumeKeys;
use crate::volume::layout::PAGE;

/// A snapshot whose descriptor was read. Nothing is authenticated yet.
#[derive(Clone)]
pub struct Snapshot {
    /// Where it is.
    pub depot: Arc<dyn Depot>,
    /// What it says of itself.
    pub descriptor: Descriptor,
}

/// A snapshot whose descriptor was authenticated and whose manifest is open.
pub struct Opened {
    /// Where it is.
    pub depot: Arc<dyn Depot>,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// Keys of its volume.
    pub volume: VolumeKeys,
    /// Its tree.
    pub manifest: Manifest,
    /// ARN of the KMS key that opened its volume key. Whoever has a key that one may decrypt with can make a snapshot that is
    /// authentic under it, whatever names and ids he gives it.
    pub opened_by: String,
}

impl Snapshot {
    /// Reads a snapshot's descriptor.
    pub fn find(depot: Arc<dyn Depot>, name: &str) -> Result<Self> {
        check_name(name)?;
        let text = depot.get(&descriptor_path(name), MAX_DESCRIPTOR).map_err(|e| match e {
            e if e.is_not_found() => {
                SnapshotError::NotFound { name: name.to_owned(), depot: depot.location() }
            }
            e => e,
        })?;
        let descriptor = Descriptor::parse(&text)?;
        if descriptor.name != name {
            return Err(SnapshotError::damaged(format!(
                "snapshot.json of {name:?} is that of {:?}: give its directory that name",
                descriptor.name
            )));
        }
        Ok(Self { depot, descriptor })
    }

    /// Opens the volume key and the manifest's data key (two Decrypts) and authenticates the descriptor.
    pub fn open(self, service: &dyn KeyService) -> Result<Opened> {
        let (volume, opened_by) = self.descriptor.unlock_by(service)?;
        let manifest = self.manifest(&volume, service)?;
        Ok(Opened { depot: self.depot, descriptor: self.descriptor, volume, manifest, opened_by })
    }

    /// Authenticates the descriptor and opens the manifest, where the volume's keys are at hand.
    pub fn manifest(&self, volume: &VolumeKeys, service: &dyn KeyService) -> Result<Manifest> {
        self.descriptor.verify(volume)?;
        let path = manifest_path(&self.descriptor.name);
        let file = DepotFile::open(self.depot.clone(), path).map_err(|error| match error {
            // There is a descriptor, so there was one.
            error if error.is_not_found() => {
                let Descriptor { name, .. } = &self.descriptor;
                SnapshotError::damaged(format!(
                    "the manifest of {name:?} is missing in {}",
                    self.depot.location()
                ))
            }
            error => error,
        })?;
        Manifest::open(file, &self.descriptor, volume, service)
    }
}

/// What stands in a depot.
pub struct Listing {
    /// Snapshots, the oldest first.
    pub snapshots: Vec<Descriptor>,
    /// Those whose descriptors cannot be read, with the reason.
    pub unreadable: Vec<(String, SnapshotError)>,
}

/// Lists the snapshots of a depot.
pub fn list(depot: &Arc<dyn Depot>) -> Result<Listing> {
    let mut listing = Listing { snapshots: Vec::new(), unreadable: Vec::new() };
    for name in depot.list(SNAPSHOTS)? {
        match Snapshot::find(depot.clone(), &name) {
            Ok(snapshot) => listing.snapshots.push(snapshot.descriptor),
            // One that was cut before it was there.
            Err(SnapshotError::NotFound { .. }) => {}
            // Something that is none; or one whose directory somebody renamed, and whose packs must not go.
            Err(error @ SnapshotError::BadName(_)) => {
                if depot.len(&descriptor_path(&name)).is_ok() {
                    listing.unreadable.push((name, error));
                }
            }
            Err(error) => listing.unreadable.push((name, error)),
        }
    }
    listing.snapshots.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    Ok(listing)
}

/// What [`delete`] took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Deleted {
    /// Packs that no other snapshot of the depot names.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Deletes a snapshot: first its descriptor, then what only it named. Needs no key.
pub fn delete(depot: &Arc<dyn Depot>, name: &str, ledger: &dyn Ledger) -> Result<Deleted> {
    let _lock = depot.lock()?;
    let Snapshot { descriptor, .. } = Snapshot::find(depot.clone(), name)?;
    ledger.record(descriptor.event(SnapshotAction::Delete), true)?;
    depot.delete(&descriptor_path(name))?;
    sweep(depot)
}

/// Takes away what cut commands left, and packs that no snapshot names. Under the depot's lock. Where a descriptor, or the draft
/// of a copy, cannot be read nobody knows which packs it names: then no pack is touched.
pub fn sweep(depot: &Arc<dyn Depot>) -> Result<Deleted> {
    depot.sweep()?;
    let mut deleted = Deleted::default();
    let listing = list(depot)?;
    let standing: HashSet<&str> = listing.snapshots.iter().map(|s| s.name.as_str()).collect();
    let unreadable: HashSet<&str> = listing.unreadable.iter().map(|(name, _)| name.as_str()).collect();
    for name in depot.list(SNAPSHOTS)? {
        let whole = standing.contains(name.as_str()) || unreadable.contains(name.as_str());
        if !whole && check_name(&name).is_ok() {
            depot.delete(&manifest_path(&name))?;
        }
    }
    // A copy that was cut off goes on with what it has.
    let drafts = super::copy::packs_of_drafts(&**depot)?;
    let Some(mut named) = drafts.filter(|_| unreadable.is_empty()) else { return Ok(deleted) };
    named.extend(listing.snapshots.iter().flat_map(Descriptor::standing_packs).map(|p| p.id));
    for name in depot.list(PACKS)? {
        let Ok(id) = Id::try_from(name) else { continue };
        if !named.contains(&id) {
            let path = pack_path(&id.0);
            // Nobody vouches for it.
            deleted.bytes = deleted.bytes.saturating_add(depot.len(&path)?);
            deleted.packs += 1;
            depot.delete(&path)?;
        }
    }
    Ok(deleted)
}

/// An object of a depot as a backing file that is only read.
pub struct DepotFile {
    depot: Arc<dyn Depot>,
    path: String,
    len: u64,
}

impl DepotFile {
    /// Looks how long it is.
    pub fn open(depot: Arc<dyn Depot>, path: String) -> Result<Arc<dyn BackingFile>> {
        let len = depot.len(&path)?;
        Ok(Arc::new(ReadOnly(Self { depot, path, len })))
    }
}

impl Fixed for DepotFile {
    fn fixed_len(&self) -> u64 {
        self.len
    }

    fn fixed_stat(&self) -> std::io::Result<Stat> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self.depot.read_at(&self.path, offset, buf).map_err(as_io)? {
            read if read == buf.len() => Ok(()),
            _ => Err(std::io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    fn data_after(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }

    fn attrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &[]
    }
}

/// Whether a pack stands in a depot, whole; asked once for each.
pub(super) fn pack_checker(depot: Arc<dyn Depot>) -> Usable {
    let mut known = std::collections::HashMap::new();
    Box::new(move |id, pages| {
        if let Some(there) = known.get(id) {
            return Ok(*there);
        }
        let there = match depot.len(&pack_path(&id.0)) {
            Ok(len) => len == pages * PAGE,
            Err(e) if e.is_not_found() => false,
            Err(e) => return Err(e),
        };
        known.insert(*id, there);
        Ok(there)
    })
}

/// Reads bytes of a pack; fewer than there should be are damage.
pub(super) fn read_pack(depot: &dyn Depot, pack: &Id, offset: u64, buf: &mut [u8]) -> Result<()> {
    let path = pack_path(&pack.0);
    let read = depot.read_at(&path, offset, buf);
    let read = match read {
        Err(e) if e.is_not_found() => {
            return Err(SnapshotError::damaged(format!("{path} is missing in {}", depot.location())));
        }
        read => read?,
    };
    if read < buf.len() {
        return Err(SnapshotError::damaged(format!("{path} in {} is cut", depot.location())));
    }
    Ok(())
}

/// A manifest that is being written: in the depot, where that takes a file, else in a scratch file that goes there whole.
pub(super) struct Spool<'a> {
    depot: &'a dyn Depot,
    path: String,
    file: Arc<dyn BackingFile>,
    sink: Option<Box<dyn Sink>>,
}

impl<'a> Spool<'a> {
    /// Begins the manifest of the snapshot `name`.
    pub fn begin(depot: &'a dyn Depot, name: &str, scratch_dir: &dyn Dir) -> Result<Self> {
        let path = manifest_path(name);
        let (file, sink) = match depot.create_file(&path)? {
            Some((file, sink)) => (file, Some(sink)),
            None => (scratch(scratch_dir)?, None),
        };
        Ok(Self { depot, path, file, sink })
    }

    /// What it is written through.
    pub fn file(&self) -> Arc<dyn BackingFile> {
        self.file.clone()
    }

    /// The manifest is in its place, durably.
    pub fn finish(self) -> Result<()> {
        if let Some(sink) = self.sink {
            return sink.finish();
        }
        let mut sink = self.depot.create(&self.path)?;
        std::io::copy(&mut Stream::read(self.file), &mut sink).on("writing", &self.path)?;
        sink.finish()
    }
}
