//! New material under an old name. All old material stays until the key is deleted.

use std::sync::Arc;

use jiff::Timestamp;

use super::{bad_marker, key, limit, only, page, refused};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation};
use crate::kms::rows::{self, KeyRow, Rotation, ScheduleRow};
use crate::kms::schedule::{self, USUAL_PERIOD};
use crate::kms::spec::KeySpec;
use crate::kms::state::{Needs, State};
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

/// The key of a request, if it is one that rotates.
fn rotates(keys: &[Arc<Key>]) -> Result<&Arc<Key>> {
    let key = only(keys)?;
    if key.row.spec == KeySpec::Symmetric {
        return Ok(key);
    }
    let (arn, spec) = (&key.arn_text, key.row.spec.name());
    let message = format!("{arn} has the key spec {spec}; only symmetric encryption keys rotate.");
    Err(refused(KmsErrorKind::UnsupportedOperation, message))
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
        let key = rotates(keys)?;
        let period = self.rotation_period_in_days.and_then(|days| u32::try_from(days).ok());
        let (period, now) = (period.unwrap_or(USUAL_PERIOD), call.now.as_millisecond());
        let tx = call.writer()?;
        // A date that stands does not move because the same is asked for again.
        let row = match rows::schedule(tx, &key.arn.key)? {
            Some(standing) => standing.with_period(period),
            None => ScheduleRow::from(now, period),
        };
        rows::set_schedule(tx, &key.arn.key, Some(&row), true)?;
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
        let key = rotates(keys)?;
        rows::set_schedule(call.writer()?, &key.arn.key, None, true)?;
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
        let going = matches!(key.row.state, State::PendingDeletion { .. });
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
        let key = rotates(keys)?;
        if key.row.on_demand >= MOST_ON_DEMAND {
            let message = format!(
                "{} was rotated on demand {MOST_ON_DEMAND} times, and no more are allowed",
                key.arn_text
            );
            return Err(refused(KmsErrorKind::LimitExceeded, message));
        }
        let row = KeyRow { on_demand: key.row.on_demand + 1, ..key.row.clone() };
        let (region, now) = (call.region, call.now);
        let event = schedule::rotate(region, call.writer()?, key, row, now, Rotation::OnDemand)?;
        call.service_events.push(event);
        call.notes.changed = Some(key.arn_text.clone());
        Ok(KeyIdResponse { key_id: key.arn_text.clone() })
    }
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

    fn act(&self, _: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let limit = limit(self.limit, 100);
        let after = self.marker.as_ref().map(|m| m.parse::<u32>()).transpose().map_err(|_| bad_marker())?;
        let all = self.include_key_material.as_deref() == Some("ALL_KEY_MATERIAL");
        let mut found: Vec<_> = key
            .materials
            .iter()
            .filter(|(_, row)| all || row.rotation != Rotation::First)
            .filter(|(number, _)| after.is_none_or(|a| *number > a))
            .collect();
        let truncated = page(&mut found, limit);
        let next_marker = if truncated { found.last().map(|(number, _)| number.to_string()) } else { None };
        let mut rotations = Vec::with_capacity(found.len());
        for (number, row) in found {
            let since = moment(row.since, &key.arn_text)?;
            let rotation_type = row.rotation.name();
            rotations.push(RotationsListEntry {
                key_id: key.arn.key.to_string(),
                key_material_id: hex::encode(row.id),
                key_material_state: if *number == key.row.current { "CURRENT" } else { "NON_CURRENT" },
                rotation_date: rotation_type.map(|_| since),
                rotation_type,
            });
        }
        Ok(ListKeyRotationsResponse { rotations, next_marker, truncated })
    }
}
