//! Names that change while others look at them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use kmsfs::kms::KeyService;
use kmsfs::volume::disk::{Change, Dir, RenameMode, Time, XattrMode};
use kmsfs::volume::host::HostDir;
use kmsfs::volume::rewrap::{Options, summarise};
use kmsfs::volume::{ROOT, SetAttr, Volume};
use parking_lot::Mutex;

use crate::fake::{FakeKms, KEY};
use crate::handles::{READ_WRITE, Stop};
use crate::model::options;
use crate::model::run::CALLER;

fn volume(temp: &tempfile::TempDir) -> (Arc<FakeKms>, Volume) {
    let kms = FakeKms::new();
    fs::create_dir(temp.path().join("vault")).unwrap();
    let root = HostDir::open(&temp.path().join("vault")).unwrap();
    Volume::init(&*root, &*kms, KEY).unwrap();
    let volume = Volume::open(root, kms.clone(), kms.clone(), options()).unwrap();
    (kms, volume)
}

/// A lookup that sees a name just before it goes must not leave it with the file: by a name that it has not, the file
/// would not be found, or another one, that has the name now, be taken for it.
#[test]
fn a_file_that_is_renamed_is_found_whoever_looks_at_its_names() {
    let temp = tempfile::tempdir().unwrap();
    let (_, volume) = volume(&temp);
    let dirs =
        ["one", "two", "three"].map(|name| volume.mkdir(CALLER, ROOT, name.as_bytes(), 0o700).unwrap().node);
    let (attr, handle) = volume.create(CALLER, dirs[0], b"file", 0o600, READ_WRITE).unwrap();
    volume.release(handle).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for dir in dirs {
            let (volume, stop) = (&volume, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(found) = volume.lookup(dir, b"file") {
                        volume.forget(found.node, 1);
                    }
                }
            });
        }
        let renamed = (0..3000).try_for_each(|n| {
            let (from, to) = (dirs[n % 3], dirs[(n + 1) % 3]);
            volume.rename(from, b"file", to, b"file", RenameMode::NoReplace)?;
            // By its name: it is not open.
            volume.getattr(attr.node, None).map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        renamed.unwrap();
    });
    volume.close().unwrap();
}

/// Two files take each other's names again and again, and two links: what is done to one of them, which is not open, is done to
/// that one, and never fails.
#[test]
fn what_is_done_to_a_file_is_not_done_to_another_that_takes_its_name() {
    let temp = tempfile::tempdir().unwrap();
    let (_, volume) = volume(&temp);
    let dirs = ["one", "two"].map(|name| volume.mkdir(CALLER, ROOT, name.as_bytes(), 0o700).unwrap().node);
    let [mine, other] = dirs.map(|dir| {
        let (attr, handle) = volume.create(CALLER, dir, b"file", 0o600, READ_WRITE).unwrap();
        volume.release(handle).unwrap();
        attr.node
    });
    let [near, far] = [&b"near"[..], b"far"].map(|target| {
        let dir = dirs[usize::from(target == b"far")];
        volume.symlink(CALLER, dir, b"link", target).unwrap().node
    });
    let exchanges = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for name in [&b"file"[..], b"link"] {
                    volume.rename(dirs[0], name, dirs[1], name, RenameMode::Exchange).unwrap();
                }
                exchanges.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = Stop(&stop);
        for n in 0..1500 {
            let mark = Time { sec: 1000, nsec: n };
            let set =
                SetAttr { change: Change { perm: Some(0o640), ..Change::mtime(mark) }, ..SetAttr::default() };
            let attr = volume.setattr(CALLER, mine, None, &set).unwrap();
            assert_eq!((attr.stat.perm, attr.stat.mtime), (0o640, mark), "round {n}");
            volume.set_xattr(mine, b"user.mine", &n.to_le_bytes(), XattrMode::Any).unwrap();
            assert_eq!(volume.get_xattr(mine, b"user.mine").unwrap(), n.to_le_bytes(), "round {n}");
            assert_eq!(volume.readlink(near).unwrap(), b"near", "round {n}");
            assert_eq!(volume.readlink(far).unwrap(), b"far", "round {n}");
            let linked = volume.link(mine, ROOT, b"name").unwrap();
            assert_eq!(linked.node, mine, "round {n}");
            volume.unlink(ROOT, b"name").unwrap();
            volume.forget(mine, 1);
            let untouched = volume.getattr(other, None).unwrap().stat;
            assert!(
                untouched.perm == 0o600 && untouched.mtime.sec > 1000 && untouched.nlink == 1,
                "round {n}"
            );
            assert!(volume.list_xattr(other).unwrap().is_empty(), "round {n}");
        }
    });
    assert!(exchanges.into_inner() > 100);
    volume.close().unwrap();
}

/// Files are removed in one directory while others are made in another, which get their inode numbers: a node that is
/// marked as removed too late would be another file's by then, and that would not be finalised.
#[test]
fn a_file_with_the_number_of_one_that_is_just_removed_is_finalised() {
    let temp = tempfile::tempdir().unwrap();
    let (_, volume) = volume(&temp);
    thread::scope(|scope| {
        for thread in 0..4 {
            let volume = &volume;
            scope.spawn(move || {
                let name = format!("dir {thread}");
                let dir = volume.mkdir(CALLER, ROOT, name.as_bytes(), 0o700).unwrap().node;
                for n in 0..400 {
                    let (attr, handle) = volume.create(CALLER, dir, b"file", 0o600, READ_WRITE).unwrap();
                    volume.write(handle, 0, b"content", false).unwrap();
                    volume.release(handle).unwrap();
                    volume.forget(attr.node, 1);
                    let attr = volume.lookup(dir, b"file").unwrap();
                    assert_eq!(attr.stat.size, 7, "{name}, round {n}");
                    let handle = volume.open_file(CALLER, attr.node, READ_WRITE).unwrap();
                    volume.release(handle).unwrap();
                    // Replaced, or removed.
                    if n % 2 == 0 {
                        let (other, handle) = volume.create(CALLER, dir, b"new", 0o600, READ_WRITE).unwrap();
                        volume.release(handle).unwrap();
                        volume.rename(dir, b"new", dir, b"file", RenameMode::Replace).unwrap();
                        volume.forget(other.node, 1);
                    }
                    volume.forget(attr.node, 1);
                    volume.unlink(dir, b"file").unwrap();
                }
            });
        }
    });
    volume.close().unwrap();
}

/// While a file's key is rewrapped another one takes its name, which has another inode number: it is rewrapped instead.
#[test]
fn a_file_that_took_the_name_of_a_removed_one_is_rewrapped() {
    let temp = tempfile::tempdir().unwrap();
    let (kms, volume) = volume(&temp);
    let volume = Arc::new(volume);
    let (_, handle) = volume.create(CALLER, ROOT, b"file", 0o600, READ_WRITE).unwrap();
    volume.write(handle, 0, b"before", false).unwrap();
    volume.release(handle).unwrap();
    let vault = temp.path().join("vault");
    let below = volume.stored_path(&[b"file".to_vec()]).unwrap();
    let stored = vault.join(String::from_utf8(below[0].clone()).unwrap());
    let (calls, again, open) = (AtomicUsize::new(0), volume.clone(), Arc::new(Mutex::new(Vec::new())));
    let opened = open.clone();
    kms.on_re_encrypt(move || {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        if call < 3 {
            // A name elsewhere keeps the number.
            fs::hard_link(&stored, temp.path().join(format!("kept {call}"))).unwrap();
            again.unlink(ROOT, b"file").unwrap();
            let (_, handle) = again.create(CALLER, ROOT, b"file", 0o600, READ_WRITE).unwrap();
            again.write(handle, 0, b"after", false).unwrap();
            // The last is open when its key is put there.
            match call {
                2 => opened.lock().push(handle),
                _ => again.release(handle).unwrap(),
            }
        }
    });
    let wish = Options {
        key_id: Some("alias/other".to_owned()),
        below: below.clone(),
        change_service: false,
        keep_mtime: false,
        dry_run: false,
        threads: 1,
    };
    let here: Arc<dyn KeyService> = kms.clone();
    let report = volume.rewrap(&here, &|_| unreachable!("one region"), &wish, &|| true).unwrap();
    assert_eq!((report.rewrapped, report.failed.count), (1, 0));
    for handle in open.lock().drain(..) {
        volume.release(handle).unwrap();
    }
    volume.close().unwrap();
    let root: Arc<dyn Dir> = HostDir::open(&vault).unwrap();
    let keys = summarise(&root, &[], 1).unwrap().files.into_iter().map(|((key, _), files)| (key, files));
    assert_eq!(keys.collect::<Vec<_>>(), [(kms.arn("alias/other"), 1)]);
}
