//! Requests that we answer ourselves because they are malformed, ambiguous or beyond a limit.

use http::StatusCode;
use pingora_core::protocols::http::date::get_cached_date;

use crate::listener::counters::Refused;

/// Why a request head is refused. The connection is closed after the answer: where the next request begins cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "`text` says each of them")]
pub enum Refusal {
    LineEnd,
    RequestLine,
    Method,
    Target,
    Fragment,
    TargetTooLong,
    Version,
    HeaderLine,
    HeaderName,
    HeaderValue,
    MissingHost,
    ManyHosts,
    Host,
    ContentLength,
    TransferEncoding,
    UnknownCoding,
    LengthAndCoding,
    Expectation,
    Connect,
    TooManyHeaders,
    HeadTooLarge,
    HeadTimeout,
}

impl Refusal {
    /// What remains when the engine cannot hold a target that we would.
    pub(super) fn of_target(_: &pingora_error::Error) -> Self {
        Self::Target
    }

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::UnknownCoding | Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TooManyHeaders | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The reason in words, for logs.
    pub fn text(self) -> &'static str {
        match self {
            Self::LineEnd => "line does not end with CRLF",
            Self::RequestLine => "malformed request line",
            Self::Method => "malformed method",
            Self::Target => "malformed request target",
            Self::Fragment => "fragment in the request target",
            Self::TargetTooLong => "request target too long",
            Self::Version => "unsupported protocol version",
            Self::HeaderLine => "header without a colon",
            Self::HeaderName => "invalid header name",
            Self::HeaderValue => "invalid header value",
            Self::MissingHost => "missing required Host header",
            Self::ManyHosts => "too many Host headers",
            Self::Host => "malformed Host header",
            Self::ContentLength => "malformed Content-Length header",
            Self::TransferEncoding => "malformed Transfer-Encoding header",
            Self::UnknownCoding => "Unsupported transfer encoding",
            Self::LengthAndCoding => "both Transfer-Encoding and Content-Length",
            Self::Expectation => "unknown expectation",
            Self::Connect => "CONNECT is not implemented",
            Self::TooManyHeaders => "too many headers",
            Self::HeadTooLarge => "request head too large",
            Self::HeadTimeout => "request head came too slowly",
        }
    }

    /// Under which reason it is counted.
    pub fn reason(self) -> Refused {
        match self {
            Self::TargetTooLong => Refused::TargetTooLong,
            Self::Version => Refused::Version,
            Self::UnknownCoding | Self::Connect | Self::Expectation => Refused::NotImplemented,
            Self::TooManyHeaders | Self::HeadTooLarge => Refused::HeadTooLarge,
            Self::HeadTimeout => Refused::HeadTimeout,
            _ => Refused::BadHead,
        }
    }

    /// The whole answer.
    pub(super) fn write_to(self, output: &mut Vec<u8>) {
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or_default();
        // As Traefik answers; it gives a reason for some, and so do we.
        let body = match self {
            Self::Connect | Self::Expectation | Self::Fragment => String::new(),
            Self::UnknownCoding => self.text().to_owned(),
            Self::MissingHost | Self::Host | Self::HeaderName | Self::HeaderValue | Self::Version => {
                format!("{} {reason}: {}", status.as_str(), self.text())
            }
            _ => format!("{} {reason}", status.as_str()),
        };
        // Of a fragment Traefik does not say that it closes.
        let closing = if self == Self::Fragment { "" } else { "Connection: close\r\n" };
        write_answer(output, status, &body, closing);
    }
}

/// An answer of our own, in plain text, after which the connection is closed: as in Traefik that is how its text ends.
fn write_answer(output: &mut Vec<u8>, status: StatusCode, body: &str, closing: &str) {
    let fields = if body.is_empty() { "Content-Length: 0" } else { "Content-Type: text/plain; charset=utf-8" };
    let head =
        format!("HTTP/1.1 {} {}\r\n{fields}\r\n{closing}Date: ", status.as_str(), status.canonical_reason().unwrap_or_default(),);
    output.extend_from_slice(head.as_bytes());
    output.extend_from_slice(get_cached_date().as_bytes());
    output.extend_from_slice(b"\r\n\r\n");
    output.extend_from_slice(body.as_bytes());
}
