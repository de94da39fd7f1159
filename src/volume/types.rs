//! What goes in and out of a [`super::Volume`].

use std::time::Duration;

use super::disk::{Change, Kind, Stat};
use super::recipients::OtherRegions;

/// Names an object for as long as the kernel may ask for it: from the lookup that gave it to the last
/// [`super::Volume::forget`]. Stable over remounts where the backing's inode numbers are.
pub type NodeId = u64;

/// The root directory.
pub const ROOT: NodeId = 1;

/// An open file or directory.
pub type HandleId = u64;

/// Who asks: new objects belong to them, events name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// An object: its node and its stat, in which `size` counts plaintext bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The node.
    pub node: NodeId,
    /// Distinguishes objects that bore one node number one after the other.
    pub generation: u64,
    /// dev is the backing's; ino is the node.
    pub stat: Stat,
}

/// setattr: a field that is None (or Omit) stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// New size in plaintext bytes.
    pub size: Option<u64>,
    /// Mode, owner, times.
    pub change: Change,
    /// Clear suid, and sgid of a group-executable file (FATTR_KILL_SUIDGID).
    pub kill_priv: bool,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenMode {
    /// Reads are asked for (with a writeback cache the kernel reads on write-only handles too).
    pub read: bool,
    /// Writes are asked for.
    pub write: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// With `truncate`: clear suid, and sgid of a group-executable file (FUSE_OPEN_KILL_SUIDGID).
    pub kill_priv: bool,
}

/// One entry of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Plaintext name; `.` and `..` come first.
    pub name: Vec<u8>,
    /// Kind.
    pub kind: Kind,
    /// A number for d_ino; for a node that is not known yet it is the backing's.
    pub ino: u64,
    /// Where the next call goes on after this entry.
    pub next_offset: u64,
}

/// What a mount may set.
#[derive(Debug, Clone)]
pub struct VolumeOptions {
    /// Nothing is written; several such mounts may share a volume, but none beside a read-write one.
    pub read_only: bool,
    /// How long a decision of the key service about a file holds without asking again.
    pub lease: Duration,
    /// OpenFile events reach the log before open() answers.
    pub audit_opens_sync: bool,
    /// New files are given to the caller (needs root).
    pub chown_to_caller: bool,
    /// Accept a missing or foreign epoch marker (a restored copy) and begin a new one.
    pub reset_epoch: bool,
    /// Data keys that wait ready for new files.
    pub pool: usize,
    /// Mend files of an unclean epoch in a background thread (tests switch it off and call it).
    pub mend_in_background: bool,
    /// Region of the key service: a volume of another one is refused. Empty: not compared.
    pub service_region: String,
    /// Directories of the backing that are held open at once.
    pub max_open_dirs: usize,
    /// Key services that wrap for recipients in other regions.
    pub regions: OtherRegions,
    /// Open with the keys that are wrapped for this recipient alone, which may be one that no mount opens: to recover.
    pub only: Option<String>,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            lease: Duration::from_secs(300),
            audit_opens_sync: false,
            chown_to_caller: false,
            reset_epoch: false,
            pool: 64,
            mend_in_background: true,
            service_region: String::new(),
            max_open_dirs: 256,
            regions: OtherRegions::default(),
            only: None,
        }
    }
}

/// One file's envelope, as `kmsfs inspect` shows it. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Envelope {
    /// Hex.
    pub volume_id: String,
    /// Hex.
    pub file_id: String,
    /// Plaintext bytes, as of the last finalising.
    pub size: u64,
    /// Epoch of the last finalising.
    pub epoch: u64,
    /// Generation of the content key.
    pub generation: u16,
    /// The file may have holes.
    pub sparse: bool,
    /// Hex.
    pub key_commitment: String,
    /// The wrapped data keys.
    pub data_keys: Vec<EnvelopeKey>,
    /// What every call for this file's key is bound to.
    pub encryption_context: std::collections::BTreeMap<String, String>,
}

/// One wrapped data key of an [`Envelope`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EnvelopeKey {
    /// KMS key.
    pub key_arn: String,
    /// Base64.
    pub ciphertext: String,
}

/// State of an open volume, for `kmsfs status`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Hex.
    pub volume_id: String,
    /// Region of the key service it belongs to.
    pub region: String,
    /// The running epoch (read-write), or the last one.
    pub epoch: u64,
    /// Epochs that ended without a clean unmount and whose files are not all mended.
    pub mending: Vec<u64>,
    /// Open files.
    pub open_files: usize,
    /// Known nodes.
    pub nodes: usize,
}
