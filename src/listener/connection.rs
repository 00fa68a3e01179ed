//! Finds out what a new connection is: raw TCP, TLS of some kind, HTTP/1 or HTTP/2, and hands it to whoever serves that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use pingora_proxy::ProxyHttp;
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;

use crate::clock;
use crate::routing::entrypoint::{Connection, TlsFacts};
use crate::routing::service::Service;
use crate::routing::tcp::TlsTurn;
use crate::rule::tcp::ConnectionFacts;
use crate::tcp;
use crate::tls::options::TlsHandle;

use super::counters::Refused;
use super::hello::{self, Hello, NoHello};
use super::idle::Woken;
use super::pipe::{Failure, Pipe};
use super::proxy_protocol::{self, Header};
use super::transport::{Corked, Transport};
use super::{Front, h1, h2};

/// How long a client may take from its first byte to the end of the TLS handshake.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a PROXY protocol header may take.
const PROXY_HEADER_MAX: Duration = Duration::from_secs(10);
/// How a client that knows we speak HTTP/2 begins (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection turned out to be.
enum Spoken {
    /// Raw bytes for a TCP service.
    Tcp(Pipe, Arc<Service>),
    /// HTTP/1.
    H1(Pipe, Arc<Connection>),
    /// HTTP/2.
    H2(Pipe, Arc<Connection>),
    /// Nothing that we serve; it is over.
    Nothing,
}

/// Serves one connection until it ends.
pub(super) async fn serve<E>(front: &Front<E>, socket: TcpStream, peer: SocketAddr)
where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    // Boxes: what a stage needed is given back before the next, which may last for hours, begins.
    match Box::pin(identify(front, socket, peer)).await {
        Spoken::Tcp(pipe, service) => Box::pin(tcp::serve(pipe, &service, &front.counters)).await,
        Spoken::H2(pipe, facts) => Box::pin(h2::serve(front, pipe, facts)).await,
        Spoken::H1(pipe, facts) => h1::serve(front, pipe, facts).await,
        Spoken::Nothing => {}
    }
}

async fn identify<E>(front: &Front<E>, socket: TcpStream, peer: SocketAddr) -> Spoken {
    // A connection that is gone already needs no error.
    let (Ok(local), Ok(())) = (socket.local_addr(), socket.set_nodelay(true)) else { return Spoken::Nothing };
    let times = &front.entrypoint.settings.transport;
    let mut pipe = Pipe::new(Transport::Plain(socket), times.write_timeout);
    let (mut client, local) = (canonical(peer), canonical(local));
    if front.entrypoint.settings.proxy_protocol.as_ref().is_some_and(|trust| trust.allows(client.ip())) {
        match read_proxy_header(&mut pipe).await {
            Ok(named) => client = named.map_or(client, canonical),
            Err(NoProxyHeader) => {
                front.counters.refuse(Refused::ProxyProtocol);
                return Spoken::Nothing;
            }
        }
    }
    if let Some(service) = find_unread(front, client) {
        return Spoken::Tcp(pipe, service);
    }
    if pipe.input.is_empty() {
        let mut drain = front.drain.watch();
        if pipe.park(times.read_timeout, &mut drain).await == Woken::Over {
            pipe.close().await;
            return Spoken::Nothing;
        }
    }
    let facts = Connection::new(front.entrypoint.clone(), client, local, None);
    if pipe.input.first() == Some(&hello::FIRST_BYTE) {
        return identify_tls(front, pipe, facts).await;
    }
    let plain = front.routes.load().find_plain(client.ip()).cloned();
    match plain {
        Some(service) => Spoken::Tcp(pipe, service),
        None if is_preface(&mut pipe).await => Spoken::H2(pipe, Arc::new(facts)),
        None => Spoken::H1(pipe, Arc::new(facts)),
    }
}

/// IPv4 clients of a dual-stack socket are IPv4 clients.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Where a connection goes of which nothing is to be read first.
fn find_unread<E>(front: &Front<E>, client: SocketAddr) -> Option<Arc<Service>> {
    let routes = front.routes.load();
    if routes.is_plain_tcp_only() { routes.find_plain(client.ip()).cloned() } else { None }
}

struct NoProxyHeader;

/// Takes the PROXY protocol header off the input, if there is one, and says whom it names.
async fn read_proxy_header(pipe: &mut Pipe) -> Result<Option<SocketAddr>, NoProxyHeader> {
    let deadline = clock::now() + PROXY_HEADER_MAX;
    loop {
        if !pipe.input.is_empty() {
            match proxy_protocol::read(&pipe.input) {
                Ok(Header::None) => return Ok(None),
                Ok(Header::Found { length, client }) => {
                    pipe.input.advance(length);
                    return Ok(client);
                }
                Ok(Header::More) => {}
                Err(error) => {
                    tracing::debug!(%error, "refused a connection");
                    return Err(NoProxyHeader);
                }
            }
        }
        if !matches!(pipe.fill(Some(deadline)).await, Ok(1..)) {
            return Err(NoProxyHeader);
        }
    }
}

async fn identify_tls<E>(front: &Front<E>, mut pipe: Pipe, facts: Connection) -> Spoken {
    let deadline = clock::now() + HANDSHAKE_MAX;
    let hello = match hello::read(&mut pipe, deadline).await {
        Ok(hello) => hello,
        Err(NoHello::Gone(failure)) => {
            if matches!(failure, Failure::TimedOut) {
                front.counters.refuse(Refused::HandshakeTimeout);
            }
            return Spoken::Nothing;
        }
        Err(NoHello::Invalid) => {
            front.counters.refuse(Refused::Handshake);
            pipe.close().await;
            return Spoken::Nothing;
        }
    };
    let turn = {
        let asked = ConnectionFacts { server_name: hello.server_name.as_deref(), alpn: &hello.alpn, client: facts.client.ip() };
        front.routes.load().find_tls(&asked, facts.local.ip())
    };
    match turn {
        TlsTurn::Passthrough(service) => Spoken::Tcp(pipe, service),
        TlsTurn::Terminate(handle, service) => match shake_hands(front, pipe, hello, handle, deadline).await {
            Some((pipe, _)) => Spoken::Tcp(pipe, service),
            None => Spoken::Nothing,
        },
        TlsTurn::Https(handle) => {
            let Some((pipe, tls)) = shake_hands(front, pipe, hello, handle, deadline).await else { return Spoken::Nothing };
            let is_h2 = tls.is_h2;
            let facts = Arc::new(Connection::new(facts.entrypoint, facts.client, facts.local, Some(tls)));
            if is_h2 { Spoken::H2(pipe, facts) } else { Spoken::H1(pipe, facts) }
        }
        TlsTurn::Refuse(alert) => {
            front.counters.refuse(Refused::NoTlsRoute);
            pipe.output.extend_from_slice(alert.record().as_ref().map_or(&[], |record| record.as_slice()));
            pipe.close().await;
            Spoken::Nothing
        }
    }
}

/// Goes through with the handshake; `None` when it failed, which the client has been told then.
async fn shake_hands<E>(
    front: &Front<E>,
    mut pipe: Pipe,
    hello: Hello,
    handle: TlsHandle,
    deadline: Instant,
) -> Option<(Pipe, TlsFacts)> {
    // The handshake has no use for the copy of the hello that the input is.
    pipe.input.clear();
    let Transport::Plain(socket) = pipe.transport else { return None };
    let handshake = StartHandshake::from_parts(hello.accepted, Corked::new(socket)).into_stream(handle.config);
    let stream = match pipe.timer.race(Some(deadline), handshake).await {
        Ok(Ok(mut stream)) => {
            stream.get_mut().0.cork();
            stream
        }
        Ok(Err(error)) => {
            front.counters.refuse(Refused::Handshake);
            tracing::debug!(%error, server_name = hello.server_name.as_deref(), "TLS handshake failed");
            return None;
        }
        Err(_) => {
            front.counters.refuse(Refused::HandshakeTimeout);
            return None;
        }
    };
    let tls = hello::facts(stream.get_ref().1, hello.server_name, handle.options_id);
    let pipe = Pipe { transport: Transport::Tls(Box::new(stream)), ..pipe };
    Some((pipe, tls))
}

/// Whether the client begins with HTTP/2's preface; reads on only while it still may.
async fn is_preface(pipe: &mut Pipe) -> bool {
    let deadline = clock::now() + HANDSHAKE_MAX;
    loop {
        let begins = pipe.input.iter().zip(PREFACE).all(|(a, b)| a == b);
        if !begins || pipe.input.len() >= PREFACE.len() {
            return begins;
        }
        if !matches!(pipe.fill(Some(deadline)).await, Ok(1..)) {
            return false;
        }
    }
}
