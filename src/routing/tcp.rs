//! What an entrypoint does with a connection before any request is read from it: raw TCP, TLS of some kind, or HTTP.
//!
//! [`EntrypointRoutes`] is plain immutable data. Whoever compiles the dynamic configuration builds a new one and publishes it; a
//! connection asks the one that is current when it needs an answer and keeps that answer for good.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::names::Name;

/// What a TCP rule may look at.
#[derive(Clone, Copy, Debug)]
pub struct TcpFacts<'a> {
    /// The TLS server name: lower case, without a trailing dot. `None` without TLS, or when the client named none.
    pub server_name: Option<&'a str>,
    /// The protocols the client offers by ALPN, as sent.
    pub alpn: &'a [&'a [u8]],
    /// The client, after a believed PROXY protocol header.
    pub client: SocketAddr,
}

/// A compiled TCP rule.
pub type TcpMatch = Box<dyn Fn(&TcpFacts<'_>) -> bool + Send + Sync>;

/// Chooses the next server of a TCP service, given those already tried for this connection; `None` when there is no other.
pub type PickServer = Box<dyn Fn(&[SocketAddr]) -> Option<SocketAddr> + Send + Sync>;

/// Is told how a dial ended, for the server's health.
pub type RecordDial = Box<dyn Fn(SocketAddr, Dial) + Send + Sync>;

/// How a dial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Connected.
    Connected,
    /// Refused, unreachable or out of time.
    Failed,
}

/// A TCP service as a connection sees it.
pub struct TcpTarget {
    /// Its name, for logs.
    pub service: Name,
    /// Chooses a server.
    pub pick: PickServer,
    /// Is told how it went.
    pub record: RecordDial,
}

impl fmt::Debug for TcpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTarget").field("service", &self.service).finish_non_exhaustive()
    }
}

/// A TCP router without TLS.
pub struct PlainRoute {
    /// Its rule.
    pub matches: TcpMatch,
    /// Where its connections go.
    pub target: Arc<TcpTarget>,
}

/// A TCP router with TLS.
pub struct TlsRoute {
    /// Its rule.
    pub matches: TcpMatch,
    /// Whether the rule names no host (``HostSNI(`*`)``): then any HTTPS host comes first.
    pub is_catch_all: bool,
    /// Set when TLS ends here; `None` passes the bytes through as they came.
    pub terminate: Option<Arc<ServerConfig>>,
    /// Where its connections go.
    pub target: Arc<TcpTarget>,
}

/// TLS settings of one host that is served as HTTPS.
#[derive(Clone, Debug)]
pub struct HttpsOptions {
    /// With its certificate resolver and ALPN.
    pub config: Arc<ServerConfig>,
    /// Equal numbers mean equal options; it ends up in `TlsFacts::options`.
    pub id: u64,
}

/// TLS settings by server name, for HTTPS.
#[derive(Clone, Debug, Default)]
pub struct HttpsTable {
    /// Whole names, lower case.
    pub exact: HashMap<String, HttpsOptions>,
    /// What follows the first label of `*.example.com`: `example.com`.
    pub wildcard: HashMap<String, HttpsOptions>,
    /// Set when a router with TLS names no host: it comes before a TCP router that takes everything.
    pub catch_all: Option<HttpsOptions>,
    /// For names nobody routes: the default options, so that the client gets an answer (404). `None` refuses TLS that nobody routes.
    pub fallback: Option<HttpsOptions>,
}

impl HttpsTable {
    fn find_host(&self, server_name: &str) -> Option<&HttpsOptions> {
        self.exact.get(server_name).or_else(|| self.wildcard.get(server_name.split_once('.')?.1))
    }

    fn has_routes(&self) -> bool {
        !self.exact.is_empty() || !self.wildcard.is_empty() || self.catch_all.is_some()
    }
}

/// What becomes of a TLS connection.
#[derive(Clone, Debug)]
pub enum TlsChoice {
    /// TLS ends here and HTTP is spoken inside.
    Https(HttpsOptions),
    /// TLS ends here and the bytes inside go to a TCP service.
    Terminate(Arc<ServerConfig>, Arc<TcpTarget>),
    /// The bytes go to a TCP service as they came.
    Passthrough(Arc<TcpTarget>),
    /// Nobody wants it.
    Refuse,
}

/// Everything an entrypoint knows about connections. The default knows plain HTTP only.
#[derive(Default)]
pub struct EntrypointRoutes {
    /// TCP routers without TLS, highest priority first.
    pub plain: Vec<PlainRoute>,
    /// TCP routers with TLS, highest priority first.
    pub tls: Vec<TlsRoute>,
    /// TLS settings for HTTPS.
    pub https: HttpsTable,
}

impl EntrypointRoutes {
    /// Whether no byte may be waited for: nothing here looks at the client's first bytes, so a TCP service that speaks first works.
    ///
    /// As Traefik: the moment a router with TLS is attached, it waits for the client.
    pub fn is_plain_tcp_only(&self) -> bool {
        !self.plain.is_empty() && self.tls.is_empty() && !self.https.has_routes()
    }

    /// Where a connection without TLS goes; `None` means HTTP.
    pub fn find_plain(&self, client: SocketAddr) -> Option<&Arc<TcpTarget>> {
        let facts = TcpFacts { server_name: None, alpn: &[], client };
        self.plain.iter().find(|route| (route.matches)(&facts)).map(|route| &route.target)
    }

    /// What becomes of a TLS connection, in Traefik's order: an HTTPS host, a TCP rule that names a host, HTTPS for any host,
    /// TCP for any host, the default options.
    pub fn find_tls(&self, facts: &TcpFacts<'_>) -> TlsChoice {
        if let Some(options) = facts.server_name.and_then(|name| self.https.find_host(name)) {
            return TlsChoice::Https(options.clone());
        }
        let tcp = self.tls.iter().find(|route| (route.matches)(facts));
        match (tcp, &self.https.catch_all, &self.https.fallback) {
            (Some(route), _, _) if !route.is_catch_all => route.choice(),
            (_, Some(options), _) => TlsChoice::Https(options.clone()),
            (Some(route), None, _) => route.choice(),
            (None, None, Some(options)) => TlsChoice::Https(options.clone()),
            (None, None, None) => TlsChoice::Refuse,
        }
    }
}

impl TlsRoute {
    fn choice(&self) -> TlsChoice {
        match &self.terminate {
            Some(config) => TlsChoice::Terminate(config.clone(), self.target.clone()),
            None => TlsChoice::Passthrough(self.target.clone()),
        }
    }
}

impl fmt::Debug for EntrypointRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntrypointRoutes")
            .field("plain", &self.plain.len())
            .field("tls", &self.tls.len())
            .field("https", &self.https)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(id: u64) -> HttpsOptions {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        HttpsOptions { config: Arc::new(config), id }
    }

    fn target(name: &str) -> Arc<TcpTarget> {
        Arc::new(TcpTarget { service: Name::new(name, "test"), pick: Box::new(|_| None), record: Box::new(|_, _| ()) })
    }

    fn tcp(host: Option<&'static str>, service: &str) -> TlsRoute {
        TlsRoute {
            matches: Box::new(move |facts| host.is_none() || facts.server_name == host),
            is_catch_all: host.is_none(),
            terminate: None,
            target: target(service),
        }
    }

    #[track_caller]
    fn check(routes: &EntrypointRoutes, server_name: Option<&str>, expected: &str) {
        let facts = TcpFacts { server_name, alpn: &[], client: ([127, 0, 0, 1], 1).into() };
        let got = match routes.find_tls(&facts) {
            TlsChoice::Https(options) => format!("https {}", options.id),
            TlsChoice::Terminate(_, target) | TlsChoice::Passthrough(target) => format!("tcp {}", target.service.name()),
            TlsChoice::Refuse => "refuse".to_owned(),
        };
        assert_eq!(got, expected, "for {server_name:?}");
    }

    #[test]
    fn tls_connections_follow_traefiks_precedence() {
        let mut routes = EntrypointRoutes::default();
        check(&routes, Some("a.test"), "refuse");
        routes.https.fallback = Some(options(0));
        check(&routes, Some("a.test"), "https 0");
        routes.tls = vec![tcp(Some("a.test"), "exact"), tcp(None, "any")];
        check(&routes, Some("a.test"), "tcp exact");
        check(&routes, Some("b.test"), "tcp any");
        check(&routes, None, "tcp any");
        routes.https.catch_all = Some(options(1));
        check(&routes, Some("a.test"), "tcp exact");
        check(&routes, Some("b.test"), "https 1");
        routes.https.wildcard.insert("test".to_owned(), options(2));
        check(&routes, Some("a.test"), "https 2");
        check(&routes, Some("x.a.test"), "https 1");
        routes.https.exact.insert("a.test".to_owned(), options(3));
        check(&routes, Some("a.test"), "https 3");
        check(&routes, None, "https 1");
    }

    #[test]
    fn a_connection_is_handed_over_unread_only_where_nothing_reads_it() {
        let mut routes = EntrypointRoutes::default();
        assert!(!routes.is_plain_tcp_only());
        routes.plain.push(PlainRoute { matches: Box::new(|_| true), target: target("jmx") });
        routes.https.fallback = Some(options(0));
        assert!(routes.is_plain_tcp_only());
        assert!(routes.find_plain(([127, 0, 0, 1], 1).into()).is_some());
        routes.https.exact.insert("a.test".to_owned(), options(1));
        assert!(!routes.is_plain_tcp_only());
    }
}
