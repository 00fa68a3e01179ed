//! `tcp` and `udp`.

use super::decode::{Decoder, Servers, Source, Unusable};
use super::server::{Location, ServerTemplate};
use super::shape::{asked, block, ignore, items, place_of};
use super::{Kind, Scheme, TcpService, router, unsupported};
use crate::config::node::{Entry, Fields};
use crate::config::problem::{Problem, Problems};

/// Reads the section `tcp`.
pub(super) fn read(decoder: &mut Decoder, mut fields: Fields<'_>) {
    let source = decoder.source;
    for (entry, path) in decoder.named(&mut fields, "routers") {
        let read = |fields: &mut Fields<'_>, problems: &mut Problems| router::read_tcp(fields, source, problems);
        if let Some(mut router) = decoder.object(Kind::TcpRouter, entry, path, read) {
            router.at = decoder.place(entry);
            decoder.definitions.tcp_routers.insert(entry.key.clone(), router);
        }
    }
    for (entry, path) in decoder.named(&mut fields, "services") {
        service(decoder, entry, path);
    }
    for (entry, path) in decoder.named(&mut fields, "middlewares") {
        decoder.object::<()>(Kind::TcpMiddleware, entry, path, middleware);
    }
    for (entry, path) in decoder.named(&mut fields, "serversTransports") {
        not_yet(decoder, "TCP servers transport", entry, path, &unsupported::TCP_TRANSPORT);
    }
    decoder.finish(fields);
}

/// Reads the section `udp`, of which nothing is supported yet.
pub(super) fn read_udp(decoder: &mut Decoder, mut fields: Fields<'_>) {
    for (entry, path) in decoder.named(&mut fields, "routers") {
        not_yet(decoder, "UDP router", entry, path, &unsupported::UDP_ROUTER);
    }
    for (entry, path) in decoder.named(&mut fields, "services") {
        not_yet(decoder, "UDP service", entry, path, &unsupported::UDP_SERVICE);
    }
    decoder.finish(fields);
}

fn not_yet(decoder: &mut Decoder, noun: &str, entry: &Entry, path: String, keys: &[&str]) {
    let mut problems = Vec::new();
    unsupported::check(&entry.node, &path, keys, &mut problems);
    let message = format!("{noun} `{}` is not supported yet and is ignored", entry.key);
    problems.push(Problem::warning(&entry.key_at, message));
    decoder.shape(problems);
}

fn service(decoder: &mut Decoder, entry: &Entry, path: String) {
    let source = decoder.source;
    let mut servers = Servers::default();
    let read = |fields: &mut Fields<'_>, problems: &mut Problems| read_service(fields, source, &mut servers, problems);
    if decoder.object(Kind::TcpService, entry, path, read).is_none() {
        return;
    }
    match source {
        Source::Labels => {
            let template = servers.template.unwrap_or_else(|| ServerTemplate::plain(Scheme::Tcp));
            decoder.templates_tcp.insert(entry.key.clone(), template);
        }
        Source::File => {
            decoder.endpoints.tcp.insert(entry.key.clone(), servers.endpoints);
        }
    }
    let at = decoder.place(entry);
    decoder.definitions.tcp_services.insert(entry.key.clone(), TcpService { at });
}

fn read_service(fields: &mut Fields<'_>, source: Source, servers: &mut Servers, problems: &mut Problems) -> Result<(), Unusable> {
    if let Some(node) = fields.get("weighted").filter(|node| !node.is_empty()) {
        unsupported::check(node, "weighted", &["services.name", "services.weight"], problems);
        fields.get("loadBalancer");
        return Err("`weighted` of TCP services is not supported yet".to_owned());
    }
    let Some(mut balancer) = block(fields, "loadBalancer", problems) else {
        return Err("it has no `loadBalancer`".to_owned());
    };
    match source {
        Source::File => listed_servers(&mut balancer, servers, problems),
        Source::Labels => servers.template = Some(tagged_server(&mut balancer, problems)),
    }
    ignore(&mut balancer, &["serversTransport", "healthCheck"], problems);
    // Traefik takes it and does nothing with it.
    balancer.get("terminationDelay");
    // A server that waits for its header understands nothing else.
    let proxy_protocol = asked(&mut balancer, &["proxyProtocol"]);
    balancer.finish(problems);
    match proxy_protocol {
        Some(path) => Err(format!("`{path}` is not supported yet")),
        None => Ok(()),
    }
}

fn listed_servers(fields: &mut Fields<'_>, servers: &mut Servers, problems: &mut Problems) {
    for mut item in items(fields, "servers", problems) {
        let at = place_of(&item, "address");
        let address = item.string("address", problems);
        let scheme = scheme(&mut item, problems);
        let path = item.path("address");
        item.finish(problems);
        match address.map(|address| Location::parse_address(&address, scheme)) {
            Some(Ok(location)) => servers.push(location, 1, false),
            Some(Err(message)) => problems.push(Problem::warning(at, format!("`{path}`: {message}; the server is left out"))),
            None => problems.push(Problem::warning(at, format!("`{path}` is missing, the server is left out"))),
        }
    }
}

fn tagged_server(fields: &mut Fields<'_>, problems: &mut Problems) -> ServerTemplate {
    let Some(mut server) = block(fields, "server", problems) else { return ServerTemplate::plain(Scheme::Tcp) };
    let port = server.parsed("port", "a port", problems);
    let template = ServerTemplate { port, ..ServerTemplate::plain(scheme(&mut server, problems)) };
    server.finish(problems);
    template
}

fn scheme(server: &mut Fields<'_>, problems: &mut Problems) -> Scheme {
    match server.bool("tls", problems) {
        Some(true) => Scheme::Tls,
        Some(false) | None => Scheme::Tcp,
    }
}

fn middleware(fields: &mut Fields<'_>, problems: &mut Problems) -> Result<(), Unusable> {
    let mut reason = "it is of no kind".to_owned();
    for (kind, keys) in unsupported::TCP_MIDDLEWARES {
        let path = fields.path(kind);
        if let Some(node) = fields.get(kind).filter(|node| !node.is_empty()) {
            unsupported::check(node, &path, keys, problems);
            reason = format!("`{kind}` of TCP is not supported yet");
        }
    }
    Err(reason)
}
