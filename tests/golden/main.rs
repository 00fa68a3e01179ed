//! Text in, text out: what a user writes, and what Tidegate says to it. Accept a change with `cargo insta review`, or by
//! running the tests with `INSTA_UPDATE=always` and reading the diff.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod explain;
mod install;
