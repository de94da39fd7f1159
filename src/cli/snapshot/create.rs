//! `kmsfs snapshot create`.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::super::control::{Control, Held};
use super::super::error::{CliError, Result};
use super::super::global::Global;
use super::super::service::{self, Service};
use super::super::{daemon, known, mounts, output};
use super::common::{self, progress, size, time};
use super::place::{self, S3, failed};
use crate::snapshot::SnapshotError;
use crate::snapshot::create::{self, Created, Ends, Hold, Options, Quiesce, Unmounted};
use crate::snapshot::depot::{Depot, DirDepot};
use crate::volume::descriptor::Descriptor;
use crate::volume::disk::{Dir, Time};
use crate::volume::host::HostDir;
use crate::volume::layout::PAGE;

/// Takes a snapshot of a volume, mounted or not
///
/// It is of one moment. What changed since the newest snapshot of the volume in the depot is copied, the rest is
/// shared with it. While a mounted volume is copied it can be used; only the last pass, over what changed meanwhile,
/// holds its writers. No file's key is used.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume: its directory, or where it is mounted
    volume: PathBuf,
    /// Name of the snapshot [default: the time, in UTC]
    #[arg(long)]
    name: Option<String>,
    /// Depot to keep it in: a directory, made if it is not there (not in the volume's own mount), a volume, or
    /// s3://BUCKET/PREFIX [default: the volume's own, in .kmsfs/snapshots]
    #[arg(long, value_name = "DEPOT")]
    to: Option<String>,
    /// Copy everything, share nothing with earlier snapshots
    #[arg(long)]
    full: bool,
    /// How long writers may be held; if that is too short, no snapshot is made
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    hold: u64,
    #[command(flatten)]
    s3: S3,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    daemon::raise_open_files();
    let (path, root) = common::volume(&args.volume)?;
    let told = |e| match e {
        SnapshotError::Volume(e) => CliError::volume(&path, e),
        e => failed(e),
    };
    let directory = directory(args, &path)?;
    let described = Descriptor::read(&*root).map_err(|e| CliError::volume(&path, e))?;
    let service = Service::of_volume(global, &path, &*root, service::passphrase(global, &path, &*root)?)?;
    if service.region.as_str() != described.region {
        return Err(CliError::volume(
            &path,
            crate::volume::VolumeError::WrongRegion {
                volume: described.region,
                service: service.region.to_string(),
            },
        ));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Time { sec: now.as_secs() as i64, nsec: now.subsec_nanos() };
    let name = args.name.clone().unwrap_or_else(|| time(now.sec).replace(':', "-"));
    let (depot, scratch) = depot(args, &path, directory.as_deref())?;
    let ends = Ends {
        root: &root,
        depot: &depot,
        scratch: &*scratch,
        service: &*service.keys,
        ledger: &*service.ledger,
    };
    let options = Options { full: args.full, ..Options::new(name, account(&described, global), now) };
    let bar = progress(None, "entries");
    let seen = |_| bar.inc(1);
    let control = Control::connect(&path)?;
    let live = control.is_some();
    let created = match control {
        Some(control) => {
            let live = Live {
                volume: &path,
                seconds: args.hold,
                control: RefCell::new(Some(control)),
                failed: RefCell::new(None),
            };
            let created = create::create(&ends, &live, &options, &seen);
            if let Some(error) = live.failed.into_inner() {
                return Err(error);
            }
            created
        }
        None => create::create(&ends, &Unmounted::new(&*root).map_err(told)?, &options, &seen),
    };
    bar.finish_and_clear();
    let created = created.map_err(told)?;
    if let Some(reason) = &created.parent_unusable {
        output::warn(&format!("everything was copied, for the newest snapshot cannot be used: {reason}"));
    }
    if args.to.is_some() {
        known::depot(global, &depot.location());
    }
    show(args, &created, &depot.location(), live)
}

/// The account of the volume's keys: the fifth part of an ARN.
fn account(described: &Descriptor, global: &Global) -> String {
    let arn = described.keys.first().map(|key| key.key_arn.as_str()).unwrap_or_default();
    match arn.split(':').nth(4) {
        Some(account) if !account.is_empty() => account.to_owned(),
        _ => global.account.to_string(),
    }
}

/// The directory that the depot is or shall be; None if it is a bucket.
fn directory(args: &Args, volume: &Path) -> Result<Option<PathBuf>> {
    let directory = match &args.to {
        Some(url) if url.starts_with("s3://") => return Ok(None),
        // A volume's own, or a directory.
        Some(path) => place::own(Path::new(path)).unwrap_or_else(|| PathBuf::from(path)),
        None => volume.join(".kmsfs/snapshots"),
    };
    // It may have to be made. Where its parent is not there either, making it tells.
    let there = std::path::absolute(&directory)
        .and_then(|whole| whole.canonicalize().or_else(|_| whole.parent().unwrap_or(&whole).canonicalize()));
    let mounts = mounts::all().unwrap_or_default();
    let within = there.ok().and_then(|there| mounts::of_volume(&mounts, volume, &there));
    match within {
        Some(mount) => Err(CliError::Usage(format!(
            "{} lies in the mount of the volume itself, {}, where the snapshot would wait for the hold that it needs; give --to \
             a depot elsewhere, or leave it away for the volume's own",
            directory.display(),
            mount.point.display()
        ))),
        None => Ok(Some(directory)),
    }
}

/// The depot, and a directory for temporary files.
fn depot(args: &Args, volume: &Path, directory: Option<&Path>) -> Result<(Arc<dyn Depot>, Arc<dyn Dir>)> {
    let scratch = |path: &Path| HostDir::open(path).map_err(|e| CliError::io("the depot", path, e));
    match (directory, &args.to) {
        (Some(directory), _) => {
            Ok((Arc::new(DirDepot::create(directory).map_err(failed)?), scratch(directory)?))
        }
        (None, url) => {
            let url = url.as_deref().unwrap_or_default();
            Ok((place::open(url, &args.s3)?, scratch(&volume.join(".kmsfs"))?))
        }
    }
}

fn show(args: &Args, created: &Created, depot: &str, live: bool) -> Result<()> {
    let snapshot = &created.descriptor;
    let held = created.held.as_millis() as u64;
    if args.json {
        return output::json(&json!({ "depot": depot, "held_ms": held, "snapshot": snapshot }));
    }
    let counts = &snapshot.counts;
    let mut facts = vec![
        ("snapshot", snapshot.name.clone()),
        ("depot", depot.to_owned()),
        ("against", snapshot.parent.as_ref().map_or("nothing: it is whole".to_owned(), |p| p.name.clone())),
        ("files", format!("{}, {}", counts.files, size(counts.bytes))),
        ("added to the depot", size(counts.new_pages * PAGE)),
    ];
    if live {
        facts.push(("writers were held", format!("{held} ms")));
    }
    output::facts(&facts)
}

/// A mounted volume.
struct Live<'a> {
    volume: &'a Path,
    seconds: u64,
    control: RefCell<Option<Control>>,
    /// The mount's own words.
    failed: RefCell<Option<CliError>>,
}

impl Live<'_> {
    fn told(&self, error: CliError) -> SnapshotError {
        let text = error.to_string();
        *self.failed.borrow_mut() = Some(error);
        SnapshotError::Refused(text)
    }
}

impl Quiesce for Live<'_> {
    fn is_live(&self) -> bool {
        true
    }

    fn sync(&self) -> crate::snapshot::Result<()> {
        // What is not found, or fails, is left for the hold, which syncs too and tells.
        for mounted in mounts::all().unwrap_or_default() {
            if mounted.is_ours() && mounted.source == self.volume && !mounted.read_only {
                let _ = File::open(&mounted.point).map(rustix::fs::syncfs);
            }
        }
        Ok(())
    }

    fn hold(&self) -> crate::snapshot::Result<Box<dyn Hold + '_>> {
        // Connected at the start, and taken once.
        let control = match self.control.borrow_mut().take() {
            Some(control) => control,
            None => return Err(SnapshotError::Refused("the mount is held already".to_owned())),
        };
        let held = control.hold_for(self.seconds).map_err(|e| self.told(e))?;
        Ok(Box::new(Holding { live: self, held: RefCell::new(held) }))
    }
}

struct Holding<'a> {
    live: &'a Live<'a>,
    held: RefCell<Held>,
}

impl Hold for Holding<'_> {
    fn still(&self) -> crate::snapshot::Result<()> {
        self.held.borrow_mut().still().map_err(|e| self.live.told(e))
    }
}
