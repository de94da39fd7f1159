//! The epoch marker (docs/format.md, "The volume root" and "After a crash"). An epoch is one read-write
//! mount; files that an unclean one may have cut are excused until they are mended.

use super::disk::{Dir, Time};
use super::error::{Attempt, Result, VolumeError};
use super::header::{Header, array};
use super::keys::VolumeKeys;
use super::{descriptor, names};
use crate::crypto::mac;

/// Name of the marker in the private directory.
pub const EPOCH: &[u8] = b"epoch";

const MAGIC: &[u8; 8] = b"KMSFSEPO";
const VERSION: u16 = 1;
const HEAD: usize = 40;
const ENTRY: usize = 24;
/// The list never grows beyond this; the oldest mended ones go.
const MAX_UNCLEAN: usize = 4096;

/// An epoch that did not end with a clean unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclean {
    /// Its number.
    pub number: u64,
    /// When it began, by the backing's clock.
    pub start: Time,
    /// All files it touched have been mended.
    pub mended: bool,
}

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Number of the current epoch.
    pub number: u64,
    /// When it began.
    pub start: Time,
    /// It ended cleanly.
    pub clean: bool,
    /// Those that did not.
    pub unclean: Vec<Unclean>,
}

/// True if the marker says that nothing is to be mended: the last epoch ended cleanly, and what earlier ones may have
/// cut is whole. Not authenticated, since that needs the volume key.
pub fn is_settled(private: &dyn Dir) -> Result<bool> {
    let bytes = descriptor::read_file(private, EPOCH, HEAD + ENTRY * MAX_UNCLEAN + 32)?;
    let Some((body, _)) = bytes.split_last_chunk::<32>().filter(|(body, _)| body.len() >= HEAD) else {
        return Ok(false);
    };
    let (entries, _) = body[HEAD..].as_chunks::<ENTRY>();
    let clean = u16::from_le_bytes(array(body, 10)) == 1;
    Ok(clean && entries.iter().all(|entry| u32::from_le_bytes(array(entry, 20)) == 1))
}

impl Epoch {
    /// The marker of a new volume: clean, epoch 0.
    pub fn first(start: Time) -> Self {
        Self { number: 0, start, clean: true, unclean: Vec::new() }
    }

    /// For a restored copy: a number above any that a header may
    /// carry from before.
    pub fn reset(start: Time) -> Self {
        Self { number: (start.sec.max(0) as u64) << 24, start, clean: true, unclean: Vec::new() }
    }

    /// The next epoch; this one joins the unclean ones if it was not ended.
    pub fn next(mut self, start: Time) -> Self {
        if !self.clean {
            self.unclean.push(Unclean { number: self.number, start: self.start, mended: false });
        }
        while self.unclean.len() > MAX_UNCLEAN {
            let Some(oldest) = self.unclean.iter().position(|u| u.mended) else { break };
            self.unclean.remove(oldest);
        }
        Self { number: self.number + 1, start, clean: false, unclean: self.unclean }
    }

    /// As a read-only mount sees it: an epoch that is not marked clean is an unclean one.
    pub fn as_read_only(mut self) -> Self {
        if !self.clean {
            self.unclean.push(Unclean { number: self.number, start: self.start, mended: false });
        }
        self
    }

    /// True if a file of this ctime may have been cut: that is known without its header.
    pub fn excuses_time(&self, ctime: Time) -> bool {
        self.unclean.iter().any(|u| !u.mended && ctime >= u.start)
    }

    /// True if a file of this ctime may have been cut, mended since or not.
    pub fn may_have_touched(&self, ctime: Time) -> bool {
        self.unclean.iter().any(|u| ctime >= u.start)
    }

    /// True if a header was finalised in an unclean epoch.
    pub fn excuses_header(&self, header: &Header) -> bool {
        self.unclean.iter().any(|u| u.number == header.epoch)
    }

    /// Binary form, authenticated.
    pub fn encode(&self, keys: &VolumeKeys) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + ENTRY * self.unclean.len() + 32);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u16::from(self.clean).to_le_bytes());
        out.extend_from_slice(&(self.unclean.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.start.sec.to_le_bytes());
        out.extend_from_slice(&self.start.nsec.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for u in &self.unclean {
            out.extend_from_slice(&u.number.to_le_bytes());
            out.extend_from_slice(&u.start.sec.to_le_bytes());
            out.extend_from_slice(&u.start.nsec.to_le_bytes());
            out.extend_from_slice(&u32::from(u.mended).to_le_bytes());
        }
        let mac = mac::hmac_sha256(keys.epoch.expose(), &[&keys.id, &out]);
        out.extend_from_slice(&mac);
        out
    }

    /// Reads and authenticates the binary form.
    pub fn parse(bytes: &[u8], keys: &VolumeKeys) -> Result<Self> {
        let bad = VolumeError::Epoch("was changed, is damaged or belongs to another volume");
        let (body, mac) = match bytes.split_last_chunk::<32>() {
            Some(parts) if parts.0.len() >= HEAD => parts,
            _ => return Err(bad),
        };
        if mac::verify_hmac_sha256(keys.epoch.expose(), &[&keys.id, body], mac).is_err() {
            return Err(bad);
        }
        let u16_at = |at| u16::from_le_bytes(array(body, at));
        let u32_at = |at| u32::from_le_bytes(array(body, at));
        let u64_at = |at| u64::from_le_bytes(array(body, at));
        let time_at = |at| Time { sec: i64::from_le_bytes(array(body, at)), nsec: u32_at(at + 8) };
        let count = u32_at(12) as usize;
        if &body[..8] != MAGIC || u16_at(8) != VERSION || body.len() - HEAD != count.saturating_mul(ENTRY) {
            return Err(VolumeError::Epoch("has a form that this kmsfs does not know; use a newer one"));
        }
        let entries = (0..count).map(|i| HEAD + i * ENTRY);
        let unclean = entries
            .map(|at| Unclean { number: u64_at(at), start: time_at(at + 8), mended: u32_at(at + 20) != 0 })
            .collect();
        Ok(Self { number: u64_at(16), start: time_at(24), clean: u16_at(10) != 0, unclean })
    }

    /// Reads the marker in the private directory.
    pub fn read(private: &dyn Dir, keys: &VolumeKeys) -> Result<Self> {
        match descriptor::read_file(private, EPOCH, HEAD + ENTRY * (MAX_UNCLEAN + 1) + 32) {
            Ok(bytes) => Self::parse(&bytes, keys),
            Err(e) if e.is_not_found() => Err(VolumeError::Epoch("is missing")),
            Err(e) => Err(e),
        }
    }

    /// Writes it; durable when this returns.
    pub fn write(&self, private: &dyn Dir, keys: &VolumeKeys) -> Result<()> {
        descriptor::replace_file(private, EPOCH, &self.encode(keys))
    }
}

/// The backing's clock: the ctime of a file made for the purpose. File times are compared with it, so
/// that another machine's clock does not matter.
pub fn backing_now(private: &dyn Dir) -> Result<Time> {
    let what = "asking the backing filesystem for its time";
    let name = names::temporary_name()?;
    let file = private.create_file(&name, 0o600).attempt(what)?;
    let stat = file.stat();
    private.unlink(&name).attempt(what)?;
    Ok(stat.attempt(what)?.ctime)
}
