//! Holding a volume still, so that another process can copy the backing tree as it stands.
//!
//! Every operation that changes the backing enters a gate; a hold closes it, waits for those inside, and finalises
//! what is open for writing. What then stands in the backing is what a clean unmount would leave, but for the
//! epoch marker, which a hold hands out marked clean. Closing a file and fsync pass the closed gate: they find
//! nothing to do to a finalised file but to sync it.

use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::core::Core;
use super::disk::Time;
use super::epoch::{Epoch, backing_now};
use super::error::{Result, VolumeError};
use super::types::NodeId;

/// Where changes of the backing go through.
#[derive(Default)]
pub struct Gate(RwLock<()>);

/// A change under way.
pub struct Changing<'a> {
    _inside: RwLockReadGuard<'a, ()>,
}

impl Gate {
    /// Enters; waits while the volume is held still. Nobody who is inside may enter once more: a hold that waits
    /// for the first would keep the second out.
    pub(super) fn enter(&self) -> Changing<'_> {
        Changing { _inside: self.0.read() }
    }

    /// The same for who may be inside already, or holds a lock that somebody inside may wait for.
    pub(super) fn enter_again(&self) -> Changing<'_> {
        Changing { _inside: self.0.read_recursive() }
    }

    /// Keeps everybody out, when those inside are done.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write()
    }

    /// The same; None if they are not done by then, or somebody else keeps it closed.
    pub(super) fn close_within(&self, patience: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
        self.0.try_write_for(patience)
    }
}

/// The state that a hold keeps.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Still {
    /// Hex.
    pub volume_id: String,
    /// The running epoch.
    pub epoch: u64,
    /// The backing's clock: whatever has a ctime after this was changed after the hold.
    pub now: Time,
    /// For `.kmsfs/epoch` of a copy: this epoch, ended cleanly.
    pub marker: Vec<u8>,
}

/// Nothing changes in the backing until it is dropped.
pub struct Hold<'a> {
    _closed: RwLockWriteGuard<'a, ()>,
    /// What is held.
    pub still: Still,
}

impl Core {
    /// Files open for writing: what of them the kernel has not written back is not here yet.
    pub fn written_nodes(&self) -> Vec<NodeId> {
        let files = self.nodes.open_files();
        files.iter().filter(|file| file.has_writers()).map(|file| file.node).collect()
    }

    /// Holds the volume still; whoever changes something waits until the hold is dropped. Waits for what is under
    /// way, and for the mending of what a crash may have cut, at most `patience` each.
    ///
    /// Everything is finalised then, but not synced: that is for who makes the copy.
    pub fn hold(&self, patience: Duration) -> Result<Hold<'_>> {
        self.writable()?;
        // Mending ends once and for all, so that nothing mends behind the closed gate.
        drop(self.mending.try_lock_for(patience).ok_or(VolumeError::NotSettled)?);
        if self.needs_mending() {
            return Err(VolumeError::NotSettled);
        }
        let closed = self.gate.close_within(patience).ok_or(VolumeError::NotStill)?;
        for file in self.nodes.open_files() {
            if file.is_writable() {
                file.content.finalise()?;
            }
        }
        let epoch = Epoch { clean: true, ..self.epoch.lock().clone() };
        let still = Still {
            volume_id: self.volume_id(),
            epoch: epoch.number,
            now: backing_now(&*self.private)?,
            marker: epoch.encode(&self.keys),
        };
        Ok(Hold { _closed: closed, still })
    }
}
