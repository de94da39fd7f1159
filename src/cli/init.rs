//! `kmsfs init`: a volume, and before it whatever of the key service is not there yet.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{CliError, Result};
use super::global::Global;
use super::global::Which;
use super::service::Service;
use super::{known, output, service};
use crate::kms::KeyService;
use crate::volume::Volume;
use crate::volume::host::HostDir;

/// Makes a volume; the first time also the key service's home, its root key and a KMS key
///
/// The volume's key, and the data key of each file, are wrapped by one KMS key: by default the service-managed
/// alias/aws/kmsfs, which the service rotates and nobody can disable or delete. --key names a key of your own,
/// and --new-key makes one. With --kms aws the keys are wrapped by a key at AWS KMS, which --key names; mounting then
/// takes --kms aws too.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume: a directory that is empty or not there
    volume: PathBuf,
    /// KMS key that wraps the volume's keys: key id, ARN, alias or alias ARN
    #[arg(long, visible_alias = "key-id", value_name = "KEY", conflicts_with = "new_key")]
    key: Option<String>,
    /// Make a customer managed key with this alias (alias/NAME), and use it
    #[arg(long, value_name = "ALIAS")]
    new_key: Option<String>,
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let path = &args.volume;
    check(path)?;
    if global.kms == Which::Aws {
        return at_aws(global, args);
    }
    let session = service::session_or_new(global)?;
    let key = match (&args.key, &args.new_key) {
        (Some(key), _) => session.describe_key(key)?.key_arn,
        (None, Some(alias)) => service::new_key(&session, alias)?,
        (None, None) => session.ensure_managed_key("aws/kmsfs")?,
    };
    make(path, &session, key, format!("{}, region {}", global.home()?.display(), global.region))?;
    known::volume(global, path);
    if let Some(warning) = one_disk(&global.home()?, path) {
        output::warn(&warning);
    }
    Ok(())
}

/// A volume whose keys are at AWS KMS. The home holds the log of what is asked there.
fn at_aws(global: &Global, args: &Args) -> Result<()> {
    let Some(key) = &args.key else {
        return Err(CliError::Usage(
            "with --kms aws, give --key with the ARN of a symmetric key at AWS KMS (`aws kms create-key` makes one)"
                .to_owned(),
        ));
    };
    let region = service::region_of_key(global, key)?;
    let passphrase = global.passphrase(service::is_new(&global.in_region(region.clone()))?)?;
    let service = Service::aws(global, &region, passphrase)?;
    let key = service.keys.describe_key(key)?.key_arn;
    let told = format!("AWS KMS, region {region}; its calls are recorded in {}", global.home()?.display());
    make(&args.volume, &*service.keys, key, told)
}

/// The volume itself, and what is told of it.
fn make(path: &Path, keys: &dyn KeyService, key: String, service: String) -> Result<()> {
    let failed = |e| CliError::io("the volume", path, e);
    fs::create_dir_all(path).map_err(failed)?;
    let dir = HostDir::open(path).map_err(failed)?;
    let id = Volume::init(&*dir, keys, &key).map_err(|e| CliError::volume(path, e))?;
    output::facts(&[
        ("volume", std::path::absolute(path).map_err(failed)?.display().to_string()),
        ("volume id", id),
        ("KMS key", key),
        ("key service", service),
    ])
}

/// Before anything is made for it: a directory that is empty or absent.
fn check(path: &Path) -> Result<()> {
    let shown = path.display();
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(CliError::io("the volume", path, e)),
    };
    if path.join("kmsfs.json").exists() {
        return Err(CliError::Usage(format!(
            "{shown} is a volume already; mount it with `kmsfs mount {shown} POINT`"
        )));
    }
    if entries.next().is_some() {
        return Err(CliError::Usage(format!(
            "{shown} is not empty; give an empty or a new directory, and copy the files in through the mount"
        )));
    }
    Ok(())
}

/// What is said when one disk holds both.
fn one_disk(home: &Path, volume: &Path) -> Option<String> {
    let device = |path: &Path| fs::metadata(path).map(|stat| stat.dev()).ok();
    (device(home)? == device(volume)?).then(|| {
        format!(
            "the key service's home {} and the volume lie on one disk: whoever gets the disk has both. Keep the home \
             elsewhere (--home), or its root key under a passphrase (--passphrase)",
            home.display()
        )
    })
}
