//! What is known of a connection, on its way to the engine's filters.

use std::sync::Arc;

use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{Digest, SocketDigest};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::routing::entrypoint::Connection;

/// The connection a request came by. `None` only for sessions that did not come from our listeners.
pub fn connection_of(session: &Session) -> Option<&Arc<Connection>> {
    session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// A digest that carries `facts`: the one place the engine has for data of its embedder that reaches the filters of every protocol.
pub(super) fn digest(facts: &Arc<Connection>, socket: Option<Arc<SocketDigest>>) -> Digest {
    // The response of a CONNECT proxy is what the engine keeps there itself; nobody reads it.
    let proxy_digest = ResponseHeader::build(200, Some(0))
        .ok()
        .map(|unused| Arc::new(ProxyDigest::new(Box::new(unused), Some(Box::new(facts.clone())))));
    Digest { ssl_digest: None, timing_digest: Vec::new(), proxy_digest, socket_digest: socket }
}
