//! Managed policies and their versions.

use serde::{Deserialize, Serialize};

use super::entities::{add, count, remove};
use super::held::{Usage, attachments, checked};
use super::{DirectoryError, Result, decode, encode, named, provided, under};
use crate::iam::{AccountId, PolicyKind};
use crate::store::{ReadTx, WriteTx};

const POLICIES: &str = "policies";
/// In `counts`.
const KIND: u8 = b'p';
/// Managed policies that an account may have of its own.
const MOST_POLICIES: u64 = 1500;
/// Versions that a policy may have.
const MOST_VERSIONS: usize = 5;
/// Rows that a list reads at once.
const PAGE: usize = 200;

/// A managed policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// As it was given.
    pub name: String,
    /// `/` or `/a/b/`.
    pub path: String,
    /// ANPA...
    pub id: String,
    /// When it was made.
    pub created: i64,
    /// When its versions last changed.
    pub updated: i64,
    /// Free text.
    pub description: Option<String>,
    /// Labels.
    pub tags: Vec<(String, String)>,
    /// The number of the version that counts.
    pub default: u32,
    /// The number of the next version.
    pub next: u32,
    /// Number, when it was made, and document, the oldest first.
    pub versions: Vec<(u32, i64, String)>,
}

impl PolicyRow {
    /// The document that counts.
    pub fn document(&self) -> Result<&str> {
        self.version(self.default).ok_or(DirectoryError::Damaged("a policy without its default version"))
    }

    /// A version's document.
    pub fn version(&self, number: u32) -> Option<&str> {
        self.versions.iter().find(|(there, ..)| *there == number).map(|(.., text)| text.as_str())
    }
}

/// The ARN of a policy; `aws` for an account's where AWS provides it.
pub fn policy_arn(owner: &str, row: &PolicyRow) -> String {
    format!("arn:aws:iam::{owner}:policy{}{}", row.path, row.name)
}

/// Owner (an account, or `aws`), path and name of a policy's ARN. Of one policy there is one ARN: statements name it by
/// that, and another spelling would go past them.
fn parts(arn: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", "aws", "iam", "", owner, resource] = parts[..] else { return None };
    let rest = resource.strip_prefix("policy")?;
    let (path, name) = rest.split_at(rest.rfind('/')? + 1);
    (!name.is_empty() && path.starts_with('/')).then_some((owner, path, name))
}

/// The policy of an ARN, of this account or provided by AWS. Another account's is not to be seen.
pub fn find_policy(tx: &dyn ReadTx, account: &AccountId, arn: &str) -> Result<Option<PolicyRow>> {
    let Some((owner, path, name)) = parts(arn) else { return Ok(None) };
    if owner == "aws" {
        return Ok(provided().iter().find(|row| policy_arn("aws", row) == arn).cloned());
    }
    if owner != account.as_str() {
        return Ok(None);
    }
    let Some(row) = tx.get(POLICIES, &named(account, name))? else { return Ok(None) };
    let row: PolicyRow = decode("a policy", &row)?;
    Ok(Some(row).filter(|row| row.name == name && row.path == path))
}

/// One that must be there.
///
/// # Errors
/// [`DirectoryError::InvalidInput`] for what is no ARN of a policy, [`DirectoryError::NoSuchEntity`].
pub fn policy(tx: &dyn ReadTx, account: &AccountId, arn: &str) -> Result<PolicyRow> {
    if parts(arn).is_none() {
        return Err(DirectoryError::InvalidInput(format!("ARN {arn} is not valid.")));
    }
    let missing = || DirectoryError::NoSuchEntity(format!("Policy {arn} was not found."));
    find_policy(tx, account, arn)?.ok_or_else(missing)
}

pub(super) fn attachable(tx: &dyn ReadTx, account: &AccountId, arn: &str) -> Result<()> {
    if parts(arn).is_none() {
        return Err(DirectoryError::InvalidInput(format!("ARN {arn} is not valid.")));
    }
    match find_policy(tx, account, arn)? {
        Some(_) => Ok(()),
        None => {
            let message = format!("Policy {arn} does not exist or is not attachable.");
            Err(DirectoryError::NoSuchEntity(message))
        }
    }
}

/// The document of a policy that counts; None if the policy is not there.
pub fn default_document(tx: &dyn ReadTx, account: &AccountId, arn: &str) -> Result<Option<String>> {
    find_policy(tx, account, arn)?.map(|row| Ok(row.document()?.to_owned())).transpose()
}

fn put(tx: &mut dyn WriteTx, account: &AccountId, row: &PolicyRow) -> Result<()> {
    Ok(tx.put(POLICIES, &named(account, &row.name), &encode(row)?)?)
}

/// An own policy's row; those that AWS provides are not to be changed.
fn own(tx: &dyn ReadTx, account: &AccountId, arn: &str) -> Result<PolicyRow> {
    let row = policy(tx, account, arn)?;
    if parts(arn).is_some_and(|(owner, ..)| owner == account.as_str()) {
        Ok(row)
    } else {
        Err(DirectoryError::InvalidInput(format!("Policy {arn} is AWS's own and cannot be changed.")))
    }
}

/// Makes a policy, with the one version that it has.
///
/// # Errors
/// [`DirectoryError::EntityAlreadyExists`], [`DirectoryError::MalformedPolicy`], [`DirectoryError::LimitExceeded`].
pub fn create_policy(tx: &mut dyn WriteTx, account: &AccountId, row: &PolicyRow) -> Result<()> {
    if tx.get(POLICIES, &named(account, &row.name))?.is_some() {
        let message =
            format!("A policy called {} already exists. Duplicate names are not allowed.", row.name);
        return Err(DirectoryError::EntityAlreadyExists(message));
    }
    checked(PolicyKind::Managed, row.document()?, &format!("policy {}", row.name))?;
    add(tx, KIND, account, MOST_POLICIES, "PoliciesPerAccount")?;
    put(tx, account, row)
}

/// Makes a further version; its number.
pub fn create_version(
    tx: &mut dyn WriteTx,
    account: &AccountId,
    arn: &str,
    document: &str,
    set_default: bool,
    now: i64,
) -> Result<PolicyRow> {
    let mut row = own(tx, account, arn)?;
    checked(PolicyKind::Managed, document, &format!("policy {}", row.name))?;
    if row.versions.len() >= MOST_VERSIONS {
        let message = format!(
            "A managed policy can have up to {MOST_VERSIONS} versions. Before you create a new version, you must delete \
             an existing version."
        );
        return Err(DirectoryError::LimitExceeded(message));
    }
    let number = row.next;
    row.versions.push((number, now, document.to_owned()));
    row.next += 1;
    row.updated = now;
    if set_default {
        row.default = number;
    }
    put(tx, account, &row)?;
    Ok(row)
}

fn no_version(arn: &str, number: u32) -> DirectoryError {
    DirectoryError::NoSuchEntity(format!(
        "Policy {arn} version v{number} does not exist or is not attachable."
    ))
}

/// Makes a version the one that counts.
pub fn set_default_version(
    tx: &mut dyn WriteTx,
    account: &AccountId,
    arn: &str,
    number: u32,
    now: i64,
) -> Result<()> {
    let mut row = own(tx, account, arn)?;
    if row.version(number).is_none() {
        return Err(no_version(arn, number));
    }
    (row.default, row.updated) = (number, now);
    put(tx, account, &row)
}

/// Removes a version that does not count.
pub fn delete_version(tx: &mut dyn WriteTx, account: &AccountId, arn: &str, number: u32) -> Result<()> {
    let mut row = own(tx, account, arn)?;
    if row.version(number).is_none() {
        return Err(no_version(arn, number));
    }
    if row.default == number {
        let message = "Cannot delete the default version of a policy.";
        return Err(DirectoryError::DeleteConflict(message.to_owned()));
    }
    row.versions.retain(|(there, ..)| *there != number);
    put(tx, account, &row)
}

/// Removes a policy that nobody has and that has one version.
pub fn delete_policy(tx: &mut dyn WriteTx, account: &AccountId, arn: &str) -> Result<()> {
    let row = own(tx, account, arn)?;
    let conflict = |message: &str| Err(DirectoryError::DeleteConflict(message.to_owned()));
    for usage in [Usage::Permissions, Usage::Boundary] {
        if attachments(tx, account, arn, usage)? > 0 {
            return conflict("Cannot delete a policy attached to entities.");
        }
    }
    if row.versions.len() > 1 {
        return conflict(
            "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. \
             The default version is deleted with the policy.",
        );
    }
    remove(tx, KIND, account)?;
    tx.delete(POLICIES, &named(account, &row.name))?;
    Ok(())
}

/// How many policies of its own an account has.
pub fn policy_count(tx: &dyn ReadTx, account: &AccountId) -> Result<u64> {
    count(tx, KIND, account)
}

/// Up to `limit` of an account's own policies under a path prefix, by name, behind the name `after`.
pub fn policies(
    tx: &dyn ReadTx,
    account: &AccountId,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<PolicyRow>> {
    let start = account.as_str().as_bytes();
    let mut after = after.map(|name| name.to_ascii_lowercase().into_bytes());
    let mut found = Vec::new();
    loop {
        let rows = under(tx, POLICIES, start, after.as_deref(), PAGE)?;
        let whole = rows.len() == PAGE;
        after = rows.last().map(|(key, _)| key[start.len()..].to_vec());
        for (_, row) in rows {
            let row: PolicyRow = decode("a policy", &row)?;
            if row.path.starts_with(prefix) {
                found.push(row);
            }
            if found.len() == limit {
                return Ok(found);
            }
        }
        if !whole {
            return Ok(found);
        }
    }
}
