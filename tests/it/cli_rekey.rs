//! `kmsfs rekey`, on volumes that were filled through a mount.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::cli::json;
use crate::mounted::bed::{Bed, sh};

/// A volume with `files` files in ten directories, one of them with three names, not mounted.
fn bed(files: usize) -> Bed {
    let bed = Bed::with_own_key();
    bed.mount();
    for n in 0..files {
        let dir = bed.plain(format!("dir {}", n % 10));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("file {n}"));
        fs::write(&path, format!("content of {n}\n").repeat(n % 400 + 1)).unwrap();
        rustix::fs::setxattr(&path, "user.n", n.to_string().as_bytes(), rustix::fs::XattrFlags::CREATE)
            .unwrap();
        if n % 7 == 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
        }
    }
    fs::hard_link(bed.plain("dir 0/file 0"), bed.plain("second")).unwrap();
    fs::hard_link(bed.plain("second"), bed.plain("dir 1/third")).unwrap();
    sh(&bed.plain(""), "truncate -s 2M sparse; echo end >> sparse; touch -d 2001-02-03 dir* second");
    bed.unmount();
    bed
}

/// Every byte, mode and time, through a mount that is made for it.
fn look(bed: &Bed) -> String {
    bed.mount();
    let text = sh(
        &bed.plain(""),
        "find . -mindepth 1 -printf '%P %y %m %n %s %T@\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum",
    );
    let mut value = [0; 8];
    let len = rustix::fs::getxattr(bed.plain("dir 1/file 1"), "user.n", &mut value).unwrap();
    assert_eq!(&value[..len], b"1");
    bed.unmount();
    text
}

/// The commitments to the data keys, as they stand in the headers.
fn commitments(bed: &Bed) -> Vec<String> {
    let find = "find . -type f ! -path './.kmsfs*' ! -name kmsfs.json -print0 | xargs -0 -I{} sh -c \
                'dd if=\"{}\" bs=1 skip=48 count=32 status=none | xxd -p -c 64' | sort";
    sh(&bed.vault(), find).lines().map(str::to_owned).collect()
}

#[test]
fn every_file_has_a_new_data_key_and_is_otherwise_as_it_was() {
    let bed = bed(23);
    let (before, old) = (look(&bed), commitments(&bed));
    assert_eq!(old.len(), 26);
    let plan = json(&bed, &["rekey", "--dry-run", "--json", "vault"]);
    assert_eq!((plan["renewed"].as_u64(), commitments(&bed) == old), (Some(24), true));
    let done = bed.command(["rekey", "--keep-mtime", "--json", "vault"]).output().unwrap();
    let warned = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && warned.contains("still under the old data keys"), "{done:?}");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((report["renewed"].as_u64(), report["failed"]["count"].as_u64()), (Some(24), Some(0)));
    assert_eq!(look(&bed), before);
    let new = commitments(&bed);
    assert!(new.len() == 26 && new.iter().all(|key| !old.contains(key)));
    // By itself each file's time goes on by a second, so that backups see it.
    bed.run(["rekey", "vault"]);
    let stat = sh(&bed.vault(), "stat -c %Y $(find . -type f -links 3 | head -1)");
    let then = sh(bed.dir(), "date -d 2001-02-03 +%s");
    assert_eq!(stat.trim().parse::<i64>().unwrap(), then.trim().parse::<i64>().unwrap() + 1);
    assert!(!bed.vault().join(".kmsfs/rekey").exists());
    // The old keys are in the log as opened, the new ones as made.
    let log = json(&bed, &["audit", "lookup", "--event-name", "GenerateDataKey", "--json"]);
    assert!(log["Events"].as_array().unwrap().len() >= 48);
}

#[test]
fn what_cannot_be_rekeyed_is_told_and_left() {
    let bed = bed(4);
    bed.mount();
    let (code, error) = bed.refused_with(["rekey", "vault"]);
    // Reading only would not help.
    assert!(code == 6 && error.contains("umount") && !error.contains("read-only"), "{error}");
    bed.unmount();
    // A hard link outside of the volume, as a backup makes them, and a damaged block.
    let vault = bed.vault();
    let list = sh(&vault, "find . -type f -links 1 -size +4k ! -path './.kmsfs*' | sort");
    let names: Vec<&str> = list.lines().collect();
    fs::hard_link(vault.join(names[0]), bed.dir().join("backup")).unwrap();
    sh(
        &vault,
        &format!("chmod u+w {0}; printf XXXX | dd of={0} bs=1 seek=5000 conv=notrunc status=none", names[1]),
    );
    let kept = fs::read(vault.join(names[0])).unwrap();
    let output = bed.command(["rekey", "vault"]).output().unwrap();
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(&names[1][2..]) && errors.contains("block 0"), "{errors}");
    assert!(out.contains("also named outside of the volume") && errors.contains("outside"), "{out}");
    assert_eq!(fs::read(bed.dir().join("backup")).unwrap(), kept);
    assert_ne!(
        fs::metadata(vault.join(names[0])).unwrap().ino(),
        fs::metadata(bed.dir().join("backup")).unwrap().ino()
    );
    // The next call does only what is left.
    let again = bed.command(["rekey", "--json", "vault"]).output().unwrap();
    let report: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((report["renewed"].as_u64(), report["already"].as_u64()), (Some(0), Some(4)), "{report}");
    assert_eq!(report["resumed"].as_bool(), Some(true));
}

#[test]
fn a_killed_rekeying_goes_on() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let bed = bed(150);
    let before = look(&bed);
    let mut halfway = 0;
    for round in 0..rounds {
        let old = commitments(&bed);
        let mut child = bed
            .command(["rekey", "--keep-mtime", "vault"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Somewhere in the middle: the record is there, and then a while.
        let record = bed.vault().join(".kmsfs/rekey");
        while child.try_wait().unwrap().is_none() && !record.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(20 + (round as u64 * 67) % 400));
        let _ = child.kill();
        child.wait().unwrap();
        let left = commitments(&bed).iter().filter(|key| old.contains(key)).count();
        halfway += u32::from(left > 0 && left < old.len());
        // With a mount between, and without.
        if round % 2 == 0 {
            without_directory_times(&look(&bed), &before);
        }
        bed.run(["rekey", "--keep-mtime", "vault"]);
        let new = commitments(&bed);
        assert!(new.len() == old.len() && new.iter().all(|key| !old.contains(key)), "round {round}");
        without_directory_times(&look(&bed), &before);
        let rubbish = sh(&bed.vault(), "find . -name 'tmp.*' -o -name rekey -o -name relink");
        assert_eq!(rubbish, "", "round {round}");
    }
    assert!(halfway > 0, "no kill came in the middle");
}

/// A kill leaves the directory that was being worked on with its time.
fn without_directory_times(found: &str, due: &str) {
    let lines = |text: &str| {
        text.lines()
            .map(|line| match line.contains(" d 7") {
                true => line.rsplit_once(' ').unwrap().0.to_owned(),
                false => line.to_owned(),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(found), lines(due));
}
