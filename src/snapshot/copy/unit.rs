//! One unit of a copy: its files into packs, its entries into a part, and all of it read back.

use std::io::Write;

use super::super::catalogue::read_pack;
use super::super::depot::{Depot, Sink, pack_path};
use super::super::descriptor::{Id, Pack};
use super::super::error::{On, Result, SnapshotError};
use super::super::manifest::{Entry, Extent, Manifest, Stored, file_keys};
use super::part::{Number, Part, PartEntry};
use super::plan::{Role, Step};
use super::{Source, Target, Way};
use crate::crypto::mac::{Blake3, equal};
use crate::crypto::{Secret, random};
use crate::volume::VolumeError;
use crate::volume::block::{self, BlockHead};
use crate::volume::disk::Kind;
use crate::volume::header::{self, FileId, Header, Page, WrappedKey, is_zero};
use crate::volume::keys::{DataKey, FileKeys, FreshKey, file_context};
use crate::volume::layout::{BLOCK, PAGE, block_len, blocks_for};
use crate::volume::names::{EntryClass, OVERFLOW_PIECE, classify};
use crate::volume::transcode::{self, New, Old, Rename, Transcoder};

/// Pages of a pack, about: 256 MiB.
const PACK_PAGES: u64 = (256 << 20) / PAGE;
/// Data keys that are asked for together.
const KEYS: usize = 64;
/// Said where the pages of a file are not those of the manifest.
const OTHER_PAGES: &str = "its pages are not those that were captured";

/// What a thread keeps from unit to unit.
pub struct Worker {
    transcoder: Transcoder,
    /// Pages that are copied or read back at once.
    pages: Vec<u8>,
    plain: zeroize::Zeroizing<Vec<u8>>,
}

impl Worker {
    /// Which reads so many pages at once.
    pub fn new(window: u64) -> Self {
        Self {
            transcoder: Transcoder::new(window),
            pages: vec![0; ((1 + window) * PAGE) as usize],
            plain: zeroize::Zeroizing::new(vec![0; BLOCK as usize]),
        }
    }
}

/// A file of the unit, with what was found of it before its content is copied.
struct File {
    /// Its place in the part.
    at: usize,
    page: Box<Page>,
    header: Header,
    old: Option<FileKeys>,
}

/// A file that was copied: to be read back under these keys.
struct Copied {
    at: usize,
    header: Header,
    keys: FileKeys,
}

/// One after the other.
pub struct Unit<'a> {
    pub source: &'a Source<'a>,
    pub target: &'a Target<'a>,
    pub manifest: &'a Manifest,
    pub way: Way,
}

impl Unit<'_> {
    /// Copies a unit. Nothing of it is named but its packs until the part is put in its place by the caller. Answers the
    /// part, and its bytes.
    pub fn copy(
        &self,
        worker: &mut Worker,
        number: Number,
        steps: &mut dyn Iterator<Item = Step>,
        done: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<u8>> {
        let rename = Rename { from: self.source.keys, to: self.target.keys };
        let mut entries = Vec::new();
        let mut contents = Vec::new();
        for step in steps {
            let mut entry = self.manifest.entry_at(step.offset)?;
            if self.way == Way::EncryptAgain {
                self.rename(&rename, &step, &mut entry)?;
            }
            if let Some(stored) = &mut entry.stored {
                if !step.first {
                    *stored = Stored { extents: Vec::new(), digest: [0; 32], key: stored.key };
                    entry.xattrs.clear();
                } else if !stored.extents.is_empty() {
                    contents.push(entries.len());
                }
            }
            entries.push(PartEntry { group: step.group, entry });
        }
        let ids = |index| super::pack_id(&self.target.snapshot, number.0, index);
        let mut out = Packs::new(self.target.depot, &ids);
        let mut copied = Vec::new();
        for some in contents.chunks(KEYS) {
            let files = self.find(some, &entries)?;
            for &at in some {
                // Without a header, which a crash took, a file holds nothing: its pages are not taken along.
                if !files.iter().any(|file| file.at == at) {
                    let digest = Blake3::new().finish();
                    entries[at].entry.stored = Some(Stored { extents: Vec::new(), digest, key: None });
                }
            }
            let mut fresh = self.keys(&files)?.into_iter();
            for file in files {
                let entry = &mut entries[file.at].entry;
                let told = entry.stored.as_ref().map_or(0, Stored::pages);
                let one = self
                    .content(worker, &rename, file, fresh.next(), entry, &mut out)
                    .map_err(|e| named(&self.source.snapshot.name, entry, e))?;
                copied.extend(one);
                done(told * PAGE);
            }
        }
        let packs = out.finish()?;
        let part =
            Part { snapshot: self.target.snapshot, unit: number, packs, files: copied.len() as u64, entries };
        self.read_back(worker, &part, &copied)?;
        let fresh = FreshKey::generate(self.target.service, self.target.key_arn, &self.target.keys.id)?;
        part.seal(fresh, self.target.keys, self.target.epoch)
    }

    /// An entry's name, target, and, of a directory, its attributes.
    fn rename(&self, rename: &Rename, step: &Step, entry: &mut Entry) -> Result<()> {
        let beside = |offset: Option<u64>| -> Result<Option<Entry>> {
            offset.map(|offset| self.manifest.entry_at(offset)).transpose()
        };
        match step.role {
            Role::Plain => {}
            Role::Private if entry.meta.kind() == Kind::Symlink => {
                entry.target = piece(rename, entry, step, &beside)?;
            }
            Role::Private => {}
            Role::Named(dir) => match classify(&entry.name) {
                EntryClass::Name => entry.name = rename.name(&dir, &dir, &entry.name)?.entry,
                EntryClass::LongName => {
                    let (name, full) = long(rename.name(&dir, &dir, &entry.target)?)?;
                    (entry.name, entry.target) = (name, full);
                    return Ok(());
                }
                EntryClass::Long => {
                    let link = beside(step.beside.1)?;
                    let link =
                        link.ok_or_else(|| SnapshotError::damaged("a long name has no link beside it"))?;
                    entry.name = rename.name(&dir, &dir, &link.target)?.entry;
                }
                EntryClass::Temporary | EntryClass::Reserved => return Ok(()),
            },
        }
        if matches!(step.role, Role::Named(_)) && entry.meta.kind() == Kind::Symlink {
            // A target that stands elsewhere keeps its place.
            if crate::volume::names::overflow_id(&entry.target).is_none() {
                entry.target = rename.target(&entry.target)?;
            }
        }
        if let Some(id) = step.dir_id {
            entry.xattrs = rename.xattrs(&id, &id, &entry.xattrs)?;
            entry.xattrs.sort();
        }
        Ok(())
    }
}

impl Unit<'_> {
    /// Headers and old keys of some files, with one call for the keys.
    fn find(&self, some: &[usize], entries: &[PartEntry]) -> Result<Vec<File>> {
        let name = &self.source.snapshot.name;
        let mut files = Vec::with_capacity(some.len());
        for &at in some {
            let entry = &entries[at].entry;
            let mut page = Box::new([0; PAGE as usize]);
            let extents = entry.stored.as_ref().map_or(&[][..], |stored| &stored.extents);
            let mut packed = Packed::new(self.source, extents);
            packed.fill(0, &mut page[..]).map_err(|e| named(name, entry, e))?;
            // A page of zeros is in no extent: this one was something else.
            if is_zero(&page[..]) && extents.first().is_some_and(|extent| extent.page == 0) {
                return Err(named(name, entry, SnapshotError::damaged(OTHER_PAGES)));
            }
            // A file without a header holds nothing.
            if !is_zero(&page[..]) {
                let header = Header::parse(&page[..]).map_err(|e| named(name, entry, e.into()))?;
                files.push(File { at, page, header, old: None });
            }
        }
        let volume = &self.source.keys.id;
        let contexts: Vec<_> = files.iter().map(|file| file_context(volume, &file.header.file_id)).collect();
        let wrapped = files.iter().zip(&contexts).filter_map(|(file, context)| {
            let first = file.header.keys.first()?;
            Some((&*first.key_arn, &*first.ciphertext, context))
        });
        let wrapped: Vec<_> = wrapped.collect();
        // What fails together is asked for one by one, each wrapped key in turn: that names what was refused.
        let opened = self.source.service.decrypt_all(&wrapped).unwrap_or_default();
        drop(wrapped);
        let mut opened = opened.into_iter();
        for file in &mut files {
            let derived = match opened.next() {
                Some(opened) => {
                    FileKeys::confirmed(opened.plaintext.expose(), self.source.keys, &file.header)?
                }
                None => None,
            };
            let keys = match derived {
                Some(keys) => keys,
                None => file_keys(&file.header, self.source.keys, self.source.service)
                    .map_err(|e| named(name, &entries[file.at].entry, e))?,
            };
            file.old = Some(keys);
        }
        Ok(files)
    }

    /// New data keys for some files, with one call. None where the old ones stay.
    fn keys(&self, files: &[File]) -> Result<Vec<FreshKey>> {
        if self.way == Way::Rewrap {
            return Ok(Vec::new());
        }
        let (target, volume) = (self.target, &self.target.keys.id);
        let ids = files.iter().map(|_| random()).collect::<std::result::Result<Vec<FileId>, _>>()?;
        let contexts: Vec<_> = ids.iter().map(|id| file_context(volume, id)).collect();
        let made = target.service.generate_data_keys(target.key_arn, &contexts)?;
        let fresh = ids.into_iter().zip(made).map(|(file_id, made)| {
            let wrapped = WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext };
            Ok(FreshKey { file_id, data: DataKey(Secret::from_slice(made.plaintext.expose())?), wrapped })
        });
        fresh.collect()
    }

    /// One file's content. Its entry is brought up to date.
    fn content(
        &self,
        worker: &mut Worker,
        rename: &Rename,
        file: File,
        fresh: Option<FreshKey>,
        entry: &mut Entry,
        out: &mut Packs,
    ) -> Result<Option<Copied>> {
        let File { at, page, header, old: Some(old) } = file else { return Ok(None) };
        let st_size = entry.meta.size;
        let Some(stored) = &mut entry.stored else { return Ok(None) };
        let extents = std::mem::take(&mut stored.extents);
        let due = stored.digest;
        let mut packed = Packed::new(self.source, &extents);
        let mut written = Written { out, extents: Vec::new(), digest: Blake3::new(), failed: None };
        let copied = match fresh {
            Some(FreshKey { file_id, data, wrapped }) => {
                let keys = FileKeys::derive(data, self.target.keys, &file_id)?;
                let new = New { file_id, keys: &keys, wrapped: vec![wrapped], epoch: self.target.epoch };
                let old = Old { page: &page, header: &header, keys: &old, st_size };
                // Page 0 was read before.
                packed.digest.update(&page[..]);
                packed.digested = 1;
                let put = &mut |number, pages: &[u8]| written.put(number, pages);
                let done = worker.transcoder.file(&old, new, &mut packed, put);
                let new = match (done, packed.failed.take().or(written.failed.take())) {
                    (_, Some(error)) => return Err(error),
                    (done, None) => done?,
                };
                entry.xattrs = rename.xattrs(&header.file_id, &file_id, &entry.xattrs)?;
                entry.xattrs.sort();
                Copied { at, header: new, keys }
            }
            None => {
                header.verify(&page[..], &old)?;
                let wrapped = vec![old.wrap(self.target.service, self.target.key_arn)?];
                let first = header::with_keys(&page, &wrapped)?;
                let pages = &mut worker.pages;
                for extent in &extents {
                    let mut at = extent.page;
                    let end = extent.page + extent.pages;
                    while at < end {
                        let count = (end - at).min(pages.len() as u64 / PAGE);
                        let pages = &mut pages[..(count * PAGE) as usize];
                        packed.fill(at, pages)?;
                        if at == 0 {
                            pages[..PAGE as usize].copy_from_slice(&first[..]);
                        }
                        written.put(at, pages).map_err(|e| written.failed.take().unwrap_or(e.into()))?;
                        at += count;
                    }
                }
                Copied { at, header: Header { keys: wrapped, ..header }, keys: old }
            }
        };
        packed.check(&due)?;
        let Written { extents, digest, .. } = written;
        *stored = Stored { extents, digest: digest.finish(), key: Some(0) };
        Ok(Some(copied))
    }

    /// Reads what was copied from where it stands now: it is what was written, and each block authenticates under the key
    /// that its header names. A key that was made for the copy has sealed each block once: what authenticates is that, byte
    /// for byte. Only pages of zeros authenticate by nothing, and a key that stays has sealed others: there the digest tells.
    fn read_back(&self, worker: &mut Worker, part: &Part, copied: &[Copied]) -> Result<()> {
        let depot = self.target.depot;
        for file in copied {
            let Some(stored) = &part.entries[file.at].entry.stored else { continue };
            let differs = |what: String| {
                SnapshotError::damaged(format!(
                    "what was written to {} did not come back: {what} of file {}; copy again, to other storage",
                    depot.location(),
                    hex::encode(file.header.file_id)
                ))
            };
            let digested = self.way == Way::Rewrap || file.header.flags & header::SPARSE != 0;
            let mut digest = Blake3::new();
            for extent in &stored.extents {
                let pack =
                    part.packs.get(extent.pack as usize).ok_or_else(|| differs("the pack".to_owned()))?;
                let mut done = 0;
                while done < extent.pages {
                    let count = (extent.pages - done).min(worker.pages.len() as u64 / PAGE);
                    let pages = &mut worker.pages[..(count * PAGE) as usize];
                    let read =
                        depot.read_at(&pack_path(&pack.id.0), (extent.pack_page + done) * PAGE, pages)?;
                    if read < pages.len() {
                        return Err(differs("a piece".to_owned()));
                    }
                    if digested {
                        digest.update(pages);
                    }
                    for (i, page) in pages.chunks(PAGE as usize).enumerate() {
                        let number = extent.page + done + i as u64;
                        check_page(file, number, page, &mut worker.plain)
                            .map_err(|e| differs(format!("page {number} ({e})")))?;
                    }
                    done += count;
                }
            }
            if digested && digest.finish() != stored.digest {
                return Err(differs("the digest".to_owned()));
            }
        }
        Ok(())
    }
}

/// One page of a copied file.
fn check_page(file: &Copied, number: u64, page: &[u8], plain: &mut [u8]) -> Result<()> {
    let Some(block) = number.checked_sub(1) else {
        let header = Header::parse(page)?;
        let page: &Page = page.try_into().map_err(|_| SnapshotError::damaged("a page is cut"))?;
        header.verify(page, &file.keys)?;
        return if header == file.header {
            Ok(())
        } else {
            Err(SnapshotError::damaged("the header is another"))
        };
    };
    // Pages of zeros that stood in an extent of a sparse file.
    if is_zero(page) && file.header.flags & header::SPARSE != 0 {
        return Ok(());
    }
    let head = BlockHead::parse(page)?;
    if block >= blocks_for(file.header.size) || u64::from(head.len) != block_len(file.header.size, block) {
        return Err(SnapshotError::damaged("its length is another"));
    }
    Ok(block::open(&*file.keys.content(head.generation)?, head, block, page, plain)?)
}

/// The pages of a file in a snapshot.
struct Packed<'a> {
    source: &'a Source<'a>,
    extents: &'a [Extent],
    /// Of the pages of extents from the first on, each taken once, in their order.
    digest: Blake3,
    /// The first page that is not in it.
    digested: u64,
    /// What a volume's error does not hold.
    failed: Option<SnapshotError>,
}

impl<'a> Packed<'a> {
    fn new(source: &'a Source<'a>, extents: &'a [Extent]) -> Self {
        Self { source, extents, digest: Blake3::new(), digested: 0, failed: None }
    }

    /// An error if the pages were not those that the manifest tells of: blocks authenticate as the file's, also where older ones
    /// stand in their place, or the whole of another file.
    fn check(self, due: &[u8; 32]) -> Result<()> {
        match equal(&self.digest.finish(), due) {
            true => Ok(()),
            false => Err(SnapshotError::damaged(OTHER_PAGES)),
        }
    }

    /// Pages from `first` on; zeros where there are none.
    fn fill(&mut self, first: u64, pages: &mut [u8]) -> Result<()> {
        let end = first + pages.len() as u64 / PAGE;
        let mut at = first;
        let from = self.extents.partition_point(|extent| extent.page + extent.pages <= first);
        for extent in &self.extents[from..] {
            let start = extent.page.max(at);
            if start >= end {
                break;
            }
            pages[((at - first) * PAGE) as usize..((start - first) * PAGE) as usize].fill(0);
            at = (extent.page + extent.pages).min(end);
            let piece = &mut pages[((start - first) * PAGE) as usize..((at - first) * PAGE) as usize];
            let pack = self.source.snapshot.packs.get(extent.pack as usize);
            let pack = pack.ok_or_else(|| SnapshotError::damaged("a pack that is not named"))?;
            read_pack(self.source.depot, &pack.id, (extent.pack_page + start - extent.page) * PAGE, piece)?;
            // Windows follow each other; one that begins before the last one's end would show as damage.
            let fresh = self.digested.max(start);
            if fresh < at {
                self.digest.update(&pages[((fresh - first) * PAGE) as usize..((at - first) * PAGE) as usize]);
                self.digested = at;
            }
        }
        pages[((at - first) * PAGE) as usize..].fill(0);
        Ok(())
    }
}

impl transcode::Source for Packed<'_> {
    fn read(&mut self, first: u64, pages: &mut [u8]) -> std::result::Result<usize, VolumeError> {
        match self.fill(first, pages) {
            Ok(()) => Ok(pages.len() / PAGE as usize),
            Err(error) => {
                self.failed = Some(error);
                Err(VolumeError::Invalid("a piece that could not be read"))
            }
        }
    }

    fn next_data(&mut self, page: u64) -> std::result::Result<Option<u64>, VolumeError> {
        let next = self.extents.iter().find(|extent| extent.page + extent.pages > page);
        Ok(next.map(|extent| extent.page.max(page)))
    }
}

/// A file that is being written to packs.
struct Written<'a, 'b> {
    out: &'a mut Packs<'b>,
    extents: Vec<Extent>,
    digest: Blake3,
    failed: Option<SnapshotError>,
}

impl Written<'_, '_> {
    fn put(&mut self, page: u64, pages: &[u8]) -> std::result::Result<(), VolumeError> {
        self.digest.update(pages);
        match self.out.write(pages) {
            Ok((pack, pack_page)) => {
                let pages = pages.len() as u64 / PAGE;
                match self.extents.last_mut() {
                    Some(last)
                        if last.pack == pack
                            && last.page + last.pages == page
                            && last.pack_page + last.pages == pack_page =>
                    {
                        last.pages += pages;
                    }
                    _ => self.extents.push(Extent { page, pages, pack, pack_page }),
                }
                Ok(())
            }
            Err(error) => {
                self.failed = Some(error);
                Err(VolumeError::Invalid("a piece that could not be written"))
            }
        }
    }
}

/// The packs of a unit.
struct Packs<'a> {
    depot: &'a dyn Depot,
    ids: &'a dyn Fn(u32) -> Id,
    open: Option<(Box<dyn Sink>, Pack)>,
    whole: Vec<Pack>,
}

impl<'a> Packs<'a> {
    fn new(depot: &'a dyn Depot, ids: &'a dyn Fn(u32) -> Id) -> Self {
        Self { depot, ids, open: None, whole: Vec::new() }
    }

    /// Appends pages; answers where: the pack's place among the unit's, and the page in it.
    fn write(&mut self, pages: &[u8]) -> Result<(u32, u64)> {
        if self.open.as_ref().is_some_and(|(_, pack)| pack.pages >= PACK_PAGES) {
            self.close()?;
        }
        let at = self.whole.len() as u32;
        let (sink, pack) = match &mut self.open {
            Some(open) => open,
            None => {
                let id = (self.ids)(at);
                let sink = self.depot.create(&pack_path(&id.0))?;
                self.open.insert((sink, Pack { id, pages: 0 }))
            }
        };
        sink.write_all(pages).on("writing", &pack_path(&pack.id.0))?;
        let page = pack.pages;
        pack.pages += pages.len() as u64 / PAGE;
        Ok((at, page))
    }

    fn close(&mut self) -> Result<()> {
        if let Some((sink, pack)) = self.open.take() {
            sink.finish()?;
            self.whole.push(pack);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Pack>> {
        self.close()?;
        Ok(self.whole)
    }
}

/// The most packs that so many bytes take.
pub fn packs_for(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PACK_PAGES * PAGE)).unwrap_or(u32::MAX)
}

/// A long name's two halves: the link beside the entry, and its target.
fn long(stored: crate::volume::names::StoredName) -> Result<(Vec<u8>, Vec<u8>)> {
    // As long as the old one, which did not fit either.
    stored.long.ok_or_else(|| SnapshotError::damaged("a long name is short"))
}

/// The new text of one piece of a long target. There are two: a text has 5503 characters at most, a piece 4000.
fn piece(
    rename: &Rename,
    entry: &Entry,
    step: &Step,
    beside: &dyn Fn(Option<u64>) -> Result<Option<Entry>>,
) -> Result<Vec<u8>> {
    let with = |number: &[u8]| {
        let id = entry.name.strip_suffix(b".0").or(entry.name.strip_suffix(b".1")).unwrap_or_default();
        [id, number].concat()
    };
    let (text, first) = if entry.name.ends_with(b".0") {
        let next = beside(step.beside.1)?.filter(|next| next.name == with(b".1"));
        ([&entry.target[..], next.as_ref().map_or(&[][..], |next| &next.target)].concat(), true)
    } else {
        let before = beside(step.beside.0)?.filter(|before| before.name == with(b".0"));
        let before = before.ok_or_else(|| SnapshotError::damaged("a long target lacks its first piece"))?;
        ([&before.target[..], &entry.target].concat(), false)
    };
    let new = rename.target(&text)?;
    let mut pieces = new.chunks(OVERFLOW_PIECE);
    let mine = if first { pieces.next() } else { pieces.nth(1) };
    mine.map(<[u8]>::to_vec).ok_or_else(|| SnapshotError::damaged("a long target is in too few pieces"))
}

/// The same error, with the entry it is about.
fn named(snapshot: &str, entry: &Entry, error: SnapshotError) -> SnapshotError {
    match error {
        SnapshotError::Damaged(what) | SnapshotError::Volume(VolumeError::Damaged { what }) => {
            let name = String::from_utf8_lossy(&entry.name);
            SnapshotError::damaged(format!("file {name} of snapshot {snapshot:?}: {what}"))
        }
        other => other,
    }
}
