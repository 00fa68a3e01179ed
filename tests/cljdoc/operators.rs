//! What operators use: logs that are rotated, metrics that are scraped, ping, API, commands, signals.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::plain;
use crate::process::{Process, free_ports, program, until};
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN (make tools)"]
async fn rotated_logs_go_on_in_new_files() {
    let stage = Stage::set().await;
    let mut tidegate = stage.tidegate().await;
    stage.certificate().await;
    stage.browser.get("/before", &[]).await;
    stage.logged("/before").await;
    break_a_tag(&stage, "early").await;
    until("an error in the log", async || stage.read("traefik.log").contains("early").then_some(())).await;

    for name in ["access.log", "traefik.log"] {
        std::fs::rename(stage.path(name), stage.path(&format!("{name}.1"))).unwrap();
    }
    tidegate.signal(Signal::USR1);
    until("both logs to be there again", async || {
        ["access.log", "traefik.log"].iter().all(|name| stage.path(name).exists()).then_some(())
    })
    .await;

    stage.browser.get("/after", &[]).await;
    stage.logged("/after").await;
    break_a_tag(&stage, "late").await;
    until("an error in the new log", async || stage.read("traefik.log").contains("late").then_some(())).await;
    assert!(stage.read("access.log.1").contains("/before") && !stage.read("access.log.1").contains("/after"));
    assert!(stage.read("traefik.log.1").contains("early") && !stage.read("traefik.log.1").contains("late"));
    assert!(!stage.read("access.log").contains("/before") && !stage.read("traefik.log").contains("early"));
    assert!(tidegate.is_running());
}

/// An instance whose only router has a rule that nobody can read: one error in the log, and nothing else.
async fn break_a_tag(stage: &Stage, name: &str) {
    let rule = format!("traefik.http.routers.{name}.rule=Hots(`a.test`)");
    stage.register(&json!({ "Name": name, "ID": name, "Port": 1, "Tags": ["traefik.enable=true", rule] })).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN, PEBBLE_CHALLTESTSRV_BIN, PROMETHEUS_BIN and PROMTOOL_BIN (make tools)"]
async fn prometheus_scrapes_what_visitors_did() {
    let stage = Stage::set().await;
    let _tidegate = stage.tidegate().await;
    stage.certificate().await;
    for _ in 0..3 {
        stage.browser.get("/counted", &[]).await;
    }
    let (_, exposition) = stage.admin("/metrics").await.unwrap();
    let complaints = promtool(&exposition);
    assert!(complaints.status.success(), "{}{}", text(&complaints.stdout), text(&complaints.stderr));

    let [port] = free_ports().await;
    let config = format!(
        "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n- job_name: tidegate\n  static_configs:\n  \
         - targets: [\"127.0.0.1:{}\"]\n",
        stage.ports.admin
    );
    std::fs::write(stage.path("prometheus.yml"), config).unwrap();
    let _prometheus = Process::start(
        Command::new(program("PROMETHEUS_BIN", "prometheus/usr/bin/prometheus"))
            .arg(format!("--config.file={}", stage.path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", stage.path("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error"),
    );
    let query = "traefik_entrypoint_requests_total{entrypoint=\"websecure\",code=\"200\",method=\"GET\",protocol=\"http\"}";
    let count = until("a value in Prometheus", async || {
        let url = format!("http://127.0.0.1:{port}/api/v1/query");
        let answer = stage.http.post(&url).header("content-type", "application/x-www-form-urlencoded");
        let answer: Value = answer.body(format!("query={}", escaped(query))).send().await.ok()?.json().await.ok()?;
        answer.pointer("/data/result/0/value/1")?.as_str()?.parse::<u64>().ok()
    })
    .await;
    assert!(count >= 4, "three pages and the first look at the certificate: {count}");
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn promtool(exposition: &str) -> Output {
    let mut promtool = Command::new(program("PROMTOOL_BIN", "prometheus/usr/bin/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool.stdin.take().unwrap().write_all(exposition.as_bytes()).unwrap();
    promtool.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN (make tools)"]
async fn ping_api_and_commands_say_that_all_is_well() {
    let stage = Stage::set().await;
    let file = stage.path("traefik.yaml").display().to_string();
    let down = stage.command(env!("CARGO_BIN_EXE_tidegate"), &["healthcheck"]).output().unwrap();
    assert_eq!(down.status.code(), Some(1), "{}", text(&down.stdout));

    let mut tidegate = stage.tidegate().await;
    assert_eq!(stage.admin("/ping").await, Some((200, "OK".to_owned())));
    let healthy = stage.command(env!("CARGO_BIN_EXE_tidegate"), &["healthcheck"]).output().unwrap();
    let said = format!("OK: http://127.0.0.1:{}/ping\n", stage.ports.admin);
    assert_eq!((healthy.status.code(), text(&healthy.stdout)), (Some(0), said));
    let checked = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["check", &file]).output().unwrap();
    assert_eq!((checked.status.code(), text(&checked.stdout)), (Some(0), format!("{file}: no problems\n")));

    let version = stage.api("/api/version").await;
    assert_eq!(version["Version"], env!("CARGO_PKG_VERSION"), "{version}");
    let all = stage.api("/api/rawdata").await;
    for router in ["cljdoc-http", "cljdoc-https", "acme-challenge"] {
        assert_eq!(all["routers"][format!("{router}@consulcatalog")]["status"], "enabled", "{router} of {all}");
    }
    assert_eq!(all["tcpRouters"]["jmx-router@consulcatalog"]["status"], "enabled", "{all}");
    let server = format!("http://{}", stage.instance.address);
    assert_eq!(all["services"]["cljdoc@consulcatalog"]["serverStatus"][server], "UP", "{all}");

    stage.certificate().await;
    tidegate.signal(Signal::HUP);
    for _ in 0..20 {
        assert_eq!(stage.browser.get("/", &[]).await.status, 200);
    }
    assert!(tidegate.is_running());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN (make tools)"]
async fn until_the_catalog_has_spoken_ping_says_503_and_no_visitor_is_let_in() {
    let stage = Stage::set().await;
    let [nobody] = free_ports().await;
    let mut command = stage.command(env!("CARGO_BIN_EXE_tidegate"), &[]);
    let mut tidegate = Process::start(command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{nobody}")));
    let (status, _) = until("ping to answer", async || stage.admin("/ping").await).await;
    assert_eq!(status, 503);
    assert!(stage.browser.try_get("/", &[]).await.is_err());
    let metrics = stage.admin("/metrics").await.unwrap();
    assert_eq!(metrics.0, 200);
    // After `tidegate.start.timeout` (10 s) visitors are let in, and have the answer of a proxy without routes.
    until("visitors to be let in", async || {
        let connected = tokio::net::TcpStream::connect(("127.0.0.1", stage.ports.web)).await;
        connected.is_ok().then_some(())
    })
    .await;
    let (head, _) = plain(stage.ports.web, "GET", "/").await;
    assert_eq!(head[0], "HTTP/1.1 404 Not Found");
    assert_eq!(stage.admin("/ping").await.map(|(status, _)| status), Some(503));
    tidegate.signal(Signal::TERM);
    assert_eq!(tidegate.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN (make tools)"]
async fn a_proxy_that_was_there_before_its_catalog_serves_as_soon_as_it_speaks() {
    let stage = Stage::set().await;
    stage.agent.signal(Signal::STOP);
    let _tidegate = Process::start(&mut stage.command(env!("CARGO_BIN_EXE_tidegate"), &[]));
    let (status, _) = until("ping to answer", async || stage.admin("/ping").await).await;
    assert_eq!(status, 503);
    assert!(stage.browser.try_get("/", &[]).await.is_err());
    stage.agent.signal(Signal::CONT);
    stage.certificate().await;
    assert_eq!(stage.browser.get("/", &[]).await.status, 200);
    until("ping to say that all is well", async || stage.admin("/ping").await.filter(|(status, _)| *status == 200)).await;
    assert_eq!(stage.orders(), 1);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
