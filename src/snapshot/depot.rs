//! Where snapshots are kept: a few objects, each written once and visible only whole. A directory here; a
//! bucket in s3.rs.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as posix, AtFlags, FileType, FlockOperation, Mode, OFlags, flock};
use rustix::io::{Errno, retry_on_intr};

use super::error::{On, Result, SnapshotError};
use crate::crypto::random;
use crate::volume::disk::BackingFile;
use crate::volume::host::{HostFile, begin_writeback};
use crate::volume::transcode;

/// Directory of snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// Directory of packs.
pub const PACKS: &str = "packs";

/// Path of a snapshot's descriptor.
pub fn descriptor_path(name: &str) -> String {
    format!("{SNAPSHOTS}/{name}/snapshot.json")
}

/// Path of a snapshot's manifest.
pub fn manifest_path(name: &str) -> String {
    format!("{SNAPSHOTS}/{name}/manifest")
}

/// Path of a pack.
pub fn pack_path(id: &[u8; 16]) -> String {
    format!("{PACKS}/{}", hex::encode(id))
}

/// A place for snapshots. Paths are relative, with `/` between components that this layer made or checked. An object that
/// stands is never changed; it is replaced or deleted whole.
pub trait Depot: Send + Sync {
    /// For people: a path or a URL.
    fn location(&self) -> String;
    /// Bytes of an object; [`SnapshotError::is_not_found`] if there is none.
    fn len(&self, path: &str) -> Result<u64>;
    /// Reads until `buf` is full or the object ends; the number of bytes read.
    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize>;
    /// Begins an object. It is visible, and durable, once [`Sink::finish`] has returned; dropped before, it never was.
    fn create(&self, path: &str) -> Result<Box<dyn Sink>>;
    /// The same for an object that is not written from its beginning to its end: through the file, and then it is finished.
    /// None where objects are written only so; what is to be one is written elsewhere first.
    fn create_file(&self, path: &str) -> Result<Option<Direct>> {
        let _ = path;
        Ok(None)
    }
    /// The last components of what stands directly below `prefix`, sorted; empty if there is nothing.
    fn list(&self, prefix: &str) -> Result<Vec<String>>;
    /// Deletes an object, durably; none is no error. A directory that it leaves empty goes too.
    fn delete(&self, path: &str) -> Result<()>;
    /// Takes away what cut writes left. To be called under [`Self::lock`].
    fn sweep(&self) -> Result<()>;
    /// Excludes other writers until the answer is dropped, or the process dies; [`SnapshotError::Busy`] if there is one.
    /// A store that has no locks answers at once: there, one writer at a time is the caller's matter.
    fn lock(&self) -> Result<Box<dyn Send + Sync>>;

    /// Pages that are best read at once by who reads many.
    fn window(&self) -> u64 {
        transcode::LARGEST_WINDOW
    }

    /// A whole small object.
    fn get(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; max + 1];
        let read = self.read_at(path, 0, &mut bytes)?;
        bytes.truncate(read);
        at_most(self, path, bytes, max)
    }

    /// Writes a whole small object, replacing what stands there.
    fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut sink = self.create(path)?;
        sink.write_all(bytes).on("writing", path)?;
        sink.finish()
    }
}

/// An object that was read up to the first byte that is too many.
fn at_most(depot: &(impl Depot + ?Sized), path: &str, bytes: Vec<u8>, max: usize) -> Result<Vec<u8>> {
    if bytes.len() > max {
        return Err(SnapshotError::damaged(format!("{path} in {} is too long", depot.location())));
    }
    Ok(bytes)
}

/// An object that is written as a file, and what makes it visible.
pub type Direct = (Arc<dyn BackingFile>, Box<dyn Sink>);

/// An object that is being written.
pub trait Sink: Write + Send {
    /// Appends `len` bytes of `file` without moving them, where the depot and the backing share storage that can
    /// (reflinks). False: nothing was done, write them.
    fn share(&mut self, file: &dyn BackingFile, offset: u64, len: u64) -> io::Result<bool> {
        let _ = (file, offset, len);
        Ok(false)
    }

    /// Makes the object visible and durable.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Prefix of objects that are not whole yet.
const TEMPORARY: &str = "tmp.";
const LOCK: &str = "lock";
/// Bytes of an object after which the disk begins with them: the sync at its end then waits for the last alone.
const WRITEBACK: u64 = 8 << 20;

/// A depot in a directory of this machine. What is below that directory is opened step by step and no symbolic link is
/// followed: who can write to a depot must not have others write, delete or wait elsewhere.
pub struct DirDepot {
    root: PathBuf,
    dir: OwnedFd,
}

impl DirDepot {
    /// A depot that stands, or an empty directory that shall be one.
    pub fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = posix::open(root, flags, Mode::empty()).map_err(io::Error::from);
        Ok(Self { root: root.to_owned(), dir: dir.on("opening the depot", &root.display().to_string())? })
    }

    /// The same; the directory is made if it is absent (its parent is not).
    pub fn create(root: &Path) -> Result<Self> {
        make_dir(root).on("making the depot", &root.display().to_string())?;
        Self::open(root)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn shown(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    /// A directory below the root, by its path.
    fn dir(&self, path: &str) -> io::Result<OwnedFd> {
        let mut dir = self.dir.try_clone()?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            dir = open_at(&dir, name, OFlags::PATH | OFlags::DIRECTORY)?;
        }
        Ok(dir)
    }

    /// The same; what is absent is made, durably.
    fn make(&self, path: &str) -> io::Result<OwnedFd> {
        let mut dir = self.dir.try_clone()?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match posix::mkdirat(&dir, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => sync(&dir)?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            dir = open_at(&dir, name, OFlags::PATH | OFlags::DIRECTORY)?;
        }
        Ok(dir)
    }

    fn begin(&self, path: &str) -> Result<DirSink> {
        let shown = self.shown(path);
        let what = "creating";
        let (above, name) = split(path);
        let dir = self.make(above).on(what, &shown)?;
        let temporary = format!("{TEMPORARY}{}", hex::encode(random::<16>()?));
        let file = open_at(&dir, &temporary, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL);
        Ok(DirSink {
            file: file.on(what, &shown)?.into(),
            written: 0,
            begun: 0,
            copies: false,
            temporary: Some(temporary),
            name: name.to_owned(),
            dir,
            shown,
        })
    }

    /// Takes away what has the name of something temporary in a directory, if that is there. Directories are none of ours.
    fn sweep_dir(&self, path: &str, is_ours: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        let swept = self.dir(path).and_then(|dir| {
            for name in names(&dir)?.iter().filter(|name| is_ours(name.as_bytes())) {
                match posix::unlinkat(&dir, &**name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        });
        match swept {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
            swept => swept.on_named("sweeping", || self.shown(path)),
        }
    }

    fn file(&self, path: &str) -> Result<File> {
        let (dir, name) = split(path);
        // NONBLOCK: a FIFO that somebody put there must not make anybody wait.
        let opened = self.dir(dir).and_then(|dir| open_at(&dir, name, OFlags::RDONLY | OFlags::NONBLOCK));
        let file = opened.map(File::from).and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(no_file()),
        });
        file.on_named("opening", || self.shown(path))
    }
}

/// The directory of an object, and its name there.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn open_at(dir: &OwnedFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(retry_on_intr(|| posix::openat(dir, name, flags, Mode::from_raw_mode(0o600)))?)
}

fn no_file() -> io::Error {
    io::Error::other("it is no regular file")
}

/// The same directory, open for reading.
fn readable(dir: &OwnedFd) -> io::Result<OwnedFd> {
    open_at(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY)
}

fn sync(dir: &OwnedFd) -> io::Result<()> {
    let dir = readable(dir)?;
    Ok(retry_on_intr(|| posix::fsync(&dir))?)
}

/// Names of what stands in a directory.
fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in posix::Dir::new(readable(dir)?)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// mkdir, durable; standing is no error.
fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What a killed command leaves in the root of a depot: the name of a temporary file of the volume's layer
/// ([`crate::volume::names::temporary_name`]). A depot can stand among other things, so no other name will do.
fn is_scratch(name: &[u8]) -> bool {
    let id = name.strip_prefix(TEMPORARY.as_bytes()).unwrap_or_default();
    id.len() == 22 && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl Depot for DirDepot {
    fn window(&self) -> u64 {
        transcode::WINDOW
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn len(&self, path: &str) -> Result<u64> {
        let (dir, name) = split(path);
        let looked = self.dir(dir).and_then(|dir| {
            let stat = posix::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Ok(stat.st_size as u64),
                _ => Err(no_file()),
            }
        });
        looked.on_named("looking for", || self.shown(path))
    }

    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        read_full(&self.file(path)?, offset, buf).on_named("reading", || self.shown(path))
    }

    /// Not into room for the most that there may be: a snapshot reads the descriptors of all others.
    fn get(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.file(path)?.take(max as u64 + 1).read_to_end(&mut bytes);
        read.on_named("reading", || self.shown(path))?;
        at_most(self, path, bytes, max)
    }

    fn create(&self, path: &str) -> Result<Box<dyn Sink>> {
        Ok(Box::new(self.begin(path)?))
    }

    fn create_file(&self, path: &str) -> Result<Option<Direct>> {
        let sink = self.begin(path)?;
        let file = sink.file.try_clone().on_named("creating", || self.shown(path))?;
        Ok(Some((Arc::new(HostFile::from(OwnedFd::from(file))), Box::new(sink))))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let found = match self.dir(prefix) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            dir => dir.and_then(|dir| names(&dir)).on_named("listing", || self.shown(prefix))?,
        };
        // What is not UTF-8 is none of ours.
        let found = found.into_iter().filter_map(|name| name.into_string().ok());
        let mut names: Vec<String> = found.filter(|name| !name.starts_with(TEMPORARY)).collect();
        names.sort();
        Ok(names)
    }

    fn delete(&self, path: &str) -> Result<()> {
        let (above, name) = split(path);
        let deleting = |done: io::Result<()>| done.on_named("deleting", || self.shown(path));
        let dir = match self.dir(above) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => dir.on_named("deleting", || self.shown(path))?,
        };
        match posix::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return deleting(Err(e.into())),
        }
        deleting(sync(&dir))?;
        let (further, last) = split(above);
        if !last.is_empty()
            && let Ok(parent) = self.dir(further)
        {
            // It may hold others, which is no error; what is left empty by a power cut is no snapshot.
            let _ = posix::unlinkat(&parent, last, AtFlags::REMOVEDIR);
        }
        Ok(())
    }

    fn sweep(&self) -> Result<()> {
        self.sweep_dir("", &is_scratch)?;
        let is_temporary = |name: &[u8]| name.starts_with(TEMPORARY.as_bytes());
        self.sweep_dir(PACKS, &is_temporary)?;
        for name in self.list(SNAPSHOTS)? {
            self.sweep_dir(&format!("{SNAPSHOTS}/{name}"), &is_temporary)?;
            // Unless something stands in it, or it is none.
            if let Ok(snapshots) = self.dir(SNAPSHOTS) {
                let _ = posix::unlinkat(&snapshots, &*name, AtFlags::REMOVEDIR);
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        let shown = self.shown(LOCK);
        let file = open_at(&self.dir, LOCK, OFlags::RDWR | OFlags::CREATE).on("locking", &shown)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Box::new(DirLock(file.into()))),
            Err(Errno::WOULDBLOCK) => Err(SnapshotError::Busy(self.location())),
            Err(e) => Err(io::Error::from(e)).on("locking", &shown),
        }
    }
}

/// A lock that is held.
struct DirLock(File);

impl Drop for DirLock {
    /// Closing alone would not do: a child between fork and exec holds the same open file, and so the lock.
    fn drop(&mut self) {
        // Best effort: the descriptor is closed next.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// pread until the buffer is full or the file ends.
fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// An object in a directory that is held open, whatever becomes of its path.
struct DirSink {
    file: File,
    written: u64,
    /// How far the kernel was told to begin.
    begun: u64,
    /// Ranges cannot be shared with the files they come from.
    copies: bool,
    /// None once it is renamed.
    temporary: Option<String>,
    name: String,
    dir: OwnedFd,
    /// Its path, for people.
    shown: String,
}

impl Write for DirSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // At its own offset: shared ranges do not move the descriptor's.
        let written = self.file.write_at(buf, self.written)?;
        self.written += written as u64;
        if self.written - self.begun >= WRITEBACK {
            begin_writeback(self.file.as_fd(), self.begun, self.written - self.begun)?;
            self.begun = self.written;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for DirSink {
    fn share(&mut self, file: &dyn BackingFile, offset: u64, len: u64) -> io::Result<bool> {
        if self.copies {
            return Ok(false);
        }
        match file.clone_range(offset, len, self.file.as_fd(), self.written) {
            Ok(()) => {
                self.written += len;
                Ok(true)
            }
            // Another filesystem, or one without reflinks, or without room for them: whoever asks copies.
            Err(_) => {
                self.copies = true;
                Ok(false)
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.file.sync_all().on("syncing", &self.shown)?;
        if let Some(temporary) = &self.temporary {
            let named = posix::renameat(&self.dir, &**temporary, &self.dir, &*self.name);
            named.map_err(io::Error::from).on("naming", &self.shown)?;
        }
        self.temporary = None;
        sync(&self.dir).on("syncing the directory of", &self.shown)
    }
}

impl Drop for DirSink {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Best effort: what stays is swept.
            let _ = posix::unlinkat(&self.dir, &**temporary, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_object_is_there_whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let depot = DirDepot::create(&temp.path().join("depot")).unwrap();
        assert_eq!(depot.list(PACKS).unwrap(), Vec::<String>::new());
        let pack = pack_path(&[7; 16]);
        let mut sink = depot.create(&pack).unwrap();
        sink.write_all(b"half").unwrap();
        assert!(depot.len(&pack).unwrap_err().is_not_found());
        assert_eq!(depot.list(PACKS).unwrap(), Vec::<String>::new());
        drop(sink);
        assert_eq!(fs::read_dir(temp.path().join("depot/packs")).unwrap().count(), 0);
        let mut sink = depot.create(&pack).unwrap();
        sink.write_all(b"all of it").unwrap();
        sink.finish().unwrap();
        assert_eq!(depot.len(&pack).unwrap(), 9);
        let mut buf = [0; 20];
        assert_eq!(depot.read_at(&pack, 4, &mut buf).unwrap(), 5);
        assert_eq!(&buf[..5], b"of it");
        assert_eq!(depot.list(PACKS).unwrap(), [hex::encode([7; 16])]);
        assert!(matches!(depot.get(&pack, 8), Err(SnapshotError::Damaged(_))));
        assert_eq!(depot.get(&pack, 9).unwrap(), b"all of it");
        depot.delete(&pack).unwrap();
        depot.delete(&pack).unwrap();
        assert!(depot.len(&pack).unwrap_err().is_not_found());
    }

    #[test]
    fn what_a_killed_writer_left_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let depot = DirDepot::open(temp.path()).unwrap();
        depot.put(&descriptor_path("one"), b"{}").unwrap();
        for path in [descriptor_path("two"), pack_path(&[1; 16])] {
            // As after kill -9: not dropped.
            std::mem::forget(depot.create(&path).unwrap());
        }
        depot.sweep().unwrap();
        assert_eq!(depot.list("snapshots/one").unwrap(), ["snapshot.json"]);
        assert!(!temp.path().join("snapshots/two").exists());
        assert_eq!(fs::read_dir(temp.path().join("packs")).unwrap().count(), 0);
        depot.delete(&descriptor_path("one")).unwrap();
        assert!(!temp.path().join("snapshots/one").exists());
    }

    #[test]
    fn one_writer_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let depot = DirDepot::open(temp.path()).unwrap();
        let held = depot.lock().unwrap();
        assert!(matches!(DirDepot::open(temp.path()).unwrap().lock(), Err(SnapshotError::Busy(_))));
        drop(held);
        depot.lock().unwrap();
    }
}
