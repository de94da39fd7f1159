//! A key service in memory: binds contexts as the real one does, can refuse, and counts what it is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kmsfs::crypto::{SecretVec, random};
use kmsfs::kms::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyMetadata, KeyService, KeyState, KmsError,
    KmsErrorKind, Ledger, ReEncrypted,
};
use parking_lot::Mutex;

/// The key that tests use where they need one.
pub const KEY: &str = "alias/test";

/// How often each operation was asked for, refused ones too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    pub generate_data_key: u64,
    pub encrypt: u64,
    pub decrypt: u64,
    pub re_encrypt: u64,
    pub describe_key: u64,
}

/// Key service and ledger. Any key id exists; its state is [`KeyState::Enabled`] until it is set.
pub struct FakeKms {
    region: String,
    generation: AtomicU64,
    state: Mutex<State>,
    re_encrypting: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

#[derive(Default)]
struct State {
    /// By ciphertext: what it opens to.
    blobs: HashMap<Vec<u8>, Sealed>,
    keys: BTreeMap<String, KeyState>,
    denied: bool,
    calls: Calls,
    events: Vec<(FileEvent, bool)>,
}

struct Sealed {
    key_arn: String,
    context: EncryptionContext,
    plaintext: Vec<u8>,
}

impl FakeKms {
    pub fn new() -> Arc<Self> {
        Self::in_region("us-east-1")
    }

    pub fn in_region(region: &str) -> Arc<Self> {
        let (generation, state) = (AtomicU64::new(1), Mutex::default());
        Arc::new(Self { region: region.to_owned(), generation, state, re_encrypting: Mutex::default() })
    }

    /// What is to happen within every ReEncrypt.
    pub fn on_re_encrypt(&self, happens: impl FnMut() + Send + 'static) {
        *self.re_encrypting.lock() = Some(Box::new(happens));
    }

    /// ARN of a key id or alias; an ARN stays as it is.
    pub fn arn(&self, key_id: &str) -> String {
        if key_id.starts_with("arn:") {
            return key_id.to_owned();
        }
        let id = key_id.strip_prefix("alias/").unwrap_or(key_id);
        format!("arn:aws:kms:{}:000000000000:key/{id}", self.region)
    }

    /// Another state of a key; the generation moves.
    pub fn set_state(&self, key_id: &str, state: KeyState) {
        self.state.lock().keys.insert(self.arn(key_id), state);
        self.move_generation();
    }

    /// Denies every operation, or none; the generation moves.
    pub fn deny(&self, denied: bool) {
        self.state.lock().denied = denied;
        self.move_generation();
    }

    pub fn move_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub fn calls(&self) -> Calls {
        self.state.lock().calls
    }

    /// What was recorded, and whether before the answer.
    pub fn events(&self) -> Vec<(FileEvent, bool)> {
        self.state.lock().events.clone()
    }

    /// Counts a call and says whether the key may be used.
    fn ask(&self, key_arn: &str, count: impl FnOnce(&mut Calls)) -> Result<(), KmsError> {
        let mut state = self.state.lock();
        count(&mut state.calls);
        if state.denied {
            return Err(KmsError::new(KmsErrorKind::AccessDenied, format!("not authorized: {key_arn}")));
        }
        match state.keys.get(key_arn).copied().unwrap_or(KeyState::Enabled) {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => {
                Err(KmsError::new(KmsErrorKind::Disabled, format!("{key_arn} is disabled.")))
            }
            state => Err(KmsError::new(KmsErrorKind::InvalidState(state), format!("{key_arn}: {state:?}"))),
        }
    }

    fn seal(&self, key_arn: &str, plaintext: &[u8], context: &EncryptionContext) -> Vec<u8> {
        let mut ciphertext = b"fake".to_vec();
        ciphertext.extend_from_slice(&random::<28>().expect("the system has randomness"));
        let (key_arn, plaintext) = (key_arn.to_owned(), plaintext.to_vec());
        let sealed = Sealed { key_arn, context: context.clone(), plaintext };
        self.state.lock().blobs.insert(ciphertext.clone(), sealed);
        ciphertext
    }

    /// Key and plaintext of a blob, if the context is the one it was made with.
    fn unseal(&self, ciphertext: &[u8], context: &EncryptionContext) -> Result<(String, Vec<u8>), KmsError> {
        match self.state.lock().blobs.get(ciphertext) {
            Some(sealed) if sealed.context == *context => {
                Ok((sealed.key_arn.clone(), sealed.plaintext.clone()))
            }
            _ => {
                Err(KmsError::new(KmsErrorKind::InvalidCiphertext, "not made here, or with another context"))
            }
        }
    }
}

impl KeyService for FakeKms {
    fn generate_data_key(&self, key_id: &str, context: &EncryptionContext) -> Result<DataKey, KmsError> {
        let key_arn = self.arn(key_id);
        self.ask(&key_arn, |calls| calls.generate_data_key += 1)?;
        let plaintext = random::<32>().expect("the system has randomness").to_vec();
        let ciphertext = self.seal(&key_arn, &plaintext, context);
        Ok(DataKey { key_arn, ciphertext, plaintext: SecretVec::new(plaintext) })
    }

    fn encrypt(
        &self,
        key_id: &str,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Encrypted, KmsError> {
        let key_arn = self.arn(key_id);
        self.ask(&key_arn, |calls| calls.encrypt += 1)?;
        let ciphertext = self.seal(&key_arn, plaintext, context);
        Ok(Encrypted { key_arn, ciphertext })
    }

    fn decrypt(
        &self,
        key_id: Option<&str>,
        ciphertext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, KmsError> {
        let opened = self.unseal(ciphertext, context);
        let known = opened.as_ref().map_or("", |(key_arn, _)| key_arn).to_owned();
        self.ask(&known, |calls| calls.decrypt += 1)?;
        let (key_arn, plaintext) = opened?;
        if key_id.is_some_and(|key_id| self.arn(key_id) != key_arn) {
            return Err(KmsError::new(KmsErrorKind::IncorrectKey, "under another key"));
        }
        Ok(Decrypted { key_arn, key_material_id: None, plaintext: SecretVec::new(plaintext) })
    }

    fn re_encrypt(
        &self,
        ciphertext: &[u8],
        source_context: &EncryptionContext,
        destination_key_id: &str,
        destination_context: &EncryptionContext,
    ) -> Result<ReEncrypted, KmsError> {
        if let Some(happens) = &mut *self.re_encrypting.lock() {
            happens();
        }
        let opened = self.unseal(ciphertext, source_context);
        let known = opened.as_ref().map_or("", |(key_arn, _)| key_arn).to_owned();
        self.ask(&known, |calls| calls.re_encrypt += 1)?;
        let key_arn = self.arn(destination_key_id);
        self.ask(&key_arn, |_| ())?;
        let (source_key_arn, plaintext) = opened?;
        let ciphertext = self.seal(&key_arn, &plaintext, destination_context);
        Ok(ReEncrypted { source_key_arn, key_arn, ciphertext })
    }

    fn describe_key(&self, key_id: &str) -> Result<KeyMetadata, KmsError> {
        let key_arn = self.arn(key_id);
        let mut state = self.state.lock();
        state.calls.describe_key += 1;
        let of_key = state.keys.get(&key_arn).copied().unwrap_or(KeyState::Enabled);
        Ok(KeyMetadata { key_arn, region: self.region.clone(), state: of_key })
    }
}

impl Ledger for FakeKms {
    fn generation(&self) -> Result<Option<u64>, KmsError> {
        Ok(Some(self.generation.load(Ordering::SeqCst)))
    }

    fn record(&self, event: FileEvent, sync: bool) -> Result<(), KmsError> {
        self.state.lock().events.push((event, sync));
        Ok(())
    }
}

#[test]
fn the_fake_binds_contexts_and_refuses_as_told() {
    let kms = FakeKms::new();
    let context = |v: &str| EncryptionContext::from([("k".to_owned(), v.to_owned())]);
    let made = kms.generate_data_key(KEY, &context("a")).unwrap();
    let opened = kms.decrypt(None, &made.ciphertext, &context("a")).unwrap();
    assert_eq!(opened.plaintext.expose(), made.plaintext.expose());
    let kind = |result: Result<Decrypted, KmsError>| result.err().map(|e| e.kind);
    let wrong = kms.decrypt(None, &made.ciphertext, &context("b"));
    assert_eq!(kind(wrong), Some(KmsErrorKind::InvalidCiphertext));
    let moved = kms.re_encrypt(&made.ciphertext, &context("a"), "other", &context("b")).unwrap();
    assert_eq!(kms.arn("other"), moved.key_arn);
    let under = kms.decrypt(Some(KEY), &moved.ciphertext, &context("b"));
    assert_eq!(kind(under), Some(KmsErrorKind::IncorrectKey));
    let before = kms.generation().unwrap();
    kms.set_state(KEY, KeyState::Disabled);
    assert_eq!(kms.describe_key(KEY).unwrap().state, KeyState::Disabled);
    let refused = kms.decrypt(None, &made.ciphertext, &context("a"));
    assert_eq!(kind(refused), Some(KmsErrorKind::Disabled));
    kms.set_state(KEY, KeyState::Enabled);
    kms.deny(true);
    let denied = kms.decrypt(None, &made.ciphertext, &context("a"));
    assert_eq!(kind(denied), Some(KmsErrorKind::AccessDenied));
    assert!(kms.generation().unwrap() > before);
    assert_eq!(kms.encrypt(KEY, b"x", &context("a")).err().map(|e| e.kind), Some(KmsErrorKind::AccessDenied));
    let calls = Calls { generate_data_key: 1, encrypt: 1, decrypt: 5, re_encrypt: 1, describe_key: 1 };
    assert_eq!(kms.calls(), calls);
}
