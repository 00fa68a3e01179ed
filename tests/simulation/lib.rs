//! The production machine and ledger against seeded streams of requests, many rollouts to a cell.
//!
//! [`world`] runs one rollout in virtual time, [`cells`] says which are run and what is promised of them. The rollout's code is
//! the product's own, taken from where the product has it; it knows nothing of the product but [`names`].

#![expect(clippy::expect_used, reason = "a simulation may stop")]

#[path = "../../src/names.rs"]
pub mod names;
#[path = "../../src/rollout/mod.rs"]
pub mod rollout;

pub mod cells;
pub mod shown;
pub mod world;
