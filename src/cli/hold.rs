//! `kmsfs hold`: a command that finds a mounted volume at a standstill.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::control::{Control, HOLD};
use super::error::{CliError, Result};
use super::{mounts, umount};

/// Runs a command while a mounted volume is held still, such as one that takes a snapshot of its disk
///
/// What programs have written is fetched from the kernel first; whoever writes meanwhile waits. The encrypted
/// directory then stands as after an unmount, but for the epoch marker: the next mount of a copy looks at what was
/// open and mends nothing. Ends with the command's exit code.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A volume, or its mount point
    path: PathBuf,
    /// How long the volume is held at most
    #[arg(long, value_name = "SECONDS", default_value_t = HOLD, value_parser = clap::value_parser!(u64).range(1..=86400))]
    limit: u64,
    /// The command
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let path = umount::absolute(&args.path)?;
    let mounted = mounts::at(&path).map_err(|e| CliError::io("cannot look for", &path, e))?;
    let volume = mounted.filter(mounts::Mounted::is_ours).map_or(path, |mounted| mounted.source);
    let control = Control::connect(&volume)?.ok_or_else(|| {
        CliError::Failed(format!(
            "{} is not mounted for writing, so that nothing need be held; `kmsfs status` lists the mounts there are",
            volume.display()
        ))
    })?;
    let held = control.hold_for(args.limit)?;
    let (program, rest) =
        args.command.split_first().map_or((OsString::new(), &[][..]), |(p, r)| (p.clone(), r));
    let status = Command::new(&program).args(rest).status();
    // Before anything else is told: what the command copied may be void.
    held.release()?;
    let status = status.map_err(|source| CliError::Io {
        what: format!("cannot run {}", program.to_string_lossy()),
        source,
    })?;
    // As a shell tells of a signal.
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
