//! Tests from outside: each module drives the library or the program as a user would.

mod mount_bad_input;
mod mount_files;
mod mount_fsx;
mod mount_life;
mod mount_programs;
mod mounted;
mod reader;
mod tidy;
