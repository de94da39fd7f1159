//! An object of a depot as a file that is read, for what is written for files.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::depot::Depot;
use super::super::error::{Result, SnapshotError};
use crate::volume::disk::{BackingFile, Change, Stat, XattrMode};

/// Pieces that are kept of an object far away.
const KEPT: usize = 64;

/// See above.
pub struct Object {
    depot: Arc<dyn Depot>,
    path: String,
    len: u64,
    /// The newest last, by their places.
    kept: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
}

impl Object {
    /// Opens one.
    pub fn open(depot: &Arc<dyn Depot>, path: String) -> Result<Arc<dyn BackingFile>> {
        let len = depot.len(&path)?;
        Ok(Arc::new(Self { depot: depot.clone(), path, len, kept: Mutex::default() }))
    }

    fn piece(&self, number: u64, size: u64) -> io::Result<Arc<Vec<u8>>> {
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|piece| piece.0 == number) {
            let piece = kept.remove(at);
            let found = piece.1.clone();
            kept.push(piece);
            return Ok(found);
        }
        drop(kept);
        let start = number * size;
        let mut bytes = vec![0; size.min(self.len.saturating_sub(start)) as usize];
        let read = self.depot.read_at(&self.path, start, &mut bytes).map_err(io_error)?;
        bytes.truncate(read);
        let bytes = Arc::new(bytes);
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((number, bytes.clone()));
        Ok(bytes)
    }
}

fn io_error(error: SnapshotError) -> io::Error {
    match error {
        SnapshotError::Depot { source, .. } => source,
        other => io::Error::other(other),
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(rustix::io::Errno::ROFS.into())
}

impl BackingFile for Object {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn stat(&self) -> io::Result<Stat> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let size = self.depot.piece();
        if size == 0 {
            return self.depot.read_at(&self.path, offset, buf).map_err(io_error);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let piece = self.piece(at / size, size)?;
            let from = piece.get((at % size) as usize..).unwrap_or_default();
            let len = from.len().min(buf.len() - done);
            if len == 0 {
                break;
            }
            buf[done..done + len].copy_from_slice(&from[..len]);
            done += len;
        }
        Ok(done)
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
        Ok((offset < self.len).then_some(offset))
    }

    fn get_xattr(&self, _: &[u8]) -> io::Result<Vec<u8>> {
        Err(rustix::io::Errno::NODATA.into())
    }

    fn set_xattr(&self, _: &[u8], _: &[u8], _: XattrMode) -> io::Result<()> {
        read_only()
    }

    fn list_xattr(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn remove_xattr(&self, _: &[u8]) -> io::Result<()> {
        read_only()
    }
}
