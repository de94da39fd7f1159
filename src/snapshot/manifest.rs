//! The manifest: every entry of a captured tree, in depth-first order, names sorted by bytes in each directory, so that
//! two manifests are merged as streams and no list is ever held whole. Written in the volume's own file format.

mod file;

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

pub use self::file::{Manifest, ManifestSink, file_keys};
use super::descriptor::{Id, Pack};
use super::error::{On, Result, SnapshotError};
use crate::volume::disk::{Kind, Stat, Time};
use crate::volume::layout::{BLOCK, PAGE};

/// Version of the records.
const RECORDS: u32 = 3;
/// A record takes no more: some 8 million extents.
const MAX_RECORD: usize = 64 << 20;
/// The deepest tree.
pub(super) const MAX_DEPTH: usize = 4096;
/// Plaintext that is encrypted, or opened, at once.
const CHUNK: usize = 64 * BLOCK as usize;

/// Consecutive pages of a file that stand in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The first of them in the file.
    pub page: u64,
    /// How many.
    pub pages: u64,
    /// Place in [`Descriptor::packs`].
    pub pack: u32,
    /// The first of them in the pack.
    pub pack_page: u64,
}

/// Where the pages of a file are. Those in no extent are holes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// In the file's order.
    pub extents: Vec<Extent>,
    /// BLAKE3 of the pages in the extents, one after the other.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// Place in [`Descriptor::keys`]; None for a file without a header.
    pub key: Option<u32>,
}

impl Stored {
    /// Pages in the extents.
    pub fn pages(&self) -> u64 {
        self.extents.iter().map(|e| e.pages).sum()
    }
}

/// stat(2) of an entry, as far as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    kind: u8,
    /// 07777.
    pub perm: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a device.
    pub rdev: u64,
    /// Device and inode number: what is the same object, then and later, and by two names.
    pub dev: u64,
    /// See `dev`.
    pub ino: u64,
    /// Hard links.
    pub nlink: u64,
    /// st_size.
    pub size: u64,
    atime: (i64, u32),
    mtime: (i64, u32),
    ctime: (i64, u32),
}

/// By their numbers in the manifest.
const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::Symlink,
    Kind::Fifo,
    Kind::Socket,
    Kind::CharDevice,
    Kind::BlockDevice,
];

impl Meta {
    /// What is kept of a stat.
    pub fn new(stat: &Stat) -> Self {
        let pair = |time: Time| (time.sec, time.nsec);
        Self {
            // Every kind stands in the table.
            kind: KINDS.iter().position(|k| *k == stat.kind).unwrap_or_default() as u8,
            perm: stat.perm,
            uid: stat.uid,
            gid: stat.gid,
            rdev: stat.rdev,
            dev: stat.dev,
            ino: stat.ino,
            nlink: stat.nlink,
            size: stat.size,
            atime: pair(stat.atime),
            mtime: pair(stat.mtime),
            ctime: pair(stat.ctime),
        }
    }

    /// As a stat; `blocks` are allocated units of 512 bytes.
    pub fn stat(&self, blocks: u64) -> Stat {
        let time = |(sec, nsec)| Time { sec, nsec };
        Stat {
            dev: self.dev,
            ino: self.ino,
            kind: self.kind(),
            perm: self.perm,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            blocks,
            atime: time(self.atime),
            mtime: time(self.mtime),
            ctime: time(self.ctime),
        }
    }

    /// Kind.
    pub fn kind(&self) -> Kind {
        // Checked when it was read.
        KINDS.get(usize::from(self.kind)).copied().unwrap_or(Kind::File)
    }

    /// Last change of anything.
    pub fn ctime(&self) -> Time {
        Time { sec: self.ctime.0, nsec: self.ctime.1 }
    }

    /// True if the object and its content are what they were, as far as stat tells.
    pub fn unchanged_since(&self, then: &Self) -> bool {
        let key = |m: &Self| (m.kind, m.dev, m.ino, m.size, m.mtime, m.ctime);
        key(self) == key(then)
    }
}

/// One entry of the backing tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 0 is the root, which comes first and has an empty name; its entries have 1.
    pub depth: u32,
    /// The backing's name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// stat.
    pub meta: Meta,
    /// Its times were old enough when it was looked at that a later change must show in them.
    pub settled: bool,
    /// Of a symbolic link.
    #[serde(with = "serde_bytes")]
    pub target: Vec<u8>,
    /// Extended attributes as the backing has them, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a regular file.
    pub stored: Option<Stored>,
}

#[derive(Deserialize)]
enum Record {
    Head { version: u32, snapshot: [u8; 16] },
    Entry(Box<Entry>),
    End { entries: u64 },
}

/// A [`Record`] to be written: an entry need not be moved.
#[derive(Serialize)]
enum NewRecord<'a> {
    Head { version: u32, snapshot: [u8; 16] },
    Entry(&'a Entry),
    End { entries: u64 },
}

/// The names that lead to an entry. Their order is that of a manifest.
pub type EntryPath = Vec<Vec<u8>>;

/// Keeps the order of entries, and that each stands in a directory.
#[derive(Default)]
struct Order {
    path: EntryPath,
    started: bool,
    last_is_directory: bool,
}

impl Order {
    fn step(&mut self, entry: &Entry) -> Result<()> {
        let bad = |what: &str| Err(SnapshotError::damaged(format!("the manifest {what}")));
        let depth = entry.depth as usize;
        if !self.started {
            if depth != 0 || !entry.name.is_empty() || entry.meta.kind() != Kind::Directory {
                return bad("does not begin with the root");
            }
        } else {
            let names = 1..=255;
            let name = &entry.name;
            if depth == 0
                || depth > MAX_DEPTH
                || depth > self.path.len() + usize::from(self.last_is_directory)
            {
                return bad("has an entry outside of any directory");
            }
            if !names.contains(&name.len())
                || name == b"."
                || name == b".."
                || name.contains(&b'/')
                || name.contains(&0)
            {
                return bad("has an entry with a name that is none");
            }
            if self.path.get(depth - 1).is_some_and(|before| before >= name) {
                return bad("has entries out of order");
            }
            self.path.truncate(depth);
            match self.path.get_mut(depth - 1) {
                // Takes no new memory.
                Some(before) => before.clone_from(name),
                None => self.path.push(name.clone()),
            }
        }
        self.started = true;
        self.last_is_directory = entry.meta.kind() == Kind::Directory;
        Ok(())
    }
}

/// Writes records to any stream. The manifest is one; so is what a pass over a tree leaves for the next.
pub struct Records<W> {
    out: W,
    order: Order,
    entries: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Records<W> {
    /// Begins.
    pub fn new(out: W, snapshot: Id) -> Result<Self> {
        let mut records = Self { out, order: Order::default(), entries: 0, buffer: Vec::new() };
        records.put(&NewRecord::Head { version: RECORDS, snapshot: snapshot.0 })?;
        Ok(records)
    }

    fn put(&mut self, record: &NewRecord) -> Result<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        let encoded = postcard::to_extend(record, std::mem::take(&mut self.buffer));
        self.buffer =
            encoded.map_err(|e| SnapshotError::damaged(format!("an entry cannot be written: {e}")))?;
        let len = self.buffer.len() - 4;
        if len > MAX_RECORD {
            return Err(SnapshotError::Refused(
                "a file has too many pieces for a manifest: copy it, which closes its holes".to_owned(),
            ));
        }
        self.buffer[..4].copy_from_slice(&(len as u32).to_le_bytes());
        self.out.write_all(&self.buffer).on("writing", "the manifest")
    }

    /// The next entry, in order.
    pub fn push(&mut self, entry: &Entry) -> Result<()> {
        self.order.step(entry)?;
        self.entries += 1;
        self.put(&NewRecord::Entry(entry))
    }

    /// The next entry, of which `record` is the form, as [`Reader::record`] told it.
    pub fn push_record(&mut self, entry: &Entry, record: &[u8]) -> Result<()> {
        self.order.step(entry)?;
        self.entries += 1;
        // It was read, and is no longer than a record may be.
        let len = (record.len() as u32).to_le_bytes();
        self.out.write_all(&len).and_then(|()| self.out.write_all(record)).on("writing", "the manifest")
    }

    /// Ends; the stream, flushed.
    pub fn finish(mut self) -> Result<W> {
        self.put(&NewRecord::End { entries: self.entries })?;
        self.out.flush().on("writing", "the manifest")?;
        Ok(self.out)
    }
}

/// Reads records from any stream, checking each for what the rest of the program relies on.
pub struct Reader<R> {
    input: R,
    order: Order,
    /// Pages of each pack; None where extents are not known yet.
    packs: Option<Vec<u64>>,
    snapshot: Id,
    offset: u64,
    entries: u64,
    ended: bool,
    buffer: Vec<u8>,
}

/// Where a record begins in the stream.
pub type Offset = u64;

impl<R: Read> Reader<R> {
    /// Begins. Extents must lie in `packs`, where these are given.
    pub fn new(input: R, packs: Option<&[Pack]>) -> Result<Self> {
        let packs = packs.map(|packs| packs.iter().map(|pack| pack.pages).collect());
        let mut reader = Self {
            input,
            order: Order::default(),
            packs,
            snapshot: Id([0; 16]),
            offset: 0,
            entries: 0,
            ended: false,
            buffer: Vec::new(),
        };
        match reader.take()? {
            Record::Head { version: RECORDS, snapshot } => reader.snapshot = Id(snapshot),
            Record::Head { version, .. } => {
                return Err(SnapshotError::Newer(format!(
                    "the manifest has version {version}, known is {RECORDS}"
                )));
            }
            Record::Entry(_) | Record::End { .. } => {
                return Err(SnapshotError::damaged("the manifest has no head"));
            }
        }
        Ok(reader)
    }

    /// The snapshot that the manifest says it is of.
    pub fn snapshot(&self) -> Id {
        self.snapshot
    }

    /// Where the next record begins.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The last record.
    pub fn record(&self) -> &[u8] {
        &self.buffer
    }

    /// The names that lead to the last entry.
    pub fn path(&self) -> &EntryPath {
        &self.order.path
    }

    /// The next entry; None at the end, which is checked to be the true one.
    ///
    /// (Not an [`Iterator`]: after an error nothing more can be read.)
    pub fn next_entry(&mut self) -> Result<Option<Box<Entry>>> {
        if self.ended {
            return Ok(None);
        }
        match self.take()? {
            Record::Entry(entry) => {
                self.order.step(&entry)?;
                check(&entry, self.packs.as_deref())?;
                self.entries += 1;
                Ok(Some(entry))
            }
            Record::End { entries } if entries == self.entries => {
                self.ended = true;
                match self.input.read(&mut [0]).on("reading", "the manifest")? {
                    0 => Ok(None),
                    _ => Err(SnapshotError::damaged("the manifest goes on behind its end")),
                }
            }
            Record::End { .. } | Record::Head { .. } => {
                Err(SnapshotError::damaged("the manifest is out of order"))
            }
        }
    }

    fn take(&mut self) -> Result<Record> {
        let record = take(&mut self.input, &mut self.buffer)?;
        self.offset += 4 + self.buffer.len() as u64;
        Ok(record)
    }
}

/// One record of a stream. The buffer grows only as far as there are bytes.
fn take(input: &mut dyn Read, buffer: &mut Vec<u8>) -> Result<Record> {
    let cut = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::damaged("the manifest is cut"),
        _ => SnapshotError::Depot { what: "reading", path: "the manifest".to_owned(), source: e },
    };
    let mut len = [0; 4];
    input.read_exact(&mut len).map_err(cut)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_RECORD {
        return Err(SnapshotError::damaged("the manifest has a record that is too long"));
    }
    buffer.clear();
    if len <= CHUNK {
        buffer.resize(len, 0);
        input.read_exact(buffer).map_err(cut)?;
    } else {
        input.take(len as u64).read_to_end(buffer).map_err(cut)?;
    }
    if buffer.len() < len {
        return Err(SnapshotError::damaged("the manifest is cut"));
    }
    match postcard::take_from_bytes(buffer) {
        Ok((record, [])) => Ok(record),
        _ => Err(SnapshotError::damaged("the manifest has a record that is none")),
    }
}

/// What an entry must be, so that nobody who uses it has to ask again.
fn check(entry: &Entry, packs: Option<&[u64]>) -> Result<()> {
    let bad = |what: &str| {
        let name = String::from_utf8_lossy(&entry.name);
        Err(SnapshotError::damaged(format!("the manifest's entry {name} {what}")))
    };
    let meta = &entry.meta;
    if usize::from(meta.kind) >= KINDS.len() {
        return bad("is of no kind");
    }
    if meta.perm > 0o7777 || [meta.atime, meta.mtime, meta.ctime].iter().any(|t| t.1 >= 1_000_000_000) {
        return bad("has attributes that no file has");
    }
    if (meta.kind() == Kind::Symlink)
        == (entry.target.is_empty() || entry.target.len() > 4096 || entry.target.contains(&0))
    {
        return bad("has a target, or has none, against its kind");
    }
    if !entry.xattrs.is_sorted_by(|a, b| a.0 < b.0)
        || entry
            .xattrs
            .iter()
            .any(|(n, v)| n.is_empty() || n.len() > 255 || n.contains(&0) || v.len() > 1 << 16)
    {
        return bad("has extended attributes that no file has");
    }
    if (meta.kind() == Kind::File) != entry.stored.is_some() {
        return bad("has content, or has none, against its kind");
    }
    let mut end = 0;
    for extent in entry.stored.iter().flat_map(|stored| &stored.extents) {
        let Extent { page, pages, pack, pack_page } = *extent;
        let in_file = page.checked_add(pages).filter(|e| pages > 0 && page >= end && *e <= meta.size / PAGE);
        let Some(in_file) = in_file else { return bad("has pieces that lie outside of it") };
        end = in_file;
        if let Some(packs) = packs {
            let in_pack = packs.get(pack as usize).zip(pack_page.checked_add(pages));
            if in_pack.is_none_or(|(pages, end)| end > *pages) {
                return bad("has pieces that lie outside of their pack");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
