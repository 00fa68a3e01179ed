//! Certificate resolvers.

pub mod challenge;
