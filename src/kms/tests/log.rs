//! What the log tells, and who sees it.

use serde_json::json;

use super::*;
use crate::audit::{ChainHead, Filter, Found};

fn all(session: &Session) -> Vec<Found> {
    let filter = Filter { limit: Some(usize::MAX), ..Filter::default() };
    session.lookup_events(&filter).unwrap()
}

fn find(session: &Session, filter: Filter) -> Vec<u64> {
    session.lookup_events(&filter).unwrap().into_iter().map(|f| f.sequence).collect()
}

#[test]
fn every_call_leaves_one_event_allowed_or_not() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let blob = session
        .encrypt(&key, b"a plaintext that must not be in the log", &context(&[("file", "9")]))
        .unwrap()
        .ciphertext;
    disable(&session, &key);
    assert!(session.decrypt(None, &blob, &context(&[("file", "9")])).is_err());
    assert!(json(&session, "DescribeKey", json!({"KeyId": 5})).is_err());
    let found = all(&session);
    let told: Vec<(&str, Option<&str>, bool)> = found
        .iter()
        .rev()
        .map(|f| (&*f.event.event_name, f.event.error_code.as_deref(), f.event.read_only))
        .collect();
    assert_eq!(
        told,
        [
            ("CreateKey", None, false),
            ("Encrypt", None, true),
            ("DisableKey", None, false),
            ("Decrypt", Some("DisabledException"), true),
            ("DescribeKey", Some("SerializationException"), true),
        ]
    );
    let encrypt: serde_json::Value = serde_json::from_str(&found[3].json).unwrap();
    let arn = metadata(&session, &key).arn;
    assert_eq!(encrypt["eventVersion"], "1.11");
    assert_eq!(encrypt["eventTime"], "2027-01-15T08:00:00Z");
    assert_eq!(encrypt["eventSource"], "kms.amazonaws.com");
    assert_eq!(encrypt["userIdentity"]["arn"], format!("arn:aws:iam::{ACCOUNT}:root"));
    assert_eq!(encrypt["userIdentity"]["invokedBy"], "kmsfs");
    assert_eq!(encrypt["requestParameters"]["encryptionContext"], json!({"file": "9"}));
    assert_eq!(encrypt["responseElements"], serde_json::Value::Null);
    assert_eq!(encrypt["additionalEventData"]["keyMaterialId"].as_str().unwrap().len(), 64);
    assert_eq!(encrypt["resources"], json!([{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": arn}]));
    let change: serde_json::Value = serde_json::from_str(&found[2].json).unwrap();
    assert_eq!(change["responseElements"], json!({"keyId": arn}));
    let made: serde_json::Value = serde_json::from_str(&found[4].json).unwrap();
    assert_eq!(made["responseElements"], json!({"keyId": arn}));
    let text: String = found.iter().map(|f| f.json.as_str()).collect();
    assert!(!text.contains("must not be in the log"));
    assert!(session.verify_log(None).is_ok());
}

#[test]
fn the_service_records_what_it_does_by_itself() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    session.call(RotateKeyOnDemandRequest { key_id: key.clone() }).unwrap();
    schedule(&session, &key, 7);
    bench.clock.days(7);
    bench.kms.tick();
    session.ensure_managed_key("aws/kmsfs").unwrap();
    let own: Vec<String> = all(&session)
        .into_iter()
        .filter(|f| f.event.event_type == "AwsServiceEvent")
        .map(|f| f.event.event_name.into_owned())
        .collect();
    assert_eq!(own, ["CreateKey", "DeleteKey", "RotateKey"]);
}

#[test]
fn events_are_found_by_time_key_name_principal_and_failure() {
    let bench = Bench::new();
    let session = bench.session();
    let keys = [make(&session), make(&session), make(&session)];
    let blobs: Vec<_> = keys.iter().map(|k| encrypt(&session, k, b"x").unwrap()).collect();
    let start = bench.clock.now();
    for n in 0..700 {
        match n % 7 {
            6 => drop(encrypt(&session, "alias/none", b"x").unwrap_err()),
            _ => drop(decrypt(&session, &blobs[n % 3]).unwrap()),
        }
        if n % 100 == 99 {
            bench.clock.days(1);
        }
    }
    let whole = all(&session);
    assert_eq!(whole.len(), 706);
    let arn = metadata(&session, &keys[1]).arn;
    let day = |n: i64| Some(start + SignedDuration::from_hours(24 * n));
    let filters = [
        Filter { key: Some(arn.clone()), ..Filter::default() },
        Filter { errors_only: true, ..Filter::default() },
        Filter { event_name: Some("CreateKey".to_owned()), ..Filter::default() },
        Filter { principal: Some(format!("arn:aws:iam::{ACCOUNT}:root")), ..Filter::default() },
        Filter { start: day(2), end: day(3), ..Filter::default() },
        Filter { start: day(1), key: Some(arn), event_name: Some("Decrypt".to_owned()), ..Filter::default() },
        Filter { event_name: Some("Nothing".to_owned()), ..Filter::default() },
    ];
    let judge = |filter: &Filter| -> Vec<u64> {
        let good = |f: &&Found| {
            let e = &f.event;
            filter.key.as_ref().is_none_or(|k| e.resources.iter().any(|r| r.arn == *k))
                && (!filter.errors_only || e.error_code.is_some())
                && filter.event_name.as_ref().is_none_or(|n| *n == e.event_name)
                && filter.start.is_none_or(|t| e.event_time >= t)
                && filter.end.is_none_or(|t| e.event_time <= t)
        };
        whole.iter().filter(good).map(|f| f.sequence).collect()
    };
    let service = crate::store::SqliteStore::open(&bench.region_dir().join("store.db")).unwrap();
    for indexed in [false, true] {
        if indexed {
            while crate::audit::index(&service, 1).unwrap() {}
        }
        for filter in &filters {
            for limit in [1, 3, 1000] {
                let mut due = judge(filter);
                due.truncate(limit);
                let found = find(&session, Filter { limit: Some(limit), ..filter.clone() });
                // What DescribeKey above added is newer than all.
                let found: Vec<u64> = found.into_iter().filter(|s| *s <= 706).collect();
                assert!(due.starts_with(&found) && found.len() + 1 >= due.len(), "{filter:?} {limit}");
            }
        }
    }
    // By id instead of ARN.
    assert!(!find(&session, Filter { key: Some(keys[0].clone()), ..Filter::default() }).is_empty());
}

#[test]
fn events_about_files_are_in_the_same_log() {
    let bench = Bench::new();
    let session = bench.session();
    let key_arn = session.ensure_managed_key("aws/kmsfs").unwrap();
    let open = |n: u32| FileEvent::OpenFile {
        volume_id: "07".to_owned(),
        file_id: format!("{n:02}"),
        key_arn: key_arn.clone(),
        uid: 1000 + n,
    };
    session.record(FileEvent::MountVolume { volume_id: "07".to_owned(), epoch: 3 }, true).unwrap();
    for n in 0..5 {
        session.record(open(n), false).unwrap();
    }
    let damaged =
        FileEvent::DamagedFile { volume_id: "07".to_owned(), file_id: None, what: "page 3".to_owned() };
    session.record(damaged, false).unwrap();
    drop(session);
    drop(bench.kms);
    // Another process sees what the first one left when it ended.
    let session = open_again(&bench.dir, &bench.clock);
    let found = all(&session);
    let names: Vec<&str> = found.iter().map(|f| &*f.event.event_name).collect();
    assert_eq!(
        names,
        [
            "DamagedFile",
            "OpenFile",
            "OpenFile",
            "OpenFile",
            "OpenFile",
            "OpenFile",
            "MountVolume",
            "CreateKey"
        ]
    );
    let event = &found[1].event;
    assert_eq!((&*event.event_category, event.management_event), ("Data", false));
    assert_eq!(event.additional_event_data.as_ref().unwrap().uid, Some(1004));
    assert_eq!(event.request_parameters, Some(json!({"volumeId": "07", "fileId": "04"})));
    assert_eq!(find(&session, Filter { key: Some(key_arn), ..Filter::default() }).len(), 6);
    assert!(session.verify_log(None).is_ok());
}

fn open_again(dir: &tempfile::TempDir, clock: &Arc<Hand>) -> Session {
    super::open(dir, clock).root_session(&region()).unwrap()
}

#[test]
fn a_cut_or_changed_log_is_found_also_after_it_went_on() {
    use crate::store::{Durability, SqliteStore, Store};
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    for _ in 0..5 {
        encrypt(&session, &key, b"x").unwrap();
    }
    let pinned = session.verify_log(None).unwrap();
    assert_eq!(ChainHead::parse(&pinned.to_string()), Some(pinned));
    // Closing signs the head.
    drop(session);
    drop(bench.kms);
    {
        let store = SqliteStore::open(&bench.dir.path().join("home/us-east-1/store.db")).unwrap();
        let mut tx = store.write(Durability::Soon).unwrap();
        assert!(tx.delete("audit#", &pinned.sequence.to_be_bytes()).unwrap());
        tx.commit().unwrap();
    }
    let session = open_again(&bench.dir, &bench.clock);
    assert!(session.verify_log(None).is_err());
    for _ in 0..5 {
        encrypt(&session, &key, b"x").unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(2500));
    // The head was not signed over what is gone.
    assert!(session.verify_log(None).is_err());
    assert!(session.verify_log(Some(pinned)).is_err());
}

#[test]
fn the_head_is_signed_while_the_service_runs() {
    let bench = Bench::new();
    let session = bench.session();
    make(&session);
    let store = crate::store::SqliteStore::open(&bench.region_dir().join("store.db")).unwrap();
    let signed = || {
        let tx = crate::store::Store::read(&store).unwrap();
        tx.get("audit-head", b"").unwrap().is_some()
    };
    let start = std::time::Instant::now();
    while !signed() {
        assert!(start.elapsed().as_secs() < 10, "the head was never signed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
