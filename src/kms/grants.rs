//! Grants: a path of their own to the use of a key, beside its policy. A Deny in a policy beats them.
//!
//! A grant to a user, role, session or service serves by itself, in whichever account. One to an account serves its
//! root by itself, and everybody else there whose own policies allow the request, as a key policy that names the account.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::cache::Key;
use super::call::{Call, Result, Tx};
use super::events::Parameters;
use super::grant_rows::{self, ConstraintRow, GrantId, GrantRow};
use super::region::Fault;
use super::root::RootKey;
use super::spec::{KeySpec, KeyUsage};
use super::wire::GrantConstraints;
use super::{EncryptionContext, KmsError, KmsErrorKind, conditions, rows};
use crate::crypto::mac::{hmac_sha256, verify_hmac_sha256};
use crate::crypto::{CryptoError, Secret, kdf, labels, random};
use crate::iam::{KeyArn, KeyId, Layer, Principal, Refusal, ResourcePolicy};

/// Grants that a key may have.
pub const MOST_GRANTS: u64 = 50_000;

/// What a grant can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GrantOperation {
    Decrypt,
    Encrypt,
    GenerateDataKey,
    GenerateDataKeyWithoutPlaintext,
    ReEncryptFrom,
    ReEncryptTo,
    Sign,
    Verify,
    GetPublicKey,
    CreateGrant,
    RetireGrant,
    DescribeKey,
    GenerateDataKeyPair,
    GenerateDataKeyPairWithoutPlaintext,
    GenerateMac,
    VerifyMac,
    DeriveSharedSecret,
    Encapsulate,
    Decapsulate,
}

use GrantOperation::{
    CreateGrant, Decapsulate, Decrypt, DeriveSharedSecret, DescribeKey, Encapsulate, Encrypt,
    GenerateDataKey, GenerateDataKeyPair, GenerateDataKeyPairWithoutPlaintext,
    GenerateDataKeyWithoutPlaintext, GenerateMac, GetPublicKey, ReEncryptFrom, ReEncryptTo, RetireGrant,
    Sign, Verify, VerifyMac,
};

/// All of them, with AWS's names, in the order of AWS's model.
pub const GRANT_OPERATIONS: [(GrantOperation, &str); 19] = [
    (Decrypt, "Decrypt"),
    (Encrypt, "Encrypt"),
    (GenerateDataKey, "GenerateDataKey"),
    (GenerateDataKeyWithoutPlaintext, "GenerateDataKeyWithoutPlaintext"),
    (ReEncryptFrom, "ReEncryptFrom"),
    (ReEncryptTo, "ReEncryptTo"),
    (Sign, "Sign"),
    (Verify, "Verify"),
    (GetPublicKey, "GetPublicKey"),
    (CreateGrant, "CreateGrant"),
    (RetireGrant, "RetireGrant"),
    (DescribeKey, "DescribeKey"),
    (GenerateDataKeyPair, "GenerateDataKeyPair"),
    (GenerateDataKeyPairWithoutPlaintext, "GenerateDataKeyPairWithoutPlaintext"),
    (GenerateMac, "GenerateMac"),
    (VerifyMac, "VerifyMac"),
    (DeriveSharedSecret, "DeriveSharedSecret"),
    (Encapsulate, "Encapsulate"),
    (Decapsulate, "Decapsulate"),
];

impl GrantOperation {
    /// AWS's name.
    pub fn name(self) -> &'static str {
        // The list has them all, in the order of the enum.
        GRANT_OPERATIONS[self as usize].1
    }

    /// The operation of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        GRANT_OPERATIONS.iter().find(|(_, known)| *known == name).map(|(operation, _)| *operation)
    }

    /// That of an action in policies.
    fn of_action(action: &str) -> Option<Self> {
        Self::from_name(action.strip_prefix("kms:")?)
    }

    /// Do keys of this kind have it?
    pub fn suits(self, spec: KeySpec, usage: KeyUsage) -> bool {
        let symmetric = spec == KeySpec::Symmetric;
        match self {
            CreateGrant | RetireGrant | DescribeKey => true,
            GenerateDataKey
            | GenerateDataKeyWithoutPlaintext
            | GenerateDataKeyPair
            | GenerateDataKeyPairWithoutPlaintext => symmetric,
            Decrypt | Encrypt | ReEncryptFrom | ReEncryptTo => usage.name() == "ENCRYPT_DECRYPT",
            Sign | Verify => usage.name() == "SIGN_VERIFY",
            GetPublicKey => matches!(spec, KeySpec::Pair(_)),
            GenerateMac | VerifyMac => usage.name() == "GENERATE_VERIFY_MAC",
            DeriveSharedSecret => usage.name() == "KEY_AGREEMENT",
            Encapsulate | Decapsulate => usage.name() == "ENCAPSULATE_DECAPSULATE",
        }
    }

    /// Does its request have an encryption context?
    pub fn has_context(self) -> bool {
        matches!(
            self,
            Decrypt
                | Encrypt
                | GenerateDataKey
                | GenerateDataKeyWithoutPlaintext
                | GenerateDataKeyPair
                | GenerateDataKeyPairWithoutPlaintext
                | ReEncryptFrom
                | ReEncryptTo
        )
    }
}

impl TryFrom<String> for GrantOperation {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        Self::from_name(&name).ok_or(name)
    }
}

impl From<GrantOperation> for String {
    fn from(operation: GrantOperation) -> Self {
        operation.name().to_owned()
    }
}

/// An encryption context as grants compare it: the keys without case, the values with it.
#[derive(Debug, PartialEq)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn of(context: &EncryptionContext) -> Self {
        Self(context.iter().map(|(key, value)| (key.to_lowercase(), value.clone())).collect())
    }

    /// Has every pair of the other.
    fn include(&self, other: &Self) -> bool {
        other.0.iter().all(|pair| self.0.contains(pair))
    }

    fn same(&self, other: &Self) -> bool {
        // As many: a context may have two keys that differ in case alone.
        self.0.len() == other.0.len() && self.include(other) && other.include(self)
    }
}

/// Constraints, ready to be compared.
#[derive(Debug, Default)]
struct Constraints {
    subset: Option<Pairs>,
    equals: Option<Pairs>,
    /// There is a SourceArn.
    for_resource: bool,
}

impl Constraints {
    fn of(row: Option<&ConstraintRow>) -> Self {
        let Some(row) = row else { return Self::default() };
        Self {
            subset: row.subset.as_ref().map(Pairs::of),
            equals: row.equals.as_ref().map(Pairs::of),
            for_resource: row.source_arn.is_some(),
        }
    }

    fn admit(&self, pairs: &Pairs) -> bool {
        self.subset.as_ref().is_none_or(|subset| pairs.include(subset))
            && self.equals.as_ref().is_none_or(|equals| pairs.same(equals))
    }

    /// Whatever a grant under the child's constraints allows, one under these does.
    fn cover(&self, child: &Self) -> bool {
        let within = |subset: &Pairs| {
            child.subset.as_ref().is_some_and(|c| c.include(subset))
                || child.equals.as_ref().is_some_and(|c| c.include(subset))
        };
        self.subset.as_ref().is_none_or(within)
            && self.equals.as_ref().is_none_or(|equals| child.equals.as_ref().is_some_and(|c| c.same(equals)))
    }
}

/// A grant, ready to decide.
#[derive(Debug)]
pub struct Grant {
    id: GrantId,
    /// One bit for each operation.
    operations: u32,
    constraints: Constraints,
}

fn bit(operation: GrantOperation) -> u32 {
    1 << operation as u32
}

fn bits(operations: &[GrantOperation]) -> u32 {
    operations.iter().fold(0, |all, operation| all | bit(*operation))
}

impl Grant {
    fn of((id, row): &(GrantId, GrantRow)) -> Self {
        let constraints = Constraints::of(row.constraints.as_ref());
        Self { id: *id, operations: bits(&row.operations), constraints }
    }

    fn covers(&self, asked: &Asked) -> bool {
        // No request here is made by a service on behalf of a resource, so that none has this one's ARN.
        self.operations & bit(asked.operation) != 0
            && !self.constraints.for_resource
            && match &asked.what {
                What::Context(pairs) => self.constraints.admit(pairs),
                What::Child { operations, constraints } => {
                    operations & !self.operations == 0 && self.constraints.cover(constraints)
                }
                What::Nothing => true,
            }
    }
}

/// A request as grants see it.
struct Asked {
    operation: GrantOperation,
    what: What,
}

enum What {
    Context(Pairs),
    Child { operations: u32, constraints: Constraints },
    Nothing,
}

impl Asked {
    /// None: nothing that a grant could allow.
    fn of(action: &str, parameters: &Parameters<'_>) -> Option<Self> {
        let operation = GrantOperation::of_action(action)?;
        let pairs = |context: Option<&EncryptionContext>| {
            What::Context(context.map_or_else(|| Pairs(Vec::new()), Pairs::of))
        };
        let what = match operation {
            // Decided where the grant to be retired is known.
            RetireGrant => return None,
            ReEncryptFrom => pairs(parameters.source_encryption_context),
            ReEncryptTo => pairs(parameters.destination_encryption_context),
            CreateGrant => {
                let names = parameters.operations.unwrap_or_default();
                let operations: Option<Vec<_>> =
                    names.iter().map(|name| GrantOperation::from_name(name)).collect();
                let constraints = parameters.constraints.map(ConstraintRow::from);
                What::Child {
                    operations: bits(&operations?),
                    constraints: Constraints::of(constraints.as_ref()),
                }
            }
            _ if operation.has_context() => pairs(parameters.encryption_context),
            _ => What::Nothing,
        };
        Some(Self { operation, what })
    }
}

/// How a grant names its grantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By itself, or by its role.
    Name,
    /// By its account.
    Account,
}

/// As what the indexes may know a caller.
fn names(principal: &Principal, by: By) -> Vec<String> {
    match (by, principal) {
        (By::Name, Principal::Session { .. }) => vec![principal.arn(), principal.principal_arn()],
        (By::Name, _) => vec![principal.arn()],
        (By::Account, Principal::User { .. } | Principal::Role { .. } | Principal::Session { .. }) => {
            vec![Principal::root(principal.account().clone()).arn()]
        }
        (By::Account, Principal::Root(_) | Principal::Service { .. }) => Vec::new(),
    }
}

/// Who may retire a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirer {
    /// The grant itself says so.
    ByGrant,
    /// The account may, so that its own policies decide.
    ByAccount,
}

impl GrantRow {
    /// As what a principal may retire it; None: it may not. The key is of `owner`.
    pub fn retirer(&self, principal: &Principal, owner: &str) -> Option<Retirer> {
        let grantee = Some(&self.grantee).filter(|_| self.operations.contains(&RetireGrant));
        let parties: Vec<String> =
            self.retiring.iter().chain(grantee).map(super::grant_rows::Party::indexed).collect();
        let named = |by| names(principal, by).iter().any(|name| parties.contains(name));
        let account = principal.account().as_str();
        if named(By::Name) {
            Some(Retirer::ByGrant)
        } else if named(By::Account) || account == self.issuer || account == owner {
            Some(Retirer::ByAccount)
        } else {
            None
        }
    }
}

/// Longest list of pairs in a constraint, and their longest text.
const MOST_PAIRS: usize = 8;
const MOST_PAIR_CHARACTERS: usize = 384;

impl GrantConstraints {
    /// Checks the bounds of AWS's documentation and model.
    pub fn check(&self) -> std::result::Result<(), KmsError> {
        let bad = |message: String| Err(KmsError::new(KmsErrorKind::Validation, message));
        let maps = [
            ("EncryptionContextSubset", &self.encryption_context_subset),
            ("EncryptionContextEquals", &self.encryption_context_equals),
        ];
        for (name, pairs) in maps {
            let Some(pairs) = pairs else { continue };
            let length: usize = pairs.iter().map(|(k, v)| k.chars().count() + v.chars().count()).sum();
            if pairs.keys().any(String::is_empty) {
                return bad(format!("The grant constraint {name} has an empty key."));
            }
            if pairs.len() > MOST_PAIRS || length > MOST_PAIR_CHARACTERS {
                return bad(format!(
                    "The grant constraint {name} can have up to {MOST_PAIRS} pairs of up to {MOST_PAIR_CHARACTERS} \
                     characters together."
                ));
            }
        }
        let Some(arn) = &self.source_arn else { return Ok(()) };
        super::check::length("constraints.sourceArn", arn.len(), 20, 512)?;
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let good = match parts[..] {
            ["arn", partition, service, _, account, resource] => {
                let twelve = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
                partition.starts_with("aws") && !service.is_empty() && twelve && !resource.is_empty()
            }
            _ => false,
        };
        if good {
            Ok(())
        } else {
            bad(format!("The grant constraint SourceArn is not the ARN of a resource: {arn}"))
        }
    }
}

/// Version of tokens.
const TOKEN: u8 = 1;
/// Version, key 17, grant 32, random 16, tag 32.
const TOKEN_LEN: usize = 1 + 17 + 32 + 16 + 32;

fn token_key(root: &RootKey) -> std::result::Result<Secret<32>, CryptoError> {
    kdf::counter_mode(root.expose(), labels::KMS_GRANT_TOKEN, b"")
}

/// A fresh token of a grant: base64url of version 1, key 17, grant 32, random 16, HMAC-SHA-256 over these.
pub fn new_token(root: &RootKey, key: &KeyId, id: &GrantId) -> std::result::Result<String, CryptoError> {
    let mut bytes = vec![TOKEN];
    bytes.extend_from_slice(&grant_rows::joined(key, id));
    bytes.extend_from_slice(&random::<16>()?);
    let tag = hmac_sha256(token_key(root)?.expose(), &[&bytes]);
    bytes.extend_from_slice(&tag);
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The key and the grant of a token that this region made. The grant may be gone.
pub fn read_token(root: &RootKey, text: &str) -> std::result::Result<(KeyId, GrantId), KmsError> {
    let invalid = || KmsError::new(KmsErrorKind::InvalidGrantToken, "The grant token is not valid.");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
    if bytes.len() != TOKEN_LEN || bytes[0] != TOKEN {
        return Err(invalid());
    }
    let (body, tag) = bytes.split_at(TOKEN_LEN - 32);
    verify_hmac_sha256(token_key(root)?.expose(), &[body], tag).map_err(|_| invalid())?;
    grant_rows::parted(&body[1..50]).ok_or_else(invalid)
}

/// The id of a grant, as requests give it.
pub fn grant_id(text: &str) -> Result<GrantId> {
    let invalid = |()| {
        let message = format!("The grant id {text:?} is not 64 hex digits.");
        Fault::Refused(KmsError::new(KmsErrorKind::InvalidGrantId, message))
    };
    text.parse().map_err(invalid)
}

/// A grant that is not there.
pub fn no_grant(id: &GrantId) -> Fault {
    Fault::Refused(KmsError::new(KmsErrorKind::NotFound, format!("Grant ID {id} not found")))
}

impl Call<'_, '_> {
    /// The ARN of a key that is there.
    pub fn arn_of(&self, id: &KeyId) -> Result<KeyArn> {
        let damaged = || KmsError::new(KmsErrorKind::Internal, format!("the row of key {id} is damaged"));
        let row = rows::key(self.reader()?, id)?.ok_or_else(damaged)?;
        let account = row.account.parse().map_err(|_| damaged())?;
        Ok(KeyArn { region: self.region.region.clone(), account, key: *id })
    }

    /// The id of a grant of the key that allows the caller this request, as far as grants can.
    pub fn granted(&self, key: &Key, action: &str, by: By) -> Result<Option<GrantId>> {
        let Some(asked) = Asked::of(action, self.parameters) else { return Ok(None) };
        for name in names(&self.caller.principal, by) {
            if let Some(grant) = self.grants_to(key, &name)?.iter().find(|grant| grant.covers(&asked)) {
                return Ok(Some(grant.id));
            }
        }
        Ok(None)
    }

    /// The grants of a key to one grantee, read once.
    fn grants_to(&self, key: &Key, grantee: &str) -> Result<Arc<[Grant]>> {
        if let Some(grants) = key.grants.get(grantee) {
            return Ok(grants);
        }
        let read = |tx| grant_rows::of_grantee(tx, &key.arn.key, grantee, None, usize::MAX);
        let rows = match &self.tx {
            Tx::Memory => read(&*self.region.read_at(self.generation)?)?,
            Tx::Read(_) | Tx::Write(_) => read(self.reader()?)?,
        };
        let grants: Arc<[Grant]> = rows.iter().map(Grant::of).collect();
        key.grants.put(grantee, &grants);
        Ok(grants)
    }

    /// May the caller retire this grant? The grant says who may by itself, and which accounts may let their own.
    /// No policy suffices alone, but a Deny holds.
    pub fn may_retire(&self, key: &Key, id: &GrantId) -> Result<()> {
        const ACTION: &str = "kms:RetireGrant";
        let denied = |missing| self.denial(&Refusal::Missing(missing), ACTION, &key.arn_text);
        let own = key.arn.account == *self.account();
        let Some(row) = grant_rows::grant(self.reader()?, &key.arn.key, id)? else {
            // Another account learns nothing by trying.
            return Err(if own { no_grant(id) } else { denied(Layer::Resource).into() });
        };
        let mut context = self.key_context(ACTION, &key.arn, key.row.kind(), &key.policy, None, Some(key))?;
        if let Some(constraints) = &row.constraints {
            conditions::say_constraints(&constraints.into(), &mut context);
        }
        let by = row.retirer(&self.caller.principal, key.arn.account.as_str());
        let policy = Some(ResourcePolicy { owner: &key.arn.account, policy: &key.policy });
        let ask = |policy, grant: &dyn Fn() -> Option<String>| {
            self.ask(ACTION, &key.arn_text, &context, policy, grant).map_err(|d| Fault::Refused(d.error))
        };
        // With a grant nothing but a Deny refuses.
        ask(policy, &|| Some(id.to_string()))?;
        match by {
            Some(Retirer::ByGrant) => Ok(()),
            Some(Retirer::ByAccount) => ask(None, &|| None),
            None => Err(denied(Layer::Resource).into()),
        }
    }
}

/// The grants of a key that were asked for, by grantee. They are of the key's generation.
#[derive(Default)]
pub struct GrantCache(parking_lot::RwLock<std::collections::HashMap<String, Arc<[Grant]>>>);

/// Grantees that are kept at most; then all are dropped. Nothing but memory hangs on it.
const MOST_GRANTEES: usize = 10_000;

impl GrantCache {
    fn get(&self, grantee: &str) -> Option<Arc<[Grant]>> {
        self.0.read().get(grantee).cloned()
    }

    fn put(&self, grantee: &str, grants: &Arc<[Grant]>) {
        let mut all = self.0.write();
        if all.len() >= MOST_GRANTEES {
            all.clear();
        }
        all.insert(grantee.to_owned(), grants.clone());
    }
}
