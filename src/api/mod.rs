//! Layer 7: the key service over the network, as AWS's SDKs and its command line speak to it.
//!
//! One port serves all regions and services; a request's credential scope and target tell them apart. What
//! arrives is limited in size and time, its signature is checked ([`crate::iam::sigv4`]), and then it is a call
//! of the `kms` layer like any other: here nothing is allowed and nothing is recorded.

mod answer;
mod credentials;
mod handle;
mod metrics;
mod route;
mod run;
mod server;
pub mod tls;
mod xml;

pub use credentials::{CredentialError, Credentials, DevCredential, DevCredentials, HomeCredentials};
pub use server::{ApiError, Server, ServerOptions};
