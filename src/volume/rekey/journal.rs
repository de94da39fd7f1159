//! What a cut rekeying must be known by: `.kmsfs/rekey`, the epochs of its runs; `.kmsfs/relink`, a file whose names are
//! coming to a new one. Both under a MAC of the volume key.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::descriptor::{read_file, replace_file};
use super::super::disk::{Dir, RenameMode};
use super::super::error::{Attempt, Result, VolumeError};
use super::super::files::read_header;
use super::super::header::FileId;
use super::super::keys::VolumeKeys;
use super::super::names::{EntryClass, base64url, classify};
use super::{Name, times};
use crate::crypto::mac;

const REKEY: &[u8] = b"rekey";
/// Name of the record of a file whose names are coming to a new one.
pub const RELINK: &[u8] = b"relink";
/// Names of one file: a filesystem gives it 65,000 at most, of a few hundred bytes each.
const MAX_LEN: usize = 64 << 20;

/// Writes a record: postcard, and the HMAC-SHA-256 of the volume id, the record's name and that.
fn write(private: &dyn Dir, name: &[u8], volume: &VolumeKeys, value: &impl Serialize) -> Result<()> {
    let mut bytes =
        postcard::to_stdvec(value).map_err(|_| VolumeError::Invalid("a record that has no form"))?;
    let mac = mac::hmac_sha256(volume.rekey.expose(), &[&volume.id, name, &bytes]);
    bytes.extend_from_slice(&mac);
    replace_file(private, name, &bytes)
}

/// Reads a record; None if there is none, or one that this volume's key has not made.
fn read<T: for<'a> Deserialize<'a>>(
    private: &dyn Dir,
    name: &[u8],
    volume: &VolumeKeys,
) -> Result<Option<T>> {
    let bytes = match read_file(private, name, MAX_LEN) {
        Err(e) if e.is_not_found() => return Ok(None),
        read => read?,
    };
    let whole = bytes.split_last_chunk::<32>().filter(|(body, mac)| {
        mac::verify_hmac_sha256(volume.rekey.expose(), &[&volume.id, name, body], *mac).is_ok()
    });
    let value = whole.and_then(|(body, _)| postcard::from_bytes(body).ok());
    if value.is_none() {
        let record = String::from_utf8_lossy(name).into_owned();
        tracing::warn!(
            record,
            "a record of a rekeying in .kmsfs is damaged or another volume's, and does not count"
        );
    }
    Ok(value)
}

/// How far a rekeying is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The part of the volume, its encrypted path; empty for all of it.
    pub scope: Vec<u8>,
    /// Epochs of its runs: a file that was finalised in one of them has its new key.
    pub epochs: Vec<u64>,
}

impl Progress {
    pub fn read(private: &dyn Dir, volume: &VolumeKeys) -> Result<Option<Self>> {
        read(private, REKEY, volume)
    }

    pub fn write(&self, private: &dyn Dir, volume: &VolumeKeys) -> Result<()> {
        write(private, REKEY, volume, self)
    }

    pub fn remove(private: &dyn Dir) -> Result<()> {
        remove(private, REKEY)
    }
}

fn remove(private: &dyn Dir, name: &[u8]) -> Result<()> {
    let what = "taking away the record of a rekeying";
    private.unlink(name).and_then(|()| private.sync()).attempt(what)
}

/// A file whose names come to a new one, which stands in the private directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Relink {
    /// Inode of the old file.
    pub old: u64,
    /// Id of both. In a copy of the volume, which has other inodes, the number alone might be another file's.
    pub file_id: FileId,
    /// Name of the new one in the private directory.
    pub new: Vec<u8>,
    /// All names in the volume.
    pub names: Vec<Name>,
}

impl Relink {
    /// From here on the names come to the new file, whatever happens.
    pub fn write(&self, private: &dyn Dir, volume: &VolumeKeys) -> Result<()> {
        write(private, RELINK, volume, self)
    }

    /// Brings every name that is still the old file's to the new one; to be called again after a cut. Each is replaced by
    /// a rename, so that it is always one or the other. Then the record goes.
    pub fn finish(&self, root: &Arc<dyn Dir>, private: &Arc<dyn Dir>) -> Result<()> {
        let what = "bringing the names of a rekeyed file to it";
        if classify(&self.new) != EntryClass::Temporary {
            return Err(VolumeError::damaged("the record .kmsfs/relink names no temporary file"));
        }
        for name in &self.names {
            let Some((entry, above)) = name.split_last() else { continue };
            let dir = match self.still_old(root, above, entry) {
                Ok(Some(dir)) => dir,
                Ok(None) => continue,
                // Somebody took the name away.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let before = dir.stat().attempt(what)?;
            // Always the same one, so that none is left after a cut.
            let temporary = [b"tmp.", &base64url(&mac::sha256(&[&self.new, entry]))[..22]].concat();
            match dir.unlink(&temporary) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                gone => gone.attempt(what)?,
            }
            private.link(&self.new, &*dir, &temporary).attempt(what)?;
            dir.rename(&temporary, &*dir, entry, RenameMode::Replace).attempt(what)?;
            dir.change(None, &times(&before)).attempt(what)?;
        }
        // The record must not go before all of them stand.
        root.sync_fs().attempt(what)?;
        remove(&**private, RELINK)?;
        private.unlink(&self.new).attempt(what)
    }

    /// The directory of a name, if that is still the old file's.
    fn still_old(
        &self,
        root: &Arc<dyn Dir>,
        above: &[Vec<u8>],
        entry: &[u8],
    ) -> Result<Option<Arc<dyn Dir>>> {
        let what = "looking for a name of a rekeyed file";
        let mut dir = root.clone();
        for step in above {
            dir = dir.open_dir(step).attempt(what)?;
        }
        if dir.stat_at(entry).attempt(what)?.ino != self.old {
            return Ok(None);
        }
        let header = read_header(&*dir.open_file(entry, false).attempt(what)?)?.1;
        Ok(header.filter(|header| header.file_id == self.file_id).map(|_| dir))
    }
}

/// Ends what a cut rekeying left half done: until then a file may have become two, which are equal. To be called by whoever
/// has the volume for himself, before temporary files are swept.
pub fn finish(root: &Arc<dyn Dir>, private: &Arc<dyn Dir>, volume: &VolumeKeys) -> Result<()> {
    match read::<Relink>(&**private, RELINK, volume)? {
        Some(relink) => relink.finish(root, private),
        None => Ok(()),
    }
}
