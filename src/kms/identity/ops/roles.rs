//! Roles.

use super::{iso, limit, new_row, page, pairs, refused, say_boundary, say_tags, shown_boundary, shown_tags};
use crate::iam::directory::{self, DirectoryError, EntityRow, Kind, RoleRow, Unique};
use crate::iam::{AccountId, Context, IamError, Named, Policy, PolicyKind};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::IdentityErrorKind;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::operation::IdentityOperation;
use crate::kms::identity::wire::*;

/// Seconds that a session of a role may last, if nothing else was said.
const USUAL_SESSION: u32 = 3600;

fn shown(account: &AccountId, row: &EntityRow, whole: bool) -> Result<Role> {
    let role = row.role.as_ref().ok_or(DirectoryError::Damaged("a role"))?;
    Ok(Role {
        path: row.path.clone(),
        role_name: row.name.clone(),
        role_id: row.id.clone(),
        arn: row.arn(Kind::Role, account),
        create_date: iso(row.created)?,
        assume_role_policy_document: role.trust.clone(),
        description: role.description.clone(),
        max_session_duration: role.max_session,
        permissions_boundary: if whole { shown_boundary(row) } else { None },
        tags: if whole { shown_tags(&row.tags) } else { Vec::new() },
    })
}

/// Reads a trust policy that is to be kept. Whom it names must be there, as far as that is known here.
fn trust(call: &IdentityCall<'_, '_>, text: &str) -> Result<()> {
    let policy = Policy::parse(PolicyKind::Trust, text).map_err(|error| match error {
        IamError::PolicyLength(most) => refused(
            IdentityErrorKind::LimitExceeded,
            format!("Cannot exceed quota for ACLSizePerRole: {most}"),
        ),
        other => refused(IdentityErrorKind::MalformedPolicyDocument, other.to_string()),
    })?;
    let tx = call.reader()?;
    for named in policy.named() {
        let Named::Principal(principal) = named else { continue };
        if directory::knows_account(tx, principal.account())? && directory::standing(tx, principal)?.is_none()
        {
            let message = format!("Invalid principal in policy: \"AWS\":\"{}\"", principal.arn());
            return Err(refused(IdentityErrorKind::MalformedPolicyDocument, message));
        }
    }
    Ok(())
}

fn check_description(text: Option<&str>) -> std::result::Result<(), KmsError> {
    check::length("description", text.unwrap_or("").chars().count(), 0, 1000)
}

impl IdentityOperation for CreateRoleRequest {
    type Response = RoleResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("roleName", &self.role_name, 64)?;
        check::path("path", self.path.as_deref())?;
        check::document("assumeRolePolicyDocument", &self.assume_role_policy_document)?;
        check_description(self.description.as_deref())?;
        check::number("maxSessionDuration", self.max_session_duration, 3600, 43_200)?;
        self.permissions_boundary.as_deref().map_or(Ok(()), |arn| check::arn("permissionsBoundary", arn))?;
        check::tags(&self.tags)
    }

    fn target(&self) -> Target<'_> {
        Target::NewEntity(Kind::Role, self.path.as_deref(), &self.role_name)
    }

    fn say(&self, context: &mut Context) {
        say_tags(&self.tags, context);
        say_boundary(self.permissions_boundary.as_deref(), context);
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<RoleResponse> {
        let account = call.account().clone();
        trust(call, &self.assume_role_policy_document)?;
        let id = directory::unique_id(Unique::Role)?;
        let mut row = new_row(call, id, self.path.as_deref(), &self.role_name);
        row.tags = pairs(&self.tags);
        row.boundary.clone_from(&self.permissions_boundary);
        let seconds = self.max_session_duration.and_then(|s| u32::try_from(s).ok());
        row.role = Some(RoleRow {
            trust: self.assume_role_policy_document.clone(),
            description: self.description.clone(),
            max_session: seconds.unwrap_or(USUAL_SESSION),
        });
        directory::create_entity(call.writer()?, Kind::Role, &account, &row)?;
        Ok(RoleResponse { role: shown(&account, &row, true)? })
    }
}

impl IdentityOperation for GetRoleRequest {
    type Response = RoleResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("roleName", &self.role_name, 64)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Role, &self.role_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<RoleResponse> {
        let account = call.account().clone();
        let row = directory::entity(call.reader()?, Kind::Role, &account, &self.role_name)?;
        Ok(RoleResponse { role: shown(&account, &row, true)? })
    }
}

impl IdentityOperation for ListRolesRequest {
    type Response = ListRolesResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::prefix(self.path_prefix.as_deref())?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::All("role/")
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListRolesResponse> {
        let (account, limit) = (call.account().clone(), limit(self.max_items));
        let prefix = self.path_prefix.as_deref().unwrap_or("/");
        let after = self.marker.as_deref();
        let mut found = directory::entities(call.reader()?, Kind::Role, &account, prefix, after, limit + 1)?;
        let marker = page(&mut found, limit, |row| row.name.clone());
        let roles = found.iter().map(|row| shown(&account, row, false)).collect::<Result<_>>()?;
        Ok(ListRolesResponse { roles, is_truncated: marker.is_some(), marker })
    }
}

/// Changes what only roles have.
fn update(call: &mut IdentityCall<'_, '_>, name: &str, change: impl FnOnce(&mut RoleRow)) -> Result<()> {
    let account = call.account().clone();
    let mut row = directory::entity(call.reader()?, Kind::Role, &account, name)?;
    change(row.role.as_mut().ok_or(DirectoryError::Damaged("a role"))?);
    Ok(directory::put_entity(call.writer()?, Kind::Role, &account, &row)?)
}

impl IdentityOperation for UpdateRoleRequest {
    type Response = UpdateRoleResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("roleName", &self.role_name, 64)?;
        check_description(self.description.as_deref())?;
        check::number("maxSessionDuration", self.max_session_duration, 3600, 43_200)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Role, &self.role_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<UpdateRoleResponse> {
        update(call, &self.role_name, |role| {
            if self.description.is_some() {
                role.description.clone_from(&self.description);
            }
            if let Some(seconds) = self.max_session_duration.and_then(|s| u32::try_from(s).ok()) {
                role.max_session = seconds;
            }
        })?;
        Ok(UpdateRoleResponse {})
    }
}

impl IdentityOperation for UpdateAssumeRolePolicyRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("roleName", &self.role_name, 64)?;
        check::document("policyDocument", &self.policy_document)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Role, &self.role_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        trust(call, &self.policy_document)?;
        update(call, &self.role_name, |role| role.trust.clone_from(&self.policy_document))
    }
}

impl IdentityOperation for DeleteRoleRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("roleName", &self.role_name, 64)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Role, &self.role_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        Ok(directory::delete_entity(call.writer()?, Kind::Role, &account, &self.role_name)?)
    }
}
