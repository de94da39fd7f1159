//! Keys in transport: AES-KWP (RFC 5649, SP 800-38F) and the two-layered wrap of PKCS#11 (RSA_AES_KEY_WRAP).

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use zeroize::Zeroize;

use super::asymmetric::{Oaep, PrivateKey, PublicKey};
use super::{CryptoError, Secret, SecretVec};

/// AES-256-KWP: up to 15 bytes longer than `key`, which is not empty.
///
/// # Errors
/// [`CryptoError::BadLength`] of an empty key.
pub fn kwp_wrap(kek: &Secret<32>, key: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut out = vec![0; key.len() + 15];
    let len = library(kek)?
        .wrap_with_padding(key, &mut out)
        .map_err(|_| CryptoError::BadLength { what: "key to be wrapped" })?
        .len();
    out.truncate(len);
    Ok(out)
}

/// Opens what [`kwp_wrap`] made.
///
/// # Errors
/// [`CryptoError::NotAuthentic`] whatever is wrong with it.
pub fn kwp_unwrap(kek: &Secret<32>, wrapped: &[u8]) -> Result<SecretVec, CryptoError> {
    let mut out = vec![0; wrapped.len()];
    let opened = library(kek)?.unwrap_with_padding(wrapped, &mut out).map(|key| key.len());
    let Ok(len) = opened else {
        out.zeroize();
        return Err(CryptoError::NotAuthentic);
    };
    out[len..].zeroize();
    out.truncate(len);
    Ok(SecretVec::new(out))
}

/// RSA_AES_KEY_WRAP (PKCS#11 v3.0, CKM_RSA_AES_KEY_WRAP): a fresh AES-256 key under RSA-OAEP, then `key` under
/// that key with AES-KWP. For keys of any length, private ones included.
///
/// # Errors
/// As [`PublicKey::encrypt`] and [`kwp_wrap`].
pub fn rsa_aes_wrap(to: &PublicKey, algorithm: Oaep, key: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let kek = Secret::<32>::generate()?;
    let mut out = to.encrypt(algorithm, kek.expose())?;
    out.extend_from_slice(&kwp_wrap(&kek, key)?);
    Ok(out)
}

/// Opens what [`rsa_aes_wrap`] made.
///
/// # Errors
/// [`CryptoError::NotAuthentic`] whatever is wrong with it, [`CryptoError::Rejected`] if the private key is not RSA.
pub fn rsa_aes_unwrap(with: &PrivateKey, algorithm: Oaep, wrapped: &[u8]) -> Result<SecretVec, CryptoError> {
    let Some(modulus) = with.spec().modulus_len() else {
        return Err(CryptoError::Rejected { what: "algorithm" });
    };
    let (kek, key) = wrapped.split_at_checked(modulus).ok_or(CryptoError::NotAuthentic)?;
    let kek = with.decrypt(algorithm, kek)?;
    let kek = Secret::from_slice(kek.expose()).map_err(|_| CryptoError::NotAuthentic)?;
    kwp_unwrap(&kek, key)
}

fn library(kek: &Secret<32>) -> Result<AesKek, CryptoError> {
    AesKek::new(&AES_256, kek.expose()).map_err(|_| CryptoError::BadLength { what: "key-encryption key" })
}
