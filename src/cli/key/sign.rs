//! `kmsfs key sign` and `kmsfs key verify`.

use std::path::PathBuf;

use super::super::error::{CliError, Result};
use super::super::files::input;
use super::super::output;
use super::bytes::{self, Form, MAX_MESSAGE};
use crate::crypto::SecretVec;
use crate::kms::Session;
use crate::kms::wire::{SignRequest, VerifyRequest};

#[derive(Debug, clap::Args)]
pub struct Sign {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    what: What,
    /// File of the signature, as it is or in base64
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct What {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// File of the message, up to 4096 bytes, or of its digest; `-` is standard input
    #[arg(long, value_name = "FILE")]
    message: PathBuf,
    /// What the message is: RAW, DIGEST (its hash, made before) or EXTERNAL_MU (of ML-DSA)
    #[arg(long, default_value = "RAW", value_name = "TYPE")]
    message_type: String,
    /// RSASSA_PSS_SHA_256, ECDSA_SHA_256 ... [default: the key's, where it has one for such messages]
    #[arg(long, value_name = "ALGORITHM")]
    signing_algorithm: Option<String>,
    /// Token of a grant that was just made
    #[arg(long, value_name = "TOKEN")]
    grant_tokens: Vec<String>,
}

impl What {
    fn message(&self) -> Result<SecretVec> {
        let (file, shown) = input(Some(&self.message))?;
        let message = bytes::read(file, &shown, MAX_MESSAGE)?;
        if message.len() as u64 > MAX_MESSAGE {
            return Err(CliError::Usage(format!(
                "{} is too long: a key service signs at most 4096 bytes; sign its hash, with --message-type DIGEST",
                shown.display()
            )));
        }
        Ok(message)
    }

    /// The one that is given, or the only one there is.
    fn algorithm(&self, session: &Session) -> Result<String> {
        if let Some(given) = &self.signing_algorithm {
            return Ok(given.clone());
        }
        let mut algorithms = bytes::describe(session, &self.key)?.signing_algorithms;
        algorithms.retain(|algorithm| match *algorithm {
            "ED25519_PH_SHA_512" => self.message_type == "DIGEST",
            "ED25519_SHA_512" => self.message_type == "RAW",
            _ => true,
        });
        bytes::only("--signing-algorithm", &self.key, &algorithms)
    }
}

/// Runs `sign`.
pub fn sign(session: &Session, args: &Sign) -> Result<()> {
    let What { key, message_type, grant_tokens, .. } = &args.what;
    let answer = session.call(SignRequest {
        key_id: key.clone(),
        message: args.what.message()?,
        message_type: Some(message_type.clone()),
        signing_algorithm: args.what.algorithm(session)?,
        grant_tokens: grant_tokens.clone(),
        ..SignRequest::default()
    })?;
    args.form.print(&answer, &answer.signature)
}

/// Runs `verify`.
pub fn verify(session: &Session, args: &Verify) -> Result<()> {
    let What { key, message_type, grant_tokens, .. } = &args.what;
    let answer = session.call(VerifyRequest {
        key_id: key.clone(),
        message: args.what.message()?,
        message_type: Some(message_type.clone()),
        signature: bytes::code(&args.signature)?,
        signing_algorithm: args.what.algorithm(session)?,
        grant_tokens: grant_tokens.clone(),
        ..VerifyRequest::default()
    })?;
    if args.json {
        return output::json(&answer);
    }
    output::line(&format!("the signature is valid: {} of {}", answer.signing_algorithm, answer.key_id))
}
