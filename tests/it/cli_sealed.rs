//! `kmsfs encrypt --public-key`: files for the holder of a private key, made without a key service.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::cli::json;
use crate::mounted::bed::{Bed, KEY};

const PAIR: &str = "alias/pair";

/// A home with an RSA key, its public key in pub.pem, and its ARN.
fn bed() -> (Bed, String) {
    let bed = Bed::with_own_key();
    let rsa = [
        "key",
        "create",
        "--key-spec",
        "RSA_2048",
        "--key-usage",
        "ENCRYPT_DECRYPT",
        "--alias",
        PAIR,
        "--json",
    ];
    let arn = json(&bed, &rsa)["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    bed.run(["key", "public-key", PAIR, "--out", "pub.pem"]);
    (bed, arn)
}

/// The program without any key service: a home that cannot be made.
fn outside(bed: &Bed, args: &[&str]) -> Command {
    let mut command = bed.command(args);
    command.env("KMSFS_HOME", "/proc/no/home");
    command
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[test]
fn a_file_is_sealed_without_a_key_service_and_opened_with_one() {
    let (bed, arn) = bed();
    for size in [0, 1, 4064, 4097, 3_000_000] {
        fs::write(bed.dir().join("plain.bin"), content(size)).unwrap();
        let args =
            ["encrypt", "--public-key", "pub.pem", "--key-id", &arn, "--force", "-o", "sealed", "plain.bin"];
        let sealed = outside(&bed, &args).output().unwrap();
        assert!(
            sealed.status.success() && sealed.stdout.is_empty() && sealed.stderr.is_empty(),
            "{sealed:?}"
        );
        let file = fs::read(bed.dir().join("sealed")).unwrap();
        let start = &content(size)[..size.min(64)];
        assert!(size < 64 || !file.windows(64).any(|window| window == start), "plaintext is in the file");
        let opened = bed.command(["decrypt", "sealed"]).output().unwrap();
        assert!(opened.stdout == content(size), "{size} bytes: {}", String::from_utf8_lossy(&opened.stderr));
        bed.run(["decrypt", "--force", "--out", "opened", "sealed"]);
        assert!(fs::read(bed.dir().join("opened")).unwrap() == content(size));
        let piped = File::open(bed.dir().join("sealed")).unwrap();
        let opened = bed.command(["decrypt", "-"]).stdin(piped).output().unwrap();
        assert!(opened.stdout == content(size), "from standard input");
    }
    for name in ["sealed", "opened"] {
        assert_eq!(fs::metadata(bed.dir().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let event =
        &json(&bed, &["audit", "lookup", "--json", "--event", "Decrypt", "--limit", "1"])["Events"][0];
    assert_eq!(event["requestParameters"]["encryptionAlgorithm"], "RSAES_OAEP_SHA_256");
    assert_eq!(event["requestParameters"]["keyId"], arn);
}

#[test]
fn a_file_that_names_no_key_wants_to_be_told_it() {
    let (bed, _) = bed();
    let der = bed.dir().join("pub.der");
    fs::write(&der, bed.command(["key", "public-key", PAIR, "--der"]).output().unwrap().stdout).unwrap();
    let sealed = outside(&bed, &["encrypt", "--public-key", "pub.der"])
        .stdin(File::open("/proc/self/exe").unwrap())
        .stdout(File::create(bed.dir().join("sealed")).unwrap())
        .status();
    assert!(sealed.unwrap().success());
    let (code, text) = bed.refused_with(["decrypt", "sealed"]);
    assert!(code == 2 && text.contains("spki-sha256:") && text.contains("--key"), "{text}");
    let opened = bed.command(["decrypt", "--key-id", PAIR, "sealed"]).output().unwrap();
    assert!(opened.stdout == fs::read("/proc/self/exe").unwrap());
    // Another key, and one that is not RSA.
    let rsa = [
        "key",
        "create",
        "--key-spec",
        "RSA_2048",
        "--key-usage",
        "ENCRYPT_DECRYPT",
        "--alias",
        "alias/other",
    ];
    bed.run(rsa);
    let (code, text) = bed.refused_with(["decrypt", "--key", "alias/other", "sealed", "-o", "out"]);
    assert!(code == 3 && text.contains("InvalidCiphertextException"), "{text}");
    assert_eq!(bed.refused_with(["decrypt", "--key", KEY, "sealed"]).0, 3);
    bed.run(["key", "disable", PAIR]);
    assert!(bed.refused(["decrypt", "--key", PAIR, "sealed", "-o", "out"]).contains("DisabledException"));
    assert!(!bed.dir().join("out").exists());
}

#[test]
fn a_damaged_file_gives_nothing_under_its_name() {
    let (bed, arn) = bed();
    fs::write(bed.dir().join("plain.bin"), content(2_000_000)).unwrap();
    bed.run(["encrypt", "--public-key", "pub.pem", "--key", &arn, "-o", "sealed", "plain.bin"]);
    let file = fs::read(bed.dir().join("sealed")).unwrap();
    let mut changed = file.clone();
    changed[1_500_000] ^= 1;
    for bad in [&changed[..], &file[..file.len() - 4096], &file[..1_000_000]] {
        fs::write(bed.dir().join("bad"), bad).unwrap();
        let (code, text) = bed.refused_with(["decrypt", "-o", "out", "bad"]);
        assert!(code == 7 && text.contains("bad: damaged: "), "{code}: {text}");
        // To a pipe only the true beginning goes.
        let piped = bed.command(["decrypt", "bad"]).output().unwrap();
        assert_eq!(piped.status.code(), Some(7));
        assert!(content(2_000_000).starts_with(&piped.stdout) && piped.stdout.len() < 2_000_000);
    }
    let mut left: Vec<_> = fs::read_dir(bed.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        ["bad", "home", "plain", "plain.bin", "pub.pem", "sealed", "vault"],
        "something was left"
    );
    fs::write(bed.dir().join("out"), "precious").unwrap();
    assert_eq!(bed.refused_with(["decrypt", "-o", "out", "sealed"]).0, 2);
    bed.refused(["decrypt", "--force", "-o", "out", "bad"]);
    assert_eq!(fs::read(bed.dir().join("out")).unwrap(), b"precious");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let (bed, arn) = bed();
    bed.run([
        "key",
        "create",
        "--key-spec",
        "ECC_NIST_P256",
        "--key-usage",
        "SIGN_VERIFY",
        "--alias",
        "alias/curve",
    ]);
    bed.run(["key", "public-key", "alias/curve", "--pem", "-o", "curve.pem"]);
    fs::write(bed.dir().join("none.pem"), "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n")
        .unwrap();
    for (args, word) in [
        (&["encrypt", "--public-key", "curve.pem", "-o", "out", "pub.pem"][..], "ECC_NIST_P256"),
        (&["encrypt", "--public-key", "none.pem", "-o", "out", "pub.pem"], "not a public key"),
        (&["encrypt", "--public-key", "pub.pem", "--key", "alias/pair", "-o", "out", "pub.pem"], "ARN"),
        (&["encrypt", "--public-key", "pub.pem", "-o", "curve.pem", "pub.pem"], "--force"),
    ] {
        let (code, text) = bed.refused_with(args);
        assert!(code == 2 && text.contains(word), "{args:?}: {text}");
    }
    for args in [
        &["encrypt", "--public-key", "pub.pem", "--context", "a=b", "pub.pem"][..],
        &["encrypt", "pub.pem"],
        &["encrypt", "--public-key", "pub.pem", "--force", "pub.pem"],
    ] {
        assert_eq!(bed.command(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    assert!(!bed.dir().join("out").exists());
    bed.run(["encrypt", "--public-key", "pub.pem", "--key", &arn, "-o", "out", "pub.pem"]);
    assert_eq!(bed.refused_with(["decrypt", "--context", "a=b", "out"]).0, 2);
    let (code, text) = bed.refused_with(["--region", "eu-west-1", "decrypt", "out"]);
    assert!(code == 2 && text.contains("--region us-east-1"), "{text}");
}

#[test]
fn a_sealed_file_is_explained_and_refused_by_a_mount() {
    let (bed, arn) = bed();
    bed.run(["encrypt", "--public-key", "pub.pem", "--key", &arn, "-o", "sealed", "pub.pem"]);
    let told = bed.run(["inspect", "sealed"]);
    assert!(
        told.contains(&arn) && told.contains("RSAES_OAEP_SHA_256") && told.contains("kmsfs decrypt"),
        "{told}"
    );
    let size = fs::metadata(bed.dir().join("pub.pem")).unwrap().len();
    let seal: Value = json(&bed, &["inspect", "--json", "sealed"]);
    assert_eq!((&seal["size"], &seal["data_keys"][0]["key_arn"]), (&size.into(), &arn.into()));
    fs::write(bed.dir().join("cut"), &fs::read(bed.dir().join("sealed")).unwrap()[..8192]).unwrap();
    assert!(bed.run(["inspect", "cut"]).contains("the file is cut"));
    assert_eq!(bed.refused_with(["inspect", "pub.pem"]).0, 1);

    bed.mount();
    fs::write(bed.plain("file"), "of the volume").unwrap();
    bed.unmount();
    let backing = fs::read_dir(bed.vault()).unwrap().map(|e| e.unwrap().path());
    let backing: Vec<_> =
        backing.filter(|p| !p.file_name().unwrap().to_str().unwrap().contains('.')).collect();
    assert_eq!(backing.len(), 1);
    let own = fs::read(&backing[0]).unwrap();
    fs::copy(bed.dir().join("sealed"), &backing[0]).unwrap();
    bed.mount();
    assert_eq!(fs::read(bed.plain("file")).unwrap_err().raw_os_error(), Some(5));
    bed.unmount();
    let log = fs::read_to_string(bed.dir().join("home/mount.log")).unwrap();
    assert!(log.contains("kmsfs decrypt"), "{log}");
    // And what belongs to a volume is no sealed file.
    fs::write(bed.dir().join("own"), own).unwrap();
    assert_eq!(bed.refused_with(["decrypt", "own"]).0, 3);
}
