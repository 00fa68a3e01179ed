//! `entryPoints`: addresses, trust, time-outs, redirection, and the entrypoints that nobody needs to name.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::read::{names, place, switch, text};
use super::{Entrypoint, EntrypointTls, Install, Redirection, Transport, Trust};
use crate::config::dynamic::Domain;
use crate::config::node::{Fields, Node};
use crate::config::problem::{At, Problem, Problems};

/// Traefik's entrypoint for ping, API and metrics.
const INTERNAL: &str = "traefik";

/// Go's MaxInt - 1, so that only internal routers win over a redirection.
const REDIRECTION_PRIORITY: i64 = i64::MAX - 1;

/// Reads all entrypoints by name, in lower case. UDP ones are left out, with a warning.
pub(super) fn read(root: &mut Fields<'_>, problems: &mut Problems) -> BTreeMap<String, Entrypoint> {
    let never_append = root.child("global").and_then(|mut global| global.bool("notAppendXForwardedFor", problems));
    let mut entrypoints = BTreeMap::new();
    let mut seen: Vec<Seen> = Vec::new();
    for (entry, mut fields) in names(root, "entryPoints") {
        let (name, at) = (entry.key.as_str(), &entry.key_at);
        if let Some(other) = seen.iter().find(|other| other.name.eq_ignore_ascii_case(name)) {
            let message = format!("the entrypoints `{}` and `{name}` differ only in case", other.name);
            problems.push(Problem::error(at, message).hint("names are compared without case"));
            continue;
        }
        let address = read_address(&mut fields, at, problems);
        let mut entrypoint = read_one(&mut fields, problems);
        entrypoint.forwarded_headers.not_append_forwarded_for |= never_append == Some(true);
        let Some((address, protocol)) = address else { continue };
        let address_at = fields.get("address").map_or(at, |node| &node.at);
        if protocol == Protocol::Udp {
            let message = format!("`{}` is a UDP address, which is not served yet", fields.path("address"));
            problems.push(Problem::warning(address_at, message).hint("the entrypoint is left out"));
        } else {
            if let Some(other) = seen.iter().find(|other| collide(&other.address, &address)) {
                let message = format!("`{}` is `{address}`, which `{}` has already", fields.path("address"), other.name);
                problems.push(Problem::error(address_at, message).hint(format!("`{}` is `{}`", other.name, other.address)));
            }
            entrypoint.address.clone_from(&address);
            entrypoints.insert(name.to_lowercase(), entrypoint);
        }
        let address = if protocol == Protocol::Udp { String::new() } else { address };
        seen.push(Seen { name: name.to_owned(), address });
    }
    entrypoints
}

/// An entrypoint that was read; without an address if it is UDP.
struct Seen {
    name: String,
    address: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

fn read_address(fields: &mut Fields<'_>, named_at: &At, problems: &mut Problems) -> Option<(String, Protocol)> {
    let path = fields.path("address");
    let Some(node) = fields.get("address").filter(|node| node.scalar.as_deref() != Some("")) else {
        let message = format!("`{path}` is missing, and without it Traefik listens on any port");
        problems.push(Problem::error(named_at, message).hint("write `[host]:port`, such as `:80`"));
        return None;
    };
    let text = node.string(&path, problems)?;
    match parse_address(&text) {
        Ok(address) => Some(address),
        Err(hint) => {
            let message = format!("`{path}` is `{text}`, but wants `[host]:port`, perhaps with `/tcp` or `/udp` behind it");
            problems.push(Problem::error(&node.at, message).hint(hint));
            None
        }
    }
}

/// Reads `[host]:port[/tcp|/udp]`. The error says what to write instead.
fn parse_address(text: &str) -> Result<(String, Protocol), String> {
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(format!("`{protocol}` is neither `tcp` nor `udp`")),
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        let is_port = address.parse::<u16>().is_ok();
        return Err(if is_port { format!("did you mean `:{address}`?") } else { "there is no `:`".to_owned() });
    };
    if port.parse::<u16>().is_err() {
        return Err(format!("`{port}` is no port; ports are numbers up to 65535"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(format!("did you mean `[{host}]:{port}`?"));
    }
    Ok((address.to_owned(), protocol))
}

/// Whether both cannot be listened on at once.
fn collide(one: &str, other: &str) -> bool {
    let (Some((one, port)), Some((other, other_port))) = (one.rsplit_once(':'), other.rsplit_once(':')) else { return false };
    port == other_port && port != "0" && (one == other || covers(one, other) || covers(other, one))
}

/// Whether listening on `host` takes the port from `other`, too.
fn covers(host: &str, other: &str) -> bool {
    match host {
        "" | "[::]" => true,
        "0.0.0.0" => other.parse::<Ipv4Addr>().is_ok(),
        _ => false,
    }
}

fn read_one(fields: &mut Fields<'_>, problems: &mut Problems) -> Entrypoint {
    let default = Entrypoint::default();
    let mut http = fields.child("http");
    let mut http2 = fields.child("http2");
    let streams = http2.as_mut().and_then(|http2| http2.parsed("maxConcurrentStreams", "a number of streams", problems));
    let mut entrypoint = Entrypoint {
        as_default: fields.bool("asDefault", problems).unwrap_or(default.as_default),
        forwarded_headers: fields.child("forwardedHeaders").map(|mut trust| read_trust(&mut trust, problems)).unwrap_or_default(),
        proxy_protocol: read_proxy_protocol(fields, problems),
        transport: fields.child("transport").map(|mut transport| read_transport(&mut transport, problems)).unwrap_or_default(),
        h2_streams_max: streams.unwrap_or(default.h2_streams_max),
        ..default
    };
    if let Some(http) = &mut http {
        read_http(http, &mut entrypoint, problems);
    }
    entrypoint
}

fn read_http(http: &mut Fields<'_>, entrypoint: &mut Entrypoint, problems: &mut Problems) {
    entrypoint.redirection = http.child("redirections").and_then(|mut redirections| {
        let mut redirection = redirections.child("entryPoint")?;
        read_redirection(&mut redirection, problems)
    });
    entrypoint.middlewares = http.strings("middlewares", problems).unwrap_or_default();
    entrypoint.tls = switch(http, "tls").map(|mut tls| EntrypointTls {
        options: text(&mut tls, "options", problems),
        resolver: text(&mut tls, "certResolver", problems),
        domains: tls.items("domains").into_iter().map(|mut domain| read_domain(&mut domain, problems)).collect(),
    });
    // As in Go, 0 means the default.
    if let Some(bytes) = http.parsed("maxHeaderBytes", "a number of bytes", problems).filter(|bytes| *bytes > 0) {
        entrypoint.head_bytes_max = bytes;
    }
    entrypoint.sanitize_path = http.bool("sanitizePath", problems).unwrap_or(entrypoint.sanitize_path);
    entrypoint.encode_query_semicolons =
        http.bool("encodeQuerySemicolons", problems).unwrap_or(entrypoint.encode_query_semicolons);
}

fn read_domain(domain: &mut Fields<'_>, problems: &mut Problems) -> Domain {
    Domain {
        main: domain.string("main", problems).unwrap_or_default(),
        sans: domain.strings("sans", problems).unwrap_or_default(),
    }
}

fn read_redirection(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Redirection> {
    let to = text(fields, "to", problems);
    let scheme = text(fields, "scheme", problems).unwrap_or_else(|| "https".to_owned());
    let permanent = fields.bool("permanent", problems).unwrap_or(true);
    let priority = fields.parsed("priority", "a whole number", problems).unwrap_or(REDIRECTION_PRIORITY);
    if to.is_none() && fields.get("to").is_none_or(|node| node.scalar.is_some()) {
        let message = format!("`{}` is missing, so nothing is redirected, as in Traefik", fields.path("to"));
        problems.push(Problem::warning(&fields.node().at, message).hint("name an entrypoint or write `:port`"));
    }
    Some(Redirection { to: to?.to_lowercase(), scheme, permanent, priority })
}

fn read_trust(fields: &mut Fields<'_>, problems: &mut Problems) -> Trust {
    Trust {
        insecure: fields.bool("insecure", problems).unwrap_or_default(),
        ranges: fields.ranges("trustedIPs", problems),
        connection: fields.strings("connection", problems).unwrap_or_default(),
        not_append_forwarded_for: fields.bool("notAppendXForwardedFor", problems).unwrap_or_default(),
    }
}

fn read_proxy_protocol(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Trust> {
    let mut section = switch(fields, "proxyProtocol")?;
    let trust = Trust {
        insecure: section.bool("insecure", problems).unwrap_or_default(),
        ranges: section.ranges("trustedIPs", problems),
        ..Trust::default()
    };
    let names_nobody = section.strings("trustedIPs", &mut Vec::new()).unwrap_or_default().is_empty();
    if names_nobody && !trust.insecure {
        let message = format!("`{}` trusts nobody, which Traefik refuses, too", fields.path("proxyProtocol"));
        problems.push(Problem::error(&section.node().at, message).hint("name the load balancer in `trustedIPs`"));
    }
    Some(trust)
}

fn read_transport(fields: &mut Fields<'_>, problems: &mut Problems) -> Transport {
    let mut transport = Transport::default();
    if let Some(mut life) = fields.child("lifeCycle") {
        transport.request_accept_grace =
            life.duration("requestAcceptGraceTimeout", problems).unwrap_or(transport.request_accept_grace);
        transport.grace = life.duration("graceTimeOut", problems).unwrap_or(transport.grace);
    }
    if let Some(mut timeouts) = fields.child("respondingTimeouts") {
        transport.read_timeout = timeouts.duration("readTimeout", problems).unwrap_or(transport.read_timeout);
        transport.write_timeout = timeouts.duration("writeTimeout", problems).unwrap_or(transport.write_timeout);
        transport.idle_timeout = timeouts.duration("idleTimeout", problems).unwrap_or(transport.idle_timeout);
    }
    transport.keep_alive_time_max = fields.duration("keepAliveMaxTime", problems).unwrap_or(transport.keep_alive_time_max);
    transport.keep_alive_requests_max =
        fields.parsed("keepAliveMaxRequests", "a number of requests", problems).unwrap_or(transport.keep_alive_requests_max);
    transport
}

/// Adds the entrypoints that Traefik makes when nobody names them: `http` on `:80` if there is none at all, and `traefik` on
/// `:8080` if ping, API or metrics are served there.
pub(super) fn imply(install: &mut Install, tree: &Node, problems: &mut Problems) {
    if tree.get("entryPoints").is_none() {
        let http = Entrypoint { address: ":80".to_owned(), ..Entrypoint::default() };
        install.entrypoints.insert("http".to_owned(), http);
    }
    if install.entrypoints.contains_key(INTERNAL) {
        return;
    }
    let serves = |entrypoint: &str, manual_routing: bool| entrypoint == INTERNAL && !manual_routing;
    let user = if install.api.as_ref().is_some_and(|api| api.insecure) {
        "api"
    } else if install.ping.as_ref().is_some_and(|ping| serves(&ping.entrypoint, ping.manual_routing)) {
        "ping"
    } else if install.prometheus.as_ref().is_some_and(|metrics| serves(&metrics.entrypoint, metrics.manual_routing)) {
        "metrics"
    } else {
        return;
    };
    let internal = Entrypoint { address: ":8080".to_owned(), is_implied: true, ..Entrypoint::default() };
    if let Some((name, _)) = install.entrypoints.iter().find(|(_, other)| collide(&other.address, &internal.address)) {
        let at: &At = place(tree, &["entryPoints", name, "address"]);
        let message = format!("`{user}` wants the entrypoint `{INTERNAL}` on `:8080`, but `{name}` listens there");
        problems.push(Problem::error(at, message).hint(format!("give `entryPoints.{INTERNAL}.address` another port")));
    }
    install.entrypoints.insert(INTERNAL.to_owned(), internal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_traefiks() {
        for (text, address) in
            [(":80", ":80"), ("127.0.0.1:0/tcp", "127.0.0.1:0"), ("[::1]:80/TCP", "[::1]:80"), ("a.b:1", "a.b:1")]
        {
            assert!(parse_address(text).is_ok_and(|(seen, protocol)| seen == address && protocol == Protocol::Tcp), "{text}");
        }
        assert!(parse_address(":53/udp").is_ok_and(|(_, protocol)| protocol == Protocol::Udp));
        for text in ["80", "foobar", ":99999", ":http", ":80/sctp", "::1:80", ":"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_port_is_listened_on_once() {
        for (one, other) in [(":80", ":80"), (":80", "127.0.0.1:80"), ("[::1]:80", "[::]:80"), ("0.0.0.0:80", "10.0.0.1:80")] {
            assert!(collide(one, other) && collide(other, one), "{one} {other}");
        }
        for (one, other) in
            [(":80", ":81"), ("127.0.0.1:80", "127.0.0.2:80"), (":0", ":0"), ("0.0.0.0:80", "[::1]:80"), ("", ":80")]
        {
            assert!(!collide(one, other) && !collide(other, one), "{one} {other}");
        }
    }
}
