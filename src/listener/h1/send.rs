//! The response half of a session: heads, bodies, trailers.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::answer::{self, Ends};
use super::conn::DISCARD_BYTES_MAX;
use super::session::{Expectation, Session, Tunnel, down};
use crate::listener::counters::Refused;
use crate::listener::pipe::Failure;

/// A piece of body at least so large is written where it lies.
const SHARED_BYTES_MIN: usize = 4096;

impl Session {
    /// Puts a head into the output.
    pub(super) fn put_head(&mut self, head: Box<ResponseHeader>, is_whole: bool) -> Result<()> {
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

    pub(super) fn is_upgrade(&self) -> bool {
        self.request.version == Version::HTTP_11 && self.request.headers.contains_key(header::UPGRADE)
    }

    /// Writes or queues a piece of the answer's body.
    pub(super) async fn put_body(&mut self, data: &Bytes) -> Result<()> {
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
    pub(super) fn put_end(&mut self, trailers: Option<&HeaderMap>) {
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

    pub(super) async fn flush(&mut self) -> Result<()> {
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
