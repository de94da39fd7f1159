//! `kmsfs usage`: what it counts, against a model of the same events, and its prices by hand.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use jiff::Timestamp;
use kmsfs::audit::{self, CallKind};
use kmsfs::store::{Durability, SqliteStore, Store};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cli::json as run_json;
use crate::mounted::bed::{Bed, KEY};

const ACCOUNT: &str = "000000000000";
/// The first event's time.
const BEGIN: i64 = 1_790_000_000;

/// An event as the log has it.
#[derive(Debug, Clone)]
struct Made {
    source: usize,
    name: usize,
    key: Option<usize>,
    who: usize,
    /// Seconds after the one before.
    later: u16,
    failed: bool,
    other_account: bool,
}

const SOURCES: [&str; 4] = ["kms.amazonaws.com", "kmsfs-client", "kmsfs", "cloudtrail.amazonaws.com"];
const NAMES: [&str; 4] = ["Decrypt", "OpenFile", "GenerateDataKey", "RotateKey"];

fn made() -> impl Strategy<Value = Made> {
    let key = prop_oneof![Just(None), (0..3usize).prop_map(Some)];
    (
        0..SOURCES.len(),
        0..NAMES.len(),
        key,
        0..3usize,
        0..40_000u16,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(source, name, key, who, later, failed, other_account)| Made {
            source,
            name,
            key,
            who,
            later,
            failed,
            other_account,
        })
}

fn key_arn(n: usize) -> String {
    format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{n:08}-0000-4000-8000-000000000000")
}

impl Made {
    fn event(&self, time: i64) -> Value {
        let time = Timestamp::from_second(time).unwrap();
        let resource = |n: &usize| json!({"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": key_arn(*n)});
        let mut event = json!({
            "eventVersion": "1.11",
            // Escapes, which are copied when they are read.
            "userIdentity": {"type": "Root", "arn": format!("arn:aws:iam::{ACCOUNT}:user/\"{}\"", self.who)},
            "eventTime": time.to_string(),
            "eventSource": SOURCES[self.source],
            "eventName": NAMES[self.name],
            "awsRegion": "us-east-1",
            "requestParameters": {"encryptionContext": {"a": "b"}, "keyId": "x"},
            "responseElements": null,
            "eventType": if NAMES[self.name] == "RotateKey" { "AwsServiceEvent" } else { "AwsApiCall" },
            "recipientAccountId": if self.other_account { "111122223333" } else { ACCOUNT },
            "resources": self.key.iter().map(resource).collect::<Vec<_>>(),
            "sourceIPAddress": "127.0.0.1",
            "userAgent": "test",
            "requestID": "1",
            "eventID": "2",
            "readOnly": true,
            "managementEvent": true,
            "eventCategory": "Management",
        });
        if self.failed {
            event["errorCode"] = json!("AccessDeniedException");
        }
        event
    }

    /// What it counts as.
    fn kind(&self) -> Option<(CallKind, &'static str)> {
        if self.other_account || NAMES[self.name] == "RotateKey" {
            return None;
        }
        match (SOURCES[self.source], NAMES[self.name]) {
            ("kms.amazonaws.com", name) => Some((CallKind::Embedded, name)),
            ("kmsfs-client", name) => Some((CallKind::Remote, name)),
            ("kmsfs", "OpenFile") => Some((CallKind::Leased, "Decrypt")),
            _ => None,
        }
    }
}

type Counted = BTreeMap<(CallKind, String, Option<String>, String, String, bool), u64>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn calls_are_counted_as_a_model_counts_them(
        events in prop::collection::vec(made(), 0..900),
        indexed in 0..5usize,
        span in prop::option::of((0..900usize, 0..900usize)),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("s.db")).unwrap();
        let mut tx = store.write(Durability::Soon).unwrap();
        let (mut time, mut times) = (BEGIN, Vec::new());
        for made in &events {
            time += i64::from(made.later);
            times.push(time);
            audit::append(&mut *tx, made.event(time).to_string().as_bytes()).unwrap();
        }
        // What is no event is passed over.
        audit::append(&mut *tx, b"{\"eventSource\":1}").unwrap();
        tx.commit().unwrap();
        audit::index(&store, indexed).unwrap();
        let at = |n: usize| times.get(n).copied().unwrap_or(time);
        let (start, end) = span.map_or((None, None), |(a, b)| (Some(at(a.min(b))), Some(at(a.max(b)))));

        let mut due = Counted::new();
        for (made, time) in events.iter().zip(&times) {
            let Some((kind, name)) = made.kind() else { continue };
            if start.is_some_and(|start| *time < start) || end.is_some_and(|end| *time > end) {
                continue;
            }
            let day = Timestamp::from_second(*time).unwrap().strftime("%Y-%m-%d").to_string();
            let who = format!("arn:aws:iam::{ACCOUNT}:user/\"{}\"", made.who);
            *due.entry((kind, name.to_owned(), made.key.map(key_arn), who, day, made.failed)).or_default() += 1;
        }
        let mut counted = Counted::new();
        let moment = |t: i64| Timestamp::from_second(t).unwrap();
        audit::calls(&store, ACCOUNT, start.map(moment), end.map(moment), &mut |call| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            let who = text(call.principal).unwrap();
            let row = (call.kind, call.operation.to_owned(), text(call.key), who, call.day.to_owned(), call.failed);
            *counted.entry(row).or_default() += 1;
        }).unwrap();
        prop_assert_eq!(counted, due);
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_mounts_calls_and_leases_are_counted_and_priced() {
    let bed = Bed::with_own_key();
    let before = run_json(&bed, &["usage", "--json"]);
    bed.mount();
    for n in 0..5 {
        fs::write(bed.plain(format!("f{n}")), "text").unwrap();
    }
    bed.remount();
    // The first open of each asks, the others are answered by its lease.
    for _ in 0..4 {
        for n in 0..5 {
            assert_eq!(fs::read(bed.plain(format!("f{n}"))).unwrap(), b"text");
        }
    }
    bed.unmount();
    bed.refused(["encrypt", "--key", "alias/none", "vault/kmsfs.json"]);
    let usage = run_json(&bed, &["usage", "--json"]);
    let row = |usage: &Value, operation: &str| {
        let rows = usage["rows"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["operation"] == operation).unwrap_or_else(|| json!({}))
    };
    let (opens, keys) = (row(&usage, "Decrypt"), row(&usage, "GenerateDataKey"));
    // Two mounts, five files.
    assert_eq!((number(&opens["calls"]), number(&opens["opens_in_a_lease"])), (2 + 5, 15));
    assert!(number(&keys["calls"]) > number(&row(&before, "GenerateDataKey")["calls"]) + 4);
    assert_eq!(number(&row(&usage, "Encrypt")["failed"]), 1);
    // USD 0.03 for 10,000.
    let near = |value: &Value, due: f64| (value.as_f64().unwrap() - due).abs() < 1e-12;
    assert!(
        near(&opens["usd"], 7.0 * 0.000003) && near(&opens["usd_without_leases"], 22.0 * 0.000003),
        "{opens}"
    );
    let total = &usage["total"];
    assert!(near(&total["usd"], number(&total["calls"]) as f64 * 0.000003), "{total}");
    assert_eq!(number(&total["calls_to_aws"]), 0);
    let kept = (number(&usage["keys"]["customer_managed"]), usage["keys"]["usd_per_month"].as_f64());
    assert_eq!(kept, (1, Some(1.0)));
    bed.run(["key", "rotate", KEY]);
    assert_eq!(run_json(&bed, &["usage", "--json"])["keys"]["usd_per_month"].as_f64(), Some(2.0));
    // The same in other rows adds up to the same.
    let by = run_json(&bed, &["usage", "--by", "day,principal,key,operation", "--json"]);
    let all = run_json(&bed, &["usage", "--json"]);
    let sum: u64 = by["rows"].as_array().unwrap().iter().map(|row| number(&row["calls"])).sum();
    assert_eq!((sum, &by["total"]), (number(&all["total"]["calls"]), &all["total"]));
    let decrypts: Vec<_> =
        by["rows"].as_array().unwrap().iter().filter(|r| r["operation"] == "Decrypt").collect();
    let arn = run_json(&bed, &["key", "describe", KEY, "--json"])["KeyMetadata"]["Arn"].clone();
    assert!(
        decrypts.iter().all(|row| row["key"] == arn && row["principal"] == "arn:aws:iam::000000000000:root")
    );
    let text = bed.run(["usage"]);
    for word in ["Decrypt", "IN A LEASE", "without leases", "not fetched", "USD 2.000000 a month"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // A time in which nothing was.
    let nothing = run_json(&bed, &["usage", "--until", "2020-01-01", "--json"]);
    assert_eq!((nothing["rows"].as_array().unwrap().len(), number(&nothing["total"]["calls"])), (0, 0));
    assert_eq!(nothing["keys"]["usd"].as_f64(), Some(0.0));
}

/// Of the memory that this process had at most, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// KMSFS_USAGE_EVENTS: how many; a million by hand.
#[test]
fn a_long_log_is_streamed() {
    let events = std::env::var("KMSFS_USAGE_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000u64);
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("s.db")).unwrap();
    let one =
        Made { source: 0, name: 0, key: Some(1), who: 1, later: 0, failed: false, other_account: false };
    let padded = |n: u64| {
        let mut event = one.event(BEGIN + n as i64);
        event["requestParameters"]["encryptionContext"]["kmsfs:file"] = json!("0".repeat(800));
        event.to_string()
    };
    for first in (0..events).step_by(5000) {
        let mut tx = store.write(Durability::Soon).unwrap();
        let mut head = audit::head(&*tx).unwrap();
        for n in first..(first + 5000).min(events) {
            head = audit::append_after(&mut *tx, &head, padded(n).as_bytes()).unwrap();
        }
        tx.commit().unwrap();
    }
    let before = peak();
    let (begun, mut counted) = (Instant::now(), 0);
    audit::calls(&store, ACCOUNT, None, None, &mut |_| counted += 1).unwrap();
    let (took, grown) = (begun.elapsed(), peak().saturating_sub(before));
    assert_eq!(counted, events);
    eprintln!("{events} events of about 1.3 KB in {took:?}; {grown} KiB of memory more");
    // 20,000 events are 26 MB. Other tests of this process run meanwhile.
    if events >= 1_000_000 {
        assert!(grown < 64 * 1024, "{grown} KiB");
    }
}
