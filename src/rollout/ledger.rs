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

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use std::time::Duration;

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

/// Attempts and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// All that were judged.
    pub all: u32,
    /// Failures among them.
    pub fail: u32,
    /// Those without a first byte in time.
    pub slow: u32,
}

/// What one epoch has newly seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The canary's share in it.
    pub share: Share,
    /// When it was opened and closed, on control's timeline.
    pub opened: Duration,
    /// See `opened`.
    pub closed: Duration,
    /// Whether its answers come later than the first reading.
    pub late: bool,
    /// Attempts drawn to the canary.
    pub canary: Counts,
    /// Attempts drawn to stable with a canary as rival.
    pub stable: Counts,
    /// Attempts of stable without a rival.
    pub apart: Counts,
}

impl Tally {
    /// Everything stable did, drawn or not.
    pub fn stable_all(&self) -> Counts {
        self.stable + self.apart
    }
}

impl std::ops::Add for Counts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            all: self.all.saturating_add(other.all),
            fail: self.fail.saturating_add(other.fail),
            slow: self.slow.saturating_add(other.slow),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What can be known at once, without waiting for an epoch to settle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// How often the trip was set, ever (wraps).
    pub trips: u16,
    /// Whether it is set.
    pub tripped: bool,
    /// Canary attempts in a row without a first byte in time.
    pub slow_in_row: u32,
    /// Stable attempts among the last [`LATELY`] without a first byte in time.
    pub stable_slow_lately: u32,
    /// When the epoch began in which the canary's present (or last) row of failures began.
    pub failing_from: Duration,
    /// Canary attempts of epochs that have not settled: those judged, and how.
    pub pending: Counts,
    /// Canary requests not judged yet.
    pub canary_in_flight: u32,
    /// Median time to the first byte of the canary since its share last changed, to the nearest step of the scale.
    pub canary_median: Option<Duration>,
    /// The same of stable.
    pub stable_median: Option<Duration>,
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

    /// Opens the next epoch with this share. A trip is cleared only by someone who has seen it: `trips` is how many.
    fn open(&self, share: Share, trips: u16) -> u32 {
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

/// Steps of the latency scale: half powers of two of a millisecond, from below 1 ms to above 30 s.
const STEPS: usize = 32;

/// Times to the first byte, roughly.
#[derive(Debug, Default)]
struct Histogram([AtomicU32; STEPS]);

impl Histogram {
    fn add(&self, span: Duration) {
        if let Some(step) = self.0.get(step_of(span)) {
            step.fetch_add(1, Relaxed);
        }
    }

    fn median(&self) -> Option<Duration> {
        let counts: [u64; STEPS] = std::array::from_fn(|step| self.0.get(step).map_or(0, |n| u64::from(n.load(Relaxed))));
        let half = counts.iter().sum::<u64>().div_ceil(2);
        let mut below = 0;
        let step = counts.iter().position(|n| {
            below += n;
            below >= half && half > 0
        })?;
        Some(Duration::from_secs_f64(f64::from(step as u32).mul_add(0.5, -0.25).exp2() / 1000.0))
    }

    fn clear(&self) {
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

/// Control's side: opens epochs and reads the closed ones.
#[derive(Debug)]
pub struct Reader {
    open: Opened,
    closed: VecDeque<Closed>,
}

#[derive(Clone, Copy, Debug)]
struct Opened {
    number: u32,
    share: Share,
    at: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    epoch: Opened,
    at: Duration,
    read: bool,
}

impl Reader {
    /// Begins to read; the canary keeps the share it has.
    pub fn new(now: Duration, ledger: &Ledger) -> Self {
        let share = ledger.share();
        // A trip set before is not ours to clear.
        let trips = (ledger.current.load(Relaxed) >> TRIPS_SHIFT) as u16;
        let number = ledger.open(share, trips.wrapping_sub(1));
        Self { open: Opened { number, share, at: now }, closed: VecDeque::with_capacity(EPOCHS_MAX) }
    }

    /// What can be known at once.
    pub fn live(&self, ledger: &Ledger) -> Live {
        let word = ledger.current.load(Relaxed);
        let open = Closed { epoch: self.open, at: Duration::MAX, read: false };
        let unread = self.closed.iter().rev().take_while(|closed| !closed.read).chain([&open]);
        let canary = |closed: &Closed| {
            let epoch = ledger.epochs.get(closed.epoch.number as usize % EPOCHS_MAX);
            epoch.map_or(Counts::default(), |epoch| Cell::counts(epoch.canary.0.load(Relaxed)))
        };
        let pending = unread.fold(Counts::default(), |sum, closed| sum + canary(closed));
        let failing = ledger.failing_epoch.load(Relaxed);
        let oldest = self.closed.front().map_or(self.open.at, |closed| closed.epoch.at);
        let mut epochs = self.closed.iter().map(|closed| closed.epoch).chain([self.open]);
        let failing_from = epochs.find(|epoch| epoch.number == failing).map_or(oldest, |epoch| epoch.at);
        Live {
            trips: (word >> TRIPS_SHIFT) as u16,
            tripped: word & TRIPPED != 0,
            failing_from,
            pending,
            slow_in_row: ledger.slow_in_row.load(Relaxed),
            stable_slow_lately: (ledger.stable_slow.load(Relaxed) & ((1 << LATELY) - 1)).count_ones(),
            canary_in_flight: ledger.canary_in_flight.load(Relaxed),
            canary_median: ledger.canary_latency.median(),
            stable_median: ledger.stable_latency.median(),
        }
    }

    /// Closes the open epoch, opens the next one with `share`, and appends to `tallies` what has been seen in the epochs closed
    /// for at least `settled` (the age at which attempts are judged), the oldest first. `trips` as in [`Live::trips`]: those the
    /// machine has dealt with.
    pub fn turn(
        &mut self,
        now: Duration,
        ledger: &Ledger,
        share: Share,
        trips: u16,
        settled: Duration,
        tallies: &mut Vec<Tally>,
    ) {
        let number = ledger.open(share, trips);
        // The ring's oldest slot was reused by the new epoch, and its tallies taken before.
        while self.closed.len() + 1 >= EPOCHS_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(Closed { epoch: self.open, at: now, read: false });
        self.open = Opened { number, share, at: now };
        for closed in &mut self.closed {
            if closed.at + settled > now && !closed.read {
                break;
            }
            let Some(epoch) = ledger.epochs.get(closed.epoch.number as usize % EPOCHS_MAX) else { continue };
            let late = std::mem::replace(&mut closed.read, true);
            let [canary, stable, apart] = epoch.take();
            if late && canary.all + stable.all + apart.all == 0 {
                continue;
            }
            let Opened { share, at: opened, .. } = closed.epoch;
            tallies.push(Tally { share, opened, closed: closed.at, late, canary, stable, apart });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: u32 = u32::MAX;
    const SETTLED: Duration = Duration::from_secs(2);

    struct Told {
        ledger: Ledger,
        reader: Reader,
        now: Duration,
    }

    impl Told {
        /// A ledger at `percent` whose canary is trusted.
        fn new(percent: u16) -> Self {
            let ledger = Ledger::new();
            let reader = Reader::new(Duration::ZERO, &ledger);
            let mut told = Self { ledger, reader, now: Duration::ZERO };
            told.ledger.canary_successes.store(TRUSTED_AFTER, Relaxed);
            told.turn(0.0, percent, 0);
            told
        }

        fn turn(&mut self, seconds: f64, percent: u16, trips: u16) -> Vec<Tally> {
            self.now = Duration::from_secs_f64(seconds);
            let mut tallies = Vec::new();
            let share = Share::new(percent * 100).unwrap();
            self.reader.turn(self.now, &self.ledger, share, trips, SETTLED, &mut tallies);
            tallies
        }

        fn live(&self) -> Live {
            self.reader.live(&self.ledger)
        }

        fn canary(&self, verdicts: &[Verdict]) -> Option<Tripped> {
            verdicts.iter().fold(None, |tripped, verdict| tripped.or(self.ledger.record(self.ledger.draw(0), *verdict, None)))
        }
    }

    fn seen(tallies: &[Tally]) -> Vec<(u32, u32, u32)> {
        let all = tallies.iter().filter(|tally| tally.canary.all + tally.stable.all + tally.apart.all > 0);
        all.map(|tally| (tally.canary.all, tally.stable.all, tally.apart.all)).collect()
    }

    #[test]
    fn the_share_is_drawn() {
        let told = Told::new(20);
        let drawn = |n: u32| told.ledger.draw(u32::MAX / 1000 * n + 2_000_000).track == Track::Canary;
        assert_eq!((0..1000).filter(|n| drawn(*n)).count(), 200);
        let none = Ledger::new();
        assert_eq!(none.draw(0), Draw { track: Track::Stable, epoch: 0, share: Share::ZERO });
        assert_eq!(Told::new(100).ledger.draw(NONE).track, Track::Canary);
    }

    #[test]
    fn evidence_waits_until_every_attempt_of_its_epoch_is_judged() {
        let mut told = Told::new(50);
        told.canary(&[Verdict::Ok, Verdict::Fail]);
        told.ledger.record(told.ledger.draw(NONE), Verdict::Slow, None);
        assert_eq!(seen(&told.turn(0.5, 50, 0)), []);
        assert_eq!(seen(&told.turn(2.4, 50, 0)), []);
        let tallies = told.turn(2.5, 50, 0);
        let tally = tallies.iter().find(|tally| tally.canary.all > 0).unwrap();
        assert_eq!((tally.canary, tally.stable), (Counts { all: 2, fail: 1, slow: 0 }, Counts { all: 1, fail: 0, slow: 1 }));
        assert_eq!((tally.opened, tally.closed, tally.late), (Duration::ZERO, Duration::from_millis(500), false));
        assert_eq!(seen(&told.turn(3.0, 50, 0)), []);
    }

    #[test]
    fn a_late_answer_lands_in_its_own_epoch() {
        let mut told = Told::new(50);
        let late = told.ledger.draw(0);
        told.turn(1.0, 20, 0);
        told.turn(9.0, 20, 0);
        told.ledger.record(late, Verdict::Fail, None);
        let tallies = told.turn(9.5, 20, 0);
        assert_eq!(seen(&tallies), [(1, 0, 0)]);
        assert!(tallies[0].late && tallies[0].share == Share::new(5000).unwrap());
    }

    #[test]
    fn an_answer_from_before_the_ring_is_forgotten_but_leaves_the_arm() {
        let mut told = Told::new(50);
        let lost = told.ledger.draw(0);
        for n in 0..EPOCHS_MAX {
            told.turn(n as f64, 50, 0);
        }
        told.ledger.record(lost, Verdict::Fail, None);
        assert_eq!(seen(&told.turn(100.0, 50, 0)), []);
        assert_eq!(told.live().canary_in_flight, 0);
    }

    #[test]
    fn three_failures_in_a_row_take_the_share_away_within_the_request() {
        let told = Told::new(50);
        assert_eq!(told.canary(&[Verdict::Fail, Verdict::Fail, Verdict::Ok, Verdict::Fail, Verdict::Fail]), None);
        assert_eq!(told.canary(&[Verdict::Ignored, Verdict::Fail]), Some(Tripped { share: Share::new(5000).unwrap() }));
        assert_eq!((told.ledger.share(), told.live().trips), (Share::ZERO, 1));
        assert_eq!(told.ledger.draw(0).share, Share::ZERO);
    }

    #[test]
    fn what_has_not_settled_is_known_at_once() {
        let mut told = Told::new(50);
        told.canary(&[Verdict::Fail, Verdict::Ok]);
        told.turn(1.0, 50, 0);
        told.canary(&[Verdict::Fail]);
        told.turn(2.0, 50, 0);
        told.canary(&[Verdict::Fail]);
        let open = told.ledger.draw(0);
        let live = told.live();
        assert_eq!((live.pending, live.canary_in_flight), (Counts { all: 4, fail: 3, slow: 0 }, 1));
        assert_eq!(live.failing_from, Duration::from_secs(1));
        told.ledger.record(open, Verdict::Ok, None);
        told.turn(3.0, 50, 0);
        assert_eq!(told.live().pending, Counts { all: 3, fail: 2, slow: 0 });
    }

    #[test]
    fn only_who_has_seen_a_trip_clears_it() {
        let mut told = Told::new(50);
        told.canary(&[Verdict::Fail; 3]);
        told.turn(1.0, 20, 0);
        assert!(told.live().tripped && told.ledger.share() == Share::ZERO);
        told.turn(2.0, 0, 1);
        assert!(told.live().tripped);
        told.turn(3.0, 20, 1);
        assert_eq!(told.ledger.share(), Share::new(2000).unwrap());
        // A new streak begins at nothing.
        assert_eq!(told.canary(&[Verdict::Fail, Verdict::Fail]), None);
        assert!(told.canary(&[Verdict::Fail]).is_some());
        assert_eq!(told.live().trips, 2);
    }

    #[test]
    fn late_failures_do_not_trip_a_share_given_back() {
        let mut told = Told::new(50);
        let before: Vec<Draw> = (0..6).map(|_| told.ledger.draw(0)).collect();
        let failed = |draw: &Draw| told.ledger.record(*draw, Verdict::Fail, None);
        assert_eq!(before[..3].iter().filter_map(failed).count(), 1);
        told.turn(1.0, 0, 1);
        told.turn(2.0, 20, 1);
        assert!(before[3..].iter().all(|draw| told.ledger.record(*draw, Verdict::Fail, None).is_none()));
        assert!(!told.live().tripped);
    }

    #[test]
    fn an_unknown_canary_gets_one_request_at_a_time_and_one_more_for_each_success() {
        let told = Told::new(50);
        told.ledger.begin();
        let mut told = told;
        told.turn(1.0, 50, 0);
        let first = told.ledger.draw(0);
        assert_eq!(first.track, Track::Canary);
        // Over the limit nothing is drawn, whatever the number: it is no evidence about stable either.
        for random in [0, NONE] {
            assert_eq!((told.ledger.draw(random).track, told.ledger.draw(random).share), (Track::Stable, Share::ZERO));
        }
        told.ledger.record(first, Verdict::Ok, None);
        assert_eq!([0; 3].map(|n| told.ledger.draw(n).track), [Track::Canary, Track::Canary, Track::Stable]);
        // An attempt that was ignored gives its place back and earns none.
        told.ledger.record(Draw { track: Track::Canary, ..first }, Verdict::Ignored, None);
        assert_eq!([0; 2].map(|n| told.ledger.draw(n).track), [Track::Canary, Track::Stable]);
    }

    #[test]
    fn slow_attempts_are_counted_in_a_row() {
        let told = Told::new(50);
        told.canary(&[Verdict::Slow, Verdict::Slow]);
        for _ in 0..3 {
            told.ledger.record(told.ledger.draw(NONE), Verdict::Slow, None);
        }
        let live = told.live();
        assert_eq!((live.slow_in_row, live.stable_slow_lately), (2, 3));
        for _ in 0..18 {
            told.ledger.record(told.ledger.draw(NONE), Verdict::Ok, None);
        }
        assert_eq!(told.live().stable_slow_lately, 2);
        told.canary(&[Verdict::Ok]);
        assert_eq!(told.live().slow_in_row, 0);
    }

    #[test]
    fn the_median_is_right_to_a_step() {
        for (ms, low, high) in [(0, 0, 1), (1, 1, 2), (7, 5, 9), (90, 75, 110), (2000, 1600, 2500), (90_000, 20_000, 60_000)] {
            let told = Told::new(50);
            for _ in 0..9 {
                told.ledger.record(told.ledger.draw(NONE), Verdict::Ok, Some(Duration::from_millis(ms)));
            }
            told.ledger.record(told.ledger.draw(NONE), Verdict::Ok, Some(Duration::from_millis(5)));
            let median = told.live().stable_median.unwrap();
            assert!((Duration::from_millis(low)..=Duration::from_millis(high)).contains(&median), "{ms} ms: {median:?}");
        }
        assert_eq!(Told::new(50).live().canary_median, None);
    }
}
