//! A snapshot as a backing directory that is only read: a volume is opened on it as on any other.

use std::any::Any;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::Arc;

use super::catalogue::{Opened, read_pack};
use super::depot::Depot;
use super::descriptor::{Descriptor, Pack};
use super::error::{Result, SnapshotError};
use super::fixed::{Fixed, ReadOnly, as_io, read_only, value_of};
use super::manifest::{Entry, Manifest, Meta, Offset, Stored};
use crate::volume::descriptor::{self as volume_descriptor, DESCRIPTOR, LOCK, PRIVATE_DIR};
use crate::volume::disk::{BackingFile, Change, Dir, FsStat, Kind, RawEntry, RenameMode, Stat, XattrMode};
use crate::volume::epoch::EPOCH;
use crate::volume::keys::VolumeKeys;
use crate::volume::layout::PAGE;

/// What all directories and files of one snapshot share.
pub struct Tree {
    depot: Arc<dyn Depot>,
    packs: Vec<Pack>,
    manifest: Manifest,
    /// Where the entries are in the manifest; the root is the first.
    offsets: Vec<Offset>,
    /// Entries of each directory by a hash of their names: some 16 bytes for each entry of the snapshot.
    children: HashMap<u32, Box<[(u32, u32)]>>,
    /// kmsfs.json and the epoch marker, which the manifest leaves out.
    own: [Vec<u8>; 2],
    private: Option<u32>,
}

/// A directory of a snapshot.
pub struct SnapshotDir {
    tree: Arc<Tree>,
    node: u32,
}

/// The descriptor of the volume that a snapshot is of.
pub(super) fn volume_json(descriptor: &Descriptor, volume: &VolumeKeys) -> Result<Vec<u8>> {
    let keys = descriptor.wrapped_keys()?;
    let (region, features) = (descriptor.region.clone(), descriptor.volume_features()?);
    let recipients = descriptor.listed_recipients()?;
    Ok(volume_descriptor::Descriptor::with(volume, region, features, keys, recipients).encode()?)
}

/// The epoch marker of the captured state.
pub(super) fn marker(descriptor: &Descriptor) -> Result<Vec<u8>> {
    hex::decode(&descriptor.epoch).map_err(|_| SnapshotError::damaged("snapshot.json has no epoch marker"))
}

fn hash(name: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish() as u32
}

impl SnapshotDir {
    /// The root. Reads the manifest once, for an index.
    pub fn open(snapshot: Opened) -> Result<Arc<dyn Dir>> {
        let Opened { depot, descriptor, volume, manifest, .. } = snapshot;
        let own = [volume_json(&descriptor, &volume)?, marker(&descriptor)?];
        let mut offsets = Vec::new();
        let mut lists: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
        // Nodes of the directories that lead to the last entry.
        let mut above: Vec<u32> = Vec::new();
        let mut private = None;
        let mut entries = manifest.entries()?;
        loop {
            let offset = entries.offset();
            let Some(entry) = entries.next_entry()? else { break };
            let node = u32::try_from(offsets.len())
                .map_err(|_| SnapshotError::Refused("the snapshot has over 2^32 entries".to_owned()))?;
            offsets.push(offset);
            above.truncate(entry.depth as usize);
            if let Some(parent) = above.last() {
                lists.entry(*parent).or_default().push((hash(&entry.name), node));
            }
            if entry.meta.kind() == Kind::Directory {
                above.push(node);
                if entry.depth == 1 && entry.name == PRIVATE_DIR {
                    private = Some(node);
                }
            }
        }
        drop(entries);
        offsets.shrink_to_fit();
        let sorted = |mut list: Vec<(u32, u32)>| {
            list.sort_unstable();
            list.into_boxed_slice()
        };
        let children = lists.into_iter().map(|(node, list)| (node, sorted(list))).collect();
        let tree = Tree { depot, packs: descriptor.packs, manifest, offsets, children, own, private };
        Ok(Arc::new(Self { tree: Arc::new(tree), node: 0 }))
    }

    /// BLAKE3 of the stored pages of a file here.
    pub fn digest(&self, name: &[u8]) -> Option<[u8; 32]> {
        Some(self.find(name).ok()?.1.stored?.digest)
    }

    fn children(&self) -> &[(u32, u32)] {
        self.tree.children.get(&self.node).map_or(&[], |list| list)
    }

    fn entry(&self, node: u32) -> io::Result<Entry> {
        self.tree.manifest.entry_at(self.tree.offsets[node as usize]).map_err(as_io)
    }

    /// An entry of this directory.
    fn find(&self, name: &[u8]) -> io::Result<(u32, Entry)> {
        let (children, wanted) = (self.children(), hash(name));
        let from = children.partition_point(|child| child.0 < wanted);
        for (_, node) in children[from..].iter().take_while(|child| child.0 == wanted) {
            let entry = self.entry(*node)?;
            if entry.name == name {
                return Ok((*node, entry));
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// A file that the manifest leaves out, by its name.
    fn own(&self, name: &[u8]) -> Option<usize> {
        match name {
            DESCRIPTOR if self.node == 0 => Some(0),
            EPOCH if self.tree.private == Some(self.node) => Some(1),
            _ => None,
        }
    }

    fn attrs_of(&self, name: Option<&[u8]>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        match name {
            None => Ok(self.entry(self.node)?.xattrs),
            Some(name) => Ok(self.find(name)?.1.xattrs),
        }
    }
}

/// Units of 512 bytes.
fn allocated(stored: Option<&Stored>) -> u64 {
    stored.map_or(0, Stored::pages) * (PAGE / 512)
}

fn stat_of(entry: &Entry) -> Stat {
    entry.meta.stat(allocated(entry.stored.as_ref()))
}

impl Dir for SnapshotDir {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn Dir>> {
        let (node, entry) = self.find(name)?;
        match entry.meta.kind() {
            Kind::Directory => Ok(Arc::new(Self { tree: self.tree.clone(), node })),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&self.entry(self.node)?))
    }

    fn stat_at(&self, name: &[u8]) -> io::Result<Stat> {
        Ok(stat_of(&self.find(name)?.1))
    }

    fn open_file(&self, name: &[u8], write: bool) -> io::Result<Arc<dyn BackingFile>> {
        if write {
            return read_only();
        }
        if let Some(which) = self.own(name) {
            return Ok(Arc::new(ReadOnly(OwnFile { tree: self.tree.clone(), which })));
        }
        let (_, entry) = self.find(name)?;
        let Entry { meta, xattrs, stored, .. } = entry;
        let Some(stored) = stored else { return Err(io::Error::from_raw_os_error(libc::ELOOP)) };
        Ok(Arc::new(ReadOnly(SnapshotFile { tree: self.tree.clone(), meta, xattrs, stored })))
    }

    fn create_file(&self, _: &[u8], _: u32) -> io::Result<Arc<dyn BackingFile>> {
        read_only()
    }

    fn mkdir(&self, _: &[u8], _: u32) -> io::Result<()> {
        read_only()
    }

    fn mknod(&self, _: &[u8], _: Kind, _: u32, _: u64) -> io::Result<()> {
        read_only()
    }

    fn symlink(&self, _: &[u8], _: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn readlink(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let (_, entry) = self.find(name)?;
        match entry.meta.kind() {
            Kind::Symlink => Ok(entry.target),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn link(&self, _: &[u8], _: &dyn Dir, _: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn unlink(&self, _: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn rmdir(&self, _: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn rename(&self, _: &[u8], _: &dyn Dir, _: &[u8], _: RenameMode) -> io::Result<()> {
        read_only()
    }

    fn entries(&self) -> io::Result<Vec<RawEntry>> {
        let mut out = Vec::with_capacity(self.children().len());
        // In the manifest's order, so that each of its blocks is opened about once.
        let mut nodes: Vec<u32> = self.children().iter().map(|child| child.1).collect();
        nodes.sort_unstable();
        for node in nodes {
            let entry = self.entry(node)?;
            out.push(RawEntry { kind: entry.meta.kind(), ino: entry.meta.ino, name: entry.name });
        }
        Ok(out)
    }

    fn change(&self, _: Option<&[u8]>, _: &Change) -> io::Result<()> {
        read_only()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_fs(&self) -> io::Result<()> {
        Ok(())
    }

    fn fs_stat(&self) -> io::Result<FsStat> {
        let pages: u64 = self.tree.packs.iter().map(|pack| pack.pages).sum();
        Ok(FsStat {
            bsize: PAGE,
            frsize: PAGE,
            blocks: pages,
            bfree: 0,
            bavail: 0,
            files: self.tree.offsets.len() as u64,
            ffree: 0,
            namemax: 255,
        })
    }

    fn orders_metadata(&self) -> bool {
        true
    }

    fn flushes_on_rename(&self) -> bool {
        true
    }

    fn get_xattr(&self, name: Option<&[u8]>, attr: &[u8]) -> io::Result<Vec<u8>> {
        value_of(self.attrs_of(name)?, attr)
    }

    fn set_xattr(&self, _: Option<&[u8]>, _: &[u8], _: &[u8], _: XattrMode) -> io::Result<()> {
        read_only()
    }

    fn list_xattr(&self, name: Option<&[u8]>) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.attrs_of(name)?.into_iter().map(|(name, _)| name).collect())
    }

    fn remove_xattr(&self, _: Option<&[u8]>, _: &[u8]) -> io::Result<()> {
        read_only()
    }

    fn lock(&self, name: &[u8], exclusive: bool) -> io::Result<Box<dyn Send + Sync>> {
        if exclusive || name != LOCK {
            return read_only();
        }
        // Nothing ever changes.
        Ok(Box::new(()))
    }
}

/// Pages of an entry.
pub(super) fn read_stored(
    depot: &dyn Depot,
    packs: &[Pack],
    stored: &Stored,
    buf: &mut [u8],
    offset: u64,
) -> Result<()> {
    buf.fill(0);
    let end = offset + buf.len() as u64;
    let from = stored.extents.partition_point(|e| (e.page + e.pages) * PAGE <= offset);
    for extent in &stored.extents[from..] {
        let (first, last) = (extent.page * PAGE, (extent.page + extent.pages) * PAGE);
        if first >= end {
            break;
        }
        let (start, stop) = (first.max(offset), last.min(end));
        let pack = packs
            .get(extent.pack as usize)
            .ok_or_else(|| SnapshotError::damaged("the manifest names a pack that snapshot.json does not"))?;
        let at = extent.pack_page * PAGE + (start - first);
        let piece = &mut buf[(start - offset) as usize..(stop - offset) as usize];
        read_pack(depot, &pack.id, at, piece)?;
    }
    Ok(())
}

/// A file of a snapshot.
struct SnapshotFile {
    tree: Arc<Tree>,
    meta: Meta,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    stored: Stored,
}

/// A file that the manifest leaves out.
struct OwnFile {
    tree: Arc<Tree>,
    which: usize,
}

impl Fixed for SnapshotFile {
    fn fixed_len(&self) -> u64 {
        self.meta.size
    }

    fn fixed_stat(&self) -> io::Result<Stat> {
        Ok(self.meta.stat(allocated(Some(&self.stored))))
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        read_stored(&*self.tree.depot, &self.tree.packs, &self.stored, buf, offset).map_err(as_io)
    }

    fn data_after(&self, offset: u64) -> Option<u64> {
        let from = self.stored.extents.partition_point(|e| (e.page + e.pages) * PAGE <= offset);
        self.stored.extents.get(from).map(|extent| offset.max(extent.page * PAGE))
    }

    fn attrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.xattrs
    }
}

impl Fixed for OwnFile {
    fn fixed_len(&self) -> u64 {
        self.tree.own[self.which].len() as u64
    }

    fn fixed_stat(&self) -> io::Result<Stat> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        buf.copy_from_slice(&self.tree.own[self.which][offset..offset + buf.len()]);
        Ok(())
    }

    fn data_after(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }

    fn attrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &[]
    }
}
