//! kmsfs.json (docs/format.md, "The volume root").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::disk::Dir;
use super::error::{Attempt, Result, VolumeError};
use super::header::WrappedKey;
use super::keys::{VolumeId, VolumeKeys};
use super::names;
use crate::crypto::mac;
use crate::kms::KeyHolder;

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
}

impl Feature {
    /// All that there are.
    pub const ALL: [Self; 1] = [Self::AwsKms];

    /// Its name in a descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::AwsKms => "aws-kms",
        }
    }
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
    mac: [u8; 32],
}

impl Descriptor {
    /// A new one, authenticated.
    pub fn new(volume: &VolumeKeys, region: String, features: Vec<Feature>, keys: Vec<WrappedKey>) -> Self {
        let message = authenticated(&features, &volume.id, &region);
        let mac = mac::hmac_sha256(volume.descriptor.expose(), &[&message]);
        Self { id: volume.id, region, features, keys, mac }
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
        Ok(Self { id, region: json.region, features, keys, mac })
    }

    /// Checks the MAC.
    pub fn verify(&self, volume: &VolumeKeys) -> Result<()> {
        mac::verify_hmac_sha256(
            volume.descriptor.expose(),
            &[&authenticated(&self.features, &self.id, &self.region)],
            &self.mac,
        )
        .map_err(|_| {
            VolumeError::Descriptor(
                "was changed, or is another volume's; restore it from a backup".to_owned(),
            )
        })
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

fn authenticated(features: &[Feature], id: &VolumeId, region: &str) -> Vec<u8> {
    let mut out = b"kmsfs descriptor".to_vec();
    out.extend_from_slice(&super::FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&(features.len() as u32).to_le_bytes());
    for feature in features {
        let name = feature.name();
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(id);
    out.extend_from_slice(&(region.len() as u32).to_le_bytes());
    out.extend_from_slice(region.as_bytes());
    out
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
