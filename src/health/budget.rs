//! How much of a service's load may be second attempts, so that retries never make an outage worse.
//!
//! A fifth of the requests of the last ten seconds, and always ten a second (finagle's and linkerd's floor), so that a quiet
//! service can retry too.

use std::time::Instant;

use super::window::{Window, ms_since};

const SPANS: usize = 10;
const SPAN_MS: u64 = 1_000;
/// Of 100 requests this many may be tried again.
pub const RETRIES_PERCENT: u64 = 20;
/// Second attempts within the window that are always allowed.
pub const RETRIES_MIN: u64 = 10 * SPANS as u64;

/// The retry budget of one service.
#[derive(Debug)]
pub struct Budget {
    born: Instant,
    /// Requests, and second attempts among all attempts.
    window: Window<SPANS, SPAN_MS>,
}

impl Budget {
    /// A budget with nothing spent.
    pub fn new(now: Instant) -> Self {
        Self { born: now, window: Window::new() }
    }

    /// A request has come.
    pub fn deposit(&self, now: Instant) {
        self.window.add(self.ms(now), 1, 0);
    }

    /// May one more second attempt be made? Yes counts it. Requests that ask at the same moment may together pass the
    /// limit by their own number; the limit is a brake, not an account.
    pub fn try_withdraw(&self, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let (requests, retries) = self.window.sum(now_ms);
        if retries >= RETRIES_MIN + requests * RETRIES_PERCENT / 100 {
            return false;
        }
        self.window.add(now_ms, 0, 1);
        true
    }

    /// Requests and second attempts of the last ten seconds.
    pub fn seen(&self, now: Instant) -> (u64, u64) {
        self.window.sum(self.ms(now))
    }

    fn ms(&self, now: Instant) -> u64 {
        ms_since(self.born, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::now;

    /// How many second attempts are allowed at `ask` seconds, after `requests` at second 0.
    #[track_caller]
    fn check(requests: u64, ask: u64, expected: u64) {
        let born = now();
        let budget = Budget::new(born);
        for _ in 0..requests {
            budget.deposit(born);
        }
        let at = born + Duration::from_secs(ask);
        let allowed = (0..10_000).take_while(|_| budget.try_withdraw(at)).count() as u64;
        assert_eq!(allowed, expected);
    }

    #[test]
    fn a_quiet_service_may_retry_ten_times_a_second() {
        check(0, 0, 100);
    }

    #[test]
    fn a_busy_service_may_retry_a_fifth_on_top() {
        check(5_000, 9, 1_100);
    }

    #[test]
    fn old_requests_buy_nothing() {
        check(5_000, 10, 100);
    }

    #[test]
    fn what_was_spent_comes_back_after_ten_seconds() {
        let born = now();
        let budget = Budget::new(born);
        while budget.try_withdraw(born) {}
        assert!(!budget.try_withdraw(born + Duration::from_secs(9)));
        assert!(budget.try_withdraw(born + Duration::from_secs(10)));
    }
}
