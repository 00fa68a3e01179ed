//! Reads a ClientHello without answering it, so that the server name decides who does.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use rustls::server::{Accepted, Acceptor};
use rustls::{CipherSuite, ProtocolVersion, ServerConnection};

use crate::routing::entrypoint::TlsFacts;

use super::pipe::{Failure, Pipe};

/// Bytes of a ClientHello with all that comes with it; real ones have a few hundred, or two thousand with post-quantum keys.
const HELLO_BYTES_MAX: usize = 64 * 1024;

/// The first byte of TLS: a handshake record.
pub(super) const FIRST_BYTE: u8 = 0x16;

/// A ClientHello. The pipe's input still holds all of its bytes.
pub(super) struct Hello {
    /// rustls' side of the handshake so far.
    pub accepted: Accepted,
    /// Lower case, without a trailing dot.
    pub server_name: Option<Arc<str>>,
    /// As offered.
    pub alpn: Vec<Vec<u8>>,
}

/// Why there is none.
pub(super) enum NoHello {
    /// The client left or the time is over.
    Gone(Failure),
    /// It is not TLS, or not one we understand. The pipe's output holds the alert.
    Invalid,
}

/// Reads until the ClientHello is complete.
pub(super) async fn read(pipe: &mut Pipe, deadline: Instant) -> Result<Hello, NoHello> {
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        let mut rest = pipe.input.get(fed..).unwrap_or_default();
        while !rest.is_empty() {
            // A copy goes to rustls: the bytes themselves may be for somebody else.
            if acceptor.read_tls(&mut rest as &mut dyn Read).is_err() {
                return Err(NoHello::Invalid);
            }
            match acceptor.accept() {
                Ok(Some(accepted)) if rest.is_empty() => return Ok(Hello::new(accepted)),
                // Bytes that rustls has not seen would be lost; no client sends so much before it is answered.
                Ok(Some(_)) => return Err(NoHello::Invalid),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    tracing::debug!(%error, "refused a ClientHello");
                    // Writing to memory does not fail.
                    let _ = alert.write_all(&mut pipe.output);
                    return Err(NoHello::Invalid);
                }
            }
        }
        fed = pipe.input.len();
        if fed > HELLO_BYTES_MAX {
            return Err(NoHello::Invalid);
        }
        match pipe.fill(Some(deadline)).await {
            Ok(0) => return Err(NoHello::Gone(Failure::Io(std::io::ErrorKind::UnexpectedEof.into()))),
            Ok(_) => {}
            Err(failure) => return Err(NoHello::Gone(failure)),
        }
    }
}

impl Hello {
    fn new(accepted: Accepted) -> Self {
        let hello = accepted.client_hello();
        let server_name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into());
        let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        Self { accepted, server_name, alpn }
    }
}

/// What a finished handshake settled.
pub(super) fn facts(connection: &ServerConnection, server_name: Option<Arc<str>>, options: u64) -> TlsFacts {
    TlsFacts {
        server_name,
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "1.3",
        },
        cipher: connection.negotiated_cipher_suite().map_or("", |suite| go_name(suite.suite())),
        is_h2: connection.alpn_protocol() == Some(b"h2"),
        options,
    }
}

/// Cipher suites as Go names them.
fn go_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or_default(),
    }
}
