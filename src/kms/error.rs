//! The key service's errors, under the names AWS KMS gives them.

use super::identity::IdentityErrorKind;
use super::service::KeyHolder;
use super::trail::TrailErrorKind;

/// State of a KMS key, as DescribeKey reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Switched off by DisableKey.
    Disabled,
    /// Inside the waiting period of ScheduleKeyDeletion.
    PendingDeletion,
    /// Origin EXTERNAL and without material.
    PendingImport,
    /// A replica that is not there yet.
    Creating,
    /// A primary key to be deleted once its last replica is.
    PendingReplicaDeletion,
    /// Another region is becoming the primary.
    Updating,
}

/// The kind of an error: what a program decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KmsErrorKind {
    /// AccessDeniedException.
    AccessDenied,
    /// AlreadyExistsException.
    AlreadyExists,
    /// DependencyTimeoutException: the key service or its store is out of reach.
    DependencyTimeout,
    /// ExpiredImportTokenException.
    ExpiredImportToken,
    /// IncorrectKeyMaterialException.
    IncorrectKeyMaterial,
    /// InvalidImportTokenException.
    InvalidImportToken,
    /// KMSInvalidStateException of a key that is pending import because material of it expired.
    MaterialExpired,
    /// DryRunOperationException: it would have succeeded.
    DryRun,
    /// DisabledException.
    Disabled,
    /// An error of IAM or STS.
    Identity(IdentityErrorKind),
    /// IncorrectKeyException.
    IncorrectKey,
    /// InvalidAliasNameException.
    InvalidAliasName,
    /// InvalidArnException.
    InvalidArn,
    /// InvalidCiphertextException.
    InvalidCiphertext,
    /// InvalidGrantIdException.
    InvalidGrantId,
    /// InvalidGrantTokenException.
    InvalidGrantToken,
    /// InvalidKeyUsageException.
    InvalidKeyUsage,
    /// KMSInvalidMacException.
    InvalidMac,
    /// InvalidMarkerException.
    InvalidMarker,
    /// KMSInternalException: a damaged or unreadable store.
    Internal,
    /// KMSInvalidStateException, with the state that refused.
    InvalidState(KeyState),
    /// KMSInvalidSignatureException.
    InvalidSignature,
    /// LimitExceededException.
    LimitExceeded,
    /// MalformedPolicyDocumentException.
    MalformedPolicyDocument,
    /// NotFoundException.
    NotFound,
    /// SerializationException: the request is not JSON of its shape.
    Serialization,
    /// TagException.
    Tag,
    /// One of CloudTrail's operations.
    Trail(TrailErrorKind),
    /// UnknownOperationException.
    UnknownOperation,
    /// UnsupportedOperationException.
    UnsupportedOperation,
    /// ValidationException.
    Validation,
}

impl KmsErrorKind {
    /// AWS's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDeniedException",
            Self::AlreadyExists => "AlreadyExistsException",
            Self::DependencyTimeout => "DependencyTimeoutException",
            Self::Disabled => "DisabledException",
            Self::ExpiredImportToken => "ExpiredImportTokenException",
            Self::IncorrectKeyMaterial => "IncorrectKeyMaterialException",
            Self::InvalidImportToken => "InvalidImportTokenException",
            Self::DryRun => "DryRunOperationException",
            Self::Identity(kind) => kind.name(),
            Self::IncorrectKey => "IncorrectKeyException",
            Self::InvalidAliasName => "InvalidAliasNameException",
            Self::InvalidArn => "InvalidArnException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::InvalidGrantId => "InvalidGrantIdException",
            Self::InvalidGrantToken => "InvalidGrantTokenException",
            Self::InvalidKeyUsage => "InvalidKeyUsageException",
            Self::InvalidMac => "KMSInvalidMacException",
            Self::InvalidMarker => "InvalidMarkerException",
            Self::Internal => "KMSInternalException",
            Self::InvalidState(_) | Self::MaterialExpired => "KMSInvalidStateException",
            Self::InvalidSignature => "KMSInvalidSignatureException",
            Self::LimitExceeded => "LimitExceededException",
            Self::MalformedPolicyDocument => "MalformedPolicyDocumentException",
            Self::NotFound => "NotFoundException",
            Self::Serialization => "SerializationException",
            Self::Tag => "TagException",
            Self::Trail(kind) => kind.name(),
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnsupportedOperation => "UnsupportedOperationException",
            Self::Validation => "ValidationException",
        }
    }
}

/// An answer of the key service that is not the wished one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct KmsError {
    /// What a program decides by.
    pub kind: KmsErrorKind,
    /// AWS's wording where AWS has one; never key material or plaintext.
    pub message: String,
    /// Whose answer it is.
    pub holder: KeyHolder,
}

impl KmsError {
    /// An error of this kind and text.
    pub fn new(kind: KmsErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), holder: KeyHolder::Embedded }
    }

    /// The same as an answer of AWS KMS.
    pub fn at_aws(kind: KmsErrorKind, message: impl Into<String>) -> Self {
        Self { holder: KeyHolder::Aws, ..Self::new(kind, message) }
    }
}
