//! Our watch and client against a Nomad in trouble: what was known stays, the state says why it may be old, and when the
//! trouble is over everything is right again.

use std::time::Duration;

use tidegate::clock;
use tidegate::orchestrator::watch::WatchSettings;
use tidegate::orchestrator::{CALL_TIMEOUT, Call, CallOutcome, DeploymentStatus, NomadState};

use crate::contract::{with_stable, work};
use crate::stand_in::{Fault, Group, Nomad, Spec, StreamFault};
use crate::watch::{Watching, client, is_stopping, newest, settings};

/// Version 0 runs, version 1 has a canary, and both are known.
async fn with_canary(watch_settings: WatchSettings) -> (Nomad, Watching) {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    nomad.submit(Spec::cljdoc(Group::new("v2")));
    work(&nomad);
    let mut watching = Watching::start_with(&settings(&nomad), watch_settings);
    watching.is_well().await;
    (nomad, watching)
}

fn status(state: &NomadState) -> DeploymentStatus {
    newest(state).status
}

/// Lists are read often.
fn eager() -> WatchSettings {
    WatchSettings { reread_interval: Duration::from_millis(50), ..WatchSettings::default() }
}

/// Nomad fails in some way, for a while; the deployment is paused meanwhile.
async fn survives(fault: Fault, doubt: &str) {
    let (nomad, mut watching) = with_canary(WatchSettings::default()).await;
    nomad.fault_reads(fault);
    nomad.cut_streams();
    let failing = watching.shows("the doubt", |state| state.doubt.as_ref().is_some_and(|found| found.contains(doubt))).await;
    assert_eq!((failing.view.allocations.len(), status(&failing)), (2, DeploymentStatus::Running));
    nomad.change(|cluster| cluster.pause(&nomad_deployment(cluster), true)).unwrap();
    nomad.fault_reads(Fault::None);
    let state = watching.is_well().await;
    assert_eq!(status(&state), DeploymentStatus::Paused);
}

fn nomad_deployment(cluster: &crate::stand_in::cluster::Cluster) -> String {
    cluster.deployments.values().max_by_key(|deployment| deployment.version).unwrap().id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_that_answers_500_keeps_its_last_word() {
    survives(Fault::Status(500, "No cluster leader"), "it answered 500 Internal Server Error: No cluster leader").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_that_refuses_us_keeps_its_last_word() {
    survives(Fault::Status(403, "Permission denied"), "it answered 403 Forbidden: Permission denied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_that_talks_nonsense_keeps_its_last_word() {
    survives(Fault::Nonsense, "its answer cannot be read: expected value").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_that_cuts_connections_keeps_its_last_word() {
    survives(Fault::Cut, "asked nomad for /v1/jobs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_whose_lists_are_suddenly_empty_keeps_its_last_word() {
    survives(Fault::Empty, "nomad lists nothing any more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_were_empty_are_read_again_soon_though_the_stream_goes_on() {
    let (nomad, mut watching) = with_canary(WatchSettings::default()).await;
    nomad.fault_reads(Fault::Empty);
    nomad.cut_streams();
    watching.shows("the doubt", |state| state.doubt.as_ref().is_some_and(|doubt| doubt.contains("lists nothing"))).await;
    let streams = |open: &usize| *open == 1;
    tokio::time::timeout(crate::watch::DEADLINE, nomad.streams().wait_for(streams)).await.unwrap().unwrap();
    let read = nomad.asked().len();
    let is_read_again = || nomad.asked().iter().skip(read).filter(|asked| asked.starts_with("GET /v1/deployments")).count() >= 1;
    let deadline = clock::now() + crate::watch::DEADLINE;
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    while !is_read_again() {
        assert!(clock::now() < deadline, "{:?}", nomad.asked());
        pause.tick().await;
    }
    nomad.fault_reads(Fault::None);
    watching.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_nomad_delays_nobody_but_itself() {
    let (nomad, mut watching) = with_canary(eager()).await;
    nomad.fault_reads(Fault::Slow(Duration::from_millis(300)));
    // The stream is told, and heard, while lists are on their way.
    let old = nomad.allocations("cljdoc", 0).remove(0);
    let started = clock::now();
    nomad.change(|cluster| cluster.stop_allocation(&old));
    watching.shows("the stop", |state| is_stopping(state, &old)).await;
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_fail_do_not_silence_the_stream() {
    let (nomad, mut watching) = with_canary(eager()).await;
    nomad.fault_reads(Fault::Status(500, "No cluster leader"));
    watching.shows("the doubt", |state| state.doubt.is_some()).await;
    let old = nomad.allocations("cljdoc", 0).remove(0);
    nomad.change(|cluster| cluster.stop_allocation(&old));
    let state = watching.shows("the stop", |state| is_stopping(state, &old)).await;
    assert!(state.doubt.is_some() && *nomad.streams().borrow() == 1, "{:?}", state.doubt);
    nomad.fault_reads(Fault::None);
    watching.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_is_opened_again_and_nothing_is_missed() {
    let (nomad, mut watching) = with_canary(WatchSettings::default()).await;
    for round in 0..5 {
        nomad.cut_streams();
        nomad.change(|cluster| cluster.pause(&nomad_deployment(cluster), round % 2 == 0)).unwrap();
        let expected = if round % 2 == 0 { DeploymentStatus::Paused } else { DeploymentStatus::Running };
        watching.shows("what happened meanwhile", |state| status(state) == expected && state.doubt.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_nomad_that_tells_its_history_again_changes_nothing() {
    let (nomad, mut watching) = with_canary(WatchSettings::default()).await;
    nomad.change(|cluster| cluster.pause(&nomad_deployment(cluster), true)).unwrap();
    let before = watching.shows("the pause", |state| status(state) == DeploymentStatus::Paused).await;
    nomad.restart();
    let doubted = watching.shows("the missing leader", |state| state.doubt.as_deref() == Some("nomad has no leader")).await;
    assert_eq!(doubted.view, before.view);
    nomad.elect();
    let after = watching.is_well().await;
    assert_eq!(after.view, before.view);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_everything_twice_is_heard_once() {
    let (nomad, mut watching) = with_canary(WatchSettings::default()).await;
    nomad.fault_stream(StreamFault::Double);
    let old = nomad.allocations("cljdoc", 0).remove(0);
    nomad.change(|cluster| cluster.stop_allocation(&old));
    let state = watching.shows("the stop", |state| is_stopping(state, &old)).await;
    assert_eq!((state.doubt, state.view.allocations.len()), (None, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_stream_is_mended_by_lists() {
    let (nomad, mut watching) = with_canary(eager()).await;
    nomad.fault_stream(StreamFault::Hole);
    nomad.change(|cluster| cluster.pause(&nomad_deployment(cluster), true)).unwrap();
    watching.shows("the pause", |state| status(state) == DeploymentStatus::Paused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_cannot_be_read_is_made_good_by_lists_at_once() {
    let (nomad, mut watching) = with_canary(WatchSettings::default()).await;
    nomad.fault_stream(StreamFault::Garble);
    nomad.fault_reads(Fault::Silence);
    nomad.change(|cluster| cluster.pause(&nomad_deployment(cluster), true)).unwrap();
    watching.shows("the doubt", |state| state.doubt.as_ref().is_some_and(|doubt| doubt.contains("cannot be read"))).await;
    nomad.fault_reads(Fault::None);
    watching.shows("the pause", |state| status(state) == DeploymentStatus::Paused && state.doubt.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_given_up() {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    nomad.heartbeat(Duration::from_millis(20));
    let impatient = WatchSettings { silence_max: Duration::from_millis(400), ..WatchSettings::default() };
    let mut watching = Watching::start_with(&settings(&nomad), impatient);
    watching.is_well().await;
    nomad.fault_stream(StreamFault::Silence);
    watching.shows("the silence", |state| state.doubt.as_ref().is_some_and(|doubt| doubt.contains("was silent for 400ms"))).await;
    nomad.fault_stream(StreamFault::None);
    watching.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_that_began_anew_is_believed() {
    let (nomad, mut watching) = with_canary(WatchSettings::default()).await;
    nomad.wipe();
    watching.shows("nothing", |state| state.view.allocations.is_empty() && state.view.jobs.is_empty()).await;
    nomad.submit(Spec::cljdoc(Group::new("v1")));
    work(&nomad);
    let state = watching.shows("the new job", |state| state.view.allocations.len() == 1).await;
    assert!(state.view.index < 20, "{}", state.view.index);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nomad_that_starts_after_us_is_found() {
    let nomad = Nomad::start().await;
    nomad.fault_reads(Fault::Cut);
    let mut watching = Watching::start(&nomad);
    let failing =
        watching.shows("the failure", |state| state.doubt.as_ref().is_some_and(|doubt| doubt.contains("asked nomad"))).await;
    assert!(!failing.is_complete);
    nomad.fault_reads(Fault::None);
    watching.is_well().await;
}

/// Pauses a deployment while calls fail in some way.
async fn call_with(fault: Fault) -> (Nomad, CallOutcome) {
    let nomad = with_stable(Spec::cljdoc(Group::new("v1"))).await;
    nomad.submit(Spec::cljdoc(Group::new("v2")));
    work(&nomad);
    let client = client(&settings(&nomad));
    let deployment = client.deployment("default", &nomad.deployment("cljdoc")).await.unwrap().unwrap();
    nomad.fault_calls(fault);
    let outcome = client.call(&deployment, &Call::Pause).await;
    (nomad, outcome)
}

fn is_paused(nomad: &Nomad) -> bool {
    nomad.see(|cluster| cluster.deployments[&nomad_deployment(cluster)].status == "paused")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_refused_says_so_in_nomads_words() {
    let (nomad, outcome) = call_with(Fault::Status(403, "Permission denied")).await;
    assert_eq!(outcome, CallOutcome::Refused { status: 403, message: "Permission denied".to_owned() });
    assert_eq!((nomad.called().len(), is_paused(&nomad)), (1, false));
    let (_, outcome) = call_with(Fault::Status(500, "No cluster leader")).await;
    assert_eq!(outcome, CallOutcome::Refused { status: 500, message: "No cluster leader".to_owned() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_is_lost_is_neither_done_nor_refused_and_never_made_twice() {
    let (nomad, outcome) = call_with(Fault::Swallow).await;
    assert!(matches!(outcome, CallOutcome::Unknown { .. }), "{outcome:?}");
    assert_eq!((nomad.called().len(), is_paused(&nomad)), (1, true));
    let (nomad, outcome) = call_with(Fault::Nonsense).await;
    assert!(matches!(&outcome, CallOutcome::Unknown { error } if error.contains("<html>no nomad here</html>")), "{outcome:?}");
    assert_eq!((nomad.called().len(), is_paused(&nomad)), (1, false));
    let (_, outcome) = call_with(Fault::Status(502, "<html>")).await;
    assert!(matches!(outcome, CallOutcome::Unknown { .. }), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_is_given_up() {
    let (nomad, outcome) = call_with(Fault::Silence).await;
    assert_eq!(outcome, CallOutcome::Unknown { error: format!("no answer within {CALL_TIMEOUT:?}") });
    assert_eq!(nomad.called().len(), 1);
}
