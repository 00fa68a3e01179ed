//! redirectScheme: sends the client to the same place under another scheme, and perhaps another port.

use super::{InvalidMiddleware, Permanence, RequestView, Step, redirect, url};

/// Redirects what does not already use its scheme and port.
#[derive(Debug)]
pub struct RedirectScheme {
    scheme: String,
    /// With its colon; empty when it is the scheme's own.
    port: String,
    permanence: Permanence,
}

impl RedirectScheme {
    /// `port` is left out of the URL if it is empty or the scheme's own.
    ///
    /// Also makes an entrypoint's redirection (`http.redirections.entryPoint`), with the port of the entrypoint it leads to.
    pub fn compile(scheme: &str, port: &str, permanence: Permanence) -> Result<Self, InvalidMiddleware> {
        if scheme.is_empty() {
            return Err(InvalidMiddleware::NoScheme);
        }
        let is_implied = port.is_empty() || matches!((scheme, port), ("http", "80") | ("https", "443"));
        let port = if is_implied { String::new() } else { format!(":{port}") };
        Ok(Self { scheme: scheme.to_owned(), port, permanence })
    }

    /// Answers unless the request already is where it would be sent.
    pub fn on_request(&self, request: &RequestView<'_>) -> Step {
        let scheme = request.scheme();
        let place = place(scheme, request);
        let (host, rest) = place.split_at(host_length(&place));
        let (port, rest) = rest.split_at(port_length(rest));
        if self.scheme == scheme && self.port == port {
            return Step::Next;
        }
        let location = format!("{}://{host}{}{rest}", self.scheme, self.port);
        Step::Answer(redirect(&location, request.method, self.permanence))
    }
}

/// What follows `://` in the request's URL; the scheme's own port is left out.
fn place(scheme: &str, request: &RequestView<'_>) -> String {
    // Unlike Traefik, which answers 502 there, brackets are kept around an IPv6 address that has a port.
    let (host, port) = match url::split_host_port(&request.host) {
        Some((name, port)) => (request.host.get(..request.host.len() - port.len() - 1).unwrap_or(name), Some(port)),
        None => (&*request.host, None),
    };
    match (scheme, port) {
        (_, None) | ("http", Some("80")) | ("https", Some("443")) => format!("{host}{}", request.target),
        (_, Some(port)) => format!("{host}:{port}{}", request.target),
    }
}

/// How much of it Traefik's expression `\[[\w:.]+\]|[\w\._-]+` takes for a host.
fn host_length(place: &str) -> usize {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let end_of = |text: &str, belongs: &dyn Fn(char) -> bool| text.find(|letter| !belongs(letter)).unwrap_or(text.len());
    match place.strip_prefix('[') {
        None => end_of(place, &|letter| is_word(letter) || letter == '.' || letter == '-'),
        Some(inside) => match end_of(inside, &|letter| is_word(letter) || letter == ':' || letter == '.') {
            0 => 0,
            length if inside.get(length..).is_some_and(|rest| rest.starts_with(']')) => length + 2,
            _ => 0,
        },
    }
}

/// How much of it is a colon and digits.
fn port_length(rest: &str) -> usize {
    match rest.strip_prefix(':').map(|rest| rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len())) {
        None | Some(0) => 0,
        Some(digits) => digits + 1,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::middleware::testing::view;

    /// `request` is `METHOD scheme-of-the-connection://host path [X-Forwarded-Proto]`.
    #[track_caller]
    fn check(port: &str, permanence: Permanence, request: &str, expected: &str) {
        let words: Vec<&str> = request.split(' ').collect();
        let (scheme, host) = words[1].split_once("://").unwrap();
        let mut headers = HeaderMap::new();
        if let Some(proto) = words.get(3) {
            headers.insert("x-forwarded-proto", proto.parse().unwrap());
        }
        let method = Method::from_bytes(words[0].as_bytes()).unwrap();
        let mut view = view(&method, host, words[2], &mut headers);
        view.is_tls = scheme == "https";
        let answered = match RedirectScheme::compile("https", port, permanence).unwrap().on_request(&view) {
            Step::Next => "next".to_owned(),
            Step::Answer(answer) => {
                let location = answer.headers.get("location").map_or("-", |location| location.to_str().unwrap());
                format!("{} {location} {}", answer.status.as_u16(), String::from_utf8_lossy(&answer.body))
            }
        };
        assert_eq!(answered, expected, "{request}");
    }

    /// Each line was seen on a Traefik 3.7.15.
    #[test]
    fn redirects_as_traefik_does() {
        use Permanence::{Permanent, Temporary};
        check("", Permanent, "GET http://rs.test /a?b=c", "301 https://rs.test/a?b=c Moved Permanently");
        check("", Permanent, "HEAD http://rs.test /a", "308 https://rs.test/a Permanent Redirect");
        check("", Permanent, "POST http://rs.test /a", "308 https://rs.test/a Permanent Redirect");
        check("", Temporary, "GET http://rs.test /a", "302 https://rs.test/a Found");
        check("", Temporary, "POST http://rs.test /a", "307 https://rs.test/a Temporary Redirect");
        check("8443", Permanent, "GET http://rs.test /x", "301 https://rs.test:8443/x Moved Permanently");
        check("443", Permanent, "GET http://rs.test /x", "301 https://rs.test/x Moved Permanently");
        check("", Permanent, "GET http://rs.test:8080 /a", "301 https://rs.test/a Moved Permanently");
        check("", Permanent, "GET http://rs.test:443 /a", "301 https://rs.test/a Moved Permanently");
        check("", Permanent, "GET http://[::1] /any", "301 https://[::1]/any Moved Permanently");
        check("", Permanent, "GET http://a~b:80 /any", "301 https://a~b/any Moved Permanently");
        check("", Permanent, "GET http://A.B:99 /any", "301 https://A.B/any Moved Permanently");
        check("", Permanent, "GET http://a:b:c /any", "502 - Bad Gateway");
        check("", Permanent, "GET http:// /any", "301 https:///any Moved Permanently");
        check("", Permanent, "GET http://rs.test /?", "301 https://rs.test/? Moved Permanently");
    }

    #[test]
    fn keeps_the_brackets_of_an_address_with_a_port() {
        check("", Permanence::Permanent, "GET http://[::1]:8080 /a", "301 https://[::1]/a Moved Permanently");
    }

    #[test]
    fn leaves_alone_what_is_already_there() {
        check("", Permanence::Permanent, "GET https://rs.test /a", "next");
        check("", Permanence::Permanent, "GET http://rs.test /a https", "next");
        check("", Permanence::Permanent, "GET http://rs.test /a WSS", "next");
        check("8443", Permanence::Permanent, "GET http://rs.test:8443 /a https", "next");
        check("", Permanence::Permanent, "GET http://rs.test:443 /a https", "next");
        check("", Permanence::Permanent, "GET http://rs.test:444 /a https", "301 https://rs.test/a Moved Permanently");
        check("", Permanence::Permanent, "GET http://rs.test /a foo", "301 https://rs.test/a Moved Permanently");
        check("", Permanence::Permanent, "GET https://rs.test /a http", "301 https://rs.test/a Moved Permanently");
    }
}
