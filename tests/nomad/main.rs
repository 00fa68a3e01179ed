//! Nomad as it was recorded, Nomad as it is played for tests, and our side of it against both.
//!
//! `recorded/` holds answers and event streams of a real Nomad 1.11.1 through the life and death of deployments. `replay.rs`
//! folds the streams into views and asks who is who. `stand_in/` plays Nomad in this process; `contract.rs` keeps it to what was
//! recorded. `access.rs`, `watch.rs` and `faults.rs` run our client and watch against it.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod access;
mod contract;
mod faults;
mod replay;
mod stand_in;
mod watch;
