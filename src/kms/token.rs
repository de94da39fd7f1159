//! Import tokens: what GetParametersForImport hands out and ImportKeyMaterial takes back. Nothing of it is kept: the
//! private wrapping key travels in the token, sealed under the region's root key and bound to the KMS key.
//!
//! version 1 | salt 16 | nonce 12 | tag 16 | AES-256-GCM ciphertext. Key = SP 800-108 counter mode of the root key over
//! label and salt; AAD = label, key ARN, each with its length. Plaintext = postcard of [`Sealed`].

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::root::RootKey;
use super::rows;
use crate::crypto::asymmetric::{Oaep, PairSpec, PrivateKey};
use crate::crypto::{AeadKey, CryptoError, SecretVec, kdf, labels, random, wrap};
use crate::iam::KeyArn;

const VERSION: u8 = 1;
const SALT: usize = 16;

/// How long parameters are good, in milliseconds: 24 hours.
pub const LIFE: i64 = 24 * 3600 * 1000;

/// How material is wrapped for its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// RSAES_OAEP: the material itself.
    Direct(Oaep),
    /// RSA_AES_KEY_WRAP: under a key of its own.
    TwoLayers(Oaep),
}

impl Wrapping {
    /// Those that there are.
    pub const ALL: [Self; 4] = [
        Self::Direct(Oaep::Sha1),
        Self::Direct(Oaep::Sha256),
        Self::TwoLayers(Oaep::Sha1),
        Self::TwoLayers(Oaep::Sha256),
    ];

    /// AWS's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct(Oaep::Sha1) => "RSAES_OAEP_SHA_1",
            Self::Direct(Oaep::Sha256) => "RSAES_OAEP_SHA_256",
            Self::TwoLayers(Oaep::Sha1) => "RSA_AES_KEY_WRAP_SHA_1",
            Self::TwoLayers(Oaep::Sha256) => "RSA_AES_KEY_WRAP_SHA_256",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wrapping| wrapping.name() == name)
    }

    /// Opens what was wrapped.
    ///
    /// # Errors
    /// [`CryptoError::NotAuthentic`] whatever is wrong with it.
    pub fn unwrap(self, key: &PrivateKey, wrapped: &[u8]) -> Result<SecretVec, CryptoError> {
        match self {
            Self::Direct(oaep) => key.decrypt(oaep, wrapped),
            Self::TwoLayers(oaep) => wrap::rsa_aes_unwrap(key, oaep, wrapped),
        }
    }
}

/// The token's plaintext.
#[derive(Serialize, Deserialize)]
struct Sealed {
    /// Milliseconds since 1970.
    expires: i64,
    wrapping: String,
    spec: String,
    /// PKCS#8.
    private: Vec<u8>,
}

/// A token that was opened.
pub struct Token {
    /// Milliseconds since 1970.
    pub expires: i64,
    /// How the material is wrapped.
    pub wrapping: Wrapping,
    /// Opens it.
    pub private: PrivateKey,
}

fn key(root: &RootKey, salt: &[u8]) -> Result<AeadKey, CryptoError> {
    AeadKey::new(kdf::counter_mode(root.expose(), labels::KMS_IMPORT_TOKEN, salt)?.expose())
}

fn aad(arn: &KeyArn) -> Vec<u8> {
    rows::aad(&[labels::KMS_IMPORT_TOKEN, arn.to_string().as_bytes()])
}

/// Makes a token for a KMS key. `private` is PKCS#8 of a key of `spec`.
pub fn seal(
    root: &RootKey,
    arn: &KeyArn,
    expires: i64,
    wrapping: Wrapping,
    spec: PairSpec,
    private: &SecretVec,
) -> Result<Vec<u8>, CryptoError> {
    let failed = |_| CryptoError::Library { what: "to write a token" };
    let mut sealed = Sealed {
        expires,
        wrapping: wrapping.name().to_owned(),
        spec: spec.name().to_owned(),
        private: private.expose().to_vec(),
    };
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let room = Vec::with_capacity(private.len() + 128);
    let plaintext = postcard::to_extend(&sealed, room).map(Zeroizing::new).map_err(failed);
    zeroize::Zeroize::zeroize(&mut sealed.private);
    let salt: [u8; SALT] = random()?;
    let message = key(root, &salt)?.seal_message(&aad(arn), &plaintext?)?;
    Ok([&[VERSION], &salt[..], &message].concat())
}

/// Opens a token of this KMS key.
///
/// # Errors
/// [`CryptoError::NotAuthentic`] of everything else.
pub fn open(root: &RootKey, arn: &KeyArn, token: &[u8]) -> Result<Token, CryptoError> {
    let bad = CryptoError::NotAuthentic;
    let Some((&VERSION, rest)) = token.split_first() else { return Err(bad) };
    let (salt, message) = rest.split_first_chunk::<SALT>().ok_or(bad)?;
    let plaintext = Zeroizing::new(key(root, salt)?.open_message(&aad(arn), message)?);
    let sealed: Sealed = postcard::from_bytes(&plaintext).map_err(|_| bad)?;
    let private = Zeroizing::new(sealed.private);
    let spec = PairSpec::from_name(&sealed.spec).ok_or(bad)?;
    let wrapping = Wrapping::from_name(&sealed.wrapping).ok_or(bad)?;
    Ok(Token { expires: sealed.expires, wrapping, private: PrivateKey::from_bytes(spec, &private)? })
}
