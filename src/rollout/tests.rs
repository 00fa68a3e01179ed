//! Rollouts told second by second: what was seen, and the sentences that came of it.

use std::time::Duration;

use super::evidence::DOUBT_AT;
use super::machine::{Arm, Direction, Machine, Nature, Probed, Seen};
use super::phase::Phase;
use super::policy::{Latency, Policy};
use super::reader::{Counts, Live, Tally};
use super::{Decision, Pointless, Situation, Steer, Steered};
use crate::names::Share;

/// A service with ten requests a second and an hour of clean history, and a machine that is stepped once a second.
struct Tale {
    machine: Machine,
    now: u64,
    version: &'static str,
    nature: Nature,
    canary: Arm,
    stable: Arm,
    live: Live,
    probed: Option<u16>,
    /// What each arm does in a second: attempts and failures.
    does: [(u32, u32); 2],
    said: Vec<String>,
}

const fn arm(instances: u16, fit: u16) -> Arm {
    Arm { instances, fit }
}

fn written_and_read(machine: &Machine) -> Machine {
    let disk = serde_json::to_string(machine).unwrap();
    serde_json::from_str::<Machine>(&disk).unwrap().with_policy(machine.policy().clone())
}

impl Tale {
    /// The canary comes at second 3600.
    fn new(policy: Policy) -> Self {
        let (canary, stable) = (arm(0, 0), arm(1, 1));
        let mut tale = Self {
            machine: Machine::new(policy),
            now: 3000,
            version: "2",
            nature: Nature::Declared,
            canary,
            stable,
            live: Live::default(),
            probed: None,
            does: [(0, 0), (10, 0)],
            said: Vec::new(),
        };
        tale.pass(600);
        tale.canary = arm(1, 1);
        tale
    }

    /// One whose ramp has begun.
    fn ramped() -> Self {
        let mut tale = Self::new(Policy::default());
        tale.probed = Some(200);
        tale.pass(4);
        tale.does = [(1, 0), (9, 0)];
        tale.said.clear();
        tale
    }

    fn step(&mut self) {
        let (opened, closed) = (Duration::from_secs(self.now - 3), Duration::from_secs(self.now - 2));
        let share = self.machine.share();
        let counts = |(all, fail): (u32, u32)| Counts { all, fail, slow: 0 };
        let [canary, other] = self.does.map(counts);
        let rival = share != Share::ZERO;
        let (canary, none) = (if rival { canary } else { Counts::default() }, Counts::default());
        let (stable, apart) = if rival { (other, none) } else { (none, other) };
        let tally = Tally { share, opened, closed, late: false, canary, stable, apart };
        let probed = self.probed.map(|status| Probed { status: (status > 0).then_some(status) });
        let Self { version, nature, canary, stable, live, .. } = *self;
        let situation = Situation { version, nature, canary, stable, probed };
        let decisions =
            self.machine.step(Duration::from_secs(self.now), &Seen { tallies: &[tally], live, situation: &situation });
        let second = self.now.saturating_sub(3600);
        self.said.extend(decisions.iter().filter(|said| **said != Decision::Probe).map(|said| format!("{second} {said}")));
        self.now += 1;
    }

    fn pass(&mut self, seconds: u64) -> &mut Self {
        (0..seconds).for_each(|_| self.step());
        self
    }

    /// Compares the sentences since the last time, each by the words it must contain.
    #[track_caller]
    fn check(&mut self, expected: &[&str]) -> &mut Self {
        let fits = |(said, expected): (&String, &&str)| expected.split(" .. ").all(|part| said.contains(part));
        let all = self.said.len() == expected.len() && self.said.iter().zip(expected).all(fits);
        assert!(all, "{:#?}\n{expected:#?}", self.said);
        self.said.clear();
        self
    }

    /// The proxy is killed, and another one goes on with what was on disk so many seconds later.
    fn restart(&mut self, away: u64) -> &mut Self {
        self.machine = written_and_read(&self.machine);
        self.now += away;
        self.machine.go_on(Duration::from_secs(self.now), u16::MAX);
        self.live = Live::default();
        self
    }

    /// A person decides, and the step that does it follows at once.
    #[track_caller]
    fn order(&mut self, steer: Steer) -> &mut Self {
        self.machine.steer(Steered { steer, by: "alice".to_owned() }).unwrap();
        self.step();
        self
    }

    #[track_caller]
    fn refuses(&mut self, steer: Steer, because: Pointless) -> &mut Self {
        assert_eq!(self.machine.steer(Steered { steer, by: "alice".to_owned() }), Err(because));
        self.pass(1)
    }

    fn trip(&mut self) -> &mut Self {
        self.live =
            Live { trips: self.live.trips + 1, tripped: true, failing_from: Duration::from_secs(self.now - 1), ..self.live };
        self.step();
        self.live.tripped = false;
        self
    }
}

#[test]
fn a_canary_gets_its_first_share_after_three_good_probes() {
    let mut tale = Tale::new(Policy::default());
    tale.probed = Some(503);
    tale.pass(10).check(&[]);
    tale.probed = Some(200);
    tale.pass(2).check(&[]);
    tale.probed = Some(500);
    tale.pass(1);
    tale.probed = Some(404);
    tale.pass(5).check(&["canary share 0 % -> 20 %: it answered 3 probes in a row"]);
}

#[test]
fn a_canary_that_is_not_passing_is_not_probed() {
    let mut tale = Tale::new(Policy::default());
    tale.canary = arm(1, 0);
    tale.probed = Some(200);
    tale.pass(100).check(&[]);
    assert_eq!(tale.machine.phase(), Some(&Phase::Probe { good: 0 }));
}

#[test]
fn a_good_canary_earns_its_share_step_by_step() {
    let mut tale = Tale::ramped();
    tale.pass(200).check(&[
        "canary share stays 20 %: 0 of 40 canary requests failed in 42 s, a failure rate above 7.5 % would have shown",
        "canary share 20 % -> 50 %: 0 of 40 canary requests failed in 42 s",
        "canary share stays 50 %: every step is passed with 0 of 124 canary requests failed, so each instance counts the same",
    ]);
    assert_eq!(tale.machine.report().phase, "earned");
}

#[test]
fn a_step_takes_thirty_seconds_however_dense_the_traffic() {
    let mut tale = Tale::ramped();
    tale.does = [(50, 0), (950, 0)];
    tale.pass(31).check(&["canary share stays 20 %: 0 of 1400 canary requests failed in 30 s"]);
}

#[test]
fn thin_traffic_passes_after_five_minutes_without_a_failure() {
    let mut tale = Tale::ramped();
    tale.does = [(0, 0), (1, 0)];
    tale.pass(290).check(&["traffic is 1.0 requests a second now"]);
    tale.does = [(1, 0), (1, 0)];
    tale.pass(15).check(&["traffic is thin, and 0 of 10 canary requests failed in 300 s"]);
    assert!(tale.machine.report().thin);
}

#[test]
fn three_failures_in_a_row_are_the_canarys_when_stable_is_well() {
    let mut tale = Tale::ramped();
    tale.pass(10).trip().check(&["20 % -> 0 %: 3 canary requests in a row failed while stable had 0 failures in"]);
    tale.pass(10).check(&["stays 0 %: stable is well at the same time .. so the canary has failed"]);
    // For good.
    tale.pass(3000).check(&[]);
    assert_eq!(tale.machine.share(), Share::ZERO);
}

#[test]
fn three_failures_in_a_row_are_nobodys_when_stable_fails_too() {
    let mut tale = Tale::ramped();
    tale.pass(10);
    tale.does = [(1, 1), (9, 4)];
    tale.pass(3).trip().pass(20).check(&["3 canary requests in a row failed"]);
    tale.does = [(1, 0), (9, 0)];
    tale.pass(90).check(&["0 % -> 22.22 %: stable failed at the same time .. it was the environment (time 1 of 3)"]);
}

#[test]
fn the_environment_disturbs_three_times_and_then_it_begins_anew() {
    let mut tale = Tale::ramped();
    for _ in 0..3 {
        tale.does = [(1, 1), (9, 4)];
        tale.pass(3).trip().pass(20);
        tale.does = [(1, 0), (9, 0)];
        tale.pass(90);
    }
    assert!(matches!(tale.machine.phase(), Some(Phase::Hold { .. })), "{:#?}", tale.said);
    tale.said.clear();
    tale.pass(610).check(&["it is judged anew from the beginning", "it answered 3 probes in a row"]);
}

#[test]
fn an_unusual_time_stops_the_clock_of_a_step() {
    let mut tale = Tale::ramped();
    tale.does = [(20, 2), (80, 8)];
    tale.pass(200).check(&[]);
    assert!(tale.machine.report().anomaly);
}

#[test]
fn failures_more_frequent_than_in_the_hour_before_suspend() {
    let mut tale = Tale::ramped();
    tale.pass(20);
    tale.does = [(3, 3), (9, 0)];
    tale.pass(1);
    tale.does = [(1, 0), (9, 0)];
    tale.pass(20).check(&["3 of 21 canary requests failed, stable's last hour allows 0.5 %", "so the canary has failed"]);
}

/// A canary that fails twice so early that it is doubted, and what our own requests say of it.
#[track_caller]
fn check_doubt(probes: &[(u64, u16)], expected: &[&str]) -> Tale {
    let mut tale = Tale::ramped();
    tale.pass(13);
    tale.does = [(2, 2), (9, 0)];
    tale.pass(1).check(&["20 % -> 0 %: 2 of 13 canary requests failed, stable's last hour allows 0.5 %: a doubt"]);
    tale.does = [(1, 0), (9, 0)];
    for (seconds, status) in probes {
        tale.probed = Some(*status);
        tale.pass(*seconds);
    }
    tale.check(expected);
    tale
}

#[test]
fn a_doubt_that_nothing_confirms_is_dropped_and_comes_once() {
    let mut tale =
        check_doubt(&[(30, 200)], &["0 % -> 20.8 %: stable is well, and 0 of 20 probes failed: too little to blame it"]);
    tale.pass(60).said.clear();
    tale.does = [(1, 1), (9, 0)];
    tale.pass(1);
    tale.does = [(1, 0), (9, 0)];
    tale.pass(3).check(&[]);
    assert!(tale.machine.report().evidence_history > DOUBT_AT);
}

#[test]
fn a_doubt_is_confirmed_by_our_own_requests() {
    check_doubt(&[(9, 200), (3, 500), (12, 200)], &["stays 0 %: stable is well at the same time"]);
}

#[test]
fn a_doubt_while_everybody_fails_is_the_environments() {
    let mut tale = check_doubt(&[(5, 200)], &[]);
    tale.does = [(1, 0), (9, 4)];
    tale.probed = Some(500);
    tale.pass(20);
    tale.does = [(1, 0), (9, 0)];
    tale.pass(90).check(&["stable failed at the same time .. it was the environment (time 1 of 3)"]);
}

#[test]
fn a_hotfix_need_not_wait() {
    let mut tale = Tale::ramped();
    tale.does = [(5, 0), (5, 2)];
    tale.pass(100).check(&["-> 50 %: it fails less than stable at the same time (0 of .. against"]);
}

#[test]
fn an_arm_of_which_more_than_half_is_ejected_is_suspended() {
    let mut tale = Tale::ramped();
    tale.canary = arm(3, 2);
    tale.stable = arm(3, 3);
    tale.pass(5).check(&[]);
    tale.canary = arm(3, 1);
    tale.pass(10).check(&["20 % -> 0 %: only 1 of 3 canary instances are fit", "so the canary has failed"]);
}

#[test]
fn while_stable_is_lost_nothing_is_evidence() {
    let mut tale = Tale::ramped();
    tale.stable = arm(1, 0);
    tale.does = [(10, 10), (0, 0)];
    tale.pass(60).check(&[]);
    tale.stable = arm(1, 1);
    tale.does = [(1, 0), (9, 0)];
    tale.pass(10).check(&[]);
}

#[test]
fn when_the_older_leave_the_newer_are_stable_at_once() {
    for failed in [false, true] {
        let mut tale = Tale::ramped();
        if failed {
            tale.trip().pass(10);
            tale.said.clear();
        }
        tale.stable = arm(0, 0);
        tale.pass(1).check(&["canary is stable now: the older instances have left"]);
        (tale.canary, tale.stable) = (arm(0, 0), arm(1, 1));
        tale.pass(10).check(&[]);
    }
}

#[test]
fn another_canary_begins_from_nothing() {
    let mut tale = Tale::ramped();
    tale.version = "3";
    tale.pass(3).check(&["20 % -> 0 %: another version has taken the canary's place"]);
    tale.canary = arm(0, 0);
    tale.pass(3).check(&["stays 0 %: there is no canary any more"]);
    assert_eq!(tale.machine.phase(), None);
}

#[test]
fn an_earned_share_follows_the_instances() {
    let mut tale = Tale::ramped();
    tale.canary = arm(1, 1);
    tale.stable = arm(9, 9);
    tale.pass(200);
    assert_eq!(tale.machine.share(), Share::from_fraction(0.1), "{:#?}", tale.said);
    tale.said.clear();
    (tale.canary, tale.stable) = (arm(8, 8), arm(2, 2));
    tale.pass(2).check(&["10 % -> 80 %: there are 8 canary and 2 stable instances now"]);
}

#[test]
fn one_told_by_its_age_is_adopted_after_five_good_minutes() {
    let mut tale = Tale::ramped();
    tale.pass(200).said.clear();
    tale.pass(500).check(&[]);
    tale.nature = Nature::ByAge;
    tale.pass(1).check(&["canary is stable now: 0 of"]);
}

#[test]
fn a_canary_that_hangs_is_suspended_and_probed() {
    let mut tale = Tale::ramped();
    tale.live.slow_in_row = 3;
    tale.pass(1).check(&["3 canary requests in a row had no answer after 2 s while stable answers in time"]);
    tale.live.slow_in_row = 0;
    tale.pass(4).check(&["0 % -> 20.13 %: it answered 3 probes in a row in time"]);
    tale.live.slow_in_row = 3;
    tale.live.stable_slow_lately = 1;
    tale.pass(5).check(&[]);
    tale.live.stable_slow_lately = 0;
    tale.pass(1).check(&["in a row had no answer"]);
    tale.probed = Some(0);
    tale.pass(31).check(&["stays 0 %: it answered no probe for 30 s, so it has failed"]);
}

#[test]
fn latency_alone_fails_only_if_the_policy_says_so() {
    for (latency, phase) in [(Latency::Suspend, "hold"), (Latency::Fail, "failed")] {
        let mut tale = Tale::new(Policy { latency, ..Policy::default() });
        tale.probed = Some(200);
        tale.pass(4);
        for _ in 0..3 {
            tale.live.slow_in_row = 3;
            tale.pass(1);
            tale.live.slow_in_row = 0;
            tale.pass(4);
        }
        assert_eq!(tale.machine.report().phase, phase, "{:#?}", tale.said);
    }
}

#[test]
fn a_machine_read_from_disk_goes_on_where_it_was() {
    let mut tale = Tale::ramped();
    tale.pass(30);
    let disk = serde_json::to_string(&tale.machine).unwrap();
    let (report, share) = (tale.machine.report(), tale.machine.share());
    tale.machine = serde_json::from_str::<Machine>(&disk).unwrap().with_policy(Policy::default());
    assert_eq!((tale.machine.report(), tale.machine.share()), (report, share));
    tale.pass(15).check(&["stays 20 %: 0 of 40 canary requests failed"]);
}

#[test]
fn a_deployment_may_withhold_a_share_and_give_everything_to_a_canary_that_bears_it() {
    let mut tale = Tale::ramped();
    let earned = tale.machine.share();
    let percent = |machine: &Machine| machine.share().fraction() * 100.0;
    for (direction, share) in [
        (Direction::Withhold, 0.0),
        (Direction::AtMost(Share::from_fraction(0.01)), 1.0),
        (Direction::AtMost(Share::ALL), earned.fraction() * 100.0),
        (Direction::AllToCanary, 100.0),
    ] {
        tale.machine.direct(direction);
        assert!((percent(&tale.machine) - share).abs() < 0.01, "{direction:?}");
    }
    // It buckles under all of the traffic: stable is there again at once.
    tale.trip();
    assert_eq!(tale.machine.share(), Share::ZERO);
    assert_eq!(tale.machine.report().share, 0.0);
}

#[test]
fn what_was_promoted_is_held_against_the_hour_before() {
    let mut tale = Tale::ramped();
    tale.machine.watch(Duration::from_secs(tale.now));
    (tale.stable, tale.canary) = (tale.canary, Arm::default());
    tale.does = [(0, 0), (10, 0)];
    tale.pass(60);
    assert!(tale.machine.report().evidence_watch < 1.0);
    tale.does = [(0, 0), (10, 3)];
    tale.pass(10);
    assert!(tale.machine.report().evidence_watch >= 100.0);
    assert!(tale.machine.report().watched.fail > 0);
    tale.machine.end_watch();
    assert_eq!(tale.machine.report().evidence_watch, 0.0);
}

#[test]
fn hours_in_which_nobody_looked_are_no_part_of_a_step() {
    let mut tale = Tale::ramped();
    tale.pass(10).restart(3 * 3600).pass(25).check(&[]);
    tale.pass(10).check(&["stays 20 %: 0 of 4 .. canary requests failed in 4"]);
}

#[test]
fn nobody_is_adopted_for_minutes_in_which_nobody_looked() {
    let mut tale = Tale::ramped();
    tale.nature = Nature::ByAge;
    tale.pass(200).restart(3600).said.clear();
    tale.pass(100).check(&[]);
}

#[test]
fn a_silence_of_ours_is_not_held_against_the_canary() {
    let mut tale = Tale::ramped();
    tale.live.slow_in_row = 3;
    tale.pass(1).check(&["in a row had no answer"]);
    tale.restart(300).pass(20).check(&["0 % -> 19.8 %: it answered 3 probes in a row in time"]);
}

#[test]
fn a_canary_suspended_when_the_proxy_died_is_blamed_by_the_next_one() {
    let mut tale = Tale::ramped();
    tale.pass(10).trip().check(&["3 canary requests in a row failed"]);
    tale.restart(30).pass(15).check(&["stable is well at the same time .. so the canary has failed"]);
}

/// What a second may bring, the same to every machine that lives through it.
fn disturb(tale: &mut Tale, chance: &mut fastrand::Rng) {
    let one_in = |n: u32, chance: &mut fastrand::Rng| chance.u32(..n) == 0;
    if one_in(40, chance) {
        tale.does = [[(1, 0), (9, 0)], [(5, 0), (5, 0)], [(1, 1), (9, 0)], [(1, 1), (9, 5)], [(5, 0), (5, 2)]][chance.usize(..5)];
    }
    if one_in(60, chance) {
        tale.probed = [Some(200), Some(200), Some(503), Some(0), None][chance.usize(..5)];
    }
    tale.live.tripped = one_in(300, chance);
    tale.live.trips = tale.live.trips.wrapping_add(u16::from(tale.live.tripped));
    tale.live.failing_from = Duration::from_secs(tale.now - 1);
    tale.live.slow_in_row = if one_in(300, chance) { 3 } else { 0 };
    if one_in(100, chance) {
        (tale.canary, tale.stable) = [(arm(1, 1), arm(1, 1)), (arm(2, 1), arm(2, 2)), (arm(1, 0), arm(3, 3))][chance.usize(..3)];
    }
    if one_in(800, chance) {
        tale.version = ["2", "3"][chance.usize(..2)];
    }
    if one_in(2000, chance) {
        tale.canary = arm(0, 0);
    }
}

#[test]
fn a_rollout_that_is_written_and_read_at_any_moment_decides_the_same() {
    let mut phases = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let [mut kept, mut read] = [(); 2].map(|()| Tale::new(Policy::default()));
        for second in 0..600 {
            let mut same = chance.clone();
            disturb(&mut kept, &mut chance);
            disturb(&mut read, &mut same);
            if chance.u32(..20) == 0 {
                read.machine = written_and_read(&read.machine);
            }
            kept.step();
            read.step();
            assert_eq!(kept.said, read.said, "seed {seed}, second {second}");
            assert_eq!(kept.machine.phase(), read.machine.phase(), "seed {seed}, second {second}");
            phases.extend(kept.machine.phase().map(Phase::name));
        }
    }
    let all = ["earned", "failed", "hold", "probe", "ramp", "suspended"];
    assert!(all.iter().all(|phase| phases.contains(phase)), "{phases:?}");
}

fn percent(percent: u16) -> Steer {
    Steer::SetShare(Share::new(percent * 100).unwrap())
}

#[test]
fn a_held_canary_keeps_its_share_until_it_is_judged_on() {
    let mut tale = Tale::ramped();
    tale.order(Steer::Hold)
        .check(&["canary share stays 20 %: alice holds it there until `tidegate rollout resume`, unless it fails"]);
    tale.pass(600).check(&[]);
    assert_eq!(tale.machine.report().fixed_share, Some(0.2));
    tale.order(Steer::Resume).check(&["canary share stays 20 %: alice lets it be judged on"]);
    tale.pass(45).check(&["canary share stays 20 %: 0 of 40 canary requests failed"]);
    tale.refuses(Steer::Resume, Pointless::Judged).check(&[]);
}

#[test]
fn a_fixed_share_does_not_stand_in_the_way_of_protection() {
    let mut tale = Tale::ramped();
    tale.order(percent(30)).check(&["canary share 20 % -> 30 %: alice fixed it there"]);
    tale.trip().check(&["canary share 30 % -> 0 %: 3 canary requests in a row failed"]);
    tale.does = [(0, 0), (10, 0)];
    tale.pass(30).check(&["canary share stays 0 %: stable is well at the same time .. so the canary has failed"]);
    tale.pass(100).check(&[]);
}

#[test]
fn a_fixed_share_comes_back_when_it_was_the_environment() {
    let mut tale = Tale::ramped();
    tale.order(percent(30)).said.clear();
    tale.does = [(2, 2), (10, 6)];
    tale.pass(5).said.clear();
    tale.trip().said.clear();
    tale.does = [(0, 0), (10, 6)];
    tale.pass(10);
    tale.does = [(0, 0), (10, 0)];
    tale.pass(120).check(&["canary share 0 % -> 30 %: stable failed at the same time"]);
}

#[test]
fn a_share_fixed_before_the_probes_are_answered_waits_for_them() {
    let mut tale = Tale::new(Policy::default());
    tale.probed = Some(503);
    tale.pass(2)
        .order(percent(30))
        .check(&["canary share stays 0 %: alice fixed it at 30 % from when it has answered its probes"]);
    tale.probed = Some(200);
    tale.pass(5).check(&["canary share 0 % -> 30 %: it answered 3 probes in a row"]);
}

#[test]
fn an_aborted_canary_stays_away_until_somebody_wants_it_judged_anew() {
    let mut tale = Tale::ramped();
    tale.order(Steer::Abort).check(&["canary share 20 % -> 0 %: alice aborted it, so it has failed"]);
    tale.pass(1200).check(&[]);
    tale.refuses(Steer::Abort, Pointless::Failed).refuses(Steer::Hold, Pointless::Failed).check(&[]);
    tale.order(Steer::Resume).check(&["canary share stays 0 %: alice lets it be judged anew from the beginning"]);
    tale.pass(5).check(&["canary share 0 % -> 22.22 %: it answered 3 probes in a row"]);
}

#[test]
fn a_promoted_canary_has_earned_everything_whatever_was_seen() {
    let mut tale = Tale::ramped();
    tale.trip().said.clear();
    tale.order(Steer::Promote).check(&["canary share 0 % -> 50 %: alice promoted it"]);
    tale.pass(100).check(&[]);
    assert_eq!(tale.machine.report().phase, "earned");
    tale.trip().check(&["canary share 50 % -> 0 %: 3 canary requests in a row failed"]);
}

#[test]
fn a_promoted_canary_that_is_told_by_its_age_is_stable_at_once() {
    let mut tale = Tale::new(Policy::default());
    tale.nature = Nature::ByAge;
    tale.pass(2).order(Steer::Promote).check(&["canary is stable now: alice promoted it"]);
    assert_eq!(tale.machine.version(), None);
}

#[test]
fn a_released_canary_keeps_its_share_and_nothing_takes_it_away() {
    let mut tale = Tale::ramped();
    tale.order(Steer::Release).check(&["canary share stays 20 %: alice released it, so it is no longer judged"]);
    tale.does = [(1, 1), (9, 0)];
    tale.trip().pass(600).check(&[]);
    assert_eq!((tale.machine.share().to_string(), tale.machine.report().phase), ("20 %".to_owned(), "released"));
    tale.refuses(Steer::Release, Pointless::Released).check(&[]);
}

#[test]
fn without_a_canary_there_is_nothing_to_decide() {
    let mut tale = Tale::new(Policy::default());
    tale.canary = arm(0, 0);
    tale.refuses(Steer::Promote, Pointless::NoRollout).check(&[]);
}
