//! `kmsfs shred`: files and trees made unreadable by destroying what opens them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::control::Control;
use super::error::{CliError, Result};
use super::global::Global;
use super::rewrap::{Target, by_mount, files, processors, told};
use super::service::Service;
use super::{daemon, output};
use crate::kms::Ledger;
use crate::mount::control::Request;
use crate::volume::VolumeError;
use crate::volume::descriptor::Descriptor;
use crate::volume::shred::{self, Options, Report};

/// Makes a file or tree unreadable by destroying its wrapped data keys, and removes it
///
/// The wrapped keys in each header are overwritten and brought to the disk, then the names go; no key is needed. If the volume is
/// mounted, its mount does it: name the file as it is seen there. Whoever has it open reads and writes nothing of it any more
/// (EKEYREVOKED). If it is not mounted, the path is one in its backing directory, with encrypted names.
/// It cannot reach copies of the headers: backups and snapshots, reflinks, old blocks that a solid-state disk or a
/// copy-on-write filesystem (btrfs) keeps. Whoever has one of those and a key that opens it reads the file. What reaches every copy is the
/// deletion of the KMS key: keep what must go together in a volume with a key of its own, and `kmsfs key schedule-deletion` it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or directories, as they are seen through a mount, or in the volume's backing directory
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Also files that have further names (hard links) elsewhere, under which they become unreadable too
    #[arg(long)]
    hard_links: bool,
    /// Where the volume is not mounted and the home of the key service is lost: leave no event in its log
    #[arg(long)]
    unrecorded: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    daemon::raise_open_files();
    let places = args.paths.iter().map(|path| Target::entry(path)).collect::<Result<Vec<_>>>()?;
    if !args.yes {
        for path in &args.paths {
            confirm(path)?;
        }
    }
    let mut all = Vec::new();
    for (path, place) in args.paths.iter().zip(&places) {
        let report = match Control::connect(&place.root)? {
            Some(control) => in_mount(args, path, place, control)?,
            None => alone(global, args, path, place)?,
        };
        if !args.json {
            show(path, &report)?;
        }
        all.push((path, report));
    }
    if args.json {
        let shown =
            all.iter().map(|(path, report)| json!({ "path": path.display().to_string(), "result": report }));
        output::json(&shown.collect::<Vec<_>>())?;
    }
    output::warn(
        "not reached: backups, snapshots, reflinks and old blocks of the disk that hold these headers; who has one of those and a key that \
         opens it can read the files",
    );
    for place in &places {
        if place.root.join(".kmsfs/snapshots").is_dir() {
            output::warn(&format!(
                "{} has snapshots; what they hold stays readable there",
                place.root.display()
            ));
        }
    }
    for (_, report) in &all {
        if report.cut {
            return Err(CliError::Busy(
                "the mount ended; nothing was removed. Call it again, and it does what is left".to_owned(),
            ));
        }
        told(
            &report.failed,
            "could not be overwritten; nothing was removed. When the reason is gone, call it again",
        )?;
    }
    Ok(())
}

/// By the mount that has the volume open.
fn in_mount(args: &Args, path: &Path, place: &Target, control: Control) -> Result<Report> {
    let request = Request::Shred { place: place.place(), hard_links: args.hard_links };
    by_mount(control, &request).map_err(|error: CliError| error.of_usage(path))
}

/// By this process, which keeps others from mounting the volume meanwhile.
fn alone(global: &Global, args: &Args, path: &Path, place: &Target) -> Result<Report> {
    let below = place.below()?;
    let options = Options {
        hard_links: args.hard_links,
        threads: processors(),
        uid: rustix::process::geteuid().as_raw(),
    };
    let ledger = if args.unrecorded { None } else { Some(ledger(global, place)?) };
    shred::shred(&place.dir, below, &options, ledger.as_deref()).map_err(|error| match error {
        VolumeError::Invalid(why) => CliError::Usage(format!("{}: {why}", path.display())),
        error => CliError::volume(path, error),
    })
}

/// The log of the volume's key service.
fn ledger(global: &Global, place: &Target) -> Result<Arc<dyn Ledger>> {
    let descriptor = Descriptor::read(&*place.dir).map_err(|e| place.failed(e))?;
    let service = Service::at_home(global, &place.root, &descriptor, global.passphrase(false)?);
    match service {
        Ok(service) => Ok(service.ledger),
        Err(CliError::Home(why)) => Err(CliError::Home(format!(
            "{why}; nothing was shredded, for it would not be recorded: --unrecorded if the home is lost"
        ))),
        Err(error) => Err(error),
    }
}

fn show(path: &Path, report: &Report) -> Result<()> {
    let mut facts = vec![
        (if report.removed { "shredded and removed" } else { "not removed" }, path.display().to_string()),
        ("keys destroyed", files(report.shredded)),
        ("without a key, being empty", files(report.empty)),
    ];
    if report.open > 0 {
        facts.push(("taken from who had them open", files(report.open)));
    }
    output::facts(&facts)
}

/// Has the name typed on the terminal.
fn confirm(path: &Path) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(CliError::Usage(format!(
            "{} has no name of its own; name what is to be shredded",
            path.display()
        )));
    };
    let failed = |source| CliError::Io {
        what: "cannot ask on the terminal whether to shred (--yes does not ask)".to_owned(),
        source,
    };
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let shown = name.to_string_lossy();
    let prompt =
        format!("{} will be unreadable for ever. Type its name, {shown}, to go on: ", path.display());
    terminal.write_all(prompt.as_bytes()).map_err(failed)?;
    let mut typed = [0; 1024];
    // A terminal hands out one line for each read.
    let len = terminal.read(&mut typed).map_err(failed)?;
    let typed = typed[..len].strip_suffix(b"\n").unwrap_or(&typed[..len]);
    if typed != name.as_bytes() {
        return Err(CliError::Usage("that is not its name; nothing was shredded".to_owned()));
    }
    Ok(())
}
