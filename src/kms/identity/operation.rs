//! The table of the operations of IAM and STS: one row gives routing, the action in policies, the event's name and
//! source, and whether the directory changes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::IdentityErrorKind;
use super::call::{IdentityCall, Target};
use super::error::refused;
use super::session::IdentitySession;
use super::wire::*;
use crate::iam::Context;
use crate::kms::call::Result;
use crate::kms::{KmsError, KmsErrorKind};

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// In AWS's API and in the log.
    pub name: &'static str,
    /// In policies.
    pub action: &'static str,
    /// Decided, done and recorded in one transaction; else decided in one view.
    pub changes: bool,
    /// eventSource.
    pub source: &'static str,
}

/// A request that has a row.
pub trait InTable {
    /// The row.
    const ROW: &'static Row;
}

/// An operation of IAM or STS, as its request. [`IdentitySession::call`] takes it.
pub trait IdentityOperation: InTable + Serialize + DeserializeOwned + Send + Sync {
    /// Its answer; `()` where AWS answers nothing.
    type Response: Serialize;

    /// Checks the bounds of AWS's model.
    fn check(&self) -> std::result::Result<(), KmsError>;

    /// What it concerns.
    fn target(&self) -> Target<'_>;

    /// Says the condition keys of its own.
    fn say(&self, _: &mut Context) {}

    /// May the caller?
    fn authorise(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        call.authorise(Self::ROW.action, &self.target(), &|context| self.say(context))
    }

    /// Does it.
    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<Self::Response>;
}

type Run = fn(&IdentitySession, Value) -> std::result::Result<Value, KmsError>;

macro_rules! operations {
    ($($service:literal: $($request:ident $name:literal $changes:literal,)*)*) => {
        $($(impl InTable for $request {
            const ROW: &'static Row = &Row {
                name: $name,
                action: concat!($service, ":", $name),
                changes: $changes,
                source: concat!($service, ".amazonaws.com"),
            };
        })*)*

        /// Every operation, with the function that runs it on JSON.
        pub static OPERATIONS: &[(&Row, Run)] =
            &[$($((<$request as InTable>::ROW, run::<$request>)),*),*];
    };
}

operations! {
    "iam":
    CreateUserRequest "CreateUser" true,
    GetUserRequest "GetUser" false,
    ListUsersRequest "ListUsers" false,
    DeleteUserRequest "DeleteUser" true,
    TagUserRequest "TagUser" true,
    UntagUserRequest "UntagUser" true,
    ListUserTagsRequest "ListUserTags" false,
    CreateAccessKeyRequest "CreateAccessKey" true,
    ListAccessKeysRequest "ListAccessKeys" false,
    UpdateAccessKeyRequest "UpdateAccessKey" true,
    DeleteAccessKeyRequest "DeleteAccessKey" true,
    CreateGroupRequest "CreateGroup" true,
    GetGroupRequest "GetGroup" false,
    ListGroupsRequest "ListGroups" false,
    DeleteGroupRequest "DeleteGroup" true,
    AddUserToGroupRequest "AddUserToGroup" true,
    RemoveUserFromGroupRequest "RemoveUserFromGroup" true,
    ListGroupsForUserRequest "ListGroupsForUser" false,
    CreateRoleRequest "CreateRole" true,
    GetRoleRequest "GetRole" false,
    ListRolesRequest "ListRoles" false,
    UpdateRoleRequest "UpdateRole" true,
    UpdateAssumeRolePolicyRequest "UpdateAssumeRolePolicy" true,
    DeleteRoleRequest "DeleteRole" true,
    TagRoleRequest "TagRole" true,
    UntagRoleRequest "UntagRole" true,
    ListRoleTagsRequest "ListRoleTags" false,
    CreatePolicyRequest "CreatePolicy" true,
    GetPolicyRequest "GetPolicy" false,
    ListPoliciesRequest "ListPolicies" false,
    DeletePolicyRequest "DeletePolicy" true,
    CreatePolicyVersionRequest "CreatePolicyVersion" true,
    GetPolicyVersionRequest "GetPolicyVersion" false,
    ListPolicyVersionsRequest "ListPolicyVersions" false,
    SetDefaultPolicyVersionRequest "SetDefaultPolicyVersion" true,
    DeletePolicyVersionRequest "DeletePolicyVersion" true,
    ListEntitiesForPolicyRequest "ListEntitiesForPolicy" false,
    AttachUserPolicyRequest "AttachUserPolicy" true,
    DetachUserPolicyRequest "DetachUserPolicy" true,
    ListAttachedUserPoliciesRequest "ListAttachedUserPolicies" false,
    PutUserPolicyRequest "PutUserPolicy" true,
    GetUserPolicyRequest "GetUserPolicy" false,
    DeleteUserPolicyRequest "DeleteUserPolicy" true,
    ListUserPoliciesRequest "ListUserPolicies" false,
    AttachGroupPolicyRequest "AttachGroupPolicy" true,
    DetachGroupPolicyRequest "DetachGroupPolicy" true,
    ListAttachedGroupPoliciesRequest "ListAttachedGroupPolicies" false,
    PutGroupPolicyRequest "PutGroupPolicy" true,
    GetGroupPolicyRequest "GetGroupPolicy" false,
    DeleteGroupPolicyRequest "DeleteGroupPolicy" true,
    ListGroupPoliciesRequest "ListGroupPolicies" false,
    AttachRolePolicyRequest "AttachRolePolicy" true,
    DetachRolePolicyRequest "DetachRolePolicy" true,
    ListAttachedRolePoliciesRequest "ListAttachedRolePolicies" false,
    PutRolePolicyRequest "PutRolePolicy" true,
    GetRolePolicyRequest "GetRolePolicy" false,
    DeleteRolePolicyRequest "DeleteRolePolicy" true,
    ListRolePoliciesRequest "ListRolePolicies" false,
    PutUserPermissionsBoundaryRequest "PutUserPermissionsBoundary" true,
    DeleteUserPermissionsBoundaryRequest "DeleteUserPermissionsBoundary" true,
    PutRolePermissionsBoundaryRequest "PutRolePermissionsBoundary" true,
    DeleteRolePermissionsBoundaryRequest "DeleteRolePermissionsBoundary" true,
    CreateAccountAliasRequest "CreateAccountAlias" true,
    DeleteAccountAliasRequest "DeleteAccountAlias" true,
    ListAccountAliasesRequest "ListAccountAliases" false,
    GetAccountSummaryRequest "GetAccountSummary" false,
    "sts":
    GetCallerIdentityRequest "GetCallerIdentity" false,
    GetSessionTokenRequest "GetSessionToken" false,
    AssumeRoleRequest "AssumeRole" false,
}

fn run<O: IdentityOperation>(session: &IdentitySession, body: Value) -> std::result::Result<Value, KmsError> {
    let request: O = match serde_json::from_value(body) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("this is no request of {}: {error}", O::ROW.name);
            return Err(session.refuse_unread(O::ROW, refused(IdentityErrorKind::Validation, message)));
        }
    };
    serde_json::to_value(session.call(request)?)
        .map_err(|e| KmsError::new(KmsErrorKind::Internal, e.to_string()))
}
