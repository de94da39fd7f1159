//! IAM and STS: users, groups, roles, policies, access keys and sessions, with AWS's operations and errors, and what
//! every decision of the key service needs of them. Like the key service's own operations each is allowed, done
//! and recorded in one place ([`session`]), in the directory's own log.

mod authority;
mod call;
mod check;
mod credential;
mod error;
mod flexible;
mod operation;
mod ops;
mod service;
mod session;
pub mod wire;

pub use authority::{Authority, Identified, SessionFacts, principal_id};
pub use call::HOME_REGION;
pub use credential::Credential;
pub use error::IdentityErrorKind;
pub use operation::{IdentityOperation, OPERATIONS, Row};
pub use service::{Identities, IdentityService, belongs};
pub use session::IdentitySession;

/// The row of an operation of IAM or STS.
pub fn operation(name: &str) -> Option<&'static Row> {
    OPERATIONS.iter().find(|(row, _)| row.name == name).map(|(row, _)| *row)
}
