//! A file's keys and header, for the tests of this layer.

use std::sync::Arc;

use super::header::{Header, WrappedKey};
use super::keys::{DataKey, FileKeys, VolumeKey, VolumeKeys};
use crate::crypto::Secret;

pub fn keys() -> Arc<FileKeys> {
    let volume = VolumeKeys::derive(&VolumeKey(Secret::new([1; 32])), [2; 16]).unwrap();
    Arc::new(FileKeys::derive(DataKey(Secret::new([3; 32])), &volume, &[4; 16]).unwrap())
}

/// Of an empty file that was just made, in epoch 1.
pub fn header(keys: &FileKeys) -> Header {
    Header {
        flags: 0,
        generation: 0,
        used: 0,
        file_id: [4; 16],
        size: 0,
        epoch: 1,
        commitment: *keys.commitment(),
        keys: vec![WrappedKey { key_arn: "arn".into(), ciphertext: vec![1] }],
    }
}
