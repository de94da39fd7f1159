//! Who a caller is beside the name, and what that gives: what every decision needs of the directory.

use std::sync::Arc;

use jiff::Timestamp;

use super::error::{expired_token, invalid_token};
use crate::iam::directory::{NamedPolicy, Standing};
use crate::iam::{Attached, Context, Policy, PolicyKind, Principal};
use crate::kms::KmsError;

/// What was found out about a caller when it was let in. It stays true: somebody who is deleted and made again
/// under the same name is somebody else.
#[derive(Debug, Clone)]
pub struct Identified {
    /// AIDA... of a user, AROA... of a session's role, the account of root.
    pub id: String,
    /// What only sessions have.
    pub session: Option<SessionFacts>,
}

/// What only sessions have: those of roles, and those that GetSessionToken began.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// When it began.
    pub issued: Timestamp,
    /// When it ends; None: it lasts as long as whoever holds it (the local command line's).
    pub expires: Option<Timestamp>,
    /// The policy that was given with it.
    pub policy: Option<NamedPolicy>,
    /// ARNs of the managed policies that were given with it.
    pub policy_arns: Vec<String>,
    /// Its own labels; they count before the role's.
    pub tags: Vec<(String, String)>,
    /// Names of those that the next session of a chain has too.
    pub transitive: Vec<String>,
    /// Who is behind it, as was said at its beginning.
    pub source_identity: Option<String>,
}

/// What decides about a caller, as of one generation of the directory.
#[derive(Debug, Clone, Default)]
pub struct Authority {
    /// The generation; None: the decision does not hang on the directory (root's and services').
    pub generation: Option<u64>,
    /// What it has by being who it is.
    pub standing: Option<Arc<Standing>>,
    /// The session's policies; one that allows nothing where all that were given are gone.
    pub session: Vec<Arc<NamedPolicy>>,
    /// It was somebody when it was let in, and is nobody any more.
    pub gone: bool,
}

/// A policy under which nothing is allowed.
pub(super) fn allows_nothing(name: &str) -> Option<NamedPolicy> {
    let text = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#;
    let policy = Policy::parse(PolicyKind::Session, text).ok()?;
    Some(NamedPolicy { name: name.to_owned(), policy })
}

impl Authority {
    /// Is the caller still somebody, and its session not over?
    pub fn check(&self, identified: Option<&Identified>, now: Timestamp) -> Result<(), KmsError> {
        if self.gone {
            return Err(invalid_token());
        }
        let session = identified.and_then(|i| i.session.as_ref());
        match session.and_then(|s| s.expires) {
            Some(expires) if now >= expires => Err(expired_token()),
            _ => Ok(()),
        }
    }

    /// The caller's own policies.
    pub fn identity(&self) -> Vec<Attached<'_>> {
        self.standing.iter().flat_map(|s| &s.policies).map(attached).collect()
    }

    /// What limits them.
    pub fn boundary(&self) -> Option<Attached<'_>> {
        self.standing.as_ref().and_then(|s| s.boundary.as_ref()).map(attached)
    }

    /// What limits its session.
    pub fn session(&self) -> Vec<Attached<'_>> {
        self.session.iter().map(|p| attached(p)).collect()
    }

    /// Can the request's condition keys make a difference to any of these?
    pub fn reads_context(&self) -> bool {
        self.all().any(|p| p.policy.reads_context())
    }

    /// A condition of one of these asks for this key.
    pub fn reads(&self, key: &str) -> bool {
        self.all().any(|p| p.policy.reads(key))
    }

    fn all(&self) -> impl Iterator<Item = &NamedPolicy> {
        let standing = self.standing.iter().flat_map(|s| s.policies.iter().chain(&s.boundary));
        standing.chain(self.session.iter().map(|p| &**p))
    }

    /// Says the condition keys that follow from who the caller is.
    pub fn say(&self, principal: &Principal, identified: Option<&Identified>, context: &mut Context) {
        if let Some(id) = principal_id(principal, identified, self.standing.as_deref()) {
            context.set("aws:userid", id);
        }
        for (key, value) in self.standing.iter().flat_map(|s| &s.tags) {
            context.set(&format!("aws:PrincipalTag/{key}"), value.as_str());
        }
        let Some(session) = identified.and_then(|i| i.session.as_ref()) else { return };
        for (key, value) in &session.tags {
            context.set(&format!("aws:PrincipalTag/{key}"), value.as_str());
        }
        context.set("aws:TokenIssueTime", session.issued.to_string());
        if let Some(source) = &session.source_identity {
            context.set("aws:SourceIdentity", source.as_str());
        }
    }
}

fn attached(named: &NamedPolicy) -> Attached<'_> {
    Attached { name: &named.name, policy: &named.policy }
}

/// The unique id of a caller: aws:userid, and principalId of events.
pub fn principal_id(
    principal: &Principal,
    identified: Option<&Identified>,
    standing: Option<&Standing>,
) -> Option<String> {
    if let Principal::Root(account) = principal {
        return Some(account.to_string());
    }
    let id = identified.map(|i| i.id.as_str()).or(standing.map(|s| s.id.as_str()))?;
    Some(match principal {
        Principal::Session { session, .. } => format!("{id}:{session}"),
        _ => id.to_owned(),
    })
}
