//! Imported key material: how it is known again after it is gone, and when it goes.
//!
//! Collections (key as in [`super::rows`], number as of the key's material):
//! - `imports`: key | number 4 -> ImportRow
//! - `expiry`: time 8 | key | number 4 -> nothing: material to be erased
//!
//! Imported material is named by HMAC-SHA-256 of itself, the key's id and spec under the key's recogniser, 32 random
//! bytes that stand sealed in the key's row and that related keys share. So the same material is known again when
//! it is gone, two keys give it two names, and its name tells nothing about it.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::blob::MaterialId;
use super::cache::Key;
use super::region::Core;
use super::root::RootKey;
use super::rows::{self, KeyRow, MATERIAL, MaterialRow, REGION, ROW_VERSION};
use super::spec::KeySpec;
use super::state::State;
use super::{KmsError, KmsErrorKind, events};
use crate::audit;
use crate::crypto::{SecretVec, labels, mac, random};
use crate::iam::{KeyArn, KeyId};
use crate::store::{Durability, ReadTx, Store, WriteTx};

const IMPORTS: &str = "imports";
const EXPIRY: &str = "expiry";
/// What a recogniser is sealed for.
const RECOGNISER: &[u8] = b"recogniser";

/// What a key of origin EXTERNAL has in its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// 32 bytes, sealed under the root key as material is; AAD = `recogniser`, key ARN.
    pub recogniser: Vec<u8>,
}

/// What is known of one imported material, also while it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRow {
    /// When it is erased, in milliseconds since 1970; None: never, or it is gone.
    pub valid_to: Option<i64>,
    /// KeyMaterialDescription.
    pub description: String,
    /// It is gone because its time had come.
    pub expired: bool,
}

impl Import {
    /// For a new key.
    pub fn new(root: &RootKey, arn: &KeyArn) -> Result<Self, KmsError> {
        Self::keep(root, arn, &SecretVec::new(random::<32>()?.to_vec()))
    }

    /// With a recogniser that a related key has.
    pub fn keep(root: &RootKey, arn: &KeyArn, recogniser: &SecretVec) -> Result<Self, KmsError> {
        Ok(Self { recogniser: rows::seal(root, &recogniser_aad(arn), recogniser.expose())? })
    }

    /// The recogniser.
    pub fn recogniser(&self, root: &RootKey, arn: &KeyArn) -> Result<SecretVec, KmsError> {
        let opened = rows::open(root, &recogniser_aad(arn), &self.recogniser);
        opened.map(SecretVec::new).map_err(|_| rows::damaged(&format!("the recogniser of {arn}")))
    }

    /// The name of material under this key.
    pub fn name(
        &self,
        root: &RootKey,
        arn: &KeyArn,
        spec: KeySpec,
        material: &SecretVec,
    ) -> Result<MaterialId, KmsError> {
        let id = arn.key.to_string();
        let head = rows::aad(&[labels::KMS_IMPORTED, id.as_bytes(), spec.name().as_bytes()]);
        Ok(mac::hmac_sha256(self.recogniser(root, arn)?.expose(), &[&head, material.expose()]))
    }
}

fn recogniser_aad(arn: &KeyArn) -> Vec<u8> {
    rows::aad(&[RECOGNISER, arn.to_string().as_bytes()])
}

fn place(id: &KeyId, number: u32) -> Vec<u8> {
    [&rows::packed(id)[..], &number.to_be_bytes()].concat()
}

fn due_place(due: i64, id: &KeyId, number: u32) -> Vec<u8> {
    [&rows::due_key(due, id)[..], &number.to_be_bytes()].concat()
}

/// What is known of a key's imported materials.
pub fn all(tx: &dyn ReadTx, id: &KeyId) -> Result<BTreeMap<u32, ImportRow>, KmsError> {
    rows::under(tx, IMPORTS, &rows::packed(id), None, usize::MAX)?
        .iter()
        .map(|(key, row)| {
            let number = key.last_chunk().map(|n| u32::from_be_bytes(*n));
            let number = number.ok_or_else(|| rows::damaged("imported material"))?;
            Ok((number, rows::decode("imported material", row)?))
        })
        .collect()
}

fn one(tx: &dyn ReadTx, id: &KeyId, number: u32) -> Result<Option<ImportRow>, KmsError> {
    tx.get(IMPORTS, &place(id, number))?.map(|row| rows::decode("imported material", &row)).transpose()
}

/// Sets what is known of one material; None: nothing more.
pub fn put(tx: &mut dyn WriteTx, id: &KeyId, number: u32, row: Option<&ImportRow>) -> Result<(), KmsError> {
    if let Some(due) = one(tx, id, number)?.and_then(|before| before.valid_to) {
        tx.delete(EXPIRY, &due_place(due, id, number))?;
    }
    match row {
        Some(row) => {
            tx.put(IMPORTS, &place(id, number), &rows::encode(ROW_VERSION, row)?)?;
            if let Some(due) = row.valid_to {
                tx.put(EXPIRY, &due_place(due, id, number), b"")?;
            }
        }
        None => drop(tx.delete(IMPORTS, &place(id, number))?),
    }
    Ok(())
}

/// Forgets all of a key that is deleted.
pub fn forget(tx: &mut dyn WriteTx, id: &KeyId) -> Result<(), KmsError> {
    let numbers: Vec<u32> = all(tx, id)?.into_keys().collect();
    numbers.into_iter().try_for_each(|number| put(tx, id, number, None))
}

/// Overwrites one material; what is known of it stays if `row` says what is to be left of it. The store then has
/// something to purge.
pub fn erase(
    tx: &mut dyn WriteTx,
    id: &KeyId,
    number: u32,
    row: Option<&MaterialRow>,
) -> Result<(), KmsError> {
    let at = place(id, number);
    if let Some(sealed) = tx.get(MATERIAL, &at)? {
        // The same length first: SQLite writes it over the old bytes.
        tx.put(MATERIAL, &at, &vec![0; sealed.len()])?;
    }
    match row {
        Some(row) => rows::put_material(tx, id, number, &MaterialRow { sealed: Vec::new(), ..row.clone() })?,
        None => drop(tx.delete(MATERIAL, &at)?),
    }
    Ok(tx.put(REGION, b"purge", b"")?)
}

/// The state of a key by what it has: it works with all of its materials only, but those that wait for a rotation.
/// A state that has another reason stays.
pub fn settled(row: &KeyRow, materials: &[(u32, MaterialRow)], imports: &BTreeMap<u32, ImportRow>) -> State {
    let own = |(_, material): &&(u32, MaterialRow)| material.rotation != rows::Rotation::Pending;
    let gone: Vec<u32> =
        materials.iter().filter(own).filter(|(_, m)| m.sealed.is_empty()).map(|(n, _)| *n).collect();
    let expired = gone.iter().any(|number| imports.get(number).is_some_and(|import| import.expired));
    let whole = gone.is_empty() && materials.iter().any(|material| own(&material));
    match row.state {
        going if going.going() => going,
        _ if expired => State::Expired,
        _ if !whole => State::PendingImport,
        State::PendingImport | State::Expired => State::Enabled,
        other => other,
    }
}

/// Writes the state that a key of origin EXTERNAL has by what is in the store now.
pub fn settle(tx: &mut dyn WriteTx, id: &KeyId, row: KeyRow) -> Result<KeyRow, KmsError> {
    let row = KeyRow { state: settled(&row, &rows::materials(tx, id)?, &all(tx, id)?), ..row };
    rows::put_key(tx, id, &row)?;
    Ok(row)
}

/// The first material that is to be erased by `now`.
fn first_due(tx: &dyn ReadTx, now: i64) -> Result<Option<(KeyId, u32)>, KmsError> {
    let to = u64::try_from(now).unwrap_or(0).saturating_add(1).to_be_bytes();
    let found = tx.range(EXPIRY, Bound::Unbounded, Bound::Excluded(&to), false, 1)?;
    let Some((key, _)) = found.first() else { return Ok(None) };
    let bad = || rows::damaged("an expiry");
    let number = key.last_chunk().map(|n| u32::from_be_bytes(*n)).ok_or_else(bad)?;
    let id = key.get(8..25).and_then(rows::unpacked).ok_or_else(bad)?;
    Ok(Some((id, number)))
}

/// Erases the material whose time has come.
pub fn expire(core: &Core) -> Result<(), KmsError> {
    let now = core.now();
    while first_due(&*core.store.read()?, now)?.is_some() {
        let mut tx = core.store.write(Durability::Synced)?;
        // Another process may have been first.
        let Some((id, number)) = first_due(&*tx, now)? else { break };
        let Some(key) = Key::load(&*tx, &core.region, &id)? else {
            let message = format!(
                "material of key {id} expires and the key is not there; restore the key service's store"
            );
            return Err(KmsError::new(KmsErrorKind::Internal, message));
        };
        let material = key.materials.iter().find(|(n, _)| *n == number).map(|(_, row)| row);
        erase(&mut *tx, &id, number, material)?;
        let known = key.imports.get(&number).cloned().unwrap_or_default();
        put(&mut *tx, &id, number, Some(&ImportRow { valid_to: None, expired: true, ..known }))?;
        settle(&mut *tx, &id, key.row.clone())?;
        let event = events::by_the_service(
            core,
            &key,
            "DeleteExpiredKeyMaterial",
            Timestamp::from_millisecond(now).ok(),
        )?;
        audit::append(&mut *tx, &event)?;
        core.move_generation(&mut *tx)?;
        tx.commit()?;
        core.has_grown();
    }
    Ok(())
}
