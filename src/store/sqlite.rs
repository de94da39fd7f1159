//! The embedded engine: SQLite in WAL mode, because a mount, the command line and a server use one store at
//! the same time.
//!
//! Durability. A commit with `synchronous=NORMAL` writes the log and does not sync it: it survives the
//! process. A thread syncs the log's file within a second. `synchronous=FULL` syncs it at the commit, and
//! with it every earlier commit. SQLite itself syncs the log before a checkpoint moves it into the database. The
//! thread does that, so that a commit does not wait for it: most of it beside the commits, and the few pages that came
//! meanwhile between two of them, because the log begins anew only once all of it has been moved.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::config::DbConfig;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params, params_from_iter};

use super::{Durability, Item, ReadTx, Result, Store, StoreError, WriteTx, housekeeper};

/// How long a transaction waits for another process.
const BUSY_SECONDS: u64 = 10;
/// How long [`Store::purge`] lets writers wait while it waits for readers.
const PURGE_PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of the log from which on the thread moves it into the file.
const CHECKPOINT_AT: u64 = 4 << 20;
/// Bytes of the log that stay when it begins anew: to cut it and to let it grow again costs more than to overwrite it.
const KEPT_LOG: i64 = 64 << 20;
/// Moves beside commits, at most, until one had so few pages to move that commits may wait for the next.
const CHECKPOINT_PASSES: usize = 4;
/// So few.
const CHECKPOINT_REST: i64 = 64;
/// Pages of the log from which on the writer moves it itself: where another process always writes or reads, the
/// thread does not reach its end, and it grows.
const CHECKPOINT_PAGES: i64 = 32768;
/// How late a commit may reach the disk, with room to do it in.
const SYNC_EVERY: Duration = Duration::from_millis(500);

/// A store in one file, with SQLite's `-wal` and `-shm` beside it.
pub struct SqliteStore {
    path: PathBuf,
    writer: Arc<Mutex<WriterConnection>>,
    /// Connections that wait for the next reader.
    readers: Mutex<Vec<Connection>>,
    syncer: Arc<Syncer>,
    thread: Option<JoinHandle<()>>,
    /// For tests of those above: every write finds the disk full.
    #[cfg(test)]
    full: std::sync::atomic::AtomicBool,
}

/// The connection that writes.
struct WriterConnection {
    connection: Connection,
    /// What its `synchronous` is set for.
    durability: Durability,
}

struct Syncer {
    state: Mutex<SyncState>,
    wake: Condvar,
}

#[derive(Default)]
struct SyncState {
    /// Committed and perhaps not on disk.
    dirty: bool,
    stop: bool,
}

impl SqliteStore {
    /// Where its file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a store, or makes it (mode 0600, in a directory that exists).
    pub fn open(path: &Path) -> Result<Self> {
        let refused = |reason: String| StoreError::Open { path: path.display().to_string(), reason };
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| refused(e.to_string()))?;
        let writer = connect(path).map_err(|e| refused(e.to_string()))?;
        let schema = "CREATE TABLE IF NOT EXISTS items (
            collection TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (collection, key)
        ) WITHOUT ROWID";
        writer.execute_batch(schema).map_err(|e| refused(e.to_string()))?;
        let writer = WriterConnection { connection: writer, durability: Durability::Soon };
        let writer = Arc::new(Mutex::new(writer));
        let syncer = Arc::new(Syncer { state: Mutex::default(), wake: Condvar::new() });
        let thread = {
            let (syncer, writer, path) = (syncer.clone(), writer.clone(), path.to_owned());
            housekeeper("store-sync", move || syncer.run(&path, &writer))
        };
        let thread = Some(thread.map_err(|e| refused(e.to_string()))?);
        Ok(Self {
            path: path.to_owned(),
            writer,
            readers: Mutex::default(),
            syncer,
            thread,
            #[cfg(test)]
            full: false.into(),
        })
    }
}

#[cfg(test)]
impl SqliteStore {
    pub(crate) fn refuse_writes(&self, full: bool) {
        self.full.store(full, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.syncer.state.lock().stop = true;
        self.syncer.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own message.
            let _ = thread.join();
        }
    }
}

impl Syncer {
    /// Syncs the log as long as commits come; the last time when the store closes.
    fn run(&self, path: &Path, writer: &Mutex<WriterConnection>) {
        let (mut log, log_path) = (None, wal_path(path));
        let mut state = self.state.lock();
        loop {
            while !state.dirty && !state.stop {
                self.wake.wait(&mut state);
            }
            if !state.stop {
                // Further commits join this sync.
                self.wake.wait_while_for(&mut state, |s| !s.stop, SYNC_EVERY);
            }
            let (dirty, stop) = (state.dirty, state.stop);
            state.dirty = false;
            drop(state);
            if dirty && let Err(error) = sync_log(&mut log, &log_path) {
                tracing::error!(path = %path.display(), %error, "the store could not be synced; what the last second wrote may be lost in a power cut");
            }
            // At the end the last connection's close does it.
            if dirty && !stop && fs::metadata(&log_path).is_ok_and(|m| m.len() > CHECKPOINT_AT) {
                // Where it fails, the writer does it in its turn.
                let _ = checkpoint(path, writer);
            }
            if stop {
                return;
            }
            state = self.state.lock();
        }
    }
}

/// Moves the log into the file, so that the next commit begins it anew.
fn checkpoint(path: &Path, writer: &Mutex<WriterConnection>) -> rusqlite::Result<()> {
    let connection = connect(path)?;
    // Pages that are moved by now, of those that were in the log when this pass began.
    let pass = || -> rusqlite::Result<i64> {
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2))
    };
    let mut moved = 0;
    for _ in 0..CHECKPOINT_PASSES {
        let before = std::mem::replace(&mut moved, pass()?);
        // What comes in the meantime gets less from pass to pass.
        if moved - before <= CHECKPOINT_REST {
            break;
        }
    }
    let _writer = writer.lock();
    pass()?;
    Ok(())
}

/// fdatasync of the log, opened anew if SQLite replaced it. (Its locks are on the other two files.)
fn sync_log(log: &mut Option<File>, path: &Path) -> io::Result<()> {
    let now = match fs::metadata(path) {
        Ok(now) => now,
        // The last connection closed: everything was checkpointed and synced.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let same = |file: &File| file.metadata().is_ok_and(|m| (m.dev(), m.ino()) == (now.dev(), now.ino()));
    let file = match log.take().filter(same) {
        Some(file) => file,
        None => {
            let file = File::open(path)?;
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
            file
        }
    };
    file.sync_data()?;
    *log = Some(file);
    Ok(())
}

fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(BUSY_SECONDS))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // As Durability::Soon wants it.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // What is deleted is overwritten: key material must not stay in free pages.
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // A log that has been moved is cut to this by the commit that begins it anew.
    connection.pragma_update(None, "journal_size_limit", KEPT_LOG)?;
    // Or a limit that is bound makes SQLite prepare its statement anew at each use, to plan for the number.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// One statement that stays prepared.
fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

impl SqliteStore {
    fn begin<'a>(
        &'a self,
        mut writer: MutexGuard<'a, WriterConnection>,
        durability: Durability,
        patience: Duration,
    ) -> Result<Writer<'a>> {
        writer.connection.busy_timeout(patience)?;
        if writer.durability != durability {
            let mode = match durability {
                Durability::Soon => "NORMAL",
                Durability::Synced => "FULL",
            };
            writer.connection.pragma_update(None, "synchronous", mode)?;
            writer.durability = durability;
        }
        run(&writer.connection, "BEGIN IMMEDIATE")?;
        Ok(Writer { store: self, writer, open: true })
    }
}

impl Store for SqliteStore {
    fn read(&self) -> Result<Box<dyn ReadTx + '_>> {
        let waiting = self.readers.lock().pop();
        let connection = match waiting {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        run(&connection, "BEGIN")?;
        Ok(Box::new(Reader { store: self, connection: Some(connection) }))
    }

    fn write(&self, durability: Durability) -> Result<Box<dyn WriteTx + '_>> {
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StoreError::Full);
        }
        Ok(Box::new(self.begin(self.writer.lock(), durability, Duration::from_secs(BUSY_SECONDS))?))
    }

    fn try_write(&self, durability: Durability) -> Result<Option<Box<dyn WriteTx + '_>>> {
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StoreError::Full);
        }
        let Some(writer) = self.writer.try_lock() else { return Ok(None) };
        match self.begin(writer, durability, Duration::ZERO) {
            Ok(writer) => Ok(Some(Box::new(writer))),
            Err(StoreError::Busy { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sync(&self) -> Result<()> {
        let mut log = None;
        sync_log(&mut log, &wal_path(&self.path))
            .map_err(|e| StoreError::Engine(format!("it cannot be synced: {e}")))
    }

    fn purge(&self) -> Result<bool> {
        // A connection of its own: while it waits for readers, it must not keep the writer's.
        let connection = connect(&self.path)?;
        connection.busy_timeout(PURGE_PATIENCE)?;
        // Deleted values are overwritten in the pages that the log moves into the file; then the log is cut.
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(busy == 0)
    }
}

struct Reader<'a> {
    store: &'a SqliteStore,
    connection: Option<Connection>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && run(&connection, "ROLLBACK").is_ok()
        {
            self.store.readers.lock().push(connection);
        }
    }
}

struct Writer<'a> {
    store: &'a SqliteStore,
    writer: MutexGuard<'a, WriterConnection>,
    open: bool,
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if self.open {
            // Fails only where SQLite has rolled back already.
            let _ = run(&self.writer.connection, "ROLLBACK");
        }
    }
}

/// A view's connection, while the view lasts.
trait View {
    fn connection(&self) -> Result<&Connection>;
}

impl View for Reader<'_> {
    fn connection(&self) -> Result<&Connection> {
        self.connection.as_ref().ok_or_else(|| StoreError::Engine("the view has ended".to_owned()))
    }
}

impl View for Writer<'_> {
    fn connection(&self) -> Result<&Connection> {
        Ok(&self.writer.connection)
    }
}

/// Where a collection's items are. A sequence has a table of its own with the number as its row's id: a row
/// with a long value then takes a part of a page and not a page of its own.
enum Place<'a> {
    Items(&'a str),
    Sequence(&'a str),
}

impl<'a> Place<'a> {
    fn of(collection: &'a str) -> Self {
        collection.strip_suffix('#').map_or(Self::Items(collection), Self::Sequence)
    }

    /// The table, the column of its keys, and what its rows are chosen by.
    fn sql(&self) -> (String, &'static str, &'static str) {
        match self {
            Self::Items(_) => ("items".to_owned(), "key", "collection = ?"),
            Self::Sequence(name) => (format!("\"sequence {name}\""), "id", "? IS NULL"),
        }
    }

    /// What the choice is bound to.
    fn chosen(&self) -> Value {
        match self {
            Self::Items(collection) => Value::Text((*collection).to_owned()),
            Self::Sequence(_) => Value::Null,
        }
    }

    fn key(&self, key: &[u8]) -> Result<Value> {
        match self {
            Self::Items(_) => Ok(Value::Blob(key.to_vec())),
            Self::Sequence(name) => {
                let number = <[u8; 8]>::try_from(key).ok().map(u64::from_be_bytes);
                let number = number.and_then(|n| i64::try_from(n).ok());
                let bad = || StoreError::Engine(format!("{} is no number of {name}", hex::encode(key)));
                number.map(Value::Integer).ok_or_else(bad)
            }
        }
    }

    fn key_back(&self, value: ValueRef<'_>) -> rusqlite::Result<Vec<u8>> {
        match self {
            Self::Items(_) => Ok(value.as_blob()?.to_vec()),
            Self::Sequence(_) => Ok(value.as_i64()?.to_be_bytes().to_vec()),
        }
    }
}

/// A sequence that nothing was put into has no table yet. A statement that is kept finds that out only when it runs: the table may
/// have been made in a transaction that was rolled back.
fn unless_absent<T>(place: &Place<'_>, error: rusqlite::Error, empty: T) -> Result<T> {
    match place {
        Place::Sequence(_) if error.to_string().contains("no such table") => Ok(empty),
        _ => Err(error.into()),
    }
}

impl<V: View> ReadTx for V {
    fn get(&self, collection: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let place = Place::of(collection);
        let values = [place.chosen(), place.key(key)?];
        let (table, column, choice) = place.sql();
        let sql = format!("SELECT value FROM {table} WHERE {choice} AND {column} = ?");
        let statement = self.connection()?.prepare_cached(&sql);
        let found = statement.and_then(|mut it| it.query_row(values, |row| row.get(0)).optional());
        found.or_else(|error| unless_absent(&place, error, None))
    }

    fn range(
        &self,
        collection: &str,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        backwards: bool,
        limit: usize,
    ) -> Result<Vec<Item>> {
        let place = Place::of(collection);
        let (table, column, choice) = place.sql();
        let mut sql = format!("SELECT {column}, value FROM {table} WHERE {choice}");
        let mut values = vec![place.chosen()];
        for (bound, inclusive, exclusive) in [(from, ">=", ">"), (to, "<=", "<")] {
            let (comparison, key) = match bound {
                Bound::Included(key) => (inclusive, key),
                Bound::Excluded(key) => (exclusive, key),
                Bound::Unbounded => continue,
            };
            sql.push_str(&format!(" AND {column} {comparison} ?"));
            values.push(place.key(key)?);
        }
        let order = if backwards { " DESC" } else { "" };
        sql.push_str(&format!(" ORDER BY {column}{order} LIMIT ?"));
        values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let item = |row: &Row<'_>| Ok((place.key_back(row.get_ref(0)?)?, row.get(1)?));
        let statement = self.connection()?.prepare_cached(&sql);
        let found = statement.and_then(|mut it| it.query_map(params_from_iter(values), item)?.collect());
        found.or_else(|error| unless_absent(&place, error, Vec::new()))
    }
}

impl WriteTx for Writer<'_> {
    fn put(&mut self, collection: &str, key: &[u8], value: &[u8]) -> Result<()> {
        let place = Place::of(collection);
        let connection = &self.writer.connection;
        let key = place.key(key)?;
        match place {
            Place::Items(collection) => {
                let sql = "INSERT INTO items VALUES (?1, ?2, ?3)
                    ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value";
                connection.prepare_cached(sql)?.execute(params![collection, key, value])?;
            }
            Place::Sequence(_) => {
                let (table, ..) = place.sql();
                let sql = format!(
                    "INSERT INTO {table} VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET value = excluded.value"
                );
                let insert =
                    || connection.prepare_cached(&sql).and_then(|mut it| it.execute(params![key, value]));
                if let Err(error) = insert() {
                    unless_absent(&place, error, ())?;
                    let table = format!("CREATE TABLE {table} (id INTEGER PRIMARY KEY, value BLOB NOT NULL)");
                    connection.execute_batch(&table)?;
                    insert()?;
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, collection: &str, key: &[u8]) -> Result<bool> {
        let place = Place::of(collection);
        let values = [place.chosen(), place.key(key)?];
        let (table, column, choice) = place.sql();
        let sql = format!("DELETE FROM {table} WHERE {choice} AND {column} = ?");
        let deleted = self.writer.connection.prepare_cached(&sql).and_then(|mut it| it.execute(values));
        deleted.map(|rows| rows > 0).or_else(|error| unless_absent(&place, error, false))
    }

    fn commit(mut self: Box<Self>) -> Result<()> {
        run(&self.writer.connection, "COMMIT")?;
        self.open = false;
        if self.writer.durability == Durability::Soon {
            let mut state = self.store.syncer.state.lock();
            if !state.dirty {
                state.dirty = true;
                self.store.syncer.wake.notify_all();
            }
        }
        Ok(())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { seconds: BUSY_SECONDS },
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Engine(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use std::thread;

    use super::*;
    use crate::store::prefix_end;

    fn open(dir: &tempfile::TempDir) -> SqliteStore {
        SqliteStore::open(&dir.path().join("s.db")).unwrap()
    }

    fn everything(store: &SqliteStore, collection: &str) -> Vec<Item> {
        store.read().unwrap().range(collection, Bound::Unbounded, Bound::Unbounded, false, 1000).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Two stores on one file take turns; some transactions are dropped.
        #[test]
        fn agrees_with_a_map(
            turns in vec((any::<bool>(), any::<bool>(), vec((vec(0..3u8, 0..3), proptest::option::of(any::<u8>())), 0..6)), 1..12),
            prefix in vec(0..3u8, 0..2),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let stores = [open(&dir), open(&dir)];
            let mut model = BTreeMap::new();
            for (which, commit, changes) in turns {
                let mut changed = model.clone();
                let mut tx = stores[usize::from(which)].write(Durability::Soon).unwrap();
                for (key, value) in changes {
                    match value {
                        Some(value) => {
                            tx.put("c", &key, &[value]).unwrap();
                            tx.put("other", &key, b"x").unwrap();
                            changed.insert(key, vec![value]);
                        }
                        None => prop_assert_eq!(tx.delete("c", &key).unwrap(), changed.remove(&key).is_some()),
                    }
                }
                if commit {
                    tx.commit().unwrap();
                    model = changed;
                }
                for store in &stores {
                    prop_assert_eq!(everything(store, "c"), model.clone().into_iter().collect::<Vec<_>>());
                }
            }
            let end = prefix_end(&prefix);
            let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let found = stores[0].read().unwrap().range("c", Bound::Included(&prefix), to, true, 2).unwrap();
            let due: Vec<_> = model.into_iter().filter(|i| i.0.starts_with(&prefix)).rev().take(2).collect();
            prop_assert_eq!(found, due);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn a_sequence_is_a_collection(
            changes in vec((0..9u64, proptest::option::of(vec(any::<u8>(), 0..5000))), 0..20),
            from in 0..9u64,
            backwards in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = open(&dir);
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            prop_assert_eq!(everything(&store, "s#"), Vec::new());
            prop_assert_eq!(store.read().unwrap().get("s#", &[0; 8]).unwrap(), None);
            let mut tx = store.write(Durability::Soon).unwrap();
            for (number, value) in changes {
                let key = number.to_be_bytes().to_vec();
                match value {
                    Some(value) => {
                        tx.put("s#", &key, &value).unwrap();
                        model.insert(key, value);
                    }
                    None => prop_assert_eq!(tx.delete("s#", &key).unwrap(), model.remove(&key).is_some()),
                }
            }
            tx.commit().unwrap();
            prop_assert_eq!(everything(&store, "s#"), model.clone().into_iter().collect::<Vec<_>>());
            let start = from.to_be_bytes();
            let tx = store.read().unwrap();
            prop_assert_eq!(tx.get("s#", &start).unwrap(), model.get(&start[..]).cloned());
            let found = tx.range("s#", Bound::Included(&start), Bound::Unbounded, backwards, 3).unwrap();
            let mut due: Vec<Item> = model.range(start.to_vec()..).map(|(k, v)| (k.clone(), v.clone())).collect();
            if backwards {
                due.reverse();
            }
            due.truncate(3);
            prop_assert_eq!(found, due);
            prop_assert!(tx.get("s#", b"short").is_err());
        }
    }

    /// As where the disk is full at the first event.
    #[test]
    fn a_sequence_whose_first_item_was_rolled_back_is_empty_and_takes_items() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        for _ in 0..2 {
            let mut tx = store.write(Durability::Soon).unwrap();
            tx.put("s#", &[0; 8], b"v").unwrap();
            assert_eq!(tx.get("s#", &[0; 8]).unwrap(), Some(b"v".to_vec()));
            assert_eq!(tx.range("s#", Bound::Unbounded, Bound::Unbounded, false, 9).unwrap().len(), 1);
            drop(tx);
            let mut tx = store.write(Durability::Soon).unwrap();
            assert_eq!(tx.get("s#", &[0; 8]).unwrap(), None);
            assert_eq!(tx.range("s#", Bound::Unbounded, Bound::Unbounded, false, 9).unwrap(), []);
            assert!(!tx.delete("s#", &[0; 8]).unwrap());
        }
        let mut tx = store.write(Durability::Soon).unwrap();
        tx.put("s#", &[0; 8], b"v").unwrap();
        tx.commit().unwrap();
        assert_eq!(everything(&store, "s#").len(), 1);
    }

    #[test]
    fn a_store_that_closes_keeps_everything_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (i, durability) in [Durability::Soon, Durability::Synced].into_iter().enumerate() {
            let store = open(&dir);
            let mut tx = store.write(durability).unwrap();
            tx.put("c", &[i as u8], b"v").unwrap();
            tx.commit().unwrap();
        }
        assert_eq!(everything(&open(&dir), "c").len(), 2);
        let mode = fs::metadata(dir.path().join("s.db")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn who_does_not_wait_is_told_that_another_writes() {
        let dir = tempfile::tempdir().unwrap();
        let stores = [open(&dir), open(&dir)];
        for busy in &stores {
            let tx = busy.write(Durability::Soon).unwrap();
            let free: Vec<bool> = stores
                .iter()
                .map(|store| {
                    // A thread holds one transaction of a store at most.
                    thread::scope(|scope| {
                        scope.spawn(|| store.try_write(Durability::Soon).unwrap().is_some()).join().unwrap()
                    })
                })
                .collect();
            assert_eq!(free, [false, false]);
            drop(tx);
        }
        for (n, durability) in [(0, Durability::Soon), (1, Durability::Synced)] {
            let mut tx = stores[n].try_write(durability).unwrap().unwrap();
            tx.put("c", &[n as u8], b"v").unwrap();
            tx.commit().unwrap();
        }
        assert_eq!(everything(&stores[0], "c").len(), 2);
    }

    #[test]
    fn the_log_begins_anew_though_writing_goes_on() {
        const PAGES: u8 = 200;
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        // What is written over with itself is not written.
        let put = |n: u8, with: u8| {
            let mut tx = store.write(Durability::Soon).unwrap();
            tx.put("c", &[n], &[with; 3000]).unwrap();
            tx.commit().unwrap();
        };
        for n in 0..PAGES {
            put(n, 0);
        }
        let path = dir.path().join("s.db");
        let pages = || {
            let sql = "PRAGMA wal_checkpoint(NOOP)";
            connect(&path).unwrap().query_row(sql, [], |row| row.get::<_, i64>(1)).unwrap()
        };
        let before = pages();
        let (begin, begun) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                for n in 0..PAGES / 4 {
                    put(n, 1);
                    begin.send(()).unwrap();
                }
            });
            begun.recv().unwrap();
            checkpoint(&path, &store.writer).unwrap();
        });
        put(0, 2);
        let after = pages();
        assert!(after < before, "{before} pages, then {after}");
        assert_eq!(everything(&store, "c").len(), usize::from(PAGES));
    }

    #[test]
    fn a_deleted_value_is_not_in_the_file_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let secret = b"the material of a key that is gone";
        let store = open(&dir);
        let mut tx = store.write(Durability::Synced).unwrap();
        tx.put("c", b"k", secret).unwrap();
        tx.commit().unwrap();
        let mut tx = store.write(Durability::Synced).unwrap();
        assert!(tx.delete("c", b"k").unwrap());
        tx.commit().unwrap();
        // The last connection's close moves the log into the file and removes it.
        drop(store);
        assert!(!wal_path(&dir.path().join("s.db")).exists());
        let bytes = fs::read(dir.path().join("s.db")).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret));
    }

    /// Pages that were split, merged and rebuilt must not keep copies of cells that moved.
    #[test]
    fn deleted_values_leave_no_copies_in_pages_that_were_rebuilt() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        // Each part is in one value only.
        let part = |n: u32, nth: u32| (u64::from(n * 16 + nth) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let value = |n: u32| (0..16).flat_map(|nth| part(n, nth).to_be_bytes()).collect::<Vec<u8>>();
        for round in 0..30 {
            let mut tx = store.write(Durability::Soon).unwrap();
            for n in round * 20..(round + 1) * 20 {
                let key = part(n + 100_000, 0).to_be_bytes();
                tx.put("material", &key, &value(n)).unwrap();
                tx.put("keys", &key, &vec![n as u8; 300 + n as usize % 400]).unwrap();
                tx.put("s#", &u64::from(n).to_be_bytes(), &vec![7; 300]).unwrap();
            }
            tx.commit().unwrap();
        }
        let gone = |n: u32| n.is_multiple_of(3);
        for n in (0..600).filter(|n| gone(*n)) {
            let mut tx = store.write(Durability::Soon).unwrap();
            assert!(tx.delete("material", &part(n + 100_000, 0).to_be_bytes()).unwrap());
            tx.commit().unwrap();
        }
        assert!(store.purge().unwrap());
        assert_eq!(fs::metadata(wal_path(&dir.path().join("s.db"))).unwrap().len(), 0);
        let whose: std::collections::HashMap<[u8; 8], u32> =
            (0..600).flat_map(|n| (0..16).map(move |nth| (part(n, nth).to_be_bytes(), n))).collect();
        let bytes = fs::read(dir.path().join("s.db")).unwrap();
        let found: std::collections::BTreeSet<u32> =
            bytes.windows(8).filter_map(|w| whose.get(w).copied()).collect();
        let kept: std::collections::BTreeSet<u32> = (0..600).filter(|n| !gone(*n)).collect();
        assert_eq!(found, kept);
    }

    #[test]
    fn what_is_no_store_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("s.db"), vec![7; 5000]).unwrap();
        let error = SqliteStore::open(&dir.path().join("s.db")).err().unwrap().to_string();
        assert!(error.contains("s.db") && error.contains("not a database"), "{error}");
    }
}
