//! Layer 1: bytes. Seal, open, derive, authenticate, wrap, zeroize.
//!
//! Every construction here is a published one, named in the doc comment of the function that
//! offers it; the library behind them is AWS-LC, through aws-lc-rs (and aes-siv, argon2). Every label that keeps
//! two uses of one key apart stands in [`labels`].
//!
//! # Why a nonce cannot repeat
//!
//! Where AES-GCM is used, and the argument for each.
//!
//! - *File blocks*: key = one file's content key of one generation. A write request draws 96 random
//!   bits and counts up by one for each further block of the request ([`aead::NonceRun`]). Nothing
//!   about nonces is stored, shared or resumed, so a fork or a restored virtual machine cannot
//!   replay one. A generation takes at most 2^31 requests of at most 272 blocks, which bounds
//!   the chance that two runs overlap by about 2^31 * 2^31 * 2^9 / 2^97 = 2^-26. A re-encrypted file, a
//!   manifest and a sealed file have a data key of their own and the same runs.
//! - *Ciphertext blobs of the key service, rows of key material, secrets of access keys, session and
//!   import tokens*: each message has its own key (SP 800-108 with a random 128-bit salt), and a random
//!   96-bit nonce. So has a root key under a passphrase (Argon2id with a random salt).
//! - *Values of extended attributes*: a key for each file or directory, and a random 96-bit nonce.
//!
//! Names and symbolic links use AES-SIV, which has no nonce to lose.

pub mod aead;
pub mod asymmetric;
pub mod kdf;
pub mod labels;
pub mod mac;
pub mod secret;
pub mod siv;
pub mod wrap;
#[cfg(test)]
mod wycheproof;

pub use aead::{AeadKey, Nonce, NonceRun, TAG_LEN};
pub use secret::{Secret, SecretVec};

/// What can go wrong below everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The bytes, their associated data or the key are not the ones that were sealed.
    #[error("the data does not authenticate: it was changed, or the key or its context is another")]
    NotAuthentic,
    /// A key, nonce or buffer of the wrong length reached the library.
    #[error("a {what} has a length that the algorithm does not take")]
    BadLength {
        /// Which input it was.
        what: &'static str,
    },
    /// A key that is not what it should be, or an algorithm that the key does not have.
    #[error("the {what} is not one that the key's spec takes")]
    Rejected {
        /// Which input it was.
        what: &'static str,
    },
    /// The operating system gave no randomness, or the library refused to work.
    #[error("the cryptographic library refused {what}; nothing was written")]
    Library {
        /// What was attempted.
        what: &'static str,
    },
}

/// Fills `out` from the operating system's generator (reseeded by the kernel on fork and on vmgenid).
pub fn fill_random(out: &mut [u8]) -> Result<(), CryptoError> {
    aws_lc_rs::rand::fill(out).map_err(|_| CryptoError::Library { what: "to give random bytes" })
}

/// `N` random bytes.
pub fn random<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut out = [0; N];
    fill_random(&mut out)?;
    Ok(out)
}
