//! Requests and answers of key pairs and of HMAC.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::EncryptionContext;
use super::super::codec::{blob, blob_secret};
use crate::crypto::SecretVec;

request! {
    /// GetPublicKey.
    GetPublicKeyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// At most 10.
        grant_tokens: Vec<String>,
    }
}
request! {
    /// Sign.
    SignRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// 1 to 4096 bytes.
        #[serde(with = "blob_secret")] message: SecretVec,
        /// RAW (the default), DIGEST or EXTERNAL_MU.
        message_type: Option<String>,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// One that the key has.
        signing_algorithm: String,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// Verify.
    VerifyRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// 1 to 4096 bytes.
        #[serde(with = "blob_secret")] message: SecretVec,
        /// RAW (the default), DIGEST or EXTERNAL_MU.
        message_type: Option<String>,
        /// What Sign answered.
        #[serde(with = "blob")] signature: Vec<u8>,
        /// One that the key has.
        signing_algorithm: String,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// GenerateMac.
    GenerateMacRequest {
        /// 1 to 4096 bytes.
        #[serde(with = "blob_secret")] message: SecretVec,
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// The one of the key's spec.
        mac_algorithm: String,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// VerifyMac.
    VerifyMacRequest {
        /// 1 to 4096 bytes.
        #[serde(with = "blob_secret")] message: SecretVec,
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// The one of the key's spec.
        mac_algorithm: String,
        /// What GenerateMac answered.
        #[serde(with = "blob")] mac: Vec<u8>,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// DeriveSharedSecret.
    DeriveSharedSecretRequest {
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// ECDH.
        key_agreement_algorithm: String,
        /// The peer's, SubjectPublicKeyInfo in DER, on the key's curve.
        #[serde(with = "blob")] public_key: Vec<u8>,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
        /// Not here: an enclave's attestation.
        recipient: Option<Value>,
    }
}
request! {
    /// GenerateDataKeyPair.
    GenerateDataKeyPairRequest {
        /// Authenticated, and written to the log in the clear.
        encryption_context: EncryptionContext,
        /// A symmetric key: key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// RSA or an elliptic curve.
        key_pair_spec: String,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Not here: an enclave's attestation.
        recipient: Option<Value>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}
request! {
    /// GenerateDataKeyPairWithoutPlaintext.
    GenerateDataKeyPairWithoutPlaintextRequest {
        /// Authenticated, and written to the log in the clear.
        encryption_context: EncryptionContext,
        /// A symmetric key: key id, key ARN, alias name or alias ARN.
        key_id: String,
        /// RSA or an elliptic curve.
        key_pair_spec: String,
        /// At most 10.
        grant_tokens: Vec<String>,
        /// Decides and does nothing.
        dry_run: bool,
    }
}

response! {
    /// Answer of GetPublicKey.
    #[derive(Debug)]
    GetPublicKeyResponse {
        /// ARN of the key.
        key_id: String,
        /// SubjectPublicKeyInfo, DER.
        #[serde(with = "blob")] public_key: Vec<u8>,
        /// The older name of KeySpec.
        customer_master_key_spec: &'static str,
        /// What kind it is.
        key_spec: &'static str,
        /// What it is for.
        key_usage: &'static str,
        /// If it is for that.
        #[serde(skip_serializing_if = "Vec::is_empty")] encryption_algorithms: Vec<&'static str>,
        /// If it is for that.
        #[serde(skip_serializing_if = "Vec::is_empty")] signing_algorithms: Vec<&'static str>,
        /// If it is for that.
        #[serde(skip_serializing_if = "Vec::is_empty")] key_agreement_algorithms: Vec<&'static str>,
        /// If it is for that.
        #[serde(skip_serializing_if = "Vec::is_empty")] encapsulation_algorithms: Vec<&'static str>,
    }
}
response! {
    /// Answer of Sign.
    #[derive(Debug)]
    SignResponse {
        /// ARN of the key.
        key_id: String,
        /// ECDSA's is DER.
        #[serde(with = "blob")] signature: Vec<u8>,
        /// As asked for.
        signing_algorithm: &'static str,
    }
}
response! {
    /// Answer of Verify; a bad signature is an error.
    #[derive(Debug)]
    VerifyResponse {
        /// ARN of the key.
        key_id: String,
        /// True.
        signature_valid: bool,
        /// As asked for.
        signing_algorithm: &'static str,
    }
}
response! {
    /// Answer of GenerateMac.
    #[derive(Debug)]
    GenerateMacResponse {
        /// In full length.
        #[serde(with = "blob")] mac: Vec<u8>,
        /// As asked for.
        mac_algorithm: &'static str,
        /// ARN of the key.
        key_id: String,
    }
}
response! {
    /// Answer of VerifyMac; a bad code is an error.
    #[derive(Debug)]
    VerifyMacResponse {
        /// ARN of the key.
        key_id: String,
        /// True.
        mac_valid: bool,
        /// As asked for.
        mac_algorithm: &'static str,
    }
}
response! {
    /// Answer of DeriveSharedSecret.
    DeriveSharedSecretResponse {
        /// ARN of the key.
        key_id: String,
        /// The x coordinate: derive keys from it.
        #[serde(with = "blob_secret")] shared_secret: SecretVec,
        /// ECDH.
        key_agreement_algorithm: &'static str,
        /// AWS_KMS or EXTERNAL.
        key_origin: &'static str,
    }
}
response! {
    /// Answer of GenerateDataKeyPair.
    GenerateDataKeyPairResponse {
        /// The private key for Decrypt.
        #[serde(with = "blob")] private_key_ciphertext_blob: Vec<u8>,
        /// PKCS#8, DER.
        #[serde(with = "blob_secret")] private_key_plaintext: SecretVec,
        /// SubjectPublicKeyInfo, DER.
        #[serde(with = "blob")] public_key: Vec<u8>,
        /// ARN of the KMS key.
        key_id: String,
        /// As asked for.
        key_pair_spec: &'static str,
        /// 64 hex digits.
        key_material_id: String,
    }
}
response! {
    /// Answer of GenerateDataKeyPairWithoutPlaintext.
    #[derive(Debug)]
    GenerateDataKeyPairWithoutPlaintextResponse {
        /// The private key for Decrypt.
        #[serde(with = "blob")] private_key_ciphertext_blob: Vec<u8>,
        /// SubjectPublicKeyInfo, DER.
        #[serde(with = "blob")] public_key: Vec<u8>,
        /// ARN of the KMS key.
        key_id: String,
        /// As asked for.
        key_pair_spec: &'static str,
        /// 64 hex digits.
        key_material_id: String,
    }
}
