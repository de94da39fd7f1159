//! Keys under policies of their owners' own.

use serde_json::{Value, json};

use super::*;
use crate::audit::Filter;

const OTHER: &str = "111122223333";

/// What the default policy says, in fewer words.
pub const DEFAULT: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"kms:*","Resource":"*"}}"#;

/// A policy of the owner's root and one statement more.
fn with(statement: &Value) -> String {
    let root = json!({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"});
    json!({"Version": "2012-10-17", "Statement": [root, statement]}).to_string()
}

fn allow(who: &str, action: &str) -> Value {
    json!({"Effect": "Allow", "Principal": {"AWS": who}, "Action": action, "Resource": "*"})
}

fn put(session: &Session, key: &str, policy: &str) -> Result<(), KmsError> {
    let request =
        PutKeyPolicyRequest { key_id: key.to_owned(), policy: policy.to_owned(), ..Default::default() };
    session.call(request)
}

fn policy_of(session: &Session, key: &str) -> String {
    session.call(GetKeyPolicyRequest { key_id: key.to_owned(), ..Default::default() }).unwrap().policy
}

fn as_principal(bench: &Bench, arn: &str) -> Session {
    let caller = Caller { principal: arn.parse().unwrap(), ..Caller::root(ACCOUNT.parse().unwrap()) };
    bench.kms.session(caller, &region()).unwrap()
}

fn message<T>(result: Result<T, KmsError>) -> String {
    result.err().map(|e| e.message).unwrap_or_default()
}

fn kind<T>(result: Result<T, KmsError>) -> Option<KmsErrorKind> {
    result.err().map(|e| e.kind)
}

#[test]
fn a_policy_is_kept_as_it_was_given_and_counts_at_once() {
    let bench = Bench::new();
    let session = bench.session();
    let other_service = bench.another();
    let elsewhere = other_service.root_session(&region()).unwrap();
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    assert_eq!(decrypt(&elsewhere, &blob).unwrap(), b"x");
    let text = with(&json!({
        "Sid": "Not now", "Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt", "Resource": "*"
    }))
    .replace("\"Statement\"", " \"Statement\" ");
    put(&session, &key, &text).unwrap();
    assert_eq!(policy_of(&session, &key), text);
    assert_eq!(policy_of(&elsewhere, &key), text);
    for session in [&session, &elsewhere] {
        assert_eq!(
            message(encrypt(session, &metadata(session, &key).arn, b"x")),
            format!(
                "User: arn:aws:iam::{ACCOUNT}:root is not authorized to perform: kms:Encrypt on resource: {} with \
                 an explicit deny in a resource-based policy",
                metadata(session, &key).arn
            )
        );
        assert_eq!(decrypt(session, &blob).unwrap(), b"x");
    }
    let names = json(&session, "ListKeyPolicies", json!({"KeyId": key})).unwrap();
    assert_eq!(names, json!({"PolicyNames": ["default"], "Truncated": false}));
    put(&session, &key, DEFAULT).unwrap();
    assert!(encrypt(&elsewhere, &key, b"x").is_ok());
}

#[test]
fn a_key_can_be_made_with_a_policy_of_its_own() {
    let bench = Bench::new();
    let session = bench.session();
    let policy = with(&allow(OTHER, "kms:Decrypt"));
    let request = CreateKeyRequest { policy: Some(policy.clone()), ..Default::default() };
    let key = session.call(request).unwrap().key_metadata.key_id;
    assert_eq!(policy_of(&session, &key), policy);
}

#[test]
fn nobody_locks_himself_out_unless_he_says_so() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let before = policy_of(&session, &key);
    let nobody = json!({"Version": "2012-10-17", "Statement": allow(OTHER, "kms:*")}).to_string();
    let denied = with(&json!({
        "Effect": "Deny", "Principal": "*", "Action": "kms:Put*", "Resource": "*"
    }));
    for policy in [&nobody, &denied] {
        let refused = put(&session, &key, policy).unwrap_err();
        assert_eq!(refused.kind, KmsErrorKind::MalformedPolicyDocument);
        assert_eq!(
            refused.message,
            "The new key policy will not allow you to update the key policy in the future."
        );
        let request = CreateKeyRequest { policy: Some(policy.clone()), ..Default::default() };
        assert_eq!(kind(session.call(request)), Some(KmsErrorKind::MalformedPolicyDocument));
    }
    assert_eq!(policy_of(&session, &key), before);
    let request = PutKeyPolicyRequest {
        key_id: key.clone(),
        policy: nobody,
        bypass_policy_lockout_safety_check: true,
        ..Default::default()
    };
    session.call(request).unwrap();
    assert_eq!(kind(put(&session, &key, DEFAULT)), Some(KmsErrorKind::AccessDenied));
}

#[test]
fn what_is_no_policy_is_refused() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let long = with(&json!({"Effect": "Deny", "Principal": "*", "Action": "kms:X", "Resource": "*"}));
    for (policy, expected) in [
        (String::new(), KmsErrorKind::Validation),
        ("{}".to_owned(), KmsErrorKind::MalformedPolicyDocument),
        (DEFAULT.replace("Allow", "allow"), KmsErrorKind::MalformedPolicyDocument),
        (format!("{long}{}", " ".repeat(32 * 1024)), KmsErrorKind::LimitExceeded),
        (" ".repeat(131_073), KmsErrorKind::Validation),
    ] {
        assert_eq!(kind(put(&session, &key, &policy)), Some(expected), "{policy:.40}");
    }
    let request = PutKeyPolicyRequest {
        key_id: key.clone(),
        policy: DEFAULT.to_owned(),
        policy_name: Some("other".to_owned()),
        ..Default::default()
    };
    assert_eq!(kind(session.call(request)), Some(KmsErrorKind::NotFound));
    let managed = session.ensure_managed_key("aws/kmsfs").unwrap();
    assert_eq!(kind(put(&session, &managed, DEFAULT)), Some(KmsErrorKind::AccessDenied));
    let marker = json(&session, "ListKeyPolicies", json!({"KeyId": key, "Marker": "x"}));
    assert_eq!(kind(marker), Some(KmsErrorKind::InvalidMarker));
}

#[test]
fn another_account_uses_a_key_that_names_it_and_does_not_manage_it() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let arn = metadata(&session, &key).arn;
    let blob = encrypt(&session, &key, b"x").unwrap();
    let stranger = bench.kms.session(Caller::root(OTHER.parse().unwrap()), &region()).unwrap();
    put(&session, &key, &with(&allow(OTHER, "kms:*"))).unwrap();
    assert_eq!(decrypt(&stranger, &blob).unwrap(), b"x");
    assert_eq!(metadata(&stranger, &arn).aws_account_id, ACCOUNT);
    for (operation, request) in [
        ("DisableKey", json!({"KeyId": arn})),
        ("ScheduleKeyDeletion", json!({"KeyId": arn})),
        ("GetKeyPolicy", json!({"KeyId": arn})),
        ("PutKeyPolicy", json!({"KeyId": arn, "Policy": with(&allow(OTHER, "kms:*"))})),
        ("RotateKeyOnDemand", json!({"KeyId": arn})),
    ] {
        assert_eq!(
            kind(json(&stranger, operation, request)),
            Some(KmsErrorKind::AccessDenied),
            "{operation}"
        );
    }
    // Both accounts' logs have what was allowed, the caller's alone what was not.
    for (session, name, found) in [
        (&session, "Decrypt", 1),
        (&stranger, "Decrypt", 1),
        (&session, "DisableKey", 0),
        (&stranger, "DisableKey", 1),
    ] {
        let filter = Filter { event_name: Some(name.to_owned()), ..Filter::default() };
        assert_eq!(session.lookup_events(&filter).unwrap().len(), found, "{name}");
    }
    // A user of that account needs a policy of its own besides, and has none.
    let alice = as_principal(&bench, "arn:aws:iam::111122223333:user/alice");
    assert!(
        message(encrypt(&alice, &arn, b"x"))
            .ends_with("because no identity-based policy allows the kms:Encrypt action")
    );
}

#[test]
fn a_user_is_let_in_by_name_and_one_refusal_hides_the_rest() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    let user = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    let alice = as_principal(&bench, &user);
    let refused = message(decrypt(&alice, &blob));
    assert!(refused.ends_with("or a resource-based policy explicitly denies access"), "{refused}");
    put(&session, &key, &with(&allow(&user, "kms:Decrypt"))).unwrap();
    assert_eq!(decrypt(&alice, &blob).unwrap(), b"x");
    let bob = as_principal(&bench, &format!("arn:aws:iam::{ACCOUNT}:user/bob"));
    assert_eq!(message(decrypt(&bob, &blob)), refused.replace("alice", "bob"));
    // The event has the true reason.
    let filter = Filter { errors_only: true, ..Filter::default() };
    let found = session.lookup_events(&filter).unwrap();
    let newest: Value = serde_json::from_str(&found[0].json).unwrap();
    assert_eq!(newest["userIdentity"]["type"], "IAMUser");
    let reason = newest["errorMessage"].as_str().unwrap();
    assert!(reason.ends_with("because no identity-based policy allows the kms:Decrypt action"), "{reason}");
}

#[test]
fn conditions_see_the_encryption_context_the_alias_and_the_request() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    alias(&session, "alias/payroll", &key).unwrap();
    let user = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    let alice = as_principal(&bench, &user);
    let ask = |name: &str, pairs: &[(&str, &str)]| {
        let request = EncryptRequest {
            key_id: name.to_owned(),
            plaintext: crate::crypto::SecretVec::new(b"x".to_vec()),
            encryption_context: context(pairs),
            ..Default::default()
        };
        alice.call(request).is_ok()
    };
    let finance = [("Department", "finance")];
    let both = [("Department", "finance"), ("File", "7")];
    for (condition, name, pairs, expected) in [
        (
            json!({"StringEquals": {"kms:EncryptionContext:Department": "finance"}}),
            key.as_str(),
            &finance[..],
            true,
        ),
        (
            json!({"StringEquals": {"kms:EncryptionContext:Department": "finance"}}),
            &key,
            &[("Department", "sales")],
            false,
        ),
        (json!({"StringEquals": {"kms:EncryptionContext:Department": "finance"}}), &key, &[], false),
        (
            json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "Department"}}),
            &key,
            &finance,
            true,
        ),
        (
            json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "Department"}}),
            &key,
            &both,
            false,
        ),
        (json!({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "File"}}), &key, &both, true),
        (json!({"Null": {"kms:EncryptionContextKeys": "true"}}), &key, &[], true),
        (json!({"StringEquals": {"kms:RequestAlias": "alias/payroll"}}), "alias/payroll", &[], true),
        (json!({"StringEquals": {"kms:RequestAlias": "alias/payroll"}}), &key, &[], false),
        (
            json!({"StringEquals": {"aws:RequestedRegion": "us-east-1", "kms:CallerAccount": ACCOUNT}}),
            &key,
            &[],
            true,
        ),
        (json!({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}), &key, &[], false),
        (json!({"DateLessThan": {"aws:CurrentTime": "2027-01-15T08:00:01Z"}}), &key, &[], true),
        (json!({"DateLessThan": {"aws:CurrentTime": "2027-01-15T08:00:00Z"}}), &key, &[], false),
        (json!({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}), &key, &[], true),
        (json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/a*"}}), &key, &[], true),
        (
            json!({"StringEquals": {"aws:username": "alice", "kms:KeySpec": "SYMMETRIC_DEFAULT"}}),
            &key,
            &[],
            true,
        ),
        (json!({"StringEquals": {"kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}}), &key, &[], true),
        (json!({"Null": {"kms:ViaService": "true"}}), &key, &[], true),
    ] {
        let mut statement = allow(&user, "kms:Encrypt");
        statement["Condition"] = condition.clone();
        put(&session, &key, &with(&statement)).unwrap();
        assert_eq!(ask(name, pairs), expected, "{condition} {name} {pairs:?}");
    }
}

#[test]
fn conditions_see_the_period_of_a_rotation_and_the_tags_of_a_request() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let user = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    let alice = as_principal(&bench, &user);
    let ask = |operation: &str, body: &Value, condition: &Value| {
        let mut statement = allow(&user, &format!("kms:{operation}"));
        statement["Condition"] = condition.clone();
        put(&session, &key, &with(&statement)).unwrap();
        kind(json(&alice, operation, body.clone()))
    };
    let denied = Some(KmsErrorKind::AccessDenied);
    let short = json!({"NumericLessThanEquals": {"kms:RotationPeriodInDays": "180"}});
    for (days, expected) in [(180, None), (181, denied)] {
        let body = json!({"KeyId": key, "RotationPeriodInDays": days});
        assert_eq!(ask("EnableKeyRotation", &body, &short), expected, "{days}");
    }
    let team = json!({"StringEquals": {"aws:RequestTag/team": "red"}});
    for (value, expected) in [("red", None), ("blue", denied)] {
        let body = json!({"KeyId": key, "Tags": [{"TagKey": "team", "TagValue": value}]});
        assert_eq!(ask("TagResource", &body, &team), expected, "{value}");
    }
    let names = json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}});
    for (name, expected) in [("team", None), ("cost", denied)] {
        let body = json!({"KeyId": key, "TagKeys": [name]});
        assert_eq!(ask("UntagResource", &body, &names), expected, "{name}");
    }
}

#[test]
fn re_encrypting_is_two_actions_each_with_its_own_context() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let user = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    let alice = as_principal(&bench, &user);
    let from_to = |from: &str, to: &str| {
        let mut statement = allow(&user, "kms:ReEncryptFrom");
        statement["Condition"] = json!({"StringEquals": {"kms:EncryptionContext:at": from}});
        let mut second = allow(&user, "kms:ReEncryptTo");
        second["Condition"] = json!({"StringEquals": {"kms:EncryptionContext:at": to}});
        let root = allow(ACCOUNT, "kms:*");
        json!({"Version": "2012-10-17", "Statement": [root, statement, second]}).to_string()
    };
    let request = EncryptRequest {
        key_id: key.clone(),
        plaintext: crate::crypto::SecretVec::new(b"x".to_vec()),
        encryption_context: context(&[("at", "a")]),
        ..Default::default()
    };
    let blob = session.call(request).unwrap().ciphertext_blob;
    for (from, to, expected) in [("a", "b", true), ("a", "a", false), ("b", "b", false)] {
        put(&session, &key, &from_to(from, to)).unwrap();
        let request = ReEncryptRequest {
            ciphertext_blob: blob.clone(),
            source_encryption_context: context(&[("at", "a")]),
            destination_key_id: key.clone(),
            destination_encryption_context: context(&[("at", "b")]),
            ..Default::default()
        };
        assert_eq!(alice.call(request).is_ok(), expected, "{from} {to}");
    }
}
