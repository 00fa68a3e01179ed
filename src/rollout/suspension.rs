//! What becomes of a share that was taken away: CONFIRM, probing, a new beginning.

use std::time::Duration;

use super::decision::{Suspicion, Why};
use super::evidence::{ACT_AT, CONFIRM_MIN, rows_are_chance, stable_was_ill, stable_was_well};
use super::phase::{Ends, Phase, Suspension};
use super::policy::Latency;
use super::reader::Counts;
use super::trial::{Context, ENVIRONMENT_MAX, HOLD, PROBES_GOOD, Trial, UNCLEAR_AFTER};
use crate::names::Share;

/// A suspended canary that answers no probe for this long has failed.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(30);
/// Suspensions for latency before the trial is held, or fails if the policy says so.
const LATENCY_MAX: u8 = 3;
/// Stable must have been well for this long before a canary it was ill with gets its share back.
const WELL_FOR: Duration = Duration::from_secs(20);
/// A suspension that lacks even the requests to tell.
pub(super) const UNCLEAR_THIN_AFTER: Duration = Duration::from_secs(3600);
/// New beginnings that end the same way, before it is no longer judged.
const HOLDS_MAX: u8 = 3;
/// Our own requests to a canary in doubt. One that fails a fifth of everything fails none of them in one case of
/// ninety; one that is as good as stable gets its share back after them.
pub(super) const DOUBT_PROBES: u32 = 20;
/// CONFIRM looks at the whole span of the evidence, and at so much of its end apart.
const LATELY: Duration = Duration::from_secs(10);

impl Trial {
    pub(super) fn suspend(&mut self, cx: &mut Context<'_>, suspicion: Suspicion, ends: Ends, step: Option<usize>) {
        let recent = cx.recent;
        // Failures in a row are seen before their epoch settles.
        let row_from = if let Suspicion::InRow { .. } = suspicion { cx.seen.live.failing_from } else { cx.now };
        let evidence_from = match (suspicion, self.failed_from) {
            // These look back over the whole trial.
            (Suspicion::FailsMore { .. } | Suspicion::FailsOften { .. } | Suspicion::Doubtful { .. }, Some(from)) => from,
            _ => recent.first_canary_failure(self.evidence_from).unwrap_or_else(|| recent.end().min(row_from)),
        };
        let stable = match suspicion {
            Suspicion::FailsMore { .. } | Suspicion::FailsOften { .. } | Suspicion::Doubtful { .. }
                if self.failed_from.is_some() =>
            {
                self.stable_since_failure
            }
            _ => recent.stable(evidence_from),
        };
        let lately_from = evidence_from.max(row_from.min(recent.end().saturating_sub(LATELY)));
        let lately = recent.stable(lately_from);
        let (at, answered) = (cx.now, cx.now);
        let in_row = matches!(suspicion, Suspicion::InRow { .. } | Suspicion::SlowInRow { .. });
        self.rows += u32::from(matches!(suspicion, Suspicion::InRow { .. }));
        self.phase = Phase::Suspended(Suspension {
            ends,
            at,
            evidence_from,
            stable,
            lately,
            lately_from,
            after: 0,
            step,
            in_row,
            good: 0,
            answered,
            probes: Counts::default(),
            probed: at,
        });
        self.probe_due = false;
        self.say(cx, Share::ZERO, Why::Suspected(suspicion));
    }

    pub(super) fn suspended(&mut self, cx: &mut Context<'_>) {
        let Phase::Suspended(suspension) = &self.phase else { return };
        let (stable, ends, since) = (suspension.stable, suspension.ends, cx.now.saturating_sub(suspension.at));
        match ends {
            Ends::Confirmed => self.confirm(cx),
            Ends::Weighed => {
                self.doubt(cx);
                self.confirm(cx);
            }
            Ends::Probed => self.probe_again(cx),
        }
        let unclear =
            since >= UNCLEAR_AFTER && (stable.all >= CONFIRM_MIN || ends == Ends::Probed) || since >= UNCLEAR_THIN_AFTER;
        if unclear && matches!(self.phase, Phase::Suspended(_)) {
            self.hold(cx, Why::Unclear { stable, after: since, again: HOLD });
        }
    }

    /// CONFIRM: is stable well over the whole span of the evidence? Then the canary is to blame. Otherwise the environment is, and
    /// the canary gets its share back when stable is well again.
    fn confirm(&mut self, cx: &mut Context<'_>) {
        let Phase::Suspended(suspension) = &self.phase else { return };
        let Suspension { ends, stable, lately, after, step, at, in_row, .. } = *suspension;
        let end = cx.recent.end();
        // What stable did beside the last failure, and for a while after it, has to be judged before it can be compared: the span of the
        // evidence may be long and good, and an outage that took the share away may have begun with that failure.
        if end <= at || after < CONFIRM_MIN {
            return;
        }
        let well = stable_was_well(stable, self.tolerated()) == Some(true);
        if well && !stable_was_ill(lately, self.tolerated()) {
            let (attempts, tolerated) = (self.canary.all.saturating_add(cx.seen.live.pending.all), self.tolerated());
            if ends == Ends::Weighed && self.weighed(cx).is_none_or(|evidence| evidence < ACT_AT) {
                return;
            }
            if in_row && rows_are_chance(self.rows, attempts, tolerated) {
                self.resume(cx, step, Why::Chance { attempts, tolerated });
                return;
            }
            self.phase = Phase::Failed { at: cx.now };
            self.say(cx, Share::ZERO, Why::Blamed { stable });
            return;
        }
        let since = cx.recent.stable(end.saturating_sub(WELL_FOR));
        let well = since.all > 0 && f64::from(since.fail) <= f64::from(since.all) * self.tolerated() + 1.0;
        let canary = cx.seen.situation.canary;
        let waited = end > at + WELL_FOR && stable.all >= CONFIRM_MIN;
        if stable.fail == 0 || !well || !waited || canary.fit * 2 < canary.instances || cx.recent.is_anomalous(self.tolerated()) {
            return;
        }
        self.by_environment = self.by_environment.saturating_add(1);
        let times = self.by_environment;
        if times >= ENVIRONMENT_MAX {
            self.hold(cx, Why::Inconclusive { times, again: HOLD });
            return;
        }
        // What was seen in a disturbed time is not held against anybody.
        self.forget(cx);
        self.resume(cx, step, Why::Environment { stable, times });
    }

    /// DOUBT: while the share is away we ask the canary ourselves, which no user pays for. When that and stable speak for it, it goes
    /// on with the evidence it has, and the next time nothing less than all of it takes the share away.
    fn doubt(&mut self, cx: &mut Context<'_>) {
        let answer = self.answered(cx);
        let Phase::Suspended(suspension) = &mut self.phase else { return };
        if let Some(good) = answer {
            suspension.probes += Counts { all: 1, fail: u32::from(!good), slow: 0 };
            suspension.probed = cx.now;
        }
        let Suspension { probes, lately, after, step, .. } = *suspension;
        // What speaks against the canary is asked for as long as stable is looked at beside it: an outage that ends just now would
        // otherwise be seen by the probes and no longer by stable.
        if probes.all < DOUBT_PROBES || self.staked_on(probes) >= ACT_AT && after < CONFIRM_MIN {
            self.ask(cx);
        }
        // With a failure of stable it is CONFIRM's to say what that means, and it says so when it has seen enough.
        let stable_is_fine = lately.fail == 0 || after >= CONFIRM_MIN && !stable_was_ill(lately, self.tolerated());
        if let Some(evidence) = self.weighed(cx).filter(|evidence| *evidence < ACT_AT)
            && stable_is_fine
        {
            self.doubted = Some(self.rate.staked_on(probes));
            self.resume(cx, step, Why::Dismissed { evidence, probes });
        }
    }

    /// What a doubt has come to, with what was judged late and what our own requests saw; none before what stable did beside them is
    /// judged. Enough evidence is enough at any moment (Ville); that there is too little is said only when all are answered.
    fn weighed(&self, cx: &Context<'_>) -> Option<f64> {
        let Phase::Suspended(Suspension { probes, probed, .. }) = self.phase else { return None };
        let evidence = self.staked_on(probes);
        let is_enough = probes.all >= DOUBT_PROBES || evidence >= ACT_AT;
        (is_enough && cx.recent.end() > probed && !cx.recent.is_anomalous(self.tolerated())).then_some(evidence)
    }

    fn staked_on(&self, probes: Counts) -> f64 {
        (self.history_with(Counts::default()) * self.rate.staked_on(probes)).max(self.failures.value())
    }

    /// SLOW: three probes answered in time give the share back, thirty seconds of silence end the trial.
    fn probe_again(&mut self, cx: &mut Context<'_>) {
        let answer = self.answered(cx);
        let in_time = cx.seen.situation.probed.is_some_and(|probed| probed.status.is_some());
        let Phase::Suspended(suspension) = &mut self.phase else { return };
        match answer {
            Some(true) => suspension.good += 1,
            Some(false) => suspension.good = 0,
            None => {}
        }
        if in_time {
            suspension.answered = cx.now;
        }
        let streak = suspension.in_row;
        let (good, step, silent) = (suspension.good, suspension.step, cx.now.saturating_sub(suspension.answered));
        if silent >= SILENT_MAX {
            self.phase = Phase::Failed { at: cx.now };
            self.say(cx, Share::ZERO, Why::DoesNotAnswer { after: silent });
        } else if good < PROBES_GOOD {
            self.ask(cx);
        } else {
            self.by_latency = self.by_latency.saturating_add(1);
            let times = self.by_latency;
            self.slowness.reset();
            match cx.policy.latency {
                _ if times < LATENCY_MAX => self.resume(cx, step, Why::AnswersAgain { good }),
                Latency::Fail => {
                    self.phase = Phase::Failed { at: cx.now };
                    self.say(cx, Share::ZERO, Why::TooSlow { times });
                }
                Latency::Suspend if streak => self.hold(cx, Why::SlowAgain { times, again: HOLD }),
                Latency::Suspend => {
                    self.slow_is_known = true;
                    self.resume(cx, step, Why::SlowButAnswers { times });
                }
            }
        }
    }

    /// Nothing can be concluded now: later, but not for ever.
    pub(super) fn hold(&mut self, cx: &mut Context<'_>, why: Why) {
        self.holds = self.holds.saturating_add(1);
        if self.holds < HOLDS_MAX {
            self.phase = Phase::Hold { until: cx.now + HOLD };
            self.say(cx, Share::ZERO, why);
        } else {
            self.phase = Phase::Released { at: cx.now };
            self.say(cx, Share::ZERO, Why::Released { holds: self.holds });
        }
    }

    /// Goes on after a time in which nobody looked.
    pub(super) fn skip(&mut self, gap: Duration) {
        (self.probe_asked, self.probe_due) = (None, false);
        self.share_set = self.share_set.saturating_add(gap);
        if let Phase::Suspended(suspension) = &mut self.phase {
            suspension.at = suspension.at.saturating_add(gap);
            suspension.answered = suspension.answered.saturating_add(gap);
        }
    }
}
