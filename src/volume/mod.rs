//! Layer 6: encrypted files. A [`Volume`] is a plain struct over a backing directory and a key service;
//! it knows nothing of FUSE, and tests drive it without a mount.
//!
//! The bytes are described in docs/format.md.

pub mod disk;
mod error;
mod types;

use std::sync::Arc;

pub use error::{Result, VolumeError};
pub use types::{
    Attr, Caller, DirEntry, Envelope, EnvelopeKey, HandleId, NodeId, OpenMode, ROOT, SetAttr, Status,
    VolumeOptions,
};

use crate::kms::{KeyService, Ledger};
use disk::{Dir, FsStat, Kind, RenameMode, XattrMode};

/// An encrypted directory, open. All methods may be called from several threads.
pub struct Volume {}

#[allow(unused_variables, clippy::missing_errors_doc)] // signatures first; the bodies follow at once
impl Volume {
    /// Makes a volume in an empty directory: volume key, descriptor, root directory id, epoch marker.
    /// `key_id` names the KMS key for the volume key and for every new file. Returns the volume id (hex).
    pub fn init(dir: &dyn Dir, keys: &dyn KeyService, key_id: &str) -> Result<String> {
        unimplemented!()
    }

    /// Opens a volume: checks the descriptor, takes the lock, begins an epoch (read-write).
    pub fn open(
        dir: Arc<dyn Dir>,
        keys: Arc<dyn KeyService>,
        ledger: Arc<dyn Ledger>,
        options: VolumeOptions,
    ) -> Result<Self> {
        unimplemented!()
    }

    /// Clean unmount: finalises all, syncs the filesystem, marks the epoch clean. Idempotent. Dropping
    /// a volume without it leaves the epoch unclean, as a crash would.
    pub fn close(&self) -> Result<()> {
        unimplemented!()
    }

    /// To be called every 250 ms: if the key service's generation moved, drops leases and data keys that
    /// wait; decides again about open files. Answers the nodes whose cached pages the kernel must drop.
    pub fn tick(&self) -> Vec<NodeId> {
        unimplemented!()
    }

    /// Finds an entry and counts one more lookup of its node.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Attr> {
        unimplemented!()
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, node: NodeId, count: u64) {
        unimplemented!()
    }

    /// stat; `handle` is an open file of the node, if the caller has one.
    pub fn getattr(&self, node: NodeId, handle: Option<HandleId>) -> Result<Attr> {
        unimplemented!()
    }

    /// truncate, chmod, chown, utimens. A change of size or owner clears suid and sgid as POSIX says.
    pub fn setattr(
        &self,
        caller: Caller,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> Result<Attr> {
        unimplemented!()
    }

    /// The plaintext target.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        unimplemented!()
    }

    /// A regular file, FIFO, socket or device; `perm` has the umask applied. Counts a lookup.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        perm: u32,
        rdev: u64,
    ) -> Result<Attr> {
        unimplemented!()
    }

    /// Counts a lookup.
    pub fn mkdir(&self, caller: Caller, parent: NodeId, name: &[u8], perm: u32) -> Result<Attr> {
        unimplemented!()
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Counts a lookup.
    pub fn symlink(&self, caller: Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Attr> {
        unimplemented!()
    }

    /// A further name for a file. Counts a lookup.
    pub fn link(&self, node: NodeId, to_parent: NodeId, to_name: &[u8]) -> Result<Attr> {
        unimplemented!()
    }

    /// rename, RENAME_NOREPLACE, RENAME_EXCHANGE.
    pub fn rename(
        &self,
        parent: NodeId,
        name: &[u8],
        to_parent: NodeId,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        unimplemented!()
    }

    /// Creates a regular file (EEXIST if there) and opens it. Counts a lookup.
    pub fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: &[u8],
        perm: u32,
        mode: OpenMode,
    ) -> Result<(Attr, HandleId)> {
        unimplemented!()
    }

    /// Opens a regular file: the decision of the key service, or of a live lease.
    pub fn open_file(&self, caller: Caller, node: NodeId, mode: OpenMode) -> Result<HandleId> {
        unimplemented!()
    }

    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    pub fn read(&self, handle: HandleId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        unimplemented!()
    }

    /// Writes all of `data`; clears suid and sgid.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// fsync, or fdatasync if `data_only`.
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        unimplemented!()
    }

    /// close(2) of one descriptor: nothing is lost that a later error could tell.
    pub fn flush(&self, handle: HandleId) -> Result<()> {
        unimplemented!()
    }

    /// The last close; the last writer's finalises the file.
    pub fn release(&self, handle: HandleId) -> Result<()> {
        unimplemented!()
    }

    /// Takes a snapshot of a directory's entries.
    pub fn open_dir(&self, node: NodeId) -> Result<HandleId> {
        unimplemented!()
    }

    /// Entries from `offset` (0 is the start; a start after a rewind reads the directory anew), until
    /// `add` answers false (full: that entry was not taken).
    pub fn read_dir(
        &self,
        handle: HandleId,
        offset: u64,
        add: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        unimplemented!()
    }

    /// The same with attributes; counts a lookup for each entry that `add` took, except `.` and `..`
    /// (whose attr is None, as is that of an entry that vanished or cannot be read).
    pub fn read_dir_plus(
        &self,
        handle: HandleId,
        offset: u64,
        add: &mut dyn FnMut(&DirEntry, Option<&Attr>) -> bool,
    ) -> Result<()> {
        unimplemented!()
    }

    /// Ends [`Self::open_dir`].
    pub fn release_dir(&self, handle: HandleId) {
        unimplemented!()
    }

    /// fsync of a directory.
    pub fn fsync_dir(&self, node: NodeId) -> Result<()> {
        unimplemented!()
    }

    /// statvfs: sizes of the backing, the longest plaintext name.
    pub fn statfs(&self) -> Result<FsStat> {
        unimplemented!()
    }

    /// `name` is the full name (`user.x`, `trusted.x`: encrypted; `system.posix_acl_*`: native).
    /// `user.kmsfs.envelope` is made up: the file's [`Envelope`] as JSON.
    pub fn get_xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        unimplemented!()
    }

    /// See [`Self::get_xattr`].
    pub fn set_xattr(&self, node: NodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        unimplemented!()
    }

    /// Full plaintext names.
    pub fn list_xattr(&self, node: NodeId) -> Result<Vec<Vec<u8>>> {
        unimplemented!()
    }

    /// See [`Self::get_xattr`].
    pub fn remove_xattr(&self, node: NodeId, name: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// A file's envelope.
    pub fn inspect(&self, node: NodeId) -> Result<Envelope> {
        unimplemented!()
    }

    /// State of the volume.
    pub fn status(&self) -> Status {
        unimplemented!()
    }
}
