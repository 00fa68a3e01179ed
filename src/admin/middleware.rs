//! Middlewares in Traefik's shape.

use serde_json::{Map, Value, json};

use super::json::{add, object};
use crate::config::dynamic::{Middleware, MiddlewareKind};
use crate::names::Name;
use crate::routing::report::Reported;

/// Defaults that Traefik fills in only when it uses them, and so does not show.
const COMPRESS_BODY_BYTES_MIN: usize = 1024;
const BASIC_AUTH_REALM: &str = "traefik";

/// An HTTP middleware.
pub(super) fn http(name: &Name, reported: &Reported<Middleware>) -> Map<String, Value> {
    let mut out = Map::new();
    let mut kind = "";
    if let Some(middleware) = &reported.definition {
        let (key, options) = options(&middleware.kind);
        out.insert(key.to_owned(), Value::Object(options));
        kind = key;
    }
    complete(out, name, reported, kind)
}

/// A TCP middleware, of which nothing but its name is known.
pub(super) fn tcp(name: &Name, reported: &Reported<()>) -> Map<String, Value> {
    complete(Map::new(), name, reported, "")
}

fn complete<D>(mut out: Map<String, Value>, name: &Name, reported: &Reported<D>, kind: &str) -> Map<String, Value> {
    add(
        &mut out,
        [
            ("error", json!(reported.errors)),
            ("status", json!(reported.status.as_str())),
            ("usedBy", json!(reported.links)),
            ("name", json!(name.to_string())),
            ("provider", json!(name.provider())),
            ("type", json!(kind.to_lowercase())),
        ],
    );
    out
}

fn options(kind: &MiddlewareKind) -> (&'static str, Map<String, Value>) {
    match kind {
        MiddlewareKind::RedirectScheme { scheme, port, permanent } => {
            ("redirectScheme", object([("scheme", json!(scheme)), ("port", json!(port)), ("permanent", json!(permanent))]))
        }
        MiddlewareKind::RedirectRegex { regex, replacement, permanent } => (
            "redirectRegex",
            object([("regex", json!(regex)), ("replacement", json!(replacement)), ("permanent", json!(permanent))]),
        ),
        MiddlewareKind::Compress { encodings, body_bytes_min, excluded, included, default_encoding } => {
            let shown = if *body_bytes_min == COMPRESS_BODY_BYTES_MIN { 0 } else { *body_bytes_min };
            let options = object([
                ("excludedContentTypes", json!(excluded)),
                ("includedContentTypes", json!(included)),
                ("minResponseBodyBytes", json!(shown)),
                ("encodings", json!(encodings)),
                ("defaultEncoding", json!(default_encoding)),
            ]);
            ("compress", options)
        }
        MiddlewareKind::Headers { request, response } => {
            ("headers", object([("customRequestHeaders", json!(request)), ("customResponseHeaders", json!(response))]))
        }
        MiddlewareKind::StripPrefix { prefixes } => ("stripPrefix", object([("prefixes", json!(prefixes))])),
        MiddlewareKind::AddPrefix { prefix } => ("addPrefix", object([("prefix", json!(prefix))])),
        MiddlewareKind::BasicAuth { users, users_file, realm, header_field, remove_header } => {
            let options = object([
                ("users", users.iter().map(|user| json!(without_hash(user))).collect()),
                ("usersFile", json!(users_file)),
                ("realm", json!(if realm == BASIC_AUTH_REALM { "" } else { realm })),
                ("removeHeader", json!(remove_header)),
                ("headerField", json!(header_field)),
            ]);
            ("basicAuth", options)
        }
        MiddlewareKind::Chain { middlewares } => ("chain", object([("middlewares", json!(middlewares))])),
    }
}

/// Traefik shows the hash to whoever may ask the API; we show that there is one.
fn without_hash(user: &str) -> String {
    format!("{}:REDACTED", user.split(':').next().unwrap_or_default())
}
