//! `kmsfs key import` and `delete-imported-material`: key material of one's own.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Named, Open, time};
use crate::cli::error::{CliError, Result};
use crate::cli::{output, service};
use crate::crypto::asymmetric::{Oaep, PublicKey};
use crate::crypto::{CryptoError, SecretVec, wrap};
use crate::kms::Session;
use crate::kms::wire::{
    DeleteImportedKeyMaterialRequest, GetParametersForImportRequest, GetParametersForImportResponse,
    ImportKeyMaterialRequest,
};

/// More than any key material, as text too.
const MAX_INPUT: u64 = 16 * 1024;

/// Options of `key import`
///
/// Without --get-parameters and --wrapped it does all steps: gets the wrapping key, wraps the material here, imports
/// it. To wrap it elsewhere: --get-parameters writes the wrapping key and the token, and --wrapped takes what was
/// wrapped, with that token, within 24 hours.
#[derive(Debug, clap::Args)]
pub struct Import {
    #[command(flatten)]
    named: Named,
    /// The key material: 32 bytes for a symmetric key, PKCS#8 (DER or PEM) for a key pair; without it standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["get_parameters", "wrapped"])]
    file: Option<PathBuf>,
    /// Write the wrapping key and the token, to wrap the material elsewhere (GetParametersForImport)
    #[arg(long, requires_all = ["public_key", "import_token"], conflicts_with = "wrapped")]
    get_parameters: bool,
    /// Import material that was wrapped elsewhere (ImportKeyMaterial)
    #[arg(long, visible_alias = "encrypted-key-material", value_name = "FILE", requires = "import_token")]
    wrapped: Option<PathBuf>,
    /// File of the wrapping key: SubjectPublicKeyInfo, DER
    #[arg(long, value_name = "FILE", requires = "get_parameters")]
    public_key: Option<PathBuf>,
    /// File of the import token
    #[arg(long, value_name = "FILE")]
    import_token: Option<PathBuf>,
    /// RSAES_OAEP_SHA_256, RSA_AES_KEY_WRAP_SHA_256 (which takes material of any length), or either with SHA_1
    #[arg(long, value_name = "ALGORITHM", default_value = "RSA_AES_KEY_WRAP_SHA_256")]
    wrapping_algorithm: String,
    /// RSA_2048, RSA_3072 or RSA_4096
    #[arg(long, value_name = "SPEC", default_value = "RSA_4096")]
    wrapping_key_spec: String,
    /// Erase the material at this time, 2030-01-31 or 2030-01-31T12:00:00Z; without it, never
    #[arg(long, visible_alias = "expires", value_name = "TIME", value_parser = when)]
    valid_to: Option<Timestamp>,
    /// NEW_KEY_MATERIAL (waits for `kmsfs key rotate`) or EXISTING_KEY_MATERIAL; new if the key never had any
    #[arg(long, value_name = "TYPE")]
    import_type: Option<String>,
    /// What this material is, at most 256 characters
    #[arg(long, value_name = "TEXT")]
    key_material_description: Option<String>,
    /// Take it only if it is this material
    #[arg(long, value_name = "ID")]
    key_material_id: Option<String>,
}

/// Options of `key delete-imported-material`.
#[derive(Debug, clap::Args)]
pub struct Delete {
    #[command(flatten)]
    named: Named,
    /// Which material; without it the current
    #[arg(long, value_name = "ID")]
    key_material_id: Option<String>,
    /// Go on without asking, whatever depends on the key
    #[arg(short, long)]
    yes: bool,
}

/// A time, or a day that begins in UTC.
fn when(text: &str) -> std::result::Result<Timestamp, String> {
    let day = || format!("{text}T00:00:00Z").parse();
    let no_time = |_: jiff::Error| "neither a day (2030-01-31) nor a time (2030-01-31T12:00:00Z)".to_owned();
    text.parse().or_else(|_: jiff::Error| day()).map_err(no_time)
}

/// Runs `import`.
pub fn import(session: &Session, args: &Import) -> Result<()> {
    let key_id = service::resolve(session, &args.named.key)?;
    if args.get_parameters {
        return parameters(session, args, key_id);
    }
    let (import_token, encrypted_key_material) = match (&args.wrapped, &args.import_token) {
        (Some(wrapped), Some(token)) => (read(Some(token))?.to_vec(), read(Some(wrapped))?.to_vec()),
        _ => {
            let material = material(read(args.file.as_deref())?)?;
            let answer = ask(session, args, key_id.clone())?;
            (answer.import_token, wrapped(&args.wrapping_algorithm, &answer.public_key, &material)?)
        }
    };
    let model = if args.valid_to.is_some() { "KEY_MATERIAL_EXPIRES" } else { "KEY_MATERIAL_DOES_NOT_EXPIRE" };
    let answer = session.call(ImportKeyMaterialRequest {
        key_id,
        import_token,
        encrypted_key_material,
        valid_to: args.valid_to,
        expiration_model: Some(model.to_owned()),
        import_type: args.import_type.clone(),
        key_material_description: args.key_material_description.clone(),
        key_material_id: args.key_material_id.clone(),
    })?;
    if args.named.json {
        return output::json(&answer);
    }
    let mut facts = vec![("imported into", answer.key_id)];
    facts.extend(answer.key_material_id.map(|id| ("key material", id)));
    facts.extend(args.valid_to.map(|at| ("is erased", time(at))));
    output::facts(&facts)
}

fn ask(session: &Session, args: &Import, key_id: String) -> Result<GetParametersForImportResponse> {
    Ok(session.call(GetParametersForImportRequest {
        key_id,
        wrapping_algorithm: args.wrapping_algorithm.clone(),
        wrapping_key_spec: args.wrapping_key_spec.clone(),
    })?)
}

fn parameters(session: &Session, args: &Import, key_id: String) -> Result<()> {
    let (Some(public), Some(token)) = (&args.public_key, &args.import_token) else {
        return Err(CliError::Usage(
            "--get-parameters needs --public-key FILE and --import-token FILE".to_owned(),
        ));
    };
    let answer = ask(session, args, key_id)?;
    write(public, &answer.public_key)?;
    write(token, &answer.import_token)?;
    if args.named.json {
        return output::json(&answer);
    }
    output::facts(&[
        ("wrapping key", public.display().to_string()),
        ("import token", token.display().to_string()),
        ("wrap with", args.wrapping_algorithm.clone()),
        ("both are good until", time(answer.parameters_valid_to)),
    ])
}

/// Wraps as the algorithm says; of its name the service has approved.
fn wrapped(algorithm: &str, public: &[u8], material: &SecretVec) -> Result<Vec<u8>> {
    let failed = |error: CryptoError| match error {
        CryptoError::BadLength { .. } => CliError::Usage(format!(
            "{algorithm} cannot wrap {} bytes; give --wrapping-algorithm RSA_AES_KEY_WRAP_SHA_256",
            material.len()
        )),
        other => CliError::Failed(format!("the key material cannot be wrapped: {other}")),
    };
    let public = PublicKey::parse(public).map_err(failed)?;
    let oaep = if algorithm.ends_with("SHA_1") { Oaep::Sha1 } else { Oaep::Sha256 };
    if algorithm.starts_with("RSA_AES_KEY_WRAP") {
        wrap::rsa_aes_wrap(&public, oaep, material.expose()).map_err(failed)
    } else {
        public.encrypt(oaep, material.expose()).map_err(failed)
    }
}

/// A file or standard input.
fn read(path: Option<&Path>) -> Result<Zeroizing<Vec<u8>>> {
    let path = path.filter(|path| *path != Path::new("-"));
    let shown = path.unwrap_or(Path::new("standard input"));
    let failed = |e| CliError::io("cannot read", shown, e);
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT as usize + 1));
    let source = match path {
        Some(path) => File::open(path),
        // Not std's standard input: its buffer would keep a copy.
        None => rustix::stdio::stdin().try_clone_to_owned().map(File::from),
    };
    source.map_err(failed)?.take(MAX_INPUT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.is_empty() || bytes.len() as u64 > MAX_INPUT {
        return Err(CliError::Usage(format!(
            "{} holds no key material: it has {} bytes",
            shown.display(),
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The bytes, or what PEM (RFC 7468) has between its lines.
fn material(bytes: Zeroizing<Vec<u8>>) -> Result<SecretVec> {
    const BEGIN: &[u8] = b"-----BEGIN PRIVATE KEY-----";
    const END: &[u8] = b"-----END PRIVATE KEY-----";
    let trimmed = bytes.trim_ascii();
    let Some(inner) = trimmed.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)) else {
        if trimmed.starts_with(b"-----BEGIN") {
            return Err(CliError::Usage(
                "this is PEM, but no unencrypted PKCS#8 (BEGIN PRIVATE KEY)".to_owned(),
            ));
        }
        return Ok(SecretVec::new(bytes.to_vec()));
    };
    let mut text = Zeroizing::new(inner.to_vec());
    text.retain(|byte| !byte.is_ascii_whitespace());
    // The decoder's own error would show a character of the secret.
    let decoded = STANDARD.decode(&*text);
    decoded.map(SecretVec::new).map_err(|_| CliError::Usage("the PEM is damaged: not base64".to_owned()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)
    };
    write().map_err(|e| CliError::io("cannot write", path, e))
}

/// Runs `delete-imported-material`.
pub(super) fn delete(open: &Open, args: &Delete) -> Result<()> {
    let session = open.session;
    if let Some(report) = open.report(&args.named.key, args.yes)? {
        if args.named.json {
            output::warn(&report.in_short());
        } else {
            report.show(", from now on, until the same material is imported again")?;
        }
        report.confirm(args.yes, &format!("Take key material of {} away now?", args.named.key))?;
    }
    let key_id = service::resolve(session, &args.named.key)?;
    let answer = session
        .call(DeleteImportedKeyMaterialRequest { key_id, key_material_id: args.key_material_id.clone() })?;
    if args.named.json {
        return output::json(&answer);
    }
    output::line(&format!(
        "{} has lost key material; `kmsfs key import` gives it back, and nothing else does",
        answer.key_id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_in_utc_and_a_time_is_a_time() {
        assert_eq!(when("2030-01-31").unwrap(), "2030-01-31T00:00:00Z".parse().unwrap());
        assert_eq!(when("2030-01-31T12:00:00+02:00").unwrap(), "2030-01-31T10:00:00Z".parse().unwrap());
        assert!(when("tomorrow").is_err());
    }

    #[test]
    fn pem_is_read_and_other_bytes_stay_as_they_are() {
        let read = |text: &[u8]| material(Zeroizing::new(text.to_vec())).map(|m| m.expose().to_vec());
        let pem = b"-----BEGIN PRIVATE KEY-----\nAQID\nBA==\n-----END PRIVATE KEY-----\n";
        assert_eq!(read(pem).unwrap(), [1, 2, 3, 4]);
        assert_eq!(read(b"\n raw \n").unwrap(), b"\n raw \n");
        assert!(read(b"-----BEGIN RSA PRIVATE KEY-----\n").is_err());
        assert!(read(b"-----BEGIN PRIVATE KEY-----\n%\n-----END PRIVATE KEY-----").is_err());
    }
}
