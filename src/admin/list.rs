//! Lists of the API: which there are, and Traefik's search, order and pages.

use std::cmp::Ordering;
use std::fmt::Write;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::json;
use crate::middleware::{Answer, url};

static X_NEXT_PAGE: HeaderName = HeaderName::from_static("x-next-page");

/// Traefik's page length unless `per_page` says otherwise.
const PAGE_LENGTH: i64 = 100;

/// The kinds of objects that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Entrypoints,
    Routers,
    Services,
    Middlewares,
    TcpRouters,
    TcpServices,
    TcpMiddlewares,
    UdpRouters,
    UdpServices,
    Certificates,
    Rollouts,
}

impl Listed {
    /// By the segments of a path, and how many of them name it.
    pub(super) fn find(segments: &[&str]) -> Option<(Self, usize)> {
        Some(match segments {
            ["entrypoints", ..] => (Self::Entrypoints, 1),
            ["certificates", ..] => (Self::Certificates, 1),
            ["http", "routers", ..] => (Self::Routers, 2),
            ["http", "services", ..] => (Self::Services, 2),
            ["http", "middlewares", ..] => (Self::Middlewares, 2),
            ["tcp", "routers", ..] => (Self::TcpRouters, 2),
            ["tcp", "services", ..] => (Self::TcpServices, 2),
            ["tcp", "middlewares", ..] => (Self::TcpMiddlewares, 2),
            ["udp", "routers", ..] => (Self::UdpRouters, 2),
            ["udp", "services", ..] => (Self::UdpServices, 2),
            ["tidegate", "rollouts", ..] => (Self::Rollouts, 2),
            _ => return None,
        })
    }

    /// What Traefik calls one of them.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Entrypoints => "entry point",
            Self::Routers | Self::TcpRouters | Self::UdpRouters => "router",
            Self::Services | Self::TcpServices | Self::UdpServices => "service",
            Self::Middlewares | Self::TcpMiddlewares => "middleware",
            Self::Certificates => "certificate",
            Self::Rollouts => "rollout",
        }
    }

    /// The fields that `search` looks in.
    fn searched(self) -> &'static [&'static str] {
        match self {
            Self::Routers | Self::TcpRouters => &["rule", "name"],
            Self::Certificates => &["commonName", "issuerOrg", "issuerCN", "sans"],
            _ => &["name"],
        }
    }

    /// The fields that `sortBy` knows; anything else sorts by name.
    fn sortable(self) -> &'static [&'static str] {
        match self {
            Self::Routers | Self::TcpRouters => &["provider", "priority", "status", "rule", "service", "entryPoints"],
            Self::Services | Self::TcpServices => &["type", "servers", "provider", "status"],
            Self::Middlewares | Self::TcpMiddlewares => &["type", "provider", "status"],
            Self::Certificates => &["status", "issuer", "validUntil"],
            _ => &[],
        }
    }

    /// By what ties are broken, and what is sorted by if nothing else is asked for.
    fn name_field(self) -> &'static str {
        if self == Self::Certificates { "commonName" } else { "name" }
    }
}

/// The parameters of a question.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// From `?a=b&c=d`.
    pub(super) fn parse(query: &str) -> Self {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            url::unescape(&spaced).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let pairs = query.trim_start_matches('?').split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        Self(pairs.collect())
    }

    /// A parameter's first value; empty if it is not there.
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// A number from 1, or what is to be said of what is none.
    fn number(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.get(name) {
            "" => Ok(default),
            text => match text.parse::<i64>() {
                Ok(number) if number > 0 => Ok(number),
                wrong => Err(format!("invalid request: {name}: {}", wrong.unwrap_or_default())),
            },
        }
    }
}

/// Answers with one page of those objects that are searched for.
pub(super) fn answer(listed: Listed, mut objects: Vec<Map<String, Value>>, query: &Query) -> Answer {
    objects.retain(|object| is_searched(listed, object, query));
    sort(listed, &mut objects, query);
    match page(objects.len(), query) {
        Err(message) => json::error(StatusCode::BAD_REQUEST, &message),
        Ok((start, end, next)) => {
            let page = objects.drain(start..end).map(Value::Object).collect();
            let mut answer = json::answer(&Value::Array(page));
            answer.headers.insert(&X_NEXT_PAGE, HeaderValue::from(next));
            answer
        }
    }
}

/// First and last place of the page, and the number of the next one (1: there is none).
fn page(length: usize, query: &Query) -> Result<(usize, usize, i64), String> {
    let per_page = query.number("per_page", PAGE_LENGTH)?;
    let page = query.number("page", 1)?;
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let start = (page - 1).saturating_mul(per_page);
    if start != 0 && start >= length {
        return Err(format!("invalid request: page: {page}, per_page: {per_page}"));
    }
    let end = start.saturating_add(per_page).min(length);
    let next = if page.saturating_mul(per_page) < length { page + 1 } else { 1 };
    Ok((usize::try_from(start).unwrap_or_default(), usize::try_from(end).unwrap_or_default(), next))
}

fn is_searched(listed: Listed, object: &Map<String, Value>, query: &Query) -> bool {
    let status = query.get("status");
    let search = query.get("search").to_lowercase();
    let has = |field: &str| match object.get(field) {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(|item| item.to_lowercase().contains(&search)),
        Some(Value::String(text)) => text.to_lowercase().contains(&search),
        _ => false,
    };
    // Traefik searches entrypoints and our rollouts not at all.
    matches!(listed, Listed::Entrypoints | Listed::Rollouts)
        || (status.is_empty() || json::text(object, "status").to_lowercase() == status.to_lowercase())
            && (search.is_empty() || listed.searched().iter().any(|field| has(field)))
            && (!matches!(listed, Listed::Routers | Listed::TcpRouters) || uses(object, query))
}

/// Whether a router uses the service and the middleware that are asked for, if they are.
fn uses(router: &Map<String, Value>, query: &Query) -> bool {
    let (wanted, service) = (query.get("serviceName"), json::text(router, "service"));
    let is_service = if service.contains('@') { wanted == service } else { wanted.split('@').next() == Some(service) };
    let middleware = query.get("middlewareName");
    let has_middleware =
        || router.get("middlewares").and_then(Value::as_array).is_some_and(|names| names.iter().any(|name| name == middleware));
    (wanted.is_empty() || is_service) && (middleware.is_empty() || has_middleware())
}

fn sort(listed: Listed, objects: &mut [Map<String, Value>], query: &Query) {
    let field = listed.sortable().iter().find(|&&field| field == query.get("sortBy"));
    let is_ascending = matches!(query.get("direction"), "" | "asc");
    objects.sort_by(|left, right| {
        let by_field = field.map_or(Ordering::Equal, |field| compare(field, left, right));
        let names = |object| json::text(object, listed.name_field()).to_owned();
        let order = by_field.then_with(|| names(left).cmp(&names(right)));
        if is_ascending { order } else { order.reverse() }
    });
}

/// Numbers by size, lists by length, the rest as text.
fn compare(field: &str, left: &Map<String, Value>, right: &Map<String, Value>) -> Ordering {
    let key = |object: &Map<String, Value>| match field {
        "servers" => number_key(servers_count(object)),
        "issuer" => match json::text(object, "issuerOrg") {
            "" => json::text(object, "issuerCN").to_owned(),
            organisation => organisation.to_owned(),
        },
        "validUntil" => json::text(object, "notAfter").to_owned(),
        field => match object.get(field) {
            Some(Value::Array(items)) => number_key(i64::try_from(items.len()).unwrap_or(i64::MAX)),
            Some(Value::Number(number)) => number_key(number.as_i64().unwrap_or_default()),
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        },
    };
    key(left).cmp(&key(right))
}

/// A text that sorts as the number does.
fn number_key(number: i64) -> String {
    let mut key = String::with_capacity(20);
    let _ = write!(key, "{:020}", i128::from(number) - i128::from(i64::MIN));
    key
}

fn servers_count(service: &Map<String, Value>) -> i64 {
    let servers = service.get("loadBalancer").and_then(|balancer| balancer.get("servers")).and_then(Value::as_array);
    servers.map_or(0, |servers| i64::try_from(servers.len()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The names that `query` leaves of three routers, in order, and the next page; or the error.
    #[track_caller]
    fn check(query: &str, expected: &str) {
        let router = |name: &str, rule: &str, priority: i64, status: &str, service: &str, entrypoints: &[&str]| json!({"name": name, "rule": rule, "priority": priority, "status": status, "service": service, "entryPoints": entrypoints, "middlewares": ["gz@file"]});
        let routers = [
            router("b@file", "Host(`GZ.test`)", 9, "enabled", "one", &["web"]),
            router("a@file", "Host(`x`)", 10, "disabled", "two@consulcatalog", &["web", "jmx"]),
            router("c@file", "HostSNI(`*`)", -1, "enabled", "one", &[]),
        ];
        let routers = routers.into_iter().map(|router| router.as_object().unwrap().clone()).collect();
        let answer = answer(Listed::Routers, routers, &Query::parse(query));
        let body = serde_json::from_slice::<Value>(&answer.body).unwrap();
        let seen = match body.as_array() {
            Some(items) => {
                let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
                format!("{} {}", names.join(" "), answer.headers["x-next-page"].to_str().unwrap())
            }
            None => format!("{} {}", answer.status.as_u16(), body["message"].as_str().unwrap()),
        };
        assert_eq!(seen, expected, "{query}");
    }

    #[test]
    fn sorts() {
        check("", "a@file b@file c@file 1");
        check("?direction=desc", "c@file b@file a@file 1");
        check("?sortBy=priority", "c@file b@file a@file 1");
        check("?sortBy=priority&direction=desc", "a@file b@file c@file 1");
        check("?sortBy=entryPoints", "c@file b@file a@file 1");
        check("?sortBy=status&direction=asc", "a@file b@file c@file 1");
        check("?sortBy=nonsense", "a@file b@file c@file 1");
    }

    #[test]
    fn searches() {
        check("?search=gz.", "b@file 1");
        check("?search=C%40fi", "c@file 1");
        check("?status=Disabled", "a@file 1");
        check("?status=enabled&search=host", "b@file c@file 1");
        check("?serviceName=one@file", "b@file c@file 1");
        check("?serviceName=two@file", " 1");
        check("?serviceName=two@consulcatalog", "a@file 1");
        check("?middlewareName=gz", " 1");
        check("?middlewareName=gz@file", "a@file b@file c@file 1");
    }

    #[test]
    fn turns_pages() {
        check("?per_page=2", "a@file b@file 2");
        check("?per_page=2&page=2", "c@file 1");
        check("?per_page=3&page=2", "400 invalid request: page: 2, per_page: 3");
        check("?page=99", "400 invalid request: page: 99, per_page: 100");
        check("?page=x", "400 invalid request: page: 0");
        check("?per_page=0", "400 invalid request: per_page: 0");
        check("?page=-5", "400 invalid request: page: -5");
        check(
            "?page=9223372036854775807&per_page=9223372036854775807",
            "400 invalid request: page: 9223372036854775807, per_page: 9223372036854775807",
        );
    }
}
