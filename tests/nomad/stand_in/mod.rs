//! A Nomad for tests: a small HTTP server in this process that behaves as the recorded 1.11.1 did, and breaks when asked to.
//!
//! A test is the operator (`submit`, `deregister`, ...) and the nodes: what is to be started and stopped comes as [`Order`]s,
//! and the test reports what became of it. [`Nomad::run_tasks`] does that at once for tests without real instances. Other test
//! binaries take this module in with `#[path = "../nomad/stand_in/mod.rs"]`.

#![allow(dead_code, unused_imports, reason = "other test binaries use other parts")]

pub mod cluster;
mod scheduler;
mod shape;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tidegate::orchestrator::JobKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use cluster::Cluster;
pub use cluster::{Group, Order, Spec, Task};

/// What a Nomad in trouble does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// Answers with this status and text.
    Status(u16, &'static str),
    /// Answers 200 and something that is not JSON.
    Nonsense,
    /// Takes the question and never answers.
    Silence,
    /// Answers rightly, after so long.
    Slow(Duration),
    /// Closes the connection instead of answering.
    Cut,
    /// Carries the call out and closes the connection instead of answering.
    Swallow,
    /// Answers with empty lists, as to a token without rights.
    Empty,
}

/// What is wrong with the event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StreamFault {
    #[default]
    None,
    /// Refuses new streams with this status.
    Refuse(u16),
    /// Says each line twice.
    Double,
    /// Leaves lines out.
    Hole,
    /// Says something else in a line's place.
    Garble,
    /// Says nothing any more, not even that it lives.
    Silence,
}

/// The running stand-in. Dropping it ends it.
pub struct Nomad {
    shared: Arc<Shared>,
    pub address: SocketAddr,
    _end: DropGuard,
}

struct Shared {
    cluster: Mutex<Cluster>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    reads: watch::Sender<Fault>,
    calls: watch::Sender<Fault>,
    stream: watch::Sender<StreamFault>,
    /// Streams of another generation end: in words, or not.
    generation: watch::Sender<(u64, bool)>,
    /// Without a leader lists are empty, and a new stream tells the whole history.
    has_leader: watch::Sender<bool>,
    heartbeat: Mutex<Duration>,
    token: Mutex<Option<String>>,
    /// What was asked for, in order: method, path and body.
    asked: Mutex<Vec<String>>,
    streams: watch::Sender<usize>,
}

impl Nomad {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            cluster: Mutex::new(Cluster { index: 9, ..Cluster::default() }),
            changed: watch::Sender::new(0),
            reads: watch::Sender::new(Fault::None),
            calls: watch::Sender::new(Fault::None),
            stream: watch::Sender::new(StreamFault::None),
            generation: watch::Sender::new((0, false)),
            has_leader: watch::Sender::new(true),
            heartbeat: Mutex::new(Duration::from_secs(30)),
            token: Mutex::new(None),
            asked: Mutex::default(),
            streams: watch::Sender::new(0),
        });
        let end = CancellationToken::new();
        let accepting = Arc::clone(&shared);
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, Arc::clone(&accepting), false));
            }
        }));
        Self { shared, address, _end: end.drop_guard() }
    }

    /// Answers on a socket, too, as a task's own: there it wants a token always.
    pub fn listen(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared), true));
            }
        });
    }

    /// Answers over TLS, too; where.
    pub async fn listen_tls(&self, config: rustls::ServerConfig) -> SocketAddr {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, shared, false).await;
                    }
                });
            }
        });
        address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does something to the cluster; everybody who waits is told.
    pub fn change<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        self.shared.change(change)
    }

    /// Looks at the cluster.
    pub fn see<T>(&self, see: impl FnOnce(&Cluster) -> T) -> T {
        see(&self.shared.cluster())
    }

    pub fn submit(&self, spec: Spec) -> u64 {
        self.change(|cluster| cluster.submit(spec))
    }

    /// The id of the newest deployment of a job.
    pub fn deployment(&self, job: &str) -> String {
        let newest = |cluster: &Cluster| {
            let of_job = cluster.deployments.values().filter(|deployment| deployment.key.job == job);
            of_job.max_by_key(|deployment| (deployment.version, deployment.create_index)).map(|deployment| deployment.id.clone())
        };
        self.see(newest).expect("a deployment")
    }

    /// The ids of a job's allocations that are to run, of one version.
    pub fn allocations(&self, job: &str, version: u64) -> Vec<String> {
        self.see(|cluster| {
            let of_job = cluster.allocations.values().filter(|found| found.key.job == job && found.desired == "run");
            of_job.filter(|found| found.version == version).map(|found| found.id.clone()).collect()
        })
    }

    /// What the nodes have to do next, if anything.
    pub fn next_order(&self) -> Option<Order> {
        self.shared.cluster().orders.pop_front()
    }

    /// What the nodes have to do next; waits for it.
    pub async fn order(&self) -> Order {
        let mut changed = self.shared.changed.subscribe();
        loop {
            if let Some(order) = self.next_order() {
                return order;
            }
            changed.changed().await.unwrap();
        }
    }

    /// Plays nodes whose instances are healthy at once and end at once.
    pub fn run_tasks(&self) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let mut changed = shared.changed.subscribe();
            loop {
                let order = shared.cluster().orders.pop_front();
                match order {
                    Some(Order::Start(task)) => shared.change(|cluster| {
                        cluster.running(&task.allocation);
                        cluster.healthy(&task.allocation);
                    }),
                    Some(Order::Update(task)) => shared.change(|cluster| cluster.healthy(&task.allocation)),
                    Some(Order::Stop { allocation }) => shared.change(|cluster| cluster.complete(&allocation)),
                    None if changed.changed().await.is_err() => return,
                    None => {}
                }
            }
        });
    }

    /// Begins or ends trouble with questions, for those under way too.
    pub fn fault_reads(&self, fault: Fault) {
        self.shared.reads.send_replace(fault);
    }

    /// Begins or ends trouble with calls.
    pub fn fault_calls(&self, fault: Fault) {
        self.shared.calls.send_replace(fault);
    }

    pub fn fault_stream(&self, fault: StreamFault) {
        self.shared.stream.send_replace(fault);
    }

    /// Breaks all streams off without a word.
    pub fn cut_streams(&self) {
        self.shared.generation.send_modify(|(generation, is_polite)| (*generation, *is_polite) = (*generation + 1, false));
    }

    /// Ends all streams as a server does that is told to end; until [`Nomad::elect`] there is no leader.
    pub fn restart(&self) {
        self.shared.has_leader.send_replace(false);
        self.shared.generation.send_modify(|(generation, is_polite)| (*generation, *is_polite) = (*generation + 1, true));
    }

    pub fn elect(&self) {
        self.shared.has_leader.send_replace(true);
        self.change(|_| {});
    }

    /// Everything is forgotten, the index too.
    pub fn wipe(&self) {
        self.change(|cluster| *cluster = Cluster { index: 1, tables: [1; 3], ..Cluster::default() });
        self.cut_streams();
    }

    pub fn heartbeat(&self, interval: Duration) {
        *self.shared.heartbeat.lock().unwrap() = interval;
    }

    /// From now on nobody is answered without this token.
    pub fn require_token(&self, token: &str) {
        *self.shared.token.lock().unwrap() = Some(token.to_owned());
    }

    /// The events so far, by index, as a stream from the beginning would tell them.
    pub fn lines(&self) -> Vec<(u64, Vec<Value>)> {
        self.see(|cluster| cluster.lines.iter().cloned().collect())
    }

    /// What was asked for so far, in order.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The calls among them: all that is not a question.
    pub fn called(&self) -> Vec<String> {
        self.asked().into_iter().filter(|asked| !asked.starts_with("GET ")).collect()
    }

    /// How many streams are open, to be waited for.
    pub fn streams(&self) -> watch::Receiver<usize> {
        self.shared.streams.subscribe()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>, is_socket: bool) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(shared, request, is_socket).await }
    });
    // How a test ends a connection is its own business.
    _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// What is asked for, taken apart.
struct Question {
    method: Method,
    path: Vec<String>,
    options: Vec<(String, String)>,
    body: Value,
}

impl Question {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(option, _)| option == name).map(|(_, value)| value.as_str())
    }

    fn covers(&self, key: &JobKey) -> bool {
        matches!(self.option("namespace").unwrap_or("default"), namespace if namespace == "*" || namespace == key.namespace)
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>, is_socket: bool) -> io::Result<Reply> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let url = reqwest::Url::parse(&format!("http://nomad{}", head.uri)).unwrap();
    let decode = |part: &str| part.replace("%2F", "/").replace("%20", " ");
    let question = Question {
        method: head.method,
        path: url.path_segments().unwrap().map(decode).collect(),
        options: url.query_pairs().into_owned().collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let asked = format!("{} {} {}", question.method, head.uri, String::from_utf8_lossy(&body));
    shared.asked.lock().unwrap().push(asked.trim_end().to_owned());
    let token = head.headers.get("x-nomad-token").and_then(|token| token.to_str().ok());
    if is_socket && token.is_none() {
        return Ok(plain(401, "Unauthorized"));
    }
    if shared.token.lock().unwrap().as_deref().is_some_and(|wanted| token != Some(wanted)) {
        return Ok(plain(403, "Permission denied"));
    }
    if question.path == ["v1", "event", "stream"] {
        return Ok(stream::stream(shared, &question));
    }
    let mut faults = if question.method == Method::GET { shared.reads.subscribe() } else { shared.calls.subscribe() };
    loop {
        let fault = *faults.borrow_and_update();
        let reply = async {
            match fault {
                Fault::Status(status, text) => Ok(plain(status, text)),
                Fault::Nonsense => Ok(reply(StatusCode::OK, "text/html", "<html>no nomad here</html>".to_owned())),
                Fault::Silence => std::future::pending().await,
                Fault::Cut => Err(io::Error::other("cut, as asked for")),
                Fault::Swallow => {
                    shared.reply(&question, fault).await;
                    Err(io::Error::other("cut, as asked for"))
                }
                Fault::Slow(time) => {
                    tokio::time::sleep(time).await;
                    Ok(shared.reply(&question, fault).await)
                }
                Fault::None | Fault::Empty => Ok(shared.reply(&question, fault).await),
            }
        };
        tokio::select! {
            biased;
            changed = faults.changed() => changed.map_err(io::Error::other)?,
            reply = reply => return reply,
        }
    }
}

impl Shared {
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        let told = change(&mut self.cluster());
        self.changed.send_modify(|count| *count += 1);
        told
    }

    async fn reply(&self, question: &Question, fault: Fault) -> Reply {
        let path: Vec<&str> = question.path.iter().map(String::as_str).collect();
        match (question.method.as_str(), path.as_slice()) {
            ("GET", ["v1", "jobs"]) => self.list(question, fault, 0).await,
            ("GET", ["v1", "allocations"]) => self.list(question, fault, 1).await,
            ("GET", ["v1", "deployments"]) => self.list(question, fault, 2).await,
            ("GET", _) => self.one(question, &path),
            (_, ["v1", ..]) => self.call(question, &path),
            _ => plain(404, "Invalid URL"),
        }
    }

    /// A list: at once, or when its table has changed, or when the wait is over.
    async fn list(&self, question: &Question, fault: Fault, table: usize) -> Reply {
        let index: u64 = question.option("index").and_then(|index| index.parse().ok()).unwrap_or(0);
        let wait = question.option("wait").and_then(tidegate::config::node::parse_duration).unwrap_or(Duration::from_secs(300));
        let mut changed = self.changed.subscribe();
        let until_above = async {
            while index != 0 && self.cluster().tables[table] <= index {
                changed.changed().await.unwrap();
            }
        };
        _ = tokio::time::timeout(wait, until_above).await;
        let cluster = self.cluster();
        let has_leader = *self.has_leader.borrow();
        let list: Vec<Value> = if !has_leader || fault == Fault::Empty {
            Vec::new()
        } else {
            let with_states = question.option("task_states") != Some("false");
            match table {
                0 => cluster
                    .jobs
                    .iter()
                    .filter(|(key, _)| question.covers(key))
                    .map(|(key, job)| shape::job_listed(key, job))
                    .collect(),
                1 => {
                    let meant = cluster.allocations.values().filter(|found| question.covers(&found.key));
                    meant.map(|found| shape::allocation_listed(found, with_states)).collect()
                }
                _ => cluster.deployments.values().filter(|found| question.covers(&found.key)).map(shape::deployment).collect(),
            }
        };
        let index = if has_leader { cluster.tables[table].max(1) } else { 0 };
        indexed(json(&json!(list)), index, has_leader)
    }

    fn one(&self, question: &Question, path: &[&str]) -> Reply {
        let cluster = self.cluster();
        let namespace = question.option("namespace").filter(|namespace| *namespace != "*").unwrap_or("default");
        let key = |job: &str| JobKey { namespace: namespace.to_owned(), job: job.to_owned() };
        let (table, found, missing) = match path {
            ["v1", "job", id] => (0, cluster.jobs.get(&key(id)).map(|job| shape::job(&key(id), job)), "job not found"),
            ["v1", "job", id, "deployments"] => {
                let of_job = cluster.deployments.values().filter(|found| found.key == key(id)).map(shape::deployment);
                (2, Some(of_job.collect()), "")
            }
            ["v1", "job", id, "allocations"] => {
                let of_job = cluster.allocations.values().filter(|found| found.key == key(id));
                (1, Some(of_job.map(|found| shape::allocation_listed(found, true)).collect()), "")
            }
            ["v1", "deployment", "allocations", id] => {
                let placed = cluster.allocations.values().filter(|found| found.deployment.as_deref() == Some(id));
                (1, Some(placed.map(|found| shape::allocation_listed(found, true)).collect()), "")
            }
            ["v1", "deployment", id] => (2, cluster.deployments.get(*id).map(shape::deployment), "deployment not found"),
            ["v1", "allocation", id] => {
                let found = cluster.allocations.get(*id).map(|found| shape::allocation(found, cluster.jobs.get(&found.key)));
                (1, found, "alloc not found")
            }
            _ => return plain(404, "Invalid URL"),
        };
        let reply = found.map_or_else(|| plain(404, missing), |found| json(&found));
        indexed(reply, cluster.tables[table].max(1), *self.has_leader.borrow())
    }

    fn call(&self, question: &Question, path: &[&str]) -> Reply {
        if !*self.has_leader.borrow() {
            return plain(500, "No cluster leader");
        }
        let namespace = question.option("namespace").unwrap_or("default").to_owned();
        let key = |job: &str| JobKey { namespace: namespace.clone(), job: job.to_owned() };
        let body = &question.body;
        if let ["v1", "deployment", "pause" | "promote", id] = path {
            match body["DeploymentID"].as_str() {
                None | Some("") => return plain(400, "DeploymentID must be specified"),
                Some(named) if named != *id => return plain(400, "Deployment ID does not match"),
                Some(_) => {}
            }
        }
        match (question.method.as_str(), path) {
            ("POST" | "PUT", ["v1", "deployment", "pause", id]) => {
                // Without the field it is resumed.
                let is_pause = body["Pause"].as_bool().unwrap_or(false);
                self.change(|cluster| cluster.pause(id, is_pause)).map_or_else(failed, |index| changed(index, !is_pause, None))
            }
            ("POST" | "PUT", ["v1", "deployment", "promote", id]) => {
                let named: Vec<String> = serde_json::from_value(body["Groups"].clone()).unwrap_or_default();
                let groups = if body["All"] == true { None } else { Some(named.as_slice()) };
                self.change(|cluster| cluster.promote(id, groups)).map_or_else(failed, |index| changed(index, true, None))
            }
            ("POST" | "PUT", ["v1", "deployment", "fail", id]) => {
                self.change(|cluster| cluster.fail(id)).map_or_else(failed, |(index, to)| changed(index, true, to))
            }
            ("POST" | "PUT", ["v1", "allocation", id, "stop"]) => match self.change(|cluster| cluster.stop_allocation(id)) {
                Some(index) => written(json!({"EvalID": EVALUATION, "Index": index}), index),
                None => plain(404, "alloc not found"),
            },
            ("POST" | "PUT", ["v1", "job", id, "revert"]) => {
                let to = body["JobVersion"].as_u64().unwrap_or(0);
                let enforced = body["EnforcePriorVersion"].as_u64();
                self.change(|cluster| cluster.revert(&key(id), to, enforced)).map_or_else(failed, |index| registered(index, true))
            }
            ("POST" | "PUT", ["v1", "job", id, "scale"]) => {
                let is_active = self.cluster().deployments.values().any(|found| found.key == key(id) && found.is_active());
                if is_active {
                    plain(400, "job scaling blocked due to active deployment")
                } else {
                    plain(500, "the stand-in does not scale")
                }
            }
            ("DELETE", ["v1", "job", id]) => {
                let is_purge = question.option("purge") == Some("true");
                let done = self.change(|cluster| if is_purge { cluster.purge(&key(id)) } else { cluster.deregister(&key(id)) });
                done.map_or_else(|| plain(404, "job not found"), |index| registered(index, false))
            }
            _ => plain(404, "Invalid URL"),
        }
    }
}

const EVALUATION: &str = "b7fdfce2-24d7-9e5f-f5ad-1cdf0478a3e0";

fn changed(index: u64, is_evaluated: bool, reverted: Option<u64>) -> Reply {
    let (evaluation, at) = if is_evaluated { (EVALUATION, index) } else { ("", 0) };
    let body = json!({
        "DeploymentModifyIndex": index, "EvalCreateIndex": at, "EvalID": evaluation, "Index": index, "RevertedJobVersion": reverted,
    });
    written(body, index)
}

fn registered(index: u64, is_revert: bool) -> Reply {
    let mut body = json!({
        "EvalCreateIndex": index, "EvalID": EVALUATION, "Index": index, "JobModifyIndex": index, "KnownLeader": false,
        "LastContact": 0, "NextToken": "",
    });
    if !is_revert {
        (body["VolumeEvalID"], body["VolumeEvalIndex"]) = (json!(""), json!(0));
        return written(body, index);
    }
    body["Warnings"] = json!("");
    indexed(json(&body), index, false)
}

fn failed(text: String) -> Reply {
    plain(500, &text)
}

fn written(body: Value, index: u64) -> Reply {
    let mut reply = json(&body);
    reply.headers_mut().insert("X-Nomad-Index", index.into());
    reply
}

fn indexed(mut reply: Reply, index: u64, has_leader: bool) -> Reply {
    let headers = reply.headers_mut();
    headers.insert("X-Nomad-Index", index.into());
    headers.insert("X-Nomad-Knownleader", has_leader.to_string().parse().unwrap());
    headers.insert("X-Nomad-Lastcontact", 0.into());
    reply
}

fn json(body: &Value) -> Reply {
    reply(StatusCode::OK, "application/json", body.to_string())
}

fn plain(status: u16, text: &str) -> Reply {
    reply(StatusCode::from_u16(status).unwrap(), "text/plain; charset=utf-8", text.to_owned())
}

fn reply(status: StatusCode, kind: &str, body: String) -> Reply {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).header("Content-Type", kind).body(body).unwrap()
}
