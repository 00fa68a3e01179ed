//! HTTP/2 downstream: the engine's own server on our transport, with our limits, drain and idle time-out.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use http::{HeaderValue, header};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{self as v2, H2Accept, HttpSession};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use pingora_http::RequestHeader;
use pingora_proxy::{HttpProxy, ProxyHttp};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::routing::entrypoint::Connection;

use super::counters::Refused;
use super::drain::{DRAIN_IDLE_MAX, Phase};
use super::pipe::{Pipe, WRITE_SILENCE_MAX};
use super::timer::Timer;
use super::transport::Transport;
use super::{Front, facts, h1};

/// What a header list may have, however large `maxHeaderBytes` is: each stream can hold so much.
const HEADER_LIST_BYTES_MAX: usize = 1 << 20;
/// Malformed requests after which the whole connection is closed.
const MALFORMED_MAX: usize = 32;
/// How long the preface and settings may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Serves one connection until it ends.
pub(super) async fn serve<E>(front: &Front<E>, pipe: Pipe, facts: Arc<Connection>)
where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    let settings = &front.entrypoint.settings;
    let socket = SocketDigest::from_raw_fd(pipe.transport.socket().as_raw_fd());
    // A fresh digest: nobody has set these before.
    let _ = socket.peer_addr.set(Some(facts.client.into()));
    let _ = socket.local_addr.set(Some(facts.local.into()));
    let digest = Arc::new(facts::digest(&facts, Some(Arc::new(socket))));

    let mut options = v2::default_h2_options();
    options.max_concurrent_streams(settings.h2_streams_max);
    options.max_header_list_size(u32::try_from(settings.head_bytes_max.min(HEADER_LIST_BYTES_MAX)).unwrap_or(u32::MAX));
    let stream = Io { prefix: pipe.input.freeze(), transport: pipe.transport };
    let mut timer = pipe.timer;
    let deadline = clock::now() + HANDSHAKE_MAX;
    let Ok(Ok(connection)) = timer.race(Some(deadline), pin!(v2::handshake(Box::new(stream), Some(options)))).await else {
        return;
    };

    let write_timeout = settings.transport.write_timeout;
    let streams = Streams {
        proxy: front.proxy.clone(),
        never: front.never.clone(),
        write_timeout: if write_timeout.is_zero() { WRITE_SILENCE_MAX } else { write_timeout },
        active: Arc::default(),
    };
    run(front, connection, digest, &streams, timer).await;
}

/// What happens next on a connection.
#[expect(clippy::large_enum_variant, reason = "one a request, moved once; a box would cost more")]
enum Event {
    Accepted(H2Accept),
    Drain,
    Idle,
    Over,
}

async fn run<E>(
    front: &Front<E>,
    mut connection: h2_connection::Connection,
    digest: Arc<Digest>,
    streams: &Streams<E>,
    mut timer: Timer,
) where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    let mut drain: watch::Receiver<Phase> = front.drain.watch();
    let mut idle_limit = front.entrypoint.settings.transport.idle_timeout;
    let mut is_ending = *drain.borrow_and_update() == Phase::Draining;
    if is_ending {
        connection.graceful_shutdown();
    }
    let mut malformed = 0;
    // How long a client may take for what is left of its answers once nothing else is expected of it.
    let mut unsent_until = None;
    loop {
        let event = tokio::select! {
            biased;
            Ok(()) = drain.changed(), if !is_ending => Event::Drain,
            accepted = HttpSession::from_h2_conn(&mut connection, digest.clone()) => match accepted {
                Ok(Some(accepted)) => Event::Accepted(accepted),
                Ok(None) | Err(_) => Event::Over,
            },
            () = streams.idle_for(&mut timer, idle_limit) => Event::Idle,
        };
        match event {
            Event::Accepted(H2Accept::Session(session)) => streams.start(front, session),
            Event::Accepted(H2Accept::Rejected) => {
                malformed += 1;
                if malformed >= MALFORMED_MAX {
                    return front.counters.refuse(Refused::H2Malformed);
                }
            }
            Event::Drain if *drain.borrow_and_update() != Phase::Draining => {}
            // GOAWAY; the loop goes on for streams that are under way, and for the goodbye itself.
            Event::Drain | Event::Idle if !is_ending => {
                connection.graceful_shutdown();
                is_ending = true;
                idle_limit = DRAIN_IDLE_MAX;
            }
            // Nobody works on them any more, but a slow client has not got all of its answers yet. The connection ends by itself
            // when it has.
            Event::Idle if connection.has_streams() => {
                let now = clock::now();
                if now >= *unsent_until.get_or_insert(now + streams.write_timeout) {
                    return;
                }
            }
            Event::Drain | Event::Idle | Event::Over => return,
        }
    }
}

/// The engine's name for a connection is not public; this is how it is written.
mod h2_connection {
    pub(super) type Connection = ::h2::server::Connection<pingora_core::protocols::Stream, bytes::Bytes>;
}

/// The requests of one connection.
struct Streams<E> {
    proxy: Arc<HttpProxy<E>>,
    never: watch::Receiver<bool>,
    write_timeout: Duration,
    active: Arc<Active>,
}

#[derive(Default)]
struct Active {
    count: AtomicUsize,
    none: Notify,
}

/// One running request.
struct Running(Arc<Active>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_one();
        }
    }
}

impl<E> Streams<E> {
    /// Returns when there has been no request for `limit` (zero: never).
    async fn idle_for(&self, timer: &mut Timer, limit: Duration) {
        while self.active.count.load(Ordering::Acquire) != 0 {
            self.active.none.notified().await;
        }
        if limit.is_zero() {
            return std::future::pending().await;
        }
        let deadline = clock::now() + limit;
        // Elapsing is what is waited for.
        let _ = timer.race(Some(deadline), std::future::pending::<()>()).await;
    }

    fn start(&self, front: &Front<E>, mut session: HttpSession)
    where
        E: ProxyHttp + Send + Sync + 'static,
        E::CTX: Send + Sync,
    {
        session.set_write_timeout(Some(self.write_timeout));
        let is_served = settle(session.req_header_mut());
        self.active.count.fetch_add(1, Ordering::AcqRel);
        let running = Running(self.active.clone());
        let (proxy, never, counters) = (self.proxy.clone(), self.never.clone(), front.counters.clone());
        front.drain.tasks().spawn(async move {
            let _running = running;
            let mut session = ServerSession::new_http2(session);
            if is_served {
                proxy.process_new_http(session, &never).await;
                return;
            }
            counters.refuse(Refused::BadHead);
            if let Ok(mut answer) = pingora_http::ResponseHeader::build(400, Some(2)) {
                let _ = answer.insert_header(header::CONTENT_LENGTH, "0");
                // The client may be gone.
                let _ = session.write_response_header(Box::new(answer)).await;
                let _ = session.finish_body().await;
            }
        });
    }
}

/// Brings a head into the form that everything above expects: the authority in `Host`, one `Cookie`. False when it cannot be served.
fn settle(request: &mut RequestHeader) -> bool {
    if let Some(authority) = request.uri.authority() {
        let Ok(host) = HeaderValue::from_str(authority.as_str()) else { return false };
        if request.insert_header(header::HOST, host).is_err() {
            return false;
        }
    }
    let is_host = request.headers.get(header::HOST).is_some_and(|host| h1::is_authority(host.as_bytes()));
    // RFC 9113 section 8.2.3: crumbs are joined before the request goes to anything that is not HTTP/2.
    let crumbs: Vec<&[u8]> = request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice())) else { return false };
        return request.insert_header(header::COOKIE, cookie).is_ok() && is_host;
    }
    is_host && request.method != http::Method::CONNECT
}

/// Our transport as the engine wants it, with the bytes that were read before it was known to be HTTP/2.
#[derive(Debug)]
struct Io {
    prefix: Bytes,
    transport: Transport,
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.transport).poll_read(cx, buf);
        }
        let count = this.prefix.len().min(buf.remaining());
        buf.put_slice(this.prefix.get(..count).unwrap_or_default());
        this.prefix.advance(count);
        if this.prefix.is_empty() {
            // What it was a part of is not kept for the life of the connection.
            this.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Io {
    async fn shutdown(&mut self) {
        // Nothing is left to be told when it fails.
        let _ = self.transport.shutdown().await;
    }
}

impl UniqueID for Io {
    fn id(&self) -> UniqueIDType {
        self.transport.socket().as_raw_fd()
    }
}

impl Ssl for Io {}

impl Peek for Io {}

impl GetTimingDigest for Io {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Io {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Io {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
