//! Group commit: events of calls that run at the same time share one transaction.
//!
//! Each caller puts its event into the queue. One of them leads: it writes what is in the queue, tells the
//! others, and gives the lead to one that came meanwhile. A caller alone leads at once and waits for nobody.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::identity::Identities;
use super::{KmsError, rows};
use crate::audit;
use crate::store::{Durability, Store};

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
    events: Vec<Vec<u8>>,
    /// What the events' decisions were made at.
    decided_at: Option<DecidedAt>,
    turn: Mutex<Turn>,
    wake: Condvar,
}

enum Turn {
    Waits,
    Leads,
    /// True: written. False: the generation is another, not written.
    Done(Result<bool, KmsError>),
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
        let entry =
            Arc::new(Entry { events, decided_at, turn: Mutex::new(Turn::Waits), wake: Condvar::new() });
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
        let written = write(store, identities, &batch);
        self.hand_on();
        let mut own = Ok(false);
        for (at, other) in batch.iter().enumerate() {
            let done = written.as_ref().map(|good| good[at]).map_err(Clone::clone);
            if Arc::ptr_eq(other, &entry) {
                own = done;
            } else {
                other.tell(Turn::Done(done));
            }
        }
        own
    }

    fn hand_on(&self) {
        let mut queue = self.0.lock();
        match queue.waiting.first() {
            Some(next) => next.tell(Turn::Leads),
            None => queue.led = false,
        }
    }
}

fn write(
    store: &dyn Store,
    identities: Option<&Identities>,
    batch: &[Arc<Entry>],
) -> Result<Vec<bool>, KmsError> {
    let mut tx = store.write(Durability::Soon)?;
    let generation = rows::generation(&*tx)?;
    let mut head = audit::head(&*tx)?;
    let mut good = Vec::with_capacity(batch.len());
    for entry in batch {
        let holds = match entry.decided_at {
            None => true,
            Some(at) if at.generation != generation => false,
            Some(at) => match (at.identities, identities) {
                // Inside the store's transaction: see kms::identity::service.
                (Some(decided_at), Some(identities)) => identities.holds(decided_at)?,
                (Some(_), None) | (None, _) => true,
            },
        };
        if holds {
            for event in &entry.events {
                head = audit::append_after(&mut *tx, &head, event)?;
            }
        }
        good.push(holds);
    }
    tx.commit()?;
    Ok(good)
}
