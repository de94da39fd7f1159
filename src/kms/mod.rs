//! Layer 5: the key service. The one place where anything is allowed, done and recorded.

pub mod blob;
mod error;
pub mod root;
mod service;

pub use error::{KeyState, KmsError, KmsErrorKind};
pub use service::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyMetadata, KeyService, Ledger, ReEncrypted,
};
