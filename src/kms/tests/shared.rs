//! Several key services on one home, and several threads in one.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn two_services_on_one_home_see_each_others_changes_at_once() {
    let bench = Bench::new();
    let other = bench.another();
    let (one, two) = (bench.session(), other.root_session(&region()).unwrap());
    let key = make(&one);
    alias(&two, "alias/a", &key).unwrap();
    let blob = encrypt(&one, "alias/a", b"x").unwrap();
    // Cached on both sides by now.
    assert_eq!(decrypt(&two, &blob).unwrap(), b"x");
    let before = (one.generation().unwrap(), two.generation().unwrap());
    assert_eq!(before.0, before.1);
    disable(&one, &key);
    assert!(two.generation().unwrap() > before.1);
    assert_eq!(decrypt(&two, &blob).unwrap_err().kind, KmsErrorKind::Disabled);
    two.call(EnableKeyRequest { key_id: key.clone() }).unwrap();
    assert_eq!(decrypt(&one, &blob).unwrap(), b"x");
    let after = one.generation().unwrap();
    two.call(RotateKeyOnDemandRequest { key_id: key.clone() }).unwrap();
    assert!(one.generation().unwrap() > after);
    let rotated = encrypt(&two, &key, b"y").unwrap();
    assert_eq!(decrypt(&one, &rotated).unwrap(), b"y");
    schedule(&one, &key, 7);
    bench.clock.days(7);
    assert_eq!(decrypt(&two, &blob).unwrap_err().kind, KmsErrorKind::AccessDenied);
    assert!(one.verify_log(None).is_ok());
}

#[test]
fn the_generation_moves_with_changes_only() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let moved = |f: &dyn Fn()| {
        let before = session.generation().unwrap();
        f();
        session.generation().unwrap() != before
    };
    assert!(!moved(&|| drop(encrypt(&session, &key, b"x").unwrap())));
    assert!(!moved(&|| drop(metadata(&session, &key))));
    assert!(!moved(&|| drop(encrypt(&session, "alias/none", b"x").unwrap_err())));
    assert!(!moved(&|| drop(alias(&session, "alias/aws/x", &key).unwrap_err())));
    assert!(moved(&|| alias(&session, "alias/x", &key).unwrap()));
    assert!(moved(&|| disable(&session, &key)));
    assert!(moved(&|| drop(make(&session))));
    assert!(moved(&|| drop(session.ensure_managed_key("aws/kmsfs").unwrap())));
    assert!(!moved(&|| drop(session.ensure_managed_key("aws/kmsfs").unwrap())));
}

#[test]
fn a_generation_file_that_is_ahead_behind_or_gone_is_reconciled() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    let path = bench.region_dir().join("generation");
    let number = session.generation().unwrap().unwrap();
    for (file, due) in [(number + 5, number + 5), (0, number + 5)] {
        // As a crash between the file and the commit, and a power cut, leave it.
        std::fs::write(&path, file.to_le_bytes()).unwrap();
        assert_eq!(decrypt(&session, &blob).unwrap(), b"x");
        bench.kms.tick();
        assert_eq!(session.generation().unwrap(), Some(due));
        assert_eq!(decrypt(&session, &blob).unwrap(), b"x");
    }
    disable(&session, &key);
    assert_eq!(session.generation().unwrap(), Some(number + 6));
    std::fs::remove_file(&path).unwrap();
    let again = bench.another().root_session(&region()).unwrap();
    assert_eq!(again.generation().unwrap(), Some(number + 6));
}

#[test]
fn many_threads_and_services_decrypt_while_the_key_goes_on_and_off() {
    let bench = Bench::new();
    let key = make(&bench.session());
    let blob = encrypt(&bench.session(), &key, b"x").unwrap();
    let others = [bench.kms.clone(), bench.another()];
    let until = Instant::now() + Duration::from_millis(800);
    let calls = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for n in 0..6 {
            let session = others[n % 2].root_session(&region()).unwrap();
            let blob = &blob;
            threads.push(scope.spawn(move || {
                let mut calls = 0;
                while Instant::now() < until {
                    match decrypt(&session, blob) {
                        Ok(text) => assert_eq!(text, b"x"),
                        Err(error) => assert_eq!(error.kind, KmsErrorKind::Disabled, "{error}"),
                    }
                    calls += 1;
                }
                calls
            }));
        }
        let session = bench.session();
        while Instant::now() < until {
            disable(&session, &key);
            assert_eq!(decrypt(&session, &blob).unwrap_err().kind, KmsErrorKind::Disabled);
            session.call(EnableKeyRequest { key_id: key.clone() }).unwrap();
            assert!(decrypt(&session, &blob).is_ok());
        }
        threads.into_iter().map(|t| t.join().unwrap()).sum::<usize>()
    });
    // Each call has its event, and the log says of each what the key's state then was.
    let session = bench.session();
    assert!(session.verify_log(None).is_ok());
    let filter = crate::audit::Filter { limit: Some(usize::MAX), ..Default::default() };
    let (mut on, mut decrypts) = (true, 0);
    for found in session.lookup_events(&filter).unwrap().iter().rev() {
        match &*found.event.event_name {
            "EnableKey" => on = true,
            "DisableKey" => on = false,
            "Decrypt" => {
                decrypts += 1;
                assert_eq!(found.event.error_code.is_none(), on, "event {}", found.sequence);
            }
            _ => {}
        }
    }
    assert!(decrypts > calls, "{decrypts} {calls}");
}

#[test]
fn with_a_full_disk_nothing_is_answered_that_is_not_recorded() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    let service = session.region_service();
    service.store.refuse_writes(true);
    let generation = session.generation().unwrap();
    assert_eq!(decrypt(&session, &blob).unwrap_err().kind, KmsErrorKind::Internal);
    assert!(session.call(DisableKeyRequest { key_id: key.clone() }).is_err());
    assert!(session.record(FileEvent::MountVolume { volume_id: "07".to_owned(), epoch: 1 }, true).is_err());
    assert!(session.record(FileEvent::MountVolume { volume_id: "07".to_owned(), epoch: 2 }, false).is_err());
    service.store.refuse_writes(false);
    assert_eq!(decrypt(&session, &blob).unwrap(), b"x");
    assert!(session.generation().unwrap() >= generation);
    assert_eq!(metadata(&session, &key).key_state, KeyState::Enabled);
    session.record(FileEvent::MountVolume { volume_id: "07".to_owned(), epoch: 3 }, false).unwrap();
    assert!(session.verify_log(None).is_ok());
}
