//! Asks Consul's agent one question and reads the answer.
//!
//! The answer carries what its headers say, so that whoever reads it can judge how much of it to believe. A token file
//! is read again when the agent says 403, and the question asked once more: tokens are rotated while we run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::access::{Access, Consistency, Secret, Tls};
use super::answer::{self, Check, Services};
use super::blocking;
use super::connection::{Ask, Broken, Lines};
use crate::catalog::Instance;

/// How long an answer that need not wait may take. An agent without a leader takes 7 s to say so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// So much of a refusal's text is shown.
const TEXT_BYTES_MAX: usize = 200;
/// A token file larger than this is none.
const TOKEN_BYTES_MAX: u64 = 4096;

/// The agent's HTTP API, as far as a reader of the catalog needs it.
pub struct Client {
    lines: Lines,
    authority: HeaderValue,
    /// `dc`, `stale` and the like, as each question carries them.
    options: String,
    basic_auth: Option<HeaderValue>,
    token: ArcSwapOption<HeaderValue>,
    token_file: Option<PathBuf>,
}

/// What the agent said, and with how much authority.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// What it said.
    pub value: T,
    /// `X-Consul-Index`; 0 when it is missing.
    pub index: u64,
    /// `X-Consul-KnownLeader`; a missing one is false.
    pub known_leader: bool,
    /// `X-Consul-LastContact`: how long ago the server that answered heard from its leader.
    pub last_contact: Duration,
    /// `X-Consul-Results-Filtered-By-ACLs`, which older agents do not send.
    pub filtered_by_acl: Option<bool>,
    /// `X-Consul-Query-Backend`, which older agents do not send.
    pub backend: Option<String>,
}

impl<T> Answer<T> {
    /// The same answer about something made of its value.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Answer<U> {
        let Self { value, index, known_leader, last_contact, filtered_by_acl, backend } = self;
        Answer { value: make(value), index, known_leader, last_contact, filtered_by_acl, backend }
    }

    /// Why it may not be believed where something is missing from it.
    pub fn doubt(&self) -> Option<blocking::Doubt> {
        blocking::doubt(self.known_leader, self.last_contact, self.filtered_by_acl)
    }
}

/// Whether, and how long, the agent may hold its answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// It answers at once.
    Not,
    /// It answers when the index is above this one, or the time is over.
    Above(u64, Duration),
}

/// Why there is no answer to a question.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent could not be reached, or the connection broke.
    #[error("asked consul for {asked}: {reason}")]
    Unreachable {
        /** The path asked for. */
        asked: String,
        /** What happened, with its causes. */
        reason: String,
    },
    /// The agent answered with an error.
    #[error("asked consul for {asked}: it answered {status}: {text}")]
    Refused {
        /** The path asked for. */
        asked: String,
        /** The status. */
        status: StatusCode,
        /** The first bytes of its text. */
        text: String,
    },
    /// The agent answered something else than its API describes.
    #[error("asked consul for {asked}: its answer cannot be read: {reason}: {text}")]
    Unreadable {
        /** The path asked for. */
        asked: String,
        /** What is wrong with it. */
        reason: serde_json::Error,
        /** Its first bytes. */
        text: String,
    },
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A file that the settings name cannot be read.
    #[error("{what} `{}` cannot be read", path.display())]
    File {
        /** What it is for. */
        what: &'static str,
        /** Which. */
        path: PathBuf,
        /** Why. */
        source: std::io::Error,
    },
    /// A file that the settings name does not hold what it should.
    #[error("{what} `{}` holds no usable PEM: {reason}", path.display())]
    Pem {
        /** What it is for. */
        what: &'static str,
        /** Which. */
        path: PathBuf,
        /** What is wrong. */
        reason: String,
    },
    /// A text of the settings cannot stand in a header.
    #[error("{what} has characters that an HTTP header cannot carry")]
    Header {
        /** Which text. */
        what: &'static str,
    },
    /// The host is no name that a certificate could carry.
    #[error("`{host}` is no name that a certificate could carry")]
    Name {
        /** The host. */
        host: String,
    },
    /// The TLS library refuses the settings.
    #[error("TLS to consul cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl Client {
    /// A client that never holds more than `connections_max` connections. Reads the files that `access` names; nothing
    /// is asked yet. A process-wide crypto provider must be installed before.
    pub fn new(access: &Access, connections_max: usize) -> Result<Self, SetUpError> {
        let tls =
            access.tls.as_ref().map(|tls| Ok::<_, SetUpError>((connector(tls)?, server_name(&access.host)?))).transpose()?;
        let token = match &access.token_file {
            Some(file) => {
                Some(read_token(file).map_err(|source| SetUpError::File { what: "token file", path: file.clone(), source })?)
            }
            None => access.token.clone(),
        };
        let token =
            token.filter(|token| !token.reveal().is_empty()).map(|token| header("the ACL token", token.reveal())).transpose()?;
        let basic_auth = access.basic_auth.as_ref().map(|(user, password)| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{}", password.reveal()));
            header("basic authentication", &format!("Basic {encoded}"))
        });
        Ok(Self {
            lines: Lines::new(access.host.clone(), access.port, tls, connections_max.max(1)),
            authority: header("the agent's address", &access.authority())?,
            options: options(access),
            basic_auth: basic_auth.transpose()?,
            token: ArcSwapOption::from_pointee(token),
            token_file: access.token_file.clone(),
        })
    }

    /// Every service with the union of its tags: `/v1/catalog/services`.
    pub async fn services(&self, block: Block) -> Result<Answer<Services>, ClientError> {
        self.ask("/v1/catalog/services", block, answer::parse_services).await
    }

    /// The names of all nodes: `/v1/catalog/nodes`.
    pub async fn nodes(&self, block: Block) -> Result<Answer<Vec<String>>, ClientError> {
        self.ask("/v1/catalog/nodes", block, answer::parse_nodes).await
    }

    /// A service's instances with their health: `/v1/health/service/NAME`. An unknown service has none.
    pub async fn instances(&self, service: &str, block: Block) -> Result<Answer<Vec<Instance>>, ClientError> {
        self.ask(&format!("/v1/health/service/{}", escape(service)), block, answer::parse_instances).await
    }

    /// All checks of all nodes and instances: `/v1/health/state/any`.
    pub async fn checks(&self, block: Block) -> Result<Answer<Vec<Check>>, ClientError> {
        self.ask("/v1/health/state/any", block, answer::parse_checks).await
    }

    async fn ask<T>(&self, path: &str, block: Block, parse: Parse<T>) -> Result<Answer<T>, ClientError> {
        let (query, timeout) = match block {
            Block::Not | Block::Above(0, _) => (self.options.clone(), ANSWER_TIMEOUT),
            Block::Above(index, wait) => {
                (format!("{}&index={index}&wait={}ms", self.options, wait.as_millis()), blocking::timeout(wait))
            }
        };
        let mut response = self.exchange(path, &query, timeout).await?;
        if response.status() == StatusCode::FORBIDDEN && self.read_token_again() {
            response = self.exchange(path, &query, timeout).await?;
        }
        read_answer(path, response, parse)
    }

    async fn exchange(&self, path: &str, query: &str, timeout: Duration) -> Result<Response<Bytes>, ClientError> {
        let unreachable = |reason| ClientError::Unreachable { asked: path.to_owned(), reason };
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.trim_start_matches('&')) };
        let ask = self.request(target).map_err(|error| unreachable(error.to_string()))?;
        self.lines.exchange(&ask, timeout).await.map_err(|broken| unreachable(chain(&broken)))
    }

    fn request(&self, target: String) -> Result<Ask, http::Error> {
        let mut request = Request::get(target).body(Empty::new())?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))));
        if let Some(token) = self.token.load_full() {
            headers.insert("x-consul-token", HeaderValue::clone(&token));
        }
        if let Some(basic_auth) = &self.basic_auth {
            headers.insert(AUTHORIZATION, basic_auth.clone());
        }
        Ok(request)
    }

    /// Whether the token file now holds another token than the one that was refused.
    fn read_token_again(&self) -> bool {
        let Some(file) = &self.token_file else { return false };
        let token = match read_token(file).map(|token| header("the ACL token", token.reveal())) {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => {
                tracing::warn!(file = %file.display(), %error, "consul refused the token and its file is of no use");
                return false;
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "consul refused the token and its file cannot be read");
                return false;
            }
        };
        let is_new = self.token.load_full().is_none_or(|old| *old != token);
        if is_new {
            tracing::info!(file = %file.display(), "read a new consul token");
            self.token.store(Some(Arc::new(token)));
        }
        is_new
    }
}

type Parse<T> = fn(&[u8]) -> Result<T, serde_json::Error>;

fn read_answer<T>(path: &str, response: Response<Bytes>, parse: Parse<T>) -> Result<Answer<T>, ClientError> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(ClientError::Refused { asked: path.to_owned(), status: head.status, text: first_bytes(&body) });
    }
    let value =
        parse(&body).map_err(|reason| ClientError::Unreadable { asked: path.to_owned(), reason, text: first_bytes(&body) })?;
    let text = |name| text(&head.headers, name);
    Ok(Answer {
        value,
        index: text("x-consul-index").and_then(|index| index.parse().ok()).unwrap_or(0),
        known_leader: text("x-consul-knownleader") == Some("true"),
        last_contact: Duration::from_millis(text("x-consul-lastcontact").and_then(|ms| ms.parse().ok()).unwrap_or(0)),
        filtered_by_acl: text("x-consul-results-filtered-by-acls").map(|value| value == "true"),
        backend: text("x-consul-query-backend").map(str::to_owned),
    })
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The beginning of an answer, fit for one line of a log.
fn first_bytes(body: &[u8]) -> String {
    let shown = String::from_utf8_lossy(body.get(..TEXT_BYTES_MAX).unwrap_or(body));
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error and its causes on one line.
fn chain(broken: &Broken) -> String {
    let mut line = broken.to_string();
    let mut cause = std::error::Error::source(broken);
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// What each question carries, beginning with `&`.
fn options(access: &Access) -> String {
    let mut options = String::new();
    if let Some(datacenter) = &access.datacenter {
        options = format!("&dc={}", escape(datacenter));
    }
    match access.consistency {
        Consistency::Leader => {}
        Consistency::Consistent => options.push_str("&consistent"),
        Consistency::Stale => options.push_str("&stale"),
    }
    if access.is_cached {
        options.push_str("&cached");
    }
    options
}

/// Percent-encodes all that is not unreserved (RFC 3986, 2.3).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn header(what: &'static str, text: &str) -> Result<HeaderValue, SetUpError> {
    let mut value = HeaderValue::from_str(text).map_err(|_invalid| SetUpError::Header { what })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_token(file: &Path) -> std::io::Result<Secret> {
    if std::fs::metadata(file)?.len() > TOKEN_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {TOKEN_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(file).map(|text| Secret::new(text.trim()))
}

fn server_name(host: &str) -> Result<ServerName<'static>, SetUpError> {
    ServerName::try_from(host.to_owned()).map_err(|_invalid| SetUpError::Name { host: host.to_owned() })
}

fn connector(tls: &Tls) -> Result<TlsConnector, SetUpError> {
    let builder = rustls::ClientConfig::builder();
    let builder = if tls.is_unverified {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(unverified::Anyone::new()))
    } else {
        builder.with_root_certificates(roots(tls.ca.as_deref())?)
    };
    let config = match &tls.cert {
        None => builder.with_no_client_auth(),
        Some(cert) => {
            let key = tls.key.as_ref().unwrap_or(cert);
            builder.with_client_auth_cert(read_certificates("client certificate", cert)?, read_key(key)?)?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(ca: Option<&Path>) -> Result<rustls::RootCertStore, SetUpError> {
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in read_certificates("CA file", file)? {
                roots.add(certificate)?;
            }
        }
        None => {
            // Some of a system's certificates may be odd; that costs only themselves.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    Ok(roots)
}

fn read_certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SetUpError> {
    let text = std::fs::read(path).map_err(|source| SetUpError::File { what, path: path.to_owned(), source })?;
    let pem = |reason: String| SetUpError::Pem { what, path: path.to_owned(), reason };
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(|error| pem(error.to_string()))?;
    if found.is_empty() { Err(pem("there is no certificate in it".to_owned())) } else { Ok(found) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, SetUpError> {
    let what = "client key";
    let text = std::fs::read(path).map_err(|source| SetUpError::File { what, path: path.to_owned(), source })?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| SetUpError::Pem {
        what,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// `insecureSkipVerify`: any certificate is believed, but the handshake itself is still checked.
mod unverified {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Anyone(WebPkiSupportedAlgorithms);

    impl Anyone {
        pub(super) fn new() -> Self {
            Self(aws_lc_rs::default_provider().signature_verification_algorithms)
        }
    }

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signed, &self.0)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.0)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(headers: &[(&str, &str)], status: u16, body: &'static str) -> Result<Answer<Services>, ClientError> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        read_answer("/v1/catalog/services", response.body(Bytes::from_static(body.as_bytes())).unwrap(), answer::parse_services)
    }

    #[test]
    fn an_answer_carries_what_its_headers_say() {
        let headers = [("X-Consul-Index", "21"), ("X-Consul-Knownleader", "true"), ("X-Consul-Lastcontact", "1500")];
        let answer = answered(&headers, 200, "{}").unwrap();
        assert_eq!((answer.index, answer.known_leader, answer.last_contact), (21, true, Duration::from_millis(1500)));
        assert_eq!((answer.filtered_by_acl, answer.backend.clone(), answer.doubt()), (None, None, None));
        let newer = [("X-Consul-Results-Filtered-By-ACLs", "true"), ("X-Consul-Query-Backend", "streaming")];
        let answer = answered(&newer, 200, "{}").unwrap();
        assert_eq!((answer.index, answer.known_leader), (0, false));
        assert_eq!((answer.filtered_by_acl, answer.backend.as_deref()), (Some(true), Some("streaming")));
    }

    #[test]
    fn an_error_says_what_was_asked_and_what_came_back() {
        let refused = answered(&[], 500, "No cluster\n leader").unwrap_err().to_string();
        assert_eq!(refused, "asked consul for /v1/catalog/services: it answered 500 Internal Server Error: No cluster leader");
        let garbage = answered(&[], 200, "<html>").unwrap_err().to_string();
        assert!(
            garbage.starts_with("asked consul for /v1/catalog/services: its answer cannot be read: expected value"),
            "{garbage}"
        );
        assert!(garbage.ends_with(": <html>"), "{garbage}");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("lab-svc.x_1"), "lab-svc.x_1");
        assert_eq!(escape("a b/ü"), "a%20b%2F%C3%BC");
    }
}
