//! The bytes of one client: a TCP stream, or TLS over it.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// As much as is collected before it is sent without being told to.
const CORKED_BYTES_MAX: usize = 64 * 1024;

/// See the module. It has no buffers of its own beyond those of TLS.
#[derive(Debug)]
pub(crate) enum Transport {
    /// As it comes from the socket.
    Plain(TcpStream),
    /// Decrypted.
    Tls(Box<TlsStream<Corked>>),
}

impl Transport {
    /// Ready when a read may find something; needs no buffer. A wrong "ready" is possible, a wrong "pending" is not.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            // TLS does not want to read while it holds decrypted bytes that nobody took.
            Self::Tls(stream) if !stream.get_ref().1.wants_read() => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.get_ref().0.socket.poll_read_ready(cx),
        }
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.get_ref().0.socket,
        }
    }

    /// Makes closing look like a failure to the peer (RST): for an answer that was cut and has no other sign of it.
    pub(super) fn abort(&self) {
        // Best effort: without it the peer sees an ordinary end.
        let _ = self.socket().set_zero_linger();
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// A socket below TLS that sends only when it is told to: the many small records of one turn (every answer of HTTP/2 has
/// two) go out with one system call. Holds nothing while nothing waits.
#[derive(Debug)]
pub(crate) struct Corked {
    socket: TcpStream,
    waiting: Vec<u8>,
    /// How much of it is sent already.
    sent: usize,
    is_corked: bool,
}

impl Corked {
    /// Sends at once, until [`Self::cork`]: nobody flushes the alert of a handshake that fails.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, waiting: Vec::new(), sent: 0, is_corked: false }
    }

    /// From now on waits for the flush.
    pub(super) fn cork(&mut self) {
        self.is_corked = true;
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.waiting = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether `more` bytes go straight to the socket: nothing waits, and collecting them would gain nothing.
    fn goes_straight(&self, more: usize) -> bool {
        self.waiting.is_empty() && (!self.is_corked || more >= CORKED_BYTES_MAX)
    }
}

impl AsyncRead for Corked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let more: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.goes_straight(more) {
            return Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
        }
        if this.waiting.len() + more > CORKED_BYTES_MAX {
            ready!(this.poll_drain(cx))?;
        }
        for buf in bufs {
            this.waiting.extend_from_slice(buf);
        }
        Poll::Ready(Ok(more))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
