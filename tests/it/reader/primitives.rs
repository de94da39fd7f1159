//! The published constructions the format names, from RustCrypto.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use aes_siv::siv::Aes256Siv;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::Result;

/// HKDF-SHA-256, RFC 5869.
pub fn hkdf<const N: usize>(input: &[u8], salt: &[u8], info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    hkdf::Hkdf::<Sha256>::new(Some(salt), input).expand(info, &mut out).unwrap();
    out
}

pub fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

pub fn sha256(message: &[u8]) -> [u8; 32] {
    Sha256::digest(message).into()
}

/// AES-256-SIV, RFC 5297: synthetic IV 16 | ciphertext, under a list of strings of associated data.
pub fn siv_open(key: &[u8; 64], data: &[&[u8]], sealed: &[u8]) -> Option<Vec<u8>> {
    Aes256Siv::new_from_slice(key).unwrap().decrypt(data, sealed).ok()
}

pub fn siv_seal(key: &[u8; 64], data: &[&[u8]], plaintext: &[u8]) -> Vec<u8> {
    Aes256Siv::new_from_slice(key).unwrap().encrypt(data, plaintext).unwrap()
}

/// AES-256-GCM with a detached tag.
pub fn gcm_open(key: &[u8; 32], nonce: &[u8], tag: &[u8], data: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, tag) = (<[u8; 12]>::try_from(nonce).ok()?, <[u8; 16]>::try_from(tag).ok()?);
    let cipher = Aes256Gcm::new_from_slice(key).unwrap();
    let mut text = sealed.to_vec();
    cipher.decrypt_inout_detached(&nonce.into(), data, text.as_mut_slice().into(), &tag.into()).ok()?;
    Some(text)
}

pub fn gcm_seal(key: &[u8; 32], nonce: &[u8; 12], data: &[u8], plaintext: &[u8]) -> ([u8; 16], Vec<u8>) {
    let cipher = Aes256Gcm::new_from_slice(key).unwrap();
    let mut text = plaintext.to_vec();
    let nonce = (*nonce).into();
    let tag = cipher.encrypt_inout_detached(&nonce, data, text.as_mut_slice().into()).unwrap();
    (tag.into(), text)
}

pub fn base64url(bytes: &[u8]) -> Vec<u8> {
    URL_SAFE_NO_PAD.encode(bytes).into_bytes()
}

pub fn unbase64url(text: &[u8]) -> Result<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).map_err(|e| format!("not base64url: {e}"))
}

pub fn unbase64(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|e| format!("not base64: {e}"))
}

pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N]> {
    let bytes = hex::decode(text).map_err(|e| format!("not hex: {e}"))?;
    bytes.try_into().map_err(|_| format!("not {N} bytes of hex"))
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
