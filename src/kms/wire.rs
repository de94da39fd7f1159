//! Requests and answers in AWS's shapes: JSON with blobs in base64 and times as numbers of seconds. The bounds
//! are those of AWS's own model.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::KeyState;
use super::codec::{seconds, seconds_option};

/// Declares requests: fields that are absent in JSON have their default.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

/// Declares answers; what is None is left out of the JSON.
macro_rules! response {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Serialize)]
        #[serde(rename_all = "PascalCase")]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

mod grants;
mod import;
mod kem;
mod pairs;
mod replicas;
mod stores;
mod symmetric;
mod trail;
pub use grants::*;
pub use import::*;
pub use kem::*;
pub use pairs::*;
pub use replicas::*;
pub use stores::*;
pub use symmetric::*;
pub use trail::*;

/// A label of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// At most 128 characters, not beginning with `aws:`.
    pub tag_key: String,
    /// At most 256 characters.
    pub tag_value: String,
}

request! {
    /// CreateKey.
    CreateKeyRequest {
        /// A key policy; None: the default policy.
        policy: Option<String>,
        /// At most 8192 characters.
        description: Option<String>,
        /// What it is for; only symmetric keys go without.
        key_usage: Option<String>,
        /// The older name of KeySpec.
        customer_master_key_spec: Option<String>,
        /// SYMMETRIC_DEFAULT (the default), RSA_2048 and so on.
        key_spec: Option<String>,
        /// AWS_KMS (the default) or EXTERNAL.
        origin: Option<String>,
        /// Not here.
        custom_key_store_id: Option<String>,
        /// Not here.
        xks_key_id: Option<String>,
        /// Allows a policy that its maker cannot change again.
        bypass_policy_lockout_safety_check: bool,
        /// At most 50.
        tags: Vec<Tag>,
        /// A multi-Region primary key.
        multi_region: Option<bool>,
    }
}
request! {
    /// DescribeKey.
    DescribeKeyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// At most 10.
        grant_tokens: Vec<String>,
    }
}
request! {
    /// ListKeys.
    ListKeysRequest {
        /// 1 to 1000; None: 100.
        limit: Option<i64>,
        /// NextMarker of the page before.
        marker: Option<String>,
    }
}
request! {
    /// CreateAlias.
    CreateAliasRequest {
        /// alias/ and a name.
        alias_name: String,
        /// Key id or key ARN.
        target_key_id: String,
    }
}
request! {
    /// UpdateAlias.
    UpdateAliasRequest {
        /// An alias that exists.
        alias_name: String,
        /// Key id or key ARN.
        target_key_id: String,
    }
}
request! {
    /// DeleteAlias.
    DeleteAliasRequest {
        /// An alias that exists.
        alias_name: String,
    }
}
request! {
    /// ListAliases.
    ListAliasesRequest {
        /// Only this key's: key id or key ARN.
        key_id: Option<String>,
        /// 1 to 100; None: 50.
        limit: Option<i64>,
        /// NextMarker of the page before.
        marker: Option<String>,
    }
}
request! {
    /// EnableKey.
    EnableKeyRequest {
        /// Key id or key ARN.
        key_id: String,
    }
}
request! {
    /// DisableKey.
    DisableKeyRequest {
        /// Key id or key ARN.
        key_id: String,
    }
}
request! {
    /// EnableKeyRotation.
    EnableKeyRotationRequest {
        /// Key id or key ARN.
        key_id: String,
        /// 90 to 2560; None: 365.
        rotation_period_in_days: Option<i64>,
    }
}
request! {
    /// DisableKeyRotation.
    DisableKeyRotationRequest {
        /// Key id or key ARN.
        key_id: String,
    }
}
request! {
    /// GetKeyRotationStatus.
    GetKeyRotationStatusRequest {
        /// Key id or key ARN.
        key_id: String,
    }
}
request! {
    /// RotateKeyOnDemand.
    RotateKeyOnDemandRequest {
        /// Key id or key ARN.
        key_id: String,
    }
}
request! {
    /// ListKeyRotations.
    ListKeyRotationsRequest {
        /// Key id or key ARN.
        key_id: String,
        /// ROTATIONS_ONLY (the default) or ALL_KEY_MATERIAL, which shows the first material too.
        include_key_material: Option<String>,
        /// 1 to 1000; None: 100.
        limit: Option<i64>,
        /// NextMarker of the page before.
        marker: Option<String>,
    }
}
request! {
    /// TagResource.
    TagResourceRequest {
        /// Key id or key ARN.
        key_id: String,
        /// At most 50; those of the key with the same names get these values.
        tags: Option<Vec<Tag>>,
    }
}
request! {
    /// UntagResource.
    UntagResourceRequest {
        /// Key id or key ARN.
        key_id: String,
        /// Names; those that the key does not have are passed over.
        tag_keys: Option<Vec<String>>,
    }
}
request! {
    /// ListResourceTags.
    ListResourceTagsRequest {
        /// Key id or key ARN.
        key_id: String,
        /// 1 to 1000; None: 50.
        limit: Option<i64>,
        /// NextMarker of the page before.
        marker: Option<String>,
    }
}
request! {
    /// UpdateKeyDescription.
    UpdateKeyDescriptionRequest {
        /// Key id or key ARN.
        key_id: String,
        /// At most 8192 characters.
        description: Option<String>,
    }
}
request! {
    /// GetKeyLastUsage.
    GetKeyLastUsageRequest {
        /// Key id or key ARN.
        key_id: String,
    }
}
request! {
    /// ScheduleKeyDeletion.
    ScheduleKeyDeletionRequest {
        /// Key id or key ARN.
        key_id: String,
        /// 7 to 30; None: 30.
        pending_window_in_days: Option<i64>,
    }
}
request! {
    /// CancelKeyDeletion.
    CancelKeyDeletionRequest {
        /// Key id or key ARN.
        key_id: String,
    }
}
request! {
    /// GetKeyPolicy.
    GetKeyPolicyRequest {
        /// Key id or key ARN.
        key_id: String,
        /// `default`, the only name there is.
        policy_name: Option<String>,
    }
}

request! {
    /// PutKeyPolicy.
    PutKeyPolicyRequest {
        /// Key id or key ARN.
        key_id: String,
        /// `default`, the only name there is.
        policy_name: Option<String>,
        /// JSON.
        policy: String,
        /// Allows a policy that its maker cannot change again.
        bypass_policy_lockout_safety_check: bool,
    }
}
request! {
    /// ListKeyPolicies.
    ListKeyPoliciesRequest {
        /// Key id or key ARN.
        key_id: String,
        /// At most 1000.
        limit: Option<i64>,
        /// Where the last page ended.
        marker: Option<String>,
    }
}

response! {
    /// What DescribeKey tells of a key.
    #[derive(Debug, PartialEq)]
    KeyMetadata {
        /// The account it belongs to.
        #[serde(rename = "AWSAccountId")] aws_account_id: String,
        /// Its id.
        key_id: String,
        /// Its ARN.
        arn: String,
        /// When it was made.
        #[serde(with = "seconds")] creation_date: Timestamp,
        /// State is Enabled.
        enabled: bool,
        /// Free text.
        description: String,
        /// What it is for.
        key_usage: &'static str,
        /// Its state.
        key_state: KeyState,
        /// When it goes, while deletion is pending.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] deletion_date: Option<Timestamp>,
        /// AWS_KMS or EXTERNAL.
        origin: &'static str,
        /// When the first of its imported materials goes.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] valid_to: Option<Timestamp>,
        /// Whether imported material expires.
        #[serde(skip_serializing_if = "Option::is_none")] expiration_model: Option<&'static str>,
        /// CUSTOMER or AWS.
        key_manager: &'static str,
        /// The older name of KeySpec.
        customer_master_key_spec: &'static str,
        /// What kind it is.
        key_spec: &'static str,
        /// If it is for encryption.
        #[serde(skip_serializing_if = "Vec::is_empty")] encryption_algorithms: Vec<&'static str>,
        /// If it is for signatures.
        #[serde(skip_serializing_if = "Vec::is_empty")] signing_algorithms: Vec<&'static str>,
        /// If it is for agreement.
        #[serde(skip_serializing_if = "Vec::is_empty")] key_agreement_algorithms: Vec<&'static str>,
        /// If it is for encapsulation.
        #[serde(skip_serializing_if = "Vec::is_empty")] encapsulation_algorithms: Vec<&'static str>,
        /// A multi-Region key.
        multi_region: bool,
        /// The keys related to a multi-Region key.
        #[serde(skip_serializing_if = "Option::is_none")] multi_region_configuration: Option<MultiRegionConfiguration>,
        /// The waiting period of a primary key that waits for its replicas first.
        #[serde(skip_serializing_if = "Option::is_none")] pending_deletion_window_in_days: Option<u32>,
        /// If it is for codes.
        #[serde(skip_serializing_if = "Vec::is_empty")] mac_algorithms: Vec<&'static str>,
        /// The material that Encrypt uses, of a symmetric key.
        #[serde(skip_serializing_if = "Option::is_none")] current_key_material_id: Option<String>,
    }
}
/// Answer of CreateKey.
pub type CreateKeyResponse = DescribeKeyResponse;
/// Answer of RotateKeyOnDemand.
pub type RotateKeyOnDemandResponse = KeyIdResponse;
/// Answer of CancelKeyDeletion.
pub type CancelKeyDeletionResponse = KeyIdResponse;

response! {
    /// Answer of CreateKey and DescribeKey.
    #[derive(Debug, PartialEq)]
    DescribeKeyResponse {
        /// The key.
        key_metadata: KeyMetadata,
    }
}
response! {
    /// One key of ListKeys.
    #[derive(Debug, PartialEq)]
    KeyListEntry {
        /// Its id.
        key_id: String,
        /// Its ARN.
        key_arn: String,
    }
}
response! {
    /// Answer of ListKeys.
    #[derive(Debug)]
    ListKeysResponse {
        /// By key id.
        keys: Vec<KeyListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] next_marker: Option<String>,
        /// There is a next page.
        truncated: bool,
    }
}
response! {
    /// One alias of ListAliases.
    #[derive(Debug, PartialEq)]
    AliasListEntry {
        /// alias/ and a name.
        alias_name: String,
        /// Its ARN.
        alias_arn: String,
        /// Id of the key it stands for.
        target_key_id: String,
        /// When it was made.
        #[serde(with = "seconds")] creation_date: Timestamp,
        /// When it last changed its key.
        #[serde(with = "seconds")] last_updated_date: Timestamp,
    }
}
response! {
    /// Answer of ListAliases.
    #[derive(Debug)]
    ListAliasesResponse {
        /// By name.
        aliases: Vec<AliasListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] next_marker: Option<String>,
        /// There is a next page.
        truncated: bool,
    }
}
response! {
    /// Answer of RotateKeyOnDemand and CancelKeyDeletion.
    #[derive(Debug)]
    KeyIdResponse {
        /// ARN of the key.
        key_id: String,
    }
}
response! {
    /// Answer of GetKeyRotationStatus. A rotation on demand is over when its call returns, so that there is no
    /// OnDemandRotationStartDate.
    #[derive(Debug)]
    GetKeyRotationStatusResponse {
        /// The key rotates by schedule; false while its deletion is pending.
        key_rotation_enabled: bool,
        /// Id of the key.
        key_id: String,
        /// Days from one rotation to the next.
        #[serde(skip_serializing_if = "Option::is_none")] rotation_period_in_days: Option<u32>,
        /// When it rotates next; in the past, if the key was disabled then.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] next_rotation_date: Option<Timestamp>,
    }
}
response! {
    /// One material of a key.
    #[derive(Debug, PartialEq)]
    RotationsListEntry {
        /// Id of the key.
        key_id: String,
        /// 64 hex digits.
        key_material_id: String,
        /// What it was imported as.
        #[serde(skip_serializing_if = "Option::is_none")] key_material_description: Option<String>,
        /// IMPORTED or PENDING_IMPORT, of imported material.
        #[serde(skip_serializing_if = "Option::is_none")] import_state: Option<&'static str>,
        /// CURRENT, NON_CURRENT or, of imported material, PENDING_ROTATION or
        /// PENDING_MULTI_REGION_IMPORT_AND_ROTATION.
        key_material_state: &'static str,
        /// Whether it expires, of imported material.
        #[serde(skip_serializing_if = "Option::is_none")] expiration_model: Option<&'static str>,
        /// When it expires.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] valid_to: Option<Timestamp>,
        /// When it became current; None: it is the first.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] rotation_date: Option<Timestamp>,
        /// ON_DEMAND or AUTOMATIC; None: it is the first.
        #[serde(skip_serializing_if = "Option::is_none")] rotation_type: Option<&'static str>,
    }
}
response! {
    /// Answer of ListKeyRotations.
    #[derive(Debug)]
    ListKeyRotationsResponse {
        /// Oldest first.
        rotations: Vec<RotationsListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] next_marker: Option<String>,
        /// There is a next page.
        truncated: bool,
    }
}
response! {
    /// Answer of ListResourceTags.
    #[derive(Debug)]
    ListResourceTagsResponse {
        /// By name.
        tags: Vec<Tag>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] next_marker: Option<String>,
        /// There is a next page.
        truncated: bool,
    }
}
response! {
    /// The last use of a key; empty if there was none.
    #[derive(Debug, Default, PartialEq)]
    KeyLastUsageData {
        /// eventID of its event.
        #[serde(skip_serializing_if = "Option::is_none")] cloud_trail_event_id: Option<String>,
        /// requestID of its event.
        #[serde(skip_serializing_if = "Option::is_none")] kms_request_id: Option<String>,
        /// Such as Decrypt.
        #[serde(skip_serializing_if = "Option::is_none")] operation: Option<String>,
        /// To the second.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] timestamp: Option<Timestamp>,
    }
}
response! {
    /// Answer of GetKeyLastUsage.
    #[derive(Debug)]
    GetKeyLastUsageResponse {
        /// When the key was made.
        #[serde(with = "seconds")] key_creation_date: Timestamp,
        /// Id of the key.
        key_id: String,
        /// The last cryptographic operation with it that succeeded.
        key_last_usage: KeyLastUsageData,
        /// Since when uses are known.
        #[serde(with = "seconds")] tracking_start_date: Timestamp,
    }
}
response! {
    /// Answer of ScheduleKeyDeletion.
    #[derive(Debug)]
    ScheduleKeyDeletionResponse {
        /// ARN of the key.
        key_id: String,
        /// When it goes; not known of a primary key that has replicas.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] deletion_date: Option<Timestamp>,
        /// PendingDeletion or PendingReplicaDeletion.
        key_state: KeyState,
        /// Days from the call to the end.
        pending_window_in_days: i64,
    }
}
response! {
    /// Answer of GetKeyPolicy.
    #[derive(Debug)]
    GetKeyPolicyResponse {
        /// JSON.
        policy: String,
        /// `default`.
        policy_name: &'static str,
    }
}
response! {
    /// Answer of ListKeyPolicies.
    #[derive(Debug)]
    ListKeyPoliciesResponse {
        /// `default`.
        policy_names: Vec<&'static str>,
        /// Never.
        truncated: bool,
    }
}
