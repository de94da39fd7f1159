//! What a unit of a copy leaves beside its pack: the entries of the new manifest, encrypted as a file of the new volume.
//! A part stands only when its pack does and was read back, so that a copy that was cut off goes on behind it.

use serde::{Deserialize, Serialize};

use super::super::depot::Depot;
use super::super::descriptor::{Id, Pack};
use super::super::error::{Result, SnapshotError};
use super::super::manifest::{Entry, file_keys};
use crate::crypto::NonceRun;
use crate::kms::KeyService;
use crate::volume::block::{self, BlockHead};
use crate::volume::header::{Header, Page};
use crate::volume::keys::{FileKeys, FreshKey, VolumeKeys};
use crate::volume::layout::{BLOCK, PAGE, block_len, blocks_for};

/// The most that is read as a part.
const MAX_PART: u64 = 1 << 30;

/// An entry of the new manifest. The places of packs are those in the part.
#[derive(Serialize, Deserialize)]
pub struct PartEntry {
    /// The group of names of one file.
    pub group: Option<u32>,
    /// The entry. In a group only the first has content and attributes; the others are given them when the manifest is
    /// written.
    pub entry: Entry,
}

/// A unit's number, how many there are, and the pages after which one ends: another call may cut elsewhere.
pub type Number = (u64, u64, u64);

/// A unit that was copied.
#[derive(Serialize, Deserialize)]
pub struct Part {
    /// The copy, so that no other one's part is taken for this one's.
    pub snapshot: Id,
    /// What it is.
    pub unit: Number,
    /// Its packs.
    pub packs: Vec<Pack>,
    /// Files whose content it holds.
    pub files: u64,
    /// Its entries, in the new manifest's order.
    pub entries: Vec<PartEntry>,
}

/// Path of a part.
pub fn part_path(name: &str, unit: usize) -> String {
    format!("snapshots/{name}/part-{unit:08}")
}

impl Part {
    /// As a file of the volume `keys`, under a data key made for it.
    pub fn seal(&self, fresh: FreshKey, volume: &VolumeKeys, epoch: u64) -> Result<Vec<u8>> {
        let plain = postcard::to_allocvec(self)
            .map_err(|e| SnapshotError::damaged(format!("a part cannot be written: {e}")))?;
        let FreshKey { file_id, data, wrapped } = fresh;
        let keys = FileKeys::derive(data, volume, &file_id)?;
        let header = Header {
            flags: 0,
            generation: 0,
            used: 1,
            file_id,
            size: plain.len() as u64,
            epoch,
            commitment: *keys.commitment(),
            keys: vec![wrapped],
        };
        let mut pages = vec![0; PAGE as usize * (1 + blocks_for(header.size) as usize)];
        let (first, rest) = pages.split_at_mut(PAGE as usize);
        first.copy_from_slice(&header.encode(&keys)?[..]);
        // The data key was made for this part and seals it once: one run of nonces.
        let (key, mut nonces) = (keys.content(0)?, NonceRun::start()?);
        for (number, (plain, page)) in
            plain.chunks(BLOCK as usize).zip(rest.chunks_mut(PAGE as usize)).enumerate()
        {
            block::seal(&key, nonces.take(), number as u64, 0, plain, page)?;
        }
        Ok(pages)
    }

    /// Reads one; None if there is none.
    pub fn read(
        depot: &dyn Depot,
        path: &str,
        volume: &VolumeKeys,
        service: &dyn KeyService,
    ) -> Result<Option<Self>> {
        let len = match depot.len(path) {
            Err(e) if e.is_not_found() => return Ok(None),
            len => len?,
        };
        let bad = |what: &str| SnapshotError::damaged(format!("{path} {what}"));
        let mut first: Box<Page> = Box::new([0; PAGE as usize]);
        if depot.read_at(path, 0, &mut first[..])? < first.len() {
            return Err(bad("is cut"));
        }
        let header = Header::parse(&first[..])?;
        let keys = file_keys(&header, volume, service)?;
        header.verify(&first[..], &keys)?;
        // Room for as much as the header says, which is authentic, and the object has.
        if header.size > MAX_PART || PAGE * (1 + blocks_for(header.size)) != len {
            return Err(bad("is not as long as its header says"));
        }
        let pages = depot.get(path, len as usize)?;
        let rest = pages.get(PAGE as usize..).filter(|_| pages.len() as u64 == len);
        let rest = rest.ok_or_else(|| bad("is cut"))?;
        let mut plain = vec![0; (blocks_for(header.size) * BLOCK) as usize];
        for (number, (page, plain)) in
            rest.chunks(PAGE as usize).zip(plain.chunks_mut(BLOCK as usize)).enumerate()
        {
            let head = BlockHead::parse(page)?;
            if u64::from(head.len) != block_len(header.size, number as u64) {
                return Err(bad("has a block of another length"));
            }
            block::open(&*keys.content(head.generation)?, head, number as u64, page, plain)?;
        }
        postcard::from_bytes(&plain[..header.size as usize]).map(Some).map_err(|_| bad("holds no entries"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::super::super::depot::Sink;
    use super::*;
    use crate::crypto::{Secret, SecretVec};
    use crate::kms::{
        DataKey as MadeKey, Decrypted, Encrypted, EncryptionContext, KeyMetadata, KmsError, KmsErrorKind,
        ReEncrypted,
    };
    use crate::volume::header::WrappedKey;
    use crate::volume::keys::{DataKey, VolumeKey};

    /// One object, and how much of it was asked for.
    struct One(Vec<u8>, AtomicU64);

    impl Depot for One {
        fn location(&self) -> String {
            "memory".to_owned()
        }

        fn len(&self, _: &str) -> Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn read_at(&self, _: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
            self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
            let from = self.0.get(offset as usize..).unwrap_or_default();
            let len = from.len().min(buf.len());
            buf[..len].copy_from_slice(&from[..len]);
            Ok(len)
        }

        fn create(&self, _: &str) -> Result<Box<dyn Sink>> {
            Err(SnapshotError::damaged("only read"))
        }

        fn list(&self, _: &str) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        fn delete(&self, _: &str) -> Result<()> {
            Ok(())
        }

        fn sweep(&self) -> Result<()> {
            Ok(())
        }

        fn lock(&self) -> Result<Box<dyn Send + Sync>> {
            Ok(Box::new(()))
        }
    }

    /// Opens one ciphertext, to one key.
    struct OneKey;

    const DATA: [u8; 32] = [3; 32];
    /// Where the wrapped keys stand in page 0 (docs/format.md, "Header").
    const KEYS_AT: usize = 112;

    fn no<T>() -> std::result::Result<T, KmsError> {
        Err(KmsError::new(KmsErrorKind::InvalidCiphertext, "not made here"))
    }

    impl KeyService for OneKey {
        fn generate_data_key(
            &self,
            _: &str,
            _: &EncryptionContext,
        ) -> std::result::Result<MadeKey, KmsError> {
            no()
        }

        fn encrypt(
            &self,
            _: &str,
            _: &[u8],
            _: &EncryptionContext,
        ) -> std::result::Result<Encrypted, KmsError> {
            no()
        }

        fn decrypt(
            &self,
            _: Option<&str>,
            ciphertext: &[u8],
            _: &EncryptionContext,
        ) -> std::result::Result<Decrypted, KmsError> {
            if ciphertext != b"wrapped" {
                return no();
            }
            let plaintext = SecretVec::new(DATA.to_vec());
            Ok(Decrypted { plaintext, key_arn: "arn".to_owned(), key_material_id: None })
        }

        fn re_encrypt(
            &self,
            _: &[u8],
            _: &EncryptionContext,
            _: &str,
            _: &EncryptionContext,
        ) -> std::result::Result<ReEncrypted, KmsError> {
            no()
        }

        fn describe_key(&self, _: &str) -> std::result::Result<KeyMetadata, KmsError> {
            no()
        }
    }

    fn volume() -> VolumeKeys {
        VolumeKeys::derive(&VolumeKey(Secret::new([1; 32])), [2; 16]).unwrap()
    }

    /// A part of so many packs, sealed.
    fn sealed(packs: u8) -> Vec<u8> {
        let packs = (0..packs).map(|n| Pack { id: Id([n; 16]), pages: u64::from(n) }).collect();
        let part = Part { snapshot: Id([4; 16]), unit: (1, 2, 3), packs, files: 0, entries: Vec::new() };
        let wrapped = WrappedKey { key_arn: "arn".to_owned(), ciphertext: b"wrapped".to_vec() };
        let fresh = FreshKey { file_id: [5; 16], data: DataKey(Secret::new(DATA)), wrapped };
        part.seal(fresh, &volume(), 1).unwrap()
    }

    fn read(bytes: Vec<u8>) -> Result<Option<Part>> {
        Part::read(&One(bytes, AtomicU64::new(0)), "part", &volume(), &OneKey)
    }

    #[test]
    fn no_more_is_read_than_a_header_authenticates() {
        let mut big = sealed(3);
        big.resize(64 << 20, 0);
        for page in [big[..PAGE as usize].to_vec(), vec![1; PAGE as usize]] {
            big[..PAGE as usize].copy_from_slice(&page);
            let depot = One(big.clone(), AtomicU64::new(0));
            assert!(Part::read(&depot, "part", &volume(), &OneKey).is_err());
            assert_eq!(depot.1.into_inner(), PAGE);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert!(read(bytes).is_err());
        }

        /// A changed or cut part is none, unless only its wrapped key's name changed.
        #[test]
        fn a_changed_part_never_passes(packs in 0u8..250, at in any::<prop::sample::Index>(), flip in 1..=255u8) {
            let good = sealed(packs);
            prop_assert_eq!(read(good.clone()).unwrap().unwrap().packs.len(), usize::from(packs));
            let at = at.index(good.len());
            prop_assert!(read(good[..at].to_vec()).is_err());
            let mut bad = good;
            bad[at] ^= flip;
            match read(bad) {
                Err(_) => {}
                Ok(part) => {
                    prop_assert!((KEYS_AT..PAGE as usize).contains(&at), "byte {}", at);
                    prop_assert_eq!(part.unwrap().packs.len(), usize::from(packs));
                }
            }
        }
    }
}
