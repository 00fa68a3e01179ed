//! Accepts connections: one task per socket, one task per connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use pingora_proxy::ProxyHttp;
use tokio::net::{TcpListener, TcpStream};

use crate::observe::metrics::OpenConnection;

use super::counters::{Counters, Refused};
use super::drain::Phase;
use super::{Front, connection};

/// How long accepting pauses when the process or the system is out of something: the next try would fail at once, for ever.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The pause doubles up to this.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves connections from `socket` in the background, until the drain begins. The socket comes from [`super::bind`] or
/// [`super::inherited`]; an entrypoint may have several.
///
/// # Errors
/// When the socket cannot be used by the runtime.
pub fn serve<E>(socket: std::net::TcpListener, front: Arc<Front<E>>) -> io::Result<()>
where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket)?;
    let tasks = front.drain.tasks().clone();
    tasks.spawn(accept(listener, front));
    Ok(())
}

async fn accept<E>(listener: TcpListener, front: Arc<Front<E>>)
where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    let mut drain = front.drain.watch();
    let mut pause = PAUSE_MIN;
    while *drain.borrow_and_update() != Phase::Draining {
        let accepted = tokio::select! {
            biased;
            _ = drain.changed() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                pause = PAUSE_MIN;
                start(socket, peer, &front);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                front.counters.refuse(Refused::OutOfDescriptors);
                tracing::warn!(entrypoint = %front.entrypoint.name, %error, pause = ?pause, "could not accept a connection");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    // Whoever already connected would be reset with the socket; they are served as the last ones.
    while let Some(Ok((socket, peer))) = tokio::task::unconstrained(listener.accept()).now_or_never() {
        start(socket, peer, &front);
    }
}

/// Errors that `accept` reports for a connection which is gone already.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn start<E>(socket: TcpStream, peer: SocketAddr, front: &Arc<Front<E>>)
where
    E: ProxyHttp + Send + Sync + 'static,
    E::CTX: Send + Sync,
{
    if !front.counters.enter(front.connections_max) {
        front.counters.refuse(Refused::TooManyConnections);
        return;
    }
    let place = Place { _open: front.metrics.open_connection(), counters: front.counters.clone() };
    let front = front.clone();
    let tasks = front.drain.tasks().clone();
    tasks.spawn(async move {
        let _place = place;
        connection::serve(&front, socket, peer).await;
    });
}

/// A connection's place among those that are open; given back however it ends, by a panic too.
struct Place {
    _open: OpenConnection,
    counters: Arc<Counters>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.leave();
    }
}
