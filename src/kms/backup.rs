//! Backups of a home: its stores as they were at one moment, whatever writes meanwhile, with a digest of each file.
//!
//! `<backup>/manifest.json`, and the files under the names they have in the home. The root keys only if asked for: without
//! them nothing in a backup opens anything. Digests tell damage, not intent: who can change a backup can change them
//! too. Against that stand the rows of key material, which authenticate under the root key, and the signed log.
//!
//! A backup, and a home that is restored, is made under a hidden name beside its place and renamed: it is there
//! whole or not at all. What a killed one left is taken away by the next one for the same place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::home::{Home, HomeError};
use super::places::{self, Place, PlaceKind};
use super::root::RootKey;
use super::session::Caller;
use super::{events, identity, rows};
use crate::audit;
use crate::crypto::mac::Sha256;
use crate::crypto::{SecretVec, random};
use crate::iam::Region;
use crate::store::{Durability, SqliteStore, Store, StoreError, check_file};

const MANIFEST: &str = "manifest.json";
const STORE: &str = "store.db";
const ROOT_KEY: &str = "root.key";
/// Directory of users and roles, beside those of the regions.
const IAM: &str = "iam";
/// Of the server's certificate authority: made anew where they are absent, and clients then trust the new one.
const TLS: [&str; 2] = ["tls/ca.pem", "tls/ca.key"];
const VERSION: u32 = 1;
/// A manifest takes no more than this.
const MAX_MANIFEST: u64 = 1 << 20;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    kmsfs_home_backup: u32,
    /// Hex.
    pub id: String,
    /// The moment, as RFC 3339 writes it.
    #[serde(with = "rfc3339")]
    pub taken: Timestamp,
    /// Also the root keys are in it.
    pub with_root_keys: bool,
    /// The regions.
    pub regions: Vec<String>,
    /// All files but this.
    pub files: Vec<BackupFile>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupFile {
    /// From the backup's directory, and in the home.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Hex.
    pub sha256: String,
}

/// Times as text.
mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// What restoring did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Of the backup.
    pub manifest: Manifest,
    /// Directories in the home without their root key: nothing in them opens before it is brought there.
    pub without_root_key: Vec<String>,
}

impl Home {
    /// Copies the home, as it is at one moment, to a directory that is not there yet (or empty). Others use the home meanwhile:
    /// all stores stand still together for the moment only. Each region's log has an event of it, in `caller`'s name.
    ///
    /// # Errors
    /// [`HomeError::Backup`] if the target is no good; nothing is left then.
    pub fn backup(
        &self,
        to: &Path,
        with_root_keys: bool,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Manifest, HomeError> {
        let whole = std::path::absolute(to).map_err(|e| file(to, e))?;
        let inside = self.path().canonicalize().map_err(|e| file(self.path(), e))?;
        let parent = whole.parent().ok_or_else(|| refused(to, "it is no directory's name"))?;
        let real = parent.canonicalize().map_err(|e| file(parent, e))?;
        if real.starts_with(&inside) {
            return Err(refused(to, "it lies in the home itself; choose a place on another disk"));
        }
        empty_or_absent(&whole, "choose another name: a backup is never written over")?;
        let parts = Parts::new(&whole)?;
        let stores = self.stores()?;
        let manifest = self.copy_stores(&stores, &parts, with_root_keys, now)?;
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| file(&whole, io::Error::other(e)))?;
        parts.write(MANIFEST, &text)?;
        // Before it is there: a kill in between leaves a note and events of a backup that is not found, never a backup
        // that nothing tells of.
        let mut note = Place::new(PlaceKind::Backup, &whole, &manifest.id, "", now);
        note.with_root_keys = with_root_keys;
        let places = self.places()?;
        places.note(&note)?;
        let told = json!({
            "backupId": manifest.id,
            "location": whole.to_string_lossy(),
            "withRootKeys": with_root_keys,
        });
        let done = record(&stores, caller, "BackupHome", &told, now).and_then(|()| parts.rename(&whole));
        if done.is_err() {
            // The error that counts is the other one.
            let _ = places.forget(&note.location);
        }
        done.map(|()| manifest)
    }

    /// All stores but that of places, by their directories.
    fn stores(&self) -> Result<Vec<(String, SqliteStore)>, HomeError> {
        let mut dirs: Vec<String> = self.regions()?.iter().map(ToString::to_string).collect();
        // Last: who holds a region's store asks the directory's, never the other way round.
        dirs.extend(self.path().join(IAM).exists().then(|| IAM.to_owned()));
        let mut stores = Vec::new();
        for dir in dirs {
            let path = self.path().join(&dir).join(STORE);
            if !path.exists() {
                return Err(HomeError::StoreMissing { path: path.display().to_string() });
            }
            stores.push((dir, SqliteStore::open(&path)?));
        }
        Ok(stores)
    }

    fn copy_stores(
        &self,
        stores: &[(String, SqliteStore)],
        parts: &Parts,
        with_root_keys: bool,
        now: Timestamp,
    ) -> Result<Manifest, HomeError> {
        let known = self.places()?;
        let moments = {
            // Work over two stores begins in one and goes on in the other: with both held, neither is ahead.
            let held: Vec<_> =
                stores.iter().map(|(_, store)| store.write(Durability::Soon)).collect::<Result<_, _>>()?;
            let moments: Vec<_> = stores.iter().map(|(_, store)| store.moment()).collect::<Result<_, _>>()?;
            drop(held);
            moments
        };
        let mut files = Vec::new();
        for ((dir, _), moment) in stores.iter().zip(moments) {
            let name = format!("{dir}/{STORE}");
            moment.copy_to(&parts.make_way(&name)?)?;
            files.push(parts.describe(&name)?);
        }
        known.store().moment()?.copy_to(&parts.make_way(places::FILE)?)?;
        files.push(parts.describe(places::FILE)?);
        if with_root_keys {
            let keys = stores.iter().map(|(dir, _)| format!("{dir}/{ROOT_KEY}"));
            let tls = TLS.iter().map(|name| (*name).to_owned()).filter(|n| self.path().join(n).exists());
            for name in keys.chain(tls) {
                parts.copy(&self.path().join(&name), &name)?;
                files.push(parts.describe(&name)?);
            }
        }
        Ok(Manifest {
            kmsfs_home_backup: VERSION,
            id: hex::encode(random::<16>()?),
            taken: now,
            with_root_keys,
            regions: stores.iter().map(|(dir, _)| dir).filter(|dir| *dir != IAM).cloned().collect(),
            files,
        })
    }

    /// Makes a home out of a backup, whose files are checked, where none is. Root keys that are not in the backup are taken
    /// from `root_keys`, a home or a directory like one, if it is given; each must be its store's own. The log of each region
    /// of the new home has an event of it, in `caller`'s name, and of nothing else that happened after the backup.
    ///
    /// # Errors
    /// [`HomeError::Backup`] if the backup is damaged or the home exists; nothing is made then.
    pub fn restore(
        from: &Path,
        home: &Path,
        root_keys: Option<&Path>,
        passphrase: Option<&SecretVec>,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Restored, HomeError> {
        let whole = std::path::absolute(home).map_err(|e| file(home, e))?;
        empty_or_absent(&whole, "nothing was changed; name another home with --home, or move this one away")?;
        let manifest = Manifest::read(from)?;
        let parent = whole.parent().ok_or_else(|| refused(&whole, "it is no directory's name"))?;
        fs::create_dir_all(parent).map_err(|e| file(parent, e))?;
        let parts = Parts::new(&whole)?;
        for entry in &manifest.files {
            parts.copy(&from.join(&entry.path), &entry.path)?;
            if parts.describe(&entry.path)? != *entry {
                return Err(refused(
                    from,
                    &format!("{} is not what was written; nothing was made", entry.path),
                ));
            }
        }
        let mut without_root_key = Vec::new();
        for entry in manifest.files.iter().filter(|entry| entry.path.ends_with(".db")) {
            let path = parts.path(&entry.path);
            check_file(&path)?;
            let Some(dir) = entry.path.strip_suffix(&format!("/{STORE}")) else { continue };
            let name = format!("{dir}/{ROOT_KEY}");
            if let Some(keys) = root_keys
                && !parts.path(&name).exists()
                && keys.join(&name).exists()
            {
                parts.copy(&keys.join(&name), &name)?;
            }
            if parts.path(&name).exists() {
                belongs(dir, &path, &parts.path(&name), passphrase)?;
            } else {
                without_root_key.push(dir.to_owned());
            }
        }
        let source = std::path::absolute(from).map_err(|e| file(from, e))?;
        let mut note = Place::new(PlaceKind::Backup, &source, &manifest.id, "", manifest.taken);
        note.with_root_keys = manifest.with_root_keys;
        note.last_seen = now.as_millisecond();
        let made = Self::open(&parts.dir)?;
        made.places()?.note(&note)?;
        let told = json!({
            "backupId": manifest.id,
            "location": source.to_string_lossy(),
            "taken": manifest.taken.to_string(),
        });
        record(&made.stores()?, caller, "RestoreHome", &told, now)?;
        parts.rename(&whole)?;
        Ok(Restored { manifest, without_root_key })
    }
}

impl Manifest {
    /// Reads and checks it; nothing else of the backup is looked at.
    pub fn read(backup: &Path) -> Result<Self, HomeError> {
        let path = backup.join(MANIFEST);
        let mut text = Vec::new();
        let input = match File::open(&path) {
            Ok(input) => input,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(refused(backup, "it holds no manifest.json: it is no backup of a home"));
            }
            Err(e) => return Err(file(&path, e)),
        };
        input.take(MAX_MANIFEST + 1).read_to_end(&mut text).map_err(|e| file(&path, e))?;
        let damaged = || refused(backup, "its manifest.json is damaged, or of a newer kmsfs");
        if text.len() as u64 > MAX_MANIFEST {
            return Err(damaged());
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let known = manifest.files.iter().all(|entry| is_name(&entry.path));
        let regions = manifest.regions.iter().all(|region| {
            let store = format!("{region}/{STORE}");
            manifest.files.iter().any(|entry| entry.path == store)
        });
        if manifest.kmsfs_home_backup == VERSION && known && regions {
            return Ok(manifest);
        }
        Err(damaged())
    }
}

/// A name that a file of a backup may have: so none leads out of the home.
fn is_name(path: &str) -> bool {
    if path == places::FILE || TLS.contains(&path) {
        return true;
    }
    let Some((dir, name)) = path.split_once('/') else { return false };
    (dir == IAM || dir.parse::<Region>().is_ok()) && [STORE, ROOT_KEY].contains(&name)
}

/// Records what is done with a home, on disk when this returns: in the log of each region, or, where there is none, in
/// that of identities. No root key is needed; whoever next has one signs the head.
fn record(
    stores: &[(String, SqliteStore)],
    caller: &Caller,
    name: &'static str,
    told: &Value,
    now: Timestamp,
) -> Result<(), HomeError> {
    let alone = stores.iter().all(|(dir, _)| dir == IAM);
    for (dir, store) in stores.iter().filter(|(dir, _)| alone || dir != IAM) {
        let region = if dir == IAM { identity::HOME_REGION } else { dir };
        let event = events::of_the_home(region, caller, name, now, told.clone())
            .map_err(|e| StoreError::Engine(e.message))?;
        let mut tx = store.write(Durability::Synced)?;
        audit::append(&mut *tx, &event)?;
        tx.commit()?;
    }
    Ok(())
}

/// Checks that a root key is the one of a store.
fn belongs(
    dir: &str,
    store: &Path,
    root_key: &Path,
    passphrase: Option<&SecretVec>,
) -> Result<(), HomeError> {
    let root = RootKey::open(root_key, passphrase)?;
    let store = SqliteStore::open(store)?;
    let tx = store.read()?;
    let good = match dir.parse::<Region>() {
        Ok(region) if dir != IAM => rows::belongs(&*tx, &root, &region)?,
        _ => identity::belongs(&*tx, &root)?,
    };
    if good { Ok(()) } else { Err(HomeError::OtherRootKey { path: root_key.display().to_string() }) }
}

/// A directory that is not seen yet.
struct Parts {
    dir: PathBuf,
    /// Locked while it is made.
    _lock: File,
    renamed: std::cell::Cell<bool>,
}

impl Parts {
    /// Beside its final place. One that a killed process left there is taken away.
    fn new(place: &Path) -> Result<Self, HomeError> {
        let name = place.file_name().ok_or_else(|| refused(place, "it is no directory's name"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".kmsfs-partial");
        let dir = place.with_file_name(hidden);
        let make = || DirBuilder::new().mode(0o700).create(&dir);
        match make() {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                drop(lock(&dir, place)?);
                fs::remove_dir_all(&dir).and_then(|()| make()).map_err(|e| file(&dir, e))?;
            }
            made => made.map_err(|e| file(&dir, e))?,
        }
        let lock = lock(&dir, place)?;
        Ok(Self { dir, _lock: lock, renamed: std::cell::Cell::new(false) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The path of a file that is to be made, with its directory.
    fn make_way(&self, name: &str) -> Result<PathBuf, HomeError> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|e| file(parent, e))?;
        }
        Ok(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let path = self.make_way(name)?;
        let write = || {
            let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            out.write_all(bytes)?;
            out.sync_all()
        };
        write().map_err(|e| file(&path, e))
    }

    fn copy(&self, from: &Path, name: &str) -> Result<(), HomeError> {
        let path = self.make_way(name)?;
        let mut input = File::open(from).map_err(|e| file(from, e))?;
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut out = out.map_err(|e| file(&path, e))?;
        // A root key may pass through it.
        let mut buffer = Zeroizing::new(vec![0; 256 * 1024]);
        loop {
            let read = input.read(&mut buffer).map_err(|e| file(from, e))?;
            if read == 0 {
                break;
            }
            out.write_all(&buffer[..read]).map_err(|e| file(&path, e))?;
        }
        out.sync_all().map_err(|e| file(&path, e))
    }

    /// Length and digest of a file that is there.
    fn describe(&self, name: &str) -> Result<BackupFile, HomeError> {
        let path = self.path(name);
        let describe = || {
            let (mut input, mut digest, mut bytes) = (File::open(&path)?, Sha256::new(), 0);
            let mut buffer = Zeroizing::new(vec![0; 256 * 1024]);
            loop {
                let read = input.read(&mut buffer)?;
                if read == 0 {
                    return Ok((bytes, hex::encode(digest.finish())));
                }
                digest.update(&buffer[..read]);
                bytes += read as u64;
            }
        };
        let (bytes, sha256) = describe().map_err(|e| file(&path, e))?;
        Ok(BackupFile { path: name.to_owned(), bytes, sha256 })
    }

    /// Gives it its name; on disk when this returns.
    fn rename(&self, place: &Path) -> Result<(), HomeError> {
        let sync = |dir: &Path| File::open(dir).and_then(|d| d.sync_all()).map_err(|e| file(dir, e));
        for entry in fs::read_dir(&self.dir).map_err(|e| file(&self.dir, e))? {
            let path = entry.map_err(|e| file(&self.dir, e))?.path();
            if path.is_dir() {
                sync(&path)?;
            }
        }
        sync(&self.dir)?;
        // An empty directory gives way (rename(2)); one that got a file meanwhile does not.
        fs::rename(&self.dir, place).map_err(|e| file(place, e))?;
        self.renamed.set(true);
        place.parent().map_or(Ok(()), sync)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if !self.renamed.get() {
            // Best effort: the next one for the same place takes it away.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn lock(dir: &Path, place: &Path) -> Result<File, HomeError> {
    let handle = File::open(dir).map_err(|e| file(dir, e))?;
    match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(handle),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(refused(place, "another process is making it just now")),
        Err(e) => Err(file(dir, e.into())),
    }
}

fn empty_or_absent(place: &Path, advice: &str) -> Result<(), HomeError> {
    match fs::read_dir(place) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(refused(place, &format!("it is there already, and not empty; {advice}"))),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(file(place, e)),
    }
}

fn refused(path: &Path, reason: &str) -> HomeError {
    HomeError::Backup { path: path.display().to_string(), reason: reason.to_owned() }
}

fn file(path: &Path, source: io::Error) -> HomeError {
    HomeError::File { path: path.display().to_string(), source }
}
