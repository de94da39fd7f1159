//! Making keys, looking at them, and leading them through their states.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::import::expiration_model;
use super::policies::{check_policy, own_policy};
use super::replicas::not_updating;
use super::{SYMMETRIC_DEFAULT, bad_marker, invalid, key, limit, only, page, refused, unsupported};
use crate::audit::{self, Found};
use crate::iam::{KeyArn, KeyId, KeyPolicy};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Name, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::imported::{self, Import, ImportRow};
use crate::kms::operation::{InTable, Operation, Preparation};
use crate::kms::related::Related;
use crate::kms::rows::{self, KeyRow, Manager, MaterialRow, Rotation};
use crate::kms::schedule::{self, DAY};
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::kms::state::{Needs, State, Step};
use crate::kms::wire::{
    CancelKeyDeletionRequest, CreateKeyRequest, DescribeKeyRequest, DescribeKeyResponse, DisableKeyRequest,
    EnableKeyRequest, GetKeyLastUsageRequest, GetKeyLastUsageResponse, KeyIdResponse, KeyLastUsageData,
    KeyListEntry, KeyMetadata, ListKeysRequest, ListKeysResponse, MultiRegionConfiguration, MultiRegionKey,
    ScheduleKeyDeletionRequest, ScheduleKeyDeletionResponse,
};
use crate::kms::{KeyState, KmsError, KmsErrorKind, check};
use crate::store::ReadTx;

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
const EXTERNAL: &str = "EXTERNAL";
const ORIGINS: [&str; 4] = ["AWS_KMS", EXTERNAL, "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"];

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

/// What DescribeKey tells.
pub fn describe(
    arn: &KeyArn,
    row: &KeyRow,
    materials: &[(u32, MaterialRow)],
    imports: &BTreeMap<u32, ImportRow>,
) -> Result<KeyMetadata> {
    let damaged = |_| refused(KmsErrorKind::Internal, format!("the row of {arn} is damaged"));
    let current = materials.iter().find(|(number, _)| *number == row.current).map(|(_, m)| hex::encode(m.id));
    let own = materials.iter().filter(|(_, m)| m.rotation != Rotation::Pending && !m.sealed.is_empty());
    let own: Vec<&ImportRow> = own.filter_map(|(number, _)| imports.get(number)).collect();
    let valid_to = own.iter().filter_map(|import| import.valid_to).min();
    let updating = row.related.as_ref().is_some_and(|related| related.updating);
    let waits = match row.state {
        State::PendingReplicaDeletion { days } => Some(days),
        _ => None,
    };
    Ok(KeyMetadata {
        aws_account_id: row.account.clone(),
        key_id: arn.key.to_string(),
        arn: arn.to_string(),
        creation_date: Timestamp::from_millisecond(row.created).map_err(damaged)?,
        enabled: row.state == State::Enabled && !updating,
        description: row.description.clone(),
        key_usage: row.usage.name(),
        key_state: if updating { KeyState::Updating } else { row.state.visible() },
        deletion_date: row.state.deletion(),
        origin: row.origin(),
        valid_to: valid_to.map(Timestamp::from_millisecond).transpose().map_err(damaged)?,
        expiration_model: own
            .iter()
            .find(|import| import.valid_to.is_some())
            .or(own.first())
            .map(|import| expiration_model(import)),
        key_manager: match row.manager {
            Manager::Customer => "CUSTOMER",
            Manager::Service => "AWS",
        },
        customer_master_key_spec: row.spec.name(),
        key_spec: row.spec.name(),
        encryption_algorithms: row.encryption_algorithms(),
        signing_algorithms: row.signing_algorithms(),
        key_agreement_algorithms: row.key_agreement_algorithms(),
        encapsulation_algorithms: row.encapsulation_algorithms(),
        multi_region: arn.key.multi_region,
        multi_region_configuration: row
            .related
            .as_ref()
            .map(|related| relatives(arn, related))
            .transpose()?,
        pending_deletion_window_in_days: waits,
        mac_algorithms: row.mac_algorithms(),
        current_key_material_id: current.filter(|_| row.spec == KeySpec::Symmetric),
    })
}

fn relatives(arn: &KeyArn, related: &Related) -> Result<MultiRegionConfiguration> {
    let one = |name: &String| {
        let region = name
            .parse()
            .map_err(|_| refused(KmsErrorKind::Internal, format!("the row of {arn} is damaged")))?;
        let arn = KeyArn { region, ..arn.clone() };
        Ok(MultiRegionKey { arn: arn.to_string(), region: name.clone() })
    };
    let leads = related.primary == arn.region.as_str();
    Ok(MultiRegionConfiguration {
        multi_region_key_type: if leads { "PRIMARY" } else { "REPLICA" },
        primary_key: one(&related.primary)?,
        replica_keys: related.replicas.iter().map(one).collect::<Result<_>>()?,
    })
}

/// Refuses one more key in an account that has as many as it may.
pub fn room_for_a_key(tx: &dyn ReadTx, account: &str) -> Result<()> {
    if rows::key_count(tx, account)? < MOST_KEYS {
        return Ok(());
    }
    let message = format!("the account has {MOST_KEYS} keys, and no more are allowed");
    Err(refused(KmsErrorKind::LimitExceeded, message))
}

impl CreateKeyRequest {
    fn asked_spec(&self) -> &str {
        self.key_spec.as_deref().or(self.customer_master_key_spec.as_deref()).unwrap_or(SYMMETRIC_DEFAULT)
    }

    fn is_external(&self) -> bool {
        self.origin.as_deref() == Some(EXTERNAL)
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
        if self.origin.as_deref().is_some_and(|o| o != "AWS_KMS" && o != EXTERNAL)
            || self.custom_key_store_id.is_some()
            || self.xks_key_id.is_some()
        {
            return Err(unsupported("this key service has no custom key stores"));
        }
        if self.is_external() && self.kind()?.1 == KeyUsage::EncapsulateDecapsulate {
            return Err(unsupported("key material of ML-KEM cannot be imported into this key service"));
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
    fn preparation(&self) -> Option<Preparation<'_>> {
        if self.is_external() { None } else { Some(Box::new(|| Ok(self.kind()?.0.generate()?))) }
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let account = call.account().clone();
        room_for_a_key(call.reader()?, account.as_str())?;
        let (spec, usage) = self.kind()?;
        let (id, now) = (KeyId::generate(self.multi_region == Some(true))?, call.now.as_millisecond());
        let arn = KeyArn { region: call.region.region.clone(), account, key: id };
        if !self.tags.is_empty() {
            call.in_account("kms:TagResource", &arn.account, &arn.to_string())?;
        }
        let import = if self.is_external() { Some(Import::new(&call.region.root, &arn)?) } else { None };
        let kind = (spec, usage, if import.is_some() { EXTERNAL } else { "AWS_KMS" });
        let policy = match &self.policy {
            Some(text) => own_policy(call, &arn, kind, text, self.bypass_policy_lockout_safety_check)?,
            None => KeyPolicy::AccountRoot,
        };
        let row = KeyRow {
            account: arn.account.to_string(),
            created: now,
            description: self.description.clone().unwrap_or_default(),
            manager: Manager::Customer,
            state: if import.is_some() { State::PendingImport } else { State::Enabled },
            policy,
            tags: rows::tag_pairs(&self.tags),
            current: 0,
            on_demand: 0,
            spec,
            usage,
            import,
            related: id.multi_region.then(|| Related::primary(&arn.region)),
        };
        let mut materials = Vec::new();
        if let Some(made) = call.prepared {
            let material = rows::seal_material(&call.region.root, &arn, spec, made, now, Rotation::First)?;
            materials.push((0, material));
        }
        let tx = call.writer()?;
        rows::new_key(tx, &id, &row)?;
        for (number, material) in &materials {
            rows::put_material(tx, &id, *number, material)?;
        }
        call.note(&arn);
        call.notes.changed = Some(arn.to_string());
        Ok(DescribeKeyResponse { key_metadata: describe(&arn, &row, &materials, &BTreeMap::new())? })
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
        let key_metadata = describe(&key.arn, &key.row, &key.materials, &key.imports)?;
        Ok(DescribeKeyResponse { key_metadata })
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
    not_updating(key)?;
    let state = before.next(step, &key.arn_text)?;
    let row = KeyRow { state, ..key.row.clone() };
    // A key whose material is gone does not become usable by being kept.
    let state = match row.import {
        Some(_) => imported::settled(&row, &key.materials, &key.imports),
        None => state,
    };
    let leads = row.leads(&call.region.region);
    let (id, region, now) = (key.arn.key, call.region, call.now);
    let tx = call.writer()?;
    if let State::PendingDeletion { due } = before {
        rows::delete_due(tx, due, &id)?;
    }
    if let State::PendingDeletion { due } = state {
        rows::put_due(tx, due, &id)?;
    }
    let row = KeyRow { state, ..row };
    match rows::schedule(tx, &id)? {
        // Its date came while it was disabled.
        Some(due) if leads && state == State::Enabled && due.next <= now.as_millisecond() => {
            let event = schedule::rotate_by_schedule(region, tx, key, row, due, now)?;
            call.service_events.push(event);
            call.shares = true;
        }
        standing => {
            rows::put_key(tx, &id, &row)?;
            if standing.is_some() {
                rows::set_schedule(tx, &id, standing.as_ref(), leads && state == State::Enabled)?;
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
        let key = only(keys)?;
        // A primary key waits for its replicas first.
        let awaits = key.row.leads(&call.region.region)
            && key.row.related.as_ref().is_some_and(|related| !related.replicas.is_empty());
        let way = match u32::try_from(days) {
            Ok(days) if awaits => Step::AwaitReplicas { days },
            _ => Step::ScheduleDeletion { due },
        };
        let state = step(call, keys, way)?;
        Ok(ScheduleKeyDeletionResponse {
            key_id: only(keys)?.arn_text.clone(),
            deletion_date: state.deletion(),
            key_state: state.visible(),
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
