//! The promise of the product: instances come, go and die, the catalog is in trouble, and no visitor loses a request.

use std::sync::Arc;
use std::time::Duration;

use tidegate::demo::catalog::Fault;
use tidegate::demo::instance::{Behaviour, Instance};
use tokio::sync::Notify;

use crate::support::edge::{Edge, registration, until};
use crate::support::load::{Load, Seen, Via};
use crate::support::logged::Logged;
use crate::support::raw::nobody;
use crate::support::upstream::{Upstream, ok};

const GOOD: Behaviour = Behaviour::Good(Duration::from_millis(5));

async fn instance(version: &str) -> Instance {
    Instance::start(version, GOOD).await.unwrap()
}

/// Visitors of every kind at once.
struct Visitors([Load; 3]);

impl Visitors {
    fn of(edge: &Edge) -> Self {
        Self([(Via::KeepAlive, 80), (Via::NewConnections, 40), (Via::H2, 80)].map(|(via, rate)| Load::start(edge, via, rate)))
    }

    fn seen(&self) -> Seen {
        self.0.iter().fold(Seen::default(), |all, load| all.and(&load.seen()))
    }

    /// Waits until `version` has answered `count` more visits.
    async fn have_met(&self, version: &str, count: u64) {
        let goal = self.seen().of(version) + count;
        until(&format!("{count} visits to {version}"), async || self.seen().of(version) >= goal).await;
    }

    async fn stop(self) -> Seen {
        let mut all = Seen::default();
        for load in self.0 {
            all = all.and(&load.stop().await);
        }
        all
    }
}

/// Kills an instance, and says how many requests it had.
fn kill(instance: Instance) -> u64 {
    let under_way = instance.in_flight();
    instance.kill();
    under_way as u64
}

/// Nothing was lost but at most so many POSTs that killed instances had: nobody may send those again.
#[track_caller]
fn nothing_lost(what: &str, seen: &Seen, posts: u64) {
    println!("{what}: {seen}; under way at the killed: {posts}");
    let gets: u64 = seen.lost.iter().filter(|(kind, _)| !kind.starts_with("POST")).map(|(_, count)| count).sum();
    assert!(gets == 0 && seen.lost() <= posts, "{seen}");
    assert_eq!(seen.sent, seen.served + seen.lost());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_loses_no_request() {
    let (v1, v2, v3) = (instance("v1").await, instance("v2").await, instance("v3").await);
    let edge = Edge::start().registered("v1", v1.address).certificate(&["site.test"]).run().await;
    let visitors = Visitors::of(&edge);
    visitors.have_met("v1", 100).await;

    // As cljdoc deploys: a canary by its tags, a while later the promotion, and the old one is gone in the same breath.
    edge.register("v2", &v2, &["canary=true"]);
    visitors.have_met("v2", 40).await;
    edge.register("v2", &v2, &[]);
    edge.catalog().deregister("v1");
    let mut under_way = kill(v1);
    visitors.have_met("v2", 150).await;

    // The hurried way: the next one is there, the last one is killed before anything is known of the new.
    edge.register("v3", &v3, &[]);
    edge.has_servers(2).await;
    edge.catalog().deregister("v2");
    under_way += kill(v2);
    visitors.have_met("v3", 150).await;

    nothing_lost("two deploys", &visitors.stop().await, under_way + 1);
    edge.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_killed_unannounced_costs_no_request() {
    let (a, b) = (instance("a").await, instance("b").await);
    let edge = Edge::start().registered("a", a.address).registered("b", b.address).certificate(&["site.test"]).run().await;
    let visitors = Visitors::of(&edge);
    visitors.have_met("a", 50).await;
    let under_way = kill(a);
    visitors.have_met("b", 300).await;
    nothing_lost("killed, still in the catalog", &visitors.stop().await, under_way + 1);
    edge.is_quiet().await;
    // Once it is known to be dead, visitors do not pay for finding out.
    let before = edge.metric("traefik_service_retries_total{service=\"site@consulcatalog\"}").await.unwrap();
    for _ in 0..20 {
        assert_eq!(edge.get("/page/1").await.status, 200);
    }
    assert_eq!(edge.metric("traefik_service_retries_total{service=\"site@consulcatalog\"}").await, Some(before));
}

#[tokio::test]
async fn an_instance_that_leaves_finishes_what_it_has_and_gets_nothing_new() {
    let release = Arc::new(Notify::new());
    let gate = Arc::clone(&release);
    let old = Upstream::start(move |asked| {
        let gate = Arc::clone(&gate);
        async move {
            if asked.line.ends_with("/slow") {
                gate.notified().await;
            }
            ok("old")
        }
    })
    .await;
    let new = Upstream::named("new").await;
    let edge = Edge::start().registered("old", old.address).run().await;
    // So that there is a pooled connection that must not be used again.
    assert_eq!(edge.get("/before").await.text(), "old");
    let mut slow = edge.connect().await;
    let (answer, ()) = tokio::join!(slow.ask("GET /slow HTTP/1.1\r\nHost: site.test\r\n\r\n"), async {
        edge.until("the slow request has arrived", async || old.users().len() == 2).await;
        edge.register_at("new", new.address, &[]);
        edge.has_servers(2).await;
        edge.catalog().deregister("old");
        edge.has_servers(1).await;
        for _ in 0..30 {
            assert_eq!(edge.get("/after").await.text(), "new");
        }
        release.notify_one();
    });
    assert_eq!(answer.unwrap().text(), "old");
    assert_eq!(old.users().len(), 2, "{:?}", old.users());
    edge.is_quiet().await;
}

#[tokio::test]
async fn the_last_instance_of_a_service_that_leaves_gets_nothing_new_either() {
    let only = Upstream::named("only").await;
    // Another change just before: what routers are there is settled only later.
    let edge = Edge::start()
        .registered("only", only.address)
        .set(|install| install.providers.throttle = Duration::from_secs(3600))
        .run()
        .await;
    let generation = edge.running().shared().snapshots.current().generation;
    assert_eq!(edge.get("/").await.text(), "only");
    edge.catalog().deregister("only");
    edge.has_servers(0).await;
    assert_eq!(edge.get("/").await.status, 503);
    assert_eq!(only.users().len(), 1);
    assert_eq!(edge.running().shared().snapshots.current().generation, generation);
    edge.register_at("only", only.address, &[]);
    edge.has_servers(1).await;
    assert_eq!(edge.get("/").await.text(), "only", "it comes back without a rebuild");
}

#[tokio::test]
async fn what_is_known_of_a_server_survives_a_reload() {
    let good = Upstream::named("good").await;
    let dead = nobody();
    let site = |more: &str| {
        format!(
            "http:\n  routers: {{site: {{rule: \"PathPrefix(`/`)\", service: site}}{more}}}\n  services: {{site: {{loadBalancer: {{servers: [{{url: \"http://{dead}\"}}, {{url: \"http://{}\"}}]}}}}}}\n",
            good.address
        )
    };
    let edge = Edge::start().file(&site("")).set(|install| install.providers.throttle = Duration::ZERO).run().await;
    let retries = "traefik_service_retries_total{service=\"site@file\"}";
    for _ in 0..8 {
        assert_eq!(edge.get("/").await.text(), "good");
    }
    assert_eq!(edge.metric(retries).await, Some(2.0), "two refused connections and it is out");
    let servers = edge.servers();
    edge.write(&site(", other: {rule: \"Host(`other.test`)\", service: site}"));
    edge.until("the new router", async || edge.admin("/api/http/routers/other@file").await.status == 200).await;
    for _ in 0..8 {
        assert_eq!(edge.get("/").await.text(), "good");
    }
    assert_eq!(edge.metric(retries).await, Some(2.0));
    assert!(servers.iter().zip(edge.servers()).all(|(before, after)| Arc::ptr_eq(before, &after)));
}

#[tokio::test]
async fn a_catalog_that_was_lost_takes_no_instance_with_it() {
    let (logged, _guard) = Logged::begin();
    let site = Upstream::named("site").await;
    let edge = Edge::start().registered("site", site.address).run().await;
    assert_eq!(edge.get("/").await.text(), "site");
    edge.catalog().fault(Fault::Empty);
    // Any change makes the agent answer, and its answer is that there is nothing.
    edge.catalog().register(registration("other", "other", site.address, &[])).unwrap();
    edge.until("it is not believed", async || logged.text().contains("which is not believed")).await;
    assert_eq!(edge.get("/").await.text(), "site");
    edge.catalog().fault(Fault::None);
    edge.catalog().deregister("other");
    edge.until("it is back", async || logged.text().contains("are back")).await;
    assert_eq!(edge.get("/").await.text(), "site");
    // What is taken away by its owner is believed at once.
    edge.catalog().deregister("site");
    edge.has_servers(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_consul_is_in_trouble_the_last_good_set_serves() {
    let (a, b) = (instance("a").await, instance("b").await);
    let edge = Edge::start().registered("a", a.address).certificate(&["site.test"]).run().await;
    let visitors = Visitors::of(&edge);
    visitors.have_met("a", 20).await;
    for fault in [Fault::Error, Fault::Garbage, Fault::Cut, Fault::Hang] {
        edge.catalog().fault(fault);
        if fault != Fault::Hang {
            edge.until("it is noticed", async || edge.metric("tidegate_consul_up").await == Some(0.0)).await;
        }
        visitors.have_met("a", 60).await;
        edge.catalog().fault(Fault::None);
        edge.until("all is well", async || edge.metric("tidegate_consul_up").await == Some(1.0)).await;
    }
    // And afterwards it is listened to.
    edge.register("b", &b, &[]);
    edge.has_servers(2).await;
    edge.catalog().deregister("a");
    edge.has_servers(1).await;
    visitors.have_met("b", 20).await;
    nothing_lost("consul in trouble", &visitors.stop().await, 0);
}
