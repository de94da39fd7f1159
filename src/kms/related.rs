//! Multi-Region keys: one key in several regions of a home, each with its own row, material under its own root key,
//! and everything else its own but what is shared: material, rotation, and which of them is the primary.
//!
//! A change of something shared is made in the primary's store alone, with an *intent* for each of the others in the
//! same transaction. Intents are carried out after the commit, by every later look of the region's thread, and when the
//! region is next opened, until they are done. What they do is idempotent and carries the change's number (`epoch`): a
//! region takes what is newer than what it has. So a crash between two stores leaves no half: the first commit is the
//! change.
//!
//! Collections (key as in [`super::rows`]):
//! - `intents`: key | region -> Intent
//! - `replicated`: key -> the number of the making that made it here, so that one making makes a key once

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cache::Key;
use super::imported::{self, Import, ImportRow};
use super::region::Core;
use super::rows::{self, KeyRow, Manager, MaterialRow, ROW_VERSION, ScheduleRow};
use super::schedule::DAY;
use super::state::State;
use super::{KmsError, KmsErrorKind, events};
use crate::audit;
use crate::crypto::{SecretVec, random};
use crate::iam::{KeyArn, KeyId, KeyPolicy, Region};
use crate::store::{Durability, ReadTx, Store, WriteTx};

const INTENTS: &str = "intents";
const REPLICATED: &str = "replicated";
/// Intents that are carried out at one look.
const AT_ONCE: usize = 256;

/// What a multi-Region key knows of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    /// The region of the primary key.
    pub primary: String,
    /// The regions of the replicas.
    pub replicas: Vec<String>,
    /// The number of the last shared change.
    pub epoch: u64,
    /// Another region is becoming the primary, and does not know it yet.
    pub updating: bool,
}

impl Related {
    /// Of a new primary key.
    pub fn primary(region: &Region) -> Self {
        Self { primary: region.to_string(), replicas: Vec::new(), epoch: 0, updating: false }
    }

    /// All regions.
    pub fn regions(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

impl KeyRow {
    /// Whether shared settings are this key's to change: it is a primary, or has no relatives.
    pub fn leads(&self, region: &Region) -> bool {
        self.related.as_ref().is_none_or(|related| related.primary == region.as_str())
    }
}

/// How a replica begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct New {
    /// Free text.
    pub description: String,
    /// Its policy.
    pub policy: KeyPolicy,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

/// Names one making of a replica.
type Making = [u8; 16];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    /// The target gets what is shared; with `new`, the key itself. The number names this making of it.
    Push { new: Option<(Making, New)> },
    /// The replica here is deleted, of this making. Beside the target these may know of the primary.
    Gone { making: Option<Making>, others: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Intent {
    nonce: [u8; 16],
    what: What,
}

fn place(id: &KeyId, region: &str) -> Vec<u8> {
    [&rows::packed(id)[..], region.as_bytes()].concat()
}

fn intend(tx: &mut dyn WriteTx, id: &KeyId, region: &str, what: What) -> Result<(), KmsError> {
    let intent = Intent { nonce: random()?, what };
    Ok(tx.put(INTENTS, &place(id, region), &rows::encode(ROW_VERSION, &intent)?)?)
}

fn standing(tx: &dyn ReadTx, id: &KeyId, region: &str) -> Result<Option<Intent>, KmsError> {
    tx.get(INTENTS, &place(id, region))?.map(|row| rows::decode("an intent", &row)).transpose()
}

/// Counts a change of what is shared, and intends to tell the others: `told` and the `new` one. Writes the row.
fn share(
    tx: &mut dyn WriteTx,
    id: &KeyId,
    mut row: KeyRow,
    told: &[String],
    new: Option<(&str, New)>,
) -> Result<KeyRow, KmsError> {
    if let Some(related) = &mut row.related {
        related.epoch += 1;
        for region in told {
            // An intent that still has to make the key keeps doing so.
            let new = match standing(tx, id, region)? {
                Some(Intent { what: What::Push { new }, .. }) => new,
                Some(Intent { what: What::Gone { .. }, .. }) | None => None,
            };
            intend(tx, id, region, What::Push { new })?;
        }
        if let Some((region, new)) = new {
            intend(tx, id, region, What::Push { new: Some((random()?, new)) })?;
        }
    }
    rows::put_key(tx, id, &row)?;
    Ok(row)
}

/// Writes a row of which something shared has changed.
pub fn changed(tx: &mut dyn WriteTx, region: &Region, id: &KeyId, row: KeyRow) -> Result<KeyRow, KmsError> {
    let told = match &row.related {
        Some(related) if related.primary == region.as_str() => related.replicas.clone(),
        _ => Vec::new(),
    };
    if told.is_empty() {
        rows::put_key(tx, id, &row)?;
        return Ok(row);
    }
    share(tx, id, row, &told, None)
}

/// A primary key gets a replica in `region`.
pub fn replicate(
    tx: &mut dyn WriteTx,
    id: &KeyId,
    mut row: KeyRow,
    region: &Region,
    new: New,
) -> Result<KeyRow, KmsError> {
    let mut told = Vec::new();
    if let Some(related) = &mut row.related {
        told.clone_from(&related.replicas);
        related.replicas.push(region.to_string());
    }
    share(tx, id, row, &told, Some((region.as_str(), new)))
}

/// The replica in `region` becomes the primary, and this key its replica.
pub fn promote(
    tx: &mut dyn WriteTx,
    id: &KeyId,
    mut row: KeyRow,
    region: &Region,
) -> Result<KeyRow, KmsError> {
    let mut told = Vec::new();
    if let Some(related) = &mut row.related {
        told.clone_from(&related.replicas);
        related.replicas.retain(|replica| replica != region.as_str());
        related.replicas.push(std::mem::replace(&mut related.primary, region.to_string()));
        related.updating = true;
    }
    let schedule = rows::schedule(tx, id)?;
    rows::set_schedule(tx, id, schedule.as_ref(), false)?;
    share(tx, id, row, &told, None)
}

/// A key is deleted: its primary is to learn of it.
pub fn deleted(tx: &mut dyn WriteTx, id: &KeyId, row: &KeyRow, region: &Region) -> Result<(), KmsError> {
    let Some(related) = &row.related else { return Ok(()) };
    for other in related.regions() {
        tx.delete(INTENTS, &place(id, other))?;
    }
    if related.primary == region.as_str() {
        return Ok(());
    }
    let others = related.replicas.iter().filter(|other| *other != region.as_str()).cloned().collect();
    let making = tx.get(REPLICATED, &rows::packed(id))?.and_then(|making| making.try_into().ok());
    intend(tx, id, &related.primary, What::Gone { making, others })
}

/// What is shared of a key, out of its memory.
struct Shared {
    row: KeyRow,
    related: Related,
    schedule: Option<ScheduleRow>,
    recogniser: Option<SecretVec>,
    /// With the material itself, unless it is imported: that is each region's own.
    materials: Vec<(u32, MaterialRow, Option<SecretVec>)>,
    descriptions: std::collections::BTreeMap<u32, ImportRow>,
}

fn shared(core: &Core, tx: &dyn ReadTx, id: &KeyId) -> Result<Option<Shared>, KmsError> {
    let Some(key) = Key::load(tx, &core.region, id)? else { return Ok(None) };
    let Some(related) = key.row.related.clone() else { return Ok(None) };
    let recogniser = key.row.import.as_ref().map(|i| i.recogniser(&core.root, &key.arn)).transpose()?;
    let mut materials = Vec::with_capacity(key.materials.len());
    for (number, row) in key.materials {
        let opened = match recogniser {
            None => Some(rows::unseal(&core.root, &key.arn, key.row.spec, &row)?),
            Some(_) => None,
        };
        materials.push((number, row, opened));
    }
    let schedule = rows::schedule(tx, id)?;
    Ok(Some(Shared { row: key.row, related, schedule, recogniser, materials, descriptions: key.imports }))
}

/// Carries out what is intended here. An intent that fails stands in nobody's way.
pub fn settle(core: &Core) -> Result<(), KmsError> {
    let found = rows::under(&*core.store.read()?, INTENTS, &[], None, AT_ONCE)?;
    let mut failed = Ok(());
    for (at, value) in found {
        failed = failed.and(carry_out(core, &at, &value));
    }
    failed
}

fn carry_out(core: &Core, at: &[u8], value: &[u8]) -> Result<(), KmsError> {
    let bad = || rows::damaged("an intent");
    let (id, region) = at.split_at_checked(17).ok_or_else(bad)?;
    let id = rows::unpacked(id).ok_or_else(bad)?;
    let region = std::str::from_utf8(region).ok().and_then(|r| r.parse::<Region>().ok()).ok_or_else(bad)?;
    let intent: Intent = rows::decode("an intent", value)?;
    core.stop_at("intended")?;
    let other = core.siblings.asked_for(&region)?;
    match intent.what {
        What::Push { ref new } => push(core, &other, &id, new.as_ref())?,
        What::Gone { making, ref others } => {
            if let Some((next, others)) = gone(core, &other, &id, making, others)? {
                return redirect(core, at, value, &id, (&next, What::Gone { making, others }));
            }
            // The other replicas are told by their primary, which may not be open anywhere else.
            told_of(&other, &id)?;
        }
    }
    core.stop_at("carried out")?;
    finish(core, at, value, &id, &region)
}

/// Tells the others what is shared of one key. Of what is gone nothing is told here: two regions, each with a replica
/// gone whose primary is in the other, would call each other without end.
fn told_of(core: &Core, id: &KeyId) -> Result<(), KmsError> {
    let found = rows::under(&*core.store.read()?, INTENTS, &rows::packed(id), None, AT_ONCE)?;
    let mut failed = Ok(());
    for (at, value) in found {
        let intent: Intent = rows::decode("an intent", &value)?;
        if matches!(intent.what, What::Push { .. }) {
            failed = failed.and(carry_out(core, &at, &value));
        }
    }
    failed
}

/// Removes an intent, unless a newer one stands in its place.
fn finish(core: &Core, at: &[u8], value: &[u8], id: &KeyId, region: &Region) -> Result<(), KmsError> {
    let mut tx = core.store.write(Durability::Synced)?;
    if tx.get(INTENTS, at)?.as_deref() != Some(value) {
        return Ok(());
    }
    tx.delete(INTENTS, at)?;
    if let Some(mut row) = rows::key(&*tx, id)?
        && let Some(related) = &mut row.related
        && related.updating
        && related.primary == region.as_str()
    {
        related.updating = false;
        rows::put_key(&mut *tx, id, &row)?;
        core.move_generation(&mut *tx)?;
    }
    Ok(tx.commit()?)
}

/// Tells another region than the one that was thought to have the primary.
fn redirect(
    core: &Core,
    at: &[u8],
    value: &[u8],
    id: &KeyId,
    (region, what): (&str, What),
) -> Result<(), KmsError> {
    let mut tx = core.store.write(Durability::Synced)?;
    if tx.get(INTENTS, at)?.as_deref() == Some(value) {
        tx.delete(INTENTS, at)?;
        intend(&mut *tx, id, region, what)?;
        tx.commit()?;
    }
    Ok(())
}

/// A key's pending deletion as it fits to whether it leads others: a primary that has replicas waits for them.
fn fitting(core: &Core, tx: &mut dyn WriteTx, id: &KeyId, row: KeyRow) -> Result<KeyRow, KmsError> {
    let waits = row.leads(&core.region) && row.related.as_ref().is_some_and(|r| !r.replicas.is_empty());
    let now = core.now();
    let state = match row.state {
        State::PendingDeletion { due } if waits => {
            rows::delete_due(tx, due, id)?;
            let days = (due - now).max(0).unsigned_abs().div_ceil(DAY.unsigned_abs()).max(1);
            State::PendingReplicaDeletion { days: u32::try_from(days).unwrap_or(30) }
        }
        State::PendingReplicaDeletion { days } if !waits => {
            let due = now + i64::from(days) * DAY;
            rows::put_due(tx, due, id)?;
            State::PendingDeletion { due }
        }
        other => other,
    };
    Ok(KeyRow { state, ..row })
}

/// Removes a deleted replica of `here` from its primary in `other`. Some: that is not the primary's region; the next to
/// be told, and who else may know.
fn gone(
    here: &Core,
    other: &Core,
    id: &KeyId,
    making: Option<Making>,
    others: &[String],
) -> Result<Option<(String, Vec<String>)>, KmsError> {
    let mut tx = other.store.write(Durability::Synced)?;
    let key = Key::load(&*tx, &other.region, id)?;
    let Some((key, related)) = key.and_then(|key| key.row.related.clone().map(|related| (key, related)))
    else {
        return Ok(others.split_first().map(|(next, rest)| (next.clone(), rest.to_vec())));
    };
    let (gone, own) = (here.region.to_string(), other.region.to_string());
    if related.primary != own && related.primary != gone {
        let rest = others.iter().filter(|other| **other != related.primary).cloned().collect();
        return Ok(Some((related.primary, rest)));
    }
    // Made again since: it is another one that is gone.
    let made_again = match standing(&*tx, id, &gone)? {
        Some(Intent { what: What::Push { new: Some((next, _)) }, .. }) => Some(next) != making,
        _ => rows::key(&*here.store.read()?, id)?.is_some(),
    };
    if made_again {
        return Ok(None);
    }
    let regions = || related.regions().filter(|region| **region != gone && **region != own).cloned();
    let taken_back = related.primary == gone;
    if !taken_back && !related.replicas.contains(&gone) {
        return Ok(None);
    }
    // A key that was to become the primary and went before it knew: this one leads again.
    let replicas: Vec<String> = regions().collect();
    let epoch = related.epoch;
    let row = KeyRow {
        related: Some(Related { primary: own, replicas: replicas.clone(), epoch, updating: false }),
        ..key.row.clone()
    };
    let row = fitting(other, &mut *tx, id, row)?;
    let schedule = rows::schedule(&*tx, id)?;
    rows::set_schedule(&mut *tx, id, schedule.as_ref(), row.state == State::Enabled)?;
    share(&mut *tx, id, row, &replicas, None)?;
    synchronised(other, tx, &key)?;
    Ok(None)
}

/// Records that a key was brought in line with its relatives, and commits.
fn synchronised(core: &Core, mut tx: Box<dyn WriteTx + '_>, key: &Key) -> Result<(), KmsError> {
    let event = events::by_the_service(core, key, "SynchronizeMultiRegionKey", None)?;
    audit::append(&mut *tx, &event)?;
    core.move_generation(&mut *tx)?;
    tx.commit()?;
    core.has_grown();
    Ok(())
}

/// Brings the key in `other` in line with the one here.
fn push(here: &Core, other: &Core, id: &KeyId, new: Option<&(Making, New)>) -> Result<(), KmsError> {
    let Some(shared) = shared(here, &*here.store.read()?, id)? else { return Ok(()) };
    let mut tx = other.store.write(Durability::Synced)?;
    let account = shared.row.account.parse().map_err(|_| rows::damaged("a key's account"))?;
    let arn = KeyArn { region: other.region.clone(), account, key: *id };
    match (rows::key(&*tx, id)?, new) {
        (None, Some((making, new))) => {
            if tx.get(REPLICATED, &rows::packed(id))?.as_deref() == Some(making) {
                return Ok(());
            }
            tx.put(REPLICATED, &rows::packed(id), making)?;
            let recogniser = shared.recogniser.as_ref();
            let row = KeyRow {
                created: other.now(),
                description: new.description.clone(),
                manager: Manager::Customer,
                state: if recogniser.is_some() { State::PendingImport } else { State::Enabled },
                policy: new.policy.clone(),
                tags: new.tags.clone(),
                import: recogniser.map(|r| Import::keep(&other.root, &arn, r)).transpose()?,
                related: Some(shared.related.clone()),
                ..shared.row.clone()
            };
            rows::new_key(&mut *tx, id, &row)?;
            take(other, &mut *tx, &arn, row, &shared)?;
            let Some(key) = Key::load(&*tx, &other.region, id)? else {
                return Err(rows::damaged("a new key"));
            };
            let event = events::by_the_service(other, &key, "CreateKey", None)?;
            audit::append(&mut *tx, &event)?;
            other.move_generation(&mut *tx)?;
            tx.commit()?;
            other.has_grown();
            Ok(())
        }
        // Deleted meanwhile.
        (None, None) => Ok(()),
        (Some(row), _) => {
            if row.related.as_ref().is_some_and(|related| related.epoch >= shared.related.epoch) {
                return Ok(());
            }
            take(other, &mut *tx, &arn, row, &shared)?;
            let Some(key) = Key::load(&*tx, &other.region, id)? else { return Err(rows::damaged("a key")) };
            synchronised(other, tx, &key)
        }
    }
}

/// Writes what is shared into a key's rows.
fn take(
    core: &Core,
    tx: &mut dyn WriteTx,
    arn: &KeyArn,
    row: KeyRow,
    shared: &Shared,
) -> Result<(), KmsError> {
    let id = &arn.key;
    let related = Related { updating: false, ..shared.related.clone() };
    let leads = related.primary == core.region.as_str();
    let row = KeyRow {
        current: shared.row.current,
        on_demand: shared.row.on_demand,
        related: Some(related),
        ..row
    };
    let row = fitting(core, tx, id, row)?;
    let own = rows::materials(tx, id)?;
    for (number, theirs, opened) in &shared.materials {
        let standing = own.iter().find(|(n, _)| n == number).map(|(_, row)| row);
        let ours = match (standing, opened) {
            // What it is to the key may have changed; the material has not.
            (Some(row), _) => MaterialRow { since: theirs.since, rotation: theirs.rotation, ..row.clone() },
            (None, Some(bytes)) => {
                let (spec, since, how) = (row.spec, theirs.since, theirs.rotation);
                rows::seal_named(&core.root, arn, spec, theirs.id, bytes, since, how)?
            }
            (None, None) => MaterialRow { sealed: Vec::new(), ..theirs.clone() },
        };
        if standing.is_none() && opened.is_none() {
            let description = shared.descriptions.get(number).map(|d| d.description.clone());
            let import = ImportRow { description: description.unwrap_or_default(), ..ImportRow::default() };
            imported::put(tx, id, *number, Some(&import))?;
        }
        rows::put_material(tx, id, *number, &ours)?;
    }
    // Material that waited for a rotation and was given up.
    for (number, _) in own.iter().filter(|(n, _)| shared.materials.iter().all(|(s, ..)| s != n)) {
        imported::erase(tx, id, *number, None)?;
        imported::put(tx, id, *number, None)?;
    }
    let row = if row.import.is_some() {
        imported::settle(tx, id, row)?
    } else {
        rows::put_key(tx, id, &row)?;
        row
    };
    rows::set_schedule(tx, id, shared.schedule.as_ref(), leads && row.state == State::Enabled)
}

/// Whether a material stands in each of a key's other regions.
pub fn everywhere(core: &Core, row: &KeyRow, id: &KeyId, number: u32) -> Result<bool, KmsError> {
    let Some(related) = &row.related else { return Ok(true) };
    for region in related.regions().filter(|region| *region != core.region.as_str()) {
        let region = region.parse().map_err(|_| rows::damaged("a key's region"))?;
        let other = core.siblings.asked_for(&region)?;
        let theirs = rows::materials(&*other.store.read()?, id)?;
        if !theirs.iter().any(|(n, row)| *n == number && !row.sealed.is_empty()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A time out of a row.
pub fn moment(milliseconds: i64) -> Result<Timestamp, KmsError> {
    Timestamp::from_millisecond(milliseconds).map_err(|_| {
        KmsError::new(
            KmsErrorKind::Internal,
            "a time in the key service's store is out of range; restore it from a backup",
        )
    })
}
