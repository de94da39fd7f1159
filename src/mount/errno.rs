//! What a program sees of an error, and what the log tells about it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::crypto::CryptoError;
use crate::kms::{KeyHolder, KeyState, KmsError, KmsErrorKind};
use crate::volume::{NodeId, Volume, VolumeError};

/// How long a line of the log stands for further errors of its kind.
const QUIET: Duration = Duration::from_secs(10);
/// Lines within one such time; what exceeds them is counted.
const MOST_LINES: usize = 256;

/// The number that a system call answers.
pub(crate) fn errno(error: &VolumeError) -> i32 {
    match error {
        VolumeError::Backing { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        VolumeError::Key(error) => key_errno(error.kind),
        VolumeError::Revoked { .. } | VolumeError::Shredded => libc::EKEYREVOKED,
        VolumeError::Damaged { .. } => libc::EIO,
        VolumeError::Crypto(error) => match error {
            CryptoError::NotAuthentic
            | CryptoError::BadLength { .. }
            | CryptoError::Rejected { .. }
            | CryptoError::Library { .. } => libc::EIO,
        },
        VolumeError::NotFound => libc::ENOENT,
        VolumeError::Exists => libc::EEXIST,
        VolumeError::NotDirectory => libc::ENOTDIR,
        VolumeError::IsDirectory => libc::EISDIR,
        VolumeError::NotEmpty => libc::ENOTEMPTY,
        VolumeError::NameTooLong => libc::ENAMETOOLONG,
        VolumeError::ReadOnly => libc::EROFS,
        VolumeError::Stale => libc::ESTALE,
        VolumeError::Invalid(_) => libc::EINVAL,
        VolumeError::NoXattr => libc::ENODATA,
        VolumeError::Unsupported(_) => libc::EOPNOTSUPP,
        VolumeError::TooLarge => libc::EFBIG,
        VolumeError::BadHandle => libc::EBADF,
        VolumeError::NotPermitted(_) => libc::EPERM,
        // Answers to mounting, not to a request of a mount.
        VolumeError::NotAVolume { .. }
        | VolumeError::CannotInit(_)
        | VolumeError::Descriptor(_)
        | VolumeError::WrongRegion { .. }
        | VolumeError::WrongService { .. }
        | VolumeError::Epoch(_) => libc::EIO,
        VolumeError::InUse | VolumeError::NotSettled | VolumeError::NotStill => libc::EBUSY,
    }
}

fn key_errno(kind: KmsErrorKind) -> i32 {
    match kind {
        KmsErrorKind::AccessDenied | KmsErrorKind::Identity(_) => libc::EACCES,
        KmsErrorKind::Disabled | KmsErrorKind::InvalidState(KeyState::Disabled | KeyState::PendingImport) => {
            libc::ENOKEY
        }
        KmsErrorKind::MaterialExpired => libc::EKEYEXPIRED,
        KmsErrorKind::InvalidState(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion)
        | KmsErrorKind::NotFound => libc::EKEYREVOKED,
        KmsErrorKind::InvalidState(KeyState::Creating | KeyState::Updating) => libc::ETIMEDOUT,
        KmsErrorKind::InvalidState(KeyState::Enabled)
        | KmsErrorKind::IncorrectKey
        | KmsErrorKind::InvalidArn
        | KmsErrorKind::InvalidCiphertext
        | KmsErrorKind::InvalidKeyUsage
        | KmsErrorKind::UnsupportedOperation
        | KmsErrorKind::Validation => libc::EKEYREJECTED,
        KmsErrorKind::DependencyTimeout => libc::ETIMEDOUT,
        KmsErrorKind::LimitExceeded => libc::EDQUOT,
        // A damaged store, and answers to requests that no mount makes.
        KmsErrorKind::Internal
        | KmsErrorKind::AlreadyExists
        | KmsErrorKind::InvalidAliasName
        | KmsErrorKind::InvalidMac
        | KmsErrorKind::InvalidGrantId
        | KmsErrorKind::InvalidMarker
        | KmsErrorKind::InvalidSignature
        | KmsErrorKind::MalformedPolicyDocument
        | KmsErrorKind::DryRun
        | KmsErrorKind::ExpiredImportToken
        | KmsErrorKind::IncorrectKeyMaterial
        | KmsErrorKind::InvalidImportToken
        | KmsErrorKind::InvalidGrantToken
        | KmsErrorKind::Serialization
        | KmsErrorKind::Tag
        | KmsErrorKind::Trail(_)
        | KmsErrorKind::UnknownOperation => libc::EIO,
    }
}

/// What a person can do about an error that is about a key or about damage; None for all others, which
/// tell enough by their number.
fn advice(error: &VolumeError) -> Option<&'static str> {
    match error {
        VolumeError::Key(error) if error.holder == KeyHolder::Aws => Some(match error.kind {
            KmsErrorKind::DependencyTimeout => "AWS KMS is out of reach; try again when it answers",
            _ => "so AWS KMS answered; what is to be changed is changed there, or the credentials here",
        }),
        VolumeError::Key(KmsError { kind, .. }) => Some(match kind {
            KmsErrorKind::AccessDenied => {
                "the key's policy or an identity's does not allow it; the audit log has the reason"
            }
            KmsErrorKind::Identity(_) => "who mounted the volume is not to be found in the key service",
            KmsErrorKind::Disabled | KmsErrorKind::InvalidState(KeyState::Disabled) => {
                "enable the key and open the file again"
            }
            KmsErrorKind::InvalidState(KeyState::PendingImport) => "import the key's material again",
            KmsErrorKind::MaterialExpired => "the key's material expired; import it again",
            KmsErrorKind::InvalidState(KeyState::Creating | KeyState::Updating) => {
                "the key is being copied between regions; try again"
            }
            KmsErrorKind::InvalidState(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
                "cancel the key's deletion before its day, enable it and open the file again"
            }
            KmsErrorKind::NotFound => "the key is deleted, or belongs to another region or home",
            KmsErrorKind::DependencyTimeout => "the key service is out of reach; try again when it answers",
            KmsErrorKind::LimitExceeded => "a quota of the key service is used up",
            KmsErrorKind::Internal => "the key service's home is damaged or unreadable",
            KmsErrorKind::InvalidState(KeyState::Enabled)
            | KmsErrorKind::IncorrectKey
            | KmsErrorKind::InvalidArn
            | KmsErrorKind::InvalidCiphertext
            | KmsErrorKind::InvalidKeyUsage
            | KmsErrorKind::UnsupportedOperation
            | KmsErrorKind::Validation
            | KmsErrorKind::AlreadyExists
            | KmsErrorKind::InvalidAliasName
            | KmsErrorKind::InvalidMac
            | KmsErrorKind::InvalidGrantId
            | KmsErrorKind::InvalidMarker
            | KmsErrorKind::InvalidSignature
            | KmsErrorKind::MalformedPolicyDocument
            | KmsErrorKind::DryRun
            | KmsErrorKind::ExpiredImportToken
            | KmsErrorKind::IncorrectKeyMaterial
            | KmsErrorKind::InvalidImportToken
            | KmsErrorKind::InvalidGrantToken
            | KmsErrorKind::Serialization
            | KmsErrorKind::Tag
            | KmsErrorKind::Trail(_)
            | KmsErrorKind::UnknownOperation => {
                "the wrapped data key is not this key's or this file's; restore the file from a copy"
            }
        }),
        VolumeError::Revoked { .. } => Some("open the file again once access is given back"),
        VolumeError::Shredded => Some("close it; what was in it is in backups at most"),
        VolumeError::Damaged { .. } | VolumeError::Crypto(CryptoError::NotAuthentic) => {
            Some("restore it from a copy; the rest of the volume is not affected")
        }
        VolumeError::Crypto(
            CryptoError::BadLength { .. } | CryptoError::Rejected { .. } | CryptoError::Library { .. },
        ) => Some("nothing was written; try again"),
        // One arm for each: a new kind of error must be thought about here.
        VolumeError::Backing { .. }
        | VolumeError::NotFound
        | VolumeError::Exists
        | VolumeError::NotDirectory
        | VolumeError::IsDirectory
        | VolumeError::NotEmpty
        | VolumeError::NameTooLong
        | VolumeError::ReadOnly
        | VolumeError::Stale
        | VolumeError::Invalid(_)
        | VolumeError::NoXattr
        | VolumeError::Unsupported(_)
        | VolumeError::TooLarge
        | VolumeError::BadHandle
        | VolumeError::NotPermitted(_)
        | VolumeError::NotAVolume { .. }
        | VolumeError::CannotInit(_)
        | VolumeError::Descriptor(_)
        | VolumeError::WrongRegion { .. }
        | VolumeError::WrongService { .. }
        | VolumeError::Epoch(_)
        | VolumeError::InUse
        | VolumeError::NotSettled
        | VolumeError::NotStill => None,
    }
}

/// Writes the log's lines about keys and damage, each at most once in [`QUIET`].
#[derive(Default)]
pub(crate) struct Teller {
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    lines: HashMap<u64, Instant>,
    /// Lines that the limit swallowed.
    swallowed: u64,
}

impl Teller {
    /// One line about `error` if it is about a key or damage; `node` is the file it happened to.
    pub(crate) fn tell(
        &self,
        volume: &Volume,
        op: &'static str,
        node: Option<NodeId>,
        uid: u32,
        error: &VolumeError,
    ) {
        let Some(advice) = advice(error) else { return };
        let Some(swallowed) = self.told.lock().admit(key_of(op, node, uid, error), Instant::now()) else {
            return;
        };
        let envelope = node.and_then(|node| volume.inspect(node).ok());
        let file_id = envelope.as_ref().map(|e| e.file_id.as_str());
        let key_arns: Option<Vec<&str>> =
            envelope.as_ref().map(|e| e.data_keys.iter().map(|k| k.key_arn.as_str()).collect());
        if matches!(error, VolumeError::Damaged { .. } | VolumeError::Crypto(_)) {
            tracing::error!(op, node, file_id, ?key_arns, uid, swallowed, "{error}; {advice}");
        } else {
            tracing::warn!(op, node, file_id, ?key_arns, uid, swallowed, "{error}; {advice}");
        }
    }
}

fn key_of(op: &'static str, node: Option<NodeId>, uid: u32, error: &VolumeError) -> u64 {
    let mut hasher = DefaultHasher::new();
    (op, node, uid, error.to_string()).hash(&mut hasher);
    hasher.finish()
}

impl Told {
    /// How many lines were swallowed before this one, if it may be written.
    fn admit(&mut self, line: u64, now: Instant) -> Option<u64> {
        if self.lines.get(&line).is_some_and(|told| now.duration_since(*told) < QUIET) {
            return None;
        }
        if self.lines.len() >= MOST_LINES {
            self.lines.retain(|_, told| now.duration_since(*told) < QUIET);
        }
        if self.lines.len() >= MOST_LINES {
            self.swallowed += 1;
            return None;
        }
        self.lines.insert(line, now);
        Some(std::mem::take(&mut self.swallowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: KmsErrorKind) -> VolumeError {
        VolumeError::Key(KmsError::new(kind, "x"))
    }

    #[test]
    fn key_errors_have_the_numbers_that_the_design_promises() {
        for (kind, number) in [
            (KmsErrorKind::AccessDenied, libc::EACCES),
            (KmsErrorKind::Disabled, libc::ENOKEY),
            (KmsErrorKind::InvalidState(KeyState::PendingImport), libc::ENOKEY),
            (KmsErrorKind::MaterialExpired, libc::EKEYEXPIRED),
            (KmsErrorKind::InvalidState(KeyState::PendingDeletion), libc::EKEYREVOKED),
            (KmsErrorKind::InvalidState(KeyState::PendingReplicaDeletion), libc::EKEYREVOKED),
            (KmsErrorKind::NotFound, libc::EKEYREVOKED),
            (KmsErrorKind::IncorrectKey, libc::EKEYREJECTED),
            (KmsErrorKind::InvalidCiphertext, libc::EKEYREJECTED),
            (KmsErrorKind::DependencyTimeout, libc::ETIMEDOUT),
            (KmsErrorKind::Internal, libc::EIO),
        ] {
            assert_eq!(errno(&key(kind)), number, "{kind:?}");
            assert!(advice(&key(kind)).is_some(), "{kind:?} says what to do");
        }
        assert_eq!(errno(&VolumeError::Revoked { file_id: String::new() }), libc::EKEYREVOKED);
        assert_eq!(errno(&VolumeError::Shredded), libc::EKEYREVOKED);
    }

    #[test]
    fn damage_is_eio_and_is_told() {
        let error = VolumeError::damaged("block 7");
        assert_eq!(errno(&error), libc::EIO);
        assert!(advice(&error).is_some());
    }

    #[test]
    fn the_backing_disks_error_is_passed_on_and_not_told() {
        let source = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = VolumeError::Backing { what: "writing", source };
        assert_eq!(errno(&error), libc::ENOSPC);
        assert!(advice(&error).is_none());
        let source = std::io::Error::other("made up");
        assert_eq!(errno(&VolumeError::Backing { what: "writing", source }), libc::EIO);
    }

    #[test]
    fn one_error_is_told_once_in_a_while() {
        let (mut told, start) = (Told::default(), Instant::now());
        assert_eq!(told.admit(1, start), Some(0));
        assert_eq!(told.admit(1, start), None);
        assert_eq!(told.admit(2, start), Some(0));
        assert_eq!(told.admit(1, start + QUIET), Some(0));
    }

    #[test]
    fn a_flood_of_different_errors_is_cut_and_counted() {
        let (mut told, start) = (Told::default(), Instant::now());
        for line in 0..MOST_LINES as u64 {
            assert!(told.admit(line, start).is_some());
        }
        assert_eq!(told.admit(9000, start), None);
        assert_eq!(told.admit(9001, start), None);
        assert_eq!(told.admit(9002, start + QUIET), Some(2));
        assert!(told.lines.len() <= MOST_LINES);
    }
}
