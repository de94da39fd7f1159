//! What policies mean, as tables.

mod conditions;
mod documents;
mod matrix;
mod sigv4;
mod speed;

use super::*;

const OWN: &str = "000000000000";
const OTHER: &str = "111122223333";
const KEY: &str = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn account(text: &str) -> AccountId {
    text.parse().unwrap()
}

fn policy(kind: PolicyKind, statements: &serde_json::Value) -> Policy {
    let document = serde_json::json!({"Version": "2012-10-17", "Statement": statements});
    Policy::parse(kind, &document.to_string()).unwrap()
}

/// All that can have a say, for one request to use KEY, which belongs to OWN.
struct Scene {
    principal: Principal,
    action: &'static str,
    context: Context,
    identity: Option<Policy>,
    boundary: Option<Policy>,
    session: Option<Policy>,
    key: Option<Policy>,
    grant: Option<&'static str>,
}

impl Scene {
    fn new(principal: &str) -> Self {
        Self {
            principal: principal.parse().unwrap(),
            action: "kms:Decrypt",
            context: Context::new(),
            identity: None,
            boundary: None,
            session: None,
            key: None,
            grant: None,
        }
    }

    /// The words of the refusal, or the grounds.
    fn decide(&self) -> Result<String, String> {
        let owner = account(OWN);
        let identity: Vec<_> = self.identity.iter().map(|policy| Attached { name: "i", policy }).collect();
        let session: Vec<_> = self.session.iter().map(|policy| Attached { name: "s", policy }).collect();
        let access = Access {
            principal: &self.principal,
            action: self.action,
            resource: KEY,
            context: &self.context,
            identity: &identity,
            boundary: self.boundary.as_ref().map(|policy| Attached { name: "b", policy }),
            session: &session,
            resource_policy: self.key.as_ref().map(|policy| ResourcePolicy { owner: &owner, policy }),
            grant: &|| self.grant.map(str::to_owned),
        };
        match evaluate(&access) {
            Ok(grounds) => Ok(grounds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            Err(refusal) => Err(refusal.words(self.action)),
        }
    }
}
