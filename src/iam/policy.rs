//! Policy documents: read strictly, kept as they were given. IAM User Guide, "Grammar of the IAM JSON policy
//! language".

use std::collections::HashSet;
use std::fmt;

use super::condition::Condition;
use super::json::Json;
use super::pattern::{Pattern, Syntax};
use super::principal::last;
use super::{AccountId, Context, IamError, Principal};

/// What a policy is attached to. It says which elements must and may stand in it, and how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// The policy of a key.
    Key,
    /// Who may assume a role.
    Trust,
    /// Of one user alone.
    User,
    /// Of one group alone.
    Group,
    /// Of one role alone.
    Role,
    /// By itself: attached to identities, or a permissions boundary.
    Managed,
    /// Given when a role is assumed.
    Session,
}

/// A policy, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    text: Box<str>,
    id: Option<Box<str>>,
    statements: Vec<Statement>,
    reads_context: bool,
}

/// What a statement says of the requests it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// They may, if no other statement denies it.
    Allow,
    /// They may not, whatever other statements say.
    Deny,
}

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Its name, if it has one.
    pub sid: Option<Box<str>>,
    /// What it says.
    pub effect: Effect,
    /// None in policies of identities, which are about their owner.
    principals: Option<Listed<Named>>,
    actions: Listed<Pattern>,
    /// None in trust policies, which are about their role.
    resources: Option<Listed<Pattern>>,
    conditions: Vec<Condition>,
}

/// A list, or everything but it.
#[derive(Debug, Clone, PartialEq)]
enum Listed<T> {
    These(Vec<T>),
    Not(Vec<T>),
}

/// Somebody whom a policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Everybody.
    Any,
    /// An account: it may hand on what it is allowed.
    Account(AccountId),
    /// A user, role or session.
    Principal(Principal),
    /// A service, by its name.
    Service(String),
    /// Somebody whom another provider knows. Nobody here is one.
    Federated(String),
}

/// How a statement reaches a principal, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// By its account: what it is allowed is for the account's own policies to hand on.
    Account,
    /// As everybody.
    Any,
    /// A session, by its role.
    Role,
    /// By name, or as the owner of the policy.
    Itself,
}

impl PolicyKind {
    /// Characters that the document may have. Those of identities do not count white space.
    pub fn limit(self) -> usize {
        match self {
            Self::Key => 32 * 1024,
            Self::Trust | Self::User | Self::Session => 2048,
            Self::Group => 5120,
            Self::Role => 10_240,
            Self::Managed => 6144,
        }
    }

    fn length(self, text: &str) -> usize {
        match self {
            Self::Key => text.len(),
            Self::Trust | Self::User | Self::Group | Self::Role | Self::Managed | Self::Session => {
                text.chars().filter(|c| !c.is_whitespace()).count()
            }
        }
    }

    fn of_resource(self) -> bool {
        matches!(self, Self::Key | Self::Trust)
    }
}

fn malformed<T>(message: impl Into<String>) -> Result<T, IamError> {
    Err(IamError::MalformedPolicy(message.into()))
}

impl Policy {
    /// Reads a document.
    ///
    /// # Errors
    /// [`IamError::PolicyLength`], or [`IamError::MalformedPolicy`] with what is wrong.
    pub fn parse(kind: PolicyKind, text: &str) -> Result<Self, IamError> {
        if kind.length(text) > kind.limit() {
            return Err(IamError::PolicyLength(kind.limit()));
        }
        Self::parse_any_length(kind, text)
    }

    /// [`Self::parse`] without the limit of length.
    pub(super) fn parse_any_length(kind: PolicyKind, text: &str) -> Result<Self, IamError> {
        let json = match Json::parse(text) {
            Ok(json) => json,
            Err(error) => return malformed(format!("Syntax errors in policy: {error}.")),
        };
        let Json::Map(fields) = json else {
            return malformed("Syntax errors in policy: it is no JSON object.");
        };
        let (mut version, mut id, mut statements) = ("2008-10-17", None, None);
        for (name, value) in &fields {
            match (name.as_str(), value) {
                ("Version", Json::Text(text)) => version = text,
                ("Id", Json::Text(text)) => id = Some(text.as_str().into()),
                ("Statement", Json::Map(_) | Json::List(_)) => statements = Some(value.items()),
                _ => return malformed(format!("Syntax errors in policy: the element {name}.")),
            }
        }
        let variables = match version {
            "2012-10-17" => true,
            "2008-10-17" => false,
            _ => {
                return malformed(
                    "The policy must contain a valid version string: 2012-10-17 or 2008-10-17.",
                );
            }
        };
        let Some(statements) = statements.filter(|s| !s.is_empty()) else {
            return malformed("Syntax errors in policy: the element Statement is missing or empty.");
        };
        let statements: Vec<Statement> =
            statements.iter().map(|s| Statement::read(kind, s, variables)).collect::<Result<_, _>>()?;
        let mut sids = HashSet::new();
        if let Some(twice) = statements.iter().filter_map(|s| s.sid.as_deref()).find(|sid| !sids.insert(*sid))
        {
            return malformed(format!("Statement IDs (SID) in a single policy must be unique: {twice}."));
        }
        let reads_context = statements.iter().any(Statement::reads_context);
        Ok(Self { text: text.into(), id, statements, reads_context })
    }

    /// The document as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The document's Id.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// In the document's order.
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// Can the request's condition keys make a difference? If not, nobody need gather them.
    pub fn reads_context(&self) -> bool {
        self.reads_context
    }

    /// A condition of it asks for this key. Variables that name it do not count.
    pub fn reads(&self, key: &str) -> bool {
        self.statements.iter().flat_map(|s| &s.conditions).any(|c| c.key().eq_ignore_ascii_case(key))
    }

    /// All whom it names, also where it excepts them; for checking that they exist.
    pub fn named(&self) -> impl Iterator<Item = &Named> {
        self.statements.iter().filter_map(|s| s.principals.as_ref()).flat_map(Listed::items)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<T> Listed<T> {
    fn items(&self) -> &[T] {
        match self {
            Self::These(items) | Self::Not(items) => items,
        }
    }

    fn covers(&self, mut matches: impl FnMut(&T) -> bool) -> bool {
        match self {
            Self::These(items) => items.iter().any(&mut matches),
            Self::Not(items) => !items.iter().any(&mut matches),
        }
    }
}

/// A request as a statement sees it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// Such as kms:Decrypt.
    pub action: &'a str,
    /// An ARN, or * where there is none.
    pub resource: &'a str,
    /// The request's condition keys.
    pub context: &'a Context,
}

impl Statement {
    /// Does it apply to a request, and how does it reach the principal?
    pub fn applies(&self, asked: &Asked<'_>) -> Option<Reach> {
        let &Asked { principal, action, resource, context } = asked;
        // Actions differ most between statements, so they are compared first.
        if !self.actions.covers(|a| a.matches_any_case(action, context)) {
            return None;
        }
        let reach = match &self.principals {
            None => Reach::Itself,
            Some(Listed::These(named)) => named.iter().filter_map(|n| n.reach(principal)).max()?,
            Some(Listed::Not(named)) => not_listed(named, principal, self.effect)?,
        };
        if let Some(resources) = &self.resources
            && !resources.covers(|r| r.matches(resource, context))
        {
            return None;
        }
        self.conditions.iter().all(|c| c.holds(context)).then_some(reach)
    }

    fn reads_context(&self) -> bool {
        let variables = self.resources.iter().flat_map(Listed::items).any(Pattern::has_variables);
        variables || !self.conditions.is_empty()
    }

    fn read(kind: PolicyKind, json: &Json, variables: bool) -> Result<Self, IamError> {
        let Json::Map(fields) = json else {
            return malformed("Syntax errors in policy: a statement is no JSON object.");
        };
        let (mut sid, mut effect, mut principals, mut actions, mut resources) =
            (None, None, None, None, None);
        let mut conditions = Vec::new();
        for (name, value) in fields {
            let taken = match name.as_str() {
                "Sid" => sid.replace(read_sid(kind, value)?).is_some(),
                "Effect" => effect.replace(read_effect(value)?).is_some(),
                "Principal" => principals.replace(Listed::These(read_principals(value)?)).is_some(),
                "NotPrincipal" => principals.replace(Listed::Not(read_principals(value)?)).is_some(),
                "Action" => actions.replace(Listed::These(read_actions(value)?)).is_some(),
                "NotAction" => actions.replace(Listed::Not(read_actions(value)?)).is_some(),
                "Resource" => resources.replace(Listed::These(read_resources(value, variables)?)).is_some(),
                "NotResource" => resources.replace(Listed::Not(read_resources(value, variables)?)).is_some(),
                "Condition" => {
                    conditions = read_conditions(value, variables)?;
                    false
                }
                _ => {
                    return malformed(format!("Syntax errors in policy: the element {name} of a statement."));
                }
            };
            if taken {
                return malformed(format!(
                    "Syntax errors in policy: {name} beside its opposite in a statement."
                ));
            }
        }
        let Some(effect) = effect else { return malformed("Syntax errors in policy: Effect is missing.") };
        let Some(actions) = actions else { return malformed("Policy statement must contain actions.") };
        match kind {
            _ if kind.of_resource() != principals.is_some() => {
                let must = if kind.of_resource() { "must" } else { "should not" };
                return malformed(format!("Policy document {must} specify a principal."));
            }
            PolicyKind::Trust if resources.is_some() => {
                return malformed("Has prohibited field Resource.");
            }
            PolicyKind::Trust => {}
            _ if resources.is_none() => return malformed("Policy statement must contain resources."),
            _ => {}
        }
        Ok(Self { sid, effect, principals, actions, resources, conditions })
    }
}

/// Who is excepted by NotPrincipal. A principal is its account, its role and itself at once: a Deny spares
/// only whom it names in all three, an Allow does not reach whom it names in one.
fn not_listed(named: &[Named], principal: &Principal, effect: Effect) -> Option<Reach> {
    let has = |reach| named.iter().any(|n| n.reaches(principal, reach));
    let everybody = has(Reach::Any);
    let account = has(Reach::Account) || matches!(principal, Principal::Root(_) | Principal::Service { .. });
    let role = has(Reach::Role) || !matches!(principal, Principal::Session { .. });
    let excepted = match effect {
        Effect::Deny => everybody || (account && role && has(Reach::Itself)),
        Effect::Allow => named.iter().any(|n| n.reach(principal).is_some()),
    };
    if excepted { None } else { Some(Reach::Any) }
}

impl Named {
    fn reaches(&self, principal: &Principal, reach: Reach) -> bool {
        self.reach(principal) == Some(reach)
    }

    fn reach(&self, principal: &Principal) -> Option<Reach> {
        match (self, principal) {
            (Self::Any, _) => Some(Reach::Any),
            (Self::Account(account), Principal::Root(root)) => (account == root).then_some(Reach::Itself),
            (
                Self::Account(account),
                Principal::User { .. } | Principal::Role { .. } | Principal::Session { .. },
            ) => (account == principal.account()).then_some(Reach::Account),
            (Self::Service(name), Principal::Service { name: caller, .. }) => {
                (name == caller).then_some(Reach::Itself)
            }
            (
                Self::Principal(Principal::Role { account, name }),
                Principal::Session { account: own, role, .. },
            ) => (account == own && name == role).then_some(Reach::Role),
            // A session's ARN has no path of its role.
            (
                Self::Principal(Principal::Session { account, role, session }),
                Principal::Session { account: own, role: own_role, session: own_session },
            ) => {
                let same = account == own && last(role) == last(own_role) && session == own_session;
                same.then_some(Reach::Itself)
            }
            (Self::Principal(named), principal) => (named == principal).then_some(Reach::Itself),
            (Self::Account(_) | Self::Service(_) | Self::Federated(_), _) => None,
        }
    }

    fn read(kind: &str, text: &str) -> Option<Self> {
        match kind {
            "AWS" if text == "*" => Some(Self::Any),
            "AWS" => match text.parse() {
                Ok(account) => Some(Self::Account(account)),
                Err(_) => match text.parse().ok()? {
                    Principal::Root(account) => Some(Self::Account(account)),
                    principal => Some(Self::Principal(principal)),
                },
            },
            "Service" if text.contains('.') && !text.contains(['*', '?', ' ']) => {
                Some(Self::Service(text.to_owned()))
            }
            "Federated" if !text.is_empty() => Some(Self::Federated(text.to_owned())),
            _ => None,
        }
    }
}

fn read_sid(kind: PolicyKind, json: &Json) -> Result<Box<str>, IamError> {
    // Key policies have spaces in theirs: the default one does.
    let allowed = |c: char| c.is_ascii_alphanumeric() || kind.of_resource();
    match json.text() {
        Some(text) if text.chars().all(allowed) => Ok(text.into()),
        _ => malformed("Statement IDs (SID) must be alpha-numeric."),
    }
}

fn read_effect(json: &Json) -> Result<Effect, IamError> {
    match json.text() {
        Some("Allow") => Ok(Effect::Allow),
        Some("Deny") => Ok(Effect::Deny),
        _ => malformed("Syntax errors in policy: Effect is Allow or Deny."),
    }
}

fn read_principals(json: &Json) -> Result<Vec<Named>, IamError> {
    const INVALID: &str = "Policy contains a statement with one or more invalid principals";
    let fields = match json {
        Json::Text(text) if text == "*" => return Ok(vec![Named::Any]),
        Json::Map(fields) if !fields.is_empty() => fields,
        _ => return malformed(format!("{INVALID}.")),
    };
    let mut named = Vec::new();
    for (kind, value) in fields {
        for item in value.items() {
            match item.text().and_then(|text| Named::read(kind, text)) {
                Some(one) => named.push(one),
                None => {
                    return malformed(format!("{INVALID}: {kind} {}.", item.scalar().unwrap_or_default()));
                }
            }
        }
    }
    if named.is_empty() { malformed(format!("{INVALID}.")) } else { Ok(named) }
}

fn read_actions(json: &Json) -> Result<Vec<Pattern>, IamError> {
    let read = |item: &Json| {
        let text = item.text()?;
        let good = text == "*"
            || text.split_once(':').is_some_and(|(vendor, name)| {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"*?-_:".contains(&b);
                let own = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
                !vendor.is_empty() && vendor.bytes().all(own) && !name.is_empty() && name.bytes().all(allowed)
            });
        if good { Pattern::parse(text, Syntax { wildcards: true, variables: false }) } else { None }
    };
    let actions: Option<Vec<Pattern>> = json.items().iter().map(read).collect();
    match actions {
        Some(actions) if !actions.is_empty() => Ok(actions),
        Some(_) => malformed("Policy statement must contain actions."),
        None => malformed("Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."),
    }
}

fn read_resources(json: &Json, variables: bool) -> Result<Vec<Pattern>, IamError> {
    let mut resources = Vec::new();
    for item in json.items() {
        let text = item.text().filter(|t| *t == "*" || t.starts_with("arn:") || t.starts_with("${"));
        match text.and_then(|t| Pattern::parse(t, Syntax { wildcards: true, variables })) {
            Some(pattern) => resources.push(pattern),
            None => {
                let text = item.scalar().unwrap_or_default();
                return malformed(format!("Resource {text} must be in ARN format or \"*\"."));
            }
        }
    }
    if resources.is_empty() { malformed("Policy statement must contain resources.") } else { Ok(resources) }
}

fn read_conditions(json: &Json, variables: bool) -> Result<Vec<Condition>, IamError> {
    let syntax = || malformed("Syntax errors in policy: Condition is operators, keys and values.");
    let Json::Map(operators) = json else { return syntax() };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Json::Map(keys) = keys else { return syntax() };
        for (key, values) in keys {
            let values: Option<Vec<&str>> = values.items().iter().map(Json::scalar).collect();
            let Some(values) = values else { return syntax() };
            let condition = Condition::parse(operator, key, &values, variables);
            conditions.push(condition.map_err(IamError::MalformedPolicy)?);
        }
    }
    Ok(conditions)
}
