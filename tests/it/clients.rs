//! Clients that others wrote, from PyPI and npm, in environments of their own that scripts/test makes
//! (scripts/clients). Where an environment is absent these tests fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kmsfs::audit::ExportOptions;
use kmsfs::kms::{Clock, Home, Kms, KmsOptions, Session};
use parking_lot::Mutex;
use serde_json::json;

use crate::served::{self, ACCOUNT, OTHER_ACCOUNT, OTHER_ROOT, ROOT, Running};

const REGION: &str = "us-east-1";
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The interpreter of the environment with tests/clients/requirements.txt.
fn python() -> PathBuf {
    let python = root().join("target/tools/py/bin/python");
    let wanted = fs::read(root().join("tests/clients/requirements.txt")).unwrap();
    let made_of = fs::read(root().join("target/tools/py/requirements.txt")).unwrap_or_default();
    assert!(
        python.exists() && wanted == made_of,
        "the Python clients are absent or of other versions: run scripts/clients, or scripts/test"
    );
    python
}

/// Runs a program that must succeed; what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// A script of tests/clients.
fn script(name: &str) -> PathBuf {
    root().join("tests/clients").join(name)
}

/// The folder of the packages of tests/clients/package-lock.json.
fn node_modules() -> PathBuf {
    let wanted = fs::read(root().join("tests/clients/package-lock.json")).unwrap();
    let made_of = fs::read(root().join("target/tools/js/installed.json")).unwrap_or_default();
    assert!(
        wanted == made_of,
        "the JavaScript client is absent or of another version: run scripts/clients, or scripts/test"
    );
    root().join("target/tools/js/node_modules")
}

/// `kmsfs serve` with two regions and the roots of two accounts.
struct Server {
    dir: tempfile::TempDir,
    running: Running,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-it-").tempdir().unwrap();
        let kmsfs = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
            command.args(args).current_dir(dir.path()).env("KMSFS_HOME", dir.path().join("home"));
            for inherited in ["AWS_REGION", "KMSFS_ACCOUNT", "KMSFS_PASSPHRASE_FILE"] {
                command.env_remove(inherited);
            }
            command.stdin(Stdio::null()).stderr(Stdio::null());
            command
        };
        for region in ["eu-west-1", REGION] {
            fs::create_dir(dir.path().join(region)).unwrap();
            run(&mut kmsfs(&["--region", region, "init", region]));
        }
        let mut serve = kmsfs(&["serve", "--listen", "127.0.0.1:0"]);
        for (key, account) in [(ROOT, ACCOUNT), (OTHER_ROOT, OTHER_ACCOUNT)] {
            serve.args(["--dev-credentials", &served::dev_credentials(key, account)]);
        }
        let running = served::start(&mut serve);
        Self { dir, running }
    }

    /// A client that knows the server and its access keys, and nothing of this machine's.
    fn client(&self, program: impl AsRef<std::ffi::OsStr>, script_name: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("AWS_")) {
                command.env_remove(name);
            }
        }
        let none = self.dir.path().join("none");
        command
            .arg(script(script_name))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .env("AWS_ENDPOINT_URL", self.running.url())
            .env("AWS_DEFAULT_REGION", REGION)
            // The AWS CLI keeps sessions of roles in the home directory, for the next run to find.
            .env("HOME", self.dir.path())
            .env("AWS_CONFIG_FILE", &none)
            .env("AWS_SHARED_CREDENTIALS_FILE", &none)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", ROOT[0])
            .env("AWS_SECRET_ACCESS_KEY", ROOT[1])
            .env("OTHER_ACCESS_KEY_ID", OTHER_ROOT[0])
            .env("OTHER_SECRET_ACCESS_KEY", OTHER_ROOT[1])
            .env("NO_PROXY", "127.0.0.1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// A clock that is set by hand.
struct Hand(Mutex<Timestamp>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

fn call(session: &Session, operation: &str, body: serde_json::Value) -> serde_json::Value {
    let answer = session.call_json(operation, &serde_json::to_vec(&body).unwrap()).unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[test]
fn awsclis_validator_accepts_an_export_and_refuses_what_was_done_to_it() {
    let python = python();
    let dir = tempfile::tempdir().unwrap();
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let clock = Arc::new(Hand(Mutex::new(start)));
    let home = dir.path().join("home");
    Home::open_or_create(&home).unwrap();
    let options = KmsOptions { clock: clock.clone(), ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
    let kms = Kms::open(&home, options).unwrap();
    let region = REGION.parse().unwrap();
    kms.create_region(&region, None).unwrap();
    let session = kms.root_session(&region).unwrap();
    let key = call(&session, "CreateKey", json!({}))["KeyMetadata"]["KeyId"].clone();
    let out = dir.path().join("out");
    let minutes = |minutes| *clock.0.lock() += SignedDuration::from_mins(minutes);
    // Two exports; hours with events, and two without.
    for (events, wait) in [(3, 61), (2, 180), (4, 61)] {
        for _ in 0..events {
            call(&session, "Encrypt", json!({"KeyId": key, "Plaintext": "eA=="}));
        }
        minutes(wait);
        if wait > 100 {
            session.export_log(&out, &ExportOptions::default()).unwrap();
        }
    }
    let done = session.export_log(&out, &ExportOptions::default()).unwrap();
    let keys = session.digest_public_keys(Some(start), Some(done.until)).unwrap();
    let listed = dir.path().join("keys.json");
    fs::write(&listed, serde_json::to_vec(&keys).unwrap()).unwrap();
    let mut validator = Command::new(&python);
    validator.arg(script("digest_validator.py")).arg(&out).arg(&listed);
    let told = run(validator.args([start.to_string(), done.until.to_string()]));
    assert!(told.contains("15 changes refused"), "{told}");
    // The log of IAM and STS beside it, in the same folders.
    let begun = clock.0.lock().as_second() / 3600 * 3600;
    let root = kmsfs::kms::Caller::root(ACCOUNT.parse().unwrap());
    kms.identity(root).call_json("CreateUser", json!({"UserName": "alice"})).unwrap();
    minutes(90);
    session.export_log(&out, &ExportOptions::default()).unwrap();
    let done = session.export_identity_log(&out, &ExportOptions::default()).unwrap().unwrap();
    let begun = Timestamp::from_second(begun).unwrap().to_string();
    for (trail, from) in [("kmsfs-iam", &begun), ("kmsfs", &start.to_string())] {
        let mut validator = Command::new(&python);
        validator.arg(script("digest_validator.py")).arg(&out).arg(&listed);
        let told = run(validator.args([from, &done.until.to_string(), trail]));
        assert!(trail == "kmsfs" || told.contains("1 log files of kmsfs-iam"), "{told}");
    }
}

/// Parts of tests/clients/conformance.py; with all of them it demands that every operation was answered and refused.
const CONFORMANCE: [&str; 14] = [
    "keys",
    "aliases",
    "policies",
    "tags",
    "rotation",
    "symmetric",
    "pairs",
    "kem",
    "grants",
    "imports",
    "replicas",
    "stores",
    "trail",
    "identity",
];

#[test]
fn botocores_model_describes_every_raw_answer() {
    let server = Server::new();
    let told = run(server.client(python(), "conformance.py").args(CONFORMANCE));
    assert!(told.contains("operations of botocore's model"), "{told}");
}

#[test]
fn the_aws_cli_does_what_people_type() {
    let server = Server::new();
    run(server
        .client(python(), "aws_cli.py")
        .args(["program", "keys", "crypto", "grants", "imports", "regions", "identity", "trail"]));
}

#[test]
fn the_encryption_sdk_seals_a_file_and_opens_it_while_the_key_serves() {
    let server = Server::new();
    run(&mut server.client(python(), "encryption_sdk.py"));
}

#[test]
fn the_javascript_sdk_reads_answers_errors_and_pages() {
    let server = Server::new();
    run(server.client("node", "javascript.mjs").arg(node_modules()));
}
