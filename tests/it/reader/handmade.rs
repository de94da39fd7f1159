//! The reader on a volume made by hand from the page, and on damaged ones: each fault is refused for its
//! own reason.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::file::{FileKeys, stat_size};
use super::primitives::*;
use super::volume::Keys;
use super::{Context, Entry, Node, Result, read_volume};

const VOLUME_KEY: [u8; 32] = [7; 32];
const DATA_KEY: [u8; 32] = [9; 32];
const VOLUME_ID: [u8; 16] = *b"the volume's id.";
const ROOT_ID: [u8; 16] = *b"the root dir id.";
const FILE_ID: [u8; 16] = *b"the file's own i";
const ARN: &str = "arn:aws:kms:us-east-1:000000000000:key/1";
const EPOCH: u64 = 5;

/// Wrapped keys of these volumes are a word and the context they are for.
fn unwrap(context: &Context, arn: &str, ciphertext: &[u8]) -> Result<[u8; 32]> {
    let purpose = context.get("kmsfs:purpose").map(String::as_str);
    let file = context.get("kmsfs:file");
    assert_eq!(context.get("kmsfs:volume"), Some(&hex::encode(VOLUME_ID)));
    match (arn, ciphertext) {
        (ARN, b"volume") if purpose == Some("volume") && context.len() == 2 => Ok(VOLUME_KEY),
        (ARN, b"file") if file == Some(&hex::encode(FILE_ID)) && context.len() == 2 => Ok(DATA_KEY),
        _ => Err("AccessDenied".to_owned()),
    }
}

struct Made {
    dir: tempfile::TempDir,
    keys: Keys,
}

impl Made {
    /// A volume with an empty root; `clean` is the state of its epoch.
    fn new(clean: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::derive(&VOLUME_KEY, VOLUME_ID);
        let message = [
            &b"kmsfs descriptor"[..],
            &1u32.to_le_bytes(),
            &0u32.to_le_bytes(),
            &VOLUME_ID,
            &9u32.to_le_bytes(),
            b"us-east-1",
        ]
        .concat();
        let json = serde_json::json!({
            "format": 1,
            "features": [],
            "volume_id": hex::encode(VOLUME_ID),
            "region": "us-east-1",
            "volume_keys": [{ "key_arn": ARN, "ciphertext": "dm9sdW1l" }],
            "mac": hex::encode(hmac(&keys.descriptor, &message)),
        });
        fs::write(dir.path().join("kmsfs.json"), json.to_string()).unwrap();
        fs::create_dir_all(dir.path().join(".kmsfs/links")).unwrap();
        let mut marker = b"KMSFSEPO".to_vec();
        marker.extend(1u16.to_le_bytes());
        marker.extend(u16::from(clean).to_le_bytes());
        marker.extend(0u32.to_le_bytes());
        marker.extend(EPOCH.to_le_bytes());
        marker.extend([0; 16]);
        marker.extend(hmac(&keys.epoch, &[&VOLUME_ID[..], &marker].concat()));
        fs::write(dir.path().join(".kmsfs/epoch"), marker).unwrap();
        let made = Self { dir, keys };
        link(&base64url(&ROOT_ID), &made.path("kmsfs.dir"));
        made
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.dir.path().join(Path::new(name.as_ref()))
    }

    fn stored(&self, name: &[u8]) -> Vec<u8> {
        base64url(&siv_seal(&self.keys.names, &[&ROOT_ID], name))
    }

    /// Where the entry `name` of the root stands.
    fn entry(&self, name: &[u8]) -> PathBuf {
        self.path(OsStr::from_bytes(&self.stored(name)))
    }

    fn file_keys(&self) -> FileKeys {
        FileKeys::new(DATA_KEY, &self.keys, &FILE_ID)
    }

    fn header(&self, size: u64, flags: u16) -> Vec<u8> {
        let keys = self.file_keys();
        let mut page = b"KMSFSFIL".to_vec();
        for field in [1, flags, 3, 1] {
            page.extend(u16::to_le_bytes(field));
        }
        page.extend(FILE_ID);
        page.extend(size.to_le_bytes());
        page.extend(EPOCH.to_le_bytes());
        page.extend(keys.commitment());
        page.extend(hmac(&keys.header(), &page));
        page.push(1);
        page.extend((ARN.len() as u16).to_le_bytes());
        page.extend(4u16.to_le_bytes());
        page.extend(ARN.bytes());
        page.extend(b"file");
        page.resize(4096, 0);
        page
    }

    fn block(&self, number: u64, generation: u16, plain: &[u8]) -> Vec<u8> {
        let (length, nonce) = (plain.len() as u16, [number as u8; 12]);
        let data = [&number.to_le_bytes()[..], &length.to_le_bytes(), &generation.to_le_bytes()].concat();
        let mut padded = plain.to_vec();
        padded.resize(4064, 0);
        let key = self.file_keys().content(generation);
        let (tag, sealed) = gcm_seal(&key, &nonce, &data, &padded);
        [&nonce[..], &tag, &length.to_le_bytes(), &generation.to_le_bytes(), &sealed].concat()
    }

    /// A finalised file's pages, with its r bytes behind.
    fn file(&self, content: &[u8]) -> Vec<u8> {
        let mut pages = self.header(content.len() as u64, 0);
        for (number, plain) in content.chunks(4064).enumerate() {
            pages.extend(self.block(number as u64, 3, plain));
        }
        pages.resize(stat_size(content.len()), 0);
        pages
    }

    fn read(&self) -> Result<Vec<Entry>> {
        read_volume(self.dir.path(), &unwrap)
    }

    /// What the reader says of one file in the root with these bytes.
    fn read_file(&self, bytes: &[u8]) -> Result<Node> {
        fs::write(self.entry(b"f"), bytes).unwrap();
        let found = self.read().unwrap();
        found.into_iter().find(|e| e.path == b"f").unwrap().node
    }
}

fn link(target: &[u8], at: &Path) {
    symlink(OsStr::from_bytes(target), at).unwrap();
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

/// Holds if the refusal is the one that was due.
fn refused<T: std::fmt::Debug>(answer: Result<T>, why: &str) {
    let said = answer.unwrap_err();
    assert!(said.contains(why), "refused for the wrong reason: {said}, due was {why}");
}

#[test]
fn every_kind_of_entry_is_read() {
    let made = Made::new(true);
    fs::write(made.entry(b"small"), made.file(b"hello")).unwrap();
    let dir_id = *b"another dir's id";
    let dir = made.entry("Verzeichnis \u{e4}".as_bytes());
    fs::create_dir(&dir).unwrap();
    link(&base64url(&dir_id), &dir.join("kmsfs.dir"));

    let long = [b'x'; 255];
    let full = base64url(&siv_seal(&made.keys.names, &[&dir_id], &long));
    let entry = [b"long.", &base64url(&sha256(&full))[..]].concat();
    fs::write(dir.join(OsStr::from_bytes(&entry)), made.file(b"long-named")).unwrap();
    link(&full, &dir.join(OsStr::from_bytes(&[&entry[..], b".name"].concat())));

    let text = |target: &[u8]| {
        let sealed = siv_seal(&made.keys.symlinks, &[&[4; 16]], target);
        base64url(&[&[4; 16][..], &sealed].concat())
    };
    link(&text(b"../target"), &made.entry(b"link"));
    let far = vec![b'y'; 4095];
    let over = base64url(&[5; 16]);
    for (piece, part) in text(&far).chunks(4000).enumerate() {
        let name = [&over[..], format!(".{piece}").as_bytes()].concat();
        link(part, &made.path(".kmsfs/links").join(OsStr::from_bytes(&name)));
    }
    link(&[b"over.", &over[..]].concat(), &made.entry(b"far link"));
    fs::write(made.path("tmp.AAAAAAAAAAAAAAAAAAAAAA"), "rubbish of a crash").unwrap();

    let found: Vec<_> = made.read().unwrap().into_iter().map(|e| (e.path, e.node)).collect();
    let inside = [b"Verzeichnis \xc3\xa4/", &long[..]].concat();
    assert_eq!(
        found,
        [
            (b"".to_vec(), Ok(Node::Directory)),
            (b"Verzeichnis \xc3\xa4".to_vec(), Ok(Node::Directory)),
            (inside, Ok(Node::File(b"long-named".to_vec()))),
            (b"far link".to_vec(), Ok(Node::Symlink(far))),
            (b"link".to_vec(), Ok(Node::Symlink(b"../target".to_vec()))),
            (b"small".to_vec(), Ok(Node::File(b"hello".to_vec()))),
        ]
    );
}

#[test]
fn the_worked_sizes_are_read() {
    let made = Made::new(true);
    for (size, st_size) in
        [(0, 4096), (1, 8193), (4063, 12255), (4064, 8192), (4065, 12289), (1 << 20, 1_064_960 + 64)]
    {
        let bytes = made.file(&content(size));
        assert_eq!(bytes.len(), st_size, "size {size}");
        assert_eq!(made.read_file(&bytes), Ok(Node::File(content(size))), "size {size}");
    }
}

#[test]
fn a_damaged_file_is_refused_for_its_fault() {
    let made = Made::new(true);
    let good = made.file(&content(10_000));
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let swapped = [&good[..4096], &good[8192..12288], &good[4096..8192], &good[12288..]].concat();
    let zeroed = [&good[..4096], &[0; 4096], &good[8192..]].concat();
    for (bytes, why) in [
        (changed(9), "not of format 1"),
        (changed(11), "unknown flag"),
        (changed(13), "header: MAC"),
        (changed(33), "header: MAC"),
        (changed(60), "key commitment"),
        (changed(16), "AccessDenied"),
        (changed(112), "header: no"),
        (changed(4096), "block 0: does not authenticate"),
        (changed(8192 + 20), "block 1: does not authenticate"),
        (changed(8192 + 29), "block 1: does not authenticate"),
        (changed(8192 + 30), "block 1: does not authenticate"),
        (changed(16383), "block 2: does not authenticate"),
        (swapped, "block 0: does not authenticate"),
        (zeroed, "block 0: length"),
        (good[..12288].to_vec(), "size: the header says"),
        ([&good[..], &[0; 4096]].concat(), "size: the header says"),
        ([&good[..16384], &[0; 4064]].concat(), "no file has it"),
        (vec![0; 4096], "header: absent"),
        (Vec::new(), "header: absent"),
        (good[..100].to_vec(), "header: cut"),
    ] {
        refused(made.read_file(&bytes), why);
    }
}

#[test]
fn holes_are_read_only_where_the_flag_allows_them() {
    let made = Made::new(true);
    let size = 2 * 4064 + 7;
    let pages = |flags: u16| {
        let mut bytes = made.header(size as u64, flags);
        bytes.resize(3 * 4096, 0);
        bytes.extend(made.block(2, 3, b"the end"));
        bytes.resize(stat_size(size), 0);
        bytes
    };
    let mut due = vec![0; 2 * 4064];
    due.extend(b"the end");
    assert_eq!(made.read_file(&pages(1)), Ok(Node::File(due)));
    refused(made.read_file(&pages(0)), "block 0: length");
    let mut tail = pages(1);
    tail[3 * 4096..4 * 4096].fill(0);
    refused(made.read_file(&tail), "block 2: length");
}

#[test]
fn a_file_cut_by_a_crash_ends_where_its_blocks_end() {
    let made = Made::new(false);
    let whole = content(10_000);
    let good = made.file(&whole);
    let read = |bytes: &[u8]| made.read_file(bytes);
    // The header's size is of no account; a page of zeros ends the file, whatever follows.
    assert_eq!(read(&good[..8192]), Ok(Node::File(whole[..4064].to_vec())));
    let zeroed = [&good[..8192], &[0; 4096], &good[12288..]].concat();
    assert_eq!(read(&zeroed), Ok(Node::File(whole[..4064].to_vec())));
    assert_eq!(read(&[&good[..16384], &[0; 8192]].concat()), Ok(Node::File(whole.clone())));
    assert_eq!(read(&[]), Ok(Node::File(Vec::new())));
    assert_eq!(read(&[0; 9000]), Ok(Node::File(Vec::new())));
    let mut torn = good.clone();
    torn[13_000] ^= 1;
    refused(read(&torn), "block 2: does not authenticate");
}

#[test]
fn a_foreign_entry_and_a_foreign_name_are_told() {
    let made = Made::new(true);
    fs::write(made.path("notes.txt"), "not ours").unwrap();
    let other = base64url(&siv_seal(&made.keys.names, &[&[1; 16]], b"name"));
    fs::write(made.path(OsStr::from_bytes(&other)), "moved here").unwrap();
    let found = made.read().unwrap();
    assert_eq!(found.len(), 3);
    refused(found[1].node.clone(), "name: does not authenticate");
    refused(found[2].node.clone(), "not base64url");
}

#[test]
fn a_foreign_descriptor_and_marker_are_refused() {
    let made = Made::new(true);
    let path = made.path("kmsfs.json");
    let text = fs::read_to_string(&path).unwrap();
    for (from, to, why) in [
        ("us-east-1\"", "us-east-2\"", "MAC"),
        ("\"format\":1", "\"format\":2", "unknown format"),
        ("\"features\":[]", "\"features\":[\"x\"]", "unknown format or feature"),
        ("\"region\"", "\"more\":1,\"region\"", "members missing or unknown"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        fs::write(&path, changed).unwrap();
        refused(made.read(), why);
    }
    fs::write(&path, text).unwrap();
    let marker = made.path(".kmsfs/epoch");
    let mut bytes = fs::read(&marker).unwrap();
    bytes[10] ^= 1;
    fs::write(&marker, &bytes).unwrap();
    refused(made.read(), "epoch: MAC");
}
