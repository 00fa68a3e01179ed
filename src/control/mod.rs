//! The only writer: one task that merges what the providers say, compiles it, publishes it, and steps the rollouts.
//!
//! Endpoint changes are applied at once; only rebuilds of routers are coalesced (`providersThrottleDuration`).
//! Requests never wait for it: they read what it published last.

pub mod check;
mod chronicle;
pub mod compile;
mod connections;
mod deployments;
pub mod files;
mod internal;
pub mod keeper;
mod orders;
mod registry;
mod resolve;
mod said;
mod settings;
pub mod state;
mod telling;
mod weigh;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_resolver::TokioResolver;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use self::check::Checker;
use self::chronicle::Chronicle;
use self::compile::{Compiled, Input};
use self::deployments::{Called, Deployments};
use self::files::Files;
use self::keeper::{Keeper, Standing, Writer};
use self::registry::{Layer, Registry};
use self::said::Said;
use self::settings::rollout_settings;
use self::state::Timeline;
use self::weigh::{Time, ToDo, Weighing};
use crate::acme::run::Wanted;
use crate::catalog::removal::{Credibility, Kept, REWOUND_DOUBTED_FOR};
use crate::catalog::{self, Catalog, Memory, TranslateSettings};
use crate::clock;
use crate::config::dynamic::{Definitions, Endpoint, HealthCheck, Provided};
use crate::config::install::Install;
use crate::config::problem::{Problem, Problems, Severity};
use crate::names::{Name, Share};
use crate::observe::metrics::{Metrics, Published, RolloutMetrics, RolloutSeen};
use crate::orchestrator::NomadState;
use crate::orchestrator::client::Client;
use crate::provider::consul::blocking::Doubt;
use crate::provider::consul::state::{ConsulState, Trust};
use crate::provider::file::FileState;
use crate::rollout::Report;
use crate::routing::entrypoint::Entrypoint;
use crate::routing::server::Server;
use crate::routing::service::Service;
use crate::routing::snapshot::SnapshotHandle;
use crate::routing::tcp::EntrypointRoutes;
use crate::steering;
use crate::tls::certificate;
use crate::tls::options::TlsConfigs;
use crate::tls::store::CertificateStore;

/// Steps that are due within this time are taken together: thousands of services make few wake-ups.
const STEP_TOGETHER: Duration = Duration::from_millis(50);
/// At the end the last document has so long to reach the disk.
const LAST_WRITE_MAX: Duration = Duration::from_secs(2);
/// Probe answers that may wait for us.
const PROBED_MAX: usize = 1024;
/// The provider of what stands in files.
const FILE: &str = "file";
/// The provider of what stands in Consul's tags.
const CONSUL: &str = "consulcatalog";

/// Nomad, as control reads it and asks it.
pub struct Nomad {
    /// Where it is asked to do something.
    pub client: Arc<Client>,
    /// What it says.
    pub state: watch::Receiver<NomadState>,
}

/// What control reads.
pub struct Inputs {
    /// The catalog, when Consul is a provider.
    pub consul: Option<watch::Receiver<ConsulState>>,
    /// Where Nomad's deployments are asked about, and what it says, when it is to be asked.
    pub nomad: Option<Nomad>,
    /// The files, when they are a provider.
    pub files: Option<watch::Receiver<Option<FileState>>>,
    /// What people order.
    pub orders: mpsc::Receiver<steering::Request>,
}

/// Where control writes.
#[derive(Debug)]
pub struct Outputs {
    /// What requests read.
    pub snapshots: Arc<SnapshotHandle>,
    /// What connections read, by entrypoint index.
    pub connections: Vec<Arc<ArcSwap<EntrypointRoutes>>>,
    /// What handshakes read.
    pub certificates: Arc<CertificateStore>,
    /// What the certificate resolvers are to obtain.
    pub wanted: watch::Sender<Wanted>,
    /// Where rollouts stand, for the API.
    pub rollouts: Arc<ArcSwap<BTreeMap<Name, serde_json::Value>>>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Who wants to hear what was decided.
    pub events: steering::Events,
    /// True once the first snapshot that holds every provider's word is published.
    pub ready: watch::Sender<bool>,
}

/// The control task's state.
pub struct Control {
    install: Arc<Install>,
    entrypoints: Vec<Arc<Entrypoint>>,
    outputs: Outputs,
    provided: BTreeMap<Arc<str>, Arc<Provided>>,
    /// The definitions that the present snapshot was compiled from.
    compiled: BTreeMap<Arc<str>, Definitions>,
    generation: u64,
    registry: Registry,
    weighings: BTreeMap<(Layer, Name), Weighing>,
    tls: TlsConfigs,
    translate: Option<TranslateSettings>,
    memory: Memory,
    /// What the catalog shows, how far it is believed, and what is kept that it no longer shows.
    catalog: Catalog,
    credibility: Credibility,
    kept: Kept,
    files: Files,
    /// When the pending rebuild is due, if there is one.
    rebuild_at: Option<Instant>,
    rebuilt_at: Option<Instant>,
    /// What the last compilation found wrong.
    compile_problems: Problems,
    /// What was found wrong with the certificates of files.
    certificate_problems: Problems,
    /// What was said of problems last, so that nothing is said twice.
    said: Said,
    timeline: Timeline,
    deployments: Option<Deployments>,
    /// What of the weighings outlives us.
    keeper: Keeper,
    /// What was wrong with the disk when that was last told to others.
    disk_told: Option<Problems>,
    checker: Checker,
    resolver: Arc<TokioResolver>,
    /// Tasks that check servers, by service.
    checks: BTreeMap<Name, (Arc<HealthCheck>, Vec<AbortHandle>)>,
    /// Rollouts that are under way, as the metrics show them: they do as long as somebody holds these.
    shown: BTreeMap<Name, Arc<RolloutMetrics>>,
    chronicle: Chronicle,
    probed: mpsc::Sender<Probe>,
}

/// The answer to a probe.
struct Probe {
    service: (Layer, Name),
    server: Arc<Server>,
    status: Option<u16>,
}

/// Why control cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No randomness for TLS tickets.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The client for probes and health checks.
    #[error("the client for health checks cannot be made")]
    Checker(#[from] reqwest::Error),
    /// The resolver of servers' names.
    #[error("the resolver of names cannot be made")]
    Resolver(#[from] hickory_resolver::net::NetError),
}

impl Control {
    /// Sets up control and publishes a snapshot with what the install configuration alone gives: ping, API, metrics.
    pub fn new(
        install: Arc<Install>,
        entrypoints: Vec<Arc<Entrypoint>>,
        outputs: Outputs,
    ) -> Result<(Self, ControlTask), ControlError> {
        let (translate, problems) = match &install.providers.consul_catalog {
            Some(consul) => {
                let (settings, problems) = TranslateSettings::new(consul, &install.own);
                (Some(settings), problems)
            }
            None => (None, Problems::new()),
        };
        Said::default().say(&problems);
        let (probed, answers) = mpsc::channel(PROBED_MAX);
        let started = clock::now();
        let (keeper, timeline, writer) = Keeper::open(&install.own.state, started);
        let mut control = Self {
            tls: TlsConfigs::new(Arc::clone(&outputs.certificates))?,
            checker: Checker::new()?,
            resolver: Arc::new(resolve::resolver()?),
            chronicle: Chronicle::new(clock::wall(), outputs.events.clone()),
            install,
            entrypoints,
            outputs,
            provided: BTreeMap::new(),
            compiled: BTreeMap::new(),
            generation: 0,
            registry: Registry::default(),
            weighings: BTreeMap::new(),
            translate,
            memory: Memory::default(),
            catalog: Catalog::new(),
            credibility: Credibility::default(),
            kept: Kept::default(),
            files: Files::default(),
            rebuild_at: None,
            rebuilt_at: None,
            compile_problems: Problems::new(),
            certificate_problems: Problems::new(),
            said: Said::default(),
            timeline,
            deployments: None,
            keeper,
            disk_told: None,
            checks: BTreeMap::new(),
            shown: BTreeMap::new(),
            probed,
        };
        control.rebuild(started);
        control.rebuilt_at = None;
        let standing = control.keeper.standing();
        Ok((control, ControlTask { answers, standing, writer }))
    }

    fn time(&self) -> Time {
        let now = clock::now();
        Time { now, since_start: self.timeline.at(now) }
    }

    /// A provider says something new.
    fn take(&mut self, provider: &str, provided: Provided) {
        let provider: Arc<str> = provider.into();
        let needs_rebuild = self.compiled.get(&provider) != Some(&provided.definitions);
        self.provided.insert(Arc::clone(&provider), Arc::new(provided));
        self.apply_endpoints(&provider);
        if needs_rebuild {
            let now = clock::now();
            // Until every provider has had its first word nobody is served well, so nothing is put off.
            let last = self.rebuilt_at.filter(|_| *self.outputs.ready.borrow());
            let due = last.map_or(now, |last| (last + self.install.providers.throttle).max(now));
            self.rebuild_at = Some(self.rebuild_at.map_or(due, |pending| pending.min(due)));
        }
        self.say_problems();
    }

    /// Gives the services of a provider the servers it says they have.
    fn apply_endpoints(&mut self, provider: &Arc<str>) {
        let Some(provided) = self.provided.get(provider).cloned() else { return };
        // A service whose last instance left is not even named any more; until it is compiled away it must lose its servers.
        let is_named = |layer: Layer, name: &str| match layer {
            Layer::Http => provided.endpoints.http.contains_key(name),
            Layer::Tcp => provided.endpoints.tcp.contains_key(name),
        };
        let of_provider = self.weighings.keys().filter(|(_, name)| name.provider() == &**provider);
        let left: Vec<(Layer, Name)> = of_provider.filter(|(layer, name)| !is_named(*layer, name.name())).cloned().collect();
        // An instance that has only changed its service serves until routers lead to the new one.
        let all = || provided.endpoints.http.values().chain(provided.endpoints.tcp.values()).flatten();
        let there: HashSet<&str> =
            if left.is_empty() { HashSet::new() } else { all().filter_map(|endpoint| endpoint.instance.as_deref()).collect() };
        let is_there = |endpoint: &&Endpoint| endpoint.instance.as_deref().is_none_or(|instance| there.contains(instance));
        for key in left {
            let Some(weighing) = self.weighings.get(&key) else { continue };
            let kept: Vec<Endpoint> = weighing.endpoints().iter().filter(is_there).cloned().collect();
            self.see(key, &kept);
        }
        for (layer, endpoints) in [(Layer::Http, &provided.endpoints.http), (Layer::Tcp, &provided.endpoints.tcp)] {
            for (name, endpoints) in endpoints {
                self.see((layer, Name::new(name.as_str(), Arc::clone(provider))), endpoints);
            }
        }
    }

    fn see(&mut self, key: (Layer, Name), endpoints: &[Endpoint]) {
        let time = self.time();
        // A service that is not compiled yet gets its servers when it is.
        let Some(service) = self.registry.find(key.0, &key.1) else { return };
        let own = &self.install.own;
        let settings = rollout_settings(&own.rollout, own.mode_max, key.0, &service.settings().rollout);
        let weighing = self.weighings.entry(key.clone()).or_insert_with(|| {
            let kept = self.keeper.take(&key).unwrap_or_default();
            Weighing::new(Arc::clone(service), time.since_start, kept)
        });
        weighing.configure(settings);
        let placed = self.deployments.as_ref().map(|deployments| deployments.place(endpoints));
        let to_do = weighing.see(time, placed.as_deref().unwrap_or(endpoints));
        self.carry_out(&key, to_do);
    }

    fn carry_out(&mut self, key: &(Layer, Name), to_do: ToDo) {
        if let Some(within) = to_do.kept_within {
            self.keeper.touch(clock::now(), within);
        }
        for server in to_do.joined {
            self.watch_server(key, &server);
            self.check_server(key, &server);
        }
        if let Some(probe) = to_do.probe {
            self.probe(key, probe);
        }
        self.tell(key, &to_do.news);
        self.publish_report(key);
    }

    /// Asks a canary for a path by a request of our own. The answer comes back as a [`Probe`].
    fn probe(&self, key: &(Layer, Name), (server, path): (Arc<Server>, String)) {
        let (checker, probed, service) = (self.checker.clone(), self.probed.clone(), key.clone());
        tokio::spawn(async move {
            let status = checker.probe(&server, &path).await;
            if let Err(error) = &status {
                tracing::debug!(server = server.url, error, "canary did not answer a probe");
            }
            // Nobody listens any more only when the process ends.
            let _ = probed.send(Probe { service, server, status: status.ok() }).await;
        });
    }

    /// Counts and resolves a server as long as it is there.
    fn watch_server(&mut self, key: &(Layer, Name), server: &Arc<Server>) {
        if key.0 == Layer::Http {
            server.set_metrics(self.outputs.metrics.server(&key.1.to_string(), &server.url));
        }
        if server.is_named() {
            tokio::spawn(resolve::follow(Arc::clone(&self.resolver), Arc::downgrade(server)));
        }
    }

    /// Checks a server as its service declares it.
    fn check_server(&mut self, key: &(Layer, Name), server: &Arc<Server>) {
        if let Some((check, tasks)) = self.checks.get_mut(&key.1).filter(|_| key.0 == Layer::Http) {
            let task = tokio::spawn(check::follow(self.checker.clone(), Arc::downgrade(server), Arc::clone(check)));
            tasks.retain(|task| !task.is_finished());
            tasks.push(task.abort_handle());
        }
    }

    /// Compiles everything and publishes it.
    fn rebuild(&mut self, now: Instant) {
        self.generation += 1;
        let input = Input {
            generation: self.generation,
            install: &self.install,
            entrypoints: &self.entrypoints,
            provided: &self.provided,
            metrics: &self.outputs.metrics,
        };
        let compiled = compile::compile(&input, &mut self.registry, &mut self.tls);
        self.compiled =
            self.provided.iter().map(|(provider, provided)| (Arc::clone(provider), provided.definitions.clone())).collect();
        self.rebuild_at = None;
        self.rebuilt_at = Some(now);
        self.follow_checks(&compiled);
        let providers: Vec<Arc<str>> = self.provided.keys().cloned().collect();
        for provider in &providers {
            self.apply_endpoints(provider);
        }
        self.publish(compiled, clock::now().saturating_duration_since(now));
    }

    /// Starts and ends the health checks that definitions ask for.
    fn follow_checks(&mut self, compiled: &Compiled) {
        let mut wanted = BTreeMap::new();
        for (name, service) in &compiled.snapshot.services {
            if let Some(check) = service.settings().health_check.clone() {
                wanted.insert(name.clone(), (check, Arc::clone(service)));
            }
        }
        let now = clock::now();
        self.checks.retain(|name, (check, tasks)| {
            let is_wanted = wanted.get(name).is_some_and(|(declared, _)| **declared == **check);
            if !is_wanted {
                tasks.iter().for_each(AbortHandle::abort);
            }
            if !wanted.contains_key(name)
                && let Some(service) = self.registry.find(Layer::Http, name)
            {
                // Nobody asks any more; what the last check found holds nobody out for ever.
                for member in service.arms().members() {
                    let _ = member.server.set_checked(now, true);
                }
            }
            is_wanted
        });
        for (name, (check, service)) in wanted {
            if self.checks.contains_key(&name) {
                continue;
            }
            self.checks.insert(name.clone(), (check, Vec::new()));
            for member in service.arms().members() {
                self.check_server(&(Layer::Http, name.clone()), &member.server);
            }
        }
    }

    fn publish(&mut self, compiled: Compiled, compile: Duration) {
        let Compiled { snapshot, connections, wanted, problems } = compiled;
        let routers = snapshot.report.routers.len() + snapshot.report.tcp_routers.len();
        let (services, tcp_services) = (snapshot.services.clone(), snapshot.tcp_services.clone());
        self.publish_certificates();
        for (handle, routes) in self.outputs.connections.iter().zip(connections) {
            handle.store(Arc::new(routes));
        }
        self.outputs.snapshots.publish(snapshot);
        let is_there = |layer: Layer, name: &Name| match layer {
            Layer::Http => services.contains_key(name),
            Layer::Tcp => tcp_services.contains_key(name),
        };
        self.registry.retain(is_there);
        let now = self.time().since_start;
        for (key, weighing) in self.weighings.extract_if(.., |(layer, name), _| !is_there(*layer, name)) {
            self.keeper.leave(key, now, weighing.kept());
        }
        self.retain_reports(&services);
        self.chronicle.retain(|name| services.contains_key(name));
        self.outputs.wanted.send_if_modified(|now| {
            let new: Wanted = wanted.into_iter().collect();
            let is_new = *now != new;
            *now = new;
            is_new
        });
        self.compile_problems = problems;
        self.say_problems();
        self.outputs.metrics.config_published(Published {
            now: clock::wall(),
            generation: self.generation,
            routers,
            services: services.len() + tcp_services.len(),
            compile,
        });
        tracing::info!(
            generation = self.generation,
            routers,
            services = services.len() + tcp_services.len(),
            "published configuration"
        );
    }

    /// Certificates from files; unreadable ones are problems and cost only themselves.
    fn publish_certificates(&mut self) {
        let mut files = Vec::new();
        let mut default = None;
        for provided in self.provided.values() {
            files.extend(provided.definitions.tls.certificates.iter().cloned());
            default = default.or_else(|| provided.definitions.tls.default_certificate.clone());
        }
        let (loaded, problems) = certificate::load_all(&files);
        let (default, more) = certificate::load_all(default.as_slice());
        self.certificate_problems = [problems, more].concat();
        self.outputs.certificates.publish_files(&loaded, default.first());
    }

    /// Logs what is wrong and was not said before.
    fn say_problems(&mut self) {
        let of_state = self.keeper.problems();
        let all: Vec<Problem> = self
            .provided
            .values()
            .flat_map(|provided| &provided.problems)
            .chain(self.files.problems())
            .chain(&self.compile_problems)
            .chain(&self.certificate_problems)
            .chain(&of_state)
            .cloned()
            .collect();
        let errors = all.iter().filter(|problem| problem.severity == Severity::Error).count();
        self.outputs.metrics.set_problems((all.len() - errors) as u64, errors as u64);
        self.said.say(&all);
    }

    fn publish_report(&mut self, key: &(Layer, Name)) {
        let Some(weighing) = self.weighings.get(key).filter(|_| key.0 == Layer::Http) else { return };
        let report = weighing.report();
        if report.version.is_some() {
            let metrics = &self.outputs.metrics;
            let shown = self.shown.entry(key.1.clone()).or_insert_with(|| metrics.rollout(&key.1.to_string()));
            shown.set(rollout_seen(&report));
        } else {
            self.shown.remove(&key.1);
        }
        let value = report.version.is_some().then(|| serde_json::to_value(&report).ok()).flatten();
        let known = self.outputs.rollouts.load();
        if known.get(&key.1) == value.as_ref() {
            return;
        }
        let mut all = BTreeMap::clone(&known);
        match value {
            Some(value) => drop(all.insert(key.1.clone(), value)),
            None => drop(all.remove(&key.1)),
        }
        self.outputs.rollouts.store(Arc::new(all));
    }

    /// Forgets the reports of services that are gone.
    fn retain_reports(&mut self, services: &BTreeMap<Name, Arc<Service>>) {
        self.shown.retain(|name, _| services.contains_key(name));
        let known = self.outputs.rollouts.load();
        if known.keys().any(|name| !services.contains_key(name)) {
            let mut all = BTreeMap::clone(&known);
            all.retain(|name, _| services.contains_key(name));
            self.outputs.rollouts.store(Arc::new(all));
        }
    }

    /// When something has to be done without anybody asking.
    fn wake_at(&self) -> Instant {
        let deployments = self.deployments.as_ref().map(Deployments::next_step);
        let step = self.weighings.values().map(Weighing::next_step).chain(deployments).min();
        let step = step.map(|step| self.timeline.instant(step));
        let idle = clock::now() + Duration::from_secs(3600);
        [self.rebuild_at, self.files.deadline(), self.kept.deadline(), self.keeper.deadline(), step]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(idle)
    }

    fn wake(&mut self) {
        let time = self.time();
        if self.rebuild_at.is_some_and(|due| due <= time.now) {
            in_place(|| self.rebuild(time.now));
        }
        if self.files.deadline().is_some_and(|due| due <= time.now)
            && let Some(provided) = self.files.believe(time.now)
        {
            self.take(FILE, provided);
        }
        if self.kept.deadline().is_some_and(|due| due <= time.now) {
            self.translate_catalog();
        }
        let due: Vec<(Layer, Name)> = self
            .weighings
            .iter()
            .filter(|(_, weighing)| weighing.next_step() <= time.since_start + STEP_TOGETHER)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            if let Some(to_do) = self.weighings.get_mut(&key).map(|weighing| weighing.step(time, None)) {
                self.carry_out(&key, to_do);
            }
        }
        if self.deployments.as_ref().is_some_and(|deployments| deployments.next_step() <= time.since_start) {
            self.step_deployments();
        }
        if self.keeper.deadline().is_some_and(|due| due <= clock::now()) {
            self.keep();
        }
    }

    /// Hands the state as it is now to the disk. The number to wait for where nothing may be forgotten.
    fn keep(&mut self) -> u64 {
        let time = self.time();
        let present = self.weighings.iter().map(|(key, weighing)| (key.clone(), weighing.kept()));
        self.keeper.put(time.now, time.since_start, present)
    }

    /// The disk has come further, or fails.
    fn follow_disk(&mut self) {
        self.post_calls();
        let problems = self.keeper.problems();
        if self.disk_told.as_ref() != Some(&problems) {
            self.disk_told = Some(problems);
            self.outputs.metrics.set_state_writable(self.keeper.can_write());
            self.say_problems();
        }
    }

    fn answer_probe(&mut self, probe: Probe) {
        let time = self.time();
        if let Some(to_do) =
            self.weighings.get_mut(&probe.service).map(|weighing| weighing.probed(time, &probe.server, probe.status))
        {
            self.carry_out(&probe.service, to_do);
        }
    }

    fn take_catalog(&mut self, state: &ConsulState) {
        self.outputs.metrics.set_consul_up(state.reachable);
        if !state.is_complete && state.catalog.is_empty() && !self.provided.contains_key(CONSUL) {
            // Nothing is known yet, which is not the same as nothing being there.
            return;
        }
        self.catalog.clone_from(&state.catalog);
        self.credibility = credibility(&state.trust, clock::now());
        self.translate_catalog();
    }

    /// Makes dynamic configuration of the catalog as far as it is believed.
    fn translate_catalog(&mut self) {
        let Some(settings) = &self.translate else { return };
        let before = self.kept.count();
        let believed = self.kept.believe(clock::now(), &self.catalog, &self.credibility);
        let kept = self.kept.count();
        if kept > before {
            tracing::warn!(
                kept,
                doubt = self.credibility.doubt,
                "instances vanished from the catalog, which is not believed: they go on serving"
            );
        } else if kept < before {
            tracing::info!(kept, "instances that had vanished from the catalog are back, replaced or given up");
        }
        let (provided, memory) = catalog::translate(&believed, settings, &self.memory);
        self.memory = memory;
        self.take(CONSUL, provided);
    }

    fn take_files(&mut self, state: &FileState) {
        if let Some(provided) = self.files.take(clock::now(), state) {
            self.take(FILE, provided);
        }
    }

    /// Whether every provider has had its first word, and what it said is published.
    fn is_complete(&self, inputs: &Inputs) -> bool {
        let has_consul = inputs.consul.is_none() || self.provided.contains_key(CONSUL);
        let has_files = inputs.files.is_none() || self.provided.contains_key(FILE);
        has_consul && has_files && self.rebuild_at.is_none()
    }
}

/// The half of control that only its task uses.
pub struct ControlTask {
    answers: mpsc::Receiver<Probe>,
    standing: watch::Receiver<Standing>,
    writer: Writer,
}

/// Runs control until `shutdown`.
pub async fn run(mut control: Control, task: ControlTask, mut inputs: Inputs, shutdown: CancellationToken) {
    let ControlTask { mut answers, mut standing, writer } = task;
    tokio::spawn(writer.run());
    let mut called = inputs.nomad.as_ref().map(|nomad| control.follow_deployments(Arc::clone(&nomad.client)));
    loop {
        if !*control.outputs.ready.borrow() && control.is_complete(&inputs) {
            control.outputs.ready.send_replace(true);
        }
        let wake_at = control.wake_at();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // First: an allocation that is told to stop is gone within milliseconds.
            Some(state) = next_nomad(&mut inputs.nomad) => control.take_nomad(state),
            Some(called) = next_called(&mut called) => control.call_ended(called),
            Some(state) = next_catalog(&mut inputs.consul) => in_place(|| control.take_catalog(&state)),
            Some(state) = next_files(&mut inputs.files) => in_place(|| control.take_files(&state)),
            Some(probe) = answers.recv() => control.answer_probe(probe),
            Ok(()) = standing.changed() => control.follow_disk(),
            Some(request) = inputs.orders.recv() => control.obey(request),
            () = tokio::time::sleep_until(wake_at.into()) => {}
        }
        control.wake();
    }
    let last = control.keep();
    let written = standing.wait_for(|standing| standing.durable >= last || standing.problem.is_some());
    if tokio::time::timeout(LAST_WRITE_MAX, written).await.is_err() {
        tracing::warn!("the state of rollouts did not reach the disk in time");
    }
}

/// Runs what computes for long, or reads files, without holding up the other tasks of this thread.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread { tokio::task::block_in_place(work) } else { work() }
}

/// The next state of the catalog, whole or, when that takes too long, in part. Never comes when Consul is no provider, or its task has ended.
async fn next_catalog(consul: &mut Option<watch::Receiver<ConsulState>>) -> Option<ConsulState> {
    let Some(receiver) = consul else { return std::future::pending().await };
    if receiver.changed().await.is_err() {
        return std::future::pending().await;
    }
    Some(receiver.borrow_and_update().clone())
}

/// What Nomad shows now. Never comes when Nomad is not asked.
async fn next_nomad(nomad: &mut Option<Nomad>) -> Option<NomadState> {
    let Some(Nomad { state, .. }) = nomad else { return std::future::pending().await };
    if state.changed().await.is_err() {
        return std::future::pending().await;
    }
    Some(state.borrow_and_update().clone())
}

async fn next_called(called: &mut Option<mpsc::Receiver<Called>>) -> Option<Called> {
    match called {
        Some(called) => called.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_files(files: &mut Option<watch::Receiver<Option<FileState>>>) -> Option<FileState> {
    let Some(receiver) = files else { return std::future::pending().await };
    loop {
        if receiver.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(state) = receiver.borrow_and_update().clone() {
            return Some(state);
        }
    }
}

/// How far absences are believed, from what the provider knows of the answers.
fn credibility(trust: &Trust, now: Instant) -> Credibility {
    let is_rewound = trust.rewound_at.is_some_and(|at| now.saturating_duration_since(at) < REWOUND_DOUBTED_FOR);
    let doubt = match trust.doubt {
        Some(Doubt::NoLeader) => Some("the agent knows no leader"),
        Some(Doubt::Stale) => Some("the agent has not heard from its leader for long"),
        Some(Doubt::Filtered) => Some("the answer was filtered by ACLs"),
        None if is_rewound => Some("the catalog's index went backwards"),
        None if trust.is_consul_gone => Some("consul's own service is gone too"),
        None if trust.is_nomad_gone => Some("nomad's own services are gone too"),
        None => None,
    };
    Credibility { doubt, services: trust.doubts.keys().cloned().collect(), nodes_gone: trust.nodes_gone.clone() }
}

/// A rollout as the metrics show it.
fn rollout_seen(report: &Report) -> RolloutSeen {
    let tests = [
        ("concurrent", report.evidence_concurrent),
        ("history", report.evidence_history),
        ("slow", report.evidence_slow),
        ("better", report.evidence_better),
    ];
    RolloutSeen {
        share: Share::from_fraction(report.share),
        phase: report.phase,
        tests: tests.into_iter().map(|(name, evidence)| (name, evidence, report.threshold)).collect(),
    }
}

#[cfg(test)]
mod tests;
