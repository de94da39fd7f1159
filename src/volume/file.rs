//! A file that is open: its content, shared by all handles on it.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::content::Content;
use super::disk::{Change, Stat};
use super::error::{Attempt, Result};
use super::header::FileId;
use super::types::NodeId;

/// Set user id, set group id, group execute: the last makes the second mean something (chmod(2)).
const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// One open file.
pub struct File {
    /// Its node.
    pub node: NodeId,
    /// Its id.
    pub id: FileId,
    /// Its bytes.
    pub content: Content,
    /// The backing file may be written to.
    writable: AtomicBool,
    /// Access to its key was withdrawn while it was open.
    revoked: AtomicBool,
    /// It may have suid or sgid set.
    privileged: AtomicBool,
    /// Whose handles these are is the mount's matter: how many, and how many may write.
    users: Mutex<Users>,
}

/// Handles on a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Users {
    /// All.
    pub handles: usize,
    /// Those that may write.
    pub writers: usize,
}

/// The bits that a write or truncation by somebody without CAP_FSETID takes away; None if there are none.
pub fn without_privileges(perm: u32) -> Option<u32> {
    let sgid = if perm & GROUP_EXECUTE == 0 { 0 } else { SGID };
    let kept = perm & !(SUID | sgid);
    (kept != perm).then_some(kept)
}

impl File {
    /// Not used by anybody yet.
    pub fn new(node: NodeId, content: Content, writable: bool, perm: u32) -> Self {
        Self {
            node,
            id: content.header().file_id,
            content,
            writable: AtomicBool::new(writable),
            revoked: AtomicBool::new(false),
            privileged: AtomicBool::new(without_privileges(perm).is_some()),
            users: Mutex::default(),
        }
    }

    /// True if the backing file is open for writing.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// The backing file was opened again, for writing.
    pub fn set_writable(&self) {
        self.writable.store(true, Ordering::Release);
    }

    /// True while access to its key is withdrawn.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Withdraws access, or gives it back; answers what held before.
    pub fn set_revoked(&self, revoked: bool) -> bool {
        self.revoked.swap(revoked, Ordering::AcqRel)
    }

    /// One handle more.
    pub fn enter(&self, write: bool) {
        let mut users = self.users.lock();
        users.handles += 1;
        users.writers += usize::from(write);
    }

    /// One handle less; those that are left.
    pub fn leave(&self, write: bool) -> Users {
        let mut users = self.users.lock();
        users.handles = users.handles.saturating_sub(1);
        users.writers = users.writers.saturating_sub(usize::from(write));
        *users
    }

    /// True if a handle on it may write.
    pub fn has_writers(&self) -> bool {
        self.users.lock().writers > 0
    }

    /// fstat of the backing file.
    pub fn stat(&self) -> Result<Stat> {
        self.content.file().stat().attempt("asking for a file's attributes")
    }

    /// Clears suid, and sgid of a group-executable file. Costs a call only where one may be set.
    pub fn drop_privileges(&self) -> Result<()> {
        if !self.privileged.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(perm) = without_privileges(self.stat()?.perm) {
            let change = Change { perm: Some(perm), ..Change::default() };
            self.content.file().change(&change).attempt("clearing suid and sgid")?;
        }
        self.privileged.store(false, Ordering::Release);
        Ok(())
    }

    /// The mode was set.
    pub fn mode_changed(&self, perm: u32) {
        self.privileged.store(without_privileges(perm).is_some(), Ordering::Release);
    }
}
