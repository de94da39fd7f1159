//! Layer 6: encrypted files. The bytes are described in docs/format.md; each module here owns one part
//! of that page, and [`layout`] all arithmetic between plaintext offsets and pages. [`disk`] is the
//! backing directory as the volume sees it.

mod attrs;
pub mod block;
pub mod breakglass;
pub mod census;
pub mod content;
mod core;
pub mod descriptor;
pub mod disk;
mod each;
pub mod edk;
pub mod epoch;
mod error;
pub mod extract;
mod file;
mod files;
pub mod header;
mod hold;
pub mod host;
pub mod keys;
pub mod layout;
mod listing;
pub mod locks;
pub mod mend;
pub mod names;
mod nodes;
pub mod recipients;
mod recover;
pub mod rekey;
pub mod rewrap;
#[cfg(test)]
mod sample;
pub mod sealed;
pub mod shred;
pub mod transcode;
mod tree;
mod types;
mod walk;

pub use self::core::{Core, Volume};
pub use attrs::ENVELOPE;
pub use error::{Result, VolumeError};
pub use hold::{Hold, Still};
pub use types::{
    Attr, Caller, DirEntry, Envelope, EnvelopeKey, HandleId, NodeId, OpenMode, ROOT, SetAttr, Status,
    VolumeOptions,
};

/// Version of the on-disk format, as docs/format.md states it.
pub const FORMAT_VERSION: u32 = 1;
