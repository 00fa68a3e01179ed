//! Where dynamic configuration comes from. Each provider publishes whole states through a `watch` channel; the newest
//! wins, and a provider that fails keeps its last word.

pub mod consul;
pub mod file;
pub mod last_good;
