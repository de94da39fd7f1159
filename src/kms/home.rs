//! The key service's home: one directory, mode 0700, with one directory for each region. A region has its own
//! root key and its own store; nothing of one opens anything of another.
//!
//! `<home>/<region>/root.key`, `store.db` (with SQLite's `-wal` and `-shm`), `generation`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::KmsError;
use super::clock::{Clock, SystemClock};
use super::generation::GenerationFile;
use super::identity::{Credential, IdentitySession};
use super::region::{Core, RegionService};
use super::root::{RootKey, RootKeyError};
use super::session::{Caller, Session};
use super::siblings::Siblings;
use crate::audit::AuditError;
use crate::crypto::kdf::PassphraseCost;
use crate::crypto::{CryptoError, SecretVec};
use crate::iam::{AccountId, Region};
use crate::store::{SqliteStore, StoreError};

/// Why a home, or a region in it, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// There is none.
    #[error("there is no key service at {path}; `kmsfs init` makes one, --home or KMSFS_HOME names another")]
    Missing {
        /// Where it was looked for.
        path: String,
    },
    /// The system refused.
    #[error("the key service's home {path}: {source}")]
    File {
        /// What was asked for.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may look into it.
    #[error("the key service's home {path} is open to others (mode {mode:o}); chmod 700 it")]
    TooOpen {
        /// The directory.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// No such region in this home.
    #[error(
        "the key service {path} has no region {region}; it has {present}; `kmsfs init --region {region} VOLUME` makes it"
    )]
    NoRegion {
        /// The home.
        path: String,
        /// The region asked for.
        region: Region,
        /// Those it has.
        present: String,
    },
    /// It stands already.
    #[error("the region {region} exists already in {path}; nothing was changed")]
    RegionExists {
        /// The home.
        path: String,
        /// The region.
        region: Region,
    },
    /// The store is there and its root key is not.
    #[error(
        "the root key {path} is missing, and without it no key of this region can be used; restore it from a backup"
    )]
    RootKeyMissing {
        /// Where it belongs.
        path: String,
    },
    /// The root key is there and the store is not.
    #[error("the store {path} is missing, though its root key is there; restore it from a backup")]
    StoreMissing {
        /// Where it belongs.
        path: String,
    },
    /// The root key is not the one under which the store's keys stand.
    #[error("the root key {path} is not the one of the store beside it; restore both from one backup")]
    OtherRootKey {
        /// The root key.
        path: String,
    },
    /// A backup, or the place for one, is no good.
    #[error("{path}: {reason}")]
    Backup {
        /// The backup, or the home that was to be.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The root key.
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Cryptography.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// A home that is there.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
}

/// How a key service is opened.
#[derive(Clone)]
pub struct KmsOptions {
    /// The account that keys made here belong to.
    pub account: AccountId,
    /// Opens root keys that are under a passphrase.
    pub passphrase: Option<SecretVec>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl KmsOptions {
    /// For this account, without a passphrase, by the system's clock.
    pub fn new(account: AccountId) -> Self {
        Self { account, passphrase: None, clock: Arc::new(SystemClock) }
    }
}

/// The embedded key service over one home. Made after a fork, never before: it has threads.
pub struct Kms {
    home: Home,
    options: KmsOptions,
    siblings: Arc<Siblings>,
    regions: Mutex<BTreeMap<Region, Arc<RegionService>>>,
}

impl Home {
    /// The home at `path`; its directory and those above it are made if they are not there.
    pub fn open_or_create(path: &Path) -> Result<Self, HomeError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| file(parent, e))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(file(path, e)),
        }
        Self::open(path)
    }

    /// The home at `path`.
    pub fn open(path: &Path) -> Result<Self, HomeError> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::Missing { path: shown(path) });
            }
            Err(e) => return Err(file(path, e)),
        };
        if !found.is_dir() {
            return Err(file(path, io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let mode = found.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(HomeError::TooOpen { path: shown(path), mode });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The regions it has, by name.
    pub fn regions(&self) -> Result<Vec<Region>, HomeError> {
        let mut regions = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| file(&self.path, e))? {
            let entry = entry.map_err(|e| file(&self.path, e))?;
            // What is no region's name belongs to somebody else, or is a region that was never finished.
            let name = entry.file_name();
            if let Some(region) = name.to_str().and_then(|n| n.parse().ok())
                && entry.path().is_dir()
            {
                regions.push(region);
            }
        }
        regions.sort();
        Ok(regions)
    }

    /// The directory of a region.
    pub fn region_path(&self, region: &Region) -> PathBuf {
        self.path.join(region.as_str())
    }
}

impl Kms {
    /// Opens the key service at `home`, which exists. Its regions are opened when they are asked for.
    pub fn open(home: &Path, options: KmsOptions) -> Result<Arc<Self>, HomeError> {
        let home = Home::open(home)?;
        let siblings = Siblings::new(home.clone(), options.clone());
        Ok(Arc::new(Self { home, options, siblings, regions: Mutex::default() }))
    }

    /// Its home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The account it was opened for.
    pub fn account(&self) -> &AccountId {
        &self.options.account
    }

    /// Makes a region: root key (under the passphrase, if one is given) and store. Whole or not at all.
    pub fn create_region(&self, region: &Region, passphrase: Option<&SecretVec>) -> Result<(), HomeError> {
        let path = self.home.region_path(region);
        let exists = || HomeError::RegionExists { path: shown(&self.home.path), region: region.clone() };
        if path.exists() {
            return Err(exists());
        }
        let parts = tempdir(&self.home.path, region)?;
        let made = (|| {
            let root =
                RootKey::create(&root_path(&parts), passphrase.map(|p| (p, PassphraseCost::RECOMMENDED)))?;
            let store = SqliteStore::open(&store_path(&parts))?;
            super::region::found(&store, &root, region)?;
            GenerationFile::open(&generation_path(&parts)).map_err(|e| file(&parts, e))?;
            drop(store);
            fs::File::open(&parts).and_then(|d| d.sync_all()).map_err(|e| file(&parts, e))?;
            match fs::rename(&parts, &path) {
                Ok(()) => {}
                // Another process was first.
                Err(_) if path.exists() => return Err(exists()),
                Err(e) => return Err(file(&path, e)),
            }
            fs::File::open(&self.home.path).and_then(|d| d.sync_all()).map_err(|e| file(&self.home.path, e))
        })();
        if made.is_err() {
            // Nothing hangs on a root key that nobody has used.
            let _ = fs::remove_dir_all(&parts);
        }
        made
    }

    /// A session of `caller` in a region that exists.
    pub fn session(self: &Arc<Self>, caller: Caller, region: &Region) -> Result<Session, HomeError> {
        let service = self.region(region)?;
        service.tick();
        Ok(Session::new(service, caller))
    }

    /// A session of the account's root.
    pub fn root_session(self: &Arc<Self>, region: &Region) -> Result<Session, HomeError> {
        self.session(Caller::root(self.options.account.clone()), region)
    }

    /// IAM and STS as `caller` sees them.
    pub fn identity(&self, caller: Caller) -> IdentitySession {
        IdentitySession::new(self.siblings.identities().clone(), caller)
    }

    /// Accounts that have users, groups, roles, policies or an alias in this home.
    pub fn accounts(&self) -> Result<BTreeSet<AccountId>, KmsError> {
        self.siblings.identities().accounts()
    }

    /// The secret of an access key and who it is; with a session token the session's.
    ///
    /// # Errors
    /// InvalidClientTokenId, ExpiredToken.
    pub fn credential(
        &self,
        access_key_id: &str,
        session_token: Option<&str>,
    ) -> Result<Credential, KmsError> {
        self.siblings.identities().credential(access_key_id, session_token)
    }

    /// Whom the local command line names: a user's name or ARN, the ARN of a role, of an assumed-role session or of a
    /// root. It must be there; nothing of it is proved.
    ///
    /// # Errors
    /// NoSuchEntity, ValidationError.
    pub fn caller(&self, text: &str) -> Result<Caller, KmsError> {
        self.siblings.identities().caller(text, &self.options.account)
    }

    /// Does what is due by now in the regions that are open. A thread does it every second; tests with their
    /// own clock call it.
    pub fn tick(&self) {
        let open: Vec<_> = self.regions.lock().values().cloned().collect();
        for region in open {
            region.tick();
        }
    }

    fn region(&self, region: &Region) -> Result<Arc<RegionService>, HomeError> {
        let mut open = self.regions.lock();
        if let Some(service) = open.get(region) {
            return Ok(service.clone());
        }
        let service = RegionService::start(self.siblings.core(region)?)?;
        open.insert(region.clone(), service.clone());
        Ok(service)
    }
}

/// Opens a region that exists.
pub(super) fn open_core(
    home: &Home,
    options: &KmsOptions,
    region: &Region,
    siblings: Arc<Siblings>,
) -> Result<Arc<Core>, HomeError> {
    let path = home.region_path(region);
    if !path.is_dir() {
        let present: Vec<String> = home.regions()?.iter().map(ToString::to_string).collect();
        let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
        return Err(HomeError::NoRegion { path: shown(&home.path), region: region.clone(), present });
    }
    let (root, store) = (root_path(&path), store_path(&path));
    if !root.exists() {
        return Err(HomeError::RootKeyMissing { path: shown(&root) });
    }
    if !store.exists() {
        return Err(HomeError::StoreMissing { path: shown(&store) });
    }
    let root_key = RootKey::open(&root, options.passphrase.as_ref())?;
    let store = SqliteStore::open(&store)?;
    let generation = generation_path(&path);
    let generation = GenerationFile::open(&generation).map_err(|e| file(&generation, e))?;
    Core::open(region.clone(), store, root_key, generation, options.clock.clone(), siblings, &root)
}

/// A directory beside the regions that no region's name can be.
fn tempdir(home: &Path, region: &Region) -> Result<PathBuf, HomeError> {
    let path = home.join(format!(".{region}.{}", hex::encode(crate::crypto::random::<8>()?)));
    DirBuilder::new().mode(0o700).create(&path).map_err(|e| file(&path, e))?;
    Ok(path)
}

fn root_path(region: &Path) -> PathBuf {
    region.join("root.key")
}

fn store_path(region: &Path) -> PathBuf {
    region.join("store.db")
}

fn generation_path(region: &Path) -> PathBuf {
    region.join("generation")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn file(path: &Path, source: io::Error) -> HomeError {
    HomeError::File { path: shown(path), source }
}
