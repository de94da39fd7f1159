//! Sealed files: what comes back, and what does not.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::crypto::asymmetric::{PairSpec, PrivateKey};
use crate::kms::KmsErrorKind;

/// RSA takes a second to make.
fn pair(which: usize) -> &'static PrivateKey {
    static PAIRS: [OnceLock<PrivateKey>; 2] = [const { OnceLock::new() }; 2];
    PAIRS[which].get_or_init(|| PrivateKey::generate(PairSpec::Rsa2048).unwrap())
}

fn to(which: usize) -> Recipient {
    Recipient { key: pair(which).public_key().unwrap(), key_arn: None }
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

fn sealed(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert_eq!(seal(&mut &plain[..], &mut out, &[to(0)]).unwrap(), plain.len() as u64);
    out
}

fn unwrap_with(which: usize) -> impl Fn(&WrappedKey) -> std::result::Result<SecretVec, KmsError> {
    move |wrapped| {
        let opened = pair(which).decrypt(Oaep::Sha256, &wrapped.ciphertext);
        opened.map_err(|e| KmsError::new(KmsErrorKind::InvalidCiphertext, e.to_string()))
    }
}

/// The whole plaintext, or the error and what was written before it.
fn opened(mut file: &[u8]) -> std::result::Result<Vec<u8>, (VolumeError, Vec<u8>)> {
    let mut out = Vec::new();
    let opening = Sealed::begin(&mut file).and_then(|file| file.open(&mut out, &unwrap_with(0)));
    match opening {
        Ok(size) => {
            assert_eq!(size, out.len() as u64);
            Ok(out)
        }
        Err(error) => Err((error, out)),
    }
}

fn is_damaged(file: &[u8], why: &str) {
    match opened(file) {
        Err((VolumeError::Damaged { what }, _)) => assert!(what.contains(why), "{what} (not: {why})"),
        Err((error, _)) => panic!("{error}"),
        Ok(plain) => panic!("it opens, {} bytes", plain.len()),
    }
}

const P: usize = PAGE as usize;
const B: usize = BLOCK as usize;

#[test]
fn sizes_around_every_edge_come_back() {
    for edge in [0, 1, B, 2 * B, RUN * B, (RUN + 1) * B, 2 * RUN * B, 3 * RUN * B + 7] {
        for size in [edge.saturating_sub(1), edge, edge + 1] {
            let file = sealed(&content(size));
            assert_eq!(file.len(), P * (2 + size.div_ceil(B)), "size {size}");
            assert!(opened(&file).unwrap() == content(size), "size {size}");
            assert_eq!(said_size(&file[file.len() - P..]), Some(size as u64));
        }
    }
}

/// A stream that gives and takes as little as it likes.
struct Trickle<'a> {
    rest: &'a [u8],
    pace: usize,
    interrupted: bool,
}

impl<'a> Trickle<'a> {
    fn new(rest: &'a [u8], pace: usize) -> Self {
        Self { rest, pace, interrupted: false }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.pace = self.pace * 7 % 5000 + 1;
        let len = self.pace.min(buffer.len());
        self.rest.read(&mut buffer[..len])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_size_comes_back_through_any_stream(size in 0..4 * RUN * B, pace in 1..5000usize) {
        let plain = content(size);
        let mut file = Vec::new();
        seal(&mut Trickle::new(&plain, pace), &mut file, &[to(0)]).unwrap();
        let mut out = Vec::new();
        Sealed::begin(Trickle::new(&file, pace)).unwrap().open(&mut out, &unwrap_with(0)).unwrap();
        prop_assert!(out == plain);
    }

    #[test]
    fn a_changed_byte_is_damage_and_nothing_wrong_is_written(
        size in 0..3 * B, at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        let plain = content(size);
        let mut file = sealed(&plain);
        // The wrapped data keys stand outside of the MAC: what is changed there opens no data key, or nothing is.
        let keys = FIXED + 1..FIXED + 1 + 4 + 76 + 256;
        let at = at.index(file.len());
        file[at] ^= flip;
        match opened(&file) {
            Ok(out) => prop_assert!(keys.contains(&at) && out == plain, "byte {at} counts for nothing"),
            Err((error, out)) => {
                prop_assert!(plain.starts_with(&out), "byte {at}: wrong bytes were written");
                prop_assert!(matches!(error, VolumeError::Damaged { .. } | VolumeError::Key(_)), "{error}");
            }
        }
    }

    #[test]
    fn a_cut_file_is_damage(size in 0..200_000usize, at in any::<prop::sample::Index>()) {
        let file = sealed(&content(size));
        let cut = opened(&file[..at.index(file.len())]);
        let damaged = matches!(cut, Err((VolumeError::Damaged { .. }, _)));
        prop_assert!(damaged);
    }
}

#[test]
fn what_is_cut_moved_or_exchanged_shows() {
    let plain = content(3 * B + 5);
    let file = sealed(&plain);
    let page = |n: usize| &file[n * P..(n + 1) * P];
    let join = |pages: &[&[u8]]| pages.concat();
    assert!(opened(&join(&[page(0), page(1), page(2), page(3), page(4), page(5)])).unwrap() == plain);

    is_damaged(b"", "shorter than a page");
    is_damaged(&file[..100], "shorter than a page");
    is_damaged(page(0), "before the page that ends it");
    is_damaged(&file[..5 * P], "the page that ends it is absent");
    is_damaged(&file[..5 * P + 9], "inside a page");
    is_damaged(&join(&[&file, b"x"]), "inside a page");
    is_damaged(&join(&[&file, page(5)]), "is short and not the last");
    is_damaged(&join(&[page(0), page(1), page(2), page(3), page(5)]), "it holds 12192 of 12197 bytes");
    is_damaged(&join(&[page(0), page(5)]), "it holds 0 of 12197 bytes");
    is_damaged(
        &join(&[page(0), page(2), page(1), page(3), page(4), page(5)]),
        "block 0 does not authenticate",
    );
    is_damaged(
        &join(&[page(0), page(1), page(1), page(3), page(4), page(5)]),
        "block 1 does not authenticate",
    );
    is_damaged(&join(&[page(0), page(1), &[0; P], page(3), page(4), page(5)]), "a block claims 0 bytes");
    is_damaged(&join(&[page(5), page(1), page(5)]), "holds no wrapped key");
    is_damaged(&join(&[page(0), page(1), page(0)]), "absent, or another");

    // Of another file with the same content, for the same recipient.
    let other = sealed(&plain);
    let theirs = |n: usize| &other[n * P..(n + 1) * P];
    is_damaged(&join(&[page(0), theirs(1), page(2), page(3), page(4), page(5)]), "block 0 does not");
    is_damaged(&join(&[page(0), page(1), page(2), page(3), page(4), theirs(5)]), "is another file's");
    is_damaged(&join(&[theirs(0), page(1), page(2), page(3), page(4), page(5)]), "block 0 does not");
    let mut wrap = page(0).to_vec();
    wrap[FIXED..].copy_from_slice(&theirs(0)[FIXED..]);
    is_damaged(&join(&[&wrap, page(1), page(2), page(3), page(4), page(5)]), "is not its data key");
}

#[test]
fn the_page_that_ends_a_file_says_nothing_else() {
    let mut file = sealed(b"content");
    let end = file.len() - 1;
    file[end] ^= 1;
    is_damaged(&file, "was changed");
}

#[test]
fn a_small_file_is_written_only_when_the_whole_is_right() {
    let file = sealed(&content(2 * B));
    let (_, out) = opened(&file[..3 * P]).unwrap_err();
    assert_eq!(out, b"");
    // A large one shows its cut end after its beginning.
    let large = content(3 * RUN * B);
    let (_, out) = opened(&sealed(&large)[..(1 + 2 * RUN) * P]).unwrap_err();
    assert!(large.starts_with(&out) && out.len() == RUN * B, "{} bytes", out.len());
}

#[test]
fn each_recipient_opens_the_file_and_nobody_else() {
    let arn = "arn:aws:kms:us-east-1:000000000000:key/6b6d7366-7300-4000-8000-000000000001";
    let named = Recipient { key_arn: Some(arn.to_owned()), ..to(1) };
    let mut file = Vec::new();
    seal(&mut &b"for two"[..], &mut file, &[to(0), named]).unwrap();
    for which in 0..2 {
        let mut out = Vec::new();
        let begun = Sealed::begin(&file[..]).unwrap();
        let names: Vec<_> = begun.header().keys.iter().map(|key| key.key_arn.clone()).collect();
        assert_eq!(names, [fingerprint(&to(0).key), arn.to_owned()]);
        begun.open(&mut out, &unwrap_with(which)).unwrap();
        assert_eq!(out, b"for two");
    }
    let mut out = Vec::new();
    let refused = Sealed::begin(&sealed(b"x")[..]).unwrap().open(&mut out, &unwrap_with(1));
    assert!(matches!(&refused, Err(VolumeError::Key(e)) if e.kind == KmsErrorKind::InvalidCiphertext));
    assert_eq!(out, b"");
    // A service that opens it to something else is not believed.
    for answer in [vec![0; 32], vec![1; 16], Vec::new()] {
        let answer = SecretVec::new(answer);
        let foreign = Sealed::begin(&file[..]).unwrap().open(&mut out, &|_| Ok(answer.clone()));
        assert!(matches!(foreign, Err(VolumeError::Damaged { .. })));
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused() {
    let curve = PrivateKey::generate(PairSpec::P256).unwrap().public_key().unwrap();
    for recipients in [vec![Recipient { key: curve, key_arn: None }], vec![], vec![to(0); 5]] {
        let mut out = Vec::new();
        assert!(seal(&mut &b"x"[..], &mut out, &recipients).is_err());
        assert_eq!(out, b"", "a beginning was written");
    }
}

#[test]
fn a_volume_refuses_sealed_files_and_the_other_way_round() {
    let file = sealed(b"x");
    assert!(is_sealed(&file));
    let error = Header::parse(&file[..P]).unwrap_err().to_string();
    assert!(error.contains("kmsfs decrypt"), "{error}");
    let keys = super::super::sample::keys();
    let page = super::super::sample::header(&keys).encode(&keys).unwrap();
    assert!(!is_sealed(&page[..]));
    is_damaged(&page[..], "belongs to a volume");
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("broken"))
    }
}

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("broken"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn errors_of_the_streams_are_told_apart() {
    let what = |result: Result<u64>| match result {
        Err(VolumeError::Backing { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(seal(&mut Broken, &mut Vec::new(), &[to(0)])), READING);
    assert_eq!(what(seal(&mut &b"x"[..], &mut Broken, &[to(0)])), WRITING);
    let file = sealed(b"x");
    let begun = Sealed::begin((&file[..P]).chain(Broken)).unwrap();
    assert_eq!(what(begun.open(&mut Vec::new(), &unwrap_with(0))), READING);
    assert_eq!(what(Sealed::begin(&file[..]).unwrap().open(&mut Broken, &unwrap_with(0))), WRITING);
}
