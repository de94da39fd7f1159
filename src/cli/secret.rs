//! `kmsfs encrypt` and `kmsfs decrypt`: secrets of up to 4096 bytes, under a KMS key and without a volume.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::error::{CliError, Result};
use super::global::Global;
use super::{output, service};
use crate::crypto::SecretVec;
use crate::kms::EncryptionContext;
use crate::kms::wire::{DecryptRequest, EncryptRequest};

/// More than any plaintext or ciphertext, base64 included; what is longer the key service refuses.
const MAX_INPUT: u64 = 16 * 1024;

/// Encrypts up to 4096 bytes under a KMS key
#[derive(Debug, clap::Args)]
pub struct EncryptArgs {
    /// KMS key: key id, ARN, alias or alias ARN
    #[arg(long, visible_alias = "key-id", value_name = "KEY")]
    key: String,
    #[command(flatten)]
    shared: Shared,
}

/// Decrypts what `kmsfs encrypt` made, under the KMS key that it names
#[derive(Debug, clap::Args)]
pub struct DecryptArgs {
    /// Accept it only if it is under this KMS key
    #[arg(long, visible_alias = "key-id", value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, clap::Args)]
struct Shared {
    /// Pair of the encryption context, which must be the same for both; it is in the log, in the clear
    #[arg(long, visible_alias = "encryption-context", value_name = "NAME=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// The ciphertext is base64
    #[arg(long)]
    base64: bool,
    /// Print AWS's answer as JSON: blobs are base64, the plaintext too
    #[arg(long, conflicts_with = "base64")]
    json: bool,
    /// Write to a file, made with mode 0600, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Read this file instead of standard input
    file: Option<PathBuf>,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs `encrypt`.
pub fn encrypt(global: &Global, args: &EncryptArgs) -> Result<()> {
    let shared = &args.shared;
    let request = EncryptRequest {
        key_id: args.key.clone(),
        plaintext: shared.input()?,
        encryption_context: shared.context()?,
        ..EncryptRequest::default()
    };
    let answer = service::session(global)?.call(request)?;
    if shared.json {
        shared.output(&pretty(&answer)?)
    } else if shared.base64 {
        shared.output(format!("{}\n", STANDARD.encode(&answer.ciphertext_blob)).as_bytes())
    } else {
        shared.output(&answer.ciphertext_blob)
    }
}

/// Runs `decrypt`.
pub fn decrypt(global: &Global, args: &DecryptArgs) -> Result<()> {
    let shared = &args.shared;
    let mut ciphertext = shared.input()?.expose().to_vec();
    if shared.base64 {
        ciphertext.retain(|byte| !byte.is_ascii_whitespace());
        ciphertext = STANDARD.decode(ciphertext).map_err(|e| {
            CliError::Usage(format!(
                "the ciphertext is not base64 ({e}); without --base64 it is read as it is"
            ))
        })?;
    }
    let request = DecryptRequest {
        ciphertext_blob: ciphertext,
        encryption_context: shared.context()?,
        key_id: args.key.clone(),
        ..DecryptRequest::default()
    };
    let answer = service::session(global)?.call(request)?;
    if shared.json { shared.output(&pretty(&answer)?) } else { shared.output(answer.plaintext.expose()) }
}

fn pretty(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>> {
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_INPUT as usize));
    serde_json::to_writer_pretty(&mut *text, value).map_err(|e| CliError::Failed(e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

impl Shared {
    fn context(&self) -> Result<EncryptionContext> {
        let mut context = EncryptionContext::new();
        for (name, value) in &self.context {
            if context.insert(name.clone(), value.clone()).is_some() {
                return Err(CliError::Usage(format!("--context {name} is given twice; give each name once")));
            }
        }
        Ok(context)
    }

    fn input(&self) -> Result<SecretVec> {
        let path = self.file.as_deref().filter(|path| *path != Path::new("-"));
        let shown = path.unwrap_or(Path::new("standard input"));
        let failed = |e| CliError::io("cannot read", shown, e);
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT as usize + 1));
        let source = match path {
            Some(path) => File::open(path),
            // Not std's standard input: its buffer would keep a copy.
            None => rustix::stdio::stdin().try_clone_to_owned().map(File::from),
        };
        source.map_err(failed)?.take(MAX_INPUT + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_INPUT {
            return Err(CliError::Usage(format!(
                "{} is too long: a key service takes at most 4096 bytes; put larger files into a volume",
                shown.display()
            )));
        }
        Ok(SecretVec::new(std::mem::take(&mut *bytes)))
    }

    fn output(&self, bytes: &[u8]) -> Result<()> {
        let Some(path) = &self.out else { return output::bytes(bytes) };
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
            file.write_all(bytes)
        };
        write().map_err(|e| CliError::io("cannot write", path, e))
    }
}
