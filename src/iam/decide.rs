//! May they? One function answers for the use of a key, one for what belongs to an account as a whole.
//!
//! A key's policy is the root of all access to it. So far a policy is one of two that the service writes
//! itself; policies of one's own, identities and grants extend this decision, not its callers.

use serde::{Deserialize, Serialize};

use super::{AccountId, Principal, Region};

/// The policy of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyPolicy {
    /// AWS's default policy: the owning account's root may do everything, and so may delegate everything.
    AccountRoot,
    /// The fixed policy of a key that a service manages: everybody in the account through that service, and
    /// the account's root may look.
    Service(String),
}

/// Who wants to do what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who calls.
    pub principal: &'a Principal,
    /// The service that calls in the principal's name.
    pub via: Option<&'a str>,
    /// Such as kms:Decrypt.
    pub action: &'a str,
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The key's policy says nothing in the principal's favour.
    NoResourcePolicy,
    /// The resource belongs to another account.
    OtherAccount,
    /// The name is kept for services.
    Reserved,
}

/// What a key's own service does with it.
const SERVICE_USE: [&str; 8] = [
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:CreateGrant",
    "kms:DescribeKey",
];

/// May they use the key of `owner` that has this policy?
pub fn may_use_key(request: &Request<'_>, owner: &AccountId, policy: &KeyPolicy) -> Result<(), Denial> {
    let Principal::Root(caller) = request.principal;
    let own = caller == owner;
    let allowed = match policy {
        KeyPolicy::AccountRoot => own,
        KeyPolicy::Service(service) => {
            let through = request.via == Some(service) && SERVICE_USE.contains(&request.action);
            let looks = ["kms:Describe", "kms:Get", "kms:List"].iter().any(|p| request.action.starts_with(p))
                || request.action == "kms:RevokeGrant";
            own && (through || looks)
        }
    };
    if allowed { Ok(()) } else { Err(Denial::NoResourcePolicy) }
}

/// May they do what concerns the account and no key of it?
pub fn may_in_account(request: &Request<'_>, account: &AccountId) -> Result<(), Denial> {
    if request.principal.account() == account { Ok(()) } else { Err(Denial::OtherAccount) }
}

impl Denial {
    /// The reason, as AWS words it behind "because".
    pub fn reason(self, action: &str) -> String {
        match self {
            Self::NoResourcePolicy => format!("no resource-based policy allows the {action} action"),
            Self::OtherAccount => format!("no identity-based policy allows the {action} action"),
            Self::Reserved => {
                "names that begin with alias/aws/ are kept for keys that services manage".to_owned()
            }
        }
    }
}

impl KeyPolicy {
    /// The policy as a document, in AWS's layout.
    pub fn document(&self, owner: &AccountId, region: &Region) -> String {
        let partition = region.partition();
        match self {
            Self::AccountRoot => format!(
                r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:{partition}:iam::{owner}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"#
            ),
            Self::Service(service) => format!(
                r#"{{
  "Version" : "2012-10-17",
  "Id" : "auto-{service}-1",
  "Statement" : [ {{
    "Sid" : "Allow access through {service} for all principals in the account that are authorized to use {service}",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "*"
    }},
    "Action" : [ "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant", "kms:DescribeKey" ],
    "Resource" : "*",
    "Condition" : {{
      "StringEquals" : {{
        "kms:CallerAccount" : "{owner}",
        "kms:ViaService" : "{service}.{region}.amazonaws.com"
      }}
    }}
  }}, {{
    "Sid" : "Allow direct access to key metadata to the account",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:{partition}:iam::{owner}:root"
    }},
    "Action" : [ "kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant" ],
    "Resource" : "*"
  }} ]
}}"#
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> AccountId {
        text.parse().unwrap()
    }

    fn may(who: &str, via: Option<&str>, action: &str, policy: &KeyPolicy) -> Result<(), Denial> {
        let principal = Principal::root(account(who));
        may_use_key(&Request { principal: &principal, via, action }, &account("000000000000"), policy)
    }

    #[test]
    fn the_default_policy_is_for_the_own_account_alone() {
        assert_eq!(may("000000000000", None, "kms:ScheduleKeyDeletion", &KeyPolicy::AccountRoot), Ok(()));
        let other = may("000000000001", None, "kms:DescribeKey", &KeyPolicy::AccountRoot);
        assert_eq!(other, Err(Denial::NoResourcePolicy));
    }

    #[test]
    fn a_managed_key_is_used_through_its_service_and_only_looked_at_otherwise() {
        let policy = KeyPolicy::Service("kmsfs".to_owned());
        let own = "000000000000";
        assert_eq!(may(own, Some("kmsfs"), "kms:Decrypt", &policy), Ok(()));
        assert_eq!(may(own, None, "kms:GetKeyPolicy", &policy), Ok(()));
        for (via, action) in [
            (None, "kms:Decrypt"),
            (Some("other"), "kms:Decrypt"),
            (None, "kms:DisableKey"),
            (Some("kmsfs"), "kms:DisableKey"),
        ] {
            assert_eq!(may(own, via, action, &policy), Err(Denial::NoResourcePolicy), "{action}");
        }
        assert!(may("000000000001", Some("kmsfs"), "kms:Decrypt", &policy).is_err());
    }

    #[test]
    fn both_policies_are_json() {
        let region: Region = "eu-west-1".parse().unwrap();
        for policy in [KeyPolicy::AccountRoot, KeyPolicy::Service("kmsfs".to_owned())] {
            let text = policy.document(&account("000000000000"), &region);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["Version"], "2012-10-17");
        }
    }
}
