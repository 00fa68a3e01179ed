//! A hedge: the stream to a canary that, when the canary is silent too long, asks stable the same as well.
//!
//! A slow page is not a failure, so the canary's attempt is not cut off: whoever answers first is heard, the other is
//! dropped. The engine below sees one byte stream and knows nothing of it. Used only for requests that may be sent
//! twice, in clear, and only while a rollout is under way.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::l4::socket::SocketAddr as EngineAddress;
use pingora::protocols::l4::stream::Stream as EngineStream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::routing::server::{InFlight, Server};

/// A request longer than this (head and body) is not asked twice.
const REQUEST_BYTES_MAX: usize = 128 * 1024;
/// A canary that cannot be dialled in this time is taken for dead: stable is at hand.
pub const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Who may be asked when the canary is silent: picks a stable server, or nobody.
pub type Substitute = dyn Fn() -> Option<Arc<Server>> + Send + Sync;

/// What became of a hedge, shared with the request that began it.
#[derive(Debug, Default)]
pub struct Outcome(AtomicU8, std::sync::OnceLock<Arc<Server>>);

const ASKED: u8 = 1;
const SUBSTITUTE_WON: u8 = 2;

impl Outcome {
    /// The server that answered in the canary's place, if one did.
    pub fn substitute(&self) -> Option<&Arc<Server>> {
        if self.0.load(Ordering::Acquire) == SUBSTITUTE_WON { self.1.get() } else { None }
    }

    /// The server that was asked too, when the canary answered before it.
    pub fn loser(&self) -> Option<&Arc<Server>> {
        if self.0.load(Ordering::Acquire) == ASKED { self.1.get() } else { None }
    }
}

/// Dials the canary for the engine and wraps what comes of it.
pub struct Dialler {
    /// How long the canary may be silent.
    pub patience: Duration,
    /// How long a dial may take.
    pub dial_timeout: Duration,
    /// Who is asked then.
    pub substitute: Arc<Substitute>,
    /// Where to say what became of it.
    pub outcome: Arc<Outcome>,
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialler").field("patience", &self.patience).finish_non_exhaustive()
    }
}

#[async_trait]
impl pingora::connectors::L4Connect for Dialler {
    async fn connect(&self, address: &EngineAddress) -> pingora::Result<EngineStream> {
        let address = address.as_inet().copied().ok_or_else(|| pingora::Error::new(pingora::ErrorType::ConnectError))?;
        let first = dial(address, self.dial_timeout).await.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => pingora::ErrorType::ConnectRefused,
                io::ErrorKind::TimedOut => pingora::ErrorType::ConnectTimedout,
                _ => pingora::ErrorType::ConnectError,
            };
            pingora::Error::because(kind, "dialling a canary", error)
        })?;
        let hedged = Hedged {
            first: Some(first),
            second: Second::Waiting(Box::pin(tokio::time::sleep(self.patience))),
            sent: Vec::new(),
            substitute: Arc::clone(&self.substitute),
            outcome: Arc::clone(&self.outcome),
            dial_timeout: self.dial_timeout,
        };
        Ok(EngineStream::from(VirtualSocketStream::new(Box::new(hedged))))
    }
}

async fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream =
        tokio::time::timeout(timeout, TcpStream::connect(address)).await.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

type Dial = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + Sync>>;

/// The other attempt.
enum Second {
    /// The canary still has time.
    Waiting(Pin<Box<Sleep>>),
    /// Dialling stable.
    Dialling(Dial, InFlight),
    /// Stable has so many bytes of the request.
    Asked { stream: TcpStream, written: usize, _guard: InFlight },
    /// There is no other: it lost, could not be dialled, or there is none to ask.
    Gone,
}

/// The stream that the engine sees.
struct Hedged {
    /// The canary's, until it lost.
    first: Option<TcpStream>,
    second: Second,
    /// Everything the engine wrote, until one of the two won; then what the other one, if it won, has yet to get.
    sent: Vec<u8>,
    substitute: Arc<Substitute>,
    outcome: Arc<Outcome>,
    dial_timeout: Duration,
}

impl std::fmt::Debug for Hedged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hedged").field("sent", &self.sent.len()).finish_non_exhaustive()
    }
}

impl VirtualSocket for Hedged {
    /// The sockets below are set up when they are dialled.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl Hedged {
    /// Drives the other attempt as far as it goes without waiting.
    fn drive_second(&mut self, cx: &mut Context<'_>) {
        loop {
            match &mut self.second {
                Second::Waiting(patience) => {
                    if patience.as_mut().poll(cx).is_pending() {
                        return;
                    }
                    self.second = self.ask();
                }
                Second::Dialling(dial, _) => {
                    let Poll::Ready(result) = dial.as_mut().poll(cx) else { return };
                    let Second::Dialling(_, guard) = std::mem::replace(&mut self.second, Second::Gone) else { return };
                    if let Ok(stream) = result {
                        self.second = Second::Asked { stream, written: 0, _guard: guard };
                    }
                }
                Second::Asked { stream, written, .. } => {
                    let Some(rest) = self.sent.get(*written..).filter(|rest| !rest.is_empty()) else { return };
                    match Pin::new(stream).poll_write(cx, rest) {
                        Poll::Pending => return,
                        Poll::Ready(Ok(count)) if count > 0 => *written += count,
                        Poll::Ready(_) => self.second = Second::Gone,
                    }
                }
                Second::Gone => return,
            }
        }
    }

    /// Begins to ask somebody else, if there is somebody and the request is short enough to be sent again.
    fn ask(&self) -> Second {
        let Some(server) = (self.substitute)() else { return Second::Gone };
        let Some(address) = server.address() else { return Second::Gone };
        self.outcome.0.store(ASKED, Ordering::Release);
        let _ = self.outcome.1.set(Arc::clone(&server));
        let timeout = self.dial_timeout;
        Second::Dialling(Box::pin(async move { dial(address, timeout).await }), server.enter())
    }

    /// Keeps what the canary got, for whoever may be asked too. A request that turns out to be long is not asked twice.
    fn remember(&mut self, bytes: &[u8]) {
        if self.sent.len() + bytes.len() > REQUEST_BYTES_MAX {
            self.first_won();
        } else {
            self.sent.extend_from_slice(bytes);
        }
    }

    /// The canary answered: nobody else is heard.
    fn first_won(&mut self) {
        self.second = Second::Gone;
        self.sent = Vec::new();
    }

    /// Stable answered: the canary's stream is dropped. It may have answered before it has the whole request.
    fn second_won(&mut self) {
        self.first = None;
        self.outcome.0.store(SUBSTITUTE_WON, Ordering::Release);
    }
}

impl AsyncRead for Hedged {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Some(first) = &mut this.first {
            match Pin::new(first).poll_read(cx, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                    this.first_won();
                    return Poll::Ready(Ok(()));
                }
                // It broke off without a word: whoever else was asked may still answer.
                Poll::Ready(result) if matches!(this.second, Second::Waiting(_) | Second::Gone) => {
                    this.second = Second::Gone;
                    return Poll::Ready(result);
                }
                Poll::Ready(_) => this.first = None,
                Poll::Pending => {}
            }
        }
        this.drive_second(cx);
        match &mut this.second {
            Second::Asked { stream, .. } => {
                let result = ready!(Pin::new(stream).poll_read(cx, buffer));
                if result.is_ok() && buffer.filled().len() > before {
                    if this.first.is_some() || this.outcome.substitute().is_none() {
                        this.second_won();
                    }
                    return Poll::Ready(Ok(()));
                }
                if this.first.is_some() {
                    this.second = Second::Gone;
                    return Poll::Pending;
                }
                Poll::Ready(result)
            }
            Second::Gone if this.first.is_none() => Poll::Ready(Ok(())),
            Second::Waiting(_) | Second::Dialling(..) | Second::Gone => Poll::Pending,
        }
    }
}

impl AsyncWrite for Hedged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.as_mut().get_mut();
        let is_undecided = this.first.is_some() && !matches!(this.second, Second::Gone);
        if this.first.is_none() {
            // What it has not got yet comes first.
            this.drive_second(cx);
        }
        let stream = match (&mut this.first, &mut this.second) {
            (Some(first), _) => first,
            (None, Second::Asked { written, .. }) if *written < this.sent.len() => return Poll::Pending,
            (None, Second::Asked { stream, .. }) => stream,
            // It is being dialled: what comes meanwhile is kept for it.
            (None, Second::Dialling(..)) if this.sent.len() <= REQUEST_BYTES_MAX => {
                this.sent.extend_from_slice(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
            (None, _) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        let written = ready!(Pin::new(stream).poll_write(cx, bytes));
        if written.is_err() && is_undecided && !matches!(this.second, Second::Waiting(_)) {
            // It broke off: whoever else was asked may still answer.
            this.first = None;
            return self.poll_write(cx, bytes);
        }
        let count = written?;
        if is_undecided {
            this.remember(bytes.get(..count).unwrap_or_default());
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match (&mut this.first, &mut this.second) {
            (Some(stream), _) | (None, Second::Asked { stream, .. }) => Pin::new(stream).poll_shutdown(cx),
            (None, _) => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pingora::connectors::L4Connect as _;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock;
    use crate::config::dynamic::{Endpoint, Scheme};
    use crate::health::Start;

    /// A canary and a stable server, and the stream to both.
    struct Both {
        stream: EngineStream,
        outcome: Arc<Outcome>,
        canary: TcpStream,
        stable: TcpListener,
        server: Arc<Server>,
    }

    async fn both() -> Both {
        let canary = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stable = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = stable.local_addr().unwrap();
        let endpoint = Endpoint {
            scheme: Scheme::Http,
            host: address.ip().to_string(),
            port: address.port(),
            path: String::new(),
            preserve_path: false,
            weight: 1,
            instance: None,
            version: None,
            track: None,
            is_passing: true,
        };
        let server = Arc::new(Server::new(&endpoint, clock::now(), Start::Established));
        let (outcome, substitute) = (Arc::new(Outcome::default()), Arc::clone(&server));
        let dialler = Dialler {
            patience: Duration::from_millis(30),
            dial_timeout: DIAL_TIMEOUT_MAX,
            substitute: Arc::new(move || Some(Arc::clone(&substitute))),
            outcome: Arc::clone(&outcome),
        };
        let stream = dialler.connect(&EngineAddress::Inet(canary.local_addr().unwrap())).await.unwrap();
        Both { stream, outcome, canary: canary.accept().await.unwrap().0, stable, server }
    }

    async fn heard(stream: &mut EngineStream) -> String {
        let mut buffer = [0; 100];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.unwrap();
        String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).into_owned()
    }

    async fn taken(stream: &mut TcpStream, length: usize) -> String {
        let mut buffer = vec![0; length];
        tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8(buffer).unwrap()
    }

    async fn write(stream: &mut EngineStream, bytes: &[u8]) {
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_canary_in_time_is_heard_and_nobody_else_is_asked() {
        let mut both = both().await;
        write(&mut both.stream, b"question").await;
        both.canary.write_all(b"answer").await.unwrap();
        assert_eq!(heard(&mut both.stream).await, "answer");
        assert!(both.outcome.substitute().is_none() && both.outcome.loser().is_none());
    }

    #[tokio::test]
    async fn a_silent_canary_is_answered_for_with_the_same_bytes() {
        let mut both = both().await;
        write(&mut both.stream, b"question").await;
        let stable = async {
            let mut stable = both.stable.accept().await.unwrap().0;
            assert_eq!(taken(&mut stable, 8).await, "question");
            stable.write_all(b"stable").await.unwrap();
            stable
        };
        let (answer, _stable) = tokio::join!(heard(&mut both.stream), stable);
        assert_eq!(answer, "stable");
        assert!(both.outcome.substitute().is_some_and(|server| Arc::ptr_eq(server, &both.server)));
        assert_eq!(both.server.in_flight(), 1);
        assert_eq!(taken(&mut both.canary, 8).await, "question");
        assert_eq!(both.canary.read(&mut [0; 1]).await.unwrap(), 0, "the canary is let go");
        drop(both.stream);
        assert_eq!(both.server.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_request_goes_on_to_whoever_answered_before_it_was_whole() {
        let mut both = both().await;
        write(&mut both.stream, b"begin ").await;
        let stable = async {
            let mut stable = both.stable.accept().await.unwrap().0;
            assert_eq!(taken(&mut stable, 6).await, "begin ");
            stable.write_all(b"early").await.unwrap();
            stable
        };
        let (answer, mut stable) = tokio::join!(heard(&mut both.stream), stable);
        assert_eq!(answer, "early");
        write(&mut both.stream, b"and end").await;
        assert_eq!(taken(&mut stable, 7).await, "and end");
    }

    #[tokio::test]
    async fn a_canary_that_breaks_off_late_leaves_the_word_to_the_other() {
        let mut both = both().await;
        write(&mut both.stream, b"question").await;
        let Both { canary, stable, .. } = both;
        let answers = async {
            let mut stable = stable.accept().await.unwrap().0;
            taken(&mut stable, 8).await;
            drop(canary);
            stable.write_all(b"stable").await.unwrap();
            stable
        };
        let (answer, _stable) = tokio::join!(heard(&mut both.stream), answers);
        assert_eq!(answer, "stable");
    }

    #[tokio::test]
    async fn a_canary_that_answers_after_all_is_heard_whole() {
        let mut both = both().await;
        write(&mut both.stream, b"question").await;
        let canary = async {
            // Stable is asked, and is slow itself.
            let stable = both.stable.accept().await.unwrap().0;
            both.canary.write_all(b"late").await.unwrap();
            stable
        };
        let (answer, mut stable) = tokio::join!(heard(&mut both.stream), canary);
        assert_eq!(answer, "late");
        assert!(both.outcome.substitute().is_none());
        assert!(both.outcome.loser().is_some_and(|server| Arc::ptr_eq(server, &both.server)));
        assert_eq!(both.server.in_flight(), 0, "the other is let go");
        let mut rest = Vec::new();
        // It may end by a reset: what it sent was not read.
        let _ = stable.read_to_end(&mut rest).await;
        both.canary.write_all(b" and more").await.unwrap();
        assert_eq!(heard(&mut both.stream).await, " and more");
    }

    #[tokio::test]
    async fn a_long_request_is_asked_of_the_canary_only() {
        let mut both = both().await;
        let body = vec![b'x'; REQUEST_BYTES_MAX + 1];
        let canary = async {
            taken(&mut both.canary, body.len()).await;
            // Longer than the patience, on the clock that it runs by.
            tokio::time::sleep(Duration::from_millis(80)).await;
            both.canary.write_all(b"answer").await.unwrap();
        };
        let engine = async {
            both.stream.write_all(&body).await.unwrap();
            both.stream.flush().await.unwrap();
            heard(&mut both.stream).await
        };
        let (answer, ()) = tokio::join!(engine, canary);
        assert_eq!(answer, "answer");
        assert!(both.outcome.loser().is_none() && both.outcome.substitute().is_none());
    }
}
