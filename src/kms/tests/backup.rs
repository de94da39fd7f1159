//! Backups of a home, and homes made out of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::crypto::SecretVec;

fn root() -> Caller {
    Caller::root(ACCOUNT.parse().unwrap())
}

fn backup(bench: &Bench, to: &str, with_root_keys: bool) -> Result<Manifest, HomeError> {
    bench.kms.home().backup(&bench.dir.path().join(to), with_root_keys, &root(), bench.clock.now())
}

fn restore(bench: &Bench, from: &str, to: &str, keys: Option<&Path>) -> Result<Restored, HomeError> {
    let dir = bench.dir.path();
    Home::restore(&dir.join(from), &dir.join(to), keys, None, &root(), bench.clock.now())
}

fn reopened(bench: &Bench, home: &str) -> Session {
    let options = KmsOptions { clock: bench.clock.clone(), ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
    let kms = Kms::open(&bench.dir.path().join(home), options).unwrap();
    kms.root_session(&region()).unwrap()
}

#[test]
fn a_backup_becomes_a_home_with_all_of_its_time_and_nothing_later() {
    let bench = Bench::new();
    bench.kms.create_region(&"eu-west-1".parse().unwrap(), None).unwrap();
    let session = bench.session();
    bench
        .kms
        .identity(root())
        .call(crate::kms::identity::wire::CreateUserRequest {
            user_name: "alice".to_owned(),
            ..Default::default()
        })
        .unwrap();
    let key = make(&session);
    let sealed = encrypt(&session, &key, b"text").unwrap();
    let made = backup(&bench, "b", true).unwrap();
    assert_eq!(made.regions, ["eu-west-1", "us-east-1"]);
    let paths: Vec<_> = made.files.iter().map(|f| f.path.as_str()).collect();
    for name in ["iam/store.db", "iam/root.key", "places.db", "eu-west-1/root.key"] {
        assert!(paths.contains(&name), "{paths:?}");
    }
    assert_eq!(Manifest::read(&bench.dir.path().join("b")).unwrap(), made);
    let later = make(&session);
    // The key is deleted here, and lives on there.
    schedule(&session, &key, 7);
    bench.clock.days(8);
    bench.kms.tick();
    assert!(decrypt(&session, &sealed).is_err());
    assert_eq!(restore(&bench, "b", "again", None).unwrap().without_root_key, Vec::<String>::new());
    let session = reopened(&bench, "again");
    assert_eq!(decrypt(&session, &sealed).unwrap(), b"text");
    assert_eq!(metadata(&session, &key).key_state, KeyState::Enabled);
    let request = DescribeKeyRequest { key_id: later, ..Default::default() };
    assert!(session.call(request).is_err());
    session.verify_log(None).unwrap();
    let kms = Kms::open(&bench.dir.path().join("again"), KmsOptions::new(ACCOUNT.parse().unwrap())).unwrap();
    assert!(kms.caller("alice").is_ok());
    // Both homes know of the backup.
    for home in ["home", "again"] {
        let places = Home::open(&bench.dir.path().join(home)).unwrap().places().unwrap().all().unwrap();
        assert_eq!(places.len(), 1, "{home}");
        assert_eq!((places[0].id.as_str(), places[0].with_root_keys), (made.id.as_str(), true));
        assert_eq!(places[0].first_seen, made.taken.as_millisecond());
    }
    for (path, mode) in
        [("b", 0o700), ("b/us-east-1", 0o700), ("again", 0o700), ("again/iam/root.key", 0o600)]
    {
        let found = fs::metadata(bench.dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}");
    }
}

/// Events of this name in a region's log, newest first: what each tells, and of which region.
fn told(session: &Session, name: &str) -> Vec<(serde_json::Value, String)> {
    let filter = crate::audit::Filter { event_name: Some(name.to_owned()), ..Default::default() };
    let found = session.lookup_events(&filter).unwrap().into_iter();
    found
        .map(|found| {
            assert_eq!(
                (&*found.event.user_identity.kind, found.event.management_event),
                ("Root", true),
                "{found:?}"
            );
            (found.event.request_parameters.unwrap(), found.event.aws_region)
        })
        .collect()
}

#[test]
fn each_region_tells_of_backups_and_of_the_home_that_one_became() {
    let bench = Bench::new();
    let other = "eu-west-1".parse().unwrap();
    bench.kms.create_region(&other, None).unwrap();
    let (here, there) = (bench.session(), bench.kms.root_session(&other).unwrap());
    make(&here);
    let first = backup(&bench, "b", false).unwrap();
    backup(&bench, "c", true).unwrap();
    // What was refused is told to nobody.
    assert!(backup(&bench, "b", true).is_err());
    for session in [&here, &there] {
        let events = told(session, "BackupHome");
        let kept: Vec<_> = events.iter().map(|(told, _)| told["withRootKeys"].as_bool().unwrap()).collect();
        assert_eq!(kept, [true, false]);
        assert_eq!(events[1].0["backupId"], first.id.as_str());
        assert_eq!(events[1].0["location"], bench.dir.path().join("b").to_str().unwrap());
        assert_eq!(events[1].1, session.region().as_str());
        session.verify_log(None).unwrap();
    }
    let home = bench.dir.path().join("home");
    restore(&bench, "b", "again", Some(&home)).unwrap();
    let options = KmsOptions { clock: bench.clock.clone(), ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
    let again = Kms::open(&bench.dir.path().join("again"), options).unwrap();
    for region in [region(), other] {
        let session = again.root_session(&region).unwrap();
        let events = told(&session, "RestoreHome");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0["backupId"], first.id.as_str());
        assert_eq!(events[0].0["taken"], first.taken.to_string());
        // The log is of the moment of the backup, and goes on from there.
        assert_eq!(told(&session, "BackupHome"), []);
        session.verify_log(None).unwrap();
    }
    assert_eq!(told(&here, "RestoreHome"), []);
}

#[test]
fn without_its_root_keys_a_backup_opens_nothing_until_they_are_brought() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let sealed = encrypt(&session, &key, b"text").unwrap();
    backup(&bench, "b", false).unwrap();
    assert!(!bench.dir.path().join("b/us-east-1/root.key").exists());
    assert_eq!(restore(&bench, "b", "bare", None).unwrap().without_root_key, ["us-east-1"]);
    let options = KmsOptions::new(ACCOUNT.parse().unwrap());
    let bare = Kms::open(&bench.dir.path().join("bare"), options).unwrap();
    assert!(matches!(bare.root_session(&region()), Err(HomeError::RootKeyMissing { .. })));
    // A root key of another home is refused, and nothing is made.
    let foreign = Bench::new();
    let refused = restore(&bench, "b", "foreign", Some(&foreign.dir.path().join("home")));
    assert!(matches!(refused, Err(HomeError::OtherRootKey { .. })));
    let left: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("foreign")), "{left:?}");
    restore(&bench, "b", "whole", Some(&bench.dir.path().join("home"))).unwrap();
    assert_eq!(decrypt(&reopened(&bench, "whole"), &sealed).unwrap(), b"text");
}

#[test]
fn what_is_damaged_or_in_the_way_is_refused_and_nothing_is_made() {
    let bench = Bench::new();
    make(&bench.session());
    let dir = bench.dir.path();
    backup(&bench, "b", true).unwrap();
    let text = |result: Result<Restored, HomeError>| result.err().unwrap().to_string();
    assert!(text(restore(&bench, "b", "home", None)).contains("not empty"));
    assert!(text(restore(&bench, "home", "x", None)).contains("no backup"));
    let again = backup(&bench, "b", true);
    assert!(again.err().unwrap().to_string().contains("never written over"));
    let inside = backup(&bench, "home/b", true);
    assert!(inside.err().unwrap().to_string().contains("in the home itself"));
    let manifest = fs::read_to_string(dir.join("b/manifest.json")).unwrap();
    let outside = manifest.replace("us-east-1/root.key", "../us-east-1/root.key");
    for bad in [&outside, &manifest.replace("home_backup\": 1", "home_backup\": 2"), &manifest[..100], ""] {
        fs::write(dir.join("b/manifest.json"), bad).unwrap();
        assert!(text(restore(&bench, "b", "x", None)).contains("manifest.json"), "{bad}");
    }
    fs::write(dir.join("b/manifest.json"), &manifest).unwrap();
    for name in ["us-east-1/store.db", "us-east-1/root.key", "places.db"] {
        let good = fs::read(dir.join("b").join(name)).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(dir.join("b").join(name), bad).unwrap();
        assert!(text(restore(&bench, "b", "x", None)).contains("not what was written"), "{name}");
        fs::write(dir.join("b").join(name), good).unwrap();
    }
    assert!(!dir.join("x").exists());
    // What a killed one left gives way, also with something in it.
    fs::create_dir(dir.join(".x.kmsfs-partial")).unwrap();
    fs::write(dir.join(".x.kmsfs-partial/rest"), "").unwrap();
    restore(&bench, "b", "x", None).unwrap();
    assert!(!dir.join("x/rest").exists() && !dir.join(".x.kmsfs-partial").exists());
}

#[test]
fn a_root_key_under_a_passphrase_is_checked_with_it() {
    let dir = tempfile::tempdir().unwrap();
    Home::open_or_create(&dir.path().join("home")).unwrap();
    let passphrase = SecretVec::new(b"open".to_vec());
    let options =
        KmsOptions { passphrase: Some(passphrase.clone()), ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
    let kms = Kms::open(&dir.path().join("home"), options).unwrap();
    kms.create_region(&region(), Some(&passphrase)).unwrap();
    let now = jiff::Timestamp::now();
    kms.home().backup(&dir.path().join("b"), true, &root(), now).unwrap();
    let (from, to) = (dir.path().join("b"), dir.path().join("x"));
    let restore = |passphrase| Home::restore(&from, &to, None, passphrase, &root(), now);
    assert!(matches!(restore(None), Err(HomeError::RootKey(_))));
    let wrong = SecretVec::new(b"other".to_vec());
    assert!(matches!(restore(Some(&wrong)), Err(HomeError::RootKey(_))));
    restore(Some(&passphrase)).unwrap();
}

/// Two regions are changed together, by intents, while backups are taken: in none is one region ahead of the other in a way
/// that it does not mend, and every key that a backup holds works there.
#[test]
fn backups_that_are_taken_under_load_are_whole() {
    let bench = Bench::new();
    let other = "eu-west-1".parse().unwrap();
    bench.kms.create_region(&other, None).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let session = bench.session();
            while !stop.load(Ordering::Relaxed) {
                let request = CreateKeyRequest { multi_region: Some(true), ..Default::default() };
                let key = session.call(request).unwrap().key_metadata.key_id;
                encrypt(&session, &key, b"x").unwrap();
                let request = ReplicateKeyRequest {
                    key_id: key.clone(),
                    replica_region: other.to_string(),
                    ..Default::default()
                };
                session.call(request).unwrap();
                session.call(RotateKeyOnDemandRequest { key_id: key }).unwrap();
            }
        });
        for round in 0..4 {
            std::thread::sleep(std::time::Duration::from_millis(60));
            backup(&bench, &format!("b{round}"), true).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut replicated = 0;
    for round in 0..4 {
        restore(&bench, &format!("b{round}"), &format!("h{round}"), None).unwrap();
        let options = KmsOptions { clock: bench.clock.clone(), ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
        let kms = Kms::open(&bench.dir.path().join(format!("h{round}")), options).unwrap();
        let (here, there) = (kms.root_session(&region()).unwrap(), kms.root_session(&other).unwrap());
        kms.tick();
        for key in here.call(ListKeysRequest::default()).unwrap().keys {
            let sealed = encrypt(&here, &key.key_id, b"text").unwrap();
            let request = DescribeKeyRequest { key_id: key.key_id, ..Default::default() };
            let replicas = here.call(request).unwrap().key_metadata.multi_region_configuration.unwrap();
            if !replicas.replica_keys.is_empty() {
                replicated += 1;
                assert_eq!(decrypt(&there, &sealed).unwrap(), b"text");
            }
        }
        here.verify_log(None).unwrap();
        there.verify_log(None).unwrap();
    }
    assert!(replicated > 0, "no backup holds a replicated key");
}
