//! `kmsfs edk`: for whom the keys of a volume are wrapped, beside its own KMS key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::control::Control;
use super::error::{CliError, Result};
use super::global::{Global, Which};
use super::rewrap::{How, Target, by_mount, files, processors, progress, told};
use super::service::{self, Service};
use super::{daemon, output, outside};
use crate::crypto::SecretVec;
use crate::crypto::asymmetric::PublicKey;
use crate::iam::KeyArn;
use crate::kms::wire::{DescribeKeyRequest, GetPublicKeyRequest};
use crate::mount::control::{RecipientChange, Request};
use crate::volume::VolumeError;
use crate::volume::descriptor::{Descriptor, ListedRecipient};
use crate::volume::edk::{self, Change, Options, Report};
use crate::volume::recipients::Recipient;
use crate::volume::rewrap;

/// Who can open a volume's keys beside its own KMS key: up to three recipients
///
/// A recipient is a KMS key of another region or account, or an RSA key whose private half is kept offline, to open the
/// volume when its own key is lost (`kmsfs recover`). The volume key and every file's data key are wrapped for each of
/// them; a new file is, too, or is not made.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Add(Add),
    Remove(Remove),
    List(List),
}

/// Wraps the volume key and every file's data key for somebody more
///
/// Each data key is opened by the volume's key service (Decrypt) and encrypted under the new key (Encrypt; with a
/// public key here, by RSA-OAEP). No data is read or written but one page of each file. If the volume is mounted, its mount
/// does it, while it is used. What was begun and cut off goes on when it is called again.
#[derive(Debug, clap::Args)]
struct Add {
    /// The volume, or its mount point
    volume: PathBuf,
    /// KMS key: ARN, or key id or alias in the region of --region; of an RSA key the public key is fetched. With
    /// --public-key the ARN of the KMS key whose it is
    #[arg(long, visible_alias = "key-id", value_name = "KEY", required_unless_present = "public_key")]
    key: Option<String>,
    /// Public key of an RSA key of 2048 to 4096 bits, in PEM or DER; its private half opens the volume with
    /// `kmsfs recover`, never a mount
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// Takes a recipient's wrapped keys out of the volume and every file
///
/// What the recipient opened before, and copies and backups made before, stay open to them: they may know the data keys.
/// `kmsfs rekey` gives every file a new one. The volume's own KMS key cannot be removed; `kmsfs rewrap --key` changes it.
#[derive(Debug, clap::Args)]
struct Remove {
    /// The volume, or its mount point
    volume: PathBuf,
    /// The recipient, as `kmsfs edk list` names it: an ARN or a fingerprint; or an alias in the region of --region
    #[arg(long, visible_alias = "key-id", value_name = "KEY", required_unless_present = "public_key")]
    key: Option<String>,
    /// The recipient's public key
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    public_key: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// Shows for whom a volume's keys are wrapped, and in how many files
///
/// From the descriptor and the headers, without a key; the volume may be mounted.
#[derive(Debug, clap::Args)]
struct List {
    /// A volume, or a directory or file in it (its encrypted name)
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Add(args) => add(global, args),
        Verb::Remove(args) => remove(global, args),
        Verb::List(args) => list(args),
    }
}

/// A volume's root; a part of one has no recipients of its own.
fn whole(path: &Path) -> Result<Target> {
    let place = Target::find(path)?;
    if place.is_whole() {
        return Ok(place);
    }
    Err(CliError::Usage(format!(
        "{} is a part of a volume; recipients are the whole volume's: name {}",
        path.display(),
        place.root.display()
    )))
}

fn add(global: &Global, args: &Add) -> Result<()> {
    let place = whole(&args.volume)?;
    let passphrase = global.passphrase(false)?;
    let recipient = match (&args.public_key, &args.key) {
        (Some(file), name) => {
            if let Some(arn) = name {
                arn.parse::<KeyArn>().map_err(|e| {
                    CliError::Usage(format!(
                        "with --public-key, --key is the ARN of the KMS key whose it is: {e}"
                    ))
                })?;
            }
            offline(outside::public_key(file)?, name.clone(), file)?
        }
        (None, Some(key)) => by_key(global, &passphrase, key)?,
        (None, None) => return Err(CliError::Usage("give --key or --public-key".to_owned())),
    };
    change(global, passphrase, &place, &Change::Add(recipient), &args.how)?;
    Ok(())
}

fn offline(key: PublicKey, name: Option<String>, shown: &Path) -> Result<Recipient> {
    let spec = key.spec().name();
    Recipient::rsa(key, name).map_err(|_| {
        CliError::Usage(format!(
            "{} is a key of {spec}, with which nothing can be encrypted; it takes an RSA key",
            shown.display()
        ))
    })
}

/// A KMS key as a recipient: of an RSA key its public half.
fn by_key(global: &Global, passphrase: &Option<SecretVec>, key: &str) -> Result<Recipient> {
    let region = service::region_of_key(global, key)?;
    if global.kms == Which::Aws {
        let service = Service::aws(global, &region, passphrase.clone())?;
        return Ok(Recipient::kms(service.keys.describe_key(key)?.key_arn));
    }
    let session = service::session_with(&global.in_region(region), passphrase.clone())?;
    let request = DescribeKeyRequest { key_id: key.to_owned(), ..DescribeKeyRequest::default() };
    let metadata = session.call(request)?.key_metadata;
    if metadata.key_spec == "SYMMETRIC_DEFAULT" {
        return Ok(Recipient::kms(metadata.arn));
    }
    let public = session
        .call(GetPublicKeyRequest { key_id: metadata.arn.clone(), grant_tokens: Vec::new() })?
        .public_key;
    let usable = metadata.key_usage == "ENCRYPT_DECRYPT";
    let public = PublicKey::parse(&public).ok().filter(|_| usable);
    public.and_then(|public| Recipient::rsa(public, Some(metadata.arn.clone())).ok()).ok_or_else(|| {
        CliError::Usage(format!(
            "{} is a key of {} for {}; a recipient is a symmetric key, or an RSA key for ENCRYPT_DECRYPT",
            metadata.arn, metadata.key_spec, metadata.key_usage
        ))
    })
}

fn remove(global: &Global, args: &Remove) -> Result<()> {
    let place = whole(&args.volume)?;
    let passphrase = global.passphrase(false)?;
    let descriptor = Descriptor::read(&*place.dir).map_err(|e| place.failed(e))?;
    let name = match (&args.public_key, &args.key) {
        (Some(file), _) => {
            let key = outside::public_key(file)?;
            let there = descriptor.recipients.iter().find(|r| r.public_key.as_ref() == Some(&key));
            there.map_or_else(|| crate::volume::sealed::fingerprint(&key), |there| there.name.clone())
        }
        // A key that is deleted can still be named by its ARN.
        (None, Some(key)) if key.contains("alias/") => {
            let region = service::region_of_key(global, key)?;
            let service = Service::in_region(global, global.kms, &region, passphrase.clone())?;
            service.keys.describe_key(key)?.key_arn
        }
        (None, Some(key)) => {
            let ends = |name: &&String| name.ends_with(&format!("/{key}"));
            let mut names = descriptor.recipients.iter().map(|r| &r.name);
            names.find(ends).unwrap_or(key).clone()
        }
        (None, None) => return Err(CliError::Usage("give --key or --public-key".to_owned())),
    };
    let report = change(global, passphrase, &place, &Change::Remove(name.clone()), &args.how)?;
    if !report.volume_key && report.changed == 0 && report.failed.count == 0 {
        return Err(CliError::Usage(format!(
            "{name} is no recipient of the volume; `kmsfs edk list {}` shows them",
            args.volume.display()
        )));
    }
    if !args.how.dry_run {
        output::warn(&format!(
            "who held {name} can still open copies and backups made before, and knows whichever keys it opened; `kmsfs rekey {}`, \
             while it is not mounted, gives every file a new data key",
            place.root.display()
        ));
    }
    Ok(())
}

fn change(
    global: &Global,
    passphrase: Option<SecretVec>,
    place: &Target,
    change: &Change,
    how: &How,
) -> Result<Report> {
    daemon::raise_open_files();
    let descriptor = Descriptor::read(&*place.dir).map_err(|e| place.failed(e))?;
    let report = match Control::connect(&place.root)? {
        Some(control) => {
            service::agree(global, &descriptor, false)?;
            in_mount(global, place, change, how, control)?
        }
        None => alone(global, passphrase, place, &descriptor, change, how)?,
    };
    show(&report, how.json, how.dry_run)?;
    if report.cut {
        return Err(CliError::Busy("the mount ended; call it again, and it does what is left".to_owned()));
    }
    told(&report.failed, "could not be changed; the others are. When the reason is gone, call it again")?;
    Ok(report)
}

/// By the mount that has the volume open.
fn in_mount(global: &Global, place: &Target, change: &Change, how: &How, control: Control) -> Result<Report> {
    let request = Request::Recipients {
        change: match change {
            Change::Add(recipient) => RecipientChange::Add(ListedRecipient::of(recipient)),
            Change::Remove(name) => RecipientChange::Remove(name.clone()),
        },
        keep_mtime: how.keep_mtime,
        dry_run: how.dry_run,
        threads: how.threads_of_mount(global),
        principal: global.principal.clone(),
    };
    let done = by_mount(control, &request);
    done.map_err(|error| error.of_usage(&place.root))
}

/// By this process, which keeps others from mounting the volume meanwhile.
fn alone(
    global: &Global,
    passphrase: Option<SecretVec>,
    place: &Target,
    descriptor: &Descriptor,
    change: &Change,
    how: &How,
) -> Result<Report> {
    let here = Service::at_home(global, &place.root, descriptor, passphrase.clone())?.keys;
    let total = rewrap::count(&place.dir, &[]).map_err(|e| place.failed(e))?;
    let bar = progress(total);
    let regions = service::regions(global, passphrase);
    let options = Options { keep_mtime: how.keep_mtime, dry_run: how.dry_run, threads: how.threads(global) };
    let done = edk::change(&place.dir, &here, &regions, change, &options, &|| bar.inc(1));
    bar.finish_and_clear();
    done.map_err(|e| failed(place, e))
}

/// What cannot be is the command line's fault, not the volume's.
fn failed(place: &Target, error: VolumeError) -> CliError {
    match error {
        VolumeError::Invalid(why) => CliError::Usage(format!("{}: {why}", place.root.display())),
        error => place.failed(error),
    }
}

/// Tells what was done.
pub fn show(report: &Report, as_json: bool, dry_run: bool) -> Result<()> {
    if as_json {
        return output::json(report);
    }
    let volume_key = match (report.volume_key, dry_run) {
        (true, true) => "would be changed",
        (true, false) => "changed",
        (false, _) => "left as it is",
    };
    output::facts(&[
        ("key", report.key.clone()),
        ("volume key", volume_key.to_owned()),
        (if dry_run { "would be changed" } else { "changed" }, files(report.changed)),
        ("as wished already", files(report.already)),
        ("without a key, being empty", files(report.empty)),
    ])
}

fn list(args: &List) -> Result<()> {
    let place = Target::find(&args.path)?;
    daemon::raise_open_files();
    let found = edk::list(&place.dir, place.below()?, processors()).map_err(|e| place.failed(e))?;
    let own = found.volume_keys.first();
    let mut all: BTreeMap<&str, u64> = found.files.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let listed = found.recipients.iter().map(|r| r.name.as_str());
    for name in listed.chain(found.volume_keys.iter().map(String::as_str)) {
        all.entry(name).or_default();
    }
    let role = |name: &str| {
        let recipient = found.recipients.iter().find(|recipient| recipient.name == name);
        match recipient {
            // Somebody has put a recipient's wrapped volume key first.
            Some(_) if own.is_some_and(|own| own == name) => "own, and a recipient",
            None if own.is_some_and(|own| own == name) => "own",
            Some(Recipient { public_key: Some(_), .. }) => "recipient, offline",
            Some(_) => "recipient",
            None => "none: left of another time",
        }
    };
    if args.json {
        let keys = all.iter().map(|(name, files)| {
            json!({
                "key": name,
                "role": role(name),
                "volume_key": found.volume_keys.iter().any(|key| key == name),
                "files": files,
            })
        });
        output::json(&json!({
            "keys": keys.collect::<Vec<_>>(),
            "files_with_key": found.with_key,
            "files_without_key": found.empty,
            "failed": found.failed,
        }))?;
    } else {
        let shown = |(name, count): (&&str, &u64)| {
            let of = format!("{count} of {}", found.with_key);
            let volume_key = if found.volume_keys.iter().any(|key| key == name) { "yes" } else { "no" };
            [(*name).to_owned(), role(name).to_owned(), volume_key.to_owned(), of]
        };
        let mut rows: Vec<_> = all.iter().map(shown).collect();
        rows.sort_by_key(|row| own.is_none_or(|own| *own != row[0]));
        output::table(["KEY", "ROLE", "VOLUME KEY", "FILES"], &rows)?;
    }
    told(&found.failed, "could not be read")
}
