//! IAM and STS over the query protocol, and users and sessions that sign for themselves.

use serde_json::{Value, json};

use super::bed::{ACCOUNT, Ask, Bed, element};

/// An access key, with the session token of a session.
struct Key {
    id: String,
    secret: String,
    token: Option<String>,
}

impl Key {
    fn read(document: &str) -> Self {
        let token = document.contains("<SessionToken>").then(|| element(document, "SessionToken").to_owned());
        let (id, secret) = (element(document, "AccessKeyId"), element(document, "SecretAccessKey"));
        Self { id: id.to_owned(), secret: secret.to_owned(), token }
    }

    fn signs(&self, mut ask: Ask) -> Ask {
        (ask.id, ask.secret) = (self.id.clone(), self.secret.clone());
        match &self.token {
            Some(token) => ask.header("X-Amz-Security-Token", token),
            None => ask,
        }
    }
}

/// A query that succeeds; its document.
fn done(bed: &Bed, service: &str, action: &str, parameters: &[(&str, &str)]) -> String {
    let answer = bed.query(service, action, parameters).send(bed);
    assert_eq!(answer.status, 200, "{action}: {}", answer.text());
    assert_eq!(answer.get("content-type"), "text/xml");
    let document = String::from_utf8(answer.body.clone()).unwrap();
    assert!(
        document.starts_with(&format!("<{action}Response xmlns=\"https://{service}.amazonaws.com/doc/")),
        "{document}"
    );
    assert_eq!(element(&document, "RequestId"), answer.get("x-amzn-requestid"));
    document
}

fn refused(ask: &Ask, bed: &Bed, status: u16, code: &str) -> String {
    let answer = ask.send(bed);
    let document = String::from_utf8(answer.body.clone()).unwrap();
    assert_eq!(answer.status, status, "{document}");
    assert!(document.starts_with("<ErrorResponse xmlns="), "{document}");
    assert_eq!((element(&document, "Type"), element(&document, "Code")), ("Sender", code), "{document}");
    element(&document, "Message").to_owned()
}

fn alice(bed: &Bed, policy: &Value) -> Key {
    done(
        bed,
        "iam",
        "CreateUser",
        &[("UserName", "alice"), ("Tags.member.1.Key", "team"), ("Tags.member.1.Value", "a&b")],
    );
    let document = policy.to_string();
    done(
        bed,
        "iam",
        "PutUserPolicy",
        &[("UserName", "alice"), ("PolicyName", "own"), ("PolicyDocument", &document)],
    );
    Key::read(&done(bed, "iam", "CreateAccessKey", &[("UserName", "alice")]))
}

fn allow(actions: &Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": actions, "Resource": "*"}})
}

#[test]
fn a_user_does_what_its_policy_allows_and_nothing_after_its_deletion() {
    let bed = Bed::new();
    let key = alice(&bed, &allow(&json!(["kms:ListKeys"])));
    let list = bed.ask("ListKeys", &json!({}));
    assert_eq!(key.signs(list.clone()).send(&bed).status, 200);
    let found = bed.session().lookup_events(&kmsfs::audit::Filter::default()).unwrap();
    let event: Value = serde_json::from_str(&found[0].json).unwrap();
    let who = &event["userIdentity"];
    assert_eq!((&who["userName"], &who["accessKeyId"]), (&json!("alice"), &json!(key.id)));
    let message =
        key.signs(bed.ask("CreateKey", &json!({}))).send(&bed).is_error(400, "AccessDeniedException");
    assert!(message.contains("user/alice is not authorized to perform: kms:CreateKey"), "{message}");

    let user = done(&bed, "iam", "GetUser", &[("UserName", "alice")]);
    assert_eq!(element(&user, "Arn"), format!("arn:aws:iam::{ACCOUNT}:user/alice"));
    assert!(user.contains("<Tags><member><Key>team</Key><Value>a&amp;b</Value></member></Tags>"), "{user}");
    let policy = done(&bed, "iam", "GetUserPolicy", &[("UserName", "alice"), ("PolicyName", "own")]);
    assert!(element(&policy, "PolicyDocument").starts_with("%7B"), "{policy}");
    let own = key.signs(bed.query("sts", "GetCallerIdentity", &[])).send(&bed).text();
    assert!(own.contains(&format!("<Arn>arn:aws:iam::{ACCOUNT}:user/alice</Arn>")), "{own}");
    refused(&key.signs(bed.query("iam", "ListUsers", &[])), &bed, 403, "AccessDenied");

    let named = [("UserName", "alice"), ("AccessKeyId", key.id.as_str())];
    let switched = [named[0], named[1], ("Status", "Inactive")];
    done(&bed, "iam", "UpdateAccessKey", &switched);
    key.signs(list.clone()).send(&bed).is_error(400, "UnrecognizedClientException");
    refused(&key.signs(bed.query("sts", "GetCallerIdentity", &[])), &bed, 403, "InvalidClientTokenId");
    done(&bed, "iam", "UpdateAccessKey", &[named[0], named[1], ("Status", "Active")]);
    assert_eq!(key.signs(list.clone()).send(&bed).status, 200);
    refused(&bed.query("iam", "DeleteUser", &[("UserName", "alice")]), &bed, 409, "DeleteConflict");
    done(&bed, "iam", "DeleteAccessKey", &named);
    done(&bed, "iam", "DeleteUserPolicy", &[("UserName", "alice"), ("PolicyName", "own")]);
    done(&bed, "iam", "DeleteUser", &[("UserName", "alice")]);
    key.signs(list).send(&bed).is_error(400, "UnrecognizedClientException");
}

#[test]
fn a_session_signs_with_its_token_and_only_with_it() {
    let bed = Bed::new();
    let key = alice(&bed, &allow(&json!(["sts:AssumeRole"])));
    let trust = json!({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")}, "Action": "sts:AssumeRole"
    }});
    done(
        &bed,
        "iam",
        "CreateRole",
        &[("RoleName", "reader"), ("AssumeRolePolicyDocument", &trust.to_string())],
    );
    let policy = allow(&json!(["kms:List*"])).to_string();
    done(
        &bed,
        "iam",
        "PutRolePolicy",
        &[("RoleName", "reader"), ("PolicyName", "p"), ("PolicyDocument", &policy)],
    );
    let arn = format!("arn:aws:iam::{ACCOUNT}:role/reader");
    let assume = bed.query("sts", "AssumeRole", &[("RoleArn", &arn), ("RoleSessionName", "one")]);
    let assumed = key.signs(assume).send(&bed);
    assert_eq!(assumed.status, 200, "{}", assumed.text());
    let session = Key::read(&assumed.text());
    let list = bed.ask("ListKeys", &json!({}));
    assert_eq!(session.signs(list.clone()).send(&bed).status, 200);
    session.signs(bed.ask("CreateKey", &json!({}))).send(&bed).is_error(400, "AccessDeniedException");
    let own = session.signs(bed.query("sts", "GetCallerIdentity", &[])).send(&bed).text();
    assert!(own.contains("assumed-role/reader/one</Arn>"), "{own}");

    // Without its token, with a changed one, with another's, with another secret.
    let without = Key { token: None, ..Key::read(&assumed.text()) };
    without.signs(list.clone()).send(&bed).is_error(400, "UnrecognizedClientException");
    let token = session.token.clone().unwrap();
    for at in [0, 20, token.len() / 2, token.len() - 5] {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = Key { token: Some(String::from_utf8(changed).unwrap()), ..Key::read(&assumed.text()) };
        changed.signs(list.clone()).send(&bed).is_error(400, "UnrecognizedClientException");
    }
    let foreign = Key { token: Some(token), id: key.id.clone(), secret: key.secret.clone() };
    foreign.signs(list.clone()).send(&bed).is_error(400, "UnrecognizedClientException");
    let wrong = Key { secret: key.secret.clone(), ..Key::read(&assumed.text()) };
    wrong.signs(list.clone()).send(&bed).is_error(400, "InvalidSignatureException");

    let began = key.signs(bed.query("sts", "GetSessionToken", &[("DurationSeconds", "900")])).send(&bed);
    assert_eq!(began.status, 200, "{}", began.text());
    assert!(Key::read(&began.text()).token.is_some());
    // The role goes, and its sessions with it.
    done(&bed, "iam", "DeleteRolePolicy", &[("RoleName", "reader"), ("PolicyName", "p")]);
    done(&bed, "iam", "DeleteRole", &[("RoleName", "reader")]);
    assert_eq!(session.signs(list).send(&bed).status, 400);
}

#[test]
fn what_is_wrong_with_a_query_is_told_in_xml() {
    let bed = Bed::new();
    let missing = [("UserName", "nobody")];
    let message = refused(&bed.query("iam", "GetUser", &missing), &bed, 404, "NoSuchEntity");
    assert!(message.contains("nobody"), "{message}");
    refused(&bed.query("iam", "CreateEverything", &[]), &bed, 400, "InvalidAction");
    refused(&bed.query("iam", "GetCallerIdentity", &[]), &bed, 400, "InvalidAction");
    refused(&bed.query("iam", "CreateUser", &[("UserName", "a b")]), &bed, 400, "ValidationError");
    refused(
        &bed.query("iam", "CreateUser", &[("UserName.a.b", "x"), ("UserName", "x")]),
        &bed,
        400,
        "ValidationError",
    );
    let policy = [("UserName", "x"), ("PolicyName", "p"), ("PolicyDocument", "{")];
    done(&bed, "iam", "CreateUser", &[("UserName", "x")]);
    refused(&bed.query("iam", "PutUserPolicy", &policy), &bed, 400, "MalformedPolicyDocument");
    refused(&bed.query("iam", "CreateUser", &[("UserName", "x")]), &bed, 409, "EntityAlreadyExists");
    let mut wrong = bed.query("sts", "GetCallerIdentity", &[]);
    wrong.secret.push('x');
    refused(&wrong, &bed, 403, "SignatureDoesNotMatch");
    wrong = bed.query("sts", "GetCallerIdentity", &[]);
    wrong.scope[2] = "iam".to_owned();
    let message = refused(&wrong, &bed, 403, "SignatureDoesNotMatch");
    assert!(
        message.contains("correct service: 'sts'") || message.contains("correct service: &apos;sts"),
        "{message}"
    );
    wrong = bed.query("sts", "GetCallerIdentity", &[]);
    wrong.body = b"Action=GetCallerIdentity&Version=1999-01-01".to_vec();
    refused(&wrong, &bed, 400, "InvalidAction");
    let deep = format!("Action=CreateUser&Version=2010-05-08&{}=1", "a.".repeat(60_000));
    wrong = bed.query("iam", "CreateUser", &[]);
    wrong.body = deep.into_bytes();
    refused(&wrong, &bed, 400, "ValidationError");
    let unsigned =
        super::bed::exchange(&mut bed.connect(), &bed.query("sts", "GetCallerIdentity", &[]).bare());
    assert_eq!((unsigned.status, element(&unsigned.text(), "Code")), (403, "MissingAuthenticationToken"));
}

#[test]
fn the_identity_of_root_is_told_and_recorded_under_the_answers_request_id() {
    let bed = Bed::new();
    let answer = bed.query("sts", "GetCallerIdentity", &[]).send(&bed);
    let text = answer.text();
    assert!(text.contains(&format!("<Account>{ACCOUNT}</Account>")), "{text}");
    assert!(text.contains(&format!("<Arn>arn:aws:iam::{ACCOUNT}:root</Arn>")), "{text}");
    let root = kmsfs::kms::Caller::root(ACCOUNT.parse().unwrap());
    let found = bed.kms.identity(root).lookup_events(&kmsfs::audit::Filter::default()).unwrap();
    let event: Value = serde_json::from_str(&found[0].json).unwrap();
    assert_eq!(event["eventName"], "GetCallerIdentity");
    assert_eq!(event["requestID"], answer.get("x-amzn-requestid"));
}
