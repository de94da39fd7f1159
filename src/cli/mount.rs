//! `kmsfs mount`: a volume, seen through a directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::daemon::{self, Report, Side};
use super::error::{CliError, Exit, Result};
use super::global::Global;
use super::service::{self, Service};
use super::{control::Keeper, known, mounts, output};
use crate::crypto::SecretVec;
use crate::mount::control::Control;
use crate::mount::{MountError, MountOptions, Mounted};
use crate::volume::disk::Dir;
use crate::volume::host::HostDir;
use crate::volume::{Volume, VolumeError, VolumeOptions};

/// How often the key service is asked whether a decision may have changed.
const TICK: Duration = Duration::from_millis(250);
/// How often it is looked whether the mount still stands, and whether a signal came.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a signal waits for those who hold files open.
const GRACE: Duration = Duration::from_secs(10);

/// Mounts a volume; returns when the mount answers
///
/// The mount is a process of its own, which ends with `kmsfs umount`, or cleanly on SIGTERM and SIGINT.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume: a directory made by `kmsfs init`
    volume: PathBuf,
    /// The mount point: an empty directory, made if it is not there
    point: PathBuf,
    /// Write nothing; several such mounts may share a volume
    #[arg(short, long)]
    read_only: bool,
    /// Accept a missing or foreign epoch marker, as of a restored copy; what a crash cut is then not excused
    #[arg(long)]
    reset_epoch: bool,
    #[command(flatten)]
    how: How,
}

/// How whatever is mounted is mounted.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Stay in the foreground; Ctrl-C unmounts
    #[arg(short, long)]
    foreground: bool,
    /// How long a decision of the key service about a file holds, if no key or policy changes
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    lease: u64,
    /// When the event of an open is in the log
    #[arg(long, value_name = "WHEN", default_value = "batched")]
    audit_opens: AuditOpens,
    /// Let other users use the mount, under the modes and owners of its files (as root that is so anyway)
    #[arg(long)]
    allow_other: bool,
    /// Keep no plaintext in the kernel's page cache: every read is decided and opened anew; slower
    #[arg(long)]
    isolate: bool,
    /// Threads that serve requests
    #[arg(long, value_name = "N", default_value_t = MountOptions::default().threads, value_parser = threads)]
    threads: usize,
    /// Where a mount in the background writes its warnings [default: mount.log in the key service's home]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// What is mounted.
pub struct Source<'a> {
    /// For people and in the table of mounts; absolute. The control socket is made there.
    pub path: PathBuf,
    /// See [`Args::read_only`].
    pub read_only: bool,
    /// See [`Args::reset_epoch`].
    pub reset_epoch: bool,
    /// For `open`: asked for before the fork.
    pub passphrase: Option<SecretVec>,
    /// Opens it, in the mount's own process.
    pub open: &'a Open<'a>,
}

/// See [`Source::open`].
pub type Open<'a> = dyn Fn(&Global, Option<SecretVec>) -> Result<(Arc<dyn Dir>, Service)> + 'a;

/// See [`How::audit_opens`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AuditOpens {
    /// Within a second
    Batched,
    /// Before open() answers
    Sync,
}

fn threads(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=64).contains(n)).ok_or_else(|| "1 to 64".to_owned())
}

impl How {
    fn volume_options(&self, source: &Source, service: &Service) -> VolumeOptions {
        VolumeOptions {
            service_region: service.region.to_string(),
            read_only: source.read_only,
            lease: Duration::from_secs(self.lease),
            audit_opens_sync: self.audit_opens == AuditOpens::Sync,
            chown_to_caller: rustix::process::geteuid().is_root(),
            reset_epoch: source.reset_epoch,
            ..VolumeOptions::default()
        }
    }

    fn mount_options(&self, source: &Source) -> MountOptions {
        MountOptions {
            source: source.path.display().to_string(),
            allow_other: self.allow_other || rustix::process::geteuid().is_root(),
            read_only: source.read_only,
            isolate: self.isolate,
            threads: self.threads,
        }
    }
}

/// What is settled before the fork: paths are absolute, since the background process leaves the directory.
struct Plan<'a> {
    how: &'a How,
    source: Source<'a>,
    global: Global,
    point: PathBuf,
    log: PathBuf,
}

/// Runs it. The process that returns from here may be the background one.
pub fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    at_point(&args.point, |point| {
        let (volume, point) = check(&args.volume, point)?;
        let dir = HostDir::open(&volume).map_err(|e| CliError::io("the volume", &volume, e))?;
        let passphrase = service::passphrase(global, &volume, &*dir)?;
        drop(dir);
        let open = |global: &Global, passphrase: Option<SecretVec>| {
            let dir = HostDir::open(&volume).map_err(|e| CliError::io("the volume", &volume, e))?;
            let service = Service::of_volume(global, &volume, &*dir, passphrase)?;
            Ok((dir, service))
        };
        let source = Source {
            path: volume.clone(),
            read_only: args.read_only,
            reset_epoch: args.reset_epoch,
            passphrase,
            open: &open,
        };
        start(global, &args.how, source, point)
    })
}

/// Makes the mount point if it is not there, for as long as a mount comes about. `mount` is given its absolute path, since
/// the background process leaves the directory.
pub fn at_point(point: &Path, mount: impl FnOnce(&Path) -> Result<ExitCode>) -> Result<ExitCode> {
    let point = std::path::absolute(point).map_err(|e| CliError::io("the mount point", point, e))?;
    let made = !point.exists() && fs::create_dir(&point).is_ok();
    let ended = mount(&point);
    if made && !matches!(&ended, Ok(code) if *code == ExitCode::SUCCESS) {
        // What was made for a mount that did not come about; a mount point in use stays.
        let _ = fs::remove_dir(&point);
    }
    ended
}

/// Mounts at a point that [`free`] was asked about.
pub fn start(global: &Global, how: &How, source: Source, point: PathBuf) -> Result<ExitCode> {
    let home = global.home()?;
    let log = how.log.clone().unwrap_or_else(|| home.join("mount.log"));
    let log = std::path::absolute(&log).map_err(|e| CliError::io("the log", &log, e))?;
    let plan = Plan { how, source, global: global.at(home), point, log };
    if how.foreground {
        plan.serve(None)?;
        return Ok(Exit::Success.into());
    }
    match daemon::fork().map_err(|source| CliError::Io { what: "cannot fork".to_owned(), source })? {
        Side::Parent(code) => Ok(code),
        Side::Child(report) => {
            let mut report = Some(report);
            let ended = plan.serve(Some(&mut report));
            match (ended, report) {
                (Ok(()), _) => Ok(Exit::Success.into()),
                // Nobody waits any more: the error goes to the log, which is standard error by now.
                (Err(error), None) => Err(error),
                (Err(error), Some(report)) => {
                    report.failed(error.exit() as u8, &format!("kmsfs: {error}"));
                    Ok(error.exit().into())
                }
            }
        }
    }
}

impl Plan<'_> {
    /// Opens everything, mounts, and serves until the end. `report` is taken when the mount answers.
    fn serve(self, report: Option<&mut Option<Report>>) -> Result<()> {
        // Before the first thread, so that each thread inherits the blocked or handled signals.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
            .map_err(|source| CliError::Io { what: "cannot catch signals".to_owned(), source })?;
        if let Some(warning) = daemon::lock_memory() {
            output::warn(&warning);
        }
        daemon::raise_open_files();
        let (how, source) = (self.how, &self.source);
        let path = &source.path;
        let (dir, service) = (source.open)(&self.global, source.passphrase.clone())?;
        // What may fail is done before the mount is seen.
        let log = match report {
            Some(_) => Some(daemon::open_log(&self.log).map_err(|e| CliError::io("the log", &self.log, e))?),
            None => None,
        };
        let regions = service::regions(&self.global, source.passphrase.clone());
        let options = VolumeOptions { regions, ..how.volume_options(source, &service) };
        let volume = Volume::open(dir, service.keys, service.ledger, options);
        let volume = Arc::new(volume.map_err(|e| match e {
            // Of all that need a volume to themselves only a mount can do with less.
            VolumeError::InUse => {
                CliError::Busy(format!("{}: {e}, or let all its mounts be read-only", path.display()))
            }
            e => CliError::volume(path, e),
        })?);
        known::volume(&self.global, path);
        // Files get the modes that programs ask the mount for; the kernel has applied their umask.
        rustix::process::umask(rustix::fs::Mode::empty());
        let mounted = crate::mount::mount(volume.clone(), &self.point, &how.mount_options(source));
        let mounted = mounted.inspect_err(|_| {
            // Nothing was written through it; the mount's own error is the one to tell.
            let _ = volume.close();
        })?;
        let control = (!source.read_only).then(|| {
            let passphrase = source.passphrase.clone();
            let keeper = Keeper { global: self.global, passphrase, volume: path.clone() };
            Control::start(volume.clone(), mounted.kernel(), path, Arc::new(keeper))
        });
        let control = control.transpose().unwrap_or_else(|error| {
            tracing::warn!(
                "no control socket can be made in {}: {error}; what needs the volume while it is mounted cannot be done",
                path.display()
            );
            None
        });
        if let (Some(report), Some(log)) = (report.and_then(Option::take), log) {
            // A parent that was killed does not hear it; the mount stands all the same.
            let _ = report.ready(&log);
        }
        let left = attend(&volume, &mounted, control, signals, &self.point);
        // Open files of a mount that is left still have requests under way; the process ends before they do.
        let ended = if left { Ok(()) } else { mounted.join() };
        if let Err(error) = ended {
            tracing::warn!("{error}");
        }
        volume.close().map_err(|e| CliError::volume(path, e))
    }
}

/// Attends to the mount until it is taken away, or a signal asks for the end. True if files are still open
/// there.
fn attend(
    volume: &Volume,
    mounted: &Mounted,
    mut control: Option<Control>,
    mut signals: Signals,
    point: &Path,
) -> bool {
    let mut leaving: Option<Instant> = None;
    let mut ticked = Instant::now();
    while mounted.is_running() {
        std::thread::sleep(GLANCE);
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            for node in volume.tick() {
                // Pages that cannot be written back any more stay dirty; fsync tells their writer.
                if let Err(error) = mounted.drop_pages(node) {
                    tracing::warn!("cached pages of node {node} stay: {error}");
                }
            }
        }
        match leaving {
            None if signals.pending().next().is_some() => {
                leaving = Some(Instant::now());
                // Whoever holds the volume still would hold this up.
                drop(control.take());
                leave(mounted, point);
            }
            Some(since) if since.elapsed() > GRACE || signals.pending().next().is_some() => {
                tracing::warn!("{} is left while files are open there", point.display());
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Takes the mount away. If files are open there, it goes out of sight at once, with what programs have
/// written so far on its way to the disk, and ends when they are closed.
fn leave(mounted: &Mounted, point: &Path) {
    match mounted.unmount() {
        Ok(()) => return,
        Err(MountError::Busy { .. }) => {
            tracing::warn!("{} is busy: {}", point.display(), mounts::busy_with(point));
        }
        Err(error) => tracing::warn!("{error}"),
    }
    if let Ok(root) = File::open(point) {
        // An error of one file is its writer's to hear, at fsync or close.
        let _ = rustix::fs::syncfs(&root);
    }
    if let Err(error) = mounted.unmount_lazily() {
        tracing::warn!("{} cannot be unmounted: {error}", point.display());
    }
}

/// The two directories, absolute, when nothing speaks against mounting one on the other.
fn check(volume: &Path, point: &Path) -> Result<(PathBuf, PathBuf)> {
    let volume = absolute(volume, "the volume", "make one with `kmsfs init`")?;
    let point = free(point)?;
    if point.starts_with(&volume) || volume.starts_with(&point) {
        return Err(CliError::Usage(format!(
            "the mount point {} and the volume {} must not lie in one another; choose another mount point",
            point.display(),
            volume.display()
        )));
    }
    Ok((volume, point))
}

/// An absolute path, links followed.
fn absolute(path: &Path, what: &str, advice: &str) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| match e.raw_os_error() {
        Some(libc::ENOTCONN) => dead(path),
        _ if e.kind() == io::ErrorKind::NotFound => {
            CliError::Failed(format!("{what} {} does not exist; {advice}", path.display()))
        }
        _ => CliError::io(what, path, e),
    })
}

/// A mount point, absolute: an empty directory on which nothing is mounted.
pub fn free(point: &Path) -> Result<PathBuf> {
    let point = absolute(point, "the mount point", "make it, or the directory above it, with mkdir")?;
    let shown = point.display();
    if let Ok(Some(there)) = mounts::at(&point) {
        return Err(if !there.answers() {
            dead(&point)
        } else {
            CliError::Busy(format!(
                "something ({}) is mounted at {shown} already; unmount it first, or choose another mount point",
                there.kind
            ))
        });
    }
    let mut entries = fs::read_dir(&point).map_err(|e| CliError::io("the mount point", &point, e))?;
    if entries.next().is_some() {
        return Err(CliError::Busy(format!(
            "the mount point {shown} is not empty, and what is in it would be hidden; choose another"
        )));
    }
    Ok(point)
}

fn dead(point: &Path) -> CliError {
    CliError::Busy(format!(
        "{0} is a mount whose process has died; take it away with `kmsfs umount {0}`",
        point.display()
    ))
}
