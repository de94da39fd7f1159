//! What each operation of IAM and STS does, once its caller may.

mod access_keys;
mod account;
mod groups;
mod held;
mod policies;
mod roles;
mod sts;
mod users;

use jiff::Timestamp;

use super::IdentityErrorKind;
use super::call::IdentityCall;
use super::wire::{AttachedBoundary, IdentityTag};
use crate::iam::Context;
use crate::iam::directory::{DirectoryError, EntityRow};
use crate::kms::call::Result;
use crate::kms::region::Fault;

fn refused(kind: IdentityErrorKind, message: impl Into<String>) -> Fault {
    Fault::Refused(super::error::refused(kind, message))
}

/// ISO 8601, to the second.
fn iso(millis: i64) -> Result<String> {
    let second = Timestamp::from_second(millis.div_euclid(1000));
    Ok(second.map_err(|_| DirectoryError::Damaged("a time"))?.to_string())
}

/// Items of a page as they were checked before.
fn limit(given: Option<i64>) -> usize {
    given.and_then(|l| usize::try_from(l).ok()).unwrap_or(100)
}

/// One page of `found`, of which one more than `limit` was asked for: the marker of the next.
fn page<T>(found: &mut Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> Option<String> {
    if found.len() <= limit {
        return None;
    }
    found.truncate(limit);
    found.last().map(name)
}

/// One page of what is there as a whole, by a number as marker.
fn slice<T>(all: Vec<T>, max_items: Option<i64>, marker: Option<&str>) -> Result<(Vec<T>, Option<String>)> {
    let start = match marker {
        None => 0,
        Some(text) => {
            text.parse::<usize>().map_err(|_| refused(IdentityErrorKind::Validation, "Invalid Marker."))?
        }
    };
    let limit = limit(max_items);
    let next = start.saturating_add(limit);
    let more = (next < all.len()).then(|| next.to_string());
    Ok((all.into_iter().skip(start).take(limit).collect(), more))
}

fn pairs(tags: &[IdentityTag]) -> Vec<(String, String)> {
    tags.iter().map(|t| (t.key.clone(), t.value.clone())).collect()
}

fn shown_tags(tags: &[(String, String)]) -> Vec<IdentityTag> {
    tags.iter().map(|(key, value)| IdentityTag { key: key.clone(), value: value.clone() }).collect()
}

/// Puts labels beside those that are there.
fn merge_tags(row: &mut EntityRow, tags: &[IdentityTag]) -> Result<()> {
    for tag in tags {
        row.tags.retain(|(key, _)| !key.eq_ignore_ascii_case(&tag.key));
        row.tags.push((tag.key.clone(), tag.value.clone()));
    }
    row.tags.sort();
    if row.tags.len() > super::check::MOST_TAGS {
        let message = format!("Cannot exceed quota for TagsPerResource: {}", super::check::MOST_TAGS);
        return Err(refused(IdentityErrorKind::LimitExceeded, message));
    }
    Ok(())
}

fn say_tags(tags: &[IdentityTag], context: &mut Context) {
    if !tags.is_empty() {
        context.set_all("aws:TagKeys", tags.iter().map(|t| t.key.as_str()));
    }
    for tag in tags {
        context.set(&format!("aws:RequestTag/{}", tag.key), tag.value.as_str());
    }
}

fn say_boundary(boundary: Option<&str>, context: &mut Context) {
    if let Some(arn) = boundary {
        context.set("iam:PermissionsBoundary", arn);
    }
}

fn shown_boundary(row: &EntityRow) -> Option<AttachedBoundary> {
    let arn = row.boundary.clone()?;
    Some(AttachedBoundary { permissions_boundary_type: "Policy", permissions_boundary_arn: arn })
}

/// A row of what is to be made.
fn new_row(call: &IdentityCall<'_, '_>, id: String, path: Option<&str>, name: &str) -> EntityRow {
    EntityRow {
        name: name.to_owned(),
        path: path.unwrap_or("/").to_owned(),
        id,
        created: call.millis(),
        tags: Vec::new(),
        boundary: None,
        attached: Vec::new(),
        inline: Vec::new(),
        groups: Vec::new(),
        role: None,
    }
}
