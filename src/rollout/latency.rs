//! Times to the first byte, roughly: enough for a median that is right to a factor of 1.2.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Steps of the latency scale: half powers of two of a millisecond, from below 1 ms to above 30 s.
const STEPS: usize = 32;

/// Times to the first byte, roughly.
#[derive(Debug, Default)]
pub(super) struct Histogram([AtomicU32; STEPS]);

impl Histogram {
    pub(super) fn add(&self, span: Duration) {
        if let Some(step) = self.0.get(step_of(span)) {
            step.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn median(&self) -> Option<Duration> {
        let counts: [u64; STEPS] = std::array::from_fn(|step| self.0.get(step).map_or(0, |n| u64::from(n.load(Relaxed))));
        let half = counts.iter().sum::<u64>().div_ceil(2);
        let mut below = 0;
        let step = counts.iter().position(|n| {
            below += n;
            below >= half && half > 0
        })?;
        Some(Duration::from_secs_f64(f64::from(step as u32).mul_add(0.5, -0.25).exp2() / 1000.0))
    }

    pub(super) fn clear(&self) {
        self.0.iter().for_each(|step| step.store(0, Relaxed));
    }
}

/// Step 0 is below a millisecond; each further one is longer by the square root of two.
fn step_of(span: Duration) -> usize {
    let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    if us < 1000 {
        return 0;
    }
    let octave = (us / 1000).ilog2();
    let half = u64::from(us >= (1000 << octave) * 1414 / 1000);
    (1 + 2 * octave as usize + half as usize).min(STEPS - 1)
}
