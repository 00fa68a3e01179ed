//! Clients: a browser that speaks HTTP/2 and believes one CA only, and bytes over TCP.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::process::DEADLINE;

/// The name under which the site is known.
pub const HOST: &str = "cljdoc.org";

/// An answer over HTTP/2, and the certificate that stood for the site.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The certificate's serial number.
    pub serial: String,
}

impl Page {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Asks for pages of the site with a new connection each.
#[derive(Clone)]
pub struct Browser {
    connector: TlsConnector,
    port: u16,
}

impl Browser {
    /// One that believes `root` and nobody else.
    pub fn new(root: CertificateDer<'static>, port: u16) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)), port }
    }

    /// A page, or why there is none: no connection, a certificate that is not the CA's, or no HTTP/2.
    pub async fn try_get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Page, Box<dyn Error + Send + Sync>> {
        tokio::time::timeout(DEADLINE, self.exchange(path, headers)).await?
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Page {
        self.try_get(path, headers).await.unwrap_or_else(|error| panic!("no page for {path}: {error}"))
    }

    async fn exchange(&self, path: &str, headers: &[(&str, &str)]) -> Result<Page, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let stream = self.connector.connect(ServerName::try_from(HOST)?, stream).await?;
        let tls = stream.get_ref().1;
        assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
        let certificate = &tls.peer_certificates().ok_or("no certificate")?[0];
        let serial = x509_parser::parse_x509_certificate(certificate)?.1.raw_serial_as_string();
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let mut request = http::Request::get(format!("https://{HOST}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (answer, _) = sender.ready().await?.send_request(request.body(())?, true)?;
        let (head, mut stream) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        Ok(Page { status: head.status.as_u16(), headers: head.headers, body: body.into(), serial })
    }
}

/// Sends bytes and reads until the other side closes.
pub async fn exchange(port: u16, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

/// One HTTP/1.1 request on a connection of its own: the answer's head, sorted and without its date, and its body.
pub async fn plain(port: u16, method: &str, target: &str) -> (Vec<String>, String) {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: test\r\nConnection: close\r\n\r\n");
    let answer = exchange(port, &request).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    let mut lines: Vec<String> = head.lines().filter(|line| !line.starts_with("Date: ")).map(str::to_owned).collect();
    lines[1..].sort();
    (lines, body.to_owned())
}

/// What a server says that speaks first, and what it answers to one line.
pub async fn greeting(port: u16, line: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let greeting = read_line(&mut stream).await;
    stream.write_all(line.as_bytes()).await.unwrap();
    let echo = read_line(&mut stream).await;
    (greeting, echo)
}

async fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut line)).await.unwrap().unwrap();
        assert!(read > 0, "the connection ended after {:?}", String::from_utf8_lossy(&line));
    }
    String::from_utf8(line).unwrap()
}
