//! The operations of grants: their bounds, shapes, pages, tokens and events.

use serde_json::{Value, json};

use super::grants::*;
use super::*;
use crate::audit::Filter;
use crate::kms::grant_rows::tests::pretend;
use crate::kms::grants::GRANT_OPERATIONS;

#[test]
fn names_of_operations_are_in_the_order_of_the_enum() {
    for (operation, name) in GRANT_OPERATIONS {
        assert_eq!(operation.name(), name);
    }
}

#[test]
fn operations_must_be_ones_of_the_key() {
    let bench = Bench::new();
    let session = bench.session();
    let of_every_key = ["CreateGrant", "RetireGrant", "DescribeKey"];
    for (spec, usage, fit) in [
        (
            "SYMMETRIC_DEFAULT",
            "ENCRYPT_DECRYPT",
            &[
                "Decrypt",
                "Encrypt",
                "GenerateDataKey",
                "GenerateDataKeyWithoutPlaintext",
                "GenerateDataKeyPair",
                "GenerateDataKeyPairWithoutPlaintext",
                "ReEncryptFrom",
                "ReEncryptTo",
            ][..],
        ),
        ("HMAC_256", "GENERATE_VERIFY_MAC", &["GenerateMac", "VerifyMac"]),
        ("ECC_NIST_P256", "SIGN_VERIFY", &["Sign", "Verify", "GetPublicKey"]),
        ("ECC_NIST_P256", "KEY_AGREEMENT", &["DeriveSharedSecret", "GetPublicKey"]),
        (
            "RSA_2048",
            "ENCRYPT_DECRYPT",
            &["Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GetPublicKey"],
        ),
    ] {
        let made = json(&session, "CreateKey", json!({"KeySpec": spec, "KeyUsage": usage})).unwrap();
        let key = made["KeyMetadata"]["KeyId"].as_str().unwrap();
        for (_, name) in GRANT_OPERATIONS {
            let expected = fit.contains(&name) || of_every_key.contains(&name);
            let answer = grant_with(&session, key, ALICE, &[name, "DescribeKey"], &json!({}));
            let refusal = (!expected).then_some(KmsErrorKind::Validation);
            assert_eq!(kind(answer), refusal, "{spec} {usage} {name}");
        }
        let constraints = json!({"Constraints": {"EncryptionContextSubset": {"a": "b"}}});
        let answer = grant_with(&session, key, ALICE, &["DescribeKey"], &constraints);
        assert_eq!(answer.is_ok(), spec == "SYMMETRIC_DEFAULT", "{spec}");
    }
}

#[test]
fn the_same_request_under_the_same_name_is_the_same_grant() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let make =
        |operations: &[&str], more: Value| grant_with(&session, &key, ALICE, operations, &more).unwrap();
    let named = json!({"Name": "n", "RetiringPrincipal": BOB, "Constraints": {"EncryptionContextEquals": {"a": "b"}}});
    let (first, token) = make(&["Encrypt", "Decrypt"], named.clone());
    bench.clock.days(1);
    let (again, other_token) = make(&["Decrypt", "Encrypt", "Decrypt"], named.clone());
    assert_eq!(first, again);
    assert_ne!(token, other_token);
    assert_eq!(list(&session, json!({"KeyId": key})).len(), 1);
    for (name, value) in [
        ("Name", json!("m")),
        ("RetiringPrincipal", json!(ALICE)),
        ("Constraints", json!({"EncryptionContextEquals": {"a": "c"}})),
        ("Name", Value::Null),
    ] {
        let mut changed = named.clone();
        changed[name] = value;
        assert_ne!(make(&["Encrypt", "Decrypt"], changed.clone()).0, first, "{changed}");
    }
    assert_ne!(make(&["Decrypt"], named.clone()).0, first);
    let unnamed = |_| make(&["Decrypt"], json!({})).0;
    assert_ne!(unnamed(1), unnamed(2));
    // Each token names the grant; one retires it, and no other does anything then.
    json(&session, "RetireGrant", json!({"GrantToken": other_token})).unwrap();
    let gone = json(&session, "RetireGrant", json!({"GrantToken": token}));
    assert_eq!(kind(gone), Some(KmsErrorKind::NotFound));
    assert_ne!(make(&["Encrypt", "Decrypt"], named).0, first);
}

#[test]
fn tokens_are_checked_and_give_nothing_of_their_own() {
    let bench = Bench::new();
    let session = bench.session();
    let (alice, bob) = (at(&bench, ALICE), at(&bench, BOB));
    let key = make(&session);
    let (id, token) = grant(&session, &key, ALICE, &["Encrypt"]);
    let ask = |who: &Session, token: &str| {
        let request = json!({"KeyId": key, "Plaintext": "eA==", "GrantTokens": [token]});
        kind(json(who, "Encrypt", request))
    };
    assert_eq!(ask(&alice, &token), None);
    // Another's token does not help.
    assert_eq!(ask(&bob, &token), Some(KmsErrorKind::AccessDenied));
    let elsewhere = "eu-west-1".parse().unwrap();
    bench.kms.create_region(&elsewhere, None).unwrap();
    let other = bench.kms.root_session(&elsewhere).unwrap();
    let (_, foreign) = grant(&other, &make(&other), ALICE, &["Encrypt"]);
    let invalid = Some(KmsErrorKind::InvalidGrantToken);
    let mut flipped = token.clone().into_bytes();
    flipped[60] = if flipped[60] == b'A' { b'B' } else { b'A' };
    for bad in ["x", &token[1..], &foreign, std::str::from_utf8(&flipped).unwrap(), "%", &token.repeat(2)] {
        assert_eq!(ask(&alice, bad), invalid, "{bad}");
        let retired = json(&session, "RetireGrant", json!({"GrantToken": bad}));
        assert_eq!(kind(retired), invalid, "{bad}");
    }
    let eleven = vec![token.clone(); 11];
    let request = json!({"KeyId": key, "Plaintext": "eA==", "GrantTokens": eleven});
    assert_eq!(kind(json(&alice, "Encrypt", request)), Some(KmsErrorKind::Validation));
    // Nor that of a grant that is gone.
    revoke(&session, &key, &id).unwrap();
    assert_eq!(ask(&alice, &token), Some(KmsErrorKind::AccessDenied));
    assert_eq!(ask(&session, &token), None);
}

#[test]
fn every_operation_that_takes_tokens_checks_them() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    for (operation, request) in [
        ("CreateGrant", json!({"GranteePrincipal": ALICE, "Operations": ["Encrypt"]})),
        ("Decrypt", json!({"CiphertextBlob": "eA=="})),
        ("DescribeKey", json!({})),
        ("DeriveSharedSecret", json!({"KeyAgreementAlgorithm": "ECDH", "PublicKey": "eA=="})),
        ("Encrypt", json!({"Plaintext": "eA=="})),
        ("GenerateDataKey", json!({"KeySpec": "AES_256"})),
        ("GenerateDataKeyWithoutPlaintext", json!({"KeySpec": "AES_256"})),
        ("GenerateDataKeyPair", json!({"KeyPairSpec": "ECC_NIST_P256"})),
        ("GenerateDataKeyPairWithoutPlaintext", json!({"KeyPairSpec": "ECC_NIST_P256"})),
        ("GenerateMac", json!({"Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"})),
        ("VerifyMac", json!({"Message": "eA==", "Mac": "eA==", "MacAlgorithm": "HMAC_SHA_256"})),
        ("GetPublicKey", json!({})),
        ("ReEncrypt", json!({"CiphertextBlob": "eA==", "DestinationKeyId": key})),
        ("Sign", json!({"Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"})),
        ("Verify", json!({"Message": "eA==", "Signature": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"})),
    ] {
        let mut request = request.clone();
        request["KeyId"] = json!(key);
        request["GrantTokens"] = json!(["no token"]);
        let answer = json(&session, operation, request);
        assert_eq!(kind(answer), Some(KmsErrorKind::InvalidGrantToken), "{operation}");
    }
}

#[test]
fn lists_are_paged_and_filtered() {
    let bench = Bench::new();
    let session = bench.session();
    let (key, other) = (make(&session), make(&session));
    let mut of_alice = Vec::new();
    for n in 0..5 {
        let more = json!({"Name": format!("n{n}"), "RetiringPrincipal": BOB});
        of_alice.push(grant_with(&session, &key, ALICE, &["Decrypt"], &more).unwrap().0);
        grant(&session, &key, ROLE, &["Encrypt"]);
        grant_with(&session, &other, ROLE, &["Encrypt"], &json!({"RetiringPrincipal": BOB})).unwrap();
    }
    of_alice.sort();
    let pages = |operation: &str, request: &Value, limit: usize| {
        let (mut found, mut request, mut rounds) = (Vec::new(), request.clone(), 0);
        request["Limit"] = json!(limit);
        loop {
            let answer = json(&session, operation, request.clone()).unwrap();
            let page = answer["Grants"].as_array().unwrap().clone();
            assert!(page.len() <= limit);
            found.extend(page.iter().map(|g| g["GrantId"].as_str().unwrap().to_owned()));
            rounds += 1;
            let more = answer["Truncated"].as_bool().unwrap();
            assert_eq!(answer.get("NextMarker").is_some(), more);
            if !more {
                return (found, rounds);
            }
            request["Marker"] = answer["NextMarker"].clone();
        }
    };
    let (all, rounds) = pages("ListGrants", &json!({"KeyId": key}), 3);
    assert_eq!((all.len(), rounds), (10, 4));
    assert!(all.is_sorted());
    let by_alice = json!({"KeyId": key, "GranteePrincipal": ALICE});
    assert_eq!(pages("ListGrants", &by_alice, 2), (of_alice.clone(), 3));
    assert_eq!(pages("ListGrants", &by_alice, 5), (of_alice.clone(), 1));
    let both = json!({"KeyId": key, "GranteePrincipal": ROLE, "GrantId": of_alice[0]});
    assert_eq!(pages("ListGrants", &both, 5).0, Vec::<String>::new());
    let one = json!({"KeyId": key, "GranteePrincipal": ALICE, "GrantId": of_alice[0]});
    assert_eq!(pages("ListGrants", &one, 5).0, of_alice[..1]);
    assert_eq!(list(&session, json!({"KeyId": other, "GrantId": of_alice[0]})), Vec::<Value>::new());
    // Of all keys.
    let (retirable, rounds) = pages("ListRetirableGrants", &json!({"RetiringPrincipal": BOB}), 3);
    assert_eq!((retirable.len(), rounds), (10, 4));
    assert!(of_alice.iter().all(|id| retirable.contains(id)));
    assert_eq!(pages("ListRetirableGrants", &json!({"RetiringPrincipal": ALICE}), 3).0, Vec::<String>::new());
    for (operation, request, expected) in [
        ("ListGrants", json!({"KeyId": key, "Marker": "x"}), KmsErrorKind::InvalidMarker),
        ("ListGrants", json!({"KeyId": key, "GrantId": "x"}), KmsErrorKind::InvalidGrantId),
        ("ListGrants", json!({"KeyId": key, "GranteePrincipal": "alice"}), KmsErrorKind::InvalidArn),
        (
            "ListRetirableGrants",
            json!({"RetiringPrincipal": BOB, "Marker": "00"}),
            KmsErrorKind::InvalidMarker,
        ),
        ("ListRetirableGrants", json!({"RetiringPrincipal": "bob"}), KmsErrorKind::InvalidArn),
        ("ListRetirableGrants", json!({"RetiringPrincipal": STRANGER}), KmsErrorKind::AccessDenied),
        ("ListRetirableGrants", json!({}), KmsErrorKind::Validation),
    ] {
        assert_eq!(kind(json(&session, operation, request.clone())), Some(expected), "{operation} {request}");
    }
    // Users need a policy of their own.
    let bob = at(&bench, BOB);
    let own = json(&bob, "ListRetirableGrants", json!({"RetiringPrincipal": BOB}));
    assert!(message(own).contains(&format!("kms:ListRetirableGrants on resource: {BOB} because")));
}

#[test]
fn an_entry_has_awss_shape() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let constraints = json!({"EncryptionContextSubset": {"a": "b"}, "EncryptionContextEquals": {"c": "d"}});
    let more = json!({"Name": "a/n-1:_", "RetiringPrincipal": ROLE, "Constraints": constraints});
    let (id, _) = grant_with(&session, &key, ALICE, &["Decrypt", "Encrypt"], &more).unwrap();
    assert_eq!(id.len(), 64);
    assert_eq!(
        json(&session, "ListGrants", json!({"KeyId": key})).unwrap(),
        json!({
            "Grants": [{
                "KeyId": metadata(&session, &key).arn, "GrantId": id, "Name": "a/n-1:_",
                "CreationDate": 1_800_000_000.0, "GranteePrincipal": ALICE, "RetiringPrincipal": ROLE,
                "IssuingAccount": ROOT, "Operations": ["Decrypt", "Encrypt"], "Constraints": constraints
            }],
            "Truncated": false
        })
    );
    assert_eq!(
        list(&session, json!({"KeyId": key})),
        json(&session, "ListRetirableGrants", json!({"RetiringPrincipal": ROLE})).unwrap()["Grants"]
            .as_array()
            .unwrap()
            .clone()
    );
}

#[test]
fn bounds_are_those_of_awss_model() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let nine: serde_json::Map<_, _> = (0..9).map(|n| (n.to_string(), json!("x"))).collect();
    let ec2 = "ec2.us-east-1.amazonaws.com";
    let source = json!({"SourceArn": "arn:aws:ec2:us-east-1:000000000000:volume/vol-1"});
    for (change, expected) in [
        (json!({}), None),
        (json!({"KeyId": null}), Some(KmsErrorKind::Serialization)),
        (json!({"KeyId": ""}), Some(KmsErrorKind::Validation)),
        (json!({"KeyId": "alias/x"}), Some(KmsErrorKind::NotFound)),
        (json!({"GranteePrincipal": null}), Some(KmsErrorKind::Validation)),
        (json!({"GranteePrincipal": "alice"}), Some(KmsErrorKind::InvalidArn)),
        (json!({"GranteePrincipal": ACCOUNT}), Some(KmsErrorKind::InvalidArn)),
        (json!({"GranteePrincipal": "arn:aws:iam::000000000000:group/g"}), Some(KmsErrorKind::InvalidArn)),
        (json!({"GranteePrincipal": "a b"}), Some(KmsErrorKind::Validation)),
        (json!({"GranteePrincipal": "*"}), Some(KmsErrorKind::Validation)),
        (json!({"GranteePrincipal": "x".repeat(257)}), Some(KmsErrorKind::Validation)),
        (json!({"RetiringPrincipal": "alice"}), Some(KmsErrorKind::InvalidArn)),
        (json!({"RetiringPrincipal": BOB, "RetiringServicePrincipal": ec2}), Some(KmsErrorKind::Validation)),
        (json!({"GranteeServicePrincipal": ec2}), Some(KmsErrorKind::Validation)),
        (
            json!({"GranteePrincipal": null, "GranteeServicePrincipal": ec2, "RetiringPrincipal": BOB}),
            Some(KmsErrorKind::Validation),
        ),
        (
            json!({"GranteePrincipal": null, "GranteeServicePrincipal": ec2, "Constraints": source}),
            Some(KmsErrorKind::Validation),
        ),
        (
            json!({
                "GranteePrincipal": null, "GranteeServicePrincipal": ec2, "Constraints": source,
                "RetiringPrincipal": BOB
            }),
            None,
        ),
        (
            json!({
                "GranteePrincipal": null, "GranteeServicePrincipal": "ec2.x", "Constraints": source,
                "RetiringPrincipal": BOB
            }),
            Some(KmsErrorKind::Validation),
        ),
        (
            json!({"Constraints": {"SourceArn": "arn:aws:ec2:us-east-1:x:y/zzzzzzzzz"}}),
            Some(KmsErrorKind::Validation),
        ),
        (json!({"Operations": null}), Some(KmsErrorKind::Validation)),
        (json!({"Operations": []}), Some(KmsErrorKind::Validation)),
        (json!({"Operations": ["ReEncrypt"]}), Some(KmsErrorKind::Validation)),
        (json!({"Operations": ["ScheduleKeyDeletion"]}), Some(KmsErrorKind::Validation)),
        (json!({"Operations": ["Encapsulate"]}), Some(KmsErrorKind::Validation)),
        (json!({"Name": ""}), Some(KmsErrorKind::Validation)),
        (json!({"Name": "a b"}), Some(KmsErrorKind::Validation)),
        (json!({"Name": "x".repeat(257)}), Some(KmsErrorKind::Validation)),
        (json!({"Constraints": {"EncryptionContextSubset": nine}}), Some(KmsErrorKind::Validation)),
        (
            json!({"Constraints": {"EncryptionContextEquals": {"k": "x".repeat(384)}}}),
            Some(KmsErrorKind::Validation),
        ),
        (json!({"Constraints": {"EncryptionContextEquals": {"k": "x".repeat(383)}}}), None),
        (json!({"Constraints": {"EncryptionContextEquals": {"": "x"}}}), Some(KmsErrorKind::Validation)),
        (json!({"Constraints": {}}), None),
        (json!({"DryRun": true}), Some(KmsErrorKind::DryRun)),
        (json!({"DryRun": true, "Operations": ["Sign"]}), Some(KmsErrorKind::Validation)),
    ] {
        let mut request = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Decrypt"]});
        for (name, value) in change.as_object().unwrap() {
            request[name] = value.clone();
        }
        assert_eq!(kind(json(&session, "CreateGrant", request)), expected, "{change}");
    }
    let (id, token) = grant(&session, &key, ALICE, &["Decrypt"]);
    for (operation, request, expected) in [
        ("RetireGrant", json!({}), KmsErrorKind::Validation),
        ("RetireGrant", json!({"KeyId": key}), KmsErrorKind::Validation),
        ("RetireGrant", json!({"GrantId": id}), KmsErrorKind::Validation),
        ("RetireGrant", json!({"KeyId": key, "GrantToken": token}), KmsErrorKind::Validation),
        ("RevokeGrant", json!({"KeyId": key}), KmsErrorKind::Validation),
        ("RevokeGrant", json!({"KeyId": key, "GrantId": "x"}), KmsErrorKind::InvalidGrantId),
        ("RevokeGrant", json!({"KeyId": key, "GrantId": id, "DryRun": true}), KmsErrorKind::DryRun),
        (
            "RevokeGrant",
            json!({"KeyId": key, "GrantId": "0".repeat(64), "DryRun": true}),
            KmsErrorKind::NotFound,
        ),
    ] {
        assert_eq!(kind(json(&session, operation, request.clone())), Some(expected), "{operation} {request}");
    }
    assert_eq!(list(&session, json!({"KeyId": key, "GrantId": id})).len(), 1);
}

#[test]
fn a_key_has_fifty_thousand_grants_at_most() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let named = json!({"Name": "n"});
    let (id, _) = grant_with(&session, &key, ALICE, &["Decrypt"], &named).unwrap();
    pretend(session.region_service(), &key, 49_999);
    grant(&session, &key, ALICE, &["Decrypt"]);
    let full = grant_with(&session, &key, ALICE, &["Decrypt"], &json!({}));
    assert_eq!(kind(full), Some(KmsErrorKind::LimitExceeded));
    // The same once more is no further one.
    assert_eq!(grant_with(&session, &key, ALICE, &["Decrypt"], &named).unwrap().0, id);
    revoke(&session, &key, &id).unwrap();
    grant(&session, &key, ALICE, &["Decrypt"]);
}

#[test]
fn events_tell_what_was_granted_and_no_token() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let arn = metadata(&session, &key).arn;
    let more =
        json!({"Constraints": {"EncryptionContextSubset": {"Department": "IT"}}, "RetiringPrincipal": BOB});
    let (id, token) = grant_with(&session, &key, ALICE, &["Decrypt"], &more).unwrap();
    retire(&at(&bench, BOB), &arn, &id).unwrap();
    let newest = |name: &str| -> Value {
        let filter = Filter { event_name: Some(name.to_owned()), ..Filter::default() };
        let found = session.lookup_events(&filter).unwrap();
        assert!(!found[0].json.contains(&token));
        serde_json::from_str(&found[0].json).unwrap()
    };
    let made = newest("CreateGrant");
    assert_eq!(
        made["requestParameters"],
        json!({
            "keyId": key, "granteePrincipal": ALICE, "retiringPrincipal": BOB, "operations": ["Decrypt"],
            "constraints": {"encryptionContextSubset": {"Department": "IT"}}
        })
    );
    assert_eq!(made["responseElements"], json!({"keyId": arn, "grantId": id}));
    assert_eq!((&made["readOnly"], &made["resources"][0]["ARN"]), (&json!(false), &json!(arn)));
    let retired = newest("RetireGrant");
    assert_eq!(retired["responseElements"], json!({"keyId": arn}));
    assert_eq!(retired["additionalEventData"], json!({"grantId": id}));
    assert_eq!(retired["userIdentity"]["arn"], BOB);
    assert_eq!(retired["resources"][0]["ARN"], json!(arn));
    let (id, token) = grant(&session, &key, ALICE, &["Decrypt"]);
    json(&session, "RetireGrant", json!({"GrantToken": token})).unwrap();
    let retired = newest("RetireGrant");
    assert_eq!(retired["additionalEventData"], json!({"grantId": id}));
    assert_eq!(retired["resources"][0]["ARN"], json!(arn));
}
