//! `certificatesResolvers` and `serversTransport`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::read::{entrypoint, names, paths, switch, text};
use super::{Acme, KeyType, ServersTransport};
use crate::config::node::Fields;
use crate::config::problem::{Problem, Problems};

const CA_SERVER: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How long Traefik takes certificates to live unless told.
const CERTIFICATES_HOURS: u64 = 2160;

const KEY_TYPES: [(&str, KeyType); 4] =
    [("EC256", KeyType::Ec256), ("EC384", KeyType::Ec384), ("RSA2048", KeyType::Rsa2048), ("RSA4096", KeyType::Rsa4096)];

/// Reads the resolvers by their names as written, since acme.json knows them so.
pub(super) fn read(root: &mut Fields<'_>, problems: &mut Problems) -> BTreeMap<String, Acme> {
    let mut resolvers = BTreeMap::new();
    for (entry, mut resolver) in names(root, "certificatesResolvers") {
        let Some(mut acme) = resolver.child("acme") else {
            let message = format!("`certificatesResolvers.{}` has no `acme`, so it obtains no certificate", entry.key);
            problems.push(Problem::warning(&entry.key_at, message));
            continue;
        };
        resolvers.insert(entry.key.clone(), read_acme(&mut acme, problems));
    }
    resolvers
}

fn read_acme(fields: &mut Fields<'_>, problems: &mut Problems) -> Acme {
    Acme {
        email: text(fields, "email", problems),
        ca_server: text(fields, "caServer", problems).unwrap_or_else(|| CA_SERVER.to_owned()),
        storage: read_storage(fields, problems),
        key_type: read_key_type(fields, problems),
        http_challenge_entrypoint: read_http_challenge(fields, problems),
        ca_certificates: paths(fields, "caCertificates", problems),
        ca_system_cert_pool: fields.bool("caSystemCertPool", problems).unwrap_or_default(),
        certificates_duration: read_certificates_duration(fields, problems),
        eab: read_eab(fields, problems),
        profile: text(fields, "profile", problems),
    }
}

fn read_storage(fields: &mut Fields<'_>, problems: &mut Problems) -> PathBuf {
    let storage = fields.string("storage", problems);
    if let (Some(""), Some(node)) = (storage.as_deref(), fields.get("storage")) {
        problems.push(Problem::error(&node.at, format!("`{}` is empty, which Traefik refuses, too", fields.path("storage"))));
    }
    PathBuf::from(storage.unwrap_or_else(|| "acme.json".to_owned()))
}

fn read_key_type(fields: &mut Fields<'_>, problems: &mut Problems) -> KeyType {
    let Some(text) = text(fields, "keyType", problems) else { return KeyType::default() };
    if let Some((_, key_type)) = KEY_TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)) {
        return *key_type;
    }
    let known = KEY_TYPES.map(|(name, _)| name).join(", ");
    let problem = match text.as_str() {
        "RSA8192" => format!("`{}` is `RSA8192`, which is not supported", fields.path("keyType")),
        _ => format!("`{}` is `{text}`, which is no kind of key", fields.path("keyType")),
    };
    if let Some(node) = fields.get("keyType") {
        problems.push(Problem::warning(&node.at, problem).hint(format!("RSA4096 is used; known are {known}")));
    }
    KeyType::default()
}

fn read_http_challenge(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<String> {
    let is_answered_otherwise = fields.get("tlsChallenge").is_some() || fields.get("dnsChallenge").is_some();
    let path = fields.path("httpChallenge");
    let Some(mut challenge) = switch(fields, "httpChallenge") else {
        // Of the other challenges, and of an empty section, the table speaks.
        if !is_answered_otherwise && !fields.node().entries().is_empty() {
            let message = format!("`{path}` is missing, so no certificate can be obtained");
            problems.push(Problem::warning(&fields.node().at, message).hint("write `httpChallenge: {entryPoint: NAME}`"));
        }
        return None;
    };
    let entrypoint = entrypoint(&mut challenge, "entryPoint", problems);
    if entrypoint.is_none() {
        let message = format!("`{path}.entryPoint` is missing, so no certificate can be obtained");
        problems.push(Problem::warning(&challenge.node().at, message).hint("name the entrypoint that listens on port 80"));
    }
    entrypoint
}

fn read_certificates_duration(fields: &mut Fields<'_>, problems: &mut Problems) -> Duration {
    let hours = fields.parsed("certificatesDuration", "a number of hours", problems).unwrap_or(CERTIFICATES_HOURS);
    if let (0, Some(node)) = (hours, fields.get("certificatesDuration")) {
        let message = format!("`{}` is less than an hour, which Traefik refuses, too", fields.path("certificatesDuration"));
        problems.push(Problem::error(&node.at, message));
    }
    Duration::from_secs(hours.saturating_mul(3600))
}

fn read_eab(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<(String, String)> {
    let path = fields.path("eab");
    let mut eab = fields.child("eab")?;
    match (text(&mut eab, "kid", problems), text(&mut eab, "hmacEncoded", problems)) {
        (Some(kid), Some(hmac)) => Some((kid, hmac)),
        _ => {
            problems.push(Problem::error(&eab.node().at, format!("`{path}` wants both `kid` and `hmacEncoded`")));
            None
        }
    }
}

/// Reads `serversTransport`.
pub(super) fn servers_transport(root: &mut Fields<'_>, problems: &mut Problems) -> ServersTransport {
    let mut transport = ServersTransport::default();
    let Some(mut fields) = root.child("serversTransport") else { return transport };
    transport.insecure_skip_verify = fields.bool("insecureSkipVerify", problems).unwrap_or_default();
    transport.root_cas = paths(&mut fields, "rootCAs", problems);
    transport.idle_connections_max =
        fields.parsed("maxIdleConnsPerHost", "a number of connections", problems).unwrap_or(transport.idle_connections_max);
    let Some(mut timeouts) = fields.child("forwardingTimeouts") else { return transport };
    transport.dial_timeout = timeouts.duration("dialTimeout", problems).unwrap_or(transport.dial_timeout);
    transport.response_header_timeout =
        timeouts.duration("responseHeaderTimeout", problems).unwrap_or(transport.response_header_timeout);
    transport.idle_timeout = timeouts.duration("idleConnTimeout", problems).unwrap_or(transport.idle_timeout);
    transport
}
