//! One HTTP/1 connection between and during its requests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header;
use pingora_core::protocols::Digest;
use pingora_core::protocols::l4::socket::SocketAddr;
use tokio::sync::watch;

use crate::clock;
use crate::config::install::Transport as Times;
use crate::routing::entrypoint::Connection;

use super::answer::{self, Asked};
use super::body::{Body, Framing, Piece};
use super::head::{EndFinder, Head, parse};
use super::refusal::Refusal;
use crate::listener::counters::Counters;
use crate::listener::drain::Phase;
use crate::listener::facts;
use crate::listener::idle::Woken;
use crate::listener::pipe::{Failure, Pipe};

/// How long a head may take where `readTimeout` sets no limit.
const HEAD_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How much of a body that nobody wanted is read so that the connection can take another request, as Go's server does.
pub(super) const DISCARD_BYTES_MAX: u64 = 256 * 1024;
/// How long that may take.
const DISCARD_MAX: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Conn {
    pub pipe: Pipe,
    pub facts: Arc<Connection>,
    /// Carries `facts` to the engine's filters.
    pub digest: Digest,
    pub client: SocketAddr,
    pub local: SocketAddr,
    pub drain: watch::Receiver<Phase>,
    pub counters: Arc<Counters>,
    pub opened: Instant,
    /// Heads that were read.
    pub requests: u64,
    /// The body of the current request.
    pub body: Body,
}

/// What the client sent next.
#[expect(clippy::large_enum_variant, reason = "one a request, moved once; a box would cost more")]
pub(super) enum Next {
    Request(Head),
    Refused(Refusal),
    /// Nothing more, or nothing in time.
    Over,
}

impl Conn {
    pub(super) fn new(pipe: Pipe, facts: Arc<Connection>, drain: watch::Receiver<Phase>, counters: Arc<Counters>) -> Self {
        Self {
            pipe,
            digest: facts::digest(&facts, None),
            client: SocketAddr::Inet(facts.client),
            local: SocketAddr::Inet(facts.local),
            facts,
            drain,
            counters,
            opened: clock::now(),
            requests: 0,
            body: Body::new(Framing::Length(0)),
        }
    }

    pub(super) fn times(&self) -> &Times {
        &self.facts.entrypoint.settings.transport
    }

    /// Whether the connection may take yet another request after the current one.
    pub(super) fn may_go_on(&self) -> bool {
        let times = self.times();
        let requests_left = times.keep_alive_requests_max == 0 || self.requests < times.keep_alive_requests_max;
        let time_left =
            times.keep_alive_time_max.is_zero() || clock::now().duration_since(self.opened) < times.keep_alive_time_max;
        requests_left && time_left && *self.drain.borrow() != Phase::Draining
    }

    /// Waits for the next head, parked until its first byte.
    pub(super) async fn next(&mut self) -> Next {
        if self.pipe.input.is_empty() {
            let times = self.times();
            let limit = if self.requests == 0 { times.read_timeout } else { times.idle_timeout };
            if self.pipe.park(limit, &mut self.drain).await == Woken::Over {
                return Next::Over;
            }
        }
        match self.read_head().await {
            Ok(Some(head)) => match parse(&head) {
                Ok(head) => {
                    self.requests += 1;
                    self.body = Body::new(head.framing);
                    Next::Request(head)
                }
                Err(refusal) => Next::Refused(refusal),
            },
            Ok(None) => Next::Over,
            Err(refusal) => Next::Refused(refusal),
        }
    }

    async fn read_head(&mut self) -> Result<Option<Bytes>, Refusal> {
        let bytes_max = self.facts.entrypoint.settings.head_bytes_max;
        let timeout = Some(self.times().read_timeout).filter(|timeout| !timeout.is_zero()).unwrap_or(HEAD_TIMEOUT_MAX);
        let mut deadline = None;
        let mut finder = EndFinder::default();
        let mut skipped = false;
        loop {
            match finder.find(&self.pipe.input, bytes_max)? {
                // RFC 9112 section 2.2: one empty line in front of a request is forgiven.
                Some(2) if !skipped => {
                    skipped = true;
                    self.pipe.input.advance(2);
                    finder = EndFinder::default();
                    continue;
                }
                Some(end) => {
                    // The exact bytes: values are slices of them and must not keep a whole read buffer alive.
                    let head = Bytes::copy_from_slice(self.pipe.input.get(..end).unwrap_or_default());
                    self.pipe.input.advance(end);
                    return Ok(Some(head));
                }
                None => {}
            }
            let deadline = *deadline.get_or_insert_with(|| clock::now() + timeout);
            match self.pipe.fill(Some(deadline)).await {
                Ok(0) | Err(Failure::Io(_)) => return Ok(None),
                Ok(_) => {}
                Err(Failure::TimedOut) if self.pipe.input.is_empty() => return Ok(None),
                Err(Failure::TimedOut) => return Err(Refusal::HeadTimeout),
            }
        }
    }

    /// Answers a request that cannot be served, and ends the connection.
    pub(super) async fn refuse(&mut self, refusal: Refusal) {
        self.counters.refuse(refusal.reason());
        tracing::debug!(client = %self.facts.client, reason = refusal.text(), status = refusal.status().as_u16(), "refused a request head");
        refusal.write_to(&mut self.pipe.output);
        self.pipe.close().await;
    }

    /// Answers `OPTIONS *` with an empty 200, as Traefik does. Says whether the connection goes on.
    pub(super) async fn answer_server_wide(&mut self, is_11: bool, keep_alive: bool) -> bool {
        let asked = Asked { is_11, is_head: false };
        let keep = keep_alive && self.may_go_on() && self.body.is_done();
        let Ok(mut answer) = pingora_http::ResponseHeader::build(200, Some(1)) else { return false };
        if answer.insert_header(header::CONTENT_LENGTH, "0").is_err() {
            return false;
        }
        let settled = answer::write_head(&mut self.pipe.output, &answer, asked, keep, true);
        self.pipe.flush().await.is_ok() && settled.keep
    }

    /// Reads over what is left of a body that nobody wanted. Says whether its end was reached within the limits.
    pub(super) async fn discard_body(&mut self) -> bool {
        let deadline = Some(clock::now() + DISCARD_MAX);
        let mut left = DISCARD_BYTES_MAX;
        loop {
            match self.body.read(&mut self.pipe.input) {
                Ok(Piece::End) => return true,
                Ok(Piece::Data(data)) => match left.checked_sub(data.len() as u64) {
                    Some(rest) => left = rest,
                    None => return false,
                },
                Ok(Piece::More) => {
                    if !matches!(self.pipe.fill(deadline).await, Ok(1..)) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }
}

/// What becomes of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for the next request.
    Keep,
    /// It ends after an orderly answer.
    Close,
    /// It ends in the middle of an answer, and the client must notice.
    Abort,
    /// As `Abort`, and only a reset tells the client so.
    Reset,
}

/// Where a session leaves its connection when it is dropped: the engine gives nothing back for sessions of our own.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<(Box<Conn>, Fate)>>);

impl Slot {
    pub(super) fn put(&self, conn: Box<Conn>, fate: Fate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((conn, fate));
    }

    pub(super) fn take(&self) -> Option<(Box<Conn>, Fate)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
