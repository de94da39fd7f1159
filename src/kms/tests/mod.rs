//! The key service as its callers see it.

mod arbitrary;
mod backup;
mod conditions;
mod export;
mod global;
mod grant_requests;
mod grants;
mod home;
mod identity;
mod import;
mod keys;
mod labels;
mod log;
mod matrix;
mod model;
mod model_access;
mod pairs;
mod policies;
mod prepared;
mod replicas;
mod requests;
mod schedule;
mod sessions;
mod shared;
mod speed;
mod states;
mod strangers;
mod together;
mod trail;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::wire::*;
use super::*;
use crate::iam::Region;

/// A clock that is set by hand.
struct Hand(Mutex<Timestamp>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

impl Hand {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Timestamp::from_second(1_800_000_000).unwrap())))
    }

    fn days(&self, days: i64) {
        let mut now = self.0.lock();
        *now += SignedDuration::from_hours(24 * days);
    }
}

const ACCOUNT: &str = "000000000000";

fn region() -> Region {
    "us-east-1".parse().unwrap()
}

/// A key service in a directory of its own.
struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<Hand>,
    kms: Arc<Kms>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Hand::new();
        Home::open_or_create(&dir.path().join("home")).unwrap();
        let kms = open(&dir, &clock);
        kms.create_region(&region(), None).unwrap();
        Self { dir, clock, kms }
    }

    /// One more key service on the same home, as another process has it.
    fn another(&self) -> Arc<Kms> {
        open(&self.dir, &self.clock)
    }

    fn session(&self) -> Session {
        self.kms.root_session(&region()).unwrap()
    }

    fn region_dir(&self) -> PathBuf {
        self.dir.path().join("home/us-east-1")
    }
}

fn open(dir: &tempfile::TempDir, clock: &Arc<Hand>) -> Arc<Kms> {
    let options = KmsOptions { clock: clock.clone(), ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
    Kms::open(&dir.path().join("home"), options).unwrap()
}

fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A new key's id.
fn make(session: &Session) -> String {
    session.call(CreateKeyRequest::default()).unwrap().key_metadata.key_id
}

fn encrypt(session: &Session, key_id: &str, text: &[u8]) -> Result<Vec<u8>, KmsError> {
    let plaintext = crate::crypto::SecretVec::new(text.to_vec());
    let request = EncryptRequest { key_id: key_id.to_owned(), plaintext, ..Default::default() };
    session.call(request).map(|answer| answer.ciphertext_blob)
}

fn decrypt(session: &Session, blob: &[u8]) -> Result<Vec<u8>, KmsError> {
    let request = DecryptRequest { ciphertext_blob: blob.to_vec(), ..Default::default() };
    session.call(request).map(|answer| answer.plaintext.expose().to_vec())
}

fn alias(session: &Session, name: &str, key_id: &str) -> Result<(), KmsError> {
    session.call(CreateAliasRequest { alias_name: name.to_owned(), target_key_id: key_id.to_owned() })
}

fn disable(session: &Session, key_id: &str) {
    session.call(DisableKeyRequest { key_id: key_id.to_owned() }).unwrap();
}

fn schedule(session: &Session, key_id: &str, days: i64) -> ScheduleKeyDeletionResponse {
    let request =
        ScheduleKeyDeletionRequest { key_id: key_id.to_owned(), pending_window_in_days: Some(days) };
    session.call(request).unwrap()
}

fn metadata(session: &Session, key_id: &str) -> wire::KeyMetadata {
    let request = DescribeKeyRequest { key_id: key_id.to_owned(), ..Default::default() };
    session.call(request).unwrap().key_metadata
}

fn json(session: &Session, operation: &str, body: serde_json::Value) -> Result<serde_json::Value, KmsError> {
    let answer = session.call_json(operation, &serde_json::to_vec(&body).unwrap())?;
    Ok(if answer.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&answer).unwrap() })
}
