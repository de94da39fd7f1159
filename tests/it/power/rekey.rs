//! `kmsfs rekey` on a disk that loses power: each file is whole under its old data key or its new one, files with several
//! names stay one file, and what is left is done when it is called again.

use std::collections::BTreeSet;
use std::sync::Arc;

use kmsfs::kms::{FileEvent, KeyService};
use kmsfs::volume::disk::{Dir, Kind, XattrMode};
use kmsfs::volume::header::Header;
use kmsfs::volume::recipients::{OtherRegions, Recipient};
use kmsfs::volume::rekey::{Options, Report, rekey};
use kmsfs::volume::{ROOT, Volume, VolumeError, edk};

use super::disk::Disk;
use super::rewrap::{content, trial};
use super::world::Nature;
use crate::fake::FakeKms;
use crate::handles::READ_WRITE;
use crate::model::options;
use crate::model::run::{CALLER, pattern};

fn whole() -> Options {
    Options { below: Vec::new(), keep_mtime: false, dry_run: false, threads: 1 }
}

fn run(disk: &Arc<Disk>, kms: &Arc<FakeKms>, options: &Options) -> Result<Report, VolumeError> {
    let here: Arc<dyn KeyService> = kms.clone();
    rekey(&disk.root(), &here, &OtherRegions::default(), options, &|| ())
}

/// Files of several sizes; one with three names in two directories, one with a hole, one with attributes.
fn fill(volume: &Volume) {
    let dir = volume.mkdir(CALLER, ROOT, b"dir", 0o700).unwrap().node;
    let long = [b'n'; 240];
    for (parent, name, size, at) in [
        (ROOT, &b"short"[..], 10, 0),
        (ROOT, b"page", 4064, 0),
        (dir, b"deep", 20_000, 90_000),
        (dir, &long, 1, 0),
    ] {
        let (attr, handle) = volume.create(CALLER, parent, name, 0o640, READ_WRITE).unwrap();
        volume.write(handle, at, &pattern(size as u64, size), false).unwrap();
        volume.release(handle).unwrap();
        match name {
            b"page" => {
                volume.link(attr.node, dir, b"second").unwrap();
                volume.link(attr.node, ROOT, &[b'x'; 230]).unwrap();
            }
            b"short" => volume.set_xattr(attr.node, b"user.a", b"value", XattrMode::Any).unwrap(),
            _ => {}
        }
    }
    volume.mknod(CALLER, ROOT, b"empty", Kind::File, 0o600, 0).unwrap();
}

/// Of every file: inode and commitment to the data key.
fn keys(disk: &Arc<Disk>) -> BTreeSet<(u64, [u8; 32])> {
    fn look(dir: &dyn Dir, found: &mut BTreeSet<(u64, [u8; 32])>) {
        for entry in dir.entries().unwrap() {
            let own = !entry.name.contains(&b'.') || entry.name.starts_with(b"long.");
            match entry.kind {
                Kind::Directory if own => look(&*dir.open_dir(&entry.name).unwrap(), found),
                Kind::File if own => {
                    let mut page = [0; 4096];
                    dir.open_file(&entry.name, false).unwrap().read_at(&mut page, 0).unwrap();
                    found.insert((entry.ino, Header::parse(&page).unwrap().commitment));
                }
                _ => {}
            }
        }
    }
    let mut found = BTreeSet::new();
    look(&*disk.root(), &mut found);
    found
}

fn commitments(disk: &Arc<Disk>) -> BTreeSet<[u8; 32]> {
    keys(disk).into_iter().map(|(_, commitment)| commitment).collect()
}

/// Nothing that a cut run wrote is left in the private directory, nor a temporary name elsewhere.
fn leftovers(disk: &Arc<Disk>) -> Vec<String> {
    let private = disk.root().open_dir(b".kmsfs").unwrap();
    let kept = |name: &[u8]| matches!(name, b"lock" | b"epoch" | b"links");
    let odd = private.entries().unwrap().into_iter().filter(|e| !kept(&e.name));
    let root = disk.root().entries().unwrap().into_iter().filter(|e| e.name.starts_with(b"tmp."));
    odd.chain(root).map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect()
}

#[test]
fn a_rekeying_that_is_cut_loses_nothing_and_goes_on() {
    for (seed, restless, unordered) in [(1, 0, false), (2, 20, false), (3, 60, true), (4, 0, true)] {
        let (mut trial, before) = trial(Nature { restless, unordered, ..Nature::default() }, seed, fill);
        let old = commitments(&trial.disk);
        assert_eq!((old.len(), keys(&trial.disk).len()), (5, 5));
        trial.plan_all();
        let report = run(&trial.disk, &trial.kms, &whole()).unwrap();
        assert_eq!((report.renewed, report.already, report.failed.count), (5, 0, 0), "{report:?}");
        assert!(!report.resumed && report.outside == 0);
        let kept = trial.disk.kept();
        assert!(kept.len() > 40, "{}", kept.len());
        let (mut cut_between, mut resumed, last) = (0, 0, trial.disk.now());
        for (call, world) in kept {
            let disk = Disk::holding(world.cut(seed * 1000 + call));
            // Before the next mount, and after it.
            for mounted in [false, true] {
                if mounted {
                    assert_eq!(content(&disk, &trial.kms), before, "cut at call {call}");
                }
                let halfway = commitments(&disk).intersection(&old).count();
                cut_between += u32::from(halfway > 0 && halfway < 5);
            }
            assert_eq!(keys(&disk).len(), 5, "cut at call {call}: a file became two");
            let again = run(&disk, &trial.kms, &whole()).unwrap();
            assert_eq!((again.renewed + again.already, again.failed.count), (5, 0), "{again:?}");
            resumed += u32::from(again.resumed && again.already > 0);
            assert_eq!((keys(&disk).len(), commitments(&disk).intersection(&old).count()), (5, 0));
            assert_eq!(content(&disk, &trial.kms), before, "gone on after a cut at call {call}");
            assert_eq!(leftovers(&disk), Vec::<String>::new(), "cut at call {call}");
        }
        assert!(cut_between > 0 && resumed > 0, "no cut left some files rekeyed and others not");
        // Ended well: no file is under its old key, wherever the power goes then.
        let disk = Disk::holding(last.cut(seed));
        assert_eq!(commitments(&disk).intersection(&old).count(), 0);
        assert_eq!(content(&disk, &trial.kms), before);
        let damage = trial.kms.events().into_iter().find(|e| matches!(e.0, FileEvent::DamagedFile { .. }));
        assert!(damage.is_none(), "{damage:?}");
    }
}

#[test]
fn a_cut_rekeying_without_a_mount_between_goes_on_too() {
    let (mut trial, before) = trial(Nature::default(), 11, fill);
    let old = commitments(&trial.disk);
    trial.plan_all();
    run(&trial.disk, &trial.kms, &whole()).unwrap();
    let mut resumed = 0;
    for (call, world) in trial.disk.kept() {
        let disk = Disk::holding(world.cut(call));
        let again = run(&disk, &trial.kms, &whole()).unwrap();
        resumed += u32::from(again.already > 0);
        assert_eq!((keys(&disk).len(), commitments(&disk).intersection(&old).count()), (5, 0));
        assert_eq!(leftovers(&disk), Vec::<String>::new(), "cut at call {call}");
        assert_eq!(content(&disk, &trial.kms), before);
    }
    assert!(resumed > 0);
}

#[test]
fn what_a_mount_changes_between_two_runs_is_not_taken_for_done() {
    let (mut trial, _) = trial(Nature::default(), 12, fill);
    let old = commitments(&trial.disk);
    trial.plan_all();
    run(&trial.disk, &trial.kms, &whole()).unwrap();
    let kept = trial.disk.kept();
    let mut changed_old = 0;
    for (call, world) in kept.into_iter().step_by(3) {
        let disk = Disk::holding(world.cut(call));
        let kms = trial.kms.clone();
        let volume = Volume::open(disk.root(), kms.clone(), kms, options()).unwrap();
        // One in its place, one longer: a mount finalises that in an epoch of its own, which no run may take for one of its.
        for (name, at) in [(&b"short"[..], 3), (b"page", 4060)] {
            let node = volume.lookup(ROOT, name).unwrap().node;
            let handle = volume.open_file(CALLER, node, READ_WRITE).unwrap();
            volume.write(handle, at, b"changed", false).unwrap();
            volume.release(handle).unwrap();
        }
        volume.close().unwrap();
        let (before, halfway) = (content(&disk, &trial.kms), commitments(&disk));
        let again = run(&disk, &trial.kms, &whole()).unwrap();
        assert!(again.renewed > 0 && again.failed.count == 0, "{again:?}");
        changed_old += u32::from(again.resumed && halfway.intersection(&old).count() > 0);
        assert_eq!(commitments(&disk).intersection(&old).count(), 0);
        assert_eq!(content(&disk, &trial.kms), before);
    }
    assert!(changed_old > 0);
}

#[test]
fn recipients_get_the_new_keys_and_the_rest_of_a_volume_stays() {
    let (trial, before) = trial(Nature::default(), 13, fill);
    let here: Arc<dyn KeyService> = trial.kms.clone();
    let second = trial.kms.arn("alias/second");
    let add = edk::Change::Add(Recipient::kms(second.clone()));
    let how = edk::Options { keep_mtime: true, dry_run: false, threads: 1 };
    let root = trial.disk.root();
    edk::change(&root, &here, &OtherRegions::default(), &add, &how, &|| ()).unwrap();
    let old = keys(&trial.disk);
    let plan = run(&trial.disk, &trial.kms, &Options { dry_run: true, ..whole() }).unwrap();
    assert_eq!((plan.renewed, keys(&trial.disk) == old), (5, true));
    let dir =
        root.entries().unwrap().into_iter().find(|e| e.kind == Kind::Directory && !e.name.contains(&b'.'));
    let part = Options { below: vec![dir.unwrap().name], ..whole() };
    // Two in the directory, and the one that has a name there.
    let report = run(&trial.disk, &trial.kms, &part).unwrap();
    assert_eq!((report.renewed, report.failed.count), (3, 0));
    assert_eq!(keys(&trial.disk).intersection(&old).count(), 2);
    assert_eq!(edk::list(&root, &[], 1).unwrap().files[&second], 7, "each name counts");
    assert_eq!(content(&trial.disk, &trial.kms), before);
    let busy = Volume::open(root, trial.kms.clone(), trial.kms.clone(), options()).unwrap();
    assert!(matches!(run(&trial.disk, &trial.kms, &whole()), Err(VolumeError::InUse)));
    drop(busy);
    assert!(matches!(run(&trial.disk, &trial.kms, &whole()), Err(VolumeError::NotSettled)));
}
