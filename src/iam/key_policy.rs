//! The policy of a key: one that the service writes itself, or its owner's own. It is the root of all access to
//! the key.

use serde::{Deserialize, Serialize};

use super::{AccountId, IamError, Policy, PolicyKind, Region};

/// The policy of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyPolicy {
    /// AWS's default policy: the owning account's root may do everything, and so may delegate everything.
    AccountRoot,
    /// The fixed policy of a key that a service manages: everybody in the account through that service, and
    /// the account's root may look.
    Service(String),
    /// A document of the owner's, as it was given.
    Document(String),
}

impl KeyPolicy {
    /// The policy, read.
    ///
    /// # Errors
    /// [`IamError::MalformedPolicy`], [`IamError::PolicyLength`]: of documents that were never read before.
    pub fn read(&self, owner: &AccountId, region: &Region) -> Result<Policy, IamError> {
        Policy::parse(PolicyKind::Key, &self.document(owner, region))
    }

    /// The policy as a document, in AWS's layout.
    pub fn document(&self, owner: &AccountId, region: &Region) -> String {
        let partition = region.partition();
        match self {
            Self::Document(text) => text.clone(),
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
    use crate::iam::{Access, Context, Principal, ResourcePolicy, evaluate};

    const OWN: &str = "000000000000";

    fn account(text: &str) -> AccountId {
        text.parse().unwrap()
    }

    fn may(who: &str, via: Option<&str>, action: &str, policy: &KeyPolicy) -> bool {
        let (owner, principal) = (account(OWN), Principal::root(account(who)));
        let policy = policy.read(&owner, &"eu-west-1".parse().unwrap()).unwrap();
        let mut context = Context::new();
        principal.describe(&mut context);
        if let Some(via) = via {
            context.set("kms:ViaService", format!("{via}.eu-west-1.amazonaws.com"));
        }
        let resource_policy = Some(ResourcePolicy { owner: &owner, policy: &policy });
        let access = Access {
            principal: &principal,
            action,
            resource: "arn:aws:kms:eu-west-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            context: &context,
            identity: &[],
            boundary: None,
            session: &[],
            resource_policy,
            grant: &|| None,
        };
        evaluate(&access).is_ok()
    }

    #[test]
    fn the_default_policy_is_for_the_own_account_alone() {
        assert!(may(OWN, None, "kms:ScheduleKeyDeletion", &KeyPolicy::AccountRoot));
        assert!(!may("000000000001", None, "kms:DescribeKey", &KeyPolicy::AccountRoot));
    }

    #[test]
    fn a_managed_key_is_used_through_its_service_and_only_looked_at_otherwise() {
        let policy = KeyPolicy::Service("kmsfs".to_owned());
        for action in
            ["kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKeyWithoutPlaintext"]
        {
            assert!(may(OWN, Some("kmsfs"), action, &policy), "{action}");
        }
        assert!(may(OWN, None, "kms:GetKeyPolicy", &policy));
        for (via, action) in [
            (None, "kms:Decrypt"),
            (Some("other"), "kms:Decrypt"),
            (None, "kms:DisableKey"),
            (Some("kmsfs"), "kms:DisableKey"),
        ] {
            assert!(!may(OWN, via, action, &policy), "{action}");
        }
        assert!(!may("000000000001", Some("kmsfs"), "kms:Decrypt", &policy));
    }
}
