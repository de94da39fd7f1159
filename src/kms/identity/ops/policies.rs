//! Managed policies and their versions.

use super::{iso, limit, page, pairs, refused, say_tags, shown_tags, slice};
use crate::iam::directory::{self, DirectoryError, Kind, PolicyRow, Unique, Usage};
use crate::iam::{AccountId, Context};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::IdentityErrorKind;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::operation::IdentityOperation;
use crate::kms::identity::wire::*;
use crate::store::ReadTx;

const PERMISSIONS: &str = "PermissionsPolicy";
const BOUNDARY: &str = "PermissionsBoundary";

/// A policy as answers show it; `owner` is an account or `aws`.
fn shown(
    tx: &dyn ReadTx,
    account: &AccountId,
    owner: &str,
    row: &PolicyRow,
    whole: bool,
) -> Result<ManagedPolicy> {
    let arn = directory::policy_arn(owner, row);
    Ok(ManagedPolicy {
        policy_name: row.name.clone(),
        policy_id: row.id.clone(),
        path: row.path.clone(),
        default_version_id: format!("v{}", row.default),
        attachment_count: directory::attachments(tx, account, &arn, Usage::Permissions)?,
        permissions_boundary_usage_count: directory::attachments(tx, account, &arn, Usage::Boundary)?,
        is_attachable: true,
        description: row.description.clone().filter(|_| whole),
        create_date: iso(row.created)?,
        update_date: iso(row.updated)?,
        tags: if whole { shown_tags(&row.tags) } else { Vec::new() },
        arn,
    })
}

fn owner(arn: &str) -> &str {
    arn.split(':').nth(4).unwrap_or_default()
}

fn shown_version(row: &PolicyRow, number: u32, whole: bool) -> Result<PolicyVersion> {
    let found = row.versions.iter().find(|(there, ..)| *there == number);
    let (_, created, document) = found.ok_or(DirectoryError::Damaged("a policy's version"))?;
    Ok(PolicyVersion {
        document: whole.then(|| document.clone()),
        version_id: format!("v{number}"),
        is_default_version: row.default == number,
        create_date: iso(*created)?,
    })
}

/// The number in v1 and so on.
fn version_number(id: &str) -> std::result::Result<u32, KmsError> {
    let number = id.strip_prefix('v').and_then(|n| if n.starts_with('0') { None } else { n.parse().ok() });
    number.ok_or_else(|| {
        let message = "1 validation error detected: Value at 'versionId' failed to satisfy constraint: Member must \
                       satisfy regular expression pattern: v[1-9][0-9]*(\\.[A-Za-z0-9-]*)?";
        crate::kms::identity::error::refused(IdentityErrorKind::Validation, message)
    })
}

impl IdentityOperation for CreatePolicyRequest {
    type Response = PolicyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::name("policyName", &self.policy_name, 128)?;
        check::path("path", self.path.as_deref())?;
        check::document("policyDocument", &self.policy_document)?;
        check::length("description", self.description.as_deref().unwrap_or("").chars().count(), 0, 1000)?;
        check::tags(&self.tags)
    }

    fn target(&self) -> Target<'_> {
        Target::NewPolicy(self.path.as_deref(), &self.policy_name)
    }

    fn say(&self, context: &mut Context) {
        say_tags(&self.tags, context);
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<PolicyResponse> {
        let (account, now) = (call.account().clone(), call.millis());
        let row = PolicyRow {
            name: self.policy_name.clone(),
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            id: directory::unique_id(Unique::Policy)?,
            created: now,
            updated: now,
            description: self.description.clone(),
            tags: pairs(&self.tags),
            default: 1,
            next: 2,
            versions: vec![(1, now, self.policy_document.clone())],
        };
        directory::create_policy(call.writer()?, &account, &row)?;
        Ok(PolicyResponse { policy: shown(call.reader()?, &account, account.as_str(), &row, true)? })
    }
}

impl IdentityOperation for GetPolicyRequest {
    type Response = PolicyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<PolicyResponse> {
        let (account, tx) = (call.account(), call.reader()?);
        let row = directory::policy(tx, account, &self.policy_arn)?;
        Ok(PolicyResponse { policy: shown(tx, account, owner(&self.policy_arn), &row, true)? })
    }
}

/// AWS's own stand behind the account's; their markers begin so.
const AWS_PAGE: &str = "aws:";

impl IdentityOperation for ListPoliciesRequest {
    type Response = ListPoliciesResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::one_of("scope", self.scope.as_deref(), &["All", "AWS", "Local"])?;
        check::one_of("policyUsageFilter", self.policy_usage_filter.as_deref(), &[PERMISSIONS, BOUNDARY])?;
        check::prefix(self.path_prefix.as_deref())?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::All("policy/")
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListPoliciesResponse> {
        let (account, limit, tx) = (call.account(), limit(self.max_items), call.reader()?);
        let prefix = self.path_prefix.as_deref().unwrap_or("/");
        let scope = self.scope.as_deref().unwrap_or("All");
        let counts = |policy: &ManagedPolicy| match self.policy_usage_filter.as_deref() {
            Some(BOUNDARY) => policy.permissions_boundary_usage_count > 0,
            Some(_) => policy.attachment_count > 0,
            None => {
                !self.only_attached
                    || policy.attachment_count > 0
                    || policy.permissions_boundary_usage_count > 0
            }
        };
        let mut found: Vec<(String, ManagedPolicy)> = Vec::new();
        let mut behind_aws = self.marker.as_deref().and_then(|m| m.strip_prefix(AWS_PAGE));
        if scope != "AWS" && behind_aws.is_none() {
            let mut after = self.marker.clone();
            while found.len() <= limit {
                let rows = directory::policies(tx, account, prefix, after.as_deref(), limit + 1)?;
                let Some(last) = rows.last() else { break };
                after = Some(last.name.clone());
                for row in &rows {
                    let policy = shown(tx, account, account.as_str(), row, false)?;
                    if counts(&policy) {
                        found.push((row.name.clone(), policy));
                    }
                }
            }
        } else if scope != "Local" {
            behind_aws = Some(behind_aws.unwrap_or_default());
        }
        if scope != "Local" {
            for row in directory::provided() {
                let policy = shown(tx, account, "aws", row, false)?;
                let here = row.path.starts_with(prefix) && behind_aws.is_none_or(|b| row.name.as_str() > b);
                if here && counts(&policy) {
                    found.push((format!("{AWS_PAGE}{}", row.name), policy));
                }
            }
        }
        let marker = page(&mut found, limit, |(name, _)| name.clone());
        let policies = found.into_iter().map(|(_, policy)| policy).collect();
        Ok(ListPoliciesResponse { policies, is_truncated: marker.is_some(), marker })
    }
}

impl IdentityOperation for DeletePolicyRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let account = call.account().clone();
        Ok(directory::delete_policy(call.writer()?, &account, &self.policy_arn)?)
    }
}

impl IdentityOperation for CreatePolicyVersionRequest {
    type Response = PolicyVersionResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)?;
        check::document("policyDocument", &self.policy_document)
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<PolicyVersionResponse> {
        let (account, now) = (call.account().clone(), call.millis());
        let (document, default) = (&self.policy_document, self.set_as_default);
        let row =
            directory::create_version(call.writer()?, &account, &self.policy_arn, document, default, now)?;
        let mut policy_version = shown_version(&row, row.next - 1, true)?;
        policy_version.document = None;
        Ok(PolicyVersionResponse { policy_version })
    }
}

impl IdentityOperation for GetPolicyVersionRequest {
    type Response = PolicyVersionResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)?;
        version_number(&self.version_id).map(|_| ())
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<PolicyVersionResponse> {
        let row = directory::policy(call.reader()?, call.account(), &self.policy_arn)?;
        let number = version_number(&self.version_id)?;
        if row.version(number).is_none() {
            let message = format!(
                "Policy {} version {} does not exist or is not attachable.",
                self.policy_arn, self.version_id
            );
            return Err(refused(IdentityErrorKind::NoSuchEntity, message));
        }
        Ok(PolicyVersionResponse { policy_version: shown_version(&row, number, true)? })
    }
}

impl IdentityOperation for ListPolicyVersionsRequest {
    type Response = ListPolicyVersionsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)?;
        check::page(self.max_items, self.marker.as_deref())
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListPolicyVersionsResponse> {
        let row = directory::policy(call.reader()?, call.account(), &self.policy_arn)?;
        let numbers = row.versions.iter().rev().map(|(number, ..)| *number);
        let all = numbers.map(|number| shown_version(&row, number, false)).collect::<Result<Vec<_>>>()?;
        let (versions, marker) = slice(all, self.max_items, self.marker.as_deref())?;
        Ok(ListPolicyVersionsResponse { versions, is_truncated: marker.is_some(), marker })
    }
}

impl IdentityOperation for SetDefaultPolicyVersionRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)?;
        version_number(&self.version_id).map(|_| ())
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let (account, now, number) =
            (call.account().clone(), call.millis(), version_number(&self.version_id)?);
        Ok(directory::set_default_version(call.writer()?, &account, &self.policy_arn, number, now)?)
    }
}

impl IdentityOperation for DeletePolicyVersionRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)?;
        version_number(&self.version_id).map(|_| ())
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let (account, number) = (call.account().clone(), version_number(&self.version_id)?);
        Ok(directory::delete_version(call.writer()?, &account, &self.policy_arn, number)?)
    }
}

impl IdentityOperation for ListEntitiesForPolicyRequest {
    type Response = ListEntitiesForPolicyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("policyArn", &self.policy_arn)?;
        let kinds = ["User", "Role", "Group", "LocalManagedPolicy", "AWSManagedPolicy"];
        check::one_of("entityFilter", self.entity_filter.as_deref(), &kinds)?;
        check::one_of("policyUsageFilter", self.policy_usage_filter.as_deref(), &[PERMISSIONS, BOUNDARY])
    }

    fn target(&self) -> Target<'_> {
        Target::Policy(&self.policy_arn)
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<ListEntitiesForPolicyResponse> {
        let (account, tx) = (call.account(), call.reader()?);
        directory::policy(tx, account, &self.policy_arn)?;
        let usages: &[Usage] = match self.policy_usage_filter.as_deref() {
            Some(PERMISSIONS) => &[Usage::Permissions],
            Some(_) => &[Usage::Boundary],
            None => &[Usage::Permissions, Usage::Boundary],
        };
        let mut answer = ListEntitiesForPolicyResponse {
            policy_groups: Vec::new(),
            policy_users: Vec::new(),
            policy_roles: Vec::new(),
            is_truncated: false,
        };
        let mut seen = std::collections::BTreeSet::new();
        for usage in usages {
            for (kind, name) in directory::attached_to(tx, account, &self.policy_arn, *usage)? {
                if !seen.insert((kind.name(), name.clone())) {
                    continue;
                }
                // Names in the index are in lower case; the row has the name as it was given.
                let row = directory::entity_any_case(tx, kind, account, &name)?;
                let wanted = |name: &str| self.entity_filter.as_deref().is_none_or(|f| f == name);
                match kind {
                    Kind::Group if wanted("Group") => {
                        answer.policy_groups.push(PolicyGroup { group_name: row.name, group_id: row.id });
                    }
                    Kind::User if wanted("User") => {
                        answer.policy_users.push(PolicyUser { user_name: row.name, user_id: row.id });
                    }
                    Kind::Role if wanted("Role") => {
                        answer.policy_roles.push(PolicyRole { role_name: row.name, role_id: row.id });
                    }
                    Kind::Group | Kind::User | Kind::Role => {}
                }
            }
        }
        Ok(answer)
    }
}
