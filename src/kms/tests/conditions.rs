//! The condition keys that requests, keys and grants give to policies.

use serde_json::{Value, json};

use super::grants::{ALICE, BOB, ROLE, STRANGER, at, grant_with, kind, message, retire};
use super::*;
use crate::iam::Context;
use crate::kms::conditions::say;
use crate::kms::operation::Operation;

/// Lets ALICE do something under a condition.
fn allow(session: &Session, key: &str, action: &str, condition: &Value) {
    let root = json!({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"});
    let statement = json!({
        "Effect": "Allow", "Principal": {"AWS": ALICE}, "Action": action, "Resource": "*", "Condition": condition
    });
    let policy = json!({"Version": "2012-10-17", "Statement": [root, statement]}).to_string();
    json(session, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).unwrap();
}

fn denied<T>(answer: Result<T, KmsError>) -> bool {
    let kind = kind(answer);
    assert!(matches!(kind, None | Some(KmsErrorKind::AccessDenied | KmsErrorKind::DryRun)), "{kind:?}");
    kind == Some(KmsErrorKind::AccessDenied)
}

fn key_of(session: &Session, spec: &str, usage: &str) -> String {
    let made = json(session, "CreateKey", json!({"KeySpec": spec, "KeyUsage": usage})).unwrap();
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

#[test]
fn algorithms_message_types_and_specs_of_requests_are_seen() {
    let bench = Bench::new();
    let (session, alice) = (bench.session(), at(&bench, ALICE));
    let symmetric = make(&session);
    let signs = key_of(&session, "RSA_2048", "SIGN_VERIFY");
    let macs = key_of(&session, "HMAC_256", "GENERATE_VERIFY_MAC");
    let agrees = key_of(&session, "ECC_NIST_P256", "KEY_AGREEMENT");
    let public = json(&session, "GetPublicKey", json!({"KeyId": agrees})).unwrap()["PublicKey"].clone();
    let digest = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
    let sign = json!({"Message": "eA==", "SigningAlgorithm": "RSASSA_PSS_SHA_256"});
    let sign_digest =
        json!({"Message": digest, "MessageType": "DIGEST", "SigningAlgorithm": "RSASSA_PSS_SHA_256"});
    for (key, operation, request, name, good, bad) in [
        (&signs, "Sign", sign.clone(), "kms:SigningAlgorithm", "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_512"),
        (&signs, "Sign", sign.clone(), "kms:MessageType", "RAW", "DIGEST"),
        (&signs, "Sign", sign_digest, "kms:MessageType", "DIGEST", "RAW"),
        (&signs, "Sign", sign.clone(), "kms:KeySpec", "RSA_2048", "RSA_3072"),
        (&signs, "Sign", sign.clone(), "kms:CustomerMasterKeySpec", "RSA_2048", "RSA_3072"),
        (&signs, "Sign", sign.clone(), "kms:KeyUsage", "SIGN_VERIFY", "ENCRYPT_DECRYPT"),
        (&signs, "Sign", sign, "kms:CustomerMasterKeyUsage", "SIGN_VERIFY", "ENCRYPT_DECRYPT"),
        (
            &macs,
            "GenerateMac",
            json!({"Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"}),
            "kms:MacAlgorithm",
            "HMAC_SHA_256",
            "HMAC_SHA_512",
        ),
        (
            &agrees,
            "DeriveSharedSecret",
            json!({"KeyAgreementAlgorithm": "ECDH", "PublicKey": public}),
            "kms:KeyAgreementAlgorithm",
            "ECDH",
            "X25519",
        ),
        (
            &symmetric,
            "GenerateDataKeyPair",
            json!({"KeyPairSpec": "ECC_NIST_P256"}),
            "kms:DataKeyPairSpec",
            "ECC_NIST_P256",
            "RSA_2048",
        ),
        (
            &symmetric,
            "GenerateDataKeyPairWithoutPlaintext",
            json!({"KeyPairSpec": "ECC_NIST_P256"}),
            "kms:DataKeyPairSpec",
            "ECC_NIST_P256",
            "RSA_2048",
        ),
        // The spec of a data key is not the key's.
        (
            &symmetric,
            "GenerateDataKey",
            json!({"KeySpec": "AES_256"}),
            "kms:KeySpec",
            "SYMMETRIC_DEFAULT",
            "AES_256",
        ),
        // What was left out has its default.
        (&symmetric, "EnableKeyRotation", json!({}), "kms:RotationPeriodInDays", "365", "90"),
        (
            &symmetric,
            "ScheduleKeyDeletion",
            json!({}),
            "kms:ScheduleKeyDeletionPendingWindowInDays",
            "30",
            "7",
        ),
    ] {
        let mut request = request.clone();
        request["KeyId"] = json!(key);
        for (value, expected) in [(bad, true), (good, false)] {
            let condition = json!({"StringEquals": {name: value}});
            allow(&session, key, &format!("kms:{operation}"), &condition);
            let answer = json(&alice, operation, request.clone());
            assert_eq!(denied(answer), expected, "{operation} {name} {value}");
        }
    }
}

#[test]
fn tags_and_aliases_of_the_key_are_seen_as_they_are_now() {
    let bench = Bench::new();
    let (session, alice) = (bench.session(), at(&bench, ALICE));
    let key = make(&session);
    let arn = metadata(&session, &key).arn;
    let tag = |value: &str| json!({"KeyId": key, "Tags": [{"TagKey": "Team", "TagValue": value}]});
    allow(&session, &key, "kms:Encrypt", &json!({"StringEquals": {"aws:ResourceTag/team": "red"}}));
    assert!(denied(encrypt(&alice, &arn, b"x")));
    json(&session, "TagResource", tag("red")).unwrap();
    assert!(!denied(encrypt(&alice, &arn, b"x")));
    json(&session, "TagResource", tag("blue")).unwrap();
    assert!(denied(encrypt(&alice, &arn, b"x")));

    // The request may name the key however it likes.
    let condition = json!({"ForAnyValue:StringLike": {"kms:ResourceAliases": "alias/pay*"}});
    allow(&session, &key, "kms:Encrypt", &condition);
    assert!(denied(encrypt(&alice, &arn, b"x")));
    alias(&session, "alias/other", &key).unwrap();
    assert!(denied(encrypt(&alice, "alias/other", b"x")));
    alias(&session, "alias/payroll", &key).unwrap();
    assert!(!denied(encrypt(&alice, &arn, b"x")));
    assert!(!denied(encrypt(&alice, "alias/other", b"x")));
    session.call(DeleteAliasRequest { alias_name: "alias/payroll".to_owned() }).unwrap();
    assert!(denied(encrypt(&alice, &arn, b"x")));
    // Operations that read the store see them too.
    allow(&session, &key, "kms:DescribeKey", &condition);
    let describe = || alice.call(DescribeKeyRequest { key_id: arn.clone(), ..Default::default() });
    assert!(denied(describe()));
    alias(&session, "alias/payroll", &key).unwrap();
    assert!(!denied(describe()));
}

#[test]
fn re_encrypting_says_whether_it_stays_on_its_key() {
    let bench = Bench::new();
    let (session, alice) = (bench.session(), at(&bench, ALICE));
    let (key, other) = (make(&session), make(&session));
    alias(&session, "alias/same", &key).unwrap();
    let blob = encrypt(&session, &key, b"x").unwrap();
    let ask = |to: &str| {
        let (ciphertext_blob, destination_key_id) = (blob.clone(), to.to_owned());
        denied(alice.call(ReEncryptRequest { ciphertext_blob, destination_key_id, ..Default::default() }))
    };
    for (same, on_itself, on_other) in [("true", false, true), ("false", true, false)] {
        for key in [&key, &other] {
            let condition = json!({"Bool": {"kms:ReEncryptOnSameKey": same}});
            allow(&session, key, "kms:ReEncrypt*", &condition);
        }
        assert_eq!(ask(&key), on_itself, "{same}");
        assert_eq!(ask("alias/same"), on_itself, "{same}");
        assert_eq!(ask(&other), on_other, "{same}");
    }
    // No other operation says it.
    allow(&session, &key, "kms:Encrypt", &json!({"Null": {"kms:ReEncryptOnSameKey": "false"}}));
    assert!(denied(encrypt(&alice, &key, b"x")));
}

#[test]
fn policies_limit_which_grants_may_be_made() {
    let bench = Bench::new();
    let (session, alice) = (bench.session(), at(&bench, ALICE));
    let key = make(&session);
    let subset = json!({"Constraints": {"EncryptionContextSubset": {"Department": "IT"}}});
    let equals = json!({"Constraints": {"EncryptionContextEquals": {"Department": "IT"}}});
    let retiring = |who: &str| json!({"RetiringPrincipal": who});
    let source = "arn:aws:ec2:us-east-1:000000000000:volume/vol-1";
    let for_source = json!({"Constraints": {"SourceArn": source}});
    for (condition, good, bad) in [
        (
            json!({"ForAllValues:StringEquals": {"kms:GrantOperations": ["Encrypt", "Decrypt"]}}),
            (BOB, &["Decrypt"][..], json!({})),
            (BOB, &["Decrypt", "CreateGrant"][..], json!({})),
        ),
        (
            json!({"StringEquals": {"kms:GranteePrincipal": ROLE}}),
            (ROLE, &["Decrypt"], json!({})),
            (BOB, &["Decrypt"], json!({})),
        ),
        (
            json!({"StringEquals": {"kms:RetiringPrincipal": ROLE}}),
            (BOB, &["Decrypt"], retiring(ROLE)),
            (BOB, &["Decrypt"], json!({})),
        ),
        (
            json!({"StringLike": {"kms:RetiringPrincipal": "arn:aws:iam::000000000000:role/*"}}),
            (BOB, &["Decrypt"], retiring(ROLE)),
            (BOB, &["Decrypt"], retiring(STRANGER)),
        ),
        (
            json!({"StringEquals": {"kms:GrantConstraintType": "EncryptionContextSubset"}}),
            (BOB, &["Decrypt"], subset.clone()),
            (BOB, &["Decrypt"], equals.clone()),
        ),
        (
            json!({"Null": {"kms:GrantConstraintType": "false"}}),
            (BOB, &["Decrypt"], equals.clone()),
            (BOB, &["Decrypt"], json!({})),
        ),
        (
            json!({"StringEquals": {"kms:EncryptionContext:Department": "IT"}}),
            (BOB, &["Decrypt"], subset.clone()),
            (BOB, &["Decrypt"], json!({"Constraints": {"EncryptionContextSubset": {"Department": "HR"}}})),
        ),
        (
            json!({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "Department"}}),
            (BOB, &["Decrypt"], equals.clone()),
            (BOB, &["Decrypt"], json!({})),
        ),
        (
            json!({"ArnEquals": {"kms:GrantConstraintSourceArn": source}}),
            (BOB, &["Decrypt"], for_source.clone()),
            (BOB, &["Decrypt"], subset.clone()),
        ),
        (
            json!({"Bool": {"kms:GrantIsForAWSResource": "false"}, "StringEquals": {"kms:GranteePrincipal": BOB}}),
            (BOB, &["Decrypt"], json!({})),
            (ROLE, &["Decrypt"], json!({})),
        ),
    ] {
        allow(&session, &key, "kms:CreateGrant", &condition);
        for ((grantee, operations, more), expected) in [(good, false), (bad, true)] {
            let answer = grant_with(&alice, &key, grantee, operations, &more);
            assert_eq!(denied(answer), expected, "{condition} {grantee} {operations:?} {more}");
        }
    }
    // Here no service asks for a customer.
    allow(&session, &key, "kms:*Grant*", &json!({"Bool": {"kms:GrantIsForAWSResource": "true"}}));
    let (id, _) = grant_with(&session, &key, BOB, &["Decrypt"], &json!({})).unwrap();
    assert!(denied(grant_with(&alice, &key, BOB, &["Decrypt"], &json!({}))));
    assert!(denied(json(&alice, "ListGrants", json!({"KeyId": key}))));
    assert!(denied(json(&alice, "RevokeGrant", json!({"KeyId": key, "GrantId": id}))));
    // A service's names.
    let ec2 = "ec2.us-east-1.amazonaws.com";
    let condition =
        json!({"StringEquals": {"kms:GranteeServicePrincipal": ec2, "kms:RetiringServicePrincipal": ec2}});
    allow(&session, &key, "kms:CreateGrant", &condition);
    for (retirer, expected) in [(ec2, false), ("s3.us-east-1.amazonaws.com", true)] {
        let request = json!({
            "KeyId": key, "Operations": ["Decrypt"], "GranteeServicePrincipal": ec2,
            "RetiringServicePrincipal": retirer, "Constraints": {"SourceArn": source}
        });
        assert_eq!(denied(json(&alice, "CreateGrant", request)), expected, "{retirer}");
    }
}

#[test]
fn retiring_says_the_constraints_of_the_grant() {
    let bench = Bench::new();
    let (session, bob) = (bench.session(), at(&bench, BOB));
    let key = make(&session);
    let root = json!({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"});
    let deny = json!({
        "Effect": "Deny", "Principal": "*", "Action": "kms:RetireGrant", "Resource": "*",
        "Condition": {"StringEquals": {
            "kms:GrantConstraintType": "EncryptionContextEquals", "kms:EncryptionContext:Department": "IT"
        }}
    });
    let policy = json!({"Version": "2012-10-17", "Statement": [root, deny]}).to_string();
    json(&session, "PutKeyPolicy", json!({"KeyId": key, "Policy": policy})).unwrap();
    for (department, kept) in [("IT", true), ("HR", false)] {
        let more = json!({
            "RetiringPrincipal": BOB, "Constraints": {"EncryptionContextEquals": {"Department": department}}
        });
        let (id, _) = grant_with(&session, &key, ALICE, &["Decrypt"], &more).unwrap();
        let answer = message(retire(&bob, &key, &id));
        assert_eq!(answer.ends_with("with an explicit deny in a resource-based policy"), kept, "{answer}");
    }
}

#[test]
fn making_a_key_says_what_it_will_be() {
    let said = |request: Value| {
        let request: CreateKeyRequest = serde_json::from_value(request).unwrap();
        let mut context = Context::new();
        say(&request.parameters(), "kms:CreateKey", &mut context);
        context
    };
    let expected = |spec: &str, usage: &str| {
        Context::new()
            .with("kms:KeySpec", spec)
            .with("kms:KeyUsage", usage)
            .with("kms:CustomerMasterKeySpec", spec)
            .with("kms:CustomerMasterKeyUsage", usage)
            .with("kms:KeyOrigin", "AWS_KMS")
            .with("kms:MultiRegion", "false")
    };
    assert_eq!(said(json!({})), expected("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"));
    assert_eq!(
        said(json!({"CustomerMasterKeySpec": "RSA_4096", "KeyUsage": "SIGN_VERIFY"})),
        expected("RSA_4096", "SIGN_VERIFY")
    );
    assert_eq!(
        said(json!({"Tags": [{"TagKey": "a", "TagValue": "b"}], "BypassPolicyLockoutSafetyCheck": true})),
        expected("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
            .with("aws:RequestTag/a", "b")
            .with_all("aws:TagKeys", ["a"])
            .with("kms:BypassPolicyLockoutSafetyCheck", "true")
    );
}
