//! The bounds of AWS's model, and the wording of its ValidationException.

use super::wire::Tag;
use super::{EncryptionContext, KmsError, KmsErrorKind};

/// Longest name of a key or alias.
const MAX_KEY_ID: usize = 2048;
/// Tags that a key may have.
pub const MOST_TAGS: usize = 50;
/// Longest marker.
const MAX_MARKER: usize = 1024;
/// An encryption context's keys and values together.
const MAX_CONTEXT: usize = 8192;

pub fn failed(field: &str, constraint: &str) -> KmsError {
    let message = format!(
        "1 validation error detected: Value at '{field}' failed to satisfy constraint: Member must {constraint}"
    );
    KmsError::new(KmsErrorKind::Validation, message)
}

pub fn length(field: &str, length: usize, min: usize, max: usize) -> Result<(), KmsError> {
    if length < min {
        Err(failed(field, &format!("have length greater than or equal to {min}")))
    } else if length > max {
        Err(failed(field, &format!("have length less than or equal to {max}")))
    } else {
        Ok(())
    }
}

pub fn number(field: &str, value: Option<i64>, min: i64, max: i64) -> Result<(), KmsError> {
    match value {
        Some(v) if v < min => Err(failed(field, &format!("have value greater than or equal to {min}"))),
        Some(v) if v > max => Err(failed(field, &format!("have value less than or equal to {max}"))),
        _ => Ok(()),
    }
}

/// A field that must be there, and may be empty.
pub fn given<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, KmsError> {
    value.ok_or_else(|| failed(field, "not be null"))
}

/// A field that must be there; absent and empty are one here.
pub fn required(field: &str, value: &str, max: usize) -> Result<(), KmsError> {
    if value.is_empty() { Err(failed(field, "not be null")) } else { length(field, value.len(), 1, max) }
}

pub fn key_id(field: &str, value: &str) -> Result<(), KmsError> {
    required(field, value, MAX_KEY_ID)
}

pub fn key_id_option(field: &str, value: Option<&str>) -> Result<(), KmsError> {
    value.map_or(Ok(()), |v| length(field, v.len(), 1, MAX_KEY_ID))
}

pub fn one_of(field: &str, value: Option<&str>, known: &[&str]) -> Result<(), KmsError> {
    match value {
        Some(v) if !known.contains(&v) => {
            Err(failed(field, &format!("satisfy enum value set: [{}]", known.join(", "))))
        }
        _ => Ok(()),
    }
}

pub fn list(limit: Option<i64>, marker: Option<&str>) -> Result<(), KmsError> {
    number("limit", limit, 1, 1000)?;
    marker.map_or(Ok(()), |m| length("marker", m.len(), 1, MAX_MARKER))
}

pub fn context(field: &str, context: &EncryptionContext) -> Result<(), KmsError> {
    if context.keys().any(String::is_empty) {
        return Err(failed(field, "have keys with length greater than or equal to 1"));
    }
    let total: usize = context.iter().map(|(k, v)| k.len() + v.len()).sum();
    length(field, total, 0, MAX_CONTEXT)
}

/// The names of encryption algorithms; a symmetric key has one of them.
pub fn algorithm(field: &str, value: Option<&str>) -> Result<(), KmsError> {
    one_of(field, value, &["SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"])
}

pub fn grant_tokens(tokens: &[String]) -> Result<(), KmsError> {
    if tokens.len() > 10 {
        return Err(failed("grantTokens", "have length less than or equal to 10"));
    }
    tokens.iter().try_for_each(|t| length("grantTokens", t.len(), 1, 8192))
}

pub fn description(text: &str) -> Result<(), KmsError> {
    length("description", text.chars().count(), 0, 8192)
}

pub fn tags(tags: &[Tag]) -> Result<(), KmsError> {
    let refused = |message: &str| Err(KmsError::new(KmsErrorKind::Tag, message));
    for (at, tag) in tags.iter().enumerate() {
        length("tagKey", tag.tag_key.chars().count(), 1, 128)?;
        length("tagValue", tag.tag_value.chars().count(), 0, 256)?;
        if tag.tag_key.starts_with("aws:") {
            return refused("Tags beginning with aws: are reserved");
        }
        if tags[..at].iter().any(|t| t.tag_key == tag.tag_key) {
            return refused("Duplicate tag keys");
        }
    }
    if tags.len() > MOST_TAGS { refused("Too many tags") } else { Ok(()) }
}
