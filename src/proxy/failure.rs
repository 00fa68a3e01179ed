//! What went wrong with an attempt, whether it may be tried elsewhere, and what the client is told if not. Pure.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use pingora_error::{Error, ErrorType};

/// How an attempt at a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there, which is known at once: nothing was sent.
    Refused,
    /// The server is unreachable, or its TLS handshake failed: nothing was sent.
    Connect,
    /// It is not the one that it should be, by its certificate: nothing was sent.
    Distrusted,
    /// Nobody answered the dial in time: nothing was sent.
    ConnectTimeout,
    /// The connection broke before the answer's head.
    Broken,
    /// A pooled connection turned out to be dead before the answer's head.
    Stale,
    /// The server says that it has not looked at the request (RFC 9113 section 8.7), and asks for another connection.
    Unprocessed,
    /// No answer's head in time.
    Silent,
    /// The answer is not HTTP.
    NotHttp,
    /// A canary answered with a failure that stable can answer instead.
    Shielded,
    /// The answer broke off after its head.
    BodyBroken,
    /// The answer paused for longer than the engine waits for any byte, and was cut by us.
    Paused,
    /// It was the client who left.
    ClientGone,
    /// Something else, ours.
    Internal,
}

/// A connection that was closed while nobody used it is found out within a round trip. A server that ends it later than this has
/// most likely seen the request.
const STALE_AGE_MAX: Duration = Duration::from_millis(200);

/// What decides whether a failed attempt may be repeated on another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// The method may be sent twice (RFC 9110 section 9.2.2).
    pub is_idempotent: bool,
    /// The whole body is at hand, or there is none.
    pub is_replayable: bool,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts allowed in all.
    pub attempts_max: u32,
}

impl Failure {
    /// The same, seen at the age of its attempt: a pooled connection that ends late, or with a request that nobody repeats, was
    /// broken by its server as far as anybody can tell, and somebody must hear of it.
    pub fn judged(self, age: Duration, is_repeatable: bool) -> Self {
        let is_believed = is_repeatable && age <= STALE_AGE_MAX;
        if self == Self::Stale && !is_believed { Self::Broken } else { self }
    }

    /// Whether the request may be sent once more: any method if nobody has looked at it, after that only what is harmless twice.
    pub fn may_repeat(self, repeat: Repeat) -> bool {
        if repeat.attempts >= repeat.attempts_max {
            return false;
        }
        match self {
            Self::Refused | Self::Connect | Self::Distrusted | Self::ConnectTimeout | Self::Unprocessed => repeat.is_replayable,
            Self::Broken | Self::Stale | Self::Shielded => repeat.is_idempotent && repeat.is_replayable,
            // The client has waited long enough, or has seen bytes, or is gone.
            Self::Silent | Self::NotHttp | Self::BodyBroken | Self::Paused | Self::ClientGone | Self::Internal => false,
        }
    }

    /// The status that Traefik answers with; 499 is logged only, nobody is there to read it.
    pub fn status(self) -> u16 {
        match self {
            Self::Refused
            | Self::Connect
            | Self::Broken
            | Self::Stale
            | Self::Unprocessed
            | Self::Shielded
            | Self::BodyBroken => 502,
            Self::ConnectTimeout | Self::Silent | Self::Paused => 504,
            Self::NotHttp | Self::Distrusted | Self::Internal => 500,
            Self::ClientGone => 499,
        }
    }
}

/// Whether a dial failed because the server's certificate is not believed. The engine tells so in words only.
pub fn is_distrust(error: &Error) -> bool {
    *error.etype() == ErrorType::TLSHandshakeFailure
        && error.context.as_ref().is_some_and(|context| context.as_str().contains("invalid peer certificate"))
}

/// Whether sending the method twice is harmless (RFC 9110 section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

/// The statuses that count as a failure of the server: what a broken instance or the proxy before it answers.
pub fn is_failure(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

/// Whether an answer goes on for as long as both sides like, so that the end of its body says nothing about the server.
pub fn is_stream(status: u16, headers: &HeaderMap) -> bool {
    let is_of_type = |name: &str| {
        let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).and_then(|value| value.get(..name.len()));
        value.is_some_and(|value| value.eq_ignore_ascii_case(name.as_bytes()))
    };
    status == 101 || is_of_type("text/event-stream") || is_of_type("application/grpc")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Repeat = Repeat { is_idempotent: true, is_replayable: true, attempts: 1, attempts_max: 3 };
    const POST: Repeat = Repeat { is_idempotent: false, ..GET };

    #[test]
    fn a_failed_dial_is_repeated_for_any_method() {
        assert!(Failure::Refused.may_repeat(POST));
        assert!(Failure::Connect.may_repeat(POST));
        assert!(Failure::ConnectTimeout.may_repeat(POST));
    }

    #[test]
    fn what_a_server_has_not_looked_at_is_repeated_for_any_method() {
        assert!(Failure::Unprocessed.may_repeat(POST));
        assert!(!Failure::Unprocessed.may_repeat(Repeat { is_replayable: false, ..POST }));
    }

    #[test]
    fn a_stream_is_known_by_its_head() {
        let of_type = |text: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]);
        assert!(is_stream(101, &HeaderMap::new()));
        assert!(is_stream(200, &of_type("Text/Event-Stream; charset=utf-8")));
        assert!(is_stream(200, &of_type("application/grpc+proto")));
        assert!(!is_stream(200, &of_type("text/html")));
        assert!(!is_stream(200, &HeaderMap::new()));
    }

    #[test]
    fn after_bytes_were_sent_only_the_harmless_is_repeated() {
        assert!(Failure::Broken.may_repeat(GET));
        assert!(!Failure::Broken.may_repeat(POST));
        assert!(!Failure::Broken.may_repeat(Repeat { is_replayable: false, ..GET }));
    }

    #[test]
    fn a_server_that_crashes_on_a_request_is_not_mistaken_for_a_dead_pooled_connection() {
        let (soon, late) = (Duration::from_millis(5), Duration::from_millis(500));
        assert_eq!(Failure::Stale.judged(soon, true), Failure::Stale);
        assert_eq!(Failure::Stale.judged(late, true), Failure::Broken);
        // A POST: the client is told 502, so it was a failure whatever it was.
        assert_eq!(Failure::Stale.judged(soon, false), Failure::Broken);
        assert_eq!(Failure::Unprocessed.judged(late, false), Failure::Unprocessed);
    }

    #[test]
    fn attempts_are_limited() {
        assert!(!Failure::Connect.may_repeat(Repeat { attempts: 3, ..GET }));
    }

    #[test]
    fn statuses_are_traefiks() {
        let seen = [Failure::Connect, Failure::Silent, Failure::NotHttp, Failure::ClientGone].map(Failure::status);
        assert_eq!(seen, [502, 504, 500, 499]);
    }
}
