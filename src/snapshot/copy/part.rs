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
const MAX_PART: usize = 1 << 30;

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
        if len as usize > MAX_PART {
            return Err(SnapshotError::damaged(format!("{path} is too long")));
        }
        let pages = depot.get(path, len as usize)?;
        let bad = |what: &str| SnapshotError::damaged(format!("{path} {what}"));
        let (first, rest) = pages.split_first_chunk::<{ PAGE as usize }>().ok_or_else(|| bad("is cut"))?;
        let first: &Page = first;
        let header = Header::parse(first)?;
        let keys = file_keys(&header, volume, service)?;
        header.verify(first, &keys)?;
        if blocks_for(header.size) * PAGE != rest.len() as u64 {
            return Err(bad("is cut"));
        }
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
