//! The command line: imported key material, multi-Region keys, and what a mount makes of material that is gone.

use std::fs;
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::mounted::bed::{Bed, wait_for};

fn json(bed: &Bed, args: &[&str]) -> Value {
    serde_json::from_str(&bed.run(args)).unwrap()
}

fn state(bed: &Bed, key: &str) -> String {
    json(bed, &["key", "describe", "--json", key])["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned()
}

/// A home, and a key of origin EXTERNAL with the alias alias/mine.
fn bed() -> Bed {
    let bed = Bed::without_volume();
    bed.run(["init", "other"]);
    bed.run(["key", "create", "--origin", "EXTERNAL", "--alias", "alias/mine"]);
    fs::write(bed.dir().join("material"), [7; 32]).unwrap();
    bed
}

#[test]
fn material_is_imported_with_one_command_and_taken_away() {
    let bed = bed();
    assert_eq!(state(&bed, "alias/mine"), "PendingImport");
    let (code, error) = bed.refused_with(["encrypt", "--key", "alias/mine", "material"]);
    assert_eq!(code, 3);
    assert!(error.contains("is pending import") && error.contains("kmsfs key import"), "{error}");
    let text =
        bed.run(["key", "import", "alias/mine", "--file", "material", "--wrapping-key-spec", "RSA_2048"]);
    assert!(text.contains("key material"), "{text}");
    assert_eq!(state(&bed, "alias/mine"), "Enabled");
    bed.run(["encrypt", "--key", "alias/mine", "material", "-o", "sealed"]);
    bed.run(["decrypt", "sealed", "-o", "opened"]);
    assert_eq!(fs::read(bed.dir().join("opened")).unwrap(), [7; 32]);
    bed.run(["key", "delete-imported-material", "alias/mine"]);
    assert_eq!(state(&bed, "alias/mine"), "PendingImport");
    fs::write(bed.dir().join("foreign"), [8; 32]).unwrap();
    let error =
        bed.refused(["key", "import", "alias/mine", "--file", "foreign", "--wrapping-key-spec", "RSA_2048"]);
    assert!(error.contains("IncorrectKeyMaterialException"), "{error}");
    let rows = bed.run(["key", "rotations", "alias/mine"]);
    assert!(rows.contains("PENDING_IMPORT"), "{rows}");
}

#[test]
fn material_is_wrapped_elsewhere() {
    let bed = bed();
    bed.run([
        "key",
        "import",
        "alias/mine",
        "--get-parameters",
        "--wrapping-algorithm",
        "RSAES_OAEP_SHA_256",
        "--wrapping-key-spec",
        "RSA_2048",
        "--public-key",
        "pub.der",
        "--import-token",
        "token",
    ]);
    let openssl = "pkeyutl -encrypt -pubin -inkey pub.der -keyform DER -in material -out wrapped \
        -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256";
    let done =
        Command::new("openssl").args(openssl.split_whitespace()).current_dir(bed.dir()).status().unwrap();
    assert!(done.success());
    let take = ["key", "import", "alias/mine", "--wrapped", "wrapped", "--import-token", "token", "--json"];
    let answer = json(&bed, &take);
    assert_eq!(answer["KeyMaterialId"].as_str().unwrap().len(), 64);
    assert_eq!(state(&bed, "alias/mine"), "Enabled");
    bed.run(["key", "create", "--origin", "EXTERNAL", "--alias", "alias/other"]);
    let foreign =
        bed.refused(["key", "import", "alias/other", "--wrapped", "wrapped", "--import-token", "token"]);
    assert!(
        foreign.contains("InvalidImportTokenException") && foreign.contains("--get-parameters"),
        "{foreign}"
    );
    let half = bed.command(["key", "import", "alias/mine", "--get-parameters"]).output().unwrap();
    assert_eq!(half.status.code(), Some(2));
}

#[test]
fn a_mount_tells_material_that_expired_from_material_that_is_missing() {
    let bed = bed();
    let import = |more: &[&str]| {
        let all = ["key", "import", "alias/mine", "--file", "material", "--wrapping-key-spec", "RSA_2048"];
        bed.run(all.iter().chain(more));
    };
    import(&[]);
    bed.run(["init", "--key", "alias/mine", "vault"]);
    bed.mount();
    let file = bed.plain("file");
    fs::write(&file, "text").unwrap();
    let fails_with = |number: i32| {
        wait_for(Duration::from_secs(20), "open to fail", || {
            fs::File::open(&file).err().and_then(|e| e.raw_os_error()) == Some(number)
        });
    };
    bed.run(["key", "delete-imported-material", "--yes", "alias/mine"]);
    fails_with(libc::ENOKEY);
    let soon = (Timestamp::now() + SignedDuration::from_secs(4)).to_string();
    import(&["--valid-to", &soon]);
    wait_for(Duration::from_secs(10), "open to work", || fs::read(&file).is_ok());
    fails_with(libc::EKEYEXPIRED);
    import(&[]);
    wait_for(Duration::from_secs(10), "open to work", || fs::read(&file).is_ok());
    bed.unmount();
    let log = bed.run(["audit", "lookup", "--json"]);
    assert!(log.contains("DeleteExpiredKeyMaterial"), "{log}");
    bed.run(["audit", "verify"]);
}

#[test]
fn a_key_is_copied_to_another_region_and_led_from_there() {
    let bed = Bed::new();
    let made = json(&bed, &["key", "create", "--multi-region", "--alias", "alias/wide", "--json"]);
    let key = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    assert!(key.starts_with("mrk-"), "{key}");
    let error = bed.refused(["key", "replicate", "alias/wide", "--to", "eu-west-1"]);
    assert!(error.contains("`kmsfs init --region eu-west-1 VOLUME` makes it"), "{error}");
    bed.run(["init", "--region", "eu-west-1", "far"]);
    let text = bed.run(["key", "replicate", "alias/wide", "--to", "eu-west-1"]);
    assert!(text.contains("Enabled") && text.contains("eu-west-1"), "{text}");
    fs::write(bed.dir().join("secret"), "over there").unwrap();
    bed.run(["encrypt", "--key", "alias/wide", "secret", "-o", "sealed"]);
    assert_eq!(bed.run(["decrypt", "--region", "eu-west-1", "sealed"]), "over there");
    bed.run(["key", "update-primary-region", "alias/wide", "--to", "eu-west-1"]);
    let told = bed.run(["key", "describe", &key]);
    assert!(told.contains("REPLICA") && told.contains("eu-west-1"), "{told}");
    let error = bed.refused(["key", "rotate", &key]);
    assert!(error.contains("replica"), "{error}");
    bed.run(["key", "rotate", "--region", "eu-west-1", &key]);
    let id = |region: &str| {
        let told = json(&bed, &["key", "describe", "--json", "--region", region, &key]);
        told["KeyMetadata"]["CurrentKeyMaterialId"].as_str().unwrap().to_owned()
    };
    assert_eq!(id("eu-west-1"), id("us-east-1"));
}
