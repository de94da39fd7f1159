//! The command line without a mount: keys, aliases, secrets, the log, exit codes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::mounted::bed::{Bed, KEY};

/// A home with the customer managed key [`KEY`] and the service-managed one.
fn bed() -> Bed {
    let bed = Bed::with_own_key();
    bed.run(["init", "second"]);
    bed
}

pub fn json(bed: &Bed, args: &[&str]) -> Value {
    serde_json::from_str(&bed.run(args)).unwrap()
}

/// Runs a verb with a standard input.
pub fn fed(bed: &Bed, args: &[&str], input: &[u8]) -> Output {
    let mut child = bed
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses an input need not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn material(bed: &Bed) -> String {
    let answer = json(bed, &["key", "describe", "--json", KEY]);
    answer["KeyMetadata"]["CurrentKeyMaterialId"].as_str().unwrap().to_owned()
}

#[test]
fn a_key_is_made_described_listed_and_named() {
    let bed = bed();
    let made =
        json(&bed, &["key", "create", "--description", "of the test", "--alias", "alias/one", "--json"]);
    let made = &made["KeyMetadata"];
    let (id, arn) = (made["KeyId"].as_str().unwrap(), made["Arn"].as_str().unwrap());
    assert_eq!(arn, format!("arn:aws:kms:us-east-1:000000000000:key/{id}"));
    assert_eq!(made["KeyManager"], "CUSTOMER");
    assert_eq!(made["Description"], "of the test");
    for name in [id, arn, "alias/one", "arn:aws:kms:us-east-1:000000000000:alias/one"] {
        assert_eq!(json(&bed, &["key", "describe", "--json", name])["KeyMetadata"]["KeyId"], id, "{name}");
    }
    let list = bed.run(["key", "list"]);
    let row = list.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(row.contains("Enabled") && row.contains("CUSTOMER") && row.contains("alias/one"), "{row}");
    assert!(list.lines().any(|line| line.contains("AWS") && line.contains("alias/aws/kmsfs")), "{list}");
    assert_eq!(json(&bed, &["key", "list", "--json"])["Keys"].as_array().unwrap().len(), 3);

    bed.run(["alias", "create", "alias/two", "alias/one"]);
    assert!(bed.run(["alias", "list", "--key", "alias/one"]).contains("alias/two"));
    bed.run(["alias", "update", "alias/two", KEY]);
    let vault = &json(&bed, &["key", "describe", "--json", KEY])["KeyMetadata"]["KeyId"];
    let aliases = json(&bed, &["alias", "list", "--json"]);
    let two = aliases["Aliases"].as_array().unwrap().iter().find(|a| a["AliasName"] == "alias/two").unwrap();
    assert_eq!(&two["TargetKeyId"], vault);
    bed.run(["alias", "delete", "alias/two"]);
    assert!(!bed.run(["alias", "list"]).contains("alias/two"));
    let policy: Value = serde_json::from_str(&bed.run(["key", "policy", "alias/one"])).unwrap();
    assert_eq!(policy["Statement"][0]["Action"], "kms:*");
}

#[test]
fn a_rotation_keeps_old_secrets_readable() {
    let bed = bed();
    let encrypt = ["encrypt", "--key", KEY, "--base64"];
    let old = fed(&bed, &encrypt, b"old").stdout;
    let before = material(&bed);
    bed.run(["key", "rotate", KEY]);
    assert_ne!(material(&bed), before);
    let new = fed(&bed, &encrypt, b"new").stdout;
    assert_eq!(fed(&bed, &["decrypt", "--base64"], &old).stdout, b"old");
    assert_eq!(fed(&bed, &["decrypt", "--base64"], &new).stdout, b"new");
    let rotations = bed.run(["key", "rotations", KEY]);
    assert!(rotations.contains(&before) && rotations.contains("ON_DEMAND"), "{rotations}");
    assert_eq!(rotations.lines().count(), 3, "{rotations}");
}

#[test]
fn a_rotations_schedule_is_set_shown_and_taken_away() {
    let bed = bed();
    let status = || json(&bed, &["key", "rotation", KEY, "--json"]);
    assert_eq!(status()["KeyRotationEnabled"], false);
    assert!(bed.run(["key", "rotation", KEY, "--status"]).contains("on demand only"));
    assert!(bed.run(["key", "rotation", KEY, "--enable"]).contains("every 365 days"));
    assert_eq!(bed.run(["key", "rotation", KEY, "--enable", "--period", "90", "--json"]), "");
    assert_eq!(
        (&status()["RotationPeriodInDays"], &status()["KeyRotationEnabled"]),
        (&90.into(), &true.into())
    );
    assert_eq!(json(&bed, &["key", "rotation", "alias/aws/kmsfs", "--json"])["RotationPeriodInDays"], 365);
    bed.run(["key", "rotation", KEY, "--disable"]);
    assert_eq!(status()["KeyRotationEnabled"], false);
    for (args, code) in [
        (&["key", "rotation", KEY, "--enable", "--rotation-period-in-days", "89"][..], 3),
        (&["key", "rotation", KEY, "--period", "90"], 2),
        (&["key", "rotation", KEY, "--enable", "--disable"], 2),
        (&["key", "rotation", "alias/aws/kmsfs", "--disable"], 3),
    ] {
        assert_eq!(fed(&bed, args, b"").status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn a_key_is_labelled_and_its_last_use_shown() {
    let bed = bed();
    bed.run(["key", "create", "--alias", "alias/unused"]);
    assert!(bed.run(["key", "last-usage", "alias/unused"]).contains("was never used"));
    fed(&bed, &["encrypt", "--key", KEY, "--base64"], b"x");
    assert!(bed.run(["key", "last-usage", KEY]).contains("Encrypt"));
    let last = json(&bed, &["key", "last-usage", KEY, "--json"]);
    assert_eq!(last["KeyLastUsage"]["Operation"], "Encrypt");
    bed.run(["key", "update-description", KEY, "--description", "of the vault"]);
    assert!(bed.run(["key", "describe", KEY]).contains("of the vault"));
    bed.run(["key", "tag", KEY, "--add", "team=a=b", "--add", "cost=7"]);
    let listed = json(&bed, &["key", "tag", KEY, "--remove", "cost", "--list", "--json"]);
    let tag = serde_json::json!({"TagKey": "team", "TagValue": "a=b"});
    assert_eq!(listed, serde_json::json!({"Tags": [tag], "Truncated": false}));
    assert!(bed.run(["key", "tag", KEY]).contains("team"));
    let bad = fed(&bed, &["key", "tag", KEY, "--add", "aws:x=1"], b"");
    assert_eq!(bad.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&bad.stderr).starts_with("kmsfs: TagException"), "{bad:?}");
}

#[test]
fn secrets_of_every_length_come_back_under_their_context_only() {
    let bed = bed();
    let context = ["--context", "app=mail", "--context", "user=a=b"];
    let with = |verb: &[&'static str], context: &[&'static str]| [verb, context].concat();
    let encrypt = with(&["encrypt", "--key", KEY], &context);
    for len in [1, 15, 16, 4095, 4096] {
        let secret: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        let sealed = fed(&bed, &encrypt, &secret);
        assert!(sealed.status.success());
        assert!(!sealed.stdout.windows(8).any(|w| secret.windows(8).any(|s| s == w)));
        assert_eq!(fed(&bed, &with(&["decrypt"], &context), &sealed.stdout).stdout, secret);
    }
    let sealed = fed(&bed, &encrypt, b"secret").stdout;
    let refused = |args: &[&str], input: &[u8], name: &str, code: i32| {
        let output = fed(&bed, args, input);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(output.stdout.is_empty());
        assert!(text.starts_with("kmsfs: ") && text.contains(name), "{args:?}: {text}");
    };
    refused(&["decrypt"], &sealed, "InvalidCiphertextException", 3);
    refused(&["decrypt", "--context", "app=mail"], &sealed, "InvalidCiphertextException", 3);
    let mut changed = sealed.clone();
    changed[90] ^= 1;
    refused(&with(&["decrypt"], &context), &changed, "InvalidCiphertextException", 3);
    bed.run(["key", "create", "--alias", "alias/other"]);
    refused(&with(&["decrypt", "--key", "alias/other"], &context), &sealed, "IncorrectKeyException", 3);
    // Of a key that one may not use nothing is told, not even that it is another.
    refused(&with(&["decrypt", "--key", "alias/aws/kmsfs"], &context), &sealed, "AccessDeniedException", 3);
    refused(&["encrypt", "--key", KEY], &[0; 4097], "ValidationException", 3);
    refused(&["encrypt", "--key", KEY], &[], "ValidationException", 3);
    refused(&["encrypt", "--key", KEY], &[0; 100_000], "4096", 2);
    refused(&["encrypt", "--key", "alias/none"], b"x", "NotFoundException", 3);
    refused(&["encrypt", "--key", KEY, "--context", "a=1", "--context", "a=2"], b"x", "twice", 2);
    refused(&["decrypt", "--base64"], b"not base64!", "base64", 2);

    // Files, made for their owner alone; AWS's shapes.
    fs::write(bed.dir().join("secret"), "in a file").unwrap();
    bed.run(["encrypt", "--key", KEY, "--out", "sealed", "secret"]);
    bed.run(["decrypt", "--out", "opened", "sealed"]);
    let opened = bed.dir().join("opened");
    assert_eq!(fs::read(&opened).unwrap(), b"in a file");
    assert_eq!(fs::metadata(&opened).unwrap().permissions().mode() & 0o777, 0o600);
    let answer = json(&bed, &["decrypt", "--json", "sealed"]);
    assert_eq!(answer["Plaintext"], "aW4gYSBmaWxl");
    assert_eq!(answer["KeyMaterialId"], material(&bed));
}

#[test]
fn a_key_that_waits_for_deletion_is_refused_and_can_be_kept() {
    let bed = bed();
    let sealed = fed(&bed, &["encrypt", "--key", KEY], b"secret").stdout;
    let told = bed.run(["key", "schedule-deletion", "--yes", "--pending-window-in-days", "7", KEY]);
    assert!(told.contains("cancel-deletion"), "{told}");
    let output = fed(&bed, &["decrypt"], &sealed);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("KMSInvalidStateException") && text.contains("is pending deletion"), "{text}");
    assert!(bed.refused(["key", "enable", KEY]).contains("KMSInvalidStateException"));
    bed.run(["key", "cancel-deletion", KEY]);
    let text = String::from_utf8(fed(&bed, &["decrypt"], &sealed).stderr).unwrap();
    assert!(text.contains("DisabledException") && text.contains("kmsfs key enable"), "{text}");
    bed.run(["key", "enable", KEY]);
    assert_eq!(fed(&bed, &["decrypt"], &sealed).stdout, b"secret");
    assert!(
        bed.refused(["key", "schedule-deletion", "--yes", "--pending-window-in-days", "6", KEY])
            .contains("Validation")
    );
}

#[test]
fn the_service_managed_key_is_not_the_customers_to_change() {
    let bed = bed();
    for args in [
        ["key", "disable", "alias/aws/kmsfs"],
        ["key", "rotate", "alias/aws/kmsfs"],
        ["key", "schedule-deletion", "alias/aws/kmsfs"],
        ["alias", "delete", "alias/aws/kmsfs"],
    ] {
        let (code, text) = bed.refused_with(args);
        assert_eq!(code, 3, "{args:?}: {text}");
    }
    let (code, text) = bed.refused_with(["init", "--new-key", "alias/aws/mine", "third"]);
    assert_eq!(code, 2, "{text}");
    assert!(!bed.dir().join("third").exists(), "something was made");
    assert!(bed.refused(["init", "--new-key", KEY, "third"]).contains("--key"));
}

#[test]
fn the_log_is_looked_up_and_verified() {
    let bed = bed();
    bed.run(["key", "disable", KEY]);
    let output = fed(&bed, &["encrypt", "--key", KEY, "--context", "app=mail"], b"secret");
    assert!(!output.status.success());
    let events = |args: &[&str]| {
        let all = json(&bed, &[&["audit", "lookup", "--json"], args].concat());
        all["Events"].as_array().unwrap().clone()
    };
    let errors = events(&["--errors"]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["errorCode"], "DisabledException");
    assert_eq!(errors[0]["requestParameters"]["encryptionContext"]["app"], "mail");
    assert!(!errors[0].to_string().contains("secret"));
    assert_eq!(events(&["--event", "DisableKey"]).len(), 1);
    assert_eq!(events(&["--limit", "2"]).len(), 2);
    assert_eq!(events(&["--key", KEY, "--event", "DisableKey"]).len(), 1);
    assert_eq!(events(&["--key", "alias/aws/kmsfs", "--event", "DisableKey"]).len(), 0);
    assert_eq!(events(&["--end", "1d"]).len(), 0);
    assert!(events(&["--start", "1d"]).len() > 4);
    assert_eq!(events(&["--principal", "arn:aws:iam::999999999999:root"]).len(), 0);
    let table = bed.run(["audit", "lookup"]);
    assert!(table.contains("DisableKey") && table.contains("DisabledException"), "{table}");

    let head = json(&bed, &["audit", "verify", "--json"])["head"].as_str().unwrap().to_owned();
    bed.run(["key", "enable", KEY]);
    bed.run(["audit", "verify", "--pinned", &head]);
    fs::write(bed.dir().join("head"), format!("{head}\n")).unwrap();
    bed.run(["audit", "verify", "--pinned", "@head"]);
    let foreign = format!("{}:{}", head.split_once(':').unwrap().0, "00".repeat(32));
    assert_eq!(bed.refused_with(["audit", "verify", "--pinned", &foreign]).0, 7);
}

#[test]
fn a_changed_log_is_found() {
    let bed = bed();
    bed.run(["key", "disable", KEY]);
    bed.run(["audit", "verify"]);
    let store = bed.dir().join("home/us-east-1/store.db");
    let mut changed = 0;
    for path in [store.clone(), store.with_extension("db-wal")] {
        let Ok(mut bytes) = fs::read(&path) else { continue };
        let word = b"DisableKey";
        for at in 0..bytes.len().saturating_sub(word.len()) {
            if &bytes[at..at + word.len()] == word {
                bytes[at..at + word.len()].copy_from_slice(b"EnableKey ");
                changed += 1;
            }
        }
        // A write-ahead log has checksums of its own: what is changed there is not even read.
        if path == store {
            fs::write(&path, bytes).unwrap();
        }
    }
    assert!(changed > 0, "the event was not found in the store");
    let (code, text) = bed.refused_with(["audit", "verify"]);
    assert!(code == 7 && text.contains("audit log"), "{code}: {text}");
}

#[test]
fn exit_codes_are_as_documented() {
    let bed = bed();
    assert_eq!(bed.refused_with(["key", "describe", "alias/none"]).0, 3);
    assert_eq!(bed.refused_with(["inspect", "vault/kmsfs.json"]).0, 1);
    assert_eq!(bed.refused_with(["--home", "nowhere", "key", "list"]).0, 4);
    assert_eq!(bed.refused_with(["mount", "home", "plain"]).0, 5);
    assert_eq!(bed.refused_with(["--region", "eu-west-1", "key", "list"]).0, 4);
    let usage = bed.command(["key", "describe"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    let text = bed.run(["help"]);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    for code in 0..8 {
        assert!(
            text.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))),
            "{code}: {text}"
        );
        assert!(page.contains(&format!("| {code} | ")), "docs/cli.md does not tell exit code {code}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bed = bed();
    for _ in 0..40 {
        bed.run(["key", "describe", KEY]);
    }
    let mut child = bed
        .command(["audit", "lookup", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn every_option_is_documented() {
    fn walk(bed: &Bed, verbs: &mut Vec<String>) {
        let mut args = verbs.clone();
        args.push("--help".to_owned());
        let text = bed.run(&args);
        let (_, options) = text.split_once("Options:").unwrap();
        let lines: Vec<&str> = options.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let line = line.trim_start();
            let is_option = line.starts_with('-') && !line.starts_with("- ");
            let told = line.contains("  ") || lines.get(at + 1).is_some_and(|next| !next.trim().is_empty());
            assert!(!is_option || told, "{verbs:?}: {line} is not explained");
        }
        let Some((_, commands)) = text.split_once("Commands:\n") else { return };
        for line in commands.lines().take_while(|line| !line.is_empty()) {
            let Some(verb) = line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) else { continue };
            let (verb, about) = verb.split_once(' ').unwrap_or((verb, ""));
            assert!(!about.trim().is_empty(), "{verbs:?} {verb} is not explained");
            if verb != "help" {
                verbs.push(verb.to_owned());
                walk(bed, verbs);
                verbs.pop();
            }
        }
    }
    walk(&Bed::without_volume(), &mut Vec::new());
}

#[test]
fn a_home_for_others_to_read_is_refused() {
    let bed = bed();
    let home = bed.dir().join("home");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("us-east-1/root.key")), 0o600);
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(bed.refused_with(["key", "list"]).0, 4);
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(home.join("us-east-1/root.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, text) = bed.refused_with(["key", "list"]);
    assert!(code == 4 && text.contains("chmod 600"), "{text}");
}

#[test]
fn regions_have_keys_of_their_own() {
    let bed = bed();
    bed.run(["--region", "eu-central-1", "init", "--new-key", KEY, "third"]);
    let arn = |region: &str| {
        let answer = json(&bed, &["--region", region, "key", "describe", "--json", KEY]);
        answer["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    };
    assert!(arn("eu-central-1").starts_with("arn:aws:kms:eu-central-1:"));
    assert!(bed.refused(["key", "describe", &arn("eu-central-1")]).contains("NotFoundException"));
    let sealed = fed(&bed, &["encrypt", "--key", KEY], b"x").stdout;
    assert!(!fed(&bed, &["--region", "eu-central-1", "decrypt"], &sealed).status.success());
}

#[test]
fn the_demonstration_tells_its_story_and_leaves_nothing() {
    let bed = Bed::without_volume();
    let files = bed.dir().join("files");
    fs::create_dir_all(files.join("letters")).unwrap();
    fs::write(files.join("letters/one.txt"), "Meet me at the old bridge.\n".repeat(300)).unwrap();
    fs::write(files.join("empty"), "").unwrap();
    let temporary = bed.dir().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let output = bed.command(["demo", "--files", "files"]).env("TMPDIR", &temporary).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for word in [
        "Required key not available",
        "the log is whole",
        "2 files with",
        "under a key of the other region",
        "the other account's calls are in the log",
        "of 1 snapshot, cannot be read without",
        "every file is there again",
        "whole story",
    ] {
        assert!(text.contains(word), "{word:?} is not told: {text}");
    }
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "something was left");
    let mounts = Command::new("cat").arg("/proc/self/mountinfo").output().unwrap().stdout;
    assert!(!String::from_utf8_lossy(&mounts).contains(temporary.to_str().unwrap()));
}
