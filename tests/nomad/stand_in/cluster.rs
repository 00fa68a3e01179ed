//! What the stand-in holds and how it schedules: jobs by version, deployments, allocations, and the lines of the event stream.
//!
//! Only what a recorded Nomad did is played. Nothing here waits: a client's reports (running, healthy, failed, complete)
//! and the passing of deadlines are calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tidegate::clock;
use tidegate::orchestrator::JobKey;

use super::scheduler::{LOST, MIGRATED, NOT_NEEDED, Plan};
use super::shape;

/// So many lines are kept for streams that begin in the past, as Nomad does it.
const LINES_MAX: usize = 100;

/// A group of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub count: u32,
    pub canary: u32,
    /// What runs: a change replaces instances.
    pub content: String,
    /// What is only said of it: a change is made in place.
    pub tags: String,
    pub max_parallel: usize,
    pub auto_revert: bool,
    pub auto_promote: bool,
    pub progress_deadline: Duration,
}

impl Group {
    /// One instance, one canary, as cljdoc has it.
    pub fn new(content: &str) -> Self {
        Self {
            count: 1,
            canary: 1,
            content: content.to_owned(),
            tags: String::new(),
            max_parallel: 1,
            auto_revert: false,
            auto_promote: false,
            progress_deadline: Duration::from_secs(600),
        }
    }
}

/// A job as it is submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub namespace: String,
    pub job: String,
    /// `service` and so on.
    pub kind: String,
    pub groups: BTreeMap<String, Group>,
}

impl Spec {
    /// A job `cljdoc` with a group of that name.
    pub fn cljdoc(group: Group) -> Self {
        let groups = BTreeMap::from([("cljdoc".to_owned(), group)]);
        Self { namespace: "default".to_owned(), job: "cljdoc".to_owned(), kind: "service".to_owned(), groups }
    }

    pub fn with(mut self, name: &str, group: Group) -> Self {
        self.groups.insert(name.to_owned(), group);
        self
    }

    pub fn key(&self) -> JobKey {
        JobKey { namespace: self.namespace.clone(), job: self.job.clone() }
    }
}

/// What a client's node is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Start it; then report it running, and healthy.
    Start(Task),
    /// It goes on running, with other tags.
    Update(Task),
    /// Stop it; then report it complete.
    Stop { allocation: String },
}

/// What runs as one allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub allocation: String,
    pub name: String,
    pub job: JobKey,
    pub group: String,
    pub version: u64,
    pub content: String,
    pub tags: String,
    pub is_canary: bool,
}

pub struct Job {
    pub spec: Spec,
    /// By number.
    pub versions: Vec<Spec>,
    pub is_stopped: bool,
    pub status: &'static str,
    pub create_index: u64,
    pub job_modify_index: u64,
    pub modify_index: u64,
}

impl Job {
    pub fn version(&self) -> u64 {
        self.versions.len() as u64 - 1
    }
}

#[derive(Clone)]
pub struct Deployment {
    pub id: String,
    pub key: JobKey,
    pub version: u64,
    pub status: &'static str,
    pub description: String,
    pub groups: BTreeMap<String, DeploymentGroup>,
    pub job_create_index: u64,
    pub job_modify_index: u64,
    pub create_index: u64,
    pub modify_index: u64,
    pub create_time: SystemTime,
}

impl Deployment {
    pub fn is_active(&self) -> bool {
        matches!(self.status, "running" | "paused")
    }

    pub fn is_promoted(&self) -> bool {
        self.groups.values().all(|group| group.desired_canaries == 0 || group.promoted)
    }
}

#[derive(Clone)]
pub struct DeploymentGroup {
    pub auto_revert: bool,
    pub auto_promote: bool,
    pub promoted: bool,
    pub canaries: Vec<String>,
    pub desired_canaries: u32,
    pub desired_total: u32,
    pub placed: u32,
    pub healthy: u32,
    pub unhealthy: u32,
    pub progress_deadline: Duration,
    pub require_progress_by: SystemTime,
}

#[derive(Clone)]
pub struct Allocation {
    pub id: String,
    pub name: String,
    pub key: JobKey,
    pub group: String,
    pub version: u64,
    pub content: String,
    pub tags: String,
    pub deployment: Option<String>,
    pub desired: &'static str,
    pub desired_description: &'static str,
    pub client: &'static str,
    /// `DeploymentStatus`: canary, healthy, and the index of its last change.
    pub health: Option<(bool, Option<bool>, u64)>,
    /// Its client has written of it.
    pub is_reported: bool,
    /// It was asked to move.
    pub is_asked: bool,
    pub next: Option<String>,
    pub previous: Option<String>,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Allocation {
    pub fn is_live(&self) -> bool {
        self.desired == "run" && matches!(self.client, "pending" | "running")
    }

    pub fn is_canary(&self) -> bool {
        self.health.is_some_and(|(is_canary, ..)| is_canary)
    }

    pub fn number(&self) -> u32 {
        self.name.rsplit_once('[').and_then(|(_, rest)| rest.strip_suffix(']')?.parse().ok()).unwrap_or_default()
    }

    pub fn task(&self) -> Task {
        Task {
            allocation: self.id.clone(),
            name: self.name.clone(),
            job: self.key.clone(),
            group: self.group.clone(),
            version: self.version,
            content: self.content.clone(),
            tags: self.tags.clone(),
            is_canary: self.is_canary(),
        }
    }
}

/// An answer to a call that is refused: Nomad's text, under status 500.
pub type Refused = String;

#[derive(Default)]
pub struct Cluster {
    pub index: u64,
    /// The last changes of jobs, allocations and deployments.
    pub tables: [u64; 3],
    pub jobs: BTreeMap<JobKey, Job>,
    pub deployments: BTreeMap<String, Deployment>,
    pub allocations: BTreeMap<String, Allocation>,
    /// Index and events; the first has the number `first_line`.
    pub lines: VecDeque<(u64, Vec<Value>)>,
    pub first_line: usize,
    /// Not taken by the node yet.
    pub orders: VecDeque<Order>,
}

/// What somebody does to the cluster.
impl Cluster {
    /// Registers a job or a new version of it.
    pub fn submit(&mut self, spec: Spec) -> u64 {
        let key = spec.key();
        let index = self.index + 1;
        let job = self.jobs.entry(key.clone()).or_insert_with(|| Job {
            spec: spec.clone(),
            versions: Vec::new(),
            is_stopped: false,
            status: "pending",
            create_index: index,
            job_modify_index: index,
            modify_index: index,
        });
        job.versions.push(spec.clone());
        (job.spec, job.is_stopped, job.status, job.job_modify_index) = (spec, false, "running", index);
        self.commit("JobRegistered", &Plan { with_job: true, ..Plan::default() }, &key);
        self.evaluate(&key);
        index
    }

    /// Stops a job.
    pub fn deregister(&mut self, key: &JobKey) -> Option<u64> {
        let index = self.index + 1;
        let job = self.jobs.get_mut(key)?;
        job.versions.push(job.spec.clone());
        (job.is_stopped, job.job_modify_index) = (true, index);
        self.commit("JobDeregistered", &Plan { with_job: true, ..Plan::default() }, key);
        self.evaluate(key);
        Some(index)
    }

    /// Removes a job: its deployments are gone, its allocations stop, and no event but the job's own says so.
    pub fn purge(&mut self, key: &JobKey) -> Option<u64> {
        let job = self.jobs.remove(key)?;
        self.index += 1;
        let event = shape::event(self.index, "Job", "JobDeregistered", key, &key.job, &[], shape::job(key, &job));
        self.push_line(vec![event]);
        self.tables = [self.index; 3];
        self.deployments.retain(|_, deployment| deployment.key != *key);
        let stopped = self.allocations.values().filter(|allocation| allocation.key == *key && allocation.is_live());
        for id in stopped.map(|allocation| allocation.id.clone()).collect::<Vec<_>>() {
            let index = self.index + 1;
            self.stop(&id, NOT_NEEDED);
            self.allocation(&id).modify_index = index;
        }
        self.index += 1;
        Some(self.index - 1)
    }

    pub fn pause(&mut self, id: &str, is_pause: bool) -> Result<u64, Refused> {
        let verb = if is_pause { "pause" } else { "resume" };
        let deployment = self.open_deployment(id, verb)?;
        (deployment.status, deployment.description) = if is_pause {
            ("paused", "Deployment is paused".to_owned())
        } else {
            ("running", "Deployment is running".to_owned())
        };
        let key = deployment.key.clone();
        let index = self.commit_deployment("DeploymentStatusUpdate", id);
        if !is_pause {
            self.evaluate(&key);
        }
        Ok(index)
    }

    /// `groups` is `None` for all of them.
    pub fn promote(&mut self, id: &str, groups: Option<&[String]>) -> Result<u64, Refused> {
        let deployment = self.open_deployment(id, "promote")?.clone();
        let is_meant = |name: &String| groups.is_none_or(|groups| groups.contains(name));
        let mut unhealthy = Vec::new();
        let mut promoted = Vec::new();
        for (name, group) in deployment.groups.iter().filter(|(name, _)| is_meant(name)) {
            let canaries = group.canaries.iter().filter_map(|id| self.allocations.get(id));
            let canaries: Vec<&Allocation> = canaries.filter(|canary| canary.is_live() && canary.is_canary()).collect();
            let healthy = canaries.iter().filter(|canary| canary.health.is_some_and(|(_, healthy, _)| healthy == Some(true)));
            let healthy = healthy.count();
            if !group.promoted && healthy < group.desired_canaries as usize {
                let wanted = group.desired_canaries;
                unhealthy.push(format!("\t* Task group {name:?} has {healthy}/{wanted} healthy allocations\n"));
            }
            promoted.extend(canaries.iter().map(|canary| canary.id.clone()));
        }
        if !unhealthy.is_empty() {
            let errors = if unhealthy.len() == 1 { "error" } else { "errors" };
            return Err(format!("{} {errors} occurred:\n{}\n", unhealthy.len(), unhealthy.concat()));
        }
        let deployment = self.deployment(id);
        for (_, group) in deployment.groups.iter_mut().filter(|(name, _)| is_meant(name)) {
            group.promoted = true;
            group.require_progress_by = clock::wall() + group.progress_deadline;
        }
        if deployment.status == "running" && deployment.is_promoted() {
            "Deployment is running".clone_into(&mut deployment.description);
        }
        let key = deployment.key.clone();
        let index = self.index + 1;
        for id in &promoted {
            let allocation = self.allocation(id);
            allocation.health = allocation.health.map(|(_, healthy, _)| (false, healthy, index));
        }
        let plan = Plan { deployments: BTreeSet::from([id.to_owned()]), updated: promoted, ..Plan::default() };
        self.commit("DeploymentPromotion", &plan, &key);
        self.evaluate(&key);
        Ok(index)
    }

    /// The index, and the version that is brought back if the deployment asks for that.
    pub fn fail(&mut self, id: &str) -> Result<(u64, Option<u64>), Refused> {
        self.open_deployment(id, "fail")?;
        Ok(self.end_failed(id, "Deployment marked as failed"))
    }

    /// The time is over for a deployment that has not come far enough.
    pub fn pass_deadline(&mut self, id: &str) {
        let deployment = self.deployment(id);
        let is_short = deployment.groups.values().any(|group| {
            let wanted = if group.promoted || group.desired_canaries == 0 { group.desired_total } else { group.desired_canaries };
            group.healthy < wanted
        });
        if deployment.is_active() && is_short {
            self.end_failed(id, "Failed due to progress deadline");
        }
    }

    pub fn revert(&mut self, key: &JobKey, to: u64, enforced: Option<u64>) -> Result<u64, Refused> {
        let Some(job) = self.jobs.get(key) else { return Err(format!("job {:?} not found", key.job)) };
        let current = job.version();
        if let Some(enforced) = enforced.filter(|enforced| *enforced != current) {
            return Err(format!("Current job has version {current}; enforcing version {enforced}"));
        }
        if to == current {
            return Err("can't revert to current version".to_owned());
        }
        let Some(spec) = job.versions.get(to as usize).cloned() else {
            return Err(format!("job {:?} in namespace {:?} at version {to} not found", key.job, key.namespace));
        };
        Ok(self.submit(spec))
    }

    /// Asks an allocation to stop (or drains its node): it is replaced, unless it is a canary whose deployment is paused.
    pub fn stop_allocation(&mut self, id: &str) -> Option<u64> {
        let allocation = self.allocations.get_mut(id)?;
        allocation.is_asked = true;
        let key = allocation.key.clone();
        let index = self.commit_allocation("AllocationUpdateDesiredStatus", id);
        let mut plan = Plan::default();
        self.stop(id, MIGRATED);
        plan.stopped.push(id.to_owned());
        self.replace(id, &mut plan);
        self.commit("PlanResult", &plan, &key);
        Some(index)
    }

    /// Its node does not answer any more.
    pub fn lose(&mut self, id: &str) {
        let allocation = self.allocation(id);
        (allocation.desired, allocation.client, allocation.desired_description) = ("stop", "lost", LOST);
        let key = allocation.key.clone();
        let mut plan = Plan { stopped: vec![id.to_owned()], ..Plan::default() };
        self.replace(id, &mut plan);
        self.commit("PlanResult", &plan, &key);
    }

    /// One that failed is given another go, after its delay.
    pub fn reschedule(&mut self, id: &str) {
        let old = self.allocation(id).clone();
        let mut plan = Plan::default();
        let new = self.place_like(&old, &mut plan);
        self.allocation(&new).previous = Some(old.id.clone());
        let allocation = self.allocation(id);
        (allocation.desired, allocation.next) = ("stop", Some(new));
        plan.stopped.push(id.to_owned());
        self.commit("PlanResult", &plan, &old.key);
    }
}

/// What a client's node reports.
impl Cluster {
    pub fn running(&mut self, id: &str) {
        self.report(id, "running");
    }

    /// Its checks have passed for long enough.
    pub fn healthy(&mut self, id: &str) {
        self.judge(id, true);
    }

    /// It has ended with an error; if it was not healthy yet, it never will be.
    pub fn failed(&mut self, id: &str) {
        let allocation = self.allocation(id);
        let is_judged = allocation.health.is_some_and(|(_, healthy, _)| healthy.is_some());
        allocation.client = "failed";
        allocation.is_reported = true;
        if is_judged || allocation.deployment.is_none() {
            self.commit_allocation("AllocationUpdated", id);
        } else {
            self.judge(id, false);
        }
    }

    /// It has ended because it was told to.
    pub fn complete(&mut self, id: &str) {
        self.report(id, "complete");
    }

    fn report(&mut self, id: &str, client: &'static str) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        (allocation.client, allocation.is_reported) = (client, true);
        if self.jobs.contains_key(&self.allocations[id].key) {
            self.commit_allocation("AllocationUpdated", id);
        }
    }

    fn judge(&mut self, id: &str, is_healthy: bool) {
        let index = self.index + 1;
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        allocation.health = Some((allocation.is_canary(), Some(is_healthy), index));
        let (key, group, deployment) = (allocation.key.clone(), allocation.group.clone(), allocation.deployment.clone());
        let mut plan = Plan { updated: vec![id.to_owned()], ..Plan::default() };
        let known = deployment.and_then(|id| self.deployments.get_mut(&id));
        if let Some(deployment) = known
            && let Some(group) = deployment.groups.get_mut(&group)
        {
            plan.deployments.insert(deployment.id.clone());
            if is_healthy {
                group.healthy += 1;
                group.require_progress_by = clock::wall() + group.progress_deadline;
            } else {
                group.unhealthy += 1;
            }
        }
        self.commit("AllocationUpdated", &plan, &key);
        self.evaluate(&key);
        for id in plan.deployments {
            self.promote_by_itself(&id);
        }
    }

    /// A pause holds it, and a resume does not bring it back: only news of health leads to it.
    fn promote_by_itself(&mut self, id: &str) {
        let Some(deployment) = self.deployments.get(id) else { return };
        let wants = deployment.groups.values().any(|group| group.auto_promote && group.desired_canaries > 0 && !group.promoted);
        if wants && deployment.status == "running" {
            // Refused as long as not all are healthy.
            _ = self.promote(id, None);
        }
    }
}

/// The index, and who is told.
impl Cluster {
    pub fn deployment(&mut self, id: &str) -> &mut Deployment {
        self.deployments.get_mut(id).expect("a known deployment")
    }

    pub fn allocation(&mut self, id: &str) -> &mut Allocation {
        self.allocations.get_mut(id).expect("a known allocation")
    }

    fn open_deployment(&mut self, id: &str, verb: &str) -> Result<&mut Deployment, Refused> {
        match self.deployments.get_mut(id) {
            None => Err("deployment not found".to_owned()),
            Some(deployment) if !deployment.is_active() => Err(format!("can't {verb} terminal deployment")),
            Some(deployment) => Ok(deployment),
        }
    }

    pub fn commit_deployment(&mut self, kind: &str, id: &str) -> u64 {
        let key = self.deployments[id].key.clone();
        self.commit(kind, &Plan { deployments: BTreeSet::from([id.to_owned()]), ..Plan::default() }, &key)
    }

    fn commit_allocation(&mut self, kind: &str, id: &str) -> u64 {
        let key = self.allocations[id].key.clone();
        self.commit(kind, &Plan { updated: vec![id.to_owned()], ..Plan::default() }, &key)
    }

    /// Writes the plan down under the next index and tells the streams.
    pub fn commit(&mut self, kind: &str, plan: &Plan, key: &JobKey) -> u64 {
        self.index += 1;
        let index = self.index;
        let mut events = Vec::new();
        for id in &plan.deployments {
            let deployment = self.deployment(id);
            deployment.modify_index = index;
            events.push(shape::event(index, "Deployment", kind, key, id, &[&key.job], shape::deployment(deployment)));
            self.tables[2] = index;
        }
        for id in plan.placed.iter().chain(&plan.updated).chain(&plan.stopped) {
            let allocation = self.allocation(id);
            allocation.modify_index = index;
            let allocation = allocation.clone();
            let filter = [key.job.as_str(), allocation.deployment.as_deref().unwrap_or_default()];
            events.push(shape::event(index, "Allocation", kind, key, id, &filter, shape::allocation_event(&allocation)));
            self.tables[1] = index;
        }
        if plan.with_job
            && let Some(job) = self.jobs.get_mut(key)
        {
            job.modify_index = index;
            events.push(shape::event(index, "Job", kind, key, &key.job, &[], shape::job(key, job)));
            self.tables[0] = index;
        }
        self.push_line(events);
        index
    }

    fn push_line(&mut self, events: Vec<Value>) {
        self.lines.push_back((self.index, events));
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
            self.first_line += 1;
        }
    }
}
