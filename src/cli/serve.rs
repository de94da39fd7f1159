//! `kmsfs serve`: the key service over HTTP, as AWS's SDKs and command line speak to it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::error::{CliError, Result};
use super::global::Global;
use super::{administrator, daemon, output, service};
use crate::api::tls::{self, Authority};
use crate::api::{ApiError, DevCredential, DevCredentials, HomeCredentials, Server, ServerOptions};

/// How long requests that are under way may take when the server is to end.
const GRACE: Duration = Duration::from_secs(10);

/// Serves the AWS API: `aws kms` and every AWS SDK work against it
///
/// Stays in the foreground until SIGTERM or SIGINT. Requests are signed as AWS's are (Signature Version 4), decided
/// by policy and recorded. Makes the key service's home and the region if they are not there, and, in a home without
/// users and access keys, an administrator whose access key it shows once. Under systemd it takes its socket (LISTEN_FDS)
/// and tells when it is ready (NOTIFY_SOCKET). docs/api.md says how to point clients at it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; other addresses than loopback only with TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9566")]
    listen: SocketAddr,
    /// Serve over TLS, with a certificate under an authority that is made in the home and that clients trust
    #[arg(long)]
    tls: bool,
    /// Serve over TLS with this certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "tls")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Host names and addresses that the certificate of --tls is for, beside localhost and the one listened on
    #[arg(long, value_name = "NAME", requires = "tls", value_delimiter = ',')]
    tls_names: Vec<String>,
    /// Connections that are open at once; more wait
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().max_connections, value_parser = connections)]
    max_connections: usize,
    /// For tests only: a fixed access key that acts as an account's root; may be given several times
    #[arg(long, value_name = "ID:SECRET=ACCOUNT")]
    dev_credentials: Vec<DevCredential>,
    /// Print what points the AWS CLI and SDKs at this server, as shell exports and as a profile, and end
    #[arg(long)]
    print_env: bool,
}

fn connections(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=100_000).contains(n)).ok_or_else(|| "1 to 100000".to_owned())
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    if args.print_env {
        return output::bytes(environment(global, args)?.as_bytes());
    }
    // Before the first thread, so that each thread inherits the handled signals.
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|source| CliError::Io { what: "cannot catch signals".to_owned(), source })?;
    if let Some(warning) = daemon::lock_memory() {
        output::warn(&warning);
    }
    daemon::raise_open_files();
    let kms = service::kms_or_new(global)?;
    let listener = listener(args)?;
    let address = listener.local_addr().map_err(|e| failed(ApiError::Io(e)))?;
    let (tls, authority) = certificate(global, args, address)?;
    for dev in &args.dev_credentials {
        output::warn(&format!(
            "--dev-credentials: whoever knows the secret of {} is root of account {}; for tests only",
            dev.id, dev.account
        ));
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let options = ServerOptions { max_connections: args.max_connections, ..ServerOptions::default() };
    let own = HomeCredentials(kms.clone());
    let credentials = DevCredentials::new(args.dev_credentials.iter().cloned(), Some(Box::new(own)));
    // With development credentials nobody asks for more.
    let told_once = if args.dev_credentials.is_empty() { administrator::first(&kms)? } else { None };
    let server = Server::start(kms, Box::new(credentials), listener, tls, options).map_err(failed)?;
    output::line(&format!("listening on {scheme}://{}", server.address()))?;
    for told in authority.iter().map(String::as_str).chain(told_once.as_deref()) {
        output::line(told)?;
    }
    // Nobody may be there to be told.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    signals.forever().next();
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    if !server.stop(GRACE) {
        output::warn("requests were still under way when the server ended");
    }
    Ok(())
}

fn failed(error: ApiError) -> CliError {
    match error {
        ApiError::PlainHttp { .. } => CliError::Usage(error.to_string()),
        ApiError::Home(error) => CliError::Home(error.to_string()),
        ApiError::Io(_) | ApiError::Tls(_) => CliError::Failed(error.to_string()),
    }
}

/// The socket that systemd has opened, or our own.
fn listener(args: &Args) -> Result<TcpListener> {
    let mut given = sd_notify::listen_fds()
        .map_err(|source| CliError::Io { what: "cannot take the sockets of systemd".to_owned(), source })?;
    match (given.next(), given.next()) {
        (None, _) => TcpListener::bind(args.listen).map_err(|source| CliError::Io {
            what: format!("cannot listen on {} (--listen chooses another address)", args.listen),
            source,
        }),
        // SAFETY: systemd opened it for this process alone (listen_fds compares the process id), and nobody else
        // in this process takes it.
        (Some(fd), None) => Ok(unsafe { TcpListener::from_raw_fd(fd) }),
        (Some(_), Some(_)) => Err(CliError::Usage(
            "systemd gave more than one socket; give the unit one ListenStream".to_owned(),
        )),
    }
}

type Tls = Option<std::sync::Arc<rustls::ServerConfig>>;

/// TLS as it was asked for, and what to tell of it.
fn certificate(global: &Global, args: &Args, address: SocketAddr) -> Result<(Tls, Option<String>)> {
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        return Ok((Some(tls::given(certificate, key).map_err(failed)?), None));
    }
    if !args.tls {
        return Ok((None, None));
    }
    let authority = Authority::open_or_create(&global.home()?).map_err(failed)?;
    let made = if authority.new { " (made just now)" } else { "" };
    let told = format!(
        "authority {}{made}, for AWS_CA_BUNDLE\nSHA-256 {}",
        authority.path.display(),
        authority.fingerprint
    );
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    names.extend([host].into_iter().filter(|host| !host.is_empty()));
    names.extend(args.tls_names.iter().cloned());
    names.dedup();
    Ok((Some(authority.issue(names).map_err(failed)?), Some(told)))
}

/// Shell lines and a profile.
fn environment(global: &Global, args: &Args) -> Result<String> {
    let secure = args.tls || args.tls_cert.is_some();
    let scheme = if secure { "https" } else { "http" };
    let host = if args.listen.ip().is_unspecified() { "localhost".to_owned() } else { host_of(args.listen) };
    let (url, region) = (format!("{scheme}://{host}:{}", args.listen.port()), &global.region);
    let (id, secret) = match args.dev_credentials.first() {
        Some(dev) => (dev.id.clone(), String::from_utf8_lossy(dev.secret.expose()).into_owned()),
        None => ("ACCESS_KEY_ID".to_owned(), "SECRET_ACCESS_KEY".to_owned()),
    };
    let keyed = if args.dev_credentials.is_empty() { "# " } else { "" };
    let bundle = global.home()?.join("tls/ca.pem");
    let mut text = String::new();
    for service in ["KMS", "STS", "IAM", "CLOUDTRAIL"] {
        text += &format!("export AWS_ENDPOINT_URL_{service}={url}\n");
    }
    // boto3 and version 1 of the AWS CLI know the second name only.
    text += &format!("export AWS_REGION={region} AWS_DEFAULT_REGION={region}\n");
    if args.tls {
        text += &format!("export AWS_CA_BUNDLE={}\n", quoted(&bundle.display().to_string()));
    }
    text += &format!("{keyed}export AWS_ACCESS_KEY_ID={}\n", quoted(&id));
    text += &format!("{keyed}export AWS_SECRET_ACCESS_KEY={}\n", quoted(&secret));
    text += "#\n# Or, for ~/.aws/config (then `aws --profile kmsfs kms list-keys`):\n#\n";
    text += &format!("# [profile kmsfs]\n# region = {region}\n# services = kmsfs\n");
    text += &format!("# aws_access_key_id = {id}\n# aws_secret_access_key = {secret}\n");
    if args.tls {
        text += &format!("# ca_bundle = {}\n", bundle.display());
    }
    text += "# [services kmsfs]\n";
    for service in ["kms", "sts", "iam", "cloudtrail"] {
        text += &format!("# {service} =\n#   endpoint_url = {url}\n");
    }
    Ok(text)
}

fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
