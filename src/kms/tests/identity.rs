//! Users, groups, roles and sessions, and what they may do with keys.

use serde_json::{Value, json};

use super::*;
use crate::audit::Filter;
use crate::kms::identity::wire::*;
use crate::kms::identity::{IdentityErrorKind, IdentitySession};

const OTHER: &str = "111122223333";

fn root(bench: &Bench) -> IdentitySession {
    bench.kms.identity(Caller::root(ACCOUNT.parse().unwrap()))
}

fn root_of(bench: &Bench, account: &str) -> IdentitySession {
    bench.kms.identity(Caller::root(account.parse().unwrap()))
}

fn ask(session: &IdentitySession, operation: &str, body: Value) -> Result<Value, KmsError> {
    session.call_json(operation, body)
}

fn user(bench: &Bench, name: &str) {
    ask(&root(bench), "CreateUser", json!({"UserName": name})).unwrap();
}

fn document(statement: &Value) -> String {
    json!({"Version": "2012-10-17", "Statement": statement}).to_string()
}

fn allow(action: &str) -> String {
    document(&json!({"Effect": "Allow", "Action": action, "Resource": "*"}))
}

fn deny(action: &str) -> String {
    document(&json!({"Effect": "Deny", "Action": action, "Resource": "*"}))
}

fn put(bench: &Bench, name: &str, document: &str) {
    let body = json!({"UserName": name, "PolicyName": "p", "PolicyDocument": document});
    ask(&root(bench), "PutUserPolicy", body).unwrap();
}

fn session(bench: &Bench, who: &str) -> Session {
    bench.kms.session(bench.kms.caller(who).unwrap(), &region()).unwrap()
}

fn kind<T>(result: Result<T, KmsError>) -> Option<IdentityErrorKind> {
    match result.err()?.kind {
        KmsErrorKind::Identity(kind) => Some(kind),
        other => panic!("{other:?}"),
    }
}

fn denied<T>(result: Result<T, KmsError>) -> bool {
    result.is_err_and(|e| e.kind == KmsErrorKind::AccessDenied)
}

#[test]
fn a_first_user_is_made_with_its_key_or_not_at_all() {
    let bench = Bench::new();
    let admin = "arn:aws:iam::aws:policy/AdministratorAccess";
    let lost = |_: &AccessKey| Err::<(), _>(KmsError::new(KmsErrorKind::Internal, "the disk is full"));
    assert!(root(&bench).make_first_user("first", admin, lost).is_err());
    let names = || {
        let events = root(&bench).lookup_events(&Filter::default()).unwrap();
        events.iter().map(|found| found.event.event_name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ask(&root(&bench), "ListUsers", json!({})).unwrap()["Users"], json!([]));
    assert!(!names().iter().any(|name| name.starts_with("Create")), "{:?}", names());
    let mut secret = String::new();
    let id = root(&bench).make_first_user("first", admin, |key| {
        // It opens nothing before it is kept.
        assert!(bench.kms.credential(&key.access_key_id, None).is_err());
        key.secret_access_key.expose().clone_into(&mut secret);
        Ok::<_, KmsError>(key.access_key_id.clone())
    });
    let id = id.unwrap().unwrap();
    let credential = bench.kms.credential(&id, None).unwrap();
    assert_eq!(credential.caller.principal.arn(), format!("arn:aws:iam::{ACCOUNT}:user/first"));
    assert_eq!(names()[..3], ["CreateAccessKey", "AttachUserPolicy", "CreateUser"]);
    let log = format!("{:?}", root(&bench).lookup_events(&Filter::default()).unwrap());
    assert!(secret.len() == 40 && !log.contains(&secret));
    ask(&root(&bench), "CreateUser", json!({"UserName": "more"})).unwrap();
    // Somebody is there, of whichever account.
    let never = |_: &AccessKey| -> Result<(), KmsError> { panic!("made another") };
    assert_eq!(root_of(&bench, OTHER).make_first_user("second", admin, never).unwrap(), None);
}

#[test]
fn a_user_may_what_its_policy_says_and_no_more() {
    let bench = Bench::new();
    let key = make(&bench.session());
    user(&bench, "alice");
    let alice = session(&bench, "alice");
    let refused = encrypt(&alice, &key, b"x").unwrap_err();
    assert!(
        refused.message.ends_with("because no identity-based policy allows the kms:Encrypt action"),
        "{refused}"
    );
    put(&bench, "alice", &allow("kms:Encrypt"));
    let blob = encrypt(&alice, &key, b"x").unwrap();
    assert!(denied(decrypt(&alice, &blob)));
    put(&bench, "alice", &allow("kms:*"));
    assert_eq!(decrypt(&alice, &blob).unwrap(), b"x");
    assert_eq!(make(&alice).len(), 36);
}

#[test]
fn a_group_gives_its_policies_to_who_is_in_it() {
    let bench = Bench::new();
    let (iam, key) = (root(&bench), make(&bench.session()));
    user(&bench, "alice");
    ask(&iam, "CreateGroup", json!({"GroupName": "staff"})).unwrap();
    let body = json!({"GroupName": "staff", "PolicyName": "own", "PolicyDocument": allow("kms:Encrypt")});
    ask(&iam, "PutGroupPolicy", body).unwrap();
    let arn = "arn:aws:iam::aws:policy/AdministratorAccess";
    let alice = session(&bench, "alice");
    assert!(denied(encrypt(&alice, &key, b"x")));
    ask(&iam, "AddUserToGroup", json!({"GroupName": "staff", "UserName": "alice"})).unwrap();
    let blob = encrypt(&alice, &key, b"x").unwrap();
    assert!(denied(decrypt(&alice, &blob)));
    ask(&iam, "AttachGroupPolicy", json!({"GroupName": "staff", "PolicyArn": arn})).unwrap();
    assert!(decrypt(&alice, &blob).is_ok());
    // The user's own Deny beats what the group allows.
    put(&bench, "alice", &deny("kms:Decrypt"));
    assert!(denied(decrypt(&alice, &blob)));
    ask(&iam, "RemoveUserFromGroup", json!({"GroupName": "staff", "UserName": "alice"})).unwrap();
    assert!(denied(encrypt(&alice, &key, b"x")));
}

#[test]
fn a_boundary_limits_what_policies_give() {
    let bench = Bench::new();
    let (iam, key) = (root(&bench), make(&bench.session()));
    user(&bench, "alice");
    put(&bench, "alice", &allow("kms:*"));
    let alice = session(&bench, "alice");
    let blob = encrypt(&alice, &key, b"x").unwrap();
    let body = json!({"PolicyName": "most", "PolicyDocument": allow("kms:Decrypt")});
    let made = ask(&iam, "CreatePolicy", body).unwrap();
    let arn = made["Policy"]["Arn"].as_str().unwrap();
    let body = json!({"UserName": "alice", "PermissionsBoundary": arn});
    ask(&iam, "PutUserPermissionsBoundary", body).unwrap();
    let refused = encrypt(&alice, &key, b"x").unwrap_err().message;
    assert!(refused.ends_with("because no permissions boundary allows the kms:Encrypt action"), "{refused}");
    assert!(decrypt(&alice, &blob).is_ok());
    // A new default version counts at once.
    let body = json!({"PolicyArn": arn, "PolicyDocument": allow("kms:Encrypt"), "SetAsDefault": "true"});
    ask(&iam, "CreatePolicyVersion", body).unwrap();
    assert!(encrypt(&alice, &key, b"x").is_ok());
    assert!(denied(decrypt(&alice, &blob)));
    assert_eq!(
        kind(ask(&iam, "DeletePolicy", json!({"PolicyArn": arn}))),
        Some(IdentityErrorKind::DeleteConflict)
    );
    ask(&iam, "DeleteUserPermissionsBoundary", json!({"UserName": "alice"})).unwrap();
    assert!(decrypt(&alice, &blob).is_ok());
    let again = ask(&iam, "DeleteUserPermissionsBoundary", json!({"UserName": "alice"}));
    assert_eq!(kind(again), Some(IdentityErrorKind::NoSuchEntity));
}

#[test]
fn deleting_a_user_withdraws_everything_at_once_and_a_new_one_of_the_name_is_another() {
    let bench = Bench::new();
    let (iam, owner) = (root(&bench), bench.session());
    let key = make(&owner);
    user(&bench, "alice");
    put(&bench, "alice", &allow("kms:*"));
    let user_arn = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    let named = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Allow", "Principal": {"AWS": user_arn}, "Action": "kms:Decrypt", "Resource": "*"},
    ]});
    let request =
        PutKeyPolicyRequest { key_id: key.clone(), policy: named.to_string(), ..Default::default() };
    owner.call(request).unwrap();
    let alice = session(&bench, "alice");
    // As another process has it.
    let other = bench.another();
    let elsewhere = other.session(other.caller("alice").unwrap(), &region()).unwrap();
    let blob = encrypt(&alice, &key, b"x").unwrap();
    assert!(decrypt(&elsewhere, &blob).is_ok());
    let before = elsewhere.generation().unwrap();
    ask(&iam, "DeleteUserPolicy", json!({"UserName": "alice", "PolicyName": "p"})).unwrap();
    assert_ne!(elsewhere.generation().unwrap(), before);
    assert!(denied(encrypt(&elsewhere, &key, b"x")));
    assert!(decrypt(&elsewhere, &blob).is_ok(), "the key's policy names the user");
    ask(&iam, "DeleteUser", json!({"UserName": "alice"})).unwrap();
    for session in [&alice, &elsewhere] {
        assert!(denied(decrypt(session, &blob)));
        assert!(denied(session.call(ListKeysRequest::default())));
    }
    user(&bench, "alice");
    put(&bench, "alice", &allow("kms:*"));
    assert!(denied(decrypt(&alice, &blob)));
    assert!(decrypt(&session(&bench, "alice"), &blob).is_ok());
}

#[test]
fn across_accounts_both_sides_must_allow() {
    let bench = Bench::new();
    let owner = bench.session();
    let key = make(&owner);
    let arn = metadata(&owner, &key).arn;
    let iam = root_of(&bench, OTHER);
    ask(&iam, "CreateUser", json!({"UserName": "bob"})).unwrap();
    let bob_arn = format!("arn:aws:iam::{OTHER}:user/bob");
    let bob = session(&bench, &bob_arn);
    let trust = |who: &str| {
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "kms:*", "Resource": "*"},
            {"Effect": "Allow", "Principal": {"AWS": who}, "Action": "kms:Encrypt", "Resource": "*"},
        ]});
        let request =
            PutKeyPolicyRequest { key_id: key.clone(), policy: policy.to_string(), ..Default::default() };
        owner.call(request)
    };
    let give = |document: &str| {
        let body = json!({"UserName": "bob", "PolicyName": "p", "PolicyDocument": document});
        ask(&iam, "PutUserPolicy", body).unwrap();
    };
    give(&allow("kms:Encrypt"));
    assert!(denied(encrypt(&bob, &arn, b"x")), "the key's side says nothing");
    for who in [OTHER, &bob_arn] {
        trust(who).unwrap();
        assert!(encrypt(&bob, &arn, b"x").is_ok(), "{who}");
        give(&allow("kms:Decrypt"));
        assert!(denied(encrypt(&bob, &arn, b"x")), "the user's side says nothing");
        give(&allow("kms:Encrypt"));
    }
    let nobody = trust(&format!("arn:aws:iam::{OTHER}:user/nobody")).unwrap_err();
    assert_eq!(nobody.kind, KmsErrorKind::MalformedPolicyDocument);
    assert_eq!(nobody.message, "Policy contains a statement with one or more invalid principals.");
    // Of an account without users or roles here nothing is known.
    trust("arn:aws:iam::999988887777:user/somebody").unwrap();
}

#[test]
fn conditions_see_tags_ids_and_names_of_the_caller() {
    let bench = Bench::new();
    let (iam, key) = (root(&bench), make(&bench.session()));
    let body = json!({"UserName": "alice", "Tags": [{"Key": "team", "Value": "red"}]});
    let made = ask(&iam, "CreateUser", body).unwrap();
    let id = made["User"]["UserId"].as_str().unwrap();
    assert!(id.starts_with("AIDA") && id.len() == 21, "{id}");
    let alice = session(&bench, "alice");
    for (condition, expected) in [
        (json!({"StringEquals": {"aws:PrincipalTag/team": "red"}}), true),
        (json!({"StringEquals": {"aws:PrincipalTag/team": "blue"}}), false),
        (json!({"StringEquals": {"aws:userid": id}}), true),
        (json!({"StringEquals": {"aws:username": "alice", "aws:PrincipalType": "User"}}), true),
        (json!({"Null": {"aws:TokenIssueTime": "true", "aws:MultiFactorAuthPresent": "true"}}), true),
        (json!({"StringEquals": {"kms:EncryptionContext:owner": "${aws:username}"}}), true),
        (json!({"StringEquals": {"kms:EncryptionContext:owner": "${aws:userid}"}}), false),
    ] {
        let statement =
            json!({"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*", "Condition": condition});
        put(&bench, "alice", &document(&statement));
        let request = EncryptRequest {
            key_id: key.clone(),
            plaintext: crate::crypto::SecretVec::new(b"x".to_vec()),
            encryption_context: context(&[("owner", "alice")]),
            ..Default::default()
        };
        assert_eq!(alice.call(request).is_ok(), expected, "{condition}");
    }
    let body = json!({"UserName": "alice", "Tags": [{"Key": "team", "Value": "blue"}]});
    ask(&iam, "TagUser", body).unwrap();
    let tags = ask(&iam, "ListUserTags", json!({"UserName": "alice"})).unwrap();
    assert_eq!(tags["Tags"], json!([{"Key": "team", "Value": "blue"}]));
}

#[test]
fn iam_itself_is_allowed_by_policies_and_recorded_also_where_it_is_denied() {
    let bench = Bench::new();
    let iam = root(&bench);
    user(&bench, "alice");
    let alice = bench.kms.identity(bench.kms.caller("alice").unwrap());
    let refused = ask(&alice, "CreateUser", json!({"UserName": "bob", "Path": "/people/"})).unwrap_err();
    assert_eq!(refused.kind, KmsErrorKind::Identity(IdentityErrorKind::AccessDenied));
    assert_eq!(
        refused.message,
        format!(
            "User: arn:aws:iam::{ACCOUNT}:user/alice is not authorized to perform: iam:CreateUser on resource: \
             arn:aws:iam::{ACCOUNT}:user/people/bob because no identity-based policy allows the iam:CreateUser action"
        )
    );
    let statement = json!({
        "Effect": "Allow", "Action": "iam:*", "Resource": format!("arn:aws:iam::{ACCOUNT}:user/people/*")
    });
    put(&bench, "alice", &document(&statement));
    ask(&alice, "CreateUser", json!({"UserName": "bob", "Path": "/people/"})).unwrap();
    assert_eq!(kind(ask(&alice, "GetUser", json!({}))), Some(IdentityErrorKind::AccessDenied));
    assert!(ask(&alice, "GetUser", json!({"UserName": "bob"})).is_ok());
    let found = iam
        .lookup_events(&Filter { event_name: Some("CreateUser".to_owned()), ..Filter::default() })
        .unwrap();
    let events: Vec<Value> = found.iter().map(|f| serde_json::from_str(&f.json).unwrap()).collect();
    assert_eq!(events.len(), 3);
    assert_eq!(events[0]["eventSource"], "iam.amazonaws.com");
    assert_eq!(events[0]["userIdentity"]["userName"], "alice");
    assert_eq!(events[0]["userIdentity"]["type"], "IAMUser");
    assert!(events[0]["userIdentity"]["principalId"].as_str().unwrap().starts_with("AIDA"));
    assert_eq!(events[0]["requestParameters"], json!({"userName": "bob", "path": "/people/"}));
    assert_eq!(events[0]["responseElements"]["user"]["userName"], "bob");
    assert_eq!(events[1]["errorCode"], "AccessDenied");
    assert_eq!(events[1]["responseElements"], Value::Null);
    assert!(iam.verify_log(None).unwrap().unwrap().sequence >= 6);
}

#[test]
fn access_keys_are_found_until_they_are_switched_off() {
    let bench = Bench::new();
    let iam = root(&bench);
    user(&bench, "alice");
    let made = iam.call(CreateAccessKeyRequest { user_name: Some("alice".to_owned()) }).unwrap().access_key;
    assert!(made.access_key_id.starts_with("AKIA") && made.access_key_id.len() == 20);
    assert_eq!(made.secret_access_key.expose().len(), 40);
    let credential = bench.kms.credential(&made.access_key_id, None).unwrap();
    assert_eq!(credential.secret.expose(), made.secret_access_key.expose().as_bytes());
    assert_eq!(credential.caller.principal.arn(), format!("arn:aws:iam::{ACCOUNT}:user/alice"));
    let unknown = Some(IdentityErrorKind::InvalidClientTokenId);
    assert_eq!(kind(bench.kms.credential("AKIAAAAAAAAAAAAAAAAA", None)), unknown);
    assert_eq!(kind(bench.kms.credential(&made.access_key_id, Some("AQ=="))), unknown);
    let update = |status: &str| {
        let body = json!({"UserName": "alice", "AccessKeyId": made.access_key_id, "Status": status});
        ask(&iam, "UpdateAccessKey", body).unwrap();
    };
    update("Inactive");
    // Another process sees it at once.
    assert_eq!(kind(bench.another().credential(&made.access_key_id, None)), unknown);
    assert_eq!(kind(bench.kms.credential(&made.access_key_id, None)), unknown);
    update("Active");
    assert!(bench.kms.credential(&made.access_key_id, None).is_ok());
    let delete_user = || ask(&iam, "DeleteUser", json!({"UserName": "alice"}));
    assert_eq!(kind(delete_user()), Some(IdentityErrorKind::DeleteConflict));
    iam.call(CreateAccessKeyRequest { user_name: Some("alice".to_owned()) }).unwrap();
    let third = iam.call(CreateAccessKeyRequest { user_name: Some("alice".to_owned()) });
    assert_eq!(kind(third), Some(IdentityErrorKind::LimitExceeded));
    // What a key signs is told by its id, and the secret stands in no event.
    let alice = bench.kms.identity(credential.caller);
    let own = ask(&alice, "GetCallerIdentity", json!({})).unwrap();
    assert_eq!(own["Arn"], format!("arn:aws:iam::{ACCOUNT}:user/alice"));
    let all = iam.lookup_events(&Filter { limit: Some(1000), ..Filter::default() }).unwrap();
    assert!(all[0].json.contains(&made.access_key_id), "{}", all[0].json);
    assert!(all.iter().all(|found| !found.json.contains(made.secret_access_key.expose())));
    let body = json!({"UserName": "alice", "AccessKeyId": made.access_key_id});
    ask(&iam, "DeleteAccessKey", body).unwrap();
    assert_eq!(kind(bench.kms.credential(&made.access_key_id, None)), unknown);
}

#[test]
fn roots_access_key_is_the_accounts() {
    let bench = Bench::new();
    let made = root(&bench).call(CreateAccessKeyRequest::default()).unwrap().access_key;
    let credential = bench.kms.credential(&made.access_key_id, None).unwrap();
    assert_eq!(credential.caller.principal.arn(), format!("arn:aws:iam::{ACCOUNT}:root"));
    assert!(
        bench.kms.session(credential.caller, &region()).unwrap().call(CreateKeyRequest::default()).is_ok()
    );
}

#[test]
fn a_home_without_identities_has_no_directory_of_them() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    encrypt(&session, &key, b"x").unwrap();
    session.generation().unwrap();
    let path = bench.dir.path().join("home/iam");
    assert!(!path.exists());
    assert_eq!(kind(bench.kms.caller("alice")), Some(IdentityErrorKind::NoSuchEntity));
    assert!(!path.exists());
    user(&bench, "alice");
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in ["root.key", "store.db", "generation"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
    assert_eq!(bench.kms.home().regions().unwrap(), [region()]);
    // A process that began before sees it.
    assert!(encrypt(&session, &key, b"x").is_ok());
    assert!(bench.another().caller("alice").is_ok());
}

#[test]
fn a_change_that_was_acknowledged_is_in_every_decision_after_it() {
    let bench = Bench::new();
    let key = make(&bench.session());
    user(&bench, "alice");
    put(&bench, "alice", &allow("kms:*"));
    // Several processes, each busy with calls of alice's while her policy comes and goes.
    let services: Vec<_> = (0..2).map(|_| bench.another()).collect();
    let sessions: Vec<Session> =
        services.iter().map(|kms| kms.session(kms.caller("alice").unwrap(), &region()).unwrap()).collect();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for session in &sessions {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    // Allowed or denied: either may be at this moment, but nothing else.
                    let answer = encrypt(session, &key, b"x");
                    assert!(answer.is_ok() || denied(answer));
                }
            });
        }
        for _ in 0..30 {
            put(&bench, "alice", &deny("kms:*"));
            for session in &sessions {
                assert!(denied(encrypt(session, &key, b"x")));
            }
            put(&bench, "alice", &allow("kms:*"));
            for session in &sessions {
                assert!(encrypt(session, &key, b"x").is_ok());
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(bench.session().verify_log(None).is_ok());
    assert!(root(&bench).verify_log(None).is_ok());
}

#[test]
fn a_generation_that_a_crash_left_ahead_of_the_directory_hinders_nobody() {
    let bench = Bench::new();
    let key = make(&bench.session());
    user(&bench, "alice");
    put(&bench, "alice", &allow("kms:*"));
    let alice = session(&bench, "alice");
    assert!(encrypt(&alice, &key, b"x").is_ok());
    // As if somebody had been killed between the file and the commit.
    let path = bench.dir.path().join("home/iam/generation");
    let before = u64::from_le_bytes(std::fs::read(&path).unwrap().try_into().unwrap());
    std::fs::write(&path, (before + 5).to_le_bytes()).unwrap();
    assert!(encrypt(&alice, &key, b"x").is_ok());
    put(&bench, "alice", &deny("kms:*"));
    assert!(denied(encrypt(&alice, &key, b"x")));
    let after = u64::from_le_bytes(std::fs::read(&path).unwrap().try_into().unwrap());
    assert!(after > before + 5);
}

#[test]
fn a_grant_is_for_somebody_who_is_there() {
    let bench = Bench::new();
    let owner = bench.session();
    let key = make(&owner);
    let grantee = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    let grant = || {
        json(
            &owner,
            "CreateGrant",
            json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": ["Encrypt"]}),
        )
    };
    user(&bench, "bob");
    assert_eq!(grant().unwrap_err().kind, KmsErrorKind::InvalidArn);
    user(&bench, "alice");
    grant().unwrap();
    let alice = session(&bench, "alice");
    assert!(encrypt(&alice, &key, b"x").is_ok());
    // A Deny of the user's own beats the grant; a boundary does not narrow it.
    put(&bench, "alice", &deny("kms:Encrypt"));
    assert!(denied(encrypt(&alice, &key, b"x")));
    put(&bench, "alice", &allow("iam:*"));
    let body =
        json!({"UserName": "alice", "PermissionsBoundary": "arn:aws:iam::aws:policy/IAMReadOnlyAccess"});
    ask(&root(&bench), "PutUserPermissionsBoundary", body).unwrap();
    assert!(encrypt(&alice, &key, b"x").is_ok());
    put(&bench, "alice", &allow("iam:Get*"));
    ask(&root(&bench), "DeleteUserPolicy", json!({"UserName": "alice", "PolicyName": "p"})).unwrap();
    ask(&root(&bench), "DeleteUser", json!({"UserName": "alice"})).unwrap();
    assert!(denied(encrypt(&alice, &key, b"x")));
}
