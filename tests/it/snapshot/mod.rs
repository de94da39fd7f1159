//! Snapshots: taken, changed, restored, damaged, cut.

mod bed;
mod copy;
mod faults;
mod fsx;
mod kill;
mod model;
mod program;
