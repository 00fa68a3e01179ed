//! One request of an HTTP/1 connection, as the engine sees it.
//!
//! It is made with the head already read. When the engine drops it, the connection goes back to where it came from, together with
//! what is to become of it: kept only when both messages are complete.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, Method, Version, header};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::{CustomMessageWrite, server};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::clock;

use super::answer::{Asked, Ends};
use super::conn::{Conn, Fate, Slot};
use super::head::Head;
use super::pace::Pace;
use crate::listener::pipe::Failure;

/// How much of a request body is remembered, to be sent again to another server.
pub const RETRY_BYTES_MAX: usize = 64 * 1024;

/// A request; see the module.
pub(super) struct Session {
    /// `None` only while it is dropped.
    pub(super) conn: Option<Box<Conn>>,
    slot: Arc<Slot>,
    pub(super) request: RequestHeader,
    pub(super) asked: Asked,
    /// The client allows another request after this one.
    pub(super) keep_alive: bool,
    pub(super) has_body: bool,
    pub(super) expectation: Expectation,
    pub(super) pace: Pace,
    /// The framing of the request's body broke, or the client left.
    pub(super) is_request_broken: bool,
    pub(super) response: Option<Box<ResponseHeader>>,
    pub(super) ends: Ends,
    pub(super) is_response_done: bool,
    /// The connection takes another request after this answer.
    pub(super) keep: bool,
    /// The answer was given up.
    pub(super) is_abandoned: bool,
    pub(super) tunnel: Tunnel,
    pub(super) retry: Option<BytesMut>,
    pub(super) is_retry_truncated: bool,
    pub(super) body_bytes_read: usize,
    pub(super) body_bytes_sent: usize,
    pub(super) read_timeout: Option<Duration>,
    /// Since when the server of the present attempt has the whole request.
    pub(super) asked_at: Option<Instant>,
    drain_timeout: Option<Duration>,
}

/// Whether the client waits for `100 Continue`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    None,
    Waiting,
    Answered,
}

/// The connection as raw bytes after 101.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// It is HTTP.
    Closed,
    Open,
    /// One side has ended.
    Over,
}

impl Session {
    pub(super) fn new(conn: Box<Conn>, head: Head, slot: Arc<Slot>) -> Self {
        let asked = Asked { is_11: head.request.version == Version::HTTP_11, is_head: head.request.method == Method::HEAD };
        let read_timeout = conn.times().read_timeout;
        Self {
            slot,
            request: head.request,
            asked,
            keep_alive: head.keep_alive,
            has_body: !conn.body.is_done(),
            expectation: if head.expects_continue { Expectation::Waiting } else { Expectation::None },
            pace: Pace::default(),
            is_request_broken: false,
            response: None,
            ends: Ends::Empty,
            is_response_done: false,
            keep: false,
            is_abandoned: false,
            tunnel: Tunnel::Closed,
            retry: None,
            is_retry_truncated: false,
            body_bytes_read: 0,
            body_bytes_sent: 0,
            read_timeout: Some(read_timeout).filter(|timeout| !timeout.is_zero()),
            asked_at: None,
            drain_timeout: None,
            conn: Some(conn),
        }
    }

    #[expect(clippy::expect_used, reason = "the connection leaves in `drop` and nowhere else")]
    pub(super) fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("a session has its connection until it is dropped")
    }

    fn fate(&self) -> Fate {
        let is_torn = self.conn.as_ref().is_none_or(|conn| conn.pipe.is_torn);
        match (self.is_response_done && !self.is_abandoned && !is_torn, self.ends) {
            (true, _) if self.keep && !self.is_request_broken => Fate::Keep,
            (true, _) => Fate::Close,
            (false, Ends::Close) => Fate::Reset,
            (false, _) => Fate::Abort,
        }
    }
}

/// An error of the client's side.
pub(super) fn down(
    kind: ErrorType,
    context: &'static str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Box<Error> {
    let mut error = Error::because(kind, context, cause);
    error.esource = ErrorSource::Downstream;
    error
}

impl Drop for Session {
    fn drop(&mut self) {
        let fate = self.fate();
        if let Some(conn) = self.conn.take() {
            self.slot.put(conn, fate);
        }
    }
}

#[async_trait]
impl server::Session for Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read_piece().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let deadline: Option<Instant> = self.drain_timeout.map(|timeout| clock::now() + timeout);
        while self.read_piece().await?.is_some() {
            if deadline.is_some_and(|deadline| clock::now() >= deadline) {
                return Err(self.broken(ErrorType::ReadTimedout, Failure::TimedOut));
            }
        }
        Ok(())
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, end: bool) -> Result<()> {
        let is_interim = resp.status.is_informational();
        self.put_head(resp, end)?;
        if end {
            self.put_end(None);
        }
        // An ordinary head waits for its body: one write for both.
        if end || is_interim { self.flush().await } else { Ok(()) }
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, end: bool) -> Result<()> {
        self.write_response_header(Box::new(resp.clone()), end).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.put_body(&data).await?;
        if end {
            self.put_end(None);
        }
        self.flush().await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.put_end(Some(&trailers));
        self.flush().await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended = match task {
                HttpTask::Header(head, end) => {
                    self.put_head(head, end)?;
                    end
                }
                HttpTask::Body(data, end) | HttpTask::UpgradedBody(data, end) => {
                    if let Some(data) = data {
                        self.put_body(&data).await?;
                    }
                    end
                }
                HttpTask::Trailer(trailers) => {
                    self.put_end(trailers.as_deref());
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => {
                    // What the server said so far reaches the client; that it is cut, too.
                    self.flush().await?;
                    return Err(error);
                }
            };
            if ended {
                self.put_end(None);
            }
        }
        self.flush().await?;
        Ok(ended || (self.response.is_some() && self.is_response_done))
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        if let Some(timeout) = timeout {
            self.conn().pipe.write_silence = timeout;
        }
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.conn.as_ref().map(|conn| conn.pipe.write_silence)
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn request_summary(&self) -> String {
        let host = self.request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("-");
        format!("{} {}, Host: {host}", self.request.method, self.request.uri)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.response.as_deref()
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.is_abandoned |= !self.is_response_done;
        self.keep = false;
    }

    fn is_body_done(&mut self) -> bool {
        match self.tunnel {
            Tunnel::Closed => self.conn().body.is_done(),
            Tunnel::Open => false,
            Tunnel::Over => true,
        }
    }

    async fn finish(&mut self) -> Result<()> {
        self.put_end(None);
        self.flush().await
    }

    /// Chunked framing may have turned out to hold nothing: another attempt then has nothing to send, nor to wait for.
    fn is_body_empty(&mut self) -> bool {
        !self.has_body || (self.body_bytes_read == 0 && self.conn().body.is_done())
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let is_body_done = self.conn().body.is_done();
        match self.tunnel {
            Tunnel::Open if is_body_done && !no_body_expected => self.read_tunnel().await,
            _ if no_body_expected || is_body_done => self.wait_for_departure().await,
            _ => self.read_piece().await,
        }
    }

    fn body_bytes_sent(&self) -> usize {
        self.body_bytes_sent
    }

    fn body_bytes_read(&self) -> usize {
        self.body_bytes_read
    }

    fn digest(&self) -> Option<&Digest> {
        self.conn.as_ref().map(|conn| &conn.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.conn.as_mut().map(|conn| &mut conn.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.conn.as_ref().map(|conn| &conn.client)
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.conn.as_ref().map(|conn| &conn.local)
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        let mut raw = BytesMut::new();
        raw.extend_from_slice(self.request.method.as_str().as_bytes());
        raw.extend_from_slice(b" ");
        raw.extend_from_slice(self.request.raw_path());
        raw.extend_from_slice(b" HTTP/1.1\r\n");
        self.request.header_to_h1_wire(&mut raw);
        raw.extend_from_slice(b"\r\n");
        raw.freeze()
    }

    /// Called at the beginning of each attempt.
    fn enable_retry_buffering(&mut self) {
        self.asked_at = None;
        if self.retry.is_none() && self.has_body {
            self.retry = Some(BytesMut::new());
            // Known to be too large: nothing is copied.
            let is_large = |left: Option<u64>| left.is_some_and(|left| left > RETRY_BYTES_MAX as u64);
            self.is_retry_truncated = is_large(self.conn().body.left()) || self.body_bytes_read > 0;
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.is_retry_truncated
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        if self.is_retry_truncated {
            return None;
        }
        self.retry.as_ref().filter(|retry| !retry.is_empty()).map(|retry| Bytes::copy_from_slice(retry))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    // There are no messages beside the bodies; with servers of Pingora's own protocols `None` is the cheap way to say so.
    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }

    fn is_upgrade_req(&self) -> bool {
        self.is_upgrade()
    }

    fn was_upgraded(&self) -> bool {
        self.tunnel != Tunnel::Closed
    }
}
