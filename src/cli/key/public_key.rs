//! `kmsfs key public-key` and `kmsfs key derive-shared-secret`.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::error::{CliError, Result};
use super::super::files::Target;
use super::super::outside;
use super::bytes::Form;
use crate::crypto::asymmetric::PublicKey;
use crate::kms::Session;
use crate::kms::wire::{DeriveSharedSecretRequest, GetPublicKeyRequest};

#[derive(Debug, clap::Args)]
pub struct Public {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// Print PEM, as without an option
    #[arg(long, conflicts_with_all = ["der", "base64", "json"])]
    pem: bool,
    /// Print DER
    #[arg(long, conflicts_with_all = ["base64", "json"])]
    der: bool,
    /// Print DER in base64
    #[arg(long, conflicts_with = "json")]
    base64: bool,
    /// Print AWS's answer as JSON
    #[arg(long)]
    json: bool,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file of --out if it is there
    #[arg(long, requires = "out")]
    force: bool,
    /// Token of a grant that was just made
    #[arg(long, value_name = "TOKEN")]
    grant_tokens: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Derive {
    /// Key id, ARN, alias or alias ARN
    key: String,
    /// The peer's public key, on the same curve: PEM or DER; `-` is standard input
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// How they agree
    #[arg(long, default_value = "ECDH", value_name = "ALGORITHM")]
    key_agreement_algorithm: String,
    /// Token of a grant that was just made
    #[arg(long, value_name = "TOKEN")]
    grant_tokens: Vec<String>,
    #[command(flatten)]
    form: Form,
}

/// Runs `public-key`.
pub fn public(session: &Session, args: &Public) -> Result<()> {
    let answer = session
        .call(GetPublicKeyRequest { key_id: args.key.clone(), grant_tokens: args.grant_tokens.clone() })?;
    let text = if args.json {
        let text = serde_json::to_string_pretty(&answer).map_err(|e| CliError::Failed(e.to_string()))?;
        format!("{text}\n").into_bytes()
    } else if args.der {
        answer.public_key
    } else if args.base64 {
        format!("{}\n", STANDARD.encode(&answer.public_key)).into_bytes()
    } else {
        let pem = PublicKey::parse(&answer.public_key).and_then(|key| key.to_pem());
        pem.map_err(|e| CliError::Failed(format!("the public key of {}: {e}", args.key)))?.into_bytes()
    };
    Target { out: args.out.as_deref(), force: args.force }.print(&text)
}

/// Runs `derive-shared-secret`.
pub fn derive(session: &Session, args: &Derive) -> Result<()> {
    let answer = session.call(DeriveSharedSecretRequest {
        key_id: args.key.clone(),
        key_agreement_algorithm: args.key_agreement_algorithm.clone(),
        public_key: outside::public_key(&args.public_key)?.der().to_vec(),
        grant_tokens: args.grant_tokens.clone(),
        ..DeriveSharedSecretRequest::default()
    })?;
    args.form.print(&answer, answer.shared_secret.expose())
}
