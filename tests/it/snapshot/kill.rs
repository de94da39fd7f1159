//! kill -9 at random moments of taking and of restoring a snapshot.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::super::mounted::bed::{Bed, sh};
use super::bed::noise;

/// Three unless the soak asks for more.
fn rounds() -> u64 {
    env::var("KMSFS_KILL_ROUNDS").map_or(3, |n| n.parse().unwrap())
}

/// A moment in the middle of something that takes about `whole`.
fn moment(round: u64, whole: Duration) -> Duration {
    let random = noise(round + std::process::id() as u64, 4);
    let part = u32::from_le_bytes(random.try_into().unwrap()) % 1000;
    whole * part / 1000
}

/// Starts a verb and kills it after a while; false if it ended before.
fn killed(bed: &Bed, args: &[&str], after: Duration) -> bool {
    let mut child = bed.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// Both directories, but for what a volume keeps for itself.
fn same(left: &Path, right: &Path) {
    let script = format!(
        "diff -r --no-dereference -x .kmsfs '{}' '{}' && diff -r '{0}/.kmsfs/links' '{1}/.kmsfs/links'",
        left.display(),
        right.display()
    );
    sh(left, &script);
}

#[test]
fn kill_9_of_create_and_restore_loses_nothing() {
    let bed = Bed::mounted();
    for n in 0..60 {
        fs::write(bed.plain(format!("f{n}")), noise(n, 200_000)).unwrap();
    }
    bed.unmount();
    let began = Instant::now();
    bed.run(["snapshot", "create", "vault", "--name", "first", "--to", "depot"]);
    let creating = began.elapsed();
    let began = Instant::now();
    bed.run(["snapshot", "restore", "first", "--in", "depot", "first"]);
    let restoring = began.elapsed();
    same(&bed.vault(), &bed.dir().join("first"));
    let mut cut = 0;
    for round in 0..rounds() {
        let name = format!("s{round}");
        let create = ["snapshot", "create", "vault", "--full", "--name", &name, "--to", "depot"];
        cut += u64::from(killed(&bed, &create, moment(3 * round, creating)));
        // It is there whole or not at all.
        let there = bed.dir().join("depot/snapshots").join(&name).join("snapshot.json").exists();
        if !there {
            bed.run(create);
        }
        bed.run(["snapshot", "verify", &name, "--in", "depot"]);
        let target = format!("restored-{round}");
        let restore = ["snapshot", "restore", &name, "--in", "depot", &target];
        // More than once: it goes on from where it came to.
        for again in 1..3 {
            cut += u64::from(killed(&bed, &restore, moment(3 * round + again, restoring)));
            if bed.dir().join(&target).join("kmsfs.json").exists() {
                break;
            }
        }
        if bed.dir().join(&target).join(".kmsfs/restoring").exists()
            || !bed.dir().join(&target).join("kmsfs.json").exists()
        {
            bed.run(restore);
        }
        same(&bed.vault(), &bed.dir().join(&target));
        bed.run(["mount", &target, "plain"]);
        assert!(fs::read(bed.plain("f7")).unwrap() == noise(7, 200_000));
        bed.unmount();
        fs::remove_dir_all(bed.dir().join(&target)).unwrap();
        // An incremental one against it, and gone with all that only it needed.
        bed.run(["snapshot", "delete", &name, "--in", "depot"]);
    }
    assert!(cut > 0, "nothing was killed in its middle");
    let packs = || fs::read_dir(bed.dir().join("depot/packs")).unwrap().count();
    bed.run(["snapshot", "delete", "first", "--in", "depot"]);
    assert!(!bed.dir().join("depot/packs").exists() || packs() == 0);
}
