//! The table of operations.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::*;

/// An operation of the key service, as its request.
pub trait Operation: DeserializeOwned + Send {
    /// Its name in AWS's API.
    const NAME: &'static str;
    /// Its answer; `()` where AWS answers nothing.
    type Response: Serialize;
}

macro_rules! operations {
    ($($request:ident => $response:ty, $name:literal;)*) => {$(
        impl Operation for $request {
            const NAME: &'static str = $name;
            type Response = $response;
        }
    )*};
}

operations! {
    CreateKeyRequest => DescribeKeyResponse, "CreateKey";
    DescribeKeyRequest => DescribeKeyResponse, "DescribeKey";
    ListKeysRequest => ListKeysResponse, "ListKeys";
    CreateAliasRequest => (), "CreateAlias";
    UpdateAliasRequest => (), "UpdateAlias";
    DeleteAliasRequest => (), "DeleteAlias";
    ListAliasesRequest => ListAliasesResponse, "ListAliases";
    EnableKeyRequest => (), "EnableKey";
    DisableKeyRequest => (), "DisableKey";
    EncryptRequest => EncryptResponse, "Encrypt";
    DecryptRequest => DecryptResponse, "Decrypt";
    ReEncryptRequest => ReEncryptResponse, "ReEncrypt";
    GenerateDataKeyRequest => GenerateDataKeyResponse, "GenerateDataKey";
    GenerateDataKeyWithoutPlaintextRequest => GenerateDataKeyWithoutPlaintextResponse, "GenerateDataKeyWithoutPlaintext";
    RotateKeyOnDemandRequest => KeyIdResponse, "RotateKeyOnDemand";
    ListKeyRotationsRequest => ListKeyRotationsResponse, "ListKeyRotations";
    ScheduleKeyDeletionRequest => ScheduleKeyDeletionResponse, "ScheduleKeyDeletion";
    CancelKeyDeletionRequest => KeyIdResponse, "CancelKeyDeletion";
    GetKeyPolicyRequest => GetKeyPolicyResponse, "GetKeyPolicy";
}
