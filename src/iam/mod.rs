//! Layer 3: who is calling, and what they may. So far the names: each is built by a fallible parse and
//! trusted from then on.

mod names;
mod principal;

pub use names::{AccountId, AliasName, IamError, KeyArn, KeyId, Region};
pub use principal::Principal;
