//! Shredding inside a mount, on the volume without one: what is open, what has names elsewhere, and writers that never stop.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kmsfs::kms::{FileEvent, KeyService};
use kmsfs::volume::disk::RenameMode;
use kmsfs::volume::host::HostDir;
use kmsfs::volume::shred::{Forget, Options, Report};
use kmsfs::volume::{NodeId, ROOT, SetAttr, Volume, VolumeError, VolumeOptions, rewrap, shred};

use crate::fake::{FakeKms, KEY};
use crate::handles::{READ, READ_WRITE, Stop};
use crate::kms_kill::Dice;
use crate::model::options;
use crate::model::run::{CALLER, pattern};

const OPTIONS: Options = Options { hard_links: false, threads: 2, uid: 1000 };

struct Fixture {
    temp: tempfile::TempDir,
    kms: Arc<FakeKms>,
}

impl Fixture {
    fn new() -> Self {
        let (temp, kms) = (tempfile::tempdir().unwrap(), FakeKms::new());
        fs::create_dir(temp.path().join("vault")).unwrap();
        Volume::init(&*HostDir::open(&temp.path().join("vault")).unwrap(), &*kms, KEY).unwrap();
        Self { temp, kms }
    }

    fn open(&self) -> Volume {
        self.open_with(VolumeOptions { pool: 16, ..options() })
    }

    fn open_with(&self, options: VolumeOptions) -> Volume {
        let dir = HostDir::open(&self.temp.path().join("vault")).unwrap();
        Volume::open(dir, self.kms.clone(), self.kms.clone(), options).unwrap()
    }

    /// A name outside of the volume for the backing file of a node: it shows what became of it.
    fn witness(&self, volume: &Volume, node: NodeId, path: &[&[u8]]) -> PathBuf {
        let stored = volume.stored_path(&path.iter().map(|name| name.to_vec()).collect::<Vec<_>>()).unwrap();
        let mut backing = self.temp.path().join("vault");
        backing.extend(stored.iter().map(|name| str::from_utf8(name).unwrap()));
        assert_eq!(fs::metadata(&backing).unwrap().ino(), node);
        let witness = self.temp.path().join(format!("witness {node}"));
        fs::hard_link(backing, &witness).unwrap();
        witness
    }

    /// The events of shredding, each with whether it was there before the answer.
    fn events(&self) -> Vec<(FileEvent, bool)> {
        let of_shredding =
            |event: &FileEvent| matches!(event, FileEvent::ShredFile { .. } | FileEvent::ShredTree { .. });
        self.kms.events().into_iter().filter(|(event, _)| of_shredding(event)).collect()
    }
}

fn shred(volume: &Volume, path: &[&[u8]], options: &Options) -> Result<(Report, Forget), VolumeError> {
    let plain: Vec<_> = path.iter().map(|name| name.to_vec()).collect();
    let (report, forget) = volume.shred(&volume.stored_path(&plain)?, options, &|| true);
    report.map(|report| (report, forget))
}

fn create(volume: &Volume, parent: NodeId, name: &[u8], content: &[u8]) -> NodeId {
    let (attr, handle) = volume.create(CALLER, parent, name, 0o600, READ_WRITE).unwrap();
    volume.write(handle, 0, content, false).unwrap();
    volume.release(handle).unwrap();
    attr.node
}

fn content(volume: &Volume, parent: NodeId, name: &[u8]) -> Result<Vec<u8>, VolumeError> {
    let attr = volume.lookup(parent, name)?;
    let read = || {
        let handle = volume.open_file(CALLER, attr.node, READ)?;
        let mut content = vec![0; attr.stat.size as usize];
        let read = volume.read(handle, 0, &mut content);
        volume.release(handle)?;
        read.map(|len| content[..len].to_vec())
    };
    let content = read();
    volume.forget(attr.node, 1);
    content
}

fn has_keys(witness: &PathBuf) -> bool {
    let bytes = fs::read(witness).unwrap();
    bytes.get(112..4096).is_some_and(|keys| keys.iter().any(|byte| *byte != 0))
}

#[test]
fn whoever_has_a_shredded_file_open_loses_it() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    let tree = volume.mkdir(CALLER, ROOT, b"tree", 0o700).unwrap().node;
    let deep = volume.mkdir(CALLER, tree, b"deep", 0o700).unwrap().node;
    let long = [b'n'; 240];
    let closed = create(&volume, tree, b"closed", b"closed");
    let read = create(&volume, deep, b"read", &pattern(1, 9000));
    let written = create(&volume, deep, &long, &pattern(2, 9000));
    let kept = create(&volume, ROOT, b"kept", b"kept");
    let link = volume.symlink(CALLER, tree, b"link", &[b't'; 4000]).unwrap().node;
    let (read_path, written_path): ([&[u8]; 3], [&[u8]; 3]) =
        ([b"tree", b"deep", b"read"], [b"tree", b"deep", &long]);
    let witnesses = [
        fixture.witness(&volume, closed, &[b"tree", b"closed"]),
        fixture.witness(&volume, read, &read_path),
        fixture.witness(&volume, written, &written_path),
    ];
    assert!(witnesses.iter().all(has_keys));
    let reader = volume.open_file(CALLER, read, READ).unwrap();
    let writer = volume.open_file(CALLER, written, READ_WRITE).unwrap();
    volume.write(writer, 9000, b"not synced", false).unwrap();
    let (empty, never) = volume.create(CALLER, deep, b"never written", 0o600, READ_WRITE).unwrap();
    let asked = fixture.kms.calls().decrypt;

    // The witnesses are names elsewhere: nothing changes, unless that is meant.
    let refused = shred(&volume, &[b"tree"], &OPTIONS);
    assert!(matches!(refused, Err(VolumeError::Invalid(why)) if why.contains("hard links")), "{refused:?}");
    assert!(witnesses.iter().all(has_keys) && fixture.events().is_empty());
    let wish = Options { hard_links: true, ..OPTIONS };
    let (report, forget) = shred(&volume, &[b"tree"], &wish).unwrap();
    assert_eq!(
        (report.shredded, report.empty, report.open, report.removed, report.failed.count),
        (3, 1, 3, true, 0)
    );
    assert_eq!(fixture.kms.calls().decrypt, asked, "no key is needed");
    let event = FileEvent::ShredTree { volume_id: volume.status().volume_id, files: 4, uid: 1000 };
    assert_eq!(fixture.events(), [(event, true)]);
    // The kernel is told of the name, and of what it may know.
    assert_eq!(forget.name, Some((ROOT, b"tree".to_vec())));
    let mut told = forget.nodes;
    let mut known = vec![tree, deep, link, closed, read, written, empty.node];
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known);

    // Nothing is read and nothing is written, by whoever has it open; it can be closed.
    let shredded =
        |result: Result<(), VolumeError>| assert!(matches!(result, Err(VolumeError::Shredded)), "{result:?}");
    for handle in [reader, writer, never] {
        shredded(volume.read(handle, 0, &mut [0; 10]).map(drop));
    }
    for handle in [writer, never] {
        shredded(volume.write(handle, 0, b"again", false));
        shredded(volume.fsync(handle, false));
        let cut = SetAttr { size: Some(3), ..SetAttr::default() };
        shredded(volume.setattr(CALLER, written, Some(handle), &cut).map(drop));
    }
    shredded(volume.open_file(CALLER, read, READ).map(drop));
    // A change in the key service gives nothing back, nor does a hold finalise it.
    fixture.kms.move_generation();
    assert!(volume.tick().is_empty());
    drop(volume.hold(Duration::from_secs(5)).unwrap());
    assert!(!witnesses.iter().any(has_keys));
    volume.release(reader).unwrap();
    volume.release(never).unwrap();
    assert!(matches!(volume.open_file(CALLER, closed, READ), Err(VolumeError::Stale)));
    assert!(matches!(volume.lookup(tree, b"deep"), Err(VolumeError::Stale)));
    assert!(matches!(volume.create(CALLER, deep, b"new", 0o600, READ_WRITE), Err(VolumeError::Stale)));
    assert!(matches!(volume.lookup(ROOT, b"tree"), Err(VolumeError::NotFound)));
    assert_eq!(fs::read_dir(fixture.temp.path().join("vault/.kmsfs/links")).unwrap().count(), 0);
    // The name is free, and one file is left open until the volume is closed.
    create(&volume, ROOT, b"tree", b"another");
    assert_eq!(content(&volume, ROOT, b"kept").unwrap(), b"kept");
    volume.forget(kept, 1);
    volume.close().unwrap();
    assert!(!witnesses.iter().any(has_keys));
    let volume = fixture.open();
    assert_eq!(content(&volume, ROOT, b"tree").unwrap(), b"another");
    assert_eq!(content(&volume, ROOT, b"kept").unwrap(), b"kept");
    volume.close().unwrap();
}

#[test]
fn a_file_is_shredded_under_all_its_names() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    let node = create(&volume, ROOT, b"one", b"content");
    let dir = volume.mkdir(CALLER, ROOT, b"dir", 0o700).unwrap().node;
    volume.link(node, dir, b"two").unwrap();
    assert_eq!(content(&volume, dir, b"two").unwrap(), b"content");
    let before = fixture.kms.calls().decrypt;
    assert!(shred(&volume, &[b"one"], &OPTIONS).is_err());
    let (report, _) = shred(&volume, &[b"one"], &Options { hard_links: true, ..OPTIONS }).unwrap();
    assert_eq!((report.shredded, report.open, report.removed), (1, 0, true));
    assert!(
        matches!(&fixture.events()[..], [(FileEvent::ShredFile { file_id: Some(id), .. }, true)] if id.len() == 32)
    );
    // The other name stands, and the key service is not even asked.
    assert!(
        matches!(content(&volume, dir, b"two"), Err(VolumeError::Damaged { what }) if what.contains("shredded"))
    );
    assert_eq!(fixture.kms.calls().decrypt, before);
    volume.unlink(dir, b"two").unwrap();
    // What has no content goes too, and destroys no key.
    volume.symlink(CALLER, ROOT, b"link", b"dir").unwrap();
    let (report, _) = shred(&volume, &[b"link"], &OPTIONS).unwrap();
    assert!(report.removed && report.shredded == 0 && fixture.events().len() == 1);
    assert!(matches!(volume.lookup(ROOT, b"link"), Err(VolumeError::NotFound)));
    volume.close().unwrap();
}

#[test]
fn what_cannot_be_shredded_is_refused_and_what_was_begun_goes_on() {
    let fixture = Fixture::new();
    let volume = fixture.open();
    let dir = volume.mkdir(CALLER, ROOT, b"dir", 0o700).unwrap().node;
    for n in 0..300 {
        create(&volume, dir, format!("file {n}").as_bytes(), b"content");
    }
    for (below, said) in [(vec![], "whole volume"), (vec![b".kmsfs".to_vec()], "own entries")] {
        let refused = volume.shred(&below, &OPTIONS, &|| true).0;
        assert!(matches!(refused, Err(VolumeError::Invalid(why)) if why.contains(said)), "{refused:?}");
    }
    assert!(matches!(shred(&volume, &[b"none"], &OPTIONS), Err(VolumeError::NotFound)));
    assert!(matches!(shred(&volume, &[b"dir", b"none"], &OPTIONS), Err(VolumeError::NotFound)));
    // Whoever asked goes away.
    let (seen, stored) = (AtomicUsize::new(0), volume.stored_path(&[b"dir".to_vec()]).unwrap());
    let cut = volume.shred(&stored, &OPTIONS, &|| seen.fetch_add(1, Ordering::SeqCst) < 100).0.unwrap();
    assert!(cut.cut && !cut.removed && (90..200).contains(&cut.shredded), "{cut:?}");
    let readable = (0..300).filter(|n| content(&volume, dir, format!("file {n}").as_bytes()).is_ok()).count();
    assert_eq!(readable as u64, 300 - cut.shredded);
    let (rest, _) = shred(&volume, &[b"dir"], &OPTIONS).unwrap();
    assert_eq!((rest.shredded, rest.removed, rest.cut), (300, true, false));
    volume.close().unwrap();
    let volume = fixture.open_with(VolumeOptions { read_only: true, ..options() });
    assert!(matches!(volume.shred(&stored, &OPTIONS, &|| true).0, Err(VolumeError::ReadOnly)));
    volume.close().unwrap();
}

/// What somebody meets whose directory or file is shredded under his hands.
fn is_of_shredding(error: &VolumeError) -> bool {
    match error {
        // Or what another round has left there.
        VolumeError::Exists => true,
        VolumeError::NotFound | VolumeError::Stale | VolumeError::Shredded => true,
        // A file has the number of the directory by now.
        VolumeError::NotDirectory => true,
        VolumeError::Damaged { what } => what.contains("shredded"),
        _ => false,
    }
}

/// Threads create, write, link and remove files and rename them into a directory and out of it while that is shredded again and
/// again and the volume is rewrapped: what is not in it then loses nothing, and what is in it is gone.
#[test]
fn only_what_is_in_the_tree_is_lost_while_writers_go_on() {
    const DOOMED: &[u8] = b"doomed";
    for seed in 0..2u64 {
        let fixture = Fixture::new();
        let volume = fixture.open();
        let dirs: Vec<NodeId> = (0..5)
            .map(|n| volume.mkdir(CALLER, ROOT, format!("dir {n}").as_bytes(), 0o700).unwrap().node)
            .collect();
        let name = |thread: usize, n: usize| format!("{thread} {n}").into_bytes();
        let bytes = |thread: usize, n: usize| pattern((thread * 1000 + n) as u64, 50 + n * 97);
        let (stop, changes, doomed_ones) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        // Where each thread's files are; those in the tree may be gone.
        let places: Vec<Vec<Option<usize>>> = thread::scope(|scope| {
            let _stop = Stop(&stop);
            let work = |thread: usize| {
                let (volume, dirs, stop, changes, doomed_ones) =
                    (&volume, &dirs, &stop, &changes, &doomed_ones);
                scope.spawn(move || {
                    let mut dice = Dice(seed * 31 + thread as u64 + 1);
                    let mut places = vec![None; 40];
                    let allowed = |result: Result<(), VolumeError>| match result {
                        Ok(()) => true,
                        Err(error) if is_of_shredding(&error) => false,
                        Err(error) => panic!("{error:?}"),
                    };
                    let put = |parent: NodeId, name: &[u8], n: usize| {
                        let (attr, handle) = volume.create(CALLER, parent, name, 0o600, READ_WRITE)?;
                        let written = volume.write(handle, 0, &bytes(thread, n), false);
                        let synced = if n.is_multiple_of(5) { volume.fsync(handle, true) } else { Ok(()) };
                        volume.release(handle)?;
                        volume.forget(attr.node, 1);
                        written.and(synced)
                    };
                    while !stop.load(Ordering::SeqCst) {
                        changes.fetch_add(1, Ordering::SeqCst);
                        let n = dice.below(places.len());
                        let (name, to) = (name(thread, n), dice.below(dirs.len()));
                        let doomed = volume.lookup(ROOT, DOOMED).map(|attr| attr.node);
                        match (places[n], dice.below(6)) {
                            (None, 0..3) => {
                                put(dirs[to], &name, n).unwrap();
                                places[n] = Some(to);
                            }
                            (None, _) => {
                                if let Ok(doomed) = doomed {
                                    // It is there or not; whatever is there comes out or goes.
                                    if allowed(put(doomed, &name, n)) {
                                        doomed_ones.fetch_add(1, Ordering::SeqCst);
                                    }
                                    let known = volume.lookup(doomed, &name).map(|attr| attr.node);
                                    let (mode, out) = (RenameMode::NoReplace, dirs[to]);
                                    if dice.below(3) == 0 {
                                        // Left there.
                                    } else if dice.below(2) == 0 {
                                        allowed(volume.unlink(doomed, &name));
                                    } else if allowed(volume.rename(doomed, &name, out, &name, mode)) {
                                        places[n] = Some(to);
                                    }
                                    if let Ok(known) = known {
                                        volume.forget(known, 1);
                                    }
                                }
                            }
                            (Some(at), 0) => {
                                if let Ok(doomed) = doomed {
                                    let attr = volume.lookup(dirs[at], &name).unwrap();
                                    let _ = volume.unlink(doomed, &name);
                                    if allowed(volume.rename(
                                        dirs[at],
                                        &name,
                                        doomed,
                                        &name,
                                        RenameMode::Replace,
                                    )) {
                                        places[n] = None;
                                        doomed_ones.fetch_add(1, Ordering::SeqCst);
                                    }
                                    volume.forget(attr.node, 1);
                                }
                            }
                            (Some(at), 1) => {
                                let attr = volume.lookup(dirs[at], &name).unwrap();
                                if at != to {
                                    volume
                                        .rename(dirs[at], &name, dirs[to], &name, RenameMode::Replace)
                                        .unwrap();
                                    places[n] = Some(to);
                                }
                                volume.forget(attr.node, 1);
                            }
                            (Some(at), 2) => {
                                let attr = volume.lookup(dirs[at], &name).unwrap();
                                let handle = volume.open_file(CALLER, attr.node, READ_WRITE).unwrap();
                                volume.write(handle, 0, &bytes(thread, n), false).unwrap();
                                volume.release(handle).unwrap();
                                volume.forget(attr.node, 1);
                            }
                            (Some(at), _) => {
                                assert_eq!(content(volume, dirs[at], &name).unwrap(), bytes(thread, n));
                            }
                        }
                        if let Ok(doomed) = doomed {
                            volume.forget(doomed, 1);
                        }
                    }
                    places
                })
            };
            let threads: Vec<_> = (0..3).map(work).collect();
            let rewraps = scope.spawn(|| {
                let here: Arc<dyn KeyService> = fixture.kms.clone();
                let nowhere = |region: &str| panic!("nobody has a key in {region:?}");
                let mut round = 0;
                while !stop.load(Ordering::SeqCst) {
                    round += 1;
                    let wish = rewrap::Options {
                        key_id: Some(format!("alias/round-{round}")),
                        below: Vec::new(),
                        change_service: false,
                        keep_mtime: false,
                        dry_run: false,
                        threads: 1,
                    };
                    let report = volume.rewrap(&here, &nowhere, &wish, &|| true).unwrap();
                    assert_eq!(report.failed.count, 0, "{:?}", report.failed);
                    thread::sleep(Duration::from_millis(5));
                }
                round
            });
            let mut lost = 0;
            for round in 0..12 {
                let made = volume.mkdir(CALLER, ROOT, DOOMED, 0o700).unwrap();
                volume.forget(made.node, 1);
                let before = changes.load(Ordering::SeqCst);
                while changes.load(Ordering::SeqCst) < before + 120 {
                    assert!(!threads.iter().any(|thread| thread.is_finished()), "a writer fell over");
                    thread::sleep(Duration::from_millis(1));
                }
                let (report, forget) = shred(&volume, &[DOOMED], &OPTIONS).unwrap();
                assert_eq!((report.failed.count, report.removed), (0, true), "round {round}: {report:?}");
                assert_eq!(forget.name, Some((ROOT, DOOMED.to_vec())));
                lost += report.shredded;
                assert!(matches!(volume.lookup(ROOT, DOOMED), Err(VolumeError::NotFound)));
            }
            stop.store(true, Ordering::SeqCst);
            assert!(rewraps.join().unwrap() > 1 && lost > 20, "{lost}");
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(doomed_ones.load(Ordering::SeqCst) > 20);
        volume.close().unwrap();
        let volume = fixture.open();
        let mut files = 0;
        for (thread, places) in places.iter().enumerate() {
            for (n, place) in places.iter().enumerate() {
                for (at, dir) in dirs.iter().enumerate() {
                    let found = volume.lookup(ROOT, format!("dir {at}").as_bytes()).unwrap().node;
                    assert_eq!(found, *dir);
                    let found = content(&volume, *dir, &name(thread, n));
                    if *place == Some(at) {
                        assert_eq!(found.unwrap(), bytes(thread, n));
                        files += 1;
                    } else {
                        assert!(matches!(found, Err(VolumeError::NotFound)), "{found:?}");
                    }
                }
            }
        }
        assert!(files > 20, "{files}");
        volume.close().unwrap();
    }
}

/// Whoever may make directories decides how deep a tree is: it must not be its depth that a thread's stack holds.
#[test]
fn deep_trees_go_on_a_small_stack() {
    let fixture = Fixture::new();
    for online in [true, false] {
        let volume = fixture.open();
        let mut dir = ROOT;
        for _ in 0..300 {
            dir = volume.mkdir(CALLER, dir, b"d", 0o755).unwrap().node;
            volume.mkdir(CALLER, dir, b"e", 0o755).unwrap();
        }
        let below = volume.stored_path(&[b"d".to_vec()]).unwrap();
        let small = thread::Builder::new().stack_size(256 << 10);
        let root = HostDir::open(&fixture.temp.path().join("vault")).unwrap();
        let report = small.spawn(move || {
            if online {
                let report = volume.shred(&below, &OPTIONS, &|| true).0.unwrap();
                volume.close().unwrap();
                report
            } else {
                volume.close().unwrap();
                shred::shred(&root, &below, &OPTIONS, None).unwrap()
            }
        });
        assert!(report.unwrap().join().unwrap().removed);
        let left = fs::read_dir(fixture.temp.path().join("vault")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(left.into_iter().all(|name| name.contains("kmsfs")), "something is left");
    }
}
