//! `kmsfs edk` and `kmsfs recover`, on volumes that were filled through a mount.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kmsfs::crypto::asymmetric::{PairSpec, PrivateKey};
use serde_json::Value;

use crate::cli::json;
use crate::mounted::bed::{Bed, KEY, sh, skipped};

const EUROPE: &str = "eu-central-1";

/// A private key in DER and its public half in PEM, as private.der and public.pem.
fn offline(bed: &Bed) -> PrivateKey {
    let key = PrivateKey::generate(PairSpec::Rsa2048).unwrap();
    fs::write(bed.dir().join("private.der"), key.to_bytes().unwrap().expose()).unwrap();
    fs::write(bed.dir().join("public.pem"), key.public_key().unwrap().to_pem().unwrap()).unwrap();
    key
}

/// Every kind of entry, in a mounted volume.
fn fill(plain: &Path) {
    let long = "n".repeat(230);
    fs::create_dir_all(plain.join("dir/deep")).unwrap();
    fs::create_dir(plain.join(&long)).unwrap();
    for (name, size) in [("dir/a", 5), ("dir/deep/page", 4064), ("dir/b", 100_000), ("empty", 0)] {
        let text: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        fs::write(plain.join(name), text).unwrap();
    }
    fs::write(plain.join(&long).join("x"), "in a long name").unwrap();
    fs::hard_link(plain.join("dir/b"), plain.join("again")).unwrap();
    symlink("dir/a", plain.join("link")).unwrap();
    symlink("t".repeat(4000), plain.join("long link")).unwrap();
    fs::set_permissions(plain.join("dir/a"), fs::Permissions::from_mode(0o440)).unwrap();
    fs::set_permissions(plain.join("dir/deep"), fs::Permissions::from_mode(0o511)).unwrap();
    sh(
        plain,
        "truncate -s 3M sparse; echo end >> sparse; mkfifo pipe; touch -d '2001-02-03 04:05:06.789' dir/b dir; \
         touch -h -d 2002-02-02 link",
    );
    for (name, attr, value) in [("dir/b", "user.mime", "text/plain"), ("dir", "user.d", "1")] {
        rustix::fs::setxattr(plain.join(name), attr, value.as_bytes(), rustix::fs::XattrFlags::CREATE)
            .unwrap();
    }
}

/// What a tree looks like, with every byte. The root's time is that of the last change of the descriptor.
fn look(dir: &Path) -> String {
    let mut text = sh(
        dir,
        "find . -mindepth 1 -printf '%P %y %m %n %T@ %l\n' | sort; find . -type f -printf '%P %s\n' | sort; \
         find . -type f -print0 | sort -z | xargs -0 sha256sum",
    );
    for (name, attr) in [("dir/b", "user.mime"), ("dir", "user.d")] {
        let mut value = [0; 64];
        if let Ok(len) = rustix::fs::getxattr(dir.join(name), attr, &mut value) {
            text += &format!("{name} {attr} {:?}\n", &value[..len]);
        }
    }
    text
}

fn roles(bed: &Bed) -> Vec<(String, String, u64)> {
    let list = json(bed, &["edk", "list", "--json", "vault"]);
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let keys = list["keys"].as_array().unwrap();
    keys.iter().map(|k| (text(&k["key"]), text(&k["role"]), k["files"].as_u64().unwrap())).collect()
}

fn files_of(bed: &Bed, role: &str) -> Vec<u64> {
    roles(bed).into_iter().filter(|(_, is, _)| is == role).map(|(_, _, files)| files).collect()
}

#[test]
fn everything_is_recovered_by_an_offline_key_when_the_key_service_is_gone() {
    let bed = Bed::with_own_key();
    let key = offline(&bed);
    bed.mount();
    fill(&bed.plain(""));
    let before = look(&bed.plain(""));
    assert!(before.contains("user.mime") && before.contains("user.d "));
    bed.unmount();
    let told = bed.run(["edk", "add", "vault", "--public-key", "public.pem"]);
    // The two names of one file may be met at once.
    assert!(
        told.contains("spki-sha256:") && (told.contains("6 files") || told.contains("7 files")),
        "{told}"
    );
    bed.mount();
    assert_eq!(look(&bed.plain("")).lines().count(), before.lines().count());
    fs::write(bed.plain("later"), "made with a recipient").unwrap();
    bed.remount();
    let before = look(&bed.plain(""));
    let (code, error) = bed.refused_with(["recover", "vault", "out", "--private-key", "private.der"]);
    assert!(code == 6 && error.contains("umount") && !error.contains("read-only"), "{error}");
    assert!(!bed.dir().join("out").exists(), "made for nothing");
    bed.unmount();
    // Nor where its parent is not there, or the volume's key is not the recipient's alone.
    let (code, error) = bed.refused_with(["recover", "vault", "no/out", "--private-key", "private.der"]);
    assert!(code == 1 && error.contains("no/out"), "{error}");
    // The one with two names counts for each.
    assert_eq!(files_of(&bed, "recipient, offline"), [8]);

    fs::rename(bed.dir().join("home"), bed.dir().join("lost")).unwrap();
    assert_ne!(bed.refused_with(["mount", "vault", "plain"]).0, 0);
    let told = bed.run(["recover", "vault", "out", "--private-key", "private.der"]);
    assert!(told.contains("7, ") && told.contains("spki-sha256:"), "{told}");
    assert_eq!(look(&bed.dir().join("out")), before);
    assert!(!bed.dir().join("home").exists(), "no key service was needed");
    let sparse = sh(&bed.dir().join("out"), "du -k sparse | cut -f1");
    assert!(sparse.trim().parse::<u64>().unwrap() < 1000, "holes stay holes: {sparse}");

    // What is not such a key is told, and nothing is written.
    let pem = |label: &str| {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(key.to_bytes().unwrap().expose());
        let lines: Vec<_> = body.as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    let other = PrivateKey::generate(PairSpec::Rsa2048).unwrap().to_bytes().unwrap();
    for (bytes, said) in [
        (pem("ENCRYPTED PRIVATE KEY").into_bytes(), "passphrase"),
        (pem("RSA PRIVATE KEY").into_bytes(), "PKCS#1"),
        (b"nothing".to_vec(), "PKCS#8"),
        (other.expose().to_vec(), "none of the volume's recipients"),
    ] {
        fs::write(bed.dir().join("bad"), bytes).unwrap();
        let (code, error) = bed.refused_with(["recover", "vault", "none", "--private-key", "bad"]);
        assert!(code == 2 && error.contains(said), "{error}");
        assert!(!bed.dir().join("none").exists());
    }
    assert_eq!(bed.refused_with(["recover", "vault", "out", "--private-key", "private.der"]).0, 2);
    let inside = bed.refused(["recover", "vault", "vault/out", "--private-key", "private.der"]);
    assert!(inside.contains("lies in the volume"), "{inside}");
    // And in PEM.
    fs::write(bed.dir().join("private.pem"), pem("PRIVATE KEY")).unwrap();
    bed.run(["recover", "vault", "again", "--private-key", "private.pem"]);
    assert_eq!(look(&bed.dir().join("again")), before);
}

#[test]
fn what_cannot_be_recovered_is_told_and_the_rest_is_there() {
    let bed = Bed::with_own_key();
    offline(&bed);
    bed.mount();
    for n in 0..5 {
        fs::write(bed.plain(format!("file {n}")), vec![n; 20_000]).unwrap();
    }
    bed.unmount();
    bed.run(["edk", "add", "vault", "--public-key", "public.pem"]);
    let vault = bed.vault();
    let list = sh(&vault, "find . -maxdepth 1 -type f -size +16k | sort");
    let names: Vec<&str> = list.lines().collect();
    // A block of one, a name of another.
    sh(&vault, &format!("printf XXXX | dd of={} bs=1 seek=9000 conv=notrunc status=none", names[0]));
    sh(&vault, &format!("mv {} Ab-{}", names[1], &names[1][5..]));
    let output = bed.command(["recover", "vault", "out", "--private-key", "private.der"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("does not authenticate") && errors.contains("file "), "{errors}");
    assert!(errors.contains("names cannot be read") && errors.contains("2 things"), "{errors}");
    assert_eq!(fs::read_dir(bed.dir().join("out")).unwrap().count(), 3, "no part of a damaged file");
}

#[test]
fn a_volume_whose_key_is_deleted_is_brought_under_another_by_an_rsa_key_of_the_service() {
    let bed = Bed::with_own_key();
    let rsa = ["key", "create", "--key-spec", "RSA_2048", "--key-usage", "ENCRYPT_DECRYPT"];
    bed.run([&rsa[..], &["--alias", "alias/glass"]].concat());
    bed.mount();
    fill(&bed.plain(""));
    // The kernel tells the mount late of some times.
    bed.remount();
    let before = look(&bed.plain(""));
    bed.unmount();
    bed.run(["edk", "add", "vault", "--key", "alias/glass", "--keep-mtime"]);
    assert_eq!(files_of(&bed, "recipient, offline"), [7]);
    bed.run(["key", "create", "--alias", "alias/new"]);
    bed.run(["key", "schedule-deletion", "--yes", KEY]);
    // Not by a mount, though the key service has the RSA key too.
    assert_eq!(bed.refused_with(["mount", "vault", "plain"]).0, 3);
    bed.run(["recover", "vault", "out", "--key", "alias/glass"]);
    assert_eq!(look(&bed.dir().join("out")), before);
    let told = bed.run(["recover", "vault", "--key", "alias/glass", "--rewrap-to", "alias/new"]);
    assert!(told.contains("6 files") || told.contains("7 files"), "{told}");
    bed.mount();
    assert_eq!(look(&bed.plain("")).lines().count(), before.lines().count());
    fs::write(bed.plain("new"), "under the new key").unwrap();
    bed.unmount();
    assert_eq!((files_of(&bed, "own"), files_of(&bed, "recipient, offline")), (vec![8], vec![8]));
    // Each Decrypt by the RSA key is in the log.
    let log = json(&bed, &["audit", "lookup", "--event-name", "Decrypt", "--json"]);
    let text = log["Events"].to_string();
    assert!(text.matches("RSAES_OAEP_SHA_256").count() >= 14, "{}", text.len());
}

#[test]
fn what_was_a_recipients_key_is_shown_for_what_it_is() {
    let bed = Bed::with_own_key();
    for alias in ["alias/second", "alias/third"] {
        bed.run(["key", "create", "--alias", alias]);
    }
    bed.mount();
    fs::write(bed.plain("one"), "1").unwrap();
    bed.run(["edk", "add", "vault", "--key", "alias/second"]);
    let named = || roles(&bed).into_iter().map(|(_, role, files)| (role, files)).collect::<Vec<_>>();
    bed.run(["rewrap", "vault", "--key", "alias/second"]);
    fs::write(bed.plain("two"), "2").unwrap();
    assert_eq!(named(), [("own".to_owned(), 2)]);
    bed.run(["rewrap", "vault", "--key", "alias/third"]);
    fs::write(bed.plain("three"), "3").unwrap();
    assert_eq!(named(), [("own".to_owned(), 3)]);
    let again = bed.refused(["edk", "remove", "vault", "--key", "alias/second"]);
    assert!(again.contains("is no recipient"), "{again}");
    bed.run(["edk", "add", "vault", "--key", "alias/second"]);
    bed.unmount();

    // Its own key lost, it comes under the recipient's by means of that; called again there is nothing to do.
    bed.run(["key", "schedule-deletion", "--yes", "alias/third"]);
    for _ in 0..2 {
        bed.run(["recover", "vault", "--key", "alias/second", "--rewrap-to", "alias/second"]);
        assert_eq!(named(), [("own".to_owned(), 3)]);
    }
    bed.mount();
    assert_eq!(sh(&bed.plain(""), "cat one two three"), "123");
    bed.unmount();

    // Who can write to the backing puts another first: it is told.
    bed.run(["key", "create", "--alias", "alias/fourth"]);
    bed.run(["edk", "add", "vault", "--key", "alias/fourth"]);
    let path = bed.vault().join("kmsfs.json");
    let mut descriptor: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    descriptor["volume_keys"].as_array_mut().unwrap().reverse();
    fs::write(&path, descriptor.to_string()).unwrap();
    let mut shown = named();
    shown.sort();
    assert_eq!(shown, [("none: left of another time".to_owned(), 3), ("own, and a recipient".to_owned(), 3)]);
    // Which rewrapping under that key makes good.
    bed.run(["rewrap", "vault", "--key", "alias/fourth"]);
    assert!(named().contains(&("own".to_owned(), 3)), "{:?}", named());
}

#[test]
fn a_key_of_another_region_gets_all_that_is_there_and_all_that_comes() {
    let bed = Bed::with_own_key();
    bed.run(["--region", EUROPE, "init", "--new-key", "alias/europe", "other"]);
    bed.mount();
    for n in 0..6 {
        fs::write(bed.plain(format!("file {n}")), format!("content of {n}\n").repeat(300)).unwrap();
    }
    bed.unmount();
    let add = ["--region", EUROPE, "edk", "add", "vault", "--key", "alias/europe"];
    let plan = bed.run([&add[..], &["--dry-run"]].concat());
    assert!(plan.contains("would be changed") && roles(&bed).len() == 1, "{plan}");
    bed.run(add);
    bed.mount();
    let again = bed.run(add);
    assert!(
        again.lines().any(|line| line.starts_with("as wished already") && line.ends_with("6 files")),
        "{again}"
    );
    fs::write(bed.plain("later"), "later").unwrap();
    bed.remount();
    let before = look(&bed.plain(""));
    // A recipient that refuses stops new files, and says so.
    bed.run(["--region", EUROPE, "key", "disable", "alias/europe"]);
    bed.unmount();
    bed.mount();
    let refused = fs::write(bed.plain("never"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOKEY), "{refused}");
    assert!(!bed.plain("never").exists());
    bed.unmount();
    bed.run(["--region", EUROPE, "key", "enable", "alias/europe"]);
    assert_eq!((files_of(&bed, "own"), files_of(&bed, "recipient")), (vec![7], vec![7]));
    bed.run(["--region", EUROPE, "recover", "vault", "out", "--key", "alias/europe"]);
    assert_eq!(look(&bed.dir().join("out")), before);

    let output = bed
        .command(["--region", EUROPE, "edk", "remove", "vault", "--key", "alias/europe"])
        .output()
        .unwrap();
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && warned.contains("kmsfs rekey"), "{output:?}");
    assert_eq!(roles(&bed).len(), 1);
    let (code, error) =
        bed.refused_with(["--region", EUROPE, "recover", "vault", "out2", "--key", "alias/europe"]);
    assert!(code == 2 && error.contains("it has none"), "{error}");
    let again = bed.refused(["--region", EUROPE, "edk", "remove", "vault", "--key", "alias/europe"]);
    assert!(again.contains("is no recipient"), "{again}");
    let own = bed.refused(["edk", "remove", "vault", "--key", KEY]);
    assert!(own.contains("kmsfs rewrap"), "{own}");
    // Rewrapping leaves recipients alone.
    bed.run(add);
    bed.run(["key", "rotate", KEY]);
    bed.run(["rewrap", "vault"]);
    assert_eq!(files_of(&bed, "recipient"), [7]);
}

#[test]
fn a_killed_addition_and_removal_go_on() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let files = 300;
    let bed = Bed::with_own_key();
    offline(&bed);
    bed.run(["key", "create", "--alias", "alias/second"]);
    bed.mount();
    for n in 0..files {
        fs::write(bed.plain(format!("file {n}")), format!("content of {n}\n")).unwrap();
    }
    let before = sh(&bed.plain(""), "sha256sum * | sha256sum");
    bed.unmount();
    let mut halfway = 0;
    for round in 0..rounds {
        for verb in ["add", "remove"] {
            let key = if round % 2 == 0 { ["--public-key", "public.pem"] } else { ["--key", "alias/second"] };
            let role = if round % 2 == 0 { "recipient, offline" } else { "recipient" };
            let args = [&["edk", verb, "vault"], &key[..]].concat();
            let mut child = bed.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let wanted = 20 + (round as u64 * 89) % 200;
            let until = Instant::now() + Duration::from_secs(20);
            while child.try_wait().unwrap().is_none() && Instant::now() < until {
                let there = bed.wrapped_for_others();
                if (verb == "add" && there >= wanted) || (verb == "remove" && there <= files - wanted) {
                    break;
                }
            }
            let _ = child.kill();
            child.wait().unwrap();
            let left: u64 = roles(&bed).iter().filter(|(_, is, _)| is != "own").map(|(.., n)| *n).sum();
            halfway += u32::from(left > 0 && left < files);
            bed.mount();
            assert_eq!(sh(&bed.plain(""), "sha256sum * | sha256sum"), before, "round {round}, {verb}");
            bed.unmount();
            // It may have been done before the kill; removing then says that there is nothing to remove.
            bed.command(&args).output().unwrap();
            let list = roles(&bed);
            if verb == "add" {
                assert!(list.iter().any(|(_, is, n)| is == role && *n == files), "{list:?}");
            } else {
                assert!(list.len() == 1 && list[0].2 == files, "{list:?}");
            }
        }
    }
    assert!(halfway > 0, "no kill came in the middle");
}

#[test]
fn what_is_restored_from_a_snapshot_keeps_its_recipients() {
    let bed = Bed::with_own_key();
    offline(&bed);
    bed.run(["edk", "add", "vault", "--public-key", "public.pem"]);
    bed.mount();
    fs::write(bed.plain("old"), "in the snapshot").unwrap();
    bed.run(["snapshot", "create", "vault", "--name", "one", "--to", "depot"]);
    bed.unmount();
    fs::remove_dir_all(bed.dir().join("vault")).unwrap();
    bed.run(["snapshot", "restore", "one", "--in", "depot", "vault"]);
    bed.mount();
    fs::write(bed.plain("new"), "after it").unwrap();
    bed.unmount();
    assert_eq!(files_of(&bed, "recipient, offline"), [2]);
    bed.run(["recover", "vault", "out", "--private-key", "private.der"]);
    assert_eq!(fs::read_to_string(bed.dir().join("out/new")).unwrap(), "after it");
}

/// Else it would run as whoever recovers. As root owners are kept, and the modes with them.
#[test]
fn what_is_recovered_by_another_user_is_not_setuid() {
    if !rustix::process::geteuid().is_root() {
        skipped("only root can act as another user");
        return;
    }
    let bed = Bed::with_own_key();
    offline(&bed);
    bed.mount();
    sh(
        &bed.plain(""),
        "echo x | tee file mine >/dev/null; mkdir dir; chown 65534:65534 mine; chmod 6755 file mine; chmod 2755 dir",
    );
    bed.unmount();
    bed.run(["edk", "add", "vault", "--public-key", "public.pem"]);
    bed.run(["recover", "vault", "out", "--private-key", "private.der"]);
    let modes = |of: &str| sh(bed.dir(), &format!("stat -c '%n %a %u' {of}/dir {of}/file {of}/mine"));
    assert_eq!(modes("out"), "out/dir 2755 0\nout/file 6755 0\nout/mine 6755 65534\n");
    // chown would take the bits away.
    sh(
        bed.dir(),
        "chmod 755 .; mkdir other; chown 65534:65534 private.der other; chmod 777 vault vault/.kmsfs",
    );
    sh(bed.dir(), "chmod 666 vault/kmsfs.json vault/.kmsfs/lock vault/.kmsfs/epoch");
    let kmsfs = env!("CARGO_BIN_EXE_kmsfs");
    sh(
        bed.dir(),
        &format!(
            "setpriv --reuid=65534 --regid=65534 --clear-groups {kmsfs} recover vault other/out --private-key private.der"
        ),
    );
    assert_eq!(
        modes("other/out"),
        "other/out/dir 2755 65534\nother/out/file 755 65534\nother/out/mine 6755 65534\n"
    );
}
