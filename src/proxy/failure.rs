//! What went wrong with an attempt, whether it may be tried elsewhere, and what the client is told if not. Pure.

use http::Method;

/// How an attempt at a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection was refused, unreachable or its TLS handshake failed: nothing was sent.
    Connect,
    /// Nobody answered the dial in time: nothing was sent.
    ConnectTimeout,
    /// The connection broke before the answer's head.
    Broken,
    /// A pooled connection turned out to be dead before the answer's head.
    Stale,
    /// No answer's head in time.
    Silent,
    /// The answer is not HTTP.
    NotHttp,
    /// A canary answered with a failure that stable can answer instead.
    Shielded,
    /// The answer broke off after its head.
    BodyBroken,
    /// It was the client who left.
    ClientGone,
    /// Something else, ours.
    Internal,
}

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
    /// Whether the request may be sent once more: after a failed dial any method, after that only what is harmless twice.
    pub fn may_repeat(self, repeat: Repeat) -> bool {
        if repeat.attempts >= repeat.attempts_max {
            return false;
        }
        match self {
            Self::Connect | Self::ConnectTimeout => repeat.is_replayable,
            Self::Broken | Self::Stale | Self::Shielded => repeat.is_idempotent && repeat.is_replayable,
            // The client has waited long enough, or has seen bytes, or is gone.
            Self::Silent | Self::NotHttp | Self::BodyBroken | Self::ClientGone | Self::Internal => false,
        }
    }

    /// The status that Traefik answers with; 499 is logged only, nobody is there to read it.
    pub fn status(self) -> u16 {
        match self {
            Self::Connect | Self::Broken | Self::Stale | Self::Shielded | Self::BodyBroken => 502,
            Self::ConnectTimeout | Self::Silent => 504,
            Self::NotHttp | Self::Internal => 500,
            Self::ClientGone => 499,
        }
    }

    /// Whether it tells something about the server.
    pub fn is_servers(self) -> bool {
        !matches!(self, Self::ClientGone | Self::Internal | Self::Stale)
    }
}

/// Whether sending the method twice is harmless (RFC 9110 section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

/// The statuses that count as a failure of the server: what a broken instance or the proxy before it answers.
pub fn is_failure(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Repeat = Repeat { is_idempotent: true, is_replayable: true, attempts: 1, attempts_max: 3 };
    const POST: Repeat = Repeat { is_idempotent: false, ..GET };

    #[test]
    fn a_failed_dial_is_repeated_for_any_method() {
        assert!(Failure::Connect.may_repeat(POST));
        assert!(Failure::ConnectTimeout.may_repeat(POST));
    }

    #[test]
    fn after_bytes_were_sent_only_the_harmless_is_repeated() {
        assert!(Failure::Broken.may_repeat(GET));
        assert!(!Failure::Broken.may_repeat(POST));
        assert!(!Failure::Broken.may_repeat(Repeat { is_replayable: false, ..GET }));
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
