//! `kmsfs inspect`: one file's envelope, read through the mount; or a sealed file's header.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::io::Errno;
use serde::Serialize;

use super::error::{CliError, Result};
use super::{output, outside, rewrap};
use crate::iam::KeyArn;
use crate::kms::blob::CiphertextBlob;
use crate::volume::header::Header;
use crate::volume::{Envelope, EnvelopeKey};

/// The attribute in which a mount shows a file's envelope.
const ATTRIBUTE: &str = "user.kmsfs.envelope";
/// No attribute is longer (xattr(7)).
const MAX_LEN: usize = 64 * 1024;

/// Shows a file's envelope: data key, KMS key, key material, encryption context
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, seen through a mount, or one that `kmsfs encrypt --public-key` made; with --summary a volume
    file: PathBuf,
    /// Count the files of a volume, or of a directory in it, by KMS key and key material
    #[arg(long)]
    summary: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A wrapped data key, and what it says of itself.
#[derive(Serialize)]
struct ShownKey {
    key_arn: String,
    region: Option<String>,
    account: Option<String>,
    /// Hex; None for a blob that another key service made.
    key_material_id: Option<String>,
    /// Base64.
    ciphertext: String,
}

impl ShownKey {
    fn new(key: EnvelopeKey) -> Self {
        let arn: Option<KeyArn> = key.key_arn.parse().ok();
        let blob = STANDARD.decode(&key.ciphertext).unwrap_or_default();
        let material = CiphertextBlob::parse(&blob).map(|blob| hex::encode(blob.material));
        Self {
            region: arn.as_ref().map(|arn| arn.region.to_string()),
            account: arn.map(|arn| arn.account.to_string()),
            key_material_id: material,
            key_arn: key.key_arn,
            ciphertext: key.ciphertext,
        }
    }
}

/// Runs it.
pub fn run(args: &Args) -> Result<()> {
    if args.summary {
        return rewrap::summary(&args.file, args.json);
    }
    let mut envelope = match read(&args.file) {
        // No envelope: nothing of a volume, then.
        Err(error @ CliError::Failed(_)) => match outside::look(&args.file)? {
            Some(sealed) => return show_sealed(sealed, args.json),
            None => return Err(error),
        },
        read => read?,
    };
    let keys: Vec<ShownKey> =
        std::mem::take(&mut envelope.data_keys).into_iter().map(ShownKey::new).collect();
    if !args.json {
        return show(&envelope, &keys);
    }
    let failed = |e: serde_json::Error| CliError::Failed(e.to_string());
    let mut json = serde_json::to_value(&envelope).map_err(failed)?;
    json["data_keys"] = serde_json::to_value(&keys).map_err(failed)?;
    output::json(&json)
}

fn read(file: &Path) -> Result<Envelope> {
    let mut value = vec![0; MAX_LEN];
    let len = rustix::fs::getxattr(file, ATTRIBUTE, &mut value[..]).map_err(|e| match e {
        Errno::NODATA | Errno::OPNOTSUPP => CliError::Failed(format!(
            "{} has no envelope: it is not a regular file seen through a mount of kmsfs, or is still empty and \
             unwritten, and `kmsfs encrypt --public-key` did not make it",
            file.display()
        )),
        e => CliError::io("cannot read the envelope of", file, e.into()),
    })?;
    let bad = |e: serde_json::Error| CliError::io("the envelope of", file, io::Error::other(e));
    serde_json::from_slice(&value[..len]).map_err(bad)
}

fn show(envelope: &Envelope, keys: &[ShownKey]) -> Result<()> {
    let context = envelope.encryption_context.iter().map(|(key, value)| format!("{key}={value}"));
    let mut facts = vec![
        ("file id", envelope.file_id.clone()),
        ("volume id", envelope.volume_id.clone()),
        ("encryption context", context.collect::<Vec<_>>().join(" ")),
        ("size", format!("{} bytes{}", envelope.size, if envelope.sparse { ", with holes" } else { "" })),
        ("content key", format!("AES-256-GCM, generation {}", envelope.generation)),
        ("key commitment", envelope.key_commitment.clone()),
    ];
    for key in keys {
        let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "of another service".to_owned());
        facts.push(("KMS key", key.key_arn.clone()));
        facts.push(("region", or(&key.region)));
        facts.push(("key material", or(&key.key_material_id)));
        facts.push(("wrapped data key", shorten(&key.ciphertext)));
    }
    output::facts(&facts)
}

/// A sealed file's header, as printed for scripts.
#[derive(Serialize)]
struct ShownSeal {
    file_id: String,
    /// None if the end is not the page that tells it.
    size: Option<u64>,
    key_commitment: String,
    data_keys: Vec<EnvelopeKey>,
}

fn show_sealed((header, size): (Header, Option<u64>), json: bool) -> Result<()> {
    let keys = header.keys.into_iter();
    let seal = ShownSeal {
        file_id: hex::encode(header.file_id),
        size,
        key_commitment: hex::encode(header.commitment),
        data_keys: keys
            .map(|key| EnvelopeKey { key_arn: key.key_arn, ciphertext: STANDARD.encode(key.ciphertext) })
            .collect(),
    };
    if json {
        return output::json(&seal);
    }
    let size = match seal.size {
        Some(size) => format!("{size} bytes, as the file says itself"),
        None => "unknown: the file is cut".to_owned(),
    };
    let mut facts = vec![
        ("sealed", "with a public key, outside of a volume; `kmsfs decrypt` opens it".to_owned()),
        ("file id", seal.file_id),
        ("size", size),
        ("content key", "AES-256-GCM".to_owned()),
        ("key commitment", seal.key_commitment),
    ];
    for key in seal.data_keys {
        let what = if key.key_arn.starts_with("arn:") { "KMS key" } else { "public key" };
        // Anybody can have written it.
        facts.push((what, key.key_arn.escape_debug().to_string()));
        facts.push(("wrapped data key", format!("RSAES_OAEP_SHA_256 {}", shorten(&key.ciphertext))));
    }
    output::facts(&facts)
}

/// The beginning, and how much there is.
fn shorten(ciphertext: &str) -> String {
    let bytes = STANDARD.decode(ciphertext).map_or(0, |bytes| bytes.len());
    let start: String = ciphertext.chars().take(48).collect();
    format!("{start}... ({bytes} bytes)")
}
