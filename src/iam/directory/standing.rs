//! What somebody has by being who they are: all policies that are theirs, read, and what conditions ask of them.

use super::entities::{EntityRow, Kind, find_entity};
use super::policies::default_document;
use super::{DirectoryError, Result};
use crate::iam::principal::last;
use crate::iam::{AccountId, Policy, PolicyKind, Principal};
use crate::store::ReadTx;

/// A policy under the name that decisions call it by.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedPolicy {
    /// ARN of a managed policy, or whose own it is.
    pub name: String,
    /// What it says.
    pub policy: Policy,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// AIDA... or AROA...
    pub id: String,
    /// Path and name, without the first slash.
    pub full_name: String,
    /// Its own, its groups', and those attached to either.
    pub policies: Vec<NamedPolicy>,
    /// The most that they can give.
    pub boundary: Option<NamedPolicy>,
    /// Its labels.
    pub tags: Vec<(String, String)>,
}

fn read(kind: PolicyKind, name: String, text: &str) -> Result<NamedPolicy> {
    let policy = Policy::parse(kind, text).map_err(|_| DirectoryError::Damaged("a policy's document"))?;
    Ok(NamedPolicy { name, policy })
}

fn managed(tx: &dyn ReadTx, account: &AccountId, arn: &str) -> Result<NamedPolicy> {
    let text =
        default_document(tx, account, arn)?.ok_or(DirectoryError::Damaged("an attached policy is gone"))?;
    read(PolicyKind::Managed, arn.to_owned(), &text)
}

fn collect(
    tx: &dyn ReadTx,
    kind: Kind,
    account: &AccountId,
    row: &EntityRow,
    into: &mut Vec<NamedPolicy>,
) -> Result<()> {
    let policy_kind = match kind {
        Kind::User => PolicyKind::User,
        Kind::Group => PolicyKind::Group,
        Kind::Role => PolicyKind::Role,
    };
    for (name, text) in &row.inline {
        into.push(read(policy_kind, format!("{name} of the {} {}", kind.name(), row.name), text)?);
    }
    for arn in &row.attached {
        into.push(managed(tx, account, arn)?);
    }
    Ok(())
}

/// The standing of a user, a role, or the role of a session; None if there is no such one. Root and services have
/// none: they need none.
pub fn standing(tx: &dyn ReadTx, principal: &Principal) -> Result<Option<Standing>> {
    let (kind, account, name) = match principal {
        Principal::User { account, name } => (Kind::User, account, name),
        Principal::Role { account, name } => (Kind::Role, account, name),
        Principal::Session { account, role, .. } => (Kind::Role, account, role),
        Principal::Root(_) | Principal::Service { .. } => return Ok(None),
    };
    let Some(row) = find_entity(tx, kind, account, last(name))? else { return Ok(None) };
    let full_name = row.full_name();
    // A session's ARN has no path of its role.
    let pathless = matches!(principal, Principal::Session { .. }) && !name.contains('/');
    if full_name != *name && !pathless {
        return Ok(None);
    }
    let mut policies = Vec::new();
    collect(tx, kind, account, &row, &mut policies)?;
    for group in &row.groups {
        let group = find_entity(tx, Kind::Group, account, group)?;
        let group = group.ok_or(DirectoryError::Damaged("a user's group is gone"))?;
        collect(tx, Kind::Group, account, &group, &mut policies)?;
    }
    let boundary = row.boundary.as_deref().map(|arn| managed(tx, account, arn)).transpose()?;
    Ok(Some(Standing { id: row.id, full_name, policies, boundary, tags: row.tags }))
}
