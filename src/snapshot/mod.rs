//! Layer 7: the archive. A snapshot is a faithful capture of a volume's backing tree (encrypted names, wrapped keys as
//! they stand), kept in a [`depot`]: a [`descriptor`] in the clear, a [`manifest`] in the volume's own file format, and
//! packs of ciphertext pages that snapshots share. docs/format.md, "Snapshots", gives the bytes.

mod capture;
pub mod catalogue;
pub mod copy;
pub mod create;
pub mod depot;
pub mod descriptor;
pub mod dir;
mod error;
mod fixed;
pub mod manifest;
mod packs;
pub mod restore;
pub mod s3;
mod scout;
pub mod share;
pub mod verify;

pub use catalogue::{Opened, Snapshot};
pub use error::{Result, SnapshotError};
