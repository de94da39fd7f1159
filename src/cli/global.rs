//! Options of every verb: which key service, and who asks. No other file reads the environment for them.

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions};
use zeroize::Zeroizing;

use super::error::{CliError, Result};
use crate::crypto::SecretVec;
use crate::iam::{AccountId, Region};
use crate::kms::KeyHolder;

/// Longer passphrases are files given by mistake.
const MAX_PASSPHRASE: u64 = 4096;

/// See the module.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Key service")]
pub struct Global {
    /// Home of the key service [default: kmsfs in the XDG data directory; for root /var/lib/kmsfs]
    #[arg(long, global = true, env = "KMSFS_HOME", value_name = "DIR", hide_env_values = true)]
    home: Option<PathBuf>,
    /// Region: each has its own keys, root key and log
    #[arg(long, global = true, env = "AWS_REGION", default_value = "us-east-1", hide_env_values = true)]
    pub region: Region,
    /// Account: twelve digits
    #[arg(
        long,
        global = true,
        env = "KMSFS_ACCOUNT",
        default_value = "000000000000",
        hide_env_values = true
    )]
    pub account: AccountId,
    /// Act as this principal instead of the account's root: a user's name or ARN, the ARN of a role or of an assumed-role
    /// session
    // Not under the field's name: a verb that has an option --principal would set this one too.
    #[arg(
        id = "as",
        long = "as",
        global = true,
        env = "KMSFS_AS",
        value_name = "PRINCIPAL",
        hide_env_values = true
    )]
    pub principal: Option<String>,
    /// Which key service has a volume's keys
    #[arg(
        long,
        global = true,
        env = "KMSFS_KMS",
        value_name = "WHICH",
        default_value = "embedded",
        hide_env_values = true
    )]
    pub kms: Which,
    /// Address of AWS KMS, with --kms aws [default: AWS's own, AWS_ENDPOINT_URL_KMS or AWS_ENDPOINT_URL]
    #[arg(long, global = true, value_name = "URL", value_parser = endpoint)]
    pub kms_endpoint: Option<String>,
    /// File that holds the passphrase of the region's root key; a newline at its end does not count
    #[arg(long, global = true, env = "KMSFS_PASSPHRASE_FILE", value_name = "FILE", hide_env_values = true)]
    passphrase_file: Option<PathBuf>,
    /// Ask for the passphrase of the region's root key on the terminal
    #[arg(long, global = true, conflicts_with = "passphrase_file")]
    passphrase: bool,
}

/// See [`Global::kms`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// The one in --home
    Embedded,
    /// AWS KMS, with the credentials that AWS's variables and files give; what was asked is recorded in --home
    Aws,
}

impl From<Which> for KeyHolder {
    fn from(which: Which) -> Self {
        match which {
            Which::Embedded => Self::Embedded,
            Which::Aws => Self::Aws,
        }
    }
}

fn endpoint(text: &str) -> std::result::Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("https://HOST[:PORT]; on this machine also http://".to_owned()),
    }
}

impl Global {
    /// The home of the key service, absolute.
    pub fn home(&self) -> Result<PathBuf> {
        let home = match &self.home {
            Some(home) => home.clone(),
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/kmsfs"),
            None => data_dir()?.join("kmsfs"),
        };
        std::path::absolute(&home).map_err(|e| CliError::io("the home of the key service", &home, e))
    }

    /// The passphrase, if one is given; `new` asks twice.
    pub fn passphrase(&self, new: bool) -> Result<Option<SecretVec>> {
        if let Some(path) = &self.passphrase_file {
            return from_file(path).map(Some);
        }
        if !self.passphrase {
            return Ok(None);
        }
        let region = &self.region;
        let first = ask(&format!("Passphrase of the root key of {region}: "))?;
        if new && ask("Once more: ")?.expose() != first.expose() {
            return Err(CliError::Usage("the two passphrases differ; nothing was made".to_owned()));
        }
        Ok(Some(first))
    }

    /// The same as somebody else.
    pub fn acting_as(&self, principal: &str) -> Self {
        Self { principal: Some(principal.to_owned()), ..self.clone() }
    }

    /// The same with its home settled.
    pub fn at(&self, home: PathBuf) -> Self {
        Self { home: Some(home), ..self.clone() }
    }

    /// The same in another region.
    pub fn in_region(&self, region: Region) -> Self {
        Self { region, ..self.clone() }
    }
}

/// XDG Base Directory Specification: an empty or relative value does not count.
fn data_dir() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .ok_or_else(|| CliError::Usage("neither HOME nor KMSFS_HOME is set; give --home DIR".to_owned()))
}

fn from_file(path: &Path) -> Result<SecretVec> {
    let failed = |e| CliError::io("the passphrase file", path, e);
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE as usize + 2));
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_PASSPHRASE + 2).read_to_end(&mut text).map_err(failed)?;
    checked(&text, &format!("the passphrase file {}", path.display()))
}

/// Without its newline, and neither empty nor too long.
fn checked(text: &[u8], what: &str) -> Result<SecretVec> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.is_empty() || text.len() as u64 > MAX_PASSPHRASE {
        return Err(CliError::Usage(format!("{what} must have 1 to {MAX_PASSPHRASE} bytes")));
    }
    Ok(SecretVec::new(text.to_vec()))
}

/// Asks on the terminal, without showing what is typed.
fn ask(prompt: &str) -> Result<SecretVec> {
    let failed = |source| CliError::Io {
        what: "cannot ask for the passphrase on the terminal (give --passphrase-file)".to_owned(),
        source,
    };
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let before = rustix::termios::tcgetattr(&terminal).map_err(|e| failed(e.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    terminal.write_all(prompt.as_bytes()).map_err(failed)?;
    rustix::termios::tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|e| failed(e.into()))?;
    // A terminal hands out one line for each read.
    let mut typed = Zeroizing::new(vec![0; MAX_PASSPHRASE as usize + 2]);
    let read = terminal.read(&mut typed);
    let restored = rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &before);
    // Only the look of the terminal hangs on it.
    let _ = terminal.write_all(b"\n");
    restored.map_err(|e| failed(e.into()))?;
    checked(&typed[..read.map_err(failed)?], "the passphrase")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_at_the_end_of_a_passphrase_does_not_count() {
        for text in ["a b", "a b\n", "a b\r\n"] {
            assert_eq!(checked(text.as_bytes(), "x").unwrap().expose(), b"a b");
        }
        assert!(checked(b"\n", "x").is_err());
        assert!(checked(&[b'x'; 5000], "x").is_err());
    }
}
