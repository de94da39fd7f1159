//! `kmsfs rewrap` on a disk that loses power: each key is rewrapped or as it was, no byte of a file is lost, and
//! what is left is done when it is called again.

use std::sync::Arc;

use kmsfs::kms::{FileEvent, KeyService, KeyState};
use kmsfs::volume::disk::{Dir, Kind};
use kmsfs::volume::rewrap::{Options, Report, Summary, rewrap, summarise};
use kmsfs::volume::{ROOT, Volume, VolumeError};

use super::crash::Trial;
use super::disk::Disk;
use super::oracle::{Object, dump};
use super::world::Nature;
use crate::fake::{FakeKms, KEY};
use crate::handles::READ_WRITE;
use crate::model::options;
use crate::model::run::{CALLER, pattern};

const OTHER: &str = "alias/other";

fn to(key_id: Option<&str>) -> Options {
    Options {
        key_id: key_id.map(str::to_owned),
        below: Vec::new(),
        change_service: false,
        keep_mtime: false,
        dry_run: false,
        threads: 1,
    }
}

fn nowhere(region: &str) -> Result<Arc<dyn KeyService>, VolumeError> {
    panic!("nobody has a key in {region:?}")
}

fn run(disk: &Arc<Disk>, kms: &Arc<FakeKms>, options: &Options) -> Result<Report, VolumeError> {
    let here: Arc<dyn KeyService> = kms.clone();
    rewrap(&disk.root(), &here, &nowhere, options, &|| ())
}

fn counted(disk: &Arc<Disk>) -> Summary {
    summarise(&disk.root(), &[], 2).unwrap()
}

/// Five files of several sizes, one of them with two names.
fn fill(volume: &Volume) {
    let dir = volume.mkdir(CALLER, ROOT, b"dir", 0o700).unwrap().node;
    let long = [b'n'; 240];
    for (parent, name, size) in
        [(ROOT, &b"short"[..], 10), (ROOT, b"page", 4064), (dir, b"deep", 20_000), (dir, &long, 1)]
    {
        let (attr, handle) = volume.create(CALLER, parent, name, 0o600, READ_WRITE).unwrap();
        volume.write(handle, 0, &pattern(size as u64, size), false).unwrap();
        volume.release(handle).unwrap();
        if name == b"page" {
            volume.link(attr.node, dir, b"second").unwrap();
        }
    }
    volume.mknod(CALLER, ROOT, b"empty", Kind::File, 0o600, 0).unwrap();
}

/// All that a volume holds.
pub(super) fn content(disk: &Arc<Disk>, kms: &Arc<FakeKms>) -> Object {
    let volume = Volume::open(disk.root(), kms.clone(), kms.clone(), options()).unwrap();
    let found = dump(&volume, ROOT, None).unwrap();
    volume.close().unwrap();
    found
}

/// A volume that `fill` has filled, closed, and what it holds.
pub(super) fn trial(nature: Nature, seed: u64, fill: fn(&Volume)) -> (Trial, Object) {
    let trial = Trial::new(nature, seed).unwrap();
    let volume = Volume::open(trial.disk.root(), trial.kms.clone(), trial.kms.clone(), options()).unwrap();
    fill(&volume);
    volume.close().unwrap();
    let before = content(&trial.disk, &trial.kms);
    (trial, before)
}

#[test]
fn a_rewrap_that_is_cut_loses_nothing_and_goes_on() {
    for (seed, restless, unordered) in [(1, 0, false), (2, 20, false), (3, 60, true), (4, 0, true)] {
        let (mut trial, before) = trial(Nature { restless, unordered, ..Nature::default() }, seed, fill);
        trial.plan_all();
        let opened = trial.kms.calls().decrypt;
        let report = run(&trial.disk, &trial.kms, &to(Some(OTHER))).unwrap();
        assert_eq!(trial.kms.calls().decrypt, opened, "who rewraps need not be able to read");
        // Under one name of the two it is there already.
        assert_eq!((report.rewrapped, report.already, report.failed.count), (5, 1, 0));
        let kept = trial.disk.kept();
        assert!(kept.len() > 10, "{}", kept.len());
        let (mut cut_between, last) = (0, trial.disk.now());
        for (call, world) in kept {
            for dice in 0..4 {
                let disk = Disk::holding(world.cut(seed * 1000 + call * 4 + dice));
                let halfway = counted(&disk);
                assert_eq!(halfway.failed.count, 0, "{halfway:?}");
                cut_between += u64::from(halfway.files.len() == 2);
                assert_eq!(content(&disk, &trial.kms), before, "cut at call {call}");
                let again = run(&disk, &trial.kms, &to(Some(OTHER))).unwrap();
                assert_eq!((again.rewrapped + again.already, again.failed.count), (6, 0));
                let all: Vec<_> = counted(&disk).files.into_iter().collect();
                assert_eq!(all, [((trial.kms.arn(OTHER), None), 6)]);
                assert_eq!(content(&disk, &trial.kms), before, "gone on after a cut at call {call}");
            }
        }
        assert!(cut_between > 0, "no cut left some files rewrapped and others not");
        // Ended well: nothing depends on the old key, wherever the power goes then.
        let disk = Disk::holding(last.cut(seed));
        trial.kms.set_state(KEY, KeyState::Disabled);
        assert_eq!(content(&disk, &trial.kms), before);
        let damage = trial.kms.events().into_iter().find(|e| matches!(e.0, FileEvent::DamagedFile { .. }));
        assert!(damage.is_none(), "{damage:?}");
    }
}

#[test]
fn what_a_crash_may_have_cut_is_mended_first() {
    let (trial, _) = trial(Nature::default(), 5, fill);
    let volume = Volume::open(trial.disk.root(), trial.kms.clone(), trial.kms.clone(), options()).unwrap();
    let busy = run(&trial.disk, &trial.kms, &to(Some(OTHER)));
    assert!(matches!(busy, Err(VolumeError::InUse)), "{busy:?}");
    drop(volume);
    let cut = run(&trial.disk, &trial.kms, &to(Some(OTHER)));
    assert!(matches!(cut, Err(VolumeError::NotSettled)), "{cut:?}");
    // Open again, but not mended: closed cleanly is not enough.
    Volume::open(trial.disk.root(), trial.kms.clone(), trial.kms.clone(), options())
        .unwrap()
        .close()
        .unwrap();
    let unmended = run(&trial.disk, &trial.kms, &to(Some(OTHER)));
    assert!(matches!(unmended, Err(VolumeError::NotSettled)), "{unmended:?}");
    let volume = Volume::open(trial.disk.root(), trial.kms.clone(), trial.kms.clone(), options()).unwrap();
    volume.mend().unwrap();
    volume.close().unwrap();
    assert_eq!(run(&trial.disk, &trial.kms, &to(Some(OTHER))).unwrap().failed.count, 0);
}

#[test]
fn a_dry_run_writes_nothing_and_asks_once() {
    let (trial, before) = trial(Nature::default(), 6, fill);
    let name = [b'x'; 44];
    trial.disk.root().create_file(&name, 0o600).unwrap();
    let (then, asked) = (counted(&trial.disk), trial.kms.calls().re_encrypt);
    let report = run(&trial.disk, &trial.kms, &Options { dry_run: true, ..to(Some(OTHER)) }).unwrap();
    assert!(report.volume_key);
    assert_eq!((report.rewrapped, report.already, report.empty), (6, 0, 1));
    assert_eq!(trial.kms.calls().re_encrypt, asked + 1);
    assert_eq!(counted(&trial.disk), then);
    assert_eq!(then.empty, 1);
    trial.disk.root().unlink(&name).unwrap();
    assert_eq!(content(&trial.disk, &trial.kms), before);
}

#[test]
fn a_part_leaves_the_rest_and_the_volume_key() {
    let (trial, before) = trial(Nature::default(), 7, fill);
    let root = trial.disk.root();
    let entries = root.entries().unwrap();
    let dir = entries.iter().find(|e| e.kind == Kind::Directory && !e.name.contains(&b'.')).unwrap();
    let part = Options { below: vec![dir.name.clone()], ..to(Some(OTHER)) };
    let report = run(&trial.disk, &trial.kms, &part).unwrap();
    assert!(!report.volume_key);
    assert_eq!((report.rewrapped, report.failed.count), (3, 0));
    let counts = counted(&trial.disk);
    assert_eq!(counts.volume_keys, [(trial.kms.arn(KEY), None)]);
    // The file with two names is counted by name.
    assert_eq!(counts.files[&(trial.kms.arn(OTHER), None)], 4);
    assert_eq!(counts.files[&(trial.kms.arn(KEY), None)], 2);
    assert_eq!(content(&trial.disk, &trial.kms), before);
}

#[test]
fn times_go_on_by_a_second_unless_they_are_to_stay() {
    for keep_mtime in [false, true] {
        let (trial, _) = trial(Nature::default(), 8, fill);
        let root = trial.disk.root();
        let files = |root: &Arc<dyn Dir>| {
            let mut stats: Vec<_> = root.entries().unwrap();
            stats.retain(|e| e.kind == Kind::File && !e.name.contains(&b'.'));
            let stat = |name: &[u8]| root.stat_at(name).unwrap();
            stats.iter().map(|e| stat(&e.name)).filter(|s| s.size > 0).collect::<Vec<_>>()
        };
        let before = files(&root);
        run(&trial.disk, &trial.kms, &Options { keep_mtime, ..to(Some(OTHER)) }).unwrap();
        let after = files(&root);
        assert_eq!(before.len(), 3);
        for (before, after) in before.iter().zip(after) {
            assert_eq!(after.mtime.sec, before.mtime.sec + i64::from(!keep_mtime));
            assert_eq!(after.mtime.nsec, before.mtime.nsec);
            assert!(after.ctime > before.ctime);
            assert_eq!((after.size, after.perm, after.ino), (before.size, before.perm, before.ino));
        }
    }
}

#[test]
fn a_volume_comes_under_a_key_of_another_region() {
    let (trial, before) = trial(Nature::default(), 9, fill);
    let there = FakeKms::in_region("eu-central-1");
    let here: Arc<dyn KeyService> = there.clone();
    let old = trial.kms.clone();
    let regions = move |region: &str| {
        assert_eq!(region, "us-east-1");
        let service: Arc<dyn KeyService> = old.clone();
        Ok(service)
    };
    let part = Options { below: vec![b"x".to_vec()], ..to(Some(OTHER)) };
    let refused = rewrap(&trial.disk.root(), &here, &regions, &part, &|| ());
    assert!(matches!(refused, Err(VolumeError::Invalid(_))), "{refused:?}");
    let report = rewrap(&trial.disk.root(), &here, &regions, &to(Some(OTHER)), &|| ()).unwrap();
    assert_eq!((report.rewrapped, report.failed.count), (5, 0));
    assert_eq!(there.calls().re_encrypt, 0);
    assert_eq!(content(&trial.disk, &there), before);
    let kms = trial.kms.clone();
    assert!(Volume::open(trial.disk.root(), kms.clone(), kms, options()).is_err());
}
