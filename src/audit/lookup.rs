//! Finding events.

use jiff::Timestamp;

use super::event::Event;

/// Which events; everything that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// At this time or later.
    pub start: Option<Timestamp>,
    /// At this time or earlier.
    pub end: Option<Timestamp>,
    /// That concern this key: its ARN or its id.
    pub key: Option<String>,
    /// Of this operation.
    pub event_name: Option<String>,
    /// By this principal: its ARN.
    pub principal: Option<String>,
    /// That failed.
    pub errors_only: bool,
    /// At most this many; None: 50.
    pub limit: Option<usize>,
}

/// An event that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its number in the chain.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
    /// The same as it stands in the log: JSON.
    pub json: String,
}
