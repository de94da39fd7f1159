//! What a bill would be made of: the account's calls, out of the log, and the keys that it keeps.

use jiff::Timestamp;

use super::rows::{self, Manager, Rotation};
use super::{KmsError, Session};
use crate::audit::CallSeen;
use crate::iam::KeyArn;
use crate::store::Store;

/// Keys that are read in one go.
const PAGE: usize = 256;

/// A key as a bill looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptKey {
    /// Its ARN.
    pub arn: String,
    /// Its spec, under AWS's name.
    pub spec: &'static str,
    /// A customer manages it: a key of the service's costs nothing to keep.
    pub customer: bool,
    /// It waits for its deletion.
    pub pending_deletion: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When its material was rotated, by schedule or on demand; oldest first.
    pub rotated: Vec<Timestamp>,
}

impl Session {
    /// Gives every call of this account, oldest first, to `seen`, however long the log is; those of other processes too.
    pub fn each_call(
        &self,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
        seen: &mut dyn FnMut(CallSeen<'_>),
    ) -> Result<(), KmsError> {
        self.region_core().calls(self.caller().principal.account(), start, end, seen)
    }

    /// Keys of this account, those of the service's too.
    pub fn kept_keys(&self) -> Result<Vec<KeptKey>, KmsError> {
        let region = self.region_core();
        let account = self.caller().principal.account();
        let tx = region.store.read()?;
        let moment = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut kept = Vec::new();
        let mut last = None;
        loop {
            let ids = rows::keys_of(&*tx, account, last.as_ref(), PAGE)?;
            for id in &ids {
                let Some(row) = rows::key(&*tx, id)? else { continue };
                let rotated = rows::materials(&*tx, id)?.into_iter().map(|(_, material)| material);
                let rotated =
                    rotated.filter(|m| matches!(m.rotation, Rotation::OnDemand | Rotation::Automatic));
                kept.push(KeptKey {
                    arn: KeyArn { region: region.region.clone(), account: account.clone(), key: *id }
                        .to_string(),
                    spec: row.spec.name(),
                    customer: row.manager == Manager::Customer,
                    pending_deletion: row.state.going(),
                    created: moment(row.created),
                    rotated: rotated.map(|material| moment(material.since)).collect(),
                });
            }
            match ids.last() {
                Some(id) if ids.len() == PAGE => last = Some(*id),
                _ => return Ok(kept),
            }
        }
    }
}
