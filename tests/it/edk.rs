//! Recipients of a volume's keys, against a model: whoever is one opens everything, whoever is not opens nothing.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kmsfs::crypto::asymmetric::{PairSpec, PrivateKey};
use kmsfs::kms::{KeyService, KeyState, KmsError, KmsErrorKind, Ledger};
use kmsfs::volume::breakglass::BreakGlass;
use kmsfs::volume::descriptor::Descriptor;
use kmsfs::volume::disk::Dir;
use kmsfs::volume::edk::{self, Change, Options, Report};
use kmsfs::volume::header::{self, WrappedKey};
use kmsfs::volume::host::HostDir;
use kmsfs::volume::keys::{file_context, volume_context};
use kmsfs::volume::recipients::{OtherRegions, Recipient};
use kmsfs::volume::{Caller, ROOT, Volume, VolumeError, VolumeOptions, rewrap};
use proptest::prelude::*;

use super::fake::{FakeKms, KEY};
use super::handles::{READ, READ_WRITE};

const ME: Caller = Caller { uid: 1000, gid: 1000 };
const OPTIONS: Options = Options { keep_mtime: false, dry_run: false, threads: 2 };

/// Two keys of which one is offline: making one takes its time.
fn pairs() -> &'static [Vec<u8>; 2] {
    static PAIRS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let make = || PrivateKey::generate(PairSpec::Rsa2048).unwrap().to_bytes().unwrap().expose().to_vec();
    PAIRS.get_or_init(|| [make(), make()])
}

fn pair(n: usize) -> PrivateKey {
    PrivateKey::from_bytes(PairSpec::Rsa2048, &pairs()[n]).unwrap()
}

struct Bed {
    dir: tempfile::TempDir,
    home: Arc<FakeKms>,
    europe: Arc<FakeKms>,
    files: u32,
}

impl Bed {
    fn new() -> Self {
        let (dir, home) = (tempfile::tempdir().unwrap(), FakeKms::new());
        Volume::init(&*HostDir::open(dir.path()).unwrap(), &*home, KEY).unwrap();
        Self { dir, home, europe: FakeKms::in_region("eu-west-1"), files: 0 }
    }

    fn root(&self) -> Arc<dyn Dir> {
        HostDir::open(self.dir.path()).unwrap()
    }

    fn regions(&self) -> OtherRegions {
        let europe = self.europe.clone();
        OtherRegions::new(move |region| match region {
            "eu-west-1" => Ok(europe.clone()),
            _ => Err(VolumeError::Unsupported("another region")),
        })
    }

    fn recipient(&self, n: usize) -> Recipient {
        match n {
            0 => Recipient::kms(self.home.arn("alias/second")),
            1 => Recipient::kms(self.europe.arn("alias/far")),
            2 => Recipient::rsa(pair(0).public_key().unwrap(), None).unwrap(),
            // The public key of a KMS key of the volume's own region, which no mount may use all the same.
            _ => Recipient::rsa(pair(1).public_key().unwrap(), Some(self.home.arn("alias/rsa"))).unwrap(),
        }
    }

    fn change(&self, change: &Change) -> Result<Report, VolumeError> {
        let here: Arc<dyn KeyService> = self.home.clone();
        let report = edk::change(&self.root(), &here, &self.regions(), change, &OPTIONS, &|| ())?;
        assert_eq!(report.failed.count, 0, "{report:?}");
        Ok(report)
    }

    fn rewrap(&self, key_id: &str) -> rewrap::Report {
        let here: Arc<dyn KeyService> = self.home.clone();
        rewrap::rewrap(&self.root(), &here, &nowhere, &to(key_id), &|| ()).unwrap()
    }

    /// The files in the backing.
    fn paths(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.metadata().unwrap().is_file());
        files.map(|entry| entry.path()).filter(|path| !path.ends_with("kmsfs.json")).collect()
    }

    fn mount(&self) -> Result<Volume, VolumeError> {
        let options = VolumeOptions { regions: self.regions(), pool: 3, ..VolumeOptions::default() };
        Volume::open(self.root(), self.home.clone(), self.home.clone(), options)
    }

    /// So many files open in a mount, and hold what they held.
    fn all_open(&self, files: u32) {
        let volume = self.mount().unwrap();
        for n in 0..files {
            read(&volume, n).unwrap();
        }
        volume.close().unwrap();
    }

    fn create(&mut self) -> Result<(), VolumeError> {
        let volume = self.mount()?;
        for _ in 0..2 {
            let name = format!("file {}", self.files);
            let made = volume.create(ME, ROOT, name.as_bytes(), 0o640, READ_WRITE);
            let Ok((_, handle)) = made else {
                volume.close()?;
                return made.map(drop);
            };
            volume.write(handle, 0, name.repeat(700).as_bytes(), false)?;
            volume.release(handle)?;
            self.files += 1;
        }
        volume.close()
    }

    /// How many files one recipient alone reads; None if not even the volume opens.
    fn opened_by(&self, n: usize) -> Option<u32> {
        let name = self.recipient(n).name;
        match n {
            0 => self.opened_with(self.home.clone(), &name),
            1 => self.opened_with(self.europe.clone(), &name),
            2 => self.opened_with(Arc::new(BreakGlass::new(pair(0), name.clone())), &name),
            _ => self.opened_with(Arc::new(BreakGlass::new(pair(1), name.clone())), &name),
        }
    }

    fn opened_with<K: KeyService + Ledger + 'static>(&self, service: Arc<K>, name: &str) -> Option<u32> {
        let options =
            VolumeOptions { read_only: true, only: Some(name.to_owned()), ..VolumeOptions::default() };
        let volume = Volume::open(self.root(), service.clone(), service, options).ok()?;
        Some((0..self.files).filter(|n| read(&volume, *n).is_ok()).count() as u32)
    }
}

fn nowhere(region: &str) -> Result<Arc<dyn KeyService>, VolumeError> {
    panic!("nobody has a key in {region:?}")
}

fn to(key_id: &str) -> rewrap::Options {
    rewrap::Options {
        key_id: Some(key_id.to_owned()),
        below: Vec::new(),
        change_service: false,
        keep_mtime: true,
        dry_run: false,
        threads: 1,
    }
}

/// Wrapped keys of the file with this backing.
fn keys_at(path: &Path) -> Vec<WrappedKey> {
    header::Header::parse(&std::fs::read(path).unwrap()[..4096]).unwrap().keys
}

/// What anybody can do who can write to the backing: other wrapped keys in a header.
fn put_keys(path: &Path, keys: &[WrappedKey]) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut page: Box<header::Page> = Box::new([0; 4096]);
    file.read_exact_at(&mut page[..], 0).unwrap();
    file.write_all_at(&header::with_keys(&page, keys).unwrap()[..], 0).unwrap();
}

fn read(volume: &Volume, n: u32) -> Result<(), VolumeError> {
    let name = format!("file {n}");
    let node = volume.lookup(ROOT, name.as_bytes()).unwrap().node;
    let handle = volume.open_file(ME, node, READ)?;
    let mut out = vec![0; 100_000];
    let len = volume.read(handle, 0, &mut out)?;
    assert_eq!(out[..len], *name.repeat(700).as_bytes());
    volume.release(handle)
}

#[derive(Debug, Clone)]
enum Op {
    Add(usize),
    Remove(usize),
    Create,
    Rewrap,
    /// Under the key of the recipient 0, who may be one or not.
    RewrapToRecipient,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..4usize).prop_map(Op::Add),
        2 => (0..4usize).prop_map(Op::Remove),
        2 => Just(Op::Create),
        1 => Just(Op::Rewrap),
        1 => Just(Op::RewrapToRecipient),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 10))]

    #[test]
    fn who_is_a_recipient_opens_all_and_who_is_not_nothing(ops in prop::collection::vec(op(), 1..9)) {
        let mut bed = Bed::new();
        // `own`: the volume's own key is that of the recipient 0.
        let (mut model, mut rewraps, mut own) = ([false; 4], 0, false);
        bed.create().unwrap();
        for op in ops {
            match op {
                Op::Add(0) if own => prop_assert!(bed.change(&Change::Add(bed.recipient(0))).is_err()),
                Op::Remove(0) if own => {
                    prop_assert!(bed.change(&Change::Remove(bed.recipient(0).name)).is_err());
                }
                Op::Add(n) => {
                    let done = bed.change(&Change::Add(bed.recipient(n)));
                    if !model[n] && model.iter().filter(|there| **there).count() == 3 {
                        prop_assert!(done.is_err());
                    } else {
                        prop_assert_eq!(done.unwrap().changed, if model[n] { 0 } else { bed.files.into() });
                        model[n] = true;
                    }
                }
                Op::Remove(n) => {
                    let done = bed.change(&Change::Remove(bed.recipient(n).name)).unwrap();
                    prop_assert_eq!(done.changed, if model[n] { bed.files.into() } else { 0 });
                    model[n] = false;
                }
                Op::Create => bed.create().unwrap(),
                Op::Rewrap => {
                    rewraps += 1;
                    bed.rewrap(&format!("alias/own{rewraps}"));
                    own = false;
                }
                Op::RewrapToRecipient => {
                    bed.rewrap("alias/second");
                    (own, model[0]) = (true, false);
                }
            }
        }
        for (n, there) in model.into_iter().enumerate() {
            let opens = there || (n == 0 && own);
            prop_assert_eq!(bed.opened_by(n), opens.then_some(bed.files), "recipient {}", n);
        }
        let list = edk::list(&bed.root(), &[], 1).unwrap();
        prop_assert_eq!(list.recipients.len(), model.iter().filter(|there| **there).count());
        prop_assert_eq!(list.with_key, u64::from(bed.files));
    }
}

#[test]
fn a_mount_opens_with_the_keys_of_its_region_and_never_with_an_offline_one() {
    let mut bed = Bed::new();
    for n in [0, 1, 3] {
        bed.change(&Change::Add(bed.recipient(n))).unwrap();
    }
    bed.create().unwrap();
    bed.home.set_state(KEY, KeyState::Disabled);
    // The second key of the region opens it, but nothing new is made without the first.
    let before = (bed.home.calls().decrypt, bed.europe.calls().decrypt);
    let volume = bed.mount().unwrap();
    read(&volume, 0).unwrap();
    let refused = volume.create(ME, ROOT, b"new", 0o600, READ_WRITE).err();
    assert!(
        matches!(&refused, Some(VolumeError::Key(error)) if error.kind == KmsErrorKind::Disabled),
        "{refused:?}"
    );
    volume.close().unwrap();
    assert_eq!(bed.home.calls().decrypt - before.0, 4, "two keys each of the volume and the file");
    assert_eq!(bed.europe.calls().decrypt, before.1);
    bed.home.set_state("alias/second", KeyState::Disabled);
    assert!(
        matches!(bed.mount().err(), Some(VolumeError::Key(error)) if error.kind == KmsErrorKind::Disabled)
    );
}

#[test]
fn a_recipient_that_refuses_stops_new_files() {
    let mut bed = Bed::new();
    bed.change(&Change::Add(bed.recipient(1))).unwrap();
    bed.europe.set_state("alias/far", KeyState::Disabled);
    let refused = bed.create().unwrap_err();
    assert!(refused.to_string().contains("recipient arn:aws:kms:eu-west-1"), "{refused}");
    assert!(matches!(refused, VolumeError::Key(KmsError { kind: KmsErrorKind::Disabled, .. })));
    let list = edk::list(&bed.root(), &[], 1).unwrap();
    assert_eq!((list.with_key, list.empty), (0, 0), "nothing was created");
    // Nor is a recipient added who refuses.
    assert!(bed.change(&Change::Add(Recipient::kms(bed.europe.arn("alias/far")))).is_ok(), "it is one");
    bed.change(&Change::Remove(bed.recipient(1).name)).unwrap();
    let before = Descriptor::read(&*bed.root()).unwrap();
    assert!(bed.change(&Change::Add(bed.recipient(1))).is_err());
    assert_eq!(Descriptor::read(&*bed.root()).unwrap(), before);
    bed.create().unwrap();
}

#[test]
fn the_list_of_recipients_is_authenticated() {
    let mut bed = Bed::new();
    bed.change(&Change::Add(bed.recipient(2))).unwrap();
    bed.create().unwrap();
    let path = bed.dir.path().join("kmsfs.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let mine = Recipient::rsa(pair(1).public_key().unwrap(), None).unwrap();
    let spki = |key: &Recipient| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(key.public_key.as_ref().unwrap().der())
    };
    let refused = |text: String| {
        assert_ne!(text, good);
        std::fs::write(&path, text).unwrap();
        let error = bed.mount().map(drop).unwrap_err();
        assert!(matches!(error, VolumeError::Descriptor(_)), "{error}");
    };
    refused(good.replace(&spki(&bed.recipient(2)), &spki(&mine)));
    refused(good.replace(&bed.recipient(2).name, &mine.name));
    let mut json: serde_json::Value = serde_json::from_str(&good).unwrap();
    json["recipients"].as_array_mut().unwrap().clear();
    refused(json.to_string());
    json.as_object_mut().unwrap().remove("recipients");
    json["features"].as_array_mut().unwrap().clear();
    refused(json.to_string());
    std::fs::write(&path, &good).unwrap();
    bed.create().unwrap();
}

#[test]
fn a_name_that_opens_nothing_does_not_get_the_keys_of_new_files() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    // Whoever can write to the backing puts a key of his own first.
    let path = bed.dir.path().join("kmsfs.json");
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let own = serde_json::json!({ "key_arn": bed.home.arn("alias/mine"), "ciphertext": "AAAA" });
    json["volume_keys"].as_array_mut().unwrap().insert(0, own);
    std::fs::write(&path, json.to_string()).unwrap();
    let made = bed.home.calls().generate_data_key;
    assert!(matches!(bed.create(), Err(VolumeError::Key(_))));
    assert_eq!(bed.home.calls().generate_data_key, made);
}

impl Bed {
    /// What anybody can do who can write to the backing: a wrapped key put before those of the descriptor.
    fn put_first(&self, key_arn: &str) {
        let path = self.dir.path().join("kmsfs.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let key = serde_json::json!({ "key_arn": key_arn, "ciphertext": "AAAA" });
        json["volume_keys"].as_array_mut().unwrap().insert(0, key);
        std::fs::write(&path, json.to_string()).unwrap();
    }
}

#[test]
fn what_is_put_before_the_own_key_does_not_cost_the_volume() {
    let own = |bed: &Bed| bed.home.arn(KEY);
    let others: [fn(&Bed) -> String; 4] = [
        |bed| bed.home.arn("alias/mine"),
        |bed| bed.europe.arn("alias/mine"),
        |bed| bed.recipient(3).name,
        |bed| bed.home.arn(KEY),
    ];
    for (n, other) in others.iter().enumerate() {
        let mut bed = Bed::new();
        bed.create().unwrap();
        if n == 2 {
            bed.change(&Change::Add(bed.recipient(3))).unwrap();
        }
        let name = other(&bed);
        bed.put_first(&name);
        bed.change(&Change::Add(bed.recipient(2))).unwrap();
        assert_eq!(bed.opened_by(2), Some(2), "{n}");
        bed.change(&Change::Remove(bed.recipient(2).name)).unwrap_or_else(|e| panic!("{n}: {e}"));
        bed.change(&Change::Add(bed.recipient(1))).unwrap_or_else(|e| panic!("{n}: {e}"));
        assert_eq!(bed.opened_by(1), Some(2), "{n}");
        // What opens the volume stays, and so does what stands first, if that can be the own key.
        assert!(matches!(bed.change(&Change::Remove(own(&bed))), Err(VolumeError::Invalid(_))), "{n}");
        let volume = bed.mount().unwrap();
        read(&volume, 1).unwrap_or_else(|e| panic!("{n}: {e}"));
        volume.close().unwrap();
        // What was put there can go.
        if name != own(&bed) {
            bed.change(&Change::Remove(name)).unwrap();
            bed.create().unwrap();
            assert_eq!(bed.opened_by(1), Some(4));
        }
    }
}

#[test]
fn a_descriptor_that_is_full_of_other_keys_stays_as_it_is() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    bed.change(&Change::Add(bed.recipient(1))).unwrap();
    for name in ["alias/mine", "alias/too"] {
        bed.put_first(&bed.home.arn(name));
    }
    let before = std::fs::read(bed.dir.path().join("kmsfs.json")).unwrap();
    assert!(matches!(bed.change(&Change::Add(bed.recipient(2))), Err(VolumeError::Invalid(_))));
    assert_eq!(std::fs::read(bed.dir.path().join("kmsfs.json")).unwrap(), before);
    read(&bed.mount().unwrap(), 1).unwrap();
}

#[test]
fn a_recipient_that_alone_opens_is_not_removed() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    bed.change(&Change::Add(bed.recipient(0))).unwrap();
    // Damaged by whatever.
    let path = bed.dir.path().join("kmsfs.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["volume_keys"][0]["ciphertext"] = "AAAA".into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(matches!(bed.change(&Change::Remove(bed.recipient(0).name)), Err(VolumeError::Invalid(_))));
    // Nor is the own key: it may be refused for a while only.
    assert!(matches!(bed.change(&Change::Remove(bed.home.arn(KEY))), Err(VolumeError::Invalid(_))));
    read(&bed.mount().unwrap(), 1).unwrap();
}

#[test]
fn a_file_keeps_what_opens_it_before_a_name_that_does_not() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    bed.change(&Change::Add(bed.recipient(0))).unwrap();
    let before: Vec<_> = bed.paths().into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert_eq!(before.len(), 2);
    // As `rewrap` to a third key, cut before it came to the files; one has its own key's entry spoilt.
    bed.rewrap("alias/third");
    for (n, (bytes, path)) in before.iter().enumerate() {
        let mut keys = header::Header::parse(&bytes[..4096]).unwrap().keys;
        if n == 0 {
            keys[0].ciphertext = vec![0; 3];
        }
        put_keys(path, &keys);
    }
    let here: Arc<dyn KeyService> = bed.home.clone();
    let change = Change::Remove(bed.recipient(0).name);
    let report = edk::change(&bed.root(), &here, &bed.regions(), &change, &OPTIONS, &|| ()).unwrap();
    assert_eq!((report.changed, report.failed.count), (1, 1), "{report:?}");
    bed.all_open(2);
}

#[test]
fn the_own_key_is_not_removed_and_no_file_loses_its_last() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    assert!(matches!(bed.change(&Change::Remove(bed.home.arn(KEY))), Err(VolumeError::Invalid(_))));
    bed.change(&Change::Add(bed.recipient(0))).unwrap();
    assert!(matches!(
        bed.change(&Change::Add(Recipient::kms(bed.home.arn(KEY)))),
        Err(VolumeError::Invalid(_))
    ));
    // A mounted volume is left alone.
    let volume = bed.mount().unwrap();
    assert!(matches!(bed.change(&Change::Add(bed.recipient(2))), Err(VolumeError::InUse)));
    volume.close().unwrap();
    // Brought under what was a recipient, that is the own key, and stands in each file once.
    bed.rewrap("alias/second");
    bed.create().unwrap();
    let list = edk::list(&bed.root(), &[], 1).unwrap();
    assert_eq!(list.files.into_iter().collect::<Vec<_>>(), [(bed.home.arn("alias/second"), 4)]);
    assert!(matches!(bed.change(&Change::Remove(bed.recipient(0).name)), Err(VolumeError::Invalid(_))));
    for n in [1, 2, 3] {
        bed.change(&Change::Add(bed.recipient(n))).unwrap();
    }
    assert_eq!(bed.opened_by(3), Some(4));
    // Nor does a key that was the own one once, and a recipient's before, get anything again.
    bed.rewrap("alias/third");
    bed.create().unwrap();
    assert_eq!((bed.opened_by(0), bed.opened_by(3)), (None, Some(6)));
    assert!(!edk::list(&bed.root(), &[], 1).unwrap().files.contains_key(&bed.recipient(0).name));
}

#[test]
fn a_volume_whose_key_is_lost_comes_under_another() {
    let mut bed = Bed::new();
    for n in [1, 2] {
        bed.change(&Change::Add(bed.recipient(n))).unwrap();
    }
    bed.create().unwrap();
    bed.home.set_state(KEY, KeyState::PendingDeletion);
    assert!(bed.mount().is_err());
    let name = bed.recipient(2).name;
    let key = BreakGlass::new(pair(0), name.clone());
    let rescue = |key: &BreakGlass| {
        edk::rescue(&bed.root(), (key, &name), (&*bed.home, "alias/new"), &OPTIONS, &|| ())
    };
    assert!(rescue(&BreakGlass::new(pair(1), name.clone())).is_err(), "another private key");
    let report = rescue(&key).unwrap();
    assert_eq!((report.changed, report.failed.count), (2, 0));
    assert_eq!(rescue(&key).unwrap().already, 2);
    read(&bed.mount().unwrap(), 1).unwrap();
    let list = edk::list(&bed.root(), &[], 1).unwrap();
    let new = bed.home.arn("alias/new");
    assert!(list.volume_keys[0] == new && list.files[&new] == 2 && list.files.len() == 3, "{list:?}");
    for n in [1, 2] {
        assert_eq!(bed.opened_by(n), Some(2));
    }
    // Or under the recipient's own, who is none any more.
    let (far, here) = (bed.recipient(1).name, &*bed.europe);
    let moved = || edk::rescue(&bed.root(), (here, &far), (here, &far), &OPTIONS, &|| ()).unwrap();
    assert_eq!((moved().changed, moved().already), (2, 2));
    let list = edk::list(&bed.root(), &[], 1).unwrap();
    assert_eq!(list.recipients.iter().map(|r| &r.name).collect::<Vec<_>>(), [&name]);
    assert!(list.volume_keys[0] == far && list.files.len() == 2, "{list:?}");
    // Or under another one of that region, which it belongs to now.
    let europe =
        edk::rescue(&bed.root(), (&key, &name), (&*bed.europe, "alias/eu"), &OPTIONS, &|| ()).unwrap();
    assert_eq!(europe.changed, 2);
    let (service, options) = (bed.europe.clone(), VolumeOptions::default());
    read(&Volume::open(bed.root(), service.clone(), service, options).unwrap(), 0).unwrap();
    assert_eq!(Path::new(&Descriptor::read(&*bed.root()).unwrap().region), Path::new("eu-west-1"));
}

impl Bed {
    /// What somebody can make who may encrypt under a key: a wrapped key that opens, to what is not the file's.
    fn forged(&self, path: &Path, key_id: &str) -> WrappedKey {
        self.wrapped(path, key_id, &[7; 32])
    }

    fn wrapped(&self, path: &Path, key_id: &str, plaintext: &[u8]) -> WrappedKey {
        let header = header::Header::parse(&std::fs::read(path).unwrap()[..4096]).unwrap();
        let volume = Descriptor::read(&*self.root()).unwrap().id;
        let made = self.home.encrypt(key_id, plaintext, &file_context(&volume, &header.file_id)).unwrap();
        WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext }
    }
}

/// A forged entry that is rewrapped first would come under the name of the true one, or stand under it already: neither costs the
/// true one its place. Without a mount and inside one.
#[test]
fn rewrapping_drops_no_entry_for_one_that_did_not_open_to_the_files_key() {
    for online in [false, true] {
        let mut bed = Bed::new();
        for _ in 0..3 {
            bed.create().unwrap();
        }
        bed.change(&Change::Add(bed.recipient(0))).unwrap();
        let paths = bed.paths();
        assert_eq!(paths.len(), 6);
        let (own, second) = (bed.home.arn(KEY), bed.recipient(0).name);
        // No entry is lost here, and so none is opened.
        bed.rewrap("alias/other");
        bed.rewrap(KEY);
        let calls = bed.home.calls();
        bed.rewrap("alias/other");
        assert_eq!(
            (bed.home.calls().decrypt, bed.home.calls().re_encrypt),
            (calls.decrypt, calls.re_encrypt + 7)
        );
        bed.rewrap(KEY);
        let truth: Vec<_> = paths.iter().map(|path| keys_at(path)).collect();
        assert!(
            truth.iter().all(|keys| keys.len() == 2 && keys[0].key_arn == own && keys[1].key_arn == second)
        );
        // The last one stays as it is.
        put_keys(&paths[0], &[bed.forged(&paths[0], KEY), truth[0][1].clone()]);
        put_keys(&paths[1], &[truth[1][0].clone(), bed.forged(&paths[1], &second)]);
        put_keys(
            &paths[2],
            &[bed.forged(&paths[2], "alias/mine"), bed.forged(&paths[2], &second), truth[2][0].clone()],
        );
        put_keys(&paths[3], &[bed.forged(&paths[3], KEY), bed.forged(&paths[3], &second)]);
        put_keys(
            &paths[4],
            &[bed.forged(&paths[4], &second), bed.forged(&paths[4], KEY), truth[4][1].clone()],
        );
        let hopeless = keys_at(&paths[3]);
        let report = if online {
            let here: Arc<dyn KeyService> = bed.home.clone();
            let volume = bed.mount().unwrap();
            let report = volume.rewrap(&here, &nowhere, &to(&second), &|| true).unwrap();
            volume.close().unwrap();
            report
        } else {
            bed.rewrap(&second)
        };
        // What was under the target already lost nothing, and is looked at by whoever opens it.
        assert_eq!(
            (report.rewrapped, report.already, report.failed.count),
            (4, 1, 1),
            "{online}: {report:?}"
        );
        assert_eq!(keys_at(&paths[3]), hopeless, "{online}");
        assert_eq!(keys_at(&paths[4]).len(), 3, "{online}");
        for path in [0, 1, 2, 5].map(|n| &paths[n]) {
            assert_eq!(keys_at(path).iter().filter(|key| key.key_arn == second).count(), 1, "{online}");
        }
        // Its own key goes, and all but what was forged altogether opens.
        bed.home.set_state(KEY, KeyState::PendingDeletion);
        let volume = bed.mount().unwrap();
        let opened = (0..6).filter(|n| read(&volume, *n).is_ok()).count();
        volume.close().unwrap();
        assert_eq!(opened, 5, "{online}");
    }
}

/// The same for the volume key.
#[test]
fn rewrapping_drops_no_volume_key_for_one_that_did_not_open_to_the_volumes() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    bed.change(&Change::Add(bed.recipient(0))).unwrap();
    let (second, old) = (bed.recipient(0).name, Descriptor::read(&*bed.root()).unwrap());
    let made = bed.home.encrypt(KEY, &[7; 32], &volume_context(&old.id)).unwrap();
    let forged = WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext };
    let keys = vec![forged.clone(), old.keys[1].clone()];
    std::fs::write(bed.dir.path().join("kmsfs.json"), old.with_keys(keys).encode().unwrap()).unwrap();
    let report = bed.rewrap(&second);
    assert_eq!((report.volume_key, report.rewrapped, report.failed.count), (true, 2, 0), "{report:?}");
    let new = Descriptor::read(&*bed.root()).unwrap();
    assert!(
        new.keys.len() == 1 && new.keys[0].key_arn == second && new.recipients.is_empty(),
        "{:?}",
        new.keys
    );
    bed.home.set_state(KEY, KeyState::PendingDeletion);
    bed.create().unwrap();
    bed.all_open(4);
    // Nothing else is there: it stays.
    std::fs::write(
        bed.dir.path().join("kmsfs.json"),
        new.with_keys(vec![WrappedKey { key_arn: second.clone(), ..forged.clone() }, forged])
            .encode()
            .unwrap(),
    )
    .unwrap();
    bed.home.set_state(KEY, KeyState::Enabled);
    let before = std::fs::read(bed.dir.path().join("kmsfs.json")).unwrap();
    let here: Arc<dyn KeyService> = bed.home.clone();
    assert!(rewrap::rewrap(&bed.root(), &here, &nowhere, &to(KEY), &|| ()).is_err());
    assert_eq!(std::fs::read(bed.dir.path().join("kmsfs.json")).unwrap(), before);
}

/// As docs/cli.md says: where the own key does not work any more, a recipient's that does is rewrapped in its place.
#[test]
fn a_recipients_key_is_rewrapped_where_the_own_does_not_work() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    bed.change(&Change::Add(bed.recipient(0))).unwrap();
    bed.home.set_state(KEY, KeyState::Disabled);
    let report = bed.rewrap("alias/new");
    assert_eq!((report.volume_key, report.rewrapped, report.failed.count), (true, 2, 0), "{report:?}");
    bed.create().unwrap();
    let list = edk::list(&bed.root(), &[], 1).unwrap();
    let (new, second) = (bed.home.arn("alias/new"), bed.recipient(0).name);
    assert_eq!(list.volume_keys, [new.clone(), second.clone()]);
    assert_eq!(list.files, [(new, 4), (second, 4)].into());
    bed.all_open(4);
}

/// Of whatever length: each is tried until one is the file's.
#[test]
fn a_wrapped_key_that_is_none_of_the_files_is_passed_over() {
    let mut bed = Bed::new();
    bed.create().unwrap();
    for path in bed.paths() {
        let truth = keys_at(&path);
        let others = [&[][..], &[7; 5], &[7; 33]].map(|plaintext| bed.wrapped(&path, KEY, plaintext));
        put_keys(&path, &[&others[..], &truth].concat());
    }
    bed.all_open(2);
}
