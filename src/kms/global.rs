//! The log of IAM and STS, which is one for all regions, as a region's callers see it.
//!
//! As in AWS, events of global services are shown and delivered in one region: us-east-1, or, in a home that has none, the
//! first of its regions by name.

use std::path::Path;
use std::sync::Arc;

use super::identity::{HOME_REGION, IdentityService};
use super::owned::RegionDigestKeys;
use super::region::Core;
use super::{KmsError, KmsErrorKind, Session};
use crate::audit::{
    self, AuditError, ChainHead, Event, ExportError, ExportOptions, Exported, Filter, Found, Log, Page,
    Source,
};
use crate::iam::{KeyArn, KeyId};
use crate::store::Store;

impl Core {
    /// The directory of identities, if there is one and its log is shown in this region.
    pub fn shown_identities(&self) -> Result<Option<Arc<IdentityService>>, KmsError> {
        if self.shows_identities()? { self.identities.get() } else { Ok(None) }
    }

    /// Is the log of identities shown in this region?
    pub fn shows_identities(&self) -> Result<bool, KmsError> {
        if self.region.as_str() == HOME_REGION {
            return Ok(true);
        }
        let failed = |e: super::HomeError| KmsError::new(KmsErrorKind::Internal, e.to_string());
        let regions = self.siblings.home().regions().map_err(failed)?;
        let home = regions.iter().find(|region| region.as_str() == HOME_REGION).or(regions.first());
        Ok(home == Some(&self.region))
    }
}

/// A page of the log of identities, as [`audit::page`] gives it of the region's; empty where it is not shown.
pub(super) fn page(
    region: &Core,
    filter: &Filter,
    holds: &dyn Fn(&Event, &[u8]) -> bool,
    before: Option<u64>,
    most: usize,
) -> Result<Page, KmsError> {
    match region.shown_identities()? {
        Some(identities) => Ok(audit::page(&*identities.store.read()?, filter, holds, before, most)?),
        None => Ok(Page { found: Vec::new(), next: None }),
    }
}

impl Session {
    /// Events of this account, newest first, those of other processes too; with those of IAM and STS where they are
    /// shown. `filter.key` may be a key's id.
    pub fn lookup_events(&self, filter: &Filter) -> Result<Vec<Found>, KmsError> {
        let account = self.caller().principal.account();
        let mut filter = filter.clone();
        filter.account = Some(account.to_string());
        if let Some(id) = filter.key.as_ref().and_then(|key| key.parse::<KeyId>().ok()) {
            let arn = KeyArn { region: self.region().clone(), account: account.clone(), key: id };
            filter.key = Some(arn.to_string());
        }
        let region = self.region_core();
        let own = region.lookup(&filter)?;
        let Some(identities) = region.shown_identities()? else { return Ok(own) };
        let limit = filter.limit.unwrap_or(audit::USUAL_LIMIT);
        let pages = [own, identities.lookup(&filter)?].map(|found| Page { found, next: None });
        Ok(audit::merge(pages, limit).0)
    }

    /// Walks the whole log of identities, as [`Self::verify_log`] does the region's. None: there is none yet.
    ///
    /// # Errors
    /// Also where a head is pinned and there is no log.
    pub fn verify_identity_log(&self, pinned: Option<ChainHead>) -> Result<Option<ChainHead>, AuditError> {
        self.region_core().identities.verify_log(pinned)
    }

    /// The head of the log of identities as it is on disk by now, to be kept elsewhere. None: there is no log yet.
    pub fn identity_log_head(&self) -> Result<Option<ChainHead>, AuditError> {
        let identities = self.region_core().identities.log()?;
        identities.map(|identities| identities.signed_head()).transpose()
    }

    /// Exports the account's events of IAM and STS into a directory, as [`Self::export_log`] does those of the region: in
    /// the same folders, as a chain of digests of its own, signed by the same keys. None, and nothing is written,
    /// where they are not shown and where there are none yet.
    pub fn export_identity_log(
        &self,
        root: &Path,
        options: &ExportOptions,
    ) -> Result<Option<Exported>, ExportError> {
        let region = self.region_core();
        let identities = region.shown_identities().map_err(|e| ExportError::Key(e.message))?;
        let Some(identities) = identities else { return Ok(None) };
        let source = Source {
            log: Log::Identities,
            store: &identities.store,
            signed: identities.signed_head()?,
            account: self.caller().principal.account().as_str(),
            region: region.region.as_str(),
            now: region.clock.now(),
            keys: &RegionDigestKeys::new(region),
        };
        audit::export(&source, root, options).map(Some)
    }
}
