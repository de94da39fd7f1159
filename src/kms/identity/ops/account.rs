//! The account itself.

use std::collections::BTreeMap;

use super::refused;
use crate::iam::directory::{self, Kind};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::IdentityErrorKind;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::operation::IdentityOperation;
use crate::kms::identity::wire::*;

fn check_alias(alias: &str) -> std::result::Result<(), KmsError> {
    check::length("accountAlias", alias.len(), 3, 63)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = alias.starts_with('-') || alias.ends_with('-') || alias.contains("--");
    let digits = alias.len() == 12 && alias.bytes().all(|b| b.is_ascii_digit());
    if alias.bytes().all(allowed) && !ends && !digits {
        return Ok(());
    }
    let message = "The specified value for accountAlias is invalid. It must contain only digits, lowercase letters, and \
                   hyphens (-), but cannot begin or end with a hyphen or be an account id.";
    Err(crate::kms::identity::error::refused(IdentityErrorKind::Validation, message))
}

impl IdentityOperation for CreateAccountAliasRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check_alias(&self.account_alias)
    }

    fn target(&self) -> Target<'_> {
        Target::Account
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        Ok(directory::set_account_alias(call.writer()?, &account, Some(&self.account_alias))?)
    }
}

impl IdentityOperation for DeleteAccountAliasRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check_alias(&self.account_alias)
    }

    fn target(&self) -> Target<'_> {
        Target::Account
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        if directory::account_alias(call.reader()?, &account)?.as_deref() != Some(&self.account_alias) {
            let message = format!("The account alias with name {} cannot be found.", self.account_alias);
            return Err(refused(IdentityErrorKind::NoSuchEntity, message));
        }
        Ok(directory::set_account_alias(call.writer()?, &account, None)?)
    }
}

impl IdentityOperation for ListAccountAliasesRequest {
    type Response = ListAccountAliasesResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::Account
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListAccountAliasesResponse> {
        let alias = directory::account_alias(call.reader()?, call.account())?;
        Ok(ListAccountAliasesResponse { account_aliases: alias.into_iter().collect(), is_truncated: false })
    }
}

impl IdentityOperation for GetAccountSummaryRequest {
    type Response = GetAccountSummaryResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        Ok(())
    }

    fn target(&self) -> Target<'_> {
        Target::Account
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<GetAccountSummaryResponse> {
        let (tx, account) = (call.reader()?, call.account());
        let of = |kind| directory::entity_count(tx, kind, account);
        let summary_map = BTreeMap::from([
            ("Users", of(Kind::User)?),
            ("UsersQuota", 5000),
            ("Groups", of(Kind::Group)?),
            ("GroupsQuota", 300),
            ("Roles", of(Kind::Role)?),
            ("RolesQuota", 1000),
            ("Policies", directory::policy_count(tx, account)?),
            ("PoliciesQuota", 1500),
            ("AccountAccessKeysPresent", u64::from(!directory::access_keys_of(tx, account, "")?.is_empty())),
            ("AccessKeysPerUserQuota", 2),
            ("GroupsPerUserQuota", 10),
            ("AttachedPoliciesPerUserQuota", 10),
            ("AttachedPoliciesPerGroupQuota", 10),
            ("AttachedPoliciesPerRoleQuota", 10),
            ("VersionsPerPolicyQuota", 5),
            ("UserPolicySizeQuota", 2048),
            ("GroupPolicySizeQuota", 5120),
            ("RolePolicySizeQuota", 10_240),
            ("PolicySizeQuota", 6144),
            ("AssumeRolePolicySizeQuota", 2048),
        ]);
        Ok(GetAccountSummaryResponse { summary_map })
    }
}
