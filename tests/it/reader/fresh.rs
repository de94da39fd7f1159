//! What kmsfs writes, the independent reader opens: a fresh volume, one that a crash left, and a kept one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kmsfs::crypto::SecretVec;
use kmsfs::kms::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyMetadata, KeyService, KeyState, KmsError,
    KmsErrorKind, Ledger, ReEncrypted,
};
use kmsfs::volume::disk::{Kind, RenameMode, XattrMode};
use kmsfs::volume::{Attr, Caller, NodeId, ROOT, SetAttr, Volume, VolumeOptions};

use super::primitives::{gcm_open, gcm_seal};
use super::{Context, Node, Result, read_volume};
use crate::handles::{READ, READ_WRITE};

const ARN: &str = "arn:aws:kms:us-east-1:000000000000:key/6b6d7366-7300-4000-8000-000000000001";
const ME: Caller = Caller { uid: 0, gid: 0 };

/// A key service of one fixed key: nonce 12 | tag 16 | AES-256-GCM, AAD = the context's pairs. Enough to
/// keep a volume whose keys never change.
struct FixedKey;

const FIXED: [u8; 32] = *b"the key of the volume in golden/";

fn aad(context: &Context) -> Vec<u8> {
    context.iter().flat_map(|(k, v)| format!("{k}={v}\n").into_bytes()).collect()
}

fn unwrap(context: &Context, arn: &str, blob: &[u8]) -> Result<[u8; 32]> {
    assert_eq!(arn, ARN);
    let (nonce, rest) = blob.split_at_checked(12).ok_or("wrapped key: too short")?;
    let (tag, sealed) = rest.split_at_checked(16).ok_or("wrapped key: too short")?;
    let plain = gcm_open(&FIXED, nonce, tag, &aad(context), sealed).ok_or("wrapped key: another context")?;
    plain.try_into().map_err(|_| "wrapped key: not 32 bytes".to_owned())
}

fn wrap(context: &Context, plain: &[u8]) -> Vec<u8> {
    let nonce: [u8; 12] = kmsfs::crypto::random().unwrap();
    let (tag, sealed) = gcm_seal(&FIXED, &nonce, &aad(context), plain);
    [&nonce[..], &tag, &sealed].concat()
}

impl KeyService for FixedKey {
    fn generate_data_key(
        &self,
        _: &str,
        context: &EncryptionContext,
    ) -> std::result::Result<DataKey, KmsError> {
        let plain: [u8; 32] = kmsfs::crypto::random().unwrap();
        let plaintext = SecretVec::new(plain.to_vec());
        Ok(DataKey { key_arn: ARN.to_owned(), ciphertext: wrap(context, &plain), plaintext })
    }

    fn encrypt(
        &self,
        _: &str,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> std::result::Result<Encrypted, KmsError> {
        Ok(Encrypted { key_arn: ARN.to_owned(), ciphertext: wrap(context, plaintext) })
    }

    fn decrypt(
        &self,
        _: Option<&str>,
        ciphertext: &[u8],
        context: &EncryptionContext,
    ) -> std::result::Result<Decrypted, KmsError> {
        let plain = unwrap(context, ARN, ciphertext)
            .map_err(|why| KmsError::new(KmsErrorKind::InvalidCiphertext, why))?;
        let plaintext = SecretVec::new(plain.to_vec());
        Ok(Decrypted { key_arn: ARN.to_owned(), key_material_id: None, plaintext })
    }

    fn re_encrypt(
        &self,
        _: &[u8],
        _: &EncryptionContext,
        _: &str,
        _: &EncryptionContext,
    ) -> std::result::Result<ReEncrypted, KmsError> {
        Err(KmsError::new(KmsErrorKind::UnsupportedOperation, "one key only"))
    }

    fn describe_key(&self, _: &str) -> std::result::Result<KeyMetadata, KmsError> {
        Ok(KeyMetadata { key_arn: ARN.to_owned(), region: "us-east-1".to_owned(), state: KeyState::Enabled })
    }
}

impl Ledger for FixedKey {
    fn generation(&self) -> std::result::Result<Option<u64>, KmsError> {
        Ok(None)
    }

    fn record(&self, _: FileEvent, _: bool) -> std::result::Result<(), KmsError> {
        Ok(())
    }
}

fn open(dir: &Path) -> Volume {
    let host = kmsfs::volume::host::HostDir::open(dir).unwrap();
    Volume::open(host, Arc::new(FixedKey), Arc::new(FixedKey), VolumeOptions::default()).unwrap()
}

fn init(dir: &Path) {
    let host = kmsfs::volume::host::HostDir::open(dir).unwrap();
    Volume::init(&*host, &FixedKey, ARN).unwrap();
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

/// What a tree ought to hold, by path.
type Expected = BTreeMap<Vec<u8>, Node>;

fn put(volume: &Volume, parent: NodeId, name: &[u8], pieces: &[(u64, &[u8])]) -> Attr {
    let (attr, handle) = volume.create(ME, parent, name, 0o644, READ_WRITE).unwrap();
    for (offset, data) in pieces {
        volume.write(handle, *offset, data, false).unwrap();
    }
    volume.release(handle).unwrap();
    attr
}

/// One of everything the format knows.
fn fill(volume: &Volume) -> Expected {
    let mut expected = Expected::new();
    expected.insert(Vec::new(), Node::Directory);
    for size in [0, 1, 4063, 4064, 4065, 3 * 4064, 100_000] {
        let name = format!("{size} bytes").into_bytes();
        put(volume, ROOT, &name, &[(0, &content(size))]);
        expected.insert(name, Node::File(content(size)));
    }
    let dir = volume.mkdir(ME, ROOT, b"dir", 0o755).unwrap().node;
    expected.insert(b"dir".to_vec(), Node::Directory);
    for len in [175, 176, 255] {
        let name = vec![b'n'; len];
        put(volume, dir, &name, &[(0, &name)]);
        expected.insert([b"dir/", &name[..]].concat(), Node::File(name));
    }
    let odd: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    let odd_dir = volume.mkdir(ME, dir, &odd, 0o700).unwrap().node;
    expected.insert([b"dir/", &odd[..]].concat(), Node::Directory);
    volume.rename(dir, &[b'n'; 255], odd_dir, b"moved", RenameMode::NoReplace).unwrap();
    let moved = expected.remove(&[b"dir/", &[b'n'; 255][..]].concat()).unwrap();
    expected.insert([b"dir/", &odd[..], b"/moved"].concat(), moved);
    for len in [1, 100, 4095] {
        let name = format!("link {len}").into_bytes();
        let target = vec![b't'; len];
        volume.symlink(ME, ROOT, &name, &target).unwrap();
        expected.insert(name, Node::Symlink(target));
    }
    volume.mknod(ME, ROOT, b"fifo", Kind::Fifo, 0o600, 0).unwrap();
    expected.insert(b"fifo".to_vec(), Node::Special);

    put(volume, ROOT, b"sparse", &[(0, b"begin"), (20_000, b"end")]);
    let mut sparse = content(0);
    sparse.extend(b"begin");
    sparse.resize(20_000, 0);
    sparse.extend(b"end");
    expected.insert(b"sparse".to_vec(), Node::File(sparse));

    let shrunk = put(volume, ROOT, b"shrunk and grown", &[(0, &content(50_000))]).node;
    for size in [10_000, 30_000] {
        volume.setattr(ME, shrunk, None, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
    }
    let mut bytes = content(10_000);
    bytes.resize(30_000, 0);
    expected.insert(b"shrunk and grown".to_vec(), Node::File(bytes));

    let linked = put(volume, ROOT, b"linked", &[(0, b"two names")]).node;
    volume.link(linked, dir, b"linked too").unwrap();
    expected.insert(b"linked".to_vec(), Node::File(b"two names".to_vec()));
    expected.insert(b"dir/linked too".to_vec(), Node::File(b"two names".to_vec()));
    expected
}

fn read(dir: &Path) -> Expected {
    let entries = read_volume(dir, &unwrap).unwrap();
    let named = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    entries
        .into_iter()
        .map(|e| (e.path.clone(), e.node.unwrap_or_else(|why| panic!("{}: {why}", named(&e.path)))))
        .collect()
}

/// A volume of which a private key, or a key of another region, opens everything; after rekeying too.
#[test]
fn a_volume_with_recipients_opens_by_each_of_them() {
    use kmsfs::volume::recipients::{OtherRegions, Recipient};
    use kmsfs::volume::{edk, rekey};
    let private = super::sealed::private();
    let temp = tempfile::tempdir().unwrap();
    init(temp.path());
    let volume = open(temp.path());
    let expected = fill(&volume);
    volume.close().unwrap();
    let root = kmsfs::volume::host::HostDir::open(temp.path()).unwrap();
    let here: Arc<dyn KeyService> = Arc::new(FixedKey);
    let regions = OtherRegions::new(|_| Ok(Arc::new(FixedKey)));
    let far = ARN.replace("us-east-1", "eu-west-1");
    let recipients =
        [Recipient::rsa(super::sealed::public(&private), None).unwrap(), Recipient::kms(far.clone())];
    let how = edk::Options { keep_mtime: true, dry_run: false, threads: 1 };
    for recipient in recipients {
        let add = edk::Change::Add(recipient);
        let report = edk::change(&root, &here, &regions, &add, &how, &|| ()).unwrap();
        assert_eq!(report.failed.count, 0);
    }
    let by_private = |_: &Context, name: &str, blob: &[u8]| match name.starts_with("spki-sha256:") {
        true => super::sealed::oaep(&private, blob).ok_or_else(|| "RSA-OAEP".to_owned()),
        false => Err("not the private key's".to_owned()),
    };
    let by_far = |context: &Context, name: &str, blob: &[u8]| match name == far {
        true => unwrap(context, ARN, blob),
        false => Err("not of that region".to_owned()),
    };
    let check = || {
        for unwrap in [&by_private as super::Unwrap, &by_far] {
            let found = read_volume(temp.path(), unwrap).unwrap();
            same(&found.into_iter().map(|e| (e.path, e.node.unwrap())).collect(), &expected);
        }
    };
    check();
    let options = rekey::Options { below: Vec::new(), keep_mtime: true, dry_run: false, threads: 2 };
    let report = rekey::rekey(&root, &here, &regions, &options, &|| ()).unwrap();
    assert!(report.renewed > 10 && report.failed.count == 0, "{report:?}");
    check();
}

/// Fails with the paths that differ, not with a megabyte of bytes.
fn same(found: &Expected, expected: &Expected) {
    let paths =
        |of: &Expected| of.keys().map(|p| String::from_utf8_lossy(p).into_owned()).collect::<Vec<_>>();
    assert_eq!(paths(found), paths(expected));
    for (path, node) in expected {
        assert!(found[path] == *node, "{} differs", String::from_utf8_lossy(path));
    }
}

/// The same through kmsfs.
fn read_with_kmsfs(volume: &Volume, dir: NodeId, path: &[u8], out: &mut Expected) {
    out.insert(path.to_vec(), Node::Directory);
    let handle = volume.open_dir(dir).unwrap();
    let mut entries = Vec::new();
    volume
        .read_dir(handle, 0, &mut |entry| {
            entries.push(entry.clone());
            true
        })
        .unwrap();
    volume.release_dir(handle);
    for entry in entries.iter().filter(|e| e.name != b"." && e.name != b"..") {
        let attr = volume.lookup(dir, &entry.name).unwrap();
        let full = if path.is_empty() { entry.name.clone() } else { [path, b"/", &entry.name].concat() };
        let node = match entry.kind {
            Kind::Directory => {
                read_with_kmsfs(volume, attr.node, &full, out);
                continue;
            }
            Kind::Symlink => Node::Symlink(volume.readlink(attr.node).unwrap()),
            Kind::File => {
                let handle = volume.open_file(ME, attr.node, READ).unwrap();
                let mut bytes = vec![0xee; attr.stat.size as usize + 100];
                let read = volume.read(handle, 0, &mut bytes).unwrap();
                assert_eq!(read as u64, attr.stat.size);
                bytes.truncate(read);
                volume.release(handle).unwrap();
                Node::File(bytes)
            }
            _ => Node::Special,
        };
        out.insert(full, node);
    }
}

#[test]
fn a_fresh_volume_opens() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let volume = open(dir.path());
    let expected = fill(&volume);
    volume.close().unwrap();
    drop(volume);
    same(&read(dir.path()), &expected);
    let volume = open(dir.path());
    let mut found = Expected::new();
    read_with_kmsfs(&volume, ROOT, b"", &mut found);
    same(&found, &expected);
}

#[test]
fn attributes_open() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let volume = open(dir.path());
    let file = put(&volume, ROOT, b"file", &[(0, b"x")]).node;
    let bare = volume.mknod(ME, ROOT, b"bare", Kind::File, 0o600, 0).unwrap().node;
    for (node, name, value) in [
        (ROOT, &b"user.of.the.root"[..], &b"r"[..]),
        (file, b"user.mime", b"text/plain"),
        (file, b"user.empty", b""),
        (bare, b"user.long", &[7; 1000]),
    ] {
        volume.set_xattr(node, name, value, XattrMode::Any).unwrap();
    }
    volume.close().unwrap();
    let entries = read_volume(dir.path(), &unwrap).unwrap();
    let found: Vec<_> = entries.iter().flat_map(|e| &e.xattrs).map(|(n, v)| (&n[..], &v[..])).collect();
    assert_eq!(
        found,
        [
            (&b"user.of.the.root"[..], &b"r"[..]),
            (b"user.long", &[7; 1000]),
            (b"user.empty", b""),
            (b"user.mime", b"text/plain"),
        ]
    );
    assert_eq!(entries[1].node, Ok(Node::File(Vec::new())));
}

#[test]
fn a_volume_that_was_not_closed_opens() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    let volume = open(dir.path());
    let mut expected = fill(&volume);
    let (_, handle) = volume.create(ME, ROOT, b"open", 0o644, READ_WRITE).unwrap();
    volume.write(handle, 0, &content(10_000), false).unwrap();
    volume.fsync(handle, true).unwrap();
    expected.insert(b"open".to_vec(), Node::File(content(10_000)));
    drop(volume);
    same(&read(dir.path()), &expected);
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1.tar")
}

/// The volume that the first version of format 1 wrote must stay readable, by both. It was made by
/// `KMSFS_MAKE_GOLDEN=1 cargo test --test it golden`.
#[test]
fn the_golden_volume_opens() {
    let dir = tempfile::tempdir().unwrap();
    let vault = dir.path().join("format-1");
    if std::env::var_os("KMSFS_MAKE_GOLDEN").is_some() {
        fs::create_dir(&vault).unwrap();
        init(&vault);
        let volume = open(&vault);
        fill(&volume);
        volume.close().unwrap();
        drop(volume);
        tar(&[
            "-C",
            dir.path().to_str().unwrap(),
            "--sparse",
            "--sort=name",
            "--owner=0",
            "--group=0",
            "-cf",
        ]);
        fs::remove_dir_all(&vault).unwrap();
    }
    tar(&["-C", dir.path().to_str().unwrap(), "-xf"]);
    let expected = {
        let fresh = tempfile::tempdir().unwrap();
        init(fresh.path());
        fill(&open(fresh.path()))
    };
    same(&read(&vault), &expected);
    let volume = open(&vault);
    let mut found = Expected::new();
    read_with_kmsfs(&volume, ROOT, b"", &mut found);
    same(&found, &expected);
    // It can be written on, too.
    let file = volume.lookup(ROOT, b"4063 bytes").unwrap().node;
    let handle = volume.open_file(ME, file, READ_WRITE).unwrap();
    volume.write(handle, 4063, b"more", false).unwrap();
    volume.release(handle).unwrap();
    volume.close().unwrap();
    drop(volume);
    let mut expected = expected;
    expected.insert(b"4063 bytes".to_vec(), Node::File([&content(4063)[..], b"more"].concat()));
    same(&read(&vault), &expected);
}

fn tar(args: &[&str]) {
    let mut command = Command::new("tar");
    command.args(args).arg(golden());
    if args.contains(&"-cf") {
        command.arg("format-1");
    }
    assert!(command.status().unwrap().success(), "{command:?}");
}
