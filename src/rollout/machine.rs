//! The rollout of one service: history of stable, and the trial of whatever canary is there.
//!
//! A [`Machine`] has no input or output. It is told the time (a monotonic timeline that goes on over restarts) and what was
//! seen, and answers with [`Decision`]s. It can be written to disk at any moment and read back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Situation;
use super::decision::{Decision, Why};
use super::evidence::{ACT_AT, Hour, Rate, Recent, tolerated_rate};
use super::phase::Phase;
use super::policy::Policy;
use super::reader::{Counts, Live, Tally};
use super::steer::{self, Pointless, Steered};
use super::trial::{Context, Trial};
use crate::names::Share;

/// Between two steps while a canary is judged.
pub const STEP: Duration = Duration::from_millis(500);
/// Between two steps while none is.
pub const STEP_IDLE: Duration = Duration::from_secs(5);

/// Everything a step looks at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What the settled epochs newly hold.
    pub tallies: &'a [Tally],
    /// What is known at once.
    pub live: Live,
    /// The instances, and a probe's answer.
    pub situation: &'a Situation<'a>,
}

/// How a canary is told from stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Tags, metadata or Nomad say so: it stays canary until they no longer do.
    Declared,
    /// It came later than others: once it has earned it and been watched, it is one of them.
    ByAge,
}

/// The instances of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Registered.
    pub instances: u16,
    /// Passing and not ejected.
    pub fit: u16,
}

impl Arm {
    /// Those that share the arm's load.
    pub(super) fn carrying(self) -> u16 {
        if self.fit > 0 { self.fit } else { self.instances }
    }
}

/// What somebody above wants of the share: a deployment that is held, or a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Direction {
    /// What the canary has earned.
    #[default]
    Judge,
    /// None, for now.
    Withhold,
    /// No more than another service of the same instances has: they share one fate.
    AtMost(Share),
    /// Everything, so that stable can go; as long as the canary bears it.
    AllToCanary,
}

/// How one probe was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The answer's status; none when there was no answer, or none in time (2 s to the first byte).
    pub status: Option<u16>,
}

impl Probed {
    pub(super) fn is_good(self) -> bool {
        self.status.is_some_and(|status| status < 500)
    }
}

/// The rollout of one service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    #[serde(skip)]
    policy: Policy,
    hour: Hour,
    recent: Recent,
    trial: Option<Trial>,
    /// What everybody shows after a promotion, against what the hour before allowed.
    watch: Option<Watch>,
    #[serde(skip)]
    direction: Direction,
    stepped: Duration,
    begun: u32,
    /// Trips of this ledger that have been dealt with.
    #[serde(skip)]
    trips: u16,
    said: String,
    /// What a person decided and the next step does.
    #[serde(skip)]
    steered: Option<Steered>,
}

/// The evidence that a version which has been promoted fails more often than the hour before it allowed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Watch {
    since: Duration,
    rate: Rate,
    seen: Counts,
}

impl Machine {
    /// A machine that has seen nothing.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// One read from disk goes on under this policy.
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Goes on under another policy.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// A person decides; the next step does it. That must come at once.
    ///
    /// # Errors
    /// It would change nothing.
    pub fn steer(&mut self, steered: Steered) -> Result<(), Pointless> {
        let trial = self.trial.as_ref().ok_or(Pointless::NoRollout)?;
        steer::check(steered.steer, trial.phase(), trial.is_fixed())?;
        self.steered = Some(steered);
        Ok(())
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Duration, seen: &Seen<'_>) -> Vec<Decision> {
        let passed = now.saturating_sub(self.stepped);
        self.stepped = now;
        let mut decisions = Vec::new();
        self.take_in(seen.tallies);
        self.meet(now, seen, &mut decisions);
        let steered = self.steered.take();
        if let Some(trial) = &mut self.trial {
            let (policy, hour, recent) = (&self.policy, &self.hour, &self.recent);
            let mut context = Context { now, passed, seen, policy, hour, recent, decisions: &mut decisions, steered };
            trial.step(&mut context);
            if trial.begins_anew() {
                self.begun = self.begun.wrapping_add(1);
            }
            if decisions.iter().any(|decision| matches!(decision, Decision::Adopt { .. })) {
                self.trial = None;
            }
        }
        // Whatever tripped has been looked at; without a share there is nothing to take away.
        if seen.live.tripped {
            self.trips = seen.live.trips;
        }
        if let Some(last) = decisions.iter().rfind(|decision| **decision != Decision::Probe) {
            self.said = last.to_string();
        }
        decisions
    }

    /// Takes in what was counted outside of a step.
    pub(super) fn absorb(&mut self, tallies: &[Tally]) {
        self.take_in(tallies);
        if let Some(trial) = &mut self.trial {
            trial.weigh(tallies, &self.policy, self.recent.is_anomalous(trial.tolerated()));
        }
    }

    /// The canary's share.
    pub fn share(&self) -> Share {
        let Some(trial) = &self.trial else { return Share::ZERO };
        match self.direction {
            Direction::Judge => trial.share(),
            Direction::Withhold => Share::ZERO,
            Direction::AtMost(most) => trial.share().min(most),
            Direction::AllToCanary if trial.is_borne() => Share::ALL,
            Direction::AllToCanary => trial.share(),
        }
    }

    /// What it has earned, whatever its direction.
    pub fn earned(&self) -> Share {
        self.trial.as_ref().map_or(Share::ZERO, Trial::share)
    }

    /// From the next step on the share goes in this direction.
    pub fn direct(&mut self, direction: Direction) {
        self.direction = direction;
    }

    /// Another instance has taken the canary's place, though of the same version: it begins anew with the next step.
    pub fn restart(&mut self) {
        self.trial = None;
    }

    /// The canary has been promoted: from now on everybody's failures are held against what the last hour allows.
    pub fn watch(&mut self, now: Duration) {
        let rate = Rate::new(tolerated_rate(self.hour.sum(now)));
        self.watch = Some(Watch { since: now, rate, seen: Counts::default() });
    }

    /// Ends what [`Self::watch`] began.
    pub fn end_watch(&mut self) {
        self.watch = None;
    }

    /// The version of the canary that is judged, if there is one.
    pub fn version(&self) -> Option<&str> {
        self.trial.as_ref().map(Trial::version)
    }

    /// Until when the next step must come.
    pub fn step_within(&self) -> Duration {
        if self.trial.as_ref().is_none_or(Trial::is_over) { STEP_IDLE } else { STEP }
    }

    /// The phase of the canary's trial, if there is one.
    pub fn phase(&self) -> Option<&Phase> {
        self.trial.as_ref().map(Trial::phase)
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Where it stands, for metrics, the API and people.
    pub fn report(&self) -> Report {
        let stable_hour = self.hour.sum(self.stepped);
        let (evidence_watch, watched) = self.watch.as_ref().map(|watch| (watch.rate.value(), watch.seen)).unwrap_or_default();
        let said = self.said.clone();
        let rate = self.recent.rate();
        let report = Report { said, stable_hour, rate, evidence_watch, watched, threshold: ACT_AT, ..Report::default() };
        let report = match &self.trial {
            Some(trial) => Report {
                anomaly: self.recent.is_anomalous(trial.tolerated()),
                ..trial.report(self.stepped, &self.policy, report)
            },
            None => report,
        };
        Report { share: self.share().fraction(), ..report }
    }

    /// Begins to be stepped, or goes on after a time in which nobody looked: that time is no part of a step, a suspension or a
    /// silence, and the probe whose answer nobody heard is asked again. Stable's hour is an hour all the same. `trips` of
    /// the ledger, as far as they are dealt with.
    pub(super) fn go_on(&mut self, now: Duration, trips: u16) {
        let gap = now.saturating_sub(self.stepped);
        (self.stepped, self.trips) = (now, trips);
        self.recent.skip(gap);
        if let Some(trial) = &mut self.trial {
            trial.skip(gap);
        }
    }

    pub(super) fn trips(&self) -> u16 {
        self.trips
    }

    pub(super) fn begun(&self) -> u32 {
        self.begun
    }

    fn take_in(&mut self, tallies: &[Tally]) {
        for tally in tallies {
            if let Some(watch) = self.watch.as_mut().filter(|watch| tally.opened >= watch.since) {
                watch.rate.add(tally.stable_all());
                watch.seen += tally.stable_all();
            }
            self.hour.add(tally.opened, tally.stable_all());
            self.recent.add(tally);
        }
    }

    /// Canaries and stables come and go.
    fn meet(&mut self, now: Duration, seen: &Seen<'_>, decisions: &mut Vec<Decision>) {
        let Situation { version, canary, stable, .. } = *seen.situation;
        let from = self.share();
        if canary.instances == 0 {
            if self.trial.take().is_some() {
                decisions.push(moved(from, Share::ZERO, Why::Gone));
            }
            return;
        }
        if stable.instances == 0 {
            self.trial = None;
            decisions.push(Decision::Adopt { why: Why::OlderLeft });
            return;
        }
        if let Some(trial) = &self.trial
            && trial.version() == version
        {
            return;
        }
        if self.trial.replace(Trial::new(version, now)).is_some() {
            decisions.push(moved(from, Share::ZERO, Why::Replaced));
        }
        self.begun = self.begun.wrapping_add(1);
    }
}

/// A change of share, or a note when it does not change.
pub(super) fn moved(from: Share, to: Share, why: Why) -> Decision {
    if from == to { Decision::Note { share: to, why } } else { Decision::Share { from, to, why } }
}

/// Where a rollout stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The canary's version; none when there is no canary.
    pub version: Option<String>,
    /// The phase in one word; empty when there is no canary.
    pub phase: &'static str,
    /// Since when it is in this phase (in the ramp: in this step).
    pub phase_seconds: f64,
    /// The step, counted from 1; 0 outside of the ramp.
    pub step: usize,
    /// Steps of the ramp.
    pub steps: usize,
    /// The canary's share, between 0 and 1.
    pub share: f64,
    /// The share that a person fixed.
    pub fixed_share: Option<f64>,
    /// Nobody declares the canary, only its age tells.
    pub by_age: bool,
    /// The canary's instances.
    pub canary_arm: Arm,
    /// Stable's instances.
    pub stable_arm: Arm,
    /// Good answers to probes in a row, while these count.
    pub good_probes: u8,
    /// It is suspended for failures: stable is asked how it does at the same time. Else for slowness, and probes tell.
    pub confirms: bool,
    /// It is suspended on a doubt: how it answered our own requests so far.
    pub doubt_probes: Option<Counts>,
    /// What stable did over the time that a suspension looks at.
    pub span_stable: Counts,
    /// Stable's attempts among them since the share was taken away.
    pub span_after: u32,
    /// It is put off, and begins anew in so many seconds.
    pub begins_anew_seconds: Option<f64>,
    /// Evidence that it fails more than stable at the same time (test C).
    pub evidence_concurrent: f64,
    /// Evidence that it fails more than stable's hour allows (test H).
    pub evidence_history: f64,
    /// Evidence that it is slow more often than stable.
    pub evidence_slow: f64,
    /// Evidence that it fails less than stable.
    pub evidence_better: f64,
    /// Evidence that what was promoted fails more than the hour before allowed; 0 when nobody watches.
    pub evidence_watch: f64,
    /// What was seen since the promotion.
    pub watched: Counts,
    /// What each evidence must reach to act.
    pub threshold: f64,
    /// The failure rate that stable's hour allows.
    pub tolerated_rate: f64,
    /// Stable's hour says enough for the evidence of history to count.
    pub has_history: bool,
    /// The canary's attempts in this rollout.
    pub canary: Counts,
    /// Stable's attempts that were drawn against them.
    pub stable: Counts,
    /// The canary's attempts in this step.
    pub step_canary: Counts,
    /// Canary attempts this step asks for; more while evidence leans against the canary.
    pub step_requests_min: u32,
    /// Seconds of this step, disturbed ones left out.
    pub step_seconds: f64,
    /// No step is shorter.
    pub step_seconds_min: f64,
    /// From then on a few attempts without a failure are enough.
    pub step_seconds_max: f64,
    /// The age at which an attempt without a first byte is slow.
    pub judged_at_seconds: f64,
    /// The service's requests a second, lately.
    pub rate: f64,
    /// A step was passed with few requests.
    pub thin: bool,
    /// Stable fails unusually often just now: nothing advances.
    pub anomaly: bool,
    /// Suspensions that were the environment's fault.
    pub by_environment: u8,
    /// Suspensions for latency.
    pub by_latency: u8,
    /// It is slower than stable, which stopped nothing.
    pub slower: bool,
    /// A failure rate that would have gone unseen so far.
    pub could_have_missed: f64,
    /// Stable's attempts of the last hour.
    pub stable_hour: Counts,
    /// The last decision in a sentence.
    pub said: String,
}
