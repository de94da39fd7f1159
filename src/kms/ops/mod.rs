//! What each operation does, once its caller may and its keys are in a state for it.

mod aliases;
mod crypto;
mod grants;
mod import;
mod kem;
mod keys;
mod labels;
mod pairs;
mod policies;
mod replicas;
mod rotation;
mod stores;

use std::sync::Arc;

use super::cache::Key;
use super::call::{Name, Result, Subject};
use super::region::Fault;
use super::spec::SYMMETRIC_DEFAULT;
use super::state::Needs;
use super::{KmsError, KmsErrorKind};

/// A key by its id or ARN.
fn key<'a>(id: &'a str, action: &'static str, needs: Needs) -> Vec<Subject<'a>> {
    vec![Subject { name: Name::Key(id), action, needs }]
}

/// A key by its id, ARN or alias, for use.
fn usable<'a>(id: &'a str, action: &'static str) -> Vec<Subject<'a>> {
    vec![Subject { name: Name::KeyOrAlias(id), action, needs: Needs::Usable }]
}

/// The key of a request that has one.
fn only(keys: &[Arc<Key>]) -> Result<&Arc<Key>> {
    keys.first().ok_or_else(|| refused(KmsErrorKind::Internal, "the request names no key"))
}

fn refused(kind: KmsErrorKind, message: impl Into<String>) -> Fault {
    Fault::Refused(KmsError::new(kind, message))
}

fn unsupported(message: &str) -> KmsError {
    KmsError::new(KmsErrorKind::UnsupportedOperation, message)
}

fn invalid(message: &str) -> KmsError {
    KmsError::new(KmsErrorKind::Validation, message)
}

fn bad_marker() -> Fault {
    refused(KmsErrorKind::InvalidMarker, "the marker is not one that this operation answered")
}

/// One page of `found`, of which one more than `limit` was asked for: whether there are more.
fn page<T>(found: &mut Vec<T>, limit: usize) -> bool {
    let more = found.len() > limit;
    found.truncate(limit);
    more
}

/// Limit as it was checked before.
fn limit(given: Option<i64>, usual: usize) -> usize {
    given.and_then(|l| usize::try_from(l).ok()).unwrap_or(usual)
}
