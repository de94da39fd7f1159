//! The root key of one region, in one file: as it stands, or under a passphrase. The file is made once, with
//! mode 0600, and never replaced: everything in the region's store hangs on it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::kdf::{self, PassphraseCost};
use crate::crypto::secret::secret_newtype;
use crate::crypto::{AeadKey, CryptoError, Secret, SecretVec, labels, random};

secret_newtype! {
    /// Wraps all key material of a region.
    RootKey, 32
}

/// A root key's file takes no more than this.
const MAX_LEN: u64 = 4096;

/// Why a root key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RootKeyError {
    /// The file cannot be read or made.
    #[error("the root key {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("the root key {path} is open to others (mode {mode:o}); chmod 600 it, and think who has read it")]
    TooOpen {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a root key.
    #[error("the root key {path} is damaged; restore it from a backup")]
    Damaged {
        /// The file.
        path: String,
    },
    /// It is under a passphrase.
    #[error("the root key {path} is under a passphrase, and none was given")]
    NeedsPassphrase {
        /// The file.
        path: String,
    },
    /// It is not the passphrase.
    #[error("the passphrase does not open the root key {path}")]
    WrongPassphrase {
        /// The file.
        path: String,
    },
    /// No randomness, or no memory for Argon2id.
    #[error("the root key {path}: {source}")]
    Crypto {
        /// The file.
        path: String,
        /// What failed.
        source: CryptoError,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// Hex: the key, or nonce 12 | tag 16 | AES-256-GCM ciphertext under the passphrase's key, AAD = label.
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    passphrase: Option<StoredPassphrase>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPassphrase {
    /// Argon2id's salt, hex.
    salt: String,
    cost: PassphraseCost,
}

impl RootKey {
    /// Makes a root key and its file, durable when this returns; an existing file is an error.
    pub fn create(
        path: &Path,
        passphrase: Option<(&SecretVec, PassphraseCost)>,
    ) -> Result<Self, RootKeyError> {
        let crypto = |source| RootKeyError::Crypto { path: shown(path), source };
        let key = Self(Secret::generate().map_err(crypto)?);
        let mut stored = key.store(passphrase).map_err(crypto)?;
        // Serialising these fields cannot fail; an error would say so.
        let text = serde_json::to_vec(&stored).map_err(|e| file(path, io::Error::other(e)))?;
        let text = Zeroizing::new(text);
        stored.key.zeroize();
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| file(path, e))?;
        let written = out.write_all(&text).and_then(|()| out.sync_all());
        if let Err(error) = written {
            // Nothing hangs on a key that was never handed out.
            let _ = fs::remove_file(path);
            return Err(file(path, error));
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(parent).and_then(|d| d.sync_all()).map_err(|e| file(path, e))?;
        Ok(key)
    }

    fn store(&self, passphrase: Option<(&SecretVec, PassphraseCost)>) -> Result<Stored, CryptoError> {
        let Some((passphrase, cost)) = passphrase else {
            return Ok(Stored { version: 1, key: hex::encode(self.expose()), passphrase: None });
        };
        let salt: [u8; 16] = random()?;
        let wrapping = AeadKey::new(kdf::passphrase_key(passphrase.expose(), &salt, cost)?.expose())?;
        let key = hex::encode(wrapping.seal_message(labels::KMS_ROOT, self.expose())?);
        Ok(Stored { version: 1, key, passphrase: Some(StoredPassphrase { salt: hex::encode(salt), cost }) })
    }

    /// Reads a root key.
    pub fn open(path: &Path, passphrase: Option<&SecretVec>) -> Result<Self, RootKeyError> {
        let damaged = || RootKeyError::Damaged { path: shown(path) };
        let input = fs::File::open(path).map_err(|e| file(path, e))?;
        let mode = input.metadata().map_err(|e| file(path, e))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(RootKeyError::TooOpen { path: shown(path), mode });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_LEN as usize + 1));
        input.take(MAX_LEN + 1).read_to_end(&mut text).map_err(|e| file(path, e))?;
        if text.len() as u64 > MAX_LEN {
            return Err(damaged());
        }
        let stored: Stored = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let text = Zeroizing::new(stored.key);
        let key = Zeroizing::new(hex::decode(text.as_bytes()).map_err(|_| damaged())?);
        if stored.version != 1 {
            return Err(damaged());
        }
        let Some(protection) = stored.passphrase else {
            return Ok(Self(Secret::from_slice(&key).map_err(|_| damaged())?));
        };
        let given = passphrase.ok_or_else(|| RootKeyError::NeedsPassphrase { path: shown(path) })?;
        let salt: [u8; 16] =
            hex::decode(protection.salt).ok().and_then(|s| s.try_into().ok()).ok_or_else(damaged)?;
        let wrapping = match kdf::passphrase_key(given.expose(), &salt, protection.cost) {
            Ok(key) => AeadKey::new(key.expose()).map_err(|_| damaged())?,
            Err(CryptoError::BadLength { .. }) => return Err(damaged()),
            Err(source) => return Err(RootKeyError::Crypto { path: shown(path), source }),
        };
        let opened = wrapping.open_message(labels::KMS_ROOT, &key).map(Zeroizing::new);
        let opened = opened.map_err(|_| RootKeyError::WrongPassphrase { path: shown(path) })?;
        Ok(Self(Secret::from_slice(&opened).map_err(|_| damaged())?))
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn file(path: &Path, source: io::Error) -> RootKeyError {
    RootKeyError::File { path: shown(path), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const QUICK: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> SecretVec {
        SecretVec::new(text.into())
    }

    #[test]
    fn a_key_file_comes_back_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let made = RootKey::create(&path, None).unwrap();
        assert_eq!(RootKey::open(&path, None).unwrap().expose(), made.expose());
        assert!(matches!(RootKey::create(&path, None), Err(RootKeyError::File { .. })));
        assert_eq!(RootKey::open(&path, None).unwrap().expose(), made.expose());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(RootKey::open(&path, None), Err(RootKeyError::TooOpen { mode: 0o640, .. })));
    }

    #[test]
    fn a_passphrase_opens_and_another_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let made = RootKey::create(&path, Some((&passphrase("correct horse"), QUICK))).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&hex::encode(made.expose())));
        assert_eq!(RootKey::open(&path, Some(&passphrase("correct horse"))).unwrap().expose(), made.expose());
        let wrong = RootKey::open(&path, Some(&passphrase("correct house"))).err().unwrap();
        assert!(matches!(wrong, RootKeyError::WrongPassphrase { .. }), "{wrong}");
        assert!(matches!(RootKey::open(&path, None), Err(RootKeyError::NeedsPassphrase { .. })));
    }

    #[test]
    fn what_is_no_root_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        RootKey::create(&path, Some((&passphrase("p"), QUICK))).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let absurd = good.replace("\"memory_kib\":64", "\"memory_kib\":4294967295");
        let newer = good.replace("\"version\":1", "\"version\":2");
        for bad in [&absurd, &newer, &good[..good.len() - 1], "", "{}", &"x".repeat(10_000)] {
            fs::write(&path, bad).unwrap();
            let refused = RootKey::open(&path, Some(&passphrase("p"))).err().unwrap();
            assert!(matches!(refused, RootKeyError::Damaged { .. }), "{refused}");
        }
    }
}
