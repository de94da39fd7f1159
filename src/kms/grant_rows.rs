//! What the service keeps of grants in a region's store.
//!
//! Collections (key = 17 bytes, as in [`super::rows`]; grant = 32 bytes; a principal ends in a byte 0, which none has):
//! - `grants`: key | grant -> GrantRow; `grant-count`: key -> 8, how many
//! - `grant-requests`: key | SHA-256 of a named grant's row but its time -> grant: what a repeated CreateGrant finds
//! - `grantees`: key | principal | 0 | grant -> nothing
//! - `retirable`: principal | 0 | key | grant -> nothing

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::grants::GrantOperation;
use super::rows::{ROW_VERSION, damaged, decode, encode, packed, under, unpacked};
use super::wire::GrantConstraints;
use super::{EncryptionContext, KmsError};
use crate::crypto::mac::sha256;
use crate::crypto::{CryptoError, random};
use crate::iam::{KeyId, Principal};
use crate::store::{ReadTx, WriteTx};

const GRANTS: &str = "grants";
const GRANT_COUNT: &str = "grant-count";
const GRANT_REQUESTS: &str = "grant-requests";
const GRANTEES: &str = "grantees";
const RETIRABLE: &str = "retirable";

/// 32 bytes, random; as text 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantId(pub [u8; 32]);

impl GrantId {
    pub fn generate() -> Result<Self, CryptoError> {
        random().map(Self)
    }
}

impl FromStr for GrantId {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        // Upper case would be a second name of the same grant.
        if s.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(());
        }
        let bytes = hex::decode(s).map_err(|_| ())?;
        bytes.try_into().map(Self).map_err(|_| ())
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Who gets or retires a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Party {
    /// By an ARN, as it was given.
    Principal(String),
    /// By a service's name.
    Service(String),
}

impl Party {
    /// How the indexes name it: as [`Principal::arn`] does.
    pub fn indexed(&self) -> String {
        match self {
            Self::Principal(arn) => arn.parse::<Principal>().map_or_else(|_| arn.clone(), |p| p.arn()),
            Self::Service(name) => name.clone(),
        }
    }

    pub fn principal(&self) -> Option<String> {
        match self {
            Self::Principal(arn) => Some(arn.clone()),
            Self::Service(_) => None,
        }
    }

    pub fn service(&self) -> Option<String> {
        match self {
            Self::Principal(_) => None,
            Self::Service(name) => Some(name.clone()),
        }
    }
}

/// GrantConstraints, as rows have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstraintRow {
    pub subset: Option<EncryptionContext>,
    pub equals: Option<EncryptionContext>,
    pub source_arn: Option<String>,
}

impl From<&GrantConstraints> for ConstraintRow {
    fn from(wire: &GrantConstraints) -> Self {
        Self {
            subset: wire.encryption_context_subset.clone(),
            equals: wire.encryption_context_equals.clone(),
            source_arn: wire.source_arn.clone(),
        }
    }
}

impl From<&ConstraintRow> for GrantConstraints {
    fn from(row: &ConstraintRow) -> Self {
        Self {
            encryption_context_subset: row.subset.clone(),
            encryption_context_equals: row.equals.clone(),
            source_arn: row.source_arn.clone(),
        }
    }
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    pub name: Option<String>,
    /// Milliseconds since 1970.
    pub created: i64,
    pub grantee: Party,
    pub retiring: Option<Party>,
    /// Twelve digits: the account that made it.
    pub issuer: String,
    /// As they were asked for, each once.
    pub operations: Vec<GrantOperation>,
    pub constraints: Option<ConstraintRow>,
}

fn grant_key(key: &KeyId, id: &GrantId) -> Vec<u8> {
    [&packed(key)[..], &id.0].concat()
}

fn grantee_prefix(key: &KeyId, principal: &str) -> Vec<u8> {
    [&packed(key)[..], principal.as_bytes(), &[0]].concat()
}

fn retirable_prefix(principal: &str) -> Vec<u8> {
    [principal.as_bytes(), &[0]].concat()
}

/// Where a repeated request finds its grant; None for those without a name, which never do.
fn request_key(key: &KeyId, row: &GrantRow) -> Result<Option<Vec<u8>>, KmsError> {
    if row.name.is_none() {
        return Ok(None);
    }
    let mut operations = row.operations.clone();
    operations.sort_unstable();
    let timeless = encode(ROW_VERSION, &GrantRow { created: 0, operations, ..row.clone() })?;
    Ok(Some([&packed(key)[..], &sha256(&[&timeless])].concat()))
}

pub fn grant(tx: &dyn ReadTx, key: &KeyId, id: &GrantId) -> Result<Option<GrantRow>, KmsError> {
    tx.get(GRANTS, &grant_key(key, id))?.map(|row| decode("a grant", &row)).transpose()
}

/// The grant that the same request made before.
pub fn made_before(tx: &dyn ReadTx, key: &KeyId, row: &GrantRow) -> Result<Option<GrantId>, KmsError> {
    let Some(at) = request_key(key, row)? else { return Ok(None) };
    let id = tx.get(GRANT_REQUESTS, &at)?;
    id.map(|id| id.try_into().map(GrantId).map_err(|_| damaged("a grant's request"))).transpose()
}

/// How many grants a key has.
pub fn count(tx: &dyn ReadTx, key: &KeyId) -> Result<u64, KmsError> {
    let Some(row) = tx.get(GRANT_COUNT, &packed(key))? else { return Ok(0) };
    row.try_into().map(u64::from_be_bytes).map_err(|_| damaged("the number of grants"))
}

fn set_count(tx: &mut dyn WriteTx, key: &KeyId, grants: u64) -> Result<(), KmsError> {
    if grants == 0 {
        tx.delete(GRANT_COUNT, &packed(key))?;
        return Ok(());
    }
    Ok(tx.put(GRANT_COUNT, &packed(key), &grants.to_be_bytes())?)
}

/// Writes a grant that was not there before.
pub fn put(tx: &mut dyn WriteTx, key: &KeyId, id: &GrantId, row: &GrantRow) -> Result<(), KmsError> {
    let grants = count(tx, key)?;
    set_count(tx, key, grants + 1)?;
    if let Some(at) = request_key(key, row)? {
        tx.put(GRANT_REQUESTS, &at, &id.0)?;
    }
    tx.put(GRANTEES, &[grantee_prefix(key, &row.grantee.indexed()), id.0.to_vec()].concat(), b"")?;
    if let Some(retiring) = &row.retiring {
        let at = [retirable_prefix(&retiring.indexed()), grant_key(key, id)].concat();
        tx.put(RETIRABLE, &at, b"")?;
    }
    Ok(tx.put(GRANTS, &grant_key(key, id), &encode(ROW_VERSION, row)?)?)
}

pub fn delete(tx: &mut dyn WriteTx, key: &KeyId, id: &GrantId, row: &GrantRow) -> Result<(), KmsError> {
    let grants = count(tx, key)?;
    set_count(tx, key, grants.saturating_sub(1))?;
    if let Some(at) = request_key(key, row)? {
        tx.delete(GRANT_REQUESTS, &at)?;
    }
    tx.delete(GRANTEES, &[grantee_prefix(key, &row.grantee.indexed()), id.0.to_vec()].concat())?;
    if let Some(retiring) = &row.retiring {
        tx.delete(RETIRABLE, &[retirable_prefix(&retiring.indexed()), grant_key(key, id)].concat())?;
    }
    tx.delete(GRANTS, &grant_key(key, id))?;
    Ok(())
}

/// Removes all grants of a key that goes.
pub fn delete_all(tx: &mut dyn WriteTx, key: &KeyId) -> Result<(), KmsError> {
    for (id, row) in of_key(tx, key, None, usize::MAX)? {
        delete(tx, key, &id, &row)?;
    }
    Ok(())
}

/// Up to `limit` grants of a key behind `after`, by id.
pub fn of_key(
    tx: &dyn ReadTx,
    key: &KeyId,
    after: Option<&GrantId>,
    limit: usize,
) -> Result<Vec<(GrantId, GrantRow)>, KmsError> {
    let rows = under(tx, GRANTS, &packed(key), after.map(|a| &a.0[..]), limit)?;
    let mut found = Vec::with_capacity(rows.len());
    for (at, row) in rows {
        found.push((last_id(&at)?, decode("a grant", &row)?));
    }
    Ok(found)
}

/// Up to `limit` grants of a key to a principal behind `after`, by id.
pub fn of_grantee(
    tx: &dyn ReadTx,
    key: &KeyId,
    principal: &str,
    after: Option<&GrantId>,
    limit: usize,
) -> Result<Vec<(GrantId, GrantRow)>, KmsError> {
    let rows = under(tx, GRANTEES, &grantee_prefix(key, principal), after.map(|a| &a.0[..]), limit)?;
    let mut found = Vec::with_capacity(rows.len());
    for (at, _) in rows {
        let id = last_id(&at)?;
        found.push((id, grant(tx, key, &id)?.ok_or_else(|| damaged("a grant"))?));
    }
    Ok(found)
}

/// Up to `limit` grants that a principal may retire, behind `after`, by key and id.
pub fn retirable_by(
    tx: &dyn ReadTx,
    principal: &str,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(KeyId, GrantId, GrantRow)>, KmsError> {
    let prefix = retirable_prefix(principal);
    let mut found = Vec::new();
    for (at, _) in under(tx, RETIRABLE, &prefix, after, limit)? {
        let (key, id) = parted(&at[prefix.len()..]).ok_or_else(|| damaged("a grant to be retired"))?;
        let row = grant(tx, &key, &id)?.ok_or_else(|| damaged("a grant"))?;
        found.push((key, id, row));
    }
    Ok(found)
}

/// Key and grant, as [`retirable_by`] takes it for `after`.
pub fn joined(key: &KeyId, id: &GrantId) -> Vec<u8> {
    grant_key(key, id)
}

/// The opposite of [`joined`].
pub fn parted(bytes: &[u8]) -> Option<(KeyId, GrantId)> {
    let (key, id) = bytes.split_at_checked(17)?;
    Some((unpacked(key)?, GrantId(id.try_into().ok()?)))
}

fn last_id(at: &[u8]) -> Result<GrantId, KmsError> {
    at.last_chunk().copied().map(GrantId).ok_or_else(|| damaged("a grant's id"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::kms::region::RegionService;
    use crate::store::{Durability, Item, Store};

    /// Makes a key look as if it had that many grants.
    pub fn pretend(region: &RegionService, id: &str, grants: u64) {
        let mut tx = region.store.write(Durability::Synced).unwrap();
        set_count(&mut *tx, &id.parse().unwrap(), grants).unwrap();
        tx.commit().unwrap();
    }

    /// All that the store has of grants.
    pub fn everything(region: &RegionService) -> Vec<Item> {
        use std::ops::Bound::Unbounded;
        let tx = region.store.read().unwrap();
        let collections = [GRANTS, GRANT_COUNT, GRANT_REQUESTS, GRANTEES, RETIRABLE];
        let all = |c: &&str| tx.range(c, Unbounded, Unbounded, false, usize::MAX).unwrap();
        collections.iter().flat_map(all).collect()
    }
}
