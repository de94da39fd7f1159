//! One file: header, blocks, size, and what a crash may have left of it.

use std::fs;
use std::path::Path;

use super::primitives::*;
use super::volume::{Keys, Volume};
use super::{Context, Result};

const PAGE: usize = 4096;
const BLOCK: usize = 4064;
const SPARSE: u16 = 1;

/// The keys of one file.
pub struct FileKeys {
    data_key: [u8; 32],
    salt: [u8; 32],
    ids: [u8; 32],
}

impl FileKeys {
    pub fn new(data_key: [u8; 32], keys: &Keys, file_id: &[u8]) -> Self {
        let mut ids = [0; 32];
        ids[..16].copy_from_slice(&keys.volume_id);
        ids[16..].copy_from_slice(file_id);
        Self { data_key, salt: keys.file_salt, ids }
    }

    /// Of a file without a volume.
    pub fn sealed(data_key: [u8; 32], file_id: &[u8]) -> Self {
        let mut ids = [0; 32];
        ids[16..].copy_from_slice(file_id);
        Self { data_key, salt: [0; 32], ids }
    }

    fn sub(&self, label: &str, generation: &[u8]) -> [u8; 32] {
        hkdf(&self.data_key, &self.salt, &[label.as_bytes(), &[0], &self.ids, generation].concat())
    }

    pub fn content(&self, generation: u16) -> [u8; 32] {
        self.sub("kmsfs/1 content", &generation.to_le_bytes())
    }

    pub fn header(&self) -> [u8; 32] {
        self.sub("kmsfs/1 header", &[])
    }

    pub fn commitment(&self) -> [u8; 32] {
        self.sub("kmsfs/1 commitment", &[])
    }
}

/// Blocks and r of a file of `size` bytes.
pub fn stat_size(size: usize) -> usize {
    PAGE * (1 + size.div_ceil(BLOCK)) + size % BLOCK
}

/// Plaintext bytes for which a finalised file's st_size stands.
fn size_of(st_size: usize) -> Result<usize> {
    let (pages, r) = (st_size / PAGE, st_size % PAGE);
    match (pages.checked_sub(1), r) {
        (Some(n), 0) => Ok(n * BLOCK),
        (Some(n @ 1..), r @ 1..BLOCK) => Ok((n - 1) * BLOCK + r),
        _ => Err(format!("st_size {st_size}: no file has it")),
    }
}

/// The content, and the file's id if it has a header.
pub fn read_file(volume: &Volume, backing: &Path, excused: bool) -> Result<(Vec<u8>, Option<[u8; 16]>)> {
    let bytes = fs::read(backing).map_err(|e| e.to_string())?;
    let page = bytes.get(..PAGE).unwrap_or(&bytes);
    if page.iter().all(|b| *b == 0) {
        return if excused { Ok((Vec::new(), None)) } else { Err("header: absent".to_owned()) };
    }
    if page.len() < PAGE {
        return Err("header: cut".to_owned());
    }
    if &page[..8] != b"KMSFSFIL" || u16_at(page, 8) != 1 {
        return Err("header: not of format 1".to_owned());
    }
    let flags = u16_at(page, 10);
    if flags & !SPARSE != 0 {
        return Err("header: unknown flag".to_owned());
    }
    let id: [u8; 16] = page[16..32].try_into().unwrap();
    let keys = file_keys(volume, page, &id)?;
    if hmac(&keys.header(), &page[..80]) != page[80..112] {
        return Err("header: MAC".to_owned());
    }
    let excused = excused || volume.epochs.excuse_header(u64_at(page, 40));
    let sparse = flags & SPARSE != 0;
    let content = if excused {
        after_a_crash(&keys, &bytes, sparse)?
    } else {
        finalised(&keys, &bytes, sparse, u64_at(page, 32) as usize)?
    };
    Ok((content, Some(id)))
}

/// The first wrapped key that opens to the file's own data key.
fn file_keys(volume: &Volume, page: &[u8], id: &[u8; 16]) -> Result<FileKeys> {
    let mut context = Context::new();
    context.insert("kmsfs:file".to_owned(), hex::encode(id));
    context.insert("kmsfs:volume".to_owned(), hex::encode(volume.keys.volume_id));
    if !(1..=4).contains(&page[112]) {
        return Err("header: not one to four data keys".to_owned());
    }
    let mut rest = &page[113..];
    let mut refusals = String::new();
    for _ in 0..page[112] {
        let cut = || "header: wrapped keys are cut".to_owned();
        let (lengths, after) = rest.split_at_checked(4).ok_or_else(cut)?;
        let (arn, after) = after.split_at_checked(u16_at(lengths, 0).into()).ok_or_else(cut)?;
        let (blob, after) = after.split_at_checked(u16_at(lengths, 2).into()).ok_or_else(cut)?;
        rest = after;
        let arn = str::from_utf8(arn).map_err(|e| e.to_string())?;
        match (volume.unwrap)(&context, arn, blob) {
            Ok(data_key) => {
                let keys = FileKeys::new(data_key, &volume.keys, id);
                if keys.commitment() == page[48..80] {
                    return Ok(keys);
                }
                refusals += "; header: key commitment";
            }
            Err(why) => refusals += &format!("; {arn}: {why}"),
        }
    }
    Err(format!("header: no data key{refusals}"))
}

/// A block's plaintext up to its length.
pub fn open_block(keys: &FileKeys, number: usize, page: &[u8]) -> Result<Vec<u8>> {
    let (length, generation) = (u16_at(page, 28), u16_at(page, 30));
    if !(1..=BLOCK).contains(&usize::from(length)) {
        return Err(format!("block {number}: length"));
    }
    let data =
        [&(number as u64).to_le_bytes()[..], &length.to_le_bytes(), &generation.to_le_bytes()].concat();
    let key = keys.content(generation);
    let mut plain = gcm_open(&key, &page[..12], &page[12..28], &data, &page[32..])
        .ok_or_else(|| format!("block {number}: does not authenticate"))?;
    let padding = plain.split_off(length.into());
    if padding.iter().any(|b| *b != 0) {
        return Err(format!("block {number}: bytes behind its length"));
    }
    Ok(plain)
}

fn is_hole(page: &[u8]) -> bool {
    page.iter().all(|b| *b == 0)
}

fn finalised(keys: &FileKeys, bytes: &[u8], sparse: bool, size: usize) -> Result<Vec<u8>> {
    let from_stat = size_of(bytes.len())?;
    if from_stat != size {
        return Err(format!("size: the header says {size}, st_size {from_stat}"));
    }
    let blocks = size.div_ceil(BLOCK);
    let mut content = Vec::with_capacity(size);
    for (number, page) in bytes[PAGE..].chunks_exact(PAGE).take(blocks).enumerate() {
        let last = number + 1 == blocks;
        if is_hole(page) && sparse && !last {
            content.resize(content.len() + BLOCK, 0);
            continue;
        }
        let plain = open_block(keys, number, page)?;
        let due = if last { size - number * BLOCK } else { BLOCK };
        if plain.len() != due {
            return Err(format!("block {number}: {} bytes, due are {due}", plain.len()));
        }
        content.extend(plain);
    }
    if content.len() == size { Ok(content) } else { Err("size: blocks are missing".to_owned()) }
}

fn after_a_crash(keys: &FileKeys, bytes: &[u8], sparse: bool) -> Result<Vec<u8>> {
    let pages: Vec<&[u8]> = bytes[PAGE..].chunks_exact(PAGE).collect();
    // r above 4063 says nothing: the size is then where the last page ends.
    let said = size_of(bytes.len()).unwrap_or(pages.len() * BLOCK);
    let mut content = Vec::new();
    for (number, page) in pages.iter().take(said.div_ceil(BLOCK)).enumerate() {
        if is_hole(page) {
            if !sparse {
                break;
            }
            content.resize(content.len() + BLOCK, 0);
            continue;
        }
        let mut plain = open_block(keys, number, page)?;
        let short = plain.len() < BLOCK;
        if short && sparse && number + 1 < pages.len() {
            plain.resize(BLOCK, 0);
        }
        content.extend(plain);
        if short && !sparse {
            break;
        }
    }
    content.truncate(said);
    Ok(content)
}
