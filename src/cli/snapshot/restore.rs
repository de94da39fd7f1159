//! `kmsfs snapshot restore`, `verify` and `delete`.

use std::fs;
use std::path::PathBuf;

use super::super::error::{CliError, Result};
use super::super::global::Global;
use super::super::{daemon, known, output};
use super::common::{self, progress, size, threads};
use super::place::{Named, failed};
use crate::snapshot::descriptor::Descriptor;
use crate::snapshot::dir::SnapshotDir;
use crate::snapshot::restore;
use crate::snapshot::verify::{self, Verified};
use crate::snapshot::{Opened, Snapshot, catalogue};
use crate::volume::host::HostDir;

/// Makes a volume of a snapshot: the encrypted directory, as it was
///
/// What is written is compared with what was captured. Cut off or killed, it goes on when it is called again with the
/// same snapshot and target. No file's key is used.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    named: Named,
    /// Directory for the volume: empty, or not there yet
    target: PathBuf,
    /// Threads that copy files [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `restore`.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    daemon::raise_open_files();
    let place = args.named.place()?;
    let snapshot = Snapshot::find(place.depot, &place.name).map_err(failed)?;
    let service = common::service_of(global, &snapshot.descriptor)?;
    let opened = common::open(snapshot, &service)?;
    match fs::create_dir(&args.target) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(CliError::io("the target", &args.target, e));
        }
        _ => {}
    }
    let target = HostDir::open(&args.target).map_err(|e| CliError::io("the target", &args.target, e))?;
    let bar = progress(Some(opened.descriptor.counts.files), "files");
    let seen = |_| bar.inc(1);
    let done = restore::restore(&opened, &target, &*service.ledger, threads(args.threads), &seen);
    bar.finish_and_clear();
    let done = done.map_err(failed)?;
    known::volume(global, &args.target);
    if done.owners_lost > 0 {
        output::warn(&format!(
            "{} entries belong to whoever restored them, not to their owners: only root may give them away",
            done.owners_lost
        ));
    }
    let whose = Whose::of(&opened);
    if args.json {
        let mut value = serde_json::json!(done);
        if let (Some(members), serde_json::Value::Object(more)) =
            (value.as_object_mut(), serde_json::json!(whose))
        {
            members.extend(more);
        }
        return output::json(&value);
    }
    let mut facts = vec![
        ("volume", args.target.display().to_string()),
        ("files restored", done.files.to_string()),
        ("there already", done.already.to_string()),
    ];
    facts.extend(whose.facts());
    output::facts(&facts)
}

/// What tells one snapshot from another that somebody put in its place: its id, and the KMS key by which it is authentic.
#[derive(serde::Serialize)]
struct Whose {
    snapshot_id: String,
    volume_id: String,
    opened_by: String,
}

impl Whose {
    fn of(opened: &Opened) -> Self {
        let Descriptor { snapshot_id, volume_id, .. } = &opened.descriptor;
        let opened_by = opened.opened_by.clone();
        Self { snapshot_id: snapshot_id.to_string(), volume_id: volume_id.to_string(), opened_by }
    }

    fn facts(&self) -> [(&'static str, String); 3] {
        [
            ("snapshot id", self.snapshot_id.clone()),
            ("volume id", self.volume_id.clone()),
            ("opened by", self.opened_by.clone()),
        ]
    }
}

/// Compares a snapshot with what was captured: descriptor, manifest, every page
///
/// The descriptor and the manifest are authenticated by the volume key and the manifest's data key, pages by digests
/// in the manifest. With --deep every file is opened by its key, every block authenticated, every name and
/// attribute decrypted.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    named: Named,
    /// Open every file too: one Decrypt for each
    #[arg(long)]
    deep: bool,
    /// Threads that read [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `verify`.
pub fn verify(global: &Global, args: &VerifyArgs) -> Result<()> {
    let place = args.named.place()?;
    let snapshot = Snapshot::find(place.depot, &place.name).map_err(failed)?;
    let service = common::service_of(global, &snapshot.descriptor)?;
    let opened = common::open(snapshot, &service)?;
    let whose = Whose::of(&opened);
    let bar = progress(Some(opened.descriptor.counts.files), "files");
    let seen = |_| bar.inc(1);
    let shallow = verify::verify(&opened, threads(args.threads), &seen).map_err(failed)?;
    let deep = match args.deep {
        false => None,
        true => {
            bar.reset();
            let tree = SnapshotDir::open(opened).map_err(failed)?;
            let (keys, ledger) = (service.keys.clone(), service.ledger.clone());
            Some(verify::verify_deep(tree, keys, ledger, &seen).map_err(failed)?)
        }
    };
    bar.finish_and_clear();
    let told = |what: &str, found: &Verified| {
        (what.to_owned(), format!("{} files, {}", found.files, size(found.bytes)))
    };
    if args.json {
        output::json(&serde_json::json!({ "pages": shallow, "deep": deep, "of": whose }))?;
    } else {
        let mut facts = vec![told("compared", &shallow)];
        facts.extend(deep.as_ref().map(|deep| told("opened", deep)));
        let facts = facts.iter().map(|(name, value)| (name.as_str(), value.clone()));
        output::facts(&facts.chain(whose.facts()).collect::<Vec<_>>())?;
    }
    let all = [Some(shallow), deep];
    let damaged: u64 = all.iter().flatten().map(|found| found.damaged).sum();
    if damaged == 0 {
        return Ok(());
    }
    for what in all.iter().flatten().flat_map(|found| &found.first) {
        output::warn(what);
    }
    Err(CliError::Tampered(format!(
        "{damaged} files or packs of the snapshot {} are not what was captured; restore from another one",
        place.name
    )))
}

/// Deletes a snapshot, and what only it needs
///
/// Other snapshots stay whole, also those that were made against it. Needs no key; the deletion is in the log.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `delete`.
pub fn delete(global: &Global, args: &DeleteArgs) -> Result<()> {
    let place = args.named.place()?;
    let snapshot = Snapshot::find(place.depot.clone(), &place.name).map_err(failed)?;
    let service = common::service_of(global, &snapshot.descriptor)?;
    let deleted = catalogue::delete(&place.depot, &place.name, &*service.ledger).map_err(failed)?;
    if args.json {
        return output::json(&deleted);
    }
    output::line(&format!("{} is deleted; {} are free", place.name, size(deleted.bytes)))
}
