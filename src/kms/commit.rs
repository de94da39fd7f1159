//! Group commit: events of calls that run at the same time share one transaction.
//!
//! Each caller puts its event into the queue. One of them leads: it writes what is in the queue, tells the
//! others, and gives the lead to one that came meanwhile. A caller alone leads at once and waits for nobody.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::identity::Identities;
use super::together::Record;
use super::{KmsError, rows};
use crate::audit;
use crate::store::{Durability, Store, WriteTx};

/// What a decision was made at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecidedAt {
    /// The store's generation.
    pub generation: u64,
    /// That of the identities, if the decision hangs on them.
    pub identities: Option<u64>,
}

impl From<u64> for DecidedAt {
    fn from(generation: u64) -> Self {
        Self { generation, identities: None }
    }
}

/// The queue of one region.
#[derive(Default)]
pub struct Commits(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Vec<Arc<Entry>>,
    led: bool,
}

struct Entry {
    records: Vec<Record>,
    turn: Mutex<Turn>,
    wake: Condvar,
}

/// What came of records that nobody waited for.
pub enum Tried {
    /// For each, whether it was written.
    Done(Vec<bool>),
    /// Another is writing; they were not.
    Busy(Vec<Record>),
}

enum Turn {
    Waits,
    Leads,
    /// For each record, true: written; false: the generation is another, not written.
    Done(Result<Vec<bool>, KmsError>),
}

impl Entry {
    fn tell(&self, turn: Turn) {
        *self.turn.lock() = turn;
        self.wake.notify_one();
    }
}

impl Commits {
    /// Writes events; in the operating system when this returns. False, and nothing written, if the decisions
    /// were made at another generation of the store, or of the `identities`.
    pub fn submit(
        &self,
        store: &dyn Store,
        identities: Option<&Identities>,
        events: Vec<Vec<u8>>,
        decided_at: Option<DecidedAt>,
    ) -> Result<bool, KmsError> {
        let records = vec![Record { events, decided_at }];
        Ok(self.submit_all(store, identities, records)?.first().is_some_and(|good| *good))
    }

    /// The same for several requests; for each whether it was written.
    pub fn submit_all(
        &self,
        store: &dyn Store,
        identities: Option<&Identities>,
        records: Vec<Record>,
    ) -> Result<Vec<bool>, KmsError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let entry = Arc::new(Entry { records, turn: Mutex::new(Turn::Waits), wake: Condvar::new() });
        let led = {
            let mut queue = self.0.lock();
            queue.waiting.push(entry.clone());
            std::mem::replace(&mut queue.led, true)
        };
        if led {
            let mut turn = entry.turn.lock();
            entry.wake.wait_while(&mut turn, |turn| matches!(turn, Turn::Waits));
            if let Turn::Done(done) = &*turn {
                return done.clone();
            }
        }
        // Whoever leads is in the queue: only a leader takes entries out, and there is one.
        let batch = std::mem::take(&mut self.0.lock().waiting);
        let written = store
            .write(Durability::Soon)
            .map_err(KmsError::from)
            .and_then(|tx| write(tx, identities, batch.iter().flat_map(|entry| &entry.records)));
        self.hand_on();
        let mut good = written.as_ref().map(|good| good.iter().copied());
        let mut own = Ok(Vec::new());
        for other in &batch {
            let done = match &mut good {
                Ok(good) => Ok(good.by_ref().take(other.records.len()).collect()),
                Err(error) => Err(KmsError::clone(error)),
            };
            if Arc::ptr_eq(other, &entry) {
                own = done;
            } else {
                other.tell(Turn::Done(done));
            }
        }
        own
    }

    /// The same where nobody may wait: the records come back if another is writing.
    pub fn try_submit_all(
        &self,
        store: &dyn Store,
        identities: Option<&Identities>,
        records: Vec<Record>,
    ) -> Result<Tried, KmsError> {
        if std::mem::replace(&mut self.0.lock().led, true) {
            return Ok(Tried::Busy(records));
        }
        let done = match store.try_write(Durability::Soon) {
            Ok(Some(tx)) => write(tx, identities, records.iter()).map(Tried::Done),
            Ok(None) => Ok(Tried::Busy(records)),
            Err(error) => Err(error.into()),
        };
        self.hand_on();
        done
    }

    fn hand_on(&self) {
        let mut queue = self.0.lock();
        match queue.waiting.first() {
            Some(next) => next.tell(Turn::Leads),
            None => queue.led = false,
        }
    }
}

fn write<'a>(
    mut tx: Box<dyn WriteTx + '_>,
    identities: Option<&Identities>,
    records: impl Iterator<Item = &'a Record>,
) -> Result<Vec<bool>, KmsError> {
    let generation = rows::generation(&*tx)?;
    let mut head = audit::head(&*tx)?;
    let mut good = Vec::new();
    for record in records {
        let holds = match record.decided_at {
            None => true,
            Some(at) if at.generation != generation => false,
            Some(at) => match (at.identities, identities) {
                // Inside the store's transaction: see kms::identity::service.
                (Some(decided_at), Some(identities)) => identities.holds(decided_at)?,
                (Some(_), None) | (None, _) => true,
            },
        };
        if holds {
            for event in &record.events {
                head = audit::append_after(&mut *tx, &head, event)?;
            }
        }
        good.push(holds);
    }
    tx.commit()?;
    Ok(good)
}
