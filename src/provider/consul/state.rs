//! What the provider publishes: the catalog as the agent tells it, and what must be known to judge it.
//!
//! Nothing is hidden or mended here. Whether instances that vanished are believed to be gone is decided by whoever reads
//! the state; it is told what an answer looked like, and what else vanished with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::blocking::Doubt;
use crate::catalog::Catalog;

/// The whole of what the provider knows, published at each change.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulState {
    /// What the newest answers say, and nothing else: an instance that vanished from them is not in it. Services that
    /// ask for nothing are left out, and so are services without instances.
    pub catalog: Catalog,
    /// What must be known to judge whether something is missing from `catalog` by mistake.
    pub trust: Trust,
    /// Whether every service that matters has been answered at least once. Before that the catalog is empty, or, if it
    /// takes too long, partial.
    pub is_complete: bool,
    /// Whether each query's latest try was answered. While it is false the catalog is the last one that was.
    pub reachable: bool,
    /// Since when `reachable` is what it is.
    pub since: Instant,
    /// The last failure, kept until all is well again.
    pub last_error: Option<String>,
}

impl ConsulState {
    /// Nothing is known yet.
    pub fn unknown(now: Instant) -> Self {
        let trust = Trust::default();
        Self { catalog: Catalog::new(), trust, is_complete: false, reachable: false, since: now, last_error: None }
    }
}

/// How much of what is missing from the catalog may be believed to be gone.
///
/// The fields about what is gone are settled, for the instances that vanished, before the state without these is published.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Trust {
    /// When an index last went backwards: the agent's state was wiped or restored about then.
    pub rewound_at: Option<Instant>,
    /// Why the newest list of services is doubted.
    pub doubt: Option<Doubt>,
    /// Services whose newest answer is doubted, and why.
    pub doubts: BTreeMap<String, Doubt>,
    /// Whether the service `consul`, which every server registers, was listed and is not any more.
    pub is_consul_gone: bool,
    /// Whether Nomad's own services were listed and are not any more.
    pub is_nomad_gone: bool,
    /// Nodes on which instances vanished and which are no longer listed themselves.
    pub nodes_gone: BTreeSet<String>,
}

/// What the agent says of the rest of the catalog right after instances vanished.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// `/v1/catalog/nodes`.
    pub nodes: BTreeSet<String>,
    /// The names of `/v1/catalog/services`.
    pub services: BTreeSet<String>,
}
