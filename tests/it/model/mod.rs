//! Random operations on a [`kmsfs::volume::Volume`] and on a tree in memory: answers and states agree, over
//! remounts too. On a mismatch proptest shrinks the operations and prints them.

pub mod op;
pub mod run;
pub mod tree;

use std::sync::Arc;

use kmsfs::volume::disk::Dir;
use kmsfs::volume::host::HostDir;
use kmsfs::volume::{Volume, VolumeOptions};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fake::{FakeKms, KEY};
use crate::power::disk::Disk;
use crate::power::world::Nature;
use op::{Op, Style, op};
use run::{Checked, Runner};

/// Options of tests: no threads of its own.
pub fn options() -> VolumeOptions {
    VolumeOptions { pool: 0, mend_in_background: false, ..VolumeOptions::default() }
}

/// So many cases, unless PROPTEST_CASES says otherwise.
pub fn cases(cases: u32) -> ProptestConfig {
    let chosen = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { chosen.cases } else { cases };
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 3000,
        max_shrink_time: 60_000,
        ..chosen
    }
}

fn agree(dir: Arc<dyn Dir>, ops: &[Op], pool: usize) -> Checked<()> {
    let kms = FakeKms::new();
    Volume::init(&*dir, &*kms, KEY).map_err(|e| format!("init: {e:?}"))?;
    let options = VolumeOptions { pool, ..options() };
    let opener = move || Volume::open(dir.clone(), kms.clone(), kms.clone(), options.clone());
    let mut runner = Runner::new(Box::new(opener), false)?;
    for (at, op) in ops.iter().enumerate() {
        let last = &ops[at.saturating_sub(5)..=at];
        runner.step(op).map_err(|e| format!("{e}\nat operation {at}; the last ones: {last:#?}"))?;
    }
    runner.check_all().map_err(|e| format!("{e}\nat the end"))?;
    runner.step(&Op::Remount).map_err(|e| format!("{e}\nin the last remount"))?;
    runner.close()
}

const STYLE: Style = Style { whole: true, syncs: 3 };

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_volume_agrees_with_a_tree_in_memory(ops in vec(op(STYLE), 1..80)) {
        let temp = tempfile::tempdir().unwrap();
        let agreed = agree(HostDir::open(temp.path()).unwrap(), &ops, 4);
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }

    #[test]
    fn a_volume_on_the_simulated_disk_agrees_with_a_tree_in_memory(
        ops in vec(op(STYLE), 1..80), seed in any::<u64>(), unordered in any::<bool>(),
    ) {
        let nature = Nature { unordered, restless: 5, ..Nature::default() };
        let agreed = agree(Disk::new(nature, seed).root(), &ops, 0);
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

/// A disk that loses one write is found out: the comparison can fail.
#[test]
fn a_lost_write_does_not_go_unnoticed() {
    let at = op::At { dir: 0, name: 35 };
    let ops = [
        Op::Create { at, write: true },
        Op::Write { handle: 0, offset: 0, len: 9000 },
        Op::Fsync { handle: 0, data_only: true },
        Op::Append { handle: 0, len: 9000 },
        Op::Write { handle: 0, offset: 4000, len: 100 },
        Op::Write { handle: 0, offset: 25_000, len: 1 },
        Op::Release(0),
    ];
    let found = (1..)
        .map(|lost| {
            let disk = Disk::new(Nature { drops_write: Some(lost), ..Nature::default() }, lost);
            (agree(disk.root(), &ops, 0), disk.now().writes >= lost)
        })
        .take_while(|(_, reached)| *reached)
        .map(|(agreed, _)| agreed.is_err());
    let found: Vec<bool> = found.collect();
    assert!(found.len() >= 5, "only {} writes", found.len());
    let missed: Vec<_> = (1..).zip(&found).filter(|(_, found)| !**found).map(|(n, _)| n).collect();
    assert!(missed.is_empty(), "lost unnoticed: writes {missed:?} of {}", found.len());
}
