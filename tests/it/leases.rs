//! What ends a lease where nothing tells of changes in the key service, as at AWS KMS: the mount's own shredding and changes of
//! wrapped keys. In each test a key is disabled that the lease was about, or the old header put back: a lease that stood would
//! still open the file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use kmsfs::kms::{FileEvent, KeyService, KeyState, KmsError, KmsErrorKind, Ledger};
use kmsfs::volume::edk::{self, Change};
use kmsfs::volume::host::HostDir;
use kmsfs::volume::recipients::{OtherRegions, Recipient};
use kmsfs::volume::{NodeId, ROOT, Volume, VolumeError, rewrap, shred};

use crate::fake::{FakeKms, KEY};
use crate::handles::{READ, READ_WRITE};
use crate::model::options;
use crate::model::run::CALLER;

/// A ledger without a generation.
struct Silent(Arc<FakeKms>);

impl Ledger for Silent {
    fn generation(&self) -> Result<Option<u64>, KmsError> {
        Ok(None)
    }

    fn record(&self, event: FileEvent, sync: bool) -> Result<(), KmsError> {
        self.0.record(event, sync)
    }
}

struct Fixture {
    temp: tempfile::TempDir,
    kms: Arc<FakeKms>,
    volume: Volume,
}

impl Fixture {
    fn new() -> Self {
        let (temp, kms) = (tempfile::tempdir().unwrap(), FakeKms::new());
        fs::create_dir(temp.path().join("vault")).unwrap();
        let dir = HostDir::open(&temp.path().join("vault")).unwrap();
        Volume::init(&*dir, &*kms, KEY).unwrap();
        let ledger = Arc::new(Silent(kms.clone()));
        let volume = Volume::open(dir, kms.clone(), ledger, options()).unwrap();
        Self { temp, kms, volume }
    }

    /// A closed file, with a lease on it.
    fn create(&self, parent: NodeId, name: &[u8]) -> NodeId {
        let (attr, handle) = self.volume.create(CALLER, parent, name, 0o600, READ_WRITE).unwrap();
        self.volume.write(handle, 0, b"content", false).unwrap();
        self.volume.release(handle).unwrap();
        attr.node
    }

    /// How often the key service was asked for an open; the kind of its refusal.
    fn opens(&self, node: NodeId) -> Result<u64, KmsErrorKind> {
        let before = self.kms.calls().decrypt;
        match self.volume.open_file(CALLER, node, READ) {
            Ok(handle) => self.volume.release(handle).unwrap(),
            Err(VolumeError::Key(refusal)) => return Err(refusal.kind),
            Err(error) => panic!("{error}"),
        }
        Ok(self.kms.calls().decrypt - before)
    }

    fn change(&self, change: &Change) -> edk::Report {
        let (here, nowhere) = (self.kms.clone() as Arc<dyn KeyService>, OtherRegions::default());
        let wish = edk::Options { keep_mtime: false, dry_run: false, threads: 1 };
        self.volume.change_recipients(&here, &nowhere, change, &wish, &|| true).unwrap()
    }

    /// The backing file of one in a directory, or in the root.
    fn backing(&self, path: &[&[u8]]) -> PathBuf {
        let plain: Vec<_> = path.iter().map(|name| name.to_vec()).collect();
        let mut backing = self.temp.path().join("vault");
        backing.extend(
            self.volume.stored_path(&plain).unwrap().iter().map(|name| str::from_utf8(name).unwrap()),
        );
        backing
    }
}

#[test]
fn a_lease_stands_as_long_as_nobody_here_changes_anything() {
    let fixture = Fixture::new();
    let file = fixture.create(ROOT, b"file");
    fixture.kms.set_state(KEY, KeyState::Disabled);
    fixture.volume.tick();
    assert_eq!(fixture.opens(file), Ok(0));
    fixture.volume.close().unwrap();
}

#[test]
fn rewrapping_ends_a_lease() {
    let fixture = Fixture::new();
    let file = fixture.create(ROOT, b"file");
    let wish = rewrap::Options {
        key_id: Some("alias/other".to_owned()),
        below: Vec::new(),
        change_service: false,
        keep_mtime: false,
        dry_run: false,
        threads: 1,
    };
    let here: Arc<dyn KeyService> = fixture.kms.clone();
    let report = fixture.volume.rewrap(&here, &|_| unreachable!("one region"), &wish, &|| true).unwrap();
    assert_eq!((report.rewrapped, report.failed.count), (1, 0));
    fixture.kms.set_state("alias/other", KeyState::Disabled);
    assert_eq!(fixture.opens(file), Err(KmsErrorKind::Disabled));
    fixture.kms.set_state("alias/other", KeyState::Enabled);
    assert_eq!((fixture.opens(file), fixture.opens(file)), (Ok(1), Ok(0)));
    fixture.volume.close().unwrap();
}

#[test]
fn a_lease_that_a_recipient_gave_ends_with_him_and_not_when_he_comes() {
    let fixture = Fixture::new();
    let file = fixture.create(ROOT, b"file");
    let open = fixture.create(ROOT, b"open");
    let handle = fixture.volume.open_file(CALLER, open, READ).unwrap();
    let second = fixture.kms.arn("alias/second");
    assert_eq!(fixture.change(&Change::Add(Recipient::kms(second.clone()))).changed, 2);
    assert_eq!((fixture.opens(file), fixture.opens(open)), (Ok(0), Ok(0)));
    assert_eq!(fixture.change(&Change::Remove(second)).changed, 2);
    fixture.kms.set_state(KEY, KeyState::Disabled);
    for node in [file, open] {
        assert_eq!(fixture.opens(node), Err(KmsErrorKind::Disabled));
    }
    // Who has it open keeps what he was given.
    assert_eq!(fixture.volume.read(handle, 0, &mut [0; 7]).unwrap(), 7);
    fixture.volume.release(handle).unwrap();
    fixture.volume.close().unwrap();
}

/// Each file keeps a name, under which its header is put back as somebody may who has a copy.
#[test]
fn shredding_ends_leases() {
    let fixture = Fixture::new();
    let volume = &fixture.volume;
    let tree = volume.mkdir(CALLER, ROOT, b"tree", 0o700).unwrap().node;
    let alone = fixture.create(ROOT, b"alone");
    let closed = fixture.create(tree, b"closed");
    let open = fixture.create(tree, b"open");
    let kept = fixture.create(ROOT, b"kept");
    let kept_names = [(alone, b"a"), (closed, b"b"), (open, b"c")];
    let backing: Vec<_> = kept_names
        .iter()
        .map(|(node, name)| {
            volume.link(*node, ROOT, *name).unwrap();
            fixture.backing(&[*name])
        })
        .collect();
    let headers: Vec<_> = backing.iter().map(|path| fs::read(path).unwrap()[..4096].to_vec()).collect();
    let handle = volume.open_file(CALLER, open, READ).unwrap();
    let wish = shred::Options { hard_links: true, threads: 1, uid: 1000 };
    for (name, files) in [(&b"alone"[..], 1), (b"tree", 2)] {
        let below = volume.stored_path(&[name.to_vec()]).unwrap();
        let report = volume.shred(&below, &wish, &|| true).0.unwrap();
        assert!(report.shredded == files && report.removed, "{report:?}");
    }
    volume.release(handle).unwrap();
    for (path, header) in backing.iter().zip(&headers) {
        assert_ne!(fs::read(path).unwrap()[..4096], header[..]);
        File::options().write(true).open(path).unwrap().write_all_at(header, 0).unwrap();
    }
    fixture.kms.set_state(KEY, KeyState::Disabled);
    for (node, _) in kept_names {
        assert_eq!(fixture.opens(node), Err(KmsErrorKind::Disabled));
    }
    // Others stand.
    assert_eq!(fixture.opens(kept), Ok(0));
    fixture.kms.set_state(KEY, KeyState::Enabled);
    for (node, _) in kept_names {
        assert_eq!(fixture.opens(node), Ok(1));
    }
    volume.close().unwrap();
}
