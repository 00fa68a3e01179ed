//! One service's servers and its rollout, as control drives them: who is there, who is canary, and how the share moves.
//!
//! The machine decides (`rollout`), this carries out: it turns endpoints into long-lived servers, sorts them into arms,
//! tells the machine what is there and what probes answered, and does what it says.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::Kept;
use crate::config::dynamic::Endpoint;
use crate::config::install::{Mode, Newcomers, RolloutSettings};
use crate::health::{Standing, Start};
use crate::names::{Share, Track};
use crate::orchestrator::deploy::Verdict;
use crate::rollout::phase::Phase;
use crate::rollout::reader::Counts;
use crate::rollout::tracks::{self, Sighted, Sorted, Tracks};
use crate::rollout::{Arm, Decision, Direction, Nature, Outcome, Pointless, Policy, Probed, Report, Rollout, Situation, Steered};
use crate::routing::server::{Arms, Draining, Member, Server};
use crate::routing::service::Service;

/// While a canary is judged, what it shows may be so long on no disk ...
const KEPT_WITHIN: Duration = Duration::from_secs(5);
/// ... and while none is, stable's hour so long.
const HOUR_KEPT_WITHIN: Duration = Duration::from_secs(60);
/// A canary that is held while it passes its checks has failed when it answers no probe for so long: three times what a slow one needs.
const PROBED_IN_VAIN_MAX: Duration = Duration::from_secs(180);

/// What control has to do for a service after a step.
#[derive(Debug, Default)]
pub struct ToDo {
    /// Probe this server for this path and tell the answer by [`Weighing::probed`].
    pub probe: Option<(Arc<Server>, String)>,
    /// Servers that are new: their names have to be resolved and their health checked.
    pub joined: Vec<Arc<Server>>,
    /// What has changed is to be on disk within this time; at once after a transition. None when nothing has.
    pub kept_within: Option<Duration>,
    /// What was decided.
    pub news: Vec<News>,
}

/// A decision as it was logged.
#[derive(Clone, Debug)]
pub struct News {
    /// The canary's version.
    pub version: String,
    /// One word.
    pub kind: &'static str,
    /// The log line.
    pub sentence: String,
    /// How the rollout ended by it, if it did.
    pub outcome: Option<Outcome>,
}

/// One service's servers and its rollout.
#[derive(Debug)]
pub struct Weighing {
    service: Arc<Service>,
    settings: RolloutSettings,
    rollout: Rollout,
    tracks: Tracks,
    sorted: Sorted,
    /// Keys of instances that were fit at least once: only those take part in a rollout.
    proven: BTreeSet<String>,
    endpoints: Vec<Endpoint>,
    /// Other settings may sort the arms otherwise.
    is_unsorted: bool,
    next_step: Duration,
    probes: usize,
    /// When each canary last answered a probe, by the key of its instance.
    answered: HashMap<String, Duration>,
}

impl Weighing {
    /// A service that has no servers yet, and goes on from what was kept of it.
    pub fn new(service: Arc<Service>, now: Duration, kept: Kept) -> Self {
        let settings = RolloutSettings::default();
        let Kept { machine, tracks, proven } = kept;
        let rollout = Rollout::new(now, &service.ledger, machine.with_policy(policy(&settings)));
        let sorted = Sorted { tracks: Vec::new(), version: String::new(), nature: Nature::ByAge, older_left: false };
        let (endpoints, answered) = (Vec::new(), HashMap::new());
        Self {
            service,
            settings,
            rollout,
            tracks,
            sorted,
            proven,
            endpoints,
            is_unsorted: false,
            next_step: now,
            probes: 0,
            answered,
        }
    }

    /// Takes over the settings that the serving definition gives it.
    pub fn configure(&mut self, settings: RolloutSettings) {
        if self.settings != settings {
            self.rollout.set_policy(policy(&settings));
            self.settings = settings;
            self.is_unsorted = true;
        }
    }

    /// Where its rollout stands.
    pub fn report(&self) -> Report {
        self.rollout.machine().report()
    }

    /// What of it outlives the process.
    pub fn kept(&self) -> Kept {
        let machine = self.rollout.machine().clone();
        Kept { machine, tracks: self.tracks.clone(), proven: self.proven.clone() }
    }

    /// A person decides about the rollout. It is done when this returns.
    ///
    /// # Errors
    /// It would change nothing.
    pub fn steer(&mut self, time: Time, steered: Steered) -> Result<ToDo, Pointless> {
        self.rollout.steer(steered)?;
        Ok(self.step(time, None))
    }

    /// The service.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// What its provider said last.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// When it has to be stepped at the latest, on control's timeline.
    pub fn next_step(&self) -> Duration {
        self.next_step
    }

    /// The provider says which endpoints there are. New requests know at once.
    pub fn see(&mut self, time: Time, endpoints: &[Endpoint]) -> ToDo {
        if !std::mem::take(&mut self.is_unsorted) && self.endpoints == endpoints {
            return ToDo::default();
        }
        self.endpoints = endpoints.to_vec();
        let before = std::mem::take(&mut self.sorted.tracks);
        let joined = self.arrange(time);
        let mut to_do = ToDo { joined, ..self.step(time, None) };
        if self.sorted.tracks != before {
            to_do.kept_within = Some(Duration::ZERO);
        }
        to_do
    }

    /// A probe was answered. One that went to a server that is no canary any more says nothing about those that are.
    pub fn probed(&mut self, time: Time, server: &Arc<Server>, status: Option<u16>) -> ToDo {
        if !self.service.arms().of(Track::Canary).any(|canary| Arc::ptr_eq(canary, server)) {
            return ToDo::default();
        }
        if status.is_some_and(|status| status < 500) {
            self.answered.insert(key_of(server), time.since_start);
        }
        self.step(time, Some(Probed { status }))
    }

    /// Looks at what requests saw since the last step.
    pub fn step(&mut self, time: Time, probed: Option<Probed>) -> ToDo {
        let arms = self.service.arms();
        let (mut canary, mut stable) = (self.arm(&arms, Track::Canary, time.now), self.arm(&arms, Track::Stable, time.now));
        if self.sorted.older_left {
            // Who is stable now was the canary a moment ago: so the machine learns why there is none any more.
            (canary, stable) = (stable, Arm::default());
        }
        let version = self.rollout.machine().version().unwrap_or(&self.sorted.version).to_owned();
        let situation = Situation { version: &self.sorted.version, nature: self.sorted.nature, canary, stable, probed };
        let decisions = self.rollout.step(time.since_start, &self.service.ledger, &situation);
        self.next_step = time.since_start + self.rollout.machine().step_within();
        let mut to_do = ToDo { kept_within: Some(self.kept_within(&decisions)), ..ToDo::default() };
        for decision in decisions {
            if decision != Decision::Probe {
                tracing::info!(service = %self.service.label, version, "{decision}");
                let (sentence, outcome) = (decision.to_string(), decision.outcome());
                to_do.news.push(News { version: version.clone(), kind: decision.kind(), sentence, outcome });
            }
            match decision {
                Decision::Share { .. } | Decision::Note { .. } => {}
                Decision::Probe => to_do.probe = self.next_probe(&arms).map(|server| (server, self.settings.probe_path.clone())),
                Decision::Adopt { .. } => {
                    self.tracks.adopt();
                    to_do.joined.extend(self.arrange(time));
                }
            }
        }
        to_do
    }

    fn kept_within(&self, decisions: &[Decision]) -> Duration {
        if decisions.iter().any(|decision| *decision != Decision::Probe) {
            Duration::ZERO
        } else if self.rollout.machine().phase().is_some() {
            KEPT_WITHIN
        } else {
            HOUR_KEPT_WITHIN
        }
    }

    /// Makes servers of the endpoints, keeping those that are still the same, and sorts them into arms. Gives the new ones.
    fn arrange(&mut self, time: Time) -> Vec<Arc<Server>> {
        let before = self.service.arms();
        let was_empty = before.members().is_empty();
        let known: HashMap<(&str, Option<&str>), &Arc<Server>> = before
            .members()
            .iter()
            .map(|Member { server, .. }| ((server.url.as_str(), server.instance.as_deref()), server))
            .collect();
        let mut joined = Vec::new();
        let mut servers = Vec::with_capacity(self.endpoints.len());
        for endpoint in &self.endpoints {
            // The same address, and the same instance behind it.
            let server = match known.get(&(endpoint.url().as_str(), endpoint.instance.as_deref())) {
                Some(server) => Arc::clone(server),
                None => {
                    let start = if was_empty { Start::Established } else { Start::Fresh };
                    let server = Arc::new(Server::new(endpoint, time.now, start));
                    joined.push(Arc::clone(&server));
                    server
                }
            };
            if let Some(change) = server.update(endpoint, time.now) {
                tracing::info!(service = %self.service.label, server = server.url, "{change}");
            }
            servers.push(server);
        }
        self.sort(time);
        let members = servers.into_iter().zip(&self.sorted.tracks).map(|(server, track)| Member { server, track: *track });
        self.service.set_arms(Arms::new(members.collect()));
        joined
    }

    fn sort(&mut self, time: Time) {
        let keys: Vec<String> = self.endpoints.iter().map(key).collect();
        let sighted: Vec<Sighted<'_>> = self
            .endpoints
            .iter()
            .zip(&keys)
            .map(|(endpoint, key)| Sighted { key, version: endpoint.version.as_deref(), declared: self.declared(endpoint) })
            .collect();
        let newcomers = match (self.settings.enabled, self.settings.newcomers) {
            (true, Newcomers::Weigh) => tracks::Newcomers::Judge,
            (true, Newcomers::SlowStart) | (false, _) => tracks::Newcomers::SlowStart,
        };
        self.sorted = self.tracks.sort(time.since_start, &sighted, newcomers);
        self.proven.retain(|proven| keys.contains(proven));
        self.answered.retain(|answered, _| keys.contains(answered));
        let fit = self.endpoints.iter().zip(keys).filter(|(endpoint, _)| endpoint.is_passing);
        self.proven.extend(fit.map(|(_, key)| key));
    }

    fn declared(&self, endpoint: &Endpoint) -> Option<Track> {
        if self.settings.enabled { endpoint.track } else { Some(Track::Stable) }
    }

    /// How many instances of an arm take part, and how many of them are fit. An instance that was never fit is still starting. A
    /// drained one of stable is there but carries nothing; a drained canary is taken for absent, or the drain would be its failure.
    fn arm(&self, arms: &Arms, track: Track, now: Instant) -> Arm {
        let mut arm = Arm::default();
        for (member, endpoint) in arms.members().iter().zip(&self.endpoints) {
            if member.track != track || !self.proven.contains(&key(endpoint)) {
                continue;
            }
            let is_drained = member.server.draining() != Draining::No;
            if is_drained && track == Track::Canary {
                continue;
            }
            arm.instances = arm.instances.saturating_add(1);
            let is_fit = !is_drained && matches!(member.server.health.standing(now), Standing::Available { .. });
            arm.fit = arm.fit.saturating_add(u16::from(is_fit));
        }
        arm
    }

    /// The canary to probe: each in its turn, the fit ones only while there are any.
    fn next_probe(&mut self, arms: &Arms) -> Option<Arc<Server>> {
        let canaries: Vec<&Arc<Server>> = arms.of(Track::Canary).collect();
        let passing: Vec<&Arc<Server>> = canaries.iter().copied().filter(|server| server.health.is_passing()).collect();
        let candidates = if passing.is_empty() { canaries } else { passing };
        self.probes = self.probes.wrapping_add(1);
        candidates.get(self.probes % candidates.len().max(1)).map(|server| Arc::clone(server))
    }
}

/// One moment, on both of control's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// The monotonic clock.
    pub now: Instant,
    /// The timeline that rollouts live on.
    pub since_start: Duration,
}

fn policy(settings: &RolloutSettings) -> Policy {
    Policy { warm_up: settings.warm_up, judged_at: settings.judged_at, ..Policy::default() }
}

/// What an instance is remembered by.
fn key(endpoint: &Endpoint) -> String {
    endpoint.instance.clone().unwrap_or_else(|| endpoint.url())
}

/// The same of its server.
fn key_of(server: &Server) -> String {
    server.instance.clone().unwrap_or_else(|| server.url.clone())
}

/// What a deployment asks, and asks for.
impl Weighing {
    /// Whether its canaries are judged at all.
    pub fn is_judged(&self) -> bool {
        self.settings.enabled
    }

    /// What may be asked of Nomad on its behalf.
    pub fn mode(&self) -> Mode {
        self.settings.mode
    }

    /// From now on the share goes in this direction; to be followed by a step.
    pub fn direct(&mut self, direction: Direction) {
        self.rollout.machine_mut().direct(direction);
    }

    /// Another instance is the canary now; to be followed by a step.
    pub fn restart(&mut self) {
        self.rollout.machine_mut().restart();
    }

    /// Something that counts as several failures of the canary in a row has happened; to be followed by a step.
    pub fn trip(&mut self) {
        self.rollout.trip();
    }

    /// Begins or ends to hold what was promoted against the hour before.
    pub fn set_watched(&mut self, now: Duration, is_watched: bool) {
        let machine = self.rollout.machine_mut();
        if is_watched { machine.watch(now) } else { machine.end_watch() }
    }

    /// Why what was promoted is worse than the hour before, if it is.
    pub fn breach(&self) -> Option<String> {
        let Report { evidence_watch, watched, threshold, tolerated_rate, .. } = self.report();
        let Counts { all, fail, .. } = watched;
        (evidence_watch >= threshold).then(|| {
            let allowed = tolerated_rate * 100.0;
            format!("{fail} of {all} requests failed since the promotion, the hour before allows {allowed:.1} % (evidence {evidence_watch:.0})")
        })
    }

    /// The share that its canary has earned, whatever it is given.
    pub fn earned(&self) -> Share {
        self.rollout.machine().earned()
    }

    /// Nobody asks for it: neither lately nor since its canary came.
    pub fn is_silent(&self) -> bool {
        let Report { canary, stable, rate, .. } = self.report();
        canary.all == 0 && stable.all == 0 && rate == 0.0
    }

    /// How the judgement stands.
    pub fn verdict(&self) -> Verdict {
        let machine = self.rollout.machine();
        // Without the share that the sentence begins with.
        let why = || {
            let said = machine.report().said;
            said.split_once(": ").map_or(said.clone(), |(_, why)| why.to_owned())
        };
        match machine.phase() {
            None => Verdict::Waiting,
            Some(Phase::Probe { .. }) if self.is_mute() => {
                Verdict::Failed { why: format!("it answered no probe for {} s", PROBED_IN_VAIN_MAX.as_secs()) }
            }
            Some(Phase::Probe { .. }) => Verdict::Probing,
            Some(Phase::Ramp { .. }) => Verdict::Ramping,
            Some(Phase::Suspended(_) | Phase::Hold { .. }) => Verdict::Suspended,
            Some(Phase::Earned { .. }) => Verdict::Earned,
            Some(Phase::Released { .. }) => Verdict::Undecided { why: why() },
            Some(Phase::Failed { .. }) => Verdict::Failed { why: why() },
        }
    }

    /// Nothing stands between its canary and a promotion: it passed every step, or is given everything.
    pub fn has_passed(&self) -> bool {
        matches!(self.rollout.machine().phase(), Some(Phase::Earned { .. })) || self.rollout.machine().share() == Share::ALL
    }

    /// It passes its checks, but has answered none of our probes for long.
    fn is_mute(&self) -> bool {
        let report = self.report();
        let is_passing = self.service.arms().of(Track::Canary).any(|canary| canary.health.is_passing());
        is_passing && report.good_probes == 0 && report.phase_seconds >= PROBED_IN_VAIN_MAX.as_secs_f64()
    }

    /// Whether it answered a probe of ours so lately.
    pub fn answered_within(&self, server: &Server, now: Duration, span: Duration) -> bool {
        self.answered.get(&key_of(server)).is_some_and(|at| now.saturating_sub(*at) <= span)
    }

    /// A probe for each canary.
    pub fn probes(&self) -> Vec<(Arc<Server>, String)> {
        let arms = self.service.arms();
        arms.of(Track::Canary).map(|server| (Arc::clone(server), self.settings.probe_path.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::names::Name;
    use crate::routing::service::Settings;

    /// A service as control sees it, second by second.
    struct Scene {
        weighing: Weighing,
        service: Arc<Service>,
        start: Instant,
        seconds: u64,
        kept_within: Option<Duration>,
    }

    impl Scene {
        fn new() -> Self {
            let start = clock::now();
            let service = Arc::new(Service::new(Name::new("web", "consulcatalog"), Settings::default(), start));
            let weighing = Weighing::new(Arc::clone(&service), Duration::ZERO, Kept::default());
            Self { weighing, service, start, seconds: 0, kept_within: None }
        }

        fn see(&mut self, seconds: u64, instances: &[&str]) -> usize {
            let endpoints: Vec<Endpoint> = instances.iter().map(|instance| endpoint(instance)).collect();
            self.sees(seconds, &endpoints).joined.len()
        }

        fn sees(&mut self, seconds: u64, endpoints: &[Endpoint]) -> ToDo {
            self.seconds = seconds;
            let to_do = self.weighing.see(self.time(), endpoints);
            self.kept_within = to_do.kept_within;
            to_do
        }

        fn time(&self) -> Time {
            let since_start = Duration::from_secs(self.seconds);
            Time { now: self.start + since_start, since_start }
        }

        /// A canary `b` joins `a` in this second, and gets its first share after three answers.
        fn ramp(&mut self, seconds: u64) -> &mut Self {
            self.see(seconds - 1, &["a"]);
            let to_do = self.sees(seconds, &["a", "b"].map(endpoint));
            let mut asked = to_do.probe;
            for _ in 0..3 {
                let (server, _) = asked.expect("a probe");
                assert_eq!(server.instance.as_deref(), Some("b"));
                let _ = self.weighing.probed(self.time(), &server, Some(200));
                self.seconds += 1;
                let to_do = self.weighing.step(self.time(), None);
                (asked, self.kept_within) = (to_do.probe, to_do.kept_within);
            }
            assert_eq!(self.weighing.report().phase, "ramp");
            self
        }

        /// The process is killed; the next one knows what was on disk.
        fn restart(&mut self) {
            let disk = serde_json::to_string(&self.weighing.kept()).unwrap();
            self.service = Arc::new(Service::new(Name::new("web", "consulcatalog"), Settings::default(), self.start));
            let since_start = self.time().since_start;
            self.weighing = Weighing::new(Arc::clone(&self.service), since_start, serde_json::from_str(&disk).unwrap());
        }

        /// The phase, and which instances are canary.
        fn seen(&self) -> (&'static str, Vec<String>) {
            let arms = self.service.arms();
            (self.weighing.report().phase, arms.of(Track::Canary).filter_map(|server| server.instance.clone()).collect())
        }

        fn servers(&self) -> Vec<Arc<Server>> {
            self.service.arms().members().iter().map(|member| Arc::clone(&member.server)).collect()
        }
    }

    fn endpoint(instance: &str) -> Endpoint {
        Endpoint { instance: Some(instance.to_owned()), ..Endpoint::local(80) }
    }

    #[test]
    fn a_server_stays_the_same_while_its_instance_does_and_another_on_its_address_is_another() {
        let mut scene = Scene::new();
        assert_eq!(scene.see(0, &["a"]), 1);
        let first = scene.servers();
        assert_eq!(scene.see(1, &["a"]), 0);
        assert!(Arc::ptr_eq(&first[0], &scene.servers()[0]));
        assert_eq!(scene.see(2, &["b"]), 1);
        assert!(!Arc::ptr_eq(&first[0], &scene.servers()[0]));
    }

    #[test]
    fn the_last_server_goes_even_when_settings_change_in_the_same_moment() {
        let mut scene = Scene::new();
        scene.see(0, &["a"]);
        scene.weighing.configure(RolloutSettings { enabled: false, ..RolloutSettings::default() });
        scene.see(1, &[]);
        assert!(scene.servers().is_empty());
    }

    #[test]
    fn a_restarted_proxy_goes_on_with_the_share_that_a_canary_has() {
        let mut scene = Scene::new();
        scene.ramp(100);
        let (share, said) = (scene.service.ledger.share(), scene.weighing.report().said);
        assert!(share > Share::ZERO);
        scene.restart();
        // An instance that is not passing just now has been there all the same.
        let endpoints = [endpoint("a"), Endpoint { is_passing: false, ..endpoint("b") }];
        let to_do = scene.sees(104, &endpoints);
        assert_eq!((scene.seen(), scene.service.ledger.share()), (("suspended", vec!["b".to_owned()]), Share::ZERO));
        assert!(to_do.probe.is_none());
        let mut scene = Scene::new();
        scene.ramp(100).restart();
        assert_eq!(scene.see(50_000, &["a", "b"]), 2);
        assert_eq!((scene.seen(), scene.service.ledger.share()), (("ramp", vec!["b".to_owned()]), share));
        assert_eq!(scene.weighing.report().said, said);
    }

    #[test]
    fn a_probe_whose_answer_nobody_heard_is_asked_again() {
        let mut scene = Scene::new();
        scene.see(1, &["a"]);
        assert!(scene.sees(2, &["a", "b"].map(endpoint)).probe.is_some());
        scene.restart();
        assert!(scene.sees(2, &["a", "b"].map(endpoint)).probe.is_some());
        assert_eq!(scene.seen(), ("probe", vec!["b".to_owned()]));
    }

    /// A ramp, a restart, and who is there then: the rest of the story in one sentence.
    #[track_caller]
    fn check_restart(there: &[&str], phase: &str, canaries: &[&str], said: &str) {
        let mut scene = Scene::new();
        scene.ramp(100).restart();
        scene.see(200, there);
        let (found, canary) = scene.seen();
        assert_eq!((found, canary.iter().map(String::as_str).collect::<Vec<_>>()), (phase, canaries.to_vec()));
        assert!(scene.weighing.report().said.contains(said), "{}", scene.weighing.report().said);
        assert_eq!(scene.kept_within, Some(Duration::ZERO));
    }

    #[test]
    fn what_happened_while_nobody_looked_ends_a_rollout_as_if_somebody_had() {
        check_restart(&["a"], "", &[], "there is no canary any more");
        check_restart(&["b"], "", &[], "the older instances have left");
        check_restart(&["a", "c"], "probe", &["c"], "another version has taken the canary's place");
        check_restart(&["c"], "", &[], "there is no canary any more");
    }

    #[test]
    fn what_changed_is_on_disk_at_once_and_what_grows_within_seconds() {
        let mut scene = Scene::new();
        scene.see(1, &["a"]);
        assert_eq!(scene.kept_within, Some(Duration::ZERO), "a first sight");
        scene.see(2, &["a"]);
        assert_eq!(scene.kept_within, None, "nothing new");
        let to_do = scene.weighing.step(scene.time(), None);
        assert_eq!(to_do.kept_within, Some(HOUR_KEPT_WITHIN));
        scene.ramp(4);
        assert_eq!(scene.weighing.step(scene.time(), None).kept_within, Some(KEPT_WITHIN));
    }
}
