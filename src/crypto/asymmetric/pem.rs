//! Public keys as people pass them on: PEM (RFC 7468, section 13).

use pem_rfc7468::LineEnding;

use super::{BAD_PUBLIC, PublicKey};
use crate::crypto::CryptoError;

const LABEL: &str = "PUBLIC KEY";

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo of any spec, in PEM or in DER.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] if it is neither, or of no spec.
    pub fn from_pem_or_der(bytes: &[u8]) -> Result<Self, CryptoError> {
        if !bytes.windows(10).any(|window| window == b"-----BEGIN") {
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
    use super::super::{PairSpec, PrivateKey};
    use super::*;

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
