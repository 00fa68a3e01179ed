//! What one line of the access log can tell, and which of it is wanted.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderMap, HeaderName, REFERER, USER_AGENT};

use crate::config::install::{AccessLogFields, FieldMode};

/// What is known of a request when it is over.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// When its head was read.
    pub start: SystemTime,
    /// From then to its last byte.
    pub duration: Duration,
    /// [`super::access_log::AccessLog::begin`].
    pub count: u64,
    /// The client's address.
    pub client: SocketAddr,
    /// The whole `X-Forwarded-For` of a believed peer; stands for the client's address then.
    pub forwarded_for: Option<&'r str>,
    /// The user that basicAuth was told; empty when it asked and was told none.
    pub username: Option<&'r str>,
    /// The host asked for, as it came.
    pub host: Option<&'r str>,
    /// The method.
    pub method: &'r str,
    /// Path and query in normal form.
    pub target: &'r str,
    /// `HTTP/1.1`.
    pub protocol: &'r str,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Where it came in.
    pub entrypoint: &'r str,
    /// `name@provider` of the router.
    pub router: Option<&'r str>,
    /// `name@provider` of the service.
    pub service: Option<&'r str>,
    /// `http://host:port` of the server.
    pub server_url: Option<&'r str>,
    /// `host:port` of the server.
    pub server_address: Option<&'r str>,
    /// What the server answered, if it was asked.
    pub origin: Option<Origin<'r>>,
    /// The status the client got.
    pub status: u16,
    /// Bytes of the body the client got.
    pub response_bytes: u64,
    /// Attempts after the first.
    pub retries: u32,
    /// Set when it came by TLS.
    pub tls: Option<Tls<'r>>,
    /// Request headers.
    pub request_headers: &'r HeaderMap,
    /// Response headers as the client got them.
    pub response_headers: Option<&'r HeaderMap>,
}

/// A server's answer.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'r> {
    /// Its status.
    pub status: u16,
    /// Bytes of its body.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// Its headers.
    pub headers: Option<&'r HeaderMap>,
}

/// What TLS settled.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'r> {
    /// `1.2` or `1.3`.
    pub version: &'r str,
    /// As Go names it.
    pub cipher: &'r str,
    /// The subject of the client's certificate.
    pub client_subject: Option<&'r str>,
}

/// Fields that can be left out, in the order of their names' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    ClientAddr,
    ClientHost,
    ClientPort,
    ClientUsername,
    DownstreamContentSize,
    DownstreamStatus,
    Duration,
    GzipRatio,
    OriginContentSize,
    OriginDuration,
    OriginStatus,
    Overhead,
    RequestAddr,
    RequestContentSize,
    RequestCount,
    RequestHost,
    RequestMethod,
    RequestPath,
    RequestPort,
    RequestProtocol,
    RequestScheme,
    RetryAttempts,
    RouterName,
    ServiceAddr,
    ServiceName,
    ServiceURL,
    StartLocal,
    StartUTC,
    TLSCipher,
    TLSClientSubject,
    TLSVersion,
    EntryPointName,
}

/// Every field with its name.
pub(super) const FIELDS: &[(Field, &str)] = &[
    (Field::ClientAddr, "ClientAddr"),
    (Field::ClientHost, "ClientHost"),
    (Field::ClientPort, "ClientPort"),
    (Field::ClientUsername, "ClientUsername"),
    (Field::DownstreamContentSize, "DownstreamContentSize"),
    (Field::DownstreamStatus, "DownstreamStatus"),
    (Field::Duration, "Duration"),
    (Field::GzipRatio, "GzipRatio"),
    (Field::OriginContentSize, "OriginContentSize"),
    (Field::OriginDuration, "OriginDuration"),
    (Field::OriginStatus, "OriginStatus"),
    (Field::Overhead, "Overhead"),
    (Field::RequestAddr, "RequestAddr"),
    (Field::RequestContentSize, "RequestContentSize"),
    (Field::RequestCount, "RequestCount"),
    (Field::RequestHost, "RequestHost"),
    (Field::RequestMethod, "RequestMethod"),
    (Field::RequestPath, "RequestPath"),
    (Field::RequestPort, "RequestPort"),
    (Field::RequestProtocol, "RequestProtocol"),
    (Field::RequestScheme, "RequestScheme"),
    (Field::RetryAttempts, "RetryAttempts"),
    (Field::RouterName, "RouterName"),
    (Field::ServiceAddr, "ServiceAddr"),
    (Field::ServiceName, "ServiceName"),
    (Field::ServiceURL, "ServiceURL"),
    (Field::StartLocal, "StartLocal"),
    (Field::StartUTC, "StartUTC"),
    (Field::TLSCipher, "TLSCipher"),
    (Field::TLSClientSubject, "TLSClientSubject"),
    (Field::TLSVersion, "TLSVersion"),
    (Field::EntryPointName, "entryPointName"),
];

/// Which fields and headers a line has; settled once.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// One bit a field.
    fields: u32,
    /// Headers that are looked up, by name; the only ones when [`Self::other_headers`] is `Drop`.
    headers: Vec<WantedHeader>,
    /// What becomes of headers that are not named.
    other_headers: FieldMode,
    /// What becomes of the referer in common log format.
    pub(super) referer: FieldMode,
    /// And of the agent.
    pub(super) user_agent: FieldMode,
}

#[derive(Clone, Debug)]
struct WantedHeader {
    name: HeaderName,
    canonical: String,
    mode: FieldMode,
}

impl Selection {
    /// Settles which fields and headers are wanted.
    pub(super) fn new(settings: &AccessLogFields) -> Self {
        // A field is kept or not; `redact` of one that is no header falls back to the default, and as a default it keeps.
        let keeps = |name: &str| match settings.names.get(&name.to_ascii_lowercase()) {
            Some(FieldMode::Keep) => true,
            Some(FieldMode::Drop) => false,
            Some(FieldMode::Redact) | None => settings.default != FieldMode::Drop,
        };
        let fields = FIELDS.iter().filter(|(_, name)| keeps(name)).fold(0, |fields, (field, _)| fields | 1 << *field as u8);
        let mode_of = |name: &HeaderName| *settings.headers.get(name.as_str()).unwrap_or(&settings.headers_default);
        let named = settings.headers.iter().filter_map(|(name, mode)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| name != HOST)?;
            Some(WantedHeader { canonical: canonical(name.as_str()), name, mode: *mode })
        });
        let mut headers: Vec<_> = named.collect();
        headers.sort_by(|a, b| a.canonical.cmp(&b.canonical));
        let (referer, user_agent) = (mode_of(&REFERER), mode_of(&USER_AGENT));
        Self { fields, headers, other_headers: settings.headers_default, referer, user_agent }
    }

    pub(super) fn has(&self, field: Field) -> bool {
        self.fields & (1 << field as u8) != 0
    }

    /// Hands the names of the wanted headers of `map` to `visit`.
    pub(super) fn each_present<'h>(&'h self, map: &'h HeaderMap, mut visit: impl FnMut(&'h HeaderName)) {
        if self.other_headers == FieldMode::Drop {
            let wanted = self.headers.iter().filter(|header| header.mode != FieldMode::Drop);
            wanted.map(|header| &header.name).filter(|name| map.contains_key(*name)).for_each(visit);
        } else {
            map.keys().for_each(&mut visit);
        }
    }

    /// Hands the wanted headers of `map` to `visit`: the canonical name, and the value unless it is redacted; sorted.
    pub(super) fn each_header<'h>(&self, map: &'h HeaderMap, mut visit: impl FnMut(&str, Option<&HeaderName>)) {
        if self.other_headers == FieldMode::Drop {
            for header in self.headers.iter().filter(|header| header.mode != FieldMode::Drop) {
                if map.contains_key(&header.name) {
                    visit(&header.canonical, (header.mode == FieldMode::Keep).then_some(&header.name));
                }
            }
            return;
        }
        let mode_of = |name: &HeaderName| {
            self.headers.iter().find(|header| header.name == name).map_or(self.other_headers, |header| header.mode)
        };
        let present = map.keys().filter(|name| *name != HOST);
        let mut present: Vec<_> = present.map(|name: &'h HeaderName| (canonical(name.as_str()), name)).collect();
        present.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (canonical, name) in &present {
            match mode_of(name) {
                FieldMode::Keep => visit(canonical, Some(*name)),
                FieldMode::Redact => visit(canonical, None),
                FieldMode::Drop => {}
            }
        }
    }
}

/// Go's canonical spelling: `user-agent` is `User-Agent`.
fn canonical(name: &str) -> String {
    let mut begins = true;
    let canonical = name.chars().map(|c| {
        let c = if begins { c.to_ascii_uppercase() } else { c };
        begins = c == '-';
        c
    });
    canonical.collect()
}
