//! The rollouts that the product promises something about, a thousand to a cell.
//!
//! `SIM_SEED=7` picks another set of runs, `SIM_RUNS=60` fewer to a cell, `SIM_RATE=3` the cells of that rate only; `--nocapture`
//! shows the table. results.txt holds one of 3 000 runs, rewritten by `cargo run -p tidegate-simulation --example table`.
//!
//! The bounds asserted are the figures the product promises, widened by what so few runs can tell.

#![expect(clippy::print_stdout, reason = "the table is the output")]

use tidegate_simulation::cells::{self, Cell, RATES};
use tidegate_simulation::shown::{HEAD, show};
use tidegate_simulation::world::{Behaviour, End, Scene, run};

const RUNS: u32 = 1000;

/// Runs cells at all rates: each must show what was promised.
#[track_caller]
fn check(cells: &[Cell]) {
    let wanted = |rate: &f64| std::env::var("SIM_RATE").map_or(true, |only| only == rate.to_string());
    let mut wrong = Vec::new();
    println!("{HEAD}");
    for cell in cells {
        for rate in RATES.into_iter().filter(wanted) {
            let shown = show(cell, rate, runs(), seed());
            println!("{}", shown.row());
            wrong.extend(shown.keeps_promise().err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn runs() -> u32 {
    std::env::var("SIM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS)
}

fn seed() -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn an_equal_canary_is_not_blamed() {
    check(&cells::equal());
}

#[test]
fn a_shared_outage_is_not_the_canarys_fault() {
    check(&cells::outages());
}

#[test]
fn a_worse_canary_is_found_as_often_as_promised() {
    check(&cells::worse());
}

#[test]
fn a_bad_canary_is_always_found_and_loses_its_share_within_a_minute() {
    check(&cells::bad());
}

#[test]
fn a_hotfix_is_not_held_up() {
    check(&cells::hotfixes());
}

#[test]
fn failures_that_come_late_are_judged_by_their_start() {
    check(&cells::late());
}

#[test]
fn a_slow_canary_does_not_fail_for_it() {
    check(&cells::slow());
}

#[test]
fn a_canary_that_answers_no_more_fails() {
    check(&cells::silent());
}

#[test]
fn a_client_kept_on_the_canary_is_no_evidence() {
    check(&cells::sticky());
}

#[test]
fn a_proxy_that_is_killed_comes_to_the_same_verdict() {
    check(&cells::killed());
}

#[test]
fn nothing_is_stuck_whatever_happens() {
    let mut chance = fastrand::Rng::with_seed(seed());
    let mut ends = [0; 4];
    let mut longest: f64 = 0.0;
    for run_number in 0..u64::from(runs()) {
        let mut behaviour = || Behaviour {
            fails: chance.f64().powi(4),
            fails_after: (0.0, 2.5 * chance.f64()),
            answers_after: chance.f64().powi(2),
            hangs: chance.f64().powi(6),
        };
        let mut scene = Scene::plain(behaviour(), behaviour());
        scene.rate = 100.0 * chance.f64().powi(4) + 0.5;
        scene.outage = chance.bool().then(|| (200.0 * chance.f64(), 400.0 * chance.f64(), chance.f64()));
        scene.hangs_from = (chance.u8(..4) == 0).then(|| 300.0 * chance.f64());
        scene.answers_probes = chance.bool();
        scene.probes_fail = chance.bool();
        scene.disturbed_every = chance.bool().then(|| 30.0 + 600.0 * chance.f64());
        let course = run(&scene, run_number);
        assert_ne!(course.end, End::Stuck, "run {run_number} of seed {}: {scene:?} {course:?}", seed());
        longest = if course.end == End::Waits { longest } else { longest.max(course.took) };
        ends[course.end as usize] += 1;
    }
    println!("anything: {ends:?} passed, failed, released, still probed; the longest took {longest:.0} s");
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
}

/// Time is an argument: a wall clock that jumps cannot change a verdict, because no rule can see one.
#[test]
fn no_rule_reads_a_clock() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/rollout");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for clock in ["Instant", "SystemTime", "UNIX_EPOCH", "jiff"] {
            assert!(!text.contains(clock), "{} names {clock}", path.display());
        }
        files += 1;
    }
    assert!(files > 10, "{files}");
}

/// ... and the same observations at the same times give the same course.
#[test]
fn a_seed_gives_the_same_course_again() {
    for seed in 0..20 {
        let scene = Scene { killed_every: Some(20.0), rate: 3.0, ..cells::bad()[1].scene };
        assert_eq!(format!("{:?}", run(&scene, seed)), format!("{:?}", run(&scene, seed)));
    }
}
