//! Tests from outside: each module drives the library or the program as a user would.

mod reader;
mod tidy;
