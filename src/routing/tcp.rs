//! What an entrypoint does with a connection before any request is read from it: raw TCP, TLS of some kind, or HTTP.
//!
//! [`EntrypointRoutes`] is plain immutable data. Whoever compiles the dynamic configuration builds a new one and publishes it; a
//! connection asks the one that is current when it needs an answer and keeps that answer for good.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::service::Service;
use crate::names::Name;
use crate::rule::tcp::{ConnectionFacts, Matcher};
use crate::tls::options::{TlsAlert, TlsChoice, TlsHandle, TlsTable};

/// A compiled TCP router.
#[derive(Debug)]
pub struct TcpRoute {
    /// The router's name.
    pub name: Name,
    /// Its rule.
    pub matcher: Matcher,
    /// Whether the rule names no host (``HostSNI(`*`)``): then any HTTPS host comes first.
    pub is_catch_all: bool,
    /// Where its connections go.
    pub service: Arc<Service>,
}

/// A compiled TCP router with TLS.
#[derive(Debug)]
pub struct TlsRoute {
    /// The router.
    pub route: TcpRoute,
    /// Set when TLS ends here; `None` passes the bytes through as they came.
    pub terminate: Option<TlsChoice>,
}

/// TLS settings for HTTPS.
#[derive(Debug)]
pub struct Https {
    /// The settings by name; names that nobody routes get the default ones, so that the client gets an answer (404).
    pub table: TlsTable,
    /// Hosts that some router names, in lower case.
    pub exact: HashSet<String>,
    /// What stands behind `*.` in the hosts that some router names.
    pub wildcards: HashSet<String>,
    /// Whether some router with TLS names no host: it comes before a TCP router that takes everything.
    pub has_catch_all: bool,
}

impl Https {
    fn names(&self, server_name: &str) -> bool {
        self.exact.contains(server_name) || server_name.split_once('.').is_some_and(|(_, parent)| self.wildcards.contains(parent))
    }

    fn has_routes(&self) -> bool {
        self.has_catch_all || !self.exact.is_empty() || !self.wildcards.is_empty()
    }
}

/// What becomes of a TLS connection.
#[derive(Debug)]
pub enum TlsTurn {
    /// TLS ends here and HTTP is spoken inside.
    Https(TlsHandle),
    /// TLS ends here and the bytes inside go to a TCP service.
    Terminate(TlsHandle, Arc<Service>),
    /// The bytes go to a TCP service as they came.
    Passthrough(Arc<Service>),
    /// Nobody wants it; the client is told so by this alert.
    Refuse(TlsAlert),
}

/// Everything an entrypoint knows about connections. The default knows plain HTTP only.
#[derive(Debug, Default)]
pub struct EntrypointRoutes {
    /// TCP routers without TLS, in the order of asking.
    pub plain: Vec<TcpRoute>,
    /// TCP routers with TLS, in the order of asking.
    pub tls: Vec<TlsRoute>,
    /// TLS settings for HTTPS; `None` before anything is known.
    pub https: Option<Https>,
}

impl EntrypointRoutes {
    /// Whether no byte may be waited for: nothing here looks at the client's first bytes, so a TCP service that speaks first works.
    ///
    /// As Traefik: the moment a router with TLS is attached, it waits for the client.
    pub fn is_plain_tcp_only(&self) -> bool {
        !self.plain.is_empty() && self.tls.is_empty() && !self.https.as_ref().is_some_and(Https::has_routes)
    }

    /// Where a connection without TLS goes; `None` means HTTP.
    pub fn find_plain(&self, client: IpAddr) -> Option<&Arc<Service>> {
        let facts = ConnectionFacts { server_name: None, alpn: &[], client };
        self.plain.iter().find(|route| route.matcher.matches(&facts)).map(|route| &route.service)
    }

    /// What becomes of a TLS connection to the address `local`, in Traefik's order: an HTTPS host, a TCP rule that names a host,
    /// HTTPS for any host, TCP for any host, the default options.
    pub fn find_tls(&self, facts: &ConnectionFacts<'_>, local: IpAddr) -> TlsTurn {
        let Some(https) = &self.https else { return TlsTurn::Refuse(TlsAlert::UnrecognizedName) };
        let to_https = || https.table.choose(facts.server_name, local).map_or_else(TlsTurn::Refuse, TlsTurn::Https);
        if facts.server_name.is_some_and(|name| https.names(name)) {
            return to_https();
        }
        let tcp = self.tls.iter().find(|route| route.route.matcher.matches(facts));
        match tcp {
            Some(route) if !route.route.is_catch_all || !https.has_catch_all => route.turn(facts, local),
            Some(_) | None => to_https(),
        }
    }
}

impl TlsRoute {
    fn turn(&self, facts: &ConnectionFacts<'_>, local: IpAddr) -> TlsTurn {
        let service = Arc::clone(&self.route.service);
        match &self.terminate {
            None => TlsTurn::Passthrough(service),
            Some(choice) => match choice.settle(facts.server_name, local) {
                Ok(handle) => TlsTurn::Terminate(handle, service),
                Err(alert) => TlsTurn::Refuse(alert),
            },
        }
    }
}
