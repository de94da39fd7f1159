//! `kmsfs rewrap`: the keys of a volume under another KMS key, or under the current material of theirs; and
//! `kmsfs inspect --summary`, which counts what is under which.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::control::Control;
use super::error::{CliError, Result};
use super::global::Global;
use super::global::Which;
use super::service::{self, Service};
use super::{daemon, known, mounts, output};
use crate::crypto::SecretVec;
use crate::iam::Region;
use crate::kms::{KeyService, KmsError, KmsErrorKind};
use crate::mount::control::{Place, Request};
use crate::volume::VolumeError;
use crate::volume::descriptor::Descriptor;
use crate::volume::disk::Dir;
use crate::volume::host::HostDir;
use crate::volume::rewrap::{self, Failures, Options, Report};

/// Brings every file's data key under another KMS key, or under the current material of its own
///
/// Each data key, and the volume key, is re-encrypted by the key service (ReEncrypt); no data is read or written
/// but one page of each file. If the volume is mounted, its mount does it, while it is used. What was begun and cut off
/// goes on when it is called again. Do not disable or delete the old key before it has ended well, nor before backups
/// have the new headers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A volume or mount point, or a directory or file in it (the volume key then stays)
    path: PathBuf,
    /// KMS key to come under: key id, ARN, alias or alias ARN [default: the volume's, its current material]
    #[arg(long, visible_alias = "key-id", value_name = "KEY")]
    key: Option<String>,
    /// Let the volume belong to the region of --key (an ARN's, or --region) from now on: Decrypt there, Encrypt here
    #[arg(long, requires = "key")]
    change_region: bool,
    /// Let the volume's keys be at the key service that --kms names from now on: Decrypt at the other, Encrypt at this
    #[arg(long, requires = "key")]
    change_kms: bool,
    #[command(flatten)]
    how: How,
}

/// What is the same for all who go through a volume's files and change their keys.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Leave the times of modification alone; without it each changed file's goes on by one second, so that
    /// backups that compare only size and time see it
    #[arg(long)]
    pub keep_mtime: bool,
    /// Change nothing; tell what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Threads that do it [default: one for each processor; with --kms aws 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl How {
    /// Threads of this process.
    pub fn threads(&self, global: &Global) -> usize {
        self.threads.map_or_else(|| usual_threads(global.kms), usize::from)
    }

    /// Threads of a mount that is asked; None: as it usually takes.
    pub fn threads_of_mount(&self, global: &Global) -> Option<u16> {
        self.threads.or((global.kms == Which::Aws).then_some(OVER_A_NETWORK))
    }
}

/// A volume's root, open, and what was named in it.
pub struct Target {
    /// The root.
    pub root: PathBuf,
    /// The same, open.
    pub dir: Arc<dyn Dir>,
    place: Place,
}

impl Target {
    /// Finds the volume above a path, or behind the mount that it is seen through. Links are followed.
    pub fn find(path: &Path) -> Result<Self> {
        let whole = path.canonicalize().map_err(|e| CliError::io("the volume", path, e))?;
        Self::at(path, &whole)
    }

    /// The same for an entry in a volume, which may be a link itself.
    pub fn entry(path: &Path) -> Result<Self> {
        let failed = |e| CliError::io("the path", path, e);
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Self::find(path) };
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let whole = above.canonicalize().map_err(failed)?.join(name);
        std::fs::symlink_metadata(&whole).map_err(failed)?;
        Self::at(path, &whole)
    }

    fn at(path: &Path, whole: &Path) -> Result<Self> {
        let names = |below: &Path| below.iter().map(|name| name.as_bytes().to_vec()).collect();
        let root = whole.ancestors().find(|above| above.join("kmsfs.json").exists());
        let (root, place) = match root {
            Some(root) => {
                let below = whole.strip_prefix(root).unwrap_or(Path::new(""));
                (root.to_owned(), Place::Stored(names(below)))
            }
            None => {
                let mut seen = mounts::all().unwrap_or_default().into_iter();
                let mount = seen.rfind(|mounted| mounted.is_ours() && whole.starts_with(&mounted.point));
                let mount = mount.ok_or_else(|| {
                    CliError::Failed(format!("{} is neither a volume nor in one", path.display()))
                })?;
                let below = whole.strip_prefix(&mount.point).unwrap_or(Path::new(""));
                (mount.source, Place::Seen(names(below)))
            }
        };
        let dir = HostDir::open(&root).map_err(|e| CliError::io("the volume", &root, e))?;
        Ok(Self { root, dir, place })
    }

    /// True for the volume itself.
    pub fn is_whole(&self) -> bool {
        let (Place::Stored(names) | Place::Seen(names)) = &self.place;
        names.is_empty()
    }

    /// Where it is in the volume.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// The names in the backing directory that lead there.
    pub fn below(&self) -> Result<&[Vec<u8>]> {
        match &self.place {
            Place::Stored(names) => Ok(names),
            Place::Seen(names) if names.is_empty() => Ok(names),
            Place::Seen(_) => Err(CliError::Busy(format!(
                "it is named as a mount shows it, which is not asked for this, or cannot be; name the volume, {}, or what is in it \
                 under its encrypted name",
                self.root.display()
            ))),
        }
    }

    /// An error of the volume.
    pub fn failed(&self, error: VolumeError) -> CliError {
        CliError::volume(&self.root, error)
    }
}

/// Threads that ask a key service over a network, where most wait.
const OVER_A_NETWORK: u16 = 16;

/// Threads that ask the key service where nothing else is said.
pub fn usual_threads(kms: Which) -> usize {
    if kms == Which::Aws { OVER_A_NETWORK.into() } else { processors() }
}

/// Threads where nothing else is said.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let target = Target::find(&args.path)?;
    let descriptor = Descriptor::read(&*target.dir).map_err(|e| target.failed(e))?;
    service::agree(global, &descriptor, args.change_kms)?;
    let report = match Control::connect(&target.root)? {
        Some(control) => in_mount(global, args, &target, &descriptor, control)?,
        None => alone(global, args, &target, &descriptor)?,
    };
    known::volume(global, &target.root);
    show(args, &report)?;
    if report.cut {
        return Err(CliError::Busy("the mount ended; call it again, and it does what is left".to_owned()));
    }
    told(&report.failed, "could not be rewrapped; the others are. When the reason is gone, call it again")
}

/// The region of the target: that of an ARN, or the chosen one.
fn region_here(global: &Global, args: &Args) -> Result<Region> {
    args.key.as_ref().map_or_else(|| Ok(global.region.clone()), |key| service::region_of_key(global, key))
}

/// The target's region must be the volume's, or become it.
fn same_region(args: &Args, volume: &Descriptor, there: &str) -> Result<()> {
    if there == volume.region || args.change_region {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "the volume belongs to region {0}, the key service is in {there}; use --region {0}, or --change-region to \
         bring the volume under a key of {there}",
        volume.region
    )))
}

/// By the mount that has the volume open.
fn in_mount(
    global: &Global,
    args: &Args,
    target: &Target,
    volume: &Descriptor,
    control: Control,
) -> Result<Report> {
    if global.kms == Which::Embedded {
        same_region(args, volume, region_here(global, args)?.as_str())?;
    }
    if args.change_region || args.change_kms {
        return Err(CliError::Busy(format!(
            "{} is mounted; a volume comes to another region or key service only while it is not: unmount it first \
             (`kmsfs umount`)",
            target.root.display()
        )));
    }
    let request = Request::Rewrap {
        key: args.key.clone(),
        place: target.place(),
        keep_mtime: args.how.keep_mtime,
        dry_run: args.how.dry_run,
        threads: args.how.threads_of_mount(global),
        principal: global.principal.clone(),
    };
    by_mount(control, &request)
}

/// Asks a mount for what takes time.
pub fn by_mount<T: DeserializeOwned>(control: Control, request: &Request) -> Result<T> {
    let bar = progress(0);
    let done = control.ask(request, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done
}

/// By this process, which keeps others from mounting the volume meanwhile.
fn alone(global: &Global, args: &Args, target: &Target, volume: &Descriptor) -> Result<Report> {
    let below = target.below()?;
    daemon::raise_open_files();
    let services = Services::new(global, args, target, volume)?;
    same_region(args, volume, services.region.as_str())?;
    let here = services.here()?;
    let options = Options {
        key_id: args.key.clone(),
        below: below.to_vec(),
        change_service: args.change_kms,
        keep_mtime: args.how.keep_mtime,
        dry_run: args.how.dry_run,
        threads: args.how.threads(global),
    };
    let total = rewrap::count(&target.dir, below).map_err(|e| target.failed(e))?;
    let bar = progress(total);
    let regions = |region: &str| services.source(region);
    let done = rewrap::rewrap(&target.dir, &here.keys, &regions, &options, &|| bar.inc(1));
    bar.finish_and_clear();
    done.map_err(|e| target.failed(e))
}

/// The key services between which keys are rewrapped.
struct Services<'a> {
    global: &'a Global,
    passphrase: Option<SecretVec>,
    /// Where the keys come from.
    source: Which,
    /// Region of the target.
    region: Region,
}

impl<'a> Services<'a> {
    fn new(global: &'a Global, args: &Args, target: &Target, volume: &Descriptor) -> Result<Self> {
        let source = match (args.change_kms, global.kms) {
            (false, same) => same,
            (true, Which::Aws) => Which::Embedded,
            (true, Which::Embedded) => Which::Aws,
        };
        let region = match (global.kms, &args.key) {
            (Which::Aws, None) => service::region_of(&target.root, volume)?,
            _ => region_here(global, args)?,
        };
        let new = global.kms == Which::Aws && service::is_new(&global.in_region(region.clone()))?;
        Ok(Self { global, passphrase: global.passphrase(new)?, source, region })
    }

    /// The target's.
    fn here(&self) -> Result<Service> {
        Service::in_region(self.global, self.global.kms, &self.region, self.passphrase.clone())
    }

    /// Where keys of a region come from.
    fn source(&self, region: &str) -> std::result::Result<Arc<dyn KeyService>, VolumeError> {
        let failed = |why: String| {
            VolumeError::Key(KmsError::new(
                KmsErrorKind::NotFound,
                format!("The key is in region {region:?}, which cannot be used here: {why}"),
            ))
        };
        let name: Region = region.parse().map_err(|e: crate::iam::IamError| failed(e.to_string()))?;
        let service = Service::in_region(self.global, self.source, &name, self.passphrase.clone());
        Ok(service.map_err(|e| failed(e.to_string()))?.keys)
    }
}

/// On the terminal, if standard error is one.
pub fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template = "{wide_bar} {human_pos} of {human_len} files, {per_sec}, {eta} left";
    // A template that does not parse leaves the plain bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show(args: &Args, report: &Report) -> Result<()> {
    if args.how.json {
        return output::json(report);
    }
    let volume_key = match (report.volume_key, args.how.dry_run) {
        (true, true) => "would be rewrapped",
        (true, false) => "rewrapped",
        (false, _) => "left as it is",
    };
    output::facts(&[
        ("KMS key", report.key_arn.clone()),
        ("key material", shown(report.key_material_id.as_deref())),
        ("volume key", volume_key.to_owned()),
        (if args.how.dry_run { "would be rewrapped" } else { "rewrapped" }, files(report.rewrapped)),
        ("as wished already", files(report.already)),
        ("without a key, being empty", files(report.empty)),
    ])
}

/// A number of files, in words.
pub fn files(count: u64) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}

fn shown(material: Option<&str>) -> String {
    material.unwrap_or("of another service").to_owned()
}

/// An error if something failed; the first few by warnings.
pub fn told(failed: &Failures, what: &str) -> Result<()> {
    if failed.count == 0 {
        return Ok(());
    }
    for failure in &failed.first {
        output::warn(&format!("{}: {}", failure.path, failure.reason));
    }
    let files = if failed.count == 1 { "file or directory" } else { "files or directories" };
    Err(CliError::Failed(format!("{} {files} {what}", failed.count)))
}

/// Runs `kmsfs inspect --summary`.
pub fn summary(path: &Path, as_json: bool) -> Result<()> {
    let target = Target::find(path)?;
    daemon::raise_open_files();
    let found = rewrap::summarise(&target.dir, target.below()?, processors());
    let found = found.map_err(|e| target.failed(e))?;
    let name =
        |(key, material): &(String, Option<String>)| json!({ "key_arn": key, "key_material_id": material });
    if as_json {
        let by_key = found.files.iter().map(|(under, count)| {
            let mut entry = name(under);
            entry["files"] = json!(count);
            entry
        });
        output::json(&json!({
            "volume_keys": found.volume_keys.iter().map(name).collect::<Vec<_>>(),
            "data_keys": by_key.collect::<Vec<_>>(),
            "files_without_key": found.empty,
            "failed": found.failed,
        }))?;
    } else {
        let row = |what: String, (key, material): &(String, Option<String>)| {
            [what, key.clone(), shown(material.as_deref())]
        };
        let mut rows: Vec<_> =
            found.volume_keys.iter().map(|under| row("the volume key".to_owned(), under)).collect();
        rows.extend(found.files.iter().map(|(under, count)| row(files(*count), under)));
        if found.empty > 0 {
            rows.push([files(found.empty), "none: never written to".to_owned(), String::new()]);
        }
        output::table(["WHAT", "KMS KEY", "KEY MATERIAL"], &rows)?;
    }
    told(&found.failed, "could not be read")
}
