//! Where the key service's work is done: it waits for disks, and so not on the threads that serve the network.
//!
//! Measured with 16 connections that decrypt: on tokio's threads for what blocks 10,000 requests per second of processor
//! time and 14,500 of the clock; with `block_in_place` 9,600 and 13,800; on the network's own threads 7,200 and 9,700. Calls
//! that wait together share a transaction, and the more threads wait, the more share one.

/// Does it. None if it panicked.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
