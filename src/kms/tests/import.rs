//! Imported key material.

use jiff::SignedDuration;

use super::*;
use crate::audit::Filter;
use crate::crypto::asymmetric::{Oaep, PairSpec, PrivateKey, PublicKey};
use crate::crypto::{SecretVec, wrap};
use crate::kms::schedule::DAY;

/// A new key of origin EXTERNAL.
pub fn external(session: &Session, spec: &str, usage: &str, multi_region: bool) -> String {
    let request = CreateKeyRequest {
        origin: Some("EXTERNAL".to_owned()),
        key_spec: Some(spec.to_owned()),
        key_usage: Some(usage.to_owned()),
        multi_region: Some(multi_region),
        ..CreateKeyRequest::default()
    };
    session.call(request).unwrap().key_metadata.key_id
}

fn symmetric(session: &Session) -> String {
    external(session, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", false)
}

fn ask(session: &Session, key: &str, algorithm: &str) -> Result<GetParametersForImportResponse, KmsError> {
    session.call(GetParametersForImportRequest {
        key_id: key.to_owned(),
        wrapping_algorithm: algorithm.to_owned(),
        wrapping_key_spec: "RSA_2048".to_owned(),
    })
}

/// A request that imports the material for good; wrapped in two layers, so that it may be long.
pub fn request(session: &Session, key: &str, material: &[u8]) -> ImportKeyMaterialRequest {
    let parameters = ask(session, key, "RSA_AES_KEY_WRAP_SHA_256").unwrap();
    let public = PublicKey::parse(&parameters.public_key).unwrap();
    ImportKeyMaterialRequest {
        key_id: key.to_owned(),
        import_token: parameters.import_token,
        encrypted_key_material: wrap::rsa_aes_wrap(&public, Oaep::Sha256, material).unwrap(),
        expiration_model: Some("KEY_MATERIAL_DOES_NOT_EXPIRE".to_owned()),
        ..ImportKeyMaterialRequest::default()
    }
}

pub fn import(session: &Session, key: &str, material: &[u8]) -> Result<Option<String>, KmsError> {
    session.call(request(session, key, material)).map(|answer| answer.key_material_id)
}

pub fn import_next(session: &Session, key: &str, material: &[u8]) -> Result<Option<String>, KmsError> {
    let import_type = Some("NEW_KEY_MATERIAL".to_owned());
    let request = ImportKeyMaterialRequest { import_type, ..request(session, key, material) };
    session.call(request).map(|answer| answer.key_material_id)
}

/// Imports material that is erased after so many hours.
fn import_until(bench: &Bench, session: &Session, key: &str, material: &[u8], hours: i64) {
    let request = ImportKeyMaterialRequest {
        expiration_model: None,
        valid_to: Some(bench.clock.now() + SignedDuration::from_hours(hours)),
        ..request(session, key, material)
    };
    session.call(request).unwrap();
}

pub fn delete(session: &Session, key: &str, id: Option<&str>) -> Result<Option<String>, KmsError> {
    let request =
        DeleteImportedKeyMaterialRequest { key_id: key.to_owned(), key_material_id: id.map(str::to_owned) };
    session.call(request).map(|answer| answer.key_material_id)
}

fn kind<T>(answer: Result<T, KmsError>) -> Option<KmsErrorKind> {
    answer.err().map(|error| error.kind)
}

/// State, import state and type of each material, oldest first.
pub fn materials(
    session: &Session,
    key: &str,
) -> Vec<(&'static str, Option<&'static str>, Option<&'static str>)> {
    let request = ListKeyRotationsRequest {
        key_id: key.to_owned(),
        include_key_material: Some("ALL_KEY_MATERIAL".to_owned()),
        ..Default::default()
    };
    let rotations = session.call(request).unwrap().rotations;
    rotations.into_iter().map(|r| (r.key_material_state, r.import_state, r.rotation_type)).collect()
}

fn rotate(session: &Session, key: &str) -> Result<(), KmsError> {
    session.call(RotateKeyOnDemandRequest { key_id: key.to_owned() }).map(drop)
}

fn hours(bench: &Bench, hours: i64) {
    *bench.clock.0.lock() += SignedDuration::from_hours(hours);
}

#[test]
fn a_key_without_material_waits_for_it_and_then_works() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    let fresh = metadata(&session, &key);
    assert_eq!((fresh.key_state, fresh.origin, fresh.enabled), (KeyState::PendingImport, "EXTERNAL", false));
    assert_eq!((fresh.current_key_material_id, fresh.expiration_model), (None, None));
    let waiting = encrypt(&session, &key, b"x").unwrap_err();
    assert_eq!(waiting.kind, KmsErrorKind::InvalidState(KeyState::PendingImport));
    let id = import(&session, &key, &[7; 32]).unwrap();
    let ready = metadata(&session, &key);
    assert_eq!((ready.key_state, ready.enabled), (KeyState::Enabled, true));
    assert_eq!((&ready.current_key_material_id, ready.valid_to), (&id, None));
    assert_eq!(ready.expiration_model, Some("KEY_MATERIAL_DOES_NOT_EXPIRE"));
    let blob = encrypt(&session, &key, b"secret").unwrap();
    assert_eq!(decrypt(&session, &blob).unwrap(), b"secret");
    let found = session.lookup_events(&Filter { key: Some(key.clone()), ..Filter::default() }).unwrap();
    let import = found.iter().find(|f| f.event.event_name == "ImportKeyMaterial").unwrap();
    assert_eq!(import.event.additional_event_data.as_ref().unwrap().key_material_id, id);
    // Neither token nor material is in the log.
    assert!(!import.json.contains("Token") && !import.json.contains("ncrypted"), "{}", import.json);
}

#[test]
fn the_same_material_in_two_keys_opens_nothing_of_the_other() {
    let bench = Bench::new();
    let session = bench.session();
    let (one, two) = (symmetric(&session), symmetric(&session));
    let ids = [&one, &two].map(|key| import(&session, key, &[7; 32]).unwrap().unwrap());
    assert_ne!(ids[0], ids[1]);
    let blob = encrypt(&session, &one, b"secret").unwrap();
    let forced = DecryptRequest {
        ciphertext_blob: blob.clone(),
        key_id: Some(two.clone()),
        ..DecryptRequest::default()
    };
    assert_eq!(kind(session.call(forced)), Some(KmsErrorKind::IncorrectKey));
    // Nor if the ciphertext is made to name the other key and its material.
    let other = encrypt(&session, &two, b"x").unwrap();
    let forged = [&other[..50], &blob[50..]].concat();
    assert_eq!(kind(decrypt(&session, &forged)), Some(KmsErrorKind::InvalidCiphertext));
    assert_eq!(decrypt(&session, &blob).unwrap(), b"secret");
}

#[test]
fn deleted_material_is_known_again_and_no_other_is_taken() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    let id = import(&session, &key, &[7; 32]).unwrap();
    let blob = encrypt(&session, &key, b"secret").unwrap();
    assert_eq!(delete(&session, &key, None).unwrap(), id);
    assert_eq!(metadata(&session, &key).key_state, KeyState::PendingImport);
    let gone = KmsErrorKind::InvalidState(KeyState::PendingImport);
    assert_eq!(kind(decrypt(&session, &blob)), Some(gone));
    assert_eq!(materials(&session, &key), [("CURRENT", Some("PENDING_IMPORT"), None)]);
    assert_eq!(kind(import(&session, &key, &[8; 32])), Some(KmsErrorKind::IncorrectKeyMaterial));
    // By another process, too.
    let later = bench.another().root_session(&region()).unwrap();
    assert_eq!(import(&later, &key, &[7; 32]).unwrap(), id);
    assert_eq!(decrypt(&session, &blob).unwrap(), b"secret");
    // What stands may be imported again, and named.
    let named = ImportKeyMaterialRequest { key_material_id: id, ..request(&session, &key, &[7; 32]) };
    assert!(session.call(named).is_ok());
    let other = ImportKeyMaterialRequest {
        key_material_id: Some("0".repeat(64)),
        ..request(&session, &key, &[7; 32])
    };
    assert_eq!(kind(session.call(other)), Some(KmsErrorKind::IncorrectKeyMaterial));
}

#[test]
fn deleted_material_leaves_nothing_in_the_stores_files() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    import(&session, &key, &[7; 32]).unwrap();
    let sealed = {
        let core = session.region_service();
        let tx = crate::store::Store::read(&core.store).unwrap();
        rows::materials(&*tx, &key.parse().unwrap()).unwrap()[0].1.sealed.clone()
    };
    assert_eq!(sealed.len(), 76);
    delete(&session, &key, None).unwrap();
    bench.kms.tick();
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        let bytes = std::fs::read(bench.region_dir().join(name)).unwrap_or_default();
        assert!(!bytes.windows(16).any(|w| w == &sealed[28..44]), "{name} holds deleted material");
    }
}

#[test]
fn material_expires_by_itself_and_says_so() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    import_until(&bench, &session, &key, &[7; 32], 48);
    let described = metadata(&session, &key);
    assert_eq!(described.expiration_model, Some("KEY_MATERIAL_EXPIRES"));
    assert_eq!(described.valid_to, Some(bench.clock.now() + SignedDuration::from_hours(48)));
    let blob = encrypt(&session, &key, b"secret").unwrap();
    hours(&bench, 47);
    bench.kms.tick();
    assert!(decrypt(&session, &blob).is_ok());
    hours(&bench, 1);
    // At the very moment, before any thread has looked.
    let error = decrypt(&session, &blob).unwrap_err();
    assert_eq!(error.kind, KmsErrorKind::MaterialExpired);
    assert_eq!(error.kind.name(), "KMSInvalidStateException");
    assert!(error.message.ends_with("is pending import."), "{}", error.message);
    let described = metadata(&session, &key);
    assert_eq!((described.key_state, described.valid_to), (KeyState::PendingImport, None));
    let filter = Filter { event_name: Some("DeleteExpiredKeyMaterial".to_owned()), ..Filter::default() };
    let events = session.lookup_events(&filter).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.event_type, "AwsServiceEvent");
    import(&session, &key, &[7; 32]).unwrap();
    hours(&bench, 1000);
    assert_eq!(decrypt(&session, &blob).unwrap(), b"secret");
}

#[test]
fn material_that_expired_while_nobody_ran_is_erased_at_the_start() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    import_until(&bench, &session, &key, &[7; 32], 1);
    drop(session);
    hours(&bench, 2);
    let later = bench.another().root_session(&region()).unwrap();
    assert_eq!(materials(&later, &key), [("CURRENT", Some("PENDING_IMPORT"), None)]);
}

#[test]
fn the_new_expiry_counts_when_material_is_imported_again() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    import_until(&bench, &session, &key, &[7; 32], 1);
    import_until(&bench, &session, &key, &[7; 32], 10);
    hours(&bench, 9);
    bench.kms.tick();
    assert!(encrypt(&session, &key, b"x").is_ok());
    hours(&bench, 1);
    assert_eq!(kind(encrypt(&session, &key, b"x")), Some(KmsErrorKind::MaterialExpired));
}

#[test]
fn token_and_wrapping_key_are_a_pair_of_one_key_and_one_day() {
    let bench = Bench::new();
    let session = bench.session();
    let (key, other) = (symmetric(&session), symmetric(&session));
    let good = request(&session, &key, &[7; 32]);
    let foreign = ImportKeyMaterialRequest { key_id: other.clone(), ..good.clone() };
    assert_eq!(kind(session.call(foreign)), Some(KmsErrorKind::InvalidImportToken));
    let second = request(&session, &key, &[7; 32]);
    let mixed = ImportKeyMaterialRequest { import_token: second.import_token, ..good.clone() };
    assert_eq!(kind(session.call(mixed)), Some(KmsErrorKind::InvalidCiphertext));
    for at in [0, 5, 20, 40, good.import_token.len() - 1] {
        let mut changed = good.clone();
        changed.import_token[at] ^= 1;
        assert_eq!(kind(session.call(changed)), Some(KmsErrorKind::InvalidImportToken), "byte {at}");
    }
    let parameters = ask(&session, &key, "RSAES_OAEP_SHA_256").unwrap();
    assert_eq!(parameters.parameters_valid_to, bench.clock.now() + SignedDuration::from_hours(24));
    hours(&bench, 23);
    assert!(session.call(good.clone()).is_ok());
    hours(&bench, 1);
    let late = session.call(good).unwrap_err();
    assert_eq!(
        (late.kind, late.kind.name()),
        (KmsErrorKind::ExpiredImportToken, "ExpiredImportTokenException")
    );
}

#[test]
fn each_wrapping_works_and_others_are_refused() {
    let bench = Bench::new();
    let session = bench.session();
    for (algorithm, oaep, layers) in [
        ("RSAES_OAEP_SHA_1", Oaep::Sha1, 1),
        ("RSAES_OAEP_SHA_256", Oaep::Sha256, 1),
        ("RSA_AES_KEY_WRAP_SHA_1", Oaep::Sha1, 2),
        ("RSA_AES_KEY_WRAP_SHA_256", Oaep::Sha256, 2),
    ] {
        let key = symmetric(&session);
        let parameters = ask(&session, &key, algorithm).unwrap();
        let public = PublicKey::parse(&parameters.public_key).unwrap();
        let wrapped = match layers {
            1 => public.encrypt(oaep, &[7; 32]),
            _ => wrap::rsa_aes_wrap(&public, oaep, &[7; 32]),
        };
        let request = ImportKeyMaterialRequest {
            encrypted_key_material: wrapped.unwrap(),
            import_token: parameters.import_token,
            ..request(&session, &key, &[7; 32])
        };
        assert!(session.call(request).is_ok(), "{algorithm}");
    }
    let key = symmetric(&session);
    for (algorithm, refusal) in [
        ("RSAES_PKCS1_V1_5", KmsErrorKind::UnsupportedOperation),
        ("SM2PKE", KmsErrorKind::UnsupportedOperation),
        ("ROT13", KmsErrorKind::Validation),
    ] {
        assert_eq!(kind(ask(&session, &key, algorithm)), Some(refusal), "{algorithm}");
    }
    let own = make(&session);
    let error = ask(&session, &own, "RSAES_OAEP_SHA_256").unwrap_err();
    assert_eq!(error.kind, KmsErrorKind::UnsupportedOperation);
    assert!(error.message.ends_with("origin is AWS_KMS which is not valid for this operation."));
    let rsa = external(&session, "RSA_2048", "SIGN_VERIFY", false);
    assert_eq!(kind(ask(&session, &rsa, "RSAES_OAEP_SHA_256")), Some(KmsErrorKind::UnsupportedOperation));
}

#[test]
fn material_must_fit_its_spec() {
    let bench = Bench::new();
    let session = bench.session();
    let pair = |spec| PrivateKey::generate(spec).unwrap().to_bytes().unwrap();
    for (spec, usage, good, bad) in [
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", SecretVec::new(vec![1; 32]), SecretVec::new(vec![1; 31])),
        ("HMAC_384", "GENERATE_VERIFY_MAC", SecretVec::new(vec![1; 48]), SecretVec::new(vec![1; 32])),
        ("ECC_NIST_P256", "SIGN_VERIFY", pair(PairSpec::P256), pair(PairSpec::P384)),
        ("ECC_NIST_P521", "KEY_AGREEMENT", pair(PairSpec::P521), SecretVec::new(vec![1; 66])),
        ("RSA_2048", "ENCRYPT_DECRYPT", pair(PairSpec::Rsa2048), pair(PairSpec::P256)),
        ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY", pair(PairSpec::Ed25519), pair(PairSpec::P256)),
        ("ML_DSA_44", "SIGN_VERIFY", pair(PairSpec::MlDsa44), pair(PairSpec::MlDsa65)),
    ] {
        let key = external(&session, spec, usage, false);
        let refused = kind(import(&session, &key, bad.expose()));
        assert_eq!(refused, Some(KmsErrorKind::IncorrectKeyMaterial), "{spec}");
        let id = import(&session, &key, good.expose()).unwrap();
        assert_eq!(id.is_some(), spec == "SYMMETRIC_DEFAULT");
        assert_eq!(metadata(&session, &key).key_state, KeyState::Enabled, "{spec}");
        assert!(import(&session, &key, good.expose()).is_ok(), "{spec}");
        delete(&session, &key, None).unwrap();
        assert_eq!(metadata(&session, &key).key_state, KeyState::PendingImport, "{spec}");
    }
    let kem = CreateKeyRequest {
        origin: Some("EXTERNAL".to_owned()),
        key_spec: Some("ML_KEM_512".to_owned()),
        key_usage: Some("ENCAPSULATE_DECAPSULATE".to_owned()),
        ..CreateKeyRequest::default()
    };
    assert_eq!(kind(session.call(kem)), Some(KmsErrorKind::UnsupportedOperation));
}

#[test]
fn an_imported_key_pair_is_the_one_that_was_brought() {
    let bench = Bench::new();
    let session = bench.session();
    let own = PrivateKey::generate(PairSpec::P256).unwrap();
    let key = external(&session, "ECC_NIST_P256", "KEY_AGREEMENT", false);
    import(&session, &key, own.to_bytes().unwrap().expose()).unwrap();
    let public = session.call(GetPublicKeyRequest { key_id: key.clone(), ..Default::default() }).unwrap();
    assert_eq!(public.public_key, own.public_key().unwrap().der());
    let second = PrivateKey::generate(PairSpec::P256).unwrap().to_bytes().unwrap();
    assert_eq!(kind(import(&session, &key, second.expose())), Some(KmsErrorKind::IncorrectKeyMaterial));
    assert_eq!(kind(import_next(&session, &key, second.expose())), Some(KmsErrorKind::Validation));
}

#[test]
fn expiry_and_model_go_together() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    let good = request(&session, &key, &[7; 32]);
    let at = |days: i64| {
        Some(Timestamp::from_millisecond(bench.clock.now().as_millisecond() + days * DAY).unwrap())
    };
    let expires = Some("KEY_MATERIAL_EXPIRES".to_owned());
    for (expiration_model, valid_to, works) in [
        (None, None, false),
        (expires.clone(), None, false),
        (good.expiration_model.clone(), at(1), false),
        (expires.clone(), at(0), false),
        (expires.clone(), at(366), false),
        (Some("SOMETIMES".to_owned()), at(1), false),
        (None, at(365), true),
        (expires, at(1), true),
    ] {
        let text = format!("{expiration_model:?} {valid_to:?}");
        let answer = session.call(ImportKeyMaterialRequest { expiration_model, valid_to, ..good.clone() });
        assert_eq!(kind(answer), (!works).then_some(KmsErrorKind::Validation), "{text}");
    }
}

#[test]
fn new_material_waits_for_a_rotation_and_all_of_it_is_needed() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    assert_eq!(kind(rotate(&session, &key)), Some(KmsErrorKind::InvalidState(KeyState::PendingImport)));
    let first = import(&session, &key, &[1; 32]).unwrap().unwrap();
    let old = encrypt(&session, &key, b"old").unwrap();
    let nothing = kind(rotate(&session, &key));
    assert_eq!(nothing, Some(KmsErrorKind::InvalidState(KeyState::Enabled)));
    assert_eq!(kind(import_next(&session, &key, &[1; 32])), Some(KmsErrorKind::IncorrectKeyMaterial));
    let second = import_next(&session, &key, &[2; 32]).unwrap().unwrap();
    let waiting = ("PENDING_ROTATION", Some("IMPORTED"), None);
    assert_eq!(materials(&session, &key), [("CURRENT", Some("IMPORTED"), None), waiting]);
    assert_eq!(metadata(&session, &key).current_key_material_id.as_ref(), Some(&first));
    let full = kind(import_next(&session, &key, &[3; 32]));
    assert_eq!(full, Some(KmsErrorKind::InvalidState(KeyState::Enabled)));
    // Without a rotation it goes as it came, and another may come.
    assert_eq!(delete(&session, &key, Some(&second)).unwrap().as_ref(), Some(&second));
    assert_eq!(metadata(&session, &key).key_state, KeyState::Enabled);
    assert_eq!(materials(&session, &key).len(), 1);
    let third = import_next(&session, &key, &[3; 32]).unwrap().unwrap();
    rotate(&session, &key).unwrap();
    let now = [("NON_CURRENT", Some("IMPORTED"), None), ("CURRENT", Some("IMPORTED"), Some("ON_DEMAND"))];
    assert_eq!(materials(&session, &key), now);
    assert_eq!(metadata(&session, &key).current_key_material_id.as_ref(), Some(&third));
    let new = encrypt(&session, &key, b"new").unwrap();
    assert_eq!(decrypt(&session, &old).unwrap(), b"old");
    // One missing is enough to stop the whole key.
    delete(&session, &key, Some(&first)).unwrap();
    let stopped = KmsErrorKind::InvalidState(KeyState::PendingImport);
    assert_eq!(kind(decrypt(&session, &new)), Some(stopped));
    delete(&session, &key, None).unwrap();
    import(&session, &key, &[3; 32]).unwrap();
    assert_eq!(kind(decrypt(&session, &new)), Some(stopped));
    import(&session, &key, &[1; 32]).unwrap();
    assert_eq!(decrypt(&session, &new).unwrap(), b"new");
    let automatic = EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: None };
    assert_eq!(kind(session.call(automatic)), Some(KmsErrorKind::UnsupportedOperation));
}

#[test]
fn all_generations_of_25_rotations_stay_readable() {
    let bench = Bench::new();
    let session = bench.session();
    let (own, brought) = (make(&session), symmetric(&session));
    import(&session, &brought, &[100; 32]).unwrap();
    // The parameters are good for a day and any material.
    let parameters = ask(&session, &brought, "RSAES_OAEP_SHA_256").unwrap();
    let public = PublicKey::parse(&parameters.public_key).unwrap();
    let mut blobs = Vec::new();
    for turn in 0..=25u8 {
        for key in [&own, &brought] {
            blobs.push((encrypt(&session, key, &[turn + 1]).unwrap(), turn + 1));
        }
        if turn == 25 {
            break;
        }
        let request = ImportKeyMaterialRequest {
            key_id: brought.clone(),
            import_token: parameters.import_token.clone(),
            encrypted_key_material: public.encrypt(Oaep::Sha256, &[turn; 32]).unwrap(),
            expiration_model: Some("KEY_MATERIAL_DOES_NOT_EXPIRE".to_owned()),
            import_type: Some("NEW_KEY_MATERIAL".to_owned()),
            ..ImportKeyMaterialRequest::default()
        };
        session.call(request).unwrap();
        rotate(&session, &own).unwrap();
        rotate(&session, &brought).unwrap();
    }
    assert_eq!(kind(rotate(&session, &own)), Some(KmsErrorKind::LimitExceeded));
    assert_eq!(kind(rotate(&session, &brought)), Some(KmsErrorKind::LimitExceeded));
    assert_eq!(blobs.len(), 52);
    let later = bench.another().root_session(&region()).unwrap();
    for (blob, text) in blobs {
        assert_eq!(decrypt(&later, &blob).unwrap(), [text]);
    }
    for key in [&own, &brought] {
        let last = materials(&later, key);
        assert_eq!((last.len(), last[25].0, last[24].0), (26, "CURRENT", "NON_CURRENT"));
    }
}

#[test]
fn a_kept_key_without_its_material_waits_for_it() {
    let bench = Bench::new();
    let session = bench.session();
    let key = symmetric(&session);
    import(&session, &key, &[7; 32]).unwrap();
    schedule(&session, &key, 7);
    delete(&session, &key, None).unwrap();
    assert_eq!(metadata(&session, &key).key_state, KeyState::PendingDeletion);
    session.call(CancelKeyDeletionRequest { key_id: key.clone() }).unwrap();
    assert_eq!(metadata(&session, &key).key_state, KeyState::PendingImport);
}

#[test]
fn a_row_of_the_second_version_is_the_services_own_and_of_one_region() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    rows::tests::write_version(session.region_service(), &key, 2);
    let later = bench.another().root_session(&region()).unwrap();
    let described = metadata(&later, &key);
    assert_eq!((described.origin, described.multi_region), ("AWS_KMS", false));
    assert_eq!(decrypt(&later, &blob).unwrap(), b"x");
    session.call(RotateKeyOnDemandRequest { key_id: key.clone() }).unwrap();
    assert_eq!(decrypt(&session, &blob).unwrap(), b"x");
}

#[test]
fn policies_see_where_material_comes_from_and_how_it_is_wrapped() {
    let bench = Bench::new();
    let session = bench.session();
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Deny", "Principal": "*", "Action": "kms:GetParametersForImport", "Resource": "*",
         "Condition": {"StringEquals": {"kms:WrappingAlgorithm": "RSAES_OAEP_SHA_1", "kms:KeyOrigin": "EXTERNAL"}}},
        {"Effect": "Deny", "Principal": "*", "Action": "kms:ImportKeyMaterial", "Resource": "*",
         "Condition": {"StringEquals": {"kms:ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}}},
    ]});
    let request_key = CreateKeyRequest {
        origin: Some("EXTERNAL".to_owned()),
        policy: Some(policy.to_string()),
        ..CreateKeyRequest::default()
    };
    let key = session.call(request_key).unwrap().key_metadata.key_id;
    assert_eq!(kind(ask(&session, &key, "RSAES_OAEP_SHA_1")), Some(KmsErrorKind::AccessDenied));
    assert!(ask(&session, &key, "RSAES_OAEP_SHA_256").is_ok());
    assert_eq!(kind(import(&session, &key, &[7; 32])), Some(KmsErrorKind::AccessDenied));
}
