//! `kmsfs serve` as a program: what it prints, its signals, systemd's two protocols.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::bed::{ACCOUNT, Ask, ID, SECRET, connect, exchange};
use crate::served::{Running, start};

pub fn command(dir: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
    command
        .arg("serve")
        .args(args)
        .env("KMSFS_HOME", dir.path().join("home"))
        .env_remove("AWS_REGION")
        .env_remove("KMSFS_ACCOUNT")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn ends_well(mut running: Running) -> String {
    let pid = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = running.child.wait().unwrap();
    let mut told = String::new();
    std::io::Read::read_to_string(running.child.stderr.as_mut().unwrap(), &mut told).unwrap();
    assert!(status.success(), "{status}: {told}");
    told
}

fn lists_keys(address: SocketAddr) {
    let answer = exchange(&mut connect(address), &Ask::new(address, "ListKeys", &json!({})).bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn it_serves_until_it_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let dev = format!("{ID}:{SECRET}={ACCOUNT}");
    let running = start(&mut command(&dir, &["--listen", "127.0.0.1:0", "--dev-credentials", &dev]));
    lists_keys(running.address);
    let told = ends_well(running);
    // Loud, and without the secret.
    assert!(told.contains("--dev-credentials") && told.contains("for tests only"), "{told}");
    assert!(!told.contains(SECRET), "{told}");
}

#[test]
fn the_first_start_makes_an_administrator_and_the_second_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("home/administrator.credentials");
    let running = start(&mut command(&dir, &["--listen", "127.0.0.1:0"]));
    let text = std::fs::read_to_string(&file).unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(" = ").to_owned()
    };
    let mut ask = Ask::new(running.address, "CreateKey", &json!({}));
    (ask.id, ask.secret) = (value("aws_access_key_id"), value("aws_secret_access_key"));
    let answer = exchange(&mut connect(running.address), &ask.bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    ends_well(running);
    std::fs::remove_file(&file).unwrap();
    let running = start(&mut command(&dir, &["--listen", "127.0.0.1:0"]));
    assert!(!file.exists());
    // The port is another, and so is the Host that is signed.
    let mut again = Ask::new(running.address, "ListKeys", &json!({}));
    (again.id, again.secret) = (ask.id, ask.secret);
    assert_eq!(exchange(&mut connect(running.address), &again.bytes()).status, 200);
    ends_well(running);
}

/// Looking at the identities makes their directory, and nobody who could sign; a user or a root's key is somebody.
#[test]
fn an_administrator_is_made_where_there_is_neither_user_nor_access_key() {
    let iam = |dir: &tempfile::TempDir, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
        command.arg("iam").args(args).env("KMSFS_HOME", dir.path().join("home")).env_remove("KMSFS_ACCOUNT");
        let out = command.stdin(Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let before: [(&[&[&str]], bool); 3] = [
        (&[&["account", "get"], &["group", "create", "staff"]], true),
        (&[&["--account", "111122223333", "user", "create", "alice"]], false),
        (&[&["--account", "111122223333", "access-key", "create"]], false),
    ];
    for (before, made) in before {
        let dir = tempfile::tempdir().unwrap();
        for args in before {
            iam(&dir, args);
        }
        assert!(dir.path().join("home/iam").exists());
        let running = start(&mut command(&dir, &["--listen", "127.0.0.1:0"]));
        assert_eq!(dir.path().join("home/administrator.credentials").exists(), made, "{before:?}");
        assert_eq!(iam(&dir, &["user", "list"]).contains("administrator"), made, "{before:?}");
        ends_well(running);
    }
    // Nor is anything made where a file of another time lies, and the key would be lost.
    let dir = tempfile::tempdir().unwrap();
    iam(&dir, &["account", "get"]);
    std::fs::write(dir.path().join("home/administrator.credentials"), "old").unwrap();
    let out = command(&dir, &["--listen", "127.0.0.1:0"]).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && told.contains("administrator.credentials"), "{told}");
    assert!(!iam(&dir, &["user", "list"]).contains("administrator"));
    assert_eq!(std::fs::read(dir.path().join("home/administrator.credentials")).unwrap(), b"old");
}

/// The request ListKeys with the key in a file of credentials.
fn lists_keys_with(file: &std::path::Path, address: SocketAddr) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines().filter_map(|line| line.split_once(" = ")).map(|(_, value)| value.to_owned());
    let mut ask = Ask::new(address, "ListKeys", &json!({}));
    (ask.id, ask.secret) = (lines.next().unwrap(), lines.next().unwrap());
    let answer = exchange(&mut connect(address), &ask.bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Killed at any moment of its first start, the server has an administrator with a key that is known, or none and makes one when it
/// is started again.
#[test]
fn an_administrator_is_never_without_its_access_key() {
    for round in 0..6u32 {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("home/administrator.credentials");
        let mut child = command(&dir, &["--listen", "127.0.0.1:0"]).spawn().unwrap();
        // That begins when there are identities.
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !dir.path().join("home/iam").exists() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(3) * round);
        child.kill().unwrap();
        child.wait().unwrap();
        let running = start(&mut command(&dir, &["--listen", "127.0.0.1:0"]));
        lists_keys_with(&file, running.address);
        ends_well(running);
    }
    let left = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("home/administrator.credentials");
        std::fs::DirBuilder::new().mode(0o700).create(dir.path().join("home")).unwrap();
        std::fs::write(&file, text).unwrap();
        (dir, file)
    };
    // Where the key was on disk, and the administrator not there yet.
    let cut = "[kmsfs]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = never\n";
    let (dir, file) = left(cut);
    let running = start(&mut command(&dir, &["--listen", "127.0.0.1:0"]));
    lists_keys_with(&file, running.address);
    ends_well(running);
    // One that more was written to is somebody's.
    let (dir, _) = left(&format!("{cut}region = eu-west-1\n"));
    let out = command(&dir, &["--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn it_prints_what_points_clients_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let dev = format!("{ID}:it's=secret={ACCOUNT}");
    let out = command(&dir, &["--print-env", "--dev-credentials", &dev, "--listen", "127.0.0.1:4000"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let script = format!("{text}\necho \"$AWS_ENDPOINT_URL_KMS $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY\"");
    let shell = Command::new("sh").args(["-euc", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shell.stdout), format!("http://127.0.0.1:4000 {ID} it's=secret\n"));
    assert!(
        text.contains("# [profile kmsfs]") && text.contains("#   endpoint_url = http://127.0.0.1:4000"),
        "{text}"
    );
    // Nothing is made for it.
    assert!(!dir.path().join("home").exists());
}

#[test]
fn it_takes_systemds_socket_and_tells_when_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // As systemd does: the socket as descriptor 3, and LISTEN_PID of the process itself.
    let dev = format!("{ID}:{SECRET}={ACCOUNT}");
    let script = format!("exec 3<&{}; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"", listener.as_raw_fd());
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &script, env!("CARGO_BIN_EXE_kmsfs"), "serve", "--dev-credentials", &dev])
        .env("KMSFS_HOME", dir.path().join("home"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let running = start(&mut shell);
    drop(listener);
    assert_eq!(running.address, address);
    let said = || {
        let mut bytes = [0; 256];
        let length = notify.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert!(said().contains("READY=1"));
    lists_keys(address);
    ends_well(running);
    assert!(said().contains("STOPPING=1"));
}

#[test]
fn what_cannot_be_served_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (args, code, said) in [
        (vec!["--listen", "0.0.0.0:0"], 2, "no loopback address"),
        (vec!["--listen", address.as_str()], 1, "--listen chooses another address"),
        (
            vec!["--tls-cert", "/nonexistent", "--tls-key", "/nonexistent", "--listen", "127.0.0.1:0"],
            1,
            "/nonexistent",
        ),
        (vec!["--dev-credentials", "a:b"], 2, "ID:SECRET=ACCOUNT"),
        (vec!["--max-connections", "0"], 2, "1 to 100000"),
    ] {
        let out = command(&dir, &args).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(said), "{args:?}: {told}");
    }
}
