//! Files of a [`Volume`] as tests open them.

use std::sync::atomic::{AtomicBool, Ordering};

use kmsfs::volume::{NodeId, OpenMode, Volume};

use crate::model::run::CALLER;

pub const READ_WRITE: OpenMode = OpenMode { read: true, write: true, truncate: false, kill_priv: false };
pub const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, kill_priv: false };

/// All that is in a file.
pub fn content(volume: &Volume, parent: NodeId, name: &[u8]) -> Vec<u8> {
    let attr = volume.lookup(parent, name).unwrap();
    let handle = volume.open_file(CALLER, attr.node, READ).unwrap();
    let mut content = vec![0; attr.stat.size as usize];
    assert_eq!(volume.read(handle, 0, &mut content).unwrap(), content.len());
    volume.release(handle).unwrap();
    volume.forget(attr.node, 1);
    content
}

/// Stops threads, also when what they are for fails.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
