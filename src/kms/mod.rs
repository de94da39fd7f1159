//! Layer 5: the key service. The one place where anything is allowed, done and recorded.

mod backup;
pub mod blob;
mod cache;
mod call;
mod check;
mod clock;
mod codec;
mod commit;
mod conditions;
mod error;
mod events;
mod export;
mod generation;
mod global;
mod grant_rows;
mod grants;
mod hidden;
pub mod home;
pub mod identity;
mod imported;
mod managed;
mod operation;
mod ops;
mod owned;
mod places;
mod region;
mod related;
mod remote;
pub mod root;
mod rows;
mod schedule;
mod service;
mod session;
mod siblings;
mod signed;
mod simulate;
mod spec;
mod state;
mod together;
mod token;
mod trail;
mod usage;
pub mod wire;

pub use backup::{BackupFile, Manifest, Restored};
pub use clock::{Clock, SystemClock};
pub use error::{KeyState, KmsError, KmsErrorKind};
pub use export::DigestPublicKey;
pub use home::{Home, HomeError, Kms, KmsOptions};
pub use operation::Operation;
pub use places::{Place, PlaceKind, Places};
pub use service::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyHolder, KeyMetadata, KeyService, Ledger,
    ReEncrypted, RemoteCall, SnapshotAction,
};
pub use session::{Caller, Session};
pub use simulate::Simulated;
pub use together::{Answer, Unrecorded};
pub use trail::TrailErrorKind;
pub use usage::KeptKey;

#[cfg(test)]
mod tests;
