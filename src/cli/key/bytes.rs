//! What the verbs of signing share: messages and codes from files, and how bytes are printed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::super::error::{CliError, Result};
use super::super::files::{Target, input};
use crate::crypto::SecretVec;
use crate::kms::Session;
use crate::kms::wire::{DescribeKeyRequest, KeyMetadata};

/// Longest message that is signed or authenticated.
pub const MAX_MESSAGE: u64 = 4096;
/// Longer than any signature in base64.
const MAX_CODE: u64 = 16 * 1024;

/// How bytes are printed.
#[derive(Debug, clap::Args)]
pub struct Form {
    /// Print base64
    #[arg(long, conflicts_with = "json")]
    base64: bool,
    /// Print AWS's answer as JSON: blobs are base64
    #[arg(long)]
    json: bool,
    /// Write to a file, made with mode 0600, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file of --out if it is there
    #[arg(long, requires = "out")]
    force: bool,
}

impl Form {
    /// Prints the answer, or these bytes of it.
    pub fn print(&self, answer: &impl Serialize, bytes: &[u8]) -> Result<()> {
        // Room for all of it at once: a buffer that grows leaves copies of a secret behind.
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_CODE as usize));
        if self.json {
            serde_json::to_writer_pretty(&mut *text, answer).map_err(|e| CliError::Failed(e.to_string()))?;
            text.push(b'\n');
        } else if self.base64 {
            text.extend_from_slice(Zeroizing::new(STANDARD.encode(bytes)).as_bytes());
            text.push(b'\n');
        } else {
            text.extend_from_slice(bytes);
        }
        Target { out: self.out.as_deref(), force: self.force }.print(&text)
    }
}

/// All of a file, but not more than a byte over `most`: the key service says what is too long.
pub fn read(file: File, shown: &Path, most: u64) -> Result<SecretVec> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(most as usize + 2));
    let read = file.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|e| CliError::io("cannot read", shown, e))?;
    Ok(SecretVec::new(std::mem::take(&mut *bytes)))
}

/// A signature or a code from a file: base64 if all of it is that, else as it is.
pub fn code(path: &Path) -> Result<Vec<u8>> {
    let (file, shown) = input(Some(path))?;
    let bytes = read(file, &shown, MAX_CODE)?;
    let text: Vec<u8> = bytes.expose().iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    Ok(STANDARD.decode(&text).unwrap_or_else(|_| bytes.expose().to_vec()))
}

/// DescribeKey.
pub fn describe(session: &Session, key: &str) -> Result<KeyMetadata> {
    let request = DescribeKeyRequest { key_id: key.to_owned(), ..DescribeKeyRequest::default() };
    Ok(session.call(request)?.key_metadata)
}

/// The only algorithm that a key has.
pub fn only(option: &str, key: &str, algorithms: &[&str]) -> Result<String> {
    match algorithms {
        [one] => Ok((*one).to_owned()),
        [] => {
            Err(CliError::Usage(format!("{key} is not a key for that; `kmsfs key describe` shows its usage")))
        }
        several => Err(CliError::Usage(format!("{key} has several; give {option}: {}", several.join(", ")))),
    }
}
