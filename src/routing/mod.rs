//! What a request reads: the snapshot, the route table of its entrypoint, the route, the service with its two arms, the server.
//!
//! Two levels. A [`snapshot::Snapshot`] is immutable and holds routes; services and servers are long-lived objects that
//! outlive it, keyed by identity, so that health, in-flight counts and shares survive every reload.

pub mod balance;
pub mod entrypoint;
pub mod report;
pub mod server;
pub mod service;
pub mod snapshot;
pub mod table;
pub mod tcp;
