//! Requests and answers of multi-Region keys.

use serde::{Deserialize, Serialize};

use super::{KeyMetadata, Tag};

request! {
    /// ReplicateKey.
    ReplicateKeyRequest {
        /// Key id or key ARN of a multi-Region primary key.
        key_id: String,
        /// A region of the same home.
        replica_region: String,
        /// The replica's key policy; None: the default policy.
        policy: Option<String>,
        /// Allows a policy that its maker cannot change again.
        bypass_policy_lockout_safety_check: bool,
        /// The replica's, at most 8192 characters.
        description: Option<String>,
        /// The replica's, at most 50.
        tags: Vec<Tag>,
    }
}
request! {
    /// UpdatePrimaryRegion.
    UpdatePrimaryRegionRequest {
        /// Key id or key ARN of the present primary key.
        key_id: String,
        /// The region of the replica that becomes the primary.
        primary_region: String,
    }
}

response! {
    /// Answer of ReplicateKey.
    #[derive(Debug)]
    ReplicateKeyResponse {
        /// The replica. Creating only if the other region could not be written yet; it is tried again.
        replica_key_metadata: KeyMetadata,
        /// Its policy, JSON.
        replica_policy: String,
        /// Its tags.
        #[serde(skip_serializing_if = "Vec::is_empty")] replica_tags: Vec<Tag>,
    }
}
response! {
    /// One of several related keys.
    #[derive(Debug, PartialEq)]
    MultiRegionKey {
        /// Its ARN.
        arn: String,
        /// Its region.
        region: String,
    }
}
response! {
    /// A multi-Region key and its relatives.
    #[derive(Debug, PartialEq)]
    MultiRegionConfiguration {
        /// PRIMARY or REPLICA.
        multi_region_key_type: &'static str,
        /// The primary key, which may be this one.
        primary_key: MultiRegionKey,
        /// The replicas, of which this may be one.
        replica_keys: Vec<MultiRegionKey>,
    }
}
