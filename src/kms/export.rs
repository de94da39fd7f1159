//! The account's log for others: exported with signed digests, and the keys that check them.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::owned::RegionDigestKeys;
use super::region::Core;
use super::{KmsError, Session};
use crate::audit::{self, AuditError, ChainHead, ExportError, ExportOptions, Exported, Log, Source};

/// A key that checks digests, as CloudTrail's ListPublicKeys gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DigestPublicKey {
    /// PKCS#1 (RFC 8017, RSAPublicKey), DER.
    #[serde(with = "super::codec::blob")]
    pub value: Vec<u8>,
    /// No digest that it signed begins earlier.
    #[serde(with = "super::codec::seconds")]
    pub validity_start_time: Timestamp,
    /// No digest that it signed ends later.
    #[serde(with = "super::codec::seconds")]
    pub validity_end_time: Timestamp,
    /// The name by which digests call it.
    pub fingerprint: String,
}

impl Session {
    /// Exports this account's events in CloudTrail's files, each hour with a signed digest, into a directory,
    /// which is made if it is not there. An export into the same directory goes on where the last one ended.
    pub fn export_log(&self, root: &Path, options: &ExportOptions) -> Result<Exported, ExportError> {
        let region = self.region_core();
        let source = Source {
            log: Log::Region,
            store: &region.store,
            signed: region.signed_head()?,
            account: self.caller().principal.account().as_str(),
            region: region.region.as_str(),
            now: region.clock.now(),
            keys: &RegionDigestKeys::new(region),
        };
        audit::export(&source, root, options)
    }

    /// The keys that check digests of this region from `start` to `end`; where either is None, it is now. As in
    /// CloudTrail, keys may overlap. None before the first export.
    pub fn digest_public_keys(
        &self,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> Result<Vec<DigestPublicKey>, KmsError> {
        public_keys(self.region_core(), start, end)
    }

    /// The head of the log as it is on disk by now, to be kept elsewhere; see [`Session::verify_log`], which
    /// takes it. It does not walk the log.
    pub fn log_head(&self) -> Result<ChainHead, AuditError> {
        self.region_core().signed_head()
    }
}

/// See [`Session::digest_public_keys`].
pub(super) fn public_keys(
    region: &Core,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
) -> Result<Vec<DigestPublicKey>, KmsError> {
    let now = region.clock.now();
    let (start, end) = (start.unwrap_or(now), end.unwrap_or(now));
    let keys = RegionDigestKeys::new(region).all()?;
    let keys = keys.into_iter().map(|timed| DigestPublicKey {
        value: timed.key.public().to_vec(),
        validity_start_time: timed.since.time(),
        // A digest that begins in its last hour ends in the next.
        validity_end_time: timed.until.next_hour().time(),
        fingerprint: timed.key.fingerprint().to_owned(),
    });
    let in_time = |key: &DigestPublicKey| key.validity_start_time <= end && key.validity_end_time >= start;
    Ok(keys.filter(in_time).collect())
}
