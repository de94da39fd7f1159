//! The layer as its callers see it.

mod export;
