//! The hash chain. Record n holds SHA-256(label | hash of n-1 | n | event): a changed, removed or reordered
//! event breaks the chain behind it. A cut tail leaves a good chain: the signed head, or one that was
//! noted elsewhere, shows it.
//!
//! Collections: `audit#` (sequence number, big-endian -> hash 32 | event), `audit-head` (one row: sequence
//! number 8, hash 32, HMAC-SHA-256 32).

use std::ops::Bound;

use crate::crypto::secret::secret_newtype;
use crate::crypto::{CryptoError, labels, mac};
use crate::store::{ReadTx, StoreError, WriteTx};

const EVENTS: &str = "audit#";
const HEAD: &str = "audit-head";
const HEAD_ROW: &[u8] = b"";
/// Rows that verifying reads at once.
const BATCH: usize = 1000;

secret_newtype! {
    /// Authenticates the head of a chain.
    HeadKey, 32
}

impl HeadKey {
    /// The head key of the region whose root key this is: SP 800-108 counter mode.
    pub fn derive(root: &[u8; 32]) -> Result<Self, CryptoError> {
        crate::crypto::kdf::counter_mode(root, labels::AUDIT_HEAD, b"").map(Self)
    }
}

/// What a log that was tampered with says of itself.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event is not the one that was recorded.
    #[error("the audit log was changed: event {sequence} does not fit the one before it")]
    Changed {
        /// The first that does not fit.
        sequence: u64,
    },
    /// An event is gone.
    #[error("the audit log was changed: event {sequence} is missing")]
    Missing {
        /// The first that is not there.
        sequence: u64,
    },
    /// The signed head is not of this log, or a noted one is not in it.
    #[error("the audit log was changed: its head, event {sequence}, is not the one that was signed or noted")]
    Head {
        /// Where the head points.
        sequence: u64,
    },
    /// The head's own row.
    #[error(
        "the signed head of the audit log does not authenticate; it was changed, or the root key is another"
    )]
    HeadSignature,
    /// No numbers left.
    #[error("the audit log is full")]
    Full,
}

/// The end of a chain: what may be noted elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// Number of the last event; 0 for an empty log.
    pub sequence: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl ChainHead {
    /// Of a log without events.
    pub const EMPTY: Self = Self { sequence: 0, hash: [0; 32] };

    /// A head as [`Self`] is displayed: number, colon, 64 hex digits. None if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (sequence, hash) = text.trim().split_once(':')?;
        let hash = hex::decode(hash).ok()?.try_into().ok()?;
        Some(Self { sequence: sequence.parse().ok()?, hash })
    }

    fn encode(&self) -> [u8; 40] {
        let mut out = [0; 40];
        out[..8].copy_from_slice(&self.sequence.to_be_bytes());
        out[8..].copy_from_slice(&self.hash);
        out
    }
}

impl std::fmt::Display for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.sequence, hex::encode(self.hash))
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 1.
    pub sequence: u64,
    /// JSON.
    pub event: Vec<u8>,
    hash: [u8; 32],
}

impl Record {
    /// The chain up to this event.
    pub fn head(&self) -> ChainHead {
        ChainHead { sequence: self.sequence, hash: self.hash }
    }
}

fn link(before: &[u8; 32], sequence: u64, event: &[u8]) -> [u8; 32] {
    mac::sha256(&[labels::AUDIT_EVENT, before, &sequence.to_be_bytes(), event])
}

fn parse(key: &[u8], mut value: Vec<u8>, due: u64) -> Result<Record, AuditError> {
    let sequence = <[u8; 8]>::try_from(key)
        .map(u64::from_be_bytes)
        .map_err(|_| AuditError::Changed { sequence: due })?;
    let hash = *value.first_chunk::<32>().ok_or(AuditError::Changed { sequence })?;
    value.drain(..hash.len());
    Ok(Record { sequence, event: value, hash })
}

/// The end of the chain as it stands.
pub fn head(tx: &dyn ReadTx) -> Result<ChainHead, AuditError> {
    let last = tx.range(EVENTS, Bound::Unbounded, Bound::Unbounded, true, 1)?;
    let Some((key, value)) = last.into_iter().next() else { return Ok(ChainHead::EMPTY) };
    let record = parse(&key, value, 0)?;
    Ok(ChainHead { sequence: record.sequence, hash: record.hash })
}

/// Records an event (JSON, without key material or plaintext) inside the transaction of what it tells of.
pub fn append(tx: &mut dyn WriteTx, event: &[u8]) -> Result<ChainHead, AuditError> {
    let before = head(tx)?;
    append_after(tx, &before, event)
}

/// The same where the end of the chain is known: `before` is [`head`]'s or an append's answer in this
/// transaction.
pub fn append_after(tx: &mut dyn WriteTx, before: &ChainHead, event: &[u8]) -> Result<ChainHead, AuditError> {
    let sequence = before.sequence.checked_add(1).ok_or(AuditError::Full)?;
    let hash = link(&before.hash, sequence, event);
    tx.put(EVENTS, &sequence.to_be_bytes(), &[&hash, event].concat())?;
    Ok(ChainHead { sequence, hash })
}

/// Up to `limit` events from number `from` on.
pub fn read(tx: &dyn ReadTx, from: u64, limit: usize) -> Result<Vec<Record>, AuditError> {
    let rows = tx.range(EVENTS, Bound::Included(&from.to_be_bytes()), Bound::Unbounded, false, limit)?;
    rows.into_iter().zip(from..).map(|((key, value), due)| parse(&key, value, due)).collect()
}

/// Up to `limit` events behind `before`, each of which fits the one before it.
pub fn follow(tx: &dyn ReadTx, before: &ChainHead, limit: usize) -> Result<Vec<Record>, AuditError> {
    let mut before = *before;
    let records = read(tx, before.sequence.checked_add(1).ok_or(AuditError::Full)?, limit)?;
    for record in &records {
        let sequence = before.sequence + 1;
        if record.sequence != sequence {
            return Err(AuditError::Missing { sequence });
        }
        if !mac::equal(&link(&before.hash, sequence, &record.event), &record.hash) {
            return Err(AuditError::Changed { sequence });
        }
        before = record.head();
    }
    Ok(records)
}

/// Does the chain hold this head?
pub fn holds(tx: &dyn ReadTx, head: &ChainHead) -> Result<bool, AuditError> {
    if *head == ChainHead::EMPTY {
        return Ok(true);
    }
    let row = tx.get(EVENTS, &head.sequence.to_be_bytes())?;
    Ok(row.is_some_and(|row| row.first_chunk() == Some(&head.hash)))
}

/// Signs the head `synced`, which is on disk, if it is further than the signed one. The chain must still hold
/// the signed one: a log that was cut is not signed over. False if there was nothing to sign.
pub fn advance_head(tx: &mut dyn WriteTx, key: &HeadKey, synced: &ChainHead) -> Result<bool, AuditError> {
    if let Some(signed) = signed_head(tx, key)? {
        if signed.sequence >= synced.sequence {
            return Ok(false);
        }
        if !holds(tx, &signed)? {
            return Err(AuditError::Head { sequence: signed.sequence });
        }
    }
    sign_head(tx, key, synced)?;
    Ok(true)
}

/// Signs a head; only one that is on disk, or a power cut would make the log look cut.
pub fn sign_head(tx: &mut dyn WriteTx, key: &HeadKey, synced: &ChainHead) -> Result<(), AuditError> {
    let head = synced.encode();
    let signature = mac::hmac_sha256(key.expose(), &[&head]);
    Ok(tx.put(HEAD, HEAD_ROW, &[&head[..], &signature].concat())?)
}

/// The head that was signed last; none in a log that never was.
pub fn signed_head(tx: &dyn ReadTx, key: &HeadKey) -> Result<Option<ChainHead>, AuditError> {
    let Some(row) = tx.get(HEAD, HEAD_ROW)? else { return Ok(None) };
    let parts = row.split_first_chunk::<8>().and_then(|(s, rest)| Some((s, rest.split_first_chunk::<32>()?)));
    let Some((sequence, (hash, signature))) = parts else { return Err(AuditError::HeadSignature) };
    let head = ChainHead { sequence: u64::from_be_bytes(*sequence), hash: *hash };
    mac::verify_hmac_sha256(key.expose(), &[&head.encode()], signature)
        .map_err(|_| AuditError::HeadSignature)?;
    Ok(Some(head))
}

/// Walks the whole chain. It must hold the signed head, and `noted`, a head that was kept elsewhere. Answers
/// the end.
pub fn verify(tx: &dyn ReadTx, key: &HeadKey, noted: Option<ChainHead>) -> Result<ChainHead, AuditError> {
    let mut due: Vec<ChainHead> = signed_head(tx, key)?.into_iter().chain(noted).collect();
    due.retain(|h| *h != ChainHead::EMPTY);
    let mut end = ChainHead::EMPTY;
    loop {
        let from = end.sequence + 1;
        let records = read(tx, from, BATCH)?;
        if records.is_empty() {
            break;
        }
        for record in records {
            let sequence = end.sequence + 1;
            if record.sequence != sequence {
                return Err(AuditError::Missing { sequence });
            }
            let hash = link(&end.hash, sequence, &record.event);
            if !mac::equal(&hash, &record.hash) {
                return Err(AuditError::Changed { sequence });
            }
            end = ChainHead { sequence, hash };
            if due.iter().any(|h| h.sequence == sequence && h.hash != hash) {
                return Err(AuditError::Head { sequence });
            }
        }
    }
    match due.iter().find(|h| h.sequence > end.sequence) {
        Some(cut) => Err(AuditError::Head { sequence: cut.sequence }),
        None => Ok(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, SqliteStore, Store};

    const EVENTS_MADE: u64 = 7;

    fn log() -> (tempfile::TempDir, SqliteStore, HeadKey) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("s.db")).unwrap();
        let key = HeadKey::derive(&[1; 32]).unwrap();
        let mut tx = store.write(Durability::Soon).unwrap();
        for i in 0..EVENTS_MADE {
            append(&mut *tx, format!("{{\"n\":{i}}}").as_bytes()).unwrap();
        }
        tx.commit().unwrap();
        (dir, store, key)
    }

    fn change(store: &SqliteStore, f: impl FnOnce(&mut dyn WriteTx)) {
        let mut tx = store.write(Durability::Soon).unwrap();
        f(&mut *tx);
        tx.commit().unwrap();
    }

    fn check(store: &SqliteStore, key: &HeadKey, noted: Option<ChainHead>) -> Result<ChainHead, AuditError> {
        verify(&*store.read().unwrap(), key, noted)
    }

    #[test]
    fn an_untouched_log_verifies_and_goes_on() {
        let (_dir, store, key) = log();
        let end = check(&store, &key, None).unwrap();
        assert_eq!(end.sequence, EVENTS_MADE);
        change(&store, |tx| sign_head(tx, &key, &end).unwrap());
        change(&store, |tx| assert!(append(tx, b"{}").is_ok()));
        assert_eq!(check(&store, &key, Some(end)).unwrap().sequence, EVENTS_MADE + 1);
        assert_eq!(read(&*store.read().unwrap(), 3, 1).unwrap()[0].event, b"{\"n\":2}");
    }

    #[test]
    fn a_changed_removed_or_reordered_event_is_found() {
        for sequence in 1..=EVENTS_MADE {
            let (_dir, store, key) = log();
            let at = sequence.to_be_bytes();
            let old = store.read().unwrap().get(EVENTS, &at).unwrap().unwrap();
            let mut changed = old.clone();
            *changed.last_mut().unwrap() ^= 1;
            change(&store, |tx| tx.put(EVENTS, &at, &changed).unwrap());
            assert!(
                matches!(check(&store, &key, None), Err(AuditError::Changed { sequence: s }) if s == sequence)
            );
            if sequence < EVENTS_MADE {
                let next = (sequence + 1).to_be_bytes();
                change(&store, |tx| {
                    let other = tx.get(EVENTS, &next).unwrap().unwrap();
                    tx.put(EVENTS, &at, &other).unwrap();
                    tx.put(EVENTS, &next, &old).unwrap();
                });
                assert!(
                    matches!(check(&store, &key, None), Err(AuditError::Changed { sequence: s }) if s == sequence)
                );
                change(&store, |tx| assert!(tx.delete(EVENTS, &at).unwrap()));
                assert!(
                    matches!(check(&store, &key, None), Err(AuditError::Missing { sequence: s }) if s == sequence)
                );
            }
        }
    }

    #[test]
    fn a_cut_tail_is_found_by_the_signed_and_by_a_noted_head() {
        let (_dir, store, key) = log();
        let noted = head(&*store.read().unwrap()).unwrap();
        change(&store, |tx| assert!(tx.delete(EVENTS, &EVENTS_MADE.to_be_bytes()).unwrap()));
        assert_eq!(check(&store, &key, None).unwrap().sequence, EVENTS_MADE - 1);
        assert!(matches!(check(&store, &key, Some(noted)), Err(AuditError::Head { sequence: EVENTS_MADE })));
        change(&store, |tx| sign_head(tx, &key, &noted).unwrap());
        assert!(matches!(check(&store, &key, None), Err(AuditError::Head { sequence: EVENTS_MADE })));
        // Another event in the place of the cut one.
        change(&store, |tx| assert!(append(tx, b"{}").is_ok()));
        assert!(matches!(check(&store, &key, None), Err(AuditError::Head { sequence: EVENTS_MADE })));
        let other = HeadKey::derive(&[2; 32]).unwrap();
        assert!(matches!(check(&store, &other, None), Err(AuditError::HeadSignature)));
    }
}
