//! A private key kept offline in the place of a key service: it opens what was wrapped for it, and does nothing else.

use crate::crypto::asymmetric::{Oaep, PrivateKey};
use crate::kms::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyMetadata, KeyService, KmsError,
    KmsErrorKind, Ledger, ReEncrypted,
};

/// An RSA private key. Nothing that it does is recorded.
pub struct BreakGlass {
    key: PrivateKey,
    name: String,
}

impl BreakGlass {
    /// `name` is that of the recipient whose key it is.
    pub fn new(key: PrivateKey, name: String) -> Self {
        Self { key, name }
    }
}

fn only_decrypts() -> KmsError {
    KmsError::new(
        KmsErrorKind::UnsupportedOperation,
        "A private key kept offline opens keys and nothing else.",
    )
}

impl KeyService for BreakGlass {
    fn generate_data_key(&self, _: &str, _: &EncryptionContext) -> Result<DataKey, KmsError> {
        Err(only_decrypts())
    }

    fn encrypt(&self, _: &str, _: &[u8], _: &EncryptionContext) -> Result<Encrypted, KmsError> {
        Err(only_decrypts())
    }

    /// RSAES-OAEP with SHA-256, which has no encryption context: that a key is the file's own is told by its commitment,
    /// and of the volume key by the MAC of the descriptor.
    fn decrypt(
        &self,
        _: Option<&str>,
        ciphertext: &[u8],
        _: &EncryptionContext,
    ) -> Result<Decrypted, KmsError> {
        let plaintext = self.key.decrypt(Oaep::Sha256, ciphertext).map_err(|_| {
            KmsError::new(
                KmsErrorKind::InvalidCiphertext,
                "The private key does not open a key that is named as its own.",
            )
        })?;
        Ok(Decrypted { key_arn: self.name.clone(), key_material_id: None, plaintext })
    }

    fn re_encrypt(
        &self,
        _: &[u8],
        _: &EncryptionContext,
        _: &str,
        _: &EncryptionContext,
    ) -> Result<ReEncrypted, KmsError> {
        Err(only_decrypts())
    }

    fn describe_key(&self, _: &str) -> Result<KeyMetadata, KmsError> {
        Err(only_decrypts())
    }
}

impl Ledger for BreakGlass {
    fn generation(&self) -> Result<Option<u64>, KmsError> {
        Ok(None)
    }

    fn record(&self, _: FileEvent, _: bool) -> Result<(), KmsError> {
        Ok(())
    }
}
