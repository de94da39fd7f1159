//! The account's log for others, and the service's own key that signs it.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::audit::{ExportError, ExportOptions, Filter};
use crate::store::{Durability, SqliteStore, Store};

fn export(session: &Session, bench: &Bench) -> Result<crate::audit::Exported, ExportError> {
    session.export_log(&bench.dir.path().join("out"), &ExportOptions::default())
}

#[test]
fn a_log_is_exported_by_whichever_process_and_goes_on() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    bench.clock.days(1);
    encrypt(&session, &key, b"x").unwrap();
    bench.clock.days(1);
    let done = export(&session, &bench).unwrap();
    assert_eq!((done.digests, done.events), (48, 2));
    let other = bench.another();
    let again = other.root_session(&region()).unwrap();
    encrypt(&again, &key, b"x").unwrap();
    bench.clock.days(1);
    let done = export(&again, &bench).unwrap();
    assert_eq!((done.digests, done.events), (24, 1));
    assert_eq!(session.log_head().unwrap(), done.head);
    assert_eq!(session.verify_log(Some(done.head)).unwrap(), done.head);
    // One key signs all of it.
    assert_eq!(session.digest_public_keys(Some(Timestamp::UNIX_EPOCH), None).unwrap().len(), 1);
}

#[test]
fn the_key_that_signs_is_the_services_own() {
    let bench = Bench::new();
    let session = bench.session();
    assert_eq!(session.digest_public_keys(None, None).unwrap(), []);
    make(&session);
    bench.clock.days(1);
    export(&session, &bench).unwrap();
    assert_eq!(json(&session, "ListKeys", json!({})).unwrap()["Keys"].as_array().unwrap().len(), 1);
    assert_eq!(json(&session, "ListAliases", json!({})).unwrap()["Aliases"], json!([]));
    let filter = Filter { event_name: Some("CreateKey".to_owned()), ..Filter::default() };
    assert_eq!(session.lookup_events(&filter).unwrap().len(), 1);
    let keys = session.digest_public_keys(None, None).unwrap();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    // SEQUENCE { INTEGER of 257 bytes, INTEGER 65537 }: PKCS#1, without X.509's frame.
    assert_eq!(key.value.len(), 270);
    assert_eq!(key.value[..6], [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82]);
    let told = serde_json::to_value(key).unwrap();
    let fields: BTreeSet<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["Fingerprint", "ValidityEndTime", "ValidityStartTime", "Value"].into());
    // Sealed: nothing of the store's files says it, and another root key does not open it.
    let store = SqliteStore::open(&bench.region_dir().join("store.db")).unwrap();
    let row = store.read().unwrap().get("owned", &[b"digest", &[0; 4][..]].concat()).unwrap().unwrap();
    let pkcs8 = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    assert!(!row.windows(pkcs8.len()).any(|w| w == pkcs8));
    let mut tx = store.write(Durability::Soon).unwrap();
    let mut changed = row;
    *changed.last_mut().unwrap() ^= 1;
    tx.put("owned", &[b"digest", &[0; 4][..]].concat(), &changed).unwrap();
    tx.commit().unwrap();
    bench.clock.days(1);
    assert!(matches!(export(&session, &bench), Err(ExportError::Key(_))));
}

#[test]
fn the_service_makes_a_new_signing_key_each_year_and_lists_those_of_a_time() {
    let bench = Bench::new();
    let session = bench.session();
    make(&session);
    let start = bench.clock.now();
    bench.clock.days(1);
    export(&session, &bench).unwrap();
    let from = |days: i64| ExportOptions {
        since: Some(start + SignedDuration::from_hours(24 * days)),
        ..ExportOptions::default()
    };
    bench.clock.days(364);
    for (out, since) in [("a", 364), ("b", 364)] {
        session.export_log(&bench.dir.path().join(out), &from(since)).unwrap();
    }
    bench.clock.days(2);
    session.export_log(&bench.dir.path().join("a"), &ExportOptions::default()).unwrap();
    let keys = |from: i64, to: i64| {
        let at = |days: i64| Some(start + SignedDuration::from_hours(24 * days));
        let keys = session.digest_public_keys(at(from), at(to)).unwrap();
        keys.into_iter().map(|key| key.fingerprint).collect::<Vec<_>>()
    };
    assert_eq!(keys(0, 367).len(), 2);
    assert_eq!(keys(0, 364), keys(0, 367)[..1]);
    assert_eq!(keys(366, 367), keys(0, 367)[1..]);
    assert_eq!(keys(-9, -8).len(), 0);
    assert_eq!(session.digest_public_keys(None, None).unwrap().len(), 1);
    // What the first key signed is still taken up.
    session.export_log(&bench.dir.path().join("b"), &ExportOptions::default()).unwrap();
    assert_eq!(keys(0, 367).len(), 2);
}
