//! Events of IAM and STS beside a region's: where they are shown, in which order, and how they are verified and exported.

use serde_json::{Value, json};

use super::*;
use crate::audit::{AuditError, ExportOptions, Filter};
use crate::kms::identity::IdentitySession;
use crate::store::Store;

const OTHER: &str = "111122223333";

fn root(bench: &Bench, account: &str) -> IdentitySession {
    bench.kms.identity(Caller::root(account.parse().unwrap()))
}

fn user(bench: &Bench, name: &str) {
    root(bench, ACCOUNT).call_json("CreateUser", json!({"UserName": name})).unwrap();
}

fn seconds(bench: &Bench, seconds: i64) {
    *bench.clock.0.lock() += SignedDuration::from_secs(seconds);
}

fn look(session: &Session, body: &Value) -> Value {
    let answer = session.call_trail_json("LookupEvents", &serde_json::to_vec(body).unwrap()).unwrap();
    serde_json::from_slice(&answer).unwrap()
}

fn at(bench: &Bench, region: &str) -> Session {
    bench.kms.root_session(&region.parse().unwrap()).unwrap()
}

fn names(session: &Session, filter: &Filter) -> Vec<String> {
    let found = session.lookup_events(filter).unwrap();
    found.into_iter().map(|found| found.event.event_name.into_owned()).collect()
}

#[test]
fn events_of_iam_stand_among_the_regions_by_their_time() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    seconds(&bench, 1);
    user(&bench, "alice");
    seconds(&bench, 1);
    encrypt(&session, &key, b"x").unwrap();
    seconds(&bench, 1);
    user(&bench, "bob");
    // Another account's are its own.
    root(&bench, OTHER).call_json("CreateUser", json!({"UserName": "eve"})).unwrap();
    let all = Filter::default();
    assert_eq!(names(&session, &all), ["CreateUser", "Encrypt", "CreateUser", "CreateKey"]);
    let two = Filter { limit: Some(2), ..Filter::default() };
    assert_eq!(names(&session, &two), ["CreateUser", "Encrypt"]);
    let created = Filter { event_name: Some("CreateUser".to_owned()), ..Filter::default() };
    assert_eq!(names(&session, &created).len(), 2);
    let found = look(&session, &json!({}));
    let found: Vec<_> = found["Events"].as_array().unwrap().iter().map(|e| e["EventName"].clone()).collect();
    assert_eq!(found, ["CreateUser", "Encrypt", "CreateUser", "CreateKey"]);
    let attribute = json!([{"AttributeKey": "EventSource", "AttributeValue": "iam.amazonaws.com"}]);
    let found = look(&session, &json!({"LookupAttributes": attribute}));
    assert_eq!(found["Events"].as_array().unwrap().len(), 2);
    assert_eq!(found["Events"][0]["EventSource"], "iam.amazonaws.com");
}

#[test]
fn events_of_iam_are_shown_in_one_region() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hand::new();
    Home::open_or_create(&dir.path().join("home")).unwrap();
    let kms = open(&dir, &clock);
    let bench = Bench { dir, clock, kms };
    let make = |name: &str| bench.kms.create_region(&name.parse().unwrap(), None).unwrap();
    make("eu-west-1");
    make("eu-central-1");
    user(&bench, "alice");
    let shown = |region: &str| names(&at(&bench, region), &Filter::default()).len();
    let trails = |region: &str| {
        let answer = at(&bench, region).call_trail_json("DescribeTrails", b"{}").unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        answer["trailList"].as_array().unwrap().iter().map(|trail| trail["Name"].clone()).collect::<Vec<_>>()
    };
    // The first by name, as long as there is no us-east-1.
    assert_eq!((shown("eu-central-1"), shown("eu-west-1")), (1, 0));
    assert_eq!(look(&at(&bench, "eu-west-1"), &json!({}))["Events"], json!([]));
    make("us-east-1");
    assert_eq!((shown("eu-central-1"), shown("eu-west-1"), shown("us-east-1")), (0, 1, 1));
    assert_eq!((trails("us-east-1").len(), trails("eu-central-1")), (2, vec![json!("kmsfs")]));
    let status =
        at(&bench, "us-east-1").call_trail_json("GetTrailStatus", br#"{"Name": "kmsfs-iam"}"#).unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["StartLoggingTime"], json!(1_800_000_000.0));
    assert!(at(&bench, "eu-west-1").call_trail_json("GetTrailStatus", br#"{"Name": "kmsfs-iam"}"#).is_err());
}

#[test]
fn pages_over_both_logs_have_each_event_once_and_newest_first() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let iam = root(&bench, ACCOUNT);
    // Bursts of both, some at the same time.
    for round in 0..60 {
        for _ in 0..(round * 7) % 13 {
            encrypt(&session, &key, b"x").unwrap();
        }
        for _ in 0..(round * 5) % 11 {
            iam.call_json("ListUsers", json!({})).unwrap();
        }
        seconds(&bench, i64::from(round % 3));
    }
    let count = |store: &dyn Store| crate::audit::head(&*store.read().unwrap()).unwrap().sequence as usize;
    let store = &session.region_service().store;
    let identities = session.region_service().identities.get().unwrap().unwrap();
    let all = count(store) + count(&identities.store);
    assert!(all > 600, "{all}");
    for indexed in [false, true] {
        while indexed && crate::audit::index(store, 10).unwrap() {}
        while indexed && crate::audit::index(&identities.store, 10).unwrap() {}
        let before = count(store) + count(&identities.store);
        for size in [1, 7, 50] {
            // What looking itself adds is newer than the first page.
            let due = count(store) + count(&identities.store);
            let (mut token, mut seen, mut pages) = (Value::Null, Vec::new(), 0);
            loop {
                let mut request = json!({"MaxResults": size});
                if !token.is_null() {
                    request["NextToken"] = token;
                }
                let page = look(&session, &request);
                let events = page["Events"].as_array().unwrap();
                assert!(events.len() <= size);
                seen.extend(
                    events.iter().map(|e| {
                        (e["EventTime"].as_f64().unwrap(), e["EventId"].as_str().unwrap().to_owned())
                    }),
                );
                pages += 1;
                token = page["NextToken"].clone();
                if token.is_null() {
                    break;
                }
            }
            assert!(seen.windows(2).all(|pair| pair[0].0 >= pair[1].0), "{size}");
            let ids: std::collections::BTreeSet<_> = seen.iter().map(|(_, id)| id).collect();
            assert_eq!((ids.len(), seen.len()), (due, due), "{size} after {before}");
            assert!(pages >= due / size, "{pages}");
        }
    }
}

#[test]
fn a_log_that_was_not_looked_through_holds_back_what_is_older() {
    use crate::audit::{Found, Page, merge};
    let bench = Bench::new();
    let session = bench.session();
    make(&session);
    let event = session.lookup_events(&Filter::default()).unwrap().remove(0);
    let found = |list: &[(u64, i64)]| {
        let one = |(sequence, time): &(u64, i64)| {
            let mut event = event.event.clone();
            event.event_time = Timestamp::from_second(*time).unwrap();
            Found { sequence: *sequence, event, json: String::new() }
        };
        list.iter().map(one).collect::<Vec<_>>()
    };
    let merged = |one: (&[(u64, i64)], Option<u64>), other: (&[(u64, i64)], Option<u64>), limit| {
        let pages = [one, other].map(|(list, next)| Page { found: found(list), next });
        let (found, places) = merge(pages, limit);
        (found.into_iter().map(|f| f.sequence).collect::<Vec<_>>(), places)
    };
    // The first log's page ended before it found more: only what is newer than its last is sure.
    assert_eq!(
        merged((&[(9, 50)], Some(3)), (&[(8, 60), (7, 40)], None), 10),
        (vec![8, 9], [Some(3), Some(8)])
    );
    assert_eq!(merged((&[], Some(3)), (&[(8, 60)], None), 10), (vec![], [Some(3), Some(9)]));
    // The limit, ties, and the end.
    assert_eq!(merged((&[(9, 50)], None), (&[(8, 50), (7, 40)], None), 2), (vec![9, 8], [None, Some(8)]));
    assert_eq!(merged((&[], None), (&[(1, 50)], None), 10), (vec![1], [None, None]));
}

#[test]
fn both_logs_are_verified_each_with_its_pinned_head() {
    let bench = Bench::new();
    let session = bench.session();
    assert_eq!(session.identity_log_head().unwrap(), None);
    assert_eq!(session.verify_identity_log(None).unwrap(), None);
    user(&bench, "alice");
    let head = session.identity_log_head().unwrap().unwrap();
    user(&bench, "bob");
    let end = session.verify_identity_log(Some(head)).unwrap().unwrap();
    assert_eq!((head.sequence, end.sequence), (1, 2));
    assert_eq!(session.identity_log_head().unwrap(), Some(end));
    let other = crate::audit::ChainHead { hash: [7; 32], ..head };
    assert!(matches!(session.verify_identity_log(Some(other)), Err(AuditError::Head { sequence: 1 })));
    // A directory that is gone has lost what was pinned.
    drop(session);
    let Bench { dir, clock, kms } = bench;
    drop(kms);
    std::fs::remove_dir_all(dir.path().join("home/iam")).unwrap();
    let session = open(&dir, &clock).root_session(&region()).unwrap();
    assert!(matches!(session.verify_identity_log(Some(head)), Err(AuditError::Head { sequence: 1 })));
}

#[test]
fn both_logs_are_exported_side_by_side_and_neither_takes_the_others_files() {
    let bench = Bench::new();
    let session = bench.session();
    make(&session);
    let out = bench.dir.path().join("out");
    let options = ExportOptions::default();
    bench.clock.days(1);
    assert_eq!(session.export_identity_log(&out, &options).unwrap(), None);
    user(&bench, "alice");
    root(&bench, OTHER).call_json("CreateUser", json!({"UserName": "eve"})).unwrap();
    for round in 0..3 {
        seconds(&bench, 3600);
        let own = session.export_log(&out, &options).unwrap();
        let iam = session.export_identity_log(&out, &options).unwrap().unwrap();
        assert_eq!((own.events, iam.events), (u64::from(round == 0), 1), "{round}");
        assert_eq!(Some(iam.head), session.identity_log_head().unwrap());
        user(&bench, &format!("user{round}"));
    }
    let mut files = Vec::new();
    let mut folders = vec![out];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let logs: Vec<_> = files.iter().filter(|f| !f.to_str().unwrap().contains("CloudTrail-Digest")).collect();
    assert_eq!(logs.len(), 4, "{logs:?}");
    let of_iam = |path: &&&PathBuf| path.file_name().unwrap().to_str().unwrap().contains("Z_I");
    assert_eq!(logs.iter().filter(of_iam).count(), 3);
}
