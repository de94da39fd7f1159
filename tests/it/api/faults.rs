//! A server that is killed while it works, and one whose disk is full: what it has acknowledged is there, with its event.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use kmsfs::audit::{ChainHead, Filter, Found};
use kmsfs::kms::{Caller, Kms, KmsOptions, Session};
use serde_json::{Value, json};

use super::bed::{ACCOUNT, Answer, Ask, ID, SECRET, connect, exchange, read};
use super::program::{self, ends_well};
use crate::served::{self, Running};

const REGION: &str = "us-east-1";
/// Connections that ask at the same time.
const CLIENTS: usize = 6;
/// Times that the server is killed; KMSFS_KILL_ROUNDS says otherwise.
const ROUNDS: usize = 4;
/// Tags that a key gets before the next key is made; AWS allows 50.
const TAGS: usize = 40;

fn serve(dir: &tempfile::TempDir) -> Running {
    let dev = format!("{ID}:{SECRET}={ACCOUNT}");
    served::start(&mut program::command(dir, &["--listen", "127.0.0.1:0", "--dev-credentials", &dev]))
}

fn open(home: &Path) -> Arc<Kms> {
    Kms::open(home, KmsOptions::new(ACCOUNT.parse().unwrap())).unwrap()
}

fn session(kms: &Arc<Kms>) -> Session {
    kms.root_session(&REGION.parse().unwrap()).unwrap()
}

/// The answer; None if the server went away first.
fn attempt(stream: &mut TcpStream, ask: &Ask) -> Option<Answer> {
    stream.write_all(&ask.bytes()).ok()?;
    read(stream)
}

// ---- killed under load

/// One client: what it was told, and what it had asked when the server went away.
#[derive(Default)]
struct Client {
    name: String,
    keys: Vec<String>,
    blobs: Vec<String>,
    /// Acknowledged: requestID, operation, the error's name if it was one.
    told: Vec<(String, &'static str, Option<String>)>,
    /// Acknowledged: tags by key, the number in the description by key, aliases, users.
    tags: BTreeMap<String, BTreeSet<String>>,
    described: BTreeMap<String, usize>,
    aliases: BTreeSet<String>,
    users: BTreeSet<String>,
    calls: usize,
    /// Steps that were answered.
    served: Arc<AtomicUsize>,
}

impl Client {
    /// Asks until the server goes away.
    fn run(&mut self, address: SocketAddr) {
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        stream.set_nodelay(true).unwrap();
        while self.step(address, &mut stream).is_some() {
            self.served.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn step(&mut self, address: SocketAddr, stream: &mut TcpStream) -> Option<()> {
        self.calls += 1;
        let n = self.calls;
        let key = self.keys.last().cloned().unwrap_or_default();
        let full = self.tags.get(&key).is_some_and(|tags| tags.len() >= TAGS);
        let ask = |operation: &str, body: Value| Ask::new(address, operation, &body);
        if self.keys.is_empty() || full {
            let answer = self.told(attempt(stream, &ask("CreateKey", json!({})))?, "CreateKey");
            self.keys.push(answer["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned());
            return Some(());
        }
        match n % 10 {
            0 => {
                let tag = format!("t{n}");
                let tags = json!([{"TagKey": tag, "TagValue": "x"}]);
                let asked = ask("TagResource", json!({"KeyId": key, "Tags": tags}));
                self.told(attempt(stream, &asked)?, "TagResource");
                self.tags.entry(key).or_default().insert(tag);
            }
            1 => {
                let body = json!({"KeyId": key, "Description": n.to_string()});
                self.told(attempt(stream, &ask("UpdateKeyDescription", body))?, "UpdateKeyDescription");
                self.described.insert(key, n);
            }
            2 if n.is_multiple_of(3) => {
                let alias = format!("alias/{}-{n}", self.name);
                let body = json!({"AliasName": alias, "TargetKeyId": key});
                // Of the 50 aliases of a key the last are refused.
                let answer = self.told(attempt(stream, &ask("CreateAlias", body))?, "CreateAlias");
                if answer.get("__type").is_none() {
                    self.aliases.insert(alias);
                }
            }
            3 if n.is_multiple_of(3) => {
                let user = format!("{}-{n}", self.name);
                let answer =
                    attempt(stream, &Ask::query(address, "iam", "CreateUser", &[("UserName", &user)]))?;
                assert_eq!(answer.status, 200, "{}", answer.text());
                self.told.push((answer.get("x-amzn-requestid").to_owned(), "CreateUser", None));
                self.users.insert(user);
            }
            4 if !self.blobs.is_empty() => {
                let blob = &self.blobs[n % self.blobs.len()];
                let asked = ask("Decrypt", json!({"CiphertextBlob": blob}));
                let answer = self.told(attempt(stream, &asked)?, "Decrypt");
                assert_eq!(answer["Plaintext"], BASE64.encode(&self.name));
            }
            // Refused, and recorded too.
            5 => {
                let asked = ask("Encrypt", json!({"KeyId": "alias/nowhere", "Plaintext": "eA=="}));
                assert_eq!(self.told(attempt(stream, &asked)?, "Encrypt")["__type"], "NotFoundException");
            }
            6 => {
                let asked = ask("GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_256"}));
                self.told(attempt(stream, &asked)?, "GenerateDataKey");
            }
            _ => {
                let body = json!({"KeyId": key, "Plaintext": BASE64.encode(&self.name)});
                let answer = self.told(attempt(stream, &ask("Encrypt", body))?, "Encrypt");
                self.blobs.push(answer["CiphertextBlob"].as_str().unwrap().to_owned());
            }
        }
        Some(())
    }

    /// Notes an answer of KMS; its body.
    fn told(&mut self, answer: Answer, operation: &'static str) -> Value {
        assert!(answer.status < 500, "{operation}: {}", answer.text());
        let body = if answer.body.is_empty() { json!({}) } else { answer.json() };
        let error = body.get("__type").map(|name| name.as_str().unwrap().to_owned());
        self.told.push((answer.get("x-amzn-requestid").to_owned(), operation, error));
        body
    }
}

/// Everything in a log behind a number.
fn events(found: Vec<Found>) -> BTreeMap<String, (String, Option<String>)> {
    let entry = |f: Found| {
        (
            f.event.request_id.clone(),
            (f.event.event_name.to_string(), f.event.error_code.map(|e| e.to_string())),
        )
    };
    found.into_iter().map(entry).collect()
}

/// The heads of the logs of the region and of identities.
type Heads = (ChainHead, Option<ChainHead>);

/// What was acknowledged is there, and in the logs; the logs hold what they held before.
fn check(home: &Path, clients: &[Client], before: Option<Heads>) -> Heads {
    let kms = open(home);
    let session = session(&kms);
    let identities = kms.identity(Caller::root(ACCOUNT.parse().unwrap()));
    let head = session.verify_log(before.map(|heads| heads.0)).unwrap();
    let of_identities = identities.verify_log(before.and_then(|heads| heads.1)).unwrap();
    let all = Filter { limit: Some(usize::MAX), ..Filter::default() };
    let mut recorded = events(session.lookup_events(&all).unwrap());
    recorded.extend(events(identities.lookup_events(&all).unwrap()));
    let ask = |operation: &str, body: Value| -> Value {
        serde_json::from_slice(&session.call_json(operation, body.to_string().as_bytes()).unwrap()).unwrap()
    };
    let names = |list: &Value, name: &str| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|item| item[name].as_str().unwrap().to_owned()).collect()
    };
    for client in clients {
        for (id, operation, error) in &client.told {
            let found =
                recorded.get(id).unwrap_or_else(|| panic!("{operation} {id} was answered and is in no log"));
            assert_eq!((found.0.as_str(), &found.1), (*operation, error), "{id}");
        }
        for key in &client.keys {
            let metadata = ask("DescribeKey", json!({"KeyId": key}));
            let described = metadata["KeyMetadata"]["Description"].as_str().unwrap().parse().unwrap_or(0);
            // The one that was under way may be there.
            assert!(described >= client.described.get(key).copied().unwrap_or(0), "{key}: {described}");
            let tags = names(&ask("ListResourceTags", json!({"KeyId": key}))["Tags"], "TagKey");
            let told = client.tags.get(key).cloned().unwrap_or_default();
            assert!(tags.is_superset(&told) && tags.len() <= told.len() + 1, "{key}: {tags:?}, {told:?}");
            let aliases = names(&ask("ListAliases", json!({"KeyId": key}))["Aliases"], "AliasName");
            assert!(aliases.iter().all(|alias| alias.starts_with(&format!("alias/{}-", client.name))));
        }
        for alias in &client.aliases {
            ask("DescribeKey", json!({"KeyId": alias}));
        }
        for user in &client.users {
            let made = identities.call_json("GetUser", json!({"UserName": user})).unwrap();
            assert_eq!(made["User"]["UserName"], user.as_str());
        }
        // What was encrypted opens.
        for blob in client.blobs.iter().rev().take(3) {
            assert_eq!(
                ask("Decrypt", json!({"CiphertextBlob": blob}))["Plaintext"],
                BASE64.encode(&client.name)
            );
        }
    }
    (head, of_identities)
}

#[test]
fn a_server_that_is_killed_under_load_keeps_what_it_acknowledged() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").map_or(ROUNDS, |n| n.parse().unwrap());
    let dir = tempfile::Builder::new().prefix("kmsfs-api-kill-").tempdir().unwrap();
    let home = dir.path().join("home");
    let (mut heads, mut acknowledged) = (None, 0);
    for round in 0..rounds {
        let mut running = serve(&dir);
        let address = running.address;
        let named = |n| Client { name: format!("r{round}c{n}"), ..Client::default() };
        let mut clients: Vec<Client> = (0..CLIENTS).map(named).collect();
        let served: Vec<_> = clients.iter().map(|client| client.served.clone()).collect();
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.run(address));
            }
            let begun = Instant::now();
            while served.iter().any(|served| served.load(Ordering::Relaxed) < 5)
                && begun.elapsed() < Duration::from_secs(60)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis((round as u64 * 137) % 500));
            running.child.kill().unwrap();
        });
        assert_eq!(running.child.wait().unwrap().signal(), Some(9));
        assert!(clients.iter().all(|client| client.told.len() >= 5), "a client was not served");
        acknowledged += clients.iter().map(|client| client.told.len()).sum::<usize>();
        heads = Some(check(&home, &clients, heads));
    }
    println!("{acknowledged} answers over {rounds} rounds, all of them recorded");
    ends_well(serve(&dir));
}

// ---- a full disk

/// A small disk in memory, taken away again.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where nobody lets us mount.
    fn new(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(&at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    /// Takes what room there is left.
    fn fill(&self) {
        let mut file = File::create(self.0.join("ballast")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_calls_fail_and_none_goes_unrecorded() {
    let dir = tempfile::Builder::new().prefix("kmsfs-api-full-").tempdir().unwrap();
    let Some(disk) = SmallDisk::new(dir.path().join("disk")) else {
        assert!(!rustix::process::geteuid().is_root(), "root could not mount a tmpfs");
        crate::mounted::bed::skipped("only root can make a small disk to fill");
        return;
    };
    let home = disk.0.join("home");
    let dev = format!("{ID}:{SECRET}={ACCOUNT}");
    let mut command = program::command(&dir, &["--listen", "127.0.0.1:0", "--dev-credentials", &dev]);
    let running = served::start(command.env("KMSFS_HOME", &home));
    let address = running.address;
    let mut stream = connect(address);
    let mut told: Vec<(String, u16)> = Vec::new();
    let mut send = |ask: Ask| {
        let answer = exchange(&mut stream, &ask.bytes());
        told.push((answer.get("x-amzn-requestid").to_owned(), answer.status));
        answer
    };
    let made = send(Ask::new(address, "CreateKey", &json!({})));
    let key = made.json()["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let encrypt = |bytes: usize| {
        let text = BASE64.encode(vec![b'x'; bytes]);
        let context = json!({"padding": "x".repeat(bytes)});
        Ask::new(address, "Encrypt", &json!({"KeyId": key, "Plaintext": text, "EncryptionContext": context}))
    };
    assert_eq!(send(Ask::query(address, "iam", "CreateUser", &[("UserName", "before")])).status, 200);
    assert_eq!(send(encrypt(4000)).status, 200);
    for round in 0..3 {
        disk.fill();
        // What the store's log has room for is still recorded, and so answered.
        let refused = (0..3000).map(|_| send(encrypt(4000))).find(|answer| answer.status != 200);
        let refused = refused.expect("the disk is not full");
        refused.is_error(500, "KMSInternalException");
        // A change is more than the room that is left, and is not half done.
        let alias = format!("alias/while-full-{round}");
        let body = json!({"AliasName": alias, "TargetKeyId": key});
        let change = send(Ask::new(address, "CreateAlias", &body));
        change.is_error(500, "KMSInternalException");
        disk.make_room();
        let again = send(Ask::new(address, "DescribeKey", &json!({"KeyId": alias})));
        again.is_error(400, "NotFoundException");
        assert_eq!(send(encrypt(10)).status, 200);
        assert_eq!(send(Ask::new(address, "CreateAlias", &body)).status, 200);
        let user = format!("after{round}");
        assert_eq!(send(Ask::query(address, "iam", "CreateUser", &[("UserName", &user)])).status, 200);
    }
    ends_well(running);
    let kms = open(&home);
    let session = session(&kms);
    session.verify_log(None).unwrap();
    let identities = kms.identity(Caller::root(ACCOUNT.parse().unwrap()));
    identities.verify_log(None).unwrap();
    let all = Filter { limit: Some(usize::MAX), ..Filter::default() };
    let mut recorded = events(session.lookup_events(&all).unwrap());
    recorded.extend(events(identities.lookup_events(&all).unwrap()));
    for (id, status) in &told {
        // An answer that was not given for want of room has no event that tells of success.
        match recorded.get(id) {
            Some((_, error)) => assert_eq!(error.is_none(), *status == 200, "{id} {status}"),
            None => assert_eq!(*status, 500, "{id} was answered and is in no log"),
        }
    }
}
