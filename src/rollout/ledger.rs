//! The request path's side of a rollout: draws an arm for each request and counts how first attempts ended, without a lock.
//!
//! **Share epochs.** Control closes an epoch at every step of the machine (twice a second) and at every change of share, so within an
//! epoch the share is constant. A request carries the epoch it was drawn in, and its outcome lands there however late it comes,
//! as long as the epoch is among the last [`EPOCHS_MAX`]. Control reads an epoch when it is older than the age at which an
//! attempt is judged, so evidence enters in the order of *start*: in the order of completion a slow arm would look better or
//! worse than it is.
//!
//! **What a request may do by itself.** Three failures of the canary in a row set the trip: from that request on the share is
//! nothing, until control, which has seen the trip, clears it. And until it has [`TRUSTED_AFTER`] successes, the canary has no
//! more requests in flight than one and its successes: nobody sends thirty requests into a hole before the first answer is due.
//! A request over that limit goes to stable whatever was drawn, so it is no evidence about either arm.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use std::time::Duration;

use super::latency::Histogram;
use super::reader::{Counts, Live};
use crate::names::{Share, Track};

/// Epochs that still accept late answers: 32 seconds and more.
pub const EPOCHS_MAX: usize = 64;
/// Successes after which the canary's requests in flight are no longer limited.
pub const TRUSTED_AFTER: u32 = 20;
/// Failures of the canary in a row that take its share away within the request.
pub const TRIP_AFTER: u32 = 3;
/// Stable attempts the slow streak is compared with.
pub const LATELY: u32 = 20;

/// Which arm a request belongs to, and in which epoch it was drawn. [`Ledger::record`] wants it back exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The arm.
    pub track: Track,
    /// The epoch.
    pub epoch: u32,
    /// The canary's share when this was drawn. Nothing means that no draw took place: stable had no rival, and the attempt
    /// says nothing about the canary.
    pub share: Share,
}

/// How a first attempt stood at the age at which attempts are judged (2 s), or when it ended before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An answer in time, whatever a client did wrong; 429 too.
    Ok,
    /// Connect error, reset, protocol error or upstream time-out before that age, 500, 502, 503, 504, or a body broken off.
    Fail,
    /// No first byte at that age; a client that left after it.
    Slow,
    /// Says nothing: the client left before that age, the arm had no server, the request carried a sticky cookie.
    Ignored,
}

/// What a [`record`](Ledger::record) set off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tripped {
    /// The share the canary had.
    pub share: Share,
}

/// One service's ledger. All atomics; lives as long as the service.
#[derive(Debug)]
pub struct Ledger {
    /// Epoch (32 bits), trips (16), tripped (1), share (15).
    current: AtomicU64,
    epochs: [Epoch; EPOCHS_MAX],
    canary_in_flight: AtomicU32,
    canary_successes: AtomicU32,
    fails_in_row: AtomicU32,
    /// The epoch of the row's first failure.
    failing_epoch: AtomicU32,
    slow_in_row: AtomicU32,
    /// Stable's last attempts, one bit each: was it slow?
    stable_slow: AtomicU32,
    /// Streaks count only what was drawn from this epoch on: late answers of a share taken away say nothing about a new one.
    streaks_from: AtomicU32,
    canary_latency: Histogram,
    stable_latency: Histogram,
}

#[derive(Debug, Default)]
struct Epoch {
    number: AtomicU32,
    canary: Cell,
    stable: Cell,
    apart: Cell,
}

/// Slow ones (20 bits), failures (22), all (22) in one word, so that they are read as one.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

const SHARE_MASK: u64 = 0x7FFF;
const TRIPPED: u64 = 0x8000;
const TRIPS_SHIFT: u32 = 16;
const EPOCH_SHIFT: u32 = 32;

fn share_of(word: u64) -> Share {
    if word & TRIPPED != 0 { Share::ZERO } else { Share::new((word & SHARE_MASK) as u16).unwrap_or_default() }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// A ledger whose canary has no share.
    pub fn new() -> Self {
        Self {
            current: AtomicU64::new(0),
            epochs: std::array::from_fn(|_| Epoch::default()),
            canary_in_flight: AtomicU32::new(0),
            canary_successes: AtomicU32::new(0),
            fails_in_row: AtomicU32::new(0),
            failing_epoch: AtomicU32::new(0),
            slow_in_row: AtomicU32::new(0),
            stable_slow: AtomicU32::new(0),
            streaks_from: AtomicU32::new(0),
            canary_latency: Histogram::default(),
            stable_latency: Histogram::default(),
        }
    }

    /// Draws the arm of a request; `random` is uniform over all its values.
    pub fn draw(&self, random: u32) -> Draw {
        let word = self.current.load(Relaxed);
        let share = share_of(word);
        let epoch = (word >> EPOCH_SHIFT) as u32;
        let apart = Draw { track: Track::Stable, epoch, share: Share::ZERO };
        if share == Share::ZERO || self.canary_in_flight.load(Relaxed) >= self.in_flight_max() {
            return apart;
        }
        if (u64::from(random) * u64::from(Share::ALL.ten_thousandths())) >> 32 >= u64::from(share.ten_thousandths()) {
            return Draw { track: Track::Stable, epoch, share };
        }
        // Others may have taken the last places since: then nothing was drawn.
        let max = self.in_flight_max();
        let entered = self.canary_in_flight.fetch_update(Relaxed, Relaxed, |n| if n < max { n.checked_add(1) } else { None });
        if entered.is_ok() { Draw { track: Track::Canary, epoch, share } } else { apart }
    }

    /// Records how a drawn request's first attempt ended, once per draw, with the time to its first byte if it had one.
    pub fn record(&self, draw: Draw, verdict: Verdict, first_byte: Option<Duration>) -> Option<Tripped> {
        if draw.track == Track::Canary {
            let _ = self.canary_in_flight.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
        if verdict == Verdict::Ignored {
            return None;
        }
        if let Some(epoch) = self.epochs.get(draw.epoch as usize % EPOCHS_MAX)
            && epoch.number.load(Relaxed) == draw.epoch
        {
            epoch.cell(draw).count(verdict);
        }
        let histogram = if draw.track == Track::Canary { &self.canary_latency } else { &self.stable_latency };
        if let Some(first_byte) = first_byte {
            histogram.add(first_byte);
        }
        match draw.track {
            Track::Stable => {
                let slow = u32::from(verdict == Verdict::Slow);
                let bits = self.stable_slow.load(Relaxed);
                // While nobody is slow there is nothing to write.
                if slow | bits != 0 {
                    let _ = self.stable_slow.fetch_update(Relaxed, Relaxed, |bits| Some(bits << 1 | slow));
                }
                None
            }
            Track::Canary => self.canary_streaks(draw, verdict),
        }
    }

    /// The canary's share as a new request meets it.
    pub fn share(&self) -> Share {
        share_of(self.current.load(Relaxed))
    }

    /// Another canary takes the place of the one before: it has earned no trust yet. Control's.
    pub fn begin(&self) {
        self.canary_successes.store(0, Relaxed);
        self.streaks_from.store(((self.current.load(Relaxed) >> EPOCH_SHIFT) as u32).wrapping_add(1), Relaxed);
        self.reset_streaks();
    }

    /// Requests of the canary that were drawn and not yet recorded.
    pub fn canary_in_flight(&self) -> u32 {
        self.canary_in_flight.load(Relaxed)
    }

    fn in_flight_max(&self) -> u32 {
        let successes = self.canary_successes.load(Relaxed);
        if successes < TRUSTED_AFTER { 1 + successes } else { u32::MAX }
    }

    fn canary_streaks(&self, draw: Draw, verdict: Verdict) -> Option<Tripped> {
        let from = self.streaks_from.load(Relaxed);
        // Numbers wrap: half of them lie ahead, half behind.
        if draw.epoch.wrapping_sub(from) > u32::MAX / 2 {
            return None;
        }
        match verdict {
            Verdict::Ok => {
                if self.canary_successes.load(Relaxed) < TRUSTED_AFTER {
                    self.canary_successes.fetch_add(1, Relaxed);
                }
                self.reset_streaks();
                None
            }
            Verdict::Fail => {
                self.slow_in_row.store(0, Relaxed);
                let failed = self.fails_in_row.fetch_add(1, Relaxed).saturating_add(1);
                if failed == 1 {
                    self.failing_epoch.store(draw.epoch, Relaxed);
                }
                if failed >= TRIP_AFTER { self.trip() } else { None }
            }
            Verdict::Slow => {
                self.slow_in_row.fetch_add(1, Relaxed);
                None
            }
            Verdict::Ignored => None,
        }
    }

    fn trip(&self) -> Option<Tripped> {
        let set = |word: u64| {
            let trips = ((word >> TRIPS_SHIFT) as u16).wrapping_add(1);
            let rest = word & !(u64::from(u16::MAX) << TRIPS_SHIFT);
            (word & TRIPPED == 0).then_some(rest | u64::from(trips) << TRIPS_SHIFT | TRIPPED)
        };
        let before = self.current.fetch_update(Relaxed, Relaxed, set).ok()?;
        Some(Tripped { share: share_of(before) })
    }

    fn reset_streaks(&self) {
        for streak in [&self.fails_in_row, &self.slow_in_row] {
            if streak.load(Relaxed) != 0 {
                streak.store(0, Relaxed);
            }
        }
    }

    /// What an epoch of the ring newly holds: canary, stable, apart. It is empty afterwards.
    pub(super) fn take(&self, epoch: u32) -> [Counts; 3] {
        self.epochs.get(epoch as usize % EPOCHS_MAX).map(Epoch::take).unwrap_or_default()
    }

    /// What the canary has done in an epoch and nobody has taken.
    pub(super) fn canary_in(&self, epoch: u32) -> Counts {
        let epoch = self.epochs.get(epoch as usize % EPOCHS_MAX);
        epoch.map_or(Counts::default(), |epoch| Cell::counts(epoch.canary.0.load(Relaxed)))
    }

    pub(super) fn trips(&self) -> u16 {
        (self.current.load(Relaxed) >> TRIPS_SHIFT) as u16
    }

    /// The epoch of the first failure of the canary's present or last row.
    pub(super) fn failing_epoch(&self) -> u32 {
        self.failing_epoch.load(Relaxed)
    }

    pub(super) fn live(&self, pending: Counts, failing_from: Duration) -> Live {
        let word = self.current.load(Relaxed);
        Live {
            trips: (word >> TRIPS_SHIFT) as u16,
            tripped: word & TRIPPED != 0,
            failing_from,
            pending,
            slow_in_row: self.slow_in_row.load(Relaxed),
            stable_slow_lately: (self.stable_slow.load(Relaxed) & ((1 << LATELY) - 1)).count_ones(),
            canary_in_flight: self.canary_in_flight.load(Relaxed),
            canary_median: self.canary_latency.median(),
            stable_median: self.stable_latency.median(),
        }
    }

    /// Opens the next epoch with this share. A trip is cleared only by someone who has seen it: `trips` is how many.
    pub(super) fn open(&self, share: Share, trips: u16) -> u32 {
        let before = self.current.load(Relaxed);
        let number = ((before >> EPOCH_SHIFT) as u32).wrapping_add(1);
        // The slot is empty and named before a request can be drawn into it.
        if let Some(epoch) = self.epochs.get(number as usize % EPOCHS_MAX) {
            epoch.take();
            epoch.number.store(number, Relaxed);
        }
        if share_of(before) != share {
            self.canary_latency.clear();
            self.stable_latency.clear();
        }
        let next = |word: u64| {
            let seen = (word >> TRIPS_SHIFT) as u16 == trips;
            let tripped = if seen && share != Share::ZERO { 0 } else { word & TRIPPED };
            let trips = word & (u64::from(u16::MAX) << TRIPS_SHIFT);
            Some(u64::from(number) << EPOCH_SHIFT | trips | tripped | u64::from(share.ten_thousandths()))
        };
        let cleared = |word: u64| word & TRIPPED != 0 && (word >> TRIPS_SHIFT) as u16 == trips && share != Share::ZERO;
        if cleared(before) || share_of(before) == Share::ZERO && share != Share::ZERO {
            self.streaks_from.store(number, Relaxed);
            self.reset_streaks();
        }
        // Release: whoever draws from the new word finds the slot as it was prepared.
        let _ = self.current.fetch_update(AcqRel, Relaxed, next);
        number
    }
}

impl Epoch {
    fn cell(&self, draw: Draw) -> &Cell {
        match draw.track {
            Track::Canary => &self.canary,
            Track::Stable if draw.share == Share::ZERO => &self.apart,
            Track::Stable => &self.stable,
        }
    }

    fn take(&self) -> [Counts; 3] {
        [self.canary.take(), self.stable.take(), self.apart.take()]
    }
}

const FAIL_SHIFT: u32 = 20;
const ALL_SHIFT: u32 = 42;
const COUNT_MASK: u64 = (1 << 22) - 1;

impl Cell {
    fn count(&self, verdict: Verdict) {
        let one = match verdict {
            Verdict::Ok => 0,
            Verdict::Fail => 1 << FAIL_SHIFT,
            Verdict::Slow => 1,
            Verdict::Ignored => return,
        };
        self.0.fetch_add(one | 1 << ALL_SHIFT, Relaxed);
    }

    fn take(&self) -> Counts {
        Self::counts(if self.0.load(Relaxed) == 0 { 0 } else { self.0.swap(0, Relaxed) })
    }

    fn counts(word: u64) -> Counts {
        Counts {
            all: (word >> ALL_SHIFT) as u32,
            fail: (word >> FAIL_SHIFT & COUNT_MASK) as u32,
            slow: (word & ((1 << FAIL_SHIFT) - 1)) as u32,
        }
    }
}
