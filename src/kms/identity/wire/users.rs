//! Users and their access keys.

use serde::{Deserialize, Serialize};

use super::IdentityTag;
use crate::kms::identity::flexible;

requests! {
    /// CreateUser.
    CreateUserRequest {
        /// `/` (the default) or `/a/b/`.
        path: Option<String>,
        /// At most 64 of letters, digits and `_+=,.@-`.
        user_name: String,
        /// ARN of a managed policy.
        permissions_boundary: Option<String>,
        /// At most 50.
        tags: Vec<IdentityTag>,
    }
    /// GetUser.
    GetUserRequest {
        /// None: the caller.
        user_name: Option<String>,
    }
    /// ListUsers.
    ListUsersRequest {
        /// Only those under it.
        path_prefix: Option<String>,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// DeleteUser.
    DeleteUserRequest {
        /// One that has nothing any more.
        user_name: String,
    }
    /// TagUser.
    TagUserRequest {
        /// Whose.
        user_name: String,
        /// Those with the same names get these values.
        tags: Vec<IdentityTag>,
    }
    /// UntagUser.
    UntagUserRequest {
        /// Whose.
        user_name: String,
        /// Names; those that are not there are passed over.
        tag_keys: Vec<String>,
    }
    /// ListUserTags.
    ListUserTagsRequest {
        /// Whose.
        user_name: String,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// CreateAccessKey.
    CreateAccessKeyRequest {
        /// None: the caller.
        user_name: Option<String>,
    }
    /// ListAccessKeys.
    ListAccessKeysRequest {
        /// None: the caller.
        user_name: Option<String>,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// UpdateAccessKey.
    UpdateAccessKeyRequest {
        /// None: the caller.
        user_name: Option<String>,
        /// AKIA...
        access_key_id: String,
        /// Active or Inactive.
        status: String,
    }
    /// DeleteAccessKey.
    DeleteAccessKeyRequest {
        /// None: the caller.
        user_name: Option<String>,
        /// AKIA...
        access_key_id: String,
    }
}
