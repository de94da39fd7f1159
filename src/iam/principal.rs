//! Who is calling.

use super::AccountId;

/// Somebody who may be allowed something. So far an account's root; users, roles and their sessions come with
/// identities.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The account itself.
    Root(AccountId),
}

impl Principal {
    /// The root of an account.
    pub fn root(account: AccountId) -> Self {
        Self::Root(account)
    }

    /// The account it belongs to.
    pub fn account(&self) -> &AccountId {
        match self {
            Self::Root(account) => account,
        }
    }

    /// arn:aws:iam::ACCOUNT:root.
    pub fn arn(&self) -> String {
        match self {
            Self::Root(account) => format!("arn:aws:iam::{account}:root"),
        }
    }
}
