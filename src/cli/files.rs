//! Where input comes from and where results go: files, and standard input and output.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::{CliError, Result};

/// A file that appears under its name only when all of it is there: written beside its name, and taken away again
/// unless it is kept.
struct OutFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    force: bool,
}

impl OutFile {
    /// Made with mode 0600. What is there already is refused, unless by `force`.
    fn create(path: &Path, force: bool) -> Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(there) if !there.is_file() => {
                return Err(CliError::Usage(format!(
                    "{} is there and is not a regular file; give another name, or none for standard output",
                    path.display()
                )));
            }
            Ok(_) if !force => return Err(taken(path)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(CliError::io("cannot write", path, e)),
        }
        let unique = crate::crypto::random::<8>().map_err(|e| CliError::Failed(e.to_string()))?;
        let temporary = directory(path).join(format!(".kmsfs-{}", hex::encode(unique)));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let file = file.map_err(|e| CliError::io("cannot write", path, e))?;
        Ok(Self { file, temporary, path: path.to_owned(), force })
    }

    /// Gives it its name. It is on disk then.
    fn keep(self) -> Result<()> {
        let failed = |e: io::Error| CliError::io("cannot write", &self.path, e);
        self.file.sync_all().map_err(failed)?;
        if self.force {
            fs::rename(&self.temporary, &self.path).map_err(failed)?;
        } else {
            match renameat_with(CWD, &self.temporary, CWD, &self.path, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(taken(&self.path)),
                // A filesystem without that rename has links, which replace nothing either; the temporary name goes
                // when this is dropped.
                Err(Errno::INVAL | Errno::NOSYS) => match fs::hard_link(&self.temporary, &self.path) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken(&self.path)),
                    Err(e) => return Err(failed(e)),
                },
                Err(e) => return Err(failed(e.into())),
            }
        }
        File::open(directory(&self.path)).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

impl Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        // Gone already if it was kept. Otherwise an unfinished file under a name that nobody asked for.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn taken(path: &Path) -> CliError {
    CliError::Usage(format!("{} is there already; --force replaces it", path.display()))
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Where results go: standard output, or a file that appears when it is whole.
pub struct Target<'a> {
    /// None and `-`: standard output.
    pub out: Option<&'a Path>,
    /// Replace what is there.
    pub force: bool,
}

impl Target<'_> {
    /// Runs `write` on it.
    pub fn write<T>(&self, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
        match self.out.filter(|path| *path != Path::new("-")) {
            None => {
                // Not std's standard output: its buffer would keep a copy of what is secret.
                let out = rustix::stdio::stdout().try_clone_to_owned();
                let mut out = File::from(out.map_err(|e| self.failed(e))?);
                write(&mut out)
            }
            Some(path) => {
                let mut file = OutFile::create(path, self.force)?;
                let done = write(&mut file)?;
                file.keep()?;
                Ok(done)
            }
        }
    }

    /// An error of writing.
    pub fn failed(&self, source: io::Error) -> CliError {
        match source.kind() {
            io::ErrorKind::BrokenPipe => CliError::NoReader,
            _ => CliError::io("cannot write", self.out.unwrap_or(Path::new("standard output")), source),
        }
    }

    /// Writes what is there already.
    pub fn print(&self, bytes: &[u8]) -> Result<()> {
        self.write(|out| out.write_all(bytes).map_err(|e| self.failed(e)))
    }
}

/// Opens the input: a file, or standard input.
pub fn input(path: Option<&Path>) -> Result<(File, PathBuf)> {
    let path = path.filter(|path| *path != Path::new("-"));
    let shown = path.unwrap_or(Path::new("standard input")).to_owned();
    let source = match path {
        Some(path) => File::open(path),
        // Not std's standard input: its buffer would keep a copy.
        None => rustix::stdio::stdin().try_clone_to_owned().map(File::from),
    };
    source.map(|file| (file, shown.clone())).map_err(|e| CliError::io("cannot read", &shown, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, force: bool, text: &[u8]) -> Result<()> {
        let mut file = OutFile::create(path, force)?;
        file.write_all(text).unwrap();
        file.keep()
    }

    #[test]
    fn a_file_appears_whole_and_replaces_nothing_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let begun = OutFile::create(&path, false).unwrap();
        assert!(!path.exists());
        write(&path, false, b"one").unwrap();
        // Somebody was faster.
        assert!(begun.keep().unwrap_err().to_string().contains("--force"));
        assert!(write(&path, false, b"two").unwrap_err().to_string().contains("--force"));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, true, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        drop(OutFile::create(&path, true).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left");
    }

    #[test]
    fn what_is_no_regular_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [Path::new("/dev/null"), dir.path(), &link] {
            assert!(OutFile::create(path, true).is_err(), "{}", path.display());
        }
        assert!(OutFile::create(&dir.path().join("no/such"), false).is_err());
    }
}
