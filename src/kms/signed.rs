//! The signing of a log: of a region's, and of the identities'.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::audit::{self, AuditError, ChainHead, HeadKey};
use crate::crypto::CryptoError;
use crate::store::{Durability, SqliteStore, Store};

/// What signs the head of the log of one store.
pub struct Signer {
    key: HeadKey,
    /// The log has grown since its head was signed.
    grown: AtomicBool,
}

impl Signer {
    /// With the key that follows from the store's root key.
    pub fn new(root: &[u8; 32]) -> Result<Self, CryptoError> {
        // A process that was killed may have left a head unsigned.
        Ok(Self { key: HeadKey::derive(root)?, grown: AtomicBool::new(true) })
    }

    /// The log has events whose head is to be signed.
    pub fn has_grown(&self) {
        self.grown.store(true, Ordering::Relaxed);
    }

    /// Syncs the log and signs its head, if it has grown.
    pub fn sign(&self, store: &SqliteStore) -> Result<(), AuditError> {
        if !self.grown.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let signed = (|| {
            let head = audit::head(&*store.read()?)?;
            store.sync()?;
            let mut tx = store.write(Durability::Soon)?;
            if audit::advance_head(&mut *tx, &self.key, &head)? {
                tx.commit()?;
            }
            Ok(())
        })();
        if signed.is_err() {
            self.has_grown();
        }
        signed
    }

    /// Signs what the log holds by now; the end that is on disk and signed.
    pub fn signed_head(&self, store: &SqliteStore) -> Result<ChainHead, AuditError> {
        // Another process may have written.
        self.has_grown();
        self.sign(store)?;
        let head = audit::signed_head(&*store.read()?, &self.key)?;
        Ok(head.unwrap_or(ChainHead::EMPTY))
    }

    /// Checks the log; the end of it.
    pub fn verify(&self, store: &SqliteStore, pinned: Option<ChainHead>) -> Result<ChainHead, AuditError> {
        audit::verify(&*store.read()?, &self.key, pinned)
    }
}
