//! The policies that users, groups and roles have: their own, managed ones attached to them, and the boundary.

use super::entities::{Kind, entity, put_entity};
use super::policies::attachable;
use super::{DirectoryError, Result, tail, under};
use crate::iam::{AccountId, IamError, Policy, PolicyKind};
use crate::store::{ReadTx, WriteTx};

const ATTACHMENTS: &str = "attachments";
/// Managed policies that one may have.
const MOST_ATTACHED: usize = 10;

/// What a managed policy is to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It gives permissions.
    Permissions,
    /// It limits them.
    Boundary,
}

impl Usage {
    fn byte(self) -> u8 {
        match self {
            Self::Permissions => b'p',
            Self::Boundary => b'b',
        }
    }
}

fn usage_prefix(account: &AccountId, arn: &str, usage: Usage) -> Vec<u8> {
    [account.as_str().as_bytes(), arn.as_bytes(), &[0, usage.byte()]].concat()
}

fn usage_key(account: &AccountId, arn: &str, usage: Usage, kind: Kind, name: &str) -> Vec<u8> {
    let name = name.to_ascii_lowercase();
    [&usage_prefix(account, arn, usage)[..], &[kind.byte()], name.as_bytes()].concat()
}

/// Who of an account has a policy: kinds, and names in lower case.
pub fn attached_to(
    tx: &dyn ReadTx,
    account: &AccountId,
    arn: &str,
    usage: Usage,
) -> Result<Vec<(Kind, String)>> {
    let prefix = usage_prefix(account, arn, usage);
    let mut found = Vec::new();
    for (key, _) in under(tx, ATTACHMENTS, &prefix, None, usize::MAX)? {
        let kind = key.get(prefix.len()).and_then(|byte| Kind::from_byte(*byte));
        found.push((kind.ok_or(DirectoryError::Damaged("an attachment"))?, tail(&key, prefix.len() + 1)?));
    }
    Ok(found)
}

/// How many of an account have a policy.
pub fn attachments(tx: &dyn ReadTx, account: &AccountId, arn: &str, usage: Usage) -> Result<usize> {
    Ok(under(tx, ATTACHMENTS, &usage_prefix(account, arn, usage), None, usize::MAX)?.len())
}

pub(super) fn note_boundary(
    tx: &mut dyn WriteTx,
    kind: Kind,
    account: &AccountId,
    name: &str,
    arn: &str,
) -> Result<()> {
    attachable(tx, account, arn)?;
    Ok(tx.put(ATTACHMENTS, &usage_key(account, arn, Usage::Boundary, kind, name), b"")?)
}

pub(super) fn forget_boundary(
    tx: &mut dyn WriteTx,
    kind: Kind,
    account: &AccountId,
    name: &str,
    arn: &str,
) -> Result<()> {
    tx.delete(ATTACHMENTS, &usage_key(account, arn, Usage::Boundary, kind, name))?;
    Ok(())
}

/// Sets the boundary of a user or role, or takes it away.
///
/// # Errors
/// [`DirectoryError::NoSuchEntity`]: the user or role, the policy, or the boundary that is to be taken away.
pub fn set_boundary(
    tx: &mut dyn WriteTx,
    kind: Kind,
    account: &AccountId,
    name: &str,
    arn: Option<&str>,
) -> Result<()> {
    let mut row = entity(tx, kind, account, name)?;
    match &row.boundary {
        Some(before) => forget_boundary(tx, kind, account, name, before)?,
        None if arn.is_none() => {
            let message = format!("The {} with name {name} has no permissions boundary.", kind.name());
            return Err(DirectoryError::NoSuchEntity(message));
        }
        None => {}
    }
    if let Some(arn) = arn {
        note_boundary(tx, kind, account, name, arn)?;
    }
    row.boundary = arn.map(str::to_owned);
    put_entity(tx, kind, account, &row)
}

/// Attaches a managed policy; no harm if it is attached already.
pub fn attach(tx: &mut dyn WriteTx, kind: Kind, account: &AccountId, name: &str, arn: &str) -> Result<()> {
    let mut row = entity(tx, kind, account, name)?;
    attachable(tx, account, arn)?;
    if row.attached.iter().any(|there| there == arn) {
        return Ok(());
    }
    if row.attached.len() >= MOST_ATTACHED {
        let title = match kind {
            Kind::User => "User",
            Kind::Group => "Group",
            Kind::Role => "Role",
        };
        let message = format!("Cannot exceed quota for PoliciesPer{title}: {MOST_ATTACHED}");
        return Err(DirectoryError::LimitExceeded(message));
    }
    row.attached.push(arn.to_owned());
    put_entity(tx, kind, account, &row)?;
    Ok(tx.put(ATTACHMENTS, &usage_key(account, arn, Usage::Permissions, kind, name), b"")?)
}

/// Detaches a managed policy.
///
/// # Errors
/// [`DirectoryError::NoSuchEntity`], also where it is not attached.
pub fn detach(tx: &mut dyn WriteTx, kind: Kind, account: &AccountId, name: &str, arn: &str) -> Result<()> {
    let mut row = entity(tx, kind, account, name)?;
    let Some(at) = row.attached.iter().position(|there| there == arn) else {
        return Err(DirectoryError::NoSuchEntity(format!("Policy {arn} was not found.")));
    };
    row.attached.remove(at);
    put_entity(tx, kind, account, &row)?;
    tx.delete(ATTACHMENTS, &usage_key(account, arn, Usage::Permissions, kind, name))?;
    Ok(())
}

fn policy_kind(kind: Kind) -> PolicyKind {
    match kind {
        Kind::User => PolicyKind::User,
        Kind::Group => PolicyKind::Group,
        Kind::Role => PolicyKind::Role,
    }
}

/// Reads a document that is to be kept.
pub(super) fn checked(kind: PolicyKind, text: &str, what: &str) -> Result<()> {
    match Policy::parse(kind, text) {
        Ok(_) => Ok(()),
        Err(IamError::PolicyLength(most)) => {
            let message = format!("Maximum policy size of {most} bytes exceeded for {what}");
            Err(DirectoryError::LimitExceeded(message))
        }
        Err(error) => Err(DirectoryError::MalformedPolicy(error.to_string())),
    }
}

/// Sets one of somebody's own policies. All of one together are limited as one is.
pub fn put_inline(
    tx: &mut dyn WriteTx,
    kind: Kind,
    account: &AccountId,
    name: &str,
    policy: &str,
    document: &str,
) -> Result<()> {
    let mut row = entity(tx, kind, account, name)?;
    let what = format!("{} {name}", kind.name());
    checked(policy_kind(kind), document, &what)?;
    row.inline.retain(|(there, _)| there != policy);
    row.inline.push((policy.to_owned(), document.to_owned()));
    row.inline.sort();
    let counted = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let (all, most) =
        (row.inline.iter().map(|(_, text)| counted(text)).sum::<usize>(), policy_kind(kind).limit());
    if all > most {
        let message = format!("Maximum policy size of {most} bytes exceeded for {what}");
        return Err(DirectoryError::LimitExceeded(message));
    }
    put_entity(tx, kind, account, &row)
}

fn no_inline(kind: Kind, policy: &str) -> DirectoryError {
    DirectoryError::NoSuchEntity(format!("The {} policy with name {policy} cannot be found.", kind.name()))
}

/// The document of one of somebody's own policies.
pub fn inline(tx: &dyn ReadTx, kind: Kind, account: &AccountId, name: &str, policy: &str) -> Result<String> {
    let row = entity(tx, kind, account, name)?;
    let found = row.inline.into_iter().find(|(there, _)| there == policy);
    found.map(|(_, document)| document).ok_or_else(|| no_inline(kind, policy))
}

/// Removes one of somebody's own policies.
pub fn delete_inline(
    tx: &mut dyn WriteTx,
    kind: Kind,
    account: &AccountId,
    name: &str,
    policy: &str,
) -> Result<()> {
    let mut row = entity(tx, kind, account, name)?;
    let before = row.inline.len();
    row.inline.retain(|(there, _)| there != policy);
    if row.inline.len() == before {
        return Err(no_inline(kind, policy));
    }
    put_entity(tx, kind, account, &row)
}
