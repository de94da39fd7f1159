//! Where the key service's work is done.
//!
//! What may wait for disks is done on threads for what blocks. For a Decrypt, waking one, and then the network's thread
//! again for the answer, cost more than a third of its processor time. So what is decided out of memory is decided where it
//! arrived; and what was decided meanwhile is recorded in one transaction by one of the network's threads, while the
//! others serve. Only one of them at a time may wait for a store.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::kms::{KmsError, Session, Unrecorded};

/// Requests that one transaction records at most: the first of them waits for the last.
const TOGETHER: usize = 256;

type Answer = Result<Zeroizing<Vec<u8>>, KmsError>;
type Waiting = (Unrecorded, oneshot::Sender<Option<Answer>>);

/// Does it on a thread that may wait. None if it panicked.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Whether a thread of the network may wait for a store.
pub struct MayWait(AtomicBool);

impl MayWait {
    /// Of so many threads one may, if another is left.
    pub fn of(threads: usize) -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(threads > 1)))
    }

    /// Does it here if that may be, else on a thread that may wait. None if it panicked.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if !self.0.swap(false, Ordering::Acquire) {
            return run(work).await;
        }
        let done = catch_unwind(AssertUnwindSafe(work)).ok();
        self.0.store(true, Ordering::Release);
        done
    }
}

/// Records the requests of one region together.
pub struct Recorder {
    queue: Mutex<Queue>,
    may_wait: Arc<MayWait>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// A task records what waits.
    led: bool,
}

impl Recorder {
    /// Of a region.
    pub fn new(may_wait: Arc<MayWait>) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), may_wait })
    }

    /// One operation of KMS, decided, done, recorded, answered. None if it panicked.
    pub async fn call(
        self: &Arc<Self>,
        session: Session,
        operation: String,
        body: Zeroizing<Vec<u8>>,
    ) -> Option<Answer> {
        let decided = catch_unwind(AssertUnwindSafe(|| session.decide_json(&operation, &body))).ok()?;
        if let Some(decided) = decided {
            let (asker, answered) = oneshot::channel();
            let led = {
                let mut queue = self.queue.lock();
                queue.waiting.push((decided, asker));
                std::mem::replace(&mut queue.led, true)
            };
            if !led {
                tokio::spawn(self.clone().lead());
            }
            if let Some(answer) = answered.await.ok()? {
                return Some(answer);
            }
        }
        run(move || session.call_json(&operation, &body).map(Zeroizing::new)).await
    }

    /// Records what waits until nothing does.
    async fn lead(self: Arc<Self>) {
        loop {
            // What has arrived is decided first, and comes along; and nobody who was just answered is kept waiting.
            tokio::task::yield_now().await;
            let batch: Vec<Waiting> = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    queue.led = false;
                    return;
                }
                let many = queue.waiting.len().min(TOGETHER);
                queue.waiting.drain(..many).collect()
            };
            let (all, askers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            // After a panic the askers are dropped, which tells them.
            let Some(answers) = self.may_wait.run(move || Unrecorded::record(all)).await else { continue };
            for (asker, answer) in askers.into_iter().zip(answers) {
                // Who has gone away needs no answer.
                let _ = asker.send(answer);
            }
        }
    }
}
