//! The other end of a mount's control socket, and what a mount's process is to those who use it.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
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
    Answer, Asked, Failure, FailureKind, Household, Request, VERSION, Which, WhileHeld, connect,
};
use crate::volume::host::HostDir;
use crate::volume::{Still, VolumeError};

/// How long a hold lasts at most, if nothing else is said.
pub const HOLD: u64 = 60;

/// The longest line of an answer: reports list a few failures, by their paths.
const LONGEST: u64 = 1 << 20;

/// A connection to the mount that has a volume open for writing.
pub struct Control {
    volume: PathBuf,
    which: Which,
    lines: BufReader<UnixStream>,
}

impl Control {
    /// None if the volume is not mounted read-write, or elsewhere. Who serves the socket must be somebody to be believed:
    /// whoever can write to the volume's private directory can put one there, and say that a volume is held which is not.
    /// Where it is the mount of another volume, that refuses every request.
    pub fn connect(volume: &Path) -> Result<Option<Self>> {
        let failed = |e| CliError::io("the control socket of the mount of", volume, e);
        let Some(stream) = connect(volume).map_err(failed)? else { return Ok(None) };
        let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|e| failed(e.into()))?.uid.as_raw();
        let own = rustix::process::geteuid().as_raw();
        if !Users::here().believes(peer, own, owner(volume)) {
            return Err(CliError::Failed(format!(
                "the control socket of the mount of {} is served by uid {peer}, who is neither root, nor you (uid {own}), nor known \
                 as the volume's owner, and so is not believed; run this as the user who mounted the volume, in the same user \
                 namespace, or unmount it first",
                volume.display()
            )));
        }
        let root = HostDir::open(volume).map_err(|e| CliError::io("the volume", volume, e))?;
        let which = Which::named(&*root).map_err(|e| CliError::volume(volume, e))?;
        Ok(Some(Self { volume: volume.to_owned(), which, lines: BufReader::new(stream) }))
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
        self.result::<Still>(&mut |_, _| ())?;
        Ok(Held { control: self })
    }

    fn send(&mut self, request: &impl Serialize) -> Result<()> {
        let failed = |e: io::Error| CliError::io("asking the mount of", &self.volume, e);
        let mut line = serde_json::to_vec(&Asked { version: VERSION, volume: self.which.clone(), request })
            .map_err(|e| failed(e.into()))?;
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
            let read = (&mut self.lines).take(LONGEST).read_line(&mut line);
            if line.len() as u64 == LONGEST && !line.ends_with('\n') {
                return Err(CliError::Failed(format!(
                    "the mount of {volume} gave an answer of over {LONGEST} bytes, which no mount does"
                )));
            }
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

/// Owner of a volume: of its descriptor, if its directory is that user's too. Who can write to the directory of somebody else
/// can put a descriptor of his own there.
fn owner(volume: &Path) -> Option<u32> {
    let descriptor = fs::symlink_metadata(volume.join("kmsfs.json")).ok()?;
    let directory = fs::metadata(volume).ok()?;
    (descriptor.is_file() && descriptor.uid() == directory.uid()).then(|| descriptor.uid())
}

/// What user ids mean in this process's user namespace.
struct Users {
    /// Stands for every user whom the namespace does not have, so that equal ones may be different users; None where it has all.
    nobody_known: Option<u32>,
}

impl Users {
    fn here() -> Self {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        Self::of(&map, overflow.trim().parse().unwrap_or(65534))
    }

    /// `map` in the form of /proc/self/uid_map.
    fn of(map: &str, overflow: u32) -> Self {
        let lines = map.lines().map(|line| line.split_whitespace().map(str::parse).collect::<Vec<_>>());
        let sizes = lines.map(|line| if let [_, _, Ok(size)] = line[..] { size } else { 0u64 });
        let all = sizes.fold(0, u64::saturating_add) >= u64::from(u32::MAX);
        Self { nobody_known: (!all).then_some(overflow) }
    }

    /// Whether a socket that `peer` serves tells the truth about a volume of this owner, to this user.
    fn believes(&self, peer: u32, own: u32, owner: Option<u32>) -> bool {
        self.nobody_known != Some(peer) && (peer == 0 || peer == own || owner == Some(peer))
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
    fn a_socket_is_believed_of_root_oneself_and_the_owner() {
        let all = Users::of("         0          0 4294967295\n", 65534);
        assert_eq!(all.nobody_known, None);
        for (peer, own, owner, believed) in [
            (0, 1000, None, true),
            (1000, 1000, None, true),
            (1001, 1000, None, false),
            (1001, 0, None, false),
            (1001, 0, Some(1000), false),
            (1001, 0, Some(1001), true),
            // A user like any other, where there is nobody whom the namespace does not have.
            (65534, 65534, None, true),
            (65534, 0, Some(65534), true),
            (65534, 0, Some(0), false),
        ] {
            assert_eq!(all.believes(peer, own, owner), believed, "{peer} {own} {owner:?}");
        }
        // In `unshare -Ur` and in a container with 65536 ids all others look the same.
        for map in ["0 1000 1", "0 100000 65536", "0 1000 1\n1 100000 65536", "", "a b c"] {
            let some = Users::of(map, 65534);
            assert!(!some.believes(65534, 65534, Some(65534)), "{map}");
            assert!(!some.believes(65534, 0, Some(65534)), "{map}");
            assert!(some.believes(0, 0, None) && some.believes(7, 7, None) && some.believes(7, 0, Some(7)));
        }
    }

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
