//! A manifest's records as a file in the volume's own format.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::{CHUNK, Entry, Offset, Reader, Record, check, take};
use crate::kms::KeyService;
use crate::snapshot::descriptor::{Descriptor, Id, Pack};
use crate::snapshot::error::{On, Result, SnapshotError};
use crate::volume::VolumeError;
use crate::volume::content::Content;
use crate::volume::disk::BackingFile;
use crate::volume::header::{Header, Page};
use crate::volume::keys::{FileKeys, FreshKey, VolumeKeys};
use crate::volume::layout::{BLOCK, PAGE};
use crate::volume::recipients::Opens;

/// Plaintext after which the disk begins with it.
const WRITEBACK: u64 = 4 << 20;

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
    FileKeys::unwrap(service, &Opens::Any, volume, header).map_err(|error| match error {
        VolumeError::Key(refused) => refused.into(),
        error => error.into(),
    })
}

/// Plaintext of a file in the volume's format, as a stream.
struct ContentReader {
    content: Arc<Content>,
    offset: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were handed on.
    taken: usize,
    chunk: usize,
}

impl ContentReader {
    /// From an offset on.
    fn new(content: Arc<Content>, offset: u64) -> Self {
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
