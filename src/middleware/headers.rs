//! headers: sets and deletes headers of requests and of answers (`customRequestHeaders`, `customResponseHeaders`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::{HOST, HeaderName, HeaderValue};

use super::{InvalidMiddleware, RequestView, header_name, header_value};

/// Sets a header, or deletes it.
type Edit = (HeaderName, Option<HeaderValue>);

/// Sets and deletes headers.
#[derive(Debug)]
pub struct Headers {
    request: Vec<Edit>,
    response: Vec<Edit>,
    /// The `Host` that servers get.
    host: Option<String>,
    /// Whether X-Forwarded-For is not to be sent at all.
    hides_client: bool,
}

impl Headers {
    /// An empty value deletes the header.
    pub fn compile(request: &BTreeMap<String, String>, response: &BTreeMap<String, String>) -> Result<Self, InvalidMiddleware> {
        if request.is_empty() && response.is_empty() {
            return Err(InvalidMiddleware::NoHeaders);
        }
        let edit = |(name, value): (&String, &String)| {
            let value = if value.is_empty() { None } else { Some(header_value(name, value)?) };
            Ok((header_name(name)?, value))
        };
        let host = request.iter().find(|(name, value)| name.eq_ignore_ascii_case("host") && !value.is_empty());
        let host = host.map(|(_, value)| value.clone());
        let mut request = request.iter().map(edit).collect::<Result<Vec<Edit>, _>>()?;
        request.retain(|(name, _)| name != HOST);
        let hides_client = request.iter().any(|(name, value)| name == "x-forwarded-for" && value.is_none());
        Ok(Self { request, response: response.iter().map(edit).collect::<Result<_, _>>()?, host, hides_client })
    }

    /// Changes the request. `Host` changes what servers get (and what later middlewares see), not the route.
    pub fn on_request(&self, request: &mut RequestView<'_>) {
        apply(&self.request, request.headers);
        if let Some(host) = &self.host {
            request.host = Cow::Owned(host.clone());
        }
        request.hides_client |= self.hides_client;
    }

    /// Changes the answer, whoever gave it.
    pub fn on_response(&self, headers: &mut HeaderMap) {
        apply(&self.response, headers);
    }
}

fn apply(edits: &[Edit], headers: &mut HeaderMap) {
    for (name, value) in edits {
        match value {
            Some(value) => drop(headers.insert(name, value.clone())),
            None => drop(headers.remove(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::middleware::testing::{map, view};

    fn print(headers: &HeaderMap) -> Vec<String> {
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn sets_deletes_and_renames_the_host() {
        let edits = map(&[("X-A", "b"), ("User-Agent", ""), ("Host", "up.example"), ("X-Forwarded-For", "")]);
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("user-agent", "curl"), ("x-forwarded-for", "1.1.1.1"), ("x-b", "c")] {
            headers.append(name, value.parse().unwrap());
        }
        let mut view = view(&Method::GET, "hdr.test", "/", &mut headers);
        Headers::compile(&edits, &map(&[])).unwrap().on_request(&mut view);
        assert_eq!(view.host, "up.example");
        assert!(view.hides_client);
        let mut left = print(&headers);
        left.sort();
        assert_eq!(left, ["x-a: b", "x-b: c"]);
    }

    #[test]
    fn replaces_every_value_of_an_answer() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-r", "o"), ("x-r", "p"), ("x-del", "1")] {
            headers.append(name, value.parse().unwrap());
        }
        Headers::compile(&map(&[]), &map(&[("X-R", "s"), ("X-Del", "")])).unwrap().on_response(&mut headers);
        assert_eq!(print(&headers), ["x-r: s"]);
    }

    #[test]
    fn refuses_what_no_header_can_be() {
        let refused = |name: &str, value: &str| Headers::compile(&map(&[(name, value)]), &map(&[])).unwrap_err().to_string();
        assert_eq!(refused("X A", "b"), "`X A` cannot be a header's name");
        assert_eq!(refused("X-A", "b\r\nX-B: c"), "the value of header `X-A` has characters that no header may have");
    }
}
