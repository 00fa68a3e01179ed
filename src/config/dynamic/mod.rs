//! Dynamic configuration: what providers say while we run, as typed values in Traefik's vocabulary.
//!
//! Names are those of the provider, without `@provider`. Servers stand apart from the definitions ([`Provided::endpoints`]),
//! because instances come and go far more often than routers change, and must take effect without compiling anything.

pub mod decode;
pub mod labels;
mod middleware;
mod router;
#[cfg(test)]
mod scenarios;
pub mod server;
mod service;
mod shape;
mod tcp;
mod tls;
mod unsupported;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{At, Problems};
use crate::names::Track;

/// Everything one provider says at one moment. Whole states only; the newest wins.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Provided {
    /// What has to be compiled.
    pub definitions: Definitions,
    /// The servers of load balancers.
    pub endpoints: Endpoints,
    /// What could not be used, and why.
    pub problems: Problems,
}

/// Routers, services, middlewares and TLS material by name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Definitions {
    /// `http.routers`.
    pub routers: BTreeMap<String, Router>,
    /// `http.services`.
    pub services: BTreeMap<String, Service>,
    /// `http.middlewares`.
    pub middlewares: BTreeMap<String, Middleware>,
    /// `http.serversTransports`.
    pub servers_transports: BTreeMap<String, super::install::ServersTransport>,
    /// `tcp.routers`.
    pub tcp_routers: BTreeMap<String, TcpRouter>,
    /// `tcp.services`.
    pub tcp_services: BTreeMap<String, TcpService>,
    /// `tls`.
    pub tls: Tls,
    /// Objects that were declared but cannot be used; the API shows them as disabled with their reason.
    pub refused: Vec<Refused>,
}

/// An object that was declared but cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// What kind of object.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Why, in one sentence.
    pub reason: String,
}

/// The kinds of objects a provider declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Router,
    Service,
    Middleware,
    TcpRouter,
    TcpService,
    TcpMiddleware,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Router => "router",
            Self::Service => "service",
            Self::Middleware => "middleware",
            Self::TcpRouter => "TCP router",
            Self::TcpService => "TCP service",
            Self::TcpMiddleware => "TCP middleware",
        })
    }
}

/// The servers of one provider's load balancers, by service name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Endpoints {
    /// Of `http.services`.
    pub http: BTreeMap<String, Vec<Endpoint>>,
    /// Of `tcp.services`.
    pub tcp: BTreeMap<String, Vec<Endpoint>>,
}

/// One server of a load balancer: where it is, and who stands behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `http`, `https`, `h2c`; `tcp` or `tls` for TCP services.
    pub scheme: Scheme,
    /// An address or a name that we resolve.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Kept only with `preservePath`; else Traefik ignores it.
    pub path: String,
    /// `preservePath`.
    pub preserve_path: bool,
    /// `weight`; 1 unless told, 0 gets nothing.
    pub weight: u32,
    /// The instance behind it, when the provider knows instances (Consul's ServiceID).
    pub instance: Option<String>,
    /// What tells versions apart: canary tags, a configured tag or meta key, or nothing.
    pub version: Option<String>,
    /// What the provider knows of its track. `None`: decided by our own first sight.
    pub track: Option<Track>,
    /// Whether the provider's own checks call it fit; an unfit one is kept for when there is no other.
    pub is_passing: bool,
}

#[cfg(test)]
impl Endpoint {
    /// A fit one on this machine of which nothing is known.
    pub fn local(port: u16) -> Self {
        Self {
            scheme: Scheme::Http,
            host: "127.0.0.1".to_owned(),
            port,
            path: String::new(),
            preserve_path: false,
            weight: 1,
            instance: None,
            version: None,
            track: None,
            is_passing: true,
        }
    }
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Scheme {
    /// HTTP/1.1 in clear.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP/2 in clear.
    H2c,
    /// Raw bytes.
    Tcp,
    /// Raw bytes over TLS.
    Tls,
}

impl Scheme {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl Endpoint {
    /// The server's URL as Traefik prints it (`http://127.0.0.1:80`), which is also its identity in a service.
    pub fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.scheme {
            Scheme::Tcp | Scheme::Tls => format!("{host}:{}", self.port),
            Scheme::Http | Scheme::Https | Scheme::H2c => format!("{}://{host}:{}{}", self.scheme.as_str(), self.port, self.path),
        }
    }
}

/// `http.routers.*`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Router {
    /// Names of entrypoints; empty means the default ones.
    pub entrypoints: Vec<String>,
    /// As written.
    pub rule: String,
    /// Reference to a service (`name` or `name@provider`).
    pub service: String,
    /// References to middlewares, in order.
    pub middlewares: Vec<String>,
    /// 0 means the length of the rule.
    pub priority: i64,
    /// Serves TLS requests only, if set; else plain ones only.
    pub tls: Option<RouterTls>,
    /// `observability.accessLogs`, default true.
    pub access_logs: bool,
    /// `observability.metrics`, default true.
    pub metrics: bool,
    /// Where it was declared.
    pub at: At,
}

/// `tls` of a router.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RouterTls {
    /// Reference to TLS options.
    pub options: Option<String>,
    /// Name of a certificate resolver.
    pub resolver: Option<String>,
    /// The domains to obtain; empty means the hosts of the rule.
    pub domains: Vec<Domain>,
    /// TCP routers only: hand the bytes on without terminating.
    pub passthrough: bool,
}

/// The names of one certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Domain {
    /// Its first name.
    pub main: String,
    /// Further names.
    pub sans: Vec<String>,
}

/// `http.services.*`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// What kind it is.
    pub kind: ServiceKind,
    /// Where it was declared.
    pub at: At,
}

/// What a service does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceKind {
    /// Spreads requests over servers.
    LoadBalancer(LoadBalancer),
    /// Spreads requests over services by weight: (reference, weight).
    Weighted(Vec<(String, u32)>),
}

/// `loadBalancer`. Its servers are in [`Provided::endpoints`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    /// How a server is chosen.
    pub strategy: Strategy,
    /// Send the client's Host on; default true.
    pub pass_host_header: bool,
    /// Reference to a servers transport.
    pub servers_transport: Option<String>,
    /// Ask the servers ourselves.
    pub health_check: Option<HealthCheck>,
    /// The rollout settings of this service's serving definition (`tidegate.*` tags), by key in lower case.
    pub rollout: BTreeMap<String, String>,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            pass_host_header: true,
            servers_transport: None,
            health_check: None,
            rollout: BTreeMap::new(),
        }
    }
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Weighted round robin.
    #[default]
    Wrr,
    /// The less busy of two drawn at random.
    P2c,
}

/// `loadBalancer.healthCheck`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// Path and query.
    pub path: String,
    /// `http` or `https`; default the server's.
    pub scheme: Option<Scheme>,
    /// Default GET.
    pub method: String,
    /// The one good status; default any 2xx or 3xx.
    pub status: Option<u16>,
    /// Default the server's port.
    pub port: Option<u16>,
    /// Between two checks of a healthy server; default 30 s.
    pub interval: Duration,
    /// Between two checks of an unhealthy one; default `interval`.
    pub unhealthy_interval: Option<Duration>,
    /// Default 5 s.
    pub timeout: Duration,
    /// The Host header.
    pub hostname: Option<String>,
    /// Default true.
    pub follow_redirects: bool,
    /// Further request headers.
    pub headers: BTreeMap<String, String>,
}

/// `http.middlewares.*`.
#[derive(Clone, Debug, PartialEq)]
pub struct Middleware {
    /// What it does.
    pub kind: MiddlewareKind,
    /// Where it was declared.
    pub at: At,
}

/// What a middleware does. Kinds that Traefik knows and we do not yet are [`Refused`], and with them the routers that use them.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names and options are Traefik's")]
pub enum MiddlewareKind {
    RedirectScheme {
        scheme: String,
        port: Option<String>,
        permanent: bool,
    },
    RedirectRegex {
        regex: String,
        replacement: String,
        permanent: bool,
    },
    Compress {
        encodings: Vec<String>,
        body_bytes_min: usize,
        excluded: Vec<String>,
        included: Vec<String>,
        default_encoding: Option<String>,
    },
    Headers {
        request: BTreeMap<String, String>,
        response: BTreeMap<String, String>,
    },
    StripPrefix {
        prefixes: Vec<String>,
    },
    AddPrefix {
        prefix: String,
    },
    BasicAuth {
        users: Vec<String>,
        users_file: Option<PathBuf>,
        realm: String,
        header_field: Option<String>,
        remove_header: bool,
    },
    Chain {
        middlewares: Vec<String>,
    },
}

/// `tcp.routers.*`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TcpRouter {
    /// Names of entrypoints; empty means the default ones.
    pub entrypoints: Vec<String>,
    /// As written.
    pub rule: String,
    /// Reference to a TCP service.
    pub service: String,
    /// References to TCP middlewares.
    pub middlewares: Vec<String>,
    /// 0 means the length of the rule.
    pub priority: i64,
    /// TLS terminated or passed through, if set.
    pub tls: Option<RouterTls>,
    /// Where it was declared.
    pub at: At,
}

/// `tcp.services.*`. Its servers are in [`Provided::endpoints`].
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TcpService {
    /// Where it was declared.
    pub at: At,
}

/// `tls`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tls {
    /// `tls.certificates`.
    pub certificates: Vec<CertificateFiles>,
    /// `tls.options.*`.
    pub options: BTreeMap<String, TlsOptions>,
    /// `tls.stores.default.defaultCertificate`.
    pub default_certificate: Option<CertificateFiles>,
}

/// A certificate and its key: paths, or the PEM text itself, as in Traefik.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain.
    pub cert: String,
    /// The key.
    pub key: String,
    /// Where it was declared.
    pub at: At,
}

/// `tls.options.*`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TlsOptions {
    /// The lowest version; default TLS 1.2.
    pub version_min: Option<TlsVersion>,
    /// The highest version.
    pub version_max: Option<TlsVersion>,
    /// Refuse handshakes whose name no certificate covers.
    pub sni_strict: bool,
    /// `alpnProtocols`; default h2, http/1.1.
    pub alpn: Option<Vec<String>>,
    /// Where it was declared.
    pub at: At,
}

/// A version of TLS that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    Tls12,
    Tls13,
}
