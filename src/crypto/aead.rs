//! AES-256-GCM (NIST SP 800-38D).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as LibNonce, UnboundKey};

use super::{CryptoError, fill_random};

/// Length of the authentication tag in bytes.
pub const TAG_LEN: usize = 16;
/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// A 96-bit nonce.
pub type Nonce = [u8; NONCE_LEN];

/// An AES-256-GCM key, expanded once. The library zeroizes it on drop.
pub struct AeadKey(LessSafeKey);

impl AeadKey {
    /// Expands a 256-bit key.
    pub fn new(key: &[u8; 32]) -> Result<Self, CryptoError> {
        let key = UnboundKey::new(&AES_256_GCM, key)
            .map_err(|_| CryptoError::BadLength { what: "AES-256-GCM key" })?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts `plaintext` into `ciphertext` (same length) and returns the tag.
    /// The caller answers for the nonce; see the argument in [`crate::crypto`].
    pub fn seal(
        &self,
        nonce: Nonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
    ) -> Result<[u8; TAG_LEN], CryptoError> {
        let mut tag = [0; TAG_LEN];
        self.0
            .seal_out_of_place_scatter(
                LibNonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                plaintext,
                ciphertext,
                &[],
                &mut tag,
            )
            .map_err(|_| CryptoError::Library { what: "to encrypt" })?;
        Ok(tag)
    }

    /// Decrypts `ciphertext` into `plaintext` (same length). On an error `plaintext` is zeroed:
    /// no partial plaintext of a bad message is ever handed on.
    pub fn open(
        &self,
        nonce: Nonce,
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> Result<(), CryptoError> {
        let opened = self.0.open_separate_gather(
            LibNonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            ciphertext,
            tag,
            plaintext,
        );
        opened.map_err(|_| {
            plaintext.fill(0);
            CryptoError::NotAuthentic
        })
    }

    /// One message with a random nonce: nonce 12 | tag 16 | ciphertext.
    pub fn seal_message(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut out = vec![0; NONCE_LEN + TAG_LEN + plaintext.len()];
        let (head, body) = out.split_at_mut(NONCE_LEN + TAG_LEN);
        let nonce: Nonce = super::random()?;
        let tag = self.seal(nonce, aad, plaintext, body)?;
        head[..NONCE_LEN].copy_from_slice(&nonce);
        head[NONCE_LEN..].copy_from_slice(&tag);
        Ok(out)
    }

    /// Opens what [`Self::seal_message`] made.
    pub fn open_message(&self, aad: &[u8], message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let (nonce, rest) = message.split_first_chunk::<NONCE_LEN>().ok_or(CryptoError::NotAuthentic)?;
        let (tag, body) = rest.split_first_chunk::<TAG_LEN>().ok_or(CryptoError::NotAuthentic)?;
        let mut plaintext = vec![0; body.len()];
        self.open(*nonce, aad, body, tag, &mut plaintext)?;
        Ok(plaintext)
    }
}

/// The nonces of one write request: a random start, then one more for each further block, counted
/// as a 96-bit big-endian integer that wraps.
pub struct NonceRun(u128);

impl NonceRun {
    /// Draws a fresh start.
    pub fn start() -> Result<Self, CryptoError> {
        let mut wide = [0u8; 16];
        fill_random(&mut wide[4..])?;
        Ok(Self(u128::from_be_bytes(wide)))
    }

    /// The next nonce of this request.
    pub fn take(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.0.to_be_bytes()[4..]);
        self.0 = (self.0 + 1) & ((1 << 96) - 1);
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_opens_nothing_and_leaves_zeros() {
        let key = AeadKey::new(&[7; 32]).unwrap();
        let mut sealed = key.seal_message(b"aad", b"plain").unwrap();
        assert_eq!(key.open_message(b"aad", &sealed).unwrap(), b"plain");
        assert_eq!(key.open_message(b"other", &sealed), Err(CryptoError::NotAuthentic));
        let tag: [u8; 16] = sealed[12..28].try_into().unwrap();
        let nonce: Nonce = sealed[..12].try_into().unwrap();
        sealed[28] ^= 1;
        let mut out = [9; 5];
        assert!(key.open(nonce, b"aad", &sealed[28..], &tag, &mut out).is_err());
        assert_eq!(out, [0; 5]);
    }

    #[test]
    fn a_run_of_nonces_counts_and_wraps() {
        let mut run = NonceRun((1 << 96) - 1);
        assert_eq!(run.take(), [0xff; 12]);
        assert_eq!(run.take(), [0; 12]);
        assert_eq!(run.take()[11], 1);
    }

    /// NIST CAVP gcmEncryptExtIV256, Keylen 256, IVlen 96, PTlen 128, AADlen 0, Taglen 128, count 0.
    #[test]
    fn agrees_with_a_published_vector() {
        let key: [u8; 32] = hex::decode("31bdadd96698c204aa9ce1448ea94ae1fb4a9a0b3c9d773b51bb1822666b8f22")
            .unwrap()
            .try_into()
            .unwrap();
        let nonce: Nonce = hex::decode("0d18e06c7c725ac9e362e1ce").unwrap().try_into().unwrap();
        let plain = hex::decode("2db5168e932556f8089a0622981d017d").unwrap();
        let mut out = [0; 16];
        let tag = AeadKey::new(&key).unwrap().seal(nonce, b"", &plain, &mut out).unwrap();
        assert_eq!(hex::encode(out), "fa4362189661d163fcd6a56d8bf0405a");
        assert_eq!(hex::encode(tag), "d636ac1bbedd5cc3ee727dc2ab4a9489");
    }
}
