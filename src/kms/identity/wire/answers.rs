//! What IAM and STS answer.

use serde::Serialize;

use super::IdentityTag;
use crate::crypto::SecretVec;

/// A secret access key, shown once.
#[derive(Clone)]
pub struct SecretText(SecretVec);

impl SecretText {
    /// Takes the characters.
    pub fn new(secret: SecretVec) -> Self {
        Self(secret)
    }

    /// The characters.
    pub fn expose(&self) -> &str {
        // Made of base64 alone.
        std::str::from_utf8(self.0.expose()).unwrap_or("")
    }
}

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.expose())
    }
}

answers! {
    /// The boundary of a user or role.
    #[derive(Debug, PartialEq, Eq)]
    AttachedBoundary {
        /// Policy.
        permissions_boundary_type: &'static str,
        /// The policy's ARN.
        permissions_boundary_arn: String,
    }
    /// A user; of root only id, ARN and time.
    #[derive(Debug, PartialEq, Eq)]
    User {
        /// `/` or `/a/b/`.
        #[serde(skip_serializing_if = "Option::is_none")] path: Option<String>,
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")] user_name: Option<String>,
        /// AIDA...
        user_id: String,
        /// Its ARN.
        arn: String,
        /// When it was made.
        create_date: String,
        /// What limits it.
        #[serde(skip_serializing_if = "Option::is_none")] permissions_boundary: Option<AttachedBoundary>,
        /// Its labels.
        #[serde(skip_serializing_if = "Vec::is_empty")] tags: Vec<IdentityTag>,
    }
    /// A group.
    #[derive(Debug, PartialEq, Eq)]
    Group {
        /// `/` or `/a/b/`.
        path: String,
        /// Its name.
        group_name: String,
        /// AGPA...
        group_id: String,
        /// Its ARN.
        arn: String,
        /// When it was made.
        create_date: String,
    }
    /// A role.
    #[derive(Debug, PartialEq, Eq)]
    Role {
        /// `/` or `/a/b/`.
        path: String,
        /// Its name.
        role_name: String,
        /// AROA...
        role_id: String,
        /// Its ARN.
        arn: String,
        /// When it was made.
        create_date: String,
        /// Who may assume it.
        assume_role_policy_document: String,
        /// Free text.
        #[serde(skip_serializing_if = "Option::is_none")] description: Option<String>,
        /// Seconds that a session may last.
        max_session_duration: u32,
        /// What limits it.
        #[serde(skip_serializing_if = "Option::is_none")] permissions_boundary: Option<AttachedBoundary>,
        /// Its labels.
        #[serde(skip_serializing_if = "Vec::is_empty")] tags: Vec<IdentityTag>,
    }
    /// A managed policy.
    #[derive(Debug, PartialEq, Eq)]
    ManagedPolicy {
        /// Its name.
        policy_name: String,
        /// ANPA...
        policy_id: String,
        /// Its ARN.
        arn: String,
        /// `/` or `/a/b/`.
        path: String,
        /// v1 and so on.
        default_version_id: String,
        /// How many have it.
        attachment_count: usize,
        /// How many it limits.
        permissions_boundary_usage_count: usize,
        /// True.
        is_attachable: bool,
        /// Free text.
        #[serde(skip_serializing_if = "Option::is_none")] description: Option<String>,
        /// When it was made.
        create_date: String,
        /// When its versions last changed.
        update_date: String,
        /// Its labels.
        #[serde(skip_serializing_if = "Vec::is_empty")] tags: Vec<IdentityTag>,
    }
    /// A version of a managed policy.
    #[derive(Debug, PartialEq, Eq)]
    PolicyVersion {
        /// JSON; not in lists.
        #[serde(skip_serializing_if = "Option::is_none")] document: Option<String>,
        /// v1 and so on.
        version_id: String,
        /// It counts.
        is_default_version: bool,
        /// When it was made.
        create_date: String,
    }
    /// A new access key.
    AccessKey {
        /// Whose; of root: absent.
        #[serde(skip_serializing_if = "Option::is_none")] user_name: Option<String>,
        /// AKIA...
        access_key_id: String,
        /// Active.
        status: &'static str,
        /// Shown this once.
        secret_access_key: SecretText,
        /// When it was made.
        create_date: String,
    }
    /// An access key.
    #[derive(Debug, PartialEq, Eq)]
    AccessKeyMetadata {
        /// Whose; of root: absent.
        #[serde(skip_serializing_if = "Option::is_none")] user_name: Option<String>,
        /// AKIA...
        access_key_id: String,
        /// Active or Inactive.
        status: &'static str,
        /// When it was made.
        create_date: String,
    }
    /// A policy that is attached.
    #[derive(Debug, PartialEq, Eq)]
    AttachedPolicy {
        /// Its name.
        policy_name: String,
        /// Its ARN.
        policy_arn: String,
    }
    /// Answer of CreateUser and GetUser.
    UserResponse {
        /// The user.
        user: User,
    }
    /// Answer of ListUsers.
    ListUsersResponse {
        /// By name.
        users: Vec<User>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of ListUserTags and ListRoleTags.
    TagsResponse {
        /// By name.
        tags: Vec<IdentityTag>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of CreateGroup.
    GroupResponse {
        /// The group.
        group: Group,
    }
    /// Answer of GetGroup.
    GetGroupResponse {
        /// The group.
        group: Group,
        /// Who is in it, by name.
        users: Vec<User>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of ListGroups and ListGroupsForUser.
    ListGroupsResponse {
        /// By name.
        groups: Vec<Group>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of CreateRole and GetRole.
    RoleResponse {
        /// The role.
        role: Role,
    }
    /// Answer of ListRoles.
    ListRolesResponse {
        /// By name.
        roles: Vec<Role>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of UpdateRole: nothing.
    UpdateRoleResponse {}
    /// Answer of CreateAccessKey.
    CreateAccessKeyResponse {
        /// With its secret.
        access_key: AccessKey,
    }
    /// Answer of ListAccessKeys.
    ListAccessKeysResponse {
        /// By id.
        access_key_metadata: Vec<AccessKeyMetadata>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of CreatePolicy and GetPolicy.
    PolicyResponse {
        /// The policy.
        policy: ManagedPolicy,
    }
    /// Answer of ListPolicies.
    ListPoliciesResponse {
        /// The account's by name, then AWS's.
        policies: Vec<ManagedPolicy>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of CreatePolicyVersion and GetPolicyVersion.
    PolicyVersionResponse {
        /// The version.
        policy_version: PolicyVersion,
    }
    /// Answer of ListPolicyVersions.
    ListPolicyVersionsResponse {
        /// The newest first.
        versions: Vec<PolicyVersion>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// A group that has a policy.
    PolicyGroup {
        /// Its name.
        group_name: String,
        /// AGPA...
        group_id: String,
    }
    /// A user that has a policy.
    PolicyUser {
        /// Its name.
        user_name: String,
        /// AIDA...
        user_id: String,
    }
    /// A role that has a policy.
    PolicyRole {
        /// Its name.
        role_name: String,
        /// AROA...
        role_id: String,
    }
    /// Answer of ListEntitiesForPolicy.
    ListEntitiesForPolicyResponse {
        /// By name.
        policy_groups: Vec<PolicyGroup>,
        /// By name.
        policy_users: Vec<PolicyUser>,
        /// By name.
        policy_roles: Vec<PolicyRole>,
        /// There is one page.
        is_truncated: bool,
    }
    /// Answer of ListAttachedUserPolicies and its like.
    ListAttachedPoliciesResponse {
        /// In the order of their attachment.
        attached_policies: Vec<AttachedPolicy>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of ListUserPolicies and its like.
    ListOwnPoliciesResponse {
        /// By name.
        policy_names: Vec<String>,
        /// There is a next page.
        is_truncated: bool,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none")] marker: Option<String>,
    }
    /// Answer of GetUserPolicy.
    #[derive(Debug)]
    GetUserPolicyResponse {
        /// Whose.
        user_name: String,
        /// Which.
        policy_name: String,
        /// JSON.
        policy_document: String,
    }
    /// Answer of GetGroupPolicy.
    #[derive(Debug)]
    GetGroupPolicyResponse {
        /// Whose.
        group_name: String,
        /// Which.
        policy_name: String,
        /// JSON.
        policy_document: String,
    }
    /// Answer of GetRolePolicy.
    #[derive(Debug)]
    GetRolePolicyResponse {
        /// Whose.
        role_name: String,
        /// Which.
        policy_name: String,
        /// JSON.
        policy_document: String,
    }
    /// Answer of ListAccountAliases.
    #[derive(Debug)]
    ListAccountAliasesResponse {
        /// One or none.
        account_aliases: Vec<String>,
        /// There is one page.
        is_truncated: bool,
    }
    /// Answer of GetAccountSummary.
    #[derive(Debug)]
    GetAccountSummaryResponse {
        /// Numbers and quotas, by AWS's names.
        summary_map: std::collections::BTreeMap<&'static str, u64>,
    }
    /// Answer of GetCallerIdentity.
    #[derive(Debug, PartialEq, Eq)]
    GetCallerIdentityResponse {
        /// The unique id; of a session with its name.
        user_id: String,
        /// Twelve digits.
        account: String,
        /// The caller's ARN.
        arn: String,
    }
    /// What signs for a session.
    Credentials {
        /// ASIA...
        access_key_id: String,
        /// Shown this once.
        secret_access_key: SecretText,
        /// To be given with each request.
        session_token: String,
        /// When it ends.
        expiration: String,
    }
    /// Answer of GetSessionToken.
    GetSessionTokenResponse {
        /// The session's.
        credentials: Credentials,
    }
    /// Who a session of a role is.
    #[derive(Debug, PartialEq, Eq)]
    AssumedRoleUser {
        /// AROA... and the session's name.
        assumed_role_id: String,
        /// The session's ARN.
        arn: String,
    }
    /// Answer of AssumeRole.
    AssumeRoleResponse {
        /// The session's.
        credentials: Credentials,
        /// Who it is.
        assumed_role_user: AssumedRoleUser,
        /// Hundredths of the room for policies and tags; only where there are any.
        #[serde(skip_serializing_if = "Option::is_none")] packed_policy_size: Option<u32>,
        /// Who is behind it.
        #[serde(skip_serializing_if = "Option::is_none")] source_identity: Option<String>,
    }
}
