//! Where the key service's work is done: it waits for disks, and so not on the threads that serve the network.

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// On tokio's threads for what blocks.
    Spawned,
    /// On the thread itself, which hands its other tasks to another.
    InPlace,
    /// On the thread itself.
    Inline,
}

impl Work {
    /// Does it. None if it panicked.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self {
            Self::Spawned => tokio::task::spawn_blocking(work).await.ok(),
            Self::InPlace => Some(tokio::task::block_in_place(work)),
            Self::Inline => Some(work()),
        }
    }
}
