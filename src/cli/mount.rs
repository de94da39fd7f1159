//! `kmsfs mount`: a volume, seen through a directory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{daemon, mounts};
use crate::volume::{Volume, VolumeOptions};

/// How often the key service is asked whether a decision may have changed.
const TICK: Duration = Duration::from_millis(250);

/// Mounts a volume; returns when the mount answers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume: a directory made by `kmsfs init`
    volume: PathBuf,
    /// The mount point: an empty directory
    point: PathBuf,
    /// Stay in the foreground; Ctrl-C unmounts
    #[arg(short, long)]
    foreground: bool,
    /// Write nothing; several such mounts may share a volume
    #[arg(short, long)]
    read_only: bool,
    /// How long a decision of the key service about a file holds, if no key or policy changes
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    lease: u64,
    /// When the event of an open reaches the log: within a second, or before open() answers
    #[arg(long, value_name = "WHEN", default_value = "batched")]
    audit_opens: AuditOpens,
    /// Accept a missing or foreign epoch marker: a restored copy. What a crash cut is then not excused
    #[arg(long)]
    reset_epoch: bool,
    /// Other users may use the mount (as root: the default), under the modes and owners of its files
    #[arg(long)]
    allow_other: bool,
    /// Where a background mount writes its warnings [default: mount.log in the key service's home]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// See [`Args::audit_opens`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AuditOpens {
    /// Within a second.
    Batched,
    /// Before open() answers.
    Sync,
}

impl Args {
    fn options(&self) -> VolumeOptions {
        VolumeOptions {
            read_only: self.read_only,
            lease: Duration::from_secs(self.lease),
            audit_opens_sync: self.audit_opens == AuditOpens::Sync,
            chown_to_caller: rustix::process::geteuid().is_root(),
            reset_epoch: self.reset_epoch,
            ..VolumeOptions::default()
        }
    }
}

/// The two directories, absolute, when nothing speaks against mounting one on the other.
fn check(volume: &Path, point: &Path) -> Result<(PathBuf, PathBuf), String> {
    let absolute = |path: &Path, what: &str, advice: &str| {
        path.canonicalize().map_err(|e| match e.raw_os_error() {
            Some(libc::ENOTCONN) => format!(
                "{what} {} is a mount whose process has died; `kmsfs umount` takes it away",
                path.display()
            ),
            _ if e.kind() == io::ErrorKind::NotFound => {
                format!("{what} {} does not exist; {advice}", path.display())
            }
            _ => format!("{what} {}: {e}", path.display()),
        })
    };
    let volume = absolute(volume, "the volume", "make one with `kmsfs init`")?;
    let point = absolute(point, "the mount point", "make it with mkdir")?;
    let shown = point.display();
    if point.starts_with(&volume) || volume.starts_with(&point) {
        return Err(format!(
            "the mount point {shown} and the volume {} must not lie in one another; choose another mount point",
            volume.display()
        ));
    }
    if let Ok(Some(mounted)) = mounts::at(&point) {
        return Err(format!(
            "something ({}) is mounted at {shown} already; unmount it first, or choose another mount point",
            mounted.kind
        ));
    }
    let mut entries = fs::read_dir(&point).map_err(|e| format!("the mount point {shown}: {e}"))?;
    if entries.next().is_some() {
        return Err(format!(
            "the mount point {shown} is not empty; what is in it would be hidden. Choose another"
        ));
    }
    Ok((volume, point))
}

/// What `init` says when one disk holds both.
pub fn one_disk(home: &Path, volume: &Path) -> Option<String> {
    let device = |path: &Path| fs::metadata(path).map(|stat| stat.dev()).ok();
    (device(home)? == device(volume)?).then(|| {
        format!(
            "the key service's home {} and the volume {} lie on one disk: whoever gets the disk has both. Keep the \
             home elsewhere (KMSFS_HOME), or its root key under a passphrase",
            home.display(),
            volume.display()
        )
    })
}

/// Serves until the mount is taken away, or a signal asks for the end.
fn serve(volume: &Volume, mount: &Served, mut signals: Signals) -> Result<(), String> {
    let mut asked = false;
    while mount.is_running() {
        std::thread::sleep(TICK);
        for node in volume.tick() {
            mount.drop_pages(node);
        }
        if signals.pending().next().is_some() && !asked {
            asked = true;
            mount.unmount();
        }
    }
    Ok(())
}

struct Served;
impl Served {
    fn is_running(&self) -> bool {
        false
    }
    fn drop_pages(&self, _: u64) {}
    fn unmount(&self) {}
}

pub fn run(args: &Args) -> ExitCode {
    let dirs = check(&args.volume, &args.point);
    let report = if args.foreground {
        None
    } else {
        match daemon::fork() {
            Ok(daemon::Side::Parent(code)) => return code,
            Ok(daemon::Side::Child(report)) => Some(report),
            Err(_) => return ExitCode::FAILURE,
        }
    };
    let _ = (dirs, report, Signals::new([SIGTERM, SIGINT, SIGHUP]), serve, args.options(), Arc::new(1));
    ExitCode::SUCCESS
}
