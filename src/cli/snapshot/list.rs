//! `kmsfs snapshot list` and `inspect`: what descriptors say; with --files, the tree under its true names.

use serde_json::json;

use super::super::error::{CliError, Result};
use super::super::global::Global;
use super::super::output;
use super::common::{self, size, time};
use super::place::{self, Named, S3, failed};
use crate::snapshot::catalogue;
use crate::snapshot::descriptor::Descriptor;
use crate::snapshot::dir::SnapshotDir;
use crate::snapshot::verify::{self, Listed};
use crate::snapshot::{Snapshot, SnapshotError};
use crate::volume::layout::PAGE;

/// Lists the snapshots of a depot
///
/// Needs no key: what is shown is what the descriptors say; `kmsfs snapshot verify` authenticates them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A volume (for its own depot), a directory, or s3://BUCKET/PREFIX
    depot: String,
    #[command(flatten)]
    s3: S3,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `list`.
pub fn run(args: &Args) -> Result<()> {
    let depot = place::open(&args.depot, &args.s3)?;
    let listing = catalogue::list(&depot).map_err(failed)?;
    for (name, error) in &listing.unreadable {
        output::warn(&format!("{name}: {error}"));
    }
    if args.json {
        return output::json(&listing.snapshots);
    }
    let rows: Vec<_> = listing.snapshots.iter().map(row).collect();
    output::table(["NAME", "TAKEN", "FILES", "SIZE", "ADDED", "AGAINST", "REGION", "ACCOUNT"], &rows)
}

fn row(snapshot: &Descriptor) -> [String; 8] {
    [
        snapshot.name.clone(),
        time(snapshot.created),
        snapshot.counts.files.to_string(),
        size(snapshot.counts.bytes),
        size(snapshot.counts.new_pages * PAGE),
        snapshot.parent.as_ref().map_or("-".to_owned(), |parent| parent.name.clone()),
        snapshot.region.clone(),
        snapshot.account.clone(),
    ]
}

/// Shows one snapshot: its volume, region, account, KMS keys
///
/// Needs no key, and authenticates nothing. With --files the names are decrypted: the volume key and the manifest's
/// data key are asked for, no file's key.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    #[command(flatten)]
    named: Named,
    /// List every file with its size and the SHA-256 of its encrypted pages
    #[arg(long)]
    files: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `inspect`.
pub fn inspect(global: &Global, args: &InspectArgs) -> Result<()> {
    let place = args.named.place()?;
    let snapshot = Snapshot::find(place.depot, &place.name).map_err(failed)?;
    if args.files {
        return files(global, args, snapshot);
    }
    let snapshot = snapshot.descriptor;
    if args.json {
        return output::json(&snapshot);
    }
    let counts = &snapshot.counts;
    let mut facts = vec![
        ("snapshot", snapshot.name.clone()),
        ("snapshot id", snapshot.snapshot_id.to_string()),
        ("volume id", snapshot.volume_id.to_string()),
        ("region", snapshot.region.clone()),
        ("account", snapshot.account.clone()),
        ("taken", time(snapshot.created)),
        ("files", format!("{}, {}", counts.files, size(counts.bytes))),
        ("directories", counts.directories.to_string()),
        ("links and special files", counts.others.to_string()),
        ("added to the depot", size(counts.new_pages * PAGE)),
        ("packs it needs", snapshot.standing_packs().count().to_string()),
    ];
    if let Some(parent) = &snapshot.parent {
        facts.push(("made against", format!("{} ({})", parent.name, parent.id)));
    }
    if let Some(origin) = &snapshot.copied_from {
        let how = if origin.encrypted_again { "encrypted again" } else { "rewrapped" };
        facts.push(("copy of", format!("{} in {} of {}, {how}", origin.name, origin.region, origin.account)));
    }
    for key in &snapshot.volume_keys {
        facts.push(("volume key under", key.key_arn.clone()));
    }
    for key in snapshot.keys.iter().filter(|key| key.files > 0) {
        facts.push(("files under", format!("{} ({})", key.key_arns.join(" or "), key.files)));
    }
    output::facts(&facts)
}

fn files(global: &Global, args: &InspectArgs, snapshot: Snapshot) -> Result<()> {
    let service = common::service_of(global, &snapshot.descriptor)?;
    let opened = common::open(snapshot.clone(), &service)?;
    let keys = opened.descriptor.unlock(&*service.keys).map_err(failed)?;
    let tree = SnapshotDir::open(opened).map_err(failed)?;
    let mut lost = None;
    let told = verify::list_files(&tree, &keys, &mut |file| {
        show(args, &file).map_err(|error| {
            let text = error.to_string();
            lost = Some(error);
            SnapshotError::Refused(text)
        })
    });
    match lost {
        Some(error) => Err(error),
        None => told.map_err(failed),
    }
}

/// One line for each: a snapshot may have a million.
fn show(args: &InspectArgs, file: &Listed) -> Result<()> {
    let digest = file.digest.as_deref().unwrap_or("-");
    if args.json {
        let text = serde_json::to_string(&json!(file)).map_err(|e| CliError::Failed(e.to_string()))?;
        return output::line(&text);
    }
    output::line(&format!("{digest:64}  {:>12}  {:12}  {}", file.size, file.kind, file.path.escape_debug()))
}
