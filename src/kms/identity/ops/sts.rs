//! Who one is, and sessions.

use jiff::{SignedDuration, Timestamp};

use super::{iso, refused, say_tags};
use crate::audit::Resource;
use crate::iam::directory::{self, EntityRow, Kind, Unique};
use crate::iam::{AccountId, Context, Policy, PolicyKind, Principal, ResourcePolicy};
use crate::kms::KmsError;
use crate::kms::call::Result;
use crate::kms::identity::IdentityErrorKind;
use crate::kms::identity::authority::principal_id;
use crate::kms::identity::call::{IdentityCall, Target};
use crate::kms::identity::check;
use crate::kms::identity::credential::{Holder, Payload, session_policy};
use crate::kms::identity::operation::{IdentityOperation, InTable};
use crate::kms::identity::wire::*;
use crate::kms::region::Fault;

/// The longest session of somebody who is in a role's session already, in seconds.
const LONGEST_CHAINED: i64 = 3600;
/// Bytes that a token has room for: policies, their ARNs and tags.
const ROOM: usize = 4096;

/// Labels of a session, and the names of those that the next one of a chain has too.
type Labels = (Vec<(String, String)>, Vec<String>);

fn invalid(message: &str) -> KmsError {
    crate::kms::identity::error::refused(IdentityErrorKind::Validation, message)
}

impl IdentityOperation for GetCallerIdentityRequest {
    type Response = GetCallerIdentityResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        Ok(())
    }

    fn target(&self) -> Target<'_> {
        Target::Account
    }

    /// Everybody may.
    fn authorise(&self, _: &mut IdentityCall<'_, '_>) -> Result<()> {
        Ok(())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<GetCallerIdentityResponse> {
        let principal = &call.caller.principal;
        let standing = call.authority.standing.as_deref();
        let id = principal_id(principal, call.caller.identified.as_deref(), standing);
        Ok(GetCallerIdentityResponse {
            user_id: id.unwrap_or_else(|| principal.arn()),
            account: principal.account().to_string(),
            arn: principal.arn(),
        })
    }
}

/// A session, sealed into its token.
fn credentials(
    call: &IdentityCall<'_, '_>,
    account: &AccountId,
    seconds: i64,
    fill: impl FnOnce(&mut Payload),
) -> Result<Credentials> {
    let expires = call.now + SignedDuration::from_secs(seconds);
    // Whole seconds, as the answer tells it.
    let expires = Timestamp::from_second(expires.as_second()).unwrap_or(expires);
    let secret = directory::new_secret()?;
    let mut payload = Payload {
        access_key_id: directory::unique_id(Unique::SessionKey)?,
        secret: secret.expose().to_vec(),
        account: account.to_string(),
        holder: Holder::Root,
        id: account.to_string(),
        issued: call.millis(),
        expires: expires.as_millisecond(),
        policy: None,
        policy_arns: Vec::new(),
        tags: Vec::new(),
        transitive: Vec::new(),
        source_identity: None,
    };
    fill(&mut payload);
    Ok(Credentials {
        access_key_id: payload.access_key_id.clone(),
        secret_access_key: SecretText::new(secret),
        session_token: payload.seal(call.core)?,
        expiration: iso(payload.expires)?,
    })
}

impl IdentityOperation for GetSessionTokenRequest {
    type Response = GetSessionTokenResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::number("durationSeconds", self.duration_seconds, 900, 129_600)?;
        if self.serial_number.is_some() || self.token_code.is_some() {
            return Err(invalid("MultiFactorAuthentication failed, there are no such devices here"));
        }
        Ok(())
    }

    fn target(&self) -> Target<'_> {
        Target::Account
    }

    /// Every user may, and root.
    fn authorise(&self, _: &mut IdentityCall<'_, '_>) -> Result<()> {
        Ok(())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<GetSessionTokenResponse> {
        let account = call.account().clone();
        let (seconds, holder, id) = match (&call.caller.principal, &call.authority.standing) {
            (Principal::Root(_), _) => {
                (self.duration_seconds.unwrap_or(3600).min(3600), Holder::Root, account.to_string())
            }
            (Principal::User { name, .. }, Some(standing)) => {
                (self.duration_seconds.unwrap_or(43_200), Holder::User(name.clone()), standing.id.clone())
            }
            _ => {
                let message = "Cannot call GetSessionToken with session credentials";
                return Err(refused(IdentityErrorKind::AccessDenied, message));
            }
        };
        let credentials = credentials(call, &account, seconds, |payload| {
            payload.holder = holder;
            payload.id = id;
        })?;
        Ok(GetSessionTokenResponse { credentials })
    }
}

impl AssumeRoleRequest {
    /// Of one role there is one ARN: statements name it by that, and one of another partition would go past them.
    fn role(&self) -> Option<(AccountId, String)> {
        let named = self.role_arn.parse::<Principal>().ok().filter(|named| named.arn() == self.role_arn)?;
        match named {
            Principal::Role { account, name } => Some((account, name)),
            _ => None,
        }
    }

    /// The role, if it is there under this path.
    fn row(&self, call: &IdentityCall<'_, '_>) -> Result<Option<(AccountId, EntityRow)>> {
        let Some((account, name)) = self.role() else { return Ok(None) };
        let short = name.rsplit('/').next().unwrap_or(&name);
        let row = directory::find_entity(call.reader()?, Kind::Role, &account, short)?;
        Ok(row.filter(|row| row.full_name() == name).map(|row| (account, row)))
    }

    /// The session's labels with those that come down a chain, and the names of those that go on.
    fn labels(&self, call: &IdentityCall<'_, '_>) -> Result<Labels> {
        let mut tags = super::pairs(&self.tags);
        let mut transitive = self.transitive_tag_keys.clone();
        let before = call.caller.identified.as_ref().and_then(|i| i.session.as_ref());
        for key in before.into_iter().flat_map(|s| &s.transitive) {
            if tags.iter().any(|(own, _)| own.eq_ignore_ascii_case(key)) {
                let message = "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key \
                     from the calling session.";
                return Err(refused(IdentityErrorKind::Validation, message));
            }
            let value = before.and_then(|s| s.tags.iter().find(|(own, _)| own == key));
            tags.extend(value.cloned());
            transitive.push(key.clone());
        }
        Ok((tags, transitive))
    }

    /// Once said, it stays the same down a chain.
    fn source_identity(&self, call: &IdentityCall<'_, '_>) -> Result<Option<String>> {
        let before = call.caller.identified.as_ref().and_then(|i| i.session.as_ref());
        match (before.and_then(|s| s.source_identity.as_ref()), &self.source_identity) {
            (Some(before), Some(other)) if before != other => {
                let message =
                    format!("The calling session's SourceIdentity is {before}, and cannot be changed.");
                Err(refused(IdentityErrorKind::AccessDenied, message))
            }
            (before, own) => Ok(before.or(own.as_ref()).cloned()),
        }
    }
}

impl IdentityOperation for AssumeRoleRequest {
    type Response = AssumeRoleResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::arn("roleArn", &self.role_arn)?;
        check::name("roleSessionName", &self.role_session_name, 64)?;
        check::length("roleSessionName", self.role_session_name.len(), 2, 64)?;
        check::number("durationSeconds", self.duration_seconds, 900, 43_200)?;
        check::tags(&self.tags)?;
        check::tag_keys(&self.transitive_tag_keys)?;
        check::length("policyArns", self.policy_arns.len(), 0, 10)?;
        self.policy_arns.iter().try_for_each(|p| check::arn("policyArns.arn", &p.arn))?;
        if let Some(id) = &self.external_id {
            check::length("externalId", id.len(), 2, 1224)?;
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b);
            if !id.bytes().all(allowed) {
                return Err(invalid(
                    "1 validation error detected: Value at 'externalId' failed to satisfy constraint: Member must satisfy \
                     regular expression pattern: [\\w+=,.@:\\/-]*",
                ));
            }
        }
        if let Some(id) = &self.source_identity {
            check::name("sourceIdentity", id, 64)?;
            check::length("sourceIdentity", id.len(), 2, 64)?;
        }
        if self.serial_number.is_some() || self.token_code.is_some() {
            return Err(invalid("MultiFactorAuthentication failed, there are no such devices here"));
        }
        if self.role().is_none() {
            return Err(invalid(&format!("{} is invalid", self.role_arn)));
        }
        match self.transitive_tag_keys.iter().find(|key| !self.tags.iter().any(|t| t.key == **key)) {
            Some(key) => {
                Err(invalid(&format!("The transitive tag key {key} must also be given as a session tag.")))
            }
            None => Ok(()),
        }
    }

    fn target(&self) -> Target<'_> {
        Target::Account
    }

    /// The role's trust policy and the caller's own together, as for any resource that has a policy.
    fn authorise(&self, call: &mut IdentityCall<'_, '_>) -> Result<()> {
        let action = Self::ROW.action;
        let denied = |action: &str, reason: String| {
            let who = call.caller.principal.arn();
            let message =
                format!("User: {who} is not authorized to perform: {action} on resource: {}", self.role_arn);
            let answer = crate::kms::identity::error::refused(IdentityErrorKind::AccessDenied, message);
            Fault::Hidden { answer, reason }
        };
        if matches!(call.caller.principal, Principal::Root(_)) {
            return Err(refused(
                IdentityErrorKind::AccessDenied,
                "Roles may not be assumed by root accounts.",
            ));
        }
        let Some((account, row)) = self.row(call)? else {
            return Err(denied(action, format!("the role {} is not there", self.role_arn)));
        };
        let damaged =
            || refused(IdentityErrorKind::MalformedPolicyDocument, "the role's trust policy is damaged");
        let role = row.role.as_ref().ok_or_else(damaged)?;
        let trust = Policy::parse(PolicyKind::Trust, &role.trust).map_err(|_| damaged())?;
        let mut context = Context::new();
        call.say(&mut context);
        for (key, value) in &row.tags {
            context.set(&format!("aws:ResourceTag/{key}"), value.as_str());
            context.set(&format!("iam:ResourceTag/{key}"), value.as_str());
        }
        say_tags(&self.tags, &mut context);
        if !self.transitive_tag_keys.is_empty() {
            context.set_all("sts:TransitiveTagKeys", self.transitive_tag_keys.iter().map(String::as_str));
        }
        context.set("sts:RoleSessionName", self.role_session_name.as_str());
        for (key, value) in
            [("sts:ExternalId", &self.external_id), ("sts:SourceIdentity", &self.source_identity)]
        {
            if let Some(value) = value {
                context.set(key, value.as_str());
            }
        }
        let mut actions = vec![action];
        // What comes down a chain must be allowed as what is said anew.
        let before = call.caller.identified.as_ref().and_then(|i| i.session.as_ref());
        if !self.tags.is_empty() || before.is_some_and(|s| !s.transitive.is_empty()) {
            actions.push("sts:TagSession");
        }
        if self.source_identity(call)?.is_some() {
            actions.push("sts:SetSourceIdentity");
        }
        for action in actions {
            let policy = Some(ResourcePolicy { owner: &account, policy: &trust });
            call.decide(action, &self.role_arn, &context, policy).map_err(|error| match error.kind {
                crate::kms::KmsErrorKind::Identity(IdentityErrorKind::AccessDenied) => {
                    denied(action, error.message)
                }
                _ => Fault::Refused(error),
            })?;
        }
        Ok(())
    }

    fn act(&self, call: &mut IdentityCall<'_, '_>) -> Result<AssumeRoleResponse> {
        let missing = || refused(IdentityErrorKind::NoSuchEntity, format!("{} is not there", self.role_arn));
        let (account, row) = self.row(call)?.ok_or_else(missing)?;
        let longest = row.role.as_ref().map_or(0, |role| i64::from(role.max_session));
        let chained = matches!(call.caller.principal, Principal::Session { .. });
        let seconds = self.duration_seconds.unwrap_or(3600);
        if chained && seconds > LONGEST_CHAINED {
            let message = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining";
            return Err(refused(IdentityErrorKind::Validation, message));
        }
        if seconds > longest {
            let message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.";
            return Err(refused(IdentityErrorKind::Validation, message));
        }
        if let Some(text) = &self.policy {
            session_policy(text)
                .map_err(|e| refused(IdentityErrorKind::MalformedPolicyDocument, e.to_string()))?;
        }
        for policy in &self.policy_arns {
            directory::policy(call.reader()?, &account, &policy.arn)?;
        }
        let (tags, transitive) = self.labels(call)?;
        let policy_arns: Vec<String> = self.policy_arns.iter().map(|p| p.arn.clone()).collect();
        let packed = self.policy.as_ref().map_or(0, String::len)
            + policy_arns.iter().map(String::len).sum::<usize>()
            + tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if packed > ROOM {
            let percent = packed * 100 / ROOM;
            let message =
                format!("Packed policy consumes {percent}% of allotted space, please use smaller policy.");
            return Err(refused(IdentityErrorKind::PackedPolicyTooLarge, message));
        }
        let source_identity = self.source_identity(call)?;
        let session = self.role_session_name.clone();
        let user =
            Principal::Session { account: account.clone(), role: row.full_name(), session: session.clone() };
        let credentials = credentials(call, &account, seconds, |payload| {
            payload.holder = Holder::Role(row.full_name(), session.clone());
            payload.id.clone_from(&row.id);
            payload.policy.clone_from(&self.policy);
            payload.policy_arns = policy_arns;
            payload.tags = tags;
            payload.transitive = transitive;
            payload.source_identity.clone_from(&source_identity);
        })?;
        call.resources.push(Resource {
            account_id: account.to_string(),
            kind: "AWS::IAM::Role".into(),
            arn: self.role_arn.clone(),
        });
        let percent = u32::try_from(packed * 100 / ROOM).unwrap_or(100);
        Ok(AssumeRoleResponse {
            credentials,
            assumed_role_user: AssumedRoleUser {
                assumed_role_id: format!("{}:{session}", row.id),
                arn: user.arn(),
            },
            packed_policy_size: (packed > 0).then_some(percent.max(1)),
            source_identity,
        })
    }
}
