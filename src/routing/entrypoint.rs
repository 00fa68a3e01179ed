//! A listening address as the request path knows it, and what is known of one connection to it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::install;
use crate::middleware::forwarded::{ForwardedRules, Peer};

/// One entrypoint, settled at start.
#[derive(Debug)]
pub struct Entrypoint {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its place among a snapshot's tables.
    pub index: usize,
    /// What the install configuration says of it.
    pub settings: install::Entrypoint,
    /// What becomes of the headers that speak of the hop.
    pub forwarded: ForwardedRules,
}

impl Entrypoint {
    /// The entrypoint `name`, which is number `index`, on the host `hostname`.
    pub fn new(name: &str, index: usize, settings: install::Entrypoint, hostname: &str) -> Self {
        Self { name: name.into(), index, forwarded: ForwardedRules::new(&settings.forwarded_headers, hostname), settings }
    }
}

/// What is known of one client's connection before its first request. One per connection, shared by its requests.
#[derive(Debug)]
pub struct Connection {
    /// Where it came in.
    pub entrypoint: Arc<Entrypoint>,
    /// The client: the peer, or whom a believed PROXY protocol header named.
    pub client: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// Set when the connection is TLS.
    pub tls: Option<TlsFacts>,
    /// The client as the headers for servers speak of it.
    pub peer: Peer,
}

impl Connection {
    /// A connection of `client` to `local`.
    pub fn new(entrypoint: Arc<Entrypoint>, client: SocketAddr, local: SocketAddr, tls: Option<TlsFacts>) -> Self {
        let peer = Peer::new(client.ip(), tls.is_some(), &entrypoint.settings.forwarded_headers);
        Self { entrypoint, client, local, tls, peer }
    }
}

/// What a TLS handshake settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The name asked for, lower case, without a trailing dot.
    pub server_name: Option<Arc<str>>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// As Go names it (`TLS_AES_128_GCM_SHA256`), for logs and metrics.
    pub cipher: &'static str,
    /// Whether HTTP/2 was negotiated.
    pub is_h2: bool,
    /// Identifies the TLS options the handshake was made with: equal numbers mean equal options (421 when a request's Host needs others).
    pub options: u64,
}
