//! temporary
#![allow(dead_code, missing_docs)]
pub mod daemon;
pub mod demo;
pub mod mount;
pub mod mounts;
pub mod umount;
