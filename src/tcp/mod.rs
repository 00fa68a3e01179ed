//! Raw TCP routes: a connection is dialled to a server of its service, and bytes go both ways until both sides have ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::clock;
use crate::health::Attempt;
use crate::listener::{Counters, Pipe, Refused, keep_alive};
use crate::routing::server::InFlight;
use crate::routing::service::Service;

/// How long a dial may take, as Traefik's `dialTimeout`.
const DIAL_MAX: Duration = Duration::from_secs(30);
/// Servers that are tried for one connection. Traefik tries one.
const DIALS_MAX: usize = 3;
/// What is in flight in each direction.
const COPY_BYTES: usize = 16 * 1024;

/// Serves one connection until both sides have ended. What was read of it already is sent first.
pub(crate) async fn serve(pipe: Pipe, service: &Service, counters: &Counters) {
    let Some((mut stream, guard)) = dial(service).await else {
        counters.refuse(Refused::NoTcpServer);
        return;
    };
    let server = &guard.server().authority;
    let (client, begun) = pipe.into_parts();
    let mut client = Counted { client, counters, received: begun.len() as u64, sent: 0 };
    counters.count_tcp_bytes(client.received, 0);
    let ended = copy(&mut client, &mut stream, &begun).await;
    let Counted { received, sent, .. } = client;
    match ended {
        Ok(()) => tracing::debug!(service = %service.label, server, received, sent, "TCP connection ended"),
        Err(error) => tracing::debug!(service = %service.label, server, received, sent, %error, "TCP connection failed"),
    }
}

/// The first server that answers, counted in.
async fn dial(service: &Service) -> Option<(TcpStream, InFlight)> {
    let (mut tried, mut refused) = (Vec::new(), Vec::new());
    for dials_left in (0..DIALS_MAX).rev() {
        let started = clock::now();
        let (server, address) = service.choose_dial(started, &tried)?;
        let failure = match tokio::time::timeout(DIAL_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                service.record_health(&server, clock::now(), started, Attempt::Ok);
                // A socket that refuses an option still carries bytes.
                let _ = stream.set_nodelay(true).and(keep_alive(&stream));
                return Some((stream, server.enter()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no answer in {} s", DIAL_MAX.as_secs()),
        };
        tracing::info!(service = %service.label, server = server.authority, error = failure, "could not dial a TCP server");
        if server.turn_address(address, &refused) && dials_left > 0 {
            refused.push(address);
        } else {
            service.record_health(&server, clock::now(), started, Attempt::Refused);
            tried.push(server);
        }
    }
    None
}

/// Copies both ways; each side's end is passed on alone, so that the other may still answer.
async fn copy<C>(client: &mut C, server: &mut TcpStream, begun: &BytesMut) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    server.write_all(begun).await?;
    tokio::io::copy_bidirectional_with_sizes(client, server, COPY_BYTES, COPY_BYTES).await?;
    Ok(())
}

/// Counts while bytes flow: such a connection may live for days.
struct Counted<'a, C> {
    client: C,
    counters: &'a Counters,
    received: u64,
    sent: u64,
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<'_, C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.client).poll_read(cx, buf);
        let count = (buf.filled().len() - before) as u64;
        this.received += count;
        this.counters.count_tcp_bytes(count, 0);
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<'_, C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.client).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &written {
            this.sent += *count as u64;
            this.counters.count_tcp_bytes(0, *count as u64);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().client).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().client).poll_shutdown(cx)
    }
}
