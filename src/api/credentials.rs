//! Whose an access key is.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::crypto::SecretVec;
use crate::iam::AccountId;
use crate::kms::identity::{Credential, IdentityErrorKind};
use crate::kms::{Caller, Kms, KmsError, KmsErrorKind};

/// Why an access key may not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialError {
    /// There is no such key, it is switched off, or the session token is not its own.
    Unknown,
    /// The session is over.
    Expired,
    /// It could not be looked up.
    Failed(KmsError),
}

/// Where access keys are looked up.
pub trait Credentials: Send + Sync {
    /// The access key of this id; with the session token that came with the request.
    ///
    /// # Errors
    /// See [`CredentialError`].
    fn find(&self, access_key_id: &str, token: Option<&str>) -> Result<Credential, CredentialError>;
}

/// The access keys and sessions of a home.
pub struct HomeCredentials(pub Arc<Kms>);

impl Credentials for HomeCredentials {
    fn find(&self, access_key_id: &str, token: Option<&str>) -> Result<Credential, CredentialError> {
        self.0.credential(access_key_id, token).map_err(|error| match error.kind {
            KmsErrorKind::Identity(IdentityErrorKind::InvalidClientTokenId) => CredentialError::Unknown,
            KmsErrorKind::Identity(IdentityErrorKind::ExpiredToken) => CredentialError::Expired,
            _ => CredentialError::Failed(error),
        })
    }
}

/// A fixed access key that acts as an account's root: for test suites of other projects.
#[derive(Clone)]
pub struct DevCredential {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: SecretVec,
    /// Whose root it acts as.
    pub account: AccountId,
}

impl fmt::Debug for DevCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevCredential")
            .field("id", &self.id)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl FromStr for DevCredential {
    type Err = String;

    /// ID:SECRET=ACCOUNT.
    fn from_str(text: &str) -> Result<Self, String> {
        // The secret is not repeated in errors.
        let bad = || {
            "a development credential has the form ID:SECRET=ACCOUNT, such as test:test=000000000000"
                .to_owned()
        };
        let (id, rest) = text.split_once(':').ok_or_else(bad)?;
        let (secret, account) = rest.rsplit_once('=').ok_or_else(bad)?;
        let plain = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b',';
        if id.is_empty() || id.len() > 128 || !id.bytes().all(plain) || secret.is_empty() {
            return Err(bad());
        }
        let account = account.parse().map_err(|e: crate::iam::IamError| e.to_string())?;
        Ok(Self { id: id.to_owned(), secret: SecretVec::new(secret.as_bytes().to_vec()), account })
    }
}

/// Fixed access keys, and behind them others.
pub struct DevCredentials {
    fixed: HashMap<String, DevCredential>,
    others: Option<Box<dyn Credentials>>,
}

impl DevCredentials {
    /// These, and behind them `others`.
    pub fn new(fixed: impl IntoIterator<Item = DevCredential>, others: Option<Box<dyn Credentials>>) -> Self {
        Self { fixed: fixed.into_iter().map(|c| (c.id.clone(), c)).collect(), others }
    }
}

impl Credentials for DevCredentials {
    fn find(&self, access_key_id: &str, token: Option<&str>) -> Result<Credential, CredentialError> {
        match (self.fixed.get(access_key_id), token) {
            (Some(found), None) => {
                let root = Caller::root(found.account.clone());
                let caller = Caller { access_key_id: Some(found.id.clone()), ..root };
                Ok(Credential { secret: found.secret.clone(), caller })
            }
            (Some(_), Some(_)) => Err(CredentialError::Unknown),
            (None, _) => match &self.others {
                Some(others) => others.find(access_key_id, token),
                None => Err(CredentialError::Unknown),
            },
        }
    }
}
