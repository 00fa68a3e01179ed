//! The API as a client sees it. The expected texts are a Traefik 3.7.15's own answers to the same configuration, unless the
//! test says otherwise.

use std::time::Duration;

use super::*;
use crate::config::dynamic::{
    HealthCheck, LoadBalancer, Middleware, MiddlewareKind, Router, RouterTls, Service, ServiceKind, TcpRouter, TcpService,
};
use crate::config::install::{Api, Entrypoint, FileProvider, Providers, Redirection};
use crate::routing::report::Reported;

fn install() -> Install {
    let entrypoint = |address: &str| Entrypoint { address: address.to_owned(), ..Entrypoint::default() };
    let redirection =
        Redirection { to: "websecure".to_owned(), scheme: "https".to_owned(), permanent: true, priority: i64::MAX - 1 };
    let redir = Entrypoint { redirection: Some(redirection), ..entrypoint("127.0.0.1:21027") };
    Install {
        entrypoints: [("web".to_owned(), entrypoint("127.0.0.1:21021")), ("redir".to_owned(), redir)].into(),
        providers: Providers { file: Some(FileProvider::default()), ..Providers::default() },
        api: Some(Api { insecure: true, dashboard: true, base_path: "/".to_owned() }),
        ..Install::default()
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn router(rule: &str, service: &str, middlewares: &[&str], priority: i64, entrypoints: &[&str]) -> Router {
    Router {
        entrypoints: texts(entrypoints),
        rule: rule.to_owned(),
        service: service.to_owned(),
        middlewares: texts(middlewares),
        priority,
        access_logs: true,
        metrics: true,
        ..Router::default()
    }
}

/// What a user might have declared, with one thing that does not work.
fn report() -> Report {
    let name = |name: &str| Name::new(name, "file");
    let mut report = Report::default();
    let mut any = Reported::new(router("PathPrefix(`/any`)", "one", &["rs@file"], 1, &["redir", "web"]));
    any.link("web");
    any.link("redir");
    let mut bad = Reported::new(router("Host(`ba2.test`)", "one", &["ba2@file"], 16, &["web"]));
    bad.disable("error parsing BasicUser: a:b:c");
    bad.link("web");
    let mut secure = Reported::new(router("Host(`s.test`) && Path(`/`)", "one", &[], 27, &["web"]));
    if let Some(router) = &mut secure.definition {
        router.tls = Some(RouterTls { resolver: Some("le".to_owned()), ..RouterTls::default() });
    }
    report.routers = [(name("any"), any), (name("ba2"), bad), (name("secure"), secure)].into();
    let internal = router("PathPrefix(`/api`)", "api@internal", &[], i64::MAX - 1, &["traefik"]);
    report.routers.insert(Name::new("api", "internal"), Reported::new(internal));

    let at = crate::config::problem::At::default();
    let kind = MiddlewareKind::RedirectScheme { scheme: "https".to_owned(), port: None, permanent: true };
    let mut redirect = Reported::new(Middleware { kind, at: at.clone() });
    redirect.link("any@file");
    let users = texts(&["u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"]);
    let kind = MiddlewareKind::BasicAuth {
        users,
        users_file: None,
        realm: "traefik".to_owned(),
        header_field: None,
        remove_header: false,
    };
    report.middlewares = [
        (name("rs"), redirect),
        (name("ba"), Reported::new(Middleware { kind, at: at.clone() })),
        (name("later"), Reported::refused("rateLimit is not supported yet")),
    ]
    .into();

    let check = HealthCheck {
        path: "/h".to_owned(),
        scheme: None,
        method: "GET".to_owned(),
        status: None,
        port: None,
        interval: Duration::from_secs(1),
        unhealthy_interval: None,
        timeout: Duration::from_secs(1),
        hostname: None,
        follow_redirects: true,
        headers: BTreeMap::new(),
    };
    let kind = ServiceKind::LoadBalancer(LoadBalancer { health_check: Some(check), ..LoadBalancer::default() });
    let mut one = Reported::new(Service { kind, at: at.clone() });
    one.link("hc@file");
    report.services = [(name("hc"), one), (Name::new("api", "internal"), Reported::internal())].into();
    let mut t1 = Reported::new(TcpRouter {
        entrypoints: texts(&["tcp1"]),
        rule: "HostSNI(`*`)".to_owned(),
        service: "t".to_owned(),
        priority: -1,
        ..TcpRouter::default()
    });
    t1.link("tcp1");
    report.tcp_routers = [(name("t1"), t1)].into();
    let mut t = Reported::new(TcpService { at });
    t.link("t1@file");
    report.tcp_services = [(name("t"), t)].into();
    report
}

fn servers(kind: Kind, _: &Name) -> Vec<ServerView> {
    let server = |url: &str, is_up| ServerView { url: url.to_owned(), weight: 1, preserves_path: false, is_up };
    match kind {
        Kind::TcpService => vec![server("127.0.0.1:21010", true)],
        _ => vec![server("http://127.0.0.1:21010", true), server("http://127.0.0.1:21019", false)],
    }
}

fn ask(method: &Method, target: &str) -> Answer {
    let (install, report) = (install(), report());
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    let certificate = CertificateView {
        fingerprint: "ab12".to_owned(),
        common_name: "cljdoc.org".to_owned(),
        sans: texts(&["www.cljdoc.org", "cljdoc.org"]),
        issuer_organisation: "Let's Encrypt".to_owned(),
        issuer_name: "R10".to_owned(),
        serial: "5".to_owned(),
        not_before: now - Duration::from_secs(86_400),
        not_after: now + Duration::from_secs(86_400),
    };
    let rollout = json!({ "phase": "ramp", "share": 0.067, "evidence_concurrent": 1.5, "threshold": 4.6 });
    let view = AdminView {
        install: &install,
        report: &report,
        servers: &servers,
        certificates: &[certificate],
        rollouts: &[(Name::new("cljdoc", "consulcatalog"), rollout)].into(),
        started_at: now,
        now,
    };
    answer(AdminRequest { method, scheme: "http", host: "127.0.0.1:8080", target }, &view)
}

#[track_caller]
fn check(target: &str, expected: &str) {
    let answer = ask(&Method::GET, target);
    assert_eq!(String::from_utf8_lossy(&answer.body).trim_end(), expected);
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.headers[CONTENT_TYPE].to_str().unwrap().starts_with("application/json"));
}

#[test]
fn shows_routers() {
    check(
        "/api/http/routers/any@file",
        r#"{"entryPoints":["redir","web"],"middlewares":["rs@file"],"service":"one","rule":"PathPrefix(`/any`)","priority":1,"observability":{"accessLogs":true,"metrics":true,"tracing":true,"traceVerbosity":"minimal"},"status":"enabled","using":["redir","web"],"name":"any@file","provider":"file","priorityStr":"1"}"#,
    );
    check(
        "/api/http/routers/api%40internal",
        r#"{"entryPoints":["traefik"],"service":"api@internal","rule":"PathPrefix(`/api`)","ruleSyntax":"default","priority":9223372036854775806,"observability":{"accessLogs":true,"metrics":true,"tracing":true,"traceVerbosity":"minimal"},"status":"enabled","name":"api@internal","provider":"internal","priorityStr":"9223372036854775806"}"#,
    );
    check(
        "/api/http/routers/secure@file",
        r#"{"entryPoints":["web"],"service":"one","rule":"Host(`s.test`) \u0026\u0026 Path(`/`)","priority":27,"tls":{"options":"default","certResolver":"le"},"observability":{"accessLogs":true,"metrics":true,"tracing":true,"traceVerbosity":"minimal"},"status":"enabled","name":"secure@file","provider":"file","priorityStr":"27"}"#,
    );
    check(
        "/api/tcp/routers",
        r#"[{"entryPoints":["tcp1"],"service":"t","rule":"HostSNI(`*`)","priority":-1,"status":"enabled","using":["tcp1"],"name":"t1@file","provider":"file","priorityStr":"-1"}]"#,
    );
}

#[test]
fn shows_why_an_object_is_disabled() {
    check(
        "/api/http/routers/ba2@file",
        r#"{"entryPoints":["web"],"middlewares":["ba2@file"],"service":"one","rule":"Host(`ba2.test`)","priority":16,"observability":{"accessLogs":true,"metrics":true,"tracing":true,"traceVerbosity":"minimal"},"error":["error parsing BasicUser: a:b:c"],"status":"disabled","using":["web"],"name":"ba2@file","provider":"file","priorityStr":"16"}"#,
    );
    // Ours: Traefik has no middlewares that it knows and cannot run.
    check(
        "/api/http/middlewares/later@file",
        r#"{"error":["rateLimit is not supported yet"],"status":"disabled","name":"later@file","provider":"file"}"#,
    );
}

#[test]
fn shows_services_with_their_servers() {
    check(
        "/api/http/services/hc@file",
        r#"{"loadBalancer":{"servers":[{"url":"http://127.0.0.1:21010"},{"url":"http://127.0.0.1:21019"}],"strategy":"wrr","healthCheck":{"mode":"http","path":"/h","interval":"1s","timeout":"1s","followRedirects":true},"passHostHeader":true,"responseForwarding":{"flushInterval":"100ms"}},"status":"enabled","usedBy":["hc@file"],"name":"hc@file","provider":"file","type":"loadbalancer","serverStatus":{"http://127.0.0.1:21010":"UP","http://127.0.0.1:21019":"DOWN"}}"#,
    );
    check(
        "/api/tcp/services",
        r#"[{"loadBalancer":{"servers":[{"address":"127.0.0.1:21010"}]},"status":"enabled","usedBy":["t1@file"],"name":"t@file","provider":"file","type":"loadbalancer","serverStatus":{"127.0.0.1:21010":"UP"}}]"#,
    );
    check("/api/http/services/api@internal", r#"{"status":"enabled","name":"api@internal","provider":"internal"}"#);
}

#[test]
fn shows_middlewares() {
    check(
        "/api/http/middlewares/rs@file",
        r#"{"redirectScheme":{"scheme":"https","permanent":true},"status":"enabled","usedBy":["any@file"],"name":"rs@file","provider":"file","type":"redirectscheme"}"#,
    );
    // Ours: Traefik shows the hash.
    check(
        "/api/http/middlewares/ba@file",
        r#"{"basicAuth":{"users":["u:REDACTED"]},"status":"enabled","name":"ba@file","provider":"file","type":"basicauth"}"#,
    );
}

#[test]
fn shows_entrypoints() {
    const WEB: &str = r#"{"address":"127.0.0.1:21021","transport":{"lifeCycle":{"graceTimeOut":"10s"},"respondingTimeouts":{"readTimeout":"1m0s","idleTimeout":"3m0s"}},"forwardedHeaders":{},"http":{"sanitizePath":true,"maxHeaderBytes":1048576},"http2":{"maxConcurrentStreams":250,"maxDecoderHeaderTableSize":4096,"maxEncoderHeaderTableSize":4096},"udp":{"timeout":"3s"},"name":"web"}"#;
    const REDIR: &str = r#"{"address":"127.0.0.1:21027","transport":{"lifeCycle":{"graceTimeOut":"10s"},"respondingTimeouts":{"readTimeout":"1m0s","idleTimeout":"3m0s"}},"forwardedHeaders":{},"http":{"redirections":{"entryPoint":{"to":"websecure","scheme":"https","permanent":true,"priority":9223372036854775806}},"sanitizePath":true,"maxHeaderBytes":1048576},"http2":{"maxConcurrentStreams":250,"maxDecoderHeaderTableSize":4096,"maxEncoderHeaderTableSize":4096},"udp":{"timeout":"3s"},"name":"redir"}"#;
    check("/api/entrypoints/web", WEB);
    check("/api/entrypoints", &format!("[{REDIR},{WEB}]"));
}

#[test]
fn shows_everything_at_once() {
    let counts = r#"{"http":{"routers":{"total":4,"warnings":0,"errors":1},"services":{"total":2,"warnings":0,"errors":0},"middlewares":{"total":3,"warnings":0,"errors":1}},"tcp":{"routers":{"total":1,"warnings":0,"errors":0},"services":{"total":1,"warnings":0,"errors":0},"middlewares":{"total":0,"warnings":0,"errors":0}},"udp":{"routers":{"total":0,"warnings":0,"errors":0},"services":{"total":0,"warnings":0,"errors":0}},"certificates":{"total":1,"warnings":1,"errors":0},"features":{"tracing":"","metrics":"","accessLog":false},"providers":["File"]}"#;
    check("/api/overview", counts);
    let answer = ask(&Method::GET, "/api/rawdata");
    let data: Value = serde_json::from_slice(&answer.body).unwrap();
    let keys: Vec<&String> = data.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["routers", "middlewares", "services", "tcpRouters", "tcpServices"]);
    let router =
        r#"{"entryPoints":["tcp1"],"service":"t","rule":"HostSNI(`*`)","priority":-1,"status":"enabled","using":["tcp1"]}"#;
    assert_eq!(data["tcpRouters"]["t1@file"].to_string(), router);
    assert_eq!(data["services"]["hc@file"]["serverStatus"]["http://127.0.0.1:21019"], "DOWN");
    assert_eq!(data["services"]["hc@file"].get("type"), None);
}

#[test]
fn shows_version_certificates_and_rollouts() {
    let version = env!("CARGO_PKG_VERSION");
    check("/api/version", &format!(r#"{{"Version":"{version}","Codename":"tidegate","startDate":"2026-11-18T11:06:40Z"}}"#));
    check(
        "/api/certificates/ab12",
        r#"{"name":"ab12","sans":["cljdoc.org","www.cljdoc.org"],"notAfter":"2026-11-19T11:06:40Z","notBefore":"2026-11-17T11:06:40Z","serialNumber":"5","commonName":"cljdoc.org","issuerOrg":"Let's Encrypt","issuerCN":"R10","certFingerprint":"ab12","status":"warning"}"#,
    );
    check(
        "/api/tidegate/rollouts",
        r#"[{"name":"cljdoc@consulcatalog","phase":"ramp","share":0.067,"evidence_concurrent":1.5,"threshold":4.6}]"#,
    );
    check("/api/udp/routers", "[]");
    check("/api/tcp/middlewares", "[]");
}

#[track_caller]
fn check_error(target: &str, status: u16, body: &str) {
    let answer = ask(&Method::GET, target);
    assert_eq!((answer.status.as_u16(), &*answer.body), (status, format!("{body}\n").as_bytes()), "{target}");
    assert_eq!(answer.headers[CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
}

#[test]
fn says_what_it_does_not_have() {
    check_error("/api/http/routers/nope@file", 404, r#"{"message":"router not found: nope@file"}"#);
    check_error("/api/http/services/nope", 404, r#"{"message":"service not found: nope"}"#);
    check_error("/api/http/middlewares/x", 404, r#"{"message":"middleware not found: x"}"#);
    check_error("/api/tcp/routers/x", 404, r#"{"message":"router not found: x"}"#);
    check_error("/api/udp/services/x", 404, r#"{"message":"service not found: x"}"#);
    check_error("/api/entrypoints/nope", 404, r#"{"message":"entry point not found: nope"}"#);
    check_error("/api/certificates/x", 404, r#"{"message":"certificate not found: x"}"#);
    check_error("/api/http/routers?page=99", 400, r#"{"message":"invalid request: page: 99, per_page: 100"}"#);
    for path in ["/api/nope", "/api", "/api/", "/api/http/routers/", "/api/rawdata/", "/foo", "/apix", "/dashboardx"] {
        check_error(path, 404, "404 page not found");
    }
}

#[test]
fn takes_get_only() {
    for method in [Method::POST, Method::HEAD, Method::OPTIONS] {
        let answer = ask(&method, "/api/version");
        assert_eq!((answer.status.as_u16(), answer.body.len()), (405, 0), "{method}");
    }
}

#[test]
fn leads_to_the_dashboard() {
    for (method, status, body) in [(Method::GET, 301, "Moved Permanently"), (Method::POST, 308, "Permanent Redirect")] {
        let answer = ask(&method, "/");
        assert_eq!((answer.status.as_u16(), &*answer.body), (status, body.as_bytes()));
        assert_eq!(answer.headers[LOCATION], "http://127.0.0.1:8080/dashboard/");
    }
    let answer = ask(&Method::GET, "/dashboard/");
    let page = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.headers[CONTENT_TYPE], "text/html; charset=utf-8");
    for part in [
        "<code>Host(`s.test`) &amp;&amp; Path(`/`)</code>",
        "<br>error parsing BasicUser: a:b:c",
        "<td>0.067</td>",
        "21019 <span class=\"DOWN\">DOWN</span>",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
}
