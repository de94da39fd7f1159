//! Copies show what their snapshots show, under other keys, whichever way they are made and wherever they are cut.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmsfs::kms::KeyService;
use kmsfs::snapshot::SnapshotError;
use kmsfs::snapshot::copy::{self, From, Options, Report, Way};
use kmsfs::snapshot::dir::SnapshotDir;
use kmsfs::snapshot::verify;
use kmsfs::volume::descriptor::Descriptor;
use kmsfs::volume::disk::{Dir, Kind};
use kmsfs::volume::header::{Header, Page, WrappedKey, with_keys};
use kmsfs::volume::host::HostDir;
use kmsfs::volume::keys::file_context;
use kmsfs::volume::{NodeId, ROOT, Volume, VolumeError};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::fake::{FakeKms, KEY};
use super::bed::*;
use super::model::{change, op};

/// What a volume shows of a tree: attributes, content, and which names are one file.
fn shown(volume: &Volume) -> BTreeMap<String, String> {
    fn look(
        volume: &Volume,
        dir: NodeId,
        above: &str,
        firsts: &mut HashMap<NodeId, String>,
        out: &mut BTreeMap<String, String>,
    ) {
        let handle = volume.open_dir(dir).unwrap();
        let mut names = Vec::new();
        let keep = &mut |entry: &kmsfs::volume::DirEntry| {
            names.push(entry.name.clone());
            true
        };
        volume.read_dir(handle, 0, keep).unwrap();
        volume.release_dir(handle);
        names.retain(|name| name != b"." && name != b"..");
        names.sort();
        for name in names {
            let path = format!("{above}/{}", String::from_utf8(name.clone()).unwrap());
            let attr = volume.lookup(dir, &name).unwrap();
            let stat = attr.stat;
            let first = firsts.entry(attr.node).or_insert_with(|| path.clone()).clone();
            let mut text = format!("{:?} {:o} {:?} {first}", stat.kind, stat.perm, stat.mtime);
            match stat.kind {
                Kind::File => {
                    let content = read(volume, attr.node, stat.size);
                    text +=
                        &format!(" {} {}", stat.size, hex::encode(kmsfs::crypto::mac::sha256(&[&content])));
                }
                Kind::Symlink => text += &format!(" {:?}", volume.readlink(attr.node).unwrap()),
                _ => {}
            }
            if matches!(stat.kind, Kind::File | Kind::Directory) {
                let mut attrs = volume.list_xattr(attr.node).unwrap();
                attrs.sort();
                for attr_name in attrs {
                    text += &format!(" {:?}", (volume.get_xattr(attr.node, &attr_name).unwrap(), &attr_name));
                }
            }
            out.insert(path.clone(), text);
            if stat.kind == Kind::Directory {
                look(volume, attr.node, &path, firsts, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    look(volume, ROOT, "", &mut HashMap::new(), &mut out);
    out
}

fn read(volume: &Volume, node: NodeId, size: u64) -> Vec<u8> {
    let handle = volume.open_file(ME, node, READ).unwrap();
    let mut content = vec![0; size as usize];
    assert_eq!(volume.read(handle, 0, &mut content).unwrap(), content.len());
    volume.release(handle).unwrap();
    content
}

/// A key service of another region, in which the bed's keys are unknown.
fn there() -> Arc<FakeKms> {
    FakeKms::in_region("eu-west-1")
}

fn copy_to(
    bed: &Bed,
    name: &str,
    kms: &Arc<FakeKms>,
    to: &str,
    way: Way,
    pages: u64,
) -> Result<Report, SnapshotError> {
    copy_told(bed, name, kms, to, way, pages, &|_, _| ())
}

fn copy_told(
    bed: &Bed,
    name: &str,
    kms: &Arc<FakeKms>,
    to: &str,
    way: Way,
    pages: u64,
    progress: &(dyn Fn(u64, Option<u64>) + Sync),
) -> Result<Report, SnapshotError> {
    let from = From { depot: bed.depot.clone(), name: name.into(), service: bed.kms.clone() };
    let to = destination(bed.depot.clone(), kms, to);
    let spool = HostDir::open(bed.temp.path()).unwrap();
    let options = Options { way, threads: 3, unit_pages: pages, spool: &*spool, progress };
    copy::copy(&from, &to, &options)
}

fn tree(bed: &Bed, kms: &Arc<FakeKms>, name: &str) -> Arc<dyn Dir> {
    SnapshotDir::open(bed.find(name).unwrap().open(&**kms).unwrap()).unwrap()
}

fn show(bed: &Bed, kms: &Arc<FakeKms>, name: &str) -> BTreeMap<String, String> {
    let volume = open_volume(tree(bed, kms, name), kms, true);
    let picture = shown(&volume);
    volume.close().unwrap();
    picture
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_shows_what_its_snapshot_shows(
        before in vec(op(), 0..30),
        after in vec(op(), 0..15),
        pages in 1..60u64,
        again: bool,
    ) {
        let bed = Bed::new();
        change(&bed, &before);
        bed.create("first");
        change(&bed, &after);
        // An incremental one, whose pages stand in packs of both.
        let old = bed.create("s").descriptor;
        let due = show(&bed, &bed.kms, "s");
        let way = if again { Way::EncryptAgain } else { Way::Rewrap };
        let kms = there();
        let report = copy_to(&bed, "s", &kms, "c", way, pages).unwrap();
        prop_assert_eq!((report.stood, report.left_out), (0, 0));
        prop_assert_eq!(report.files, old.counts.files);
        bed.delete("first");
        bed.delete("s");
        prop_assert_eq!(&show(&bed, &kms, "c"), &due);
        let opened = bed.find("c").unwrap().open(&*kms).unwrap();
        prop_assert_eq!(opened.descriptor.volume_id == old.volume_id, !again);
        prop_assert_eq!(&opened.descriptor.counts.files, &old.counts.files);
        let verified = verify::verify(&opened, 2, &|_| ()).unwrap();
        prop_assert_eq!((verified.damaged, verified.first), (0, vec![]));
        let deep = verify::verify_deep(tree(&bed, &kms, "c"), kms.clone(), kms.clone(), &|_| ());
        prop_assert_eq!(deep.unwrap().damaged, 0);
        // The key service of the old one knows none of its keys.
        prop_assert!(bed.find("c").unwrap().open(&*bed.kms).is_err());
        bed.delete("c");
        prop_assert_eq!(bed.depot.list("packs").unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_copy_goes_on_behind_what_stands() {
    let bed = Bed::new();
    let volume = bed.volume();
    for n in 0..40 {
        put(&volume, &format!("f{n}"), &noise(n, 30_000));
    }
    volume.close().unwrap();
    bed.create("s");
    let due = show(&bed, &bed.kms, "s");
    let kms = there();
    // The key service goes away in the middle.
    let seen = AtomicUsize::new(0);
    let cut = copy_told(&bed, "s", &kms, "c", Way::EncryptAgain, 16, &|_, _| {
        if seen.fetch_add(1, Ordering::Relaxed) == 10 {
            kms.deny(true);
        }
    });
    assert!(
        matches!(cut, Err(SnapshotError::Key(_) | SnapshotError::Volume(VolumeError::Key(_)))),
        "{cut:?}"
    );
    kms.deny(false);
    let parts =
        bed.depot.list("snapshots/c").unwrap().iter().filter(|name| name.starts_with("part-")).count();
    assert!(parts > 0, "nothing stands");
    assert!(bed.list().iter().all(|s| s.name != "c"));
    // Deleting and taking others meanwhile sweeps nothing of it.
    bed.create("other");
    bed.delete("other");
    // A part that was changed does not stand.
    let names = bed.depot.list("snapshots/c").unwrap();
    let part = format!("snapshots/c/{}", names.iter().find(|name| name.starts_with("part-")).unwrap());
    let mut bytes = bed.depot.get(&part, 1 << 20).unwrap();
    bytes[5000] ^= 1;
    bed.depot.put(&part, &bytes).unwrap();
    let report = copy_to(&bed, "s", &kms, "c", Way::EncryptAgain, 16).unwrap();
    assert_eq!(report.stood, parts - 1);
    assert_eq!(show(&bed, &kms, "c"), due);
    assert!(copy::abandon(&bed.depot, "d").is_ok_and(|there| !there));
}

/// Whoever may encrypt under a key and can write to the volume's directory can put wrapped keys before a file's own.
#[test]
fn a_wrapped_key_that_is_none_of_the_files_is_passed_over_in_a_copy() {
    let bed = filled();
    let volume_id = Descriptor::read(&*bed.root()).unwrap().id;
    let files = std::fs::read_dir(bed.path("vault")).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.is_file() && path.extension().is_none()) {
        let mut bytes = std::fs::read(&path).unwrap();
        let page: &Page = bytes[..4096].try_into().unwrap();
        let Header { file_id, keys, .. } = Header::parse(page).unwrap();
        let others = [&[7; 5][..], &[7; 32]].map(|plaintext| {
            let made = bed.kms.encrypt(KEY, plaintext, &file_context(&volume_id, &file_id)).unwrap();
            WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext }
        });
        let page = with_keys(page, &[&others[..], &keys].concat()).unwrap();
        bytes[..4096].copy_from_slice(&page[..]);
        std::fs::write(&path, bytes).unwrap();
    }
    bed.create("s");
    let kms = there();
    copy_to(&bed, "s", &kms, "c", Way::EncryptAgain, 100).unwrap();
    let copied = show(&bed, &kms, "c");
    assert_eq!((copied.len(), copied), (6, show(&bed, &bed.kms, "s")));
}
