//! The use of keys. Nothing here changes the store; what is answered is in the log before.

use std::sync::Arc;

use serde_json::Value;

use super::pairs::unsuited;
use super::{SYMMETRIC_DEFAULT, invalid, limit, only, refused, unsupported, usable};
use crate::audit::Additional;
use crate::crypto::asymmetric::Oaep;
use crate::crypto::{CryptoError, SecretVec, fill_random};
use crate::kms::blob::{self, CiphertextBlob, MaterialId};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Name, Result, Subject, no_ciphertext};
use crate::kms::events::{Parameters, some};
use crate::kms::operation::{InTable, Operation};
use crate::kms::region::Fault;
use crate::kms::spec::{KeyUsage, Material};
use crate::kms::state::Needs;
use crate::kms::wire::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, GenerateDataKeyRequest,
    GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest, GenerateDataKeyWithoutPlaintextResponse,
    GenerateRandomRequest, GenerateRandomResponse, ReEncryptRequest, ReEncryptResponse,
};
use crate::kms::{EncryptionContext, KmsError, KmsErrorKind, check};

const MAX_PLAINTEXT: usize = 4096;

/// A key's current material.
pub fn material_of(call: &Call<'_, '_>, key: &Key) -> Result<Arc<Material>> {
    key.material(&call.region.root, &key.current()?)?.ok_or_else(no_ciphertext)
}

/// Refuses a key that is for something else.
pub fn used_for(key: &Key, usage: KeyUsage, operation: &str) -> Result<()> {
    if key.row.usage == usage {
        return Ok(());
    }
    let (arn, usage) = (&key.arn_text, key.row.usage.name());
    let message = format!("{arn} key usage is {usage} which is not valid for {operation}.");
    Err(refused(KmsErrorKind::InvalidKeyUsage, message))
}

/// Seals under a symmetric key's current material; the material's id too.
pub fn seal(
    call: &mut Call<'_, '_>,
    key: &Key,
    plaintext: &[u8],
    context: &EncryptionContext,
) -> Result<(Vec<u8>, MaterialId)> {
    let id = key.current()?;
    let sealed = blob::seal(&key.arn, &id, material_of(call, key)?.symmetric()?, plaintext, context)?;
    call.notes.additional = material(&id);
    Ok((sealed, id))
}

/// How a request encrypts.
#[derive(Clone, Copy)]
enum Cipher {
    Symmetric,
    Oaep(Oaep),
}

impl Cipher {
    /// The algorithm of a request whose name was checked.
    fn of(name: Option<&str>) -> std::result::Result<Self, KmsError> {
        match name {
            None | Some(SYMMETRIC_DEFAULT) => Ok(Self::Symmetric),
            Some(name) => match Oaep::from_name(name) {
                Some(oaep) => Ok(Self::Oaep(oaep)),
                None => Err(unsupported(&format!("this key service has no encryption algorithm {name}"))),
            },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Symmetric => SYMMETRIC_DEFAULT,
            Self::Oaep(oaep) => oaep.name(),
        }
    }

    fn takes_long(name: Option<&str>) -> bool {
        matches!(Self::of(name), Ok(Self::Oaep(_)))
    }

    /// The bounds of the fields that go with an algorithm: RSA has no context, and names no key in its ciphertexts.
    fn check(
        name: Option<&str>,
        context: &EncryptionContext,
        ciphertext_of: Option<Option<&str>>,
    ) -> std::result::Result<(), KmsError> {
        let Self::Oaep(oaep) = Self::of(name)? else { return Ok(()) };
        if !context.is_empty() {
            let message = format!("{} takes no encryption context; leave it out.", oaep.name());
            return Err(invalid(&message));
        }
        if ciphertext_of == Some(None) {
            return Err(invalid("KeyId is required for ciphertexts of asymmetric keys."));
        }
        Ok(())
    }

    /// Refuses keys that are for something else, or have other algorithms.
    fn suits(self, key: &Key, operation: &str) -> Result<()> {
        used_for(key, KeyUsage::EncryptDecrypt, operation)?;
        if key.row.encryption_algorithms().contains(&self.name()) {
            Ok(())
        } else {
            Err(unsuited(key, self.name()))
        }
    }

    /// The ciphertext, and the material's id under a symmetric key.
    fn seal(
        self,
        call: &mut Call<'_, '_>,
        key: &Key,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<(Vec<u8>, Option<MaterialId>)> {
        let oaep = match self {
            Self::Symmetric => return seal(call, key, plaintext, context).map(|(c, id)| (c, Some(id))),
            Self::Oaep(oaep) => oaep,
        };
        let public = material_of(call, key)?.pair()?.public_key()?;
        let sealed = public.encrypt(oaep, plaintext).map_err(|error| match error {
            CryptoError::BadLength { .. } => {
                let most = public.encrypts_at_most(oaep).unwrap_or(0);
                let (name, spec) = (oaep.name(), key.row.spec.name());
                let message = format!("{name} under a key of {spec} takes at most {most} bytes.");
                Fault::Refused(invalid(&message))
            }
            other => other.into(),
        })?;
        Ok((sealed, None))
    }

    /// The plaintext, and the material's id under a symmetric key.
    fn open(
        self,
        call: &Call<'_, '_>,
        key: &Key,
        bytes: &[u8],
        context: &EncryptionContext,
    ) -> Result<(SecretVec, Option<MaterialId>)> {
        let (opened, id) = match self {
            Self::Symmetric => {
                let blob = CiphertextBlob::parse(bytes).ok_or_else(no_ciphertext)?;
                let material = key.material(&call.region.root, &blob.material)?.ok_or_else(no_ciphertext)?;
                (blob.open(&key.arn, material.symmetric()?, context), Some(blob.material))
            }
            Self::Oaep(oaep) => (material_of(call, key)?.pair()?.decrypt(oaep, bytes), None),
        };
        match opened {
            Ok(plaintext) => Ok((plaintext, id)),
            Err(CryptoError::NotAuthentic) => Err(no_ciphertext()),
            Err(other) => Err(other.into()),
        }
    }
}

/// The key of a ciphertext: RSA's does not name it.
fn ciphertext_of<'a>(bytes: &'a [u8], key_id: Option<&'a str>, algorithm: Option<&str>) -> Name<'a> {
    match (Cipher::of(algorithm), key_id) {
        (Ok(Cipher::Oaep(_)), Some(key_id)) => Name::KeyOrAlias(key_id),
        _ => Name::Ciphertext(bytes, key_id),
    }
}

fn material(id: &MaterialId) -> Option<Additional> {
    Some(Additional { key_material_id: Some(hex::encode(id)), ..Additional::default() })
}

pub fn no_enclaves(recipient: Option<&Value>) -> std::result::Result<(), KmsError> {
    match recipient {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(unsupported("this key service knows no enclaves; leave Recipient out")),
    }
}

fn check_ciphertext(blob: &[u8]) -> std::result::Result<(), KmsError> {
    check::length("ciphertextBlob", blob.len(), 1, blob::MAX_LEN)
}

impl Operation for EncryptRequest {
    type Response = EncryptResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::length("plaintext", self.plaintext.len(), 1, MAX_PLAINTEXT)?;
        check::context("encryptionContext", &self.encryption_context)?;
        check::grant_tokens(&self.grant_tokens)?;
        check::algorithm("encryptionAlgorithm", self.encryption_algorithm.as_deref())?;
        Cipher::check(self.encryption_algorithm.as_deref(), &self.encryption_context, None)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        usable(&self.key_id, Self::ROW.action)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            encryption_context: some(&self.encryption_context),
            encryption_algorithm: Some(self.encryption_algorithm.as_deref().unwrap_or(SYMMETRIC_DEFAULT)),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn grant_tokens(&self) -> &[String] {
        &self.grant_tokens
    }

    fn takes_long(&self) -> bool {
        Cipher::takes_long(self.encryption_algorithm.as_deref())
    }

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let cipher = Cipher::of(self.encryption_algorithm.as_deref())?;
        cipher.suits(key, "Encrypt")?;
        let (plaintext, context) = (self.plaintext.expose(), &self.encryption_context);
        let (ciphertext_blob, _) = cipher.seal(call, key, plaintext, context)?;
        let key_id = key.arn_text.clone();
        Ok(EncryptResponse { ciphertext_blob, key_id, encryption_algorithm: cipher.name() })
    }
}

impl Operation for DecryptRequest {
    type Response = DecryptResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check_ciphertext(&self.ciphertext_blob)?;
        check::key_id_option("keyId", self.key_id.as_deref())?;
        check::context("encryptionContext", &self.encryption_context)?;
        check::grant_tokens(&self.grant_tokens)?;
        let algorithm = self.encryption_algorithm.as_deref();
        check::algorithm("encryptionAlgorithm", algorithm)?;
        Cipher::check(algorithm, &self.encryption_context, Some(self.key_id.as_deref()))?;
        no_enclaves(self.recipient.as_ref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let algorithm = self.encryption_algorithm.as_deref();
        let name = ciphertext_of(&self.ciphertext_blob, self.key_id.as_deref(), algorithm);
        vec![Subject { name, action: Self::ROW.action, needs: Needs::Usable }]
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: self.key_id.as_deref(),
            encryption_context: some(&self.encryption_context),
            encryption_algorithm: Some(self.encryption_algorithm.as_deref().unwrap_or(SYMMETRIC_DEFAULT)),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn grant_tokens(&self) -> &[String] {
        &self.grant_tokens
    }

    fn takes_long(&self) -> bool {
        Cipher::takes_long(self.encryption_algorithm.as_deref())
    }

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let cipher = Cipher::of(self.encryption_algorithm.as_deref())?;
        cipher.suits(key, "Decrypt")?;
        let (plaintext, id) = cipher.open(call, key, &self.ciphertext_blob, &self.encryption_context)?;
        call.notes.additional = id.as_ref().and_then(material);
        Ok(DecryptResponse {
            key_id: key.arn_text.clone(),
            plaintext,
            encryption_algorithm: cipher.name(),
            key_material_id: id.map(hex::encode),
        })
    }
}

impl ReEncryptRequest {
    fn algorithms(&self) -> (Option<&str>, Option<&str>) {
        (self.source_encryption_algorithm.as_deref(), self.destination_encryption_algorithm.as_deref())
    }
}

impl Operation for ReEncryptRequest {
    type Response = ReEncryptResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check_ciphertext(&self.ciphertext_blob)?;
        check::key_id_option("sourceKeyId", self.source_key_id.as_deref())?;
        check::key_id("destinationKeyId", &self.destination_key_id)?;
        check::context("sourceEncryptionContext", &self.source_encryption_context)?;
        check::context("destinationEncryptionContext", &self.destination_encryption_context)?;
        check::grant_tokens(&self.grant_tokens)?;
        let (from, to) = self.algorithms();
        check::algorithm("sourceEncryptionAlgorithm", from)?;
        check::algorithm("destinationEncryptionAlgorithm", to)?;
        Cipher::check(from, &self.source_encryption_context, Some(self.source_key_id.as_deref()))?;
        Cipher::check(to, &self.destination_encryption_context, None)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let source = ciphertext_of(&self.ciphertext_blob, self.source_key_id.as_deref(), self.algorithms().0);
        let destination = Name::KeyOrAlias(&self.destination_key_id);
        vec![
            Subject { name: source, action: "kms:ReEncryptFrom", needs: Needs::Usable },
            Subject { name: destination, action: "kms:ReEncryptTo", needs: Needs::Usable },
        ]
    }

    fn parameters(&self) -> Parameters<'_> {
        let or_default = |a: &'_ Option<String>| a.is_none().then_some(SYMMETRIC_DEFAULT);
        Parameters {
            source_key_id: self.source_key_id.as_deref(),
            destination_key_id: Some(&self.destination_key_id),
            source_encryption_context: some(&self.source_encryption_context),
            destination_encryption_context: some(&self.destination_encryption_context),
            source_encryption_algorithm: self
                .source_encryption_algorithm
                .as_deref()
                .or(or_default(&self.source_encryption_algorithm)),
            destination_encryption_algorithm: self
                .destination_encryption_algorithm
                .as_deref()
                .or(or_default(&self.destination_encryption_algorithm)),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn grant_tokens(&self) -> &[String] {
        &self.grant_tokens
    }

    fn takes_long(&self) -> bool {
        let (from, to) = self.algorithms();
        Cipher::takes_long(from) || Cipher::takes_long(to)
    }

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let [source, destination] = keys else {
            return Err(refused(KmsErrorKind::Internal, "the request names no two keys"));
        };
        let (from, to) = self.algorithms();
        let (from, to) = (Cipher::of(from)?, Cipher::of(to)?);
        from.suits(source, "ReEncrypt")?;
        to.suits(destination, "ReEncrypt")?;
        let (plaintext, opened) =
            from.open(call, source, &self.ciphertext_blob, &self.source_encryption_context)?;
        let (ciphertext_blob, sealed) =
            to.seal(call, destination, plaintext.expose(), &self.destination_encryption_context)?;
        let (opened, sealed) = (opened.map(hex::encode), sealed.map(hex::encode));
        call.notes.additional = Some(Additional {
            source_key_material_id: opened.clone(),
            destination_key_material_id: sealed.clone(),
            ..Additional::default()
        });
        Ok(ReEncryptResponse {
            ciphertext_blob,
            source_key_id: source.arn_text.clone(),
            key_id: destination.arn_text.clone(),
            source_encryption_algorithm: from.name(),
            destination_encryption_algorithm: to.name(),
            source_key_material_id: opened,
            destination_key_material_id: sealed,
        })
    }
}

/// The length of a data key; one of the two must be given.
fn data_key_len(spec: Option<&str>, bytes: Option<i64>) -> std::result::Result<usize, KmsError> {
    check::number("numberOfBytes", bytes, 1, 1024)?;
    check::one_of("keySpec", spec, &["AES_256", "AES_128"])?;
    match (spec, bytes) {
        (Some("AES_128"), None) => Ok(16),
        (Some(_), None) => Ok(32),
        (None, Some(bytes)) => usize::try_from(bytes).map_err(|e| invalid(&e.to_string())),
        _ => Err(invalid("Please specify either number of bytes or key spec.")),
    }
}

fn random_secret(len: usize) -> Result<SecretVec> {
    let mut bytes = vec![0; len];
    fill_random(&mut bytes).map_err(Fault::from)?;
    Ok(SecretVec::new(bytes))
}

/// A fresh data key and its ciphertext.
fn data_key(
    call: &mut Call<'_, '_>,
    key: &Key,
    len: usize,
    context: &EncryptionContext,
) -> Result<(SecretVec, Vec<u8>, MaterialId)> {
    let plaintext = random_secret(len)?;
    let (ciphertext, id) = seal(call, key, plaintext.expose(), context)?;
    Ok((plaintext, ciphertext, id))
}

/// What the two ways to get a data key have in common.
macro_rules! data_keys {
    ($($request:ident => $response:ty, |$this:ident| $also:expr, $answer:expr;)*) => {$(
        impl Operation for $request {
            type Response = $response;

            fn check(&self) -> std::result::Result<(), KmsError> {
                let $this = self;
                check::key_id("keyId", &self.key_id)?;
                data_key_len(self.key_spec.as_deref(), self.number_of_bytes)?;
                check::context("encryptionContext", &self.encryption_context)?;
                check::grant_tokens(&self.grant_tokens)?;
                $also
            }

            fn subjects(&self) -> Vec<Subject<'_>> {
                usable(&self.key_id, Self::ROW.action)
            }

            fn parameters(&self) -> Parameters<'_> {
                Parameters {
                    key_id: Some(&self.key_id),
                    encryption_context: some(&self.encryption_context),
                    key_spec: self.key_spec.as_deref(),
                    number_of_bytes: self.number_of_bytes,
                    dry_run: Some(true).filter(|_| self.dry_run),
                    ..Parameters::default()
                }
            }

            fn grant_tokens(&self) -> &[String] {
                &self.grant_tokens
            }

            fn dry_run(&self) -> bool {
                self.dry_run
            }

            fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
                let key = only(keys)?;
                Cipher::Symmetric.suits(key, Self::ROW.name)?;
                let len = data_key_len(self.key_spec.as_deref(), self.number_of_bytes)?;
                let made = data_key(call, key, len, &self.encryption_context)?;
                Ok($answer(key.arn_text.clone(), made))
            }
        }
    )*};
}

data_keys! {
    GenerateDataKeyRequest => GenerateDataKeyResponse, |this| no_enclaves(this.recipient.as_ref()),
        |key_id, (plaintext, ciphertext_blob, id)| GenerateDataKeyResponse {
            ciphertext_blob, plaintext, key_id, key_material_id: hex::encode::<MaterialId>(id),
        };
    GenerateDataKeyWithoutPlaintextRequest => GenerateDataKeyWithoutPlaintextResponse, |_this| Ok(()),
        |key_id, (_, ciphertext_blob, id): (SecretVec, _, _)| GenerateDataKeyWithoutPlaintextResponse {
            ciphertext_blob, key_id, key_material_id: hex::encode::<MaterialId>(id),
        };
}

impl Operation for GenerateRandomRequest {
    type Response = GenerateRandomResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        if self.number_of_bytes.is_none() {
            return Err(invalid("NumberOfBytes is required."));
        }
        check::number("numberOfBytes", self.number_of_bytes, 1, 1024)?;
        if self.custom_key_store_id.is_some() {
            return Err(unsupported("this key service has no custom key stores"));
        }
        no_enclaves(self.recipient.as_ref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        Vec::new()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { number_of_bytes: self.number_of_bytes, ..Parameters::default() }
    }

    fn act(&self, _: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let plaintext = random_secret(limit(self.number_of_bytes, 0))?;
        Ok(GenerateRandomResponse { plaintext })
    }
}
