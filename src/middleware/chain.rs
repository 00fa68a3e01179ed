//! The middlewares of a route in order, and what one request left behind in them until its answer comes.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};

use super::compress::{self, Choice};
use super::{Answer, BodyTransform, Middleware, RequestView, ResponseHead, Step};

/// How many compress middlewares of one chain act; more than one is already a mistake, later ones do nothing.
const COMPRESSES_MAX: usize = 4;

/// Middlewares in the order in which a request meets them.
#[derive(Clone, Debug, Default)]
pub struct Chain(Box<[Arc<Middleware>]>);

/// What a request left behind in a chain; its answer needs it.
#[derive(Debug, Default)]
pub struct Memo {
    /// How many middlewares saw the request.
    reached: usize,
    /// What each compress middleware (by order) chose.
    choices: [Option<Choice>; COMPRESSES_MAX],
}

impl Chain {
    /// A chain of these.
    pub fn new(middlewares: Vec<Arc<Middleware>>) -> Self {
        Self(middlewares.into())
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether [`Self::on_request`] would have to compute for milliseconds (an unknown password against bcrypt): better done
    /// where it does not hold up other requests.
    pub fn is_slow_for(&self, headers: &HeaderMap) -> bool {
        self.0.iter().any(|middleware| matches!(&**middleware, Middleware::BasicAuth(auth) if auth.is_slow_for(headers)))
    }

    /// Leads a request through, up to the first middleware that answers it.
    pub fn on_request(&self, request: &mut RequestView<'_>) -> (Memo, Step) {
        let mut memo = Memo::default();
        let mut compresses = 0;
        for middleware in &self.0 {
            memo.reached += 1;
            let step = match &**middleware {
                Middleware::RedirectScheme(redirect) => redirect.on_request(request),
                Middleware::RedirectRegex(redirect) => redirect.on_request(request),
                Middleware::StripPrefix(strip) => strip.on_request(request),
                Middleware::BasicAuth(auth) => auth.on_request(request),
                Middleware::AddPrefix(add) => {
                    add.on_request(request);
                    Step::Next
                }
                Middleware::Headers(headers) => {
                    headers.on_request(request);
                    Step::Next
                }
                Middleware::Compress(compress) => {
                    if let Some(choice) = memo.choices.get_mut(compresses) {
                        *choice = compress.on_request(request);
                    }
                    compresses += 1;
                    Step::Next
                }
            };
            if let Step::Answer(_) = step {
                return (memo, step);
            }
        }
        (memo, Step::Next)
    }

    /// Leads the head of an answer back through what its request met, and gives what has to be done to the body, if anything:
    /// then `Content-Length` is gone from the head.
    pub fn on_response(&self, memo: &Memo, head: &mut ResponseHead<'_>) -> Option<BodyTransform> {
        // Traefik says so while the request goes in: it comes before what the server says, and a middleware may delete it.
        for _ in memo.choices.iter().flatten() {
            compress::add_vary(head.headers);
        }
        let mut choices = memo.choices;
        let mut transform = None;
        for (place, middleware) in self.0.iter().enumerate().take(memo.reached).rev() {
            match &**middleware {
                Middleware::Headers(headers) => headers.on_response(head.headers),
                Middleware::Compress(compress) => {
                    let choice = choices.get_mut(self.compresses_before(place)).and_then(Option::take);
                    let packed = choice.and_then(|choice| compress.on_response(choice, head));
                    transform = transform.or(packed);
                }
                Middleware::RedirectScheme(_)
                | Middleware::RedirectRegex(_)
                | Middleware::StripPrefix(_)
                | Middleware::AddPrefix(_)
                | Middleware::BasicAuth(_) => {}
            }
        }
        transform
    }

    /// The same for an answer of our own, whose body is at hand.
    pub fn on_answer(&self, memo: &Memo, answer: &mut Answer) {
        answer.headers.insert(CONTENT_LENGTH, answer.body.len().into());
        let mut head = ResponseHead { status: answer.status, headers: &mut answer.headers, is_bodiless: answer.body.is_empty() };
        let transform = self.on_response(memo, &mut head);
        answer.headers.remove(CONTENT_LENGTH);
        match transform.map(|transform| transform.pack(&answer.body)) {
            None => {}
            Some(Ok(packed)) => answer.body = Bytes::from(packed),
            // Compressing into memory does not fail; if it did, the body goes as it is.
            Some(Err(_)) => drop(answer.headers.remove(CONTENT_ENCODING)),
        }
    }

    fn compresses_before(&self, place: usize) -> usize {
        self.0.iter().take(place).filter(|middleware| matches!(***middleware, Middleware::Compress(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http::Method;

    use super::*;
    use crate::config::dynamic::MiddlewareKind;
    use crate::middleware::testing::{map, view};
    use crate::middleware::{Compiled, compile};

    fn chain(kinds: &[MiddlewareKind]) -> Chain {
        let compile = |kind| match compile(kind, &|_| Err(io::Error::other("none"))).unwrap() {
            Compiled::Single(middleware) => Arc::new(middleware),
            Compiled::Chain(names) => panic!("{names:?}"),
        };
        Chain::new(kinds.iter().map(compile).collect())
    }

    fn compress(encoding: &str) -> MiddlewareKind {
        MiddlewareKind::Compress {
            encodings: vec![encoding.to_owned()],
            body_bytes_min: 0,
            excluded: Vec::new(),
            included: Vec::new(),
            default_encoding: None,
        }
    }

    fn redirect() -> MiddlewareKind {
        MiddlewareKind::RedirectScheme { scheme: "https".to_owned(), port: None, permanent: true }
    }

    fn headers(request: &[(&str, &str)], response: &[(&str, &str)]) -> MiddlewareKind {
        MiddlewareKind::Headers { request: map(request), response: map(response) }
    }

    /// Sends a GET that accepts gzip and br; gives the answer's head (of a server that says `served`, unless a middleware
    /// answered) as lines, and whether its body is packed.
    fn run(kinds: &[MiddlewareKind], served: &[(&'static str, &str)]) -> (Vec<String>, bool) {
        let chain = chain(kinds);
        let mut request_headers = HeaderMap::from_iter([(http::header::ACCEPT_ENCODING, "gzip, br".parse().unwrap())]);
        let mut request = view(&Method::GET, "a.test", "/x", &mut request_headers);
        let (memo, step) = chain.on_request(&mut request);
        let mut answer = match step {
            Step::Answer(answer) => answer,
            Step::Next => {
                let mut headers = HeaderMap::new();
                for (name, value) in served {
                    headers.append(*name, value.parse().unwrap());
                }
                let status = http::StatusCode::OK;
                let mut head = ResponseHead { status, headers: &mut headers, is_bodiless: false };
                let is_packed = chain.on_response(&memo, &mut head).is_some();
                return (print(&headers), is_packed);
            }
        };
        let before = answer.body.clone();
        chain.on_answer(&memo, &mut answer);
        (print(&answer.headers), answer.body != before)
    }

    fn print(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort_by_key(|line| line.split(':').next().unwrap_or_default().to_owned());
        lines
    }

    /// As seen on a Traefik 3.7.15.
    #[test]
    fn an_answer_passes_back_through_what_the_request_met() {
        let kinds =
            [compress("gzip"), headers(&[("Host", "up.example")], &[("X-R", "s")]), redirect(), headers(&[], &[("X-Z", "z")])];
        let (lines, is_packed) = run(&kinds, &[]);
        assert_eq!(lines, ["location: https://up.example/x", "vary: Accept-Encoding", "x-r: s"]);
        assert!(!is_packed);
    }

    /// As seen on a Traefik 3.7.15.
    #[test]
    fn a_later_middleware_may_delete_vary() {
        let served = [("vary", "Origin"), ("content-length", "2000"), ("content-type", "text/plain")];
        let (lines, is_packed) = run(&[compress("gzip"), headers(&[], &[("Vary", "")])], &served);
        assert_eq!(lines, ["content-encoding: gzip", "content-type: text/plain"]);
        assert!(is_packed);
    }

    #[test]
    fn the_inner_of_two_compresses() {
        let (lines, is_packed) = run(&[compress("br"), compress("gzip")], &[("content-length", "2000"), ("vary", "Origin")]);
        assert_eq!(lines, ["content-encoding: gzip", "vary: Accept-Encoding", "vary: Accept-Encoding", "vary: Origin"]);
        assert!(is_packed);
    }

    #[test]
    fn more_compresses_than_anybody_needs_do_no_harm() {
        let kinds: Vec<_> = (0..COMPRESSES_MAX + 2).map(|_| compress("gzip")).collect();
        let (lines, is_packed) = run(&kinds, &[("content-length", "2000")]);
        assert_eq!(lines.len(), 1 + COMPRESSES_MAX);
        assert!(is_packed);
    }
}
