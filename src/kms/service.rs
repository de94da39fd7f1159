//! What the layers above need of a key service, whichever it is.

use std::collections::BTreeMap;

use super::{KeyState, KmsError};
use crate::crypto::SecretVec;

/// Pairs that are authenticated with a ciphertext and written to the log in the clear.
pub type EncryptionContext = BTreeMap<String, String>;

/// Answer of GenerateDataKey.
pub struct DataKey {
    /// ARN of the KMS key.
    pub key_arn: String,
    /// The wrapped key.
    pub ciphertext: Vec<u8>,
    /// The key itself.
    pub plaintext: SecretVec,
}

/// Answer of Encrypt.
pub struct Encrypted {
    /// ARN of the KMS key.
    pub key_arn: String,
    /// CiphertextBlob.
    pub ciphertext: Vec<u8>,
}

/// Answer of Decrypt.
pub struct Decrypted {
    /// ARN of the KMS key.
    pub key_arn: String,
    /// 64 hex digits; None where a service does not tell.
    pub key_material_id: Option<String>,
    /// The plaintext.
    pub plaintext: SecretVec,
}

/// Answer of ReEncrypt.
pub struct ReEncrypted {
    /// ARN of the KMS key it was under.
    pub source_key_arn: String,
    /// ARN of the KMS key it is under now.
    pub key_arn: String,
    /// The new CiphertextBlob.
    pub ciphertext: Vec<u8>,
}

/// The part of DescribeKey's answer that decides something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMetadata {
    /// ARN of the KMS key, also where an alias was asked for.
    pub key_arn: String,
    /// Its region.
    pub region: String,
    /// Its state.
    pub state: KeyState,
}

/// Where the keys of a key service are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHolder {
    /// In a home of this machine.
    Embedded,
    /// At AWS KMS, or what speaks as it does, over the network.
    Aws,
}

/// The five operations an encrypted filesystem needs, under their KMS names. `key_id` is a key id, key
/// ARN, alias name or alias ARN. The embedded service and a remote one implement it.
pub trait KeyService: Send + Sync {
    /// Where its keys are.
    fn holder(&self) -> KeyHolder {
        KeyHolder::Embedded
    }

    /// GenerateDataKey of 32 bytes.
    fn generate_data_key(&self, key_id: &str, context: &EncryptionContext) -> Result<DataKey, KmsError>;

    /// GenerateDataKey, once for each context. A service may record the calls together, each with its event.
    fn generate_data_keys(
        &self,
        key_id: &str,
        contexts: &[EncryptionContext],
    ) -> Result<Vec<DataKey>, KmsError> {
        contexts.iter().map(|context| self.generate_data_key(key_id, context)).collect()
    }

    /// Encrypt, 1 to 4096 bytes.
    fn encrypt(
        &self,
        key_id: &str,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Encrypted, KmsError>;

    /// Decrypt; with `key_id` only under that key.
    fn decrypt(
        &self,
        key_id: Option<&str>,
        ciphertext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, KmsError>;

    /// Decrypt, once for each ciphertext with its key and context. A service may record the calls together, each with
    /// its event. The first that fails is the answer, and then nothing is said of the others.
    fn decrypt_all(&self, wrapped: &[(&str, &[u8], &EncryptionContext)]) -> Result<Vec<Decrypted>, KmsError> {
        wrapped
            .iter()
            .map(|(key_id, ciphertext, context)| self.decrypt(Some(key_id), ciphertext, context))
            .collect()
    }

    /// ReEncrypt under another key or context; the plaintext never leaves the service.
    fn re_encrypt(
        &self,
        ciphertext: &[u8],
        source_context: &EncryptionContext,
        destination_key_id: &str,
        destination_context: &EncryptionContext,
    ) -> Result<ReEncrypted, KmsError>;

    /// ReEncrypt under one other key, once for each ciphertext with its context, which stays. As [`Self::decrypt_all`].
    fn re_encrypt_all(
        &self,
        wrapped: &[(&[u8], &EncryptionContext)],
        destination_key_id: &str,
    ) -> Result<Vec<ReEncrypted>, KmsError> {
        wrapped
            .iter()
            .map(|(ciphertext, context)| self.re_encrypt(ciphertext, context, destination_key_id, context))
            .collect()
    }

    /// DescribeKey.
    fn describe_key(&self, key_id: &str) -> Result<KeyMetadata, KmsError>;
}

/// Something that happened to a file and is recorded beside the key service's own events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// An open inside a live lease: decided locally, without a key service call.
    OpenFile {
        /// Hex.
        volume_id: String,
        /// Hex.
        file_id: String,
        /// KMS key that wraps the file's data key.
        key_arn: String,
        /// Who opened, on this machine.
        uid: u32,
    },
    /// A read-write mount began its epoch.
    MountVolume {
        /// Hex.
        volume_id: String,
        /// The number of the epoch.
        epoch: u64,
    },
    /// The volume was unmounted cleanly.
    UnmountVolume {
        /// Hex.
        volume_id: String,
        /// The number of the epoch.
        epoch: u64,
    },
    /// A file of an unclean epoch was mended.
    MendFile {
        /// Hex.
        volume_id: String,
        /// Hex.
        file_id: String,
        /// Size that the header gave.
        size_before: u64,
        /// Size that the authenticated content gives.
        size_after: u64,
    },
    /// A file's wrapped keys are overwritten, so that nothing opens it any more: recorded before that is done.
    ShredFile {
        /// Hex.
        volume_id: String,
        /// Hex, if it has a header.
        file_id: Option<String>,
        /// Who asked for it, on this machine.
        uid: u32,
    },
    /// The same of all files of a tree.
    ShredTree {
        /// Hex.
        volume_id: String,
        /// Names of files in it.
        files: u64,
        /// Who asked for it, on this machine.
        uid: u32,
    },
    /// A call to a key service over the network.
    RemoteCall(RemoteCall),
    /// Damage was met.
    DamagedFile {
        /// Hex.
        volume_id: String,
        /// Hex, if the header could be read.
        file_id: Option<String>,
        /// What did not fit.
        what: String,
    },
    /// Something was done with a snapshot.
    Snapshot {
        /// What.
        action: SnapshotAction,
        /// Hex.
        volume_id: String,
        /// Hex.
        snapshot_id: String,
        /// Its name.
        name: String,
    },
}

/// What can be done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotAction {
    /// It was taken of a volume.
    Create,
    /// It was made of another one, under other keys.
    Copy,
    /// A volume was made of it.
    Restore,
    /// It was deleted.
    Delete,
}

impl SnapshotAction {
    /// Name of the event.
    pub const fn event_name(self) -> &'static str {
        match self {
            Self::Create => "CreateSnapshot",
            Self::Copy => "CopySnapshot",
            Self::Restore => "RestoreSnapshot",
            Self::Delete => "DeleteSnapshot",
        }
    }
}

/// A call to a key service over the network, as this end saw it: it may have been done although no answer came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteCall {
    /// Its KMS name.
    pub operation: &'static str,
    /// The region that was asked.
    pub region: String,
    /// The key that was asked for, as it was named.
    pub key_id: Option<String>,
    /// The encryption context; of ReEncrypt the source's.
    pub context: Option<EncryptionContext>,
    /// ReEncrypt: the destination's.
    pub destination_context: Option<EncryptionContext>,
    /// ARNs of the keys that were used, or that were asked for.
    pub key_arns: Vec<String>,
    /// Material of the key, where the answer tells it.
    pub key_material_id: Option<String>,
    /// The answer's, by which AWS's own log has it; None without an answer.
    pub request_id: Option<String>,
    /// How often it was sent.
    pub attempts: u32,
    /// The name and the text of its error, if it failed.
    pub error: Option<(String, String)>,
}

/// The log that an embedded key service offers beside the five operations, and the number by which a
/// holder of decisions sees that they may no longer hold.
pub trait Ledger: Send + Sync {
    /// Grows with every change of a key, policy, grant or identity, by whichever process. Cheap enough to
    /// ask at every open. None if the service has no such number (a remote one).
    fn generation(&self) -> Result<Option<u64>, KmsError>;

    /// Records an event. It reaches the log's store within a second, or before the answer if `sync`.
    fn record(&self, event: FileEvent, sync: bool) -> Result<(), KmsError>;
}
