//! Where a snapshot is, as it is named on the command line.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::{CliError, Result};
use super::super::mounts;
use crate::snapshot::SnapshotError;
use crate::snapshot::depot::{Depot, DirDepot, SNAPSHOTS};
use crate::snapshot::s3::{S3Depot, S3Options};
use crate::volume::VolumeError;

/// A snapshot by its name in a depot, or by its whole path or URL.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// Snapshot: its name with --in, or DEPOT/snapshots/NAME
    pub snapshot: String,
    /// Depot it is in: a volume, a directory, or s3://BUCKET/PREFIX
    #[arg(long = "in", value_name = "DEPOT")]
    pub within: Option<String>,
    #[command(flatten)]
    pub s3: S3,
}

/// How a bucket is reached.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "S3")]
pub struct S3 {
    /// Server of s3:// URLs, if it is not AWS's; plain http:// is for this machine only
    #[arg(long, env = "AWS_ENDPOINT_URL_S3", value_name = "URL", hide_env_values = true)]
    pub endpoint: Option<String>,
    /// Region of the bucket [default: AWS_REGION, AWS_DEFAULT_REGION, or us-east-1]
    #[arg(long, value_name = "REGION")]
    pub bucket_region: Option<String>,
}

/// A depot, and the name of a snapshot in it.
pub struct Place {
    pub depot: Arc<dyn Depot>,
    /// As it was named, to be told in messages and to be opened again.
    pub shown: String,
    pub name: String,
}

impl Named {
    /// Opens the depot. Whether it has the snapshot is not asked yet.
    pub fn place(&self) -> Result<Place> {
        let (shown, name) = self.names()?;
        Ok(Place { depot: open(&shown, &self.s3)?, shown, name })
    }

    /// The depot and the snapshot's name in it.
    pub fn names(&self) -> Result<(String, String)> {
        match &self.within {
            Some(depot) => Ok((depot.clone(), self.snapshot.clone())),
            None => {
                let whole = self.snapshot.trim_end_matches('/');
                let marker = format!("/{SNAPSHOTS}/");
                let cut = whole.rfind(&marker).map(|at| (&whole[..at], &whole[at + marker.len()..]));
                let Some((depot, name)) =
                    cut.filter(|(depot, name)| !depot.is_empty() && !name.contains('/'))
                else {
                    return Err(CliError::Usage(format!(
                        "{} names a snapshot without its depot; add --in DEPOT (a volume, a directory, s3://BUCKET/PREFIX), \
                         or name it as DEPOT/snapshots/NAME",
                        self.snapshot
                    )));
                };
                Ok((depot.to_owned(), name.to_owned()))
            }
        }
    }
}

/// Opens a depot: a bucket, a volume's own, or a directory.
pub fn open(depot: &str, s3: &S3) -> Result<Arc<dyn Depot>> {
    if let Some(rest) = depot.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let mut settings: Vec<_> = env::vars()
            .filter(|(name, _)| name.starts_with("AWS_"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        settings.push(("aws_region".to_owned(), bucket_region(s3)));
        let options = S3Options {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            endpoint: s3.endpoint.clone(),
            settings,
            patience: None,
        };
        return Ok(Arc::new(S3Depot::open(options).map_err(failed)?));
    }
    let path = directory(Path::new(depot))?;
    Ok(Arc::new(DirDepot::open(&path).map_err(failed)?))
}

/// The same; a directory is made if its parent is there.
pub fn open_or_make(depot: &str, s3: &S3) -> Result<Arc<dyn Depot>> {
    if depot.starts_with("s3://") {
        return open(depot, s3);
    }
    let path = Path::new(depot);
    let own = own(path);
    if own.as_ref().is_some_and(|own| !own.exists()) || !path.exists() {
        return Ok(Arc::new(DirDepot::create(own.as_deref().unwrap_or(path)).map_err(failed)?));
    }
    open(depot, s3)
}

/// Where the depot of a volume's own is or would be, if `path` is a volume or where one is mounted.
pub fn own(path: &Path) -> Option<PathBuf> {
    let root = root(path)?;
    root.join("kmsfs.json").exists().then(|| root.join(".kmsfs").join("snapshots"))
}

/// `path` itself, or the backing directory of what is mounted there; None if nothing is there.
fn root(path: &Path) -> Option<PathBuf> {
    let whole = path.canonicalize().ok()?;
    let mounted = mounts::at(&whole).ok().flatten().filter(mounts::Mounted::is_ours);
    Some(mounted.map_or(whole, |mounted| mounted.source))
}

/// The directory of a depot: a volume's own, also where the volume is named by its mount point, or the directory itself.
pub fn directory(path: &Path) -> Result<PathBuf> {
    let Some(own) = own(path) else { return Ok(root(path).unwrap_or_else(|| path.to_owned())) };
    if !own.exists() {
        return Err(CliError::Failed(format!(
            "the volume {} has no snapshots of its own; `kmsfs snapshot create` takes one",
            path.display()
        )));
    }
    Ok(own)
}

fn bucket_region(s3: &S3) -> String {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let told = s3.bucket_region.clone().or_else(|| set("AWS_REGION")).or_else(|| set("AWS_DEFAULT_REGION"));
    told.unwrap_or_else(|| "us-east-1".to_owned())
}

/// What a snapshot's error is at the command line.
pub fn failed(error: SnapshotError) -> CliError {
    match error {
        SnapshotError::Key(refused) | SnapshotError::Volume(VolumeError::Key(refused)) => {
            CliError::Refused(refused)
        }
        SnapshotError::Busy(_) => CliError::Busy(error.to_string()),
        SnapshotError::Damaged(_) | SnapshotError::Volume(VolumeError::Damaged { .. }) => {
            CliError::Tampered(error.to_string())
        }
        // What a stream met, and could tell as an error of reading only.
        SnapshotError::Depot { ref source, .. } if is_damage(source) => CliError::Tampered(error.to_string()),
        SnapshotError::NotFound { .. }
        | SnapshotError::Exists(_)
        | SnapshotError::BadName(_)
        | SnapshotError::Refused(_) => CliError::Usage(error.to_string()),
        SnapshotError::Depot { .. }
        | SnapshotError::Newer(_)
        | SnapshotError::Volume(_)
        | SnapshotError::Crypto(_) => CliError::Failed(error.to_string()),
    }
}

fn is_damage(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<VolumeError>());
    matches!(inner, Some(VolumeError::Damaged { .. }))
}
