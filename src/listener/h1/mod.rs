//! HTTP/1 downstream, all of it ours: head, body framing, keep-alive, time-outs. Each request is handed to the engine as a custom
//! session.

mod answer;
mod body;
mod conn;
mod pace;
mod receive;
mod send;
mod session;
mod target;

pub mod head;
pub mod refusal;

use std::sync::Arc;

use http::Version;
use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::ProxyHttp;

use crate::routing::entrypoint::Connection;

use super::Front;
use super::pipe::Pipe;
use conn::{Conn, Fate, Next, Slot};
use session::Session;

pub use body::{Body, Framing, InvalidBody, Piece};
pub(super) use target::is_authority;

/// Serves one connection until it ends.
pub(super) async fn serve<E>(front: &Front<E>, pipe: Pipe, facts: Arc<Connection>)
where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    let slot = Arc::new(Slot::default());
    let mut conn = Box::new(Conn::new(pipe, facts, front.drain.watch(), front.counters.clone()));
    loop {
        let head = match conn.next().await {
            Next::Request(head) => head,
            Next::Refused(refusal) => return conn.refuse(refusal).await,
            Next::Over => return conn.pipe.close().await,
        };
        if head.is_server_wide {
            let (is_11, keep_alive) = (head.request.version == Version::HTTP_11, head.keep_alive);
            drop(head);
            if conn.answer_server_wide(is_11, keep_alive).await {
                continue;
            }
            return conn.pipe.close().await;
        }
        hand_over(front, Session::new(conn, head, slot.clone())).await;
        match slot.take() {
            Some((returned, Fate::Keep)) => conn = returned,
            Some((mut returned, Fate::Close)) => return returned.pipe.close().await,
            Some((returned, Fate::Reset)) => return returned.pipe.transport.abort(),
            Some((_, Fate::Abort)) | None => return,
        }
        if !conn.body.is_done() && !conn.discard_body().await {
            return conn.pipe.close().await;
        }
    }
}

/// Gives a request to the engine. Not an async function: only the engine's own box is held while it works, not the session's way there.
fn hand_over<E>(front: &Front<E>, session: Session) -> impl Future<Output = Option<ReusedHttpStream>> + Send
where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    front.proxy.process_new_http(ServerSession::new_custom(Box::new(session)), &front.never)
}
