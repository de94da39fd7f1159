//! `kmsfs rewrap` and `kmsfs inspect --summary`, on volumes that were filled through a mount.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::json;
use crate::mounted::bed::{Bed, KEY, sh};

fn arn(bed: &Bed, args: &[&str]) -> String {
    json(bed, &[args, &["--json"]].concat())["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

/// A volume under [`KEY`] with `files` files in ten directories, not mounted. Some may not be written to.
fn bed(files: usize) -> Bed {
    let bed = Bed::with_own_key();
    bed.mount();
    for n in 0..files {
        let dir = bed.plain(format!("dir {}", n % 10));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("file {n}"));
        fs::write(&path, format!("content of {n}\n").repeat(n % 400 + 1)).unwrap();
        if n % 7 == 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
        }
    }
    bed.unmount();
    bed
}

/// Every byte, through a mount that is made for it.
fn digest(bed: &Bed) -> String {
    bed.mount();
    let digest = sh(&bed.plain(""), "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum");
    bed.unmount();
    digest
}

/// How many files are under which key and material.
fn counts(bed: &Bed) -> Vec<(String, String, u64)> {
    let summary = json(bed, &["inspect", "--summary", "--json", "vault"]);
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let keys = summary["data_keys"].as_array().unwrap();
    keys.iter()
        .map(|k| (text(&k["key_arn"]), text(&k["key_material_id"]), k["files"].as_u64().unwrap()))
        .collect()
}

#[test]
fn a_volume_comes_under_the_current_material_and_under_another_key() {
    let bed = bed(30);
    let before = digest(&bed);
    let first = counts(&bed);
    assert_eq!((first.len(), first[0].2), (1, 30));
    let nothing = bed.run(["rewrap", "vault"]);
    assert!(nothing.contains("30 files") && nothing.contains("left as it is"), "{nothing}");

    bed.run(["key", "rotate", KEY]);
    let plan = json(&bed, &["rewrap", "--dry-run", "--json", "vault"]);
    assert_eq!((plan["rewrapped"].as_u64(), plan["volume_key"].as_bool()), (Some(30), Some(true)));
    assert_eq!(counts(&bed), first);
    let done = json(&bed, &["rewrap", "--json", "vault"]);
    assert_eq!((done["rewrapped"].as_u64(), done["failed"]["count"].as_u64()), (Some(30), Some(0)));
    let second = counts(&bed);
    assert!(second.len() == 1 && second[0].0 == first[0].0 && second[0].1 != first[0].1, "{second:?}");
    assert_eq!(done["key_material_id"].as_str(), Some(&*second[0].1));
    assert_eq!(digest(&bed), before);

    let new = arn(&bed, &["key", "create", "--alias", "alias/new"]);
    let done = bed.run(["rewrap", "--key", "alias/new", "vault"]);
    assert!(done.contains(&new) && done.contains("30 files"), "{done}");
    bed.run(["key", "disable", KEY]);
    assert_eq!(digest(&bed), before);
    let table = bed.run(["inspect", "--summary", "vault"]);
    assert!(
        table.contains("the volume key") && table.contains("30 files") && table.contains(&new),
        "{table}"
    );
    // And new files are under it.
    bed.mount();
    fs::write(bed.plain("later"), "later").unwrap();
    bed.unmount();
    assert_eq!(counts(&bed).iter().map(|c| (&*c.0, c.2)).collect::<Vec<_>>(), [(&*new, 31)]);
}

#[test]
fn modes_stay_and_each_rewrap_is_in_the_log() {
    let bed = bed(8);
    let modes = || {
        let list = sh(
            &bed.vault(),
            "find . -type f ! -path './.kmsfs*' ! -name kmsfs.json -printf '%m %s %f\n' | sort",
        );
        assert!(list.contains("444 "), "{list}");
        list
    };
    let before = modes();
    bed.run(["key", "create", "--alias", "alias/new"]);
    bed.run(["rewrap", "--key", "alias/new", "vault"]);
    assert_eq!(modes(), before);
    let log = json(&bed, &["audit", "lookup", "--event-name", "ReEncrypt", "--json"]);
    // The volume key and each file.
    assert_eq!(log["Events"].as_array().unwrap().len(), 9);
}

#[test]
fn what_cannot_be_rewrapped_is_told_and_left() {
    let bed = bed(3);
    assert_eq!(bed.refused_with(["rewrap", "--key", "alias/none", "vault"]).0, 3);
    assert_eq!(bed.refused_with(["rewrap", "home"]).0, 1);
    assert_eq!(bed.refused_with(["--region", "eu-central-1", "rewrap", "vault"]).0, 2);
    bed.run(["mount", "--read-only", "vault", "plain"]);
    let (code, error) = bed.refused_with(["rewrap", "vault"]);
    assert!(code == 6 && error.contains("umount"), "{error}");
    let (code, error) = bed.refused_with(["rewrap", "plain/dir 0"]);
    assert!(code == 6 && error.contains("vault"), "{error}");
    bed.unmount();
    // One file's header is damaged: the others are done, and it is named.
    let vault = bed.vault();
    let find = "find . -type f -size +4k ! -path './.kmsfs*' | sort | head -1";
    let file = sh(&vault, find).trim().trim_start_matches("./").to_owned();
    sh(&vault, &format!("printf XXXX | dd of='{file}' conv=notrunc status=none"));
    bed.run(["key", "rotate", KEY]);
    let output = bed.command(["rewrap", "vault"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(&file) && errors.contains("1 file or directory could not"), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 files"), "{output:?}");
}

#[test]
fn a_volume_is_brought_to_another_region() {
    let bed = bed(12);
    let before = digest(&bed);
    bed.run(["--region", "eu-central-1", "init", "--new-key", "alias/europe", "other"]);
    let europe = ["--region", "eu-central-1"];
    let with = |args: &[&'static str]| [&europe[..], args].concat();
    let (code, error) = bed.refused_with(with(&["rewrap", "--key", "alias/europe", "vault"]));
    assert!(code == 2 && error.contains("--change-region"), "{error}");
    // Nor does a descriptor do that was changed to say that it is there already.
    let (path, headers) = (bed.vault().join("kmsfs.json"), counts(&bed));
    let genuine = fs::read_to_string(&path).unwrap();
    fs::write(&path, genuine.replace("\"region\": \"us-east-1\"", "\"region\": \"eu-central-1\"")).unwrap();
    let (code, error) = bed.refused_with(with(&["rewrap", "--key", "alias/europe", "vault"]));
    assert!(code == 5 && error.contains("was changed"), "{error}");
    assert_eq!(counts(&bed), headers);
    fs::write(&path, genuine).unwrap();
    let done = bed.run(with(&["rewrap", "--key", "alias/europe", "--change-region", "vault"]));
    assert!(done.contains("12 files") && done.contains(":eu-central-1:"), "{done}");
    assert_eq!(bed.refused_with(["mount", "vault", "plain"]).0, 5);
    bed.run(with(&["mount", "vault", "plain"]));
    let after = sh(&bed.plain(""), "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum");
    bed.unmount();
    assert_eq!(after, before);
    // Both logs show it.
    let events = |args: &[&str]| json(&bed, args)["Events"].as_array().unwrap().len();
    assert!(events(&["audit", "lookup", "--event-name", "Decrypt", "--json"]) >= 13);
    let there = ["--region", "eu-central-1", "audit", "lookup", "--event-name", "Encrypt", "--json"];
    // And the volume key's of the call that was refused.
    assert_eq!(events(&there), 13 + 1);
    // An ARN says its region itself.
    let key = json(&bed, &["key", "describe", "alias/vault", "--json"])["KeyMetadata"]["Arn"].clone();
    let back = [&europe[..], &["rewrap", "--key", key.as_str().unwrap()]].concat();
    let (code, error) = bed.refused_with([&back[..], &["vault"]].concat());
    assert!(code == 2 && error.contains("--change-region"), "{error}");
    let done = bed.run([&back[..], &["--change-region", "vault"]].concat());
    assert!(done.contains("12 files") && done.contains(":us-east-1:"), "{done}");
    bed.run(["mount", "vault", "plain"]);
}

#[test]
fn a_killed_rewrap_goes_on() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let files = 400;
    let bed = bed(files);
    let before = digest(&bed);
    let mut halfway = 0;
    for round in 0..rounds {
        bed.run(["key", "create", "--alias", &format!("alias/k{round}")]);
        let key = format!("alias/k{round}");
        let new = arn(&bed, &["key", "describe", &key]);
        let begun = Instant::now();
        let mut child = bed.command(["rewrap", "--key", &key, "vault"]).spawn().unwrap();
        // Somewhere in the middle, as the headers show it.
        let wanted = 20 + (round as u64 * 97) % 300;
        let until = begun + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() && Instant::now() < until {
            if bed.files_under(&new) >= wanted {
                break;
            }
        }
        let _ = child.kill();
        child.wait().unwrap();
        let left = counts(&bed);
        assert_eq!(left.iter().map(|c| c.2).sum::<u64>(), files as u64);
        halfway += usize::from(left.len() > 1);
        assert_eq!(digest(&bed), before, "round {round}");
        bed.run(["rewrap", "--key", &key, "vault"]);
        let whole = counts(&bed);
        assert!(whole.len() == 1 && whole[0].0 == new, "{whole:?}");
        assert_eq!(digest(&bed), before, "round {round}, gone on");
    }
    assert!(halfway > 0, "no kill came in the middle");
}

#[test]
fn a_rewrapped_file_is_seen_by_backups_that_compare_size_and_time() {
    let bed = bed(3);
    sh(bed.dir(), "cp -a vault copy");
    bed.run(["key", "rotate", KEY]);
    bed.run(["rewrap", "vault"]);
    let find = "find . -type f -size +4k ! -path './.kmsfs*' | sort";
    for file in sh(&bed.vault(), find).lines() {
        let (here, there) = (bed.vault().join(file), bed.dir().join("copy").join(file));
        let (here, there) = (fs::metadata(here).unwrap(), fs::metadata(there).unwrap());
        assert_eq!((here.size(), here.mtime()), (there.size(), there.mtime() + 1), "{file}");
    }
}
