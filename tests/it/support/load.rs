//! Visitors at a fixed rate who do not wait for each other: each request is sent when its time has come.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::CertificateDer;
use tidegate::clock;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{Http, connect_tls};
use super::edge::Edge;

/// A visitor leaves after this.
const LEAVES_AFTER: Duration = Duration::from_secs(4);
/// Every so many requests one is a POST whose body comes back.
const POST_EVERY: u64 = 10;

/// How visitors connect.
#[derive(Clone, Copy, Debug)]
pub enum Via {
    /// HTTP/1.1, connections are used again.
    KeepAlive,
    /// HTTP/1.1, a connection each.
    NewConnections,
    /// HTTP/2 over TLS, one connection for all.
    H2,
}

/// What the visitors saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub sent: u64,
    pub served: u64,
    /// By what they would call it; POSTs apart, as `POST ...`.
    pub lost: BTreeMap<String, u64>,
    pub by_version: BTreeMap<String, u64>,
    pub slowest: Duration,
}

impl Seen {
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    pub fn of(&self, version: &str) -> u64 {
        self.by_version.get(version).copied().unwrap_or(0)
    }

    pub fn and(mut self, other: &Self) -> Self {
        self.sent += other.sent;
        self.served += other.served;
        self.slowest = self.slowest.max(other.slowest);
        for (all, one) in [(&mut self.lost, &other.lost), (&mut self.by_version, &other.by_version)] {
            one.iter().for_each(|(kind, count)| *all.entry(kind.clone()).or_default() += count);
        }
        self
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} served {:?}, lost {:?}", self.sent, self.served, self.by_version, self.lost)?;
        write!(f, ", slowest {} ms", self.slowest.as_millis())
    }
}

/// Running visitors.
pub struct Load {
    seen: Arc<Mutex<Seen>>,
    end: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    /// Sends `rate` requests a second to `edge`.
    pub fn start(edge: &Edge, via: Via, rate: u32) -> Self {
        let (seen, end) = (Arc::<Mutex<Seen>>::default(), CancellationToken::new());
        let address = if matches!(via, Via::H2) { edge.address("websecure") } else { edge.web() };
        let road = Arc::new(Road {
            via,
            address,
            roots: edge.roots().to_vec(),
            idle: Mutex::default(),
            h2: tokio::sync::OnceCell::new(),
        });
        let task = tokio::spawn(send(road, rate, Arc::clone(&seen), end.clone()));
        Self { seen, end, task }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Sends no more, and waits for what is under way.
    pub async fn stop(self) -> Seen {
        self.end.cancel();
        self.task.await.unwrap();
        Arc::try_unwrap(self.seen).unwrap().into_inner().unwrap()
    }
}

async fn send(road: Arc<Road>, rate: u32, seen: Arc<Mutex<Seen>>, end: CancellationToken) {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut under_way = JoinSet::new();
    for number in 0_u64.. {
        tokio::select! {
            biased;
            () = end.cancelled() => break,
            _ = pace.tick() => {}
        }
        seen.lock().unwrap().sent += 1;
        let (road, seen) = (Arc::clone(&road), Arc::clone(&seen));
        under_way.spawn(async move {
            let began = clock::now();
            let is_post = number % POST_EVERY == 0;
            let visit = tokio::time::timeout(LEAVES_AFTER, road.visit(number, is_post)).await;
            let mut seen = seen.lock().unwrap();
            seen.slowest = seen.slowest.max(clock::now() - began);
            let kind = match visit {
                Ok(Ok(version)) => {
                    seen.served += 1;
                    *seen.by_version.entry(version).or_default() += 1;
                    return;
                }
                Ok(Err(kind)) => kind,
                Err(_) => "no answer".to_owned(),
            };
            *seen.lost.entry(format!("{}{kind}", if is_post { "POST " } else { "" })).or_default() += 1;
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

struct Road {
    via: Via,
    address: SocketAddr,
    roots: Vec<CertificateDer<'static>>,
    idle: Mutex<Vec<Http<TcpStream>>>,
    h2: tokio::sync::OnceCell<SendRequest<Bytes>>,
}

impl Road {
    /// One visit. `Ok` is the version that answered.
    async fn visit(&self, number: u64, is_post: bool) -> Result<String, String> {
        let upload = format!("upload {number}");
        let (status, version, body) = match self.via {
            Via::H2 => self.over_h2(number, is_post, &upload).await.map_err(|error| error.to_string())?,
            _ => self.over_h1(number, is_post, &upload).await.map_err(|error| error.to_string())?,
        };
        if status != 200 {
            return Err(status.to_string());
        }
        let is_right = if is_post { body == upload } else { body.contains(&format!("/page/{number} ")) };
        if is_right { Ok(version) } else { Err("wrong body".to_owned()) }
    }

    async fn over_h1(&self, number: u64, is_post: bool, upload: &str) -> io::Result<(u16, String, String)> {
        let kept = self.idle.lock().unwrap().pop();
        let mut client = match kept {
            Some(client) => client,
            None => Http::connect(self.address).await?,
        };
        let request = if is_post {
            format!("POST /upload HTTP/1.1\r\nHost: site.test\r\nContent-Length: {}\r\n\r\n{upload}", upload.len())
        } else {
            format!("GET /page/{number} HTTP/1.1\r\nHost: site.test\r\n\r\n")
        };
        let answer = client.ask(request).await?;
        if matches!(self.via, Via::KeepAlive) && !answer.is_last() {
            self.idle.lock().unwrap().push(client);
        }
        Ok((answer.status, answer.field("x-version").unwrap_or("?").to_owned(), answer.text()))
    }

    async fn over_h2(&self, number: u64, is_post: bool, upload: &str) -> io::Result<(u16, String, String)> {
        let connect = async {
            let stream = connect_tls(self.address, "site.test", &self.roots, &["h2"]).await?;
            let (client, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok::<_, io::Error>(client)
        };
        let client = self.h2.get_or_try_init(|| connect).await?.clone();
        let mut client = client.ready().await.map_err(io::Error::other)?;
        let (method, path) = if is_post { ("POST", "/upload".to_owned()) } else { ("GET", format!("/page/{number}")) };
        let request = http::Request::builder().method(method).uri(format!("https://site.test{path}")).body(()).unwrap();
        let (answer, mut body) = client.send_request(request, !is_post).map_err(io::Error::other)?;
        if is_post {
            body.send_data(Bytes::from(upload.to_owned()), true).map_err(io::Error::other)?;
        }
        let answer = answer.await.map_err(io::Error::other)?;
        let version = answer.headers().get("x-version").map_or("?", |version| version.to_str().unwrap_or("?")).to_owned();
        let (head, mut body) = answer.into_parts();
        let mut whole = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(io::Error::other)?;
            body.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
            whole.extend_from_slice(&piece);
        }
        Ok((head.status.as_u16(), version, String::from_utf8_lossy(&whole).into_owned()))
    }
}
