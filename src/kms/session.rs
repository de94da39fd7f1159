//! A session: one caller in one region. And the one entry of every request, whichever way it comes: parse,
//! authenticate, authorise, check state, act, record, answer.

use std::sync::Arc;

use super::cache::Key;
use super::call::{Call, Tx, would_succeed};
use super::commit::DecidedAt;
use super::events::{self, CallEvent, Notes, SERVICE};
use super::identity::Identified;
use super::operation::{Class, OPERATIONS, Operation, Preparation, Row};
use super::region::{Core, Fault, RegionService};
use super::service::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyMetadata, KeyService, Ledger, ReEncrypted,
};
use super::together::{Held, Hold, Record};
use super::wire::{
    DecryptRequest, DescribeKeyRequest, EncryptRequest, GenerateDataKeyRequest, ReEncryptRequest,
};
use super::{KmsError, KmsErrorKind, grants, managed, rows};
use crate::audit::{self, AuditError, ChainHead};
use crate::crypto::SecretVec;
use crate::iam::{AccountId, Principal, Region};
use crate::store::{Durability, Store};

/// How often a request is decided anew because keys changed in between, before the caller is told to try again.
const TRIES: usize = 100;

/// Operations of AWS KMS that have no meaning here.
const CUSTOM_KEY_STORES: [&str; 6] = [
    "ConnectCustomKeyStore",
    "CreateCustomKeyStore",
    "DeleteCustomKeyStore",
    "DescribeCustomKeyStores",
    "DisconnectCustomKeyStore",
    "UpdateCustomKeyStore",
];

/// Who calls, and what the log tells of the call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who is authorised.
    pub principal: Principal,
    /// sourceIPAddress of the events.
    pub source_ip: String,
    /// userAgent of the events.
    pub user_agent: String,
    /// The access key that signed, if one did.
    pub access_key_id: Option<String>,
    /// What was found out when it was let in; None: it is taken by its name.
    pub identified: Option<Arc<Identified>>,
}

impl Caller {
    /// An account's root on this machine.
    pub fn root(account: AccountId) -> Self {
        Self {
            principal: Principal::root(account),
            source_ip: "127.0.0.1".to_owned(),
            user_agent: concat!("kmsfs/", env!("CARGO_PKG_VERSION")).to_owned(),
            access_key_id: None,
            identified: None,
        }
    }
}

/// The key service as one caller sees it in one region. Cheap to clone; usable from several threads.
///
/// Its own calls ([`Self::call`], [`Self::call_json`]) are the caller's. The operations of [`KeyService`] are
/// kmsfs's, in the caller's name: a key that kmsfs manages works for them only.
#[derive(Clone)]
pub struct Session {
    region: Arc<RegionService>,
    caller: Arc<Caller>,
    /// Of the one request that the session is for.
    request_id: Option<Arc<str>>,
    /// Where events are left instead of being recorded.
    hold: Option<Hold>,
}

impl Session {
    pub(super) fn new(region: Arc<RegionService>, caller: Caller) -> Self {
        Self { region, caller: Arc::new(caller), request_id: None, hold: None }
    }

    /// The same, for one request whose events are held back and not recorded.
    pub(super) fn holding(&self, hold: Hold) -> Self {
        Self { hold: Some(hold), ..self.clone() }
    }

    /// A session of another caller in the same region, for one request, whose event gets this requestID. Cheap.
    #[must_use]
    pub fn for_request(&self, caller: Caller, request_id: &str) -> Self {
        let (region, caller) = (self.region.clone(), Arc::new(caller));
        Self { region, caller, request_id: Some(request_id.into()), hold: None }
    }

    /// The name of an operation that [`Self::call_json`] has.
    pub fn operation(name: &str) -> Option<&'static str> {
        OPERATIONS.iter().find(|(row, _)| row.name == name).map(|(row, _)| row.name)
    }

    /// Its caller.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Its region.
    pub fn region(&self) -> &Region {
        &self.region.region
    }

    /// One operation, decided, done and recorded.
    pub fn call<O: Operation>(&self, request: O) -> Result<O::Response, KmsError> {
        self.enter(None, &request)
    }

    /// One operation by its name, in AWS's JSON; an operation without an answer gives no bytes. The answer may
    /// hold a plaintext: zeroize it.
    pub fn call_json(&self, operation: &str, body: &[u8]) -> Result<Vec<u8>, KmsError> {
        match OPERATIONS.iter().find(|(row, _)| row.name == operation) {
            Some((_, run)) => run(self, body),
            None if CUSTOM_KEY_STORES.contains(&operation) => {
                let message = format!("{operation}: there are no custom key stores here");
                Err(KmsError::new(KmsErrorKind::UnsupportedOperation, message))
            }
            None => {
                let message = format!("the key service has no operation {operation}");
                Err(KmsError::new(KmsErrorKind::UnknownOperation, message))
            }
        }
    }

    /// The ARN of the key that the service manages under alias/`name` (such as aws/kmsfs); made if absent.
    /// Its policy is fixed: the service uses it for the account ([`KeyService`]'s operations), the account may
    /// look at it and nothing else.
    pub fn ensure_managed_key(&self, name: &str) -> Result<String, KmsError> {
        managed::ensure(&self.region, self.caller.principal.account(), name)
    }

    /// Walks the whole log; it must hold the signed head, and the pinned one. Answers its end, which may be
    /// pinned elsewhere ([`ChainHead`] has a text form).
    pub fn verify_log(&self, pinned: Option<ChainHead>) -> Result<ChainHead, AuditError> {
        self.region.verify_log(pinned)
    }

    pub(super) fn region_core(&self) -> &Core {
        &self.region
    }

    pub(super) fn region_service(&self) -> &Arc<RegionService> {
        &self.region
    }

    /// Records a request that could not be read. The answer to it, which is another if that fails.
    pub(super) fn refuse_unread(&self, row: &'static Row, error: KmsError) -> KmsError {
        match Entry::new(self, None, row)
            .and_then(|entry| entry.fail::<()>(None, Notes::default(), None, error))
        {
            Ok(error) | Err(error) => error,
        }
    }

    /// The one entry.
    fn enter<O: Operation>(&self, via: Option<&'static str>, request: &O) -> Result<O::Response, KmsError> {
        let mut entry = Entry::new(self, via, O::ROW)?;
        if request.takes_long() && entry.put_off() {
            // Nobody sees it: the request is called anew by who may wait.
            return Err(KmsError::new(KmsErrorKind::DependencyTimeout, "the request was put off"));
        }
        let bounds = request.check().and_then(|()| {
            // A grant counts at once, so that its token gives nothing; but it must be one.
            let mut tokens = request.grant_tokens().iter();
            tokens.try_for_each(|token| grants::read_token(&self.region.root, token).map(drop))
        });
        if let Err(error) = bounds {
            return Err(entry.fail(Some(request.parameters()), Notes::default(), None, error)?);
        }
        for _ in 0..TRIES {
            let attempt = match request.preparation() {
                Some(preparation) if entry.prepared.is_none() => entry.prepare(request, preparation)?,
                _ => entry.attempt(request)?,
            };
            match attempt {
                Attempt::Done(answer) => return answer,
                Attempt::Moved | Attempt::Due if entry.put_off() => break,
                Attempt::Moved => {}
                Attempt::Due => self.region.expire()?,
            }
        }
        let message = "keys are being changed faster than the request can be decided; try again";
        Err(KmsError::new(KmsErrorKind::DependencyTimeout, message))
    }

    /// The entry for requests of one kind that are decided out of memory, recorded in one transaction, each with
    /// its own event. None, and nothing recorded, if one of them is not plainly allowed: they go one by one then.
    fn enter_together<O: Operation>(&self, requests: &[O]) -> Result<Option<Vec<O::Response>>, KmsError> {
        let Ok(generation) = self.region.cached_generation() else { return Ok(None) };
        let (mut answers, mut events) = (Vec::with_capacity(requests.len()), Vec::new());
        for request in requests {
            let entry = Entry::new(self, Some(SERVICE), O::ROW)?;
            if request.check().is_err() {
                return Ok(None);
            }
            let (Ok(answer), made) = entry.run(request, generation, Tx::Memory) else { return Ok(None) };
            events.push(entry.event(made.now).json(Some(request.parameters()), made.notes, None)?);
            answers.push((answer, made.identities));
        }
        let Some((_, identities)) = answers.first() else { return Ok(Some(Vec::new())) };
        let decided_at = DecidedAt { generation, identities: *identities };
        if answers.iter().any(|(_, other)| other != identities) {
            return Ok(None);
        }
        let answers = answers.into_iter().map(|(answer, _)| answer).collect();
        Ok(self.region.commit(events, Some(decided_at))?.then_some(answers))
    }
}

fn data_key_request(key_id: &str, context: &EncryptionContext) -> GenerateDataKeyRequest {
    GenerateDataKeyRequest {
        key_id: key_id.to_owned(),
        encryption_context: context.clone(),
        key_spec: Some("AES_256".to_owned()),
        ..GenerateDataKeyRequest::default()
    }
}

fn data_key(answer: <GenerateDataKeyRequest as Operation>::Response) -> DataKey {
    DataKey { key_arn: answer.key_id, ciphertext: answer.ciphertext_blob, plaintext: answer.plaintext }
}

fn decrypt_request(key_id: Option<&str>, ciphertext: &[u8], context: &EncryptionContext) -> DecryptRequest {
    DecryptRequest {
        ciphertext_blob: ciphertext.to_vec(),
        encryption_context: context.clone(),
        key_id: key_id.map(str::to_owned),
        ..DecryptRequest::default()
    }
}

fn decrypted(answer: <DecryptRequest as Operation>::Response) -> Decrypted {
    Decrypted { key_arn: answer.key_id, key_material_id: answer.key_material_id, plaintext: answer.plaintext }
}

fn re_encrypt_request(
    ciphertext: &[u8],
    source_context: &EncryptionContext,
    destination_key_id: &str,
    destination_context: &EncryptionContext,
) -> ReEncryptRequest {
    ReEncryptRequest {
        ciphertext_blob: ciphertext.to_vec(),
        source_encryption_context: source_context.clone(),
        destination_key_id: destination_key_id.to_owned(),
        destination_encryption_context: destination_context.clone(),
        ..ReEncryptRequest::default()
    }
}

fn re_encrypted(answer: <ReEncryptRequest as Operation>::Response) -> ReEncrypted {
    ReEncrypted {
        source_key_arn: answer.source_key_id,
        key_arn: answer.key_id,
        ciphertext: answer.ciphertext_blob,
    }
}

/// What came of one attempt.
enum Attempt<T> {
    /// Recorded and to be answered.
    Done(Result<T, KmsError>),
    /// Keys changed meanwhile; nothing was done.
    Moved,
    /// A key must be deleted first; nothing was done.
    Due,
}

/// One request on its way.
struct Entry<'a> {
    session: &'a Session,
    via: Option<&'static str>,
    row: &'static Row,
    request_id: String,
    prepared: Option<SecretVec>,
}

impl<'a> Entry<'a> {
    fn new(session: &'a Session, via: Option<&'static str>, row: &'static Row) -> Result<Self, KmsError> {
        let request_id = session.request_id.as_deref().map_or_else(audit::uuid, |id| Ok(id.to_owned()))?;
        Ok(Self { session, via, row, request_id, prepared: None })
    }

    fn event(&self, time: jiff::Timestamp) -> CallEvent<'_> {
        let Session { region, caller, .. } = self.session;
        let Row { name, read_only, .. } = *self.row;
        let (source, request_id) = (self.row.source(), self.request_id.as_str());
        CallEvent { region, caller, via: self.via, source, name, read_only, time, request_id }
    }

    /// Records events, as [`super::region::Core::commit`] does, or holds them back.
    fn commit(&self, events: Vec<Vec<u8>>, decided_at: Option<DecidedAt>) -> Result<bool, KmsError> {
        let Some(hold) = &self.session.hold else { return self.session.region.commit(events, decided_at) };
        *hold.lock() = Held::Events(Record { events, decided_at });
        Ok(true)
    }

    /// Whether a request that has to be decided anew is left to somebody who may wait.
    fn put_off(&self) -> bool {
        self.session.hold.as_ref().map(|hold| *hold.lock() = Held::Again).is_some()
    }

    fn attempt<O: Operation>(&self, request: &O) -> Result<Attempt<O::Response>, KmsError> {
        match self.row.class {
            Class::Crypto => match self.session.region.cached_generation() {
                Ok(generation) => self.decide(request, generation, Tx::Memory),
                Err(Fault::Refused(error)) => Err(error),
                Err(_) => Ok(Attempt::Moved),
            },
            Class::Read => {
                let tx = self.session.region.store.read()?;
                let generation = rows::generation(&*tx)?;
                let (decided, notes) = self.run(request, generation, Tx::Read(&*tx));
                drop(tx);
                self.record(request, decided, notes, Some(generation))
            }
            Class::Change => self.change(request),
        }
    }

    /// Makes what the request needs, if it would be allowed: to be attempted then. A refusal is recorded as any
    /// other, and nothing is made.
    fn prepare<O: Operation>(
        &mut self,
        request: &O,
        preparation: Preparation<'_>,
    ) -> Result<Attempt<O::Response>, KmsError> {
        let tx = self.session.region.store.read()?;
        let generation = rows::generation(&*tx)?;
        let (decided, made) = self.authorised(request, generation, Tx::Read(&*tx), |_, _| Ok(()));
        drop(tx);
        match decided {
            Ok(()) => {
                self.prepared = Some(preparation()?);
                Ok(Attempt::Moved)
            }
            Err(fault) => self.record::<O>(request, Err(fault), made, Some(generation)),
        }
    }

    fn decide<O: Operation>(
        &self,
        request: &O,
        generation: u64,
        tx: Tx<'_>,
    ) -> Result<Attempt<O::Response>, KmsError> {
        let (decided, notes) = self.run(request, generation, tx);
        self.record(request, decided, notes, Some(generation))
    }

    /// Authorise, check state, act.
    fn run<O: Operation>(
        &self,
        request: &O,
        generation: u64,
        tx: Tx<'_>,
    ) -> (super::call::Result<O::Response>, Made) {
        self.authorised(request, generation, tx, |call, keys| request.act(call, keys))
    }

    /// Authorise, check state, and then `act`.
    fn authorised<O: Operation, T>(
        &self,
        request: &O,
        generation: u64,
        tx: Tx<'_>,
        act: impl FnOnce(&mut Call<'_, '_>, &[Arc<Key>]) -> super::call::Result<T>,
    ) -> (super::call::Result<T>, Made) {
        let region = &*self.session.region;
        let parameters = request.parameters();
        let authority = match region.identities.authority(&self.session.caller) {
            Ok(authority) => authority,
            Err(error) => {
                let (now, notes) = (region.clock.now(), Notes::default());
                let made = Made { now, notes, service_events: Vec::new(), shares: false, identities: None };
                return (Err(Fault::Refused(error)), made);
            }
        };
        let identities = authority.generation;
        let mut call = Call {
            region,
            caller: &self.session.caller,
            via: self.via,
            row: self.row,
            now: region.clock.now(),
            generation,
            tx,
            authority,
            simulation: None,
            prepared: self.prepared.as_ref(),
            parameters: &parameters,
            elsewhere: None,
            same_key: None,
            notes: Notes::default(),
            service_events: Vec::new(),
            shares: false,
        };
        let decided = call.admit(&request.subjects()).and_then(|keys| {
            would_succeed(request.dry_run())?;
            act(&mut call, &keys)
        });
        let Call { now, notes, service_events, shares, .. } = call;
        (decided, Made { now, notes, service_events, shares, identities })
    }

    /// Records what was decided without changing anything. Then, and only then, it may be answered.
    fn record<O: Operation>(
        &self,
        request: &O,
        decided: super::call::Result<O::Response>,
        made: Made,
        decided_at: Option<u64>,
    ) -> Result<Attempt<O::Response>, KmsError> {
        let answer = match decided {
            Ok(answer) => Ok(answer),
            Err(Fault::Moved) => return Ok(Attempt::Moved),
            Err(Fault::Due) => return Ok(Attempt::Due),
            Err(Fault::Refused(error)) => Err((error.clone(), error.message)),
            Err(Fault::Hidden { answer, reason }) => Err((answer, reason)),
        };
        let error = answer.as_ref().err().map(|(error, reason)| (error.kind, reason.clone()));
        let decided_at = decided_at.map(|generation| DecidedAt { generation, identities: made.identities });
        let event = self.event(made.now).json(Some(request.parameters()), made.notes, error)?;
        // What is not recorded is not answered: an early return here zeroizes the result.
        if self.commit(vec![event], decided_at)? {
            Ok(Attempt::Done(answer.map_err(|(error, _)| error)))
        } else {
            Ok(Attempt::Moved)
        }
    }

    /// Decides and does a change in one transaction with its event and the generation. A refusal leaves no
    /// trace in it and is recorded by itself.
    fn change<O: Operation>(&self, request: &O) -> Result<Attempt<O::Response>, KmsError> {
        let region = &*self.session.region;
        let mut tx = region.store.write(Durability::Synced)?;
        let generation = rows::generation(&*tx)?;
        let (decided, made) = self.run(request, generation, Tx::Write(&mut *tx));
        let mut answer = match decided {
            Ok(answer) => answer,
            refused => {
                drop(tx);
                return self.record(request, refused, made, Some(generation));
            }
        };
        let event = self.event(made.now).json(Some(request.parameters()), made.notes, None)?;
        let mut head = audit::append(&mut *tx, &event)?;
        for event in made.service_events {
            head = audit::append_after(&mut *tx, &head, &event)?;
        }
        region.move_generation(&mut *tx)?;
        tx.commit()?;
        region.has_grown();
        if made.shares {
            region.settle();
        }
        request.finish(region, &mut answer);
        Ok(Attempt::Done(Ok(answer)))
    }

    /// Records a request that is refused before anything of the store was looked at. Ok: the refusal.
    fn fail<P: serde::Serialize>(
        &self,
        parameters: Option<P>,
        notes: Notes,
        decided_at: Option<u64>,
        error: KmsError,
    ) -> Result<KmsError, KmsError> {
        let now = self.session.region.clock.now();
        let event = self.event(now).json(parameters, notes, Some((error.kind, error.message.clone())))?;
        self.commit(vec![event], decided_at.map(Into::into))?;
        Ok(error)
    }
}

/// What a request made on the way, beside its answer.
struct Made {
    now: jiff::Timestamp,
    notes: Notes,
    service_events: Vec<Vec<u8>>,
    shares: bool,
    /// The generation of the identities that it was decided by.
    identities: Option<u64>,
}

impl KeyService for Session {
    fn generate_data_key(&self, key_id: &str, context: &EncryptionContext) -> Result<DataKey, KmsError> {
        Ok(data_key(self.enter(Some(SERVICE), &data_key_request(key_id, context))?))
    }

    fn generate_data_keys(
        &self,
        key_id: &str,
        contexts: &[EncryptionContext],
    ) -> Result<Vec<DataKey>, KmsError> {
        let requests: Vec<_> = contexts.iter().map(|context| data_key_request(key_id, context)).collect();
        if let Some(answers) = self.enter_together(&requests)? {
            return Ok(answers.into_iter().map(data_key).collect());
        }
        contexts.iter().map(|context| self.generate_data_key(key_id, context)).collect()
    }

    fn encrypt(
        &self,
        key_id: &str,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Encrypted, KmsError> {
        let answer = self.enter(
            Some(SERVICE),
            &EncryptRequest {
                key_id: key_id.to_owned(),
                plaintext: SecretVec::new(plaintext.to_vec()),
                encryption_context: context.clone(),
                ..EncryptRequest::default()
            },
        )?;
        Ok(Encrypted { key_arn: answer.key_id, ciphertext: answer.ciphertext_blob })
    }

    fn decrypt(
        &self,
        key_id: Option<&str>,
        ciphertext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, KmsError> {
        Ok(decrypted(self.enter(Some(SERVICE), &decrypt_request(key_id, ciphertext, context))?))
    }

    fn decrypt_all(&self, wrapped: &[(&str, &[u8], &EncryptionContext)]) -> Result<Vec<Decrypted>, KmsError> {
        let requests =
            wrapped.iter().map(|(key_id, blob, context)| decrypt_request(Some(key_id), blob, context));
        let requests: Vec<_> = requests.collect();
        if let Some(answers) = self.enter_together(&requests)? {
            return Ok(answers.into_iter().map(decrypted).collect());
        }
        wrapped.iter().map(|(key_id, blob, context)| self.decrypt(Some(key_id), blob, context)).collect()
    }

    fn re_encrypt(
        &self,
        ciphertext: &[u8],
        source_context: &EncryptionContext,
        destination_key_id: &str,
        destination_context: &EncryptionContext,
    ) -> Result<ReEncrypted, KmsError> {
        let request = re_encrypt_request(ciphertext, source_context, destination_key_id, destination_context);
        Ok(re_encrypted(self.enter(Some(SERVICE), &request)?))
    }

    fn re_encrypt_all(
        &self,
        wrapped: &[(&[u8], &EncryptionContext)],
        destination_key_id: &str,
    ) -> Result<Vec<ReEncrypted>, KmsError> {
        let request = |(blob, context): &(&[u8], &EncryptionContext)| {
            re_encrypt_request(blob, context, destination_key_id, context)
        };
        if let Some(answers) = self.enter_together(&wrapped.iter().map(request).collect::<Vec<_>>())? {
            return Ok(answers.into_iter().map(re_encrypted).collect());
        }
        let one = |(blob, context): &(&[u8], &EncryptionContext)| {
            self.re_encrypt(blob, context, destination_key_id, context)
        };
        wrapped.iter().map(one).collect()
    }

    fn describe_key(&self, key_id: &str) -> Result<KeyMetadata, KmsError> {
        let request = DescribeKeyRequest { key_id: key_id.to_owned(), ..DescribeKeyRequest::default() };
        let key = self.enter(Some(SERVICE), &request)?.key_metadata;
        Ok(KeyMetadata { key_arn: key.arn, region: self.region().to_string(), state: key.key_state })
    }
}

impl Ledger for Session {
    /// Read it before the decision whose life hangs on it.
    fn generation(&self) -> Result<Option<u64>, KmsError> {
        // Both only grow, so that the sum moves whenever one of them does.
        Ok(Some(self.region.generation()? + self.region.identities.generation()?))
    }

    fn record(&self, event: FileEvent, sync: bool) -> Result<(), KmsError> {
        let event = events::of_a_file(&self.region, &self.caller, event)?;
        self.region.record(event, sync)
    }
}
