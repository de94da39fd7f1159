//! Deciding at open(): leases, what is recorded, what a withdrawal does, and who may use a volume at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kmsfs::kms::{FileEvent, KeyState, KmsErrorKind};
use kmsfs::volume::disk::{Kind, RenameMode, XattrMode};
use kmsfs::volume::host::HostDir;
use kmsfs::volume::{Caller, Envelope, NodeId, ROOT, SetAttr, Volume, VolumeError, VolumeOptions};

use super::fake::{FakeKms, KEY};
use super::handles::{READ, READ_WRITE};

const ME: Caller = Caller { uid: 1000, gid: 1000 };

struct Bed {
    dir: tempfile::TempDir,
    kms: Arc<FakeKms>,
}

impl Bed {
    fn new() -> Self {
        let (dir, kms) = (tempfile::tempdir().unwrap(), FakeKms::new());
        Volume::init(&*HostDir::open(dir.path()).unwrap(), &*kms, KEY).unwrap();
        Self { dir, kms }
    }

    fn try_open(&self, options: VolumeOptions) -> Result<Volume, VolumeError> {
        open_at(self.dir.path(), &self.kms, options)
    }

    fn open(&self) -> Volume {
        // Without a pool the calls can be counted.
        self.try_open(VolumeOptions { pool: 0, ..VolumeOptions::default() }).unwrap()
    }

    fn opens(&self) -> usize {
        self.kms.events().iter().filter(|(e, _)| matches!(e, FileEvent::OpenFile { .. })).count()
    }
}

fn open_at(dir: &Path, kms: &Arc<FakeKms>, options: VolumeOptions) -> Result<Volume, VolumeError> {
    Volume::open(HostDir::open(dir).unwrap(), kms.clone(), kms.clone(), options)
}

fn put(volume: &Volume, name: &[u8], data: &[u8]) -> NodeId {
    let (attr, handle) = volume.create(ME, ROOT, name, 0o644, READ_WRITE).unwrap();
    volume.write(handle, 0, data, false).unwrap();
    volume.release(handle).unwrap();
    attr.node
}

fn read(volume: &Volume, node: NodeId) -> Result<Vec<u8>, VolumeError> {
    let handle = volume.open_file(ME, node, READ)?;
    let mut out = vec![0; 100_000];
    let read = volume.read(handle, 0, &mut out);
    volume.release(handle)?;
    out.truncate(read?);
    Ok(out)
}

fn refused_by(result: Result<impl Sized, VolumeError>) -> Option<KmsErrorKind> {
    match result.err()? {
        VolumeError::Key(error) => Some(error.kind),
        _ => None,
    }
}

#[test]
fn a_lease_spares_the_key_service_and_is_recorded() {
    let bed = Bed::new();
    let volume = bed.open();
    let node = put(&volume, b"a", b"text");
    let made = bed.kms.calls();
    assert_eq!(read(&volume, node).unwrap(), b"text");
    assert_eq!(read(&volume, node).unwrap(), b"text");
    assert_eq!(bed.kms.calls(), made, "the key is leased since the file was made");
    assert_eq!(bed.opens(), 2);
    let event = bed.kms.events().into_iter().find(|(e, _)| matches!(e, FileEvent::OpenFile { .. })).unwrap();
    assert!(
        matches!(event, (FileEvent::OpenFile { uid: 1000, ref key_arn, .. }, false) if *key_arn == bed.kms.arn(KEY))
    );
}

#[test]
fn without_leases_every_open_asks() {
    let bed = Bed::new();
    let options = VolumeOptions { lease: Duration::ZERO, pool: 0, ..VolumeOptions::default() };
    let volume = bed.try_open(options).unwrap();
    let node = put(&volume, b"a", b"text");
    let before = bed.kms.calls().decrypt;
    for _ in 0..3 {
        read(&volume, node).unwrap();
    }
    assert_eq!(bed.kms.calls().decrypt - before, 3);
    assert_eq!(bed.opens(), 0);
}

#[test]
fn a_file_that_is_open_already_is_decided_about_again() {
    let bed = Bed::new();
    let volume = bed.open();
    let node = put(&volume, b"a", b"text");
    let handle = volume.open_file(ME, node, READ).unwrap();
    bed.kms.set_state(KEY, KeyState::Disabled);
    assert_eq!(refused_by(volume.open_file(ME, node, READ)), Some(KmsErrorKind::Disabled));
    // The first handle keeps its authority until the withdrawal is noticed, by tick.
    volume.read(handle, 0, &mut [0; 4]).unwrap();
    assert_eq!(volume.tick(), [node]);
    let refused = volume.read(handle, 0, &mut [0; 4]);
    assert!(matches!(refused, Err(VolumeError::Revoked { .. })));
    assert!(volume.tick().is_empty());
    assert_eq!(refused_by(volume.create(ME, ROOT, b"new", 0o600, READ_WRITE)), Some(KmsErrorKind::Disabled));
    assert!(volume.lookup(ROOT, b"new").unwrap_err().is_not_found(), "nothing was created");
    // Names, modes and removals need no file's key.
    volume.rename(ROOT, b"a", ROOT, b"b", RenameMode::Replace).unwrap();
    volume.lookup(ROOT, b"b").unwrap();
    bed.kms.set_state(KEY, KeyState::Enabled);
    volume.tick();
    volume.read(handle, 0, &mut [0; 4]).unwrap();
    volume.unlink(ROOT, b"b").unwrap();
    volume.read(handle, 0, &mut [0; 4]).unwrap();
    volume.release(handle).unwrap();
}

#[test]
fn what_was_written_before_a_withdrawal_is_still_written_back() {
    let bed = Bed::new();
    let volume = bed.open();
    let (attr, handle) = volume.create(ME, ROOT, b"a", 0o644, READ_WRITE).unwrap();
    bed.kms.deny(true);
    assert_eq!(volume.tick(), [attr.node]);
    volume.write(handle, 0, b"dirty pages", false).unwrap();
    volume.release(handle).unwrap();
    assert_eq!(refused_by(read(&volume, attr.node)), Some(KmsErrorKind::AccessDenied));
    bed.kms.deny(false);
    assert_eq!(read(&volume, attr.node).unwrap(), b"dirty pages");
}

#[test]
fn waiting_data_keys_are_dropped_when_the_generation_moves() {
    let bed = Bed::new();
    let volume = bed.try_open(VolumeOptions { pool: 8, ..VolumeOptions::default() }).unwrap();
    put(&volume, b"a", b"");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    // One for the volume, one for the file, one that waits.
    while bed.kms.calls().generate_data_key < 3 {
        assert!(std::time::Instant::now() < deadline, "the pool fills");
        std::thread::sleep(Duration::from_millis(5));
    }
    bed.kms.deny(true);
    assert_eq!(
        refused_by(volume.create(ME, ROOT, b"b", 0o600, READ_WRITE)),
        Some(KmsErrorKind::AccessDenied)
    );
}

#[test]
fn one_mount_writes_or_many_read() {
    let bed = Bed::new();
    let reader = || VolumeOptions { read_only: true, ..VolumeOptions::default() };
    let volume = bed.open();
    let node = put(&volume, b"a", b"text");
    assert!(matches!(bed.try_open(VolumeOptions::default()), Err(VolumeError::InUse)));
    assert!(matches!(bed.try_open(reader()), Err(VolumeError::InUse)));
    volume.close().unwrap();
    volume.close().unwrap();
    let (one, two) = (bed.try_open(reader()).unwrap(), bed.try_open(reader()).unwrap());
    assert!(matches!(bed.try_open(VolumeOptions::default()), Err(VolumeError::InUse)));
    for volume in [&one, &two] {
        assert_eq!(volume.lookup(ROOT, b"a").unwrap().node, node);
        assert_eq!(read(volume, node).unwrap(), b"text");
        assert!(matches!(volume.open_file(ME, node, READ_WRITE), Err(VolumeError::ReadOnly)));
        assert!(matches!(volume.mkdir(ME, ROOT, b"d", 0o700), Err(VolumeError::ReadOnly)));
        assert!(matches!(volume.unlink(ROOT, b"a"), Err(VolumeError::ReadOnly)));
        let set = SetAttr { size: Some(0), ..SetAttr::default() };
        assert!(matches!(volume.setattr(ME, node, None, &set), Err(VolumeError::ReadOnly)));
    }
}

#[test]
fn a_volume_that_is_none_or_elsewhere_is_refused() {
    let bed = Bed::new();
    let again = Volume::init(&*HostDir::open(bed.dir.path()).unwrap(), &*bed.kms, KEY);
    assert!(matches!(again, Err(VolumeError::CannotInit(_))));
    let other = VolumeOptions { service_region: "eu-west-1".to_owned(), ..VolumeOptions::default() };
    assert!(matches!(bed.try_open(other), Err(VolumeError::WrongRegion { .. })));
    let empty = tempfile::tempdir().unwrap();
    let none = open_at(empty.path(), &bed.kms, VolumeOptions::default());
    assert!(matches!(none, Err(VolumeError::NotAVolume { .. })));
    std::fs::write(empty.path().join("x"), "x").unwrap();
    let full = Volume::init(&*HostDir::open(empty.path()).unwrap(), &*bed.kms, KEY);
    assert!(matches!(full, Err(VolumeError::CannotInit(_))));
    // A cut attempt to make a volume does not stand in the way of the next.
    let cut = tempfile::tempdir().unwrap();
    Volume::init(&*HostDir::open(cut.path()).unwrap(), &*bed.kms, KEY).unwrap();
    std::fs::remove_file(cut.path().join("kmsfs.json")).unwrap();
    Volume::init(&*HostDir::open(cut.path()).unwrap(), &*bed.kms, KEY).unwrap();
    open_at(cut.path(), &bed.kms, VolumeOptions::default()).unwrap().close().unwrap();
}

#[test]
fn a_missing_epoch_marker_is_refused_until_it_is_asked_for() {
    let bed = Bed::new();
    let volume = bed.open();
    let node = put(&volume, b"a", b"text");
    volume.close().unwrap();
    drop(volume);
    std::fs::remove_file(bed.dir.path().join(".kmsfs/epoch")).unwrap();
    assert!(matches!(bed.try_open(VolumeOptions::default()), Err(VolumeError::Epoch(_))));
    let options = VolumeOptions { reset_epoch: true, ..VolumeOptions::default() };
    let volume = bed.try_open(options).unwrap();
    volume.lookup(ROOT, b"a").unwrap();
    assert_eq!(read(&volume, node).unwrap(), b"text");
}

#[test]
fn damage_is_an_error_a_line_and_an_event() {
    let bed = Bed::new();
    let volume = bed.open();
    let node = put(&volume, b"a", &[7; 10_000]);
    put(&volume, b"b", &[8; 10_000]);
    volume.close().unwrap();
    drop(volume);
    let backing = std::fs::read_dir(bed.dir.path()).unwrap().map(|e| e.unwrap().path());
    for path in backing.filter(|p| p.is_file() && p.extension().is_none()) {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[2 * 4096 + 100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let volume = bed.open();
    volume.lookup(ROOT, b"a").unwrap();
    assert!(matches!(read(&volume, node), Err(VolumeError::Damaged { .. })));
    let handle = volume.open_file(ME, node, READ).unwrap();
    let mut first = [0; 4064];
    assert_eq!(volume.read(handle, 0, &mut first).unwrap(), 4064);
    assert_eq!(first, [7; 4064], "other blocks stay readable");
    assert!(
        bed.kms.events().iter().any(|(e, _)| matches!(e, FileEvent::DamagedFile { file_id: Some(_), .. }))
    );
    volume.release(handle).unwrap();
    // Cut: the length no longer fits the header.
    volume.close().unwrap();
}

#[test]
fn what_kmsfs_did_not_write_is_left_alone() {
    let bed = Bed::new();
    let volume = bed.open();
    put(&volume, b"mine", b"text");
    std::fs::write(bed.dir.path().join("Zm9yZWlnbg"), "foreign").unwrap();
    std::fs::write(bed.dir.path().join("READ.me"), "foreign").unwrap();
    let handle = volume.open_dir(ROOT).unwrap();
    let mut names = Vec::new();
    volume
        .read_dir(handle, 0, &mut |e| {
            names.push(e.name.clone());
            true
        })
        .unwrap();
    volume.release_dir(handle);
    assert_eq!(names, [&b"."[..], b"..", b"mine"]);
    volume.close().unwrap();
    assert_eq!(std::fs::read(bed.dir.path().join("READ.me")).unwrap(), b"foreign");
}

#[test]
fn a_damaged_directory_can_be_removed() {
    let bed = Bed::new();
    let volume = bed.open();
    let made = volume.mkdir(ME, ROOT, b"d", 0o755).unwrap().node;
    volume.forget(made, 1);
    volume.close().unwrap();
    drop(volume);
    let dir = std::fs::read_dir(bed.dir.path()).unwrap().map(|e| e.unwrap().path());
    let dir = dir.into_iter().find(|p| p.join("kmsfs.dir").is_symlink()).unwrap();
    std::fs::remove_file(dir.join("kmsfs.dir")).unwrap();
    let volume = bed.open();
    let node = volume.lookup(ROOT, b"d").unwrap().node;
    assert!(matches!(volume.open_dir(node), Err(VolumeError::Damaged { .. })));
    volume.rmdir(ROOT, b"d").unwrap();
    assert!(!dir.exists());
}

#[test]
fn an_envelope_tells_what_is_needed_and_nothing_secret() {
    let bed = Bed::new();
    let volume = bed.open();
    let node = put(&volume, b"a", b"text");
    let json = volume.get_xattr(node, kmsfs::volume::ENVELOPE).unwrap();
    let envelope: Envelope = serde_json::from_slice(&json).unwrap();
    assert_eq!(envelope, volume.inspect(node).unwrap());
    assert_eq!((envelope.size, envelope.sparse), (4, false));
    assert_eq!(envelope.data_keys[0].key_arn, bed.kms.arn(KEY));
    assert_eq!(envelope.encryption_context["kmsfs:file"], envelope.file_id);
    let refused = volume.set_xattr(node, kmsfs::volume::ENVELOPE, b"", XattrMode::Any);
    assert!(matches!(refused, Err(VolumeError::NotPermitted(_))));
    assert!(matches!(volume.inspect(ROOT), Err(VolumeError::IsDirectory)));
}

#[test]
fn suid_goes_when_somebody_writes_or_truncates() {
    let bed = Bed::new();
    let volume = bed.open();
    let perm = |node| volume.getattr(node, None).unwrap().stat.perm;
    let set_perm = |node, perm| {
        let change = kmsfs::volume::disk::Change { perm: Some(perm), ..Default::default() };
        volume.setattr(ME, node, None, &SetAttr { change, ..SetAttr::default() }).unwrap();
    };
    let node = put(&volume, b"a", b"text");
    set_perm(node, 0o6755);
    let handle = volume.open_file(ME, node, READ_WRITE).unwrap();
    volume.write(handle, 0, b"T", false).unwrap();
    assert_eq!(perm(node), 0o6755, "who may keep it keeps it");
    volume.write(handle, 0, b"T", true).unwrap();
    assert_eq!(perm(node), 0o755);
    set_perm(node, 0o6745);
    volume.release(handle).unwrap();
    let set = SetAttr { size: Some(1), kill_priv: true, ..SetAttr::default() };
    volume.setattr(ME, node, None, &set).unwrap();
    assert_eq!(perm(node), 0o2745, "sgid without group execute means something else");
}

#[test]
fn a_number_that_is_given_again_has_another_generation() {
    let bed = Bed::new();
    let volume = bed.open();
    let first = {
        let (attr, handle) = volume.create(ME, ROOT, b"a", 0o644, READ_WRITE).unwrap();
        volume.release(handle).unwrap();
        attr
    };
    volume.unlink(ROOT, b"a").unwrap();
    // tmpfs and ext4 differ in whether they do; where they do not, there is nothing to tell apart.
    let second = volume.mknod(ME, ROOT, b"b", Kind::File, 0o644, 0).unwrap();
    assert!(second.node != first.node || second.generation != first.generation);
    // The kernel forgets the first one late; the second stays known.
    volume.forget(first.node, 1);
    assert!(volume.getattr(second.node, None).is_ok());
}

#[test]
fn open_files_keep_their_content_when_their_name_goes() {
    let bed = Bed::new();
    let volume = bed.open();
    let (attr, handle) = volume.create(ME, ROOT, b"a", 0o644, READ_WRITE).unwrap();
    volume.write(handle, 0, b"text", false).unwrap();
    volume.unlink(ROOT, b"a").unwrap();
    volume.write(handle, 4, b" goes on", false).unwrap();
    assert_eq!(volume.getattr(attr.node, Some(handle)).unwrap().stat.size, 12);
    let mut out = [0; 12];
    assert_eq!(volume.read(handle, 0, &mut out).unwrap(), 12);
    assert_eq!(&out, b"text goes on");
    volume.release(handle).unwrap();
    volume.forget(attr.node, 1);
    assert!(matches!(volume.getattr(attr.node, None), Err(VolumeError::Stale)));
    assert_eq!(volume.status().nodes, 1);
}

#[test]
fn few_open_directories_serve_a_deep_tree() {
    let bed = Bed::new();
    let options = VolumeOptions { max_open_dirs: 2, pool: 0, ..VolumeOptions::default() };
    let volume = bed.try_open(options).unwrap();
    let mut nodes = vec![ROOT];
    for depth in 0..30 {
        nodes.push(volume.mkdir(ME, nodes[depth], b"deeper", 0o755).unwrap().node);
    }
    for &node in nodes.iter().rev() {
        volume.mkdir(ME, node, b"side", 0o755).unwrap();
    }
    volume.rename(nodes[3], b"deeper", ROOT, b"moved", RenameMode::Replace).unwrap();
    for &node in &nodes {
        assert!(volume.lookup(node, b"side").is_ok());
    }
    volume.close().unwrap();
}
