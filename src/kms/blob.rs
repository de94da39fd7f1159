//! CiphertextBlob of the embedded service (docs/kms.md): what Encrypt answers and Decrypt takes.

use super::EncryptionContext;
use crate::crypto::secret::secret_newtype;
use crate::crypto::{AeadKey, CryptoError, SecretVec, kdf, labels, random};
use crate::iam::{KeyArn, KeyId};

secret_newtype! {
    /// Material of a symmetric KMS key, one version.
    KeyMaterial, 32
}

/// Names a version of a key's material: 64 hex digits in text.
pub type MaterialId = [u8; 32];

const VERSION: u8 = 1;
const SALT_AT: usize = 50;
const MESSAGE_AT: usize = 66;
/// Bytes that a blob is longer than its plaintext.
pub const OVERHEAD: usize = MESSAGE_AT + 28;
/// The longest plaintext of Encrypt; a blob is at most 6144 bytes.
pub const MAX_LEN: usize = 6144;

/// A blob that has been parsed and not yet opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CiphertextBlob<'a> {
    /// KMS key it claims.
    pub key: KeyId,
    /// Version of its material it claims.
    pub material: MaterialId,
    salt: &'a [u8],
    message: &'a [u8],
}

impl<'a> CiphertextBlob<'a> {
    /// Reads a blob; None if it is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() <= OVERHEAD || bytes.len() > MAX_LEN || bytes[0] != VERSION || bytes[1] > 1 {
            return None;
        }
        let key = KeyId { multi_region: bytes[1] == 1, bytes: bytes[2..18].try_into().ok()? };
        let material = bytes[18..SALT_AT].try_into().ok()?;
        Some(Self { key, material, salt: &bytes[SALT_AT..MESSAGE_AT], message: &bytes[MESSAGE_AT..] })
    }

    /// The plaintext, under the material of the key `arn` that [`Self::material`] names.
    pub fn open(
        &self,
        arn: &KeyArn,
        material: &KeyMaterial,
        context: &EncryptionContext,
    ) -> Result<SecretVec, CryptoError> {
        let key = call_key(material, self.salt)?;
        Ok(SecretVec::new(key.open_message(&aad(arn, &self.material, context), self.message)?))
    }
}

/// Seals a plaintext under one version of the key `arn`. Each call has its own key: SP 800-108 counter mode
/// over the material and a random salt, so that no KMS key meets the limit of GCM.
pub fn seal(
    arn: &KeyArn,
    id: &MaterialId,
    material: &KeyMaterial,
    plaintext: &[u8],
    context: &EncryptionContext,
) -> Result<Vec<u8>, CryptoError> {
    let salt: [u8; 16] = random()?;
    let message = call_key(material, &salt)?.seal_message(&aad(arn, id, context), plaintext)?;
    let mut out = Vec::with_capacity(MESSAGE_AT + message.len());
    out.push(VERSION);
    out.push(u8::from(arn.key.multi_region));
    out.extend_from_slice(&arn.key.bytes);
    out.extend_from_slice(id);
    out.extend_from_slice(&salt);
    out.extend_from_slice(&message);
    Ok(out)
}

fn call_key(material: &KeyMaterial, salt: &[u8]) -> Result<AeadKey, CryptoError> {
    AeadKey::new(kdf::counter_mode(material.expose(), labels::KMS_CIPHERTEXT, salt)?.expose())
}

/// Partition, account, region (empty for a multi-Region key), key, material and the sorted context, each
/// with its length, so that no two of them read alike.
fn aad(arn: &KeyArn, material: &MaterialId, context: &EncryptionContext) -> Vec<u8> {
    let mut out = Vec::new();
    let mut part = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    part(labels::KMS_CIPHERTEXT);
    part(arn.region.partition().as_bytes());
    part(arn.account.as_str().as_bytes());
    part(if arn.key.multi_region { b"" } else { arn.region.as_str().as_bytes() });
    part(arn.key.to_string().as_bytes());
    part(material);
    for (key, value) in context {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Secret;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn arn(region: &str, account: &str, key: &str) -> KeyArn {
        format!("arn:aws:kms:{region}:{account}:key/{key}").parse().unwrap()
    }

    const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
    const MULTI: &str = "mrk-1234abcd12ab34cd56ef1234567890ab";

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_blob_opens_under_its_own_key_region_account_and_context_only() {
        let material = KeyMaterial(Secret::new([7; 32]));
        let home = arn("us-east-1", "000000000000", KEY);
        let pairs = context(&[("a", "b"), ("c", "")]);
        let sealed = seal(&home, &[5; 32], &material, b"secret", &pairs).unwrap();
        assert_eq!(sealed.len(), OVERHEAD + 6);
        let blob = CiphertextBlob::parse(&sealed).unwrap();
        assert_eq!((blob.key, blob.material), (home.key, [5; 32]));
        assert_eq!(blob.open(&home, &material, &pairs).unwrap().expose(), b"secret");
        let refused = |arn: &KeyArn, material: &KeyMaterial, pairs: &EncryptionContext| {
            assert_eq!(blob.open(arn, material, pairs).err(), Some(CryptoError::NotAuthentic));
        };
        refused(&arn("eu-west-1", "000000000000", KEY), &material, &pairs);
        refused(&arn("us-east-1", "000000000001", KEY), &material, &pairs);
        refused(&arn("us-east-1", "000000000000", MULTI), &material, &pairs);
        refused(&home, &KeyMaterial(Secret::new([8; 32])), &pairs);
        refused(&home, &material, &context(&[("a", "b")]));
        refused(&home, &material, &context(&[("a", "bc"), ("", "")]));
    }

    #[test]
    fn a_multi_region_key_opens_in_every_region() {
        let material = KeyMaterial(Secret::new([7; 32]));
        let sealed =
            seal(&arn("us-east-1", "000000000000", MULTI), &[5; 32], &material, b"x", &context(&[])).unwrap();
        let blob = CiphertextBlob::parse(&sealed).unwrap();
        assert!(blob.open(&arn("eu-west-1", "000000000000", MULTI), &material, &context(&[])).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_never_open(mut bytes in vec(any::<u8>(), 0..300), versioned in any::<bool>()) {
            if versioned && bytes.len() > 1 {
                bytes[..2].copy_from_slice(&[1, 0]);
            }
            if let Some(blob) = CiphertextBlob::parse(&bytes) {
                let home = arn("us-east-1", "000000000000", KEY);
                prop_assert!(blob.open(&home, &KeyMaterial(Secret::new([7; 32])), &context(&[])).is_err());
            }
        }

        #[test]
        fn one_changed_byte_is_refused(at in 0..OVERHEAD + 6, flip in 1..=255u8) {
            let material = KeyMaterial(Secret::new([7; 32]));
            let home = arn("us-east-1", "000000000000", KEY);
            let mut sealed = seal(&home, &[5; 32], &material, b"secret", &context(&[])).unwrap();
            sealed[at] ^= flip;
            if let Some(blob) = CiphertextBlob::parse(&sealed) {
                // Another key's name means another key's material and ARN.
                prop_assert!(blob.key != home.key || blob.open(&home, &material, &context(&[])).is_err());
            }
        }
    }
}
