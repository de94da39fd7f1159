//! The log, exported and pinned, through the program.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::mounted::bed::{Bed, KEY};

/// Names below a directory, without the folders.
fn names(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(names(&path));
        } else {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

/// Exports start and end in seconds of their own.
fn next_second() {
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

#[test]
fn a_log_is_exported_and_the_next_export_goes_on() {
    let bed = Bed::with_own_key();
    next_second();
    let export =
        || -> Value { serde_json::from_str(&bed.run(["audit", "export", "out", "--json"])).unwrap() };
    let first = export();
    let events = first["events"].as_u64().unwrap();
    assert!(events >= 3, "{first}");
    let names = names(&bed.dir().join("out"));
    assert!(names.iter().any(|n| n.starts_with("000000000000_CloudTrail_us-east-1_")), "{names:?}");
    let digests =
        names.iter().filter(|n| n.starts_with("000000000000_CloudTrail-Digest_us-east-1_kmsfs_us-east-1_"));
    // Each with its signature.
    assert_eq!(digests.count() as u64, 2 * first["digests"].as_u64().unwrap());
    bed.run(["key", "describe", KEY]);
    next_second();
    let second = export();
    // The alias is looked up first.
    assert_eq!(second["events"], 2);
    assert!(bed.run(["audit", "export", "out"]).contains("0 events"));
    assert_eq!(bed.run(["audit", "head"]).trim(), second["head"].as_str().unwrap());
}

#[test]
fn an_export_that_cannot_be_says_why() {
    let bed = Bed::with_own_key();
    next_second();
    bed.run(["audit", "export", "out", "--bucket", "my-bucket"]);
    for (args, code, told) in [
        (&["--bucket", "other"][..], 2, "my-bucket"),
        (&["--bucket", "No"], 2, "no name of a bucket"),
        (&["--since", "2100-01-01"], 2, "end at"),
    ] {
        let (exit, text) = bed.refused_with([&["audit", "export", "out"], args].concat());
        assert_eq!(exit, code, "{text}");
        assert!(text.contains(told), "{text}");
    }
    let (exit, _) = bed.refused_with(["audit", "export", "/dev/null/x"]);
    assert_eq!(exit, 1);
    // A digest that was changed is not continued.
    let found = std::process::Command::new("find")
        .args(["out", "-name", "*Digest*.gz"])
        .current_dir(bed.dir())
        .output()
        .unwrap();
    let digests = String::from_utf8(found.stdout).unwrap();
    for digest in digests.lines() {
        fs::write(bed.dir().join(digest), "x").unwrap();
    }
    let (exit, text) = bed.refused_with(["audit", "export", "out"]);
    assert_eq!(exit, 7, "{text}");
}

#[test]
fn a_head_that_was_kept_elsewhere_shows_a_log_that_was_replaced() {
    let bed = Bed::with_own_key();
    let head = bed.run(["audit", "head"]);
    fs::write(bed.dir().join("kept"), &head).unwrap();
    bed.run(["key", "describe", KEY]);
    let told = bed.run(["audit", "verify", "--pinned", "@kept"]);
    let number = head.split(':').next().unwrap();
    assert!(told.contains(&format!("all {number} events of the pinned head")), "{told}");
    bed.run(["audit", "verify", "--pinned", head.trim()]);
    // Another hash, and one that the log does not reach.
    let (count, hash) = head.trim().split_once(':').unwrap();
    let turned: String = hash.chars().rev().collect();
    for other in [format!("{count}:{turned}"), format!("999999:{hash}")] {
        let (exit, text) = bed.refused_with(["audit", "verify", "--pinned", &other]);
        assert_eq!(exit, 7, "{text}");
    }
    let json: Value = serde_json::from_str(&bed.run(["audit", "head", "--json"])).unwrap();
    assert_eq!(json["head"].as_str().unwrap().split(':').next().unwrap(), json["events"].to_string());
}

#[test]
fn the_log_of_iam_and_sts_is_shown_verified_and_exported_beside_the_regions() {
    use kmsfs::kms::{Caller, Kms, KmsOptions};
    let bed = Bed::with_own_key();
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&bed.run([&["audit"], args, &["--json"]].concat())).unwrap()
    };
    assert_eq!(json(&["head"])["identities"], Value::Null);
    let account: kmsfs::iam::AccountId = "000000000000".parse().unwrap();
    let kms = Kms::open(&bed.dir().join("home"), KmsOptions::new(account.clone())).unwrap();
    // Events tell the second.
    next_second();
    kms.identity(Caller::root(account)).call_json("CreateUser", json!({"UserName": "alice"})).unwrap();
    drop(kms);
    next_second();
    bed.run(["key", "describe", KEY]);
    let shown = bed.run(["audit", "lookup"]);
    let place = |name: &str| shown.lines().position(|line| line.contains(name)).unwrap();
    assert!(
        place("DescribeKey") < place("CreateUser") && place("CreateUser") < place("CreateAlias"),
        "{shown}"
    );
    let heads = bed.run(["audit", "head"]);
    let [own, iam] = heads.lines().collect::<Vec<_>>()[..] else { panic!("{heads}") };
    assert!(iam.starts_with("iam:1:"), "{heads}");
    fs::write(bed.dir().join("kept"), &heads).unwrap();
    for pins in [&["--pinned", "@kept"][..], &["--pinned", own, "--pinned", iam], &["--pinned", iam]] {
        let told = bed.run([&["audit", "verify"], pins].concat());
        assert!(told.contains("it holds all 1 events of the pinned head"), "{told}");
    }
    let other = iam.replace("iam:1:", "iam:2:");
    for (pins, code) in [(&["--pinned", other.as_str()][..], 7), (&["--pinned", own, "--pinned", own], 2)] {
        let (exit, text) = bed.refused_with([&["audit", "verify"], pins].concat());
        assert_eq!(exit, code, "{text}");
    }
    assert_eq!(json(&["verify"])["identities"]["head"], iam);
    next_second();
    let done = json(&["export", "out"]);
    assert_eq!((&done["identities"]["events"], &done["identities"]["head"]), (&json!(1), &json!(iam)));
    let names = names(&bed.dir().join("out"));
    assert!(
        names.iter().any(|n| n.contains("_CloudTrail-Digest_us-east-1_kmsfs-iam_us-east-1_")),
        "{names:?}"
    );
    assert!(bed.run(["audit", "export", "out"]).contains("of IAM and STS"));
}
