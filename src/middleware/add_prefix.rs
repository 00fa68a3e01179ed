//! addPrefix: puts a prefix before the path.

use std::borrow::Cow;

use super::{InvalidMiddleware, RequestView, url};

/// Puts a prefix before paths.
#[derive(Debug)]
pub struct AddPrefix(String);

impl AddPrefix {
    /// A prefix without a slash at its start gets one.
    pub fn compile(prefix: &str) -> Result<Self, InvalidMiddleware> {
        if prefix.is_empty() { Err(InvalidMiddleware::NoPrefix) } else { Ok(Self(url::with_leading_slash(prefix).into_owned())) }
    }

    /// Rewrites the target. The prefix is taken as decoded text; what a URL may not have is percent-encoded.
    pub fn on_request(&self, request: &mut RequestView<'_>) {
        let (path, query) = url::split_query(&request.target);
        // A path that cannot be decoded did not come through the entrypoint's sanitiser; it is left to the server as it is.
        let Some(decoded) = url::unescape(path) else { return };
        let path = url::encode_path(Cow::Owned(format!("{}{path}", self.0)), &[self.0.as_bytes(), &decoded].concat());
        request.target = Cow::Owned(format!("{path}{query}"));
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::middleware::testing::view;

    #[track_caller]
    fn check(prefix: &str, target: &str, expected: &str) {
        let mut headers = HeaderMap::new();
        let mut view = view(&Method::GET, "ap.test", target, &mut headers);
        AddPrefix::compile(prefix).unwrap().on_request(&mut view);
        assert_eq!(view.target, expected);
    }

    /// Each line was seen on a Traefik 3.7.15.
    #[test]
    fn adds_as_traefik_does() {
        check("/pre", "/", "/pre/");
        check("/pre", "/a?b", "/pre/a?b");
        check("/pre", "/a%2Fb", "/pre/a%2Fb");
        check("/pre", "/a\"b", "/pre/a%22b");
        check("p q", "/", "/p%20q/");
        check("p q", "/a%2Fb", "/p%20q/a/b");
    }
}
