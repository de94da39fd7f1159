//! The bounds of AWS's model, and the wording of its ValidationError.

use super::IdentityErrorKind;
use super::error::refused;
use super::wire::IdentityTag;
use crate::kms::{KmsError, KmsErrorKind, check};

/// Labels that one may have.
pub const MOST_TAGS: usize = 50;
/// The bound of AWS's model; what a document may have is less.
const MAX_DOCUMENT: usize = 131_072;

type Checked = Result<(), KmsError>;

/// The key service's own words under IAM's name of the error.
fn as_ours(checked: Checked) -> Checked {
    checked
        .map_err(|error| KmsError::new(KmsErrorKind::Identity(IdentityErrorKind::Validation), error.message))
}

pub fn length(field: &str, length: usize, min: usize, max: usize) -> Checked {
    as_ours(check::length(field, length, min, max))
}

pub fn number(field: &str, value: Option<i64>, min: i64, max: i64) -> Checked {
    as_ours(check::number(field, value, min, max))
}

pub fn one_of(field: &str, value: Option<&str>, known: &[&str]) -> Checked {
    as_ours(check::one_of(field, value, known))
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

/// A name that must be there.
pub fn name(field: &str, value: &str, max: usize) -> Checked {
    if value.is_empty() {
        return Err(refused(
            IdentityErrorKind::Validation,
            format!(
                "1 validation error detected: Value at '{field}' failed to satisfy constraint: Member must not be null"
            ),
        ));
    }
    length(field, value.len(), 1, max)?;
    if is_name(value) {
        return Ok(());
    }
    let message = format!(
        "The specified value for {field} is invalid. It must contain only alphanumeric characters and/or the following: \
         +=,.@_-"
    );
    Err(refused(IdentityErrorKind::Validation, message))
}

pub fn name_option(field: &str, value: Option<&str>, max: usize) -> Checked {
    value.map_or(Ok(()), |v| name(field, v, max))
}

/// `/`, or names between slashes. AWS takes more characters there, which its own ARNs then cannot name.
pub fn path(field: &str, value: Option<&str>) -> Checked {
    let Some(path) = value else { return Ok(()) };
    length(field, path.len(), 1, 512)?;
    let inner = path.strip_prefix('/').and_then(|p| if p.is_empty() { Some(p) } else { p.strip_suffix('/') });
    let good =
        inner.is_some_and(|p| p.is_empty() || p.split('/').all(|part| !part.is_empty() && is_name(part)));
    if good {
        return Ok(());
    }
    let message = format!(
        "The specified value for {field} is invalid. It must begin and end with / and contain only alphanumeric \
         characters and/or /+=,.@_- characters."
    );
    Err(refused(IdentityErrorKind::Validation, message))
}

/// A path that others begin with.
pub fn prefix(value: Option<&str>) -> Checked {
    match value {
        None => Ok(()),
        Some(prefix) if prefix.starts_with('/') => length("pathPrefix", prefix.len(), 1, 512),
        Some(_) => Err(refused(
            IdentityErrorKind::Validation,
            "The specified value for pathPrefix is invalid. It must begin with the / character.",
        )),
    }
}

pub fn page(max_items: Option<i64>, marker: Option<&str>) -> Checked {
    number("maxItems", max_items, 1, 1000)?;
    marker.map_or(Ok(()), |m| length("marker", m.len(), 1, 320))
}

pub fn arn(field: &str, value: &str) -> Checked {
    length(field, value.len(), 20, 2048)
}

pub fn document(field: &str, value: &str) -> Checked {
    length(field, value.len(), 1, MAX_DOCUMENT)
}

pub fn tag_keys(keys: &[String]) -> Checked {
    length("tagKeys", keys.len(), 0, MOST_TAGS)?;
    keys.iter().try_for_each(|key| length("tagKeys", key.chars().count(), 1, 128))
}

pub fn tags(tags: &[IdentityTag]) -> Checked {
    length("tags", tags.len(), 0, MOST_TAGS)?;
    for (at, tag) in tags.iter().enumerate() {
        length("tags.key", tag.key.chars().count(), 1, 128)?;
        length("tags.value", tag.value.chars().count(), 0, 256)?;
        let invalid = |message: &str| Err(refused(IdentityErrorKind::InvalidInput, message));
        if tag.key.to_ascii_lowercase().starts_with("aws:") {
            return invalid("The aws: prefix is reserved and cannot be used in a tag's key.");
        }
        // Names of labels differ by more than case.
        if tags[..at].iter().any(|t| t.key.eq_ignore_ascii_case(&tag.key)) {
            return invalid("Duplicate tag keys found. Please note that Tag keys are case insensitive.");
        }
    }
    Ok(())
}
