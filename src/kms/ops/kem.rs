//! ML-KEM (FIPS 203): a shared secret for whoever has the public key, and its recovery.

use std::sync::Arc;

use super::crypto::{material_of, used_for};
use super::{only, refused, usable};
use crate::crypto::CryptoError;
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::operation::{InTable, Operation};
use crate::kms::region::Fault;
use crate::kms::spec::{KeyUsage, ML_KEM};
use crate::kms::wire::{DecapsulateRequest, DecapsulateResponse, EncapsulateRequest, EncapsulateResponse};
use crate::kms::{KmsError, KmsErrorKind, check};

const MAX_CIPHERTEXT: usize = 6144;

fn check_algorithm(name: &str) -> std::result::Result<(), KmsError> {
    check::required("encapsulationAlgorithm", name, 64)?;
    check::one_of("encapsulationAlgorithm", Some(name), &[ML_KEM])
}

/// What both have in common.
macro_rules! common {
    () => {
        fn subjects(&self) -> Vec<Subject<'_>> {
            usable(&self.key_id, Self::ROW.action)
        }

        fn parameters(&self) -> Parameters<'_> {
            Parameters {
                key_id: Some(&self.key_id),
                encapsulation_algorithm: Some(&self.encapsulation_algorithm),
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
    };
}

impl Operation for EncapsulateRequest {
    type Response = EncapsulateResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::grant_tokens(&self.grant_tokens)?;
        check_algorithm(&self.encapsulation_algorithm)
    }

    common!();

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        used_for(key, KeyUsage::EncapsulateDecapsulate, "Encapsulate")?;
        let public = material_of(call, key)?.pair()?.public_key()?;
        let (shared_secret_ciphertext_blob, shared_secret) = public.encapsulate()?;
        Ok(EncapsulateResponse {
            key_id: key.arn_text.clone(),
            shared_secret,
            shared_secret_ciphertext_blob,
            encapsulation_algorithm: ML_KEM,
        })
    }
}

impl Operation for DecapsulateRequest {
    type Response = DecapsulateResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        let blob = &self.shared_secret_ciphertext_blob;
        check::length("sharedSecretCiphertextBlob", blob.len(), 1, MAX_CIPHERTEXT)?;
        check::grant_tokens(&self.grant_tokens)?;
        check_algorithm(&self.encapsulation_algorithm)
    }

    common!();

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        used_for(key, KeyUsage::EncapsulateDecapsulate, "Decapsulate")?;
        let opened = material_of(call, key)?.pair()?.decapsulate(&self.shared_secret_ciphertext_blob);
        let shared_secret = opened.map_err(|error| match error {
            CryptoError::BadLength { .. } => refused(
                KmsErrorKind::InvalidCiphertext,
                format!("the ciphertext has not the length of one under {}", key.row.spec.name()),
            ),
            other => Fault::from(other),
        })?;
        let key_id = key.arn_text.clone();
        Ok(DecapsulateResponse { key_id, shared_secret, encapsulation_algorithm: ML_KEM })
    }
}
