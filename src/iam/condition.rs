//! Conditions of statements: operators, and what they make of keys that are there, absent or have several
//! values. IAM User Guide, "Condition operators" and "Set operators for multivalued context keys".

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use jiff::Timestamp;

use super::Context;
use super::pattern::{Pattern, Syntax, arn_parts};

/// One operator, one key, and the values that the policy names.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// In lower case.
    key: Box<str>,
    test: Test,
    /// StringNotEquals and the like: holds if the positive one does not.
    negated: bool,
    if_exists: bool,
    set: Set,
}

/// How the values of the request are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    None,
    All,
    Any,
}

/// A positive test of one value of the request against all values of the policy.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    Text(Vec<Pattern>),
    TextAnyCase(Vec<Pattern>),
    Arn(Vec<Arn>),
    Number(Order, Vec<f64>),
    Date(Order, Vec<Timestamp>),
    Bool(Vec<Pattern>),
    Binary(Vec<Vec<u8>>),
    Ip(Vec<IpNet>),
    /// The key is absent, or there.
    Null(Vec<bool>),
}

/// How a value of the request must stand to the policy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// An ARN's six parts, each a pattern of its own; or one pattern for the whole, `*` or a variable.
#[derive(Debug, Clone, PartialEq)]
enum Arn {
    Whole(Pattern),
    Parts(Box<[Pattern; 6]>),
}

/// Why a condition is none, in AWS's words.
type Malformed = String;

impl Condition {
    /// Reads a condition. The error is for people.
    pub fn parse(operator: &str, key: &str, values: &[&str], variables: bool) -> Result<Self, Malformed> {
        let (set, rest) = if let Some(rest) = without_prefix(operator, "ForAllValues:") {
            (Set::All, rest)
        } else if let Some(rest) = without_prefix(operator, "ForAnyValue:") {
            (Set::Any, rest)
        } else {
            (Set::None, operator)
        };
        let (if_exists, base) = match without_suffix(rest, "IfExists") {
            Some(base) => (true, base),
            None => (false, rest),
        };
        let unknown = || format!("Invalid Condition type : {operator}.");
        let (negated, family) = family(base).ok_or_else(unknown)?;
        if family == Family::Null && (if_exists || set != Set::None) {
            return Err(unknown());
        }
        if !key.contains(':') {
            return Err(format!(
                "Invalid condition key {key:?}: keys are prefaced by a vendor, e.g., aws or kms."
            ));
        }
        let read = Read { operator, key, values, variables };
        Ok(Self { key: key.to_ascii_lowercase().into(), test: read.test(family)?, negated, if_exists, set })
    }

    /// The key it asks for, in lower case.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Does the request meet it?
    ///
    /// An absent key meets negated operators and those that end in IfExists, and no others; it meets every
    /// ForAllValues and no ForAnyValue, whatever else the operator says.
    pub fn holds(&self, context: &Context) -> bool {
        let values = context.get(&self.key);
        if let Test::Null(absent) = &self.test {
            return absent.contains(&values.is_none());
        }
        let Some(values) = values else {
            return match self.set {
                Set::None => self.if_exists || self.negated,
                Set::All => true,
                Set::Any => false,
            };
        };
        let mut each = values.iter().map(|value| self.test.matches(value, context));
        match self.set {
            Set::None => each.any(|m| m) != self.negated,
            Set::All => each.all(|m| m != self.negated),
            Set::Any => each.any(|m| m != self.negated),
        }
    }
}

/// What kinds of values there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Text { wildcards: bool },
    TextAnyCase,
    Arn,
    Number(Order),
    Date(Order),
    Bool,
    Binary,
    Ip,
    Null,
}

/// The operators without prefix and suffix: are they negated, and of which family.
pub(super) const OPERATORS: [(&str, bool, Family); 27] = [
    ("StringEquals", false, Family::Text { wildcards: false }),
    ("StringNotEquals", true, Family::Text { wildcards: false }),
    ("StringEqualsIgnoreCase", false, Family::TextAnyCase),
    ("StringNotEqualsIgnoreCase", true, Family::TextAnyCase),
    ("StringLike", false, Family::Text { wildcards: true }),
    ("StringNotLike", true, Family::Text { wildcards: true }),
    ("NumericEquals", false, Family::Number(Order::Equal)),
    ("NumericNotEquals", true, Family::Number(Order::Equal)),
    ("NumericLessThan", false, Family::Number(Order::Less)),
    ("NumericLessThanEquals", false, Family::Number(Order::AtMost)),
    ("NumericGreaterThan", false, Family::Number(Order::Greater)),
    ("NumericGreaterThanEquals", false, Family::Number(Order::AtLeast)),
    ("DateEquals", false, Family::Date(Order::Equal)),
    ("DateNotEquals", true, Family::Date(Order::Equal)),
    ("DateLessThan", false, Family::Date(Order::Less)),
    ("DateLessThanEquals", false, Family::Date(Order::AtMost)),
    ("DateGreaterThan", false, Family::Date(Order::Greater)),
    ("DateGreaterThanEquals", false, Family::Date(Order::AtLeast)),
    ("Bool", false, Family::Bool),
    ("BinaryEquals", false, Family::Binary),
    ("IpAddress", false, Family::Ip),
    ("NotIpAddress", true, Family::Ip),
    // The guide: ArnEquals and ArnLike behave identically.
    ("ArnEquals", false, Family::Arn),
    ("ArnNotEquals", true, Family::Arn),
    ("ArnLike", false, Family::Arn),
    ("ArnNotLike", true, Family::Arn),
    ("Null", false, Family::Null),
];

/// An operator without prefix and suffix.
fn family(base: &str) -> Option<(bool, Family)> {
    let known = OPERATORS.iter().find(|(name, ..)| name.eq_ignore_ascii_case(base))?;
    Some((known.1, known.2))
}

fn without_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn without_suffix<'t>(text: &'t str, suffix: &str) -> Option<&'t str> {
    let (rest, tail) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    tail.eq_ignore_ascii_case(suffix).then_some(rest)
}

/// A condition being read.
struct Read<'t> {
    operator: &'t str,
    key: &'t str,
    values: &'t [&'t str],
    variables: bool,
}

impl Read<'_> {
    fn test(&self, family: Family) -> Result<Test, Malformed> {
        Ok(match family {
            Family::Text { wildcards } => Test::Text(self.each(|v| self.pattern(v, wildcards))?),
            Family::TextAnyCase => Test::TextAnyCase(self.each(|v| self.pattern(v, false))?),
            Family::Arn => Test::Arn(self.each(|v| self.arn(v))?),
            Family::Number(order) => Test::Number(order, self.each(number)?),
            Family::Date(order) => Test::Date(order, self.each(date)?),
            Family::Bool => Test::Bool(self.each(|v| {
                let pattern = self.pattern(v, false)?;
                (pattern.has_variables() || truth(v).is_some()).then_some(pattern)
            })?),
            Family::Binary => Test::Binary(self.each(|v| STANDARD.decode(v).ok())?),
            Family::Ip => Test::Ip(self.each(network)?),
            Family::Null => Test::Null(self.each(truth)?),
        })
    }

    fn each<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Malformed> {
        let malformed =
            |v: &str| format!("Invalid value {v:?} for the condition {} of {}.", self.operator, self.key);
        self.values.iter().map(|v| read(v).ok_or_else(|| malformed(v))).collect()
    }

    fn pattern(&self, value: &str, wildcards: bool) -> Option<Pattern> {
        Pattern::parse(value, Syntax { wildcards, variables: self.variables })
    }

    fn arn(&self, value: &str) -> Option<Arn> {
        let whole = self.pattern(value, true)?;
        let parts = arn_parts(value, self.variables);
        if parts.len() < 6 {
            return (value == "*" || whole.has_variables()).then_some(Arn::Whole(whole));
        }
        let parts: Option<Vec<Pattern>> = parts.into_iter().map(|p| self.pattern(p, true)).collect();
        Some(Arn::Parts(Box::new(parts?.try_into().ok()?)))
    }
}

/// Finite; exact up to 2^53.
fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|n: &f64| n.is_finite())
}

/// Seconds since 1970, or ISO 8601; without an offset it is UTC.
fn date(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()
}

fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// An address stands for itself alone.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Order {
    fn holds<T: PartialOrd>(self, value: &T, policy: &T) -> bool {
        match self {
            Self::Equal => value == policy,
            Self::Less => value < policy,
            Self::AtMost => value <= policy,
            Self::Greater => value > policy,
            Self::AtLeast => value >= policy,
        }
    }
}

impl Test {
    /// Does one of the policy's values match? What is not of the operator's type matches none.
    fn matches(&self, value: &str, context: &Context) -> bool {
        match self {
            Self::Text(patterns) => patterns.iter().any(|p| p.matches(value, context)),
            Self::TextAnyCase(patterns) => patterns.iter().any(|p| p.matches_any_case(value, context)),
            Self::Arn(arns) => arns.iter().any(|arn| arn.matches(value, context)),
            Self::Number(order, policy) => {
                number(value).is_some_and(|v| policy.iter().any(|p| order.holds(&v, p)))
            }
            Self::Date(order, policy) => {
                date(value).is_some_and(|v| policy.iter().any(|p| order.holds(&v, p)))
            }
            Self::Bool(policy) => truth(value).is_some_and(|v| {
                policy.iter().any(|p| p.text(context).as_deref().and_then(truth) == Some(v))
            }),
            Self::Binary(policy) => STANDARD.decode(value).is_ok_and(|v| policy.contains(&v)),
            Self::Ip(policy) => value.parse::<IpAddr>().is_ok_and(|v| {
                // An IPv4 address may come as ::ffff:a.b.c.d.
                let v = v.to_canonical();
                policy.iter().any(|net| net.contains(&v))
            }),
            // Decided by the key's absence, before any value is looked at.
            Self::Null(_) => false,
        }
    }
}

impl Arn {
    fn matches(&self, value: &str, context: &Context) -> bool {
        match self {
            Self::Whole(pattern) => pattern.matches(value, context),
            Self::Parts(patterns) => {
                let parts = arn_parts(value, false);
                parts.len() == 6 && patterns.iter().zip(parts).all(|(p, part)| p.matches(part, context))
            }
        }
    }
}
