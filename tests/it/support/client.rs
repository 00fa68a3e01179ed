//! A client that repeats nothing and hides nothing: what it reports is what a visitor saw.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field, if there is one.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the server closes the connection after this.
    pub fn is_last(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// One HTTP/1.1 connection.
pub struct Http<S> {
    pub stream: S,
    unread: Vec<u8>,
}

impl Http<TcpStream> {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends a request and reads the whole answer. `Err` when the connection ends before that.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<Answer> {
        self.stream.write_all(request.as_ref()).await?;
        self.stream.flush().await?;
        self.answer().await
    }

    /// Reads the next final answer.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        loop {
            let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n").await?).into_owned();
            let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut answer = Answer { status, head, body: Vec::new() };
            if status == 101 || status == 204 || status == 304 {
                return Ok(answer);
            }
            answer.body = if answer.field("transfer-encoding").is_some_and(|coding| coding == "chunked") {
                self.chunks().await?
            } else if let Some(length) = answer.field("content-length").and_then(|length| length.parse().ok()) {
                self.exactly(length).await?
            } else {
                self.rest().await?
            };
            return Ok(answer);
        }
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8_lossy(&self.until(b"\r\n").await?).into_owned();
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                while self.until(b"\r\n").await?.len() > 2 {}
                return Ok(body);
            }
            body.extend(self.exactly(size).await?);
            self.exactly(2).await?;
        }
    }

    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.unread.get(seen..).and_then(|new| new.windows(end.len()).position(|window| window == end)) {
                return Ok(self.unread.drain(..seen + at + end.len()).collect());
            }
            seen = self.unread.len().saturating_sub(end.len());
            self.more().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.more().await?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    async fn rest(&mut self) -> io::Result<Vec<u8>> {
        self.stream.read_to_end(&mut self.unread).await?;
        Ok(std::mem::take(&mut self.unread))
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            let kind = if self.unread.is_empty() { "closed without an answer" } else { "answer cut off" };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, kind));
        }
        Ok(())
    }
}

/// Makes a TLS connection that trusts `roots` only.
pub async fn connect_tls(
    address: SocketAddr,
    name: &str,
    roots: &[CertificateDer<'static>],
    alpn: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
