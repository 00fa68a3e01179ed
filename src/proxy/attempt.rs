//! One attempt at a server: however it ends (answered, refused, cut off, panicked), health and evidence hear of it exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::{self, Failure};
use super::hedge;
use crate::clock;
use crate::health::Attempt as Fared;
use crate::names::{Share, Track};
use crate::rollout::ledger::{Draw, Verdict};
use crate::routing::server::{InFlight, Server};
use crate::routing::service::Service;

/// One attempt at a server.
#[derive(Debug)]
pub struct Attempt {
    guard: InFlight,
    service: Arc<Service>,
    /// Until evidence has it.
    draw: Option<Draw>,
    is_canary: bool,
    started: Instant,
    judged_at: Duration,
    hedge: Option<Arc<hedge::Outcome>>,
    progress: Progress,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// There is no answer.
    Waiting,
    /// The head of a good answer came at this age. Its body may still break off before the age of judgement.
    Answered(Duration),
    /// Health and evidence know all.
    Settled,
}

impl Attempt {
    /// Begins an attempt. `draw` is set on a request's first attempt only, which alone is evidence.
    pub fn begin(service: &Arc<Service>, server: &Arc<Server>, draw: Option<Draw>, now: Instant, judged_at: Duration) -> Self {
        Self {
            guard: server.enter(),
            service: Arc::clone(service),
            is_canary: draw.is_some_and(|draw| draw.track == Track::Canary),
            draw,
            started: now,
            judged_at,
            hedge: None,
            progress: Progress::Waiting,
        }
    }

    /// Notes that stable is asked too when this one is silent.
    pub fn set_hedge(&mut self, outcome: Arc<hedge::Outcome>) {
        self.hedge = Some(outcome);
    }

    /// The server it was sent to.
    pub fn server(&self) -> &Arc<Server> {
        self.guard.server()
    }

    fn substitute(&self) -> Option<&Arc<Server>> {
        self.hedge.as_ref().and_then(|hedge| hedge.substitute())
    }

    /// The server that a hedge asked too, whatever came of it.
    pub fn hedged_by(&self) -> Option<&Arc<Server>> {
        self.hedge.as_ref().and_then(|hedge| hedge.asked())
    }

    /// The server whose answer is heard: the one it was sent to, or the one that a hedge asked.
    pub fn answering(&self) -> &Arc<Server> {
        self.substitute().unwrap_or_else(|| self.guard.server())
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it went to a canary by the draw of its service.
    pub fn is_canary(&self) -> bool {
        self.is_canary
    }

    /// Whether what is heard is a canary's, and no substitute's.
    pub fn is_canarys_answer(&self) -> bool {
        self.is_canary && self.substitute().is_none()
    }

    /// The head of an answer came. The body of a stream is nobody's evidence.
    pub fn answered(&mut self, now: Instant, status: u16, is_stream: bool) {
        let is_failure = failure::is_failure(status);
        let fared = match status {
            429 => Fared::TooMany,
            _ if is_failure => Fared::Failed,
            _ => Fared::Ok,
        };
        if let Some(substitute) = self.substitute().cloned() {
            self.service.record_health(&substitute, now, self.started, fared);
            self.settle(now, Fared::Ignored, Verdict::Slow);
            return;
        }
        let age = self.age(now);
        if is_failure || is_stream || age >= self.judged_at {
            self.settle(now, fared, if is_failure { Verdict::Fail } else { Verdict::Ok });
        } else if self.progress == Progress::Waiting {
            self.service.record_health(self.guard.server(), now, self.started, fared);
            self.progress = Progress::Answered(age);
        }
    }

    /// A piece of the body came, the last one if it has ended.
    pub fn body_came(&mut self, now: Instant, has_ended: bool) {
        if let Progress::Answered(first_byte) = self.progress
            && (has_ended || self.age(now) >= self.judged_at)
        {
            self.progress = Progress::Settled;
            self.testify(Verdict::Ok, Some(first_byte));
        }
    }

    /// It failed.
    pub fn failed(&mut self, now: Instant, failure: Failure) {
        if self.progress != Progress::Waiting || self.substitute().is_some() {
            return self.failed_late(now, failure);
        }
        let (fared, verdict) = match failure {
            Failure::Refused | Failure::Connect | Failure::Distrusted => (Fared::Refused, Verdict::Fail),
            Failure::ConnectTimeout | Failure::Broken | Failure::Silent | Failure::NotHttp | Failure::BodyBroken => {
                (Fared::Failed, Verdict::Fail)
            }
            // A client that left when the answer was overdue.
            Failure::ClientGone if self.age(now) >= self.judged_at => (Fared::Ignored, Verdict::Slow),
            Failure::ClientGone
            | Failure::Internal
            | Failure::Stale
            | Failure::Unprocessed
            | Failure::Shielded
            | Failure::Paused => (Fared::Ignored, Verdict::Ignored),
        };
        self.settle(now, fared, verdict);
    }

    /// It ended at one of its server's addresses only, and goes on at another: nobody's failure.
    pub fn withdrawn(&mut self, now: Instant) {
        self.settle(now, Fared::Ignored, Verdict::Ignored);
    }

    /// It failed when somebody had begun to answer: that is what health hears of, whoever it was.
    fn failed_late(&mut self, now: Instant, failure: Failure) {
        let is_servers = matches!(failure, Failure::Broken | Failure::Silent | Failure::NotHttp | Failure::BodyBroken);
        if is_servers {
            self.service.record_health(self.answering(), now, self.started, Fared::Failed);
        }
        match std::mem::replace(&mut self.progress, Progress::Settled) {
            Progress::Waiting => {
                self.progress = Progress::Waiting;
                self.settle(now, Fared::Ignored, Verdict::Slow);
            }
            Progress::Answered(_) if is_servers && self.age(now) < self.judged_at => self.testify(Verdict::Fail, None),
            Progress::Answered(first_byte) => self.testify(Verdict::Ok, Some(first_byte)),
            Progress::Settled => {}
        }
    }

    /// How long it has been under way.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Tells health and evidence, once. What is late is slow, never a failure: both arms are judged at the same age.
    fn settle(&mut self, now: Instant, fared: Fared, verdict: Verdict) {
        if std::mem::replace(&mut self.progress, Progress::Settled) != Progress::Waiting {
            return;
        }
        self.service.record_health(self.guard.server(), now, self.started, fared);
        let age = self.age(now);
        let verdict = if age >= self.judged_at && verdict != Verdict::Ignored { Verdict::Slow } else { verdict };
        self.testify(verdict, matches!(verdict, Verdict::Ok | Verdict::Slow).then_some(age));
    }

    /// Gives the draw back.
    fn testify(&mut self, verdict: Verdict, first_byte: Option<Duration>) {
        let Some(draw) = self.draw.take() else { return };
        // What fails after the share was taken away takes nothing away any more.
        let tripped = self.service.ledger.record(draw, verdict, first_byte).filter(|tripped| tripped.share != Share::ZERO);
        if let Some(tripped) = tripped {
            tracing::warn!(service = %self.service.label, share = %tripped.share, "canary failed too often in a row, its share was taken away at once");
        }
    }
}

impl Drop for Attempt {
    /// An attempt that nobody settled was cut off from our side: it tells nothing, but if its answer was overdue it was slow.
    fn drop(&mut self) {
        if self.progress != Progress::Settled {
            self.failed(clock::now(), Failure::ClientGone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dynamic::Endpoint;
    use crate::health::Start;
    use crate::names::Name;
    use crate::rollout::{Arm, Machine, Nature, Policy, Rollout, Situation};
    use crate::routing::server::{Arms, Member};
    use crate::routing::service::Settings;

    const JUDGED_AT: Duration = Duration::from_secs(2);

    /// A service with one server, and what control reads of its evidence.
    struct Bench {
        service: Arc<Service>,
        server: Arc<Server>,
        rollout: Rollout,
        start: Instant,
    }

    fn bench() -> Bench {
        let start = clock::now();
        let endpoint = Endpoint::local(1);
        let server = Arc::new(Server::new(&endpoint, start, Start::Established));
        let service = Service::new(Name::new("web", "file"), Settings::default(), start);
        service.set_arms(Arms::new(vec![Member { server: Arc::clone(&server), track: Track::Stable }]));
        let rollout = Rollout::new(Duration::ZERO, &service.ledger, Machine::new(Policy::default()));
        Bench { service: Arc::new(service), server, rollout, start }
    }

    impl Bench {
        fn begin(&self) -> Attempt {
            let (server, draw) = self.service.choose_first(self.start).unwrap();
            Attempt::begin(&self.service, &server, draw, self.start, JUDGED_AT)
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        /// (all, failed, slow) as evidence has it, and (all, failed) as health has it.
        #[track_caller]
        fn expect(&mut self, evidence: (u32, u32, u32), health: (u64, u64)) {
            let arm = Arm { instances: 1, fit: 1 };
            let (canary, probed) = (Arm::default(), None);
            let situation = Situation { version: "", nature: Nature::ByAge, canary, stable: arm, probed };
            for seconds in [10, 20] {
                self.rollout.step(Duration::from_secs(seconds), &self.service.ledger, &situation);
            }
            let seen = self.rollout.machine().report().stable_hour;
            assert_eq!((seen.all, seen.fail, seen.slow), evidence, "evidence");
            assert_eq!(self.server.health.seen(self.at(2500)), health, "health");
            assert_eq!(self.server.in_flight(), 0);
        }
    }

    #[test]
    fn a_good_answer_counts_once() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.body_came(bench.at(20), false);
        attempt.body_came(bench.at(30), true);
        drop(attempt);
        bench.expect((1, 0, 0), (1, 0));
    }

    #[test]
    fn a_page_that_breaks_off_is_a_failure_of_its_server() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.body_came(bench.at(20), false);
        attempt.failed(bench.at(30), Failure::BodyBroken);
        drop(attempt);
        bench.expect((1, 1, 0), (2, 1));
    }

    #[test]
    fn a_page_that_pauses_for_longer_than_we_wait_is_no_failure_of_its_server() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.failed(bench.at(1500), Failure::Paused);
        drop(attempt);
        bench.expect((1, 0, 0), (1, 0));
    }

    #[test]
    fn a_download_that_breaks_off_late_is_no_evidence_against_a_version() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.failed(bench.at(2500), Failure::BodyBroken);
        drop(attempt);
        bench.expect((1, 0, 0), (2, 1));
    }

    #[test]
    fn a_client_that_leaves_in_the_middle_of_a_page_is_nobodys_failure() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, false);
        attempt.failed(bench.at(30), Failure::ClientGone);
        drop(attempt);
        bench.expect((1, 0, 0), (1, 0));
    }

    #[test]
    fn a_client_that_leaves_early_says_nothing_and_one_that_waited_long_says_slow() {
        let mut bench = bench();
        bench.begin().failed(bench.at(500), Failure::ClientGone);
        bench.begin().failed(bench.at(2500), Failure::ClientGone);
        bench.expect((1, 0, 1), (0, 0));
    }

    #[test]
    fn what_fails_late_was_slow() {
        let mut bench = bench();
        bench.begin().failed(bench.at(2500), Failure::Silent);
        bench.begin().answered(bench.at(2500), 500, false);
        bench.expect((2, 0, 2), (2, 2));
    }

    #[test]
    fn a_stream_counts_when_it_begins() {
        let mut bench = bench();
        let mut attempt = bench.begin();
        attempt.answered(bench.at(10), 200, true);
        attempt.failed(bench.at(30), Failure::BodyBroken);
        drop(attempt);
        bench.expect((1, 0, 0), (2, 1));
    }

    #[test]
    fn a_pooled_connection_that_was_dead_says_nothing_about_its_server() {
        let mut bench = bench();
        bench.begin().failed(bench.at(10), Failure::Stale);
        bench.expect((0, 0, 0), (0, 0));
    }
}
