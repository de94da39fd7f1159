//! Key derivation: HKDF-SHA-256 (RFC 5869), counter-mode HMAC (NIST SP 800-108), Argon2id (RFC 9106).

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{hkdf, kdf};

use super::{CryptoError, Secret};

struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA-256 (RFC 5869): extract with `salt`, expand with the concatenation of `info`.
pub fn hkdf<const N: usize>(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Result<Secret<N>, CryptoError> {
    let mut out = Secret::new([0; N]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(info, Len(N))
        .and_then(|okm| okm.fill(out.expose_mut()))
        .map_err(|_| CryptoError::Library { what: "to derive a key" })?;
    Ok(out)
}

/// SP 800-108r1 section 4.1: counter mode, HMAC-SHA-256, 32-bit big-endian counter before the fixed
/// input `label | 0x00 | context`.
pub fn counter_mode(secret: &[u8; 32], label: &[u8], context: &[u8]) -> Result<Secret<32>, CryptoError> {
    let algorithm = kdf::get_kbkdf_ctr_hmac_algorithm(kdf::KbkdfCtrHmacAlgorithmId::Sha256)
        .ok_or(CryptoError::Library { what: "SP 800-108" })?;
    let mut info = Vec::with_capacity(label.len() + 1 + context.len());
    info.extend_from_slice(label);
    info.push(0);
    info.extend_from_slice(context);
    let mut out = Secret::new([0; 32]);
    kdf::kbkdf_ctr_hmac(algorithm, secret, &info, out.expose_mut())
        .map_err(|_| CryptoError::Library { what: "to derive a key" })?;
    Ok(out)
}

/// The costs of [`passphrase_key`]; stored beside what it protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl PassphraseCost {
    /// RFC 9106's second recommended option (64 MiB, 3 passes, 4 lanes).
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// Refuses costs of a damaged file that would take the machine's memory or days.
    fn params(self) -> Result<Params, CryptoError> {
        let bad = CryptoError::BadLength { what: "Argon2id cost" };
        if self.memory_kib > 4 * 1024 * 1024 || self.passes > 100 || self.lanes > 64 {
            return Err(bad);
        }
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| bad)
    }
}

/// Argon2id (RFC 9106), version 0x13.
pub fn passphrase_key(
    passphrase: &[u8],
    salt: &[u8; 16],
    cost: PassphraseCost,
) -> Result<Secret<32>, CryptoError> {
    let mut out = Secret::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.params()?)
        .hash_password_into(passphrase, salt, out.expose_mut())
        .map_err(|_| CryptoError::Library { what: "to stretch the passphrase" })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test case 1 (its 42 bytes).
    #[test]
    fn hkdf_agrees_with_rfc_5869() {
        let salt: Vec<u8> = (0..13).collect();
        let info: Vec<u8> = (0xf0..0xfa).collect();
        let out: Secret<42> = hkdf(&[0x0b; 22], &salt, &[&info[..4], &info[4..]]).unwrap();
        assert_eq!(
            hex::encode(out.expose()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    #[test]
    fn absurd_costs_are_refused() {
        let cost = PassphraseCost { memory_kib: u32::MAX, ..PassphraseCost::RECOMMENDED };
        assert!(passphrase_key(b"x", &[0; 16], cost).is_err());
    }
}
