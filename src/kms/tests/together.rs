//! Requests that are decided first and recorded together.

use serde_json::json;

use super::*;
use crate::audit::Filter;
use crate::iam::AccountId;
use crate::store::{Durability, Store};

fn root() -> Caller {
    Caller::root(ACCOUNT.parse::<AccountId>().unwrap())
}

fn decide(session: &Session, id: &str, operation: &str, body: &serde_json::Value) -> Option<Unrecorded> {
    session.for_request(root(), id).decide_json(operation, body.to_string().as_bytes())
}

/// Operation and error of the event with this requestID.
fn event(session: &Session, id: &str) -> Option<(String, Option<String>)> {
    let all = session.lookup_events(&Filter { limit: Some(1000), ..Filter::default() }).unwrap();
    let mut found = all.into_iter().filter(|found| found.event.request_id == id);
    let event = found.next()?.event;
    assert!(found.next().is_none(), "{id} is recorded twice");
    Some((event.event_name.to_string(), event.error_code.map(|code| code.to_string())))
}

fn names(kind: &str, error: Option<&str>) -> Option<(String, Option<String>)> {
    Some((kind.to_owned(), error.map(str::to_owned)))
}

#[test]
fn answers_come_in_order_with_an_event_each() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let mut waiting = Vec::new();
    for n in 0..5 {
        let body = json!({"KeyId": key, "Plaintext": format!("QUFB{n}{n}{n}{n}")});
        waiting.push(decide(&session, &format!("id-{n}"), "Encrypt", &body).unwrap());
    }
    // One that is refused, and one that cannot be read, stand between.
    waiting.insert(
        2,
        decide(&session, "refused", "Encrypt", &json!({"KeyId": "alias/no", "Plaintext": "AA=="})).unwrap(),
    );
    waiting.insert(4, decide(&session, "unread", "Decrypt", &json!([])).unwrap());
    assert_eq!(event(&session, "id-0"), None);
    let answers = Unrecorded::record(waiting);
    assert_eq!(answers.len(), 7);
    let mut good = Vec::new();
    for (at, answer) in answers.into_iter().enumerate() {
        match (at, answer.unwrap()) {
            (2, Err(error)) => assert_eq!(error.kind, KmsErrorKind::NotFound),
            (4, Err(error)) => assert_eq!(error.kind, KmsErrorKind::Serialization),
            (_, answer) => good.push(serde_json::from_slice::<serde_json::Value>(&answer.unwrap()).unwrap()),
        }
    }
    for (n, answer) in good.iter().enumerate() {
        let opened = json(&session, "Decrypt", json!({"CiphertextBlob": answer["CiphertextBlob"]})).unwrap();
        assert_eq!(opened["Plaintext"], format!("QUFB{n}{n}{n}{n}"));
        assert_eq!(event(&session, &format!("id-{n}")), names("Encrypt", None));
    }
    assert_eq!(event(&session, "refused"), names("Encrypt", Some("NotFoundException")));
    assert_eq!(event(&session, "unread"), names("Decrypt", Some("SerializationException")));
    session.verify_log(None).unwrap();
}

#[test]
fn what_was_decided_before_a_change_is_neither_recorded_nor_answered() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let body = json!({"KeyId": key, "Plaintext": "AAAA"});
    let early = decide(&session, "early", "Encrypt", &body).unwrap();
    // By another process.
    disable(&bench.another().root_session(&region()).unwrap(), &key);
    let late = decide(&session, "late", "Encrypt", &body).unwrap();
    let mut answers = Unrecorded::record(vec![early, late]);
    let late = answers.pop().unwrap().unwrap();
    assert_eq!(late.unwrap_err().kind, KmsErrorKind::Disabled);
    assert!(answers.pop().unwrap().is_none());
    assert_eq!(event(&session, "early"), None);
    assert_eq!(event(&session, "late"), names("Encrypt", Some("DisabledException")));
}

#[test]
fn what_cannot_be_recorded_is_not_answered() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let made = decide(&session, "full", "GenerateDataKey", &json!({"KeyId": key, "KeySpec": "AES_256"}));
    session.region_service().store.refuse_writes(true);
    let answers = Unrecorded::record(vec![made.unwrap()]);
    assert_eq!(answers[0].as_ref().unwrap().as_ref().unwrap_err().kind, KmsErrorKind::Internal);
    session.region_service().store.refuse_writes(false);
    assert_eq!(event(&session, "full"), None);
}

#[test]
fn who_may_not_wait_gets_them_back_while_another_writes() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let body = json!({"KeyId": key, "Plaintext": "AAAA"});
    let mut all: Vec<_> =
        ["a", "b"].iter().map(|id| decide(&session, id, "Encrypt", &body).unwrap()).collect();
    all.insert(1, decide(&session, "unread", "Decrypt", &json!([])).unwrap());
    let other = bench.another().root_session(&region()).unwrap();
    let tx = other.region_service().store.write(Durability::Soon).unwrap();
    let all = Unrecorded::try_record(all).err().unwrap();
    drop(tx);
    let answers = Unrecorded::try_record(all).ok().unwrap();
    let good: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().is_ok()).collect();
    assert_eq!(good, [true, false, true]);
    for (id, due) in [("a", names("Encrypt", None)), ("b", names("Encrypt", None))] {
        assert_eq!(event(&session, id), due);
    }
    assert_eq!(event(&session, "unread"), names("Decrypt", Some("SerializationException")));
    session.verify_log(None).unwrap();
}

#[test]
fn changes_and_what_takes_long_are_not_decided_so() {
    let bench = Bench::new();
    let session = bench.session();
    for operation in ["CreateKey", "ListKeys", "GenerateDataKeyPair", "Sign", "NoSuchThing"] {
        assert!(decide(&session, "other", operation, &json!({})).is_none(), "{operation}");
    }
    for (operation, algorithm) in [
        ("Encrypt", "EncryptionAlgorithm"),
        ("Decrypt", "EncryptionAlgorithm"),
        ("ReEncrypt", "SourceEncryptionAlgorithm"),
        ("ReEncrypt", "DestinationEncryptionAlgorithm"),
    ] {
        let mut body = json!({"KeyId": "alias/pair", "SourceKeyId": "alias/pair", "DestinationKeyId": "alias/pair",
            "Plaintext": "AAAA", "CiphertextBlob": "AAAA"});
        body[algorithm] = json!("RSAES_OAEP_SHA_256");
        assert!(decide(&session, "other", operation, &body).is_none(), "{operation}");
    }
    assert_eq!(event(&session, "other"), None);
    let keys = json(&session, "ListKeys", json!({})).unwrap();
    assert_eq!(keys["Keys"], json!([]));
    // A key that is due must be deleted first, which takes a transaction of its own.
    let key = make(&session);
    let blob = encrypt(&session, &key, b"text").unwrap();
    schedule(&session, &key, 7);
    bench.clock.days(8);
    let body = json!({"KeyId": key, "Plaintext": "AAAA"});
    assert!(decide(&session, "due", "Encrypt", &body).is_none());
    assert_eq!(event(&session, "due"), None);
    assert_eq!(decrypt(&session, &blob).unwrap_err().kind, KmsErrorKind::AccessDenied);
}

#[test]
fn requests_of_several_regions_are_recorded_each_in_its_own() {
    let bench = Bench::new();
    let other: Region = "eu-central-1".parse().unwrap();
    bench.kms.create_region(&other, None).unwrap();
    let sessions = [bench.session(), bench.kms.root_session(&other).unwrap()];
    let random = json!({"NumberOfBytes": 8});
    let one = |at: usize, id: &str| decide(&sessions[at], id, "GenerateRandom", &random).unwrap();
    let answers = Unrecorded::record(vec![one(0, "a"), one(1, "b"), one(1, "c"), one(0, "d")]);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().is_ok()));
    for (at, id) in [(0, "a"), (1, "b"), (1, "c"), (0, "d")] {
        assert_eq!(event(&sessions[at], id), names("GenerateRandom", None));
        assert_eq!(event(&sessions[1 - at], id), None);
    }
}
