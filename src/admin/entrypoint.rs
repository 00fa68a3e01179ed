//! Entrypoints in Traefik's shape.

use serde_json::{Map, Value, json};

use super::json::{add, object, span};
use super::router::domains;
use crate::config::install::{Entrypoint, EntrypointTls, Redirection, Transport, Trust};

/// An entrypoint.
pub(super) fn entrypoint(name: &str, settings: &Entrypoint) -> Map<String, Value> {
    let mut out = object([
        ("address", json!(settings.address)),
        ("asDefault", json!(settings.as_default)),
        ("transport", json!(transport(&settings.transport))),
    ]);
    if let Some(trust) = &settings.proxy_protocol {
        out.insert("proxyProtocol".to_owned(), json!(trusted(trust)));
    }
    out.insert("forwardedHeaders".to_owned(), json!(trusted(&settings.forwarded_headers)));
    let mut http = object([
        ("redirections", settings.redirection.as_ref().map_or(Value::Null, redirection)),
        ("middlewares", json!(settings.middlewares)),
    ]);
    if let Some(tls) = &settings.tls {
        // Shown also when it says nothing.
        http.insert("tls".to_owned(), json!(entrypoint_tls(tls)));
    }
    add(&mut http, [("encodeQuerySemicolons", json!(settings.encode_query_semicolons))]);
    http.insert("sanitizePath".to_owned(), json!(settings.sanitize_path));
    http.insert("maxHeaderBytes".to_owned(), json!(settings.head_bytes_max));
    out.insert("http".to_owned(), json!(http));
    // The sizes of header tables are the engine's and HTTP/2's own.
    let http2 = json!({
        "maxConcurrentStreams": settings.h2_streams_max, "maxDecoderHeaderTableSize": 4096, "maxEncoderHeaderTableSize": 4096
    });
    out.insert("http2".to_owned(), http2);
    out.insert("udp".to_owned(), json!({ "timeout": "3s" }));
    out.insert("name".to_owned(), json!(name));
    out
}

fn transport(transport: &Transport) -> Map<String, Value> {
    let life_cycle =
        object([("requestAcceptGraceTimeout", span(transport.request_accept_grace)), ("graceTimeOut", span(transport.grace))]);
    let timeouts = object([
        ("readTimeout", span(transport.read_timeout)),
        ("writeTimeout", span(transport.write_timeout)),
        ("idleTimeout", span(transport.idle_timeout)),
    ]);
    object([
        ("lifeCycle", json!(life_cycle)),
        ("respondingTimeouts", json!(timeouts)),
        ("keepAliveMaxTime", span(transport.keep_alive_time_max)),
        ("keepAliveMaxRequests", json!(transport.keep_alive_requests_max)),
    ])
}

fn redirection(redirection: &Redirection) -> Value {
    let to = object([
        ("to", json!(redirection.to)),
        ("scheme", json!(redirection.scheme)),
        ("permanent", json!(redirection.permanent)),
        ("priority", json!(redirection.priority)),
    ]);
    json!({ "entryPoint": to })
}

fn entrypoint_tls(tls: &EntrypointTls) -> Map<String, Value> {
    object([("options", json!(tls.options)), ("certResolver", json!(tls.resolver)), ("domains", domains(&tls.domains))])
}

/// Who is believed.
fn trusted(trust: &Trust) -> Map<String, Value> {
    let ranges: Vec<String> = trust.ranges.iter().map(ToString::to_string).collect();
    object([
        ("insecure", json!(trust.insecure)),
        ("trustedIPs", json!(ranges)),
        ("connection", json!(trust.connection)),
        ("notAppendXForwardedFor", json!(trust.not_append_forwarded_for)),
    ])
}
