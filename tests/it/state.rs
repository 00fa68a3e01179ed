//! Where rollouts stand outlives the process: a proxy that was killed goes on where it was, and a full disk stops no traffic.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tidegate::demo::catalog::EmbeddedCatalog;
use tidegate::demo::instance::{Behaviour, Instance};

use crate::support::edge::{Edge, EdgeBuilder, site, until};
use crate::support::load::{Load, Via};
use crate::support::upstream::Upstream;

const GOOD: Behaviour = Behaviour::Good(Duration::from_millis(2));

/// What is on disk of the service `site`; null before there is anything.
fn on_disk(folder: &Path) -> Value {
    let text = std::fs::read(folder.join("rollouts.json")).unwrap_or_default();
    let document: Value = serde_json::from_slice(&text).unwrap_or_default();
    document.pointer("/services/0/kept/machine/trial").cloned().unwrap_or_default()
}

fn keeping_state_in(folder: &Path) -> EdgeBuilder {
    let folder = folder.to_owned();
    Edge::start().set(move |install| install.own.state = folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_proxy_goes_on_with_a_rollout_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (catalog, address) = EmbeddedCatalog::start().await.unwrap();
    let [v1, v2] = [Instance::start("v1", GOOD).await.unwrap(), Instance::start("v2", GOOD).await.unwrap()];
    catalog.register(site("v1", v1.address, &[])).unwrap();
    let (edge, process) = keeping_state_in(folder.path()).catalog_at(address).run_apart().await;
    let load = Load::start(&edge, Via::KeepAlive, 100);
    until("visits", async || load.seen().served >= 50).await;
    catalog.register(site("v2", v2.address, &[])).unwrap();
    edge.until("visits to the canary", async || edge.rollout().await["canary"]["all"].as_u64() >= Some(10)).await;
    assert_eq!(load.stop().await.lost(), 0);
    until("evidence on disk", async || on_disk(folder.path())["canary"]["all"].as_u64() >= Some(10)).await;
    let before = edge.rollout().await;
    process.kill();
    drop(edge);
    let kept = on_disk(folder.path());

    let edge = keeping_state_in(folder.path()).catalog_at(address).run().await;
    let after = edge.rollout().await;
    assert_eq!(after["phase"], "ramp", "{after}");
    assert_eq!(after["canary"], kept["canary"], "{after}");
    for same in ["version", "step", "share", "said"] {
        assert_eq!(after[same], before[same], "{same}: {after}");
    }
    assert!(after["stable_hour"]["all"].as_u64() >= Some(40), "{after}");
    let load = Load::start(&edge, Via::KeepAlive, 100);
    edge.until("more evidence", async || edge.rollout().await["canary"]["all"].as_u64() > after["canary"]["all"].as_u64()).await;
    let seen = load.stop().await;
    println!("a rollout goes on after a kill: {seen}");
    assert!(seen.lost() == 0 && seen.of("v2") > 0, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_read_costs_no_traffic() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rollouts.json"), "{\"schema\":99}").unwrap();
    let v1 = Upstream::named("v1").await;
    let (catalog, address) = EmbeddedCatalog::start().await.unwrap();
    catalog.register(site("v1", v1.address, &[])).unwrap();
    let edge = keeping_state_in(folder.path()).catalog_at(address).run().await;
    assert_eq!(edge.get("/").await.text(), "v1");
    assert_eq!(edge.metric("tidegate_problems{severity=\"error\"}").await, Some(1.0));
    edge.until("a new state", async || edge.metric("tidegate_state_writable").await == Some(1.0)).await;
    assert_eq!(std::fs::read_to_string(folder.path().join("rollouts.json.broken")).unwrap(), "{\"schema\":99}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_nothing_is_shown_and_rollouts_go_on() {
    let [v1, v2] = [Instance::start("v1", GOOD).await.unwrap(), Instance::start("v2", GOOD).await.unwrap()];
    let edge = Edge::start().registered("v1", v1.address).run().await;
    edge.until("the first state", async || edge.metric("tidegate_state_writable").await == Some(1.0)).await;
    let load = Load::start(&edge, Via::KeepAlive, 100);
    // A write that is under way may put the file back.
    let file = edge.state().join("rollouts.json");
    until("something in the way of the file", async || {
        let _ = std::fs::remove_file(&file);
        std::fs::create_dir(&file).is_ok()
    })
    .await;
    edge.register("v2", &v2, &[]);
    edge.until("the disk is found full", async || edge.metric("tidegate_state_writable").await == Some(0.0)).await;
    assert_eq!(edge.metric("tidegate_problems{severity=\"warning\"}").await, Some(1.0));
    edge.until("the ramp", async || edge.rollout().await["phase"] == "ramp").await;
    until("visits to the canary", async || load.seen().of("v2") > 0).await;
    std::fs::remove_dir(&file).unwrap();
    edge.until("the disk is well", async || edge.metric("tidegate_state_writable").await == Some(1.0)).await;
    assert_eq!(edge.metric("tidegate_problems{severity=\"warning\"}").await, Some(0.0));
    assert_eq!(on_disk(&edge.state())["phase"]["Ramp"]["step"], 0);
    let seen = load.stop().await;
    println!("a full disk: {seen}");
    assert_eq!(seen.lost(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_ends_politely_writes_down_where_it_was() {
    let [v1, v2] = [Upstream::named("v1").await, Upstream::named("v2").await];
    let mut edge = Edge::start().registered("v1", v1.address).run().await;
    edge.register_at("v2", v2.address, &[]);
    edge.until("good probes", async || v2.probes().len() >= 2).await;
    let state = edge.state();
    edge.stop().await.unwrap();
    assert!(on_disk(&state)["phase"].is_object(), "{}", on_disk(&state));
}
