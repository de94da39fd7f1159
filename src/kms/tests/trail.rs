//! CloudTrail's operations on the log.

use serde_json::{Value, json};

use super::*;
use crate::store::Store;

fn look(session: &Session, operation: &str, body: Value) -> Result<Value, KmsError> {
    let answer = session.call_trail_json(operation, &serde_json::to_vec(&body).unwrap())?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

fn names(answer: &Value) -> Vec<&str> {
    answer["Events"].as_array().unwrap().iter().map(|event| event["EventName"].as_str().unwrap()).collect()
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"LookupAttributes": [{"AttributeKey": key, "AttributeValue": value}]})
}

#[test]
fn events_are_found_newest_first_with_what_cloudtrail_tells() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    encrypt(&session, &key, b"x").unwrap();
    session.record(FileEvent::MountVolume { volume_id: "00".to_owned(), epoch: 1 }, true).unwrap();
    let found = look(&session, "LookupEvents", json!({})).unwrap();
    // What happens to files is no management event.
    assert_eq!(names(&found), ["Encrypt", "CreateKey"]);
    let event = &found["Events"][0];
    let arn = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{key}");
    assert_eq!(event["Resources"], json!([{"ResourceType": "AWS::KMS::Key", "ResourceName": arn}]));
    assert_eq!((&event["Username"], &event["ReadOnly"]), (&json!("root"), &json!("true")));
    assert_eq!(
        (&event["EventSource"], &event["EventTime"]),
        (&json!("kms.amazonaws.com"), &json!(1_800_000_000.0))
    );
    let whole: Value = serde_json::from_str(event["CloudTrailEvent"].as_str().unwrap()).unwrap();
    assert_eq!(whole["eventID"], event["EventId"]);
    // Looking is itself recorded.
    let looked = &look(&session, "LookupEvents", json!({"MaxResults": 1})).unwrap()["Events"][0];
    assert_eq!(
        (&looked["EventName"], &looked["EventSource"]),
        (&json!("LookupEvents"), &json!("cloudtrail.amazonaws.com"))
    );
}

#[test]
fn each_attribute_finds_its_events() {
    let bench = Bench::new();
    let session = bench.session();
    let (one, other) = (make(&session), make(&session));
    encrypt(&session, &one, b"x").unwrap();
    encrypt(&session, &other, b"x").unwrap();
    let all = look(&session, "LookupEvents", json!({})).unwrap();
    let id = all["Events"][1]["EventId"].as_str().unwrap();
    let arn = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{one}");
    for (key, value, expected) in [
        ("EventId", id, vec!["Encrypt"]),
        ("EventName", "CreateKey", vec!["CreateKey", "CreateKey"]),
        ("ReadOnly", "false", vec!["CreateKey", "CreateKey"]),
        ("ResourceName", one.as_str(), vec!["Encrypt", "CreateKey"]),
        ("ResourceName", arn.as_str(), vec!["Encrypt", "CreateKey"]),
        ("ResourceType", "AWS::S3::Bucket", vec![]),
        ("Username", "nobody", vec![]),
        ("AccessKeyId", "AKIAIOSFODNN7EXAMPLE", vec![]),
    ] {
        let found = look(&session, "LookupEvents", attribute(key, value)).unwrap();
        assert_eq!(names(&found), expected, "{key} {value}");
    }
    let found = look(&session, "LookupEvents", attribute("EventSource", "kms.amazonaws.com")).unwrap();
    assert_eq!(names(&found), ["Encrypt", "Encrypt", "CreateKey", "CreateKey"]);
    let found = look(&session, "LookupEvents", attribute("Username", "root")).unwrap();
    assert!(names(&found).len() > 8, "{found}");
}

#[test]
fn pages_follow_one_another_to_the_end_over_many_blocks() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    for _ in 0..700 {
        encrypt(&session, &key, b"x").unwrap();
    }
    let store = &session.region_service().store;
    while crate::audit::index(store, 10).unwrap() {}
    for name in ["Encrypt", "CreateKey"] {
        let (mut found, mut token, mut pages) = (0, Value::Null, 0);
        loop {
            let mut request = attribute("EventName", name);
            request["MaxResults"] = json!(47);
            if !token.is_null() {
                request["NextToken"] = token;
            }
            let page = look(&session, "LookupEvents", request).unwrap();
            found += names(&page).len();
            pages += 1;
            token = page["NextToken"].clone();
            if token.is_null() {
                break;
            }
        }
        let expected = if name == "Encrypt" { (700, 15) } else { (1, 1) };
        assert_eq!((found, pages), expected, "{name}");
    }
}

#[test]
fn a_search_that_looks_at_much_goes_on_where_it_ended() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    for _ in 0..600 {
        encrypt(&session, &key, b"x").unwrap();
    }
    let store = &session.region_service().store;
    for indexed in [false, true] {
        while indexed && crate::audit::index(store, 10).unwrap() {}
        let filter = crate::audit::Filter::default();
        let made = |event: &crate::audit::Event, _: &[u8]| event.event_name == "CreateKey";
        let (mut before, mut found, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = crate::audit::page(&*store.read().unwrap(), &filter, &made, before, 100).unwrap();
            found.extend(page.found);
            pages += 1;
            match page.next {
                Some(next) => {
                    assert!(before.is_none_or(|b| next < b), "{before:?} {next}");
                    before = Some(next);
                }
                None => break,
            }
        }
        assert_eq!((found.len(), found[0].sequence), (1, 1), "indexed {indexed}");
        assert!(pages >= 2, "{pages}");
    }
}

#[test]
fn times_bound_a_search() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    bench.clock.days(1);
    encrypt(&session, &key, b"x").unwrap();
    let day = 86_400.0;
    let at = |start: f64, end: f64| json!({"StartTime": 1_800_000_000.0 + start, "EndTime": 1_800_000_000.0 + end});
    assert_eq!(names(&look(&session, "LookupEvents", at(0.0, 10.0)).unwrap()), ["CreateKey"]);
    assert_eq!(names(&look(&session, "LookupEvents", at(day - 10.0, day - 1.0)).unwrap()), [""; 0]);
    // Further back than ninety days nothing is told.
    bench.clock.days(100);
    assert_eq!(names(&look(&session, "LookupEvents", json!({"StartTime": 0})).unwrap()), [""; 0]);
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let bench = Bench::new();
    let session = bench.session();
    make(&session);
    let two = json!({"LookupAttributes": [
        {"AttributeKey": "EventName", "AttributeValue": "a"},
        {"AttributeKey": "EventName", "AttributeValue": "b"},
    ]});
    let token = look(&session, "LookupEvents", json!({"MaxResults": 1})).unwrap()["NextToken"].clone();
    for (operation, body, name) in [
        ("LookupEvents", json!({"MaxResults": 51}), "InvalidMaxResultsException"),
        ("LookupEvents", json!({"MaxResults": 0}), "InvalidMaxResultsException"),
        ("LookupEvents", two, "InvalidLookupAttributesException"),
        ("LookupEvents", attribute("Colour", "red"), "InvalidLookupAttributesException"),
        ("LookupEvents", json!({"EventCategory": "x"}), "InvalidEventCategoryException"),
        ("LookupEvents", json!({"NextToken": "x"}), "InvalidNextTokenException"),
        ("LookupEvents", json!({"NextToken": token, "StartTime": 1}), "InvalidNextTokenException"),
        ("LookupEvents", json!({"StartTime": 2, "EndTime": 1}), "InvalidTimeRangeException"),
        ("LookupEvents", json!({"StartTime": 1e300}), "ValidationException"),
        ("ListPublicKeys", json!({"StartTime": 2, "EndTime": 1}), "InvalidTimeRangeException"),
        ("ListPublicKeys", json!({"NextToken": "x"}), "InvalidTokenException"),
        ("GetTrailStatus", json!({"Name": "other"}), "TrailNotFoundException"),
        ("GetTrailStatus", json!({}), "ValidationException"),
        ("CreateTrail", json!({}), "UnknownOperationException"),
        ("LookupEvents", json!({"LookupAttributes": 3}), "SerializationException"),
    ] {
        assert_eq!(
            look(&session, operation, body.clone()).unwrap_err().kind.name(),
            name,
            "{operation} {body}"
        );
    }
}

#[test]
fn the_log_is_a_trail() {
    let bench = Bench::new();
    let session = bench.session();
    make(&session);
    let arn = format!("arn:aws:cloudtrail:us-east-1:{ACCOUNT}:trail/kmsfs");
    for names in [json!([]), json!(["kmsfs"]), json!([arn])] {
        let trails = look(&session, "DescribeTrails", json!({"trailNameList": names})).unwrap();
        assert_eq!(trails["trailList"][0]["TrailARN"], json!(arn));
        assert_eq!(trails["trailList"][0]["LogFileValidationEnabled"], json!(true));
    }
    let none = look(&session, "DescribeTrails", json!({"trailNameList": ["other"]})).unwrap();
    assert_eq!(none, json!({"trailList": []}));
    let status = look(&session, "GetTrailStatus", json!({"Name": "kmsfs"})).unwrap();
    assert_eq!((&status["IsLogging"], &status["StartLoggingTime"]), (&json!(true), &json!(1_800_000_000.0)));
    assert_eq!(look(&session, "ListPublicKeys", json!({})).unwrap(), json!({"PublicKeyList": []}));
}

#[test]
fn another_user_needs_a_policy_to_look() {
    let bench = Bench::new();
    let user = Caller {
        principal: crate::iam::Principal::User {
            account: ACCOUNT.parse().unwrap(),
            name: "alice".to_owned(),
        },
        ..Caller::root(ACCOUNT.parse().unwrap())
    };
    let session = bench.kms.session(user, &region()).unwrap();
    let error = look(&session, "LookupEvents", json!({})).unwrap_err();
    assert_eq!(error.kind, KmsErrorKind::AccessDenied);
    assert!(error.message.contains("cloudtrail:LookupEvents"), "{}", error.message);
}
