//! Who may use a key: own account and another, each way to be allowed, each place of a Deny, with and without
//! a condition.

use serde_json::{Value, json};

use super::*;

const USER: &str = "arn:aws:iam::000000000000:user/alice";
const STRANGER: &str = "arn:aws:iam::111122223333:user/alice";
const ROLE: &str = "arn:aws:iam::000000000000:role/R";
const SESSION: &str = "arn:aws:sts::000000000000:assumed-role/R/s";
const STRANGE_SESSION: &str = "arn:aws:sts::111122223333:assumed-role/R/s";

fn statement(effect: &str, principal: Option<&str>, condition: Option<&Value>) -> Value {
    let mut statement = json!({"Effect": effect, "Action": ["kms:Decrypt", "kms:Encrypt"], "Resource": "*"});
    if let Some(principal) = principal {
        statement["Principal"] = json!({"AWS": principal});
    }
    if let Some(condition) = condition {
        statement["Condition"] = condition.clone();
    }
    statement
}

fn key(statements: &[Value]) -> Option<Policy> {
    // A statement about another action is always there, since a policy must have one.
    let mut all =
        vec![json!({"Effect": "Allow", "Principal": "*", "Action": "kms:ListGrants", "Resource": "*"})];
    all.extend_from_slice(statements);
    Some(policy(PolicyKind::Key, &Value::from(all)))
}

fn identity(statements: &[Value]) -> Option<Policy> {
    let mut all = vec![json!({"Effect": "Allow", "Action": "kms:ListGrants", "Resource": "*"})];
    all.extend_from_slice(statements);
    Some(policy(PolicyKind::Managed, &Value::from(all)))
}

/// How a principal is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// The key's policy names it.
    Direct,
    /// The key's policy names its account, its own policy allows.
    Delegated,
    /// As before, but its own policy is silent.
    DelegatedToNobody,
    /// Its own policy alone.
    IdentityOnly,
    /// The key's policy names it, its own policy allows.
    Both,
    /// A grant.
    Grant,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Deny {
    Nowhere,
    Key,
    Identity,
    Boundary,
    Session,
}

#[test]
fn the_matrix() {
    use Way::{Both, Delegated, DelegatedToNobody, Direct, Grant, IdentityOnly, Nothing};
    let ways = [Direct, Delegated, DelegatedToNobody, IdentityOnly, Both, Grant, Nothing];
    let denies = [Deny::Nowhere, Deny::Key, Deny::Identity, Deny::Boundary, Deny::Session];
    let condition = json!({"StringEquals": {"kms:EncryptionContext:Department": "finance"}});
    let mut cases = 0;
    for (who, own) in [(USER, true), (SESSION, true), (STRANGER, false), (STRANGE_SESSION, false)] {
        for way in ways {
            for deny in denies {
                // None: no conditions. Some: on each statement, met or not.
                for met in [None, Some(true), Some(false)] {
                    let condition = met.map(|_| &condition);
                    let mut scene = Scene::new(who);
                    if let Some(met) = met {
                        let department = if met { "finance" } else { "sales" };
                        scene.context.set("kms:EncryptionContext:department", department);
                    }
                    let account = if own { OWN } else { OTHER };
                    let mut in_key = match way {
                        Direct | Both => vec![statement("Allow", Some(who), condition)],
                        Delegated | DelegatedToNobody => vec![statement("Allow", Some(account), condition)],
                        IdentityOnly | Grant | Nothing => vec![],
                    };
                    let mut in_identity = match way {
                        Delegated | IdentityOnly | Both => vec![statement("Allow", None, condition)],
                        Direct | DelegatedToNobody | Grant | Nothing => vec![],
                    };
                    let (mut in_boundary, mut in_session) =
                        (vec![statement("Allow", None, None)], vec![statement("Allow", None, None)]);
                    let denial = statement("Deny", None, condition);
                    match deny {
                        Deny::Nowhere => {}
                        Deny::Key => in_key.insert(0, statement("Deny", Some(who), condition)),
                        Deny::Identity => in_identity.push(denial),
                        Deny::Boundary => in_boundary.push(denial),
                        Deny::Session => in_session.push(denial),
                    }
                    scene.key = key(&in_key);
                    scene.identity = identity(&in_identity);
                    scene.boundary = identity(&in_boundary);
                    scene.session = identity(&in_session);
                    scene.grant = (way == Grant).then_some("g");

                    let words = |layer: &str| format!("because no {layer} allows the kms:Decrypt action");
                    // Which side is missing, if the conditions are met.
                    let missing = match (way, own) {
                        (Direct, true) | (Delegated | Both, _) | (Grant, _) => None,
                        (Direct, false) | (DelegatedToNobody, _) => Some("identity-based policy"),
                        (IdentityOnly | Nothing, _) => Some("resource-based policy"),
                    };
                    let denied = deny != Deny::Nowhere && met != Some(false);
                    let expected = match (denied, deny, met) {
                        (true, Deny::Key, _) => {
                            Err("with an explicit deny in a resource-based policy".to_owned())
                        }
                        (true, Deny::Identity, _) => {
                            Err("with an explicit deny in an identity-based policy".to_owned())
                        }
                        (true, Deny::Boundary, _) => {
                            Err("with an explicit deny in a permissions boundary".to_owned())
                        }
                        (true, Deny::Session, _) => {
                            Err("with an explicit deny in a session policy".to_owned())
                        }
                        _ if way == Grant => Ok(()),
                        // With no condition met no statement applies, so the key's policy is silent.
                        (_, _, Some(false)) => Err(words("resource-based policy")),
                        _ => missing.map_or(Ok(()), |layer| Err(words(layer))),
                    };
                    assert_eq!(scene.decide().map(drop), expected, "{who} {way:?} {deny:?} {met:?}");
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 4 * 7 * 5 * 3);
}

#[test]
fn boundary_and_session_narrow_all_but_what_is_given_by_name_or_grant() {
    let silent = || identity(&[]);
    let boundary = "because no permissions boundary allows the kms:Decrypt action";
    let session = "because no session policy allows the kms:Decrypt action";
    for (who, named, own_allows, grant, in_boundary, in_session) in [
        // By its own policy.
        (USER, OWN, true, None, Err(boundary), Err(session)),
        // By name.
        (USER, USER, false, None, Ok(()), Ok(())),
        (SESSION, SESSION, false, None, Ok(()), Ok(())),
        // By role, and as everybody.
        (SESSION, ROLE, false, None, Err(boundary), Err(session)),
        (USER, "*", false, None, Err(boundary), Err(session)),
        // Across accounts also by name.
        (STRANGER, STRANGER, true, None, Err(boundary), Err(session)),
        (USER, OTHER, false, Some("g"), Ok(()), Ok(())),
    ] {
        let mut scene = Scene::new(who);
        scene.key = key(&[statement("Allow", Some(named), None)]);
        scene.identity = if own_allows { identity(&[statement("Allow", None, None)]) } else { silent() };
        scene.grant = grant;
        assert!(scene.decide().is_ok(), "{who} {named} without");
        scene.boundary = silent();
        assert_eq!(scene.decide().map(drop), in_boundary.map_err(str::to_owned), "{who} {named} boundary");
        scene.boundary = None;
        scene.session = silent();
        assert_eq!(scene.decide().map(drop), in_session.map_err(str::to_owned), "{who} {named} session");
        scene.boundary = identity(&[statement("Allow", None, None)]);
        scene.session = identity(&[statement("Allow", None, None)]);
        assert!(scene.decide().is_ok(), "{who} {named} both");
    }
}

#[test]
fn the_root_is_allowed_by_name_and_nothing_else() {
    let root = "arn:aws:iam::000000000000:root";
    let mut scene = Scene::new(root);
    scene.key = key(&[statement("Allow", Some(OWN), None)]);
    assert_eq!(scene.decide().unwrap(), "statement 2 of the resource-based policy default");
    scene.key = key(&[statement("Allow", Some(USER), None)]);
    assert!(scene.decide().is_err());
    // Of another account's, once the key's policy names that account.
    let mut scene = Scene::new("arn:aws:iam::111122223333:root");
    scene.key = key(&[statement("Allow", Some(OTHER), None)]);
    assert!(scene.decide().unwrap().ends_with("the account's root, whom its own account allows everything"));
    scene.key = key(&[statement("Allow", Some(OWN), None)]);
    assert!(scene.decide().is_err());
}

#[test]
fn without_a_resource_policy_the_own_policies_decide() {
    let mut scene = Scene::new(USER);
    assert_eq!(
        scene.decide(),
        Err("because no identity-based policy allows the kms:Decrypt action".to_owned())
    );
    scene.identity = identity(&[statement("Allow", None, None)]);
    assert_eq!(scene.decide().unwrap(), "statement 2 of the identity-based policy i");
    assert!(Scene::new("arn:aws:iam::000000000000:root").decide().is_ok());
}

#[test]
fn a_service_is_allowed_by_its_name_alone() {
    let mut scene = Scene::new(USER);
    let service = |name: &str| {
        let mut allow = statement("Allow", None, None);
        allow["Principal"] = json!({"Service": name});
        key(&[allow])
    };
    scene.principal = Principal::Service { name: "backup.amazonaws.com".to_owned(), account: account(OTHER) };
    scene.key = service("backup.amazonaws.com");
    assert!(scene.decide().is_ok());
    scene.key = service("other.amazonaws.com");
    assert!(scene.decide().is_err());
    scene.key = key(&[statement("Allow", Some(OTHER), None)]);
    assert!(scene.decide().is_err());
    scene.key = None;
    assert!(scene.decide().is_err());
}

#[test]
fn a_decision_names_the_statements_it_rests_on() {
    let mut scene = Scene::new(USER);
    let mut named = statement("Allow", Some(OWN), None);
    named["Sid"] = json!("Enable IAM");
    scene.key = key(&[named]);
    scene.identity = identity(&[statement("Allow", None, None)]);
    scene.boundary = identity(&[statement("Allow", None, None)]);
    assert_eq!(
        scene.decide().unwrap(),
        "statement 2 (\"Enable IAM\") of the resource-based policy default, statement 2 of the identity-based \
         policy i, statement 2 of the permissions boundary b"
    );
    scene.grant = Some("g");
    scene.identity = None;
    assert_eq!(scene.decide().unwrap(), "grant g");
    let refusal = Refusal::Missing(Layer::Resource);
    assert_eq!(
        refusal.sentence(&scene.principal, "kms:Decrypt", KEY),
        format!(
            "User: {USER} is not authorized to perform: kms:Decrypt on resource: {KEY} because no resource-based \
             policy allows the kms:Decrypt action"
        )
    );
}

#[test]
fn of_several_statements_the_one_that_reaches_furthest_counts() {
    let (account, by_name) = (statement("Allow", Some(OWN), None), statement("Allow", Some(USER), None));
    let all = statement("Allow", Some("*"), None);
    for statements in [
        [account.clone(), by_name.clone()],
        [by_name, account.clone()],
        [account.clone(), all.clone()],
        [all, account],
    ] {
        let mut scene = Scene::new(USER);
        scene.key = key(&statements);
        assert!(scene.decide().is_ok(), "{statements:?}");
    }
    // The same within one statement.
    let mut both = statement("Allow", None, None);
    both["Principal"] = json!({"AWS": [OWN, USER]});
    let mut scene = Scene::new(USER);
    scene.key = key(&[both]);
    assert!(scene.decide().is_ok());
}
