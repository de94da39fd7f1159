//! `kmsfs encrypt` and `kmsfs decrypt`, without a volume: secrets of up to 4096 bytes under a KMS key; files of any
//! size with a public key.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zeroize::Zeroizing;

use super::error::{CliError, Result};
use super::files::{self, Target};
use super::global::Global;
use super::{outside, service};
use crate::crypto::SecretVec;
use crate::kms::EncryptionContext;
use crate::kms::wire::{DecryptRequest, EncryptRequest};
use crate::volume::sealed::is_sealed;

/// More than any plaintext or ciphertext, base64 included; what is longer the key service refuses.
const MAX_INPUT: u64 = 16 * 1024;

/// Encrypts up to 4096 bytes under a KMS key, or a file of any size with a public key
///
/// With --public-key no key service and no account is needed: only the public key of an RSA key, as `kmsfs key
/// public-key` or GetPublicKey gives it. `kmsfs decrypt` then asks the key service that has the private key.
#[derive(Debug, clap::Args)]
pub struct EncryptArgs {
    /// KMS key: key id, ARN, alias or alias ARN; with --public-key its ARN, to be noted in the file
    #[arg(long, visible_alias = "key-id", value_name = "KEY", required_unless_present = "public_key")]
    key: Option<String>,
    /// Encrypt with this RSA public key (PEM or DER) alone: any size
    #[arg(long, value_name = "FILE", conflicts_with_all = ["context", "base64", "json", "encryption_algorithm", "grant_tokens"])]
    public_key: Option<PathBuf>,
    #[command(flatten)]
    shared: Shared,
}

/// Decrypts what `kmsfs encrypt` made, under the KMS key that it names
///
/// What was made with --public-key has any size. Each of its blocks is authenticated before it is written; whether
/// the file is whole is known at its end. With --out nothing appears before that; a program that reads standard output
/// has by then read the beginning, and must look at the exit code.
#[derive(Debug, clap::Args)]
pub struct DecryptArgs {
    /// Accept it only if it is under this KMS key; a file made with --public-key may not name its own
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
    /// How, under a key pair: RSAES_OAEP_SHA_256 or RSAES_OAEP_SHA_1 [default: SYMMETRIC_DEFAULT]
    #[arg(long, value_name = "ALGORITHM")]
    encryption_algorithm: Option<String>,
    /// Token of a grant that was just made
    #[arg(long, value_name = "TOKEN")]
    grant_tokens: Vec<String>,
    /// The ciphertext is base64
    #[arg(long)]
    base64: bool,
    /// Print AWS's answer as JSON: blobs are base64, the plaintext too
    #[arg(long, conflicts_with = "base64")]
    json: bool,
    /// Write to a file, made with mode 0600, instead of standard output; it appears when it is whole
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file of --out if it is there
    #[arg(long, requires = "out")]
    force: bool,
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
    if let Some(public) = &args.public_key {
        return outside::seal(public, args.key.as_deref(), shared.file.as_deref(), &shared.target());
    }
    let request = EncryptRequest {
        // Without --public-key the command line demands it.
        key_id: args.key.clone().unwrap_or_default(),
        plaintext: shared.input()?,
        encryption_context: shared.context()?,
        encryption_algorithm: shared.encryption_algorithm.clone(),
        grant_tokens: shared.grant_tokens.clone(),
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
    let (mut file, shown) = files::input(shared.file.as_deref())?;
    let mut ciphertext = vec![0; MAX_INPUT as usize + 1];
    let mut start = 0;
    while start < ciphertext.len() {
        match file.read(&mut ciphertext[start..]) {
            Ok(0) => break,
            Ok(more) => start += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(CliError::io("cannot read", &shown, e)),
        }
    }
    ciphertext.truncate(start);
    if is_sealed(&ciphertext) {
        let odd = shared.base64 || shared.json || shared.encryption_algorithm.is_some();
        if !shared.context.is_empty() || odd {
            return Err(CliError::Usage(format!(
                "{} was made with a public key: it takes no --context, --encryption-algorithm, --base64 or --json",
                shown.display()
            )));
        }
        return outside::open(
            global,
            (args.key.as_deref(), &shared.grant_tokens),
            (&ciphertext[..]).chain(file),
            &shown,
            &shared.target(),
        );
    }
    if ciphertext.len() as u64 > MAX_INPUT {
        return Err(too_long(&shown));
    }
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
        encryption_algorithm: shared.encryption_algorithm.clone(),
        grant_tokens: shared.grant_tokens.clone(),
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
        let (source, shown) = files::input(self.file.as_deref())?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT as usize + 1));
        let read = source.take(MAX_INPUT + 1).read_to_end(&mut bytes);
        read.map_err(|e| CliError::io("cannot read", &shown, e))?;
        if bytes.len() as u64 > MAX_INPUT {
            return Err(too_long(&shown));
        }
        Ok(SecretVec::new(std::mem::take(&mut *bytes)))
    }

    fn target(&self) -> Target<'_> {
        Target { out: self.out.as_deref(), force: self.force }
    }

    fn output(&self, bytes: &[u8]) -> Result<()> {
        self.target().print(bytes)
    }
}

fn too_long(shown: &Path) -> CliError {
    CliError::Usage(format!(
        "{} is too long: a key service takes at most 4096 bytes; larger files take a volume, or --public-key",
        shown.display()
    ))
}
