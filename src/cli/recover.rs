//! `kmsfs recover`: a volume opened by a recipient, where its own KMS key is lost.

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use zeroize::Zeroizing;

use super::error::{CliError, Result};
use super::global::{Global, Which};
use super::rewrap::{Target, processors, progress, told};
use super::service::{self, Service};
use super::{daemon, edk as shown, output};
use crate::crypto::asymmetric::PrivateKey;
use crate::kms::wire::DecryptRequest;
use crate::kms::{
    DataKey, Decrypted, Encrypted, EncryptionContext, KeyMetadata, KeyService, KmsError, Ledger, ReEncrypted,
    Session,
};
use crate::volume::breakglass::BreakGlass;
use crate::volume::descriptor::Descriptor;
use crate::volume::edk::{self, Options};
use crate::volume::extract::extract;
use crate::volume::host::HostDir;
use crate::volume::recipients::{Recipient, region_of};
use crate::volume::{Volume, VolumeError, VolumeOptions, rewrap};

/// A private key's file is never longer.
const MAX_KEY: u64 = 64 * 1024;

/// Opens a volume whose own KMS key is lost, by one of its recipients
///
/// Writes its plaintext out to a directory, with names, modes, times, links and extended attributes; or, with
/// --rewrap-to, brings it under another KMS key, so that it can be mounted again. The volume must not be mounted.
/// With --private-key and a TARGET no key service is needed, and nothing is recorded anywhere.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume
    volume: PathBuf,
    /// Where to write the plaintext: a directory that is empty or not there
    #[arg(required_unless_present = "rewrap_to", conflicts_with = "rewrap_to")]
    target: Option<PathBuf>,
    /// The recipient's private key: RSA, PKCS#8 in PEM or DER, without a passphrase
    #[arg(long, value_name = "FILE", required_unless_present = "key")]
    private_key: Option<PathBuf>,
    /// The recipient's KMS key, symmetric or RSA: its ARN as `kmsfs edk list` shows it, or an alias in the region of --region
    #[arg(long, visible_alias = "key-id", value_name = "KEY", conflicts_with = "private_key")]
    key: Option<String>,
    /// Bring the volume under this KMS key of the region of --region, in the place of its own
    #[arg(long, value_name = "KEY")]
    rewrap_to: Option<String>,
    /// Accept a missing or foreign epoch marker, as of a restored copy; what a crash cut is then not excused
    #[arg(long, conflicts_with = "rewrap_to")]
    reset_epoch: bool,
    /// Threads that decrypt [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What opens, and what records it.
struct Opener {
    /// The recipient.
    name: String,
    service: Arc<dyn KeyService>,
    ledger: Arc<dyn Ledger>,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let place = Target::find(&args.volume)?;
    if !place.below()?.is_empty() {
        return Err(CliError::Usage(format!(
            "{} is a part of a volume; only a whole one can be recovered: name {}",
            args.volume.display(),
            place.root.display()
        )));
    }
    daemon::raise_open_files();
    let descriptor = Descriptor::read(&*place.dir).map_err(|e| place.failed(e))?;
    let opener = match (&args.private_key, &args.key) {
        (Some(file), _) => by_private_key(&descriptor, file)?,
        (None, Some(key)) => by_kms_key(global, &descriptor, key, args.rewrap_to.is_some())?,
        (None, None) => return Err(CliError::Usage("give --private-key or --key".to_owned())),
    };
    let threads = args.threads.map_or_else(processors, usize::from);
    match (&args.rewrap_to, &args.target) {
        (Some(key), _) => rescue(global, args, &place, &opener, key, threads),
        (None, Some(target)) => write_out(args, &place, opener, target, threads),
        (None, None) => Err(CliError::Usage("give TARGET or --rewrap-to".to_owned())),
    }
}

/// Reads a private key; nothing keeps a copy.
fn private_key(path: &Path) -> Result<PrivateKey> {
    let failed = |e| CliError::io("the private key", path, e);
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY as usize + 1));
    fs::File::open(path).map_err(failed)?.take(MAX_KEY).read_to_end(&mut bytes).map_err(failed)?;
    PrivateKey::rsa_from_pem_or_der(&bytes).map_err(|_| {
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        let shown = path.display();
        CliError::Usage(if has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
            format!(
                "{shown} is under a passphrase, which kmsfs does not read; `openssl pkcs8 -topk8 -nocrypt -in {shown}` takes it off, \
                 best into memory only (/dev/shm)"
            )
        } else if has(b"BEGIN RSA PRIVATE KEY") {
            format!("{shown} is in PKCS#1; `openssl pkcs8 -topk8 -nocrypt -in {shown}` makes the PKCS#8 that kmsfs reads")
        } else {
            format!("{shown} is not an RSA private key of 2048, 3072 or 4096 bits in PKCS#8 (PEM or DER)")
        })
    })
}

fn by_private_key(descriptor: &Descriptor, path: &Path) -> Result<Opener> {
    let key = private_key(path)?;
    let public = key.public_key().map_err(|e| CliError::Failed(e.to_string()))?;
    let whose = descriptor.recipients.iter().find(|r| r.public_key.as_ref() == Some(&public));
    let Some(Recipient { name, .. }) = whose else {
        return Err(CliError::Usage(format!(
            "{} is the private key of none of the volume's recipients ({})",
            path.display(),
            recipients(descriptor)
        )));
    };
    let key = Arc::new(BreakGlass::new(key, name.clone()));
    Ok(Opener { name: name.clone(), service: key.clone(), ledger: key })
}

/// A recipient's KMS key. `or_own`: or the volume's own, which a recipient's is from when the volume has begun to come under
/// it; what was cut goes on by it.
fn by_kms_key(global: &Global, descriptor: &Descriptor, key: &str, or_own: bool) -> Result<Opener> {
    let passphrase = global.passphrase(false)?;
    let name = if key.contains("alias/") {
        let region = service::region_of_key(global, key)?;
        let service = Service::in_region(global, global.kms, &region, passphrase.clone())?;
        service.keys.describe_key(key)?.key_arn
    } else {
        key.to_owned()
    };
    let own = descriptor.keys.first().filter(|_| or_own).map(|own| Recipient::kms(own.key_arn.clone()));
    let mut all = descriptor.recipients.iter().chain(&own);
    let there = all.find(|r| r.name == name || r.name.ends_with(&format!("/{name}")));
    let Some(recipient) = there else {
        let is_own = descriptor.keys.first().is_some_and(|own| own.key_arn == name);
        let more =
            if is_own { "; it is the volume's own KMS key, and what that opens is mounted" } else { "" };
        return Err(CliError::Usage(format!(
            "{name} is none of the volume's recipients ({}){more}",
            recipients(descriptor)
        )));
    };
    let region = region_of(&recipient.name);
    let region = region.parse().map_err(|e: crate::iam::IamError| CliError::Usage(e.to_string()))?;
    let name = recipient.name.clone();
    if recipient.public_key.is_none() {
        let Service { keys: service, ledger, .. } =
            Service::in_region(global, global.kms, &region, passphrase)?;
        return Ok(Opener { name, service, ledger });
    }
    if global.kms == Which::Aws {
        return Err(CliError::Usage(
            "not supported: Decrypt by an RSA key at AWS KMS; its symmetric keys and RSA keys of the embedded key service can recover"
                .to_owned(),
        ));
    }
    let session = Arc::new(service::session_with(&global.in_region(region), passphrase)?);
    Ok(Opener { name, service: Arc::new(Pair(session.clone())), ledger: session })
}

fn recipients(descriptor: &Descriptor) -> String {
    let names: Vec<&str> = descriptor.recipients.iter().map(|r| r.name.as_str()).collect();
    if names.is_empty() { "it has none".to_owned() } else { names.join(", ") }
}

/// Writes the plaintext out.
fn write_out(args: &Args, place: &Target, opener: Opener, target: &Path, threads: usize) -> Result<()> {
    let shown = target.display();
    let failed = |e| CliError::io("the directory to write to,", target, e);
    let absolute = std::path::absolute(target).map_err(failed)?;
    if absolute.starts_with(&place.root) {
        return Err(CliError::Usage(format!("{shown} lies in the volume; plaintext does not belong there")));
    }
    let there = match fs::read_dir(target) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(CliError::Usage(format!(
                    "{shown} is not empty; give an empty or a new directory"
                )));
            }
            true
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(failed(e)),
    };
    let options = VolumeOptions {
        read_only: true,
        reset_epoch: args.reset_epoch,
        only: Some(opener.name.clone()),
        ..VolumeOptions::default()
    };
    let volume = Volume::open(place.dir.clone(), opener.service, opener.ledger, options);
    let volume = volume.map_err(|e| place.failed(e))?;
    let total = rewrap::count(&place.dir, &[]).map_err(|e| place.failed(e))?;
    // Not before it is sure that the volume can be read. Nobody else looks in before it has the root's mode.
    if !there {
        fs::DirBuilder::new().mode(0o700).create(target).map_err(failed)?;
    }
    let bar = progress(total);
    let failures = parking_lot::Mutex::new(0u64);
    let tell = |path: &[u8], error: &VolumeError| {
        *failures.lock() += 1;
        let path = String::from_utf8_lossy(path);
        let path = if path.is_empty() { ".".into() } else { path };
        bar.suspend(|| output::warn(&format!("{path}: {error}")));
    };
    let out = HostDir::open(target).map_err(failed)?;
    let done = extract(&volume, out, threads, &|| bar.inc(1), &tell);
    bar.finish_and_clear();
    let done = done.map_err(|e| CliError::volume(target, e))?;
    volume.close().map_err(|e| place.failed(e))?;
    let failures = failures.into_inner();
    if args.json {
        output::json(&json!({ "opened_by": opener.name, "written": done, "failed": failures }))?;
    } else {
        output::facts(&[
            ("opened by", opener.name),
            ("written to", shown.to_string()),
            ("directories", done.directories.to_string()),
            ("files", format!("{}, {} bytes", done.files, done.bytes)),
            ("further names of files", done.hard_links.to_string()),
            ("symbolic links and others", done.others.to_string()),
        ])?;
    }
    match failures {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 thing could not be recovered; the rest is there".to_owned())),
        n => Err(CliError::Failed(format!("{n} things could not be recovered; the rest is there"))),
    }
}

/// Brings the volume under another KMS key.
fn rescue(
    global: &Global,
    args: &Args,
    place: &Target,
    opener: &Opener,
    key: &str,
    threads: usize,
) -> Result<()> {
    let region = service::region_of_key(global, key)?;
    let here = Service::in_region(global, global.kms, &region, global.passphrase(false)?)?.keys;
    if !edk::is_settled(&place.dir).map_err(|e| place.failed(e))? {
        output::warn(
            "the volume was not closed cleanly, and nothing can mend it before it is under the new key: until its next mount has \
             mended it, files that were cut at a whole block are taken for cut by the crash",
        );
    }
    let options = Options { keep_mtime: false, dry_run: false, threads };
    let bar = progress(rewrap::count(&place.dir, &[]).map_err(|e| place.failed(e))?);
    let by = (&*opener.service, opener.name.as_str());
    let done = edk::rescue(&place.dir, by, (&*here, key), &options, &|| bar.inc(1));
    bar.finish_and_clear();
    let report = done.map_err(|e| place.failed(e))?;
    shown::show(&report, args.json, false)?;
    told(
        &report.failed,
        "could not be brought under the new key; the others are. Call it again when the reason is gone",
    )
}

type Answer<T> = std::result::Result<T, KmsError>;

/// An RSA key of the key service: its Decrypt takes no encryption context, and an algorithm.
struct Pair(Arc<Session>);

impl KeyService for Pair {
    fn generate_data_key(&self, key_id: &str, context: &EncryptionContext) -> Answer<DataKey> {
        self.0.generate_data_key(key_id, context)
    }

    fn encrypt(&self, key_id: &str, plaintext: &[u8], context: &EncryptionContext) -> Answer<Encrypted> {
        KeyService::encrypt(&*self.0, key_id, plaintext, context)
    }

    fn decrypt(&self, key_id: Option<&str>, ciphertext: &[u8], _: &EncryptionContext) -> Answer<Decrypted> {
        let answer = self.0.call(DecryptRequest {
            ciphertext_blob: ciphertext.to_vec(),
            key_id: key_id.map(str::to_owned),
            encryption_algorithm: Some("RSAES_OAEP_SHA_256".to_owned()),
            ..DecryptRequest::default()
        })?;
        Ok(Decrypted { key_arn: answer.key_id, key_material_id: None, plaintext: answer.plaintext })
    }

    fn re_encrypt(
        &self,
        ciphertext: &[u8],
        source_context: &EncryptionContext,
        destination_key_id: &str,
        destination_context: &EncryptionContext,
    ) -> Answer<ReEncrypted> {
        self.0.re_encrypt(ciphertext, source_context, destination_key_id, destination_context)
    }

    fn describe_key(&self, key_id: &str) -> Answer<KeyMetadata> {
        KeyService::describe_key(&*self.0, key_id)
    }
}
