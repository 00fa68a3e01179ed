//! The provider against an agent in trouble: what was known goes on being the state, and the facts say what is the matter.

use std::time::Duration;

use tidegate::catalog::CheckStatus;
use tidegate::demo::catalog::Fault;
use tidegate::provider::consul::blocking::Doubt;
use tidegate::provider::consul::client::Block;

use crate::agent::Agent;
use crate::watch::Watching;

const WEB: [(&str, CheckStatus); 1] = [("web-1", CheckStatus::Passing)];

async fn with_one_service() -> (Agent, Watching) {
    let agent = Agent::embedded().await;
    agent.register_with("web", "web-1", &["traefik.enable=true"], None).await;
    let mut watching = Watching::start(&agent, 64);
    watching.has("web", &WEB).await;
    (agent, watching)
}

/// The agent fails in some way, for a while; an instance joins meanwhile.
async fn survives(fault: Fault, error: &str) {
    let (agent, mut watching) = with_one_service().await;
    let embedded = agent.embedded.as_ref().unwrap();
    embedded.fault(fault);
    let failing = watching.shows("the failure", |state| !state.reachable).await;
    assert!(failing.last_error.as_ref().is_some_and(|last| last.contains(error)), "{:?}", failing.last_error);
    assert_eq!(failing.catalog["web"].len(), 1);
    let registration = tidegate::demo::catalog::Registration {
        name: "web".to_owned(),
        id: "web-2".to_owned(),
        tags: vec!["traefik.enable=true".to_owned()],
        ..tidegate::demo::catalog::Registration::default()
    };
    embedded.register(registration).unwrap();
    embedded.fault(Fault::None);
    watching.has("web", &[WEB[0], ("web-2", CheckStatus::Passing)]).await;
    let well = watching.shows("all well", |state| state.reachable).await;
    assert_eq!((well.last_error, well.trust.rewound_at), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_answers_500_keeps_its_last_word() {
    survives(Fault::Error, "it answered 500 Internal Server Error: No cluster leader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cuts_connections_keeps_its_last_word() {
    survives(Fault::Cut, "the connection broke").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_answers_garbage_keeps_its_last_word() {
    survives(Fault::Garbage, "its answer cannot be read: expected value at line 1 column 1: <html>no catalog here</html>").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_keeps_its_last_word() {
    let (agent, mut watching) = with_one_service().await;
    let embedded = agent.embedded.as_ref().unwrap();
    embedded.fault(Fault::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(300), watching.state.changed()).await.is_err());
    embedded.fault(Fault::None);
    agent.register("web", "web-2", &["traefik.enable=true"]).await;
    watching.has("web", &[WEB[0], ("web-2", CheckStatus::Critical)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_empties_everything_is_told_by_what_vanished_with_it() {
    let (agent, mut watching) = with_one_service().await;
    let embedded = agent.embedded.as_ref().unwrap();
    embedded.fault(Fault::Empty);
    let empty = watching.shows("emptiness", |state| state.catalog.is_empty()).await;
    assert!(empty.trust.is_consul_gone && empty.trust.nodes_gone.len() == 1, "{:?}", empty.trust);
    embedded.fault(Fault::None);
    watching.has("web", &WEB).await;
    let back = watching.shows("consul back", |state| !state.trust.is_consul_gone).await;
    assert!(back.trust.nodes_gone.is_empty(), "{:?}", back.trust);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_goes_backwards_is_told() {
    let (agent, mut watching) = with_one_service().await;
    let embedded = agent.embedded.as_ref().unwrap();
    embedded.fault(Fault::IndexBackwards);
    watching.shows("the index going backwards", |state| state.trust.rewound_at.is_some()).await;
    agent.register("web", "web-2", &["traefik.enable=true"]).await;
    watching.has("web", &[WEB[0], ("web-2", CheckStatus::Critical)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_leader_is_doubted() {
    let (agent, mut watching) = with_one_service().await;
    agent.embedded.as_ref().unwrap().fault(Fault::NoLeader);
    let doubted =
        watching.shows("the doubt", |state| state.trust.doubts.contains_key("web") && state.trust.doubt.is_some()).await;
    assert_eq!((doubted.trust.doubt, doubted.trust.doubts["web"]), (Some(Doubt::NoLeader), Doubt::NoLeader));
    agent.embedded.as_ref().unwrap().fault(Fault::None);
    watching.shows("no doubt", |state| state.trust.doubts.is_empty() && state.trust.doubt.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_after_us_is_found() {
    let agent = Agent::embedded().await;
    let embedded = agent.embedded.as_ref().unwrap();
    embedded.fault(Fault::Cut);
    let mut watching = Watching::start(&agent, 64);
    let failing = watching.shows("the failure", |state| state.last_error.is_some()).await;
    assert!(!failing.reachable && !failing.is_complete);
    embedded.fault(Fault::None);
    watching.shows("a first state", |state| state.reachable && state.is_complete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_was_closed_is_no_failure() {
    let agent = Agent::embedded().await;
    let client = agent.client(1);
    client.services(Block::Not).await.unwrap();
    // Closes the one under way, and with the next question nothing is left of it.
    agent.embedded.as_ref().unwrap().fault(Fault::Cut);
    client.services(Block::Not).await.unwrap_err();
    agent.embedded.as_ref().unwrap().fault(Fault::None);
    for _ in 0..3 {
        client.services(Block::Not).await.unwrap();
    }
    assert!(agent.embedded.as_ref().unwrap().connections() <= 1);
}
