//! Bytes of good requests that were changed anywhere: each connection ends in an answer that is no success, or in none,
//! and the server goes on.

use std::io::Write as _;
use std::net::Shutdown;

use serde_json::json;

use super::bed::{Bed, read};

/// SplitMix64: the same changes at each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most as u64) as usize
    }
}

#[test]
fn a_request_that_was_changed_anywhere_does_nothing_and_the_server_goes_on() {
    let bed = Bed::new();
    let good = [
        bed.ask("CreateKey", &json!({"Description": "x"})).bytes(),
        bed.query("iam", "CreateUser", &[("UserName", "alice"), ("Tags.member.1.Key", "a")]).bytes(),
        bed.query("sts", "GetSessionToken", &[("DurationSeconds", "900")]).bytes(),
    ];
    // Of the head only these lines are under no signature: HTTP's own, and what says who asks and in which form.
    let free = ["user-agent", "content-type", "content-length", "connection", "accept"];
    let mut dice = Dice(7);
    let mut answered = 0;
    for turn in 0..400 {
        let mut bytes = good[turn % good.len()].clone();
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes[at] = dice.below(256) as u8,
                1 => bytes[at] ^= 1 << dice.below(8),
                2 => drop(bytes.drain(at..(at + 1 + dice.below(9)).min(bytes.len()))),
                _ => bytes.insert(at, b"\r\n :;,=/%&+\0\xff"[dice.below(13)]),
            }
            if bytes.is_empty() {
                bytes.push(b'x');
            }
        }
        let mut stream = bed.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let Some(answer) = read(&mut stream) else { continue };
        answered += 1;
        assert!(answer.status < 500, "{}: {}", String::from_utf8_lossy(&bytes), answer.text());
        if answer.status == 200 {
            // What is signed is as it was: the same lines without the free ones, the same body.
            let signed = |bytes: &[u8]| {
                let text = String::from_utf8_lossy(bytes).to_lowercase();
                let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
                let lines = text.lines().map(words);
                let mut lines: Vec<String> =
                    lines.filter(|line| !free.iter().any(|name| line.starts_with(name))).collect();
                lines.sort();
                lines
            };
            assert_eq!(
                signed(&bytes),
                signed(&good[turn % good.len()]),
                "{}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
    assert!(answered > 100, "{answered}");
    bed.is_well();
}
