//! Which of several servers takes a request. Pure: what is known about each server comes in as a [`Candidate`].
//!
//! The best that is left is used, in this order: available servers; all that are passing, ejected or not, when fewer than half
//! of them are available (too few would be overrun; Envoy's panic rule); a suspended canary that is well itself; servers the provider or a
//! check calls unfit, or that nobody listens at; and, before nobody answers at all, any suspended canary. A server this request has already
//! tried is never chosen again.
//!
//! Weighted round robin is exact over a round and spread evenly within it, with one shared counter and no lock: the counter
//! steps through the round in strides that visit every place once (1, 4, 7, 3, ... of ten), and a place belongs to whoever's
//! weight covers it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::config::dynamic::Strategy;
use crate::health::{FULL, Standing};

/// What is known about a server when a request looks for one.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its weight among its equals, as configured; 0 takes no requests.
    pub weight: u32,
    /// What its health says.
    pub standing: Standing,
    /// Requests it is working on.
    pub in_flight: u32,
    /// This request has been there already.
    pub tried: bool,
    /// It belongs to a canary whose share has been taken away.
    pub suspended: bool,
}

/// The server that takes the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Its place in the slice.
    pub index: usize,
    /// How it came to be chosen.
    pub because: Because,
}

/// How a server came to be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It was its turn, or it is the less busy one.
    Turn,
    /// It was ejected, and this request finds out whether it is well again. The permit has been taken.
    Probe,
    /// Too few were available, so all were used.
    Panic,
    /// It is a suspended canary that is well itself, and nobody else who is called fit was left.
    Rescue,
    /// Nobody who is called fit was left.
    Unfit,
    /// It is a suspended canary, however it fares, and nobody else was left.
    LastResort,
}

/// Where a strategy stands: one per set of servers (per arm), shared by all requests.
#[derive(Debug, Default)]
pub struct Wheel(AtomicUsize);

/// Chooses a server, or none when every one has been tried or left out.
///
/// `view` shows a server, or `None` to leave it out (the other arm). `permit` takes a half-open server's permit; a request that
/// must not fail says no. `random` decides between equals under [`Strategy::P2c`].
pub fn pick<T>(
    servers: &[T],
    strategy: Strategy,
    wheel: &Wheel,
    random: u64,
    view: impl Fn(&T) -> Option<Candidate>,
    permit: impl Fn(&T) -> bool,
) -> Option<Picked> {
    if let Some(index) = quick(servers, strategy, wheel, random, &view) {
        return Some(Picked { index, because: Because::Turn });
    }
    let mut census = Census::default();
    for (index, server) in servers.iter().enumerate() {
        let Some(candidate) = view(server) else { continue };
        if candidate.standing == Standing::HalfOpen && may_probe(&candidate) && permit(server) {
            return Some(Picked { index, because: Because::Probe });
        }
        census.count(index, &candidate);
    }
    let (chosen, because) = census.choose()?;
    if chosen.count == 1 {
        return Some(Picked { index: chosen.last, because });
    }
    let eligible = servers.iter().enumerate().filter_map(|(index, server)| {
        let candidate = view(server).filter(|candidate| takes_part(candidate, because))?;
        Some((index, candidate))
    });
    let index = match strategy {
        Strategy::Wrr => in_turn(eligible, &chosen, wheel.0.fetch_add(1, Relaxed)),
        Strategy::P2c => less_busy(eligible, chosen.count, random),
    };
    // A server may have changed between the two looks; then the last one counted is as good as any.
    Some(Picked { index: index.unwrap_or(chosen.last), because })
}

/// The everyday case in one pass: everybody takes part, is available and weighs the same.
fn quick<T>(
    servers: &[T],
    strategy: Strategy,
    wheel: &Wheel,
    random: u64,
    view: &impl Fn(&T) -> Option<Candidate>,
) -> Option<usize> {
    let weight = view(servers.first()?)?.weight;
    let is_plain = |candidate: Candidate| {
        let Candidate { standing, tried, suspended, .. } = candidate;
        let takes_part = !tried && !suspended && candidate.weight == weight && weight > 0;
        takes_part && standing == Standing::Available { weight: FULL }
    };
    if !servers.iter().all(|server| view(server).is_some_and(is_plain)) {
        return None;
    }
    match (servers.len(), strategy) {
        (1, _) => Some(0),
        (count, Strategy::Wrr) => Some(wheel.0.fetch_add(1, Relaxed) % count),
        (count, Strategy::P2c) => {
            let (first, second) = two_of(count, random);
            let in_flight = |index: usize| servers.get(index).and_then(view).map(|candidate| candidate.in_flight);
            Some(if in_flight(first) <= in_flight(second) { first } else { second })
        }
    }
}

/// The best ones, from best to worst.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Available,
    Ejected,
    /// Suspended, but well.
    Spare,
    Unfit,
    Suspended,
}

fn tier(candidate: &Candidate) -> Tier {
    match candidate.standing {
        Standing::Available { .. } if candidate.suspended => Tier::Spare,
        _ if candidate.suspended => Tier::Suspended,
        Standing::Available { .. } => Tier::Available,
        Standing::Ejected { .. } | Standing::HalfOpen => Tier::Ejected,
        Standing::Failing => Tier::Unfit,
    }
}

fn may_probe(candidate: &Candidate) -> bool {
    candidate.weight > 0 && !candidate.tried && !candidate.suspended
}

fn takes_part(candidate: &Candidate, because: Because) -> bool {
    let tier = tier(candidate);
    let belongs = match because {
        Because::Turn | Because::Probe => tier == Tier::Available,
        Because::Panic => matches!(tier, Tier::Available | Tier::Ejected),
        Because::Rescue => tier == Tier::Spare,
        Because::Unfit => tier == Tier::Unfit,
        Because::LastResort => tier == Tier::Suspended,
    };
    belongs && candidate.weight > 0 && !candidate.tried
}

/// The weight in thousandths of the configured unit: slow start and 429 included, ejection not (it is in or out).
fn effective(candidate: &Candidate) -> u64 {
    let grown = match candidate.standing {
        Standing::Available { weight } => weight,
        _ => FULL,
    };
    u64::from(candidate.weight) * u64::from(grown.max(1))
}

/// One tier: those that may be chosen, and how heavy they are together.
#[derive(Clone, Copy, Default)]
struct Sum {
    count: usize,
    last: usize,
    weight: u64,
    first_weight: u64,
    /// Some weight differs from the first one's.
    uneven: bool,
    /// Somebody is not at full weight.
    growing: bool,
}

impl Sum {
    fn add(&mut self, index: usize, candidate: &Candidate) {
        let weight = effective(candidate);
        if self.count == 0 {
            self.first_weight = weight;
        }
        self.uneven |= weight != self.first_weight;
        self.growing |= matches!(candidate.standing, Standing::Available { weight } if weight != FULL);
        self.count += 1;
        self.last = index;
        self.weight += weight;
    }

    fn merge(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        Self {
            count: self.count + other.count,
            last: self.last.max(other.last),
            weight: self.weight + other.weight,
            first_weight: self.first_weight,
            uneven: self.uneven || other.uneven || self.first_weight != other.first_weight,
            growing: self.growing || other.growing,
        }
    }
}

/// Everybody by tier.
#[derive(Default)]
struct Census {
    available: Sum,
    ejected: Sum,
    spare: Sum,
    unfit: Sum,
    suspended: Sum,
    /// Available ones, and all passing ones, tried or not: the panic rule looks at the service, not at this request.
    available_all: usize,
    passing_all: usize,
}

impl Census {
    fn count(&mut self, index: usize, candidate: &Candidate) {
        if candidate.weight == 0 {
            return;
        }
        let tier = tier(candidate);
        self.available_all += usize::from(tier == Tier::Available);
        self.passing_all += usize::from(matches!(tier, Tier::Available | Tier::Ejected));
        if candidate.tried {
            return;
        }
        match tier {
            Tier::Available => self.available.add(index, candidate),
            Tier::Ejected => self.ejected.add(index, candidate),
            Tier::Spare => self.spare.add(index, candidate),
            Tier::Unfit => self.unfit.add(index, candidate),
            Tier::Suspended => self.suspended.add(index, candidate),
        }
    }

    fn choose(&self) -> Option<(Sum, Because)> {
        // Exactly half is not yet panic: of two servers with one broken, the broken one would get every second request.
        let enough = self.available_all * 2 >= self.passing_all;
        let passing = self.available.merge(self.ejected);
        let (chosen, because) = match () {
            () if enough && self.available.count > 0 => (self.available, Because::Turn),
            () if passing.count > 0 => (passing, Because::Panic),
            // A canary that lost its share answers most requests; where nobody listens all of them are lost.
            () if self.spare.count > 0 => (self.spare, Because::Rescue),
            () if self.unfit.count > 0 => (self.unfit, Because::Unfit),
            () => (self.suspended, Because::LastResort),
        };
        (chosen.count > 0).then_some((chosen, because))
    }
}

/// Rounds up to this length are visited exactly; longer ones (slow start) by the golden section, which is as even.
const ROUND_MAX: u64 = 1_000;
/// 2^64 divided by the golden section.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The server whose weight covers the counter's place in the round.
fn in_turn(mut eligible: impl Iterator<Item = (usize, Candidate)>, sum: &Sum, turn: usize) -> Option<usize> {
    if !sum.uneven {
        return eligible.nth(turn % sum.count).map(|(index, _)| index);
    }
    let unit = if sum.growing { 1 } else { u64::from(FULL) };
    let round = (sum.weight / unit).max(1);
    let place = if round <= ROUND_MAX {
        turn as u64 % round * stride(round) % round
    } else {
        ((u128::from((turn as u64).wrapping_mul(GOLDEN)) * u128::from(round)) >> 64) as u64
    };
    let mut covered = 0;
    eligible
        .find(|(_, candidate)| {
            covered += effective(candidate) / unit;
            place < covered
        })
        .map(|(index, _)| index)
}

/// The stride nearest above the golden section of the round that shares no divisor with it, so that it visits every place.
fn stride(round: u64) -> u64 {
    let golden = (round * 618 / 1000).max(1);
    (golden..=round).find(|stride| divisor(*stride, round) == 1).unwrap_or(1)
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// The less busy of two different ones, by requests in flight for their weight.
fn less_busy(eligible: impl Iterator<Item = (usize, Candidate)>, count: usize, random: u64) -> Option<usize> {
    let (first, second) = two_of(count, random);
    let mut drawn = eligible.enumerate().filter(|(place, _)| *place == first || *place == second).map(|(_, found)| found);
    let (a, b) = (drawn.next()?, drawn.next());
    let Some(b) = b else { return Some(a.0) };
    let load = |one: &Candidate, other: &Candidate| (u64::from(one.in_flight) + 1) * effective(other);
    let (load_a, load_b) = (load(&a.1, &b.1), load(&b.1, &a.1));
    let first_drawn = if first < second { a.0 } else { b.0 };
    Some(match load_a.cmp(&load_b) {
        std::cmp::Ordering::Less => a.0,
        std::cmp::Ordering::Equal => first_drawn,
        std::cmp::Ordering::Greater => b.0,
    })
}

/// Two different places below `count`, which is at least 2.
fn two_of(count: usize, random: u64) -> (usize, usize) {
    let first = scaled(random as u32, count);
    // Among the others: skip the first one's place.
    let second = scaled((random >> 32) as u32, count.saturating_sub(1));
    (first, if second >= first { second + 1 } else { second })
}

/// A random word as a place below `count`.
fn scaled(random: u32, count: usize) -> usize {
    ((u64::from(random) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    /// `a` available, `e` ejected, `h` half-open, `f` failing; a digit is slow start in tenths; `'` tried, `!` suspended.
    fn servers(spec: &str) -> Vec<Candidate> {
        let mut servers: Vec<Candidate> = Vec::new();
        for letter in spec.chars() {
            let standing = match letter {
                'a' => Standing::Available { weight: FULL },
                'e' => Standing::Ejected { until: now() },
                'h' => Standing::HalfOpen,
                'f' => Standing::Failing,
                '\'' | '!' => {
                    let last = servers.last_mut().unwrap();
                    last.tried |= letter == '\'';
                    last.suspended |= letter == '!';
                    continue;
                }
                tenths => Standing::Available { weight: tenths.to_digit(10).unwrap() as u16 * 100 },
            };
            servers.push(Candidate { weight: 1, standing, in_flight: 0, tried: false, suspended: false });
        }
        servers
    }

    fn weighted(weights: &[u32]) -> Vec<Candidate> {
        let mut all = servers(&"a".repeat(weights.len()));
        all.iter_mut().zip(weights).for_each(|(server, weight)| server.weight = *weight);
        all
    }

    fn turns(servers: &[Candidate], n: usize) -> Vec<usize> {
        let wheel = Wheel::default();
        let turn = || pick(servers, Strategy::Wrr, &wheel, 0, |c| Some(*c), |_| false).unwrap().index;
        (0..n).map(|_| turn()).collect()
    }

    /// Who may be chosen, and why.
    #[track_caller]
    fn check(spec: &str, expected: Option<(&[usize], Because)>) {
        let servers = servers(spec);
        let wheel = Wheel::default();
        let mut seen = Vec::new();
        for strategy in [Strategy::Wrr, Strategy::P2c] {
            for turn in 0..64_u64 {
                let random = turn.wrapping_mul(GOLDEN);
                let Some(picked) = pick(&servers, strategy, &wheel, random, |c| Some(*c), |_| true) else {
                    assert_eq!(expected, None, "{spec}");
                    return;
                };
                assert_eq!(Some(picked.because), expected.map(|e| e.1), "{spec}");
                seen.push(picked.index);
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(Some(seen.as_slice()), expected.map(|e| e.0), "{spec}");
    }

    #[test]
    fn the_best_that_is_left_is_used() {
        use Because::{LastResort, Panic, Probe, Rescue, Turn, Unfit};
        check("aa", Some((&[0, 1], Turn)));
        check("ae", Some((&[0], Turn)));
        check("aaee", Some((&[0, 1], Turn)));
        check("aee", Some((&[0, 1, 2], Panic)));
        check("ee", Some((&[0, 1], Panic)));
        check("af", Some((&[0], Turn)));
        check("aff", Some((&[0], Turn)));
        check("ff", Some((&[0, 1], Unfit)));
        check("ef", Some((&[0], Panic)));
        check("fa!", Some((&[1], Rescue)));
        check("ff!", Some((&[0], Unfit)));
        check("fe!", Some((&[0], Unfit)));
        check("ea!", Some((&[0], Panic)));
        check("a!", Some((&[0], Rescue)));
        check("a!f!", Some((&[0], Rescue)));
        check("f!", Some((&[0], LastResort)));
        check("h!", Some((&[0], LastResort)));
        check("ahh", Some((&[1], Probe)));
        check("", None);
    }

    #[test]
    fn no_request_goes_twice_to_the_same_server() {
        use Because::{Panic, Rescue, Turn, Unfit};
        check("a'a", Some((&[1], Turn)));
        check("a'e", Some((&[1], Panic)));
        check("a'f", Some((&[1], Unfit)));
        check("a'a!", Some((&[1], Rescue)));
        check("fa!'", Some((&[0], Unfit)));
        check("h'a", Some((&[1], Turn)));
        // Three of four are well: having tried one of them is no panic.
        check("a'a'ae", Some((&[2], Turn)));
        check("a'a'", None);
    }

    #[test]
    fn equal_servers_take_turns() {
        assert_eq!(turns(&servers("aaa"), 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(turns(&weighted(&[5, 5]), 4), [0, 1, 0, 1]);
        assert_eq!(turns(&servers("33"), 4), [0, 1, 0, 1]);
    }

    #[test]
    fn weights_are_exact_over_a_round_and_spread_within_it() {
        for weights in [vec![3, 1], vec![5, 1, 1], vec![10, 1], vec![2, 3, 5], vec![100, 1, 7], vec![0, 2, 1]] {
            let round = weights.iter().sum::<u32>() as usize;
            let taken = turns(&weighted(&weights), round * 3);
            for (index, weight) in weights.iter().enumerate() {
                assert_eq!(taken.iter().filter(|i| **i == index).count(), *weight as usize * 3, "{weights:?}");
            }
        }
        assert_eq!(turns(&weighted(&[5, 1, 1]), 7), [0, 0, 0, 1, 0, 2, 0]);
    }

    #[test]
    fn a_slow_start_gets_its_part() {
        let taken = turns(&servers("aa1"), 2100);
        let slow = taken.iter().filter(|index| **index == 2).count();
        assert!((98..=102).contains(&slow), "{slow}");
        // Spread: never two in close succession.
        let places: Vec<_> = taken.iter().enumerate().filter(|(_, index)| **index == 2).map(|(at, _)| at).collect();
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 10), "{places:?}");
    }

    #[test]
    fn the_less_busy_of_two_is_chosen_for_its_weight() {
        let mut two = weighted(&[1, 3]);
        (two[0].in_flight, two[1].in_flight) = (1, 4);
        let pick_one = |two: &[Candidate], random| {
            pick(two, Strategy::P2c, &Wheel::default(), random, |c| Some(*c), |_| false).unwrap().index
        };
        assert!((0..16).all(|n| pick_one(&two, u64::MAX / 16 * n) == 1));
        two[1].in_flight = 5;
        // 2 of 1 against 6 of 3: equal, so chance decides.
        let chosen: Vec<_> = (0..16).map(|n| pick_one(&two, u64::from(u32::MAX / 16 * n))).collect();
        assert!(chosen.contains(&0) && chosen.contains(&1));
        two[1].in_flight = 6;
        assert!((0..16).all(|n| pick_one(&two, u64::MAX / 16 * n) == 0));
    }

    #[test]
    fn a_request_that_must_not_fail_probes_nobody() {
        let picked = pick(&servers("ah"), Strategy::Wrr, &Wheel::default(), 0, |c| Some(*c), |_| false);
        assert_eq!(picked, Some(Picked { index: 0, because: Because::Turn }));
    }
}
