//! Secrets in memory: zeroized on drop, never printed.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::CryptoError;

/// `N` secret bytes. No `Debug`, no `Display`, constant-time equality only through
/// [`super::mac::equal`]. Key roles are newtypes around it (see `secret_newtype!`).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Takes the bytes; the caller's copy should be zeroized if it outlives the call.
    pub fn new(bytes: [u8; N]) -> Self {
        Self(Box::new(bytes))
    }

    /// Random bytes of the operating system.
    pub fn generate() -> Result<Self, CryptoError> {
        let mut secret = Self::new([0; N]);
        super::fill_random(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// From a slice of exactly `N` bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, CryptoError> {
        let mut secret = Self::new([0; N]);
        if bytes.len() != N {
            return Err(CryptoError::BadLength { what: "key" });
        }
        secret.0.copy_from_slice(bytes);
        Ok(secret)
    }

    /// The bytes, for the algorithm that needs them.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// The bytes, to be filled.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

/// Secret bytes of a length known at run time (plaintexts of the key service, passphrases).
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct SecretVec(Vec<u8>);

impl SecretVec {
    /// Takes ownership; nothing else keeps a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the algorithm that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Declares a newtype for one role of key, so that two roles cannot be confused.
macro_rules! secret_newtype {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(pub $crate::crypto::Secret<{ $len }>);

        impl $name {
            /// The bytes, for the algorithm that needs them.
            pub fn expose(&self) -> &[u8; $len] {
                self.0.expose()
            }
        }
    };
}

pub(crate) use secret_newtype;
