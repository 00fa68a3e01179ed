//! What a proxy must know at each moment of a recorded event stream: which deployment stands how, who is canary, who may be
//! sent requests, who must not be any more.

use std::path::PathBuf;

use tidegate::names::Track;
use tidegate::orchestrator::event::{Line, parse_line};
use tidegate::orchestrator::view::{Listing, Moved, Progress};
use tidegate::orchestrator::{DeploymentStatus, JobKey, View, answer};

pub fn recorded(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/nomad/recorded").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The body of a recorded answer.
fn body(file: &str) -> String {
    let text = recorded(file);
    text.rsplit_once("\n\n").unwrap_or_else(|| panic!("{file} has no body")).1.to_owned()
}

fn short(id: &str) -> &str {
    &id[..4]
}

/// `deployment version status [live canaries]`, then who is on which track, by the first digits of their ids.
fn summary(view: &View) -> String {
    let mut deployments: Vec<_> = view.deployments.values().collect();
    deployments.sort_by_key(|deployment| (deployment.job_version, deployment.modify_index));
    let mut words: Vec<String> = Vec::new();
    for deployment in deployments {
        let status = match &deployment.status {
            DeploymentStatus::Other(word) => word.clone(),
            status => format!("{status:?}").to_lowercase(),
        };
        words.push(format!("{} v{} {status}", short(&deployment.id), deployment.job_version));
        for name in deployment.groups.keys() {
            let live = view.live_canaries(&deployment.id, name);
            if !live.is_empty() {
                let live: Vec<&str> = live.iter().map(|allocation| short(&allocation.id)).collect();
                words.push(format!("[{name} {}]", live.join(" ")));
            }
        }
    }
    let who = |wanted: (Track, bool)| {
        let placements = view.allocations.keys().map(|id| (short(id), view.track_of(id).unwrap()));
        let found: Vec<&str> =
            placements.filter(|(_, found)| (found.track, found.is_stopping) == wanted).map(|(id, _)| id).collect();
        found.join(" ")
    };
    for (what, wanted) in [
        ("stable", (Track::Stable, false)),
        ("canary", (Track::Canary, false)),
        ("gone", (Track::Stable, true)),
        ("gone canary", (Track::Canary, true)),
    ] {
        let found = who(wanted);
        if !found.is_empty() {
            words.push(format!("| {what} {found}"));
        }
    }
    words.join(" ")
}

/// Folds a stream and compares what is known after each of these indices, at its first appearance.
#[track_caller]
fn check(file: &str, expected: &[(u64, &str)]) {
    let found = replay(file, &expected.iter().map(|(index, _)| *index).collect::<Vec<_>>());
    let found: Vec<(u64, &str)> = found.iter().map(|(index, text)| (*index, text.as_str())).collect();
    assert_eq!(
        found,
        expected,
        "{file}\n{}",
        found.iter().map(|(index, text)| format!("({index}, {text:?}),\n")).collect::<String>()
    );
}

fn replay(file: &str, at: &[u64]) -> Vec<(u64, String)> {
    let (mut view, mut progress, mut found) = (View::default(), Progress::default(), Vec::new());
    for line in recorded(file).lines() {
        match parse_line(line.as_bytes()) {
            Line::Batch(batch) => {
                assert_eq!(batch.skipped, 0, "{line}");
                let index = batch.index;
                view.fold(batch, &mut progress);
                if at.contains(&index) && found.iter().all(|(known, _)| *known != index) {
                    found.push((index, summary(&view)));
                }
            }
            Line::Heartbeat => {}
            Line::Closed | Line::Unreadable => assert!(line.is_empty(), "{line}"),
        }
    }
    found
}

#[test]
fn a_canary_is_held_promoted_failed_and_replaced_in_place() {
    check(
        "event_stream.ndjson",
        &[
            (17, "0cd4 v0 successful | stable 8dd9"),
            (20, "0cd4 v0 successful 5ff4 v1 running [cljdoc ea26] | stable 8dd9 | canary ea26"),
            (27, "0cd4 v0 successful 5ff4 v1 paused [cljdoc ea26] | stable 8dd9 | canary ea26"),
            // Promoted, and for one index more the old one may still be sent requests.
            (28, "0cd4 v0 successful 5ff4 v1 paused [cljdoc ea26] | stable 8dd9 ea26"),
            (29, "0cd4 v0 successful 5ff4 v1 successful [cljdoc ea26] | stable ea26 | gone 8dd9"),
            (
                38,
                "0cd4 v0 successful 5ff4 v1 successful [cljdoc ea26] 568a v2 running [cljdoc e182] | stable ea26 | canary e182 | gone 8dd9",
            ),
            // Failed: it is not taken for stable in the milliseconds until it is told to stop.
            (
                39,
                "0cd4 v0 successful 5ff4 v1 successful [cljdoc ea26] 568a v2 failed [cljdoc e182] | stable ea26 | canary e182 | gone 8dd9",
            ),
            (
                40,
                "0cd4 v0 successful 5ff4 v1 successful [cljdoc ea26] 568a v2 failed | stable ea26 | gone 8dd9 | gone canary e182",
            ),
            // Back in place: the same allocation, another version and deployment.
            (
                44,
                "0cd4 v0 successful 5ff4 v1 successful [cljdoc ea26] 568a v2 failed 9e78 v3 running | stable ea26 | gone 8dd9 | gone canary e182",
            ),
        ],
    );
}

#[test]
fn as_many_canaries_as_instances_replace_all_at_once() {
    check(
        "events_bluegreen_promoted.ndjson",
        &[
            (106, "8aee v1 paused [cljdoc f28e d66a] | canary d66a f28e"),
            (107, "8aee v1 paused [cljdoc f28e d66a] | stable d66a f28e"),
            (108, "8aee v1 successful [cljdoc f28e d66a] | stable d66a f28e | gone 0628 4c9d"),
        ],
    );
}

#[test]
fn a_canary_that_was_stopped_is_replaced_at_once_or_when_resumed() {
    check(
        "events_canary_stopped_running.ndjson",
        &[
            (116, "ade0 v1 running [cljdoc 3b84] | canary 3b84"),
            (117, "ade0 v1 running [cljdoc 299b] | canary 299b | gone canary 3b84"),
            (127, "ade0 v1 successful [cljdoc 299b] | stable 299b | gone 3b84 af7d"),
        ],
    );
    check(
        "events_canary_stopped_paused.ndjson",
        &[
            (173, "3cad v1 paused [cljdoc 229a] | canary 229a"),
            (175, "3cad v1 paused | gone canary 229a"),
            (181, "3cad v1 running | gone canary 229a"),
            (182, "3cad v1 running [cljdoc 68ea] | canary 68ea | gone canary 229a"),
        ],
    );
}

#[test]
fn a_canary_that_failed_for_good_is_replaced_once_it_is_stopped() {
    check(
        "events_failed_canary_stopped_and_replaced.ndjson",
        &[
            (23, "ff58 v1 running [cljdoc f418] | canary f418"),
            // Nomad goes on calling it healthy.
            (24, "ff58 v1 running | gone canary f418"),
            (29, "ff58 v1 running [cljdoc 4deb] | canary 4deb | gone canary f418"),
            (36, "ff58 v1 successful [cljdoc 4deb] | stable 4deb | gone 2670 f418"),
        ],
    );
}

#[test]
fn a_canary_that_is_rescheduled_has_another_id() {
    check(
        "events_canary_rescheduled_paused.ndjson",
        &[
            (113, "cf34 v1 paused | gone canary 9032"),
            (121, "cf34 v1 paused [cljdoc 407f] | canary 407f | gone canary 9032"),
            (125, "cf34 v1 paused | gone canary 407f 9032"),
            (135, "cf34 v1 failed | gone canary 407f 9032"),
        ],
    );
    check(
        "events_canary_rescheduled_then_promoted.ndjson",
        &[
            (158, "3b83 v1 running [cljdoc a791] | canary a791 | gone canary 8984"),
            (165, "3b83 v1 running [cljdoc a791] | stable a791 | gone 8984"),
            (166, "3b83 v1 successful [cljdoc a791] | stable a791 | gone 88e0 8984"),
        ],
    );
}

#[test]
fn an_instance_on_a_lost_node_may_still_serve_but_is_no_live_canary() {
    check("events_canary_node_down_paused.ndjson", &[(205, "| canary b0f0")]);
    check(
        "events_canary_node_down_paused_then_resumed.ndjson",
        &[
            (39, "| canary f418"),
            (41, "9ae6 v1 running | canary f418"),
            (42, "9ae6 v1 running [cljdoc a955] | canary a955 f418"),
            // What runs the promoted version is stable, wherever it is.
            (48, "9ae6 v1 running [cljdoc a955] | stable a955 f418"),
            (49, "9ae6 v1 successful [cljdoc a955] | stable a955 f418 | gone 4b2c"),
        ],
    );
}

#[test]
fn a_changed_count_stops_old_instances_before_or_after_the_promotion() {
    check(
        "events_count_raised.ndjson",
        &[
            (56, "ff03 v1 running [cljdoc d250] | stable d250"),
            (57, "ff03 v1 running [cljdoc d250] | stable 7230 d250 | gone 5f9c"),
        ],
    );
    check(
        "events_count_lowered.ndjson",
        &[
            // The surplus one goes with the submission.
            (110, "cf8b v1 running [cljdoc a8b3] | canary a8b3 | gone 1c65"),
            (116, "cf8b v1 successful [cljdoc a8b3] | stable a8b3 | gone 1c65 2056"),
        ],
    );
}

#[test]
fn a_stopped_job_is_cancelled_and_a_purged_one_is_gone_without_a_word() {
    check(
        "events_job_stop_paused.ndjson",
        &[(266, "fe8b v1 paused [cljdoc 12d8] | canary 12d8"), (267, "fe8b v1 cancelled | gone 7125 | gone canary 12d8")],
    );
    check("events_job_purge_paused.ndjson", &[(285, "690d v1 paused [cljdoc 0d24] | canary 0d24"), (286, "| gone canary 0d24")]);
}

#[test]
fn a_promotion_is_believed_only_where_it_had_an_effect() {
    check(
        "events_promote_without_effect.ndjson",
        &[
            (30, "5359 v1 paused [cljdoc b029] | canary b029"),
            (34, "5359 v1 paused [cljdoc b029] | canary b029"),
            (36, "5359 v1 paused [cljdoc b029] | stable b029"),
            (37, "5359 v1 successful [cljdoc b029] | stable b029 | gone aab9"),
        ],
    );
}

#[test]
fn an_update_in_place_has_no_canary() {
    check("events_tags_only_in_place.ndjson", &[(48, "e31d v1 running | stable f1c3"), (52, "e31d v1 successful | stable f1c3")]);
    check(
        "events_revert_while_paused.ndjson",
        &[
            (82, "2ee8 v1 paused [cljdoc d7df] | canary d7df"),
            (84, "2ee8 v1 cancelled c1f1 v2 running | stable 2cd1 | gone canary d7df"),
        ],
    );
}

#[test]
fn a_revert_can_bring_canaries_of_its_own() {
    check("events_revert_after_promotion.ndjson", &[(112, "ce70 v2 running [cljdoc ea98] | canary ea98 | gone 73b8")]);
    check(
        "events_one_of_two_promoted_then_failed_revert.ndjson",
        &[
            (299, "6d68 v1 running [cljdoc 4d08] [lb 14d4] | canary 14d4 4d08"),
            (300, "6d68 v1 running [cljdoc 4d08] [lb 14d4] | stable 4d08 | canary 14d4"),
            (301, "6d68 v1 running [cljdoc 4d08] [lb 14d4] | stable 4d08 | canary 14d4 | gone 0ea2"),
            (306, "6d68 v1 failed [cljdoc 4d08] [lb 14d4] | stable 4d08 | canary 14d4 | gone 0ea2"),
            (
                307,
                "6d68 v1 failed [cljdoc 4d08] 0c08 v2 running [cljdoc 0e85] | stable 4d08 8377 | canary 0e85 | gone 0ea2 | gone canary 14d4",
            ),
        ],
    );
}

#[test]
fn what_replaces_a_stable_instance_is_stable_however_new_it_is() {
    check(
        "events_stable_drained_paused.ndjson",
        &[
            (81, "e5ae v0 successful | stable ba2a | gone 5c35"),
            (87, "e5ae v0 successful 25f5 v1 paused [cljdoc 068b] | stable 068b ba2a | gone 5c35"),
            (88, "e5ae v0 successful 25f5 v1 successful [cljdoc 068b] | stable 068b | gone 5c35 ba2a"),
        ],
    );
    check(
        "events_stable_lost_after_failed.ndjson",
        &[(248, "| gone 8016 | gone canary 2581"), (252, "d14f v0 successful | stable 6c6e | gone 8016 | gone canary 2581")],
    );
}

#[test]
fn another_group_may_roll_or_fail_beside_the_canary() {
    check(
        "events_two_groups_failed_by_other_groups_deadline.ndjson",
        &[
            (126, "7b52 v1 paused [cljdoc c374] | stable 6e0d | canary c374 | gone 1883"),
            (132, "7b52 v1 failed [cljdoc c374] | stable 6e0d | canary c374 | gone 1883"),
            (133, "7b52 v1 failed | stable 6e0d | gone 1883 | gone canary c374"),
        ],
    );
    check(
        "events_two_groups_promoted_resumed.ndjson",
        &[
            (181, "34f6 v1 paused [cljdoc a8df] | stable 8f8a | canary a8df | gone bdcf"),
            (186, "34f6 v1 paused [cljdoc a8df] | stable 8f8a a8df | gone bdcf"),
            (187, "34f6 v1 paused [cljdoc a8df] | stable 8f8a a8df | gone 0ba1 bdcf"),
            // At the resume the other group's next old one dies in the same plan in which a new one is placed.
            (191, "34f6 v1 running [cljdoc a8df] | stable 8f8a a8df d565 | gone 0ba1 8a9a bdcf"),
            (202, "34f6 v1 successful [cljdoc a8df] | stable 8f8a a21f a8df d565 | gone 0ba1 8a9a bdcf f374"),
        ],
    );
}

#[test]
fn a_history_that_is_told_again_changes_nothing() {
    let paused = "0c49 v1 paused [cljdoc aa5c] | canary aa5c";
    check("events_replay_after_restart.ndjson", &[(214, paused), (11, paused), (36, paused), (126, paused)]);
}

#[test]
fn a_version_is_learnt_from_the_deployment_or_must_be_asked_for() {
    // The stream begins with a canary that was lost, whose deployment it has not told.
    let mut view = View::default();
    let mut progress = Progress::default();
    for line in recorded("events_canary_node_down_paused_then_resumed.ndjson").lines() {
        let Line::Batch(batch) = parse_line(line.as_bytes()) else { continue };
        let index = batch.index;
        view.fold(batch, &mut progress);
        let version =
            |id: &str| view.allocations.iter().find(|(known, _)| known.starts_with(id)).map(|(_, known)| known.job_version);
        match index {
            39 => assert_eq!((version("f418"), view.unclear().len()), (Some(None), 0)),
            41 => assert_eq!(version("f418"), Some(Some(1))),
            49 => assert_eq!((version("a955"), version("4b2c")), (Some(Some(1)), Some(None))),
            _ => {}
        }
    }
}

/// Lists of one moment.
fn listed(deployments: &str, allocations: &str, index: u64) -> Listing {
    let deployment = answer::parse_deployment(body(deployments).as_bytes()).unwrap();
    let allocations = answer::parse_allocations(body(allocations).as_bytes()).unwrap();
    let jobs = answer::parse_job(body("job.http").as_bytes()).unwrap();
    Listing {
        namespace: None,
        jobs: Some((vec![jobs], index)),
        allocations: Some((allocations, index)),
        deployments: Some((vec![deployment], index)),
    }
}

#[track_caller]
fn check_lists(deployment: &str, allocations: &str, expected: &str) {
    let mut view = View::default();
    assert_eq!(view.cover(listed(deployment, allocations, 500), &mut Progress::default()), Moved::Forward);
    assert_eq!(summary(&view), expected, "{deployment} {allocations}");
    assert_eq!((view.index, view.unclear().len()), (500, 0));
}

#[test]
fn lists_alone_tell_canary_from_stable() {
    check_lists(
        "deployment_canary_healthy.http",
        "job_allocations.http",
        "5ff4 v1 running [cljdoc ea26] | stable 8dd9 | canary ea26",
    );
    // It is lost, still passing in Consul, and no live canary.
    check_lists(
        "deployment_canary_node_down_paused.http",
        "job_allocations_canary_node_down_paused.http",
        "361b v1 paused | stable 90f9 | canary b0f0",
    );
    check_lists(
        "deployment_canary_rescheduled_healthy.http",
        "job_allocations_canary_rescheduled_healthy.http",
        "3b83 v1 running [cljdoc a791] | stable 88e0 | canary a791 | gone canary 8984",
    );
    check_lists(
        "deployment_canary_rescheduled_paused.http",
        "job_allocations_canary_rescheduled_paused.http",
        "cf34 v1 paused | stable 4c0d | gone canary 407f 9032",
    );
    check_lists(
        "deployment_canary_rescheduled_running.http",
        "job_allocations_canary_rescheduled_running.http",
        "528e v1 running | stable 84b8 | gone canary 35fe fa0b",
    );
}

#[test]
fn lists_after_events_take_away_what_is_gone_and_nothing_newer() {
    let (mut view, mut progress) = (View::default(), Progress::default());
    for line in recorded("event_stream.ndjson").lines() {
        let Line::Batch(batch) = parse_line(line.as_bytes()) else { continue };
        view.fold(batch, &mut progress);
    }
    let after = summary(&view);
    // Lists that were read when the canary was healthy, and answered late: what events said since then stays.
    view.cover(listed("deployment_canary_healthy.http", "job_allocations.http", 24), &mut progress);
    assert_eq!(summary(&view), after.replace("0cd4 v0 successful ", ""), "the list has no deployment 0cd4");
    assert_eq!(view.index, 46);
    let key = JobKey { namespace: "default".to_owned(), job: "cljdoc".to_owned() };
    assert_eq!((view.jobs[&key].version, view.jobs[&key].kind.as_str()), (1, "service"));
    // A Nomad that began anew: everything is what its lists say.
    let moved = view.cover(listed("deployment_canary_healthy.http", "job_allocations.http", 9), &mut progress);
    assert_eq!((moved, view.index), (Moved::Backwards, 9));
    assert_eq!(summary(&view), "5ff4 v1 running [cljdoc ea26] | stable 8dd9 | canary ea26");
}

#[test]
fn lists_that_empty_everything_are_not_believed() {
    let (mut view, mut progress) = (View::default(), Progress::default());
    view.cover(listed("deployment_canary_healthy.http", "job_allocations.http", 24), &mut progress);
    let empty = |index| Listing {
        namespace: None,
        jobs: Some((Vec::new(), index)),
        allocations: Some((Vec::new(), index)),
        deployments: Some((Vec::new(), index)),
    };
    assert!(view.is_emptied_by(&empty(30), &progress));
    // Of another namespace, or of a Nomad that began anew, they are.
    assert!(!view.is_emptied_by(&Listing { namespace: Some("other".to_owned()), ..empty(30) }, &progress));
    assert!(!view.is_emptied_by(&empty(3), &progress));
}
