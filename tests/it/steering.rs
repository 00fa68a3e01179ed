//! People steer: over the socket as the command line does, and over the API with a token.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tidegate::cli::{order, wait};
use tidegate::demo::instance::{Behaviour, Instance};
use tidegate::names::Share;
use tidegate::steering::{Answer, Order, Target, socket};
use tokio::task::JoinHandle;

use crate::support::client::Http;
use crate::support::edge::{Edge, EdgeBuilder, PATIENCE, registration, until};
use crate::support::upstream::{Asked, Upstream, ok};

const SITE: &str = "site@consulcatalog";

fn site() -> Target {
    Target::Service(SITE.to_owned())
}

fn socket(edge: &Edge) -> PathBuf {
    edge.state().join(socket::FILE_NAME)
}

/// Orders something, as `tidegate rollout` and `tidegate drain` do.
async fn told(edge: &Edge, order: Order) -> Answer {
    let socket = socket(edge);
    edge.until("the socket", async || socket.exists()).await;
    tokio::task::spawn_blocking(move || order::ask(&socket, &order)).await.unwrap().unwrap()
}

#[track_caller]
fn is_done(answer: &Answer, words: &str) {
    assert!(answer.is_ok && answer.text.contains(words), "{answer:?}");
}

#[track_caller]
fn is_refused(answer: &Answer, words: &str) {
    assert!(!answer.is_ok && answer.text.contains(words), "{answer:?}");
}

fn drain(server: impl ToString, force: bool) -> Order {
    Order::Drain { server: server.to_string(), force }
}

/// `tidegate rollout wait`, in the background: its exit code and what it printed.
fn wait_for(edge: &Edge, target: Target) -> JoinHandle<(u8, String)> {
    let socket = socket(edge);
    tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        let code = wait::run(&socket, &target, PATIENCE, &mut out);
        (code, String::from_utf8(out).unwrap())
    })
}

/// A proxy with a stable instance and a canary in the ramp.
async fn ramp_with(builder: EdgeBuilder, tags: &[&str]) -> (Edge, [Upstream; 2]) {
    let (v1, v2) = (Upstream::named("v1").await, Upstream::named("v2").await);
    let edge = builder.registered("v1", v1.address).run().await;
    edge.register_at("v2", v2.address, tags);
    edge.until("the ramp", async || edge.rollout().await["phase"] == "ramp").await;
    (edge, [v1, v2])
}

async fn ramp() -> (Edge, [Upstream; 2]) {
    ramp_with(Edge::start(), &[]).await
}

async fn answered_by(edge: &Edge, times: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..times {
        let answer = edge.get("/").await;
        assert_eq!(answer.status, 200);
        names.push(answer.text());
    }
    names
}

#[tokio::test]
async fn a_person_fixes_the_share_and_gives_it_back() {
    let (edge, [v1, _v2]) = ramp().await;
    let answer = told(&edge, Order::SetShare { rollout: site(), share: Share::ALL }).await;
    is_done(&answer, "canary share 50 % -> 100 %: ");
    assert_eq!(edge.rollout().await["fixed_share"], 1.0);
    let before = v1.users().len();
    let by_canary = answered_by(&edge, 40).await.iter().filter(|name| *name == "v2").count();
    // Until twenty successes are known, requests over its limit go to stable.
    assert!(by_canary >= 38 && v1.users().len() - before == 40 - by_canary, "{by_canary}");

    is_done(&told(&edge, Order::Abort { rollout: site() }).await, "aborted it, so it has failed");
    assert!(answered_by(&edge, 10).await.iter().all(|name| name == "v1"));
    is_refused(&told(&edge, Order::Hold { rollout: site() }).await, "the canary has failed already");
    is_done(&told(&edge, Order::Resume { rollout: site() }).await, "judged anew from the beginning");
    edge.until("the ramp", async || edge.rollout().await["phase"] == "ramp").await;

    is_done(&told(&edge, Order::Promote { rollout: site() }).await, "canary is stable now: ");
    assert_eq!(edge.rollout().await, Value::Null);
    is_refused(&told(&edge, Order::Promote { rollout: site() }).await, "there is no rollout");
}

#[tokio::test]
async fn what_is_listed_and_shown_is_the_same_for_people_and_programs() {
    let (edge, _servers) = ramp().await;
    let list = told(&edge, Order::List).await;
    is_done(&list, "site@consulcatalog");
    assert_eq!(list.value["rollouts"][0]["rollout"]["phase"], "ramp");
    let by_name = told(&edge, Order::Show { rollout: Some(Target::Service("site".to_owned())) }).await;
    is_done(&by_name, "gets 50 % of the requests, in step 1 of 3");
    let shown = &by_name.value["rollouts"][0];
    assert_eq!((&shown["service"], &shown["verdict"]), (&Value::from(SITE), &Value::Null));
    assert!(shown["log"][0]["sentence"].as_str().unwrap().contains("it answered 3 probes in a row"), "{shown}");
    is_done(&told(&edge, Order::Show { rollout: None }).await, SITE);
    let unknown = Order::Show { rollout: Some(Target::Service("sit".to_owned())) };
    is_refused(&told(&edge, unknown).await, "did you mean `site`?");
    let job = Order::Hold { rollout: Target::Job("site".parse().unwrap()) };
    is_refused(&told(&edge, job).await, "jobs are not known without `tidegate.nomad`");
}

#[tokio::test]
async fn everything_can_be_given_back_at_once() {
    let (edge, _servers) = ramp().await;
    is_done(&told(&edge, Order::ReleaseAll).await, "released it, so it is no longer judged");
    assert_eq!(edge.rollout().await["phase"], "released");
    is_done(&told(&edge, Order::ReleaseAll).await, "nothing is held");
}

#[tokio::test]
async fn a_drained_server_gets_no_new_request_and_finishes_those_it_has() {
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let opened = std::sync::Arc::clone(&gate);
    let v1 = Upstream::start(move |asked: Asked| {
        let gate = std::sync::Arc::clone(&opened);
        async move {
            if asked.line.ends_with("/slow") {
                gate.notified().await;
            }
            ok("v1")
        }
    })
    .await;
    let v2 = Upstream::named("v2").await;
    // Both are there from the beginning, so neither is a canary.
    let edge = Edge::start().registered("v1", v1.address).registered("v2", v2.address).run().await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut client = edge.connect().await;
        slow.push(tokio::spawn(async move { client.ask("GET /slow HTTP/1.1\r\nHost: site.test\r\n\r\n").await }));
    }
    edge.until("a slow request", async || v1.users().iter().any(|asked| asked.line == "GET /slow")).await;

    is_done(&told(&edge, drain(v1.address, false)).await, "gets no new request; 1 are running");
    let before = v1.users().len();
    assert!(answered_by(&edge, 20).await.iter().all(|name| name == "v2"));
    assert_eq!(v1.users().len(), before);
    let list = told(&edge, Order::List).await;
    is_done(&list, &format!("Drained: http://{} of {SITE}, 1 requests running.", v1.address));
    assert_eq!(list.value["drained"][0]["instance"], "v1");
    is_refused(&told(&edge, drain("v2", false)).await, "no other stable server of site@consulcatalog is fit to serve");
    gate.notify_one();
    for one in slow {
        assert_eq!(one.await.unwrap().unwrap().status, 200);
    }
    edge.is_quiet().await;

    is_done(&told(&edge, Order::Undrain { server: "v1".to_owned() }).await, "gets requests again");
    is_refused(&told(&edge, Order::Undrain { server: "v1".to_owned() }).await, "is not drained");
    let names = answered_by(&edge, 20).await;
    assert!(names.iter().any(|name| name == "v1") && names.iter().any(|name| name == "v2"), "{names:?}");
    is_refused(&told(&edge, drain("v3", false)).await, "there is no server `v3` (did you mean `v");
}

#[tokio::test]
async fn the_last_server_is_drained_only_by_force_and_a_spared_one_serves_before_nobody_does() {
    let (v1, v2) = (Upstream::named("v1").await, Upstream::named("v2").await);
    let edge = Edge::start().registered("v1", v1.address).registered("v2", v2.address).run().await;
    is_done(&told(&edge, drain("v1", false)).await, "gets no new request");
    edge.catalog().deregister("v2");
    edge.has_servers(1).await;
    assert_eq!(answered_by(&edge, 3).await, ["v1", "v1", "v1"]);
    is_done(&told(&edge, drain("v1", true)).await, "gets no new request");
    assert_eq!(edge.get("/").await.status, 503);
    // When its instance leaves, so does the drain.
    edge.catalog().deregister("v1");
    edge.has_servers(0).await;
    edge.register_at("v1", v1.address, &[]);
    edge.until("it serves", async || edge.get("/").await.status == 200).await;
}

#[tokio::test]
async fn draining_a_canary_is_no_failure_of_its() {
    let (edge, _servers) = ramp().await;
    is_done(&told(&edge, drain("v2", false)).await, "gets no new request");
    assert!(answered_by(&edge, 20).await.iter().all(|name| name == "v1"));
    assert_eq!(edge.rollout().await, Value::Null);
    is_done(&told(&edge, Order::Undrain { server: "v2".to_owned() }).await, "gets requests again");
    edge.until("it is judged again", async || edge.rollout().await["phase"] == "ramp").await;
}

#[tokio::test]
async fn waiting_ends_with_how_the_rollout_ended() {
    let (edge, _servers) = ramp().await;
    let check = async |order: Order, code: u8, words: &[&str]| {
        let waiting = wait_for(&edge, site());
        is_done(&told(&edge, order).await, "");
        let (found, printed) = waiting.await.unwrap();
        assert!(found == code && words.iter().all(|word| printed.contains(word)), "{found}: {printed}");
    };
    check(Order::Abort { rollout: site() }, wait::FAILED, &["site@consulcatalog: failed."]).await;
    is_done(&told(&edge, Order::Resume { rollout: site() }).await, "");
    check(Order::Release { rollout: site() }, wait::UNDECIDED, &["site@consulcatalog: released."]).await;
    is_done(&told(&edge, Order::Resume { rollout: site() }).await, "");
    check(Order::Promote { rollout: site() }, wait::PROMOTED, &["site@consulcatalog: promoted."]).await;
}

#[tokio::test]
async fn waiting_prints_what_is_decided_meanwhile() {
    let (edge, _servers) = ramp().await;
    let waiting = wait_for(&edge, site());
    let share = Share::from_fraction(0.2);
    // Said before or after its first question: either way the end is told.
    is_done(&told(&edge, Order::SetShare { rollout: site(), share }).await, "");
    edge.catalog().deregister("v2");
    let (code, printed) = waiting.await.unwrap();
    assert_eq!(code, wait::UNDECIDED, "{printed}");
    assert!(printed.ends_with("site@consulcatalog: gone.\n"), "{printed}");
}

#[tokio::test]
async fn there_is_nothing_to_wait_for_without_a_rollout() {
    let v1 = Upstream::named("v1").await;
    let edge = Edge::start().registered("v1", v1.address).run().await;
    edge.until("the socket", async || socket(&edge).exists()).await;
    let (code, printed) = wait_for(&edge, site()).await.unwrap();
    assert_eq!((code, printed.as_str()), (wait::PROMOTED, "There is no rollout, so there is nothing to wait for.\n"));
    let (code, printed) = wait_for(&edge, Target::Service("sitee".to_owned())).await.unwrap();
    assert_eq!(code, order::NOT_ASKED);
    assert!(printed.contains("did you mean `site`?"), "{printed}");
}

/// A POST to the `traefik` entrypoint.
async fn post(edge: &Edge, target: &str, token: Option<&str>) -> (u16, Value) {
    let mut client = Http::connect(edge.address("traefik")).await.unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let answer = client.ask(format!("POST {target} HTTP/1.1\r\nHost: admin\r\n{token}Content-Length: 0\r\n\r\n")).await.unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

#[tokio::test]
async fn the_api_steers_only_with_the_token_and_reading_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "secret\n").unwrap();
    let builder = Edge::start().set(move |install| install.own.steering_token_file = Some(path));
    let (edge, _servers) = ramp_with(builder, &["canary=true"]).await;
    let hold = "/api/tidegate/rollouts/hold?service=site%40consulcatalog";
    for token in [None, Some("wrong")] {
        let (status, answer) = post(&edge, hold, token).await;
        assert!(status == 401 && answer["ok"] == false, "{status} {answer}");
    }
    assert_eq!(edge.rollout().await["fixed_share"], Value::Null);
    let (status, answer) = post(&edge, hold, Some("secret")).await;
    assert!(status == 200 && answer["text"].as_str().unwrap().contains("whoever has the API token holds it"), "{answer}");
    assert_eq!(edge.rollout().await["fixed_share"], edge.rollout().await["share"]);
    let (status, answer) = post(&edge, "/api/tidegate/rollouts/hold?service=other", Some("secret")).await;
    assert_eq!((status, &answer["ok"]), (409, &Value::from(false)));
    assert_eq!(post(&edge, "/api/tidegate/rollouts/hodl?service=site", Some("secret")).await.0, 404);
    // A question is no order, and an order is no question.
    assert_eq!(edge.admin(hold).await.status, 404);
    assert_eq!(post(&edge, "/api/rawdata", Some("secret")).await.0, 405);
}

#[tokio::test]
async fn without_a_token_file_the_api_steers_nobody() {
    let (edge, _servers) = ramp().await;
    let (status, answer) = post(&edge, "/api/tidegate/rollouts/release?all=true", Some("")).await;
    assert!(status == 403 && answer["text"].as_str().unwrap().contains("`tidegate.rollout.tokenFile` is not set"), "{answer}");
    assert_eq!(edge.rollout().await["phase"], "ramp");
}

#[tokio::test]
async fn what_is_decided_reaches_the_webhook_and_what_does_not_is_counted() {
    let hook = Upstream::start(|asked: Asked| async move {
        let mut answer = ok("");
        if String::from_utf8_lossy(&asked.body).contains("drained") {
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        answer
    })
    .await;
    let url = format!("http://{}/events", hook.address);
    let (edge, _servers) = ramp_with(Edge::start().set(move |install| install.own.webhook = Some(url)), &[]).await;
    is_done(&told(&edge, Order::Abort { rollout: site() }).await, "");
    // The hook is ours, so what comes to it looks like our probes.
    let events = || -> Vec<Value> { hook.probes().iter().map(|asked| serde_json::from_slice(&asked.body).unwrap()).collect() };
    until("two events", async || events().len() >= 2).await;
    let (first, second) = (&events()[0], &events()[1]);
    assert_eq!((&first["kind"], &second["kind"]), (&Value::from("share"), &Value::from("failed")));
    assert_eq!((&second["service"], &second["report"]["phase"]), (&Value::from(SITE), &Value::from("failed")));
    assert!(second["sentence"].as_str().unwrap().contains("aborted it"), "{second}");
    assert!(second["at"].as_str().unwrap().ends_with('Z'), "{second}");
    is_done(&told(&edge, drain("v2", false)).await, "");
    let dropped = async || edge.metric("tidegate_webhook_dropped_total").await == Some(1.0);
    edge.until("the failed event is counted", dropped).await;
    let tries = events().iter().filter(|event| event["kind"] == "drained").count();
    assert_eq!(tries, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fixed_share_is_taken_away_from_a_canary_that_fails() {
    let (edge, _v1, v2) = {
        let (v1, v2) = (Upstream::named("v1").await, Instance::start("v2", Behaviour::Good(Duration::ZERO)).await.unwrap());
        let edge = Edge::start().registered("v1", v1.address).run().await;
        edge.register("v2", &v2, &[]);
        edge.until("the ramp", async || edge.rollout().await["phase"] == "ramp").await;
        (edge, v1, v2)
    };
    is_done(&told(&edge, Order::SetShare { rollout: site(), share: Share::ALL }).await, "-> 100 %");
    v2.behave(Behaviour::Failing(1.0));
    for _ in 0..10 {
        assert_eq!(edge.get("/").await.status, 200);
    }
    edge.until("its share is taken away", async || edge.rollout().await["share"] == 0.0).await;
    let shown = told(&edge, Order::Show { rollout: Some(site()) }).await;
    is_done(&shown, "3 canary requests in a row failed");
}

#[tokio::test]
async fn one_address_of_two_services_is_drained_in_both() {
    let (v1, v2) = (Upstream::named("v1").await, Upstream::named("v2").await);
    let edge = Edge::start().registered("v1", v1.address).registered("v2", v2.address).run().await;
    for (id, upstream) in [("b1", &v1), ("b2", &v2)] {
        let tags = ["traefik.enable=true", "traefik.http.routers.blog.rule=Host(`blog`)"];
        edge.catalog().register(registration(id, "blog", upstream.address, &tags)).unwrap();
    }
    edge.has_servers(4).await;
    let answer = told(&edge, drain(format!("http://{}", v1.address), false)).await;
    is_done(&answer, "of blog@consulcatalog gets no new request");
    is_done(&answer, "of site@consulcatalog gets no new request");
    assert_eq!(told(&edge, Order::List).await.value["drained"].as_array().unwrap().len(), 2);
}
