//! kmsfs.json (docs/format.md, "The volume root").

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::disk::Dir;
use super::epoch;
use super::error::{Attempt, Result, VolumeError};
use super::header::WrappedKey;
use super::keys::{VolumeId, VolumeKey, VolumeKeys, volume_context};
use super::names;
use super::recipients::{MAX_RECIPIENTS, Opens, Recipient};
use crate::crypto::asymmetric::{Oaep, PublicKey};
use crate::crypto::{Secret, mac};
use crate::kms::{KeyHolder, KeyService, KmsError};

/// Name of the descriptor.
pub const DESCRIPTOR: &[u8] = b"kmsfs.json";
/// Directory of the volume's own files.
pub const PRIVATE_DIR: &[u8] = b".kmsfs";
/// In it: long targets.
pub const LINKS_DIR: &[u8] = b"links";
/// In it: the lock.
pub const LOCK: &[u8] = b"lock";

/// A descriptor takes no more than this.
const MAX_LEN: usize = 256 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    format: u32,
    features: Vec<String>,
    volume_id: String,
    region: String,
    volume_keys: Vec<JsonKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipients: Vec<ListedRecipient>,
    mac: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonKey {
    key_arn: String,
    ciphertext: String,
}

/// What a reader must know of beside the first version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The wrapped keys are at AWS KMS.
    AwsKms,
    /// Keys are wrapped for others too.
    Recipients,
}

impl Feature {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::AwsKms, Self::Recipients];

    /// Its name in a descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::AwsKms => "aws-kms",
            Self::Recipients => "recipients",
        }
    }
}

/// A recipient as JSON names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedRecipient {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

/// What the descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The volume.
    pub id: VolumeId,
    /// Region of its key service.
    pub region: String,
    /// In the order in which they are listed.
    pub features: Vec<Feature>,
    /// The wrapped volume key, under one to four KMS keys; the first is the key of new files.
    pub keys: Vec<WrappedKey>,
    /// Who else shall open every key of the volume.
    pub recipients: Vec<Recipient>,
    mac: [u8; 32],
}

/// A volume key that was opened.
pub struct Unwrapped {
    /// The key.
    pub key: VolumeKey,
    /// What is derived from it.
    pub keys: VolumeKeys,
    /// Which of the wrapped keys was opened: of the others nobody knows whether they are the volume's.
    pub opened: usize,
    /// KMS key of new files: that of the first wrapped key if that was opened, or why it was not. The list of wrapped keys
    /// is not authenticated, so a name in it that opens nothing must not get the keys of new files.
    pub own: std::result::Result<String, KmsError>,
}

impl Descriptor {
    /// A new one without recipients, authenticated.
    pub fn new(volume: &VolumeKeys, region: String, features: Vec<Feature>, keys: Vec<WrappedKey>) -> Self {
        Self::with(volume, region, features, keys, Vec::new())
    }

    /// A new one, authenticated. Who is a recipient and has the volume's own KMS key, the first, is none any more: everything is
    /// under it already.
    pub fn with(
        volume: &VolumeKeys,
        region: String,
        features: Vec<Feature>,
        keys: Vec<WrappedKey>,
        mut recipients: Vec<Recipient>,
    ) -> Self {
        recipients.retain(|recipient| keys.first().is_none_or(|own| own.key_arn != recipient.name));
        let features = with_feature(features, &recipients);
        let message = authenticated(&features, &volume.id, &region, &recipients);
        let mac = mac::hmac_sha256(volume.descriptor.expose(), &[&message]);
        Self { id: volume.id, region, features, keys, recipients, mac }
    }

    /// The same volume in another region or at another key service, authenticated anew.
    pub fn moved(
        &self,
        volume: &VolumeKeys,
        region: String,
        holder: KeyHolder,
        keys: Vec<WrappedKey>,
    ) -> Self {
        Self::with(volume, region, Self::features_of(holder), keys, self.recipients.clone())
    }

    /// With other recipients and their wrapped keys, authenticated anew.
    pub fn with_recipients(
        &self,
        volume: &VolumeKeys,
        keys: Vec<WrappedKey>,
        recipients: Vec<Recipient>,
    ) -> Self {
        Self::with(volume, self.region.clone(), Self::features_of(self.holder()), keys, recipients)
    }

    /// The features of a volume whose keys this service has.
    pub fn features_of(holder: KeyHolder) -> Vec<Feature> {
        match holder {
            KeyHolder::Embedded => Vec::new(),
            KeyHolder::Aws => vec![Feature::AwsKms],
        }
    }

    /// Which key service has the wrapped keys.
    pub fn holder(&self) -> KeyHolder {
        if self.features.contains(&Feature::AwsKms) { KeyHolder::Aws } else { KeyHolder::Embedded }
    }

    /// With other wrapped keys, which are outside of the MAC.
    pub fn with_keys(&self, keys: Vec<WrappedKey>) -> Self {
        Self { keys, ..self.clone() }
    }

    /// JSON.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let keys = self.keys.iter();
        let keys =
            keys.map(|k| JsonKey { key_arn: k.key_arn.clone(), ciphertext: STANDARD.encode(&k.ciphertext) });
        let json = Json {
            format: super::FORMAT_VERSION,
            features: self.features.iter().map(|feature| feature.name().to_owned()).collect(),
            volume_id: hex::encode(self.id),
            region: self.region.clone(),
            volume_keys: keys.collect(),
            recipients: ListedRecipient::list(&self.recipients),
            mac: hex::encode(self.mac),
        };
        let mut text =
            serde_json::to_vec_pretty(&json).map_err(|e| VolumeError::Descriptor(e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads JSON. Nothing is authenticated yet.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let bad = VolumeError::Descriptor;
        let not_json = |e: serde_json::Error| bad(format!("is damaged ({e}); restore it from a backup"));
        // The version first: a later format may have other members.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(text).map_err(not_json)?;
        if version.format != super::FORMAT_VERSION {
            let known = super::FORMAT_VERSION;
            return Err(bad(format!(
                "has format {}, this kmsfs knows {known}; use a newer one",
                version.format
            )));
        }
        let json: Json = serde_json::from_slice(text).map_err(not_json)?;
        let damaged = || bad("is damaged; restore it from a backup".to_owned());
        let mut features = Vec::new();
        for name in &json.features {
            let Some(feature) = Feature::ALL.into_iter().find(|feature| feature.name() == name) else {
                return Err(bad(format!(
                    "needs the feature {name:?}, which this kmsfs does not have; use a newer one"
                )));
            };
            if features.contains(&feature) {
                return Err(damaged());
            }
            features.push(feature);
        }
        let id = hex::decode(&json.volume_id).ok().and_then(|b| b.try_into().ok()).ok_or_else(damaged)?;
        let mac = hex::decode(&json.mac).ok().and_then(|b| b.try_into().ok()).ok_or_else(damaged)?;
        if json.volume_keys.is_empty() || json.volume_keys.len() > 4 {
            return Err(damaged());
        }
        let mut keys = Vec::new();
        for key in json.volume_keys {
            let ciphertext = STANDARD.decode(&key.ciphertext).map_err(|_| damaged())?;
            keys.push(WrappedKey { key_arn: key.key_arn, ciphertext });
        }
        let recipients = json.recipients.iter().map(|listed| listed.parse().ok_or_else(damaged));
        let recipients = recipients.collect::<Result<Vec<_>>>()?;
        let holders: Vec<_> = features.iter().copied().filter(|f| *f != Feature::Recipients).collect();
        if recipients.len() > MAX_RECIPIENTS || features != with_feature(holders, &recipients) {
            return Err(damaged());
        }
        Ok(Self { id, region: json.region, features, keys, recipients, mac })
    }

    /// Checks the MAC.
    pub fn verify(&self, volume: &VolumeKeys) -> Result<()> {
        mac::verify_hmac_sha256(
            volume.descriptor.expose(),
            &[&authenticated(&self.features, &self.id, &self.region, &self.recipients)],
            &self.mac,
        )
        .map_err(|_| {
            VolumeError::Descriptor(
                "was changed, or is another volume's; restore it from a backup".to_owned(),
            )
        })
    }

    /// Opens the volume key with a key service, and checks the MAC under it. `only` names a recipient whose wrapped
    /// key is to be opened, and no other.
    pub fn unwrap(&self, service: &dyn KeyService, only: Option<&str>) -> Result<Unwrapped> {
        let context = volume_context(&self.id);
        let opens = Opens::new(&self.region, &self.recipients, only);
        let mut refusal = None;
        for (at, wrapped) in self.keys.iter().enumerate().filter(|(_, wrapped)| opens.takes(wrapped)) {
            match service.decrypt(Some(&wrapped.key_arn), &wrapped.ciphertext, &context) {
                Ok(opened) => {
                    let key = VolumeKey(Secret::from_slice(opened.plaintext.expose())?);
                    let keys = VolumeKeys::derive(&key, self.id)?;
                    self.verify(&keys)?;
                    let own = match (at, refusal) {
                        (0, _) => Ok(wrapped.key_arn.clone()),
                        (_, Some(refused)) => Err(refused),
                        (_, None) => Err(KmsError::new(
                            crate::kms::KmsErrorKind::InvalidCiphertext,
                            "the volume's first key is of another region; nothing new is made under another than that",
                        )),
                    };
                    return Ok(Unwrapped { key, keys, opened: at, own });
                }
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.map_or_else(|| opens.nothing("the volume"), VolumeError::Key))
    }

    /// Reads the descriptor of the volume in `dir`.
    pub fn read(dir: &dyn Dir) -> Result<Self> {
        match read_file(dir, DESCRIPTOR, MAX_LEN) {
            Ok(text) => Self::parse(&text),
            Err(e) if e.is_not_found() => Err(VolumeError::NotAVolume { path: "the directory".to_owned() }),
            Err(e) => Err(e),
        }
    }
}

/// Features with or without that of having recipients, as the last.
fn with_feature(mut features: Vec<Feature>, recipients: &[Recipient]) -> Vec<Feature> {
    features.retain(|feature| *feature != Feature::Recipients);
    if !recipients.is_empty() {
        features.push(Feature::Recipients);
    }
    features
}

impl ListedRecipient {
    /// Recipients as a descriptor lists them.
    pub fn list(recipients: &[Recipient]) -> Vec<Self> {
        recipients.iter().map(Self::of).collect()
    }

    /// One recipient.
    pub fn of(recipient: &Recipient) -> Self {
        Self {
            name: recipient.name.clone(),
            public_key: recipient.public_key.as_ref().map(|key| STANDARD.encode(key.der())),
        }
    }

    /// Whom it names; None if its public key is none.
    pub fn parse(&self) -> Option<Recipient> {
        let public_key = match &self.public_key {
            None => None,
            Some(text) => {
                let key = PublicKey::parse(&STANDARD.decode(text).ok()?).ok()?;
                key.encrypts_at_most(Oaep::Sha256)?;
                Some(key)
            }
        };
        Some(Recipient { name: self.name.clone(), public_key })
    }
}

fn authenticated(features: &[Feature], id: &VolumeId, region: &str, recipients: &[Recipient]) -> Vec<u8> {
    let mut out = b"kmsfs descriptor".to_vec();
    let put = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    out.extend_from_slice(&super::FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&(features.len() as u32).to_le_bytes());
    for feature in features {
        put(&mut out, feature.name().as_bytes());
    }
    out.extend_from_slice(id);
    put(&mut out, region.as_bytes());
    if !recipients.is_empty() {
        out.extend_from_slice(&(recipients.len() as u32).to_le_bytes());
    }
    for recipient in recipients {
        put(&mut out, recipient.name.as_bytes());
        put(&mut out, recipient.public_key.as_ref().map_or(&[], PublicKey::der));
    }
    out
}

/// A volume that nobody has mounted, or will, while this lives.
pub struct Alone {
    /// The volume's private directory.
    pub private: Arc<dyn Dir>,
    _lock: Box<dyn Send + Sync>,
}

/// Takes the volume in `root` for work that no mount may meet. `settled`: and which must have been closed cleanly, because
/// writing a header moves the ctime, which would excuse files that the crash did not touch.
pub fn alone(root: &Arc<dyn Dir>, settled: bool) -> Result<Alone> {
    let private = root.open_dir(PRIVATE_DIR).attempt("opening the volume's private directory")?;
    let lock = private.lock(LOCK, true).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => VolumeError::InUse,
        _ => VolumeError::Backing { what: "locking the volume", source },
    })?;
    if settled && !epoch::is_settled(&*private)? {
        return Err(VolumeError::NotSettled);
    }
    Ok(Alone { private, _lock: lock })
}

/// A whole small file.
pub fn read_file(dir: &dyn Dir, name: &[u8], max: usize) -> Result<Vec<u8>> {
    let file = dir.open_file(name, false).attempt("opening one of the volume's own files")?;
    let mut bytes = vec![0; max + 1];
    let read = file.read_at(&mut bytes, 0).attempt("reading one of the volume's own files")?;
    if read > max {
        return Err(VolumeError::damaged("one of the volume's own files is too long"));
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file so that a power cut leaves the old or the new one: temporary name, fsync, rename,
/// fsync of the directory.
pub fn replace_file(dir: &dyn Dir, name: &[u8], bytes: &[u8]) -> Result<()> {
    let temporary = names::temporary_name()?;
    let what = "writing one of the volume's own files";
    let file = dir.create_file(&temporary, 0o600).attempt(what)?;
    let written = file.write_at(bytes, 0).and_then(|()| file.sync_all());
    let renamed = written.and_then(|()| dir.rename(&temporary, dir, name, super::disk::RenameMode::Replace));
    if renamed.is_err() {
        // Best effort: the error that counts is the one above.
        let _ = dir.unlink(&temporary);
    }
    renamed.attempt(what)?;
    dir.sync().attempt(what)
}
