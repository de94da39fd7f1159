//! Servers that speak as AWS KMS does, as programs of their own, and a bed whose programs use them.

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
pub const OTHER_ACCOUNT: &str = "111122223333";

/// `kmsfs serve` over a home of its own with two regions; it can be stopped and started at the same address.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    child: Option<Child>,
}

impl Server {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-it-").tempdir().unwrap();
        let mut server = Self { dir, address: free(), child: None };
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

    pub fn start(&mut self) {
        let [own, other] = [(ROOT, "000000000000"), (OTHER_ROOT, OTHER_ACCOUNT)]
            .map(|([id, secret], account)| format!("{id}:{secret}={account}"));
        let address = self.address.to_string();
        let mut serve = self.command(&["serve", "--listen", &address]);
        serve.args(["--dev-credentials", &own, "--dev-credentials", &other]);
        let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut told = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut told).unwrap();
        assert!(told.contains(&address), "told {told:?}");
        self.child = Some(child);
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A bed whose programs use AWS KMS, which is this server, as the root of its account.
    pub fn bed(&self) -> Bed {
        bed(&self.url())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
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

/// moto_server, from PyPI: knows AWS's shapes, not its signatures or policies.
pub struct Moto {
    child: Child,
    pub address: SocketAddr,
}

impl Moto {
    pub fn start(dir: &Path) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/py/bin/moto_server");
        assert!(program.exists(), "the Python clients are absent: run scripts/clients, or scripts/test");
        let address = free();
        let log = fs::File::create(dir.join("moto.log")).unwrap();
        let port = address.port().to_string();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let moto = Self { child, address };
        wait_for(Duration::from_secs(60), "moto to listen", || TcpStream::connect(address).is_ok());
        moto
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
