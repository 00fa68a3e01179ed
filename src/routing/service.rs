//! A service at run time: its servers in two arms, the canary's share, and the choice of a server for each attempt.
//!
//! Long-lived: a reload gives it other settings, an instance that comes or goes gives it other arms; share, evidence and
//! retry budget stay. The choice takes no lock and allocates nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::balance::{self, Candidate};
use super::server::{Arms, Draining, Member, Server};
use crate::config::dynamic::{HealthCheck, Strategy};
use crate::config::install::ServersTransport;
use crate::health::{Attempt, Budget, Standing};
use crate::names::{Name, Track};
use crate::observe::metrics::ServiceMetrics;
use crate::rollout::ledger::{Draw, Ledger, Verdict};

/// What a definition says of a service.
#[derive(Debug, Default)]
pub struct Settings {
    /// How a server is chosen.
    pub strategy: Strategy,
    /// Send the client's Host on.
    pub pass_host_header: bool,
    /// How servers are spoken to.
    pub transport: ServersTransport,
    /// What the engine made of the transport's CA files, once it needed them.
    pub authorities: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// The declared health check.
    pub health_check: Option<Arc<HealthCheck>>,
    /// The rollout settings of the serving definition.
    pub rollout: BTreeMap<String, String>,
    /// `traefik_service_*`, when wanted.
    pub metrics: Option<Arc<ServiceMetrics>>,
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// `name@provider`, as logs print it.
    pub label: Arc<str>,
    /// The canary's share and the evidence of its epochs.
    pub ledger: Ledger,
    settings: ArcSwap<Settings>,
    arms: ArcSwap<Arms>,
    budget: Budget,
    stable_wheel: balance::Wheel,
    canary_wheel: balance::Wheel,
}

impl Service {
    /// A service without servers.
    pub fn new(name: Name, settings: Settings, now: Instant) -> Self {
        Self {
            label: name.to_string().into(),
            name,
            ledger: Ledger::new(),
            settings: ArcSwap::from_pointee(settings),
            arms: ArcSwap::default(),
            budget: Budget::new(now),
            stable_wheel: balance::Wheel::default(),
            canary_wheel: balance::Wheel::default(),
        }
    }

    /// What its definition says now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Gives it the settings of a new definition.
    pub fn configure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Its servers now.
    pub fn arms(&self) -> Arc<Arms> {
        self.arms.load_full()
    }

    /// Gives it other servers. New requests see them at once; running ones keep theirs.
    pub fn set_arms(&self, arms: Arms) {
        self.arms.store(Arc::new(arms));
    }

    /// The server of a request's first attempt, and the draw that makes it evidence: none when it was not the drawn arm that had a server.
    pub fn choose_first(&self, now: Instant) -> Option<(Arc<Server>, Option<Draw>)> {
        self.budget.deposit(now);
        let arms = self.arms.load();
        let draw = self.ledger.draw(fastrand::u32(..));
        if let Some(member) = self.pick(&arms, draw.track, now, &[]) {
            if member.track == draw.track {
                return Some((Arc::clone(&member.server), Some(draw)));
            }
            self.ledger.record(draw, Verdict::Ignored, None);
            return Some((Arc::clone(&member.server), None));
        }
        self.ledger.record(draw, Verdict::Ignored, None);
        self.pick(&arms, Track::Stable, now, &[]).map(|member| (Arc::clone(&member.server), None))
    }

    /// The server of a further attempt: stable first, never one that was tried.
    pub fn choose_other(&self, now: Instant, tried: &[Arc<Server>]) -> Option<Arc<Server>> {
        let arms = self.arms.load();
        self.pick(&arms, Track::Stable, now, tried).map(|member| Arc::clone(&member.server))
    }

    /// Whether a server is left that is none of `tried`.
    pub fn has_other(&self, tried: &[Arc<Server>]) -> bool {
        let arms = self.arms.load();
        let may_serve = |member: &&Member| member.server.draining() != Draining::Closed;
        arms.members().iter().filter(may_serve).any(|member| !is_among(tried, &member.server))
    }

    /// Takes what one more attempt costs from the retry budget. False when nothing is left of it.
    pub fn try_retry(&self, now: Instant) -> bool {
        self.budget.try_withdraw(now)
    }

    /// The server of a raw TCP connection, with the address to dial; none of `tried`.
    pub fn choose_dial(&self, now: Instant, tried: &[Arc<Server>]) -> Option<(Arc<Server>, SocketAddr)> {
        let server = self.choose_other(now, tried)?;
        let address = server.address()?;
        Some((server, address))
    }

    /// Whether stable could answer in a canary's place.
    pub fn has_shield(&self, now: Instant) -> bool {
        self.arms.load().of(Track::Stable).any(|server| may_shield(server, now))
    }

    /// A stable server to be sent the bytes that were meant for `canary`: one that is spoken to the same way. Has a budget of its
    /// own: it is no more than stable's own share. Never one that has yet to show that it is well again: nobody would hear
    /// whether it is.
    pub fn choose_shield(&self, now: Instant, canary: &Server) -> Option<Arc<Server>> {
        let arms = self.arms.load();
        let settings = self.settings.load();
        let is_alike = |server: &Server| {
            let is_same_host = settings.pass_host_header || server.authority == canary.authority;
            is_same_host && server.scheme == canary.scheme && server.path == canary.path
        };
        let shield = |member: &Member| {
            let is_shield = member.track == Track::Stable && may_shield(&member.server, now) && is_alike(&member.server);
            if is_shield { view(member, Track::Stable, now, &[]) } else { None }
        };
        let random = fastrand::u64(..);
        let picked = balance::pick(arms.members(), settings.strategy, &self.stable_wheel, random, shield, |_| false)?;
        arms.members().get(picked.index).map(|member| Arc::clone(&member.server))
    }

    /// Counts how an attempt ended that had begun at `started` in the server's health, and tells the log of what that changed.
    pub fn record_health(&self, server: &Server, now: Instant, started: Instant, attempt: Attempt) {
        server.count(attempt);
        // A spread of up to a fifth to either side keeps several servers from coming back at the same moment.
        if let Some(change) = server.health.record(now, started, attempt, fastrand::f64() * 2.0 - 1.0) {
            tracing::warn!(service = %self.label, server = server.url, "{change}");
        }
    }

    fn pick<'a>(&self, arms: &'a Arms, track: Track, now: Instant, tried: &[Arc<Server>]) -> Option<&'a Member> {
        let wheel = if track == Track::Stable { &self.stable_wheel } else { &self.canary_wheel };
        let strategy = self.settings.load().strategy;
        let view = |member: &Member| view(member, track, now, tried);
        let permit = |member: &Member| member.server.health.try_probe(now);
        let picked = balance::pick(arms.members(), strategy, wheel, fastrand::u64(..), view, permit)?;
        arms.members().get(picked.index)
    }
}

fn may_shield(server: &Server, now: Instant) -> bool {
    server.draining() == Draining::No && matches!(server.health.standing(now), Standing::Available { .. })
}

/// How a server looks to a request of `track`. Canaries are stable's last resort, and so are drained servers; stable is left out
/// of a canary's choice.
fn view(member: &Member, track: Track, now: Instant, tried: &[Arc<Server>]) -> Option<Candidate> {
    let draining = member.server.draining();
    if track == Track::Canary && (member.track == Track::Stable || draining != Draining::No) || draining == Draining::Closed {
        return None;
    }
    member.server.address()?;
    Some(Candidate {
        weight: member.server.weight(),
        standing: member.server.health.standing(now),
        in_flight: member.server.in_flight(),
        tried: is_among(tried, &member.server),
        suspended: member.track != track || draining != Draining::No,
    })
}

fn is_among(tried: &[Arc<Server>], server: &Arc<Server>) -> bool {
    tried.iter().any(|one| Arc::ptr_eq(one, server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::dynamic::{Endpoint, Scheme};
    use crate::health::Start;

    /// A service with one server for each endpoint.
    fn service(settings: Settings, members: &[(Endpoint, Track)]) -> (Service, Vec<Arc<Server>>) {
        let now = clock::now();
        let service = Service::new(Name::new("web", "file"), settings, now);
        let servers: Vec<_> =
            members.iter().map(|(endpoint, _)| Arc::new(Server::new(endpoint, now, Start::Established))).collect();
        let member =
            |(server, (_, track)): (&Arc<Server>, &(Endpoint, Track))| Member { server: Arc::clone(server), track: *track };
        service.set_arms(Arms::new(servers.iter().zip(members).map(member).collect()));
        (service, servers)
    }

    #[test]
    fn the_bytes_for_a_canary_go_to_no_stable_server_that_would_read_them_otherwise() {
        let tls = Endpoint { scheme: Scheme::Https, ..Endpoint::local(2) };
        let based = Endpoint { path: "/base".to_owned(), preserve_path: true, ..Endpoint::local(3) };
        for (stable, pass_host_header, is_asked) in
            [(Endpoint::local(1), true, true), (Endpoint::local(1), false, false), (tls, true, false), (based, true, false)]
        {
            let settings = Settings { pass_host_header, ..Settings::default() };
            let (service, servers) = service(settings, &[(stable.clone(), Track::Stable), (Endpoint::local(9), Track::Canary)]);
            let shield = service.choose_shield(clock::now(), &servers[1]);
            assert_eq!(shield.is_some(), is_asked, "{stable:?}");
        }
    }

    #[test]
    fn when_stable_dies_beside_a_healthy_canary_every_visitor_is_served() {
        let endpoints = [(Endpoint::local(1), Track::Stable), (Endpoint::local(2), Track::Canary)];
        let (service, servers) = service(Settings::default(), &endpoints);
        let now = clock::now();
        for _ in 0..2 {
            service.record_health(&servers[0], now, now, Attempt::Refused);
        }
        // The canary has no share: whoever is drawn to stable is answered by it all the same, and nobody takes that for evidence.
        for _ in 0..100 {
            let (server, draw) = service.choose_first(now).unwrap();
            assert!(Arc::ptr_eq(&server, &servers[1]) && draw.is_none());
        }
    }
}
