//! The manifest: every entry of a captured tree, in depth-first order, names sorted by bytes in each directory, so that
//! two manifests are merged as streams and no list is ever held whole. Written in the volume's own file format.

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::descriptor::{Descriptor, Id, Pack};
use super::error::{On, Result, SnapshotError};
use crate::crypto::Secret;
use crate::kms::KeyService;
use crate::volume::content::Content;
use crate::volume::disk::{BackingFile, Kind, Stat, Time};
use crate::volume::header::{Header, Page};
use crate::volume::keys::{DataKey, FileKeys, FreshKey, VolumeKeys, file_context};
use crate::volume::layout::{BLOCK, PAGE};

/// Version of the records.
const RECORDS: u32 = 3;
/// A record takes no more: some 8 million extents.
const MAX_RECORD: usize = 64 << 20;
/// The deepest tree.
pub(super) const MAX_DEPTH: usize = 4096;
/// Plaintext that is encrypted, or opened, at once.
const CHUNK: usize = 64 * BLOCK as usize;
/// Plaintext after which the disk begins with it.
const WRITEBACK: u64 = 4 << 20;

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
        self.buffer.clear();
        // It was read, and is no longer than a record may be.
        self.buffer.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(record);
        self.out.write_all(&self.buffer).on("writing", "the manifest")
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

/// A manifest that is being written: takes plaintext, a chunk at a time, into a file of the volume's format.
pub struct ManifestSink {
    file: Arc<dyn BackingFile>,
    content: Content,
    buffer: Vec<u8>,
    at: u64,
    /// How far the disk was told to begin.
    begun: u64,
}

impl Write for ManifestSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.content.write(self.at, &self.buffer).map_err(io::Error::other)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        if self.at - self.begun >= WRITEBACK {
            self.file.start_writeback()?;
            self.begun = self.at;
        }
        Ok(())
    }
}

impl ManifestSink {
    /// Begins one in `file`, which is empty, under a data key that the key service makes. Answers its file id, for
    /// [`Descriptor::manifest`].
    pub fn begin(
        file: Arc<dyn BackingFile>,
        volume: &VolumeKeys,
        service: &dyn KeyService,
        key_id: &str,
        epoch: u64,
    ) -> Result<(Self, Id)> {
        let FreshKey { file_id, data, wrapped } = FreshKey::generate(service, key_id, &volume.id)?;
        let keys = Arc::new(FileKeys::derive(data, volume, &file_id)?);
        let header = Header {
            flags: 0,
            generation: 0,
            used: 0,
            file_id,
            size: 0,
            epoch,
            commitment: *keys.commitment(),
            keys: vec![wrapped],
        };
        let content = Content::create(file.clone(), keys, header);
        Ok((Self { file, content, buffer: Vec::with_capacity(CHUNK), at: 0, begun: 0 }, Id(file_id)))
    }

    /// Ends: the file is whole.
    pub fn finish(mut self) -> Result<()> {
        self.flush().on("writing", "the manifest")?;
        Ok(self.content.finalise()?)
    }
}

/// A manifest that is open for reading.
pub struct Manifest {
    content: Arc<Content>,
    packs: Vec<Pack>,
    pages: Vec<u64>,
    snapshot: Id,
}

impl Manifest {
    /// Opens the manifest in `file` that `descriptor` names: one Decrypt, under the volume's keys.
    pub fn open(
        file: Arc<dyn BackingFile>,
        descriptor: &Descriptor,
        volume: &VolumeKeys,
        service: &dyn KeyService,
    ) -> Result<Self> {
        let mut page: Box<Page> = Box::new([0; PAGE as usize]);
        let read = file.read_at(&mut page[..], 0).on("reading", "the manifest")?;
        let header = Header::parse(&page[..read])?;
        if header.file_id != descriptor.manifest.0 {
            return Err(SnapshotError::damaged("the manifest is another snapshot's"));
        }
        let keys = file_keys(&header, volume, service)?;
        let epoch = header.epoch;
        let content = Content::open(file, Arc::new(keys), header, &page, epoch)?;
        Ok(Self {
            content: Arc::new(content),
            packs: descriptor.packs.clone(),
            pages: descriptor.packs.iter().map(|pack| pack.pages).collect(),
            snapshot: descriptor.snapshot_id,
        })
    }

    /// Its entries, from the first.
    pub fn entries(&self) -> Result<Reader<Box<dyn Read + Send>>> {
        let stream: Box<dyn Read + Send> = Box::new(ContentReader::new(self.content.clone(), 0));
        let reader = Reader::new(stream, Some(&self.packs))?;
        if reader.snapshot() != self.snapshot {
            return Err(SnapshotError::damaged("the manifest is another snapshot's"));
        }
        Ok(reader)
    }

    /// The entry at an offset that [`Reader::offset`] told before it was read.
    pub fn entry_at(&self, offset: Offset) -> Result<Entry> {
        let mut buffer = Vec::new();
        match take(&mut ContentReader::small(self.content.clone(), offset), &mut buffer)? {
            Record::Entry(entry) => {
                check(&entry, Some(&self.pages))?;
                Ok(*entry)
            }
            Record::Head { .. } | Record::End { .. } => Err(SnapshotError::damaged("no entry stands there")),
        }
    }
}

/// The keys of a file: the first wrapped data key that the key service opens and the commitment confirms.
pub fn file_keys(header: &Header, volume: &VolumeKeys, service: &dyn KeyService) -> Result<FileKeys> {
    let context = file_context(&volume.id, &header.file_id);
    let mut refusal = None;
    for wrapped in &header.keys {
        let refused: SnapshotError =
            match service.decrypt(Some(&wrapped.key_arn), &wrapped.ciphertext, &context) {
                Ok(opened) => {
                    let data = DataKey(Secret::from_slice(opened.plaintext.expose())?);
                    let keys = FileKeys::derive(data, volume, &header.file_id)?;
                    if crate::crypto::mac::equal(keys.commitment(), &header.commitment) {
                        return Ok(keys);
                    }
                    SnapshotError::damaged("a wrapped key in a header is another file's")
                }
                Err(error) => error.into(),
            };
        refusal = refusal.or(Some(refused));
    }
    Err(refusal.unwrap_or_else(|| SnapshotError::damaged("a header holds no wrapped key")))
}

/// Plaintext of a file in the volume's format, as a stream.
pub struct ContentReader {
    content: Arc<Content>,
    offset: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were handed on.
    taken: usize,
    chunk: usize,
}

impl ContentReader {
    /// From an offset on.
    pub fn new(content: Arc<Content>, offset: u64) -> Self {
        Self { content, offset, buffer: Vec::new(), taken: 0, chunk: CHUNK }
    }

    /// For one record: reads a block at a time.
    fn small(content: Arc<Content>, offset: u64) -> Self {
        Self { chunk: BLOCK as usize, ..Self::new(content, offset) }
    }
}

impl Read for ContentReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() {
            // To the end of a block, so that none is opened twice.
            let within = (self.offset % BLOCK) as usize;
            self.buffer.resize(self.chunk - within, 0);
            let read = self.content.read(self.offset, &mut self.buffer).map_err(io::Error::other)?;
            self.buffer.truncate(read);
            self.offset += read as u64;
            self.taken = 0;
        }
        let len = out.len().min(self.buffer.len() - self.taken);
        out[..len].copy_from_slice(&self.buffer[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
