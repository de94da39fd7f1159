//! The volume on a disk that loses power at a random moment: what design and docs/format.md promise must hold
//! of what was acknowledged. And the proof that these tests would see it if it did not.

pub mod crash;
pub mod disk;
mod fail;
mod oracle;
mod rekey;
mod rewrap;
mod shared;
mod shred;
pub mod world;

use kmsfs::volume::disk::RenameMode;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::model::cases;
use crate::model::op::{At, Op, Style, op};
use crash::{alone, at_every_call, together};
use world::Nature;

const STYLE: Style = Style { whole: false, syncs: 7 };
/// Power cuts of each run.
const CUTS: u64 = 6;

fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(STYLE), 1..most)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn what_was_acknowledged_survives_a_power_cut(
        first in ops(30), second in ops(30), seed in any::<u64>(), restless in 0..30u64,
    ) {
        let nature = Nature { restless, ..Nature::default() };
        let held = alone(nature, seed, &first, &second, CUTS);
        prop_assert!(held.is_ok(), "{}", held.unwrap_err());
    }

    #[test]
    fn what_was_acknowledged_survives_where_metadata_is_not_ordered(
        first in ops(30), second in ops(30), seed in any::<u64>(), restless in 0..30u64,
    ) {
        let nature = Nature { unordered: true, restless, ..Nature::default() };
        let held = alone(nature, seed, &first, &second, CUTS);
        prop_assert!(held.is_ok(), "{}", held.unwrap_err());
    }

    #[test]
    fn two_callers_do_not_endanger_each_other(
        left in ops(40), right in ops(40), seed in any::<u64>(), unordered in any::<bool>(),
    ) {
        let nature = Nature { unordered, restless: 8, ..Nature::default() };
        let held = together(nature, seed, &left, &right, CUTS);
        prop_assert!(held.is_ok(), "{}", held.unwrap_err());
    }
}

/// Each of these few operations on a file that an earlier mount finalised, cut at every call.
#[test]
fn a_finalised_file_survives_a_change_at_every_call() {
    let at = At { dir: 0, name: 32 };
    let open = || Op::Open { at, write: true, truncate: false };
    let fsync = |data_only| Op::Fsync { handle: 0, data_only };
    let write = |offset, len| Op::Write { handle: 0, offset, len };
    let changes: [&[Op]; 9] = [
        &[open(), Op::Append { handle: 0, len: 50 }, fsync(true), Op::Release(0)],
        &[open(), Op::Append { handle: 0, len: 9000 }, Op::Release(0), fsync(false)],
        &[open(), write(20_000, 10), fsync(true), write(30_000, 10), Op::Release(0)],
        &[open(), write(10, 5000), fsync(true), Op::Release(0)],
        &[Op::Truncate { at, size: 1 }, open(), Op::Append { handle: 0, len: 10 }, fsync(true)],
        &[Op::Truncate { at, size: 4065 }, open(), fsync(false)],
        &[Op::Truncate { at, size: 4064 }, open(), Op::Append { handle: 0, len: 10 }, fsync(true)],
        &[Op::Truncate { at, size: 20_000 }, open(), Op::Append { handle: 0, len: 10 }, fsync(true)],
        &[Op::Open { at, write: true, truncate: true }, write(0, 100), fsync(true), Op::Release(0)],
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for len in [100, 4064, 10_000] {
            let make = [Op::Create { at, write: true }, write(0, len), Op::Remount];
            for seed in 0..2 {
                let nature = Nature { restless: 20 * seed, ..Nature::default() };
                let held = at_every_call(nature, seed, &[&make, change, &[Op::Remount]].concat());
                assert!(held.is_ok(), "change {number} of a file of {len} bytes: {}", held.unwrap_err());
            }
        }
    }
}

/// Runs of fixed seeds on a broken disk until a promise is found broken.
fn found_out(nature: Nature) -> bool {
    let mut runner = TestRunner::deterministic();
    let strategy = (ops(30), ops(30), any::<u64>());
    (0..200).any(|_| {
        let (first, second, seed) = strategy.new_tree(&mut runner).expect("no filter rejects").current();
        // Nothing else fails than what a cut leaves.
        alone(nature, seed, &first, &second, CUTS).is_err_and(|e| e.starts_with("cut at call"))
    })
}

#[test]
fn a_disk_whose_sync_does_nothing_is_found_out() {
    assert!(found_out(Nature { sync_lies: true, ..Nature::default() }));
}

#[test]
fn a_disk_that_reorders_metadata_and_does_not_say_so_is_found_out() {
    assert!(found_out(Nature { order_lies: true, ..Nature::default() }));
}

/// What editors and package managers do: a new file is written, closed, and takes the place of the old one.
fn replaces_a_file(nature: Nature) -> Result<(), String> {
    let (old, new) = (At { dir: 0, name: 35 }, At { dir: 0, name: 36 });
    for len in [0, 100, 10_000] {
        let ops = [
            Op::Create { at: old, write: true },
            Op::Write { handle: 0, offset: 0, len: 9000 },
            Op::Fsync { handle: 0, data_only: true },
            Op::Create { at: new, write: true },
            Op::Append { handle: 1, len },
            Op::Release(1),
            Op::Rename(new, old, RenameMode::Replace),
            Op::FsyncDir(old),
            Op::Mkdir(new),
        ];
        for seed in 0..4 {
            at_every_call(Nature { restless: seed * 5, ..nature }, seed, &ops)?;
        }
    }
    Ok(())
}

#[test]
fn a_replaced_file_is_the_old_or_the_new_one() {
    let held = replaces_a_file(Nature::default());
    assert!(held.is_ok(), "{}", held.unwrap_err());
}

#[test]
fn a_disk_that_renames_before_it_writes_is_found_out() {
    let held = replaces_a_file(Nature { flush_lies: true, ..Nature::default() });
    assert!(held.is_err_and(|e| e.starts_with("cut at call")));
}

#[test]
fn a_page_that_changes_while_the_device_writes_it_is_found_out() {
    let nature = Nature { wait_lies: true, restless: 30, ..Nature::default() };
    let (old, append) = (At { dir: 0, name: 35 }, Op::Append { handle: 0, len: 10 });
    let ops = [vec![Op::Create { at: old, write: true }], vec![append; 30]].concat();
    let held = (0..20).try_for_each(|seed| at_every_call(nature, seed, &ops).map(drop));
    assert!(held.is_err_and(|e| e.contains("rewritten while the device wrote them")));
}
