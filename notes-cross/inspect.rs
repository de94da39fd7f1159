//! `kmsfs inspect FILE`: one file's envelope.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Shows a file's envelope: data key, KMS key, key material, region, encryption context
///
/// FILE is a file in a mount, or a file in a volume's backing directory (no key is needed for that).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file
    file: PathBuf,
    /// JSON
    #[arg(long)]
    json: bool,
}
