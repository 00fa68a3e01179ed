//! What an operator may decide about a rollout. The rest are constants beside the rules they belong to.

use std::time::Duration;

use crate::names::Share;

/// How a rollout proceeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The planned shares, ascending. Traffic and instances may raise or lower each of them.
    pub steps: Vec<Share>,
    /// Canary attempts that a step asks for.
    pub step_requests_min: u32,
    /// No step is shorter.
    pub step_min: Duration,
    /// After this long a few attempts without any failure are enough.
    pub step_max: Duration,
    /// After the probes, the time in which latency is no evidence.
    pub warm_up: Duration,
    /// The age at which an attempt is judged: without a first byte it is slow.
    pub judged_at: Duration,
    /// What latency alone may do.
    pub latency: Latency,
}

/// What latency alone may do to a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Latency {
    /// Suspend it until its probes are answered in time; the third time for long.
    #[default]
    Suspend,
    /// The third time it fails.
    Fail,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            steps: [500, 2_000, 5_000].into_iter().filter_map(Share::new).collect(),
            step_requests_min: 40,
            step_min: Duration::from_secs(30),
            step_max: Duration::from_secs(300),
            warm_up: Duration::from_secs(60),
            judged_at: Duration::from_secs(2),
            latency: Latency::Suspend,
        }
    }
}

/// Attempts without a failure that let a step pass after [`Policy::step_max`].
pub(super) const FEW: u32 = 5;
/// The instances that carry the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instances {
    pub(super) canaries: u16,
    pub(super) stables: u16,
    /// The most stable ones there were since the canary came: what the load was spread over.
    pub(super) stables_before: u16,
}

/// No instance gets more than so many times its part while a canary is being judged.
const OVERLOAD_MAX: f64 = 1.5;
/// Canary attempts that thin traffic is to give in [`FLOOR_SPAN`]. The evidence needs attempts, not time, so a lower share spares users no
/// failure; it only sees them later. A canary that fails one in five shows 24 failures among 120 attempts, of which the
/// tests miss one in ten thousand where stable fails 1 %; of 40 they would miss one in ten.
const FLOOR_REQUESTS: f64 = 120.0;
const FLOOR_SPAN: Duration = Duration::from_secs(60);
/// The floor never exceeds this share: what one instance of two may carry (see [`OVERLOAD_MAX`]) ...
pub(super) const FLOOR_MAX: f64 = 0.75;
/// ... and this one while stable's hour says too little for test H: test C is best at even shares.
pub(super) const FLOOR_MAX_BLIND: f64 = 0.5;

impl Policy {
    /// The share of a step: as planned, more when traffic is too thin to judge it within a minute, less when a single instance of
    /// the canary would be overrun, and, when older instances leave already (a rolling update), so much that those that are
    /// left are not. `rate` in requests a second, `floor_max` one of [`FLOOR_MAX`] and [`FLOOR_MAX_BLIND`].
    pub(super) fn share(&self, step: usize, rate: f64, floor_max: f64, instances: Instances) -> Share {
        let Instances { canaries, stables, stables_before } = instances;
        let planned = self.steps.get(step).or(self.steps.last()).copied().unwrap_or(Share::ALL).fraction();
        let floor = (FLOOR_REQUESTS / (rate.max(0.001) * FLOOR_SPAN.as_secs_f64())).min(floor_max);
        let needed = 1.0 - OVERLOAD_MAX * f64::from(stables) / f64::from(stables_before.max(stables).max(1));
        Share::from_fraction(planned.max(floor).min(OVERLOAD_MAX * fair(canaries, stables)).max(needed))
    }
}

/// The share with which every instance gets the same.
pub(super) fn fair(canaries: u16, stables: u16) -> f64 {
    f64::from(canaries) / (f64::from(canaries) + f64::from(stables)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shares of all three steps, in per cent.
    #[track_caller]
    fn check(rate: f64, canaries: u16, stables: u16, expected: [f64; 3]) {
        check_rolling(rate, canaries, stables, stables, expected);
    }

    #[track_caller]
    fn check_rolling(rate: f64, canaries: u16, stables: u16, stables_before: u16, expected: [f64; 3]) {
        let (policy, instances) = (Policy::default(), Instances { canaries, stables, stables_before });
        let shares = [0, 1, 2].map(|step| policy.share(step, rate, FLOOR_MAX, instances).fraction() * 100.0);
        assert!(shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.01), "{shares:?}");
    }

    #[test]
    fn shares_follow_the_plan_where_traffic_is_dense() {
        check(300.0, 1, 1, [5.0, 20.0, 50.0]);
    }

    #[test]
    fn thin_traffic_raises_the_first_shares() {
        check(20.0, 1, 1, [10.0, 20.0, 50.0]);
        check(10.0, 1, 1, [20.0, 20.0, 50.0]);
        check(3.0, 1, 1, [66.67, 66.67, 66.67]);
        check(0.0, 1, 1, [75.0, 75.0, 75.0]);
    }

    #[test]
    fn one_of_many_instances_is_not_overrun() {
        check(1.0, 1, 9, [15.0, 15.0, 15.0]);
        check(300.0, 1, 9, [5.0, 15.0, 15.0]);
    }

    #[test]
    fn the_last_of_the_older_ones_is_not_overrun() {
        check_rolling(300.0, 2, 8, 10, [5.0, 20.0, 30.0]);
        check_rolling(300.0, 5, 5, 10, [25.0, 25.0, 50.0]);
        check_rolling(300.0, 9, 1, 10, [85.0, 85.0, 85.0]);
    }
}
