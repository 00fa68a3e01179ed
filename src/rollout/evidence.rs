//! The sequential tests: evidence that may be looked at after every request without being wrong more often for it.
//!
//! Each is an e-process: a bet against the canary being well, whose expected worth stays at most 1 while the canary is well, so that it
//! reaches [`ACT_AT`] in at most one of a hundred rollouts, whenever and however often one looks (Ville's inequality; Turner,
//! Ly and Grünwald, JSPI 230 (2024) 106116). The alternatives are averaged, so none has to be chosen beforehand.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reader::{Counts, Tally};

/// What evidence must reach to blame the canary: false alarms in at most one of a hundred rollouts.
pub const ACT_AT: f64 = 100.0;
/// What test H must reach to take the share away for a moment, without any blame. To lose a share for ten seconds or thirty costs a good
/// canary little and users nothing, so this may be wrong more often: Ville's inequality allows one rollout in three, and since
/// what is tolerated is twice stable's rate it is one in fifty of canaries that are as good as stable. It brings the suspension of
/// one that fails a fifth of its requests forward by one or two of its failures.
pub const DOUBT_AT: f64 = 3.0;
/// A canary that fails up to so many times as often as stable is still called equal.
pub const FAILURES_TOLERATED: f64 = 1.5;
/// A canary that is slow up to so many times as often as stable is still called equal.
pub const SLOWNESS_TOLERATED: f64 = 2.0;
/// Below this many attempts of stable in the hour before, only the comparison at the same time and the trip count.
pub const HISTORY_MIN: u32 = 200;

/// How many times as often the canary may fail, under the alternatives.
const RATIOS: [f64; 4] = [2.0, 5.0, 20.0, 100.0];
/// How often the canary may fail, under the alternatives. Each is at most three times the one before: a bet on 20 % wins nothing from
/// a canary that happens to have failed 10 % so far, which is how a bad one looks in the runs in which it takes longest.
const RATES: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.6];
/// Keeps the exponential finite.
const LOG_MAX: f64 = 50.0;

/// Test C: does an event fall on the tested arm more often than its share explains? Only events are looked at, so load, time
/// of day and outages that both arms share cancel out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    tolerated: f64,
    logs: [f64; 4],
}

impl Ratio {
    /// No evidence yet that the tested arm has more than `tolerated` times the other's rate.
    pub fn new(tolerated: f64) -> Self {
        Self { tolerated, logs: [0.0; 4] }
    }

    /// Events of both arms while the tested one had this share; a share of nothing or everything says nothing.
    pub fn add(&mut self, share: f64, tested: u32, other: u32) {
        if share <= 0.0 || share >= 1.0 || tested + other == 0 {
            return;
        }
        let falls = |ratio: f64| ratio * share / (ratio * share + 1.0 - share);
        let expected = falls(self.tolerated);
        for (log, ratio) in self.logs.iter_mut().zip(RATIOS) {
            let q = falls(ratio);
            *log += f64::from(tested) * (q / expected).ln() + f64::from(other) * ((1.0 - q) / (1.0 - expected)).ln();
        }
    }

    /// The evidence: 1 is none.
    pub fn value(&self) -> f64 {
        mean_exp(&self.logs)
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.logs = [0.0; 4];
    }
}

/// Test H: does the canary fail more often than stable did in the hour before? Powerful at one request a second, but blind to what
/// happens to everybody now, so it only suspends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    tolerated: f64,
    logs: [f64; 5],
}

impl Rate {
    /// No evidence yet that failures are more frequent than `tolerated`.
    pub fn new(tolerated: f64) -> Self {
        Self { tolerated, logs: [0.0; 5] }
    }

    /// Attempts of the canary.
    pub fn add(&mut self, counts: Counts) {
        if counts.all == 0 {
            return;
        }
        let p0 = self.tolerated;
        let good = f64::from(counts.all.saturating_sub(counts.fail));
        for (log, rate) in self.logs.iter_mut().zip(RATES) {
            let p = rate.max(2.0 * p0);
            *log += good * ((1.0 - p) / (1.0 - p0)).ln() + f64::from(counts.fail) * (p / p0).ln();
        }
    }

    /// The evidence: 1 is none.
    pub fn value(&self) -> f64 {
        mean_exp(&self.logs)
    }

    /// The evidence with attempts that are not all judged yet, each counted as good until it fails. So it is never more
    /// than what the same attempts will have shown in the end, and may be acted on at once.
    pub fn value_with(&self, pending: Counts) -> f64 {
        let mut with = self.clone();
        with.add(pending);
        with.value()
    }

    /// What the evidence is multiplied by when half of it is staked on our own requests to the canary. A bet on a bet is one, so
    /// validity stays; the half held back is for a canary that fails on other paths than the one we ask for.
    pub fn staked_on(&self, probes: Counts) -> f64 {
        let mut staked = Self::new(self.tolerated);
        staked.add(probes);
        f64::midpoint(1.0, staked.value())
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.logs = [0.0; 5];
    }

    /// The failure rate that is still called stable's.
    pub fn tolerated(&self) -> f64 {
        self.tolerated
    }
}

fn mean_exp<const N: usize>(logs: &[f64; N]) -> f64 {
    logs.iter().map(|log| log.min(LOG_MAX).exp()).sum::<f64>() / N as f64
}

/// CONFIRM: was stable well over the whole span in which the canary was not? `None` while too little is known.
///
/// `tolerated` is twice stable's rate, so half of it is expected; 2.33 deviations are one in a hundred.
pub fn stable_was_well(stable: Counts, tolerated: f64) -> Option<bool> {
    if stable.all < CONFIRM_MIN {
        return None;
    }
    let expected = tolerated / 2.0 * f64::from(stable.all);
    let usual = expected >= EXPECTED_MIN && f64::from(stable.fail) <= expected + 2.33 * expected.sqrt();
    Some(stable.fail == 0 || usual)
}

/// Whether stable failed more than usual in a span too short for [`stable_was_well`].
pub fn stable_was_ill(stable: Counts, tolerated: f64) -> bool {
    let expected = tolerated / 2.0 * f64::from(stable.all);
    stable.fail >= 2 && f64::from(stable.fail) > expected + 2.33 * expected.sqrt()
}

/// Whether so many rows of three failures among so many attempts can be chance in a canary that fails as often as stable: at three
/// hundred requests a second and 2 % failures one in fifteen healthy rollouts sees such a row.
pub fn rows_are_chance(rows: u32, attempts: u32, tolerated: f64) -> bool {
    let expected = f64::from(attempts) * (tolerated / 2.0).powi(3);
    let mut term = (-expected).exp();
    let mut fewer = 0.0;
    for n in 1..=rows {
        fewer += term;
        term *= expected / f64::from(n);
    }
    1.0 - fewer > ROWS_BY_CHANCE * ROWS_SPENT.powf(f64::from(rows.saturating_sub(1)))
}

/// A row that is less probable than this is no chance ...
const ROWS_BY_CHANCE: f64 = 0.003;
/// ... and each further one must be less probable still. This is asked again at every row, so only a bound that is spent bit by bit
/// keeps all of them together below one false alarm in a hundred.
const ROWS_SPENT: f64 = 2.0 / 3.0;

/// Below so many expected failures the bound of [`stable_was_well`] is none; above, one failure is no excuse for the canary.
const EXPECTED_MIN: f64 = 0.15;
/// Attempts of stable that CONFIRM asks for.
pub const CONFIRM_MIN: u32 = 30;

/// The failure rate that `clean` attempts without a failure would have shown with 95 % certainty ("rule of three").
pub fn could_have_missed(clean: u32) -> f64 {
    (3.0 / f64::from(clean.max(1))).min(1.0)
}

/// Stable's attempts of the last hour, by the minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hour(VecDeque<(u64, Counts)>);

/// Minutes an hour holds.
const MINUTES: u64 = 60;

impl Hour {
    /// Adds what stable did in an epoch opened `at`.
    pub fn add(&mut self, at: Duration, counts: Counts) {
        if counts.all == 0 {
            return;
        }
        let minute = at.as_secs() / 60;
        let is_late = self.0.back().is_some_and(|(last, _)| *last > minute);
        match self.0.iter_mut().rev().find(|(of, _)| *of <= minute) {
            // A late answer of a minute without any other: the nearest one will do.
            Some((of, sum)) if *of == minute || is_late => *sum += counts,
            _ => self.0.push_back((minute, counts)),
        }
        while self.0.len() as u64 > MINUTES + 1 {
            self.0.pop_front();
        }
    }

    /// The sum of the hour before `now`.
    pub fn sum(&self, now: Duration) -> Counts {
        let first = (now.as_secs() / 60).saturating_sub(MINUTES);
        self.0.iter().filter(|(minute, _)| *minute >= first).fold(Counts::default(), |sum, (_, counts)| sum + *counts)
    }
}

/// Twice stable's rate of the hour, between half and twenty per cent: what a canary may fail without being called worse.
pub fn tolerated_rate(hour: Counts) -> f64 {
    let all = f64::from(hour.all.max(HISTORY_MIN));
    (2.0 * (f64::from(hour.fail) + 1.0) / all).clamp(0.005, 0.2)
}

/// What both arms did in the last minute, epoch by epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    slices: VecDeque<Slice>,
    /// Up to when everything is judged.
    end: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Slice {
    opened: Duration,
    closed: Duration,
    stable: Counts,
    canary: Counts,
}

/// How far back [`Recent`] looks.
pub const RECENT: Duration = Duration::from_secs(60);
/// The shorter span of [`Recent::is_anomalous`].
const JUST_NOW: Duration = Duration::from_secs(5);
/// Epochs it holds at most: a minute of late answers and changes of share, twice a second.
const SLICES_MAX: usize = 512;

impl Recent {
    /// Adds an epoch and forgets what is older than a minute.
    pub fn add(&mut self, tally: &Tally) {
        let (stable, canary) = (tally.stable_all(), tally.canary);
        self.end = self.end.max(tally.closed);
        self.slices.push_back(Slice { opened: tally.opened, closed: tally.closed, stable, canary });
        let oldest = self.end.saturating_sub(RECENT);
        while self.slices.len() > SLICES_MAX || self.slices.front().is_some_and(|slice| slice.closed <= oldest) {
            self.slices.pop_front();
        }
    }

    /// Goes on after a time in which nobody looked, as if that time had not been.
    pub fn skip(&mut self, gap: Duration) {
        self.end = self.end.saturating_add(gap);
        for slice in &mut self.slices {
            slice.opened = slice.opened.saturating_add(gap);
            slice.closed = slice.closed.saturating_add(gap);
        }
    }

    /// Up to when everything is judged.
    pub fn end(&self) -> Duration {
        self.end
    }

    /// What stable did in the epochs opened at `from` or later.
    pub fn stable(&self, from: Duration) -> Counts {
        self.slices.iter().filter(|slice| slice.opened >= from).fold(Counts::default(), |sum, slice| sum + slice.stable)
    }

    /// What stable did in the last minute.
    pub fn stable_minute(&self) -> Counts {
        self.stable(self.end.saturating_sub(RECENT))
    }

    /// When the oldest epoch began in which the canary failed, not before `from`.
    pub fn first_canary_failure(&self, from: Duration) -> Option<Duration> {
        self.slices.iter().filter(|slice| slice.canary.fail > 0 && slice.opened >= from).map(|slice| slice.opened).min()
    }

    /// First attempts a second, over what is held.
    pub fn rate(&self) -> f64 {
        let all = self.slices.iter().map(|slice| f64::from(slice.stable.all) + f64::from(slice.canary.all)).sum::<f64>();
        let begin = self.slices.iter().map(|slice| slice.opened).min().unwrap_or_default();
        let span = self.end.saturating_sub(begin).as_secs_f64();
        if span > 0.0 { all / span } else { 0.0 }
    }

    /// Stable fails unusually often just now: no moment to judge a canary by its history, or to trust it more. The last
    /// minute tells where traffic is thin; where it is dense, a minute would hide the first seconds of an outage.
    pub fn is_anomalous(&self, tolerated: f64) -> bool {
        [RECENT, JUST_NOW].iter().any(|span| {
            let seen = self.stable(self.end.saturating_sub(*span));
            seen.fail >= 2 && f64::from(seen.fail) / f64::from(seen.all.max(1)) > (3.0 * tolerated).max(0.02)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: u32, fail: u32) -> Counts {
        Counts { all, fail, slow: 0 }
    }

    /// Whether test C acts on so many failures of canary and stable at a share.
    #[track_caller]
    fn check(share: f64, canary: u32, stable: u32, acts: bool) {
        let mut ratio = Ratio::new(FAILURES_TOLERATED);
        ratio.add(share, canary, stable);
        assert_eq!(ratio.value() >= ACT_AT, acts, "{share}: {canary} against {stable} gives {}", ratio.value());
    }

    #[test]
    fn failures_that_follow_the_share_are_no_evidence() {
        check(0.05, 5, 95, false);
        check(0.05, 5000, 95_000, false);
        check(0.5, 60, 40, false);
        check(0.5, 0, 1000, false);
    }

    #[test]
    fn failures_that_fall_on_the_canary_are() {
        check(0.05, 2, 0, false);
        check(0.05, 3, 0, true);
        check(0.5, 10, 0, false);
        check(0.5, 20, 0, true);
        check(0.05, 30, 70, true);
    }

    #[test]
    fn without_a_rival_nothing_is_evidence() {
        for share in [0.0, 1.0] {
            check(share, 1000, 0, false);
        }
    }

    #[test]
    fn a_canary_that_fails_as_stable_did_is_not_suspected() {
        let value = |all, fail| {
            let mut rate = Rate::new(0.005);
            rate.add(counts(all, fail));
            rate.value()
        };
        assert!(value(40, 0) < 1.0);
        assert!(value(200, 1) < 1.0);
        assert!(value(1, 1) < ACT_AT);
        assert!(value(3, 3) > ACT_AT);
        assert!(value(100, 6) > ACT_AT);
        // Two among ten to forty are a doubt.
        assert!((DOUBT_AT..ACT_AT).contains(&value(13, 2)));
        assert!((DOUBT_AT..ACT_AT).contains(&value(40, 2)));
        assert!(value(40, 1) < DOUBT_AT);
    }

    #[test]
    fn a_stake_on_probes_loses_half_at_most() {
        let rate = Rate::new(0.02);
        assert!((0.5..1.0).contains(&rate.staked_on(counts(20, 0))));
        assert!(rate.staked_on(counts(20, 4)) > ACT_AT / DOUBT_AT);
    }

    #[test]
    fn stable_is_asked_about_the_whole_span() {
        for (all, fail, tolerated, expected) in [
            (29, 0, 0.005, None),
            (30, 0, 0.005, Some(true)),
            (30, 1, 0.005, Some(false)),
            (80, 1, 0.005, Some(true)),
            (80, 2, 0.005, Some(false)),
            (30, 2, 0.04, Some(true)),
            (30, 3, 0.04, Some(false)),
            (700, 7, 0.02, Some(true)),
            (300, 60, 0.02, Some(false)),
        ] {
            assert_eq!(stable_was_well(counts(all, fail), tolerated), expected, "{fail} of {all}");
        }
    }

    #[test]
    fn three_in_a_row_mean_little_among_thousands() {
        for (rows, attempts, tolerated, chance) in [
            (1, 3, 0.005, false),
            (1, 100_000, 0.005, false),
            (1, 3, 0.04, false),
            (1, 7_000, 0.04, true),
            (2, 7_000, 0.04, false),
            (1, 3, 0.2, false),
            (1, 40, 0.2, true),
        ] {
            assert_eq!(rows_are_chance(rows, attempts, tolerated), chance, "{rows} rows in {attempts} at {tolerated}");
        }
    }

    #[test]
    fn what_is_tolerated_comes_from_the_hour_and_has_bounds() {
        for (all, fail, expected) in [(36_000, 72, 0.005), (36_000, 360, 0.02), (100, 0, 0.01), (1000, 900, 0.2)] {
            let rate = tolerated_rate(counts(all, fail));
            assert!((rate - expected).abs() < 0.001, "{fail} of {all}: {rate}");
        }
    }

    #[test]
    fn an_hour_forgets_its_first_minute() {
        let mut hour = Hour::default();
        for minute in 0..90 {
            hour.add(Duration::from_secs(minute * 60 + 5), counts(10, 1));
        }
        hour.add(Duration::from_secs(30 * 60), counts(1, 1));
        assert_eq!(hour.sum(Duration::from_secs(90 * 60)), counts(601, 61));
        assert_eq!(hour.sum(Duration::from_secs(400 * 60)), counts(0, 0));
    }
}
