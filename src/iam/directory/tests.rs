//! The directory by itself.

use super::*;
use crate::store::{Durability, SqliteStore, Store, WriteTx};

const ROOT: [u8; 32] = [7; 32];

struct Bench {
    _dir: tempfile::TempDir,
    store: SqliteStore,
    account: AccountId,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("s.db")).unwrap();
        Self { _dir: dir, store, account: "000000000000".parse().unwrap() }
    }

    fn change<T>(&self, f: impl FnOnce(&mut dyn WriteTx, &AccountId) -> T) -> T {
        let mut tx = self.store.write(Durability::Soon).unwrap();
        let answer = f(&mut *tx, &self.account);
        tx.commit().unwrap();
        answer
    }

    fn make(&self, kind: Kind, path: &str, name: &str) -> Result<()> {
        let row = EntityRow {
            name: name.to_owned(),
            path: path.to_owned(),
            id: unique_id(Unique::User).unwrap(),
            created: 0,
            tags: Vec::new(),
            boundary: None,
            attached: Vec::new(),
            inline: Vec::new(),
            groups: Vec::new(),
            role: None,
        };
        self.change(|tx, account| create_entity(tx, kind, account, &row))
    }

    fn policy(&self, name: &str) -> String {
        let row = PolicyRow {
            name: name.to_owned(),
            path: "/".to_owned(),
            id: unique_id(Unique::Policy).unwrap(),
            created: 0,
            updated: 0,
            description: None,
            tags: Vec::new(),
            default: 1,
            next: 2,
            versions: vec![(1, 0, ALLOW.to_owned())],
        };
        self.change(|tx, account| create_policy(tx, account, &row)).unwrap();
        policy_arn(self.account.as_str(), &row)
    }
}

const ALLOW: &str =
    r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}"#;

fn words<T>(result: Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn ids_have_awss_forms_and_do_not_repeat() {
    let ids: std::collections::HashSet<String> = (0..100).map(|_| unique_id(Unique::Role).unwrap()).collect();
    assert_eq!(ids.len(), 100);
    let good = |c: char| c.is_ascii_uppercase() || ('2'..='7').contains(&c);
    assert!(ids.iter().all(|id| id.len() == 21 && id.starts_with("AROA") && id.chars().all(good)));
    assert_eq!(unique_id(Unique::AccessKey).unwrap().len(), 20);
    assert_eq!(new_secret().unwrap().len(), 40);
}

#[test]
fn names_that_differ_in_case_alone_are_one() {
    let bench = Bench::new();
    bench.make(Kind::User, "/", "Alice").unwrap();
    assert_eq!(words(bench.make(Kind::User, "/x/", "alice")), "User with name alice already exists.");
    bench.make(Kind::Group, "/", "alice").unwrap();
    let tx = bench.store.read().unwrap();
    assert!(find_entity(&*tx, Kind::User, &bench.account, "alice").unwrap().is_none());
    assert!(find_entity(&*tx, Kind::User, &bench.account, "Alice").unwrap().is_some());
    let other: AccountId = "111122223333".parse().unwrap();
    assert!(find_entity(&*tx, Kind::User, &other, "Alice").unwrap().is_none());
    assert_eq!(
        words(entity(&*tx, Kind::User, &bench.account, "bob")),
        "The user with name bob cannot be found."
    );
}

#[test]
fn lists_go_by_name_and_by_path() {
    let bench = Bench::new();
    for (path, name) in [("/a/", "one"), ("/a/b/", "two"), ("/ab/", "three"), ("/a/", "four")] {
        bench.make(Kind::User, path, name).unwrap();
    }
    let tx = bench.store.read().unwrap();
    let names = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
        let rows = entities(&*tx, Kind::User, &bench.account, prefix, after, limit).unwrap();
        rows.into_iter().map(|row| row.name).collect()
    };
    assert_eq!(names("/", None, 10), ["four", "one", "three", "two"]);
    assert_eq!(names("/a/", None, 10), ["four", "one", "two"]);
    assert_eq!(names("/a/", Some("four"), 1), ["one"]);
    assert_eq!(names("/", None, 2), ["four", "one"]);
    assert_eq!(entity_count(&*tx, Kind::User, &bench.account).unwrap(), 4);
}

#[test]
fn who_has_something_cannot_be_deleted() {
    let bench = Bench::new();
    let arn = bench.policy("p");
    bench.make(Kind::User, "/", "alice").unwrap();
    bench.make(Kind::Group, "/", "staff").unwrap();
    let delete = |kind, name: &str| bench.change(|tx, account| words(delete_entity(tx, kind, account, name)));
    let key = bench.change(|tx, account| create_access_key(tx, &ROOT, account, Some("alice"), 0)).unwrap();
    bench.change(|tx, account| add_member(tx, account, "staff", "alice")).unwrap();
    bench.change(|tx, account| attach(tx, Kind::User, account, "alice", &arn)).unwrap();
    bench.change(|tx, account| put_inline(tx, Kind::User, account, "alice", "own", ALLOW)).unwrap();
    assert_eq!(delete(Kind::User, "alice"), "Cannot delete entity, must delete access keys first.");
    bench.change(|tx, _| delete_access_key(tx, &key.id, &key.row)).unwrap();
    assert_eq!(delete(Kind::User, "alice"), "Cannot delete entity, must remove users from group first.");
    assert_eq!(delete(Kind::Group, "staff"), "Cannot delete entity, must remove users from group first.");
    bench.change(|tx, account| remove_member(tx, account, "staff", "alice")).unwrap();
    assert!(
        words(bench.change(|tx, account| remove_member(tx, account, "staff", "alice")))
            .contains("not in the group")
    );
    assert_eq!(delete(Kind::User, "alice"), "Cannot delete entity, must detach all policies first.");
    let policy = bench.change(|tx, account| words(delete_policy(tx, account, &arn)));
    assert_eq!(policy, "Cannot delete a policy attached to entities.");
    bench.change(|tx, account| detach(tx, Kind::User, account, "alice", &arn)).unwrap();
    assert_eq!(delete(Kind::User, "alice"), "Cannot delete entity, must delete policies first.");
    bench.change(|tx, account| delete_inline(tx, Kind::User, account, "alice", "own")).unwrap();
    assert_eq!(delete(Kind::User, "alice"), "");
    assert_eq!(delete(Kind::Group, "staff"), "");
    assert_eq!(bench.change(|tx, account| words(delete_policy(tx, account, &arn))), "");
    // Nothing is left behind: not even a count.
    let tx = bench.store.read().unwrap();
    for collection in ["entities", "members", "policies", "attachments", "access-keys", "owner-keys"] {
        let left = tx.range(collection, Bound::Unbounded, Bound::Unbounded, false, 10).unwrap();
        assert!(left.is_empty(), "{collection}");
    }
    assert_eq!(entity_count(&*tx, Kind::User, &bench.account).unwrap(), 0);
}

#[test]
fn a_boundary_is_an_attachment_of_its_own() {
    let bench = Bench::new();
    let arn = bench.policy("most");
    bench.make(Kind::Role, "/", "r").unwrap();
    bench.change(|tx, account| set_boundary(tx, Kind::Role, account, "r", Some(&arn))).unwrap();
    bench.change(|tx, account| {
        assert_eq!(attachments(tx, account, &arn, Usage::Boundary).unwrap(), 1);
        assert_eq!(attachments(tx, account, &arn, Usage::Permissions).unwrap(), 0);
        assert!(words(delete_policy(tx, account, &arn)).contains("attached"));
        delete_entity(tx, Kind::Role, account, "r").unwrap();
        assert_eq!(attachments(tx, account, &arn, Usage::Boundary).unwrap(), 0);
    });
}

#[test]
fn quotas_are_awss() {
    let bench = Bench::new();
    bench.make(Kind::User, "/", "alice").unwrap();
    for i in 0..11 {
        let (group, arn) = (format!("g{i}"), bench.policy(&format!("p{i}")));
        bench.make(Kind::Group, "/", &group).unwrap();
        let joined = bench.change(|tx, account| words(add_member(tx, account, &group, "alice")));
        let attached = bench.change(|tx, account| words(attach(tx, Kind::User, account, "alice", &arn)));
        let full = i == 10;
        assert_eq!(joined, if full { "Cannot exceed quota for GroupsPerUser: 10" } else { "" });
        assert_eq!(attached, if full { "Cannot exceed quota for PoliciesPerUser: 10" } else { "" });
    }
    let arn = bench.policy("versions");
    let mut refused = String::new();
    for _ in 0..5 {
        refused = bench.change(|tx, account| words(create_version(tx, account, &arn, ALLOW, false, 1)));
    }
    assert!(refused.starts_with("A managed policy can have up to 5 versions."), "{refused}");
    let long = ALLOW.replace("kms:*", &format!("kms:{}", "x".repeat(1100)));
    bench.change(|tx, account| put_inline(tx, Kind::User, account, "alice", "a", &long)).unwrap();
    // Written again it counts once; two of them are too much.
    bench.change(|tx, account| put_inline(tx, Kind::User, account, "alice", "a", &long)).unwrap();
    let second = bench.change(|tx, account| words(put_inline(tx, Kind::User, account, "alice", "b", &long)));
    assert_eq!(second, "Maximum policy size of 2048 bytes exceeded for user alice");
    let tx = bench.store.read().unwrap();
    assert_eq!(entity(&*tx, Kind::User, &bench.account, "alice").unwrap().inline.len(), 1);
}

#[test]
fn versions_come_go_and_are_never_used_twice() {
    let bench = Bench::new();
    let arn = bench.policy("p");
    bench.change(|tx, account| {
        let row = create_version(tx, account, &arn, ALLOW, true, 5).unwrap();
        assert_eq!((row.default, row.next), (2, 3));
        assert_eq!(
            words(delete_version(tx, account, &arn, 2)),
            "Cannot delete the default version of a policy."
        );
        assert!(
            words(delete_policy(tx, account, &arn)).starts_with("This policy has more than one version.")
        );
        set_default_version(tx, account, &arn, 1, 6).unwrap();
        delete_version(tx, account, &arn, 2).unwrap();
        assert_eq!(create_version(tx, account, &arn, ALLOW, false, 7).unwrap().next, 4);
        assert!(words(set_default_version(tx, account, &arn, 2, 8)).contains("version v2 does not exist"));
        assert!(words(create_version(tx, account, &arn, "{}", true, 9)).contains("Syntax errors"));
    });
}

#[test]
fn awss_own_policies_are_read_attached_and_not_changed() {
    let bench = Bench::new();
    bench.make(Kind::User, "/", "alice").unwrap();
    for row in provided() {
        let arn = policy_arn("aws", row);
        bench.change(|tx, account| attach(tx, Kind::User, account, "alice", &arn)).unwrap();
        assert!(bench.change(|tx, account| words(delete_policy(tx, account, &arn))).contains("AWS's own"));
        assert!(crate::iam::Policy::parse(crate::iam::PolicyKind::Managed, row.document().unwrap()).is_ok());
    }
    let tx = bench.store.read().unwrap();
    let alice = crate::iam::Principal::User { account: bench.account.clone(), name: "alice".to_owned() };
    assert_eq!(standing(&*tx, &alice).unwrap().unwrap().policies.len(), provided().len());
    drop(tx);
    for (bad, expected) in [
        ("arn:aws:iam::aws:policy/Nothing", "does not exist or is not attachable"),
        ("arn:aws:iam::111122223333:policy/x", "does not exist or is not attachable"),
        ("arn:aws:iam::000000000000:user/alice", "is not valid"),
    ] {
        let refused = bench.change(|tx, account| words(attach(tx, Kind::User, account, "alice", bad)));
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn a_standing_is_of_a_name_with_its_path() {
    let bench = Bench::new();
    bench.make(Kind::User, "/people/", "alice").unwrap();
    let tx = bench.store.read().unwrap();
    let of = |name: &str| {
        let who = crate::iam::Principal::User { account: bench.account.clone(), name: name.to_owned() };
        standing(&*tx, &who).unwrap().map(|s| s.full_name)
    };
    assert_eq!(of("people/alice").as_deref(), Some("people/alice"));
    assert_eq!(of("alice"), None);
    assert_eq!(of("other/alice"), None);
    assert_eq!(standing(&*tx, &crate::iam::Principal::Root(bench.account.clone())).unwrap(), None);
}

#[test]
fn a_secret_opens_for_its_own_key_under_its_own_root_alone() {
    let bench = Bench::new();
    bench.make(Kind::User, "/", "alice").unwrap();
    let made = bench.change(|tx, account| create_access_key(tx, &ROOT, account, Some("alice"), 0)).unwrap();
    let other = bench.change(|tx, account| create_access_key(tx, &ROOT, account, None, 0)).unwrap();
    assert_eq!(open_secret(&ROOT, &made.id, &made.row).unwrap().expose(), made.secret.expose());
    assert!(open_secret(&[8; 32], &made.id, &made.row).is_err());
    assert!(open_secret(&ROOT, &other.id, &made.row).is_err());
    let swapped = AccessKeyRow { sealed: other.row.sealed.clone(), ..made.row.clone() };
    assert!(open_secret(&ROOT, &made.id, &swapped).is_err());
    let tx = bench.store.read().unwrap();
    assert_eq!(access_keys_of(&*tx, &bench.account, "").unwrap(), [other.id]);
    let row = tx.get("access-keys", made.id.as_bytes()).unwrap().unwrap();
    assert!(!row.windows(10).any(|w| w == &made.secret.expose()[..10]));
}

#[test]
fn an_account_has_one_alias_that_no_other_has() {
    let bench = Bench::new();
    let other: AccountId = "111122223333".parse().unwrap();
    bench.change(|tx, account| {
        set_account_alias(tx, account, Some("first")).unwrap();
        set_account_alias(tx, account, Some("second")).unwrap();
        assert_eq!(account_alias(tx, account).unwrap().as_deref(), Some("second"));
        assert!(words(set_account_alias(tx, &other, Some("second"))).contains("already exists"));
        set_account_alias(tx, &other, Some("first")).unwrap();
        set_account_alias(tx, account, None).unwrap();
        assert_eq!(account_alias(tx, account).unwrap(), None);
    });
}
