//! What a mount may be given that it cannot use: each gets one clear error, and nothing is lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::mounted::bed::{Bed, sh};

/// A volume with a file, not mounted.
fn filled() -> Bed {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), "content").unwrap();
    fs::create_dir(bed.plain("dir")).unwrap();
    fs::write(bed.plain("dir/inside"), "more").unwrap();
    bed.unmount();
    bed
}

/// Mounts and finds everything as it was.
fn intact(bed: &Bed) {
    bed.mount();
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"content");
    assert_eq!(fs::read(bed.plain("dir/inside")).unwrap(), b"more");
    bed.unmount();
}

/// Holds if the mount is refused with one message that holds all the words.
fn refused(bed: &Bed, args: &[&str], words: &[&str]) {
    let text = bed.refused(args);
    for word in words {
        assert!(text.contains(word), "{args:?}: no {word:?} in: {text}");
    }
    assert!(!bed.is_mounted());
}

const MOUNT: &[&str] = &["mount", "vault", "plain"];

#[test]
fn a_changed_descriptor_is_refused() {
    let bed = filled();
    let path = bed.vault().join("kmsfs.json");
    let good = fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&good).unwrap();
    let mut with = |member: &str, value: serde_json::Value| {
        let old = json[member].take();
        json[member] = value;
        let text = json.to_string();
        json[member] = old;
        text
    };
    for (text, words) in [
        (with("format", 2.into()), ["kmsfs.json", "format 2"]),
        (with("features", serde_json::json!(["time-travel"])), ["kmsfs.json", "time-travel"]),
        (with("mac", "00".repeat(32).into()), ["kmsfs.json", "changed"]),
        (with("mac", "zz".into()), ["kmsfs.json", "damaged"]),
        (with("volume_keys", serde_json::json!([])), ["kmsfs.json", "damaged"]),
        (with("surprise", 1.into()), ["kmsfs.json", "surprise"]),
        (good[..good.len() / 2].to_owned(), ["kmsfs.json", "damaged"]),
        (String::new(), ["kmsfs.json", "damaged"]),
        ("x".repeat(1 << 20), ["kmsfs", "too long"]),
    ] {
        fs::write(&path, text).unwrap();
        refused(&bed, MOUNT, &words);
    }
    fs::remove_file(&path).unwrap();
    refused(&bed, MOUNT, &["not a kmsfs volume", "kmsfs init"]);
    fs::write(&path, good).unwrap();
    intact(&bed);
}

#[test]
fn a_foreign_home_and_a_foreign_descriptor_are_refused() {
    let (bed, other) = (filled(), filled());
    // The other's key service does not have this volume's key.
    let text = other.refused(["mount", bed.vault().to_str().unwrap(), "plain"]);
    assert!(text.contains("NotFoundException") && text.contains("--home"), "{text}");
    // The other's descriptor names a key that this home does not have.
    let path = bed.vault().join("kmsfs.json");
    let good = fs::read(&path).unwrap();
    fs::copy(other.vault().join("kmsfs.json"), &path).unwrap();
    refused(&bed, MOUNT, &["NotFoundException", "--home"]);
    fs::write(&path, good).unwrap();
    intact(&bed);
    intact(&other);
}

#[test]
fn a_volume_of_another_region_is_refused() {
    let bed = filled();
    let there = &["mount", "--region", "eu-central-1", "vault", "plain"];
    // No such region in this home; then there is one, and it is not the volume's.
    refused(&bed, there, &["us-east-1", "eu-central-1"]);
    bed.run(["init", "--region", "eu-central-1", "other"]);
    refused(&bed, there, &["belongs to region us-east-1", "eu-central-1"]);
    intact(&bed);
}

#[test]
fn a_wrong_or_missing_passphrase_is_refused() {
    let bed = Bed::without_volume();
    fs::write(bed.dir().join("right"), "correct horse\n").unwrap();
    fs::write(bed.dir().join("wrong"), "correct house\n").unwrap();
    bed.run(["--passphrase-file", "right", "init", "vault"]);
    let (code, text) = bed.refused_with(["mount", "vault", "plain", "--passphrase-file", "wrong"]);
    assert_eq!(code, 4);
    assert!(text.contains("passphrase does not open"), "{text}");
    let (code, text) = bed.refused_with(MOUNT);
    assert_eq!(code, 4);
    assert!(text.contains("--passphrase-file"), "{text}");
    let (code, text) = bed.refused_with(["mount", "vault", "plain", "--passphrase-file", "absent"]);
    assert_eq!(code, 1);
    assert!(text.contains("absent"), "{text}");
    bed.run(["mount", "vault", "plain", "--passphrase-file", "right"]);
    fs::write(bed.plain("file"), "content").unwrap();
    bed.unmount();
}

#[test]
fn a_lost_root_key_is_told() {
    let bed = filled();
    let root = bed.dir().join("home/us-east-1/root.key");
    fs::rename(&root, bed.dir().join("away")).unwrap();
    let (code, text) = bed.refused_with(MOUNT);
    assert_eq!(code, 4);
    assert!(text.contains("root.key") && text.contains("backup"), "{text}");
    fs::rename(bed.dir().join("away"), &root).unwrap();
    intact(&bed);
}

#[test]
fn a_missing_or_foreign_epoch_marker_is_refused_until_it_is_reset() {
    let bed = filled();
    let marker = bed.vault().join(".kmsfs/epoch");
    let mut bytes = fs::read(&marker).unwrap();
    bytes[20] ^= 1;
    fs::write(&marker, bytes).unwrap();
    refused(&bed, MOUNT, &["epoch", "--reset-epoch"]);
    fs::remove_file(&marker).unwrap();
    refused(&bed, MOUNT, &["epoch", "--reset-epoch"]);
    bed.run(["mount", "--reset-epoch", "vault", "plain"]);
    bed.unmount();
    intact(&bed);
}

#[test]
fn a_second_init_is_refused() {
    let bed = filled();
    bed.refused(["init", "vault"]);
    fs::create_dir(bed.dir().join("full")).unwrap();
    fs::write(bed.dir().join("full/notes"), "mine").unwrap();
    bed.refused(["init", "full"]);
    assert_eq!(sh(&bed.dir().join("full"), "ls -A; cat notes"), "notes\nmine");
    intact(&bed);
}

#[test]
fn what_kmsfs_did_not_write_does_no_harm() {
    let bed = filled();
    let vault = bed.vault();
    fs::write(vault.join("notes.txt"), "somebody's").unwrap();
    fs::write(vault.join("c29tZWJvZHkncw"), "somebody's").unwrap();
    fs::create_dir(vault.join("directory")).unwrap();
    fs::write(vault.join("directory/file"), "x").unwrap();
    symlink("nowhere", vault.join("a-link")).unwrap();
    sh(&vault, "mkfifo pipe");
    intact(&bed);
    bed.mount();
    let names = sh(&bed.plain(""), "ls -A");
    assert!(names.contains("file") && names.contains("dir"), "{names}");
    assert!(!names.contains("notes"), "{names}");
    sh(&bed.plain(""), "find . -type f | xargs -d '\\n' cat > /dev/null");
    bed.unmount();
    let left = |name: &str| fs::symlink_metadata(vault.join(name)).is_ok();
    for name in ["notes.txt", "c29tZWJvZHkncw", "directory/file", "a-link", "pipe"] {
        assert!(left(name), "{name} was removed");
    }
}

/// Backing files whose content is damaged in every way: the mount tells EIO, and goes on.
#[test]
fn damaged_files_are_told_and_the_others_stay() {
    let bed = Bed::mounted();
    let names = ["cut", "flipped", "swapped", "headless", "emptied", "grown"];
    for name in names.iter().chain(&["good"]) {
        fs::write(bed.plain(name), name.repeat(5000)).unwrap();
    }
    bed.unmount();
    let backing = |name: &str| {
        bed.mount();
        let json: serde_json::Value =
            serde_json::from_str(&bed.run(["inspect", "--json", &format!("plain/{name}")])).unwrap();
        bed.unmount();
        let id = hex::decode(json["file_id"].as_str().unwrap()).unwrap();
        let files = fs::read_dir(bed.vault()).unwrap().map(|e| e.unwrap().path());
        files.filter(|p| p.is_file()).find(|p| fs::read(p).unwrap().get(16..32) == Some(&id[..])).unwrap()
    };
    let change = |name: &str, how: &dyn Fn(&mut Vec<u8>)| {
        let path = backing(name);
        let mut bytes = fs::read(&path).unwrap();
        how(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    change("cut", &|bytes| bytes.truncate(8192));
    change("flipped", &|bytes| bytes[5000] ^= 1);
    change("swapped", &|bytes| {
        let (a, b) = bytes[4096..].split_at_mut(4096);
        a.swap_with_slice(&mut b[..4096]);
    });
    change("headless", &|bytes| bytes[..4096].fill(0));
    change("emptied", &|bytes| bytes.clear());
    change("grown", &|bytes| bytes.resize(bytes.len() + 8192, 0));
    bed.mount();
    for name in names {
        let error = fs::read(bed.plain(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}: {error}");
    }
    assert_eq!(fs::read(bed.plain("good")).unwrap(), "good".repeat(5000).into_bytes());
    // They can be removed.
    for name in names {
        fs::remove_file(bed.plain(name)).unwrap();
    }
    bed.remount();
    assert_eq!(sh(Path::new(&bed.plain("")), "ls -A"), "good\n");
}
