//! Shapes of CloudTrail's operations, as far as they look at the key service's own log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::codec::{seconds, seconds_option};

/// What an event must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(serialize = "camelCase", deserialize = "PascalCase"))]
pub struct LookupAttribute {
    /// EventId, EventName, ReadOnly, Username, ResourceType, ResourceName, EventSource or AccessKeyId.
    pub attribute_key: String,
    /// Its value.
    pub attribute_value: String,
}

request! {
    /// LookupEvents.
    LookupEventsRequest {
        /// At most one.
        lookup_attributes: Vec<LookupAttribute>,
        /// Seconds since 1970; None: 90 days ago.
        start_time: Option<f64>,
        /// Seconds since 1970; None: now.
        end_time: Option<f64>,
        /// `insight`, of which there are none.
        event_category: Option<String>,
        /// 1 to 50; None: 50.
        max_results: Option<i64>,
        /// NextToken of the page before.
        next_token: Option<String>,
    }
}
request! {
    /// ListPublicKeys.
    ListPublicKeysRequest {
        /// Seconds since 1970; None: now.
        start_time: Option<f64>,
        /// Seconds since 1970; None: now.
        end_time: Option<f64>,
        /// Not here: an answer has all.
        next_token: Option<String>,
    }
}
request! {
    /// GetTrailStatus.
    GetTrailStatusRequest {
        /// Name or ARN of a trail.
        name: String,
    }
}

/// DescribeTrails. Its names begin with small letters, AWS's do too.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescribeTrailsRequest {
    /// Names or ARNs; none: all.
    pub trail_name_list: Vec<String>,
    /// Trails of other regions too, of which there are none.
    pub include_shadow_trails: Option<bool>,
}

response! {
    /// What an event concerns.
    #[derive(Debug)]
    TrailResource {
        /// AWS::KMS::Key.
        #[serde(skip_serializing_if = "Option::is_none")] resource_type: Option<String>,
        /// Its ARN.
        #[serde(skip_serializing_if = "Option::is_none")] resource_name: Option<String>,
    }
}
response! {
    /// One event of LookupEvents.
    #[derive(Debug)]
    TrailEvent {
        /// UUID.
        event_id: String,
        /// The operation.
        event_name: String,
        /// `true` or `false`.
        read_only: String,
        /// The access key that signed the call.
        #[serde(skip_serializing_if = "Option::is_none")] access_key_id: Option<String>,
        /// When.
        #[serde(with = "seconds")] event_time: Timestamp,
        /// Such as kms.amazonaws.com.
        event_source: String,
        /// Who called.
        #[serde(skip_serializing_if = "Option::is_none")] username: Option<String>,
        /// The keys concerned.
        resources: Vec<TrailResource>,
        /// The event as it stands in the log: JSON.
        cloud_trail_event: String,
    }
}
response! {
    /// Answer of LookupEvents.
    #[derive(Debug)]
    LookupEventsResponse {
        /// Newest first.
        events: Vec<TrailEvent>,
        /// There may be more.
        #[serde(skip_serializing_if = "Option::is_none")] next_token: Option<String>,
    }
}
response! {
    /// Answer of ListPublicKeys.
    ListPublicKeysResponse {
        /// The keys that check digests.
        public_key_list: Vec<crate::kms::DigestPublicKey>,
    }
}
response! {
    /// A trail: a log, as `kmsfs audit export` delivers it.
    #[derive(Debug)]
    Trail {
        /// kmsfs, or kmsfs-iam.
        name: &'static str,
        /// The name that digests give to the directory exported to.
        s3_bucket_name: &'static str,
        /// It is the one that delivers events of IAM and STS.
        include_global_service_events: bool,
        /// Each region has its own.
        is_multi_region_trail: bool,
        /// Its region.
        home_region: String,
        /// Its ARN.
        #[serde(rename = "TrailARN")] trail_arn: String,
        /// Digests are made.
        log_file_validation_enabled: bool,
        /// There are none.
        has_custom_event_selectors: bool,
        /// There are none.
        has_insight_selectors: bool,
        /// There are no organisations.
        is_organization_trail: bool,
    }
}
/// Answer of DescribeTrails.
#[derive(Debug, Clone, Serialize)]
pub struct DescribeTrailsResponse {
    /// The trail, if it was asked for.
    #[serde(rename = "trailList")]
    pub trail_list: Vec<Trail>,
}
response! {
    /// Answer of GetTrailStatus.
    #[derive(Debug)]
    GetTrailStatusResponse {
        /// Always: a call that cannot be recorded is not answered.
        is_logging: bool,
        /// When the log begins.
        #[serde(with = "seconds_option", skip_serializing_if = "Option::is_none")] start_logging_time: Option<Timestamp>,
        /// The same as a text.
        #[serde(skip_serializing_if = "String::is_empty")] time_logging_started: String,
    }
}
