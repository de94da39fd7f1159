//! `kmsfs key mac`: message authentication codes.

use std::path::PathBuf;

use super::super::error::Result;
use super::super::files::input;
use super::super::output;
use super::bytes::{self, Form, MAX_MESSAGE};
use crate::crypto::SecretVec;
use crate::kms::Session;
use crate::kms::wire::{GenerateMacRequest, VerifyMacRequest};

#[derive(Debug, clap::Args)]
pub struct Mac {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Makes the code of a message with an HMAC key (GenerateMac)
    Generate {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        form: Form,
    },
    /// Checks a code; one that does not fit is an error (VerifyMac)
    Verify {
        #[command(flatten)]
        what: What,
        /// File of the code, as it is or in base64
        #[arg(long, value_name = "FILE")]
        mac: PathBuf,
        /// Print AWS's answer as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct What {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// File of the message, up to 4096 bytes; `-` is standard input
    #[arg(long, value_name = "FILE")]
    message: PathBuf,
    /// HMAC_SHA_256 ... [default: the key's]
    #[arg(long, value_name = "ALGORITHM")]
    mac_algorithm: Option<String>,
    /// Token of a grant that was just made
    #[arg(long, value_name = "TOKEN")]
    grant_tokens: Vec<String>,
}

impl What {
    fn message(&self) -> Result<SecretVec> {
        let (file, shown) = input(Some(&self.message))?;
        bytes::read(file, &shown, MAX_MESSAGE)
    }

    fn algorithm(&self, session: &Session) -> Result<String> {
        match &self.mac_algorithm {
            Some(given) => Ok(given.clone()),
            None => {
                let algorithms = bytes::describe(session, &self.key)?.mac_algorithms;
                bytes::only("--mac-algorithm", &self.key, &algorithms)
            }
        }
    }
}

/// Runs it.
pub fn run(session: &Session, args: &Mac) -> Result<()> {
    match &args.verb {
        Verb::Generate { what, form } => {
            let answer = session.call(GenerateMacRequest {
                message: what.message()?,
                key_id: what.key.clone(),
                mac_algorithm: what.algorithm(session)?,
                grant_tokens: what.grant_tokens.clone(),
                ..GenerateMacRequest::default()
            })?;
            form.print(&answer, &answer.mac)
        }
        Verb::Verify { what, mac, json } => {
            let answer = session.call(VerifyMacRequest {
                message: what.message()?,
                key_id: what.key.clone(),
                mac_algorithm: what.algorithm(session)?,
                mac: bytes::code(mac)?,
                grant_tokens: what.grant_tokens.clone(),
                ..VerifyMacRequest::default()
            })?;
            if *json {
                return output::json(&answer);
            }
            output::line(&format!("the code is valid: {} of {}", answer.mac_algorithm, answer.key_id))
        }
    }
}
