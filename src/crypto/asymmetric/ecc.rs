//! Elliptic curves: ECDSA and ECDH on the NIST curves and secp256k1 (FIPS 186-5, SP 800-56A, SEC 2), Ed25519
//! and Ed25519ph (RFC 8032).

use aws_lc_rs::agreement;
use aws_lc_rs::encoding::{AsBigEndian, AsDer, Curve25519SeedBin, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, Ed25519KeyPair, KeyPair,
    ParsedPublicKey, UnparsedPublicKey,
};

use super::{
    BAD_KIND, BAD_PRIVATE, BAD_PUBLIC, MessageType, PairSpec, Sha2, SigningAlgorithm, UNSUITED, native,
};
use crate::crypto::{CryptoError, SecretVec};

const REFUSED: CryptoError = CryptoError::Library { what: "to work with an elliptic curve key" };

/// A private key on a Weierstrass curve.
pub(super) struct Private {
    signing: EcdsaKeyPair,
    /// Only on the NIST curves.
    agreeing: Option<agreement::PrivateKey>,
}

impl Private {
    pub(super) fn generate(spec: PairSpec) -> Result<Self, CryptoError> {
        let key = EcdsaKeyPair::generate(signs_with(spec)?).map_err(|_| REFUSED)?;
        let document = key.to_pkcs8v1().map_err(|_| REFUSED)?;
        Self::from_pkcs8(spec, document.as_ref())
    }

    pub(super) fn from_pkcs8(spec: PairSpec, document: &[u8]) -> Result<Self, CryptoError> {
        let signing = EcdsaKeyPair::from_pkcs8(signs_with(spec)?, document).map_err(|_| BAD_PRIVATE)?;
        let agreeing = match agrees_with(spec) {
            Some(algorithm) => Some(
                agreement::PrivateKey::from_private_key_der(algorithm, document).map_err(|_| BAD_PRIVATE)?,
            ),
            None => None,
        };
        Ok(Self { signing, agreeing })
    }

    pub(super) fn to_pkcs8(&self) -> Result<SecretVec, CryptoError> {
        Ok(super::secret(self.signing.to_pkcs8v1().map_err(|_| REFUSED)?.as_ref()))
    }

    pub(super) fn public_der(&self) -> Result<Vec<u8>, CryptoError> {
        let der: PublicKeyX509Der<'static> = self.signing.public_key().as_der().map_err(|_| REFUSED)?;
        Ok(der.as_ref().to_vec())
    }

    pub(super) fn sign(
        &self,
        algorithm: SigningAlgorithm,
        kind: MessageType,
        message: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let SigningAlgorithm::Ecdsa(hash) = algorithm else { return Err(UNSUITED) };
        let signature = match kind {
            MessageType::Raw => self.signing.sign(&SystemRandom::new(), message),
            MessageType::Digest => self.signing.sign_digest(&hash.import(message)?),
            MessageType::ExternalMu => return Err(BAD_KIND),
        };
        Ok(signature.map_err(|_| CryptoError::Library { what: "to sign" })?.as_ref().to_vec())
    }

    pub(super) fn agree(&self, peer: &[u8]) -> Result<SecretVec, CryptoError> {
        let own = self.agreeing.as_ref().ok_or(UNSUITED)?;
        let peer = agreement::UnparsedPublicKey::new(own.algorithm(), peer);
        agreement::agree(own, peer, BAD_PUBLIC, |secret| Ok(super::secret(secret)))
    }
}

/// Reads a SubjectPublicKeyInfo; a compressed point is expanded.
pub(super) fn check_public(spec: PairSpec, der: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let read = canonical(ParsedPublicKey::new(verifies_with(spec)?, der))?;
    // The library takes bare points too, and curves that are written out instead of named.
    let compressed = read.len() - field_len(spec)?;
    if read == der || (der.len() == compressed && super::is_one_sequence(der)) {
        Ok(read)
    } else {
        Err(BAD_PUBLIC)
    }
}

pub(super) fn verify(
    spec: PairSpec,
    der: &[u8],
    hash: Sha2,
    kind: MessageType,
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    let key = UnparsedPublicKey::new(verifies_with(spec)?, der);
    match kind {
        MessageType::Raw => key.verify(message, signature),
        MessageType::Digest => key.verify_digest(&hash.import(message)?, signature),
        MessageType::ExternalMu => return Err(BAD_KIND),
    }
    .map_err(|_| CryptoError::NotAuthentic)
}

/// A private key of Ed25519.
pub(super) struct EdPrivate(Ed25519KeyPair);

impl EdPrivate {
    pub(super) fn generate() -> Result<Self, CryptoError> {
        Ok(Self(Ed25519KeyPair::generate().map_err(|_| REFUSED)?))
    }

    pub(super) fn from_pkcs8(document: &[u8]) -> Result<Self, CryptoError> {
        Ok(Self(Ed25519KeyPair::from_pkcs8(document).map_err(|_| BAD_PRIVATE)?))
    }

    pub(super) fn to_pkcs8(&self) -> Result<SecretVec, CryptoError> {
        Ok(super::secret(self.0.to_pkcs8v1().map_err(|_| REFUSED)?.as_ref()))
    }

    pub(super) fn public_der(&self) -> Result<Vec<u8>, CryptoError> {
        let der: PublicKeyX509Der<'static> = self.0.public_key().as_der().map_err(|_| REFUSED)?;
        Ok(der.as_ref().to_vec())
    }

    pub(super) fn sign(
        &self,
        algorithm: SigningAlgorithm,
        kind: MessageType,
        message: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        match (algorithm, kind) {
            (SigningAlgorithm::Ed25519, MessageType::Raw) => {
                let signature = self.0.try_sign(message);
                Ok(signature.map_err(|_| CryptoError::Library { what: "to sign" })?.as_ref().to_vec())
            }
            (SigningAlgorithm::Ed25519Ph, MessageType::Raw | MessageType::Digest) => {
                let seed: Curve25519SeedBin<'static> =
                    self.0.seed().and_then(|seed| seed.as_be_bytes()).map_err(|_| REFUSED)?;
                let seed = seed.as_ref().try_into().map_err(|_| REFUSED)?;
                Ok(native::sign_ed25519ph(seed, message)?.to_vec())
            }
            _ => Err(BAD_KIND),
        }
    }
}

pub(super) fn check_ed_public(der: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let read = canonical(ParsedPublicKey::new(&signature::ED25519, der))?;
    // The library takes the bare 32 bytes too.
    if read == der { Ok(read) } else { Err(BAD_PUBLIC) }
}

pub(super) fn verify_ed(
    der: &[u8],
    algorithm: SigningAlgorithm,
    kind: MessageType,
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    match (algorithm, kind) {
        (SigningAlgorithm::Ed25519, MessageType::Raw) => UnparsedPublicKey::new(&signature::ED25519, der)
            .verify(message, signature)
            .map_err(|_| CryptoError::NotAuthentic),
        (SigningAlgorithm::Ed25519Ph, MessageType::Raw | MessageType::Digest) => {
            // RFC 8410: the key is what stands last in the SubjectPublicKeyInfo.
            let public = der.last_chunk().ok_or(BAD_PUBLIC)?;
            let signature = signature.try_into().map_err(|_| CryptoError::NotAuthentic)?;
            native::verify_ed25519ph(public, message, signature)
        }
        _ => Err(BAD_KIND),
    }
}

/// The library's own encoding of what it has read.
pub(super) fn canonical(
    parsed: Result<ParsedPublicKey, aws_lc_rs::error::KeyRejected>,
) -> Result<Vec<u8>, CryptoError> {
    let der: PublicKeyX509Der<'static> = parsed.map_err(|_| BAD_PUBLIC)?.as_der().map_err(|_| BAD_PUBLIC)?;
    Ok(der.as_ref().to_vec())
}

/// Length of a coordinate in bytes.
fn field_len(spec: PairSpec) -> Result<usize, CryptoError> {
    match spec {
        PairSpec::P256 | PairSpec::Secp256k1 => Ok(32),
        PairSpec::P384 => Ok(48),
        PairSpec::P521 => Ok(66),
        _ => Err(UNSUITED),
    }
}

fn signs_with(spec: PairSpec) -> Result<&'static EcdsaSigningAlgorithm, CryptoError> {
    match spec {
        PairSpec::P256 => Ok(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        PairSpec::P384 => Ok(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        PairSpec::P521 => Ok(&signature::ECDSA_P521_SHA512_ASN1_SIGNING),
        PairSpec::Secp256k1 => Ok(&signature::ECDSA_P256K1_SHA256_ASN1_SIGNING),
        _ => Err(UNSUITED),
    }
}

fn verifies_with(spec: PairSpec) -> Result<&'static EcdsaVerificationAlgorithm, CryptoError> {
    match spec {
        PairSpec::P256 => Ok(&signature::ECDSA_P256_SHA256_ASN1),
        PairSpec::P384 => Ok(&signature::ECDSA_P384_SHA384_ASN1),
        PairSpec::P521 => Ok(&signature::ECDSA_P521_SHA512_ASN1),
        PairSpec::Secp256k1 => Ok(&signature::ECDSA_P256K1_SHA256_ASN1),
        _ => Err(UNSUITED),
    }
}

fn agrees_with(spec: PairSpec) -> Option<&'static agreement::Algorithm> {
    match spec {
        PairSpec::P256 => Some(&agreement::ECDH_P256),
        PairSpec::P384 => Some(&agreement::ECDH_P384),
        PairSpec::P521 => Some(&agreement::ECDH_P521),
        _ => None,
    }
}
