//! Groups and who is in them.

use serde::{Deserialize, Serialize};

use crate::kms::identity::flexible;

requests! {
    /// CreateGroup.
    CreateGroupRequest {
        /// `/` (the default) or `/a/b/`.
        path: Option<String>,
        /// At most 128 of letters, digits and `_+=,.@-`.
        group_name: String,
    }
    /// GetGroup: the group and its users.
    GetGroupRequest {
        /// Which.
        group_name: String,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// ListGroups.
    ListGroupsRequest {
        /// Only those under it.
        path_prefix: Option<String>,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
    /// DeleteGroup.
    DeleteGroupRequest {
        /// One that has nothing any more.
        group_name: String,
    }
    /// AddUserToGroup.
    AddUserToGroupRequest {
        /// To which.
        group_name: String,
        /// Whom.
        user_name: String,
    }
    /// RemoveUserFromGroup.
    RemoveUserFromGroupRequest {
        /// From which.
        group_name: String,
        /// Whom.
        user_name: String,
    }
    /// ListGroupsForUser.
    ListGroupsForUserRequest {
        /// Whose.
        user_name: String,
        /// 1 to 1000; None: 100.
        #[serde(deserialize_with = "flexible::number")] max_items: Option<i64>,
        /// Marker of the page before.
        marker: Option<String>,
    }
}
