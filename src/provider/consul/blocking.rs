//! What to ask next and when, as Consul's documentation asks of a client that uses blocking queries.
//!
//! Pure: time and randomness are arguments. A [`Cursor`] remembers where one query stands, a [`Bucket`] keeps a service
//! that churns from becoming a busy loop without slowing the quiet case, [`backoff`] spaces what fails, and [`doubt`]
//! says why an answer may not be believed when something is missing from it.

use std::time::{Duration, Instant};

/// How long a blocking query waits when nobody says: short enough that an answer that got lost in the network is asked
/// for again within a minute. Consul's own default is five minutes.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(60);
/// Consul cuts longer waits to this.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// A shorter wait is no blocking query any more but a poll.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// What an answer may take beyond the wait and Consul's own jitter. An agent without a leader takes 7 s to say so.
const MARGIN: Duration = Duration::from_secs(10);

/// The wait to ask for.
pub fn wait(written: Option<Duration>) -> Duration {
    written.filter(|wait| !wait.is_zero()).unwrap_or(WAIT_DEFAULT).clamp(WAIT_MIN, WAIT_MAX)
}

/// How long we wait for the answer: the agent adds up to a sixteenth to the wait, so that not all clients come back at once.
pub fn timeout(wait: Duration) -> Duration {
    wait + wait / 16 + MARGIN
}

/// Where one query stands.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cursor {
    /// What to ask with.
    index: u64,
    /// What was answered last, kept over errors, so that an agent that was wiped meanwhile is noticed.
    last: Option<u64>,
    backend: Option<String>,
}

/// What an answer's index says about the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The same index: nothing changed.
    Same,
    /// A higher index, or the first: the value may have changed, or not.
    Forward,
    /// A lower index or 0: the agent's state was restored or wiped, or another server is behind. The next query does not block.
    Backwards,
    /// Another backend answers, whose indices are not the first one's. The next query does not block.
    OtherBackend,
}

impl Cursor {
    /// The index to ask with; 0 is answered at once.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Takes in an answer's `X-Consul-Index` and `X-Consul-Query-Backend`.
    pub fn step(&mut self, index: u64, backend: Option<&str>) -> Moved {
        let is_other = self.last.is_some() && self.backend.as_deref() != backend;
        let last = self.last.replace(index);
        self.backend = backend.map(str::to_owned);
        let moved = match last {
            _ if is_other => Moved::OtherBackend,
            _ if index == 0 => Moved::Backwards,
            Some(last) if index < last => Moved::Backwards,
            Some(last) if index == last => Moved::Same,
            Some(_) | None => Moved::Forward,
        };
        self.index = match moved {
            // 0 is never a right index: asking with it would not block, and spin.
            _ if index == 0 => 1,
            Moved::Backwards | Moved::OtherBackend => 0,
            Moved::Same | Moved::Forward => index,
        };
        moved
    }

    /// After an error the next query does not block: what happened meanwhile is wanted now.
    pub fn ask_at_once(&mut self) {
        self.index = 0;
    }
}

/// The first wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest, so that an agent that comes back is noticed soon.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long to wait after `failures` failures in a row: doubled each time, half of it at random (`random` lies in 0..1),
/// so that the watches of many proxies do not fall upon an agent together.
pub fn backoff(failures: u32, random: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// How often a query may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// So many times without a pause.
    pub burst: u32,
    /// Then once each interval.
    pub interval: Duration,
}

/// For the instances of one service. More generous than Consul's documentation proposes (2, then 1/s): a deployment moves
/// a service's index half a dozen times within seconds, and each of these must be applied at once.
pub const SERVICE_PACE: Pace = Pace { burst: 10, interval: Duration::from_millis(200) };
/// For what spans the whole catalog and can be megabytes: the list of services, the list of checks.
pub const TABLE_PACE: Pace = Pace { burst: 10, interval: Duration::from_millis(500) };

/// A token bucket: full at first, one token an interval.
#[derive(Clone, Debug)]
pub struct Bucket {
    pace: Pace,
    /// When the bucket will be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub fn new(pace: Pace) -> Self {
        Self { pace, full_at: None }
    }

    /// Takes a token and says how long to wait for it.
    pub fn take(&mut self, now: Instant) -> Duration {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + self.pace.interval;
        self.full_at = Some(full_at);
        // What is missing from the bucket beyond its size must be waited for.
        (full_at - now).saturating_sub(self.pace.interval * self.pace.burst)
    }
}

/// Why an answer is not believed where something is missing from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// The server that answered knows no leader, or does not say.
    NoLeader,
    /// The server that answered has not heard from its leader for long.
    Stale,
    /// The ACL took something out.
    Filtered,
}

/// A server that has not heard from its leader for so long may not know what happened.
const LAST_CONTACT_MAX: Duration = Duration::from_secs(5);

/// Judges one answer by its headers. No doubt is no proof: an anonymous reader under default deny gets an empty answer
/// without any sign of it.
pub fn doubt(known_leader: bool, last_contact: Duration, filtered_by_acl: Option<bool>) -> Option<Doubt> {
    if !known_leader {
        Some(Doubt::NoLeader)
    } else if last_contact > LAST_CONTACT_MAX {
        Some(Doubt::Stale)
    } else if filtered_by_acl == Some(true) {
        Some(Doubt::Filtered)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers `(index, backend)` in turn and compares `(what it means, what is asked next)`.
    #[track_caller]
    fn check(answers: &[(u64, Option<&str>)], expected: &[(Moved, u64)]) {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.index(), 0);
        let found: Vec<_> = answers.iter().map(|(index, backend)| (cursor.step(*index, *backend), cursor.index())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn goes_on_from_the_last_index() {
        check(&[(7, None), (7, None), (9, None)], &[(Moved::Forward, 7), (Moved::Same, 7), (Moved::Forward, 9)]);
    }

    #[test]
    fn starts_again_when_the_index_goes_backwards() {
        check(&[(9, None), (3, None), (3, None)], &[(Moved::Forward, 9), (Moved::Backwards, 0), (Moved::Same, 3)]);
    }

    #[test]
    fn never_asks_with_an_answered_zero() {
        check(&[(0, None), (0, None), (5, None)], &[(Moved::Backwards, 1), (Moved::Backwards, 1), (Moved::Forward, 5)]);
    }

    #[test]
    fn starts_again_when_another_backend_answers() {
        let streaming = Some("streaming");
        check(
            &[(9, Some("blocking-query")), (12, streaming), (12, streaming)],
            &[(Moved::Forward, 9), (Moved::OtherBackend, 0), (Moved::Same, 12)],
        );
    }

    #[test]
    fn notices_a_wiped_agent_after_an_error() {
        let mut cursor = Cursor::default();
        cursor.step(900, None);
        cursor.ask_at_once();
        assert_eq!(cursor.index(), 0);
        assert_eq!(cursor.step(12, None), Moved::Backwards);
    }

    #[test]
    fn the_time_out_lies_above_what_consul_may_take() {
        assert_eq!(timeout(Duration::from_secs(160)), Duration::from_secs(180));
        assert_eq!(wait(None), WAIT_DEFAULT);
        assert_eq!(wait(Some(Duration::ZERO)), WAIT_DEFAULT);
        assert_eq!(wait(Some(Duration::from_secs(3600))), WAIT_MAX);
    }

    #[test]
    fn backs_off_by_doubling_and_never_beyond_the_limit() {
        let at = |failures| (backoff(failures, 0.0).as_millis(), backoff(failures, 1.0).as_millis());
        assert_eq!((at(1), at(2), at(3)), ((50, 100), (100, 200), (200, 400)));
        assert_eq!((at(7), at(u32::MAX)), ((2500, 5000), (2500, 5000)));
    }

    #[test]
    fn a_quiet_query_never_waits_and_a_busy_one_is_slowed() {
        let start = crate::clock::now();
        let mut bucket = Bucket::new(Pace { burst: 2, interval: Duration::from_secs(1) });
        let mut take = |seconds: u64| bucket.take(start + Duration::from_secs(seconds)).as_secs();
        assert_eq!([take(0), take(0), take(0), take(0)], [0, 0, 1, 2]);
        // Six seconds later it has paid its debt and is full again.
        assert_eq!([take(10), take(10), take(10)], [0, 0, 1]);
    }

    #[test]
    fn doubts_what_has_no_leader_is_old_or_filtered() {
        let fresh = Duration::ZERO;
        assert_eq!(doubt(true, fresh, None), None);
        assert_eq!(doubt(true, fresh, Some(false)), None);
        assert_eq!(doubt(false, fresh, None), Some(Doubt::NoLeader));
        assert_eq!(doubt(true, Duration::from_secs(9), None), Some(Doubt::Stale));
        assert_eq!(doubt(true, fresh, Some(true)), Some(Doubt::Filtered));
    }
}
