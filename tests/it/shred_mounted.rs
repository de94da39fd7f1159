//! `kmsfs shred` of what is seen through a mount.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::json as answer;
use crate::control::Asker;
use crate::mounted::bed::{Bed, sh, wait_for};

const KEYS: std::ops::Range<usize> = 112..4096;

/// Another name, outside of the volume, for the backing file of what is seen as `name`.
fn witness(bed: &Bed, name: &str) -> PathBuf {
    let backing = backing(bed, name);
    let witness = bed.dir().join(format!("witness {}", name.replace('/', " ")));
    fs::hard_link(bed.vault().join(backing), &witness).unwrap();
    witness
}

/// Where something that is seen through the mount is in the backing, which has the same inode numbers.
fn backing(bed: &Bed, name: &str) -> PathBuf {
    let ino = fs::symlink_metadata(bed.plain(name)).unwrap().ino();
    let found = sh(&bed.vault(), &format!("find . -inum {ino} ! -path './.kmsfs*' | head -1"));
    PathBuf::from(found.trim().trim_start_matches("./"))
}

fn has_keys(file: &Path) -> bool {
    fs::read(file).unwrap()[KEYS].iter().any(|byte| *byte != 0)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Shreds; the report of the first path.
fn shred(bed: &Bed, args: &[&str]) -> Value {
    answer(bed, &[&["shred", "--yes", "--json"], args].concat())[0]["result"].clone()
}

#[test]
fn a_file_is_shredded_where_it_is_seen() {
    let bed = Bed::mounted();
    fs::create_dir(bed.plain("dir")).unwrap();
    let text = "what nobody shall read\n".repeat(3000);
    for name in ["dir/secret", "dir/kept", "dir/other"] {
        fs::write(bed.plain(name), &text).unwrap();
    }
    symlink("dir/secret", bed.plain("link")).unwrap();
    let witness = witness(&bed, "dir/secret");
    assert!(has_keys(&witness));
    let secret = bed.plain("dir/secret");
    // Read through the page cache, open for writing with pages that were not written back, and mapped.
    let reader = File::open(&secret).unwrap();
    let mut seen = vec![0; text.len()];
    reader.read_exact_at(&mut seen, 0).unwrap();
    let writer = File::options().read(true).write(true).open(&secret).unwrap();
    writer.write_all_at(b"dirty", 5000).unwrap();
    let links = |name| fs::metadata(bed.plain(name)).unwrap().mtime();
    sh(&bed.plain(""), "touch -d 2001-01-01 dir");
    let before = links("dir");

    let refused = bed.refused(["shred", "--yes", "plain/dir/secret"]);
    assert!(refused.contains("plain/dir/secret") && refused.contains("--hard-links"), "{refused}");
    assert_eq!(bed.refused_with(["shred", "--yes", "plain/dir/none"]).0, 1);
    assert!(has_keys(&witness) && fs::read(&secret).unwrap()[5000..5005] == *b"dirty");
    // The link goes, not what it leads to.
    let report = shred(&bed, &["plain/link"]);
    assert_eq!((&report["removed"], &report["shredded"]), (&json!(true), &json!(0)));
    assert!(fs::symlink_metadata(bed.plain("link")).is_err() && secret.exists());
    let report = shred(&bed, &["--hard-links", "plain/dir/secret"]);
    assert_eq!(
        [&report["shredded"], &report["open"], &report["removed"], &report["cut"]],
        [&json!(1), &json!(1), &json!(true), &json!(false)]
    );

    // The name is gone at once from all that the kernel knows, and so are pages and times.
    assert_eq!(errno(fs::metadata(&secret)), Some(libc::ENOENT));
    assert_eq!(sh(&bed.plain("dir"), "ls").lines().collect::<Vec<_>>(), ["kept", "other"]);
    assert!(links("dir") > before);
    for file in [&reader, &writer] {
        assert_eq!(errno(file.read_exact_at(&mut seen, 0)), Some(libc::EKEYREVOKED));
    }
    assert_eq!(reader.metadata().unwrap().nlink(), 1, "the witness");
    assert!(writer.write_all_at(b"more", 0).and_then(|()| writer.sync_all()).is_err());
    drop((reader, writer));
    assert!(!has_keys(&witness), "nothing was finalised over it");
    // The name is free.
    fs::write(&secret, "another").unwrap();
    bed.remount();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "another");
    for name in ["dir/kept", "dir/other"] {
        assert_eq!(fs::read_to_string(bed.plain(name)).unwrap(), text);
    }
    assert!(!has_keys(&witness));
    let log = fs::read_to_string(bed.dir().join("home/mount.log")).unwrap();
    assert!(!log.contains("damaged") && log.contains("was shredded while it was open"), "{log}");
}

#[test]
fn a_tree_is_shredded_while_programs_are_in_it() {
    let bed = Bed::mounted();
    let long = "l".repeat(220);
    fs::create_dir_all(bed.plain(format!("tree/{long}/deep"))).unwrap();
    sh(&bed.plain("tree"), "for n in $(seq 300); do seq $n > $n; done; mkfifo pipe; ln -s gone link");
    fs::write(bed.plain(format!("tree/{long}/deep/open")), "open").unwrap();
    fs::write(bed.plain("tree/linked"), "elsewhere too").unwrap();
    fs::hard_link(bed.plain("tree/linked"), bed.plain("linked")).unwrap();
    fs::write(bed.plain("kept"), "kept").unwrap();
    symlink("t".repeat(4000), bed.plain("tree/long link")).unwrap();
    let open = File::open(bed.plain(format!("tree/{long}/deep/open"))).unwrap();
    // Somebody is in it.
    let mut inside =
        Command::new("sleep").arg("60").current_dir(bed.plain(format!("tree/{long}"))).spawn().unwrap();

    let (code, error) = bed.refused_with(["shred", "--yes", "plain/tree"]);
    assert!(code == 2 && error.contains("--hard-links"), "{error}");
    // A snapshot that is being taken is not disturbed.
    let mut held = Asker::new(&bed);
    assert_eq!(held.ask(&json!({"verb": "hold", "seconds": 60}))["answer"], "result");
    let (code, error) = bed.refused_with(["shred", "--yes", "--hard-links", "plain/tree"]);
    assert!(code == 6 && error.contains("held still"), "{error}");
    assert_eq!(held.ask(&json!({"verb": "release"}))["answer"], "result");
    assert_eq!(fs::read_to_string(bed.plain("linked")).unwrap(), "elsewhere too");
    // Named by its place in the backing, too.
    let stored = format!("vault/{}", backing(&bed, "tree").display());
    let report = shred(&bed, &["--hard-links", &stored]);
    assert_eq!(
        [&report["shredded"], &report["open"], &report["removed"]],
        [&json!(302), &json!(1), &json!(true)]
    );
    assert_eq!(sh(&bed.plain(""), "ls").lines().collect::<Vec<_>>(), ["kept", "linked"]);
    assert_eq!(errno(open.read_at(&mut [0; 4], 0)), Some(libc::EKEYREVOKED));
    assert_eq!(errno(fs::read(bed.plain("linked"))), Some(libc::EIO));
    let there = format!("/proc/{}/cwd/", inside.id());
    assert!(fs::metadata(format!("{there}deep")).is_err() && fs::write(format!("{there}new"), "x").is_err());
    inside.kill().unwrap();
    inside.wait().unwrap();
    drop(open);
    fs::create_dir(bed.plain("tree")).unwrap();
    fs::write(bed.plain("tree/new"), "new").unwrap();

    // It is in the log, and who asked.
    let log = answer(&bed, &["audit", "lookup", "--event-name", "ShredTree", "--json"]);
    let events = log["Events"].as_array().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(events.len(), 1, "{log}");
    assert_eq!(events[0]["requestParameters"]["files"], 302);
    assert_eq!(events[0]["additionalEventData"]["uid"], uid);
    assert_eq!(events[0]["eventSource"], "kmsfs");
    bed.run(["audit", "verify"]);
    assert_eq!(fs::read_dir(bed.vault().join(".kmsfs/links")).unwrap().count(), 0);
    for (path, said) in
        [("plain", "schedule-deletion"), ("vault", "schedule-deletion"), ("vault/.kmsfs", "own entries")]
    {
        let (code, error) = bed.refused_with(["shred", "--yes", path]);
        assert!(code == 2 && error.contains(said), "{error}");
    }
    bed.unmount();
    let left = sh(&bed.vault(), "find . -type f ! -path './.kmsfs*' ! -name kmsfs.json | wc -l");
    assert_eq!(left.trim(), "3");
    // Only for reading nothing is shredded.
    bed.run(["mount", "--read-only", "vault", "plain"]);
    let (code, error) = bed.refused_with(["shred", "--yes", "plain/kept"]);
    assert!(code == 6 && error.contains("vault"), "{error}");
    bed.unmount();
    bed.mount();
    assert_eq!(fs::read_to_string(bed.plain("tree/new")).unwrap(), "new");
    assert_eq!(fs::read_to_string(bed.plain("kept")).unwrap(), "kept");
}

/// The mount is killed at a random moment of a shredding: what it left is shredded to the end by the next call, and the rest is
/// as it was. More rounds with KMSFS_KILL_ROUNDS, as scripts/soak does.
#[test]
fn a_mount_that_is_killed_while_it_shreds_leaves_what_the_next_call_ends() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let bed = Bed::new();
    bed.mount();
    sh(&bed.plain(""), "mkdir kept; for n in $(seq 20); do seq $n 3000 > kept/$n; done");
    let digest = |at: &Path| sh(at, "find . -type f -print0 | sort -z | xargs -0 sha256sum");
    let kept = digest(&bed.plain("kept"));
    bed.unmount();
    let (mut halfway, files) = (0, 400);
    for round in 0..rounds {
        let mut daemon = bed.mount_in_foreground();
        let socket = bed.vault().join(".kmsfs/control");
        wait_for(Duration::from_secs(10), "the socket", || socket.exists());
        let many = format!("mkdir tree; for n in $(seq {files}); do echo $n > tree/$n; done; sync -f tree");
        sh(&bed.plain(""), &many);
        let tree = bed.vault().join(backing(&bed, "tree"));
        let headers: Vec<File> = fs::read_dir(&tree)
            .unwrap()
            .filter_map(|entry| File::open(entry.unwrap().path()).ok())
            .filter(|file| file.metadata().unwrap().is_file())
            .collect();
        assert_eq!(headers.len(), files);
        let lost = |file: &File| {
            let mut count = [0];
            file.read_exact_at(&mut count, 112).unwrap();
            count == [0]
        };
        let mut child = bed.command(["shred", "--yes", "plain/tree"]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // When this one of the files has lost its keys; the disk's order is not the numbers'.
        let until = Instant::now() + Duration::from_secs(20);
        let watched = &headers[round * 131 % files];
        while !lost(watched) && child.try_wait().unwrap().is_none() && Instant::now() < until {}
        daemon.kill();
        child.wait().unwrap();
        bed.detach();
        let left = headers.iter().filter(|file| !lost(file)).count();
        let names = fs::read_dir(&tree).map_or(0, Iterator::count);
        assert!(names >= files || left == 0, "round {round}: names are gone, and {left} files have keys");
        halfway += usize::from(names > 0);
        bed.mount();
        assert_eq!(digest(&bed.plain("kept")), kept, "round {round}");
        // What the kill may have cut is mended first; then the rest.
        let until = Instant::now() + Duration::from_secs(30);
        while bed.plain("tree").exists() {
            let code = bed
                .command(["shred", "--yes", "plain/tree"])
                .stderr(Stdio::null())
                .stdout(Stdio::null())
                .status();
            let code = code.unwrap().code();
            assert!(
                matches!(code, Some(0 | 6)) && Instant::now() < until,
                "round {round}: exit code {code:?}"
            );
        }
        assert!(headers.iter().all(lost), "round {round}");
        assert_eq!(digest(&bed.plain("kept")), kept, "round {round}");
        bed.unmount();
    }
    assert!(halfway > 0, "no kill came before the names were gone");
    bed.mount();
    assert_eq!(sh(&bed.plain(""), "ls"), "kept\n");
    assert_eq!(digest(&bed.plain("kept")), kept);
}
