//! Snapshots: taken, changed, restored, damaged, cut.

mod bed;
mod faults;
mod kill;
mod model;
mod program;
