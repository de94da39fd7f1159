//! One request: read within its limits, verified, brought to the service it is for, answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::USER_AGENT;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use zeroize::Zeroizing;

use super::answer::{self, Failure, HttpAnswer, Protocol};
use super::route::{Route, Service};
use super::run::{Recorder, run};
use super::server::Shared;
use super::xml;
use crate::audit;
use crate::iam::Region;
use crate::iam::sigv4::{self, SignatureError, Signed};
use crate::kms::{Caller, HomeError, KmsError, KmsErrorKind, Session};

/// As much of a User-Agent as an event keeps, in bytes: CloudTrail's own bound.
const MAX_USER_AGENT: usize = 1024;
/// What a body without Content-Length begins with.
const USUAL_BODY: usize = 8 * 1024;

/// Where a request comes from.
#[derive(Clone, Copy)]
pub struct Origin {
    /// The other end of its connection.
    pub peer: SocketAddr,
    /// The number of the network's thread that serves it.
    pub thread: usize,
}

/// Answers a request, whatever it is.
pub async fn handle(
    shared: Arc<Shared>,
    from: Origin,
    request: Request<Incoming>,
) -> Result<HttpAnswer, Infallible> {
    let Ok(request_id) = audit::uuid() else {
        let text = "the system gives no random numbers";
        return Ok(answer::text(StatusCode::INTERNAL_SERVER_ERROR, text, "text/plain", ""));
    };
    Ok(match (request.method(), request.uri().path()) {
        (&Method::POST, "/") => aws(&shared, from, request, &request_id).await,
        (&Method::GET | &Method::HEAD, "/healthz") => {
            answer::text(StatusCode::OK, "ok\n", "text/plain", &request_id)
        }
        (&Method::GET, "/metrics") => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            answer::text(StatusCode::OK, shared.metrics.text(), kind, &request_id)
        }
        (_, "/" | "/healthz" | "/metrics") => {
            let text =
                "requests of AWS's protocols are POST /; GET /healthz and GET /metrics are there too\n";
            answer::text(StatusCode::METHOD_NOT_ALLOWED, text, "text/plain", &request_id)
        }
        _ => answer::text(
            StatusCode::NOT_FOUND,
            "there is nothing here but POST /\n",
            "text/plain",
            &request_id,
        ),
    })
}

/// A request of one of AWS's protocols.
async fn aws(shared: &Arc<Shared>, from: Origin, request: Request<Incoming>, id: &str) -> HttpAnswer {
    let (head, body) = request.into_parts();
    let mut route = Route::of(&head);
    let body =
        match tokio::time::timeout(shared.options.body_timeout, read(body, shared.options.max_body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(failure)) => return answer::failure(&failure, route.protocol, id),
            Err(_) => {
                let text = "the request's body did not arrive in time";
                let failure = Failure::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", text);
                return answer::failure(&failure, route.protocol, id);
            }
        };
    let begun = Instant::now();
    let answered = respond(shared, from, &head, body, &mut route, id).await;
    let took = begun.elapsed();
    let (result, answer) = match answered {
        Ok(answer) => ("ok", answer),
        Err(failure) => (failure.code, answer::failure(&failure, route.protocol, id)),
    };
    note(shared, from.peer, &route, result, took, id);
    answer
}

fn note(shared: &Shared, peer: SocketAddr, route: &Route, result: &'static str, took: Duration, id: &str) {
    let service = route.service.name();
    shared.metrics.count(service, route.known, result, took);
    tracing::debug!(%peer, service, operation = route.known, result, ?took, id, "answered");
}

/// A body within its limit, wiped when it is dropped.
async fn read(mut body: Incoming, limit: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let too_long = || {
        let text = format!("the request's body is longer than {limit} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException", text)
    };
    let said = body.size_hint().exact().and_then(|size| usize::try_from(size).ok());
    if said.is_some_and(|size| size > limit) {
        return Err(too_long());
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(said.unwrap_or(USUAL_BODY)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let text = format!("the request's body cannot be read: {error}");
            Failure::new(StatusCode::BAD_REQUEST, "SerializationException", text)
        })?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > limit {
                return Err(too_long());
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

async fn respond(
    shared: &Arc<Shared>,
    from: Origin,
    head: &Parts,
    body: Zeroizing<Vec<u8>>,
    route: &mut Route,
    id: &str,
) -> Result<HttpAnswer, Failure> {
    route.read(&body);
    let protocol = route.protocol;
    let (caller, region) = authenticate(shared, from.peer, head, &body, route)?;
    let operation = std::mem::take(&mut route.operation);
    match (route.service, protocol) {
        (Service::Kms, _) => {
            let (session, recorder) = session(shared, caller, &region, id, protocol).await?;
            let done = recorder.call(from.thread, session, operation, body).await;
            Ok(answer::json(done.ok_or_else(fell_over)?.map_err(|e| Failure::kms(e, protocol))?, id))
        }
        (Service::CloudTrail, _) => {
            let (session, _) = session(shared, caller, &region, id, protocol).await?;
            let done = run(move || session.call_trail_json(&operation, &body).map(Zeroizing::new)).await;
            Ok(answer::json(done.ok_or_else(fell_over)?.map_err(|e| Failure::kms(e, protocol))?, id))
        }
        (Service::Sts | Service::Iam, Protocol::Query(namespace)) if route.known != "unknown" => {
            let session = shared.kms.identity(caller).for_request(id);
            let (name, parameters) = (route.known, std::mem::take(&mut route.parameters));
            let done = run(move || session.call_query(name, &parameters)).await;
            let value = done.ok_or_else(fell_over)?.map_err(|e| Failure::kms(e, protocol))?;
            Ok(answer::xml(xml::answer(namespace, name, &value, id), id))
        }
        (Service::Sts | Service::Iam | Service::None, _) => {
            route.operation = operation;
            Err(route.unknown())
        }
    }
}

/// Who signed the request, and for which region.
fn authenticate(
    shared: &Shared,
    peer: SocketAddr,
    head: &Parts,
    body: &[u8],
    route: &Route,
) -> Result<(Caller, Region), Failure> {
    let refused = |error| Failure::signature(&error, route.protocol);
    let mut headers: Vec<(&str, &str)> = Vec::with_capacity(head.headers.len() + 1);
    for (name, value) in &head.headers {
        let Ok(value) = value.to_str() else {
            let text = format!("the value of the header {name} is not plain ASCII");
            return Err(Failure::new(StatusCode::BAD_REQUEST, "SerializationException", text));
        };
        headers.push((name.as_str(), value));
    }
    // In HTTP/2 the host stands beside the headers, and is signed all the same.
    if let Some(authority) = head.uri.authority()
        && !head.headers.contains_key("host")
    {
        headers.push(("host", authority.as_str()));
    }
    let request = sigv4::Request {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &headers,
        body,
    };
    let signed = Signed::read(&request, shared.options.clock.now()).map_err(refused)?;
    if route.service == Service::None {
        return Err(route.unknown());
    }
    signed.must_be_for(route.service.name()).map_err(refused)?;
    let found = shared.credentials.find(signed.access_key_id, signed.token);
    let found = found.map_err(|error| Failure::credential(error, route.protocol))?;
    let region: Region = signed.region.parse().map_err(|_| refused(signed.wrong_region()))?;
    shared.signing_keys.verify(&signed, &request, &found.secret).map_err(refused)?;
    let mut user_agent = head.headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    // It is ASCII, so any place is a character's end.
    user_agent = &user_agent[..user_agent.len().min(MAX_USER_AGENT)];
    let caller = Caller {
        source_ip: peer.ip().to_canonical().to_string(),
        user_agent: user_agent.to_owned(),
        ..found.caller
    };
    Ok((caller, region))
}

/// A session in the region of a request's scope, and who records there.
async fn session(
    shared: &Arc<Shared>,
    caller: Caller,
    region: &Region,
    id: &str,
    protocol: Protocol,
) -> Result<(Session, Arc<Recorder>), Failure> {
    let open = match shared.open_region(region) {
        Some(open) => open,
        None => {
            let (opener, wanted) = (shared.clone(), region.clone());
            let opened = run(move || opener.region(&wanted)).await.ok_or_else(fell_over)?;
            opened.map_err(|error| match error {
                HomeError::NoRegion { present, .. } => {
                    let text = format!(
                        "Credential should be scoped to a valid region, not '{region}': this key service has \
                         {present}; `kmsfs --region {region} init` or `kmsfs --region {region} serve` makes it"
                    );
                    Failure::signature(&SignatureError::Invalid(text), protocol)
                }
                other => Failure::kms(KmsError::new(KmsErrorKind::Internal, other.to_string()), protocol),
            })?
        }
    };
    Ok((open.session.for_request(caller, id), open.recorder))
}

fn fell_over() -> Failure {
    Failure::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "InternalFailure",
        "the request failed inside the key service",
    )
}
