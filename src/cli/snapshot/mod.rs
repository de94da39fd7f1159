//! `kmsfs snapshot`: the archive.

mod copy;
mod place;
mod share;

use super::error::Result;
use super::global::Global;

/// Snapshots of volumes, and their copies
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Copy(copy::Args),
    Share(share::Args),
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Copy(args) => copy::run(global, args),
        Verb::Share(args) => share::run(global, args),
    }
}
