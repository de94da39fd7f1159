//! Two accounts and two regions, and nothing between them but HTTP: each machine has a home with its own log, mounts for real
//! with `--kms aws`, and asks `kmsfs serve` with access keys of its own account.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::json as answer;
use crate::mounted::bed::{Bed, KEY, sh};
use crate::served::{Server, aws_cli, set};
use crate::snapshot_copy::{fill, picture, seen};

const OWNER: &str = "111111111111";
const OTHER: &str = "222222222222";
const HERE: &str = "us-east-1";
const THERE: &str = "eu-west-1";
const ALICE: &str = "user/alice";
const ROLE: &str = "arn:aws:iam::222222222222:role/backup";
/// Grounds of a refusal, as the caller's own log has them.
const NO_KEY_POLICY: &str = "because no resource-based policy allows";
const NO_IDENTITY_POLICY: &str = "because no identity-based policy allows";

/// The server, with both regions and both accounts, and a machine of each account.
struct World {
    server: Server,
    /// Alice's, who may do everything with her account's keys.
    owner: Bed,
    /// That of the role `backup`, which may do nothing yet. A user without permissions but to assume it has the access key.
    other: Bed,
}

impl World {
    fn new() -> Self {
        let mut server = Server::bare();
        // Each account has a key in each region.
        for (account, region) in [(OWNER, HERE), (OWNER, THERE), (OTHER, HERE), (OTHER, THERE)] {
            let volume = format!("{account}-{region}");
            server.kmsfs(&["--account", account, "--region", region, "init", "--new-key", KEY, &volume]);
        }
        let (mut owner, mut other) = (Bed::without_volume(), Bed::without_volume());
        let world = |server: &Server, account: &str, user: &str, statement: Value| -> [String; 2] {
            let iam = |args: &[&str]| server.kmsfs(&[&["--account", account, "iam"], args].concat());
            iam(&["user", "create", user]);
            let document = document(server, statement);
            iam(&["user", "put-policy", user, "--policy-name", "p", "--policy-document", &document]);
            let made: Value =
                serde_json::from_str(&iam(&["access-key", "create", "--user-name", user, "--json"])).unwrap();
            ["AccessKeyId", "SecretAccessKey"]
                .map(|name| made["AccessKey"][name].as_str().unwrap().to_owned())
        };
        let keys = world(&server, OWNER, "alice", allow(json!("kms:*"), json!("*")));
        let copier = world(&server, OTHER, "copier", allow(json!("sts:AssumeRole"), json!(ROLE)));
        let principal = json!({ "AWS": format!("arn:aws:iam::{OTHER}:user/copier") });
        let trust = json!({ "Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole" });
        let trust = document(&server, trust);
        server.kmsfs(&[
            "--account",
            OTHER,
            "iam",
            "role",
            "create",
            "backup",
            "--assume-role-policy-document",
            &trust,
        ]);
        server.start_with(&[]);

        for bed in [&mut owner, &mut other] {
            set(bed, "KMSFS_KMS", "aws");
            set(bed, "AWS_EC2_METADATA_DISABLED", "true");
            set(bed, "AWS_CONFIG_FILE", "/dev/null");
            set(bed, "AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        }
        set(&mut owner, "AWS_ENDPOINT_URL_KMS", &server.url());
        set(&mut owner, "AWS_ACCESS_KEY_ID", &keys[0]);
        set(&mut owner, "AWS_SECRET_ACCESS_KEY", &keys[1]);
        // The role's session comes by a profile, from STS of the same server.
        let profile = format!(
            "[profile copier]\naws_access_key_id = {}\naws_secret_access_key = {}\n\n\
             [profile backup]\nrole_arn = {ROLE}\nrole_session_name = nightly\nsource_profile = copier\nservices = here\n\n\
             [services here]\nkms =\n  endpoint_url = {url}\nsts =\n  endpoint_url = {url}\n",
            copier[0],
            copier[1],
            url = server.url()
        );
        let config = other.dir().join("config");
        fs::write(&config, profile).unwrap();
        set(&mut other, "AWS_CONFIG_FILE", config.to_str().unwrap());
        set(&mut other, "AWS_PROFILE", "backup");
        Self { server, owner, other }
    }

    /// The ARN of an account's key in a region.
    fn key(&self, account: &str, region: &str) -> String {
        let describe = ["--account", account, "--region", region, "key", "describe", "--json", KEY];
        self.server.json(&describe)["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    /// The role may do something more.
    fn let_role(&self, name: &str, statement: Value) {
        let document = document(&self.server, statement);
        let put = ["role", "put-policy", "backup", "--policy-name", name, "--policy-document", &document];
        self.server.kmsfs(&[&["--account", OTHER, "iam"][..], &put].concat());
    }

    /// The policy of an account's key gets a statement, or loses the one that it got last.
    fn change_policy(&self, account: &str, region: &str, statement: Option<&Value>) {
        let at = ["--account", account, "--region", region, "key", "policy"];
        let mut policy = self.server.json(&[&at[..], &[KEY]].concat());
        let statements = policy["Statement"].as_array_mut().unwrap();
        match statement {
            Some(statement) => statements.push(statement.clone()),
            None => drop(statements.pop().unwrap()),
        }
        fs::write(self.server.dir.path().join("policy.json"), policy.to_string()).unwrap();
        self.server.kmsfs(&[&at[..], &["put", KEY, "--policy", "policy.json"]].concat());
    }

    /// Events in the server's log of an account and a region that somebody caused.
    fn events(&self, account: &str, region: &str, event: &str, who: &str) -> Vec<Value> {
        let at = ["--account", account, "--region", region, "audit", "lookup", "--event", event];
        events(self.server.json(&[&at[..], &["--limit", "10000", "--json"]].concat()), who)
    }
}

fn allow(action: Value, resource: Value) -> Value {
    json!({ "Effect": "Allow", "Action": action, "Resource": resource })
}

/// A policy as a file in the server's directory; its name.
fn document(server: &Server, statement: Value) -> String {
    let policy = json!({ "Version": "2012-10-17", "Statement": statement });
    fs::write(server.dir.path().join("document.json"), policy.to_string()).unwrap();
    "document.json".to_owned()
}

fn events(found: Value, who: &str) -> Vec<Value> {
    let all = found["Events"].as_array().unwrap().iter();
    all.filter(|event| event["userIdentity"].to_string().contains(who)).cloned().collect()
}

fn request_ids(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["requestID"].as_str().unwrap().to_owned()).collect()
}

/// What a machine recorded itself of its calls.
fn local(bed: &Bed, region: &str, event: &str) -> Vec<Value> {
    let lookup = ["--region", region, "audit", "lookup", "--event", event, "--limit", "10000", "--json"];
    let found = answer(bed, &lookup);
    let all = found["Events"].as_array().unwrap().iter();
    all.filter(|event| event["eventSource"] == "kmsfs-client").cloned().collect()
}

/// What a snapshot shows through a mount that is made for it.
fn seen_snapshot(bed: &Bed, snapshot: &str) -> BTreeMap<PathBuf, String> {
    bed.run(["snapshot", "mount", snapshot, "plain"]);
    let shown = picture(&bed.plain(""));
    bed.unmount();
    shown
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn another_account_copies_over_http_when_both_sides_let_it() {
    let world = World::new();
    let World { server, owner, other } = &world;
    let (vault, copies) = (world.key(OWNER, HERE), world.key(OTHER, THERE));

    // A volume under the owner's key, snapshotted while it is mounted.
    owner.run(["init", "--key", &vault, "vault"]);
    owner.mount();
    fill(&owner.plain(""), 14);
    let taken = answer(owner, &["snapshot", "create", "vault", "--name", "s", "--to", "snaps", "--json"]);
    assert_eq!(taken["snapshot"]["account"], OWNER);
    let shown = picture(&owner.plain(""));
    owner.unmount();
    let snaps = text(&owner.dir().join("snaps"));

    let copy = |name: &'static str, key: &str| {
        let to = ["--to", THERE, "--key", key, "--dest", "copies", "--name", name];
        [&["snapshot", "copy", "s", "--in", &snaps][..], &to]
            .concat()
            .iter()
            .map(|s| (*s).to_owned())
            .collect::<Vec<_>>()
    };
    // Refused, with the operation, and why it was in the role's own account's log.
    let is_denied = |name, operation: &str, region: &str, why: &str| {
        let (code, words) = other.refused_with(copy(name, &copies));
        assert!(code == 3 && words.contains("AccessDenied") && words.contains(operation), "{words}");
        let operation = operation.trim_start_matches("kms:");
        let last = world.events(OTHER, region, operation, "assumed-role/backup/nightly").swap_remove(0);
        assert!(last["errorMessage"].as_str().unwrap().contains(why), "{last}");
        assert_eq!(local(other, region, operation)[0]["requestID"], last["requestID"]);
    };

    // The role may not even use its own account's key.
    is_denied("c", "kms:DescribeKey", THERE, NO_IDENTITY_POLICY);
    let own = json!(["kms:DescribeKey", "kms:GenerateDataKey", "kms:Decrypt"]);
    world.let_role("own", allow(own, json!(copies)));
    is_denied("c", "kms:Decrypt", HERE, NO_KEY_POLICY);

    // The owner is told what is needed, and adds it with AWS's own tool.
    let share = ["--account", OTHER, "snapshot", "share", "s", "--in", "snaps", "--json"];
    let shared = answer(owner, &share);
    assert_eq!((&shared["key_arns"], &shared["applied"]), (&json!([vault]), &json!(false)));
    let (code, words) = owner.refused_with([&share[..], &["--apply"]].concat());
    assert!(code == 2 && words.contains("AWS's own tools"), "{words}");
    let mut policy = server.json(&["--account", OWNER, "key", "policy", KEY]);
    policy["Statement"].as_array_mut().unwrap().push(shared["key_policy_statement"].clone());
    let mut put = aws_cli(owner.dir(), &server.url());
    put.args([
        "--region",
        HERE,
        "kms",
        "put-key-policy",
        "--key-id",
        &vault,
        "--policy",
        &policy.to_string(),
    ]);
    let put = put.envs(owner.env.iter().cloned()).output().unwrap();
    assert!(put.status.success(), "{put:?}");
    is_denied("c", "kms:Decrypt", HERE, NO_IDENTITY_POLICY);

    // The other half: now both have said yes.
    world.let_role("copy", shared["identity_policy"]["Statement"].clone());
    let done: Value =
        serde_json::from_str(&other.run([copy("c", &copies), vec!["--json".into()]].concat())).unwrap();
    let at = (&done["region"], &done["account"], &done["report"]["key_arn"]);
    assert_eq!(at, (&json!(THERE), &json!(OTHER), &json!(copies)));

    // Without the key's policy the identity policy alone does not do, nor for opening the snapshot itself.
    let open = ["snapshot", "verify", "--deep", "s", "--in", &snaps];
    other.run(open);
    world.change_policy(OWNER, HERE, None);
    is_denied("d", "kms:Decrypt", HERE, NO_KEY_POLICY);
    assert_eq!(other.refused_with(open).0, 3);

    // The copy is the role's, whatever becomes of the first key; its owner cannot open it.
    server.kmsfs(&["--account", OWNER, "key", "disable", KEY]);
    assert_eq!(seen_snapshot(other, "copies/snapshots/c"), shown);
    other.run(["snapshot", "verify", "--deep", "c", "--in", "copies"]);
    other.run(["snapshot", "restore", "c", "--in", "copies", "mine"]);
    let mine = other.dir().join("mine");
    assert_eq!(seen(other, &mine, &[]), shown);
    other.run(["mount", "mine", "plain"]);
    fs::write(other.plain("later"), "of the role").unwrap();
    other.unmount();
    let theirs = text(&other.dir().join("copies/snapshots/c"));
    let refused =
        [vec!["mount".into(), text(&mine), "plain".into()], vec!["snapshot".into(), "verify".into(), theirs]];
    for args in refused {
        let (code, words) = owner.refused_with(args);
        assert!(code == 3 && words.contains("AccessDenied"), "{words}");
    }
    assert!(owner.refused(["mount", "vault", "plain"]).contains("DisabledException"));

    // Both accounts' logs: what the role opened of the owner's, by the same request; the rest is its own account's matter.
    let of_role = |account, region, event| {
        let all = world.events(account, region, event, "assumed-role/backup/nightly");
        let (bad, good): (Vec<_>, Vec<_>) = all.into_iter().partition(|event| event["errorCode"].is_string());
        (bad, good)
    };
    let (refused, opened) = of_role(OTHER, HERE, "Decrypt");
    assert!(
        refused.len() == 4 && opened.len() >= 2 * 15,
        "{} refused, {} opened",
        refused.len(),
        opened.len()
    );
    let (told, heard) = of_role(OWNER, HERE, "Decrypt");
    assert_eq!((told.len(), request_ids(&heard)), (0, request_ids(&opened)));
    let recorded: Vec<_> =
        local(other, HERE, "Decrypt").into_iter().filter(|e| !e["errorCode"].is_string()).collect();
    assert_eq!(request_ids(&recorded), request_ids(&opened));
    let (_, made) = of_role(OTHER, THERE, "GenerateDataKey");
    assert!(made.len() >= 15, "{}", made.len());
    assert!(of_role(OWNER, THERE, "GenerateDataKey").1.is_empty());
    // The owner's attempts at the copy are in the owner's log, and not in that of the copy's account.
    let attempts = |account| world.events(account, THERE, "Decrypt", ALICE).len();
    assert!(attempts(OWNER) >= 2 && attempts(OTHER) == 0);
    let copied = answer(other, &["--region", THERE, "audit", "lookup", "--event", "CopySnapshot", "--json"]);
    assert_eq!(copied["Events"].as_array().unwrap().len(), 1);
    for (account, region) in [(OWNER, HERE), (OTHER, HERE), (OTHER, THERE)] {
        server.kmsfs(&["--account", account, "--region", region, "audit", "verify"]);
    }
    other.run(["--region", THERE, "audit", "verify"]);
}

#[test]
fn a_grant_that_is_shown_lets_the_role_in_over_http() {
    let world = World::new();
    let World { server, owner, other } = &world;
    let copies = world.key(OTHER, THERE);
    owner.run(["init", "--key", &world.key(OWNER, HERE), "vault"]);
    owner.run(["snapshot", "create", "vault", "--name", "s", "--to", "snaps"]);
    world.let_role("own", allow(json!("kms:*"), json!(copies)));
    let snaps = text(&owner.dir().join("snaps"));
    let copy = ["snapshot", "copy", "s", "--in", &snaps, "--to", THERE, "--key", &copies, "--dest", "copies"];
    assert_eq!(other.refused_with(copy).0, 3);
    // What is shown is what the AWS CLI takes.
    let told = owner.run(["--account", OTHER, "snapshot", "share", "s", "--in", "snaps", "--role", ROLE]);
    let line = told.lines().find_map(|line| line.strip_prefix("aws ")).unwrap();
    let mut grant = aws_cli(owner.dir(), &server.url());
    grant.args(line.split(' ').map(|word| word.trim_matches('\'')));
    let made = grant.envs(owner.env.iter().cloned()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    other.run(copy);
    let named = format!("copies/snapshots/s-{THERE}-{OTHER}");
    assert_eq!(seen_snapshot(other, &named).len(), 1);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let grant = made["GrantId"].as_str().unwrap();
    server.kmsfs(&["--account", OWNER, "key", "grant", "revoke", KEY, "--grant-id", grant]);
    assert_eq!(other.refused_with(["snapshot", "verify", "s", "--in", &snaps]).0, 3);
}

/// Descriptors of a volume and a snapshot, copied by hand, are made to say that they belong elsewhere, in each way that a
/// descriptor can: nothing opens.
fn opens_nowhere_else(
    bed: &Bed,
    volume: &str,
    depot: &str,
    (own, key): (&str, &str),
    (other, theirs): (&str, &str),
) {
    sh(bed.dir(), &format!("cp -a {volume} by-hand; cp -a {depot} by-hand-depot"));
    let volume = bed.dir().join("by-hand");
    let snapshot =
        fs::read_dir(bed.dir().join("by-hand-depot/snapshots")).unwrap().next().unwrap().unwrap().path();
    // As it was copied it opens where it belongs.
    let shown = seen(bed, &volume, &[]);
    assert!(shown.len() > 5);
    assert_eq!(seen_snapshot(bed, &text(&snapshot)), shown);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let descriptors = [volume.join("kmsfs.json"), snapshot.join("snapshot.json")];
    let genuine = descriptors.each_ref().map(|path| read(path));
    let moved = |text: &str, way: usize| {
        let region =
            |text: &str| text.replace(&format!("\"region\": \"{own}\""), &format!("\"region\": \"{other}\""));
        let keys = |text: &str| text.replace(&format!(":{own}:"), &format!(":{other}:"));
        let moved = match way {
            0 => region(text),
            1 => keys(text),
            2 => region(&keys(text)),
            _ => region(&text.replace(key, theirs)),
        };
        assert_ne!(moved, text, "way {way}");
        moved
    };
    for way in 0..4 {
        for (path, genuine) in descriptors.iter().zip(&genuine) {
            fs::write(path, moved(genuine, way)).unwrap();
        }
        let (volume, snapshot) = (text(&volume), text(&snapshot));
        for args in [
            &["mount", &volume, "plain"][..],
            &["snapshot", "mount", &snapshot, "plain"],
            &["snapshot", "verify", &snapshot],
            &["snapshot", "restore", &snapshot, "restored"],
            &["snapshot", "copy", &snapshot, "--to", other, "--key", theirs, "--dest", "stolen"],
            &["rewrap", "--key", theirs, &volume],
            &["rewrap", "--change-region", "--key", theirs, &volume],
        ] {
            let (code, words) = bed.refused_with(args);
            assert!(matches!(code, 2 | 3 | 5 | 7), "way {way}, {args:?}: {code} {words}");
            assert!(
                !bed.is_mounted() && !bed.dir().join("restored/kmsfs.json").exists(),
                "way {way}, {args:?}"
            );
        }
    }
    for (path, genuine) in descriptors.iter().zip(&genuine) {
        fs::write(path, genuine).unwrap();
    }
    assert_eq!(seen(bed, &volume, &[]), shown);
    sh(bed.dir(), "rm -r by-hand by-hand-depot; rm -rf restored stolen");
}

#[test]
fn keys_of_one_region_open_nothing_of_the_other_over_http() {
    let world = World::new();
    let owner = &world.owner;
    let (here, there) = (world.key(OWNER, HERE), world.key(OWNER, THERE));
    owner.run(["init", "--key", &here, "vault"]);
    owner.mount();
    for n in 0..6 {
        fs::create_dir_all(owner.plain(format!("dir {}", n % 2))).unwrap();
        fs::write(owner.plain(format!("dir {}/file {n}", n % 2)), format!("content of {n}\n").repeat(500))
            .unwrap();
    }
    owner.run(["snapshot", "create", "plain", "--name", "s", "--to", "snaps"]);
    let shown = picture(&owner.plain(""));
    owner.unmount();
    opens_nowhere_else(owner, "vault", "snaps", (HERE, &here), (THERE, &there));
    // A copy as well, in the other direction.
    owner.run(["snapshot", "copy", "s", "--in", "snaps", "--to", THERE, "--key", &there, "--dest", "far"]);
    owner.run(["snapshot", "restore", "s-eu-west-1", "--in", "far", "europe"]);
    assert_eq!(seen(owner, &owner.dir().join("europe"), &[]), shown);
    opens_nowhere_else(owner, "europe", "far", (THERE, &there), (HERE, &here));

    // Encrypted files under the other's descriptor are not shown, and under the names of its files they do not open.
    sh(owner.dir(), "cp -a vault mixed; cp -a europe/kmsfs.json europe/.kmsfs mixed/");
    assert_eq!(seen(owner, &owner.dir().join("mixed"), &[]).len(), 1);
    sh(
        owner.dir(),
        "cp -a europe swapped; files() { find $1 -type f -size +4k ! -path '*/.kmsfs/*'; }
         mapfile -t from < <(files vault); mapfile -t to < <(files swapped)
         for i in ${!to[@]}; do cat \"${from[$i]}\" > \"${to[$i]}\"; done",
    );
    owner.run(["mount", "swapped", "plain"]);
    for n in 0..6 {
        let file = owner.plain(format!("dir {}/file {n}", n % 2));
        assert!(fs::metadata(&file).unwrap().is_file());
        fs::read(&file).unwrap_err();
    }
}

/// A statement for a key's policy that lets the owner's account do something.
fn lets_owner(actions: Value) -> Value {
    let mut statement = allow(actions, json!("*"));
    statement["Principal"] = json!({ "AWS": format!("arn:aws:iam::{OWNER}:root") });
    statement
}

#[test]
fn recipients_in_another_account_open_what_is_rekeyed_and_rewrapped_over_http() {
    let world = World::new();
    let World { server, owner, other } = &world;
    let (far, near) = (world.key(OTHER, THERE), world.key(OTHER, HERE));
    owner.run(["init", "--key", &world.key(OWNER, HERE), "vault"]);
    owner.mount();
    for n in 0..7 {
        fs::write(owner.plain(format!("file {n}")), format!("content of {n}\n").repeat(n * 300 + 1)).unwrap();
    }
    let shown = picture(&owner.plain(""));
    owner.unmount();
    let vault = owner.vault();

    // The other account's keys wrap for nobody before their policies say so.
    let add = |key| ["edk", "add", "--json", "vault", "--key", key];
    for (key, region) in [(&far, THERE), (&near, HERE)] {
        for (action, refused) in [("kms:DescribeKey", "DescribeKey"), ("kms:Encrypt", "Encrypt")] {
            let (code, words) = owner.refused_with(add(key));
            assert!(code == 3 && words.contains("AccessDenied") && words.contains(refused), "{words}");
            world.change_policy(OTHER, region, Some(&lets_owner(json!(action))));
        }
        let added = answer(owner, &add(key));
        let done = (&added["volume_key"], &added["changed"], &added["failed"]["count"]);
        assert_eq!(done, (&json!(true), &json!(7), &json!(0)), "{added}");
        // The volume key and each file, in both accounts' logs.
        let wrapped = request_ids(&world.events(OTHER, region, "Encrypt", ALICE));
        assert_eq!(wrapped.len(), 8);
        assert!(request_ids(&world.events(OWNER, region, "Encrypt", ALICE)).is_superset(&wrapped));
    }
    let listed = answer(owner, &["edk", "list", "--json", "vault"]);
    let files: Vec<_> = listed["keys"].as_array().unwrap().iter().map(|key| &key["files"]).collect();
    assert_eq!(files, [&json!(7); 3]);

    // They open it by themselves: out of another region to recover, in the volume's own also mounted.
    let recover = |to: &str| ["recover", vault.to_str().unwrap(), to, "--key", &far].map(str::to_owned);
    let (code, words) = other.refused_with(recover("none"));
    assert!(code == 3 && words.contains("AccessDenied"), "{words}");
    world.let_role("own", allow(json!("kms:Decrypt"), json!([far, near])));
    let files_of = |dir: &Path| {
        let mut files = picture(dir);
        files.remove(Path::new(""));
        files
    };
    let shown_files = {
        let mut files = shown.clone();
        files.remove(Path::new(""));
        files
    };
    other.run(recover("first"));
    assert_eq!(files_of(&other.dir().join("first")), shown_files);
    assert_eq!(seen(other, &vault, &[]), shown);
    let by_role = world.events(OWNER, HERE, "Decrypt", "assumed-role/backup");
    assert!(by_role.is_empty(), "{by_role:?}");

    // For writing too, but new files would be under the owner's key.
    other.run(["mount", vault.to_str().unwrap(), "plain"]);
    let refused = fs::write(other.plain("new"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(fs::read_to_string(other.plain("file 1")).unwrap().len(), "content of 1\n".len() * 301);
    other.unmount();

    // New data keys, wrapped for all of them; then new material of the owner's key.
    let done = answer(owner, &["rekey", "--json", "vault"]);
    assert_eq!((&done["renewed"], &done["failed"]["count"]), (&json!(7), &json!(0)), "{done}");
    assert_eq!(request_ids(&world.events(OTHER, THERE, "Encrypt", ALICE)).len(), 8 + 7);
    server.kmsfs(&["--account", OWNER, "key", "rotate", KEY]);
    let done = answer(owner, &["rewrap", "--json", "vault"]);
    assert_eq!((&done["rewrapped"], &done["failed"]["count"]), (&json!(7), &json!(0)), "{done}");
    assert_eq!(seen(owner, &vault, &[]), shown);
    assert_eq!(seen(other, &vault, &[]), shown);
    other.run(recover("second"));
    assert_eq!(files_of(&other.dir().join("second")), shown_files);

    // One goes, and opens nothing any more; the other one stays.
    owner.run(["edk", "remove", "vault", "--key", &near]);
    let mount = ["mount".to_owned(), "--read-only".to_owned(), text(&vault), "plain".to_owned()];
    let (code, words) = other.refused_with(mount);
    assert!(code == 3 && words.contains("AccessDenied"), "{words}");
    other.run(recover("third"));
    assert_eq!(files_of(&other.dir().join("third")), shown_files);
}

#[test]
fn a_snapshot_of_the_home_goes_to_aws_and_not_back() {
    let server = Server::new();
    let mut bed = server.bed();
    set(&mut bed, "KMSFS_KMS", "embedded");
    bed.run(["init", "--new-key", KEY, "vault"]);
    bed.mount();
    fill(&bed.plain(""), 5);
    bed.run(["snapshot", "create", "vault", "--name", "s", "--to", "snaps"]);
    let shown = picture(&bed.plain(""));
    bed.unmount();
    let key = server.arn(THERE, KEY);
    let copy = ["snapshot", "copy", "s", "--in", "snaps", "--dest", "copies", "--to"];

    set(&mut bed, "KMSFS_KMS", "aws");
    for (args, said) in [
        ([&copy[..], &[THERE]].concat(), "--key"),
        ([&copy[..], &[HERE, "--key", &key]].concat(), "a key of eu-west-1"),
        ([&["--as", "alice"], &copy[..], &[THERE, "--key", &key]].concat(), "AWS_PROFILE"),
        (vec!["snapshot", "verify", "s", "--in", "snaps"], "leave --kms aws"),
    ] {
        let (code, words) = bed.refused_with(&args);
        assert!(code == 2 && words.contains(said), "{args:?}: {code} {words}");
    }
    for (name, way) in [("again", &[][..]), ("wrapped", &["--rewrap"])] {
        bed.run([&copy[..], &[THERE, "--key", &key, "--name", name], way].concat());
        assert_eq!(seen_snapshot(&bed, &format!("copies/snapshots/{name}")), shown);
        bed.run(["snapshot", "verify", "--deep", name, "--in", "copies"]);
    }
    assert!(!local(&bed, THERE, "GenerateDataKey").is_empty());
    let listed = bed.run(["snapshot", "inspect", "--files", "wrapped", "--in", "copies"]);
    assert!(listed.lines().any(|line| line.ends_with("a/b c/ü/other name")), "{listed}");
    bed.run(["snapshot", "delete", "wrapped", "--in", "copies"]);
    // The key that the service manages in an account does not take part: its policy lets only the service itself in.
    server.kmsfs(&["init", "managed"]);
    let managed = server.arn(HERE, "alias/aws/kmsfs");
    let (code, words) = bed.refused_with([&copy[..], &[HERE, "--key", &managed, "--name", "m"]].concat());
    assert!(code == 3 && words.contains("AccessDenied") && words.contains("GenerateDataKey"), "{words}");

    set(&mut bed, "KMSFS_KMS", "embedded");
    for args in [
        ["snapshot", "copy", "again", "--in", "copies", "--to", HERE].as_slice(),
        &["snapshot", "share", "again", "--in", "copies", "--account", OTHER],
        &["snapshot", "mount", "copies/snapshots/again", "plain"],
    ] {
        let (code, words) = bed.refused_with(args);
        assert!(code == 2 && words.contains("--kms aws"), "{args:?}: {code} {words}");
    }
}
