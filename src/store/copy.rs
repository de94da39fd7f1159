//! A store's copy, as of one moment, while others go on using it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::sqlite::{SqliteStore, connect};
use super::{Result, StoreError};

/// One moment of a store: what was committed by then, whatever is written later.
pub struct Moment(Connection);

impl SqliteStore {
    /// This moment.
    pub fn moment(&self) -> Result<Moment> {
        let connection = connect(self.path())?;
        // A view begins with the first read.
        connection.execute_batch("BEGIN")?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(Moment(connection))
    }
}

impl Moment {
    /// Writes the store as it was then into a new file, mode 0600; on disk when this returns.
    pub fn copy_to(self, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| StoreError::Engine(format!("the copy {}: {e}", path.display()));
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(failed)?;
        let mut target = Connection::open(path)?;
        // In one step: a step that finds a view open reads that view.
        let step = Backup::new(&self.0, &mut target)?.step(-1)?;
        if step != StepResult::Done {
            return Err(StoreError::Engine(format!("the copy {} was not completed", path.display())));
        }
        target.close().map_err(|(_, error)| StoreError::from(error))?;
        File::open(path).and_then(|file| file.sync_all()).map_err(failed)
    }
}

/// Checks a store's file that nobody has open: its pages and their order, all of them.
pub fn check_file(path: &Path) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Without `immutable`, a store that was in WAL mode would be given a new log beside it.
    let address = format!("file:{}?immutable=1", escaped(path)?);
    let connection = Connection::open_with_flags(address, flags | OpenFlags::SQLITE_OPEN_URI)?;
    let told: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if told == "ok" {
        return Ok(());
    }
    Err(StoreError::Open { path: path.display().to_string(), reason: format!("it is damaged: {told}") })
}

/// A path in an address (RFC 3986): all but letters, digits and `/.-_~` as %XX.
fn escaped(path: &Path) -> Result<String> {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/.-_~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            write!(out, "%{byte:02X}").map_err(|e| StoreError::Engine(e.to_string()))?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::*;
    use crate::store::{Durability, Store};

    fn put(store: &SqliteStore, number: u32) {
        let mut tx = store.write(Durability::Soon).unwrap();
        tx.put("c", &number.to_be_bytes(), &vec![number as u8; 500]).unwrap();
        tx.put("s#", &u64::from(number).to_be_bytes(), &[1; 3000]).unwrap();
        tx.commit().unwrap();
    }

    fn count(path: &Path) -> (usize, usize) {
        let store = SqliteStore::open(path).unwrap();
        let tx = store.read().unwrap();
        let len = |name| tx.range(name, Bound::Unbounded, Bound::Unbounded, false, 10_000).unwrap().len();
        (len("c"), len("s#"))
    }

    #[test]
    fn a_copy_is_of_its_moment_whatever_is_written_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("s.db"), dir.path().join("a copy?.db"));
        let store = SqliteStore::open(&path).unwrap();
        (0..300).for_each(|n| put(&store, n));
        let moment = store.moment().unwrap();
        (300..600).for_each(|n| put(&store, n));
        // Another process's store, and a log that is moved into the file as far as views allow.
        put(&SqliteStore::open(&path).unwrap(), 600);
        assert!(!store.purge().unwrap());
        moment.copy_to(&copy).unwrap();
        check_file(&copy).unwrap();
        assert!(!dir.path().join("a copy?.db-wal").exists());
        assert_eq!(count(&copy), (300, 300));
        assert_eq!(count(&path), (601, 601));
        assert!(store.moment().unwrap().copy_to(&copy).is_err(), "a file was written over");
    }

    #[test]
    fn a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let store = SqliteStore::open(&path).unwrap();
        (0..300).for_each(|n| put(&store, n));
        drop(store);
        check_file(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[4096..8192].fill(0);
        std::fs::write(&path, &bad).unwrap();
        assert!(check_file(&path).is_err());
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(check_file(&path).is_err());
    }
}
