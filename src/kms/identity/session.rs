//! One caller at IAM and STS, and the one way of every request: check, authorise, act, record, answer.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::IdentityErrorKind;
use super::call::{HOME_REGION, IdentityCall};
use super::error::{invalid_token, refused};
use super::flexible;
use super::operation::{IdentityOperation, OPERATIONS, Row};
use super::service::{Identities, IdentityService};
use super::wire::{AccessKey, AttachUserPolicyRequest, CreateAccessKeyRequest, CreateUserRequest};
use crate::audit::{self, AuditError, ChainHead, EVENT_VERSION, Event, Filter, Found, Resource};
use crate::iam::{Principal, directory};
use crate::kms::call::Tx;
use crate::kms::events;
use crate::kms::region::Fault;
use crate::kms::session::Caller;
use crate::kms::{KmsError, KmsErrorKind, rows};
use crate::store::{Durability, Store, WriteTx};

/// How often a request is decided anew because identities changed in between.
const TRIES: usize = 100;

/// IAM and STS as one caller sees them. Cheap to clone; usable from several threads.
#[derive(Clone)]
pub struct IdentitySession {
    identities: Arc<Identities>,
    caller: Arc<Caller>,
    /// Of the one request that the session is for.
    request_id: Option<Arc<str>>,
}

/// What came of a request, and what its event tells beside.
struct Decided<T> {
    answer: Result<T, Fault>,
    resources: Vec<Resource>,
    now: Timestamp,
}

impl IdentitySession {
    pub(in crate::kms) fn new(identities: Arc<Identities>, caller: Caller) -> Self {
        Self { identities, caller: Arc::new(caller), request_id: None }
    }

    /// The same for one request, whose event gets this requestID.
    #[must_use]
    pub fn for_request(self, request_id: &str) -> Self {
        Self { request_id: Some(request_id.into()), ..self }
    }

    fn request_id(&self) -> Result<String, KmsError> {
        Ok(self.request_id.as_deref().map_or_else(audit::uuid, |id| Ok(id.to_owned()))?)
    }

    /// Its caller.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// One operation, decided, done and recorded.
    pub fn call<O: IdentityOperation>(&self, request: O) -> Result<O::Response, KmsError> {
        let service = self.identities.get_or_create()?;
        let way = Way { session: self, service: &service, row: O::ROW, request_id: self.request_id()? };
        if let Err(error) = self.admitted(O::ROW).and_then(|()| request.check()) {
            let parameters = parameters(&request)?;
            way.refuse(parameters, Vec::new(), &error, &error.message)?;
            return Err(error);
        }
        for _ in 0..TRIES {
            let answer = if O::ROW.changes { way.change(&request)? } else { way.read(&request)? };
            if let Some(answer) = answer {
                return answer;
            }
        }
        let message = "identities are being changed faster than the request can be decided; try again";
        Err(KmsError::new(KmsErrorKind::DependencyTimeout, message))
    }

    /// Makes the first user of a home, with a managed policy and an access key, all at once or not at all; None where there is
    /// a user or an access key already, of whichever account. `keep` gets the key before it counts: none counts that was lost
    /// on its way. For the account's root, who is never refused.
    ///
    /// # Errors
    /// Those of `keep`, and what keeps a user from being made.
    pub fn make_first_user<T, E: From<KmsError>>(
        &self,
        name: &str,
        policy_arn: &str,
        keep: impl FnOnce(&AccessKey) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let service = self.identities.get_or_create()?;
        // Whoever else would make one waits here, and finds it made.
        let mut tx = service.store.write(Durability::Synced).map_err(KmsError::from)?;
        let Some(key) = self.first_user(&service, &mut *tx, name, policy_arn)? else { return Ok(None) };
        let kept = keep(&key)?;
        service.move_generation(&mut *tx)?;
        tx.commit().map_err(KmsError::from)?;
        service.has_grown();
        Ok(Some(kept))
    }

    fn first_user(
        &self,
        service: &IdentityService,
        tx: &mut dyn WriteTx,
        name: &str,
        policy_arn: &str,
    ) -> Result<Option<AccessKey>, KmsError> {
        if directory::any_user(&*tx)? || directory::any_access_key(&*tx)? {
            return Ok(None);
        }
        let user_name = name.to_owned();
        self.step(service, tx, &CreateUserRequest { user_name, ..CreateUserRequest::default() })?;
        let (user_name, policy_arn) = (name.to_owned(), policy_arn.to_owned());
        self.step(service, tx, &AttachUserPolicyRequest { user_name, policy_arn })?;
        let user_name = Some(name.to_owned());
        Ok(Some(self.step(service, tx, &CreateAccessKeyRequest { user_name })?.access_key))
    }

    /// One of several operations in one transaction.
    fn step<O: IdentityOperation>(
        &self,
        service: &IdentityService,
        tx: &mut dyn WriteTx,
        request: &O,
    ) -> Result<O::Response, KmsError> {
        request.check()?;
        let way = Way { session: self, service, row: O::ROW, request_id: self.request_id()? };
        way.change_in(request, tx)?.map_err(|decided| match decided.answer {
            Err(Fault::Refused(error) | Fault::Hidden { answer: error, .. }) => error,
            _ => KmsError::new(KmsErrorKind::Internal, format!("{} was not decided", O::ROW.name)),
        })
    }

    /// One operation by its name, with a request in JSON under AWS's names; null where AWS answers nothing. The answer
    /// may hold a secret access key.
    ///
    /// # Errors
    /// InvalidAction: there is no such operation.
    pub fn call_json(&self, operation: &str, body: Value) -> Result<Value, KmsError> {
        match OPERATIONS.iter().find(|(row, _)| row.name == operation) {
            Some((_, run)) => run(self, body),
            None => {
                let message = format!("Could not find operation {operation}");
                Err(refused(IdentityErrorKind::InvalidAction, message))
            }
        }
    }

    /// One operation as the query protocol has it: its name, and the names and values of the form without `Action` and
    /// `Version`. In the answer lists are arrays (`member` in XML), and documents are percent-encoded as AWS does.
    pub fn call_query(&self, operation: &str, pairs: &[(String, String)]) -> Result<Value, KmsError> {
        let Some(body) = flexible::nested(pairs) else {
            let message = "the names of the request's parameters contradict one another";
            let error = refused(IdentityErrorKind::Validation, message);
            let row = OPERATIONS.iter().map(|(row, _)| *row).find(|row| row.name == operation);
            return Err(row.map_or(error.clone(), |row| self.refuse_unread(row, error)));
        };
        let mut answer = self.call_json(operation, body)?;
        flexible::encode_documents(&mut answer);
        Ok(answer)
    }

    /// Events of IAM and STS in this account's log, newest first.
    pub fn lookup_events(&self, filter: &Filter) -> Result<Vec<Found>, KmsError> {
        let Some(service) = self.identities.get()? else { return Ok(Vec::new()) };
        let account = Some(self.caller.principal.account().to_string());
        service.lookup(&Filter { account, ..filter.clone() })
    }

    /// Walks the whole log of identities, as [`crate::kms::Session::verify_log`] does a region's. None: there is none yet.
    pub fn verify_log(&self, pinned: Option<ChainHead>) -> Result<Option<ChainHead>, AuditError> {
        self.identities.verify_log(pinned)
    }

    /// A session that GetSessionToken began has no say in IAM, and cannot begin another.
    fn admitted(&self, row: &Row) -> Result<(), KmsError> {
        let session = self.caller.identified.as_ref().is_some_and(|i| i.session.is_some());
        let of_role = matches!(self.caller.principal, Principal::Session { .. });
        match row.name {
            "GetSessionToken" if session || of_role => {
                let message = "Cannot call GetSessionToken with session credentials";
                Err(refused(IdentityErrorKind::AccessDenied, message))
            }
            _ if session && !of_role && row.source.starts_with("iam.") => Err(invalid_token()),
            _ => Ok(()),
        }
    }

    /// Records a request that could not be read. The answer to it, which is another if that fails.
    pub(super) fn refuse_unread(&self, row: &'static Row, error: KmsError) -> KmsError {
        let refuse = || -> Result<(), KmsError> {
            let service = self.identities.get_or_create()?;
            let way = Way { session: self, service: &service, row, request_id: self.request_id()? };
            way.refuse(Value::Null, Vec::new(), &error, &error.message)
        };
        match refuse() {
            Ok(()) => error,
            Err(other) => other,
        }
    }
}

fn unwritable(error: &serde_json::Error) -> KmsError {
    KmsError::new(KmsErrorKind::Internal, format!("an event cannot be written: {error}"))
}

fn parameters<O: Serialize>(request: &O) -> Result<Value, KmsError> {
    let value = flexible::for_event(serde_json::to_value(request).map_err(|e| unwritable(&e))?);
    Ok(if value.as_object().is_some_and(serde_json::Map::is_empty) { Value::Null } else { value })
}

/// One request on its way.
struct Way<'a> {
    session: &'a IdentitySession,
    service: &'a IdentityService,
    row: &'static Row,
    request_id: String,
}

impl Way<'_> {
    fn run<O: IdentityOperation>(&self, request: &O, tx: Tx<'_>) -> Result<Decided<O::Response>, KmsError> {
        let IdentitySession { identities, caller, .. } = self.session;
        let authority = match &tx {
            Tx::Read(tx) => self.service.authority_in(*tx, caller)?,
            Tx::Write(tx) => self.service.authority_in(&**tx, caller)?,
            Tx::Memory => identities.authority(caller)?,
        };
        let mut call = IdentityCall {
            identities,
            core: self.service,
            caller,
            authority,
            row: self.row,
            now: identities.clock().now(),
            tx,
            resources: Vec::new(),
        };
        let somebody = call.authority.check(caller.identified.as_deref(), call.now).map_err(Fault::Refused);
        let answer =
            somebody.and_then(|()| request.authorise(&mut call)).and_then(|()| request.act(&mut call));
        let IdentityCall { resources, now, .. } = call;
        Ok(Decided { answer, resources, now })
    }

    /// None: identities changed meanwhile.
    fn read<O: IdentityOperation>(
        &self,
        request: &O,
    ) -> Result<Option<Result<O::Response, KmsError>>, KmsError> {
        let tx = self.service.store.read()?;
        let generation = rows::generation(&*tx)?;
        let decided = self.run(request, Tx::Read(&*tx))?;
        drop(tx);
        self.record(request, decided, generation)
    }

    fn change<O: IdentityOperation>(
        &self,
        request: &O,
    ) -> Result<Option<Result<O::Response, KmsError>>, KmsError> {
        let mut tx = self.service.store.write(Durability::Synced)?;
        let generation = rows::generation(&*tx)?;
        let answer = match self.change_in(request, &mut *tx)? {
            Ok(answer) => answer,
            Err(refused) => {
                drop(tx);
                return self.record(request, refused, generation);
            }
        };
        self.service.move_generation(&mut *tx)?;
        tx.commit()?;
        self.service.has_grown();
        Ok(Some(Ok(answer)))
    }

    /// Does it and records it inside a transaction, unless it is refused.
    fn change_in<O: IdentityOperation>(
        &self,
        request: &O,
        tx: &mut dyn WriteTx,
    ) -> Result<Result<O::Response, Decided<O::Response>>, KmsError> {
        let decided = self.run(request, Tx::Write(tx))?;
        let answer = match decided {
            Decided { answer: Ok(answer), .. } => answer,
            refused => return Ok(Err(refused)),
        };
        let told = flexible::for_event(serde_json::to_value(&answer).map_err(|e| unwritable(&e))?);
        let event = self.event(parameters(request)?, Some(told), decided.resources, decided.now, None)?;
        audit::append(tx, &event)?;
        Ok(Ok(answer))
    }

    fn record<O: IdentityOperation>(
        &self,
        request: &O,
        decided: Decided<O::Response>,
        generation: u64,
    ) -> Result<Option<Result<O::Response, KmsError>>, KmsError> {
        let Decided { answer, resources, now } = decided;
        let answer = match answer {
            Ok(answer) => Ok(answer),
            Err(Fault::Refused(error)) => Err((error.clone(), error.message)),
            Err(Fault::Hidden { answer, reason }) => Err((answer, reason)),
            Err(Fault::Moved | Fault::Due) => return Ok(None),
        };
        // What begins a session tells whose; other reads tell nothing.
        let told = match &answer {
            Ok(answer) if self.row.source.starts_with("sts.") && self.row.name != "GetCallerIdentity" => {
                Some(flexible::for_event(serde_json::to_value(answer).map_err(|e| unwritable(&e))?))
            }
            _ => None,
        };
        let failed = answer.as_ref().err().map(|(error, reason)| (error.kind.name(), reason.clone()));
        // What was denied is no other account's to know.
        let resources = if failed.is_some() { Vec::new() } else { resources };
        let event = self.event(parameters(request)?, told, resources, now, failed)?;
        let recorded = self.service.commit(vec![event], Some(generation))?;
        Ok(recorded.then(|| answer.map_err(|(error, _)| error)))
    }

    fn refuse(
        &self,
        parameters: Value,
        resources: Vec<Resource>,
        error: &KmsError,
        reason: &str,
    ) -> Result<(), KmsError> {
        let now = self.session.identities.clock().now();
        let failed = Some((error.kind.name(), reason.to_owned()));
        let event = self.event(parameters, None, resources, now, failed)?;
        self.service.commit(vec![event], None).map(|_| ())
    }

    fn event(
        &self,
        parameters: Value,
        told: Option<Value>,
        resources: Vec<Resource>,
        now: Timestamp,
        failed: Option<(&'static str, String)>,
    ) -> Result<Vec<u8>, KmsError> {
        let caller = &self.session.caller;
        let (error_code, error_message) = match failed {
            Some((code, message)) => (Some(code.into()), Some(message)),
            None => (None, None),
        };
        let event = Event {
            event_version: EVENT_VERSION.into(),
            user_identity: events::identity(caller, None),
            event_time: now,
            event_source: self.row.source.into(),
            event_name: self.row.name.into(),
            aws_region: HOME_REGION.to_owned(),
            source_ip_address: caller.source_ip.clone(),
            user_agent: caller.user_agent.clone(),
            error_code,
            error_message,
            request_parameters: parameters,
            response_elements: told.filter(|told| !told.is_null()),
            additional_event_data: None,
            request_id: self.request_id.clone(),
            event_id: audit::uuid()?,
            read_only: !self.row.changes,
            resources,
            event_type: "AwsApiCall".into(),
            management_event: true,
            recipient_account_id: caller.principal.account().to_string(),
            event_category: "Management".into(),
            service_event_details: None,
        };
        serde_json::to_vec(&event).map(audit::bounded).map_err(|e| unwritable(&e))
    }
}
