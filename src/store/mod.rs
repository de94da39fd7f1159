//! Layer 2: one transactional store of ordered keys and values. Every layer above owns its collections.

mod copy;
mod housekeeping;
mod sqlite;

use std::ops::Bound;

pub use copy::{Moment, check_file};
pub use housekeeping::housekeeper;
pub use sqlite::SqliteStore;

/// Shorthand.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("cannot open the store {path}: {reason}; check that it exists, is yours, and is not damaged")]
    Open {
        /// Where it is.
        path: String,
        /// What the engine said.
        reason: String,
    },
    /// Another process held it for too long.
    #[error("the store is busy: another process has been writing for {seconds} seconds; try again")]
    Busy {
        /// How long was waited.
        seconds: u64,
    },
    /// No space left.
    #[error("the disk of the store is full; nothing was changed")]
    Full,
    /// The engine refused.
    #[error("the store failed: {0}; nothing was changed")]
    Engine(String),
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the operating system when it returns (survives kill -9), on disk within a second.
    Soon,
    /// On disk when it returns.
    Synced,
}

/// A key and its value.
pub type Item = (Vec<u8>, Vec<u8>);

/// A consistent view. A collection whose name ends in `#` is a sequence: its keys are numbers of 8 bytes,
/// big-endian and below 2^63, and it is made for long values that are appended.
pub trait ReadTx {
    /// The value of a key.
    fn get(&self, collection: &str, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Up to `limit` items between two keys in the order of their bytes, or `backwards`.
    fn range(
        &self,
        collection: &str,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        backwards: bool,
        limit: usize,
    ) -> Result<Vec<Item>>;
}

/// A view that changes; dropped without [`WriteTx::commit`], nothing happened.
pub trait WriteTx: ReadTx {
    /// Sets a value.
    fn put(&mut self, collection: &str, key: &[u8], value: &[u8]) -> Result<()>;

    /// Removes a key; its value is overwritten in the store's file once the log is moved into it. True if it
    /// was there.
    fn delete(&mut self, collection: &str, key: &[u8]) -> Result<bool>;

    /// Makes the changes happen, all together.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// A store; several processes may have one open. Transactions block their thread; one thread never begins
/// a second one of the same store while it holds one.
pub trait Store: Send + Sync {
    /// Begins a view.
    fn read(&self) -> Result<Box<dyn ReadTx + '_>>;

    /// Begins a view that changes; there is one at a time, over all processes.
    fn write(&self, durability: Durability) -> Result<Box<dyn WriteTx + '_>>;

    /// The same without waiting: None if another is changing the store.
    fn try_write(&self, durability: Durability) -> Result<Option<Box<dyn WriteTx + '_>>>;

    /// When it returns, everything that was committed before the call is on disk.
    fn sync(&self) -> Result<()>;

    /// Leaves nothing of deleted values in the store's files; on disk when it returns. False if another
    /// process was reading: try again later. No transaction of this thread may be open.
    fn purge(&self) -> Result<bool>;
}

/// The range of all keys that begin with `prefix`: from it, to the answer (None: to the end).
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
