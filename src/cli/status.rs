//! `kmsfs status`: which volumes are mounted where.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::{CliError, Result};
use super::{mounts, output, umount};

/// Lists the mounts there are, or tells the state of one volume
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A volume or a mount point
    path: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Mount {
    volume: PathBuf,
    mount_point: PathBuf,
    read_only: bool,
    answers: bool,
}

/// Runs it.
pub fn run(args: &Args) -> Result<()> {
    let all = mounts::all()
        .map_err(|source| CliError::Io { what: "cannot read /proc/self/mountinfo".to_owned(), source })?;
    let path = args.path.as_deref().map(umount::absolute).transpose()?;
    let wanted = |m: &mounts::Mounted| path.as_ref().is_none_or(|p| *p == m.point || *p == m.source);
    let found: Vec<Mount> = all
        .into_iter()
        .filter(|m| m.is_ours() && wanted(m))
        .map(|m| Mount {
            answers: m.answers(),
            volume: m.source,
            mount_point: m.point,
            read_only: m.read_only,
        })
        .collect();
    if args.json {
        return output::json(&found);
    }
    match &path {
        Some(path) if found.is_empty() => output::line(&unmounted(path)?),
        _ => output::table(
            ["VOLUME", "MOUNT POINT", "MODE", "STATE"],
            &found.iter().map(row).collect::<Vec<_>>(),
        ),
    }
}

fn row(mount: &Mount) -> [String; 4] {
    [
        mount.volume.display().to_string(),
        mount.mount_point.display().to_string(),
        if mount.read_only { "read-only" } else { "read-write" }.to_owned(),
        if mount.answers { "answers" } else { "its process has died: kmsfs umount takes it away" }.to_owned(),
    ]
}

/// What can be said of a volume that no mount here shows.
fn unmounted(volume: &Path) -> Result<String> {
    let shown = volume.display();
    if !volume.join("kmsfs.json").exists() {
        return Err(CliError::Failed(format!("{shown} is neither a volume nor a mount point of kmsfs")));
    }
    let private = volume.join(".kmsfs");
    let held = File::open(private.join("lock")).is_ok_and(|lock| {
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    });
    Ok(if held {
        format!("{shown} is in use by a process whose mount is not seen here")
    } else if umount::is_clean(&private.join("epoch")) {
        format!("{shown} is not mounted, and was closed cleanly")
    } else {
        format!(
            "{shown} is not mounted, and was not closed cleanly; the next mount checks and mends what was open"
        )
    })
}
