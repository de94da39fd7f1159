//! What the options of `kmsfs mount` change.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde_json::Value;

use crate::mounted::bed::{Bed, KEY, wait_for};

/// Names of the events in the log, newest first.
fn events(bed: &Bed) -> Vec<String> {
    let all: Value =
        serde_json::from_str(&bed.run(["audit", "lookup", "--json", "--limit", "1000"])).unwrap();
    let events = all["Events"].as_array().unwrap();
    events.iter().map(|event| event["eventName"].as_str().unwrap().to_owned()).collect()
}

fn count(bed: &Bed, name: &str) -> usize {
    events(bed).iter().filter(|event| *event == name).count()
}

#[test]
fn an_isolated_mount_keeps_no_plaintext_for_others() {
    let bed = Bed::with_own_key();
    bed.run(["mount", "--isolate", "vault", "plain"]);
    fs::write(bed.plain("file"), vec![7; 100_000]).unwrap();
    OpenOptions::new().append(true).open(bed.plain("file")).unwrap().write_all(b"tail").unwrap();
    let held = File::open(bed.plain("file")).unwrap();
    let mut tail = [0; 5];
    held.read_exact_at(&mut tail, 99_999).unwrap();
    assert_eq!(&tail, b"\x07tail");
    bed.run(["key", "disable", KEY]);
    wait_for(Duration::from_secs(1), "what was read before to be refused", || {
        held.read_at(&mut tail.clone(), 99_999).is_err_and(|e| e.raw_os_error() == Some(libc::EKEYREVOKED))
    });
    bed.run(["key", "enable", KEY]);
    wait_for(Duration::from_secs(1), "the file to open", || File::open(bed.plain("file")).is_ok());
    drop(held);
    bed.unmount();
}

#[test]
fn opens_are_in_the_log_before_they_answer_if_that_is_wanted() {
    let bed = Bed::new();
    bed.run(["mount", "--audit-opens", "sync", "vault", "plain"]);
    fs::write(bed.plain("file"), "content").unwrap();
    for opens in 1..=5 {
        let before = count(&bed, "OpenFile");
        fs::read(bed.plain("file")).unwrap();
        assert!(count(&bed, "OpenFile") > before, "open {opens} is not in the log");
    }
    bed.unmount();
    let names = events(&bed);
    assert_eq!(names.iter().filter(|name| *name == "MountVolume").count(), 1);
    assert_eq!(names.iter().filter(|name| *name == "UnmountVolume").count(), 1);
}

#[test]
fn batched_opens_are_in_the_log_within_a_second_or_so() {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), "content").unwrap();
    for _ in 0..20 {
        fs::read(bed.plain("file")).unwrap();
    }
    wait_for(Duration::from_secs(3), "twenty opens in the log", || count(&bed, "OpenFile") >= 20);
}

#[test]
fn without_a_lease_every_open_asks_the_key_service() {
    let bed = Bed::new();
    bed.run(["mount", "--lease", "0", "vault", "plain"]);
    fs::write(bed.plain("file"), "content").unwrap();
    let before = count(&bed, "Decrypt");
    for _ in 0..5 {
        fs::read(bed.plain("file")).unwrap();
    }
    assert!(count(&bed, "Decrypt") >= before + 5, "{:?}", events(&bed));
    bed.unmount();
}

#[test]
fn one_thread_serves_as_well() {
    let bed = Bed::new();
    bed.run(["mount", "--threads", "1", "vault", "plain"]);
    std::thread::scope(|scope| {
        for who in 0..4 {
            let bed = &bed;
            scope.spawn(move || {
                for n in 0..50 {
                    let path = bed.plain(format!("{who}-{n}"));
                    fs::write(&path, vec![who; 10_000]).unwrap();
                    assert_eq!(fs::read(&path).unwrap(), vec![who; 10_000]);
                }
            });
        }
    });
    bed.unmount();
    let usage = bed.command(["mount", "--threads", "0", "vault", "plain"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn read_only_mounts_share_a_volume() {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), "content").unwrap();
    bed.unmount();
    bed.run(["mount", "--read-only", "vault", "plain"]);
    bed.run(["mount", "--read-only", "vault", "other"]);
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"content");
    assert_eq!(fs::read(bed.dir().join("other/file")).unwrap(), b"content");
    assert_eq!(bed.refused_with(["mount", "vault", "third"]).0, 6);
    bed.run(["umount", "other"]);
    bed.unmount();
    bed.mount();
}

#[test]
fn a_mount_in_the_background_writes_its_warnings_to_the_log() {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), vec![1; 10_000]).unwrap();
    let json: Value = serde_json::from_str(&bed.run(["inspect", "--json", "plain/file"])).unwrap();
    bed.unmount();
    let files = fs::read_dir(bed.vault()).unwrap().map(|entry| entry.unwrap().path());
    let backing = files.filter(|path| path.is_file()).find(|path| path.extension().is_none()).unwrap();
    let file = OpenOptions::new().write(true).open(backing).unwrap();
    file.write_all_at(b"damage", 5000).unwrap();
    bed.mount();
    assert_eq!(fs::read(bed.plain("file")).unwrap_err().raw_os_error(), Some(libc::EIO));
    bed.unmount();
    let log = fs::read_to_string(bed.dir().join("home/mount.log")).unwrap();
    assert!(log.contains(json["file_id"].as_str().unwrap()) && log.contains("amage"), "{log}");
    assert!(events(&bed).contains(&"DamagedFile".to_owned()));
    bed.mount();
}
