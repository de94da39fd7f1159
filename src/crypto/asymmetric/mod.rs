//! Key pairs: RSA (RFC 8017), elliptic curves (FIPS 186-5, SEC 2, RFC 8032), ML-DSA (FIPS 204) and ML-KEM
//! (FIPS 203), behind one private key and one public key that know their spec.
//!
//! Everything is AWS-LC's. What its safe interface lacks (Ed25519ph, ML-DSA of an external mu) is called
//! directly, in `native`. Signatures, and ciphertexts of RSA-OAEP and ML-KEM, are the published encodings,
//! so that any other implementation can verify, encrypt and encapsulate with the public key alone.

mod ecc;
mod native;
mod pem;
mod pq;
mod rsa;
mod spec;
#[cfg(test)]
mod tests;

use super::{CryptoError, SecretVec};
pub use spec::{MessageType, Oaep, PairSpec, Sha2, SigningAlgorithm};

/// A private key, checked and ready. AWS-LC zeroizes it when it is freed. No `Debug`.
pub struct PrivateKey {
    spec: PairSpec,
    inner: Inner,
}

enum Inner {
    Rsa(rsa::Private),
    Ec(ecc::Private),
    Ed(ecc::EdPrivate),
    MlDsa(pq::Signing),
    MlKem(pq::Decapsulation),
}

impl PrivateKey {
    /// A new key of the library's generator. RSA takes up to a second.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub fn generate(spec: PairSpec) -> Result<Self, CryptoError> {
        let inner = match spec {
            PairSpec::Rsa2048 | PairSpec::Rsa3072 | PairSpec::Rsa4096 => {
                Inner::Rsa(rsa::Private::generate(spec)?)
            }
            PairSpec::P256 | PairSpec::P384 | PairSpec::P521 | PairSpec::Secp256k1 => {
                Inner::Ec(ecc::Private::generate(spec)?)
            }
            PairSpec::Ed25519 => Inner::Ed(ecc::EdPrivate::generate()?),
            PairSpec::MlDsa44 | PairSpec::MlDsa65 | PairSpec::MlDsa87 => {
                Inner::MlDsa(pq::Signing::generate(spec)?)
            }
            PairSpec::MlKem512 | PairSpec::MlKem768 | PairSpec::MlKem1024 => {
                Inner::MlKem(pq::Decapsulation::generate(spec)?)
            }
        };
        Ok(Self { spec, inner })
    }

    /// Loads what [`Self::to_bytes`] gave, or somebody else's PKCS#8.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] if the bytes are no valid key of exactly this spec.
    pub fn from_bytes(spec: PairSpec, bytes: &[u8]) -> Result<Self, CryptoError> {
        // The library reads a document and leaves what follows it.
        if !spec.encapsulates() && !is_one_sequence(bytes) {
            return Err(BAD_PRIVATE);
        }
        let inner = match spec {
            PairSpec::Rsa2048 | PairSpec::Rsa3072 | PairSpec::Rsa4096 => {
                Inner::Rsa(rsa::Private::from_pkcs8(spec, bytes)?)
            }
            PairSpec::P256 | PairSpec::P384 | PairSpec::P521 | PairSpec::Secp256k1 => {
                Inner::Ec(ecc::Private::from_pkcs8(spec, bytes)?)
            }
            PairSpec::Ed25519 => Inner::Ed(ecc::EdPrivate::from_pkcs8(bytes)?),
            PairSpec::MlDsa44 | PairSpec::MlDsa65 | PairSpec::MlDsa87 => {
                Inner::MlDsa(pq::Signing::from_pkcs8(spec, bytes)?)
            }
            PairSpec::MlKem512 | PairSpec::MlKem768 | PairSpec::MlKem1024 => {
                Inner::MlKem(pq::Decapsulation::from_bytes(spec, bytes)?)
            }
        };
        Ok(Self { spec, inner })
    }

    /// The private key to keep: PKCS#8 (RFC 5208) DER, with the seed alone for ML-DSA (RFC 9881); for ML-KEM, of
    /// which the library has no PKCS#8, the decapsulation key of FIPS 203.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub fn to_bytes(&self) -> Result<SecretVec, CryptoError> {
        match &self.inner {
            Inner::Rsa(key) => key.to_pkcs8(),
            Inner::Ec(key) => key.to_pkcs8(),
            Inner::Ed(key) => key.to_pkcs8(),
            Inner::MlDsa(key) => key.to_pkcs8(),
            Inner::MlKem(key) => key.to_bytes(),
        }
    }

    /// What kind it is.
    pub fn spec(&self) -> PairSpec {
        self.spec
    }

    /// The public half.
    ///
    /// # Errors
    /// [`CryptoError::Library`].
    pub fn public_key(&self) -> Result<PublicKey, CryptoError> {
        let der = match &self.inner {
            Inner::Rsa(key) => key.public_der()?,
            Inner::Ec(key) => key.public_der()?,
            Inner::Ed(key) => key.public_der()?,
            Inner::MlDsa(key) => key.public_der()?,
            Inner::MlKem(key) => key.public_der()?,
        };
        Ok(PublicKey { spec: self.spec, der })
    }

    /// The public half of an RSA key as PKCS#1 writes it (RFC 8017, RSAPublicKey), DER; none of other keys.
    pub fn public_pkcs1(&self) -> Option<Vec<u8>> {
        match &self.inner {
            Inner::Rsa(key) => Some(key.public_pkcs1()),
            _ => None,
        }
    }

    /// Signs.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] if key, algorithm and kind of message do not go together,
    /// [`CryptoError::BadLength`] of a digest or mu.
    pub fn sign(
        &self,
        algorithm: SigningAlgorithm,
        kind: MessageType,
        message: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        suits(self.spec, algorithm)?;
        match &self.inner {
            Inner::Rsa(key) => key.sign(algorithm, kind, message),
            Inner::Ec(key) => key.sign(algorithm, kind, message),
            Inner::Ed(key) => key.sign(algorithm, kind, message),
            Inner::MlDsa(key) => key.sign(kind, message),
            Inner::MlKem(_) => Err(UNSUITED),
        }
    }

    /// RSAES-OAEP decryption.
    ///
    /// # Errors
    /// [`CryptoError::NotAuthentic`] for every ciphertext that does not open, whatever is wrong with it;
    /// [`CryptoError::Rejected`] if the key is not RSA.
    pub fn decrypt(&self, algorithm: Oaep, ciphertext: &[u8]) -> Result<SecretVec, CryptoError> {
        match &self.inner {
            Inner::Rsa(key) => key.decrypt(algorithm, ciphertext),
            _ => Err(UNSUITED),
        }
    }

    /// The raw shared secret of ECDH (SP 800-56A section 5.7.1.2): the x coordinate, as long as the curve's field.
    /// Derive keys from it; it is not one.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] unless both keys are on the same NIST curve.
    pub fn agree(&self, peer: &PublicKey) -> Result<SecretVec, CryptoError> {
        match &self.inner {
            Inner::Ec(key) if self.spec.agrees() && self.spec == peer.spec => key.agree(&peer.der),
            _ => Err(UNSUITED),
        }
    }

    /// ML-KEM decapsulation (FIPS 203 section 7.3): 32 bytes. A changed ciphertext of the right length gives
    /// another secret, not an error (implicit rejection).
    ///
    /// # Errors
    /// [`CryptoError::BadLength`] of the ciphertext, [`CryptoError::Rejected`] if the key is not ML-KEM.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretVec, CryptoError> {
        match &self.inner {
            Inner::MlKem(key) => key.decapsulate(ciphertext),
            _ => Err(UNSUITED),
        }
    }
}

/// A public key, checked. Its form is X.509's SubjectPublicKeyInfo (RFC 5280), DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    spec: PairSpec,
    der: Vec<u8>,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo of exactly this spec.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] for anything else, points that are not on the curve included.
    pub fn from_der(spec: PairSpec, der: &[u8]) -> Result<Self, CryptoError> {
        let der = match spec {
            PairSpec::Rsa2048 | PairSpec::Rsa3072 | PairSpec::Rsa4096 => rsa::check_public(spec, der)?,
            PairSpec::P256 | PairSpec::P384 | PairSpec::P521 | PairSpec::Secp256k1 => {
                ecc::check_public(spec, der)?
            }
            PairSpec::Ed25519 => ecc::check_ed_public(der)?,
            PairSpec::MlDsa44 | PairSpec::MlDsa65 | PairSpec::MlDsa87 => pq::check_signing_public(spec, der)?,
            PairSpec::MlKem512 | PairSpec::MlKem768 | PairSpec::MlKem1024 => pq::check_kem_public(spec, der)?,
        };
        Ok(Self { spec, der })
    }

    /// Reads a SubjectPublicKeyInfo of any spec.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] if it is of none.
    pub fn parse(der: &[u8]) -> Result<Self, CryptoError> {
        PairSpec::ALL
            .into_iter()
            .find_map(|spec| Self::from_der(spec, der).ok())
            .ok_or(CryptoError::Rejected { what: "public key" })
    }

    /// What kind it is.
    pub fn spec(&self) -> PairSpec {
        self.spec
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Checks a signature of [`PrivateKey::sign`].
    ///
    /// # Errors
    /// [`CryptoError::NotAuthentic`] if it is not this key's over this message; otherwise as signing.
    pub fn verify(
        &self,
        algorithm: SigningAlgorithm,
        kind: MessageType,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        suits(self.spec, algorithm)?;
        match algorithm {
            SigningAlgorithm::RsaPss(_) | SigningAlgorithm::RsaPkcs1(_) => {
                rsa::verify(&self.der, algorithm, kind, message, signature)
            }
            SigningAlgorithm::Ecdsa(hash) => {
                ecc::verify(self.spec, &self.der, hash, kind, message, signature)
            }
            SigningAlgorithm::Ed25519 | SigningAlgorithm::Ed25519Ph => {
                ecc::verify_ed(&self.der, algorithm, kind, message, signature)
            }
            SigningAlgorithm::MlDsa => pq::verify(self.spec, &self.der, kind, message, signature),
        }
    }

    /// RSAES-OAEP encryption. The plaintext has at most [`Self::encrypts_at_most`] bytes.
    ///
    /// # Errors
    /// [`CryptoError::BadLength`] of the plaintext, [`CryptoError::Rejected`] if the key is not RSA.
    pub fn encrypt(&self, algorithm: Oaep, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let most = self.encrypts_at_most(algorithm).ok_or(UNSUITED)?;
        if plaintext.len() > most {
            return Err(CryptoError::BadLength { what: "plaintext of RSA-OAEP" });
        }
        rsa::encrypt(&self.der, algorithm, plaintext)
    }

    /// The longest plaintext in bytes; none if the key is not RSA.
    pub fn encrypts_at_most(&self, algorithm: Oaep) -> Option<usize> {
        let modulus = self.spec.modulus_len()?;
        // RFC 8017 section 7.1.1: k - 2 hLen - 2.
        Some(match algorithm {
            Oaep::Sha1 => modulus - 42,
            Oaep::Sha256 => modulus - 66,
        })
    }

    /// ML-KEM encapsulation (FIPS 203 section 7.2): the ciphertext for the key's owner, and the 32-byte secret.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] if the key is not ML-KEM, or not one that FIPS 203 lets pass.
    pub fn encapsulate(&self) -> Result<(Vec<u8>, SecretVec), CryptoError> {
        if !self.spec.encapsulates() {
            return Err(UNSUITED);
        }
        pq::encapsulate(self.spec, &self.der)
    }
}

/// An operation or algorithm that keys of this spec do not have.
const UNSUITED: CryptoError = CryptoError::Rejected { what: "algorithm" };
/// A private key that is none.
const BAD_PRIVATE: CryptoError = CryptoError::Rejected { what: "private key" };
/// A public key that is none.
const BAD_PUBLIC: CryptoError = CryptoError::Rejected { what: "public key" };
/// A kind of message that the algorithm does not sign.
const BAD_KIND: CryptoError = CryptoError::Rejected { what: "kind of message" };

fn suits(spec: PairSpec, algorithm: SigningAlgorithm) -> Result<(), CryptoError> {
    if spec.signing_algorithms().contains(&algorithm) { Ok(()) } else { Err(UNSUITED) }
}

/// The library's copy is zeroized with its document; this one with the vector.
fn secret(bytes: &[u8]) -> SecretVec {
    SecretVec::new(bytes.to_vec())
}

/// Whether the bytes are one DER sequence and nothing else; what is in it is the library's to read.
fn is_one_sequence(der: &[u8]) -> bool {
    match *der {
        [0x30, len @ ..=0x7f, ref rest @ ..] => rest.len() == usize::from(len),
        [0x30, 0x81, len, ref rest @ ..] => rest.len() == usize::from(len),
        [0x30, 0x82, a, b, ref rest @ ..] => rest.len() == usize::from(u16::from_be_bytes([a, b])),
        _ => false,
    }
}
