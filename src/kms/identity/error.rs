//! The errors of IAM and STS, under AWS's names.

use crate::iam::directory::DirectoryError;
use crate::kms::{KmsError, KmsErrorKind};

/// The kind of an error of IAM or STS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityErrorKind {
    /// AccessDenied.
    AccessDenied,
    /// DeleteConflict: something hangs on it.
    DeleteConflict,
    /// EntityAlreadyExists.
    EntityAlreadyExists,
    /// ExpiredToken: the session is over.
    ExpiredToken,
    /// InvalidAction: there is no such operation.
    InvalidAction,
    /// InvalidClientTokenId: an access key or session token that is unknown, inactive or not its own.
    InvalidClientTokenId,
    /// InvalidInput.
    InvalidInput,
    /// LimitExceeded.
    LimitExceeded,
    /// MalformedPolicyDocument.
    MalformedPolicyDocument,
    /// NoSuchEntity.
    NoSuchEntity,
    /// PackedPolicyTooLarge: session policies and tags that a token has no room for.
    PackedPolicyTooLarge,
    /// ValidationError.
    Validation,
}

impl IdentityErrorKind {
    /// AWS's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            Self::DeleteConflict => "DeleteConflict",
            Self::EntityAlreadyExists => "EntityAlreadyExists",
            Self::ExpiredToken => "ExpiredToken",
            Self::InvalidAction => "InvalidAction",
            Self::InvalidClientTokenId => "InvalidClientTokenId",
            Self::InvalidInput => "InvalidInput",
            Self::LimitExceeded => "LimitExceeded",
            Self::MalformedPolicyDocument => "MalformedPolicyDocument",
            Self::NoSuchEntity => "NoSuchEntity",
            Self::PackedPolicyTooLarge => "PackedPolicyTooLarge",
            Self::Validation => "ValidationError",
        }
    }
}

/// An error of this kind and text.
pub(super) fn refused(kind: IdentityErrorKind, message: impl Into<String>) -> KmsError {
    KmsError::new(KmsErrorKind::Identity(kind), message)
}

/// The answer to an access key that does not count, whatever the reason.
pub(super) fn invalid_token() -> KmsError {
    refused(IdentityErrorKind::InvalidClientTokenId, "The security token included in the request is invalid.")
}

/// The answer to a session that is over.
pub(super) fn expired_token() -> KmsError {
    refused(IdentityErrorKind::ExpiredToken, "The security token included in the request is expired")
}

impl From<DirectoryError> for KmsError {
    fn from(error: DirectoryError) -> Self {
        let kind = match error {
            DirectoryError::NoSuchEntity(_) => IdentityErrorKind::NoSuchEntity,
            DirectoryError::EntityAlreadyExists(_) => IdentityErrorKind::EntityAlreadyExists,
            DirectoryError::DeleteConflict(_) => IdentityErrorKind::DeleteConflict,
            DirectoryError::LimitExceeded(_) => IdentityErrorKind::LimitExceeded,
            DirectoryError::MalformedPolicy(_) => IdentityErrorKind::MalformedPolicyDocument,
            DirectoryError::InvalidInput(_) => IdentityErrorKind::InvalidInput,
            DirectoryError::Store(error) => return error.into(),
            DirectoryError::Damaged(_) | DirectoryError::Crypto(_) => {
                return Self::new(KmsErrorKind::Internal, error.to_string());
            }
        };
        refused(kind, error.to_string())
    }
}
