//! The life of a mount: killed under load, mounted twice, in use, refused, read-only, without its key.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::mounted::bed::{Bed, KEY, sh, skipped, wait_for};

/// The byte of writer `who` at `offset`: what a reader may find there, or nothing.
fn byte(who: usize, offset: usize) -> u8 {
    (offset * 7 + offset / 251 + who * 31) as u8 | 1
}

fn bytes(who: usize, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|offset| byte(who, offset)).collect()
}

#[test]
fn what_was_fsynced_survives_kill_9() {
    for round in 0..3 {
        let bed = Bed::new();
        let mut daemon = bed.mount_in_foreground();
        // Length that fsync acknowledged, by file name.
        let acknowledged: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for who in 0..4 {
                let (bed, acknowledged, stop) = (&bed, &acknowledged, &stop);
                scope.spawn(move || {
                    let mut files = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let name = format!("{who}-{files}");
                        files += 1;
                        if append_until_dead(bed, who, &name, acknowledged).is_err() {
                            break;
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(700 + 400 * round));
            daemon.kill();
            stop.store(true, Ordering::Relaxed);
            bed.detach();
        });
        let acknowledged = acknowledged.into_inner().unwrap();
        assert!(acknowledged.len() > 8, "too little load: {} files", acknowledged.len());
        bed.mount();
        let check = || {
            for (name, len) in &acknowledged {
                let who: usize = name.split_once('-').unwrap().0.parse().unwrap();
                let content = fs::read(bed.plain(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(content.len() >= *len, "{name}: {} of {len} fsynced bytes", content.len());
                assert!(content == bytes(who, 0, content.len()), "{name}: wrong bytes");
            }
        };
        check();
        // Such files can be written on, and stay right.
        for name in acknowledged.keys() {
            let mut file = OpenOptions::new().append(true).open(bed.plain(name)).unwrap();
            let len = file.metadata().unwrap().len() as usize;
            let who: usize = name.split_once('-').unwrap().0.parse().unwrap();
            file.write_all(&bytes(who, len, 5000)).unwrap();
        }
        bed.remount();
        check();
    }
}

/// Appends pieces of awkward lengths, each with fsync, and notes what was acknowledged.
fn append_until_dead(
    bed: &Bed,
    who: usize,
    name: &str,
    acknowledged: &Mutex<BTreeMap<String, usize>>,
) -> std::io::Result<()> {
    let mut file = File::create(bed.plain(name))?;
    let mut len = 0;
    for piece in [1, 700, 4064, 3, 9000, 40_000, 63, 4096, 1] {
        file.write_all(&bytes(who, len, piece))?;
        file.sync_data()?;
        len += piece;
        acknowledged.lock().unwrap().insert(name.to_owned(), len);
    }
    Ok(())
}

#[test]
fn a_second_read_write_mount_is_refused() {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), "one").unwrap();
    fs::create_dir(bed.dir().join("other")).unwrap();
    for args in [&["mount", "vault", "other"][..], &["mount", "--read-only", "vault", "other"]] {
        let (code, text) = bed.refused_with(args);
        assert!(
            code == 6 && text.contains("in use") && text.contains("or let all its mounts be read-only"),
            "{text}"
        );
    }
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"one");
    bed.remount();
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"one");
}

#[test]
fn a_mount_point_in_use_or_full_or_absent_is_refused() {
    let bed = Bed::mounted();
    let other = Bed::new();
    let text = other.refused(["mount", "vault", bed.plain("").to_str().unwrap()]);
    assert!(text.contains("already"), "{text}");
    fs::create_dir(other.dir().join("full")).unwrap();
    fs::write(other.dir().join("full/file"), "x").unwrap();
    let text = other.refused(["mount", "vault", "full"]);
    assert!(text.contains("not empty"), "{text}");
    let text = other.refused(["mount", "vault", "absent/point"]);
    assert!(text.contains("absent/point"), "{text}");
    let text = other.refused(["mount", "vault", "vault"]);
    assert!(text.contains("vault"), "{text}");
    let text = other.refused(["mount", "plain", "new"]);
    assert!(text.contains("kmsfs init"), "{text}");
    assert!(!other.dir().join("new").exists(), "a mount point without a mount was left");
    other.run(["mount", "vault", "new"]);
    other.run(["umount", "new"]);
    let text = other.refused(["umount", "plain"]);
    assert!(text.contains("not mounted") || text.contains("no mount"), "{text}");
    other.mount();
}

#[test]
fn a_read_only_mount_writes_nothing() {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), "content").unwrap();
    bed.unmount();
    let before = sh(&bed.vault(), "find . -printf '%P %s %T@ %C@ %m\\n' | sort");
    bed.run(["mount", "--read-only", "vault", "plain"]);
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"content");
    for attempt in [
        fs::write(bed.plain("new"), "x"),
        fs::write(bed.plain("file"), "x"),
        fs::remove_file(bed.plain("file")),
    ] {
        assert_eq!(attempt.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
    bed.unmount();
    assert_eq!(before, sh(&bed.vault(), "find . -printf '%P %s %T@ %C@ %m\\n' | sort"));
}

#[test]
fn a_busy_mount_is_not_taken_away() {
    let bed = Bed::mounted();
    fs::write(bed.plain("file"), "content").unwrap();
    let open = File::open(bed.plain("file")).unwrap();
    let text = bed.refused(["umount", "plain"]);
    assert!(text.contains("busy") || text.contains("in use"), "{text}");
    let mut byte = [0];
    open.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"c");
    drop(open);
    bed.unmount();
}

#[test]
fn sigterm_and_sigint_unmount_cleanly() {
    for signal in ["TERM", "INT"] {
        let bed = Bed::new();
        let mut daemon = bed.mount_in_foreground();
        fs::write(bed.plain("file"), signal).unwrap();
        sh(bed.dir(), &format!("kill -{signal} {}", daemon.pid()));
        assert!(daemon.ends_well(), "{signal}");
        assert!(!bed.is_mounted(), "{signal}");
        // State 1 at byte 10 is a clean epoch (docs/format.md).
        assert_eq!(fs::read(bed.vault().join(".kmsfs/epoch")).unwrap()[10..12], [1, 0], "{signal}");
        bed.mount();
        assert_eq!(fs::read(bed.plain("file")).unwrap(), signal.as_bytes());
    }
}

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

#[test]
fn a_disabled_key_closes_its_files_within_a_second() {
    let bed = Bed::with_own_key();
    bed.mount();
    fs::write(bed.plain("file"), vec![7; 3 << 20]).unwrap();
    fs::write(bed.plain("other"), "x").unwrap();
    bed.remount();
    let held = File::open(bed.plain("file")).unwrap();
    held.read_exact_at(&mut [0; 10], 0).unwrap();

    bed.run(["key", "disable", KEY]);
    let begun = Instant::now();
    wait_for(Duration::from_secs(1), "open to fail", || {
        errno(File::open(bed.plain("other"))) == Some(libc::ENOKEY)
    });
    assert_eq!(errno(File::open(bed.plain("file"))), Some(libc::ENOKEY));
    assert_eq!(errno(File::create(bed.plain("new"))), Some(libc::ENOKEY));
    // Authority stays with an open description only until the mount has seen the change.
    wait_for(Duration::from_secs(2), "the held file to fail", || {
        errno(held.read_exact_at(&mut [0; 10], 2 << 20)) == Some(libc::EKEYREVOKED)
    });
    assert_eq!(errno(held.read_exact_at(&mut [0; 10], 0)), Some(libc::EKEYREVOKED), "cached pages stayed");
    eprintln!("withdrawn after {:?}", begun.elapsed());
    // What needs no file's key goes on.
    assert_eq!(fs::metadata(bed.plain("file")).unwrap().size(), 3 << 20);
    fs::rename(bed.plain("other"), bed.plain("renamed")).unwrap();

    bed.run(["key", "enable", KEY]);
    wait_for(Duration::from_secs(1), "open to work", || File::open(bed.plain("renamed")).is_ok());
    assert_eq!(fs::read(bed.plain("file")).unwrap(), vec![7; 3 << 20]);
    drop(held);
    bed.remount();
    let log = bed.run(["audit", "lookup", "--errors", "--json"]);
    assert!(log.contains("DisabledException"), "the denials are not in the log: {log}");
    bed.run(["audit", "verify"]);
}

#[test]
fn the_daemon_leaves_no_core_and_no_keys_to_others() {
    let bed = Bed::new();
    let daemon = bed.mount_in_foreground();
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    drop(daemon);
    bed.detach();
}

/// Each thread has room for a request of 16 MiB, and none comes that is so large: it must not be resident as a whole.
#[test]
fn a_mount_that_has_done_little_takes_little_memory() {
    let bed = Bed::new();
    let daemon = bed.mount_in_foreground();
    fs::write(bed.plain("file"), "content").unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let anonymous = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib: u64 = anonymous.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 26 << 10, "{anonymous}");
    bed.unmount();
}

#[test]
fn a_full_disk_is_one_clear_error_and_loses_nothing() {
    let bed = Bed::without_volume();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(bed.vault()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        assert!(!rustix::process::geteuid().is_root(), "root could not mount a tmpfs");
        skipped("only root can make a small disk to fill");
        return;
    }
    let _tmpfs = Unmount(bed.vault());
    bed.run(["init", "vault"]);
    bed.mount();
    fs::write(bed.plain("before"), bytes(1, 0, 1 << 20)).unwrap();
    File::open(bed.plain("before")).unwrap().sync_all().unwrap();
    let mut file = File::create(bed.plain("too large")).unwrap();
    let full = file.write_all(&bytes(2, 0, 20 << 20)).and_then(|()| file.sync_all());
    assert_eq!(errno(full), Some(libc::ENOSPC));
    drop(file);
    assert_eq!(fs::read(bed.plain("before")).unwrap(), bytes(1, 0, 1 << 20));
    let half = fs::read(bed.plain("too large")).unwrap();
    assert!(half == bytes(2, 0, half.len()), "wrong bytes in the file that did not fit");
    fs::remove_file(bed.plain("too large")).unwrap();
    fs::write(bed.plain("after"), bytes(3, 0, 1 << 20)).unwrap();
    bed.remount();
    assert_eq!(fs::read(bed.plain("before")).unwrap(), bytes(1, 0, 1 << 20));
    assert_eq!(fs::read(bed.plain("after")).unwrap(), bytes(3, 0, 1 << 20));
    bed.unmount();
}

#[test]
fn a_dead_mount_is_told_and_taken_away() {
    let bed = Bed::new();
    let mut daemon = bed.mount_in_foreground();
    fs::write(bed.plain("file"), "content").unwrap();
    File::open(bed.plain("file")).unwrap().sync_all().unwrap();
    daemon.kill();
    let text = bed.refused(["mount", "vault", "plain"]);
    assert!(text.contains("has died") && text.contains("kmsfs umount"), "{text}");
    assert!(bed.run(["status"]).contains("has died"));
    let text = bed.refused(["umount", "plain"]);
    assert!(text.contains("is unmounted") && text.contains("next mount"), "{text}");
    assert!(bed.run(["status", "vault"]).contains("not closed cleanly"));
    bed.mount();
    assert!(bed.run(["status", "vault"]).contains("read-write"));
    assert_eq!(fs::read(bed.plain("file")).unwrap(), b"content");
    bed.unmount();
    assert!(bed.run(["status", "vault"]).contains("was closed cleanly"));
}

#[test]
fn a_signal_waits_for_those_who_hold_files_and_then_ends() {
    let bed = Bed::new();
    let mut daemon = bed.mount_in_foreground();
    let mut held = File::create(bed.plain("held")).unwrap();
    held.write_all(b"before").unwrap();
    sh(bed.dir(), &format!("kill -TERM {}", daemon.pid()));
    wait_for(Duration::from_secs(5), "the mount to go out of sight", || !bed.is_mounted());
    held.write_all(b" and after").unwrap();
    drop(held);
    assert!(daemon.ends_well());
    bed.mount();
    assert_eq!(fs::read(bed.plain("held")).unwrap(), b"before and after");
}

/// Takes a tmpfs away again.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
