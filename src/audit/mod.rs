//! Layer 4: what happened. A chain of events in the order they were recorded, each bound to all before it,
//! and a head under a key that shows a cut tail; the shape of an event; finding events.

mod chain;
mod event;
mod lookup;

pub use chain::{
    AuditError, ChainHead, HeadKey, Record, advance_head, append, append_after, head, read, sign_head, verify,
};
pub use event::{
    Additional, EVENT_VERSION, Event, FILES_SOURCE, Identity, KMS_SOURCE, Resource, Response,
    ServiceEventDetails, Text, uuid,
};
pub use lookup::{Filter, Found, index, lookup, newest};
