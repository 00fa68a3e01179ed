//! The provider itself against an agent: what is registered is published, at once, and never over more connections than allowed.

use std::sync::Arc;
use std::time::Duration;

use tidegate::catalog::CheckStatus;
use tidegate::clock;
use tidegate::provider::consul::client::Client;
use tidegate::provider::consul::state::ConsulState;
use tidegate::provider::consul::watch::{WatchSettings, run};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::{Agent, DEADLINE};

const ENABLE: &str = "traefik.enable=true";

/// The provider, running.
pub struct Watching {
    pub state: watch::Receiver<ConsulState>,
    _end: DropGuard,
}

impl Watching {
    pub fn start(agent: &Agent, connections_max: usize) -> Self {
        Self::start_with(agent, agent.client(connections_max), connections_max, |_| {})
    }

    pub fn start_with(
        agent: &Agent,
        client: Arc<Client>,
        connections_max: usize,
        change: impl FnOnce(&mut WatchSettings),
    ) -> Self {
        let mut settings = WatchSettings::new(&agent.settings(), connections_max, agent.access().wait);
        change(&mut settings);
        let (sender, state) = watch::channel(ConsulState::unknown(clock::now()));
        let end = CancellationToken::new();
        tokio::spawn(run(client, settings, sender, end.clone()));
        Self { state, _end: end.drop_guard() }
    }

    /// Waits until the state is as wanted.
    pub async fn shows(&mut self, what: &str, wanted: impl Fn(&ConsulState) -> bool) -> ConsulState {
        let seen = tokio::time::timeout(DEADLINE, self.state.wait_for(|state| wanted(state))).await;
        let seen = seen.map(|state| state.unwrap().clone());
        seen.unwrap_or_else(|_| panic!("did not show {what} in time, but {:#?}", *self.state.borrow()))
    }

    /// Waits until a service has exactly these instances, passing or not.
    pub async fn has(&mut self, service: &str, expected: &[(&str, CheckStatus)]) {
        let what = format!("{service} = {expected:?}");
        self.shows(&what, |state| instances(state, service) == expected).await;
    }
}

fn instances<'s>(state: &'s ConsulState, service: &str) -> Vec<(&'s str, CheckStatus)> {
    let found = state.catalog.get(service).map(Vec::as_slice).unwrap_or_default();
    found.iter().map(|instance| (instance.id.as_str(), instance.status)).collect()
}

async fn follows_a_deployment(agent: Agent) {
    let mut watching = Watching::start(&agent, 64);
    let first = watching.shows("a first state", |state| state.is_complete).await;
    assert!(first.reachable && first.catalog.is_empty() && first.last_error.is_none());
    agent.register("web", "web-1", &[ENABLE]).await;
    watching.has("web", &[("web-1", CheckStatus::Critical)]).await;
    agent.set_check("web-1", "pass").await;
    watching.has("web", &[("web-1", CheckStatus::Passing)]).await;
    agent.register("web", "web-2", &[ENABLE]).await;
    agent.set_check("web-2", "warn").await;
    watching.has("web", &[("web-1", CheckStatus::Passing), ("web-2", CheckStatus::Warning)]).await;
    // One that does not ask for it is not looked at.
    agent.register("db", "db-1", &["traefik.enable=false"]).await;
    agent.deregister("web-1").await;
    watching.has("web", &[("web-2", CheckStatus::Warning)]).await;
    agent.deregister("web-2").await;
    let last = watching.shows("nothing", |state| state.catalog.is_empty()).await;
    assert!(!last.trust.is_consul_gone && last.trust.nodes_gone.is_empty() && last.trust.rewound_at.is_none(), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_deployment_is_followed() {
    follows_a_deployment(Agent::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN"]
async fn a_real_deployment_is_followed() {
    follows_a_deployment(Agent::real().await).await;
}

/// The median over some deregistrations of the time until the published state no longer has the instance.
async fn applies_endpoints_at_once(agent: Agent, limit: Duration) {
    let mut watching = Watching::start(&agent, 64);
    agent.register_with("web", "web-0", &[ENABLE], None).await;
    watching.has("web", &[("web-0", CheckStatus::Passing)]).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        agent.register_with("web", "web-1", &[ENABLE], None).await;
        watching.has("web", &[("web-0", CheckStatus::Passing), ("web-1", CheckStatus::Passing)]).await;
        let started = clock::now();
        agent.deregister("web-1").await;
        watching.has("web", &[("web-0", CheckStatus::Passing)]).await;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    eprintln!("from the call that deregisters to the published state: {times:?}");
    assert!(times[times.len() / 2] <= limit, "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_removal_is_published_at_once() {
    applies_endpoints_at_once(Agent::embedded().await, Duration::from_millis(50)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN"]
async fn a_real_removal_is_published_at_once() {
    applies_endpoints_at_once(Agent::real().await, Duration::from_millis(50)).await;
}

/// 250 services over few connections: all are seen, all that happens to them is, and the connections are counted throughout.
async fn shares_few_connections(agent: Agent, connections_max: usize) {
    const SERVICES: usize = 250;
    for number in 0..SERVICES {
        agent.register(&format!("s{number:03}"), &format!("s{number:03}-1"), &[ENABLE]).await;
    }
    let agent = Arc::new(agent);
    let mut watching = Watching::start(&agent, connections_max);
    let end = CancellationToken::new();
    let counted = tokio::spawn(count_connections(Arc::clone(&agent), end.clone()));
    watching.shows("all services", |state| state.is_complete && state.catalog.len() == SERVICES).await;
    // Early ones have a query of their own, late ones share the watch of all checks.
    for name in ["s000", "s249"] {
        let one = format!("{name}-1");
        agent.set_check(&one, "pass").await;
        watching.has(name, &[(&one, CheckStatus::Passing)]).await;
        let two = format!("{name}-2");
        agent.register_with(name, &two, &[ENABLE], None).await;
        watching.has(name, &[(&one, CheckStatus::Passing), (&two, CheckStatus::Passing)]).await;
        agent.deregister(&two).await;
        watching.has(name, &[(&one, CheckStatus::Passing)]).await;
        agent.deregister(&one).await;
        watching.has(name, &[]).await;
    }
    watching.shows("two less", |state| state.catalog.len() == SERVICES - 2).await;
    end.cancel();
    let most = counted.await.unwrap();
    eprintln!("{most} connections at most");
    assert!(most <= connections_max, "{most} connections, {connections_max} allowed");
    assert!(most >= connections_max / 2, "{most} connections: were they counted?");
}

async fn count_connections(agent: Arc<Agent>, end: CancellationToken) -> usize {
    let mut most = 0;
    let mut pause = tokio::time::interval(Duration::from_millis(2));
    while !end.is_cancelled() {
        pause.tick().await;
        most = most.max(agent.connections());
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn many_embedded_services_share_64_connections() {
    shares_few_connections(Agent::embedded().await, 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_embedded_services_share_3_connections() {
    shares_few_connections(Agent::embedded().await, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN"]
async fn many_real_services_share_64_connections() {
    shares_few_connections(Agent::real().await, 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_watching_the_agent_is_asked_at_intervals() {
    let agent = Agent::embedded().await;
    agent.register_with("web", "web-1", &[ENABLE], None).await;
    let mut watching = Watching::start_with(&agent, agent.client(4), 4, |settings| {
        settings.is_watching = false;
        settings.refresh_interval = Duration::from_millis(100);
    });
    watching.has("web", &[("web-1", CheckStatus::Passing)]).await;
    agent.register("web", "web-2", &[ENABLE]).await;
    watching.has("web", &[("web-1", CheckStatus::Passing), ("web-2", CheckStatus::Critical)]).await;
    agent.set_check("web-2", "pass").await;
    watching.has("web", &[("web-1", CheckStatus::Passing), ("web-2", CheckStatus::Passing)]).await;
    agent.deregister("web-1").await;
    agent.deregister("web-2").await;
    watching.has("web", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN"]
async fn a_real_agent_that_comes_back_empty_is_known_to_have_lost_its_catalog() {
    let mut agent = Agent::real().await;
    for number in 0..20 {
        agent.register_with("web", &format!("web-{number}"), &[ENABLE], None).await;
    }
    let mut watching = Watching::start(&agent, 64);
    watching.shows("all", |state| state.catalog.get("web").is_some_and(|web| web.len() == 20)).await;
    agent.restart_empty().await;
    let lost = watching.shows("the loss", |state| state.reachable && state.catalog.is_empty()).await;
    assert!(lost.trust.rewound_at.is_some(), "{lost:?}");
    agent.register_with("web", "web-0", &[ENABLE], None).await;
    watching.has("web", &[("web-0", CheckStatus::Passing)]).await;
}
