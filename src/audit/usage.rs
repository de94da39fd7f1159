//! Going through the log for counting: every call of KMS, and every open that a lease answered. Events are read some at
//! a time and only in part, so that the log may be of any length.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::chain::{self, AuditError};
use super::event::{CLIENT_SOURCE, FILES_SOURCE, KMS_SOURCE};
use super::lookup::{self, BLOCK, Filter};
use crate::store::Store;

/// Blocks of the index that are read in one view of the store.
const BLOCKS_AT_ONCE: u64 = 4;

/// What a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    /// To the key service whose log this is.
    Embedded,
    /// To a key service over the network, from here.
    Remote,
    /// None: the open of a file inside a lease, without which it would have been a Decrypt.
    Leased,
}

/// A call, as far as counting looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSeen<'a> {
    /// What it was.
    pub kind: CallKind,
    /// Its KMS name; of an open inside a lease Decrypt.
    pub operation: &'a str,
    /// ARN of the (first) key.
    pub key: Option<&'a str>,
    /// ARN of who called.
    pub principal: Option<&'a str>,
    /// When.
    pub time: Timestamp,
    /// Its day in UTC: 2026-11-28.
    pub day: &'a str,
    /// It was refused or failed.
    pub failed: bool,
    /// GenerateDataKeyPair: of which spec.
    pub pair_spec: Option<&'a str>,
    /// With which algorithm something was encrypted, signed or agreed upon, if that was said.
    pub algorithm: Option<&'a str>,
}

/// The part of an event that is read. What has no escapes, which is nearly all, is not copied.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    event_source: Cow<'a, str>,
    #[serde(borrow)]
    event_name: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    recipient_account_id: Cow<'a, str>,
    #[serde(borrow)]
    user_identity: Who<'a>,
    #[serde(borrow, default)]
    error_code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    request_parameters: Option<Parameters<'a>>,
    #[serde(borrow, default)]
    resources: Vec<Key<'a>>,
}

#[derive(Deserialize)]
struct Who<'a> {
    #[serde(borrow, default)]
    arn: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Key<'a> {
    #[serde(borrow, rename = "ARN")]
    arn: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters<'a> {
    #[serde(borrow, default)]
    key_pair_spec: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    encryption_algorithm: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    signing_algorithm: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    key_agreement_algorithm: Option<Cow<'a, str>>,
}

/// Gives every call of an account, oldest first, to `seen`: those at `start` or later and at `end` or earlier. What is
/// recorded after this has begun is not among them.
pub fn calls(
    store: &dyn Store,
    account: &str,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    seen: &mut dyn FnMut(CallSeen<'_>),
) -> Result<(), AuditError> {
    let times = Filter { start, end, ..Filter::default() };
    let last = chain::head(&*store.read()?)?.sequence;
    let mut block = 0;
    while block * BLOCK < last {
        let tx = store.read()?;
        let indexed = lookup::indexed(&*tx)?;
        for _ in 0..BLOCKS_AT_ONCE {
            let first = block * BLOCK + 1;
            let due = (last + 1).saturating_sub(first).min(BLOCK);
            let skipped = due == 0 || block < indexed && !lookup::may_hold_time(&*tx, &times, block)?;
            block += 1;
            if skipped {
                continue;
            }
            for record in chain::read(&*tx, first, due as usize)? {
                if let Some(part) = read(&record.event, account) {
                    judge(&part, start, end, seen);
                }
            }
        }
    }
    Ok(())
}

/// None: of another account, or no event, which verifying the chain shows.
fn read<'a>(event: &'a [u8], account: &str) -> Option<Part<'a>> {
    let part: Part<'a> = serde_json::from_slice(event).ok()?;
    (part.recipient_account_id == account).then_some(part)
}

fn judge(
    part: &Part<'_>,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    seen: &mut dyn FnMut(CallSeen<'_>),
) {
    // What the service does by itself is no call.
    if part.event_type != "AwsApiCall" {
        return;
    }
    let (kind, operation) = match (&*part.event_source, &*part.event_name) {
        (KMS_SOURCE, name) => (CallKind::Embedded, name),
        (CLIENT_SOURCE, name) => (CallKind::Remote, name),
        (FILES_SOURCE, "OpenFile") => (CallKind::Leased, "Decrypt"),
        _ => return,
    };
    let Ok(time) = part.event_time.parse::<Timestamp>() else { return };
    let second = |t: Timestamp| t.as_second();
    if start.is_some_and(|t| time.as_second() < second(t))
        || end.is_some_and(|t| time.as_second() > second(t))
    {
        return;
    }
    let parameters = part.request_parameters.as_ref();
    let algorithm = parameters.and_then(|p| {
        let said = p.encryption_algorithm.as_deref().or(p.signing_algorithm.as_deref());
        said.or(p.key_agreement_algorithm.as_deref())
    });
    seen(CallSeen {
        kind,
        operation,
        key: part.resources.first().map(|key| &*key.arn),
        principal: part.user_identity.arn.as_deref(),
        time,
        day: part.event_time.get(..10).unwrap_or_default(),
        failed: part.error_code.is_some(),
        pair_spec: parameters.and_then(|p| p.key_pair_spec.as_deref()),
        algorithm,
    });
}
