//! What went wrong with a call, as the key service's errors.

use std::error::Error;

use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use super::{PLAIN_HTTP, Response};
use crate::kms::{KeyState, KmsError, KmsErrorKind};

/// A failed call.
pub(super) struct Failed {
    /// What it becomes.
    pub error: KmsError,
    /// The other end's name of it, for the log; without an answer, that of the kind.
    pub code: String,
}

/// Translates the SDK's error of a call in a region.
pub(super) fn failed<E>(region: &str, error: &SdkError<E, Response>) -> Failed
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let SdkError::ServiceError(service) = error else { return unanswered(region, error) };
    let (code, text) =
        (service.err().code().unwrap_or_default(), service.err().message().unwrap_or_default());
    answered(region, code, text, service.raw().status().as_u16())
}

/// The other end said no.
fn answered(region: &str, code: &str, text: &str, status: u16) -> Failed {
    // "com.amazonaws...#Name" in some protocols.
    let code = code.rsplit('#').next().unwrap_or(code);
    // They go into the log and onto terminals.
    let (code, text) = (&*plain(code, LONGEST_NAME), &*plain(text, LONGEST_TEXT));
    let kind = kind_of(code, text);
    let (kind, text) = match kind {
        Some(kind) if kind.name() == code => (kind, text.to_owned()),
        Some(kind) => (kind, format!("{text} ({code})")),
        None if status >= 500 || code.is_empty() => {
            let shown = if code.is_empty() { "no error of its own" } else { code };
            (KmsErrorKind::DependencyTimeout, format!("HTTP status {status}, {shown}: {text}"))
        }
        None => (KmsErrorKind::Internal, format!("{code}: {text}")),
    };
    let error = KmsError::at_aws(kind, format!("AWS KMS in {region}: {}", text.trim()));
    let code = if code.is_empty() { kind.name() } else { code };
    Failed { error, code: code.to_owned() }
}

/// Characters of an error's name, and of its words.
const LONGEST_NAME: usize = 128;
const LONGEST_TEXT: usize = 1024;

/// The beginning of a text of the other end, with nothing that a terminal obeys.
pub(super) fn plain(text: &str, longest: usize) -> String {
    text.chars().take(longest).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// No answer, or none that could be read.
fn unanswered<E>(region: &str, error: &SdkError<E, Response>) -> Failed
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let why = plain(&reasons(error), LONGEST_TEXT);
    // Its type is not to be named from here; its words are.
    let (kind, message) = if why.contains(PLAIN_HTTP) {
        (KmsErrorKind::Validation, format!("AWS KMS in {region} was not asked: {PLAIN_HTTP}"))
    } else if why.contains("credential") {
        let advice =
            "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a credential_process";
        (KmsErrorKind::AccessDenied, format!("no credentials for AWS KMS in {region}: {why}; {advice}"))
    } else {
        (KmsErrorKind::DependencyTimeout, format!("AWS KMS in {region} does not answer: {why}"))
    };
    Failed { error: KmsError::at_aws(kind, message), code: kind.name().to_owned() }
}

/// An error with its sources, each said once.
fn reasons(error: &dyn Error) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    said.join(": ")
}

/// By AWS's name of it; None for one that is not known here.
fn kind_of(code: &str, text: &str) -> Option<KmsErrorKind> {
    Some(match code {
        "AccessDeniedException" | "AccessDenied" | "OptInRequired" | "SubscriptionRequiredException" => {
            KmsErrorKind::AccessDenied
        }
        // The credentials, not what they may do.
        "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => KmsErrorKind::AccessDenied,
        "DisabledException" => KmsErrorKind::Disabled,
        "DryRunOperationException" => KmsErrorKind::DryRun,
        "IncorrectKeyException" => KmsErrorKind::IncorrectKey,
        "InvalidArnException" => KmsErrorKind::InvalidArn,
        "InvalidCiphertextException" => KmsErrorKind::InvalidCiphertext,
        "InvalidGrantTokenException" => KmsErrorKind::InvalidGrantToken,
        "InvalidKeyUsageException" => KmsErrorKind::InvalidKeyUsage,
        "KMSInvalidStateException" => state(text),
        "LimitExceededException" => KmsErrorKind::LimitExceeded,
        "NotFoundException" => KmsErrorKind::NotFound,
        "SerializationException" => KmsErrorKind::Serialization,
        "UnknownOperationException" => KmsErrorKind::UnknownOperation,
        "UnsupportedOperationException" => KmsErrorKind::UnsupportedOperation,
        "ValidationException" | "ValidationError" => KmsErrorKind::Validation,
        // What passes: the SDK has tried again, and did not get through.
        "DependencyTimeoutException"
        | "InternalFailure"
        | "InternalServerError"
        | "KMSInternalException"
        | "KeyUnavailableException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException" => KmsErrorKind::DependencyTimeout,
        _ => return None,
    })
}

/// AWS tells the state in words only.
fn state(text: &str) -> KmsErrorKind {
    let text = text.to_lowercase();
    let words = [
        ("pending replica deletion", KeyState::PendingReplicaDeletion),
        ("pending deletion", KeyState::PendingDeletion),
        ("pendingdeletion", KeyState::PendingDeletion),
        ("pending import", KeyState::PendingImport),
        ("pendingimport", KeyState::PendingImport),
        ("disabled", KeyState::Disabled),
        ("creating", KeyState::Creating),
        ("updating", KeyState::Updating),
    ];
    match words.into_iter().find(|(words, _)| text.contains(words)) {
        Some((_, state)) => KmsErrorKind::InvalidState(state),
        // "is unavailable", and what is not known: a key store that is not connected, and may be again.
        None => KmsErrorKind::DependencyTimeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::KeyHolder;

    #[test]
    fn an_answer_keeps_awss_name_where_it_has_one_here() {
        for (code, text, status, kind) in [
            ("AccessDeniedException", "no", 400, KmsErrorKind::AccessDenied),
            ("com.amazonaws.kms#DisabledException", "x is disabled.", 400, KmsErrorKind::Disabled),
            ("NotFoundException", "", 400, KmsErrorKind::NotFound),
            ("InvalidCiphertextException", "", 400, KmsErrorKind::InvalidCiphertext),
            ("ThrottlingException", "Rate exceeded", 400, KmsErrorKind::DependencyTimeout),
            ("KMSInternalException", "", 500, KmsErrorKind::DependencyTimeout),
            ("Novel", "", 503, KmsErrorKind::DependencyTimeout),
            ("Novel", "", 400, KmsErrorKind::Internal),
            ("", "", 400, KmsErrorKind::DependencyTimeout),
            (
                "KMSInvalidStateException",
                "arn:aws:kms:us-east-1:111122223333:key/1 is pending deletion.",
                400,
                KmsErrorKind::InvalidState(KeyState::PendingDeletion),
            ),
            (
                "KMSInvalidStateException",
                "x is pending import.",
                400,
                KmsErrorKind::InvalidState(KeyState::PendingImport),
            ),
            ("KMSInvalidStateException", "x is unavailable.", 400, KmsErrorKind::DependencyTimeout),
        ] {
            let failed = answered("eu-west-1", code, text, status);
            assert_eq!((failed.error.kind, failed.error.holder), (kind, KeyHolder::Aws), "{code} {text}");
            assert!(failed.error.message.starts_with("AWS KMS in eu-west-1: "), "{}", failed.error.message);
            assert!(!failed.code.is_empty() && !failed.code.contains('#'));
            // A name that got another kind here is still told.
            let told = failed.error.kind.name() == failed.code || failed.error.message.contains(&failed.code);
            assert!(told, "{code}: {}", failed.error.message);
        }
    }
}
