//! Certificates: given ones, or those of a small authority in the key service's home.
//!
//! `<home>/tls/ca.pem` is the authority's certificate, which clients trust (AWS_CA_BUNDLE); `ca.key` its private
//! key, mode 0600, in PKCS#8. The server's own certificate is issued anew at each start and stays in memory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ApiError;
use crate::crypto::mac::sha256;

/// Years that the authority's and the server's certificate hold.
const YEARS: i32 = 10;

/// Serves with a certificate chain and its private key, both PEM.
///
/// # Errors
/// [`ApiError::Tls`] if a file cannot be read or the two do not belong together.
pub fn given(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, ApiError> {
    let failed = |path: &Path, why: String| ApiError::Tls(format!("{}: {why}", path.display()));
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| failed(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(failed(certificate, "there is no certificate in it".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| failed(key, e.to_string()))?;
    config(chain, private).map_err(|e| failed(certificate, e))
}

/// The authority in a home.
pub struct Authority {
    /// Its certificate's file.
    pub path: PathBuf,
    /// SHA-256 of the certificate, in hex with colons.
    pub fingerprint: String,
    /// It was made just now.
    pub new: bool,
    key: KeyPair,
}

impl Authority {
    /// Opens the authority of a home, or makes it.
    ///
    /// # Errors
    /// [`ApiError::Tls`].
    pub fn open_or_create(home: &Path) -> Result<Self, ApiError> {
        let dir = home.join("tls");
        let (path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        let failed = |path: &Path, why: String| ApiError::Tls(format!("{}: {why}", path.display()));
        let new = !path.exists();
        if new {
            create(&dir, &path, &key_path).map_err(|e| failed(&dir, e))?;
        }
        let der = CertificateDer::from_pem_file(&path).map_err(|e| failed(&path, e.to_string()))?;
        let key =
            PrivatePkcs8KeyDer::from_pem_file(&key_path).map_err(|e| failed(&key_path, e.to_string()))?;
        let key = KeyPair::try_from(key.secret_pkcs8_der()).map_err(|e| failed(&key_path, e.to_string()))?;
        let hex: Vec<String> = sha256(&[&der]).iter().map(|byte| format!("{byte:02X}")).collect();
        Ok(Self { path, fingerprint: hex.join(":"), new, key })
    }

    /// Serves under these names: host names and addresses.
    ///
    /// # Errors
    /// [`ApiError::Tls`] if one of them is no name.
    pub fn issue(self, names: Vec<String>) -> Result<Arc<ServerConfig>, ApiError> {
        let failed = |e: rcgen::Error| ApiError::Tls(format!("no certificate can be made: {e}"));
        let mut leaf = CertificateParams::new(names).map_err(failed)?;
        leaf.distinguished_name.push(DnType::CommonName, "kmsfs");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        lifetime(&mut leaf);
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = Issuer::new(authority(), self.key);
        let certificate = leaf.signed_by(&key, &issuer).map_err(failed)?;
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        config(vec![certificate.der().clone()], private).map_err(ApiError::Tls)
    }
}

/// What the authority's certificate says. The same at each start, so that what it issues names it.
fn authority() -> CertificateParams {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "kmsfs local authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lifetime(&mut ca);
    ca
}

/// From today on.
fn lifetime(certificate: &mut CertificateParams) {
    let today = jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::now()).date();
    let (year, month, day) =
        (i32::from(today.year()), today.month().unsigned_abs(), today.day().unsigned_abs());
    certificate.not_before = rcgen::date_time_ymd(year, month, day);
    // Day 28 is in every month.
    certificate.not_after = rcgen::date_time_ymd(year + YEARS, month, day.min(28));
}

/// The key first: a certificate that stands there has its key.
fn create(dir: &Path, path: &Path, key_path: &Path) -> Result<(), String> {
    let key = KeyPair::generate().map_err(|e| e.to_string())?;
    let certificate = authority().self_signed(&key).map_err(|e| e.to_string())?;
    let written = || {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        write(key_path, &pem("PRIVATE KEY", key.serialized_der()))?;
        write(path, &pem("CERTIFICATE", certificate.der()))?;
        File::open(dir)?.sync_all()
    };
    written().map_err(|e| e.to_string())
}

/// Whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let parts = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&parts)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&parts, path)
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> zeroize::Zeroizing<String> {
    let body = zeroize::Zeroizing::new(STANDARD.encode(der));
    let mut out = zeroize::Zeroizing::new(String::with_capacity(body.len() + body.len() / 32 + 128));
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(64) {
        // Base64 is ASCII.
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
