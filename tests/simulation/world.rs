//! One rollout in virtual time: a Poisson stream of requests, the production ledger and machine, control's loop around them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::names::{Share, Track};
use crate::rollout::phase::Phase;
use crate::rollout::reader::{Counts, Live, Tally};
use crate::rollout::{Arm, Decision, Draw, Ledger, Machine, Nature, Policy, Probed, Rollout, Seen, Situation, Verdict};

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
    /// How stable behaves.
    pub stable: Behaviour,
    /// How the canary does.
    pub canary: Behaviour,
    /// Stable's failure rate in the hour before, if it was another.
    pub stable_before: Option<f64>,
    /// From, to (seconds after the canary appears), and the failure rate of both arms in it.
    pub outage: Option<(f64, f64, f64)>,
    /// Requests a second.
    pub rate: f64,
    /// From this many seconds on the canary answers no request any more ...
    pub hangs_from: Option<f64>,
    /// ... or none but probes.
    pub answers_probes: bool,
    /// Requests that carry a client's cookie: they go where it says, and are no evidence.
    pub carried: f64,
    /// ... and those of them whose client's requests fail wherever they go.
    pub carried_fails: f64,
    /// Whether our own requests to the canary fail as often as those of users; otherwise the path they ask for is a good one.
    pub probes_fail: bool,
    /// The proxy is killed once in so many seconds and goes on with what it wrote at the last decision or five seconds ago.
    pub killed_every: Option<f64>,
    /// Now and then, once in so many seconds, the proxy is killed and started again, an instance flaps, stable is lost.
    pub disturbed_every: Option<f64>,
}

impl Scene {
    /// Nothing special.
    pub const fn plain(stable: Behaviour, canary: Behaviour) -> Self {
        Self {
            stable,
            canary,
            stable_before: None,
            outage: None,
            rate: 1.0,
            hangs_from: None,
            answers_probes: false,
            carried: 0.0,
            carried_fails: 0.0,
            probes_fail: false,
            killed_every: None,
            disturbed_every: None,
        }
    }
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Course {
    /// How it ended.
    pub end: End,
    /// Seconds from the first share to the first suspension.
    pub suspended_first: Option<f64>,
    /// ... and to the last, the one that led to the verdict.
    pub suspended: Option<f64>,
    /// Seconds from there to the end.
    pub took: f64,
    /// Requests that were drawn to the canary.
    pub canary_requests: u32,
    /// Failures among them.
    pub canary_failures: u32,
    /// Canary failures until the share was first taken away.
    pub failures_until_suspended: u32,
    /// Failures of the canary that users saw, because the shield could not help.
    pub user_failures: u32,
    /// Failures of requests that carried a cookie to the canary.
    pub carried_failures: u32,
    /// How often the proxy was killed.
    pub restarts: u32,
    /// Suspensions of any kind.
    pub suspensions: u32,
    /// Why the share was taken away the last time.
    pub suspected: String,
    /// The last sentence.
    pub said: String,
}

/// How a rollout may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It earned its share.
    Passed,
    /// It was blamed.
    Failed,
    /// Nothing could be concluded.
    Released,
    /// It never answered enough probes in a row, so it never got a share (again).
    Waits,
    /// None of these within four hours.
    Stuck,
}

/// Longer than this, without a first share or since it, is stuck.
const LIMIT: f64 = 4.0 * 3600.0;
/// The canary appears after an hour of history.
const BORN: f64 = 3600.0;
/// The end of the hour is simulated request by request.
const PRELUDE: f64 = 62.0;
const JUDGED_AT: f64 = 2.0;
const NOT_REPLAYABLE: f64 = 0.05;
const WRITTEN_EVERY: f64 = 5.0;

enum Event {
    Judged(u32, Draw, Verdict, Option<Duration>),
    Steps,
    Answers(Probed),
    Disturbs,
    /// The proxy dies.
    Dies,
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
    /// When the next request arrives.
    arrives: f64,
    /// When the canary got its first share.
    ramp: Option<f64>,
    /// Fit instances of canary and stable.
    fit: (u16, u16),
    /// The state file, and when it was written.
    disk: String,
    written: f64,
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
            suspended_first: None,
            suspended: None,
            took: 0.0,
            canary_requests: 0,
            canary_failures: 0,
            failures_until_suspended: 0,
            user_failures: 0,
            carried_failures: 0,
            restarts: 0,
            suspensions: 0,
            suspected: String::new(),
            said: String::new(),
        },
        taken: false,
        arrives: BORN - PRELUDE,
        ramp: None,
        fit: (1, 1),
        disk: String::new(),
        written: 0.0,
        process: 0,
    };
    world.live_through_the_hour();
    world.at(world.now, Event::Steps);
    // Control steps at once when the catalog changes.
    world.at(BORN, Event::Steps);
    if scene.disturbed_every.is_some() {
        world.at(BORN, Event::Disturbs);
    }
    if let Some(every) = scene.killed_every {
        world.at(BORN + every / 2.0, Event::Dies);
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
        let fails = self.scene.stable_before.unwrap_or(stable.fails);
        let all = (rate * 60.0) as u32;
        let looked = (all * 60).min(4000);
        let failed = (0..looked).filter(|_| self.chance.f64() < fails).count() as f64;
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
        while self.course.end == End::Stuck && self.now - self.ramp.unwrap_or(BORN) <= LIMIT {
            let due = self.events.peek().map_or(f64::INFINITY, |Reverse((at, _))| *at as f64 / 1e6);
            if self.arrives <= due {
                self.now = self.arrives;
                self.arrives += self.wait(1.0 / self.scene.rate);
                self.arrived();
                continue;
            }
            let Some(Reverse((_, key))) = self.events.pop() else { return };
            self.now = due;
            let slot = (key & 0xFFFF_FFFF) as usize;
            self.free.push(slot);
            if let Some(event) = self.queued[slot].take() {
                self.happens(event);
            }
        }
        if self.course.end == End::Stuck && matches!(self.rollout.machine().phase(), Some(Phase::Probe { .. })) {
            self.course.end = End::Waits;
        }
        self.course.took = self.now - self.ramp.unwrap_or(BORN);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Judged(process, draw, verdict, first_byte) if process == self.process => {
                self.judged(draw, verdict, first_byte);
            }
            Event::Judged(..) => {}
            Event::Disturbs => self.disturbs(),
            Event::Dies => {
                let wait = self.wait(self.scene.killed_every.unwrap_or(LIMIT));
                self.at(self.now + wait, Event::Dies);
                self.restarts();
                self.steps(None);
            }
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
    }

    /// A while of this mean.
    fn wait(&mut self, mean: f64) -> f64 {
        -(1.0 - self.chance.f64()).ln() * mean
    }

    fn arrived(&mut self) {
        let draw = self.ledger.draw(self.chance.u32(..));
        if self.scene.carried > 0.0 && self.chance.f64() < self.scene.carried {
            self.carried(draw);
            return;
        }
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
            let answered = self.wait(behaviour.answers_after);
            if answered > JUDGED_AT { (JUDGED_AT, Verdict::Slow) } else { (answered, Verdict::Ok) }
        };
        let first_byte = (verdict != Verdict::Fail).then(|| seconds(after));
        if draw.track == Track::Stable && verdict == Verdict::Ok {
            // Nobody looks at stable's good answers before their epoch settles, so they need not be waited for.
            self.ledger.record(draw, verdict, first_byte);
        } else {
            self.at(self.now + after, Event::Judged(self.process, draw, verdict, first_byte));
        }
    }

    /// It goes where its cookie says, so the draw is void.
    fn carried(&mut self, draw: Draw) {
        self.ledger.record(draw, Verdict::Ignored, None);
        let to_canary = self.rollout.machine().share() != Share::ZERO && self.chance.bool();
        if to_canary && self.chance.f64() < self.scene.carried_fails {
            self.course.carried_failures += 1;
        }
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
        let wait = self.wait(every);
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
        let machine: Machine = serde_json::from_str(&self.disk).expect("a machine can be read");
        self.ledger = Ledger::new();
        self.rollout = Rollout::new(seconds(self.now), &self.ledger, machine.with_policy(Policy::default()));
        self.process += 1;
        self.course.restarts += 1;
    }

    /// Writes the state as control does: at every decision, and every five seconds.
    fn writes(&mut self, decided: bool) {
        if self.scene.killed_every.is_none() && self.scene.disturbed_every.is_none() {
            return;
        }
        if decided || self.disk.is_empty() || self.now - self.written >= WRITTEN_EVERY {
            let machine = self.rollout.machine();
            self.disk = serde_json::to_string(machine).expect("a machine can be written");
            let read: Machine = serde_json::from_str(&self.disk).expect("and read");
            let of = |machine: &Machine| (machine.phase().cloned(), machine.share(), machine.version().map(str::to_owned));
            assert_eq!(of(&read), of(machine), "what was written is what is read");
            self.written = self.now;
        }
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
        self.writes(decisions.iter().any(|decision| *decision != Decision::Probe));
        for decision in decisions {
            match &decision {
                Decision::Probe => {
                    let fine = !self.hangs() || self.scene.answers_probes;
                    let fails = if self.scene.probes_fail { self.scene.canary.fails } else { 0.0 };
                    let failed = self.chance.f64() < fails.max(self.outage());
                    let status = fine.then_some(if failed { 503 } else { 200 });
                    self.at(self.now + 0.02, Event::Answers(Probed { status }));
                }
                Decision::Share { to, .. } => {
                    self.course.said = decision.to_string();
                    if *to == Share::ZERO {
                        self.course.suspensions += 1;
                        self.course.suspected.clone_from(&self.course.said);
                        self.course.suspended = Some(self.now - self.ramp.unwrap_or(BORN));
                        self.course.suspended_first = self.course.suspended_first.or(self.course.suspended);
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
