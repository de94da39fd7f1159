//! The events that the service writes, as JSON.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::blob::MaterialId;
use super::cache::Key;
use super::identity::{Identified, principal_id};
use super::region::Core;
use super::session::Caller;
use super::wire::{GrantConstraints, LookupAttribute, Tag};
use super::{EncryptionContext, FileEvent, KmsError, KmsErrorKind, remote};
use crate::audit::{
    Additional, EVENT_VERSION, Event, FILES_SOURCE, Identity, KMS_SOURCE, Resource, Response,
    ServiceEventDetails, SessionAttributes, SessionContext, SessionIssuer, Text, bounded, uuid,
};
use crate::iam::Principal;

/// The name under which the service calls for others and by itself.
pub const SERVICE: &str = "kmsfs";

/// requestParameters of an operation: what is None or empty is left out.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_context: Option<&'a EncryptionContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_encryption_context: Option<&'a EncryptionContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_encryption_context: Option<&'a EncryptionContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_encryption_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_encryption_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number_of_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_spec: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_pair_spec: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_agreement_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encapsulation_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_usage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_region: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "camel")]
    pub tags: Option<&'a [Tag]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag_keys: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass_policy_lockout_safety_check: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_window_in_days: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_period_in_days: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_key_material: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grantee_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grantee_service_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retiring_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retiring_service_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "camel_constraints")]
    pub constraints: Option<&'a GrantConstraints>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrapping_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrapping_key_spec: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration_model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup_attributes: Option<&'a [LookupAttribute]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_category: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_results: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trail_name_list: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_shadow_trails: Option<bool>,
}

/// Tags as CloudTrail spells them; AWS's requests begin their fields with capitals.
fn camel<S: Serializer>(tags: &Option<&[Tag]>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Camel<'a> {
        tag_key: &'a str,
        tag_value: &'a str,
    }
    to.collect_seq(
        tags.unwrap_or_default().iter().map(|t| Camel { tag_key: &t.tag_key, tag_value: &t.tag_value }),
    )
}

/// Constraints of a grant, the same way.
fn camel_constraints<S: Serializer>(
    constraints: &Option<&GrantConstraints>,
    to: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Camel<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        encryption_context_subset: Option<&'a EncryptionContext>,
        #[serde(skip_serializing_if = "Option::is_none")]
        encryption_context_equals: Option<&'a EncryptionContext>,
        #[serde(skip_serializing_if = "Option::is_none")]
        source_arn: Option<&'a str>,
    }
    let camel = constraints.map(|c| Camel {
        encryption_context_subset: c.encryption_context_subset.as_ref(),
        encryption_context_equals: c.encryption_context_equals.as_ref(),
        source_arn: c.source_arn.as_deref(),
    });
    camel.serialize(to)
}

/// An encryption context, unless it is empty.
pub fn some(context: &EncryptionContext) -> Option<&EncryptionContext> {
    Some(context).filter(|c| !c.is_empty())
}

/// What an operation adds to its event while it runs.
#[derive(Default)]
pub struct Notes {
    /// Keys it concerns.
    pub resources: Vec<Resource>,
    /// ARN of the key that a change answers.
    pub changed: Option<String>,
    /// Id of the grant that it answers.
    pub grant: Option<String>,
    /// Key material.
    pub additional: Option<Additional>,
}

impl Notes {
    /// Names the material that a change concerns.
    pub fn material(&mut self, id: &MaterialId) {
        self.additional =
            Some(Additional { key_material_id: Some(hex::encode(id)), ..Additional::default() });
    }
}

/// The event of one call.
pub struct CallEvent<'a> {
    pub region: &'a Core,
    pub caller: &'a Caller,
    pub via: Option<&'static str>,
    pub source: &'static str,
    pub name: &'static str,
    pub read_only: bool,
    pub time: Timestamp,
    pub request_id: &'a str,
}

impl CallEvent<'_> {
    /// Its JSON. With an error, its name and the true reason.
    pub fn json<P: Serialize>(
        &self,
        parameters: Option<P>,
        notes: Notes,
        error: Option<(KmsErrorKind, String)>,
    ) -> Result<Vec<u8>, KmsError> {
        let account = self.caller.principal.account().to_string();
        let (error_code, error_message) = match error {
            Some((kind, message)) => (Some(Text::Borrowed(kind.name())), Some(message)),
            None => (None, None),
        };
        let event = Event {
            event_version: EVENT_VERSION.into(),
            user_identity: identity(self.caller, self.via),
            event_time: self.time,
            event_source: self.source.into(),
            event_name: self.name.into(),
            aws_region: self.region.region.to_string(),
            source_ip_address: self.caller.source_ip.clone(),
            user_agent: self.caller.user_agent.clone(),
            error_code,
            error_message,
            request_parameters: parameters,
            response_elements: notes.changed.map(|key_id| Response { key_id, grant_id: notes.grant }),
            additional_event_data: notes.additional,
            request_id: self.request_id.to_owned(),
            event_id: uuid()?,
            read_only: self.read_only,
            resources: notes.resources,
            event_type: "AwsApiCall".into(),
            management_event: true,
            recipient_account_id: account,
            event_category: "Management".into(),
            service_event_details: None,
        };
        written(&event).map(bounded)
    }
}

/// Who called, as events tell it.
pub fn identity(caller: &Caller, via: Option<&'static str>) -> Identity {
    let principal = &caller.principal;
    let account = principal.account().to_string();
    let identified = caller.identified.as_deref();
    let (kind, user_name) = match principal {
        Principal::Root(_) => ("Root", None),
        Principal::User { name, .. } => ("IAMUser", name.rsplit('/').next().map(str::to_owned)),
        Principal::Role { .. } => ("Role", None),
        Principal::Session { .. } => ("AssumedRole", None),
        Principal::Service { .. } => ("AWSService", None),
    };
    Identity {
        kind: kind.into(),
        principal_id: principal_id(principal, identified, None),
        arn: Some(principal.arn()),
        account_id: Some(account),
        access_key_id: caller.access_key_id.clone(),
        user_name,
        session_context: identified.and_then(|identified| session_context(principal, identified)),
        invoked_by: via.map(Cow::Borrowed),
    }
}

fn session_context(principal: &Principal, identified: &Identified) -> Option<SessionContext> {
    let facts = identified.session.as_ref()?;
    let session_issuer = match principal {
        Principal::Session { account, role, .. } => Some(SessionIssuer {
            kind: "Role".into(),
            principal_id: identified.id.clone(),
            arn: principal.principal_arn(),
            account_id: account.to_string(),
            user_name: role.rsplit('/').next().unwrap_or(role).to_owned(),
        }),
        _ => None,
    };
    Some(SessionContext {
        session_issuer,
        attributes: SessionAttributes { creation_date: facts.issued, mfa_authenticated: "false".into() },
        source_identity: facts.source_identity.clone(),
    })
}

pub(super) fn written<P: Serialize>(event: &Event<P, Option<Response>>) -> Result<Vec<u8>, KmsError> {
    let mut out = Vec::with_capacity(1536);
    serde_json::to_writer(&mut out, event)
        .map_err(|e| KmsError::new(KmsErrorKind::Internal, format!("an event cannot be written: {e}")))?;
    Ok(out)
}

/// The event of a rotation, by schedule or on demand.
pub fn rotated(region: &Core, key: &Key, how: &'static str, time: Timestamp) -> Result<Vec<u8>, KmsError> {
    let details = ServiceEventDetails { rotation_type: how.into(), key_id: key.arn.key.to_string() };
    of_the_service(region, key, "RotateKey", Some(time), Some(details))
}

/// The event of something that the service does by itself with a key: DeleteKey, CreateKey.
pub fn by_the_service(
    region: &Core,
    key: &Key,
    name: &'static str,
    time: Option<Timestamp>,
) -> Result<Vec<u8>, KmsError> {
    of_the_service(region, key, name, time, None)
}

fn of_the_service(
    region: &Core,
    key: &Key,
    name: &'static str,
    time: Option<Timestamp>,
    details: Option<ServiceEventDetails>,
) -> Result<Vec<u8>, KmsError> {
    let event: Event<Option<Value>, Option<Response>> = Event {
        event_version: EVENT_VERSION.into(),
        user_identity: Identity {
            kind: "AWSService".into(),
            principal_id: None,
            arn: None,
            account_id: Some(key.row.account.clone()),
            access_key_id: None,
            user_name: None,
            session_context: None,
            invoked_by: Some(SERVICE.into()),
        },
        event_time: time.unwrap_or_else(|| region.clock.now()),
        event_source: KMS_SOURCE.into(),
        event_name: name.into(),
        aws_region: region.region.to_string(),
        source_ip_address: SERVICE.to_owned(),
        user_agent: SERVICE.to_owned(),
        error_code: None,
        error_message: None,
        request_parameters: None,
        response_elements: None,
        additional_event_data: None,
        request_id: uuid()?,
        event_id: uuid()?,
        read_only: false,
        resources: vec![Resource::key(&key.row.account, key.arn_text.clone())],
        event_type: "AwsServiceEvent".into(),
        management_event: true,
        recipient_account_id: key.row.account.clone(),
        event_category: "Management".into(),
        service_event_details: details,
    };
    written(&event)
}

/// The event of something that was done with the home as a whole, for the log of one of its regions.
pub fn of_the_home(
    region: &str,
    caller: &Caller,
    name: &'static str,
    time: Timestamp,
    parameters: Value,
) -> Result<Vec<u8>, KmsError> {
    let event = Event {
        event_version: EVENT_VERSION.into(),
        user_identity: identity(caller, None),
        event_time: time,
        event_source: FILES_SOURCE.into(),
        event_name: name.into(),
        aws_region: region.to_owned(),
        source_ip_address: caller.source_ip.clone(),
        user_agent: caller.user_agent.clone(),
        error_code: None,
        error_message: None,
        request_parameters: Some(parameters),
        response_elements: None,
        additional_event_data: None,
        request_id: uuid()?,
        event_id: uuid()?,
        read_only: false,
        resources: Vec::new(),
        event_type: "AwsApiCall".into(),
        management_event: true,
        recipient_account_id: caller.principal.account().to_string(),
        event_category: "Management".into(),
        service_event_details: None,
    };
    written(&event).map(bounded)
}

/// The event of something that happened to a file.
pub fn of_a_file(region: &Core, caller: &Caller, event: FileEvent) -> Result<Vec<u8>, KmsError> {
    let account = caller.principal.account().to_string();
    let (mut resources, mut uid, mut error) = (Vec::new(), None, None);
    let (name, read_only, parameters) = match event {
        FileEvent::RemoteCall(call) => return remote::event(region, caller, call),
        FileEvent::OpenFile { volume_id, file_id, key_arn, uid: by } => {
            // The fifth part of an ARN is its account.
            let owner = key_arn.split(':').nth(4).unwrap_or(&account).to_owned();
            resources.push(Resource::key(&owner, key_arn));
            uid = Some(by);
            ("OpenFile", true, json!({"volumeId": volume_id, "fileId": file_id}))
        }
        FileEvent::MountVolume { volume_id, epoch } => {
            ("MountVolume", false, json!({"volumeId": volume_id, "epoch": epoch}))
        }
        FileEvent::UnmountVolume { volume_id, epoch } => {
            ("UnmountVolume", false, json!({"volumeId": volume_id, "epoch": epoch}))
        }
        FileEvent::MendFile { volume_id, file_id, size_before, size_after } => (
            "MendFile",
            false,
            json!({"volumeId": volume_id, "fileId": file_id, "sizeBefore": size_before, "sizeAfter": size_after}),
        ),
        FileEvent::DamagedFile { volume_id, file_id, what } => {
            error = Some(what);
            ("DamagedFile", true, json!({"volumeId": volume_id, "fileId": file_id}))
        }
        FileEvent::ShredFile { volume_id, file_id, uid: by } => {
            uid = Some(by);
            ("ShredFile", false, json!({"volumeId": volume_id, "fileId": file_id}))
        }
        FileEvent::ShredTree { volume_id, files, uid: by } => {
            uid = Some(by);
            ("ShredTree", false, json!({"volumeId": volume_id, "files": files}))
        }
        FileEvent::Snapshot { action, volume_id, snapshot_id, name } => (
            action.event_name(),
            false,
            json!({"volumeId": volume_id, "snapshotId": snapshot_id, "name": name}),
        ),
    };
    let event = Event {
        event_version: EVENT_VERSION.into(),
        user_identity: identity(caller, None),
        event_time: region.clock.now(),
        event_source: FILES_SOURCE.into(),
        event_name: name.into(),
        aws_region: region.region.to_string(),
        source_ip_address: caller.source_ip.clone(),
        user_agent: caller.user_agent.clone(),
        error_code: error.is_some().then_some("DamagedFile".into()),
        error_message: error,
        request_parameters: Some(parameters),
        response_elements: None,
        additional_event_data: uid.map(|uid| Additional { uid: Some(uid), ..Additional::default() }),
        request_id: uuid()?,
        event_id: uuid()?,
        read_only,
        resources,
        event_type: "AwsApiCall".into(),
        management_event: false,
        recipient_account_id: account,
        event_category: "Data".into(),
        service_event_details: None,
    };
    written(&event)
}
