//! A hedge: the stream to a canary that, when the canary is silent too long, asks stable the same as well.
//!
//! A slow page is not a failure, so the canary's attempt is not cut off: whoever answers first is heard, the other is
//! dropped. The engine below sees one byte stream and knows nothing of it. Used only for requests that may be sent
//! twice, in clear, and only while a rollout is under way.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::protocols::l4::socket::SocketAddr as EngineAddress;
use pingora::protocols::l4::stream::Stream as EngineStream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::clock;
use crate::health::Attempt as Fared;
use crate::routing::server::{InFlight, Server};

/// A request longer than this (head and body) is not asked twice.
const REQUEST_BYTES_MAX: usize = 128 * 1024;
/// A canary that cannot be dialled in this time is taken for dead: stable is at hand.
pub const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Who may be asked when the canary is silent: picks a stable server, or nobody.
pub type Substitute = dyn Fn() -> Option<Arc<Server>> + Send + Sync;

/// Who is told that a server failed that was asked in the canary's place, and when it was asked.
pub type Tell = dyn Fn(&Server, Instant, Fared) + Send + Sync;

/// What became of a hedge, shared with the request that began it.
#[derive(Debug, Default)]
pub struct Outcome {
    asked: OnceLock<Arc<Server>>,
    has_answered: AtomicBool,
}

impl Outcome {
    /// The server that was asked in the canary's place, if one was.
    pub fn asked(&self) -> Option<&Arc<Server>> {
        self.asked.get()
    }

    /// The server that answered in the canary's place, if one did.
    pub fn substitute(&self) -> Option<&Arc<Server>> {
        self.asked.get().filter(|_| self.has_answered.load(Ordering::Acquire))
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
    /// Who hears of it when that one fails.
    pub tell: Arc<Tell>,
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
        // The age of the attempt counts, the dial included.
        let patience = Box::pin(tokio::time::sleep(self.patience));
        let first = dial(address, self.dial_timeout).await.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => pingora::ErrorType::ConnectRefused,
                io::ErrorKind::TimedOut => pingora::ErrorType::ConnectTimedout,
                _ => pingora::ErrorType::ConnectError,
            };
            pingora::Error::because(kind, "dialling a canary", error)
        })?;
        let hedged = self.hedge(first, patience);
        Ok(EngineStream::from(VirtualSocketStream::new(Box::new(hedged))))
    }
}

impl Dialler {
    fn hedge(&self, first: TcpStream, patience: Pin<Box<Sleep>>) -> Hedged {
        Hedged {
            first: Some(first),
            second: Second::Waiting(patience),
            sent: Vec::new(),
            substitute: Arc::clone(&self.substitute),
            tell: Arc::clone(&self.tell),
            asked_at: None,
            outcome: Arc::clone(&self.outcome),
            dial_timeout: self.dial_timeout,
        }
    }
}

async fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream =
        tokio::time::timeout(timeout, TcpStream::connect(address)).await.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What it says of a server that it could not be dialled. Nothing when we are out of sockets.
fn undialled(kind: io::ErrorKind) -> Option<Fared> {
    match kind {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(Fared::Refused)
        }
        io::ErrorKind::TimedOut | io::ErrorKind::ConnectionReset => Some(Fared::Failed),
        _ => None,
    }
}

type Dial = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + Sync>>;

/// The other attempt.
enum Second {
    /// The canary still has time.
    Waiting(Pin<Box<Sleep>>),
    /// Dialling stable.
    Dialling(Dial, InFlight),
    /// Stable has so many bytes of `sent`.
    Asked { stream: TcpStream, written: usize, guard: InFlight },
    /// There is no other: it lost, could not be dialled, or there is none to ask.
    Gone,
}

/// The stream that the engine sees.
///
/// Whenever it says that it waits, everything that could end the wait has the waker: the canary's socket, and the timer,
/// the dial or the socket of the other attempt.
struct Hedged {
    /// The canary's, until it lost.
    first: Option<TcpStream>,
    second: Second,
    /// Everything the engine wrote, as long as the other attempt may need it.
    sent: Vec<u8>,
    substitute: Arc<Substitute>,
    tell: Arc<Tell>,
    asked_at: Option<Instant>,
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
                Second::Dialling(dial, ..) => {
                    let Poll::Ready(result) = dial.as_mut().poll(cx) else { return };
                    let Second::Dialling(_, guard) = std::mem::replace(&mut self.second, Second::Gone) else { return };
                    match result {
                        Ok(stream) => self.second = Second::Asked { stream, written: 0, guard },
                        Err(error) => self.tell_of(guard.server(), undialled(error.kind())),
                    }
                }
                Second::Asked { stream, written, .. } => {
                    let Some(rest) = self.sent.get(*written..).filter(|rest| !rest.is_empty()) else { return };
                    match Pin::new(stream).poll_write(cx, rest) {
                        Poll::Pending => return,
                        Poll::Ready(Ok(count)) if count > 0 => *written += count,
                        Poll::Ready(_) => self.second_failed(),
                    }
                }
                Second::Gone => return,
            }
        }
    }

    /// Begins to ask somebody else, if there is somebody.
    fn ask(&mut self) -> Second {
        let Some(server) = (self.substitute)() else { return Second::Gone };
        let Some(address) = server.address() else { return Second::Gone };
        self.asked_at = Some(clock::now());
        // Asked once.
        let _ = self.outcome.asked.set(Arc::clone(&server));
        let timeout = self.dial_timeout;
        Second::Dialling(Box::pin(async move { dial(address, timeout).await }), server.enter())
    }

    fn is_asking(&self) -> bool {
        matches!(self.second, Second::Dialling(..) | Second::Asked { .. })
    }

    /// From here on there is the canary, or nobody.
    fn give_up_second(&mut self) {
        self.second = Second::Gone;
        self.sent = Vec::new();
    }

    /// Stable broke off. If it had begun to answer it is the attempt's answer that broke off, which others tell of.
    fn second_failed(&mut self) {
        if let Second::Asked { guard, .. } = &self.second
            && self.outcome.substitute().is_none()
        {
            self.tell_of(guard.server(), Some(Fared::Failed));
        }
        self.give_up_second();
    }

    fn tell_of(&self, server: &Server, fared: Option<Fared>) {
        if let (Some(fared), Some(asked_at)) = (fared, self.asked_at) {
            (self.tell)(server, asked_at, fared);
        }
    }

    /// Stable answered: the canary's stream is dropped. What stable has not got of the request yet, it still gets.
    fn second_won(&mut self) {
        self.first = None;
        self.outcome.has_answered.store(true, Ordering::Release);
    }

    /// Remembers what the canary got, for the other attempt; a long request has none.
    fn remember(&mut self, bytes: &[u8]) {
        if matches!(self.second, Second::Gone) {
            return;
        }
        if self.sent.len() + bytes.len() > REQUEST_BYTES_MAX {
            self.give_up_second();
        } else {
            self.sent.extend_from_slice(bytes);
        }
    }

    /// Writes to stable, which alone is left: first what it has not got yet, so that the order is kept.
    fn write_to_second(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.drive_second(cx);
        match &mut self.second {
            Second::Dialling(..) => Poll::Pending,
            Second::Asked { written, .. } if *written < self.sent.len() => Poll::Pending,
            Second::Asked { stream, written, .. } => {
                self.sent = Vec::new();
                *written = 0;
                let result = Pin::new(stream).poll_write(cx, bytes);
                if matches!(result, Poll::Ready(Err(_))) {
                    self.second_failed();
                }
                result
            }
            Second::Waiting(_) | Second::Gone => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncRead for Hedged {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Some(first) = &mut this.first {
            match Pin::new(first).poll_read(cx, buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                    this.give_up_second();
                    return Poll::Ready(Ok(()));
                }
                // It broke off without a word: whoever else was asked may still answer.
                Poll::Ready(_) if this.is_asking() => this.first = None,
                Poll::Ready(result) => {
                    this.give_up_second();
                    return Poll::Ready(result);
                }
                Poll::Pending => {}
            }
        }
        this.drive_second(cx);
        let Second::Asked { stream, .. } = &mut this.second else {
            let is_over = this.first.is_none() && !this.is_asking();
            return if is_over { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let result = match Pin::new(stream).poll_read(cx, buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(result) => result,
        };
        if result.is_ok() && buffer.filled().len() > before {
            this.second_won();
            return Poll::Ready(result);
        }
        if this.outcome.substitute().is_none() {
            this.second_failed();
        }
        // If it was stable alone that broke off, the canary goes on having its time.
        if this.first.is_some() { Poll::Pending } else { Poll::Ready(result) }
    }
}

impl AsyncWrite for Hedged {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(first) = &mut this.first {
            match Pin::new(first).poll_write(cx, bytes) {
                Poll::Ready(Ok(count)) => {
                    this.remember(bytes.get(..count).unwrap_or_default());
                    this.drive_second(cx);
                    return Poll::Ready(Ok(count));
                }
                Poll::Ready(Err(_)) if this.is_asking() => this.first = None,
                other => return other,
            }
        }
        this.write_to_second(cx, bytes)
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
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::dynamic::Endpoint;
    use crate::health::Start;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const LONG: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_secs(10);

    /// A canary and a stable server that do what the test says, and the hedge between them.
    struct Scene {
        hedged: Hedged,
        canary: TcpStream,
        stable: TcpListener,
        server: Arc<Server>,
        outcome: Arc<Outcome>,
        /// What was told of stable.
        told: Arc<Mutex<Vec<Fared>>>,
    }

    /// A canary that has `patience` of time, and stable beside it.
    async fn scene(patience: Duration) -> Scene {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (canary, stable) = (listen().await.unwrap(), listen().await.unwrap());
        let server = server(stable.local_addr().unwrap());
        let (asked, outcome) = (Arc::clone(&server), Arc::<Outcome>::default());
        let told = Arc::<Mutex<Vec<Fared>>>::default();
        let telling = Arc::clone(&told);
        let dialler = Dialler {
            patience,
            dial_timeout: SOON,
            substitute: Arc::new(move || Some(Arc::clone(&asked))),
            tell: Arc::new(move |_, _, fared| telling.lock().unwrap().push(fared)),
            outcome: Arc::clone(&outcome),
        };
        let first = dial(canary.local_addr().unwrap(), SOON).await.unwrap();
        let hedged = dialler.hedge(first, Box::pin(tokio::time::sleep(patience)));
        Scene { hedged, canary: canary.accept().await.unwrap().0, stable, server, outcome, told }
    }

    fn server(address: SocketAddr) -> Arc<Server> {
        let endpoint = Endpoint::local(address.port());
        Arc::new(Server::new(&endpoint, clock::now(), Start::Established))
    }

    /// What comes, as text, until so many bytes are there or the other side ends.
    async fn hear(stream: &mut (impl AsyncRead + Unpin), length: usize) -> String {
        let mut text = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let read = tokio::time::timeout(SOON, stream.read(&mut text[filled..])).await.expect("nothing came");
            match read.unwrap_or(0) {
                0 => break,
                count => filled += count,
            }
        }
        String::from_utf8_lossy(&text[..filled]).into_owned()
    }

    async fn accept(stable: &TcpListener) -> TcpStream {
        tokio::time::timeout(SOON, stable.accept()).await.expect("stable was not asked").unwrap().0
    }

    #[tokio::test]
    async fn a_canary_that_answers_in_time_is_heard_and_stable_is_not_asked() {
        let Scene { mut hedged, mut canary, outcome, server, .. } = scene(LONG).await;
        hedged.write_all(HEAD).await.unwrap();
        assert_eq!(hear(&mut canary, HEAD.len()).await.as_bytes(), HEAD);
        canary.write_all(b"canary").await.unwrap();
        assert_eq!(hear(&mut hedged, 6).await, "canary");
        assert!(outcome.substitute().is_none());
        assert_eq!(server.in_flight(), 0);
    }

    #[tokio::test]
    async fn stable_answers_when_the_canary_is_silent_and_the_canary_is_let_go() {
        let Scene { mut hedged, mut canary, stable, outcome, server, told } = scene(Duration::ZERO).await;
        hedged.write_all(HEAD).await.unwrap();
        let answer = async {
            let mut stable = accept(&stable).await;
            assert_eq!(hear(&mut stable, HEAD.len()).await.as_bytes(), HEAD);
            stable.write_all(b"stable").await.unwrap();
            stable
        };
        let (heard, stable) = tokio::join!(hear(&mut hedged, 6), answer);
        assert_eq!(heard, "stable");
        assert!(outcome.substitute().is_some_and(|asked| Arc::ptr_eq(asked, &server)));
        assert_eq!(server.in_flight(), 1);
        assert_eq!(hear(&mut canary, HEAD.len() + 1).await.as_bytes(), HEAD);
        drop(stable);
        assert_eq!(hear(&mut hedged, 1).await, "");
        assert_eq!(*told.lock().unwrap(), [], "it is the attempt's own answer that ended");
        drop(hedged);
        assert_eq!(server.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_late_canary_that_still_answers_first_is_heard_and_stable_is_let_go() {
        let Scene { mut hedged, mut canary, stable, outcome, server, .. } = scene(Duration::ZERO).await;
        hedged.write_all(HEAD).await.unwrap();
        let answer = async {
            let mut stable = accept(&stable).await;
            assert_eq!(hear(&mut stable, HEAD.len()).await.as_bytes(), HEAD);
            canary.write_all(b"canary").await.unwrap();
            stable
        };
        let (heard, mut stable) = tokio::join!(hear(&mut hedged, 6), answer);
        assert_eq!(heard, "canary");
        assert!(outcome.substitute().is_none());
        assert_eq!(hear(&mut stable, 1).await, "");
        assert_eq!(server.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_body_that_comes_while_both_are_asked_reaches_both_whole() {
        let Scene { hedged, mut canary, stable, .. } = scene(Duration::ZERO).await;
        let (mut reader, mut writer) = tokio::io::split(hedged);
        writer.write_all(b"head").await.unwrap();
        let heard = tokio::spawn(async move { hear(&mut reader, 6).await });
        let mut stable = accept(&stable).await;
        assert_eq!(hear(&mut stable, 4).await, "head");
        writer.write_all(b"body").await.unwrap();
        assert_eq!(hear(&mut stable, 4).await, "body");
        assert_eq!(hear(&mut canary, 8).await, "headbody");
        stable.write_all(b"stable").await.unwrap();
        assert_eq!(heard.await.unwrap(), "stable");
    }

    #[tokio::test]
    async fn stable_gets_the_rest_of_a_request_that_it_began_to_answer() {
        let Scene { hedged, stable, canary: _canary, .. } = scene(Duration::ZERO).await;
        let (mut reader, mut writer) = tokio::io::split(hedged);
        writer.write_all(b"head").await.unwrap();
        let heard = tokio::spawn(async move { (hear(&mut reader, 8).await, reader) });
        let mut stable = accept(&stable).await;
        stable.write_all(b"continue").await.unwrap();
        let (text, _reader) = heard.await.unwrap();
        assert_eq!(text, "continue");
        writer.write_all(b"body").await.unwrap();
        assert_eq!(hear(&mut stable, 8).await, "headbody");
    }

    #[tokio::test]
    async fn a_canary_that_breaks_off_after_stable_was_asked_costs_nothing() {
        let Scene { hedged, canary, stable, outcome, .. } = scene(Duration::ZERO).await;
        let (mut reader, mut writer) = tokio::io::split(hedged);
        writer.write_all(b"head").await.unwrap();
        let heard = tokio::spawn(async move { hear(&mut reader, 6).await });
        let mut stable = accept(&stable).await;
        drop(canary);
        writer.write_all(b"body").await.unwrap();
        assert_eq!(hear(&mut stable, 8).await, "headbody");
        stable.write_all(b"stable").await.unwrap();
        assert_eq!(heard.await.unwrap(), "stable");
        assert!(outcome.substitute().is_some());
    }

    #[tokio::test]
    async fn a_canary_that_breaks_off_in_its_time_is_told_to_the_engine_at_once() {
        let Scene { mut hedged, mut canary, server, .. } = scene(LONG).await;
        hedged.write_all(HEAD).await.unwrap();
        assert_eq!(hear(&mut canary, HEAD.len()).await.as_bytes(), HEAD);
        drop(canary);
        assert_eq!(hear(&mut hedged, 1).await, "");
        assert_eq!(server.in_flight(), 0);
    }

    #[tokio::test]
    async fn stable_that_cannot_be_dialled_or_breaks_off_leaves_the_canary_its_time_and_is_told_of() {
        for (accepts, expected) in [(false, Fared::Refused), (true, Fared::Failed)] {
            let Scene { mut hedged, mut canary, stable, outcome, told, server } = scene(Duration::ZERO).await;
            let stable = accepts.then_some(stable);
            hedged.write_all(HEAD).await.unwrap();
            let answer = async {
                if let Some(stable) = &stable {
                    drop(accept(stable).await);
                }
                while told.lock().unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
                canary.write_all(b"canary").await.unwrap();
                canary
            };
            let (heard, _canary) =
                tokio::time::timeout(SOON, async { tokio::join!(hear(&mut hedged, 6), answer) }).await.unwrap();
            assert_eq!(heard, "canary");
            assert_eq!(*told.lock().unwrap(), [expected]);
            assert!(outcome.substitute().is_none());
            assert!(outcome.asked().is_some_and(|asked| Arc::ptr_eq(asked, &server)), "it is not asked again");
        }
    }

    #[tokio::test]
    async fn a_long_upload_goes_to_the_canary_alone() {
        let Scene { hedged, mut canary, stable, outcome, .. } = scene(Duration::ZERO).await;
        let (mut reader, mut writer) = tokio::io::split(hedged);
        writer.write_all(b"head").await.unwrap();
        let heard = tokio::spawn(async move { hear(&mut reader, 6).await });
        let mut stable = accept(&stable).await;
        assert_eq!(hear(&mut stable, 4).await, "head");
        let upload = tokio::spawn(async move { writer.write_all(&vec![b'x'; REQUEST_BYTES_MAX]).await });
        assert_eq!(hear(&mut canary, 4 + REQUEST_BYTES_MAX).await.len(), 4 + REQUEST_BYTES_MAX);
        upload.await.unwrap().unwrap();
        let received = hear(&mut stable, REQUEST_BYTES_MAX).await;
        assert!(received.len() < REQUEST_BYTES_MAX, "stable got all of it");
        canary.write_all(b"canary").await.unwrap();
        assert_eq!(heard.await.unwrap(), "canary");
        assert!(outcome.substitute().is_none());
    }
}
