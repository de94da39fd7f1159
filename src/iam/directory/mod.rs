//! Who there is: users, groups and roles, what policies they have, and their access keys. Rows of one store for all
//! regions, and pure functions over its transactions; who may change them is decided above.
//!
//! Collections (names in keys in lower case: two that differ only in case are one):
//! - `entities`: kind 1 | account 12 | name -> EntityRow; `counts`: kind 1 | account 12 -> 8
//! - `members`: account 12 | group | 0 | user -> nothing
//! - `policies`: account 12 | name -> PolicyRow (kind `p` in `counts`)
//! - `attachments`: account 12 | policy ARN | 0 | `p` or `b` (boundary) | kind 1 | name -> nothing
//! - `access-keys`: key id -> AccessKeyRow; `owner-keys`: account 12 | user (nothing: root) | 0 | key id -> nothing
//! - `accounts`: account 12 -> its alias; `account-aliases`: alias -> account
//!
//! Rows are a version byte and postcard. Times are milliseconds since 1970.

mod access_keys;
mod entities;
mod held;
mod ids;
mod policies;
mod provided;
mod sealed;
mod standing;
#[cfg(test)]
mod tests;

use std::ops::Bound;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use access_keys::{
    AccessKeyRow, NewAccessKey, access_key, access_keys_of, any_access_key, create_access_key,
    delete_access_key, open_secret, put_access_key,
};
pub use entities::{
    EntityRow, Kind, RoleRow, account_alias, accounts, add_member, any_user, create_entity, delete_entity,
    entities, entity, entity_any_case, entity_count, find_entity, knows_account, members, put_entity,
    remove_member, set_account_alias,
};
pub use held::{
    Usage, attach, attached_to, attachments, delete_inline, detach, inline, put_inline, set_boundary,
};
pub use ids::{Unique, new_secret, unique_id};
pub use policies::{
    PolicyRow, create_policy, create_version, default_document, delete_policy, delete_version, find_policy,
    policies, policy, policy_arn, policy_count, set_default_version,
};
pub use provided::provided;
pub use sealed::{open, seal};
pub use standing::{NamedPolicy, Standing, standing};

use super::AccountId;
use crate::crypto::CryptoError;
use crate::store::{Item, ReadTx, StoreError, prefix_end};

/// Why something of the directory cannot be had or changed, under AWS's names and mostly in AWS's words.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// NoSuchEntity.
    #[error("{0}")]
    NoSuchEntity(String),
    /// EntityAlreadyExists.
    #[error("{0}")]
    EntityAlreadyExists(String),
    /// DeleteConflict.
    #[error("{0}")]
    DeleteConflict(String),
    /// LimitExceeded.
    #[error("{0}")]
    LimitExceeded(String),
    /// MalformedPolicyDocument.
    #[error("{0}")]
    MalformedPolicy(String),
    /// InvalidInput.
    #[error("{0}")]
    InvalidInput(String),
    /// A row that cannot be read.
    #[error("the store of identities is damaged ({0}); restore it from a backup")]
    Damaged(&'static str),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Cryptography.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, DirectoryError>;

const ROW_VERSION: u8 = 1;

fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>> {
    postcard::to_extend(row, vec![ROW_VERSION])
        .map_err(|_| DirectoryError::Damaged("a row cannot be written"))
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&ROW_VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| DirectoryError::Damaged(what)),
        _ => Err(DirectoryError::Damaged(what)),
    }
}

/// Account and name, as keys of collections have them.
fn named(account: &AccountId, name: &str) -> Vec<u8> {
    [account.as_str().as_bytes(), name.to_ascii_lowercase().as_bytes()].concat()
}

/// Up to `limit` items under a prefix, behind `after`.
fn under(
    tx: &dyn ReadTx,
    collection: &str,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Item>> {
    let end = prefix_end(prefix);
    let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let behind = after.map(|a| [prefix, a].concat());
    let from = behind.as_deref().map_or(Bound::Included(prefix), Bound::Excluded);
    Ok(tx.range(collection, from, to, false, limit)?)
}

/// What stands behind a prefix in a key, as text.
fn tail(key: &[u8], skip: usize) -> Result<String> {
    let text = key.get(skip..).and_then(|rest| std::str::from_utf8(rest).ok());
    text.map(str::to_owned).ok_or(DirectoryError::Damaged("a name"))
}
