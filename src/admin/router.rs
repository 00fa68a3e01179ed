//! Routers in Traefik's shape.

use serde_json::{Map, Value, json};

use super::json::{add, object};
use crate::config::dynamic::{Domain, Router, RouterTls, TcpRouter};
use crate::names::Name;
use crate::routing::report::Reported;

/// Traefik's word for who made a router without being asked.
const INTERNAL: &str = "internal";

/// An HTTP router without its name.
pub(super) fn http(reported: &Reported<Router>) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(router) = &reported.definition {
        add(
            &mut out,
            [
                ("entryPoints", json!(router.entrypoints)),
                ("middlewares", json!(router.middlewares)),
                ("service", json!(router.service)),
                ("rule", json!(router.rule)),
                ("priority", json!(router.priority)),
                ("tls", router.tls.as_ref().map_or(Value::Null, |router_tls| json!(tls(router_tls)))),
            ],
        );
        let observability = json!({
            "accessLogs": router.access_logs, "metrics": router.metrics, "tracing": true, "traceVerbosity": "minimal"
        });
        out.insert("observability".to_owned(), observability);
    }
    with_standing(out, reported)
}

/// A TCP router without its name.
pub(super) fn tcp(reported: &Reported<TcpRouter>) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(router) = &reported.definition {
        let tcp_tls = |router_tls: &RouterTls| {
            let mut out = Map::from_iter([("passthrough".to_owned(), json!(router_tls.passthrough))]);
            out.extend(tls(router_tls));
            if router_tls.options.is_none() {
                out.remove("options");
            }
            json!(out)
        };
        add(
            &mut out,
            [
                ("entryPoints", json!(router.entrypoints)),
                ("middlewares", json!(router.middlewares)),
                ("service", json!(router.service)),
                ("rule", json!(router.rule)),
                ("priority", json!(router.priority)),
                ("tls", router.tls.as_ref().map_or(Value::Null, tcp_tls)),
            ],
        );
    }
    with_standing(out, reported)
}

fn with_standing<D>(mut out: Map<String, Value>, reported: &Reported<D>) -> Map<String, Value> {
    add(
        &mut out,
        [("error", json!(reported.errors)), ("status", json!(reported.status.as_str())), ("using", json!(reported.links))],
    );
    out
}

/// Adds what lists and single routers have besides.
pub(super) fn named(name: &Name, mut router: Map<String, Value>) -> Map<String, Value> {
    let priority = router.get("priority").and_then(Value::as_i64).unwrap_or_default();
    if name.provider() == INTERNAL && router.contains_key("rule") {
        insert_after(&mut router, "rule", "ruleSyntax", json!("default"));
    }
    router.insert("name".to_owned(), json!(name.to_string()));
    router.insert("provider".to_owned(), json!(name.provider()));
    // A number beyond 2^53 is not exact in every reader.
    router.insert("priorityStr".to_owned(), json!(priority.to_string()));
    router
}

fn insert_after(object: &mut Map<String, Value>, place: &str, key: &str, value: Value) {
    let mut out = Map::new();
    for (known, old) in std::mem::take(object) {
        let is_place = known == place;
        out.insert(known, old);
        if is_place {
            out.insert(key.to_owned(), value.clone());
        }
    }
    *object = out;
}

fn tls(tls: &RouterTls) -> Map<String, Value> {
    object([
        ("options", json!(tls.options.as_deref().unwrap_or("default"))),
        ("certResolver", json!(tls.resolver)),
        ("domains", domains(&tls.domains)),
    ])
}

/// The names of certificates.
pub(super) fn domains(domains: &[Domain]) -> Value {
    domains.iter().map(|domain| json!(object([("main", json!(domain.main)), ("sans", json!(domain.sans))]))).collect()
}
