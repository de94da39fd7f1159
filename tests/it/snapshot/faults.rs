//! Bad input, lost holds, and what cut commands leave.

use std::fs;
use std::path::PathBuf;

use kmsfs::snapshot::SnapshotError;
use kmsfs::snapshot::create::Unmounted;

use super::bed::*;

fn files_below(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files_below(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// A changed, zeroed or cut byte anywhere in a depot is an error, or changes nothing that is read; never other bytes.
#[test]
fn damage_anywhere_is_an_error_and_never_wrong_bytes() {
    let bed = filled();
    bed.create("s");
    let due = picture(&bed.root());
    let mut found = 0;
    for path in files_below(&bed.path("depot")) {
        let good = fs::read(&path).unwrap();
        if good.is_empty() {
            continue;
        }
        for (nth, at) in [0, 20, good.len() / 3, good.len() / 2, good.len() - 5].into_iter().enumerate() {
            let mut bad = good.clone();
            match nth {
                0 => bad[at..].fill(0),
                4 => bad.truncate(at),
                _ => bad[at] ^= 0x41,
            }
            fs::write(&path, &bad).unwrap();
            let to = format!("target-{found}-{nth}");
            let restored = bed.restore("s", &to);
            let harmless = restored.is_ok();
            if harmless {
                let root = kmsfs::volume::host::HostDir::open(&bed.path(&to)).unwrap();
                assert_eq!(picture(&root), due, "{} changed at {at}", path.display());
            } else {
                assert!(!bed.path(&to).join("kmsfs.json").exists(), "it must not look whole");
                let verified = bed.verify("s");
                assert!(verified.is_err() || verified.unwrap().damaged > 0, "{} at {at}", path.display());
                found += 1;
            }
            fs::remove_dir_all(bed.path(&to)).ok();
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(found > 15, "only {found} changes were noticed");
    assert_eq!(bed.verify("s").unwrap().damaged, 0);
}

#[test]
fn a_missing_pack_is_told_and_copied_again_by_the_next() {
    let bed = filled();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    bed.create("s");
    let pack = files_below(&bed.path("depot/packs")).remove(0);
    fs::remove_file(pack).unwrap();
    assert!(bed.verify("s").unwrap().damaged > 1);
    assert!(matches!(bed.restore("s", "t"), Err(SnapshotError::Damaged(_))));
    let next = bed.create("next");
    assert!(next.descriptor.counts.new_pages > 0);
    assert_eq!(bed.verify("next").unwrap().damaged, 0);
    bed.restore("next", "u").unwrap();
}

#[test]
fn manifests_and_descriptors_of_others_are_refused() {
    let bed = filled();
    bed.create("a");
    bed.create("b");
    let depot = bed.path("depot/snapshots");
    fs::copy(depot.join("a/manifest"), depot.join("b/manifest")).unwrap();
    assert!(matches!(bed.open("b"), Err(SnapshotError::Damaged(_))));
    fs::copy(depot.join("a/snapshot.json"), depot.join("b/snapshot.json")).unwrap();
    assert!(matches!(bed.open("b"), Err(SnapshotError::Damaged(_))));
    bed.open("a").unwrap();
    // Another volume's, under the name of this one's.
    let other = Bed::new();
    other.create("a");
    let text = fs::read_to_string(other.path("depot/snapshots/a/snapshot.json")).unwrap();
    let ours = bed.find("a").unwrap().descriptor;
    let theirs = other.find("a").unwrap().descriptor;
    let mixed = text
        .replace(&theirs.volume_id.to_string(), &ours.volume_id.to_string())
        .replace(&theirs.volume_keys[0].ciphertext, &ours.volume_keys[0].ciphertext);
    fs::write(depot.join("a/snapshot.json"), mixed).unwrap();
    assert!(matches!(bed.open("a"), Err(SnapshotError::Damaged(_))));
}

#[test]
fn a_lost_hold_leaves_no_snapshot() {
    let bed = filled();
    let users = InUse { broken: true, ..InUse::new(|| ()) };
    assert!(matches!(bed.create_with(&users, &bed.options("s")), Err(SnapshotError::Refused(_))));
    assert!(bed.list().is_empty());
    assert!(files_below(&bed.path("depot")).iter().all(|p| p.ends_with("lock")), "nothing is left");
}

#[test]
fn names_and_targets_that_are_taken_are_refused() {
    let bed = filled();
    bed.create("s");
    let unmounted = Unmounted::new(&*bed.root()).unwrap();
    assert!(matches!(bed.create_with(&unmounted, &bed.options("s")), Err(SnapshotError::Exists(_))));
    assert!(matches!(bed.create_with(&unmounted, &bed.options("../s")), Err(SnapshotError::BadName(_))));
    assert!(matches!(bed.find("absent"), Err(SnapshotError::NotFound { .. })));
    fs::create_dir(bed.path("full")).unwrap();
    fs::write(bed.path("full/file"), b"x").unwrap();
    assert!(matches!(bed.restore("s", "full"), Err(SnapshotError::Refused(_))));
    assert!(matches!(bed.restore("s", "vault"), Err(SnapshotError::Refused(_))));
    assert_eq!(fs::read(bed.path("full/file")).unwrap(), b"x");
    bed.restore("s", "new").unwrap();
    assert!(matches!(bed.restore("s", "new"), Err(SnapshotError::Refused(_))));
}

/// A restore that was cut goes on; what stands is kept, what is not whole is made again.
#[test]
fn a_cut_restore_goes_on() {
    let bed = filled();
    bed.create("s");
    bed.create("other");
    let due = picture(&bed.root());
    bed.restore("s", "t").unwrap();
    // As a kill would leave it: no descriptor, the mark, a file that is missing, one that is cut, one of zeros.
    let target = bed.path("t");
    fs::remove_file(target.join("kmsfs.json")).unwrap();
    let id = bed.find("s").unwrap().descriptor.snapshot_id.to_string();
    fs::write(target.join(".kmsfs/restoring"), id).unwrap();
    let files: Vec<PathBuf> =
        files_below(&target).into_iter().filter(|p| p.symlink_metadata().unwrap().len() > 20_000).collect();
    fs::remove_file(&files[0]).unwrap();
    fs::write(&files[1], b"cut").unwrap();
    let times = fs::metadata(&files[2]).unwrap().modified().unwrap();
    let len = fs::metadata(&files[2]).unwrap().len();
    let zeros = fs::OpenOptions::new().write(true).open(&files[2]).unwrap();
    zeros.set_len(0).unwrap();
    zeros.set_len(len).unwrap();
    zeros.set_modified(times).unwrap();
    drop(zeros);
    fs::write(target.join("tmp.0123456789012345678901"), b"rubbish").unwrap();
    assert!(matches!(bed.restore("other", "t"), Err(SnapshotError::Refused(_))), "another's");
    let restored = bed.restore("s", "t").unwrap();
    assert_eq!((restored.files, restored.already), (3, 3));
    let root = kmsfs::volume::host::HostDir::open(&target).unwrap();
    assert_eq!(picture(&root), due);
    assert!(!target.join(".kmsfs/restoring").exists());
    // Cut between the descriptor and the mark: it is whole, and may have been changed since.
    let id = bed.find("s").unwrap().descriptor.snapshot_id.to_string();
    fs::write(target.join(".kmsfs/restoring"), id).unwrap();
    fs::remove_file(&files[0]).unwrap();
    assert_eq!(bed.restore("s", "t").unwrap().already, 6);
    assert!(!target.join(".kmsfs/restoring").exists() && !files[0].exists());
}

/// Packs and manifests without a descriptor are swept by the next command; an unreadable descriptor keeps every pack.
#[test]
fn what_cut_commands_left_is_swept() {
    let bed = filled();
    bed.create("s");
    let depot = bed.path("depot");
    let stray = depot.join("packs").join("ab".repeat(16));
    fs::write(&stray, vec![1; 4096]).unwrap();
    fs::create_dir(depot.join("snapshots/cut")).unwrap();
    fs::write(depot.join("snapshots/cut/manifest"), b"x").unwrap();
    fs::write(depot.join("packs/tmp.x"), b"x").unwrap();
    let text = fs::read(depot.join("snapshots/s/snapshot.json")).unwrap();
    fs::create_dir(depot.join("snapshots/later")).unwrap();
    fs::write(depot.join("snapshots/later/snapshot.json"), b"{\"format\": 9}").unwrap();
    bed.create("t");
    assert!(stray.exists(), "a later version may name it");
    assert!(!depot.join("snapshots/cut").exists() && !depot.join("packs/tmp.x").exists());
    fs::remove_dir_all(depot.join("snapshots/later")).unwrap();
    bed.delete("t");
    assert!(!stray.exists());
    assert_eq!(fs::read(depot.join("snapshots/s/snapshot.json")).unwrap(), text);
    assert_eq!(bed.verify("s").unwrap().damaged, 0);
}
