//! The processes that are killed.

use std::fs::{File, OpenOptions};
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::SignedDuration;
use kmsfs::crypto::asymmetric::{Oaep, PublicKey};
use kmsfs::crypto::wrap;
use kmsfs::kms::identity::IdentitySession;
use kmsfs::kms::{Clock, Session};
use serde_json::{Value, json};

use super::super::kms_kill::{ACCOUNT, Dice, Fast, THREADS, call, caller, journal, open, told};
use super::{IAM, REGIONS, fast, sessions, text};

const WRAPPED_WITH: &str = "RSA_AES_KEY_WRAP_SHA_256";

fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap()).unwrap()
}

#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Plain,
    Pair,
    Mac,
    Imported,
    /// With the region of its primary key.
    Related(usize),
}

/// A key that one thread made, and that no other changes.
#[derive(Clone)]
struct Own {
    sort: Sort,
    region: usize,
    id: String,
    grants: Vec<(String, String)>,
    /// Material that was imported once, in base64.
    materials: Vec<String>,
}

struct Thread {
    clock: Fast,
    sessions: [Session; 2],
    iam: IdentitySession,
    agent: String,
    journal: File,
    dice: Dice,
    keys: Vec<Own>,
    calls: usize,
}

impl Thread {
    fn note(&mut self, line: &Value) {
        // One call of the system: a line is there or not.
        self.journal.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// One call, written down before it is made, and again with its outcome when it is answered.
    fn ask(&mut self, place: usize, operation: &str, body: Value) -> Option<Value> {
        self.calls += 1;
        self.note(&json!({"place": place, "operation": operation, "body": body}));
        let answer = match place {
            IAM => self.iam.call_json(operation, body).map_err(|error| error.kind.name()),
            region => call(&self.sessions[region], operation, &body),
        };
        match &answer {
            Ok(answer) => self.note(&json!({ "answer": answer })),
            Err(error @ ("KMSInternalException" | "DependencyTimeoutException" | "ServiceFailure")) => {
                panic!("{operation}: {error}")
            }
            Err(error) => self.note(&json!({ "error": error })),
        }
        answer.ok()
    }

    fn step(&mut self) {
        let most = if self.keys.len() < 3 { 2 } else { 40 };
        match self.dice.below(most) {
            0 | 1 => self.make(),
            2..14 => self.identity(),
            _ => {
                let which = self.dice.below(self.keys.len());
                let mut key = self.keys[which].clone();
                match key.sort {
                    Sort::Related(primary) => self.related(&mut key, primary),
                    Sort::Imported if self.dice.below(4) > 0 => self.imported(&mut key),
                    _ if self.dice.below(2) == 0 => self.manage(&mut key),
                    _ => self.work(&key),
                }
                self.keys[which] = key;
            }
        }
    }

    fn make(&mut self) {
        if self.keys.len() >= 10 {
            return;
        }
        let region = self.dice.below(2);
        let (sort, body) = match self.dice.below(6) {
            0 => (Sort::Plain, json!({})),
            1 => (Sort::Pair, json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"})),
            2 => (Sort::Mac, json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"})),
            3 => (Sort::Imported, json!({"Origin": "EXTERNAL"})),
            _ => (Sort::Related(region), json!({"MultiRegion": true})),
        };
        let Some(answer) = self.ask(region, "CreateKey", body) else { return };
        let id = text(&answer["KeyMetadata"]["KeyId"]);
        self.keys.push(Own { sort, region, id, grants: Vec::new(), materials: Vec::new() });
    }

    fn manage(&mut self, key: &mut Own) {
        let n = self.dice.below(4);
        let id = &key.id;
        match self.dice.below(14) {
            0..3 => {
                let policy = json!({
                    "Version": "2012-10-17",
                    "Id": format!("{} {}", self.agent, self.calls),
                    "Statement": {
                        "Effect": "Allow",
                        "Principal": {"AWS": format!("arn:aws:iam::{ACCOUNT}:root")},
                        "Action": "kms:*",
                        "Resource": "*",
                    },
                });
                self.ask(key.region, "PutKeyPolicy", json!({"KeyId": id, "Policy": policy.to_string()}));
            }
            3..7 => {
                let grantee = format!("arn:aws:iam::111122223333:user/u{n}");
                let operations = if key.sort == Sort::Pair { "Verify" } else { "DescribeKey" };
                let body = json!({
                    "KeyId": id, "GranteePrincipal": grantee, "Operations": [operations], "Name": format!("g{n}"),
                });
                if let Some(made) = self.ask(key.region, "CreateGrant", body) {
                    key.grants.push((text(&made["GrantId"]), text(&made["GrantToken"])));
                }
            }
            7..9 => {
                if let Some((_, token)) = key.grants.pop() {
                    self.ask(key.region, "RetireGrant", json!({ "GrantToken": token }));
                }
            }
            9..11 => {
                if let Some((grant, _)) = key.grants.pop() {
                    self.ask(key.region, "RevokeGrant", json!({"KeyId": id, "GrantId": grant}));
                }
            }
            11 => drop(self.ask(key.region, "DisableKey", json!({ "KeyId": id }))),
            12 => drop(self.ask(key.region, "EnableKey", json!({ "KeyId": id }))),
            _ => {
                let body = json!({"KeyId": id, "PendingWindowInDays": 7});
                if self.ask(key.region, "ScheduleKeyDeletion", body).is_some() && n > 0 {
                    self.ask(key.region, "CancelKeyDeletion", json!({ "KeyId": id }));
                    self.ask(key.region, "EnableKey", json!({ "KeyId": id }));
                }
            }
        }
    }

    fn work(&mut self, key: &Own) {
        let message = BASE64.encode(format!("{} {}", self.agent, self.calls));
        let (operation, body) = match key.sort {
            Sort::Pair => {
                ("Sign", json!({"KeyId": key.id, "Message": message, "SigningAlgorithm": "ECDSA_SHA_256"}))
            }
            Sort::Mac => {
                ("GenerateMac", json!({"KeyId": key.id, "Message": message, "MacAlgorithm": "HMAC_SHA_256"}))
            }
            _ => ("Encrypt", json!({"KeyId": key.id, "Plaintext": message})),
        };
        self.ask(key.region, operation, body);
    }

    fn imported(&mut self, key: &mut Own) {
        let (id, region) = (key.id.clone(), key.region);
        if key.materials.is_empty() || self.dice.below(2) == 0 {
            let body = json!({"KeyId": id, "WrappingAlgorithm": WRAPPED_WITH, "WrappingKeySpec": "RSA_2048"});
            let Some(parameters) = self.ask(region, "GetParametersForImport", body) else { return };
            let again = !key.materials.is_empty() && self.dice.below(3) > 0;
            let material = if again {
                bytes(&json!(key.materials[self.dice.below(key.materials.len())]))
            } else {
                (0..32).map(|_| self.dice.below(256) as u8).collect()
            };
            let public = PublicKey::parse(&bytes(&parameters["PublicKey"])).unwrap();
            let wrapped = wrap::rsa_aes_wrap(&public, Oaep::Sha256, &material).unwrap();
            let mut body = json!({
                "KeyId": id,
                "ImportToken": parameters["ImportToken"],
                "EncryptedKeyMaterial": BASE64.encode(wrapped),
                "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
            });
            if !again && !key.materials.is_empty() {
                body["ImportType"] = json!("NEW_KEY_MATERIAL");
            }
            if self.dice.below(3) == 0 {
                let due = self.clock.now() + SignedDuration::from_hours(1 + self.dice.below(40) as i64);
                body["ExpirationModel"] = json!("KEY_MATERIAL_EXPIRES");
                body["ValidTo"] = json!(due.as_second());
            }
            if self.ask(region, "ImportKeyMaterial", body).is_some() && !again {
                key.materials.push(BASE64.encode(material));
            }
            return;
        }
        match self.dice.below(3) {
            0 => self.ask(region, "DeleteImportedKeyMaterial", json!({ "KeyId": id })),
            1 => self.ask(region, "RotateKeyOnDemand", json!({ "KeyId": id })),
            _ => self.ask(region, "Encrypt", json!({"KeyId": id, "Plaintext": BASE64.encode(&self.agent)})),
        };
    }

    fn related(&mut self, key: &mut Own, primary: usize) {
        let (id, other) = (key.id.clone(), 1 - primary);
        let of_key = json!({ "KeyId": id });
        match self.dice.below(12) {
            0..3 => {
                self.ask(primary, "ReplicateKey", json!({"KeyId": id, "ReplicaRegion": REGIONS[other]}));
            }
            3..5 => {
                let body = json!({"KeyId": id, "PrimaryRegion": REGIONS[other]});
                if self.ask(primary, "UpdatePrimaryRegion", body).is_some() {
                    key.sort = Sort::Related(other);
                    key.region = other;
                }
            }
            5..7 => drop(self.ask(primary, "RotateKeyOnDemand", of_key)),
            7 if self.dice.below(3) == 0 => {
                self.ask(other, "ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 7}));
            }
            8 => {
                self.ask(other, "CancelKeyDeletion", of_key.clone());
                self.ask(other, "EnableKey", of_key);
            }
            9 => self.manage_replica(key, other),
            _ => {
                let body = json!({"KeyId": id, "Plaintext": BASE64.encode(&self.agent)});
                let made = self.ask(primary, "Encrypt", body);
                if let Some(made) = made {
                    self.ask(other, "Decrypt", json!({"CiphertextBlob": made["CiphertextBlob"]}));
                }
            }
        }
    }

    /// Policies and grants are each one's own.
    fn manage_replica(&mut self, key: &Own, region: usize) {
        let mut there = Own { region, grants: Vec::new(), ..key.clone() };
        for _ in 0..2 {
            self.manage(&mut there);
        }
    }

    /// The same few names for all threads: they change each other's.
    fn identity(&mut self) {
        let user = format!("u{}", self.dice.below(6));
        let group = format!("g{}", self.dice.below(3));
        let name = format!("p{}", self.dice.below(3));
        let arn = format!("arn:aws:iam::{ACCOUNT}:policy/{name}");
        let document = json!({
            "Version": "2012-10-17",
            "Statement": {
                "Sid": format!("n{}", self.dice.below(1_000_000)),
                "Effect": "Allow",
                "Action": "kms:*",
                "Resource": "*",
            },
        });
        let document = document.to_string();
        let of_user = json!({ "UserName": user });
        let (operation, body) = match self.dice.below(24) {
            0..3 => ("CreateUser", of_user),
            3 => ("DeleteUser", of_user),
            4..7 => {
                ("PutUserPolicy", json!({"UserName": user, "PolicyName": name, "PolicyDocument": document}))
            }
            7 => ("DeleteUserPolicy", json!({"UserName": user, "PolicyName": name})),
            8..10 => ("CreateAccessKey", of_user),
            10..12 => {
                let Some(found) = self.ask(IAM, "ListAccessKeys", of_user) else { return };
                let Some(id) = found["AccessKeyMetadata"].get(0).map(|key| text(&key["AccessKeyId"])) else {
                    return;
                };
                let status = ["Active", "Inactive"][self.dice.below(2)];
                match self.dice.below(3) {
                    0 => ("DeleteAccessKey", json!({"UserName": user, "AccessKeyId": id})),
                    _ => ("UpdateAccessKey", json!({"UserName": user, "AccessKeyId": id, "Status": status})),
                }
            }
            12 => ("CreateGroup", json!({ "GroupName": group })),
            13..15 => ("AddUserToGroup", json!({"GroupName": group, "UserName": user})),
            15 => ("RemoveUserFromGroup", json!({"GroupName": group, "UserName": user})),
            16..18 => ("CreatePolicy", json!({"PolicyName": name, "PolicyDocument": document})),
            18 => {
                let default = self.dice.below(2) == 0;
                let body = json!({"PolicyArn": arn, "PolicyDocument": document, "SetAsDefault": default});
                ("CreatePolicyVersion", body)
            }
            19 => {
                let version = format!("v{}", 1 + self.dice.below(9));
                ("DeletePolicyVersion", json!({"PolicyArn": arn, "VersionId": version}))
            }
            20 => ("DeletePolicy", json!({ "PolicyArn": arn })),
            21..23 => ("AttachUserPolicy", json!({"UserName": user, "PolicyArn": arn})),
            _ => ("DetachUserPolicy", json!({"UserName": user, "PolicyArn": arn})),
        };
        self.ask(IAM, operation, body);
    }
}

#[test]
#[ignore = "the process that the next test starts and kills"]
fn worker() {
    let Some((name, dir, since)) = told() else { return };
    let kms = open(&dir.join("home"), fast(since));
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let (agent, kms, dir) = (format!("{name}-{n}"), &kms, &dir);
            scope.spawn(move || {
                let journal =
                    OpenOptions::new().create(true).append(true).open(journal(dir, &agent)).unwrap();
                let seed = agent.bytes().fold(since | 1, |seed, b| seed.rotate_left(7) ^ u64::from(b));
                let mut thread = Thread {
                    clock: fast(since),
                    sessions: sessions(kms, &agent),
                    iam: kms.identity(caller(&agent)),
                    agent,
                    journal,
                    dice: Dice(seed),
                    keys: Vec::new(),
                    calls: 0,
                };
                loop {
                    thread.step();
                    if thread.dice.below(10) == 0 {
                        kms.tick();
                    }
                }
            });
        }
    });
}
