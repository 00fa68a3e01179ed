//! A canary is weighed by its health: it starts with little, a bad one is left within seconds, and few visitors notice.

use std::time::Duration;

use serde_json::Value;
use tidegate::clock;
use tidegate::config::install::Newcomers;
use tidegate::demo::instance::{Behaviour, Instance};

use crate::support::edge::{Edge, until};
use crate::support::load::{Load, Via};
use crate::support::upstream::{Upstream, ok};

const GOOD: Behaviour = Behaviour::Good(Duration::from_millis(2));
/// The age at which an attempt is judged, in these tests.
const JUDGED_AT: Duration = Duration::from_millis(500);

/// A proxy with one instance `v1`, and visitors at 200 a second.
async fn site() -> (Edge, Instance, Load) {
    let v1 = Instance::start("v1", GOOD).await.unwrap();
    let edge = Edge::start().registered("v1", v1.address).set(|install| install.own.rollout.judged_at = JUDGED_AT).run().await;
    let load = Load::start(&edge, Via::KeepAlive, 200);
    until("visits", async || load.seen().served >= 100).await;
    (edge, v1, load)
}

/// A newer version that answers as visitors expect, and remembers who asked.
async fn page_of_v2() -> Upstream {
    Upstream::start(|asked| async move {
        let page = asked.line.rsplit_once(' ').map_or("", |(_, target)| target).to_owned();
        let mut answer = ok(if asked.body.is_empty() { format!("{page} of v2").into() } else { asked.body });
        answer.headers_mut().insert("x-version", http::HeaderValue::from_static("v2"));
        answer
    })
    .await
}

fn phase(rollout: &Value) -> &str {
    rollout["phase"].as_str().unwrap_or("none")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_is_probed_three_times_and_starts_with_a_small_share() {
    let (edge, _v1, load) = site().await;
    let canary = page_of_v2().await;
    edge.register_at("v2", canary.address, &[]);
    let before = load.seen();
    edge.until("the ramp", async || phase(&edge.rollout().await) == "ramp").await;
    let rollout = edge.rollout().await;
    let share = rollout["share"].as_f64().unwrap();
    assert!(share > 0.0 && share <= 0.34, "{rollout}");
    assert!(rollout["said"].as_str().unwrap().contains("it answered 3 probes in a row"), "{rollout}");
    assert_eq!(edge.metric("tidegate_rollout_share{service=\"site@consulcatalog\"}").await, Some(share));
    assert_eq!(edge.metric("tidegate_rollout_phase{phase=\"ramp\",service=\"site@consulcatalog\"}").await, Some(1.0));
    let threshold = edge.metric("tidegate_rollout_threshold{service=\"site@consulcatalog\",test=\"concurrent\"}").await;
    assert_eq!(threshold, rollout["threshold"].as_f64());

    until("visits to the canary", async || load.seen().of("v2") >= 15).await;
    let probes = canary.probes();
    let first_user = canary.users()[0].at;
    assert!(probes.iter().filter(|probe| probe.at < first_user).count() >= 3, "{} probes", probes.len());
    assert!(probes.iter().all(|probe| probe.line == "GET /"));
    let seen = load.stop().await;
    println!("a canary joins: {seen}");
    assert_eq!(seen.lost(), 0);
    assert!(seen.of("v2") * 3 < seen.of("v1") - before.of("v1"), "{seen}");
    edge.is_quiet().await;
}

/// The middle one of a few spans.
fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_the_catalog_reaches_probes_and_visitors_at_once() {
    const ROUNDS: usize = 5;
    let (edge, _v1, load) = site().await;
    let (mut to_probe, mut to_visitor, mut to_last) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (id, canary) = (format!("v{}", round + 2), page_of_v2().await);
        let passing = clock::now();
        edge.register_at(&id, canary.address, &["canary=true"]);
        until("visits", async || canary.users().len() >= 3).await;
        let deregistered = clock::now();
        edge.catalog().deregister(&id);
        let served = load.seen().served;
        until("more visits", async || load.seen().served >= served + 50).await;
        let (probes, users) = (canary.probes(), canary.users());
        let first = users[0].at;
        let last_probe = probes.iter().rfind(|probe| probe.at < first).unwrap().at;
        to_probe.push(probes[0].at - passing);
        to_visitor.push(first - last_probe);
        to_last.push(users.last().unwrap().at.saturating_duration_since(deregistered));
    }
    let (to_probe, to_visitor, to_last) = (median(to_probe), median(to_visitor), median(to_last));
    println!("passing to probe {to_probe:?}, last probe to visitor {to_visitor:?}, deregistered to last visit {to_last:?}");
    assert!(to_probe <= Duration::from_millis(50), "{to_probe:?}");
    assert!(to_visitor <= Duration::from_millis(250), "{to_visitor:?}");
    assert!(to_last <= Duration::from_millis(50), "{to_last:?}");
    assert_eq!(load.stop().await.lost(), 0);
    edge.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_fails_is_left_and_hardly_anybody_notices() {
    let (edge, _v1, load) = site().await;
    let canary = Instance::start("v2", GOOD).await.unwrap();
    edge.register("v2", &canary, &["canary=true"]);
    until("visits to the canary", async || load.seen().of("v2") >= 5).await;
    canary.behave(Behaviour::Failing(0.3));
    edge.until("its share is taken away", async || edge.rollout().await["share"] == 0.0).await;
    let rollout = edge.rollout().await;
    assert!(["suspended", "failed"].contains(&phase(&rollout)), "{rollout}");
    let left_at = load.seen();
    until("more visits", async || load.seen().served >= left_at.served + 200).await;
    edge.until("it is blamed", async || phase(&edge.rollout().await) == "failed").await;
    let seen = load.stop().await;
    println!("a canary fails 30 %: {seen}; {}", edge.rollout().await["said"]);
    assert!(seen.lost() <= 5, "{seen}");
    assert_eq!(edge.metric("tidegate_rollout_share{service=\"site@consulcatalog\"}").await, Some(0.0));
    edge.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_never_answers_meets_no_visitor() {
    let (edge, _v1, load) = site().await;
    let canary = Upstream::start(|_| std::future::pending()).await;
    edge.register_at("v2", canary.address, &[]);
    edge.until("probes", async || canary.probes().len() >= 3).await;
    assert_eq!(phase(&edge.rollout().await), "probe");
    let seen = load.stop().await;
    println!("a canary hangs from the start: {seen}");
    assert_eq!(seen.lost(), 0);
    assert_eq!(canary.users().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_falls_silent_is_answered_for_by_stable() {
    let (edge, _v1, load) = site().await;
    let canary = Instance::start("v2", GOOD).await.unwrap();
    edge.register("v2", &canary, &[]);
    until("visits to the canary", async || load.seen().of("v2") >= 25).await;
    canary.behave(Behaviour::Hanging);
    edge.until("its share is taken away", async || edge.rollout().await["share"] == 0.0).await;
    let rollout = edge.rollout().await;
    assert!(["suspended", "failed"].contains(&phase(&rollout)), "{rollout}");
    let served = load.seen().served;
    until("more visits", async || load.seen().served >= served + 100).await;
    let seen = load.stop().await;
    println!("a canary falls silent: {seen}; {}", rollout["said"]);
    // POSTs cannot be sent twice: those that it had are lost.
    assert!(seen.lost.keys().all(|kind| kind == "POST no answer") && seen.lost() <= 8, "{seen}");
    edge.is_quiet().await;
}

#[tokio::test]
async fn a_newer_instance_is_stable_at_once_when_the_older_ones_leave() {
    let (v1, v2) = (Upstream::named("v1").await, Upstream::named("v2").await);
    let edge = Edge::start().registered("v1", v1.address).run().await;
    edge.register_at("v2", v2.address, &[]);
    edge.until("a rollout", async || phase(&edge.rollout().await) == "probe").await;
    assert_eq!(edge.get("/").await.text(), "v1");
    edge.catalog().deregister("v1");
    edge.has_servers(1).await;
    for _ in 0..10 {
        assert_eq!(edge.get("/").await.text(), "v2");
    }
    assert_eq!(edge.rollout().await, Value::Null);
    assert_eq!(v1.users().len(), 1);
}

#[tokio::test]
async fn a_service_that_scales_out_starts_its_newcomers_slowly() {
    let (v1, v2) = (Upstream::named("v1").await, Upstream::named("v2").await);
    let edge = Edge::start()
        .registered("v1", v1.address)
        .set(|install| install.own.rollout.newcomers = Newcomers::SlowStart)
        .run()
        .await;
    edge.register_at("v2", v2.address, &[]);
    edge.has_servers(2).await;
    assert_eq!(edge.rollout().await, Value::Null);
    for _ in 0..100 {
        assert_eq!(edge.get("/").await.status, 200);
    }
    let of_newcomer = v2.users().len();
    assert!((3..30).contains(&of_newcomer), "{of_newcomer} of 100");
}
