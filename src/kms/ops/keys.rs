//! Making keys, looking at them, and leading them through their states.

use std::sync::Arc;

use jiff::Timestamp;

use super::policies::{check_policy, own_policy};
use super::{SYMMETRIC_DEFAULT, bad_marker, invalid, key, limit, only, page, refused, unsupported};
use crate::audit::{self, Found};
use crate::crypto::SecretVec;
use crate::iam::{KeyArn, KeyId, KeyPolicy};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Name, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation};
use crate::kms::rows::{self, KeyRow, Manager, Rotation};
use crate::kms::schedule::{self, DAY};
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::kms::state::{Needs, State, Step};
use crate::kms::wire::{
    CancelKeyDeletionRequest, CreateKeyRequest, DescribeKeyRequest, DescribeKeyResponse, DisableKeyRequest,
    EnableKeyRequest, GetKeyLastUsageRequest, GetKeyLastUsageResponse, KeyIdResponse, KeyLastUsageData,
    KeyListEntry, KeyMetadata, ListKeysRequest, ListKeysResponse, ScheduleKeyDeletionRequest,
    ScheduleKeyDeletionResponse,
};
use crate::kms::{KeyState, KmsError, KmsErrorKind, check};

/// Customer managed keys that an account may have.
const MOST_KEYS: u64 = 100_000;
const KEY_SPECS: [&str; 20] = [
    "SYMMETRIC_DEFAULT",
    "RSA_2048",
    "RSA_3072",
    "RSA_4096",
    "ECC_NIST_P256",
    "ECC_NIST_P384",
    "ECC_NIST_P521",
    "ECC_SECG_P256K1",
    "ECC_NIST_EDWARDS25519",
    "HMAC_224",
    "HMAC_256",
    "HMAC_384",
    "HMAC_512",
    "ML_DSA_44",
    "ML_DSA_65",
    "ML_DSA_87",
    "ML_KEM_512",
    "ML_KEM_768",
    "ML_KEM_1024",
    "SM2",
];
const USAGES: [&str; 5] =
    ["ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT", "ENCAPSULATE_DECAPSULATE"];
const ORIGINS: [&str; 4] = ["AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"];

/// What counts as a use of a key.
const USES: [&str; 14] = [
    "Decrypt",
    "DeriveSharedSecret",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncrypt",
    "Sign",
    "Verify",
    "VerifyMac",
    "Encapsulate",
    "Decapsulate",
];

fn describe(arn: &KeyArn, row: &KeyRow, current: &[u8; 32]) -> Result<DescribeKeyResponse> {
    let damaged = |_| refused(KmsErrorKind::Internal, format!("the row of {arn} is damaged"));
    let key_metadata = KeyMetadata {
        aws_account_id: row.account.clone(),
        key_id: arn.key.to_string(),
        arn: arn.to_string(),
        creation_date: Timestamp::from_millisecond(row.created).map_err(damaged)?,
        enabled: row.state == State::Enabled,
        description: row.description.clone(),
        key_usage: row.usage.name(),
        key_state: row.state.visible(),
        deletion_date: row.state.deletion(),
        origin: "AWS_KMS",
        key_manager: match row.manager {
            Manager::Customer => "CUSTOMER",
            Manager::Service => "AWS",
        },
        customer_master_key_spec: row.spec.name(),
        key_spec: row.spec.name(),
        encryption_algorithms: row.encryption_algorithms(),
        signing_algorithms: row.signing_algorithms(),
        key_agreement_algorithms: row.key_agreement_algorithms(),
        multi_region: arn.key.multi_region,
        mac_algorithms: row.mac_algorithms(),
        current_key_material_id: (row.spec == KeySpec::Symmetric).then(|| hex::encode(current)),
    };
    Ok(DescribeKeyResponse { key_metadata })
}

impl CreateKeyRequest {
    fn asked_spec(&self) -> &str {
        self.key_spec.as_deref().or(self.customer_master_key_spec.as_deref()).unwrap_or(SYMMETRIC_DEFAULT)
    }

    /// The spec and the usage, which must go together.
    fn kind(&self) -> std::result::Result<(KeySpec, KeyUsage), KmsError> {
        let name = self.asked_spec();
        let spec = KeySpec::from_name(name).filter(|spec| !spec.usages().is_empty());
        let Some(spec) = spec else {
            return Err(unsupported(&format!("this key service makes no keys of the spec {name}")));
        };
        let asked = match (self.key_usage.as_deref(), spec) {
            (Some(usage), _) => usage,
            (None, KeySpec::Symmetric) => KeyUsage::EncryptDecrypt.name(),
            (None, _) => {
                return Err(invalid(
                    "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
                ));
            }
        };
        match KeyUsage::from_name(asked).filter(|usage| spec.usages().contains(usage)) {
            Some(usage) => Ok((spec, usage)),
            None => Err(invalid(&format!("KeyUsage {asked} is not compatible with KeySpec {name}"))),
        }
    }
}

impl Operation for CreateKeyRequest {
    type Response = DescribeKeyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::description(self.description.as_deref().unwrap_or(""))?;
        let spec = self.key_spec.as_deref().or(self.customer_master_key_spec.as_deref());
        if self.key_spec.is_some() && self.customer_master_key_spec.is_some() {
            return Err(invalid(
                "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. \
                 CustomerMasterKeySpec is deprecated.",
            ));
        }
        check::one_of("keySpec", spec, &KEY_SPECS)?;
        check::one_of("keyUsage", self.key_usage.as_deref(), &USAGES)?;
        check::one_of("origin", self.origin.as_deref(), &ORIGINS)?;
        check::tags(&self.tags)?;
        self.kind()?;
        if self.origin.as_deref().is_some_and(|o| o != "AWS_KMS") {
            return Err(unsupported("this key service makes key material itself, so far"));
        }
        if self.custom_key_store_id.is_some() || self.xks_key_id.is_some() {
            return Err(unsupported("this key service has no custom key stores"));
        }
        if self.multi_region == Some(true) {
            return Err(unsupported("this key service makes single-Region keys only, so far"));
        }
        if let Some(policy) = &self.policy {
            check_policy(policy)?;
        }
        Ok(())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            description: Some(self.description.as_deref().unwrap_or("")),
            key_spec: Some(self.asked_spec()),
            key_usage: Some(self.key_usage.as_deref().unwrap_or("ENCRYPT_DECRYPT")),
            origin: Some(self.origin.as_deref().unwrap_or("AWS_KMS")),
            multi_region: Some(self.multi_region.unwrap_or(false)),
            policy: self.policy.as_deref(),
            bypass_policy_lockout_safety_check: Some(true)
                .filter(|_| self.bypass_policy_lockout_safety_check),
            tags: Some(&self.tags[..]).filter(|t| !t.is_empty()),
            ..Parameters::default()
        }
    }

    /// An RSA key takes up to seconds, in which nobody else could write.
    fn prepare(&self) -> std::result::Result<Option<SecretVec>, KmsError> {
        Ok(Some(self.kind()?.0.generate()?))
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let account = call.account().clone();
        if rows::key_count(call.reader()?, account.as_str())? >= MOST_KEYS {
            return Err(refused(
                KmsErrorKind::LimitExceeded,
                format!("the account has {MOST_KEYS} keys, and no more are allowed"),
            ));
        }
        let (spec, usage) = self.kind()?;
        let (id, now) = (KeyId::generate(false)?, call.now.as_millisecond());
        let arn = KeyArn { region: call.region.region.clone(), account, key: id };
        let policy = match &self.policy {
            Some(text) => {
                own_policy(call, &arn, (spec, usage), text, self.bypass_policy_lockout_safety_check)?
            }
            None => KeyPolicy::AccountRoot,
        };
        let row = KeyRow {
            account: arn.account.to_string(),
            created: now,
            description: self.description.clone().unwrap_or_default(),
            manager: Manager::Customer,
            state: State::Enabled,
            policy,
            tags: rows::tag_pairs(&self.tags),
            current: 0,
            on_demand: 0,
            spec,
            usage,
        };
        let made = call.prepared.ok_or_else(|| refused(KmsErrorKind::Internal, "no material was made"))?;
        let material = rows::seal_material(&call.region.root, &arn, spec, made, now, Rotation::First)?;
        let tx = call.writer()?;
        rows::new_key(tx, &id, &row)?;
        rows::put_material(tx, &id, 0, &material)?;
        call.note(&arn);
        describe(&arn, &row, &material.id)
    }
}

impl Operation for DescribeKeyRequest {
    type Response = DescribeKeyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::grant_tokens(&self.grant_tokens)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let name = Name::KeyOrAlias(&self.key_id);
        vec![Subject { name, action: Self::ROW.action, needs: Needs::Nothing }]
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { key_id: Some(&self.key_id), ..Parameters::default() }
    }

    fn grant_tokens(&self) -> &[String] {
        &self.grant_tokens
    }

    fn act(&self, _: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        describe(&key.arn, &key.row, &key.current()?)
    }
}

impl Operation for ListKeysRequest {
    type Response = ListKeysResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::list(self.limit, self.marker.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { limit: self.limit, marker: self.marker.as_deref(), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let limit = limit(self.limit, 100);
        let after = self.marker.as_ref().map(|m| m.parse::<KeyId>()).transpose();
        let after = after.map_err(|_| bad_marker())?;
        let mut found = rows::keys_of(call.reader()?, call.account(), after.as_ref(), limit + 1)?;
        let truncated = page(&mut found, limit);
        let arn = |key: &KeyId| KeyArn {
            region: call.region.region.clone(),
            account: call.account().clone(),
            key: *key,
        };
        let entry = |key: &KeyId| KeyListEntry { key_id: key.to_string(), key_arn: arn(key).to_string() };
        let keys: Vec<_> = found.iter().map(entry).collect();
        let next_marker = if truncated { found.last().map(ToString::to_string) } else { None };
        Ok(ListKeysResponse { keys, next_marker, truncated })
    }
}

/// Leads the key of a request through one step.
fn step(call: &mut Call<'_, '_>, keys: &[Arc<Key>], step: Step) -> Result<State> {
    let key = only(keys)?;
    let before = key.row.state;
    let state = before.next(step, &key.arn_text)?;
    let (id, region, now) = (key.arn.key, call.region, call.now);
    let tx = call.writer()?;
    if let State::PendingDeletion { due } = before {
        rows::delete_due(tx, due, &id)?;
    }
    if let State::PendingDeletion { due } = state {
        rows::put_due(tx, due, &id)?;
    }
    let row = KeyRow { state, ..key.row.clone() };
    match rows::schedule(tx, &id)? {
        // Its date came while it was disabled.
        Some(due) if state == State::Enabled && due.next <= now.as_millisecond() => {
            let event = schedule::rotate_by_schedule(region, tx, key, row, due, now)?;
            call.service_events.push(event);
        }
        standing => {
            rows::put_key(tx, &id, &row)?;
            if standing.is_some() {
                rows::set_schedule(tx, &id, standing.as_ref(), state == State::Enabled)?;
            }
        }
    }
    call.notes.changed = Some(key.arn_text.clone());
    Ok(state)
}

/// Requests of nothing but a key, which lead it through a step.
macro_rules! steps {
    ($($request:ident, $step:expr, $response:ty, $answer:expr;)*) => {$(
        impl Operation for $request {
            type Response = $response;

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
                step(call, keys, $step)?;
                Ok($answer(&**only(keys)?))
            }
        }
    )*};
}

steps! {
    EnableKeyRequest, Step::Enable, (), |_: &Key| ();
    DisableKeyRequest, Step::Disable, (), |_: &Key| ();
    CancelKeyDeletionRequest, Step::CancelDeletion, KeyIdResponse,
        |key: &Key| KeyIdResponse { key_id: key.arn_text.clone() };
}

impl Operation for ScheduleKeyDeletionRequest {
    type Response = ScheduleKeyDeletionResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::number("pendingWindowInDays", self.pending_window_in_days, 7, 30)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            pending_window_in_days: self.pending_window_in_days,
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let days = self.pending_window_in_days.unwrap_or(30);
        let due = call.now.as_millisecond() + days * DAY;
        let deletion_date = Timestamp::from_millisecond(due)
            .map_err(|e| refused(KmsErrorKind::Internal, format!("the clock is out of range: {e}")))?;
        step(call, keys, Step::ScheduleDeletion { due })?;
        Ok(ScheduleKeyDeletionResponse {
            key_id: only(keys)?.arn_text.clone(),
            deletion_date,
            key_state: KeyState::PendingDeletion,
            pending_window_in_days: days,
        })
    }
}

impl Operation for GetKeyLastUsageRequest {
    type Response = GetKeyLastUsageResponse;

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
        let created = Timestamp::from_millisecond(key.row.created).map_err(|_| {
            refused(KmsErrorKind::Internal, format!("the row of {} is damaged", key.arn_text))
        })?;
        let last = audit::newest(call.reader()?, &key.arn_text, &|event| {
            event.error_code.is_none()
                && event.event_source == audit::KMS_SOURCE
                && USES.contains(&&*event.event_name)
        })?;
        let usage = last.map(|Found { event, .. }| KeyLastUsageData {
            cloud_trail_event_id: Some(event.event_id),
            kms_request_id: Some(event.request_id),
            operation: Some(event.event_name.into_owned()),
            timestamp: Some(event.event_time),
        });
        Ok(GetKeyLastUsageResponse {
            key_creation_date: created,
            key_id: key.arn.key.to_string(),
            key_last_usage: usage.unwrap_or_default(),
            // The log goes back to the key's beginning.
            tracking_start_date: created,
        })
    }
}
