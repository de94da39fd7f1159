//! HMAC-SHA-256 (RFC 2104, FIPS 198-1), SHA-256 (FIPS 180-4), constant-time comparison.

use aws_lc_rs::{constant_time, digest, hmac};

use super::CryptoError;

/// HMAC-SHA-256 of the concatenation of `parts`.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

/// Checks in constant time.
pub fn verify_hmac_sha256(key: &[u8], parts: &[&[u8]], mac: &[u8]) -> Result<(), CryptoError> {
    if equal(&hmac_sha256(key, parts), mac) { Ok(()) } else { Err(CryptoError::NotAuthentic) }
}

/// SHA-256 of the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Constant-time equality; lengths are not secret.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}
