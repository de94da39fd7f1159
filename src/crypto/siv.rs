//! AES-256-SIV (RFC 5297): deterministic, nonce-misuse resistant; for names.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

use super::{CryptoError, Secret};

/// A 512-bit key of AES-256-SIV: half for S2V (CMAC), half for CTR.
#[derive(Clone)]
pub struct SivKey(Secret<64>);

impl SivKey {
    /// Takes the two halves.
    pub fn new(key: Secret<64>) -> Self {
        Self(key)
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new(self.0.expose().into())
    }

    /// synthetic IV 16 | ciphertext, under the strings of associated data `aad`.
    pub fn seal(&self, aad: &[&[u8]], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.cipher().encrypt(aad, plaintext).map_err(|_| CryptoError::Library { what: "to encrypt a name" })
    }

    /// Opens what [`Self::seal`] made under the same associated data.
    pub fn open(&self, aad: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if sealed.len() < 16 {
            return Err(CryptoError::NotAuthentic);
        }
        self.cipher().decrypt(aad, sealed).map_err(|_| CryptoError::NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_equal_only_under_equal_data() {
        let key = SivKey::new(Secret::new([3; 64]));
        let a = key.seal(&[b"dir"], b"name").unwrap();
        assert_eq!(a, key.seal(&[b"dir"], b"name").unwrap());
        assert_ne!(a, key.seal(&[b"dis"], b"name").unwrap());
        assert_eq!(key.open(&[b"dir"], &a).unwrap(), b"name");
        assert!(key.open(&[b"dis"], &a).is_err());
        assert!(key.open(&[b"dir"], &a[..15]).is_err());
    }
}
