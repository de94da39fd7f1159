//! The local event of a call to a key service over the network.

use super::events::{Parameters, identity, some, written};
use super::region::Core;
use super::session::Caller;
use super::{KmsError, RemoteCall};
use crate::audit::{Additional, CLIENT_SOURCE, EVENT_VERSION, Event, Resource, Response, bounded, uuid};

/// Its JSON. It tells who called on this machine, and the other end's request id, by which its log has the call.
pub fn event(region: &Core, caller: &Caller, call: RemoteCall) -> Result<Vec<u8>, KmsError> {
    let account = caller.principal.account().to_string();
    let re_encrypts = call.destination_context.is_some();
    let key_id = call.key_id.as_deref();
    let context = call.context.as_ref().and_then(some);
    let parameters = Parameters {
        key_id: key_id.filter(|_| !re_encrypts),
        destination_key_id: key_id.filter(|_| re_encrypts),
        encryption_context: context.filter(|_| !re_encrypts),
        source_encryption_context: context.filter(|_| re_encrypts),
        destination_encryption_context: call.destination_context.as_ref().and_then(some),
        ..Parameters::default()
    };
    // The fifth part of an ARN is its account.
    let resource = |arn: &String| Resource::key(arn.split(':').nth(4).unwrap_or(&account), arn.clone());
    let resources = call.key_arns.iter().map(resource).collect();
    let (error_code, error_message) = call.error.unzip();
    let event: Event<Parameters<'_>, Option<Response>> = Event {
        event_version: EVENT_VERSION.into(),
        user_identity: identity(caller, None),
        event_time: region.clock.now(),
        event_source: CLIENT_SOURCE.into(),
        event_name: call.operation.into(),
        aws_region: call.region.clone(),
        source_ip_address: caller.source_ip.clone(),
        user_agent: caller.user_agent.clone(),
        error_code: error_code.map(Into::into),
        error_message,
        request_parameters: parameters,
        response_elements: None,
        additional_event_data: Some(Additional {
            key_material_id: call.key_material_id.clone(),
            attempts: Some(call.attempts),
            ..Additional::default()
        }),
        request_id: call.request_id.clone().map_or_else(uuid, Ok)?,
        event_id: uuid()?,
        read_only: true,
        resources,
        event_type: "AwsApiCall".into(),
        management_event: false,
        recipient_account_id: account.clone(),
        event_category: "Data".into(),
        service_event_details: None,
    };
    written(&event).map(bounded)
}
