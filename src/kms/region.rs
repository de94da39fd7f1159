//! One region of the key service, open: its store, its root key, what is kept in memory, and the thread that
//! does what is due.

use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, RwLock};

use super::cache::{Cache, DefaultPolicies, Key};
use super::clock::Clock;
use super::commit::{Commits, DecidedAt, Tried};
use super::generation::GenerationFile;
use super::home::HomeError;
use super::identity::Identities;
use super::root::RootKey;
use super::siblings::Siblings;
use super::signed::Signer;
use super::together::Record;
use super::{KmsError, KmsErrorKind, events, imported, related, rows, schedule};
use crate::audit::{self, AuditError};
use crate::iam::{AccountId, AliasName, KeyId, Region};
use crate::store::{self, Durability, ReadTx, SqliteStore, Store, StoreError, WriteTx};

/// How often the thread looks.
const BEAT: Duration = Duration::from_millis(250);
/// How often it does what need not be done at each look.
const SLOW_BEAT: Duration = Duration::from_secs(1);
/// How long the thread indexes the log at one look, pauses included: it keeps up with full load.
const INDEX_FOR: Duration = Duration::from_millis(200);
/// It rests so many times as long as it worked, or requests would wait for its processor time and its transactions.
const INDEX_RESTS: u32 = 3;
/// Events about files that wait at most; the next one writes them.
const WAITING_EVENTS: usize = 1000;

/// Why a decision has to be made again.
pub enum Fault {
    /// The answer: no.
    Refused(KmsError),
    /// The answer, with the true reason for the log.
    Hidden {
        /// What the caller learns.
        answer: KmsError,
        /// What the log tells.
        reason: String,
    },
    /// Keys changed between two reads.
    Moved,
    /// A key that should be gone by now is not.
    Due,
}

impl<E: Into<KmsError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// A region that is open, with its thread. Dropped, it waits for the thread, writes what waits and signs the log's
/// head: so nothing is left to do when a process ends that has dropped its sessions.
pub struct RegionService {
    core: Arc<Core>,
    stop: Arc<Stop>,
    keeper: Option<JoinHandle<()>>,
}

impl Deref for RegionService {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

/// What the thread shares with the callers.
pub struct Core {
    /// Its name.
    pub region: Region,
    /// Its store.
    pub store: SqliteStore,
    /// Wraps its key material.
    pub root: RootKey,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The other regions of the home.
    pub siblings: Arc<Siblings>,
    /// Where work over two stores is to stop, as if the process ended there.
    #[cfg(test)]
    pub stops: Mutex<Option<&'static str>>,
    /// Who there is, in all regions.
    pub identities: Arc<Identities>,
    generation: GenerationFile,
    signer: Signer,
    cache: RwLock<Cache>,
    default_policies: DefaultPolicies,
    commits: Commits,
    /// Events about files that are not in the store yet.
    waiting: Mutex<Vec<Vec<u8>>>,
    /// They could not be written.
    stuck: AtomicBool,
}

#[derive(Default)]
struct Stop {
    now: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Waits so long. True if the thread is to end.
    fn wait(&self, at_most: Duration) -> bool {
        let mut now = self.now.lock();
        self.wake.wait_while_for(&mut now, |now| !*now, at_most);
        *now
    }
}

/// Writes what a new region's store begins with.
pub(super) fn found(store: &SqliteStore, root: &RootKey, region: &Region) -> Result<(), HomeError> {
    let mut tx = store.write(Durability::Synced)?;
    rows::found(&mut *tx, root, region).map_err(|e| StoreError::Engine(e.message))?;
    Ok(tx.commit()?)
}

impl Core {
    /// Takes the parts of a region and checks that they belong together.
    pub fn open(
        region: Region,
        store: SqliteStore,
        root: RootKey,
        generation: GenerationFile,
        clock: Arc<dyn Clock>,
        siblings: Arc<Siblings>,
        root_path: &Path,
    ) -> Result<Arc<Self>, HomeError> {
        if !rows::belongs(&*store.read()?, &root, &region)? {
            return Err(HomeError::OtherRootKey { path: root_path.display().to_string() });
        }
        let signer = Signer::new(root.expose())?;
        let core = Arc::new(Self {
            region,
            store,
            root,
            clock,
            identities: siblings.identities().clone(),
            siblings,
            #[cfg(test)]
            stops: Mutex::default(),
            generation,
            signer,
            cache: RwLock::default(),
            default_policies: DefaultPolicies::default(),
            commits: Commits::default(),
            waiting: Mutex::default(),
            stuck: AtomicBool::new(false),
        });
        core.reconcile()?;
        Ok(core)
    }
}

impl RegionService {
    /// Starts the thread.
    pub fn start(core: Arc<Core>) -> Result<Arc<Self>, HomeError> {
        let stop = Arc::new(Stop::default());
        let (kept, stopped) = (core.clone(), stop.clone());
        let thread = store::housekeeper("kms-keeper", move || keep(&kept, &stopped));
        let thread = thread.map_err(|e| StoreError::Engine(format!("no thread for the key service: {e}")))?;
        Ok(Arc::new(Self { core, stop, keeper: Some(thread) }))
    }
}

impl Core {
    /// Milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    /// The number beside the store.
    pub fn generation(&self) -> Result<u64, KmsError> {
        self.generation.read().map_err(|e| unreadable(&e))
    }

    /// Moves the generation inside the transaction that changes something, the file first (see
    /// [`super::generation`]). To be called last before the commit.
    pub fn move_generation(&self, tx: &mut dyn WriteTx) -> Result<(), KmsError> {
        let next = rows::generation(tx)?.max(self.generation()?) + 1;
        self.generation.write(next).map_err(|e| unreadable(&e))?;
        Ok(rows::put_generation(tx, next)?)
    }

    /// Brings row and file together where a crash parted them.
    fn reconcile(&self) -> Result<(), StoreError> {
        let file = || self.generation.read().map_err(|e| StoreError::Engine(format!("the generation: {e}")));
        if rows::generation(&*self.store.read()?)? == file()? {
            return Ok(());
        }
        // Nobody is changing anything while this is held.
        let mut tx = self.store.write(Durability::Soon)?;
        let (row, file) = (rows::generation(&*tx)?, file()?);
        if row < file {
            rows::put_generation(&mut *tx, file)?;
            tx.commit()
        } else if file < row {
            self.generation.write(row).map_err(|e| StoreError::Engine(format!("the generation: {e}")))
        } else {
            Ok(())
        }
    }

    /// The generation that decisions out of memory are made at.
    pub fn cached_generation(&self) -> Result<u64, Fault> {
        let file = self.generation()?;
        if self.cache.read().generation == Some(file) {
            return Ok(file);
        }
        let row = rows::generation(&*self.store.read()?)?;
        self.cache.write().turn_to(row);
        Ok(row)
    }

    /// A key out of memory, as of this generation.
    pub fn cached_key(&self, generation: u64, id: &KeyId) -> Result<Option<Arc<Key>>, Fault> {
        {
            let cache = self.cache.read();
            if cache.generation != Some(generation) {
                return Err(Fault::Moved);
            }
            if let Some(key) = cache.keys.get(id) {
                return Ok(Some(key.clone()));
            }
        }
        let tx = self.read_at(generation)?;
        let key = Key::load_sharing(&*tx, &self.region, id, &self.default_policies)?;
        let Some(key) = key else { return Ok(None) };
        let key = Arc::new(key);
        let mut cache = self.cache.write();
        cache.turn_to(generation);
        cache.keys.insert(*id, key.clone());
        Ok(Some(key))
    }

    /// The key of an alias out of memory, as of this generation.
    pub fn cached_alias(
        &self,
        generation: u64,
        account: &AccountId,
        name: &AliasName,
    ) -> Result<Option<KeyId>, Fault> {
        {
            let cache = self.cache.read();
            if cache.generation != Some(generation) {
                return Err(Fault::Moved);
            }
            if let Some(key) = cache.aliases.get(account).and_then(|a| a.get(name)) {
                return Ok(Some(*key));
            }
        }
        let tx = self.read_at(generation)?;
        let Some(row) = rows::alias(&*tx, account, name)? else { return Ok(None) };
        let mut cache = self.cache.write();
        cache.turn_to(generation);
        cache.aliases.entry(account.clone()).or_default().insert(name.clone(), row.key());
        Ok(Some(row.key()))
    }

    /// A view of the store, if it is of this generation.
    pub fn read_at(&self, generation: u64) -> Result<Box<dyn ReadTx + '_>, Fault> {
        let tx = self.store.read()?;
        if rows::generation(&*tx)? == generation { Ok(tx) } else { Err(Fault::Moved) }
    }

    /// Records events; in the operating system when it returns. False, and not recorded, if the store's
    /// generation, or the identities', is not `decided_at`.
    pub fn commit(&self, events: Vec<Vec<u8>>, decided_at: Option<DecidedAt>) -> Result<bool, KmsError> {
        let done = self.commits.submit(&self.store, Some(&self.identities), events, decided_at);
        self.has_grown();
        done
    }

    /// The same for several requests in one transaction; for each whether it was recorded.
    pub fn commit_all(&self, records: Vec<Record>) -> Result<Vec<bool>, KmsError> {
        let done = self.commits.submit_all(&self.store, Some(&self.identities), records);
        self.has_grown();
        done
    }

    /// The same without waiting; the records come back if another is writing.
    pub fn try_commit_all(&self, records: Vec<Record>) -> Result<Tried, KmsError> {
        let done = self.commits.try_submit_all(&self.store, Some(&self.identities), records);
        self.has_grown();
        done
    }

    /// The log has events whose head is to be signed.
    pub fn has_grown(&self) {
        self.signer.has_grown();
    }

    /// Records an event about a file: within a second, or before this returns.
    pub fn record(&self, event: Vec<u8>, sync: bool) -> Result<(), KmsError> {
        if self.stuck.load(Ordering::Relaxed) {
            self.flush()?;
        }
        let full = {
            let mut waiting = self.waiting.lock();
            waiting.push(event);
            waiting.len() > WAITING_EVENTS
        };
        if sync || full { self.flush() } else { Ok(()) }
    }

    /// Writes the events that wait. On an error they wait on, and until they are written every further
    /// [`Self::record`] fails: what cannot be recorded must not happen.
    fn flush(&self) -> Result<(), KmsError> {
        let flushed = self.write_waiting();
        self.stuck.store(flushed.is_err(), Ordering::Relaxed);
        flushed
    }

    fn write_waiting(&self) -> Result<(), KmsError> {
        // Held over the transaction, so that nobody takes a half-written batch for done.
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.write(Durability::Soon)?;
        let mut head = audit::head(&*tx)?;
        for event in waiting.iter() {
            head = audit::append_after(&mut *tx, &head, event)?;
        }
        tx.commit()?;
        waiting.clear();
        self.has_grown();
        Ok(())
    }

    /// Does what is due: keys whose waiting period is over, material to be purged, keys that rotate by schedule,
    /// a generation that a crash parted.
    pub fn tick(&self) {
        self.report("the generation", self.reconcile().map_err(KmsError::from));
        self.report("deleting keys that are due", self.expire());
        self.report("rotating keys that are due", schedule::rotate_due(self));
        self.settle();
        self.report("looking at the generation", self.forget_stale());
    }

    /// Tells related keys in other regions what has changed.
    pub fn settle(&self) {
        self.report("telling related keys in other regions", related::settle(self));
    }

    /// Ends work over two stores where a test says so.
    pub fn stop_at(&self, _place: &'static str) -> Result<(), KmsError> {
        #[cfg(test)]
        if *self.stops.lock() == Some(_place) {
            return Err(KmsError::new(KmsErrorKind::Internal, "stopped by a test"));
        }
        Ok(())
    }

    /// Keeps no material in memory that another process may have deleted.
    fn forget_stale(&self) -> Result<(), KmsError> {
        let file = self.generation()?;
        if self.cache.read().generation.is_some_and(|g| g != file) {
            *self.cache.write() = Cache::default();
        }
        Ok(())
    }

    fn report(&self, what: &str, done: Result<(), KmsError>) {
        if let Err(error) = done {
            tracing::error!(region = %self.region, %error, "{what} failed; it is tried again");
        }
    }

    /// Deletes the keys whose waiting period is over, and erases material that expired.
    pub fn expire(&self) -> Result<(), KmsError> {
        let now = self.now();
        while rows::first_due(&*self.store.read()?, now)?.is_some() {
            let mut tx = self.store.write(Durability::Synced)?;
            let Some(id) = rows::first_due(&*tx, now)? else { break };
            let Some(key) = Key::load(&*tx, &self.region, &id)? else {
                let message = format!("key {id} is due and not there; restore the key service's store");
                return Err(KmsError::new(KmsErrorKind::Internal, message));
            };
            rows::delete_key(&mut *tx, &id, &key.row)?;
            related::deleted(&mut *tx, &id, &key.row, &self.region)?;
            let event =
                events::by_the_service(self, &key, "DeleteKey", Timestamp::from_millisecond(now).ok())?;
            audit::append(&mut *tx, &event)?;
            self.move_generation(&mut *tx)?;
            tx.commit()?;
            self.has_grown();
        }
        imported::expire(self)?;
        self.purge()
    }

    /// Leaves nothing of deleted material in the store's files, as soon as no reader stands in the way.
    fn purge(&self) -> Result<(), KmsError> {
        if !rows::purge_due(&*self.store.read()?)? {
            return Ok(());
        }
        // Opened material of deleted keys goes too.
        *self.cache.write() = Cache::default();
        if self.store.purge()? {
            let mut tx = self.store.write(Durability::Soon)?;
            rows::purged(&mut *tx)?;
            tx.commit()?;
        }
        Ok(())
    }

    fn sign(&self) -> Result<(), AuditError> {
        self.signer.sign(&self.store)
    }

    /// Signs what the log holds by now; the end that is on disk and signed.
    pub fn signed_head(&self) -> Result<audit::ChainHead, AuditError> {
        self.flush().map_err(|e| StoreError::Engine(e.message))?;
        self.signer.signed_head(&self.store)
    }

    /// Checks the log; the end of it.
    pub fn verify_log(&self, pinned: Option<audit::ChainHead>) -> Result<audit::ChainHead, AuditError> {
        self.signer.verify(&self.store, pinned)
    }

    /// Events that a filter lets through.
    pub fn lookup(&self, filter: &audit::Filter) -> Result<Vec<audit::Found>, KmsError> {
        self.flush()?;
        Ok(audit::lookup(&*self.store.read()?, filter)?)
    }

    /// Gives the calls of an account to `seen`; see [`audit::calls`].
    pub fn calls(
        &self,
        account: &AccountId,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
        seen: &mut dyn FnMut(audit::CallSeen<'_>),
    ) -> Result<(), KmsError> {
        self.flush()?;
        Ok(audit::calls(&self.store, account.as_str(), start, end, seen)?)
    }

    fn slow_beat(&self) {
        self.tick();
        self.report("signing the audit log's head", self.sign().map_err(KmsError::from));
    }

    fn index(&self, stop: &Stop) -> Result<(), AuditError> {
        let begun = Instant::now();
        loop {
            let block = Instant::now();
            let more = audit::index(&self.store, 1)?;
            if !more || stop.wait(block.elapsed() * INDEX_RESTS) || begun.elapsed() > INDEX_FOR {
                return Ok(());
            }
        }
    }

    fn close(&self) {
        self.report("writing the last events", self.flush());
        self.report("signing the audit log's head", self.sign().map_err(KmsError::from));
    }
}

/// The thread.
fn keep(core: &Core, stop: &Stop) {
    let mut slow = Instant::now();
    while !stop.wait(BEAT) {
        core.report("writing events about files", core.flush());
        core.report("indexing the audit log", core.index(stop).map_err(KmsError::from));
        if slow.elapsed() >= SLOW_BEAT {
            slow = Instant::now();
            core.slow_beat();
        }
    }
}

impl Drop for RegionService {
    fn drop(&mut self) {
        *self.stop.now.lock() = true;
        self.stop.wake.notify_all();
        if let Some(thread) = self.keeper.take() {
            // A panic of the thread has been reported by its own message.
            let _ = thread.join();
        }
        self.core.close();
    }
}

impl From<AuditError> for KmsError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Store(error) => error.into(),
            other => Self::new(KmsErrorKind::Internal, other.to_string()),
        }
    }
}

fn unreadable(error: &io::Error) -> KmsError {
    KmsError::new(KmsErrorKind::Internal, format!("the key service's file `generation`: {error}"))
}
