//! Access keys of users and of root.

use super::{iso, refused, slice};
use crate::iam::directory::{self, AccessKeyRow, Kind};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::IdentityErrorKind;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::operation::{IdentityOperation, InTable};
use crate::kms::identity::wire::*;

const ACTIVE: &str = "Active";
const INACTIVE: &str = "Inactive";

fn status(row: &AccessKeyRow) -> &'static str {
    if row.active { ACTIVE } else { INACTIVE }
}

fn target(name: Option<&str>) -> Target<'_> {
    name.map_or(Target::Account, |name| Target::Entity(Kind::User, name))
}

/// Whose keys a request is about: a user that is there, or root.
fn owner(call: &IdentityCall<'_, '_>, given: Option<&str>) -> Result<Option<String>> {
    let own = call.own_name(given)?;
    if let Some(name) = &own {
        directory::entity(call.reader()?, Kind::User, call.account(), name)?;
    }
    Ok(own)
}

fn may(call: &IdentityCall<'_, '_>, action: &str, given: Option<&str>) -> Result<()> {
    let own = call.own_name(given)?;
    call.authorise(action, &target(own.as_deref()), &|_| ())
}

/// A key of that owner.
fn found(call: &IdentityCall<'_, '_>, owner: Option<&str>, id: &str) -> Result<AccessKeyRow> {
    let row = directory::access_key(call.reader()?, id)?;
    let account = call.account().as_str();
    row.filter(|row| row.account == account && row.user.as_deref() == owner).ok_or_else(|| {
        let message = format!("The Access Key with id {id} cannot be found.");
        refused(IdentityErrorKind::NoSuchEntity, message)
    })
}

fn check_id(id: &str) -> std::result::Result<(), KmsError> {
    check::length("accessKeyId", id.len(), 16, 128)
}

impl IdentityOperation for CreateAccessKeyRequest {
    type Response = CreateAccessKeyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name_option("userName", self.user_name.as_deref(), 128)
    }

    fn target(&self) -> Target<'_> {
        target(self.user_name.as_deref())
    }

    fn authorise(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        may(call, Self::ROW.action, self.user_name.as_deref())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<CreateAccessKeyResponse> {
        let (account, now, core) = (call.account().clone(), call.millis(), call.core);
        let owner = owner(call, self.user_name.as_deref())?;
        let made = directory::create_access_key(
            call.writer()?,
            core.root.expose(),
            &account,
            owner.as_deref(),
            now,
        )?;
        let access_key = AccessKey {
            user_name: owner,
            access_key_id: made.id,
            status: ACTIVE,
            secret_access_key: SecretText::new(made.secret),
            create_date: iso(now)?,
        };
        Ok(CreateAccessKeyResponse { access_key })
    }
}

impl IdentityOperation for ListAccessKeysRequest {
    type Response = ListAccessKeysResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name_option("userName", self.user_name.as_deref(), 128)?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        target(self.user_name.as_deref())
    }

    fn authorise(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        may(call, Self::ROW.action, self.user_name.as_deref())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListAccessKeysResponse> {
        let owner = owner(call, self.user_name.as_deref())?;
        let ids = directory::access_keys_of(call.reader()?, call.account(), owner.as_deref().unwrap_or(""))?;
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let row = found(call, owner.as_deref(), &id)?;
            all.push(AccessKeyMetadata {
                user_name: owner.clone(),
                access_key_id: id,
                status: status(&row),
                create_date: iso(row.created)?,
            });
        }
        let (access_key_metadata, marker) = slice(all, self.max_items, self.marker.as_deref())?;
        Ok(ListAccessKeysResponse { access_key_metadata, is_truncated: marker.is_some(), marker })
    }
}

impl IdentityOperation for UpdateAccessKeyRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name_option("userName", self.user_name.as_deref(), 128)?;
        check_id(&self.access_key_id)?;
        check::one_of("status", Some(&self.status), &[ACTIVE, INACTIVE])
    }

    fn target(&self) -> Target<'_> {
        target(self.user_name.as_deref())
    }

    fn authorise(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        may(call, Self::ROW.action, self.user_name.as_deref())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let owner = owner(call, self.user_name.as_deref())?;
        let mut row = found(call, owner.as_deref(), &self.access_key_id)?;
        row.active = self.status == ACTIVE;
        Ok(directory::put_access_key(call.writer()?, &self.access_key_id, &row)?)
    }
}

impl IdentityOperation for DeleteAccessKeyRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name_option("userName", self.user_name.as_deref(), 128)?;
        check_id(&self.access_key_id)
    }

    fn target(&self) -> Target<'_> {
        target(self.user_name.as_deref())
    }

    fn authorise(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        may(call, Self::ROW.action, self.user_name.as_deref())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let owner = owner(call, self.user_name.as_deref())?;
        let row = found(call, owner.as_deref(), &self.access_key_id)?;
        Ok(directory::delete_access_key(call.writer()?, &self.access_key_id, &row)?)
    }
}
