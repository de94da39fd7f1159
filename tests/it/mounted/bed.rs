//! A volume, its key service's home and a mount point in a temporary directory, driven through the
//! program as a user would. Whatever a test does, nothing stays mounted.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::volume::disk::Dir;
use kmsfs::volume::edk::{self, Listing};
use kmsfs::volume::host::HostDir;

/// The program under test.
const KMSFS: &str = env!("CARGO_BIN_EXE_kmsfs");
/// The key of [`Bed::with_own_key`].
pub const KEY: &str = "alias/vault";

pub struct Bed {
    /// Variables of every program that is run.
    pub env: Vec<(String, String)>,
    // Dropped last, after the unmount below.
    dir: tempfile::TempDir,
}

/// Says that a test, or a part of it, was not run. Not by eprintln!, which nobody sees of a test that passes; scripts/test lists
/// what it finds of these.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes()).unwrap();
}

impl Bed {
    /// A new volume, not mounted.
    pub fn new() -> Self {
        let bed = Self::without_volume();
        bed.run(["init", "vault"]);
        bed
    }

    /// A new volume under a customer managed key, [`KEY`], not mounted.
    pub fn with_own_key() -> Self {
        let bed = Self::without_volume();
        bed.run(["init", "--new-key", KEY, "vault"]);
        bed
    }

    pub fn without_volume() -> Self {
        require_fuse();
        let dir = tempfile::Builder::new().prefix("kmsfs-it-").tempdir().unwrap();
        for name in ["vault", "plain"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { env: Vec::new(), dir }
    }

    /// A new volume, mounted.
    pub fn mounted() -> Self {
        let bed = Self::new();
        bed.mount();
        bed
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// For whom the keys of its files are wrapped, as the headers stand now. Quick enough to be asked while a command is at work:
    /// it may be over before another program has begun. A header that is being written may be missing.
    fn headers(&self) -> Listing {
        let root: Arc<dyn Dir> = HostDir::open(&self.vault()).unwrap();
        edk::list(&root, &[], 1).unwrap()
    }

    /// How many files have a key under a KMS key.
    pub fn files_under(&self, key_arn: &str) -> u64 {
        self.headers().files.get(key_arn).copied().unwrap_or(0)
    }

    /// How many keys are wrapped for others than the volume's own KMS key.
    pub fn wrapped_for_others(&self) -> u64 {
        let Listing { volume_keys, files, .. } = self.headers();
        files.iter().filter(|(key, _)| Some(*key) != volume_keys.first()).map(|(_, files)| files).sum()
    }

    /// The backing directory.
    pub fn vault(&self) -> PathBuf {
        self.dir().join("vault")
    }

    /// The mount point, or something below it.
    pub fn plain(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir().join("plain").join(below)
    }

    /// The program with its home in the bed, in the bed's directory.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(KMSFS);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("AWS_")) {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.dir())
            .env("KMSFS_HOME", self.dir().join("home"))
            .env_remove("KMSFS_ACCOUNT")
            .env_remove("KMSFS_PASSPHRASE_FILE")
            .env_remove("KMSFS_KMS")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb that must succeed; what it printed.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        let mut command = self.command(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?} failed: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb that must fail, in an orderly way; what it told, in one line.
    pub fn refused<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.refused_with(args).1
    }

    /// The same with the exit code.
    pub fn refused_with<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> (i32, String) {
        let mut command = self.command(args);
        let output = command.output().unwrap();
        let text = told(&output);
        assert!(!output.status.success(), "{command:?} was to fail: {text}");
        let code = output.status.code().unwrap_or_else(|| panic!("{command:?} fell over: {text}"));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.starts_with("kmsfs: "), "{command:?}: {text}");
        assert_eq!(errors.lines().count(), 1, "{command:?} did not tell one error: {text}");
        (code, errors)
    }

    pub fn mount(&self) {
        self.run(["mount", "vault", "plain"]);
        assert!(self.is_mounted(), "mount came back without a mount");
    }

    pub fn unmount(&self) {
        self.run(["umount", "plain"]);
        assert!(!self.is_mounted(), "umount came back with the mount in place");
    }

    pub fn remount(&self) {
        self.unmount();
        self.mount();
    }

    pub fn is_mounted(&self) -> bool {
        is_mount_point(&self.dir().join("plain"))
    }

    /// A mount in the foreground, to be killed.
    pub fn mount_in_foreground(&self) -> Daemon {
        let child = self.command(["mount", "-f", "vault", "plain"]).stderr(Stdio::null()).spawn().unwrap();
        let daemon = Daemon(child);
        wait_for(Duration::from_secs(20), "the mount to answer", || self.is_mounted());
        daemon
    }

    /// Takes a mount away whose daemon is dead or deaf.
    pub fn detach(&self) {
        detach(&self.dir().join("plain"));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.is_mounted() || fs::metadata(self.dir().join("plain")).is_err() {
            let _ = self.command(["umount", "plain"]).stderr(Stdio::null()).status();
            // What hangs or is dead, and must not be emptied together with the directory.
            if self.is_mounted() || fs::metadata(self.dir().join("plain")).is_err() {
                self.detach();
            }
        }
    }
}

/// A daemon in the foreground; killed when dropped.
pub struct Daemon(Child);

impl Daemon {
    /// kill -9.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its own end; true if it succeeded.
    pub fn ends_well(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the daemon did not end");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last resort; an error means that nothing was mounted.
fn detach(point: &Path) {
    for (program, args) in [("fusermount3", ["-u", "-z", "-q"].as_slice()), ("umount", &["-l", "-q"])] {
        let _ = Command::new(program).args(args).arg(point).stderr(Stdio::null()).status();
    }
}

fn is_mount_point(path: &Path) -> bool {
    match (fs::metadata(path), fs::metadata(path.parent().unwrap())) {
        (Ok(point), Ok(parent)) => point.dev() != parent.dev(),
        _ => false,
    }
}

/// Tests that mount fail, and do not pass, where nothing can be mounted.
fn require_fuse() {
    assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is absent; the mount tests need it");
    let helper = Command::new("fusermount3").arg("-V").output().is_ok_and(|o| o.status.success());
    assert!(helper, "fusermount3 is absent: apt-get install fuse3");
}

/// Waits until `done`, at most `limit`.
pub fn wait_for(limit: Duration, what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < until, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a shell script that must succeed in `dir`; what it printed.
pub fn sh(dir: &Path, script: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "in {}:\n{script}\n{}", dir.display(), told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn told(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}
