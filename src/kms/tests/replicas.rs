//! Multi-Region keys between the regions of a home.

use super::import::{delete, external, import, import_next, materials};
use super::*;
use crate::audit::Filter;
use crate::crypto::SecretVec;

/// A home of three regions.
struct Three {
    bench: Bench,
}

const OTHERS: [&str; 2] = ["eu-west-1", "ap-south-1"];

impl Three {
    fn new() -> Self {
        let bench = Bench::new();
        for name in OTHERS {
            bench.kms.create_region(&name.parse().unwrap(), None).unwrap();
        }
        Self { bench }
    }

    fn at(&self, region: &str) -> Session {
        self.bench.kms.root_session(&region.parse().unwrap()).unwrap()
    }
}

fn primary(session: &Session) -> String {
    let request = CreateKeyRequest { multi_region: Some(true), ..CreateKeyRequest::default() };
    session.call(request).unwrap().key_metadata.key_id
}

fn replicate(session: &Session, key: &str, region: &str) -> Result<ReplicateKeyResponse, KmsError> {
    session.call(ReplicateKeyRequest {
        key_id: key.to_owned(),
        replica_region: region.to_owned(),
        ..ReplicateKeyRequest::default()
    })
}

fn promote(session: &Session, key: &str, region: &str) -> Result<(), KmsError> {
    session.call(UpdatePrimaryRegionRequest { key_id: key.to_owned(), primary_region: region.to_owned() })
}

fn kind<T>(answer: Result<T, KmsError>) -> Option<KmsErrorKind> {
    answer.err().map(|error| error.kind)
}

/// Type, primary region and replicas' regions, as DescribeKey tells.
fn family(session: &Session, key: &str) -> (&'static str, String, Vec<String>) {
    let told = metadata(session, key).multi_region_configuration.unwrap();
    let replicas = told.replica_keys.into_iter().map(|key| key.region).collect();
    (told.multi_region_key_type, told.primary_key.region, replicas)
}

fn rotate(session: &Session, key: &str) -> Result<(), KmsError> {
    session.call(RotateKeyOnDemandRequest { key_id: key.to_owned() }).map(drop)
}

fn names(session: &Session, event: &str) -> usize {
    let filter = Filter { event_name: Some(event.to_owned()), ..Filter::default() };
    session.lookup_events(&filter).unwrap().len()
}

#[test]
fn a_replica_opens_what_its_primary_sealed_and_the_other_way_round() {
    let three = Three::new();
    let (here, there) = (three.at("us-east-1"), three.at("eu-west-1"));
    let key = primary(&here);
    assert!(key.starts_with("mrk-"), "{key}");
    assert_eq!(family(&here, &key), ("PRIMARY", "us-east-1".to_owned(), vec![]));
    let early = encrypt(&here, &key, b"early").unwrap();
    assert_eq!(kind(decrypt(&there, &early)), Some(KmsErrorKind::AccessDenied));
    let request = ReplicateKeyRequest {
        key_id: key.clone(),
        replica_region: "eu-west-1".to_owned(),
        description: Some("the copy".to_owned()),
        tags: vec![Tag { tag_key: "a".to_owned(), tag_value: "b".to_owned() }],
        ..ReplicateKeyRequest::default()
    };
    let answer = here.call(request).unwrap();
    let told = answer.replica_key_metadata;
    assert_eq!((told.key_state, told.enabled), (KeyState::Enabled, true));
    assert_eq!(told.arn, format!("arn:aws:kms:eu-west-1:{ACCOUNT}:key/{key}"));
    assert_eq!(answer.replica_tags.len(), 1);
    assert!(answer.replica_policy.contains("kms:*"));
    assert_eq!(told, metadata(&there, &key));
    let whole = vec!["eu-west-1".to_owned()];
    assert_eq!(family(&here, &key), ("PRIMARY", "us-east-1".to_owned(), whole.clone()));
    assert_eq!(family(&there, &key), ("REPLICA", "us-east-1".to_owned(), whole));
    assert_eq!(decrypt(&there, &early).unwrap(), b"early");
    let back = encrypt(&there, &key, b"back").unwrap();
    assert_eq!(decrypt(&here, &back).unwrap(), b"back");
    // What is each one's own.
    assert_eq!(metadata(&there, &key).description, "the copy");
    assert_eq!(metadata(&here, &key).description, "");
    disable(&here, &key);
    assert!(decrypt(&there, &early).is_ok());
    assert_eq!((names(&here, "ReplicateKey"), names(&there, "CreateKey")), (1, 1));
    assert!(here.verify_log(None).is_ok() && there.verify_log(None).is_ok());
}

#[test]
fn what_cannot_be_replicated_is_refused() {
    let three = Three::new();
    let (here, there) = (three.at("us-east-1"), three.at("eu-west-1"));
    let (single, key) = (make(&here), primary(&here));
    assert_eq!(kind(replicate(&here, &single, "eu-west-1")), Some(KmsErrorKind::UnsupportedOperation));
    let absent = replicate(&here, &key, "sa-east-1").unwrap_err();
    assert_eq!(absent.kind, KmsErrorKind::NotFound);
    assert!(absent.message.contains("`kmsfs init --region sa-east-1 VOLUME` makes it"), "{}", absent.message);
    assert_eq!(kind(replicate(&here, &key, "us-east-1")), Some(KmsErrorKind::AlreadyExists));
    assert_eq!(kind(replicate(&here, &key, "nowhere")), Some(KmsErrorKind::Validation));
    assert_eq!(kind(replicate(&here, &key, "cn-north-1")), Some(KmsErrorKind::UnsupportedOperation));
    replicate(&here, &key, "eu-west-1").unwrap();
    assert_eq!(kind(replicate(&here, &key, "eu-west-1")), Some(KmsErrorKind::AlreadyExists));
    assert_eq!(kind(replicate(&there, &key, "ap-south-1")), Some(KmsErrorKind::UnsupportedOperation));
    disable(&here, &key);
    assert_eq!(kind(replicate(&here, &key, "ap-south-1")), Some(KmsErrorKind::Disabled));
    // None of it left anything.
    assert_eq!(family(&here, &key).2, ["eu-west-1"]);
}

#[test]
fn a_region_under_another_passphrase_is_named() {
    let bench = Bench::new();
    let other: Region = "eu-west-1".parse().unwrap();
    bench.kms.create_region(&other, Some(&SecretVec::new(b"correct horse".to_vec()))).unwrap();
    let session = bench.session();
    let key = primary(&session);
    let error = replicate(&session, &key, "eu-west-1").unwrap_err();
    assert!(error.message.contains("eu-west-1") && error.message.contains("one passphrase"), "{error}");
    assert_eq!(family(&session, &key).2, Vec::<String>::new());
}

#[test]
fn rotation_of_the_primary_reaches_every_replica() {
    let three = Three::new();
    let (here, there, far) = (three.at("us-east-1"), three.at("eu-west-1"), three.at("ap-south-1"));
    let key = primary(&here);
    replicate(&here, &key, "eu-west-1").unwrap();
    let old = encrypt(&there, &key, b"old").unwrap();
    assert_eq!(kind(rotate(&there, &key)), Some(KmsErrorKind::UnsupportedOperation));
    rotate(&here, &key).unwrap();
    let current = |session: &Session| metadata(session, &key).current_key_material_id.unwrap();
    assert_eq!(current(&there), current(&here));
    // One that comes later has all of them.
    replicate(&here, &key, "ap-south-1").unwrap();
    let new = encrypt(&far, &key, b"new").unwrap();
    for session in [&here, &there, &far] {
        assert_eq!(decrypt(session, &old).unwrap(), b"old");
        assert_eq!(decrypt(session, &new).unwrap(), b"new");
        assert_eq!(materials(session, &key).len(), 2);
        assert_eq!(family(session, &key).2, OTHERS);
    }
    let status = |session: &Session| {
        let status = session.call(GetKeyRotationStatusRequest { key_id: key.clone() }).unwrap();
        (status.key_rotation_enabled, status.rotation_period_in_days, status.next_rotation_date)
    };
    let enable = EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: Some(90) };
    assert_eq!(kind(far.call(enable.clone())), Some(KmsErrorKind::UnsupportedOperation));
    here.call(enable).unwrap();
    assert_eq!(status(&far), status(&here));
    three.bench.clock.days(90);
    three.bench.kms.tick();
    assert_eq!(materials(&here, &key).len(), 3);
    assert_eq!(current(&far), current(&here));
    assert_eq!(status(&there), status(&here));
    assert_eq!(materials(&far, &key)[2].2, Some("AUTOMATIC"));
    here.call(DisableKeyRotationRequest { key_id: key.clone() }).unwrap();
    assert_eq!(status(&there), (false, None, None));
}

#[test]
fn the_primary_moves_to_another_region_with_what_belongs_to_it() {
    let three = Three::new();
    let (here, there, far) = (three.at("us-east-1"), three.at("eu-west-1"), three.at("ap-south-1"));
    let key = primary(&here);
    assert_eq!(kind(promote(&here, &key, "eu-west-1")), Some(KmsErrorKind::NotFound));
    replicate(&here, &key, "eu-west-1").unwrap();
    replicate(&here, &key, "ap-south-1").unwrap();
    here.call(EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: Some(90) }).unwrap();
    assert_eq!(kind(promote(&there, &key, "us-east-1")), Some(KmsErrorKind::UnsupportedOperation));
    disable(&there, &key);
    assert_eq!(kind(promote(&here, &key, "eu-west-1")), Some(KmsErrorKind::Disabled));
    there.call(EnableKeyRequest { key_id: key.clone() }).unwrap();
    promote(&here, &key, "eu-west-1").unwrap();
    let now = ("eu-west-1".to_owned(), vec!["ap-south-1".to_owned(), "us-east-1".to_owned()]);
    for (session, kind) in [(&here, "REPLICA"), (&there, "PRIMARY"), (&far, "REPLICA")] {
        assert_eq!(family(session, &key), (kind, now.0.clone(), now.1.clone()));
        assert_eq!(metadata(session, &key).key_state, KeyState::Enabled);
    }
    assert_eq!(kind(rotate(&here, &key)), Some(KmsErrorKind::UnsupportedOperation));
    rotate(&there, &key).unwrap();
    // By the calendar too, once and in all.
    three.bench.clock.days(90);
    three.bench.kms.tick();
    for session in [&here, &there, &far] {
        assert_eq!(materials(session, &key).len(), 3);
    }
    promote(&there, &key, "us-east-1").unwrap();
    assert_eq!(family(&far, &key).1, "us-east-1");
}

#[test]
fn a_primary_goes_after_its_replicas() {
    let three = Three::new();
    let (here, there, far) = (three.at("us-east-1"), three.at("eu-west-1"), three.at("ap-south-1"));
    let key = primary(&here);
    replicate(&here, &key, "eu-west-1").unwrap();
    replicate(&here, &key, "ap-south-1").unwrap();
    let blob = encrypt(&here, &key, b"x").unwrap();
    let answer = schedule(&here, &key, 10);
    assert_eq!((answer.key_state, answer.deletion_date), (KeyState::PendingReplicaDeletion, None));
    let told = metadata(&here, &key);
    assert_eq!(told.key_state, KeyState::PendingReplicaDeletion);
    assert_eq!((told.pending_deletion_window_in_days, told.deletion_date), (Some(10), None));
    assert!(decrypt(&there, &blob).is_ok());
    // It can be kept.
    here.call(CancelKeyDeletionRequest { key_id: key.clone() }).unwrap();
    assert_eq!(metadata(&here, &key).key_state, KeyState::Disabled);
    schedule(&here, &key, 10);
    assert_eq!(schedule(&there, &key, 7).key_state, KeyState::PendingDeletion);
    three.bench.clock.days(8);
    three.bench.kms.tick();
    assert_eq!(metadata(&here, &key).key_state, KeyState::PendingReplicaDeletion);
    assert_eq!(family(&here, &key).2, ["ap-south-1"]);
    assert_eq!(family(&far, &key).2, ["ap-south-1"]);
    schedule(&far, &key, 7);
    three.bench.clock.days(8);
    three.bench.kms.tick();
    let told = metadata(&here, &key);
    assert_eq!(told.key_state, KeyState::PendingDeletion);
    let days = told.deletion_date.unwrap().duration_since(three.bench.clock.now()).as_hours() / 24;
    assert_eq!(days, 10);
    three.bench.clock.days(11);
    three.bench.kms.tick();
    let gone = DescribeKeyRequest { key_id: key.clone(), ..DescribeKeyRequest::default() };
    assert_eq!(kind(here.call(gone)), Some(KmsErrorKind::NotFound));
}

#[test]
fn a_replica_that_was_deleted_can_be_made_again() {
    let three = Three::new();
    let (here, there) = (three.at("us-east-1"), three.at("eu-west-1"));
    let key = primary(&here);
    replicate(&here, &key, "eu-west-1").unwrap();
    schedule(&there, &key, 7);
    assert_eq!(kind(replicate(&here, &key, "eu-west-1")), Some(KmsErrorKind::AlreadyExists));
    three.bench.clock.days(8);
    three.bench.kms.tick();
    assert_eq!(family(&here, &key).2, Vec::<String>::new());
    replicate(&here, &key, "eu-west-1").unwrap();
    let blob = encrypt(&here, &key, b"x").unwrap();
    assert_eq!(decrypt(&there, &blob).unwrap(), b"x");
}

#[test]
fn two_regions_that_tell_each_other_of_deleted_replicas_come_to_an_end() {
    let three = Three::new();
    let (here, there) = (three.at("us-east-1"), three.at("eu-west-1"));
    let (one, two) = (primary(&here), primary(&there));
    replicate(&here, &one, "eu-west-1").unwrap();
    replicate(&there, &two, "us-east-1").unwrap();
    schedule(&there, &one, 7);
    schedule(&here, &two, 7);
    let stop = |at| {
        for session in [&here, &there] {
            *session.region_service().stops.lock() = at;
        }
    };
    // Both replicas go before either primary hears of it.
    stop(Some("intended"));
    three.bench.clock.days(8);
    three.bench.kms.tick();
    assert_eq!(kind(encrypt(&there, &one, b"x")), Some(KmsErrorKind::NotFound));
    assert_eq!(kind(encrypt(&here, &two, b"x")), Some(KmsErrorKind::NotFound));
    assert_eq!((family(&here, &one).2.len(), family(&there, &two).2.len()), (1, 1));
    stop(None);
    three.bench.kms.tick();
    assert_eq!((family(&here, &one).2.len(), family(&there, &two).2.len()), (0, 0));
}

/// Ends the work over two stores at a place, as if the process were killed there, and begins anew.
fn killed_at(place: &'static str, act: impl Fn(&Session, &str)) -> (Three, String) {
    let three = Three::new();
    let here = three.at("us-east-1");
    let key = primary(&here);
    replicate(&here, &key, "ap-south-1").unwrap();
    *here.region_service().stops.lock() = Some(place);
    act(&here, &key);
    drop(here);
    (three, key)
}

#[test]
fn a_replica_is_whole_in_both_regions_wherever_the_process_ended() {
    for place in ["intended", "carried out"] {
        let (three, key) = killed_at(place, |here, key| {
            let answer = replicate(here, key, "eu-west-1").unwrap().replica_key_metadata;
            let due = if place == "intended" { KeyState::Creating } else { KeyState::Enabled };
            assert_eq!((answer.key_state, answer.enabled), (due, due == KeyState::Enabled));
            // Told by the primary, there or not.
            assert_eq!(family(here, key).2, ["ap-south-1", "eu-west-1"]);
        });
        let kms = three.bench.another();
        let here = kms.root_session(&region()).unwrap();
        let there = kms.root_session(&"eu-west-1".parse().unwrap()).unwrap();
        let far = kms.root_session(&"ap-south-1".parse().unwrap()).unwrap();
        let blob = encrypt(&there, &key, b"x").unwrap();
        for session in [&here, &there, &far] {
            assert_eq!(decrypt(session, &blob).unwrap(), b"x", "{place}");
            assert_eq!(family(session, &key).2, ["ap-south-1", "eu-west-1"], "{place}");
        }
        assert_eq!(names(&there, "CreateKey"), 1, "{place}");
    }
}

#[test]
fn a_replica_that_was_deleted_is_not_made_again_by_an_old_intent() {
    let (three, key) = killed_at("carried out", |here, key| drop(replicate(here, key, "eu-west-1")));
    {
        // Its region goes on alone.
        let there = three.bench.another().root_session(&"eu-west-1".parse().unwrap()).unwrap();
        schedule(&there, &key, 7);
        three.bench.clock.days(8);
        there.region_service().expire().unwrap();
    }
    let kms = three.bench.another();
    let here = kms.root_session(&region()).unwrap();
    let there = kms.root_session(&"eu-west-1".parse().unwrap()).unwrap();
    assert_eq!(kind(encrypt(&there, &key, b"x")), Some(KmsErrorKind::NotFound));
    assert_eq!(family(&here, &key).2, ["ap-south-1"]);
}

#[test]
fn there_is_one_primary_wherever_the_process_ended() {
    for place in ["intended", "carried out"] {
        let (three, key) = killed_at(place, |here, key| {
            promote(here, key, "ap-south-1").unwrap();
            assert_eq!(metadata(here, key).key_state, KeyState::Updating, "{place}");
            // It works on, and cannot be led elsewhere.
            assert!(encrypt(here, key, b"x").is_ok());
            let updating = Some(KmsErrorKind::InvalidState(KeyState::Updating));
            assert_eq!(kind(here.call(DisableKeyRequest { key_id: key.to_owned() })), updating);
            assert_eq!(kind(replicate(here, key, "eu-west-1")), updating);
        });
        let kms = three.bench.another();
        let here = kms.root_session(&region()).unwrap();
        let far = kms.root_session(&"ap-south-1".parse().unwrap()).unwrap();
        assert_eq!(metadata(&here, &key).key_state, KeyState::Enabled, "{place}");
        let due = ("ap-south-1".to_owned(), vec!["us-east-1".to_owned()]);
        assert_eq!(family(&here, &key), ("REPLICA", due.0.clone(), due.1.clone()), "{place}");
        assert_eq!(family(&far, &key), ("PRIMARY", due.0, due.1), "{place}");
        rotate(&far, &key).unwrap();
        assert_eq!(materials(&here, &key).len(), 2);
    }
}

#[test]
fn a_rotation_reaches_a_replica_after_the_process_ended() {
    for place in ["intended", "carried out"] {
        let (three, key) = killed_at(place, |here, key| rotate(here, key).unwrap());
        let kms = three.bench.another();
        let here = kms.root_session(&region()).unwrap();
        let far = kms.root_session(&"ap-south-1".parse().unwrap()).unwrap();
        let blob = encrypt(&here, &key, b"x").unwrap();
        assert_eq!(decrypt(&far, &blob).unwrap(), b"x", "{place}");
        assert_eq!(materials(&far, &key).len(), 2, "{place}");
    }
}

#[test]
fn imported_material_is_each_regions_own_to_import() {
    let three = Three::new();
    let (here, there) = (three.at("us-east-1"), three.at("eu-west-1"));
    let key = external(&here, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", true);
    let first = import(&here, &key, &[1; 32]).unwrap();
    let told = replicate(&here, &key, "eu-west-1").unwrap().replica_key_metadata;
    assert_eq!((told.key_state, told.origin), (KeyState::PendingImport, "EXTERNAL"));
    let blob = encrypt(&here, &key, b"x").unwrap();
    let waits = KmsErrorKind::InvalidState(KeyState::PendingImport);
    assert_eq!(kind(decrypt(&there, &blob)), Some(waits));
    assert_eq!(kind(import(&there, &key, &[2; 32])), Some(KmsErrorKind::IncorrectKeyMaterial));
    assert_eq!(kind(import_next(&there, &key, &[2; 32])), Some(KmsErrorKind::UnsupportedOperation));
    assert_eq!(import(&there, &key, &[1; 32]).unwrap(), first);
    assert_eq!(decrypt(&there, &blob).unwrap(), b"x");
    // New material must be in all of them before it is the current.
    import_next(&here, &key, &[2; 32]).unwrap();
    let state = |session: &Session| materials(session, &key)[1].0;
    assert_eq!(state(&here), "PENDING_MULTI_REGION_IMPORT_AND_ROTATION");
    assert_eq!(materials(&there, &key)[1].1, Some("PENDING_IMPORT"));
    assert_eq!(decrypt(&there, &blob).unwrap(), b"x");
    assert_eq!(kind(rotate(&here, &key)), Some(KmsErrorKind::InvalidState(KeyState::Enabled)));
    import(&there, &key, &[2; 32]).unwrap();
    assert_eq!(state(&here), "PENDING_ROTATION");
    rotate(&here, &key).unwrap();
    let new = encrypt(&there, &key, b"new").unwrap();
    assert_eq!(decrypt(&here, &new).unwrap(), b"new");
    // What was given up goes everywhere; what is deleted in one region stays in the other.
    let third = import_next(&here, &key, &[3; 32]).unwrap();
    import(&there, &key, &[3; 32]).unwrap();
    delete(&here, &key, third.as_deref()).unwrap();
    assert_eq!((materials(&here, &key).len(), materials(&there, &key).len()), (2, 2));
    delete(&there, &key, None).unwrap();
    assert_eq!(metadata(&there, &key).key_state, KeyState::PendingImport);
    assert_eq!(decrypt(&here, &new).unwrap(), b"new");
}

#[test]
fn ordinary_keys_never_leave_their_region() {
    let three = Three::new();
    let (here, there) = (three.at("us-east-1"), three.at("eu-west-1"));
    let key = make(&here);
    assert_eq!(metadata(&here, &key).multi_region_configuration, None);
    let blob = encrypt(&here, &key, b"x").unwrap();
    assert_eq!(kind(promote(&here, &key, "eu-west-1")), Some(KmsErrorKind::UnsupportedOperation));
    assert_eq!(kind(decrypt(&there, &blob)), Some(KmsErrorKind::AccessDenied));
    assert!(there.call(ListKeysRequest::default()).unwrap().keys.is_empty());
}

#[test]
fn policies_see_regions_and_which_key_is_the_primary() {
    let three = Three::new();
    let (here, there) = (three.at("us-east-1"), three.at("eu-west-1"));
    let deny = |action: &str, key: &str, value: &str| {
        serde_json::json!({"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*",
            "Condition": {"StringEquals": {key: value}}})
    };
    let root = format!("arn:aws:iam::{ACCOUNT}:root");
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"},
        deny("kms:ReplicateKey", "kms:ReplicaRegion", "ap-south-1"),
        deny("kms:UpdatePrimaryRegion", "kms:PrimaryRegion", "eu-west-1"),
        deny("kms:Encrypt", "kms:MultiRegionKeyType", "REPLICA"),
    ]})
    .to_string();
    let key = primary(&here);
    let put = |session: &Session| {
        let (key_id, policy) = (key.clone(), policy.clone());
        session.call(PutKeyPolicyRequest { key_id, policy, ..PutKeyPolicyRequest::default() }).unwrap();
    };
    put(&here);
    assert_eq!(kind(replicate(&here, &key, "ap-south-1")), Some(KmsErrorKind::AccessDenied));
    replicate(&here, &key, "eu-west-1").unwrap();
    // The policy is each one's own, and both must allow a move.
    assert!(encrypt(&there, &key, b"x").is_ok());
    assert_eq!(kind(promote(&here, &key, "eu-west-1")), Some(KmsErrorKind::AccessDenied));
    put(&there);
    assert_eq!(kind(encrypt(&there, &key, b"x")), Some(KmsErrorKind::AccessDenied));
    assert!(encrypt(&here, &key, b"x").is_ok());
    let usual = super::policies::DEFAULT.to_owned();
    let request = PutKeyPolicyRequest { key_id: key.clone(), policy: usual, ..Default::default() };
    here.call(request).unwrap();
    assert_eq!(kind(promote(&here, &key, "eu-west-1")), Some(KmsErrorKind::AccessDenied));
}

/// What is tried at random, by the number of a region.
#[derive(Debug, Clone)]
enum Act {
    Replicate(usize, usize),
    Promote(usize, usize),
    Rotate(usize),
    Encrypt(usize),
    Schedule(usize),
    Cancel(usize),
    Wait(i64),
    /// Work over two stores ends at a place in this region from now on, or no more.
    Stop(usize, Option<&'static str>),
}

fn act() -> impl proptest::strategy::Strategy<Value = Act> {
    use proptest::prelude::*;
    let at = || 0..3usize;
    let place = prop_oneof![Just(None), Just(Some("intended")), Just(Some("carried out"))];
    prop_oneof![
        4 => (at(), at()).prop_map(|(a, b)| Act::Replicate(a, b)),
        3 => (at(), at()).prop_map(|(a, b)| Act::Promote(a, b)),
        3 => at().prop_map(Act::Rotate),
        3 => at().prop_map(Act::Encrypt),
        2 => at().prop_map(Act::Schedule),
        1 => at().prop_map(Act::Cancel),
        2 => (1..9i64).prop_map(Act::Wait),
        4 => (at(), place).prop_map(|(a, place)| Act::Stop(a, place)),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Whatever is tried, and wherever the work over two stores ends on the way: once it may go on, all keys that are
    /// there agree, one of them is the primary, and each opens what any of them sealed.
    #[test]
    fn related_keys_agree_in_the_end(acts in proptest::collection::vec(act(), 1..60)) {
        let three = Three::new();
        let sessions = ["us-east-1", OTHERS[0], OTHERS[1]].map(|name| three.at(name));
        let key = primary(&sessions[0]);
        let mut blobs = Vec::new();
        for act in &acts {
            match *act {
                Act::Replicate(a, b) => drop(replicate(&sessions[a], &key, sessions[b].region().as_str())),
                Act::Promote(a, b) => drop(promote(&sessions[a], &key, sessions[b].region().as_str())),
                Act::Rotate(a) => drop(rotate(&sessions[a], &key)),
                Act::Encrypt(a) => blobs.extend(encrypt(&sessions[a], &key, b"x")),
                Act::Schedule(a) => {
                    let request =
                        ScheduleKeyDeletionRequest { key_id: key.clone(), pending_window_in_days: Some(7) };
                    drop(sessions[a].call(request));
                }
                Act::Cancel(a) => {
                    drop(sessions[a].call(CancelKeyDeletionRequest { key_id: key.clone() }));
                    drop(sessions[a].call(EnableKeyRequest { key_id: key.clone() }));
                }
                Act::Wait(days) => {
                    three.bench.clock.days(days);
                    three.bench.kms.tick();
                }
                Act::Stop(a, place) => *sessions[a].region_service().stops.lock() = place,
            }
        }
        for session in &sessions {
            *session.region_service().stops.lock() = None;
        }
        // A message may have to go by way of the region that was the primary before.
        for _ in 0..4 {
            three.bench.kms.tick();
        }
        let told = |session: &Session| {
            let request = DescribeKeyRequest { key_id: key.clone(), ..DescribeKeyRequest::default() };
            session.call(request).ok().map(|answer| answer.key_metadata)
        };
        let there: Vec<_> = sessions.iter().filter_map(|s| told(s).map(|m| (s, m))).collect();
        let mut regions: Vec<_> = there.iter().map(|(s, _)| s.region().to_string()).collect();
        regions.sort();
        let mut primaries = 0;
        for (session, metadata) in &there {
            let family = metadata.multi_region_configuration.as_ref().unwrap();
            primaries += usize::from(family.multi_region_key_type == "PRIMARY");
            let mut named: Vec<_> = family.replica_keys.iter().map(|key| key.region.clone()).collect();
            named.push(family.primary_key.region.clone());
            named.sort();
            proptest::prop_assert_eq!(&named, &regions, "{}", session.region());
            proptest::prop_assert!(metadata.key_state != KeyState::Updating);
            proptest::prop_assert_eq!(materials(session, &key), materials(there[0].0, &key));
            proptest::prop_assert_eq!(&metadata.current_key_material_id, &there[0].1.current_key_material_id);
            if metadata.enabled {
                for blob in &blobs {
                    proptest::prop_assert_eq!(decrypt(session, blob).unwrap(), b"x");
                }
            }
            proptest::prop_assert!(session.verify_log(None).is_ok());
        }
        proptest::prop_assert!(there.is_empty() || primaries == 1, "{} primaries", primaries);
    }
}
