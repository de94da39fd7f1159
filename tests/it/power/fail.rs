//! The volume on a disk of which one call fails: whichever it is, the volume stays usable, and what was there
//! before is right.

use super::crash::Trial;
use super::disk::Fail;
use super::oracle::{Done, History};
use super::world::Nature;
use crate::model::op::{At, Op};
use crate::model::run::{Checked, Runner, Synced};
use crate::model::tree::Tree;
use kmsfs::volume::disk::{Kind, RenameMode, XattrMode};

/// One of each, on names short and long.
fn script() -> Vec<Op> {
    let at = |dir: usize, name: usize| At { dir, name: 35 + name };
    let (short, long, other, below) = (at(0, 0), at(0, 4), at(0, 1), at(1, 0));
    vec![
        Op::Create { at: short, write: true },
        Op::Append { handle: 0, len: 9000 },
        Op::Fsync { handle: 0, data_only: true },
        Op::Append { handle: 0, len: 9000 },
        Op::Write { handle: 0, offset: 30_000, len: 10 },
        Op::Fsync { handle: 0, data_only: false },
        Op::TruncateHandle { handle: 0, size: 20_000 },
        Op::Release(0),
        Op::Truncate { at: short, size: 10_000 },
        Op::SetXattr(short, 0, 20, XattrMode::Any),
        Op::Mkdir(long),
        Op::FsyncDir(short),
        Op::Create { at: below, write: true },
        Op::SetXattr(below, 1, 20, XattrMode::Any),
        Op::Append { handle: 0, len: 100 },
        Op::Release(0),
        Op::Symlink(other, 4095),
        Op::Mknod(at(1, 4), Kind::Fifo),
        Op::Link(short, at(1, 5)),
        Op::Rename(at(1, 5), at(0, 5), RenameMode::NoReplace),
        Op::Rename(below, short, RenameMode::Replace),
        Op::Remount,
        Op::Open { at: short, write: true, truncate: false },
        Op::Append { handle: 0, len: 100 },
        Op::Rename(short, other, RenameMode::Exchange),
        Op::Unlink(short),
        Op::Mkdir(at(1, 1)),
        Op::Rename(at(1, 1), short, RenameMode::Replace),
        Op::Rmdir(short),
        Op::Unlink(at(0, 5)),
        Op::Chmod(other, 1),
        Op::RemoveXattr(other, 1),
        Op::Release(0),
        Op::Remount,
    ]
}

/// The tree after each operation; of files only the last change counts as not synced.
fn trees() -> Checked<Vec<Tree>> {
    let trial = Trial::new(Nature::default(), 1)?;
    let mut runner = Runner::new(Box::new(trial.opener()), true)?;
    let mut trees = Vec::new();
    for op in script() {
        runner.tree.sync_all();
        runner.step(&op)?;
        trees.push(runner.tree.clone());
    }
    Ok(trees)
}

/// Answers false if the script ends before the call comes.
fn with_failure(trees: &[Tree], fail: Fail, unordered: bool) -> Checked<bool> {
    let trial = Trial::new(Nature { unordered, ..Nature::default() }, 1)?;
    let mut runner = Runner::new(Box::new(trial.opener()), true)?;
    trial.disk.fail(Some(fail));
    let script = script();
    let failed = script.iter().position(|op| runner.step(op).is_err());
    if !trial.disk.has_failed() {
        return Ok(false);
    }
    trial.disk.fail(None);
    // Where an error was not told, all was done.
    let begun = failed.map_or(script.len(), |at| at + 1);
    let done = (0..begun).map(|at| Done {
        op: script[at].clone(),
        start: 2 * at as u64,
        end: 2 * at as u64 + 1,
        synced: if failed == Some(at) { Synced::Nothing } else { Synced::All },
        tree: trees[at].clone(),
    });
    let (history, now) = (History(done.collect()), 2 * begun as u64 - u64::from(failed.is_some()));
    let checked = || {
        let found = match runner.is_open() {
            true => trial.goes_on(&runner.volume()),
            // It was a remount that failed: the next one goes on.
            false => {
                drop(runner);
                trial.goes_on(&trial.opener()().map_err(|e| format!("opening again: {e:?}"))?)
            }
        };
        history.check(&Tree::new(), now, true, &found?)
    };
    checked().map(|()| true).map_err(|e| format!("{fail:?}, told by {:?}: {e}", failed.map(|at| &script[at])))
}

fn whichever_fails(errno: i32, full: bool) {
    let trees = trees().expect("nothing fails yet");
    // The other kind of disk has a few syncs more: a third of its calls is enough.
    for (unordered, stride) in [(false, 1), (true, 3)] {
        let mut at = 0;
        while with_failure(&trees, Fail { at, errno, full }, unordered).unwrap_or_else(|e| panic!("{e}")) {
            at += stride;
        }
        assert!(at > 30, "only {at} calls");
    }
}

#[test]
fn a_call_that_fails_does_no_harm() {
    whichever_fails(libc::EIO, false);
}

#[test]
fn a_disk_that_is_full_does_no_harm() {
    whichever_fails(libc::ENOSPC, true);
}
