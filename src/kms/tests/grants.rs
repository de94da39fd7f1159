//! Grants: who gets what by them, and who makes and ends them.

use serde_json::{Value, json};

use super::*;
use crate::kms::grant_rows::tests::everything;

const OTHER: &str = "111122223333";
pub const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
pub const BOB: &str = "arn:aws:iam::000000000000:user/bob";
pub const ROOT: &str = "arn:aws:iam::000000000000:root";
pub const ROLE: &str = "arn:aws:iam::000000000000:role/R";
pub const SESSION: &str = "arn:aws:sts::000000000000:assumed-role/R/s";
pub const STRANGER: &str = "arn:aws:iam::111122223333:user/alice";
pub const STRANGE_ROOT: &str = "arn:aws:iam::111122223333:root";

pub fn at(bench: &Bench, arn: &str) -> Session {
    let caller = Caller { principal: arn.parse().unwrap(), ..Caller::root(ACCOUNT.parse().unwrap()) };
    bench.kms.session(caller, &region()).unwrap()
}

pub fn kind<T>(answer: Result<T, KmsError>) -> Option<KmsErrorKind> {
    answer.err().map(|error| error.kind)
}

pub fn message<T>(answer: Result<T, KmsError>) -> String {
    answer.err().map(|e| e.message).unwrap_or_default()
}

/// CreateGrant with more fields.
pub fn grant_with(
    session: &Session,
    key: &str,
    grantee: &str,
    operations: &[&str],
    more: &Value,
) -> Result<(String, String), KmsError> {
    let mut request = json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": operations});
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    let answer = json(session, "CreateGrant", request)?;
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    Ok((text("GrantId"), text("GrantToken")))
}

pub fn grant(session: &Session, key: &str, grantee: &str, operations: &[&str]) -> (String, String) {
    grant_with(session, key, grantee, operations, &json!({})).unwrap()
}

pub fn revoke(session: &Session, key: &str, id: &str) -> Result<Value, KmsError> {
    json(session, "RevokeGrant", json!({"KeyId": key, "GrantId": id}))
}

pub fn retire(session: &Session, key: &str, id: &str) -> Result<Value, KmsError> {
    json(session, "RetireGrant", json!({"KeyId": key, "GrantId": id}))
}

pub fn list(session: &Session, request: Value) -> Vec<Value> {
    json(session, "ListGrants", request).unwrap()["Grants"].as_array().unwrap().clone()
}

fn put_policy(session: &Session, key: &str, statement: &Value) {
    let root = json!({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"});
    let policy = json!({"Version": "2012-10-17", "Statement": [root, statement]}).to_string();
    json(session, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).unwrap();
}

fn encrypt_with(session: &Session, key: &str, pairs: &[(&str, &str)]) -> Result<Vec<u8>, KmsError> {
    let plaintext = crate::crypto::SecretVec::new(b"x".to_vec());
    let encryption_context = context(pairs);
    let key_id = key.to_owned();
    let request = EncryptRequest { key_id, plaintext, encryption_context, ..Default::default() };
    session.call(request).map(|answer| answer.ciphertext_blob)
}

#[test]
fn a_grant_lets_its_grantee_in_at_once_and_no_longer_than_it_lives() {
    let bench = Bench::new();
    let (session, alice, bob) = (bench.session(), at(&bench, ALICE), at(&bench, BOB));
    let elsewhere = bench.another();
    let caller = Caller { principal: ALICE.parse().unwrap(), ..Caller::root(ACCOUNT.parse().unwrap()) };
    let alice_elsewhere = elsewhere.session(caller, &region()).unwrap();
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    let denied = Some(KmsErrorKind::AccessDenied);
    assert_eq!(kind(decrypt(&alice, &blob)), denied);
    assert_eq!(kind(decrypt(&alice_elsewhere, &blob)), denied);
    let (id, _) = grant(&session, &key, ALICE, &["Decrypt", "DescribeKey"]);
    assert_eq!(decrypt(&alice, &blob).unwrap(), b"x");
    assert_eq!(decrypt(&alice_elsewhere, &blob).unwrap(), b"x");
    assert_eq!(metadata(&alice, &key).key_id, key);
    assert_eq!(kind(decrypt(&bob, &blob)), denied);
    assert_eq!(kind(encrypt(&alice, &key, b"x")), denied);
    revoke(&session, &key, &id).unwrap();
    assert_eq!(kind(decrypt(&alice, &blob)), denied);
    assert_eq!(kind(decrypt(&alice_elsewhere, &blob)), denied);
    assert_eq!(kind(revoke(&session, &key, &id)), Some(KmsErrorKind::NotFound));
    assert!(everything(session.region_service()).is_empty());
}

#[test]
fn grants_go_with_their_key_and_nothing_else_ends_them() {
    let bench = Bench::new();
    let session = bench.session();
    let alice = at(&bench, ALICE);
    let key = make(&session);
    let other = make(&session);
    let blob = encrypt(&session, &other, b"x").unwrap();
    let more = json!({"Name": "n", "RetiringPrincipal": ALICE});
    grant_with(&session, &key, ALICE, &["Decrypt"], &more).unwrap();
    grant(&session, &other, ALICE, &["Decrypt"]);
    schedule(&session, &key, 7);
    assert_eq!(list(&session, json!({"KeyId": key})).len(), 1);
    bench.clock.days(5000);
    session.region_service().expire().unwrap();
    assert_eq!(kind(json(&session, "ListGrants", json!({"KeyId": key}))), Some(KmsErrorKind::NotFound));
    assert_eq!(decrypt(&alice, &blob).unwrap(), b"x");
    // Grant, count, grantee: of the other key.
    assert_eq!(everything(session.region_service()).len(), 3);
}

#[test]
fn both_halves_of_re_encrypting_are_granted_apart() {
    let bench = Bench::new();
    let session = bench.session();
    let alice = at(&bench, ALICE);
    let (from, to) = (make(&session), make(&session));
    let ciphertext_blob = encrypt(&session, &from, b"x").unwrap();
    let ask = || {
        let (ciphertext_blob, destination_key_id) = (ciphertext_blob.clone(), to.clone());
        alice.call(ReEncryptRequest { ciphertext_blob, destination_key_id, ..Default::default() }).is_ok()
    };
    grant(&session, &from, ALICE, &["ReEncryptFrom"]);
    assert!(!ask());
    let (id, _) = grant(&session, &to, ALICE, &["ReEncryptTo"]);
    assert!(ask());
    revoke(&session, &to, &id).unwrap();
    grant(&session, &to, ALICE, &["ReEncryptFrom"]);
    assert!(!ask());
}

#[test]
fn constraints_compare_keys_without_case_and_values_with_it() {
    let bench = Bench::new();
    let session = bench.session();
    let alice = at(&bench, ALICE);
    let key = make(&session);
    let it = [("Department", "IT")];
    let more = [("department", "IT"), ("File", "7")];
    let twice = [("Department", "IT"), ("department", "IT")];
    let nothing: &[(&str, &str)] = &[];
    for (constraints, pairs, expected) in [
        (json!({"EncryptionContextSubset": {"Department": "IT"}}), &it[..], true),
        (json!({"EncryptionContextSubset": {"DEPARTMENT": "IT"}}), &it, true),
        (json!({"EncryptionContextSubset": {"Department": "it"}}), &it, false),
        (json!({"EncryptionContextSubset": {"Department": "IT"}}), &more, true),
        (json!({"EncryptionContextSubset": {"Department": "IT", "x": "y"}}), &more, false),
        (json!({"EncryptionContextSubset": {"Department": "IT"}}), nothing, false),
        (json!({"EncryptionContextSubset": {}}), nothing, true),
        (json!({"EncryptionContextEquals": {"department": "IT"}}), &it, true),
        (json!({"EncryptionContextEquals": {"Department": "It"}}), &it, false),
        (json!({"EncryptionContextEquals": {"Department": "IT"}}), &more, false),
        (json!({"EncryptionContextEquals": {"FILE": "7", "Department": "IT"}}), &more, true),
        (json!({"EncryptionContextEquals": {"Department": "IT"}}), &twice, false),
        (json!({"EncryptionContextEquals": {"Department": "IT"}}), nothing, false),
        (json!({"EncryptionContextEquals": {}}), nothing, true),
        (json!({"EncryptionContextEquals": {}}), &it, false),
        (
            json!({"EncryptionContextSubset": {"File": "7"}, "EncryptionContextEquals": {"Department": "IT"}}),
            &it,
            false,
        ),
    ] {
        let more = json!({"Constraints": constraints});
        let operations = ["Encrypt", "DescribeKey"];
        let (id, _) = grant_with(&session, &key, ALICE, &operations, &more).unwrap();
        assert_eq!(encrypt_with(&alice, &key, pairs).is_ok(), expected, "{constraints} {pairs:?}");
        // What has no encryption context has no such constraint.
        assert_eq!(metadata(&alice, &key).key_id, key);
        revoke(&session, &key, &id).unwrap();
    }
}

#[test]
fn a_grant_for_a_resource_of_a_service_is_kept_and_lets_nobody_else_in() {
    let bench = Bench::new();
    let session = bench.session();
    let alice = at(&bench, ALICE);
    let key = make(&session);
    let source = "arn:aws:ec2:us-east-1:000000000000:volume/vol-1";
    let more = json!({"Constraints": {"SourceArn": source}});
    grant_with(&session, &key, ALICE, &["Encrypt", "DescribeKey"], &more).unwrap();
    assert_eq!(kind(encrypt(&alice, &key, b"x")), Some(KmsErrorKind::AccessDenied));
    let request = json!({
        "KeyId": key, "GranteeServicePrincipal": "backup.us-east-1.amazonaws.com", "Operations": ["Decrypt"],
        "Constraints": {"SourceArn": source}, "RetiringServicePrincipal": "backup.us-east-1.amazonaws.com"
    });
    json(&session, "CreateGrant", request).unwrap();
    let found = list(&session, json!({"KeyId": key}));
    let service = found.iter().find(|g| g.get("GranteePrincipal").is_none()).unwrap();
    assert_eq!(service["GranteeServicePrincipal"], "backup.us-east-1.amazonaws.com");
    assert_eq!(service["RetiringServicePrincipal"], "backup.us-east-1.amazonaws.com");
    assert_eq!(service["Constraints"], json!({"SourceArn": source}));
    let by_service = json!({"KeyId": key, "GranteeServicePrincipal": "backup.us-east-1.amazonaws.com"});
    assert_eq!(kind(json(&session, "ListGrants", by_service)), Some(KmsErrorKind::AccessDenied));
    let by_service = json!({"RetiringServicePrincipal": "backup.us-east-1.amazonaws.com"});
    assert_eq!(kind(json(&session, "ListRetirableGrants", by_service)), Some(KmsErrorKind::AccessDenied));
}

#[test]
fn a_grant_of_a_grantee_is_no_wider_than_his_own() {
    let bench = Bench::new();
    let session = bench.session();
    let (alice, bob) = (at(&bench, ALICE), at(&bench, BOB));
    let key = make(&session);
    let no = Some(KmsErrorKind::AccessDenied);
    let ask = |operations: &[&str], constraints: Value| {
        let more = json!({"Constraints": constraints});
        kind(grant_with(&alice, &key, BOB, operations, &more))
    };
    // Without CreateGrant none at all.
    let (id, _) = grant(&session, &key, ALICE, &["Encrypt"]);
    assert_eq!(ask(&["Encrypt"], Value::Null), no);
    revoke(&session, &key, &id).unwrap();

    let (id, _) = grant(&session, &key, ALICE, &["Encrypt", "Decrypt", "CreateGrant"]);
    assert_eq!(ask(&["Encrypt"], Value::Null), None);
    assert_eq!(ask(&["Encrypt", "Decrypt", "CreateGrant"], json!({"EncryptionContextEquals": {}})), None);
    assert_eq!(ask(&["Encrypt", "DescribeKey"], Value::Null), no);
    assert!(encrypt(&bob, &key, b"x").is_ok());
    // A child lives on without its parent.
    revoke(&session, &key, &id).unwrap();
    assert!(encrypt(&bob, &key, b"x").is_ok());
    assert_eq!(kind(encrypt(&alice, &key, b"x")), no);

    for (parent, child, expected) in [
        (json!({"EncryptionContextSubset": {"a": "1"}}), Value::Null, no),
        (
            json!({"EncryptionContextSubset": {"a": "1"}}),
            json!({"EncryptionContextSubset": {"A": "1"}}),
            None,
        ),
        (
            json!({"EncryptionContextSubset": {"a": "1"}}),
            json!({"EncryptionContextSubset": {"a": "1", "b": "2"}}),
            None,
        ),
        (
            json!({"EncryptionContextSubset": {"a": "1"}}),
            json!({"EncryptionContextEquals": {"a": "1", "b": "2"}}),
            None,
        ),
        (json!({"EncryptionContextSubset": {"a": "1"}}), json!({"EncryptionContextSubset": {"a": "2"}}), no),
        (json!({"EncryptionContextSubset": {"a": "1"}}), json!({"EncryptionContextEquals": {"b": "1"}}), no),
        (
            json!({"EncryptionContextSubset": {"a": "1", "b": "2"}}),
            json!({"EncryptionContextSubset": {"a": "1"}}),
            no,
        ),
        (
            json!({"EncryptionContextEquals": {"a": "1"}}),
            json!({"EncryptionContextEquals": {"A": "1"}}),
            None,
        ),
        (json!({"EncryptionContextEquals": {"a": "1"}}), json!({"EncryptionContextSubset": {"a": "1"}}), no),
        (
            json!({"EncryptionContextEquals": {"a": "1"}}),
            json!({"EncryptionContextEquals": {"a": "1", "b": "2"}}),
            no,
        ),
        (Value::Null, json!({"EncryptionContextSubset": {"a": "1"}}), None),
    ] {
        let operations = ["Encrypt", "CreateGrant"];
        let more = json!({"Constraints": parent});
        let (id, _) = grant_with(&session, &key, ALICE, &operations, &more).unwrap();
        assert_eq!(ask(&["Encrypt"], child.clone()), expected, "{parent} {child}");
        revoke(&session, &key, &id).unwrap();
    }
}

#[test]
fn who_may_retire() {
    let bench = Bench::new();
    let session = bench.session();
    let (alice, bob, stranger) = (at(&bench, ALICE), at(&bench, BOB), at(&bench, STRANGER));
    let key = make(&session);
    let arn = metadata(&session, &key).arn;
    let no = Some(KmsErrorKind::AccessDenied);
    for (who, operations, retiring, expected) in [
        // The account that owns the key.
        (&session, &["Decrypt"][..], None, None),
        // The retiring principal.
        (&bob, &["Decrypt"], Some(BOB), None),
        (&stranger, &["Decrypt"], Some(STRANGER), None),
        // The grantee, if the grant says so.
        (&alice, &["Decrypt", "RetireGrant"], None, None),
        (&alice, &["Decrypt"], None, no),
        (&alice, &["Decrypt"], Some(BOB), no),
        // A retiring account: its root; others if their own policies allow it.
        (&at(&bench, STRANGE_ROOT), &["Decrypt"], Some(STRANGE_ROOT), None),
        (&stranger, &["Decrypt"], Some(STRANGE_ROOT), no),
        // Nobody else.
        (&bob, &["Decrypt", "RetireGrant"], None, no),
        (&bob, &["Decrypt", "RetireGrant"], Some(ALICE), no),
        (&stranger, &["Decrypt"], None, no),
        (&at(&bench, STRANGE_ROOT), &["Decrypt"], Some(STRANGER), no),
        // A role's session.
        (&at(&bench, SESSION), &["Decrypt"], Some(ROLE), None),
        (&at(&bench, SESSION), &["Decrypt"], Some(SESSION), None),
        (&at(&bench, &SESSION.replace("/s", "/t")), &["Decrypt"], Some(SESSION), no),
    ] {
        let more = retiring.map_or_else(|| json!({}), |r| json!({"RetiringPrincipal": r}));
        let (id, token) = grant_with(&session, &key, ALICE, operations, &more).unwrap();
        let principal = who.caller().principal.arn();
        let dry = json(who, "RetireGrant", json!({"KeyId": arn, "GrantId": id, "DryRun": true}));
        assert_eq!(kind(dry), expected.or(Some(KmsErrorKind::DryRun)), "{principal} {operations:?}");
        let by_token = json(who, "RetireGrant", json!({"GrantToken": token, "DryRun": true}));
        assert_eq!(kind(by_token), expected.or(Some(KmsErrorKind::DryRun)), "{principal} {operations:?}");
        assert_eq!(kind(retire(who, &arn, &id)), expected, "{principal} {operations:?} {retiring:?}");
        assert_eq!(kind(retire(&session, &arn, &id)).is_none(), expected.is_some());
    }
    // A stranger cannot tell a grant that is there from one that is not.
    let (id, _) = grant(&session, &key, ALICE, &["Decrypt"]);
    let none = "0".repeat(64);
    assert_eq!(
        message(retire(&stranger, &arn, &id)),
        message(retire(&stranger, &arn, &none)),
        "the answers differ"
    );
    assert_eq!(kind(retire(&session, &arn, &none)), Some(KmsErrorKind::NotFound));
    assert_eq!(kind(retire(&session, &arn, "x")), Some(KmsErrorKind::InvalidGrantId));
    assert_eq!(kind(revoke(&session, &arn, &none)), Some(KmsErrorKind::NotFound));
    assert_eq!(kind(revoke(&session, &arn, &"A".repeat(64))), Some(KmsErrorKind::InvalidGrantId));
    // A Deny beats the grant, and a policy alone gives nothing.
    let (id, _) =
        grant_with(&session, &key, ALICE, &["Decrypt"], &json!({"RetiringPrincipal": BOB})).unwrap();
    let all =
        |effect| json!({"Effect": effect, "Principal": "*", "Action": "kms:RetireGrant", "Resource": "*"});
    put_policy(&session, &key, &all("Deny"));
    assert!(message(retire(&bob, &arn, &id)).ends_with("with an explicit deny in a resource-based policy"));
    put_policy(&session, &key, &all("Allow"));
    assert_eq!(kind(retire(&stranger, &arn, &id)), no);
    assert_eq!(kind(retire(&bob, &arn, &id)), None);
}

#[test]
fn a_deny_beats_a_grant() {
    let bench = Bench::new();
    let session = bench.session();
    let alice = at(&bench, ALICE);
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    grant(&session, &key, ALICE, &["Encrypt", "Decrypt"]);
    let deny = |condition: Value| {
        json!({
            "Effect": "Deny", "Principal": {"AWS": ALICE}, "Action": "kms:Decrypt", "Resource": "*",
            "Condition": condition
        })
    };
    put_policy(&session, &key, &deny(json!({"StringEquals": {"aws:RequestedRegion": "us-east-1"}})));
    assert_eq!(kind(decrypt(&alice, &blob)), Some(KmsErrorKind::AccessDenied));
    assert!(encrypt(&alice, &key, b"x").is_ok());
    put_policy(&session, &key, &deny(json!({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}})));
    assert_eq!(decrypt(&alice, &blob).unwrap(), b"x");
}

/// The part of the matrix that needs no policies of identities: own account and another, by name, by grant and by a
/// constrained grant, each with a Deny in the key's policy that applies, or does not, or none.
#[test]
fn policy_grant_constraint_and_deny_in_all_combinations() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let arn = metadata(&session, &key).arn;
    let finance = json!({"Constraints": {"EncryptionContextEquals": {"Department": "finance"}}});
    for (who, own) in [(ALICE, true), (SESSION, true), (STRANGER, false), (STRANGE_ROOT, false)] {
        let caller = at(&bench, who);
        for way in ["nothing", "name", "grant", "constrained grant"] {
            for deny in [None, Some("finance"), Some("sales")] {
                let mut statements = vec![
                    json!({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"}),
                ];
                if way == "name" {
                    statements.push(json!({
                        "Effect": "Allow", "Principal": {"AWS": who}, "Action": "kms:Encrypt", "Resource": "*"
                    }));
                }
                if let Some(department) = deny {
                    statements.push(json!({
                        "Effect": "Deny", "Principal": {"AWS": who}, "Action": "kms:Encrypt", "Resource": "*",
                        "Condition": {"StringEquals": {"kms:EncryptionContext:Department": department}}
                    }));
                }
                let policy = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
                json(&session, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).unwrap();
                let more = if way == "constrained grant" { finance.clone() } else { json!({}) };
                let granted = way
                    .ends_with("grant")
                    .then(|| grant_with(&session, &key, who, &["Encrypt"], &more).unwrap().0);
                for department in ["finance", "sales"] {
                    let allowed = match way {
                        // Across accounts a user needs a policy of its own too; the root needs none.
                        "name" => own || who == STRANGE_ROOT,
                        "grant" => true,
                        "constrained grant" => department == "finance",
                        _ => false,
                    };
                    let answer = encrypt_with(&caller, &arn, &[("Department", department)]);
                    let denied = deny == Some(department);
                    assert_eq!(answer.is_ok(), allowed && !denied, "{who} {way} {deny:?} {department}");
                    let explicit =
                        message(answer).ends_with("with an explicit deny in a resource-based policy");
                    assert_eq!(explicit, denied, "{who} {way} {deny:?} {department}");
                }
                if let Some(id) = granted {
                    revoke(&session, &key, &id).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_grant_across_accounts_suffices_by_itself() {
    let bench = Bench::new();
    let session = bench.session();
    let stranger = at(&bench, STRANGER);
    let key = make(&session);
    let arn = metadata(&session, &key).arn;
    let blob = encrypt(&session, &key, b"x").unwrap();
    grant(&session, &key, STRANGER, &["Decrypt", "DescribeKey", "CreateGrant"]);
    assert_eq!(decrypt(&stranger, &blob).unwrap(), b"x");
    assert_eq!(metadata(&stranger, &arn).arn, arn);
    let (id, _) = grant(&stranger, &arn, STRANGE_ROOT, &["Decrypt"]);
    let found = list(&session, json!({"KeyId": key, "GrantId": id}));
    assert_eq!(found[0]["IssuingAccount"], STRANGE_ROOT);
    // What grants cannot allow.
    for (operation, request) in
        [("ListGrants", json!({"KeyId": arn})), ("RevokeGrant", json!({"KeyId": arn, "GrantId": id}))]
    {
        assert_eq!(
            kind(json(&stranger, operation, request)),
            Some(KmsErrorKind::AccessDenied),
            "{operation}"
        );
    }
    // With the key's policy and one's own rights they work across accounts.
    put_policy(
        &session,
        &key,
        &json!({"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": "kms:*Grant*", "Resource": "*"}),
    );
    let root = at(&bench, STRANGE_ROOT);
    assert_eq!(list(&root, json!({"KeyId": arn})).len(), 2);
    revoke(&root, &arn, &id).unwrap();
}

#[test]
fn a_grant_serves_whom_it_names_and_his_sessions() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let another = SESSION.replace("/s", "/t");
    let cases = [
        (ALICE, ALICE, true),
        (ALICE, BOB, false),
        (ALICE, STRANGER, false),
        (ROLE, ROLE, true),
        (ROLE, SESSION, true),
        (ROLE, another.as_str(), true),
        (SESSION, SESSION, true),
        (SESSION, another.as_str(), false),
        (SESSION, ROLE, false),
        // An account's others need a policy of their own besides.
        (STRANGE_ROOT, STRANGE_ROOT, true),
        (STRANGE_ROOT, STRANGER, false),
        (STRANGE_ROOT, ALICE, false),
    ];
    let arn = metadata(&session, &key).arn;
    for (grantee, caller, expected) in cases {
        let (id, _) = grant(&session, &key, grantee, &["Encrypt"]);
        assert_eq!(encrypt(&at(&bench, caller), &arn, b"x").is_ok(), expected, "{grantee} {caller}");
        revoke(&session, &key, &id).unwrap();
    }
}

#[test]
fn customers_make_no_grants_on_a_key_that_the_service_manages() {
    let bench = Bench::new();
    let session = bench.session();
    let managed = session.ensure_managed_key("aws/kmsfs").unwrap();
    for who in [&session, &at(&bench, ALICE)] {
        let answer = grant_with(who, &managed, ALICE, &["Decrypt"], &json!({}));
        assert_eq!(kind(answer), Some(KmsErrorKind::AccessDenied));
    }
    assert_eq!(list(&session, json!({"KeyId": managed})), Vec::<Value>::new());
}
