//! What the verbs share: the key service that a snapshot's keys are in, progress, and how times and sizes are shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};

use super::super::error::{CliError, Result};
use super::super::global::{Global, Which};
use super::super::mounts;
use super::super::service::{self, Service};
use super::place::failed;
use crate::crypto::SecretVec;
use crate::iam::{IamError, Region};
use crate::snapshot::descriptor::Descriptor;
use crate::snapshot::{Opened, Snapshot, SnapshotError};
use crate::volume::descriptor::Feature;
use crate::volume::disk::Dir;
use crate::volume::host::HostDir;

/// The key service that a snapshot's keys are in.
pub fn service_of(global: &Global, snapshot: &Descriptor) -> Result<Service> {
    // A region that is made for the log of what is asked at AWS has its passphrase asked for twice.
    let new = global.kms == Which::Aws && service::is_new(&global.in_region(region_of(snapshot)?))?;
    service_with(global, snapshot, global.passphrase(new)?)
}

/// The same with a passphrase that was asked for before.
pub fn service_with(
    global: &Global,
    snapshot: &Descriptor,
    passphrase: Option<SecretVec>,
) -> Result<Service> {
    match (global.kms, at_aws(snapshot)?) {
        (Which::Embedded, false) | (Which::Aws, true) => {}
        (Which::Embedded, true) => return Err(at_aws_only()),
        (Which::Aws, false) => {
            return Err(CliError::Usage(
                "the snapshot's keys are in an embedded key service; leave --kms aws (KMSFS_KMS) away"
                    .to_owned(),
            ));
        }
    }
    let region = region_of(snapshot)?;
    if global.kms == Which::Embedded && region != global.region {
        return Err(CliError::Usage(format!(
            "the snapshot belongs to region {region}, the key service is in {}; use --region {region}",
            global.region
        )));
    }
    Service::in_region(global, global.kms, &region, passphrase)
}

/// The region that a snapshot says is its.
pub fn region_of(snapshot: &Descriptor) -> Result<Region> {
    snapshot
        .region
        .parse()
        .map_err(|e: IamError| failed(SnapshotError::Damaged(format!("snapshot.json names no region ({e})"))))
}

/// Whether a snapshot's keys are at AWS KMS.
pub fn at_aws(snapshot: &Descriptor) -> Result<bool> {
    Ok(snapshot.volume_features().map_err(failed)?.contains(&Feature::AwsKms))
}

/// Said where --kms does not name what a snapshot's keys are at: nobody's credentials are used for a snapshot's asking.
pub fn at_aws_only() -> CliError {
    CliError::Usage(
        "the snapshot's keys are at AWS KMS; give --kms aws to have it asked with your credentials"
            .to_owned(),
    )
}

/// Authenticates a snapshot and opens its manifest.
pub fn open(snapshot: Snapshot, service: &Service) -> Result<Opened> {
    snapshot.open(&*service.keys).map_err(failed)
}

/// A volume by its directory or by where it is mounted, absolute.
pub fn volume(path: &Path) -> Result<(PathBuf, Arc<dyn Dir>)> {
    let whole = path.canonicalize().map_err(|e| CliError::io("the volume", path, e))?;
    let mounted = mounts::at(&whole).ok().flatten().filter(mounts::Mounted::is_ours);
    let root = mounted.map_or(whole, |mounted| mounted.source);
    if !root.join("kmsfs.json").exists() {
        return Err(CliError::Failed(format!(
            "{} is neither a volume nor where one is mounted; `kmsfs status` lists the mounts there are",
            path.display()
        )));
    }
    let dir = HostDir::open(&root).map_err(|e| CliError::io("the volume", &root, e))?;
    Ok((root, dir))
}

/// One thread for each processor, unless told.
pub fn threads(told: Option<u16>) -> usize {
    told.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// On the terminal, if standard error is one; of an unknown number of entries without `total`.
pub fn progress(total: Option<u64>, what: &str) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            format!("{{wide_bar}} {{human_pos}} of {{human_len}} {what}, {{per_sec}}, {{eta}} left"),
        ),
        None => (ProgressBar::new_spinner(), format!("{{spinner}} {{human_pos}} {what}, {{per_sec}}")),
    };
    // A template that does not parse leaves the plain bar.
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// A time for people, in UTC.
pub fn time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => seconds.to_string(),
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
