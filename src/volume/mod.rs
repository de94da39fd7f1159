//! Layer 6: encrypted files. The bytes are described in docs/format.md; each module here owns one part
//! of that page, and [`layout`] all arithmetic between plaintext offsets and pages. [`disk`] is the
//! backing directory as the volume sees it.

pub mod block;
pub mod content;
pub mod descriptor;
pub mod disk;
pub mod epoch;
mod error;
pub mod header;
pub mod host;
pub mod keys;
pub mod layout;
pub mod locks;
pub mod mend;
pub mod names;
#[cfg(test)]
mod sample;

pub use error::{Result, VolumeError};

/// Version of the on-disk format, as docs/format.md states it.
pub const FORMAT_VERSION: u32 = 1;
