//! The policies of keys.

use std::sync::Arc;

use super::{key, only, refused};
use crate::iam::{IamError, KeyArn, KeyPolicy, Named, Policy, PolicyKind};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation};
use crate::kms::rows::Kind;
use crate::kms::state::Needs;
use crate::kms::wire::{
    GetKeyPolicyRequest, GetKeyPolicyResponse, ListKeyPoliciesRequest, ListKeyPoliciesResponse,
    PutKeyPolicyRequest,
};
use crate::kms::{KmsError, KmsErrorKind, check, rows};

/// The name of every key's one policy.
const DEFAULT: &str = "default";
/// The bound of AWS's model; what a key's policy may have is less.
const MAX_POLICY: usize = 131_072;

/// Checks a document's bounds.
pub fn check_policy(policy: &str) -> std::result::Result<(), KmsError> {
    check::length("policy", policy.len(), 1, MAX_POLICY)
}

/// Reads a document that is to be a key's policy. Its caller must be able to change it again, unless that check
/// is bypassed.
pub fn own_policy(
    call: &Call<'_, '_>,
    arn: &KeyArn,
    kind: Kind,
    text: &str,
    bypass: bool,
) -> Result<KeyPolicy> {
    let policy = Policy::parse(PolicyKind::Key, text).map_err(|error| {
        let kind = match error {
            IamError::PolicyLength(_) => KmsErrorKind::LimitExceeded,
            _ => KmsErrorKind::MalformedPolicyDocument,
        };
        refused(kind, error.to_string())
    })?;
    for named in policy.named() {
        if let Named::Principal(principal) = named
            && !call.principal_exists(principal)?
        {
            let message = "Policy contains a statement with one or more invalid principals.";
            return Err(refused(KmsErrorKind::MalformedPolicyDocument, message));
        }
    }
    if !bypass && call.may_use_key("kms:PutKeyPolicy", arn, kind, &policy, None, None).is_err() {
        let message = "The new key policy will not allow you to update the key policy in the future.";
        return Err(refused(KmsErrorKind::MalformedPolicyDocument, message));
    }
    Ok(KeyPolicy::Document(text.to_owned()))
}

fn check_name(name: Option<&str>) -> std::result::Result<(), KmsError> {
    name.map_or(Ok(()), |n| check::length("policyName", n.len(), 1, 128))
}

fn is_default(name: Option<&str>) -> Result<()> {
    match name {
        None | Some(DEFAULT) => Ok(()),
        Some(_) => Err(refused(KmsErrorKind::NotFound, "No such policy exists")),
    }
}

impl Operation for GetKeyPolicyRequest {
    type Response = GetKeyPolicyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check_name(self.policy_name.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            policy_name: self.policy_name.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, _: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        is_default(self.policy_name.as_deref())?;
        Ok(GetKeyPolicyResponse { policy: only(keys)?.policy.text().to_owned(), policy_name: DEFAULT })
    }
}

impl Operation for PutKeyPolicyRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check_name(self.policy_name.as_deref())?;
        check_policy(&self.policy)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            policy_name: self.policy_name.as_deref(),
            policy: Some(&self.policy),
            bypass_policy_lockout_safety_check: Some(true)
                .filter(|_| self.bypass_policy_lockout_safety_check),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        is_default(self.policy_name.as_deref())?;
        let key = only(keys)?;
        let mut row = key.row.clone();
        row.policy =
            own_policy(call, &key.arn, row.kind(), &self.policy, self.bypass_policy_lockout_safety_check)?;
        rows::put_key(call.writer()?, &key.arn.key, &row)?;
        call.notes.changed = Some(key.arn_text.clone());
        Ok(())
    }
}

impl Operation for ListKeyPoliciesRequest {
    type Response = ListKeyPoliciesResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::list(self.limit, self.marker.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            limit: self.limit,
            marker: self.marker.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, _: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        // There is one page, so no marker was ever answered.
        if self.marker.is_some() {
            return Err(super::bad_marker());
        }
        Ok(ListKeyPoliciesResponse { policy_names: vec![DEFAULT], truncated: false })
    }
}
