//! Tags and descriptions: what people write on keys.

use std::sync::Arc;

use super::{bad_marker, key, limit, only, page, refused};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation};
use crate::kms::rows::{self, KeyRow};
use crate::kms::state::Needs;
use crate::kms::wire::{
    ListResourceTagsRequest, ListResourceTagsResponse, Tag, TagResourceRequest, UntagResourceRequest,
    UpdateKeyDescriptionRequest,
};
use crate::kms::{KmsError, KmsErrorKind, check};

/// Writes a key's row with something changed.
fn change(call: &mut Call<'_, '_>, keys: &[Arc<Key>], change: impl FnOnce(&mut KeyRow)) -> Result<()> {
    let key = only(keys)?;
    let mut row = key.row.clone();
    change(&mut row);
    rows::put_key(call.writer()?, &key.arn.key, &row)?;
    call.notes.changed = Some(key.arn_text.clone());
    Ok(())
}

impl Operation for TagResourceRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::tags(check::given("tags", self.tags.as_ref())?)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::NotPendingDeletion)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { key_id: Some(&self.key_id), tags: self.tags.as_deref(), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let new = rows::tag_pairs(self.tags.as_deref().unwrap_or_default());
        let mut all = only(keys)?.row.tags.clone();
        all.retain(|(name, _)| new.iter().all(|(n, _)| n != name));
        all.extend(new);
        if all.len() > check::MOST_TAGS {
            return Err(refused(KmsErrorKind::Tag, "Too many tags"));
        }
        change(call, keys, |row| row.tags = all)
    }
}

impl Operation for UntagResourceRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        let names = check::given("tagKeys", self.tag_keys.as_ref())?;
        names.iter().try_for_each(|name| check::length("tagKeys", name.chars().count(), 1, 128))
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::NotPendingDeletion)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { key_id: Some(&self.key_id), tag_keys: self.tag_keys.as_deref(), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let names = self.tag_keys.as_deref().unwrap_or_default();
        change(call, keys, |row| row.tags.retain(|(name, _)| !names.contains(name)))
    }
}

impl Operation for ListResourceTagsRequest {
    type Response = ListResourceTagsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::list(self.limit, self.marker.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            limit: self.limit,
            marker: self.marker.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, _: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        // A marker is the last name in hex: names may have characters that markers may not.
        let after = self.marker.as_ref().map(hex::decode).transpose().map_err(|_| bad_marker())?;
        let mut found = only(keys)?.row.tags.clone();
        found.sort();
        found.retain(|(name, _)| after.as_deref().is_none_or(|after| name.as_bytes() > after));
        let truncated = page(&mut found, limit(self.limit, 50));
        let next_marker = found.last().filter(|_| truncated).map(|(name, _)| hex::encode(name));
        let tag = |(tag_key, tag_value)| Tag { tag_key, tag_value };
        Ok(ListResourceTagsResponse { tags: found.into_iter().map(tag).collect(), next_marker, truncated })
    }
}

impl Operation for UpdateKeyDescriptionRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::description(check::given("description", self.description.as_ref())?)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::NotPendingDeletion)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            description: self.description.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let description = self.description.clone().unwrap_or_default();
        change(call, keys, |row| row.description = description)
    }
}
