//! Layer 5: the key service. The one place where anything is allowed, done and recorded.

pub mod blob;
mod clock;
mod codec;
mod error;
mod generation;
pub mod home;
mod operation;
mod region;
pub mod root;
mod service;
mod session;
pub mod wire;

pub use clock::{Clock, SystemClock};
pub use error::{KeyState, KmsError, KmsErrorKind};
pub use home::{Home, HomeError, Kms, KmsOptions};
pub use operation::Operation;
pub use service::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyMetadata, KeyService, Ledger, ReEncrypted,
};
pub use session::{Caller, Session};
