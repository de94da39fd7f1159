//! Snapshots: taken, changed, restored, damaged, cut.

mod bed;
mod copy;
mod faults;
mod fsx;
mod hostile;
mod kill;
mod model;
mod program;
