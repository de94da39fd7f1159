//! The control socket of a read-write mount: `.kmsfs/control` in the volume, through which another process asks the
//! mount to do what only it may do while it has the volume open (docs/architecture.md, "The control socket").
//!
//! A connection carries one request, a line of JSON, and its answers, a line each: any number of progress, then a
//! result or an error. Only the mount's own user and root are heard, and only about the volume that is mounted: each
//! request says which it means.
//!
//! **A further verb** is a variant of [`Request`], a function in `perform`, and an arm in its `perform`; what it answers
//! is any serializable value. It runs on a thread of its own, which serves no requests of the kernel, so that it may
//! call whatever waits for those.

mod lines;
mod perform;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use self::lines::Lines;
use super::Kernel;
use crate::kms::KeyService;
use crate::volume::descriptor::{Descriptor, ListedRecipient};
use crate::volume::disk::{Dir, Stat};
use crate::volume::{Volume, VolumeError, names};

/// Version of the protocol; another one is refused.
pub const VERSION: u32 = 2;
/// The socket's name in the volume's private directory.
const SOCKET: &str = "control";
/// Connections at once; one more is told so.
const MOST: usize = 16;
/// How long a connection may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked<R> {
    /// [`VERSION`].
    pub version: u32,
    /// Of which volume. A socket's name can lead to the mount of another one, which does nothing then.
    pub volume: Which,
    /// What is wanted.
    pub request: R,
}

/// A volume: its id, and the directory that it is in. The id alone would not do, for who can write to a volume's directory
/// can put the id of another volume there, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Hex.
    pub id: String,
    /// Device of the directory.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
}

impl Which {
    /// The volume in a directory, by what its descriptor says without proof.
    ///
    /// # Errors
    /// There is no volume.
    pub fn named(root: &dyn Dir) -> Result<Self, VolumeError> {
        let what = "asking for the volume's directory";
        let stat = root.stat().map_err(|source| VolumeError::Backing { what, source })?;
        Ok(Self::new(hex::encode(Descriptor::read(root)?.id), &stat))
    }

    fn new(id: String, directory: &Stat) -> Self {
        Self { id, device: directory.dev, inode: directory.ino }
    }
}

/// What a mount does when it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answers [`crate::volume::Status`].
    Status {},
    /// Holds the volume still, so that the backing tree can be copied: answers [`crate::volume::Still`]. The
    /// connection then takes [`WhileHeld`]; closing it ends the hold, and so do `seconds`.
    Hold {
        /// How long at most.
        seconds: u64,
    },
    /// Shreds a file or tree, with progress: answers [`crate::volume::shred::Report`]. Stops where the connection ends, and
    /// goes on in the next call.
    Shred {
        /// What of the volume.
        place: Place,
        /// See [`crate::volume::shred::Options`].
        hard_links: bool,
    },
    /// Adds or removes a recipient of the volume's keys, with progress: answers [`crate::volume::edk::Report`]. Goes on in the
    /// next call where the connection ended.
    Recipients {
        /// Which.
        change: RecipientChange,
        /// See [`crate::volume::edk::Options`].
        keep_mtime: bool,
        /// Change nothing.
        dry_run: bool,
        /// Threads that ask the key service; null for one for each processor.
        threads: Option<u16>,
        /// Who asks it; null for whoever runs the mount.
        principal: Option<String>,
    },
    /// Rewraps keys, with progress: answers [`crate::volume::rewrap::Report`]. Goes on in the next call where the
    /// connection ended.
    Rewrap {
        /// The KMS key to come under; null for the volume's, its current material.
        key: Option<String>,
        /// What of the volume.
        place: Place,
        /// See [`crate::volume::rewrap::Options`].
        keep_mtime: bool,
        /// Change nothing.
        dry_run: bool,
        /// Threads that ask the key service; null for one for each processor.
        threads: Option<u16>,
        /// Who asks it; null for whoever runs the mount.
        principal: Option<String>,
    },
}

/// A place in the volume, by the names that lead there from the root, in bytes. None: the whole volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// As they are in the backing directory.
    Stored(Vec<Vec<u8>>),
    /// As they are seen through the mount.
    Seen(Vec<Vec<u8>>),
}

/// A recipient, as the descriptor lists it or by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecipientChange {
    /// Everything is wrapped for it.
    Add(ListedRecipient),
    /// What is wrapped for it goes.
    Remove(String),
}

/// What can be asked on a connection that holds the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WhileHeld {
    /// Is it still held? A result (null) if it is; the connection stays.
    Still {},
    /// Ends it; a result (null) if it was held until now.
    Release {},
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It goes on.
    Progress {
        /// What is done with.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// It is done.
    Result {
        /// Its shape is the request's matter.
        result: serde_json::Value,
    },
    /// It could not be done.
    Error(Failure),
}

/// What kind of error it is: the command line's exit codes (docs/cli.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Something of the system failed.
    Failure,
    /// The request is not understood, or asks for what cannot be.
    Usage,
    /// The key service refused; the message begins with its error's name.
    Refused,
    /// The key service's home cannot be used.
    Home,
    /// The volume cannot be used.
    Volume,
    /// In use, or not now.
    Busy,
    /// Not what was written.
    Tampered,
}

/// An error that is told to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What a program decides by.
    pub kind: FailureKind,
    /// What went wrong, to what, and what to do.
    pub message: String,
}

impl Failure {
    /// An error of this kind and text.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// What the mount's process adds to what the volume can do.
pub trait Household: Send + Sync {
    /// A key service of a region, for whoever runs the mount, or for `principal`.
    fn key_service(&self, principal: Option<&str>, region: &str) -> Result<Arc<dyn KeyService>, Failure>;

    /// An error of the volume in the words of the command line.
    fn tell(&self, error: VolumeError) -> Failure;
}

/// What requests work on.
pub(crate) struct Served {
    volume: Arc<Volume>,
    which: Which,
    kernel: Kernel,
    household: Arc<dyn Household>,
    /// One hold at a time.
    holding: Mutex<()>,
    /// One change of all files at a time.
    changing: Mutex<()>,
    /// Connections that are open, by number.
    open: Mutex<HashMap<u64, UnixStream>>,
    stopping: AtomicBool,
}

/// The socket, served. Dropping it ends all connections, and with them what they hold.
pub struct Control {
    served: Arc<Served>,
    socket: OwnedFd,
    private: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Opens the socket in the volume at `path`, whose lock the caller holds through `volume`: what a dead mount left
    /// there is replaced.
    ///
    /// # Errors
    /// The backing's, if it has no sockets.
    pub fn start(
        volume: Arc<Volume>,
        kernel: Kernel,
        path: &Path,
        household: Arc<dyn Household>,
    ) -> io::Result<Self> {
        let directory = volume.backing_stat().map_err(io::Error::other)?;
        let which = Which::new(volume.status().volume_id, &directory);
        let private = private_dir(path)?;
        let socket = listening(&private)?;
        let listener = UnixListener::from(socket.try_clone()?);
        let served = Arc::new(Served {
            volume,
            which,
            kernel,
            household,
            holding: Mutex::default(),
            changing: Mutex::default(),
            open: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let run = {
            let served = served.clone();
            move || listen(&served, &listener)
        };
        let thread = thread::Builder::new().name("control".to_owned()).spawn(run)?;
        Ok(Self { served, socket, private, thread: Some(thread) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.served.stopping.store(true, Ordering::Release);
        // Whoever connects now finds nobody.
        let _ = rustix::fs::unlinkat(&self.private, SOCKET, AtFlags::empty());
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        for stream in self.served.open.lock().values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own message.
            let _ = thread.join();
        }
    }
}

/// The private directory of the volume at `path`; a link would lead to that of another.
fn private_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.join(".kmsfs"), flags, Mode::empty())?)
}

/// The address of a socket in a directory while that is open: an address has no room for a long path.
fn address(directory: &OwnedFd, name: &[u8]) -> io::Result<SocketAddrUnix> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    Ok(SocketAddrUnix::new(path)?)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A socket that listens, in the place of what a dead mount left. It gets its name when it listens already, so that whoever
/// sees it can connect; where a kill comes between, the temporary name is taken away by the next mount, as any is.
fn listening(private: &OwnedFd) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    // On Linux bind gives the file the socket's own mode, so that it never stands there with another.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    let temporary = names::temporary_name().map_err(io::Error::other)?;
    rustix::net::bind(&socket, &address(private, &temporary)?)?;
    let named = rustix::net::listen(&socket, MOST as i32)
        .and_then(|()| rustix::fs::renameat(private, &temporary[..], private, SOCKET));
    if named.is_err() {
        // Best effort, as above.
        let _ = rustix::fs::unlinkat(private, &temporary[..], AtFlags::empty());
    }
    named?;
    Ok(socket)
}

/// Connects to the mount that has the volume at `path` open for writing; None if none has, or not here. Whoever can write to
/// the private directory can serve something there: who it is (SO_PEERCRED) is the caller's matter.
///
/// # Errors
/// The system's, such as a lack of permission.
pub fn connect(path: &Path) -> io::Result<Option<UnixStream>> {
    let private = private_dir(path)?;
    let socket = new_socket()?;
    match rustix::net::connect(&socket, &address(&private, SOCKET.as_bytes())?) {
        Ok(()) => Ok(Some(socket.into())),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn listen(served: &Served, listener: &UnixListener) {
    let mut number = 0;
    thread::scope(|scope| {
        while !served.stopping.load(Ordering::Acquire) {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(_) if served.stopping.load(Ordering::Acquire) => break,
                Err(error) => {
                    // Too many open files, say: it may pass.
                    tracing::warn!(%error, "the control socket cannot take a connection");
                    thread::sleep(Duration::from_millis(200));
                    continue;
                }
            };
            number += 1;
            let attended =
                thread::Builder::new().name("controlled".to_owned()).spawn_scoped(scope, move || {
                    attend(served, number, stream);
                });
            if let Err(error) = attended {
                tracing::warn!(%error, "a request through the control socket is not served");
            }
        }
    });
}

/// One connection.
fn attend(served: &Served, number: u64, stream: UnixStream) {
    let mine = match stream.try_clone() {
        Ok(mine) => mine,
        Err(error) => {
            tracing::warn!(%error, "a request through the control socket is not served");
            return;
        }
    };
    let many = {
        let mut open = served.open.lock();
        open.insert(number, mine);
        open.len() > MOST
    };
    // Between the insertion and this nobody could have ended the connection unseen.
    if !served.stopping.load(Ordering::Acquire) {
        let mut lines = Lines::new(&stream);
        let answer = match take(served, &stream, &mut lines, many) {
            Ok(result) => Answer::Result { result },
            Err(failure) => Answer::Error(failure),
        };
        // Who asked may be gone.
        let _ = lines.answer(&answer);
    }
    served.open.lock().remove(&number);
}

fn take(
    served: &Served,
    stream: &UnixStream,
    lines: &mut Lines,
    many: bool,
) -> Result<serde_json::Value, Failure> {
    let own = rustix::process::geteuid();
    let peer = rustix::net::sockopt::socket_peercred(stream).map(|peer| peer.uid);
    let Some(uid) = peer.ok().filter(|uid| *uid == own || uid.is_root()) else {
        return Err(Failure::new(FailureKind::Failure, "only the user who mounted the volume may ask that"));
    };
    if many {
        return Err(Failure::new(FailureKind::Busy, "the mount is asked too much at once; try again"));
    }
    let request = lines.request(&served.which, PATIENCE)?;
    perform::perform(served, uid.as_raw(), request, lines)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Sockets come one in the place of the other, as if each mount had been killed (their descriptors stay open); whoever sees
    /// one can connect.
    #[test]
    fn who_sees_the_socket_can_connect() {
        let temp = tempfile::tempdir().unwrap();
        let private = temp.path().join(".kmsfs");
        std::fs::create_dir(&private).unwrap();
        let directory = private_dir(temp.path()).unwrap();
        let (refused, connected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let connect = || {
            let socket = new_socket().unwrap();
            // What listens and is not served has room for a few; it does not wait then.
            rustix::io::ioctl_fionbio(&socket, true).unwrap();
            match rustix::net::connect(&socket, &address(&directory, SOCKET.as_bytes()).unwrap()) {
                Ok(()) | Err(rustix::io::Errno::AGAIN) => connected.fetch_add(1, Ordering::Relaxed),
                Err(rustix::io::Errno::NOENT) => 0,
                Err(_) => refused.fetch_add(1, Ordering::Relaxed),
            };
        };
        for _ in 0..20 {
            let stop = AtomicBool::new(false);
            let mut sockets = Vec::new();
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        connect();
                    }
                });
                for _ in 0..200 {
                    sockets.push(listening(&directory).unwrap());
                }
                stop.store(true, Ordering::Relaxed);
            });
            std::fs::remove_file(private.join(SOCKET)).unwrap();
        }
        assert!(connected.into_inner() > 0);
        assert_eq!(refused.into_inner(), 0);
        drop(listening(&directory).unwrap());
        let names = std::fs::read_dir(&private).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), [SOCKET], "temporary names stay");
        // Nor where it cannot get its name.
        std::fs::remove_file(private.join(SOCKET)).unwrap();
        std::fs::create_dir(private.join(SOCKET)).unwrap();
        assert!(listening(&directory).is_err());
        assert_eq!(std::fs::read_dir(&private).unwrap().count(), 1);
    }

    #[test]
    fn requests_and_answers_are_what_the_documentation_shows() {
        let line = r#"{"version":2,"volume":{"id":"0123456789abcdef0123456789abcdef","device":2049,"inode":131073},"request":{"verb":"hold","seconds":60}}"#;
        let volume =
            Which { id: "0123456789abcdef0123456789abcdef".to_owned(), device: 2049, inode: 131_073 };
        let hold = Asked { version: VERSION, volume, request: Request::Hold { seconds: 60 } };
        assert_eq!(serde_json::to_string(&hold).unwrap(), line);
        assert_eq!(serde_json::from_str::<Asked<Request>>(line).unwrap(), hold);
        let error = Answer::Error(Failure::new(FailureKind::Busy, "not now"));
        let line = r#"{"answer":"error","kind":"busy","message":"not now"}"#;
        assert_eq!(serde_json::to_string(&error).unwrap(), line);
        assert_eq!(serde_json::from_str::<Answer>(line).unwrap(), error);
        let volume = r#""volume":{"id":"00","device":1,"inode":2}"#;
        let good = format!(r#"{{"version":2,{volume},"request":{{"verb":"status"}}}}"#);
        assert!(serde_json::from_str::<Asked<Request>>(&good).is_ok());
        for bad in [
            format!(r#"{{"version":2,{volume},"request":{{"verb":"hold"}}}}"#),
            format!(r#"{{"version":2,{volume},"request":{{"verb":"hold","seconds":1,"more":2}}}}"#),
            format!(r#"{{"version":2,{volume},"request":{{"verb":"fly"}}}}"#),
            format!(r#"{{{volume},"request":{{"verb":"status"}}}}"#),
            r#"{"version":2,"request":{"verb":"status"}}"#.to_owned(),
            good.replace("\"inode\":2", "\"inode\":2,\"path\":\"/\""),
        ] {
            assert!(serde_json::from_str::<Asked<Request>>(&bad).is_err(), "{bad}");
        }
    }
}
