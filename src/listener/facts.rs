//! What is known of a connection, on its way to the engine's filters; and what the filters want of it, on its way back.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{Digest, SocketDigest};
use pingora_error::ErrorType;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::routing::entrypoint::Connection;

/// The connection a request came by. `None` only for sessions that did not come from our listeners.
pub fn connection_of(session: &Session) -> Option<&Arc<Connection>> {
    session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// The error of a request whose server took longer to its answer's head than [`limit_head`] allows.
pub const HEAD_LATE: ErrorType = ErrorType::Custom("no answer in time");

/// How long the head of an answer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadTimeout(pub(super) Duration);

/// Limits how long a server may take to the head of its answer, from the whole request on, in each attempt of this request
/// (`None`: for ever). The engine's own limit is one for each read, which would cut bodies and tunnels that pause as well. False
/// where only the engine can do it: for HTTP/2 clients.
pub fn limit_head(session: &mut Session, timeout: Option<Duration>) -> bool {
    if !session.as_ref().is_custom() {
        return false;
    }
    let extensions = session.req_header_mut().extensions_mut();
    match timeout {
        Some(timeout) => _ = extensions.insert(HeadTimeout(timeout)),
        None => _ = extensions.remove::<HeadTimeout>(),
    }
    true
}

/// A digest that carries `facts`: the one place the engine has for data of its embedder that reaches the filters of every protocol.
pub(super) fn digest(facts: &Arc<Connection>, socket: Option<Arc<SocketDigest>>) -> Digest {
    // The response of a CONNECT proxy is what the engine keeps there itself; nobody reads it.
    let proxy_digest = ResponseHeader::build(200, Some(0))
        .ok()
        .map(|unused| Arc::new(ProxyDigest::new(Box::new(unused), Some(Box::new(facts.clone())))));
    Digest { ssl_digest: None, timing_digest: Vec::new(), proxy_digest, socket_digest: socket }
}
