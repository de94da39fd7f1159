//! Requests and answers of IAM and STS in AWS's shapes. Requests are read from JSON with AWS's names; numbers and
//! truth values may be texts, as the query protocol has them. Times in answers are ISO 8601 texts.

use serde::{Deserialize, Serialize};

use super::flexible;

/// Declares requests: what is absent has its default.
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    )*};
}

/// Declares answers; what is None is left out.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Serialize)]
        #[serde(rename_all = "PascalCase")]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    )*};
}

mod answers;
mod groups;
mod policies;
mod roles;
mod sts;
mod users;

pub use answers::*;
pub use groups::*;
pub use policies::*;
pub use roles::*;
pub use sts::*;
pub use users::*;

/// A label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IdentityTag {
    /// At most 128 characters.
    pub key: String,
    /// At most 256 characters.
    pub value: String,
}

requests! {
    /// CreateAccountAlias.
    CreateAccountAliasRequest {
        /// 3 to 63 of a-z, 0-9 and -.
        account_alias: String,
    }
    /// DeleteAccountAlias.
    DeleteAccountAliasRequest {
        /// The one it has.
        account_alias: String,
    }
    /// ListAccountAliases.
    ListAccountAliasesRequest {
        /// 1 to 1000.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// GetAccountSummary.
    GetAccountSummaryRequest {}
}
