//! The keys of a volume and of a file (docs/format.md, "Keys"), leases on file keys, and the pool of data
//! keys for new files.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use super::error::{Result, VolumeError};
use super::header::{FileId, Header, WrappedKey, array};
use super::recipients::{Opens, Recipients};
use crate::crypto::secret::secret_newtype;
use crate::crypto::siv::SivKey;
use crate::crypto::{AeadKey, Secret, kdf, labels, mac, random};
use crate::kms::{EncryptionContext, KeyService, KmsError};

/// A volume's id.
pub type VolumeId = [u8; 16];

secret_newtype! {
    /// Of a volume: names, targets, attributes, descriptor, epoch marker.
    VolumeKey, 32
}
secret_newtype! {
    /// Of a file.
    DataKey, 32
}

/// Subkeys of the volume key.
pub struct VolumeKeys {
    /// The volume.
    pub id: VolumeId,
    pub(super) names: SivKey,
    pub(super) symlinks: SivKey,
    pub(super) xattr_names: SivKey,
    pub(super) xattr_values: Secret<32>,
    pub(super) descriptor: Secret<32>,
    pub(super) epoch: Secret<32>,
    pub(super) rekey: Secret<32>,
    snapshot: Secret<32>,
    file_salt: Secret<32>,
}

impl VolumeKeys {
    /// Derives them all.
    pub fn derive(key: &VolumeKey, id: VolumeId) -> Result<Self> {
        let siv = |label| kdf::hkdf(key.expose(), &id, &[label]).map(SivKey::new);
        let mac = |label| kdf::hkdf(key.expose(), &id, &[label]);
        Ok(Self {
            id,
            names: siv(labels::VOLUME_NAMES)?,
            symlinks: siv(labels::VOLUME_SYMLINKS)?,
            xattr_names: siv(labels::VOLUME_XATTR_NAMES)?,
            xattr_values: mac(labels::VOLUME_XATTR_VALUES)?,
            descriptor: mac(labels::VOLUME_DESCRIPTOR)?,
            epoch: mac(labels::VOLUME_EPOCH)?,
            rekey: mac(labels::VOLUME_REKEY)?,
            snapshot: mac(labels::VOLUME_SNAPSHOT)?,
            file_salt: mac(labels::VOLUME_FILE_SALT)?,
        })
    }

    /// Key of the MAC over the descriptors of the volume's snapshots.
    pub fn snapshot(&self) -> &[u8; 32] {
        self.snapshot.expose()
    }
}

/// Context of a volume key.
pub fn volume_context(id: &VolumeId) -> EncryptionContext {
    [("kmsfs:purpose".to_owned(), "volume".to_owned()), ("kmsfs:volume".to_owned(), hex::encode(id))].into()
}

/// Context of a file's data key. Never a name: contexts are in the log.
pub fn file_context(volume: &VolumeId, file: &FileId) -> EncryptionContext {
    [("kmsfs:file".to_owned(), hex::encode(file)), ("kmsfs:volume".to_owned(), hex::encode(volume))].into()
}

/// Subkeys of a file's data key. Content keys are derived when their generation is first met.
pub struct FileKeys {
    data: DataKey,
    salt: Secret<32>,
    info: [u8; 33],
    header: Secret<32>,
    commitment: [u8; 32],
    content: RwLock<Vec<(u16, Arc<AeadKey>)>>,
}

impl FileKeys {
    /// Derives them.
    pub fn derive(data: DataKey, volume: &VolumeKeys, file: &FileId) -> Result<Self> {
        Self::derive_with(data, volume.file_salt.clone(), &volume.id, file)
    }

    /// Derives those of a sealed file, which has no volume: no salt (RFC 5869 takes zeros for it), a volume id of
    /// zeros. A volume's salt is secret and random, so keys of the two never meet.
    pub fn derive_sealed(data: DataKey, file: &FileId) -> Result<Self> {
        Self::derive_with(data, Secret::new([0; 32]), &[0; 16], file)
    }

    fn derive_with(data: DataKey, salt: Secret<32>, volume: &VolumeId, file: &FileId) -> Result<Self> {
        let mut info = [0; 33];
        info[1..17].copy_from_slice(volume);
        info[17..].copy_from_slice(file);
        let header = kdf::hkdf(data.expose(), salt.expose(), &[labels::FILE_HEADER, &info])?;
        let commitment = kdf::hkdf::<32>(data.expose(), salt.expose(), &[labels::FILE_COMMITMENT, &info])?;
        let commitment = *commitment.expose();
        Ok(Self { data, salt, info, header, commitment, content: RwLock::new(Vec::new()) })
    }

    /// The data key under another KMS key (Encrypt), in the context it always has.
    pub fn wrap(&self, service: &dyn KeyService, key_id: &str) -> Result<WrappedKey> {
        let context = file_context(&array(&self.info, 1), &array(&self.info, 17));
        let made = service.encrypt(key_id, self.data.expose(), &context)?;
        Ok(WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext })
    }

    /// Asks a key service for the key of the file with this header: the first wrapped key that it opens and that the
    /// commitment confirms. The header's MAC is still to be verified.
    pub fn unwrap(
        service: &dyn KeyService,
        opens: &Opens,
        volume: &VolumeKeys,
        header: &Header,
    ) -> Result<Self> {
        let context = file_context(&volume.id, &header.file_id);
        let mut refusal = None;
        for wrapped in header.keys.iter().filter(|wrapped| opens.takes(wrapped)) {
            let refused = match service.decrypt(Some(&wrapped.key_arn), &wrapped.ciphertext, &context) {
                Ok(opened) => match Self::confirmed(opened.plaintext.expose(), volume, header)? {
                    Some(keys) => return Ok(keys),
                    None => VolumeError::damaged("a wrapped key in the file's header is another file's"),
                },
                Err(error) => VolumeError::Key(error),
            };
            refusal = refusal.or(Some(refused));
        }
        Err(refusal.unwrap_or_else(|| opens.nothing("the file")))
    }

    /// The keys of the file with this header, if what a wrapped key opened to is its data key: as long as one, and the one that the
    /// commitment is to.
    pub fn confirmed(opened: &[u8], volume: &VolumeKeys, header: &Header) -> Result<Option<Self>> {
        let Ok(data) = Secret::from_slice(opened) else { return Ok(None) };
        let keys = Self::derive(DataKey(data), volume, &header.file_id)?;
        Ok(mac::equal(keys.commitment(), &header.commitment).then_some(keys))
    }

    /// The data key itself, to be wrapped for somebody else.
    pub(super) fn data(&self) -> &DataKey {
        &self.data
    }

    /// Key of the header's MAC.
    pub fn header(&self) -> &[u8; 32] {
        self.header.expose()
    }

    /// Commits to the data key; public.
    pub fn commitment(&self) -> &[u8; 32] {
        &self.commitment
    }

    /// Forgets the content keys, which are many times as large as the rest: for a file that nobody has open, whose lease is still
    /// live. They are derived again when they are needed.
    pub fn rest(&self) {
        *self.content.write() = Vec::new();
    }

    /// The content key of a generation.
    pub fn content(&self, generation: u16) -> Result<Arc<AeadKey>> {
        let find =
            |keys: &Vec<(u16, Arc<AeadKey>)>| keys.iter().find(|k| k.0 == generation).map(|k| k.1.clone());
        if let Some(key) = find(&self.content.read()) {
            return Ok(key);
        }
        let info: [&[u8]; 3] = [labels::FILE_CONTENT, &self.info, &generation.to_le_bytes()];
        let key = kdf::hkdf::<32>(self.data.expose(), self.salt.expose(), &info)?;
        let key = Arc::new(AeadKey::new(key.expose())?);
        let mut keys = self.content.write();
        if let Some(key) = find(&keys) {
            return Ok(key);
        }
        // A damaged file can name many generations; what is derived again costs only time.
        if keys.len() >= 16 {
            keys.remove(0);
        }
        keys.push((generation, key.clone()));
        Ok(key)
    }
}

/// Decisions of the key service that still hold: file keys that may be used again without asking.
pub struct Leases {
    length: Duration,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    files: HashMap<FileId, (Instant, Arc<FileKeys>)>,
    /// All were ended this many times.
    ends: u64,
}

/// Leases kept at once; when there are more, those that ended go, then any half.
const MAX_LEASES: usize = 16 * 1024;

impl Leases {
    /// Leases of this length.
    pub fn new(length: Duration) -> Self {
        Self { length, live: Mutex::default() }
    }

    /// The key of a file whose lease is live.
    pub fn get(&self, file: &FileId) -> Option<Arc<FileKeys>> {
        let files = &mut self.live.lock().files;
        match files.get(file) {
            Some((until, keys)) if Instant::now() < *until => Some(keys.clone()),
            Some(_) => {
                files.remove(file);
                None
            }
            None => None,
        }
    }

    /// To be taken before the key service is asked, and given to [`Self::put`].
    pub fn mark(&self) -> u64 {
        self.live.lock().ends
    }

    /// Begins a lease, unless all were ended since `mark`: the decision may be older than what ended them.
    pub fn put(&self, file: FileId, keys: Arc<FileKeys>, mark: u64) {
        if self.length.is_zero() {
            return;
        }
        let now = Instant::now();
        let live = &mut *self.live.lock();
        if live.ends != mark {
            return;
        }
        let files = &mut live.files;
        if files.len() >= MAX_LEASES {
            files.retain(|_, (until, _)| now < *until);
            // Still full: half of them, whichever; a lost lease costs one call.
            if files.len() >= MAX_LEASES {
                let mut keep = false;
                files.retain(|_, _| {
                    keep = !keep;
                    keep
                });
            }
        }
        files.insert(file, (now + self.length, keys));
    }

    /// Ends one. Whoever decides about this file now must not be heard any more: the caller keeps it from being opened.
    pub fn end(&self, file: &FileId) {
        self.live.lock().files.remove(file);
    }

    /// Ends all.
    pub fn end_all(&self) {
        let mut live = self.live.lock();
        live.files.clear();
        live.ends += 1;
    }
}

/// A data key, with the file id its context names.
pub struct FreshKey {
    /// Id of the file to be.
    pub file_id: FileId,
    /// Its key.
    pub data: DataKey,
    /// Its key, wrapped.
    pub wrapped: WrappedKey,
}

impl FreshKey {
    /// Asks the key service for one.
    pub fn generate(keys: &dyn KeyService, key_id: &str, volume: &VolumeId) -> Result<Self> {
        let file_id: FileId = random()?;
        Self::new(file_id, keys.generate_data_key(key_id, &file_context(volume, &file_id))?)
    }

    fn new(file_id: FileId, made: crate::kms::DataKey) -> Result<Self> {
        let data = DataKey(Secret::from_slice(made.plaintext.expose())?);
        Ok(Self { file_id, data, wrapped: WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext } })
    }
}

/// A data key for a file of the volume, for everybody who shall open it.
pub struct SharedKey {
    /// Id of the file.
    pub file_id: FileId,
    /// Its key.
    pub data: DataKey,
    /// Its key, wrapped: first under the volume's own KMS key, then for each recipient.
    pub wrapped: Vec<WrappedKey>,
}

/// Makes data keys that everybody who shall can open.
pub struct Maker {
    /// KMS key of new files, or why there is none.
    key_id: Mutex<std::result::Result<String, KmsError>>,
    volume: VolumeId,
    recipients: Mutex<Arc<Recipients>>,
}

impl Maker {
    /// Of one volume.
    pub fn new(
        key_id: std::result::Result<String, KmsError>,
        volume: VolumeId,
        recipients: Recipients,
    ) -> Self {
        Self { key_id: Mutex::new(key_id), volume, recipients: Mutex::new(Arc::new(recipients)) }
    }

    /// A data key for the file with this id.
    pub fn make_for(&self, keys: &dyn KeyService, file_id: FileId) -> Result<SharedKey> {
        let context = file_context(&self.volume, &file_id);
        let made = keys.generate_data_key(&self.key_id()?, &context)?;
        self.share(keys, FreshKey::new(file_id, made)?, &context)
    }

    fn key_id(&self) -> Result<String> {
        self.key_id.lock().clone().map_err(VolumeError::Key)
    }

    /// Asks the key service for some.
    fn make_some(&self, keys: &dyn KeyService, count: usize) -> Result<Vec<SharedKey>> {
        let ids = (0..count).map(|_| random()).collect::<std::result::Result<Vec<FileId>, _>>()?;
        let contexts: Vec<_> = ids.iter().map(|id| file_context(&self.volume, id)).collect();
        let made = keys.generate_data_keys(&self.key_id()?, &contexts)?;
        let all = ids.into_iter().zip(made).zip(&contexts);
        all.map(|((id, made), context)| self.share(keys, FreshKey::new(id, made)?, context)).collect()
    }

    fn share(
        &self,
        keys: &dyn KeyService,
        fresh: FreshKey,
        context: &EncryptionContext,
    ) -> Result<SharedKey> {
        let FreshKey { file_id, data, wrapped } = fresh;
        // Not under the lock: a key service may be far away.
        let recipients = self.recipients.lock().clone();
        let wrapped = recipients.wrap_all(keys, wrapped, data.expose(), context)?;
        Ok(SharedKey { file_id, data, wrapped })
    }
}

/// Data keys made ahead, so that creating a file does not wait for the key service. Each is recorded when it is
/// made: so few wait at first, and more whenever there was none to take.
pub struct Pool {
    maker: Maker,
    /// The most that wait.
    limit: usize,
    state: Mutex<PoolState>,
    wake: Condvar,
}

/// Keys that are asked for together.
const AT_ONCE: usize = 32;

struct PoolState {
    /// KMS key or recipients were set this many times.
    turn: u64,
    ready: VecDeque<SharedKey>,
    /// How many shall wait.
    target: usize,
    /// Drained this many times; a key asked for before a drain is not put in after it.
    drains: u64,
    /// Nobody creates files: the pool fills only after the first take.
    active: bool,
    stop: bool,
}

impl PoolState {
    fn drain(&mut self) {
        self.ready.clear();
        self.target = 0;
        self.drains += 1;
        self.active = false;
    }
}

impl Pool {
    /// An empty pool; [`Self::run`] fills it.
    pub fn new(maker: Maker, limit: usize) -> Self {
        let ready = VecDeque::new();
        let state = PoolState { turn: 0, ready, target: 0, drains: 0, active: false, stop: false };
        Self { maker, limit, state: Mutex::new(state), wake: Condvar::new() }
    }

    /// A key from the pool, or a new one.
    pub fn take(&self, keys: &dyn KeyService) -> Result<SharedKey> {
        if self.limit > 0 {
            let mut state = self.state.lock();
            state.active = true;
            let ready = state.ready.pop_front();
            if ready.is_none() {
                state.target = (state.target * 2).clamp(1, self.limit);
            }
            if state.ready.len() <= state.target / 2 {
                self.wake.notify_one();
            }
            if let Some(key) = ready {
                return Ok(key);
            }
        }
        self.maker.make_for(keys, random()?)
    }

    /// From now on keys are made under this KMS key. One taken before [`Self::turn`] moved may be under another.
    pub fn use_key(&self, key_id: String) {
        let mut state = self.state.lock();
        *self.maker.key_id.lock() = Ok(key_id);
        state.turn += 1;
        state.drain();
    }

    /// From now on keys are wrapped for these recipients too; as [`Self::use_key`].
    pub fn use_recipients(&self, recipients: Recipients) {
        let mut state = self.state.lock();
        *self.maker.recipients.lock() = Arc::new(recipients);
        state.turn += 1;
        state.drain();
    }

    /// How often KMS key or recipients were set.
    pub fn turn(&self) -> u64 {
        self.state.lock().turn
    }

    /// Drops what is ready: the decisions behind it no longer hold.
    pub fn drain(&self) {
        self.state.lock().drain();
    }

    /// Fills the pool until [`Self::stop`].
    pub fn run(&self, keys: &dyn KeyService) {
        let mut state = self.state.lock();
        let mut filling = false;
        while !state.stop {
            let wished = if filling { state.target } else { state.target / 2 + 1 };
            filling = state.active && state.ready.len() < wished;
            if !filling {
                self.wake.wait(&mut state);
                continue;
            }
            let (drains, lacking) = (state.drains, state.target - state.ready.len());
            drop(state);
            let made = self.maker.make_some(keys, lacking.min(AT_ONCE));
            state = self.state.lock();
            match made {
                Ok(made) if state.drains == drains => state.ready.extend(made),
                Ok(_) => {}
                // Whoever creates a file next asks for itself and is told why.
                Err(_) => state.active = false,
            }
        }
    }

    /// Ends [`Self::run`].
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stop = true;
        state.ready.clear();
        self.wake.notify_all();
    }
}
