//! `kmsfs shred`: files and trees made unreadable by destroying what opens them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::error::{CliError, Result};
use super::rewrap::{Target, files, processors, told};
use super::{daemon, mounts, output};
use crate::volume::VolumeError;
use crate::volume::shred::{self, Options, Report};

/// Makes a file or tree unreadable by destroying its wrapped data keys, and removes it
///
/// The wrapped keys in each header are overwritten and brought to the disk, then the names go; no key is needed. The volume
/// must not be mounted, so the path is one in its backing directory, with encrypted names; given a path in a mount, the command
/// tells that one. It cannot reach copies of the headers: backups and snapshots, reflinks, old blocks that a solid-state disk or a
/// copy-on-write filesystem (btrfs) keeps. Whoever has one of those and a key that opens it reads the file. What reaches every copy is the
/// deletion of the KMS key: keep what must go together in a volume with a key of its own, and `kmsfs key schedule-deletion` it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or directories in the volume's backing directory
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Also files that have further names (hard links) elsewhere, under which they become unreadable too
    #[arg(long)]
    hard_links: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args) -> Result<()> {
    daemon::raise_open_files();
    let places = args.paths.iter().map(|path| find(path)).collect::<Result<Vec<_>>>()?;
    if !args.yes {
        for path in &args.paths {
            confirm(path)?;
        }
    }
    let options = Options { hard_links: args.hard_links, threads: processors() };
    let mut all = Vec::new();
    for (path, place) in args.paths.iter().zip(&places) {
        let done = shred::shred(&place.dir, place.below()?, &options);
        let report = done.map_err(|error| match error {
            VolumeError::Invalid(why) => CliError::Usage(format!("{}: {why}", path.display())),
            error => CliError::volume(path, error),
        })?;
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
        told(
            &report.failed,
            "could not be overwritten; nothing was removed. When the reason is gone, call it again",
        )?;
    }
    Ok(())
}

fn show(path: &Path, report: &Report) -> Result<()> {
    output::facts(&[
        (if report.removed { "shredded and removed" } else { "not removed" }, path.display().to_string()),
        ("keys destroyed", files(report.shredded)),
        ("without a key, being empty", files(report.empty)),
    ])
}

/// A path in the backing directory of a volume; of one in a mount it is told where it is there.
fn find(path: &Path) -> Result<Target> {
    let place = Target::find(path)?;
    if place.below().is_err()
        && let Some((mount, backing)) = behind(path)
    {
        return Err(CliError::Busy(format!(
            "{} is seen through a mount; a volume is shredded in while it is not mounted: `kmsfs umount {}`, then `kmsfs shred {}`",
            path.display(),
            mount.display(),
            backing.display()
        )));
    }
    Ok(place)
}

/// The mount that a path is seen through, and where it is in the backing: a mount shows the backing's inode numbers.
fn behind(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let whole = path.parent()?.canonicalize().ok()?.join(path.file_name()?);
    let all = mounts::all().ok()?;
    let mount = all.into_iter().filter(mounts::Mounted::is_ours).rfind(|m| whole.starts_with(&m.point))?;
    let (mut seen, mut backing) = (mount.point.clone(), mount.source.clone());
    for step in whole.strip_prefix(&mount.point).ok()? {
        seen.push(step);
        let ino = fs::symlink_metadata(&seen).ok()?.ino();
        let entry = fs::read_dir(&backing)
            .ok()?
            .flatten()
            .find(|entry| fs::symlink_metadata(entry.path()).is_ok_and(|there| there.ino() == ino))?;
        backing = entry.path();
    }
    Some((mount.point, backing))
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
