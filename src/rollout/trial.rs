//! One canary's trial, from its first probe to the verdict.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decision::{Decision, Suspicion, Why};
use super::evidence::{
    ACT_AT, DOUBT_AT, FAILURES_TOLERATED, HISTORY_MIN, Hour, Rate, Ratio, Recent, SLOWNESS_TOLERATED, could_have_missed,
    tolerated_rate,
};
use super::ledger::{TRIP_AFTER, TRUSTED_AFTER};
use super::machine::{Arm, Nature, Report, Seen, moved};
use super::phase::{Ends, Phase, Suspension};
use super::policy::{FEW, FLOOR_MAX, FLOOR_MAX_BLIND, Instances, Policy, fair};
use super::reader::{Counts, Tally};
use super::steer::Steered;
use super::suspension::DOUBT_PROBES;
use crate::names::Share;

/// Good probes in a row that begin a ramp or end a suspension for latency.
pub const PROBES_GOOD: u8 = 3;
/// Between two probes.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// ... and while a canary is in doubt, so that it is over soon.
const PROBE_INTERVAL_DOUBT: Duration = Duration::from_millis(500);
/// A canary that passes its checks but has answered no probe for this long is asked less often ...
const PROBE_PATIENCE: Duration = Duration::from_secs(60);
/// ... namely so often.
const PROBE_INTERVAL_LATE: Duration = Duration::from_secs(5);
/// A probe whose answer is not told by then is asked again.
const PROBE_LOST: Duration = Duration::from_secs(5);
/// Suspensions that the environment may cause before nothing can be concluded.
pub const ENVIRONMENT_MAX: u8 = 3;
/// A disturbed time, or a suspension with enough requests, that does not tell who is to blame.
pub(super) const UNCLEAR_AFTER: Duration = Duration::from_secs(600);
/// Between giving up on a conclusion and a new beginning.
pub(super) const HOLD: Duration = Duration::from_secs(600);
/// How long a canary told by its age is watched after the ramp before it is one of the others.
pub(super) const WATCH: Duration = Duration::from_secs(300);
/// Between two looks at whether traffic asks for another share within a step.
const TRAFFIC_EVERY: Duration = Duration::from_secs(60);
/// ... and by how many times it must differ.
const TRAFFIC_FACTOR: f64 = 1.5;
/// Latency counts only when it is so much above stable's median: two arms that are both slow differ by chance.
const SLOWER_BY: Duration = Duration::from_millis(100);

/// A single failure is no doubt yet, however early it comes.
const DOUBT_FAILURES: u32 = 2;
/// Evidence from which a step asks for more requests before it is passed ...
const LEANS_AT: f64 = 4.0;
/// ... and for how many times as many.
const LEANS_FACTOR: u32 = 4;

/// What a step works with.
pub(super) struct Context<'a> {
    pub(super) now: Duration,
    pub(super) passed: Duration,
    pub(super) seen: &'a Seen<'a>,
    pub(super) policy: &'a Policy,
    pub(super) hour: &'a Hour,
    pub(super) recent: &'a Recent,
    pub(super) decisions: &'a mut Vec<Decision>,
    /// What a person decided since the last step.
    pub(super) steered: Option<Steered>,
}

/// The instances as the last step met them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Met {
    by_age: bool,
    canary: Arm,
    stable: Arm,
}

/// One canary's trial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) version: String,
    pub(super) began: Duration,
    pub(super) phase: Phase,
    /// In ten-thousandths.
    pub(super) share: u16,
    /// The most stable instances there were.
    pub(super) stables_before: u16,
    /// When the last probe was asked for, and whether its answer is due.
    pub(super) probe_asked: Option<Duration>,
    pub(super) probe_due: bool,
    /// When the probes were passed: the warm-up begins.
    pub(super) ready: Duration,
    pub(super) failures: Ratio,
    pub(super) better: Ratio,
    pub(super) slowness: Ratio,
    pub(super) rate: Rate,
    /// Whether stable's hour says enough for test H.
    pub(super) history: bool,
    /// What a doubt has made of the evidence of test H, once there was one.
    #[serde(default)]
    pub(super) doubted: Option<f64>,
    /// Only what was drawn from here on is evidence.
    pub(super) evidence_from: Duration,
    /// Both arms since then.
    pub(super) canary: Counts,
    pub(super) stable: Counts,
    /// When the oldest epoch with a canary failure began, and what stable did since.
    pub(super) failed_from: Option<Duration>,
    pub(super) stable_since_failure: Counts,
    pub(super) step_from: Duration,
    pub(super) step_time: Duration,
    /// How long stable has failed unusually often without a break.
    pub(super) disturbed: Duration,
    pub(super) step_canary: Counts,
    pub(super) share_set: Duration,
    pub(super) thin: bool,
    pub(super) by_environment: u8,
    pub(super) by_latency: u8,
    /// Three suspensions for slowness changed nothing: it is no reason any more.
    pub(super) slow_is_known: bool,
    /// Rows of three failures.
    pub(super) rows: u32,
    pub(super) holds: u8,
    /// The share that a person fixed, in ten-thousandths.
    #[serde(default)]
    pub(super) fixed: Option<u16>,
    #[serde(default)]
    pub(super) met: Met,
    /// The ledger has to forget what it knows about this canary.
    #[serde(skip)]
    pub(super) anew: bool,
}

impl Trial {
    pub(super) fn new(version: &str, now: Duration) -> Self {
        Self {
            version: version.to_owned(),
            began: now,
            phase: Phase::Probe { good: 0 },
            share: 0,
            stables_before: 0,
            probe_asked: None,
            probe_due: false,
            ready: now,
            failures: Ratio::new(FAILURES_TOLERATED),
            better: Ratio::new(FAILURES_TOLERATED),
            slowness: Ratio::new(SLOWNESS_TOLERATED),
            rate: Rate::new(tolerated_rate(Counts::default())),
            history: false,
            doubted: None,
            evidence_from: now,
            canary: Counts::default(),
            stable: Counts::default(),
            failed_from: None,
            stable_since_failure: Counts::default(),
            step_from: now,
            step_time: Duration::ZERO,
            disturbed: Duration::ZERO,
            step_canary: Counts::default(),
            share_set: now,
            thin: false,
            by_environment: 0,
            by_latency: 0,
            slow_is_known: false,
            rows: 0,
            holds: 0,
            fixed: None,
            met: Met::default(),
            anew: false,
        }
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn share(&self) -> Share {
        Share::new(self.share).unwrap_or_default()
    }

    pub(super) fn tolerated(&self) -> f64 {
        self.rate.tolerated()
    }

    /// Nothing will change before something happens outside.
    pub(super) fn is_over(&self) -> bool {
        // One that was let go with a share may trip, and gets it back.
        matches!(self.phase, Phase::Failed { .. } | Phase::Released { .. } | Phase::Hold { .. }) && self.share == 0
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.fixed.is_some()
    }

    /// Whether it may be given more than it has earned: it answers, and nothing is held against it.
    pub(super) fn is_borne(&self) -> bool {
        matches!(self.phase, Phase::Ramp { .. } | Phase::Earned { .. })
    }

    /// Whether the last step began it anew.
    pub(super) fn begins_anew(&self) -> bool {
        self.anew
    }

    pub(super) fn step(&mut self, cx: &mut Context<'_>) {
        self.anew = false;
        let situation = cx.seen.situation;
        self.met = Met { by_age: situation.nature == Nature::ByAge, canary: situation.canary, stable: situation.stable };
        self.stables_before = self.stables_before.max(situation.stable.carrying());
        // Stable is lost: the canary serves as the last resort, and what it shows now is no evidence.
        if cx.seen.situation.stable.fit > 0 {
            self.weigh(cx.seen.tallies, cx.policy, cx.recent.is_anomalous(self.tolerated()));
        }
        if let Some(steered) = cx.steered.take() {
            self.obey(cx, steered);
            return;
        }
        match self.phase {
            Phase::Probe { good } => self.probe(cx, good),
            Phase::Ramp { step } => self.judge(cx, Some(step)),
            Phase::Earned { .. } => self.judge(cx, None),
            Phase::Suspended(_) => self.suspended(cx),
            Phase::Hold { until } if cx.now >= until => {
                let (holds, fixed, met) = (self.holds, self.fixed, self.met);
                *self = Self { anew: true, holds, fixed, met, ..Self::new(&self.version, cx.now) };
                self.say(cx, Share::ZERO, Why::Again);
            }
            Phase::Hold { .. } | Phase::Released { .. } | Phase::Failed { .. } => {}
        }
    }

    /// Takes settled epochs as evidence.
    pub(super) fn weigh(&mut self, tallies: &[Tally], policy: &Policy, anomaly: bool) {
        for tally in tallies.iter().filter(|tally| tally.opened >= self.evidence_from) {
            let Tally { canary, stable, share, .. } = *tally;
            let share = share.fraction();
            self.failures.add(share, canary.fail, stable.fail);
            self.better.add(1.0 - share, stable.fail, canary.fail);
            if tally.opened >= self.ready + policy.warm_up {
                self.slowness.add(share, canary.slow, stable.slow);
            }
            if !anomaly {
                self.rate.add(canary);
            }
            self.canary += canary;
            self.stable += stable;
            if canary.fail > 0 && self.failed_from.is_none() {
                self.failed_from = Some(tally.opened);
            }
            if self.failed_from.is_some_and(|from| tally.opened >= from) {
                self.stable_since_failure += tally.stable_all();
            }
            if tally.opened >= self.step_from {
                self.step_canary += canary;
            }
        }
        if let Phase::Suspended(suspension) = &mut self.phase {
            for tally in tallies {
                if tally.opened >= suspension.evidence_from {
                    suspension.stable += tally.stable_all();
                }
                if tally.opened >= suspension.lately_from {
                    suspension.lately += tally.stable_all();
                }
                if tally.opened >= suspension.at {
                    suspension.after = suspension.after.saturating_add(tally.stable_all().all);
                }
            }
        }
    }

    /// PROBE: three good answers, a second apart, begin the ramp.
    fn probe(&mut self, cx: &mut Context<'_>, good: u8) {
        let good = match self.answered(cx) {
            Some(true) => good + 1,
            Some(false) => 0,
            None => good,
        };
        self.phase = Phase::Probe { good };
        if good >= PROBES_GOOD {
            self.get_ready(cx);
            self.enter(cx, 0, Why::Answers { good });
        } else if cx.seen.situation.canary.fit > 0 {
            self.ask(cx);
        }
    }

    /// Evidence begins to count, against what stable's last hour allows.
    pub(super) fn get_ready(&mut self, cx: &Context<'_>) {
        let hour = cx.hour.sum(cx.now);
        self.history = hour.all >= HISTORY_MIN;
        self.rate = Rate::new(tolerated_rate(hour));
        self.ready = cx.now;
        self.evidence_from = cx.now;
    }

    /// RAMP and after: every reason to take the share away, then every reason to give more.
    fn judge(&mut self, cx: &mut Context<'_>, step: Option<usize>) {
        if cx.seen.situation.stable.fit == 0 {
            return;
        }
        let anomaly = cx.recent.is_anomalous(self.tolerated());
        if let Some((suspicion, ends)) = self.suspect(cx, anomaly) {
            self.suspend(cx, suspicion, ends, step);
            return;
        }
        match step {
            // A person has the wheel: nothing is given and nothing is put off.
            _ if self.is_fixed() => self.step_time += cx.passed,
            Some(_) if self.is_better() => {
                let (evidence, canary, stable) = (self.better.value(), self.canary, self.stable);
                self.earn(cx, Why::Better { evidence, canary, stable });
            }
            Some(_) if anomaly => self.wait_out(cx),
            Some(step) => {
                self.step_time += cx.passed;
                self.disturbed = Duration::ZERO;
                self.advance(cx, step);
            }
            None if anomaly => {}
            None => {
                self.step_time += cx.passed;
                self.keep(cx);
            }
        }
    }

    /// The mirror of test C: stable fails more, as before a hotfix. What happens to both arms cannot look like this.
    fn is_better(&self) -> bool {
        self.better.value() >= ACT_AT && self.canary.all.saturating_sub(self.canary.fail) >= TRUSTED_AFTER
    }

    /// ANOMALY HOLD: nothing advances while stable fails unusually often, but not for ever.
    fn wait_out(&mut self, cx: &mut Context<'_>) {
        self.disturbed += cx.passed;
        if self.disturbed >= UNCLEAR_AFTER {
            let (stable, after) = (cx.recent.stable_minute(), self.disturbed);
            self.hold(cx, Why::Unclear { stable, after, again: HOLD });
        }
    }

    fn suspect(&self, cx: &Context<'_>, anomaly: bool) -> Option<(Suspicion, Ends)> {
        let (live, canary) = (cx.seen.live, cx.seen.situation.canary);
        let limit = cx.policy.judged_at;
        if live.tripped {
            return Some((Suspicion::InRow { stable: cx.recent.stable_minute() }, Ends::Confirmed));
        }
        if canary.fit * 2 < canary.instances {
            return Some((Suspicion::ArmDown { fit: canary.fit, instances: canary.instances }, Ends::Confirmed));
        }
        let (canary, stable) = (self.canary, self.stable);
        let evidence = self.failures.value();
        if evidence >= ACT_AT {
            return Some((Suspicion::FailsMore { evidence, canary, stable }, Ends::Confirmed));
        }
        let pending = Counts { all: live.pending.all.saturating_add(live.canary_in_flight), ..live.pending };
        let evidence = self.history_with(pending);
        if !anomaly && evidence >= DOUBT_AT {
            let (canary, tolerated) = (canary + live.pending, self.tolerated());
            if evidence >= ACT_AT {
                return Some((Suspicion::FailsOften { evidence, canary, tolerated }, Ends::Confirmed));
            }
            if self.doubted.is_none() && canary.fail >= DOUBT_FAILURES {
                return Some((Suspicion::Doubtful { evidence, canary, tolerated }, Ends::Weighed));
            }
        }
        if live.slow_in_row >= TRIP_AFTER && live.stable_slow_lately == 0 {
            return Some((Suspicion::SlowInRow { slow: live.slow_in_row, limit }, Ends::Probed));
        }
        let evidence = if self.slow_is_known { 0.0 } else { self.slowness.value() };
        let floor = live.stable_median.unwrap_or_default() + SLOWER_BY;
        let above = floor <= limit || live.canary_median.is_some_and(|median| median >= floor);
        (evidence >= ACT_AT && above).then_some((Suspicion::Slower { evidence, canary, stable, limit }, Ends::Probed))
    }

    /// The evidence of test H, with attempts that are not all judged yet; none where stable's hour says too little.
    pub(super) fn history_with(&self, pending: Counts) -> f64 {
        if self.history { self.doubted.unwrap_or(1.0) * self.rate.value_with(pending) } else { 0.0 }
    }

    pub(super) fn resume(&mut self, cx: &mut Context<'_>, step: Option<usize>, why: Why) {
        match step {
            Some(step) => self.enter(cx, step, why),
            None => self.earn(cx, why),
        }
    }

    /// Begins a step.
    fn enter(&mut self, cx: &mut Context<'_>, step: usize, why: Why) {
        self.phase = Phase::Ramp { step };
        self.disturbed = Duration::ZERO;
        (self.step_from, self.step_time, self.step_canary) = (cx.now, Duration::ZERO, Counts::default());
        let share = self.wanted(cx, step);
        self.say(cx, share, why);
    }

    pub(super) fn earn(&mut self, cx: &mut Context<'_>, why: Why) {
        self.phase = Phase::Earned { since: cx.now };
        (self.step_from, self.step_time, self.step_canary) = (cx.now, Duration::ZERO, Counts::default());
        let Instances { canaries, stables, .. } = self.instances(cx);
        let share = self.fixed_share().unwrap_or(Share::from_fraction(fair(canaries, stables)));
        self.say(cx, share, why);
    }

    fn fixed_share(&self) -> Option<Share> {
        self.fixed.and_then(Share::new)
    }

    /// Passes the step, or fits its share to instances and traffic.
    fn advance(&mut self, cx: &mut Context<'_>, step: usize) {
        // The share has been this step's for longer than an epoch, so what has not settled belongs to it.
        let (seen, after) = (self.step_canary + cx.seen.live.pending, self.step_time);
        let enough = seen.all >= self.asked(cx.policy) && after >= cx.policy.step_min;
        let thin = !enough && after >= cx.policy.step_max && seen.all >= FEW && seen.fail == 0;
        if enough || thin {
            self.thin |= thin;
            if step + 1 >= cx.policy.steps.len() {
                self.earn(cx, Why::Earned { seen: self.canary });
            } else {
                let why = if thin { Why::PassedThin { seen, after } } else { Why::Passed { seen, after } };
                self.enter(cx, step + 1, why);
            }
            return;
        }
        self.adapt(cx, step);
    }

    /// Canary requests that a step asks for. Evidence that leans against it is looked at for longer, and either grows or goes.
    fn asked(&self, policy: &Policy) -> u32 {
        let leans = self.failures.value().max(self.history_with(Counts::default())) >= LEANS_AT;
        if leans { policy.step_requests_min.saturating_mul(LEANS_FACTOR) } else { policy.step_requests_min }
    }

    /// Fits the share to the instances at once, and to traffic now and then.
    fn adapt(&mut self, cx: &mut Context<'_>, step: usize) {
        let instances = self.instances(cx);
        let share = |step, rate| cx.policy.share(step, rate, self.floor_max(), instances);
        let (least, most) = (share(0, f64::INFINITY), share(usize::MAX, 0.0));
        let (wanted, has) = (self.wanted(cx, step), self.share());
        let Instances { canaries, stables, .. } = instances;
        if has < least || has > most {
            self.say(cx, wanted, Why::Instances { canaries, stables });
        } else if cx.now.saturating_sub(self.share_set) >= TRAFFIC_EVERY {
            let factor = wanted.fraction() / has.fraction().max(f64::MIN_POSITIVE);
            if !(1.0 / TRAFFIC_FACTOR..=TRAFFIC_FACTOR).contains(&factor) {
                self.say(cx, wanted, Why::Traffic { rate: cx.recent.rate() });
            }
        }
    }

    /// After the ramp: each instance counts the same, and one told by its age alone becomes one of the others.
    fn keep(&mut self, cx: &mut Context<'_>) {
        let Instances { canaries, stables, .. } = self.instances(cx);
        let wanted = Share::from_fraction(fair(canaries, stables));
        if wanted != self.share() {
            self.say(cx, wanted, Why::Instances { canaries, stables });
        }
        if cx.seen.situation.nature == Nature::ByAge && self.step_time >= WATCH {
            let why = Why::Watched { seen: self.step_canary, after: self.step_time };
            cx.decisions.push(Decision::Adopt { why });
        }
    }

    fn wanted(&self, cx: &Context<'_>, step: usize) -> Share {
        self.fixed_share().unwrap_or_else(|| cx.policy.share(step, cx.recent.rate(), self.floor_max(), self.instances(cx)))
    }

    fn floor_max(&self) -> f64 {
        if self.history { FLOOR_MAX } else { FLOOR_MAX_BLIND }
    }

    fn instances(&self, cx: &Context<'_>) -> Instances {
        let (canary, stable) = (cx.seen.situation.canary, cx.seen.situation.stable);
        Instances { canaries: canary.carrying(), stables: stable.carrying(), stables_before: self.stables_before }
    }

    /// Sets the share and says why.
    pub(super) fn say(&mut self, cx: &mut Context<'_>, to: Share, why: Why) {
        cx.decisions.push(moved(self.share(), to, why));
        self.share = to.ten_thousandths();
        self.share_set = cx.now;
    }

    /// The answer to the probe asked for, if it has come.
    pub(super) fn answered(&mut self, cx: &Context<'_>) -> Option<bool> {
        let probed = cx.seen.situation.probed.filter(|_| self.probe_due)?;
        self.probe_due = false;
        Some(probed.is_good())
    }

    /// Asks for a probe when one is due.
    pub(super) fn ask(&mut self, cx: &mut Context<'_>) {
        let silent = matches!(self.phase, Phase::Probe { good: 0 }) && cx.now.saturating_sub(self.began) >= PROBE_PATIENCE;
        let in_doubt = matches!(&self.phase, Phase::Suspended(Suspension { ends: Ends::Weighed, probes, .. })
            if probes.all < DOUBT_PROBES);
        let wait = if self.probe_due {
            PROBE_LOST
        } else if in_doubt {
            PROBE_INTERVAL_DOUBT
        } else if silent {
            PROBE_INTERVAL_LATE
        } else {
            PROBE_INTERVAL
        };
        if self.probe_asked.is_none_or(|asked| cx.now.saturating_sub(asked) >= wait) {
            self.probe_asked = Some(cx.now);
            self.probe_due = true;
            cx.decisions.push(Decision::Probe);
        }
    }

    /// `now` is when the last step was.
    pub(super) fn report(&self, now: Duration, policy: &Policy, base: Report) -> Report {
        let since = match &self.phase {
            Phase::Probe { .. } => self.began,
            Phase::Ramp { .. } => self.step_from,
            Phase::Suspended(suspension) => suspension.at,
            Phase::Earned { since: at } | Phase::Released { at } | Phase::Failed { at } => *at,
            Phase::Hold { .. } => self.share_set,
        };
        let suspension = if let Phase::Suspended(suspension) = &self.phase { Some(suspension) } else { None };
        let good_probes =
            if let Phase::Probe { good } = self.phase { good } else { suspension.map_or(0, |suspension| suspension.good) };
        let doubted = suspension.filter(|suspension| suspension.ends == Ends::Weighed);
        let begins_anew =
            if let Phase::Hold { until } = self.phase { Some(until.saturating_sub(now).as_secs_f64()) } else { None };
        Report {
            version: Some(self.version.clone()),
            phase: self.phase.name(),
            phase_seconds: now.saturating_sub(since).as_secs_f64(),
            step: if let Phase::Ramp { step } = self.phase { step + 1 } else { 0 },
            steps: policy.steps.len(),
            fixed_share: self.fixed_share().map(Share::fraction),
            by_age: self.met.by_age,
            canary_arm: self.met.canary,
            stable_arm: self.met.stable,
            good_probes,
            confirms: suspension.is_some_and(|suspension| suspension.ends != Ends::Probed),
            doubt_probes: doubted.map(|suspension| suspension.probes),
            span_stable: suspension.map(|suspension| suspension.stable).unwrap_or_default(),
            span_after: suspension.map_or(0, |suspension| suspension.after),
            begins_anew_seconds: begins_anew,
            evidence_concurrent: self.failures.value(),
            evidence_history: self.doubted.unwrap_or(1.0) * self.rate.value(),
            evidence_slow: self.slowness.value(),
            evidence_better: self.better.value(),
            tolerated_rate: self.tolerated(),
            has_history: self.history,
            canary: self.canary,
            stable: self.stable,
            step_canary: self.step_canary,
            step_requests_min: self.asked(policy),
            step_seconds: self.step_time.as_secs_f64(),
            step_seconds_min: policy.step_min.as_secs_f64(),
            step_seconds_max: policy.step_max.as_secs_f64(),
            judged_at_seconds: policy.judged_at.as_secs_f64(),
            thin: self.thin,
            by_environment: self.by_environment,
            by_latency: self.by_latency,
            slower: self.slow_is_known,
            could_have_missed: could_have_missed(self.canary.all - self.canary.fail.min(self.canary.all)),
            ..base
        }
    }
}
