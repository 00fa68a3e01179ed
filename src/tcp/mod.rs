//! Raw TCP routes: a connection is dialled to a server of its service, and bytes go both ways until both sides have ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::listener::{Counters, Pipe, Refused};
use crate::routing::tcp::{Dial, TcpTarget};

/// How long a dial may take, as Traefik's `dialTimeout`.
const DIAL_MAX: Duration = Duration::from_secs(30);
/// Servers that are tried for one connection. Traefik tries one.
const DIALS_MAX: usize = 3;
/// What is in flight in each direction.
const COPY_BYTES: usize = 16 * 1024;

/// Serves one connection until both sides have ended. What was read of it already is sent first.
pub(crate) async fn serve(pipe: Pipe, target: &TcpTarget, counters: &Counters) {
    let Some((mut server, address)) = dial(target).await else {
        counters.refuse(Refused::NoTcpServer);
        return;
    };
    let (mut client, begun) = pipe.into_parts();
    match copy(&mut client, &mut server, &begun).await {
        Ok((received, sent)) => {
            counters.count_tcp_bytes(received, sent);
            tracing::debug!(service = %target.service, server = %address, received, sent, "TCP connection ended");
        }
        Err(error) => tracing::debug!(service = %target.service, server = %address, %error, "TCP connection failed"),
    }
}

/// The first server that answers.
async fn dial(target: &TcpTarget) -> Option<(TcpStream, SocketAddr)> {
    let mut tried = Vec::new();
    while tried.len() < DIALS_MAX {
        let address = (target.pick)(&tried)?;
        match tokio::time::timeout(DIAL_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                (target.record)(address, Dial::Connected);
                // A socket that refuses the option still carries bytes.
                let _ = stream.set_nodelay(true);
                return Some((stream, address));
            }
            Ok(Err(error)) => {
                tracing::info!(service = %target.service, server = %address, %error, "could not dial a TCP server");
            }
            Err(_) => {
                tracing::info!(service = %target.service, server = %address, timeout = ?DIAL_MAX, "dialling a TCP server took too long");
            }
        }
        (target.record)(address, Dial::Failed);
        tried.push(address);
    }
    None
}

/// Copies both ways; each side's end is passed on alone, so that the other may still answer. Gives the bytes from and to the client.
async fn copy<C>(client: &mut C, server: &mut TcpStream, begun: &BytesMut) -> io::Result<(u64, u64)>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    server.write_all(begun).await?;
    let (received, sent) = tokio::io::copy_bidirectional_with_sizes(client, server, COPY_BYTES, COPY_BYTES).await?;
    Ok((received + begun.len() as u64, sent))
}
