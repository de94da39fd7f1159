//! Inode numbers that the backing gives again at once: a file that is made while another is removed is that other one's equal in
//! number, and nothing else of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kmsfs::volume::disk::RenameMode;
use kmsfs::volume::host::HostDir;
use kmsfs::volume::{NodeId, ROOT, Volume, VolumeError};

use crate::fake::{FakeKms, KEY};
use crate::handles::{READ, READ_WRITE};
use crate::model::options;
use crate::model::run::{CALLER, pattern};

/// A new file, which is closed at once; its node stays known.
fn create(volume: &Volume, parent: NodeId, name: &[u8], content: &[u8]) -> NodeId {
    let (attr, handle) = volume.create(CALLER, parent, name, 0o600, READ_WRITE).unwrap();
    volume.write(handle, 0, content, false).unwrap();
    volume.release(handle).unwrap();
    attr.node
}

#[test]
fn a_file_that_is_made_while_another_is_removed_is_whole() {
    let (temp, kms) = (tempfile::tempdir().unwrap(), FakeKms::new());
    let dir = HostDir::open(temp.path()).unwrap();
    Volume::init(&*dir, &*kms, KEY).unwrap();
    let volume = Volume::open(dir, kms.clone(), kms.clone(), options()).unwrap();
    let until = Instant::now() + Duration::from_millis(2500);
    let (stop, shared) = (AtomicBool::new(false), AtomicU64::new(0));
    let goes_on = || Instant::now() < until && !stop.load(Ordering::Relaxed);
    // The number of a file that is being removed.
    let going = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..2usize {
            let (volume, going, goes_on) = (&volume, &going, &goes_on);
            // Removes, by unlinking and by renaming over.
            scope.spawn(move || {
                let dir = volume.mkdir(CALLER, ROOT, format!("old {thread}").as_bytes(), 0o700).unwrap().node;
                while goes_on() {
                    let old = create(volume, dir, b"old", b"old");
                    let new = create(volume, dir, b"new", b"new");
                    going.store(old, Ordering::SeqCst);
                    volume.rename(dir, b"new", dir, b"old", RenameMode::Replace).unwrap();
                    going.store(new, Ordering::SeqCst);
                    volume.unlink(dir, b"old").unwrap();
                    volume.forget(old, 1);
                    volume.forget(new, 1);
                }
            });
        }
        for thread in 0..2usize {
            let (volume, going, goes_on, stop, shared) = (&volume, &going, &goes_on, &stop, &shared);
            scope.spawn(move || {
                let dir =
                    volume.mkdir(CALLER, ROOT, format!("made {thread}").as_bytes(), 0o700).unwrap().node;
                for n in 0.. {
                    if !goes_on() {
                        break;
                    }
                    let content = pattern(n, 5000);
                    let node = create(volume, dir, b"made", &content);
                    shared.fetch_add(u64::from(going.load(Ordering::SeqCst) == node), Ordering::SeqCst);
                    let read = volume.open_file(CALLER, node, READ).and_then(|handle| {
                        let mut read = vec![0; 6000];
                        let len = volume.read(handle, 0, &mut read)?;
                        read.truncate(len);
                        volume.release(handle).map(|()| read)
                    });
                    if !read.as_ref().is_ok_and(|read| *read == content) {
                        stop.store(true, Ordering::Relaxed);
                        panic!("file {n}: {:?}", read.map(|read| read.len()));
                    }
                    volume.unlink(dir, b"made").unwrap();
                    volume.forget(node, 1);
                }
            });
        }
    });
    assert!(shared.load(Ordering::SeqCst) > 0, "no number was given again");
    volume.close().unwrap();
}

/// What a name stands for is looked at under the locks: others who rename to it, or take it away, cannot come between.
#[test]
fn renames_to_one_name_meet_nobody_else_halfway() {
    let (temp, kms) = (tempfile::tempdir().unwrap(), FakeKms::new());
    let dir = HostDir::open(temp.path()).unwrap();
    Volume::init(&*dir, &*kms, KEY).unwrap();
    let volume = Volume::open(dir, kms.clone(), kms.clone(), options()).unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    let of = |n: usize| volume.mkdir(CALLER, ROOT, format!("{n}").as_bytes(), 0o700).unwrap().node;
    let (dirs, shared) = ([of(0), of(1), of(2)], of(3));
    thread::scope(|scope| {
        for own in dirs {
            let volume = &volume;
            scope.spawn(move || {
                while Instant::now() < until {
                    let file = create(volume, own, b"file", b"content");
                    volume.rename(own, b"file", shared, b"file", RenameMode::Replace).unwrap();
                    volume.forget(file, 1);
                    let made = volume.mkdir(CALLER, own, b"directory", 0o700).unwrap().node;
                    volume.rename(own, b"directory", shared, b"directory", RenameMode::Replace).unwrap();
                    volume.forget(made, 1);
                }
            });
        }
        scope.spawn(|| {
            while Instant::now() < until {
                for gone in [volume.unlink(shared, b"file"), volume.rmdir(shared, b"directory")] {
                    assert!(matches!(gone, Ok(()) | Err(VolumeError::NotFound)), "{gone:?}");
                }
            }
        });
    });
    volume.close().unwrap();
}
