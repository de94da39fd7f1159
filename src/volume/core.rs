//! A volume as a whole: made, opened, closed, and told of changes in the key service.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::descriptor::{DESCRIPTOR, Descriptor, LINKS_DIR, LOCK, PRIVATE_DIR, Unwrapped};
use super::disk::{Dir, FsStat, Stat};
use super::epoch::{Epoch, backing_now};
use super::error::{Attempt, Result, VolumeError};
use super::file::File;
use super::header::WrappedKey;
use super::hold::{Changing, Gate};
use super::keys::{Leases, Maker, Pool, VolumeId, VolumeKey, VolumeKeys, volume_context};
use super::listing::Listing;
use super::names::{self, DIR_ID, EntryClass, classify};
use super::nodes::{Directory, Node, Nodes};
use super::recipients::{Opens, Recipients};
use super::types::{HandleId, NodeId, Status, VolumeOptions};
use super::walk::Moved;
use crate::crypto::{Secret, random};
use crate::kms::{FileEvent, KeyService, KmsError, Ledger};

/// An encrypted directory, open. All methods may be called from several threads.
///
/// Dropping it without [`Volume::close`] leaves the epoch unclean, as a crash would.
pub struct Volume {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the volume's own threads share with it.
pub struct Core {
    pub(super) root: Arc<dyn Dir>,
    pub(super) private: Arc<dyn Dir>,
    pub(super) service: Arc<dyn KeyService>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) options: VolumeOptions,
    pub(super) keys: VolumeKeys,
    /// Its wrapped keys and its recipients may change.
    pub(super) descriptor: RwLock<Descriptor>,
    /// Which wrapped keys the key service is asked to open: changes with the recipients.
    pub(super) opens: RwLock<Arc<Opens>>,
    /// Number and list change only by mending; its number never.
    pub(super) epoch: Mutex<Epoch>,
    pub(super) epoch_number: u64,
    /// Held while files are mended.
    pub(super) mending: Mutex<()>,
    /// Every change of the backing goes through it.
    pub(super) gate: Gate,
    pub(super) moved: Moved,
    pub(super) nodes: Nodes,
    pub(super) leases: Leases,
    pub(super) pool: Arc<Pool>,
    pub(super) files: RwLock<HashMap<HandleId, Arc<OpenHandle>>>,
    pub(super) listings: Mutex<HashMap<HandleId, Arc<Mutex<Listing>>>>,
    next_handle: AtomicU64,
    /// Changes of one directory's names are made one after the other; a directory has one of these.
    directory_locks: [Mutex<()>; 64],
    /// The key service's generation that all leases and waiting keys belong to.
    generation: AtomicU64,
    /// When the waiting keys were dropped last, where the key service has no generation.
    drained: Mutex<Instant>,
    /// The generation moved and the open files were not decided about again.
    withdrawn: AtomicBool,
    pub(super) stop: AtomicBool,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
    closed: Mutex<bool>,
}

/// One open of a file.
pub struct OpenHandle {
    pub(super) node: Arc<Node>,
    pub(super) file: Arc<File>,
    pub(super) write: bool,
}

impl Deref for Volume {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Volume {
    /// Makes a volume in an empty directory: volume key, root directory id, epoch marker, and at last the
    /// descriptor. What a cut attempt left is taken away first. `key_id` names the KMS key for the volume key
    /// and for every new file. Returns the volume id (hex).
    pub fn init(dir: &dyn Dir, keys: &dyn KeyService, key_id: &str) -> Result<String> {
        clear_cut_init(dir)?;
        let key = keys.describe_key(key_id)?;
        let id: VolumeId = random()?;
        let made = keys.generate_data_key(&key.key_arn, &volume_context(&id))?;
        let volume_key = VolumeKey(Secret::from_slice(made.plaintext.expose())?);
        let volume = VolumeKeys::derive(&volume_key, id)?;
        let what = "making a volume";
        dir.mkdir(PRIVATE_DIR, 0o700).attempt(what)?;
        let private = dir.open_dir(PRIVATE_DIR).attempt(what)?;
        private.mkdir(LINKS_DIR, 0o700).attempt(what)?;
        drop(private.lock(LOCK, true).attempt(what)?);
        Epoch::first(backing_now(&*private)?).write(&*private, &volume)?;
        dir.symlink(&names::encode_dir_id(&names::new_dir_id()?), DIR_ID).attempt(what)?;
        let wrapped = WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext };
        let features = Descriptor::features_of(keys.holder());
        let descriptor = Descriptor::new(&volume, key.region, features, vec![wrapped]);
        super::descriptor::replace_file(dir, DESCRIPTOR, &descriptor.encode()?)?;
        Ok(hex::encode(id))
    }

    /// Opens a volume: checks the descriptor, takes the lock, begins an epoch (read-write).
    pub fn open(
        dir: Arc<dyn Dir>,
        keys: Arc<dyn KeyService>,
        ledger: Arc<dyn Ledger>,
        options: VolumeOptions,
    ) -> Result<Self> {
        let descriptor = Descriptor::read(&*dir)?;
        if !options.service_region.is_empty() && options.service_region != descriptor.region {
            let service = options.service_region;
            return Err(VolumeError::WrongRegion { volume: descriptor.region, service });
        }
        if keys.holder() != descriptor.holder() {
            return Err(VolumeError::WrongService { volume: descriptor.holder() });
        }
        let what = "opening the volume's private directory";
        let private = dir.open_dir(PRIVATE_DIR).attempt(what)?;
        let lock = private.lock(LOCK, !options.read_only).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => VolumeError::InUse,
            _ => VolumeError::Backing { what: "locking the volume", source },
        })?;
        let Unwrapped { keys: volume, own, .. } = descriptor.unwrap(&*keys, options.only.as_deref())?;
        if !options.read_only {
            super::rekey::finish(&dir, &private, &volume)?;
        }
        let epoch = begin_epoch(&*private, &volume, &options)?;
        let root_id = names::parse_dir_id(&dir.readlink(DIR_ID).attempt("reading the root directory's id")?)?;
        let root = Directory { dir: dir.clone(), id: root_id };
        let nodes = Nodes::new(root, &dir.stat().attempt("asking for the root")?, options.max_open_dirs);
        let regions = options.regions.clone();
        let recipients = Recipients::new(descriptor.recipients.clone(), descriptor.region.clone(), regions);
        let pool = Arc::new(Pool::new(Maker::new(own, volume.id, recipients), options.pool));
        let opens = Opens::new(&descriptor.region, &descriptor.recipients, options.only.as_deref());
        let generation = ledger.generation()?.unwrap_or(0);
        let core = Arc::new(Core {
            root: dir,
            private,
            service: keys,
            ledger,
            leases: Leases::new(options.lease),
            options,
            keys: volume,
            descriptor: RwLock::new(descriptor),
            opens: RwLock::new(Arc::new(opens)),
            epoch_number: epoch.number,
            epoch: Mutex::new(epoch),
            mending: Mutex::new(()),
            gate: Gate::default(),
            moved: Moved::default(),
            nodes,
            pool,
            files: RwLock::default(),
            listings: Mutex::default(),
            next_handle: AtomicU64::new(1),
            directory_locks: [const { Mutex::new(()) }; 64],
            generation: AtomicU64::new(generation),
            drained: Mutex::new(Instant::now()),
            withdrawn: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
            closed: Mutex::new(false),
        });
        if !core.options.read_only {
            core.record(
                FileEvent::MountVolume { volume_id: core.volume_id(), epoch: core.epoch_number },
                true,
            )?;
        }
        if !core.options.read_only {
            // Also of a mount that was cut before its epoch began.
            core.sweep_private()?;
        }
        let opened = Self { core, threads: Mutex::default() };
        opened.start_threads()?;
        Ok(opened)
    }

    fn start_threads(&self) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let mut threads = self.threads.lock();
        let start = |name: &str, run: Box<dyn FnOnce(&Core) + Send>| {
            let core = self.core.clone();
            let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&core));
            thread.attempt("starting a thread")
        };
        if self.options.pool > 0 {
            threads.push(start("data-keys", Box::new(|core| core.pool.run(&*core.service)))?);
        }
        if self.options.mend_in_background && self.needs_mending() {
            let mend = |core: &Core| {
                if let Err(error) = core.mend() {
                    tracing::warn!(%error, "not everything that a crash may have cut could be mended; the next mount tries again");
                }
            };
            threads.push(start("mend", Box::new(mend))?);
        }
        Ok(())
    }

    fn stop_threads(&self) {
        self.stop.store(true, Ordering::Release);
        self.pool.stop();
        for thread in self.threads.lock().drain(..) {
            // A panic of the thread has been reported by its own message.
            let _ = thread.join();
        }
    }

    /// Clean unmount: finalises all, syncs the filesystem, marks the epoch clean. Once it is done, nothing more
    /// happens; after an error it may be tried again.
    pub fn close(&self) -> Result<()> {
        let mut closed = self.closed.lock();
        if *closed {
            return Ok(());
        }
        self.stop_threads();
        if !self.options.read_only {
            // Those that could not be finalised at their last close are still among them.
            for file in self.nodes.open_files() {
                file.content.finalise()?;
            }
            self.root.sync_fs().attempt("syncing the backing filesystem")?;
            let mut epoch = self.epoch.lock();
            epoch.clean = true;
            epoch.write(&*self.private, &self.keys)?;
            drop(epoch);
            self.record(
                FileEvent::UnmountVolume { volume_id: self.volume_id(), epoch: self.epoch_number },
                true,
            )?;
        }
        *self.lock.lock() = None;
        *closed = true;
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl Core {
    /// To be called every 250 ms: if the key service's generation moved, drops leases and data keys that
    /// wait, and decides again about open files. Answers the nodes whose cached pages the kernel must drop.
    pub fn tick(&self) -> Vec<NodeId> {
        if let Err(error) = self.notice_changes() {
            tracing::warn!(%error, "the key service does not say whether anything changed");
        }
        if !self.withdrawn.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut changed = Vec::new();
        // What was shredded is nobody's, whatever the key service says.
        for file in self.nodes.open_files().into_iter().filter(|file| !file.content.is_shredded()) {
            let refused = self.ask_for_key(&file.content.header()).is_err();
            if !file.set_revoked(refused) && refused {
                tracing::warn!(
                    file = hex::encode(file.id),
                    "access to the key of an open file was withdrawn; reads of it fail until it is given back"
                );
                changed.push(file.node);
            }
        }
        changed
    }

    /// Drops what was decided before the key service's generation moved.
    pub(super) fn notice_changes(&self) -> Result<()> {
        let Some(now) = self.ledger.generation()? else {
            // Nothing tells of changes: what was decided holds for a lease, data keys that wait among it.
            let mut drained = self.drained.lock();
            if drained.elapsed() >= self.options.lease {
                self.pool.drain();
                *drained = Instant::now();
            }
            return Ok(());
        };
        if self.generation.swap(now, Ordering::AcqRel) != now {
            self.leases.end_all();
            self.pool.drain();
            self.withdrawn.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// State of the volume.
    pub fn status(&self) -> Status {
        let epoch = self.epoch.lock();
        Status {
            volume_id: self.volume_id(),
            region: self.descriptor.read().region.clone(),
            epoch: self.epoch_number,
            mending: epoch.unclean.iter().filter(|u| !u.mended).map(|u| u.number).collect(),
            open_files: self.files.read().len(),
            nodes: self.nodes.len(),
        }
    }

    /// statvfs: sizes of the backing, the longest plaintext name.
    pub fn statfs(&self) -> Result<FsStat> {
        let stat = self.root.fs_stat().attempt("asking for the filesystem's sizes")?;
        Ok(FsStat { namemax: names::NAME_MAX as u64, ..stat })
    }

    /// The backing directory's own stat.
    pub fn backing_stat(&self) -> Result<Stat> {
        self.root.stat().attempt("asking for the volume's directory")
    }

    pub(super) fn volume_id(&self) -> String {
        hex::encode(self.keys.id)
    }

    pub(super) fn record(&self, event: FileEvent, sync: bool) -> std::result::Result<(), KmsError> {
        self.ledger.record(event, sync)
    }

    pub(super) fn writable(&self) -> Result<()> {
        if self.options.read_only { Err(VolumeError::ReadOnly) } else { Ok(()) }
    }

    /// To be held by whoever changes something in the backing, while that is done. See [`Gate::enter`].
    pub(super) fn changing(&self) -> Result<Changing<'_>> {
        self.writable()?;
        Ok(self.gate.enter())
    }

    pub(super) fn new_handle(&self) -> HandleId {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    fn directory_lock(&self, directory: NodeId) -> usize {
        (directory % self.directory_locks.len() as u64) as usize
    }

    /// Held while a directory's names change.
    pub(super) fn lock_directory(&self, directory: NodeId) -> MutexGuard<'_, ()> {
        self.directory_locks[self.directory_lock(directory)].lock()
    }

    /// The locks of several directories, in one order for all.
    pub(super) fn lock_directories(&self, directories: &[NodeId]) -> Vec<MutexGuard<'_, ()>> {
        let mut locks: Vec<usize> = directories.iter().map(|d| self.directory_lock(*d)).collect();
        locks.sort_unstable();
        locks.dedup();
        locks.into_iter().map(|i| self.directory_locks[i].lock()).collect()
    }
}

/// Takes away what an init that was cut short left; refuses anything else.
fn clear_cut_init(dir: &dyn Dir) -> Result<()> {
    let what = "looking into the directory";
    let entries = dir.entries().attempt(what)?;
    if entries.iter().any(|e| e.name == DESCRIPTOR) {
        return Err(VolumeError::CannotInit("this is a volume already; mount it with `kmsfs mount`"));
    }
    let ours = |name: &[u8]| name == PRIVATE_DIR || name == DIR_ID || classify(name) == EntryClass::Temporary;
    if entries.iter().any(|e| !ours(&e.name)) {
        return Err(VolumeError::CannotInit("the directory is not empty; choose an empty one"));
    }
    for entry in entries {
        super::recover::remove_tree(dir, &entry)?;
    }
    Ok(())
}

fn begin_epoch(private: &dyn Dir, keys: &VolumeKeys, options: &VolumeOptions) -> Result<Epoch> {
    let read = Epoch::read(private, keys);
    if options.read_only {
        return match read {
            Err(VolumeError::Epoch(_)) if options.reset_epoch => Ok(Epoch::first(Default::default())),
            read => read.map(Epoch::as_read_only),
        };
    }
    let start = backing_now(private)?;
    let last = match read {
        Err(VolumeError::Epoch(_)) if options.reset_epoch => Epoch::reset(start),
        read => read?,
    };
    let epoch = last.next(start);
    epoch.write(private, keys)?;
    Ok(epoch)
}
