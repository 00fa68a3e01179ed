//! What we know of one request, from its first phase to its last, and what is settled when it ends.
//!
//! The end is the drop of the [`Context`]: however a request ends (answered, refused, cut off, panicked), its outcome
//! reaches health, evidence, metrics and access log exactly once, by a guard of ours and not by an engine's hook.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use pingora::proxy::Session;
use pingora_http::ResponseHeader;

use super::failure::{self, Failure};
use super::hedge;
use super::shared::Shared;
use crate::clock;
use crate::health::Attempt as Fared;
use crate::middleware::{BodyTransform, Memo, ResponseHead, forwarded};
use crate::names::Track;
use crate::observe::access_record::{Origin, Record, Tls};
use crate::observe::series::{Finished, Protocol};
use crate::rollout::ledger::{Draw, Verdict};
use crate::routing::entrypoint::Connection;
use crate::routing::server::{InFlight, Server};
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

/// One attempt at a server.
#[derive(Debug)]
pub struct Attempt {
    guard: InFlight,
    service: Arc<Service>,
    /// Until evidence has it.
    draw: Option<Draw>,
    is_canary: bool,
    started: Instant,
    judged_at: Duration,
    hedge: Option<Arc<hedge::Outcome>>,
    progress: Progress,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// There is no answer.
    Waiting,
    /// The head of a good answer came at this age. Its body may still break off before the age of judgement.
    Answered(Duration),
    /// Health and evidence know all.
    Settled,
}

impl Attempt {
    /// Begins an attempt. `draw` is set on a request's first attempt only, which alone is evidence.
    pub fn begin(service: &Arc<Service>, server: &Arc<Server>, draw: Option<Draw>, now: Instant, judged_at: Duration) -> Self {
        Self {
            guard: server.enter(),
            service: Arc::clone(service),
            is_canary: draw.is_some_and(|draw| draw.track == Track::Canary),
            draw,
            started: now,
            judged_at,
            hedge: None,
            progress: Progress::Waiting,
        }
    }

    /// Notes that stable is asked too when this one is silent.
    pub fn set_hedge(&mut self, outcome: Arc<hedge::Outcome>) {
        self.hedge = Some(outcome);
    }

    /// The server it was sent to.
    pub fn server(&self) -> &Arc<Server> {
        self.guard.server()
    }

    fn substitute(&self) -> Option<&Arc<Server>> {
        self.hedge.as_ref().and_then(|hedge| hedge.substitute())
    }

    /// The server whose answer is heard: the one it was sent to, or the one that a hedge asked.
    pub fn answering(&self) -> &Arc<Server> {
        self.substitute().unwrap_or_else(|| self.guard.server())
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it went to a canary by the draw of its service.
    pub fn is_canary(&self) -> bool {
        self.is_canary
    }

    /// Whether what is heard is a canary's, and no substitute's.
    pub fn is_canarys_answer(&self) -> bool {
        self.is_canary && self.substitute().is_none()
    }

    /// The head of an answer came. The body of a stream is nobody's evidence.
    pub fn answered(&mut self, now: Instant, status: u16, is_stream: bool) {
        let is_failure = failure::is_failure(status);
        let fared = match status {
            429 => Fared::TooMany,
            _ if is_failure => Fared::Failed,
            _ => Fared::Ok,
        };
        if let Some(substitute) = self.substitute().cloned() {
            self.service.record_health(&substitute, now, fared);
            self.settle(now, Fared::Ignored, Verdict::Slow);
            return;
        }
        let age = self.age(now);
        if is_failure || is_stream || age >= self.judged_at {
            self.settle(now, fared, if is_failure { Verdict::Fail } else { Verdict::Ok });
        } else if self.progress == Progress::Waiting {
            self.service.record_health(self.guard.server(), now, fared);
            self.progress = Progress::Answered(age);
        }
    }

    /// A piece of the body came, the last one if it has ended.
    pub fn body_came(&mut self, now: Instant, has_ended: bool) {
        if let Progress::Answered(first_byte) = self.progress
            && (has_ended || self.age(now) >= self.judged_at)
        {
            self.progress = Progress::Settled;
            self.testify(Verdict::Ok, Some(first_byte));
        }
    }

    /// It failed.
    pub fn failed(&mut self, now: Instant, failure: Failure) {
        if self.progress != Progress::Waiting || self.substitute().is_some() {
            return self.failed_late(now, failure);
        }
        let (fared, verdict) = match failure {
            Failure::Connect | Failure::Distrusted => (Fared::Refused, Verdict::Fail),
            Failure::ConnectTimeout | Failure::Broken | Failure::Silent | Failure::NotHttp | Failure::BodyBroken => {
                (Fared::Failed, Verdict::Fail)
            }
            // A client that left when the answer was overdue.
            Failure::ClientGone if self.age(now) >= self.judged_at => (Fared::Ignored, Verdict::Slow),
            Failure::ClientGone | Failure::Internal | Failure::Stale | Failure::Unprocessed | Failure::Shielded => {
                (Fared::Ignored, Verdict::Ignored)
            }
        };
        self.settle(now, fared, verdict);
    }

    /// It failed when somebody had begun to answer: that is what health hears of, whoever it was.
    fn failed_late(&mut self, now: Instant, failure: Failure) {
        let is_servers = matches!(failure, Failure::Broken | Failure::Silent | Failure::NotHttp | Failure::BodyBroken);
        if is_servers {
            self.service.record_health(self.answering(), now, Fared::Failed);
        }
        match std::mem::replace(&mut self.progress, Progress::Settled) {
            Progress::Waiting => {
                self.progress = Progress::Waiting;
                self.settle(now, Fared::Ignored, Verdict::Slow);
            }
            Progress::Answered(_) if is_servers && self.age(now) < self.judged_at => self.testify(Verdict::Fail, None),
            Progress::Answered(first_byte) => self.testify(Verdict::Ok, Some(first_byte)),
            Progress::Settled => {}
        }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Tells health and evidence, once. What is late is slow, never a failure: both arms are judged at the same age.
    fn settle(&mut self, now: Instant, fared: Fared, verdict: Verdict) {
        if std::mem::replace(&mut self.progress, Progress::Settled) != Progress::Waiting {
            return;
        }
        self.service.record_health(self.guard.server(), now, fared);
        let age = self.age(now);
        let verdict = if age >= self.judged_at && verdict != Verdict::Ignored { Verdict::Slow } else { verdict };
        self.testify(verdict, matches!(verdict, Verdict::Ok | Verdict::Slow).then_some(age));
    }

    /// Gives the draw back.
    fn testify(&mut self, verdict: Verdict, first_byte: Option<Duration>) {
        let Some(draw) = self.draw.take() else { return };
        if let Some(tripped) = self.service.ledger.record(draw, verdict, first_byte) {
            tracing::warn!(service = %self.service.label, share = %tripped.share, "canary failed too often in a row, its share was taken away at once");
        }
    }
}

impl Drop for Attempt {
    /// An attempt that nobody settled was cut off from our side: it tells nothing, but if its answer was overdue it was slow.
    fn drop(&mut self) {
        if self.progress != Progress::Settled {
            self.failed(clock::now(), Failure::ClientGone);
        }
    }
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

    /// A piece of a server's answer came, the last one if it has ended.
    pub fn origin_sent(&mut self, now: Instant, has_ended: bool) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.body_came(now, has_ended);
        if has_ended {
            self.seen.origin_duration = now.saturating_duration_since(attempt.started());
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
        if let Some(attempt) = self.attempt.take()
            && self.seen.origin_duration.is_zero()
        {
            self.seen.origin_duration = now.saturating_duration_since(attempt.started());
        }
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
    use crate::config::dynamic::Endpoint;
    use crate::health::Start;
    use crate::names::Name;
    use crate::rollout::{Arm, Machine, Nature, Policy, Rollout, Situation};
    use crate::routing::server::{Arms, Member};
    use crate::routing::service::Settings;

    const JUDGED_AT: Duration = Duration::from_secs(2);

    /// A service with one server, and what control reads of its evidence.
    struct Bench {
        service: Arc<Service>,
        server: Arc<Server>,
        rollout: Rollout,
        start: Instant,
    }

    fn bench() -> Bench {
        let start = clock::now();
        let endpoint = Endpoint::local(1);
        let server = Arc::new(Server::new(&endpoint, start, Start::Established));
        let service = Service::new(Name::new("web", "file"), Settings::default(), start);
        service.set_arms(Arms::new(vec![Member { server: Arc::clone(&server), track: Track::Stable }]));
        let rollout = Rollout::new(Duration::ZERO, &service.ledger, Machine::new(Policy::default()));
        Bench { service: Arc::new(service), server, rollout, start }
    }

    impl Bench {
        fn begin(&self) -> Attempt {
            let (server, draw) = self.service.choose_first(self.start).unwrap();
            Attempt::begin(&self.service, &server, draw, self.start, JUDGED_AT)
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        /// (all, failed, slow) as evidence has it, and (all, failed) as health has it.
        #[track_caller]
        fn expect(&mut self, evidence: (u32, u32, u32), health: (u64, u64)) {
            let arm = Arm { instances: 1, fit: 1 };
            let (canary, probed) = (Arm::default(), None);
            let situation = Situation { version: "", nature: Nature::ByAge, canary, stable: arm, probed };
            for seconds in [10, 20] {
                self.rollout.step(Duration::from_secs(seconds), &self.service.ledger, &situation);
            }
            let seen = self.rollout.machine().report().stable_hour;
            assert_eq!((seen.all, seen.fail, seen.slow), evidence, "evidence");
            assert_eq!(self.server.health.seen(self.at(2500)), health, "health");
            assert_eq!(self.server.in_flight(), 0);
        }
    }

    #[test]
    fn a_good_answer_counts_once() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.body_came(bench.at(20), false);
        attempt.body_came(bench.at(30), true);
        drop(attempt);
        bench.expect((1, 0, 0), (1, 0));
    }

    #[test]
    fn a_page_that_breaks_off_is_a_failure_of_its_server() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.body_came(bench.at(20), false);
        attempt.failed(bench.at(30), Failure::BodyBroken);
        drop(attempt);
        bench.expect((1, 1, 0), (2, 1));
    }

    #[test]
    fn a_download_that_breaks_off_late_is_no_evidence_against_a_version() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.failed(bench.at(2500), Failure::BodyBroken);
        drop(attempt);
        bench.expect((1, 0, 0), (2, 1));
    }

    #[test]
    fn a_client_that_leaves_in_the_middle_of_a_page_is_nobodys_failure() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.failed(bench.at(30), Failure::ClientGone);
        drop(attempt);
        bench.expect((1, 0, 0), (1, 0));
    }

    #[test]
    fn a_client_that_leaves_early_says_nothing_and_one_that_waited_long_says_slow() {
        let mut bench = bench();
        bench.begin().failed(bench.at(500), Failure::ClientGone);
        bench.begin().failed(bench.at(2500), Failure::ClientGone);
        bench.expect((1, 0, 1), (0, 0));
    }

    #[test]
    fn what_fails_late_was_slow() {
        let mut bench = bench();
        bench.begin().failed(bench.at(2500), Failure::Silent);
        bench.begin().answered(bench.at(2500), 500, false);
        bench.expect((2, 0, 2), (2, 2));
    }

    #[test]
    fn a_stream_counts_when_it_begins() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, true);
        attempt.failed(bench.at(30), Failure::BodyBroken);
        drop(attempt);
        bench.expect((1, 0, 0), (2, 1));
    }

    #[test]
    fn a_pooled_connection_that_was_dead_says_nothing_about_its_server() {
        let mut bench = bench();
        bench.begin().failed(bench.at(10), Failure::Stale);
        bench.expect((0, 0, 0), (0, 0));
    }
}
