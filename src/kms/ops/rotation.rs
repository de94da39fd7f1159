//! New material under an old name. All old material stays until the key is deleted.

use std::sync::Arc;

use jiff::Timestamp;

use super::import::expiration_model;
use super::replicas::{not_updating, only_primary};
use super::{bad_marker, key, limit, only, page, refused};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::{self, Parameters};
use crate::kms::operation::{InTable, Operation};
use crate::kms::related;
use crate::kms::rows::{self, KeyRow, MaterialRow, Rotation, ScheduleRow};
use crate::kms::schedule::{self, USUAL_PERIOD};
use crate::kms::spec::KeySpec;
use crate::kms::state::Needs;
use crate::kms::wire::{
    DisableKeyRotationRequest, EnableKeyRotationRequest, GetKeyRotationStatusRequest,
    GetKeyRotationStatusResponse, KeyIdResponse, ListKeyRotationsRequest, ListKeyRotationsResponse,
    RotateKeyOnDemandRequest, RotationsListEntry,
};
use crate::kms::{KmsError, KmsErrorKind, check};

/// A time out of a key's rows.
fn moment(milliseconds: i64, arn: &str) -> Result<Timestamp> {
    Timestamp::from_millisecond(milliseconds)
        .map_err(|_| refused(KmsErrorKind::Internal, format!("the row of {arn} is damaged")))
}

/// Rotations on demand that a key has in its life.
const MOST_ON_DEMAND: u32 = 25;

/// The key of a request, if it is one that rotates, and its rotation its own to change.
fn rotates<'k>(call: &Call<'_, '_>, keys: &'k [Arc<Key>]) -> Result<&'k Arc<Key>> {
    let key = only(keys)?;
    if key.row.spec == KeySpec::Symmetric {
        not_updating(key)?;
        only_primary(key, &call.region.region)?;
        return Ok(key);
    }
    let (arn, spec) = (&key.arn_text, key.row.spec.name());
    let message = format!("{arn} has the key spec {spec}; only symmetric encryption keys rotate.");
    Err(refused(KmsErrorKind::UnsupportedOperation, message))
}

/// Tells the other regions that the schedule of a primary key is another.
fn shared(call: &mut Call<'_, '_>, key: &Key) -> Result<()> {
    let region = &call.region.region;
    related::changed(call.writer()?, region, &key.arn.key, key.row.clone())?;
    call.shares = true;
    Ok(())
}

/// The same for rotation by schedule, which imported material has none of.
fn rotates_by_schedule<'k>(call: &Call<'_, '_>, keys: &'k [Arc<Key>]) -> Result<&'k Arc<Key>> {
    let key = rotates(call, keys)?;
    if key.row.import.is_none() {
        return Ok(key);
    }
    let (arn, origin) = (&key.arn_text, key.row.origin());
    let message = format!("{arn} origin is {origin} which is not valid for this operation.");
    Err(refused(KmsErrorKind::UnsupportedOperation, message))
}

/// Makes the imported material that waits for it the current one. Answers the event.
fn rotate_imported(call: &mut Call<'_, '_>, key: &Key, row: KeyRow) -> Result<Vec<u8>> {
    let waiting = key.materials.iter().find(|(_, material)| material.rotation == Rotation::Pending);
    let state = KmsErrorKind::InvalidState(key.row.state.visible());
    let arn = &key.arn_text;
    let Some((number, material)) = waiting.filter(|(_, material)| !material.sealed.is_empty()) else {
        let message =
            format!("{arn} has no key material that is pending rotation; import new key material first.");
        return Err(refused(state, message));
    };
    if !related::everywhere(call.region, &key.row, &key.arn.key, *number)? {
        let message =
            format!("{arn} has replica keys that do not have the new key material; import it there first.");
        return Err(refused(state, message));
    }
    let (region, now, id) = (call.region, call.now, &key.arn.key);
    let how = Rotation::OnDemand;
    let material = MaterialRow { rotation: how, since: now.as_millisecond(), ..material.clone() };
    let tx = call.writer()?;
    rows::put_material(tx, id, *number, &material)?;
    related::changed(tx, &region.region, id, KeyRow { current: *number, ..row })?;
    Ok(events::rotated(region, key, how.name().unwrap_or_default(), now)?)
}

impl Operation for EnableKeyRotationRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::number("rotationPeriodInDays", self.rotation_period_in_days, 90, 2560)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Usable)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            rotation_period_in_days: self.rotation_period_in_days,
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let key = rotates_by_schedule(call, keys)?;
        let period = self.rotation_period_in_days.and_then(|days| u32::try_from(days).ok());
        let (period, now) = (period.unwrap_or(USUAL_PERIOD), call.now.as_millisecond());
        let tx = call.writer()?;
        // A date that stands does not move because the same is asked for again.
        let row = match rows::schedule(tx, &key.arn.key)? {
            Some(standing) => standing.with_period(period),
            None => ScheduleRow::from(now, period),
        };
        rows::set_schedule(tx, &key.arn.key, Some(&row), true)?;
        shared(call, key)?;
        call.notes.changed = Some(key.arn_text.clone());
        Ok(())
    }
}

impl Operation for DisableKeyRotationRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Usable)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { key_id: Some(&self.key_id), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let key = rotates_by_schedule(call, keys)?;
        rows::set_schedule(call.writer()?, &key.arn.key, None, true)?;
        shared(call, key)?;
        call.notes.changed = Some(key.arn_text.clone());
        Ok(())
    }
}

impl Operation for GetKeyRotationStatusRequest {
    type Response = GetKeyRotationStatusResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { key_id: Some(&self.key_id), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let going = key.row.state.going();
        let schedule = rows::schedule(call.reader()?, &key.arn.key)?.filter(|_| !going);
        let next = schedule.map(|row| moment(row.next, &key.arn_text)).transpose()?;
        Ok(GetKeyRotationStatusResponse {
            key_rotation_enabled: schedule.is_some(),
            key_id: key.arn.key.to_string(),
            rotation_period_in_days: schedule.map(|row| row.period),
            next_rotation_date: next,
        })
    }
}

impl Operation for RotateKeyOnDemandRequest {
    type Response = KeyIdResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Usable)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { key_id: Some(&self.key_id), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = rotates(call, keys)?;
        if key.row.on_demand >= MOST_ON_DEMAND {
            let message = format!(
                "{} was rotated on demand {MOST_ON_DEMAND} times, and no more are allowed",
                key.arn_text
            );
            return Err(refused(KmsErrorKind::LimitExceeded, message));
        }
        let row = KeyRow { on_demand: key.row.on_demand + 1, ..key.row.clone() };
        let (region, now) = (call.region, call.now);
        let event = match row.import {
            Some(_) => rotate_imported(call, key, row)?,
            None => schedule::rotate(region, call.writer()?, key, row, now, Rotation::OnDemand)?,
        };
        call.service_events.push(event);
        call.shares = true;
        call.notes.changed = Some(key.arn_text.clone());
        Ok(KeyIdResponse { key_id: key.arn_text.clone() })
    }
}

/// KeyMaterialState.
fn state_of(call: &Call<'_, '_>, key: &Key, number: u32, row: &MaterialRow) -> Result<&'static str> {
    if row.rotation == Rotation::Pending {
        let whole = !key.row.leads(&call.region.region)
            || related::everywhere(call.region, &key.row, &key.arn.key, number)?;
        return Ok(if whole { "PENDING_ROTATION" } else { "PENDING_MULTI_REGION_IMPORT_AND_ROTATION" });
    }
    Ok(if number == key.row.current { "CURRENT" } else { "NON_CURRENT" })
}

impl Operation for ListKeyRotationsRequest {
    type Response = ListKeyRotationsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        let known = ["ALL_KEY_MATERIAL", "ROTATIONS_ONLY"];
        check::one_of("includeKeyMaterial", self.include_key_material.as_deref(), &known)?;
        check::list(self.limit, self.marker.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            include_key_material: self.include_key_material.as_deref(),
            limit: self.limit,
            marker: self.marker.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let limit = limit(self.limit, 100);
        let after = self.marker.as_ref().map(|m| m.parse::<u32>()).transpose().map_err(|_| bad_marker())?;
        let all = self.include_key_material.as_deref() == Some("ALL_KEY_MATERIAL");
        let mut found: Vec<_> = key
            .materials
            .iter()
            .filter(|(_, row)| all || row.rotation.name().is_some())
            .filter(|(number, _)| after.is_none_or(|a| *number > a))
            .collect();
        let truncated = page(&mut found, limit);
        let next_marker = if truncated { found.last().map(|(number, _)| number.to_string()) } else { None };
        let mut rotations = Vec::with_capacity(found.len());
        for (number, row) in found {
            let since = moment(row.since, &key.arn_text)?;
            let rotation_type = row.rotation.name();
            let import = key.imports.get(number).filter(|_| key.row.spec == KeySpec::Symmetric);
            let valid_to = import.and_then(|import| import.valid_to);
            rotations.push(RotationsListEntry {
                key_id: key.arn.key.to_string(),
                key_material_id: hex::encode(row.id),
                key_material_description: import.map(|i| i.description.clone()).filter(|d| !d.is_empty()),
                import_state: import
                    .map(|_| if row.sealed.is_empty() { "PENDING_IMPORT" } else { "IMPORTED" }),
                key_material_state: state_of(call, key, *number, row)?,
                expiration_model: import.filter(|_| !row.sealed.is_empty()).map(expiration_model),
                valid_to: valid_to.map(|due| moment(due, &key.arn_text)).transpose()?,
                rotation_date: rotation_type.map(|_| since),
                rotation_type,
            });
        }
        Ok(ListKeyRotationsResponse { rotations, next_marker, truncated })
    }
}
