//! Tests from outside: each module drives the library or the program as a user would.

mod fake;
mod opens;
mod parsers;
mod reader;
mod tidy;
