//! Roles, the sessions of those who assume them, and tokens.

use serde_json::{Value, json};

use super::*;
use crate::audit::Filter;
use crate::kms::identity::wire::*;
use crate::kms::identity::{Credential, IdentityErrorKind, IdentitySession};

const OTHER: &str = "111122223333";

fn root_of(bench: &Bench, account: &str) -> IdentitySession {
    bench.kms.identity(Caller::root(account.parse().unwrap()))
}

fn ask(session: &IdentitySession, operation: &str, body: Value) -> Result<Value, KmsError> {
    session.call_json(operation, body)
}

fn document(statement: &Value) -> String {
    json!({"Version": "2012-10-17", "Statement": statement}).to_string()
}

fn allow(action: &str) -> String {
    document(&json!({"Effect": "Allow", "Action": action, "Resource": "*"}))
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

fn role_arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{name}")
}

fn trust(who: &str) -> Value {
    json!({"Effect": "Allow", "Principal": {"AWS": who}, "Action": "sts:AssumeRole"})
}

/// A bench with the user alice and the role keeper, which alice may assume and which may use keys.
struct Stage {
    bench: Bench,
    iam: IdentitySession,
    key: String,
}

impl Stage {
    fn new() -> Self {
        let bench = Bench::new();
        let (iam, key) = (root_of(&bench, ACCOUNT), make(&bench.session()));
        ask(&iam, "CreateUser", json!({"UserName": "alice"})).unwrap();
        let stage = Self { bench, iam, key };
        let alice = format!("arn:aws:iam::{ACCOUNT}:user/alice");
        stage.role("keeper", &trust(&alice));
        stage
    }

    fn role(&self, name: &str, statement: &Value) {
        let body = json!({"RoleName": name, "AssumeRolePolicyDocument": document(statement)});
        ask(&self.iam, "CreateRole", body).unwrap();
        let body = json!({"RoleName": name, "PolicyName": "keys", "PolicyDocument": allow("kms:*")});
        ask(&self.iam, "PutRolePolicy", body).unwrap();
    }

    fn retrust(&self, statement: &Value) {
        let body = json!({"RoleName": "keeper", "PolicyDocument": document(statement)});
        ask(&self.iam, "UpdateAssumeRolePolicy", body).unwrap();
    }

    fn alice(&self) -> IdentitySession {
        self.bench.kms.identity(self.bench.kms.caller("alice").unwrap())
    }

    fn assume(&self, who: &IdentitySession, more: Value) -> Result<AssumeRoleResponse, KmsError> {
        let mut body = json!({"RoleArn": role_arn("keeper"), "RoleSessionName": "work"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        who.call(serde_json::from_value::<AssumeRoleRequest>(body).unwrap())
    }

    /// As a request that is signed with these comes in.
    fn credential(&self, credentials: &Credentials) -> Result<Credential, KmsError> {
        self.bench.kms.credential(&credentials.access_key_id, Some(&credentials.session_token))
    }

    fn session(&self, credentials: &Credentials) -> Session {
        self.bench.kms.session(self.credential(credentials).unwrap().caller, &region()).unwrap()
    }

    fn events(&self, name: &str) -> Vec<Value> {
        let filter = Filter { event_name: Some(name.to_owned()), ..Filter::default() };
        let found = self.iam.lookup_events(&filter).unwrap();
        found.iter().map(|f| serde_json::from_str(&f.json).unwrap()).collect()
    }
}

#[test]
fn a_session_has_what_its_role_has_until_it_is_over() {
    let stage = Stage::new();
    let answer = stage.assume(&stage.alice(), json!({"DurationSeconds": "900"})).unwrap();
    assert_eq!(answer.assumed_role_user.arn, format!("arn:aws:sts::{ACCOUNT}:assumed-role/keeper/work"));
    assert!(answer.assumed_role_user.assumed_role_id.starts_with("AROA"));
    assert!(answer.assumed_role_user.assumed_role_id.ends_with(":work"));
    assert_eq!(answer.credentials.expiration, "2027-01-15T08:15:00Z");
    assert!(answer.credentials.access_key_id.starts_with("ASIA"));
    let credential = stage.credential(&answer.credentials).unwrap();
    assert_eq!(credential.secret.expose(), answer.credentials.secret_access_key.expose().as_bytes());
    let session = stage.session(&answer.credentials);
    assert!(encrypt(&session, &stage.key, b"x").is_ok());
    // What the key service records of it.
    let filter = Filter { event_name: Some("Encrypt".to_owned()), ..Filter::default() };
    let found = session.lookup_events(&filter).unwrap();
    let event: Value = serde_json::from_str(&found[0].json).unwrap();
    let who = &event["userIdentity"];
    assert_eq!(who["type"], "AssumedRole");
    assert_eq!(who["principalId"], answer.assumed_role_user.assumed_role_id.as_str());
    assert_eq!(who["accessKeyId"], answer.credentials.access_key_id.as_str());
    assert_eq!(who["sessionContext"]["sessionIssuer"]["arn"], role_arn("keeper"));
    assert_eq!(who["sessionContext"]["sessionIssuer"]["userName"], "keeper");
    assert_eq!(who["sessionContext"]["attributes"]["creationDate"], "2027-01-15T08:00:00Z");
    let begun = &stage.events("AssumeRole")[0];
    assert_eq!(begun["eventSource"], "sts.amazonaws.com");
    assert_eq!(begun["resources"][0]["ARN"], role_arn("keeper"));
    assert_eq!(
        begun["responseElements"]["credentials"]["accessKeyId"],
        answer.credentials.access_key_id.as_str()
    );
    let text = begun.to_string();
    assert!(!text.contains(answer.credentials.secret_access_key.expose()));
    assert!(!text.contains(&answer.credentials.session_token));
    // The end, to the second.
    *stage.bench.clock.0.lock() += SignedDuration::from_secs(899);
    assert!(stage.credential(&answer.credentials).is_ok());
    *stage.bench.clock.0.lock() += SignedDuration::from_secs(1);
    assert_eq!(kind(stage.credential(&answer.credentials)), Some(IdentityErrorKind::ExpiredToken));
    // Whoever holds an open session of it has nothing any more either.
    assert!(denied(encrypt(&session, &stage.key, b"x")));
}

#[test]
fn a_token_that_was_changed_or_is_anothers_counts_for_nothing() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let stage = Stage::new();
    let one = stage.assume(&stage.alice(), json!({})).unwrap().credentials;
    let two = stage.assume(&stage.alice(), json!({})).unwrap().credentials;
    let unknown = Some(IdentityErrorKind::InvalidClientTokenId);
    assert_eq!(kind(stage.bench.kms.credential(&one.access_key_id, Some(&two.session_token))), unknown);
    assert_eq!(kind(stage.bench.kms.credential(&one.access_key_id, None)), unknown);
    let bytes = STANDARD.decode(&one.session_token).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let token = STANDARD.encode(&changed);
        assert_eq!(kind(stage.bench.kms.credential(&one.access_key_id, Some(&token))), unknown, "{at}");
    }
    for token in ["", "x", "AQ==", &one.session_token[..40]] {
        assert_eq!(kind(stage.bench.kms.credential(&one.access_key_id, Some(token))), unknown, "{token}");
    }
    // A token of another home.
    let elsewhere = Stage::new();
    assert_eq!(kind(elsewhere.credential(&one)), unknown);
    assert!(stage.credential(&one).is_ok());
}

#[test]
fn who_may_assume_a_role_is_its_trust_policys_and_the_callers_own_to_say() {
    let stage = Stage::new();
    let alice = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    // Named in the same account: that is enough.
    assert!(stage.assume(&stage.alice(), json!({})).is_ok());
    // The account: the user's own policy must say so too.
    stage.retrust(&trust(ACCOUNT));
    let refused = stage.assume(&stage.alice(), json!({})).err().unwrap();
    assert_eq!(
        refused.message,
        format!(
            "User: {alice} is not authorized to perform: sts:AssumeRole on resource: {}",
            role_arn("keeper")
        )
    );
    // Its event has the true reason.
    let reason = stage.events("AssumeRole")[0]["errorMessage"].as_str().unwrap().to_owned();
    assert!(
        reason.ends_with("because no identity-based policy allows the sts:AssumeRole action"),
        "{reason}"
    );
    let body = json!({"UserName": "alice", "PolicyName": "p", "PolicyDocument": allow("sts:AssumeRole")});
    ask(&stage.iam, "PutUserPolicy", body).unwrap();
    assert!(stage.assume(&stage.alice(), json!({})).is_ok());
    // The same words where there is no such role.
    let body = json!({"RoleArn": role_arn("nothing"), "RoleSessionName": "work"});
    let missing = ask(&stage.alice(), "AssumeRole", body).unwrap_err();
    assert_eq!(missing.message, refused.message.replace("keeper", "nothing"));
    // Nobody who is not named.
    ask(&stage.iam, "CreateUser", json!({"UserName": "bob"})).unwrap();
    stage.retrust(&trust(&format!("arn:aws:iam::{ACCOUNT}:user/bob")));
    assert_eq!(kind(stage.assume(&stage.alice(), json!({}))), Some(IdentityErrorKind::AccessDenied));
    let root = stage.assume(&stage.iam, json!({})).err().unwrap();
    assert_eq!(root.message, "Roles may not be assumed by root accounts.");
    // Across accounts both sides.
    let theirs = root_of(&stage.bench, OTHER);
    ask(&theirs, "CreateUser", json!({"UserName": "carol"})).unwrap();
    let carol = format!("arn:aws:iam::{OTHER}:user/carol");
    let session = stage.bench.kms.identity(stage.bench.kms.caller(&carol).unwrap());
    stage.retrust(&trust(&carol));
    assert_eq!(kind(stage.assume(&session, json!({}))), Some(IdentityErrorKind::AccessDenied));
    let body = json!({"UserName": "carol", "PolicyName": "p", "PolicyDocument": allow("sts:*")});
    ask(&theirs, "PutUserPolicy", body).unwrap();
    assert!(stage.assume(&session, json!({})).is_ok());
    // Both accounts' logs have it; the owner's has none of what was denied.
    let newest = &stage.events("AssumeRole")[0];
    assert_eq!(newest["userIdentity"]["arn"], carol);
    assert_eq!(newest["errorCode"], Value::Null);
}

#[test]
fn the_external_id_must_be_the_one_agreed_on() {
    let stage = Stage::new();
    let mut statement = trust(&format!("arn:aws:iam::{ACCOUNT}:user/alice"));
    statement["Condition"] = json!({"StringEquals": {"sts:ExternalId": "agreed-7"}});
    stage.retrust(&statement);
    let alice = stage.alice();
    assert!(stage.assume(&alice, json!({"ExternalId": "agreed-7"})).is_ok());
    for body in [json!({}), json!({"ExternalId": "agreed-8"})] {
        assert_eq!(kind(stage.assume(&alice, body)), Some(IdentityErrorKind::AccessDenied));
    }
}

#[test]
fn session_policies_narrow_a_session_and_give_nothing() {
    let stage = Stage::new();
    let alice = stage.alice();
    let narrow = stage.assume(&alice, json!({"Policy": allow("kms:Encrypt")})).unwrap();
    assert!(narrow.packed_policy_size.is_some());
    let session = stage.session(&narrow.credentials);
    let blob = encrypt(&session, &stage.key, b"x").unwrap();
    let refused = session.call(ListKeysRequest::default()).unwrap_err().message;
    assert!(refused.ends_with("because no session policy allows the kms:ListKeys action"), "{refused}");
    let wide = stage.assume(&alice, json!({"Policy": allow("iam:*")})).unwrap();
    let session = stage.bench.kms.identity(stage.credential(&wide.credentials).unwrap().caller);
    assert_eq!(kind(ask(&session, "ListUsers", json!({}))), Some(IdentityErrorKind::AccessDenied));
    // A managed policy, by its ARN; when it goes it allows nothing.
    let body = json!({"PolicyName": "reading", "PolicyDocument": allow("kms:Decrypt")});
    let made = ask(&stage.iam, "CreatePolicy", body).unwrap();
    let arn = made["Policy"]["Arn"].clone();
    let narrow = stage.assume(&alice, json!({"PolicyArns": [{"arn": arn}]})).unwrap();
    let session = stage.session(&narrow.credentials);
    assert!(decrypt(&session, &blob).is_ok());
    assert!(denied(encrypt(&session, &stage.key, b"x")));
    ask(&stage.iam, "DeletePolicy", json!({"PolicyArn": arn})).unwrap();
    assert!(denied(decrypt(&session, &blob)));
    let gone = stage.assume(&alice, json!({"PolicyArns": [{"arn": arn}]}));
    assert_eq!(kind(gone), Some(IdentityErrorKind::NoSuchEntity));
    let bad = stage.assume(&alice, json!({"Policy": "{}"}));
    assert_eq!(kind(bad), Some(IdentityErrorKind::MalformedPolicyDocument));
}

#[test]
fn a_session_lasts_as_long_as_its_role_allows_and_a_chained_one_an_hour() {
    let stage = Stage::new();
    let alice = stage.alice();
    let invalid = Some(IdentityErrorKind::Validation);
    assert_eq!(kind(stage.assume(&alice, json!({"DurationSeconds": 899}))), invalid);
    assert_eq!(kind(stage.assume(&alice, json!({"DurationSeconds": 3601}))), invalid);
    ask(&stage.iam, "UpdateRole", json!({"RoleName": "keeper", "MaxSessionDuration": 43200})).unwrap();
    assert!(stage.assume(&alice, json!({"DurationSeconds": 43200})).is_ok());
    assert_eq!(kind(stage.assume(&alice, json!({"DurationSeconds": 43201}))), invalid);
    stage.role("first", &trust(&format!("arn:aws:iam::{ACCOUNT}:user/alice")));
    stage.retrust(&trust(&role_arn("first")));
    let body = json!({"RoleArn": role_arn("first"), "RoleSessionName": "one"});
    let first = alice.call(serde_json::from_value::<AssumeRoleRequest>(body).unwrap()).unwrap();
    let chained = stage.bench.kms.identity(stage.credential(&first.credentials).unwrap().caller);
    assert!(stage.assume(&chained, json!({"DurationSeconds": 3600})).is_ok());
    let longer = stage.assume(&chained, json!({"DurationSeconds": 3601})).err().unwrap();
    assert!(longer.message.contains("role chaining"), "{longer}");
}

#[test]
fn tags_of_a_session_count_and_transitive_ones_go_down_a_chain() {
    let stage = Stage::new();
    let user = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    let statement = |who: &str| json!({"Effect": "Allow", "Principal": {"AWS": who}, "Action": ["sts:AssumeRole", "sts:TagSession"]});
    let tags = json!({"Tags": [{"Key": "team", "Value": "red"}], "TransitiveTagKeys": ["team"]});
    assert_eq!(kind(stage.assume(&stage.alice(), tags.clone())), Some(IdentityErrorKind::AccessDenied));
    stage.retrust(&statement(&user));
    let first = stage.assume(&stage.alice(), tags).unwrap();
    let condition = json!({"StringEquals": {"aws:PrincipalTag/team": "red"}});
    stage.role("second", &statement(&role_arn("keeper")));
    let only_red =
        document(&json!({"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": condition}));
    for name in ["keeper", "second"] {
        let body = json!({"RoleName": name, "PolicyName": "keys", "PolicyDocument": only_red});
        ask(&stage.iam, "PutRolePolicy", body).unwrap();
    }
    assert!(encrypt(&stage.session(&first.credentials), &stage.key, b"x").is_ok());
    let untagged = stage.assume(&stage.alice(), json!({})).unwrap();
    assert!(denied(encrypt(&stage.session(&untagged.credentials), &stage.key, b"x")));
    let caller = stage.credential(&first.credentials).unwrap().caller;
    let body = json!({"RoleArn": role_arn("second"), "RoleSessionName": "two"});
    let request: AssumeRoleRequest = serde_json::from_value(body).unwrap();
    let second = stage.bench.kms.identity(caller).call(request).unwrap();
    assert!(encrypt(&stage.session(&second.credentials), &stage.key, b"x").is_ok());
}

#[test]
fn deleting_a_role_ends_its_sessions_at_once() {
    let stage = Stage::new();
    let answer = stage.assume(&stage.alice(), json!({})).unwrap();
    let session = stage.session(&answer.credentials);
    assert!(encrypt(&session, &stage.key, b"x").is_ok());
    ask(&stage.iam, "DeleteRolePolicy", json!({"RoleName": "keeper", "PolicyName": "keys"})).unwrap();
    ask(&stage.iam, "DeleteRole", json!({"RoleName": "keeper"})).unwrap();
    let unknown = Some(IdentityErrorKind::InvalidClientTokenId);
    assert_eq!(kind(stage.credential(&answer.credentials)), unknown);
    stage.role("keeper", &trust(&format!("arn:aws:iam::{ACCOUNT}:user/alice")));
    assert_eq!(kind(stage.credential(&answer.credentials)), unknown);
    assert!(denied(encrypt(&session, &stage.key, b"x")));
}

#[test]
fn a_session_of_a_user_is_the_user_but_not_at_iam() {
    let stage = Stage::new();
    let body = json!({"UserName": "alice", "PolicyName": "p", "PolicyDocument": allow("*")});
    ask(&stage.iam, "PutUserPolicy", body).unwrap();
    let answer = stage.alice().call(GetSessionTokenRequest::default()).unwrap();
    let caller = stage.credential(&answer.credentials).unwrap().caller;
    assert!(encrypt(&stage.session(&answer.credentials), &stage.key, b"x").is_ok());
    let session = stage.bench.kms.identity(caller);
    let own = session.call(GetCallerIdentityRequest::default()).unwrap();
    assert_eq!(own.arn, format!("arn:aws:iam::{ACCOUNT}:user/alice"));
    assert!(own.user_id.starts_with("AIDA"), "{}", own.user_id);
    assert_eq!(kind(ask(&session, "ListUsers", json!({}))), Some(IdentityErrorKind::InvalidClientTokenId));
    let again = session.call(GetSessionTokenRequest::default());
    assert_eq!(kind(again), Some(IdentityErrorKind::AccessDenied));
    assert!(stage.assume(&session, json!({})).is_ok());
}

#[test]
fn the_command_line_names_users_roles_and_sessions_that_are_there() {
    let stage = Stage::new();
    let kms = &stage.bench.kms;
    let arn = |text: &str| kms.caller(text).map(|caller| caller.principal.arn());
    let body = json!({"UserName": "bob", "Path": "/people/"});
    ask(&stage.iam, "CreateUser", body).unwrap();
    for (named, is) in [
        ("alice".to_owned(), format!("arn:aws:iam::{ACCOUNT}:user/alice")),
        ("bob".to_owned(), format!("arn:aws:iam::{ACCOUNT}:user/people/bob")),
        ("people/bob".to_owned(), format!("arn:aws:iam::{ACCOUNT}:user/people/bob")),
        (role_arn("keeper"), format!("arn:aws:sts::{ACCOUNT}:assumed-role/keeper/kmsfs")),
        (
            format!("arn:aws:sts::{ACCOUNT}:assumed-role/keeper/night"),
            format!("arn:aws:sts::{ACCOUNT}:assumed-role/keeper/night"),
        ),
        (format!("arn:aws:iam::{OTHER}:root"), format!("arn:aws:iam::{OTHER}:root")),
    ] {
        assert_eq!(arn(&named).unwrap(), is, "{named}");
    }
    let missing = Some(IdentityErrorKind::NoSuchEntity);
    for named in [
        "carol".to_owned(),
        "Alice".to_owned(),
        "other/bob".to_owned(),
        format!("arn:aws:iam::{ACCOUNT}:user/bob"),
        format!("arn:aws:iam::{OTHER}:user/alice"),
        role_arn("nothing"),
    ] {
        assert_eq!(kind(arn(&named)), missing, "{named}");
    }
    assert_eq!(kind(arn("arn:aws:iam::000000000000:group/g")), Some(IdentityErrorKind::Validation));
    // A session without end of the role.
    let session = kms.session(kms.caller(&role_arn("keeper")).unwrap(), &region()).unwrap();
    stage.bench.clock.days(30);
    assert!(encrypt(&session, &stage.key, b"x").is_ok());
}

#[test]
fn a_simulation_decides_as_a_request_would_and_says_by_what() {
    let stage = Stage::new();
    let alice = stage.bench.kms.session(stage.bench.kms.caller("alice").unwrap(), &region()).unwrap();
    let arn = metadata(&stage.bench.session(), &stage.key).arn;
    let no_pairs = EncryptionContext::new();
    let nothing = alice.simulate("kms:Encrypt", &arn, &[], &no_pairs).unwrap();
    assert!(!nothing.allowed && nothing.grounds.is_empty());
    assert_eq!(nothing.words, encrypt(&alice, &arn, b"x").unwrap_err().message);
    let statement = json!({
        "Sid": "Department", "Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*",
        "Condition": {"StringEquals": {"kms:EncryptionContext:department": "finance"}}
    });
    let body = json!({"UserName": "alice", "PolicyName": "work", "PolicyDocument": document(&statement)});
    ask(&stage.iam, "PutUserPolicy", body).unwrap();
    let before = alice.lookup_events(&Filter { limit: Some(1000), ..Filter::default() }).unwrap().len();
    assert!(!alice.simulate("kms:Encrypt", &arn, &[], &no_pairs).unwrap().allowed);
    let given = [("kms:EncryptionContext:department".to_owned(), vec!["finance".to_owned()])];
    let found = alice.simulate("kms:Encrypt", &arn, &given, &no_pairs).unwrap();
    assert!(found.allowed, "{}", found.words);
    assert_eq!(
        found.grounds,
        [
            "statement 1 (\"Enable IAM User Permissions\") of the resource-based policy default",
            "statement 1 (\"Department\") of the identity-based policy work of the user alice"
        ]
    );
    let body = json!({"UserName": "alice", "PolicyName": "no", "PolicyDocument":
        document(&json!({"Sid": "Never", "Effect": "Deny", "Action": "kms:*", "Resource": "*"}))});
    ask(&stage.iam, "PutUserPolicy", body).unwrap();
    let found = alice.simulate("kms:Encrypt", &arn, &given, &no_pairs).unwrap();
    assert!(!found.allowed && found.words.ends_with("with an explicit deny in an identity-based policy"));
    assert_eq!(found.grounds, ["statement 1 (\"Never\") of the identity-based policy no of the user alice"]);
    assert!(!alice.simulate("iam:CreateUser", "*", &[], &no_pairs).unwrap().allowed);
    assert!(stage.bench.session().simulate("iam:CreateUser", "*", &[], &no_pairs).unwrap().allowed);
    assert_eq!(
        alice.simulate("kms:Nothing", &arn, &[], &no_pairs).unwrap_err().kind,
        KmsErrorKind::Validation
    );
    // Nothing of it is recorded, but the PutUserPolicy between.
    let after = alice.lookup_events(&Filter { limit: Some(1000), ..Filter::default() }).unwrap().len();
    assert_eq!(before + 1, after);
}

#[test]
fn the_query_protocol_is_understood() {
    let stage = Stage::new();
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let body = pairs(&[
        ("Action", "CreateRole"),
        ("RoleName", "r"),
        ("MaxSessionDuration", "7200"),
        ("AssumeRolePolicyDocument", &document(&trust(ACCOUNT))),
        ("Tags.member.1.Key", "a"),
        ("Tags.member.1.Value", "b c"),
    ]);
    let made = stage.iam.call_query("CreateRole", &body).unwrap();
    assert_eq!(made["Role"]["MaxSessionDuration"], 7200);
    assert_eq!(made["Role"]["Tags"], json!([{"Key": "a", "Value": "b c"}]));
    let shown = made["Role"]["AssumeRolePolicyDocument"].as_str().unwrap();
    assert!(shown.starts_with("%7B%22Statement%22%3A"), "{shown}");
    assert_eq!(
        kind(stage.iam.call_query("CreateUser", &pairs(&[("UserName", "a/b")]))),
        Some(IdentityErrorKind::Validation)
    );
    assert_eq!(kind(stage.iam.call_query("CreateUser", &[])), Some(IdentityErrorKind::Validation));
    assert_eq!(kind(stage.iam.call_query("NoSuchThing", &[])), Some(IdentityErrorKind::InvalidAction));
    assert_eq!(
        kind(stage.iam.call_query("ListUsers", &pairs(&[("MaxItems", "many")]))),
        Some(IdentityErrorKind::Validation)
    );
}

#[test]
fn an_access_keys_id_is_no_session_token_of_its_own() {
    let stage = Stage::new();
    let made = ask(&stage.iam, "CreateAccessKey", json!({"UserName": "alice"})).unwrap();
    let id = made["AccessKey"]["AccessKeyId"].as_str().unwrap();
    let unknown = Some(IdentityErrorKind::InvalidClientTokenId);
    assert_eq!(kind(stage.bench.kms.credential(id, Some(id))), unknown);
    assert!(stage.bench.kms.credential(id, None).is_ok());
    // Also when the access key is in memory.
    assert_eq!(kind(stage.bench.kms.credential(id, Some(id))), unknown);
}

#[test]
fn the_memory_of_callers_has_a_bound_though_they_choose_their_sessions_names() {
    let stage = Stage::new();
    let core = stage.bench.session().region_service().identities.get().unwrap().unwrap();
    let most = core.kept().1;
    for at in 0..=2 * most {
        let named = format!("arn:aws:sts::{ACCOUNT}:assumed-role/keeper/session{at}");
        let caller = stage.bench.kms.caller(&named).unwrap();
        let session = stage.bench.kms.session(caller, &region()).unwrap();
        assert!(encrypt(&session, &stage.key, b"x").is_ok());
        assert!(core.kept().0 <= most, "{at}");
    }
}

#[test]
fn a_source_identity_cannot_be_changed_down_a_chain_and_wants_its_permission_there_too() {
    let stage = Stage::new();
    let statement = |who: &str, actions: &[&str]| json!({"Effect": "Allow", "Principal": {"AWS": who}, "Action": actions});
    let both = ["sts:AssumeRole", "sts:SetSourceIdentity"];
    stage.role("first", &statement(&format!("arn:aws:iam::{ACCOUNT}:user/alice"), &both));
    let body = json!({"RoleArn": role_arn("first"), "RoleSessionName": "one", "SourceIdentity": "alice"});
    let request: AssumeRoleRequest = serde_json::from_value(body).unwrap();
    let first = stage.alice().call(request).unwrap();
    assert_eq!(first.source_identity.as_deref(), Some("alice"));
    let chained = stage.bench.kms.identity(stage.credential(&first.credentials).unwrap().caller);
    let refused = Some(IdentityErrorKind::AccessDenied);
    // The trust policy asks who is behind it; the one who is says the name of another.
    let mut asks = statement(&role_arn("first"), &both);
    asks["Condition"] = json!({"StringEquals": {"sts:SourceIdentity": "boss"}});
    stage.retrust(&asks);
    assert_eq!(kind(stage.assume(&chained, json!({"SourceIdentity": "boss"}))), refused);
    stage.retrust(&statement(&role_arn("first"), &both));
    assert_eq!(kind(stage.assume(&chained, json!({"SourceIdentity": "boss"}))), refused);
    assert!(stage.assume(&chained, json!({"SourceIdentity": "alice"})).is_ok());
    let inherited = stage.assume(&chained, json!({})).unwrap();
    assert_eq!(inherited.source_identity.as_deref(), Some("alice"));
    stage.retrust(&statement(&role_arn("first"), &["sts:AssumeRole"]));
    assert_eq!(kind(stage.assume(&chained, json!({}))), refused);
}

#[test]
fn a_deny_in_a_session_policy_that_is_deleted_does_not_become_a_permission() {
    let stage = Stage::new();
    let policy = |name: &str, document: &str| {
        let made = ask(&stage.iam, "CreatePolicy", json!({"PolicyName": name, "PolicyDocument": document}));
        made.unwrap()["Policy"]["Arn"].clone()
    };
    let deny = document(&json!({"Effect": "Deny", "Action": "kms:Encrypt", "Resource": "*"}));
    let (wide, narrow) = (policy("wide", &allow("kms:*")), policy("narrow", &deny));
    let given = json!({"PolicyArns": [{"arn": wide}, {"arn": narrow}]});
    let session = stage.session(&stage.assume(&stage.alice(), given).unwrap().credentials);
    assert!(denied(encrypt(&session, &stage.key, b"x")));
    ask(&stage.iam, "DeletePolicy", json!({"PolicyArn": narrow})).unwrap();
    assert!(denied(encrypt(&session, &stage.key, b"x")));
}

#[test]
fn an_arn_of_another_partition_does_not_go_past_a_deny() {
    let stage = Stage::new();
    let work = document(&json!([
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": "sts:AssumeRole", "Resource": role_arn("keeper")},
        {"Effect": "Deny", "Action": "iam:CreatePolicyVersion",
         "Resource": format!("arn:aws:iam::{ACCOUNT}:policy/strong")},
        {"Effect": "Deny", "Action": "iam:AttachUserPolicy", "Resource": "*",
         "Condition": {"ArnEquals": {"iam:PolicyARN": format!("arn:aws:iam::{ACCOUNT}:policy/strong")}}}
    ]));
    let body = json!({"UserName": "alice", "PolicyName": "work", "PolicyDocument": work});
    ask(&stage.iam, "PutUserPolicy", body).unwrap();
    let body = json!({"PolicyName": "strong", "PolicyDocument": allow("kms:*")});
    ask(&stage.iam, "CreatePolicy", body).unwrap();
    let alice = stage.alice();
    for partition in ["aws", "aws-cn", "aws-us-gov", ""] {
        let assumed = stage.assume(&alice, json!({"RoleArn": role_arn("keeper").replace("aws", partition)}));
        assert!(assumed.is_err(), "{partition}");
        let arn = format!("arn:{partition}:iam::{ACCOUNT}:policy/strong");
        let body = json!({"PolicyArn": arn, "PolicyDocument": allow("*"), "SetAsDefault": true});
        assert!(ask(&alice, "CreatePolicyVersion", body).is_err(), "{partition}");
        let body = json!({"UserName": "alice", "PolicyArn": arn});
        assert!(ask(&alice, "AttachUserPolicy", body).is_err(), "{partition}");
    }
}
