//! `kmsfs rewrap --change-kms`, killed on its way between two key services.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::volumes::digest;
use crate::cli::json;
use crate::mounted::bed::{Bed, KEY};
use crate::served::{Server, set};

/// How many files are under a key, and how many there are.
fn under(bed: &Bed, key: &str) -> (u64, u64) {
    let summary = json(bed, &["inspect", "--summary", "--json", "vault"]);
    let keys = summary["data_keys"].as_array().unwrap().iter();
    let counts: Vec<_> =
        keys.map(|of| (of["key_arn"].as_str().unwrap() == key, of["files"].as_u64().unwrap())).collect();
    let of_key = counts.iter().filter(|(here, _)| *here).map(|(_, files)| files).sum();
    (of_key, counts.iter().map(|(_, files)| files).sum())
}

#[test]
fn a_killed_change_of_the_key_service_goes_on() {
    let rounds = std::env::var("KMSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let server = Server::new();
    let mut bed = server.bed();
    set(&mut bed, "KMSFS_KMS", "embedded");
    bed.run(["init", "--new-key", KEY, "vault"]);
    bed.mount();
    let files = 240;
    for n in 0..files {
        let dir = bed.plain(format!("dir {}", n % 8));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file {n}")), format!("content of {n}\n").repeat(n % 300 + 1)).unwrap();
    }
    bed.unmount();
    let before = digest(&bed);
    let arn = |answer: &Value| answer["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    let own = arn(&json(&bed, &["key", "describe", "--json", KEY]));
    let there = server.arn("us-east-1", KEY);
    let mut halfway = 0;
    for round in 0..rounds {
        // There, and back.
        let (kms, key) = if round % 2 == 0 { ("aws", &there) } else { ("embedded", &own) };
        set(&mut bed, "KMSFS_KMS", kms);
        let change = ["rewrap", "--change-kms", "--key", key, "vault"];
        let mut child = bed
            .command(change.iter().chain(&["--threads", "2"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // At the first file, or somewhere in the middle, as the headers show it.
        let wanted = 1 + (round as u64 * 37) % 150;
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() && Instant::now() < until {
            if under(&bed, key).0 >= wanted {
                break;
            }
        }
        let _ = child.kill();
        child.wait().unwrap();
        let (moved, all) = under(&bed, key);
        assert_eq!(all, files as u64, "round {round}");
        halfway += u32::from(moved > 0 && moved < all);
        let done = json(&bed, &[&change[..], &["--json"]].concat());
        assert_eq!(
            (&done["failed"]["count"], under(&bed, key)),
            (&Value::from(0), (all, all)),
            "round {round}"
        );
        assert_eq!(digest(&bed), before, "round {round}");
    }
    println!("{halfway} of {rounds} kills came in the middle");
    assert!(halfway > 0, "no kill came in the middle");
}
