//! redirectRegex: sends the client where a regular expression over the whole URL says.

use regex::Regex;

use super::{InvalidMiddleware, Permanence, RequestView, Step, redirect};
use crate::rule::pattern;

/// Redirects URLs that match.
#[derive(Debug)]
pub struct RedirectRegex {
    regex: Regex,
    replacement: String,
    permanence: Permanence,
}

impl RedirectRegex {
    /// `replacement` may use groups as `$1` or `${1}`.
    pub fn compile(regex: &str, replacement: &str, permanence: Permanence) -> Result<Self, InvalidMiddleware> {
        let compiled = pattern::compile(regex)
            .map_err(|error| InvalidMiddleware::Regex { regex: regex.to_owned(), reason: error.reason().to_owned() })?;
        Ok(Self { regex: compiled, replacement: replacement.to_owned(), permanence })
    }

    /// Answers if the URL matches and its replacement is another one. The URL's scheme is that of the connection, whatever
    /// X-Forwarded-Proto says; its port is the one the client wrote.
    pub fn on_request(&self, request: &RequestView<'_>) -> Step {
        let url = format!("{}://{}{}", request.transport_scheme(), request.host, request.target);
        let new = self.regex.replace_all(&url, self.replacement.as_str());
        if new == url { Step::Next } else { Step::Answer(redirect(&new, request.method, self.permanence)) }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::middleware::testing::view;

    #[track_caller]
    fn check(regex: &str, replacement: &str, target: &str, expected: &str) {
        let mut headers = HeaderMap::new();
        let view = view(&Method::GET, "rr.test", target, &mut headers);
        let redirect = RedirectRegex::compile(regex, replacement, Permanence::Permanent).unwrap();
        let answered = match redirect.on_request(&view) {
            Step::Next => "next".to_owned(),
            Step::Answer(answer) => {
                let location = answer.headers.get("location").map_or("-", |location| location.to_str().unwrap());
                format!("{} {location}", answer.status.as_u16())
            }
        };
        assert_eq!(answered, expected, "{target}");
    }

    /// Each line was seen on a Traefik 3.7.15.
    #[test]
    fn redirects_as_traefik_does() {
        let (regex, replacement) = ("^http://([^/]*)/old/(.*)", "https://new.${1}/$2");
        check(regex, replacement, "/old/x%20y?z", "301 https://new.rr.test/x%20y?z");
        check(regex, replacement, "/new", "next");
        check("^.*/p(/.*)$", "/q${1}", "/a/p/b", "301 /q/b");
        check("^.*/p(/.*)$", "/q${1}", "/x/p/y%2Fz", "301 /q/y%2Fz");
        check(".*", "http://x y/%zz", "/a", "502 -");
        check("^http://rr.test/same$", "http://rr.test/same", "/same", "next");
    }

    #[test]
    fn says_what_is_wrong_with_an_expression() {
        let error = RedirectRegex::compile("(", "", Permanence::of(false)).unwrap_err();
        assert_eq!(error.to_string(), "the regular expression `(` cannot be used: unclosed group");
    }
}
