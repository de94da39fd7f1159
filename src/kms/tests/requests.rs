//! Requests and answers in AWS's shapes.

use serde_json::json;

use super::*;

fn kind<T>(answer: Result<T, KmsError>) -> Option<KmsErrorKind> {
    answer.err().map(|error| error.kind)
}

fn message<T>(answer: Result<T, KmsError>) -> String {
    answer.err().unwrap().message
}

#[test]
fn bad_requests_have_awss_errors() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let long = "x".repeat(4097);
    for (operation, request, kind) in [
        ("CreateKey", json!({"KeySpec": "RSA_2048"}), KmsErrorKind::Validation),
        ("CreateKey", json!({"KeySpec": "SM2"}), KmsErrorKind::UnsupportedOperation),
        ("CreateKey", json!({"KeySpec": "ML_KEM_768"}), KmsErrorKind::Validation),
        ("CreateKey", json!({"KeySpec": "DES"}), KmsErrorKind::Validation),
        ("CreateKey", json!({"KeyUsage": "SIGN_VERIFY"}), KmsErrorKind::Validation),
        ("CreateKey", json!({"Origin": "AWS_CLOUDHSM"}), KmsErrorKind::UnsupportedOperation),
        ("CreateKey", json!({"Tags": [{"TagKey": "aws:x", "TagValue": ""}]}), KmsErrorKind::Tag),
        ("DescribeKey", json!({}), KmsErrorKind::Validation),
        ("DescribeKey", json!({"KeyId": 5}), KmsErrorKind::Serialization),
        ("DescribeKey", json!({"KeyId": "nonsense"}), KmsErrorKind::NotFound),
        ("DescribeKey", json!({"KeyId": "arn:aws:kms:x"}), KmsErrorKind::InvalidArn),
        ("DisableKey", json!({"KeyId": "alias/x"}), KmsErrorKind::NotFound),
        ("Encrypt", json!({"KeyId": key, "Plaintext": ""}), KmsErrorKind::Validation),
        ("Encrypt", json!({"KeyId": key, "Plaintext": "%"}), KmsErrorKind::Serialization),
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "eA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}),
            KmsErrorKind::InvalidKeyUsage,
        ),
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "eA==", "GrantTokens": ["x"]}),
            KmsErrorKind::InvalidGrantToken,
        ),
        ("Encrypt", json!({"KeyId": key, "Plaintext": "eA==", "DryRun": true}), KmsErrorKind::DryRun),
        ("Decrypt", json!({"CiphertextBlob": "eA==", "Recipient": {}}), KmsErrorKind::UnsupportedOperation),
        ("EnableKeyRotation", json!({"KeyId": key, "RotationPeriodInDays": 89}), KmsErrorKind::Validation),
        ("EnableKeyRotation", json!({"KeyId": key, "RotationPeriodInDays": 2561}), KmsErrorKind::Validation),
        ("EnableKeyRotation", json!({"KeyId": "alias/x"}), KmsErrorKind::NotFound),
        ("DisableKeyRotation", json!({}), KmsErrorKind::Validation),
        ("GetKeyRotationStatus", json!({"KeyId": ""}), KmsErrorKind::Validation),
        ("GetKeyLastUsage", json!({"KeyId": "alias/x"}), KmsErrorKind::NotFound),
        ("GenerateRandom", json!({}), KmsErrorKind::Validation),
        ("GenerateRandom", json!({"NumberOfBytes": 0}), KmsErrorKind::Validation),
        ("GenerateRandom", json!({"NumberOfBytes": 1025}), KmsErrorKind::Validation),
        (
            "GenerateRandom",
            json!({"NumberOfBytes": 1, "CustomKeyStoreId": "cks-1"}),
            KmsErrorKind::UnsupportedOperation,
        ),
        ("GenerateRandom", json!({"NumberOfBytes": 1, "Recipient": {}}), KmsErrorKind::UnsupportedOperation),
        ("UpdateKeyDescription", json!({"KeyId": key}), KmsErrorKind::Validation),
        (
            "UpdateKeyDescription",
            json!({"KeyId": key, "Description": "x".repeat(8193)}),
            KmsErrorKind::Validation,
        ),
        ("TagResource", json!({"KeyId": key}), KmsErrorKind::Validation),
        ("UntagResource", json!({"KeyId": key}), KmsErrorKind::Validation),
        ("UntagResource", json!({"KeyId": key, "TagKeys": [""]}), KmsErrorKind::Validation),
        ("ListResourceTags", json!({"KeyId": key, "Marker": "x"}), KmsErrorKind::InvalidMarker),
        ("ListResourceTags", json!({"KeyId": key, "Limit": 1001}), KmsErrorKind::Validation),
        ("GetKeyPolicy", json!({"KeyId": key, "PolicyName": "other"}), KmsErrorKind::NotFound),
        ("Frobnicate", json!({}), KmsErrorKind::UnknownOperation),
    ] {
        let error = json(&session, operation, request.clone()).unwrap_err();
        assert_eq!(error.kind, kind, "{operation} {request}: {error}");
    }
    assert_eq!(
        message(encrypt(&session, &key, long.as_bytes())),
        "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: \
         Member must have length less than or equal to 4096"
    );
    assert_eq!(kind(encrypt(&session, &key, &long.as_bytes()[1..])), None);
}

#[test]
fn answers_have_awss_shapes() {
    let bench = Bench::new();
    let session = bench.session();
    let made =
        json(&session, "CreateKey", json!({"Description": "d", "Tags": [{"TagKey": "k", "TagValue": "v"}]}));
    let made = made.unwrap()["KeyMetadata"].clone();
    assert_eq!(made["CreationDate"], json!(1_800_000_000.0));
    assert_eq!(made["AWSAccountId"], ACCOUNT);
    assert_eq!((&made["KeyState"], &made["Enabled"]), (&json!("Enabled"), &json!(true)));
    assert_eq!(made["CurrentKeyMaterialId"].as_str().unwrap().len(), 64);
    assert!(made.get("DeletionDate").is_none());
    let key = made["KeyId"].clone();
    let sealed = json(&session, "Encrypt", json!({"KeyId": key, "Plaintext": "c2VjcmV0"})).unwrap();
    let opened = json(&session, "Decrypt", json!({"CiphertextBlob": sealed["CiphertextBlob"]})).unwrap();
    assert_eq!(opened["Plaintext"], "c2VjcmV0");
    assert_eq!(json(&session, "DisableKey", json!({"KeyId": key})).unwrap(), serde_json::Value::Null);
    let gone = json(&session, "ScheduleKeyDeletion", json!({"KeyId": key})).unwrap();
    assert_eq!(gone["DeletionDate"], json!(1_800_000_000.0 + 30.0 * 86400.0));
}
