//! Requests and answers of imported key material.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::codec::{blob, seconds, seconds_given};

request! {
    /// GetParametersForImport.
    GetParametersForImportRequest {
        /// Key id or key ARN, of origin EXTERNAL.
        key_id: String,
        /// RSAES_OAEP_SHA_256, RSA_AES_KEY_WRAP_SHA_256, or either with SHA_1.
        wrapping_algorithm: String,
        /// RSA_2048, RSA_3072 or RSA_4096.
        wrapping_key_spec: String,
    }
}
request! {
    /// ImportKeyMaterial.
    ImportKeyMaterialRequest {
        /// Key id or key ARN, of origin EXTERNAL.
        key_id: String,
        /// What GetParametersForImport answered.
        #[serde(with = "blob")] import_token: Vec<u8>,
        /// The material, wrapped with the public key that came with the token.
        #[serde(with = "blob")] encrypted_key_material: Vec<u8>,
        /// When it is erased: within 365 days.
        #[serde(with = "seconds_given")] valid_to: Option<Timestamp>,
        /// KEY_MATERIAL_EXPIRES (the default) or KEY_MATERIAL_DOES_NOT_EXPIRE.
        expiration_model: Option<String>,
        /// NEW_KEY_MATERIAL or EXISTING_KEY_MATERIAL; None: new if the key never had any.
        import_type: Option<String>,
        /// At most 256 characters.
        key_material_description: Option<String>,
        /// The material must be the one of this id.
        key_material_id: Option<String>,
    }
}
request! {
    /// DeleteImportedKeyMaterial.
    DeleteImportedKeyMaterialRequest {
        /// Key id or key ARN, of origin EXTERNAL.
        key_id: String,
        /// Which; None: the current.
        key_material_id: Option<String>,
    }
}

response! {
    /// Answer of GetParametersForImport.
    #[derive(Debug)]
    GetParametersForImportResponse {
        /// ARN of the key.
        key_id: String,
        /// For ImportKeyMaterial.
        #[serde(with = "blob")] import_token: Vec<u8>,
        /// Wraps the material: SubjectPublicKeyInfo, DER.
        #[serde(with = "blob")] public_key: Vec<u8>,
        /// Until when both can be used.
        #[serde(with = "seconds")] parameters_valid_to: Timestamp,
    }
}
response! {
    /// Answer of ImportKeyMaterial and DeleteImportedKeyMaterial.
    #[derive(Debug)]
    ImportKeyMaterialResponse {
        /// ARN of the key.
        key_id: String,
        /// 64 hex digits, of a symmetric key.
        #[serde(skip_serializing_if = "Option::is_none")] key_material_id: Option<String>,
    }
}
/// Answer of DeleteImportedKeyMaterial.
pub type DeleteImportedKeyMaterialResponse = ImportKeyMaterialResponse;
