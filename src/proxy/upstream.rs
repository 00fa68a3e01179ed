//! From a target to a server: which one, how it is dialled, what its answer or its failure means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header;
use pingora::protocols::ALPN;
use pingora::protocols::tls::CaType;
use pingora::proxy::Session;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{WrappedX509, parse_x509};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::attempt::Attempt;
use super::context::Context;
use super::edge::SHIELDED;
use super::failure::{self, Failure, Repeat};
use super::hedge;
use super::shared::Shared;
use crate::clock;
use crate::config::dynamic::Scheme;
use crate::listener;
use crate::routing::server::Server;
use crate::routing::service::{Service, Settings};
use crate::tls::certificate::parse_chain;

/// A pooled connection that nobody used for so long is closed, so that sockets to a removed instance go by themselves.
const POOL_IDLE_MAX: Duration = Duration::from_secs(30);
/// So many dead pooled connections cost a request no attempt: each told nothing about its server but its age.
const STALE_MAX: u32 = 2;
/// So many servers that nobody listens at cost a request no attempt: it is known at once, and none is asked twice.
const REFUSED_MAX: u32 = 8;
/// Streams on one HTTP/2 connection to a server.
const H2_STREAMS_MAX: usize = 100;
/// How long a server may take no byte of a request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Chooses the server of the next attempt and says how it is dialled.
pub fn choose(shared: &Shared, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
    let Some(service) = context.service.clone() else { return Err(Error::new(ErrorType::HTTPStatus(503))) };
    let now = clock::now();
    let choice = match context.attempts {
        0 => service.choose_first(now),
        _ => service.choose_other(now, &context.tried).map(|server| (server, None)),
    };
    let Some((server, draw)) = choice else {
        // Who was tried before says what the client is told.
        let status = context.seen.failure.map_or(503, Failure::status);
        return Err(Error::new(ErrorType::HTTPStatus(status)));
    };
    // From here on whatever happens gives draw and permit back.
    let mut attempt = Attempt::begin(&service, &server, draw, now, shared.judged_at);
    let Some(address) = server.address() else { return Err(Error::new(ErrorType::HTTPStatus(502))) };
    let settings = service.settings();
    let mut peer = HttpPeer::new(address, server.scheme == Scheme::Https, server_name(&server, &settings));
    set_options(&mut peer, &server, &settings);
    let head_timeout = limit(settings.transport.response_header_timeout).or(limit(shared.install.own.first_byte_timeout));
    if !listener::limit_head(session, head_timeout) {
        peer.options.read_timeout = head_timeout;
    }
    if may_hedge(&attempt, context, &server) {
        let outcome = hedge(&mut peer, &service, &settings, shared, &server);
        attempt.set_hedge(outcome);
    }
    context.begin(attempt, address);
    Ok(Box::new(peer))
}

/// The name that a server is asked for, and that its certificate must have: `serverName`, or the host of its URL. As in Go it is
/// never the client's Host, and an address is verified but not sent.
fn server_name(server: &Server, settings: &Settings) -> String {
    match (&settings.transport.server_name, server.scheme) {
        (Some(name), Scheme::Https) => name.clone(),
        (None, Scheme::Https) => server.host.clone(),
        (_, Scheme::Http | Scheme::H2c | Scheme::Tcp | Scheme::Tls) => String::new(),
    }
}

fn set_options(peer: &mut HttpPeer, server: &Server, settings: &Settings) {
    let transport = &settings.transport;
    peer.group_key = server.pool();
    let options = &mut peer.options;
    options.connection_timeout = limit(transport.dial_timeout);
    options.total_connection_timeout = limit(transport.dial_timeout);
    options.write_timeout = Some(WRITE_TIMEOUT);
    options.idle_timeout = Some(limit(transport.idle_timeout).map_or(POOL_IDLE_MAX, |idle| idle.min(POOL_IDLE_MAX)));
    options.max_h2_streams = H2_STREAMS_MAX;
    // Hop-by-hop fields are ours (proxy/forwarded.rs): the engine's own policy knows WebSocket only.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    options.alpn = match server.scheme {
        Scheme::H2c => ALPN::H2,
        Scheme::Https => ALPN::H2H1,
        Scheme::Http | Scheme::Tcp | Scheme::Tls => ALPN::H1,
    };
    if server.scheme == Scheme::Https {
        options.verify_cert = !transport.insecure_skip_verify;
        options.verify_hostname = !transport.insecure_skip_verify;
        options.ca = authorities(settings);
    }
}

/// The CA certificates of a service's servers in the engine's form, made once per settings.
fn authorities(settings: &Settings) -> Option<Arc<CaType>> {
    if settings.transport.root_cas.is_empty() {
        return None;
    }
    let made = settings.authorities.get_or_init(|| {
        let read = |path: &PathBuf| std::fs::read(path).ok();
        let chain = settings.transport.root_cas.iter().filter_map(read).flat_map(|pem| parse_chain(&pem).unwrap_or_default());
        let wrapped: Vec<WrappedX509> = chain.map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509)).collect();
        Arc::new(Arc::<CaType>::from(wrapped))
    });
    made.downcast_ref::<Arc<CaType>>().cloned()
}

/// A span of zero means no limit.
fn limit(span: Duration) -> Option<Duration> {
    (!span.is_zero()).then_some(span)
}

/// Stable is asked too only for requests to a canary that may be sent twice, in clear.
fn may_hedge(attempt: &Attempt, context: &Context, server: &Server) -> bool {
    attempt.is_canary() && context.is_idempotent && server.scheme == Scheme::Http
}

fn hedge(
    peer: &mut HttpPeer,
    service: &Arc<Service>,
    settings: &Settings,
    shared: &Shared,
    canary: &Arc<Server>,
) -> Arc<hedge::Outcome> {
    let outcome = Arc::new(hedge::Outcome::default());
    let (choosing, telling, canary) = (Arc::clone(service), Arc::clone(service), Arc::clone(canary));
    // Each has its own connection: one from the pool would not be hedged, and a hedged one may have ended at another server.
    peer.group_key = Server::lone_pool();
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.options.custom_l4 = Some(Arc::new(hedge::Dialler {
        patience: shared.judged_at,
        dial_timeout: limit(settings.transport.dial_timeout)
            .map_or(hedge::DIAL_TIMEOUT_MAX, |timeout| timeout.min(hedge::DIAL_TIMEOUT_MAX)),
        substitute: Arc::new(move || choosing.choose_shield(clock::now(), &canary)),
        tell: Arc::new(move |server, asked_at, fared| telling.record_health(server, clock::now(), asked_at, fared)),
        outcome: Arc::clone(&outcome),
    }));
    outcome
}

/// Addresses the request to the server of this attempt: Host, and the base path of servers that keep theirs.
pub fn address(head: &mut RequestHeader, context: &Context) -> Result<()> {
    let (Some(service), Some(attempt)) = (&context.service, &context.attempt) else { return Ok(()) };
    let server = attempt.server();
    // HTTP/1.0 knows requests without a host; every server of ours is spoken to in a version that does not.
    let has_host = head.headers.get(header::HOST).is_some_and(|host| !host.is_empty());
    if !has_host || !service.settings().pass_host_header {
        head.insert_header(header::HOST, server.authority.as_str())?;
    }
    if !server.path.is_empty() {
        let target = format!("{}{}", server.path, head.uri.path_and_query().map_or("/", |target| target.as_str()));
        let target =
            target.parse().map_err(|error| Error::because(ErrorType::InternalError, "joining a server's base path", error))?;
        head.set_uri(target);
    }
    Ok(())
}

/// A server answered: judges its status, and runs the response side of the middlewares.
pub fn answered(shared: &Shared, session: &mut Session, head: &mut ResponseHeader, context: &mut Context) -> Result<()> {
    let status = head.status.as_u16();
    if head.status.is_informational() && status != 101 {
        return Ok(());
    }
    let now = clock::now();
    let is_shielded = failure::is_failure(status) && may_shield(session, context);
    if let Some(attempt) = &mut context.attempt {
        attempt.answered(now, status, failure::is_stream(status, &head.headers));
        context.seen.server = Some(Arc::clone(attempt.answering()));
    }
    if is_shielded {
        return Err(Error::new_up(SHIELDED));
    }
    context.seen.origin_status = status;
    if let Some(log) = &shared.access_log {
        context.seen.origin_headers = log.pick_headers(&head.headers);
    }
    context.seen.status = status;
    context.filter_response(head, context.method == http::Method::HEAD);
    Ok(())
}

/// Whether stable can answer instead of a canary that failed.
fn may_shield(session: &Session, context: &Context) -> bool {
    let Some(attempt) = &context.attempt else { return false };
    attempt.is_canarys_answer()
        && context.is_idempotent
        && !session.as_ref().retry_buffer_truncated()
        && context.service.as_ref().is_some_and(|service| service.has_shield(clock::now()))
}

/// An attempt failed. True when the request is to be tried on another server.
pub fn attempt_failed(shared: &Shared, context: &mut Context, failure: Failure, is_replayable: bool) -> bool {
    context.seen.failure = Some(failure);
    let Some(mut attempt) = context.attempt.take() else { return false };
    let now = clock::now();
    let is_repeatable = context.is_idempotent && is_replayable && context.stale < STALE_MAX;
    if failure == Failure::Stale {
        // Its other pooled connections are as old: nobody else is to meet them.
        attempt.server().renew_pool();
    }
    let failure = failure.judged(attempt.age(now), is_repeatable);
    context.seen.failure = Some(failure);
    context.seen.origin_duration = attempt.age(now);
    let has_other_address = note(context, attempt.server(), failure);
    context.tried.extend(attempt.hedged_by().cloned());
    let is_repeated = is_repeated(shared, context, &attempt, failure, is_replayable, now);
    if has_other_address && is_repeated {
        attempt.withdrawn(now);
    } else {
        attempt.failed(now, failure);
    }
    is_repeated
}

/// Notes where a request that failed need not go again. True when its server has another address, where it may.
fn note(context: &mut Context, server: &Arc<Server>, failure: Failure) -> bool {
    if failure == Failure::Stale {
        // The repetition dials anew, so it may go to the same server.
        context.stale = (context.stale + 1).min(STALE_MAX);
        return false;
    }
    if failure == Failure::Unprocessed {
        return false;
    }
    let dead = context.address.filter(|_| matches!(failure, Failure::Refused | Failure::Connect));
    if let Some(dead) = dead.filter(|dead| server.turn_address(*dead, &context.dead_addresses)) {
        context.dead_addresses.push(dead);
        return true;
    }
    context.tried.push(Arc::clone(server));
    context.refused = (context.refused + u32::from(failure == Failure::Refused)).min(REFUSED_MAX);
    false
}

/// Whether the request is sent once more. Takes what that costs from the service's budget.
fn is_repeated(
    shared: &Shared,
    context: &Context,
    attempt: &Attempt,
    failure: Failure,
    is_replayable: bool,
    now: Instant,
) -> bool {
    let Some(service) = &context.service else { return false };
    // A canary's failures are made good for by stable whatever they number: that is no more than stable's own share.
    let is_shielded = attempt.is_canary() && service.has_shield(now);
    let repeat = Repeat {
        is_idempotent: context.is_idempotent,
        is_replayable,
        attempts: context.attempts.saturating_sub(context.stale + context.refused),
        attempts_max: if is_shielded { shared.install.own.attempts_max.max(2) } else { shared.install.own.attempts_max },
    };
    // Where nobody listens the repetition is no load but the request itself, and `REFUSED_MAX` limits it.
    let is_free = is_shielded || failure == Failure::Refused;
    failure.may_repeat(repeat) && (is_shielded || service.has_other(&context.tried)) && (is_free || service.try_retry(now))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use super::*;
    use crate::config::dynamic::Endpoint;
    use crate::config::install::Prometheus;
    use crate::health::Start;
    use crate::names::{Name, Track};
    use crate::observe::metrics::Metrics;
    use crate::proxy::shared::StageCell;
    use crate::routing::server::{Arms, Member};
    use crate::tls::store::CertificateStore;

    /// The Host and target that a server at `127.0.0.1:80/base` gets.
    #[track_caller]
    fn check(pass_host_header: bool, host: Option<&str>, expected: (&str, &str)) {
        let now = clock::now();
        let endpoint = Endpoint { path: "/base/".to_owned(), preserve_path: true, ..Endpoint::local(80) };
        let settings = Settings { pass_host_header, ..Settings::default() };
        let service = Arc::new(Service::new(Name::new("web", "file"), settings, now));
        let server = Arc::new(Server::new(&endpoint, now, Start::Established));
        let mut context = Context::new(now, clock::wall());
        context.attempt = Some(Attempt::begin(&service, &server, None, now, Duration::from_secs(2)));
        context.service = Some(service);
        let mut head = RequestHeader::build("GET", b"/a?b", None).unwrap();
        if let Some(host) = host {
            head.insert_header(header::HOST, host).unwrap();
        }
        address(&mut head, &context).unwrap();
        let seen = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("-");
        assert_eq!((seen, head.uri.to_string().as_str()), expected, "{host:?}");
    }

    /// A proxy with nothing but its defaults.
    fn shared() -> Shared {
        crate::tls::install_crypto_provider();
        let default = crate::tls::certificate::generate_default(clock::wall()).unwrap();
        Shared {
            install: Arc::default(),
            snapshots: Arc::default(),
            challenges: Arc::default(),
            challenge_entrypoints: BTreeSet::new(),
            metrics: Arc::new(Metrics::new(&Prometheus::default(), false)),
            entrypoint_metrics: Vec::new(),
            counters: Arc::default(),
            access_log: None,
            stage: StageCell::default(),
            steering: crate::steering::api::Api { token_file: None, orders: tokio::sync::mpsc::channel(1).0 },
            hostname: http::HeaderValue::from_static("test"),
            judged_at: Duration::from_secs(2),
            certificates: Arc::new(CertificateStore::new(Arc::new(default))),
            rollouts: Arc::default(),
            started_at: clock::wall(),
        }
    }

    /// A request whose first attempt went to the first of these servers of a service.
    fn first_attempt(servers: &[&Arc<Server>]) -> (Arc<Service>, Context) {
        let now = clock::now();
        let service = Arc::new(Service::new(Name::new("web", "file"), Settings::default(), now));
        let member = |server: &&Arc<Server>| Member { server: Arc::clone(server), track: Track::Stable };
        service.set_arms(Arms::new(servers.iter().map(member).collect()));
        let mut context = Context::new(now, clock::wall());
        context.begin(Attempt::begin(&service, servers[0], None, now, Duration::from_secs(2)), servers[0].address().unwrap());
        context.service = Some(Arc::clone(&service));
        context.is_idempotent = true;
        (service, context)
    }

    fn local(port: u16) -> Arc<Server> {
        Arc::new(Server::new(&Endpoint::local(port), clock::now(), Start::Established))
    }

    #[test]
    fn where_nobody_listens_the_next_server_is_asked_however_many_requests_were_repeated_lately() {
        let shared = shared();
        for (failure, is_repeated) in [(Failure::Refused, true), (Failure::Broken, false)] {
            let (service, mut context) = first_attempt(&[&local(1), &local(2)]);
            while service.try_retry(clock::now()) {}
            assert_eq!(attempt_failed(&shared, &mut context, failure, true), is_repeated, "{failure:?}");
        }
    }

    #[test]
    fn a_name_with_one_dead_address_is_not_taken_for_a_dead_server() {
        let (shared, now) = (shared(), clock::now());
        let endpoint = Endpoint { host: "name.test".to_owned(), ..Endpoint::local(80) };
        let server = Arc::new(Server::new(&endpoint, now, Start::Established));
        let addresses = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], 80)));
        server.set_addresses(addresses.to_vec());
        let (service, mut context) = first_attempt(&[&server]);
        assert!(attempt_failed(&shared, &mut context, Failure::Refused, true));
        assert_eq!((server.address(), server.health.seen(now)), (Some(addresses[1]), (0, 0)));
        // The other one is dead too: that is the server.
        context.begin(Attempt::begin(&service, &server, None, now, Duration::from_secs(2)), addresses[1]);
        assert!(!attempt_failed(&shared, &mut context, Failure::Refused, true));
        assert_eq!(server.health.seen(now), (1, 1));
    }

    #[test]
    fn a_clients_host_does_not_decide_whose_certificate_is_expected() {
        let server = |scheme| Server::new(&Endpoint { scheme, ..Endpoint::local(443) }, clock::now(), Start::Established);
        let mut settings = Settings { pass_host_header: true, ..Settings::default() };
        assert_eq!(server_name(&server(Scheme::Https), &settings), "127.0.0.1");
        assert_eq!(server_name(&server(Scheme::Http), &settings), "");
        settings.transport.server_name = Some("inner.test".to_owned());
        assert_eq!(server_name(&server(Scheme::Https), &settings), "inner.test");
    }

    #[test]
    fn a_server_gets_the_clients_host_unless_it_wants_its_own() {
        check(true, Some("site.test"), ("site.test", "/base/a?b"));
        check(false, Some("site.test"), ("127.0.0.1:80", "/base/a?b"));
    }

    #[test]
    fn a_request_that_names_no_host_gets_the_servers() {
        check(true, None, ("127.0.0.1:80", "/base/a?b"));
        check(true, Some(""), ("127.0.0.1:80", "/base/a?b"));
    }
}
