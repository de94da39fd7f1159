//! Several threads write to one file, as the kernel's writeback does: neighbouring 4096-byte pages of plaintext,
//! out of order, and share blocks. What one thread synced of its own pages survives whatever the others do.

use kmsfs::volume::{ROOT, Volume};
use proptest::collection::vec;
use proptest::prelude::*;

use super::crash::Trial;
use super::disk::Disk;
use super::world::Nature;
use crate::handles::READ_WRITE;
use crate::model::cases;
use crate::model::run::{CALLER, Checked, pattern};

const PAGE: usize = 4096;
const THREADS: usize = 3;
const NAME: &[u8] = b"shared";

#[derive(Debug, Clone, Copy)]
enum Op {
    /// The thread's page of this number; its length.
    Write(usize, usize),
    Read(usize),
    Sync,
}

/// Between two numbers of the disk's calls.
struct Done {
    op: Op,
    /// What a write wrote.
    data: Vec<u8>,
    start: u64,
    end: u64,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..6usize, prop_oneof![Just(PAGE), 1..PAGE]).prop_map(|(page, len)| Op::Write(page, len)),
        1 => (0..6usize).prop_map(Op::Read),
        2 => Just(Op::Sync),
    ]
}

/// Pages of the threads alternate.
fn place(thread: usize, page: usize) -> usize {
    (page * THREADS + thread) * PAGE
}

/// One thread's part; what it reads of its own pages must be what it wrote.
fn run(volume: &Volume, disk: &Disk, node: u64, thread: usize, ops: &[Op]) -> Checked<Vec<Done>> {
    let handle = volume.open_file(CALLER, node, READ_WRITE).map_err(|e| format!("open: {e:?}"))?;
    let mut pages = vec![Vec::new(); 6];
    let mut done = Vec::new();
    for (number, op) in ops.iter().enumerate() {
        let (start, mut data) = (disk.calls(), Vec::new());
        match *op {
            Op::Write(page, len) => {
                data = pattern((thread * 1000 + number) as u64, len);
                let written = volume.write(handle, place(thread, page) as u64, &data, false);
                written.map_err(|e| format!("write: {e:?}"))?;
                let known: &mut Vec<u8> = &mut pages[page];
                known.resize(known.len().max(len), 0);
                known[..len].copy_from_slice(&data);
            }
            Op::Read(page) => {
                let mut buf = vec![0; pages[page].len()];
                let read = volume.read(handle, place(thread, page) as u64, &mut buf);
                let read = read.map_err(|e| format!("read: {e:?}"))?;
                if read != buf.len() || buf != pages[page] {
                    return Err(format!("thread {thread} reads other bytes of its page {page}"));
                }
            }
            Op::Sync => volume.fsync(handle, true).map_err(|e| format!("fsync: {e:?}"))?,
        }
        done.push(Done { op: *op, data, start, end: disk.calls() });
    }
    volume.release(handle).map_err(|e| format!("release: {e:?}"))?;
    Ok(done)
}

/// Of one thread's pages: what it synced is there, and else only what it wrote, or zeros.
fn check(thread: usize, done: &[Done], cut: u64, found: &[u8]) -> Checked<()> {
    let begun = &done[..done.partition_point(|done| done.start < cut)];
    let synced = begun.iter().rposition(|done| matches!(done.op, Op::Sync) && done.end < cut).unwrap_or(0);
    for page in 0..6 {
        let writes = || {
            let of_page =
                begun.iter().enumerate().filter(|(_, d)| matches!(d.op, Op::Write(p, _) if p == page));
            of_page.map(|(at, d)| (at, &d.data))
        };
        for i in 0..PAGE {
            let last_synced = writes().rfind(|(at, data)| *at < synced && i < data.len());
            let floor = last_synced.map_or(0, |(at, _)| at);
            let byte = found.get(place(thread, page) + i).copied();
            let right = match (byte, last_synced) {
                (None, Some(_)) => false,
                (None | Some(0), None) => true,
                (Some(byte), _) => writes().any(|(at, data)| at >= floor && data.get(i) == Some(&byte)),
            };
            if !right {
                let len = found.len();
                return Err(format!(
                    "thread {thread}, page {page}, byte {i}: {byte:?} of {len}, synced {last_synced:?}"
                ));
            }
        }
    }
    Ok(())
}

fn together(nature: Nature, seed: u64, ops: &[Vec<Op>]) -> Checked<u64> {
    let mut trial = Trial::new(nature, seed)?;
    let volume = trial.opener()().map_err(|e| format!("open: {e:?}"))?;
    let created = volume.create(CALLER, ROOT, NAME, 0o600, READ_WRITE);
    let (attr, handle) = created.map_err(|e| format!("create: {e:?}"))?;
    volume.fsync(handle, false).map_err(|e| format!("fsync: {e:?}"))?;
    trial.plan(5 * ops.iter().map(Vec::len).sum::<usize>() as u64, 5);
    let disk = &trial.disk;
    let results: Vec<Checked<Vec<Done>>> = std::thread::scope(|scope| {
        let run = |(thread, ops)| {
            let volume = &volume;
            scope.spawn(move || run(volume, disk, attr.node, thread, ops))
        };
        let threads: Vec<_> = ops.iter().map(|ops| &ops[..]).enumerate().map(run).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
            .collect()
    });
    let done = results.into_iter().collect::<Checked<Vec<_>>>()?;
    volume.release(handle).map_err(|e| format!("release: {e:?}"))?;
    trial.each_cut(|cut, found| {
        let found = found.entries.get(NAME).ok_or("the file is lost")?;
        done.iter().enumerate().try_for_each(|(thread, done)| check(thread, done, cut, &found.content))
    })
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn threads_that_share_blocks_do_not_endanger_each_other(
        ops in vec(vec(op(), 1..25), THREADS), seed in any::<u64>(), restless in 0..30u64,
    ) {
        let held = together(Nature { restless, ..Nature::default() }, seed, &ops);
        prop_assert!(held.is_ok(), "{}", held.unwrap_err());
    }
}
