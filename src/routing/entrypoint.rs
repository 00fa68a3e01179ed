//! A listening address as the request path knows it, and what is known of one connection to it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::install;

/// One entrypoint, settled at start.
#[derive(Debug)]
pub struct Entrypoint {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its place among a snapshot's tables.
    pub index: usize,
    /// What the install configuration says of it.
    pub settings: install::Entrypoint,
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
