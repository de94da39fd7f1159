//! The table of operations: one row gives routing, the IAM action, the event's name, whether the operation
//! changes something, and how it sees the store.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cache::Key;
use super::call::{Call, Result, Subject};
use super::events::Parameters;
use super::region::Core;
use super::session::Session;
use super::wire::{
    CancelKeyDeletionRequest, CreateAliasRequest, CreateGrantRequest, CreateKeyRequest, DecryptRequest,
    DeleteAliasRequest, DeriveSharedSecretRequest, DescribeKeyRequest, DisableKeyRequest,
    DisableKeyRotationRequest, EnableKeyRequest, EnableKeyRotationRequest, EncryptRequest,
    GenerateDataKeyPairRequest, GenerateDataKeyPairWithoutPlaintextRequest, GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest, GenerateMacRequest, GenerateRandomRequest,
    GetKeyLastUsageRequest, GetKeyPolicyRequest, GetKeyRotationStatusRequest, GetPublicKeyRequest,
    ListAliasesRequest, ListGrantsRequest, ListKeyPoliciesRequest, ListKeyRotationsRequest, ListKeysRequest,
    ListResourceTagsRequest, ListRetirableGrantsRequest, PutKeyPolicyRequest, ReEncryptRequest,
    RetireGrantRequest, RevokeGrantRequest, RotateKeyOnDemandRequest, ScheduleKeyDeletionRequest,
    SignRequest, TagResourceRequest, UntagResourceRequest, UpdateAliasRequest, UpdateKeyDescriptionRequest,
    VerifyMacRequest, VerifyRequest,
};
use super::wire::{
    ConnectCustomKeyStoreRequest, CreateCustomKeyStoreRequest, DecapsulateRequest,
    DeleteCustomKeyStoreRequest, DeleteImportedKeyMaterialRequest, DescribeCustomKeyStoresRequest,
    DisconnectCustomKeyStoreRequest, EncapsulateRequest, GetParametersForImportRequest,
    ImportKeyMaterialRequest, ReplicateKeyRequest, UpdateCustomKeyStoreRequest, UpdatePrimaryRegionRequest,
};
use super::{KmsError, KmsErrorKind};
use crate::audit::{KMS_SOURCE, TRAIL_SOURCE};
use crate::crypto::SecretVec;
use std::io;
use std::sync::Arc;

use zeroize::Zeroizing;

/// How an operation sees the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Decided out of memory: nothing of the store changes but the log.
    Crypto,
    /// Decided in one view of the store.
    Read,
    /// Decided, done and recorded in one transaction.
    Change,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// In AWS's API and in the log.
    pub name: &'static str,
    /// In policies, where the operation has one action.
    pub action: &'static str,
    /// How it sees the store.
    pub class: Class,
    /// readOnly of its events.
    pub read_only: bool,
}

impl Row {
    /// eventSource of its events.
    pub fn source(&self) -> &'static str {
        if self.action.starts_with("cloudtrail:") { TRAIL_SOURCE } else { KMS_SOURCE }
    }
}

/// A request that has a row.
pub trait InTable {
    /// The row.
    const ROW: &'static Row;
}

/// An operation of the key service, as its request. [`Session::call`] takes it.
pub trait Operation: InTable + DeserializeOwned + Send + Sync {
    /// Its answer; `()` where AWS answers nothing.
    type Response: Serialize;

    /// Checks the bounds of AWS's model.
    fn check(&self) -> std::result::Result<(), KmsError>;

    /// The keys and aliases it concerns.
    fn subjects(&self) -> Vec<Subject<'_>>;

    /// What its event tells of it.
    fn parameters(&self) -> Parameters<'_>;

    /// Its grant tokens.
    fn grant_tokens(&self) -> &[String] {
        &[]
    }

    /// It works with the key of a pair, which takes milliseconds.
    fn takes_long(&self) -> bool {
        false
    }

    /// Decide and do nothing.
    fn dry_run(&self) -> bool {
        false
    }

    /// What takes long and needs no view of the store: new key material. It is done once, outside of every view, and
    /// for nobody who is not allowed the request.
    fn preparation(&self) -> Option<Preparation<'_>> {
        None
    }

    /// Completes the answer of a change once it is done, and told to other regions.
    fn finish(&self, _region: &Core, _answer: &mut Self::Response) {}

    /// Does it. The keys are those of the subjects, authorised and in a state that allows it.
    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response>;
}

/// Makes what an operation needs; see [`Operation::preparation`].
pub type Preparation<'a> = Box<dyn FnOnce() -> std::result::Result<SecretVec, KmsError> + 'a>;

/// Runs an operation on JSON.
pub type Json = fn(&Session, &[u8]) -> std::result::Result<Vec<u8>, KmsError>;

macro_rules! operations {
    ($($request:ident, $name:literal, $class:ident, read_only $read_only:literal;)*) => {
        $(impl InTable for $request {
            const ROW: &'static Row = &Row {
                name: $name,
                action: concat!("kms:", $name),
                class: Class::$class,
                read_only: $read_only,
            };
        })*

        /// Every operation, with the function that runs it on JSON.
        pub static OPERATIONS: &[(&Row, Json)] = &[$((<$request as InTable>::ROW, json::<$request>)),*];
    };
}

operations! {
    CreateKeyRequest, "CreateKey", Change, read_only false;
    DescribeKeyRequest, "DescribeKey", Read, read_only true;
    ListKeysRequest, "ListKeys", Read, read_only true;
    CreateAliasRequest, "CreateAlias", Change, read_only false;
    UpdateAliasRequest, "UpdateAlias", Change, read_only false;
    DeleteAliasRequest, "DeleteAlias", Change, read_only false;
    ListAliasesRequest, "ListAliases", Read, read_only true;
    EnableKeyRequest, "EnableKey", Change, read_only false;
    DisableKeyRequest, "DisableKey", Change, read_only false;
    EncryptRequest, "Encrypt", Crypto, read_only true;
    DecryptRequest, "Decrypt", Crypto, read_only true;
    ReEncryptRequest, "ReEncrypt", Crypto, read_only true;
    GenerateDataKeyRequest, "GenerateDataKey", Crypto, read_only true;
    GenerateDataKeyWithoutPlaintextRequest, "GenerateDataKeyWithoutPlaintext", Crypto, read_only true;
    GenerateDataKeyPairRequest, "GenerateDataKeyPair", Crypto, read_only true;
    GenerateDataKeyPairWithoutPlaintextRequest, "GenerateDataKeyPairWithoutPlaintext", Crypto, read_only true;
    GetPublicKeyRequest, "GetPublicKey", Crypto, read_only true;
    SignRequest, "Sign", Crypto, read_only true;
    VerifyRequest, "Verify", Crypto, read_only true;
    GenerateMacRequest, "GenerateMac", Crypto, read_only true;
    VerifyMacRequest, "VerifyMac", Crypto, read_only true;
    DeriveSharedSecretRequest, "DeriveSharedSecret", Crypto, read_only true;
    EnableKeyRotationRequest, "EnableKeyRotation", Change, read_only false;
    DisableKeyRotationRequest, "DisableKeyRotation", Change, read_only false;
    GetKeyRotationStatusRequest, "GetKeyRotationStatus", Read, read_only true;
    RotateKeyOnDemandRequest, "RotateKeyOnDemand", Change, read_only false;
    ListKeyRotationsRequest, "ListKeyRotations", Read, read_only true;
    TagResourceRequest, "TagResource", Change, read_only false;
    UntagResourceRequest, "UntagResource", Change, read_only false;
    ListResourceTagsRequest, "ListResourceTags", Read, read_only true;
    UpdateKeyDescriptionRequest, "UpdateKeyDescription", Change, read_only false;
    GetKeyLastUsageRequest, "GetKeyLastUsage", Read, read_only true;
    GenerateRandomRequest, "GenerateRandom", Crypto, read_only true;
    ScheduleKeyDeletionRequest, "ScheduleKeyDeletion", Change, read_only false;
    CancelKeyDeletionRequest, "CancelKeyDeletion", Change, read_only false;
    GetKeyPolicyRequest, "GetKeyPolicy", Read, read_only true;
    PutKeyPolicyRequest, "PutKeyPolicy", Change, read_only false;
    ListKeyPoliciesRequest, "ListKeyPolicies", Read, read_only true;
    CreateGrantRequest, "CreateGrant", Change, read_only false;
    ListGrantsRequest, "ListGrants", Read, read_only true;
    ListRetirableGrantsRequest, "ListRetirableGrants", Read, read_only true;
    RetireGrantRequest, "RetireGrant", Change, read_only false;
    RevokeGrantRequest, "RevokeGrant", Change, read_only false;
    GetParametersForImportRequest, "GetParametersForImport", Read, read_only true;
    ImportKeyMaterialRequest, "ImportKeyMaterial", Change, read_only false;
    DeleteImportedKeyMaterialRequest, "DeleteImportedKeyMaterial", Change, read_only false;
    ReplicateKeyRequest, "ReplicateKey", Change, read_only false;
    UpdatePrimaryRegionRequest, "UpdatePrimaryRegion", Change, read_only false;
    EncapsulateRequest, "Encapsulate", Crypto, read_only true;
    DecapsulateRequest, "Decapsulate", Crypto, read_only true;
    CreateCustomKeyStoreRequest, "CreateCustomKeyStore", Read, read_only false;
    ConnectCustomKeyStoreRequest, "ConnectCustomKeyStore", Read, read_only false;
    DescribeCustomKeyStoresRequest, "DescribeCustomKeyStores", Read, read_only true;
    DisconnectCustomKeyStoreRequest, "DisconnectCustomKeyStore", Read, read_only false;
    UpdateCustomKeyStoreRequest, "UpdateCustomKeyStore", Read, read_only false;
    DeleteCustomKeyStoreRequest, "DeleteCustomKeyStore", Read, read_only false;
}

/// Room for the usual answer. More would be wiped for nothing.
const ANSWER: usize = 1024;

/// Grows without leaving a copy where a smaller buffer was: an answer may hold a plaintext.
struct Wiping(Zeroizing<Vec<u8>>);

impl io::Write for Wiping {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut longer = Zeroizing::new(Vec::with_capacity(needed.max(2 * self.0.capacity())));
            longer.extend_from_slice(&self.0);
            // The one before is wiped here.
            self.0 = longer;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a request, calls, and writes the answer.
pub fn json<O: Operation>(session: &Session, body: &[u8]) -> std::result::Result<Vec<u8>, KmsError> {
    // A structure could be read from a list too, its members in their order here.
    let listed = body.trim_ascii_start().first() == Some(&b'[');
    let request: O = match serde_json::from_slice(if body.is_empty() { b"{}" } else { body }) {
        Ok(request) if !listed => request,
        refused => {
            // The library's own text may show what stood there.
            let (line, column) = refused.err().map_or((1, 1), |error| (error.line(), error.column()));
            let name = O::ROW.name;
            let message = format!("this is no request of {name} in JSON: line {line}, column {column}");
            return Err(session.refuse_unread(O::ROW, KmsError::new(KmsErrorKind::Serialization, message)));
        }
    };
    let mut answer = Wiping(Zeroizing::new(Vec::with_capacity(ANSWER)));
    serde_json::to_writer(&mut answer, &session.call(request)?)
        .map_err(|e| KmsError::new(KmsErrorKind::Internal, e.to_string()))?;
    // AWS answers nothing where there is nothing to say.
    Ok(if *answer.0 == b"null" { Vec::new() } else { std::mem::take(&mut *answer.0) })
}
