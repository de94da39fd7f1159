//! Layer 4: what happened. So far the chain: events in the order they were recorded, each bound to all
//! before it, and a head under a key that shows a cut tail.

mod chain;

pub use chain::{AuditError, ChainHead, HeadKey, Record, append, head, read, sign_head, verify};
