//! Nomad's deployments as control drives them: tells each one's machine what Nomad and requests show, and does what it says.
//!
//! What Nomad is asked stands on disk before it is asked: a call waits for its document to be written, then is made by a task of its own,
//! and its outcome comes back as one more thing that is seen. Everything else (shares, drains) takes effect at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Control;
use super::chronicle::Moment;
use super::registry::Layer;
use super::state::Key;
use super::weigh::{News, Weighing};
use crate::clock;
use crate::config::dynamic::Endpoint;
use crate::config::install::{AtMaxHold, Mode};
use crate::names::{Share, Track};
use crate::orchestrator::client::Client;
use crate::orchestrator::deploy::{Action, By, Deploy, Deploys, GroupSeen, Order, Outcome, Situation, Steering, Verdict};
use crate::orchestrator::view::Placement;
use crate::orchestrator::{Call, CallOutcome, JobKey, NomadState, allocation_of};
use crate::rollout::{self, Direction};
use crate::routing::server::Draining;

/// Outcomes of calls that may wait for us: one call a deployment at a time.
pub(super) const OUTCOMES_MAX: usize = 1024;
/// A canary that answered a probe within this time answers now.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Between two probes of a canary that may be promoted.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// A task group of a job.
type Group = (JobKey, String);

/// Everything about Nomad's deployments that control holds.
pub(super) struct Deployments {
    client: Arc<Client>,
    nomad: NomadState,
    /// What Nomad says of each allocation it knows.
    placements: BTreeMap<String, Placement>,
    deploys: Deploys,
    /// Calls that wait for their document.
    waiting: BTreeMap<String, (Call, u64)>,
    /// Allocations that a deployment takes new requests from.
    drained: BTreeSet<String>,
    /// Servers that we closed, so that nobody else's drain is undone.
    closed: BTreeSet<(Key, String)>,
    directions: BTreeMap<Group, Direction>,
    /// The share that the services of a group have in common, where there are several.
    common: BTreeMap<Group, Share>,
    /// Groups whose promotion is watched.
    watched: BTreeSet<Group>,
    /// Canaries that were in the catalog: one that is missing there is being restarted.
    met: BTreeSet<String>,
    asked_at: Duration,
    next_step: Duration,
    outcomes: mpsc::Sender<Called>,
}

/// How a call ended.
#[derive(Debug)]
pub(super) struct Called {
    deployment: String,
    call: Call,
    outcome: CallOutcome,
}

impl Deployments {
    /// Goes on from what an earlier process kept.
    pub(super) fn new(client: Arc<Client>, kept: &serde_json::Value, outcomes: mpsc::Sender<Called>) -> Self {
        let deploys = match serde_json::from_value(kept.clone()) {
            Ok(deploys) => deploys,
            Err(_) if kept.is_null() => Deploys::default(),
            Err(error) => {
                tracing::error!(%error, "what was kept of deployments cannot be read, it begins anew");
                Deploys::default()
            }
        };
        Self {
            client,
            nomad: NomadState::unknown(),
            placements: BTreeMap::new(),
            deploys,
            waiting: BTreeMap::new(),
            drained: BTreeSet::new(),
            closed: BTreeSet::new(),
            directions: BTreeMap::new(),
            common: BTreeMap::new(),
            watched: BTreeSet::new(),
            met: BTreeSet::new(),
            asked_at: Duration::ZERO,
            next_step: Duration::ZERO,
            outcomes,
        }
    }

    /// Takes over a newer view. Says whether an allocation is placed otherwise than before.
    fn take(&mut self, state: NomadState) -> bool {
        let was_complete = self.nomad.is_complete;
        let view = &state.view;
        let place = |id: &String| view.track_of(id).map(|placement| (id.clone(), placement));
        let placements: BTreeMap<String, Placement> = view.allocations.keys().filter_map(place).collect();
        let is_other = placements != self.placements || was_complete != state.is_complete;
        self.placements = placements;
        self.nomad = state;
        is_other
    }

    /// Where the instance behind an endpoint belongs, when Nomad placed it.
    fn placement(&self, endpoint: &Endpoint) -> Option<&Placement> {
        placement_in(&self.placements, endpoint)
    }

    /// The version that an allocation is the canary of, as an earlier process knew: until Nomad has spoken it is no other.
    fn kept_version(&self, endpoint: &Endpoint) -> Option<u64> {
        let allocation = allocation_of(endpoint.instance.as_deref()?)?;
        if self.nomad.is_complete {
            return None;
        }
        let is_open = |phase: &str| !matches!(phase, "settle" | "watch" | "over");
        let mut open = self.deploys.iter().filter(|deploy| is_open(deploy.phase().name()));
        open.find(|deploy| deploy.report().canaries.values().any(|canaries| canaries.contains(allocation))).map(Deploy::version)
    }

    /// Endpoints with what Nomad knows of their instances: it is more exact than tags, and than who came first.
    pub(super) fn place(&self, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        let placed = |endpoint: &Endpoint| {
            let mut endpoint = endpoint.clone();
            if let Some(placement) = self.placement(&endpoint) {
                endpoint.version = placement.version.map(|version| format!("v{version}"));
                // Stable is for the versions to say: an update without canaries is judged, too.
                let is_canary = placement.track == Track::Canary;
                endpoint.track = is_canary.then_some(Track::Canary);
            } else if let Some(version) = self.kept_version(&endpoint) {
                endpoint.version = Some(format!("v{version}"));
                endpoint.track = Some(Track::Canary);
            }
            endpoint
        };
        endpoints.iter().map(placed).collect()
    }

    /// The newest deployment of a job; one that has ended is known for an hour.
    pub(super) fn of_job(&self, job: &JobKey) -> Option<&Deploy> {
        self.deploys.of_job(job)
    }

    /// When the machines have to be stepped at the latest.
    pub(super) fn next_step(&self) -> Duration {
        self.next_step
    }
}

/// What is seen.
impl Control {
    /// Nomad shows something new. New requests know at once who is to stop.
    pub(super) fn take_nomad(&mut self, state: NomadState) {
        let Some(deployments) = &mut self.deployments else { return };
        self.outputs.metrics.set_nomad_up(state.doubt.is_none());
        if deployments.take(state) {
            let providers: Vec<_> = self.provided.keys().cloned().collect();
            for provider in &providers {
                self.apply_endpoints(provider);
            }
            self.close_servers();
        }
        self.step_deployments();
    }

    /// From now on Nomad is asked. What its calls come to is to be given to [`Self::call_ended`].
    pub(super) fn follow_deployments(&mut self, client: Arc<Client>) -> mpsc::Receiver<Called> {
        let (outcomes, called) = mpsc::channel(OUTCOMES_MAX);
        self.deployments = Some(Deployments::new(client, self.keeper.deploys(), outcomes));
        called
    }

    /// The services of each group, each with the layer it serves in.
    fn groups(&self) -> BTreeMap<Group, Vec<Key>> {
        let mut groups: BTreeMap<Group, Vec<Key>> = BTreeMap::new();
        let Some(deployments) = &self.deployments else { return groups };
        for (key, weighing) in &self.weighings {
            for placement in weighing.endpoints().iter().filter_map(|endpoint| deployments.placement(endpoint)) {
                let keys = groups.entry((placement.job.clone(), placement.group.clone())).or_default();
                if keys.last() != Some(key) {
                    keys.push(key.clone());
                }
            }
        }
        groups
    }

    /// What requests show of one group.
    fn see_group(&self, deployments: &Deployments, group: &Group, keys: &[Key]) -> GroupSeen {
        let mut seen = GroupSeen { canary_answers: true, ..GroupSeen::default() };
        let mut there = BTreeSet::new();
        let now = self.time().since_start;
        for weighing in keys.iter().filter_map(|key| self.weighings.get(key)) {
            for member in weighing.service().arms().members() {
                let instance = member.server.instance.as_deref();
                let Some(allocation) = instance.and_then(allocation_of) else { continue };
                let Some(placement) = deployments.placements.get(allocation) else { continue };
                if (&placement.job, &placement.group) != (&group.0, &group.1) {
                    continue;
                }
                there.insert(allocation.to_owned());
                if placement.track == Track::Canary {
                    seen.canary_in_flight = seen.canary_in_flight.saturating_add(member.server.in_flight());
                    if weighing.is_judged() {
                        seen.canary_answers &= weighing.answered_within(&member.server, now, ANSWERS_WITHIN);
                    }
                } else {
                    *seen.stable_in_flight.entry(allocation.to_owned()).or_default() += member.server.in_flight();
                }
            }
        }
        let missing = |id: &&String| deployments.met.contains(*id) && !there.contains(*id);
        let of_group = |placement: &Placement| placement.job == group.0 && placement.group == group.1;
        let canaries =
            deployments.placements.iter().filter(|(_, placement)| of_group(placement) && placement.track == Track::Canary);
        let wanted = canaries
            .map(|(id, _)| id)
            .filter(|id| deployments.nomad.view.allocations.get(*id).is_some_and(crate::orchestrator::Allocation::is_wanted));
        seen.canary_restarted = wanted.clone().any(|id| missing(&id));
        seen.verdict = self.verdict_of(keys, deployments.watched.contains(group));
        seen
    }

    /// The worst of the verdicts of a group's services, those that nobody asks left out as long as others are asked.
    fn verdict_of(&self, keys: &[Key], is_watched: bool) -> Verdict {
        let judged = || keys.iter().filter_map(|key| self.weighings.get(key)).filter(|weighing| weighing.is_judged());
        if is_watched {
            let breach = judged().find_map(|weighing| weighing.breach());
            return breach.map_or(Verdict::Earned, |why| Verdict::Failed { why });
        }
        let some_are_asked = judged().any(|weighing| !weighing.is_silent());
        let counting = judged().filter(|weighing| !some_are_asked || !weighing.is_silent());
        counting.map(|weighing| weighing.verdict()).max_by_key(badness).unwrap_or_default()
    }
}

/// How a deployment ended, for whoever waits for that; none while it is open.
pub(super) fn verdict(deploy: &Deploy) -> Option<&'static str> {
    let report = deploy.report();
    match report.outcome {
        Some(Outcome::Promoted { .. } | Outcome::Unjudged) => Some("promoted"),
        Some(Outcome::Failed { .. }) => Some("failed"),
        Some(_) => Some("gone"),
        None if report.hands_off.is_some() => Some("released"),
        None => (report.phase == "watch").then_some("promoted"),
    }
}

/// The worse the higher.
fn badness(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Earned => 0,
        Verdict::Ramping => 1,
        Verdict::Probing => 2,
        Verdict::Waiting => 3,
        Verdict::Suspended => 4,
        Verdict::Undecided { .. } => 5,
        Verdict::Failed { .. } => 6,
    }
}

/// What is done.
impl Control {
    /// Steps every deployment.
    pub(super) fn step_deployments(&mut self) {
        let time = self.time();
        let Some(deployments) = &mut self.deployments else { return };
        if deployments.nomad.is_complete && deployments.nomad.doubt.is_none() {
            let view = Arc::clone(&deployments.nomad.view);
            deployments.deploys.meet(&view, time.since_start);
        }
        let ids: Vec<String> =
            deployments.deploys.iter().filter(|deploy| !deploy.is_over()).map(|deploy| deploy.id().to_owned()).collect();
        for id in ids {
            self.step_deployment(&id, None, None);
        }
        self.close_servers();
        self.ask_canaries();
        if let Some(deployments) = &mut self.deployments {
            let open = deployments.deploys.iter().filter(|deploy| !deploy.is_over());
            let within = open.map(|deploy| deploy.step_within()).min().unwrap_or(rollout::machine::STEP_IDLE);
            deployments.next_step = time.since_start + within;
        }
    }

    /// Steps one deployment and does what comes of it. Gives the sentences.
    fn step_deployment(&mut self, id: &str, outcome: Option<(Call, CallOutcome)>, order: Option<Order>) -> Vec<String> {
        let groups = self.groups();
        let Some(job) = self.deployments.as_ref().and_then(|all| all.deploys.get(id)).map(|deploy| deploy.job().clone()) else {
            return Vec::new();
        };
        let of_job: BTreeMap<Group, Vec<Key>> = groups.into_iter().filter(|((of, _), _)| *of == job).collect();
        let actions = {
            let Some(deployments) = &self.deployments else { return Vec::new() };
            let seen: BTreeMap<String, GroupSeen> =
                of_job.iter().map(|(group, keys)| (group.1.clone(), self.see_group(deployments, group, keys))).collect();
            let settings = self.settings_of(&of_job);
            let view = Arc::clone(&deployments.nomad.view);
            let situation = Situation {
                view: &view,
                now: self.time().since_start,
                wall: clock::wall(),
                nomad_is_current: deployments.nomad.is_complete && deployments.nomad.doubt.is_none(),
                groups: &seen,
                mode: settings.0,
                hold_max: settings.1,
                at_max_hold: settings.2,
                reverts: settings.3,
                can_write: self.keeper.can_write(),
                outcome,
                order,
            };
            let Some(deployments) = &mut self.deployments else { return Vec::new() };
            deployments.deploys.step(id, &situation)
        };
        self.remember_canaries(&of_job);
        self.watch_promotion(id, &of_job);
        let said = self.act(id, &of_job, actions);
        self.couple(&of_job);
        said
    }

    /// The most careful of what the group's services ask for.
    fn settings_of(&self, of_job: &BTreeMap<Group, Vec<Key>>) -> (Mode, Duration, AtMaxHold, bool) {
        let own = &self.install.own.rollout;
        let settings =
            of_job.values().flatten().filter_map(|key| self.weighings.get(key)).filter(|weighing| weighing.is_judged());
        let mode = settings.map(|weighing| weighing.mode()).min().unwrap_or(own.mode);
        (mode, own.hold_max, own.at_max_hold, own.reverts)
    }

    fn remember_canaries(&mut self, of_job: &BTreeMap<Group, Vec<Key>>) {
        let Some(deployments) = &mut self.deployments else { return };
        for weighing in of_job.values().flatten().filter_map(|key| self.weighings.get(key)) {
            let instances = weighing.endpoints().iter().filter_map(|endpoint| endpoint.instance.as_deref());
            for allocation in instances.filter_map(allocation_of) {
                let is_canary = deployments.placements.get(allocation).is_some_and(|placement| placement.track == Track::Canary);
                if is_canary {
                    deployments.met.insert(allocation.to_owned());
                }
            }
        }
        let placements = &deployments.placements;
        deployments.met.retain(|allocation| placements.contains_key(allocation));
    }

    /// Several services of the same instances share one share: the least of those that somebody asks.
    fn couple(&mut self, of_job: &BTreeMap<Group, Vec<Key>>) {
        for (group, keys) in of_job {
            let judged = || keys.iter().filter_map(|key| self.weighings.get(key)).filter(|weighing| weighing.is_judged());
            let asked = judged().filter(|weighing| !weighing.is_silent());
            let least = asked.map(Weighing::earned).min().filter(|_| judged().count() > 1);
            let Some(deployments) = &mut self.deployments else { return };
            let is_steered = deployments.directions.get(group).is_some_and(|direction| *direction != Direction::Judge);
            let before = match least {
                Some(least) => deployments.common.insert(group.clone(), least),
                None => deployments.common.remove(group),
            };
            if !is_steered && before != least {
                let direction = least.map_or(Direction::Judge, Direction::AtMost);
                self.each(of_job, &group.1, |weighing| weighing.direct(direction));
            }
        }
    }

    /// Begins to hold what was promoted against the hour before.
    fn watch_promotion(&mut self, id: &str, of_job: &BTreeMap<Group, Vec<Key>>) {
        let now = self.time().since_start;
        let Some(deployments) = &mut self.deployments else { return };
        let is_watching = deployments.deploys.get(id).is_some_and(|deploy| deploy.phase().name() == "watch");
        let is_new = is_watching && of_job.keys().any(|group| !deployments.watched.contains(group));
        for (group, keys) in of_job {
            let changes = if is_watching { deployments.watched.insert(group.clone()) } else { deployments.watched.remove(group) };
            if !changes {
                continue;
            }
            for key in keys {
                if let Some(weighing) = self.weighings.get_mut(key) {
                    weighing.set_watched(now, is_watching);
                }
            }
        }
        if is_new {
            let outcome = Outcome::Promoted { by: By::Verdict };
            self.say_deployment(id, of_job, "the canary is promoted, and watched for 5 min".to_owned(), Some(&outcome));
        }
    }

    fn act(&mut self, id: &str, of_job: &BTreeMap<Group, Vec<Key>>, actions: Vec<Action>) -> Vec<String> {
        let mut said = Vec::new();
        if actions.is_empty() {
            return said;
        }
        self.keep_deploys();
        for action in actions {
            match action {
                Action::Call(call) => {
                    let document = self.keep();
                    let Some(deployments) = &mut self.deployments else { continue };
                    deployments.waiting.insert(id.to_owned(), (call, document));
                }
                Action::Steer { group, to } => self.direct(of_job, &group, direction(to)),
                Action::Drain { allocation } => self.set_drained(allocation, true),
                Action::Undrain { allocation } => self.set_drained(allocation, false),
                Action::Restart { group } => self.each(of_job, &group, |weighing| weighing.restart()),
                Action::Trip { group } => self.each(of_job, &group, |weighing| weighing.trip()),
                Action::Note(why) => {
                    said.push(why.to_string());
                    self.say_deployment(id, of_job, why.to_string(), None);
                }
                Action::Ended(outcome) => self.end_deployment(id, of_job, &outcome),
            }
        }
        self.close_servers();
        self.post_calls();
        said
    }

    /// Hands what deployments are to remember to the keeper.
    fn keep_deploys(&mut self) {
        let Some(deployments) = &self.deployments else { return };
        match serde_json::to_value(&deployments.deploys) {
            Ok(value) => self.keeper.set_deploys(value),
            Err(error) => tracing::error!(%error, "deployments cannot be written down"),
        }
        self.keeper.touch(clock::now(), Duration::ZERO);
    }

    /// Makes the calls whose documents are on disk. To give a deployment back needs no disk.
    pub(super) fn post_calls(&mut self) {
        let can_write = self.keeper.can_write();
        let Some(deployments) = &mut self.deployments else { return };
        let keeper = &self.keeper;
        let is_due = |call: &Call, document: u64| keeper.is_durable(document) || (*call == Call::Resume && !can_write);
        let due: Vec<String> = deployments
            .waiting
            .iter()
            .filter(|(_, (call, document))| is_due(call, *document))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some((call, _)) = deployments.waiting.remove(&id) else { continue };
            let Some(deployment) = deployments.nomad.view.deployments.get(&id).cloned() else { continue };
            let (client, outcomes) = (Arc::clone(&deployments.client), deployments.outcomes.clone());
            tracing::info!(job = %deployment.job, deployment = id, ?call, "asks nomad");
            tokio::spawn(async move {
                let outcome = client.call(&deployment, &call).await;
                // Nobody listens any more only when the process ends.
                let _ = outcomes.send(Called { deployment: deployment.id, call, outcome }).await;
            });
        }
    }

    /// A call has ended.
    pub(super) fn call_ended(&mut self, called: Called) {
        let Called { deployment, call, outcome } = called;
        tracing::info!(deployment, ?call, ?outcome, "nomad answers");
        self.step_deployment(&deployment, Some((call, outcome)), None);
    }

    fn direct(&mut self, of_job: &BTreeMap<Group, Vec<Key>>, group: &str, direction: Direction) {
        for (group, _) in of_job.iter().filter(|((_, name), _)| name == group) {
            let Some(deployments) = &mut self.deployments else { return };
            deployments.directions.insert(group.clone(), direction);
        }
        self.each(of_job, group, |weighing| weighing.direct(direction));
    }

    /// Does something to each judged service of a group, and steps it.
    fn each(&mut self, of_job: &BTreeMap<Group, Vec<Key>>, group: &str, does: impl Fn(&mut Weighing)) {
        let time = self.time();
        let keys: Vec<Key> = of_job.iter().filter(|((_, name), _)| name == group).flat_map(|(_, keys)| keys.clone()).collect();
        for key in keys {
            let Some(weighing) = self.weighings.get_mut(&key).filter(|weighing| weighing.is_judged()) else { continue };
            does(weighing);
            let to_do = weighing.step(time, None);
            self.carry_out(&key, to_do);
        }
    }

    fn set_drained(&mut self, allocation: String, is_drained: bool) {
        let Some(deployments) = &mut self.deployments else { return };
        if is_drained {
            deployments.drained.insert(allocation);
        } else {
            deployments.drained.remove(&allocation);
        }
        self.close_servers();
    }

    /// Closes the servers whose allocations are told to stop, or are to be; opens those again that are no longer.
    pub(super) fn close_servers(&mut self) {
        let Some(deployments) = &mut self.deployments else { return };
        let placements = &deployments.placements;
        deployments.drained.retain(|allocation| placements.contains_key(allocation));
        // Where nothing shows how a connection fares, as with raw TCP, a canary waits until another service has shown that it is good.
        let mut judged: BTreeMap<(&JobKey, &str), bool> = BTreeMap::new();
        for weighing in self.weighings.values().filter(|weighing| weighing.is_judged()) {
            for placement in weighing.endpoints().iter().filter_map(|endpoint| placement_in(placements, endpoint)) {
                *judged.entry((&placement.job, &placement.group)).or_insert(true) &= weighing.has_passed();
            }
        }
        let waits = |placement: &Placement| {
            placement.track == Track::Canary && judged.get(&(&placement.job, placement.group.as_str())) == Some(&false)
        };
        let mut closed = BTreeSet::new();
        for (key, weighing) in &self.weighings {
            for member in weighing.service().arms().members() {
                let Some(instance) = member.server.instance.as_deref() else { continue };
                let Some(allocation) = allocation_of(instance) else { continue };
                let is_stopping = placements.get(allocation).is_some_and(|placement| placement.is_stopping);
                let entry = (key.clone(), instance.to_owned());
                let wanted = if is_stopping || deployments.drained.contains(allocation) {
                    Draining::Closed
                } else if !weighing.is_judged() && placements.get(allocation).is_some_and(waits) {
                    Draining::Spared
                } else {
                    Draining::No
                };
                if wanted != Draining::No {
                    member.server.set_draining(wanted);
                    closed.insert(entry);
                } else if deployments.closed.contains(&entry) {
                    member.server.set_draining(Draining::No);
                }
            }
        }
        deployments.closed = closed;
    }

    /// Asks the canaries that are about to be promoted whether they answer now.
    fn ask_canaries(&mut self) {
        let time = self.time();
        let Some(deployments) = &mut self.deployments else { return };
        // Before it passed its judgement asks it; from then on, and when a person wants it promoted, we do.
        let (is_judged, is_going) = (|phase: &str| phase == "judge", |phase: &str| matches!(phase, "drain" | "promote"));
        let jobs: BTreeMap<JobKey, bool> = deployments
            .deploys
            .iter()
            .filter(|deploy| is_judged(deploy.phase().name()) || is_going(deploy.phase().name()))
            .map(|deploy| (deploy.job().clone(), is_going(deploy.phase().name())))
            .collect();
        if jobs.is_empty() || time.since_start.saturating_sub(deployments.asked_at) < ASKED_EVERY {
            return;
        }
        deployments.asked_at = time.since_start;
        for ((job, _), keys) in self.groups() {
            let Some(is_going) = jobs.get(&job).copied() else { continue };
            for key in keys {
                let weighing = self.weighings.get(&key).filter(|weighing| weighing.is_judged());
                let probes = weighing.filter(|weighing| is_going || weighing.has_passed()).map(Weighing::probes);
                for probe in probes.unwrap_or_default() {
                    self.probe(&key, probe);
                }
            }
        }
    }

    fn end_deployment(&mut self, id: &str, of_job: &BTreeMap<Group, Vec<Key>>, outcome: &Outcome) {
        let names: BTreeSet<String> = of_job.keys().map(|(_, group)| group.clone()).collect();
        for group in names {
            self.direct(of_job, &group, Direction::Judge);
        }
        if let Some(deployments) = &mut self.deployments {
            deployments.directions.retain(|group, _| !of_job.contains_key(group));
            deployments.waiting.remove(id);
        }
        self.watch_promotion(id, of_job);
        self.say_deployment(id, of_job, format!("the deployment has ended: {outcome}"), Some(outcome));
    }

    /// One log line, and one event of each service that it concerns.
    fn say_deployment(&mut self, id: &str, of_job: &BTreeMap<Group, Vec<Key>>, sentence: String, outcome: Option<&Outcome>) {
        let Some(deploy) = self.deployments.as_ref().and_then(|all| all.deploys.get(id)) else { return };
        let (job, version) = (deploy.job().to_string(), format!("v{}", deploy.version()));
        tracing::info!(job, version, deployment = id, "{sentence}");
        let report = serde_json::to_value(deploy.report()).unwrap_or_default();
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        let news = News { version, kind: "deployment", sentence, outcome: outcome.map(how) };
        let names: BTreeSet<_> = of_job.values().flatten().filter(|key| key.0 == Layer::Http).map(|key| key.1.clone()).collect();
        for name in names {
            self.chronicle.note(moment, &name, Some(&job), std::slice::from_ref(&news), &report);
        }
    }

    /// A person's word to the deployment of a job; none when there is none that is open.
    pub(super) fn order_job(&mut self, job: &JobKey, order: Order) -> Option<Vec<String>> {
        let deploy = self.deployments.as_ref()?.deploys.of_job(job).filter(|deploy| !deploy.is_over())?;
        let id = deploy.id().to_owned();
        Some(self.step_deployment(&id, None, Some(order)))
    }

    /// The job whose instances serve a service.
    pub(super) fn job_key_of(&self, key: &Key) -> Option<JobKey> {
        let deployments = self.deployments.as_ref()?;
        let endpoints = self.weighings.get(key)?.endpoints();
        endpoints.iter().find_map(|endpoint| deployments.placement(endpoint)).map(|placement| placement.job.clone())
    }
}

fn placement_in<'p>(placements: &'p BTreeMap<String, Placement>, endpoint: &Endpoint) -> Option<&'p Placement> {
    placements.get(allocation_of(endpoint.instance.as_deref()?)?)
}

fn direction(steering: Steering) -> Direction {
    match steering {
        Steering::Withhold => Direction::Withhold,
        Steering::Judge => Direction::Judge,
        Steering::AllToCanary => Direction::AllToCanary,
    }
}

/// As those who wait for a rollout know it.
fn how(outcome: &Outcome) -> rollout::Outcome {
    match outcome {
        Outcome::Promoted { .. } | Outcome::Unjudged => rollout::Outcome::Promoted,
        Outcome::Failed { .. } => rollout::Outcome::Failed,
        _ => rollout::Outcome::Gone,
    }
}
