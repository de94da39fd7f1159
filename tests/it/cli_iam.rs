//! `kmsfs iam`: identities on the command line, and simulations beside what then really happens.

use std::fs;

use serde_json::{Value, json};

use crate::cli::{fed, json as answer};
use crate::mounted::bed::{Bed, KEY};

const OWN: &str = "000000000000";
const OTHER: &str = "111122223333";

/// A file with this document in the bed; its name.
fn file<'a>(bed: &Bed, name: &'a str, statement: &Value) -> &'a str {
    let document = json!({"Version": "2012-10-17", "Statement": statement});
    fs::write(bed.dir().join(name), document.to_string()).unwrap();
    name
}

fn allow(action: &Value) -> Value {
    json!({"Sid": "Given", "Effect": "Allow", "Action": action, "Resource": "*"})
}

/// A trust policy that names this account or principal.
fn trust(who: &str) -> Value {
    json!({"Effect": "Allow", "Principal": {"AWS": who}, "Action": "sts:AssumeRole"})
}

fn iam(bed: &Bed, args: &[&str]) -> String {
    bed.run([&["iam"], args].concat())
}

fn iam_json(bed: &Bed, args: &[&str]) -> Value {
    answer(bed, &[&["iam"], args, &["--json"]].concat())
}

#[test]
fn users_and_groups_are_made_shown_changed_and_deleted() {
    let bed = Bed::with_own_key();
    let document = file(&bed, "policy.json", &allow(&json!("kms:*")));
    let made = iam_json(&bed, &["user", "create", "alice", "--path", "/people/", "--tag", "team=red"]);
    assert_eq!(made["User"]["Arn"], format!("arn:aws:iam::{OWN}:user/people/alice"));
    assert_eq!(made["User"]["Tags"], json!([{"Key": "team", "Value": "red"}]));
    let shown = iam(&bed, &["user", "get", "alice"]);
    assert!(shown.contains("user/people/alice") && shown.contains("team=red"), "{shown}");
    assert_eq!(iam_json(&bed, &["user", "get"])["User"]["Arn"], format!("arn:aws:iam::{OWN}:root"));
    let own = bed.refused(["--as", "alice", "iam", "user", "get"]);
    assert!(own.contains("is not authorized to perform: iam:GetUser"), "{own}");
    iam(&bed, &["user", "tag", "alice", "--add", "floor=2", "--remove", "team"]);
    let tags = iam_json(&bed, &["user", "tag", "alice"]);
    assert_eq!(tags["Tags"], json!([{"Key": "floor", "Value": "2"}]));
    assert!(iam(&bed, &["user", "tag", "alice", "--list"]).contains("floor  2"));
    iam(&bed, &["user", "create", "bob"]);
    assert_eq!(iam_json(&bed, &["user", "list"])["Users"].as_array().unwrap().len(), 2);
    let table = iam(&bed, &["user", "list", "--path-prefix", "/people/"]);
    assert!(table.contains("alice") && !table.contains("bob"), "{table}");

    iam(&bed, &["group", "create", "readers", "--path", "/g/"]);
    assert_eq!(
        iam(&bed, &["group", "add-user", "readers", "--user-name", "alice"]),
        "the user alice is in the group readers\n"
    );
    assert!(iam(&bed, &["group", "get", "readers"]).contains("user/people/alice"));
    assert_eq!(iam_json(&bed, &["group", "get", "readers"])["Users"][0]["UserName"], "alice");
    assert!(iam(&bed, &["group", "list"]).contains("group/g/readers"));
    assert!(iam(&bed, &["user", "groups", "alice"]).contains("readers"));
    assert_eq!(iam_json(&bed, &["user", "groups", "bob"])["Groups"], json!([]));

    // What each of them has goes one way.
    iam(&bed, &["policy", "create", "use", "--policy-document", document]);
    for (kind, name) in [("user", "alice"), ("group", "readers")] {
        iam(&bed, &[kind, "put-policy", name, "--policy-name", "own", "--policy-document", document]);
        iam(&bed, &[kind, "attach-policy", name, "--policy-arn", "use"]);
        let found = iam_json(&bed, &[kind, "list-policies", name]);
        assert_eq!(found["PolicyNames"], json!(["own"]));
        assert_eq!(found["AttachedPolicies"][0]["PolicyArn"], format!("arn:aws:iam::{OWN}:policy/use"));
        let table = iam(&bed, &[kind, "list-policies", name]);
        assert!(table.contains("policy/use") && table.contains("its own"), "{table}");
        let own = iam_json(&bed, &[kind, "get-policy", name, "--policy-name", "own"]);
        assert_eq!(own["PolicyDocument"]["Statement"]["Action"], "kms:*", "{own}");
        let printed: Value =
            serde_json::from_str(&iam(&bed, &[kind, "get-policy", name, "--policy-name", "own"])).unwrap();
        assert_eq!(printed, own["PolicyDocument"]);
    }
    let (code, kept) = bed.refused_with(["iam", "user", "delete", "alice"]);
    assert!(code == 3 && kept.starts_with("kmsfs: DeleteConflict: "), "{kept}");
    assert!(bed.run(["--as", "alice", "iam", "simulate", "--action", "kms:ListKeys"]).contains("allowed"));
    for (kind, name) in [("user", "alice"), ("group", "readers")] {
        iam(&bed, &[kind, "delete-policy", name, "--policy-name", "own"]);
        iam(&bed, &[kind, "detach-policy", name, "--policy-arn", "use"]);
    }
    iam(&bed, &["user", "boundary", "put", "alice", "--permissions-boundary", "use"]);
    assert!(iam(&bed, &["user", "get", "alice"]).contains("policy/use"));
    iam(&bed, &["user", "boundary", "delete", "alice"]);
    assert!(!iam(&bed, &["user", "get", "alice"]).contains("policy/use"));
    iam(&bed, &["group", "remove-user", "readers", "--user-name", "alice"]);
    assert_eq!(iam(&bed, &["group", "delete", "readers"]), "the group readers is gone\n");
    assert_eq!(iam(&bed, &["user", "delete", "alice", "--json"]), "");
    let (code, gone) = bed.refused_with(["iam", "user", "get", "alice"]);
    assert!(code == 3 && gone.contains("NoSuchEntity") && gone.contains("`kmsfs iam user`"), "{gone}");
}

#[test]
fn managed_policies_have_versions() {
    let bed = Bed::without_volume();
    let one = file(&bed, "1.json", &allow(&json!("kms:Encrypt")));
    let two = file(&bed, "2.json", &allow(&json!("kms:Decrypt")));
    let made = iam_json(
        &bed,
        &[
            "policy",
            "create",
            "use",
            "--policy-document",
            one,
            "--path",
            "/keys/",
            "--description",
            "keys",
            "--tag",
            "a=b",
        ],
    );
    let arn = made["Policy"]["Arn"].as_str().unwrap();
    assert_eq!(arn, format!("arn:aws:iam::{OWN}:policy/keys/use"));
    let versions = |args: &[&str]| iam(&bed, &[&["policy", "version"], args].concat());
    let said = versions(&["create", "keys/use", "--policy-document", two]);
    assert!(said.contains("v2") && said.contains("does not count yet"), "{said}");
    versions(&["set-default", arn, "--version-id", "v2"]);
    let shown = iam(&bed, &["policy", "get", arn]);
    assert!(shown.contains("v2") && shown.contains("keys") && shown.contains("a=b"), "{shown}");
    assert!(versions(&["get", arn, "--version-id", "v2"]).contains("kms:Decrypt"));
    let first = iam_json(&bed, &["policy", "version", "get", arn, "--version-id", "v1"]);
    assert_eq!(first["PolicyVersion"]["Document"]["Statement"]["Action"], "kms:Encrypt");
    versions(&["delete", arn, "--version-id", "v1"]);
    let table = versions(&["list", arn]);
    assert!(table.contains("v2") && !table.contains("v1"), "{table}");
    versions(&["create", arn, "--policy-document", one, "--set-as-default"]);
    let list = iam_json(&bed, &["policy", "version", "list", arn]);
    let counting = list["Versions"].as_array().unwrap().iter().find(|v| v["IsDefaultVersion"] == true);
    assert_eq!(counting.unwrap()["VersionId"], "v3");

    let all = iam(&bed, &["policy", "list"]);
    assert!(all.contains("keys/use") && all.contains("AdministratorAccess"), "{all}");
    let own = iam_json(&bed, &["policy", "list", "--scope", "Local", "--path-prefix", "/keys/"]);
    assert_eq!(own["Policies"].as_array().unwrap().len(), 1);
    assert_eq!(iam_json(&bed, &["policy", "list", "--only-attached"])["Policies"], json!([]));
    iam(&bed, &["user", "create", "alice", "--permissions-boundary", arn]);
    let who = iam(&bed, &["policy", "entities", arn, "--policy-usage-filter", "PermissionsBoundary"]);
    assert!(who.contains("user  alice"), "{who}");
    let none = iam_json(&bed, &["policy", "entities", arn, "--entity-filter", "Role"]);
    assert_eq!(none["PolicyUsers"], json!([]));
    let limits = ["policy", "list", "--policy-usage-filter", "PermissionsBoundary"];
    assert!(iam(&bed, &limits).contains("keys/use"));
    iam(&bed, &["user", "delete", "alice"]);
    versions(&["delete", arn, "--version-id", "v2"]);
    assert_eq!(iam(&bed, &["policy", "delete", arn]), format!("{arn} is gone\n"));
    fs::write(bed.dir().join("bad.json"), "{").unwrap();
    let bad = bed.refused(["iam", "policy", "create", "bad", "--policy-document", "bad.json"]);
    assert!(bad.contains("MalformedPolicyDocument"), "{bad}");
}

#[test]
fn a_role_is_assumed_by_whom_it_trusts() {
    let bed = Bed::without_volume();
    let nobody = file(&bed, "nobody.json", &trust(&format!("arn:aws:iam::{OTHER}:root")));
    let own = file(&bed, "own.json", &{
        let mut trust = trust(&format!("arn:aws:iam::{OWN}:root"));
        trust["Action"] = json!(["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]);
        trust
    });
    let assuming = file(&bed, "assume.json", &allow(&json!("sts:*")));
    iam(&bed, &["user", "create", "alice"]);
    iam(&bed, &["user", "put-policy", "alice", "--policy-name", "p", "--policy-document", assuming]);
    let made = iam_json(
        &bed,
        &[
            "role",
            "create",
            "keeper",
            "--assume-role-policy-document",
            nobody,
            "--path",
            "/x/",
            "--tag",
            "a=b",
        ],
    );
    let arn = made["Role"]["Arn"].as_str().unwrap().to_owned();
    assert_eq!(made["Role"]["AssumeRolePolicyDocument"]["Statement"]["Action"], "sts:AssumeRole");
    let assume = ["--as", "alice", "iam", "role", "assume", &arn, "--role-session-name", "one"];
    let (code, words) = bed.refused_with(assume);
    assert!(code == 3 && words.contains("not authorized to perform: sts:AssumeRole"), "{words}");
    iam(&bed, &["role", "update-trust", "keeper", "--policy-document", own]);
    let shown = iam(&bed, &["role", "get", "keeper"]);
    assert!(shown.contains(&format!("arn:aws:iam::{OWN}:root")) && shown.contains("a=b"), "{shown}");
    let by_root = bed.refused(["iam", "role", "assume", "x/keeper", "--role-session-name", "one"]);
    assert!(by_root.contains("Roles may not be assumed by root accounts"), "{by_root}");

    let told = bed.run(assume);
    assert!(told.contains(&format!("arn:aws:sts::{OWN}:assumed-role/keeper/one")), "{told}");
    let session = answer(
        &bed,
        [
            &assume[..],
            &["--duration-seconds", "900", "--policy", assuming, "--policy-arns"],
            &["arn:aws:iam::aws:policy/IAMReadOnlyAccess", "--tag", "c=d", "--transitive-tag-keys", "c"],
            &["--source-identity", "Alice", "--external-id", "ticket-7", "--json"],
        ]
        .concat()
        .as_slice(),
    );
    let id = session["Credentials"]["AccessKeyId"].as_str().unwrap();
    assert!(id.starts_with("ASIA") && session["PackedPolicySize"].as_u64().unwrap() > 0, "{id}");
    assert_eq!(session["SourceIdentity"], "Alice");
    let env = bed.run([&assume[..], &["--env"]].concat());
    let names: Vec<_> = env.lines().map(|line| line.split('=').next().unwrap()).collect();
    let names_told = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    assert_eq!(names, names_told.map(|name| format!("export {name}")));

    iam(&bed, &["role", "update", "keeper", "--max-session-duration", "7200", "--description", "keeps"]);
    let role = iam_json(&bed, &["role", "get", "keeper"]);
    assert_eq!(
        (&role["Role"]["MaxSessionDuration"], &role["Role"]["Description"]),
        (&json!(7200), &json!("keeps"))
    );
    assert!(iam(&bed, &["role", "list"]).contains(&arn));
    assert_eq!(iam_json(&bed, &["role", "list", "--path-prefix", "/y/"])["Roles"], json!([]));
    iam(&bed, &["role", "tag", "keeper", "--remove", "a", "--add", "e=f"]);
    assert_eq!(iam_json(&bed, &["role", "tag", "keeper"])["Tags"], json!([{"Key": "e", "Value": "f"}]));
    let read_only = "arn:aws:iam::aws:policy/IAMReadOnlyAccess";
    iam(&bed, &["role", "boundary", "put", "keeper", "--permissions-boundary", read_only]);
    iam(&bed, &["role", "attach-policy", "keeper", "--policy-arn", read_only]);
    iam(&bed, &["role", "put-policy", "keeper", "--policy-name", "p", "--policy-document", assuming]);
    assert!(iam(&bed, &["role", "get-policy", "keeper", "--policy-name", "p"]).contains("sts:*"));
    let found = iam_json(&bed, &["role", "list-policies", "keeper"]);
    assert_eq!(
        (&found["PolicyNames"], &found["AttachedPolicies"][0]["PolicyArn"]),
        (&json!(["p"]), &json!(read_only))
    );
    assert!(bed.run(["--as", &arn, "iam", "user", "list"]).contains("alice"));
    iam(&bed, &["role", "delete-policy", "keeper", "--policy-name", "p"]);
    iam(&bed, &["role", "detach-policy", "keeper", "--policy-arn", read_only]);
    iam(&bed, &["role", "boundary", "delete", "keeper"]);
    assert_eq!(iam(&bed, &["role", "delete", "keeper"]), "the role keeper is gone\n");
}

#[test]
fn access_keys_and_accounts() {
    let bed = Bed::without_volume();
    iam(&bed, &["user", "create", "alice"]);
    let told = iam(&bed, &["access-key", "create", "--user-name", "alice"]);
    let id = told.lines().next().unwrap().rsplit(' ').next().unwrap();
    assert!(id.starts_with("AKIA") && told.contains("shown this once"), "{told}");
    let secret = told.lines().nth(1).unwrap().rsplit(' ').next().unwrap();
    assert_eq!(secret.len(), 40);
    let listed = iam(&bed, &["access-key", "list", "--user-name", "alice"]);
    assert!(listed.contains(id) && listed.contains("Active") && !listed.contains(secret), "{listed}");
    iam(&bed, &["access-key", "deactivate", id, "--user-name", "alice"]);
    let status = || {
        iam_json(&bed, &["access-key", "list", "--user-name", "alice"])["AccessKeyMetadata"][0]["Status"]
            .clone()
    };
    assert_eq!(status(), "Inactive");
    iam(&bed, &["access-key", "activate", id, "--user-name", "alice"]);
    assert_eq!(status(), "Active");
    iam(&bed, &["access-key", "delete", id, "--user-name", "alice"]);
    assert_eq!(status(), Value::Null);
    let root = iam_json(&bed, &["access-key", "create"])["AccessKey"].clone();
    assert!(root["UserName"].is_null() && root["SecretAccessKey"].as_str().unwrap().len() == 40);

    iam(&bed, &["account", "alias", "create", "acme"]);
    assert_eq!(iam(&bed, &["account", "alias", "list"]), "acme\n");
    let shown = iam(&bed, &["account", "get"]);
    for part in [OWN, "acme", &format!("arn:aws:iam::{OWN}:root"), "root's access keys  yes"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(iam_json(&bed, &["account", "get"])["SummaryMap"]["Users"], 1);
    bed.run(["--account", OTHER, "iam", "group", "create", "g"]);
    let accounts = iam_json(&bed, &["account", "list"]);
    assert_eq!(
        accounts["Accounts"][0],
        json!({"Id": OWN, "Alias": "acme", "Arn": format!("arn:aws:iam::{OWN}:root")})
    );
    assert_eq!(accounts["Accounts"][1]["Id"], OTHER);
    assert!(iam(&bed, &["account", "list"]).contains("000000000000  acme   1      0       0      0"));
    assert_eq!(bed.refused_with(["--as", "alice", "iam", "account", "list"]).0, 2);
    iam(&bed, &["account", "alias", "delete", "acme"]);
    assert_eq!(iam_json(&bed, &["account", "alias", "list"])["AccountAliases"], json!([]));
}

/// A home with a key, alice, a group with policies of its own, and a role of another account.
struct Story {
    bed: Bed,
    key: String,
    role: String,
}

/// What a simulation said.
struct Said {
    code: Option<i32>,
    decision: String,
    words: String,
    grounds: Vec<String>,
}

impl Story {
    fn new() -> Self {
        let bed = Bed::with_own_key();
        let described = answer(&bed, &["key", "describe", "--json", KEY]);
        let key = described["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
        iam(&bed, &["user", "create", "alice"]);
        iam(&bed, &["group", "create", "readers"]);
        iam(&bed, &["group", "add-user", "readers", "--user-name", "alice"]);
        let trusted = file(&bed, "trust.json", &trust(&format!("arn:aws:iam::{OTHER}:root")));
        bed.run([
            "--account",
            OTHER,
            "iam",
            "role",
            "create",
            "auditor",
            "--assume-role-policy-document",
            trusted,
        ]);
        Self { bed, key, role: format!("arn:aws:iam::{OTHER}:role/auditor") }
    }

    fn simulate(&self, principal: &str, action: &str, more: &[&str]) -> Said {
        let args = [
            "iam",
            "simulate",
            "--principal",
            principal,
            "--action",
            action,
            "--resource",
            &self.key,
            "--json",
        ];
        let output = self.bed.command([&args[..], more].concat()).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let all: Value = serde_json::from_str(&told).unwrap_or_else(|_| {
            panic!("{principal} {action}: {}", String::from_utf8_lossy(&output.stderr));
        });
        let result = &all["EvaluationResults"][0];
        assert_eq!(
            (&result["EvalActionName"], &result["EvalResourceName"]),
            (&json!(action), &json!(self.key))
        );
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Said {
            code: output.status.code(),
            decision: text(&result["EvalDecision"]),
            words: text(&result["Words"]),
            grounds: result["Grounds"].as_array().unwrap().iter().map(text).collect(),
        }
    }

    /// Encrypts really, and holds it against what was said; a denial's event has the same words.
    fn encrypt(&self, principal: &str, account: &str, said: &Said, context: &[&str]) {
        let args = ["--as", principal, "encrypt", "--key", &self.key];
        let output = fed(&self.bed, &[&args[..], context].concat(), b"x");
        let failed = String::from_utf8(output.stderr).unwrap();
        if said.decision == "allowed" {
            assert_eq!((output.status.code(), said.code), (Some(0), Some(0)), "{failed}");
            return;
        }
        assert_eq!((output.status.code(), said.code), (Some(3), Some(8)), "{failed}");
        let lookup =
            ["--account", account, "audit", "lookup", "--event", "Encrypt", "--limit", "1", "--json"];
        let event = answer(&self.bed, &lookup)["Events"][0].clone();
        assert_eq!(event["errorMessage"], said.words.as_str(), "{event}");
    }
}

#[test]
fn a_simulation_says_what_then_happens_and_the_denials_event_says_the_same() {
    let story = Story::new();
    let bed = &story.bed;
    let allowed = file(bed, "allow.json", &allow(&json!(["kms:Encrypt", "kms:Decrypt"])));
    let implicit = story.simulate("alice", "kms:Encrypt", &[]);
    assert_eq!((implicit.decision.as_str(), implicit.grounds.len()), ("implicitDeny", 0));
    assert!(implicit.words.ends_with("because no identity-based policy allows the kms:Encrypt action"));
    story.encrypt("alice", OWN, &implicit, &[]);

    iam(bed, &["group", "put-policy", "readers", "--policy-name", "use", "--policy-document", allowed]);
    let by_group = story.simulate("alice", "kms:Encrypt", &[]);
    assert_eq!(by_group.decision, "allowed");
    assert_eq!(by_group.grounds.len(), 2, "{:?}", by_group.grounds);
    assert!(by_group.grounds[0].contains("of the resource-based policy default"), "{:?}", by_group.grounds);
    assert!(by_group.grounds[1].contains("statement 1 (\"Given\") of the identity-based policy use"));
    story.encrypt("alice", OWN, &by_group, &[]);

    let narrow = file(bed, "narrow.json", &allow(&json!("kms:Decrypt")));
    iam(bed, &["policy", "create", "narrow", "--policy-document", narrow]);
    iam(bed, &["user", "boundary", "put", "alice", "--permissions-boundary", "narrow"]);
    let limited = story.simulate("alice", "kms:Encrypt", &[]);
    assert!(limited.words.ends_with("because no permissions boundary allows the kms:Encrypt action"));
    story.encrypt("alice", OWN, &limited, &[]);
    assert_eq!(story.simulate("alice", "kms:Decrypt", &[]).decision, "allowed");
    iam(bed, &["user", "boundary", "delete", "alice"]);

    let never = json!({"Sid": "Never", "Effect": "Deny", "Action": "kms:Encrypt", "Resource": "*",
        "Condition": {"StringEquals": {"kms:EncryptionContext:department": "finance"}}});
    let never = file(bed, "never.json", &never);
    iam(bed, &["user", "put-policy", "alice", "--policy-name", "no", "--policy-document", never]);
    let elsewhere = ["--encryption-context", "department=it"];
    let other = story.simulate("alice", "kms:Encrypt", &elsewhere);
    assert_eq!(other.decision, "allowed");
    story.encrypt("alice", OWN, &other, &["--context", "department=it"]);
    let denied = story.simulate("alice", "kms:Encrypt", &["--encryption-context", "department=finance"]);
    assert_eq!(denied.decision, "explicitDeny");
    assert!(denied.words.ends_with("with an explicit deny in an identity-based policy"), "{}", denied.words);
    assert_eq!(denied.grounds, ["statement 1 (\"Never\") of the identity-based policy no of the user alice"]);
    story.encrypt("alice", OWN, &denied, &["--context", "department=finance"]);
    let entries = ["--context-entries", "kms:EncryptionContext:department=finance"];
    assert_eq!(story.simulate("alice", "kms:Encrypt", &entries).decision, "explicitDeny");

    // For people, and without --principal the caller.
    let told = bed.run(["iam", "simulate", "--action", "kms:Encrypt", "--resource", KEY]);
    assert!(told.starts_with("decision    allowed\n") && told.contains("allowed by  statement 1"), "{told}");
    let own = ["--as", "alice", "iam", "simulate", "--action", "kms:DisableKey", "--resource", KEY];
    let output = bed.command(own).output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("decision  denied\n"));
}

#[test]
fn a_simulation_across_accounts_needs_both_sides_and_sees_grants() {
    let story = Story::new();
    let (bed, role) = (&story.bed, story.role.as_str());
    let nothing = story.simulate(role, "kms:Encrypt", &[]);
    assert_eq!(nothing.decision, "implicitDeny");
    story.encrypt(role, OTHER, &nothing, &[]);
    // The role's own side.
    let may = json!({"Sid": "Ours", "Effect": "Allow", "Action": "kms:Encrypt", "Resource": story.key});
    let may = file(bed, "role.json", &may);
    let put = ["iam", "role", "put-policy", "auditor", "--policy-name", "use", "--policy-document", may];
    bed.run([&["--account", OTHER][..], &put].concat());
    let half = story.simulate(role, "kms:Encrypt", &[]);
    assert!(half.words.contains("because no resource-based policy allows"), "{}", half.words);
    story.encrypt(role, OTHER, &half, &[]);
    // The key's side.
    let policy = file(
        bed,
        "key.json",
        &json!([
            {"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{OWN}:root")}, "Action": "kms:*", "Resource": "*"},
            {"Sid": "Auditors", "Effect": "Allow", "Principal": {"AWS": role}, "Action": "kms:Encrypt", "Resource": "*"}
        ]),
    );
    bed.run(["key", "policy", "put", KEY, "--policy", policy]);
    let both = story.simulate(role, "kms:Encrypt", &[]);
    assert_eq!(both.decision, "allowed", "{}", both.words);
    assert!(
        both.grounds[0].contains("\"Auditors\"") && both.grounds[1].contains("\"Ours\""),
        "{:?}",
        both.grounds
    );
    story.encrypt(role, OTHER, &both, &[]);

    // A grant with a constraint lets alice in, whom no policy lets.
    let grant = answer(
        bed,
        &[
            "key",
            "grant",
            "create",
            KEY,
            "--grantee-principal",
            &format!("arn:aws:iam::{OWN}:user/alice"),
            "--operations",
            "Encrypt",
            "--constraints",
            "EncryptionContextSubset={file=7}",
            "--json",
        ],
    );
    let without = story.simulate("alice", "kms:Encrypt", &[]);
    assert_eq!(without.decision, "implicitDeny");
    story.encrypt("alice", OWN, &without, &[]);
    let with = story.simulate("alice", "kms:Encrypt", &["--encryption-context", "file=7"]);
    assert_eq!(with.grounds, [format!("grant {}", grant["GrantId"].as_str().unwrap())]);
    story.encrypt("alice", OWN, &with, &["--context", "file=7"]);
}

#[test]
fn who_may_not_simulate_learns_nothing_of_others() {
    let story = Story::new();
    let bed = &story.bed;
    iam(bed, &["user", "create", "bob"]);
    let ask = [
        "--as",
        "alice",
        "iam",
        "simulate",
        "--principal",
        "bob",
        "--action",
        "kms:Encrypt",
        "--resource",
        KEY,
    ];
    let (code, words) = bed.refused_with(ask);
    assert!(
        code == 3 && words.contains("AccessDenied: ") && words.contains("iam:SimulatePrincipalPolicy"),
        "{words}"
    );
    let may = file(bed, "may.json", &allow(&json!("iam:SimulatePrincipalPolicy")));
    iam(bed, &["user", "put-policy", "alice", "--policy-name", "ask", "--policy-document", may]);
    assert_eq!(bed.command(ask).output().unwrap().status.code(), Some(8));
    let (code, words) = bed.refused_with([
        "--as",
        "alice",
        "iam",
        "simulate",
        "--principal",
        &story.role,
        "--action",
        "kms:Encrypt",
    ]);
    assert!(code == 3 && words.contains("another account"), "{words}");
    let (code, words) =
        bed.refused_with(["iam", "simulate", "--principal", "nobody", "--action", "kms:Encrypt"]);
    assert!(code == 3 && words.contains("NoSuchEntity") && words.contains("kmsfs iam user list"), "{words}");
    let (code, words) = bed.refused_with(["iam", "simulate", "--action", "kms:Nothing"]);
    assert!(code == 3 && words.contains("ValidationException"), "{words}");
    let (code, words) =
        bed.refused_with(["iam", "simulate", "--action", "kms:Encrypt", "--resource", "alias/none"]);
    assert!(code == 3 && words.contains("NotFoundException"), "{words}");
}
