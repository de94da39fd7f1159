//! Clients that others wrote, from PyPI and npm, in environments of their own that scripts/test makes
//! (scripts/clients). Where an environment is absent these tests fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kmsfs::audit::ExportOptions;
use kmsfs::kms::{Clock, Home, Kms, KmsOptions, Session};
use parking_lot::Mutex;
use serde_json::json;

const ACCOUNT: &str = "000000000000";
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
    let mut validator = Command::new(python);
    validator.arg(script("digest_validator.py")).arg(&out).arg(&listed);
    let told = run(validator.args([start.to_string(), done.until.to_string()]));
    assert!(told.contains("15 changes refused"), "{told}");
}
