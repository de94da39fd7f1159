//! HMAC-SHA-256 (RFC 2104, FIPS 198-1), SHA-256 (FIPS 180-4), BLAKE3, constant-time comparison.

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

/// Which HMAC (FIPS 198-1 with a hash of FIPS 180-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hmac {
    /// HMAC-SHA-224.
    Sha224,
    /// HMAC-SHA-256.
    Sha256,
    /// HMAC-SHA-384.
    Sha384,
    /// HMAC-SHA-512.
    Sha512,
}

impl Hmac {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The key service's name for the algorithm.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha224 => "HMAC_SHA_224",
            Self::Sha256 => "HMAC_SHA_256",
            Self::Sha384 => "HMAC_SHA_384",
            Self::Sha512 => "HMAC_SHA_512",
        }
    }

    /// Length of the code in bytes, and of the keys that the key service makes.
    pub const fn code_len(self) -> usize {
        match self {
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The code of the message, in full length.
    pub fn code(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key(key), message).as_ref().to_vec()
    }

    /// Checks a code of full length in constant time.
    ///
    /// # Errors
    /// [`CryptoError::NotAuthentic`].
    pub fn verify(self, key: &[u8], message: &[u8], code: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.key(key), message, code).map_err(|_| CryptoError::NotAuthentic)
    }

    fn key(self, key: &[u8]) -> hmac::Key {
        let algorithm = match self {
            Self::Sha224 => hmac::HMAC_SHA224,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::Key::new(algorithm, key)
    }
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

/// SHA-256 of what comes piece by piece.
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces.
    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn 2020, "BLAKE3: one function, fast everywhere"), 32 bytes, of what comes
/// piece by piece. For large amounts: three times as fast as the processor's own SHA-256.
#[derive(Default)]
pub struct Blake3(blake3::Hasher);

impl Blake3 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces.
    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Constant-time equality; lengths are not secret.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths 0, 1025 and 102400 of the authors' vectors (test_vectors/test_vectors.json): the bytes 0 to 250, again and again.
    #[test]
    fn blake3_is_that_of_its_authors() {
        for (len, due) in [
            (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
            (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
            (102_400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"),
        ] {
            let input: Vec<u8> = (0..=250).cycle().take(len).collect();
            let mut hash = Blake3::new();
            input.chunks(700).for_each(|piece| hash.update(piece));
            assert_eq!(hex::encode(hash.finish()), due, "{len} bytes");
        }
    }
}
