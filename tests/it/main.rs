//! Tests from outside: each module drives the library or the program as a user would.

mod fake;
mod opens;
mod model;
mod parsers;
mod power;
mod reader;
mod tidy;
