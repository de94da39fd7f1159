//! The decision about one request, out of all policies that have a say in it.
//!
//! A Deny anywhere decides. Else a request is allowed by a grant, or by the policies. For a resource of the
//! caller's own account these are the resource's policy if it names the caller, or both that policy and the
//! caller's own if it names the account. Across accounts they are always both. An account's root needs no
//! policy of its own. Permissions boundary and session policy narrow what the caller's own policies give, and
//! what a resource's policy gives to everybody or to a role; not what it gives to a user or session by name,
//! nor a grant.

use std::fmt;

use super::policy::{Asked, Effect, Policy, Reach, Statement};
use super::{AccountId, Context, Principal};

/// A policy under the name that decisions call it by.
#[derive(Debug, Clone, Copy)]
pub struct Attached<'a> {
    /// Such as the name of an inline policy or a managed policy's ARN.
    pub name: &'a str,
    /// What it says.
    pub policy: &'a Policy,
}

/// The policy of what is asked for.
#[derive(Debug, Clone, Copy)]
pub struct ResourcePolicy<'a> {
    /// Whose it is.
    pub owner: &'a AccountId,
    /// What it says.
    pub policy: &'a Policy,
}

/// One request, and all that decides it.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// Such as kms:Decrypt.
    pub action: &'a str,
    /// Its ARN, or * where a request is about none.
    pub resource: &'a str,
    /// The request's condition keys.
    pub context: &'a Context,
    /// The principal's own policies, those of its groups too.
    pub identity: &'a [Attached<'a>],
    /// The most that they can give.
    pub boundary: Option<Attached<'a>>,
    /// The session's policies; none given: it is as its role.
    pub session: &'a [Attached<'a>],
    /// None if the resource has none: then the principal's own policies decide.
    pub resource_policy: Option<ResourcePolicy<'a>>,
    /// Answers the id of a grant that covers the request; asked only if the policies do not allow it.
    pub grant: &'a dyn Fn() -> Option<String>,
}

/// Which kind of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The resource's.
    Resource,
    /// The principal's.
    Identity,
    /// The principal's permissions boundary.
    Boundary,
    /// The session's.
    Session,
}

/// What made a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground<'a> {
    /// A statement.
    Statement {
        /// Of which kind of policy.
        layer: Layer,
        /// The policy's name; a resource's policy has none but "default".
        policy: &'a str,
        /// Its place in the policy, from 0.
        index: usize,
        /// Its name.
        sid: Option<&'a str>,
    },
    /// A grant, by its id.
    Grant(String),
    /// The principal is the account's root.
    Root,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// A statement denies it.
    Explicit(Ground<'a>),
    /// No policy of this kind allows it.
    Missing(Layer),
}

/// Every ground that was needed, or why not.
pub type Decision<'a> = Result<Vec<Ground<'a>>, Refusal<'a>>;

/// Decides one request.
///
/// # Errors
/// The refusal: a Deny first, else the first kind of policy that allows nothing.
pub fn evaluate<'a>(access: &Access<'a>) -> Decision<'a> {
    let asked = Asked {
        principal: access.principal,
        action: access.action,
        resource: access.resource,
        context: access.context,
    };
    let boundary = access.boundary.as_slice();
    let own = access.resource_policy.map(|r| Attached { name: "default", policy: r.policy });
    // All Denies come before any Allow.
    let resource = scan(own.as_slice(), Layer::Resource, &asked)?;
    let identity = scan(access.identity, Layer::Identity, &asked)?;
    let limits = [
        (Layer::Boundary, boundary.is_empty(), scan(boundary, Layer::Boundary, &asked)?),
        (Layer::Session, access.session.is_empty(), scan(access.session, Layer::Session, &asked)?),
    ];
    let limited = |mut grounds: Vec<Ground<'a>>| {
        for (layer, absent, found) in &limits {
            match found {
                Some((ground, _)) => grounds.push(ground.clone()),
                None if *absent => {}
                None => return Err(Refusal::Missing(*layer)),
            }
        }
        Ok(grounds)
    };
    let own_side = |mut grounds: Vec<Ground<'a>>| {
        if matches!(access.principal, Principal::Root(_)) {
            grounds.push(Ground::Root);
            return Ok(grounds);
        }
        let Some((ground, _)) = identity.clone() else { return Err(Refusal::Missing(Layer::Identity)) };
        grounds.push(ground);
        limited(grounds)
    };
    let decision = match (access.resource_policy, resource) {
        (None, _) => own_side(Vec::new()),
        (Some(_), None) => Err(Refusal::Missing(Layer::Resource)),
        (Some(policy), Some((ground, reach))) => {
            let grounds = vec![ground];
            match (access.principal, reach) {
                // A service has no policies of its own.
                (Principal::Service { .. }, _) => Ok(grounds),
                (principal, _) if principal.account() != policy.owner => own_side(grounds),
                (_, Reach::Itself) => Ok(grounds),
                (_, Reach::Role | Reach::Any) => limited(grounds),
                (_, Reach::Account) => own_side(grounds),
            }
        }
    };
    decision.or_else(|refusal| match (access.grant)() {
        Some(id) => Ok(vec![Ground::Grant(id)]),
        None => Err(refusal),
    })
}

/// The strongest Allow of some policies.
type Found<'a> = Option<(Ground<'a>, Reach)>;

/// Looks through policies of one kind; a Deny is an error.
fn scan<'a>(policies: &[Attached<'a>], layer: Layer, asked: &Asked<'_>) -> Result<Found<'a>, Refusal<'a>> {
    let mut found: Found<'a> = None;
    for attached in policies {
        for (index, statement) in attached.policy.statements().iter().enumerate() {
            // A second Allow of the same reach changes nothing.
            let enough = found.as_ref().is_some_and(|(_, reach)| *reach == Reach::Itself);
            if enough && statement.effect == Effect::Allow {
                continue;
            }
            let Some(reach) = statement.applies(asked) else { continue };
            let ground = |s: &'a Statement| Ground::Statement {
                layer,
                policy: attached.name,
                index,
                sid: s.sid.as_deref(),
            };
            match statement.effect {
                Effect::Deny => return Err(Refusal::Explicit(ground(statement))),
                Effect::Allow if found.as_ref().is_none_or(|(_, best)| reach > *best) => {
                    found = Some((ground(statement), reach));
                }
                Effect::Allow => {}
            }
        }
    }
    Ok(found)
}

impl Refusal<'_> {
    /// The reason as AWS words it, with its "because" or "with", to stand behind the resource.
    pub fn words(&self, action: &str) -> String {
        match self {
            Self::Explicit(Ground::Statement { layer, .. }) => {
                let article = if *layer == Layer::Identity { "an" } else { "a" };
                format!("with an explicit deny in {article} {layer}")
            }
            Self::Explicit(Ground::Grant(_) | Ground::Root) => "with an explicit deny".to_owned(),
            Self::Missing(layer) => format!("because no {layer} allows the {action} action"),
        }
    }

    /// AWS's whole sentence.
    pub fn sentence(&self, principal: &Principal, action: &str, resource: &str) -> String {
        let (who, why) = (principal.arn(), self.words(action));
        format!("User: {who} is not authorized to perform: {action} on resource: {resource} {why}")
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resource => "resource-based policy",
            Self::Identity => "identity-based policy",
            Self::Boundary => "permissions boundary",
            Self::Session => "session policy",
        })
    }
}

impl fmt::Display for Ground<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statement { layer, policy, index, sid } => {
                write!(f, "statement {}", index + 1)?;
                if let Some(sid) = sid {
                    write!(f, " ({sid:?})")?;
                }
                write!(f, " of the {layer} {policy}")
            }
            Self::Grant(id) => write!(f, "grant {id}"),
            Self::Root => f.write_str("the account's root, whom its own account allows everything"),
        }
    }
}
