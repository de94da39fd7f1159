//! The other end of a mount's control socket, and what a mount's process is to those who use it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{CliError, Exit, Result};
use super::global::Global;
use super::service::Service;
use crate::crypto::SecretVec;
use crate::iam::{IamError, Region};
use crate::kms::KeyService;
use crate::mount::control::{
    Answer, Asked, Failure, FailureKind, Household, Request, VERSION, WhileHeld, connect,
};
use crate::volume::{Still, VolumeError};

/// How long a hold lasts at most, if nothing else is said.
pub const HOLD: u64 = 60;

/// A connection to the mount that has a volume open for writing.
pub struct Control {
    volume: PathBuf,
    lines: BufReader<UnixStream>,
}

impl Control {
    /// None if the volume is not mounted read-write, or elsewhere.
    pub fn connect(volume: &Path) -> Result<Option<Self>> {
        let failed = |e| CliError::io("the control socket of the mount of", volume, e);
        let stream = connect(volume).map_err(failed)?;
        Ok(stream.map(|stream| Self { volume: volume.to_owned(), lines: BufReader::new(stream) }))
    }

    /// One request, with whatever it answers; `progress` is told how much of how many is done.
    pub fn ask<T: DeserializeOwned>(
        mut self,
        request: &Request,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<T> {
        self.send(request)?;
        self.result(progress)
    }

    /// Holds the volume still for at most `seconds`.
    pub fn hold_for(mut self, seconds: u64) -> Result<Held> {
        self.send(&Request::Hold { seconds })?;
        let state = self.result(&mut |_, _| ())?;
        Ok(Held { control: self, state })
    }

    fn send(&mut self, request: &impl Serialize) -> Result<()> {
        let failed = |e: io::Error| CliError::io("asking the mount of", &self.volume, e);
        let mut line =
            serde_json::to_vec(&Asked { version: VERSION, request }).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        match self.lines.get_mut().write_all(&line) {
            // The answer is there already, and says why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(failed),
        }
    }

    fn result<T: DeserializeOwned>(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<T> {
        let volume = self.volume.display();
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            if read.is_err() || !line.ends_with('\n') {
                return Err(CliError::Failed(format!(
                    "the mount of {volume} ended before it had answered; `kmsfs status` shows it"
                )));
            }
            let strange = |_| CliError::Failed(format!("the mount of {volume} gave a strange answer"));
            match serde_json::from_str(&line).map_err(strange)? {
                Answer::Progress { done, total } => progress(done, total),
                Answer::Result { result } => return serde_json::from_value(result).map_err(strange),
                Answer::Error(Failure { kind, message }) => {
                    return Err(CliError::Mounted { exit: exit(kind), message });
                }
            }
        }
    }
}

/// A volume that is held still: nothing changes in the backing tree. Dropping it lets the mount go on.
pub struct Held {
    control: Control,
    #[expect(dead_code, reason = "for snapshots, which come next")]
    /// What is held.
    pub state: Still,
}

impl Held {
    /// An error if it is not held any more: what was copied since is not of one moment.
    pub fn still(&mut self) -> Result<()> {
        self.ask(&WhileHeld::Still {})
    }

    /// Lets go. An error if it was not held until now, as in [`Self::still`].
    pub fn release(mut self) -> Result<()> {
        self.ask(&WhileHeld::Release {})
    }

    fn ask(&mut self, request: &WhileHeld) -> Result<()> {
        self.control.send(request)?;
        self.control.result::<Value>(&mut |_, _| ()).map(drop)
    }
}

fn exit(kind: FailureKind) -> Exit {
    match kind {
        FailureKind::Failure => Exit::Failure,
        FailureKind::Usage => Exit::Usage,
        FailureKind::Refused => Exit::Refused,
        FailureKind::Home => Exit::Home,
        FailureKind::Volume => Exit::Volume,
        FailureKind::Busy => Exit::Busy,
        FailureKind::Tampered => Exit::Tampered,
    }
}

/// The other way, for the mount's side.
pub fn failure(error: &CliError) -> Failure {
    let kind = match error.exit() {
        Exit::Usage => FailureKind::Usage,
        Exit::Refused => FailureKind::Refused,
        Exit::Home => FailureKind::Home,
        Exit::Volume => FailureKind::Volume,
        Exit::Busy => FailureKind::Busy,
        Exit::Tampered => FailureKind::Tampered,
        Exit::Success | Exit::Failure | Exit::Denied => FailureKind::Failure,
    };
    Failure::new(kind, error.to_string())
}

/// A mount's process, as its control socket sees it.
pub struct Keeper {
    /// Of the mount's command line.
    pub global: Global,
    /// Of the key service's root key, as it was given then.
    pub passphrase: Option<SecretVec>,
    /// The backing directory.
    pub volume: PathBuf,
}

impl Household for Keeper {
    fn key_service(
        &self,
        principal: Option<&str>,
        region: &str,
    ) -> std::result::Result<Arc<dyn KeyService>, Failure> {
        let begin = || {
            let region: Region = region.parse().map_err(|e: IamError| CliError::Usage(e.to_string()))?;
            let global = match principal {
                Some(principal) => self.global.acting_as(principal),
                None => self.global.clone(),
            };
            Service::in_region(&global, global.kms, &region, self.passphrase.clone())
        };
        begin().map(|service| service.keys).map_err(|error| failure(&error))
    }

    fn tell(&self, error: VolumeError) -> Failure {
        failure(&CliError::volume(&self.volume, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_exit_code_over_the_socket() {
        for error in [
            CliError::Failed("x".to_owned()),
            CliError::Usage("x".to_owned()),
            CliError::Home("x".to_owned()),
            CliError::Busy("x".to_owned()),
            CliError::Tampered("x".to_owned()),
            CliError::volume(Path::new("v"), VolumeError::NotSettled),
            CliError::volume(Path::new("v"), VolumeError::Epoch("x")),
        ] {
            let Failure { kind, message } = failure(&error);
            let there = CliError::Mounted { exit: exit(kind), message };
            assert_eq!((there.exit(), there.to_string()), (error.exit(), error.to_string()));
        }
    }
}
