//! Every operation in every state of a key.

use serde_json::json;

use super::*;

/// What each operation answers in each state (shared/kms-rules: "Key state and operation").
#[test]
fn states_allow_what_the_table_says() {
    let bench = Bench::new();
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
    ];
    for (row, _) in super::operation::OPERATIONS {
        let there = table.iter().any(|(name, ..)| *name == row.name);
        assert!(there || row.name == "CreateKey", "the table says nothing of {}", row.name);
    }
    let usable_blob = encrypt(&session, &usable, b"x").unwrap();
    for (operation, request, disabled, deleted) in &table {
        for (state, refusal) in [
            (KeyState::Enabled, None),
            (KeyState::Disabled, *disabled),
            (KeyState::PendingDeletion, *deleted),
        ] {
            let (key, made) = pairs::key_for(&session, &request.to_string());
            let blob = encrypt(&session, &key, b"x").unwrap_or_default();
            alias(&session, "alias/old", &key).unwrap();
            alias(&session, "alias/usable", &usable).unwrap();
            let root = format!("arn:aws:iam::{ACCOUNT}:root");
            let grant = json!({"KeyId": key, "GranteePrincipal": root, "Operations": ["DescribeKey"]});
            let grant = json(&session, "CreateGrant", grant).unwrap();
            match state {
                KeyState::Disabled => disable(&session, &key),
                KeyState::PendingDeletion => drop(schedule(&session, &key, 7)),
                _ => {}
            }
            let base64 = |bytes: &[u8]| {
                use base64::Engine;
                base64::engine::general_purpose::STANDARD.encode(bytes)
            };
            let text = request.to_string().replace("$k", &key).replace("$b", &base64(&blob));
            let text = text.replace("$u", &usable).replace("$c", &base64(&usable_blob));
            let text = text.replace("$signs", &key).replace("$macs", &key).replace("$agrees", &key);
            let text = text.replace("$made", &made).replace("$g", grant["GrantId"].as_str().unwrap());
            let answer = session.call_json(operation, text.as_bytes());
            let refusal = if *operation == "CancelKeyDeletion" && state == KeyState::Enabled {
                *disabled
            } else {
                refusal
            };
            match refusal {
                None => assert!(answer.is_ok(), "{operation} {state:?}: {answer:?}"),
                Some(text) => {
                    let error = answer.unwrap_err();
                    let kind = match text {
                        "is disabled." => KmsErrorKind::Disabled,
                        _ => KmsErrorKind::InvalidState(state),
                    };
                    let arn = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{key} {text}");
                    assert_eq!((error.kind, error.message), (kind, arn), "{operation} {state:?}");
                }
            }
            for name in ["alias/old", "alias/usable", "alias/new"] {
                let _ = session.call(DeleteAliasRequest { alias_name: name.to_owned() });
            }
        }
    }
}
