//! Services in Traefik's shape, with the servers they have now.

use serde_json::{Map, Value, json};

use super::json::{add, object, span};
use super::{AdminView, ServerView};
use crate::config::dynamic::{HealthCheck, Kind, LoadBalancer, Service, ServiceKind, Strategy, TcpService};
use crate::names::Name;
use crate::routing::report::Reported;

/// An HTTP service.
pub(super) fn http(name: &Name, reported: &Reported<Service>, view: &AdminView<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    let mut servers = Vec::new();
    let kind = match reported.definition.as_ref().map(|service| &service.kind) {
        None => "",
        Some(ServiceKind::LoadBalancer(balancer)) => {
            servers = (view.servers)(Kind::Service, name);
            out.insert("loadBalancer".to_owned(), json!(load_balancer(balancer, &servers)));
            "loadbalancer"
        }
        Some(ServiceKind::Weighted(services)) => {
            let services: Vec<Value> = services.iter().map(|(name, weight)| json!({ "name": name, "weight": weight })).collect();
            out.insert("weighted".to_owned(), json!({ "services": services }));
            "weighted"
        }
    };
    complete(out, name, reported, kind, &servers)
}

/// A TCP service.
pub(super) fn tcp(name: &Name, reported: &Reported<TcpService>, view: &AdminView<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    let servers = if reported.definition.is_some() { (view.servers)(Kind::TcpService, name) } else { Vec::new() };
    if reported.definition.is_some() {
        let addresses: Vec<Value> = servers.iter().map(|server| json!({ "address": server.url })).collect();
        out.insert("loadBalancer".to_owned(), json!(object([("servers", json!(addresses))])));
    }
    complete(out, name, reported, if reported.definition.is_some() { "loadbalancer" } else { "" }, &servers)
}

fn complete<D>(
    mut out: Map<String, Value>,
    name: &Name,
    reported: &Reported<D>,
    kind: &str,
    servers: &[ServerView],
) -> Map<String, Value> {
    let mut statuses: Vec<_> =
        servers.iter().map(|server| (server.url.clone(), json!(if server.is_up { "UP" } else { "DOWN" }))).collect();
    statuses.sort_by(|left, right| left.0.cmp(&right.0));
    add(
        &mut out,
        [
            ("error", json!(reported.errors)),
            ("status", json!(reported.status.as_str())),
            ("usedBy", json!(reported.links)),
            ("name", json!(name.to_string())),
            ("provider", json!(name.provider())),
            ("type", json!(kind)),
            ("serverStatus", json!(Map::from_iter(statuses))),
        ],
    );
    out
}

fn load_balancer(balancer: &LoadBalancer, servers: &[ServerView]) -> Map<String, Value> {
    // Traefik shows what was declared: whoever gives one server a weight gives all of them one.
    let are_weighed = servers.iter().any(|server| server.weight != 1);
    let server = |server: &ServerView| {
        let weight = if are_weighed { json!(server.weight) } else { Value::Null };
        let mut out = object([("url", json!(server.url))]);
        if !weight.is_null() {
            // 0 is a weight that was declared, and so is shown.
            out.insert("weight".to_owned(), weight);
        }
        add(&mut out, [("preservePath", json!(server.preserves_path))]);
        json!(out)
    };
    let strategy = match balancer.strategy {
        Strategy::Wrr => "wrr",
        Strategy::P2c => "p2c",
    };
    let mut out = object([
        ("servers", servers.iter().map(server).collect()),
        ("strategy", json!(strategy)),
        ("healthCheck", balancer.health_check.as_ref().map_or(Value::Null, |check| json!(health_check(check)))),
    ]);
    out.insert("passHostHeader".to_owned(), json!(balancer.pass_host_header));
    out.insert("responseForwarding".to_owned(), json!({ "flushInterval": "100ms" }));
    add(&mut out, [("serversTransport", json!(balancer.servers_transport))]);
    out
}

fn health_check(check: &HealthCheck) -> Map<String, Value> {
    // The default is not shown, as nobody declared it.
    let method = if check.method == "GET" { "" } else { check.method.as_str() };
    let mut out = object([
        ("scheme", json!(check.scheme.map(crate::config::dynamic::Scheme::as_str))),
        ("mode", json!("http")),
        ("path", json!(check.path)),
        ("method", json!(method)),
        ("status", json!(check.status)),
        ("port", json!(check.port)),
        ("interval", span(check.interval)),
        ("unhealthyInterval", check.unhealthy_interval.map_or(Value::Null, span)),
        ("timeout", span(check.timeout)),
        ("hostname", json!(check.hostname)),
    ]);
    out.insert("followRedirects".to_owned(), json!(check.follow_redirects));
    add(&mut out, [("headers", json!(check.headers))]);
    out
}
