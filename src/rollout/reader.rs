//! Control's side of the ledger: opens epochs, reads those that have settled, and what can be known before.

use std::collections::VecDeque;
use std::time::Duration;

use super::ledger::{EPOCHS_MAX, Ledger};
use crate::names::Share;

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
    /// Stable attempts among the last [`LATELY`](super::ledger::LATELY) without a first byte in time.
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

/// No epoch is shorter while the share stays: however often control steps, the ring never loses one that has not settled.
const EPOCH_MIN: Duration = Duration::from_millis(100);

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
        let number = ledger.open(share, ledger.trips().wrapping_sub(1));
        Self { open: Opened { number, share, at: now }, closed: VecDeque::with_capacity(EPOCHS_MAX) }
    }

    /// What can be known at once.
    pub fn live(&self, ledger: &Ledger) -> Live {
        let unread = self.closed.iter().rev().take_while(|closed| !closed.read).map(|closed| closed.epoch).chain([self.open]);
        let pending = unread.fold(Counts::default(), |sum, epoch| sum + ledger.canary_in(epoch.number));
        let failing = ledger.failing_epoch();
        let oldest = self.closed.front().map_or(self.open.at, |closed| closed.epoch.at);
        let mut epochs = self.closed.iter().map(|closed| closed.epoch).chain([self.open]);
        let failing_from = epochs.find(|epoch| epoch.number == failing).map_or(oldest, |epoch| epoch.at);
        ledger.live(pending, failing_from)
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
        if ledger.share() != share || now >= self.open.at + EPOCH_MIN {
            self.open_next(now, ledger, share, trips);
        }
        self.read(now, ledger, settled, tallies);
    }

    fn open_next(&mut self, now: Duration, ledger: &Ledger, share: Share, trips: u16) {
        let number = ledger.open(share, trips);
        // The ring's oldest slot was reused by the new epoch, and its tallies taken before.
        while self.closed.len() + 1 >= EPOCHS_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(Closed { epoch: self.open, at: now, read: false });
        self.open = Opened { number, share, at: now };
    }

    fn read(&mut self, now: Duration, ledger: &Ledger, settled: Duration, tallies: &mut Vec<Tally>) {
        for closed in &mut self.closed {
            if closed.at + settled > now && !closed.read {
                break;
            }
            let late = std::mem::replace(&mut closed.read, true);
            let [canary, stable, apart] = ledger.take(closed.epoch.number);
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
    use crate::names::Track;
    use crate::rollout::ledger::{Draw, TRUSTED_AFTER, Tripped, Verdict};

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
            // Trusted first, and what that took is not looked at again.
            told.turn(0.0, 100, 0);
            told.canary(&[Verdict::Ok; TRUSTED_AFTER as usize]);
            let mut taken = Vec::new();
            told.reader.turn(told.now, &told.ledger, Share::ZERO, 0, Duration::ZERO, &mut taken);
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
    fn a_thousand_steps_in_a_second_lose_nothing() {
        let mut told = Told::new(50);
        let mut judged = 0;
        for n in 1..=4000 {
            told.canary(&[Verdict::Ok]);
            judged += told.turn(f64::from(n) / 1000.0, 50, 0).iter().map(|tally| tally.canary.all).sum::<u32>();
        }
        judged += told.turn(6.0, 50, 0).iter().map(|tally| tally.canary.all).sum::<u32>();
        judged += told.turn(8.0, 50, 0).iter().map(|tally| tally.canary.all).sum::<u32>();
        assert_eq!(judged, 4000);
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
