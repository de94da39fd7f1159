//! Whatever stands in a request, it is answered without a panic, and recorded.

use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::audit::Filter;
use crate::kms::identity::OPERATIONS as IDENTITY;
use crate::kms::operation::OPERATIONS;

/// Names that requests have, and others.
const NAMES: [&str; 24] = [
    "KeyId",
    "TargetKeyId",
    "AliasName",
    "Plaintext",
    "CiphertextBlob",
    "EncryptionContext",
    "KeySpec",
    "KeyUsage",
    "NumberOfBytes",
    "Limit",
    "Marker",
    "Policy",
    "PolicyName",
    "GrantTokens",
    "Operations",
    "Constraints",
    "Tags",
    "Message",
    "Signature",
    "SigningAlgorithm",
    "ImportToken",
    "EncryptedKeyMaterial",
    "ValidTo",
    "x",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[A-Za-z0-9+/]{0,24}={0,2}".prop_map(Value::from),
        Just(Value::from("alias/a")),
        Just(Value::from("arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000")),
        Just(Value::from("SYMMETRIC_DEFAULT")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            hash_map(".{0,8}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn count(found: Vec<crate::audit::Found>) -> usize {
    found.len()
}

#[test]
fn arbitrary_requests_are_answered_without_a_panic_and_each_is_recorded() {
    let bench = Bench::new();
    let session = bench.session();
    let iam = bench.kms.identity(Caller::root(ACCOUNT.parse().unwrap()));
    let all = Filter { limit: Some(1_000_000), ..Filter::default() };
    let body = hash_map(proptest::sample::select(&NAMES[..]), value(), 0..6);
    let bytes = vec(any::<u8>(), 0..60);
    let pairs = vec(("[A-Za-z0-9.]{0,20}|Tags\\.member\\.[0-9]{1,20}\\.Key", ".{0,12}"), 0..6);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4));
    let tested =
        runner.run(&(vec((body, bytes), OPERATIONS.len()), vec(pairs, IDENTITY.len())), |(bodies, pairs)| {
            let before = count(session.lookup_events(&all).unwrap());
            for ((row, _), (body, bytes)) in OPERATIONS.iter().zip(&bodies) {
                let body: serde_json::Map<String, Value> =
                    body.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                let _ = session.call_json(row.name, &serde_json::to_vec(&body).unwrap());
                let _ = session.call_json(row.name, bytes);
            }
            let own = |found: &crate::audit::Found| found.event.event_type == "AwsApiCall";
            let after = session.lookup_events(&all).unwrap();
            prop_assert!(after.iter().all(own));
            prop_assert_eq!(count(after), before + 2 * OPERATIONS.len());
            let before = count(iam.lookup_events(&all).unwrap());
            for ((row, _), pairs) in IDENTITY.iter().zip(&pairs) {
                let _ = iam.call_query(row.name, pairs);
            }
            prop_assert_eq!(count(iam.lookup_events(&all).unwrap()), before + IDENTITY.len());
            Ok(())
        });
    tested.unwrap();
}

#[test]
fn a_request_that_is_too_long_leaves_an_event_that_is_not() {
    let bench = Bench::new();
    let session = bench.session();
    let iam = bench.kms.identity(Caller::root(ACCOUNT.parse().unwrap()));
    let long = "x".repeat(200_000);
    let body = serde_json::json!({"KeyId": "alias/a", "Plaintext": "eA==", "EncryptionContext": {"a": long}});
    assert!(json(&session, "Encrypt", body).is_err());
    let pairs = [("UserName".to_owned(), long.clone())];
    assert!(iam.call_query("CreateUser", &pairs).is_err());
    let pairs = [("MaxItems".to_owned(), long)];
    assert!(iam.call_query("ListUsers", &pairs).is_err());
    let found = session.lookup_events(&Filter::default()).unwrap();
    for found in &found {
        assert!(found.json.len() < 4096, "{}", found.json.len());
        let event: Value = serde_json::from_str(&found.json).unwrap();
        assert!(event["errorCode"].is_string(), "{event}");
        if event["eventName"] != "ListUsers" {
            assert_eq!(event["requestParameters"]["omitted"], true, "{event}");
        }
    }
    // IAM's stand among the home region's.
    assert_eq!(found.len(), 3);
    assert!(session.verify_log(None).is_ok());
}

#[test]
fn a_query_whose_names_contradict_one_another_is_recorded() {
    let bench = Bench::new();
    let iam = bench.kms.identity(Caller::root(ACCOUNT.parse().unwrap()));
    let pairs = [("UserName", "a"), ("UserName", "b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert!(iam.call_query("CreateUser", &pairs).is_err());
    let found = iam.lookup_events(&Filter::default()).unwrap();
    assert_eq!(found[0].event.event_name, "CreateUser");
    assert_eq!(found[0].event.error_code.as_deref(), Some("ValidationError"));
}
