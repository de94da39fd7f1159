//! Layer 7: the kernel. [`mount`] puts a [`Volume`] under a directory by FUSE: numbers become types, errors
//! become errno, nothing is decided. fuser's types stay inside.

mod adaptor;
pub mod control;
mod convert;
mod errno;
mod point;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fuser::{BackgroundSession, Config, Filesystem, INodeNo, Notifier, Session, SessionACL};
use parking_lot::Mutex;

use crate::volume::{NodeId, Volume};

/// How a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Shown as the source in /proc/mounts: the backing directory.
    pub source: String,
    /// Other users may use the mount, within the permissions of its files.
    pub allow_other: bool,
    /// The kernel refuses all writing. The volume itself must be opened read-only as well.
    pub read_only: bool,
    /// Bypass the page cache, which all who have a file open share: each read and write is asked of the
    /// volume, and answered by what its handle may do at that moment.
    pub isolate: bool,
    /// Threads that serve requests, at least one.
    pub threads: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { source: "kmsfs".into(), allow_other: false, read_only: false, isolate: false, threads: 2 }
    }
}

/// What can go wrong with a mount as a whole.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No /dev/fuse.
    #[error(
        "cannot open /dev/fuse: {0}; load the module with `modprobe fuse` (a container needs --device /dev/fuse)"
    )]
    NoDevice(#[source] io::Error),
    /// fusermount3 could not be run.
    #[error("cannot run fusermount3: {0}; only root can do without it: install the package fuse3")]
    NoHelper(#[source] io::Error),
    /// The mount point cannot be reached.
    #[error("cannot use {point} as a mount point: {source}")]
    Point {
        /// As given.
        point: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel or fusermount3 refused.
    #[error("cannot mount on {point}: {reason}")]
    Refused {
        /// The mount point.
        point: PathBuf,
        /// Their words.
        reason: String,
    },
    /// Mounted, but it does not serve.
    #[error("the mount on {point} does not answer and was taken away: {source}")]
    Silent {
        /// The mount point.
        point: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// In use.
    #[error(
        "{point} is in use: close the files that are open there and leave its directories (`fuser -vm {point}` lists \
         who), then unmount again"
    )]
    Busy {
        /// The mount point.
        point: PathBuf,
    },
    /// Unmounting was refused.
    #[error("cannot unmount {point}: {reason}")]
    Unmount {
        /// The mount point.
        point: PathBuf,
        /// Their words.
        reason: String,
    },
    /// A serving thread ended before the mount did.
    #[error("serving {point} ended early: {source}")]
    Ended {
        /// The mount point.
        point: PathBuf,
        /// What ended it.
        source: io::Error,
    },
}

/// What a mount can ask of the kernel. Cheap to clone; outlives the mount, and does nothing then.
#[derive(Clone)]
pub struct Kernel {
    point: PathBuf,
    /// Of the mounted filesystem.
    device: (u32, u32),
    notifier: Notifier,
}

impl Kernel {
    /// Makes the kernel drop a file's cached pages (it writes the dirty ones back first), so that the next
    /// access asks the volume. Waits for requests: never call it from code that serves one.
    ///
    /// # Errors
    /// The kernel's, if it could not write back; a file that it does not know is no error.
    pub fn drop_pages(&self, node: NodeId) -> io::Result<()> {
        self.notifier.inval_inode(INodeNo(node), 0, 0)
    }

    /// Makes the kernel forget a name in a directory, and with it what it knows below it. Waits for requests, as above.
    ///
    /// # Errors
    /// The kernel's; a name that it does not know is no error.
    pub fn forget_name(&self, directory: NodeId, name: &[u8]) -> io::Result<()> {
        self.notifier.inval_entry(INodeNo(directory), OsStr::from_bytes(name))?;
        // Also where it did not know the name: the directory has another time, and one entry less.
        self.notifier.inval_inode(INodeNo(directory), -1, 0)
    }

    /// syncfs of the mount: what programs have written comes here. Waits for requests, as above. Nothing is done where
    /// the mount is out of sight.
    ///
    /// # Errors
    /// The kernel's, if it could not write back.
    pub fn sync(&self) -> io::Result<()> {
        if !point::device_of(&self.point).is_ok_and(|device| device == self.device) {
            return Ok(());
        }
        Ok(rustix::fs::syncfs(std::fs::File::open(&self.point)?)?)
    }
}

/// A volume under a directory. Dropping it takes the mount away, lazily if it is in use.
pub struct Mounted {
    kernel: Kernel,
    /// None only while it is being joined.
    session: Option<BackgroundSession>,
    /// One unmounting at a time.
    unmounting: Mutex<()>,
    /// See [`BUFFER`].
    _room: Vec<u8>,
}

/// Bytes of a buffer for requests, of which fuser makes one for the first request and then one for each thread. It wants zeros: fresh
/// memory is that without being touched, but where the first buffer was, the allocator would write them, and all of it be resident.
/// So that place is taken, and left untouched, while the threads run.
const BUFFER: usize = (16 << 20) + 4096;

/// Mounts `volume` on the directory `point`; returns when the mount answers. The volume stays the caller's:
/// [`Volume::close`] it after [`Mounted::join`].
///
/// # Errors
/// See [`MountError`]; nothing stays mounted then.
pub fn mount(volume: Arc<Volume>, point: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let point =
        point.canonicalize().map_err(|source| MountError::Point { point: point.to_owned(), source })?;
    let device = point::attach(&point, options)?;
    let notifier = Arc::new(OnceLock::new());
    let adaptor = adaptor::Adaptor::new(volume, notifier.clone(), options.isolate);
    serve(adaptor, &notifier, device, &point, options).inspect_err(|_| {
        // The first error tells more than a second one could.
        let _ = point::detach(&point, true);
    })
}

fn serve(
    filesystem: impl Filesystem,
    its_notifier: &OnceLock<Notifier>,
    device: OwnedFd,
    point: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let silent = |source| MountError::Silent { point: point.to_owned(), source };
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = point::can_clone();
    // The kernel already keeps strangers out; its own requests come as root.
    let session = Session::from_fd(filesystem, device, SessionACL::All, config).map_err(silent)?;
    let room = Vec::with_capacity(BUFFER);
    let notifier = session.notifier();
    // It is empty until here.
    let _ = its_notifier.set(notifier.clone());
    let session = session.spawn().map_err(silent)?;
    rustix::fs::statvfs(point).map_err(|e| silent(e.into()))?;
    let device = point::device_of(point).map_err(silent)?;
    point::raise_readahead(device, adaptor::MAX_REQUEST);
    Ok(Mounted {
        kernel: Kernel { point: point.to_owned(), device, notifier },
        session: Some(session),
        unmounting: Mutex::new(()),
        _room: room,
    })
}

impl Mounted {
    /// The mount point, absolute and without links.
    pub fn point(&self) -> &Path {
        &self.kernel.point
    }

    /// What can be asked of the kernel, for other threads.
    pub fn kernel(&self) -> Kernel {
        self.kernel.clone()
    }

    /// False once it is unmounted, by whomever, and nothing of it is open any more.
    pub fn is_running(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.guard.is_finished())
    }

    /// Takes the mount away; a mount that is away already is no error. [`Mounted::join`] then waits for the
    /// last requests.
    ///
    /// # Errors
    /// [`MountError::Busy`] while files are open or directories are in use there; the mount stays.
    pub fn unmount(&self) -> Result<(), MountError> {
        self.detach(false)
    }

    /// The same for one that is in use: its name goes at once, open files are served until they are closed.
    ///
    /// # Errors
    /// [`MountError::Unmount`] and [`MountError::NoHelper`].
    pub fn unmount_lazily(&self) -> Result<(), MountError> {
        self.detach(true)
    }

    fn detach(&self, lazy: bool) -> Result<(), MountError> {
        let _one = self.unmounting.lock();
        // What is mounted there now may be another's.
        let Kernel { point, device, .. } = &self.kernel;
        let ours = point::device_of(point).is_ok_and(|there| there == *device);
        if self.is_running() && ours { point::detach(point, lazy) } else { Ok(()) }
    }

    /// Waits until the mount is away and the last request is answered.
    ///
    /// # Errors
    /// [`MountError::Ended`] if serving ended for another reason.
    pub fn join(mut self) -> Result<(), MountError> {
        let point = self.kernel.point.clone();
        let ended = |source| MountError::Ended { point, source };
        // Some until here.
        self.session.take().map_or(Ok(()), BackgroundSession::join).map_err(ended)
    }

    /// See [`Kernel::drop_pages`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn drop_pages(&self, node: NodeId) -> io::Result<()> {
        self.kernel.drop_pages(node)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.is_some()
            && self.unmount().is_err()
            && let Err(error) = self.unmount_lazily()
        {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use fuser::{FileHandle, ReplyAttr, ReplyDirectory, ReplyStatfs, Request};

    use super::*;
    use crate::volume::disk::Kind;

    /// An empty directory.
    struct Empty;

    impl Filesystem for Empty {
        fn getattr(&self, _req: &Request, _ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
            let mut attr = convert::bare_attr(1, Kind::Directory);
            attr.perm = 0o755;
            reply.attr(&std::time::Duration::from_secs(1), &attr);
        }

        fn readdir(
            &self,
            _req: &Request,
            _ino: INodeNo,
            _fh: FileHandle,
            _offset: u64,
            reply: ReplyDirectory,
        ) {
            reply.ok();
        }

        fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
            reply.statfs(7, 0, 0, 0, 0, 4096, 255, 4096);
        }
    }

    type Attach = fn(&Path, &MountOptions) -> Result<OwnedFd, MountError>;

    /// None where FUSE cannot be tried.
    fn mounted(attach: Attach) -> Option<(tempfile::TempDir, Mounted)> {
        if !point::can_clone() {
            eprintln!("not tried: /dev/fuse cannot be opened here");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let options = MountOptions { source: "a, b".into(), ..MountOptions::default() };
        let device = attach(dir.path(), &options).unwrap();
        let mounted = serve(Empty, &OnceLock::new(), device, dir.path(), &options).unwrap();
        Some((dir, mounted))
    }

    fn line_of(point: &Path) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().find(|line| line.contains(point.to_str().unwrap())).map(str::to_owned)
    }

    fn goes_through_its_life(attach: Attach) {
        let Some((dir, mounted)) = mounted(attach) else { return };
        let line = line_of(dir.path()).unwrap();
        assert!(line.starts_with("a,\\040b "), "{line}");
        assert!(line.contains(" fuse.kmsfs rw,nosuid,nodev,"), "{line}");
        assert!(line.contains("default_permissions") && !line.contains("allow_other"), "{line}");
        assert_eq!(rustix::fs::statvfs(dir.path()).unwrap().f_blocks, 7);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        mounted.drop_pages(77).unwrap();

        let open = File::open(dir.path()).unwrap();
        let error = mounted.unmount().unwrap_err();
        assert!(matches!(&error, MountError::Busy { point } if point == dir.path()), "{error}");
        assert!(mounted.is_running());
        drop(open);
        mounted.unmount().unwrap();
        mounted.join().unwrap();
        assert_eq!(line_of(dir.path()), None);
    }

    #[test]
    fn a_mount_names_itself_answers_refuses_to_go_while_in_use_and_goes() {
        goes_through_its_life(point::attach);
    }

    #[test]
    fn a_mount_by_the_helper_does_the_same() {
        goes_through_its_life(point::attach_by_helper);
    }

    #[test]
    fn a_lazy_unmount_takes_the_name_and_serves_what_is_open() {
        let Some((dir, mounted)) = mounted(point::attach) else { return };
        let open = File::open(dir.path()).unwrap();
        mounted.unmount_lazily().unwrap();
        assert_eq!(line_of(dir.path()), None);
        assert!(mounted.is_running());
        assert_eq!(rustix::fs::fstatvfs(&open).unwrap().f_blocks, 7);
        // A second one finds nothing of ours there.
        mounted.unmount().unwrap();
        drop(open);
        mounted.join().unwrap();
    }

    #[test]
    fn a_mount_that_another_took_away_ends_and_is_no_error() {
        let Some((dir, mounted)) = mounted(point::attach) else { return };
        point::detach(dir.path(), false).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while mounted.is_running() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!mounted.is_running());
        mounted.unmount().unwrap();
        mounted.join().unwrap();
    }

    #[test]
    fn a_dropped_mount_is_taken_away() {
        let Some((dir, mounted)) = mounted(point::attach) else { return };
        let open = File::open(dir.path()).unwrap();
        drop(mounted);
        assert_eq!(line_of(dir.path()), None);
        drop(open);
    }
}
