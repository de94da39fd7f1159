//! Policies, grants and imported material against a simple model: who may use a key, and whether it can be used.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::grants::{ALICE, ROOT, at, grant_with, retire, revoke};
use super::import::{delete, external, request};
use super::*;

const KEYS: usize = 3;
/// This key's material is imported.
const IMPORTED: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// The account's root alone.
    Default,
    /// Alice too, to encrypt and decrypt.
    Both,
    /// Alice too, to decrypt.
    Decrypt,
    /// Alice not, to decrypt.
    Deny,
    /// Alice not, to decrypt under this context.
    DenyUnder(usize),
}

#[derive(Debug, Clone)]
enum Act {
    Policy(usize, Rule),
    /// Key, the right to encrypt, the right to decrypt, a context that must be equal.
    Grant(usize, bool, bool, Option<usize>),
    Revoke(usize),
    Retire(usize),
    Enable(usize),
    Disable(usize),
    /// Which of two materials, and for how many hours.
    Import(u8, Option<i64>),
    Delete,
    Hours(i64),
    Encrypt(usize, usize),
    Decrypt(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let (key, pairs) = (0..KEYS, 0..2usize);
    let rule = prop_oneof![
        Just(Rule::Default),
        Just(Rule::Both),
        Just(Rule::Decrypt),
        Just(Rule::Deny),
        pairs.clone().prop_map(Rule::DenyUnder),
    ];
    let granted = (key.clone(), any::<bool>(), any::<bool>(), prop::option::of(pairs.clone()));
    prop_oneof![
        3 => (key.clone(), rule).prop_map(|(k, rule)| Act::Policy(k, rule)),
        4 => granted.prop_map(|(k, e, d, c)| Act::Grant(k, e, d || !e, c)),
        2 => (0..8usize).prop_map(Act::Revoke),
        1 => (0..8usize).prop_map(Act::Retire),
        2 => key.clone().prop_map(Act::Enable),
        1 => key.clone().prop_map(Act::Disable),
        2 => (0..8u8, prop::option::of(1..60i64)).prop_map(|(m, hours)| Act::Import(u8::from(m == 0), hours)),
        1 => Just(Act::Delete),
        1 => (1..40i64).prop_map(Act::Hours),
        6 => (key, pairs).prop_map(|(k, p)| Act::Encrypt(k, p)),
        8 => (0..12usize).prop_map(Act::Decrypt),
    ]
}

fn pairs(which: usize) -> EncryptionContext {
    context(&[("file", &which.to_string())])
}

struct Granted {
    key: usize,
    id: String,
    encrypt: bool,
    decrypt: bool,
    under: Option<usize>,
    alive: bool,
}

struct Model {
    keys: Vec<String>,
    rules: [Rule; KEYS],
    off: [bool; KEYS],
    grants: Vec<Granted>,
    hour: i64,
    /// The one material that the key takes; whether it is there, and until when.
    material: Option<u8>,
    there: bool,
    until: Option<i64>,
    blobs: Vec<(usize, usize, Vec<u8>)>,
}

const INVALID_STATE: Option<&str> = Some("KMSInvalidStateException");

impl Model {
    fn new(session: &Session) -> Self {
        let symmetric = external(session, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", false);
        Self {
            keys: vec![make(session), make(session), symmetric],
            rules: [Rule::Default; KEYS],
            off: [false; KEYS],
            grants: Vec::new(),
            hour: 0,
            material: None,
            there: false,
            until: None,
            blobs: Vec::new(),
        }
    }

    fn waits(&self, key: usize) -> bool {
        key == IMPORTED && !self.there
    }

    /// What alice's use of a key answers.
    fn use_of(&self, key: usize, decrypt: bool, under: usize) -> Option<&'static str> {
        let rule = self.rules[key];
        let denied = decrypt && (rule == Rule::Deny || rule == Rule::DenyUnder(under));
        let by_policy = rule == Rule::Both || decrypt && rule == Rule::Decrypt;
        let by_grant = self.grants.iter().any(|grant| {
            let operation = if decrypt { grant.decrypt } else { grant.encrypt };
            grant.alive && grant.key == key && operation && grant.under.is_none_or(|u| u == under)
        });
        if denied || !(by_policy || by_grant) {
            Some("AccessDeniedException")
        } else if self.waits(key) {
            INVALID_STATE
        } else if self.off[key] {
            Some("DisabledException")
        } else {
            None
        }
    }

    /// Does it in both and compares.
    fn go(&mut self, bench: &Bench, (session, alice): &(Session, Session), act: &Act) {
        fn name<T>(answer: Result<T, KmsError>) -> Option<&'static str> {
            answer.err().map(|error| error.kind.name())
        }
        if self.there && self.until.is_some_and(|until| until <= self.hour) {
            (self.there, self.until, self.off[IMPORTED]) = (false, None, false);
        }
        let (due, said) = match *act {
            Act::Policy(k, rule) => {
                self.rules[k] = rule;
                let body = json!({"KeyId": self.keys[k], "Policy": document(rule)});
                (None, name(json(session, "PutKeyPolicy", body)))
            }
            Act::Grant(key, encrypt, decrypt, under) => {
                let operations: Vec<&str> = [("Encrypt", encrypt), ("Decrypt", decrypt)]
                    .into_iter()
                    .filter_map(|(name, given)| given.then_some(name))
                    .collect();
                // Two grants that say the same are two, if they have no name.
                let more = under.map_or_else(
                    || json!({}),
                    |under| json!({"Constraints": {"EncryptionContextEquals": pairs(under)}}),
                );
                let made = grant_with(session, &self.keys[key], ALICE, &operations, &more);
                let due = if self.waits(key) {
                    INVALID_STATE
                } else if self.off[key] {
                    Some("DisabledException")
                } else {
                    None
                };
                if let Ok((id, _)) = &made {
                    self.grants.push(Granted { key, id: id.clone(), encrypt, decrypt, under, alive: true });
                }
                (due, name(made))
            }
            Act::Revoke(n) | Act::Retire(n) => {
                let Some(grant) = self.grants.get_mut(n) else { return };
                let due = (!grant.alive).then_some("NotFoundException");
                grant.alive = false;
                let arn = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{}", self.keys[grant.key]);
                let end = if matches!(act, Act::Revoke(_)) { revoke } else { retire };
                (due, name(end(session, &arn, &grant.id)))
            }
            Act::Enable(k) | Act::Disable(k) => {
                let off = matches!(act, Act::Disable(_));
                let operation = if off { "DisableKey" } else { "EnableKey" };
                let due = if self.waits(k) {
                    INVALID_STATE
                } else {
                    self.off[k] = off;
                    None
                };
                (due, name(json(session, operation, json!({"KeyId": self.keys[k]}))))
            }
            Act::Import(material, hours) => {
                let request = request(session, &self.keys[IMPORTED], &[material; 32]);
                let request = ImportKeyMaterialRequest {
                    expiration_model: hours.map_or(request.expiration_model.clone(), |_| None),
                    valid_to: hours.map(|hours| bench.clock.now() + SignedDuration::from_hours(hours)),
                    ..request
                };
                let due = match self.material {
                    Some(known) if known != material => Some("IncorrectKeyMaterialException"),
                    _ => {
                        (self.material, self.there) = (Some(material), true);
                        self.until = hours.map(|hours| self.hour + hours);
                        None
                    }
                };
                (due, name(session.call(request)))
            }
            Act::Delete => {
                if self.material.is_some() {
                    (self.there, self.until, self.off[IMPORTED]) = (false, None, false);
                }
                (None, name(delete(session, &self.keys[IMPORTED], None)))
            }
            Act::Hours(hours) => {
                self.hour += hours;
                *bench.clock.0.lock() += SignedDuration::from_hours(hours);
                return;
            }
            Act::Encrypt(k, under) => {
                let said = alice.encrypt(&self.keys[k], b"x", &pairs(under));
                if let Ok(made) = &said {
                    self.blobs.push((k, under, made.ciphertext.clone()));
                }
                (self.use_of(k, false, under), name(said))
            }
            Act::Decrypt(b) => {
                let Some((key, under, blob)) = self.blobs.get(b) else { return };
                let said = alice.decrypt(None, blob, &pairs(*under));
                if let Ok(opened) = &said {
                    assert_eq!(opened.plaintext.expose(), b"x");
                }
                (self.use_of(*key, true, *under), name(said))
            }
        };
        assert_eq!(said, due, "{act:?}");
    }
}

fn document(rule: Rule) -> String {
    let root = json!({"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"});
    let alice = |effect: &str, actions: &[&str]| json!({"Effect": effect, "Principal": {"AWS": ALICE}, "Action": actions, "Resource": "*"});
    let statements = match rule {
        Rule::Default => vec![root],
        Rule::Both => vec![root, alice("Allow", &["kms:Encrypt", "kms:Decrypt"])],
        Rule::Decrypt => vec![root, alice("Allow", &["kms:Decrypt"])],
        Rule::Deny => vec![root, alice("Deny", &["kms:Decrypt"])],
        Rule::DenyUnder(under) => {
            let mut deny = alice("Deny", &["kms:Decrypt"]);
            deny["Condition"] = json!({"StringEquals": {"kms:EncryptionContext:file": under.to_string()}});
            vec![root, deny]
        }
    };
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Two services on one home take turns, so that what one has cached the other changes.
    #[test]
    fn who_may_use_which_key_agrees_with_a_model(acts in vec((any::<bool>(), act()), 1..60)) {
        let bench = Bench::new();
        let other = bench.another();
        let alice = at(&bench, ALICE);
        let there = other.session(alice.caller().clone(), &region()).unwrap();
        let sessions = [(bench.session(), alice), (other.root_session(&region()).unwrap(), there)];
        let mut model = Model::new(&sessions[0].0);
        for (which, act) in &acts {
            model.go(&bench, &sessions[usize::from(*which)], act);
        }
        for (k, id) in model.keys.iter().enumerate() {
            let mut listed: Vec<String> = super::grants::list(&sessions[1].0, json!({"KeyId": id}))
                .iter()
                .map(|grant| grant["GrantId"].as_str().unwrap().to_owned())
                .collect();
            listed.sort();
            let mut left: Vec<String> =
                model.grants.iter().filter(|g| g.alive && g.key == k).map(|g| g.id.clone()).collect();
            left.sort();
            prop_assert_eq!(listed, left);
        }
        prop_assert!(sessions[1].0.verify_log(None).is_ok());
    }
}
