//! Requests and answers of ML-KEM (FIPS 203).

use serde::{Deserialize, Serialize};

use super::super::codec::{blob, blob_secret};
use crate::crypto::SecretVec;

request! {
    /// Encapsulate.
    EncapsulateRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// ML_KEM.
        encapsulation_algorithm: String,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// Decapsulate.
    DecapsulateRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// What Encapsulate answered, or whoever has the public key made.
        #[serde(with = "blob")] shared_secret_ciphertext_blob: Vec<u8>,
        /// ML_KEM.
        encapsulation_algorithm: String,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}

response! {
    /// Answer of Encapsulate.
    EncapsulateResponse {
        /// ARN of the key.
        key_id: String,
        /// 32 bytes.
        #[serde(with = "blob_secret")] shared_secret: SecretVec,
        /// For Decapsulate.
        #[serde(with = "blob")] shared_secret_ciphertext_blob: Vec<u8>,
        /// ML_KEM.
        encapsulation_algorithm: &'static str,
    }
}
response! {
    /// Answer of Decapsulate.
    DecapsulateResponse {
        /// ARN of the key.
        key_id: String,
        /// 32 bytes; others than Encapsulate's if the ciphertext was changed.
        #[serde(with = "blob_secret")] shared_secret: SecretVec,
        /// ML_KEM.
        encapsulation_algorithm: &'static str,
    }
}
