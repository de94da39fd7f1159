//! One pass over a backing tree, in the order of a manifest: what is as an earlier pass saw it is taken over without being
//! opened, the rest is read.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use super::descriptor::{Counts, Id};
use super::error::{On, Result};
use super::manifest::{Entry, EntryPath, Meta, Reader, Records, Stored};
use super::packs::{Packer, Tables};
use super::scout::{Found, Scout};
use crate::volume::disk::{BackingFile, Dir, Kind, Stat, Time};
use crate::volume::layout::{BLOCK, size_of_stat, whole_blocks};
use crate::volume::names::{EntryClass, classify};
use crate::volume::{VolumeError, epoch};

/// Two changes within so many nanoseconds may leave one time: clocks of filesystems tick.
const TICK: i128 = 1_000_000_000;
/// Attributes that belong to the volume; the others (security labels) are the backing system's own.
pub const KEPT_XATTRS: [&[u8]; 2] = [b"user.", b"system.posix_acl_"];

/// The backing's clock, asked once.
pub struct Clock {
    base: Time,
    at: Instant,
}

impl Clock {
    /// Asks. Where nothing can be written nothing changes either, and any clock will do.
    pub fn ask(private: &dyn Dir, otherwise: Time) -> Result<Self> {
        let at = Instant::now();
        let base = match epoch::backing_now(private) {
            Err(VolumeError::Backing { source, .. })
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                otherwise
            }
            now => now?,
        };
        Ok(Self { base, at })
    }

    /// Now, in nanoseconds.
    pub fn now(&self) -> i128 {
        nanos(self.base) + self.at.elapsed().as_nanos() as i128
    }
}

fn nanos(time: Time) -> i128 {
    i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec)
}

/// True if whatever changes from `now` on gets another ctime than this.
pub fn is_past(ctime: Time, now: i128) -> bool {
    nanos(ctime) + TICK < now
}

/// Whether a pack of so many pages still stands.
pub type Usable = Box<dyn FnMut(&Id, u64) -> Result<bool>>;

/// What an earlier pass saw, read along with this one.
pub struct Prior {
    reader: Reader<Box<dyn Read + Send>>,
    tables: Tables,
    /// Packs that are not there any more, or not whole.
    usable: Usable,
    waiting: Option<Entry>,
}

impl Prior {
    /// Entries in `reader`, whose places are those of `tables`. `usable` tells whether a pack still stands.
    pub fn new(reader: Reader<Box<dyn Read + Send>>, tables: Tables, usable: Usable) -> Result<Self> {
        let mut prior = Self { reader, tables, usable, waiting: None };
        prior.waiting = prior.reader.next_entry()?;
        Ok(prior)
    }

    /// The entry that stood there, if it is still the same object, unchanged. To be asked in order, once for each path.
    fn find(&mut self, path: &EntryPath, meta: &Meta) -> Result<Option<Entry>> {
        while self.waiting.is_some() && self.reader.path() < path {
            self.waiting = self.reader.next_entry()?;
        }
        if self.waiting.is_none() || self.reader.path() != path {
            return Ok(None);
        }
        let then = self.waiting.take();
        let found = then.filter(|then| then.settled && meta.unchanged_since(&then.meta));
        self.waiting = self.reader.next_entry()?;
        Ok(found)
    }
}

/// How a pass deals with a tree that changes under it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It may change: what is gone is left out, and files that changed a moment ago are left for the next pass.
    Live,
    /// It stands still: what is gone is an error.
    Held,
}

/// One pass.
pub struct Pass<'a, 'd, W> {
    /// How.
    pub mode: Mode,
    /// The backing's clock.
    pub clock: &'a Clock,
    /// What may be taken over, the best first.
    pub priors: Vec<Prior>,
    /// Where pages go.
    pub packer: &'a mut Packer<'d>,
    /// What the places in entries mean.
    pub tables: Tables,
    /// Where entries go.
    pub out: Records<W>,
    /// Told of each entry, with the bytes of the volume that were looked at.
    pub seen: &'a dyn Fn(u64),
    /// What was found.
    pub counts: Counts,
    /// Files of several names that were read, so that they are stored once.
    pub links: HashMap<(u64, u64), (Meta, Stored)>,
    /// Entries of the path that is walked.
    pub path: EntryPath,
}

impl<W: Write> Pass<'_, '_, W> {
    /// Goes through the whole tree.
    pub fn run(&mut self, root: &Arc<dyn Dir>) -> Result<()> {
        let now = self.clock.now();
        let stat = root.stat().on("looking at", "the volume")?;
        if let Some(entry) = self.entry(root, None, &stat, is_past(stat.ctime, now))? {
            self.push(&entry)?;
        }
        Scout { mode: self.mode, clock: self.clock }.run(root, &mut |found| self.take(found))
    }

    /// The next that was found. False: what is below it is of no interest.
    fn take(&mut self, found: Found) -> Result<bool> {
        match found {
            Found::Entry { dir, name, stat, settled } => {
                self.path.push(name);
                // A name was pushed above.
                let name = self.path.last().cloned().unwrap_or_default();
                if let Some(entry) = self.entry(&dir, Some(&name), &stat, settled)? {
                    self.push(&entry)?;
                }
                self.path.pop();
            }
            Found::Down { dir, name, stat, settled } => {
                self.path.push(name);
                let Some(entry) = self.entry(&dir, None, &stat, settled)? else {
                    self.path.pop();
                    return Ok(false);
                };
                self.push(&entry)?;
            }
            Found::Up => {
                self.path.pop();
            }
        }
        Ok(true)
    }

    /// What is gone is None where the tree may change.
    fn there<T>(&self, result: io::Result<T>, what: &'static str) -> Result<Option<T>> {
        match result {
            Err(e) if self.mode == Mode::Live && is_gone(&e) => Ok(None),
            result => result.on(what, "the volume").map(Some),
        }
    }

    /// The entry of `name` in `dir`, or of `dir` itself. None if it is gone, or left for the next pass.
    fn entry(
        &mut self,
        dir: &Arc<dyn Dir>,
        name: Option<&[u8]>,
        stat: &Stat,
        settled: bool,
    ) -> Result<Option<Entry>> {
        let meta = Meta::new(stat);
        for at in 0..self.priors.len() {
            if let Some(entry) = self.take_over(at, &meta)? {
                return Ok(Some(entry));
            }
        }
        let mut stored = None;
        if stat.kind == Kind::File {
            if self.mode == Mode::Live && !settled {
                return Ok(None);
            }
            match self.content(dir, name.unwrap_or_default(), stat, &meta)? {
                None => return Ok(None),
                content => stored = content,
            }
        }
        let mut target = Vec::new();
        if stat.kind == Kind::Symlink {
            let Some(text) = self.there(dir.readlink(name.unwrap_or_default()), "reading a link of")? else {
                return Ok(None);
            };
            target = text;
        }
        let mut xattrs = Vec::new();
        if matches!(stat.kind, Kind::File | Kind::Directory) {
            let Some(found) = self.there(xattrs_of(&**dir, name), "reading the attributes of an entry of")?
            else {
                return Ok(None);
            };
            xattrs = found;
        }
        let depth = self.path.len() as u32;
        let name = self.path.last().cloned().unwrap_or_default();
        Ok(Some(Entry { depth, name, meta, settled, target, xattrs, stored }))
    }

    /// The entry as an earlier pass saw it.
    fn take_over(&mut self, at: usize, meta: &Meta) -> Result<Option<Entry>> {
        let prior = &mut self.priors[at];
        let Some(then) = prior.find(&self.path, meta)? else { return Ok(None) };
        let mut entry = Entry { meta: *meta, ..then };
        if let Some(stored) = &entry.stored {
            let packs = prior.tables.packs();
            for extent in &stored.extents {
                let pack = packs.get(extent.pack as usize);
                if !pack.map_or(Ok(false), |pack| (prior.usable)(&pack.id, pack.pages))? {
                    return Ok(None);
                }
            }
            match self.tables.take_over(&prior.tables, stored) {
                None => return Ok(None),
                stored => entry.stored = stored,
            }
        }
        Ok(Some(entry))
    }

    fn content(
        &mut self,
        dir: &Arc<dyn Dir>,
        name: &[u8],
        stat: &Stat,
        meta: &Meta,
    ) -> Result<Option<Stored>> {
        let object = (stat.dev, stat.ino);
        if let Some((then, stored)) = self.links.get(&object).filter(|(then, _)| meta.unchanged_since(then)) {
            debug_assert!(then.size == stat.size);
            return Ok(Some(stored.clone()));
        }
        let Some(file) = self.there(dir.open_file(name, false), "opening a file of")? else {
            return Ok(None);
        };
        let stored = self.packer.store(&*file, stat.size, &mut self.tables)?;
        if stat.nlink > 1 {
            self.links.insert(object, (*meta, stored.clone()));
        }
        Ok(Some(stored))
    }

    fn push(&mut self, entry: &Entry) -> Result<()> {
        match entry.meta.kind() {
            Kind::File => {
                self.counts.files += 1;
                let size = entry.meta.size;
                let bytes = size_of_stat(size).unwrap_or(whole_blocks(size) * BLOCK);
                // A handful of holes makes 2^64.
                self.counts.bytes = self.counts.bytes.saturating_add(bytes);
            }
            Kind::Directory => self.counts.directories += 1,
            Kind::Symlink if !matches!(classify(&entry.name), EntryClass::Name | EntryClass::Long) => {}
            Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                self.counts.others += 1;
            }
        }
        if let Some(stored) = &entry.stored {
            self.tables.count(stored);
        }
        (self.seen)(entry.meta.size);
        self.out.push(entry)
    }
}

/// True if an entry was taken away, or replaced, after it was listed.
pub fn is_gone(error: &io::Error) -> bool {
    // Replaced by something of another kind: open says so in its own way.
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EINVAL | libc::ENXIO | libc::ESTALE))
}

fn xattrs_of(dir: &dyn Dir, name: Option<&[u8]>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut out = Vec::new();
    for attr in dir.list_xattr(name)? {
        if KEPT_XATTRS.iter().any(|kept| attr.starts_with(kept)) {
            match dir.get_xattr(name, &attr) {
                // Taken away meanwhile, which moves the ctime.
                Err(e) if e.raw_os_error() == Some(libc::ENODATA) => {}
                value => out.push((attr, value?)),
            }
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// A file without a name, as long as somebody holds it: for what need not outlive the program.
pub fn scratch(dir: &dyn Dir) -> Result<Arc<dyn BackingFile>> {
    let what = "making a temporary file in";
    let name = crate::volume::names::temporary_name()?;
    let file = dir.create_file(&name, 0o600).on(what, "the depot")?;
    dir.unlink(&name).on(what, "the depot")?;
    Ok(file)
}

/// A backing file as a stream.
pub struct Stream {
    file: Arc<dyn BackingFile>,
    at: u64,
}

impl Stream {
    /// From its beginning, to be read.
    pub fn read(file: Arc<dyn BackingFile>) -> BufReader<Self> {
        BufReader::with_capacity(1 << 18, Self { file, at: 0 })
    }

    /// From its beginning, to be written.
    pub fn write(file: Arc<dyn BackingFile>) -> BufWriter<Self> {
        BufWriter::with_capacity(1 << 18, Self { file, at: 0 })
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write_at(buf, self.at)?;
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
