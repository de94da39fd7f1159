//! Listing directories: a snapshot of the names, taken when the listing begins.

use std::sync::Arc;

use parking_lot::Mutex;

use super::core::Core;
use super::disk::{Kind, RawEntry};
use super::error::{Attempt, Result, VolumeError};
use super::names::{self, EntryClass, classify};
use super::nodes::{Directory, Link, Node};
use super::types::{Attr, DirEntry, HandleId, NodeId};

/// An open directory.
pub struct Listing {
    node: Arc<Node>,
    /// None until it is read from the start.
    items: Option<Vec<Item>>,
    /// Names that did not decrypt.
    unread: u64,
}

struct Item {
    /// Encrypted; empty for `.` and `..`.
    entry: Vec<u8>,
    shown: DirEntry,
}

impl Core {
    /// Begins a listing.
    pub fn open_dir(&self, node: NodeId) -> Result<HandleId> {
        let node = self.nodes.get(node)?;
        self.directory(node.id)?;
        let handle = self.new_handle();
        self.listings.lock().insert(handle, Arc::new(Mutex::new(Listing { node, items: None, unread: 0 })));
        Ok(handle)
    }

    fn listing(&self, handle: HandleId) -> Result<Arc<Mutex<Listing>>> {
        self.listings.lock().get(&handle).cloned().ok_or(VolumeError::BadHandle)
    }

    /// All names, decrypted. What does not decrypt is told, counted and left out.
    fn load(&self, node: &Node, directory: &Directory) -> Result<(Vec<Item>, u64)> {
        let mut unread = 0;
        let item = |entry: Vec<u8>, name: Vec<u8>, kind, ino, at: usize| {
            let shown = DirEntry { name, kind, ino, next_offset: at as u64 + 1 };
            Item { entry, shown }
        };
        let mut items = vec![
            item(Vec::new(), b".".to_vec(), Kind::Directory, node.id, 0),
            item(Vec::new(), b"..".to_vec(), Kind::Directory, self.parent_of(node), 1),
        ];
        for RawEntry { name: entry, kind, ino } in directory.dir.entries().attempt("listing a directory")? {
            let full = match classify(&entry) {
                EntryClass::Name => None,
                EntryClass::Long => match directory.dir.readlink(&names::long_name_link(&entry)) {
                    Ok(full) => Some(full),
                    Err(error) => {
                        tracing::warn!(%error, "an entry with a long name is not listed: the link with its name cannot be read");
                        unread += 1;
                        continue;
                    }
                },
                EntryClass::LongName | EntryClass::Temporary | EntryClass::Reserved => continue,
            };
            match self.keys.decode_name(&directory.id, full.as_ref().unwrap_or(&entry)) {
                Ok(name) => {
                    let at = items.len();
                    items.push(item(entry, name, kind, self.nodes.id_of(ino), at));
                }
                Err(error) => {
                    unread += 1;
                    let entry = String::from_utf8_lossy(&entry).into_owned();
                    tracing::warn!(entry, %error, "an entry of the backing directory is not listed: kmsfs did not write it there");
                }
            }
        }
        Ok((items, unread))
    }

    /// The part of a listing from `offset` on, one entry after the other, until `add` answers false.
    fn list(
        &self,
        handle: HandleId,
        offset: u64,
        mut add: impl FnMut(&Directory, &Link, &DirEntry) -> Result<bool>,
    ) -> Result<()> {
        let listing = self.listing(handle)?;
        let mut listing = listing.lock();
        let directory = self.directory(listing.node.id)?;
        if offset == 0 || listing.items.is_none() {
            let (items, unread) = self.load(&listing.node, &directory)?;
            (listing.items, listing.unread) = (Some(items), unread);
        }
        let items = listing.items.iter().flatten().skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for item in items {
            let link = Link { parent: listing.node.id, entry: item.entry.clone() };
            if !add(&directory, &link, &item.shown)? {
                break;
            }
        }
        Ok(())
    }

    /// Entries from `offset` (0 is the start, and reads the directory anew), until `add` answers false (full:
    /// that entry was not taken).
    pub fn read_dir(
        &self,
        handle: HandleId,
        offset: u64,
        add: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        self.list(handle, offset, |_, _, shown| Ok(add(shown)))
    }

    /// The same with attributes; counts a lookup for each entry that `add` took, except `.` and `..`, whose
    /// attr is None, as is that of an entry that cannot be read. What vanished meanwhile is left out.
    pub fn read_dir_plus(
        &self,
        handle: HandleId,
        offset: u64,
        add: &mut dyn FnMut(&DirEntry, Option<&Attr>) -> bool,
    ) -> Result<()> {
        self.list(handle, offset, |directory, link, shown| {
            if link.entry.is_empty() {
                return Ok(add(shown, None));
            }
            match self.enter(directory, link.clone()) {
                Ok(attr) => {
                    let taken = add(shown, Some(&attr));
                    if !taken {
                        self.nodes.forget(attr.node, 1);
                    }
                    Ok(taken)
                }
                Err(VolumeError::NotFound) => Ok(true),
                Err(_) => Ok(add(shown, None)),
            }
        })
    }

    /// How many names of a listing that was read did not decrypt.
    pub fn unlisted(&self, handle: HandleId) -> u64 {
        self.listing(handle).map_or(0, |listing| listing.lock().unread)
    }

    /// Ends [`Self::open_dir`].
    pub fn release_dir(&self, handle: HandleId) {
        self.listings.lock().remove(&handle);
    }

    /// fsync of a directory.
    pub fn fsync_dir(&self, node: NodeId) -> Result<()> {
        self.directory(node)?.dir.sync().attempt("syncing a directory")
    }
}
