//! Attributes: stat, chmod and the like, extended attributes, and a file's envelope.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::core::Core;
use super::disk::{BackingFile, Change, Dir, Kind, SetTime, Stat, XattrMode};
use super::error::{Attempt, Result, VolumeError};
use super::files::read_header;
use super::header::{Header, SPARSE};
use super::keys::file_context;
use super::names::{self, NATIVE_XATTRS};
use super::nodes::{Directory, Node};
use super::types::{Attr, Caller, Envelope, EnvelopeKey, HandleId, NodeId, ROOT, SetAttr};

/// An attribute that is made up: the file's envelope as JSON.
pub const ENVELOPE: &[u8] = b"user.kmsfs.envelope";

const HEADER: &str = "reading a file's header";

/// How an attribute is kept.
enum XattrClass {
    Native,
    Encrypted,
    MadeUp,
}

fn classify_xattr(name: &[u8]) -> Result<XattrClass> {
    if NATIVE_XATTRS.contains(&name) {
        Ok(XattrClass::Native)
    } else if name == ENVELOPE {
        Ok(XattrClass::MadeUp)
    } else if name.starts_with(names::XATTR_PREFIX) {
        Err(VolumeError::NotPermitted("attributes that begin with user.kmsfs. are the filesystem's own"))
    } else if name.starts_with(b"user.") || name.starts_with(b"trusted.") {
        Ok(XattrClass::Encrypted)
    } else {
        Err(VolumeError::Unsupported("extended attributes other than user., trusted. and POSIX ACLs"))
    }
}

/// Where an object that is not open is. To be made before it is asked for its attributes.
pub(super) struct Place<'a> {
    pub directory: &'a Directory,
    pub entry: &'a [u8],
    /// Files were still to be mended.
    pub mending: bool,
}

impl Core {
    pub(super) fn place<'a>(&self, directory: &'a Directory, entry: &'a [u8]) -> Place<'a> {
        Place { directory, entry, mending: self.needs_mending() }
    }

    /// A backing object's attributes as they are seen; `place` is where it is, if it is not open.
    pub(super) fn attr(&self, node: &Node, stat: Stat, place: Option<Place>) -> Result<Attr> {
        let mut stat = Stat { ino: node.id, ..stat };
        match (stat.kind, place) {
            (Kind::File, place) => {
                stat.size = match (node.file(), place) {
                    (Some(file), _) => file.content.size(),
                    (None, Some(place)) => self.closed_size(&place, &stat),
                    (None, None) => 0,
                }
            }
            (Kind::Symlink, Some(Place { directory, entry, .. })) => {
                stat.size = match names::target_len(stat.size) {
                    Some(len) => len,
                    // What cannot be read has no length; reading it is what fails.
                    None => self.target(directory, entry).map_or(0, |t| t.len() as u64),
                }
            }
            // The volume's private directory is not seen.
            (Kind::Directory, _) if node.id == ROOT && stat.nlink > 2 => stat.nlink -= 1,
            _ => {}
        }
        Ok(Attr { node: node.id, generation: node.generation(), stat })
    }

    /// stat; `handle` is an open file of the node, if the caller has one.
    pub fn getattr(&self, node: NodeId, handle: Option<HandleId>) -> Result<Attr> {
        let node = match handle {
            Some(handle) => self.handle(handle)?.node.clone(),
            None => self.nodes.get(node)?,
        };
        if let Some(file) = node.file() {
            return self.attr(&node, file.stat()?, None);
        }
        if let Some(directory) = node.directory() {
            let stat = directory.dir.stat().attempt("asking for a directory's attributes")?;
            return self.attr(&node, stat, None);
        }
        self.at_link(&node, |directory, link| {
            let place = self.place(directory, &link.entry);
            let stat = directory.dir.stat_at(&link.entry).on_entry("asking for attributes")?;
            if stat.ino != self.nodes.ino_of(node.id) {
                return Err(VolumeError::Stale);
            }
            self.attr(&node, stat, Some(place))
        })
    }

    /// truncate, chmod, chown, utimens.
    pub fn setattr(
        &self,
        caller: Caller,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let _change = self.changing()?;
        if let Some(size) = set.size {
            self.set_size(caller, node, handle, size, set.kill_priv)?;
        }
        let known = self.nodes.get(node)?;
        let mut change = set.change;
        if set.kill_priv && set.size.is_none() && change.perm.is_none() && known.kind == Kind::File {
            change.perm = super::file::without_privileges(self.getattr(node, handle)?.stat.perm);
        }
        if changes_something(&change) {
            self.change(&known, &change)?;
        }
        self.getattr(node, handle)
    }

    fn change(&self, node: &Node, change: &Change) -> Result<()> {
        let what = "changing attributes";
        if let Some(file) = node.file() {
            file.content.file().change(change).attempt(what)?;
            if let Some(perm) = change.perm {
                file.mode_changed(perm);
            }
            return Ok(());
        }
        if let Some(directory) = node.directory() {
            return directory.dir.change(None, change).attempt(what);
        }
        self.at_own_link(node, None, |directory, link| {
            directory.dir.change(Some(&link.entry), change).on_entry(what)
        })
    }

    /// The header of a file, open or not. Not authenticated where it is not open.
    fn header_of(&self, node: &Node) -> Result<Header> {
        if let Some(file) = node.file() {
            return Ok(file.content.header());
        }
        let file = self.backing_of(node)?;
        read_header(&*file)?.1.ok_or_else(|| VolumeError::damaged("the file has no header"))
    }

    /// The backing file of one that is not open, to look at its header.
    fn backing_of(&self, node: &Node) -> Result<Arc<dyn BackingFile>> {
        self.at_own_link(node, None, |directory, link| {
            directory.dir.open_file(&link.entry, false).on_entry(HEADER)
        })
    }

    /// True for a file whose header a crash took, until it is mended: its attributes are bound to an id that
    /// nobody knows any more.
    fn lost_its_header(&self, node: &Node) -> Result<bool> {
        if node.kind != Kind::File || !self.needs_mending() {
            return Ok(false);
        }
        if let Some(file) = node.file() {
            return Ok(file.content.header().keys.is_empty());
        }
        let file = self.backing_of(node)?;
        let ctime = file.stat().attempt(HEADER)?.ctime;
        Ok(self.epoch.lock().excuses_time(ctime) && read_header(&*file)?.1.is_none())
    }

    /// What attributes of a node are bound to.
    fn xattr_owner(&self, node: &Node) -> Result<[u8; 16]> {
        match node.kind {
            Kind::Directory => Ok(self.directory(node.id)?.id),
            Kind::File => Ok(self.header_of(node)?.file_id),
            _ => Err(VolumeError::NotPermitted("extended attributes of what is neither file nor directory")),
        }
    }

    /// Does something to an attribute of the backing object: on the open file, or by its place.
    fn on_object<T>(
        &self,
        node: &Node,
        open: impl Fn(&dyn BackingFile) -> std::io::Result<T>,
        placed: impl Fn(&dyn Dir, Option<&[u8]>) -> std::io::Result<T>,
    ) -> Result<T> {
        let what = "an extended attribute";
        let done = if let Some(file) = node.file() {
            open(&*file.content.file()).attempt(what)
        } else if let Some(directory) = node.directory() {
            placed(&*directory.dir, None).attempt(what)
        } else {
            self.at_own_link(node, None, |directory, link| {
                placed(&*directory.dir, Some(&link.entry)).on_entry(what)
            })
        };
        done.map_err(|error| match error {
            VolumeError::Backing { source, .. } if source.raw_os_error() == Some(libc::ENODATA) => {
                VolumeError::NoXattr
            }
            error => error,
        })
    }

    /// `name` is the full name (`user.x`, `trusted.x`: encrypted; `system.posix_acl_*`: native).
    /// `user.kmsfs.envelope` is made up: the file's [`Envelope`] as JSON.
    pub fn get_xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.nodes.get(node)?;
        let get = |stored: &[u8]| {
            self.on_object(&node, |file| file.get_xattr(stored), |dir, entry| dir.get_xattr(entry, stored))
        };
        match classify_xattr(name)? {
            XattrClass::Native => get(name),
            XattrClass::MadeUp => {
                let envelope = self.inspect(node.id)?;
                serde_json::to_vec(&envelope).map_err(|_| VolumeError::Invalid("an envelope that is no JSON"))
            }
            XattrClass::Encrypted if !matches!(node.kind, Kind::File | Kind::Directory) => {
                Err(VolumeError::NoXattr)
            }
            XattrClass::Encrypted if self.lost_its_header(&node)? => Err(VolumeError::NoXattr),
            XattrClass::Encrypted => {
                let value = get(&self.keys.encode_xattr_name(name)?)?;
                self.keys.open_xattr(&self.xattr_owner(&node)?, name, &value)
            }
        }
    }

    /// See [`Self::get_xattr`].
    pub fn set_xattr(&self, node: NodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let _change = self.changing()?;
        let node = self.nodes.get(node)?;
        let set = |stored: &[u8], value: &[u8]| {
            self.on_object(
                &node,
                |file| file.set_xattr(stored, value, mode),
                |dir, entry| dir.set_xattr(entry, stored, value, mode),
            )
        };
        match classify_xattr(name)? {
            XattrClass::Native => set(name, value),
            XattrClass::MadeUp => Err(VolumeError::NotPermitted("the envelope is only read")),
            XattrClass::Encrypted => {
                if self.lost_its_header(&node)? {
                    self.open_existing(super::recover::own_process(), &node, true)?;
                }
                let owner = self.xattr_owner(&node)?;
                // The value is bound to the id in the header: without one a crash would leave another file.
                if let Some(file) = node.file().filter(|f| f.is_writable()) {
                    file.content.ensure_header()?;
                }
                let stored = self.keys.encode_xattr_name(name)?;
                set(&stored, &self.keys.seal_xattr(&owner, name, value)?)
            }
        }
    }

    /// Full plaintext names.
    pub fn list_xattr(&self, node: NodeId) -> Result<Vec<Vec<u8>>> {
        let node = self.nodes.get(node)?;
        let stored = self.on_object(&node, |file| file.list_xattr(), |dir, entry| dir.list_xattr(entry))?;
        let lost = self.lost_its_header(&node)?;
        let plain = stored.into_iter().filter_map(|name| match NATIVE_XATTRS.contains(&&name[..]) {
            true => Some(name),
            false if lost => None,
            false => self.keys.decode_xattr_name(&name),
        });
        Ok(plain.collect())
    }

    /// See [`Self::get_xattr`].
    pub fn remove_xattr(&self, node: NodeId, name: &[u8]) -> Result<()> {
        let _change = self.changing()?;
        let node = self.nodes.get(node)?;
        let remove = |stored: &[u8]| {
            self.on_object(
                &node,
                |file| file.remove_xattr(stored),
                |dir, entry| dir.remove_xattr(entry, stored),
            )
        };
        match classify_xattr(name)? {
            XattrClass::Native => remove(name),
            XattrClass::MadeUp => Err(VolumeError::NotPermitted("the envelope is only read")),
            XattrClass::Encrypted if self.lost_its_header(&node)? => Err(VolumeError::NoXattr),
            XattrClass::Encrypted => remove(&self.keys.encode_xattr_name(name)?),
        }
    }

    /// A file's envelope, as its header tells it. No key is used.
    pub fn inspect(&self, node: NodeId) -> Result<Envelope> {
        let node = self.nodes.get(node)?;
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(VolumeError::IsDirectory),
            _ => return Err(VolumeError::Invalid("only regular files have an envelope")),
        }
        let header = self.header_of(&node)?;
        let size = node.file().map_or(header.size, |file| file.content.size());
        let data_keys = header
            .keys
            .iter()
            .map(|k| EnvelopeKey { key_arn: k.key_arn.clone(), ciphertext: STANDARD.encode(&k.ciphertext) });
        Ok(Envelope {
            volume_id: self.volume_id(),
            file_id: hex::encode(header.file_id),
            size,
            epoch: header.epoch,
            generation: header.generation,
            sparse: header.flags & SPARSE != 0,
            key_commitment: hex::encode(header.commitment),
            data_keys: data_keys.collect(),
            encryption_context: file_context(&self.keys.id, &header.file_id),
        })
    }
}

fn changes_something(change: &Change) -> bool {
    let times = (change.atime, change.mtime) != (SetTime::Omit, SetTime::Omit);
    times || change.perm.is_some() || change.uid.is_some() || change.gid.is_some()
}
