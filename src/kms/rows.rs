//! What the service keeps in a region's store.
//!
//! Collections (key = 17 bytes: 1 if multi-Region, id):
//! - `keys`: key -> KeyRow; `account-keys`: account 12 | key -> nothing; `account-count`: account 12 -> 8, the number
//!   of its customer managed keys
//! - `material`: key | number 4 -> MaterialRow, oldest first; deleted with its key
//! - `aliases`: account 12 | name -> AliasRow; `key-aliases`: key | name -> nothing
//! - `due`: time 8 | key -> nothing: keys to be deleted
//! - `rotation`: key -> ScheduleRow, of keys that rotate by schedule; `rotation-due`: time 8 | key -> nothing, of
//!   those whose state lets them
//! - `region`: `generation` -> 8; `root` -> a known text under the root key; `purge` -> nothing, while deleted
//!   material may still be in the log of the store
//!
//! - what imported material needs beside: [`super::imported`]; what related keys need: [`super::related`]
//!
//! Rows are a version byte and postcard (a KeyRow of version 1 ends before the spec: it is symmetric; one of version
//! 2 before the import: it is the service's own and of one region); numbers in keys are big-endian, so that their order is that of time.

use std::ops::Bound;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::blob::MaterialId;
use super::imported::{self, Import};
use super::related::Related;
use super::root::RootKey;
use super::spec::{KeySpec, KeyUsage, ML_KEM, Material};
use super::state::State;
use super::wire::Tag;
use super::{KmsError, KmsErrorKind, grant_rows};
use crate::crypto::{AeadKey, CryptoError, SecretVec, kdf, labels, random};
use crate::iam::{AccountId, AliasName, KeyArn, KeyId, KeyPolicy, Region};
use crate::store::{Item, ReadTx, StoreError, WriteTx, prefix_end};

const KEYS: &str = "keys";
const ACCOUNT_KEYS: &str = "account-keys";
const ACCOUNT_COUNT: &str = "account-count";
pub const MATERIAL: &str = "material";
const ALIASES: &str = "aliases";
const KEY_ALIASES: &str = "key-aliases";
const DUE: &str = "due";
const ROTATION: &str = "rotation";
const ROTATION_DUE: &str = "rotation-due";
pub const REGION: &str = "region";
pub const ROW_VERSION: u8 = 1;
/// Of keys' rows, since they tell of import and of other regions.
const KEY_ROW_VERSION: u8 = 3;
const SALT: usize = 16;
/// What a store's root key is recognised by.
const CHECK: &[u8] = b"kmsfs region";

/// Who a key belongs to, beside its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manager {
    /// A customer.
    Customer,
    /// A service of the provider.
    Service,
}

/// How material came to be current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rotation {
    /// It is the first.
    First,
    /// RotateKeyOnDemand.
    OnDemand,
    /// By the calendar.
    Automatic,
    /// Not yet: it was imported and waits for RotateKeyOnDemand.
    Pending,
}

impl Rotation {
    /// AWS's name of it; the first material did not come by a rotation, nor did one that waits for it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::First | Self::Pending => None,
            Self::OnDemand => Some("ON_DEMAND"),
            Self::Automatic => Some("AUTOMATIC"),
        }
    }
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// Twelve digits.
    pub account: String,
    /// Milliseconds since 1970.
    pub created: i64,
    /// Free text.
    pub description: String,
    /// Who manages it.
    pub manager: Manager,
    /// Its state.
    pub state: State,
    /// Its policy.
    pub policy: KeyPolicy,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// The number of its current material.
    pub current: u32,
    /// Rotations on demand so far.
    pub on_demand: u32,
    /// What kind it is.
    pub spec: KeySpec,
    /// What it is for.
    pub usage: KeyUsage,
    /// Of a key of origin EXTERNAL.
    pub import: Option<Import>,
    /// Of a multi-Region key.
    pub related: Option<Related>,
}

impl KeyRow {
    /// Where its material comes from, as AWS names it.
    pub fn origin(&self) -> &'static str {
        if self.import.is_some() { "EXTERNAL" } else { "AWS_KMS" }
    }

    /// What policies see of it.
    pub fn kind(&self) -> Kind {
        (self.spec, self.usage, self.origin())
    }

    /// How it encrypts, if that is its use.
    pub fn encryption_algorithms(&self) -> Vec<&'static str> {
        match (self.usage, self.spec) {
            (KeyUsage::EncryptDecrypt, KeySpec::Symmetric) => vec![self.spec.name()],
            (KeyUsage::EncryptDecrypt, KeySpec::Pair(spec)) => {
                spec.encryption_algorithms().iter().map(|a| a.name()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// How it signs, if that is its use.
    pub fn signing_algorithms(&self) -> Vec<&'static str> {
        match (self.usage, self.spec) {
            (KeyUsage::SignVerify, KeySpec::Pair(spec)) => {
                spec.signing_algorithms().iter().map(|a| a.name()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// How it agrees, if that is its use.
    pub fn key_agreement_algorithms(&self) -> Vec<&'static str> {
        if self.usage == KeyUsage::KeyAgreement { vec!["ECDH"] } else { Vec::new() }
    }

    /// How it encapsulates, if that is its use.
    pub fn encapsulation_algorithms(&self) -> Vec<&'static str> {
        if self.usage == KeyUsage::EncapsulateDecapsulate { vec![ML_KEM] } else { Vec::new() }
    }

    /// How it makes codes, if that is its use.
    pub fn mac_algorithms(&self) -> Vec<&'static str> {
        match self.spec {
            KeySpec::Hmac(hmac) => vec![hmac.name()],
            KeySpec::Symmetric | KeySpec::Pair(_) => Vec::new(),
        }
    }
}

/// Spec, usage and origin.
pub type Kind = (KeySpec, KeyUsage, &'static str);

/// When a key rotates by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRow {
    /// Days from one rotation to the next.
    pub period: u32,
    /// The next one, in milliseconds since 1970.
    pub next: i64,
}

/// Material of a key, one version, under the root key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaterialRow {
    /// Its name.
    pub id: MaterialId,
    /// Milliseconds since 1970.
    pub since: i64,
    /// How it came.
    pub rotation: Rotation,
    /// Salt 16 | nonce 12 | tag 16 | AES-256-GCM ciphertext. Key = SP 800-108 counter mode of the root key
    /// over label and salt; AAD = collection, key ARN, id, spec, each with its length.
    pub sealed: Vec<u8>,
}

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// Multi-Region, and the id.
    pub key: (bool, [u8; 16]),
    /// Milliseconds since 1970.
    pub created: i64,
    /// Milliseconds since 1970.
    pub updated: i64,
}

impl AliasRow {
    /// The key it stands for.
    pub fn key(&self) -> KeyId {
        KeyId { multi_region: self.key.0, bytes: self.key.1 }
    }
}

pub(super) fn encode<T: Serialize>(version: u8, row: &T) -> Result<Vec<u8>, KmsError> {
    let out = vec![version];
    postcard::to_extend(row, out).map_err(|e| damaged(&format!("a row cannot be written: {e}")))
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, KmsError> {
    match bytes.split_first() {
        Some((&ROW_VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| damaged(what)),
        _ => Err(damaged(what)),
    }
}

/// The answer where a row cannot be what was written.
pub fn damaged(what: &str) -> KmsError {
    let message = format!("the key service's store is damaged ({what}); restore it from a backup");
    KmsError::new(KmsErrorKind::Internal, message)
}

impl From<StoreError> for KmsError {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::Busy { .. } => KmsErrorKind::DependencyTimeout,
            StoreError::Open { .. } | StoreError::Full | StoreError::Engine(_) => KmsErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CryptoError> for KmsError {
    fn from(error: CryptoError) -> Self {
        Self::new(KmsErrorKind::Internal, error.to_string())
    }
}

/// A key in the keys of collections.
pub(super) fn packed(key: &KeyId) -> [u8; 17] {
    let mut out = [0; 17];
    out[0] = u8::from(key.multi_region);
    out[1..].copy_from_slice(&key.bytes);
    out
}

pub(super) fn unpacked(bytes: &[u8]) -> Option<KeyId> {
    let bytes: &[u8; 17] = bytes.try_into().ok()?;
    let (flag, id) = bytes.split_first()?;
    Some(KeyId { multi_region: *flag == 1, bytes: id.try_into().ok()? })
}

/// Everything under a prefix, from behind `after` on.
pub(super) fn under(
    tx: &dyn ReadTx,
    collection: &str,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Item>, KmsError> {
    let end = prefix_end(prefix);
    let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let behind = after.map(|a| [prefix, a].concat());
    let from = behind.as_deref().map_or(Bound::Included(prefix), Bound::Excluded);
    Ok(tx.range(collection, from, to, false, limit)?)
}

pub fn key(tx: &dyn ReadTx, id: &KeyId) -> Result<Option<KeyRow>, KmsError> {
    tx.get(KEYS, &packed(id))?.map(|row| decode_key(&row)).transpose()
}

fn decode_key(row: &[u8]) -> Result<KeyRow, KmsError> {
    let bad = |_| damaged("a key");
    let neither = (None::<Import>, None::<Related>);
    match row.split_first() {
        Some((&KEY_ROW_VERSION, rest)) => postcard::from_bytes(rest).map_err(bad),
        Some((&2, rest)) => {
            let whole = postcard::to_extend(&neither, rest.to_vec()).map_err(bad)?;
            postcard::from_bytes(&whole).map_err(bad)
        }
        Some((&1, rest)) => {
            let ending = (KeySpec::Symmetric, KeyUsage::EncryptDecrypt, neither);
            let whole = postcard::to_extend(&ending, rest.to_vec()).map_err(bad)?;
            postcard::from_bytes(&whole).map_err(bad)
        }
        _ => Err(damaged("a key")),
    }
}

pub fn put_key(tx: &mut dyn WriteTx, id: &KeyId, row: &KeyRow) -> Result<(), KmsError> {
    Ok(tx.put(KEYS, &packed(id), &encode(KEY_ROW_VERSION, row)?)?)
}

/// Writes a key that was not there before.
pub fn new_key(tx: &mut dyn WriteTx, id: &KeyId, row: &KeyRow) -> Result<(), KmsError> {
    put_key(tx, id, row)?;
    tx.put(ACCOUNT_KEYS, &[row.account.as_bytes(), &packed(id)].concat(), b"")?;
    count(tx, row, |keys| keys + 1)
}

/// How many customer managed keys an account has.
pub fn key_count(tx: &dyn ReadTx, account: &str) -> Result<u64, KmsError> {
    let Some(row) = tx.get(ACCOUNT_COUNT, account.as_bytes())? else { return Ok(0) };
    row.try_into().map(u64::from_be_bytes).map_err(|_| damaged("the number of keys"))
}

/// Counts a key that comes or goes, in the transaction in which it does.
fn count(tx: &mut dyn WriteTx, row: &KeyRow, step: fn(u64) -> u64) -> Result<(), KmsError> {
    if row.manager == Manager::Customer {
        let now = step(key_count(tx, &row.account)?);
        tx.put(ACCOUNT_COUNT, row.account.as_bytes(), &now.to_be_bytes())?;
    }
    Ok(())
}

/// Up to `limit` keys of an account behind `after`, by id.
pub fn keys_of(
    tx: &dyn ReadTx,
    account: &AccountId,
    after: Option<&KeyId>,
    limit: usize,
) -> Result<Vec<KeyId>, KmsError> {
    let after = after.map(packed);
    let rows = under(tx, ACCOUNT_KEYS, account.as_str().as_bytes(), after.as_ref().map(|a| &a[..]), limit)?;
    rows.iter().map(|(key, _)| unpacked(&key[12..]).ok_or_else(|| damaged("a key's name"))).collect()
}

/// All material of a key, oldest first, with its numbers.
pub fn materials(tx: &dyn ReadTx, id: &KeyId) -> Result<Vec<(u32, MaterialRow)>, KmsError> {
    under(tx, MATERIAL, &packed(id), None, usize::MAX)?
        .iter()
        .map(|(key, row)| {
            let number = key.last_chunk().map(|n| u32::from_be_bytes(*n));
            Ok((number.ok_or_else(|| damaged("key material"))?, decode("key material", row)?))
        })
        .collect()
}

pub fn put_material(
    tx: &mut dyn WriteTx,
    id: &KeyId,
    number: u32,
    row: &MaterialRow,
) -> Result<(), KmsError> {
    Ok(tx.put(MATERIAL, &[&packed(id)[..], &number.to_be_bytes()].concat(), &encode(ROW_VERSION, row)?)?)
}

pub fn alias(tx: &dyn ReadTx, account: &AccountId, name: &AliasName) -> Result<Option<AliasRow>, KmsError> {
    tx.get(ALIASES, &alias_key(account, name.as_str()))?.map(|row| decode("an alias", &row)).transpose()
}

fn alias_key(account: &AccountId, name: &str) -> Vec<u8> {
    [account.as_str(), name].concat().into_bytes()
}

/// Sets an alias, which stood for `before`.
pub fn put_alias(
    tx: &mut dyn WriteTx,
    account: &AccountId,
    name: &AliasName,
    row: &AliasRow,
    before: Option<&KeyId>,
) -> Result<(), KmsError> {
    if let Some(before) = before {
        tx.delete(KEY_ALIASES, &[&packed(before), name.as_str().as_bytes()].concat())?;
    }
    tx.put(KEY_ALIASES, &[&packed(&row.key()), name.as_str().as_bytes()].concat(), b"")?;
    Ok(tx.put(ALIASES, &alias_key(account, name.as_str()), &encode(ROW_VERSION, row)?)?)
}

pub fn delete_alias(
    tx: &mut dyn WriteTx,
    account: &AccountId,
    name: &AliasName,
    key: &KeyId,
) -> Result<(), KmsError> {
    tx.delete(KEY_ALIASES, &[&packed(key), name.as_str().as_bytes()].concat())?;
    tx.delete(ALIASES, &alias_key(account, name.as_str()))?;
    Ok(())
}

/// Up to `limit` aliases behind `after`: of a key, or of the account.
pub fn aliases(
    tx: &dyn ReadTx,
    account: &AccountId,
    of: Option<&KeyId>,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(AliasName, AliasRow)>, KmsError> {
    let after = after.map(str::as_bytes);
    let rows = match of {
        Some(key) => under(tx, KEY_ALIASES, &packed(key), after, limit)?,
        None => under(tx, ALIASES, account.as_str().as_bytes(), after, limit)?,
    };
    let skip = if of.is_some() { 17 } else { 12 };
    let name = |key: &[u8]| std::str::from_utf8(&key[skip..]).ok()?.parse::<AliasName>().ok();
    let mut found = Vec::with_capacity(rows.len());
    for (key, _) in rows {
        let name = name(&key).ok_or_else(|| damaged("an alias's name"))?;
        let row = alias(tx, account, &name)?.ok_or_else(|| damaged("an alias"))?;
        found.push((name, row));
    }
    Ok(found)
}

pub fn due_key(due: i64, id: &KeyId) -> Vec<u8> {
    // Times before 1970 do not occur; should one, it is due.
    [&u64::try_from(due).unwrap_or(0).to_be_bytes()[..], &packed(id)].concat()
}

pub fn put_due(tx: &mut dyn WriteTx, due: i64, id: &KeyId) -> Result<(), KmsError> {
    Ok(tx.put(DUE, &due_key(due, id), b"")?)
}

pub fn delete_due(tx: &mut dyn WriteTx, due: i64, id: &KeyId) -> Result<(), KmsError> {
    tx.delete(DUE, &due_key(due, id))?;
    Ok(())
}

/// The first key that is to be deleted by `now`.
pub fn first_due(tx: &dyn ReadTx, now: i64) -> Result<Option<KeyId>, KmsError> {
    first_of(tx, DUE, now)
}

/// The first key that is to rotate by `now`.
pub fn first_rotation_due(tx: &dyn ReadTx, now: i64) -> Result<Option<KeyId>, KmsError> {
    first_of(tx, ROTATION_DUE, now)
}

/// When a key rotates, if it does so by schedule.
pub fn schedule(tx: &dyn ReadTx, id: &KeyId) -> Result<Option<ScheduleRow>, KmsError> {
    tx.get(ROTATION, &packed(id))?.map(|row| decode("a rotation's schedule", &row)).transpose()
}

/// Sets or takes away a key's schedule; it counts only while the key is `enabled`.
pub fn set_schedule(
    tx: &mut dyn WriteTx,
    id: &KeyId,
    row: Option<&ScheduleRow>,
    enabled: bool,
) -> Result<(), KmsError> {
    if let Some(before) = schedule(tx, id)? {
        tx.delete(ROTATION_DUE, &due_key(before.next, id))?;
    }
    match row {
        Some(row) => {
            tx.put(ROTATION, &packed(id), &encode(ROW_VERSION, row)?)?;
            if enabled {
                tx.put(ROTATION_DUE, &due_key(row.next, id), b"")?;
            }
        }
        None => drop(tx.delete(ROTATION, &packed(id))?),
    }
    Ok(())
}

fn first_of(tx: &dyn ReadTx, collection: &str, now: i64) -> Result<Option<KeyId>, KmsError> {
    let to = u64::try_from(now).unwrap_or(0).saturating_add(1).to_be_bytes();
    let rows = tx.range(collection, Bound::Unbounded, Bound::Excluded(&to), false, 1)?;
    rows.first().map(|(key, _)| unpacked(&key[8..]).ok_or_else(|| damaged("a due time"))).transpose()
}

/// Removes a key with its material, aliases, grants, schedule and due time; the store then has something to purge.
pub fn delete_key(tx: &mut dyn WriteTx, id: &KeyId, row: &KeyRow) -> Result<(), KmsError> {
    let account: AccountId = row.account.parse().map_err(|_| damaged("a key's account"))?;
    for (at, sealed) in under(tx, MATERIAL, &packed(id), None, usize::MAX)? {
        // The same length first: SQLite writes it over the old bytes.
        tx.put(MATERIAL, &at, &vec![0; sealed.len()])?;
        tx.delete(MATERIAL, &at)?;
    }
    for (name, _) in aliases(tx, &account, Some(id), None, usize::MAX)? {
        delete_alias(tx, &account, &name, id)?;
    }
    if let State::PendingDeletion { due } = row.state {
        delete_due(tx, due, id)?;
    }
    set_schedule(tx, id, None, false)?;
    grant_rows::delete_all(tx, id)?;
    imported::forget(tx, id)?;
    count(tx, row, |keys| keys.saturating_sub(1))?;
    tx.delete(ACCOUNT_KEYS, &[row.account.as_bytes(), &packed(id)].concat())?;
    tx.delete(KEYS, &packed(id))?;
    Ok(tx.put(REGION, b"purge", b"")?)
}

/// True while deleted material may still be in the store's log.
pub fn purge_due(tx: &dyn ReadTx) -> Result<bool, StoreError> {
    Ok(tx.get(REGION, b"purge")?.is_some())
}

pub fn purged(tx: &mut dyn WriteTx) -> Result<(), StoreError> {
    tx.delete(REGION, b"purge")?;
    Ok(())
}

/// The generation in the store: the truth.
pub fn generation(tx: &dyn ReadTx) -> Result<u64, StoreError> {
    let row = tx.get(REGION, b"generation")?;
    Ok(row.and_then(|r| r.try_into().ok()).map_or(0, u64::from_be_bytes))
}

pub fn put_generation(tx: &mut dyn WriteTx, generation: u64) -> Result<(), StoreError> {
    tx.put(REGION, b"generation", &generation.to_be_bytes())
}

fn under_root(root: &RootKey, salt: &[u8]) -> Result<AeadKey, CryptoError> {
    AeadKey::new(kdf::counter_mode(root.expose(), labels::KMS_MATERIAL, salt)?.expose())
}

/// Seals for a row: salt 16 | nonce 12 | tag 16 | AES-256-GCM ciphertext, under a key of its own.
pub fn seal(root: &RootKey, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let salt: [u8; SALT] = random()?;
    Ok([&salt[..], &under_root(root, &salt)?.seal_message(aad, plaintext)?].concat())
}

/// Opens what [`seal`] gave.
pub fn open(root: &RootKey, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let (salt, message) = sealed.split_first_chunk::<SALT>().ok_or(CryptoError::NotAuthentic)?;
    under_root(root, salt)?.open_message(aad, message)
}

/// Each part with its length before it.
pub fn aad(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&(part.len() as u32).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn material_aad(arn: &KeyArn, id: &MaterialId, spec: KeySpec) -> Vec<u8> {
    aad(&[MATERIAL.as_bytes(), arn.to_string().as_bytes(), id, spec.name().as_bytes()])
}

/// Fresh material for a key, sealed for its row.
pub fn make_material(
    root: &RootKey,
    arn: &KeyArn,
    spec: KeySpec,
    since: i64,
    rotation: Rotation,
) -> Result<MaterialRow, CryptoError> {
    seal_material(root, arn, spec, &spec.generate()?, since, rotation)
}

/// Material that was made before, sealed for its row.
pub fn seal_material(
    root: &RootKey,
    arn: &KeyArn,
    spec: KeySpec,
    material: &SecretVec,
    since: i64,
    rotation: Rotation,
) -> Result<MaterialRow, CryptoError> {
    seal_named(root, arn, spec, random()?, material, since, rotation)
}

/// The same under an id that it has.
pub fn seal_named(
    root: &RootKey,
    arn: &KeyArn,
    spec: KeySpec,
    id: MaterialId,
    material: &SecretVec,
    since: i64,
    rotation: Rotation,
) -> Result<MaterialRow, CryptoError> {
    let sealed = seal(root, &material_aad(arn, &id, spec), material.expose())?;
    Ok(MaterialRow { id, since, rotation, sealed })
}

/// Material as its row keeps it.
pub fn unseal(root: &RootKey, arn: &KeyArn, spec: KeySpec, row: &MaterialRow) -> Result<SecretVec, KmsError> {
    let opened = open(root, &material_aad(arn, &row.id, spec), &row.sealed);
    opened.map(SecretVec::new).map_err(|_| damaged(&format!("the material of {arn} does not authenticate")))
}

/// Material as it may be used.
pub fn open_material(
    root: &RootKey,
    arn: &KeyArn,
    spec: KeySpec,
    row: &MaterialRow,
) -> Result<Material, KmsError> {
    let bytes = unseal(root, arn, spec, row)?;
    spec.load(bytes.expose()).map_err(|_| damaged(&format!("the material of {arn} is none of its spec")))
}

/// Writes what a new region's store begins with.
pub fn found(tx: &mut dyn WriteTx, root: &RootKey, region: &Region) -> Result<(), KmsError> {
    let sealed = seal(root, &aad(&[REGION.as_bytes(), region.as_str().as_bytes()]), CHECK)?;
    Ok(tx.put(REGION, b"root", &sealed)?)
}

/// True if this is the root key and the region of this store.
pub fn belongs(tx: &dyn ReadTx, root: &RootKey, region: &Region) -> Result<bool, StoreError> {
    let row = tx.get(REGION, b"root")?.unwrap_or_default();
    let opened = open(root, &aad(&[REGION.as_bytes(), region.as_str().as_bytes()]), &row);
    Ok(opened.is_ok_and(|text| text == CHECK))
}

/// Names a key's tags as rows do.
pub fn tag_pairs(tags: &[Tag]) -> Vec<(String, String)> {
    tags.iter().map(|t| (t.tag_key.clone(), t.tag_value.clone())).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::kms::region::RegionService;
    use crate::store::{Durability, Store};

    /// Rewrites a symmetric key's row as version 1 or 2 had it.
    pub fn write_version(region: &RegionService, id: &str, version: u8) {
        let id: KeyId = id.parse().unwrap();
        let mut tx = region.store.write(Durability::Synced).unwrap();
        let row = tx.get(KEYS, &packed(&id)).unwrap().unwrap();
        let ending = if version == 1 {
            postcard::to_extend(&(KeySpec::Symmetric, KeyUsage::EncryptDecrypt), Vec::new()).unwrap()
        } else {
            Vec::new()
        };
        // Neither imported nor with relatives.
        let ending = [&ending[..], &[0, 0]].concat();
        let old = [&[version], &row.strip_suffix(ending.as_slice()).unwrap()[1..]].concat();
        tx.put(KEYS, &packed(&id), &old).unwrap();
        tx.commit().unwrap();
    }
}
