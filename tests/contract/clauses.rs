//! The contract: what we rely on, one sentence a clause. Each clause has services of its own, so that they share an agent.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use tidegate::catalog::CheckStatus;
use tidegate::clock;
use tidegate::provider::consul::client::Block;

use crate::agent::Agent;

/// Long enough that nobody takes it for an answer that came at once.
const WAIT: Duration = Duration::from_secs(1);

type Clause = for<'a> fn(&'a Agent) -> BoxFuture<'a, ()>;

const CLAUSES: [(&str, Clause); 11] = [
    ("an instance is read as it was registered", |agent| Box::pin(reads_what_was_registered(agent))),
    ("the list of services has the union of tags", |agent| Box::pin(lists_the_union_of_tags(agent))),
    ("a blocking query comes back when something changes", |agent| Box::pin(comes_back_on_a_change(agent))),
    ("and with the same index when nothing does", |agent| Box::pin(times_out_with_the_same_index(agent))),
    ("a service's index does not move with another's", |agent| Box::pin(is_not_woken_by_others(agent))),
    ("an index in the future blocks, and a lower one comes back", |agent| Box::pin(answers_a_lower_index(agent))),
    ("the last instance that goes leaves an empty list", |agent| Box::pin(tells_of_the_last_instance(agent))),
    ("the same registration again changes nothing", |agent| Box::pin(does_not_move_without_a_change(agent))),
    ("an instance without checks that joins moves the list of services", |agent| Box::pin(lists_move_with_any_instance(agent))),
    ("the list of checks moves with a check", |agent| Box::pin(all_checks_move_with_one(agent))),
    ("filters and refusals", |agent| Box::pin(filters_and_refuses(agent))),
];

async fn keeps_the_contract(agent: Agent) {
    for (sentence, clause) in CLAUSES {
        // Shown only if it fails.
        eprintln!("clause: {sentence}");
        clause(&agent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_catalog_keeps_the_contract() {
    keeps_the_contract(Agent::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN"]
async fn a_real_agent_keeps_the_contract() {
    keeps_the_contract(Agent::real().await).await;
}

async fn reads_what_was_registered(agent: &Agent) {
    let client = agent.client(4);
    assert_eq!(client.instances("read", Block::Not).await.unwrap().value, []);
    agent.register("read", "read-1", &["traefik.enable=true", "a=b c"]).await;
    let answer = client.instances("read", Block::Not).await.unwrap();
    assert!(answer.index > 0 && answer.known_leader && answer.doubt().is_none());
    let [found] = answer.value.as_slice() else { panic!("one instance, not {:?}", answer.value) };
    assert_eq!((found.id.as_str(), found.service.as_str(), found.datacenter.as_str()), ("read-1", "read", "dc1"));
    assert_eq!((found.address.as_str(), found.port), ("127.0.0.1", 4000));
    assert_eq!(found.tags, ["traefik.enable=true", "a=b c"]);
    assert_eq!(found.meta.get("version").map(String::as_str), Some("1"));
    assert_eq!(found.status, CheckStatus::Critical);
    assert!(client.nodes(Block::Not).await.unwrap().value.contains(&found.node));
    for (verb, expected) in [("pass", CheckStatus::Passing), ("warn", CheckStatus::Warning), ("fail", CheckStatus::Critical)] {
        agent.set_check("read-1", verb).await;
        agent.answers("/v1/health/service/read", |body| body[0]["Checks"][1]["Status"] == status_name(expected)).await;
        assert_eq!(client.instances("read", Block::Not).await.unwrap().value[0].status, expected);
    }
}

fn status_name(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Passing => "passing",
        CheckStatus::Warning => "warning",
        CheckStatus::Critical | CheckStatus::Maintenance => "critical",
    }
}

async fn lists_the_union_of_tags(agent: &Agent) {
    agent.register("union", "union-1", &["a", "b"]).await;
    agent.register("union", "union-2", &["b", "c"]).await;
    let services = agent.client(1).services(Block::Not).await.unwrap().value;
    let mut tags = services["union"].clone();
    tags.sort();
    assert_eq!(tags, ["a", "b", "c"]);
    assert!(services.contains_key("consul"));
}

/// Blocks on a service while `change` happens a little later; the index before and after, and how long it took.
async fn block_on(agent: &Agent, service: &str, wait: Duration, change: impl Future<Output = ()>) -> (u64, u64, Duration) {
    let client = agent.client(2);
    let before = client.instances(service, Block::Not).await.unwrap().index;
    let started = clock::now();
    let changed = async {
        // The question must be on its way first.
        tokio::time::sleep(Duration::from_millis(100)).await;
        change.await;
    };
    let (answer, ()) = tokio::join!(client.instances(service, Block::Above(before, wait)), changed);
    (before, answer.unwrap().index, started.elapsed())
}

async fn comes_back_on_a_change(agent: &Agent) {
    agent.register("woken", "woken-1", &[]).await;
    let (before, after, took) = block_on(agent, "woken", Duration::from_secs(30), agent.set_check("woken-1", "pass")).await;
    assert!(after > before && took < Duration::from_secs(10), "{before} -> {after} after {took:?}");
    let (before, after, took) = block_on(agent, "woken", Duration::from_secs(30), agent.register("woken", "woken-2", &[])).await;
    assert!(after > before && took < Duration::from_secs(10), "{before} -> {after} after {took:?}");
}

async fn times_out_with_the_same_index(agent: &Agent) {
    agent.register("quiet", "quiet-1", &[]).await;
    let (before, after, took) = block_on(agent, "quiet", WAIT, async {}).await;
    assert!(after == before && took >= WAIT && took < WAIT * 5, "{before} -> {after} after {took:?}");
}

async fn is_not_woken_by_others(agent: &Agent) {
    agent.register("calm", "calm-1", &[]).await;
    let (before, after, took) = block_on(agent, "calm", WAIT, agent.register("noisy", "noisy-1", &[])).await;
    assert!(after == before && took >= WAIT, "{before} -> {after} after {took:?}");
}

async fn answers_a_lower_index(agent: &Agent) {
    agent.register("future", "future-1", &[]).await;
    let started = clock::now();
    let answer = agent.client(1).instances("future", Block::Above(999_999, WAIT)).await.unwrap();
    assert!(answer.index < 999_999 && started.elapsed() >= WAIT, "{} after {:?}", answer.index, started.elapsed());
    assert_eq!(answer.value.len(), 1);
}

async fn tells_of_the_last_instance(agent: &Agent) {
    agent.register("last", "last-1", &[]).await;
    let (before, after, took) = block_on(agent, "last", Duration::from_secs(30), agent.deregister("last-1")).await;
    assert!(after > before && took < Duration::from_secs(10), "{before} -> {after} after {took:?}");
    let client = agent.client(1);
    assert_eq!(client.instances("last", Block::Not).await.unwrap().value, []);
    assert!(!client.services(Block::Not).await.unwrap().value.contains_key("last"));
}

async fn does_not_move_without_a_change(agent: &Agent) {
    agent.register_with("same", "same-1", &["a"], None).await;
    let (before, after, _) = block_on(agent, "same", WAIT, agent.register_with("same", "same-1", &["a"], None)).await;
    assert_eq!(before, after);
}

async fn lists_move_with_any_instance(agent: &Agent) {
    agent.register_with("bare", "bare-1", &["a"], None).await;
    let client = agent.client(1);
    let before = client.services(Block::Not).await.unwrap();
    agent.register_with("bare", "bare-2", &["a"], None).await;
    let after = client.services(Block::Above(before.index, Duration::from_secs(30))).await.unwrap();
    assert!(after.index > before.index);
    assert_eq!(before.value["bare"], after.value["bare"]);
}

async fn all_checks_move_with_one(agent: &Agent) {
    agent.register("state", "state-1", &[]).await;
    let client = agent.client(1);
    let before = client.checks(Block::Not).await.unwrap();
    agent.set_check("state-1", "pass").await;
    let after = client.checks(Block::Above(before.index, Duration::from_secs(30))).await.unwrap();
    let check = after.value.iter().find(|check| check.service_id == "state-1").unwrap();
    assert_eq!((check.id.as_str(), check.status.as_str(), check.service_name.as_str()), ("check:state-1", "passing", "state"));
    assert!(after.value.iter().any(|check| check.service_name.is_empty() && check.id == "serfHealth"));
}

async fn filters_and_refuses(agent: &Agent) {
    agent.register("filter", "filter-1", &["blue", "x=1"]).await;
    agent.register("filter", "filter-2", &["green", "x=1"]).await;
    agent.set_check("filter-1", "pass").await;
    let ids = |path: &'static str, expected: &'static [&'static str]| async move {
        let has = |body: &Value| {
            let mut ids: Vec<_> = body.as_array().unwrap().iter().map(|entry| entry["Service"]["ID"].as_str().unwrap()).collect();
            ids.sort_unstable();
            ids == expected
        };
        agent.answers(path, has).await;
    };
    ids("/v1/health/service/filter?passing", &["filter-1"]).await;
    ids("/v1/health/service/filter?tag=green", &["filter-2"]).await;
    ids("/v1/health/service/filter?tag=x%3D1", &["filter-1", "filter-2"]).await;
    ids("/v1/health/service/filter?tag=x%3D1&tag=blue", &["filter-1"]).await;
    let refusals = [
        ("GET", "/v1/health/service/filter?index=abc", "", 400, "Invalid index"),
        ("GET", "/v1/health/service/filter?index=1&wait=abc", "", 400, "Invalid wait time"),
        ("GET", "/v1/health/service/filter?index=1&wait=10", "", 400, "Invalid wait time"),
        ("POST", "/v1/health/service/filter", "", 405, "method POST not allowed"),
        ("PUT", "/v1/agent/service/register", "{}", 400, "Missing service name"),
        ("PUT", "/v1/agent/service/register", "{", 400, "Request decode failed"),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name":"q","Check":{"TCP":"127.0.0.1:1"}}"#,
            400,
            "Invalid check: Interval must be > 0",
        ),
        ("PUT", "/v1/agent/service/deregister/nobody", "", 200, ""),
        ("PUT", "/v1/agent/check/pass/nobody", "", 500, "does not have associated TTL"),
        ("GET", "/v1/nothing/here", "", 404, ""),
    ];
    for (method, path, body, status, text) in refusals {
        let (found, answer) = agent.ask(method, path, body).await;
        assert!(found == status && answer.contains(text), "{method} {path} {body}: {found} {answer}");
    }
    let (status, leader) = agent.ask("GET", "/v1/status/leader", "").await;
    assert!(status == 200 && leader.starts_with("\"127.0.0.1:"), "{leader}");
}
