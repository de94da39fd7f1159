//! Pages of files on their way into packs, and the tables of packs and keys that a manifest's entries point into.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use super::depot::{Depot, Sink, pack_path};
use super::descriptor::{Id, KeyUse, Pack};
use super::error::{On, Result, SnapshotError};
use super::manifest::{Extent, Stored};
use crate::crypto::mac::Blake3;
use crate::crypto::random;
use crate::volume::disk::BackingFile;
use crate::volume::header::{Header, is_zero};
use crate::volume::layout::PAGE;

/// Pages after which a pack is ended: 256 MiB.
pub const PACK_PAGES: u64 = 1 << 16;
/// Pages that are read at once.
const CHUNK: u64 = 256;
/// Fewer are copied rather than shared with the file they come from.
const SHARED: u64 = 64;

/// What indices in [`Stored`] mean: a manifest's packs and sets of keys, in the order of their first use.
#[derive(Default, Clone)]
pub struct Tables {
    packs: Vec<Pack>,
    /// By their places: whether an entry that was counted needs the pack.
    needed: Vec<bool>,
    by_id: HashMap<Id, u32>,
    keys: Vec<KeyUse>,
    by_arns: BTreeMap<Vec<String>, u32>,
}

impl Tables {
    /// Those of a manifest that stands; its files are not counted.
    pub fn of(packs: &[Pack], keys: &[KeyUse]) -> Result<Self> {
        let mut tables = Self::default();
        for pack in packs {
            tables.pack(pack.id, pack.pages);
        }
        for key in keys {
            tables.key(&key.key_arns);
        }
        if tables.packs.len() != packs.len() || tables.keys.len() != keys.len() {
            return Err(SnapshotError::damaged("snapshot.json names a pack or a set of keys twice"));
        }
        Ok(tables)
    }

    /// Tables that begin with the same places, so that entries can be taken over as they stand; nothing is counted yet. Empty
    /// ones, where most of the packs have only their place left.
    pub fn successor(&self) -> Self {
        let standing = self.packs.iter().filter(|pack| pack.pages > 0).count();
        if 2 * standing < self.packs.len() {
            return Self::default();
        }
        let mut tables = self.clone();
        tables.needed.fill(false);
        for key in &mut tables.keys {
            key.files = 0;
        }
        tables
    }

    /// The place of a pack; its pages grow while it is filled.
    pub fn pack(&mut self, id: Id, pages: u64) -> u32 {
        let next = self.packs.len() as u32;
        let place = *self.by_id.entry(id).or_insert(next);
        match self.packs.get_mut(place as usize) {
            Some(pack) => pack.pages = pack.pages.max(pages),
            None => {
                self.packs.push(Pack { id, pages });
                self.needed.push(false);
            }
        }
        place
    }

    /// The place of a set of keys.
    pub fn key(&mut self, key_arns: &[String]) -> u32 {
        if let Some(place) = self.by_arns.get(key_arns) {
            return *place;
        }
        let place = self.keys.len() as u32;
        self.by_arns.insert(key_arns.to_vec(), place);
        self.keys.push(KeyUse { key_arns: key_arns.to_vec(), files: 0 });
        place
    }

    /// Counts one more file, under its keys.
    pub fn count(&mut self, stored: &Stored) {
        for extent in &stored.extents {
            if let Some(needed) = self.needed.get_mut(extent.pack as usize) {
                *needed = true;
            }
        }
        if let Some(key) = stored.key.and_then(|key| self.keys.get_mut(key as usize)) {
            key.files += 1;
        }
    }

    /// Corrects the pages of packs that were filled on after an entry named them.
    pub fn correct(&mut self, made: &[Pack]) {
        for pack in made {
            if self.by_id.contains_key(&pack.id) {
                self.pack(pack.id, pack.pages);
            }
        }
    }

    /// The packs.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// The sets of keys.
    pub fn keys(&self) -> &[KeyUse] {
        &self.keys
    }

    /// For [`super::descriptor::Descriptor::packs`] and [`super::descriptor::Descriptor::keys`]. Of packs that nothing needs the
    /// place alone is left.
    pub fn into_parts(mut self) -> (Vec<Pack>, Vec<KeyUse>) {
        for (pack, needed) in self.packs.iter_mut().zip(&self.needed) {
            pack.pages = if *needed { pack.pages } else { 0 };
        }
        while self.packs.pop_if(|pack| pack.pages == 0).is_some() {}
        (self.packs, self.keys)
    }
}

/// Fills packs, one after the other. A pack is visible in the depot once it is full, or at [`Packer::finish`].
pub struct Packer<'a> {
    depot: &'a dyn Depot,
    limit: u64,
    open: Option<(Id, u64, Box<dyn Sink>)>,
    buffer: Vec<u8>,
    /// Packs that were made, with their pages.
    pub made: Vec<Pack>,
    /// Pages that were stored.
    pub pages: u64,
}

impl<'a> Packer<'a> {
    /// Packs of at most `limit` pages.
    pub fn new(depot: &'a dyn Depot, limit: u64) -> Self {
        let buffer = vec![0; (CHUNK * PAGE) as usize];
        Self { depot, limit, open: None, buffer, made: Vec::new(), pages: 0 }
    }

    /// Stores a backing file of `size` bytes: its whole pages but those of nothing but zeros. What is behind a page that
    /// cannot be read any more is left out: whoever calls this looks at the file's times again.
    pub fn store(&mut self, file: &dyn BackingFile, size: u64, tables: &mut Tables) -> Result<Stored> {
        let whole = size / PAGE;
        let mut stored = Stored { extents: Vec::new(), digest: [0; 32], key: None };
        let mut digest = Blake3::new();
        let mut page = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        while page < whole {
            let wished = CHUNK.min(whole - page);
            let bytes = &mut buffer[..(wished * PAGE) as usize];
            let read = file.read_at(bytes, page * PAGE).on("reading", "a file of the volume")?;
            let got = read as u64 / PAGE;
            let bytes = &bytes[..(got * PAGE) as usize];
            if page == 0 && got > 0 {
                stored.key = key_of(&bytes[..PAGE as usize], tables);
            }
            let mut stored_some = false;
            for run in runs(bytes) {
                let within = &bytes[(run.start * PAGE) as usize..(run.end * PAGE) as usize];
                digest.update(within);
                self.append(file, page + run.start, within, tables, &mut stored.extents)?;
                stored_some = true;
            }
            if got < wished {
                break;
            }
            page += got;
            if !stored_some {
                // Holes are long: go where there is something.
                match file.next_data(page * PAGE).on("looking for data in", "a file of the volume")? {
                    Some(data) => page = page.max(data / PAGE),
                    None => break,
                }
            }
        }
        self.buffer = buffer;
        stored.digest = digest.finish();
        Ok(stored)
    }

    /// Appends pages that begin at `page` of the file, in pieces that fit into packs.
    fn append(
        &mut self,
        file: &dyn BackingFile,
        mut page: u64,
        mut bytes: &[u8],
        tables: &mut Tables,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            let (id, at, mut sink) = match self.open.take() {
                Some(open) => open,
                None => {
                    let id = Id(random()?);
                    (id, 0, self.depot.create(&pack_path(&id.0))?)
                }
            };
            let pages = (bytes.len() as u64 / PAGE).min(self.limit - at);
            let (piece, rest) = bytes.split_at((pages * PAGE) as usize);
            let path = pack_path(&id.0);
            let shared =
                pages >= SHARED && sink.share(file, page * PAGE, pages * PAGE).on("writing", &path)?;
            if !shared {
                sink.write_all(piece).on("writing", &path)?;
            }
            let pack = tables.pack(id, at + pages);
            match extents.last_mut() {
                Some(last)
                    if last.pack == pack
                        && last.page + last.pages == page
                        && last.pack_page + last.pages == at =>
                {
                    last.pages += pages;
                }
                _ => extents.push(Extent { page, pages, pack, pack_page: at }),
            }
            self.pages += pages;
            self.open = Some((id, at + pages, sink));
            if at + pages == self.limit {
                self.finish()?;
            }
            bytes = rest;
            page += pages;
        }
        Ok(())
    }

    /// Ends the pack that is open.
    pub fn finish(&mut self) -> Result<()> {
        if let Some((id, pages, sink)) = self.open.take() {
            sink.finish()?;
            self.made.push(Pack { id, pages });
        }
        Ok(())
    }
}

/// The keys that a file's header names; a header that cannot be read names none.
fn key_of(page: &[u8], tables: &mut Tables) -> Option<u32> {
    let header = Header::parse(page).ok()?;
    let arns: Vec<String> = header.keys.into_iter().map(|key| key.key_arn).collect();
    // What anybody can have written into a header must not spoil the descriptor.
    let plain = |arn: &String| arn.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    (arns.iter().all(plain)).then(|| tables.key(&arns))
}

/// Runs of pages that are not zeros.
fn runs(bytes: &[u8]) -> Vec<std::ops::Range<u64>> {
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    let pages = bytes.chunks(PAGE as usize).zip(0u64..);
    for (_, at) in pages.filter(|(page, _)| !is_zero(page)) {
        match runs.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(pack: u32, key: u32) -> Stored {
        let extent = Extent { page: 0, pages: 1, pack, pack_page: 0 };
        Stored { extents: vec![extent], digest: [0; 32], key: Some(key) }
    }

    /// Places stay from one snapshot to the next; what nothing needs any more is not named, whatever stands behind it.
    #[test]
    fn places_stay_and_packs_go() {
        let id = |n| Id([n; 16]);
        let mut first = Tables::default();
        for n in 0..4 {
            assert_eq!(first.pack(id(n), 5), u32::from(n));
            first.count(&stored(u32::from(n), 0));
        }
        let key = first.key(&["a".to_owned()]);
        let mut second = first.successor();
        assert_eq!(second.pack(id(7), 9), 4);
        assert_eq!(second.key(&["a".to_owned()]), key);
        for place in [0, 2] {
            second.count(&stored(place, key));
        }
        let (packs, keys) = second.clone().into_parts();
        assert_eq!(packs.iter().map(|pack| pack.pages).collect::<Vec<_>>(), [5, 0, 5]);
        assert_eq!((keys.len(), keys[0].files), (1, 2));

        // Where most places are empty, it begins anew.
        let mut third = second.successor();
        third.count(&stored(2, key));
        let (packs, keys) = third.into_parts();
        let third = Tables::of(&packs, &keys).unwrap();
        assert_eq!(third.packs().len(), 3);
        assert!(third.successor().packs().is_empty());
    }
}
