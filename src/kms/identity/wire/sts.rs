//! Sessions.

use serde::{Deserialize, Serialize};

use super::IdentityTag;
use crate::kms::identity::flexible;

/// A managed policy, by its ARN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyDescriptor {
    /// Its ARN.
    pub arn: String,
}

requests! {
    /// GetCallerIdentity.
    GetCallerIdentityRequest {}
    /// GetSessionToken.
    GetSessionTokenRequest {
        /// 900 to 129600; None: 43200. Root's: at most 3600.
        #[serde(deserialize_with = "flexible::number")] duration_seconds: Option<i64>,
        /// Not here: there are no such devices.
        serial_number: Option<String>,
        /// Not here.
        token_code: Option<String>,
    }
    /// AssumeRole.
    AssumeRoleRequest {
        /// Which.
        role_arn: String,
        /// 2 to 64 of letters, digits and `_+=,.@-`.
        role_session_name: String,
        /// At most 10 managed policies that limit the session.
        policy_arns: Vec<PolicyDescriptor>,
        /// A policy that limits the session.
        policy: Option<String>,
        /// 900 to 43200; None: 3600.
        #[serde(deserialize_with = "flexible::number")] duration_seconds: Option<i64>,
        /// At most 50.
        tags: Vec<IdentityTag>,
        /// Names of tags that the next session of a chain has too.
        transitive_tag_keys: Vec<String>,
        /// What the role's owner and the caller agreed on.
        external_id: Option<String>,
        /// Not here: there are no such devices.
        serial_number: Option<String>,
        /// Not here.
        token_code: Option<String>,
        /// Who is behind it.
        source_identity: Option<String>,
    }
}
