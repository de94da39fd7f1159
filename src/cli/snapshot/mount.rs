//! `kmsfs snapshot mount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::super::error::{CliError, Result};
use super::super::global::Global;
use super::super::mount::{self, How, Source};
use super::common;
use super::place::{self, Named, failed};
use crate::crypto::SecretVec;
use crate::snapshot::Snapshot;
use crate::snapshot::dir::SnapshotDir;

/// Mounts a snapshot, for reading; returns when the mount answers
///
/// Opening a file is decided and recorded as in a mounted volume. `kmsfs umount` ends it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    named: Named,
    /// The mount point: an empty directory, made if it is not there
    point: PathBuf,
    #[command(flatten)]
    how: How,
}

/// Runs it. The process that returns from here may be the background one.
pub fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    mount::at_point(&args.point, |point| {
        let point = mount::free(point)?;
        let (depot, name) = args.named.names()?;
        // The background process leaves the directory.
        let depot = match depot.starts_with("s3://") {
            true => depot,
            false => {
                let directory = place::directory(Path::new(&depot))?;
                let whole = directory.canonicalize().map_err(|e| CliError::io("the depot", &directory, e))?;
                whole.display().to_string()
            }
        };
        let passphrase = global.passphrase(false)?;
        let open = |global: &Global, passphrase: Option<SecretVec>| {
            let depot = place::open(&depot, &args.named.s3)?;
            let snapshot = Snapshot::find(depot, &name).map_err(failed)?;
            let service = common::service_with(global, &snapshot.descriptor, passphrase)?;
            let tree = SnapshotDir::open(common::open(snapshot, &service)?).map_err(failed)?;
            Ok((tree, service))
        };
        let path = PathBuf::from(format!("{depot}/snapshots/{name}"));
        let source = Source { path, read_only: true, reset_epoch: false, passphrase, open: &open };
        mount::start(global, &args.how, source, point)
    })
}
