//! RSA (RFC 8017).

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{self, KeyPair, RsaEncoding, RsaKeyPair, RsaParameters, UnparsedPublicKey};
use zeroize::Zeroize;

use super::{
    BAD_KIND, BAD_PRIVATE, BAD_PUBLIC, MessageType, Oaep, PairSpec, Sha2, SigningAlgorithm, UNSUITED,
};
use crate::crypto::{CryptoError, SecretVec};

/// A private key. A key of the service either signs or decrypts; the library has a type for each.
pub(super) struct Private {
    signing: RsaKeyPair,
    decrypting: OaepPrivateDecryptingKey,
}

impl Private {
    pub(super) fn generate(spec: PairSpec) -> Result<Self, CryptoError> {
        let size = match spec {
            PairSpec::Rsa2048 => KeySize::Rsa2048,
            PairSpec::Rsa3072 => KeySize::Rsa3072,
            PairSpec::Rsa4096 => KeySize::Rsa4096,
            _ => return Err(UNSUITED),
        };
        let refused = CryptoError::Library { what: "to generate an RSA key" };
        let key = PrivateDecryptingKey::generate(size).map_err(|_| refused)?;
        let document: Pkcs8V1Der<'static> = key.as_der().map_err(|_| refused)?;
        Self::from_pkcs8(spec, document.as_ref())
    }

    pub(super) fn from_pkcs8(spec: PairSpec, document: &[u8]) -> Result<Self, CryptoError> {
        let decrypting = PrivateDecryptingKey::from_pkcs8(document).map_err(|_| BAD_PRIVATE)?;
        if Some(decrypting.key_size_bits()) != bits(spec) {
            return Err(BAD_PRIVATE);
        }
        Ok(Self {
            signing: RsaKeyPair::from_pkcs8(document).map_err(|_| BAD_PRIVATE)?,
            decrypting: OaepPrivateDecryptingKey::new(decrypting).map_err(|_| BAD_PRIVATE)?,
        })
    }

    pub(super) fn to_pkcs8(&self) -> Result<SecretVec, CryptoError> {
        let document: Pkcs8V1Der<'static> =
            self.signing.as_der().map_err(|_| CryptoError::Library { what: "to encode an RSA key" })?;
        Ok(super::secret(document.as_ref()))
    }

    pub(super) fn public_der(&self) -> Result<Vec<u8>, CryptoError> {
        let der: PublicKeyX509Der<'static> = self
            .signing
            .public_key()
            .as_der()
            .map_err(|_| CryptoError::Library { what: "to encode an RSA key" })?;
        Ok(der.as_ref().to_vec())
    }

    pub(super) fn public_pkcs1(&self) -> Vec<u8> {
        self.signing.public_key().as_ref().to_vec()
    }

    pub(super) fn sign(
        &self,
        algorithm: SigningAlgorithm,
        kind: MessageType,
        message: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (encoding, hash): (&'static dyn RsaEncoding, Sha2) = match algorithm {
            SigningAlgorithm::RsaPss(hash) => match hash {
                Sha2::Sha256 => (&signature::RSA_PSS_SHA256, hash),
                Sha2::Sha384 => (&signature::RSA_PSS_SHA384, hash),
                Sha2::Sha512 => (&signature::RSA_PSS_SHA512, hash),
            },
            SigningAlgorithm::RsaPkcs1(hash) => match hash {
                Sha2::Sha256 => (&signature::RSA_PKCS1_SHA256, hash),
                Sha2::Sha384 => (&signature::RSA_PKCS1_SHA384, hash),
                Sha2::Sha512 => (&signature::RSA_PKCS1_SHA512, hash),
            },
            _ => return Err(UNSUITED),
        };
        // Exactly the modulus' length, which the library demands.
        let mut out = vec![0; self.signing.public_modulus_len()];
        match kind {
            MessageType::Raw => self.signing.sign(encoding, &SystemRandom::new(), message, &mut out),
            MessageType::Digest => self.signing.sign_digest(encoding, &hash.import(message)?, &mut out),
            MessageType::ExternalMu => return Err(BAD_KIND),
        }
        .map_err(|_| CryptoError::Library { what: "to sign" })?;
        Ok(out)
    }

    pub(super) fn decrypt(&self, algorithm: Oaep, ciphertext: &[u8]) -> Result<SecretVec, CryptoError> {
        let mut plaintext = vec![0; self.decrypting.min_output_size()];
        let opened = self
            .decrypting
            .decrypt(library(algorithm), ciphertext, &mut plaintext, None)
            .map(|plaintext| plaintext.len());
        let Ok(len) = opened else {
            plaintext.zeroize();
            return Err(CryptoError::NotAuthentic);
        };
        plaintext[len..].zeroize();
        plaintext.truncate(len);
        Ok(SecretVec::new(plaintext))
    }
}

pub(super) fn check_public(spec: PairSpec, der: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let key = PublicEncryptingKey::from_der(der).map_err(|_| BAD_PUBLIC)?;
    if Some(key.key_size_bits()) != bits(spec) {
        return Err(BAD_PUBLIC);
    }
    let read: PublicKeyX509Der<'static> = key.as_der().map_err(|_| BAD_PUBLIC)?;
    // The library reads a document and leaves what follows it.
    if read.as_ref() == der { Ok(der.to_vec()) } else { Err(BAD_PUBLIC) }
}

pub(super) fn encrypt(der: &[u8], algorithm: Oaep, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let key = PublicEncryptingKey::from_der(der).map_err(|_| BAD_PUBLIC)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| BAD_PUBLIC)?;
    let mut out = vec![0; key.ciphertext_size()];
    let len = key
        .encrypt(library(algorithm), plaintext, &mut out, None)
        .map_err(|_| CryptoError::Library { what: "to encrypt" })?
        .len();
    out.truncate(len);
    Ok(out)
}

pub(super) fn verify(
    der: &[u8],
    algorithm: SigningAlgorithm,
    kind: MessageType,
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    let (parameters, hash): (&'static RsaParameters, Sha2) = match algorithm {
        SigningAlgorithm::RsaPss(hash) => match hash {
            Sha2::Sha256 => (&signature::RSA_PSS_2048_8192_SHA256, hash),
            Sha2::Sha384 => (&signature::RSA_PSS_2048_8192_SHA384, hash),
            Sha2::Sha512 => (&signature::RSA_PSS_2048_8192_SHA512, hash),
        },
        SigningAlgorithm::RsaPkcs1(hash) => match hash {
            Sha2::Sha256 => (&signature::RSA_PKCS1_2048_8192_SHA256, hash),
            Sha2::Sha384 => (&signature::RSA_PKCS1_2048_8192_SHA384, hash),
            Sha2::Sha512 => (&signature::RSA_PKCS1_2048_8192_SHA512, hash),
        },
        _ => return Err(UNSUITED),
    };
    let key = UnparsedPublicKey::new(parameters, der);
    match kind {
        MessageType::Raw => key.verify(message, signature),
        MessageType::Digest => key.verify_digest(&hash.import(message)?, signature),
        MessageType::ExternalMu => return Err(BAD_KIND),
    }
    .map_err(|_| CryptoError::NotAuthentic)
}

fn bits(spec: PairSpec) -> Option<usize> {
    spec.modulus_len().map(|bytes| bytes * 8)
}

fn library(algorithm: Oaep) -> &'static OaepAlgorithm {
    match algorithm {
        Oaep::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Oaep::Sha256 => &OAEP_SHA256_MGF1SHA256,
    }
}
