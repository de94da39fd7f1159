//! Groups and who is in them.

use super::{iso, limit, new_row, page, slice, users};
use crate::iam::AccountId;
use crate::iam::directory::{self, EntityRow, Kind, Unique};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::operation::IdentityOperation;
use crate::kms::identity::wire::*;

fn shown(account: &AccountId, row: &EntityRow) -> Result<Group> {
    Ok(Group {
        path: row.path.clone(),
        group_name: row.name.clone(),
        group_id: row.id.clone(),
        arn: row.arn(Kind::Group, account),
        create_date: iso(row.created)?,
    })
}

impl IdentityOperation for CreateGroupRequest {
    type Response = GroupResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("groupName", &self.group_name, 128)?;
        check::path("path", self.path.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::NewEntity(Kind::Group, self.path.as_deref(), &self.group_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<GroupResponse> {
        let account = call.account().clone();
        let id = directory::unique_id(Unique::Group)?;
        let row = new_row(call, id, self.path.as_deref(), &self.group_name);
        directory::create_entity(call.writer()?, Kind::Group, &account, &row)?;
        Ok(GroupResponse { group: shown(&account, &row)? })
    }
}

impl IdentityOperation for GetGroupRequest {
    type Response = GetGroupResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("groupName", &self.group_name, 128)?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Group, &self.group_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<GetGroupResponse> {
        let (account, limit) = (call.account().clone(), limit(self.max_items));
        let row = directory::entity(call.reader()?, Kind::Group, &account, &self.group_name)?;
        let after = self.marker.as_deref();
        let mut found = directory::members(call.reader()?, &account, &row.name, after, limit + 1)?;
        let marker = page(&mut found, limit, |row| row.name.clone());
        let users = found.iter().map(|row| users::shown(&account, row, false)).collect::<Result<_>>()?;
        Ok(GetGroupResponse { group: shown(&account, &row)?, users, is_truncated: marker.is_some(), marker })
    }
}

impl IdentityOperation for ListGroupsRequest {
    type Response = ListGroupsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::prefix(self.path_prefix.as_deref())?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::All("group/")
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListGroupsResponse> {
        let (account, limit) = (call.account().clone(), limit(self.max_items));
        let prefix = self.path_prefix.as_deref().unwrap_or("/");
        let after = self.marker.as_deref();
        let mut found = directory::entities(call.reader()?, Kind::Group, &account, prefix, after, limit + 1)?;
        let marker = page(&mut found, limit, |row| row.name.clone());
        let groups = found.iter().map(|row| shown(&account, row)).collect::<Result<_>>()?;
        Ok(ListGroupsResponse { groups, is_truncated: marker.is_some(), marker })
    }
}

impl IdentityOperation for DeleteGroupRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("groupName", &self.group_name, 128)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Group, &self.group_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        Ok(directory::delete_entity(call.writer()?, Kind::Group, &account, &self.group_name)?)
    }
}

impl IdentityOperation for AddUserToGroupRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("groupName", &self.group_name, 128)?;
        check::name("userName", &self.user_name, 128)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Group, &self.group_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        Ok(directory::add_member(call.writer()?, &account, &self.group_name, &self.user_name)?)
    }
}

impl IdentityOperation for RemoveUserFromGroupRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("groupName", &self.group_name, 128)?;
        check::name("userName", &self.user_name, 128)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::Group, &self.group_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        Ok(directory::remove_member(call.writer()?, &account, &self.group_name, &self.user_name)?)
    }
}

impl IdentityOperation for ListGroupsForUserRequest {
    type Response = ListGroupsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("userName", &self.user_name, 128)?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::User, &self.user_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListGroupsResponse> {
        let account = call.account().clone();
        let row = directory::entity(call.reader()?, Kind::User, &account, &self.user_name)?;
        let mut all = Vec::with_capacity(row.groups.len());
        for name in &row.groups {
            all.push(shown(&account, &directory::entity(call.reader()?, Kind::Group, &account, name)?)?);
        }
        let (groups, marker) = slice(all, self.max_items, self.marker.as_deref())?;
        Ok(ListGroupsResponse { groups, is_truncated: marker.is_some(), marker })
    }
}
