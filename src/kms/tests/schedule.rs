//! Rotation by schedule.

use super::*;
use crate::audit::Filter;

fn enable_rotation(session: &Session, key_id: &str, days: Option<i64>) {
    let request = EnableKeyRotationRequest { key_id: key_id.to_owned(), rotation_period_in_days: days };
    session.call(request).unwrap();
}

fn enable(session: &Session, key_id: &str) {
    session.call(EnableKeyRequest { key_id: key_id.to_owned() }).unwrap();
}

/// The next date in days from now.
fn next(bench: &Bench, session: &Session, key_id: &str) -> Option<i64> {
    let status = session.call(GetKeyRotationStatusRequest { key_id: key_id.to_owned() }).unwrap();
    assert_eq!(status.key_rotation_enabled, status.next_rotation_date.is_some());
    assert_eq!(status.key_rotation_enabled, status.rotation_period_in_days.is_some());
    status.next_rotation_date.map(|date| date.duration_since(bench.clock.now()).as_hours() / 24)
}

/// How each material after the first came.
fn rotations(session: &Session, key_id: &str) -> Vec<&'static str> {
    let request = ListKeyRotationsRequest { key_id: key_id.to_owned(), ..Default::default() };
    session.call(request).unwrap().rotations.into_iter().filter_map(|entry| entry.rotation_type).collect()
}

#[test]
fn a_key_rotates_on_its_date_and_again_a_period_later() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    assert_eq!(next(&bench, &session, &key), None);
    enable_rotation(&session, &key, None);
    assert_eq!(next(&bench, &session, &key), Some(365));
    let old = encrypt(&session, &key, b"old").unwrap();
    bench.clock.days(364);
    bench.kms.tick();
    assert!(rotations(&session, &key).is_empty());
    bench.clock.days(1);
    bench.kms.tick();
    bench.another().root_session(&region()).unwrap();
    assert_eq!(rotations(&session, &key), ["AUTOMATIC"]);
    assert_eq!(next(&bench, &session, &key), Some(365));
    let new = encrypt(&session, &key, b"new").unwrap();
    assert_ne!(old[18..50], new[18..50]);
    assert_eq!(decrypt(&session, &old).unwrap(), b"old");
    bench.clock.days(365);
    bench.kms.tick();
    assert_eq!(rotations(&session, &key), ["AUTOMATIC", "AUTOMATIC"]);
    // Each by the service itself.
    let filter = Filter { event_name: Some("RotateKey".to_owned()), ..Filter::default() };
    let events = session.lookup_events(&filter).unwrap();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|found| found.event.event_type == "AwsServiceEvent"));
    assert_eq!(events[0].event.event_time, bench.clock.now());
    let details: serde_json::Value = serde_json::from_str(&events[0].json).unwrap();
    let due = serde_json::json!({"rotationType": "AUTOMATIC", "keyId": key});
    assert_eq!(details["serviceEventDetails"], due);
    assert!(session.verify_log(None).is_ok());
}

#[test]
fn after_downtime_a_key_rotates_once_and_the_next_date_counts_from_then() {
    let bench = Bench::new();
    let key = make(&bench.session());
    enable_rotation(&bench.session(), &key, Some(90));
    let dir = bench.dir;
    drop(bench.kms);
    bench.clock.days(1000);
    let kms = open(&dir, &bench.clock);
    let session = kms.root_session(&region()).unwrap();
    assert_eq!(rotations(&session, &key), ["AUTOMATIC"]);
    let bench = Bench { dir, clock: bench.clock, kms };
    assert_eq!(next(&bench, &session, &key), Some(90));
}

#[test]
fn the_keepers_thread_rotates_by_itself() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    enable_rotation(&session, &key, Some(90));
    bench.clock.days(90);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while rotations(&session, &key).is_empty() {
        assert!(std::time::Instant::now() < until, "the thread did not rotate a key that was due");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_rotation_on_demand_leaves_the_schedule_alone() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    enable_rotation(&session, &key, Some(100));
    bench.clock.days(60);
    session.call(RotateKeyOnDemandRequest { key_id: key.clone() }).unwrap();
    assert_eq!(next(&bench, &session, &key), Some(40));
    bench.clock.days(40);
    bench.kms.tick();
    assert_eq!(rotations(&session, &key), ["ON_DEMAND", "AUTOMATIC"]);
    let filter = Filter { event_name: Some("RotateKey".to_owned()), ..Filter::default() };
    let events = session.lookup_events(&filter).unwrap();
    let how = |at: usize| events[at].event.service_event_details.clone().unwrap().rotation_type;
    assert_eq!((how(1), how(0)), ("ON_DEMAND".into(), "AUTOMATIC".into()));
    // Nor does the schedule count among the rotations on demand.
    assert!(session.call(RotateKeyOnDemandRequest { key_id: key.clone() }).is_ok());
}

#[test]
fn a_disabled_key_rotates_when_it_is_enabled_if_its_date_has_passed() {
    let bench = Bench::new();
    let session = bench.session();
    let (late, early) = (make(&session), make(&session));
    for key in [&late, &early] {
        enable_rotation(&session, key, Some(100));
        disable(&session, key);
    }
    bench.clock.days(50);
    enable(&session, &early);
    assert!(rotations(&session, &early).is_empty());
    assert_eq!(next(&bench, &session, &early), Some(50));
    bench.clock.days(60);
    bench.kms.tick();
    assert_eq!(rotations(&session, &early), ["AUTOMATIC"]);
    assert!(rotations(&session, &late).is_empty());
    assert_eq!(next(&bench, &session, &late), Some(-10));
    enable(&session, &late);
    assert_eq!(rotations(&session, &late), ["AUTOMATIC"]);
    assert_eq!(next(&bench, &session, &late), Some(100));
    bench.kms.tick();
    assert_eq!(rotations(&session, &late), ["AUTOMATIC"]);
    let current = metadata(&session, &late).current_key_material_id;
    let blob = encrypt(&session, &late, b"x").unwrap();
    assert_eq!(Some(hex::encode(&blob[18..50])), current);
    assert!(session.verify_log(None).is_ok());
}

#[test]
fn a_pending_deletion_suspends_the_schedule_and_ends_it() {
    let bench = Bench::new();
    let session = bench.session();
    let (kept, gone) = (make(&session), make(&session));
    for key in [&kept, &gone] {
        enable_rotation(&session, key, Some(90));
    }
    bench.clock.days(80);
    schedule(&session, &kept, 30);
    schedule(&session, &gone, 30);
    assert_eq!(next(&bench, &session, &kept), None);
    bench.clock.days(20);
    bench.kms.tick();
    assert!(rotations(&session, &kept).is_empty());
    session.call(CancelKeyDeletionRequest { key_id: kept.clone() }).unwrap();
    assert_eq!(next(&bench, &session, &kept), Some(-10));
    bench.kms.tick();
    assert!(rotations(&session, &kept).is_empty());
    enable(&session, &kept);
    assert_eq!(rotations(&session, &kept), ["AUTOMATIC"]);
    bench.clock.days(10);
    bench.kms.tick();
    let tx = crate::store::Store::read(&session.region_service().store).unwrap();
    assert_eq!(rows::schedule(&*tx, &gone.parse().unwrap()).unwrap(), None);
}

#[test]
fn a_schedule_is_changed_from_where_it_counted_and_taken_away() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    enable_rotation(&session, &key, Some(200));
    bench.clock.days(150);
    // The same again moves nothing: a script that makes sure of it each day would put the date off for ever.
    enable_rotation(&session, &key, Some(200));
    assert_eq!(next(&bench, &session, &key), Some(50));
    enable_rotation(&session, &key, Some(300));
    assert_eq!(next(&bench, &session, &key), Some(150));
    enable_rotation(&session, &key, Some(100));
    bench.kms.tick();
    assert_eq!(rotations(&session, &key), ["AUTOMATIC"]);
    assert_eq!(next(&bench, &session, &key), Some(100));
    let off = || session.call(DisableKeyRotationRequest { key_id: key.clone() }).unwrap();
    off();
    off();
    assert_eq!(next(&bench, &session, &key), None);
    bench.clock.days(3000);
    bench.kms.tick();
    assert_eq!(rotations(&session, &key).len(), 1);
    let status = json(&session, "GetKeyRotationStatus", serde_json::json!({"KeyId": key})).unwrap();
    assert_eq!(status, serde_json::json!({"KeyId": key, "KeyRotationEnabled": false}));
}

#[test]
fn a_managed_key_rotates_every_year() {
    let bench = Bench::new();
    let session = bench.session();
    let arn = session.ensure_managed_key("aws/kmsfs").unwrap();
    assert_eq!(next(&bench, &session, &arn), Some(365));
    let made = session.generate_data_key(&arn, &context(&[])).unwrap();
    for year in 1..4 {
        bench.clock.days(365);
        bench.kms.tick();
        assert_eq!(rotations(&session, &arn).len(), year);
    }
    assert!(session.decrypt(Some(&arn), &made.ciphertext, &context(&[])).is_ok());
}
