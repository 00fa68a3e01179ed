//! The servers behind both proxies: they answer as the case being played says, and note what they saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::case::{Case, Fault};
use crate::client::pairs;
use crate::stream::Stream;
use crate::wire::{Body, Reader, fields_to_json};

/// Servers that speak HTTP/1.1 in clear.
const PLAIN: [&str; 3] = ["b1", "b2", "b3"];
/// What active health checks ask for: not noted. The other one is never well.
const HEALTH: &str = "/health";
const SICK: &str = "/sick";

/// All servers, by name.
pub struct Servers {
    ports: BTreeMap<&'static str, u16>,
    scene: Arc<Scene>,
    /// Bound and not listening: its connections are refused, and nobody else gets its port.
    _gone: Socket,
}

/// What is being played.
#[derive(Default)]
struct Scene {
    case: Mutex<Option<Arc<Case>>>,
    seen: Mutex<Vec<Value>>,
}

impl Servers {
    pub async fn start() -> Self {
        let scene = Arc::new(Scene::default());
        let mut ports = BTreeMap::new();
        for name in PLAIN {
            let scene = Arc::clone(&scene);
            let port = listen(move |stream| serve_h1(Arc::clone(&scene), name, Box::new(stream))).await;
            ports.insert(name, port);
        }
        let tls = acceptor();
        let (shared, acceptor) = (Arc::clone(&scene), tls.clone());
        let secure = move |stream| {
            let (scene, acceptor) = (Arc::clone(&shared), acceptor.clone());
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve_h1(scene, "https", Box::new(stream)).await;
                }
            }
        };
        ports.insert("https", listen(secure).await);
        let shared = Arc::clone(&scene);
        ports.insert("h2c", listen(move |stream| serve_h2c(Arc::clone(&shared), stream)).await);
        ports.insert("greeter", listen(|stream| greet(Box::new(stream))).await);
        ports.insert("echo", listen(|stream| echo(Box::new(stream))).await);
        let own_tls = move |stream| {
            let acceptor = tls.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    greet(Box::new(stream)).await;
                }
            }
        };
        ports.insert("tlsgreeter", listen(own_tls).await);
        let gone = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        gone.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        ports.insert("gone", gone.local_addr().unwrap().as_socket().unwrap().port());
        Self { ports, scene, _gone: gone }
    }

    /// Names and ports.
    pub fn ports(&self) -> impl Iterator<Item = (&str, u16)> {
        self.ports.iter().map(|(name, port)| (*name, *port))
    }

    /// From now on servers answer as this case says.
    pub fn play(&self, case: &Case) {
        *self.scene.case.lock().unwrap() = Some(Arc::new(case.clone()));
        self.scene.seen.lock().unwrap().clear();
    }

    /// What was seen since.
    pub fn take_seen(&self) -> Vec<Value> {
        std::mem::take(&mut *self.scene.seen.lock().unwrap())
    }
}

impl Scene {
    fn case(&self) -> Option<Arc<Case>> {
        self.case.lock().unwrap().clone()
    }

    fn note(&self, server: &str, line: &str, mut fields: Vec<(String, String)>, body: &Body, case: &Case) {
        // Go's client asks for gzip when nobody asked for anything, and unpacks it again.
        let asked = case.accepts_an_encoding();
        if !asked && !case.own_accept_encoding {
            fields.retain(|(name, _)| name != "accept-encoding");
        }
        let mut seen = json!({
            "server": server,
            "request": line,
            "headers": fields_to_json(&fields),
            "body": String::from_utf8_lossy(&body.bytes),
        });
        if !body.trailers.is_empty() {
            seen["trailers"] = fields_to_json(&body.trailers);
        }
        if body.is_cut {
            seen["cut"] = true.into();
        }
        self.seen.lock().unwrap().push(seen);
    }
}

/// Listens on a port of the kernel's choice and serves each connection in a task of its own.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// A certificate of its own for `backend.test`.
fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["backend.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

async fn serve_h1(scene: Arc<Scene>, name: &'static str, stream: Box<dyn Stream>) {
    let mut reader = Reader::new(stream);
    while let Ok(Some(head)) = reader.head().await {
        let mut words = head.first.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if target.starts_with(HEALTH) || target.starts_with(SICK) {
            let status = if target.starts_with(SICK) { "503 Service Unavailable" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let _ = reader.get_mut().write_all(answer.as_bytes()).await;
            continue;
        }
        let Some(case) = scene.case() else { return };
        let is_head_request = method == "HEAD";
        if head.field("expect").is_some() {
            let _ = reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        let body = match head.framing() {
            Some(framing) => reader.body(framing).await,
            None => Body::default(),
        };
        scene.note(name, &head.first, head.fields, &body, &case);
        match case.fault {
            Some(Fault::Close) => return,
            Some(Fault::Hang) => {
                let _ = reader.rest(&mut Vec::new()).await;
                return;
            }
            _ => {}
        }
        if reader.get_mut().write_all(&case.answer_bytes(is_head_request)).await.is_err() {
            return;
        }
        match case.fault {
            Some(Fault::AnswerAndClose) => return,
            Some(Fault::Echo) => return echo_rest(reader).await,
            _ => {}
        }
    }
}

/// Sends back what comes, each byte.
async fn echo_rest(mut reader: Reader<Box<dyn Stream>>) {
    loop {
        let bytes = reader.up_to(1).await;
        if bytes.is_empty() || reader.get_mut().write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn echo(stream: Box<dyn Stream>) {
    echo_rest(Reader::new(stream)).await;
}

/// Speaks first, and hangs up.
async fn greet(mut stream: Box<dyn Stream>) {
    if stream.write_all(b"hello from the server\n").await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

async fn serve_h2c(scene: Arc<Scene>, stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move {
            let (head, mut incoming) = request.into_parts();
            let mut body = Body::default();
            while let Some(Ok(chunk)) = incoming.data().await {
                let _ = incoming.flow_control().release_capacity(chunk.len());
                body.bytes.extend_from_slice(&chunk);
            }
            body.trailers = incoming.trailers().await.ok().flatten().as_ref().map(pairs).unwrap_or_default();
            let Some(case) = scene.case() else { return };
            scene.note("h2c", &format!("{} {} HTTP/2", head.method, head.uri), pairs(&head.headers), &body, &case);
            let _ = answer_h2(&case, &mut respond);
        });
    }
}

fn answer_h2(case: &Case, respond: &mut h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (head, body) = case.answer_parts();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("200");
    let mut answer = http::Response::builder().status(status);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        answer = answer.header(name.to_lowercase(), value.trim());
    }
    let mut sending = respond.send_response(answer.body(()).unwrap(), false)?;
    sending.send_data(Bytes::from(body), case.answer_trailers.is_empty())?;
    if !case.answer_trailers.is_empty() {
        let trailers = case.answer_trailers.iter().filter_map(|line| line.split_once(':'));
        let parse = |(name, value): (&str, &str)| -> (http::HeaderName, http::HeaderValue) {
            (name.parse().unwrap(), value.trim().parse().unwrap())
        };
        sending.send_trailers(trailers.map(parse).collect())?;
    }
    Ok(())
}
