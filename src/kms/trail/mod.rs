//! CloudTrail's operations on the key service's own log: decided and recorded as any others.

mod error;
mod lookup;

use std::sync::Arc;

use jiff::Timestamp;

pub use error::TrailErrorKind;

use super::cache::Key;
use super::call::{Call, Result, Subject};
use super::events::Parameters;
use super::operation::{Class, InTable, Json, Operation, Row, json};
use super::region::Fault;
use super::session::Session;
use super::wire::{
    DescribeTrailsRequest, DescribeTrailsResponse, GetTrailStatusRequest, GetTrailStatusResponse,
    ListPublicKeysRequest, ListPublicKeysResponse, LookupEventsRequest, Trail,
};
use super::{KmsError, KmsErrorKind, check};
use crate::audit::{self, BUCKET, Log};
use crate::store::Store;

macro_rules! operations {
    ($($request:ident, $name:literal;)*) => {
        $(impl InTable for $request {
            const ROW: &'static Row = &Row {
                name: $name,
                action: concat!("cloudtrail:", $name),
                class: Class::Read,
                read_only: true,
            };
        })*

        /// Every operation, with the function that runs it on JSON.
        static OPERATIONS: &[(&Row, Json)] = &[$((<$request as InTable>::ROW, json::<$request>)),*];
    };
}

operations! {
    LookupEventsRequest, "LookupEvents";
    ListPublicKeysRequest, "ListPublicKeys";
    DescribeTrailsRequest, "DescribeTrails";
    GetTrailStatusRequest, "GetTrailStatus";
}

impl Session {
    /// One operation of CloudTrail by its name, in AWS's JSON.
    pub fn call_trail_json(&self, operation: &str, body: &[u8]) -> std::result::Result<Vec<u8>, KmsError> {
        match OPERATIONS.iter().find(|(row, _)| row.name == operation) {
            Some((_, run)) => run(self, body),
            None => {
                let message = format!("of CloudTrail there is no operation {operation} here");
                Err(KmsError::new(KmsErrorKind::UnknownOperation, message))
            }
        }
    }

    /// The name of an operation that [`Self::call_trail_json`] has.
    pub fn trail_operation(name: &str) -> Option<&'static str> {
        OPERATIONS.iter().find(|(row, _)| row.name == name).map(|(row, _)| row.name)
    }
}

fn error(kind: TrailErrorKind, message: impl Into<String>) -> KmsError {
    KmsError::new(KmsErrorKind::Trail(kind), message)
}

/// Seconds since 1970 as a time, to the millisecond.
fn time(field: &str, seconds: Option<f64>) -> std::result::Result<Option<Timestamp>, KmsError> {
    let Some(seconds) = seconds else { return Ok(None) };
    // A cast saturates, and what lies beyond the calendar is refused.
    match Timestamp::from_millisecond((seconds * 1000.0) as i64) {
        Ok(time) if seconds.is_finite() => Ok(Some(time)),
        _ => Err(check::failed(field, "be a time")),
    }
}

/// Both ends of a span, in order.
fn span(
    start: Option<f64>,
    end: Option<f64>,
) -> std::result::Result<(Option<Timestamp>, Option<Timestamp>), KmsError> {
    let (start, end) = (time("startTime", start)?, time("endTime", end)?);
    if let (Some(start), Some(end)) = (start, end)
        && start > end
    {
        let message = "Invalid time range: the start time is later than the end time.";
        return Err(error(TrailErrorKind::InvalidTimeRange, message));
    }
    Ok((start, end))
}

fn text(time: Option<f64>) -> Option<String> {
    self::time("", time).ok().flatten().map(|time| time.to_string())
}

impl Operation for ListPublicKeysRequest {
    type Response = ListPublicKeysResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        if self.next_token.is_some() {
            return Err(error(
                TrailErrorKind::InvalidToken,
                "the token is not one that this operation answered",
            ));
        }
        span(self.start_time, self.end_time).map(|_| ())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        let (start_time, end_time) = (text(self.start_time), text(self.end_time));
        Parameters { start_time, end_time, ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let (start, end) = span(self.start_time, self.end_time)?;
        Ok(ListPublicKeysResponse { public_key_list: super::export::public_keys(call.region, start, end)? })
    }
}

/// The logs that are shown in the region, each a trail.
fn logs(call: &Call<'_, '_>) -> Result<Vec<Log>> {
    let identities = call.region.shows_identities()?.then_some(Log::Identities);
    Ok([Log::Region].into_iter().chain(identities).collect())
}

fn arn(call: &Call<'_, '_>, log: Log) -> String {
    let (region, account, name) = (&call.region.region, call.account(), log.trail());
    format!("arn:{}:cloudtrail:{region}:{account}:trail/{name}", region.partition())
}

impl Operation for DescribeTrailsRequest {
    type Response = DescribeTrailsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        Ok(())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            trail_name_list: Some(self.trail_name_list.as_slice()).filter(|names| !names.is_empty()),
            include_shadow_trails: self.include_shadow_trails,
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let names = &self.trail_name_list;
        let trail = |log: Log| {
            let trail_arn = arn(call, log);
            let asked =
                names.is_empty() || names.iter().any(|name| *name == trail_arn || name == log.trail());
            asked.then(|| Trail {
                name: log.trail(),
                s3_bucket_name: BUCKET,
                include_global_service_events: log == Log::Identities,
                is_multi_region_trail: false,
                home_region: call.region.region.to_string(),
                trail_arn,
                log_file_validation_enabled: true,
                has_custom_event_selectors: false,
                has_insight_selectors: false,
                is_organization_trail: false,
            })
        };
        Ok(DescribeTrailsResponse { trail_list: logs(call)?.into_iter().filter_map(trail).collect() })
    }
}

impl Operation for GetTrailStatusRequest {
    type Response = GetTrailStatusResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::required("name", &self.name, 2048)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { name: Some(&self.name), ..Parameters::default() }
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let asked =
            logs(call)?.into_iter().find(|log| self.name == arn(call, *log) || self.name == log.trail());
        let first = match asked {
            Some(Log::Region) => audit::read(call.reader()?, 1, 1)?.pop(),
            Some(Log::Identities) => match call.region.shown_identities()? {
                Some(identities) => audit::read(&*identities.store.read()?, 1, 1)?.pop(),
                None => None,
            },
            None => {
                let message = format!("Unknown trail: {} for the user: {}", self.name, call.account());
                return Err(Fault::Refused(error(TrailErrorKind::TrailNotFound, message)));
            }
        };
        let first = first.and_then(|record| serde_json::from_slice::<audit::Event>(&record.event).ok());
        let start_logging_time = first.map(|event| event.event_time);
        let time_logging_started = start_logging_time.map_or_else(String::new, |time| time.to_string());
        Ok(GetTrailStatusResponse { is_logging: true, start_logging_time, time_logging_started })
    }
}
