//! A catalog that speaks the part of Consul's HTTP API that matters, inside this process.
//!
//! Blocking queries wait and are numbered as Consul does it. Checks are not run: they stay as they are registered or set.
//! A [`Fault`] makes it behave as an agent in trouble does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use super::store::{CheckDefinition, Registration, Status};
use super::store::{Store, Told};
use crate::config::node::parse_duration;

/// As many connections as a real agent takes from one address.
const CONNECTIONS_MAX: usize = 200;
/// As long as a real agent waits at most, and when nobody says how long.
const WAIT_MAX: Duration = Duration::from_secs(600);
const WAIT_DEFAULT: Duration = Duration::from_secs(300);
/// A larger registration is refused.
const REGISTRATION_BYTES_MAX: usize = 1 << 20;

/// What an agent in trouble does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fault {
    /// No trouble.
    #[default]
    None,
    /// Answers 500, as without a leader.
    Error,
    /// Takes the question and never answers.
    Hang,
    /// Answers as if nothing were registered.
    Empty,
    /// Closes the connection instead of answering.
    Cut,
    /// Begins its numbering anew.
    IndexBackwards,
    /// Answers something that is not JSON.
    Garbage,
    /// Answers what is right, but from a server that knows no leader.
    NoLeader,
}

/// The running catalog. Dropping it ends it, and closes its connections.
pub struct EmbeddedCatalog {
    shared: Arc<Shared>,
    _end: DropGuard,
}

struct Shared {
    store: Mutex<Store>,
    fault: watch::Sender<Fault>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    /// What is taken off each index while it goes backwards.
    index_shift: AtomicU64,
    connections: AtomicUsize,
}

impl EmbeddedCatalog {
    /// Listens on a free port of the loopback.
    pub async fn start() -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new()),
            fault: watch::Sender::new(Fault::None),
            changed: watch::Sender::new(0),
            index_shift: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
        });
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&shared), end.clone())));
        Ok((Self { shared, _end: end.drop_guard() }, address))
    }

    /// Registers an instance, or registers it anew. `Err` says what is wrong with it, as Consul does.
    pub fn register(&self, registration: Registration) -> Result<(), String> {
        self.shared.change(|store| store.register(registration))
    }

    /// Takes an instance out; an unknown one is fine.
    pub fn deregister(&self, id: &str) {
        self.shared.change(|store| store.deregister(id));
    }

    /// Sets a check of any kind; whether there is one of that name.
    pub fn set_check(&self, id: &str, status: Status) -> bool {
        self.shared.change(|store| store.set_check(id, status, ""))
    }

    /// Begins (or ends) trouble, for questions under way too.
    pub fn fault(&self, fault: Fault) {
        let shift = if fault == Fault::IndexBackwards { self.shared.store().index() - 1 } else { 0 };
        self.shared.index_shift.store(shift, Ordering::Relaxed);
        self.shared.fault.send_replace(fault);
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, end: CancellationToken) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely; some will be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            let open = OpenConnection(shared);
            if open.0.connections.load(Ordering::Relaxed) <= CONNECTIONS_MAX {
                serve(stream, &open.0).await;
            }
        }));
    }
}

/// Counts itself out.
struct OpenConnection(Arc<Shared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(stream: TcpStream, shared: &Arc<Shared>) {
    let service = service_fn(|request| {
        let shared = Arc::clone(shared);
        async move { shared.answer(request).await }
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::trace!(%error, "connection to the embedded catalog ended");
    }
}

type Reply = Response<Full<Bytes>>;

/// What is asked for, taken apart.
struct Question {
    method: Method,
    path: Vec<String>,
    /// In their order; a name without `=` has an empty value.
    options: Vec<(String, String)>,
    body: Bytes,
}

impl Question {
    async fn read(request: Request<Incoming>) -> Result<Self, String> {
        let (head, body) = request.into_parts();
        let split = |pair: &str| match pair.split_once('=') {
            Some((name, value)) => (decode(name), decode(value)),
            None => (decode(pair), String::new()),
        };
        let pairs = head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let body = Limited::new(body, REGISTRATION_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("Request decode failed: {error}"))?;
        Ok(Self {
            method: head.method,
            path: head.uri.path().trim_start_matches('/').split('/').map(decode).collect(),
            options: pairs.map(split).collect(),
            body: body.to_bytes(),
        })
    }

    fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(option, _)| option == name)
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.options.iter().filter(|(option, _)| option == name).map(|(_, value)| value.clone()).collect()
    }

    /// The index to wait beyond, and how long.
    fn block(&self) -> Result<(u64, Duration), &'static str> {
        let index = match self.all("index").first() {
            Some(index) => index.parse().map_err(|_invalid| "Invalid index")?,
            None => 0,
        };
        let wait = match self.all("wait").first() {
            // A number alone is no span for Consul.
            Some(wait) if wait.ends_with(|last: char| last.is_ascii_digit()) => return Err("Invalid wait time"),
            Some(wait) => parse_duration(wait).ok_or("Invalid wait time")?,
            None => WAIT_DEFAULT,
        };
        Ok((index, wait.min(WAIT_MAX)))
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let told = change(&mut self.store());
        self.changed.send_modify(|count| *count += 1);
        told
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Reply> {
        let question = match Question::read(request).await {
            Ok(question) => question,
            Err(wrong) => return Ok(plain(StatusCode::BAD_REQUEST, &wrong)),
        };
        let mut faults = self.fault.subscribe();
        loop {
            let fault = *faults.borrow_and_update();
            let reply = async {
                match fault {
                    Fault::Error => plain(StatusCode::INTERNAL_SERVER_ERROR, "No cluster leader"),
                    Fault::Garbage => reply(StatusCode::OK, Bytes::from_static(b"<html>no catalog here</html>")),
                    Fault::Hang => std::future::pending().await,
                    _ => self.reply(&question, fault).await,
                }
            };
            if fault == Fault::Cut {
                return Err(io::Error::other("cut, as asked for"));
            }
            tokio::select! {
                biased;
                changed = faults.changed() => changed.map_err(io::Error::other)?,
                reply = reply => return Ok(reply),
            }
        }
    }

    async fn reply(&self, question: &Question, fault: Fault) -> Reply {
        let path: Vec<&str> = question.path.iter().map(String::as_str).collect();
        let method = match path.as_slice() {
            ["v1", "catalog" | "health" | "status", ..] => Method::GET,
            ["v1", "agent", "service" | "check", ..] => Method::PUT,
            _ => return plain(StatusCode::NOT_FOUND, ""),
        };
        if question.method != method {
            return plain(StatusCode::METHOD_NOT_ALLOWED, &format!("method {} not allowed", question.method));
        }
        match path.as_slice() {
            ["v1", "catalog", "services"] => self.block(question, fault, Store::services).await,
            ["v1", "catalog", "nodes"] => self.block(question, fault, Store::nodes).await,
            ["v1", "health", "service", name] => {
                let (tags, must_pass) = (question.all("tag"), question.has("passing"));
                self.block(question, fault, |store| store.health(name, &tags, must_pass)).await
            }
            ["v1", "health", "state", state] => self.block(question, fault, |store| store.checks(state)).await,
            ["v1", "status", "leader"] => reply(StatusCode::OK, Bytes::from_static(b"\"127.0.0.1:8300\"")),
            ["v1", "agent", "service", "register"] => self.register(&question.body),
            ["v1", "agent", "service", "deregister", id] => {
                self.change(|store| store.deregister(id));
                done()
            }
            ["v1", "agent", "check", "pass", id] => self.set_check(question, id, Status::Passing),
            ["v1", "agent", "check", "warn", id] => self.set_check(question, id, Status::Warning),
            ["v1", "agent", "check", "fail", id] => self.set_check(question, id, Status::Critical),
            _ => plain(StatusCode::NOT_FOUND, ""),
        }
    }

    fn register(&self, body: &[u8]) -> Reply {
        let told = match serde_json::from_slice(body) {
            Ok(registration) => self.change(|store| store.register(registration)),
            Err(error) => Err(format!("Request decode failed: {error}")),
        };
        told.map_or_else(|wrong| plain(StatusCode::BAD_REQUEST, &wrong), |()| done())
    }

    fn set_check(&self, question: &Question, id: &str, status: Status) -> Reply {
        let output = question.all("note").concat();
        if self.change(|store| store.set_check(id, status, &output)) {
            return done();
        }
        let text = format!("CheckID \"{id}\" does not have associated TTL");
        plain(StatusCode::INTERNAL_SERVER_ERROR, &text)
    }

    /// Answers at once, or when the index is above the one asked with, or when the wait is over: then with what is the
    /// case, even if its index is lower.
    async fn block(&self, question: &Question, fault: Fault, read: impl Fn(&Store) -> Told) -> Reply {
        let (index, wait) = match question.block() {
            Ok(block) => block,
            Err(wrong) => return plain(StatusCode::BAD_REQUEST, wrong),
        };
        let mut changed = self.changed.subscribe();
        let read = || {
            let (value, index) = read(&self.store());
            (value, index.saturating_sub(self.index_shift.load(Ordering::Relaxed)).max(1))
        };
        let until_above = async {
            while index != 0 && read().1 <= index {
                // The sender lives as long as we do.
                _ = changed.changed().await;
            }
        };
        // So that not all clients come back at once.
        let jitter = (wait / 16).mul_f64(fastrand::f64());
        _ = tokio::time::timeout(wait + jitter, until_above).await;
        let (value, index) = read();
        let value = if fault == Fault::Empty { emptied(&value) } else { value };
        let body = Bytes::from(format!("{value}\n"));
        let mut reply = reply(StatusCode::OK, body);
        let leader = if fault == Fault::NoLeader { "false" } else { "true" };
        let headers = [
            ("X-Consul-Index", index.to_string()),
            ("X-Consul-Knownleader", leader.to_owned()),
            ("X-Consul-Lastcontact", "0".to_owned()),
        ];
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), http::HeaderValue::try_from(value)) {
                reply.headers_mut().insert(name, value);
            }
        }
        reply
    }
}

fn emptied(value: &Value) -> Value {
    if value.is_object() { json!({}) } else { json!([]) }
}

fn reply(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(http::header::VARY, http::HeaderValue::from_static("Accept-Encoding"));
    reply
}

fn plain(status: StatusCode, text: &str) -> Reply {
    let mut reply = reply(status, Bytes::from(text.to_owned()));
    reply.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

fn done() -> Reply {
    plain(StatusCode::OK, "")
}

/// Undoes percent-encoding; what is not encoded rightly stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..2).and_then(|code| std::str::from_utf8(code).ok()).and_then(|code| u8::from_str_radix(code, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
