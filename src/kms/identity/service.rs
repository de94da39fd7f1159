//! The directory of a home, open: its store, its root key, what is kept in memory, and the thread that does what
//! is due. One for all regions; made at the first call of IAM or STS.
//!
//! # Why a change of identity counts at once
//!
//! Identities stand in another store than keys, and no transaction spans both. A decision about a key is made with
//! the identities of one generation of the directory. Whoever changes the directory writes the next generation
//! to the file inside the directory's write transaction, before the commit (as in [`crate::kms::generation`]). Whoever
//! decides takes the region's write transaction, in which the event is recorded, and then looks at that file again: if
//! it still says the generation of the decision, no later one had been committed by then. That moment is the one at
//! which the request was decided: it lies between the request's beginning and its answer, so a change that
//! was acknowledged before the request began is always in it. Where the file says another number (somebody is
//! about to commit, or was killed before the commit) the row in the directory's store decides, in a view
//! opened then; if that too has moved, the request is decided anew. A change of a key reads the
//! identities inside the region's write transaction, and so needs no second look.
//! Nobody takes a region's transaction while holding the directory's, so the two cannot wait for each other.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder};
use std::hash::Hash;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::authority::{Authority, allows_nothing};
use super::credential::Known;
use crate::audit::{self, AuditError};
use crate::crypto::kdf::PassphraseCost;
use crate::crypto::{SecretVec, labels};
use crate::iam::directory::{self, NamedPolicy, Standing};
use crate::iam::{AccountId, Policy, PolicyKind, Principal};
use crate::kms::commit::Commits;
use crate::kms::generation::GenerationFile;
use crate::kms::root::RootKey;
use crate::kms::session::Caller;
use crate::kms::signed::Signer;
use crate::kms::{Clock, HomeError, KmsError, KmsErrorKind, rows};
use crate::store::{Durability, ReadTx, SqliteStore, Store, StoreError, WriteTx};

/// How often the thread looks.
const BEAT: Duration = Duration::from_secs(1);
/// Blocks of the log that are indexed at one look.
const INDEX_AT_ONCE: usize = 32;
/// Callers, policies or credentials that are kept at most; then all of the kind are dropped.
const MOST: usize = if cfg!(test) { 50 } else { 10_000 };
/// How often identities are read anew because they changed in between.
const TRIES: usize = 100;
/// What a store's root key is recognised by.
const CHECK: &[u8] = b"kmsfs identities";
const IAM: &str = "iam";

/// The directory of a home, which may not be there yet.
pub struct Identities {
    home: PathBuf,
    passphrase: Option<SecretVec>,
    clock: Arc<dyn Clock>,
    open: RwLock<Option<Arc<IdentityService>>>,
}

/// The directory, open, with its thread. Dropped, it waits for the thread and signs the log's head.
pub struct IdentityService {
    core: Arc<Core>,
    stop: Arc<Stop>,
    keeper: Option<JoinHandle<()>>,
}

impl Deref for IdentityService {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

/// What the thread shares with the callers.
pub struct Core {
    /// Its store.
    pub store: SqliteStore,
    /// Wraps the secrets of access keys.
    pub root: RootKey,
    generation: GenerationFile,
    signer: Signer,
    commits: Commits,
    cache: RwLock<Cache>,
}

#[derive(Default)]
struct Stop {
    now: Mutex<bool>,
    wake: Condvar,
}

/// What was read at one generation.
#[derive(Default)]
struct Cache {
    generation: Option<u64>,
    standings: HashMap<Principal, Option<Arc<Standing>>>,
    managed: HashMap<String, Option<Arc<NamedPolicy>>>,
    known: HashMap<String, Arc<Known>>,
}

/// Is this the root key of this store?
pub fn belongs(tx: &dyn ReadTx, root: &RootKey) -> Result<bool, StoreError> {
    let check = tx.get(IAM, b"root")?.unwrap_or_default();
    let opened = directory::open(root.expose(), labels::IAM_CHECK, &[], &check);
    Ok(opened.is_ok_and(|text| text.expose() == CHECK))
}

impl Identities {
    /// Of this home; nothing is opened or made.
    pub fn new(home: &Path, passphrase: Option<SecretVec>, clock: Arc<dyn Clock>) -> Self {
        Self { home: home.to_owned(), passphrase, clock, open: RwLock::default() }
    }

    /// The time.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn path(&self) -> PathBuf {
        self.home.join(IAM)
    }

    /// The directory, if there is one by now.
    pub fn get(&self) -> Result<Option<Arc<IdentityService>>, KmsError> {
        if let Some(service) = &*self.open.read() {
            return Ok(Some(service.clone()));
        }
        if !self.path().exists() {
            return Ok(None);
        }
        let mut open = self.open.write();
        if open.is_none() {
            *open = Some(self.opened().map_err(unusable)?);
        }
        Ok(open.clone())
    }

    /// The directory, made if there is none.
    pub fn get_or_create(&self) -> Result<Arc<IdentityService>, KmsError> {
        if let Some(service) = self.get()? {
            return Ok(service);
        }
        self.create().map_err(unusable)?;
        let gone = || KmsError::new(KmsErrorKind::Internal, "the store of identities went as it was made");
        self.get()?.ok_or_else(gone)
    }

    /// The number beside the store; 0 where there is no directory.
    pub fn generation(&self) -> Result<u64, KmsError> {
        if let Some(service) = &*self.open.read() {
            return service.file();
        }
        match fs::read(self.path().join("generation")) {
            Ok(bytes) => Ok(bytes.try_into().map_or(0, u64::from_le_bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(unreadable(&e)),
        }
    }

    /// Is what was decided at this generation of the directory still true? To be asked inside the transaction that
    /// records the decision; see the module.
    pub fn holds(&self, generation: u64) -> Result<bool, KmsError> {
        match self.get()? {
            None => Ok(generation == 0),
            Some(service) => {
                Ok(service.file()? == generation || rows::generation(&*service.store.read()?)? == generation)
            }
        }
    }

    /// What decides about a caller. Root and services pay nothing.
    pub fn authority(&self, caller: &Caller) -> Result<Authority, KmsError> {
        if matches!(caller.principal, Principal::Root(_) | Principal::Service { .. }) {
            return Ok(Authority::default());
        }
        let Some(service) = self.get()? else {
            return Ok(Authority {
                generation: Some(0),
                gone: caller.identified.is_some(),
                ..Authority::default()
            });
        };
        for _ in 0..TRIES {
            if let Some(authority) = service.cached_authority(caller)? {
                return Ok(authority);
            }
        }
        let message = "identities are being changed faster than the request can be decided; try again";
        Err(KmsError::new(KmsErrorKind::DependencyTimeout, message))
    }

    /// Accounts that have identities or an alias here.
    pub fn accounts(&self) -> Result<BTreeSet<AccountId>, KmsError> {
        let Some(service) = self.get()? else { return Ok(BTreeSet::new()) };
        Ok(directory::accounts(&*service.store.read()?)?)
    }

    /// Is there such a user or role? Yes also where the account is one whose users and roles are not known here.
    pub fn principal_exists(&self, principal: &Principal) -> Result<bool, KmsError> {
        if matches!(principal, Principal::Root(_) | Principal::Service { .. }) {
            return Ok(true);
        }
        let Some(service) = self.get()? else { return Ok(true) };
        let tx = service.store.read()?;
        Ok(!directory::knows_account(&*tx, principal.account())?
            || directory::standing(&*tx, principal)?.is_some())
    }

    /// The directory, for its log.
    pub fn log(&self) -> Result<Option<Arc<IdentityService>>, AuditError> {
        self.get().map_err(|e| StoreError::Engine(e.message).into())
    }

    /// Checks the log; the end of it. None: there is none, and none is pinned.
    pub fn verify_log(
        &self,
        pinned: Option<audit::ChainHead>,
    ) -> Result<Option<audit::ChainHead>, AuditError> {
        match (self.log()?, pinned) {
            (Some(service), pinned) => service.verify_log(pinned).map(Some),
            (None, Some(audit::ChainHead { sequence: 0, .. }) | None) => Ok(None),
            (None, Some(gone)) => Err(AuditError::Head { sequence: gone.sequence }),
        }
    }

    /// Whole or not at all.
    fn create(&self) -> Result<(), HomeError> {
        let name = format!(".{IAM}.{}", hex::encode(crate::crypto::random::<8>()?));
        let (parts, path) = (self.home.join(name), self.path());
        DirBuilder::new().mode(0o700).create(&parts).map_err(|e| file(&parts, e))?;
        let made = (|| {
            let passphrase = self.passphrase.as_ref().map(|p| (p, PassphraseCost::RECOMMENDED));
            let root = RootKey::create(&parts.join("root.key"), passphrase)?;
            let store = SqliteStore::open(&parts.join("store.db"))?;
            let mut tx = store.write(Durability::Synced)?;
            let check = directory::seal(root.expose(), labels::IAM_CHECK, &[], CHECK);
            let check = check.map_err(|e| StoreError::Engine(e.to_string()))?;
            tx.put(IAM, b"root", &check)?;
            tx.commit()?;
            GenerationFile::open(&parts.join("generation")).map_err(|e| file(&parts, e))?;
            drop(store);
            fs::File::open(&parts).and_then(|d| d.sync_all()).map_err(|e| file(&parts, e))?;
            match fs::rename(&parts, &path) {
                Ok(()) => {}
                // Another process was first.
                Err(_) if path.exists() => fs::remove_dir_all(&parts).map_err(|e| file(&parts, e))?,
                Err(e) => return Err(file(&path, e)),
            }
            fs::File::open(&self.home).and_then(|d| d.sync_all()).map_err(|e| file(&self.home, e))
        })();
        if made.is_err() {
            // Nothing hangs on a root key that nobody has used.
            let _ = fs::remove_dir_all(&parts);
        }
        made
    }

    fn opened(&self) -> Result<Arc<IdentityService>, HomeError> {
        let path = self.path();
        let (root_path, store_path) = (path.join("root.key"), path.join("store.db"));
        let shown = |path: &Path| path.display().to_string();
        if !root_path.exists() {
            return Err(HomeError::RootKeyMissing { path: shown(&root_path) });
        }
        if !store_path.exists() {
            return Err(HomeError::StoreMissing { path: shown(&store_path) });
        }
        let root = RootKey::open(&root_path, self.passphrase.as_ref())?;
        let store = SqliteStore::open(&store_path)?;
        if !belongs(&*store.read()?, &root)? {
            return Err(HomeError::OtherRootKey { path: shown(&root_path) });
        }
        let generation = path.join("generation");
        let generation = GenerationFile::open(&generation).map_err(|e| file(&generation, e))?;
        let signer = Signer::new(root.expose())?;
        let core = Arc::new(Core {
            store,
            root,
            generation,
            signer,
            commits: Commits::default(),
            cache: RwLock::default(),
        });
        core.reconcile().map_err(|e| StoreError::Engine(e.message))?;
        let stop = Arc::new(Stop::default());
        let (kept, stopped) = (core.clone(), stop.clone());
        let thread =
            thread::Builder::new().name("iam-keeper".to_owned()).spawn(move || keep(&kept, &stopped));
        let thread = thread.map_err(|e| StoreError::Engine(format!("no thread for the identities: {e}")))?;
        Ok(Arc::new(IdentityService { core, stop, keeper: Some(thread) }))
    }
}

impl Core {
    fn file(&self) -> Result<u64, KmsError> {
        self.generation.read().map_err(|e| unreadable(&e))
    }

    /// Moves the generation inside the transaction that changes something, the file first. To be called last before
    /// the commit.
    pub fn move_generation(&self, tx: &mut dyn WriteTx) -> Result<(), KmsError> {
        let next = rows::generation(tx)?.max(self.file()?) + 1;
        self.generation.write(next).map_err(|e| unreadable(&e))?;
        Ok(rows::put_generation(tx, next)?)
    }

    /// Brings row and file together where a crash parted them.
    fn reconcile(&self) -> Result<(), KmsError> {
        if rows::generation(&*self.store.read()?)? == self.file()? {
            return Ok(());
        }
        // Nobody is changing anything while this is held.
        let mut tx = self.store.write(Durability::Soon)?;
        let (row, file) = (rows::generation(&*tx)?, self.file()?);
        if row < file {
            rows::put_generation(&mut *tx, file)?;
            tx.commit()?;
        } else if file < row {
            self.generation.write(row).map_err(|e| unreadable(&e))?;
        }
        Ok(())
    }

    /// The generation that is in memory, or is from now on.
    fn turn(&self) -> Result<u64, KmsError> {
        let file = self.file()?;
        if self.cache.read().generation == Some(file) {
            return Ok(file);
        }
        let row = rows::generation(&*self.store.read()?)?;
        let mut cache = self.cache.write();
        if cache.generation != Some(row) {
            *cache = Cache { generation: Some(row), ..Cache::default() };
        }
        Ok(row)
    }

    /// A view of one generation; None if it has moved.
    fn read_at(&self, generation: u64) -> Result<Option<Box<dyn ReadTx + '_>>, KmsError> {
        let tx = self.store.read()?;
        Ok((rows::generation(&*tx)? == generation).then_some(tx))
    }

    /// None: the generation moved in between.
    fn cached_authority(&self, caller: &Caller) -> Result<Option<Authority>, KmsError> {
        let generation = self.turn()?;
        let cached = {
            let cache = self.cache.read();
            if cache.generation != Some(generation) {
                return Ok(None);
            }
            cache.standings.get(&caller.principal).cloned()
        };
        let standing = match cached {
            Some(standing) => standing,
            None => {
                let Some(tx) = self.read_at(generation)? else { return Ok(None) };
                let standing = directory::standing(&*tx, &caller.principal)?.map(Arc::new);
                let mut cache = self.cache.write();
                if cache.generation == Some(generation) {
                    keep_in(&mut cache.standings, caller.principal.clone(), standing.clone());
                }
                standing
            }
        };
        let managed = |arn: &str| self.managed_at(generation, caller.principal.account(), arn);
        authority(caller, generation, standing, managed)
    }

    /// A managed policy out of memory. None: the generation moved; Some(None): it is not there.
    fn managed_at(
        &self,
        generation: u64,
        account: &AccountId,
        arn: &str,
    ) -> Result<Option<Option<Arc<NamedPolicy>>>, KmsError> {
        // An ARN names its account, but for AWS's own, which are everybody's.
        if let Some(found) = self.cache.read().managed.get(arn) {
            return Ok(Some(found.clone()));
        }
        let Some(tx) = self.read_at(generation)? else { return Ok(None) };
        let found = managed(&*tx, account, arn)?;
        let mut cache = self.cache.write();
        if cache.generation == Some(generation) {
            keep_in(&mut cache.managed, arn.to_owned(), found.clone());
        }
        Ok(Some(found))
    }

    /// What decides about a caller, as a view or transaction of the directory has it.
    pub fn authority_in(&self, tx: &dyn ReadTx, caller: &Caller) -> Result<Authority, KmsError> {
        if matches!(caller.principal, Principal::Root(_) | Principal::Service { .. }) {
            return Ok(Authority::default());
        }
        let generation = rows::generation(tx)?;
        let standing = directory::standing(tx, &caller.principal)?.map(Arc::new);
        let managed = |arn: &str| managed(tx, caller.principal.account(), arn).map(Some);
        Ok(authority(caller, generation, standing, managed)?.unwrap_or_default())
    }

    /// What is known of an access key or token, of this generation.
    pub(super) fn known(&self, generation: u64, name: &str) -> Option<Arc<Known>> {
        let cache = self.cache.read();
        if cache.generation == Some(generation) { cache.known.get(name).cloned() } else { None }
    }

    /// Keeps what was found out about an access key or token at this generation.
    pub(super) fn learn(&self, generation: u64, name: &str, known: &Arc<Known>) {
        let mut cache = self.cache.write();
        if cache.generation == Some(generation) {
            keep_in(&mut cache.known, name.to_owned(), known.clone());
        }
    }

    /// How many are kept of the kind that has most, and the bound.
    #[cfg(test)]
    pub(in crate::kms) fn kept(&self) -> (usize, usize) {
        let cache = self.cache.read();
        (cache.standings.len().max(cache.managed.len()).max(cache.known.len()), MOST)
    }

    /// A view of the newest generation, and its number.
    pub(super) fn view(&self) -> Result<(u64, Box<dyn ReadTx + '_>), KmsError> {
        let tx = self.store.read()?;
        Ok((rows::generation(&*tx)?, tx))
    }

    /// The generation of what is in memory; see [`Self::known`].
    pub(super) fn current(&self) -> Result<u64, KmsError> {
        self.turn()
    }

    /// Records events; in the operating system when it returns. False, and not recorded, if the store's
    /// generation is not `decided_at`.
    pub fn commit(&self, events: Vec<Vec<u8>>, decided_at: Option<u64>) -> Result<bool, KmsError> {
        let done = self.commits.submit(&self.store, None, events, decided_at.map(Into::into));
        self.has_grown();
        done
    }

    /// The log has events whose head is to be signed.
    pub fn has_grown(&self) {
        self.signer.has_grown();
    }

    fn sign(&self) -> Result<(), AuditError> {
        self.signer.sign(&self.store)
    }

    /// Signs what the log holds by now; the end that is on disk and signed.
    pub fn signed_head(&self) -> Result<audit::ChainHead, AuditError> {
        self.signer.signed_head(&self.store)
    }

    /// Checks the log; the end of it.
    pub fn verify_log(&self, pinned: Option<audit::ChainHead>) -> Result<audit::ChainHead, AuditError> {
        self.signer.verify(&self.store, pinned)
    }

    /// Events that a filter lets through.
    pub fn lookup(&self, filter: &audit::Filter) -> Result<Vec<audit::Found>, KmsError> {
        Ok(audit::lookup(&*self.store.read()?, filter)?)
    }

    fn beat(&self) {
        report("the generation of identities", self.reconcile());
        report("signing the log of identities", self.sign().map_err(KmsError::from));
        let indexed = audit::index(&self.store, INDEX_AT_ONCE).map(|_| ());
        report("indexing the log of identities", indexed.map_err(KmsError::from));
    }
}

/// Puts together what decides about a caller; `managed` finds session policies by ARN.
fn authority(
    caller: &Caller,
    generation: u64,
    standing: Option<Arc<Standing>>,
    managed: impl Fn(&str) -> Result<Option<Option<Arc<NamedPolicy>>>, KmsError>,
) -> Result<Option<Authority>, KmsError> {
    let identified = caller.identified.as_deref();
    let same = |standing: &Arc<Standing>| identified.is_none_or(|i| i.id == standing.id);
    let standing = standing.filter(same);
    let gone = identified.is_some() && standing.is_none();
    let mut session = Vec::new();
    if let Some(facts) = identified.and_then(|i| i.session.as_ref()) {
        session.extend(facts.policy.clone().map(Arc::new));
        for arn in &facts.policy_arns {
            match managed(arn)? {
                Some(Some(found)) => session.push(found),
                // Without it, what it denied would be allowed.
                Some(None) => session.extend(allows_nothing("session policies that are gone").map(Arc::new)),
                None => return Ok(None),
            }
        }
    }
    Ok(Some(Authority { generation: Some(generation), standing, session, gone }))
}

fn managed(tx: &dyn ReadTx, account: &AccountId, arn: &str) -> Result<Option<Arc<NamedPolicy>>, KmsError> {
    let Some(text) = directory::default_document(tx, account, arn)? else { return Ok(None) };
    let policy = Policy::parse(PolicyKind::Managed, &text)
        .map_err(|e| KmsError::new(KmsErrorKind::Internal, format!("the policy {arn} is damaged: {e}")))?;
    Ok(Some(Arc::new(NamedPolicy { name: arn.to_owned(), policy })))
}

/// Callers choose the names of their sessions, so that a map of them needs a bound.
fn keep_in<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() >= MOST {
        map.clear();
    }
    map.insert(key, value);
}

/// The thread.
fn keep(core: &Core, stop: &Stop) {
    loop {
        {
            let mut now = stop.now.lock();
            if !*now {
                stop.wake.wait_for(&mut now, BEAT);
            }
            if *now {
                return;
            }
        }
        core.beat();
    }
}

impl Drop for IdentityService {
    fn drop(&mut self) {
        *self.stop.now.lock() = true;
        self.stop.wake.notify_all();
        if let Some(thread) = self.keeper.take() {
            // A panic of the thread has been reported by its own message.
            let _ = thread.join();
        }
        report("signing the log of identities", self.core.sign().map_err(KmsError::from));
    }
}

fn report(what: &str, done: Result<(), KmsError>) {
    if let Err(error) = done {
        tracing::error!(%error, "{what} failed; it is tried again");
    }
}

fn file(path: &Path, source: io::Error) -> HomeError {
    HomeError::File { path: path.display().to_string(), source }
}

fn unusable(error: HomeError) -> KmsError {
    KmsError::new(KmsErrorKind::Internal, format!("the store of identities: {error}"))
}

fn unreadable(error: &io::Error) -> KmsError {
    KmsError::new(KmsErrorKind::Internal, format!("the identities' file `generation`: {error}"))
}
