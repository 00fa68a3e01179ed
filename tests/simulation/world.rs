//! One rollout in virtual time: a Poisson stream of requests, the production ledger and machine, control's loop around them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tidegate::names::{Share, Track};
use tidegate::rollout::phase::Phase;
use tidegate::rollout::reader::{Counts, Live, Tally};
use tidegate::rollout::{Arm, Decision, Draw, Ledger, Machine, Nature, Policy, Probed, Rollout, Seen, Situation, Verdict};

/// How one arm behaves.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// Failure rate.
    pub fails: f64,
    /// When a failure is known, in seconds after the start: uniform between these.
    pub fails_after: (f64, f64),
    /// Mean time to the first byte of an answer, exponential, in seconds.
    pub answers_after: f64,
    /// Rate of requests that get no first byte in time.
    pub hangs: f64,
}

impl Behaviour {
    /// Quick in everything, fails at this rate.
    pub const fn failing(fails: f64) -> Self {
        Self { fails, fails_after: (0.001, 0.2), answers_after: 0.05, hangs: 0.0 }
    }
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub stable: Behaviour,
    pub canary: Behaviour,
    /// From, to (seconds after the canary appears), and the failure rate of both arms in it.
    pub outage: Option<(f64, f64, f64)>,
    /// Requests a second.
    pub rate: f64,
    /// From this many seconds on the canary answers no request any more ...
    pub hangs_from: Option<f64>,
    /// ... or none but probes.
    pub answers_probes: bool,
    /// Now and then, once in so many seconds, the proxy is killed and started again, an instance flaps, stable is lost.
    pub disturbed_every: Option<f64>,
}

impl Scene {
    /// Nothing special.
    pub const fn plain(stable: Behaviour, canary: Behaviour) -> Self {
        Self { stable, canary, outage: None, rate: 1.0, hangs_from: None, answers_probes: false, disturbed_every: None }
    }
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Course {
    pub end: End,
    /// Seconds from the first share to the suspension that led to the verdict.
    pub suspended: Option<f64>,
    /// Seconds from there to the end.
    pub took: f64,
    pub canary_requests: u32,
    pub canary_failures: u32,
    /// Canary failures until the share was first taken away.
    pub failures_until_suspended: u32,
    /// Failures of the canary that users saw, because the shield could not help.
    pub user_failures: u32,
    /// Suspensions of any kind.
    pub suspensions: u32,
    /// The last sentence.
    pub said: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Passed,
    Failed,
    Released,
    /// It answers nothing, so it is still being probed.
    Waits,
    Stuck,
}

/// Longer than this is stuck.
const LIMIT: f64 = 4.0 * 3600.0;
/// The canary appears after an hour of history.
const BORN: f64 = 3600.0;
/// The end of the hour is simulated request by request.
const PRELUDE: f64 = 62.0;
const JUDGED_AT: f64 = 2.0;
const NOT_REPLAYABLE: f64 = 0.05;

enum Event {
    Arrives,
    Judged(u32, Draw, Verdict, Option<Duration>),
    Steps,
    Answers(Probed),
    Disturbs,
    /// The instances are as they should be again.
    Recovers,
}

struct World<'a> {
    scene: &'a Scene,
    chance: fastrand::Rng,
    ledger: Ledger,
    rollout: Rollout,
    now: f64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    queued: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
    course: Course,
    taken: bool,
    /// When the canary got its first share.
    ramp: Option<f64>,
    /// Fit instances of canary and stable.
    fit: (u16, u16),
    /// How often the process was started: outcomes of requests that died with the one before count nowhere.
    process: u32,
}

/// Runs one rollout to its end.
pub fn run(scene: &Scene, seed: u64) -> Course {
    let chance = fastrand::Rng::with_seed(seed);
    let ledger = Ledger::new();
    let mut world = World {
        scene,
        chance,
        rollout: Rollout::new(seconds(BORN - PRELUDE), &ledger, Machine::new(Policy::default())),
        ledger,
        now: BORN - PRELUDE,
        events: BinaryHeap::new(),
        queued: Vec::new(),
        free: Vec::new(),
        order: 0,
        course: Course {
            end: End::Stuck,
            suspended: None,
            took: 0.0,
            canary_requests: 0,
            canary_failures: 0,
            failures_until_suspended: 0,
            user_failures: 0,
            suspensions: 0,
            said: String::new(),
        },
        taken: false,
        ramp: None,
        fit: (1, 1),
        process: 0,
    };
    world.live_through_the_hour();
    world.at(world.now, Event::Steps);
    // Control steps at once when the catalog changes.
    world.at(BORN, Event::Steps);
    world.at(world.now, Event::Arrives);
    if scene.disturbed_every.is_some() {
        world.at(BORN, Event::Disturbs);
    }
    world.go();
    world.course
}

fn seconds(at: f64) -> Duration {
    Duration::from_secs_f64(at)
}

impl World<'_> {
    /// Stable's hour before, by the minute.
    fn live_through_the_hour(&mut self) {
        let Scene { rate, stable, .. } = *self.scene;
        let all = (rate * 60.0) as u32;
        let looked = (all * 60).min(4000);
        let failed = (0..looked).filter(|_| self.chance.f64() < stable.fails).count() as f64;
        let mut failed = (failed * f64::from(all * 60) / f64::from(looked)).round() as u32;
        let mut machine = Machine::new(Policy::default());
        for minute in 0..59 {
            let fail = failed.min(failed.div_ceil(59 - minute));
            failed -= fail;
            let (opened, closed) = (seconds(f64::from(minute) * 60.0), seconds(f64::from(minute) * 60.0 + 59.0));
            let none = Counts::default();
            let apart = Counts { all, fail, slow: 0 };
            let tally = Tally { share: Share::ZERO, opened, closed, late: false, canary: none, stable: none, apart };
            let situation = situation(Arm::default(), None);
            machine.step(closed, &Seen { tallies: &[tally], live: Live::default(), situation: &situation });
        }
        self.rollout = Rollout::new(seconds(self.now), &self.ledger, machine);
    }

    fn go(&mut self) {
        while let Some(Reverse((at, key))) = self.events.pop() {
            self.now = at as f64 / 1e6;
            let slot = (key & 0xFFFF_FFFF) as usize;
            self.free.push(slot);
            let Some(event) = self.queued[slot].take() else { continue };
            match event {
                Event::Arrives => self.arrives(),
                Event::Judged(process, draw, verdict, first_byte) if process == self.process => {
                    self.judged(draw, verdict, first_byte);
                }
                Event::Judged(..) => {}
                Event::Disturbs => self.disturbs(),
                Event::Recovers => {
                    self.fit = (1, 1);
                    self.steps(None);
                }
                Event::Steps => {
                    self.steps(None);
                    let within = self.rollout.machine().step_within();
                    let next = self.now + within.as_secs_f64();
                    // The idle rhythm ends where the one of the canary begins.
                    if self.now >= BORN || next < BORN {
                        self.at(next, Event::Steps);
                    }
                }
                Event::Answers(probed) => self.steps(Some(probed)),
            }
            self.course.took = self.now - self.ramp.unwrap_or(BORN);
            let phase = self.rollout.machine().phase();
            if self.now - BORN > LIMIT && self.hangs() && matches!(phase, Some(Phase::Probe { .. })) {
                self.course.end = End::Waits;
            }
            if self.course.end != End::Stuck || self.now - BORN > LIMIT {
                return;
            }
        }
    }

    fn arrives(&mut self) {
        let wait = -(1.0 - self.chance.f64()).ln() / self.scene.rate;
        self.at(self.now + wait, Event::Arrives);
        let draw = self.ledger.draw(self.chance.u32(..));
        let behaviour = if draw.track == Track::Canary { self.scene.canary } else { self.scene.stable };
        let outage = self.outage();
        let hangs = draw.track == Track::Canary && self.hangs();
        let (after, verdict) = if hangs {
            (JUDGED_AT, Verdict::Slow)
        } else if self.chance.f64() < behaviour.fails.max(outage) {
            let (low, high) = behaviour.fails_after;
            (low + (high - low) * self.chance.f64(), Verdict::Fail)
        } else if behaviour.hangs > 0.0 && self.chance.f64() < behaviour.hangs {
            (JUDGED_AT, Verdict::Slow)
        } else {
            let answered = -(1.0 - self.chance.f64()).ln() * behaviour.answers_after;
            if answered > JUDGED_AT { (JUDGED_AT, Verdict::Slow) } else { (answered, Verdict::Ok) }
        };
        let first_byte = (verdict != Verdict::Fail).then(|| seconds(after));
        self.at(self.now + after, Event::Judged(self.process, draw, verdict, first_byte));
    }

    /// The failure rate of everything just now.
    fn outage(&self) -> f64 {
        let t = self.now - BORN;
        self.scene.outage.filter(|(from, to, _)| (*from..*to).contains(&t)).map_or(0.0, |outage| outage.2)
    }

    fn hangs(&self) -> bool {
        self.scene.hangs_from.is_some_and(|from| self.now - BORN >= from)
    }

    fn disturbs(&mut self) {
        let every = self.scene.disturbed_every.unwrap_or(f64::INFINITY);
        let wait = -(1.0 - self.chance.f64()).ln() * every;
        self.at(self.now + wait, Event::Disturbs);
        match self.chance.u8(..3) {
            0 => self.restarts(),
            1 => self.fit.0 = 0,
            _ => self.fit.1 = 0,
        }
        let back = self.now + 5.0 * self.chance.f64();
        self.at(back, Event::Recovers);
        self.steps(None);
    }

    /// The proxy is killed; a new one goes on with what was on disk.
    fn restarts(&mut self) {
        let disk = serde_json::to_string(self.rollout.machine()).expect("a machine can be written");
        let machine: Machine = serde_json::from_str(&disk).expect("and read");
        self.ledger = Ledger::new();
        self.rollout = Rollout::new(seconds(self.now), &self.ledger, machine.with_policy(Policy::default()));
        self.process += 1;
    }

    fn judged(&mut self, draw: Draw, verdict: Verdict, first_byte: Option<Duration>) {
        let outage = self.outage();
        let course = &mut self.course;
        let failed = u32::from(verdict == Verdict::Fail);
        if draw.track == Track::Canary {
            course.canary_requests += 1;
            course.canary_failures += failed;
            course.failures_until_suspended += if self.taken { 0 } else { failed };
            // The shield asks stable, which may fail too.
            let shielded = self.chance.f64() >= NOT_REPLAYABLE && self.chance.f64() >= self.scene.stable.fails.max(outage);
            course.user_failures += if shielded { 0 } else { failed };
        }
        self.taken |= self.ledger.record(draw, verdict, first_byte).is_some();
    }

    fn steps(&mut self, probed: Option<Probed>) {
        let canary = if self.now >= BORN { Arm { instances: 1, fit: self.fit.0 } } else { Arm::default() };
        let situation = Situation { stable: Arm { instances: 1, fit: self.fit.1 }, ..situation(canary, probed) };
        let decisions = self.rollout.step(seconds(self.now), &self.ledger, &situation);
        for decision in decisions {
            match &decision {
                Decision::Probe => {
                    let fine = !self.hangs() || self.scene.answers_probes;
                    let status = fine.then_some(if self.scene.canary.fails >= 1.0 { 404 } else { 200 });
                    self.at(self.now + 0.02, Event::Answers(Probed { status }));
                }
                Decision::Share { to, .. } => {
                    self.course.said = decision.to_string();
                    if *to == Share::ZERO {
                        self.course.suspensions += 1;
                        self.course.suspended = Some(self.now - self.ramp.unwrap_or(BORN));
                        self.taken = true;
                    }
                }
                Decision::Note { .. } | Decision::Adopt { .. } => self.course.said = decision.to_string(),
            }
        }
        match self.rollout.machine().phase() {
            Some(Phase::Earned { .. }) => self.course.end = End::Passed,
            Some(Phase::Failed { .. }) => self.course.end = End::Failed,
            Some(Phase::Released { .. }) => self.course.end = End::Released,
            Some(Phase::Ramp { .. }) if self.ramp.is_none() => self.ramp = Some(self.now),
            _ => {}
        }
    }

    fn at(&mut self, at: f64, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.queued.push(None);
            self.queued.len() - 1
        });
        self.queued[slot] = Some(event);
        self.order += 1;
        self.events.push(Reverse(((at * 1e6) as u64, self.order << 32 | slot as u64)));
    }
}

fn situation(canary: Arm, probed: Option<Probed>) -> Situation<'static> {
    Situation { version: "2", nature: Nature::Declared, canary, stable: Arm { instances: 1, fit: 1 }, probed }
}
