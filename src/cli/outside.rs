//! `kmsfs encrypt --public-key` and what opens it: files of any size, sealed without a key service.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{CliError, Result};
use super::files::{Target, input};
use super::global::Global;
use super::service;
use crate::crypto::asymmetric::{Oaep, PublicKey};
use crate::iam::KeyArn;
use crate::kms::wire::DecryptRequest;
use crate::volume::VolumeError;
use crate::volume::header::Header;
use crate::volume::layout::PAGE;
use crate::volume::sealed::{self, READING, Recipient, Sealed, WRITING};

/// A public key's file is never longer: ML-DSA's largest has 2.6 KB.
const MAX_KEY: u64 = 64 * 1024;

/// Reads a public key in PEM or DER.
pub fn public_key(path: &Path) -> Result<PublicKey> {
    let (file, shown) = input(Some(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_KEY).read_to_end(&mut bytes).map_err(|e| CliError::io("cannot read", &shown, e))?;
    PublicKey::from_pem_or_der(&bytes).map_err(|_| {
        CliError::Usage(format!(
            "{} is not a public key that the key service has (a SubjectPublicKeyInfo in PEM or DER, as \
             `kmsfs key public-key` and GetPublicKey give it)",
            shown.display()
        ))
    })
}

/// Seals a file for the holder of the private key.
pub fn seal(key: &Path, key_arn: Option<&str>, file: Option<&Path>, target: &Target) -> Result<()> {
    let public = public_key(key)?;
    if public.encrypts_at_most(Oaep::Sha256).is_none() {
        return Err(CliError::Usage(format!(
            "{} is a key of {}, with which nothing can be encrypted; it takes an RSA key",
            key.display(),
            public.spec().name()
        )));
    }
    if let Some(arn) = key_arn {
        arn.parse::<KeyArn>().map_err(|e| {
            CliError::Usage(format!("with --public-key, --key is the ARN of the KMS key whose it is: {e}"))
        })?;
    }
    let recipient = Recipient { key: public, key_arn: key_arn.map(str::to_owned) };
    let (mut file, shown) = input(file)?;
    target.write(|out| sealed::seal(&mut file, out, &[recipient]).map_err(|e| failed(e, &shown, target)))?;
    Ok(())
}

/// Opens a sealed file with the key service's help: under `key`, or the KMS key that the file names.
pub fn open(
    global: &Global,
    (key, grant_tokens): (Option<&str>, &[String]),
    input: impl Read,
    shown: &Path,
    target: &Target,
) -> Result<()> {
    let begun = Sealed::begin(input).map_err(|e| failed(e, shown, target))?;
    let names = || begun.header().keys.iter().map(|key| key.key_arn.as_str());
    if key.is_none() {
        let arns: Vec<KeyArn> = names().filter_map(|name| name.parse().ok()).collect();
        let Some(first) = arns.first() else {
            return Err(CliError::Usage(format!(
                "{} names no KMS key, only a public key ({}); give --key, the KMS key whose it is",
                shown.display(),
                names().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ")
            )));
        };
        if arns.iter().all(|arn| arn.region != global.region) {
            return Err(CliError::Usage(format!(
                "{} is under a KMS key of region {}; give --region {}",
                shown.display(),
                first.region,
                first.region
            )));
        }
    }
    let session = service::session(global)?;
    target.write(|out| {
        let opened = begun.open(out, &|wrapped| {
            let answer = session.call(DecryptRequest {
                ciphertext_blob: wrapped.ciphertext.clone(),
                key_id: Some(key.unwrap_or(&wrapped.key_arn).to_owned()),
                grant_tokens: grant_tokens.to_vec(),
                encryption_algorithm: Some("RSAES_OAEP_SHA_256".to_owned()),
                ..DecryptRequest::default()
            })?;
            Ok(answer.plaintext)
        });
        opened.map_err(|e| failed(e, shown, target))
    })?;
    Ok(())
}

/// An error with what it happened to.
fn failed(error: VolumeError, input: &Path, target: &Target) -> CliError {
    match error {
        VolumeError::Key(refused) => CliError::Refused(refused),
        VolumeError::Backing { what: READING, source } => CliError::io("cannot read", input, source),
        VolumeError::Backing { what: WRITING, source } => target.failed(source),
        VolumeError::Damaged { what } => CliError::Tampered(format!("{}: damaged: {what}", input.display())),
        other => CliError::Failed(format!("{}: {other}", input.display())),
    }
}

/// What a sealed file says of itself: its header, and the size that its end tells. None if it is none.
pub fn look(path: &Path) -> Result<Option<(Header, Option<u64>)>> {
    let failed = |e| CliError::io("cannot read", path, e);
    // Before it is opened: opening a pipe waits for its other end.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() < PAGE {
        return Ok(None);
    }
    let file = File::open(path).map_err(failed)?;
    let mut page = vec![0; PAGE as usize];
    file.read_exact_at(&mut page, 0).map_err(failed)?;
    if !sealed::is_sealed(&page) {
        return Ok(None);
    }
    let header =
        Header::parse_sealed(&page).map_err(|e| CliError::Tampered(format!("{}: {e}", path.display())))?;
    file.read_exact_at(&mut page, metadata.len() - PAGE).map_err(failed)?;
    let size = sealed::said_size(&page).filter(|_| metadata.len().is_multiple_of(PAGE));
    Ok(Some((header, size)))
}
