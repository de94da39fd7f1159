//! Files that an unclean epoch may have cut (docs/format.md, "After a crash"): what of them counts, and how
//! they are made whole.

use std::sync::Arc;

use super::block::{self, BlockHead};
use super::content::Content;
use super::disk::{BackingFile, Change};
use super::error::{Attempt, Result};
use super::header::{Header, Page, SPARSE, is_zero};
use super::keys::FileKeys;
use super::layout::{
    BLOCK, PAGE, block_len, blocks_for, page_end, page_offset, size_of_stat, stat_size, whole_blocks,
};
use crate::crypto::NonceRun;

/// Pages that are scanned with one read.
const BATCH: u64 = 256;

/// What an excused file holds, found without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Plaintext bytes.
    pub size: u64,
    /// Blocks that are not as long as their place asks: the last one, and in a sparse file those inside.
    pub short: Vec<u64>,
}

/// Scans all pages: SEEK_HOLE does not see every page of zeros.
pub fn examine(file: &dyn BackingFile, header: &Header) -> Result<Extent> {
    let sparse = header.flags & SPARSE != 0;
    let st_size = file.len().attempt("asking for a file's length")?;
    let whole = whole_blocks(st_size);
    let said = size_of_stat(st_size).unwrap_or(whole * BLOCK);
    let mut short = Vec::new();
    let (mut end, mut last) = (0, 0);
    let mut pages = vec![0; (BATCH.min(whole) * PAGE) as usize];
    'scan: while end < whole {
        let batch = BATCH.min(whole - end);
        let pages = &mut pages[..(batch * PAGE) as usize];
        let read = file.read_at(pages, page_offset(end)).attempt("reading a file to mend it")?;
        for page in pages[..read].chunks_exact(PAGE as usize) {
            if is_zero(page) {
                if !sparse {
                    break 'scan;
                }
                last = 0;
            } else {
                last = u64::from(BlockHead::parse(page)?.len);
                if last < BLOCK {
                    short.push(end);
                }
            }
            end += 1;
            if !sparse && last < BLOCK {
                break 'scan;
            }
        }
        if read < pages.len() {
            break;
        }
    }
    // A sparse file whose last page is a hole has only st_size to tell its size.
    let size = match (end, last) {
        (0, _) => 0,
        (_, 0) => said.min(end * BLOCK),
        _ => said.min((end - 1) * BLOCK + last),
    };
    // Every page up to `end` counts: st_size reaches into the last of them. Inside, a partial block is a short
    // one; the last is if st_size cuts it, or if it is a hole, for the last block is always a real one.
    short.retain(|&block| block + 1 < end);
    if end > 0 && last != block_len(size, end - 1) {
        short.push(end - 1);
    }
    Ok(Extent { size, short })
}

/// Makes an excused file whole: cut, tail rewritten, synced, finalised; durable when this returns. A crash
/// meanwhile leaves a file that is still excused. Answers the content and the size that its header gave.
pub fn mend(
    file: Arc<dyn BackingFile>,
    keys: Arc<FileKeys>,
    header: Header,
    page: &Page,
    epoch: u64,
) -> Result<(Content, u64)> {
    header.verify(page, &keys)?;
    let size_before = header.size;
    let extent = examine(&*file, &header)?;
    let mtime = file.stat().attempt("asking for a file's times")?.mtime;
    let mut header = Header { size: extent.size, epoch, ..header };
    header.next_generation()?;
    header.used = 1;
    let generation = header.generation;
    let blocks = blocks_for(extent.size);
    // All that may fail for what is on disk comes before the first change.
    let mut rewritten = Vec::with_capacity(extent.short.len());
    let (key, mut nonces) = (keys.content(generation)?, NonceRun::start()?);
    let mut plain = zeroize::Zeroizing::new([0; BLOCK as usize]);
    for &number in &extent.short {
        open_as_it_is(&*file, &keys, number, plain.as_mut_slice())?;
        let mut page = [0; PAGE as usize];
        let len = block_len(extent.size, number) as usize;
        block::seal(&key, nonces.take(), number, generation, &plain[..len], &mut page)?;
        rewritten.push((number, page));
    }
    if let Some(last) = blocks.checked_sub(1).filter(|last| !extent.short.contains(last)) {
        open_as_it_is(&*file, &keys, last, plain.as_mut_slice())?;
    }
    file.set_len(page_end(blocks)).attempt("cutting a file to mend it")?;
    for (number, page) in &rewritten {
        file.write_at(page, page_offset(*number)).attempt("mending a block")?;
    }
    file.sync().attempt("syncing a mended file")?;
    let page = header.encode(&keys)?;
    file.write_at(&page[..], 0).attempt("writing a mended file's header")?;
    file.set_len(stat_size(extent.size)).attempt("setting a mended file's length")?;
    file.change(&Change::mtime(mtime)).attempt("keeping a file's times")?;
    file.sync_all().attempt("syncing a mended file")?;
    Ok((Content::open(file, keys, header, &page, epoch)?, size_before))
}

/// A block at the length it claims; a page of zeros as zeros. Not authentic is damage.
fn open_as_it_is(file: &dyn BackingFile, keys: &FileKeys, number: u64, plain: &mut [u8]) -> Result<()> {
    let mut page = [0; PAGE as usize];
    file.read_at(&mut page, page_offset(number)).attempt("reading a block to mend it")?;
    if is_zero(&page) {
        plain.fill(0);
        return Ok(());
    }
    let head = BlockHead::parse(&page)?;
    block::open(&*keys.content(head.generation)?, head, number, &page, plain)
}

#[cfg(test)]
mod tests {
    use super::super::error::VolumeError;
    use super::super::host::HostDir;
    use super::super::sample;
    use super::*;
    use proptest::prelude::*;

    fn read_all(content: &Content) -> Vec<u8> {
        let mut out = vec![0; content.size() as usize];
        assert_eq!(content.read(0, &mut out).unwrap(), out.len());
        out
    }

    proptest! {
        /// Synced content, then unsynced appends of which a power cut keeps any pages (others are zeros) and
        /// any of the lengths that stood: what was synced is there, and nothing that was never written.
        #[test]
        fn a_cut_append_keeps_what_was_synced(
            synced in 0..12_000usize, appended in 1..12_000usize, kept in any::<u64>(), longer in any::<bool>(),
        ) {
            let temp = tempfile::tempdir().unwrap();
            let keys = sample::keys();
            let file = HostDir::open(temp.path()).unwrap().create_file(b"f", 0o600).unwrap();
            let content = Content::create(file.clone(), keys.clone(), sample::header(&keys));
            let data: Vec<u8> = (0..synced + appended).map(|i| (i % 251) as u8).collect();
            content.write(0, &data[..synced]).unwrap();
            content.sync(true).unwrap();
            let path = temp.path().join("f");
            let before = std::fs::read(&path).unwrap();
            content.write(synced as u64, &data[synced..]).unwrap();
            let mut after = std::fs::read(&path).unwrap();
            for (i, page) in after.chunks_mut(4096).enumerate() {
                if kept >> (i % 64) & 1 == 0 {
                    match before.get(i * 4096..(i + 1) * 4096) {
                        Some(old) => page.copy_from_slice(old),
                        None => page.fill(0),
                    }
                }
            }
            if !longer {
                after.truncate(before.len());
            }
            std::fs::write(&path, &after).unwrap();
            let file = HostDir::open(temp.path()).unwrap().open_file(b"f", true).unwrap();
            let mut page = [0; PAGE as usize];
            prop_assert_eq!(file.read_at(&mut page, 0).unwrap(), 4096);
            let header = Header::parse(&page).unwrap();
            let (content, _) = mend(file.clone(), keys.clone(), header, &page, 2).unwrap();
            let found = read_all(&content);
            prop_assert!(found.len() >= synced, "{} of {synced} synced bytes", found.len());
            prop_assert!(found[..] == data[..found.len()]);
            content.write(found.len() as u64, b"more").unwrap();
            content.finalise().unwrap();
            file.read_at(&mut page, 0).unwrap();
            let header = Header::parse(&page).unwrap();
            let content = Content::open(file, keys, header, &page, 3).unwrap();
            prop_assert_eq!(&read_all(&content)[found.len()..], b"more");
        }
    }

    #[test]
    fn a_sparse_file_keeps_its_holes_and_a_bad_tail_stays_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let keys = sample::keys();
        let file = HostDir::open(temp.path()).unwrap().create_file(b"f", 0o600).unwrap();
        let content = Content::create(file.clone(), keys.clone(), sample::header(&keys));
        content.write(5 * BLOCK + 9, b"end").unwrap();
        content.sync(true).unwrap();
        let mut page = [0; PAGE as usize];
        file.read_at(&mut page, 0).unwrap();
        let header = Header::parse(&page).unwrap();
        assert_eq!(header.flags, SPARSE);
        let (mended, _) = mend(file.clone(), keys.clone(), header, &page, 2).unwrap();
        let found = read_all(&mended);
        assert_eq!(found.len() as u64, 5 * BLOCK + 12);
        assert!(found.ends_with(b"end") && found[..found.len() - 3].iter().all(|&b| b == 0));

        // Another byte than stands there, whichever that is.
        let mut byte = [0];
        file.read_at(&mut byte, page_offset(5) + 100).unwrap();
        file.write_at(&[byte[0] ^ 1], page_offset(5) + 100).unwrap();
        file.read_at(&mut page, 0).unwrap();
        let header = Header::parse(&page).unwrap();
        let bad = mend(file, keys, header, &page, 3).err();
        assert!(matches!(bad, Some(VolumeError::Damaged { .. })));
    }
}
