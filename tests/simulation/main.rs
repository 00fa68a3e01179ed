//! The production machine and ledger against seeded streams of requests, many rollouts to a cell.
//!
//! `SIM_SEED=7` picks another set of runs, `SIM_RUNS=1000` as many to a cell (300 requests a second: a tenth), `SIM_RATE=3` the
//! cells of that rate only; `--nocapture` shows the table.
//! Columns: cell, requests a second, share of runs that failed, then medians: seconds to the suspension and to the verdict and
//! canary failures of those that failed; failures users saw (mean); seconds to the end of the ramp of those that passed.
//! Seconds count from the first share. results.txt holds a table of 1 000 runs.
//!
//! The bounds asserted are the figures the product promises, widened by what so few runs can tell: see [`at_most`].

#![expect(clippy::print_stdout, reason = "the table is the output")]
#![expect(clippy::expect_used, reason = "a test may stop")]

mod world;

use world::{Behaviour, Course, End, Scene, run};

/// Runs to a cell when nobody says how many.
const RUNS: u32 = 60;
const RATES: [f64; 4] = [1.0, 3.0, 10.0, 300.0];

#[derive(Clone, Copy)]
struct Cell {
    name: &'static str,
    scene: Scene,
}

const fn cell(name: &'static str, stable: f64, canary: f64) -> Cell {
    let (stable, canary) = (Behaviour::failing(stable), Behaviour::failing(canary));
    Cell { name, scene: Scene::plain(stable, canary) }
}

/// What a cell's runs showed.
struct Shown {
    runs: u32,
    failed: u32,
    stuck: u32,
    courses: Vec<Course>,
}

fn show(cell: &Cell, rate: f64) -> Shown {
    let wanted = std::env::var("SIM_RATE").map_or(true, |only| only == rate.to_string());
    let runs = if wanted { runs(rate) } else { 1 };
    let scene = Scene { rate, ..cell.scene };
    let named = cell.name.bytes().fold(rate as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let seed = seed().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ named;
    let courses: Vec<Course> = (0..runs).map(|n| run(&scene, seed.wrapping_add(u64::from(n) * 104_729))).collect();
    let count = |end: End| courses.iter().filter(|course| course.end == end).count() as u32;
    let shown = Shown { runs, failed: count(End::Failed), stuck: count(End::Stuck), courses };
    assert_eq!(shown.stuck, 0, "{} at {rate}: {:?}", cell.name, shown.courses.iter().find(|course| course.end == End::Stuck));
    shown.print(cell.name, rate);
    shown
}

fn runs(rate: f64) -> u32 {
    let asked: u32 = std::env::var("SIM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    if rate > 100.0 { (asked / 10).max(1) } else { asked }
}

fn seed() -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

impl Shown {
    fn print(&self, name: &str, rate: f64) {
        let part = |n: u32| f64::from(n) / f64::from(self.runs);
        let of = |end: End, value: &dyn Fn(&Course) -> Option<f64>| {
            median(self.courses.iter().filter(|course| course.end == end).filter_map(value).collect())
        };
        let users = self.courses.iter().map(|course| f64::from(course.user_failures)).sum::<f64>() / f64::from(self.runs);
        println!(
            "{name:32} {rate:4} {:9.3} {:9.1} {:9.1} {:8.0} {users:6.2} {:9.1}",
            part(self.failed),
            of(End::Failed, &|course| course.suspended),
            of(End::Failed, &|course| Some(course.took)),
            of(End::Failed, &|course| Some(f64::from(course.canary_failures))),
            of(End::Passed, &|course| Some(course.took)),
        );
    }

    /// At most this share of all rollouts fails.
    fn fails_at_most(&self, share: f64) {
        let most = at_most(self.runs, share);
        assert!(self.failed <= most, "{} of {} failed, {share} allows {most}: {:?}", self.failed, self.runs, self.said());
    }

    /// At least this share of all rollouts fails.
    fn fails_at_least(&self, share: f64) {
        let least = self.runs - at_most(self.runs, 1.0 - share);
        assert!(self.failed >= least, "{} of {} failed, {share} asks for {least}", self.failed, self.runs);
    }

    fn said(&self) -> Option<&str> {
        self.courses.iter().find(|course| course.end == End::Failed).map(|course| course.said.as_str())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The most events of probability `share` in `runs` that are still believable: more happen in less than one of 10 000 cells.
fn at_most(runs: u32, share: f64) -> u32 {
    if share >= 1.0 {
        return runs;
    }
    let (n, p) = (f64::from(runs), share.max(0.0));
    let mut term = (1.0 - p).powf(n);
    let (mut sum, mut most) = (term, 0);
    while sum < 1.0 - 1e-4 && most < runs {
        term *= (n - f64::from(most)) / (f64::from(most) + 1.0) * p / (1.0 - p);
        most += 1;
        sum += term;
    }
    most
}

#[test]
fn an_equal_canary_is_not_blamed() {
    for (name, rate) in [("equal 0.2 %", 0.002), ("equal 1 %", 0.01), ("equal 2 %", 0.02)] {
        RATES.iter().for_each(|at| show(&cell(name, rate, rate), *at).fails_at_most(0.01));
    }
}

#[test]
fn a_shared_outage_is_not_the_canarys_fault() {
    for (name, failing) in [("outage both 50 % 60 s", 0.5), ("outage both 20 % 60 s", 0.2), ("outage both 100 % 60 s", 1.0)] {
        let mut cell = cell(name, 0.002, 0.002);
        cell.scene.outage = Some((40.0, 100.0, failing));
        RATES.iter().for_each(|at| show(&cell, *at).fails_at_most(0.01));
    }
}

#[test]
fn a_worse_canary_is_found_as_often_as_promised() {
    let cells = [
        (cell("canary 2 %", 0.002, 0.02), [0.0; 4]),
        (cell("canary 5 %", 0.002, 0.05), [0.65, 0.62, 0.90, 0.95]),
        (cell("canary 2 %, stable 1 %", 0.01, 0.02), [0.0; 4]),
        (cell("canary 5 %, stable 1 %", 0.01, 0.05), [0.0; 4]),
    ];
    for (cell, promised) in cells {
        RATES.iter().zip(promised).for_each(|(rate, share)| show(&cell, *rate).fails_at_least(share));
    }
}

#[test]
fn a_hotfix_is_not_held_up() {
    for (name, stable, canary) in [("hotfix: stable 20 %", 0.2, 0.002), ("hotfix: stable 5 %", 0.05, 0.002)] {
        for rate in RATES {
            let shown = show(&cell(name, stable, canary), rate);
            assert_eq!(shown.failed, 0, "{name} at {rate}");
        }
    }
}

#[test]
fn a_bad_canary_is_always_found_mostly_within_a_minute() {
    for (name, stable, canary) in [
        ("canary 20 %", 0.002, 0.2),
        ("canary 20 %, stable 1 %", 0.01, 0.2),
        ("canary 100 %", 0.002, 1.0),
        ("canary 100 %, stable 1 %", 0.01, 1.0),
        ("canary 100 %, stable 2 %", 0.02, 1.0),
    ] {
        for rate in RATES {
            let shown = show(&cell(name, stable, canary), rate);
            let missed = shown.courses.iter().find(|course| course.end != End::Failed);
            assert!(missed.is_none(), "{name} at {rate}: {missed:?}");
            let within = shown.courses.iter().filter(|course| course.suspended.is_some_and(|at| at <= 60.0)).count() as u32;
            println!("    suspended for good within a minute: {within} of {}", shown.runs);
            assert!(within * 2 >= shown.runs, "{name} at {rate}: {within} of {} within a minute", shown.runs);
            if canary >= 1.0 {
                let worst = shown.courses.iter().map(|course| course.failures_until_suspended).max();
                assert!(worst <= Some(3), "{name} at {rate}: {worst:?} failures before the share was taken away");
            }
        }
    }
}

#[test]
fn failures_that_come_late_are_judged_by_their_start() {
    let mut late = cell("equal 1 %, stable fails late", 0.01, 0.01);
    late.scene.stable.fails_after = (1.5, 1.95);
    let mut early = cell("equal 1 %, canary answers late", 0.01, 0.01);
    (early.scene.canary.answers_after, early.scene.canary.fails_after) = (0.3, (0.001, 0.01));
    let mut both = cell("outage 50 %, stable fails late", 0.002, 0.002);
    (both.scene.outage, both.scene.stable.fails_after) = (Some((40.0, 100.0, 0.5)), (1.5, 1.95));
    let mut broken = cell("equal 2 %, bodies break in 20 s", 0.02, 0.02);
    (broken.scene.stable.fails_after, broken.scene.canary.fails_after) = ((1.0, 20.0), (1.0, 20.0));
    for cell in [late, early, both, broken] {
        RATES.iter().for_each(|rate| show(&cell, *rate).fails_at_most(0.01));
    }
}

#[test]
fn a_slow_canary_does_not_fail_for_it() {
    let mut slower = cell("canary ten times slower", 0.002, 0.002);
    slower.scene.canary.answers_after = 0.5;
    let mut hangs = cell("canary hangs in 10 %", 0.002, 0.002);
    hangs.scene.canary.hangs = 0.1;
    let mut equal = cell("both hang in 10 %", 0.002, 0.002);
    (equal.scene.canary.hangs, equal.scene.stable.hangs) = (0.1, 0.1);
    for cell in [slower, equal, hangs] {
        RATES.iter().for_each(|rate| show(&cell, *rate).fails_at_most(0.01));
    }
}

#[test]
fn a_canary_that_answers_no_more_fails() {
    let mut silent = cell("canary hangs after 20 s", 0.002, 0.002);
    silent.scene.hangs_from = Some(20.0);
    let mut answers = cell("... but answers probes", 0.002, 0.002);
    (answers.scene.hangs_from, answers.scene.answers_probes) = (Some(20.0), true);
    for rate in RATES {
        let shown = show(&silent, rate);
        assert_eq!(shown.failed, shown.runs, "at {rate}: {:?}", shown.courses.iter().find(|course| course.end != End::Failed));
        let shown = show(&answers, rate);
        let passed = shown.courses.iter().find(|course| course.end == End::Passed);
        assert!(passed.is_none(), "at {rate}: {passed:?}");
    }
}

#[test]
fn nothing_is_stuck_whatever_happens() {
    let mut chance = fastrand::Rng::with_seed(seed());
    let mut ends = [0; 4];
    for run_number in 0..u64::from(runs(1.0)) * 2 {
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
        scene.disturbed_every = chance.bool().then(|| 30.0 + 600.0 * chance.f64());
        let course = run(&scene, run_number);
        assert_ne!(course.end, End::Stuck, "run {run_number} of seed {}: {scene:?} {course:?}", seed());
        ends[course.end as usize] += 1;
    }
    println!("anything: {ends:?} passed, failed, released, still probed");
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}");
}
