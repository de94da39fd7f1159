//! `kmsfs rekey`: new data keys, and the data encrypted anew.

use std::path::PathBuf;

use super::error::{CliError, Result};
use super::global::Global;
use super::rewrap::{How, Target, files, progress, told};
use super::service::{self, Service};
use super::{daemon, output};
use crate::volume::descriptor::Descriptor;
use crate::volume::rekey::{self, Options};
use crate::volume::rewrap;

/// Gives every file a new data key and encrypts its data anew
///
/// For when somebody may know data keys: a recipient that was removed, or who once could open the files and kept the keys.
/// Each file is written beside the old one, synced, and put into its place; it needs room for as many files as there are
/// threads. The volume must not be mounted. What was begun and cut off goes on when it is called again. The volume key,
/// under which names and extended attributes are, stays: `kmsfs snapshot copy` makes a volume with another.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A volume, or a directory or file in it (its encrypted name)
    path: PathBuf,
    #[command(flatten)]
    how: How,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let place = Target::find(&args.path)?;
    daemon::raise_open_files();
    let below = place.below().map_err(|_| {
        CliError::Busy(format!(
            "{} is seen through a mount, and a volume is rekeyed only while it is not mounted: `kmsfs umount` it, then rekey {} or \
             what is in it, under its encrypted name",
            args.path.display(),
            place.root.display()
        ))
    })?;
    let below = below.to_vec();
    let passphrase = global.passphrase(false)?;
    let descriptor = Descriptor::read(&*place.dir).map_err(|e| place.failed(e))?;
    let here = Service::at_home(global, &place.root, &descriptor, passphrase.clone())?.keys;
    let options = Options {
        below: below.clone(),
        keep_mtime: args.how.keep_mtime,
        dry_run: args.how.dry_run,
        threads: args.how.threads(global),
    };
    let total = rewrap::count(&place.dir, &below).map_err(|e| place.failed(e))?;
    let bar = progress(total);
    let done =
        rekey::rekey(&place.dir, &here, &service::regions(global, passphrase), &options, &|| bar.inc(1));
    bar.finish_and_clear();
    let report = done.map_err(|e| place.failed(e))?;
    if args.how.json {
        output::json(&report)?;
    } else {
        let mut facts = vec![
            (
                if args.how.dry_run { "would have a new key" } else { "new data key" },
                format!("{}, {} bytes", files(report.renewed), report.bytes),
            ),
            ("by an earlier run that was cut", files(report.already)),
            ("without a key, being empty", files(report.empty)),
        ];
        if report.outside > 0 {
            facts.push(("also named outside of the volume", files(report.outside)));
        }
        output::facts(&facts)?;
    }
    if report.outside > 0 && !args.how.dry_run {
        output::warn(
            "under their names outside of the volume (hard links of a backup, say) files are as they were, under their old keys",
        );
    }
    if !args.how.dry_run && report.renewed > 0 {
        output::warn(
            "copies, snapshots and backups made before, and blocks that the disk has not reused, are still under the old data keys",
        );
    }
    told(&report.failed, "could not be rekeyed; the others are. When the reason is gone, call it again")
}
