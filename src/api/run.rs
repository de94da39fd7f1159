//! Where the key service's work is done.
//!
//! What may wait for disks, or takes long, is done on threads for what blocks. For a Decrypt, waking one, and then the
//! network's thread again for the answer, cost more than half of its processor time. So what is decided out of memory is
//! decided where it arrived, and what was decided meanwhile on one of the network's threads is recorded there in one
//! transaction, if nobody else is writing to the store: no thread of the network ever waits for one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::kms::{Answer, Session, Unrecorded};

/// Requests that one transaction records at most: the first of them waits for the last.
const TOGETHER: usize = 256;

type Waiting = (Unrecorded, oneshot::Sender<Option<Answer>>);

/// Does it on a thread that may wait. None if it panicked.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Records the requests of one region together.
pub struct Recorder {
    /// One for each of the network's threads, so that nobody wakes another one for an answer.
    queues: Vec<Mutex<Queue>>,
    /// Held by the thread that writes; the others serve until it is their turn.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// A task records what waits.
    led: bool,
}

impl Recorder {
    /// Of a region, for so many threads of the network.
    pub fn new(threads: usize) -> Arc<Self> {
        let queues = (0..threads).map(|_| Mutex::default()).collect();
        Arc::new(Self { queues, turn: tokio::sync::Mutex::new(()) })
    }

    /// One operation of KMS, on this thread of the network: decided, done, recorded, answered. None if it panicked.
    pub async fn call(
        self: &Arc<Self>,
        thread: usize,
        session: Session,
        operation: String,
        body: Zeroizing<Vec<u8>>,
    ) -> Option<Answer> {
        let decided = catch_unwind(AssertUnwindSafe(|| session.decide_json(&operation, &body))).ok()?;
        if let Some(decided) = decided {
            let (asker, answered) = oneshot::channel();
            let led = {
                let mut queue = self.queues.get(thread)?.lock();
                queue.waiting.push((decided, asker));
                std::mem::replace(&mut queue.led, true)
            };
            if !led {
                tokio::spawn(self.clone().lead(thread));
            }
            if let Some(answer) = answered.await.ok()? {
                return Some(answer);
            }
        }
        run(move || session.call_json(&operation, &body).map(Zeroizing::new)).await
    }

    /// Records what waits until nothing does.
    async fn lead(self: Arc<Self>, thread: usize) {
        let Some(queue) = self.queues.get(thread) else { return };
        loop {
            // What has arrived is decided first, and comes along; and nobody who was just answered is kept waiting.
            tokio::task::yield_now().await;
            let turn = self.turn.lock().await;
            let batch: Vec<Waiting> = {
                let mut queue = queue.lock();
                let many = queue.waiting.len().min(TOGETHER);
                queue.waiting.drain(..many).collect()
            };
            let (all, askers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let answers = match catch_unwind(AssertUnwindSafe(|| Unrecorded::try_record(all))) {
                Ok(Ok(answers)) => Some(answers),
                Ok(Err(all)) => run(move || Unrecorded::record(all)).await,
                Err(_) => None,
            };
            drop(turn);
            // After a panic the askers are dropped, which tells them.
            for (asker, answer) in askers.into_iter().zip(answers.into_iter().flatten()) {
                // Who has gone away needs no answer.
                let _ = asker.send(answer);
            }
            let mut queue = queue.lock();
            if queue.waiting.is_empty() {
                queue.led = false;
                return;
            }
        }
    }
}
