//! Layer 6: encrypted files. A [`Volume`] is a plain struct over a backing directory and a key service;
//! it knows nothing of FUSE, and tests drive it without a mount.
//!
//! The bytes are described in docs/format.md.

pub mod disk;
