//! What the tests on real mounts share.

pub mod bed;
