//! `providers`: the Consul catalog and files.

use super::read::{path, switch, text};
use super::{ConsulCatalog, ConsulEndpoint, FileProvider, Providers};
use crate::config::node::Fields;
use crate::config::problem::{Problem, Problems};

/// Check states that Consul knows; `any` keeps all.
const CHECK_STATES: [&str; 5] = ["passing", "warning", "critical", "maintenance", "any"];

pub(super) fn read(root: &mut Fields<'_>, problems: &mut Problems) -> Providers {
    let default = Providers::default();
    let Some(mut fields) = root.child("providers") else { return default };
    Providers {
        throttle: fields.duration("providersThrottleDuration", problems).unwrap_or(default.throttle),
        consul_catalog: switch(&mut fields, "consulCatalog").map(|mut consul| read_consul_catalog(&mut consul, problems)),
        file: fields.child("file").and_then(|mut file| read_file(&mut file, problems)),
    }
}

fn read_consul_catalog(fields: &mut Fields<'_>, problems: &mut Problems) -> ConsulCatalog {
    let default = ConsulCatalog::default();
    ConsulCatalog {
        endpoint: fields.child("endpoint").map(|mut endpoint| read_endpoint(&mut endpoint, problems)).unwrap_or_default(),
        prefix: text(fields, "prefix", problems).unwrap_or(default.prefix),
        refresh_interval: fields.duration("refreshInterval", problems).unwrap_or(default.refresh_interval),
        watch: fields.bool("watch", problems).unwrap_or(default.watch),
        require_consistent: fields.bool("requireConsistent", problems).unwrap_or(default.require_consistent),
        stale: fields.bool("stale", problems).unwrap_or(default.stale),
        cache: fields.bool("cache", problems).unwrap_or(default.cache),
        exposed_by_default: fields.bool("exposedByDefault", problems).unwrap_or(default.exposed_by_default),
        default_rule: text(fields, "defaultRule", problems).unwrap_or(default.default_rule),
        constraints: text(fields, "constraints", problems),
        strict_checks: read_strict_checks(fields, problems).unwrap_or(default.strict_checks),
    }
}

fn read_strict_checks(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let path = fields.path("strictChecks");
    let mut states = Vec::new();
    for (at, state) in fields.get("strictChecks")?.texts(&path, problems) {
        let state = state.to_lowercase();
        if !CHECK_STATES.contains(&state.as_str()) {
            let message = format!("`{path}` has `{state}`, which is no state of a check");
            problems.push(Problem::warning(at, message).hint(format!("states are {}", CHECK_STATES.join(", "))));
        }
        states.push(state);
    }
    (!states.is_empty()).then_some(states)
}

fn read_endpoint(fields: &mut Fields<'_>, problems: &mut Problems) -> ConsulEndpoint {
    let mut endpoint = ConsulEndpoint {
        address: text(fields, "address", problems),
        scheme: read_scheme(fields, problems),
        datacenter: text(fields, "datacenter", problems),
        token: text(fields, "token", problems),
        wait: fields.duration("endpointWaitTime", problems).filter(|wait| !wait.is_zero()),
        ..ConsulEndpoint::default()
    };
    if let Some(mut auth) = fields.child("httpAuth") {
        let username = text(&mut auth, "username", problems);
        let password = auth.string("password", problems).unwrap_or_default();
        endpoint.basic_auth = username.map(|username| (username, password));
    }
    if let Some(mut tls) = fields.child("tls") {
        endpoint.ca = path(&mut tls, "ca", problems);
        endpoint.cert = path(&mut tls, "cert", problems);
        endpoint.key = path(&mut tls, "key", problems);
        endpoint.insecure_skip_verify = tls.bool("insecureSkipVerify", problems).unwrap_or_default();
        if endpoint.cert.is_some() != endpoint.key.is_some() {
            let message = format!("`{}` wants both `cert` and `key`, or neither", fields.path("tls"));
            problems.push(Problem::error(&tls.node().at, message));
        }
    }
    endpoint
}

fn read_scheme(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<String> {
    let scheme = text(fields, "scheme", problems)?.to_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        let message = format!("`{}` is `{scheme}`, but wants `http` or `https`", fields.path("scheme"));
        problems.push(Problem::error(&fields.get("scheme")?.at, message));
    }
    Some(scheme)
}

fn read_file(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<FileProvider> {
    let file = FileProvider {
        filename: path(fields, "filename", problems),
        directory: path(fields, "directory", problems),
        watch: fields.bool("watch", problems).unwrap_or(true),
    };
    let at = &fields.node().at;
    match (&file.filename, &file.directory) {
        (None, None) => {
            // An empty section is the table's to refuse.
            if !fields.node().entries().is_empty() {
                let message = format!("`{}` or `{}` is wanted", fields.path("filename"), fields.path("directory"));
                problems.push(Problem::error(at, message));
            }
            None
        }
        (Some(_), Some(_)) => {
            let message = format!("`{}` has no effect beside `directory`, as in Traefik", fields.path("filename"));
            problems.push(Problem::warning(fields.get("filename").map_or(at, |node| &node.at), message));
            Some(FileProvider { filename: None, ..file })
        }
        _ => Some(file),
    }
}
