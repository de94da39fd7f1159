//! LookupEvents: pages of the log, newest first.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::SignedDuration;
use serde_json::Value;

use super::{TrailErrorKind, error, span, text};
use crate::audit::{self, Event, Filter, Found};
use crate::crypto::mac::sha256;
use crate::iam::{KeyArn, KeyId};
use crate::kms::KmsError;
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::global;
use crate::kms::operation::Operation;
use crate::kms::wire::{LookupEventsRequest, LookupEventsResponse, TrailEvent, TrailResource};

/// Events of a page, at most and if not said.
const MOST: i64 = 50;
/// Events that one call looks at; the next page goes on from there. So no call holds its view of the store long.
const LOOKED_AT: usize = 50_000;
/// How far back CloudTrail looks.
const BACK: SignedDuration = SignedDuration::from_hours(90 * 24);
const ATTRIBUTES: [&str; 8] = [
    "EventId",
    "EventName",
    "ReadOnly",
    "Username",
    "ResourceType",
    "ResourceName",
    "EventSource",
    "AccessKeyId",
];

impl LookupEventsRequest {
    fn attribute(&self) -> Option<(&str, &str)> {
        self.lookup_attributes.first().map(|a| (a.attribute_key.as_str(), a.attribute_value.as_str()))
    }

    /// What the pages of one search have in common.
    fn search(&self) -> [u8; 8] {
        let (key, value) = self.attribute().unwrap_or_default();
        let said = format!("{key:?} {value:?} {:?} {:?}", self.start_time, self.end_time);
        let hash = sha256(&[said.as_bytes()]);
        *hash.first_chunk().unwrap_or(&[0; 8])
    }

    /// Where the page before ended, in the region's log and in that of identities: only events before these are looked
    /// at.
    fn before(&self) -> std::result::Result<Option<[u64; 2]>, KmsError> {
        let Some(token) = &self.next_token else { return Ok(None) };
        let read = || {
            let bytes: [u8; 24] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
            let (region, rest) = bytes.split_first_chunk()?;
            let (identities, search) = rest.split_first_chunk()?;
            (search == self.search()).then_some([region, identities].map(|place| u64::from_be_bytes(*place)))
        };
        let bad =
            || error(TrailErrorKind::InvalidNextToken, "Invalid NextToken: it belongs to another search.");
        read().map(Some).ok_or_else(bad)
    }
}

impl Operation for LookupEventsRequest {
    type Response = LookupEventsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        if self.max_results.is_some_and(|n| !(1..=MOST).contains(&n)) {
            let message = format!("Invalid MaxResults: it must be between 1 and {MOST}.");
            return Err(error(TrailErrorKind::InvalidMaxResults, message));
        }
        if self.lookup_attributes.len() > 1 {
            let message = "Invalid LookupAttributes: at most one can be given.";
            return Err(error(TrailErrorKind::InvalidLookupAttributes, message));
        }
        if let Some((key, value)) = self.attribute()
            && (!ATTRIBUTES.contains(&key) || value.is_empty() || value.len() > 2000)
        {
            let message = format!("Invalid LookupAttributes: the key is one of {}.", ATTRIBUTES.join(", "));
            return Err(error(TrailErrorKind::InvalidLookupAttributes, message));
        }
        if self.event_category.as_deref().is_some_and(|category| category != "insight") {
            let message = "Invalid EventCategory: it can be insight.";
            return Err(error(TrailErrorKind::InvalidEventCategory, message));
        }
        self.before()?;
        span(self.start_time, self.end_time).map(|_| ())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            lookup_attributes: Some(self.lookup_attributes.as_slice()).filter(|list| !list.is_empty()),
            start_time: text(self.start_time),
            end_time: text(self.end_time),
            event_category: self.event_category.as_deref(),
            max_results: self.max_results,
            next_token: self.next_token.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        if self.event_category.is_some() {
            return Ok(LookupEventsResponse { events: Vec::new(), next_token: None });
        }
        let (start, end) = span(self.start_time, self.end_time)?;
        let earliest = call.now.checked_sub(BACK).ok();
        let limit = self.max_results.and_then(|n| usize::try_from(n).ok()).unwrap_or(MOST as usize);
        let mut filter = Filter {
            start: start.max(earliest),
            end,
            account: Some(call.account().to_string()),
            limit: Some(limit),
            ..Filter::default()
        };
        match self.attribute() {
            Some(("EventName", name)) => filter.event_name = Some(name.to_owned()),
            Some(("ResourceName", name)) => {
                // As in CloudTrail, a key is found by its id too.
                let arn = name.parse::<KeyId>().map(|key| {
                    KeyArn { region: call.region.region.clone(), account: call.account().clone(), key }
                        .to_string()
                });
                filter.key = Some(arn.unwrap_or_else(|_| name.to_owned()));
            }
            _ => {}
        }
        let holds = |event: &Event, json: &[u8]| event.management_event && self.holds(event, json);
        let [region, identities] = self.before()?.map_or([None; 2], |places| places.map(Some));
        let pages = [
            audit::page(call.reader()?, &filter, &holds, region, LOOKED_AT)?,
            global::page(call.region, &filter, &holds, identities, LOOKED_AT)?,
        ];
        let (found, places) = audit::merge(pages, limit);
        let next_token = places.iter().any(Option::is_some).then(|| {
            // No event is before the place 0: that log is done.
            let [region, identities] = places.map(|place| place.unwrap_or(0).to_be_bytes());
            URL_SAFE_NO_PAD.encode([region, identities, self.search()].concat())
        });
        Ok(LookupEventsResponse { events: found.into_iter().map(shown).collect(), next_token })
    }
}

impl LookupEventsRequest {
    /// What the filter does not say.
    fn holds(&self, event: &Event, json: &[u8]) -> bool {
        match self.attribute() {
            Some(("EventId", id)) => event.event_id == id,
            Some(("ReadOnly", flag)) => event.read_only.to_string() == flag,
            Some(("EventSource", source)) => event.event_source == source,
            Some(("ResourceType", kind)) => event.resources.iter().any(|r| r.kind == kind),
            Some(("Username", name)) => identity(json).username.as_deref() == Some(name),
            Some(("AccessKeyId", id)) => identity(json).access_key_id.as_deref() == Some(id),
            _ => true,
        }
    }
}

/// Who an event says called.
struct Who {
    username: Option<String>,
    access_key_id: Option<String>,
}

/// Out of an event's JSON: userName, the session's name, or root.
fn identity(json: &[u8]) -> Who {
    let event: Value = serde_json::from_slice(json).unwrap_or_default();
    let who = &event["userIdentity"];
    let text = |name: &str| who[name].as_str().map(str::to_owned);
    let username = text("userName").or_else(|| match who["type"].as_str() {
        Some("Root") => Some("root".to_owned()),
        _ => who["arn"].as_str().and_then(|arn| arn.rsplit_once('/')).map(|(_, name)| name.to_owned()),
    });
    Who { username, access_key_id: text("accessKeyId") }
}

fn shown(found: Found) -> TrailEvent {
    let Found { event, json, .. } = found;
    let Who { username, access_key_id } = identity(json.as_bytes());
    let resource = |r: audit::Resource| TrailResource {
        resource_type: Some(r.kind.into_owned()),
        resource_name: Some(r.arn),
    };
    TrailEvent {
        event_id: event.event_id,
        event_name: event.event_name.into_owned(),
        read_only: event.read_only.to_string(),
        access_key_id,
        event_time: event.event_time,
        event_source: event.event_source.into_owned(),
        username,
        resources: event.resources.into_iter().map(resource).collect(),
        cloud_trail_event: json,
    }
}
