//! What a client that does everything right gets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::bed::{ACCOUNT, Bed, OTHER_ID, exchange};

#[test]
fn a_key_is_made_and_used() {
    let bed = Bed::new();
    let made = bed.done("CreateKey", &json!({"Description": "over HTTP"}));
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    let alias = json!({"AliasName": "alias/one", "TargetKeyId": key});
    // AWS answers nothing to CreateAlias.
    let nothing = bed.ask("CreateAlias", &alias).send(&bed);
    assert_eq!((nothing.status, nothing.body.len()), (200, 0));
    let context = json!({"app": "mail"});
    let plaintext = STANDARD.encode("hunter2");
    let sealed = bed.done(
        "Encrypt",
        &json!({"KeyId": "alias/one", "Plaintext": plaintext, "EncryptionContext": context}),
    );
    let opened = bed
        .done("Decrypt", &json!({"CiphertextBlob": sealed["CiphertextBlob"], "EncryptionContext": context}));
    assert_eq!(opened["Plaintext"], plaintext);
    assert_eq!(opened["KeyId"], format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{key}"));
}

#[test]
fn the_event_tells_who_called_from_where_and_the_answers_request_id() {
    let bed = Bed::new();
    let answer = bed.ask("ListKeys", &json!({})).send(&bed);
    assert_eq!(answer.get("content-type"), "application/x-amz-json-1.1");
    let found = bed.session().lookup_events(&kmsfs::audit::Filter::default()).unwrap();
    let event: Value = serde_json::from_str(&found[0].json).unwrap();
    assert_eq!(event["requestID"], answer.get("x-amzn-requestid"));
    assert_eq!(event["sourceIPAddress"], "127.0.0.1");
    assert_eq!(event["userAgent"], "test/1");
    assert_eq!(event["userIdentity"]["arn"], format!("arn:aws:iam::{ACCOUNT}:root"));
    // A refusal has its event too.
    let refused = bed.ask("DescribeKey", &json!({"KeyId": "alias/none"})).send(&bed);
    refused.is_error(400, "NotFoundException");
    let found = bed.session().lookup_events(&kmsfs::audit::Filter::default()).unwrap();
    let event: Value = serde_json::from_str(&found[0].json).unwrap();
    assert_eq!(event["requestID"], refused.get("x-amzn-requestid"));
    assert_eq!(event["errorCode"], "NotFoundException");
}

#[test]
fn one_connection_serves_many_requests_and_callers() {
    let bed = Bed::new();
    let mut stream = bed.connect();
    for _ in 0..5 {
        let answer = exchange(&mut stream, &bed.ask("CreateKey", &json!({})).bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut other = bed.ask("ListKeys", &json!({}));
        other.id = OTHER_ID.to_owned();
        // Another account sees nothing of it.
        assert_eq!(exchange(&mut stream, &other.bytes()).json()["Keys"], json!([]));
    }
    assert_eq!(bed.done("ListKeys", &json!({}))["Keys"].as_array().unwrap().len(), 5);
}

#[test]
fn what_the_key_service_refuses_is_a_400_with_its_name() {
    let bed = Bed::new();
    let key = bed.done("CreateKey", &json!({}))["KeyMetadata"]["KeyId"].clone();
    bed.done("DisableKey", &json!({"KeyId": key}));
    for (operation, body, name) in [
        ("Encrypt", json!({"KeyId": key, "Plaintext": "AA=="}), "DisabledException"),
        ("Encrypt", json!({"KeyId": "alias/none", "Plaintext": "AA=="}), "NotFoundException"),
        ("Encrypt", json!({"KeyId": key, "Plaintext": ""}), "ValidationException"),
        ("Encrypt", json!({"KeyId": key, "Plaintext": "not base64"}), "SerializationException"),
        ("Encrypt", json!({"KeyId": 7}), "SerializationException"),
        ("Encrypt", json!([]), "SerializationException"),
        ("Decrypt", json!({"CiphertextBlob": "AAAA"}), "InvalidCiphertextException"),
        ("Obliterate", json!({}), "UnknownOperationException"),
        ("", json!({}), "UnknownOperationException"),
        ("CreateCustomKeyStore", json!({}), "UnsupportedOperationException"),
    ] {
        let message = bed.ask(operation, &body).send(&bed).is_error(400, name);
        assert!(!message.is_empty(), "{operation} {body}");
    }
    let mut other = bed.ask(
        "DescribeKey",
        &json!({"KeyId": format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{}", key.as_str().unwrap())}),
    );
    other.id = OTHER_ID.to_owned();
    other.send(&bed).is_error(400, "AccessDeniedException");
}

#[test]
fn cloudtrail_answers_on_the_same_port() {
    let bed = Bed::new();
    bed.done("CreateKey", &json!({}));
    for target in ["com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101", "CloudTrail_20131101"] {
        let mut ask =
            bed.ask("", &json!({"MaxResults": 2})).header("X-Amz-Target", &format!("{target}.LookupEvents"));
        ask.scope[2] = "cloudtrail".to_owned();
        let found = ask.send(&bed);
        assert_eq!(found.status, 200, "{}", found.text());
        let names: Vec<_> =
            found.json()["Events"].as_array().unwrap().iter().map(|e| e["EventName"].clone()).collect();
        assert!(names.contains(&json!("CreateKey")), "{names:?}");
        let mut wrong = ask.clone();
        wrong.scope[2] = "kms".to_owned();
        wrong.send(&bed).is_error(400, "InvalidSignatureException");
    }
    let mut unknown = bed.ask("", &json!({})).header("X-Amz-Target", "CloudTrail_20131101.StopLogging");
    unknown.scope[2] = "cloudtrail".to_owned();
    unknown.send(&bed).is_error(400, "UnknownOperationException");
}

#[test]
fn a_region_that_is_made_later_is_served() {
    let bed = Bed::new();
    let mut ask = bed.ask("ListKeys", &json!({}));
    ask.scope[1] = "eu-west-1".to_owned();
    let message = ask.send(&bed).is_error(400, "InvalidSignatureException");
    assert!(message.contains("this key service has us-east-1"), "{message}");
    bed.kms.create_region(&"eu-west-1".parse().unwrap(), None).unwrap();
    assert_eq!(ask.send(&bed).json()["Keys"], json!([]));
    ask.scope[1] = "nowhere".to_owned();
    ask.send(&bed).is_error(400, "InvalidSignatureException");
}

#[test]
fn health_and_metrics_are_told_without_a_signature() {
    let bed = Bed::new();
    bed.is_well();
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        exchange(&mut bed.connect(), request.as_bytes())
    };
    assert_eq!(get("/healthz").text(), "200 ok\n");
    let metrics = get("/metrics").text();
    assert!(
        metrics.contains("kmsfs_requests_total{service=\"kms\",operation=\"ListKeys\",result=\"ok\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("kmsfs_request_duration_seconds_count{service=\"kms\",operation=\"ListKeys\"} 1")
    );
    assert!(metrics.contains("kmsfs_connections "));
    assert_eq!(get("/nothing").status, 404);
    assert_eq!(get("/").status, 405);
}
