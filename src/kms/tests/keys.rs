//! Operations, states, names, errors.

use serde_json::json;

use super::*;
use crate::crypto::SecretVec;
use crate::iam::AccountId;

fn kind<T>(answer: Result<T, KmsError>) -> Option<KmsErrorKind> {
    answer.err().map(|error| error.kind)
}

fn message<T>(answer: Result<T, KmsError>) -> String {
    answer.err().unwrap().message
}

#[test]
fn a_key_encrypts_and_decrypts_under_each_of_its_names() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    alias(&session, "alias/vault", &key).unwrap();
    let arn = metadata(&session, &key).arn;
    let alias_arn = "arn:aws:kms:us-east-1:000000000000:alias/vault";
    for name in [key.as_str(), &arn, "alias/vault", alias_arn] {
        let blob = encrypt(&session, name, b"secret").unwrap();
        assert_eq!(decrypt(&session, &blob).unwrap(), b"secret");
        let within = DecryptRequest {
            ciphertext_blob: blob,
            key_id: Some(name.to_owned()),
            ..DecryptRequest::default()
        };
        let answer = session.call(within).unwrap();
        assert_eq!(answer.key_id, arn);
        assert_eq!(answer.key_material_id, metadata(&session, &key).current_key_material_id);
    }
}

#[test]
fn a_ciphertext_opens_under_its_own_key_and_context_only() {
    let bench = Bench::new();
    let session = bench.session();
    let (key, other) = (make(&session), make(&session));
    let pairs = context(&[("volume", "7"), ("file", "9")]);
    let request = EncryptRequest {
        key_id: key.clone(),
        plaintext: SecretVec::new(b"secret".to_vec()),
        encryption_context: pairs.clone(),
        ..EncryptRequest::default()
    };
    let blob = session.call(request).unwrap().ciphertext_blob;
    let ask = |blob: &[u8], key_id: Option<&str>, pairs: &EncryptionContext| {
        kind(session.call(DecryptRequest {
            ciphertext_blob: blob.to_vec(),
            key_id: key_id.map(str::to_owned),
            encryption_context: pairs.clone(),
            ..DecryptRequest::default()
        }))
    };
    assert_eq!(ask(&blob, None, &pairs), None);
    assert_eq!(ask(&blob, Some(&other), &pairs), Some(KmsErrorKind::IncorrectKey));
    assert_eq!(ask(&blob, None, &context(&[("volume", "7")])), Some(KmsErrorKind::InvalidCiphertext));
    assert_eq!(ask(b"nonsense", None, &pairs), Some(KmsErrorKind::InvalidCiphertext));
    assert_eq!(ask(&[], None, &pairs), Some(KmsErrorKind::Validation));
    // A claim to another key's name, and to another material.
    let foreign = encrypt(&session, &other, b"other").unwrap();
    let mut claimed = blob.clone();
    claimed[2..18].copy_from_slice(&foreign[2..18]);
    assert_eq!(ask(&claimed, None, &pairs), Some(KmsErrorKind::InvalidCiphertext));
    claimed[18..50].copy_from_slice(&foreign[18..50]);
    assert_eq!(ask(&claimed, None, &pairs), Some(KmsErrorKind::InvalidCiphertext));
    // A key that never was: one answer for unknown, foreign and forbidden.
    claimed[2] ^= 1;
    assert_eq!(ask(&claimed, None, &pairs), Some(KmsErrorKind::AccessDenied));
}

#[test]
fn a_waiting_period_ends_with_the_key_or_is_cancelled() {
    let bench = Bench::new();
    let session = bench.session();
    let (going, staying) = (make(&session), make(&session));
    let blob = encrypt(&session, &going, b"x").unwrap();
    alias(&session, "alias/going", &going).unwrap();
    let answer = schedule(&session, &going, 7);
    assert_eq!(answer.key_state, KeyState::PendingDeletion);
    assert_eq!(metadata(&session, &going).deletion_date, answer.deletion_date);
    schedule(&session, &staying, 7);
    bench.clock.days(6);
    session.call(CancelKeyDeletionRequest { key_id: staying.clone() }).unwrap();
    assert_eq!(metadata(&session, &staying).key_state, KeyState::Disabled);
    bench.clock.days(1);
    // Nobody ticked: the operation itself sees that the time has come.
    let gone = DescribeKeyRequest { key_id: going.clone(), ..Default::default() };
    assert_eq!(
        message(session.call(gone)),
        format!("Key 'arn:aws:kms:us-east-1:{ACCOUNT}:key/{going}' does not exist")
    );
    assert_eq!(kind(decrypt(&session, &blob)), Some(KmsErrorKind::AccessDenied));
    assert_eq!(kind(encrypt(&session, "alias/going", b"x")), Some(KmsErrorKind::NotFound));
    bench.clock.days(60);
    bench.kms.tick();
    assert_eq!(session.call(ListKeysRequest::default()).unwrap().keys.len(), 1);
    // The default window.
    let answer =
        session.call(ScheduleKeyDeletionRequest { key_id: staying.clone(), pending_window_in_days: None });
    assert_eq!(answer.unwrap().pending_window_in_days, 30);
    for days in [6, 31] {
        let request =
            ScheduleKeyDeletionRequest { key_id: staying.clone(), pending_window_in_days: Some(days) };
        assert_eq!(kind(session.call(request)), Some(KmsErrorKind::Validation));
    }
}

#[test]
fn nothing_is_left_of_a_deleted_keys_material() {
    let bench = Bench::new();
    let session = bench.session();
    let keys: Vec<String> = (0..40).map(|_| make(&session)).collect();
    for round in 0..6 {
        for key in &keys {
            session.call(RotateKeyOnDemandRequest { key_id: key.clone() }).unwrap();
            if round == 0 {
                encrypt(&session, key, b"x").unwrap();
            }
        }
    }
    let sealed = |key: &str| -> Vec<Vec<u8>> {
        let service = crate::store::SqliteStore::open(&bench.region_dir().join("store.db")).unwrap();
        let tx = crate::store::Store::read(&service).unwrap();
        let rows = rows::materials(&*tx, &key.parse().unwrap()).unwrap();
        rows.into_iter().map(|(_, row)| row.sealed).collect()
    };
    let found = |needle: &[u8]| {
        std::fs::read_dir(bench.region_dir()).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            bytes.windows(needle.len()).any(|w| w == needle)
        })
    };
    let needles: Vec<Vec<u8>> = keys.iter().step_by(3).flat_map(|key| sealed(key)).collect();
    let kept: Vec<Vec<u8>> = keys.iter().skip(1).step_by(3).flat_map(|key| sealed(key)).collect();
    assert_eq!(needles.len(), 14 * 7);
    assert!(needles.iter().chain(&kept).all(|n| found(&n[16..])));
    for key in keys.iter().step_by(3) {
        schedule(&session, key, 7);
    }
    bench.clock.days(7);
    bench.kms.tick();
    assert!(kept.iter().all(|n| found(&n[16..])));
    for needle in &needles {
        for part in needle.chunks(16) {
            assert!(!found(part) || part.len() < 12, "wrapped material of a deleted key is still there");
        }
    }
}

#[test]
fn rotation_keeps_what_was_encrypted_before() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let mut blobs = vec![encrypt(&session, &key, b"0").unwrap()];
    for n in 1..=25 {
        session.call(RotateKeyOnDemandRequest { key_id: key.clone() }).unwrap();
        blobs.push(encrypt(&session, &key, n.to_string().as_bytes()).unwrap());
    }
    let once_more = session.call(RotateKeyOnDemandRequest { key_id: key.clone() });
    assert_eq!(kind(once_more), Some(KmsErrorKind::LimitExceeded));
    for (n, blob) in blobs.iter().enumerate() {
        assert_eq!(decrypt(&session, blob).unwrap(), n.to_string().as_bytes());
    }
    let list = |all: Option<&str>, limit, marker| {
        let include_key_material = all.map(str::to_owned);
        let request = ListKeyRotationsRequest { key_id: key.clone(), include_key_material, limit, marker };
        session.call(request).unwrap()
    };
    assert_eq!(list(None, None, None).rotations.len(), 25);
    let all = list(Some("ALL_KEY_MATERIAL"), None, None).rotations;
    assert_eq!(all.len(), 26);
    assert_eq!((all[0].rotation_type, all[1].rotation_type), (None, Some("ON_DEMAND")));
    assert_eq!(all[25].key_material_state, "CURRENT");
    let current = metadata(&session, &key).current_key_material_id;
    assert_eq!(Some(all[25].key_material_id.clone()), current);
    let first = list(None, Some(20), None);
    let second = list(None, Some(20), first.next_marker.clone());
    assert!(first.truncated && !second.truncated);
    assert_eq!([first.rotations, second.rotations].concat(), all[1..]);
}

#[test]
fn re_encrypting_moves_a_ciphertext_to_another_key_and_context() {
    let bench = Bench::new();
    let session = bench.session();
    let (from, to) = (make(&session), make(&session));
    let blob = encrypt(&session, &from, b"secret").unwrap();
    let moved = session.re_encrypt(&blob, &context(&[]), &to, &context(&[("a", "b")])).unwrap();
    assert!(moved.source_key_arn.ends_with(&from) && moved.key_arn.ends_with(&to));
    let opened = session.decrypt(Some(&to), &moved.ciphertext, &context(&[("a", "b")])).unwrap();
    assert_eq!(opened.plaintext.expose(), b"secret");
    assert_eq!(kind(decrypt(&session, &moved.ciphertext)), Some(KmsErrorKind::InvalidCiphertext));
    let wrong = session.call(ReEncryptRequest {
        ciphertext_blob: blob,
        source_key_id: Some(to.clone()),
        destination_key_id: to,
        ..ReEncryptRequest::default()
    });
    assert_eq!(kind(wrong), Some(KmsErrorKind::IncorrectKey));
}

#[test]
fn data_keys_come_in_the_length_that_was_asked_for() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let ask = |key_spec: Option<&str>, number_of_bytes| {
        session.call(GenerateDataKeyRequest {
            key_id: key.clone(),
            key_spec: key_spec.map(str::to_owned),
            number_of_bytes,
            ..GenerateDataKeyRequest::default()
        })
    };
    for (spec, bytes, len) in [
        (Some("AES_256"), None, 32),
        (Some("AES_128"), None, 16),
        (None, Some(1), 1),
        (None, Some(1024), 1024),
    ] {
        let answer = ask(spec, bytes).unwrap();
        assert_eq!(answer.plaintext.len(), len);
        assert_eq!(decrypt(&session, &answer.ciphertext_blob).unwrap(), answer.plaintext.expose());
    }
    for (spec, bytes) in [
        (None, None),
        (Some("AES_256"), Some(32)),
        (Some("AES_192"), None),
        (None, Some(0)),
        (None, Some(1025)),
    ] {
        assert_eq!(kind(ask(spec, bytes)), Some(KmsErrorKind::Validation), "{spec:?} {bytes:?}");
    }
    let without =
        json(&session, "GenerateDataKeyWithoutPlaintext", json!({"KeyId": key, "KeySpec": "AES_256"}));
    let without = without.unwrap();
    assert!(without.get("Plaintext").is_none() && without["KeyMaterialId"].is_string());
}

#[test]
fn aliases_name_one_key_and_can_be_moved() {
    let bench = Bench::new();
    let session = bench.session();
    let (one, two) = (make(&session), make(&session));
    alias(&session, "alias/a", &one).unwrap();
    assert_eq!(kind(alias(&session, "alias/a", &two)), Some(KmsErrorKind::AlreadyExists));
    assert_eq!(kind(alias(&session, "alias/a b", &two)), Some(KmsErrorKind::InvalidAliasName));
    assert_eq!(kind(alias(&session, "a", &two)), Some(KmsErrorKind::InvalidAliasName));
    assert_eq!(kind(alias(&session, "alias/aws/mine", &two)), Some(KmsErrorKind::AccessDenied));
    let blob = encrypt(&session, "alias/a", b"x").unwrap();
    bench.clock.days(1);
    let update = |name: &str, key: &str| {
        session.call(UpdateAliasRequest { alias_name: name.to_owned(), target_key_id: key.to_owned() })
    };
    update("alias/a", &two).unwrap();
    assert_eq!(kind(update("alias/b", &two)), Some(KmsErrorKind::NotFound));
    assert_eq!(metadata(&session, "alias/a").key_id, two);
    assert_eq!(decrypt(&session, &blob).unwrap(), b"x");
    let list = |key_id: Option<&str>, limit, marker: Option<String>| {
        let key_id = key_id.map(str::to_owned);
        session.call(ListAliasesRequest { key_id, limit, marker }).unwrap()
    };
    assert!(list(Some(&one), None, None).aliases.is_empty());
    let entry = &list(Some(&two), None, None).aliases[0];
    assert!(entry.creation_date < entry.last_updated_date);
    for n in 1..50 {
        alias(&session, &format!("alias/n{n:02}"), &two).unwrap();
    }
    assert_eq!(kind(alias(&session, "alias/n50", &two)), Some(KmsErrorKind::LimitExceeded));
    assert_eq!(kind(alias(&session, "alias/n50", "alias/a")), Some(KmsErrorKind::NotFound));
    let (mut seen, mut marker) = (Vec::new(), None);
    loop {
        let page = list(None, Some(7), marker);
        seen.extend(page.aliases.into_iter().map(|a| a.alias_name));
        marker = page.next_marker;
        if !page.truncated {
            break;
        }
    }
    assert_eq!(seen.len(), 50);
    assert!(seen.is_sorted());
    session.call(DeleteAliasRequest { alias_name: "alias/a".to_owned() }).unwrap();
    assert_eq!(
        message(encrypt(&session, "alias/a", b"x")),
        "Alias arn:aws:kms:us-east-1:000000000000:alias/a is not found."
    );
}

#[test]
fn keys_are_listed_by_pages() {
    let bench = Bench::new();
    let session = bench.session();
    let mut made: Vec<String> = (0..5).map(|_| make(&session)).collect();
    made.sort();
    let first = session.call(ListKeysRequest { limit: Some(3), marker: None }).unwrap();
    let second = session.call(ListKeysRequest { limit: Some(3), marker: first.next_marker.clone() }).unwrap();
    assert!(first.truncated && !second.truncated && second.next_marker.is_none());
    let ids: Vec<String> = first.keys.into_iter().chain(second.keys).map(|k| k.key_id).collect();
    assert_eq!(ids, made);
    let bad = session.call(ListKeysRequest { limit: None, marker: Some("x".to_owned()) });
    assert_eq!(kind(bad), Some(KmsErrorKind::InvalidMarker));
    assert_eq!(
        kind(session.call(ListKeysRequest { limit: Some(0), marker: None })),
        Some(KmsErrorKind::Validation)
    );
}

#[test]
fn the_number_of_keys_is_that_of_the_list() {
    let bench = Bench::new();
    let session = bench.session();
    let other = bench.kms.session(Caller::root("111122223333".parse().unwrap()), &region()).unwrap();
    let count = |account: &str| {
        let tx = crate::store::Store::read(&session.region_service().store).unwrap();
        rows::key_count(&*tx, account).unwrap()
    };
    let keys: Vec<String> = (0..5).map(|_| make(&session)).collect();
    make(&other);
    // The service's own do not count, nor what is refused or changed.
    session.ensure_managed_key("aws/kmsfs").unwrap();
    assert!(json(&session, "CreateKey", json!({"KeySpec": "SM2"})).is_err());
    disable(&session, &keys[0]);
    session.call(RotateKeyOnDemandRequest { key_id: keys[1].clone() }).unwrap();
    assert_eq!((count(ACCOUNT), count("111122223333")), (5, 1));
    schedule(&session, &keys[0], 7);
    schedule(&session, &keys[1], 8);
    assert_eq!(count(ACCOUNT), 5);
    bench.clock.days(7);
    bench.kms.tick();
    assert_eq!((count(ACCOUNT), count("111122223333")), (4, 1));
    // At the quota no key is made.
    let service = session.region_service();
    let mut tx = crate::store::Store::write(&service.store, crate::store::Durability::Soon).unwrap();
    tx.put("account-count", ACCOUNT.as_bytes(), &100_000_u64.to_be_bytes()).unwrap();
    tx.commit().unwrap();
    assert_eq!(kind(session.call(CreateKeyRequest::default())), Some(KmsErrorKind::LimitExceeded));
    bench.clock.days(1);
    bench.kms.tick();
    assert!(session.call(CreateKeyRequest::default()).is_ok());
}

#[test]
fn a_managed_key_serves_its_service_and_nobody_changes_it() {
    let bench = Bench::new();
    let session = bench.session();
    let arn = session.ensure_managed_key("aws/kmsfs").unwrap();
    assert_eq!(session.ensure_managed_key("aws/kmsfs").unwrap(), arn);
    assert_eq!(
        bench.another().root_session(&region()).unwrap().ensure_managed_key("aws/kmsfs").unwrap(),
        arn
    );
    assert_eq!(metadata(&session, "alias/aws/kmsfs").key_manager, "AWS");
    let made = session.generate_data_key("alias/aws/kmsfs", &context(&[])).unwrap();
    assert_eq!(made.key_arn, arn);
    assert!(session.decrypt(Some(&arn), &made.ciphertext, &context(&[])).is_ok());
    let key = make(&session);
    for (operation, request) in [
        ("Encrypt", json!({"KeyId": arn, "Plaintext": "eA=="})),
        ("DisableKey", json!({"KeyId": arn})),
        ("EnableKey", json!({"KeyId": arn})),
        ("ScheduleKeyDeletion", json!({"KeyId": arn})),
        ("CancelKeyDeletion", json!({"KeyId": arn})),
        ("RotateKeyOnDemand", json!({"KeyId": arn})),
        ("EnableKeyRotation", json!({"KeyId": arn})),
        ("TagResource", json!({"KeyId": arn, "Tags": []})),
        ("UntagResource", json!({"KeyId": arn, "TagKeys": []})),
        ("UpdateKeyDescription", json!({"KeyId": arn, "Description": "mine"})),
        ("DisableKeyRotation", json!({"KeyId": arn})),
        ("CreateAlias", json!({"AliasName": "alias/x", "TargetKeyId": arn})),
        ("UpdateAlias", json!({"AliasName": "alias/aws/kmsfs", "TargetKeyId": key})),
        ("DeleteAlias", json!({"AliasName": "alias/aws/kmsfs"})),
    ] {
        let error = json(&session, operation, request).unwrap_err();
        assert_eq!(error.kind, KmsErrorKind::AccessDenied, "{operation}");
        let wording = format!(
            "User: arn:aws:iam::{ACCOUNT}:root is not authorized to perform: kms:{operation} on resource: "
        );
        assert!(error.message.starts_with(&wording), "{}", error.message);
    }
    assert!(decrypt(&session, &made.ciphertext).is_err());
    let policy = json(&session, "GetKeyPolicy", json!({"KeyId": arn})).unwrap();
    assert!(policy["Policy"].as_str().unwrap().contains("kms:ViaService"));
    assert_eq!(kind(session.ensure_managed_key("kmsfs")), Some(KmsErrorKind::InvalidAliasName));
}

#[test]
fn another_account_is_refused_and_learns_nothing() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let (arn, blob) = (metadata(&session, &key).arn, encrypt(&session, &key, b"x").unwrap());
    let other: AccountId = "111122223333".parse().unwrap();
    let stranger = bench.kms.session(Caller::root(other), &region()).unwrap();
    let denied = message(encrypt(&stranger, &arn, b"x"));
    assert_eq!(
        denied,
        format!(
            "User: arn:aws:iam::111122223333:root is not authorized to perform: kms:Encrypt on resource: {arn} \
             because no resource-based policy allows the kms:Encrypt action"
        )
    );
    let absent = arn.replace(&key, "00000000-0000-4000-8000-000000000000");
    assert_eq!(message(encrypt(&stranger, &absent, b"x")), denied.replace(&arn, &absent));
    assert_eq!(kind(encrypt(&stranger, &key, b"x")), Some(KmsErrorKind::NotFound));
    let hidden = message(decrypt(&stranger, &blob));
    let mut unknown = blob;
    unknown[3] ^= 1;
    assert_eq!(message(decrypt(&stranger, &unknown)), hidden);
    assert!(hidden.contains("on the resource associated with this ciphertext"), "{hidden}");
    assert!(stranger.call(ListKeysRequest::default()).unwrap().keys.is_empty());
    // The event tells the true reason.
    let found = stranger.lookup_events(&crate::audit::Filter::default()).unwrap();
    let reasons: Vec<_> = found.iter().filter_map(|f| f.event.error_message.clone()).collect();
    assert!(reasons.iter().any(|r| r.contains("does not exist in this Region")), "{reasons:?}");
}
