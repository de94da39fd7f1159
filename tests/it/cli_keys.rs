//! `kmsfs key`: policies, public keys, signatures, codes, agreement; OpenSSL is on the other side.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::cli::{fed, json};
use crate::mounted::bed::{Bed, KEY};

/// A home with a key of this spec and usage under alias/it.
fn bed(spec: &str, usage: &str) -> Bed {
    let bed = Bed::with_own_key();
    bed.run(["key", "create", "--key-spec", spec, "--key-usage", usage, "--alias", "alias/it"]);
    bed
}

fn openssl(bed: &Bed, args: &[&str]) -> bool {
    let output = Command::new("openssl").args(args).current_dir(bed.dir()).output();
    output.expect("openssl is needed: apt-get install openssl").status.success()
}

fn message(bed: &Bed) -> &'static [u8] {
    let text = b"a message to be signed\n";
    fs::write(bed.dir().join("message"), text).unwrap();
    text
}

#[test]
fn openssl_verifies_what_is_signed_here() {
    for (spec, algorithm, more) in [
        ("ECC_NIST_P256", None, &["-sha256"][..]),
        ("ECC_NIST_P384", None, &["-sha384"]),
        ("ECC_SECG_P256K1", None, &["-sha256"]),
        ("RSA_2048", Some("RSASSA_PKCS1_V1_5_SHA_512"), &["-sha512"]),
        (
            "RSA_2048",
            Some("RSASSA_PSS_SHA_256"),
            &["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1"],
        ),
    ] {
        let bed = bed(spec, "SIGN_VERIFY");
        message(&bed);
        bed.run(["key", "public-key", "alias/it", "-o", "pub.pem"]);
        let algorithm: Vec<&str> = algorithm.iter().flat_map(|name| ["--signing-algorithm", name]).collect();
        let sign = [&["key", "sign", "alias/it", "--message", "message", "-o", "signature"], &algorithm[..]]
            .concat();
        bed.run(&sign);
        let check = |file| {
            let args = [&["dgst", "-verify", "pub.pem", "-signature", "signature"], more, &[file]].concat();
            openssl(&bed, &args)
        };
        assert!(check("message"), "{spec}: openssl does not accept the signature");
        assert!(!check("pub.pem"), "{spec}: openssl accepts it for anything");
        let verify =
            [&["key", "verify", "alias/it", "--signature", "signature", "--message"][..], &algorithm]
                .concat();
        let at = verify.len() - algorithm.len();
        let with = |file| [&verify[..at], &[file], &verify[at..]].concat();
        assert!(bed.run(with("message")).contains("valid"));
        let (code, text) = bed.refused_with(with("pub.pem"));
        assert!(code == 3 && text.contains("KMSInvalidSignatureException"), "{spec}: {text}");
    }
}

#[test]
fn ed25519_takes_its_algorithm_from_the_type_of_the_message() {
    let bed = bed("ECC_NIST_EDWARDS25519", "SIGN_VERIFY");
    message(&bed);
    fs::write(bed.dir().join("digest"), [7; 64]).unwrap();
    bed.run(["key", "public-key", "alias/it", "-o", "pub.pem"]);
    bed.run(["key", "sign", "alias/it", "--message", "message", "-o", "signature"]);
    assert!(openssl(
        &bed,
        &[
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            "pub.pem",
            "-rawin",
            "-in",
            "message",
            "-sigfile",
            "signature"
        ]
    ));
    let digest = ["key", "sign", "alias/it", "--message", "digest", "--message-type", "DIGEST", "--json"];
    assert_eq!(json(&bed, &digest)["SigningAlgorithm"], "ED25519_PH_SHA_512");
}

#[test]
fn signatures_are_printed_in_every_form_and_read_back() {
    let bed = bed("RSA_2048", "SIGN_VERIFY");
    let text = message(&bed);
    // A key with several algorithms wants to be told one.
    let (code, told) = bed.refused_with(["key", "sign", "alias/it", "--message", "message"]);
    assert!(
        code == 2 && told.contains("RSASSA_PSS_SHA_256") && told.contains("--signing-algorithm"),
        "{told}"
    );
    let (code, told) = bed.refused_with(["key", "sign", KEY, "--message", "message"]);
    assert!(code == 2 && told.contains("not a key for that"), "{told}");
    let sign = ["key", "sign", "alias/it", "--signing-algorithm", "RSASSA_PKCS1_V1_5_SHA_256", "--message"];
    let raw = fed(&bed, &[&sign[..], &["-"]].concat(), text).stdout;
    assert_eq!(raw.len(), 256);
    let encoded = bed.run([&sign[..], &["message", "--base64"]].concat());
    let answer = json(&bed, &[&sign[..], &["message", "--json"]].concat());
    assert_eq!(answer["Signature"], encoded.trim_end());
    assert_eq!(answer["SigningAlgorithm"], "RSASSA_PKCS1_V1_5_SHA_256");
    // This padding is deterministic.
    fs::write(bed.dir().join("raw"), &raw).unwrap();
    fs::write(bed.dir().join("encoded"), &encoded).unwrap();
    for signature in ["raw", "encoded"] {
        let verify = ["key", "verify", "alias/it", "--signing-algorithm", "RSASSA_PKCS1_V1_5_SHA_256"];
        let rest = ["--message", "message", "--signature", signature, "--json"];
        assert_eq!(json(&bed, &[&verify[..], &rest].concat())["SignatureValid"], true, "{signature}");
    }
    // A digest that OpenSSL made.
    assert!(openssl(&bed, &["dgst", "-sha256", "-binary", "-out", "digest", "message"]));
    let digest = fed(&bed, &[&sign[..], &["digest", "--message-type", "DIGEST"]].concat(), b"").stdout;
    assert_eq!(digest, raw);
    fs::write(bed.dir().join("long"), [0; 4097]).unwrap();
    let (code, told) = bed.refused_with([&sign[..], &["long"]].concat());
    assert!(code == 2 && told.contains("DIGEST"), "{told}");
}

#[test]
fn openssl_encrypts_with_the_public_key_what_the_service_decrypts() {
    let bed = bed("RSA_2048", "ENCRYPT_DECRYPT");
    let text = message(&bed);
    bed.run(["key", "public-key", "alias/it", "-o", "pub.pem"]);
    let options = ["rsa_padding_mode:oaep", "rsa_oaep_md:sha256"].map(|option| ["-pkeyopt", option]).concat();
    let encrypt = ["pkeyutl", "-encrypt", "-pubin", "-inkey", "pub.pem", "-in", "message", "-out", "sealed"];
    assert!(openssl(&bed, &[&encrypt[..], &options].concat()));
    let decrypt =
        ["decrypt", "--key-id", "alias/it", "--encryption-algorithm", "RSAES_OAEP_SHA_256", "sealed"];
    assert_eq!(bed.command(decrypt).output().unwrap().stdout, text);
    let encrypt =
        ["encrypt", "--key", "alias/it", "--encryption-algorithm", "RSAES_OAEP_SHA_1", "message", "--json"];
    assert_eq!(json(&bed, &encrypt)["EncryptionAlgorithm"], "RSAES_OAEP_SHA_1");
    let answer = json(&bed, &["key", "public-key", "alias/it", "--json"]);
    assert_eq!((&answer["KeySpec"], &answer["KeyUsage"]), (&"RSA_2048".into(), &"ENCRYPT_DECRYPT".into()));
    assert_eq!(answer["PublicKey"], bed.run(["key", "public-key", "alias/it", "--base64"]).trim_end());
    assert_eq!(bed.refused_with(["key", "public-key", KEY]).0, 3);
}

#[test]
fn a_code_is_made_and_checked() {
    let bed = bed("HMAC_384", "GENERATE_VERIFY_MAC");
    message(&bed);
    bed.run(["key", "mac", "generate", "alias/it", "--message", "message", "-o", "code"]);
    assert_eq!(fs::metadata(bed.dir().join("code")).unwrap().len(), 48);
    let verify = ["key", "mac", "verify", "alias/it", "--mac", "code", "--message"];
    assert!(bed.run([&verify[..], &["message"]].concat()).contains("HMAC_SHA_384"));
    assert_eq!(json(&bed, &[&verify[..], &["message", "--json"]].concat())["MacValid"], true);
    let (code, text) = bed.refused_with([&verify[..], &["code"]].concat());
    assert!(code == 3 && text.contains("KMSInvalidMacException"), "{text}");
    let other = [&verify[..], &["message", "--mac-algorithm", "HMAC_SHA_256"]].concat();
    assert!(bed.refused(other).contains("HMAC_SHA_256"));
}

#[test]
fn openssl_agrees_on_the_same_secret() {
    let bed = bed("ECC_NIST_P256", "KEY_AGREEMENT");
    bed.run(["key", "public-key", "alias/it", "-o", "pub.pem"]);
    let generate =
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "theirs.pem"];
    assert!(openssl(&bed, &generate));
    assert!(openssl(&bed, &["pkey", "-in", "theirs.pem", "-pubout", "-out", "theirs.pub"]));
    let derive = ["pkeyutl", "-derive", "-inkey", "theirs.pem", "-peerkey", "pub.pem", "-out", "secret"];
    assert!(openssl(&bed, &derive));
    let ours = bed
        .command(["key", "derive-shared-secret", "alias/it", "--public-key", "theirs.pub"])
        .output()
        .unwrap();
    assert_eq!(ours.stdout, fs::read(bed.dir().join("secret")).unwrap());
}

fn policy(actions: &[&str]) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "Some",
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
            "Action": actions,
            "Resource": "*",
        }],
    })
}

#[test]
fn a_policy_is_put_shown_and_kept_from_locking_its_owner_out() {
    let bed = Bed::with_own_key();
    let write = |actions: &[&str]| fs::write(bed.dir().join("policy"), policy(actions).to_string()).unwrap();
    write(&["kms:PutKeyPolicy", "kms:GetKeyPolicy", "kms:DescribeKey", "kms:Encrypt"]);
    let told = bed.run(["key", "policy", "put", KEY, "--policy", "policy"]);
    assert!(told.contains("has this policy now"), "{told}");
    let shown: Value = serde_json::from_str(&bed.run(["key", "policy", KEY])).unwrap();
    assert_eq!(shown["Statement"][0]["Sid"], "Some");
    assert_eq!(shown, serde_json::from_str::<Value>(&bed.run(["key", "policy", "get", KEY])).unwrap());
    let answer = json(&bed, &["key", "policy", "get", KEY, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(answer["Policy"].as_str().unwrap()).unwrap(), shown);
    // It counts.
    let sealed = fed(&bed, &["encrypt", "--key", KEY], b"x").stdout;
    let refused = fed(&bed, &["decrypt"], &sealed);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("AccessDenied"), "{refused:?}");

    write(&["kms:DescribeKey"]);
    let text = fs::read(bed.dir().join("policy")).unwrap();
    let put = ["key", "policy", "put", KEY, "--policy", "-"];
    let locked = fed(&bed, &put, &text);
    assert_eq!(locked.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&locked.stderr).contains("MalformedPolicyDocumentException"),
        "{locked:?}"
    );
    let bypassed =
        fed(&bed, &[&put[..], &["--bypass-policy-lockout-safety-check", "--json"]].concat(), &text);
    assert!(bypassed.status.success() && bypassed.stdout.is_empty(), "{bypassed:?}");
    assert!(bed.refused(["key", "policy", KEY]).contains("AccessDenied"));
    assert_eq!(bed.refused_with(["key", "policy", "put", KEY, "--policy", "absent"]).0, 1);
    assert_eq!(bed.command(["key", "policy"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_key_is_made_with_a_policy() {
    let bed = Bed::with_own_key();
    fs::write(bed.dir().join("policy"), policy(&["kms:*"]).to_string()).unwrap();
    bed.run(["key", "create", "--policy", "policy", "--alias", "alias/it"]);
    let shown: Value = serde_json::from_str(&bed.run(["key", "policy", "alias/it"])).unwrap();
    assert_eq!(shown["Statement"][0]["Sid"], "Some");
    assert_eq!(bed.run(["key", "policy", "list", "alias/it"]), "default\n");
    fs::write(bed.dir().join("policy"), policy(&["kms:DescribeKey"]).to_string()).unwrap();
    let create = ["key", "create", "--policy", "policy", "--json"];
    assert!(bed.refused(create).contains("MalformedPolicyDocumentException"));
    let made = json(&bed, &[&create[..], &["--bypass-policy-lockout-safety-check"]].concat());
    assert_eq!(made["KeyMetadata"]["KeyState"], "Enabled");
}
