//! Key material is made for whom it is allowed, and for nobody else; and in which region permission is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::audit::Filter;
use crate::crypto::SecretVec;
use crate::kms::cache::Key;
use crate::kms::call::{Call, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation, Preparation, Row};

/// How often material was made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// CreateKey, that counts instead of making a key.
#[derive(serde::Deserialize)]
struct Counted {}

impl InTable for Counted {
    const ROW: &'static Row = CreateKeyRequest::ROW;
}

impl Operation for Counted {
    type Response = bool;

    fn check(&self) -> Result<(), KmsError> {
        Ok(())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters::default()
    }

    fn preparation(&self) -> Option<Preparation<'_>> {
        Some(Box::new(|| {
            MADE.fetch_add(1, Ordering::Relaxed);
            Ok(SecretVec::new(vec![1]))
        }))
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> crate::kms::call::Result<bool> {
        Ok(call.prepared.is_some())
    }
}

fn iam(bench: &Bench, operation: &str, body: Value) {
    bench.kms.identity(Caller::root(ACCOUNT.parse().unwrap())).call_json(operation, body).unwrap();
}

/// A user with one policy of these statements, and its session.
fn user(bench: &Bench, name: &str, statements: &Value) -> Session {
    let document = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    iam(bench, "CreateUser", json!({"UserName": name}));
    let body = json!({"UserName": name, "PolicyName": "p", "PolicyDocument": document});
    iam(bench, "PutUserPolicy", body);
    bench.kms.session(bench.kms.caller(name).unwrap(), &region()).unwrap()
}

fn denied<T>(answer: Result<T, KmsError>, action: &str) {
    let Err(error) = answer else { panic!("{action} was allowed") };
    assert_eq!(error.kind, KmsErrorKind::AccessDenied, "{error}");
    assert!(error.message.contains(&format!("to perform: {action} on")), "{error}");
}

#[test]
fn key_material_is_made_once_and_only_for_whom_it_is_allowed() {
    let bench = Bench::new();
    let nobody =
        user(&bench, "nobody", &json!([{"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}]));
    denied(nobody.call(Counted {}), "kms:CreateKey");
    assert_eq!(MADE.load(Ordering::Relaxed), 0);
    let filter = Filter { event_name: Some("CreateKey".to_owned()), ..Filter::default() };
    let found = nobody.lookup_events(&filter).unwrap();
    let [event] = &found[..] else { panic!("{found:?}") };
    assert_eq!(event.event.error_code.as_deref(), Some("AccessDeniedException"));
    assert!(event.event.error_message.as_ref().unwrap().ends_with("allows the kms:CreateKey action"));
    assert!(bench.session().call(Counted {}).unwrap());
    assert_eq!(MADE.load(Ordering::Relaxed), 1);
    assert_eq!(nobody.lookup_events(&filter).unwrap().len(), 2);
}

#[test]
fn a_wrapping_key_is_made_only_for_whom_it_is_allowed() {
    let bench = Bench::new();
    let external = CreateKeyRequest { origin: Some("EXTERNAL".to_owned()), ..CreateKeyRequest::default() };
    let key = bench.session().call(external).unwrap().key_metadata.key_id;
    let nobody =
        user(&bench, "nobody", &json!([{"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}]));
    let body =
        json!({"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_4096"});
    denied(json(&nobody, "GetParametersForImport", body), "kms:GetParametersForImport");
    let filter = Filter { event_name: Some("GetParametersForImport".to_owned()), ..Filter::default() };
    assert_eq!(nobody.lookup_events(&filter).unwrap().len(), 1);
}

#[test]
fn a_key_with_tags_needs_permission_to_tag() {
    let bench = Bench::new();
    let maker =
        user(&bench, "maker", &json!([{"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*"}]));
    let tagged = json!({"Tags": [{"TagKey": "a", "TagValue": "b"}]});
    denied(json(&maker, "CreateKey", tagged.clone()), "kms:TagResource");
    json(&maker, "CreateKey", json!({})).unwrap();
    let statements = json!([{"Effect": "Allow", "Action": ["kms:CreateKey", "kms:TagResource"], "Resource": "*",
        "Condition": {"StringEquals": {"aws:RequestTag/a": "b"}}}]);
    json(&user(&bench, "tagger", &statements), "CreateKey", tagged).unwrap();
}

/// Statements that allow these actions, each where it says.
fn by_region(actions: &[(&str, &str)]) -> Value {
    let statement = |(action, region): &(&str, &str)| {
        json!({"Effect": "Allow", "Action": action, "Resource": "*",
            "Condition": {"StringEquals": {"aws:RequestedRegion": region}}})
    };
    actions.iter().map(statement).collect()
}

#[test]
fn a_replica_is_allowed_by_the_primary_key_and_in_its_own_region() {
    let bench = Bench::new();
    bench.kms.create_region(&"eu-west-1".parse().unwrap(), None).unwrap();
    let made = json(&bench.session(), "CreateKey", json!({"MultiRegion": true})).unwrap();
    let key = made["KeyMetadata"]["KeyId"].clone();
    let plain = json!({"KeyId": key, "ReplicaRegion": "eu-west-1"});
    let mut tagged = plain.clone();
    tagged["Tags"] = json!([{"TagKey": "a", "TagValue": "b"}]);
    for (name, allowed, request, refused) in [
        ("a", vec![("kms:CreateKey", "eu-west-1")], &plain, "kms:ReplicateKey"),
        (
            "b",
            vec![("kms:ReplicateKey", "eu-west-1"), ("kms:CreateKey", "eu-west-1")],
            &plain,
            "kms:ReplicateKey",
        ),
        ("c", vec![("kms:ReplicateKey", "us-east-1")], &plain, "kms:CreateKey"),
        (
            "d",
            vec![("kms:ReplicateKey", "us-east-1"), ("kms:CreateKey", "us-east-1")],
            &plain,
            "kms:CreateKey",
        ),
        (
            "e",
            vec![
                ("kms:ReplicateKey", "us-east-1"),
                ("kms:CreateKey", "eu-west-1"),
                ("kms:TagResource", "us-east-1"),
            ],
            &tagged,
            "kms:TagResource",
        ),
    ] {
        let caller = user(&bench, name, &by_region(&allowed));
        denied(json(&caller, "ReplicateKey", request.clone()), refused);
    }
    let both = by_region(&[("kms:ReplicateKey", "us-east-1"), ("kms:CreateKey", "eu-west-1")]);
    json(&user(&bench, "both", &both), "ReplicateKey", plain).unwrap();
}

#[test]
fn another_primary_is_allowed_by_both_keys_each_in_its_region() {
    let bench = Bench::new();
    bench.kms.create_region(&"eu-west-1".parse().unwrap(), None).unwrap();
    let made = json(&bench.session(), "CreateKey", json!({"MultiRegion": true})).unwrap();
    let key = made["KeyMetadata"]["KeyId"].clone();
    json(&bench.session(), "ReplicateKey", json!({"KeyId": key, "ReplicaRegion": "eu-west-1"})).unwrap();
    let request = json!({"KeyId": key, "PrimaryRegion": "eu-west-1"});
    for (name, place) in [("here", "us-east-1"), ("there", "eu-west-1")] {
        let caller = user(&bench, name, &by_region(&[("kms:UpdatePrimaryRegion", place)]));
        denied(json(&caller, "UpdatePrimaryRegion", request.clone()), "kms:UpdatePrimaryRegion");
    }
    let action = "kms:UpdatePrimaryRegion";
    let both = user(&bench, "both", &by_region(&[(action, "us-east-1"), (action, "eu-west-1")]));
    json(&both, "UpdatePrimaryRegion", request).unwrap();
}
