//! One request of an HTTP/1 connection, as the engine sees it.
//!
//! It is made with the head already read. When the engine drops it, the connection goes back to where it came from, together with
//! what is to become of it: kept only when both messages are complete.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::{CustomMessageWrite, server};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::clock;

use super::answer::{self, Asked, Ends};
use super::body::Piece;
use super::conn::{Conn, DISCARD_BYTES_MAX, Fate, Slot};
use super::head::Head;
use super::pace::Pace;
use crate::listener::counters::Refused;
use crate::listener::pipe::Failure;

/// How much of a request body is remembered, to be sent again to another server.
pub const RETRY_BYTES_MAX: usize = 64 * 1024;
/// How long a client that expects `100 Continue` waits for the server's word before we say it: what Traefik waits for its server.
pub const CONTINUE_AFTER: Duration = Duration::from_secs(1);
/// A piece of body at least so large is written where it lies.
const SHARED_BYTES_MIN: usize = 4096;
/// A body with so much still to come is read past the input buffer.
const READ_PAST_BYTES_MIN: u64 = 4096;

/// A request; see the module.
pub(super) struct Session {
    /// `None` only while it is dropped.
    conn: Option<Box<Conn>>,
    slot: Arc<Slot>,
    request: RequestHeader,
    asked: Asked,
    /// The client allows another request after this one.
    keep_alive: bool,
    has_body: bool,
    expectation: Expectation,
    pace: Pace,
    /// The framing of the request's body broke, or the client left.
    is_request_broken: bool,
    response: Option<Box<ResponseHeader>>,
    ends: Ends,
    is_response_done: bool,
    /// The connection takes another request after this answer.
    keep: bool,
    /// The answer was given up.
    is_abandoned: bool,
    tunnel: Tunnel,
    retry: Option<BytesMut>,
    is_retry_truncated: bool,
    body_bytes_read: usize,
    body_bytes_sent: usize,
    read_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

/// Whether the client waits for `100 Continue`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expectation {
    None,
    Waiting,
    Answered,
}

/// The connection as raw bytes after 101.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tunnel {
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
            drain_timeout: None,
            conn: Some(conn),
        }
    }

    #[expect(clippy::expect_used, reason = "the connection leaves in `drop` and nowhere else")]
    fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("a session has its connection until it is dropped")
    }

    /// The next piece of the request's body, whatever its framing; `None` at its end.
    async fn read_piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            let conn = self.conn();
            match conn.body.read(&mut conn.pipe.input) {
                Ok(Piece::Data(data)) => return Ok(Some(self.take(data))),
                Ok(Piece::End) => return Ok(None),
                Ok(Piece::More) => {}
                Err(invalid) => {
                    conn.counters.refuse(Refused::BadBody);
                    self.is_request_broken = true;
                    return Err(down(ErrorType::HTTPStatus(400), "while reading the request body", invalid));
                }
            }
            if let Some(data) = self.receive().await? {
                return Ok(Some(self.take(data)));
            }
        }
    }

    /// Waits for more of the body: into the input, or a large piece past it.
    async fn receive(&mut self) -> Result<Option<Bytes>> {
        loop {
            let now = clock::now();
            let silence = self.read_timeout.unwrap_or_default();
            let silence_ends = self.pace.deadline(now, silence);
            let deadline = match self.expectation {
                Expectation::Waiting => Some(self.pace.waiting_since(now) + CONTINUE_AFTER),
                _ => silence_ends,
            };
            let conn = self.conn();
            let plain = conn.body.plain_bytes();
            let got = if plain >= READ_PAST_BYTES_MIN && conn.pipe.input.is_empty() {
                conn.pipe.read_past(plain, deadline).await.map(|piece| (piece.len(), Some(piece)))
            } else {
                conn.pipe.fill(deadline).await.map(|count| (count, None))
            };
            match got {
                Ok((0, _)) => {
                    return Err(self.broken(ErrorType::ConnectionClosed, Failure::Io(std::io::ErrorKind::UnexpectedEof.into())));
                }
                Ok((count, piece)) => {
                    self.pace.arrived(clock::now(), count);
                    if let Some(piece) = &piece {
                        self.conn().body.took(piece.len() as u64);
                    }
                    return Ok(piece);
                }
                Err(Failure::TimedOut) if self.expectation == Expectation::Waiting => self.say_continue().await?,
                Err(Failure::TimedOut) => {
                    self.conn().counters.refuse(Refused::BodyTimeout);
                    return Err(self.broken(ErrorType::HTTPStatus(408), Failure::TimedOut));
                }
                Err(failure) => return Err(self.broken(ErrorType::ReadError, failure)),
            }
        }
    }

    fn broken(&mut self, kind: ErrorType, cause: Failure) -> Box<Error> {
        self.is_request_broken = true;
        down(kind, "while reading the request body", cause)
    }

    /// Counts a piece and remembers it for another try.
    fn take(&mut self, data: Bytes) -> Bytes {
        self.expectation = Expectation::None;
        self.body_bytes_read += data.len();
        if let Some(retry) = self.retry.as_mut().filter(|_| !self.is_retry_truncated) {
            if retry.len() + data.len() > RETRY_BYTES_MAX {
                self.is_retry_truncated = true;
                *retry = BytesMut::new();
            } else {
                retry.extend_from_slice(&data);
            }
        }
        data
    }

    async fn say_continue(&mut self) -> Result<()> {
        self.expectation = Expectation::Answered;
        self.conn().pipe.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        self.flush().await
    }

    /// Waits until the client leaves. What it sends meanwhile belongs to its next request and waits in the input.
    async fn wait_for_departure(&mut self) -> Result<Option<Bytes>> {
        let conn = self.conn();
        if conn.pipe.input.is_empty() {
            match conn.pipe.fill(None).await {
                Ok(0) | Err(_) => {
                    self.is_request_broken = true;
                    let error = Error::explain(ErrorType::ConnectionClosed, "the client left before its answer was complete");
                    return Err(error.into_down());
                }
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    /// The client's next bytes after an upgrade; `None` when it has ended.
    async fn read_tunnel(&mut self) -> Result<Option<Bytes>> {
        let conn = self.conn();
        if conn.pipe.input.is_empty() && self.tunnel == Tunnel::Open {
            let conn = self.conn();
            if !matches!(conn.pipe.fill(None).await, Ok(1..)) {
                self.tunnel = Tunnel::Over;
            }
        }
        if self.tunnel == Tunnel::Over {
            return Ok(None);
        }
        let data = self.conn().pipe.input.split().freeze();
        self.body_bytes_read += data.len();
        Ok(Some(data))
    }

    /// Puts a head into the output.
    fn put_head(&mut self, head: Box<ResponseHeader>, is_whole: bool) -> Result<()> {
        if self.response.is_some() {
            tracing::debug!(status = head.status.as_u16(), "ignored a second answer to one request");
            return Ok(());
        }
        let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if head.status.is_informational() && !is_switch {
            self.put_interim(&head);
            return Ok(());
        }
        if is_switch && !self.is_upgrade() {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 to a request that asked for no upgrade"));
        }
        let keep = self.keep_alive && self.may_keep();
        let asked = self.asked;
        let settled = answer::write_head(&mut self.conn().pipe.output, &head, asked, keep, is_whole);
        self.ends = settled.ends;
        self.keep = settled.keep;
        self.is_response_done = matches!(settled.ends, Ends::Empty | Ends::Length(0));
        if is_switch {
            self.tunnel = Tunnel::Open;
        }
        self.response = Some(head);
        Ok(())
    }

    fn put_interim(&mut self, head: &ResponseHeader) {
        if head.status == StatusCode::CONTINUE {
            if self.expectation != Expectation::Waiting {
                return;
            }
            self.expectation = Expectation::Answered;
        }
        // RFC 9110 section 15.2: never to a 1.0 client.
        if self.asked.is_11 {
            answer::write_interim(&mut self.conn().pipe.output, head);
        }
    }

    /// Whether what the client may still send of its body leaves room for another request.
    fn may_keep(&mut self) -> bool {
        let is_short = |left: Option<u64>| left.is_some_and(|left| left <= DISCARD_BYTES_MAX);
        let will_end = match self.expectation {
            // It may send the body or not: nobody can tell where its next request begins.
            Expectation::Waiting => false,
            _ => is_short(self.conn().body.left()),
        };
        !self.is_request_broken && will_end && self.conn().may_go_on()
    }

    fn is_upgrade(&self) -> bool {
        self.request.version == Version::HTTP_11 && self.request.headers.contains_key(header::UPGRADE)
    }

    /// Writes or queues a piece of the answer's body.
    async fn put_body(&mut self, data: &Bytes) -> Result<()> {
        let ends = self.ends;
        let body = match &mut self.ends {
            _ if self.response.is_none() || self.is_response_done => return Ok(()),
            Ends::Empty => return Ok(()),
            Ends::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= count as u64;
                self.is_response_done = *left == 0;
                data.get(..count).unwrap_or_default()
            }
            Ends::Chunked | Ends::Close => data.as_ref(),
        };
        if body.is_empty() {
            return Ok(());
        }
        self.body_bytes_sent += body.len();
        let tail: &[u8] = if ends == Ends::Chunked { b"\r\n" } else { b"" };
        let conn = self.conn.as_mut().map(|conn| &mut conn.pipe);
        let Some(pipe) = conn else { return Ok(()) };
        if ends == Ends::Chunked {
            push_hex(&mut pipe.output, body.len());
        }
        if body.len() >= SHARED_BYTES_MIN {
            let sent = pipe.send(body, tail).await;
            return self.written(sent);
        }
        pipe.output.extend_from_slice(body);
        pipe.output.extend_from_slice(tail);
        Ok(())
    }

    /// Ends the answer, as far as its framing allows it.
    fn put_end(&mut self, trailers: Option<&HeaderMap>) {
        if self.response.is_none() || self.is_response_done {
            return;
        }
        match self.ends {
            Ends::Chunked => {
                let output = &mut self.conn().pipe.output;
                output.extend_from_slice(b"0\r\n");
                put_trailers(output, trailers);
                output.extend_from_slice(b"\r\n");
                self.is_response_done = true;
            }
            Ends::Close => self.is_response_done = true,
            Ends::Empty | Ends::Length(_) => {}
        }
        if self.tunnel == Tunnel::Open {
            self.tunnel = Tunnel::Over;
        }
    }

    async fn flush(&mut self) -> Result<()> {
        let sent = self.conn().pipe.flush().await;
        self.written(sent)
    }

    fn written(&mut self, sent: std::result::Result<(), Failure>) -> Result<()> {
        let Err(failure) = sent else { return Ok(()) };
        self.is_abandoned = true;
        let kind = match failure {
            Failure::TimedOut => {
                self.conn().counters.refuse(Refused::WriteTimeout);
                ErrorType::WriteTimedout
            }
            Failure::Io(_) => ErrorType::WriteError,
        };
        Err(down(kind, "while writing the answer", failure))
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

/// A chunk's size line.
fn push_hex(output: &mut Vec<u8>, length: usize) {
    output.extend_from_slice(format!("{length:x}\r\n").as_bytes());
}

/// RFC 9110 section 6.5.1: nothing that frames, routes or authenticates.
fn put_trailers(output: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    const NEVER: [http::HeaderName; 10] = [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::TRAILER,
        header::TE,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
    ];
    for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| !NEVER.contains(name)) {
        output.extend_from_slice(name.as_str().as_bytes());
        output.extend_from_slice(b": ");
        output.extend_from_slice(value.as_bytes());
        output.extend_from_slice(b"\r\n");
    }
}

fn down(kind: ErrorType, context: &'static str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Box<Error> {
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

    fn is_body_empty(&mut self) -> bool {
        !self.has_body
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

    fn enable_retry_buffering(&mut self) {
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
