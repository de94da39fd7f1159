//! `kmsfs snapshot` as a user runs it, of mounted volumes, under load.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use super::super::mounted::bed::{Bed, sh, wait_for};
use super::bed::noise;

/// A second mount of a bed; taken away whatever happens.
pub struct Second<'a>(&'a Bed, &'static str);

impl<'a> Second<'a> {
    pub fn snapshot(bed: &'a Bed, name: &str, point: &'static str) -> Self {
        bed.run(["snapshot", "mount", name, "--in", "vault", point]);
        Self(bed, point)
    }

    fn volume(bed: &'a Bed, volume: &str, point: &'static str) -> Self {
        bed.run(["mount", volume, point]);
        Self(bed, point)
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.0.dir().join(self.1).join(below)
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        let ended = self.0.command(["umount", self.1]).output();
        if !ended.is_ok_and(|output| output.status.success()) {
            let _ = Command::new("umount").arg("-l").arg(self.path("")).output();
        }
    }
}

/// A program that has written to a file and keeps it open. It copies no descriptor of it: closing a copy would have the
/// kernel write back, and so would this program whenever it starts another, if it had the file open itself.
struct Writer(Child);

impl Writer {
    fn start(path: &Path, text: &str) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", "exec >\"$0\"; printf %s \"$1\"; read -r"]).arg(path).arg(text);
        let writer = Self(command.stdin(Stdio::piped()).spawn().unwrap());
        let written = || fs::metadata(path).is_ok_and(|found| found.len() == text.len() as u64);
        wait_for(Duration::from_secs(20), "bash to write", written);
        writer
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn json(bed: &Bed, args: &[&str]) -> Value {
    serde_json::from_str(&bed.run(args.iter().copied().chain(["--json"]))).unwrap()
}

/// Its writes would wait for the hold of the volume that is captured.
#[test]
fn a_depot_in_the_volumes_own_mount_is_refused_at_once() {
    let bed = Bed::mounted();
    fs::create_dir(bed.plain("there")).unwrap();
    fs::write(bed.plain("file"), "x").unwrap();
    std::os::unix::fs::symlink("plain/there", bed.dir().join("link")).unwrap();
    bed.run(["init", "plain/inner"]);
    let inner = Second::volume(&bed, "plain/inner", "second");
    let begun = Instant::now();
    for depot in ["plain/there", "plain/new", "link", "link/new", "plain/inner", "second/new"] {
        let (code, told) = bed.refused_with(["snapshot", "create", "vault", "--to", depot]);
        assert!(code == 2 && told.contains("in the mount of the volume itself"), "{depot}: {told}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(fs::read_dir(bed.plain("there")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(inner.path("")).unwrap().count(), 0);
    assert!(!bed.plain("new").exists() && !bed.vault().join(".kmsfs/snapshots").exists());
    drop(inner);
    // As with --in a mount point stands for the volume's own depot, here that of the same volume and of another.
    bed.run(["snapshot", "create", "vault", "--to", "plain", "--name", "own"]);
    bed.run(["snapshot", "verify", "own", "--in", "plain"]);
    assert!(bed.vault().join(".kmsfs/snapshots/snapshots/own").exists());
    bed.run(["init", "other"]);
    let other = Second::volume(&bed, "other", "second");
    bed.run(["snapshot", "create", "vault", "--to", "second", "--name", "far"]);
    bed.run(["snapshot", "verify", "far", "--in", "other"]);
    bed.run(["snapshot", "create", "vault", "--to", "second/depot", "--name", "inside"]);
    bed.run(["snapshot", "verify", "inside", "--in", "second/depot"]);
    let copy = ["snapshot", "copy", "own", "--in", "vault", "--to", "us-east-1", "--name", "copied"];
    bed.run([&copy[..], &["--dest", "second"]].concat());
    bed.run(["snapshot", "verify", "copied", "--in", "other"]);
    let names: Vec<_> =
        fs::read_dir(other.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["depot"]);
    assert!(sh(bed.dir(), "ls -A plain").contains("file"));
}

#[test]
fn the_life_of_a_snapshot() {
    let bed = Bed::mounted();
    let big = noise(7, 3_000_000);
    fs::create_dir(bed.plain("dir")).unwrap();
    fs::write(bed.dir().join("big"), &big).unwrap();
    // Right after cp, without a sync: the kernel still has it.
    sh(bed.dir(), "cp big plain/dir/big");
    // So little, and last: the kernel has no reason to write it back by itself.
    let writer = Writer::start(&bed.plain("dir/open"), "written, neither synced nor closed");
    let made = json(&bed, &["snapshot", "create", "plain", "--name", "one"]);
    assert_eq!(made["snapshot"]["counts"]["files"], 2);
    assert_eq!(made["snapshot"]["account"], "000000000000");
    drop(writer);
    fs::write(bed.plain("dir/open"), b"changed").unwrap();
    fs::remove_file(bed.plain("dir/big")).unwrap();
    fs::write(bed.plain("new"), b"new").unwrap();
    {
        let snapshot = Second::snapshot(&bed, "one", "past");
        assert!(fs::read(snapshot.path("dir/big")).unwrap() == big);
        assert_eq!(fs::read(snapshot.path("dir/open")).unwrap(), b"written, neither synced nor closed");
        assert!(!snapshot.path("new").exists());
        let refused = fs::write(snapshot.path("x"), b"x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    }
    bed.run(["snapshot", "create", "vault", "--name", "two"]);
    let listed = json(&bed, &["snapshot", "list", "vault"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(listed[1]["parent"]["name"], "one");
    assert!(bed.run(["snapshot", "list", "plain"]).contains("two"));
    let shown = bed.run(["snapshot", "inspect", "one", "--in", "vault"]);
    assert!(shown.contains("arn:aws:kms:us-east-1:000000000000:key/"), "{shown}");
    let files = bed.run(["snapshot", "inspect", "one", "--in", "vault", "--files", "--json"]);
    let files: Vec<Value> = files.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> =
        files.iter().map(|f| (f["path"].as_str().unwrap(), f["size"].as_u64().unwrap())).collect();
    assert_eq!(found, [("/dir", 0), ("/dir/big", 3_000_000), ("/dir/open", 34)]);

    let whole = "vault/.kmsfs/snapshots/snapshots/one";
    bed.run(["snapshot", "restore", whole, "restored"]);
    let refused = bed.refused_with(["snapshot", "restore", whole, "restored"]);
    assert_eq!(refused.0, 2, "{}", refused.1);
    {
        let restored = Second::volume(&bed, "restored", "again");
        assert!(fs::read(restored.path("dir/big")).unwrap() == big);
        fs::write(restored.path("dir/more"), b"more").unwrap();
    }
    for deep in [false, true] {
        let mut args = vec!["snapshot", "verify", "two", "--in", "plain"];
        args.extend(deep.then_some("--deep"));
        let verified = json(&bed, &args);
        assert_eq!((&verified["pages"]["files"], &verified["pages"]["damaged"]), (&2.into(), &0.into()));
        assert_eq!(verified["deep"]["damaged"], if deep { 0.into() } else { Value::Null });
    }
    bed.run(["snapshot", "delete", "one", "--in", "vault"]);
    bed.run(["snapshot", "verify", "two", "--in", "vault"]);
    let log = bed.run(["audit", "lookup", "--json"]);
    for event in ["CreateSnapshot", "RestoreSnapshot", "DeleteSnapshot"] {
        assert!(log.contains(event), "{event} is not in the log");
    }
    // What is damaged is told by its own exit code.
    let pack =
        fs::read_dir(bed.vault().join(".kmsfs/snapshots/packs")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&pack).unwrap();
    fs::write(&pack, &bytes[..bytes.len() - 4096]).unwrap();
    let output = bed.command(["snapshot", "verify", "two", "--in", "vault"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let (code, text) = bed.refused_with(["snapshot", "mount", "absent", "--in", "vault", "past"]);
    assert_eq!((code, text.contains("no snapshot \"absent\"")), (2, true), "{text}");
    let (code, text) =
        bed.refused_with(["--region", "eu-west-1", "snapshot", "verify", "two", "--in", "vault"]);
    assert_eq!((code, text.contains("use --region us-east-1")), (2, true), "{text}");
}

/// The file as it was after each acknowledged sync, and what its writer was about to write.
struct History {
    states: Vec<Vec<u8>>,
}

/// Random writes, each synced before the next.
fn write_and_sync(file: &File, acknowledged: &AtomicU64, stop: &AtomicBool) -> History {
    let mut states = vec![vec![0; 200_000]];
    let mut seed = 1u64;
    while !stop.load(Ordering::Acquire) {
        seed += 1;
        let random = noise(seed, 16);
        let at = u64::from_le_bytes(random[..8].try_into().unwrap()) % 190_000;
        let len = 1 + usize::from(u16::from_le_bytes(random[8..10].try_into().unwrap())) % 10_000;
        let piece = noise(seed + 1_000_000, len);
        let mut next = states.last().unwrap().clone();
        next[at as usize..at as usize + len].copy_from_slice(&piece);
        // Before it is written: a snapshot may see it from now on.
        states.push(next);
        file.write_all_at(&piece, at).unwrap();
        file.sync_data().unwrap();
        acknowledged.fetch_add(1, Ordering::AcqRel);
    }
    History { states }
}

/// True if every byte is that of one state or of the next: what was under way may be there in part.
fn is_between(found: &[u8], before: &[u8], after: &[u8]) -> bool {
    found.len() == before.len()
        && found.iter().zip(before.iter().zip(after)).all(|(f, (b, a))| f == b || f == a)
}

#[test]
fn a_snapshot_under_load_is_of_one_moment() {
    let bed = Bed::mounted();
    let stop = AtomicBool::new(false);
    let acknowledged = AtomicU64::new(0);
    let rows = AtomicU64::new(0);
    sh(&bed.plain(""), "git init -q repo && cd repo && git config user.email a@b && git config user.name a");
    fs::write(bed.plain("synced"), vec![0; 200_000]).unwrap();
    let random = OpenOptions::new().write(true).open(bed.plain("synced")).unwrap();
    random.sync_all().unwrap();
    let mut bounds = Vec::new();
    let history = thread::scope(|scope| {
        let writer = scope.spawn(|| write_and_sync(&random, &acknowledged, &stop));
        scope.spawn(|| {
            let db = Connection::open(bed.plain("db")).unwrap();
            db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(n, filler)")
                .unwrap();
            while !stop.load(Ordering::Acquire) {
                let n = rows.load(Ordering::Acquire);
                db.execute("INSERT INTO t VALUES (?1, randomblob(3000))", [n as i64]).unwrap();
                rows.store(n + 1, Ordering::Release);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let script =
                    "cd repo; date +%N > f; head -c 20000 /dev/urandom > g; git add -A; git commit -qm x";
                sh(&bed.plain(""), script);
            }
        });
        let until = Instant::now() + Duration::from_secs(30);
        while (rows.load(Ordering::Acquire) < 5 || acknowledged.load(Ordering::Acquire) < 5)
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(20));
        }
        for name in ["a", "b", "c"] {
            let before = (acknowledged.load(Ordering::Acquire), rows.load(Ordering::Acquire));
            bed.run(["snapshot", "create", "vault", "--name", name]);
            bounds.push((name, before, acknowledged.load(Ordering::Acquire) + 1));
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Release);
        writer.join().unwrap()
    });
    for (name, (synced, inserted), last) in bounds {
        let target = format!("restored-{name}");
        bed.run(["snapshot", "restore", name, "--in", "vault", &target]);
        let volume = Second::volume(&bed, &target, "again");
        let found = fs::read(volume.path("synced")).unwrap();
        let states = &history.states[synced as usize..=(last as usize + 1).min(history.states.len() - 1)];
        let fits = states.windows(2).any(|pair| is_between(&found, &pair[0], &pair[1]));
        assert!(
            fits || found == states[0],
            "{name}: not a state between two syncs, of {} possible",
            states.len()
        );
        let db = Connection::open(volume.path("db")).unwrap();
        let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "{name}");
        let (count, max): (i64, i64) =
            db.query_row("SELECT count(*), max(n) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(count, max + 1, "{name}");
        assert!(count >= inserted as i64, "{name}: {count} rows, {inserted} were committed before");
        drop(db);
        sh(&volume.path("repo"), "git -c safe.directory='*' fsck --strict --no-dangling");
    }
}
