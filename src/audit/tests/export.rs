//! Export: what is there, once and whole, whatever happens on the way.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use crate::audit::delivery::Target;
use crate::audit::digest::Digest;
use crate::audit::export::run;
use crate::audit::*;
use crate::crypto::asymmetric::PrivateKey;
use crate::crypto::mac;
use crate::store::{Durability, SqliteStore, Store};

const ACCOUNT: &str = "000000000000";
const OTHER: &str = "111122223333";
const REGION: &str = "us-east-1";
/// 2027-01-15T08:00:00Z.
const START: i64 = 1_800_000_000;
/// Small, so that an hour has several.
const LOG_FILE: usize = 2500;

static KEY: LazyLock<Arc<DigestKey>> = LazyLock::new(new_key);

fn new_key() -> Arc<DigestKey> {
    Arc::new(DigestKey::new(PrivateKey::generate(DIGEST_KEY_SPEC).unwrap()).unwrap())
}

struct Keys(Arc<DigestKey>);

impl DigestKeys for Keys {
    fn signing(&self, _: Second) -> Result<Arc<DigestKey>, ExportError> {
        Ok(self.0.clone())
    }

    fn named(&self, fingerprint: &str) -> Result<Option<Arc<DigestKey>>, ExportError> {
        Ok(Some(self.0.clone()).filter(|key| key.fingerprint() == fingerprint))
    }
}

struct Bench {
    dir: tempfile::TempDir,
    store: SqliteStore,
    keys: Keys,
}

fn event(time: i64, account: &str, owner: &str, failed: bool) -> Vec<u8> {
    let mut event = json!({
        "eventVersion": EVENT_VERSION,
        "userIdentity": {"type": "Root", "accountId": account, "arn": format!("arn:aws:iam::{account}:root")},
        "eventTime": Second(time),
        "eventSource": KMS_SOURCE,
        "eventName": "Decrypt",
        "awsRegion": REGION,
        "sourceIPAddress": "127.0.0.1",
        "userAgent": "test",
        "requestParameters": null,
        "responseElements": null,
        "requestID": uuid().unwrap(),
        "eventID": uuid().unwrap(),
        "readOnly": true,
        "resources": [Resource::key(owner, format!("arn:aws:kms:{REGION}:{owner}:key/1"))],
        "eventType": "AwsApiCall",
        "managementEvent": true,
        "recipientAccountId": account,
        "eventCategory": "Management",
    });
    if failed {
        event["errorCode"] = "AccessDenied".into();
    }
    serde_json::to_vec(&event).unwrap()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("s.db")).unwrap();
        Self { dir, store, keys: Keys(KEY.clone()) }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Records events of the account at these seconds; their JSON.
    fn log(&self, times: &[i64]) -> Vec<String> {
        let events: Vec<_> = times.iter().map(|t| event(START + t, ACCOUNT, ACCOUNT, false)).collect();
        self.write(&events);
        events.into_iter().map(|e| String::from_utf8(e).unwrap()).collect()
    }

    fn write(&self, events: &[Vec<u8>]) {
        let mut tx = self.store.write(Durability::Soon).unwrap();
        for event in events {
            append(&mut *tx, event).unwrap();
        }
        tx.commit().unwrap();
    }

    fn source(&self, now: i64) -> Source<'_> {
        Source {
            log: Log::Region,
            store: &self.store,
            signed: head(&*self.store.read().unwrap()).unwrap(),
            account: ACCOUNT,
            region: REGION,
            now: Second(START + now).time(),
            keys: &self.keys,
        }
    }

    fn export(&self, now: i64) -> Result<Exported, ExportError> {
        self.export_with(now, &ExportOptions::default())
    }

    fn export_with(&self, now: i64, options: &ExportOptions) -> Result<Exported, ExportError> {
        run(&self.source(now), &Target::open(&self.root()).unwrap(), options, LOG_FILE)
    }

    fn objects(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        walk(&self.root(), &self.root(), &mut found);
        found
    }

    /// Follows the digests back from the last; each must be signed, fit the next, and name files that fit. The
    /// events in their order, and where each digest ends. Nothing else may be there.
    fn check(&self) -> (Vec<String>, Vec<i64>) {
        let mut unseen = self.objects();
        let mut at = unseen.iter().rfind(|o| o.contains("-Digest") && o.ends_with(".gz")).cloned();
        let (mut events, mut ends, mut next) = (Vec::new(), Vec::new(), None::<Digest>);
        while let Some(object) = at {
            let content = unpack(&self.root().join(&object));
            let beside = format!("{object}.meta");
            let signature = serde_json::from_slice(&fs::read(self.root().join(&beside)).unwrap()).unwrap();
            let digest: Digest = serde_json::from_slice(&content).unwrap();
            self.keys.0.verify(&digest, &content, &signature).unwrap();
            assert_eq!(digest.digest_s3_object, object);
            if let Some(next) = next {
                assert_eq!(next.digest_start_time, digest.digest_end_time);
                assert_eq!(
                    next.previous_digest_hash_value.unwrap(),
                    hex::encode(mac::sha256(&[&content])),
                    "{object}"
                );
                assert_eq!(next.previous_digest_signature.unwrap(), signature.signature);
            }
            for file in digest.log_files.iter().rev() {
                let content = unpack(&self.root().join(&file.s3_object));
                assert_eq!(hex::encode(mac::sha256(&[&content])), file.hash_value);
                let records: Value = serde_json::from_slice(&content).unwrap();
                assert!(!records["Records"].as_array().unwrap().is_empty());
                // Byte for byte as they are chained, apart from the frame.
                let text = String::from_utf8(content).unwrap();
                let text = text.strip_prefix("{\"Records\":[").unwrap().strip_suffix("]}").unwrap();
                let parts: Vec<String> = text
                    .split(",{\"awsRegion")
                    .enumerate()
                    .map(|(n, part)| if n == 0 { part.to_owned() } else { format!("{{\"awsRegion{part}") })
                    .collect();
                assert_eq!(parts.len(), records["Records"].as_array().unwrap().len());
                events.extend(parts.into_iter().rev());
                assert!(unseen.remove(&file.s3_object));
            }
            ends.push(digest.digest_end_time.0 - START);
            assert!(unseen.remove(&object) && unseen.remove(&beside));
            at = digest.previous_digest_s3_object.clone();
            next = Some(digest);
        }
        assert_eq!(unseen, BTreeSet::new());
        events.reverse();
        ends.reverse();
        (events, ends)
    }
}

fn walk(root: &Path, dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, found);
        } else {
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

fn unpack(path: &Path) -> Vec<u8> {
    Target::unpack(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn each_hour_has_a_digest_also_an_empty_one_and_the_next_export_goes_on() {
    let bench = Bench::new();
    let mut all = bench.log(&[600, 601, 602, 603, 3599, 3600, 4 * 3600 + 7]);
    let done = bench.export(4 * 3600 + 900).unwrap();
    let (events, ends) = bench.check();
    assert_eq!(events, all);
    assert_eq!(ends, [3600, 7200, 10_800, 14_400, 15_300]);
    assert_eq!((done.digests, done.events, done.log_files), (5, 7, 4));
    assert_eq!(done.head.sequence, 7);
    let names = bench.objects();
    let log =
        |name: &str| format!("AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/2027/01/15/{ACCOUNT}_CloudTrail_{name}");
    assert!(names.contains(&log("us-east-1_20270115T0900Z_0000000000000006.json.gz")), "{names:?}");
    let digest = format!(
        "AWSLogs/{ACCOUNT}/CloudTrail-Digest/{REGION}/2027/01/15/\
         {ACCOUNT}_CloudTrail-Digest_us-east-1_kmsfs_us-east-1_20270115T120000Z.json.gz"
    );
    assert!(names.contains(&digest), "{names:?}");
    // Nothing in no time.
    assert_eq!(bench.export(4 * 3600 + 900).unwrap().digests, 0);
    all.extend(bench.log(&[4 * 3600 + 900, 4 * 3600 + 950]));
    bench.export(4 * 3600 + 1000).unwrap();
    all.extend(bench.log(&[4 * 3600 + 1000, 20 * 3600]));
    bench.export(20 * 3600 + 1).unwrap();
    let (events, ends) = bench.check();
    assert_eq!(events, all);
    assert_eq!(ends.len(), 5 + 1 + 17);
}

#[test]
fn a_log_without_events_has_digests_all_the_same() {
    let bench = Bench::new();
    bench.export(600).unwrap();
    bench.export(7201).unwrap();
    assert_eq!(bench.check(), (vec![], vec![600, 3600, 7200, 7201]));
}

#[test]
fn an_account_sees_its_own_events_and_what_was_allowed_to_others_with_its_keys() {
    let bench = Bench::new();
    let events = [
        event(START, ACCOUNT, ACCOUNT, false),
        event(START, OTHER, OTHER, false),
        event(START, OTHER, ACCOUNT, false),
        event(START, OTHER, ACCOUNT, true),
        event(START, ACCOUNT, OTHER, true),
        event(START, OTHER, OTHER, true),
    ];
    bench.write(&events);
    let done = bench.export(10).unwrap();
    let seen: Vec<_> = [0, 2, 4].map(|n| String::from_utf8(events[n].clone()).unwrap()).into();
    assert_eq!(bench.check().0, seen);
    // The events of others are behind it all the same.
    assert_eq!(done.head.sequence, 6);
    assert_eq!(bench.export(20).unwrap().events, 0);
}

#[test]
fn late_events_and_events_of_a_clock_that_was_ahead_are_exported_once() {
    let bench = Bench::new();
    let all = bench.log(&[10, 4000, 3000, 900_000, 20, 7300]);
    bench.export(8000).unwrap();
    let (events, ends) = bench.check();
    assert_eq!(events, all);
    assert_eq!(ends, [3600, 7200, 8000]);
    assert_eq!(bench.export(1_000_000).unwrap().events, 0);
    assert_eq!(bench.check().0, all);
}

#[test]
fn since_and_until_bound_an_export_and_the_next_goes_on() {
    let at = |t: i64| Some(Second(START + t).time());
    let bench = Bench::new();
    let all = bench.log(&[10, 20, 30, 3700, 3800]);
    let since = ExportOptions { since: at(20), until: at(3800), ..ExportOptions::default() };
    assert_eq!(bench.export_with(9000, &since).unwrap().events, 3);
    assert_eq!(bench.check(), (all[1..4].to_vec(), vec![3600, 3800]));
    // An earlier beginning is what was before; a later one would leave events out.
    let earlier = ExportOptions { since: at(20), until: at(3800), ..ExportOptions::default() };
    assert_eq!(bench.export_with(9000, &earlier).unwrap().digests, 0);
    let later = ExportOptions { since: at(3900), ..ExportOptions::default() };
    assert!(matches!(bench.export_with(9000, &later), Err(ExportError::Asked(_))));
    bench.export(9000).unwrap();
    assert_eq!(bench.check().0, all[1..]);
    let bench = Bench::new();
    bench.log(&[10]);
    let ahead = ExportOptions { since: at(9000), ..ExportOptions::default() };
    assert!(matches!(bench.export_with(8000, &ahead), Err(ExportError::Asked(_))));
    // A beginning before the log is the log's.
    let early = ExportOptions { since: at(-1_000_000), ..ExportOptions::default() };
    bench.export_with(100, &early).unwrap();
    assert_eq!(bench.check().1, [100]);
    // A clock that went back.
    assert!(matches!(bench.export(50), Err(ExportError::Asked(_))));
}

#[test]
fn a_bucket_stays_and_is_one() {
    let bench = Bench::new();
    bench.log(&[10]);
    let to = |bucket: &str| ExportOptions { bucket: Some(bucket.to_owned()), ..ExportOptions::default() };
    for bad in ["", "ab", "Upper", "under_score", &"x".repeat(64)] {
        assert!(matches!(export(&bench.source(20), &bench.root(), &to(bad)), Err(ExportError::Asked(_))));
    }
    export(&bench.source(20), &bench.root(), &to("my-bucket")).unwrap();
    assert!(matches!(bench.export_with(30, &to("other")), Err(ExportError::Asked(_))));
    bench.export(30).unwrap();
    bench.export_with(40, &to("my-bucket")).unwrap();
    assert_eq!(bench.check().1, [20, 30, 40]);
}

#[test]
fn an_export_that_was_killed_anywhere_is_taken_up_again() {
    let mut stops = 0;
    loop {
        let bench = Bench::new();
        let mut all = bench.log(&[600, 601, 602, 603, 604, 3599, 3600, 2 * 3600 + 7]);
        let mut target = Target::open(&bench.root()).unwrap();
        target.steps = Some(Cell::new(stops));
        let killed = run(&bench.source(3 * 3600 + 1), &target, &ExportOptions::default(), LOG_FILE);
        let whole = killed.is_ok();
        assert!(whole || matches!(killed, Err(ExportError::File { .. })));
        drop(target);
        // The log went on before the export is taken up.
        all.extend(bench.log(&[3 * 3600 + 5, 3 * 3600 + 6]));
        bench.export(4 * 3600 + 2).unwrap();
        let (events, ends) = bench.check();
        assert_eq!(events, all, "stopped after {stops} steps");
        assert_eq!(ends.last(), Some(&(4 * 3600 + 2)));
        if whole {
            break;
        }
        stops += 1;
    }
    assert!(stops > 30, "only {stops} steps");
}

#[test]
fn files_of_others_are_left_alone() {
    let bench = Bench::new();
    bench.log(&[10]);
    let day = bench.root().join(format!("AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/2027/01/15"));
    fs::create_dir_all(&day).unwrap();
    let theirs = format!("{ACCOUNT}_CloudTrail_{REGION}_20270115T0800Z_aBcDeFgHiJkLmNoP.json.gz");
    for name in ["notes", &theirs] {
        fs::write(day.join(name), "x").unwrap();
    }
    bench.export(20).unwrap();
    for name in ["notes", &theirs] {
        fs::remove_file(day.join(name)).unwrap();
    }
    assert_eq!(bench.check().0.len(), 1);
}

#[test]
fn a_changed_export_is_not_continued() {
    let last = |bench: &Bench| {
        let found = bench.objects().into_iter().rfind(|o| o.contains("-Digest") && o.ends_with(".gz"));
        bench.root().join(found.unwrap())
    };
    let beside = |path: &Path| PathBuf::from(format!("{}.meta", path.display()));
    let changes: [&dyn Fn(&Path); 6] = [
        &|path| fs::write(path, "x").unwrap(),
        &|path| fs::write(beside(path), "{}").unwrap(),
        &|path| fs::remove_file(beside(path)).unwrap(),
        // Another digest, with its own signature, in the place of the last.
        &|path| {
            let other =
                path.with_file_name(path.file_name().unwrap().to_str().unwrap().replace("080020", "080010"));
            fs::copy(&other, path).unwrap();
            fs::copy(beside(&other), beside(path)).unwrap();
        },
        &|path| {
            let mut signature = fs::read(beside(path)).unwrap();
            let digit = &mut signature[20];
            *digit = if *digit == b'0' { b'1' } else { b'0' };
            fs::write(beside(path), signature).unwrap();
        },
        &|path| fs::write(path, "").unwrap(),
    ];
    for change in changes {
        let bench = Bench::new();
        bench.log(&[1]);
        bench.export(10).unwrap();
        bench.export(20).unwrap();
        change(&last(&bench));
        assert!(matches!(bench.export(30), Err(ExportError::Changed { .. })));
    }
    // By another key service.
    let mut bench = Bench::new();
    bench.log(&[1]);
    bench.export(10).unwrap();
    bench.keys = Keys(new_key());
    assert!(matches!(bench.export(30), Err(ExportError::Changed { .. })));
}

#[test]
fn nothing_is_signed_over_a_changed_or_shortened_log() {
    let cut = |bench: &Bench, sequence: u64| {
        let mut tx = bench.store.write(Durability::Soon).unwrap();
        assert!(tx.delete("audit#", &sequence.to_be_bytes()).unwrap());
        tx.commit().unwrap();
    };
    // The exported end is gone.
    let bench = Bench::new();
    bench.log(&[1, 2, 3]);
    bench.export(10).unwrap();
    cut(&bench, 3);
    assert!(matches!(bench.export(20), Err(ExportError::Lost { sequence: 3, .. })));
    // And another is in its place.
    bench.log(&[3]);
    assert!(matches!(bench.export(20), Err(ExportError::Lost { sequence: 3, .. })));
    // One in the middle is gone.
    let bench = Bench::new();
    bench.log(&[1, 2, 3]);
    cut(&bench, 2);
    assert!(matches!(bench.export(20), Err(ExportError::Log(AuditError::Missing { sequence: 2 }))));
    assert_eq!(bench.objects().iter().filter(|o| o.contains("-Digest_")).count(), 0);
    // One was changed.
    let bench = Bench::new();
    bench.log(&[1, 2, 3]);
    let mut tx = bench.store.write(Durability::Soon).unwrap();
    let mut row = tx.get("audit#", &2u64.to_be_bytes()).unwrap().unwrap();
    *row.last_mut().unwrap() = b' ';
    tx.put("audit#", &2u64.to_be_bytes(), &row).unwrap();
    tx.commit().unwrap();
    assert!(matches!(bench.export(20), Err(ExportError::Log(AuditError::Changed { sequence: 2 }))));
    // The end is not the signed one.
    let bench = Bench::new();
    bench.log(&[1, 2]);
    let mut source = bench.source(20);
    source.signed.hash[0] ^= 1;
    let target = Target::open(&bench.root()).unwrap();
    let refused = run(&source, &target, &ExportOptions::default(), LOG_FILE);
    assert!(matches!(refused, Err(ExportError::Log(AuditError::Head { sequence: 2 }))));
}

#[test]
fn only_one_exports_to_a_directory_at_a_time() {
    let bench = Bench::new();
    let held = Target::open(&bench.root()).unwrap();
    assert!(matches!(Target::open(&bench.root()), Err(ExportError::Busy { .. })));
    drop(held);
    bench.export(1).unwrap();
}

#[test]
fn what_is_behind_the_signed_head_waits() {
    let bench = Bench::new();
    let all = bench.log(&[1, 2]);
    let signed = head(&*bench.store.read().unwrap()).unwrap();
    let more = bench.log(&[3]);
    let source = Source { signed, ..bench.source(10) };
    run(&source, &Target::open(&bench.root()).unwrap(), &ExportOptions::default(), LOG_FILE).unwrap();
    assert_eq!(bench.check().0, all);
    bench.export(11).unwrap();
    assert_eq!(bench.check().0, [all, more].concat());
}
