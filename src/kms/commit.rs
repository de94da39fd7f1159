//! Group commit: events of calls that run at the same time share one transaction.
//!
//! Each caller puts its event into the queue and then waits for its turn to write. Whoever gets the turn writes
//! everything that is in the queue; who waited meanwhile finds its event written and goes on.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{KmsError, rows};
use crate::audit;
use crate::store::{Durability, Store};

/// The queue of one region.
#[derive(Default)]
pub struct Commits {
    queue: Mutex<Vec<Arc<Entry>>>,
    turn: Mutex<()>,
}

struct Entry {
    event: Vec<u8>,
    /// The generation that the event's decision was made at.
    decided_at: Option<u64>,
    /// True: written. False: the generation is another, not written.
    done: Mutex<Option<Result<bool, KmsError>>>,
}

impl Commits {
    /// Writes an event; in the operating system when this returns. False, and nothing written, if the
    /// decision was made at another generation.
    pub fn submit(
        &self,
        store: &dyn Store,
        event: Vec<u8>,
        decided_at: Option<u64>,
    ) -> Result<bool, KmsError> {
        let entry = Arc::new(Entry { event, decided_at, done: Mutex::default() });
        self.queue.lock().push(entry.clone());
        let _turn = self.turn.lock();
        if let Some(done) = entry.done.lock().take() {
            return done;
        }
        let batch = std::mem::take(&mut *self.queue.lock());
        let written = write(store, &batch);
        let mut own = None;
        for (at, other) in batch.iter().enumerate() {
            let done = written.as_ref().map(|good| good[at]).map_err(Clone::clone);
            if Arc::ptr_eq(other, &entry) {
                own = Some(done);
            } else {
                *other.done.lock() = Some(done);
            }
        }
        // An entry leaves the queue with a batch only, and then its result stands in it.
        own.or_else(|| entry.done.lock().take()).unwrap_or(Ok(false))
    }
}

fn write(store: &dyn Store, batch: &[Arc<Entry>]) -> Result<Vec<bool>, KmsError> {
    let mut tx = store.write(Durability::Soon)?;
    let generation = rows::generation(&*tx)?;
    let mut head = audit::head(&*tx)?;
    let mut good = Vec::with_capacity(batch.len());
    for entry in batch {
        let holds = entry.decided_at.is_none_or(|g| g == generation);
        if holds {
            head = audit::append_after(&mut *tx, &head, &entry.event)?;
        }
        good.push(holds);
    }
    tx.commit()?;
    Ok(good)
}
