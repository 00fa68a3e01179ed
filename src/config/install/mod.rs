//! The install configuration (Traefik's static one): what is settled at start and never changes while we run.
//!
//! [`Source`] says where it comes from, [`keys`] which keys there are, and [`read()`] makes an [`Install`] of it.

mod entrypoints;
mod environment;
mod flags;
pub mod keys;
mod observe;
mod own;
mod providers;
mod read;
mod references;
mod resolvers;
mod source;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::dynamic::Domain;

pub use flags::config_file;
pub use read::read;
pub use source::{Source, candidates, pick};

/// All of it, with Traefik's defaults filled in.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Install {
    /// Listening addresses by name (lower case).
    pub entrypoints: BTreeMap<String, Entrypoint>,
    /// Where dynamic configuration comes from.
    pub providers: Providers,
    /// One line a request, if wanted.
    pub access_log: Option<AccessLog>,
    /// Our own log.
    pub log: Log,
    /// `metrics.prometheus`, if wanted.
    pub prometheus: Option<Prometheus>,
    /// `/ping`, if wanted.
    pub ping: Option<Ping>,
    /// The read-only API, if wanted.
    pub api: Option<Api>,
    /// `certificatesResolvers.*.acme` by resolver name.
    pub resolvers: BTreeMap<String, Acme>,
    /// Defaults for connections to servers.
    pub servers_transport: ServersTransport,
    /// The `tidegate:` section.
    pub own: Own,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq)]
pub struct Entrypoint {
    /// `[host]:port` without `/tcp`; an empty host is dual-stack.
    pub address: String,
    /// Routers that name no entrypoint go to the default ones only, if any is.
    pub as_default: bool,
    /// From whom X-Forwarded-* are believed.
    pub forwarded_headers: Trust,
    /// From whom a PROXY protocol header is believed; `None` when it is not expected.
    pub proxy_protocol: Option<Trust>,
    /// Time-outs and shutdown.
    pub transport: Transport,
    /// `http.redirections.entryPoint`.
    pub redirection: Option<Redirection>,
    /// Middlewares put before every router's own.
    pub middlewares: Vec<String>,
    /// TLS for every router of this entrypoint that has none of its own.
    pub tls: Option<EntrypointTls>,
    /// `http2.maxConcurrentStreams`.
    pub h2_streams_max: u32,
    /// `http.maxHeaderBytes`.
    pub head_bytes_max: usize,
    /// `http.sanitizePath`.
    pub sanitize_path: bool,
    /// `http.encodeQuerySemicolons`.
    pub encode_query_semicolons: bool,
    /// Whether the user named it; the `traefik` entrypoint is made for ping, API and metrics when nobody did.
    pub is_implied: bool,
}

impl Default for Entrypoint {
    fn default() -> Self {
        Self {
            address: String::new(),
            as_default: false,
            forwarded_headers: Trust::default(),
            proxy_protocol: None,
            transport: Transport::default(),
            redirection: None,
            middlewares: Vec::new(),
            tls: None,
            h2_streams_max: 250,
            head_bytes_max: 1 << 20,
            sanitize_path: true,
            encode_query_semicolons: false,
            is_implied: false,
        }
    }
}

/// Which peers are believed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trust {
    /// Everybody.
    pub insecure: bool,
    /// These addresses.
    pub ranges: Vec<IpNet>,
    /// Header names that may stay in `Connection` (`forwardedHeaders.connection`).
    pub connection: Vec<String>,
    /// Leave `X-Forwarded-For` as it came (`forwardedHeaders.notAppendXForwardedFor`).
    pub not_append_forwarded_for: bool,
}

impl Trust {
    /// Whether `peer` is believed.
    pub fn allows(&self, peer: std::net::IpAddr) -> bool {
        self.insecure || self.ranges.iter().any(|range| range.contains(&peer.to_canonical()))
    }
}

/// `transport` of an entrypoint. A zero span means no limit, as in Traefik.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// `lifeCycle.requestAcceptGraceTimeout`: how long new connections are still accepted after SIGTERM.
    pub request_accept_grace: Duration,
    /// `lifeCycle.graceTimeOut`: how long running requests may take after that.
    pub grace: Duration,
    /// `respondingTimeouts.readTimeout`: for the head; and for each silence of a body (a body that makes progress is not cut).
    pub read_timeout: Duration,
    /// `respondingTimeouts.writeTimeout`: how long a client may take no byte of an answer.
    pub write_timeout: Duration,
    /// `respondingTimeouts.idleTimeout`: between requests.
    pub idle_timeout: Duration,
    /// `keepAliveMaxTime`.
    pub keep_alive_time_max: Duration,
    /// `keepAliveMaxRequests`; 0 is no limit.
    pub keep_alive_requests_max: u64,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            request_accept_grace: Duration::ZERO,
            grace: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            write_timeout: Duration::ZERO,
            idle_timeout: Duration::from_secs(180),
            keep_alive_time_max: Duration::ZERO,
            keep_alive_requests_max: 0,
        }
    }
}

/// `http.redirections.entryPoint`.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirection {
    /// An entrypoint's name or `:port`.
    pub to: String,
    /// Default `https`.
    pub scheme: String,
    /// Default true.
    pub permanent: bool,
    /// Default Go's MaxInt - 1.
    pub priority: i64,
}

/// `http.tls` of an entrypoint.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct EntrypointTls {
    /// Name of TLS options.
    pub options: Option<String>,
    /// Name of a certificate resolver.
    pub resolver: Option<String>,
    /// Domains to obtain certificates for.
    pub domains: Vec<Domain>,
}

/// Where dynamic configuration comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Providers {
    /// `providersThrottleDuration`: rebuilds of routers are coalesced over it.
    pub throttle: Duration,
    /// The Consul catalog, if wanted.
    pub consul_catalog: Option<ConsulCatalog>,
    /// Files, if wanted.
    pub file: Option<FileProvider>,
}

impl Default for Providers {
    fn default() -> Self {
        Self { throttle: Duration::from_secs(2), consul_catalog: None, file: None }
    }
}

/// `providers.consulCatalog`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulCatalog {
    /// The agent's HTTP API.
    pub endpoint: ConsulEndpoint,
    /// Tags that start with it are ours.
    pub prefix: String,
    /// Poll interval when `watch` is false.
    pub refresh_interval: Duration,
    /// `watch`.
    pub watch: bool,
    /// `?consistent`.
    pub require_consistent: bool,
    /// `?stale`.
    pub stale: bool,
    /// `?cached`.
    pub cache: bool,
    /// Services are routed without being asked to.
    pub exposed_by_default: bool,
    /// Go template of the rule of a service without router.
    pub default_rule: String,
    /// Expression over raw tags that an instance must satisfy.
    pub constraints: Option<String>,
    /// Check states whose instances are kept; `any` keeps all.
    pub strict_checks: Vec<String>,
}

impl Default for ConsulCatalog {
    fn default() -> Self {
        Self {
            endpoint: ConsulEndpoint::default(),
            prefix: "traefik".to_owned(),
            refresh_interval: Duration::from_secs(15),
            watch: false,
            require_consistent: false,
            stale: false,
            cache: false,
            exposed_by_default: true,
            default_rule: "Host(`{{ normalize .Name }}`)".to_owned(),
            constraints: None,
            strict_checks: vec!["passing".to_owned(), "warning".to_owned()],
        }
    }
}

/// `providers.consulCatalog.endpoint`; what is not set comes from `CONSUL_HTTP_*`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConsulEndpoint {
    /// `host:port`.
    pub address: Option<String>,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The datacenter asked for.
    pub datacenter: Option<String>,
    /// The ACL token.
    pub token: Option<String>,
    /// User name and password of HTTP basic authentication.
    pub basic_auth: Option<(String, String)>,
    /// How long a blocking query may wait.
    pub wait: Option<Duration>,
    /// A CA file.
    pub ca: Option<PathBuf>,
    /// A client certificate file.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Believe any certificate.
    pub insecure_skip_verify: bool,
}

/// `providers.file`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct FileProvider {
    /// One file.
    pub filename: Option<PathBuf>,
    /// Or a directory of `.toml`, `.yaml`, `.yml`.
    pub directory: Option<PathBuf>,
    /// Notice edits; default true.
    pub watch: bool,
}

/// `accessLog`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AccessLog {
    /// Standard output when `None`.
    pub file_path: Option<PathBuf>,
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Write in the background once so many lines wait; 0 is unbuffered.
    pub buffering_size: usize,
    /// Also ping, API, metrics and challenges.
    pub add_internals: bool,
    /// Which requests are logged; empty filters log all.
    pub filters: AccessLogFilters,
    /// Which fields a line has.
    pub fields: AccessLogFields,
}

/// How an access log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AccessLogFormat {
    /// Traefik's `common` (CLF and more).
    #[default]
    Common,
    /// Combined log format, nothing more.
    GenericClf,
    /// One JSON object.
    Json,
}

/// `accessLog.filters`: a request is logged when any of them takes it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AccessLogFilters {
    /// Ranges of statuses, both ends included.
    pub status_codes: Vec<(u16, u16)>,
    /// Requests that were tried more than once.
    pub retry_attempts: bool,
    /// Requests at least so long.
    pub duration_min: Option<Duration>,
}

/// `accessLog.fields`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct AccessLogFields {
    /// For fields not named; default keep.
    pub default: FieldMode,
    /// By field name, lower case.
    pub names: BTreeMap<String, FieldMode>,
    /// For headers not named; Traefik's default is drop, filled in by whoever reads the configuration.
    pub headers_default: FieldMode,
    /// By header name, lower case.
    pub headers: BTreeMap<String, FieldMode>,
}

/// What becomes of a field of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldMode {
    /// Logged as it is.
    #[default]
    Keep,
    /// Not logged.
    Drop,
    /// Logged as `REDACTED`.
    Redact,
}

/// `log`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Log {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR`, `FATAL`, `PANIC` without case; Traefik's default is ERROR, ours INFO, since a rollout's story is told at INFO.
    pub level: Option<String>,
    /// Standard error when `None`.
    pub file_path: Option<PathBuf>,
    /// JSON lines instead of Traefik's console format.
    pub is_json: bool,
}

/// `metrics.prometheus`.
#[derive(Clone, Debug, PartialEq)]
pub struct Prometheus {
    /// Upper bounds of the duration histograms, seconds.
    pub buckets: Vec<f64>,
    /// `traefik_entrypoint_*`.
    pub add_entrypoints_labels: bool,
    /// `traefik_router_*`.
    pub add_routers_labels: bool,
    /// `traefik_service_*`.
    pub add_services_labels: bool,
    /// Where `/metrics` is served; default `traefik`.
    pub entrypoint: String,
    /// Serve it only through a router to `prometheus@internal`.
    pub manual_routing: bool,
    /// Request headers that become labels of `*_requests_total`: label to header name.
    pub header_labels: BTreeMap<String, String>,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            buckets: vec![0.1, 0.3, 1.2, 5.0],
            add_entrypoints_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
            entrypoint: "traefik".to_owned(),
            manual_routing: false,
            header_labels: BTreeMap::new(),
        }
    }
}

/// `ping`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ping {
    /// Where it is served; default `traefik`.
    pub entrypoint: String,
    /// Serve it only through a router to `ping@internal`.
    pub manual_routing: bool,
    /// The status while we drain.
    pub terminating_status: u16,
}

impl Default for Ping {
    fn default() -> Self {
        Self { entrypoint: "traefik".to_owned(), manual_routing: false, terminating_status: 503 }
    }
}

/// `api`.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    /// Serve it on the `traefik` entrypoint without a router.
    pub insecure: bool,
    /// The dashboard too.
    pub dashboard: bool,
    /// `/api` and `/dashboard` stand below it.
    pub base_path: String,
}

/// `certificatesResolvers.*.acme`.
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// The account's contact.
    pub email: Option<String>,
    /// The CA's directory.
    pub ca_server: String,
    /// Traefik's acme.json.
    pub storage: PathBuf,
    /// The certificates' keys.
    pub key_type: KeyType,
    /// The entrypoint on which HTTP-01 is answered; `None` when that challenge is not configured.
    pub http_challenge_entrypoint: Option<String>,
    /// CA files to trust for the CA itself.
    pub ca_certificates: Vec<PathBuf>,
    /// Also trust the system's.
    pub ca_system_cert_pool: bool,
    /// `certificatesDuration`.
    pub certificates_duration: Duration,
    /// External account binding: key id and base64url HMAC key.
    pub eab: Option<(String, String)>,
    /// `preferredChain` and `profile` are kept as written.
    pub profile: Option<String>,
}

/// What kind of key a certificate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeyType {
    /// ECDSA P-256.
    Ec256,
    /// ECDSA P-384.
    Ec384,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 4096 bits, Traefik's default.
    #[default]
    Rsa4096,
}

/// `serversTransport`: how servers are spoken to. A zero span means no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct ServersTransport {
    /// Believe any certificate.
    pub insecure_skip_verify: bool,
    /// CA files.
    pub root_cas: Vec<PathBuf>,
    /// The name expected in the certificate, instead of the host of the URL.
    pub server_name: Option<String>,
    /// Idle connections kept per server.
    pub idle_connections_max: usize,
    /// `forwardingTimeouts.dialTimeout`.
    pub dial_timeout: Duration,
    /// `forwardingTimeouts.responseHeaderTimeout`: from the whole request to the head of the answer. For HTTP/2 clients it is the
    /// engine's limit for each read, so an answer that pauses for as long ends too.
    pub response_header_timeout: Duration,
    /// `forwardingTimeouts.idleConnTimeout`; never more than 30 s is used, so that sockets to a removed instance go.
    pub idle_timeout: Duration,
}

impl Default for ServersTransport {
    fn default() -> Self {
        Self {
            insecure_skip_verify: false,
            root_cas: Vec::new(),
            server_name: None,
            idle_connections_max: 200,
            dial_timeout: Duration::from_secs(30),
            response_header_timeout: Duration::ZERO,
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// The `tidegate:` section: what Traefik does not know and ignores.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// `consul.watchesMax`: how many connections to the Consul agent may be open at once.
    pub consul_watches_max: usize,
    /// `consul.strictTags`: a bad tag drops its whole instance, as in Traefik.
    pub strict_tags: bool,
    /// `consul.tokenFile`: read again on 403.
    pub consul_token_file: Option<PathBuf>,
    /// `start.timeout`: traffic entrypoints listen after the first snapshot or this time.
    pub start_timeout: Duration,
    /// `state`: where the state that outlives us is kept (a directory).
    pub state: PathBuf,
    /// `nomad`: where Nomad is asked about deployments; `None` when it is not.
    pub nomad: Option<NomadSettings>,
    /// `rollout`.
    pub rollout: RolloutSettings,
    /// `rollout.modeMax`: how far a service's own tags may raise the mode.
    pub mode_max: Mode,
    /// `rollout.webhook`: where each event of a rollout is sent as JSON.
    pub webhook: Option<String>,
    /// `rollout.tokenFile`: the bearer token that steering by the API asks for; without it only the socket steers.
    pub steering_token_file: Option<PathBuf>,
    /// `retry.attempts`: tries of one request in all, the first included; those that no server noticed are not counted.
    pub attempts_max: u32,
    /// `upstream.firstByteTimeout`: how long a server may take to the first byte where `responseHeaderTimeout` sets no limit; zero is
    /// no limit. For HTTP/2 clients the engine has one limit for each read, so an answer that pauses for as long ends too.
    pub first_byte_timeout: Duration,
    /// `limits.connections`: connections in all.
    pub connections_max: usize,
    /// `metrics.perServer`: `tidegate_server_*` series.
    pub per_server_metrics: bool,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            consul_watches_max: 64,
            strict_tags: false,
            consul_token_file: None,
            start_timeout: Duration::from_secs(10),
            state: PathBuf::from("/var/lib/tidegate"),
            nomad: None,
            rollout: RolloutSettings::default(),
            mode_max: Mode::Observe,
            webhook: None,
            steering_token_file: None,
            attempts_max: 3,
            first_byte_timeout: Duration::ZERO,
            connections_max: 100_000,
            per_server_metrics: true,
        }
    }
}

/// `tidegate.rollout`: how a canary is weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSettings {
    /// False turns all weighing off: every instance is stable.
    pub enabled: bool,
    /// `trackTag`: a tag `KEY=VALUE` whose value tells versions apart.
    pub track_tag: Option<String>,
    /// `trackMeta`: a meta key whose value tells versions apart.
    pub track_meta: Option<String>,
    /// `newcomers`: what an instance that joins others is taken for when nothing else tells.
    pub newcomers: Newcomers,
    /// `probePath`: asked of a canary before its first user request.
    pub probe_path: String,
    /// `warmUp`: how long latency is no evidence.
    pub warm_up: Duration,
    /// `firstByte` (J): the age at which an attempt is judged.
    pub judged_at: Duration,
    /// `mode`: what may be asked of Nomad.
    pub mode: Mode,
    /// `maxHold`: how long a deployment is held at most; less where a group's progress deadline is nearer.
    pub hold_max: Duration,
    /// `atMaxHold`: what happens then.
    pub at_max_hold: AtMaxHold,
    /// `latency: fail`: slowness alone may fail a deployment.
    pub fails_slow: bool,
    /// `revert`: after a failure that Nomad does not revert by itself, or a breach after the promotion, the last version is brought back.
    pub reverts: bool,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            track_tag: None,
            track_meta: None,
            newcomers: Newcomers::Weigh,
            probe_path: "/".to_owned(),
            warm_up: Duration::from_secs(60),
            judged_at: Duration::from_secs(2),
            mode: Mode::Observe,
            hold_max: Duration::from_secs(3600),
            at_max_hold: AtMaxHold::Release,
            fails_slow: false,
            reverts: false,
        }
    }
}

/// What may be asked of Nomad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Mode {
    /// Nothing: Nomad is at most read.
    #[default]
    Observe,
    /// To wait: a deployment is held and judged, a person promotes.
    Hold,
    /// To promote and to fail, too.
    Auto,
}

/// What becomes of a deployment that was held for as long as allowed without a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AtMaxHold {
    /// It goes on as if we had never held it.
    #[default]
    Release,
    /// It is promoted.
    Promote,
    /// It is failed.
    Fail,
}

/// `tidegate.nomad`: how Nomad is reached. What is not said comes from Nomad's own environment variables (`NOMAD_ADDR`, ...).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NomadSettings {
    /// `address`: `http://`, `https://` or `unix://` (the task API's socket).
    pub address: Option<String>,
    /// `token`.
    pub token: Option<String>,
    /// `tokenFile`: read again on 403.
    pub token_file: Option<PathBuf>,
    /// `namespaces`; every one that the token may read when empty.
    pub namespaces: Vec<String>,
    /// `region`.
    pub region: Option<String>,
    /// `tls.ca`.
    pub ca_file: Option<PathBuf>,
    /// `tls.cert` and `tls.key`.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// `tls.insecureSkipVerify`.
    pub insecure_skip_verify: bool,
    /// `tls.serverName`.
    pub server_name: Option<String>,
}

/// What an instance that joins others is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Newcomers {
    /// A canary, weighed by its health.
    #[default]
    Weigh,
    /// One more of the same, with a slow start.
    SlowStart,
}
