//! Layer 4: what happened. A chain of events in the order they were recorded, each bound to all before it,
//! and a head under a key that shows a cut tail; the shape of an event; finding events.

mod bounds;
mod chain;
mod delivery;
mod digest;
mod event;
mod export;
mod lookup;
mod merge;
mod usage;

pub use bounds::bounded;
pub use chain::{
    AuditError, ChainHead, HeadKey, Record, advance_head, append, append_after, head, read, sign_head,
    signed_head, verify,
};
pub use digest::{DIGEST_KEY_SPEC, DigestKey, Second};
pub use event::{
    Additional, CLIENT_SOURCE, EVENT_VERSION, Event, FILES_SOURCE, Identity, KMS_SOURCE, Resource, Response,
    ServiceEventDetails, SessionAttributes, SessionContext, SessionIssuer, TRAIL_SOURCE, Text, uuid,
};
pub use export::{BUCKET, DigestKeys, ExportError, ExportOptions, Exported, Log, Source, export};
pub use lookup::{Filter, Found, Page, USUAL_LIMIT, index, lookup, newest, page};
pub use merge::merge;
pub use usage::{CallKind, CallSeen, calls};

#[cfg(test)]
mod tests;
