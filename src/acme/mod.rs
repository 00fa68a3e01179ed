//! Certificate resolvers.

pub mod challenge;
mod durable;
pub mod schedule;
pub mod storage;
