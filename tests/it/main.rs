//! Tests from outside: each module drives the library or the program as a user would.

mod parsers;
mod reader;
mod tidy;
