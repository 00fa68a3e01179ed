//! From a listening socket to HTTP requests for the engine, or to raw bytes for a TCP service.
//!
//! We own the sockets, the accept loops, TLS by server name, HTTP/1 and the drain; the engine is given one request at a time.
//! [`serve`] is the way in. Everything here is bounded: each wait, buffer and count has a named limit.

#![warn(clippy::indexing_slicing, clippy::string_slice)]

mod accept;
mod connection;
mod counters;
mod drain;
mod facts;
mod h2;
mod hello;
mod idle;
mod pipe;
mod proxy_protocol;
mod socket;
mod timer;
mod transport;

pub mod h1;

use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::sync::watch;

use crate::observe::metrics::EntrypointMetrics;
use crate::routing::entrypoint::Entrypoint;
use crate::routing::tcp::EntrypointRoutes;

pub use accept::serve;
pub use counters::{Counters, Refused};
pub use drain::{DRAIN_IDLE_MAX, Drain, Phase};
pub use facts::{HEAD_LATE, connection_of, limit_head};
pub(crate) use pipe::Pipe;
pub use socket::{Bound, bind, inherited, keep_alive};

/// One entrypoint at run time: what all its connections share.
pub struct Front<E> {
    pub(crate) entrypoint: Arc<Entrypoint>,
    routes: Arc<ArcSwap<EntrypointRoutes>>,
    proxy: Arc<HttpProxy<E>>,
    metrics: Arc<EntrypointMetrics>,
    counters: Arc<Counters>,
    drain: Arc<Drain>,
    connections_max: usize,
    /// What the engine looks at to learn of a shutdown. It never hears of one: sessions and HTTP/2 connections are ended by us.
    never: ShutdownWatch,
    _never: watch::Sender<bool>,
}

/// What all entrypoints share.
pub struct Shared<E> {
    /// The engine. One for all entrypoints, so that there is one pool of connections to servers.
    pub proxy: Arc<HttpProxy<E>>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// How it ends.
    pub drain: Arc<Drain>,
    /// `limits.connections`: how many connections may be open, on all entrypoints together.
    pub connections_max: usize,
}

impl<E> Front<E> {
    /// The entrypoint's name.
    pub fn name(&self) -> &Arc<str> {
        &self.entrypoint.name
    }

    /// An entrypoint that reads its TCP and TLS routes from `routes` and counts its open connections in `metrics`.
    pub fn new(
        entrypoint: Arc<Entrypoint>,
        routes: Arc<ArcSwap<EntrypointRoutes>>,
        metrics: Arc<EntrypointMetrics>,
        shared: &Shared<E>,
    ) -> Self {
        let (_never, never) = watch::channel(false);
        Self {
            entrypoint,
            routes,
            proxy: shared.proxy.clone(),
            metrics,
            counters: shared.counters.clone(),
            drain: shared.drain.clone(),
            connections_max: shared.connections_max,
            never,
            _never,
        }
    }
}
