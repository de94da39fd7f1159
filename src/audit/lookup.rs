//! Finding events, newest first.
//!
//! The index is by blocks of 256 events, so that it is small and its writing cheap: for each block and each
//! value (a key's ARN, an event's name, a principal's ARN, "failed") that occurs in it, which of its events
//! have it. A block is indexed once it is whole, in a transaction of its own, by whoever comes to it; what is
//! not indexed yet is read through. The index only leads to events: each is judged by itself.
//!
//! Collection `audit-index`: kind 1 | value | 0 | block 8 -> offsets; kind `t` | block 8 -> earliest 8, latest 8
//! (milliseconds); `n` -> the number of blocks indexed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::chain::{self, AuditError, Record};
use super::event::{Event, event_time};
use crate::store::{Durability, ReadTx, Store, WriteTx};

const INDEX: &str = "audit-index";
pub(super) const BLOCK: u64 = 256;
const DONE: &[u8] = b"n";
const TIME: u8 = b't';
const KEY: u8 = b'k';
const NAME: u8 = b'e';
const PRINCIPAL: u8 = b'p';
const FAILED: u8 = b'f';
/// Answers when no limit is given.
pub const USUAL_LIMIT: usize = 50;
/// Index rows that are read at once.
const PAGE: usize = 64;

/// Which events; everything that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// At this time or later.
    pub start: Option<Timestamp>,
    /// At this time or earlier.
    pub end: Option<Timestamp>,
    /// That concern this key: its ARN.
    pub key: Option<String>,
    /// Of this operation.
    pub event_name: Option<String>,
    /// By this principal: its ARN.
    pub principal: Option<String>,
    /// That failed.
    pub errors_only: bool,
    /// Of this account's log: by its principals, or allowed to others with its keys.
    pub account: Option<String>,
    /// At most this many; None: 50.
    pub limit: Option<usize>,
}

/// An event that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its number in the chain.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
    /// The same as it stands in the log: JSON.
    pub json: String,
}

/// Does an event stand in this account's log? The caller's has all, the owner's of a key what was allowed.
pub(super) fn is_of(event: &Event, account: &str) -> bool {
    let allowed = event.error_code.is_none();
    event.recipient_account_id == account
        || allowed && event.resources.iter().any(|r| r.account_id == account)
}

impl Filter {
    fn holds(&self, event: &Event) -> bool {
        let second = |t: &Timestamp| t.as_second();
        self.start.as_ref().is_none_or(|t| event.event_time.as_second() >= second(t))
            && self.end.as_ref().is_none_or(|t| event.event_time.as_second() <= second(t))
            && self.key.as_ref().is_none_or(|k| event.resources.iter().any(|r| r.arn == *k))
            && self.event_name.as_ref().is_none_or(|n| *n == event.event_name)
            && self.principal.as_ref().is_none_or(|p| event.user_identity.arn.as_ref() == Some(p))
            && self.account.as_ref().is_none_or(|a| is_of(event, a))
            && (!self.errors_only || event.error_code.is_some())
    }

    /// The rarest thing it asks for: kind and value of index rows.
    fn rarest(&self) -> Option<(u8, &str)> {
        if let Some(arn) = &self.key {
            Some((KEY, arn))
        } else if self.errors_only {
            Some((FAILED, ""))
        } else if let Some(name) = &self.event_name {
            Some((NAME, name))
        } else {
            self.principal.as_ref().map(|arn| (PRINCIPAL, arn.as_str()))
        }
    }
}

fn row(kind: u8, value: &str, block: u64) -> Vec<u8> {
    [&[kind], value.as_bytes(), &[0], &block.to_be_bytes()].concat()
}

fn time_row(block: u64) -> Vec<u8> {
    [&[TIME], &block.to_be_bytes()[..]].concat()
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.last_chunk().map(|b| u64::from_be_bytes(*b))
}

/// Number of blocks that are indexed.
pub(super) fn indexed(tx: &dyn ReadTx) -> Result<u64, AuditError> {
    Ok(tx.get(INDEX, DONE)?.and_then(|v| number(&v)).unwrap_or(0))
}

fn read_event(record: &Record) -> Option<Event> {
    // What is no event was put there by somebody else; verifying the chain shows it.
    serde_json::from_slice(&record.event).ok()
}

/// What of an event the index is made of. The rest is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Indexed<'a> {
    #[serde(borrow)]
    user_identity: Who<'a>,
    #[serde(with = "event_time")]
    event_time: Timestamp,
    #[serde(borrow)]
    event_name: Part<'a>,
    #[serde(default)]
    error_code: Option<IgnoredAny>,
    #[serde(borrow, default)]
    resources: Vec<Concerned<'a>>,
}

#[derive(Deserialize)]
struct Who<'a> {
    #[serde(borrow, default)]
    arn: Option<Part<'a>>,
}

#[derive(Deserialize)]
struct Concerned<'a> {
    #[serde(borrow, rename = "ARN")]
    arn: Part<'a>,
}

/// Text where it stands, if nothing in it is escaped.
#[derive(Deserialize)]
struct Part<'a>(#[serde(borrow)] Cow<'a, str>);

/// Indexes up to `blocks` blocks that are whole. True if there are more.
pub fn index(store: &dyn Store, blocks: usize) -> Result<bool, AuditError> {
    for _ in 0..blocks {
        let (block, rows) = {
            let tx = store.read()?;
            let block = indexed(&*tx)?;
            let records = chain::read(&*tx, block * BLOCK + 1, BLOCK as usize)?;
            if (records.len() as u64) < BLOCK {
                return Ok(false);
            }
            (block, rows_of(block, &records))
        };
        let mut tx = store.write(Durability::Soon)?;
        // Another process may have been first.
        if indexed(&*tx)? == block {
            write_rows(&mut *tx, block, &rows)?;
            tx.commit()?;
        }
    }
    Ok(true)
}

fn write_rows(tx: &mut dyn WriteTx, block: u64, rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), AuditError> {
    for (key, value) in rows {
        tx.put(INDEX, key, value)?;
    }
    Ok(tx.put(INDEX, DONE, &(block + 1).to_be_bytes())?)
}

fn rows_of(block: u64, records: &[Record]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut times: Option<(i64, i64)> = None;
    for (offset, record) in (0..=u8::MAX).zip(records) {
        // What is no event was put there by somebody else; verifying the chain shows it.
        let Ok(event) = serde_json::from_slice::<Indexed<'_>>(&record.event) else { continue };
        let time = event.event_time.as_millisecond();
        times = Some(times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        let mut note = |kind, value: &str| {
            let offsets = rows.entry(row(kind, value, block)).or_default();
            if offsets.last() != Some(&offset) {
                offsets.push(offset);
            }
        };
        for resource in &event.resources {
            note(KEY, &resource.arn.0);
        }
        note(NAME, &event.event_name.0);
        if let Some(arn) = &event.user_identity.arn {
            note(PRINCIPAL, &arn.0);
        }
        if event.error_code.is_some() {
            note(FAILED, "");
        }
    }
    if let Some((first, last)) = times {
        rows.insert(time_row(block), [first.to_be_bytes(), last.to_be_bytes()].concat());
    }
    rows
}

/// The events that a filter lets through, newest first.
pub fn lookup(tx: &dyn ReadTx, filter: &Filter) -> Result<Vec<Found>, AuditError> {
    lookup_by(tx, filter, &|event| filter.holds(event))
}

/// The newest event that concerns a key (its ARN) and of which `holds` is true.
pub fn newest(
    tx: &dyn ReadTx,
    key: &str,
    holds: &dyn Fn(&Event) -> bool,
) -> Result<Option<Found>, AuditError> {
    let filter = Filter { key: Some(key.to_owned()), limit: Some(1), ..Filter::default() };
    Ok(lookup_by(tx, &filter, &|event| filter.holds(event) && holds(event))?.pop())
}

/// `filter` leads to blocks, `holds` decides.
fn lookup_by(
    tx: &dyn ReadTx,
    filter: &Filter,
    holds: &dyn Fn(&Event) -> bool,
) -> Result<Vec<Found>, AuditError> {
    Ok(walk(tx, filter, &|event, _| holds(event), None, usize::MAX)?.found)
}

/// Some of the events that are looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Newest first.
    pub found: Vec<Found>,
    /// There may be more, with smaller numbers than this.
    pub next: Option<u64>,
}

/// The events that a filter lets through and of which `holds` is true (it sees their JSON too), newest first, with
/// numbers smaller than `before`. Looks at about `most` events; where the next call goes on stands in the answer.
pub fn page(
    tx: &dyn ReadTx,
    filter: &Filter,
    holds: &dyn Fn(&Event, &[u8]) -> bool,
    before: Option<u64>,
    most: usize,
) -> Result<Page, AuditError> {
    walk(tx, filter, &|event, json| filter.holds(event) && holds(event, json), before, most)
}

fn walk(
    tx: &dyn ReadTx,
    filter: &Filter,
    holds: &dyn Fn(&Event, &[u8]) -> bool,
    before: Option<u64>,
    most: usize,
) -> Result<Page, AuditError> {
    let mut found = Vec::new();
    let limit = filter.limit.unwrap_or(USUAL_LIMIT);
    let whole = indexed(tx)?;
    let mut last = chain::head(tx)?.sequence.min(before.map_or(u64::MAX, |b| b.saturating_sub(1)));
    let mut left = most;
    // Newest first: what is not indexed yet.
    while last > whole * BLOCK && found.len() < limit && left > 0 {
        let first = (whole * BLOCK + 1).max(last.saturating_sub(BLOCK - 1));
        let count = (last - first + 1) as usize;
        judge(holds, limit, chain::read(tx, first, count)?, None, &mut found);
        last = first - 1;
        left = left.saturating_sub(count);
    }
    let mut to = whole.min(last.div_ceil(BLOCK));
    while found.len() < limit && to > 0 && left > 0 {
        let page = candidates(tx, filter, to)?;
        // Nothing before what the page leads to can be looked for.
        to = page.last().map_or(0, |(block, _)| *block);
        for (block, offsets) in page {
            if found.len() >= limit || left == 0 {
                to = block + 1;
                break;
            }
            left -= 1;
            if !may_hold_time(tx, filter, block)? {
                continue;
            }
            let first = block * BLOCK + 1;
            let records = chain::read(tx, first, (last.saturating_sub(first) + 1).min(BLOCK) as usize)?;
            left = left.saturating_sub(offsets.as_ref().map_or(records.len(), Vec::len));
            judge(holds, limit, records, offsets.as_deref(), &mut found);
        }
    }
    let next = match found.last() {
        Some(oldest) if found.len() >= limit => Some(oldest.sequence),
        // What was looked at without limit was looked at to the end.
        _ if left > 0 => None,
        _ if last > whole * BLOCK => Some(last + 1),
        _ => Some(to * BLOCK + 1).filter(|_| to > 0),
    };
    Ok(Page { found, next })
}

/// A block, and which of its events to look at, if that is known.
type Candidate = (u64, Option<Vec<u8>>);

/// Blocks before block `to` that may hold what is asked for, newest first, with the offsets if they are known.
fn candidates(tx: &dyn ReadTx, filter: &Filter, to: u64) -> Result<Vec<Candidate>, AuditError> {
    let Some((kind, value)) = filter.rarest() else {
        return Ok((to.saturating_sub(PAGE as u64)..to).rev().map(|block| (block, None)).collect());
    };
    let (from, to) = (row(kind, value, 0), row(kind, value, to));
    let rows = tx.range(INDEX, Bound::Included(&from), Bound::Excluded(&to), true, PAGE)?;
    Ok(rows.into_iter().filter_map(|(key, offsets)| Some((number(&key)?, Some(offsets)))).collect())
}

/// Whether an indexed block may hold events of the filter's time.
pub(super) fn may_hold_time(tx: &dyn ReadTx, filter: &Filter, block: u64) -> Result<bool, AuditError> {
    if filter.start.is_none() && filter.end.is_none() {
        return Ok(true);
    }
    let Some(times) = tx.get(INDEX, &time_row(block))? else { return Ok(false) };
    let (Some(first), Some(last)) = (times.first_chunk(), times.last_chunk()) else { return Ok(true) };
    let (first, last) = (i64::from_be_bytes(*first), i64::from_be_bytes(*last));
    let second = |t: &Timestamp| t.as_second();
    Ok(filter.start.as_ref().is_none_or(|t| last.div_euclid(1000) >= second(t))
        && filter.end.as_ref().is_none_or(|t| first.div_euclid(1000) <= second(t)))
}

fn judge(
    holds: &dyn Fn(&Event, &[u8]) -> bool,
    limit: usize,
    records: Vec<Record>,
    offsets: Option<&[u8]>,
    found: &mut Vec<Found>,
) {
    for (offset, record) in records.into_iter().enumerate().rev() {
        if found.len() >= limit {
            return;
        }
        if offsets.is_some_and(|o| !u8::try_from(offset).is_ok_and(|offset| o.contains(&offset))) {
            continue;
        }
        if let Some(event) = read_event(&record)
            && holds(&event, &record.event)
            && let Ok(json) = String::from_utf8(record.event)
        {
            found.push(Found { sequence: record.sequence, event, json });
        }
    }
}
