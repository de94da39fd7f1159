//! Access keys and session tokens: from what a request is signed with to who called.
//!
//! Sessions are nowhere kept: a token holds all that is to be known, under a key of the directory's root key. Base64
//! of version 1 | salt 16 | nonce 12 | tag 16 | AES-256-GCM ciphertext of a [`Payload`] in postcard. What would end a
//! session early is looked up at each use: its user or role must be there, under the same unique id.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::authority::{Identified, SessionFacts};
use super::error::{expired_token, invalid_token};
use super::service::{Core, Identities};
use crate::crypto::{SecretVec, labels};
use crate::iam::directory::{self, Kind, NamedPolicy};
use crate::iam::{AccountId, Policy, PolicyKind, Principal};
use crate::kms::session::Caller;
use crate::kms::{KmsError, KmsErrorKind};
use crate::store::{ReadTx, Store};

const TOKEN_VERSION: u8 = 1;
/// The name of the policy that is given with a session.
const SESSION_POLICY: &str = "given with the session";

/// What a signature is checked with, and who made it if it holds.
pub struct Credential {
    /// The secret access key.
    pub secret: SecretVec,
    /// Who calls; where the call came from is for the receiver to fill in.
    pub caller: Caller,
}

/// A credential that was found, kept for its generation.
pub struct Known {
    access_key_id: String,
    secret: SecretVec,
    caller: Caller,
}

/// Who a session is.
#[derive(Clone, Serialize, Deserialize, Zeroize)]
pub(super) enum Holder {
    /// The account's root.
    Root,
    /// A user, with its path.
    User(String),
    /// A role with its path, and the session's name.
    Role(String, String),
}

/// What a token holds.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct Payload {
    pub access_key_id: String,
    pub secret: Vec<u8>,
    pub account: String,
    pub holder: Holder,
    /// The unique id of user or role.
    pub id: String,
    /// Milliseconds since 1970.
    pub issued: i64,
    /// Milliseconds since 1970.
    pub expires: i64,
    pub policy: Option<String>,
    pub policy_arns: Vec<String>,
    pub tags: Vec<(String, String)>,
    pub transitive: Vec<String>,
    pub source_identity: Option<String>,
}

impl Payload {
    /// The token.
    pub fn seal(&self, core: &Core) -> Result<String, KmsError> {
        let text = postcard::to_allocvec(self).map_err(|e| {
            KmsError::new(KmsErrorKind::Internal, format!("a session cannot be written: {e}"))
        })?;
        let text = SecretVec::new(text);
        let sealed = directory::seal(core.root.expose(), labels::IAM_SESSION, &[], text.expose())?;
        Ok(STANDARD.encode([&[TOKEN_VERSION], &sealed[..]].concat()))
    }

    fn open(core: &Core, token: &str) -> Option<Self> {
        let bytes = STANDARD.decode(token).ok()?;
        let (&TOKEN_VERSION, sealed) = bytes.split_first()? else { return None };
        let text = directory::open(core.root.expose(), labels::IAM_SESSION, &[], sealed).ok()?;
        postcard::from_bytes(text.expose()).ok()
    }

    fn known(&self, tx: &dyn ReadTx) -> Option<Known> {
        let account: AccountId = self.account.parse().ok()?;
        let principal = match &self.holder {
            Holder::Root => Principal::Root(account.clone()),
            Holder::User(name) => Principal::User { account: account.clone(), name: name.clone() },
            Holder::Role(role, session) => {
                Principal::Session { account: account.clone(), role: role.clone(), session: session.clone() }
            }
        };
        if !matches!(self.holder, Holder::Root) {
            let standing = directory::standing(tx, &principal).ok()??;
            if standing.id != self.id {
                return None;
            }
        }
        let policy = match &self.policy {
            Some(text) => Some(session_policy(text).ok()?),
            None => None,
        };
        let session = SessionFacts {
            issued: Timestamp::from_millisecond(self.issued).ok()?,
            expires: Some(Timestamp::from_millisecond(self.expires).ok()?),
            policy,
            policy_arns: self.policy_arns.clone(),
            tags: self.tags.clone(),
            transitive: self.transitive.clone(),
            source_identity: self.source_identity.clone(),
        };
        let identified = Identified { id: self.id.clone(), session: Some(session) };
        Some(Known {
            access_key_id: self.access_key_id.clone(),
            secret: SecretVec::new(self.secret.clone()),
            caller: Caller {
                principal,
                access_key_id: Some(self.access_key_id.clone()),
                identified: Some(Arc::new(identified)),
                ..Caller::root(account)
            },
        })
    }
}

/// Reads a policy that is given with a session.
pub(super) fn session_policy(text: &str) -> Result<NamedPolicy, crate::iam::IamError> {
    Ok(NamedPolicy { name: SESSION_POLICY.to_owned(), policy: Policy::parse(PolicyKind::Session, text)? })
}

impl Known {
    fn of_access_key(core: &Core, tx: &dyn ReadTx, id: &str) -> Result<Option<Self>, KmsError> {
        let Some(row) = directory::access_key(tx, id)?.filter(|row| row.active) else { return Ok(None) };
        let Ok(account) = row.account.parse::<AccountId>() else { return Ok(None) };
        let (principal, unique) = match &row.user {
            None => (Principal::Root(account.clone()), account.to_string()),
            Some(name) => {
                let Some(user) = directory::find_entity(tx, Kind::User, &account, name)? else {
                    return Ok(None);
                };
                (Principal::User { account: account.clone(), name: user.full_name() }, user.id)
            }
        };
        Ok(Some(Self {
            access_key_id: id.to_owned(),
            secret: directory::open_secret(core.root.expose(), id, &row)?,
            caller: Caller {
                principal,
                access_key_id: Some(id.to_owned()),
                identified: Some(Arc::new(Identified { id: unique, session: None })),
                ..Caller::root(account)
            },
        }))
    }
}

impl Identities {
    /// The secret of an access key, and who it is; with a session token the session's.
    ///
    /// # Errors
    /// InvalidClientTokenId: unknown, inactive, or a token that is changed or not this access key's. ExpiredToken.
    pub fn credential(&self, access_key_id: &str, token: Option<&str>) -> Result<Credential, KmsError> {
        let service = self.get()?.ok_or_else(invalid_token)?;
        let name = token.unwrap_or(access_key_id);
        let known = match service.known(service.current()?, name) {
            Some(known) => known,
            None => {
                let (generation, tx) = service.view()?;
                let found = match token {
                    Some(token) => Payload::open(&service, token).and_then(|payload| payload.known(&*tx)),
                    None => Known::of_access_key(&service, &*tx, access_key_id)?,
                };
                let known = Arc::new(found.ok_or_else(invalid_token)?);
                service.learn(generation, name, &known);
                known
            }
        };
        let session = known.caller.identified.as_ref().and_then(|i| i.session.as_ref());
        // An access key's id is no session token, whatever is in memory under that name.
        if known.access_key_id != access_key_id || session.is_some() != token.is_some() {
            return Err(invalid_token());
        }
        if session.and_then(|s| s.expires).is_some_and(|expires| self.clock().now() >= expires) {
            return Err(expired_token());
        }
        Ok(Credential { secret: known.secret.clone(), caller: known.caller.clone() })
    }

    /// Whom the local command line names: a user (its ARN, or its name in `account`), a role (its session is called
    /// `kmsfs`), an assumed-role session, or a root. It must be there; nothing of it is proved.
    ///
    /// # Errors
    /// NoSuchEntity, ValidationError.
    pub fn caller(&self, text: &str, account: &AccountId) -> Result<Caller, KmsError> {
        let named = if text.contains(':') {
            text.parse()
        } else {
            Ok(Principal::User { account: account.clone(), name: text.to_owned() })
        };
        let named: Principal = named.map_err(|e: crate::iam::IamError| {
            super::error::refused(super::IdentityErrorKind::Validation, e.to_string())
        })?;
        if let Principal::Root(account) = named {
            return Ok(Caller::root(account));
        }
        let (kind, own, name) = match &named {
            Principal::User { account, name } => (Kind::User, account, name),
            Principal::Role { account, name } => (Kind::Role, account, name),
            Principal::Session { account, role, .. } => (Kind::Role, account, role),
            Principal::Root(account) | Principal::Service { account, name: _ } => {
                return Ok(Caller::root(account.clone()));
            }
        };
        let short = name.rsplit('/').next().unwrap_or(name);
        let missing = || {
            let what = kind.name();
            let message = format!("The {what} with name {name} cannot be found in the account {own}.");
            super::error::refused(super::IdentityErrorKind::NoSuchEntity, message)
        };
        let service = self.get()?.ok_or_else(missing)?;
        let tx = service.store.read()?;
        let row = directory::find_entity(&*tx, kind, own, short)?.ok_or_else(missing)?;
        let (account, full) = (own.clone(), row.full_name());
        // A plain name and a session's ARN have no path; what has one must have the right one.
        let by_arn = text.contains(':') && !matches!(named, Principal::Session { .. });
        if full != *name && (by_arn || name.contains('/')) {
            return Err(missing());
        }
        let facts = || SessionFacts {
            issued: self.clock().now(),
            expires: None,
            policy: None,
            policy_arns: Vec::new(),
            tags: Vec::new(),
            transitive: Vec::new(),
            source_identity: None,
        };
        let (principal, session) = match named {
            Principal::Session { session, .. } => {
                (Principal::Session { account: account.clone(), role: full, session }, Some(facts()))
            }
            Principal::Role { .. } => {
                let session = "kmsfs".to_owned();
                (Principal::Session { account: account.clone(), role: full, session }, Some(facts()))
            }
            _ => (Principal::User { account: account.clone(), name: full }, None),
        };
        let identified = Some(Arc::new(Identified { id: row.id, session }));
        Ok(Caller { principal, identified, ..Caller::root(account) })
    }
}
