//! Our client and watch against a Nomad that is well: what it does is known at once, and calls do what they say.

use std::sync::Arc;
use std::time::Duration;

use tidegate::clock;
use tidegate::config::install::NomadSettings;
use tidegate::names::Track;
use tidegate::orchestrator::access::Access;
use tidegate::orchestrator::client::Client;
use tidegate::orchestrator::watch::{WatchSettings, run};
use tidegate::orchestrator::{Call, CallOutcome, Deployment, DeploymentStatus, JobKey, NomadState};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::contract::{with_stable, work};
use crate::stand_in::{Group, Nomad, Spec, StreamFault};

/// How long a test waits for what must happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The watch, running.
pub struct Watching {
    pub state: watch::Receiver<NomadState>,
    _end: DropGuard,
}

pub fn client(settings: &NomadSettings) -> Arc<Client> {
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (access, problems) = Access::read(settings, &|_| None);
    assert_eq!(problems, []);
    Arc::new(Client::new(&access.unwrap()).unwrap())
}

pub fn settings(nomad: &Nomad) -> NomadSettings {
    NomadSettings { address: Some(nomad.url()), ..NomadSettings::default() }
}

impl Watching {
    pub fn start(nomad: &Nomad) -> Self {
        Self::start_with(&settings(nomad), WatchSettings::default())
    }

    pub fn start_with(settings: &NomadSettings, watch_settings: WatchSettings) -> Self {
        let (sender, state) = watch::channel(NomadState::unknown());
        let end = CancellationToken::new();
        tokio::spawn(run(client(settings), watch_settings, sender, end.clone()));
        Self { state, _end: end.drop_guard() }
    }

    /// Waits until the state is as wanted.
    pub async fn shows(&mut self, what: &str, wanted: impl Fn(&NomadState) -> bool) -> NomadState {
        let seen = tokio::time::timeout(DEADLINE, self.state.wait_for(|state| wanted(state))).await;
        let seen = seen.map(|state| state.unwrap().clone());
        seen.unwrap_or_else(|_| panic!("did not show {what} in time, but {:#?}", *self.state.borrow()))
    }

    /// Waits until nothing is in doubt.
    pub async fn is_well(&mut self) -> NomadState {
        self.shows("no doubt", |state| state.is_complete && state.doubt.is_none()).await
    }
}

pub fn is_stopping(state: &NomadState, id: &str) -> bool {
    state.view.track_of(id).is_some_and(|placement| placement.is_stopping)
}

pub fn newest(state: &NomadState) -> Deployment {
    state.view.deployments.values().max_by_key(|deployment| deployment.job_version).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_followed_from_canary_to_promotion() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    let mut watching = Watching::start(&nomad);
    let first = watching.is_well().await;
    let key = JobKey { namespace: "default".to_owned(), job: "cljdoc".to_owned() };
    assert_eq!((first.view.active_deployments().count(), first.view.jobs[&key].kind.as_str()), (0, "service"));
    let old = nomad.allocations("cljdoc", 0).remove(0);
    let placement = first.view.track_of(&old).unwrap();
    assert_eq!((placement.track, placement.version, placement.is_stopping), (Track::Stable, Some(0), false));

    nomad.submit(Spec::cljdoc(Group::new("v2")));
    work(&nomad);
    let canary = nomad.allocations("cljdoc", 1).remove(0);
    let state = watching
        .shows("the canary", |state| state.view.allocations.get(&canary).is_some_and(|known| known.healthy == Some(true)))
        .await;
    let placement = state.view.track_of(&canary).unwrap();
    assert_eq!((placement.track, placement.version), (Track::Canary, Some(1)));
    assert_eq!(state.view.jobs[&key].version, 1);
    let deployment = newest(&state);
    assert_eq!(state.view.live_canaries(&deployment.id, "cljdoc").len(), 1);
    let stables: Vec<&str> = state.view.live_stables(&key, "cljdoc").iter().map(|stable| stable.id.as_str()).collect();
    assert_eq!(stables, [old.as_str()]);

    nomad.change(|cluster| cluster.promote(&deployment.id, None)).unwrap();
    let state = watching.shows("the old one stopping", |state| is_stopping(state, &old)).await;
    assert_eq!(newest(&state).status, DeploymentStatus::Successful);
    assert_eq!(state.view.track_of(&canary).unwrap().track, Track::Stable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_known_within_milliseconds() {
    let nomad = with_stable(Spec::cljdoc(Group { count: 30, canary: 0, ..Group::new("v1") })).await;
    let mut watching = Watching::start(&nomad);
    watching.is_well().await;
    let mut times = Vec::new();
    for id in nomad.allocations("cljdoc", 0).into_iter().take(20) {
        let started = clock::now();
        nomad.change(|cluster| cluster.stop_allocation(&id));
        watching.shows("the stop", |state| is_stopping(state, &id)).await;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    // With the stand-in's own work, not optimised, beside other tests: the fastest says what the way itself takes.
    assert!(times[0] < Duration::from_millis(5) && times[times.len() / 2] < Duration::from_millis(50), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_do_what_they_say() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    let client = client(&settings(&nomad));
    nomad.submit(Spec::cljdoc(Group::new("v2")));
    work(&nomad);
    let id = nomad.deployment("cljdoc");
    let read = || async { client.deployment("default", &id).await.unwrap().unwrap() };
    let deployment = read().await;
    let promote = |groups: &[&str]| Call::Promote { groups: groups.iter().map(|group| (*group).to_owned()).collect() };
    let index = |outcome: CallOutcome| match outcome {
        CallOutcome::Accepted { index } => index,
        other => panic!("{other:?}"),
    };
    let paused_at = index(client.call(&deployment, &Call::Pause).await);
    let paused = read().await;
    assert_eq!((paused.status, paused.modify_index), (DeploymentStatus::Paused, paused_at));
    index(client.call(&deployment, &Call::Resume).await);
    assert_eq!(read().await.status, DeploymentStatus::Running);
    // Refused by ourselves: Nomad would say yes and do nothing.
    let before = nomad.called().len();
    for groups in [&["nothing"][..], &[], &["cljdoc", "nothing"]] {
        assert!(matches!(client.call(&deployment, &promote(groups)).await, CallOutcome::Refused { status: 400, .. }));
    }
    assert_eq!(nomad.called().len(), before);
    index(client.call(&deployment, &promote(&["cljdoc"])).await);
    let promoted = read().await;
    assert!(promoted.groups["cljdoc"].promoted && promoted.status == DeploymentStatus::Successful);
    let refused = |message: &str| CallOutcome::Refused { status: 500, message: message.to_owned() };
    assert_eq!(client.call(&deployment, &Call::Resume).await, refused("can't resume terminal deployment"));
    assert_eq!(client.call(&deployment, &Call::Fail).await, refused("can't fail terminal deployment"));
    assert_eq!(
        client.call(&deployment, &Call::Revert { to: 0, from: 7 }).await,
        refused("Current job has version 1; enforcing version 7")
    );
    index(client.call(&deployment, &Call::Revert { to: 0, from: 1 }).await);
    let stable = nomad.allocations("cljdoc", 1).remove(0);
    index(client.call(&deployment, &Call::Stop { allocation: stable.clone() }).await);
    let stopped = client.allocation("default", &stable).await.unwrap().unwrap();
    assert_eq!((stopped.is_wanted(), stopped.job_version), (false, Some(1)));
    let nobody = "00000000-0000-0000-0000-000000000000";
    assert_eq!(client.deployment("default", nobody).await.unwrap(), None);
    assert_eq!(client.allocation("default", nobody).await.unwrap(), None);
    assert_eq!(client.job(&JobKey { namespace: "default".to_owned(), job: "nothing".to_owned() }).await.unwrap(), None);
    nomad.submit(Spec::cljdoc(Group::new("v3")));
    let unhealthy = client.deployment("default", &nomad.deployment("cljdoc")).await.unwrap().unwrap();
    let outcome = client.call(&unhealthy, &promote(&["cljdoc"])).await;
    assert_eq!(outcome, refused("1 error occurred: * Task group \"cljdoc\" has 0/1 healthy allocations"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_job_takes_everything_with_it() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    nomad.submit(Spec::cljdoc(Group::new("v2")));
    work(&nomad);
    let ids = [nomad.allocations("cljdoc", 0).remove(0), nomad.allocations("cljdoc", 1).remove(0)];
    let mut watching = Watching::start(&nomad);
    watching.is_well().await;
    let key = JobKey { namespace: "default".to_owned(), job: "cljdoc".to_owned() };
    nomad.change(|cluster| cluster.purge(&key)).unwrap();
    let state = watching.shows("the purge", |state| state.view.jobs.is_empty()).await;
    assert!(state.view.deployments.is_empty() && ids.iter().all(|id| is_stopping(&state, id)), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_namespaces_that_are_named_are_watched() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    for namespace in ["blue", "green"] {
        nomad.submit(Spec { namespace: namespace.to_owned(), ..Spec::cljdoc(Group::new("v1")) });
    }
    work(&nomad);
    let named = NomadSettings { namespaces: vec!["blue".to_owned(), "green".to_owned()], ..settings(&nomad) };
    let mut watching = Watching::start_with(&named, WatchSettings::default());
    let state = watching.is_well().await;
    let namespaces = |state: &NomadState| state.view.jobs.keys().map(|key| key.namespace.clone()).collect::<Vec<_>>();
    assert_eq!(namespaces(&state), ["blue", "green"]);
    assert_eq!(state.view.allocations.len(), 2);
    // One stream for each, and what one says does not hide what the other says.
    let of = |namespace: &str| {
        nomad.see(|cluster| {
            cluster.allocations.values().find(|found| found.key.namespace == namespace).map(|found| found.id.clone()).unwrap()
        })
    };
    for id in [of("green"), of("blue")] {
        nomad.change(|cluster| cluster.stop_allocation(&id));
        watching.shows("the stop", |state| is_stopping(state, &id)).await;
    }
    let mut everywhere = Watching::start(&nomad);
    assert_eq!(namespaces(&everywhere.is_well().await), ["blue", "default", "green"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_is_replaced_by_blocking_queries_and_tried_again() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    for status in [403, 404, 501] {
        nomad.fault_stream(StreamFault::Refuse(status));
        let short = WatchSettings { fallback_time: Duration::from_secs(1), ..WatchSettings::default() };
        let mut watching = Watching::start_with(&settings(&nomad), short);
        watching.is_well().await;
        let old = nomad.allocations("cljdoc", 0).remove(0);
        nomad.change(|cluster| cluster.stop_allocation(&old));
        watching.shows("the stop", |state| is_stopping(state, &old)).await;
        // The one that replaces it is stable, without a word about its deployment.
        let new = nomad.allocations("cljdoc", 0).remove(0);
        let state = watching.shows("the new one", |state| state.view.track_of(&new).is_some()).await;
        assert_eq!(state.view.track_of(&new).unwrap().track, Track::Stable);
        nomad.submit(Spec::cljdoc(Group::new(&format!("after {status}"))));
        work(&nomad);
        let deployment = nomad.deployment("cljdoc");
        let state = watching.shows("the canary", |state| !state.view.live_canaries(&deployment, "cljdoc").is_empty()).await;
        let canary = state.view.live_canaries(&deployment, "cljdoc")[0].id.clone();
        assert_eq!(state.view.track_of(&canary).unwrap().track, Track::Canary);
        nomad.change(|cluster| cluster.fail(&deployment)).unwrap();
        work(&nomad);
        nomad.fault_stream(StreamFault::None);
        tokio::time::timeout(DEADLINE, nomad.streams().wait_for(|open| *open == 1)).await.unwrap().unwrap();
        drop(watching);
        tokio::time::timeout(DEADLINE, nomad.streams().wait_for(|open| *open == 0)).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_anew_when_it_is_refused() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    nomad.require_token("first");
    let with_file = NomadSettings { token_file: Some(file.clone()), ..settings(&nomad) };
    let mut watching = Watching::start_with(&with_file, WatchSettings::default());
    watching.is_well().await;
    nomad.require_token("second");
    nomad.cut_streams();
    watching
        .shows("the refusal", |state| {
            state.doubt.as_ref().is_some_and(|doubt| doubt.contains("403 Forbidden: Permission denied"))
        })
        .await;
    std::fs::write(&file, "second\n").unwrap();
    watching.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tasks_own_socket_is_asked_with_any_token() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    nomad.listen(&socket);
    let by_socket = NomadSettings { address: Some(format!("unix://{}", socket.display())), ..NomadSettings::default() };
    let mut watching = Watching::start_with(&by_socket, WatchSettings::default());
    let state = watching.is_well().await;
    assert_eq!(state.view.allocations.len(), 1);
    let old = nomad.allocations("cljdoc", 0).remove(0);
    nomad.change(|cluster| cluster.stop_allocation(&old));
    watching.shows("the stop", |state| is_stopping(state, &old)).await;
}
