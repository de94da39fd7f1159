//! Who may, as a table: callers of two accounts, each with its policies and limits, against keys, each with its policy or
//! grants, asking with a context that meets the conditions and with one that does not. What is expected comes from a
//! rule of a few lines that knows nothing of how it is decided.

use serde_json::{Value, json};

use super::*;
use crate::store::Store;

const OTHER: &str = "111122223333";

/// A statement about kms:Encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// There is none.
    No,
    /// It stands.
    Always,
    /// It stands under a condition.
    If,
}

use Says::{Always, If, No};

/// A permissions boundary or a session policy.
#[derive(Debug, Clone, Copy)]
struct Limit {
    allow: Says,
    deny: Says,
}

const LIMITS: [Option<Limit>; 6] = [
    None,
    Some(Limit { allow: Always, deny: No }),
    Some(Limit { allow: If, deny: No }),
    Some(Limit { allow: No, deny: No }),
    Some(Limit { allow: Always, deny: If }),
    Some(Limit { allow: Always, deny: Always }),
];

/// A user, or the session of a role.
#[derive(Debug)]
struct Who {
    account: &'static str,
    allow: Says,
    deny: Says,
    boundary: Option<Limit>,
    /// None: a user.
    session: Option<Option<Limit>>,
}

/// By what a key lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Nothing,
    /// Its policy names users and sessions.
    Name(Says),
    /// It names roles.
    Role(Says),
    /// It names both accounts.
    Account(Says),
    /// It names everybody.
    Any(Says),
    /// A grant to each user and role, under a constraint if it says If.
    Grant(Says),
}

#[derive(Debug)]
struct Held {
    path: Path,
    deny: Says,
}

/// The rule.
fn may(who: &Who, key: &Held, met: bool) -> bool {
    let holds = |says: Says| says == Always || says == If && met;
    let limits = [who.boundary, who.session.flatten()];
    if holds(key.deny) || holds(who.deny) || limits.iter().flatten().any(|limit| holds(limit.deny)) {
        return false;
    }
    let limited = || limits.iter().flatten().all(|limit| holds(limit.allow));
    let own_side = || holds(who.allow) && limited();
    let same = who.account == ACCOUNT;
    match key.path {
        Path::Nothing => false,
        Path::Grant(says) => holds(says),
        Path::Role(says) if who.session.is_some() => holds(says) && if same { limited() } else { own_side() },
        Path::Role(_) => false,
        Path::Name(says) => holds(says) && (same || own_side()),
        Path::Any(says) => holds(says) && if same { limited() } else { own_side() },
        Path::Account(says) => holds(says) && own_side(),
    }
}

fn statement(effect: &str, says: Says) -> Option<Value> {
    let mut statement = json!({"Effect": effect, "Action": "kms:Encrypt", "Resource": "*"});
    match says {
        No => return None,
        Always => {}
        If => statement["Condition"] = json!({"StringEquals": {"kms:EncryptionContext:purpose": "x"}}),
    }
    Some(statement)
}

fn document(statements: impl IntoIterator<Item = Value>) -> String {
    json!({"Version": "2012-10-17", "Statement": Value::from_iter(statements)}).to_string()
}

/// A policy of an identity, with a statement that is beside the point.
fn policy(allow: Says, deny: Says) -> String {
    let filler = json!({"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"});
    document([Some(filler), statement("Allow", allow), statement("Deny", deny)].into_iter().flatten())
}

/// Callers of one account, and the ARNs by which keys name them: users and sessions, roles, and users and roles.
struct Callers {
    callers: Vec<(Who, Session)>,
    names: Vec<String>,
    roles: Vec<String>,
    grantees: Vec<String>,
}

struct Maker<'a> {
    bench: &'a Bench,
    account: &'static str,
}

impl Maker<'_> {
    fn ask(&self, operation: &str, body: Value) -> Value {
        let iam = self.bench.kms.identity(Caller::root(self.account.parse().unwrap()));
        iam.call_json(operation, body).unwrap()
    }

    fn boundary(&self, number: usize) -> String {
        format!("arn:aws:iam::{}:policy/limit{number}", self.account)
    }

    /// Policy and boundary of a user or role.
    fn equip(&self, kind: &str, name: &str, (allow, deny): (Says, Says), limit: usize) {
        let named = |more: Value| {
            let mut body = json!({format!("{kind}Name"): name});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let body = named(json!({"PolicyName": "own", "PolicyDocument": policy(allow, deny)}));
        self.ask(&format!("Put{kind}Policy"), body);
        if LIMITS[limit].is_some() {
            let body = named(json!({"PermissionsBoundary": self.boundary(limit)}));
            self.ask(&format!("Put{kind}PermissionsBoundary"), body);
        }
    }

    fn caller(&self, text: &str) -> Caller {
        self.bench.kms.caller(text).unwrap()
    }

    fn make(&self) -> Callers {
        let account = self.account;
        for (number, limit) in LIMITS.iter().enumerate() {
            if let Some(limit) = limit {
                let document = policy(limit.allow, limit.deny);
                let body = json!({"PolicyName": format!("limit{number}"), "PolicyDocument": document});
                self.ask("CreatePolicy", body);
            }
        }
        let mut made = Callers { callers: vec![], names: vec![], roles: vec![], grantees: vec![] };
        let mut kinds: Vec<(Says, Says, usize)> = [No, Always, If]
            .into_iter()
            .flat_map(|allow| (0..LIMITS.len()).map(move |n| (allow, No, n)))
            .collect();
        kinds.extend([(Always, If, 0), (Always, Always, 0), (If, If, 1)]);
        for (number, &(allow, deny, limit)) in kinds.iter().enumerate() {
            let name = format!("user{number}");
            self.ask("CreateUser", json!({"UserName": name}));
            self.equip("User", &name, (allow, deny), limit);
            let arn = format!("arn:aws:iam::{account}:user/{name}");
            let who = Who { account, allow, deny, boundary: LIMITS[limit], session: None };
            let session = self.bench.kms.session(self.caller(&arn), &region()).unwrap();
            made.callers.push((who, session));
            made.names.push(arn.clone());
            made.grantees.push(arn);
        }
        let assumer = format!("arn:aws:iam::{account}:user/user0");
        let trust =
            document([json!({"Effect": "Allow", "Principal": {"AWS": assumer}, "Action": "sts:AssumeRole"})]);
        let assumer = self.bench.kms.identity(self.caller(&assumer));
        for (number, (allow, deny, limit)) in
            [(No, No, 0), (Always, No, 0), (Always, If, 0), (Always, No, 3), (Always, No, 4), (If, No, 1)]
                .into_iter()
                .enumerate()
        {
            let name = format!("role{number}");
            self.ask("CreateRole", json!({"RoleName": name, "AssumeRolePolicyDocument": trust}));
            self.equip("Role", &name, (allow, deny), limit);
            let arn = format!("arn:aws:iam::{account}:role/{name}");
            for given in LIMITS {
                let mut body = json!({"RoleArn": arn, "RoleSessionName": "work"});
                if let Some(given) = given {
                    body["Policy"] = policy(given.allow, given.deny).into();
                }
                let begun = assumer.call_json("AssumeRole", body).unwrap();
                let text = |name: &str| begun["Credentials"][name].as_str().unwrap();
                let credential = self.bench.kms.credential(text("AccessKeyId"), Some(text("SessionToken")));
                let session = self.bench.kms.session(credential.unwrap().caller, &region()).unwrap();
                let who = Who { account, allow, deny, boundary: LIMITS[limit], session: Some(given) };
                made.callers.push((who, session));
            }
            made.names.push(format!("arn:aws:sts::{account}:assumed-role/{name}/work"));
            made.roles.push(arn.clone());
            made.grantees.push(arn);
        }
        made
    }
}

fn make_key(owner: &Session, held: &Held, all: &[Callers]) -> String {
    let list = |of: fn(&Callers) -> &Vec<String>| all.iter().flat_map(of).cloned().collect::<Vec<_>>();
    let both = || json!({"AWS": [ACCOUNT, OTHER]});
    let (says, principal) = match held.path {
        Path::Nothing | Path::Grant(_) => (No, Value::Null),
        Path::Name(says) => (says, json!({"AWS": list(|callers| &callers.names)})),
        Path::Role(says) => (says, json!({"AWS": list(|callers| &callers.roles)})),
        Path::Account(says) => (says, both()),
        Path::Any(says) => (says, json!("*")),
    };
    let to = |statement: Option<Value>, principal: Value| {
        statement.map(|mut statement| {
            statement["Principal"] = principal;
            statement
        })
    };
    let manage = json!({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Resource": "*",
        "Action": ["kms:PutKeyPolicy", "kms:CreateGrant"]});
    let statements =
        [Some(manage), to(statement("Allow", says), principal), to(statement("Deny", held.deny), json!("*"))];
    let policy = Some(document(statements.into_iter().flatten()));
    let made = owner.call(CreateKeyRequest { policy, ..CreateKeyRequest::default() }).unwrap();
    let arn = made.key_metadata.arn;
    if let Path::Grant(says) = held.path {
        let subset = (says == If).then(|| context(&[("purpose", "x")]));
        for grantee in list(|callers| &callers.grantees) {
            let constraints = subset.clone().map(|subset| GrantConstraints {
                encryption_context_subset: Some(subset),
                ..GrantConstraints::default()
            });
            let request = CreateGrantRequest {
                key_id: arn.clone(),
                grantee_principal: Some(grantee),
                operations: Some(vec!["Encrypt".to_owned()]),
                constraints,
                ..CreateGrantRequest::default()
            };
            owner.call(request).unwrap();
        }
    }
    arn
}

#[test]
fn every_caller_may_with_every_key_what_the_rule_says_and_each_call_has_its_event() {
    let bench = Bench::new();
    let owner = bench.session();
    let all = [ACCOUNT, OTHER].map(|account| Maker { bench: &bench, account }.make());
    let mut keys = Vec::new();
    for path in [
        Path::Nothing,
        Path::Name(Always),
        Path::Name(If),
        Path::Role(Always),
        Path::Role(If),
        Path::Account(Always),
        Path::Account(If),
        Path::Any(Always),
        Path::Any(If),
        Path::Grant(Always),
        Path::Grant(If),
    ] {
        for deny in [No, If, Always] {
            let held = Held { path, deny };
            let arn = make_key(&owner, &held, &all);
            keys.push((held, arn));
        }
    }
    let store = &owner.region_service().store;
    let events = || crate::audit::head(&*store.read().unwrap()).unwrap().sequence;
    let (before, mut cases, mut allowed, mut wrong) = (events(), 0, [0; 2], Vec::new());
    for (who, session) in all.iter().flat_map(|callers| &callers.callers) {
        for (key, arn) in &keys {
            for met in [true, false] {
                let answer = session.call(EncryptRequest {
                    key_id: arn.clone(),
                    plaintext: crate::crypto::SecretVec::new(b"x".to_vec()),
                    encryption_context: context(&[("purpose", if met { "x" } else { "y" })]),
                    ..EncryptRequest::default()
                });
                let expected = may(who, key, met);
                let found = match &answer {
                    Ok(_) => true,
                    Err(error) if error.kind == KmsErrorKind::AccessDenied => false,
                    Err(error) => panic!("{who:?} {key:?}: {error}"),
                };
                if found != expected {
                    let words = answer.err().map(|error| error.message);
                    wrong.push(format!("{who:?} on {key:?}, met {met}: expected {expected}, {words:?}"));
                }
                allowed[usize::from(who.account == OTHER)] += u64::from(found);
                cases += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert_eq!(events() - before, cases);
    assert!(cases > 7000 && allowed.iter().all(|n| *n > 300), "{cases} {allowed:?}");
}
