//! The volume on a disk that loses power at a random moment: what design and docs/format.md promise must hold
//! of what was acknowledged. And the proof that these tests would see it if it did not.

pub mod crash;
pub mod disk;
mod oracle;
pub mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::model::cases;
use crate::model::op::{Op, Style, op};
use crash::{alone, together};
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

/// Runs of fixed seeds on a broken disk until a promise is found broken.
fn found_out(nature: Nature) -> bool {
    let mut runner = TestRunner::deterministic();
    let strategy = (ops(30), ops(30), any::<u64>());
    (0..200).any(|_| {
        let (first, second, seed) = strategy.new_tree(&mut runner).expect("no filter rejects").current();
        alone(nature, seed, &first, &second, CUTS).is_err()
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
