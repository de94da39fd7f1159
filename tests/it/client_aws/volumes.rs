//! Volumes whose keys are at AWS KMS: made, mounted, rewrapped, brought there and back.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::cli::json;
use crate::mounted::bed::{Bed, KEY, sh};
use crate::served::{ROOT, Server, aws_cli, bed, moto, set};

fn fill(bed: &Bed, files: usize) {
    for n in 0..files {
        let dir = bed.plain(format!("dir {}", n % 3));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file {n}")), format!("content of {n}\n").repeat(n * 40 + 1)).unwrap();
    }
}

/// Every byte, through a mount that is made for it.
pub fn digest(bed: &Bed) -> String {
    bed.mount();
    let digest = sh(&bed.plain(""), "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum");
    bed.unmount();
    digest
}

/// ARNs that the wrapped keys of a volume are under.
fn keys(bed: &Bed) -> BTreeSet<String> {
    let summary = json(bed, &["inspect", "--summary", "--json", "vault"]);
    let both = ["volume_keys", "data_keys"].map(|of| summary[of].as_array().unwrap().clone());
    both.concat().iter().map(|key| key["key_arn"].as_str().unwrap().to_owned()).collect()
}

fn events(bed: &Bed, source: &str) -> Vec<Value> {
    let log = json(bed, &["audit", "lookup", "--limit", "10000", "--json"]);
    let events = log["Events"].as_array().unwrap().iter();
    events.filter(|event| event["eventSource"] == source).cloned().collect()
}

#[test]
fn a_volume_lives_under_a_key_at_aws() {
    let server = Server::new();
    let bed = server.bed();
    let key = server.arn("us-east-1", KEY);
    let told = bed.run(["init", "--key", &key, "vault"]);
    assert!(told.contains("AWS KMS, region us-east-1") && told.contains(&key), "{told}");
    let descriptor = fs::read_to_string(bed.vault().join("kmsfs.json")).unwrap();
    assert!(descriptor.contains("\"aws-kms\""), "{descriptor}");
    bed.mount();
    fill(&bed, 12);
    let whole = bed.plain("dir 1/file 4");
    let envelope = bed.run(["inspect", whole.to_str().unwrap()]);
    assert!(envelope.contains(&key), "{envelope}");
    assert!(bed.run(["status"]).contains("answers"));
    bed.unmount();
    let before = digest(&bed);

    // The log of this machine has each call, and the server's the same, by its request id.
    let here = events(&bed, "kmsfs-client");
    let there = server.json(&["audit", "lookup", "--limit", "10000", "--json"]);
    let call = |e: &Value| format!("{} {}", e["requestID"], e["eventName"]);
    let there: BTreeSet<String> = there["Events"].as_array().unwrap().iter().map(call).collect();
    assert!(here.len() >= 14, "{}", here.len());
    for event in &here {
        assert!(there.contains(&call(event)), "{event}");
        let told = (&event["additionalEventData"]["attempts"], &event["resources"][0]["ARN"]);
        assert_eq!(told, (&Value::from(1), &Value::from(&*key)), "{event}");
    }
    let opened = here.iter().find(|e| e["requestParameters"]["encryptionContext"]["kmsfs:file"].is_string());
    assert!(opened.is_some() && bed.run(["audit", "verify"]).contains("events"));
    assert!(bed.run(["audit", "lookup"]).contains("Decrypt"));

    // The material is rotated there, and the volume brought under it, and then under another key.
    server.kmsfs(&["key", "rotate", KEY]);
    let done = json(&bed, &["rewrap", "--json", "vault"]);
    assert_eq!((&done["rewrapped"], &done["volume_key"]), (&Value::from(12), &Value::from(true)), "{done}");
    assert_eq!(digest(&bed), before);
    server.kmsfs(&["key", "create", "--alias", "alias/new"]);
    let new = server.arn("us-east-1", "alias/new");
    bed.run(["rewrap", "--key", &new, "vault"]);
    assert_eq!(keys(&bed), [new.clone()].into());
    server.kmsfs(&["key", "disable", KEY]);
    assert_eq!(digest(&bed), before);

    // And inside its mount, under a third.
    server.kmsfs(&["key", "create", "--alias", "alias/third"]);
    let third = server.arn("us-east-1", "alias/third");
    bed.mount();
    let done = json(&bed, &["rewrap", "--key", &third, "--json", "vault"]);
    assert_eq!((&done["rewrapped"], &done["failed"]["count"]), (&Value::from(12), &Value::from(0)), "{done}");
    let (code, told) = bed.refused_with(["rewrap", "--change-kms", "--key", &third, "vault"]);
    assert!(code == 6 && told.contains("umount"), "{told}");
    bed.unmount();
    server.kmsfs(&["key", "disable", "alias/new"]);
    assert_eq!((keys(&bed), digest(&bed)), ([third].into(), before));
}

#[test]
fn the_region_is_the_keys() {
    let server = Server::new();
    let mut bed = server.bed();
    set(&mut bed, "AWS_REGION", "us-east-1");
    let key = server.arn("eu-west-1", KEY);
    let told = bed.run(["init", "--key", &key, "vault"]);
    assert!(told.contains("region eu-west-1"), "{told}");
    bed.mount();
    fill(&bed, 2);
    bed.unmount();
    // The log is that of the key's region, and of no other.
    let log = json(&bed, &["--region", "eu-west-1", "audit", "lookup", "--json"]);
    let events = log["Events"].as_array().unwrap();
    assert!(events.iter().any(|e| e["eventName"] == "GenerateDataKey" && e["awsRegion"] == "eu-west-1"));
    assert!(!bed.dir().join("home/us-east-1").exists());
    // To another region of AWS: Decrypt there, Encrypt here.
    let before = digest(&bed);
    let america = server.arn("us-east-1", KEY);
    let (code, told) = bed.refused_with(["rewrap", "--key", &america, "vault"]);
    assert!(code == 2 && told.contains("--change-region"), "{told}");
    bed.run(["rewrap", "--change-region", "--key", &america, "vault"]);
    assert_eq!((keys(&bed), digest(&bed)), ([america].into(), before));
}

#[test]
fn a_volume_is_brought_to_aws_and_back() {
    let server = Server::new();
    let mut bed = server.bed();
    let own = |bed: &mut Bed| set(bed, "KMSFS_KMS", "embedded");
    own(&mut bed);
    bed.run(["init", "--new-key", KEY, "vault"]);
    bed.mount();
    fill(&bed, 9);
    bed.unmount();
    let (before, here) = (digest(&bed), keys(&bed));
    let there = server.arn("us-east-1", KEY);

    set(&mut bed, "KMSFS_KMS", "aws");
    let (code, told) = bed.refused_with(["mount", "vault", "plain"]);
    assert!(code == 2 && told.contains("embedded"), "{told}");
    let (code, told) = bed.refused_with(["rewrap", "--key", &there, "vault"]);
    assert!(code == 2 && told.contains("--change-kms"), "{told}");
    let done = json(&bed, &["rewrap", "--change-kms", "--key", &there, "--json", "vault"]);
    assert_eq!((&done["rewrapped"], &done["failed"]["count"]), (&Value::from(9), &Value::from(0)), "{done}");
    assert_eq!((keys(&bed), digest(&bed)), ([there.clone()].into(), before.clone()));
    // Called again, with another key there: what has come over stays there.
    server.kmsfs(&["key", "create", "--alias", "alias/new"]);
    let new = server.arn("us-east-1", "alias/new");
    bed.run(["rewrap", "--change-kms", "--key", &new, "vault"]);
    assert_eq!((keys(&bed), digest(&bed)), ([new].into(), before.clone()));

    own(&mut bed);
    let (code, told) = bed.refused_with(["mount", "vault", "plain"]);
    assert!(code == 2 && told.contains("--kms aws") && told.contains(&there[..30]), "{told}");
    bed.run(["rewrap", "--change-kms", "--key", KEY, "vault"]);
    assert_eq!((keys(&bed), digest(&bed)), (here, before));
    let descriptor = fs::read_to_string(bed.vault().join("kmsfs.json")).unwrap();
    assert!(!descriptor.contains("aws-kms"), "{descriptor}");
}

#[test]
fn a_descriptor_that_was_led_elsewhere_is_refused() {
    let server = Server::new();
    let mut bed = server.bed();
    bed.run(["init", "--key", &server.arn("us-east-1", KEY), "vault"]);
    // Both key services would open the volume key; the feature is under the MAC all the same.
    let path = bed.vault().join("kmsfs.json");
    let text = fs::read_to_string(&path).unwrap();
    let stripped = text.replace("\"aws-kms\"", "");
    assert_ne!(text, stripped);
    fs::write(&path, stripped).unwrap();
    set(&mut bed, "KMSFS_KMS", "embedded");
    let home = server.dir.path().join("home").display().to_string();
    let (code, told) = bed.refused_with(["--home", &home, "mount", "vault", "plain"]);
    assert!(code == 5 && told.contains("was changed"), "{told}");
}

#[test]
fn what_makes_no_sense_with_aws_is_refused() {
    let server = Server::new();
    let bed = server.bed();
    let key = server.arn("us-east-1", KEY);
    let far = "http://kms.example.org";
    for (args, code, said) in [
        (vec!["init", "vault"], 2, "--key"),
        (vec!["init", "--new-key", "alias/x", "vault"], 2, "--key"),
        (vec!["--as", "alice", "init", "--key", &key, "vault"], 2, "AWS_PROFILE"),
        (vec!["key", "list"], 2, "aws kms"),
        (vec!["--kms", "embedded", "--kms-endpoint", "https://x", "status"], 2, "--kms aws"),
        (vec!["--kms-endpoint", far, "init", "--key", &key, "vault"], 3, "https://"),
        (vec!["init", "--key", "alias/none", "vault"], 3, "NotFoundException"),
        (vec!["init", "--key", "arn:aws:kms:nowhere:1:key/x", "vault"], 2, "nowhere"),
    ] {
        let (ended, told) = bed.refused_with(&args);
        assert!(ended == code && told.contains(said), "{args:?}: {ended} {told}");
    }
    let mut nobody = server.bed();
    nobody.env.retain(|(name, _)| !name.starts_with("AWS_ACCESS") && !name.starts_with("AWS_SECRET"));
    let (code, told) = nobody.refused_with(["init", "--key", &key, "vault"]);
    assert!(code == 3 && told.contains("credential"), "{told}");
    assert!(!bed.vault().join("kmsfs.json").exists());
}

#[test]
fn credentials_come_by_a_profile_and_a_process() {
    let server = Server::new();
    let mut bed = server.bed();
    bed.env.retain(|(name, _)| !name.starts_with("AWS_"));
    let answer = format!(r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#, ROOT[0], ROOT[1]);
    let file = bed.dir().join("credentials.json");
    fs::write(&file, answer).unwrap();
    let config = bed.dir().join("config");
    let profile = format!(
        "[profile vault]\ncredential_process = cat {}\nservices = here\n\n[services here]\nkms =\n  endpoint_url = {}\n",
        file.display(),
        server.url()
    );
    fs::write(&config, profile).unwrap();
    for (name, value) in [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_PROFILE", "vault"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ] {
        set(&mut bed, name, value);
    }
    bed.run(["init", "--key", &server.arn("us-east-1", KEY), "vault"]);
    bed.mount();
    fill(&bed, 2);
    bed.remount();
    assert_eq!(fs::read_to_string(bed.plain("dir 0/file 0")).unwrap(), "content of 0\n");
}

#[test]
fn it_works_with_a_server_that_others_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let moto = moto(dir.path());
    let url = moto.url();
    let mut bed = bed(&url);
    set(&mut bed, "AWS_DEFAULT_REGION", "eu-central-1");
    let aws = |args: &[&str]| -> Value {
        let mut command = aws_cli(dir.path(), &url);
        command.arg("kms").args(args);
        command.envs(bed.env.iter().map(|(name, value)| (name, value)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    let made = |answer: &Value| answer["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let (first, second) = (made(&aws(&["create-key"])), made(&aws(&["create-key"])));
    let told = bed.run(["init", "--key", &first, "vault"]);
    assert!(told.contains("eu-central-1"), "{told}");
    bed.mount();
    fill(&bed, 6);
    bed.unmount();
    let before = digest(&bed);
    let done = json(&bed, &["rewrap", "--key", &second, "--json", "vault"]);
    // Its ciphertexts do not tell their material.
    let material = (&done["rewrapped"], &done["key_material_id"]);
    assert_eq!(material, (&Value::from(6), &Value::Null), "{done}");
    assert_eq!((keys(&bed), digest(&bed)), ([second.clone()].into(), before));
    // It lets a disabled key decrypt, as AWS does not; what it refuses comes out as its refusal.
    let gone = second.replace(second.rsplit('/').next().unwrap(), "00000000-0000-4000-8000-000000000000");
    let (code, told) = bed.refused_with(["rewrap", "--key", &gone, "vault"]);
    assert!(code == 3 && told.contains("NotFoundException"), "{told}");
}
