//! The composition root: builds the parts, hands out the channels, decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::acme::CertificateResolvers;
use crate::acme::run::{self as acme_run, CertificateState};
use crate::config::install::{Install, Prometheus};
use crate::config::problem::{Problem, Problems, Severity};
use crate::control::{self, Control, ControlError, Inputs, Outputs};
use crate::durable::owner_hint;
use crate::listener::{self, Counters, Drain, Front, Phase};
use crate::observe::access_log::AccessLog;
use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::orchestrator::{self, NomadState, client as nomad};
use crate::provider::consul::access::Access;
use crate::provider::consul::client::{Client, SetUpError};
use crate::provider::consul::state::ConsulState;
use crate::provider::consul::watch::{self as consul_watch, WatchSettings};
use crate::provider::file as file_provider;
use crate::proxy::edge::Edge;
use crate::proxy::shared::{Shared, Stage, StageCell};
use crate::routing::entrypoint::Entrypoint;
use crate::routing::snapshot::SnapshotHandle;
use crate::routing::tcp::EntrypointRoutes;
use crate::steering::{self, Events, socket, webhook};
use crate::tls::certificate;
use crate::tls::challenge::OpenChallenges;
use crate::tls::store::CertificateStore;
use crate::{clock, tls};

/// Connections to servers that are kept open while idle, over all servers.
const UPSTREAM_IDLE_MAX: usize = 4096;
/// Attempts that the engine allows; ours (`retry.attempts`) end before, this one only ends what would go on for ever.
const ENGINE_ATTEMPTS_MAX: usize = 16;

/// At the end control has so long to write down where rollouts stand.
const CONTROL_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address cannot be used.
    #[error("entrypoint `{entrypoint}` cannot listen on `{address}`: {reason}{}", port_hint(reason))]
    Listen {
        /** Its name. */
        entrypoint: String,
        /** Its address. */
        address: String,
        /** Why. */
        reason: io::Error,
    },
    /// The access log cannot be opened.
    #[error("access log `{}` cannot be opened: {reason}{}", path.display(), owner_hint(path, reason))]
    AccessLog {
        /** The file. */
        path: PathBuf,
        /** Why. */
        reason: io::Error,
    },
    /// No default certificate.
    #[error(transparent)]
    Certificate(#[from] certificate::GenerateError),
    /// Control cannot be set up.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The client for the webhook cannot be made.
    #[error("the webhook cannot be asked")]
    Webhook(#[from] reqwest::Error),
    /// The client for Nomad cannot be made.
    #[error("nomad cannot be asked")]
    Nomad(#[from] orchestrator::connect::SetUpError),
    /// The client for Consul cannot be made.
    #[error("consul cannot be asked")]
    Consul(#[from] SetUpError),
    /// The install configuration names things that cannot be used.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Problems),
}

/// What helps when an address cannot be listened on.
fn port_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrInUse => " (another program listens there: is Traefik still running?)",
        _ => "",
    }
}

/// How a variable of the environment is looked up.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A running proxy.
pub struct Running {
    shared: Arc<Shared>,
    drain: Arc<Drain>,
    log: Option<Log>,
    reload: watch::Sender<u64>,
    shutdown: CancellationToken,
    control: JoinHandle<()>,
    addresses: watch::Receiver<BTreeMap<String, SocketAddr>>,
    failure: watch::Receiver<Option<String>>,
}

/// Starts everything in the background of the present runtime: at once what serves operators, and what serves traffic as soon
/// as the first snapshot is there (or `start.timeout` is over). A process-wide crypto provider is installed.
pub async fn start(install: Install, log: Option<Log>, environment: Environment<'_>) -> Result<Running, StartError> {
    tls::install_crypto_provider();
    let install = Arc::new(install);
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let entrypoints: Vec<Arc<Entrypoint>> = install
        .entrypoints
        .iter()
        .enumerate()
        .map(|(index, (name, settings))| Arc::new(Entrypoint::new(name, index, settings.clone(), &hostname)))
        .collect();
    let sockets = bind_all(&entrypoints)?;

    let metrics = Arc::new(Metrics::new(&metrics_settings(&install), install.own.per_server_metrics));
    let counters: Arc<Counters> = Arc::default();
    let access_log = open_access_log(&install, &metrics)?;
    let certificates = Arc::new(CertificateStore::new(Arc::new(certificate::generate_default(clock::wall())?)));
    let challenges = Arc::new(OpenChallenges::default());
    let snapshots = Arc::new(SnapshotHandle::default());
    let rollouts = Arc::new(ArcSwap::from_pointee(BTreeMap::new()));
    let connections: Vec<Arc<ArcSwap<EntrypointRoutes>>> =
        entrypoints.iter().map(|_| Arc::new(ArcSwap::from_pointee(EntrypointRoutes::default()))).collect();
    let shutdown = CancellationToken::new();

    let (orders, orders_seen) = mpsc::channel(steering::order::ORDERS_MAX);
    tokio::spawn(socket::serve(install.own.state.join(socket::FILE_NAME), orders.clone(), shutdown.clone()));
    let events = start_webhook(&install, &metrics, &shutdown)?;

    let shared = Arc::new(Shared {
        steering: steering::api::Api { token_file: install.own.steering_token_file.clone(), orders },
        snapshots: Arc::clone(&snapshots),
        challenges: Arc::clone(&challenges),
        challenge_entrypoints: challenge_entrypoints(&install, &entrypoints),
        entrypoint_metrics: entrypoints.iter().map(|entrypoint| metrics.entrypoint(&entrypoint.name)).collect(),
        metrics: Arc::clone(&metrics),
        counters,
        access_log,
        stage: StageCell::default(),
        hostname: HeaderValue::from_str(&hostname).unwrap_or(HeaderValue::from_static("")),
        judged_at: install.own.rollout.judged_at,
        certificates: Arc::clone(&certificates),
        rollouts: Arc::clone(&rollouts),
        started_at: clock::wall(),
        install: Arc::clone(&install),
    });
    let (wanted, wanted_seen) = watch::channel(Vec::new());
    let (addresses, addresses_seen) = watch::channel(BTreeMap::new());
    let obtaining = Obtaining { wanted: wanted_seen, addresses: addresses_seen.clone(), shutdown: shutdown.clone() };
    start_acme(&install, &certificates, &challenges, obtaining, environment);

    let (reload, reload_seen) = watch::channel(0);
    let inputs = Inputs {
        consul: start_consul(&install, environment, &shutdown)?,
        files: start_files(&install, reload_seen, &shutdown),
        nomad: start_nomad(&install, environment, &shutdown)?,
        orders: orders_seen,
    };
    let (ready, ready_seen) = watch::channel(false);
    let outputs = Outputs { snapshots, connections: connections.clone(), certificates, wanted, rollouts, metrics, events, ready };
    let (control, task) = Control::new(Arc::clone(&install), entrypoints.clone(), outputs)?;
    let control = tokio::spawn(control::run(control, task, inputs, shutdown.clone()));

    let drain = Arc::new(Drain::default());
    let front = Fronts::new(&shared, &drain, entrypoints, connections);
    let (failed, failure) = watch::channel(None);
    tokio::spawn(listen(front, sockets, ready_seen, Arc::clone(&shared), addresses, failed));
    Ok(Running { shared, drain, log, reload, shutdown, control, addresses: addresses_seen, failure })
}

impl Running {
    /// Waits until every entrypoint listens; then the address of each by name. `Err` says why one cannot.
    pub async fn listening(&self) -> Result<BTreeMap<String, SocketAddr>, String> {
        let count = self.shared.install.entrypoints.len();
        let (mut addresses, mut failure) = (self.addresses.clone(), self.failure.clone());
        tokio::select! {
            all = addresses.wait_for(|addresses| addresses.len() == count) => match all {
                Ok(all) => Ok(all.clone()),
                Err(_ended) => Err("the listening task has ended".to_owned()),
            },
            Ok(failure) = failure.wait_for(Option::is_some) => Err(failure.clone().unwrap_or_default()),
        }
    }

    /// The addresses of the entrypoints that listen already.
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.addresses.borrow().clone()
    }

    /// What all requests share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Reads the dynamic files again, now.
    pub fn reload(&self) {
        self.reload.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Reopens access log and log after somebody renamed them.
    pub fn reopen_logs(&self) {
        let access_log = self.shared.access_log.as_ref().map(|log| log.reopen());
        let log = self.log.as_ref().map(|log| log.reopen());
        for error in [access_log, log].into_iter().flatten().filter_map(Result::err) {
            tracing::error!(%error, "could not reopen a log, it goes on in the old file");
        }
    }

    /// Ends politely: goes on accepting for `requestAcceptGraceTimeout`, then lets what runs finish within `graceTimeOut`.
    /// Says how many connections were left.
    pub async fn stop(self) -> usize {
        let transports = || self.shared.install.entrypoints.values().map(|entrypoint| &entrypoint.transport);
        let accept = transports().map(|transport| transport.request_accept_grace).max().unwrap_or_default();
        let grace = transports().map(|transport| transport.grace).max().unwrap_or_default();
        self.shared.stage.advance(Stage::Draining);
        if !accept.is_zero() {
            self.drain.enter(Phase::AcceptGrace);
            tokio::time::sleep(accept).await;
        }
        let left = self.drain.drain(clock::now() + grace).await;
        self.shutdown.cancel();
        // Where rollouts stand is written once more. Whatever keeps it from ending has been logged.
        let _ = tokio::time::timeout(CONTROL_ENDS_WITHIN, self.control).await;
        if let Some(log) = &self.shared.access_log {
            log.flush(Duration::from_secs(1));
        }
        left
    }
}

/// The sockets of each entrypoint: inherited from systemd by name, or bound by us. Bound now, so that a port in use stops the
/// start; listening begins later.
fn bind_all(entrypoints: &[Arc<Entrypoint>]) -> Result<Vec<Vec<listener::Bound>>, StartError> {
    let mut inherited = listener::inherited();
    let mut sockets = Vec::new();
    for entrypoint in entrypoints {
        let handed = inherited.remove(&*entrypoint.name).unwrap_or_default();
        if !handed.is_empty() {
            sockets.push(handed.into_iter().map(listener::Bound::from).collect());
            continue;
        }
        let address = &entrypoint.settings.address;
        let bound = listener::bind(address).map_err(|reason| StartError::Listen {
            entrypoint: entrypoint.name.to_string(),
            address: address.clone(),
            reason,
        })?;
        sockets.push(vec![bound]);
    }
    for name in inherited.keys() {
        tracing::warn!(name, "an inherited socket belongs to no entrypoint, it is not served");
    }
    Ok(sockets)
}

/// What is counted. Nothing by entrypoint, router or service when nobody can ask for it.
fn metrics_settings(install: &Install) -> Prometheus {
    let nothing = || Prometheus {
        add_entrypoints_labels: false,
        add_routers_labels: false,
        add_services_labels: false,
        ..Prometheus::default()
    };
    install.prometheus.clone().unwrap_or_else(nothing)
}

fn open_access_log(install: &Install, metrics: &Metrics) -> Result<Option<Arc<AccessLog>>, StartError> {
    let Some(settings) = &install.access_log else { return Ok(None) };
    let dropped: Arc<AtomicU64> = metrics.access_log_dropped();
    let zone = jiff::tz::TimeZone::system();
    let log = AccessLog::open(settings, zone, dropped)
        .map_err(|reason| StartError::AccessLog { path: settings.file_path.clone().unwrap_or_default(), reason })?;
    Ok(Some(Arc::new(log)))
}

fn challenge_entrypoints(install: &Install, entrypoints: &[Arc<Entrypoint>]) -> BTreeSet<usize> {
    let names: BTreeSet<&str> = install.resolvers.values().filter_map(|acme| acme.http_challenge_entrypoint.as_deref()).collect();
    entrypoints.iter().filter(|entrypoint| names.contains(&*entrypoint.name)).map(|entrypoint| entrypoint.index).collect()
}

/// What obtaining certificates waits for.
struct Obtaining {
    wanted: watch::Receiver<acme_run::Wanted>,
    addresses: watch::Receiver<BTreeMap<String, SocketAddr>>,
    shutdown: CancellationToken,
}

fn start_acme(
    install: &Install,
    store: &Arc<CertificateStore>,
    challenges: &Arc<OpenChallenges>,
    obtaining: Obtaining,
    environment: Environment<'_>,
) {
    if install.resolvers.is_empty() {
        return;
    }
    let (resolvers, problems) = CertificateResolvers::open(&install.resolvers, environment);
    say(&problems);
    // What is stored answers before the first connection comes.
    resolvers.publish(store);
    let (states, _): (watch::Sender<Vec<CertificateState>>, _) = watch::channel(Vec::new());
    let shared = acme_run::Shared { store: Arc::clone(store), challenges: Arc::clone(challenges), states };
    let Obtaining { wanted, mut addresses, shutdown } = obtaining;
    let count = install.entrypoints.len();
    tokio::spawn(async move {
        // The CA fetches the challenge from us, so nothing is ordered before we listen: it would fail, and be put off.
        let is_listening = tokio::select! {
            biased;
            () = shutdown.cancelled() => false,
            all = addresses.wait_for(|addresses| addresses.len() == count) => all.is_ok(),
        };
        if is_listening {
            acme_run::run(resolvers, wanted, shared, shutdown).await;
        }
    });
}

fn start_consul(
    install: &Install,
    environment: Environment<'_>,
    shutdown: &CancellationToken,
) -> Result<Option<watch::Receiver<ConsulState>>, StartError> {
    let Some(catalog) = &install.providers.consul_catalog else { return Ok(None) };
    let (access, problems) = Access::read(catalog, install.own.consul_token_file.as_deref(), environment);
    let Some(access) = access else { return Err(StartError::Problems(problems)) };
    say(&problems);
    let watches_max = install.own.consul_watches_max;
    let settings = WatchSettings::new(catalog, watches_max, access.wait);
    let client = Arc::new(Client::new(&access, settings.connections_max)?);
    let (state, seen) = watch::channel(ConsulState::unknown(clock::now()));
    tokio::spawn(consul_watch::run(client, settings, state, shutdown.clone()));
    Ok(Some(seen))
}

fn start_nomad(
    install: &Install,
    environment: Environment<'_>,
    shutdown: &CancellationToken,
) -> Result<Option<control::Nomad>, StartError> {
    let Some(settings) = &install.own.nomad else { return Ok(None) };
    let (access, problems) = orchestrator::access::Access::read(settings, environment);
    let Some(access) = access else { return Err(StartError::Problems(problems)) };
    say(&problems);
    let client = Arc::new(nomad::Client::new(&access)?);
    let (state, seen) = watch::channel(NomadState::unknown());
    let watch =
        orchestrator::watch::run(Arc::clone(&client), orchestrator::watch::WatchSettings::default(), state, shutdown.clone());
    tokio::spawn(watch);
    Ok(Some(control::Nomad { client, state: seen }))
}

fn start_files(
    install: &Install,
    reload: watch::Receiver<u64>,
    shutdown: &CancellationToken,
) -> Option<watch::Receiver<Option<file_provider::FileState>>> {
    let settings = install.providers.file.clone()?;
    let (state, seen) = watch::channel(None);
    tokio::spawn(file_provider::run(settings, reload, state, shutdown.clone()));
    Some(seen)
}

/// Where events go: to the webhook, if there is one.
fn start_webhook(install: &Install, metrics: &Metrics, shutdown: &CancellationToken) -> Result<Events, StartError> {
    let Some(url) = install.own.webhook.clone() else { return Ok(Events::default()) };
    let dropped = metrics.webhook_dropped();
    let (events, waiting) = Events::channel(Arc::clone(&dropped));
    let client = webhook::client()?;
    tokio::spawn(webhook::run(client, url, waiting, dropped, webhook::Pace::default(), shutdown.clone()));
    Ok(events)
}

fn say(problems: &[Problem]) {
    for problem in problems {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
}

/// All entrypoints, ready to be served.
struct Fronts(Vec<Arc<Front<Edge>>>);

impl Fronts {
    fn new(
        shared: &Arc<Shared>,
        drain: &Arc<Drain>,
        entrypoints: Vec<Arc<Entrypoint>>,
        connections: Vec<Arc<ArcSwap<EntrypointRoutes>>>,
    ) -> Self {
        let conf = ServerConf {
            upstream_keepalive_pool_size: UPSTREAM_IDLE_MAX,
            max_retries: ENGINE_ATTEMPTS_MAX,
            ..ServerConf::default()
        };
        let all = listener::Shared {
            proxy: Arc::new(HttpProxy::new(Edge::new(Arc::clone(shared)), Arc::new(conf))),
            counters: Arc::clone(&shared.counters),
            drain: Arc::clone(drain),
            connections_max: shared.install.own.connections_max,
        };
        let front = |(entrypoint, routes): (Arc<Entrypoint>, _)| {
            let metrics = shared.metrics.entrypoint(&entrypoint.name);
            Arc::new(Front::new(entrypoint, routes, metrics, &all))
        };
        Self(entrypoints.into_iter().zip(connections).map(front).collect())
    }
}

/// Begins to listen: at once where only we are asked, on the others when routes are known or their time is over.
async fn listen(
    fronts: Fronts,
    sockets: Vec<Vec<listener::Bound>>,
    mut ready: watch::Receiver<bool>,
    shared: Arc<Shared>,
    addresses: watch::Sender<BTreeMap<String, SocketAddr>>,
    failed: watch::Sender<Option<String>>,
) {
    let pairs = fronts.0.into_iter().zip(sockets);
    let (own, traffic): (Vec<_>, Vec<_>) = pairs.partition(|(front, _)| &**front.name() == "traefik");
    let serve_all = |group: Vec<(Arc<Front<Edge>>, Vec<listener::Bound>)>| {
        for (front, sockets) in group {
            for socket in sockets {
                match serve(socket, &front) {
                    Ok(address) => addresses.send_modify(|all| {
                        all.insert(front.name().to_string(), address);
                    }),
                    Err(error) => {
                        drop(failed.send_replace(Some(format!("entrypoint `{}` cannot listen: {error}", front.name()))));
                    }
                }
            }
        }
    };
    serve_all(own);
    let timeout = shared.install.own.start_timeout;
    match tokio::time::timeout(timeout, ready.wait_for(|is_ready| *is_ready)).await {
        Ok(_) => {}
        Err(_elapsed) => {
            tracing::warn!(timeout = ?timeout, "not every provider has answered yet, entrypoints listen all the same");
        }
    }
    serve_all(traffic);
    // `/ping` says 503 until the first whole snapshot is there.
    if ready.wait_for(|is_ready| *is_ready).await.is_ok() {
        shared.stage.advance(Stage::Serving);
    }
}

fn serve(socket: listener::Bound, front: &Arc<Front<Edge>>) -> io::Result<SocketAddr> {
    let socket: TcpListener = socket.listen()?;
    let address = socket.local_addr()?;
    tracing::info!(entrypoint = %front.name(), %address, "listening");
    listener::serve(socket, Arc::clone(front))?;
    Ok(address)
}
