//! The use of keys. Nothing here changes the store; what is answered is in the log before.

use std::sync::Arc;

use serde_json::Value;

use super::{SYMMETRIC_DEFAULT, invalid, limit, only, refused, unsupported, usable};
use crate::audit::Additional;
use crate::crypto::{CryptoError, SecretVec, fill_random};
use crate::kms::blob::{self, CiphertextBlob, MaterialId};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Name, Result, Subject, no_ciphertext};
use crate::kms::events::{Parameters, some};
use crate::kms::operation::{InTable, Operation};
use crate::kms::region::Fault;
use crate::kms::state::Needs;
use crate::kms::wire::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, GenerateDataKeyRequest,
    GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest, GenerateDataKeyWithoutPlaintextResponse,
    GenerateRandomRequest, GenerateRandomResponse, ReEncryptRequest, ReEncryptResponse,
};
use crate::kms::{EncryptionContext, KmsError, KmsErrorKind, check};

const MAX_PLAINTEXT: usize = 4096;

/// Seals under a key's current material; the material's id too.
fn seal(
    call: &Call<'_, '_>,
    key: &Key,
    plaintext: &[u8],
    context: &EncryptionContext,
) -> Result<(Vec<u8>, MaterialId)> {
    let id = key.current()?;
    let material = key.material(&call.region.root, &id)?.ok_or_else(no_ciphertext)?;
    Ok((blob::seal(&key.arn, &id, &material, plaintext, context)?, id))
}

/// Opens a blob under the material that it names.
fn open(
    call: &Call<'_, '_>,
    key: &Key,
    bytes: &[u8],
    context: &EncryptionContext,
) -> Result<(SecretVec, MaterialId)> {
    let blob = CiphertextBlob::parse(bytes).ok_or_else(no_ciphertext)?;
    let material = key.material(&call.region.root, &blob.material)?.ok_or_else(no_ciphertext)?;
    match blob.open(&key.arn, &material, context) {
        Ok(plaintext) => Ok((plaintext, blob.material)),
        Err(CryptoError::NotAuthentic) => Err(no_ciphertext()),
        Err(other) => Err(other.into()),
    }
}

/// An algorithm that symmetric keys do not have.
fn symmetric(key: &Key, algorithm: Option<&str>) -> Result<()> {
    match algorithm {
        None | Some(SYMMETRIC_DEFAULT) => Ok(()),
        Some(other) => Err(refused(
            KmsErrorKind::InvalidKeyUsage,
            format!(
                "Algorithm {other} and key spec SYMMETRIC_DEFAULT of {} do not go together.",
                key.arn_text
            ),
        )),
    }
}

fn material(id: &MaterialId) -> Option<Additional> {
    Some(Additional { key_material_id: Some(hex::encode(id)), ..Additional::default() })
}

fn no_enclaves(recipient: Option<&Value>) -> std::result::Result<(), KmsError> {
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
        check::algorithm("encryptionAlgorithm", self.encryption_algorithm.as_deref())
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

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        symmetric(key, self.encryption_algorithm.as_deref())?;
        let (ciphertext_blob, id) = seal(call, key, self.plaintext.expose(), &self.encryption_context)?;
        call.notes.additional = material(&id);
        let key_id = key.arn_text.clone();
        Ok(EncryptResponse { ciphertext_blob, key_id, encryption_algorithm: SYMMETRIC_DEFAULT })
    }
}

impl Operation for DecryptRequest {
    type Response = DecryptResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check_ciphertext(&self.ciphertext_blob)?;
        check::key_id_option("keyId", self.key_id.as_deref())?;
        check::context("encryptionContext", &self.encryption_context)?;
        check::grant_tokens(&self.grant_tokens)?;
        check::algorithm("encryptionAlgorithm", self.encryption_algorithm.as_deref())?;
        no_enclaves(self.recipient.as_ref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let name = Name::Ciphertext(&self.ciphertext_blob, self.key_id.as_deref());
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

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        symmetric(key, self.encryption_algorithm.as_deref())?;
        let (plaintext, id) = open(call, key, &self.ciphertext_blob, &self.encryption_context)?;
        call.notes.additional = material(&id);
        Ok(DecryptResponse {
            key_id: key.arn_text.clone(),
            plaintext,
            encryption_algorithm: SYMMETRIC_DEFAULT,
            key_material_id: hex::encode(id),
        })
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
        check::algorithm("sourceEncryptionAlgorithm", self.source_encryption_algorithm.as_deref())?;
        check::algorithm("destinationEncryptionAlgorithm", self.destination_encryption_algorithm.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let source = Name::Ciphertext(&self.ciphertext_blob, self.source_key_id.as_deref());
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

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let [source, destination] = keys else {
            return Err(refused(KmsErrorKind::Internal, "the request names no two keys"));
        };
        symmetric(source, self.source_encryption_algorithm.as_deref())?;
        symmetric(destination, self.destination_encryption_algorithm.as_deref())?;
        let (plaintext, from) = open(call, source, &self.ciphertext_blob, &self.source_encryption_context)?;
        let (ciphertext_blob, to) =
            seal(call, destination, plaintext.expose(), &self.destination_encryption_context)?;
        let (from, to) = (hex::encode(from), hex::encode(to));
        call.notes.additional = Some(Additional {
            source_key_material_id: Some(from.clone()),
            destination_key_material_id: Some(to.clone()),
            ..Additional::default()
        });
        Ok(ReEncryptResponse {
            ciphertext_blob,
            source_key_id: source.arn_text.clone(),
            key_id: destination.arn_text.clone(),
            source_encryption_algorithm: SYMMETRIC_DEFAULT,
            destination_encryption_algorithm: SYMMETRIC_DEFAULT,
            source_key_material_id: from,
            destination_key_material_id: to,
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
    call.notes.additional = material(&id);
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
