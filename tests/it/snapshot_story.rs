//! A snapshot goes from one account to another, step by step: each step fails before its permission is there and passes
//! after, at the command line and over HTTP alike, and both accounts' logs tell of it.

use std::fs;
use std::process::Stdio;

use kmsfs::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::cli::json as answer;
use crate::mounted::bed::Bed;
use crate::served::{self, Running};
use crate::snapshot_copy::{depot, fill, seen, session, take, write_out};

const OWNER: &str = "111111111111";
const OTHER: &str = "222222222222";
const HERE: &str = "us-east-1";
const THERE: &str = "eu-west-1";
const ROLE: &str = "arn:aws:iam::222222222222:role/backup";
const KEY: &str = "alias/vault";
/// Grounds of a refusal, as the owner's log has them.
const NO_KEY_POLICY: &str = "because no resource-based policy allows";
const NO_IDENTITY_POLICY: &str = "because no identity-based policy allows";

/// Two accounts and two regions: a snapshot of the one, under a key of its own, and a role of the other.
struct Story {
    bed: Bed,
    server: Running,
    /// Of a session of the role.
    credentials: Vec<(String, String)>,
}

impl Story {
    fn new() -> Self {
        let bed = Bed::without_volume();
        bed.run(["--account", OWNER, "init", "--new-key", KEY, "vault"]);
        bed.run(["--account", OWNER, "mount", "vault", "plain"]);
        fill(&bed.plain(""), 20);
        bed.unmount();
        take(&bed, OWNER, "s");
        let other = |args: &[&str]| bed.run([&["--account", OTHER, "iam"][..], args].concat());
        let document = |name: &'static str, statement: Value| {
            fs::write(
                bed.dir().join(name),
                json!({"Version": "2012-10-17", "Statement": statement}).to_string(),
            )
            .unwrap();
            name
        };
        let copier = format!("arn:aws:iam::{OTHER}:user/copier");
        other(&["user", "create", "copier"]);
        let trust = json!({"Effect": "Allow", "Principal": {"AWS": copier}, "Action": "sts:AssumeRole"});
        other(&["role", "create", "backup", "--assume-role-policy-document", document("trust.json", trust)]);
        // What the role needs of its own account: the service-managed key there, which leaves that to identity policies.
        let own = json!({"Effect": "Allow", "Action": ["kms:GenerateDataKey", "kms:Decrypt", "kms:DescribeKey"],
            "Resource": format!("arn:aws:kms:*:{OTHER}:key/*")});
        other(&[
            "role",
            "put-policy",
            "backup",
            "--policy-name",
            "own",
            "--policy-document",
            document("own.json", own),
        ]);
        let assume = json!({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": ROLE});
        other(&[
            "user",
            "put-policy",
            "copier",
            "--policy-name",
            "p",
            "--policy-document",
            document("assume.json", assume),
        ]);
        let session = [
            "--account",
            OTHER,
            "--as",
            &copier,
            "iam",
            "role",
            "assume",
            ROLE,
            "--role-session-name",
            "nightly",
            "--env",
        ];
        let lines = bed.run(session);
        let credentials = lines.lines().map(|line| {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            (name.to_owned(), value.trim_matches(['\'', '"']).to_owned())
        });
        let credentials = credentials.collect();
        let mut serve = bed.command(["serve", "--listen", "127.0.0.1:0"]);
        let server = served::start(serve.stderr(Stdio::null()));
        Self { bed, server, credentials }
    }

    fn copy(&self, name: &str) -> Vec<String> {
        let args = ["--as", ROLE, "snapshot", "copy", "s", "--in", "snaps", "--to", THERE, "--name", name];
        args.map(str::to_owned).to_vec()
    }

    /// Decrypt of the snapshot's volume key over HTTP, by the AWS CLI with a session of the role.
    fn over_http(&self) -> Result<(), String> {
        let depot = depot(&self.bed.dir().join("snaps"));
        let snapshot = Snapshot::find(depot, "s").unwrap().descriptor;
        let key = &snapshot.volume_keys[0];
        let context =
            json!({"kmsfs:purpose": "volume", "kmsfs:volume": snapshot.volume_id.to_string()}).to_string();
        let blob = self.bed.dir().join("volume-key");
        fs::write(&blob, &snapshot.wrapped_keys().unwrap()[0].ciphertext).unwrap();
        let mut command = served::aws_cli(self.bed.dir(), &self.server.url());
        command.args(["--region", HERE, "kms", "decrypt", "--key-id", &key.key_arn]);
        command.args(["--ciphertext-blob", &format!("fileb://{}", blob.display())]);
        command.args(["--encryption-context", &context]).envs(self.credentials.iter().cloned());
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(words) }
    }

    /// Neither way is open, and both say so as AWS does, without telling whether there is such a key. The caller's own
    /// account reads why in its log; the owner's hears nothing of strangers.
    fn is_denied(&self, name: &str, why: &str) {
        let told = "no resource-based policies allow access";
        let (code, words) = self.bed.refused_with(self.copy(name));
        assert!(code == 3 && words.contains("AccessDenied") && words.contains(told), "{words}");
        assert!(words.contains("kms:Decrypt"), "{words}");
        let words = self.over_http().unwrap_err();
        assert!(words.contains("AccessDeniedException") && words.contains(told), "{words}");
        let args = ["--account", OTHER, "audit", "lookup", "--event", "Decrypt", "--limit", "2", "--json"];
        for event in answer(&self.bed, &args)["Events"].as_array().unwrap() {
            let text = event.to_string();
            assert!(text.contains("assumed-role/backup") && text.contains(why), "{why}: {text}");
        }
    }

    /// Both ways are open.
    fn passes(&self, name: &str) {
        self.bed.run(self.copy(name));
        self.over_http().unwrap();
    }

    fn share(&self, more: &[&str]) -> Value {
        answer(
            &self.bed,
            &[&["--account", OTHER, "snapshot", "share", "s", "--in", "snaps", "--json"], more].concat(),
        )
    }

    /// Events of the role in an account's log of a region: which have an error, and which have none.
    fn events(&self, account: &str, region: &str, event: &str) -> (usize, usize) {
        let args = [
            "--account",
            account,
            "--region",
            region,
            "audit",
            "lookup",
            "--event",
            event,
            "--limit",
            "10000",
            "--json",
        ];
        let found = answer(&self.bed, &args);
        let by_role = found["Events"].as_array().unwrap().iter().filter(|event| {
            let text = event.to_string();
            text.contains("assumed-role/backup")
        });
        let (bad, good): (Vec<_>, Vec<_>) =
            by_role.partition(|event| event.to_string().contains("AccessDenied"));
        (bad.len(), good.len())
    }
}

#[test]
fn another_account_copies_when_both_sides_let_it() {
    let story = Story::new();
    let bed = &story.bed;
    let shown = seen(bed, &bed.vault(), &["--account", OWNER]);
    story.is_denied("c", NO_KEY_POLICY);

    // Without --as the home's operator copies, as the root of both accounts, as --help says.
    bed.run(["--account", OTHER, "snapshot", "copy", "s", "--in", "snaps", "--to", THERE, "--name", "both"]);
    let args = ["--account", OWNER, "audit", "lookup", "--event", "Decrypt", "--limit", "1", "--json"];
    let opened = answer(bed, &args)["Events"][0]["userIdentity"]["arn"].clone();
    assert_eq!(opened, format!("arn:aws:iam::{OWNER}:root"));

    // Shown is not applied.
    let shared = story.share(&[]);
    assert_eq!(shared["applied"], false);
    story.is_denied("c", NO_KEY_POLICY);
    let shared = story.share(&["--apply"]);
    assert_eq!(shared["changed"].as_array().unwrap().len(), 1);
    assert_eq!(story.share(&["--apply"])["changed"], json!([]), "twice");
    story.is_denied("c", NO_IDENTITY_POLICY);

    fs::write(bed.dir().join("identity.json"), shared["identity_policy"].to_string()).unwrap();
    let put = ["role", "put-policy", "backup", "--policy-name", "copy", "--policy-document", "identity.json"];
    bed.run([&["--account", OTHER, "iam"][..], &put].concat());
    story.passes("c");

    // The other half alone does not do either.
    let policy = answer(bed, &["--account", OWNER, "key", "policy", KEY]);
    let mut without = policy.clone();
    without["Statement"].as_array_mut().unwrap().pop().unwrap();
    fs::write(bed.dir().join("without.json"), without.to_string()).unwrap();
    bed.run(["--account", OWNER, "key", "policy", "put", KEY, "--policy", "without.json"]);
    story.is_denied("d", NO_KEY_POLICY);
    story.share(&["--apply"]);
    story.passes("d");

    // The copy is the other account's, under its own key, whatever becomes of the first.
    bed.run(["--account", OWNER, "key", "policy", "put", KEY, "--policy", "without.json"]);
    bed.run(["--account", OWNER, "key", "schedule-deletion", "--yes", KEY]);
    let snaps = depot(&bed.dir().join("snaps"));
    let copy = write_out(&snaps, "c", &session(bed, OTHER, THERE), &bed.dir().join("copy"));
    assert_eq!((&*copy.account, &*copy.region), (OTHER, THERE));
    assert!(copy.volume_keys.iter().all(|key| key.key_arn.contains(&format!("kms:{THERE}:{OTHER}:"))));
    let see = ["--account", OTHER, "--region", THERE];
    assert_eq!(seen(bed, &bed.dir().join("copy"), &see), shown);
    let (code, words) = bed.refused_with(["--account", OWNER, "--region", THERE, "mount", "copy", "plain"]);
    assert!(code == 3 && words.contains("AccessDenied"), "{words}");
    let (code, words) = bed.refused_with(["--account", OWNER, "mount", "vault", "plain"]);
    assert!(code == 3 && words.contains("KMSInvalidState"), "{words}");

    // Both accounts' logs: each has every Decrypt of the role under the owner's key; the other's has the refusals too, and
    // what its own keys did.
    let (refused, opened) = story.events(OTHER, HERE, "Decrypt");
    assert!(refused == 8 && opened >= 40, "{refused} refused, {opened} opened");
    assert_eq!(story.events(OWNER, HERE, "Decrypt"), (0, opened));
    let (_, made) = story.events(OTHER, THERE, "GenerateDataKey");
    assert!(made >= 40, "{made}");
    assert_eq!(story.events(OTHER, THERE, "CopySnapshot"), (0, 2));
    assert_eq!(story.events(OWNER, THERE, "GenerateDataKey"), (0, 0));
    for (account, region) in [(OWNER, HERE), (OTHER, THERE)] {
        bed.run(["--account", account, "--region", region, "audit", "verify"]);
    }
}

#[test]
fn a_grant_lets_one_role_in_and_a_service_managed_key_lets_nobody() {
    let story = Story::new();
    let bed = &story.bed;
    story.is_denied("g", NO_KEY_POLICY);
    let (code, words) =
        bed.refused_with(["--account", OTHER, "snapshot", "share", "snaps/snapshots/s", "--role", "backup"]);
    assert!(code == 2 && words.contains("not the ARN of a role of account"), "{words}");
    let told = bed.run(["--account", OTHER, "snapshot", "share", "snaps/snapshots/s", "--role", ROLE]);
    assert!(
        told.contains("kmsfs key grant create") && told.contains("EncryptionContextSubset={kmsfs:volume="),
        "{told}"
    );
    let shared = story.share(&["--role", ROLE, "--apply"]);
    let grant = shared["grants"][0]["grant_id"].as_str().unwrap().to_owned();
    story.passes("g");
    bed.run(["--account", OWNER, "key", "grant", "revoke", KEY, "--grant-id", &grant]);
    story.is_denied("h", NO_KEY_POLICY);

    // Its own account is not another one.
    assert_eq!(bed.refused_with(["--account", OWNER, "snapshot", "share", "s", "--in", "snaps"]).0, 2);
    // Under the service-managed key it cannot be shared; under one of one's own it can.
    bed.run([
        "--account",
        OWNER,
        "snapshot",
        "copy",
        "s",
        "--in",
        "snaps",
        "--to",
        HERE,
        "--name",
        "managed",
    ]);
    let (code, words) =
        bed.refused_with(["--account", OTHER, "snapshot", "share", "managed", "--in", "snaps", "--apply"]);
    assert!(
        code == 2 && words.contains("service-managed key") && words.contains("kmsfs snapshot copy managed"),
        "{words}"
    );
    let again = ["--to", HERE, "--key", KEY, "--name", "own"];
    bed.run([&["--account", OWNER, "snapshot", "copy", "managed", "--in", "snaps"][..], &again].concat());
    bed.run(["--account", OTHER, "snapshot", "share", "own", "--in", "snaps"]);
}
