//! The kinds of key pairs and what each can do, under the key service's names.

use aws_lc_rs::digest;

use crate::crypto::CryptoError;

/// What kind of key pair it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PairSpec {
    /// RSA, modulus of 2048 bits.
    Rsa2048,
    /// RSA, modulus of 3072 bits.
    Rsa3072,
    /// RSA, modulus of 4096 bits.
    Rsa4096,
    /// NIST P-256 (secp256r1).
    P256,
    /// NIST P-384 (secp384r1).
    P384,
    /// NIST P-521 (secp521r1).
    P521,
    /// secp256k1 (SEC 2).
    Secp256k1,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ML-DSA-44 (FIPS 204).
    MlDsa44,
    /// ML-DSA-65.
    MlDsa65,
    /// ML-DSA-87.
    MlDsa87,
    /// ML-KEM-512 (FIPS 203).
    MlKem512,
    /// ML-KEM-768.
    MlKem768,
    /// ML-KEM-1024.
    MlKem1024,
}

impl PairSpec {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::P256,
        Self::P384,
        Self::P521,
        Self::Secp256k1,
        Self::Ed25519,
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
    ];

    /// The key service's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "RSA_2048",
            Self::Rsa3072 => "RSA_3072",
            Self::Rsa4096 => "RSA_4096",
            Self::P256 => "ECC_NIST_P256",
            Self::P384 => "ECC_NIST_P384",
            Self::P521 => "ECC_NIST_P521",
            Self::Secp256k1 => "ECC_SECG_P256K1",
            Self::Ed25519 => "ECC_NIST_EDWARDS25519",
            Self::MlDsa44 => "ML_DSA_44",
            Self::MlDsa65 => "ML_DSA_65",
            Self::MlDsa87 => "ML_DSA_87",
            Self::MlKem512 => "ML_KEM_512",
            Self::MlKem768 => "ML_KEM_768",
            Self::MlKem1024 => "ML_KEM_1024",
        }
    }

    /// The spec of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|spec| spec.name() == name)
    }

    /// The algorithms that such a key signs with; none if it does not sign.
    pub const fn signing_algorithms(self) -> &'static [SigningAlgorithm] {
        use SigningAlgorithm::{Ecdsa, Ed25519, Ed25519Ph, MlDsa};
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SigningAlgorithm::RSA,
            Self::P256 | Self::Secp256k1 => &[Ecdsa(Sha2::Sha256)],
            Self::P384 => &[Ecdsa(Sha2::Sha384)],
            Self::P521 => &[Ecdsa(Sha2::Sha512)],
            Self::Ed25519 => &[Ed25519, Ed25519Ph],
            Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => &[MlDsa],
            Self::MlKem512 | Self::MlKem768 | Self::MlKem1024 => &[],
        }
    }

    /// The algorithms that such a key encrypts with; none if it does not encrypt.
    pub const fn encryption_algorithms(self) -> &'static [Oaep] {
        if self.modulus_len().is_some() { &[Oaep::Sha1, Oaep::Sha256] } else { &[] }
    }

    /// Length of an RSA modulus, and so of signatures and ciphertexts, in bytes; none if it is not RSA.
    pub const fn modulus_len(self) -> Option<usize> {
        match self {
            Self::Rsa2048 => Some(256),
            Self::Rsa3072 => Some(384),
            Self::Rsa4096 => Some(512),
            _ => None,
        }
    }

    /// Whether two such keys agree on a secret (ECDH).
    pub const fn agrees(self) -> bool {
        matches!(self, Self::P256 | Self::P384 | Self::P521)
    }

    /// Whether such a key encapsulates (ML-KEM).
    pub const fn encapsulates(self) -> bool {
        matches!(self, Self::MlKem512 | Self::MlKem768 | Self::MlKem1024)
    }
}

/// A hash of the SHA-2 family (FIPS 180-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sha2 {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Sha2 {
    fn library(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// A digest that somebody else made.
    pub(super) fn import(self, bytes: &[u8]) -> Result<digest::Digest, CryptoError> {
        digest::Digest::import_less_safe(bytes, self.library())
            .map_err(|_| CryptoError::BadLength { what: "message digest" })
    }
}

/// How a message is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigningAlgorithm {
    /// RSASSA-PSS (RFC 8017 section 8.1), MGF1 with the same hash, salt as long as the hash.
    RsaPss(Sha2),
    /// RSASSA-PKCS1-v1_5 (RFC 8017 section 8.2).
    RsaPkcs1(Sha2),
    /// ECDSA (FIPS 186-5 section 6); the signature is DER, `Ecdsa-Sig-Value` of RFC 3279.
    Ecdsa(Sha2),
    /// Ed25519 (RFC 8032 section 5.1), pure.
    Ed25519,
    /// Ed25519ph (RFC 8032 section 5.1), without context: the message is hashed with SHA-512 first.
    Ed25519Ph,
    /// ML-DSA (FIPS 204), hedged, without context.
    MlDsa,
}

impl SigningAlgorithm {
    const RSA: &'static [Self] = &[
        Self::RsaPss(Sha2::Sha256),
        Self::RsaPss(Sha2::Sha384),
        Self::RsaPss(Sha2::Sha512),
        Self::RsaPkcs1(Sha2::Sha256),
        Self::RsaPkcs1(Sha2::Sha384),
        Self::RsaPkcs1(Sha2::Sha512),
    ];

    /// The key service's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RsaPss(Sha2::Sha256) => "RSASSA_PSS_SHA_256",
            Self::RsaPss(Sha2::Sha384) => "RSASSA_PSS_SHA_384",
            Self::RsaPss(Sha2::Sha512) => "RSASSA_PSS_SHA_512",
            Self::RsaPkcs1(Sha2::Sha256) => "RSASSA_PKCS1_V1_5_SHA_256",
            Self::RsaPkcs1(Sha2::Sha384) => "RSASSA_PKCS1_V1_5_SHA_384",
            Self::RsaPkcs1(Sha2::Sha512) => "RSASSA_PKCS1_V1_5_SHA_512",
            Self::Ecdsa(Sha2::Sha256) => "ECDSA_SHA_256",
            Self::Ecdsa(Sha2::Sha384) => "ECDSA_SHA_384",
            Self::Ecdsa(Sha2::Sha512) => "ECDSA_SHA_512",
            Self::Ed25519 => "ED25519_SHA_512",
            Self::Ed25519Ph => "ED25519_PH_SHA_512",
            Self::MlDsa => "ML_DSA_SHAKE_256",
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        PairSpec::ALL
            .into_iter()
            .flat_map(PairSpec::signing_algorithms)
            .copied()
            .find(|algorithm| algorithm.name() == name)
    }
}

/// What the bytes to be signed are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// The message.
    Raw,
    /// The message's digest by the algorithm's hash. Under Ed25519ph, which always hashes, it is hashed again,
    /// as AWS KMS does.
    Digest,
    /// ML-DSA's message representative mu, 64 bytes (FIPS 204 section 6.2).
    ExternalMu,
}

/// RSAES-OAEP (RFC 8017 section 7.1), MGF1 with the same hash, empty label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Oaep {
    /// With SHA-1 (of which OAEP needs no collision resistance).
    Sha1,
    /// With SHA-256.
    Sha256,
}

impl Oaep {
    /// The key service's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "RSAES_OAEP_SHA_1",
            Self::Sha256 => "RSAES_OAEP_SHA_256",
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256].into_iter().find(|algorithm| algorithm.name() == name)
    }
}
