//! Roles.

use serde::{Deserialize, Serialize};

use super::IdentityTag;
use crate::kms::identity::flexible;

requests! {
    /// CreateRole.
    CreateRoleRequest {
        /// `/` (the default) or `/a/b/`.
        path: Option<String>,
        /// At most 64 of letters, digits and `_+=,.@-`.
        role_name: String,
        /// Who may assume it.
        assume_role_policy_document: String,
        /// At most 1000 characters.
        description: Option<String>,
        /// Seconds: 3600 (the default) to 43200.
        #[serde(deserialize_with = "flexible::number")] max_session_duration: Option<i64>,
        /// ARN of a managed policy.
        permissions_boundary: Option<String>,
        /// At most 50.
        tags: Vec<IdentityTag>,
    }
    /// GetRole.
    GetRoleRequest {
        /// Which.
        role_name: String,
    }
    /// ListRoles.
    ListRolesRequest {
        /// Only those under it.
        path_prefix: Option<String>,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// UpdateRole.
    UpdateRoleRequest {
        /// Which.
        role_name: String,
        /// At most 1000 characters; None: as it is.
        description: Option<String>,
        /// Seconds: 3600 to 43200; None: as it is.
        #[serde(deserialize_with = "flexible::number")] max_session_duration: Option<i64>,
    }
    /// UpdateAssumeRolePolicy.
    UpdateAssumeRolePolicyRequest {
        /// Which.
        role_name: String,
        /// Who may assume it.
        policy_document: String,
    }
    /// DeleteRole.
    DeleteRoleRequest {
        /// One that has nothing any more.
        role_name: String,
    }
    /// TagRole.
    TagRoleRequest {
        /// Which.
        role_name: String,
        /// Those with the same names get these values.
        tags: Vec<IdentityTag>,
    }
    /// UntagRole.
    UntagRoleRequest {
        /// Which.
        role_name: String,
        /// Names; those that are not there are passed over.
        tag_keys: Vec<String>,
    }
    /// ListRoleTags.
    ListRoleTagsRequest {
        /// Which.
        role_name: String,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
}
