//! What kinds of keys there are, what each is for, and its material once it is opened.

use serde::{Deserialize, Serialize};

use super::blob::KeyMaterial;
use super::{KmsError, KmsErrorKind};
use crate::crypto::asymmetric::{PairSpec, PrivateKey};
use crate::crypto::mac::Hmac;
use crate::crypto::{CryptoError, Secret, SecretVec, fill_random};

/// The encryption algorithm of symmetric keys, and their spec.
pub const SYMMETRIC_DEFAULT: &str = "SYMMETRIC_DEFAULT";
/// The encapsulation algorithm of ML-KEM keys.
pub const ML_KEM: &str = "ML_KEM";

/// KeySpec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum KeySpec {
    /// AES-256-GCM.
    Symmetric,
    /// HMAC.
    Hmac(Hmac),
    /// A key pair.
    Pair(PairSpec),
}

/// KeyUsage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum KeyUsage {
    /// ENCRYPT_DECRYPT.
    EncryptDecrypt,
    /// SIGN_VERIFY.
    SignVerify,
    /// GENERATE_VERIFY_MAC.
    GenerateVerifyMac,
    /// KEY_AGREEMENT.
    KeyAgreement,
    /// ENCAPSULATE_DECAPSULATE.
    EncapsulateDecapsulate,
}

impl KeySpec {
    /// AWS's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symmetric => SYMMETRIC_DEFAULT,
            Self::Hmac(Hmac::Sha224) => "HMAC_224",
            Self::Hmac(Hmac::Sha256) => "HMAC_256",
            Self::Hmac(Hmac::Sha384) => "HMAC_384",
            Self::Hmac(Hmac::Sha512) => "HMAC_512",
            Self::Pair(spec) => spec.name(),
        }
    }

    /// The spec of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let hmac = Hmac::ALL.into_iter().map(Self::Hmac);
        let pairs = PairSpec::ALL.into_iter().map(Self::Pair);
        std::iter::once(Self::Symmetric).chain(hmac).chain(pairs).find(|spec| spec.name() == name)
    }

    /// What keys of this spec can be for; a key is for one of them.
    pub fn usages(self) -> Vec<KeyUsage> {
        match self {
            Self::Symmetric => vec![KeyUsage::EncryptDecrypt],
            Self::Hmac(_) => vec![KeyUsage::GenerateVerifyMac],
            Self::Pair(spec) => {
                let encrypts = !spec.encryption_algorithms().is_empty();
                let signs = !spec.signing_algorithms().is_empty();
                [
                    (encrypts, KeyUsage::EncryptDecrypt),
                    (signs, KeyUsage::SignVerify),
                    (spec.agrees(), KeyUsage::KeyAgreement),
                    (spec.encapsulates(), KeyUsage::EncapsulateDecapsulate),
                ]
                .into_iter()
                .filter_map(|(can, usage)| can.then_some(usage))
                .collect()
            }
        }
    }

    /// Fresh material: what a row keeps, sealed.
    pub fn generate(self) -> Result<SecretVec, CryptoError> {
        let random = |len| {
            let mut bytes = vec![0; len];
            fill_random(&mut bytes).map(|()| SecretVec::new(bytes))
        };
        match self {
            Self::Symmetric => random(32),
            Self::Hmac(hmac) => random(hmac.code_len()),
            Self::Pair(spec) => PrivateKey::generate(spec)?.to_bytes(),
        }
    }

    /// Material that was opened, ready for use.
    pub fn load(self, bytes: &[u8]) -> Result<Material, CryptoError> {
        match self {
            Self::Symmetric => Ok(Material::Symmetric(KeyMaterial(Secret::from_slice(bytes)?))),
            Self::Hmac(hmac) if bytes.len() == hmac.code_len() => {
                Ok(Material::Hmac(SecretVec::new(bytes.to_vec())))
            }
            Self::Hmac(_) => Err(CryptoError::BadLength { what: "HMAC key" }),
            Self::Pair(spec) => Ok(Material::Pair(Box::new(PrivateKey::from_bytes(spec, bytes)?))),
        }
    }
}

impl KeyUsage {
    const ALL: [Self; 5] = [
        Self::EncryptDecrypt,
        Self::SignVerify,
        Self::GenerateVerifyMac,
        Self::KeyAgreement,
        Self::EncapsulateDecapsulate,
    ];

    /// AWS's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EncryptDecrypt => "ENCRYPT_DECRYPT",
            Self::SignVerify => "SIGN_VERIFY",
            Self::GenerateVerifyMac => "GENERATE_VERIFY_MAC",
            Self::KeyAgreement => "KEY_AGREEMENT",
            Self::EncapsulateDecapsulate => "ENCAPSULATE_DECAPSULATE",
        }
    }

    /// The usage of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|usage| usage.name() == name)
    }
}

/// Both stand in rows under AWS's names.
macro_rules! by_name {
    ($($kind:ident),*) => {$(
        impl From<$kind> for String {
            fn from(this: $kind) -> Self {
                this.name().to_owned()
            }
        }

        impl TryFrom<String> for $kind {
            type Error = String;

            fn try_from(name: String) -> Result<Self, String> {
                Self::from_name(&name).ok_or(name)
            }
        }
    )*};
}

by_name!(KeySpec, KeyUsage);

/// One version of a key's material.
pub enum Material {
    /// AES-256-GCM.
    Symmetric(KeyMaterial),
    /// HMAC.
    Hmac(SecretVec),
    /// The private key of a pair.
    Pair(Box<PrivateKey>),
}

impl Material {
    /// For what only symmetric keys do; the callers have looked at the key's spec.
    pub fn symmetric(&self) -> Result<&KeyMaterial, KmsError> {
        match self {
            Self::Symmetric(material) => Ok(material),
            Self::Hmac(_) | Self::Pair(_) => Err(other_kind()),
        }
    }

    /// For what only HMAC keys do.
    pub fn hmac(&self) -> Result<&[u8], KmsError> {
        match self {
            Self::Hmac(key) => Ok(key.expose()),
            Self::Symmetric(_) | Self::Pair(_) => Err(other_kind()),
        }
    }

    /// For what only key pairs do.
    pub fn pair(&self) -> Result<&PrivateKey, KmsError> {
        match self {
            Self::Pair(key) => Ok(key),
            Self::Symmetric(_) | Self::Hmac(_) => Err(other_kind()),
        }
    }
}

fn other_kind() -> KmsError {
    KmsError::new(KmsErrorKind::Internal, "the key's material is of another kind than its spec says")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["SYMMETRIC_DEFAULT", "HMAC_224", "HMAC_512", "RSA_4096", "ECC_NIST_EDWARDS25519"] {
            assert_eq!(KeySpec::from_name(name).unwrap().name(), name);
        }
        assert_eq!(KeySpec::from_name("SM2"), None);
        for usage in KeyUsage::ALL {
            assert_eq!(KeyUsage::from_name(usage.name()), Some(usage));
        }
    }

    #[test]
    fn a_spec_has_the_usages_that_aws_gives_it() {
        let usages = |name| KeySpec::from_name(name).unwrap().usages();
        use KeyUsage::*;
        assert_eq!(usages("RSA_2048"), [EncryptDecrypt, SignVerify]);
        assert_eq!(usages("ECC_NIST_P384"), [SignVerify, KeyAgreement]);
        assert_eq!(usages("ECC_SECG_P256K1"), [SignVerify]);
        assert_eq!(usages("ML_DSA_65"), [SignVerify]);
        assert_eq!(usages("HMAC_384"), [GenerateVerifyMac]);
        assert_eq!(usages("ML_KEM_768"), [EncapsulateDecapsulate]);
    }
}
