//! What another account can find out about keys that let nobody of it in: nothing.

use serde_json::{Value, json};

use super::*;
use crate::audit::Filter;
use crate::iam::AccountId;

const OTHER: &str = "111122223333";

/// The last event of the session's account, without what differs from call to call.
fn last_event(session: &Session, of: &str) -> Value {
    let filter = Filter { event_name: Some(of.to_owned()), ..Filter::default() };
    let mut event: Value = serde_json::from_str(&session.lookup_events(&filter).unwrap()[0].json).unwrap();
    for name in ["eventID", "requestID", "eventTime"] {
        event.as_object_mut().unwrap().remove(name);
    }
    event
}

fn stranger(bench: &Bench) -> Session {
    let other: AccountId = OTHER.parse().unwrap();
    bench.kms.session(Caller::root(other), &region()).unwrap()
}

#[test]
fn a_foreign_key_or_alias_that_lets_nobody_in_looks_like_one_that_is_not_there() {
    let bench = Bench::new();
    let (owner, stranger) = (bench.session(), stranger(&bench));
    let key = make(&owner);
    alias(&owner, "alias/payroll", &key).unwrap();
    let absent = "00000000-0000-4000-8000-000000000000";
    let arn = |resource: &str| format!("arn:aws:kms:us-east-1:{ACCOUNT}:{resource}");
    for (operation, body) in [
        ("Encrypt", json!({"KeyId": "?", "Plaintext": "eA=="})),
        ("GenerateDataKey", json!({"KeyId": "?", "KeySpec": "AES_256"})),
        ("DescribeKey", json!({"KeyId": "?"})),
        ("GetKeyPolicy", json!({"KeyId": "?"})),
        ("RevokeGrant", json!({"KeyId": "?", "GrantId": "a".repeat(64)})),
        ("RetireGrant", json!({"KeyId": "?", "GrantId": "a".repeat(64)})),
    ] {
        let seen = |resource: &str| {
            let arn = arn(resource);
            let mut body = body.clone();
            body["KeyId"] = json!(arn);
            let error = json(&stranger, operation, body).unwrap_err();
            let event = last_event(&stranger, operation).to_string();
            (error.kind, error.message.replace(&arn, "?"), event.replace(&arn, "?"))
        };
        assert_eq!(seen(&format!("key/{key}")), seen(&format!("key/{absent}")), "{operation}");
        if matches!(operation, "Encrypt" | "GenerateDataKey" | "DescribeKey") {
            assert_eq!(seen("alias/payroll"), seen("alias/nothing"), "{operation}");
        }
    }
}

#[test]
fn a_ciphertext_of_another_key_does_not_tell_whether_the_named_key_is_there() {
    let bench = Bench::new();
    let (owner, stranger) = (bench.session(), stranger(&bench));
    let key = make(&owner);
    alias(&owner, "alias/payroll", &key).unwrap();
    let blob = encrypt(&stranger, &make(&stranger), b"x").unwrap();
    let seen = |resource: &str| {
        let arn = format!("arn:aws:kms:us-east-1:{ACCOUNT}:{resource}");
        let request =
            DecryptRequest { ciphertext_blob: blob.clone(), key_id: Some(arn.clone()), ..Default::default() };
        let error = stranger.call(request).map(drop).unwrap_err();
        (error.kind, error.message, last_event(&stranger, "Decrypt").to_string().replace(&arn, "?"))
    };
    let there = seen(&format!("key/{key}"));
    assert_eq!(there.0, KmsErrorKind::AccessDenied);
    assert!(there.1.contains("on the resource associated with this ciphertext"), "{}", there.1);
    assert_eq!(there, seen("key/00000000-0000-4000-8000-000000000000"));
    assert_eq!(there, seen("alias/payroll"));
    assert_eq!(there, seen("alias/nothing"));
    // Whoever may use the key is told that it is another's.
    let (mine, other) = (make(&owner), encrypt(&owner, &key, b"x").unwrap());
    let request = DecryptRequest { ciphertext_blob: other, key_id: Some(mine), ..Default::default() };
    assert_eq!(owner.call(request).map(drop).unwrap_err().kind, KmsErrorKind::IncorrectKey);
}

#[test]
fn a_deny_of_ones_own_does_not_tell_whether_a_foreign_key_is_there() {
    let bench = Bench::new();
    let owner = bench.session();
    let key = make(&owner);
    let iam = bench.kms.identity(Caller::root(OTHER.parse().unwrap()));
    iam.call_json("CreateUser", json!({"UserName": "mallory"})).unwrap();
    let deny = json!({"Version": "2012-10-17", "Statement": {
        "Effect": "Deny", "Action": "kms:*", "Resource": "*",
        "Condition": {"StringLike": {"kms:KeySpec": "*"}}
    }});
    let body = json!({"UserName": "mallory", "PolicyName": "probe", "PolicyDocument": deny.to_string()});
    iam.call_json("PutUserPolicy", body).unwrap();
    let mallory = bench.kms.caller(&format!("arn:aws:iam::{OTHER}:user/mallory")).unwrap();
    let mallory = bench.kms.session(mallory, &region()).unwrap();
    let seen = |id: &str| {
        let arn = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{id}");
        encrypt(&mallory, &arn, b"x").unwrap_err().message.replace(&arn, "?")
    };
    assert_eq!(seen(&key), seen("00000000-0000-4000-8000-000000000000"));
    // Where the key's policy lets its account in, the true reason is told.
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "kms:*",
         "Resource": "*"},
        {"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": "kms:Encrypt", "Resource": "*"}
    ]});
    json(&owner, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy.to_string()})).unwrap();
    assert!(seen(&key).ends_with("with an explicit deny in an identity-based policy"), "{}", seen(&key));
}
