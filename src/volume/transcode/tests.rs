use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::content::Content;
use super::super::disk::Dir;
use super::super::host::HostDir;
use super::super::keys::{DataKey, VolumeKey};
use super::super::layout::{page_offset, stat_size};
use super::super::names::{OVERFLOW_PIECE, overflow_id};
use super::super::sample;
use super::*;
use crate::crypto::Secret;

const NEW_ID: FileId = [9; 16];

fn volume(byte: u8) -> VolumeKeys {
    VolumeKeys::derive(&VolumeKey(Secret::new([byte; 32])), [byte + 1; 16]).unwrap()
}

fn new_keys() -> Arc<FileKeys> {
    Arc::new(FileKeys::derive(DataKey(Secret::new([8; 32])), &volume(20), &NEW_ID).unwrap())
}

fn wrapped() -> Vec<WrappedKey> {
    vec![WrappedKey { key_arn: "arn:new".into(), ciphertext: vec![5; 99] }]
}

/// A file on a real filesystem, and one to transcode it into.
struct Bench {
    _temp: tempfile::TempDir,
    dir: Arc<dyn Dir>,
    keys: Arc<FileKeys>,
    file: Arc<dyn BackingFile>,
    content: Content,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = HostDir::open(temp.path()).unwrap();
        let keys = sample::keys();
        let file = dir.create_file(b"old", 0o600).unwrap();
        let content = Content::create(file.clone(), keys.clone(), sample::header(&keys));
        Self { _temp: temp, dir, keys, file, content }
    }

    fn transcode_with(
        &self,
        keys: &FileKeys,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<Header> {
        let (page, header) = super::super::files::read_header(&*self.file)?;
        let header = header.expect("a header");
        let st_size = self.file.len().unwrap();
        let old = Old { page: &page, header: &header, keys: &self.keys, st_size };
        let new = New { file_id: NEW_ID, keys, wrapped: wrapped(), epoch: 7 };
        Transcoder::default().file(&old, new, &mut &*self.file, sink)
    }

    /// The new file, as it stands when all was written.
    fn transcode(&self) -> Result<(Arc<dyn BackingFile>, Header)> {
        let new = self.dir.create_file(b"new", 0o600).unwrap();
        let mut next = 0;
        let header = self.transcode_with(&new_keys(), &mut |page, pages| {
            assert!(page >= next && pages.len().is_multiple_of(PAGE_LEN));
            next = page + (pages.len() / PAGE_LEN) as u64;
            new.write_at(pages, page * PAGE).attempt("writing")
        })?;
        new.set_len(stat_size(header.size)).unwrap();
        Ok((new, header))
    }
}

fn read_all(content: &Content) -> Vec<u8> {
    let mut out = vec![0; content.size() as usize];
    assert_eq!(content.read(0, &mut out).unwrap(), out.len());
    out
}

fn reopened(file: &Arc<dyn BackingFile>) -> Content {
    let (page, header) = super::super::files::read_header(&**file).unwrap();
    let header = header.unwrap();
    assert_eq!((header.file_id, header.epoch, &header.keys), (NEW_ID, 7, &wrapped()));
    Content::open(file.clone(), new_keys(), header, &page, 8).unwrap()
}

/// What to do with the old file: write so many bytes there, or set its size.
#[derive(Debug, Clone)]
enum Op {
    Write(u64, usize),
    Size(u64),
}

fn op() -> impl Strategy<Value = Op> {
    // Around the borders of blocks and of windows.
    let near =
        prop_oneof![Just(0), Just(BLOCK), Just(3 * BLOCK), Just(WINDOW * BLOCK), Just(2 * WINDOW * BLOCK)];
    let offset = (near, 0..600u64).prop_map(|(base, more)| (base + more).saturating_sub(300));
    let len = prop_oneof![1..9000usize, Just(BLOCK as usize), 1_000_000..1_200_000usize];
    prop_oneof![
        4 => (offset.clone(), len).prop_map(|(offset, len)| Op::Write(offset, len)),
        1 => offset.prop_map(Op::Size),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_reads_as_what_went_in(ops in vec(op(), 0..6)) {
        let bench = Bench::new();
        for (i, op) in ops.iter().enumerate() {
            match *op {
                Op::Write(offset, len) => {
                    bench.content.write(offset, &vec![i as u8 + 1; len]).unwrap();
                }
                Op::Size(size) => bench.content.set_size(size).unwrap(),
            }
        }
        bench.content.finalise().unwrap();
        let (new, header) = bench.transcode().unwrap();
        prop_assert_eq!(new.len().unwrap(), bench.file.len().unwrap());
        prop_assert_eq!(header.flags, bench.content.header().flags);
        prop_assert_eq!(header.generation, 0);
        let content = reopened(&new);
        prop_assert!(read_all(&content) == read_all(&bench.content));
        // No page but those of zeros is the old one, and holes are where they were.
        let pages = new.len().unwrap() / PAGE;
        let (mut a, mut b) = (vec![0; PAGE_LEN], vec![0; PAGE_LEN]);
        for page in 0..pages {
            new.read_at(&mut a, page * PAGE).unwrap();
            bench.file.read_at(&mut b, page * PAGE).unwrap();
            prop_assert_eq!(is_zero(&a), is_zero(&b));
            prop_assert!(is_zero(&a) || a[..32] != b[..32]);
        }
        // It goes on as a file does.
        content.write(header.size, b"more").unwrap();
        content.finalise().unwrap();
        prop_assert!(read_all(&reopened_later(&new)).ends_with(b"more"));
    }

    #[test]
    fn names_targets_and_attributes_come_over(
        name in vec(1..=255u8, 1..256usize).prop_filter("a name", |n| super::super::names::check_name(n).is_ok()),
        target in vec(any::<u8>(), 0..4096usize),
        value in vec(any::<u8>(), 0..300usize),
    ) {
        let (from, to) = (volume(30), volume(40));
        let both = Rename { from: &from, to: &to };
        let (dir, new_dir) = ([1; 16], [2; 16]);
        let stored = from.encode_name(&dir, &name).unwrap();
        let full = stored.long.map_or(stored.entry, |long| long.1);
        let new = both.name(&dir, &new_dir, &full).unwrap();
        prop_assert_eq!(&new, &to.encode_name(&new_dir, &name).unwrap());
        prop_assert!(both.name(&new_dir, &new_dir, &full).is_err(), "a name of another directory");

        let stored = from.encode_target(&target).unwrap();
        let text = match overflow_id(&stored.target) {
            Some(_) => stored.overflow.iter().flat_map(|piece| piece.1.clone()).collect(),
            None => stored.target.clone(),
        };
        let new = both.target(&text).unwrap();
        prop_assert_eq!(new.len(), text.len());
        if !stored.overflow.is_empty() {
            prop_assert_eq!(new.chunks(OVERFLOW_PIECE).count(), stored.overflow.len());
        }
        prop_assert_eq!(to.decode_target(&new).unwrap(), target);
        prop_assert!(both.target(&new).is_err(), "a target of another volume");

        let acl = (NATIVE_XATTRS[0].to_vec(), b"acl".to_vec());
        let foreign = (b"security.selinux".to_vec(), b"label".to_vec());
        let attr = b"user.mime".to_vec();
        let mut attrs = vec![
            acl.clone(),
            (from.encode_xattr_name(&attr).unwrap(), from.seal_xattr(&[5; 16], &attr, &value).unwrap()),
            foreign,
        ];
        let new = both.xattrs(&[5; 16], &[6; 16], &attrs).unwrap();
        prop_assert_eq!(new.len(), 2);
        prop_assert_eq!(&new[0], &acl);
        prop_assert_eq!(&new[1].0, &to.encode_xattr_name(&attr).unwrap());
        prop_assert_eq!(to.open_xattr(&[6; 16], &attr, &new[1].1).unwrap(), value);
        prop_assert!(both.xattrs(&[4; 16], &[6; 16], &attrs).is_err(), "an attribute of another owner");
        attrs[1].0.push(b'A');
        prop_assert!(both.xattrs(&[5; 16], &[6; 16], &attrs).is_err(), "a name that was changed");
    }
}

fn reopened_later(file: &Arc<dyn BackingFile>) -> Content {
    let (page, header) = super::super::files::read_header(&**file).unwrap();
    Content::open(file.clone(), new_keys(), header.unwrap(), &page, 9).unwrap()
}

#[test]
fn damage_is_an_error_that_names_the_block() {
    let fresh = |spoil: &dyn Fn(&dyn BackingFile)| {
        let bench = Bench::new();
        bench.content.write(0, &vec![1; 280 * BLOCK as usize + 17]).unwrap();
        bench.content.finalise().unwrap();
        spoil(&*bench.file);
        bench.transcode().map(|_| ()).unwrap_err().to_string()
    };
    let zeros = [0; PAGE_LEN];
    let flipped = |block: u64, at: u64| {
        fresh(&move |file| {
            let mut byte = [0];
            file.read_at(&mut byte, page_offset(block) + at).unwrap();
            file.write_at(&[byte[0] ^ 1], page_offset(block) + at).unwrap();
        })
    };
    assert!(flipped(275, 100).contains("block 275 does not authenticate"));
    assert!(flipped(3, 0).contains("block 3 does not authenticate"));
    assert!(flipped(280, 28).contains("block 280 holds 16 bytes instead of 17"));
    assert!(fresh(&|file| file.write_at(&zeros, page_offset(274)).unwrap()).contains("block 274 was zeroed"));
    assert!(fresh(&|file| file.set_len(page_offset(279)).unwrap()).contains("which do not hold"));
    // Two whole blocks exchanged.
    let said = fresh(&|file| {
        let (mut a, mut b) = ([0; PAGE_LEN], [0; PAGE_LEN]);
        file.read_at(&mut a, page_offset(4)).unwrap();
        file.read_at(&mut b, page_offset(5)).unwrap();
        file.write_at(&a, page_offset(5)).unwrap();
        file.write_at(&b, page_offset(4)).unwrap();
    });
    assert!(said.contains("block 4 does not authenticate"), "{said}");
    assert!(fresh(&|file| file.write_at(&[9], 33).unwrap()).contains("header was changed"));
}

#[test]
fn the_last_block_of_a_sparse_file_is_no_hole_and_the_old_key_no_new_one() {
    let bench = Bench::new();
    bench.content.write(300 * BLOCK, b"end").unwrap();
    bench.content.finalise().unwrap();
    let same = bench.transcode_with(&bench.keys, &mut |_, _| Ok(()));
    assert!(matches!(same, Err(VolumeError::Invalid(_))));
    let mut seen = Vec::new();
    bench
        .transcode_with(&new_keys(), &mut |page, pages| {
            seen.push((page, pages.len()));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, [(0, PAGE_LEN), (301, PAGE_LEN)]);
    bench.file.write_at(&[0; PAGE_LEN], page_offset(300)).unwrap();
    let error = bench.transcode().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("block 300, the last, was zeroed"), "{error}");
}
