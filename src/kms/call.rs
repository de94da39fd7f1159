//! What an operation sees of the service while it runs, and how names become keys.

use std::cell::Cell;
use std::sync::Arc;

use jiff::Timestamp;

use super::blob::CiphertextBlob;
use super::cache::Key;
use super::events::{Notes, Parameters};
use super::grants::{self, By};
use super::identity::Authority;
use super::operation::{Class, Row};
use super::region::{Core, Fault};
use super::rows::Kind;
use super::session::Caller;
use super::simulate::Simulation;
use super::state::{Needs, State};
use super::{KmsError, KmsErrorKind, conditions, rows};
use crate::audit::Resource;
use crate::crypto::SecretVec;
use crate::iam::{
    Access, AccountId, AliasName, Context, Ground, IamError, KeyArn, KeyId, Layer, Policy, Principal,
    Refusal, Region, ResourcePolicy, evaluate,
};
use crate::store::{ReadTx, WriteTx};

/// How a request names what it concerns.
#[derive(Clone, Copy)]
pub enum Name<'a> {
    /// Key id, key ARN, alias name or alias ARN.
    KeyOrAlias(&'a str),
    /// Key id or key ARN.
    Key(&'a str),
    /// The key of a ciphertext, which must be this one if one is given.
    Ciphertext(&'a [u8], Option<&'a str>),
    /// An alias that exists, and its key.
    Alias(&'a str),
    /// An alias that may not exist.
    NewAlias(&'a str),
    /// A principal of the caller's account, by its ARN.
    Principal(&'a str),
    /// A grant that is to be retired, by key and id.
    Grant(&'a str, &'a str),
    /// A grant that is to be retired, by its token.
    GrantToken(&'a str),
}

/// One thing that a request concerns, what it does with it, and the states in which that works.
pub struct Subject<'a> {
    /// What.
    pub name: Name<'a>,
    /// Such as kms:Decrypt.
    pub action: &'static str,
    /// In which states.
    pub needs: Needs,
}

/// The view of the store.
pub enum Tx<'t> {
    /// Out of memory, as of the call's generation.
    Memory,
    /// One view of the store.
    Read(&'t dyn ReadTx),
    /// The transaction of a change.
    Write(&'t mut dyn WriteTx),
}

/// One attempt at a request.
pub struct Call<'a, 't> {
    pub region: &'a Core,
    pub caller: &'a Caller,
    pub via: Option<&'static str>,
    pub row: &'static Row,
    pub now: Timestamp,
    pub generation: u64,
    pub tx: Tx<'t>,
    /// What the caller has by being who it is.
    pub authority: Authority,
    /// None: it is a real request.
    pub simulation: Option<&'a Simulation<'a>>,
    /// What the operation prepared.
    pub prepared: Option<&'a SecretVec>,
    /// Of the request.
    pub parameters: &'a Parameters<'a>,
    /// What is being decided takes place in this region, not in the call's.
    pub elsewhere: Option<Region>,
    /// ReEncrypt: source and destination are one key.
    pub same_key: Option<bool>,
    /// For the event.
    pub notes: Notes,
    /// Events of the service's own that go with the request's.
    pub service_events: Vec<Vec<u8>>,
    /// Other regions are to be told.
    pub shares: bool,
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Fault>;

/// Refuses a dry run of what would have succeeded.
pub fn would_succeed(dry_run: bool) -> Result<()> {
    if !dry_run {
        return Ok(());
    }
    let message = "The request would have succeeded, but the DryRun option is set.";
    Err(refused(KmsErrorKind::DryRun, message))
}

/// What [`Call::ask`] answers for a no.
pub struct Denied {
    /// A statement says no, rather than none saying yes.
    pub explicit: bool,
    /// In AWS's words.
    pub error: KmsError,
}

fn refused(kind: KmsErrorKind, message: impl Into<String>) -> Fault {
    Fault::Refused(KmsError::new(kind, message))
}

/// An ARN of an alias, by parts.
struct AliasArn {
    region: String,
    account: AccountId,
    name: AliasName,
}

fn alias_arn(text: &str) -> Option<AliasArn> {
    let parts: Vec<&str> = text.split(':').collect();
    let ["arn", _, "kms", region, account, name] = parts[..] else { return None };
    Some(AliasArn { region: region.to_owned(), account: account.parse().ok()?, name: name.parse().ok()? })
}

impl Call<'_, '_> {
    /// The caller's.
    pub fn account(&self) -> &AccountId {
        self.caller.principal.account()
    }

    /// The view; a view out of memory has none.
    pub fn reader(&self) -> Result<&dyn ReadTx> {
        match &self.tx {
            Tx::Memory => Err(refused(KmsErrorKind::Internal, "no view of the store is open")),
            Tx::Read(tx) => Ok(*tx),
            Tx::Write(tx) => Ok(&**tx),
        }
    }

    /// The transaction of a change.
    pub fn writer(&mut self) -> Result<&mut dyn WriteTx> {
        match &mut self.tx {
            Tx::Memory | Tx::Read(_) => {
                Err(refused(KmsErrorKind::Internal, "no transaction of the store is open"))
            }
            Tx::Write(tx) => Ok(&mut **tx),
        }
    }

    /// A key by its id.
    pub fn load(&self, id: &KeyId) -> Result<Option<Arc<Key>>> {
        let key = match &self.tx {
            Tx::Memory => self.region.cached_key(self.generation, id)?,
            Tx::Read(_) | Tx::Write(_) => Key::load(self.reader()?, &self.region.region, id)?.map(Arc::new),
        };
        // A key whose time has come is gone, whether or not the thread has seen to it.
        if let Some(key) = &key
            && let State::PendingDeletion { due } = key.row.state
            && due <= self.now.as_millisecond()
        {
            return Err(Fault::Due);
        }
        // The same of its material.
        if key.as_ref().is_some_and(|key| key.expires_by(self.now.as_millisecond())) {
            return Err(Fault::Due);
        }
        Ok(key)
    }

    fn find_alias(&self, account: &AccountId, name: &AliasName) -> Result<Option<KeyId>> {
        match &self.tx {
            Tx::Memory => self.region.cached_alias(self.generation, account, name),
            Tx::Read(_) | Tx::Write(_) => {
                Ok(rows::alias(self.reader()?, account, name)?.map(|row| row.key()))
            }
        }
    }

    /// Finds and authorises what a request concerns, in the request's order; then checks the states. Answers
    /// the keys; an alias that is to be made has none.
    pub fn admit(&mut self, subjects: &[Subject<'_>]) -> Result<Vec<Arc<Key>>> {
        if subjects.is_empty() {
            self.in_account(self.row.action, self.account(), "*")?;
        }
        if self.row.name == "ReEncrypt" {
            self.same_key = self.are_one_key(subjects)?;
        }
        let mut keys = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let key = match subject.name {
                Name::KeyOrAlias(text) => self.named(text, true, subject.action)?,
                Name::Key(text) => self.named(text, false, subject.action)?,
                Name::Ciphertext(blob, within) => self
                    .of_ciphertext(blob, within, subject.action)
                    .map_err(|fault| self.told(fault, subject))?,
                Name::Alias(text) => {
                    let (account, name) = self.alias(text, subject.action)?;
                    let found = match self.find_alias(&account, &name)? {
                        Some(id) => self.load(&id)?,
                        None => None,
                    };
                    found.ok_or_else(|| self.no_alias(&account, name.as_str()))?
                }
                Name::NewAlias(text) => {
                    self.alias(text, subject.action)?;
                    continue;
                }
                Name::Principal(text) => {
                    let principal: Principal = text.parse().map_err(|_| {
                        let message = format!("ARN does not refer to a valid principal: {text}");
                        refused(KmsErrorKind::InvalidArn, message)
                    })?;
                    self.in_account(subject.action, principal.account(), &principal.arn())?;
                    continue;
                }
                Name::Grant(key, id) => {
                    let (key, id) = (self.named(key, false, subject.action)?, grants::grant_id(id)?);
                    let may = self.may_retire(&key, &id);
                    if may.is_ok() || key.arn.account == *self.account() {
                        self.note(&key.arn);
                    }
                    may?;
                    keys.push((key, subject.needs));
                    continue;
                }
                Name::GrantToken(token) => {
                    let (key, id) = grants::read_token(&self.region.root, token)?;
                    let key = self.load(&key)?.ok_or_else(|| grants::no_grant(&id))?;
                    self.note(&key.arn);
                    self.may_retire(&key, &id)?;
                    keys.push((key, subject.needs));
                    continue;
                }
            };
            let alias = match subject.name {
                Name::KeyOrAlias(text) => text.find("alias/").map(|at| &text[at..]),
                Name::Ciphertext(_, within) => within.and_then(|t| t.find("alias/").map(|at| &t[at..])),
                Name::Key(_) | Name::Alias(_) | Name::NewAlias(_) => None,
                // Gone another way above.
                Name::Principal(_) | Name::Grant(..) | Name::GrantToken(_) => None,
            };
            let decided = if self.works_on(&key.arn) {
                self.may_use_key(subject.action, &key.arn, key.row.kind(), &key.policy, alias, Some(&key))
            } else {
                Err(self.denial(&Refusal::Missing(Layer::Resource), subject.action, &key.arn_text).into())
            };
            let shown = decided.is_ok() || self.lets_know(&key, subject.action, alias)?;
            if shown {
                self.note(&key.arn);
            }
            if let Err(fault) = decided {
                return Err(if shown {
                    self.told(fault, subject)
                } else {
                    self.as_if_absent(fault, subject)
                });
            }
            if let Name::Ciphertext(bytes, Some(_)) = subject.name {
                must_be_of(bytes, &key)?;
            }
            keys.push((key, subject.needs));
        }
        for (key, needs) in &keys {
            key.row.state.check(*needs, &key.arn_text)?;
        }
        Ok(keys.into_iter().map(|(key, _)| key).collect())
    }

    /// Names a key in the request's event.
    pub fn note(&mut self, arn: &KeyArn) {
        self.notes.resources.push(Resource::key(arn.account.as_str(), arn.to_string()));
    }

    /// Of what is not the use of a key only little works on another account's, whatever its policy says.
    pub fn works_on(&self, key: &KeyArn) -> bool {
        const ACROSS: [&str; 7] = [
            "CreateGrant",
            "ListGrants",
            "RevokeGrant",
            "RetireGrant",
            "DescribeKey",
            "GetKeyRotationStatus",
            "GetPublicKey",
        ];
        key.account == *self.account() || self.row.class == Class::Crypto || ACROSS.contains(&self.row.name)
    }

    /// May the caller do this to a key that has this policy, and that the request calls by this alias? Of a key
    /// that is there already its grants, tags and aliases count too.
    pub fn may_use_key(
        &self,
        action: &str,
        key: &KeyArn,
        kind: Kind,
        policy: &Policy,
        alias: Option<&str>,
        stored: Option<&Key>,
    ) -> Result<()> {
        let context = self.key_context(action, key, kind, policy, alias, stored)?;
        let policy = ResourcePolicy { owner: &key.account, policy };
        self.decide(action, &key.to_string(), &context, Some(policy), stored)
    }

    /// What policies may ask of a request and its key; nothing where they ask nothing.
    pub fn key_context(
        &self,
        action: &str,
        key: &KeyArn,
        (spec, usage, origin): Kind,
        policy: &Policy,
        alias: Option<&str>,
        stored: Option<&Key>,
    ) -> Result<Context> {
        let mut context = Context::new();
        if policy.reads_context() || self.authority.reads_context() {
            self.say(action, &mut context);
            if let Some(alias) = alias {
                context.set("kms:RequestAlias", alias);
            }
            context.set("kms:KeySpec", spec.name());
            context.set("kms:KeyUsage", usage.name());
            // The older names.
            context.set("kms:CustomerMasterKeySpec", spec.name());
            context.set("kms:CustomerMasterKeyUsage", usage.name());
            context.set("kms:KeyOrigin", origin);
            context.set("kms:MultiRegion", key.key.multi_region.to_string());
            if let Some(stored) = stored {
                if stored.row.related.is_some() {
                    let leads = stored.row.leads(&stored.arn.region);
                    context.set("kms:MultiRegionKeyType", if leads { "PRIMARY" } else { "REPLICA" });
                }
                for (name, value) in &stored.row.tags {
                    context.set(&format!("aws:ResourceTag/{name}"), value.as_str());
                }
                if policy.reads("kms:ResourceAliases") || self.authority.reads("kms:ResourceAliases") {
                    context
                        .set_all("kms:ResourceAliases", self.aliases_of(stored)?.iter().map(String::as_str));
                }
            }
        }
        Ok(context)
    }

    /// Is there such a user or role, as far as its account is known here?
    pub fn principal_exists(&self, principal: &Principal) -> Result<bool> {
        Ok(self.region.identities.principal_exists(principal)?)
    }

    /// The decision about a key by any of its names; see [`super::simulate`].
    pub fn simulate_on_key(&self, action: &str, name: &str) -> Result<()> {
        let key = self.named(name, true, action)?;
        if !self.works_on(&key.arn) {
            return Err(Fault::Refused(self.denial(
                &Refusal::Missing(Layer::Resource),
                action,
                &key.arn_text,
            )));
        }
        let alias = name.find("alias/").map(|at| &name[at..]);
        self.may_use_key(action, &key.arn, key.row.kind(), &key.policy, alias, Some(&key))
    }

    /// The decision by the caller's own policies alone; see [`super::simulate`].
    pub fn simulate_alone(&self, action: &str, resource: &str) -> Result<()> {
        self.in_account(action, self.account(), resource)
    }

    /// May the caller do this in the account?
    pub fn in_account(&self, action: &str, account: &AccountId, resource: &str) -> Result<()> {
        if self.account() != account {
            return Err(Fault::Refused(self.denial(&Refusal::Missing(Layer::Identity), action, resource)));
        }
        let mut context = Context::new();
        if self.authority.reads_context() {
            self.say(action, &mut context);
        }
        self.decide(action, resource, &context, None, None)
    }

    fn decide(
        &self,
        action: &str,
        resource: &str,
        context: &Context,
        resource_policy: Option<ResourcePolicy<'_>>,
        key: Option<&Key>,
    ) -> Result<()> {
        let failed = Cell::new(None);
        let grant = || match self.granted(key?, action, By::Name) {
            Ok(id) => id.map(|id| id.to_string()),
            Err(fault) => {
                failed.set(Some(fault));
                None
            }
        };
        let decided = self.ask(action, resource, context, resource_policy, &grant);
        if let Some(fault) = failed.take() {
            return Err(fault);
        }
        let Err(denied) = decided else { return Ok(()) };
        if let Some(key) = key
            && !denied.explicit
            && let Some(grant) = self.granted(key, action, By::Account)?
            && self.ask(action, resource, context, None, &|| None).is_ok()
        {
            if let Some(simulation) = self.simulation {
                simulation.note_also(Ground::Grant(grant.to_string()).to_string());
            }
            return Ok(());
        }
        Err(denied.error.into())
    }

    /// What the policies say, and then a grant. The one place where they are asked.
    pub fn ask(
        &self,
        action: &str,
        resource: &str,
        context: &Context,
        resource_policy: Option<ResourcePolicy<'_>>,
        grant: &dyn Fn() -> Option<String>,
    ) -> std::result::Result<(), Denied> {
        if let Err(gone) = self.authority.check(self.caller.identified.as_deref(), self.now) {
            let message = format!(
                "User: {} is not authorized to perform: {action} on resource: {resource} because it has been deleted, or \
                 its session is over ({})",
                self.caller.principal.arn(),
                gone.message
            );
            return Err(Denied { explicit: true, error: KmsError::new(KmsErrorKind::AccessDenied, message) });
        }
        let access = Access {
            principal: &self.caller.principal,
            action,
            resource,
            context,
            identity: &self.authority.identity(),
            boundary: self.authority.boundary(),
            session: &self.authority.session(),
            resource_policy,
            grant,
        };
        let denied = |refusal: Refusal<'_>| Denied {
            explicit: matches!(refusal, Refusal::Explicit(_)),
            error: self.denial(&refusal, action, resource),
        };
        let decision = evaluate(&access);
        if let Some(simulation) = self.simulation {
            simulation.note(&decision);
        }
        decision.map(drop).map_err(denied)
    }

    /// Says what the request is, without regard to a key.
    fn say(&self, action: &str, context: &mut Context) {
        self.caller.principal.describe(context);
        self.authority.say(&self.caller.principal, self.caller.identified.as_deref(), context);
        let region = self.elsewhere.as_ref().unwrap_or(&self.region.region).as_str();
        context.set("aws:RequestedRegion", region);
        context.set("aws:SourceIp", self.caller.source_ip.as_str());
        context.set("aws:UserAgent", self.caller.user_agent.as_str());
        context.set("aws:CurrentTime", self.now.to_string());
        context.set("aws:EpochTime", self.now.as_second().to_string());
        context.set("aws:ViaAWSService", self.via.is_some().to_string());
        if let Some(via) = self.via {
            context.set("kms:ViaService", format!("{via}.{region}.amazonaws.com"));
        }
        if matches!(action, "kms:CreateGrant" | "kms:ListGrants" | "kms:RevokeGrant") {
            context.set("kms:GrantIsForAWSResource", self.via.is_some().to_string());
        }
        if let Some(same) = self.same_key {
            context.set("kms:ReEncryptOnSameKey", same.to_string());
        }
        conditions::say(self.parameters, action, context);
        if let Some(simulation) = self.simulation {
            simulation.say(context);
        }
    }

    pub fn denial(&self, refusal: &Refusal<'_>, action: &str, resource: &str) -> KmsError {
        let message = refusal.sentence(&self.caller.principal, action, resource);
        KmsError::new(KmsErrorKind::AccessDenied, message)
    }

    /// An alias that may be changed by its name, if not reserved.
    fn alias(&self, text: &str, action: &str) -> Result<(AccountId, AliasName)> {
        let account = self.account().clone();
        let name: AliasName =
            text.parse().map_err(|e: IamError| refused(KmsErrorKind::InvalidAliasName, e.to_string()))?;
        let arn = self.alias_arn(&account, name.as_str());
        if name.is_reserved() {
            let message = format!(
                "User: {} is not authorized to perform: {action} on resource: {arn} because names that begin with \
                 alias/aws/ are kept for keys that services manage",
                self.caller.principal.arn()
            );
            return Err(refused(KmsErrorKind::AccessDenied, message));
        }
        self.in_account(action, &account, &arn)?;
        Ok((account, name))
    }

    /// The ARN of an alias here.
    pub fn alias_arn(&self, account: &AccountId, name: &str) -> String {
        let region = &self.region.region;
        format!("arn:{}:kms:{region}:{account}:{name}", region.partition())
    }

    fn no_alias(&self, account: &AccountId, name: &str) -> Fault {
        refused(KmsErrorKind::NotFound, format!("Alias {} is not found.", self.alias_arn(account, name)))
    }

    fn no_key(&self, account: &AccountId, id: &KeyId) -> Fault {
        let arn = KeyArn { region: self.region.region.clone(), account: account.clone(), key: *id };
        refused(KmsErrorKind::NotFound, format!("Key '{arn}' does not exist"))
    }

    /// The key of a name. Another account's that is not there looks like one that is forbidden.
    pub fn named(&self, text: &str, aliases: bool, action: &str) -> Result<Arc<Key>> {
        let foreign = |account: &AccountId, fault: Fault| {
            if account == self.account() {
                return fault;
            }
            Fault::Refused(self.denial(&Refusal::Missing(Layer::Resource), action, text))
        };
        if text.starts_with("arn:") {
            if let Some(arn) = alias_arn(text)
                && aliases
            {
                self.in_this_region(&arn.region)?;
                let found = match self.find_alias(&arn.account, &arn.name)? {
                    Some(id) => self.load(&id)?,
                    None => None,
                };
                return found
                    .ok_or_else(|| foreign(&arn.account, self.no_alias(&arn.account, arn.name.as_str())));
            }
            let arn: KeyArn =
                text.parse().map_err(|_| refused(KmsErrorKind::InvalidArn, format!("Invalid arn {text}")))?;
            self.in_this_region(arn.region.as_str())?;
            let found = self.load(&arn.key)?.filter(|key| key.arn.account == arn.account);
            return found.ok_or_else(|| foreign(&arn.account, self.no_key(&arn.account, &arn.key)));
        }
        if text.starts_with("alias/") && aliases {
            let name = text.parse().map_err(|_| self.no_alias(self.account(), text))?;
            let found = match self.find_alias(self.account(), &name)? {
                Some(id) => self.load(&id)?,
                None => None,
            };
            return found.ok_or_else(|| self.no_alias(self.account(), text));
        }
        let id: KeyId =
            text.parse().map_err(|_| refused(KmsErrorKind::NotFound, format!("Invalid keyId '{text}'")))?;
        let found = self.load(&id)?.filter(|key| key.arn.account == *self.account());
        found.ok_or_else(|| self.no_key(self.account(), &id))
    }

    fn in_this_region(&self, region: &str) -> Result<()> {
        if region == self.region.region.as_str() {
            Ok(())
        } else {
            Err(refused(KmsErrorKind::NotFound, format!("Invalid arn {region}")))
        }
    }

    /// The key that a ciphertext is to be opened with: the one that is named, else the one that it names.
    pub fn of_ciphertext(&self, bytes: &[u8], within: Option<&str>, action: &str) -> Result<Arc<Key>> {
        let blob = CiphertextBlob::parse(bytes).ok_or_else(no_ciphertext)?;
        match within {
            Some(text) => self.named(text, true, action),
            None => self.load(&blob.key)?.ok_or_else(|| self.no_key_of(&blob.key, action)),
        }
    }
}

/// Refuses a ciphertext of another key than the one that was named.
fn must_be_of(bytes: &[u8], key: &Key) -> Result<()> {
    if CiphertextBlob::parse(bytes).is_some_and(|blob| blob.key == key.arn.key) {
        return Ok(());
    }
    let message = "The key ID in the request does not identify a CMK that can perform this operation.";
    Err(refused(KmsErrorKind::IncorrectKey, message))
}

/// The answer to what is no ciphertext of the key, or has another context.
pub fn no_ciphertext() -> Fault {
    let message = "the ciphertext was not made by this key service under this key and encryption context, or it was damaged";
    refused(KmsErrorKind::InvalidCiphertext, message)
}
