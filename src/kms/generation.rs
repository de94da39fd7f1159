//! The generation number beside the store: eight bytes that every process reads with one call.
//!
//! The store's row is the truth. A change writes the next number to the file inside its write transaction and
//! before the commit, and the same number to the row with the change itself. So a number that was read from
//! the file and still stands there tells that no change has been committed since: whoever commits one has
//! moved the file first. A crash between the two leaves the file ahead of the row: nothing is believed that
//! should not be, caches only load once more at each call, until [`super::region`] brings the row up to it. After a power cut the file
//! may be behind, when no process is left that remembers a number; opening brings it up to the row.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The file.
pub struct GenerationFile(File);

impl GenerationFile {
    /// Opens it, or makes it (mode 0600) with 0.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self(file))
    }

    /// The number; 0 where there is none yet.
    pub fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        match self.0.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(u64::from_le_bytes(bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Sets the number; inside a write transaction of the store only.
    pub fn write(&self, generation: u64) -> io::Result<()> {
        self.0.write_all_at(&generation.to_le_bytes(), 0)
    }
}
