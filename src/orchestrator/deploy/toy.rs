//! A Nomad small enough to reason about: one job, as far as deployments of a real 1.11.1 were seen to go.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Action, Deploy, Deploys, GroupSeen, Order, Situation, Verdict};
use crate::config::install::{AtMaxHold, Mode};
use crate::orchestrator::{
    Allocation, Call, CallOutcome, ClientStatus, Deployment, DeploymentGroup, DeploymentStatus, Desired, Job, JobKey, View,
};

/// One job at Nomad.
#[derive(Clone)]
pub struct Toy {
    pub view: View,
    allocations: u32,
    deployments: u32,
    /// Versions that were promoted, by deployment and group: nobody may do it twice.
    pub promotions: Vec<String>,
}

pub fn key() -> JobKey {
    JobKey { namespace: "default".to_owned(), job: "site".to_owned() }
}

impl Toy {
    /// A job that runs as many instances of each group.
    pub fn new(groups: &[(&str, u32)]) -> Self {
        let mut toy = Self { view: View::default(), allocations: 0, deployments: 0, promotions: Vec::new() };
        toy.view.jobs.insert(key(), Job { kind: "service".to_owned(), version: 0, is_stopped: false });
        for (group, count) in groups {
            for number in 0..*count {
                let id = toy.place(group, number, 0, None);
                toy.allocation(&id).client = ClientStatus::Running;
            }
        }
        toy.touch(None);
        toy
    }

    fn touch(&mut self, id: Option<&str>) -> u64 {
        self.view.index += 1;
        if let Some(deployment) = id.and_then(|id| self.view.deployments.get_mut(id)) {
            deployment.modify_index = self.view.index;
        }
        self.view.index
    }

    fn place(&mut self, group: &str, number: u32, version: u64, deployment: Option<&str>) -> String {
        self.allocations += 1;
        let id = format!("a{}", self.allocations);
        let allocation = Allocation {
            id: id.clone(),
            name: format!("site.{group}[{number}]"),
            job: key(),
            group: group.to_owned(),
            job_version: Some(version),
            deployment: deployment.map(str::to_owned),
            desired: Desired::Run,
            client: ClientStatus::Pending,
            healthy: None,
            is_canary: false,
            modify_index: self.view.index,
            next: None,
        };
        self.view.allocations.insert(id.clone(), allocation);
        id
    }

    pub fn allocation(&mut self, id: &str) -> &mut Allocation {
        self.view.allocations.get_mut(id).unwrap()
    }

    /// A new version of the job: a deployment that wants as many canaries and instances of each group. The one before is
    /// cancelled, its canaries are stopped.
    pub fn submit(&mut self, groups: &[(&str, u32, u32)]) -> String {
        let active: Vec<String> =
            self.view.deployments.values().filter(|it| !it.status.is_terminal()).map(|it| it.id.clone()).collect();
        for id in active {
            self.end(&id, DeploymentStatus::Cancelled, "Cancelled due to newer version of job");
            self.stop_canaries(&id);
        }
        let job = self.view.jobs.get_mut(&key()).unwrap();
        job.version += 1;
        let job_version = job.version;
        self.deployments += 1;
        let id = format!("d{}", self.deployments);
        let groups = groups.iter().map(|(name, canaries, total)| {
            let group = DeploymentGroup { desired_canaries: *canaries, desired_total: *total, ..DeploymentGroup::default() };
            ((*name).to_owned(), group)
        });
        let deployment = Deployment {
            id: id.clone(),
            job: key(),
            job_version,
            is_multiregion: false,
            status: DeploymentStatus::Running,
            description: "Deployment is running".to_owned(),
            groups: groups.collect(),
            modify_index: 0,
        };
        self.view.deployments.insert(id.clone(), deployment);
        self.reconcile(&id);
        self.touch(Some(&id));
        id
    }

    /// Places the canaries that are missing. A running deployment does it by itself.
    fn reconcile(&mut self, id: &str) {
        let deployment = self.view.deployments[id].clone();
        for (name, group) in deployment.groups.iter().filter(|(_, group)| !group.promoted) {
            let is_kept = |id: &&String| {
                let it = &self.view.allocations[*id];
                // One that failed by itself is never replaced.
                it.is_wanted() || it.desired == Desired::Run && it.client == ClientStatus::Failed && it.healthy == Some(true)
            };
            let kept: Vec<&String> = group.placed_canaries.iter().filter(is_kept).collect();
            let names: Vec<String> = kept.iter().map(|id| self.view.allocations[*id].name.clone()).collect();
            let free = (0..group.desired_canaries).filter(|number| !names.contains(&format!("site.{name}[{number}]")));
            for number in free.collect::<Vec<_>>() {
                let canary = self.place(name, number, deployment.job_version, Some(id));
                self.allocation(&canary).is_canary = true;
                self.group(id, name).placed_canaries.push(canary);
            }
        }
    }

    pub fn group(&mut self, id: &str, name: &str) -> &mut DeploymentGroup {
        self.view.deployments.get_mut(id).unwrap().groups.get_mut(name).unwrap()
    }

    pub fn status(&self, id: &str) -> &DeploymentStatus {
        &self.view.deployments[id].status
    }

    fn end(&mut self, id: &str, status: DeploymentStatus, description: &str) {
        let deployment = self.view.deployments.get_mut(id).unwrap();
        deployment.status = status;
        deployment.description = description.to_owned();
        self.touch(Some(id));
    }

    fn stop_canaries(&mut self, id: &str) {
        let groups = self.view.deployments[id].groups.clone();
        for canary in groups.values().filter(|group| !group.promoted).flat_map(|group| &group.placed_canaries) {
            self.allocation(canary).desired = Desired::Stop;
        }
    }

    /// Every canary that is pending runs and is called healthy.
    pub fn come_up(&mut self, id: &str) {
        let groups = self.view.deployments[id].groups.clone();
        for (name, group) in &groups {
            for canary in &group.placed_canaries {
                let allocation = self.allocation(canary);
                if allocation.is_wanted() {
                    allocation.client = ClientStatus::Running;
                    allocation.healthy = Some(true);
                }
            }
            self.group(id, name).healthy = group.desired_canaries;
        }
        self.touch(Some(id));
    }

    pub fn stop(&mut self, allocation: &str) {
        self.allocation(allocation).desired = Desired::Stop;
        self.touch(None);
        self.react();
    }

    pub fn dies(&mut self, allocation: &str, client: ClientStatus) {
        self.allocation(allocation).client = client;
        self.touch(None);
        self.react();
    }

    /// What running deployments do by themselves.
    pub fn react(&mut self) {
        let running = |it: &&Deployment| it.status == DeploymentStatus::Running;
        let ids: Vec<String> = self.view.deployments.values().filter(running).map(|it| it.id.clone()).collect();
        for id in ids {
            self.reconcile(&id);
            self.roll(&id);
        }
    }

    /// A promoted group: one old instance goes, a new one comes, until all are new.
    fn roll(&mut self, id: &str) {
        let deployment = self.view.deployments[id].clone();
        for name in deployment.groups.iter().filter(|(_, group)| group.promoted).map(|(name, _)| name) {
            let old = self.olds(name, deployment.job_version).into_iter().next();
            let total = deployment.groups[name].desired_total as usize;
            if let Some(old) = old {
                self.allocation(&old).desired = Desired::Stop;
            }
            if self.wanted(name).len() < total {
                let new = self.place(name, 9, deployment.job_version, Some(id));
                self.allocation(&new).client = ClientStatus::Running;
            }
        }
        let done = |(name, group): (&String, &DeploymentGroup)| {
            (group.promoted || group.desired_canaries == 0) && self.olds(name, deployment.job_version).is_empty()
        };
        if deployment.groups.iter().all(done) {
            self.end(id, DeploymentStatus::Successful, "Deployment completed successfully");
        }
        self.touch(Some(id));
    }

    fn wanted(&self, group: &str) -> Vec<String> {
        let of_group = |it: &&Allocation| it.group == group && it.is_wanted();
        self.view.allocations.values().filter(of_group).map(|it| it.id.clone()).collect()
    }

    pub fn olds(&self, group: &str, version: u64) -> Vec<String> {
        let is_old = |id: &String| self.view.allocations[id].job_version != Some(version);
        self.wanted(group).into_iter().filter(is_old).collect()
    }

    /// Carries a call out, and answers as Nomad does.
    pub fn post(&mut self, id: &str, call: &Call) -> CallOutcome {
        let refused = |message: &str| CallOutcome::Refused { status: 500, message: message.to_owned() };
        let Some(deployment) = self.view.deployments.get(id).cloned() else { return refused("deployment not found") };
        if deployment.status.is_terminal() && !matches!(call, Call::Revert { .. }) {
            return refused("can't change terminal deployment");
        }
        match call {
            Call::Pause => self.view.deployments.get_mut(id).unwrap().status = DeploymentStatus::Paused,
            Call::Resume => {
                self.view.deployments.get_mut(id).unwrap().status = DeploymentStatus::Running;
                self.react();
            }
            Call::Promote { groups } => {
                for name in groups {
                    let Some(group) = deployment.groups.get(name) else { continue };
                    let healthy = |id: &&String| {
                        let canary = &self.view.allocations[*id];
                        canary.is_wanted() && canary.healthy == Some(true)
                    };
                    if group.placed_canaries.iter().filter(healthy).count() < group.desired_canaries as usize {
                        return refused(&format!("Task group \"{name}\" has 0/1 healthy allocations"));
                    }
                }
                groups.iter().for_each(|name| self.promote(id, name));
                if deployment.status == DeploymentStatus::Running {
                    self.react();
                }
            }
            Call::Fail => {
                self.end(id, DeploymentStatus::Failed, "Deployment marked as failed");
                self.stop_canaries(id);
            }
            Call::Revert { .. } => {
                self.view.jobs.get_mut(&key()).unwrap().version += 1;
            }
            Call::Stop { allocation } => self.stop(allocation),
        }
        CallOutcome::Accepted { index: self.touch(Some(id)) }
    }

    fn promote(&mut self, id: &str, name: &str) {
        let version = self.view.deployments[id].job_version;
        self.promotions.push(format!("{id}/{name}"));
        let group = self.group(id, name);
        group.promoted = true;
        let (canaries, total) = (group.placed_canaries.clone(), group.desired_total as usize);
        for canary in &canaries {
            self.allocation(canary).is_canary = false;
        }
        for old in self.olds(name, version) {
            let is_namesake = |it: &&String| self.view.allocations[*it].name == self.view.allocations[&old].name;
            let namesake = canaries.iter().filter(|it| self.view.allocations[*it].is_wanted()).any(|it| is_namesake(&it));
            if self.wanted(name).len() > total && (namesake || canaries.len() >= total) {
                self.allocation(&old).desired = Desired::Stop;
            }
        }
        let version_is_all = self.view.deployments[id]
            .groups
            .iter()
            .all(|(name, group)| (group.promoted || group.desired_canaries == 0) && self.olds(name, version).is_empty());
        if version_is_all {
            self.end(id, DeploymentStatus::Successful, "Deployment completed successfully");
        }
    }
}

/// One deployment of a job, watched by a proxy.
pub struct Scene {
    pub toy: Toy,
    pub deploys: Deploys,
    pub id: String,
    pub seen: BTreeMap<String, GroupSeen>,
    pub now: Duration,
    /// How far the wall clock is off.
    pub wall_jump: Duration,
    pub mode: Mode,
    pub at_max_hold: AtMaxHold,
    pub reverts: bool,
    pub can_write: bool,
    pub is_current: bool,
    /// What Nomad answers instead of doing what it is asked.
    pub answers: Vec<CallOutcome>,
    /// Calls are carried out, but nothing comes back.
    pub is_mute: bool,
    /// Calls are carried out, and their answers get lost.
    pub is_lost: bool,
    pub said: Vec<String>,
    /// The view that is shown in place of Nomad's newest.
    pub shown: Option<View>,
}

impl Scene {
    /// In mode auto; each group: canaries, instances before, instances wanted.
    pub fn new(groups: &[(&str, u32, u32, u32)]) -> Self {
        let before: Vec<(&str, u32)> = groups.iter().map(|(name, _, before, _)| (*name, *before)).collect();
        let wanted: Vec<(&str, u32, u32)> = groups.iter().map(|(name, canaries, _, total)| (*name, *canaries, *total)).collect();
        let mut toy = Toy::new(&before);
        let id = toy.submit(&wanted);
        let seen = GroupSeen { verdict: Verdict::Probing, canary_answers: true, ..GroupSeen::default() };
        Self {
            toy,
            deploys: Deploys::default(),
            id,
            seen: groups.iter().map(|(name, ..)| ((*name).to_owned(), seen.clone())).collect(),
            now: Duration::from_secs(1000),
            wall_jump: Duration::ZERO,
            mode: Mode::Auto,
            at_max_hold: AtMaxHold::Release,
            reverts: false,
            can_write: true,
            is_current: true,
            answers: Vec::new(),
            is_mute: false,
            is_lost: false,
            said: Vec::new(),
            shown: None,
        }
    }

    /// One group `web`, and its canary is held and has come up.
    pub fn held(canaries: u32, before: u32, total: u32) -> Self {
        let mut scene = Self::new(&[("web", canaries, before, total)]);
        scene.pass(1);
        scene.toy.come_up("d1");
        scene.pass(1).said.clear();
        scene
    }

    pub fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.now + self.wall_jump
    }

    pub fn web(&mut self) -> &mut GroupSeen {
        self.seen.get_mut("web").unwrap()
    }

    pub fn verdict(&mut self, verdict: Verdict) -> &mut Self {
        self.web().verdict = verdict;
        self
    }

    pub fn fails(&mut self) -> &mut Self {
        self.verdict(Verdict::Failed { why: "it fails".to_owned() })
    }

    pub fn deploy(&self) -> &Deploy {
        self.deploys.get(&self.id).unwrap()
    }

    fn once(&mut self, outcome: Option<(Call, CallOutcome)>, order: Option<Order>) -> Vec<Action> {
        let situation = Situation {
            view: self.shown.as_ref().unwrap_or(&self.toy.view),
            now: self.now,
            wall: self.wall(),
            nomad_is_current: self.is_current,
            groups: &self.seen,
            mode: self.mode,
            hold_max: Duration::from_secs(3600),
            at_max_hold: self.at_max_hold,
            reverts: self.reverts,
            can_write: self.can_write,
            outcome,
            order,
        };
        if self.is_current {
            self.deploys.meet(situation.view, self.now);
        }
        self.deploys.step(&self.id, &situation)
    }

    fn step(&mut self, order: Option<Order>) {
        let (mut outcome, mut order) = (None, order);
        for _ in 0..8 {
            let actions = self.once(outcome.take(), order.take());
            for action in &actions {
                self.said.push(action.to_string());
                let Action::Call(call) = action else { continue };
                assert!(self.is_current && (self.can_write || *call == Call::Resume), "{call:?}");
                let answer = if self.answers.is_empty() { self.toy.post(&self.id, call) } else { self.answers.remove(0) };
                let unknown = CallOutcome::Unknown { error: "no answer".to_owned() };
                let answer = if self.is_lost { unknown } else { answer };
                outcome = (!self.is_mute).then(|| (call.clone(), answer));
            }
            if outcome.is_none() {
                return;
            }
        }
    }

    /// Steps twice a second.
    pub fn pass(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds * 2 {
            self.now += Duration::from_millis(500);
            self.step(None);
        }
        self
    }

    /// A step with nothing new at the same moment.
    pub fn again(&mut self) -> &mut Self {
        self.step(None);
        self
    }

    pub fn order(&mut self, order: Order) -> &mut Self {
        self.step(Some(order));
        self
    }

    /// The answers of this many seconds get lost, and what happened in them shows only afterwards.
    pub fn once_shown_late(&mut self, seconds: u64) -> &mut Self {
        self.shown = Some(self.toy.view.clone());
        self.is_lost = true;
        self.pass(seconds);
        self.is_lost = false;
        self.shown = None;
        self
    }

    /// The proxy is killed, and is back with what was on disk.
    pub fn restart(&mut self) -> &mut Self {
        let text = serde_json::to_string(&self.deploys).unwrap();
        self.deploys = serde_json::from_str(&text).unwrap();
        self
    }

    pub fn nomad_refuses(&mut self, status: u16, message: &str, times: usize) -> &mut Self {
        let refused = CallOutcome::Refused { status, message: message.to_owned() };
        self.answers = vec![refused; times];
        self
    }

    /// Compares what was done and said since the last time, each by the words it must contain.
    #[track_caller]
    pub fn check(&mut self, expected: &[&str]) -> &mut Self {
        let fits = |(said, expected): (&String, &&str)| expected.split(" .. ").all(|part| said.contains(part));
        let all = self.said.len() == expected.len() && self.said.iter().zip(expected).all(fits);
        assert!(all, "{:#?}\n{expected:#?}\n{:#?}", self.said, self.deploy().report());
        self.said.clear();
        self
    }

    /// Why nothing happens.
    #[track_caller]
    pub fn waits(&mut self, expected: &str) -> &mut Self {
        let waits = self.deploy().report().waits.unwrap_or_default();
        assert!(waits.contains(expected), "{waits}");
        self
    }

    #[track_caller]
    pub fn is(&mut self, phase: &str, status: &DeploymentStatus) -> &mut Self {
        assert_eq!((self.deploy().phase().name(), self.toy.status(&self.id)), (phase, status), "{:#?}", self.deploy().report());
        self
    }
}
