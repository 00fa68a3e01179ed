//! A certificate authority as a resolver is configured to speak to it: one HTTP client, its directory, and what we tell it of us.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::clock;
use crate::config::install::{Acme, KeyType};

/// How long a CA may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a CA may take for one answer, as in Traefik (`clientResponseHeaderTimeout`).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read; a chain has some ten thousand bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One resolver's certificate authority.
#[derive(Debug)]
pub struct Ca {
    /// The URL of its directory (RFC 8555, 7.1.1).
    pub directory: String,
    /// The account's contact.
    pub email: Option<String>,
    /// External account binding: key id and key.
    pub external_account: Option<(String, Vec<u8>)>,
    /// The profile orders name.
    pub profile: Option<String>,
    /// The kind of key that certificates get.
    pub key_type: KeyType,
    client: reqwest::Client,
}

/// What went wrong between us and a CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// No answer came.
    #[error("the CA cannot be reached: {}", chain_of(.0))]
    Unreachable(#[from] reqwest::Error),
    /// An answer came too slowly or was too long.
    #[error("the CA's answer cannot be read: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
    /// An error came that is not ACME's.
    #[error("the CA answered {status} to {url}")]
    Status {
        /// The status.
        status: StatusCode,
        /// What was asked.
        url: String,
    },
}

/// What the last answer of a CA said besides its body. One for each order, so that orders do not mistake each other's.
#[derive(Debug, Default)]
pub struct LastAnswer(Mutex<(Option<StatusCode>, Option<Duration>)>);

impl Ca {
    /// A client for the CA of one resolver. `environment` looks up a variable: lego's `LEGO_CA_CERTIFICATES` and
    /// `LEGO_CA_SYSTEM_CERT_POOL` say whom to trust where `caCertificates` does not.
    pub fn new(acme: &Acme, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let external_account = match &acme.eab {
            Some((id, key)) => Some((id.clone(), decode_hmac(key)?)),
            None => None,
        };
        Ok(Self {
            directory: acme.ca_server.clone(),
            email: acme.email.clone(),
            external_account,
            profile: acme.profile.clone(),
            key_type: acme.key_type,
            client: client(acme, environment)?,
        })
    }

    /// Sends one request and reads the answer whole. An error status is an error unless its body is ACME's own kind.
    pub async fn send(&self, request: http::Request<Bytes>, last: &LastAnswer) -> Result<http::Response<Bytes>, CaError> {
        let url = request.uri().to_string();
        last.record(None, None);
        let request = reqwest::Request::try_from(request)?;
        let response = http::Response::<reqwest::Body>::from(self.client.execute(request).await?);
        let (parts, body) = response.into_parts();
        last.record(Some(parts.status), retry_after(&parts.headers, clock::wall()));
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(CaError::Answer)?.to_bytes();
        if parts.status.is_client_error() || parts.status.is_server_error() {
            let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            if !kind.contains("json") || serde_json::from_slice::<serde_json::Value>(&body).is_err() {
                return Err(CaError::Status { status: parts.status, url });
            }
        }
        Ok(http::Response::from_parts(parts, body))
    }
}

impl LastAnswer {
    /// Its status; `None` when none came.
    pub fn status(&self) -> Option<StatusCode> {
        self.read().0
    }

    /// Its `Retry-After`.
    pub fn retry_after(&self) -> Option<Duration> {
        self.read().1
    }

    fn read(&self) -> (Option<StatusCode>, Option<Duration>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn record(&self, status: Option<StatusCode>, retry_after: Option<Duration>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (status, retry_after);
    }
}

/// RFC 9110, 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    SystemTime::from(date.timestamp()).duration_since(now).ok()
}

fn client(acme: &Acme, environment: &dyn Fn(&str) -> Option<String>) -> Result<reqwest::Client, String> {
    let agent = concat!("tidegate/", env!("CARGO_PKG_VERSION"));
    let builder = reqwest::Client::builder().user_agent(agent).connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
    let named = !acme.ca_certificates.is_empty();
    let files = if named { acme.ca_certificates.clone() } else { listed(environment("LEGO_CA_CERTIFICATES")) };
    if files.is_empty() {
        return builder.build().map_err(|error| chain_of(&error));
    }
    let mut roots = Vec::new();
    for file in &files {
        let pem = std::fs::read(file).map_err(|error| format!("CA certificate `{}` cannot be read: {error}", file.display()))?;
        let found = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| format!("CA certificate `{}` cannot be used: {}", file.display(), chain_of(&error)))?;
        if found.is_empty() {
            return Err(format!("CA certificate `{}` holds no PEM block `CERTIFICATE`", file.display()));
        }
        roots.extend(found);
    }
    let is_also_system = acme.ca_system_cert_pool
        || (!named
            && environment("LEGO_CA_SYSTEM_CERT_POOL")
                .is_some_and(|value| crate::config::node::parse_bool(&value) == Some(true)));
    let builder = if is_also_system { builder.tls_certs_merge(roots) } else { builder.tls_certs_only(roots) };
    builder.build().map_err(|error| chain_of(&error))
}

/// Paths as lego's variable lists them.
fn listed(value: Option<String>) -> Vec<PathBuf> {
    value.iter().flat_map(|value| value.split(':')).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

fn decode_hmac(key: &str) -> Result<Vec<u8>, String> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(key).or_else(|_| BASE64_URL_SAFE.decode(key));
    decoded.map_err(|error| format!("`eab.hmacEncoded` is not base64url: {error}"))
}

/// An error and its causes in one sentence; what they repeat of each other is left out.
pub(super) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_ca_asks_for_patience_in_seconds_or_by_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (value, expected) in [
            ("20", Some(20)),
            (" 20 ", Some(20)),
            ("Tue, 14 Nov 2023 22:14:20 GMT", Some(60)),
            ("Tue, 14 Nov 2023 22:13:00 GMT", None),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn an_external_account_key_is_read_with_and_without_padding() {
        for key in ["-_8", "-_8="] {
            assert_eq!(decode_hmac(key), Ok(vec![0xfb, 0xff]), "{key}");
        }
        assert!(decode_hmac("+/8").is_err());
    }
}
