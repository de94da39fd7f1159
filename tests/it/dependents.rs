//! What depends on a KMS key, told before it goes; what a home knows; and its backups: through the program.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kmsfs::kms::{KeyService, Kms, KmsOptions};
use kmsfs::snapshot::depot::{Depot, DirDepot, descriptor_path};
use kmsfs::snapshot::descriptor::{Counts, Descriptor, Id, KeyUse, SealedKey};
use kmsfs::volume::header::{self, Header, WrappedKey};
use kmsfs::volume::keys::file_context;
use kmsfs::volume::layout::PAGE;
use serde_json::Value;

use crate::cli::json;
use crate::mounted::bed::{Bed, KEY, sh};

/// A volume under [`KEY`] with files, not mounted.
fn bed(files: usize) -> Bed {
    let bed = Bed::with_own_key();
    bed.mount();
    fs::create_dir(bed.plain("dir")).unwrap();
    for n in 0..files {
        fs::write(bed.plain(format!("dir/{n}")), format!("content of {n}")).unwrap();
    }
    bed.unmount();
    bed
}

fn arn(bed: &Bed, key: &str) -> String {
    json(bed, &["key", "describe", "--json", key])["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

fn state(bed: &Bed, key: &str) -> String {
    json(bed, &["key", "describe", "--json", key])["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned()
}

fn dependents(bed: &Bed, key: &str) -> Value {
    json(bed, &["key", "dependents", "--json", key])
}

fn numbers(dependent: &Value) -> [u64; 3] {
    ["under", "also_under_another", "unreadable"].map(|name| dependent[name].as_u64().unwrap())
}

fn count(value: &Value) -> usize {
    value.as_array().unwrap().len()
}

/// The files with a header in the backing directory.
fn backing(bed: &Bed) -> Vec<PathBuf> {
    let list = sh(&bed.vault(), "find . -type f -size +4k ! -path './.kmsfs*' | sort");
    list.lines().map(|line| bed.vault().join(line)).collect()
}

#[test]
fn a_keys_deletion_tells_first_what_is_lost_and_when() {
    let bed = bed(12);
    bed.run(["init", "--new-key", "alias/other", "second"]);
    let schedule = ["key", "schedule-deletion", "--pending-window-in-days", "7", KEY];
    // Also while it is mounted.
    bed.mount();
    let (code, error) = bed.refused_with(schedule);
    assert_eq!(code, 2, "{error}");
    assert!(
        error.contains("12 files") && error.contains("--yes") && error.contains("key dependents"),
        "{error}"
    );
    assert_eq!(state(&bed, KEY), "Enabled");
    let found = dependents(&bed, KEY);
    assert_eq!((count(&found["volumes"]), count(&found["unknown"]), count(&found["backups"])), (1, 0, 0));
    let volume = &found["volumes"][0];
    assert_eq!(volume["location"].as_str(), bed.vault().canonicalize().unwrap().to_str());
    assert_eq!((numbers(volume), volume["volume_key"].as_str()), ([12, 0, 12], Some("alone")));
    assert_eq!(found["deletion_date"], Value::Null);
    bed.unmount();

    let told = bed.run([&schedule[..], &["--yes"]].concat());
    let date =
        json(&bed, &["key", "describe", "--json", KEY])["KeyMetadata"]["DeletionDate"].as_f64().unwrap();
    let date = jiff::Timestamp::from_second(date as i64).unwrap().strftime("%Y-%m-%d").to_string();
    assert!(told.contains("12 files of 1 volume cannot be read") && told.contains(&date), "{told}");
    assert!(told.contains("vault") && !told.contains("second"), "{told}");
    assert!(told.contains("nothing here opens"), "{told}");
    let found = dependents(&bed, KEY);
    assert!(found["deletion_date"].as_str().unwrap().starts_with(&date), "{found}");
    assert!(bed.run(["key", "dependents", KEY]).contains(&date));
    // A second time the service refuses, and nothing is counted before.
    assert_eq!(bed.refused_with(schedule).0, 3);
    bed.run(["key", "cancel-deletion", KEY]);
    // What nothing depends on needs no word.
    bed.run(["key", "create", "--alias", "alias/spare"]);
    let told = bed.run(["key", "schedule-deletion", "alias/spare"]);
    assert!(told.contains("nothing that this home knows of depends on"), "{told}");
    // For scripts AWS's answer stands alone.
    let answer = json(&bed, &["key", "schedule-deletion", "--yes", "--json", "alias/other"]);
    assert_eq!(answer["KeyState"], "PendingDeletion");
    assert_eq!(bed.refused_with(["key", "dependents", "alias/none"]).0, 3);
}

#[test]
fn files_under_two_keys_stay_as_long_as_one_of_them_does() {
    let bed = bed(5);
    bed.run(["key", "create", "--alias", "alias/second"]);
    let second = arn(&bed, "alias/second");
    // Three of the files get a wrapped key under a second KMS key.
    let options = KmsOptions::new("000000000000".parse().unwrap());
    let kms = Kms::open(&bed.dir().join("home"), options).unwrap();
    let session = kms.root_session(&"us-east-1".parse().unwrap()).unwrap();
    let volume = dependents(&bed, KEY)["volumes"][0]["volume_id"].as_str().unwrap().to_owned();
    let volume = hex::decode(volume).unwrap().try_into().unwrap();
    for path in backing(&bed).into_iter().take(3) {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut page = [0; PAGE as usize];
        file.read_exact_at(&mut page, 0).unwrap();
        let Header { file_id, mut keys, .. } = Header::parse(&page).unwrap();
        let context = file_context(&volume, &file_id);
        let made = session.re_encrypt(&keys[0].ciphertext, &context, &second, &context).unwrap();
        keys.push(WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext });
        file.write_all_at(&header::with_keys(&page, &keys).unwrap()[..], 0).unwrap();
    }
    drop((session, kms));
    // The volume key is under the first alone: with it, all go.
    let first = &dependents(&bed, KEY)["volumes"][0];
    assert_eq!((numbers(first), first["volume_key"].as_str()), ([5, 3, 5], Some("alone")));
    let other = &dependents(&bed, &second)["volumes"][0];
    assert_eq!((numbers(other), other["volume_key"].as_str()), ([3, 3, 0], Some("no")));
    assert!(bed.run(["key", "dependents", "alias/second"]).contains("3 also under another key"));
    // A key that goes soon is no comfort.
    bed.run(["key", "schedule-deletion", "--yes", KEY]);
    assert_eq!(numbers(&dependents(&bed, &second)["volumes"][0]), [3, 0, 3]);
}

#[test]
fn files_under_another_key_go_with_the_volume_key() {
    let bed = bed(4);
    bed.run(["key", "create", "--alias", "alias/new"]);
    let one = backing(&bed)[0].clone();
    bed.run([Path::new("rewrap"), Path::new("--key"), Path::new("alias/new"), &one]);
    assert_eq!(numbers(&dependents(&bed, KEY)["volumes"][0]), [3, 0, 4]);
    assert_eq!(numbers(&dependents(&bed, "alias/new")["volumes"][0]), [1, 0, 1]);
    bed.run(["rewrap", "--key", "alias/new", "vault"]);
    assert_eq!(count(&dependents(&bed, KEY)["volumes"]), 0);
    assert_eq!(numbers(&dependents(&bed, "alias/new")["volumes"][0]), [4, 0, 4]);
    // So after a rewrap the old key goes without a word.
    bed.run(["key", "schedule-deletion", KEY]);
}

#[test]
fn what_is_not_found_is_told_and_can_be_forgotten() {
    let bed = bed(2);
    let list = |bed: &Bed| json(bed, &["home", "list", "--json"]);
    assert_eq!((count(&list(&bed)), list(&bed)[0]["state"].as_str()), (1, Some("there")));
    fs::rename(bed.vault(), bed.dir().join("moved")).unwrap();
    assert_eq!(list(&bed)[0]["state"], "not found");
    let told = bed.run(["key", "dependents", KEY]);
    assert!(told.contains("not found; last seen on 20") && told.contains("kmsfs home forget"), "{told}");
    let (code, error) = bed.refused_with(["key", "schedule-deletion", KEY]);
    assert!(code == 2 && error.contains("of 1 place "), "{error}");
    assert!(bed.run(["home", "note", "moved"]).contains("volume"));
    bed.run(["home", "forget", "vault"]);
    assert!(bed.refused(["home", "forget", "vault"]).contains("kmsfs home list"));
    let found = dependents(&bed, KEY);
    assert_eq!((count(&found["volumes"]), count(&found["unknown"])), (1, 0));
    // A mount notes by itself, also a copy of the volume.
    sh(bed.dir(), "cp -a moved copy");
    bed.run(["mount", "--read-only", "copy", "plain"]);
    bed.unmount();
    assert_eq!(count(&dependents(&bed, KEY)["volumes"]), 2);
    // Something else at the place of a volume.
    fs::remove_dir_all(bed.dir().join("copy")).unwrap();
    bed.run(["init", "--key", KEY, "copy"]);
    assert!(list(&bed).as_array().unwrap().iter().all(|place| place["state"] == "there"));
    fs::remove_file(bed.dir().join("copy/kmsfs.json")).unwrap();
    let found = dependents(&bed, KEY);
    assert_eq!(found["unknown"][0]["reason"], "no volume is there any more");
    // A damaged header hides nothing.
    fs::write(bed.dir().join("moved/kmsfs.json"), "{").unwrap();
    assert_eq!(count(&dependents(&bed, KEY)["unknown"]), 2);
    assert_eq!(bed.refused_with(["key", "schedule-deletion", KEY]).0, 2);
    bed.run(["home", "note", "s3://bucket/prefix"]);
    let found = dependents(&bed, KEY);
    assert!(found["unknown"].to_string().contains("s3://bucket/prefix"), "{found}");
}

#[test]
fn snapshots_are_counted_by_what_they_say() {
    let bed = bed(3);
    let volume = dependents(&bed, KEY)["volumes"][0]["volume_id"].as_str().unwrap().to_owned();
    let (key, other) = (arn(&bed, KEY), "arn:aws:kms:us-east-1:111111111111:key/a".to_owned());
    let set = |key_arns: &[&String], files| KeyUse {
        key_arns: key_arns.iter().map(|k| (*k).clone()).collect(),
        files,
    };
    let descriptor = Descriptor {
        format: 1,
        features: Vec::new(),
        snapshot_id: Id([1; 16]),
        name: "monday".to_owned(),
        volume_id: Id::try_from(volume).unwrap(),
        region: "us-east-1".to_owned(),
        account: "000000000000".to_owned(),
        created: 0,
        epoch: String::new(),
        parent: None,
        copied_from: None,
        manifest: Id([2; 16]),
        packs: Vec::new(),
        counts: Counts::default(),
        keys: vec![set(&[&key], 40), set(&[&key, &other], 2), set(&[&other], 1)],
        recipients: Vec::new(),
        volume_keys: [&key, &other]
            .map(|key| SealedKey { key_arn: key.clone(), ciphertext: String::new() })
            .to_vec(),
        mac: "00".repeat(32),
    };
    // In the volume's own depot, and in one elsewhere that has a second, half-made one.
    for (root, name) in
        [(bed.vault().join(".kmsfs/snapshots"), "monday"), (bed.dir().join("depot"), "tuesday")]
    {
        fs::create_dir_all(&root).unwrap();
        let depot = DirDepot::create(&root).unwrap();
        let descriptor = Descriptor { name: name.to_owned(), ..descriptor.clone() };
        depot.put(&descriptor_path(name), &descriptor.encode().unwrap()).unwrap();
    }
    fs::create_dir_all(bed.dir().join("depot/snapshots/wednesday")).unwrap();
    assert!(bed.run(["home", "note", "depot"]).contains("snapshots"));
    let found = dependents(&bed, KEY);
    assert_eq!(count(&found["snapshots"]), 2, "{found}");
    for snapshot in found["snapshots"].as_array().unwrap() {
        assert_eq!((numbers(snapshot), snapshot["volume_key"].as_str()), ([42, 2, 40], Some("not_alone")));
    }
    assert_eq!(
        (found["files_unreadable"].as_u64(), found["snapshot_files_unreadable"].as_u64()),
        (Some(3), Some(80))
    );
    let told = bed.run(["key", "dependents", KEY]);
    assert!(told.contains("tuesday in ") && told.contains("80 files of 2 snapshots"), "{told}");
    fs::write(bed.dir().join("depot/snapshots/tuesday/snapshot.json"), "{}").unwrap();
    let found = dependents(&bed, KEY);
    assert_eq!((count(&found["snapshots"]), count(&found["unknown"])), (1, 1));
    assert!(found["unknown"][0]["reason"].as_str().unwrap().contains("tuesday"), "{found}");
}

#[test]
fn snapshots_and_their_copies_are_known_from_when_they_are_made() {
    let bed = bed(3);
    bed.run(["snapshot", "create", "vault", "--name", "one"]);
    bed.run(["snapshot", "create", "vault", "--name", "two", "--to", "depot"]);
    let copy = ["snapshot", "copy", "two", "--in", "depot", "--to", "us-east-1", "--key", "alias/copies"];
    bed.run(["key", "create", "--alias", "alias/copies"]);
    bed.run([&copy[..], &["--dest", "copies", "--name", "copy"]].concat());
    let found = dependents(&bed, KEY);
    assert_eq!(
        (count(&found["volumes"]), count(&found["snapshots"]), count(&found["unknown"])),
        (1, 2, 0),
        "{found}"
    );
    for snapshot in found["snapshots"].as_array().unwrap() {
        assert_eq!((numbers(snapshot), snapshot["volume_key"].as_str()), ([3, 0, 3], Some("alone")));
    }
    let copied = dependents(&bed, "alias/copies");
    assert_eq!((count(&copied["volumes"]), numbers(&copied["snapshots"][0])), (0, [3, 0, 3]), "{copied}");
    // What is restored hangs on the key as the snapshot does.
    bed.run(["snapshot", "restore", "copy", "--in", "copies", "back"]);
    assert_eq!(numbers(&dependents(&bed, "alias/copies")["volumes"][0]), [3, 0, 3]);
    let (code, error) = bed.refused_with(["key", "schedule-deletion", KEY]);
    assert!(code == 2 && error.contains("3 files of 1 volume, and 6 files of 2 snapshots,"), "{error}");
}

#[test]
fn imported_material_and_related_keys_have_a_word_of_their_own() {
    let bed = Bed::without_volume();
    bed.run(["init", "spare"]);
    bed.run(["key", "create", "--origin", "EXTERNAL", "--alias", "alias/mine"]);
    fs::write(bed.dir().join("material"), [7; 32]).unwrap();
    let import = ["key", "import", "alias/mine", "--file", "material", "--wrapping-key-spec", "RSA_2048"];
    bed.run(import);
    bed.run(["init", "--key", "alias/mine", "vault"]);
    bed.mount();
    fs::write(bed.plain("file"), "text").unwrap();
    bed.unmount();
    let (code, error) = bed.refused_with(["key", "delete-imported-material", "alias/mine"]);
    assert!(code == 2 && error.contains("1 file of 1 volume "), "{error}");
    assert_eq!(state(&bed, "alias/mine"), "Enabled");
    let material =
        json(&bed, &["key", "describe", "--json", "alias/mine"])["KeyMetadata"]["CurrentKeyMaterialId"]
            .clone();
    let volume = &dependents(&bed, "alias/mine")["volumes"][0];
    assert_eq!(volume["by_material"][material.as_str().unwrap()], 1);
    let told = bed.run(["key", "delete-imported-material", "--yes", "alias/mine"]);
    assert!(told.contains("until the same material is imported again"), "{told}");
    bed.run(import);
    bed.mount();
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"text");
    bed.unmount();
    assert!(bed.run(["key", "disable", "alias/mine"]).contains("key dependents"));

    // The replica of a multi-Region key stays, and brings it back.
    bed.run(["--region", "eu-west-1", "init", "europe"]);
    bed.run(["key", "create", "--multi-region", "--alias", "alias/wide"]);
    bed.run(["init", "--key", "alias/wide", "wide"]);
    let key = arn(&bed, "alias/wide");
    assert_eq!(count(&dependents(&bed, "alias/wide")["related_keys"]), 0);
    bed.run(["key", "replicate", "alias/wide", "--replica-region", "eu-west-1"]);
    let found = dependents(&bed, "alias/wide");
    assert!(found["related_keys"][0].as_str().unwrap().contains(":eu-west-1:"), "{found}");
    assert_eq!(found["volumes"][0]["volume_key"], "alone");
    assert!(bed.run(["key", "dependents", "alias/wide"]).contains("key replicate"));
    // Of the replica nothing depends: no file names it.
    let id = key.rsplit('/').next().unwrap();
    let there = json(&bed, &["--region", "eu-west-1", "key", "dependents", "--json", id]);
    assert_eq!(count(&there["volumes"]), 0, "{there}");
    bed.run(["--region", "eu-west-1", "key", "schedule-deletion", id]);
    // It goes: then it is no help, and the last of the family is needed by all that names any of it.
    assert_eq!(count(&dependents(&bed, "alias/wide")["related_keys"]), 0);
}

#[test]
fn a_home_is_backed_up_while_it_is_used_and_a_deleted_key_lives_on_in_the_backup() {
    let bed = bed(2);
    bed.mount();
    let text = bed.run(["home", "backup", "--with-root-keys", "kept"]);
    assert!(text.contains("us-east-1"), "{text}");
    assert_eq!(bed.refused_with(["home", "backup", "kept"]).0, 4);
    assert_eq!(bed.refused_with(["home", "restore", "kept"]).0, 4);
    bed.unmount();
    let list = bed.run(["home", "list"]);
    assert!(list.contains("backup with root keys") && list.contains("kept"), "{list}");
    let told = bed.run(["key", "schedule-deletion", "--yes", KEY]);
    assert!(told.contains("/kept of ") && told.contains("lives on in backups"), "{told}");
    // Made after it, a key is in no backup.
    bed.run(["key", "create", "--alias", "alias/later"]);
    assert_eq!(count(&dependents(&bed, "alias/later")["backups"]), 0);
    // The home is lost; the backup has the key as it was.
    fs::rename(bed.dir().join("home"), bed.dir().join("lost")).unwrap();
    let text = bed.run(["home", "restore", "kept"]);
    assert!(text.contains("us-east-1"), "{text}");
    assert_eq!(state(&bed, KEY), "Enabled");
    bed.mount();
    assert_eq!(fs::read(bed.plain("dir/1")).unwrap(), b"content of 1");
    bed.unmount();
    bed.run(["audit", "verify"]);
    // Without root keys, and with them from elsewhere; one bit of it, and it is refused.
    let output = bed.command(["home", "backup", "bare"]).output().unwrap();
    assert!(
        output.status.success()
            && String::from_utf8_lossy(&output.stderr).contains("root keys are not in it")
    );
    let other = |args: &[&str]| bed.command([&["--home", "third"], args].concat()).output().unwrap();
    let output = other(&["home", "restore", "bare", "--root-keys", "lost"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(other(&["key", "describe", KEY]).status.success());
    let store = bed.dir().join("bare/us-east-1/store.db");
    let end = fs::metadata(&store).unwrap().len();
    let mut file = fs::File::options().append(true).open(store).unwrap();
    file.write_all(b"x").unwrap();
    fs::remove_dir_all(bed.dir().join("third")).unwrap();
    let output = other(&["home", "restore", "bare"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(!bed.dir().join("third").exists() && end > 0);
}

/// kill -9 at any moment leaves a backup whole or not at all.
#[test]
fn a_killed_backup_is_whole_or_not_there() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let bed = bed(1);
    let mut whole = 0;
    for round in 0..rounds {
        let mut child = bed.command(["home", "backup", "--with-root-keys", "b"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3 * round + 1));
        let _ = child.kill();
        child.wait().unwrap();
        if bed.dir().join("b").exists() {
            whole += 1;
            let output = bed.command(["--home", "r", "home", "restore", "b"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let known = json(&bed, &["home", "list", "--json"]).to_string();
            assert!(known.contains("\"backup\""), "{known}");
            fs::remove_dir_all(bed.dir().join("r")).unwrap();
            fs::remove_dir_all(bed.dir().join("b")).unwrap();
        }
    }
    bed.run(["home", "backup", "--with-root-keys", "b"]);
    let left = sh(bed.dir(), "find . -name '.*partial'");
    assert!(left.is_empty() && whole <= rounds, "{left}");
}
