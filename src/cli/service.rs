//! The key service of this run: opened as the account's root, or as whom `--as` names, in the chosen region.

use std::sync::Arc;

use super::error::{CliError, Result};
use super::global::Global;
use crate::crypto::SecretVec;
use crate::iam::{AliasName, IamError, Region};
use crate::kms::home::{Home, HomeError, Kms, KmsOptions};
use crate::kms::identity::IdentitySession;
use crate::kms::root::RootKeyError;
use crate::kms::wire::{CreateAliasRequest, CreateKeyRequest, ListAliasesRequest, ListAliasesResponse};
use crate::kms::{Caller, KeyService, KmsErrorKind, Session};

/// The region must be there.
pub fn session(global: &Global) -> Result<Session> {
    session_with(global, global.passphrase(false)?)
}

/// With a passphrase that was asked for before.
pub fn session_with(global: &Global, passphrase: Option<SecretVec>) -> Result<Session> {
    begin(global, &open(global, passphrase)?)
}

/// A session of the account's root, or of whom `--as` names: the local command line is believed.
pub fn begin(global: &Global, kms: &Arc<Kms>) -> Result<Session> {
    begin_in(global, kms, &global.region)
}

/// The same in another region.
pub fn begin_in(global: &Global, kms: &Arc<Kms>, region: &Region) -> Result<Session> {
    kms.session(caller(global, kms)?, region).map_err(failed)
}

/// A session of somebody in the chosen region.
pub fn session_as(global: &Global, kms: &Arc<Kms>, caller: Caller) -> Result<Session> {
    kms.session(caller, &global.region).map_err(failed)
}

fn caller(global: &Global, kms: &Kms) -> Result<Caller> {
    match &global.principal {
        Some(principal) => named(kms, principal),
        None => Ok(Caller::root(global.account.clone())),
    }
}

/// Whom an option names.
pub fn named(kms: &Kms, principal: &str) -> Result<Caller> {
    kms.caller(principal).map_err(|error| match error.kind {
        KmsErrorKind::Identity(_) => CliError::NoPrincipal(error),
        _ => CliError::Refused(error),
    })
}

/// All regions of a home that is there.
pub fn kms(global: &Global) -> Result<Arc<Kms>> {
    open(global, global.passphrase(false)?)
}

/// The home with its directory of identities, which the first call makes; no region is needed.
pub fn identities(global: &Global) -> Result<Arc<Kms>> {
    let home = Home::open_or_create(&global.home()?).map_err(failed)?;
    let new = !home.path().join("iam").exists();
    open(global, global.passphrase(new)?)
}

/// IAM and STS, as the account's root or as whom `--as` names.
pub fn identity(global: &Global) -> Result<IdentitySession> {
    let kms = identities(global)?;
    Ok(kms.identity(caller(global, &kms)?))
}

/// Makes home and region if they are not there.
pub fn session_or_new(global: &Global) -> Result<Session> {
    begin(global, &kms_or_new(global)?)
}

/// The same, of all regions.
pub fn kms_or_new(global: &Global) -> Result<Arc<Kms>> {
    let home = Home::open_or_create(&global.home()?).map_err(failed)?;
    let new = !home.region_path(&global.region).exists();
    let passphrase = global.passphrase(new)?;
    let kms = open(global, passphrase.clone())?;
    if new {
        match kms.create_region(&global.region, passphrase.as_ref()) {
            // Another process was first.
            Ok(()) | Err(HomeError::RegionExists { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(kms)
}

fn open(global: &Global, passphrase: Option<SecretVec>) -> Result<Arc<Kms>> {
    let options = KmsOptions { passphrase, ..KmsOptions::new(global.account.clone()) };
    Kms::open(&global.home()?, options).map_err(failed)
}

fn failed(error: HomeError) -> CliError {
    let advice = match &error {
        HomeError::RootKey(RootKeyError::NeedsPassphrase { .. }) => {
            "; give --passphrase-file FILE, or --passphrase to be asked for it"
        }
        _ => "",
    };
    CliError::Home(format!("{error}{advice}"))
}

/// A customer managed key with an alias; its ARN.
pub fn new_key(session: &Session, alias: &str) -> Result<String> {
    // Before the key is made: one without its alias would be left behind.
    let alias = own_alias(alias)?;
    if aliases(session, None)?.aliases.iter().any(|there| there.alias_name == alias.as_str()) {
        return Err(CliError::Usage(format!("{alias} names a key already; use it with --key {alias}")));
    }
    let made = session.call(CreateKeyRequest::default())?.key_metadata;
    session.call(CreateAliasRequest { alias_name: alias.to_string(), target_key_id: made.key_id })?;
    Ok(made.arn)
}

/// An alias that a customer may give.
pub fn own_alias(alias: &str) -> Result<AliasName> {
    let alias: AliasName = alias.parse().map_err(|e: IamError| CliError::Usage(e.to_string()))?;
    if alias.is_reserved() {
        return Err(CliError::Usage(format!(
            "{alias} is not yours to give: alias/aws/ belongs to keys that the service manages"
        )));
    }
    Ok(alias)
}

/// The ARN of a key by any of its names: most operations take no alias.
pub fn resolve(session: &Session, key: &str) -> Result<String> {
    if !key.contains("alias/") {
        return Ok(key.to_owned());
    }
    Ok(session.describe_key(key)?.key_arn)
}

/// All aliases, or all of one key.
pub fn aliases(session: &Session, key_id: Option<&str>) -> Result<ListAliasesResponse> {
    let first = ListAliasesRequest { key_id: key_id.map(str::to_owned), ..ListAliasesRequest::default() };
    let mut answer = session.call(first.clone())?;
    while let Some(marker) = answer.next_marker.take() {
        let next = session.call(ListAliasesRequest { marker: Some(marker), ..first.clone() })?;
        answer.aliases.extend(next.aliases);
        (answer.next_marker, answer.truncated) = (next.next_marker, next.truncated);
    }
    Ok(answer)
}
