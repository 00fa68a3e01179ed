//! Random deployments: whatever Nomad, requests, people, the disk and the process do, the promises of this folder hold.
//!
//! `DEPLOY_SEED=7` repeats one of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use super::toy::{Toy, key};
use super::{Action, Deploys, GroupSeen, Order, Situation, Steering, Verdict};
use crate::config::install::{AtMaxHold, Mode};
use crate::orchestrator::{Call, CallOutcome, ClientStatus, DeploymentStatus, Desired, View};

const RUNS: u64 = 150;
const HOLD_MAX: Duration = Duration::from_secs(600);
/// A drain, a promotion with its tries and a failure with its drain may be under way when the hold ends.
const BEYOND_MAX: Duration = Duration::from_secs(200);
/// Nomad's view comes late by as much at most, and so does the effect of a call that got no answer.
const LATE_MAX_MS: u64 = 1000;

struct World {
    random: fastrand::Rng,
    toy: Toy,
    now: Duration,
    wall_jump: Duration,
    deploys: Deploys,
    /// What a killed process finds.
    disk: Deploys,
    id: String,
    seen: BTreeMap<String, GroupSeen>,
    mode: Mode,
    at_max_hold: AtMaxHold,
    can_write: bool,
    is_current: bool,
    /// No trouble from now on.
    is_calm: bool,
    /// Killed, and not back yet: nobody sends anything anywhere.
    is_dead: bool,
    /// Views on their way to us.
    views: VecDeque<(Duration, View)>,
    shown: View,
    outcome: Option<(Duration, Call, CallOutcome)>,
    /// A call whose effect is still to come.
    late: Option<(Duration, String, Call)>,
    /// Since when it is paused by us, and for how long beyond the hold while Nomad did what it was asked.
    paused: Option<Duration>,
    beyond: Duration,
    drained: BTreeSet<String>,
    steered: BTreeMap<String, Steering>,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut toy = Toy::new(&[("api", 2), ("web", 1)]);
        let id = toy.submit(&wanted(&mut random));
        let mode = random.choice([Mode::Auto, Mode::Auto, Mode::Hold, Mode::Observe]).unwrap();
        let at_max_hold = random.choice([AtMaxHold::Release, AtMaxHold::Promote, AtMaxHold::Fail]).unwrap();
        let seen = GroupSeen { canary_answers: true, ..GroupSeen::default() };
        Self {
            random,
            shown: toy.view.clone(),
            toy,
            now: Duration::from_secs(100),
            wall_jump: Duration::ZERO,
            deploys: Deploys::default(),
            disk: Deploys::default(),
            id,
            seen: ["api", "web"].map(|name| (name.to_owned(), seen.clone())).into(),
            mode,
            at_max_hold,
            can_write: true,
            is_current: true,
            is_calm: false,
            is_dead: false,
            views: VecDeque::new(),
            outcome: None,
            late: None,
            paused: None,
            beyond: Duration::ZERO,
            drained: BTreeSet::new(),
            steered: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        !self.is_calm && self.random.u32(..one_in) == 0
    }

    fn run(&mut self) {
        for _ in 0..1500 {
            self.tick();
        }
        self.calm();
        for _ in 0..3000 {
            self.tick();
            if self.deploys.get(&self.id).is_none_or(super::Deploy::is_over) {
                break;
            }
        }
        // Nothing is left, whatever happened.
        let Some(deploy) = self.deploys.get(&self.id) else { return };
        let report = deploy.report();
        assert!(self.paused.is_none() && !deploy.is_ours_to_resume(), "{report:#?}");
        assert!(
            deploy.is_over() || report.hands_off.is_some() || self.mode < Mode::Auto || report.waits.is_some(),
            "{report:#?}"
        );
    }

    fn calm(&mut self) {
        (self.is_calm, self.is_current, self.can_write) = (true, true, true);
        self.seen.values_mut().for_each(|seen| (seen.canary_answers, seen.canary_restarted) = (true, false));
        if self.toy.view.deployments.contains_key(&self.id) {
            self.toy.come_up(&self.id.clone());
        }
    }

    fn tick(&mut self) {
        let step = Duration::from_millis(self.random.u64(100..1000));
        self.now += step;
        if !self.is_calm {
            self.trouble();
            self.requests();
        }
        if let Some((_, id, call)) = self.late.take_if(|(at, ..)| *at <= self.now) {
            self.post(&id, &call);
        }
        let lag = if self.is_calm { 0 } else { self.random.u64(..LATE_MAX_MS) };
        if *self.views.back().map_or(&self.shown, |(_, view)| view) != self.toy.view {
            self.views.push_back((self.now + Duration::from_millis(lag), self.toy.view.clone()));
        }
        while let Some((_, view)) = self.views.pop_front_if(|(at, _)| *at <= self.now) {
            if self.is_current {
                self.shown = view;
            }
        }
        if self.toy.view.deployments.get(&self.id).is_none_or(|deployment| deployment.status != DeploymentStatus::Paused) {
            (self.paused, self.beyond) = (None, Duration::ZERO);
        }
        let is_beyond = self.paused.is_some_and(|from| self.now > from + HOLD_MAX);
        if is_beyond && self.is_current && self.late.is_none() {
            self.beyond += step;
        }
        assert!(self.beyond < BEYOND_MAX, "paused for too long: {:#?}", self.deploys.get(&self.id).map(super::Deploy::report));
        let order = if self.chance(150) {
            self.random.choice([Order::Hold, Order::Resume, Order::Promote, Order::Abort, Order::Release])
        } else {
            None
        };
        if order == Some(Order::Hold) && self.paused.is_some() {
            (self.paused, self.beyond) = (Some(self.now), Duration::ZERO);
        }
        self.step(order);
    }

    fn step(&mut self, order: Option<Order>) {
        if std::mem::take(&mut self.is_dead) {
            self.drained.clear();
            self.steered.clear();
        }
        let outcome = self.outcome.take_if(|(at, ..)| *at <= self.now).map(|(_, call, outcome)| (call, outcome));
        let situation = Situation {
            view: &self.shown,
            now: self.now,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.now + self.wall_jump,
            nomad_is_current: self.is_current,
            groups: &self.seen,
            mode: self.mode,
            hold_max: HOLD_MAX,
            at_max_hold: self.at_max_hold,
            reverts: false,
            can_write: self.can_write,
            outcome,
            order,
        };
        if self.is_current {
            self.deploys.meet(&self.shown, self.now);
        }
        let actions = self.deploys.step(&self.id, &situation);
        if self.can_write && !self.is_calm {
            self.disk = self.deploys.clone();
        }
        self.log.extend(actions.iter().map(|action| format!("{:?} {action}", self.now)));
        for action in actions {
            match action {
                Action::Steer { group, to } => {
                    assert!(to != Steering::AllToCanary || self.seen[&group].canary_answers, "all to a dead canary");
                    self.steered.insert(group, to);
                }
                Action::Drain { allocation } => {
                    self.drained.insert(allocation);
                }
                Action::Undrain { allocation } => assert!(self.drained.remove(&allocation), "undrained twice"),
                Action::Call(call) => self.called(call),
                _ => {}
            }
        }
    }

    fn called(&mut self, call: Call) {
        assert!(self.is_current, "{call:?} while Nomad is away");
        assert!(self.can_write || call == Call::Resume, "{call:?} without a disk");
        assert!(self.outcome.is_none() || self.late.is_none(), "{call:?} beside another call");
        if let Call::Promote { groups } = &call {
            let shown = &self.shown.deployments[&self.id];
            assert!(groups.iter().all(|name| !shown.groups[name].promoted && self.seen[name].canary_answers), "{call:?}");
        }
        let at = self.now + Duration::from_millis(self.random.u64(..500));
        let unknown = CallOutcome::Unknown { error: "no answer".to_owned() };
        let refused = CallOutcome::Refused { status: 500, message: "no leader".to_owned() };
        let id = self.id.clone();
        let answer = match if self.is_calm { 9 } else { self.random.u32(..10) } {
            0 => refused,
            1 => unknown,
            2 => {
                self.post(&id, &call);
                unknown
            }
            3 => {
                let late = self.now + Duration::from_millis(self.random.u64(..LATE_MAX_MS));
                self.late = Some((late, id, call.clone()));
                unknown
            }
            _ => self.post(&id, &call),
        };
        self.outcome = Some((at, call, answer));
        // Killed between its question and the answer.
        if self.chance(5) {
            self.kill();
        }
    }

    fn post(&mut self, deployment: &str, call: &Call) -> CallOutcome {
        let before = self.toy.view.clone();
        let is_fresh = before == self.shown;
        let answer = self.toy.post(deployment, call);
        if !matches!(answer, CallOutcome::Accepted { .. }) {
            return answer;
        }
        match call {
            Call::Pause => self.paused = self.paused.or(Some(self.now)),
            Call::Resume => (self.paused, self.beyond) = (None, Duration::ZERO),
            _ => {}
        }
        // Whoever goes because of our promotion or resume was to get nothing more before.
        if is_fresh && before.deployments[deployment].status == DeploymentStatus::Paused && !matches!(call, Call::Fail) {
            for (id, allocation) in &self.toy.view.allocations {
                let was_wanted = before.allocations.get(id).is_some_and(|before| before.desired == Desired::Run);
                let has_none = self.drained.contains(id) || self.steered.get(&allocation.group) == Some(&Steering::AllToCanary);
                // Unless nobody else is there to serve.
                let canaries = &before.deployments[deployment].groups[&allocation.group].placed_canaries;
                let has_none = has_none || !canaries.iter().any(|canary| before.allocations[canary].is_wanted());
                assert!(!was_wanted || allocation.desired == Desired::Run || has_none, "{id} goes undrained by {call:?}");
            }
        }
        answer
    }

    /// Back with what was written last; whatever was told is forgotten.
    fn kill(&mut self) {
        self.deploys = serde_json::from_str(&serde_json::to_string(&self.disk).unwrap()).unwrap();
        self.outcome = None;
        self.is_dead = true;
        // Its lists are read anew.
        self.views.clear();
        self.shown = self.toy.view.clone();
        self.now += Duration::from_millis(self.random.u64(100..3000));
    }

    fn trouble(&mut self) {
        let id = self.id.clone();
        if self.chance(20) {
            self.toy.come_up(&id);
        }
        if self.chance(300) {
            let ids: Vec<String> = self.toy.view.allocations.keys().cloned().collect();
            let victim = self.random.choice(ids).unwrap();
            match self.random.u32(..4) {
                0 => self.toy.stop(&victim),
                1 => self.toy.dies(&victim, ClientStatus::Failed),
                2 => self.toy.dies(&victim, ClientStatus::Lost),
                _ => self.toy.dies(&victim, ClientStatus::Running),
            }
        }
        if self.chance(400) {
            self.somebody_else(&id);
        }
        if self.chance(100) {
            self.toy.react();
        }
        if self.chance(if self.is_current { 200 } else { 20 }) {
            self.is_current = !self.is_current;
        }
        if self.chance(if self.can_write { 200 } else { 20 }) {
            self.can_write = !self.can_write;
        }
        if self.chance(500) {
            self.mode = self.random.choice([Mode::Auto, Mode::Hold, Mode::Observe]).unwrap();
        }
        if self.chance(500) {
            self.wall_jump = Duration::from_secs(self.random.u64(..200_000));
        }
        if self.chance(60) {
            self.kill();
        }
    }

    fn somebody_else(&mut self, id: &str) {
        let call = match self.random.u32(..6) {
            0 => Call::Promote { groups: vec!["web".to_owned()] },
            1 => Call::Promote { groups: vec!["api".to_owned(), "web".to_owned()] },
            2 => Call::Fail,
            3 => Call::Resume,
            4 if self.paused.is_none() => {
                self.id = self.toy.submit(&wanted(&mut self.random));
                return;
            }
            4 => return,
            _ => {
                self.toy.view.jobs.get_mut(&key()).unwrap().is_stopped = true;
                Call::Fail
            }
        };
        let promotions = self.toy.promotions.len();
        let before = self.toy.status(id).clone();
        self.toy.post(id, &call);
        // What others promote is not counted as ours.
        self.toy.promotions.truncate(promotions);
        if before == DeploymentStatus::Paused && *self.toy.status(id) != DeploymentStatus::Paused {
            (self.paused, self.beyond) = (None, Duration::ZERO);
        }
    }

    fn requests(&mut self) {
        let name = self.random.choice(["api", "web"]).unwrap();
        let verdict = self.random.choice([
            Verdict::Waiting,
            Verdict::Probing,
            Verdict::Ramping,
            Verdict::Suspended,
            Verdict::Earned,
            Verdict::Earned,
            Verdict::Earned,
            Verdict::Failed { why: "it fails".to_owned() },
            Verdict::Undecided { why: "it is unclear".to_owned() },
        ]);
        let changes = [40, 30, 60, 10].map(|one_in| self.chance(one_in));
        let open: BTreeMap<String, u32> =
            self.toy.view.allocations.keys().map(|id| (id.clone(), self.random.u32(..3) / 2)).collect();
        let seen = self.seen.get_mut(name).unwrap();
        if changes[0] {
            seen.verdict = verdict.unwrap();
        }
        if changes[1] || !seen.canary_answers {
            seen.canary_answers = !seen.canary_answers;
        }
        if changes[2] || seen.canary_restarted {
            seen.canary_restarted = !seen.canary_restarted;
        }
        if changes[3] {
            seen.canary_in_flight = 1 - seen.canary_in_flight;
            seen.stable_in_flight = open;
        }
    }
}

fn wanted(random: &mut fastrand::Rng) -> Vec<(&'static str, u32, u32)> {
    vec![("api", random.u32(0..3), 2 + random.u32(0..2)), ("web", 1, 1)]
}

#[test]
fn whatever_happens_nothing_stays_paused_and_nothing_is_promoted_twice() {
    let seeds = std::env::var("DEPLOY_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(0..RUNS, |seed| seed..seed + 1);
    let (mut promotions, mut calls) = (0, BTreeMap::<String, u32>::new());
    for seed in seeds {
        let mut world = World::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if result.is_err() {
            let last: Vec<&String> = world.log.iter().rev().take(40).collect();
            panic!("DEPLOY_SEED={seed}: {last:#?}");
        }
        let once: BTreeSet<&String> = world.toy.promotions.iter().collect();
        assert_eq!(once.len(), world.toy.promotions.len(), "DEPLOY_SEED={seed}: {:?}", world.toy.promotions);
        promotions += once.len();
        for call in world.log.iter().filter_map(|line| line.split_once(" call ")) {
            *calls.entry(call.1.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    // It is no proof if nothing happened.
    let all = ["Pause", "Resume", "Promote", "Fail"].map(|call| calls.get(call).copied().unwrap_or_default());
    assert!(
        std::env::var("DEPLOY_SEED").is_ok() || promotions > 50 && all.iter().all(|count| *count > 50),
        "{promotions} {calls:?}"
    );
}
