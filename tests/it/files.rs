//! Dynamic files as people edit them: a mistake costs nothing but a word about it.

use crate::support::edge::{Edge, everything_to};
use crate::support::logged::Logged;
use crate::support::upstream::Upstream;

const ERRORS: &str = "tidegate_problems{severity=\"error\"}";

#[tokio::test]
async fn a_broken_edit_changes_nothing_and_its_place_is_named() {
    let (logged, _guard) = Logged::begin();
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let edge = Edge::start().file(&everything_to(&[old.url()])).run().await;
    assert_eq!(edge.get("/").await.text(), "old");
    assert_eq!(edge.metric(ERRORS).await, Some(0.0));

    let broken = format!("{}  middlewares: {{x: [\n", everything_to(&[new.url()]));
    edge.write(&broken);
    edge.until("the problem shows", async || edge.metric(ERRORS).await == Some(1.0)).await;
    assert_eq!(edge.get("/").await.text(), "old");
    let place = format!("{}:", edge.file().display());
    let said = logged.text();
    let at = said.split_once(&place).map(|(_, rest)| rest.chars().take(4).collect::<String>()).expect("the file is named");
    let mut numbers = at.split(':');
    assert!(numbers.by_ref().take(2).all(|number| number.trim().parse::<u32>().is_ok()), "{said}");

    edge.write(&everything_to(&[new.url()]));
    edge.until("it is repaired", async || edge.metric(ERRORS).await == Some(0.0)).await;
    edge.until("the new server", async || edge.get("/").await.text() == "new").await;

    // The same mistake again is worth a word again.
    edge.write(&broken);
    edge.until("the problem shows", async || edge.metric(ERRORS).await == Some(1.0)).await;
    assert_eq!(logged.text().matches(&place).count(), 2, "{}", logged.text());
}

#[tokio::test]
async fn a_mistake_in_one_object_costs_only_that_object() {
    let server = Upstream::named("served").await;
    let edge = Edge::start().file(&everything_to(&[server.url()])).run().await;
    let file = everything_to(&[server.url()]).replace(
        "routers: {",
        "routers: {typo: {rule: \"Hots(`a.test`)\", service: site}, lost: {rule: \"Host(`b.test`)\", service: nowhere}, ",
    );
    edge.write(&file);
    edge.until("the problems show", async || edge.metric(ERRORS).await == Some(2.0)).await;
    assert_eq!(edge.get("/").await.text(), "served");
    let typo = edge.admin("/api/http/routers/typo@file").await.text();
    assert!(typo.contains("\"status\":\"disabled\"") && typo.contains("Hots"), "{typo}");
}

#[tokio::test]
async fn a_file_that_is_not_watched_is_read_when_asked() {
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let edge = Edge::start()
        .file(&everything_to(&[old.url()]))
        .set(|install| install.providers.file.as_mut().unwrap().watch = false)
        .run()
        .await;
    edge.write(&everything_to(&[new.url()]));
    assert_eq!(edge.get("/").await.text(), "old");
    edge.running().reload();
    edge.until("the new server", async || edge.get("/").await.text() == "new").await;
}
