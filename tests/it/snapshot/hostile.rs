//! Depots and snapshots as somebody made them who may write there, or holds a key of another account.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kmsfs::crypto::Secret;
use kmsfs::kms::KeyService;
use kmsfs::snapshot::copy::{self, From, Options, Report, Way};
use kmsfs::snapshot::create;
use kmsfs::snapshot::depot::{Depot, DirDepot, Sink, descriptor_path, manifest_path, pack_path};
use kmsfs::snapshot::descriptor::{Descriptor, Id, Origin};
use kmsfs::snapshot::dir::SnapshotDir;
use kmsfs::snapshot::manifest::{Entry, ManifestSink, Records};
use kmsfs::snapshot::{Opened, Result, Snapshot, SnapshotError, catalogue, restore, verify};
use kmsfs::volume::ROOT;
use kmsfs::volume::disk::Time;
use kmsfs::volume::epoch::Epoch;
use kmsfs::volume::header::WrappedKey;
use kmsfs::volume::host::HostDir;
use kmsfs::volume::keys::{VolumeKey, VolumeKeys, volume_context};
use rustix::process::Uid;

use super::super::fake::{FakeKms, KEY};
use super::bed::*;

fn there() -> Arc<FakeKms> {
    FakeKms::in_region("eu-west-1")
}

/// A depot that tells of what is asked of it, before it is done, and may refuse.
struct Watched<F> {
    inner: Arc<dyn Depot>,
    /// `create` or `len`, and the path.
    hook: F,
}

impl<F: Fn(&str, &str) -> Result<()> + Send + Sync> Depot for Watched<F> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn len(&self, path: &str) -> Result<u64> {
        (self.hook)("len", path)?;
        self.inner.len(path)
    }

    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read_at(path, offset, buf)
    }

    fn create(&self, path: &str) -> Result<Box<dyn Sink>> {
        (self.hook)("create", path)?;
        self.inner.create(path)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.list(prefix)
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.inner.delete(path)
    }

    fn sweep(&self) -> Result<()> {
        self.inner.sweep()
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }
}

/// As a full disk, or a kill, would end it.
fn gone() -> SnapshotError {
    SnapshotError::Depot { what: "writing", path: "x".into(), source: io::ErrorKind::StorageFull.into() }
}

fn copy_in(
    bed: &Bed,
    depot: Arc<dyn Depot>,
    name: &str,
    kms: &Arc<FakeKms>,
    to: &str,
    way: Way,
) -> Result<Report> {
    let from = From { depot: bed.depot.clone(), name: name.into(), service: bed.kms.clone() };
    let to = destination(depot, kms, to);
    let spool = HostDir::open(bed.temp.path()).unwrap();
    let options = Options { way, threads: 1, unit_pages: 8, spool: &*spool, progress: &|_, _| () };
    copy::copy(&from, &to, &options)
}

fn watched(bed: &Bed, hook: impl Fn(&str, &str) -> Result<()> + Send + Sync + 'static) -> Arc<dyn Depot> {
    Arc::new(Watched { inner: bed.depot.clone(), hook })
}

/// Wraps a volume key of a volume's.
type Wrap<'a> = dyn Fn(&[u8; 32], &[u8; 16]) -> Vec<WrappedKey> + 'a;

/// The draft of a copy that somebody made beforehand, with a volume key that he knows and that his own KMS key opens.
fn planted(bed: &Bed, name: &str, wrapped: &Wrap) {
    let old = bed.find("s").unwrap().descriptor;
    let (known, id) = ([7; 32], [8; 16]);
    let keys = VolumeKeys::derive(&VolumeKey(Secret::new(known)), id).unwrap();
    let origin = Origin {
        name: old.name.clone(),
        id: old.snapshot_id,
        region: old.region.clone(),
        account: old.account.clone(),
        encrypted_again: true,
    };
    let mut draft = Descriptor {
        name: name.to_owned(),
        snapshot_id: Id([5; 16]),
        volume_id: Id(id),
        region: "eu-west-1".into(),
        parent: None,
        copied_from: Some(origin),
        epoch: hex::encode(Epoch::first(Time { sec: 1, nsec: 0 }).encode(&keys)),
        packs: Vec::new(),
        keys: Vec::new(),
        volume_keys: Descriptor::seal_keys(&wrapped(&known, &id)),
        ..old
    };
    draft.sign(&keys).unwrap();
    bed.depot.put("snapshots/c/copy.json", &draft.encode().unwrap()).unwrap();
}

#[test]
fn a_copy_never_goes_on_with_a_volume_key_of_somebody_elses() {
    let bed = filled();
    bed.create("s");
    let kms = there();
    let theirs = "arn:aws:kms:eu-west-1:666666666666:key/theirs";
    let sealed = |arn: &str, key: &[u8; 32], id: &[u8; 16]| {
        let made = kms.encrypt(arn, key, &volume_context(id)).unwrap();
        WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext }
    };
    let ours = kms.arn(KEY);
    // The first names the copy's key and opens nothing.
    planted(&bed, "c", &|key, id| {
        vec![WrappedKey { key_arn: ours.clone(), ciphertext: vec![1; 40] }, sealed(theirs, key, id)]
    });
    let copied = copy_in(&bed, bed.depot.clone(), "s", &kms, "c", Way::EncryptAgain);
    assert!(matches!(copied, Err(SnapshotError::Refused(_))), "{copied:?}");
    planted(&bed, "c", &|key, id| vec![sealed(theirs, key, id)]);
    assert!(matches!(
        copy_in(&bed, bed.depot.clone(), "s", &kms, "c", Way::EncryptAgain),
        Err(SnapshotError::Refused(_))
    ));
    // A draft of another name, and one that is said to keep the old keys.
    planted(&bed, "d", &|key, id| vec![sealed(&ours, key, id)]);
    assert!(matches!(
        copy_in(&bed, bed.depot.clone(), "s", &kms, "c", Way::EncryptAgain),
        Err(SnapshotError::Refused(_))
    ));
    assert!(copy::abandon(&bed.depot, "c").unwrap());
    copy_in(&bed, bed.depot.clone(), "s", &kms, "c", Way::EncryptAgain).unwrap();
}

/// A unit that is done again replaces its packs: from then on the part of before must not stand.
#[test]
fn a_part_never_stands_for_packs_that_were_written_after_it() {
    let bed = filled();
    bed.create("s");
    let kms = there();
    let packs = || bed.depot.list("packs").unwrap();
    let before = packs();
    let cut = watched(&bed, |what, path| match (what, path) {
        ("create", "snapshots/c/manifest") => Err(gone()),
        _ => Ok(()),
    });
    copy_in(&bed, cut, "s", &kms, "c", Way::EncryptAgain).unwrap_err();
    for pack in packs().iter().filter(|pack| !before.contains(pack)) {
        fs::remove_file(bed.path("depot/packs").join(pack)).unwrap();
    }
    // The packs come again, but not the part.
    let cut = watched(&bed, |what, path| match what {
        "create" if path.starts_with("snapshots/c/part-") => Err(gone()),
        _ => Ok(()),
    });
    copy_in(&bed, cut, "s", &kms, "c", Way::EncryptAgain).unwrap_err();
    copy_in(&bed, bed.depot.clone(), "s", &kms, "c", Way::EncryptAgain).unwrap();
    let opened = bed.find("c").unwrap().open(&*kms).unwrap();
    let found = verify::verify(&opened, 2, &|_| ()).unwrap();
    assert_eq!((found.damaged, found.first), (0, vec![]));
}

/// Copies that keep the volume key read each other's parts: one that is put in another's place must not count.
#[test]
fn a_part_of_another_copy_never_gets_into_one() {
    let bed = filled();
    bed.create("old");
    let volume = bed.volume();
    overwrite(&volume, "f0", 0, &noise(99, 20_000));
    volume.close().unwrap();
    bed.create("s");
    let due = picture(&bed.tree("s"));
    let kms = there();
    let cut = watched(&bed, |what, path| match (what, path) {
        ("create", "snapshots/c-old/manifest") => Err(gone()),
        _ => Ok(()),
    });
    copy_in(&bed, cut, "old", &kms, "c-old", Way::Rewrap).unwrap_err();
    let dir = bed.path("depot/snapshots");
    let parts = bed.depot.list("snapshots/c-old").unwrap();
    let parts: Vec<String> = parts.into_iter().filter(|name| name.starts_with("part-")).collect();
    // When all units stand, and before the manifest is written out of the parts.
    let last = format!("snapshots/c/{}", parts.last().unwrap());
    let swapped = watched(&bed, move |what, path| {
        let stand = parts.iter().all(|part| dir.join("c").join(part).exists());
        if what == "len" && stand && path.ends_with("part-00000000") && path != last {
            for part in &parts {
                fs::copy(dir.join("c-old").join(part), dir.join("c").join(part)).unwrap();
            }
        }
        Ok(())
    });
    let copied = copy_in(&bed, swapped, "s", &kms, "c", Way::Rewrap);
    assert!(matches!(copied, Err(SnapshotError::Damaged(_))), "{copied:?}");
    copy_in(&bed, bed.depot.clone(), "s", &kms, "c", Way::Rewrap).unwrap();
    let tree = SnapshotDir::open(bed.find("c").unwrap().open(&*kms).unwrap()).unwrap();
    let shown = picture(&tree);
    assert_eq!(shown.len(), due.len());
    assert_eq!(get(&open_volume(tree, &kms, true), "f0"), noise(99, 20_000));
}

#[test]
fn links_in_a_depot_lead_nowhere() {
    let bed = filled();
    bed.create("s");
    let depot = bed.path("depot");
    // Another depot, which whoever writes to this one may not touch.
    let other = bed.path("other");
    let theirs = DirDepot::create(&other).unwrap();
    let pack = "packs/".to_owned() + &"ab".repeat(16);
    theirs.put(&pack, &[1; 4096]).unwrap();
    theirs.put("snapshots/good/snapshot.json", b"{}").unwrap();
    fs::write(other.join("snapshots/good/tmp.theirs"), b"x").unwrap();
    let before = walk(&other);

    symlink(other.join("nothing"), depot.join("lock.new")).unwrap();
    fs::rename(depot.join("lock.new"), depot.join("lock")).unwrap();
    assert!(bed.depot.lock().is_err());
    assert_eq!(walk(&other), before, "a lock was made elsewhere");
    fs::remove_file(depot.join("lock")).unwrap();

    symlink(other.join("snapshots/good"), depot.join("snapshots/link")).unwrap();
    let _ = bed.depot.sweep();
    assert_eq!(walk(&other), before, "another depot was swept");
    assert!(bed.depot.put("snapshots/link/manifest", b"x").is_err());
    assert!(bed.depot.get("snapshots/link/snapshot.json", 100).is_err());
    assert!(bed.depot.len("snapshots/link/snapshot.json").is_err());
    assert!(bed.depot.delete("snapshots/link/snapshot.json").is_err());
    assert_eq!(walk(&other), before);
    fs::remove_file(depot.join("snapshots/link")).unwrap();

    fs::rename(depot.join("packs"), depot.join("packs.old")).unwrap();
    symlink(other.join("packs"), depot.join("packs")).unwrap();
    assert!(catalogue::delete(&bed.depot, "s", &*bed.kms).is_err());
    assert_eq!(walk(&other), before, "packs of another depot went");
    fs::remove_file(depot.join("packs")).unwrap();
    fs::rename(depot.join("packs.old"), depot.join("packs")).unwrap();

    symlink(other.join("packs").join("ab".repeat(16)), depot.join("packs").join("cd".repeat(16))).unwrap();
    assert!(bed.depot.get(&("packs/".to_owned() + &"cd".repeat(16)), 5000).is_err());
    bed.depot.delete(&("packs/".to_owned() + &"cd".repeat(16))).unwrap();
    assert_eq!(walk(&other), before);
}

/// Everything below, with lengths.
fn walk(dir: &Path) -> Vec<(String, u64)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        out.push((path.display().to_string(), if stat.is_dir() { 0 } else { stat.len() }));
        if stat.is_dir() {
            out.extend(walk(&path));
        }
    }
    out.sort();
    out
}

#[test]
fn a_fifo_in_a_depot_keeps_nobody_waiting() {
    let bed = filled();
    bed.create("s");
    let path = bed.path("depot/snapshots/s/snapshot.json");
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let depot = bed.depot.clone();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(Snapshot::find(depot, "s").err().map(|e| e.to_string())));
    let found = receive.recv_timeout(Duration::from_secs(10)).expect("it waits for a writer");
    assert!(found.is_some());
}

/// A depot may be made in a directory that holds other things: nothing of them is rubbish.
#[test]
fn only_what_a_cut_command_left_is_swept() {
    let bed = filled();
    let depot = bed.path("depot");
    for own in ["tmp.notes", "tmp.", "tmp.0123456789abcdef"] {
        fs::write(depot.join(own), b"mine").unwrap();
    }
    fs::create_dir(depot.join("tmp.0123456789012345678901")).unwrap();
    fs::write(depot.join("tmp.0123456789-_2345678901"), b"rubbish").unwrap();
    bed.create("s");
    for own in ["tmp.notes", "tmp.", "tmp.0123456789abcdef", "tmp.0123456789012345678901"] {
        assert!(depot.join(own).exists(), "{own} is gone");
    }
    assert!(!depot.join("tmp.0123456789-_2345678901").exists());
}

/// A directory under a name that no snapshot can have may be one that was renamed: its packs stay.
#[test]
fn packs_of_a_snapshot_that_was_renamed_stay() {
    let bed = filled();
    bed.create("a");
    let snapshots = bed.path("depot/snapshots");
    for name in ["a (old)", ".a", "b"] {
        fs::rename(snapshots.join("a"), snapshots.join(name)).unwrap();
        let unmounted = kmsfs::snapshot::create::Unmounted::new(&*bed.root()).unwrap();
        bed.create_with(&unmounted, &bed.options("next")).unwrap();
        bed.delete("next");
        fs::rename(snapshots.join(name), snapshots.join("a")).unwrap();
        assert_eq!(bed.verify("a").unwrap().damaged, 0, "as {name}");
    }
}

/// A draft that cannot be read names packs that nobody knows: they stay, and all else goes on.
#[test]
fn a_damaged_draft_keeps_packs_and_stops_nobody() {
    let bed = filled();
    bed.create("s");
    let stray = "packs/".to_owned() + &"ab".repeat(16);
    bed.depot.put(&stray, &[1; 4096]).unwrap();
    bed.depot.put("snapshots/c/copy.json", b"{").unwrap();
    bed.create("t");
    bed.delete("t");
    assert!(bed.depot.len(&stray).is_ok());
    assert!(copy::abandon(&bed.depot, "c").unwrap());
    assert!(bed.depot.len(&stray).is_err());
    assert_eq!(bed.verify("s").unwrap().damaged, 0);
}

/// What only root may give away, a user keeps: without the rights that setuid would lend of him.
#[test]
fn who_restores_lends_nobody_his_rights() {
    let bed = filled();
    let files: Vec<PathBuf> = files_of(&bed.path("vault"));
    for file in &files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o6755)).unwrap();
    }
    bed.create("s");
    let owned = |to: &str| {
        let stats = files_of(&bed.path(to)).into_iter().map(|file| fs::metadata(file).unwrap());
        let mut found: Vec<_> = stats.map(|stat| (stat.uid(), stat.mode() & 0o7777)).collect();
        found.dedup();
        found
    };
    bed.restore("s", "root").unwrap();
    assert_eq!(owned("root"), [(0, 0o6755)]);
    // As another user, in a directory of his; the threads of the restore inherit it from this one.
    fs::set_permissions(bed.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(bed.path("user")).unwrap();
    for path in ["depot", "user"] {
        let chown = std::process::Command::new("chown").args(["-R", "65534"]).arg(bed.path(path)).status();
        assert!(chown.unwrap().success());
    }
    let opened = bed.open("s").unwrap();
    let target = HostDir::open(&bed.path("user")).unwrap();
    let restored = std::thread::scope(|scope| {
        let as_user = || {
            let user = Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(None::<Uid>, user, None::<Uid>).unwrap();
            restore::restore(&opened, &target, &*bed.kms, 2, &|_| ())
        };
        scope.spawn(as_user).join().unwrap()
    });
    assert!(restored.unwrap().owners_lost >= 6);
    assert_eq!(owned("user"), [(65534, 0o755)]);
    // Root goes on with what a user began.
    fs::remove_file(bed.path("user/kmsfs.json")).unwrap();
    fs::write(bed.path("user/.kmsfs/restoring"), opened.descriptor.snapshot_id.to_string()).unwrap();
    let restored = bed.restore("s", "user").unwrap();
    assert_eq!((restored.already, restored.owners_lost), (6, 0));
    assert_eq!(owned("user"), [(0, 0o6755)]);
}

fn files_of(volume: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.symlink_metadata().unwrap().is_file() && path.extension().is_none())
        .collect();
    files.sort();
    assert_eq!(files.len(), 6);
    files
}

/// The snapshot as somebody else might have made it who was let open the volume key.
fn forged(bed: &Bed, name: &str, change: &dyn Fn(&mut Entry)) {
    let Opened { mut descriptor, volume, manifest, .. } = bed.open(name).unwrap();
    let scratch = HostDir::open(bed.temp.path()).unwrap();
    let file = scratch.create_file(b"forged", 0o600).unwrap();
    let (sink, id) = ManifestSink::begin(file, &volume, &*bed.kms, KEY, 1).unwrap();
    let mut records = Records::new(sink, descriptor.snapshot_id).unwrap();
    let mut entries = manifest.entries().unwrap();
    while let Some(mut entry) = entries.next_entry().unwrap() {
        change(&mut entry);
        records.push(&entry).unwrap();
    }
    records.finish().unwrap().finish().unwrap();
    descriptor.manifest = id;
    descriptor.sign(&volume).unwrap();
    bed.depot.put(&manifest_path(name), &fs::read(bed.path("forged")).unwrap()).unwrap();
    bed.depot.put(&descriptor_path(name), &descriptor.encode().unwrap()).unwrap();
}

#[test]
fn a_forged_manifest_gives_no_capabilities() {
    let bed = filled();
    bed.create("s");
    forged(&bed, "s", &|entry| {
        if entry.stored.is_some() {
            entry.xattrs.push((b"trusted.evil".to_vec(), b"x".to_vec()));
        }
    });
    let restored = bed.restore("s", "t");
    assert!(matches!(restored, Err(SnapshotError::Damaged(_))), "{restored:?}");
    assert!(!bed.path("t/kmsfs.json").exists());
}

#[test]
fn a_manifest_that_is_damaged_or_gone_ends_with_code_7() {
    let bed = crate::mounted::bed::Bed::mounted();
    for n in 0..40 {
        fs::write(bed.plain(format!("f{n}")), noise(n, 5000)).unwrap();
    }
    bed.unmount();
    bed.run(["snapshot", "create", "vault", "--name", "s", "--to", "depot"]);
    let path = bed.dir().join("depot/snapshots/s/manifest");
    let good = fs::read(&path).unwrap();
    assert!(good.len() > 3 * 4096);
    let refused = |what: &str| {
        for verb in [&["verify"][..], &["inspect", "--files"], &["restore"]] {
            let args = [&["snapshot"][..], verb, &["s", "--in", "depot"]].concat();
            let args = if verb[0] == "restore" { [&args[..], &["target"]].concat() } else { args };
            let (code, text) = bed.refused_with(args);
            assert_eq!(code, 7, "{what}, {verb:?}: {text}");
        }
    };
    let mut bad = good.clone();
    bad[2 * 4096 + 100] ^= 1;
    fs::write(&path, &bad).unwrap();
    refused("changed");
    fs::write(&path, &good[..2 * 4096]).unwrap();
    refused("cut");
    fs::remove_file(&path).unwrap();
    refused("missing");
    fs::write(&path, &good).unwrap();
    let told = bed.run(["snapshot", "verify", "s", "--in", "depot"]);
    assert!(told.contains("opened by") && told.contains("arn:aws:kms:us-east-1:000000000000:key/"), "{told}");
    let told = bed.run(["snapshot", "restore", "s", "--in", "depot", "target", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["opened_by"].as_str().unwrap().starts_with("arn:") && told["files"] == 40, "{told}");
}

/// Whoever uses a volume decides how deep its trees are. A snapshot holds 4096 levels, and the stack of a thread far fewer calls.
#[test]
fn deep_trees_are_looked_through_on_a_small_stack() {
    let bed = filled();
    let volume = bed.volume();
    let mut dir = ROOT;
    for _ in 0..300 {
        dir = volume.mkdir(ME, dir, b"d", 0o755).unwrap().node;
    }
    let (_, handle) = volume.create(ME, dir, b"deep", 0o644, WRITE).unwrap();
    volume.write(handle, 0, b"content", false).unwrap();
    volume.release(handle).unwrap();
    volume.close().unwrap();
    bed.create("s");
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let (tree, kms, keys) = (bed.tree("s"), bed.kms.clone(), bed.open("s").unwrap().volume);
    let looked = small.spawn(move || {
        let deep = verify::verify_deep(tree.clone(), kms.clone(), kms, &|_| ()).unwrap();
        assert_eq!((deep.damaged, deep.files), (0, 7), "{:?}", deep.first);
        let mut told = Vec::new();
        verify::list_files(&tree, &keys, &mut |file| {
            told.push(file.path);
            Ok(())
        })
        .unwrap();
        told
    });
    let told = looked.unwrap().join().unwrap();
    assert_eq!(told.len(), 307);
    assert!(told.is_sorted() && told[299] == "/d".repeat(300) && told[300] == "/d".repeat(300) + "/deep");
}

/// Who writes to a depot can put a snapshot of his own there, authentic by a KMS key of his: that key is what tells.
#[test]
fn whose_key_opened_a_snapshot_is_told() {
    let bed = filled();
    bed.create("s");
    let Opened { mut descriptor, opened_by, volume, .. } = bed.open("s").unwrap();
    assert_eq!(opened_by, bed.kms.arn(KEY));
    // The names in the list are not authenticated, and the first opens nothing.
    let theirs = "arn:aws:kms:us-east-1:666666666666:key/theirs";
    let key = bed.kms.decrypt(
        None,
        &descriptor.wrapped_keys().unwrap()[0].ciphertext,
        &volume_context(&descriptor.volume_id.0),
    );
    let key = key.unwrap().plaintext;
    let made = bed.kms.encrypt(theirs, key.expose(), &volume_context(&descriptor.volume_id.0)).unwrap();
    let sealed = |key_arn: &str, ciphertext: Vec<u8>| WrappedKey { key_arn: key_arn.to_owned(), ciphertext };
    descriptor.volume_keys =
        Descriptor::seal_keys(&[sealed(&opened_by, vec![1; 40]), sealed(theirs, made.ciphertext)]);
    descriptor.verify(&volume).unwrap();
    bed.depot.put(&descriptor_path("s"), &descriptor.encode().unwrap()).unwrap();
    assert_eq!(bed.open("s").unwrap().opened_by, theirs);
}

/// The thread that walks a tree has a small stack too, and says so where no snapshot can be.
#[test]
fn a_deep_tree_is_taken_or_refused() {
    let bed = filled();
    let mut dir = bed.root();
    for levels in [4000, 200] {
        // As the backing has them: what is in them is of no interest.
        for _ in 0..levels {
            dir.mkdir(b"d", 0o700).unwrap();
            dir = dir.open_dir(b"d").unwrap();
        }
        let unmounted = kmsfs::snapshot::create::Unmounted::new(&*bed.root()).unwrap();
        match bed.create_with(&unmounted, &bed.options("s")) {
            Ok(_) if levels == 4000 => drop(bed.delete("s")),
            Err(SnapshotError::Refused(why)) if levels == 200 => {
                assert!(why.contains("levels deep"), "{why}")
            }
            other => panic!("{levels}: {other:?}"),
        }
    }
}

/// Blocks authenticate as their file's also where older ones stand in their place: only the digest tells.
#[test]
fn a_copy_holds_what_its_snapshot_captured() {
    let bed = filled();
    let create = |name: &str| {
        // All pages of a file in one pack.
        let options = create::Options { pack_pages: 1000, ..bed.options(name) };
        bed.create_with(&create::Unmounted::new(&*bed.root()).unwrap(), &options).unwrap();
    };
    create("old");
    let volume = bed.volume();
    overwrite(&volume, "f0", 0, &noise(99, 20_000));
    volume.close().unwrap();
    create("s");
    let stored = |name: &str| {
        let Opened { descriptor, manifest, .. } = bed.open(name).unwrap();
        let mut entries = manifest.entries().unwrap();
        let mut found = std::collections::BTreeMap::new();
        while let Some(entry) = entries.next_entry().unwrap() {
            if let Some(stored) = entry.stored {
                let at = |n: usize| {
                    let extent = &stored.extents[n];
                    (
                        bed.path("depot").join(pack_path(&descriptor.packs[extent.pack as usize].id.0)),
                        extent.pack_page,
                    )
                };
                found.insert(entry.name.clone(), (at(0), stored.digest));
            }
        }
        found
    };
    // The file that changed, with its first block of before: its second page.
    let (old, new) = (stored("old"), stored("s"));
    let changed: Vec<_> = new.iter().filter(|(name, (_, digest))| old[*name].1 != *digest).collect();
    let [(name, ((pack, page), _))] = changed[..] else { panic!("{} changed", changed.len()) };
    let page_at = |page: u64| ((page + 1) * 4096) as usize;
    let (before, before_at) = &old[name].0;
    let block = fs::read(before).unwrap()[page_at(*before_at)..][..4096].to_vec();
    let good = fs::read(pack).unwrap();
    // That, and a header of zeros, which would make the file an empty one.
    for (at, other) in [(page_at(*page), block), (page_at(*page) - 4096, vec![0; 4096])] {
        let mut bytes = good.clone();
        bytes[at..][..4096].copy_from_slice(&other);
        fs::write(pack, bytes).unwrap();
        assert_eq!(bed.verify("s").unwrap().damaged, 1);
        for way in [Way::EncryptAgain, Way::Rewrap] {
            let copied = copy_in(&bed, bed.depot.clone(), "s", &there(), "c", way);
            assert!(matches!(copied, Err(SnapshotError::Damaged(_))), "{way:?}: {copied:?}");
            assert!(copy::abandon(&bed.depot, "c").unwrap());
        }
    }
    fs::write(pack, good).unwrap();
    copy_in(&bed, bed.depot.clone(), "old", &there(), "c", Way::EncryptAgain).unwrap();
}

/// Whoever can write to the volume's directory can name a KMS key of his first: no snapshot comes to hang on it.
#[test]
fn a_manifest_comes_under_the_volumes_own_key_alone() {
    let bed = filled();
    let path = bed.path("vault/kmsfs.json");
    let good = fs::read_to_string(&path).unwrap();
    let mut text: serde_json::Value = serde_json::from_str(&good).unwrap();
    let theirs = serde_json::json!({ "key_arn": bed.kms.arn("theirs"), "ciphertext": "AAAA" });
    text["volume_keys"].as_array_mut().unwrap().insert(0, theirs);
    fs::write(&path, text.to_string()).unwrap();
    let unmounted = create::Unmounted::new(&*bed.root()).unwrap();
    let created = bed.create_with(&unmounted, &bed.options("s"));
    assert!(created.is_err(), "{created:?}");
    assert!(bed.list().is_empty());
    fs::write(&path, good).unwrap();
    bed.create("s");
}
