//! Unique ids and secrets, in AWS's forms.

use super::Result;
use crate::crypto::{SecretVec, random};

/// What an id is of; AWS's prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unique {
    /// AIDA.
    User,
    /// AGPA.
    Group,
    /// AROA.
    Role,
    /// ANPA.
    Policy,
    /// AKIA: an access key that lasts.
    AccessKey,
    /// ASIA: an access key of a session.
    SessionKey,
}

impl Unique {
    fn form(self) -> (&'static str, usize) {
        match self {
            Self::User => ("AIDA", 17),
            Self::Group => ("AGPA", 17),
            Self::Role => ("AROA", 17),
            Self::Policy => ("ANPA", 17),
            Self::AccessKey => ("AKIA", 16),
            Self::SessionKey => ("ASIA", 16),
        }
    }
}

/// A fresh id: the prefix and 85 (access keys: 80) random bits in base32.
pub fn unique_id(of: Unique) -> Result<String> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (prefix, length) = of.form();
    let bytes: [u8; 17] = random()?;
    // 32 divides 256: every letter is as likely as any other.
    let letters = bytes.iter().take(length).map(|b| char::from(LETTERS[usize::from(b % 32)]));
    Ok(prefix.chars().chain(letters).collect())
}

/// A fresh secret access key: 240 random bits, 40 characters.
pub fn new_secret() -> Result<SecretVec> {
    use base64::Engine;
    let bytes = zeroize::Zeroizing::new(random::<30>()?);
    let text = base64::engine::general_purpose::STANDARD.encode(&bytes[..]);
    Ok(SecretVec::new(text.into_bytes()))
}
