//! ML-DSA (FIPS 204) and ML-KEM (FIPS 203).

use aws_lc_rs::encoding::{AsDer, AsRawBytes, PqdsaPrivateKeyRaw, PublicKeyX509Der};
use aws_lc_rs::kem::{self, Ciphertext, DecapsulationKey, EncapsulationKey};
use aws_lc_rs::signature::{
    self, KeyPair, ParsedPublicKey, PqdsaKeyPair, PqdsaSigningAlgorithm, PqdsaVerificationAlgorithm,
    UnparsedPublicKey,
};

use super::native::{self, ParameterSet};
use super::{BAD_KIND, BAD_PRIVATE, BAD_PUBLIC, MessageType, PairSpec, UNSUITED, ecc};
use crate::crypto::{CryptoError, SecretVec};

const REFUSED: CryptoError = CryptoError::Library { what: "to work with a post-quantum key" };
/// Length of mu in bytes (FIPS 204 section 6.2).
const MU_LEN: usize = 64;

/// A private key of ML-DSA.
pub(super) struct Signing {
    set: ParameterSet,
    key: PqdsaKeyPair,
}

impl Signing {
    pub(super) fn generate(spec: PairSpec) -> Result<Self, CryptoError> {
        let (set, algorithm, _) = ml_dsa(spec)?;
        Ok(Self { set, key: PqdsaKeyPair::generate(algorithm).map_err(|_| REFUSED)? })
    }

    /// A key without its seed is refused: it could not be written again.
    pub(super) fn from_pkcs8(spec: PairSpec, document: &[u8]) -> Result<Self, CryptoError> {
        let (set, algorithm, _) = ml_dsa(spec)?;
        let key = PqdsaKeyPair::from_pkcs8(algorithm, document).map_err(|_| BAD_PRIVATE)?;
        key.to_pkcs8v1().map_err(|_| BAD_PRIVATE)?;
        Ok(Self { set, key })
    }

    pub(super) fn to_pkcs8(&self) -> Result<SecretVec, CryptoError> {
        Ok(super::secret(self.key.to_pkcs8v1().map_err(|_| REFUSED)?.as_ref()))
    }

    pub(super) fn public_der(&self) -> Result<Vec<u8>, CryptoError> {
        let der: PublicKeyX509Der<'static> = self.key.public_key().as_der().map_err(|_| REFUSED)?;
        Ok(der.as_ref().to_vec())
    }

    pub(super) fn sign(&self, kind: MessageType, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut out = vec![0; self.key.algorithm().signature_len()];
        match kind {
            MessageType::Raw => {
                let len =
                    self.key.sign(message, &mut out).map_err(|_| CryptoError::Library { what: "to sign" })?;
                out.truncate(len);
                Ok(out)
            }
            MessageType::ExternalMu => {
                let private: PqdsaPrivateKeyRaw<'static> =
                    self.key.private_key().as_raw_bytes().map_err(|_| REFUSED)?;
                native::sign_mu(self.set, private.as_ref(), mu(message)?, &mut out)?;
                Ok(out)
            }
            MessageType::Digest => Err(BAD_KIND),
        }
    }
}

pub(super) fn check_signing_public(spec: PairSpec, der: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let (_, _, algorithm) = ml_dsa(spec)?;
    let read = ecc::canonical(ParsedPublicKey::new(algorithm, der))?;
    // The library takes the bare key too.
    if read == der { Ok(read) } else { Err(BAD_PUBLIC) }
}

pub(super) fn verify(
    spec: PairSpec,
    der: &[u8],
    kind: MessageType,
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    let (set, signing, algorithm) = ml_dsa(spec)?;
    match kind {
        MessageType::Raw => UnparsedPublicKey::new(algorithm, der)
            .verify(message, signature)
            .map_err(|_| CryptoError::NotAuthentic),
        MessageType::ExternalMu => {
            // RFC 9881: the key is what stands last in the SubjectPublicKeyInfo.
            let start = der.len().checked_sub(signing.public_key_len()).ok_or(BAD_PUBLIC)?;
            native::verify_mu(set, &der[start..], mu(message)?, signature)
        }
        MessageType::Digest => Err(BAD_KIND),
    }
}

fn mu(message: &[u8]) -> Result<&[u8; MU_LEN], CryptoError> {
    message.try_into().map_err(|_| CryptoError::BadLength { what: "message representative mu" })
}

type MlDsa = (ParameterSet, &'static PqdsaSigningAlgorithm, &'static PqdsaVerificationAlgorithm);

fn ml_dsa(spec: PairSpec) -> Result<MlDsa, CryptoError> {
    match spec {
        PairSpec::MlDsa44 => {
            Ok((ParameterSet::MlDsa44, &signature::ML_DSA_44_SIGNING, &signature::ML_DSA_44))
        }
        PairSpec::MlDsa65 => {
            Ok((ParameterSet::MlDsa65, &signature::ML_DSA_65_SIGNING, &signature::ML_DSA_65))
        }
        PairSpec::MlDsa87 => {
            Ok((ParameterSet::MlDsa87, &signature::ML_DSA_87_SIGNING, &signature::ML_DSA_87))
        }
        _ => Err(UNSUITED),
    }
}

/// A private key of ML-KEM, as FIPS 203 writes it: dk_PKE | ek | H(ek) | z.
pub(super) struct Decapsulation {
    set: &'static KemSet,
    key: DecapsulationKey,
    encapsulation: Vec<u8>,
}

impl Decapsulation {
    pub(super) fn generate(spec: PairSpec) -> Result<Self, CryptoError> {
        let key = DecapsulationKey::generate(kem_set(spec)?.algorithm).map_err(|_| REFUSED)?;
        let bytes = key.key_bytes().map_err(|_| REFUSED)?;
        Self::from_bytes(spec, bytes.as_ref())
    }

    pub(super) fn from_bytes(spec: PairSpec, bytes: &[u8]) -> Result<Self, CryptoError> {
        let set = kem_set(spec)?;
        // FIPS 203 section 7.3, type check: the length. The hash in the key is checked by every decapsulation.
        let key = DecapsulationKey::new(set.algorithm, bytes).map_err(|_| BAD_PRIVATE)?;
        let encapsulation = bytes[set.encapsulation_at..][..set.encapsulation_len].to_vec();
        Ok(Self { set, key, encapsulation })
    }

    pub(super) fn to_bytes(&self) -> Result<SecretVec, CryptoError> {
        Ok(super::secret(self.key.key_bytes().map_err(|_| REFUSED)?.as_ref()))
    }

    pub(super) fn public_der(&self) -> Result<Vec<u8>, CryptoError> {
        let mut der = self.set.der_head();
        der.extend_from_slice(&self.encapsulation);
        Ok(der)
    }

    pub(super) fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretVec, CryptoError> {
        if ciphertext.len() != self.set.ciphertext_len {
            return Err(CryptoError::BadLength { what: "ciphertext of ML-KEM" });
        }
        let secret = self.key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| BAD_PRIVATE)?;
        Ok(super::secret(secret.as_ref()))
    }
}

pub(super) fn check_kem_public(spec: PairSpec, der: &[u8]) -> Result<Vec<u8>, CryptoError> {
    encapsulation_key(spec, der)?;
    Ok(der.to_vec())
}

pub(super) fn encapsulate(spec: PairSpec, der: &[u8]) -> Result<(Vec<u8>, SecretVec), CryptoError> {
    let (ciphertext, secret) = encapsulation_key(spec, der)?.encapsulate().map_err(|_| BAD_PUBLIC)?;
    Ok((ciphertext.as_ref().to_vec(), super::secret(secret.as_ref())))
}

fn encapsulation_key(spec: PairSpec, der: &[u8]) -> Result<EncapsulationKey, CryptoError> {
    let set = kem_set(spec)?;
    let bytes = der.strip_prefix(set.der_head().as_slice()).ok_or(BAD_PUBLIC)?;
    EncapsulationKey::new(set.algorithm, bytes).map_err(|_| BAD_PUBLIC)
}

/// One parameter set of FIPS 203 section 8, table 3; lengths in bytes.
struct KemSet {
    algorithm: &'static kem::Algorithm,
    encapsulation_len: usize,
    /// Where the encapsulation key stands in the decapsulation key: 384 k.
    encapsulation_at: usize,
    ciphertext_len: usize,
    /// The last number of the object identifier 2.16.840.1.101.3.4.4.x.
    identifier: u8,
}

impl KemSet {
    /// SubjectPublicKeyInfo (RFC 9935) up to the key: sequence, algorithm without parameters, bit string.
    fn der_head(&self) -> Vec<u8> {
        let object = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x04, self.identifier];
        // Both lengths are between 256 and 65535: two bytes after 0x82.
        let [b1, b0] = (self.encapsulation_len as u16 + 1).to_be_bytes();
        let [a1, a0] = (self.encapsulation_len as u16 + 1 + 4 + 2 + object.len() as u16).to_be_bytes();
        let mut head = vec![0x30, 0x82, a1, a0, 0x30, object.len() as u8];
        head.extend_from_slice(&object);
        head.extend_from_slice(&[0x03, 0x82, b1, b0, 0x00]);
        head
    }
}

static ML_KEM_512: KemSet = KemSet {
    algorithm: &kem::ML_KEM_512,
    encapsulation_len: 800,
    encapsulation_at: 768,
    ciphertext_len: 768,
    identifier: 1,
};
static ML_KEM_768: KemSet = KemSet {
    algorithm: &kem::ML_KEM_768,
    encapsulation_len: 1184,
    encapsulation_at: 1152,
    ciphertext_len: 1088,
    identifier: 2,
};
static ML_KEM_1024: KemSet = KemSet {
    algorithm: &kem::ML_KEM_1024,
    encapsulation_len: 1568,
    encapsulation_at: 1536,
    ciphertext_len: 1568,
    identifier: 3,
};

fn kem_set(spec: PairSpec) -> Result<&'static KemSet, CryptoError> {
    match spec {
        PairSpec::MlKem512 => Ok(&ML_KEM_512),
        PairSpec::MlKem768 => Ok(&ML_KEM_768),
        PairSpec::MlKem1024 => Ok(&ML_KEM_1024),
        _ => Err(UNSUITED),
    }
}
