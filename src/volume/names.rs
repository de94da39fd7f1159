//! Names, symbolic link targets and extended attributes (docs/format.md, "Directories").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::{Result, VolumeError};
use super::keys::VolumeKeys;
use crate::crypto::{kdf, labels, mac, random};

/// A directory's id: associated data of its names.
pub type DirId = [u8; 16];

/// The longest plaintext name and entry name.
pub const NAME_MAX: usize = 255;
/// The longest plaintext symbolic link target.
pub const TARGET_MAX: usize = 4095;
/// The link that holds a directory's id.
pub const DIR_ID: &[u8] = b"kmsfs.dir";
/// Prefix of encrypted attribute names.
pub const XATTR_PREFIX: &[u8] = b"user.kmsfs.";
/// POSIX ACLs are native and in the clear, as modes are.
pub const NATIVE_XATTRS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
const LONG: &[u8] = b"long.";
const LONG_NAME: &[u8] = b".name";
const TEMPORARY: &[u8] = b"tmp.";
const OVERFLOW: &[u8] = b"over.";
/// Characters of an overflow target in one link.
pub const OVERFLOW_PIECE: usize = 4000;
/// Bytes of the backing's longest target.
const BACKING_TARGET_MAX: usize = 4095;

/// base64url without padding (RFC 4648 section 5).
pub fn base64url(bytes: &[u8]) -> Vec<u8> {
    URL_SAFE_NO_PAD.encode(bytes).into_bytes()
}

/// Puts what a text stands for into `room`, which has three bytes for each four characters begun, and answers how many bytes
/// that are; None if it is not what [`base64url`] makes of them.
pub(super) fn decode_base64url(text: &[u8], room: &mut [u8]) -> Option<usize> {
    URL_SAFE_NO_PAD.decode_slice(text, room).ok()
}

fn unbase64url(text: &[u8]) -> Result<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| VolumeError::damaged("a name or target is not base64url"))
}

/// A plaintext name as it stands in the backing directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredName {
    /// The entry.
    pub entry: Vec<u8>,
    /// If the entry is a `long.` one: the link beside it and its target.
    pub long: Option<(Vec<u8>, Vec<u8>)>,
}

/// What an entry of a backing directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryClass {
    /// An encrypted name.
    Name,
    /// A `long.` entry.
    Long,
    /// The link that holds a long name.
    LongName,
    /// Rubbish after a crash.
    Temporary,
    /// `kmsfs.dir`, `kmsfs.json`, `.kmsfs` or something else that holds a dot.
    Reserved,
}

/// Classifies by name alone.
pub fn classify(entry: &[u8]) -> EntryClass {
    if !entry.contains(&b'.') {
        EntryClass::Name
    } else if entry.starts_with(TEMPORARY) {
        EntryClass::Temporary
    } else if entry.starts_with(LONG) && entry.ends_with(LONG_NAME) {
        EntryClass::LongName
    } else if entry.starts_with(LONG) {
        EntryClass::Long
    } else {
        EntryClass::Reserved
    }
}

/// The link beside a `long.` entry.
pub fn long_name_link(entry: &[u8]) -> Vec<u8> {
    [entry, LONG_NAME].concat()
}

/// The entry beside which a `long.….name` link stands.
pub fn entry_of_long_name(link: &[u8]) -> &[u8] {
    link.strip_suffix(LONG_NAME).unwrap_or(link)
}

/// A fresh temporary name.
pub fn temporary_name() -> Result<Vec<u8>> {
    Ok([TEMPORARY, &base64url(&random::<16>()?)].concat())
}

/// A fresh directory id.
pub fn new_dir_id() -> Result<DirId> {
    Ok(random()?)
}

/// The target of `kmsfs.dir`.
pub fn encode_dir_id(id: &DirId) -> Vec<u8> {
    base64url(id)
}

/// Reads the target of `kmsfs.dir`.
pub fn parse_dir_id(target: &[u8]) -> Result<DirId> {
    let bytes = URL_SAFE_NO_PAD.decode(target).ok().and_then(|b| DirId::try_from(b).ok());
    bytes.ok_or_else(|| {
        VolumeError::damaged("a directory's id (kmsfs.dir) is unreadable; the directory can be removed")
    })
}

/// Refuses what is no name of one entry.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(VolumeError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(VolumeError::Invalid("not the name of an entry"));
    }
    Ok(())
}

impl VolumeKeys {
    /// A name in the directory `dir`.
    pub fn encode_name(&self, dir: &DirId, name: &[u8]) -> Result<StoredName> {
        check_name(name)?;
        let full = base64url(&self.names.seal(&[dir], name)?);
        if full.len() <= NAME_MAX {
            return Ok(StoredName { entry: full, long: None });
        }
        let entry = [LONG, &base64url(&mac::sha256(&[&full]))].concat();
        Ok(StoredName { long: Some((long_name_link(&entry), full)), entry })
    }

    /// The plaintext of an encrypted name (for a `long.` entry: of its link's target).
    pub fn decode_name(&self, dir: &DirId, full: &[u8]) -> Result<Vec<u8>> {
        let name = self.names.open(&[dir], &unbase64url(full)?);
        let name = name.map_err(|_| VolumeError::damaged("a name does not belong to this directory"))?;
        check_name(&name).map_err(|_| VolumeError::damaged("a name decrypts to something that is none"))?;
        Ok(name)
    }

    /// The text of a symbolic link's target, wherever it will stand.
    pub(super) fn encode_target_text(&self, nonce: &[u8; 16], target: &[u8]) -> Result<Vec<u8>> {
        let sealed = self.symlinks.seal(&[nonce], target)?;
        Ok(base64url(&[&nonce[..], &sealed].concat()))
    }

    /// The text of a symbolic link's target, and where it stands.
    pub fn encode_target(&self, target: &[u8]) -> Result<StoredTarget> {
        if target.len() > TARGET_MAX {
            return Err(VolumeError::NameTooLong);
        }
        let text = self.encode_target_text(&random()?, target)?;
        if text.len() <= BACKING_TARGET_MAX {
            return Ok(StoredTarget { target: text, overflow: Vec::new() });
        }
        let id = base64url(&random::<16>()?);
        let pieces = text.chunks(OVERFLOW_PIECE).enumerate();
        let overflow = pieces.map(|(i, piece)| (overflow_name(&id, i), piece.to_vec())).collect();
        Ok(StoredTarget { target: [OVERFLOW, &id].concat(), overflow })
    }

    /// The plaintext of the text of a target.
    pub fn decode_target(&self, text: &[u8]) -> Result<Vec<u8>> {
        Ok(self.decode_target_text(text)?.1)
    }

    /// The same, with the nonce.
    pub(super) fn decode_target_text(&self, text: &[u8]) -> Result<([u8; 16], Vec<u8>)> {
        let bytes = unbase64url(text)?;
        let opened = bytes
            .split_first_chunk::<16>()
            .and_then(|(nonce, sealed)| Some((*nonce, self.symlinks.open(&[nonce], sealed).ok()?)));
        opened.ok_or_else(|| VolumeError::damaged("a symbolic link's target does not authenticate"))
    }

    /// The backing's name of an extended attribute.
    pub fn encode_xattr_name(&self, name: &[u8]) -> Result<Vec<u8>> {
        let stored = [XATTR_PREFIX, &base64url(&self.xattr_names.seal(&[], name)?)].concat();
        if stored.len() > NAME_MAX { Err(VolumeError::NameTooLong) } else { Ok(stored) }
    }

    /// The plaintext of a backing attribute's name; None for one that is not ours.
    pub fn decode_xattr_name(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let text = stored.strip_prefix(XATTR_PREFIX)?;
        self.xattr_names.open(&[], &unbase64url(text).ok()?).ok()
    }

    /// The value of attribute `name` of the file or directory `owner`.
    pub fn seal_xattr(&self, owner: &[u8; 16], name: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        Ok(self.xattr_key(owner)?.seal_message(&[&owner[..], name].concat(), value)?)
    }

    /// Opens what [`Self::seal_xattr`] made.
    pub fn open_xattr(&self, owner: &[u8; 16], name: &[u8], stored: &[u8]) -> Result<Vec<u8>> {
        self.xattr_key(owner)?
            .open_message(&[&owner[..], name].concat(), stored)
            .map_err(|_| VolumeError::damaged("an extended attribute does not authenticate"))
    }

    fn xattr_key(&self, owner: &[u8; 16]) -> Result<crate::crypto::AeadKey> {
        let key = kdf::hkdf::<32>(self.xattr_values.expose(), owner, &[labels::VOLUME_XATTR_VALUES])?;
        Ok(crate::crypto::AeadKey::new(key.expose())?)
    }
}

/// A target as it stands in the backing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTarget {
    /// Target of the link itself.
    pub target: Vec<u8>,
    /// Links in `.kmsfs/links`: name and target.
    pub overflow: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Name of piece `index` of an overflow target.
pub fn overflow_name(id: &[u8], index: usize) -> Vec<u8> {
    [id, b".", index.to_string().as_bytes()].concat()
}

/// The id in a target that stands elsewhere.
pub fn overflow_id(target: &[u8]) -> Option<&[u8]> {
    target.strip_prefix(OVERFLOW)
}

/// Plaintext length of a link whose stored target has `stored` characters; None for an overflow one.
pub fn target_len(stored: u64) -> Option<u64> {
    (stored * 3 / 4).checked_sub(32)
}
