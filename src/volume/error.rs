//! The volume's errors. errno appears only in `mount`.

use std::io;

use crate::crypto::CryptoError;
use crate::kms::{KeyHolder, KmsError};

/// Shorthand.
pub type Result<T> = std::result::Result<T, VolumeError>;

/// What can go wrong with an encrypted directory. The texts name what it happened to; those that a
/// person meets at the command line also say what to do.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The backing filesystem refused; its error is the caller's.
    #[error("{what}: {source}")]
    Backing {
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The key service refused.
    #[error("{0}")]
    Key(#[from] KmsError),
    /// Access to the file's key was withdrawn while the file was open.
    #[error("access to the key of file {file_id} was withdrawn while it was open")]
    Revoked {
        /// Hex.
        file_id: String,
    },
    /// The file was shredded while it was open.
    #[error("the file was shredded while it was open; nothing opens it any more")]
    Shredded,
    /// Bytes that do not authenticate or break the format.
    #[error("damaged: {what}")]
    Damaged {
        /// What does not fit, and where.
        what: String,
    },
    /// The cryptographic library failed (no randomness, no memory).
    #[error("{0}")]
    Crypto(#[from] CryptoError),

    /// No such entry.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory was given.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A name over 255 bytes, or a target over 4095.
    #[error("the name is too long")]
    NameTooLong,
    /// Written to on a read-only mount.
    #[error("the volume is mounted read-only")]
    ReadOnly,
    /// The node's object is gone.
    #[error("the file is gone")]
    Stale,
    /// An argument that means nothing here.
    #[error("{0}")]
    Invalid(&'static str),
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// What this filesystem does not do.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// Beyond the largest size.
    #[error("the file would be too large")]
    TooLarge,
    /// A handle that was never given or is closed.
    #[error("no such open file")]
    BadHandle,
    /// Reserved or forbidden.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),

    /// No descriptor.
    #[error("{path} is not a kmsfs volume: it has no kmsfs.json; make one with `kmsfs init`")]
    NotAVolume {
        /// The directory.
        path: String,
    },
    /// Init of what is one already, or is not empty.
    #[error("cannot make a volume here: {0}")]
    CannotInit(&'static str),
    /// A descriptor that cannot be used.
    #[error("the descriptor kmsfs.json {0}")]
    Descriptor(String),
    /// A volume of another region.
    #[error("the volume belongs to region {volume}, the key service is in {service}; use --region {volume}")]
    WrongRegion {
        /// Of the volume.
        volume: String,
        /// Of the key service.
        service: String,
    },
    /// A volume whose keys are at another key service.
    #[error("the volume's keys are {}", match .volume {
        KeyHolder::Embedded => "in an embedded key service; AWS KMS, which was to be asked, does not have them",
        KeyHolder::Aws => "at AWS KMS; the embedded key service, which this command uses, does not have them",
    })]
    WrongService {
        /// Of the volume.
        volume: KeyHolder,
    },
    /// The epoch marker is missing or does not authenticate.
    #[error(
        "the epoch marker .kmsfs/epoch {0}; it tells which files a crash may have cut. If this is a restored copy, \
         mount it once with --reset-epoch"
    )]
    Epoch(&'static str),
    /// Files that a crash may have cut are not all mended.
    #[error(
        "the volume was not closed cleanly, or what a crash may have cut is not all mended; mount it read-write, which \
         mends it, and unmount it again (`kmsfs mount`, `kmsfs umount`)"
    )]
    NotSettled,
    /// What changes the volume does not come to an end.
    #[error(
        "something that changes the volume does not come to an end; try again when its disk is less busy"
    )]
    NotStill,
    /// A mount or a command holds the volume.
    #[error(
        "the volume is in use by a mount, or by a command that is at work on it; unmount it first (`kmsfs umount`)"
    )]
    InUse,
}

impl VolumeError {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// True for "no such entry", whoever said so.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound => true,
            Self::Backing { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Names the attempt in an error of the backing.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: &'static str) -> Result<T>;

    /// The same for what is done to an entry: the backing's errors about it hold for the plaintext entry too.
    fn on_entry(self, what: &'static str) -> Result<T>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, what: &'static str) -> Result<T> {
        self.map_err(|source| VolumeError::Backing { what, source })
    }

    fn on_entry(self, what: &'static str) -> Result<T> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VolumeError::NotFound,
            io::ErrorKind::AlreadyExists => VolumeError::Exists,
            io::ErrorKind::NotADirectory => VolumeError::NotDirectory,
            io::ErrorKind::IsADirectory => VolumeError::IsDirectory,
            io::ErrorKind::DirectoryNotEmpty => VolumeError::NotEmpty,
            _ => VolumeError::Backing { what, source },
        })
    }
}
