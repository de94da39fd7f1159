//! Backing files that are only read.

use std::io;

use super::error::SnapshotError;
use crate::volume::disk::{BackingFile, Change, Stat, XattrMode};

/// For the layers that know only the system's errors; the text stays in the log.
pub fn as_io(error: SnapshotError) -> io::Error {
    match error {
        SnapshotError::Depot { source, .. } if source.raw_os_error().is_some() => source,
        error => {
            tracing::warn!("a snapshot cannot be read: {error}");
            io::Error::from_raw_os_error(libc::EIO)
        }
    }
}

/// An operation that changes something, on what never changes.
pub fn read_only<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EROFS))
}

/// The value of an attribute among others.
pub fn value_of(attrs: Vec<(Vec<u8>, Vec<u8>)>, attr: &[u8]) -> io::Result<Vec<u8>> {
    let value = attrs.into_iter().find(|(name, _)| name == attr);
    value.map(|(_, value)| value).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODATA))
}

/// A file that never changes: what one kind of it differs in from the others.
pub trait Fixed: Send + Sync {
    /// Bytes.
    fn fixed_len(&self) -> u64;
    /// fstat.
    fn fixed_stat(&self) -> io::Result<Stat>;
    /// Fills all of `buf`, which does not reach beyond the end.
    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Where data begins at or after an offset.
    fn data_after(&self, offset: u64) -> Option<u64>;
    /// Extended attributes.
    fn attrs(&self) -> &[(Vec<u8>, Vec<u8>)];
}

/// It as a backing file.
pub struct ReadOnly<T>(pub T);

impl<T: Fixed> BackingFile for ReadOnly<T> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.fixed_len())
    }

    fn stat(&self) -> io::Result<Stat> {
        self.0.fixed_stat()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.0.fixed_len().saturating_sub(offset);
        let len = (buf.len() as u64).min(left) as usize;
        self.0.fill(&mut buf[..len], offset)?;
        Ok(len)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        read_only()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        read_only()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn wait_writeback(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn start_writeback(&self) -> io::Result<()> {
        Ok(())
    }

    fn change(&self, _: &Change) -> io::Result<()> {
        read_only()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(self.0.data_after(offset))
    }

    fn get_xattr(&self, attr: &[u8]) -> io::Result<Vec<u8>> {
        value_of(self.0.attrs().to_vec(), attr)
    }

    fn set_xattr(&self, _: &[u8], _: &[u8], _: XattrMode) -> io::Result<()> {
        read_only()
    }

    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.0.attrs().iter().map(|(name, _)| name.clone()).collect())
    }

    fn remove_xattr(&self, _: &[u8]) -> io::Result<()> {
        read_only()
    }
}
