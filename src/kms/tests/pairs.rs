//! Key pairs and HMAC through the service.

use serde_json::{Value, json};

use super::*;
use crate::crypto::asymmetric::{MessageType, PairSpec, PrivateKey, PublicKey, SigningAlgorithm};

/// A new key's id.
fn make_kind(session: &Session, spec: &str, usage: &str) -> String {
    let request = CreateKeyRequest {
        key_spec: Some(spec.to_owned()),
        key_usage: Some(usage.to_owned()),
        ..CreateKeyRequest::default()
    };
    session.call(request).unwrap().key_metadata.key_id
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn bytes(value: &Value) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The kind of key that a request of the table of states names, and what it needs beside: a signature of "x", a
/// code of it, or a peer's public key.
pub fn key_for(session: &Session, request: &str) -> (String, String) {
    if request.contains("$signs") {
        let key = make_kind(session, "ECC_NIST_P256", "SIGN_VERIFY");
        let body = json!({"KeyId": key, "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"});
        let made = text(&super::json(session, "Sign", body).unwrap()["Signature"]);
        (key, made)
    } else if request.contains("$macs") {
        let key = make_kind(session, "HMAC_256", "GENERATE_VERIFY_MAC");
        let body = json!({"KeyId": key, "Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"});
        let made = text(&super::json(session, "GenerateMac", body).unwrap()["Mac"]);
        (key, made)
    } else if request.contains("$agrees") {
        let peer = PrivateKey::generate(PairSpec::P256).unwrap().public_key().unwrap();
        (make_kind(session, "ECC_NIST_P256", "KEY_AGREEMENT"), base64(peer.der()))
    } else {
        (make(session), String::new())
    }
}

fn kind<T: std::fmt::Debug>(answer: Result<T, KmsError>) -> KmsErrorKind {
    answer.unwrap_err().kind
}

#[test]
fn each_spec_is_made_described_and_kept() {
    let bench = Bench::new();
    let session = bench.session();
    for (spec, usage, field, algorithms) in [
        (
            "RSA_2048",
            "ENCRYPT_DECRYPT",
            "EncryptionAlgorithms",
            json!(["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]),
        ),
        ("ECC_NIST_P384", "SIGN_VERIFY", "SigningAlgorithms", json!(["ECDSA_SHA_384"])),
        ("ECC_NIST_P521", "KEY_AGREEMENT", "KeyAgreementAlgorithms", json!(["ECDH"])),
        ("ECC_SECG_P256K1", "SIGN_VERIFY", "SigningAlgorithms", json!(["ECDSA_SHA_256"])),
        (
            "ECC_NIST_EDWARDS25519",
            "SIGN_VERIFY",
            "SigningAlgorithms",
            json!(["ED25519_SHA_512", "ED25519_PH_SHA_512"]),
        ),
        ("HMAC_384", "GENERATE_VERIFY_MAC", "MacAlgorithms", json!(["HMAC_SHA_384"])),
        ("ML_DSA_87", "SIGN_VERIFY", "SigningAlgorithms", json!(["ML_DSA_SHAKE_256"])),
    ] {
        let key = make_kind(&session, spec, usage);
        // Another process reads it from the store.
        let other = bench.another().root_session(&region()).unwrap();
        let told = super::json(&other, "DescribeKey", json!({"KeyId": key})).unwrap()["KeyMetadata"].clone();
        assert_eq!((&told["KeySpec"], &told["KeyUsage"]), (&json!(spec), &json!(usage)));
        assert_eq!(told[field], algorithms, "{spec}");
        assert_eq!(told["CurrentKeyMaterialId"], Value::Null);
        let lists = ["EncryptionAlgorithms", "SigningAlgorithms", "KeyAgreementAlgorithms", "MacAlgorithms"];
        assert_eq!(lists.iter().filter(|name| told[**name] != Value::Null).count(), 1);
        let public = super::json(&other, "GetPublicKey", json!({"KeyId": key}));
        if spec == "HMAC_384" {
            assert_eq!(kind(public), KmsErrorKind::UnsupportedOperation);
            continue;
        }
        let public = public.unwrap();
        assert_eq!(public[field], algorithms);
        assert_eq!(PublicKey::parse(&bytes(&public["PublicKey"])).unwrap().spec().name(), spec);
    }
}

#[test]
fn usages_that_do_not_go_with_a_spec_are_refused() {
    let bench = Bench::new();
    let session = bench.session();
    for (spec, usage) in [
        ("ECC_NIST_P256", "ENCRYPT_DECRYPT"),
        ("ECC_SECG_P256K1", "KEY_AGREEMENT"),
        ("HMAC_256", "SIGN_VERIFY"),
        ("ML_DSA_44", "KEY_AGREEMENT"),
        ("RSA_2048", "GENERATE_VERIFY_MAC"),
        ("SYMMETRIC_DEFAULT", "SIGN_VERIFY"),
    ] {
        let error =
            super::json(&session, "CreateKey", json!({"KeySpec": spec, "KeyUsage": usage})).unwrap_err();
        assert_eq!(error.kind, KmsErrorKind::Validation);
        assert_eq!(error.message, format!("KeyUsage {usage} is not compatible with KeySpec {spec}"));
    }
}

#[test]
fn a_signature_verifies_here_and_outside_and_a_bad_one_is_an_error() {
    let bench = Bench::new();
    let session = bench.session();
    let digest = [7; 64];
    for (spec, algorithm, kind_name, message) in [
        ("RSA_2048", "RSASSA_PSS_SHA_256", "RAW", &b"message"[..]),
        ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_512", "DIGEST", &digest),
        ("ECC_NIST_P256", "ECDSA_SHA_256", "DIGEST", &digest[..32]),
        ("ECC_NIST_P521", "ECDSA_SHA_512", "RAW", b"message"),
        ("ECC_SECG_P256K1", "ECDSA_SHA_256", "RAW", b"message"),
        ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512", "RAW", b"message"),
        ("ECC_NIST_EDWARDS25519", "ED25519_PH_SHA_512", "DIGEST", &digest),
        ("ML_DSA_44", "ML_DSA_SHAKE_256", "RAW", b"message"),
        ("ML_DSA_65", "ML_DSA_SHAKE_256", "EXTERNAL_MU", &digest),
    ] {
        let key = make_kind(&session, spec, "SIGN_VERIFY");
        let body = json!({
            "KeyId": key, "Message": base64(message), "MessageType": kind_name, "SigningAlgorithm": algorithm,
        });
        let signed = super::json(&session, "Sign", body.clone()).unwrap();
        assert_eq!(signed["SigningAlgorithm"], algorithm);
        let mut check = body.clone();
        check["Signature"] = signed["Signature"].clone();
        let answer = super::json(&session, "Verify", check.clone()).unwrap();
        assert_eq!(answer["SignatureValid"], true);

        let public = super::json(&session, "GetPublicKey", json!({"KeyId": key})).unwrap();
        let public = PublicKey::parse(&bytes(&public["PublicKey"])).unwrap();
        let as_kind = match kind_name {
            "RAW" => MessageType::Raw,
            "DIGEST" => MessageType::Digest,
            _ => MessageType::ExternalMu,
        };
        let algorithm = SigningAlgorithm::from_name(algorithm).unwrap();
        public.verify(algorithm, as_kind, message, &bytes(&signed["Signature"])).unwrap();

        let mut bad = bytes(&signed["Signature"]);
        let last = bad.len() - 1;
        bad[last] ^= 1;
        check["Signature"] = json!(base64(&bad));
        assert_eq!(kind(super::json(&session, "Verify", check)), KmsErrorKind::InvalidSignature, "{spec}");
    }
}

#[test]
fn signing_refuses_what_does_not_go_together() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make_kind(&session, "ECC_NIST_P256", "SIGN_VERIFY");
    let edwards = make_kind(&session, "ECC_NIST_EDWARDS25519", "SIGN_VERIFY");
    let symmetric = make(&session);
    let long = "x".repeat(4097);
    for (id, message, kind_name, algorithm, expected) in [
        (&key, &b"x"[..], "RAW", "ECDSA_SHA_384", KmsErrorKind::InvalidKeyUsage),
        (&key, b"x", "DIGEST", "ECDSA_SHA_256", KmsErrorKind::Validation),
        (&key, b"x", "EXTERNAL_MU", "ECDSA_SHA_256", KmsErrorKind::Validation),
        (&key, b"x", "PLAIN", "ECDSA_SHA_256", KmsErrorKind::Validation),
        (&key, b"", "RAW", "ECDSA_SHA_256", KmsErrorKind::Validation),
        (&key, long.as_bytes(), "RAW", "ECDSA_SHA_256", KmsErrorKind::Validation),
        (&key, b"x", "RAW", "NONE", KmsErrorKind::Validation),
        (&key, b"x", "RAW", "SM2DSA", KmsErrorKind::UnsupportedOperation),
        (&edwards, b"x", "DIGEST", "ED25519_SHA_512", KmsErrorKind::Validation),
        (&edwards, b"x", "RAW", "ED25519_PH_SHA_512", KmsErrorKind::Validation),
        (&edwards, b"x", "DIGEST", "ED25519_PH_SHA_512", KmsErrorKind::Validation),
        (&symmetric, b"x", "RAW", "ECDSA_SHA_256", KmsErrorKind::InvalidKeyUsage),
    ] {
        let body = json!({
            "KeyId": id, "Message": base64(message), "MessageType": kind_name, "SigningAlgorithm": algorithm,
        });
        assert_eq!(kind(super::json(&session, "Sign", body)), expected, "{kind_name} {algorithm}");
    }
}

#[test]
fn a_code_is_the_keys_and_the_messages() {
    let bench = Bench::new();
    let session = bench.session();
    for (spec, algorithm, len) in [
        ("HMAC_224", "HMAC_SHA_224", 28),
        ("HMAC_256", "HMAC_SHA_256", 32),
        ("HMAC_384", "HMAC_SHA_384", 48),
        ("HMAC_512", "HMAC_SHA_512", 64),
    ] {
        let key = make_kind(&session, spec, "GENERATE_VERIFY_MAC");
        let body = json!({"KeyId": key, "Message": "eA==", "MacAlgorithm": algorithm});
        let made = super::json(&session, "GenerateMac", body.clone()).unwrap();
        assert_eq!(bytes(&made["Mac"]).len(), len);
        let mut check = body.clone();
        check["Mac"] = made["Mac"].clone();
        assert_eq!(super::json(&session, "VerifyMac", check.clone()).unwrap()["MacValid"], true);
        check["Message"] = json!("eQ==");
        assert_eq!(kind(super::json(&session, "VerifyMac", check)), KmsErrorKind::InvalidMac);
        let mut other = body;
        other["MacAlgorithm"] =
            json!(if algorithm == "HMAC_SHA_224" { "HMAC_SHA_256" } else { "HMAC_SHA_224" });
        assert_eq!(kind(super::json(&session, "GenerateMac", other)), KmsErrorKind::InvalidKeyUsage);
    }
}

#[test]
fn both_sides_derive_one_secret() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make_kind(&session, "ECC_NIST_P384", "KEY_AGREEMENT");
    let own = super::json(&session, "GetPublicKey", json!({"KeyId": key})).unwrap();
    let own = PublicKey::parse(&bytes(&own["PublicKey"])).unwrap();
    let peer = PrivateKey::generate(PairSpec::P384).unwrap();
    let ask = |public: &[u8]| {
        let body = json!({"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": base64(public)});
        super::json(&session, "DeriveSharedSecret", body)
    };
    let derived = ask(peer.public_key().unwrap().der()).unwrap();
    assert_eq!(bytes(&derived["SharedSecret"]), peer.agree(&own).unwrap().expose());
    assert_eq!(derived["KeyOrigin"], "AWS_KMS");
    let foreign = PrivateKey::generate(PairSpec::P256).unwrap().public_key().unwrap();
    assert_eq!(kind(ask(foreign.der())), KmsErrorKind::Validation);
    assert_eq!(kind(ask(b"nonsense")), KmsErrorKind::Validation);
}

#[test]
fn rsa_encrypts_inside_and_outside_and_decrypts_by_key_id() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make_kind(&session, "RSA_2048", "ENCRYPT_DECRYPT");
    let public = super::json(&session, "GetPublicKey", json!({"KeyId": key})).unwrap();
    let public = PublicKey::parse(&bytes(&public["PublicKey"])).unwrap();
    for oaep in public.spec().encryption_algorithms() {
        let body = json!({"KeyId": key, "Plaintext": "eA==", "EncryptionAlgorithm": oaep.name()});
        let inside = super::json(&session, "Encrypt", body).unwrap();
        assert_eq!(inside["EncryptionAlgorithm"], oaep.name());
        let outside = base64(&public.encrypt(*oaep, b"x").unwrap());
        for blob in [text(&inside["CiphertextBlob"]), outside] {
            let body = json!({"CiphertextBlob": blob, "KeyId": key, "EncryptionAlgorithm": oaep.name()});
            let opened = super::json(&session, "Decrypt", body.clone()).unwrap();
            assert_eq!((&opened["Plaintext"], &opened["KeyMaterialId"]), (&json!("eA=="), &Value::Null));
            let mut nameless = body.clone();
            nameless.as_object_mut().unwrap().remove("KeyId");
            assert_eq!(kind(super::json(&session, "Decrypt", nameless)), KmsErrorKind::Validation);
            let mut with_context = body.clone();
            with_context["EncryptionContext"] = json!({"a": "b"});
            assert_eq!(kind(super::json(&session, "Decrypt", with_context)), KmsErrorKind::Validation);
            let symmetric = make(&session);
            let moved = json!({
                "CiphertextBlob": blob, "SourceKeyId": key, "SourceEncryptionAlgorithm": oaep.name(),
                "DestinationKeyId": symmetric,
            });
            let moved = super::json(&session, "ReEncrypt", moved).unwrap();
            assert_eq!(decrypt(&session, &bytes(&moved["CiphertextBlob"])).unwrap(), b"x");
        }
    }
    let ask = |plaintext: &[u8], algorithm: &str| {
        let body = json!({"KeyId": key, "Plaintext": base64(plaintext), "EncryptionAlgorithm": algorithm});
        super::json(&session, "Encrypt", body)
    };
    assert!(ask(&[0; 190], "RSAES_OAEP_SHA_256").is_ok());
    assert_eq!(kind(ask(&[0; 191], "RSAES_OAEP_SHA_256")), KmsErrorKind::Validation);
    assert_eq!(kind(ask(b"x", "SYMMETRIC_DEFAULT")), KmsErrorKind::InvalidKeyUsage);
    let broken = json!({
        "CiphertextBlob": base64(&[5; 256]), "KeyId": key, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    });
    assert_eq!(kind(super::json(&session, "Decrypt", broken)), KmsErrorKind::InvalidCiphertext);
}

#[test]
fn a_data_key_pair_comes_wrapped_and_in_the_clear() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    for spec in ["ECC_NIST_P256", "ECC_NIST_EDWARDS25519", "RSA_2048"] {
        let body = json!({"KeyId": key, "KeyPairSpec": spec});
        let made = super::json(&session, "GenerateDataKeyPair", body.clone()).unwrap();
        let private = bytes(&made["PrivateKeyPlaintext"]);
        assert_eq!(decrypt(&session, &bytes(&made["PrivateKeyCiphertextBlob"])).unwrap(), private);
        let pair = PrivateKey::from_bytes(PairSpec::from_name(spec).unwrap(), &private).unwrap();
        assert_eq!(pair.public_key().unwrap().der(), bytes(&made["PublicKey"]));
        let made = super::json(&session, "GenerateDataKeyPairWithoutPlaintext", body).unwrap();
        assert_eq!(made["PrivateKeyPlaintext"], Value::Null);
        let private = decrypt(&session, &bytes(&made["PrivateKeyCiphertextBlob"])).unwrap();
        let pair = PrivateKey::from_bytes(PairSpec::from_name(spec).unwrap(), &private).unwrap();
        assert_eq!(pair.public_key().unwrap().der(), bytes(&made["PublicKey"]));
    }
    let rsa = make_kind(&session, "RSA_2048", "ENCRYPT_DECRYPT");
    let body = json!({"KeyId": rsa, "KeyPairSpec": "ECC_NIST_P256"});
    assert_eq!(kind(super::json(&session, "GenerateDataKeyPair", body)), KmsErrorKind::InvalidKeyUsage);
    let body = json!({"KeyId": rsa, "KeySpec": "AES_256"});
    assert_eq!(kind(super::json(&session, "GenerateDataKey", body)), KmsErrorKind::InvalidKeyUsage);
    let body = json!({"KeyId": key, "KeyPairSpec": "SM2"});
    assert_eq!(kind(super::json(&session, "GenerateDataKeyPair", body)), KmsErrorKind::UnsupportedOperation);
}

#[test]
fn key_pairs_do_not_rotate() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make_kind(&session, "ECC_NIST_P256", "SIGN_VERIFY");
    for operation in ["RotateKeyOnDemand", "EnableKeyRotation", "DisableKeyRotation"] {
        let answer = super::json(&session, operation, json!({"KeyId": key}));
        assert_eq!(kind(answer), KmsErrorKind::UnsupportedOperation, "{operation}");
    }
    let status = super::json(&session, "GetKeyRotationStatus", json!({"KeyId": key})).unwrap();
    assert_eq!(status["KeyRotationEnabled"], false);
}

#[test]
fn events_tell_the_algorithm_and_neither_message_nor_signature() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make_kind(&session, "ECC_NIST_P256", "SIGN_VERIFY");
    let message = base64(b"a message that must not be in the log");
    let body = json!({"KeyId": key, "Message": message, "SigningAlgorithm": "ECDSA_SHA_256"});
    super::json(&session, "Sign", body).unwrap();
    let found = session.lookup_events(&crate::audit::Filter::default()).unwrap();
    let event = serde_json::to_value(&found[0].event).unwrap();
    assert_eq!(event["eventName"], "Sign");
    let parameters = json!({"keyId": key, "messageType": "RAW", "signingAlgorithm": "ECDSA_SHA_256"});
    assert_eq!(event["requestParameters"], parameters);
    assert_eq!(event["responseElements"], Value::Null);
}

/// Stores that were written before keys had specs.
#[test]
fn a_row_without_a_spec_is_a_symmetric_key() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let blob = encrypt(&session, &key, b"x").unwrap();
    crate::kms::rows::tests::write_version(session.region_service(), &key, 1);
    let later = bench.another().root_session(&region()).unwrap();
    assert_eq!(metadata(&later, &key).key_spec, "SYMMETRIC_DEFAULT");
    assert_eq!(decrypt(&later, &blob).unwrap(), b"x");
}

#[test]
fn a_secret_is_encapsulated_for_the_key_and_comes_back() {
    let bench = Bench::new();
    let session = bench.session();
    for (spec, len) in [("ML_KEM_512", 768), ("ML_KEM_768", 1088), ("ML_KEM_1024", 1568)] {
        let key = make_kind(&session, spec, "ENCAPSULATE_DECAPSULATE");
        let described = json!(metadata(&session, &key));
        assert_eq!(described["EncapsulationAlgorithms"], json!(["ML_KEM"]));
        let body = json!({"KeyId": key, "EncapsulationAlgorithm": "ML_KEM"});
        let made = super::json(&session, "Encapsulate", body.clone()).unwrap();
        let ciphertext = bytes(&made["SharedSecretCiphertextBlob"]);
        assert_eq!((ciphertext.len(), bytes(&made["SharedSecret"]).len()), (len, 32));
        let open = |ciphertext: &[u8]| {
            let mut body = body.clone();
            body["SharedSecretCiphertextBlob"] = json!(base64(ciphertext));
            super::json(&session, "Decapsulate", body)
        };
        assert_eq!(open(&ciphertext).unwrap()["SharedSecret"], made["SharedSecret"]);
        // Whoever has the public key can do the same.
        let public = session.call(GetPublicKeyRequest { key_id: key.clone(), ..Default::default() }).unwrap();
        assert_eq!(json!(public)["EncapsulationAlgorithms"], json!(["ML_KEM"]));
        let (outside, secret) = PublicKey::parse(&public.public_key).unwrap().encapsulate().unwrap();
        assert_eq!(bytes(&open(&outside).unwrap()["SharedSecret"]), secret.expose());
        // FIPS 203: a changed one gives another secret, one of another length is an error.
        let changed: Vec<u8> = ciphertext.iter().map(|b| b ^ 1).collect();
        assert_ne!(open(&changed).unwrap()["SharedSecret"], made["SharedSecret"]);
        assert_eq!(kind(open(&ciphertext[1..])), KmsErrorKind::InvalidCiphertext);
    }
    let other = make_kind(&session, "RSA_2048", "ENCRYPT_DECRYPT");
    let body = json!({"KeyId": other, "EncapsulationAlgorithm": "ML_KEM"});
    assert_eq!(kind(super::json(&session, "Encapsulate", body)), KmsErrorKind::InvalidKeyUsage);
}
