//! Changes to a request or its answer: Traefik's middlewares, one file each, without input, output or lock.
//!
//! [`compile`] turns a declared middleware into a runnable one. A route holds its middlewares as a [`Chain`]: a request goes
//! through it from the first to the last, its answer back from the last that the request reached to the first. Everything
//! here is written against the `http` crate's types and plain values and knows nothing of the engine.
//!
//! A chain never sets `Content-Length`, `Transfer-Encoding` or `Date`: framing belongs to whoever writes the answer.

mod add_prefix;
mod basic_auth;
mod body;
mod chain;
mod compress;
pub mod forwarded;
mod headers;
mod htpasswd;
mod media_type;
mod redirect_regex;
mod redirect_scheme;
mod strip_prefix;
pub(crate) mod url;

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, InvalidHeaderName, InvalidHeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Method, StatusCode};

use crate::config::dynamic::MiddlewareKind;

pub use basic_auth::BasicAuth;
pub use body::BodyTransform;
pub use chain::{Chain, Memo};
pub use compress::Compress;
pub use headers::Headers;
pub use redirect_regex::RedirectRegex;
pub use redirect_scheme::RedirectScheme;

pub use add_prefix::AddPrefix;
pub use strip_prefix::StripPrefix;

/// A middleware that can run.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are Traefik's")]
pub enum Middleware {
    RedirectScheme(RedirectScheme),
    RedirectRegex(RedirectRegex),
    Compress(Compress),
    Headers(Headers),
    StripPrefix(StripPrefix),
    AddPrefix(AddPrefix),
    BasicAuth(BasicAuth),
}

/// What a declaration compiles to.
#[derive(Debug)]
pub enum Compiled {
    /// One middleware.
    Single(Middleware),
    /// References to others, in order. Who knows all middlewares puts them in its place.
    Chain(Vec<String>),
}

/// What a middleware wants done with a request.
#[derive(Debug)]
pub enum Step {
    /// Go on.
    Next,
    /// Send this; no server is asked.
    Answer(Answer),
}

/// A whole answer of our own. `Content-Length` and `Date` are added by whoever writes it.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The status's name as the body, without a line end and without `Content-Type`: Traefik's redirects, 502 and 504.
    pub fn named(status: StatusCode) -> Self {
        let name = status.canonical_reason().unwrap_or_default();
        Self { status, headers: HeaderMap::new(), body: Bytes::from_static(name.as_bytes()) }
    }

    /// A line of plain text as Go's `http.Error` writes it: Traefik's 400, 404 and 503.
    pub fn text(status: StatusCode, line: &str) -> Self {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Self { status, headers, body: Bytes::from(format!("{line}\n")) }
    }
}

/// A request as middlewares see and change it, after the X-Forwarded headers were settled ([`forwarded`]).
#[derive(Debug)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// Whether the client speaks TLS with us.
    pub is_tls: bool,
    /// The host asked for, port included, as the client wrote it; empty if it named none. Owned once a middleware changed
    /// it: then it is also what the server gets, unless `passHostHeader` is off.
    pub host: Cow<'a, str>,
    /// Path and query, sanitised. Owned once a middleware changed it.
    pub target: Cow<'a, str>,
    /// All headers but `Host`.
    pub headers: &'a mut HeaderMap,
    /// Who asks.
    pub client: IpAddr,
    /// The user that basicAuth saw, believed or not; for the access log.
    pub user: Option<String>,
    /// Set when a middleware deleted X-Forwarded-For by an empty value: then no address is added either, as in Traefik.
    pub hides_client: bool,
}

impl RequestView<'_> {
    /// `http` or `https`: what X-Forwarded-Proto says if it says one of the two (or `ws`, `wss`), else whether it is TLS.
    fn scheme(&self) -> &'static str {
        let proto = self.headers.get("x-forwarded-proto").map(HeaderValue::as_bytes).unwrap_or_default();
        let is = |word: &str| proto.eq_ignore_ascii_case(word.as_bytes());
        if is("http") || is("ws") {
            "http"
        } else if is("https") || is("wss") {
            "https"
        } else {
            self.transport_scheme()
        }
    }

    /// `http` or `https` by the connection alone.
    fn transport_scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}

/// The head of an answer as middlewares see and change it. Not for interim answers (100, 103).
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: &'a mut HeaderMap,
    /// Known to have no body although neither status nor `Content-Length` says so (HTTP/2's END_STREAM on the head).
    pub is_bodiless: bool,
}

/// Why a declared middleware cannot run. The words are Traefik's where it has some.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InvalidMiddleware {
    #[error("you must provide a target scheme")]
    NoScheme,
    #[error("the regular expression `{regex}` cannot be used: {reason}")]
    Regex { regex: String, reason: String },
    #[error("excludedContentTypes and includedContentTypes options are mutually exclusive")]
    BothContentTypes,
    #[error("`{0}` is not a media type")]
    MediaType(String),
    #[error("at least one encoding must be specified")]
    NoEncoding,
    #[error("unsupported encoding: {0}")]
    Encoding(String),
    #[error("unsupported default encoding: {0}")]
    DefaultEncoding(String),
    #[error("headers configuration not valid")]
    NoHeaders,
    #[error("`{name}` cannot be a header's name")]
    HeaderName { name: String, source: InvalidHeaderName },
    #[error("the value of header `{name}` has characters that no header may have")]
    HeaderValue { name: String, source: InvalidHeaderValue },
    #[error("prefix cannot be empty")]
    NoPrefix,
    #[error("no users found in {0}")]
    NoUsers(String),
    #[error("error parsing BasicUser: {0}")]
    User(String),
    #[error("the users file {path} cannot be read: {source}")]
    UsersFile { path: String, source: io::Error },
}

/// Makes a declared middleware runnable. `read_users_file` gives the text of basicAuth's `usersFile`.
pub fn compile(
    kind: &MiddlewareKind,
    read_users_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Compiled, InvalidMiddleware> {
    Ok(Compiled::Single(match kind {
        MiddlewareKind::RedirectScheme { scheme, port, permanent } => Middleware::RedirectScheme(RedirectScheme::compile(
            scheme,
            port.as_deref().unwrap_or_default(),
            Permanence::of(*permanent),
        )?),
        MiddlewareKind::RedirectRegex { regex, replacement, permanent } => {
            Middleware::RedirectRegex(RedirectRegex::compile(regex, replacement, Permanence::of(*permanent))?)
        }
        MiddlewareKind::Compress { encodings, body_bytes_min, excluded, included, default_encoding } => {
            Middleware::Compress(Compress::compile(encodings, *body_bytes_min, excluded, included, default_encoding.as_deref())?)
        }
        MiddlewareKind::Headers { request, response } => Middleware::Headers(Headers::compile(request, response)?),
        MiddlewareKind::StripPrefix { prefixes } => Middleware::StripPrefix(StripPrefix::compile(prefixes)?),
        MiddlewareKind::AddPrefix { prefix } => Middleware::AddPrefix(AddPrefix::compile(prefix)?),
        MiddlewareKind::BasicAuth { users, users_file, realm, header_field, remove_header } => {
            let from_file = match users_file {
                None => String::new(),
                Some(path) => read_users_file(path)
                    .map_err(|source| InvalidMiddleware::UsersFile { path: path.display().to_string(), source })?,
            };
            let file_name = users_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            Middleware::BasicAuth(
                BasicAuth::compile(users, &from_file, realm, header_field.as_deref(), *remove_header)
                    .map_err(|error| error.named(file_name))?,
            )
        }
        MiddlewareKind::Chain { middlewares } => return Ok(Compiled::Chain(middlewares.clone())),
    }))
}

impl InvalidMiddleware {
    /// Says which file had no users.
    fn named(self, file: String) -> Self {
        if matches!(self, Self::NoUsers(_)) { Self::NoUsers(file) } else { self }
    }
}

/// How lasting a redirection is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permanence {
    /// 302, or 307 for other methods than GET.
    Temporary,
    /// 301, or 308 for other methods than GET.
    Permanent,
}

impl Permanence {
    fn of(is_permanent: bool) -> Self {
        if is_permanent { Self::Permanent } else { Self::Temporary }
    }
}

/// Redirects to `location`, written as Go writes URLs; 502 if it is none, as in Traefik.
fn redirect(location: &str, method: &Method, permanence: Permanence) -> Answer {
    let printed = url::reprint(location).and_then(|printed| HeaderValue::from_maybe_shared(Bytes::from(printed)).ok());
    let Some(location) = printed else {
        return Answer::named(StatusCode::BAD_GATEWAY);
    };
    let status = match (permanence, *method == Method::GET) {
        (Permanence::Temporary, true) => StatusCode::FOUND,
        (Permanence::Temporary, false) => StatusCode::TEMPORARY_REDIRECT,
        (Permanence::Permanent, true) => StatusCode::MOVED_PERMANENTLY,
        (Permanence::Permanent, false) => StatusCode::PERMANENT_REDIRECT,
    };
    let mut answer = Answer::named(status);
    answer.headers.insert(http::header::LOCATION, location);
    answer
}

/// A configured header's name.
fn header_name(name: &str) -> Result<HeaderName, InvalidMiddleware> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|source| InvalidMiddleware::HeaderName { name: name.to_owned(), source })
}

/// A configured header's value.
fn header_value(name: &str, value: &str) -> Result<HeaderValue, InvalidMiddleware> {
    HeaderValue::from_bytes(value.as_bytes()).map_err(|source| InvalidMiddleware::HeaderValue { name: name.to_owned(), source })
}

/// What the tests of this folder share.
#[cfg(test)]
mod testing {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use super::*;

    /// A request over plain HTTP.
    pub(super) fn view<'a>(method: &'a Method, host: &'a str, target: &'a str, headers: &'a mut HeaderMap) -> RequestView<'a> {
        RequestView {
            method,
            is_tls: false,
            host: Cow::Borrowed(host),
            target: Cow::Borrowed(target),
            headers,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            user: None,
            hides_client: false,
        }
    }

    pub(super) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_file(_: &Path) -> io::Result<String> {
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    #[track_caller]
    fn check(kind: &MiddlewareKind, expected: &str) {
        assert_eq!(compile(kind, &no_file).unwrap_err().to_string(), expected);
    }

    #[test]
    fn says_why_a_middleware_cannot_run() {
        check(
            &MiddlewareKind::RedirectScheme { scheme: String::new(), port: None, permanent: true },
            "you must provide a target scheme",
        );
        check(&MiddlewareKind::AddPrefix { prefix: String::new() }, "prefix cannot be empty");
        check(
            &MiddlewareKind::Headers { request: Default::default(), response: Default::default() },
            "headers configuration not valid",
        );
        let basic_auth = |users: &[&str], file: Option<&str>| MiddlewareKind::BasicAuth {
            users: users.iter().map(|&user| user.to_owned()).collect(),
            users_file: file.map(Into::into),
            realm: String::new(),
            header_field: None,
            remove_header: false,
        };
        check(&basic_auth(&[], None), "no users found in ");
        check(&basic_auth(&["a:b:c"], None), "error parsing BasicUser: a:b:c");
        check(&basic_auth(&[], Some("/x/users")), "the users file /x/users cannot be read: entity not found");
    }

    #[test]
    fn a_chain_stays_a_list_of_names() {
        let kind = MiddlewareKind::Chain { middlewares: vec!["a".to_owned(), "b@file".to_owned()] };
        assert!(matches!(compile(&kind, &no_file), Ok(Compiled::Chain(names)) if names == ["a", "b@file"]));
    }
}
