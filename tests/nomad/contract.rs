//! The stand-in does what the recorded Nomad did: the same answers to the same questions, the same decisions in the same order.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate::orchestrator::JobKey;

use crate::replay::recorded;
use crate::stand_in::{Group, Nomad, Order, Spec};

fn cljdoc() -> JobKey {
    JobKey { namespace: "default".to_owned(), job: "cljdoc".to_owned() }
}

/// A Nomad with a version 0 that runs, and what happens after that.
pub async fn with_stable(spec: Spec) -> Nomad {
    let nomad = Nomad::start().await;
    nomad.submit(spec);
    work(&nomad);
    nomad
}

/// Nodes do what there is to do, and report it at once.
pub fn work(nomad: &Nomad) {
    while let Some(order) = nomad.next_order() {
        nomad.change(|cluster| match order {
            Order::Start(task) => {
                cluster.running(&task.allocation);
                cluster.healthy(&task.allocation);
            }
            Order::Update(task) => cluster.healthy(&task.allocation),
            Order::Stop { allocation } => cluster.complete(&allocation),
        });
    }
}

/// Nodes start what is to be started; whether it is healthy they do not know yet.
fn start(nomad: &Nomad) -> Vec<String> {
    let mut started = Vec::new();
    while let Some(order) = nomad.next_order() {
        nomad.change(|cluster| match order {
            Order::Start(task) => {
                cluster.running(&task.allocation);
                started.push(task.allocation);
            }
            Order::Update(task) => cluster.healthy(&task.allocation),
            Order::Stop { allocation } => cluster.complete(&allocation),
        });
    }
    started
}

/// One canary of version 1 beside version 0, healthy.
async fn with_canary() -> (Nomad, String) {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    nomad.submit(Spec::cljdoc(Group::new("v2")));
    work(&nomad);
    let deployment = nomad.deployment("cljdoc");
    (nomad, deployment)
}

// Decisions.

/// What the server side decided, line by line: what its clients report is left out, and so is what is said again of
/// allocations that were told to stop before.
fn decisions<'l>(lines: impl IntoIterator<Item = &'l Vec<Value>>) -> Vec<String> {
    let mut stopped = BTreeSet::new();
    let mut decisions = Vec::new();
    for events in lines {
        let mut said: Vec<String> = events.iter().filter_map(|event| decision(event, &mut stopped)).collect();
        if !said.is_empty() {
            said.sort();
            decisions.push(said.join(", "));
        }
    }
    decisions
}

fn decision(event: &Value, stopped: &mut BTreeSet<String>) -> Option<String> {
    let kind = event["Type"].as_str().unwrap();
    let payload = &event["Payload"];
    if kind == "AllocationUpdated" || kind == "JobRegistered" {
        return None;
    }
    if let Some(deployment) = payload.get("Deployment") {
        let groups = deployment["TaskGroups"].as_object().unwrap().iter().map(|(name, group)| {
            let canaries = group["PlacedCanaries"].as_array().map_or(0, Vec::len);
            let counts =
                ["HealthyAllocs", "PlacedAllocs", "DesiredTotal", "DesiredCanaries"].map(|count| group[count].to_string());
            format!("{name} canaries {canaries} promoted {} counts {}", group["Promoted"], counts.join("/"))
        });
        let mut groups: Vec<String> = groups.collect();
        groups.sort();
        let text = |field: &str| deployment[field].as_str().unwrap().to_owned();
        return Some(format!(
            "{kind} v{} {} ({}) [{}]",
            deployment["JobVersion"],
            text("Status"),
            text("StatusDescription"),
            groups.join("; ")
        ));
    }
    if let Some(allocation) = payload.get("Allocation") {
        let text = |field: &str| allocation.get(field).and_then(Value::as_str).unwrap_or("-").to_owned();
        if text("DesiredStatus") == "stop" && !stopped.insert(text("ID")) {
            return None;
        }
        // A client's failure is looked at more than once.
        if text("DesiredStatus") == "run" && text("ClientStatus") == "failed" {
            return None;
        }
        let is_canary = allocation.get("DeploymentStatus").map_or(Value::Null, |status| status["Canary"].clone());
        let links = ["NextAllocation", "PreviousAllocation"].map(|link| allocation.get(link).is_some());
        return Some(format!(
            "{kind} {} {}/{} ({}) canary {is_canary} links {links:?}",
            text("Name"),
            text("DesiredStatus"),
            text("ClientStatus"),
            text("DesiredDescription")
        ));
    }
    let job = &payload["Job"];
    Some(format!("{kind} v{} {} stop {}", job["Version"], job["Status"], job["Stop"]))
}

/// Compares what was decided since `index` with a recorded stream, from one index to another.
#[track_caller]
fn check_decisions(nomad: &Nomad, since: u64, file: &str, indices: std::ops::RangeInclusive<u64>) {
    let lines = nomad.lines();
    let found = decisions(lines.iter().filter(|(index, _)| *index > since).map(|(_, events)| events));
    let text = recorded(file);
    let lines: Vec<Vec<Value>> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["Index"].as_u64().is_some_and(|index| indices.contains(&index)))
        .map(|line| line["Events"].as_array().unwrap().clone())
        .collect();
    let expected = decisions(&lines);
    assert!(!expected.is_empty(), "{file}");
    assert_eq!(found, expected, "{file}\nfound    {found:#?}\nexpected {expected:#?}");
    check_fields(nomad, since);
}

/// Every allocation is shown with the fields that a recorded one of the same kind was shown with.
#[track_caller]
fn check_fields(nomad: &Nomad, since: u64) {
    let known: BTreeSet<String> = recordings()
        .iter()
        .flat_map(|file| {
            recorded(file)
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .flat_map(|line| {
                    line["Events"].as_array().map(|events| events.iter().map(fields).collect::<Vec<_>>()).unwrap_or_default()
                })
                .collect::<Vec<_>>()
        })
        .collect();
    for (index, events) in nomad.lines() {
        for event in events.iter().filter(|event| index > since && event["Type"] != "JobRegistered") {
            assert!(known.contains(&fields(event)), "no event was recorded with the fields {}", fields(event));
        }
    }
}

fn fields(event: &Value) -> String {
    let names = |value: &Value| {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        // What other jobs of the recording had, and ours have not.
        names.retain(|name| !matches!(name.as_str(), "FollowupEvalID" | "RescheduleTracker"));
        names.sort();
        names.join(" ")
    };
    let (topic, payload) = event["Payload"].as_object().unwrap().iter().next().unwrap();
    format!("{} {topic} {} of {}", event["Type"], names(payload), names(event))
}

fn recordings() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nomad/recorded");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".ndjson")).collect()
}

fn index(nomad: &Nomad) -> u64 {
    nomad.see(|cluster| cluster.index)
}

#[tokio::test]
async fn a_deployment_is_paused_promoted_failed_and_reverted_as_recorded() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    let since = index(&nomad);
    nomad.submit(Spec::cljdoc(Group::new("v2")));
    work(&nomad);
    let deployment = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    nomad.change(|cluster| cluster.promote(&deployment, Some(&["cljdoc".to_owned()]))).unwrap();
    work(&nomad);
    nomad.submit(Spec::cljdoc(Group::new("v3")));
    work(&nomad);
    nomad.change(|cluster| cluster.fail(&nomad_deployment(cluster))).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.revert(&cljdoc(), 1, Some(2))).unwrap();
    check_decisions(&nomad, since, "event_stream.ndjson", 20..=46);
}

fn nomad_deployment(cluster: &crate::stand_in::cluster::Cluster) -> String {
    let newest = cluster.deployments.values().max_by_key(|deployment| deployment.create_index);
    newest.unwrap().id.clone()
}

#[tokio::test]
async fn a_stopped_canary_is_replaced_as_recorded() {
    for (is_paused, file, indices) in
        [(true, "events_canary_stopped_paused.ndjson", 169..=191), (false, "events_canary_stopped_running.ndjson", 112..=129)]
    {
        let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
        let since = index(&nomad);
        nomad.submit(Spec::cljdoc(Group::new("v2")));
        let deployment = nomad.deployment("cljdoc");
        if is_paused {
            nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
        }
        work(&nomad);
        let canary = nomad.allocations("cljdoc", 1).remove(0);
        nomad.change(|cluster| cluster.stop_allocation(&canary)).unwrap();
        work(&nomad);
        if is_paused {
            nomad.change(|cluster| cluster.pause(&deployment, false)).unwrap();
            work(&nomad);
        }
        nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
        work(&nomad);
        check_decisions(&nomad, since, file, indices);
    }
}

#[tokio::test]
async fn a_changed_count_is_carried_out_as_recorded() {
    let of_count = |count, content: &str| Spec::cljdoc(Group { count, ..Group::new(content) });
    for (from, to, file, indices) in
        [(1, 2, "events_count_raised.ndjson", 50..=63), (2, 1, "events_count_lowered.ndjson", 110..=120)]
    {
        let nomad = with_stable(of_count(from, "v1")).await;
        let since = index(&nomad);
        nomad.submit(of_count(to, "v2"));
        work(&nomad);
        let deployment = nomad.deployment("cljdoc");
        nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
        work(&nomad);
        check_decisions(&nomad, since, file, indices);
    }
    // Paused: the promotion stops nothing, the resume does.
    let nomad = with_stable(of_count(1, "v1")).await;
    let since = index(&nomad);
    nomad.submit(of_count(2, "v2"));
    let deployment = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
    nomad.change(|cluster| cluster.pause(&deployment, false)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_replay_after_restart.ndjson", 78..=95);
}

#[tokio::test]
async fn as_many_canaries_as_instances_are_promoted_as_recorded() {
    let of_two = |content: &str| Spec::cljdoc(Group { count: 2, canary: 2, ..Group::new(content) });
    let nomad = with_stable(of_two("v1")).await;
    nomad.submit(of_two("v2"));
    work(&nomad);
    let deployment = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    let since = index(&nomad);
    nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_bluegreen_promoted.ndjson", 107..=110);
}

#[tokio::test]
async fn a_canary_that_fails_is_replaced_as_recorded() {
    // After it was healthy: not before somebody stops it.
    let (nomad, deployment) = with_canary().await;
    let since = index(&nomad);
    let canary = nomad.allocations("cljdoc", 1).remove(0);
    nomad.change(|cluster| cluster.failed(&canary));
    nomad.change(|cluster| cluster.stop_allocation(&canary)).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_failed_canary_stopped_and_replaced.ndjson", 29..=38);
    // Before: after its delay.
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    let since = index(&nomad);
    nomad.submit(Spec::cljdoc(Group::new("v2")));
    let canary = start(&nomad).remove(0);
    nomad.change(|cluster| cluster.failed(&canary));
    nomad.change(|cluster| cluster.reschedule(&canary));
    work(&nomad);
    let deployment = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_canary_rescheduled_then_promoted.ndjson", 150..=168);
}

#[tokio::test]
async fn a_lost_canary_is_replaced_at_the_resume_as_recorded() {
    let (nomad, deployment) = with_canary().await;
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    let since = index(&nomad);
    let canary = nomad.allocations("cljdoc", 1).remove(0);
    nomad.change(|cluster| cluster.lose(&canary));
    nomad.change(|cluster| cluster.pause(&deployment, false)).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_canary_node_down_paused_then_resumed.ndjson", 39..=51);
}

#[tokio::test]
async fn a_promotion_without_effect_is_told_as_recorded() {
    let (nomad, deployment) = with_canary().await;
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    let since = index(&nomad);
    for groups in [&["nothing"][..], &[], &["cljdoc", "nothing"]] {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        nomad.change(|cluster| cluster.promote(&deployment, Some(&groups))).unwrap();
    }
    work(&nomad);
    check_decisions(&nomad, since, "events_promote_without_effect.ndjson", 30..=40);
}

#[tokio::test]
async fn an_update_in_place_and_a_revert_are_made_as_recorded() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    let since = index(&nomad);
    nomad.submit(Spec::cljdoc(Group { tags: "more".to_owned(), ..Group::new("v1") }));
    work(&nomad);
    check_decisions(&nomad, since, "events_tags_only_in_place.ndjson", 48..=52);

    let (nomad, deployment) = with_canary().await;
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    let since = index(&nomad);
    nomad.change(|cluster| cluster.revert(&cljdoc(), 0, Some(1))).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_revert_while_paused.ndjson", 84..=89);

    let (nomad, deployment) = with_canary().await;
    nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
    work(&nomad);
    let since = index(&nomad);
    nomad.change(|cluster| cluster.revert(&cljdoc(), 0, None)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_revert_after_promotion.ndjson", 112..=115);
}

#[tokio::test]
async fn a_drained_stable_instance_is_replaced_by_its_like_as_recorded() {
    let (nomad, deployment) = with_canary().await;
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    let since = index(&nomad);
    let stable = nomad.allocations("cljdoc", 0).remove(0);
    nomad.change(|cluster| cluster.stop_allocation(&stable)).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.promote(&deployment, None)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_stable_drained_paused.ndjson", 80..=90);
}

fn two_groups(content: &str, lb: Group) -> Spec {
    Spec::cljdoc(Group::new(content)).with("lb", lb)
}

#[tokio::test]
async fn a_second_group_rolls_or_fails_beside_the_first_as_recorded() {
    let lb = |content: &str| Group { count: 3, canary: 0, ..Group::new(content) };
    let nomad = with_stable(two_groups("v1", lb("v1"))).await;
    let since = index(&nomad);
    nomad.submit(two_groups("v2", lb("v2")));
    let deployment = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.promote(&deployment, Some(&["cljdoc".to_owned()]))).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.pause(&deployment, false)).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_two_groups_promoted_resumed.ndjson", 175..=202);

    let nomad = with_stable(two_groups("v1", lb("v1"))).await;
    let since = index(&nomad);
    nomad.submit(two_groups("v2", lb("v2")));
    let deployment = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    work(&nomad);
    nomad.change(|cluster| cluster.pass_deadline(&deployment));
    check_decisions(&nomad, since, "events_two_groups_failed_by_other_groups_deadline.ndjson", 120..=135);
}

#[tokio::test]
async fn one_of_two_groups_promoted_then_failed_comes_back_as_recorded() {
    let group = |content: &str| Group { auto_revert: true, ..Group::new(content) };
    let both = |content: &str| Spec::cljdoc(group(content)).with("lb", group(content));
    let nomad = with_stable(both("v1")).await;
    let since = index(&nomad);
    nomad.submit(both("v2"));
    work(&nomad);
    let deployment = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.promote(&deployment, Some(&["cljdoc".to_owned()]))).unwrap();
    work(&nomad);
    assert_eq!(nomad.change(|cluster| cluster.fail(&deployment)).unwrap().1, Some(0));
    work(&nomad);
    check_decisions(&nomad, since, "events_one_of_two_promoted_then_failed_revert.ndjson", 296..=312);
}

#[tokio::test]
async fn a_job_is_stopped_and_purged_as_recorded() {
    let (nomad, deployment) = with_canary().await;
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    let since = index(&nomad);
    nomad.change(|cluster| cluster.deregister(&cljdoc())).unwrap();
    work(&nomad);
    check_decisions(&nomad, since, "events_job_stop_paused.ndjson", 266..=269);

    let (nomad, deployment) = with_canary().await;
    nomad.change(|cluster| cluster.pause(&deployment, true)).unwrap();
    let since = index(&nomad);
    nomad.change(|cluster| cluster.purge(&cljdoc())).unwrap();
    let stops = std::iter::from_fn(|| nomad.next_order()).filter(|order| matches!(order, Order::Stop { .. })).count();
    assert_eq!(stops, 2);
    check_decisions(&nomad, since, "events_job_purge_paused.ndjson", 286..=286);
}

// Answers.

/// What a recorded answer looks like: status, the headers that say something, and the body.
struct Recorded {
    status: u16,
    kind: String,
    leader: Option<String>,
    has_index: bool,
    body: String,
}

fn recorded_answer(file: &str) -> Recorded {
    let text = recorded(file);
    let head = text.split_once("\nHTTP ").unwrap().1;
    let (head, body) = head.split_once("\n\n").unwrap();
    let header = |name: &str| {
        let found = head.lines().filter_map(|line| line.split_once(": ")).find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    Recorded {
        status: head.lines().next().unwrap().trim().parse().unwrap(),
        kind: header("Content-Type").unwrap_or_default(),
        leader: header("X-Nomad-Knownleader"),
        has_index: header("X-Nomad-Index").is_some(),
        body: body.trim_end().to_owned(),
    }
}

/// The kinds of the values of a body: names of fields, and what is in them. What may be there or not is not compared.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<(&String, &Value)> = fields.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            // Free texts and what a client's node writes of its own.
            let is_own = |name: &str| matches!(name, "TaskStates" | "Job" | "Metrics" | "NetworkStatus");
            names.into_iter().map(|(name, value)| (name.clone(), if is_own(name) { Value::Null } else { shape(value) })).collect()
        }
        Value::Array(items) => items.first().map_or(Value::Null, |first| Value::Array(vec![shape(first)])),
        Value::String(_) => "text".into(),
        Value::Number(_) => 0.into(),
        Value::Bool(_) => true.into(),
        Value::Null => Value::Null,
    }
}

/// A UUID says nothing.
fn without_ids(text: &str) -> String {
    let is_id = |part: &str| part.len() == 36 && part.matches('-').count() == 4;
    text.split('"').map(|part| if is_id(part) { "ID" } else { part }).collect::<Vec<_>>().join("\"")
}

#[track_caller]
fn check_answer(file: &str, found: &Recorded) {
    let expected = recorded_answer(file);
    let head = |answer: &Recorded| (answer.status, answer.kind.clone(), answer.leader.clone(), answer.has_index);
    assert_eq!(head(found), head(&expected), "{file}: {}", found.body);
    if expected.kind != "application/json" {
        assert_eq!(without_ids(&found.body), without_ids(&expected.body), "{file}");
        return;
    }
    let body = |answer: &Recorded| shape(&serde_json::from_str(&answer.body).unwrap());
    assert_eq!(body(found), body(&expected), "{file}");
}

struct Asking(reqwest::Client);

impl Asking {
    fn new() -> Self {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self(reqwest::Client::builder().no_proxy().build().unwrap())
    }

    async fn ask(&self, nomad: &Nomad, method: &str, path: &str, body: &str) -> Recorded {
        let request = self.0.request(method.parse().unwrap(), format!("{}{path}", nomad.url())).body(body.to_owned());
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Recorded {
            status: response.status().as_u16(),
            kind: header("content-type").unwrap_or_default(),
            leader: header("x-nomad-knownleader"),
            has_index: header("x-nomad-index").is_some(),
            body: response.text().await.unwrap().trim_end().to_owned(),
        }
    }

    async fn get(&self, nomad: &Nomad, path: &str) -> Recorded {
        self.ask(nomad, "GET", path, "").await
    }

    async fn promote(&self, nomad: &Nomad, id: &str, rest: &str) -> Recorded {
        let body = format!(r#"{{"DeploymentID":"{id}"{rest}}}"#);
        self.ask(nomad, "POST", &format!("/v1/deployment/promote/{id}"), &body).await
    }

    async fn pause(&self, nomad: &Nomad, id: &str, rest: &str) -> Recorded {
        let body = format!(r#"{{"DeploymentID":"{id}"{rest}}}"#);
        self.ask(nomad, "POST", &format!("/v1/deployment/pause/{id}"), &body).await
    }
}

const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

#[tokio::test]
async fn questions_are_answered_as_recorded() {
    let (nomad, deployment) = with_canary().await;
    let canary = nomad.allocations("cljdoc", 1).remove(0);
    let ask = Asking::new();
    for (file, path) in [
        ("deployment_canary_healthy.http", format!("/v1/deployment/{deployment}")),
        ("deployment_unknown.http", format!("/v1/deployment/{NOBODY}")),
        ("deployments_filter.http", "/v1/deployments?namespace=*".to_owned()),
        ("allocations.http", format!("/v1/deployment/allocations/{deployment}")),
        ("job_allocations.http", "/v1/job/cljdoc/allocations".to_owned()),
        ("allocation_canary.http", format!("/v1/allocation/{canary}")),
        ("allocation_unknown.http", format!("/v1/allocation/{NOBODY}")),
        ("job.http", "/v1/job/cljdoc".to_owned()),
        ("job_unknown.http", "/v1/job/nothing".to_owned()),
    ] {
        let found = ask.get(&nomad, &path).await;
        // The newest comes last in a list; only the first one's fields are compared, and a canary's list of canaries is no list there.
        if file == "deployments_filter.http" {
            let only = serde_json::from_str::<Vec<Value>>(&found.body).unwrap();
            let only: Vec<Value> = only.into_iter().filter(|listed| listed["Status"] == "running").collect();
            check_answer(file, &Recorded { body: Value::from(only).to_string(), ..found });
        } else {
            check_answer(file, &found);
        }
    }
    nomad.require_token("a token");
    check_answer("acl_anonymous_deployment.http", &ask.get(&nomad, &format!("/v1/deployment/{deployment}")).await);
    check_answer("acl_anonymous_job.http", &ask.get(&nomad, "/v1/job/cljdoc").await);
}

#[tokio::test]
async fn pauses_and_resumes_are_answered_as_recorded() {
    let (nomad, id) = with_canary().await;
    let ask = Asking::new();
    let status = || nomad.see(|cluster| cluster.deployments[&id].status);
    check_answer("resume_not_paused.http", &ask.pause(&nomad, &id, r#","Pause":false"#).await);
    check_answer("pause.http", &ask.pause(&nomad, &id, r#","Pause":true"#).await);
    check_answer("pause_twice.http", &ask.pause(&nomad, &id, r#","Pause":true"#).await);
    check_answer("scale_while_paused.http", &ask.ask(&nomad, "POST", "/v1/job/cljdoc/scale", "{}").await);
    assert_eq!(status(), "paused");
    // Without the field it is resumed.
    assert_eq!(ask.pause(&nomad, &id, "").await.status, 200);
    assert_eq!(status(), "running");
    let wrong = ask.ask(&nomad, "POST", &format!("/v1/deployment/pause/{id}"), r#"{"DeploymentID":"x","Pause":true}"#).await;
    check_answer("pause_wrong_id.http", &wrong);
    assert_eq!(ask.promote(&nomad, &id, r#","Groups":["cljdoc"]"#).await.status, 200);
    check_answer("resume.http", &ask.pause(&nomad, &id, r#","Pause":false"#).await);
    assert_eq!(ask.pause(&nomad, &id, r#","Pause":true"#).await.body, "can't pause terminal deployment");
}

#[tokio::test]
async fn promotions_are_answered_as_recorded() {
    let (nomad, id) = with_canary().await;
    let ask = Asking::new();
    nomad.change(|cluster| cluster.pause(&id, true)).unwrap();
    let is_promoted = || nomad.see(|cluster| cluster.deployments[&id].groups["cljdoc"].promoted);
    check_answer("promote_unknown_group.http", &ask.promote(&nomad, &id, r#","Groups":["nothing"]"#).await);
    check_answer("promote_empty_list.http", &ask.promote(&nomad, &id, r#","Groups":[]"#).await);
    check_answer("promote_neither.http", &ask.promote(&nomad, &id, "").await);
    let no_id = ask.ask(&nomad, "POST", &format!("/v1/deployment/promote/{id}"), r#"{"Groups":["cljdoc"]}"#).await;
    check_answer("promote_no_id.http", &no_id);
    assert!(!is_promoted());
    check_answer("promote_known_and_unknown.http", &ask.promote(&nomad, &id, r#","Groups":["cljdoc","nothing"]"#).await);
    assert!(is_promoted());
    check_answer("promote_terminal.http", &ask.promote(&nomad, &id, r#","All":true"#).await);
    // Not healthy.
    nomad.submit(Spec::cljdoc(Group::new("v3")));
    let id = nomad.deployment("cljdoc");
    check_answer("promote_unhealthy.http", &ask.promote(&nomad, &id, r#","All":true"#).await);
    work(&nomad);
    check_answer("deployment_canary_healthy.http", &ask.get(&nomad, &format!("/v1/deployment/{id}")).await);
    let canary = nomad.allocations("cljdoc", 2).remove(0);
    let stopped = ask.ask(&nomad, "POST", &format!("/v1/allocation/{canary}/stop"), "").await;
    check_answer("allocation_stop.http", &stopped);
    let refused = ask.promote(&nomad, &id, r#","Groups":["cljdoc"]"#).await;
    check_answer("promote_replaced_canary_not_healthy_yet.http", &refused);
}

#[tokio::test]
async fn ends_are_answered_as_recorded() {
    let ask = Asking::new();
    let (nomad, id) = with_canary().await;
    check_answer("fail.http", &ask.ask(&nomad, "POST", &format!("/v1/deployment/fail/{id}"), "").await);
    check_answer("deployment_failed.http", &ask.get(&nomad, &format!("/v1/deployment/{id}")).await);
    let body = r#"{"JobID":"cljdoc","JobVersion":0,"EnforcePriorVersion":1}"#;
    check_answer("revert.http", &ask.ask(&nomad, "POST", "/v1/job/cljdoc/revert", body).await);
    let again = ask.ask(&nomad, "POST", "/v1/job/cljdoc/revert", body).await;
    assert_eq!((again.status, again.body.as_str()), (500, "Current job has version 2; enforcing version 1"));

    let (nomad, id) = with_canary().await;
    check_answer("job_delete.http", &ask.ask(&nomad, "DELETE", "/v1/job/cljdoc", "").await);
    check_answer("deployment_after_job_stop.http", &ask.get(&nomad, &format!("/v1/deployment/{id}")).await);
    check_answer("promote_after_job_stop.http", &ask.promote(&nomad, &id, r#","Groups":["cljdoc"]"#).await);

    let (nomad, id) = with_canary().await;
    check_answer("job_delete_purge.http", &ask.ask(&nomad, "DELETE", "/v1/job/cljdoc?purge=true", "").await);
    check_answer("deployment_after_job_purge.http", &ask.get(&nomad, &format!("/v1/deployment/{id}")).await);
    check_answer("promote_after_job_purge.http", &ask.promote(&nomad, &id, r#","Groups":["cljdoc"]"#).await);
    check_answer("job_after_purge.http", &ask.get(&nomad, "/v1/job/cljdoc").await);

    let group = |content: &str| Group { auto_revert: true, ..Group::new(content) };
    let nomad = with_stable(Spec::cljdoc(group("v1"))).await;
    nomad.submit(Spec::cljdoc(group("v2")));
    let id = nomad.deployment("cljdoc");
    let failed = ask.ask(&nomad, "POST", &format!("/v1/deployment/fail/{id}"), "").await;
    check_answer("fail_one_of_two_promoted_revert.http", &failed);
}

#[tokio::test]
async fn promotions_of_several_groups_and_canaries_are_answered_as_recorded() {
    let ask = Asking::new();
    let lb = |content: &str| Group { count: 3, canary: 0, ..Group::new(content) };
    let nomad = with_stable(two_groups("v1", lb("v1"))).await;
    nomad.submit(two_groups("v2", lb("v2")));
    work(&nomad);
    let id = nomad.deployment("cljdoc");
    nomad.change(|cluster| cluster.pause(&id, true)).unwrap();
    let is_promoted = || nomad.see(|cluster| cluster.deployments[&id].groups["cljdoc"].promoted);
    check_answer("promote_group_without_canaries.http", &ask.promote(&nomad, &id, r#","Groups":["lb"]"#).await);
    assert!(!is_promoted());
    check_answer("promote_one_of_two_groups.http", &ask.promote(&nomad, &id, r#","Groups":["cljdoc"]"#).await);
    assert!(is_promoted());

    let of_two = |content: &str| Spec::cljdoc(Group { count: 2, canary: 2, ..Group::new(content) });
    let nomad = with_stable(of_two("v1")).await;
    nomad.submit(of_two("v2"));
    let canaries = start(&nomad);
    nomad.change(|cluster| cluster.healthy(&canaries[0]));
    let refused = ask.promote(&nomad, &nomad.deployment("cljdoc"), r#","Groups":["cljdoc"]"#).await;
    check_answer("promote_one_of_two_canaries_healthy.http", &refused);
}

#[tokio::test]
async fn a_tasks_own_socket_refuses_who_has_no_token_as_recorded() {
    let nomad = Nomad::start().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    nomad.listen(&socket);
    let by_socket = Asking(reqwest::Client::builder().no_proxy().unix_socket(socket).build().unwrap());
    check_answer("task_api_no_token.http", &by_socket.get(&nomad, "/v1/deployments").await);
}

#[tokio::test]
async fn a_stream_is_ended_in_words_as_recorded() {
    let nomad = Nomad::start().await;
    let stream = Asking::new().0.get(format!("{}/v1/event/stream?topic=Deployment", nomad.url())).send().await.unwrap();
    assert_eq!((stream.status().as_u16(), stream.headers()["content-type"].to_str().unwrap()), (200, "application/json"));
    tokio::time::timeout(crate::watch::DEADLINE, nomad.streams().wait_for(|open| *open == 1)).await.unwrap().unwrap();
    nomad.restart();
    let told = stream.text().await.unwrap();
    // Recorded with its chunks: each begins with its size on a line of its own.
    let recorded = recorded("event_stream_closed_by_server.raw").replace('\r', "");
    let chunks = recorded.split_once("\n\n").unwrap().1;
    let words = chunks.lines().filter(|line| usize::from_str_radix(line, 16).is_err() && !line.is_empty());
    assert_eq!(told.lines().collect::<Vec<_>>(), words.collect::<Vec<_>>());
    assert!(!told.ends_with('\n'), "the last line has no end");
}
