//! `http.services.*` and `http.serversTransports.*`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::decode::{Decoder, Servers, Source, Unusable};
use super::server::{Location, ServerTemplate, scheme_http};
use super::shape::{asked, block, ignore, items, place_of, switch, texts};
use super::unsupported;
use super::{HealthCheck, Kind, LoadBalancer, Scheme, Service, ServiceKind, Strategy};
use crate::config::install::ServersTransport;
use crate::config::node::{Entry, Fields};
use crate::config::problem::{Problem, Problems};

/// Reads one service and its servers into `decoder`.
pub(super) fn read_entry(decoder: &mut Decoder, entry: &Entry, path: String) {
    let source = decoder.source;
    let mut servers = Servers::default();
    let read = |fields: &mut Fields<'_>, problems: &mut Problems| read(fields, source, &mut servers, problems);
    let Some(kind) = decoder.object(Kind::Service, entry, path, read) else { return };
    let at = decoder.place(entry);
    if let ServiceKind::LoadBalancer(_) = kind {
        match (source, servers.template) {
            (Source::Labels, template) => {
                let template = template.unwrap_or_else(|| ServerTemplate::plain(Scheme::Http));
                decoder.templates_http.insert(entry.key.clone(), template);
            }
            (Source::File, _) => {
                decoder.endpoints.http.insert(entry.key.clone(), servers.endpoints);
            }
        }
    }
    decoder.definitions.services.insert(entry.key.clone(), Service { kind, at });
}

fn read(
    fields: &mut Fields<'_>,
    source: Source,
    servers: &mut Servers,
    problems: &mut Problems,
) -> Result<ServiceKind, Unusable> {
    let mut kinds = Vec::new();
    if let Some(mut balancer) = block(fields, "loadBalancer", problems) {
        kinds.push(load_balancer(&mut balancer, source, servers, problems).map(ServiceKind::LoadBalancer));
        balancer.finish(problems);
    }
    // Traefik's tags have load balancers only: `load-balancer is not defined` costs the instance there.
    let is_file_only = "is for files only, in tags a service has a `loadBalancer`";
    if let Some(mut services) = block(fields, "weighted", problems) {
        if source == Source::Labels {
            problems.push(Problem::error(&services.node().at, format!("`weighted` {is_file_only}")));
        }
        kinds.push(weighted(&mut services, problems));
        services.finish(problems);
    }
    for (kind, keys) in unsupported::SERVICES {
        let path = fields.path(kind);
        let Some(node) = fields.get(kind).filter(|node| !node.is_empty()) else { continue };
        if source == Source::Labels {
            problems.push(Problem::error(&node.at, format!("`{kind}` {is_file_only}")));
        }
        unsupported::check(node, &path, keys, problems);
        kinds.push(Err(format!("`{kind}` is not supported yet")));
    }
    if asked(fields, &["middlewares"]).is_some() {
        return Err("middlewares of a service are not supported yet, its routers can have them".to_owned());
    }
    let mut kinds = kinds.into_iter();
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) => kind,
        (None, _) => Err("it is of no kind, a `loadBalancer` for example".to_owned()),
        (Some(_), Some(_)) => Err("it is of several kinds at once".to_owned()),
    }
}

fn load_balancer(
    fields: &mut Fields<'_>,
    source: Source,
    servers: &mut Servers,
    problems: &mut Problems,
) -> Result<LoadBalancer, Unusable> {
    match source {
        Source::File => listed_servers(fields, servers, problems),
        Source::Labels => servers.template = Some(tagged_server(fields, problems)),
    }
    let strategy = strategy(fields, problems);
    let pass_host_header = fields.bool("passHostHeader", problems).unwrap_or(true);
    let servers_transport = fields.string("serversTransport", problems).filter(|name| !name.is_empty());
    let health_check = block(fields, "healthCheck", problems).and_then(|mut check| {
        let read = health_check(&mut check, problems);
        check.finish(problems);
        read
    });
    if let Some(mut forwarding) = block(fields, "responseForwarding", problems) {
        // Bytes are handed on as they come; there is nothing to flush.
        forwarding.string("flushInterval", problems);
        forwarding.finish(problems);
    }
    if let Some(sticky) = switch(fields, "sticky") {
        unsupported::check(sticky.node(), &fields.path("sticky"), &unsupported::STICKY, problems);
        problems.push(Problem::warning(&sticky.node().at, "`sticky` is not supported yet, clients are not kept on their server"));
    }
    if let Some(mut passive) = block(fields, "passiveHealthCheck", problems) {
        passive.duration("failureWindow", problems);
        passive.parsed::<u32>("maxFailedAttempts", "a whole number", problems);
        let message = "`passiveHealthCheck` is ignored: every server is judged by what its requests show";
        problems.push(Problem::warning(&passive.node().at, message));
        passive.finish(problems);
    }
    Ok(LoadBalancer { strategy: strategy?, pass_host_header, servers_transport, health_check, rollout: BTreeMap::new() })
}

fn strategy(fields: &mut Fields<'_>, problems: &mut Problems) -> Result<Strategy, Unusable> {
    let Some(text) = fields.string("strategy", problems) else { return Ok(Strategy::Wrr) };
    match text.to_ascii_lowercase().as_str() {
        "" | "wrr" => Ok(Strategy::Wrr),
        "p2c" => Ok(Strategy::P2c),
        "hrw" | "leasttime" => {
            let message = format!("strategy `{text}` is not supported yet, `wrr` takes its place");
            problems.push(Problem::warning(place_of(fields, "strategy"), message));
            Ok(Strategy::Wrr)
        }
        _ => Err(format!("its strategy is `{text}`, but `wrr` or `p2c` is wanted")),
    }
}

fn listed_servers(fields: &mut Fields<'_>, servers: &mut Servers, problems: &mut Problems) {
    for mut item in items(fields, "servers", problems) {
        let at = place_of(&item, "url");
        let url = item.string("url", problems);
        let weight = item.parsed("weight", "a whole number from 0", problems).unwrap_or(1);
        let preserve_path = item.bool("preservePath", problems).unwrap_or(false);
        let path = item.path("url");
        item.finish(problems);
        match url.as_deref().map(Location::parse_url) {
            Some(Ok(location)) => servers.push(location, weight, preserve_path),
            // The other servers can still serve.
            Some(Err(message)) => problems.push(Problem::warning(at, format!("`{path}`: {message}; the server is left out"))),
            None => problems.push(Problem::warning(at, format!("`{path}` is missing, the server is left out"))),
        }
    }
}

fn tagged_server(fields: &mut Fields<'_>, problems: &mut Problems) -> ServerTemplate {
    let mut template = ServerTemplate::plain(Scheme::Http);
    let Some(mut server) = block(fields, "server", problems) else { return template };
    let (at_scheme, at_url) = (place_of(&server, "scheme"), place_of(&server, "url"));
    let scheme = server.string("scheme", problems).filter(|scheme| !scheme.is_empty());
    template.port = server.parsed("port", "a port", problems);
    template.weight = server.parsed("weight", "a whole number from 0", problems).unwrap_or(1);
    template.preserve_path = server.bool("preservePath", problems).unwrap_or(false);
    if let Some(url) = server.string("url", problems) {
        if scheme.is_some() || template.port.is_some() {
            problems.push(Problem::error(at_url, "`server.url` leaves no room for `server.port` or `server.scheme`"));
        }
        match Location::parse_url(&url) {
            Ok(location) => template.url = Some(location),
            Err(message) => problems.push(Problem::error(at_url, format!("`server.url`: {message}"))),
        }
    }
    match scheme.as_deref().map(|scheme| (scheme, scheme_http(scheme))) {
        Some((_, Some(scheme))) => template.scheme = scheme,
        Some((text, None)) => {
            let message = format!("`server.scheme` is `{text}`, but wants `http`, `https` or `h2c`");
            problems.push(Problem::error(at_scheme, message));
        }
        None => {}
    }
    server.finish(problems);
    template
}

fn health_check(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<HealthCheck> {
    let scheme = fields.string("scheme", problems).filter(|scheme| !scheme.is_empty());
    let mode = fields.string("mode", problems).unwrap_or_default();
    let (interval, timeout) = (Duration::from_secs(30), Duration::from_secs(5));
    let or_default = |span: Option<Duration>, default| span.filter(|span| !span.is_zero()).unwrap_or(default);
    let check = HealthCheck {
        path: fields.string("path", problems).unwrap_or_default(),
        scheme: scheme.as_deref().and_then(scheme_http),
        method: fields.string("method", problems).filter(|method| !method.is_empty()).unwrap_or_else(|| "GET".to_owned()),
        status: fields.parsed::<u16>("status", "a status", problems).filter(|status| *status != 0),
        port: fields.parsed::<u16>("port", "a port", problems).filter(|port| *port != 0),
        interval: or_default(fields.duration("interval", problems), interval),
        unhealthy_interval: fields.duration("unhealthyInterval", problems).filter(|span| !span.is_zero()),
        timeout: or_default(fields.duration("timeout", problems), timeout),
        hostname: fields.string("hostname", problems).filter(|name| !name.is_empty()),
        follow_redirects: fields.bool("followRedirects", problems).unwrap_or(true),
        headers: texts(fields, "headers", problems),
    };
    if let (Some(scheme), None) = (&scheme, check.scheme) {
        let message = format!("`{}` is `{scheme}`, but wants `http` or `https`", fields.path("scheme"));
        problems.push(Problem::error(place_of(fields, "scheme"), message));
    }
    let at = place_of(fields, "mode");
    match mode.to_ascii_lowercase().as_str() {
        "" | "http" => Some(check),
        "grpc" => {
            problems.push(Problem::warning(at, "health checks by gRPC are not supported yet, the check is left out"));
            None
        }
        _ => {
            problems.push(Problem::error(at, format!("`{}` is `{mode}`, but wants `http` or `grpc`", fields.path("mode"))));
            None
        }
    }
}

fn weighted(fields: &mut Fields<'_>, problems: &mut Problems) -> Result<ServiceKind, Unusable> {
    let mut services = Vec::new();
    for mut item in items(fields, "services", problems) {
        let at = item.node().at.clone();
        let name = item.string("name", problems).unwrap_or_default();
        let weight = item.parsed("weight", "a whole number from 0", problems).unwrap_or(1);
        if name.is_empty() {
            problems.push(Problem::error(&at, format!("`{}` is missing", item.path("name"))));
        }
        item.finish(problems);
        services.push((name, weight));
    }
    ignore(fields, &["sticky"], problems);
    // Whether a part is fit is always taken into account; there is nothing to switch on.
    fields.get("healthCheck");
    if services.is_empty() {
        return Err("`weighted` names no services".to_owned());
    }
    Ok(ServiceKind::Weighted(services))
}

/// Reads one servers transport. What protects a connection and is not supported yet makes it unusable.
pub(super) fn read_transport(fields: &mut Fields<'_>, problems: &mut Problems) -> Result<ServersTransport, Unusable> {
    let mut transport = ServersTransport {
        insecure_skip_verify: fields.bool("insecureSkipVerify", problems).unwrap_or(false),
        root_cas: fields.strings("rootCAs", problems).unwrap_or_default().into_iter().map(PathBuf::from).collect(),
        server_name: fields.string("serverName", problems).filter(|name| !name.is_empty()),
        ..ServersTransport::default()
    };
    // As in Traefik 0 means the default.
    if let Some(idle_max) = fields.parsed("maxIdleConnsPerHost", "a whole number from 0", problems).filter(|max| *max != 0) {
        transport.idle_connections_max = idle_max;
    }
    if let Some(mut timeouts) = block(fields, "forwardingTimeouts", problems) {
        let defaults = ServersTransport::default();
        let mut span = |key, default| timeouts.duration(key, problems).unwrap_or(default);
        transport.dial_timeout = span("dialTimeout", defaults.dial_timeout);
        transport.response_header_timeout = span("responseHeaderTimeout", defaults.response_header_timeout);
        transport.idle_timeout = span("idleConnTimeout", defaults.idle_timeout);
        ignore(&mut timeouts, &["readIdleTimeout", "pingTimeout"], problems);
        timeouts.finish(problems);
    }
    ignore(fields, &["cipherSuites", "minVersion", "maxVersion", "disableHTTP2"], problems);
    match asked(fields, &["certificates", "peerCertURI", "spiffe"]) {
        Some(path) => Err(format!("`{path}` is not supported yet")),
        None => Ok(transport),
    }
}
