//! `kmsfs snapshot`: the archive.

mod common;
mod copy;
mod create;
mod list;
mod mount;
mod place;
mod restore;
mod share;

use std::process::ExitCode;

use super::error::{Exit, Result};
use super::global::Global;

/// Snapshots of volumes, and their copies
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Create(create::Args),
    List(list::Args),
    Inspect(list::InspectArgs),
    Mount(mount::Args),
    Restore(restore::Args),
    Verify(restore::VerifyArgs),
    Delete(restore::DeleteArgs),
    Copy(copy::Args),
    Share(share::Args),
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Create(args) => create::run(global, args)?,
        Verb::List(args) => list::run(args)?,
        Verb::Inspect(args) => list::inspect(global, args)?,
        Verb::Mount(args) => return mount::run(global, args),
        Verb::Restore(args) => restore::run(global, args)?,
        Verb::Verify(args) => restore::verify(global, args)?,
        Verb::Delete(args) => restore::delete(global, args)?,
        Verb::Copy(args) => copy::run(global, args)?,
        Verb::Share(args) => share::run(global, args)?,
    }
    Ok(Exit::Success.into())
}
