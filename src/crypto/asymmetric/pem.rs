//! Keys as people pass them on: PEM (RFC 7468, sections 10 and 13).

use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

use super::{BAD_PRIVATE, BAD_PUBLIC, PairSpec, PrivateKey, PublicKey};
use crate::crypto::CryptoError;

const LABEL: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";

impl PrivateKey {
    /// Reads an RSA key of 2048, 3072 or 4096 bits: PKCS#8 (RFC 5958) without a passphrase, in PEM or in DER.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] for anything else.
    pub fn rsa_from_pem_or_der(bytes: &[u8]) -> Result<Self, CryptoError> {
        let decoded;
        let der = if is_pem(bytes) {
            let (label, der) = pem_rfc7468::decode_vec(bytes).map_err(|_| BAD_PRIVATE)?;
            decoded = Zeroizing::new(der);
            if label != PRIVATE {
                return Err(BAD_PRIVATE);
            }
            &decoded[..]
        } else {
            bytes
        };
        let specs = [PairSpec::Rsa2048, PairSpec::Rsa3072, PairSpec::Rsa4096];
        specs.into_iter().find_map(|spec| Self::from_bytes(spec, der).ok()).ok_or(BAD_PRIVATE)
    }
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(10).any(|window| window == b"-----BEGIN")
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo of any spec, in PEM or in DER.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] if it is neither, or of no spec.
    pub fn from_pem_or_der(bytes: &[u8]) -> Result<Self, CryptoError> {
        if !is_pem(bytes) {
            return Self::parse(bytes);
        }
        match pem_rfc7468::decode_vec(bytes) {
            Ok((LABEL, der)) => Self::parse(&der),
            _ => Err(BAD_PUBLIC),
        }
    }

    /// In PEM, with a newline at the end.
    ///
    /// # Errors
    /// [`CryptoError::Library`] if the library refuses the length.
    pub fn to_pem(&self) -> Result<String, CryptoError> {
        pem_rfc7468::encode_string(LABEL, LineEnding::LF, &self.der)
            .map_err(|_| CryptoError::Library { what: "to write a key as PEM" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_read_in_pem_and_der() {
        let key = PrivateKey::generate(PairSpec::Rsa2048).unwrap();
        let der = key.to_bytes().unwrap();
        let pem = |label| pem_rfc7468::encode_string(label, LineEnding::LF, der.expose()).unwrap();
        for form in [der.expose(), pem("PRIVATE KEY").as_bytes()] {
            let read = PrivateKey::rsa_from_pem_or_der(form).unwrap();
            assert_eq!(read.public_key().unwrap(), key.public_key().unwrap());
        }
        for label in ["ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "PUBLIC KEY"] {
            assert!(PrivateKey::rsa_from_pem_or_der(pem(label).as_bytes()).is_err(), "{label}");
        }
        let curve = PrivateKey::generate(PairSpec::P256).unwrap().to_bytes().unwrap();
        for bad in [curve.expose(), &der.expose()[..100], b""] {
            assert!(PrivateKey::rsa_from_pem_or_der(bad).is_err());
        }
    }

    #[test]
    fn pem_and_der_are_the_same_key() {
        for spec in [PairSpec::P256, PairSpec::Rsa2048, PairSpec::MlKem512] {
            let key = PrivateKey::generate(spec).unwrap().public_key().unwrap();
            let pem = key.to_pem().unwrap();
            assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n") && pem.ends_with("KEY-----\n"), "{pem}");
            assert!(pem.lines().all(|line| line.len() <= 64));
            let windows = pem.replace('\n', "\r\n");
            for form in [pem.as_bytes(), windows.as_bytes(), key.der()] {
                assert_eq!(PublicKey::from_pem_or_der(form).unwrap(), key);
            }
            for bad in
                [pem.replace("PUBLIC", "RSA PUBLIC"), pem.replace("M", "N"), pem[..pem.len() / 2].to_owned()]
            {
                assert!(PublicKey::from_pem_or_der(bad.as_bytes()).is_err(), "{bad}");
            }
        }
        assert!(PublicKey::from_pem_or_der(b"").is_err());
    }
}
