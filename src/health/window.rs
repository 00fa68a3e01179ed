//! A sliding window of two counts, without a lock: a ring of buckets, each one atomic word.
//!
//! A bucket carries the stamp of its span of time, so nobody has to clear it: whoever writes first in a new span starts it anew.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const STAMP_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// Counts of the last `N` spans of `SPAN_MS` each: all, and those of them that were bad.
#[derive(Debug)]
pub(super) struct Window<const N: usize, const SPAN_MS: u64>([AtomicU64; N]);

impl<const N: usize, const SPAN_MS: u64> Window<N, SPAN_MS> {
    /// An empty window.
    pub(super) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }

    /// Counts into the present span. A span that would overflow is halved, so that its ratio stays.
    pub(super) fn add(&self, now_ms: u64, all: u64, bad: u64) {
        let span = now_ms / SPAN_MS;
        let stamp = stamp(span);
        let Some(bucket) = self.0.get(span as usize % N) else { return };
        let _ = bucket.fetch_update(Relaxed, Relaxed, |word| {
            let (mut old_all, mut old_bad) = if word >> (2 * COUNT_BITS) == stamp { counts(word) } else { (0, 0) };
            if old_all + all > COUNT_MAX {
                (old_all, old_bad) = (old_all / 2, old_bad / 2);
            }
            let (all, bad) = ((old_all + all).min(COUNT_MAX), (old_bad + bad).min(COUNT_MAX));
            Some((stamp << (2 * COUNT_BITS)) | (all << COUNT_BITS) | bad)
        });
    }

    /// What the window holds: all and bad.
    pub(super) fn sum(&self, now_ms: u64) -> (u64, u64) {
        let span = now_ms / SPAN_MS;
        let mut sum = (0, 0);
        for back in 0..N as u64 {
            let Some(at) = span.checked_sub(back) else { break };
            let word = self.0.get(at as usize % N).map_or(0, |bucket| bucket.load(Relaxed));
            if word >> (2 * COUNT_BITS) == stamp(at) {
                let (all, bad) = counts(word);
                sum = (sum.0 + all, sum.1 + bad);
            }
        }
        sum
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for bucket in &self.0 {
            bucket.store(0, Relaxed);
        }
    }
}

/// Never 0 for the spans that matter, so that an empty bucket is nobody's.
fn stamp(span: u64) -> u64 {
    (span + 1) & STAMP_MASK
}

fn counts(word: u64) -> (u64, u64) {
    ((word >> COUNT_BITS) & COUNT_MAX, word & COUNT_MAX)
}

/// The milliseconds since `born`, in 64 bits throughout.
pub(super) fn ms_since(born: Instant, now: Instant) -> u64 {
    millis(now.saturating_duration_since(born))
}

/// A span in milliseconds.
pub(super) fn millis(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1000).saturating_add(u64::from(span.subsec_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds `(ms, all, bad)` one after the other and compares the sum at `now_ms`.
    #[track_caller]
    fn check(added: &[(u64, u64, u64)], now_ms: u64, expected: (u64, u64)) {
        let window = Window::<3, 1000>::new();
        for (at, all, bad) in added {
            window.add(*at, *all, *bad);
        }
        assert_eq!(window.sum(now_ms), expected);
    }

    #[test]
    fn counts_leave_with_their_span() {
        let added = [(0, 1, 1), (999, 1, 0), (1000, 5, 2), (2500, 1, 1)];
        check(&added, 2500, (8, 4));
        check(&added, 3000, (6, 3));
        check(&added, 4999, (1, 1));
        check(&added, 60_000, (0, 0));
    }

    #[test]
    fn a_reused_bucket_starts_anew() {
        check(&[(0, 7, 7), (3000, 1, 0)], 3000, (1, 0));
    }

    #[test]
    fn an_overflowing_span_keeps_its_ratio() {
        check(&[(0, COUNT_MAX - 1, COUNT_MAX / 2), (1, 2, 1)], 1, ((COUNT_MAX - 1) / 2 + 2, COUNT_MAX / 4 + 1));
    }
}
