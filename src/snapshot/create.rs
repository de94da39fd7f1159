//! Taking a snapshot. Two passes, so that writes are held shortly: the first copies what changed into packs while the volume is
//! in use; the second, under a hold, copies again what changed since and writes the manifest. Packs come first, then the
//! manifest, then the descriptor by which the snapshot is there.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::capture::{Clock, Mode, Output, Pass, Prior, Stream, scratch};
use super::catalogue::{self, Snapshot, Spool, pack_checker};
use super::depot::{Depot, descriptor_path, pack_path};
use super::descriptor::{Counts, Descriptor, Id, Pack, Parent, SNAPSHOT_FORMAT, check_name};
use super::error::{On, Result, SnapshotError};
use super::manifest::{Manifest, ManifestSink, Reader, Records};
use super::packs::{PACK_PAGES, Packer, Tables};
use crate::crypto::random;
use crate::kms::{KeyService, Ledger, SnapshotAction};
use crate::volume::descriptor::{self as volume_descriptor, LOCK, ListedRecipient, PRIVATE_DIR, Unwrapped};
use crate::volume::disk::{Dir, Time};
use crate::volume::epoch::Epoch;
use crate::volume::header::WrappedKey;
use crate::volume::keys::VolumeKeys;
use crate::volume::{VolumeError, epoch};

/// How the backing tree is made to stand still.
pub trait Quiesce {
    /// True if the volume is in use: it is worth to copy most of it before it is held.
    fn is_live(&self) -> bool;
    /// Brings what programs wrote into the backing tree, as far as that can be done without a hold.
    fn sync(&self) -> Result<()>;
    /// From now until the answer is dropped the backing tree stands as after a clean unmount, and does not change.
    fn hold(&self) -> Result<Box<dyn Hold + '_>>;
}

/// A backing tree that stands still.
pub trait Hold {
    /// An error if it did not stand still all the time since.
    fn still(&self) -> Result<()>;
}

/// A volume that nobody has mounted for writing, and that was closed cleanly.
pub struct Unmounted {
    private: Arc<dyn Dir>,
}

impl Unmounted {
    /// The volume in `root`.
    pub fn new(root: &dyn Dir) -> Result<Self> {
        Ok(Self { private: private_of(root)? })
    }
}

impl Quiesce for Unmounted {
    fn is_live(&self) -> bool {
        false
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn hold(&self) -> Result<Box<dyn Hold + '_>> {
        // Shared with read-only mounts, which change nothing.
        let lock = self.private.lock(LOCK, false).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => VolumeError::InUse,
            _ => VolumeError::Backing { what: "locking the volume", source },
        })?;
        if !epoch::is_settled(&*self.private)? {
            return Err(VolumeError::NotSettled.into());
        }
        Ok(Box::new(Locked { _lock: lock }))
    }
}

struct Locked {
    _lock: Box<dyn Send + Sync>,
}

impl Hold for Locked {
    fn still(&self) -> Result<()> {
        Ok(())
    }
}

fn private_of(root: &dyn Dir) -> Result<Arc<dyn Dir>> {
    root.open_dir(PRIVATE_DIR).on("opening the private directory of", "the volume")
}

/// How a snapshot shall be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// Copy everything, also what an earlier snapshot has.
    pub full: bool,
    /// Account of the keys.
    pub account: String,
    /// The time, for people.
    pub now: Time,
    /// Pages of the largest pack.
    pub pack_pages: u64,
}

impl Options {
    /// An incremental one.
    pub fn new(name: String, account: String, now: Time) -> Self {
        Self { name, full: false, account, now, pack_pages: PACK_PAGES }
    }
}

/// A snapshot that was taken.
#[derive(Debug, Clone)]
pub struct Created {
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// How long writes were held.
    pub held: Duration,
    /// Why an earlier snapshot could not serve.
    pub parent_unusable: Option<String>,
}

/// Where a snapshot comes from and goes to.
pub struct Ends<'a> {
    /// The volume's directory.
    pub root: &'a Arc<dyn Dir>,
    /// Where the snapshot goes.
    pub depot: &'a Arc<dyn Depot>,
    /// A directory for temporary files, that may become as large as a manifest.
    pub scratch: &'a dyn Dir,
    /// The volume's key service.
    pub service: &'a dyn KeyService,
    /// The log.
    pub ledger: &'a dyn Ledger,
}

/// Takes a snapshot. `seen` is told of each entry, in each pass, with the bytes it has in the backing.
pub fn create(ends: &Ends, quiesce: &dyn Quiesce, options: &Options, seen: &dyn Fn(u64)) -> Result<Created> {
    check_name(&options.name)?;
    let depot = ends.depot;
    let _lock = depot.lock()?;
    match depot.len(&descriptor_path(&options.name)) {
        Ok(_) => return Err(SnapshotError::Exists(options.name.clone())),
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e),
    }
    catalogue::sweep(depot)?;
    let created = Work::begin(ends, options)?.run(quiesce, seen);
    if created.is_err() {
        // Best effort: the next command sweeps again.
        let _ = catalogue::sweep(depot);
    }
    created
}

struct Work<'a> {
    ends: &'a Ends<'a>,
    options: &'a Options,
    private: Arc<dyn Dir>,
    volume: VolumeKeys,
    /// The wrapped volume keys when it began, and the volume's own KMS key, which is that of the first: not by its name in
    /// the list, which is not authenticated, but by having opened.
    own: (Vec<WrappedKey>, String),
    clock: Clock,
    id: Id,
    parent: Option<(Descriptor, Manifest)>,
    parent_unusable: Option<String>,
}

impl<'a> Work<'a> {
    fn begin(ends: &'a Ends<'a>, options: &'a Options) -> Result<Self> {
        let private = private_of(&**ends.root)?;
        let described = volume_descriptor::Descriptor::read(&**ends.root)?;
        let Unwrapped { keys: volume, own, .. } = described.unwrap(ends.service, None)?;
        let own = (described.keys.clone(), own?);
        let clock = Clock::ask(&*private, options.now)?;
        let id = Id(random()?);
        let (parent, parent_unusable) = if options.full {
            (None, None)
        } else {
            match newest(ends, &volume, &described) {
                Ok(parent) => (parent, None),
                // A whole snapshot is what is left; the reason is told.
                Err(error) => (None, Some(error.to_string())),
            }
        };
        Ok(Self { ends, options, private, volume, own, clock, id, parent, parent_unusable })
    }

    fn run(self, quiesce: &dyn Quiesce, seen: &dyn Fn(u64)) -> Result<Created> {
        let ends = self.ends;
        let mut packer = Packer::new(&**ends.depot, self.options.pack_pages);
        let mut priors = Vec::new();
        if quiesce.is_live() {
            quiesce.sync()?;
            let draft = scratch(ends.scratch)?;
            let out = Records::new(Stream::write(draft.clone()), self.id)?;
            let mut pass = self.pass(Mode::Live, self.parent_prior()?, &mut packer, out, seen);
            pass.run(ends.root)?;
            let Output { records, tables, .. } = pass.output;
            drop(
                records
                    .finish()?
                    .into_inner()
                    .map_err(|e| e.into_error())
                    .on("writing", "a temporary file")?,
            );
            let input: Box<dyn Read + Send> = Box::new(Stream::read(draft));
            // Its packs are those that are being made, or were looked for when it was written.
            priors.push(Prior::new(Reader::new(input, None)?, tables, Box::new(|_, _| Ok(true))));
        } else {
            priors.extend(self.parent_prior()?);
        }

        let name = &self.options.name;
        let spool = Spool::begin(&**ends.depot, name, ends.scratch)?;
        let held_since = Instant::now();
        let hold = quiesce.hold()?;
        // What a mount changed in it (rewrapping) is settled by now.
        let described = volume_descriptor::Descriptor::read(&**ends.root)?;
        described.verify(&self.volume)?;
        let mut marker = Epoch::read(&*self.private, &self.volume)?;
        if marker.unclean.iter().any(|unclean| !unclean.mended) {
            return Err(VolumeError::NotSettled.into());
        }
        marker.clean = true;
        let key_id = match &self.own {
            (keys, own) if *keys == described.keys => own.clone(),
            // Rewrapped meanwhile.
            _ => described.unwrap(ends.service, None)?.own?,
        };
        let (sink, manifest) =
            ManifestSink::begin(spool.file(), &self.volume, ends.service, &key_id, marker.number)?;
        let mut pass = self.pass(Mode::Held, priors, &mut packer, Records::new(sink, self.id)?, seen);
        pass.run(ends.root)?;
        let Output { records, mut tables, mut counts, .. } = pass.output;
        records.finish()?.finish()?;
        hold.still()?;
        drop(hold);
        let held = held_since.elapsed();

        packer.finish()?;
        tables.correct(&packer.made);
        counts.new_pages = packer.pages;
        let made = std::mem::take(&mut packer.made);
        drop(packer);
        let (packs, keys) = tables.into_parts();
        // Packs of the first pass of which the second took nothing.
        let needed = |made: &&Pack| packs.iter().any(|pack| pack.pages > 0 && pack.id == made.id);
        for pack in made.iter().filter(|made| !needed(made)) {
            ends.depot.delete(&pack_path(&pack.id.0))?;
        }
        spool.finish()?;
        let parent = self.parent.as_ref().map(|(p, _)| Parent { name: p.name.clone(), id: p.snapshot_id });
        let mut descriptor = Descriptor {
            format: SNAPSHOT_FORMAT,
            features: described.features.iter().map(|feature| feature.name().to_owned()).collect(),
            snapshot_id: self.id,
            name: name.clone(),
            volume_id: Id(described.id),
            region: described.region.clone(),
            account: self.options.account.clone(),
            created: self.options.now.sec,
            epoch: hex::encode(marker.encode(&self.volume)),
            parent,
            copied_from: None,
            manifest,
            packs,
            counts,
            keys,
            recipients: ListedRecipient::list(&described.recipients),
            volume_keys: Descriptor::seal_keys(&described.keys),
            mac: String::new(),
        };
        descriptor.sign(&self.volume)?;
        ends.ledger.record(descriptor.event(SnapshotAction::Create), true)?;
        ends.depot.put(&descriptor_path(name), &descriptor.encode()?)?;
        Ok(Created { descriptor, held, parent_unusable: self.parent_unusable })
    }

    fn parent_prior(&self) -> Result<Vec<Prior>> {
        let Some((descriptor, manifest)) = &self.parent else { return Ok(Vec::new()) };
        let tables = Tables::of(&descriptor.packs, &descriptor.keys)?;
        Ok(vec![Prior::new(manifest.entries()?, tables, pack_checker(self.ends.depot.clone()))])
    }

    fn pass<'p, 'd, W: std::io::Write>(
        &'p self,
        mode: Mode,
        priors: Vec<Prior>,
        packer: &'p mut Packer<'d>,
        out: Records<W>,
        seen: &'p dyn Fn(u64),
    ) -> Pass<'p, 'd, W> {
        let tables = priors.first().map(Prior::successor).unwrap_or_default();
        let output = Output { records: out, tables, counts: Counts::default(), seen };
        Pass { mode, clock: &self.clock, priors, packer, output, links: HashMap::new(), path: Vec::new() }
    }
}

/// The newest snapshot of the volume in the depot.
fn newest(
    ends: &Ends,
    volume: &VolumeKeys,
    described: &volume_descriptor::Descriptor,
) -> Result<Option<(Descriptor, Manifest)>> {
    let listing = catalogue::list(ends.depot)?;
    let mut ours = listing.snapshots.into_iter().rev();
    let Some(descriptor) = ours.find(|s| s.volume_id.0 == volume.id && s.region == described.region) else {
        return Ok(None);
    };
    let snapshot = Snapshot { depot: ends.depot.clone(), descriptor };
    let manifest = snapshot.manifest(volume, ends.service)?;
    Ok(Some((snapshot.descriptor, manifest)))
}
