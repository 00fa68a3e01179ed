//! Ends and beginnings: a polite stop, a restart, and another proxy on the same files.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tidegate::demo::instance::Behaviour;

use crate::client::{greeting, plain};
use crate::process::{Process, until};
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN (make tools)"]
async fn a_stop_lets_the_running_request_finish_and_a_restart_keeps_the_certificate() {
    let stage = Stage::set().await;
    let mut tidegate = stage.tidegate().await;
    let serial = stage.certificate().await;

    stage.instance.behave(Behaviour::Good(Duration::from_secs(2)));
    let browser = stage.browser.clone();
    let running = tokio::spawn(async move { browser.get("/slow", &[]).await });
    until("a running request", async || (stage.instance.in_flight() == 1).then_some(())).await;
    tidegate.signal(Signal::TERM);
    until("new connections to be refused", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", stage.ports.websecure)).await.is_err().then_some(())
    })
    .await;
    assert!(!running.is_finished(), "the request was to outlast the listener");
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(tidegate.ended().await.code(), Some(0));
    stage.logged("/slow").await;

    stage.instance.behave(Behaviour::Good(Duration::ZERO));
    let _tidegate = stage.tidegate().await;
    assert_eq!(stage.browser.get("/", &[]).await.serial, serial);
    assert_eq!(stage.orders(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN, PEBBLE_CHALLTESTSRV_BIN and TRAEFIK_BIN (make tools)"]
async fn traefik_takes_over_on_the_same_files_and_gives_back() {
    let stage = Stage::set().await;
    let tidegate = stage.tidegate().await;
    let serial = stage.certificate().await;
    let ours = Seen::by_visitors(&stage).await;
    stop(tidegate).await;

    let traefik = stage.traefik().await;
    assert_eq!(stage.browser.get("/", &[]).await.serial, serial);
    let theirs = Seen::by_visitors(&stage).await;
    assert_eq!(ours, theirs);
    stop(traefik).await;

    let _tidegate = stage.tidegate().await;
    assert_eq!(stage.browser.get("/", &[]).await.serial, serial);
    assert_eq!(Seen::by_visitors(&stage).await, theirs);
    assert_eq!(stage.orders(), 1, "nobody needed a second certificate");
}

async fn stop(mut proxy: Process) {
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().await.code(), Some(0));
}

/// What must be the same whoever serves the site.
#[derive(Debug, PartialEq)]
struct Seen {
    page: (u16, String),
    packed: (Option<String>, Option<String>),
    redirects: Vec<(Vec<String>, String)>,
    greeting: (String, String),
    /// The fields of the access log for a page and for a redirect.
    fields: [BTreeSet<String>; 2],
    routers: BTreeSet<String>,
}

impl Seen {
    async fn by_visitors(stage: &Stage) -> Self {
        let page = stage.browser.get("/page", &[("user-agent", "test")]).await;
        let packed = stage.browser.get("/page", &[("accept-encoding", "gzip")]).await;
        let owned = |name| packed.header(name).map(str::to_owned);
        let mut redirects = Vec::new();
        for (method, target) in [("GET", "/a/b?c=d"), ("HEAD", "/"), ("POST", "/a//b/../c"), ("GET", "/%2e%2e/x")] {
            redirects.push(plain(stage.ports.web, method, target).await);
        }
        let raw = stage.api("/api/rawdata").await;
        let enabled = |kind: &str| {
            let all = raw[kind].as_object().into_iter().flatten();
            all.filter(|(_, router)| router["status"] == "enabled").map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let from_tags = |name: &String| name.ends_with("@consulcatalog");
        Self {
            page: (page.status, String::from_utf8(page.body.to_vec()).unwrap()),
            packed: (owned("content-encoding"), owned("vary")),
            redirects,
            greeting: greeting(stage.ports.jmx, "hello\n").await,
            fields: [fields(&stage.logged("/page").await), fields(&stage.logged("/a/b?c=d").await)],
            routers: [enabled("routers"), enabled("tcpRouters")].concat().into_iter().filter(from_tags).collect(),
        }
    }
}

fn fields(line: &Value) -> BTreeSet<String> {
    line.as_object().unwrap().keys().cloned().collect()
}
