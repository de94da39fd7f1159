//! Keys that the service owns: in no account and no list, without alias and policy, and of no concern to any
//! account's log. There is one kind: those that sign the digests of exported logs.
//!
//! Collection `owned`: `digest` | number 4, big-endian -> row: version byte and postcard.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::KmsError;
use super::blob::MaterialId;
use super::region::Core;
use super::rows;
use crate::audit::{DIGEST_KEY_SPEC, DigestKey, DigestKeys, ExportError, Second};
use crate::crypto::asymmetric::PrivateKey;
use crate::crypto::random;
use crate::store::{Durability, ReadTx, Store, prefix_end};

const OWNED: &str = "owned";
const DIGEST: &[u8] = b"digest";
const ROW_VERSION: u8 = 1;
/// A digest key signs digests that begin in the year from its beginning; then the service makes another.
const LIFE: i64 = 365 * 24 * 3600;

#[derive(Serialize, Deserialize)]
struct OwnedRow {
    /// From when on it signs: seconds since 1970.
    since: i64,
    id: MaterialId,
    /// As key material is ([`rows::MaterialRow`]); AAD = collection, region, name, id, spec, each with its length.
    sealed: Vec<u8>,
}

/// A digest key and its time.
pub struct TimedKey {
    /// It signs digests that begin then or later,
    pub since: Second,
    /// and before then.
    pub until: Second,
    /// The key.
    pub key: Arc<DigestKey>,
}

impl TimedKey {
    fn signs(&self, start: Second) -> bool {
        self.since <= start && start < self.until
    }
}

/// The digest keys of a region; those that were opened stay open as long as this.
pub struct RegionDigestKeys<'a> {
    region: &'a Core,
    opened: Mutex<BTreeMap<MaterialId, Arc<DigestKey>>>,
}

impl<'a> RegionDigestKeys<'a> {
    /// Of this region.
    pub fn new(region: &'a Core) -> Self {
        Self { region, opened: Mutex::default() }
    }

    /// All there are, oldest first.
    pub fn all(&self) -> Result<Vec<TimedKey>, KmsError> {
        self.read(&*self.region.store.read()?)
    }

    fn read(&self, tx: &dyn ReadTx) -> Result<Vec<TimedKey>, KmsError> {
        let end = prefix_end(DIGEST);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = tx.range(OWNED, Bound::Included(DIGEST), to, false, usize::MAX)?;
        found.iter().map(|(_, row)| self.open(row)).collect()
    }

    fn open(&self, row: &[u8]) -> Result<TimedKey, KmsError> {
        let damaged = || rows::damaged("a key that signs digests");
        let row: OwnedRow = match row.split_first() {
            Some((&ROW_VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| damaged())?,
            _ => return Err(damaged()),
        };
        let (since, until) = (Second(row.since), Second(row.since.saturating_add(LIFE)));
        let mut opened = self.opened.lock();
        let key = match opened.get(&row.id) {
            Some(key) => key.clone(),
            None => {
                let material = rows::open(&self.region.root, &self.aad(&row.id), &row.sealed);
                let material = material.map(Zeroizing::new).map_err(|_| damaged())?;
                let private = PrivateKey::from_bytes(DIGEST_KEY_SPEC, &material).map_err(|_| damaged())?;
                let key = Arc::new(DigestKey::new(private)?);
                opened.insert(row.id, key.clone());
                key
            }
        };
        Ok(TimedKey { since, until, key })
    }

    fn aad(&self, id: &MaterialId) -> Vec<u8> {
        let region = self.region.region.as_str();
        rows::aad(&[OWNED.as_bytes(), region.as_bytes(), DIGEST, id, DIGEST_KEY_SPEC.name().as_bytes()])
    }

    fn of(&self, tx: &dyn ReadTx, start: Second) -> Result<Option<Arc<DigestKey>>, KmsError> {
        Ok(self.read(tx)?.into_iter().rev().find(|key| key.signs(start)).map(|key| key.key))
    }

    fn make(&self, start: Second) -> Result<Arc<DigestKey>, KmsError> {
        // Before the store is held: it takes up to a second.
        let material = PrivateKey::generate(DIGEST_KEY_SPEC)?.to_bytes()?;
        let id: MaterialId = random()?;
        let sealed = rows::seal(&self.region.root, &self.aad(&id), material.expose())?;
        let mut tx = self.region.store.write(Durability::Synced)?;
        // Another process may have been first.
        if let Some(key) = self.of(&*tx, start)? {
            return Ok(key);
        }
        let number = u32::try_from(self.read(&*tx)?.len()).map_err(|_| rows::damaged("too many keys"))?;
        let row = postcard::to_extend(&OwnedRow { since: start.0, id, sealed }, vec![ROW_VERSION])
            .map_err(|_| rows::damaged("a row cannot be written"))?;
        tx.put(OWNED, &[DIGEST, &number.to_be_bytes()].concat(), &row)?;
        tx.commit()?;
        Ok(self.open(&row)?.key)
    }
}

fn failed(error: KmsError) -> ExportError {
    ExportError::Key(error.message)
}

impl DigestKeys for RegionDigestKeys<'_> {
    fn signing(&self, start: Second) -> Result<Arc<DigestKey>, ExportError> {
        let found = self.of(&*self.region.store.read()?, start).map_err(failed)?;
        match found {
            Some(key) => Ok(key),
            None => self.make(start).map_err(failed),
        }
    }

    fn named(&self, fingerprint: &str) -> Result<Option<Arc<DigestKey>>, ExportError> {
        let keys = self.all().map_err(failed)?;
        Ok(keys.into_iter().map(|key| key.key).find(|key| key.fingerprint() == fingerprint))
    }
}
