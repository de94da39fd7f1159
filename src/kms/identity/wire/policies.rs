//! Managed policies, and the policies that users, groups and roles have.

use serde::{Deserialize, Serialize};

use super::IdentityTag;
use crate::kms::identity::flexible;

requests! {
    /// CreatePolicy.
    CreatePolicyRequest {
        /// At most 128 of letters, digits and `_+=,.@-`.
        policy_name: String,
        /// `/` (the default) or `/a/b/`.
        path: Option<String>,
        /// JSON.
        policy_document: String,
        /// At most 1000 characters.
        description: Option<String>,
        /// At most 50.
        tags: Vec<IdentityTag>,
    }
    /// GetPolicy.
    GetPolicyRequest {
        /// Which.
        policy_arn: String,
    }
    /// ListPolicies.
    ListPoliciesRequest {
        /// All (the default), AWS or Local.
        scope: Option<String>,
        /// Only those that somebody has.
        #[serde(deserialize_with = "flexible::flag")] only_attached: bool,
        /// Only those under it.
        path_prefix: Option<String>,
        /// PermissionsPolicy or PermissionsBoundary.
        policy_usage_filter: Option<String>,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// DeletePolicy.
    DeletePolicyRequest {
        /// One that nobody has.
        policy_arn: String,
    }
    /// CreatePolicyVersion.
    CreatePolicyVersionRequest {
        /// Of which.
        policy_arn: String,
        /// JSON.
        policy_document: String,
        /// It counts from now on.
        #[serde(deserialize_with = "flexible::flag")] set_as_default: bool,
    }
    /// GetPolicyVersion.
    GetPolicyVersionRequest {
        /// Of which.
        policy_arn: String,
        /// v1 and so on.
        version_id: String,
    }
    /// ListPolicyVersions.
    ListPolicyVersionsRequest {
        /// Of which.
        policy_arn: String,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// SetDefaultPolicyVersion.
    SetDefaultPolicyVersionRequest {
        /// Of which.
        policy_arn: String,
        /// v1 and so on.
        version_id: String,
    }
    /// DeletePolicyVersion.
    DeletePolicyVersionRequest {
        /// Of which.
        policy_arn: String,
        /// One that does not count.
        version_id: String,
    }
    /// ListEntitiesForPolicy: who has it.
    ListEntitiesForPolicyRequest {
        /// Which.
        policy_arn: String,
        /// User, Group or Role.
        entity_filter: Option<String>,
        /// PermissionsPolicy (the default) or PermissionsBoundary.
        policy_usage_filter: Option<String>,
    }
}

/// The requests about the policies of one kind of owner.
macro_rules! of_owner {
    ($owner:ident: $attach:ident $detach:ident $list_attached:ident $put:ident $get:ident $delete:ident $list:ident) => {
        requests! {
            /// Attaches a managed policy.
            $attach {
                /// To whom.
                $owner: String,
                /// Which.
                policy_arn: String,
            }
            /// Detaches a managed policy.
            $detach {
                /// From whom.
                $owner: String,
                /// Which.
                policy_arn: String,
            }
            /// Lists the managed policies.
            $list_attached {
                /// Whose.
                $owner: String,
                /// Only those under it.
                path_prefix: Option<String>,
                /// 1 to 1000; None: 100.
                #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
                /// Marker of the page before.
                marker: Option<String>,
            }
            /// Sets an own policy.
            $put {
                /// Whose.
                $owner: String,
                /// At most 128 of letters, digits and `_+=,.@-`.
                policy_name: String,
                /// JSON.
                policy_document: String,
            }
            /// Shows an own policy.
            $get {
                /// Whose.
                $owner: String,
                /// Which.
                policy_name: String,
            }
            /// Removes an own policy.
            $delete {
                /// Whose.
                $owner: String,
                /// Which.
                policy_name: String,
            }
            /// Lists the names of the own policies.
            $list {
                /// Whose.
                $owner: String,
                /// 1 to 1000; None: 100.
                #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
                /// Marker of the page before.
                marker: Option<String>,
            }
        }
    };
}

of_owner! { user_name: AttachUserPolicyRequest DetachUserPolicyRequest ListAttachedUserPoliciesRequest
PutUserPolicyRequest GetUserPolicyRequest DeleteUserPolicyRequest ListUserPoliciesRequest }
of_owner! { group_name: AttachGroupPolicyRequest DetachGroupPolicyRequest ListAttachedGroupPoliciesRequest
PutGroupPolicyRequest GetGroupPolicyRequest DeleteGroupPolicyRequest ListGroupPoliciesRequest }
of_owner! { role_name: AttachRolePolicyRequest DetachRolePolicyRequest ListAttachedRolePoliciesRequest
PutRolePolicyRequest GetRolePolicyRequest DeleteRolePolicyRequest ListRolePoliciesRequest }

requests! {
    /// PutUserPermissionsBoundary.
    PutUserPermissionsBoundaryRequest {
        /// Whose.
        user_name: String,
        /// ARN of a managed policy.
        permissions_boundary: String,
    }
    /// DeleteUserPermissionsBoundary.
    DeleteUserPermissionsBoundaryRequest {
        /// Whose.
        user_name: String,
    }
    /// PutRolePermissionsBoundary.
    PutRolePermissionsBoundaryRequest {
        /// Whose.
        role_name: String,
        /// ARN of a managed policy.
        permissions_boundary: String,
    }
    /// DeleteRolePermissionsBoundary.
    DeleteRolePermissionsBoundaryRequest {
        /// Whose.
        role_name: String,
    }
}
