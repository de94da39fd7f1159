//! Every operation in every state of a key.

use serde_json::{Value, json};

use super::import::{external, import, request};
use super::*;
use crate::kms::imported::Import;
use crate::kms::related::Related;
use crate::kms::rows::KeyRow;
use crate::kms::state::State;
use crate::store::{Durability, Store};

/// The states that a key's row can be in, beside Enabled.
const STATES: [&str; 6] =
    ["Disabled", "PendingDeletion", "PendingReplicaDeletion", "PendingImport", "Expired", "Updating"];

/// What stands in AWS's answer of a state that refuses.
fn refusal(state: &str) -> (KmsErrorKind, &'static str) {
    let of = KmsErrorKind::InvalidState;
    match state {
        "Disabled" => (KmsErrorKind::Disabled, "is disabled."),
        "PendingDeletion" => (of(KeyState::PendingDeletion), "is pending deletion."),
        "PendingReplicaDeletion" => (of(KeyState::PendingReplicaDeletion), "is pending replica deletion."),
        "PendingImport" => (of(KeyState::PendingImport), "is pending import."),
        "Expired" => (KmsErrorKind::MaterialExpired, "is pending import."),
        "Updating" => (of(KeyState::Updating), "is updating."),
        other => panic!("{other}"),
    }
}

/// Puts a key's row into a state that takes more than one operation to reach.
fn force(session: &Session, key: &str, state: &str) {
    let region = session.region_service();
    let id = key.parse().unwrap();
    let mut tx = region.store.write(Durability::Synced).unwrap();
    let row = rows::key(&*tx, &id).unwrap().unwrap();
    let arn = metadata_arn(key).parse().unwrap();
    let import = row.import.clone().or_else(|| Some(Import::new(&region.root, &arn).unwrap()));
    let related = row.related.clone().unwrap_or_else(|| Related::primary(&region.region));
    let row = match state {
        "PendingReplicaDeletion" => KeyRow { state: State::PendingReplicaDeletion { days: 7 }, ..row },
        "PendingImport" => KeyRow { state: State::PendingImport, import, ..row },
        "Expired" => KeyRow { state: State::Expired, import, ..row },
        "Updating" => KeyRow { related: Some(Related { updating: true, ..related }), ..row },
        other => panic!("{other}"),
    };
    rows::put_key(&mut *tx, &id, &row).unwrap();
    region.move_generation(&mut *tx).unwrap();
    tx.commit().unwrap();
}

fn metadata_arn(key: &str) -> String {
    format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{key}")
}

/// The key that a request names, and the request with all that it needs.
fn prepared(session: &Session, operation: &str, request_text: &str) -> (String, String) {
    let kem = || {
        let request = json!({"KeySpec": "ML_KEM_512", "KeyUsage": "ENCAPSULATE_DECAPSULATE"});
        json(session, "CreateKey", request).unwrap()["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
    };
    let multi = || {
        let request = json!({"MultiRegion": true});
        json(session, "CreateKey", request).unwrap()["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
    };
    if request_text.contains("$external") {
        let key = external(session, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", false);
        import(session, &key, &[7; 32]).unwrap();
        let mut text = request_text.replace("$external", &key);
        if operation == "ImportKeyMaterial" {
            let request = request(session, &key, &[7; 32]);
            text = text.replace("$token", &base64(&request.import_token));
            text = text.replace("$wrapped", &base64(&request.encrypted_key_material));
        }
        (key, text)
    } else if request_text.contains("$encapsulates") {
        let key = kem();
        let body = json!({"KeyId": key, "EncapsulationAlgorithm": "ML_KEM"});
        let made = json(session, "Encapsulate", body).unwrap();
        let made = made["SharedSecretCiphertextBlob"].as_str().unwrap().to_owned();
        (key.clone(), request_text.replace("$encapsulates", &key).replace("$made", &made))
    } else if request_text.contains("$multi") {
        let key = multi();
        if operation == "UpdatePrimaryRegion" {
            let body = json!({"KeyId": key, "ReplicaRegion": "eu-west-1"});
            json(session, "ReplicateKey", body).unwrap();
        }
        (key.clone(), request_text.replace("$multi", &key))
    } else {
        let (key, made) = pairs::key_for(session, request_text);
        let text = request_text.replace("$signs", &key).replace("$macs", &key).replace("$agrees", &key);
        (key.clone(), text.replace("$made", &made))
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The states in which an operation is refused, beside those of the table's two columns: without material whatever a
/// disabled key refuses; while another region becomes the primary, nothing.
fn exceptions(operation: &str) -> &'static [&'static str] {
    match operation {
        "EnableKey" | "DisableKey" => &["PendingImport", "Expired", "Updating"],
        "ScheduleKeyDeletion"
        | "CancelKeyDeletion"
        | "EnableKeyRotation"
        | "DisableKeyRotation"
        | "RotateKeyOnDemand"
        | "ImportKeyMaterial"
        | "DeleteImportedKeyMaterial"
        | "ReplicateKey"
        | "UpdatePrimaryRegion" => &["Updating"],
        _ => &[],
    }
}

/// What each operation answers in each state (shared/kms-rules: "Key state and operation").
#[test]
fn states_allow_what_the_table_says() {
    let bench = Bench::new();
    bench.kms.create_region(&"eu-west-1".parse().unwrap(), None).unwrap();
    let session = bench.session();
    let usable = make(&session);
    // Operation, request with $k for the key and $b for a blob under it, then Disabled, PendingDeletion.
    let (ok, off, pending) = (None, Some("is disabled."), Some("is pending deletion."));
    let table = [
        ("Encrypt", json!({"KeyId": "$k", "Plaintext": "eA=="}), off, pending),
        ("Decrypt", json!({"CiphertextBlob": "$b"}), off, pending),
        ("ReEncrypt", json!({"CiphertextBlob": "$b", "DestinationKeyId": "$u"}), off, pending),
        ("ReEncrypt", json!({"CiphertextBlob": "$c", "DestinationKeyId": "$k"}), off, pending),
        ("GenerateDataKey", json!({"KeyId": "$k", "KeySpec": "AES_256"}), off, pending),
        ("GenerateDataKeyWithoutPlaintext", json!({"KeyId": "$k", "NumberOfBytes": 5}), off, pending),
        ("GenerateDataKeyPair", json!({"KeyId": "$k", "KeyPairSpec": "ECC_NIST_P256"}), off, pending),
        (
            "GenerateDataKeyPairWithoutPlaintext",
            json!({"KeyId": "$k", "KeyPairSpec": "ECC_NIST_P256"}),
            off,
            pending,
        ),
        ("GetPublicKey", json!({"KeyId": "$signs"}), off, pending),
        (
            "Sign",
            json!({"KeyId": "$signs", "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"}),
            off,
            pending,
        ),
        (
            "Verify",
            json!({"KeyId": "$signs", "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256", "Signature": "$made"}),
            off,
            pending,
        ),
        (
            "GenerateMac",
            json!({"KeyId": "$macs", "Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"}),
            off,
            pending,
        ),
        (
            "VerifyMac",
            json!({"KeyId": "$macs", "Message": "eA==", "MacAlgorithm": "HMAC_SHA_256", "Mac": "$made"}),
            off,
            pending,
        ),
        (
            "DeriveSharedSecret",
            json!({"KeyId": "$agrees", "KeyAgreementAlgorithm": "ECDH", "PublicKey": "$made"}),
            off,
            pending,
        ),
        ("RotateKeyOnDemand", json!({"KeyId": "$k"}), off, pending),
        ("EnableKeyRotation", json!({"KeyId": "$k"}), off, pending),
        ("DisableKeyRotation", json!({"KeyId": "$k"}), off, pending),
        ("GetKeyRotationStatus", json!({"KeyId": "$k"}), ok, ok),
        ("DescribeKey", json!({"KeyId": "$k"}), ok, ok),
        ("GetKeyLastUsage", json!({"KeyId": "$k"}), ok, ok),
        ("GenerateRandom", json!({"NumberOfBytes": 8}), ok, ok),
        ("TagResource", json!({"KeyId": "$k", "Tags": [{"TagKey": "a", "TagValue": "b"}]}), ok, pending),
        ("UntagResource", json!({"KeyId": "$k", "TagKeys": ["a"]}), ok, pending),
        ("ListResourceTags", json!({"KeyId": "$k"}), ok, ok),
        ("UpdateKeyDescription", json!({"KeyId": "$k", "Description": ""}), ok, pending),
        (
            "CreateGrant",
            json!({"KeyId": "$k", "GranteePrincipal": format!("arn:aws:iam::{ACCOUNT}:root"), "Operations": ["Decrypt"]}),
            off,
            pending,
        ),
        ("ListGrants", json!({"KeyId": "$k"}), ok, ok),
        ("ListRetirableGrants", json!({"RetiringPrincipal": format!("arn:aws:iam::{ACCOUNT}:root")}), ok, ok),
        ("RetireGrant", json!({"KeyId": "$k", "GrantId": "$g"}), ok, ok),
        ("RevokeGrant", json!({"KeyId": "$k", "GrantId": "$g"}), ok, ok),
        ("GetKeyPolicy", json!({"KeyId": "$k"}), ok, ok),
        ("ListKeyPolicies", json!({"KeyId": "$k"}), ok, ok),
        ("PutKeyPolicy", json!({"KeyId": "$k", "Policy": super::policies::DEFAULT}), ok, ok),
        ("ListKeyRotations", json!({"KeyId": "$k"}), ok, ok),
        ("ListAliases", json!({"KeyId": "$k"}), ok, ok),
        ("ListKeys", json!({}), ok, ok),
        ("CreateAlias", json!({"AliasName": "alias/new", "TargetKeyId": "$k"}), ok, pending),
        ("UpdateAlias", json!({"AliasName": "alias/usable", "TargetKeyId": "$k"}), ok, pending),
        ("DeleteAlias", json!({"AliasName": "alias/old"}), ok, ok),
        ("DisableKey", json!({"KeyId": "$k"}), ok, pending),
        ("EnableKey", json!({"KeyId": "$k"}), ok, pending),
        ("CancelKeyDeletion", json!({"KeyId": "$k"}), Some("is not pending deletion."), ok),
        ("ScheduleKeyDeletion", json!({"KeyId": "$k"}), ok, pending),
        (
            "GetParametersForImport",
            json!({"KeyId": "$external", "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}),
            ok,
            pending,
        ),
        (
            "ImportKeyMaterial",
            json!({"KeyId": "$external", "ImportToken": "$token", "EncryptedKeyMaterial": "$wrapped",
                "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}),
            ok,
            pending,
        ),
        ("DeleteImportedKeyMaterial", json!({"KeyId": "$external"}), ok, ok),
        ("ReplicateKey", json!({"KeyId": "$multi", "ReplicaRegion": "eu-west-1"}), off, pending),
        ("UpdatePrimaryRegion", json!({"KeyId": "$multi", "PrimaryRegion": "eu-west-1"}), off, pending),
        ("Encapsulate", json!({"KeyId": "$encapsulates", "EncapsulationAlgorithm": "ML_KEM"}), off, pending),
        (
            "Decapsulate",
            json!({"KeyId": "$encapsulates", "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": "$made"}),
            off,
            pending,
        ),
        ("CreateKey", json!({}), ok, ok),
    ];
    for (row, _) in super::operation::OPERATIONS {
        let there = table.iter().any(|(name, ..)| *name == row.name);
        assert!(
            there || row.name.ends_with("CustomKeyStore") || row.name == "DescribeCustomKeyStores",
            "the table says nothing of {}",
            row.name
        );
    }
    let usable_blob = encrypt(&session, &usable, b"x").unwrap();
    for (operation, request, disabled, deleted) in &table {
        for state in ["Enabled"].iter().chain(&STATES) {
            // A primary key that has a replica waits for that first.
            if (*operation, *state) == ("UpdatePrimaryRegion", "PendingDeletion") {
                continue;
            }
            let (key, text) = prepared(&session, operation, &request.to_string());
            let blob = encrypt(&session, &key, b"x").unwrap_or_default();
            alias(&session, "alias/old", &key).unwrap();
            alias(&session, "alias/usable", &usable).unwrap();
            let root = format!("arn:aws:iam::{ACCOUNT}:root");
            let grant = json!({"KeyId": key, "GranteePrincipal": root, "Operations": ["DescribeKey"]});
            let grant = json(&session, "CreateGrant", grant).unwrap();
            match *state {
                "Enabled" => {}
                "Disabled" => disable(&session, &key),
                "PendingDeletion" => drop(schedule(&session, &key, 7)),
                other => force(&session, &key, other),
            }
            let text = text.replace("$k", &key).replace("$b", &base64(&blob));
            let text = text.replace("$u", &usable).replace("$c", &base64(&usable_blob));
            let text = text.replace("$g", grant["GrantId"].as_str().unwrap());
            let answer = session.call_json(operation, text.as_bytes());
            let refuses = match *state {
                "Enabled" => false,
                "Disabled" => disabled.is_some(),
                "PendingDeletion" | "PendingReplicaDeletion" => deleted.is_some(),
                "Updating" => exceptions(operation).contains(state),
                _ => disabled.is_some() || exceptions(operation).contains(state),
            };
            let due = match *state {
                // Of a key that is not going there is nothing to cancel.
                going if *operation == "CancelKeyDeletion" && !going.ends_with("Deletion") => {
                    Some(match going {
                        "Enabled" => {
                            (KmsErrorKind::InvalidState(KeyState::Enabled), "is not pending deletion.")
                        }
                        "Disabled" => {
                            (KmsErrorKind::InvalidState(KeyState::Disabled), "is not pending deletion.")
                        }
                        "Updating" => refusal(going),
                        _ => {
                            (KmsErrorKind::InvalidState(KeyState::PendingImport), "is not pending deletion.")
                        }
                    })
                }
                state if refuses => Some(refusal(state)),
                _ => None,
            };
            match due {
                None => assert!(answer.is_ok(), "{operation} {state}: {answer:?}"),
                Some((kind, text)) => {
                    let error = answer.expect_err(&format!("{operation} {state}"));
                    let message = format!("{} {text}", metadata_arn(&key));
                    assert_eq!((error.kind, error.message), (kind, message), "{operation} {state}");
                }
            }
            for name in ["alias/old", "alias/usable", "alias/new"] {
                let _ = session.call(DeleteAliasRequest { alias_name: name.to_owned() });
            }
        }
    }
}

#[test]
fn operations_of_custom_key_stores_are_refused_and_recorded() {
    let session = Bench::new().session();
    for name in [
        "CreateCustomKeyStore",
        "ConnectCustomKeyStore",
        "DescribeCustomKeyStores",
        "DisconnectCustomKeyStore",
        "UpdateCustomKeyStore",
        "DeleteCustomKeyStore",
    ] {
        let request: Value = json!({"CustomKeyStoreId": "cks-1234567890abcdef0"});
        let error = json(&session, name, request).unwrap_err();
        assert_eq!(error.kind, KmsErrorKind::UnsupportedOperation, "{name}");
        let found = session.lookup_events(&crate::audit::Filter::default()).unwrap();
        assert_eq!(found[0].event.event_name, name);
        assert_eq!(found[0].event.error_code.as_deref(), Some("UnsupportedOperationException"));
    }
}
