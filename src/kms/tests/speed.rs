//! How fast. Not part of the tests: `cargo test --release --lib kms::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;

/// Processor seconds of this process so far: other work on the machine does not count.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Fields 14 and 15 (user and system time), counted behind the name, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|f| f.parse::<f64>().unwrap() / 100.0).sum()
}

#[test]
#[ignore = "a measurement"]
fn decrypts_per_second() {
    let bench = Bench::new();
    let session = bench.session();
    let key = make(&session);
    let pairs =
        context(&[("kmsfs:volume", "0123456789abcdef"), ("kmsfs:file", "0123456789abcdef0123456789abcdef")]);
    let made = session.generate_data_key(&key, &pairs).unwrap();
    for threads in [1, 2, 4, 16] {
        let until = Instant::now() + Duration::from_secs(3);
        let (start, used) = (Instant::now(), cpu());
        let mut waits: Vec<Duration> = std::thread::scope(|scope| {
            let work = || {
                let mut waits = Vec::new();
                while Instant::now() < until {
                    let asked = Instant::now();
                    session.decrypt(Some(&made.key_arn), &made.ciphertext, &pairs).unwrap();
                    waits.push(asked.elapsed());
                }
                waits
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        waits.sort();
        let (wall, used) = (start.elapsed().as_secs_f64(), cpu() - used);
        println!(
            "{threads} threads: {:.0} decrypts per second, {:.0} per second of processor time, p99 {:?}, worst {:?}",
            waits.len() as f64 / wall,
            waits.len() as f64 / used,
            waits[waits.len() * 99 / 100],
            waits[waits.len() - 1],
        );
    }
    let start = Instant::now();
    for _ in 0..100_000 {
        session.generation().unwrap();
    }
    println!("generation: {:.0} ns", start.elapsed().as_nanos() as f64 / 100_000.0);
    let filter = crate::audit::Filter { limit: Some(1), ..Default::default() };
    println!("an event has {} bytes", session.lookup_events(&filter).unwrap()[0].json.len());
}
