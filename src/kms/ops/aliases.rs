//! Names for keys.

use std::sync::Arc;

use jiff::Timestamp;

use super::{bad_marker, limit, only, page, refused};
use crate::iam::AliasName;
use crate::kms::cache::Key;
use crate::kms::call::{Call, Name, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation};
use crate::kms::rows::{self, AliasRow};
use crate::kms::state::Needs;
use crate::kms::wire::{
    AliasListEntry, CreateAliasRequest, DeleteAliasRequest, ListAliasesRequest, ListAliasesResponse,
    UpdateAliasRequest,
};
use crate::kms::{KmsError, KmsErrorKind, check};

/// Aliases a key may have.
const MOST_ALIASES: usize = 50;
/// Longest alias, with its prefix.
const MAX_NAME: usize = 256;

fn parsed(name: &str) -> Result<AliasName> {
    name.parse().map_err(|_| refused(KmsErrorKind::InvalidAliasName, format!("{name} is no alias")))
}

/// One more alias for a key.
fn room(call: &Call<'_, '_>, key: &Key) -> Result<()> {
    let account = call.account();
    if rows::aliases(call.reader()?, account, Some(&key.arn.key), None, MOST_ALIASES)?.len() < MOST_ALIASES {
        return Ok(());
    }
    let message = format!("{} has {MOST_ALIASES} aliases, and no more are allowed", key.arn_text);
    Err(refused(KmsErrorKind::LimitExceeded, message))
}

impl Operation for CreateAliasRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::required("aliasName", &self.alias_name, MAX_NAME)?;
        check::key_id("targetKeyId", &self.target_key_id)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let action = Self::ROW.action;
        vec![
            Subject { name: Name::NewAlias(&self.alias_name), action, needs: Needs::Nothing },
            Subject { name: Name::Key(&self.target_key_id), action, needs: Needs::NotPendingDeletion },
        ]
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            alias_name: Some(&self.alias_name),
            target_key_id: Some(&self.target_key_id),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let (key, name, account) = (only(keys)?, parsed(&self.alias_name)?, call.account().clone());
        if rows::alias(call.reader()?, &account, &name)?.is_some() {
            let arn = call.alias_arn(&account, name.as_str());
            let message = format!("An alias with the name {arn} already exists");
            return Err(refused(KmsErrorKind::AlreadyExists, message));
        }
        room(call, key)?;
        let (id, now) = (key.arn.key, call.now.as_millisecond());
        let row = AliasRow { key: (id.multi_region, id.bytes), created: now, updated: now };
        rows::put_alias(call.writer()?, &account, &name, &row, None)?;
        call.notes.changed = Some(key.arn_text.clone());
        Ok(())
    }
}

impl Operation for UpdateAliasRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::required("aliasName", &self.alias_name, MAX_NAME)?;
        check::key_id("targetKeyId", &self.target_key_id)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let action = Self::ROW.action;
        vec![
            Subject { name: Name::Alias(&self.alias_name), action, needs: Needs::Nothing },
            Subject { name: Name::Key(&self.target_key_id), action, needs: Needs::NotPendingDeletion },
        ]
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            alias_name: Some(&self.alias_name),
            target_key_id: Some(&self.target_key_id),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let [before, target] = keys else {
            return Err(refused(KmsErrorKind::Internal, "the request names no two keys"));
        };
        let (name, account) = (parsed(&self.alias_name)?, call.account().clone());
        let Some(row) = rows::alias(call.reader()?, &account, &name)? else {
            return Err(refused(KmsErrorKind::NotFound, format!("Alias {name} is not found.")));
        };
        if before.arn.key != target.arn.key {
            room(call, target)?;
        }
        let (id, updated) = (target.arn.key, call.now.as_millisecond());
        let row = AliasRow { key: (id.multi_region, id.bytes), updated, ..row };
        rows::put_alias(call.writer()?, &account, &name, &row, Some(&before.arn.key))?;
        call.notes.changed = Some(target.arn_text.clone());
        Ok(())
    }
}

impl Operation for DeleteAliasRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::required("aliasName", &self.alias_name, MAX_NAME)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let name = Name::Alias(&self.alias_name);
        vec![Subject { name, action: Self::ROW.action, needs: Needs::Nothing }]
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { alias_name: Some(&self.alias_name), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let (key, name, account) = (only(keys)?, parsed(&self.alias_name)?, call.account().clone());
        rows::delete_alias(call.writer()?, &account, &name, &key.arn.key)?;
        call.notes.changed = Some(key.arn_text.clone());
        Ok(())
    }
}

impl Operation for ListAliasesRequest {
    type Response = ListAliasesResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id_option("keyId", self.key_id.as_deref())?;
        check::list(self.limit, self.marker.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let subject = |id| Subject { name: Name::Key(id), action: Self::ROW.action, needs: Needs::Nothing };
        self.key_id.as_deref().map(subject).into_iter().collect()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: self.key_id.as_deref(),
            limit: self.limit,
            marker: self.marker.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let (limit, account) = (limit(self.limit, 50), call.account().clone());
        let after = self.marker.as_deref();
        if after.is_some_and(|m| m.parse::<AliasName>().is_err()) {
            return Err(bad_marker());
        }
        let of = keys.first().map(|k| k.arn.key);
        let mut found = rows::aliases(call.reader()?, &account, of.as_ref(), after, limit + 1)?;
        let truncated = page(&mut found, limit);
        let time = |ms| {
            Timestamp::from_millisecond(ms)
                .map_err(|_| refused(KmsErrorKind::Internal, "the row of an alias is damaged"))
        };
        let next_marker = if truncated { found.last().map(|(name, _)| name.to_string()) } else { None };
        let mut aliases = Vec::with_capacity(found.len());
        for (name, row) in found {
            aliases.push(AliasListEntry {
                alias_arn: call.alias_arn(&account, name.as_str()),
                alias_name: name.to_string(),
                target_key_id: row.key().to_string(),
                creation_date: time(row.created)?,
                last_updated_date: time(row.updated)?,
            });
        }
        Ok(ListAliasesResponse { aliases, next_marker, truncated })
    }
}
