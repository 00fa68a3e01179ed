//! stripPrefix: takes the first of its prefixes that the path begins with off the path, and says so to the server.

use std::borrow::Cow;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::{Answer, InvalidMiddleware, RequestView, Step, header_value, url};

static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Takes prefixes off paths.
#[derive(Debug)]
pub struct StripPrefix(Vec<(String, HeaderValue)>);

impl StripPrefix {
    /// Prefixes are compared with the decoded path, letter by letter: `/api` is also a prefix of `/apix`.
    pub fn compile(prefixes: &[String]) -> Result<Self, InvalidMiddleware> {
        let prefixes = prefixes.iter().map(|prefix| prefix.trim());
        prefixes
            .map(|prefix| Ok((prefix.to_owned(), header_value("X-Forwarded-Prefix", prefix)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Strips, adds X-Forwarded-Prefix, and refuses (400) what would then point elsewhere: `/api../x` becomes `/../x`.
    pub fn on_request(&self, request: &mut RequestView<'_>) -> Step {
        let (path, query) = url::split_query(&request.target);
        let Some((rest, value)) =
            self.0.iter().find_map(|(prefix, value)| url::cut_prefix(path, prefix).map(|rest| (rest, value)))
        else {
            return Step::Next;
        };
        let Some(stripped) = stripped(rest) else {
            return Step::Answer(Answer::text(StatusCode::BAD_REQUEST, "Bad Request"));
        };
        request.target = Cow::Owned(format!("{stripped}{query}"));
        request.headers.append(&X_FORWARDED_PREFIX, value.clone());
        Step::Next
    }
}

/// The new path in encoded form, with a slash at its start. `None` if it is not a clean one.
fn stripped(rest: &str) -> Option<Cow<'_, str>> {
    let decoded = url::unescape(rest)?;
    if decoded.is_empty() {
        return Some(Cow::Borrowed("/"));
    }
    // The decoded path gets its slash on its own: what remains of `/api%2Fx` has one, although its encoded form has not.
    let decoded = if decoded.starts_with(b"/") { decoded } else { Cow::Owned([b"/", &*decoded].concat()) };
    let path = url::encode_path(url::with_leading_slash(rest), &decoded);
    url::is_clean(&path).then_some(path)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::middleware::testing::view;

    #[track_caller]
    fn check(target: &str, expected: &str) {
        let prefixes = ["/api", "/x y", " /trim ", "/a/b"].map(str::to_owned);
        let mut headers = HeaderMap::new();
        let mut view = view(&Method::GET, "sp.test", target, &mut headers);
        let step = StripPrefix::compile(&prefixes).unwrap().on_request(&mut view);
        let target = view.target.into_owned();
        let prefix = headers.get("x-forwarded-prefix").map_or("-", |prefix| prefix.to_str().unwrap());
        let happened = match step {
            Step::Next => format!("{target} {prefix}"),
            Step::Answer(answer) => format!("{} {}", answer.status.as_u16(), String::from_utf8_lossy(&answer.body)),
        };
        assert_eq!(happened, expected);
    }

    /// Each line was seen on a Traefik 3.7.15.
    #[test]
    fn strips_as_traefik_does() {
        check("/api", "/ /api");
        check("/api/", "/ /api");
        check("/apix", "/x /api");
        check("/api/x?y", "/x?y /api");
        check("/api/a%2Fb?q=1", "/a%2Fb?q=1 /api");
        check("/api%2Fx", "/x /api");
        check("/a%2Fb/c", "/c /a/b");
        check("/a%2Fb", "/ /a/b");
        check("/x%20y/z", "/z /x y");
        check("/trim/q", "/q /trim");
        check("/api/a\"b", "/a%22b /api");
        check("/api/%2F%2F", "/%2F%2F /api");
        check("/api/ä", "/%C3%A4 /api");
        check("/other", "/other -");
    }

    #[test]
    fn refuses_what_would_point_elsewhere() {
        for target in ["/api../x", "/api./x", "/api%2F../x", "/api..", "/api//x"] {
            check(target, "400 Bad Request\n");
        }
    }
}
