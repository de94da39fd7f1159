//! Which service a request is for, in which protocol, and what of it.

use hyper::http::request::Parts;

use super::answer::{Failure, Protocol};
use crate::kms::Session;
use crate::kms::identity;

/// The XML namespace of STS.
const STS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
/// The XML namespace of IAM.
const IAM: &str = "https://iam.amazonaws.com/doc/2010-05-08/";

/// The services that answer here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Kms,
    CloudTrail,
    Sts,
    Iam,
    /// What came is for none.
    None,
}

impl Service {
    /// Its name in credential scopes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::CloudTrail => "cloudtrail",
            Self::Sts => "sts",
            Self::Iam => "iam",
            Self::None => "unknown",
        }
    }
}

/// See the module.
pub struct Route {
    pub service: Service,
    pub protocol: Protocol,
    /// From a table; `unknown` where it is in none.
    pub known: &'static str,
    /// As it was asked for.
    pub operation: String,
    /// Of the query protocol.
    pub parameters: Vec<(String, String)>,
}

impl Route {
    /// By the head alone: in the query protocol the body says the rest.
    pub fn of(head: &Parts) -> Self {
        let text =
            |name| head.headers.get(name).and_then(|value: &hyper::header::HeaderValue| value.to_str().ok());
        let target = text("x-amz-target");
        let form =
            text("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        let (service, operation) = match target.and_then(|target| target.rsplit_once('.')) {
            Some(("TrentService", operation)) => (Service::Kms, operation),
            // The first is what SDKs send, the second what AWS's documents say.
            Some((
                "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101" | "CloudTrail_20131101",
                operation,
            )) => (Service::CloudTrail, operation),
            _ => (Service::None, ""),
        };
        let known = match service {
            Service::Kms => Session::operation(operation),
            Service::CloudTrail => Session::trail_operation(operation),
            Service::Sts | Service::Iam | Service::None => None,
        };
        Self {
            service,
            protocol: if target.is_none() && form { Protocol::Query(STS) } else { Protocol::Json },
            known: known.unwrap_or("unknown"),
            operation: operation.to_owned(),
            parameters: Vec::new(),
        }
    }

    /// Reads what the body says in the query protocol.
    pub fn read(&mut self, body: &[u8]) {
        if self.protocol == Protocol::Json {
            return;
        }
        let mut version = String::new();
        for (name, value) in form_urlencoded::parse(body) {
            match &*name {
                "Action" => self.operation = value.into_owned(),
                "Version" => version = value.into_owned(),
                _ => self.parameters.push((name.into_owned(), value.into_owned())),
            }
        }
        let (service, namespace) = match version.as_str() {
            "2011-06-15" => (Service::Sts, STS),
            "2010-05-08" => (Service::Iam, IAM),
            _ => (Service::None, STS),
        };
        (self.service, self.protocol) = (service, Protocol::Query(namespace));
        if let Some(row) = identity::operation(&self.operation)
            && row.source.strip_suffix(".amazonaws.com") == Some(service.name())
        {
            self.known = row.name;
        }
    }

    /// What is asked for by nobody's name.
    pub fn unknown(&self) -> Failure {
        let status = hyper::StatusCode::BAD_REQUEST;
        match self.protocol {
            Protocol::Json => Failure::new(
                status,
                "UnknownOperationException",
                "the header X-Amz-Target names no service that answers here: TrentService.OPERATION is for KMS, \
                 CloudTrail_20131101.OPERATION for CloudTrail",
            ),
            Protocol::Query(_) => {
                let asked: String = self.operation.chars().take(64).collect();
                let text = format!(
                    "Could not find operation {asked}: Version 2011-06-15 is for STS, 2010-05-08 for IAM"
                );
                Failure::new(status, "InvalidAction", text)
            }
        }
    }
}
