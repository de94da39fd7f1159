//! What is written on keys, and what is known of their use.

use serde_json::json;

use super::*;

fn tags(session: &Session, key_id: &str) -> Vec<(String, String)> {
    let (mut found, mut marker) = (Vec::new(), None);
    loop {
        let request = ListResourceTagsRequest { key_id: key_id.to_owned(), limit: Some(7), marker };
        let page = session.call(request).unwrap();
        assert!(page.tags.len() <= 7);
        assert_eq!(page.truncated, page.next_marker.is_some());
        found.extend(page.tags.into_iter().map(|tag| (tag.tag_key, tag.tag_value)));
        marker = page.next_marker;
        if marker.is_none() {
            return found;
        }
    }
}

fn tag(session: &Session, key_id: &str, pairs: &[(&str, &str)]) -> Result<(), KmsError> {
    let tag = |(k, v): &(&str, &str)| Tag { tag_key: (*k).to_owned(), tag_value: (*v).to_owned() };
    let tags = Some(pairs.iter().map(tag).collect());
    session.call(TagResourceRequest { key_id: key_id.to_owned(), tags })
}

#[test]
fn tags_are_added_changed_taken_away_and_listed_by_pages() {
    let bench = Bench::new();
    let session = bench.session();
    let made = json!({"Tags": [{"TagKey": "z", "TagValue": "1"}, {"TagKey": "a", "TagValue": ""}]});
    let made = json(&session, "CreateKey", made).unwrap();
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(tags(&session, &key), [pair("a", ""), pair("z", "1")]);
    tag(&session, &key, &[("z", "2"), ("\u{e9}\u{4e16}", "\u{754c}")]).unwrap();
    assert_eq!(tags(&session, &key), [pair("a", ""), pair("z", "2"), pair("\u{e9}\u{4e16}", "\u{754c}")]);
    let untag = |names: &[&str]| {
        let tag_keys = Some(names.iter().map(|n| (*n).to_owned()).collect());
        session.call(UntagResourceRequest { key_id: key.clone(), tag_keys })
    };
    untag(&["z", "\u{e9}\u{4e16}", "never"]).unwrap();
    assert_eq!(tags(&session, &key), [pair("a", "")]);
    // Fifty in all, and no more.
    let names: Vec<String> = (0..49).map(|n| format!("n{n:02}")).collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    tag(&session, &key, &pairs).unwrap();
    assert_eq!(tags(&session, &key).len(), 50);
    tag(&session, &key, &[("a", "changed")]).unwrap();
    for (bad, text) in [
        (&[("one more", "")][..], "Too many tags"),
        (&[("a", ""), ("a", "")], "Duplicate tag keys"),
        (&[("aws:x", "")], "Tags beginning with aws: are reserved"),
    ] {
        let error = tag(&session, &key, bad).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (KmsErrorKind::Tag, text));
    }
    assert_eq!(tag(&session, &key, &[(&"x".repeat(129), "")]).unwrap_err().kind, KmsErrorKind::Validation);
    assert_eq!(tag(&session, &key, &[("x", &"x".repeat(257))]).unwrap_err().kind, KmsErrorKind::Validation);
    assert_eq!(tags(&session, &key)[0], pair("a", "changed"));
    // The event spells them as CloudTrail does.
    let filter = crate::audit::Filter { event_name: Some("TagResource".to_owned()), ..Default::default() };
    let events = session.lookup_events(&filter).unwrap();
    let parameters = events.last().unwrap().event.request_parameters.clone().unwrap();
    assert_eq!(parameters["tags"][0], json!({"tagKey": "z", "tagValue": "2"}));
}

#[test]
fn a_description_is_written_anew() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let text = "\u{e9}".repeat(8192);
    for description in [text.as_str(), "of the vault", ""] {
        let request = json!({"KeyId": key, "Description": description});
        assert_eq!(json(&session, "UpdateKeyDescription", request).unwrap(), serde_json::Value::Null);
        assert_eq!(metadata(&session, &key).description, description);
    }
}

#[test]
fn the_last_use_of_a_key_is_told_out_of_the_log() {
    let bench = Bench::new();
    let session = bench.session();
    let (key, other) = (make(&session), make(&session));
    let last = |key: &str| json(&session, "GetKeyLastUsage", json!({"KeyId": key})).unwrap();
    let created = json!(1_800_000_000.0);
    let unused = json!({
        "KeyId": key, "KeyCreationDate": created, "TrackingStartDate": created, "KeyLastUsage": {}
    });
    assert_eq!(last(&key), unused);
    bench.clock.days(1);
    let blob = encrypt(&session, &key, b"x").unwrap();
    bench.clock.days(1);
    let moved = ReEncryptRequest {
        ciphertext_blob: blob.clone(),
        destination_key_id: other.clone(),
        ..ReEncryptRequest::default()
    };
    session.call(moved).unwrap();
    let event = session.lookup_events(&crate::audit::Filter::default()).unwrap().remove(0).event;
    assert_eq!(event.event_name, "ReEncrypt");
    // Looking, refusals, dry runs and changes are no use; nor is what happens to other keys.
    bench.clock.days(1);
    metadata(&session, &key);
    let dry = json!({"KeyId": key, "Plaintext": "eA==", "DryRun": true});
    assert!(json(&session, "Encrypt", dry).is_err());
    disable(&session, &key);
    assert!(decrypt(&session, &blob).is_err());
    let usage = json!({
        "Operation": "ReEncrypt",
        "Timestamp": 1_800_000_000.0 + 2.0 * 86400.0,
        "CloudTrailEventId": event.event_id,
        "KmsRequestId": event.request_id,
    });
    assert_eq!(last(&key)["KeyLastUsage"], usage);
    assert_eq!(last(&other)["KeyLastUsage"], usage);
    encrypt(&session, &other, b"x").unwrap();
    assert_eq!(last(&key)["KeyLastUsage"], usage);
    assert_eq!(last(&other)["KeyLastUsage"]["Operation"], "Encrypt");
    // Also where many later events lie between.
    for _ in 0..600 {
        metadata(&session, &key);
    }
    crate::audit::index(&session.region_service().store, 100).unwrap();
    assert_eq!(last(&key)["KeyLastUsage"], usage);
}

#[test]
fn random_bytes_come_in_the_length_that_was_asked_for() {
    let bench = Bench::new();
    let session = bench.session();
    let mut seen = std::collections::BTreeSet::new();
    for len in [16, 16, 1024] {
        let request = GenerateRandomRequest { number_of_bytes: Some(len), ..Default::default() };
        let bytes = session.call(request).unwrap().plaintext;
        assert_eq!(bytes.len() as i64, len);
        assert!(seen.insert(bytes.expose().to_vec()));
    }
    // The log has the length and nothing of the bytes.
    let found = session.lookup_events(&crate::audit::Filter::default()).unwrap().remove(0);
    assert_eq!(found.event.request_parameters, Some(json!({"numberOfBytes": 1024})));
    assert_eq!(found.event.response_elements, None);
}
