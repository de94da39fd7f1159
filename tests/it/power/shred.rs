//! `kmsfs shred` on a disk that loses power, without a mount and inside one: no name goes before all keys are overwritten on the
//! medium, what is left is done when it is called again, and nothing else is touched.

use std::sync::Arc;

use kmsfs::volume::disk::{Dir, Kind};
use kmsfs::volume::shred::{Options, Report, shred};
use kmsfs::volume::{ROOT, Volume, VolumeError};

use super::disk::Disk;
use super::oracle::{Object, dump};
use super::rewrap::trial;
use super::world::Nature;
use crate::fake::FakeKms;
use crate::handles::READ_WRITE;
use crate::model::options;
use crate::model::run::{CALLER, pattern};

const OPTIONS: Options = Options { hard_links: true, threads: 1, uid: 7 };

/// A tree that is to go, and what stays: a file that also has a name in the tree, and one beside it.
fn fill(volume: &Volume) {
    let tree = volume.mkdir(CALLER, ROOT, b"tree", 0o700).unwrap().node;
    let deep = volume.mkdir(CALLER, tree, b"deep", 0o700).unwrap().node;
    let long = [b'n'; 240];
    for (parent, name, size) in [
        (tree, &b"a"[..], 10),
        (deep, b"b", 9000),
        (deep, &long, 4064),
        (ROOT, b"linked", 5),
        (ROOT, b"kept", 6000),
    ] {
        let (attr, handle) = volume.create(CALLER, parent, name, 0o600, READ_WRITE).unwrap();
        volume.write(handle, 0, &pattern(size as u64, size), false).unwrap();
        volume.release(handle).unwrap();
        if name == b"linked" {
            volume.link(attr.node, deep, b"again").unwrap();
        }
    }
    volume.mknod(CALLER, tree, b"empty", Kind::File, 0o600, 0).unwrap();
    volume.symlink(CALLER, tree, b"link", &[b't'; 4000]).unwrap();
}

/// Whether each file below a name of the backing has keys in its header; those without a header are left out.
fn keys(disk: &Arc<Disk>, below: &[u8]) -> Vec<bool> {
    fn look(dir: &dyn Dir, found: &mut Vec<bool>) {
        for entry in dir.entries().unwrap() {
            match entry.kind {
                Kind::Directory => look(&*dir.open_dir(&entry.name).unwrap(), found),
                Kind::File => {
                    let mut page = [0; 4096];
                    let read = dir.open_file(&entry.name, false).unwrap().read_at(&mut page, 0).unwrap();
                    if page[..read].iter().any(|byte| *byte != 0) {
                        found.push(page[112] != 0);
                    }
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    if let Ok(dir) = disk.root().open_dir(below) {
        look(&*dir, &mut found);
    }
    found
}

fn open(disk: &Arc<Disk>, kms: &Arc<FakeKms>) -> Volume {
    let volume = Volume::open(disk.root(), kms.clone(), kms.clone(), options()).unwrap();
    volume.mend().unwrap();
    volume
}

/// What is beside the tree, whole; the file that had a name in it is unreadable or gone from the list.
fn rest(volume: &Volume) -> Object {
    let node = volume.lookup(ROOT, b"kept").unwrap();
    let found = dump(volume, node.node, Some(&node)).unwrap();
    volume.forget(node.node, 1);
    found
}

type Run = dyn Fn(&Arc<Disk>, &Arc<FakeKms>, &[Vec<u8>]) -> Result<Report, VolumeError>;

fn trials(run: &Run) {
    for (seed, restless, unordered) in [(1, 0, false), (2, 30, false), (3, 60, true)] {
        let nature = Nature { restless, unordered, ..Nature::default() };
        let (mut trial, _) = trial(nature, seed, fill);
        let volume = open(&trial.disk, &trial.kms);
        let (below, kept) = (volume.stored_path(&[b"tree".to_vec()]).unwrap(), rest(&volume));
        volume.close().unwrap();
        let all = keys(&trial.disk, &below[0]);
        assert_eq!(all, [true; 5]);
        let asked = trial.kms.calls();
        trial.plan_all();
        let report = run(&trial.disk, &trial.kms, &below).unwrap();
        assert_eq!((report.shredded, report.empty, report.failed.count), (5, 0, 0), "{report:?}");
        assert!(report.removed && !report.cut);
        assert_eq!(trial.kms.calls().generate_data_key, asked.generate_data_key);
        let kept_worlds = trial.disk.kept();
        assert!(kept_worlds.len() > 10, "{}", kept_worlds.len());
        let (mut halfway, mut without_names) = (0, 0);
        let last = (trial.disk.calls() + 1, trial.disk.now());
        for (call, world) in kept_worlds.into_iter().chain([last]) {
            for dice in 0..3 {
                let disk = Disk::holding(world.cut(seed * 1000 + call * 3 + dice));
                let left = keys(&disk, &below[0]);
                let lost = left.iter().filter(|has| !**has).count();
                halfway += usize::from(lost > 0 && lost < left.len());
                if left.len() < all.len() {
                    without_names += 1;
                    assert_eq!(lost, left.len(), "cut at call {call}: a name is gone, and keys are not");
                }
                // It mounts, and what is beside the tree is as it was.
                let volume = open(&disk, &trial.kms);
                assert_eq!(rest(&volume), kept, "cut at call {call}");
                let there = volume.lookup(ROOT, b"tree").map(|tree| volume.forget(tree.node, 1)).is_ok();
                volume.close().unwrap();
                if there {
                    let again = run(&disk, &trial.kms, &below).unwrap();
                    assert!(again.removed, "gone on after a cut at call {call}: {again:?}");
                }
                let volume = open(&disk, &trial.kms);
                assert!(matches!(volume.lookup(ROOT, b"tree"), Err(VolumeError::NotFound)));
                assert_eq!(rest(&volume), kept, "gone on after a cut at call {call}");
                volume.close().unwrap();
            }
        }
        assert!(halfway > 0 && without_names > 0, "{halfway}, {without_names}");
    }
}

#[test]
fn no_name_goes_before_all_keys_are_overwritten_on_the_medium() {
    trials(&|disk, kms, below| shred(&disk.root(), below, &OPTIONS, Some(&**kms)));
}

#[test]
fn nor_inside_a_mount() {
    trials(&|disk, kms, below| {
        let volume = open(disk, kms);
        let report = volume.shred(below, &OPTIONS, &|| true).0;
        volume.close().unwrap();
        report
    });
}
