//! What a mount does while AWS KMS is away, slow, or refuses.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use super::proxy::{Mode, Proxy};
use crate::cli::json;
use crate::mounted::bed::Bed;
use crate::served::{OTHER_ROOT, Server, bed, set};

/// errno of opening a file; 0 if it opens and reads.
fn open(path: &Path) -> i32 {
    let mut text = Vec::new();
    match fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text)) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("{error}")),
    }
}

fn mount(bed: &Bed, lease: u32) {
    bed.run(["mount", "--lease", &lease.to_string(), "vault", "plain"]);
}

fn put(bed: &Bed, names: &[&str]) {
    for name in names {
        fs::write(bed.plain(name), format!("content of {name}")).unwrap();
    }
}

#[test]
fn a_lease_bridges_an_outage_and_ends() {
    let mut server = Server::new();
    let mut bed = server.bed();
    // What is not bridged is told the sooner.
    set(&mut bed, "AWS_MAX_ATTEMPTS", "2");
    bed.run(["init", "--key", &server.arn("us-east-1", "alias/vault"), "vault"]);
    mount(&bed, 300);
    put(&bed, &["a", "b"]);
    bed.unmount();
    let lease = 8;
    mount(&bed, lease);
    // Now keys for new files wait.
    put(&bed, &["x", "y", "z"]);
    assert_eq!(open(&bed.plain("a")), 0);
    let begun = Instant::now();
    server.stop();
    assert_eq!(open(&bed.plain("a")), 0, "inside its lease");
    let mut open_file = fs::File::open(bed.plain("a")).unwrap();
    assert_eq!(open(&bed.plain("b")), libc::ETIMEDOUT, "without a lease");
    assert_eq!(open(&bed.plain("a")), 0, "still inside its lease");
    assert!(begun.elapsed() < Duration::from_secs(u64::from(lease)), "too slow to tell");
    // What needs no key goes on.
    assert_eq!(fs::metadata(bed.plain("b")).unwrap().len(), 12);
    fs::rename(bed.plain("b"), bed.plain("c")).unwrap();
    // And a little: what waits too long is looked for now and then.
    let over = Duration::from_secs(u64::from(lease)) + Duration::from_millis(600);
    std::thread::sleep(over.saturating_sub(begun.elapsed()));
    assert_eq!(open(&bed.plain("a")), libc::ETIMEDOUT, "after its lease");
    // Who has it open reads on.
    let mut text = String::new();
    open_file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content of a");
    drop(open_file);
    // Keys that were made ahead are not used beyond a lease either.
    let refused = fs::write(bed.plain("d"), "new").err();
    assert_eq!(refused.map(|e| e.kind()), Some(ErrorKind::TimedOut));

    server.start();
    assert_eq!((open(&bed.plain("a")), open(&bed.plain("c"))), (0, 0), "it is back");
    put(&bed, &["e"]);
    bed.unmount();
    // What failed, and what the leases answered, is in the log of this machine.
    let log = json(&bed, &["audit", "lookup", "--limit", "1000", "--json"]);
    let events = log["Events"].as_array().unwrap();
    let count = |name: &str, code: &str| {
        let code = (!code.is_empty()).then_some(code);
        events.iter().filter(|e| e["eventName"] == name && e["errorCode"].as_str() == code).count()
    };
    assert!(count("Decrypt", "DependencyTimeoutException") >= 2, "{log}");
    assert!(count("OpenFile", "") >= 3, "{log}");
}

#[test]
fn refusals_become_the_errors_that_the_page_promises() {
    let server = Server::new();
    let mut bed = server.bed();
    let key = server.arn("us-east-1", "alias/vault");
    bed.run(["init", "--key", &key, "vault"]);
    mount(&bed, 0);
    put(&bed, &["a"]);
    assert_eq!(open(&bed.plain("a")), 0);
    server.kmsfs(&["key", "disable", "alias/vault"]);
    assert_eq!(open(&bed.plain("a")), libc::ENOKEY);
    server.kmsfs(&["key", "enable", "alias/vault"]);
    assert_eq!(open(&bed.plain("a")), 0);
    let policy = server.dir.path().join("policy.json");
    let statement = |effect: &str, action: &str| {
        format!(
            r#"{{"Effect":"{effect}","Principal":{{"AWS":"arn:aws:iam::000000000000:root"}},"Action":"{action}","Resource":"*"}}"#
        )
    };
    let allow = statement("Allow", "kms:*");
    let put_policy = |statements: &[String]| {
        let document = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","));
        fs::write(&policy, document).unwrap();
        let file = format!("{}", policy.display());
        server.kmsfs(&["key", "policy", "put", "alias/vault", "--policy", &file]);
    };
    put_policy(&[allow.clone(), statement("Deny", "kms:Decrypt")]);
    assert_eq!(open(&bed.plain("a")), libc::EACCES);
    put_policy(&[allow]);
    assert_eq!(open(&bed.plain("a")), 0);
    server.kmsfs(&["key", "schedule-deletion", "alias/vault", "--pending-window-in-days", "7", "--yes"]);
    assert_eq!(open(&bed.plain("a")), libc::EKEYREVOKED);
    bed.unmount();
    let (code, told) = bed.refused_with(["mount", "vault", "plain"]);
    assert!(code == 3 && told.contains("pending deletion") && told.contains("aws kms"), "{told}");
    // Somebody of another account.
    server.kmsfs(&["key", "cancel-deletion", "alias/vault"]);
    server.kmsfs(&["key", "enable", "alias/vault"]);
    set(&mut bed, "AWS_ACCESS_KEY_ID", OTHER_ROOT[0]);
    set(&mut bed, "AWS_SECRET_ACCESS_KEY", OTHER_ROOT[1]);
    let (code, told) = bed.refused_with(["mount", "vault", "plain"]);
    assert!(code == 3 && told.contains("AccessDeniedException"), "{told}");
    let errors = json(&bed, &["audit", "lookup", "--errors", "--event-name", "Decrypt", "--json"]);
    let codes: Vec<_> = errors["Events"].as_array().unwrap().iter().map(|e| &e["errorCode"]).collect();
    for code in ["AccessDeniedException", "DisabledException", "KMSInvalidStateException"] {
        assert!(codes.iter().any(|there| *there == code), "{code}: {codes:?}");
    }
}

#[test]
fn creating_files_does_not_wait_for_a_distant_service() {
    let server = Server::new();
    let proxy = Proxy::to(server.address);
    let bed = bed(&proxy.url());
    bed.run(["init", "--key", &server.arn("us-east-1", "alias/vault"), "vault"]);
    mount(&bed, 300);
    let latency = Duration::from_millis(40);
    proxy.set(Mode::Delay(latency));
    let (files, before) = (400, proxy.requests());
    let begun = Instant::now();
    for n in 0..files {
        fs::write(bed.plain(format!("file {n}")), "x").unwrap();
    }
    let took = begun.elapsed();
    // One call after the other would take 16 s. Each file has its own call all the same.
    assert!(took < latency * files / 3, "{took:?} for {files} files");
    assert!(proxy.requests() - before >= u64::from(files));
    proxy.set(Mode::Pass);
    bed.unmount();
    eprintln!("{files} files under 40 ms of latency: {took:?}");
}

/// A lease is about the key that gave it: whoever brings the volume under another key is asked for that one.
#[test]
fn a_lease_ends_where_the_mount_itself_brings_files_under_another_key() {
    let server = Server::new();
    let bed = server.bed();
    let second = server.json(&["key", "create", "--alias", "alias/second", "--json"]);
    let second = second["KeyMetadata"]["Arn"].as_str().unwrap();
    bed.run(["init", "--key", &server.arn("us-east-1", "alias/vault"), "vault"]);
    mount(&bed, 300);
    put(&bed, &["a"]);
    assert_eq!(open(&bed.plain("a")), 0);
    bed.run(["rewrap", "--key", second, "vault"]);
    server.kmsfs(&["key", "disable", "alias/second"]);
    assert_ne!(open(&bed.plain("a")), 0, "by the lease of the other key");
    server.kmsfs(&["key", "enable", "alias/second"]);
    assert_eq!(open(&bed.plain("a")), 0);
    server.kmsfs(&["key", "disable", "alias/second"]);
    assert_eq!(open(&bed.plain("a")), 0, "inside its lease");
    bed.unmount();
}
