//! Deployments told second by second: what Nomad and requests show, and what is asked and said.

use std::time::Duration;

use super::toy::{Scene, key};
use super::{Order, Verdict};
use crate::config::install::{AtMaxHold, Mode};
use crate::orchestrator::{CallOutcome, ClientStatus, DeploymentStatus, Desired};

use DeploymentStatus::{Failed, Paused, Running, Successful};

const PAUSED: [&str; 4] =
    ["a deployment with 1 canaries has begun", "steer web Withhold", "call Pause", "it is paused while .. 60 min"];
const DRAINED: [&str; 4] = [
    "every judged group has earned it, so the 1 instances",
    "steer web AllToCanary",
    "they have no open request",
    "call Promote",
];

fn undecided() -> Verdict {
    Verdict::Undecided { why: "stable failed too".to_owned() }
}

#[test]
fn a_good_deploy_is_held_judged_drained_promoted_and_watched() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.again().check(&[&PAUSED[..], &["steer web Judge"]].concat()).is("judge", &Paused);
    scene.pass(9).waits("Nomad has not called the canary of group web healthy");
    scene.toy.come_up("d1");
    scene.pass(5).check(&[]).waits("being probed");
    scene.verdict(Verdict::Ramping).pass(60).check(&[]).waits("being judged");
    scene.web().stable_in_flight.insert("a1".to_owned(), 2);
    scene.verdict(Verdict::Earned).pass(3).check(&DRAINED[..2]).waits("2 requests are still open");
    scene.web().stable_in_flight.clear();
    scene.pass(1).check(&[
        "they have no open request after 3 s",
        "drain a1",
        "call Promote",
        "it is promoted",
        "Nomad shows it as successful",
        "steer web Judge",
    ]);
    scene.is("watch", &Successful).pass(298).check(&[]).waits("watched");
    scene.pass(3).check(&["nothing was seen in the 5 min", "ended: promoted"]);
    scene.pass(60).check(&[]);
}

#[test]
fn a_deployment_is_not_held_before_all_its_canaries_are_placed() {
    let mut scene = Scene::new(&[("web", 2, 3, 3)]);
    let second = scene.toy.group("d1", "web").placed_canaries.pop().unwrap();
    scene.pass(1).check(&["a deployment with 2 canaries", "steer web Withhold"]).waits("1 of 2 canaries of group web are placed");
    scene.toy.group("d1", "web").placed_canaries.push(second);
    scene.pass(1).check(&["call Pause", "it is paused", "steer web Judge"]);
}

#[test]
fn in_mode_observe_nothing_is_asked() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.mode = Mode::Observe;
    scene.pass(5).check(&["a deployment with 1 canaries has begun"]).waits("the mode is `observe`");
    scene.toy.come_up("d1");
    scene.verdict(Verdict::Earned).pass(5);
    scene.fails().pass(5).check(&[]);
    scene.toy.post("d1", &crate::orchestrator::Call::Promote { groups: vec!["web".to_owned()] });
    scene.pass(1).check(&["promoted, by somebody else", "drain a1"]);
}

#[test]
fn in_mode_hold_a_person_promotes() {
    let mut scene = Scene::held(1, 1, 1);
    scene.mode = Mode::Hold;
    scene.verdict(Verdict::Earned).pass(60).check(&["it may be promoted: every judged group"]).waits("a person decides");
    scene.order(Order::Promote).pass(2).check(&[
        "a person said `promote`",
        "a person wants it promoted, so the 1",
        "steer web AllToCanary",
        "they have no open request",
        "drain a1",
        "call Promote",
        "it is promoted, as a person said",
        "successful",
        "steer web Judge",
    ]);
}

#[test]
fn in_mode_hold_a_bad_canary_is_not_failed() {
    let mut scene = Scene::held(1, 1, 1);
    scene.mode = Mode::Hold;
    scene.fails().pass(60).check(&["it should be failed: it fails; a person decides"]).is("judge", &Paused);
}

#[test]
fn a_person_promotes_a_canary_that_is_still_judged_and_one_that_nobody_held() {
    let mut scene = Scene::held(1, 1, 1);
    scene.verdict(Verdict::Ramping).order(Order::Promote).pass(2).is("watch", &Successful);
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.mode = Mode::Observe;
    scene.toy.come_up("d1");
    scene.pass(1).order(Order::Promote).pass(2).is("watch", &Successful);
    assert!(scene.said.iter().any(|said| said == "call Pause"), "{:?}", scene.said);
}

#[test]
fn a_person_cannot_promote_what_does_not_answer() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().canary_answers = false;
    scene
        .order(Order::Promote)
        .pass(12)
        .check(&["a person said", "not promoted now .. does not answer us now"])
        .is("judge", &Paused);
}

#[test]
fn a_bad_canary_gets_nothing_more_and_is_failed() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().canary_in_flight = 1;
    scene.fails().pass(5).check(&["the canary has failed (it fails)", "steer web Withhold"]).waits("1 requests are still open");
    scene.web().canary_in_flight = 0;
    scene.pass(1).check(&[
        "call Fail",
        "it is failed: it fails",
        "the job's current version stays the failed one .. reverted to version 0",
        "ended: failed",
    ]);
    assert_eq!(scene.toy.status("d1"), &Failed);
}

#[test]
fn a_canary_that_never_lets_go_of_its_requests_is_failed_after_30_seconds() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().canary_in_flight = 7;
    scene.fails().pass(29).check(&["the canary has failed", "steer web Withhold"]);
    scene.pass(3);
    assert_eq!(scene.toy.status("d1"), &Failed);
}

#[test]
fn a_long_stream_at_the_old_instance_is_not_waited_for_forever() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().stable_in_flight.insert("a1".to_owned(), 3);
    scene.verdict(Verdict::Earned).pass(29).check(&DRAINED[..2]);
    scene.pass(2);
    assert!(scene.said[0].contains("they have 3 open requests after 30 s, longer is not waited"), "{:?}", scene.said);
    scene.is("watch", &Successful);
}

#[test]
fn a_canary_that_buckles_under_the_whole_traffic_is_judged_again() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().stable_in_flight.insert("a1".to_owned(), 3);
    scene.verdict(Verdict::Earned).pass(2).check(&DRAINED[..2]);
    scene.verdict(Verdict::Suspended).again().check(&["does not stand the whole traffic (it is suspended)", "steer web Judge"]);
    scene.pass(5).check(&[]).is("judge", &Paused);
}

#[test]
fn a_canary_that_hangs_or_restarts_under_the_whole_traffic_loses_it_even_while_nomad_is_away() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().stable_in_flight.insert("a1".to_owned(), 3);
    scene.verdict(Verdict::Earned).pass(2).said.clear();
    scene.is_current = false;
    scene.web().canary_answers = false;
    scene.again().check(&["Nomad may be old", "does not stand the whole traffic (it does not answer)", "steer web Judge"]);
    scene.pass(9).check(&[]).waits("Nomad does not tell");
}

#[test]
fn one_canary_of_three_drains_only_its_namesake_then_nomad_rolls_the_rest() {
    let mut scene = Scene::held(1, 3, 3);
    scene.verdict(Verdict::Earned).pass(1).check(&[
        "every judged group has earned it, so the 1 instances",
        "drain a1",
        "they have no open request",
        "call Promote",
        "it is promoted",
        "drain a2",
    ]);
    scene.is("settle", &Paused).web().stable_in_flight.insert("a2".to_owned(), 1);
    scene.pass(3).check(&[]).waits("1 requests are still open");
    scene.web().stable_in_flight.clear();
    scene.pass(1).check(&["call Resume", "Nomad goes on with the rest"]).is("watch", &Running);
    scene.toy.react();
    scene.pass(1).check(&["drain a3"]).is("watch", &Successful);
}

#[test]
fn a_raised_count_kills_the_old_instance_at_the_resume_not_at_the_promotion() {
    let mut scene = Scene::held(1, 1, 2);
    scene.web().stable_in_flight.insert("a1".to_owned(), 1);
    scene.verdict(Verdict::Earned).pass(1).check(&[
        "so the 0 instances",
        "they have no open",
        "call Promote",
        "promoted",
        "drain a1",
    ]);
    scene.pass(5).check(&[]).is("settle", &Paused);
    scene.web().stable_in_flight.clear();
    scene.pass(1).check(&["call Resume", "Nomad goes on with the rest", "successful"]);
}

#[test]
fn as_many_canaries_as_instances_take_everything_before_the_promotion() {
    let mut scene = Scene::held(2, 2, 2);
    scene.verdict(Verdict::Earned).pass(1).check(&[
        "so the 2 instances",
        "steer web AllToCanary",
        "they have no open request",
        "drain a1",
        "drain a2",
        "call Promote",
        "it is promoted",
        "successful",
        "steer web Judge",
    ]);
}

#[test]
fn several_groups_are_promoted_together_in_one_call() {
    let mut scene = Scene::new(&[("api", 1, 1, 1), ("web", 1, 1, 1)]);
    scene.pass(1);
    scene.toy.come_up("d1");
    scene.verdict(Verdict::Earned).pass(5).waits("the canary of group api is being probed");
    scene.said.clear();
    scene.seen.get_mut("api").unwrap().verdict = Verdict::Earned;
    scene.pass(2).is("watch", &Successful);
    let promotes: Vec<&String> = scene.said.iter().filter(|said| said.contains("Promote")).collect();
    assert_eq!(promotes, [r#"call Promote { groups: ["api", "web"] }"#]);
}

#[test]
fn one_bad_group_fails_the_deployment() {
    let mut scene = Scene::new(&[("api", 1, 1, 1), ("web", 1, 1, 1)]);
    scene.pass(1);
    scene.toy.come_up("d1");
    scene.seen.get_mut("api").unwrap().verdict = Verdict::Earned;
    scene.fails().pass(2);
    assert!(scene.said.iter().any(|said| said == "it is failed: group web: it fails"), "{:?}", scene.said);
}

#[test]
fn groups_without_canaries_or_without_a_route_of_ours_are_not_judged() {
    let mut scene = Scene::new(&[("lb", 0, 1, 1), ("web", 1, 1, 1), ("worker", 1, 1, 1)]);
    scene.seen.remove("worker");
    scene.pass(1);
    scene.toy.come_up("d1");
    scene.verdict(Verdict::Earned).pass(2);
    assert!(scene.said.contains(&r#"call Promote { groups: ["web"] }"#.to_owned()), "{:?}", scene.said);
    // The other one's promotion is somebody else's: it goes on without us.
    scene.is("watch", &Running);
}

#[test]
fn a_deployment_that_no_route_uses_is_left_alone_without_a_word() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.seen.clear();
    scene.pass(60).check(&[]).waits("no live route");
}

#[test]
fn a_route_that_vanishes_gives_the_deployment_back() {
    let mut scene = Scene::held(1, 1, 1);
    scene.seen.clear();
    scene.pass(29).check(&[]).is("judge", &Paused);
    scene.pass(4).check(&["given back to Nomad: no live route", "call Resume", "it runs on without us"]);
}

#[test]
fn a_route_that_vanishes_during_the_drain_is_no_promotion() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().stable_in_flight.insert("a1".to_owned(), 3);
    scene.verdict(Verdict::Earned).pass(2).said.clear();
    scene.seen.clear();
    scene.pass(2).check(&["not promoted now .. no live route", "steer web Judge"]).is("judge", &Paused);
}

#[test]
fn system_jobs_and_deployments_over_several_regions_are_only_observed() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.toy.view.jobs.get_mut(&key()).unwrap().kind = "system".to_owned();
    scene.pass(5).check(&["a deployment", "only observed: its job is not of type `service`"]);
    scene.order(Order::Promote).check(&["`promote` changes nothing: it is only observed"]);
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.toy.view.deployments.get_mut("d1").unwrap().is_multiregion = true;
    scene.pass(5).check(&["a deployment", "only observed: it is part of a deployment over several regions"]);
}

#[test]
fn an_undecided_canary_is_given_back() {
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.group("d1", "web").auto_promote = true;
    scene.verdict(undecided()).pass(2).check(&[
        "given back to Nomad: nothing can be concluded (stable failed too)",
        "call Resume",
        "it runs on without us; `auto_promote` does not fire after a pause",
    ]);
    scene.verdict(Verdict::Earned).pass(60).check(&[]).is("judge", &Running).waits("only observed: nothing can be concluded");
}

#[test]
fn at_the_end_of_the_hold_it_is_given_back_promoted_or_failed() {
    for (policy, phase, status) in
        [(AtMaxHold::Release, "judge", Running), (AtMaxHold::Promote, "watch", Successful), (AtMaxHold::Fail, "over", Failed)]
    {
        let mut scene = Scene::held(1, 1, 1);
        scene.at_max_hold = policy;
        scene.verdict(Verdict::Ramping).pass(3590).check(&[]).is("judge", &Paused);
        scene.pass(15).is(phase, &status);
    }
}

#[test]
fn at_the_end_of_the_hold_a_canary_that_does_not_answer_is_not_promoted() {
    let mut scene = Scene::held(1, 1, 1);
    scene.at_max_hold = AtMaxHold::Promote;
    scene.web().canary_answers = false;
    scene.pass(3605).check(&["given back .. the canary does not answer", "call Resume", "runs on"]).is("judge", &Running);
}

#[test]
fn in_mode_hold_the_end_of_the_hold_only_gives_back() {
    let mut scene = Scene::held(1, 1, 1);
    (scene.mode, scene.at_max_hold) = (Mode::Hold, AtMaxHold::Fail);
    scene.pass(3605).is("judge", &Running);
}

#[test]
fn a_hold_ends_before_the_progress_deadline_of_a_group_that_it_stops() {
    let mut scene = Scene::new(&[("lb", 0, 3, 3), ("web", 1, 1, 1)]);
    let deadline = scene.wall() + Duration::from_secs(600);
    let group = scene.toy.group("d1", "lb");
    (group.healthy, group.require_progress_by) = (1, Some(deadline));
    scene.pass(1).check(&[
        PAUSED[0],
        PAUSED[1],
        PAUSED[2],
        "for 9 min at most, because group lb must make progress",
        "steer web Judge",
    ]);
    // It is read anew.
    scene.toy.group("d1", "lb").require_progress_by = Some(deadline + Duration::from_secs(100));
    scene.pass(630).check(&[]).is("judge", &Paused);
    scene.pass(20).check(&["given back", "call Resume", "runs on"]);
}

#[test]
fn a_deployment_that_could_only_be_held_for_a_moment_is_not_held() {
    let mut scene = Scene::new(&[("lb", 0, 3, 3), ("web", 1, 1, 1)]);
    let deadline = scene.wall() + Duration::from_secs(50);
    scene.toy.group("d1", "lb").require_progress_by = Some(deadline);
    scene.pass(10).check(&["a deployment"]).waits("cannot be paused, because group lb");
}

#[test]
fn a_clock_that_jumps_by_a_day_ends_no_hold() {
    let mut scene = Scene::new(&[("lb", 0, 3, 3), ("web", 1, 1, 1)]);
    let deadline = scene.wall() + Duration::from_secs(600);
    scene.toy.group("d1", "lb").require_progress_by = Some(deadline);
    scene.pass(1).said.clear();
    scene.wall_jump = Duration::from_secs(86_400);
    scene.pass(500).check(&[]).is("judge", &Paused);
}

#[test]
fn a_person_holds_it_whatever_the_mode_and_resumes_it() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.mode = Mode::Observe;
    scene.toy.come_up("d1");
    scene.pass(1).order(Order::Hold).pass(2).is("judge", &Paused).said.clear();
    scene.fails().pass(10).check(&[]).waits("a person holds it");
    scene.verdict(Verdict::Earned).pass(10).check(&[]);
    scene.order(Order::Resume).check(&["a person said `resume`", "given back .. mode is `observe`", "call Resume", "runs on"]);
}

#[test]
fn a_person_fails_it() {
    let mut scene = Scene::held(1, 1, 1);
    scene.mode = Mode::Observe;
    scene.order(Order::Abort).pass(1);
    assert_eq!(scene.said.last().unwrap(), "ended: failed as a person said");
}

#[test]
fn a_person_gives_it_back_for_good() {
    let mut scene = Scene::held(1, 1, 1);
    scene.order(Order::Release).check(&["a person said", "given back", "call Resume", "runs on without us"]);
    scene.fails().pass(60).check(&[]).waits("only observed: a person said so");
}

#[test]
fn an_order_after_the_promotion_comes_too_late() {
    let mut scene = Scene::held(1, 1, 1);
    scene.verdict(Verdict::Earned).pass(2).said.clear();
    scene.order(Order::Abort).check(&["no canary of a route of ours"]);
}

#[test]
fn a_lowered_mode_gives_it_back() {
    let mut scene = Scene::held(1, 1, 1);
    scene.mode = Mode::Observe;
    scene.pass(1).check(&["given back .. the mode is `observe` now", "call Resume", "runs on"]);
    scene.mode = Mode::Auto;
    scene.pass(1).check(&["steer web Withhold", "call Pause", "it is paused", "steer web Judge"]);
}

#[test]
fn what_somebody_else_has_paused_is_left_alone_until_they_resume_it() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.toy.post("d1", &crate::orchestrator::Call::Pause);
    scene.toy.come_up("d1");
    scene.verdict(Verdict::Earned).pass(60).check(&["a deployment", "somebody else has paused it"]);
    scene.toy.post("d1", &crate::orchestrator::Call::Resume);
    scene.verdict(Verdict::Probing).pass(1);
    scene.is("judge", &Paused);
}

#[test]
fn what_somebody_else_has_resumed_is_only_observed() {
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.post("d1", &crate::orchestrator::Call::Resume);
    scene.pass(1).check(&["somebody else has resumed it"]);
    scene.verdict(Verdict::Earned).pass(60).check(&[]).is("judge", &Running);
}

#[test]
fn what_somebody_else_promotes_is_followed_and_resumed() {
    let mut scene = Scene::held(1, 3, 3);
    scene.toy.post("d1", &crate::orchestrator::Call::Promote { groups: vec!["web".to_owned()] });
    scene.pass(2).check(&[
        "somebody else has promoted group web",
        "it is promoted, by somebody else",
        "drain a1",
        "drain a2",
        "call Resume",
        "Nomad goes on with the rest",
    ]);
}

#[test]
fn what_somebody_else_fails_has_ended() {
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.post("d1", &crate::orchestrator::Call::Fail);
    scene.pass(1).check(&["Nomad shows it as failed: Deployment marked as failed", "ended: failed by Nomad or somebody else"]);
}

#[test]
fn a_newer_version_ends_it_at_once_and_is_judged_instead() {
    let mut scene = Scene::held(1, 1, 1);
    let newer = scene.toy.submit(&[("web", 1, 1)]);
    scene.again().check(&["version 2 of the job has taken its place", "ended: a newer version took its place"]);
    scene.id = newer;
    scene.again();
    scene.is("judge", &Paused);
}

#[test]
fn a_job_that_is_stopped_or_purged_ends_it() {
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.view.jobs.get_mut(&key()).unwrap().is_stopped = true;
    scene.again().check(&["the job was stopped", "ended: the job was stopped"]);
    // A purge sends no event but the job's: the deployment is still shown.
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.view.jobs.clear();
    scene.again().check(&["the job was purged", "ended: the job was purged"]);
}

#[test]
fn a_deployment_that_nomad_no_longer_knows_has_ended() {
    let mut scene = Scene::held(1, 1, 1);
    scene.nomad_refuses(500, "deployment not found", 1);
    scene.fails().pass(2).check(&[
        "the canary has failed",
        "steer web Withhold",
        "call Fail",
        "Nomad no longer knows it",
        "ended: gone",
    ]);
}

#[test]
fn a_canary_restarted_in_place_counts_as_failures_in_a_row_once() {
    let mut scene = Scene::held(1, 1, 1);
    scene.web().canary_restarted = true;
    scene.pass(3).check(&["restarted in place", "trip web"]);
    scene.web().canary_restarted = false;
    scene.pass(3).check(&[]);
}

#[test]
fn a_canary_that_ends_for_good_after_it_was_healthy_fails_the_deployment() {
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.dies("a2", ClientStatus::Failed);
    scene.pass(1);
    assert!(scene.said[0].contains("canary a2 of group web ended by itself, and Nomad does not replace it"), "{:?}", scene.said);
    assert_eq!(scene.toy.status("d1"), &Failed);
}

#[test]
fn a_canary_that_fails_before_it_was_healthy_is_waited_for() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.pass(1).said.clear();
    scene.toy.dies("a2", ClientStatus::Failed);
    scene.pass(30).check(&[]).waits("another one is expected");
    // Rescheduled, paused or not.
    let next = {
        let mut other = scene.toy.allocation("a2").clone();
        (other.id, other.client) = ("a9".to_owned(), ClientStatus::Running);
        scene.toy.allocation("a2").next = Some(other.id.clone());
        scene.toy.view.allocations.insert(other.id.clone(), other.clone());
        other.id
    };
    scene.toy.group("d1", "web").placed_canaries.push(next);
    scene.pass(1).check(&["another canary of group web has come", "restart web"]).is("judge", &Paused);
}

#[test]
fn a_canary_stopped_or_lost_under_our_pause_is_replaced_and_judged_anew() {
    for lost in [false, true] {
        let mut scene = Scene::held(1, 1, 1);
        if lost {
            scene.toy.dies("a2", ClientStatus::Lost);
        } else {
            scene.toy.stop("a2");
        }
        scene.pass(1);
        let calls: Vec<&String> =
            scene.said.iter().filter(|said| said.starts_with("call") || said.starts_with("restart")).collect();
        assert_eq!(calls, ["call Resume", "restart web", "call Pause"]);
        assert!(scene.said[0].contains(if lost { "was lost with its node" } else { "was stopped" }), "{:?}", scene.said);
        scene.is("judge", &Paused);
    }
}

#[test]
fn a_canary_that_is_stopped_again_and_again_gives_it_back() {
    let mut scene = Scene::held(1, 1, 1);
    for _ in 0..4 {
        let canary = scene.toy.group("d1", "web").placed_canaries.last().unwrap().clone();
        scene.toy.stop(&canary);
        scene.pass(1);
    }
    assert!(scene.said.iter().any(|said| said == "it is given back to Nomad: its canaries were stopped or lost 3 times"));
    scene.is("judge", &Running);
}

#[test]
fn while_stable_is_dead_the_judgement_waits() {
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.dies("a1", ClientStatus::Failed);
    scene.verdict(Verdict::Waiting).pass(5).check(&["no older instance of group web is left"]).waits("no older instance");
    scene.toy.allocation("a1").client = ClientStatus::Running;
    scene.pass(1).check(&["an older instance of group web is back"]);
}

#[test]
fn while_nomad_is_away_nothing_is_asked_and_afterwards_it_goes_on() {
    let mut scene = Scene::held(1, 1, 1);
    scene.is_current = false;
    scene.fails().pass(600).check(&["what is known of Nomad may be old"]).waits("Nomad does not tell");
    scene.is_current = true;
    scene.pass(2);
    assert_eq!(scene.toy.status("d1"), &Failed);
}

#[test]
fn a_hold_that_ended_while_nomad_was_away_is_given_back_as_soon_as_it_is_there() {
    let mut scene = Scene::held(1, 1, 1);
    scene.is_current = false;
    scene.pass(4000);
    scene.is_current = true;
    scene.pass(1).is("judge", &Running);
}

#[test]
fn without_a_disk_nothing_is_asked_but_to_resume() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.can_write = false;
    scene.pass(5).check(&["a deployment"]).waits("state cannot be written");
    let mut scene = Scene::held(1, 1, 1);
    scene.can_write = false;
    scene.verdict(Verdict::Earned).pass(60).check(&[]).waits("state cannot be written");
    scene.fails().pass(60).check(&["the canary has failed", "steer web Withhold"]);
    scene.pass(3600).check(&["given back", "steer web Judge", "call Resume", "runs on"]);
}

#[test]
fn a_token_that_may_not_pause_makes_it_an_observer_and_the_capability_is_named() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.nomad_refuses(403, "Permission denied", 1);
    scene.toy.come_up("d1");
    scene.pass(5).check(&[
        "a deployment",
        "steer web Withhold",
        "call Pause",
        "the token may not pause the deployment: it needs the capability `submit-job` (or `pause-deployment`)",
        "steer web Judge",
    ]);
    scene.verdict(Verdict::Earned).pass(60).check(&[]).waits("only observed: it could not be paused");
}

#[test]
fn a_token_that_may_not_promote_gives_it_back() {
    let mut scene = Scene::held(1, 1, 1);
    scene.nomad_refuses(403, "Permission denied", 1);
    scene.verdict(Verdict::Earned).pass(2).is("judge", &Running).waits("it could not be promoted");
}

#[test]
fn a_resume_that_fails_is_asked_for_until_it_works() {
    let mut scene = Scene::held(1, 1, 1);
    scene.nomad_refuses(500, "no leader", 20);
    scene.order(Order::Release).pass(300).is("release", &Paused);
    scene.answers.clear();
    scene.pass(40).is("judge", &Running);
}

#[test]
fn a_promotion_that_was_accepted_and_did_nothing_is_read_back_and_tried_again() {
    let mut scene = Scene::held(1, 1, 1);
    let index = scene.toy.view.index;
    scene.answers = vec![CallOutcome::Accepted { index }];
    scene.verdict(Verdict::Earned).pass(5);
    let accepted = "Nomad accepted to promote web, but it did not happen";
    assert!(scene.said.iter().any(|said| said == accepted), "{:?}", scene.said);
    scene.is("watch", &Successful);
}

#[test]
fn a_promotion_that_nomad_refuses_is_tried_a_few_times_then_it_is_given_back() {
    let mut scene = Scene::held(1, 1, 1);
    scene.nomad_refuses(500, "Task group \"web\" has 0/1 healthy allocations", 4);
    scene.verdict(Verdict::Earned).pass(30).is("judge", &Running);
    assert_eq!(scene.said.iter().filter(|said| said.contains("0/1 healthy")).count(), 4);
}

#[test]
fn an_answer_that_is_lost_after_nomad_promoted_is_no_second_promotion() {
    let mut scene = Scene::held(1, 3, 3);
    scene.is_mute = true;
    scene.verdict(Verdict::Earned).pass(1);
    scene.is_mute = false;
    scene.pass(30);
    assert_eq!(scene.toy.promotions, ["d1/web"]);
    scene.is("watch", &Running);
}

#[test]
fn a_promotion_that_shows_seconds_after_its_answer_was_lost_is_no_second_one() {
    let mut scene = Scene::held(1, 3, 3);
    scene.verdict(Verdict::Earned).once_shown_late(4);
    assert_eq!(scene.toy.promotions, ["d1/web"]);
    scene.pass(10).is("watch", &Running);
    assert_eq!(scene.toy.promotions, ["d1/web"]);
}

#[test]
fn a_pause_whose_answer_was_lost_is_ours() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    scene.is_mute = true;
    scene.pass(1);
    scene.is_mute = false;
    scene.restart().pass(5).is("judge", &Paused);
    assert!(scene.deploy().is_ours_to_resume());
}

#[test]
fn a_restarted_proxy_adopts_its_pause_and_says_everything_again() {
    let mut scene = Scene::held(1, 1, 1);
    scene.restart().pass(1).check(&["still paused by us from before the restart"]);
    scene.web().canary_in_flight = 3;
    scene.fails().pass(2).said.clear();
    scene.restart().pass(1).check(&["still paused by us", "steer web Withhold"]);
}

#[test]
fn killed_right_after_it_asked_to_promote_it_reads_back_before_it_asks_again() {
    for happened in [false, true] {
        let mut scene = Scene::held(1, 3, 3);
        scene.is_mute = true;
        if !happened {
            scene.answers = vec![CallOutcome::Unknown { error: String::new() }];
        }
        scene.verdict(Verdict::Earned).pass(1);
        scene.is_mute = false;
        scene.restart().pass(10);
        assert_eq!(scene.toy.promotions, ["d1/web"], "{happened}: {:#?}", scene.said);
        scene.is("watch", &Running);
    }
}

#[test]
fn a_deployment_promoted_while_we_were_dead_is_told_by_what_is_left() {
    let mut scene = Scene::held(1, 1, 1);
    scene.is_mute = true;
    scene.verdict(Verdict::Earned).pass(1);
    scene.is_mute = false;
    // Lists show active deployments only.
    scene.toy.view.deployments.clear();
    scene.restart().pass(1);
    assert_eq!(scene.deploy().phase().name(), "watch");
}

#[test]
fn a_deployment_that_is_successful_before_the_resume_is_a_success() {
    let mut scene = Scene::held(1, 1, 1);
    scene.shown = Some(scene.toy.view.clone());
    scene.toy.view.deployments.get_mut("d1").unwrap().status = Successful;
    scene.toy.group("d1", "web").promoted = true;
    scene.order(Order::Release);
    scene.shown = None;
    scene.pass(1).is("watch", &Successful);
    assert!(!scene.said.iter().any(|said| said.contains("did not")), "{:?}", scene.said);
}

#[test]
fn the_same_view_again_asks_nothing_again() {
    let mut scene = Scene::held(1, 3, 3);
    scene.again().again().check(&[]);
    scene.verdict(Verdict::Earned).pass(1).said.clear();
    for _ in 0..10 {
        scene.again();
    }
    scene.check(&[]);
}

#[test]
fn auto_revert_brings_the_old_version_back_and_that_deployment_is_fast() {
    let mut scene = Scene::held(1, 1, 1);
    scene.toy.group("d1", "web").auto_revert = true;
    scene.reverts = true;
    scene.fails().pass(1);
    assert!(scene.said.iter().any(|said| said.contains("by itself")), "{:?}", scene.said);
    assert!(!scene.said.iter().any(|said| said.contains("Revert")), "{:?}", scene.said);
    scene.id = scene.toy.submit(&[("web", 1, 1)]);
    scene.verdict(Verdict::Probing).pass(1).said.clear();
    scene.toy.come_up(&scene.id.clone());
    scene.pass(3).check(&[]).waits("being probed");
    scene.verdict(Verdict::Ramping).pass(2).is("watch", &Successful);
}

#[test]
fn after_a_failure_the_job_is_reverted_if_that_is_wanted() {
    let mut scene = Scene::held(1, 1, 1);
    scene.reverts = true;
    scene.fails().pass(1);
    let last = &scene.said[scene.said.len() - 6..];
    assert_eq!(
        last,
        [
            "the job is reverted to version 0",
            "drain a2",
            "steer web Judge",
            "call Revert { to: 0, from: 1 }",
            "the job is back at version 0",
            "ended: failed"
        ]
    );
}

#[test]
fn a_breach_after_the_promotion_is_said_and_reverted_only_if_that_is_wanted() {
    for reverts in [false, true] {
        let mut scene = Scene::held(1, 1, 1);
        scene.reverts = reverts;
        scene.verdict(Verdict::Earned).pass(2).said.clear();
        scene.pass(20).check(&[]).fails().pass(20);
        assert_eq!(scene.said[0].contains("a person decides"), !reverts, "{:?}", scene.said);
        assert_eq!(scene.said.iter().any(|said| said == "call Revert { to: 0, from: 1 }"), reverts, "{:?}", scene.said);
    }
}

#[test]
fn a_version_that_failed_is_not_judged_again_for_ten_minutes() {
    let mut scene = Scene::held(1, 1, 1);
    scene.fails().pass(1).said.clear();
    scene.toy.view.jobs.get_mut(&key()).unwrap().version = 0;
    scene.id = scene.toy.submit(&[("web", 1, 1)]);
    scene.toy.come_up(&scene.id.clone());
    scene.verdict(Verdict::Earned).pass(2).check(&[
        "a deployment",
        "this version has failed before",
        "drain a2",
        "steer web Withhold",
        "call Pause",
        "it is paused",
    ]);
    scene.pass(500).check(&[]).waits("has failed before");
    scene.pass(120).is("watch", &Successful);
}

#[test]
fn an_instance_told_to_stop_gets_nothing_more() {
    let mut scene = Scene::held(1, 3, 3);
    scene.toy.allocation("a3").desired = Desired::Stop;
    scene.again().check(&["drain a3"]);
    scene.pass(5).check(&[]);
}

#[test]
fn memory_of_ended_deployments_is_bounded() {
    let mut scene = Scene::new(&[("web", 1, 1, 1)]);
    for _ in 0..200 {
        let newer = scene.toy.submit(&[("web", 1, 1)]);
        scene.pass(1);
        scene.id = newer;
    }
    assert!(scene.deploys.iter().count() <= 66, "{}", scene.deploys.iter().count());
    scene.pass(1);
    assert_eq!(scene.deploys.of_job(&key()).unwrap().id(), scene.id);
    scene.now += Duration::from_secs(3600);
    scene.pass(1);
    assert_eq!(scene.deploys.iter().count(), 1);
}
