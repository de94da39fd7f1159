//! Access keys: a public name and a secret by which a program signs for a user, or for the account's root.

use serde::{Deserialize, Serialize};

use super::ids::{Unique, new_secret, unique_id};
use super::{DirectoryError, Result, decode, encode, named, sealed, tail, under};
use crate::crypto::{SecretVec, labels};
use crate::iam::AccountId;
use crate::store::{ReadTx, WriteTx};

const ACCESS_KEYS: &str = "access-keys";
const OWNER_KEYS: &str = "owner-keys";
/// Access keys that a user, or root, may have.
const MOST_KEYS: usize = 2;

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyRow {
    /// Twelve digits.
    pub account: String,
    /// The user's name; None: the account's root.
    pub user: Option<String>,
    /// When it was made.
    pub created: i64,
    /// It may be used.
    pub active: bool,
    /// The secret under the root key: a signature is checked with the secret itself.
    pub sealed: Vec<u8>,
}

/// An access key with its secret, which is shown once.
pub struct NewAccessKey {
    /// AKIA...
    pub id: String,
    /// Forty characters.
    pub secret: SecretVec,
    /// As it is kept.
    pub row: AccessKeyRow,
}

fn owner_prefix(account: &AccountId, owner: &str) -> Vec<u8> {
    [&named(account, owner)[..], &[0]].concat()
}

/// Ids of the access keys of a user, or (an empty name) of root.
pub fn access_keys_of(tx: &dyn ReadTx, account: &AccountId, owner: &str) -> Result<Vec<String>> {
    let prefix = owner_prefix(account, owner);
    let rows = under(tx, OWNER_KEYS, &prefix, None, usize::MAX)?;
    rows.iter().map(|(key, _)| tail(key, prefix.len())).collect()
}

/// An access key.
pub fn access_key(tx: &dyn ReadTx, id: &str) -> Result<Option<AccessKeyRow>> {
    tx.get(ACCESS_KEYS, id.as_bytes())?.map(|row| decode("an access key", &row)).transpose()
}

/// Is there an access key, of whichever account?
pub fn any_access_key(tx: &dyn ReadTx) -> Result<bool> {
    Ok(!under(tx, ACCESS_KEYS, &[], None, 1)?.is_empty())
}

/// Writes one that is there.
pub fn put_access_key(tx: &mut dyn WriteTx, id: &str, row: &AccessKeyRow) -> Result<()> {
    Ok(tx.put(ACCESS_KEYS, id.as_bytes(), &encode(row)?)?)
}

fn parts<'a>(account: &'a str, id: &'a str) -> [&'a [u8]; 2] {
    [account.as_bytes(), id.as_bytes()]
}

/// Makes an access key for a user that is there, or (None) for root.
///
/// # Errors
/// [`DirectoryError::LimitExceeded`]: there are two.
pub fn create_access_key(
    tx: &mut dyn WriteTx,
    root: &[u8; 32],
    account: &AccountId,
    user: Option<&str>,
    now: i64,
) -> Result<NewAccessKey> {
    let owner = user.unwrap_or("");
    if access_keys_of(tx, account, owner)?.len() >= MOST_KEYS {
        let message = format!("Cannot exceed quota for AccessKeysPerUser: {MOST_KEYS}");
        return Err(DirectoryError::LimitExceeded(message));
    }
    let (id, secret) = (unique_id(Unique::AccessKey)?, new_secret()?);
    let sealed = sealed::seal(root, labels::IAM_SECRET, &parts(account.as_str(), &id), secret.expose())?;
    let row = AccessKeyRow {
        account: account.to_string(),
        user: user.map(str::to_owned),
        created: now,
        active: true,
        sealed,
    };
    put_access_key(tx, &id, &row)?;
    tx.put(OWNER_KEYS, &[&owner_prefix(account, owner)[..], id.as_bytes()].concat(), b"")?;
    Ok(NewAccessKey { id, secret, row })
}

/// Removes an access key.
pub fn delete_access_key(tx: &mut dyn WriteTx, id: &str, row: &AccessKeyRow) -> Result<()> {
    let account: AccountId = row.account.parse().map_err(|_| DirectoryError::Damaged("an access key"))?;
    let owner = row.user.as_deref().unwrap_or("");
    tx.delete(OWNER_KEYS, &[&owner_prefix(&account, owner)[..], id.as_bytes()].concat())?;
    tx.delete(ACCESS_KEYS, id.as_bytes())?;
    Ok(())
}

/// The secret of an access key.
pub fn open_secret(root: &[u8; 32], id: &str, row: &AccessKeyRow) -> Result<SecretVec> {
    sealed::open(root, labels::IAM_SECRET, &parts(&row.account, id), &row.sealed)
        .map_err(|_| DirectoryError::Damaged("the secret of an access key does not authenticate"))
}
