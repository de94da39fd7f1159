//! What of the directory must not be read: under its root key.

use super::{DirectoryError, Result};
use crate::crypto::{AeadKey, CryptoError, SecretVec, kdf, random};

const SALT: usize = 16;

fn key(root: &[u8; 32], label: &[u8], salt: &[u8]) -> std::result::Result<AeadKey, CryptoError> {
    AeadKey::new(kdf::counter_mode(root, label, salt)?.expose())
}

fn aad(label: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in std::iter::once(&label).chain(parts) {
        out.extend_from_slice(&(part.len() as u32).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// Salt 16 | nonce 12 | tag 16 | AES-256-GCM ciphertext. Key = SP 800-108 counter mode of the root key over label
/// and salt; AAD = the label and the parts, each with its length.
pub fn seal(root: &[u8; 32], label: &[u8], parts: &[&[u8]], plaintext: &[u8]) -> Result<Vec<u8>> {
    let salt: [u8; SALT] = random()?;
    Ok([&salt[..], &key(root, label, &salt)?.seal_message(&aad(label, parts), plaintext)?].concat())
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`CryptoError::NotAuthentic`] where the root key, label, a part or the bytes are others.
pub fn open(root: &[u8; 32], label: &[u8], parts: &[&[u8]], sealed: &[u8]) -> Result<SecretVec> {
    let not_authentic = DirectoryError::Crypto(CryptoError::NotAuthentic);
    let (salt, message) = sealed.split_first_chunk::<SALT>().ok_or(not_authentic)?;
    Ok(SecretVec::new(key(root, label, salt)?.open_message(&aad(label, parts), message)?))
}
