//! What a user sees of a file of dynamic configuration: values in, definitions and sentences out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::decode::file;
use super::{MiddlewareKind, Provided, Scheme, ServiceKind, Strategy, TlsVersion};
use crate::config::node::{Children, Entry, Node};
use crate::config::problem::{At, has_error};

/// A file as its reader hands it over.
fn tree(value: &Value) -> Node {
    let mut node = Node { at: At { source: "f.yaml".into(), line: 1, column: 1 }, ..Node::default() };
    match value {
        Value::Null => {}
        Value::String(text) => node.scalar = Some(text.clone()),
        Value::Array(items) => node.children = Children::List(items.iter().map(tree).collect()),
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                let node = tree(value);
                Entry { key: key.clone(), key_at: node.at.clone(), node }
            };
            node.children = Children::Map(map.iter().map(entry).collect());
        }
        Value::Bool(_) | Value::Number(_) => node.scalar = Some(value.to_string()),
    }
    node
}

#[track_caller]
fn check(value: Value, problems: &[&str]) -> Provided {
    let provided = file(&tree(&value));
    let found: Vec<String> = provided.problems.iter().map(|problem| problem.to_string().replace("f.yaml:1:1: ", "")).collect();
    assert_eq!(found, problems);
    provided
}

#[track_caller]
fn check_middleware(value: Value, refused: Option<&str>) -> Option<MiddlewareKind> {
    let mut provided = file(&tree(&json!({ "http": { "middlewares": { "m": value } } })));
    let reasons: Vec<&str> = provided.definitions.refused.iter().map(|refused| refused.reason.as_str()).collect();
    assert_eq!(reasons.first().copied(), refused);
    assert_eq!(refused.is_some(), has_error(&provided.problems), "{:?}", provided.problems);
    provided.definitions.middlewares.remove("m").map(|middleware| middleware.kind)
}

#[test]
fn a_plain_file_is_read_whole() {
    let provided = check(
        json!({ "http": {
            "routers": { "r": { "rule": "Host(`a`)", "service": "s", "entryPoints": ["web"], "priority": 7, "tls": {} } },
            "services": { "s": { "loadBalancer": { "strategy": "p2c", "passHostHeader": false, "servers": [
                { "url": "http://10.0.0.1:8080", "weight": 3 }, { "url": "https://b/base", "preservePath": true },
            ] } } },
        } }),
        &[],
    );
    let router = &provided.definitions.routers["r"];
    assert_eq!((router.priority, router.entrypoints.as_slice()), (7, ["web".to_owned()].as_slice()));
    assert!(router.tls.is_some() && router.access_logs && router.metrics);
    let ServiceKind::LoadBalancer(balancer) = &provided.definitions.services["s"].kind else { panic!() };
    assert_eq!((balancer.strategy, balancer.pass_host_header), (Strategy::P2c, false));
    let urls: Vec<(String, u32)> =
        provided.endpoints.http["s"].iter().map(|endpoint| (endpoint.url(), endpoint.weight)).collect();
    assert_eq!(urls, [("http://10.0.0.1:8080".to_owned(), 3), ("https://b:443/base".to_owned(), 1)]);
}

#[test]
fn a_bad_object_costs_only_itself() {
    let provided = check(
        json!({ "http": {
            "routers": {
                "good": { "rule": "Path(`/`)", "service": "s" },
                "typo": { "rule": "Path(`/`)", "service": "s", "entrypoint": ["web"] },
                "number": { "rule": "Path(`/`)", "service": "s", "priority": "high" },
                "bare": { "rule": "Path(`/`)" },
                "ruleless": { "service": "s" },
                "eager": { "rule": "Path(`/`)", "service": "s", "priority": 9_223_372_036_854_775_000_i64 },
                "old": { "rule": "Host:a", "service": "s", "ruleSyntax": "v2" },
                "scalar": "web",
                "nothing": null,
            },
        } }),
        &[
            "unknown key `http.routers.typo.entrypoint` (did you mean `entryPoints`?)",
            "`http.routers.number.priority` is `high`, but wants a whole number",
            "router `bare` is disabled: it names no service",
            "router `ruleless` is disabled: it has no rule",
            "router `eager` is disabled: its priority 9223372036854775000 is above the highest allowed, 9223372036854774807",
            "router `old` is disabled: rules in the syntax `v2` are not supported, only `v3` is",
            "router `scalar` wants keys below it",
        ],
    );
    assert_eq!(provided.definitions.routers.keys().collect::<Vec<_>>(), ["good"]);
    let refused: Vec<&str> = provided.definitions.refused.iter().map(|refused| refused.name.as_str()).collect();
    assert_eq!(refused, ["typo", "number", "bare", "ruleless", "eager", "old", "scalar"]);
    assert_eq!(
        provided.definitions.refused[0].reason,
        "unknown key `http.routers.typo.entrypoint` (did you mean `entryPoints`?)"
    );
}

#[test]
fn sections_in_the_wrong_place_are_named() {
    check(
        json!({ "htpp": {}, "entryPoints": {}, "http": { "tls": { "options": {} }, "routers": {} } }),
        &[
            "`http.tls` stands too deep (`tls` belongs to the top level)",
            "unknown section `htpp` is ignored, as Traefik does (did you mean `http`?)",
            "unknown section `entryPoints` is ignored, as Traefik does (known here: http, tcp, udp, tls)",
        ],
    );
    check(json!({ "http": { "router": {} } }), &["unknown key `http.router` (did you mean `routers`?)"]);
    check(json!({ "http": "yes" }), &["`http` wants keys below it and cannot stand alone"]);
    check(json!({ "http": null }), &[]);
}

#[test]
fn a_service_of_another_kind_says_so() {
    let provided = check(
        json!({ "http": { "services": {
            "w": { "weighted": { "services": [{ "name": "a", "weight": 3 }, { "name": "b" }] } },
            "m": { "mirroring": { "service": "a", "mirors": [] } },
            "f": { "failover": { "service": "a", "fallback": "b" } },
            "e": {},
            "two": { "weighted": { "services": [{ "name": "a" }] }, "loadBalancer": { "servers": [] } },
            "s": { "loadBalancer": { "strategy": "random" } },
        } } }),
        &[
            "unknown key `http.services.m.mirroring.mirors` (did you mean `mirrors`?)",
            "service `f` is disabled: `failover` is not supported yet",
            "service `e` is disabled: it is of no kind, a `loadBalancer` for example",
            "service `two` is disabled: it is of several kinds at once",
            "service `s` is disabled: its strategy is `random`, but `wrr` or `p2c` is wanted",
        ],
    );
    let weighted = ServiceKind::Weighted(vec![("a".to_owned(), 3), ("b".to_owned(), 1)]);
    assert_eq!(provided.definitions.services["w"].kind, weighted);
}

#[test]
fn a_bad_server_leaves_the_others() {
    let servers = json!([{ "url": "10.0.0.1:80" }, { "url": "http://b:1" }, { "weight": 2 }]);
    let provided = check(
        json!({ "http": { "services": { "s": { "loadBalancer": { "servers": servers } } } } }),
        &[
            "`http.services.s.loadBalancer.servers[0].url`: `10.0.0.1:80` is no URL such as `http://10.0.0.1:8080`; the server is left out",
            "`http.services.s.loadBalancer.servers[2].url` is missing, the server is left out",
        ],
    );
    assert_eq!(provided.endpoints.http["s"].len(), 1);
    check(
        json!({ "http": { "services": { "s": { "loadBalancer": { "servers": "http://a" } } } } }),
        &["`http.services.s.loadBalancer.servers` wants a list (write `- …` lines)"],
    );
}

#[test]
fn a_health_check_has_traefiks_defaults() {
    let health = json!({ "path": "/ok", "interval": "0s", "headers": { "X-A": "1" } });
    let provided = check(json!({ "http": { "services": { "s": { "loadBalancer": { "healthCheck": health } } } } }), &[]);
    insta::assert_debug_snapshot!(provided.definitions.services["s"].kind, @r#"
    LoadBalancer(
        LoadBalancer {
            strategy: Wrr,
            pass_host_header: true,
            servers_transport: None,
            health_check: Some(
                HealthCheck {
                    path: "/ok",
                    scheme: None,
                    method: "GET",
                    status: None,
                    port: None,
                    interval: 30s,
                    unhealthy_interval: None,
                    timeout: 5s,
                    hostname: None,
                    follow_redirects: true,
                    headers: {
                        "X-A": "1",
                    },
                },
            ),
            rollout: {},
        },
    )
    "#);
}

#[test]
fn what_is_less_fine_is_ignored_by_name() {
    check(
        json!({ "http": { "services": { "s": { "loadBalancer": {
            "sticky": { "cookie": { "name": "a", "secur": true } },
            "strategy": "hrw",
            "responseForwarding": { "flushInterval": "1ms" },
        } } } } }),
        &[
            "strategy `hrw` is not supported yet, `wrr` takes its place",
            "unknown key `http.services.s.loadBalancer.sticky.cookie.secur` (did you mean `secure`?)",
            "`sticky` is not supported yet, clients are not kept on their server",
        ],
    );
}

#[test]
fn compress_has_traefiks_defaults_and_limits() {
    let all = MiddlewareKind::Compress {
        encodings: vec!["gzip".to_owned(), "br".to_owned(), "zstd".to_owned()],
        body_bytes_min: 1024,
        excluded: vec![],
        included: vec![],
        default_encoding: None,
    };
    assert_eq!(check_middleware(json!({ "compress": {} }), None), Some(all.clone()));
    assert_eq!(check_middleware(json!({ "compress": true }), None), Some(all));
    check_middleware(json!({ "compress": false }), Some("it is of no kind"));
    check_middleware(
        json!({ "compress": { "excludedContentTypes": ["a/b"], "includedContentTypes": ["c/d"] } }),
        Some("`compress` has both `excludedContentTypes` and `includedContentTypes`"),
    );
    check_middleware(
        json!({ "compress": { "encodings": ["lzma"] } }),
        Some("`compress.encodings` has `lzma`, but wants gzip, br, zstd"),
    );
}

#[test]
fn a_middleware_that_cannot_work_is_refused() {
    check_middleware(json!({ "redirectScheme": { "permanent": true } }), Some("`redirectScheme` has no scheme"));
    check_middleware(
        json!({ "redirectScheme": true }),
        Some("`http.middlewares.m.redirectScheme` wants keys below it and cannot stand alone"),
    );
    check_middleware(json!({ "redirectRegex": { "replacement": "a" } }), Some("`redirectRegex` has no regex"));
    check_middleware(
        json!({ "redirectRegex": { "regex": "a(", "replacement": "a" } }),
        Some("`redirectRegex.regex` cannot be read: unclosed group"),
    );
    check_middleware(json!({ "basicAuth": { "realm": "a" } }), Some("`basicAuth` has no users"));
    check_middleware(json!({ "basicAuth": { "users": ["a"] } }), Some("user 1 of `basicAuth` is not `name:hash`"));
    check_middleware(json!({ "addPrefix": { "prefix": "" } }), Some("`addPrefix` has no prefix"));
    check_middleware(json!({ "rateLimit": { "average": 1 } }), Some("`rateLimit` is not supported yet"));
    check_middleware(
        json!({ "rateLimit": { "averge": 1 } }),
        Some("unknown key `http.middlewares.m.rateLimit.averge` (did you mean `average`?)"),
    );
    check_middleware(
        json!({ "redirectSheme": { "scheme": "a" } }),
        Some("unknown key `http.middlewares.m.redirectSheme` (did you mean `redirectScheme`?)"),
    );
    check_middleware(
        json!({ "chain": { "middlewares": [] }, "addPrefix": { "prefix": "/a" } }),
        Some("it is of several kinds at once, which wants several middlewares and a `chain`"),
    );
}

#[test]
fn a_header_that_protects_somebody_is_not_left_out_silently() {
    let custom = check_middleware(
        json!({ "headers": { "customResponseHeaders": { "X-A": "1", "Server": "" }, "frameDeny": false, "stsSeconds": 0 } }),
        None,
    );
    let response = BTreeMap::from([("X-A".to_owned(), "1".to_owned()), ("Server".to_owned(), String::new())]);
    assert_eq!(custom, Some(MiddlewareKind::Headers { request: BTreeMap::new(), response }));
    let reason = "`http.middlewares.m.headers.frameDeny` is not supported yet";
    check_middleware(json!({ "headers": { "frameDeny": true } }), Some(reason));
}

#[test]
fn doubled_dollars_get_a_word() {
    check(
        json!({ "http": { "middlewares": { "a": { "basicAuth": { "users": ["u:$$apr1$$x"] } } } } }),
        &["the hash of user `u` starts with `$$`, so that no password fits it (compose files double `$`, tags and files do not)"],
    );
}

#[test]
fn tcp_and_udp_are_read_as_far_as_they_go() {
    let provided = check(
        json!({
            "tcp": {
                "routers": { "r": { "rule": "HostSNI(`*`)", "service": "s", "tls": { "passthrough": true } } },
                "services": {
                    "s": { "loadBalancer": { "servers": [{ "address": "a:1", "tls": true }, { "address": "a" }] } },
                    "p": { "loadBalancer": { "proxyProtocol": { "version": 2 } } },
                },
                "middlewares": { "m": { "ipAllowList": { "sourceRange": ["10.0.0.0/8"] } } },
            },
            "udp": { "routers": { "u": { "servise": "s" } } },
        }),
        &[
            "`tcp.services.s.loadBalancer.servers[1].address`: `a` is no address such as `10.0.0.1:5432`; the server is left out",
            "TCP service `p` is disabled: `tcp.services.p.loadBalancer.proxyProtocol` is not supported yet",
            "TCP middleware `m` is disabled: `ipAllowList` of TCP is not supported yet",
            "unknown key `udp.routers.u.servise` (did you mean `service`?)",
            "UDP router `u` is not supported yet and is ignored",
        ],
    );
    assert!(provided.definitions.tcp_routers["r"].tls.as_ref().is_some_and(|tls| tls.passthrough));
    assert_eq!(provided.endpoints.tcp["s"][0].scheme, Scheme::Tls);
}

#[test]
fn tls_material_is_read() {
    let provided = check(
        json!({ "tls": {
            "certificates": [{ "certFile": "a.crt", "keyFile": "a.key", "stores": ["x"] }, { "certFile": "b.crt" }],
            "options": {
                "default": { "minVersion": "VersionTLS13", "sniStrict": true, "alpnProtocols": ["h2"] },
                "old": { "minVersion": "VersionTLS10" },
                "wrong": { "minVersion": "1.2" },
                "mutual": { "clientAuth": { "clientAuthType": "RequireAnyClientCert" } },
            },
            "stores": { "default": { "defaultCertificate": { "certFile": "d.crt", "keyFile": "d.key" } }, "other": {} },
        } }),
        &[
            "`tls.certificates[1].keyFile` is missing, the certificate is left out",
            "`tls.options.old.minVersion` is below TLS 1.2, the oldest that is spoken",
            "set of TLS options `wrong` is disabled: its `minVersion` is `1.2`, but wants `VersionTLS12` or `VersionTLS13`",
            "set of TLS options `mutual` is disabled: `tls.options.mutual.clientAuth` is not supported yet",
            "TLS store `other` is ignored, as in Traefik: only `default` is used",
        ],
    );
    let tls = &provided.definitions.tls;
    assert_eq!(tls.options.keys().collect::<Vec<_>>(), ["default", "old"]);
    assert_eq!(tls.options["default"].version_min, Some(TlsVersion::Tls13));
    assert!(tls.options["default"].sni_strict);
    assert_eq!((tls.certificates.len(), tls.default_certificate.is_some()), (1, true));
}

#[test]
fn a_servers_transport_that_protects_what_we_cannot_is_left_out() {
    let provided = check(
        json!({ "http": { "serversTransports": {
            "t": { "insecureSkipVerify": true, "forwardingTimeouts": { "dialTimeout": "1s", "pingTimeout": "2s" } },
            "u": { "peerCertURI": "spiffe://a" },
        } } }),
        &[
            "`http.serversTransports.t.forwardingTimeouts.pingTimeout` is not supported yet and is ignored",
            "servers transport `u` is disabled: `http.serversTransports.u.peerCertURI` is not supported yet",
        ],
    );
    let transport = &provided.definitions.servers_transports["t"];
    assert_eq!((transport.dial_timeout.as_secs(), transport.idle_timeout.as_secs()), (1, 90));
}
