//! Processes that use one home are killed at random moments of mixed calls. Afterwards the store must be what
//! the log says, to the last change, and the log must have every call that was answered.
//!
//! The processes are this program again, running [`worker`]. An hour of their clock is a millisecond, so that keys
//! rotate and are deleted by themselves meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use kmsfs::audit::{ChainHead, Event, Filter};
use kmsfs::kms::{Caller, Clock, Home, Kms, KmsOptions, Session};
use serde_json::{Value, json};

pub const ACCOUNT: &str = "000000000000";
const REGION: &str = "us-east-1";
/// Processes of a round, and threads of a process.
pub const PROCESSES: usize = 2;
pub const THREADS: usize = 2;
/// Keys that a thread makes in a round.
const KEYS: usize = 4;

/// Time since the test's beginning, so many seconds for each millisecond; or one moment of it.
#[derive(Clone, Copy)]
pub struct Fast {
    pub since: u64,
    pub pace: i64,
    pub stopped: Option<Timestamp>,
}

const HOUR: i64 = 3600;

impl Clock for Fast {
    fn now(&self) -> Timestamp {
        self.stopped.unwrap_or_else(|| {
            let passed = i64::try_from(unix_millis().saturating_sub(self.since)).unwrap();
            Timestamp::from_second(1_800_000_000 + passed * self.pace).unwrap()
        })
    }
}

pub fn unix_millis() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub fn open(home: &Path, clock: Fast) -> Arc<Kms> {
    let options = KmsOptions { clock: Arc::new(clock), ..KmsOptions::new(ACCOUNT.parse().unwrap()) };
    Kms::open(home, options).unwrap()
}

/// The account's root, known by its user agent.
pub fn caller(agent: &str) -> Caller {
    Caller { user_agent: agent.to_owned(), ..Caller::root(ACCOUNT.parse().unwrap()) }
}

fn session(kms: &Arc<Kms>, agent: &str) -> Session {
    kms.session(caller(agent), &REGION.parse().unwrap()).unwrap()
}

/// AWS's answer, or the error's name.
pub fn call(session: &Session, operation: &str, body: &Value) -> Result<Value, &'static str> {
    let answer = session.call_json(operation, body.to_string().as_bytes()).map_err(|e| e.kind.name())?;
    Ok(if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer).unwrap() })
}

// ---- the processes that are killed

/// A small generator (xorshift): what a thread does must not depend on the others.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// One thread's calls: each is written down before it is made, and again with its outcome when it is answered.
struct Thread {
    session: Session,
    agent: String,
    journal: File,
    dice: Dice,
    keys: Vec<String>,
    blobs: Vec<String>,
    calls: usize,
}

impl Thread {
    fn note(&mut self, line: &Value) {
        // One call of the system: a line is there or not.
        self.journal.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn step(&mut self) {
        self.calls += 1;
        let (operation, body) = self.choose();
        self.note(&json!({"operation": operation, "body": body}));
        let answer = call(&self.session, operation, &body);
        match &answer {
            Ok(answer) => self.note(&json!({ "answer": answer })),
            // These are not answers of a service that works, and need no event.
            Err(error @ ("KMSInternalException" | "DependencyTimeoutException")) => {
                panic!("{operation}: {error}")
            }
            Err(error) => self.note(&json!({ "error": error })),
        }
        let Ok(answer) = answer else { return };
        if let Some(id) = answer.pointer("/KeyMetadata/KeyId") {
            self.keys.push(id.as_str().unwrap().to_owned());
        }
        if let Some(blob) = answer.get("CiphertextBlob") {
            self.blobs.push(blob.as_str().unwrap().to_owned());
        }
    }

    fn choose(&mut self) -> (&'static str, Value) {
        let text = format!("{} {}", self.agent, self.calls);
        if self.keys.is_empty() || self.keys.len() < KEYS && self.dice.below(12) == 0 {
            let tags = json!([{"TagKey": "made", "TagValue": text}]);
            return ("CreateKey", json!({"Description": text, "Tags": tags}));
        }
        let key = &self.keys[self.dice.below(self.keys.len())];
        let alias = format!("alias/{}-{}", self.agent, self.dice.below(3));
        let of_key = json!({"KeyId": key});
        match self.dice.below(24) {
            0 => ("UpdateKeyDescription", json!({"KeyId": key, "Description": text})),
            1 => {
                let name = format!("t{}", self.dice.below(4));
                ("TagResource", json!({"KeyId": key, "Tags": [{"TagKey": name, "TagValue": text}]}))
            }
            2 => {
                let name = format!("t{}", self.dice.below(4));
                ("UntagResource", json!({"KeyId": key, "TagKeys": [name, "made"]}))
            }
            3 => ("CreateAlias", json!({"AliasName": alias, "TargetKeyId": key})),
            4 => ("UpdateAlias", json!({"AliasName": alias, "TargetKeyId": key})),
            5 => ("DeleteAlias", json!({"AliasName": alias})),
            6 => ("DisableKey", of_key),
            7..9 => ("EnableKey", of_key),
            9 => {
                ("EnableKeyRotation", json!({"KeyId": key, "RotationPeriodInDays": 90 + self.dice.below(9)}))
            }
            10 => ("DisableKeyRotation", of_key),
            11 => ("RotateKeyOnDemand", of_key),
            12 => ("ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})),
            13 => ("CancelKeyDeletion", of_key),
            14 => ("GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_256"})),
            15 if !self.blobs.is_empty() => {
                let blob = &self.blobs[self.dice.below(self.blobs.len())];
                ("Decrypt", json!({ "CiphertextBlob": blob }))
            }
            _ => ("Encrypt", json!({"KeyId": key, "Plaintext": BASE64.encode(text)})),
        }
    }
}

/// What a process that is to be killed was started with: its name, the bed's directory and its beginning.
pub fn told() -> Option<(String, PathBuf, u64)> {
    let name = env::var("KMSFS_KILL_NAME").ok()?;
    let dir = PathBuf::from(env::var_os("KMSFS_KILL_DIR").unwrap());
    Some((name, dir, env::var("KMSFS_KILL_SINCE").unwrap().parse().unwrap()))
}

/// Starts processes that run an ignored test, and kills each in the middle of its work, once every thread has written
/// so many bytes of its journal, however busy the machine is. The agents: their threads.
pub fn kill(worker: &str, enough: u64, round: usize, dir: &Path, since: u64, dice: &mut Dice) -> Vec<String> {
    let names: Vec<String> = (0..PROCESSES).map(|n| format!("r{round}p{n}")).collect();
    let agents: Vec<String> =
        names.iter().flat_map(|name| (0..THREADS).map(move |n| format!("{name}-{n}"))).collect();
    let mut children: Vec<Child> = names.iter().map(|name| start(worker, name, dir, since)).collect();
    let begun = Instant::now();
    let works = |agent: &String| fs::metadata(journal(dir, agent)).is_ok_and(|m| m.len() > enough);
    while !agents.iter().all(works) && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    for (name, child) in names.iter().zip(&mut children) {
        // The second goes on for a while without the first.
        std::thread::sleep(Duration::from_micros(dice.below(300_000) as u64));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let said = fs::read_to_string(dir.join(format!("{name}.log"))).unwrap();
        assert_eq!(status.signal(), Some(9), "{name} ended by itself: {said}");
    }
    agents
}

fn start(worker: &str, name: &str, dir: &Path, since: u64) -> Child {
    let log = File::create(dir.join(format!("{name}.log"))).unwrap();
    Command::new(env::current_exe().unwrap())
        .args([worker, "--exact", "--ignored", "--nocapture"])
        .env("KMSFS_KILL_NAME", name)
        .env("KMSFS_KILL_DIR", dir)
        .env("KMSFS_KILL_SINCE", since.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// How often; KMSFS_KILL_ROUNDS sets it.
pub fn rounds() -> usize {
    env::var("KMSFS_KILL_ROUNDS").map_or(20, |n| n.parse().unwrap())
}

#[test]
#[ignore = "the process that the next test starts and kills"]
fn worker() {
    let Some((name, dir, since)) = told() else { return };
    let kms = open(&dir.join("home"), Fast { since, pace: HOUR, stopped: None });
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let (agent, kms, dir) = (format!("{name}-{n}"), &kms, &dir);
            scope.spawn(move || {
                let journal =
                    OpenOptions::new().create(true).append(true).open(journal(dir, &agent)).unwrap();
                let seed = agent.bytes().fold(since | 1, |seed, b| seed.rotate_left(7) ^ u64::from(b));
                let mut thread = Thread {
                    session: session(kms, &agent),
                    agent,
                    journal,
                    dice: Dice(seed),
                    keys: Vec::new(),
                    blobs: Vec::new(),
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

pub fn journal(dir: &Path, agent: &str) -> PathBuf {
    dir.join(format!("{agent}.journal"))
}

// ---- what must be

/// A call of a journal; without an outcome it was not answered.
pub struct Made {
    /// Which log has it, if there are several.
    pub place: Option<usize>,
    pub operation: String,
    pub body: Value,
    pub outcome: Option<Result<Value, String>>,
}

pub fn read_journal(path: &Path) -> Vec<Made> {
    let mut made: Vec<Made> = Vec::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        if let Some(operation) = line.get("operation") {
            let place = line["place"].as_u64().map(|place| place as usize);
            let body = line["body"].clone();
            made.push(Made { place, operation: text(operation), body, outcome: None });
            continue;
        }
        let outcome = line.get("error").map_or_else(|| Ok(line["answer"].clone()), |error| Err(text(error)));
        made.last_mut().unwrap().outcome = Some(outcome);
    }
    made
}

/// A key as the log tells it.
#[derive(Debug, Default, Clone, PartialEq)]
struct KeyState {
    state: &'static str,
    description: String,
    tags: BTreeMap<String, String>,
    period: Option<i64>,
    rotations: usize,
    on_demand: usize,
}

/// Everything, as the log tells it.
#[derive(Debug, Default, PartialEq)]
struct World {
    keys: BTreeMap<String, KeyState>,
    aliases: BTreeMap<String, String>,
}

fn key_of(event: &Event) -> String {
    event.resources[0].arn.rsplit('/').next().unwrap().to_owned()
}

impl World {
    /// What a change has changed.
    fn after(&mut self, event: &Event) {
        if event.error_code.is_some() || event.read_only {
            return;
        }
        let parameters = event.request_parameters.clone().unwrap_or_default();
        let text = |name: &str| parameters[name].as_str().unwrap().to_owned();
        let tags = || {
            let tags = parameters["tags"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            tags.into_iter().map(move |tag| (text(&tag["tagKey"]), text(&tag["tagValue"])))
        };
        match &*event.event_name {
            "CreateAlias" | "UpdateAlias" => {
                self.aliases.insert(text("aliasName"), text("targetKeyId"));
                return;
            }
            "DeleteAlias" => {
                self.aliases.remove(&text("aliasName"));
                return;
            }
            "DeleteKey" => {
                let id = key_of(event);
                assert_eq!(self.keys.remove(&id).unwrap().state, "PendingDeletion");
                self.aliases.retain(|_, key| *key != id);
                return;
            }
            "CreateKey" => {
                let (state, description) = ("Enabled", text("description"));
                let made = KeyState { state, description, tags: tags().collect(), ..KeyState::default() };
                assert_eq!(self.keys.insert(key_of(event), made), None);
                return;
            }
            _ => {}
        }
        let key = self.keys.get_mut(&key_of(event)).unwrap();
        match &*event.event_name {
            "EnableKey" => key.state = "Enabled",
            "DisableKey" | "CancelKeyDeletion" => key.state = "Disabled",
            "ScheduleKeyDeletion" => key.state = "PendingDeletion",
            "UpdateKeyDescription" => key.description = text("description"),
            "TagResource" => key.tags.extend(tags()),
            "UntagResource" => {
                let names = parameters["tagKeys"].as_array().unwrap();
                key.tags.retain(|name, _| !names.iter().any(|n| n == name));
            }
            "EnableKeyRotation" => key.period = parameters["rotationPeriodInDays"].as_i64(),
            "DisableKeyRotation" => key.period = None,
            "RotateKeyOnDemand" => key.on_demand += 1,
            "RotateKey" => key.rotations += 1,
            other => panic!("the log has a {other} that nobody called"),
        }
    }

    /// The same as the service answers it.
    fn asked(session: &Session) -> Self {
        let ask = |operation: &str, body: Value| call(session, operation, &body).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut world = Self::default();
        let aliases = ask("ListAliases", json!({"Limit": 1000}));
        for alias in aliases["Aliases"].as_array().unwrap() {
            world.aliases.insert(text(&alias["AliasName"]), text(&alias["TargetKeyId"]));
        }
        let keys = ask("ListKeys", json!({"Limit": 1000}));
        assert_eq!((&aliases["Truncated"], &keys["Truncated"]), (&false.into(), &false.into()));
        for key in keys["Keys"].as_array().unwrap() {
            let id = json!({"KeyId": key["KeyId"]});
            let metadata = ask("DescribeKey", id.clone())["KeyMetadata"].clone();
            let tags = ask("ListResourceTags", id.clone());
            let tags = tags["Tags"].as_array().unwrap();
            let rotations = ask("ListKeyRotations", id.clone());
            let rotations = rotations["Rotations"].as_array().unwrap();
            let known = ["Enabled", "Disabled", "PendingDeletion"];
            let state = known.into_iter().find(|s| metadata["KeyState"] == **s).unwrap();
            let state = KeyState {
                state,
                description: text(&metadata["Description"]),
                tags: tags.iter().map(|tag| (text(&tag["TagKey"]), text(&tag["TagValue"]))).collect(),
                period: ask("GetKeyRotationStatus", id)["RotationPeriodInDays"].as_i64(),
                rotations: rotations.len(),
                on_demand: rotations.iter().filter(|r| r["RotationType"] == "ON_DEMAND").count(),
            };
            // The current material is the newest.
            if let Some(last) = rotations.last() {
                assert_eq!(last["KeyMaterialId"], metadata["CurrentKeyMaterialId"]);
            }
            world.keys.insert(text(&metadata["KeyId"]), state);
        }
        world
    }

    /// As the service shows it: a schedule is out of sight while the deletion is pending.
    fn shown(&self) -> Self {
        let mut keys = self.keys.clone();
        for key in keys.values_mut().filter(|key| key.state == "PendingDeletion") {
            key.period = None;
        }
        Self { keys, aliases: self.aliases.clone() }
    }
}

struct Bed {
    dir: tempfile::TempDir,
    since: u64,
    world: World,
    head: Option<ChainHead>,
    dice: Dice,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-kill-").tempdir().unwrap();
        let since = unix_millis();
        Home::open_or_create(&dir.path().join("home")).unwrap();
        let kms = open(&dir.path().join("home"), Fast { since, pace: HOUR, stopped: None });
        kms.create_region(&REGION.parse().unwrap(), None).unwrap();
        Self { dir, since, world: World::default(), head: None, dice: Dice(since | 1) }
    }

    fn round(&mut self, round: usize) -> usize {
        let agents = kill("kms_kill::worker", 6000, round, self.dir.path(), self.since, &mut self.dice);
        self.check(&agents)
    }

    /// The number of calls that were answered.
    fn check(&mut self, agents: &[String]) -> usize {
        let clock = Fast { since: self.since, pace: HOUR, stopped: None };
        let clock = Fast { stopped: Some(clock.now()), ..clock };
        // Opening does what is due; from then on time stands.
        let kms = open(&self.dir.path().join("home"), clock);
        let session = session(&kms, "judge");
        let head = session.verify_log(self.head).unwrap();
        let asked = World::asked(&session);
        let before = self.head.map_or(0, |head| head.sequence);
        // The newest, with those of the questions just asked: four about each key, and the lists.
        let limit = usize::try_from(head.sequence - before).unwrap() + 4 * asked.keys.len() + 2;
        let filter = Filter { limit: Some(limit), ..Filter::default() };
        let mut events = session.lookup_events(&filter).unwrap();
        events.retain(|found| found.sequence > before && found.sequence <= head.sequence);
        events.reverse();
        for found in &events {
            self.world.after(&found.event);
        }
        // No change is half there, and none is there that the log does not have.
        assert_eq!(asked, self.world.shown());
        let mut answered = 0;
        let mut seen = BTreeSet::new();
        for agent in agents {
            let made = read_journal(&journal(self.dir.path(), agent));
            let recorded: Vec<&Event> =
                events.iter().map(|f| &f.event).filter(|e| e.user_agent == *agent).collect();
            let acknowledged = made.iter().filter(|m| m.outcome.is_some()).count();
            assert!(acknowledged + 1 >= made.len());
            assert!((acknowledged..=made.len()).contains(&recorded.len()), "{agent}");
            answered += acknowledged;
            for (made, event) in made.iter().zip(recorded) {
                assert_eq!(event.event_name, made.operation, "{agent}");
                assert!(seen.insert(event.request_id.clone()));
                match &made.outcome {
                    Some(Err(error)) => assert_eq!(event.error_code.as_deref(), Some(error.as_str())),
                    Some(Ok(_)) => assert_eq!(event.error_code, None),
                    None => {}
                }
            }
            self.open_again(&session, &made);
        }
        self.thin_out(&session);
        session.verify_log(Some(head)).unwrap();
        self.head = Some(head);
        answered
    }

    /// Lets most keys go while the next processes work and are killed.
    fn thin_out(&mut self, session: &Session) {
        for (id, key) in &self.world.keys {
            if key.state != "PendingDeletion" && self.dice.below(8) > 0 {
                let body = json!({"KeyId": id, "PendingWindowInDays": 7});
                call(session, "ScheduleKeyDeletion", &body).unwrap();
            }
        }
    }

    /// What was encrypted is there, also under material that was new when the process was killed.
    fn open_again(&self, session: &Session, made: &[Made]) {
        for made in made.iter().filter(|m| m.operation == "Encrypt") {
            let Some(Ok(answer)) = &made.outcome else { continue };
            let opened = call(session, "Decrypt", &json!({"CiphertextBlob": answer["CiphertextBlob"]}));
            match self.world.keys.get(made.body["KeyId"].as_str().unwrap()).map(|key| key.state) {
                Some("Enabled") => assert_eq!(opened.unwrap()["Plaintext"], made.body["Plaintext"]),
                Some("Disabled") => assert_eq!(opened, Err("DisabledException")),
                Some(_) => assert_eq!(opened, Err("KMSInvalidStateException")),
                None => assert_eq!(opened, Err("AccessDeniedException")),
            }
        }
    }
}

#[test]
fn killed_processes_leave_a_store_that_is_what_its_log_says() {
    let rounds = rounds();
    let mut bed = Bed::new();
    let answered: usize = (0..rounds).map(|round| bed.round(round)).sum();
    assert!(answered > rounds * 20, "only {answered} calls were answered in {rounds} rounds");
}
