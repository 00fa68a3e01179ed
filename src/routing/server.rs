//! One server of a service at run time: where it is, how it fares, and how many requests it has.
//!
//! Long-lived: it survives every reload, and ends when its instance leaves. Requests write its health and in-flight count,
//! control reads them; both through atomics.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::config::dynamic::{Endpoint, Scheme};
use crate::health::{Attempt, Change, Health, Start};
use crate::names::Track;
use crate::observe::metrics::ServerMetrics;

/// Numbers the pools of connections, over all servers, so that no two servers (nor the same address in a second life) ever share one.
static NEXT_POOL: AtomicU64 = AtomicU64::new(1);

/// What a person wants of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Draining {
    /// It serves.
    No,
    /// It gets no new request while anybody else can serve.
    Spared,
    /// It gets no new request at all.
    Closed,
}

/// One server.
#[derive(Debug)]
pub struct Server {
    /// Its identity in its service, as Traefik prints it.
    pub url: String,
    /// `host:port`, for logs and the Host header.
    pub authority: String,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// As declared: an address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The base path, kept only with `preservePath`.
    pub path: String,
    /// The instance behind it, when the provider knows instances.
    pub instance: Option<String>,
    /// When we first saw it.
    pub first_seen: Instant,
    /// How it fares.
    pub health: Health,
    metrics: OnceLock<Arc<ServerMetrics>>,
    weight: AtomicU32,
    in_flight: AtomicU32,
    draining: AtomicU8,
    addresses: ArcSwap<Vec<SocketAddr>>,
    preferred: AtomicU32,
    pool: AtomicU64,
}

impl Server {
    /// A server that was first seen at `now`; its addresses are known at once when its host is an address.
    pub fn new(endpoint: &Endpoint, now: Instant, start: Start) -> Self {
        let addresses = endpoint.host.parse().map(|ip| vec![SocketAddr::new(ip, endpoint.port)]).unwrap_or_default();
        let health = Health::new(now, start);
        if !endpoint.is_passing {
            // It is only starting; that is no change to speak of.
            let _ = health.set_passing(now, false);
        }
        let host = if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
        Self {
            url: endpoint.url(),
            authority: format!("{host}:{}", endpoint.port),
            scheme: endpoint.scheme,
            host: endpoint.host.clone(),
            port: endpoint.port,
            path: if endpoint.preserve_path { endpoint.path.trim_end_matches('/').to_owned() } else { String::new() },
            instance: endpoint.instance.clone(),
            first_seen: now,
            health,
            metrics: OnceLock::new(),
            weight: AtomicU32::new(endpoint.weight),
            in_flight: AtomicU32::new(0),
            draining: AtomicU8::new(Draining::No as u8),
            addresses: ArcSwap::from_pointee(addresses),
            preferred: AtomicU32::new(0),
            pool: AtomicU64::new(NEXT_POOL.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Takes over what may change while the server stays the same. The change, if the provider changed its mind about it.
    pub fn update(&self, endpoint: &Endpoint, now: Instant) -> Option<Change> {
        self.weight.store(endpoint.weight, Ordering::Relaxed);
        self.health.set_passing(now, endpoint.is_passing)
    }

    /// Gives it counters of its own.
    pub fn set_metrics(&self, metrics: Arc<ServerMetrics>) {
        // A second time would be the same counters.
        let _ = self.metrics.set(metrics);
    }

    /// Counts how an attempt ended.
    pub fn count(&self, attempt: Attempt) {
        let Some(metrics) = self.metrics.get() else { return };
        match attempt {
            Attempt::Ok => metrics.record("ok"),
            Attempt::Failed => metrics.record("failed"),
            Attempt::Refused => metrics.record("refused"),
            Attempt::TooMany => metrics.record("too_many"),
            Attempt::Ignored => metrics.record("ignored"),
        }
    }

    /// Notes what an active health check found.
    pub fn set_checked(&self, now: Instant, is_fit: bool) -> Option<Change> {
        if let Some(metrics) = self.metrics.get() {
            metrics.set_up(is_fit);
        }
        self.health.set_checked(now, is_fit)
    }

    /// Its weight among the servers of its arm.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Requests it has right now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it is to get new requests. Those that it has go on.
    pub fn draining(&self) -> Draining {
        match self.draining.load(Ordering::Relaxed) {
            0 => Draining::No,
            1 => Draining::Spared,
            _ => Draining::Closed,
        }
    }

    /// Begins or ends a drain; new requests know at once.
    pub fn set_draining(&self, draining: Draining) {
        self.draining.store(draining as u8, Ordering::Relaxed);
    }

    /// The address to dial: of a name with several the first that was not found dead. `None` while the name is not resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        let addresses = self.addresses.load();
        let preferred = self.preferred.load(Ordering::Relaxed) as usize;
        addresses.get(preferred % addresses.len().max(1)).copied()
    }

    /// Says that `dead` could not be dialled: if it is still preferred, the next address of the name is from now on. Of several
    /// who find out together one turns. False when there is no address that is not among `refused`.
    pub fn turn_address(&self, dead: SocketAddr, refused: &[SocketAddr]) -> bool {
        let addresses = self.addresses.load();
        let preferred = self.preferred.load(Ordering::Relaxed);
        if addresses.len() > 1 && addresses.get(preferred as usize % addresses.len()) == Some(&dead) {
            // Whoever was faster has turned it.
            let _ = self.preferred.compare_exchange(preferred, preferred.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        }
        addresses.iter().any(|address| *address != dead && !refused.contains(address))
    }

    /// Whether its host is a name, which somebody has to resolve.
    pub fn is_named(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_err()
    }

    /// Takes over what its name resolved to. Connections to addresses that are gone are not used again.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        if **self.addresses.load() != addresses {
            self.addresses.store(Arc::new(addresses));
            self.renew_pool();
        }
    }

    /// The number of its pool of connections.
    pub fn pool(&self) -> u64 {
        self.pool.load(Ordering::Relaxed)
    }

    /// The number of a pool that no other connection is ever in.
    pub fn lone_pool() -> u64 {
        NEXT_POOL.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets no pooled connection be used again: the next request dials.
    pub fn renew_pool(&self) {
        self.pool.store(Self::lone_pool(), Ordering::Relaxed);
    }

    /// Counts a request in; it is counted out when the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// A request that a server has.
#[derive(Debug)]
pub struct InFlight(Arc<Server>);

impl InFlight {
    /// The server that has it.
    pub fn server(&self) -> &Arc<Server> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One server and the side of the rollout it is on.
#[derive(Clone, Debug)]
pub struct Member {
    /// The server.
    pub server: Arc<Server>,
    /// Its side.
    pub track: Track,
}

/// The servers of a service. Replaced as a whole; requests keep what they began with.
#[derive(Debug, Default)]
pub struct Arms {
    members: Vec<Member>,
    has_canary: bool,
}

impl Arms {
    /// The arms that these members make.
    pub fn new(members: Vec<Member>) -> Self {
        let has_canary = members.iter().any(|member| member.track == Track::Canary);
        Self { members, has_canary }
    }

    /// All servers with their sides.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The servers of one side.
    pub fn of(&self, track: Track) -> impl Iterator<Item = &Arc<Server>> {
        self.members.iter().filter(move |member| member.track == track).map(|member| &member.server)
    }

    /// Whether a rollout is under way.
    pub fn has_canary(&self) -> bool {
        self.has_canary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn requests_that_fail_together_do_not_turn_a_name_back_to_its_dead_address() {
        let server =
            Server::new(&Endpoint { host: "name.test".to_owned(), ..Endpoint::local(80) }, clock::now(), Start::Established);
        let address = |last| SocketAddr::from(([127, 0, 0, last], 80));
        server.set_addresses(vec![address(1), address(2)]);
        assert_eq!(server.address(), Some(address(1)));
        for _ in 0..2 {
            assert!(server.turn_address(address(1), &[]), "the other may be alive");
            assert_eq!(server.address(), Some(address(2)));
        }
        assert!(!server.turn_address(address(2), &[address(1)]), "none is left");
    }
}
