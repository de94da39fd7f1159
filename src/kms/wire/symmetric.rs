//! Requests and answers of symmetric encryption and data keys.

use serde::{Deserialize, Serialize};

use super::super::EncryptionContext;
use super::super::codec::{blob, blob_secret};
use crate::crypto::SecretVec;
use serde_json::Value;

request! {
    /// Encrypt.
    EncryptRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// 1 to 4096 bytes.
        #[serde(with = "blob_secret")] plaintext: SecretVec,
        /// Authenticated, and written to the log in the clear.
        encryption_context: EncryptionContext,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// SYMMETRIC_DEFAULT.
        encryption_algorithm: Option<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// Decrypt.
    DecryptRequest {
        /// What Encrypt or GenerateDataKey answered.
        #[serde(with = "blob")] ciphertext_blob: Vec<u8>,
        /// The pairs it was made with.
        encryption_context: EncryptionContext,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Only under this key: key id, key ARN, alias name or alias ARN.
        key_id: Option<String>,
        /// SYMMETRIC_DEFAULT.
        encryption_algorithm: Option<String>,
        /// Not here: an enclave's attestation.
        recipient: Option<Value>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// ReEncrypt.
    ReEncryptRequest {
        /// What Encrypt or GenerateDataKey answered.
        #[serde(with = "blob")] ciphertext_blob: Vec<u8>,
        /// The pairs it was made with.
        source_encryption_context: EncryptionContext,
        /// Only from under this key.
        source_key_id: Option<String>,
        /// Key id, key ARN, alias name or alias ARN.
        destination_key_id: String,
        /// The pairs from now on.
        destination_encryption_context: EncryptionContext,
        /// SYMMETRIC_DEFAULT.
        source_encryption_algorithm: Option<String>,
        /// SYMMETRIC_DEFAULT.
        destination_encryption_algorithm: Option<String>,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// GenerateDataKey.
    GenerateDataKeyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// Authenticated, and written to the log in the clear.
        encryption_context: EncryptionContext,
        /// 1 to 1024; excludes KeySpec.
        number_of_bytes: Option<i64>,
        /// AES_256 or AES_128; excludes NumberOfBytes.
        key_spec: Option<String>,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Not here: an enclave's attestation.
        recipient: Option<Value>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// GenerateDataKeyWithoutPlaintext.
    GenerateDataKeyWithoutPlaintextRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// Authenticated, and written to the log in the clear.
        encryption_context: EncryptionContext,
        /// AES_256 or AES_128; excludes NumberOfBytes.
        key_spec: Option<String>,
        /// 1 to 1024; excludes KeySpec.
        number_of_bytes: Option<i64>,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// GenerateRandom.
    GenerateRandomRequest {
        /// 1 to 1024.
        number_of_bytes: Option<i64>,
        /// Not here.
        custom_key_store_id: Option<String>,
        /// Not here: an enclave's attestation.
        recipient: Option<Value>,
    }
}
response! {
    /// Answer of Encrypt.
    #[derive(Debug)]
    EncryptResponse {
        /// For Decrypt.
        #[serde(with = "blob")] ciphertext_blob: Vec<u8>,
        /// ARN of the key.
        key_id: String,
        /// SYMMETRIC_DEFAULT.
        encryption_algorithm: &'static str,
    }
}
response! {
    /// Answer of Decrypt.
    DecryptResponse {
        /// ARN of the key.
        key_id: String,
        /// The plaintext.
        #[serde(with = "blob_secret")] plaintext: SecretVec,
        /// As asked for.
        encryption_algorithm: &'static str,
        /// 64 hex digits, of a symmetric key.
        #[serde(skip_serializing_if = "Option::is_none")] key_material_id: Option<String>,
    }
}
response! {
    /// Answer of ReEncrypt.
    #[derive(Debug)]
    ReEncryptResponse {
        /// For Decrypt.
        #[serde(with = "blob")] ciphertext_blob: Vec<u8>,
        /// ARN of the key it was under.
        source_key_id: String,
        /// ARN of the key it is under.
        key_id: String,
        /// As asked for.
        source_encryption_algorithm: &'static str,
        /// As asked for.
        destination_encryption_algorithm: &'static str,
        /// 64 hex digits, of a symmetric key.
        #[serde(skip_serializing_if = "Option::is_none")] source_key_material_id: Option<String>,
        /// 64 hex digits, of a symmetric key.
        #[serde(skip_serializing_if = "Option::is_none")] destination_key_material_id: Option<String>,
    }
}
response! {
    /// Answer of GenerateDataKey.
    GenerateDataKeyResponse {
        /// The wrapped key.
        #[serde(with = "blob")] ciphertext_blob: Vec<u8>,
        /// The key.
        #[serde(with = "blob_secret")] plaintext: SecretVec,
        /// ARN of the KMS key.
        key_id: String,
        /// 64 hex digits.
        key_material_id: String,
    }
}
response! {
    /// Answer of GenerateDataKeyWithoutPlaintext.
    #[derive(Debug)]
    GenerateDataKeyWithoutPlaintextResponse {
        /// The wrapped key.
        #[serde(with = "blob")] ciphertext_blob: Vec<u8>,
        /// ARN of the KMS key.
        key_id: String,
        /// 64 hex digits.
        key_material_id: String,
    }
}
response! {
    /// Answer of GenerateRandom.
    GenerateRandomResponse {
        /// The bytes.
        #[serde(with = "blob_secret")] plaintext: SecretVec,
    }
}
