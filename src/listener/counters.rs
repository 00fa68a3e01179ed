//! What the listening side counts: connections that are open, and refusals by reason.
//!
//! Plain atomics that whoever shows metrics reads; the request path only adds.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Why a connection or a request was refused before any router saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// More connections than `limits.connections`.
    TooManyConnections,
    /// The process has no file descriptor, or the system no memory, for another connection.
    OutOfDescriptors,
    /// A PROXY protocol header that is malformed, late or not allowed to come from this peer.
    ProxyProtocol,
    /// TLS that cannot be read, or a handshake that failed.
    Handshake,
    /// A handshake that took too long.
    HandshakeTimeout,
    /// TLS for a name that nobody serves.
    NoTlsRoute,
    /// A request head that is not HTTP, or ambiguous.
    BadHead,
    /// A request head beyond `maxHeaderBytes`, or with too many headers.
    HeadTooLarge,
    /// A request target that is too long.
    TargetTooLong,
    /// A transfer coding, method or expectation that we do not serve.
    NotImplemented,
    /// An HTTP version that we do not speak.
    Version,
    /// A request head that came too slowly.
    HeadTimeout,
    /// A request body whose framing is broken.
    BadBody,
    /// A request body that fell silent or stayed below the least rate.
    BodyTimeout,
    /// An answer that the client did not read.
    WriteTimeout,
    /// An HTTP/2 connection that sent too many malformed requests.
    H2Malformed,
    /// No server of a TCP service took the connection.
    NoTcpServer,
}

impl Refused {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 17] = [
        Self::TooManyConnections,
        Self::OutOfDescriptors,
        Self::ProxyProtocol,
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::NoTlsRoute,
        Self::BadHead,
        Self::HeadTooLarge,
        Self::TargetTooLong,
        Self::NotImplemented,
        Self::Version,
        Self::HeadTimeout,
        Self::BadBody,
        Self::BodyTimeout,
        Self::WriteTimeout,
        Self::H2Malformed,
        Self::NoTcpServer,
    ];

    /// As the label `reason` of `tidegate_refused_total` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::OutOfDescriptors => "out_of_descriptors",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NoTlsRoute => "no_tls_route",
            Self::BadHead => "bad_head",
            Self::HeadTooLarge => "head_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::NotImplemented => "not_implemented",
            Self::Version => "version",
            Self::HeadTimeout => "head_timeout",
            Self::BadBody => "bad_body",
            Self::BodyTimeout => "body_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::H2Malformed => "h2_malformed",
            Self::NoTcpServer => "no_tcp_server",
        }
    }
}

/// What all entrypoints together count.
#[derive(Debug, Default)]
pub struct Counters {
    refused: [AtomicU64; Refused::ALL.len()],
    connections: AtomicUsize,
    tcp_bytes_received: AtomicU64,
    tcp_bytes_sent: AtomicU64,
}

impl Counters {
    /// Counts a refusal.
    pub fn refuse(&self, reason: Refused) {
        if let Some(count) = self.refused.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often `reason` was the reason.
    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Connections that are open now, on all entrypoints.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bytes that clients of TCP routers sent.
    pub fn tcp_bytes_received(&self) -> u64 {
        self.tcp_bytes_received.load(Ordering::Relaxed)
    }

    /// Bytes that were sent to clients of TCP routers.
    pub fn tcp_bytes_sent(&self) -> u64 {
        self.tcp_bytes_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn count_tcp_bytes(&self, received: u64, sent: u64) {
        self.tcp_bytes_received.fetch_add(received, Ordering::Relaxed);
        self.tcp_bytes_sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Takes a place for one more connection unless `max` are taken.
    pub(super) fn enter(&self, max: usize) -> bool {
        let taken = self.connections.fetch_add(1, Ordering::Relaxed);
        if taken < max {
            return true;
        }
        self.leave();
        false
    }

    /// Gives the place back.
    pub(super) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let counters = Counters::default();
        for reason in Refused::ALL {
            counters.refuse(reason);
            assert_eq!(counters.refused(reason), 1, "{}", reason.as_str());
        }
        let mut names: Vec<_> = Refused::ALL.iter().map(|reason| reason.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refused::ALL.len());
    }

    #[test]
    fn no_connection_enters_beyond_the_limit() {
        let counters = Counters::default();
        assert!(counters.enter(1));
        assert!(!counters.enter(1));
        counters.leave();
        assert!(counters.enter(1));
        assert_eq!(counters.connections(), 1);
    }
}
