//! kmsfs: an encrypted directory in which every file is its own envelope.
//!
//! The layers, lowest first; a layer names only layers below it (docs/architecture.md):
//! `crypto`, `store`, `iam`, `audit`, `kms`, then `volume` and `client`, then `mount`, `api` and `snapshot`, then `cli`.

pub mod api;
pub mod audit;
pub mod cli;
pub mod client;
pub mod crypto;
pub mod iam;
pub mod kms;
pub mod mount;
pub mod snapshot;
pub mod store;
pub mod volume;
