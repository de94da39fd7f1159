//! A session: one caller in one region.

use std::sync::Arc;

use super::KmsError;
use super::operation::Operation;
use super::region::RegionService;
use super::service::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyMetadata, KeyService, Ledger, ReEncrypted,
};
use crate::audit::{ChainHead, Filter, Found};
use crate::iam::{AccountId, Principal, Region};

/// Who calls, and what the log tells of the call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who is authorised.
    pub principal: Principal,
    /// sourceIPAddress of the events.
    pub source_ip: String,
    /// userAgent of the events.
    pub user_agent: String,
}

impl Caller {
    /// An account's root on this machine.
    pub fn root(account: AccountId) -> Self {
        Self {
            principal: Principal::root(account),
            source_ip: "127.0.0.1".to_owned(),
            user_agent: concat!("kmsfs/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The key service as one caller sees it in one region. Cheap to clone; usable from several threads.
#[derive(Clone)]
pub struct Session {
    region: Arc<RegionService>,
    caller: Arc<Caller>,
}

#[allow(unused_variables)]
impl Session {
    pub(super) fn new(region: Arc<RegionService>, caller: Caller) -> Self {
        Self { region, caller: Arc::new(caller) }
    }

    /// Its caller.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Its region.
    pub fn region(&self) -> &Region {
        unimplemented!()
    }

    /// One operation, decided, done and recorded.
    pub fn call<O: Operation>(&self, request: O) -> Result<O::Response, KmsError> {
        unimplemented!()
    }

    /// One operation by its name, in AWS's JSON; an operation without an answer gives no bytes. The answer may
    /// hold a plaintext: zeroize it.
    pub fn call_json(&self, operation: &str, body: &[u8]) -> Result<Vec<u8>, KmsError> {
        unimplemented!()
    }

    /// The ARN of the key that the service manages under alias/`name` (such as aws/kmsfs); made if absent.
    /// Its policy is fixed: the service uses it for the account ([`KeyService`]'s operations), the account may
    /// look at it and nothing else.
    pub fn ensure_managed_key(&self, name: &str) -> Result<String, KmsError> {
        unimplemented!()
    }

    /// Events of this account, newest first, those of other processes too.
    pub fn lookup_events(&self, filter: &Filter) -> Result<Vec<Found>, KmsError> {
        unimplemented!()
    }

    /// Walks the whole log; it must hold the signed head, and the pinned one. Answers its end, which may be
    /// pinned elsewhere ([`ChainHead`] has a text form).
    pub fn verify_log(&self, pinned: Option<ChainHead>) -> Result<ChainHead, crate::audit::AuditError> {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl KeyService for Session {
    fn generate_data_key(&self, key_id: &str, context: &EncryptionContext) -> Result<DataKey, KmsError> {
        unimplemented!()
    }

    fn encrypt(
        &self,
        key_id: &str,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Encrypted, KmsError> {
        unimplemented!()
    }

    fn decrypt(
        &self,
        key_id: Option<&str>,
        ciphertext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, KmsError> {
        unimplemented!()
    }

    fn re_encrypt(
        &self,
        ciphertext: &[u8],
        source_context: &EncryptionContext,
        destination_key_id: &str,
        destination_context: &EncryptionContext,
    ) -> Result<ReEncrypted, KmsError> {
        unimplemented!()
    }

    fn describe_key(&self, key_id: &str) -> Result<KeyMetadata, KmsError> {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl Ledger for Session {
    fn generation(&self) -> Result<Option<u64>, KmsError> {
        unimplemented!()
    }

    fn record(&self, event: FileEvent, sync: bool) -> Result<(), KmsError> {
        unimplemented!()
    }
}
