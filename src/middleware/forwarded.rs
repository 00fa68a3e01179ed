//! The headers that speak of the hop itself: X-Forwarded-*, X-Real-Ip, `Connection` and what it names.
//!
//! Two moments, as in Traefik. [`receive`] is the entrypoint: nothing is believed from a peer that is not trusted, and
//! middlewares then see complete X-Forwarded headers. [`send`] is the way out to one server, once per attempt, on a copy:
//! hop-by-hop headers end here and the client's address is added. Pure functions on a `HeaderMap`.
//!
//! `Content-Length` and `Transfer-Encoding` are left alone: framing belongs to who reads and writes bodies.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, Entry, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode};

use super::url::split_host_port;
use crate::config::install::Trust;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers by which a proxy speaks to servers, and which a client has no business to send.
const MANAGED: [&str; 13] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-uri",
    "x-real-ip",
    "x-scheme",
];

/// What one entrypoint does with these headers.
#[derive(Clone, Debug)]
pub struct ForwardedRules {
    /// Our own name, for X-Forwarded-Server.
    server: Option<HeaderValue>,
    /// Headers that middlewares may see although `Connection` names them.
    kept: Vec<HeaderName>,
    appends_client: bool,
}

impl ForwardedRules {
    /// By an entrypoint's `forwardedHeaders` and our host's name. Names of headers that none can have are ignored.
    pub fn new(trust: &Trust, hostname: &str) -> Self {
        Self {
            server: HeaderValue::from_str(hostname).ok().filter(|name| !name.is_empty()),
            kept: trust.connection.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect(),
            appends_client: !trust.not_append_forwarded_for,
        }
    }
}

/// Who is at the other end of a connection. Made once for all its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address as headers carry it.
    address: HeaderValue,
    is_trusted: bool,
    is_tls: bool,
}

impl Peer {
    /// The peer at `address` (after PROXY protocol).
    pub fn new(address: IpAddr, is_tls: bool, trust: &Trust) -> Self {
        let text = address.to_canonical().to_string();
        // An address is digits, letters, dots and colons: always a header's value.
        let address_value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        Self { address: address_value, is_trusted: trust.allows(address), is_tls }
    }

    /// Whether it is believed.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }
}

/// Settles a request's headers as it comes in. `host` is what the client asked for: the `Host` header, `:authority`, or the
/// host of an absolute URI.
pub fn receive(headers: &mut HeaderMap, host: Option<&HeaderValue>, peer: &Peer, rules: &ForwardedRules) {
    if !peer.is_trusted {
        remove_managed(headers);
    }
    set_if_empty(headers, &X_REAL_IP, || Some(peer.address.clone()));
    set_if_empty_proto(headers, peer);
    set_if_empty(headers, &X_FORWARDED_HOST, || host.filter(|host| !host.is_empty()).cloned());
    if is_empty(headers, &X_FORWARDED_PORT) {
        let port = forwarded_port(headers, host, peer);
        headers.insert(&X_FORWARDED_PORT, port);
    }
    join_values(headers, &X_FORWARDED_FOR);
    if let Some(server) = &rules.server {
        headers.insert(&X_FORWARDED_SERVER, server.clone());
    }
    obey_connection(headers, rules);
}

/// Makes a request's headers ready for a server. `hides_client` leaves X-Forwarded-For out altogether.
pub fn send(headers: &mut HeaderMap, peer: &Peer, rules: &ForwardedRules, hides_client: bool) {
    let upgrade = wanted_upgrade(headers);
    let takes_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    remove_hop_by_hop(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
    if hides_client {
        headers.remove(&X_FORWARDED_FOR);
    } else if rules.appends_client {
        headers.append(&X_FORWARDED_FOR, peer.address.clone());
        join_values(headers, &X_FORWARDED_FOR);
    }
}

/// Whether the head of an answer has anything for [`receive_answer`] to remove. Most have not.
pub fn speaks_of_hop(headers: &HeaderMap) -> bool {
    let names = [&CONNECTION, &KEEP_ALIVE, &PROXY_CONNECTION, &PROXY_AUTHENTICATE, &PROXY_AUTHORIZATION, &TE, &TRAILER, &UPGRADE];
    names.iter().any(|name| headers.contains_key(*name))
}

/// Removes what a server said about its hop to us from the head of its answer. An answer that switches protocols keeps it.
pub fn receive_answer(headers: &mut HeaderMap, status: StatusCode) {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        remove_hop_by_hop(headers);
    }
}

/// Whether this header is one of the managed ones, in any spelling: servers behind CGI take `_` for `-`.
fn is_managed(name: &str) -> bool {
    let is_spelling = |known: &str| {
        known.len() == name.len() && known.bytes().zip(name.bytes()).all(|(k, n)| k == n || (k == b'-' && n == b'_'))
    };
    name.starts_with('x') && MANAGED.iter().any(|known| is_spelling(known))
}

fn remove_managed(headers: &mut HeaderMap) {
    // Empty for most requests, and then nothing is allocated.
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_managed(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

fn is_empty(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get(name).is_none_or(HeaderValue::is_empty)
}

fn set_if_empty(headers: &mut HeaderMap, name: &HeaderName, value: impl FnOnce() -> Option<HeaderValue>) {
    if is_empty(headers, name)
        && let Some(value) = value()
    {
        headers.insert(name, value);
    }
}

fn set_if_empty_proto(headers: &mut HeaderMap, peer: &Peer) {
    if is_empty(headers, &X_FORWARDED_PROTO) {
        let proto = match (is_websocket(headers), peer.is_tls) {
            (true, true) => "wss",
            (true, false) => "ws",
            (false, true) => "https",
            (false, false) => "http",
        };
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
}

/// The port of the host asked for, else that of the scheme.
fn forwarded_port(headers: &HeaderMap, host: Option<&HeaderValue>, peer: &Peer) -> HeaderValue {
    let named = host.and_then(|host| split_host_port(host.to_str().ok()?)).filter(|(_, port)| !port.is_empty());
    if let Some(port) = named.and_then(|(_, port)| HeaderValue::from_str(port).ok()) {
        return port;
    }
    let is_secure = headers.get(&X_FORWARDED_PROTO).is_some_and(|proto| proto == "https" || proto == "wss");
    HeaderValue::from_static(if is_secure || peer.is_tls { "443" } else { "80" })
}

/// Makes one line of several.
fn join_values(headers: &mut HeaderMap, name: &HeaderName) {
    let Entry::Occupied(mut entry) = headers.entry(name) else { return };
    if entry.iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::with_capacity(64);
    for (place, value) in entry.iter().enumerate() {
        if place > 0 {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        entry.insert(joined);
    }
}

/// Removes what `Connection` names, but for managed and kept headers, and leaves in it what [`send`] has still to know.
fn obey_connection(headers: &mut HeaderMap, rules: &ForwardedRules) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let upgrade = wanted_upgrade(headers);
    let mut kept = String::new();
    for name in take_named(headers) {
        if is_managed(name.as_str()) || is_of_message(&name) {
            continue;
        }
        if rules.kept.contains(&name) {
            kept = if kept.is_empty() { name.to_string() } else { format!("{kept},{name}") };
        } else {
            headers.remove(name);
        }
    }
    if let Some(upgrade) = upgrade {
        kept = if kept.is_empty() { "Upgrade".to_owned() } else { format!("{kept},Upgrade") };
        headers.insert(UPGRADE, upgrade);
    }
    if let Ok(kept) = HeaderValue::from_str(&kept)
        && !kept.is_empty()
    {
        headers.insert(CONNECTION, kept);
    }
}

/// Takes `Connection` out and gives the headers it names.
fn take_named(headers: &mut HeaderMap) -> Vec<HeaderName> {
    let Entry::Occupied(entry) = headers.entry(CONNECTION) else { return Vec::new() };
    let (_, values) = entry.remove_entry_mult();
    let mut names = Vec::new();
    for value in values {
        names.extend(tokens(&value).filter_map(|token| HeaderName::from_bytes(token).ok()));
    }
    names
}

/// Whether this header is not the sender's to take away: framing, and the host by which we routed.
fn is_of_message(name: &HeaderName) -> bool {
    [TRANSFER_ENCODING, CONTENT_LENGTH, HOST].contains(name)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in take_named(headers) {
        if !is_of_message(&name) {
            headers.remove(name);
        }
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &PROXY_AUTHENTICATE, &PROXY_AUTHORIZATION, &TE, &TRAILER, &UPGRADE] {
        headers.remove(name);
    }
}

/// The protocol to which this request wants to switch. `h2c` is no reason to leave HTTP/1.1 on our way to a server.
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE).filter(|value| !value.is_empty())?;
    let is_asked = headers.get_all(CONNECTION).iter().any(|value| has_token(value, "upgrade"));
    let is_h2c = headers.get_all(UPGRADE).iter().any(|value| has_token(value, "h2c"));
    (is_asked && !is_h2c).then(|| upgrade.clone())
}

/// Whether this is a WebSocket's handshake.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let says = |name: HeaderName, token: &str| headers.get(name).is_some_and(|value| has_token(value, token));
    says(UPGRADE, "websocket") && says(CONNECTION, "upgrade")
}

fn has_token(value: &HeaderValue, wanted: &str) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header lines, `Host` among them.
    fn parse(lines: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines.split(" | ").filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.trim().parse().unwrap());
        }
        headers
    }

    fn print(headers: &HeaderMap) -> String {
        let mut lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines.join(" | ")
    }

    fn run(trust: &Trust, is_tls: bool, lines: &str) -> String {
        let mut headers = parse(lines);
        let host = headers.remove("host");
        let (peer, rules) = (Peer::new([127, 0, 0, 1].into(), is_tls, trust), ForwardedRules::new(trust, "vm"));
        receive(&mut headers, host.as_ref(), &peer, &rules);
        send(&mut headers, &peer, &rules, false);
        print(&headers)
    }

    /// What a server gets of these lines; the headers it gets in any case are left out of `expected`.
    #[track_caller]
    fn check(trust: &Trust, lines: &str, expected: &str) {
        const ALWAYS: &str = "x-forwarded-for: 127.0.0.1 | x-forwarded-host: w.test:81 | x-forwarded-port: 81 | x-forwarded-proto: http | x-forwarded-server: vm | x-real-ip: 127.0.0.1";
        let mut wanted = parse(ALWAYS);
        let expected = parse(expected);
        for name in expected.keys() {
            wanted.remove(name);
        }
        for (name, value) in &expected {
            wanted.append(name, value.clone());
        }
        assert_eq!(run(trust, false, &format!("host: w.test:81 | {lines}")), print(&wanted), "{lines}");
    }

    #[test]
    fn connection_takes_away_neither_the_host_that_was_routed_nor_the_framing() {
        let trust = Trust::default();
        let mut headers = parse("host: w.test | content-length: 5 | x-hop: 1 | connection: host, content-length, x-hop");
        let (peer, rules) = (Peer::new([127, 0, 0, 1].into(), false, &trust), ForwardedRules::new(&trust, "vm"));
        receive(&mut headers, Some(&HeaderValue::from_static("w.test")), &peer, &rules);
        send(&mut headers, &peer, &rules, false);
        assert!(headers.contains_key(HOST) && headers.contains_key(CONTENT_LENGTH) && !headers.contains_key("x-hop"));
    }

    fn stranger() -> Trust {
        Trust::default()
    }

    fn friend() -> Trust {
        Trust { insecure: true, ..Trust::default() }
    }

    const SPOOFED: &str = "X-Forwarded-For: 1.1.1.1 | X-Forwarded-For: 2.2.2.2 | X_Forwarded_For: 9 | X-Forwarded_Proto: https | X-Real-Ip: 3.3.3.3 | X-Forwarded-Uri: c | X-Forwarded-Prefix: /p | X-Forwarded-Tls-Client-Cert: d | x_forwarded_tls_client_cert_info: e | X-Forwarded-Host: h | X-Forwarded-Port: 9 | X-Forwarded-Server: z | X-Forwarded-Method: m | Forwarded: for=1 | X-Forwarded-Ssl: on | X-Foo_Bar: 1 | Via: x";

    /// As seen on a Traefik 3.7.15, as all that follows unless said otherwise.
    #[test]
    fn believes_nothing_from_a_stranger() {
        check(&stranger(), SPOOFED, "forwarded: for=1 | via: x | x-foo_bar: 1 | x-forwarded-ssl: on");
        check(&stranger(), "X-Forwarded-Proto: https", "");
        check(&stranger(), "X-Real-Ip: | X-Forwarded-For: | X-Forwarded-Proto:", "");
        assert!(run(&stranger(), false, "host: w.test | X-Forwarded-Proto: https").contains("x-forwarded-port: 80"));
    }

    /// A Traefik 3.7.15 still lets these two through; later ones do not.
    #[test]
    fn believes_no_scheme_from_a_stranger() {
        check(&stranger(), "X-Scheme: https | X-Forwarded-Scheme: https | X_Scheme: https", "");
    }

    #[test]
    fn keeps_what_a_trusted_peer_says() {
        check(
            &friend(),
            SPOOFED,
            "forwarded: for=1 | via: x | x-foo_bar: 1 | x-forwarded-ssl: on | x-forwarded-for: 1.1.1.1, 2.2.2.2, 127.0.0.1 | x_forwarded_for: 9 | x-forwarded_proto: https | x-real-ip: 3.3.3.3 | x-forwarded-uri: c | x-forwarded-prefix: /p | x-forwarded-tls-client-cert: d | x_forwarded_tls_client_cert_info: e | x-forwarded-host: h | x-forwarded-port: 9 | x-forwarded-method: m",
        );
        check(&friend(), "X-Forwarded-Proto: https", "x-forwarded-proto: https");
        check(&friend(), "X-Real-Ip: | X-Forwarded-For: | X-Forwarded-Proto:", "x-forwarded-for: , 127.0.0.1");
    }

    #[test]
    fn names_the_port_that_was_asked_for() {
        for (lines, is_tls, expected) in [
            ("host: a:8443", false, "8443"),
            ("host: a", false, "80"),
            ("host: a", true, "443"),
            ("host: a:", false, "80"),
            ("host: [::1]:99", false, "99"),
            ("host: ::1", false, "80"),
            ("host: [::1]x:9", false, "80"),
            ("host: ex.com:0x50", false, "0x50"),
            ("host: a | x-forwarded-proto: https", false, "443"),
            ("host: a | x-forwarded-proto: WSS", false, "80"),
        ] {
            let headers = run(&friend(), is_tls, lines);
            assert!(headers.contains(&format!("x-forwarded-port: {expected} |")), "{lines}: {headers}");
        }
        let headers = run(&stranger(), false, "");
        assert!(!headers.contains("x-forwarded-host") && headers.contains("x-forwarded-port: 80"), "{headers}");
    }

    #[test]
    fn ends_what_is_only_for_this_hop() {
        let named = "Connection: close, X-Foo, X-Forwarded-For, x_forwarded_host, TE | X-Foo: 1 | X-Forwarded-For: 8.8.8.8 | X_Forwarded_Host: q | Keep-Alive: 1 | Proxy-Connection: a | Proxy-Authorization: b | Proxy-Authenticate: c | Proxy-Foo: d | TE: trailers, deflate | Trailer: X-T";
        check(&stranger(), named, "proxy-foo: d");
        check(&friend(), named, "proxy-foo: d | x-forwarded-for: 8.8.8.8, 127.0.0.1 | x_forwarded_host: q");
        check(&stranger(), "TE: trailers | Connection: TE", "");
        check(&stranger(), "TE: trailers", "te: trailers");
        check(&stranger(), "TE: deflate, trailers", "te: trailers");
        check(&stranger(), "TE: deflate", "");
        check(&stranger(), "TE: gzip, trailers;q=0.5", "");
    }

    #[test]
    fn hands_upgrades_on() {
        let socket = "Connection: Upgrade | Upgrade: websocket | Sec-WebSocket-Key: x";
        check(&stranger(), socket, "connection: Upgrade | upgrade: websocket | sec-websocket-key: x | x-forwarded-proto: ws");
        check(
            &stranger(),
            "Connection: keep-alive, upgrade | Upgrade: WebSocket, foo",
            "connection: Upgrade | upgrade: WebSocket, foo | x-forwarded-proto: ws",
        );
        check(&stranger(), "Connection: Upgrade | Upgrade: foo/1", "connection: Upgrade | upgrade: foo/1");
        check(&stranger(), "Connection: Upgrade | Upgrade: a | Upgrade: b", "connection: Upgrade | upgrade: a");
        check(
            &stranger(),
            "Connection: Upgrade, HTTP2-Settings | Upgrade: foo | HTTP2-Settings: A",
            "connection: Upgrade | upgrade: foo",
        );
        check(
            &friend(),
            &format!("{socket} | X-Forwarded-Proto: https"),
            "connection: Upgrade | upgrade: websocket | sec-websocket-key: x | x-forwarded-proto: https",
        );
        assert!(run(&stranger(), true, &format!("host: a | {socket}")).contains("x-forwarded-proto: wss"));
        for none in [
            "Connection: Upgrade, HTTP2-Settings | Upgrade: h2c | HTTP2-Settings: AAA",
            "Connection: Upgrade | Upgrade: H2C",
            "Connection: Upgrade | Upgrade: h2c, foo",
            "Connection: Upgrade | Upgrade:",
            "Upgrade: websocket",
            "Connection: Upgrade",
        ] {
            check(&stranger(), none, "");
        }
    }

    #[test]
    fn middlewares_see_kept_headers_and_servers_do_not() {
        let trust = Trust { connection: vec!["x-keep".to_owned()], ..Trust::default() };
        let mut headers = parse("Connection: X-Keep, x-drop | X-Keep: 1 | x-drop: 2");
        let (peer, rules) = (Peer::new([127, 0, 0, 1].into(), false, &trust), ForwardedRules::new(&trust, ""));
        receive(&mut headers, None, &peer, &rules);
        assert!(headers.contains_key("x-keep") && !headers.contains_key("x-drop") && !headers.contains_key("x-forwarded-server"));
        check(&trust, "Connection: X-Keep, x-drop | X-Keep: 1 | x-drop: 2", "");
        check(&trust, "Connection: X-Keep, Upgrade | X-Keep: 1 | Upgrade: foo", "connection: Upgrade | upgrade: foo");
    }

    #[test]
    fn leaves_the_client_out_when_told_so() {
        let trust = Trust { not_append_forwarded_for: true, insecure: true, ..Trust::default() };
        check(&trust, "X-Forwarded-For: 5.5.5.5", "x-forwarded-for: 5.5.5.5");
        assert!(!run(&trust, false, "host: a").contains("x-forwarded-for"));
        let mut headers = parse("x-forwarded-for: 1.1.1.1");
        send(&mut headers, &Peer::new([127, 0, 0, 1].into(), false, &friend()), &ForwardedRules::new(&friend(), "vm"), true);
        assert_eq!(print(&headers), "");
    }

    #[test]
    fn an_address_mapped_into_ipv6_is_itself() {
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        let trust = Trust { ranges: vec!["10.0.0.0/8".parse().unwrap()], ..Trust::default() };
        let peer = Peer::new(mapped, false, &trust);
        assert!(peer.is_trusted);
        assert_eq!(peer.address, "10.0.0.1");
    }

    #[test]
    fn leaves_framing_alone() {
        check(&stranger(), "Transfer-Encoding: chunked", "transfer-encoding: chunked");
        let mut headers = parse(
            "connection: close, x-a, content-length | x-a: 1 | content-length: 3 | transfer-encoding: chunked | keep-alive: 1",
        );
        receive_answer(&mut headers, StatusCode::OK);
        assert_eq!(print(&headers), "content-length: 3 | transfer-encoding: chunked");
        let mut headers = parse("connection: Upgrade | upgrade: foo");
        receive_answer(&mut headers, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(print(&headers), "connection: Upgrade | upgrade: foo");
    }
}
