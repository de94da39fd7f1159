//! `kmsfs shred`, on volumes that were filled through a mount.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::mounted::bed::{Bed, sh};

fn bed() -> Bed {
    let bed = Bed::with_own_key();
    bed.mount();
    fs::create_dir_all(bed.plain("tree/deep")).unwrap();
    for name in ["secret", "kept", "tree/a", "tree/deep/b", "linked"] {
        fs::write(bed.plain(name), format!("content of {name}\n").repeat(1000)).unwrap();
    }
    fs::hard_link(bed.plain("linked"), bed.plain("tree/other name")).unwrap();
    let long = "l".repeat(220);
    fs::write(bed.plain(format!("tree/{long}")), "x").unwrap();
    std::os::unix::fs::symlink("t".repeat(4000), bed.plain("tree/link")).unwrap();
    bed
}

/// Where something that is seen through the mount is in the backing, which has the same inode numbers.
fn backing(bed: &Bed, name: &str) -> PathBuf {
    let ino = fs::symlink_metadata(bed.plain(name)).unwrap().ino();
    let found = sh(&bed.vault(), &format!("find . -inum {ino} ! -path './.kmsfs*' | head -1"));
    PathBuf::from("vault").join(found.trim().trim_start_matches("./"))
}

#[test]
fn a_shredded_file_is_unreadable_wherever_its_header_went() {
    let bed = bed();
    let secret = backing(&bed, "secret");
    bed.unmount();
    // Nobody is at a terminal.
    let asks = bed.command(["shred".as_ref(), secret.as_os_str()]);
    let mut session = std::process::Command::new("setsid");
    session.arg(asks.get_program()).args(asks.get_args()).current_dir(bed.dir());
    let asked = session.output().unwrap();
    assert!(!asked.status.success() && String::from_utf8_lossy(&asked.stderr).contains("--yes"), "{asked:?}");

    // Another name of the inode shows what is left of it.
    let whole = bed.dir().join(&secret);
    let witness = bed.vault().join("Witness");
    fs::hard_link(&whole, &witness).unwrap();
    let refused = bed.refused(["shred".as_ref(), "--yes".as_ref(), secret.as_os_str()]);
    assert!(refused.contains("--hard-links"), "{refused}");
    let before = fs::read(&witness).unwrap();
    let args = ["shred".as_ref(), "--yes".as_ref(), "--hard-links".as_ref(), secret.as_os_str()];
    let output = bed.command(args).output().unwrap();
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && warned.contains("backups, snapshots"), "{output:?}");
    assert!(!whole.exists());
    let after = fs::read(&witness).unwrap();
    assert!(after[112..4096].iter().all(|b| *b == 0) && before[113..300].iter().any(|b| *b != 0));
    assert_eq!((&after[..112], &after[4096..]), (&before[..112], &before[4096..]));
    fs::remove_file(&witness).unwrap();
    bed.mount();
    assert!(!bed.plain("secret").exists());
    assert_eq!(fs::read_to_string(bed.plain("kept")).unwrap().len(), 16_000);
    // It is in the log, under its file id.
    let log = crate::cli::json(&bed, &["audit", "lookup", "--event-name", "ShredFile", "--json"]);
    assert_eq!(log["Events"][0]["requestParameters"]["fileId"], hex::encode(&before[16..32]), "{log}");
    // Without its home it is done too, if that is said.
    let kept = backing(&bed, "kept");
    bed.unmount();
    fs::rename(bed.dir().join("home"), bed.dir().join("lost")).unwrap();
    let (code, error) = bed.refused_with(["shred".as_ref(), "--yes".as_ref(), kept.as_os_str()]);
    assert!(code == 4 && error.contains("--unrecorded") && bed.dir().join(&kept).exists(), "{error}");
    let args = ["shred".as_ref(), "--yes".as_ref(), "--unrecorded".as_ref(), kept.as_os_str()];
    bed.run(args);
    assert!(!bed.dir().join(&kept).exists());
}

#[test]
fn a_tree_goes_with_all_that_is_in_it() {
    let bed = bed();
    let (tree, linked) = (backing(&bed, "tree"), bed.plain("linked"));
    bed.unmount();
    let shred = |more: &[&str]| {
        let mut args = vec!["shred", "--yes", "--json"];
        args.extend(more);
        args.push(tree.to_str().unwrap());
        bed.command(args).output().unwrap()
    };
    assert!(fs::read_dir(bed.vault().join(".kmsfs/links")).unwrap().count() > 0);
    assert_eq!(shred(&[]).status.code(), Some(2), "one file has a name elsewhere");
    let done = shred(&["--hard-links"]);
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report[0]["result"]["shredded"].as_u64(), Some(4), "{report}");
    assert_eq!(fs::read_dir(bed.vault().join(".kmsfs/links")).unwrap().count(), 0);
    bed.mount();
    assert_eq!(sh(&bed.plain(""), "ls").lines().collect::<Vec<_>>(), ["kept", "linked", "secret"]);
    assert!(fs::read(&linked).is_err(), "the other name lost its key");
    fs::remove_file(&linked).unwrap();
    bed.unmount();
    for (path, said) in
        [("vault", "schedule-deletion"), ("vault/.kmsfs", "own entries"), ("vault/kmsfs.json", "own entries")]
    {
        let (code, error) = bed.refused_with(["shred", "--yes", path]);
        assert!(code == 2 && error.contains(said), "{error}");
    }
}

#[test]
fn a_long_target_stays_as_long_as_its_link_has_a_name() {
    let bed = Bed::mounted();
    for name in ["one", "two", "tree"] {
        fs::create_dir(bed.plain(name)).unwrap();
    }
    let target = "t".repeat(4000);
    std::os::unix::fs::symlink(&target, bed.plain("one/link")).unwrap();
    fs::hard_link(bed.plain("one/link"), bed.plain("two/link")).unwrap();
    // And one that has all its names in what goes.
    std::os::unix::fs::symlink(&target, bed.plain("tree/link")).unwrap();
    fs::hard_link(bed.plain("tree/link"), bed.plain("tree/again")).unwrap();
    let [one, two, tree] = ["one", "two", "tree"].map(|name| backing(&bed, name));
    bed.unmount();
    let pieces = || fs::read_dir(bed.vault().join(".kmsfs/links")).unwrap().count();
    let shred = |path: &PathBuf| bed.run(["shred".as_ref(), "--yes".as_ref(), path.as_os_str()]);
    assert_eq!(pieces(), 4);
    shred(&one);
    assert_eq!(pieces(), 4);
    shred(&tree);
    assert_eq!(pieces(), 2);
    bed.mount();
    assert_eq!(fs::read_link(bed.plain("two/link")).unwrap().to_str(), Some(&*target));
    bed.unmount();
    shred(&two);
    assert_eq!(pieces(), 0);
}

#[test]
fn a_file_that_was_shredded_and_not_removed_says_so() {
    let bed = bed();
    let secret = bed.dir().join(backing(&bed, "secret"));
    let kept = backing(&bed, "kept");
    bed.unmount();
    // As a cut leaves it: without its keys, with its name.
    let mut bytes = fs::read(&secret).unwrap();
    bytes[112..4096].fill(0);
    fs::write(&secret, bytes).unwrap();
    bed.mount();
    assert_eq!(fs::read(bed.plain("secret")).unwrap_err().raw_os_error(), Some(libc::EIO));
    bed.unmount();
    let log = fs::read_to_string(bed.dir().join("home/mount.log")).unwrap();
    assert!(log.contains("it was shredded") && !log.contains('\x1b'), "{log}");
    // What a cut rekeying left may be the same file under another key: it goes too. One with several names must be ended first.
    let left = bed.vault().join(".kmsfs/tmp.AAAAAAAAAAAAAAAAAAAAAA");
    fs::copy(bed.dir().join(kept), &left).unwrap();
    let record = bed.vault().join(".kmsfs/relink");
    fs::write(&record, "x").unwrap();
    let refused = bed.refused(["shred".as_ref(), "--yes".as_ref(), secret.as_os_str()]);
    assert!(refused.contains("kmsfs rekey") && secret.exists(), "{refused}");
    fs::remove_file(&record).unwrap();
    bed.run(["shred".as_ref(), "--yes".as_ref(), secret.as_os_str()]);
    assert!(!secret.exists());
    assert!(fs::read(&left).unwrap()[112..4096].iter().all(|b| *b == 0));
    bed.mount();
    assert!(!left.exists());
}
