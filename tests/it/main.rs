//! Tests from outside: each module drives the library or the program as a user would.

mod api;
mod cli;
mod cli_as;
mod cli_grants;
mod cli_import;
mod cli_keys;
mod cli_sealed;
mod clients;
mod export;
mod fake;
mod kms_kill;
mod model;
mod mount_bad_input;
mod mount_files;
mod mount_fsx;
mod mount_life;
mod mount_options;
mod mount_pjdfs;
mod mount_posix;
mod mount_programs;
mod mounted;
mod opens;
mod parsers;
mod power;
mod reader;
mod tidy;
