//! Bad input: every parser of the on-disk format answers with an error, never with a panic or with wrong
//! bytes, whatever it is given.

use kmsfs::crypto::{AeadKey, NonceRun, Secret};
use kmsfs::kms::KeyHolder;
use kmsfs::volume::block::{self, BlockHead};
use kmsfs::volume::descriptor::{Descriptor, Feature};
use kmsfs::volume::epoch::Epoch;
use kmsfs::volume::header::{Header, WrappedKey};
use kmsfs::volume::keys::{DataKey, FileKeys, VolumeKey, VolumeKeys};
use kmsfs::volume::layout::{BLOCK, PAGE};
use kmsfs::volume::{VolumeError, disk::Time, names};
use proptest::collection::vec;
use proptest::prelude::*;

fn volume() -> VolumeKeys {
    VolumeKeys::derive(&VolumeKey(Secret::new([1; 32])), [2; 16]).unwrap()
}

fn file(id: u8) -> (FileKeys, Header) {
    let keys = FileKeys::derive(DataKey(Secret::new([3; 32])), &volume(), &[id; 16]).unwrap();
    let wrapped =
        WrappedKey { key_arn: "arn:aws:kms:us-east-1:000000000000:key/k".into(), ciphertext: vec![9; 150] };
    let header = Header {
        flags: 0,
        generation: 1,
        used: 1,
        file_id: [id; 16],
        size: 5,
        epoch: 7,
        commitment: *keys.commitment(),
        keys: vec![wrapped],
    };
    (keys, header)
}

fn is_damage<T>(result: Result<T, VolumeError>) -> bool {
    matches!(result, Err(VolumeError::Damaged { .. }))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..9000)) {
        let (volume, (keys, _)) = (volume(), file(4));
        prop_assert!(Header::parse(&bytes).is_err());
        prop_assert!(Descriptor::parse(&bytes).is_err());
        prop_assert!(Epoch::parse(&bytes, &volume).is_err());
        prop_assert!(names::parse_dir_id(&bytes).is_err() || bytes.len() == 22);
        prop_assert!(volume.decode_name(&[0; 16], &bytes).is_err());
        prop_assert!(volume.decode_target(&bytes).is_err());
        prop_assert!(volume.open_xattr(&[0; 16], b"user.x", &bytes).is_err());
        prop_assert_eq!(volume.decode_xattr_name(&bytes), None);
        names::classify(&bytes);
        if let Ok(head) = BlockHead::parse(&bytes) {
            let mut plain = vec![1; bytes.len().saturating_sub(32)];
            let key = keys.content(head.generation).unwrap();
            prop_assert!(block::open(&key, head, 0, &bytes, &mut plain).is_err());
            prop_assert!(plain.iter().all(|&b| b == 0), "plaintext of a block that does not authenticate");
        }
    }

    #[test]
    fn a_header_with_one_byte_changed_is_refused_or_only_its_wrapped_keys_changed(
        at in 0..PAGE as usize, flip in 1..=255u8,
    ) {
        let (keys, header) = file(4);
        let mut page = *header.encode(&keys).unwrap();
        prop_assert_eq!(&Header::parse(&page).unwrap(), &header);
        page[at] ^= flip;
        if let Ok(parsed) = Header::parse(&page) {
            match parsed.verify(&page, &keys) {
                Err(e) => prop_assert!(is_damage::<()>(Err(e))),
                // The wrapped keys are outside of the MAC, and nothing else is.
                Ok(()) => prop_assert_eq!(Header { keys: header.keys.clone(), ..parsed }, header),
            }
        }
    }

    #[test]
    fn a_block_opens_only_as_itself(
        plain in vec(any::<u8>(), 1..=BLOCK as usize), number in any::<u64>(), at in 0..PAGE as usize, flip in 1..=255u8,
    ) {
        let (keys, _) = file(4);
        let (key, mut run) = (keys.content(1).unwrap(), NonceRun::start().unwrap());
        let mut page = vec![0; PAGE as usize];
        block::seal(&key, run.take(), number, 1, &plain, &mut page).unwrap();
        let open = |key: &AeadKey, number, page: &[u8]| {
            let mut out = vec![0; BLOCK as usize];
            BlockHead::parse(page).and_then(|head| block::open(key, head, number, page, &mut out)).map(|()| out)
        };
        let opened = open(&key, number, &page).unwrap();
        prop_assert_eq!(&opened[..plain.len()], &plain[..]);
        prop_assert!(opened[plain.len()..].iter().all(|&b| b == 0));
        prop_assert!(is_damage(open(&key, number.wrapping_add(1), &page)), "moved");
        prop_assert!(is_damage(open(&keys.content(2).unwrap(), number, &page)), "another generation");
        prop_assert!(is_damage(open(&file(5).0.content(1).unwrap(), number, &page)), "another file");
        prop_assert!(is_damage(open(&key, number, &page[..PAGE as usize - 1])), "cut");
        page[at] ^= flip;
        prop_assert!(is_damage(open(&key, number, &page)), "changed");
    }

    #[test]
    fn every_name_comes_back_and_only_in_its_directory(name in vec(any::<u8>(), 1..=255)) {
        let volume = volume();
        let encoded = volume.encode_name(&[6; 16], &name);
        if names::check_name(&name).is_err() {
            prop_assert!(encoded.is_err());
        } else {
            let stored = encoded.unwrap();
            prop_assert!(stored.entry.len() <= 255);
            let full = stored.long.as_ref().map_or(&stored.entry, |(_, full)| full);
            prop_assert_eq!(stored.long.is_some(), name.len() > 175);
            prop_assert_eq!(volume.decode_name(&[6; 16], full).unwrap(), name);
            prop_assert!(is_damage(volume.decode_name(&[7; 16], full)));
        }
    }

    #[test]
    fn every_target_comes_back(target in vec(any::<u8>(), 1..=4095)) {
        let volume = volume();
        let stored = volume.encode_target(&target).unwrap();
        let text = match names::overflow_id(&stored.target) {
            Some(_) => stored.overflow.iter().flat_map(|(_, piece)| piece.clone()).collect(),
            None => stored.target.clone(),
        };
        prop_assert_eq!(names::target_len(text.len() as u64), Some(target.len() as u64));
        prop_assert_eq!(volume.decode_target(&text).unwrap(), target);
    }

    #[test]
    fn an_epoch_marker_comes_back_and_one_changed_byte_is_refused(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let (volume, start) = (volume(), Time { sec: -3, nsec: 5 });
        let epoch = Epoch::first(start).next(start).next(Time { sec: 9, nsec: 1 });
        let mut bytes = epoch.encode(&volume);
        prop_assert_eq!(Epoch::parse(&bytes, &volume).unwrap(), epoch);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(matches!(Epoch::parse(&bytes, &volume), Err(VolumeError::Epoch(_))));
    }
}

#[test]
fn a_descriptor_of_another_format_feature_or_volume_says_so() {
    let volume = volume();
    let wrapped = WrappedKey { key_arn: "arn".into(), ciphertext: vec![1, 2, 3] };
    let made = Descriptor::new(&volume, "us-east-1".into(), Vec::new(), vec![wrapped.clone()]);
    let text = String::from_utf8(made.encode().unwrap()).unwrap();
    let parsed = Descriptor::parse(text.as_bytes()).unwrap();
    assert_eq!(parsed, made);
    parsed.verify(&volume).unwrap();
    let error = |text: &str| Descriptor::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error(&text.replace("\"format\": 1", "\"format\": 2")).contains("has format 2"));
    assert!(
        error(&text.replace("\"features\": []", "\"features\": [\"x\"]")).contains("needs the feature \"x\"")
    );
    assert!(error(&text.replace("\"region\"", "\"religion\"")).contains("damaged"));
    let moved = Descriptor::parse(text.replace("us-east-1", "eu-west-1").as_bytes()).unwrap();
    assert!(moved.verify(&volume).unwrap_err().to_string().contains("was changed"));
    // A feature is authenticated, and listed once.
    let at_aws = Descriptor::new(&volume, "us-east-1".into(), vec![Feature::AwsKms], vec![wrapped]);
    let aws = String::from_utf8(at_aws.encode().unwrap()).unwrap();
    let parsed = Descriptor::parse(aws.as_bytes()).unwrap();
    assert_eq!((parsed.holder(), &parsed), (KeyHolder::Aws, &at_aws));
    parsed.verify(&volume).unwrap();
    let added = text.replace("\"features\": []", "\"features\": [\"aws-kms\"]");
    assert!(Descriptor::parse(added.as_bytes()).unwrap().verify(&volume).is_err());
    let dropped = aws.replace("\"aws-kms\"", "");
    assert!(Descriptor::parse(dropped.as_bytes()).unwrap().verify(&volume).is_err());
    assert!(error(&aws.replace("\"aws-kms\"", "\"aws-kms\", \"aws-kms\"")).contains("damaged"));
    let other = VolumeKeys::derive(&VolumeKey(Secret::new([8; 32])), [2; 16]).unwrap();
    assert!(made.verify(&other).is_err());
}
