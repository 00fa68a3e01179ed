//! What we know of one request, from its first phase to its last, and what is settled when it ends.
//!
//! Health and evidence hear of it from its [`Attempt`], however it ends. Metrics and access log hear of it in
//! [`Context::close`], which the engine calls last: a request that panics, or is cut off when a drain is over, has no line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use pingora::proxy::Session;
use pingora_error::{Error, ErrorType};
use pingora_http::ResponseHeader;

use super::attempt::Attempt;
use super::failure::Failure;
use super::shared::Shared;
use crate::clock;
use crate::middleware::{BodyTransform, Memo, ResponseHead, forwarded};
use crate::observe::access_record::{Origin, Record, Tls};
use crate::observe::series::{Finished, Protocol};
use crate::routing::entrypoint::Connection;
use crate::routing::server::Server;
use crate::routing::service::Service;
use crate::routing::snapshot::{Route, Snapshot, Target};

/// One request.
#[derive(Debug)]
pub struct Context {
    /// When its head was complete.
    pub started: Instant,
    /// The same by the wall clock, for the log.
    pub started_wall: SystemTime,
    /// Where it came in.
    pub connection: Option<Arc<Connection>>,
    /// What it works with.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The route it took.
    pub route: Option<Arc<Route>>,
    /// The service at the end of the route.
    pub service: Option<Arc<Service>>,
    /// As the client sent it, for the log; middlewares may rewrite the head.
    pub uri: Uri,
    /// The method, likewise.
    pub method: Method,
    /// The host asked for, port included; `None` before it is known.
    pub host: Option<HeaderValue>,
    /// The `X-Forwarded-For` that a believed peer sent, for the log.
    pub forwarded_for: Option<HeaderValue>,
    /// The number of the request in the access log.
    pub count: u64,
    /// Whether sending it twice is harmless.
    pub is_idempotent: bool,
    /// The attempt under way.
    pub attempt: Option<Attempt>,
    /// Attempts begun.
    pub attempts: u32,
    /// Those among them that only met a pooled connection that was dead already.
    pub stale: u32,
    /// Attempts among them that ended at a server where nobody listens.
    pub refused: u32,
    /// The address that the attempt under way is dialled at.
    pub address: Option<SocketAddr>,
    /// Addresses of names that could not be dialled.
    pub dead_addresses: Vec<SocketAddr>,
    /// Servers that this request is not sent to again.
    pub tried: Vec<Arc<Server>>,
    /// What the request left behind in the middlewares of its route.
    pub memo: Option<Memo>,
    /// What changes the body of the answer.
    pub transform: Option<Box<BodyTransform>>,
    /// Whether it asks for a challenge of a certificate's.
    pub is_challenge: bool,
    /// What the log says of who answered.
    pub seen: Seen,
}

/// What was seen on the way, for the log and the metrics.
#[derive(Debug, Default)]
pub struct Seen {
    /// The user that basicAuth let in.
    pub user: Option<String>,
    /// The status that the client got.
    pub status: u16,
    /// The status that the server answered; 0 when none did.
    pub origin_status: u16,
    /// The server's time to the end of its answer.
    pub origin_duration: Duration,
    /// Of the headers that the server answered, those that are logged.
    pub origin_headers: HeaderMap,
    /// The server that answered.
    pub server: Option<Arc<Server>>,
    /// Bytes of the server's body.
    pub origin_bytes: u64,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body, as sent.
    pub response_bytes: u64,
    /// Bytes of an answer of ours that were not sent because the request was a HEAD: Traefik logs them as sent.
    pub withheld_bytes: u64,
    /// How it failed, if it did.
    pub failure: Option<Failure>,
}

impl Context {
    /// A request whose head was complete at `now`.
    pub fn new(now: Instant, wall: SystemTime) -> Self {
        Self {
            started: now,
            started_wall: wall,
            connection: None,
            snapshot: None,
            route: None,
            service: None,
            uri: Uri::default(),
            method: Method::GET,
            host: None,
            forwarded_for: None,
            count: 0,
            is_idempotent: false,
            attempt: None,
            attempts: 0,
            stale: 0,
            refused: 0,
            address: None,
            dead_addresses: Vec::new(),
            tried: Vec::new(),
            memo: None,
            transform: None,
            is_challenge: false,
            seen: Seen::default(),
        }
    }
}

impl Context {
    /// Leads the head of a server's answer back through the middlewares and takes out what spoke of its hop to us.
    pub fn filter_response(&mut self, head: &mut ResponseHeader, is_head_request: bool) {
        let chain = self.route.as_ref().map(|route| &route.chain).filter(|chain| !chain.is_empty());
        if chain.is_none() && !forwarded::speaks_of_hop(&head.headers) {
            return;
        }
        let (empty, ()) = http::Response::new(()).into_parts();
        let mut parts = http::response::Parts::from(std::mem::replace(head, ResponseHeader::from(empty)));
        forwarded::receive_answer(&mut parts.headers, parts.status);
        if let (Some(chain), Some(memo)) = (chain, &self.memo) {
            let mut view = ResponseHead { status: parts.status, headers: &mut parts.headers, is_bodiless: is_head_request };
            self.transform = chain.on_response(memo, &mut view).map(Box::new);
        }
        *head = ResponseHeader::from(parts);
    }

    /// What the client gets of a piece of a server's body.
    pub fn transform_body(&mut self, piece: Option<Bytes>, is_end: bool, now: Instant) -> Result<Option<Bytes>, Box<Error>> {
        match &mut self.transform {
            None => Ok(piece),
            Some(transform) => transform
                .chunk(piece, is_end, now)
                .map_err(|error| Error::because(ErrorType::InternalError, "compressing", error)),
        }
    }

    /// An attempt begins. What was measured of an earlier one is over.
    pub fn begin(&mut self, attempt: Attempt, address: SocketAddr) {
        self.attempts += 1;
        self.address = Some(address);
        self.seen.server = Some(Arc::clone(attempt.server()));
        self.seen.origin_duration = Duration::ZERO;
        self.attempt = Some(attempt);
    }

    /// The attempt under way is over, if there is one. Its answer may have ended with its head, which nobody is told.
    fn settle_attempt(&mut self, now: Instant) {
        if let Some(attempt) = self.attempt.take()
            && self.seen.origin_duration.is_zero()
        {
            self.seen.origin_duration = attempt.age(now);
        }
    }

    /// A piece of a server's answer came, the last one if it has ended.
    pub fn origin_sent(&mut self, now: Instant, has_ended: bool) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.body_came(now, has_ended);
        if has_ended {
            self.seen.origin_duration = attempt.age(now);
        }
    }
}

/// The end.
impl Context {
    /// Settles everything that only the end of a request tells: the attempt under way, metrics, access log.
    pub fn close(&mut self, shared: &Shared, session: &Session) {
        let now = clock::now();
        self.seen.status = match (session.response_written(), self.seen.failure) {
            (Some(head), _) => head.status.as_u16(),
            (None, Some(Failure::ClientGone)) => 499,
            (None, failure) if self.seen.status == 0 => failure.map_or(499, Failure::status),
            (None, _) => self.seen.status,
        };
        self.seen.request_bytes = session.body_bytes_read() as u64;
        self.seen.response_bytes = session.body_bytes_sent() as u64;
        self.settle_attempt(now);
        self.count(shared, session, now);
        self.log(shared, session, now);
    }

    /// Whether nobody's site was asked for, but something of ours: neither logged nor counted unless that is wanted.
    fn is_internal(&self) -> bool {
        let is_ours = |route: &Arc<Route>| matches!(route.target, Target::Internal(_) | Target::Nobody);
        self.is_challenge || self.route.as_ref().is_some_and(is_ours)
    }

    fn count(&self, shared: &Shared, session: &Session, now: Instant) {
        let Some(connection) = self.connection.as_ref().filter(|_| !self.is_internal()) else { return };
        let head = session.req_header();
        let finished = Finished {
            code: self.seen.status,
            method: self.method.as_str(),
            protocol: spoken(&head.headers),
            duration: now.saturating_duration_since(self.started),
            request_bytes: self.seen.request_bytes,
            response_bytes: self.seen.response_bytes,
            tls: connection.tls.as_ref().map(|tls| (tls.version, tls.cipher)),
            headers: &head.headers,
        };
        if let Some(metrics) = shared.entrypoint_metrics.get(connection.entrypoint.index) {
            metrics.record(&finished);
        }
        if let Some(metrics) = self.route.as_ref().and_then(|route| route.metrics.as_ref()) {
            metrics.record(&finished);
        }
        let Some(service) = self.asked_service() else { return };
        if let Some(metrics) = &service.settings().metrics {
            metrics.record(&finished);
            for _ in 1..self.attempts {
                metrics.retried();
            }
        }
    }

    fn log(&self, shared: &Shared, session: &Session, now: Instant) {
        let (Some(log), Some(connection)) = (&shared.access_log, &self.connection) else { return };
        let is_internal = self.is_internal();
        let is_silenced = self.route.as_ref().is_some_and(|route| !route.access_logs);
        if is_silenced || (is_internal && !log.has_internals()) {
            return;
        }
        let head = session.req_header();
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let host = self.host.as_ref().and_then(text).filter(|host| !host.is_empty());
        let forwarded_for = self.forwarded_for.as_ref().and_then(text);
        let service = self.asked_service();
        let server = self.seen.server.as_ref().filter(|_| service.is_some());
        log.log(&Record {
            start: self.started_wall,
            duration: now.saturating_duration_since(self.started),
            count: self.count,
            client: connection.client,
            forwarded_for: forwarded_for.as_deref(),
            username: self.seen.user.as_deref(),
            host: host.as_deref(),
            method: self.method.as_str(),
            target: self.uri.path_and_query().map_or("/", |target| target.as_str()),
            protocol: protocol(head.version),
            request_bytes: self.seen.request_bytes,
            entrypoint: &connection.entrypoint.name,
            router: self.route.as_ref().map(|route| &*route.label),
            service: service.map(|service| &*service.label),
            server_url: server.map(|server| server.url.as_str()),
            server_address: server.map(|server| server.authority.as_str()),
            origin: service.map(|_| self.origin()),
            status: self.seen.status,
            response_bytes: self.seen.response_bytes + self.seen.withheld_bytes,
            retries: self.attempts.saturating_sub(1),
            tls: connection.tls.as_ref().map(|tls| Tls { version: tls.version, cipher: tls.cipher, client_subject: None }),
            request_headers: &head.headers,
            response_headers: session.response_written().map(|head| &head.headers),
        });
    }
}

impl Context {
    /// The service, if it had a server to ask: else, as in Traefik, the service had no part in the answer.
    fn asked_service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref().filter(|_| self.seen.server.is_some())
    }

    /// What came from the side of the server. What we answered in its place counts as its answer.
    fn origin(&self) -> Origin<'_> {
        let has_answered = self.seen.origin_status != 0;
        Origin {
            status: if has_answered { self.seen.origin_status } else { self.seen.status },
            bytes: if has_answered { self.seen.origin_bytes } else { self.seen.response_bytes + self.seen.withheld_bytes },
            duration: self.seen.origin_duration,
            headers: Some(&self.seen.origin_headers),
        }
    }
}

/// What a request speaks, as Traefik's metrics tell it.
fn spoken(headers: &HeaderMap) -> Protocol {
    let starts_with = |name: &http::HeaderName, prefix: &str| {
        headers.get(name).is_some_and(|value| {
            value.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
    };
    if headers.contains_key(header::UPGRADE) && forwarded::is_websocket(headers) {
        Protocol::Websocket
    } else if starts_with(&header::ACCEPT, "text/event-stream") {
        Protocol::Sse
    } else if starts_with(&header::CONTENT_TYPE, "application/grpc-web") {
        Protocol::GrpcWeb
    } else if starts_with(&header::CONTENT_TYPE, "application/grpc") {
        Protocol::Grpc
    } else {
        Protocol::Http
    }
}

/// A version as the log prints it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dynamic::{Endpoint, MiddlewareKind};
    use crate::health::Start;
    use crate::middleware;
    use crate::names::Name;
    use crate::routing::service::Settings;

    #[test]
    fn after_a_retry_the_log_tells_how_long_the_server_took_that_answered() {
        let start = clock::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let endpoint = Endpoint::local(1);
        let service = Arc::new(Service::new(Name::new("web", "file"), Settings::default(), start));
        let server = Arc::new(Server::new(&endpoint, start, Start::Established));
        let attempt = |now| Attempt::begin(&service, &server, None, now, Duration::from_secs(2));
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut context = Context::new(start, clock::wall());
        context.begin(attempt(start), address);
        // It failed.
        context.attempt = None;
        context.seen.origin_duration = Duration::from_millis(900);
        // 204: nobody tells the end of a body that is not there.
        context.begin(attempt(at(900)), address);
        context.settle_attempt(at(905));
        assert_eq!(context.seen.origin_duration, Duration::from_millis(5));
    }

    #[test]
    fn a_compressed_body_is_whole_even_if_trailers_end_it() {
        let kind = MiddlewareKind::Compress {
            encodings: vec!["gzip".to_owned()],
            body_bytes_min: 1,
            excluded: Vec::new(),
            included: Vec::new(),
            default_encoding: None,
        };
        let compiled = middleware::compile(&kind, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
        let middleware::Compiled::Single(compress) = compiled else { panic!("compress is no chain") };
        let chain = middleware::Chain::new(vec![Arc::new(compress)]);
        let mut headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
        let mut view = middleware::RequestView {
            method: &Method::GET,
            is_tls: false,
            host: "web.test".into(),
            target: "/".into(),
            headers: &mut headers,
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            user: None,
            hides_client: false,
        };
        let (memo, _) = chain.on_request(&mut view);
        let mut answer = HeaderMap::new();
        let status = http::StatusCode::OK;
        let mut head = ResponseHead { status, headers: &mut answer, is_bodiless: false };
        let now = clock::now();
        let mut context = Context::new(now, clock::wall());
        context.transform = chain.on_response(&memo, &mut head).map(Box::new);
        let first = context.transform_body(Some(Bytes::from_static(b"hello")), false, now).unwrap();
        let rest = context.transform_body(None, true, now).unwrap();
        let packed: Vec<u8> = first.into_iter().chain(rest).flatten().collect();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed), &mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
