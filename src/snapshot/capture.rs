//! One pass over a backing tree, in the order of a manifest: what is as an earlier pass saw it is taken over without being
//! opened, the rest is read.

use std::cmp::Ordering;
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
    /// The entry that was read last; None at the end.
    entry: Option<Box<Entry>>,
    /// It was asked for.
    passed: bool,
    /// Places in this pass's tables, by those in the earlier one's, as far as they were asked for: inside, None if the pack is not to
    /// be had.
    packs: Vec<Option<Option<u32>>>,
    keys: Vec<Option<u32>>,
}

impl Prior {
    /// Entries in `reader`, whose places are those of `tables`. `usable` tells whether a pack still stands.
    pub fn new(reader: Reader<Box<dyn Read + Send>>, tables: Tables, usable: Usable) -> Self {
        let packs = vec![None; tables.packs().len()];
        let keys = vec![None; tables.keys().len()];
        Self { reader, tables, usable, entry: None, passed: true, packs, keys }
    }

    /// See [`Tables::successor`].
    pub fn successor(&self) -> Tables {
        self.tables.successor()
    }

    /// True if the same object stood there, unchanged: it is [`Self::entry`] then. To be asked in order, once for each path.
    fn find(&mut self, path: &EntryPath, meta: &Meta) -> Result<bool> {
        loop {
            if self.passed {
                self.entry = self.reader.next_entry()?;
                self.passed = false;
            }
            let Some(then) = &self.entry else { return Ok(false) };
            match self.reader.path().cmp(path) {
                Ordering::Less => self.passed = true,
                Ordering::Equal => {
                    self.passed = true;
                    return Ok(then.settled && meta.unchanged_since(&then.meta));
                }
                Ordering::Greater => return Ok(false),
            }
        }
    }

    /// Makes the places in `stored` those of `tables`. None if what was stored is not to be had any more; true if they are what
    /// they were.
    fn translate(&mut self, stored: &mut Stored, tables: &mut Tables) -> Result<Option<bool>> {
        let mut same = true;
        for extent in &mut stored.extents {
            let place = extent.pack as usize;
            let (Some(pack), Some(known)) = (self.tables.packs().get(place), self.packs.get_mut(place))
            else {
                return Ok(None);
            };
            let ours = match *known {
                Some(ours) => ours,
                None => {
                    let usable = (self.usable)(&pack.id, pack.pages)?;
                    *known.insert(usable.then(|| tables.pack(pack.id, pack.pages)))
                }
            };
            let Some(ours) = ours else { return Ok(None) };
            same &= std::mem::replace(&mut extent.pack, ours) == ours;
        }
        if let Some(key) = &mut stored.key {
            let place = *key as usize;
            let (Some(used), Some(known)) = (self.tables.keys().get(place), self.keys.get_mut(place)) else {
                return Ok(None);
            };
            let ours = *known.get_or_insert_with(|| tables.key(&used.key_arns));
            same &= std::mem::replace(key, ours) == ours;
        }
        Ok(Some(same))
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

impl Mode {
    /// What is gone is None where the tree may change.
    pub fn there<T>(self, result: io::Result<T>, what: &'static str) -> Result<Option<T>> {
        match result {
            Err(e) if self == Self::Live && is_gone(&e) => Ok(None),
            result => result.on(what, "the volume").map(Some),
        }
    }
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
    /// Where entries go.
    pub output: Output<'a, W>,
    /// Files of several names that were read, so that they are stored once.
    pub links: HashMap<(u64, u64), (Meta, Stored)>,
    /// Entries of the path that is walked.
    pub path: EntryPath,
}

/// What a pass leaves.
pub struct Output<'a, W> {
    /// The entries.
    pub records: Records<W>,
    /// What the places in them mean.
    pub tables: Tables,
    /// What was found.
    pub counts: Counts,
    /// Told of each entry, with the bytes of the volume that were looked at.
    pub seen: &'a dyn Fn(u64),
}

impl<W: Write> Output<'_, W> {
    /// The next entry; in the form `record`, where it has that.
    fn push(&mut self, entry: &Entry, record: Option<&[u8]>) -> Result<()> {
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
        match record {
            Some(record) => self.records.push_record(entry, record),
            None => self.records.push(entry),
        }
    }
}

impl<W: Write> Pass<'_, '_, W> {
    /// Goes through the whole tree.
    pub fn run(&mut self, root: &Arc<dyn Dir>) -> Result<()> {
        let now = self.clock.now();
        let stat = root.stat().on("looking at", "the volume")?;
        self.entry(root, false, &stat, is_past(stat.ctime, now))?;
        Scout { mode: self.mode, clock: self.clock }.run(root, &mut |found| self.take(found))
    }

    /// The next that was found. False: what is below it is of no interest.
    fn take(&mut self, found: Found) -> Result<bool> {
        match found {
            Found::Entry { dir, name, stat, settled } => {
                self.path.push(name);
                self.entry(dir, true, stat, settled)?;
                self.path.pop();
            }
            Found::Down { dir, name, stat, settled } => {
                self.path.push(name);
                if !self.entry(dir, false, stat, settled)? {
                    self.path.pop();
                    return Ok(false);
                }
            }
            Found::Up => {
                self.path.pop();
            }
        }
        Ok(true)
    }

    /// Puts out the entry of the last name of the path, `in_dir`, or of `dir` itself. False if it is gone, or left for the next
    /// pass.
    fn entry(&mut self, dir: &Arc<dyn Dir>, in_dir: bool, stat: &Stat, settled: bool) -> Result<bool> {
        let meta = Meta::new(stat);
        for at in 0..self.priors.len() {
            if self.take_over(at, &meta)? {
                return Ok(true);
            }
        }
        let own_name = self.path.last().cloned().unwrap_or_default();
        let name = in_dir.then_some(&own_name[..]);
        let mut stored = None;
        if stat.kind == Kind::File {
            if self.mode == Mode::Live && !settled {
                return Ok(false);
            }
            match self.content(dir, &own_name, stat, &meta)? {
                None => return Ok(false),
                content => stored = content,
            }
        }
        let mut target = Vec::new();
        if stat.kind == Kind::Symlink {
            let Some(text) = self.mode.there(dir.readlink(&own_name), "reading a link of")? else {
                return Ok(false);
            };
            target = text;
        }
        let mut xattrs = Vec::new();
        if matches!(stat.kind, Kind::File | Kind::Directory) {
            let Some(found) =
                self.mode.there(xattrs_of(&**dir, name), "reading the attributes of an entry of")?
            else {
                return Ok(false);
            };
            xattrs = found;
        }
        let depth = self.path.len() as u32;
        let entry = Entry { depth, name: own_name, meta, settled, target, xattrs, stored };
        self.output.push(&entry, None)?;
        Ok(true)
    }

    /// Puts out the entry as an earlier pass saw it; false if it did not, or what it stored is not to be had any more.
    fn take_over(&mut self, at: usize, meta: &Meta) -> Result<bool> {
        let (prior, output) = (&mut self.priors[at], &mut self.output);
        if !prior.find(&self.path, meta)? {
            return Ok(false);
        }
        let Some(mut entry) = prior.entry.take() else { return Ok(false) };
        let mut same = entry.meta == *meta;
        if let Some(stored) = &mut entry.stored {
            match prior.translate(stored, &mut output.tables)? {
                None => return Ok(false),
                Some(same_places) => same &= same_places,
            }
        }
        entry.meta = *meta;
        output.push(&entry, same.then(|| prior.reader.record()))?;
        Ok(true)
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
        let Some(file) = self.mode.there(dir.open_file(name, false), "opening a file of")? else {
            return Ok(None);
        };
        let stored = self.packer.store(&*file, stat.size, &mut self.output.tables)?;
        if stat.nlink > 1 {
            self.links.insert(object, (*meta, stored.clone()));
        }
        Ok(Some(stored))
    }
}

/// True if an entry was taken away, or replaced, after it was listed.
fn is_gone(error: &io::Error) -> bool {
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
