//! Documents: what is read, what is refused and how, and whom and what a statement covers.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn parse(kind: PolicyKind, statement: &Value) -> Result<Policy, IamError> {
    Policy::parse(kind, &json!({"Version": "2012-10-17", "Statement": statement}).to_string())
}

#[test]
fn a_document_is_kept_as_it_was_given() {
    let text = " {\"Statement\":{\"Effect\" : \"Allow\", \"Action\":\"kms:*\",\"Resource\":\"*\",\"Sid\":\"A\"},\"Id\":\"x y\"}\n";
    let policy = Policy::parse(PolicyKind::Managed, text).unwrap();
    assert_eq!((policy.text(), policy.to_string().as_str(), policy.id()), (text, text, Some("x y")));
    assert_eq!(policy.statements()[0].sid.as_deref(), Some("A"));
    assert!(!policy.reads_context());
}

#[test]
fn malformed_documents_are_refused_in_awss_words() {
    let allow = |extra: Value| {
        let mut statement = json!({"Effect": "Allow", "Action": "kms:*", "Resource": "*"});
        for (name, value) in extra.as_object().unwrap() {
            if value.is_null() {
                statement.as_object_mut().unwrap().remove(name);
            } else {
                statement[name] = value.clone();
            }
        }
        statement
    };
    let (id, key) = (PolicyKind::User, PolicyKind::Key);
    for (kind, statement, words) in [
        (id, json!([]), "the element Statement is missing or empty"),
        (id, json!(["x"]), "a statement is no JSON object"),
        (id, allow(json!({"Effect": "allow"})), "Effect is Allow or Deny"),
        (id, allow(json!({"Effect": null})), "Effect is missing"),
        (id, allow(json!({"Action": null})), "Policy statement must contain actions."),
        (id, allow(json!({"Action": []})), "Policy statement must contain actions."),
        (id, allow(json!({"Action": "Decrypt"})), "must be prefaced by a vendor"),
        (id, allow(json!({"Action": "kms: Decrypt"})), "must be prefaced by a vendor"),
        (id, allow(json!({"Action": 7})), "must be prefaced by a vendor"),
        (id, allow(json!({"NotAction": "kms:*"})), "beside its opposite"),
        (id, allow(json!({"Resource": null})), "Policy statement must contain resources."),
        (id, allow(json!({"Resource": "key/x"})), "must be in ARN format or \"*\""),
        (id, allow(json!({"Resource": "arn:aws:kms:${"})), "must be in ARN format or \"*\""),
        (id, allow(json!({"NotResource": "*"})), "beside its opposite"),
        (id, allow(json!({"Principal": "*"})), "should not specify a principal"),
        (id, allow(json!({"Sid": "a b"})), "Statement IDs (SID) must be alpha-numeric."),
        (id, json!([allow(json!({"Sid": "a"})), allow(json!({"Sid": "a"}))]), "must be unique"),
        (id, allow(json!({"Effekt": "Allow"})), "the element Effekt of a statement"),
        (id, allow(json!({"Condition": "x"})), "Condition is operators"),
        (id, allow(json!({"Condition": {"Bool": "x"}})), "Condition is operators"),
        (id, allow(json!({"Condition": {"Bool": {"aws:x": null}}})), "Condition is operators"),
        (id, allow(json!({"Condition": {"Bool": {"aws:x": "x"}}})), "Invalid value \"x\""),
        (id, allow(json!({"Condition": {"Is": {"aws:x": "x"}}})), "Invalid Condition type : Is."),
        (key, allow(json!({})), "must specify a principal"),
        (key, allow(json!({"Principal": "x"})), "invalid principals"),
        (key, allow(json!({"Principal": {}})), "invalid principals"),
        (key, allow(json!({"Principal": {"AWS": []}})), "invalid principals"),
        (
            key,
            allow(json!({"Principal": {"AWS": "arn:aws:iam::000000000000:user/*"}})),
            "invalid principals: AWS arn",
        ),
        (key, allow(json!({"Principal": {"Service": "*"}})), "invalid principals"),
        (key, allow(json!({"Principal": {"Human": "x"}})), "invalid principals"),
        (PolicyKind::Trust, allow(json!({"Principal": "*"})), "prohibited field Resource"),
    ] {
        match parse(kind, &statement) {
            Err(IamError::MalformedPolicy(message)) => {
                assert!(message.contains(words), "{message} / {words}")
            }
            other => panic!("{statement}: {other:?}"),
        }
    }
    for (text, words) in [
        ("", "Syntax errors in policy"),
        ("[]", "it is no JSON object"),
        ("{}", "Statement is missing"),
        (r#"{"Version":"2020-01-01","Statement":[]}"#, "valid version string"),
        (r#"{"Version":2012,"Statement":[]}"#, "the element Version"),
        (r#"{"Statement":{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}}"#, "twice"),
        (r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}} x"#, "Syntax errors"),
    ] {
        let error = Policy::parse(PolicyKind::User, text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_document_may_not_be_longer_than_its_kind_allows() {
    let statement =
        json!({"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Principal": "*"}).to_string();
    let document = format!("{{\"Statement\":{statement}}}");
    let padded = |to: usize| format!("{document}{}", " ".repeat(to - document.len()));
    assert!(Policy::parse(PolicyKind::Key, &padded(32 * 1024)).is_ok());
    assert_eq!(
        Policy::parse(PolicyKind::Key, &padded(32 * 1024 + 1)),
        Err(IamError::PolicyLength(32 * 1024))
    );
    // White space does not count in those of identities.
    let document = "{\"Statement\":{\"Effect\":\"Allow\",\"Action\":\"kms:*\",\"Resource\":\"*\"}}";
    assert!(Policy::parse(PolicyKind::User, &format!("{document}{}", " ".repeat(9000))).is_ok());
    let long = document.replace("kms:*", &format!("kms:{}", "x".repeat(2048)));
    assert_eq!(Policy::parse(PolicyKind::User, &long), Err(IamError::PolicyLength(2048)));
    assert!(Policy::parse(PolicyKind::Managed, &long).is_ok());
}

#[test]
fn variables_are_of_the_newer_version_only() {
    let document = |version: &str| {
        format!(
            r#"{{{version}"Statement":{{"Effect":"Allow","Action":"kms:*","Resource":"arn:aws:kms:*:*:key/${{aws:k}}"}}}}"#
        )
    };
    let old = Policy::parse(PolicyKind::User, &document("")).unwrap();
    let new = Policy::parse(PolicyKind::User, &document("\"Version\":\"2012-10-17\",")).unwrap();
    assert!(!old.reads_context() && new.reads_context());
}

/// Does one statement apply to a principal that does kms:Decrypt to KEY?
fn applies(who: &str, statement: &Value) -> bool {
    let mut scene = Scene::new(who);
    scene.principal.describe(&mut scene.context);
    let mut statement = statement.clone();
    for (name, value) in [("Effect", "Allow"), ("Action", "*"), ("Resource", "*")] {
        let not = format!("Not{name}");
        if statement.get(name).is_none() && statement.get(&not).is_none() {
            statement[name] = json!(value);
        }
    }
    let policy = parse(PolicyKind::Key, &statement).unwrap();
    let asked = crate::iam::policy::Asked {
        principal: &scene.principal,
        action: scene.action,
        resource: KEY,
        context: &scene.context,
    };
    policy.statements()[0].applies(&asked).is_some()
}

#[test]
fn actions_and_resources_are_patterns_or_exceptions() {
    for (field, value, expected) in [
        ("Action", json!("kms:Decrypt"), true),
        ("Action", json!("KMS:decrypt"), true),
        ("Action", json!(["kms:Encrypt", "kms:De*"]), true),
        ("Action", json!("kms:Decryp?"), true),
        ("Action", json!("kms:Decrypt?"), false),
        ("Action", json!("s3:*"), false),
        ("NotAction", json!("kms:Encrypt"), true),
        ("NotAction", json!(["kms:Encrypt", "kms:Dec*"]), false),
        ("Resource", json!("*"), true),
        ("Resource", json!(KEY), true),
        ("Resource", json!("arn:aws:kms:*:*:key/*"), true),
        ("Resource", json!("arn:aws:kms:us-east-1:${aws:PrincipalAccount}:key/*"), true),
        ("Resource", json!("arn:aws:kms:*:111122223333:key/*"), false),
        ("Resource", json!("arn:aws:KMS:*:*:key/*"), false),
        ("Resource", json!("arn:aws:kms:*:*:alias/${aws:nothing}"), false),
        ("NotResource", json!(KEY), false),
        ("NotResource", json!("arn:aws:kms:*:*:alias/*"), true),
    ] {
        let mut statement = json!({"Principal": "*"});
        statement[field] = value.clone();
        assert_eq!(applies("arn:aws:iam::000000000000:user/a", &statement), expected, "{field} {value}");
    }
}

#[test]
fn principals_are_named_by_account_role_and_self() {
    let (user, role) = ("arn:aws:iam::000000000000:user/p/a", "arn:aws:iam::000000000000:role/R");
    let (root, session) = ("arn:aws:iam::000000000000:root", "arn:aws:sts::000000000000:assumed-role/R/s");
    let stranger = "arn:aws:iam::111122223333:user/p/a";
    for (who, named, expected) in [
        (user, json!("*"), true),
        (stranger, json!({"AWS": "*"}), true),
        (user, json!({"AWS": OWN}), true),
        (user, json!({"AWS": root}), true),
        (user, json!({"AWS": user}), true),
        (user, json!({"AWS": "arn:aws-us-gov:iam::000000000000:user/p/a"}), true),
        (user, json!({"AWS": "arn:aws:iam::000000000000:user/a"}), false),
        (user, json!({"AWS": ["arn:aws:iam::000000000000:user/x", user]}), true),
        (user, json!({"AWS": role, "Service": "kmsfs.amazonaws.com"}), false),
        (stranger, json!({"AWS": root}), false),
        (stranger, json!({"AWS": user}), false),
        (session, json!({"AWS": root}), true),
        (session, json!({"AWS": role}), true),
        (session, json!({"AWS": session}), true),
        (session, json!({"AWS": "arn:aws:sts::000000000000:assumed-role/R/t"}), false),
        (session, json!({"AWS": "arn:aws:iam::000000000000:role/p/R"}), false),
        (root, json!({"AWS": root}), true),
        (root, json!({"AWS": user}), false),
        (user, json!({"Federated": "accounts.example.org"}), false),
    ] {
        assert_eq!(applies(who, &json!({"Principal": named})), expected, "{who} {named}");
    }
    // A Deny spares only whom it names wholly; an Allow does not reach whom it names at all.
    for (who, named, denied, allowed) in [
        (stranger, json!({"AWS": [root, user]}), true, true),
        (user, json!({"AWS": [root, user]}), false, false),
        (user, json!({"AWS": user}), true, false),
        (user, json!({"AWS": root}), true, false),
        (session, json!({"AWS": [root, role]}), true, false),
        (session, json!({"AWS": [root, session]}), true, false),
        (session, json!({"AWS": [root, role, session]}), false, false),
        (root, json!({"AWS": root}), false, false),
        (user, json!("*"), false, false),
    ] {
        let deny = json!({"NotPrincipal": named, "Effect": "Deny"});
        assert_eq!(applies(who, &deny), denied, "Deny {who} {named}");
        assert_eq!(applies(who, &json!({"NotPrincipal": named})), allowed, "Allow {who} {named}");
    }
}

#[test]
fn whom_a_policy_names_can_be_asked() {
    let user = "arn:aws:iam::000000000000:user/a";
    let document = policy(
        PolicyKind::Key,
        &json!([
            {"Effect": "Allow", "Principal": {"AWS": [user, OWN]}, "Action": "kms:*", "Resource": "*"},
            {"Effect": "Deny", "NotPrincipal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"},
        ]),
    );
    let named: Vec<Named> = document.named().cloned().collect();
    assert_eq!(named, [Named::Principal(user.parse().unwrap()), Named::Account(account(OWN)), Named::Any]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = "Version|Id|Statement|Sid|Effect|Principal|NotPrincipal|Action|NotAction|Resource|Condition|AWS|StringEquals|Bool|aws:x|[a-z]{1,3}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "2012-10-17|Allow|Deny|\\*|kms:\\*|arn:aws:kms:.{0,4}|\\$\\{.{0,6}|.{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_json_never_panics(json in any_json()) {
        for kind in [PolicyKind::Key, PolicyKind::Trust, PolicyKind::User] {
            _ = Policy::parse(kind, &json.to_string());
            _ = parse(kind, &json);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        _ = Policy::parse(PolicyKind::Key, &text);
        _ = Policy::parse(PolicyKind::Key, &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_document_never_panics(at in 0..400_usize, byte in any::<u8>()) {
        let document = crate::iam::KeyPolicy::Service("kmsfs".to_owned())
            .document(&account(OWN), &"us-east-1".parse().unwrap());
        let mut bytes = document.into_bytes();
        bytes[at] = byte;
        _ = Policy::parse(PolicyKind::Key, &String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{\"a\":"] {
        assert!(Policy::parse(PolicyKind::Key, &open.repeat(6000)).is_err());
    }
}
