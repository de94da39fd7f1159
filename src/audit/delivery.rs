//! The directory that a log is exported to: files that appear whole and stay, and finding what is there.
//!
//! A file is written under a hidden name, synced, renamed, and its folder synced. So what has a name is whole;
//! what a killed export left is hidden, or named by no digest, and the next one takes it away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{FlockOperation, flock};

use super::export::ExportError;

/// Of a file that is being written.
const HIDDEN: &str = ".kmsfs-export";
/// Digests and what stands beside them are never longer.
const LONGEST: u64 = 64 << 20;

/// An export's directory, locked against another export.
pub struct Target {
    root: PathBuf,
    _lock: File,
    /// Steps that are left before a test's kill.
    #[cfg(test)]
    pub steps: Option<std::cell::Cell<u32>>,
}

impl Target {
    /// Makes the directory if it is not there, and locks it.
    pub fn open(root: &Path) -> Result<Self, ExportError> {
        let failed = |e| file(root, e);
        fs::create_dir_all(root).map_err(failed)?;
        let lock = File::open(root).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(ExportError::Busy { path: root.display().to_string() });
            }
            Err(e) => return Err(failed(e.into())),
        }
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
            #[cfg(test)]
            steps: None,
        })
    }

    /// Where an object is.
    pub fn path(&self, object: &str) -> PathBuf {
        self.root.join(object)
    }

    #[cfg(test)]
    fn step(&self, path: &Path) -> Result<(), ExportError> {
        match &self.steps {
            Some(left) if left.get() == 0 => Err(file(path, io::Error::from(io::ErrorKind::Interrupted))),
            Some(left) => {
                left.set(left.get() - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "tests stop an export here")]
    fn step(&self, _: &Path) -> Result<(), ExportError> {
        Ok(())
    }

    /// Makes the folders of a path below the directory, synced.
    fn folder(&self, below: &str) -> Result<PathBuf, ExportError> {
        let mut path = self.root.clone();
        for part in below.split('/') {
            let parent = path.clone();
            path.push(part);
            self.step(&path)?;
            match fs::create_dir(&path) {
                Ok(()) => sync_folder(&parent)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(file(&path, e)),
            }
        }
        Ok(path)
    }

    /// Begins a file in this folder.
    pub fn create(&self, folder: &str) -> Result<Pending<'_>, ExportError> {
        let folder = self.folder(folder)?;
        let path = folder.join(HIDDEN);
        self.step(&path)?;
        // Another's of that name was taken away, and nobody else exports here.
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let opened = opened.map_err(|e| file(&path, e))?;
        Ok(Pending { target: self, folder, path, file: opened })
    }

    /// Writes a whole file, on disk when this returns.
    pub fn put(&self, folder: &str, name: &str, content: &[u8]) -> Result<(), ExportError> {
        let mut pending = self.create(folder)?;
        pending.file.write_all(content).map_err(|e| file(&pending.path, e))?;
        pending.publish(name)
    }

    /// A whole file; none if it is not there.
    pub fn read(&self, object: &str) -> Result<Option<Vec<u8>>, ExportError> {
        let path = self.path(object);
        match File::open(&path) {
            Ok(opened) => read_up_to(opened).map(Some).map_err(|e| file(&path, e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file(&path, e)),
        }
    }

    /// The content of a gzip file; none if the file is no gzip.
    pub fn unpack(bytes: &[u8]) -> Option<Vec<u8>> {
        read_up_to(MultiGzDecoder::new(bytes)).ok()
    }

    /// The last name, in the order of names, that `fits` in the folders YYYY/MM/DD under `base`, as a path below
    /// the directory.
    pub fn last(&self, base: &str, fits: &dyn Fn(&str) -> bool) -> Result<Option<String>, ExportError> {
        for day in self.days(base)?.into_iter().rev() {
            let names = self.names(&day)?;
            if let Some(name) = names.into_iter().filter(|name| fits(name)).max() {
                return Ok(Some(format!("{day}/{name}")));
            }
        }
        Ok(None)
    }

    /// Takes away what an export that was killed has left in the days from `day` on: hidden files, and those of
    /// which `stays` is not true.
    pub fn sweep(&self, base: &str, day: &str, stays: &dyn Fn(&str) -> bool) -> Result<(), ExportError> {
        let from = format!("{base}/{day}");
        for folder in self.days(base)?.into_iter().filter(|folder| *folder >= from) {
            let mut gone = false;
            for name in self.names(&folder)? {
                if name == HIDDEN || !stays(&name) {
                    let path = self.path(&folder).join(name);
                    self.step(&path)?;
                    fs::remove_file(&path).map_err(|e| file(&path, e))?;
                    gone = true;
                }
            }
            if gone {
                sync_folder(&self.path(&folder))?;
            }
        }
        Ok(())
    }

    /// The folders of days under `base`, oldest first.
    fn days(&self, base: &str) -> Result<Vec<String>, ExportError> {
        let mut folders = vec![base.to_owned()];
        for digits in [4, 2, 2] {
            let mut below = Vec::new();
            for folder in folders {
                let names = self.names(&folder)?;
                let days =
                    names.iter().filter(|n| n.len() == digits && n.bytes().all(|b| b.is_ascii_digit()));
                below.extend(days.map(|name| format!("{folder}/{name}")));
            }
            folders = below;
        }
        folders.sort();
        Ok(folders)
    }

    /// What is in a folder; nothing if the folder is not there.
    fn names(&self, folder: &str) -> Result<Vec<String>, ExportError> {
        let path = self.path(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(file(&path, e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is no text is none of ours.
            names.extend(entry.map_err(|e| file(&path, e))?.file_name().into_string().ok());
        }
        Ok(names)
    }
}

/// A file that has no name yet.
pub struct Pending<'a> {
    target: &'a Target,
    folder: PathBuf,
    path: PathBuf,
    file: File,
}

impl Pending<'_> {
    /// Gives the file its name; on disk when this returns.
    pub fn publish(self, name: &str) -> Result<(), ExportError> {
        let to = self.folder.join(name);
        self.target.step(&to)?;
        self.file.sync_all().map_err(|e| file(&self.path, e))?;
        fs::rename(&self.path, &to).map_err(|e| file(&to, e))?;
        self.target.step(&to)?;
        sync_folder(&self.folder)
    }

    /// Where it is meanwhile.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for Pending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn read_up_to(from: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(LONGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(content)
}

fn sync_folder(path: &Path) -> Result<(), ExportError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|e| file(path, e))
}

/// An error of the system, on a path.
pub fn file(path: &Path, source: io::Error) -> ExportError {
    ExportError::File { path: path.display().to_string(), source }
}
