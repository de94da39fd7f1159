//! Servers as programs of their own: `kmsfs serve`, and moto_server, which others wrote. They end when they are dropped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::mounted::bed::{Bed, wait_for};

/// Access keys of the roots of two accounts, as AWS's documentation has them.
pub const ROOT: [&str; 2] = ["AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"];
pub const OTHER_ROOT: [&str; 2] = ["AKIAI44QH8DHBEXAMPLE", "je7MtGbClwBF2Zp9Utkh3yCo8nvbEXAMPLEKEY"];
pub const ACCOUNT: &str = "000000000000";
pub const OTHER_ACCOUNT: &str = "111122223333";

/// A server that listens.
pub struct Running {
    pub child: Child,
    pub address: SocketAddr,
}

impl Running {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `kmsfs serve`, as the command has it, and waits until it says where it listens.
pub fn start(command: &mut Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let (mut told, mut line) = (String::new(), String::new());
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    // The first start has more to say before.
    let address = loop {
        line.clear();
        if lines.read_line(&mut line).unwrap() == 0 {
            break None;
        }
        if let Some(address) = line.trim().strip_prefix("listening on http://") {
            break address.parse().ok();
        }
        told += &line;
    };
    match address {
        Some(address) => Running { child, address },
        None => {
            let _ = child.kill();
            panic!("the server did not begin ({}): {told}", child.wait().unwrap());
        }
    }
}

/// The argument of --dev-credentials that makes an access key that of an account's root.
pub fn dev_credentials([id, secret]: [&str; 2], account: &str) -> String {
    format!("{id}:{secret}={account}")
}

/// moto_server, from PyPI: knows AWS's shapes, not its signatures or policies. What it says goes to moto.log in `dir`.
pub fn moto(dir: &Path) -> Running {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/py/bin/moto_server");
    assert!(program.exists(), "the Python clients are absent: run scripts/clients, or scripts/test");
    let address = free();
    let log = fs::File::create(dir.join("moto.log")).unwrap();
    let port = address.port().to_string();
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let running = Running { child: command.spawn().unwrap(), address };
    wait_for(Duration::from_secs(60), "moto to listen", || TcpStream::connect(address).is_ok());
    running
}

/// `kmsfs serve` over a home of its own with two regions; it can be stopped and started at the same address.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    running: Option<Running>,
}

impl Server {
    /// Over a home with nothing in it, and not started.
    pub fn bare() -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-it-").tempdir().unwrap();
        Self { dir, address: free(), running: None }
    }

    pub fn new() -> Self {
        let mut server = Self::bare();
        for region in ["eu-west-1", "us-east-1"] {
            server.kmsfs(&["--region", region, "init", "--new-key", "alias/vault", region]);
        }
        server.start();
        server
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
        command.args(args).current_dir(self.dir.path()).env("KMSFS_HOME", self.dir.path().join("home"));
        for inherited in ["AWS_REGION", "KMSFS_ACCOUNT", "KMSFS_PASSPHRASE_FILE", "KMSFS_KMS"] {
            command.env_remove(inherited);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a verb on the server's own home, as its operator.
    pub fn kmsfs(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kmsfs(args)).unwrap()
    }

    /// The ARN of a key.
    pub fn arn(&self, region: &str, key: &str) -> String {
        let answer = self.json(&["--region", region, "key", "describe", "--json", key]);
        answer["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    /// With the access keys above.
    pub fn start(&mut self) {
        let keys = [(ROOT, ACCOUNT), (OTHER_ROOT, OTHER_ACCOUNT)];
        let [own, other] = keys.map(|(key, account)| dev_credentials(key, account));
        self.start_with(&["--dev-credentials", &own, "--dev-credentials", &other]);
    }

    pub fn start_with(&mut self, args: &[&str]) {
        let address = self.address.to_string();
        let mut serve = self.command(&[&["serve", "--listen", &address], args].concat());
        self.running = Some(start(serve.stderr(Stdio::null())));
    }

    pub fn stop(&mut self) {
        self.running = None;
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A bed whose programs use AWS KMS, which is this server, as the root of its account.
    pub fn bed(&self) -> Bed {
        bed(&self.url())
    }
}

/// The AWS CLI, which knows the server and nothing of this machine's configuration; who asks is the caller's to say.
pub fn aws_cli(dir: &Path, url: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/py/bin/aws");
    assert!(program.exists(), "the AWS CLI is absent: run scripts/clients, or scripts/test");
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
    }
    command
        .args(["--endpoint-url", url])
        .current_dir(dir)
        .env("HOME", dir)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null());
    command
}

/// An address that nobody uses.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A bed whose programs use AWS KMS at an address, and nothing of this machine's configuration.
pub fn bed(url: &str) -> Bed {
    let mut bed = Bed::without_volume();
    let variables = [
        ("KMSFS_KMS", "aws"),
        ("AWS_ENDPOINT_URL_KMS", url),
        ("AWS_ACCESS_KEY_ID", ROOT[0]),
        ("AWS_SECRET_ACCESS_KEY", ROOT[1]),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    bed.env = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    bed
}

/// Changes a variable of a bed's programs.
pub fn set(bed: &mut Bed, name: &str, value: &str) {
    bed.env.retain(|(there, _)| there != name);
    bed.env.push((name.to_owned(), value.to_owned()));
}
