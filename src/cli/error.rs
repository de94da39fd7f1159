//! What a verb may fail with, and what the program then ends with.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::kms::identity::IdentityErrorKind;
use crate::kms::{KeyHolder, KeyState, KmsError, KmsErrorKind};
use crate::mount::MountError;
use crate::volume::VolumeError;

/// Shorthand.
pub type Result<T> = std::result::Result<T, CliError>;

/// What the program ends with: promised to scripts (docs/cli.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Something of the system failed: a file, a pipe, the network.
    Failure = 1,
    /// The command line is not understood (clap's own number).
    Usage = 2,
    /// The key service refused: its error's name stands in the message.
    Refused = 3,
    /// The key service's home cannot be used: root key, passphrase, store.
    Home = 4,
    /// The volume cannot be used: absent, damaged, of another region or a newer format.
    Volume = 5,
    /// The volume, the mount point or the mount is in use.
    Busy = 6,
    /// The audit log, or a file, is not what was written.
    Tampered = 7,
    /// `iam simulate`: the request would be denied.
    Denied = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Shown by `kmsfs --help`; docs/cli.md says the same.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the system failed: a file, a pipe, a program
  2  the command line is not understood
  3  the key service refused (the message begins with its error's name)
  4  the key service's home cannot be used: root key, passphrase, store
  5  the volume cannot be used: absent, damaged, of another region, a newer format
  6  the volume, the mount point or the mount is in use
  7  the audit log or a file is not what was written
  8  `iam simulate`: the request would be denied";

/// What went wrong, to what, and what to do: one line.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file or another thing of the system.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something else that did not work, in a whole sentence.
    #[error("{0}")]
    Failed(String),
    /// Options or arguments that do not fit.
    #[error("{0}")]
    Usage(String),
    /// The key service's answer.
    #[error("{}", with_advice(.0, advice(.0)))]
    Refused(#[from] KmsError),
    /// Whom an option names is not there.
    #[error(
        "{}: {}; a principal is a user's name or ARN, a role's ARN, or an assumed-role session's ARN (`kmsfs iam user list`, \
         `kmsfs iam role list`)", .0.kind.name(), .0.message
    )]
    NoPrincipal(KmsError),
    /// The key service cannot be opened.
    #[error("{0}")]
    Home(String),
    /// The volume cannot be opened.
    #[error("{path}: {}", volume_text(.source))]
    Volume {
        /// Its directory.
        path: String,
        /// Why.
        source: VolumeError,
    },
    /// The kernel or fusermount3 refused.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Not while somebody else uses it.
    #[error("{0}")]
    Busy(String),
    /// Not what was written.
    #[error("{0}")]
    Tampered(String),
    /// What a mount told through its control socket.
    #[error("{message}")]
    Mounted {
        /// What the program ends with.
        exit: Exit,
        /// A whole sentence.
        message: String,
    },
    /// Nobody reads what is printed any more; that is no failure.
    #[error("the reader of the output is gone")]
    NoReader,
}

impl CliError {
    /// An error of the system, on a path.
    pub fn io(what: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("{what} {}", path.display()), source }
    }

    /// An error of a volume.
    pub fn volume(path: &Path, source: VolumeError) -> Self {
        Self::Volume { path: path.display().to_string(), source }
    }

    /// What a mount told of a request that cannot be, with what was named in it.
    pub fn of_usage(self, named: &Path) -> Self {
        match self {
            Self::Mounted { exit: Exit::Usage, message } => {
                Self::Usage(format!("{}: {message}", named.display()))
            }
            error => error,
        }
    }

    /// What the program ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoReader => Exit::Success,
            Self::Io { .. } | Self::Failed(_) => Exit::Failure,
            Self::Usage(_) => Exit::Usage,
            Self::Refused(_) | Self::NoPrincipal(_) | Self::Volume { source: VolumeError::Key(_), .. } => {
                Exit::Refused
            }
            Self::Home(_) => Exit::Home,
            Self::Volume {
                source: VolumeError::InUse | VolumeError::NotSettled | VolumeError::NotStill,
                ..
            }
            | Self::Mount(MountError::Busy { .. })
            | Self::Busy(_) => Exit::Busy,
            Self::Volume { source: VolumeError::Backing { .. }, .. } | Self::Mount(_) => Exit::Failure,
            Self::Volume { .. } => Exit::Volume,
            Self::Tampered(_) => Exit::Tampered,
            Self::Mounted { exit, .. } => *exit,
        }
    }
}

/// A volume's error; a refusal of the key service with its name and what to do.
fn volume_text(error: &VolumeError) -> String {
    let VolumeError::Key(refused) = error else { return error.to_string() };
    let advice = match refused.kind {
        KmsErrorKind::NotFound if refused.holder == KeyHolder::Embedded => {
            "; the home that made the volume has its KMS key: name it with --home or KMSFS_HOME"
        }
        _ => advice(refused),
    };
    with_advice(refused, advice)
}

/// The key service's own words, and behind them, in the same sentence, what to do.
fn with_advice(refused: &KmsError, advice: &str) -> String {
    let message = refused.message.strip_suffix('.').filter(|_| !advice.is_empty());
    format!("{}: {}{advice}", refused.kind.name(), message.unwrap_or(&refused.message))
}

/// The same where AWS KMS answered.
fn at_aws(kind: KmsErrorKind) -> &'static str {
    match kind {
        KmsErrorKind::AccessDenied => "; whose credentials these are tells `aws sts get-caller-identity`",
        KmsErrorKind::Disabled => "; `aws kms enable-key` makes it usable again",
        KmsErrorKind::InvalidState(KeyState::PendingDeletion) => "; `aws kms cancel-key-deletion` keeps it",
        KmsErrorKind::NotFound => "; region, account and endpoint must be the key's",
        KmsErrorKind::DependencyTimeout => "; try again when it answers",
        _ => "",
    }
}

/// What to do next, where the key service's own words do not say it.
fn advice(error: &KmsError) -> &'static str {
    match error.kind {
        kind if error.holder == KeyHolder::Aws => at_aws(kind),
        KmsErrorKind::NotFound => "; `kmsfs key list` and `kmsfs alias list` show what there is",
        KmsErrorKind::Disabled => "; `kmsfs key enable` makes it usable again",
        KmsErrorKind::MaterialExpired | KmsErrorKind::InvalidState(crate::kms::KeyState::PendingImport) => {
            "; `kmsfs key import` gives it its material again"
        }
        KmsErrorKind::ExpiredImportToken | KmsErrorKind::InvalidImportToken => {
            "; `kmsfs key import --get-parameters` gives a new one"
        }
        KmsErrorKind::InvalidState(crate::kms::KeyState::PendingDeletion) => {
            "; `kmsfs key cancel-deletion` keeps it"
        }
        KmsErrorKind::InvalidCiphertext => {
            "; give the same --context as when it was made, and of a public key's ciphertext the key that is its own"
        }
        KmsErrorKind::AlreadyExists => "; `kmsfs alias list` shows it",
        KmsErrorKind::InvalidGrantId => "; `kmsfs key grant list` shows the grants of a key",
        KmsErrorKind::DependencyTimeout => "; try again",
        KmsErrorKind::AccessDenied => {
            "; `kmsfs key policy` shows who may (a service-managed key allows only its service to use it), `kmsfs iam simulate` \
             by what"
        }
        KmsErrorKind::Identity(IdentityErrorKind::NoSuchEntity) => {
            "; the `list` of `kmsfs iam user`, `group`, `role`, `policy` and `access-key` shows what there is"
        }
        KmsErrorKind::Identity(_)
        | KmsErrorKind::IncorrectKey
        | KmsErrorKind::IncorrectKeyMaterial
        | KmsErrorKind::InvalidAliasName
        | KmsErrorKind::InvalidArn
        | KmsErrorKind::InvalidKeyUsage
        | KmsErrorKind::InvalidMac
        | KmsErrorKind::InvalidMarker
        | KmsErrorKind::InvalidSignature
        | KmsErrorKind::Internal
        | KmsErrorKind::InvalidState(_)
        | KmsErrorKind::LimitExceeded
        | KmsErrorKind::MalformedPolicyDocument
        | KmsErrorKind::DryRun
        | KmsErrorKind::InvalidGrantToken
        | KmsErrorKind::Serialization
        | KmsErrorKind::Tag
        | KmsErrorKind::Trail(_)
        | KmsErrorKind::UnknownOperation
        | KmsErrorKind::UnsupportedOperation
        | KmsErrorKind::Validation => "",
    }
}
