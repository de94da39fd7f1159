//! The errors of snapshots.

use std::io;

use crate::crypto::CryptoError;
use crate::kms::KmsError;
use crate::volume::VolumeError;

/// Shorthand.
pub type Result<T> = std::result::Result<T, SnapshotError>;

/// What can go wrong with a snapshot or the place where it is kept. Each says what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The depot's storage refused.
    #[error("{what} {path}: {source}")]
    Depot {
        /// What was attempted.
        what: &'static str,
        /// On which of the depot's objects.
        path: String,
        /// Its answer.
        source: io::Error,
    },
    /// Bytes that do not authenticate or break the format.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Of a later version.
    #[error("{0}; use a newer kmsfs")]
    Newer(String),
    /// No such snapshot.
    #[error("there is no snapshot {name:?} in {depot}; `kmsfs snapshot list` shows what there is")]
    NotFound {
        /// As it was asked for.
        name: String,
        /// Where.
        depot: String,
    },
    /// The name is taken.
    #[error("there is a snapshot {0:?} already; choose another --name, or delete that one")]
    Exists(String),
    /// Not a name of a snapshot.
    #[error(
        "{0:?} is not a name for a snapshot: letters, digits, `.`, `_` and `-`, at most 128, the first a letter or digit"
    )]
    BadName(String),
    /// Somebody else works in the depot.
    #[error("{0} is in use by another snapshot command; wait for it to end")]
    Busy(String),
    /// What this cannot do.
    #[error("{0}")]
    Refused(String),
    /// The volume's answer.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The key service's answer.
    #[error("{0}")]
    Key(#[from] KmsError),
    /// The cryptographic library failed.
    #[error("{0}")]
    Crypto(#[from] CryptoError),
}

impl SnapshotError {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// True where an object of the depot is absent.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Depot { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Names the attempt, and the object it was made on.
pub(crate) trait On<T>: Sized {
    /// Where the name costs something: made on an error only.
    fn on_named(self, what: &'static str, path: impl FnOnce() -> String) -> Result<T>;

    fn on(self, what: &'static str, path: &str) -> Result<T> {
        self.on_named(what, || path.to_owned())
    }
}

impl<T> On<T> for io::Result<T> {
    fn on_named(self, what: &'static str, path: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| SnapshotError::Depot { what, path: path(), source })
    }
}
