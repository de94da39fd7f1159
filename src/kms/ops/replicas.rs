//! Multi-Region keys: replicas, and which of the related keys is the primary.

use std::sync::Arc;

use super::keys::{describe, room_for_a_key};
use super::policies::{check_policy, own_policy};
use super::{key, only, refused};
use crate::iam::{KeyArn, KeyId, KeyPolicy, Region};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation};
use crate::kms::region::Core;
use crate::kms::related::{self, New};
use crate::kms::rows::{self, KeyRow};
use crate::kms::state::{Needs, State};
use crate::kms::wire::{ReplicateKeyRequest, ReplicateKeyResponse, UpdatePrimaryRegionRequest};
use crate::kms::{KeyState, KmsError, KmsErrorKind, check};
use crate::store::Store;

/// Refuses a key of which another region is just becoming the primary.
pub fn not_updating(key: &Key) -> Result<()> {
    if !key.row.related.as_ref().is_some_and(|related| related.updating) {
        return Ok(());
    }
    let kind = KmsErrorKind::InvalidState(KeyState::Updating);
    Err(refused(kind, format!("{} is updating.", key.arn_text)))
}

/// Refuses a replica: what is shared is its primary's to change.
pub fn only_primary(key: &Key, region: &Region) -> Result<()> {
    if key.row.leads(region) {
        return Ok(());
    }
    let primary = key.row.related.as_ref().map(|related| related.primary.as_str()).unwrap_or_default();
    let arn = &key.arn_text;
    let message = format!(
        "{arn} is a multi-Region replica key, which is not valid for this operation; its primary key is in {primary}."
    );
    Err(refused(KmsErrorKind::UnsupportedOperation, message))
}

/// Refuses a key that is no multi-Region primary key.
fn primary(key: &Key, region: &Region) -> Result<()> {
    if key.row.related.is_none() {
        let message = format!("{} is not a multi-Region primary key.", key.arn_text);
        return Err(refused(KmsErrorKind::UnsupportedOperation, message));
    }
    not_updating(key)?;
    only_primary(key, region)
}

fn check_region(field: &str, region: &str) -> std::result::Result<(), KmsError> {
    check::required(field, region, 32)?;
    match region.parse::<Region>() {
        Ok(_) => Ok(()),
        Err(_) => Err(check::failed(field, "satisfy regular expression pattern: ^([a-z]+-){2,3}\\d+$")),
    }
}

/// A region whose name was checked.
fn parsed(region: &str) -> Result<Region> {
    region.parse().map_err(|_| refused(KmsErrorKind::Validation, format!("{region} is no region")))
}

impl Operation for ReplicateKeyRequest {
    type Response = ReplicateKeyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check_region("replicaRegion", &self.replica_region)?;
        check::description(self.description.as_deref().unwrap_or(""))?;
        check::tags(&self.tags)?;
        self.policy.as_deref().map_or(Ok(()), check_policy)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Usable)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            replica_region: Some(&self.replica_region),
            description: self.description.as_deref(),
            policy: self.policy.as_deref(),
            bypass_policy_lockout_safety_check: Some(true)
                .filter(|_| self.bypass_policy_lockout_safety_check),
            tags: Some(&self.tags[..]).filter(|t| !t.is_empty()),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        primary(key, &call.region.region)?;
        let (id, region) = (key.arn.key, parsed(&self.replica_region)?);
        let arn = KeyArn { region: region.clone(), ..key.arn.clone() };
        if region.partition() != call.region.region.partition() {
            let message = format!("{region} is in another partition than {}.", key.arn_text);
            return Err(refused(KmsErrorKind::UnsupportedOperation, message));
        }
        let has = |row: &KeyRow| {
            row.related.as_ref().is_some_and(|r| r.regions().any(|there| *there == self.replica_region))
        };
        let exists = || refused(KmsErrorKind::AlreadyExists, format!("{arn} already exists."));
        if has(&key.row) {
            return Err(exists());
        }
        let there = call.region.siblings.asked_for(&region)?;
        let tx = there.store.read()?;
        if rows::key(&*tx, &id)?.is_some() {
            return Err(exists());
        }
        room_for_a_key(&*tx, key.row.account.as_str())?;
        drop(tx);
        // These are asked for where the replica is to be.
        call.elsewhere = Some(region.clone());
        call.in_account("kms:CreateKey", &arn.account, "*")?;
        if !self.tags.is_empty() {
            call.in_account("kms:TagResource", &arn.account, &arn.to_string())?;
        }
        let policy = match &self.policy {
            Some(text) => {
                own_policy(call, &arn, key.row.kind(), text, self.bypass_policy_lockout_safety_check)?
            }
            None => KeyPolicy::AccountRoot,
        };
        call.elsewhere = None;
        let description = self.description.clone().unwrap_or_default();
        let replica_policy = policy
            .read(&arn.account, &region)
            .map_err(|e| refused(KmsErrorKind::MalformedPolicyDocument, e.to_string()))?;
        let new = New { description: description.clone(), policy, tags: rows::tag_pairs(&self.tags) };
        let row = related::replicate(call.writer()?, &id, key.row.clone(), &region, new)?;
        call.shares = true;
        call.notes.changed = Some(arn.to_string());
        call.note(&arn);
        // What it will be; whether it is there by the time of the answer, `finish` looks.
        let row = KeyRow { created: call.now.as_millisecond(), description, state: State::Enabled, ..row };
        let mut metadata = describe(&arn, &row, &key.materials, &Default::default())?;
        metadata.key_state = KeyState::Creating;
        metadata.enabled = false;
        Ok(ReplicateKeyResponse {
            replica_key_metadata: metadata,
            replica_policy: replica_policy.text().to_owned(),
            replica_tags: self.tags.clone(),
        })
    }

    fn finish(&self, region: &Core, answer: &mut Self::Response) {
        let metadata = &mut answer.replica_key_metadata;
        let made = (|| {
            let other = region.siblings.core(&self.replica_region.parse().ok()?).ok()?;
            let id: KeyId = metadata.key_id.parse().ok()?;
            Key::load(&*other.store.read().ok()?, &other.region, &id).ok()?
        })();
        // Without an answer from there it stays what it was: being created.
        if let Some(key) = made
            && let Ok(now) = describe(&key.arn, &key.row, &key.materials, &key.imports)
        {
            *metadata = now;
        }
    }
}

impl Operation for UpdatePrimaryRegionRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check_region("primaryRegion", &self.primary_region)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Usable)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            primary_region: Some(&self.primary_region),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let key = only(keys)?;
        primary(key, &call.region.region)?;
        let region = parsed(&self.primary_region)?;
        if region == call.region.region {
            return Err(refused(
                KmsErrorKind::UnsupportedOperation,
                format!("{} is the primary key already.", key.arn_text),
            ));
        }
        let arn = KeyArn { region: region.clone(), ..key.arn.clone() };
        let none = || refused(KmsErrorKind::NotFound, format!("Key '{arn}' does not exist"));
        if !key.row.related.as_ref().is_some_and(|r| r.replicas.contains(&self.primary_region)) {
            return Err(none());
        }
        let there = call.region.siblings.asked_for(&region)?;
        let replica = Key::load(&*there.store.read()?, &region, &arn.key)?;
        let Some(replica) = replica else {
            // It is intended and not there yet.
            let kind = KmsErrorKind::InvalidState(KeyState::Creating);
            return Err(refused(kind, format!("{arn} is creating.")));
        };
        // Its aliases are there, not here; no grant lets anybody do this.
        let aliases = rows::aliases(&*there.store.read()?, &arn.account, Some(&arn.key), None, usize::MAX)?;
        let aliases = aliases.into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        replica.aliases.get_or_init(|| aliases);
        let kind = replica.row.kind();
        call.elsewhere = Some(region.clone());
        call.may_use_key(Self::ROW.action, &arn, kind, &replica.policy, None, Some(&replica))?;
        call.elsewhere = None;
        replica.row.state.check(Needs::Usable, &replica.arn_text)?;
        related::promote(call.writer()?, &key.arn.key, key.row.clone(), &region)?;
        call.shares = true;
        call.notes.changed = Some(key.arn_text.clone());
        call.note(&arn);
        Ok(())
    }
}
