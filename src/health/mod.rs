//! What we know about one server: the outcomes of requests, our active checks, what the provider says, and how long it has been there.
//!
//! A [`Health`] outlives every snapshot. Requests write into it and read from it, control writes what checks and the provider
//! say; everything is an atomic, nothing locks, and the time is an argument. It is independent of rollouts.
//!
//! A server is *ejected* by what requests saw: two refused connections in a row, five failures in a row, or half of at least
//! twenty requests in a minute. It comes back *half-open*: one request at a time is let through, and the first success
//! re-admits it, with a slow start. The rules are Envoy's outlier detection with a shorter base, because two servers are common.

mod budget;
mod window;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use budget::Budget;

use window::{Window, millis, ms_since};

/// Failures in a row that eject.
pub const FAILED_IN_ROW_MAX: u32 = 5;
/// Refused connections in a row that eject.
pub const REFUSED_IN_ROW_MAX: u32 = 2;
/// Half of at least this many requests within a minute must fail to eject.
pub const WINDOW_REQUESTS_MIN: u64 = 20;
/// The first ejection; the n-th in close succession is n times as long.
pub const EJECTION_BASE: Duration = Duration::from_secs(10);
/// No ejection is longer, jitter apart.
pub const EJECTION_MAX: Duration = Duration::from_secs(300);
/// A server that has behaved for this long has one of its ejections forgotten.
const FORGIVEN_EVERY: Duration = Duration::from_secs(60);
/// How long a half-open request may keep the permit; afterwards another one may try.
pub const PROBE_LEASE_MAX: Duration = Duration::from_secs(30);
/// Slow start: from a tenth of its weight to all of it, in a straight line.
pub const SLOW_START: Duration = Duration::from_secs(30);
/// The weight a slow start begins with, in thousandths.
pub const SLOW_START_MIN: u16 = 100;
/// Full weight, in thousandths.
pub const FULL: u16 = 1000;
/// A server that answered 429 counts half for this long.
pub const EASED_FOR: Duration = Duration::from_secs(10);
/// Successful requests in a row that overrule a failed active check.
const TRUST_AFTER: u32 = 2;

const BUCKETS: usize = 12;
const BUCKET_MS: u64 = 5_000;
/// The low bits of the ejection word count ejections, the rest is the end in milliseconds.
const COUNT_BITS: u32 = 8;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// How a server enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It joined others that were serving: slow start once the provider calls it passing.
    Fresh,
    /// It is one of the first, or its service had none: full weight at once.
    Established,
}

/// What a new request may do with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes requests, with this weight in thousandths of its own (slow start, 429).
    Available {
        /// 1 to 1000.
        weight: u16,
    },
    /// Its ejection is over: one request at a time may try it ([`Health::try_probe`]).
    HalfOpen,
    /// Out of the choice, unless too few are left.
    Ejected {
        /// When it becomes half-open.
        until: Instant,
    },
    /// The provider or our own check says it is unfit, or nobody listens there: only when no other is left.
    Failing,
}

/// How one attempt at a server ended, as its health sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// An answer, whatever a client did wrong.
    Ok,
    /// No answer, a broken one, or 500, 502, 503, 504.
    Failed,
    /// The connection was refused: nobody listens.
    Refused,
    /// 429, or 503 with Retry-After: it is there, but wants less.
    TooMany,
    /// Says nothing about the server: the client left first, for instance.
    Ignored,
}

/// A transition, worth one log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Requests eject it.
    Ejected {
        /// What was seen.
        because: Cause,
        /// For how long.
        period: Duration,
        /// How many times in close succession.
        times: u32,
    },
    /// A half-open request succeeded: it takes requests again, with a slow start.
    Readmitted,
    /// Our own check found it unfit.
    CheckFailed,
    /// Our own check, or two requests in a row, found it fit again.
    CheckPassed,
    /// The provider no longer calls it passing.
    NotPassing,
    /// The provider calls it passing.
    Passing,
}

/// Why requests eject a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This many connections in a row were refused.
    Refused(u32),
    /// This many requests in a row failed.
    InRow(u32),
    /// So many of so many requests failed within a minute.
    Ratio {
        /// Failures.
        failed: u64,
        /// Requests.
        all: u64,
    },
    /// The half-open request failed too.
    HalfOpen,
}

/// The health of one server.
#[derive(Debug)]
pub struct Health {
    born: Instant,
    window: Window<BUCKETS, BUCKET_MS>,
    failed_in_row: AtomicU32,
    refused_in_row: AtomicU32,
    /// End of the ejection in milliseconds (0: not ejected), and how many there were.
    ejection: AtomicU64,
    /// When the last ejection began, plus one; 0 when there was none.
    ejected_ms: AtomicU64,
    /// The last ejection came with a refused connection: nobody listens.
    refusing: AtomicBool,
    /// When it was last re-admitted.
    readmitted_ms: AtomicU64,
    /// End of the half-open request's lease; 0 when nobody has it.
    probe_ms: AtomicU64,
    /// Begin of the slow start plus one; 0 when there is none.
    slow_from_ms: AtomicU64,
    eased_until_ms: AtomicU64,
    /// Successes in a row still needed after a failed active check.
    distrust: AtomicU32,
    passing: AtomicBool,
    /// Whether passing for the first time begins a slow start.
    fresh: AtomicBool,
}

impl Health {
    /// A server we see for the first time, called passing until the provider says otherwise.
    pub fn new(now: Instant, start: Start) -> Self {
        Self {
            born: now,
            window: Window::new(),
            failed_in_row: AtomicU32::new(0),
            refused_in_row: AtomicU32::new(0),
            ejection: AtomicU64::new(0),
            ejected_ms: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            readmitted_ms: AtomicU64::new(0),
            probe_ms: AtomicU64::new(0),
            slow_from_ms: AtomicU64::new(u64::from(start == Start::Fresh)),
            eased_until_ms: AtomicU64::new(0),
            distrust: AtomicU32::new(0),
            passing: AtomicBool::new(true),
            fresh: AtomicBool::new(start == Start::Fresh),
        }
    }

    /// What a new request may do with it.
    pub fn standing(&self, now: Instant) -> Standing {
        if !self.passing.load(Relaxed) || self.distrust.load(Relaxed) > 0 {
            return Standing::Failing;
        }
        let until = self.ejection.load(Relaxed) >> COUNT_BITS;
        let slow_from = self.slow_from_ms.load(Relaxed);
        let eased_until = self.eased_until_ms.load(Relaxed);
        if until | slow_from | eased_until == 0 {
            return Standing::Available { weight: FULL };
        }
        let now_ms = self.ms(now);
        if until > now_ms {
            // However few are left: a request to where nobody listens takes no load off the others.
            let is_dead = self.refusing.load(Relaxed);
            return if is_dead {
                Standing::Failing
            } else {
                Standing::Ejected { until: self.born + Duration::from_millis(until) }
            };
        }
        if until > 0 {
            return Standing::HalfOpen;
        }
        let weight = if slow_from > 0 { slow_weight(now_ms.saturating_sub(slow_from - 1)) } else { FULL };
        if slow_from > 0 && weight == FULL {
            // Over for good: later readers need not look at the clock.
            let _ = self.slow_from_ms.compare_exchange(slow_from, 0, Relaxed, Relaxed);
        }
        Standing::Available { weight: if now_ms < eased_until { weight / 2 } else { weight } }
    }

    /// Takes the one permit of a half-open server for an attempt that begins at `now`. Whoever has it must
    /// [`record`](Self::record) how the attempt ended.
    pub fn try_probe(&self, now: Instant) -> bool {
        let now_ms = self.ms(now);
        let lease = self.probe_ms.load(Relaxed);
        if lease > now_ms || self.standing(now) != Standing::HalfOpen {
            return false;
        }
        let end = now_ms + millis(PROBE_LEASE_MAX);
        self.probe_ms.compare_exchange(lease, end, Relaxed, Relaxed).is_ok()
    }

    /// Counts how an attempt ended that had begun at `started`. `jitter` between -1 and 1 spreads the end of an ejection by up to
    /// a fifth.
    pub fn record(&self, now: Instant, started: Instant, attempt: Attempt, jitter: f64) -> Option<Change> {
        let (now_ms, started_ms) = (self.ms(now), self.ms(started));
        match attempt {
            Attempt::Ok => self.succeeded(now_ms),
            // What was under way when it was ejected is part of what ejected it, however late it ends.
            Attempt::Failed | Attempt::Refused if started_ms + 1 < self.ejected_ms.load(Relaxed) => None,
            Attempt::Failed => self.failed(now_ms, 0, jitter),
            Attempt::Refused => self.failed(now_ms, 1, jitter),
            Attempt::TooMany => {
                self.window.add(now_ms, 1, 0);
                reset(&self.failed_in_row);
                reset(&self.refused_in_row);
                self.eased_until_ms.store(now_ms + millis(EASED_FOR), Relaxed);
                self.return_permit(started_ms);
                None
            }
            Attempt::Ignored => {
                self.return_permit(started_ms);
                None
            }
        }
    }

    /// What the provider says (Consul's checks). Passing again after it was not ends the wait of an ejection: the server was
    /// most likely started anew, so a half-open request may find out at once.
    pub fn set_passing(&self, now: Instant, passing: bool) -> Option<Change> {
        if self.passing.swap(passing, Relaxed) == passing {
            return None;
        }
        let now_ms = self.ms(now);
        if !passing {
            // Not passing at birth is a server that has yet to begin; later it has been away, and comes back slowly.
            if now_ms > 0 {
                self.fresh.store(true, Relaxed);
            }
            return Some(Change::NotPassing);
        }
        let ejection = self.ejection.load(Relaxed);
        if ejection >> COUNT_BITS > now_ms {
            let over = (now_ms.max(1) << COUNT_BITS) | (ejection & COUNT_MAX);
            let _ = self.ejection.compare_exchange(ejection, over, Relaxed, Relaxed);
        }
        if self.fresh.load(Relaxed) {
            self.slow_from_ms.store(now_ms + 1, Relaxed);
        }
        Some(Change::Passing)
    }

    /// What our own active check found.
    pub fn set_checked(&self, now: Instant, fit: bool) -> Option<Change> {
        let before = self.distrust.swap(if fit { 0 } else { TRUST_AFTER }, Relaxed);
        match (before > 0, fit) {
            (false, false) => Some(Change::CheckFailed),
            (true, true) => {
                self.slow_from_ms.store(self.ms(now) + 1, Relaxed);
                Some(Change::CheckPassed)
            }
            _ => None,
        }
    }

    /// Whether the provider calls it passing.
    pub fn is_passing(&self) -> bool {
        self.passing.load(Relaxed)
    }

    /// Requests and failures within the last minute.
    pub fn seen(&self, now: Instant) -> (u64, u64) {
        self.window.sum(self.ms(now))
    }

    fn succeeded(&self, now_ms: u64) -> Option<Change> {
        self.window.add(now_ms, 1, 0);
        reset(&self.failed_in_row);
        reset(&self.refused_in_row);
        let ejection = self.ejection.load(Relaxed);
        let until = ejection >> COUNT_BITS;
        if until > 0 && until <= now_ms {
            let readmitted = ejection & COUNT_MAX;
            self.ejection.compare_exchange(ejection, readmitted, Relaxed, Relaxed).ok()?;
            self.window.clear();
            self.readmitted_ms.store(now_ms, Relaxed);
            self.slow_from_ms.store(now_ms + 1, Relaxed);
            self.release_probe();
            return Some(Change::Readmitted);
        }
        if self.distrust.load(Relaxed) == 0 {
            return None;
        }
        let before = self.distrust.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok()?;
        (before == 1).then_some(Change::CheckPassed)
    }

    fn failed(&self, now_ms: u64, refused: u32, jitter: f64) -> Option<Change> {
        self.window.add(now_ms, 1, 1);
        let failed = self.failed_in_row.fetch_add(1, Relaxed).saturating_add(1);
        let refused = if refused > 0 { self.refused_in_row.fetch_add(1, Relaxed).saturating_add(1) } else { 0 };
        if self.distrust.load(Relaxed) > 0 {
            self.distrust.store(TRUST_AFTER, Relaxed);
        }
        let ejection = self.ejection.load(Relaxed);
        let until = ejection >> COUNT_BITS;
        if until > now_ms {
            return None;
        }
        let because = if until > 0 {
            Cause::HalfOpen
        } else if refused >= REFUSED_IN_ROW_MAX {
            Cause::Refused(refused)
        } else if failed >= FAILED_IN_ROW_MAX {
            Cause::InRow(failed)
        } else {
            let (all, failed) = self.window.sum(now_ms);
            if all < WINDOW_REQUESTS_MIN || failed * 2 < all {
                return None;
            }
            Cause::Ratio { failed, all }
        };
        self.refusing.store(refused > 0, Relaxed);
        self.eject(now_ms, ejection, because, jitter)
    }

    fn eject(&self, now_ms: u64, before: u64, because: Cause, jitter: f64) -> Option<Change> {
        let forgiven = now_ms.saturating_sub(self.readmitted_ms.load(Relaxed)) / millis(FORGIVEN_EVERY);
        let times = if because == Cause::HalfOpen { before & COUNT_MAX } else { (before & COUNT_MAX).saturating_sub(forgiven) };
        let times = (times + 1).min(COUNT_MAX);
        let full = (EJECTION_BASE * times as u32).min(EJECTION_MAX);
        let period = full.mul_f64(1.0 + 0.2 * jitter.clamp(-1.0, 1.0));
        let after = ((now_ms + millis(period)) << COUNT_BITS) | times;
        // Whoever loses this race saw the same failures; one line is enough.
        self.ejection.compare_exchange(before, after, Relaxed, Relaxed).ok()?;
        self.ejected_ms.store(now_ms + 1, Relaxed);
        reset(&self.failed_in_row);
        reset(&self.refused_in_row);
        self.release_probe();
        Some(Change::Ejected { because, period, times: times as u32 })
    }

    /// Gives the permit back if the attempt that began at `started_ms` has it: its lease tells.
    fn return_permit(&self, started_ms: u64) {
        // Otherwise somebody else has it, or nobody.
        let _ = self.probe_ms.compare_exchange(started_ms + millis(PROBE_LEASE_MAX), 0, Relaxed, Relaxed);
    }

    fn release_probe(&self) {
        if self.probe_ms.load(Relaxed) != 0 {
            self.probe_ms.store(0, Relaxed);
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        ms_since(self.born, now)
    }
}

fn slow_weight(elapsed_ms: u64) -> u16 {
    let whole = millis(SLOW_START);
    let grown = u64::from(FULL - SLOW_START_MIN) * elapsed_ms.min(whole) / whole;
    SLOW_START_MIN + grown as u16
}

/// A store only when it changes something: the cache line stays shared between cores while all is well.
fn reset(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ejected { because, period, .. } => write!(f, "ejected for {:.0} s: {because}", period.as_secs_f64()),
            Self::Readmitted => f.write_str("re-admitted with a slow start: the request that tried it succeeded"),
            Self::CheckFailed => f.write_str("taken out: its health check failed"),
            Self::CheckPassed => f.write_str("taken in again: it answers"),
            Self::NotPassing => f.write_str("taken out: the provider no longer calls it passing"),
            Self::Passing => f.write_str("taken in: the provider calls it passing"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(n) => write!(f, "{n} connections in a row were refused"),
            Self::InRow(n) => write!(f, "{n} requests in a row failed"),
            Self::Ratio { failed, all } => write!(f, "{failed} of {all} requests failed within a minute"),
            Self::HalfOpen => f.write_str("the request that tried it failed too"),
        }
    }
}

#[cfg(test)]
mod tests;
