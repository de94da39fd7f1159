//! Answers and errors in the shapes of AWS's protocols, and the HTTP status of each.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use zeroize::Zeroizing;

use super::credentials::CredentialError;
use crate::iam::sigv4::SignatureError;
use crate::kms::identity::IdentityErrorKind;
use crate::kms::{KmsError, KmsErrorKind};

/// What goes back.
pub type HttpAnswer = Response<Full<Bytes>>;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// How a request was written, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// AWS JSON 1.1.
    Json,
    /// AWS query, with XML in this namespace.
    Query(&'static str),
}

/// An error on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    status: StatusCode,
    /// AWS's name of it.
    pub code: &'static str,
    message: String,
}

impl Failure {
    /// A request that the protocol does not know.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// A signature that does not hold, under the name that the protocol's services give it.
    pub fn signature(error: &SignatureError, protocol: Protocol) -> Self {
        let (json, query) = match error {
            SignatureError::Missing => ("MissingAuthenticationTokenException", "MissingAuthenticationToken"),
            SignatureError::Incomplete(_) => ("IncompleteSignatureException", "IncompleteSignature"),
            SignatureError::Invalid(_) => ("InvalidSignatureException", "SignatureDoesNotMatch"),
        };
        Self::unauthenticated(protocol, json, query, error.to_string())
    }

    /// An access key that may not be used.
    pub fn credential(error: CredentialError, protocol: Protocol) -> Self {
        let (json, query, message) = match error {
            CredentialError::Unknown => (
                "UnrecognizedClientException",
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
            ),
            CredentialError::Expired => (
                "ExpiredTokenException",
                "ExpiredToken",
                "The security token included in the request is expired",
            ),
            CredentialError::Failed(error) => return Self::kms(error, protocol),
        };
        Self::unauthenticated(protocol, json, query, message.to_owned())
    }

    fn unauthenticated(protocol: Protocol, json: &'static str, query: &'static str, message: String) -> Self {
        match protocol {
            Protocol::Json => Self::new(StatusCode::BAD_REQUEST, json, message),
            Protocol::Query(_) => Self::new(StatusCode::FORBIDDEN, query, message),
        }
    }

    /// What the key service refuses, under the name that the protocol's services give it.
    pub fn kms(error: KmsError, protocol: Protocol) -> Self {
        let (kind, status) = (error.kind, status(error.kind));
        let code = match (protocol, kind) {
            // A session or an access key that ended while the request was under way.
            (Protocol::Json, KmsErrorKind::Identity(IdentityErrorKind::ExpiredToken)) => {
                "ExpiredTokenException"
            }
            (Protocol::Json, KmsErrorKind::Identity(IdentityErrorKind::InvalidClientTokenId)) => {
                "UnrecognizedClientException"
            }
            (Protocol::Query(_), KmsErrorKind::Internal) => "InternalFailure",
            (Protocol::Query(_), KmsErrorKind::DependencyTimeout) => "ServiceUnavailable",
            (Protocol::Query(_), KmsErrorKind::AccessDenied) => "AccessDenied",
            (Protocol::Query(_), KmsErrorKind::Serialization | KmsErrorKind::Validation) => "ValidationError",
            (Protocol::Json | Protocol::Query(_), kind) => kind.name(),
        };
        let status = match protocol {
            // The JSON protocol tells an error of the client by one status.
            Protocol::Json if status.is_client_error() => StatusCode::BAD_REQUEST,
            Protocol::Json | Protocol::Query(_) => status,
        };
        Self::new(status, code, error.message)
    }
}

/// The HTTP status of an error of the key service.
fn status(kind: KmsErrorKind) -> StatusCode {
    match kind {
        KmsErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        KmsErrorKind::DependencyTimeout => StatusCode::SERVICE_UNAVAILABLE,
        KmsErrorKind::Identity(kind) => identity_status(kind),
        KmsErrorKind::AccessDenied
        | KmsErrorKind::AlreadyExists
        | KmsErrorKind::DryRun
        | KmsErrorKind::ExpiredImportToken
        | KmsErrorKind::IncorrectKeyMaterial
        | KmsErrorKind::InvalidImportToken
        | KmsErrorKind::MaterialExpired
        | KmsErrorKind::Disabled
        | KmsErrorKind::IncorrectKey
        | KmsErrorKind::InvalidAliasName
        | KmsErrorKind::InvalidArn
        | KmsErrorKind::InvalidCiphertext
        | KmsErrorKind::InvalidGrantId
        | KmsErrorKind::InvalidGrantToken
        | KmsErrorKind::InvalidKeyUsage
        | KmsErrorKind::InvalidMac
        | KmsErrorKind::InvalidMarker
        | KmsErrorKind::InvalidState(_)
        | KmsErrorKind::InvalidSignature
        | KmsErrorKind::LimitExceeded
        | KmsErrorKind::MalformedPolicyDocument
        | KmsErrorKind::NotFound
        | KmsErrorKind::Serialization
        | KmsErrorKind::Tag
        | KmsErrorKind::Trail(_)
        | KmsErrorKind::UnknownOperation
        | KmsErrorKind::UnsupportedOperation
        | KmsErrorKind::Validation => StatusCode::BAD_REQUEST,
    }
}

/// The HTTP status of an error of IAM or STS.
fn identity_status(kind: IdentityErrorKind) -> StatusCode {
    match kind {
        IdentityErrorKind::AccessDenied
        | IdentityErrorKind::ExpiredToken
        | IdentityErrorKind::InvalidClientTokenId => StatusCode::FORBIDDEN,
        IdentityErrorKind::NoSuchEntity => StatusCode::NOT_FOUND,
        IdentityErrorKind::DeleteConflict
        | IdentityErrorKind::EntityAlreadyExists
        | IdentityErrorKind::LimitExceeded => StatusCode::CONFLICT,
        IdentityErrorKind::InvalidAction
        | IdentityErrorKind::InvalidInput
        | IdentityErrorKind::MalformedPolicyDocument
        | IdentityErrorKind::PackedPolicyTooLarge
        | IdentityErrorKind::Validation => StatusCode::BAD_REQUEST,
    }
}

/// An answer in JSON; empty where AWS answers nothing. It may hold a plaintext.
pub fn json(body: Zeroizing<Vec<u8>>, request_id: &str) -> HttpAnswer {
    // The bytes are wiped when the network has taken them.
    respond(StatusCode::OK, Bytes::from_owner(body), "application/x-amz-json-1.1", request_id)
}

/// An answer in XML.
pub fn xml(body: Vec<u8>, request_id: &str) -> HttpAnswer {
    respond(StatusCode::OK, Bytes::from_owner(Zeroizing::new(body)), "text/xml", request_id)
}

/// Plain text, of what is no AWS request.
pub fn text(status: StatusCode, body: impl Into<String>, kind: &'static str, request_id: &str) -> HttpAnswer {
    respond(status, Bytes::from(body.into()), kind, request_id)
}

/// An error.
pub fn failure(failure: &Failure, protocol: Protocol, request_id: &str) -> HttpAnswer {
    match protocol {
        Protocol::Json => {
            let body = serde_json::json!({"__type": failure.code, "message": failure.message}).to_string();
            respond(failure.status, Bytes::from(body), "application/x-amz-json-1.1", request_id)
        }
        Protocol::Query(namespace) => {
            let whose = if failure.status.is_server_error() { "Receiver" } else { "Sender" };
            let body = super::xml::error(namespace, whose, failure.code, &failure.message, request_id);
            respond(failure.status, Bytes::from(body), "text/xml", request_id)
        }
    }
}

fn respond(status: StatusCode, body: Bytes, kind: &'static str, request_id: &str) -> HttpAnswer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    answer
}
