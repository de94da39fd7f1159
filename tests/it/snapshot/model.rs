//! Snapshots equal what was there; incremental ones equal whole ones.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use kmsfs::kms::{FileEvent, SnapshotAction};
use kmsfs::snapshot::SnapshotError;
use kmsfs::snapshot::create::Unmounted;
use kmsfs::volume::disk::{Change, Kind, RenameMode, XattrMode};
use kmsfs::volume::{NodeId, ROOT, SetAttr, Volume};
use proptest::collection::vec;
use proptest::prelude::*;

use super::bed::*;

#[derive(Debug, Clone)]
pub enum Op {
    File(u8, u64, usize),
    Sparse(u8, u64),
    Dir(u8),
    Symlink(u8, usize),
    Link(u8, u8),
    Rename(u8, u8),
    Remove(u8),
    Xattr(u8, u8),
    Mode(u8, u32),
    Fifo(u8),
}

pub fn op() -> impl Strategy<Value = Op> {
    let id = || 0..12u8;
    prop_oneof![
        6 => (id(), any::<u64>(), prop_oneof![Just(0usize), 1..9000usize, 80_000..140_000usize])
            .prop_map(|(n, seed, len)| Op::File(n, seed, len)),
        1 => (id(), 100_000..3_000_000u64).prop_map(|(n, at)| Op::Sparse(n, at)),
        2 => id().prop_map(Op::Dir),
        1 => (id(), prop_oneof![1..100usize, 3500..4000usize]).prop_map(|(n, len)| Op::Symlink(n, len)),
        2 => (id(), id()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => (id(), id()).prop_map(|(a, b)| Op::Rename(a, b)),
        2 => id().prop_map(Op::Remove),
        2 => (id(), any::<u8>()).prop_map(|(n, v)| Op::Xattr(n, v)),
        1 => (id(), 0..0o7777u32).prop_map(|(n, m)| Op::Mode(n, m | 0o700)),
        1 => id().prop_map(Op::Fifo),
    ]
}

/// Where an id lives: some in the root, some in directories if these are there, some with long names.
fn place(volume: &Volume, id: u8) -> (NodeId, Vec<u8>) {
    let name = if id % 5 == 4 { "n".repeat(200) + &id.to_string() } else { format!("n{id}") };
    let parent = match id / 4 {
        0 => ROOT,
        above => match volume.lookup(ROOT, format!("n{}", above - 1).as_bytes()) {
            Ok(attr) if attr.stat.kind == Kind::Directory => attr.node,
            _ => ROOT,
        },
    };
    (parent, name.into_bytes())
}

/// What does not fit (a name that is taken, a directory that is not empty) is left.
fn apply(volume: &Volume, op: &Op) {
    match op {
        Op::File(id, seed, len) => {
            let (parent, name) = place(volume, *id);
            let handle = match volume.create(ME, parent, &name, 0o640, WRITE) {
                Ok((_, handle)) => handle,
                Err(_) => {
                    let node = volume.lookup(parent, &name).unwrap().node;
                    let Ok(handle) = volume.open_file(ME, node, WRITE) else { return };
                    handle
                }
            };
            volume.write(handle, seed % 5000, &noise(*seed, *len), false).unwrap();
            volume.release(handle).unwrap();
        }
        Op::Sparse(id, at) => {
            let (parent, name) = place(volume, *id);
            if let Ok((_, handle)) = volume.create(ME, parent, &name, 0o640, WRITE) {
                volume.write(handle, *at, b"far", false).unwrap();
                volume.release(handle).unwrap();
            }
        }
        Op::Dir(id) => {
            let (parent, name) = place(volume, *id);
            let _ = volume.mkdir(ME, parent, &name, 0o755);
        }
        Op::Symlink(id, len) => {
            let (parent, name) = place(volume, *id);
            let _ = volume.symlink(ME, parent, &name, &vec![b't'; *len]);
        }
        Op::Link(from, to) => {
            let ((from_dir, from), (to_dir, to)) = (place(volume, *from), place(volume, *to));
            if let Ok(attr) = volume.lookup(from_dir, &from) {
                let _ = volume.link(attr.node, to_dir, &to);
            }
        }
        Op::Rename(from, to) => {
            let ((from_dir, from), (to_dir, to)) = (place(volume, *from), place(volume, *to));
            let _ = volume.rename(from_dir, &from, to_dir, &to, RenameMode::NoReplace);
        }
        Op::Remove(id) => {
            let (parent, name) = place(volume, *id);
            let _ = volume.unlink(parent, &name);
            let _ = volume.rmdir(parent, &name);
        }
        Op::Xattr(id, value) => {
            let (parent, name) = place(volume, *id);
            if let Ok(attr) = volume.lookup(parent, &name) {
                let _ = volume.set_xattr(attr.node, b"user.v", &[*value; 20], XattrMode::Any);
            }
        }
        Op::Mode(id, perm) => {
            let (parent, name) = place(volume, *id);
            if let Ok(attr) = volume.lookup(parent, &name)
                && attr.stat.kind != Kind::Symlink
            {
                let change = Change { perm: Some(*perm), ..Change::default() };
                let _ = volume.setattr(ME, attr.node, None, &SetAttr { change, ..SetAttr::default() });
            }
        }
        Op::Fifo(id) => {
            let (parent, name) = place(volume, *id);
            let _ = volume.mknod(ME, parent, &name, Kind::Fifo, 0o600, 0);
        }
    }
}

pub fn change(bed: &Bed, ops: &[Op]) {
    let volume = bed.volume();
    for op in ops {
        apply(&volume, op);
    }
    volume.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 16, ..ProptestConfig::default() })]

    /// A random tree, a snapshot, changes, a snapshot, ...: each one is what was there then, also after the
    /// others were deleted, and restores to that; one made against it is what a whole one is.
    #[test]
    fn each_snapshot_is_what_was_there(rounds in vec(vec(op(), 0..25), 1..4), first_deleted: bool) {
        let bed = Bed::new();
        let mut pictures = BTreeMap::new();
        for (nth, ops) in rounds.iter().enumerate() {
            change(&bed, ops);
            let name = format!("s{nth}");
            let created = bed.create(&name);
            prop_assert_eq!(created.parent_unusable, None);
            prop_assert_eq!(created.descriptor.parent.is_some(), nth > 0);
            pictures.insert(name, picture(&bed.root()));
        }
        let unmounted = Unmounted::new(&*bed.root()).unwrap();
        let mut whole = bed.options("whole");
        whole.full = true;
        let made = bed.create_with(&unmounted, &whole).unwrap();
        prop_assert!(made.descriptor.parent.is_none());
        let last = format!("s{}", rounds.len() - 1);
        prop_assert_eq!(&picture(&bed.tree("whole")), &pictures[&last]);
        if first_deleted {
            bed.delete("s0");
            pictures.remove("s0");
        }
        for (name, due) in &pictures {
            prop_assert_eq!(&picture(&bed.tree(name)), due);
            let verified = bed.verify(name).unwrap();
            prop_assert_eq!((verified.damaged, verified.first), (0, vec![]));
            let to = format!("restored-{name}");
            bed.restore(name, &to).unwrap();
            let root = kmsfs::volume::host::HostDir::open(&bed.path(&to)).unwrap();
            prop_assert_eq!(&picture(&root), due);
            // It is a volume, closed cleanly, in which everything opens.
            let deep = kmsfs::snapshot::verify::verify_deep(root.clone(), bed.kms.clone(), bed.kms.clone(), &|_| ());
            prop_assert_eq!(deep.unwrap().damaged, 0);
            open_volume(root, &bed.kms, false).close().unwrap();
        }
        for name in pictures.keys() {
            bed.delete(name);
        }
        bed.delete("whole");
        prop_assert_eq!(bed.depot.list("packs").unwrap(), Vec::<String>::new());
        prop_assert_eq!(bed.depot.list("snapshots").unwrap(), Vec::<String>::new());
    }

    /// The tree changes between the passes: the snapshot is of the hold, whatever the first pass saw.
    #[test]
    fn a_snapshot_of_a_volume_in_use_is_of_the_hold(before in vec(op(), 0..25), between in vec(op(), 0..15)) {
        let bed = Bed::new();
        change(&bed, &before);
        bed.create("old");
        let due = Rc::new(RefCell::new(BTreeMap::new()));
        let (bed_ref, seen) = (&bed, due.clone());
        let users = InUse::new(move || {
            change(bed_ref, &between);
            *seen.borrow_mut() = picture(&bed_ref.root());
        });
        bed.create_with(&users, &bed.options("new")).unwrap();
        prop_assert_eq!(&picture(&bed.tree("new")), &*due.borrow());
        prop_assert_eq!(bed.verify("new").unwrap().damaged, 0);
        bed.delete("old");
        bed.delete("new");
        prop_assert_eq!(bed.depot.list("packs").unwrap(), Vec::<String>::new());
    }
}

/// Files that were left alone are not opened: what cannot be read any more is still in the next snapshot.
#[test]
fn an_incremental_snapshot_reads_only_what_changed() {
    let bed = Bed::new();
    let volume = bed.volume();
    for n in 0..20 {
        put(&volume, &format!("f{n}"), &noise(n, 30_000));
    }
    volume.close().unwrap();
    // Times must be old enough that a change shows in them.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let first = bed.create("first");
    assert_eq!((first.descriptor.counts.files, first.descriptor.counts.bytes), (20, 600_000));
    let calls = bed.kms.calls();
    let volume = bed.volume();
    overwrite(&volume, "f3", 10_000, b"changed");
    put(&volume, "new", b"new");
    volume.close().unwrap();
    let opened = bed.kms.calls().decrypt - calls.decrypt;
    let second = bed.create("second");
    assert_eq!(second.descriptor.parent.as_ref().unwrap().name, "first");
    // f3 has a header and eight blocks, new a header and one.
    assert_eq!(second.descriptor.counts.new_pages, 9 + 2);
    let calls = bed.kms.calls().decrypt - calls.decrypt - opened;
    assert!(calls <= 2, "{calls} Decrypts: the volume key and the parent's manifest are enough");
    assert_eq!(second.descriptor.keys.len(), 1);
    assert_eq!(second.descriptor.keys[0].files, 21);
    // The parent is not needed, only its packs.
    bed.delete("first");
    assert_eq!(bed.verify("second").unwrap().damaged, 0);
    let root = bed.tree("second");
    let volume = open_volume(root, &bed.kms, true);
    let mut due = noise(3, 30_000);
    due[10_000..10_007].copy_from_slice(b"changed");
    assert_eq!(get(&volume, "f3"), due);
    assert_eq!(get(&volume, "f4"), noise(4, 30_000));
    let did = |action| {
        let events = bed.kms.events();
        events
            .iter()
            .filter(|(e, _)| matches!(e, FileEvent::Snapshot { action: a, .. } if *a == action))
            .count()
    };
    assert_eq!(
        (did(SnapshotAction::Create), did(SnapshotAction::Delete), did(SnapshotAction::Restore)),
        (2, 1, 0)
    );
}

/// Of a pack that no file needs any more a later snapshot keeps the place, and not the pack.
#[test]
fn a_pack_that_nothing_needs_goes_though_its_place_stays() {
    let bed = Bed::new();
    let volume = bed.volume();
    for n in 0..8 {
        put(&volume, &format!("f{n}"), &noise(n, 30_000 + 4_096 * n as usize));
    }
    volume.close().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let first = bed.create("first").descriptor;
    let opened = bed.open("first").unwrap();
    let (mut entries, mut sizes) = (opened.manifest.entries().unwrap(), Vec::new());
    while let Some(entry) = entries.next_entry().unwrap() {
        sizes.extend(entry.stored.as_ref().map(|_| entry.meta.size));
    }
    // The file that stands behind all others: each has its own size.
    let behind = *sizes.last().unwrap();
    let last = sizes.iter().filter(|size| **size < behind).count();
    let volume = bed.volume();
    for n in (0..8).filter(|n| *n != last) {
        volume.unlink(ROOT, format!("f{n}").as_bytes()).unwrap();
    }
    volume.close().unwrap();
    let second = bed.create("second").descriptor;
    assert_eq!(second.counts.new_pages, 0);
    assert_eq!(second.packs.len(), first.packs.len());
    assert_eq!(second.packs[0].pages, 0);
    let standing = second.standing_packs().count();
    assert!((1..=2).contains(&standing), "{standing} packs");
    assert_eq!(bed.delete("first").packs as usize, first.packs.len() - standing);
    assert_eq!(bed.verify("second").unwrap().damaged, 0);
    let volume = bed.volume();
    put(&volume, "new", b"new");
    volume.close().unwrap();
    let third = bed.create("third").descriptor;
    let places = if 2 * standing < second.packs.len() { standing } else { second.packs.len() };
    assert_eq!(third.packs.len(), places + 1, "it begins anew where most places are empty");
    assert_eq!((third.counts.files, third.counts.new_pages), (2, 2));
    bed.delete("second");
    assert_eq!(bed.verify("third").unwrap().damaged, 0);
}

#[test]
fn a_snapshot_as_a_directory_is_only_read() {
    let bed = Bed::new();
    let volume = bed.volume();
    put(&volume, "f", b"text");
    volume.close().unwrap();
    bed.create("s");
    let volume = open_volume(bed.tree("s"), &bed.kms, true);
    assert_eq!(get(&volume, "f"), b"text");
    assert!(volume.mkdir(ME, ROOT, b"d", 0o700).is_err());
    let tree = bed.tree("s");
    let refused = |error: std::io::Result<()>| error.unwrap_err().raw_os_error();
    for error in [
        tree.mkdir(b"d", 0o700),
        tree.unlink(b"kmsfs.dir"),
        tree.symlink(b"a", b"b"),
        tree.rename(b"a", &*tree, b"b", RenameMode::Replace),
        tree.open_file(b"kmsfs.json", true).map(drop),
        tree.open_file(b"kmsfs.json", false).unwrap().set_len(0),
        tree.create_file(b"x", 0o600).map(drop),
    ] {
        assert_eq!(refused(error), Some(libc::EROFS));
    }
    let read_write = kmsfs::volume::VolumeOptions::default();
    assert!(Volume::open(tree, bed.kms.clone(), bed.kms.clone(), read_write).is_err());
}

#[test]
fn names_sizes_and_digests_are_listed() {
    let bed = Bed::new();
    let volume = bed.volume();
    let dir = volume.mkdir(ME, ROOT, b"dir", 0o700).unwrap().node;
    let long = "x".repeat(240);
    let (_, handle) = volume.create(ME, dir, long.as_bytes(), 0o600, WRITE).unwrap();
    volume.write(handle, 0, &noise(1, 5000), false).unwrap();
    volume.release(handle).unwrap();
    volume.close().unwrap();
    bed.create("s");
    let opened = bed.open("s").unwrap();
    let mut listed = Vec::new();
    kmsfs::snapshot::verify::list_files(&bed.tree("s"), &opened.volume, &mut |file| {
        listed.push((file.path, file.kind, file.size, file.digest.map(|d| d.len())));
        Ok(())
    })
    .unwrap();
    let file = (format!("/dir/{long}"), "file", 5000, Some(64));
    assert_eq!(listed, [("/dir".to_owned(), "directory", 0, None), file]);
}

#[test]
fn a_volume_in_use_or_left_by_a_crash_is_refused() {
    let bed = Bed::new();
    let unmounted = || Unmounted::new(&*bed.root()).unwrap();
    let volume = bed.volume();
    let busy = bed.create_with(&unmounted(), &bed.options("s"));
    assert!(matches!(busy, Err(SnapshotError::Volume(kmsfs::volume::VolumeError::InUse))));
    put(&volume, "f", b"x");
    drop(volume);
    let unclean = bed.create_with(&unmounted(), &bed.options("s"));
    assert!(matches!(unclean, Err(SnapshotError::Volume(kmsfs::volume::VolumeError::NotSettled))));
    assert_eq!(bed.depot.list("packs").unwrap(), Vec::<String>::new());
}
