//! Requests and answers of grants.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::EncryptionContext;
use super::super::codec::seconds;

/// When a grant counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GrantConstraints {
    /// Pairs that the request's encryption context must have, among others. At most 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_context_subset: Option<EncryptionContext>,
    /// The pairs that the request's encryption context must have, and no others. At most 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_context_equals: Option<EncryptionContext>,
    /// The resource for which a service must ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_arn: Option<String>,
}

request! {
    /// CreateGrant.
    CreateGrantRequest {
        /// Key id or key ARN.
        key_id: String,
        /// ARN of a root, user, role or session: who gets the permissions. This or a service.
        grantee_principal: Option<String>,
        /// ARN of who may retire the grant. This or a service, or nobody.
        retiring_principal: Option<String>,
        /// Such as Decrypt; at least one.
        operations: Option<Vec<String>>,
        /// When it counts; None: always.
        constraints: Option<GrantConstraints>,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// The same request under the same name answers the same grant.
        name: Option<String>,
        /// Decide and do nothing.
        dry_run: bool,
        /// Name of the service that gets the permissions.
        grantee_service_principal: Option<String>,
        /// Name of the service that may retire the grant.
        retiring_service_principal: Option<String>,
    }
}
request! {
    /// ListGrants.
    ListGrantsRequest {
        /// 1 to 1000; None: 50.
        limit: Option<i64>,
        /// NextMarker of the page before.
        marker: Option<String>,
        /// Key id or key ARN.
        key_id: String,
        /// Only this one: 64 hex digits.
        grant_id: Option<String>,
        /// Only this principal's: an ARN.
        grantee_principal: Option<String>,
        /// Only this service's; for services alone.
        grantee_service_principal: Option<String>,
    }
}
request! {
    /// ListRetirableGrants.
    ListRetirableGrantsRequest {
        /// 1 to 1000; None: 50.
        limit: Option<i64>,
        /// NextMarker of the page before.
        marker: Option<String>,
        /// ARN of a principal of the caller's account. This or a service.
        retiring_principal: Option<String>,
        /// Name of a service; for services alone.
        retiring_service_principal: Option<String>,
    }
}
request! {
    /// RetireGrant: a token, or a key and a grant's id.
    RetireGrantRequest {
        /// As CreateGrant answered it.
        grant_token: Option<String>,
        /// Key id or key ARN.
        key_id: Option<String>,
        /// 64 hex digits.
        grant_id: Option<String>,
        /// Decide and do nothing.
        dry_run: bool,
    }
}
request! {
    /// RevokeGrant.
    RevokeGrantRequest {
        /// Key id or key ARN.
        key_id: String,
        /// 64 hex digits.
        grant_id: String,
        /// Decide and do nothing.
        dry_run: bool,
    }
}

response! {
    /// Answer of CreateGrant.
    #[derive(Debug, PartialEq)]
    CreateGrantResponse {
        /// 64 hex digits.
        grant_id: String,
        /// Another one at each call. All of a grant's are as good.
        grant_token: String,
    }
}
response! {
    /// One grant of a list.
    #[derive(Debug, PartialEq)]
    GrantListEntry {
        /// ARN of the key.
        key_id: String,
        /// 64 hex digits.
        grant_id: String,
        /// As it was given.
        #[serde(skip_serializing_if = "Option::is_none")] name: Option<String>,
        /// When it was made.
        #[serde(with = "seconds")] creation_date: Timestamp,
        /// Who has the permissions.
        #[serde(skip_serializing_if = "Option::is_none")] grantee_principal: Option<String>,
        /// Who may retire it.
        #[serde(skip_serializing_if = "Option::is_none")] retiring_principal: Option<String>,
        /// Root ARN of the account that made it.
        issuing_account: String,
        /// Such as Decrypt.
        operations: Vec<&'static str>,
        /// When it counts.
        #[serde(skip_serializing_if = "Option::is_none")] constraints: Option<GrantConstraints>,
        /// The service that has the permissions.
        #[serde(skip_serializing_if = "Option::is_none")] grantee_service_principal: Option<String>,
        /// The service that may retire it.
        #[serde(skip_serializing_if = "Option::is_none")] retiring_service_principal: Option<String>,
    }
}
response! {
    /// Answer of ListGrants and ListRetirableGrants.
    #[derive(Debug)]
    ListGrantsResponse {
        /// By key and grant id.
        grants: Vec<GrantListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] next_marker: Option<String>,
        /// There is a next page.
        truncated: bool,
    }
}
