//! A server that answers as its test says, and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate::clock;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One request that came in, its body read.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Instant,
    /// By whom the request was sent: our own probes and checks say `tidegate/...`.
    pub agent: String,
    /// `GET /path?query`.
    pub line: String,
    pub head: http::HeaderMap,
    pub body: Bytes,
}

impl Asked {
    /// Whether it is one of our own checks.
    pub fn is_probe(&self) -> bool {
        self.agent.starts_with("tidegate/")
    }
}

type Answering = dyn Fn(Asked) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync;

/// A server. Dropping it kills it, as SIGKILL would.
pub struct Upstream {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _kill: watch::Sender<bool>,
}

impl Upstream {
    /// A server that answers each request by `answer`.
    pub async fn start<F>(answer: impl Fn(Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (_kill, killed) = watch::channel(false);
        let answer: Arc<Answering> = Arc::new(move |asked| Box::pin(answer(asked)));
        tokio::spawn(serve(listener, killed, answer, Arc::clone(&asked)));
        Self { address, asked, _kill }
    }

    /// A server that says its name.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |_| async move { ok(name) }).await
    }

    /// As a file names it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests of users, in their order.
    pub fn users(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| !asked.is_probe()).cloned().collect()
    }

    /// Our own checks, in their order.
    pub fn probes(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.is_probe()).cloned().collect()
    }
}

/// 200 with this body.
pub fn ok(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(body.into()))
}

/// A status with this body.
pub fn status(status: u16, body: &'static str) -> Response<Full<Bytes>> {
    let mut answer = ok(body);
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
    answer
}

async fn serve(listener: TcpListener, mut killed: watch::Receiver<bool>, answer: Arc<Answering>, log: Arc<Mutex<Vec<Asked>>>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = killed.changed() => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                running.spawn(async move {
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                            let agent = head.headers.get("user-agent").map_or("", |agent| agent.to_str().unwrap_or(""));
                            let asked = Asked {
                                at: clock::now(),
                                agent: agent.to_owned(),
                                line: format!("{} {}", head.method, head.uri),
                                head: head.headers,
                                body,
                            };
                            log.lock().unwrap().push(asked.clone());
                            Ok::<_, Infallible>(answer(asked).await)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }
    }
}
