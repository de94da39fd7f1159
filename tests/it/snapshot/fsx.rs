//! Snapshots of a file while fsx works on it. fsx tells each operation before it begins it, and what it writes follows
//! from its seed: so every state that the file has had can be made again and compared with what a snapshot holds.
//! More snapshots with KMSFS_FSX_SNAPSHOTS.

use std::env;
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::super::mount_fsx::fsx;
use super::super::mounted::bed::{Bed, wait_for};
use super::bed::noise;
use super::program::Second;

/// The longest that fsx makes the file.
const LONGEST: usize = 131_072;
const PAGE: usize = 4096;

/// What fsx did to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    /// Through write() or a mapping; the bytes follow from the number of the operation.
    Write(u64, Range<usize>),
    Truncate(usize),
    Copy {
        from: Range<usize>,
        to: usize,
    },
    /// fsync or fdatasync of the file.
    Sync,
    /// Nothing that changes it.
    Other,
}

impl Op {
    /// Of a line such as `[INFO  fsx]  6 mapwrite 0x196fd .. 0x1ce76 (0x377a bytes)`.
    fn parse(line: &str) -> Self {
        let told = line.strip_prefix("[INFO  fsx]").unwrap_or_else(|| panic!("not of fsx: {line}"));
        let mut words = told.split_whitespace();
        let number = words.next().unwrap().parse().unwrap();
        let name = words.next().unwrap().split('(').next().unwrap();
        let hex = |part: &str| {
            let digits = part.split(|c: char| !c.is_ascii_hexdigit()).next().unwrap();
            usize::from_str_radix(digits, 16).unwrap()
        };
        let numbers: Vec<usize> = told.split("0x").skip(1).map(hex).collect();
        match (name, &numbers[..]) {
            ("write" | "mapwrite", [first, last, len]) => {
                assert_eq!(last + 1 - first, *len, "{line}");
                Self::Write(number, *first..last + 1)
            }
            ("truncate", [_, to]) => Self::Truncate(*to),
            ("copy_file_range", [first, last, to, _, _]) => Self::Copy { from: *first..last + 1, to: *to },
            ("fsync" | "fdatasync", []) => Self::Sync,
            ("read" | "mapread" | "posix_fadvise" | "close/open" | "msync", _) => Self::Other,
            _ => panic!("fsx told of something unknown: {line}"),
        }
    }
}

/// The file as fsx has it.
struct Model {
    /// Zeros behind the end.
    bytes: Vec<u8>,
    len: usize,
    /// What fsx adds to bytes at odd places.
    original: Vec<u8>,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self { bytes: vec![0; LONGEST], len: 0, original: original(seed) }
    }

    /// What of the file it has changed.
    fn apply(&mut self, op: &Op) -> Range<usize> {
        match op {
            Op::Write(number, range) => {
                for at in range.clone() {
                    let odd = if at % 2 == 1 { self.original[at] } else { 0 };
                    self.bytes[at] = (*number as u8).wrapping_add(odd);
                }
                self.len = self.len.max(range.end);
                range.clone()
            }
            Op::Truncate(to) => {
                let old = std::mem::replace(&mut self.len, *to);
                let cut = *to..old.max(*to);
                self.bytes[cut.clone()].fill(0);
                cut
            }
            Op::Copy { from, to } => {
                self.bytes.copy_within(from.clone(), *to);
                let end = to + from.len();
                self.len = self.len.max(end);
                *to..end
            }
            Op::Sync | Op::Other => 0..0,
        }
    }
}

/// The bytes that fsx draws from its seed first: rand_xorshift's generator (Marsaglia, "Xorshift RNGs", 2003), seeded by
/// rand_core's `seed_from_u64`, which is PCG32. Were they wrong, no file would be what the model says.
fn original(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut word = [0u32; 4].map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11_634_580_027_462_260_723);
        ((((state >> 18) ^ state) >> 27) as u32).rotate_right((state >> 59) as u32)
    });
    let mut next = || {
        let t = word[0] ^ (word[0] << 11);
        word = [word[1], word[2], word[3], word[3] ^ (word[3] >> 19) ^ t ^ (t >> 8)];
        word[3].to_le_bytes()
    };
    (0..LONGEST / 4).flat_map(|_| next()).collect()
}

/// What is claimed to be the file at a moment of which is known only that the operations before `window.start` were done
/// by then, and those from `window.end` on not begun.
struct Claim {
    found: Vec<u8>,
    window: Range<usize>,
}

/// What is known of a claim while the operations are done again, since the last sync.
struct Judge {
    claim: Claim,
    /// Bytes that were what was found, in some state since then; and how many were not.
    seen: Vec<bool>,
    missing: usize,
    /// Lengths since then: the least, the greatest, and whether one was what was found.
    lengths: (usize, usize, bool),
    holds: bool,
    /// It was exactly one of the states.
    exact: bool,
}

impl Judge {
    fn new(claim: Claim) -> Self {
        let seen = vec![false; claim.found.len()];
        Self { claim, seen, missing: 0, lengths: (0, 0, false), holds: false, exact: false }
    }

    fn begin(&mut self, model: &Model) {
        self.seen.fill(false);
        self.missing = self.claim.found.len();
        self.lengths = (usize::MAX, 0, false);
        self.look(model, 0..LONGEST);
    }

    fn look(&mut self, model: &Model, changed: Range<usize>) {
        let found = &self.claim.found;
        let changed = changed.start.min(found.len())..changed.end.min(found.len());
        let bytes = found[changed.clone()].iter().zip(&model.bytes[changed.clone()]);
        for (seen, (found, there)) in self.seen[changed].iter_mut().zip(bytes) {
            if !*seen && found == there {
                *seen = true;
                self.missing -= 1;
            }
        }
        let (least, greatest, met) = self.lengths;
        self.lengths = (least.min(model.len), greatest.max(model.len), met || model.len == found.len());
        self.exact |= model.bytes[..model.len] == **found;
    }

    /// What was found is made of states since the last sync. A file that grows is seen to end at a page's end too, since
    /// the kernel writes pages back; and what it has not written back of the growth yet reads as zeros.
    fn end(&mut self) {
        let (least, greatest, met) = self.lengths;
        let found = self.claim.found.len();
        let grows = found.is_multiple_of(PAGE) && (least..greatest).contains(&found);
        self.holds |= self.missing == 0 && (met || grows);
    }
}

/// For each claim, whether the file was so between two syncs; and whether it was exactly one state.
fn judge(seed: u64, ops: &[Op], claims: Vec<Claim>) -> Vec<(bool, bool)> {
    let mut judges: Vec<Judge> = claims.into_iter().map(Judge::new).collect();
    let mut model = Model::new(seed);
    for done in 0..=ops.len() {
        let changed = if done == 0 { 0..0 } else { model.apply(&ops[done - 1]) };
        let synced = done > 0 && ops[done - 1] == Op::Sync;
        for judge in &mut judges {
            let Range { start, end } = judge.claim.window;
            match done {
                _ if done < start || done > end => continue,
                _ if done == start => judge.begin(&model),
                _ => judge.look(&model, changed.clone()),
            }
            if synced || done == end {
                judge.end();
                judge.begin(&model);
            }
        }
    }
    judges.iter().map(|judge| (judge.holds, judge.exact)).collect()
}

/// fsx at work; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What fsx has told by now: whole lines.
fn told(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    text[..whole].lines().map(str::to_owned).collect()
}

/// Before 6.16 the kernel does not say when it has written back by itself: only what was synced is in a snapshot for sure.
fn kernel_waits() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}

fn snapshots_of_what_fsx_works_on(seed: u64, config: &str, more: &str) {
    let snapshots = env::var("KMSFS_FSX_SNAPSHOTS").map_or(4, |n| n.parse().unwrap());
    let bed = Bed::mounted();
    let (config_path, log) = (bed.dir().join("fsx.toml"), bed.dir().join("fsx.log"));
    let common = "write = 8.0\nmapwrite = 5.0\ntruncate = 2.0\nread = 2.0\nmapread = 2.0\n";
    let text =
        format!("flen = {LONGEST}\n{config}\n[opsize]\nmin = 1\nmax = 16384\n[weights]\n{common}{more}");
    fs::write(&config_path, text).unwrap();
    let mut command = std::process::Command::new(fsx());
    command.args(["-v", "-N", "1000000000", "-S", &seed.to_string(), "-f"]).arg(&config_path);
    command.arg("-P").arg(bed.dir()).arg(bed.plain("file")).stdout(Stdio::null());
    let child = command.stderr(File::create(&log).unwrap()).spawn();
    let mut running = Running(child.expect("fsx is absent: run scripts/test, or cargo install fsx"));
    wait_for(Duration::from_secs(30), "fsx to begin", || told(&log).len() > 100);
    let mut windows = Vec::new();
    for n in 0..snapshots {
        // The last that was told may be under way.
        let before = told(&log).len() - 1;
        bed.run(["snapshot", "create", "vault", "--name", &format!("s{n}")]);
        let end = told(&log).len();
        windows.push(before..end);
        // So that the next one is of another state.
        wait_for(Duration::from_secs(30), "fsx to go on", || told(&log).len() > end + 50);
    }
    let ended = running.0.try_wait().unwrap();
    assert!(ended.is_none(), "seed {seed}: {ended:?}: {:?}", told(&log).last());
    drop(running);
    let lines = told(&log);
    let ops: Vec<Op> = lines.iter().map(|line| Op::parse(line)).collect();
    // Where the kernel does not wait, the moment may be any from the last sync on.
    let synced = |before: usize| ops[..before].iter().rposition(|op| *op == Op::Sync).map_or(0, |at| at + 1);
    for window in windows.iter_mut().filter(|_| !kernel_waits()) {
        window.start = synced(window.start);
    }

    let live = fs::read(bed.plain("file")).unwrap();
    let mut found = Vec::new();
    for n in 0..snapshots {
        let snapshot = Second::snapshot(&bed, &format!("s{n}"), "past");
        found.push(fs::read(snapshot.path("file")).unwrap());
    }
    // What is altered must be refused, or to be accepted says nothing: here a page of it.
    let altered: Vec<Vec<u8>> = found
        .iter()
        .zip(seed..)
        .map(|(found, seed)| {
            let page = noise(seed, 1)[0] as usize % found.len().div_ceil(PAGE).max(1) * PAGE;
            let end = (page + PAGE).min(found.len()).max(1);
            let mut altered = found.clone();
            altered.resize(end.max(found.len()), 0);
            altered[page..end].copy_from_slice(&noise(seed, end - page));
            altered
        })
        .collect();
    let claim =
        |(found, window): (&Vec<u8>, &Range<usize>)| Claim { found: found.clone(), window: window.clone() };
    // Or the file as it was one snapshot earlier.
    let stale = found.iter().zip(&windows[1..]).map(claim);
    let mut claims = vec![Claim { found: live, window: ops.len() - 1..ops.len() }];
    claims.extend(found.iter().zip(&windows).map(claim));
    claims.extend(altered.iter().zip(&windows).map(claim).chain(stale));
    let judged = judge(seed, &ops, claims);
    let (good, bad) = judged[1..].split_at(snapshots);
    assert!(judged[0].0, "seed {seed}: the file itself is not what fsx's {} operations make", ops.len());
    for (n, (holds, _)) in good.iter().enumerate() {
        let window = &windows[n];
        assert!(
            holds,
            "seed {seed}: snapshot {n} is no state between two syncs of {window:?}, {} bytes",
            found[n].len()
        );
    }
    for (n, (holds, _)) in bad.iter().enumerate() {
        assert!(!holds, "seed {seed}: what was altered passes: {n} of {}", bad.len());
    }
    let exact = good.iter().filter(|(_, exact)| *exact).count();
    let widths: Vec<usize> = windows.iter().map(|window| window.len()).collect();
    println!(
        "seed {seed}: {} operations, {exact} of {snapshots} snapshots are one state, windows {widths:?}",
        ops.len()
    );
}

#[test]
fn a_snapshot_of_what_fsx_works_on_is_a_state_between_two_syncs() {
    let more = "fsync = 2.0\nfdatasync = 2.0\nclose_open = 1.0\ncopy_file_range = 2.0\ninvalidate = 1.0\n\
                posix_fadvise = 1.0\n";
    snapshots_of_what_fsx_works_on(20_261_128, "", more);
}

/// Nothing is ever synced, nor closed: what was written before the snapshot began is in it all the same.
#[test]
fn so_is_one_of_what_is_never_synced() {
    snapshots_of_what_fsx_works_on(4, "nomsyncafterwrite = true", "");
}
