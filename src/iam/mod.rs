//! Layer 3: who is calling, and what they may. Names are built by a fallible parse and trusted from then on.

mod decide;
mod names;
mod principal;

pub use decide::{Denial, KeyPolicy, Request, may_in_account, may_use_key};
pub use names::{AccountId, AliasName, IamError, KeyArn, KeyId, Region};
pub use principal::Principal;
