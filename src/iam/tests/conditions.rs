//! Every operator, with its key there, absent and optional, and over several values.

use proptest::prelude::*;

use crate::iam::Context;
use crate::iam::condition::{Condition, OPERATORS};

const KEY: &str = "aws:K";

fn holds(operator: &str, policy: &[&str], context: &Context) -> bool {
    Condition::parse(operator, KEY, policy, true).unwrap().holds(context)
}

fn with(values: &[&str]) -> Context {
    Context::new().with_all("AWS:k", values.iter().copied())
}

/// Operator, the policy's values, a value that matches, one that does not.
const PAIRS: [(&str, &str, &[&str], &str, &str); 18] = [
    ("StringEquals", "StringNotEquals", &["a", "B*"], "B*", "b*"),
    ("StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", &["aB"], "Ab", "ac"),
    ("StringLike", "StringNotLike", &["x", "a?c*"], "abcd", "Abcd"),
    ("NumericEquals", "NumericNotEquals", &["10", "2.5"], "2.50", "3"),
    ("NumericLessThan", "", &["10"], "9.99", "10"),
    ("NumericLessThanEquals", "", &["10"], "10", "10.01"),
    ("NumericGreaterThan", "", &["10"], "11", "10"),
    ("NumericGreaterThanEquals", "", &["10"], "10", "9"),
    ("DateEquals", "DateNotEquals", &["2026-01-01T00:00:00Z"], "1767225600", "2026-01-01T00:00:01Z"),
    ("DateLessThan", "", &["2026-01-01T00:00:00Z"], "2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z"),
    ("DateLessThanEquals", "", &["2026-01-01T00:00:00Z"], "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
    ("DateGreaterThan", "", &["2026-01-01T00:00:00Z"], "2026-01-01T00:00:01Z", "2026-01-01T00:00:00Z"),
    ("DateGreaterThanEquals", "", &["2026-01-01T00:00:00Z"], "2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z"),
    ("Bool", "", &["true"], "True", "false"),
    ("BinaryEquals", "", &["QmluYXJ5"], "QmluYXJ5", "qmluYXJ5"),
    ("IpAddress", "NotIpAddress", &["203.0.113.0/24", "2001:db8::/32"], "2001:db8::1", "203.0.114.1"),
    (
        "ArnEquals",
        "ArnNotEquals",
        &["arn:aws:iam::*:role/a*"],
        "arn:aws:iam::1:role/ab",
        "arn:aws:iam::1:x:role/ab",
    ),
    ("ArnLike", "ArnNotLike", &["arn:*:iam::1?:user/x"], "arn:aws:iam::12:user/x", "arn:aws:iam::12:user/X"),
];

#[test]
fn the_table_has_every_operator() {
    for (name, negated, _) in OPERATORS {
        let tested = |(positive, negative, ..): &(&str, &str, &[&str], &str, &str)| {
            if negated { *negative == name } else { *positive == name }
        };
        // Null has a test of its own.
        assert!(PAIRS.iter().any(tested) || name == "Null", "{name}");
    }
}

#[test]
fn every_operator_with_its_key_there_absent_and_optional() {
    for (positive, negative, policy, good, bad) in PAIRS {
        let absent = Context::new();
        for if_exists in ["", "IfExists"] {
            let operator = format!("{positive}{if_exists}");
            assert!(holds(&operator, policy, &with(&[good])), "{operator} {good}");
            assert!(!holds(&operator, policy, &with(&[bad])), "{operator} {bad}");
            assert_eq!(holds(&operator, policy, &absent), !if_exists.is_empty(), "{operator} absent");
            assert_eq!(holds(&operator, policy, &with(&[])), !if_exists.is_empty(), "{operator} empty");
            if negative.is_empty() {
                continue;
            }
            let operator = format!("{negative}{if_exists}");
            assert!(!holds(&operator, policy, &with(&[good])), "{operator} {good}");
            assert!(holds(&operator, policy, &with(&[bad])), "{operator} {bad}");
            assert!(holds(&operator, policy, &absent), "{operator} absent");
        }
    }
}

#[test]
fn set_operators_say_how_several_values_are_combined() {
    for (positive, negative, policy, good, bad) in PAIRS {
        for (prefix, operator, values, expected) in [
            ("ForAllValues", positive, &[good, good][..], true),
            ("ForAllValues", positive, &[good, bad], false),
            ("ForAllValues", positive, &[], true),
            ("ForAnyValue", positive, &[good, bad], true),
            ("ForAnyValue", positive, &[bad, bad], false),
            ("ForAnyValue", positive, &[], false),
            ("ForAllValues", negative, &[bad, bad], true),
            ("ForAllValues", negative, &[good, bad], false),
            ("ForAllValues", negative, &[], true),
            ("ForAnyValue", negative, &[good, bad], true),
            ("ForAnyValue", negative, &[good, good], false),
            ("ForAnyValue", negative, &[], false),
        ] {
            if operator.is_empty() {
                continue;
            }
            // IfExists changes nothing beside a set operator.
            for if_exists in ["", "IfExists"] {
                let operator = format!("{prefix}:{operator}{if_exists}");
                assert_eq!(holds(&operator, policy, &with(values)), expected, "{operator} {values:?}");
            }
        }
        // Without a set operator: does any value match?
        assert!(holds(positive, policy, &with(&[bad, good])), "{positive}");
        if !negative.is_empty() {
            assert!(!holds(negative, policy, &with(&[bad, good])), "{negative}");
        }
    }
}

#[test]
fn null_asks_whether_the_key_is_absent() {
    for (policy, there, absent) in
        [(&["true"][..], false, true), (&["false"], true, false), (&["true", "false"], true, true)]
    {
        assert_eq!(holds("Null", policy, &with(&["x"])), there);
        assert_eq!(holds("Null", policy, &Context::new()), absent);
        assert_eq!(holds("Null", policy, &with(&[])), absent);
    }
}

#[test]
fn values_of_other_types_match_nothing() {
    assert!(!holds("ArnLike", &["arn:*:*:*:*:*"], &with(&["arn:aws"])));
    for operator in ["NumericEquals", "NumericLessThan", "DateLessThan", "Bool", "BinaryEquals", "IpAddress"]
    {
        let policy = match operator {
            "Bool" => "true",
            "BinaryEquals" => "AAAA",
            "IpAddress" => "0.0.0.0/0",
            _ => "1767225600",
        };
        assert!(!holds(operator, &[policy], &with(&["no such thing"])), "{operator}");
        assert!(!holds(operator, &[policy], &with(&["nan"])), "{operator}");
    }
    assert!(holds("NumericNotEquals", &["1"], &with(&["x"])));
    assert!(holds("NotIpAddress", &["0.0.0.0/0"], &with(&["x"])));
}

#[test]
fn dates_and_addresses_have_several_forms() {
    for same in
        ["2026-01-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00Z", "2026-01-01T01:00:00+01:00", "1767225600"]
    {
        assert!(holds("DateEquals", &[same], &with(&["2026-01-01T00:00:00Z"])), "{same}");
    }
    assert!(holds("DateLessThan", &["2026-01-01T00:00:01Z"], &with(&["2026-01-01T00:00:00.5Z"])));
    assert!(holds("DateGreaterThanEquals", &["0"], &with(&["1970-01-01"])));
    assert!(holds("DateLessThanEquals", &["0"], &with(&["1970-01-01"])));
    assert!(holds("DateGreaterThan", &["0"], &with(&["1"])));
    assert!(holds("IpAddress", &["10.0.0.1"], &with(&["10.0.0.1"])));
    assert!(!holds("IpAddress", &["10.0.0.1"], &with(&["10.0.0.2"])));
    assert!(holds("IpAddress", &["10.0.0.9/8"], &with(&["10.9.9.9"])));
    assert!(holds("IpAddress", &["10.0.0.0/8"], &with(&["::ffff:10.1.1.1"])));
    assert!(!holds("IpAddress", &["0.0.0.0/0"], &with(&["::1"])));
}

#[test]
fn variables_stand_for_the_requests_own_values() {
    let context = Context::new().with(KEY, "alice").with("aws:username", "alice").with("aws:x", "true");
    assert!(holds("StringEquals", &["${aws:username}"], &context));
    assert!(holds("StringLike", &["${aws:username}*"], &context));
    assert!(!holds("StringEquals", &["${aws:absent}"], &context));
    assert!(holds("StringNotEquals", &["${aws:absent}"], &context));
    assert!(holds("StringEquals", &["${aws:absent, 'alice'}"], &context));
    assert!(holds("Bool", &["${aws:x}"], &with(&["true"]).with("aws:x", "true")));
    let arn = "arn:aws:iam::1:user/alice";
    let context = with(&[arn]).with("aws:PrincipalArn", arn).with("aws:username", "alice");
    assert!(holds("ArnEquals", &["${aws:PrincipalArn}"], &context));
    assert!(holds("ArnLike", &["arn:aws:iam::*:user/${aws:username}"], &context));
    assert!(holds("ArnLike", &["*"], &context));
}

#[test]
fn what_is_no_condition_is_refused() {
    for (operator, key, value) in [
        ("StringEqual", KEY, "x"),
        ("BoolNotEquals", KEY, "true"),
        ("NullIfExists", KEY, "true"),
        ("ForAnyValue:Null", KEY, "true"),
        ("ForSomeValues:StringEquals", KEY, "x"),
        ("IfExists", KEY, "x"),
        ("", KEY, "x"),
        ("Bool", KEY, "yes"),
        ("Null", KEY, "maybe"),
        ("NumericEquals", KEY, "ten"),
        ("NumericEquals", KEY, "inf"),
        ("DateEquals", KEY, "yesterday"),
        ("DateEquals", KEY, "9223372036854775807"),
        ("BinaryEquals", KEY, "!"),
        ("IpAddress", KEY, "10.0.0.0/33"),
        ("IpAddress", KEY, "10.*"),
        ("ArnLike", KEY, "arn:aws:iam"),
        ("StringEquals", KEY, "${"),
        ("StringEquals", "key", "x"),
    ] {
        assert!(Condition::parse(operator, key, &[value], true).is_err(), "{operator} {key} {value}");
    }
    assert!(Condition::parse("foranyvalue:stringequalsifexists", KEY, &["x"], true).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_conditions_never_panic(
        operator in "(ForA(ll|ny)Values?:)?(String|Numeric|Date|Arn|Bool|Binary|IpAddress|Null)?(Not)?(Equals|Like|LessThan)?(IfExists)?|.{0,12}",
        value in "[-0-9.:/a-zé${}*?'TZ+]{0,16}|.{0,16}",
        actual in "[-0-9.:/a-zéTZ+]{0,16}|.{0,16}",
    ) {
        if let Ok(condition) = Condition::parse(&operator, KEY, &[&value], true) {
            condition.holds(&with(&[&actual]));
            condition.holds(&Context::new());
        }
    }
}
