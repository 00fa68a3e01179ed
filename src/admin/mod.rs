//! What an operator can ask: Traefik's read-only API in its exact shapes, what only we know, and a page to look at.
//!
//! Pure: [`answer`] renders what an [`AdminView`] shows at one moment. `/ping` and `/metrics` are not here.

mod certificate;
mod dashboard;
mod entrypoint;
mod json;
mod list;
mod middleware;
mod overview;
mod router;
mod service;

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::config::dynamic::Kind;
use crate::config::install::Install;
use crate::middleware::{Answer, url};
use crate::names::Name;
use crate::routing::report::Report;
use list::{Listed, Query};

pub use certificate::CertificateView;

/// A question to the API.
#[derive(Clone, Copy, Debug)]
pub struct AdminRequest<'a> {
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`, for the redirection to the dashboard.
    pub scheme: &'a str,
    /// As the client named it.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
}

/// All that the API can show, at one moment.
pub struct AdminView<'a> {
    /// The install configuration.
    pub install: &'a Install,
    /// What became of what was declared.
    pub report: &'a Report,
    /// The servers that a service ([`Kind::Service`] or [`Kind::TcpService`]) has now.
    pub servers: &'a dyn Fn(Kind, &Name) -> Vec<ServerView>,
    /// The certificates that handshakes may get.
    pub certificates: &'a [CertificateView],
    /// Where each service's rollout stands: an object with share, phase, evidence and threshold.
    pub rollouts: &'a BTreeMap<Name, Value>,
    /// When we started.
    pub started_at: SystemTime,
    /// The wall clock's time, for the age of certificates.
    pub now: SystemTime,
}

/// One server of a service as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerView {
    /// `http://10.0.0.1:80`, or `10.0.0.1:80` of a TCP service.
    pub url: String,
    /// Between servers; 1 is not shown, as Traefik shows only what was declared.
    pub weight: u32,
    /// `preservePath`.
    pub preserves_path: bool,
    /// Whether it gets requests.
    pub is_up: bool,
}

/// Answers one question.
pub fn answer(request: AdminRequest<'_>, view: &AdminView<'_>) -> Answer {
    let (path, query) = url::split_query(request.target);
    let base = view.install.api.as_ref().map_or("", |api| api.base_path.trim_end_matches('/'));
    let Some(path) = path.strip_prefix(base) else {
        return not_found();
    };
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let api = match segments.as_slice() {
        [""] => return to_dashboard(request, base),
        ["dashboard"] | ["dashboard", ""] if has_dashboard(view) => return dashboard::page(view),
        ["api", rest @ ..] => rest,
        _ => return not_found(),
    };
    let Some(question) = Question::parse(api) else {
        return not_found();
    };
    if *request.method != Method::GET {
        return Answer { status: StatusCode::METHOD_NOT_ALLOWED, headers: HeaderMap::new(), body: Bytes::new() };
    }
    question.answer(&Query::parse(query), view)
}

fn has_dashboard(view: &AdminView<'_>) -> bool {
    view.install.api.as_ref().is_some_and(|api| api.dashboard)
}

/// Traefik's middleware `dashboard_redirect@internal`.
fn to_dashboard(request: AdminRequest<'_>, base: &str) -> Answer {
    let is_get = *request.method == Method::GET;
    let mut answer = Answer::named(if is_get { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT });
    let location = format!("{}://{}{base}/dashboard/", request.scheme, request.host);
    let Ok(location) = HeaderValue::from_str(&location) else {
        return not_found();
    };
    answer.headers.insert(LOCATION, location);
    answer
}

fn not_found() -> Answer {
    Answer::text(StatusCode::NOT_FOUND, "404 page not found")
}

/// What is asked for.
enum Question<'a> {
    Version,
    Overview,
    RawData,
    /// All objects of a kind.
    List(Listed),
    /// One object, by its name as it stands in the path.
    One(Listed, &'a str),
}

impl<'a> Question<'a> {
    /// From the path's segments after `/api`.
    fn parse(segments: &[&'a str]) -> Option<Self> {
        match segments {
            ["version"] => Some(Self::Version),
            ["overview"] => Some(Self::Overview),
            ["rawdata"] => Some(Self::RawData),
            _ => {
                let (listed, length) = Listed::find(segments)?;
                match segments.get(length..)? {
                    [] => Some(Self::List(listed)),
                    [name] if !name.is_empty() => Some(Self::One(listed, name)),
                    _ => None,
                }
            }
        }
    }

    fn answer(&self, query: &Query, view: &AdminView<'_>) -> Answer {
        match self {
            Self::Version => {
                let mut answer = json::answer(&version(view));
                answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
                answer
            }
            Self::Overview => json::answer(&overview::overview(view)),
            Self::RawData => json::answer(&raw_data(view)),
            Self::List(listed) => list::answer(*listed, objects(*listed, view), query),
            Self::One(listed, escaped) => {
                let Some(name) = url::unescape(escaped).map(|name| String::from_utf8_lossy(&name).into_owned()) else {
                    return json::error(StatusCode::BAD_REQUEST, &format!("unable to decode {escaped:?}"));
                };
                match objects(*listed, view).into_iter().find(|object| json::text(object, "name") == name) {
                    Some(object) => json::answer(&Value::Object(object)),
                    None => json::error(StatusCode::NOT_FOUND, &format!("{} not found: {name}", listed.noun())),
                }
            }
        }
    }
}

/// All objects of a kind, each with its name.
fn objects(listed: Listed, view: &AdminView<'_>) -> Vec<Map<String, Value>> {
    let report = view.report;
    match listed {
        Listed::Entrypoints => {
            view.install.entrypoints.iter().map(|(name, settings)| entrypoint::entrypoint(name, settings)).collect()
        }
        Listed::Routers => report.routers.iter().map(|(name, router)| router::named(name, router::http(router))).collect(),
        Listed::TcpRouters => report.tcp_routers.iter().map(|(name, router)| router::named(name, router::tcp(router))).collect(),
        Listed::Services => report.services.iter().map(|(name, service)| service::http(name, service, view)).collect(),
        Listed::TcpServices => report.tcp_services.iter().map(|(name, service)| service::tcp(name, service, view)).collect(),
        Listed::Middlewares => report.middlewares.iter().map(|(name, reported)| middleware::http(name, reported)).collect(),
        Listed::TcpMiddlewares => report.tcp_middlewares.iter().map(|(name, reported)| middleware::tcp(name, reported)).collect(),
        Listed::UdpRouters | Listed::UdpServices => Vec::new(),
        Listed::Certificates => view.certificates.iter().map(|certificate| certificate.object(view.now)).collect(),
        Listed::Rollouts => view.rollouts.iter().map(|(name, rollout)| rollout_object(name, rollout)).collect(),
    }
}

/// Only we know this: `/api/tidegate/rollouts`.
fn rollout_object(name: &Name, rollout: &Value) -> Map<String, Value> {
    let mut object = Map::from_iter([("name".to_owned(), json!(name.to_string()))]);
    object.extend(rollout.as_object().cloned().unwrap_or_default());
    object
}

fn version(view: &AdminView<'_>) -> Value {
    json!({ "Version": env!("CARGO_PKG_VERSION"), "Codename": "tidegate", "startDate": json::time(view.started_at) })
}

/// Everything at once, by name.
fn raw_data(view: &AdminView<'_>) -> Value {
    let mut data = Map::new();
    for (key, listed) in [
        ("routers", Listed::Routers),
        ("middlewares", Listed::Middlewares),
        ("services", Listed::Services),
        ("tcpRouters", Listed::TcpRouters),
        ("tcpMiddlewares", Listed::TcpMiddlewares),
        ("tcpServices", Listed::TcpServices),
    ] {
        let mut all = Map::new();
        for mut object in objects(listed, view) {
            let name = json::text(&object, "name").to_owned();
            // What lists add is not repeated here.
            object.retain(|key, _| !matches!(&**key, "name" | "provider" | "type" | "priorityStr"));
            all.insert(name, Value::Object(object));
        }
        if !all.is_empty() {
            data.insert(key.to_owned(), Value::Object(all));
        }
    }
    Value::Object(data)
}

#[cfg(test)]
mod tests;
