//! Does the work of one row of scripts/bench in a directory and prints its figure, so that no shell stands
//! between the clock and the filesystem.
//!
//! `bench_rows ROW DIR [--small]`: rows in [`ROWS`]. `bench_rows --table RESULTS`: makes the table of what
//! scripts/bench noted (round, filesystem, row and figure, with tabs between). A row may need what an earlier one left (`read` what
//! `write` wrote); rows whose name ends in `-cold` expect a filesystem that was just mounted.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

struct Row {
    name: &'static str,
    what: &'static str,
    /// What kmsfs shall reach of the passthrough's figure.
    of_limit: Option<f64>,
    /// How many times the best peer's figure.
    of_peer: Option<f64>,
}

const fn row(name: &'static str, what: &'static str, of_limit: Option<f64>, of_peer: Option<f64>) -> Row {
    Row { name, what, of_limit, of_peer }
}

const ROWS: [Row; 11] = [
    row("write", "write 512 MiB, 1 MiB blocks, fsync, MB/s", Some(0.9), Some(1.8)),
    row("read-cold", "read it back, cold, MB/s", Some(0.9), Some(1.0)),
    row("random-read-cold", "random 4 KiB reads, cold, MB/s", Some(0.9), None),
    row("random-write", "random 4 KiB writes, then fsync, MB/s", Some(0.65), Some(2.0)),
    row("append", "512-byte appends, then fsync, MB/s", Some(0.8), Some(5.0)),
    row("create", "create 4 KiB files, per s", Some(0.9), Some(1.0)),
    row("stat-cold", "list and stat them, cold, per s", Some(0.8), Some(1.0)),
    row("small-read-cold", "read them, cold, per s", Some(0.9), Some(1.0)),
    row("small-read-warm", "read them, warm, per s", Some(0.9), Some(1.0)),
    row("remove", "remove them, per s", Some(0.9), Some(1.0)),
    row("dbench", "dbench, 2 clients, MB/s", None, Some(1.0)),
];

const MIB: usize = 1 << 20;
const SMALL: usize = 4096;
const FILES_PER_DIR: usize = 500;

struct Sizes {
    large: usize,
    random_reads: usize,
    random_writes: usize,
    appends: usize,
    files: usize,
}

impl Sizes {
    fn new(small: bool) -> Self {
        let cut = if small { 8 } else { 1 };
        Self {
            large: 512 * MIB / cut,
            random_reads: 20_000 / cut,
            random_writes: 40_000 / cut,
            appends: 200_000 / cut,
            files: 5000 / cut,
        }
    }
}

/// xorshift64*: the same offsets for every filesystem.
struct Offsets(u64);

impl Offsets {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut source = Offsets(0x9E37_79B9_7F4A_7C15);
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        data.extend_from_slice(&source.below(u64::MAX).to_le_bytes());
    }
    data.truncate(len);
    data
}

fn small_file(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("d{:02}/file-{number:05}", number / FILES_PER_DIR))
}

fn write(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let data = noise(MIB);
    let path = dir.join("large");
    let start = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..sizes.large / MIB {
        file.write_all(&data)?;
    }
    file.sync_all()?;
    drop(file);
    Ok(sizes.large as f64 / 1e6 / start.elapsed().as_secs_f64())
}

fn read(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let mut buffer = vec![0; MIB];
    let start = Instant::now();
    let mut file = File::open(dir.join("large"))?;
    let mut total = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        total += read;
    }
    let time = start.elapsed().as_secs_f64();
    if total != sizes.large {
        return Err(io::Error::other(format!("read {total} bytes instead of {}", sizes.large)));
    }
    Ok(total as f64 / 1e6 / time)
}

fn random_read(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let mut buffer = [0; SMALL];
    let mut offsets = Offsets(42);
    let file = File::open(dir.join("large"))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    let start = Instant::now();
    for _ in 0..sizes.random_reads {
        file.read_exact_at(&mut buffer, offsets.below((sizes.large / SMALL) as u64) * SMALL as u64)?;
    }
    Ok((sizes.random_reads * SMALL) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

fn random_write(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let data = noise(SMALL);
    let mut offsets = Offsets(43);
    let file = OpenOptions::new().read(true).write(true).open(dir.join("large"))?;
    let start = Instant::now();
    for _ in 0..sizes.random_writes {
        file.write_all_at(&data, offsets.below((sizes.large / SMALL) as u64) * SMALL as u64)?;
    }
    file.sync_all()?;
    Ok((sizes.random_writes * SMALL) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

fn append(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let data = noise(512);
    let path = dir.join("appended");
    let _ = fs::remove_file(&path);
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let start = Instant::now();
    for _ in 0..sizes.appends {
        file.write_all(&data)?;
    }
    file.sync_all()?;
    Ok((sizes.appends * 512) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

fn create(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let data = noise(SMALL);
    let start = Instant::now();
    for number in 0..sizes.files {
        let path = small_file(dir, number);
        if number % FILES_PER_DIR == 0
            && let Some(parent) = path.parent()
        {
            fs::create_dir(parent)?;
        }
        File::create(path)?.write_all(&data)?;
    }
    Ok(sizes.files as f64 / start.elapsed().as_secs_f64())
}

fn stat(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let start = Instant::now();
    let mut seen = 0;
    for number in (0..sizes.files).step_by(FILES_PER_DIR) {
        let Some(parent) = small_file(dir, number).parent().map(Path::to_owned) else { continue };
        for entry in fs::read_dir(parent)? {
            seen += usize::from(entry?.metadata()?.len() == SMALL as u64);
        }
    }
    let time = start.elapsed().as_secs_f64();
    if seen != sizes.files {
        return Err(io::Error::other(format!("found {seen} files of 4 KiB instead of {}", sizes.files)));
    }
    Ok(seen as f64 / time)
}

fn small_read(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let mut buffer = [0; SMALL + 1];
    let start = Instant::now();
    for number in 0..sizes.files {
        let read = File::open(small_file(dir, number))?.read(&mut buffer)?;
        if read != SMALL {
            return Err(io::Error::other(format!("read {read} bytes instead of {SMALL}")));
        }
    }
    Ok(sizes.files as f64 / start.elapsed().as_secs_f64())
}

fn remove(dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    let start = Instant::now();
    for number in 0..sizes.files {
        let path = small_file(dir, number);
        fs::remove_file(&path)?;
        if (number + 1) % FILES_PER_DIR == 0
            && let Some(parent) = path.parent()
        {
            fs::remove_dir(parent)?;
        }
    }
    Ok(sizes.files as f64 / start.elapsed().as_secs_f64())
}

fn run(row: &str, dir: &Path, sizes: &Sizes) -> io::Result<f64> {
    match row {
        "write" => write(dir, sizes),
        "read-cold" => read(dir, sizes),
        "random-read-cold" => random_read(dir, sizes),
        "random-write" => random_write(dir, sizes),
        "append" => append(dir, sizes),
        "create" => create(dir, sizes),
        "stat-cold" => stat(dir, sizes),
        "small-read-cold" | "small-read-warm" => small_read(dir, sizes),
        "remove" => remove(dir, sizes),
        _ => Err(io::Error::other("no such row")),
    }
}

const OURS: &str = "kmsfs";
const LIMIT: &str = "passthrough";
const COLUMNS: [&str; 4] = ["gocryptfs", "securefs", LIMIT, OURS];

/// (filesystem, row) to (round, figure).
type Results = BTreeMap<(String, String), BTreeMap<u32, f64>>;

fn parse(text: &str) -> Option<Results> {
    let mut results = Results::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let round = fields.next()?.parse().ok()?;
        let (filesystem, row) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        let figure = fields.next()?.parse().ok()?;
        results.entry((filesystem, row)).or_default().insert(round, figure);
    }
    Some(results)
}

/// Median, least and greatest.
fn spread(mut figures: Vec<f64>) -> Option<(f64, f64, f64)> {
    figures.sort_by(f64::total_cmp);
    let (least, greatest) = (*figures.first()?, *figures.last()?);
    let middle = figures.len() / 2;
    let median = if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        f64::midpoint(figures[middle - 1], figures[middle])
    };
    Some((median, least, greatest))
}

fn number(figure: f64) -> String {
    if figure < 99.5 { format!("{figure:.1}") } else { format!("{figure:.0}") }
}

fn figures(results: &Results, filesystem: &str, row: &str) -> Option<(f64, f64, f64)> {
    let rounds = results.get(&(filesystem.to_owned(), row.to_owned()))?;
    spread(rounds.values().copied().collect())
}

/// Ours over another's, round by round, because absolute figures move more than ratios do.
fn ratio(results: &Results, other: &str, row: &str) -> Option<(f64, f64, f64)> {
    let ours = results.get(&(OURS.to_owned(), row.to_owned()))?;
    let others = results.get(&(other.to_owned(), row.to_owned()))?;
    spread(ours.iter().filter_map(|(round, figure)| Some(figure / others.get(round)?)).collect())
}

fn judged(ratio: Option<(f64, f64, f64)>, goal: Option<f64>) -> String {
    match (ratio, goal) {
        (None, None) => "-".into(),
        (None, Some(goal)) => format!("- (goal {goal})"),
        (Some((median, least, greatest)), goal) => {
            let goal = goal.map_or(String::new(), |goal| {
                format!(", goal {goal}{}", if median >= goal { "" } else { " MISSED" })
            });
            format!("{median:.2} ({least:.2}-{greatest:.2}{goal})")
        }
    }
}

fn table(results: &Results) -> String {
    let mut out = format!("| work | {} | kmsfs / passthrough | kmsfs / best peer |\n", COLUMNS.join(" | "));
    out.push_str(&format!("|---|{}---|---|\n", "---|".repeat(COLUMNS.len())));
    for row in ROWS.iter().filter(|row| results.keys().any(|(_, name)| name == row.name)) {
        let cells = COLUMNS.map(|filesystem| match figures(results, filesystem, row.name) {
            Some((median, least, greatest)) => {
                format!("{} ({}-{})", number(median), number(least), number(greatest))
            }
            None => "-".into(),
        });
        let median = |peer: &&str| figures(results, peer, row.name).map_or(0.0, |f| f.0);
        let best = ["gocryptfs", "securefs"].into_iter().max_by(|a, b| median(a).total_cmp(&median(b)));
        let limit = judged(ratio(results, LIMIT, row.name), row.of_limit);
        let peer = judged(best.and_then(|best| ratio(results, best, row.name)), row.of_peer);
        out.push_str(&format!("| {} | {} | {limit} | {peer} |\n", row.what, cells.join(" | ")));
    }
    out
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let small = args.iter().any(|arg| arg == "--small");
    let done = match args.as_slice() {
        [option, path] if option == "--table" => fs::read_to_string(path)
            .and_then(|text| parse(&text).ok_or_else(|| io::Error::other("not a file of results")))
            .map(|results| table(&results)),
        [row, dir, ..] => run(row, Path::new(dir), &Sizes::new(small)).map(|figure| format!("{figure:.1}\n")),
        _ => Err(io::Error::other("usage: bench_rows ROW DIR [--small], or bench_rows --table RESULTS")),
    };
    match done {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench_rows {}: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}
