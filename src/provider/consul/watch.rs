//! Runs the queries to the agent, and publishes a whole state whenever their answers change it.
//!
//! One task owns the [`Ledger`] and is the only one to publish. Each query is a task of its own that asks, reports, and
//! asks again; services without a query of their own are fetched, a few at a time. All of them share the client's
//! connections, and there are never more queries than connections, so that none waits for another.
//!
//! An answer from which instances vanished is reported together with what the agent then says of the rest of the catalog.
//! Two more short questions, about a millisecond on the same host, are the price for never mistaking a lost catalog for
//! a stopped job.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Check, Services};
use super::blocking::{Bucket, Cursor, Pace, SERVICE_PACE, TABLE_PACE, backoff};
use super::client::{Answer, Block, Client, ClientError};
use super::ledger::{Facts, Interest, Ledger, Mode, Query, Step, identities};
use super::state::{ConsulState, Surroundings};
use crate::catalog::Instance;
use crate::clock;
use crate::config::install::ConsulCatalog;

/// Fewer connections than these cannot do the work: the list of services, the watch of checks, one fetch.
pub const CONNECTIONS_MIN: usize = 3;
/// So many services are fetched at once.
const FETCHES_MAX: usize = 8;
/// So many reports may wait; the queries wait beyond that.
const REPORTS_MAX: usize = 64;
/// If the first round takes longer, what is known is published without the rest.
const FIRST_ROUND_MAX: Duration = Duration::from_secs(5);
/// A poll interval of zero would be a busy loop.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// What to watch, and with how much.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchSettings {
    /// Which services matter.
    pub interest: Interest,
    /// `watch`: false asks every `refresh_interval` instead.
    pub is_watching: bool,
    /// `refreshInterval`.
    pub refresh_interval: Duration,
    /// How long a blocking query waits.
    pub wait: Duration,
    /// `consul.watchesMax`: the client must have been made with as many.
    pub connections_max: usize,
}

impl WatchSettings {
    /// From the configuration. `wait` is [`super::access::Access::wait`].
    pub fn new(catalog: &ConsulCatalog, watches_max: usize, wait: Duration) -> Self {
        Self {
            interest: Interest { prefix: catalog.prefix.clone(), exposed_by_default: catalog.exposed_by_default },
            is_watching: catalog.watch,
            refresh_interval: catalog.refresh_interval.max(REFRESH_MIN),
            wait,
            connections_max: watches_max.max(CONNECTIONS_MIN),
        }
    }

    fn fetches_max(&self) -> usize {
        FETCHES_MAX.min(self.connections_max / 4).max(1)
    }

    fn mode(&self) -> Mode {
        if !self.is_watching {
            return Mode::Poll;
        }
        // One connection for the list of services, one for the watch of checks.
        Mode::Watch { follows_max: self.connections_max.saturating_sub(2 + self.fetches_max()) }
    }
}

/// Asks and publishes until `shutdown`. Starts from nothing: what an earlier run knew is for others to keep.
pub async fn run(client: Arc<Client>, settings: WatchSettings, state: watch::Sender<ConsulState>, shutdown: CancellationToken) {
    let (reports, mut reported) = mpsc::channel(REPORTS_MAX);
    let asker =
        Asker { client, wait: settings.wait, refresh: (!settings.is_watching).then_some(settings.refresh_interval), reports };
    let mut watcher = Watcher {
        ledger: Ledger::new(settings.interest.clone(), settings.mode(), clock::now()),
        fetches_max: settings.fetches_max(),
        queries: BTreeMap::from([(Query::Services, asker.follow(Query::Services, BTreeSet::new()))]),
        asker,
        fetches: BTreeMap::new(),
        wanted: BTreeSet::new(),
        last_fetched: String::new(),
        fetch_failures: 0,
    };
    let mut is_partial_fine = false;
    let first_round = tokio::time::sleep(FIRST_ROUND_MAX);
    tokio::pin!(first_round);
    loop {
        tokio::select! {
            biased;
            // The tasks end with the watcher.
            () = shutdown.cancelled() => return,
            report = reported.recv() => {
                // The watcher holds a sender itself, so there is always another report or a wait.
                let Some(report) = report else { return };
                watcher.record(report);
                // What has come meanwhile goes into the same state.
                for _ in 0..REPORTS_MAX {
                    let Ok(report) = reported.try_recv() else { break };
                    watcher.record(report);
                }
            }
            () = &mut first_round, if !is_partial_fine => is_partial_fine = true,
        }
        watcher.publish(&state, is_partial_fine);
    }
}

/// The ledger, and the tasks that ask on its behalf.
struct Watcher {
    ledger: Ledger,
    asker: Asker,
    queries: BTreeMap<Query, AbortOnDropHandle<()>>,
    fetches: BTreeMap<String, AbortOnDropHandle<()>>,
    /// To be fetched when one of the fetches is through.
    wanted: BTreeSet<String>,
    /// From here on through the names, so that some that fail again and again do not keep the others waiting.
    last_fetched: String,
    /// In a row, of all fetches.
    fetch_failures: u32,
    fetches_max: usize,
}

impl Watcher {
    fn record(&mut self, report: Report) {
        let now = clock::now();
        let steps = match report {
            Report::Services(services, facts) => self.ledger.record_services(now, &services, facts),
            Report::Checks(checks, facts) => self.ledger.record_checks(now, checks, facts),
            Report::Instances { service, instances, facts, surroundings, is_fetch } => {
                if is_fetch {
                    self.fetches.remove(&service);
                    self.fetch_failures = 0;
                }
                self.ledger.record_instances(now, &service, instances, facts, surroundings.as_ref())
            }
            Report::Failed(query, error) => {
                tracing::debug!(%error, "consul was asked in vain");
                if let Query::Instances(service) = &query
                    && self.fetches.remove(service).is_some()
                {
                    self.fetch_failures = self.fetch_failures.saturating_add(1);
                    self.wanted.insert(service.clone());
                }
                self.ledger.record_failure(now, query, error.to_string());
                BTreeSet::new()
            }
        };
        for step in steps {
            self.carry_out(step);
        }
        self.start_fetches();
        self.turn_checks();
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Follow(service) => {
                let query = Query::Instances(service.clone());
                let task = self.asker.follow(query.clone(), self.ledger.known(&service));
                self.wanted.remove(&service);
                self.fetches.remove(&service);
                self.queries.insert(query, task);
            }
            Step::Fetch(service) => _ = self.wanted.insert(service),
            Step::Leave(service) => {
                self.wanted.remove(&service);
                self.fetches.remove(&service);
                self.queries.remove(&Query::Instances(service));
            }
        }
    }

    /// A service that is being fetched waits for that to end: what it says may be older than the reason to ask again.
    fn start_fetches(&mut self) {
        while self.fetches.len() < self.fetches_max {
            let is_free = |service: &&String| !self.fetches.contains_key(*service);
            let after = (Bound::Excluded(self.last_fetched.clone()), Bound::Unbounded);
            let next = self.wanted.range(after).find(is_free).or_else(|| self.wanted.iter().find(is_free));
            let Some(service) = next.cloned() else { return };
            self.wanted.remove(&service);
            self.last_fetched.clone_from(&service);
            let task = self.asker.fetch(service.clone(), self.ledger.known(&service), self.fetch_failures);
            self.fetches.insert(service, task);
        }
    }

    /// The watch of all checks runs while some services need it.
    fn turn_checks(&mut self) {
        let needs = self.ledger.needs_checks();
        if needs && !self.queries.contains_key(&Query::Checks) {
            self.queries.insert(Query::Checks, self.asker.follow(Query::Checks, BTreeSet::new()));
        } else if !needs && self.queries.remove(&Query::Checks).is_some() {
            self.ledger.forget_checks(clock::now());
        }
    }

    fn publish(&self, state: &watch::Sender<ConsulState>, is_partial_fine: bool) {
        let new = self.ledger.state(is_partial_fine);
        let mut change = None;
        state.send_if_modified(|old| {
            let is_new = *old != new;
            if is_new {
                change = Some((old.reachable || !old.is_complete && old.last_error.is_none(), old.trust.rewound_at));
                *old = new.clone();
            }
            is_new
        });
        let Some((was_fine, rewound_at)) = change else { return };
        if was_fine && !new.reachable && new.last_error.is_some() {
            let goes_on = if new.is_complete { "the last catalog goes on serving" } else { "there is no catalog yet" };
            tracing::warn!(error = new.last_error, "consul is unreachable, {goes_on}");
        } else if !was_fine && new.reachable {
            tracing::info!("consul is reachable again");
        }
        if new.trust.rewound_at != rewound_at {
            tracing::warn!("consul's index went backwards: its state was wiped or restored, everything is read again");
        }
    }
}

/// What a query has to tell.
enum Report {
    Services(Services, Facts),
    Checks(Vec<Check>, Facts),
    Instances { service: String, instances: Vec<Instance>, facts: Facts, surroundings: Option<Surroundings>, is_fetch: bool },
    Failed(Query, ClientError),
}

/// Starts tasks that ask.
#[derive(Clone)]
struct Asker {
    client: Arc<Client>,
    wait: Duration,
    /// With `watch: false`: ask so often instead of blocking.
    refresh: Option<Duration>,
    reports: mpsc::Sender<Report>,
}

/// Nobody listens any more.
struct Unheard;

impl Asker {
    /// Asks again and again, until the handle is dropped.
    fn follow(&self, query: Query, known: BTreeSet<(String, String)>) -> AbortOnDropHandle<()> {
        let pace = if matches!(query, Query::Instances(_)) { SERVICE_PACE } else { TABLE_PACE };
        let question = Question { asker: self.clone(), query, known, cursor: Cursor::default(), is_fetch: false };
        AbortOnDropHandle::new(tokio::spawn(question.follow(pace)))
    }

    /// Asks once; after `failures` in a row not before a while, so that an agent in trouble is not asked without a pause.
    fn fetch(&self, service: String, known: BTreeSet<(String, String)>, failures: u32) -> AbortOnDropHandle<()> {
        let query = Query::Instances(service);
        let mut question = Question { asker: self.clone(), query, known, cursor: Cursor::default(), is_fetch: true };
        AbortOnDropHandle::new(tokio::spawn(async move {
            if failures > 0 {
                tokio::time::sleep(backoff(failures, fastrand::f64())).await;
            }
            // Nobody listens any more: then nobody needs to know.
            _ = question.ask().await;
        }))
    }
}

/// One query and where it stands.
struct Question {
    asker: Asker,
    query: Query,
    /// The instances of the last answer.
    known: BTreeSet<(String, String)>,
    cursor: Cursor,
    is_fetch: bool,
}

impl Question {
    async fn follow(mut self, pace: Pace) {
        let mut bucket = Bucket::new(pace);
        let mut failures: u32 = 0;
        loop {
            tokio::time::sleep(bucket.take(clock::now())).await;
            match (self.ask().await, self.asker.refresh) {
                (Err(Unheard), _) => return,
                (Ok(false), _) => {
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(backoff(failures, fastrand::f64())).await;
                }
                (Ok(true), refresh) => {
                    failures = 0;
                    tokio::time::sleep(refresh.unwrap_or_default()).await;
                }
            }
        }
    }

    /// Asks once and reports. Whether there was an answer.
    async fn ask(&mut self) -> Result<bool, Unheard> {
        let answer = self.answer().await;
        let is_answer = answer.is_ok();
        if !is_answer {
            self.cursor.ask_at_once();
        }
        let report = answer.unwrap_or_else(|error| Report::Failed(self.query.clone(), error));
        self.asker.reports.send(report).await.map_err(|_closed| Unheard)?;
        Ok(is_answer)
    }

    async fn answer(&mut self) -> Result<Report, ClientError> {
        let block = match self.asker.refresh {
            Some(_) => Block::Not,
            None => Block::Above(self.cursor.index(), self.asker.wait),
        };
        let client = Arc::clone(&self.asker.client);
        match self.query.clone() {
            Query::Services => {
                let answer = client.services(block).await?;
                let facts = self.facts(&answer);
                Ok(Report::Services(answer.value, facts))
            }
            Query::Checks => {
                let answer = client.checks(block).await?;
                let facts = self.facts(&answer);
                Ok(Report::Checks(answer.value, facts))
            }
            Query::Instances(service) => {
                let answer = client.instances(&service, block).await?;
                let now_known = identities(&answer.value);
                let has_vanished = !self.known.is_subset(&now_known);
                let surroundings = if has_vanished { Some(surroundings(&client).await?) } else { None };
                self.known = now_known;
                let facts = self.facts(&answer);
                Ok(Report::Instances { service, instances: answer.value, facts, surroundings, is_fetch: self.is_fetch })
            }
        }
    }

    fn facts<T>(&mut self, answer: &Answer<T>) -> Facts {
        Facts { moved: self.cursor.step(answer.index, answer.backend.as_deref()), doubt: answer.doubt() }
    }
}

/// One after the other, so that a query never needs more than its one connection.
async fn surroundings(client: &Client) -> Result<Surroundings, ClientError> {
    let nodes = client.nodes(Block::Not).await?.value.into_iter().collect();
    let services = client.services(Block::Not).await?.value.into_keys().collect();
    Ok(Surroundings { nodes, services })
}
