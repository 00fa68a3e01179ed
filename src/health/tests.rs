//! What a server lives through, told by attempts and the seconds between them.

use std::time::{Duration, Instant};

use crate::clock::now;

use super::{Attempt, Cause, Change, Health, Standing, Start};
use Attempt::{Failed, Ignored, Ok, Refused, TooMany};

struct Server {
    born: Instant,
    health: Health,
}

impl Server {
    fn new(start: Start) -> Self {
        let born = now();
        Self { born, health: Health::new(born, start) }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.born + Duration::from_secs_f64(seconds)
    }

    fn standing(&self, seconds: f64) -> Standing {
        self.health.standing(self.at(seconds))
    }

    fn record(&self, seconds: f64, attempt: Attempt) -> Option<Change> {
        self.record_late(seconds, seconds, attempt)
    }

    /// An attempt that had begun at `started`.
    fn record_late(&self, started: f64, seconds: f64, attempt: Attempt) -> Option<Change> {
        self.health.record(self.at(seconds), self.at(started), attempt, 0.0)
    }

    fn record_all(&self, seconds: f64, attempts: &[Attempt]) -> Option<Change> {
        attempts.iter().fold(None, |last, attempt| self.record(seconds, *attempt).or(last))
    }
}

/// The attempts of one moment, and what they change.
#[track_caller]
fn check(attempts: &[Attempt], expected: Option<Cause>) {
    let server = Server::new(Start::Established);
    let cause = match server.record_all(1.0, attempts) {
        Some(Change::Ejected { because, period, times }) => {
            assert_eq!((period, times), (Duration::from_secs(10), 1));
            Some(because)
        }
        None => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(cause, expected, "{attempts:?}");
}

#[test]
fn only_the_named_failures_eject() {
    check(&[Refused], None);
    check(&[Refused, Refused], Some(Cause::Refused(2)));
    check(&[Refused, Ok, Refused], None);
    check(&[Failed; 4], None);
    check(&[Failed; 5], Some(Cause::InRow(5)));
    check(&[Failed, Failed, Failed, Failed, Ok, Failed, Failed, Failed, Failed], None);
    check(&[Failed, Failed, Failed, Failed, TooMany, Failed], None);
    check(&[Ignored; 30], None);
    check(&[Failed, Ok].repeat(9), None);
    check(&[Ok, Failed].repeat(10), Some(Cause::Ratio { failed: 10, all: 20 }));
    check(&[Ok, Ok, Failed].repeat(20), None);
}

#[test]
fn half_of_the_last_minute_not_of_the_last_hour() {
    let server = Server::new(Start::Established);
    server.record_all(0.0, &[Ok; 100]);
    assert_eq!(server.record_all(30.0, &[Failed, Ok].repeat(20)), None);
    assert!(matches!(
        server.record_all(70.0, &[Failed]),
        Some(Change::Ejected { because: Cause::Ratio { failed: 21, all: 41 }, .. })
    ));
}

#[test]
fn an_ejection_ends_half_open_with_one_request_at_a_time() {
    let server = Server::new(Start::Established);
    server.record_all(1.0, &[Failed; 5]);
    assert_eq!(server.standing(10.9), Standing::Ejected { until: server.at(11.0) });
    assert!(!server.health.try_probe(server.at(10.9)));
    assert_eq!(server.standing(11.0), Standing::HalfOpen);
    assert!(server.health.try_probe(server.at(11.0)));
    assert!(!server.health.try_probe(server.at(11.0)));
    assert_eq!(server.record(11.5, Ok), Some(Change::Readmitted));
    assert_eq!(server.standing(11.5), Standing::Available { weight: 100 });
    assert_eq!(server.standing(26.5), Standing::Available { weight: 550 });
    assert_eq!(server.standing(41.5), Standing::Available { weight: 1000 });
    // What it did before its ejection is not held against it.
    assert_eq!(server.record(42.0, Failed), None);
}

#[test]
fn where_nobody_listens_is_no_last_but_one_resort() {
    let server = Server::new(Start::Established);
    server.record_all(1.0, &[Refused, Refused]);
    assert_eq!((server.standing(1.0), server.standing(11.0)), (Standing::Failing, Standing::HalfOpen));
    assert!(server.health.try_probe(server.at(11.0)));
    server.record(11.0, Refused);
    assert_eq!((server.standing(11.0), server.standing(31.0)), (Standing::Failing, Standing::HalfOpen));
    // Somebody listens again, but does not serve.
    assert!(server.health.try_probe(server.at(31.0)));
    server.record(31.0, Failed);
    assert_eq!(server.standing(31.0), Standing::Ejected { until: server.at(61.0) });
}

#[test]
fn a_failed_probe_ejects_for_longer_and_a_429_does_not() {
    let server = Server::new(Start::Established);
    server.record_all(0.0, &[Refused, Refused]);
    assert!(server.health.try_probe(server.at(10.0)));
    assert_eq!(server.record(10.0, TooMany), None);
    assert_eq!(server.standing(10.0), Standing::HalfOpen);
    assert!(server.health.try_probe(server.at(10.0)));
    let expected = Change::Ejected { because: Cause::HalfOpen, period: Duration::from_secs(20), times: 2 };
    assert_eq!(server.record(10.0, Failed), Some(expected));
    assert_eq!(server.standing(29.9), Standing::Ejected { until: server.at(30.0) });
}

#[test]
fn a_lost_probe_gives_its_permit_back() {
    let server = Server::new(Start::Established);
    server.record_all(0.0, &[Refused, Refused]);
    assert!(server.health.try_probe(server.at(10.0)));
    assert_eq!(server.record_late(10.0, 10.1, Ignored), None);
    assert!(server.health.try_probe(server.at(10.2)));
    // Never recorded: the lease ends by itself.
    assert!(!server.health.try_probe(server.at(40.1)));
    assert!(server.health.try_probe(server.at(40.2)));
}

#[test]
fn requests_from_before_an_ejection_do_not_decide_how_its_probe_fares() {
    let server = Server::new(Start::Established);
    server.record_all(1.0, &[Failed; 5]);
    // A slow one that began before; it fails when the server is half-open.
    assert_eq!(server.record_late(0.5, 11.5, Failed), None);
    assert_eq!(server.standing(11.5), Standing::HalfOpen);
    assert!(server.health.try_probe(server.at(12.0)));
    for attempt in [Ignored, TooMany] {
        assert_eq!(server.record_late(0.5, 12.5, attempt), None);
        assert!(!server.health.try_probe(server.at(12.5)), "the permit is still out");
    }
    assert_eq!(server.record_late(12.0, 13.0, Ok), Some(Change::Readmitted));
    // Nor do they eject it again.
    for _ in 0..9 {
        assert_eq!(server.record_late(0.5, 14.0, Failed), None);
    }
    // What was sent during the ejection, for want of others, does.
    server.record_all(20.0, &[Failed; 5]);
    assert!(matches!(server.record_late(25.0, 41.0, Failed), Some(Change::Ejected { because: Cause::HalfOpen, .. })));
}

#[test]
fn ejections_grow_to_five_minutes_and_are_forgiven_one_a_minute() {
    let server = Server::new(Start::Established);
    server.record_all(0.0, &[Refused, Refused]);
    let mut now = 10.0;
    for times in 2..=40_u32 {
        let Some(Change::Ejected { period, .. }) = server.record(now, Failed) else { panic!("not ejected at {now}") };
        assert_eq!(period.as_secs(), u64::from(10 * times).min(300));
        now += period.as_secs_f64();
    }
    assert_eq!(server.record(now, Ok), Some(Change::Readmitted));
    let Some(Change::Ejected { times, .. }) = server.record_all(now + 35.0 * 60.0, &[Refused, Refused]) else {
        panic!("not ejected")
    };
    assert_eq!(times, 6);
}

#[test]
fn jitter_moves_the_end_by_a_fifth_at_most() {
    for (jitter, seconds) in [(-1.0, 8), (1.0, 12), (99.0, 12), (f64::NEG_INFINITY, 8)] {
        let server = Server::new(Start::Established);
        server.health.record(server.born, server.born, Refused, jitter);
        let change = server.health.record(server.born, server.born, Refused, jitter);
        assert!(matches!(change, Some(Change::Ejected { period, .. }) if period.as_secs() == seconds), "{change:?}");
    }
}

#[test]
fn a_fresh_server_starts_slowly_when_it_passes() {
    let server = Server::new(Start::Fresh);
    assert_eq!(server.standing(0.0), Standing::Available { weight: 100 });
    assert_eq!(server.health.set_passing(server.at(0.0), false), Some(Change::NotPassing));
    assert_eq!(server.standing(5.0), Standing::Failing);
    assert_eq!(server.health.set_passing(server.at(20.0), true), Some(Change::Passing));
    assert_eq!(server.health.set_passing(server.at(20.0), true), None);
    assert_eq!(server.standing(20.0), Standing::Available { weight: 100 });
    assert_eq!(server.standing(35.0), Standing::Available { weight: 550 });
    assert_eq!(server.standing(50.0), Standing::Available { weight: 1000 });
}

#[test]
fn an_established_server_starts_at_full_weight_even_when_it_passes_later() {
    let server = Server::new(Start::Established);
    server.health.set_passing(server.at(0.0), false);
    server.health.set_passing(server.at(8.0), true);
    assert_eq!(server.standing(8.0), Standing::Available { weight: 1000 });
    // One that served and went away is another matter.
    server.health.set_passing(server.at(60.0), false);
    server.health.set_passing(server.at(61.0), true);
    assert_eq!(server.standing(61.0), Standing::Available { weight: 100 });
}

#[test]
fn passing_again_ends_the_wait_of_an_ejection() {
    let server = Server::new(Start::Established);
    server.record_all(1.0, &[Refused, Refused]);
    server.health.set_passing(server.at(2.0), false);
    server.health.set_passing(server.at(3.0), true);
    assert_eq!(server.standing(3.0), Standing::HalfOpen);
}

#[test]
fn a_failed_check_is_overruled_by_a_good_one_or_two_good_requests() {
    let server = Server::new(Start::Established);
    assert_eq!(server.health.set_checked(server.at(0.0), false), Some(Change::CheckFailed));
    assert_eq!(server.health.set_checked(server.at(1.0), false), None);
    assert_eq!(server.standing(1.0), Standing::Failing);
    assert_eq!(server.record_all(2.0, &[Ok, Failed, Ok]), None);
    assert_eq!(server.standing(2.0), Standing::Failing);
    assert_eq!(server.record(2.0, Ok), Some(Change::CheckPassed));
    assert_eq!(server.standing(2.0), Standing::Available { weight: 1000 });
    assert_eq!(server.health.set_checked(server.at(3.0), false), Some(Change::CheckFailed));
    assert_eq!(server.health.set_checked(server.at(4.0), true), Some(Change::CheckPassed));
}

#[test]
fn a_server_that_says_too_many_counts_half_for_a_while() {
    let server = Server::new(Start::Established);
    server.record(0.0, TooMany);
    assert_eq!(server.standing(9.9), Standing::Available { weight: 500 });
    assert_eq!(server.standing(10.0), Standing::Available { weight: 1000 });
}

#[test]
fn each_change_is_one_sentence() {
    let server = Server::new(Start::Established);
    let change = server.record_all(0.0, &[Refused, Refused]).map(|change| change.to_string());
    assert_eq!(change.as_deref(), Some("ejected for 10 s: 2 connections in a row were refused"));
}
