//! The key service over HTTP: raw requests through a socket, signed by a signer that shares nothing with the server.

mod arbitrary;
pub mod bed;
mod faults;
mod identity;
mod limits;
mod program;
mod refusals;
mod requests;
mod tls;
