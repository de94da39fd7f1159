//! Every label that separates two uses of a key. Changing one changes the format.

/// Subkeys of the volume key: HKDF info = label, salt = volume id.
pub const VOLUME_NAMES: &[u8] = b"kmsfs/1 names";
/// Encrypts symbolic link targets.
pub const VOLUME_SYMLINKS: &[u8] = b"kmsfs/1 symlink targets";
/// Encrypts the names of extended attributes.
pub const VOLUME_XATTR_NAMES: &[u8] = b"kmsfs/1 xattr names";
/// Pseudorandom key from which each owner's xattr value key is expanded.
pub const VOLUME_XATTR_VALUES: &[u8] = b"kmsfs/1 xattr values";
/// Authenticates the descriptor.
pub const VOLUME_DESCRIPTOR: &[u8] = b"kmsfs/1 descriptor";
/// Authenticates the epoch marker.
pub const VOLUME_EPOCH: &[u8] = b"kmsfs/1 epoch";
/// Authenticates the descriptors of the volume's snapshots.
pub const VOLUME_SNAPSHOT: &[u8] = b"kmsfs/1 snapshot";
/// Authenticates the records of a rekeying.
pub const VOLUME_REKEY: &[u8] = b"kmsfs/1 rekey";
/// The salt of every file's keys.
pub const VOLUME_FILE_SALT: &[u8] = b"kmsfs/1 file salt";

/// Subkeys of a file's data key: HKDF info = label, volume id, file id (and generation).
pub const FILE_CONTENT: &[u8] = b"kmsfs/1 content";
/// Authenticates page 0.
pub const FILE_HEADER: &[u8] = b"kmsfs/1 header";
/// Commits to the data key.
pub const FILE_COMMITMENT: &[u8] = b"kmsfs/1 commitment";

/// Key service: per-call key of a ciphertext blob (SP 800-108 fixed input = label, salt).
pub const KMS_CIPHERTEXT: &[u8] = b"kmsfs/1 kms ciphertext";
/// Key service: rows of key material under the root key.
pub const KMS_MATERIAL: &[u8] = b"kmsfs/1 kms material";
/// Key service: authenticates grant tokens (SP 800-108 of the root key).
pub const KMS_GRANT_TOKEN: &[u8] = b"kmsfs/1 kms grant token";
/// Key service: import tokens under the root key (SP 800-108 fixed input = label, salt).
pub const KMS_IMPORT_TOKEN: &[u8] = b"kmsfs/1 kms import token";
/// Key service: the name of imported material, by which it is known again.
pub const KMS_IMPORTED: &[u8] = b"kmsfs/1 kms imported material";
/// Key service: the root key under a passphrase.
pub const KMS_ROOT: &[u8] = b"kmsfs/1 kms root";
/// Audit log: each event in its chain.
pub const AUDIT_EVENT: &[u8] = b"kmsfs/1 audit event";
/// Audit log: authenticates the signed head.
pub const AUDIT_HEAD: &[u8] = b"kmsfs/1 audit head";
/// Identities: secrets of access keys under the root key of identities.
pub const IAM_SECRET: &[u8] = b"kmsfs/1 iam access key";
/// Identities: session tokens under the root key of identities.
pub const IAM_SESSION: &[u8] = b"kmsfs/1 iam session token";
/// Identities: what the store's root key is recognised by.
pub const IAM_CHECK: &[u8] = b"kmsfs/1 iam store";
