//! Users, groups and roles.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{DirectoryError, Result, access_keys_of, decode, encode, held, named, tail, under};
use crate::iam::AccountId;
use crate::store::{ReadTx, WriteTx};

const ENTITIES: &str = "entities";
const COUNTS: &str = "counts";
const MEMBERS: &str = "members";
const ACCOUNTS: &str = "accounts";
const ACCOUNT_ALIASES: &str = "account-aliases";
/// Groups that a user may be in.
const MOST_GROUPS: usize = 10;
/// Rows that a list reads at once.
const PAGE: usize = 200;

/// What can have policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Somebody.
    User,
    /// Several users.
    Group,
    /// To be assumed.
    Role,
}

impl Kind {
    /// As messages and ARNs have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Role => "role",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
            Self::Role => "Role",
        }
    }

    pub(super) fn byte(self) -> u8 {
        match self {
            Self::User => b'u',
            Self::Group => b'g',
            Self::Role => b'r',
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::User, Self::Group, Self::Role].into_iter().find(|kind| kind.byte() == byte)
    }

    /// AWS's quota for one account, with its name.
    fn quota(self) -> (u64, &'static str) {
        match self {
            Self::User => (5000, "UsersPerAccount"),
            Self::Group => (300, "GroupsPerAccount"),
            Self::Role => (1000, "RolesPerAccount"),
        }
    }
}

/// A user, group or role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityRow {
    /// As it was given.
    pub name: String,
    /// `/` or `/a/b/`.
    pub path: String,
    /// AIDA..., AGPA... or AROA...
    pub id: String,
    /// When it was made.
    pub created: i64,
    /// Of users and roles.
    pub tags: Vec<(String, String)>,
    /// ARN of the policy that limits it; of users and roles.
    pub boundary: Option<String>,
    /// ARNs of managed policies.
    pub attached: Vec<String>,
    /// Names and documents of its own policies.
    pub inline: Vec<(String, String)>,
    /// Names of a user's groups.
    pub groups: Vec<String>,
    /// What only roles have.
    pub role: Option<RoleRow>,
}

/// What only roles have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRow {
    /// Who may assume it.
    pub trust: String,
    /// Free text.
    pub description: Option<String>,
    /// Seconds that a session of it may last: 3600 to 43200.
    pub max_session: u32,
}

impl EntityRow {
    /// Path and name without the first slash, as a principal has it.
    pub fn full_name(&self) -> String {
        format!("{}{}", &self.path[1..], self.name)
    }

    /// Its ARN.
    pub fn arn(&self, kind: Kind, account: &AccountId) -> String {
        format!("arn:aws:iam::{account}:{}{}{}", kind.name(), self.path, self.name)
    }
}

fn key(kind: Kind, account: &AccountId, name: &str) -> Vec<u8> {
    [&[kind.byte()], &named(account, name)[..]].concat()
}

fn missing(kind: Kind, name: &str) -> DirectoryError {
    DirectoryError::NoSuchEntity(format!("The {} with name {name} cannot be found.", kind.name()))
}

/// One of this name, written with the same case.
pub fn find_entity(
    tx: &dyn ReadTx,
    kind: Kind,
    account: &AccountId,
    name: &str,
) -> Result<Option<EntityRow>> {
    let Some(row) = tx.get(ENTITIES, &key(kind, account, name))? else { return Ok(None) };
    let row: EntityRow = decode("an entity", &row)?;
    Ok(Some(row).filter(|row| row.name == name))
}

/// One that is named in an index, where names are in lower case.
pub fn entity_any_case(tx: &dyn ReadTx, kind: Kind, account: &AccountId, name: &str) -> Result<EntityRow> {
    let row = tx.get(ENTITIES, &key(kind, account, name))?;
    decode("an entity", &row.ok_or(DirectoryError::Damaged("an index names nobody"))?)
}

/// One that must be there.
///
/// # Errors
/// [`DirectoryError::NoSuchEntity`].
pub fn entity(tx: &dyn ReadTx, kind: Kind, account: &AccountId, name: &str) -> Result<EntityRow> {
    find_entity(tx, kind, account, name)?.ok_or_else(|| missing(kind, name))
}

/// Writes one that is there.
pub fn put_entity(tx: &mut dyn WriteTx, kind: Kind, account: &AccountId, row: &EntityRow) -> Result<()> {
    Ok(tx.put(ENTITIES, &key(kind, account, &row.name), &encode(row)?)?)
}

/// Makes one.
///
/// # Errors
/// [`DirectoryError::EntityAlreadyExists`], also where only the case differs; [`DirectoryError::LimitExceeded`].
pub fn create_entity(tx: &mut dyn WriteTx, kind: Kind, account: &AccountId, row: &EntityRow) -> Result<()> {
    if tx.get(ENTITIES, &key(kind, account, &row.name))?.is_some() {
        let message = format!("{} with name {} already exists.", kind.title(), row.name);
        return Err(DirectoryError::EntityAlreadyExists(message));
    }
    let (most, quota) = kind.quota();
    add(tx, kind.byte(), account, most, quota)?;
    put_entity(tx, kind, account, row)?;
    match &row.boundary {
        Some(arn) => held::note_boundary(tx, kind, account, &row.name, arn),
        None => Ok(()),
    }
}

/// Removes one that has nothing any more.
///
/// # Errors
/// [`DirectoryError::NoSuchEntity`], [`DirectoryError::DeleteConflict`] with what must go first.
pub fn delete_entity(tx: &mut dyn WriteTx, kind: Kind, account: &AccountId, name: &str) -> Result<()> {
    let row = entity(tx, kind, account, name)?;
    let conflict =
        |what: &str| Err(DirectoryError::DeleteConflict(format!("Cannot delete entity, must {what} first.")));
    if kind == Kind::User && !access_keys_of(tx, account, name)?.is_empty() {
        return conflict("delete access keys");
    }
    if !row.groups.is_empty() || kind == Kind::Group && !members(tx, account, name, None, 1)?.is_empty() {
        return conflict("remove users from group");
    }
    if !row.attached.is_empty() {
        return conflict("detach all policies");
    }
    if !row.inline.is_empty() {
        return conflict("delete policies");
    }
    if let Some(arn) = &row.boundary {
        held::forget_boundary(tx, kind, account, name, arn)?;
    }
    remove(tx, kind.byte(), account)?;
    tx.delete(ENTITIES, &key(kind, account, name))?;
    Ok(())
}

/// Up to `limit` under a path prefix, by name, behind the name `after`.
pub fn entities(
    tx: &dyn ReadTx,
    kind: Kind,
    account: &AccountId,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<EntityRow>> {
    let start = key(kind, account, "");
    let mut after = after.map(|name| name.to_ascii_lowercase().into_bytes());
    let mut found = Vec::new();
    loop {
        let rows = under(tx, ENTITIES, &start, after.as_deref(), PAGE)?;
        let whole = rows.len() == PAGE;
        after = rows.last().map(|(key, _)| key[start.len()..].to_vec());
        for (_, row) in rows {
            let row: EntityRow = decode("an entity", &row)?;
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

/// How many of a kind an account has.
pub fn entity_count(tx: &dyn ReadTx, kind: Kind, account: &AccountId) -> Result<u64> {
    count(tx, kind.byte(), account)
}

/// How many of what this byte stands for an account has.
pub(super) fn count(tx: &dyn ReadTx, kind: u8, account: &AccountId) -> Result<u64> {
    let row = tx.get(COUNTS, &[&[kind], account.as_str().as_bytes()].concat())?;
    Ok(row.and_then(|r| r.try_into().ok()).map_or(0, u64::from_be_bytes))
}

pub(super) fn add(tx: &mut dyn WriteTx, kind: u8, account: &AccountId, most: u64, quota: &str) -> Result<()> {
    let now = count(tx, kind, account)?;
    if now >= most {
        return Err(DirectoryError::LimitExceeded(format!("Cannot exceed quota for {quota}: {most}")));
    }
    set_count(tx, kind, account, now + 1)
}

pub(super) fn remove(tx: &mut dyn WriteTx, kind: u8, account: &AccountId) -> Result<()> {
    let now = count(tx, kind, account)?;
    set_count(tx, kind, account, now.saturating_sub(1))
}

fn set_count(tx: &mut dyn WriteTx, kind: u8, account: &AccountId, number: u64) -> Result<()> {
    Ok(tx.put(COUNTS, &[&[kind], account.as_str().as_bytes()].concat(), &number.to_be_bytes())?)
}

/// Are there users or roles of this account here? If not, whom it has is unknown.
pub fn knows_account(tx: &dyn ReadTx, account: &AccountId) -> Result<bool> {
    Ok(count(tx, Kind::User.byte(), account)? > 0 || count(tx, Kind::Role.byte(), account)? > 0)
}

/// Is there a user, of whichever account?
pub fn any_user(tx: &dyn ReadTx) -> Result<bool> {
    Ok(!under(tx, ENTITIES, &[Kind::User.byte()], None, 1)?.is_empty())
}

/// Accounts that have users, groups, roles, policies or an alias.
pub fn accounts(tx: &dyn ReadTx) -> Result<BTreeSet<AccountId>> {
    let account = |bytes: Option<&[u8]>| {
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.and_then(|text| text.parse().ok()).ok_or(DirectoryError::Damaged("an account"))
    };
    let all = |collection| tx.range(collection, Bound::Unbounded, Bound::Unbounded, false, usize::MAX);
    let mut found = BTreeSet::new();
    for (key, number) in all(COUNTS)? {
        if number.iter().any(|byte| *byte > 0) {
            found.insert(account(key.get(1..))?);
        }
    }
    for (key, _) in all(ACCOUNTS)? {
        found.insert(account(Some(&key))?);
    }
    Ok(found)
}

fn member_prefix(account: &AccountId, group: &str) -> Vec<u8> {
    [&named(account, group)[..], &[0]].concat()
}

/// Up to `limit` users of a group, by name, behind the name `after`.
pub fn members(
    tx: &dyn ReadTx,
    account: &AccountId,
    group: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<EntityRow>> {
    let prefix = member_prefix(account, group);
    let after = after.map(str::to_ascii_lowercase);
    let rows = under(tx, MEMBERS, &prefix, after.as_deref().map(str::as_bytes), limit)?;
    let row = |name: String| -> Result<EntityRow> {
        let row = tx.get(ENTITIES, &key(Kind::User, account, &name))?;
        decode("a member", &row.ok_or(DirectoryError::Damaged("a member"))?)
    };
    rows.iter().map(|(key, _)| row(tail(key, prefix.len())?)).collect()
}

/// Puts a user into a group; no harm if the user is there already.
pub fn add_member(tx: &mut dyn WriteTx, account: &AccountId, group: &str, user: &str) -> Result<()> {
    let group = entity(tx, Kind::Group, account, group)?;
    let mut row = entity(tx, Kind::User, account, user)?;
    if row.groups.contains(&group.name) {
        return Ok(());
    }
    if row.groups.len() >= MOST_GROUPS {
        return Err(DirectoryError::LimitExceeded(format!(
            "Cannot exceed quota for GroupsPerUser: {MOST_GROUPS}"
        )));
    }
    row.groups.push(group.name.clone());
    row.groups.sort();
    put_entity(tx, Kind::User, account, &row)?;
    let member = [member_prefix(account, &group.name), user.to_ascii_lowercase().into_bytes()].concat();
    Ok(tx.put(MEMBERS, &member, b"")?)
}

/// Takes a user out of a group.
///
/// # Errors
/// [`DirectoryError::NoSuchEntity`], also where the user is not in the group.
pub fn remove_member(tx: &mut dyn WriteTx, account: &AccountId, group: &str, user: &str) -> Result<()> {
    let group = entity(tx, Kind::Group, account, group)?;
    let mut row = entity(tx, Kind::User, account, user)?;
    let Some(at) = row.groups.iter().position(|name| *name == group.name) else {
        let message = format!("The user with name {user} is not in the group {}.", group.name);
        return Err(DirectoryError::NoSuchEntity(message));
    };
    row.groups.remove(at);
    put_entity(tx, Kind::User, account, &row)?;
    tx.delete(
        MEMBERS,
        &[member_prefix(account, &group.name), user.to_ascii_lowercase().into_bytes()].concat(),
    )?;
    Ok(())
}

/// The name that an account has beside its number.
pub fn account_alias(tx: &dyn ReadTx, account: &AccountId) -> Result<Option<String>> {
    tx.get(ACCOUNTS, account.as_str().as_bytes())?.map(|alias| tail(&alias, 0)).transpose()
}

/// Gives an account its one alias, in place of the one it had; or takes it away.
///
/// # Errors
/// [`DirectoryError::EntityAlreadyExists`]: it is another account's.
pub fn set_account_alias(tx: &mut dyn WriteTx, account: &AccountId, alias: Option<&str>) -> Result<()> {
    let own = account.as_str().as_bytes();
    if let Some(alias) = alias
        && tx.get(ACCOUNT_ALIASES, alias.as_bytes())?.is_some_and(|owner| owner != own)
    {
        let message = format!("The account alias {alias} already exists.");
        return Err(DirectoryError::EntityAlreadyExists(message));
    }
    if let Some(before) = tx.get(ACCOUNTS, own)? {
        tx.delete(ACCOUNT_ALIASES, &before)?;
        tx.delete(ACCOUNTS, own)?;
    }
    if let Some(alias) = alias {
        tx.put(ACCOUNTS, own, alias.as_bytes())?;
        tx.put(ACCOUNT_ALIASES, alias.as_bytes(), own)?;
    }
    Ok(())
}
