//! Raw ends for wire tests: a listener around a toy application, a client that speaks bytes, servers that follow a script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pingora::prelude::{Error, HttpPeer, ProxyHttp, RequestHeader, Session};
use pingora::server::configuration::ServerConf;
use pingora_core::upstreams::peer::{ALPN, H1UpgradePolicy};
use pingora_http::ResponseHeader;
use pingora_proxy::http_proxy;
use tidegate::config::install;
use tidegate::listener::{self, Counters, Drain, Front, Shared, connection_of};
use tidegate::observe::metrics::Metrics;
use tidegate::routing::entrypoint::Entrypoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Everything here is over within this time, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The engine's application in these tests: sends each request to the next of its servers.
pub struct Toy {
    servers: Mutex<VecDeque<HttpPeer>>,
    /// What `connection_of` said of each request.
    pub seen: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl ProxyHttp for Toy {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, _: &mut ()) -> pingora::Result<bool> {
        let facts = connection_of(session).map_or_else(
            || "unknown".to_owned(),
            |facts| {
                format!("{} {} {:?}", facts.entrypoint.name, facts.client.ip(), facts.tls.as_ref().map(|tls| &tls.server_name))
            },
        );
        self.seen.lock().unwrap().push(facts);
        match session.req_header().uri.path() {
            "/own" => {
                let mut answer = ResponseHeader::build(200, Some(2))?;
                answer.insert_header("Content-Length", "3")?;
                session.write_response_header(Box::new(answer), false).await?;
                session.write_response_body(Some("own".into()), true).await?;
                Ok(true)
            }
            "/echo-head" => {
                let mut wire = Vec::new();
                session.req_header().header_to_h1_wire(&mut wire);
                let body = [session.req_header().raw_path(), b"\n", &wire].concat();
                let mut answer = ResponseHeader::build(200, Some(2))?;
                answer.insert_header("Content-Length", body.len())?;
                session.write_response_header(Box::new(answer), false).await?;
                session.write_response_body(Some(body.into()), true).await?;
                Ok(true)
            }
            "/panic" => panic!("as asked"),
            _ => Ok(false),
        }
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let mut servers = self.servers.lock().unwrap();
        let peer = servers.pop_front().unwrap();
        servers.push_back(peer.clone());
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(&self, _: &mut Session, request: &mut RequestHeader, _: &mut ()) -> pingora::Result<()> {
        // With upgrades preserved the engine strips nothing of an upgrade request.
        request.remove_header("transfer-encoding");
        Ok(())
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, _: &mut (), mut error: Box<Error>) -> Box<Error> {
        error.set_retry(true);
        error
    }
}

/// A listener with a toy application behind it.
pub struct Edge {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    pub drain: Arc<Drain>,
    pub seen: Arc<Mutex<Vec<String>>>,
}

/// How an [`Edge`] is to be.
#[derive(Default)]
pub struct EdgeBuilder {
    servers: VecDeque<HttpPeer>,
    settings: install::Entrypoint,
    connections_max: Option<usize>,
}

pub fn edge() -> EdgeBuilder {
    EdgeBuilder::default()
}

impl EdgeBuilder {
    pub fn server(mut self, address: SocketAddr) -> Self {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Preserve;
        self.servers.push_back(peer);
        self
    }

    pub fn h2_server(mut self, address: SocketAddr) -> Self {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.alpn = ALPN::H2;
        self.servers.push_back(peer);
        self
    }

    pub fn settings(mut self, change: impl FnOnce(&mut install::Entrypoint)) -> Self {
        change(&mut self.settings);
        self
    }

    pub fn connections_max(mut self, max: usize) -> Self {
        self.connections_max = Some(max);
        self
    }

    pub fn start(self) -> Edge {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let toy = Toy { servers: Mutex::new(self.servers), seen: seen.clone() };
        let shared = Shared {
            proxy: Arc::new(http_proxy(&Arc::new(ServerConf::default()), toy)),
            counters: Arc::new(Counters::default()),
            drain: Arc::new(Drain::default()),
            connections_max: self.connections_max.unwrap_or(1000),
        };
        let socket = listener::bind("127.0.0.1:0").unwrap().listen().unwrap();
        let address = socket.local_addr().unwrap();
        let entrypoint = Arc::new(Entrypoint::new("web", 0, self.settings, "test"));
        let metrics = Metrics::new(&install::Prometheus::default(), false).entrypoint("web");
        let front = Front::new(entrypoint, Arc::default(), metrics, &shared);
        listener::serve(socket, Arc::new(front)).unwrap();
        Edge { address, counters: shared.counters, drain: shared.drain, seen }
    }
}

impl Edge {
    pub async fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends `bytes` on a connection of its own and gives all that comes back until the end.
    pub async fn ask(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.rest().await
    }
}

/// A client that speaks bytes.
pub struct Client<S> {
    pub stream: S,
    unread: Vec<u8>,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Failure is none: the other side may have closed already.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Reads up to and including `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = find(&self.unread, end.as_bytes()) {
                    return self.unread.drain(..at + end.len()).collect::<Vec<_>>();
                }
                let count = self.stream.read_buf(&mut self.unread).await.unwrap();
                assert!(count > 0, "ended before {end:?}: {:?}", String::from_utf8_lossy(&self.unread));
            }
        };
        let bytes = tokio::time::timeout(PATIENCE, read).await;
        String::from_utf8(bytes.unwrap_or_else(|_| panic!("no {end:?} in time"))).unwrap()
    }

    /// Reads one whole answer with a `Content-Length`, or only its head if it has none.
    pub async fn answer(&mut self) -> String {
        let head = self.until("\r\n\r\n").await;
        let length =
            head.to_lowercase().split_once("content-length: ").map(|(_, rest)| rest.lines().next().unwrap().parse().unwrap());
        let body = self.exactly(length.unwrap_or(0)).await;
        head + &body
    }

    pub async fn exactly(&mut self, length: usize) -> String {
        let read = async {
            while self.unread.len() < length {
                assert!(self.stream.read_buf(&mut self.unread).await.unwrap() > 0, "ended early");
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("no whole body in time");
        String::from_utf8(self.unread.drain(..length).collect()).unwrap()
    }

    /// Everything until the end of the connection, however it ends.
    pub async fn rest(&mut self) -> String {
        let read = async { while matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..)) {} };
        tokio::time::timeout(PATIENCE, read).await.expect("the connection did not end in time");
        String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// One step of a server's script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads until this was seen.
    Until(&'static str),
    /// Sends this.
    Send(&'static [u8]),
    /// Ends the connection.
    Close,
    /// Reads until the client's end.
    Drain,
}

/// A server whose every connection follows the same script, again and again until it says `Close`.
pub struct Server {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    pub connections: Arc<Mutex<usize>>,
}

impl Server {
    pub async fn start(script: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received: Arc<Mutex<Vec<u8>>> = Arc::default();
        let connections = Arc::new(Mutex::new(0));
        let (log, count) = (received.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                tokio::spawn(follow(stream, script.clone(), log.clone()));
            }
        });
        Self { address, received, connections }
    }

    /// Answers every request that has no body.
    pub async fn answering(answer: &'static [u8]) -> Self {
        Self::start(vec![Step::Until("\r\n\r\n"), Step::Send(answer)]).await
    }

    /// Everything it received, on all connections.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }

    /// Waits until it has received `what`.
    pub async fn has_received(&self, what: &str) {
        wait_for(|| self.received().contains(what)).await;
    }
}

/// Waits until `is_so`.
pub async fn wait_for(is_so: impl Fn() -> bool) {
    let poll = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.expect("it did not come to pass in time");
}

async fn follow(mut stream: TcpStream, script: Vec<Step>, log: Arc<Mutex<Vec<u8>>>) {
    let mut unread = Vec::new();
    loop {
        for step in &script {
            let mut read = 1;
            match step {
                Step::Until(what) => loop {
                    if let Some(at) = find(&unread, what.as_bytes()) {
                        unread.drain(..at + what.len());
                        break;
                    }
                    let before = unread.len();
                    read = stream.read_buf(&mut unread).await.unwrap_or(0);
                    log.lock().unwrap().extend_from_slice(&unread[before..]);
                    if read == 0 {
                        return;
                    }
                },
                Step::Send(bytes) => {
                    if stream.write_all(bytes).await.is_err() {
                        return;
                    }
                }
                Step::Drain => {
                    while read > 0 {
                        unread.clear();
                        read = stream.read_buf(&mut unread).await.unwrap_or(0);
                        log.lock().unwrap().extend_from_slice(&unread);
                    }
                }
                Step::Close => return,
            }
        }
    }
}

/// An address on which nobody listens.
pub fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
