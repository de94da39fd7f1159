//! One event, in CloudTrail's shape (eventVersion 1.11).

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crypto::{CryptoError, random};

/// Text that is mostly a constant.
pub type Text = Cow<'static, str>;

/// The version of the shape.
pub const EVENT_VERSION: &str = "1.11";
/// eventSource of the key service's own operations.
pub const KMS_SOURCE: &str = "kms.amazonaws.com";
/// eventSource of what looks at the log.
pub const TRAIL_SOURCE: &str = "cloudtrail.amazonaws.com";
/// eventSource of what happens to files.
pub const FILES_SOURCE: &str = "kmsfs";
/// eventSource of calls to a key service over the network, as their caller saw them.
pub const CLIENT_SOURCE: &str = "kmsfs-client";

/// An event. `P` is the shape of its request parameters and `R` that of its answer: what an operation writes, any JSON
/// when it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<P = Option<Value>, R = Option<Value>> {
    /// "1.11".
    pub event_version: Text,
    /// Who called.
    pub user_identity: Identity,
    /// When, to the second.
    #[serde(with = "event_time")]
    pub event_time: Timestamp,
    /// kms.amazonaws.com, or kmsfs for files.
    pub event_source: Text,
    /// The operation.
    pub event_name: Text,
    /// The region.
    pub aws_region: String,
    /// Where the call came from.
    #[serde(rename = "sourceIPAddress")]
    pub source_ip_address: String,
    /// What called.
    pub user_agent: String,
    /// AWS's name of the error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<Text>,
    /// Why it failed: the true reason, where the answer was less telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Without plaintexts and ciphertexts.
    pub request_parameters: P,
    /// Null for cryptographic operations.
    pub response_elements: R,
    /// What AWS adds beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_event_data: Option<Additional>,
    /// UUID of the request.
    #[serde(rename = "requestID")]
    pub request_id: String,
    /// UUID of this event.
    #[serde(rename = "eventID")]
    pub event_id: String,
    /// True if nothing that lasts was changed.
    pub read_only: bool,
    /// The keys concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// AwsApiCall or AwsServiceEvent.
    pub event_type: Text,
    /// False for what happens to files.
    pub management_event: bool,
    /// The account whose log this is.
    pub recipient_account_id: String,
    /// Management or Data.
    pub event_category: Text,
    /// What the service did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_event_details: Option<ServiceEventDetails>,
}

/// Who called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Root, or AWSService for what the service does by itself.
    #[serde(rename = "type")]
    pub kind: Text,
    /// The principal's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The principal's ARN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// Its account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The access key that signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// A user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Where the caller is a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_context: Option<SessionContext>,
    /// The service that called for the principal, or by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<Text>,
}

/// What CloudTrail tells of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionContext {
    /// Whose it is, where it is a role's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_issuer: Option<SessionIssuer>,
    /// When it began.
    pub attributes: SessionAttributes,
    /// Who is behind it, as was said at its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<String>,
}

/// The role of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionIssuer {
    /// Role.
    #[serde(rename = "type")]
    pub kind: Text,
    /// AROA...
    pub principal_id: String,
    /// Its ARN.
    pub arn: String,
    /// Its account.
    pub account_id: String,
    /// Its name.
    pub user_name: String,
}

/// See [`SessionContext`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAttributes {
    /// When it began.
    #[serde(with = "event_time")]
    pub creation_date: Timestamp,
    /// Never.
    pub mfa_authenticated: Text,
}

/// What a change answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// ARN of the key.
    pub key_id: String,
    /// Id of the grant that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<String>,
}

/// What AWS adds to events of a key's material.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Additional {
    /// 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
    /// ReEncrypt: of the key it was under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_key_material_id: Option<String>,
    /// ReEncrypt: of the key it is under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_key_material_id: Option<String>,
    /// RetireGrant: the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<String>,
    /// The user of this machine, where files are concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// How often a call over the network was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// What AWS tells of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEventDetails {
    /// AUTOMATIC or ON_DEMAND.
    pub rotation_type: Text,
    /// The key's id.
    pub key_id: String,
}

/// A key that an event concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// The account it belongs to.
    #[serde(rename = "accountId")]
    pub account_id: String,
    /// AWS::KMS::Key.
    #[serde(rename = "type")]
    pub kind: Text,
    /// Its ARN.
    #[serde(rename = "ARN")]
    pub arn: String,
}

impl Resource {
    /// A KMS key.
    pub fn key(account: &str, arn: String) -> Self {
        Self { account_id: account.to_owned(), kind: "AWS::KMS::Key".into(), arn }
    }
}

/// A random UUID (RFC 9562, version 4).
pub fn uuid() -> Result<String, CryptoError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let h = hex::encode(bytes);
    Ok(format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]))
}

/// RFC 3339, in seconds.
pub(super) mod event_time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        // A second of a time is a time.
        let second = Timestamp::from_second(time.as_second()).unwrap_or(*time);
        to.collect_str(&second)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
