//! `kmsfs umount`: takes a mount away and waits until everything is on disk and the volume is marked clean.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::error::{CliError, Result};
use super::mounts;

/// How long a mount may take to write back what it holds.
const PATIENCE: Duration = Duration::from_secs(300);

/// Unmounts, and waits until the volume is closed
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The mount point
    point: PathBuf,
    /// Take the mount out of sight at once, and close the volume when the last open file is closed
    #[arg(short, long)]
    lazy: bool,
}

/// Runs it.
pub fn run(args: &Args) -> Result<()> {
    let point = absolute(&args.point)?;
    let shown = point.display();
    let mounted = mounts::at(&point).map_err(|e| CliError::io("cannot look for", &point, e))?;
    let mounted = mounted.ok_or_else(|| {
        CliError::Failed(format!("{shown} is not mounted; `kmsfs status` lists the mounts there are"))
    })?;
    if !mounted.is_ours() {
        let kind = mounted.kind;
        return Err(CliError::Failed(format!("{shown} is a mount of type {kind}, not of kmsfs; use umount")));
    }
    // Before the mount goes: the volume could lie below something that goes with it.
    let private = mounted.source.join(".kmsfs");
    let lock = File::open(private.join("lock"));
    let marker = File::open(private.join("epoch"));
    take_away(&point, args.lazy)?;
    // Without a right to look, the mount's process still does all this; one only cannot see it.
    let (false, Ok(lock), Ok(_)) = (args.lazy, lock, marker) else { return Ok(()) };
    // Those who only read share the lock, also with this process: then others may go on holding it.
    let shared =
        mounted.read_only && mounts::all().is_ok_and(|all| all.iter().any(|m| m.source == mounted.source));
    if shared {
        return Ok(());
    }
    wait_for_end(&lock, mounted.read_only, &mounted.source)?;
    if mounted.read_only || is_clean(&private.join("epoch")) {
        Ok(())
    } else {
        Err(CliError::Failed(format!(
            "{shown} is unmounted, but the volume {} could not be closed cleanly (its process died, or the disk \
             refused); the next mount checks and mends what was open",
            mounted.source.display()
        )))
    }
}

/// Absolute, without asking the mount itself, whose process may be dead.
pub fn absolute(point: &Path) -> Result<PathBuf> {
    let failed = |e| CliError::io("the mount point", point, e);
    let whole = std::path::absolute(point).map_err(failed)?;
    let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else { return Ok(whole) };
    let plain = parent.canonicalize().map_err(failed)?.join(name);
    // A symbolic link to the mount point is followed; a dead mount is not asked.
    Ok(if plain.is_symlink() { plain.canonicalize().unwrap_or(plain) } else { plain })
}

fn take_away(point: &Path, lazy: bool) -> Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(point, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(busy(point)),
        Err(Errno::PERM) => with_helper(point, lazy),
        Err(e) => Err(CliError::io("cannot unmount", point, e.into())),
    }
}

/// As somebody who is not root: the set-uid helper that mounted it.
fn with_helper(point: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-q"]).args(lazy.then_some("-z")).arg("--").arg(point).env("LC_ALL", "C");
    let output = command.output().map_err(|source| CliError::Io {
        what: "cannot run fusermount3 (apt-get install fuse3)".to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if text.contains("busy") || still_there(point) && !mounts::holders(point).is_empty() {
        Err(busy(point))
    } else {
        Err(CliError::Failed(format!("fusermount3 cannot unmount {}: {}", point.display(), text.trim())))
    }
}

fn still_there(point: &Path) -> bool {
    mounts::at(point).is_ok_and(|mounted| mounted.is_some())
}

fn busy(point: &Path) -> CliError {
    CliError::Busy(format!(
        "{} is busy: {}. Close what is open there, or use --lazy, which closes the volume when the last file is \
         closed",
        point.display(),
        mounts::busy_with(point)
    ))
}

/// The mount's process holds the volume's lock until it has closed it.
fn wait_for_end(lock: &File, read_only: bool, volume: &Path) -> Result<()> {
    let begun = Instant::now();
    let operation = if read_only {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    loop {
        match rustix::fs::flock(lock, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(CliError::Busy(format!(
                    "unmounted, but after {} seconds the volume {} is still being written back; wait for that \
                     before you unplug its disk",
                    PATIENCE.as_secs(),
                    volume.display()
                )));
            }
            Err(e) => return Err(CliError::io("cannot look at the lock of", volume, e.into())),
        }
    }
}

/// State 1 in the epoch marker (docs/format.md). Its MAC is the next mount's to check.
pub fn is_clean(marker: &Path) -> bool {
    let read = || -> io::Result<[u8; 2]> {
        let mut state = [0; 2];
        File::open(marker)?.read_exact_at(&mut state, 10)?;
        Ok(state)
    };
    read().is_ok_and(|state| state == [1, 0])
}
