//! Layer 8: the command line. One file for each noun; nothing below prints or reads the environment.

mod administrator;
mod alias;
mod audit;
mod control;
mod daemon;
mod demo;
mod dependents;
mod edk;
mod error;
mod files;
mod global;
mod hold;
mod home;
mod iam;
mod init;
mod inspect;
mod key;
mod known;
mod mount;
mod mounts;
mod output;
mod outside;
mod recover;
mod rekey;
mod rewrap;
mod secret;
mod serve;
mod service;
mod shred;
mod snapshot;
mod status;
mod umount;
mod usage;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use self::error::{CliError, EXIT_CODES, Exit, Result};
use self::global::{Global, Which};

/// An encrypted directory in which every file is its own envelope, with the key service embedded
///
/// Every file has its own data key, wrapped by a KMS key; every use of a KMS key is decided and recorded. Begin
/// with `kmsfs init VOLUME` and `kmsfs mount VOLUME POINT`, or with `kmsfs demo`, which tells the story.
#[derive(Debug, Parser)]
#[command(name = "kmsfs", version, max_term_width = 110, after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Init(init::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Status(status::Args),
    Inspect(inspect::Args),
    Rewrap(rewrap::Args),
    Hold(hold::Args),
    Snapshot(snapshot::Args),
    Edk(edk::Args),
    Recover(recover::Args),
    Rekey(rekey::Args),
    Shred(shred::Args),
    Key(key::Args),
    Alias(alias::Args),
    Iam(iam::Args),
    Audit(audit::Args),
    Usage(usage::Args),
    Home(home::Args),
    Encrypt(secret::EncryptArgs),
    Decrypt(secret::DecryptArgs),
    Serve(serve::Args),
    Demo(demo::Args),
}

/// The program: parses the command line, runs the verb, tells its error.
pub fn run() -> ExitCode {
    // What is made here belongs to its maker alone; a mount sets its own when it serves.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let filter = EnvFilter::try_from_env("KMSFS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // It goes into files more often than to a terminal.
    log.with_ansi(false).init();
    let cli = Cli::parse();
    for warning in daemon::leave_no_traces() {
        output::warn(&warning);
    }
    dispatch(&cli).unwrap_or_else(|error| {
        let exit = error.exit();
        if exit != Exit::Success {
            output::error(&error);
        }
        exit.into()
    })
}

/// Refuses --kms aws where nothing of AWS KMS is asked.
fn check_service(cli: &Cli) -> Result<()> {
    let global = &cli.global;
    if global.kms == Which::Embedded {
        return match &global.kms_endpoint {
            Some(_) => Err(CliError::Usage(
                "--kms-endpoint is the address of AWS KMS; give --kms aws too".to_owned(),
            )),
            None => Ok(()),
        };
    }
    match &cli.verb {
        Verb::Key(_) | Verb::Alias(_) | Verb::Iam(_) | Verb::Encrypt(_) | Verb::Decrypt(_) | Verb::Serve(_) | Verb::Demo(_) => {
            Err(CliError::Usage(
                "this is about the embedded key service; leave --kms aws (KMSFS_KMS) away, and use `aws kms`, `aws iam` for AWS"
                    .to_owned(),
            ))
        }
        _ => Ok(()),
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    check_service(cli)?;
    let global = &cli.global;
    match &cli.verb {
        Verb::Init(args) => init::run(global, args)?,
        Verb::Mount(args) => return mount::run(global, args),
        Verb::Umount(args) => umount::run(args)?,
        Verb::Status(args) => status::run(args)?,
        Verb::Inspect(args) => inspect::run(args)?,
        Verb::Rewrap(args) => rewrap::run(global, args)?,
        Verb::Hold(args) => return hold::run(args),
        Verb::Snapshot(args) => return snapshot::run(global, args),
        Verb::Edk(args) => edk::run(global, args)?,
        Verb::Recover(args) => recover::run(global, args)?,
        Verb::Rekey(args) => rekey::run(global, args)?,
        Verb::Shred(args) => shred::run(global, args)?,
        Verb::Key(args) => key::run(global, args)?,
        Verb::Alias(args) => alias::run(global, args)?,
        Verb::Iam(args) => return iam::run(global, args),
        Verb::Audit(args) => audit::run(global, args)?,
        Verb::Usage(args) => usage::run(global, args)?,
        Verb::Home(args) => home::run(global, args)?,
        Verb::Encrypt(args) => secret::encrypt(global, args)?,
        Verb::Decrypt(args) => secret::decrypt(global, args)?,
        Verb::Serve(args) => serve::run(global, args)?,
        Verb::Demo(args) => demo::run(args)?,
    }
    Ok(Exit::Success.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_of_options_is_sound() {
        Cli::command().debug_assert();
    }
}
