//! Layer 3: who is calling, and what they may. Names are built by a fallible parse and trusted from then on.

mod condition;
mod context;
pub mod directory;
mod evaluate;
mod json;
mod key_policy;
mod names;
mod pattern;
mod policy;
mod principal;
pub mod sigv4;
#[cfg(test)]
mod tests;

pub use context::Context;
pub use evaluate::{Access, Attached, Decision, Ground, Layer, Refusal, ResourcePolicy, evaluate};
pub use key_policy::KeyPolicy;
pub use names::{AccountId, AliasName, IamError, KeyArn, KeyId, Region};
pub use policy::{Effect, Named, Policy, PolicyKind, Statement};
pub use principal::Principal;
