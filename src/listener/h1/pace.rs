//! How slowly a request body may come: no long silence, and in the long run a least rate.
//!
//! Only time spent waiting for the client counts. A body that makes progress is not cut after a fixed time, as Traefik does.

use std::time::{Duration, Instant};

/// Bytes a second that a body must bring on average once [`GRACE`] of waiting has passed.
pub const RATE_MIN: u64 = 240;
/// How much waiting is allowed before the rate is looked at: Traefik's limit for a whole request, so that what works there works here.
pub const GRACE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    received: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// Until when the next bytes must come; the wait begins with the first call. `silence` zero is no limit at all.
    pub(super) fn deadline(&mut self, now: Instant, silence: Duration) -> Option<Instant> {
        let since = self.waiting_since(now);
        if silence.is_zero() {
            return None;
        }
        let allowed = GRACE.max(Duration::from_secs(self.received / RATE_MIN)).saturating_sub(self.waited);
        Some(since + silence.min(allowed))
    }

    /// Since when the client is waited for; the wait begins with the first call.
    pub(super) fn waiting_since(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now)
    }

    /// `count` bytes came.
    pub(super) fn arrived(&mut self, now: Instant, count: usize) {
        self.received = self.received.saturating_add(count as u64);
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_trickle_ends_after_the_grace_and_progress_does_not() {
        let start = crate::clock::now();
        // One byte every five seconds: never silent for long, and far below the rate.
        let (mut pace, mut now) = (Pace::default(), start);
        while pace.deadline(now, SILENCE).unwrap() > now + Duration::from_secs(5) {
            now += Duration::from_secs(5);
            pace.arrived(now, 1);
        }
        assert!(now.duration_since(start) <= GRACE && now.duration_since(start) > GRACE - SILENCE);
        // As slow as is allowed, for an hour.
        let (mut pace, mut now) = (Pace::default(), start);
        for _ in 0..720 {
            assert_eq!(pace.deadline(now, SILENCE), Some(now + SILENCE));
            now += Duration::from_secs(5);
            pace.arrived(now, 2400);
        }
    }

    #[test]
    fn silence_has_its_own_limit() {
        let start = crate::clock::now();
        let mut pace = Pace::default();
        assert_eq!(pace.deadline(start, SILENCE), Some(start + SILENCE));
        let later = start + Duration::from_secs(4);
        assert_eq!(pace.deadline(later, SILENCE), Some(start + SILENCE), "asking again starts no new wait");
        assert_eq!(pace.deadline(later, Duration::ZERO), None);
    }
}
