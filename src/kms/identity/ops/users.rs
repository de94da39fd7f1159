//! Users.

use super::{
    iso, limit, merge_tags, new_row, page, pairs, say_boundary, say_tags, shown_boundary, shown_tags, slice,
};
use crate::iam::directory::{self, EntityRow, Kind, Unique};
use crate::iam::{AccountId, Context, Principal};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::operation::IdentityOperation;
use crate::kms::identity::wire::*;

/// A user as answers show it; in lists without what lists leave out.
pub fn shown(account: &AccountId, row: &EntityRow, whole: bool) -> Result<User> {
    Ok(User {
        path: Some(row.path.clone()),
        user_name: Some(row.name.clone()),
        user_id: row.id.clone(),
        arn: row.arn(Kind::User, account),
        create_date: iso(row.created)?,
        permissions_boundary: if whole { shown_boundary(row) } else { None },
        tags: if whole { shown_tags(&row.tags) } else { Vec::new() },
    })
}

impl IdentityOperation for CreateUserRequest {
    type Response = UserResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("userName", &self.user_name, 64)?;
        check::path("path", self.path.as_deref())?;
        self.permissions_boundary.as_deref().map_or(Ok(()), |arn| check::arn("permissionsBoundary", arn))?;
        check::tags(&self.tags)
    }

    fn target(&self) -> Target<'_> {
        Target::NewEntity(Kind::User, self.path.as_deref(), &self.user_name)
    }

    fn say(&self, context: &mut Context) {
        say_tags(&self.tags, context);
        say_boundary(self.permissions_boundary.as_deref(), context);
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<UserResponse> {
        let account = call.account().clone();
        let id = directory::unique_id(Unique::User)?;
        let mut row = new_row(call, id, self.path.as_deref(), &self.user_name);
        row.tags = pairs(&self.tags);
        row.boundary.clone_from(&self.permissions_boundary);
        directory::create_entity(call.writer()?, Kind::User, &account, &row)?;
        Ok(UserResponse { user: shown(&account, &row, true)? })
    }
}

impl IdentityOperation for GetUserRequest {
    type Response = UserResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name_option("userName", self.user_name.as_deref(), 128)
    }

    fn target(&self) -> Target<'_> {
        match &self.user_name {
            Some(name) => Target::Entity(Kind::User, name),
            None => Target::Account,
        }
    }

    fn authorise(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let own = call.own_name(self.user_name.as_deref())?;
        let target = own.as_deref().map_or(Target::Account, |name| Target::Entity(Kind::User, name));
        call.authorise("iam:GetUser", &target, &|_| ())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<UserResponse> {
        let account = call.account().clone();
        let Some(name) = call.own_name(self.user_name.as_deref())? else {
            return Ok(UserResponse { user: root(&account)? });
        };
        let row = directory::entity(call.reader()?, Kind::User, &account, &name)?;
        Ok(UserResponse { user: shown(&account, &row, true)? })
    }
}

/// What AWS tells of root. An account is here from the beginning.
fn root(account: &AccountId) -> Result<User> {
    Ok(User {
        path: None,
        user_name: None,
        user_id: account.to_string(),
        arn: Principal::root(account.clone()).arn(),
        create_date: iso(0)?,
        permissions_boundary: None,
        tags: Vec::new(),
    })
}

impl IdentityOperation for ListUsersRequest {
    type Response = ListUsersResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::prefix(self.path_prefix.as_deref())?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::All("user/")
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListUsersResponse> {
        let (account, limit) = (call.account().clone(), limit(self.max_items));
        let prefix = self.path_prefix.as_deref().unwrap_or("/");
        let after = self.marker.as_deref();
        let mut found = directory::entities(call.reader()?, Kind::User, &account, prefix, after, limit + 1)?;
        let marker = page(&mut found, limit, |row| row.name.clone());
        let users = found.iter().map(|row| shown(&account, row, false)).collect::<Result<_>>()?;
        Ok(ListUsersResponse { users, is_truncated: marker.is_some(), marker })
    }
}

impl IdentityOperation for DeleteUserRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("userName", &self.user_name, 128)
    }

    fn target(&self) -> Target<'_> {
        Target::Entity(Kind::User, &self.user_name)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        Ok(directory::delete_entity(call.writer()?, Kind::User, &account, &self.user_name)?)
    }
}

/// The requests about the labels of one kind.
macro_rules! labels {
    ($kind:expr, $name:ident, $field:literal, $tag:ident, $untag:ident, $list:ident) => {
        impl IdentityOperation for $tag {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$name, 128)?;
                check::tags(&self.tags)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$name)
            }

            fn say(&self, context: &mut Context) {
                say_tags(&self.tags, context);
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let account = call.account().clone();
                let mut row = directory::entity(call.reader()?, $kind, &account, &self.$name)?;
                merge_tags(&mut row, &self.tags)?;
                Ok(directory::put_entity(call.writer()?, $kind, &account, &row)?)
            }
        }

        impl IdentityOperation for $untag {
            type Response = ();

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$name, 128)?;
                check::tag_keys(&self.tag_keys)
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$name)
            }

            fn say(&self, context: &mut Context) {
                context.set_all("aws:TagKeys", self.tag_keys.iter().map(String::as_str));
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
                let account = call.account().clone();
                let mut row = directory::entity(call.reader()?, $kind, &account, &self.$name)?;
                row.tags.retain(|(key, _)| !self.tag_keys.iter().any(|k| k.eq_ignore_ascii_case(key)));
                Ok(directory::put_entity(call.writer()?, $kind, &account, &row)?)
            }
        }

        impl IdentityOperation for $list {
            type Response = TagsResponse;

            fn check(&self) -> std::result::Result<(), KmsError> {
                check::name($field, &self.$name, 128)?;
                check::page(self.max_items, self.marker.as_deref())
            }

            fn target(&self) -> Target<'_> {
                Target::Entity($kind, &self.$name)
            }

            fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<TagsResponse> {
                let account = call.account().clone();
                let row = directory::entity(call.reader()?, $kind, &account, &self.$name)?;
                let (tags, marker) = slice(shown_tags(&row.tags), self.max_items, self.marker.as_deref())?;
                Ok(TagsResponse { tags, is_truncated: marker.is_some(), marker })
            }
        }
    };
}

labels!(Kind::User, user_name, "userName", TagUserRequest, UntagUserRequest, ListUserTagsRequest);
labels!(Kind::Role, role_name, "roleName", TagRoleRequest, UntagRoleRequest, ListRoleTagsRequest);
