//! Connections to the agent: at most so many, kept alive, each used by one request at a time.
//!
//! An agent allows 200 connections from one address, and shares them among all programs of the host, Nomad's agent among
//! them. So the limit must hold for sockets, not for requests: each open socket holds a permit until it is closed, and
//! a request that ends puts its connection back before the next one may begin. A pool that opens a new connection while
//! an old one is on its way back cannot promise that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// An answer larger than this is refused: a catalog of 10 000 instances with 20 tags each is about 40 MB.
pub(super) const ANSWER_BYTES_MAX: usize = 128 << 20;
/// How long connecting may take, name lookup and handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to be ready for the next request once its answer is read.
const RETURN_TIMEOUT: Duration = Duration::from_millis(100);
/// The silence after which the kernel asks whether the agent's host is still there.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// What a request to the agent carries: GETs only, so nothing.
pub(super) type Ask = Request<Empty<Bytes>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("could not connect")]
    Connect(#[source] std::io::Error),
    #[error("no TLS connection")]
    Tls(#[source] std::io::Error),
    #[error("the connection broke")]
    Http(#[source] hyper::Error),
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("we are shutting down")]
    Closed,
}

/// How to reach the agent, and the connections to it.
pub(super) struct Lines {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// One for each request under way.
    requests: Semaphore,
    /// One for each open socket.
    sockets: Arc<Semaphore>,
    free: Mutex<Vec<Line>>,
}

/// One connection. Dropping it closes it.
struct Line {
    sender: SendRequest<Empty<Bytes>>,
    _task: AbortOnDropHandle<()>,
}

impl Lines {
    pub(super) fn new(host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)>, connections_max: usize) -> Self {
        let sockets = Arc::new(Semaphore::new(connections_max));
        Self { host, port, tls, requests: Semaphore::new(connections_max), sockets, free: Mutex::new(Vec::new()) }
    }

    /// Sends a request and reads its answer to the end. The time-out begins when the request has a connection to itself.
    pub(super) async fn exchange(&self, ask: &Ask, timeout: Duration) -> Result<Response<Bytes>, Broken> {
        let _turn = self.requests.acquire().await.map_err(|_closed| Broken::Closed)?;
        tokio::time::timeout(timeout, self.exchange_now(ask)).await.map_err(|_elapsed| Broken::TimedOut(timeout))?
    }

    async fn exchange_now(&self, ask: &Ask) -> Result<Response<Bytes>, Broken> {
        // A kept connection may have been closed by the agent without our knowing. Each round uses one up, the last dials.
        while let Some(mut line) = self.take_free() {
            match line.sender.send_request(ask.clone()).await {
                Ok(response) => return self.read(line, response).await,
                Err(error) => tracing::debug!(%error, "kept connection to consul was of no use"),
            }
        }
        let mut line = self.dial().await?;
        let response = line.sender.send_request(ask.clone()).await.map_err(Broken::Http)?;
        self.read(line, response).await
    }

    fn take_free(&self) -> Option<Line> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(line) = free.pop() {
            if !line.sender.is_closed() {
                return Some(line);
            }
        }
        None
    }

    async fn read(&self, mut line: Line, response: Response<hyper::body::Incoming>) -> Result<Response<Bytes>, Broken> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Broken::TooLarge;
            }
            match error.downcast::<hyper::Error>() {
                Ok(error) => Broken::Http(*error),
                Err(error) => Broken::Connect(std::io::Error::other(error)),
            }
        })?;
        if let Ok(Ok(())) = tokio::time::timeout(RETURN_TIMEOUT, line.sender.ready()).await {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    async fn dial(&self) -> Result<Line, Broken> {
        let permit = Arc::clone(&self.sockets).acquire_owned().await.map_err(|_closed| Broken::Closed)?;
        let dialed = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(permit)).await;
        dialed.map_err(|_elapsed| Broken::TimedOut(CONNECT_TIMEOUT))?
    }

    async fn connect(&self, permit: OwnedSemaphorePermit) -> Result<Line, Broken> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(Broken::Connect)?;
        stream.set_nodelay(true).map_err(Broken::Connect)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(Broken::Connect)?;
        match &self.tls {
            None => handshake(stream, permit).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(Broken::Tls)?;
                handshake(stream, permit).await
            }
        }
    }
}

async fn handshake<S>(stream: S, permit: OwnedSemaphorePermit) -> Result<Line, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Broken::Http)?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "connection to consul ended");
        }
        // The socket is closed: another may be opened.
        drop(permit);
    });
    Ok(Line { sender, _task: AbortOnDropHandle::new(task) })
}
