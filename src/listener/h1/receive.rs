//! The request half of a session: the body, the bytes of a tunnel, the client's departure.
//!
//! Everything here may be given up at any await and asked again: the engine waits for several things at once.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pingora_error::{Error, ErrorType, Result};

use crate::clock;

use super::body::Piece;
use super::session::{Expectation, RETRY_BYTES_MAX, Session, Tunnel, down};
use crate::listener::counters::Refused;
use crate::listener::facts::{HEAD_LATE, HeadTimeout};
use crate::listener::pipe::Failure;

/// How long a client that expects `100 Continue` waits for the server's word before we say it: what Traefik waits for its server.
pub const CONTINUE_AFTER: Duration = Duration::from_secs(1);
/// A body with so much still to come is read past the input buffer.
const READ_PAST_BYTES_MIN: u64 = 4096;

impl Session {
    /// The next piece of the request's body, whatever its framing; `None` at its end.
    pub(super) async fn read_piece(&mut self) -> Result<Option<Bytes>> {
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

    pub(super) fn broken(&mut self, kind: ErrorType, cause: Failure) -> Box<Error> {
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

    /// Waits until the client leaves, or until the head of its answer is overdue. What it sends meanwhile belongs to its next
    /// request and waits in the input.
    pub(super) async fn wait_for_departure(&mut self) -> Result<Option<Bytes>> {
        let due = self.head_due();
        let pipe = &mut self.conn().pipe;
        let filled = if pipe.input.is_empty() { pipe.fill(due).await } else { Ok(pipe.input.len()) };
        if matches!(filled, Ok(0) | Err(Failure::Io(_))) {
            self.is_request_broken = true;
            let error = Error::explain(ErrorType::ConnectionClosed, "the client left before its answer was complete");
            return Err(error.into_down());
        }
        // Without a limit this waits for ever, or until the engine has something else to do.
        _ = self.conn().pipe.timer.race(due, std::future::pending::<()>()).await;
        Err(Error::explain(HEAD_LATE, "waiting for the head of an answer").into_up())
    }

    /// When the head of the answer must be there. The server has had the whole request since this was first asked.
    fn head_due(&mut self) -> Option<Instant> {
        if self.response.is_some() {
            return None;
        }
        let HeadTimeout(timeout) = *self.request.extensions.get()?;
        self.asked_at.get_or_insert_with(clock::now).checked_add(timeout)
    }

    /// The client's next bytes after an upgrade; `None` when it has ended.
    pub(super) async fn read_tunnel(&mut self) -> Result<Option<Bytes>> {
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
}
