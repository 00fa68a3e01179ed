//! The one immutable value a request reads from its first phase to its last, and the pointer that control swaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::report::Report;
use super::service::Service;
use super::table::RouteTable;
use crate::config::install;
use crate::middleware::Chain;
use crate::names::Name;
use crate::observe::series::Requests;
use crate::tls::options::TlsTable;

/// Everything that routing knows at one generation.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with each published snapshot; 0 is the empty one before the first.
    pub generation: u64,
    /// One table per entrypoint, by [`super::entrypoint::Entrypoint::index`].
    pub tables: Vec<Table>,
    /// The long-lived services, for those who watch them.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// The same of TCP.
    pub tcp_services: BTreeMap<Name, Arc<Service>>,
    /// What was declared and what became of it, for the API.
    pub report: Report,
}

/// What one entrypoint serves.
#[derive(Debug, Default)]
pub struct Table {
    /// For requests without TLS.
    pub http: RouteTable<Arc<Route>>,
    /// For requests over TLS.
    pub https: RouteTable<Arc<Route>>,
    /// Which TLS options a host's requests need: 421 when the connection was made with others.
    pub tls: Option<TlsTable>,
}

/// A compiled router.
#[derive(Debug)]
pub struct Route {
    /// The router's name.
    pub name: Name,
    /// `name@provider`, as logs print it.
    pub label: Arc<str>,
    /// What a request goes through, in order: the entrypoint's first, chains flattened.
    pub chain: Chain,
    /// Who answers in the end.
    pub target: Target,
    /// Whether requests are logged.
    pub access_logs: bool,
    /// `traefik_router_*`, when wanted.
    pub metrics: Option<Arc<Requests>>,
}

/// Who answers a route's requests.
#[derive(Clone, Debug)]
pub enum Target {
    /// Servers.
    Service(Arc<Service>),
    /// One of several targets, by weight.
    Weighted(Arc<Weighted>),
    /// Ourselves.
    Internal(Internal),
    /// Nobody: the middlewares are expected to answer; who gets through sees a 418, as in Traefik's `noop@internal`.
    Nobody,
}

/// Several targets by weight. Requests are spread evenly in time: 3:1 gives a a b a.
#[derive(Debug)]
pub struct Weighted {
    turns: Vec<Target>,
    next: std::sync::atomic::AtomicUsize,
}

/// The longest cycle of turns that is laid out; larger weights are scaled down to it.
const TURNS_MAX: u64 = 1000;

impl Weighted {
    /// Lays out one cycle of turns by smooth weighted round robin. Targets of weight 0 get none.
    pub fn new(targets: Vec<(Target, u32)>) -> Self {
        let total: u64 = targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let scale = total.div_ceil(TURNS_MAX).max(1);
        let weights: Vec<i64> = targets
            .iter()
            .map(|(_, weight)| if *weight == 0 { 0 } else { i64::try_from((u64::from(*weight) / scale).max(1)).unwrap_or(1) })
            .collect();
        let cycle: i64 = weights.iter().sum();
        let mut credit = vec![0_i64; weights.len()];
        let mut turns = Vec::new();
        for _ in 0..cycle {
            let mut best: Option<(usize, i64)> = None;
            for (index, (credit, weight)) in credit.iter_mut().zip(&weights).enumerate() {
                *credit += weight;
                if *weight > 0 && best.is_none_or(|(_, most)| *credit > most) {
                    best = Some((index, *credit));
                }
            }
            if let Some((index, _)) = best {
                credit[index] -= cycle;
                turns.push(targets[index].0.clone());
            }
        }
        Self { turns, next: std::sync::atomic::AtomicUsize::new(0) }
    }

    /// Whose turn it is; `None` when all weights are 0.
    pub fn pick(&self) -> Option<&Target> {
        let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.turns.get(turn % self.turns.len().max(1))
    }
}

/// What we answer ourselves (`NAME@internal`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    /// `ping@internal`.
    Ping,
    /// `api@internal`.
    Api,
    /// `dashboard@internal`.
    Dashboard,
    /// `prometheus@internal`.
    Prometheus,
}

impl Internal {
    /// The name before `@internal`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Api => "api",
            Self::Dashboard => "dashboard",
            Self::Prometheus => "prometheus",
        }
    }

    /// The service of that name, if it is one of ours and the install configuration has it.
    pub fn find(name: &str, install: &install::Install) -> Option<Self> {
        match name {
            "ping" => install.ping.is_some().then_some(Self::Ping),
            "api" => install.api.is_some().then_some(Self::Api),
            "dashboard" => install.api.is_some().then_some(Self::Dashboard),
            "prometheus" => install.prometheus.is_some().then_some(Self::Prometheus),
            _ => None,
        }
    }
}

/// Where requests find the current snapshot and control leaves the next.
#[derive(Debug, Default)]
pub struct SnapshotHandle(ArcSwap<Snapshot>);

impl SnapshotHandle {
    /// The snapshot a new request works with.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Replaces the snapshot. Requests already under way keep the one they began with.
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_spread_evenly_in_time() {
        let weighted =
            Weighted::new(vec![(Target::Internal(Internal::Ping), 3), (Target::Internal(Internal::Api), 1), (Target::Nobody, 0)]);
        let seen: String = (0..8)
            .map(|_| match weighted.pick() {
                Some(Target::Internal(Internal::Ping)) => 'a',
                Some(Target::Internal(Internal::Api)) => 'b',
                _ => '?',
            })
            .collect();
        assert_eq!(seen, "aabaaaba");
    }

    #[test]
    fn weights_of_nothing_pick_nobody() {
        assert!(Weighted::new(vec![(Target::Nobody, 0)]).pick().is_none());
    }
}
