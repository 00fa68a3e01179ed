//! An instance that looks like cljdoc's: a page over HTTP, an echo for uploads, and a second TCP port that speaks first.
//!
//! How it behaves can be changed while it runs, so that a good version, a failing one and one that hangs are the same program.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The largest upload that is echoed.
const UPLOAD_BYTES_MAX: u64 = 1 << 20;

/// How an instance answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour {
    /// 200 after so long.
    Good(Duration),
    /// 500 for this part of the requests, between 0 and 1.
    Failing(f64),
    /// Accepts and never answers.
    Hanging,
}

/// A running instance. Dropping it kills it: its ports refuse and its connections break at once.
#[derive(Debug)]
pub struct Instance {
    /// Where it serves HTTP.
    pub address: SocketAddr,
    /// Where it greets over raw TCP, as JMX would.
    pub jmx: SocketAddr,
    state: Arc<State>,
    kill: watch::Sender<bool>,
    serving: [JoinHandle<()>; 2],
}

/// What instances know and visitors cannot: which requests one of them took and did not answer as it should.
#[derive(Debug, Default)]
pub struct Witness {
    /// Uploads that are with an instance, or were and went wrong there, with its version.
    uploads: Mutex<BTreeMap<String, String>>,
    /// Uploads that a second instance got although the first one had them.
    twice: AtomicU64,
    /// Pages that an instance failed or never answered.
    failed: AtomicU64,
}

impl Witness {
    /// The version that took an upload and spoiled it, if one did; it is forgotten then.
    pub fn spoiled(&self, path: &str) -> Option<String> {
        self.uploads().remove(path)
    }

    /// How many uploads reached a second instance although they may have been carried out by the first.
    pub fn twice(&self) -> u64 {
        self.twice.load(Ordering::Relaxed)
    }

    /// How many requests for pages instances failed or never answered.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn uploads(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    version: String,
    witness: Arc<Witness>,
    behaviour: ArcSwap<Behaviour>,
    requests: AtomicU64,
    in_flight: AtomicUsize,
}

impl Instance {
    /// Starts an instance of `version` on two ports that the kernel gives.
    pub async fn start(version: &str, behaviour: Behaviour) -> std::io::Result<Self> {
        Self::start_watched(version, behaviour, Arc::default()).await
    }

    /// The same, under the eyes of a witness.
    pub async fn start_watched(version: &str, behaviour: Behaviour, witness: Arc<Witness>) -> std::io::Result<Self> {
        let web = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let jmx = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let (kill, killed) = watch::channel(false);
        let state = Arc::new(State {
            version: version.to_owned(),
            witness,
            behaviour: ArcSwap::from_pointee(behaviour),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        });
        let (address, jmx_address) = (web.local_addr()?, jmx.local_addr()?);
        let pages = serve(web, killed.clone(), {
            let state = Arc::clone(&state);
            move |stream| serve_http(stream, Arc::clone(&state))
        });
        let greetings = serve(jmx, killed, {
            let state = Arc::clone(&state);
            move |stream| greet(stream, Arc::clone(&state))
        });
        let serving = [tokio::spawn(pages), tokio::spawn(greetings)];
        Ok(Self { address, jmx: jmx_address, state, kill, serving })
    }

    /// Makes it behave otherwise from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state.behaviour.store(Arc::new(behaviour));
    }

    /// Requests it has had.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Requests it has right now.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Kills it, as SIGKILL would.
    pub fn kill(self) {
        let _ = self.kill.send(true);
    }

    /// The same, and waits until its ports and connections are gone.
    pub async fn kill_and_wait(self) {
        let _ = self.kill.send(true);
        for serving in self.serving {
            // It ends by itself.
            let _ = serving.await;
        }
    }
}

/// Accepts until killed; then everything that runs is cut off.
async fn serve<F>(listener: TcpListener, mut killed: watch::Receiver<bool>, connection: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // Ends on the kill, and when the instance is dropped.
            _ = killed.changed() => break,
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let _ = stream.set_nodelay(true);
                running.spawn(connection(stream));
            },
            Some(_) = running.join_next() => {}
        }
    }
    drop(listener);
    running.shutdown().await;
}

async fn serve_http(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    // A client that leaves is no news to an instance.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let _running = Running::begin(&state.in_flight);
    let path = request.uri().path().to_owned();
    let is_upload = request.method() == Method::POST;
    let mut taken = Taken::begin(&state, path.clone(), is_upload);
    let upload = http_body_util::Limited::new(request.into_body(), usize::try_from(UPLOAD_BYTES_MAX).unwrap_or(usize::MAX));
    let Ok(upload) = upload.collect().await else { return Ok(reply(&state, StatusCode::PAYLOAD_TOO_LARGE, Bytes::new())) };
    match **state.behaviour.load() {
        Behaviour::Hanging => return std::future::pending().await,
        Behaviour::Failing(part) if fastrand::f64() < part => {
            return Ok(reply(&state, StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"broken\n")));
        }
        Behaviour::Good(after) if !after.is_zero() => tokio::time::sleep(after).await,
        Behaviour::Failing(_) | Behaviour::Good(_) => {}
    }
    taken.is_answered = true;
    let body = if is_upload { upload.to_bytes() } else { page(&state, &path) };
    Ok(reply(&state, StatusCode::OK, body))
}

/// A page that is long enough to be compressed.
fn page(state: &State, path: &str) -> Bytes {
    let line = format!("<p>{path} of version {}</p>\n", state.version);
    Bytes::from(format!("<!doctype html>\n{}", line.repeat(2048 / line.len() + 1)))
}

fn reply(state: &State, status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(version) = http::HeaderValue::from_str(&state.version) {
        headers.insert("x-version", version);
    }
    response
}

/// Speaks first, then echoes.
async fn greet(mut stream: TcpStream, state: Arc<State>) {
    let greeting = format!("jmx of version {}\n", state.version);
    if stream.write_all(greeting.as_bytes()).await.is_ok() {
        let (mut reading, mut writing) = stream.split();
        let _ = tokio::io::copy(&mut reading, &mut writing).await;
    }
}

/// Counts a request in and, however it ends, out.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is with an instance. Unless it is answered, the witness knows of it.
struct Taken<'a> {
    state: &'a State,
    path: String,
    is_upload: bool,
    is_answered: bool,
}

impl<'a> Taken<'a> {
    fn begin(state: &'a State, path: String, is_upload: bool) -> Self {
        if is_upload && state.witness.uploads().insert(path.clone(), state.version.clone()).is_some() {
            state.witness.twice.fetch_add(1, Ordering::Relaxed);
        }
        Self { state, path, is_upload, is_answered: false }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let witness = &self.state.witness;
        if self.is_upload && self.is_answered {
            witness.uploads().remove(&self.path);
        } else if !self.is_upload && !self.is_answered && self.path != "/" {
            // The first page is what the proxy itself asks for.
            witness.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
