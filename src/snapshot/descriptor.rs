//! snapshot.json: what a snapshot says of itself in the clear, authenticated under a subkey of the volume key
//! (docs/format.md, "Snapshots").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::{Result, SnapshotError};
use crate::crypto::{Secret, mac};
use crate::kms::{FileEvent, KeyService, SnapshotAction};
use crate::volume::descriptor::{Feature, ListedRecipient};
use crate::volume::header::WrappedKey;
use crate::volume::keys::{VolumeId, VolumeKey, VolumeKeys, volume_context};
use crate::volume::layout::PAGE;
use crate::volume::recipients::Recipient;

/// Version of the format of snapshots.
pub const SNAPSHOT_FORMAT: u32 = 1;
/// A descriptor takes no more than this: 100,000 packs, 25 TiB.
pub const MAX_DESCRIPTOR: usize = 16 << 20;

/// Sixteen random bytes, in hex where they are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Id(pub [u8; 16]);

impl From<Id> for String {
    fn from(id: Id) -> Self {
        hex::encode(id.0)
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let id = hex::decode(&text).ok().and_then(|bytes| bytes.try_into().ok()).map(Id);
        // One way to write it, or the MAC would hold for two texts.
        id.filter(|id| String::from(*id) == text).ok_or_else(|| format!("{text:?} is no id: 32 hex digits"))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A snapshot that another one names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Id,
}

/// The snapshot of which this one is a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Id,
    /// Its region.
    pub region: String,
    /// Its account.
    pub account: String,
    /// True if every file was encrypted again under a new data key; false if data keys were only wrapped again.
    pub encrypted_again: bool,
}

/// A file of ciphertext pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// Its name.
    pub id: Id,
    /// Whole pages in it. 0: the manifest names none of it, and has no need of it; an earlier one had it at this place.
    pub pages: u64,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Regular files, each name of a hard-linked one.
    pub files: u64,
    /// Directories, with the root.
    pub directories: u64,
    /// Symbolic links, FIFOs, sockets, devices, of the encrypted tree (without `kmsfs.dir` and the like).
    pub others: u64,
    /// Plaintext bytes of all files, as their lengths give them.
    pub bytes: u64,
    /// Pages of files that this snapshot added to the depot; the rest it shares with earlier ones.
    pub new_pages: u64,
}

/// How many files are under a set of KMS keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUse {
    /// ARNs, in the order of the headers: each of them opens the files.
    pub key_arns: Vec<String>,
    /// Files.
    pub files: u64,
}

/// A wrapped volume key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedKey {
    /// KMS key.
    pub key_arn: String,
    /// Base64 (RFC 4648 section 4) of the CiphertextBlob.
    pub ciphertext: String,
}

/// snapshot.json. The order of the members is part of the format: the MAC is taken over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// [`SNAPSHOT_FORMAT`].
    pub format: u32,
    /// The volume's, as kmsfs.json lists them; an unknown one is refused.
    pub features: Vec<String>,
    /// The snapshot.
    pub snapshot_id: Id,
    /// Its name, which is that of its directory.
    pub name: String,
    /// The volume.
    pub volume_id: Id,
    /// Region of the keys.
    pub region: String,
    /// Account of the keys.
    pub account: String,
    /// When it was taken, seconds since 1970.
    pub created: i64,
    /// Hex of the epoch marker of the captured state, which is clean.
    pub epoch: String,
    /// What it was made against, if it is incremental. Its packs are named here too: it need not stand.
    pub parent: Option<Parent>,
    /// What it is a copy of.
    pub copied_from: Option<Origin>,
    /// File id of the manifest.
    pub manifest: Id,
    /// The packs that the manifest's extents name, by their place in this list; see [`Self::standing_packs`].
    pub packs: Vec<Pack>,
    /// What it holds.
    pub counts: Counts,
    /// The files by the KMS keys they are under. Entries of the manifest name a set by its place in this list.
    pub keys: Vec<KeyUse>,
    /// The volume's recipients, as kmsfs.json lists them: whoever writes to what is restored wraps for them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<ListedRecipient>,
    /// The wrapped volume key; outside of the MAC, as in kmsfs.json: authenticated by what it opens to.
    pub volume_keys: Vec<SealedKey>,
    /// Hex.
    pub mac: String,
}

impl Descriptor {
    /// Puts the MAC in.
    pub fn sign(&mut self, volume: &VolumeKeys) -> Result<()> {
        self.check()?;
        self.mac = hex::encode(mac::hmac_sha256(volume.snapshot(), &[&self.authenticated()?]));
        Ok(())
    }

    /// Checks the MAC.
    pub fn verify(&self, volume: &VolumeKeys) -> Result<()> {
        let due = hex::decode(&self.mac).unwrap_or_default();
        mac::verify_hmac_sha256(volume.snapshot(), &[&self.authenticated()?], &due).map_err(|_| {
            SnapshotError::damaged(format!(
                "snapshot.json of {:?} was changed, or is another volume's; use another snapshot",
                self.name
            ))
        })
    }

    /// What the MAC is taken over: compact JSON of all members, volume_keys and mac empty.
    fn authenticated(&self) -> Result<Vec<u8>> {
        let signed = Self { volume_keys: Vec::new(), mac: String::new(), ..self.clone() };
        let mut out = b"kmsfs snapshot".to_vec();
        out.append(&mut serde_json::to_vec(&signed).map_err(|e| SnapshotError::damaged(e.to_string()))?);
        Ok(out)
    }

    /// JSON for people and programs.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| SnapshotError::damaged(e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads JSON. Nothing is authenticated yet; but what is read is sound in itself.
    pub fn parse(text: &[u8]) -> Result<Self> {
        // Its words hold names that stand in the text: those must do nothing to a terminal.
        let not_json = |e: serde_json::Error| {
            let why = e.to_string().replace(char::is_control, "?");
            SnapshotError::damaged(format!("snapshot.json is none ({why})"))
        };
        // The version first: a later format may have other members.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(text).map_err(not_json)?;
        if format != SNAPSHOT_FORMAT {
            return Err(SnapshotError::Newer(format!(
                "the snapshot has format {format}, known is {SNAPSHOT_FORMAT}"
            )));
        }
        let read: Self = serde_json::from_slice(text).map_err(not_json)?;
        read.volume_features()?;
        read.check()?;
        if read.volume_keys.is_empty() || read.volume_keys.len() > 4 {
            return Err(SnapshotError::damaged("snapshot.json lists no volume key, or more than four"));
        }
        Ok(read)
    }

    /// Strings that JSON writes in one way only, and numbers that do not overflow what is computed from them.
    fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        let plain = |text: &str| {
            text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        self.listed_recipients()?;
        let texts = [&self.region, &self.account, &self.epoch];
        let origin = self.copied_from.iter().flat_map(|o| [&o.region, &o.account]);
        // The volume keys' too, which are outside of the MAC: they are shown, and parts of commands.
        let sealed = self.volume_keys.iter().map(|key| &key.key_arn);
        let arns = self.keys.iter().flat_map(|k| &k.key_arns).chain(sealed);
        if !texts.into_iter().chain(origin).chain(arns).all(|text| plain(text)) {
            return Err(SnapshotError::damaged("snapshot.json holds a text that is none of its kind"));
        }
        self.parent
            .iter()
            .map(|p| &p.name)
            .chain(self.copied_from.iter().map(|o| &o.name))
            .try_for_each(|n| check_name(n))?;
        if self.packs.iter().any(|pack| pack.pages > MAX_PACK_PAGES) {
            return Err(SnapshotError::damaged("snapshot.json names a pack that is too large"));
        }
        let Counts { files, directories, others, bytes: _, new_pages } = self.counts;
        let under_keys = self.keys.iter().try_fold(0u64, |sum, of| sum.checked_add(of.files));
        let counts = [files, directories, others, under_keys.unwrap_or(u64::MAX)];
        if counts.iter().any(|count| *count > MAX_ENTRIES) || new_pages > u64::MAX / PAGE {
            return Err(SnapshotError::damaged("snapshot.json counts more than there can be"));
        }
        Ok(())
    }

    /// The packs that it needs.
    pub fn standing_packs(&self) -> impl Iterator<Item = &Pack> {
        self.packs.iter().filter(|pack| pack.pages > 0)
    }

    /// The volume's features.
    pub fn volume_features(&self) -> Result<Vec<Feature>> {
        let known = |name: &String| Feature::ALL.into_iter().find(|feature| feature.name() == name);
        let newer = |name| SnapshotError::Newer(format!("the snapshot needs the feature {name:?}"));
        self.features.iter().map(|name| known(name).ok_or_else(|| newer(name))).collect()
    }

    /// The volume's recipients.
    pub fn listed_recipients(&self) -> Result<Vec<Recipient>> {
        let damaged = || SnapshotError::damaged("snapshot.json names a recipient's public key that is none");
        self.recipients.iter().map(|listed| listed.parse().ok_or_else(damaged)).collect()
    }

    /// The wrapped volume keys.
    pub fn wrapped_keys(&self) -> Result<Vec<WrappedKey>> {
        let keys = self.volume_keys.iter().map(|key| {
            let ciphertext = STANDARD
                .decode(&key.ciphertext)
                .map_err(|_| SnapshotError::damaged("a wrapped volume key in snapshot.json is not base64"))?;
            Ok(WrappedKey { key_arn: key.key_arn.clone(), ciphertext })
        });
        keys.collect()
    }

    /// The form of wrapped volume keys here.
    pub fn seal_keys(keys: &[WrappedKey]) -> Vec<SealedKey> {
        let seal = |key: &WrappedKey| SealedKey {
            key_arn: key.key_arn.clone(),
            ciphertext: STANDARD.encode(&key.ciphertext),
        };
        keys.iter().map(seal).collect()
    }

    /// Opens the volume key, with one Decrypt, and checks the MAC under it.
    pub fn unlock(&self, service: &dyn KeyService) -> Result<VolumeKeys> {
        self.unlock_by(service).map(|(keys, _)| keys)
    }

    /// The same, with the ARN of the KMS key that opened it: that alone tells whose snapshot it is.
    pub fn unlock_by(&self, service: &dyn KeyService) -> Result<(VolumeKeys, String)> {
        let (keys, key_arn) = first_that_opens(service, &self.volume_id.0, &self.wrapped_keys()?)?;
        self.verify(&keys)?;
        Ok((keys, key_arn))
    }

    /// The event of something that is done with it.
    pub fn event(&self, action: SnapshotAction) -> FileEvent {
        FileEvent::Snapshot {
            action,
            volume_id: self.volume_id.to_string(),
            snapshot_id: self.snapshot_id.to_string(),
            name: self.name.clone(),
        }
    }
}

/// More entries than any volume has; sums of so many do not overflow.
const MAX_ENTRIES: u64 = 1 << 48;

/// The most a pack may hold: 1 TiB.
pub const MAX_PACK_PAGES: u64 = 1 << 28;

/// The first wrapped volume key that the key service opens.
pub fn open_volume_key(
    service: &dyn KeyService,
    volume: &VolumeId,
    wrapped: &[WrappedKey],
) -> Result<VolumeKeys> {
    first_that_opens(service, volume, wrapped).map(|(keys, _)| keys)
}

/// It, and the KMS key that the key service says it is under.
fn first_that_opens(
    service: &dyn KeyService,
    volume: &VolumeId,
    wrapped: &[WrappedKey],
) -> Result<(VolumeKeys, String)> {
    let context = volume_context(volume);
    let mut refusal = None;
    for key in wrapped {
        match service.decrypt(Some(&key.key_arn), &key.ciphertext, &context) {
            Ok(opened) => {
                let key = VolumeKey(Secret::from_slice(opened.plaintext.expose())?);
                return Ok((VolumeKeys::derive(&key, *volume)?, opened.key_arn));
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(match refusal {
        Some(error) => error.into(),
        None => SnapshotError::damaged("no wrapped volume key is listed"),
    })
}

/// Refuses what is no name of a snapshot: it becomes a component of a path, and of a URL.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && name.len() <= 128 && name.bytes().all(allowed) && !name.starts_with("tmp.") {
        Ok(())
    } else {
        Err(SnapshotError::BadName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(first: u8) -> VolumeKeys {
        VolumeKeys::derive(&VolumeKey(Secret::new([first; 32])), [2; 16]).unwrap()
    }

    pub(in crate::snapshot) fn sample() -> Descriptor {
        Descriptor {
            format: SNAPSHOT_FORMAT,
            features: Vec::new(),
            snapshot_id: Id([1; 16]),
            name: "daily-1".into(),
            volume_id: Id([2; 16]),
            region: "us-east-1".into(),
            account: "000000000000".into(),
            created: 1_800_000_000,
            epoch: "00ff".into(),
            parent: Some(Parent { name: "daily-0".into(), id: Id([3; 16]) }),
            copied_from: None,
            manifest: Id([4; 16]),
            packs: vec![Pack { id: Id([5; 16]), pages: 7 }],
            counts: Counts { files: 1, directories: 2, others: 3, bytes: 4, new_pages: 5 },
            keys: vec![KeyUse {
                key_arns: vec!["arn:aws:kms:us-east-1:000000000000:key/x".into()],
                files: 1,
            }],
            recipients: Vec::new(),
            volume_keys: vec![SealedKey { key_arn: "arn".into(), ciphertext: "AAAA".into() }],
            mac: String::new(),
        }
    }

    #[test]
    fn comes_back_and_knows_its_volume() {
        let mut descriptor = sample();
        descriptor.sign(&keys(1)).unwrap();
        let read = Descriptor::parse(&descriptor.encode().unwrap()).unwrap();
        assert_eq!(read, descriptor);
        read.verify(&keys(1)).unwrap();
        assert!(matches!(read.verify(&keys(9)), Err(SnapshotError::Damaged(_))));
        // Rewrapping the volume key leaves the MAC.
        let rewrapped = Descriptor { volume_keys: Vec::new(), ..read };
        rewrapped.verify(&keys(1)).unwrap();
    }

    #[test]
    fn names_are_components_of_paths() {
        for good in ["a", "2026-11-28T17.00_x", "A1"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "-a", ".a", "a b", "ä", "tmp.x", &"a".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn later_formats_and_unknown_members_are_refused() {
        let mut descriptor = sample();
        descriptor.sign(&keys(1)).unwrap();
        let text = String::from_utf8(descriptor.encode().unwrap()).unwrap();
        let later = text.replace("\"format\": 1", "\"format\": 2");
        assert!(matches!(Descriptor::parse(later.as_bytes()), Err(SnapshotError::Newer(_))));
        let feature = text.replace("\"features\": []", "\"features\": [\"x\"]");
        assert!(matches!(Descriptor::parse(feature.as_bytes()), Err(SnapshotError::Newer(_))));
        let more = text.replace("\"format\": 1", "\"format\": 1, \"more\": 1");
        assert!(matches!(Descriptor::parse(more.as_bytes()), Err(SnapshotError::Damaged(_))));
    }

    /// Nothing of it is authenticated when it is listed, shown and added up.
    #[test]
    fn what_a_descriptor_claims_neither_overflows_nor_reaches_a_terminal() {
        type Change<'a> = &'a dyn Fn(&mut Descriptor);
        let sealed = |arn: &str| SealedKey { key_arn: arn.to_owned(), ciphertext: String::new() };
        let used = |files| KeyUse { key_arns: vec!["a".to_owned()], files };
        let changes: [Change; 6] = [
            &|d| d.counts.new_pages = u64::MAX / PAGE + 1,
            &|d| d.counts.files = u64::MAX,
            &|d| d.keys = vec![used(u64::MAX), used(1)],
            &|d| d.keys = vec![used(u64::MAX / 2)],
            &|d| d.volume_keys = vec![sealed("arn:\u{1b}[2J")],
            &|d| d.volume_keys = vec![sealed("two words")],
        ];
        Descriptor::parse(&sample().encode().unwrap()).unwrap();
        for (nth, change) in changes.into_iter().enumerate() {
            let mut descriptor = sample();
            change(&mut descriptor);
            let read = Descriptor::parse(&descriptor.encode().unwrap());
            assert!(matches!(read, Err(SnapshotError::Damaged(_))), "change {nth}");
        }
        let text = String::from_utf8(sample().encode().unwrap()).unwrap();
        let more = text.replace("\"format\": 1", "\"format\": 1, \"\\u001b[2J\": 1");
        let told = Descriptor::parse(more.as_bytes()).unwrap_err().to_string();
        assert!(told.contains("[2J") && !told.contains(char::is_control), "{told:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(Descriptor::parse(&bytes).is_err());
        }

        /// Every change of a byte is refused, or changes nothing, or only what the MAC leaves out.
        #[test]
        fn a_changed_byte_never_passes(at in 0usize..1400, to in any::<u8>()) {
            let mut descriptor = sample();
            descriptor.sign(&keys(1)).unwrap();
            let mut text = descriptor.encode().unwrap();
            let at = at % text.len();
            text[at] = to;
            if let Ok(read) = Descriptor::parse(&text) && read.verify(&keys(1)).is_ok() {
                let outside = |d: &Descriptor| Descriptor { volume_keys: Vec::new(), mac: d.mac.to_lowercase(), ..d.clone() };
                prop_assert_eq!(outside(&read), outside(&descriptor));
            }
        }
    }
}
