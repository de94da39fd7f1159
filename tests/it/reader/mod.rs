//! The independent reader: a second implementation of docs/format.md, written from that page alone, with
//! RustCrypto's algorithms and nothing of kmsfs. What kmsfs writes, this must open; where the two
//! disagree, the page decides.

mod cross;
mod file;
mod fresh;
mod handmade;
mod primitives;
mod sealed;
mod volume;
mod xattr;

use std::collections::BTreeMap;
use std::path::Path;

/// Errors are sentences that begin with the part that failed.
pub type Result<T> = std::result::Result<T, String>;

/// An encryption context.
pub type Context = BTreeMap<String, String>;

/// Opens a wrapped key: context, ARN of the KMS key, ciphertext.
pub type Unwrap<'a> = &'a dyn Fn(&Context, &str, &[u8]) -> Result<[u8; 32]>;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    /// A FIFO, socket or device.
    Special,
}

/// One object of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Plaintext path below the root, without a leading slash; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is, or why it cannot be read.
    pub node: Result<Node>,
    /// Decrypted attributes by their full names.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All of a volume that is not mounted, sorted by path.
pub fn read_volume(root: &Path, unwrap: Unwrap) -> Result<Vec<Entry>> {
    let volume = volume::open(root, unwrap)?;
    let mut out = Vec::new();
    volume.walk(root, b"", &mut out);
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}
