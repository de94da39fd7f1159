//! As in [`super::kms_kill`], for what reaches further: policies, grants, imported material, signatures, multi-Region
//! keys over two regions, and identities. Three logs, and each store must be what its log says.

mod people;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kmsfs::audit::{ChainHead, Filter, Found};
use kmsfs::kms::identity::IdentitySession;
use kmsfs::kms::{Clock, Home, Kms, Session};
use serde_json::{Value, json};

use super::kms_kill::{
    Dice, Fast, Made, call, caller, journal, kill, open, read_journal, rounds, unix_millis,
};
use people::People;

const REGIONS: [&str; 2] = ["us-east-1", "eu-west-1"];
/// The place of the directory's log, behind the regions'.
const IAM: usize = 2;
/// Six minutes in a millisecond: a key that is to go in seven days goes within a few rounds.
const PACE: i64 = 360;
/// What must have been done at least once, or nothing was tested.
const CHANGES: [&str; 20] = [
    "AddUserToGroup",
    "AttachUserPolicy",
    "CreateAccessKey",
    "CreateGrant",
    "CreatePolicyVersion",
    "DeleteAccessKey",
    "DeleteImportedKeyMaterial",
    "DeleteUserPolicy",
    "GenerateMac",
    "ImportKeyMaterial",
    "PutKeyPolicy",
    "PutUserPolicy",
    "ReplicateKey",
    "RetireGrant",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "Sign",
    "UpdateAccessKey",
    "UpdatePrimaryRegion",
];

fn fast(since: u64) -> Fast {
    Fast { since, pace: PACE, stopped: None }
}

fn sessions(kms: &Arc<Kms>, agent: &str) -> [Session; 2] {
    REGIONS.map(|region| kms.session(caller(agent), &region.parse().unwrap()).unwrap())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Imported material, as the log tells it.
#[derive(Debug, Clone, PartialEq)]
struct Material {
    there: bool,
    waits: bool,
    due: Option<Timestamp>,
}

/// A key as the log tells it.
#[derive(Debug, Default, Clone, PartialEq)]
struct KeyState {
    state: &'static str,
    /// None: the default.
    policy: Option<String>,
    /// Names of grants, by their ids.
    grants: BTreeMap<String, String>,
    /// Of a key of origin EXTERNAL, in the order in which they came.
    imported: Option<Vec<(String, Material)>>,
}

impl KeyState {
    /// A key works with all of its material only.
    fn settle(&mut self) {
        let Some(materials) = &self.imported else { return };
        let mut own = materials.iter().filter(|(_, m)| !m.waits).peekable();
        let whole = own.peek().is_some() && own.all(|(_, m)| m.there);
        self.state = match self.state {
            "Going" => "Going",
            _ if !whole => "PendingImport",
            "PendingImport" => "Enabled",
            other => other,
        };
    }
}

type Keys = BTreeMap<String, KeyState>;

/// The last part of the ARN of the key that an event concerns.
fn key_of(event: &Value) -> String {
    event["resources"][0]["ARN"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

/// What a change has changed in a region.
fn follow(keys: &mut Keys, event: &Value) {
    let parameters = &event["requestParameters"];
    let name = event["eventName"].as_str().unwrap();
    let id = key_of(event);
    match name {
        "CreateKey" => {
            let external = parameters["origin"] == "EXTERNAL";
            let imported = external.then(Vec::new);
            let state = if external { "PendingImport" } else { "Enabled" };
            let made = KeyState { state, imported, ..KeyState::default() };
            assert_eq!(keys.insert(id, made), None, "made twice: {event}");
            return;
        }
        "DeleteKey" => {
            assert_eq!(keys.remove(&id).unwrap().state, "Going");
            return;
        }
        // These change what related keys share, which is looked at by itself.
        "ReplicateKey" | "UpdatePrimaryRegion" | "SynchronizeMultiRegionKey" | "RotateKey" => return,
        _ => {}
    }
    let key = keys.get_mut(&id).unwrap_or_else(|| panic!("no key of {event}"));
    let material = event["additionalEventData"]["keyMaterialId"].as_str().unwrap_or_default();
    match name {
        "EnableKey" => key.state = "Enabled",
        "DisableKey" => key.state = "Disabled",
        "CancelKeyDeletion" => key.state = "Disabled",
        "ScheduleKeyDeletion" => key.state = "Going",
        "PutKeyPolicy" => key.policy = Some(text(&parameters["policy"])),
        "CreateGrant" => {
            key.grants.insert(text(&event["responseElements"]["grantId"]), text(&parameters["name"]));
        }
        "RetireGrant" => drop(key.grants.remove(&text(&event["additionalEventData"]["grantId"])).unwrap()),
        "RevokeGrant" => drop(key.grants.remove(&text(&parameters["grantId"])).unwrap()),
        "RotateKeyOnDemand" => {
            for (_, material) in key.imported.iter_mut().flatten() {
                material.waits = false;
            }
        }
        "ImportKeyMaterial" => {
            let due = parameters["validTo"].as_str().map(|due| due.parse().unwrap());
            let all = key.imported.as_mut().unwrap();
            let waits = !all.is_empty();
            match all.iter_mut().find(|(id, _)| id == material) {
                Some((_, known)) => (known.there, known.due) = (true, due),
                None => all.push((material.to_owned(), Material { there: true, waits, due })),
            }
        }
        "DeleteImportedKeyMaterial" => {
            let all = key.imported.as_mut().unwrap();
            all.retain(|(id, m)| id != material || !m.waits);
            if let Some((_, known)) = all.iter_mut().find(|(id, _)| id == material) {
                (known.there, known.due) = (false, None);
            }
        }
        "DeleteExpiredKeyMaterial" => {
            let all = key.imported.as_mut().unwrap();
            let first = all.iter_mut().filter(|(_, m)| m.due.is_some()).min_by_key(|(_, m)| m.due);
            let (_, known) = first.unwrap();
            (known.there, known.due) = (false, None);
        }
        other => panic!("the log has a {other} that nobody called"),
    }
    key.settle();
}

fn ask(session: &Session, operation: &str, body: Value) -> Value {
    call(session, operation, &body).unwrap_or_else(|error| panic!("{operation} {body}: {error}"))
}

/// The keys of a region, as the service answers.
fn keys_of(session: &Session) -> Keys {
    let listed = ask(session, "ListKeys", json!({"Limit": 1000}));
    assert_eq!(listed["Truncated"], false);
    let mut keys = Keys::new();
    for key in listed["Keys"].as_array().unwrap() {
        let id = json!({"KeyId": key["KeyId"]});
        let metadata = ask(session, "DescribeKey", id.clone())["KeyMetadata"].clone();
        let state = match metadata["KeyState"].as_str().unwrap() {
            "PendingDeletion" | "PendingReplicaDeletion" => "Going",
            other => ["Enabled", "Disabled", "PendingImport"].into_iter().find(|s| *s == other).unwrap(),
        };
        let policy = text(&ask(session, "GetKeyPolicy", id.clone())["Policy"]);
        let grants = ask(session, "ListGrants", id.clone());
        let grants = grants["Grants"].as_array().unwrap().iter();
        let all = json!({"KeyId": key["KeyId"], "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
        let imported = (metadata["Origin"] == "EXTERNAL").then(|| {
            let rotations = ask(session, "ListKeyRotations", all);
            let entry = |found: &Value| {
                let seconds = found["ValidTo"].as_f64();
                let material = Material {
                    there: found["ImportState"] == "IMPORTED",
                    waits: text(&found["KeyMaterialState"]).starts_with("PENDING"),
                    due: seconds.map(|s| Timestamp::from_millisecond((s * 1000.0).round() as i64).unwrap()),
                };
                (text(&found["KeyMaterialId"]), material)
            };
            rotations["Rotations"].as_array().unwrap().iter().map(entry).collect()
        });
        let state = KeyState {
            state,
            policy: Some(policy).filter(|policy| !policy.contains("key-default-1")),
            grants: grants.map(|grant| (text(&grant["GrantId"]), text(&grant["Name"]))).collect(),
            imported,
        };
        keys.insert(text(&metadata["KeyId"]), state);
    }
    keys
}

struct Bed {
    dir: tempfile::TempDir,
    since: u64,
    keys: [Keys; 2],
    people: People,
    heads: [Option<ChainHead>; 3],
    /// Secrets of access keys that were told, by their ids.
    secrets: BTreeMap<String, String>,
    dice: Dice,
}

/// What this round's calls leave of a multi-Region key.
#[derive(Default)]
struct Expected {
    primary: usize,
    replicated: bool,
    rotations: usize,
    /// Somebody asked for its end, or was killed while changing it.
    open: bool,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-kill-all-").tempdir().unwrap();
        let since = unix_millis();
        Home::open_or_create(&dir.path().join("home")).unwrap();
        let kms = open(&dir.path().join("home"), fast(since));
        for region in REGIONS {
            kms.create_region(&region.parse().unwrap(), None).unwrap();
        }
        // The directory is made by the first call of IAM.
        kms.identity(caller("judge")).call_json("ListUsers", json!({})).unwrap();
        Self {
            dir,
            since,
            keys: Default::default(),
            people: People::default(),
            heads: [None; 3],
            secrets: BTreeMap::new(),
            dice: Dice(since | 1),
        }
    }

    /// How often each operation was answered, and not refused.
    fn round(&mut self, round: usize, done: &mut BTreeMap<String, usize>) {
        let agents =
            kill("kms_kill_all::worker::worker", 12_000, round, self.dir.path(), self.since, &mut self.dice);
        let now = fast(self.since).now();
        // Opening does what is due; from then on time stands.
        let kms = open(&self.dir.path().join("home"), Fast { stopped: Some(now), ..fast(self.since) });
        let sessions = sessions(&kms, "judge");
        let iam = kms.identity(caller("judge"));
        kms.tick();
        kms.tick();
        let journals: Vec<(String, Vec<Made>)> =
            agents.into_iter().map(|a| (a.clone(), read_journal(&journal(self.dir.path(), &a)))).collect();
        let mut seen = BTreeSet::new();
        for place in 0..3 {
            let events = self.events(&sessions, &iam, place);
            for event in &events {
                if event.get("errorCode").is_none() && event["readOnly"] == false {
                    match place {
                        IAM => self.people.follow(event),
                        region => follow(&mut self.keys[region], event),
                    }
                }
                assert!(seen.insert(text(&event["eventID"])));
            }
            for (agent, made) in &journals {
                recorded(agent, made, place, &events);
            }
        }
        // No change is half there, and none is there that the log does not have.
        for (region, session) in sessions.iter().enumerate() {
            assert_eq!(keys_of(session), self.keys[region], "{}", REGIONS[region]);
        }
        assert_eq!(People::asked(&iam), self.people);
        self.relatives(&sessions, &journals);
        for (_, made) in &journals {
            self.work_again(&sessions, made);
        }
        self.sign_in_again(&kms, &journals);
        self.thin_out(&sessions);
        for (place, head) in self.heads.iter().enumerate() {
            match place {
                IAM => assert!(iam.verify_log(*head).unwrap().is_some()),
                region => drop(sessions[region].verify_log(*head).unwrap()),
            }
        }
        for made in journals.into_iter().flat_map(|(_, made)| made) {
            if let Some(Ok(_)) = made.outcome {
                *done.entry(made.operation).or_default() += 1;
            }
        }
    }

    /// The events since the last time, oldest first, of a log that holds.
    fn events(&mut self, sessions: &[Session; 2], iam: &IdentitySession, place: usize) -> Vec<Value> {
        let before = self.heads[place];
        let head = match place {
            IAM => iam.verify_log(before).unwrap().unwrap(),
            region => sessions[region].verify_log(before).unwrap(),
        };
        self.heads[place] = Some(head);
        let before = before.map_or(0, |head| head.sequence);
        // With what is asked here, as the logs grow meanwhile.
        let limit = Some(usize::try_from(head.sequence - before).unwrap() + 10_000);
        let filter = Filter { limit, ..Filter::default() };
        let mut found = match place {
            IAM => iam.lookup_events(&filter).unwrap(),
            region => sessions[region].lookup_events(&filter).unwrap(),
        };
        // A region may show what stands in the log of identities, under the numbers of that.
        let of_identities =
            |f: &Found| ["iam.amazonaws.com", "sts.amazonaws.com"].contains(&&*f.event.event_source);
        found.retain(|found| of_identities(found) == (place == IAM));
        found.retain(|found| found.sequence > before && found.sequence <= head.sequence);
        found.reverse();
        found.iter().map(|found| serde_json::from_str(&found.json).unwrap()).collect()
    }

    /// Related keys agree, and what was answered of them is so.
    fn relatives(&self, sessions: &[Session; 2], journals: &[(String, Vec<Made>)]) {
        let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
        for (_, made) in journals {
            for made in made.iter().filter(|made| made.place != Some(IAM)) {
                let done = matches!(made.outcome, Some(Ok(_)));
                if let Some(Ok(answer)) = &made.outcome
                    && made.operation == "CreateKey"
                    && made.body["MultiRegion"] == true
                {
                    let id = text(&answer["KeyMetadata"]["KeyId"]);
                    let primary = made.place.unwrap();
                    expected.insert(id, Expected { primary, ..Expected::default() });
                }
                let Some(id) = made.body["KeyId"].as_str() else { continue };
                let Some(key) = expected.get_mut(id) else { continue };
                key.open |= made.outcome.is_none();
                match &*made.operation {
                    "ReplicateKey" => key.replicated |= done,
                    "UpdatePrimaryRegion" if done => key.primary = 1 - key.primary,
                    "RotateKeyOnDemand" if done => key.rotations += 1,
                    "ScheduleKeyDeletion" => key.open = true,
                    _ => {}
                }
            }
        }
        let ids: BTreeSet<&String> =
            self.keys.iter().flat_map(Keys::keys).filter(|id| id.starts_with("mrk-")).collect();
        for id in ids {
            let of_key = json!({ "KeyId": id });
            let found: Vec<(usize, Value, Value)> = (0..2)
                .filter(|region| self.keys[*region].contains_key(id))
                .map(|region| {
                    let metadata =
                        ask(&sessions[region], "DescribeKey", of_key.clone())["KeyMetadata"].clone();
                    let all = json!({"KeyId": id, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
                    let mut rotations = ask(&sessions[region], "ListKeyRotations", all)["Rotations"].clone();
                    for rotation in rotations.as_array_mut().unwrap() {
                        rotation.as_object_mut().unwrap().remove("KeyId");
                    }
                    (region, metadata, rotations)
                })
                .collect();
            let (_, first, rotations) = &found[0];
            let primary = first["MultiRegionConfiguration"]["PrimaryKey"]["Region"].as_str().unwrap();
            let primary = REGIONS.iter().position(|region| *region == primary).unwrap();
            for (region, metadata, its_rotations) in &found {
                let what = format!("{id} in {}: {metadata}", REGIONS[*region]);
                let configuration = &metadata["MultiRegionConfiguration"];
                let (role, of) = if *region == primary { ("PRIMARY", true) } else { ("REPLICA", false) };
                assert_eq!(configuration["MultiRegionKeyType"], role, "{what}");
                assert!(found.iter().any(|(r, ..)| *r == primary), "no primary of {what}");
                let replicas = configuration["ReplicaKeys"].as_array().unwrap().len();
                assert_eq!(replicas, found.len() - 1, "{of} {what}");
                assert_eq!(configuration["PrimaryKey"], first["MultiRegionConfiguration"]["PrimaryKey"]);
                assert_eq!(metadata["CurrentKeyMaterialId"], first["CurrentKeyMaterialId"], "{what}");
                assert_eq!(its_rotations, rotations, "{what}");
            }
            let Some(expected) = expected.get(id).filter(|expected| !expected.open) else { continue };
            assert_eq!(primary, expected.primary, "{id}");
            assert_eq!(found.len(), 1 + usize::from(expected.replicated), "{id}");
            assert_eq!(rotations.as_array().unwrap().len(), 1 + expected.rotations, "{id}");
        }
    }

    /// What was encrypted opens, what was signed verifies, where its key is usable.
    fn work_again(&self, sessions: &[Session; 2], made: &[Made]) {
        for made in made {
            let (Some(Ok(answer)), Some(place)) = (&made.outcome, made.place) else { continue };
            let (operation, body) = match &*made.operation {
                "Encrypt" => ("Decrypt", json!({"CiphertextBlob": answer["CiphertextBlob"]})),
                "Sign" => {
                    let mut body = made.body.clone();
                    body["Signature"] = answer["Signature"].clone();
                    ("Verify", body)
                }
                "GenerateMac" => {
                    let mut body = made.body.clone();
                    body["Mac"] = answer["Mac"].clone();
                    ("VerifyMac", body)
                }
                _ => continue,
            };
            for (region, session) in sessions.iter().enumerate() {
                let id = made.body["KeyId"].as_str().unwrap();
                if region != place && !id.starts_with("mrk-") {
                    continue;
                }
                let again = call(session, operation, &body);
                match self.keys[region].get(id).map(|key| key.state) {
                    Some("Enabled") if operation == "Decrypt" => {
                        assert_eq!(again.unwrap()["Plaintext"], made.body["Plaintext"]);
                    }
                    Some("Enabled") => assert!(again.is_ok(), "{operation} {body}: {again:?}"),
                    _ => assert!(again.is_err(), "{operation} {body}"),
                }
            }
        }
    }

    /// Secrets that were told once are those of the keys that there are.
    fn sign_in_again(&mut self, kms: &Kms, journals: &[(String, Vec<Made>)]) {
        for made in journals.iter().flat_map(|(_, made)| made) {
            if let ("CreateAccessKey", Some(Ok(answer))) = (&*made.operation, &made.outcome) {
                let key = &answer["AccessKey"];
                self.secrets.insert(text(&key["AccessKeyId"]), text(&key["SecretAccessKey"]));
            }
        }
        let standing: BTreeMap<&String, &String> =
            self.people.users.values().flat_map(|user| &user.access_keys).collect();
        self.secrets.retain(|id, secret| {
            let found = kms.credential(id, None);
            let active = standing.get(id).is_some_and(|status| *status == "Active");
            assert_eq!(found.is_ok(), active, "{id}");
            assert!(found.is_err() || found.is_ok_and(|f| f.secret.expose() == secret.as_bytes()), "{id}");
            standing.contains_key(id)
        });
    }

    /// Lets most keys go while the next processes work and are killed.
    fn thin_out(&mut self, sessions: &[Session; 2]) {
        for (region, session) in sessions.iter().enumerate() {
            for (id, key) in &self.keys[region] {
                if key.state != "Going" && self.dice.below(6) > 0 {
                    ask(session, "ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 7}));
                }
            }
        }
    }
}

/// Every call that was answered has its event, in its order; at most the last one has one without an answer.
fn recorded(agent: &str, made: &[Made], place: usize, events: &[Value]) {
    let unanswered = made.iter().filter(|made| made.outcome.is_none()).count();
    assert!(unanswered <= 1, "{agent}");
    let made: Vec<&Made> = made.iter().filter(|made| made.place == Some(place)).collect();
    let events: Vec<&Value> = events.iter().filter(|event| event["userAgent"] == agent).collect();
    let acknowledged = made.iter().filter(|made| made.outcome.is_some()).count();
    assert!((acknowledged..=made.len()).contains(&events.len()), "{agent}");
    for (made, event) in made.iter().zip(events) {
        assert_eq!(event["eventName"], *made.operation, "{agent}");
        match &made.outcome {
            Some(Err(error)) => assert_eq!(event["errorCode"], **error),
            Some(Ok(_)) => assert_eq!(event.get("errorCode"), None),
            None => {}
        }
    }
}

#[test]
fn killed_processes_leave_regions_and_identities_that_are_what_their_logs_say() {
    let rounds = rounds();
    let mut bed = Bed::new();
    let mut done = BTreeMap::new();
    for round in 0..rounds {
        bed.round(round, &mut done);
    }
    println!("{rounds} rounds, {} calls done: {done:?}", done.values().sum::<usize>());
    for operation in CHANGES.iter().filter(|_| rounds >= 20) {
        assert!(done.contains_key(*operation), "no {operation} was done in {rounds} rounds: {done:?}");
    }
}
