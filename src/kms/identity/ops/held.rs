//! The policies that users, groups and roles have: the same for each of the three.

use super::{say_boundary, slice};
use crate::iam::Context;
use crate::iam::directory::{self, Kind};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::operation::IdentityOperation;
use crate::kms::identity::wire::*;

fn say_policy(arn: &str, context: &mut Context) {
    context.set("iam:PolicyARN", arn);
}

/// Managed policies of somebody, by page.
fn attached(
    call: &IdentityCall<'_, '_>,
    kind: Kind,
    name: &str,
    (prefix, max_items, marker): (Option<&str>, Option<i64>, Option<&str>),
) -> Result<ListAttachedPoliciesResponse> {
    let (tx, account) = (call.reader()?, call.account());
    let row = directory::entity(tx, kind, account, name)?;
    let mut all = Vec::with_capacity(row.attached.len());
    for arn in row.attached {
        let policy = directory::policy(tx, account, &arn)?;
        if policy.path.starts_with(prefix.unwrap_or("/")) {
            all.push(AttachedPolicy { policy_name: policy.name, policy_arn: arn });
        }
    }
    let (attached_policies, marker) = slice(all, max_items, marker)?;
    Ok(ListAttachedPoliciesResponse { attached_policies, is_truncated: marker.is_some(), marker })
}

macro_rules! of_owner {
    ($kind:expr, $owner:ident, $field:literal: $attach:ident $detach:ident $list_attached:ident
     $put:ident $get:ident $got:ident $delete:ident $list:ident) => {
        impl IdentityOperation for $attach {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 128)?;
                check::arn("policyArn", &self.policy_arn)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn say(&self, context: &mut Context) {
                say_policy(&self.policy_arn, context);
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let account = call.account().clone();
                Ok(directory::attach(call.writer()?, $kind, &account, &self.$owner, &self.policy_arn)?)
            }
        }

        impl IdentityOperation for $detach {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 128)?;
                check::arn("policyArn", &self.policy_arn)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn say(&self, context: &mut Context) {
                say_policy(&self.policy_arn, context);
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let account = call.account().clone();
                Ok(directory::detach(call.writer()?, $kind, &account, &self.$owner, &self.policy_arn)?)
            }
        }

        impl IdentityOperation for $list_attached {
            type Response = ListAttachedPoliciesResponse;

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 128)?;
                check::prefix(self.path_prefix.as_deref())?;
                check::page(self.max_items, self.marker.as_deref())
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<Self::Response> {
                let page = (self.path_prefix.as_deref(), self.max_items, self.marker.as_deref());
                attached(call, $kind, &self.$owner, page)
            }
        }

        impl IdentityOperation for $put {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 128)?;
                check::name("policyName", &self.policy_name, 128)?;
                check::document("policyDocument", &self.policy_document)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let account = call.account().clone();
                let (name, document) = (&self.policy_name, &self.policy_document);
                Ok(directory::put_inline(call.writer()?, $kind, &account, &self.$owner, name, document)?)
            }
        }

        impl IdentityOperation for $get {
            type Response = $got;

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 128)?;
                check::name("policyName", &self.policy_name, 128)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<$got> {
                let (tx, account) = (call.reader()?, call.account());
                let policy_document = directory::inline(tx, $kind, account, &self.$owner, &self.policy_name)?;
                let ($owner, policy_name) = (self.$owner.clone(), self.policy_name.clone());
                Ok($got { $owner, policy_name, policy_document })
            }
        }

        impl IdentityOperation for $delete {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 128)?;
                check::name("policyName", &self.policy_name, 128)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let account = call.account().clone();
                Ok(directory::delete_inline(
                    call.writer()?,
                    $kind,
                    &account,
                    &self.$owner,
                    &self.policy_name,
                )?)
            }
        }

        impl IdentityOperation for $list {
            type Response = ListOwnPoliciesResponse;

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 128)?;
                check::page(self.max_items, self.marker.as_deref())
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<Self::Response> {
                let row = directory::entity(call.reader()?, $kind, call.account(), &self.$owner)?;
                let names = row.inline.into_iter().map(|(name, _)| name).collect();
                let (policy_names, marker) = slice(names, self.max_items, self.marker.as_deref())?;
                Ok(ListOwnPoliciesResponse { policy_names, is_truncated: marker.is_some(), marker })
            }
        }
    };
}

of_owner!(Kind::User, user_name, "userName": AttachUserPolicyRequest DetachUserPolicyRequest
    ListAttachedUserPoliciesRequest PutUserPolicyRequest GetUserPolicyRequest GetUserPolicyResponse
    DeleteUserPolicyRequest ListUserPoliciesRequest);
of_owner!(Kind::Group, group_name, "groupName": AttachGroupPolicyRequest DetachGroupPolicyRequest
    ListAttachedGroupPoliciesRequest PutGroupPolicyRequest GetGroupPolicyRequest GetGroupPolicyResponse
    DeleteGroupPolicyRequest ListGroupPoliciesRequest);
of_owner!(Kind::Role, role_name, "roleName": AttachRolePolicyRequest DetachRolePolicyRequest
    ListAttachedRolePoliciesRequest PutRolePolicyRequest GetRolePolicyRequest GetRolePolicyResponse
    DeleteRolePolicyRequest ListRolePoliciesRequest);

macro_rules! boundary {
    ($kind:expr, $owner:ident, $field:literal: $put:ident $delete:ident) => {
        impl IdentityOperation for $put {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 64)?;
                check::arn("permissionsBoundary", &self.permissions_boundary)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn say(&self, context: &mut Context) {
                say_boundary(Some(&self.permissions_boundary), context);
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let (account, arn) = (call.account().clone(), self.permissions_boundary.as_str());
                Ok(directory::set_boundary(call.writer()?, $kind, &account, &self.$owner, Some(arn))?)
            }
        }

        impl IdentityOperation for $delete {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$owner, 64)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$owner)
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let account = call.account().clone();
                Ok(directory::set_boundary(call.writer()?, $kind, &account, &self.$owner, None)?)
            }
        }
    };
}

boundary!(Kind::User, user_name, "userName": PutUserPermissionsBoundaryRequest DeleteUserPermissionsBoundaryRequest);
boundary!(Kind::Role, role_name, "roleName": PutRolePermissionsBoundaryRequest DeleteRolePermissionsBoundaryRequest);
