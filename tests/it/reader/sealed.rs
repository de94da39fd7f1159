//! Sealed files: the second implementation, and what kmsfs seals for it.

use std::fs;
use std::path::PathBuf;

use kmsfs::crypto::asymmetric::PublicKey;
use kmsfs::volume::sealed::{Recipient, seal};
use rsa::pkcs8::{DecodePrivateKey, EncodePublicKey};
use rsa::{Oaep, PrivateKey};
use sha2::Sha256;

use super::Result;
use super::file::{FileKeys, open_block};
use super::primitives::*;

const PAGE: usize = 4096;
const BLOCK: usize = 4064;

/// The plaintext of a sealed file.
fn open(file: &[u8], key: &PrivateKey) -> Result<Vec<u8>> {
    if !file.len().is_multiple_of(PAGE) || file.len() < 2 * PAGE {
        return Err("not two whole pages or more".to_owned());
    }
    let pages: Vec<&[u8]> = file.chunks(PAGE).collect();
    let (header, blocks, end) = (pages[0], &pages[1..pages.len() - 1], pages[pages.len() - 1]);
    for page in [header, end] {
        if &page[..8] != b"KMSFSFIL" || u16_at(page, 8) != 1 || u16_at(page, 10) != 4 {
            return Err("header: not of a sealed file of format 1".to_owned());
        }
        if page[12..16] != [0; 4] || page[40..48] != [0; 8] {
            return Err("header: generation, requests or epoch".to_owned());
        }
    }
    if u64_at(header, 32) != u64::MAX {
        return Err("header: size".to_owned());
    }
    let keys = data_key(header, key)?;
    for page in [header, end] {
        if hmac(&keys.header(), &page[..80]) != page[80..112] {
            return Err("header: MAC".to_owned());
        }
    }
    if end[..32] != header[..32] || end[48..80] != header[48..80] || end[112..].iter().any(|b| *b != 0) {
        return Err("end: of another file".to_owned());
    }
    let size = u64_at(end, 32) as usize;
    if blocks.len() != size.div_ceil(BLOCK) {
        return Err("end: another number of blocks".to_owned());
    }
    let mut content = Vec::with_capacity(size);
    for (number, page) in blocks.iter().enumerate() {
        let plain = open_block(&keys, number, page)?;
        if plain.len() != (size - content.len()).min(BLOCK) {
            return Err(format!("block {number}: {} bytes", plain.len()));
        }
        content.extend(plain);
    }
    Ok(content)
}

/// The first wrapped key that opens to the commitment.
fn data_key(page: &[u8], key: &PrivateKey) -> Result<FileKeys> {
    let mut rest = &page[113..];
    for _ in 0..page[112] {
        let cut = || "header: wrapped keys are cut".to_owned();
        let (lengths, after) = rest.split_at_checked(4).ok_or_else(cut)?;
        let (_, after) = after.split_at_checked(u16_at(lengths, 0).into()).ok_or_else(cut)?;
        let (blob, after) = after.split_at_checked(u16_at(lengths, 2).into()).ok_or_else(cut)?;
        rest = after;
        let Some(data_key) = oaep(key, blob) else { continue };
        let keys = FileKeys::sealed(data_key, &page[16..32]);
        if keys.commitment() == page[48..80] {
            return Ok(keys);
        }
    }
    Err("header: no data key".to_owned())
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

/// What a private key opens to a key.
pub fn oaep(key: &PrivateKey, blob: &[u8]) -> Option<[u8; 32]> {
    key.decrypt(Oaep::<Sha256>::new(), blob).ok()?.try_into().ok()
}

/// Its public half, as kmsfs takes it.
pub fn public(key: &PrivateKey) -> PublicKey {
    let der = key.to_public_key().to_public_key_der().unwrap();
    PublicKey::from_pem_or_der(der.as_bytes()).unwrap()
}

/// The private key beside the kept file.
pub fn private() -> PrivateKey {
    PrivateKey::read_pkcs8_der_file(golden("sealed-1.key.der")).unwrap()
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn sealed(plain: &[u8], key: &PrivateKey) -> Vec<u8> {
    let to = Recipient { key: public(key), key_arn: None };
    let mut file = Vec::new();
    seal(&mut &plain[..], &mut file, &[to]).unwrap();
    file
}

#[test]
fn what_kmsfs_seals_opens() {
    let key = private();
    for size in [0, 1, 4063, 4064, 4065, 64 * 4064, 64 * 4064 + 1, 1 << 20] {
        let file = sealed(&content(size), &key);
        assert!(open(&file, &key).unwrap() == content(size), "size {size}");
        assert!(open(&file[..file.len() - PAGE], &key).is_err(), "size {size} without its end");
    }
}

/// What the first version of sealed files wrote must stay readable. It was made by
/// `KMSFS_MAKE_GOLDEN=1 cargo test --test it golden_sealed`, its key by `openssl genpkey`.
#[test]
fn the_golden_sealed_file_opens() {
    let (key, path) = (private(), golden("sealed-1"));
    if std::env::var_os("KMSFS_MAKE_GOLDEN").is_some() {
        fs::write(&path, sealed(&content(4065), &key)).unwrap();
    }
    let file = fs::read(path).unwrap();
    assert!(open(&file, &key).unwrap() == content(4065));
    let begun = kmsfs::volume::sealed::Sealed::begin(&file[..]).unwrap();
    let mut out = Vec::new();
    let unwrap = |wrapped: &kmsfs::volume::header::WrappedKey| {
        let plain = key.decrypt(Oaep::<Sha256>::new(), &wrapped.ciphertext).unwrap();
        Ok(kmsfs::crypto::SecretVec::new(plain))
    };
    begun.open(&mut out, &unwrap).unwrap();
    assert!(out == content(4065));
}
