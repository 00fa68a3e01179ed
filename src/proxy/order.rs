//! Orders over the API: from a request's head to what `steering` wants, and from its answer to ours.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::shared::Shared;
use crate::middleware::{Answer, url};
use crate::steering::api::{Api, PREFIX};

/// A request that orders something.
pub struct Ordered {
    path: String,
    query: Vec<(String, String)>,
    authorization: Option<HeaderValue>,
}

impl Ordered {
    /// The order in a request to the API. Everything that is no POST below our own path only asks.
    pub fn find(shared: &Shared, head: &http::request::Parts) -> Option<Self> {
        if head.method != Method::POST {
            return None;
        }
        let base = shared.install.api.as_ref().map_or("", |api| api.base_path.trim_end_matches('/'));
        let path = head.uri.path().strip_prefix(base)?.strip_prefix(PREFIX)?.to_owned();
        let query = head.uri.query().unwrap_or_default();
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        Some(Self { path, query, authorization: head.headers.get(header::AUTHORIZATION).cloned() })
    }

    /// Has it carried out, if it may be.
    pub async fn answer(self, api: &Api) -> Answer {
        let (status, told) = api.answer(&self.path, &self.query, self.authorization.as_ref()).await;
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let mut body = serde_json::to_vec(&told).unwrap_or_default();
        body.push(b'\n');
        Answer { status, headers, body: Bytes::from(body) }
    }
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    // What is no UTF-8 names nothing that we have.
    let plain = |text: &str| url::unescape(text).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    (plain(key), plain(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_a_query_are_undone() {
        assert_eq!(pair("service=web%40file"), ("service".to_owned(), "web@file".to_owned()));
        assert_eq!(pair("all"), ("all".to_owned(), String::new()));
    }
}
