//! What the stand-in's scheduler decides: which allocations a change places, updates in place and stops.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::clock;
use tidegate::orchestrator::JobKey;

use super::cluster::{Allocation, Cluster, Deployment, DeploymentGroup, Group, Order, Spec};

/// What one index changes.
#[derive(Default)]
pub struct Plan {
    pub deployments: BTreeSet<String>,
    pub placed: Vec<String>,
    pub updated: Vec<String>,
    pub stopped: Vec<String>,
    pub with_job: bool,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.deployments.is_empty() && self.placed.is_empty() && self.updated.is_empty() && self.stopped.is_empty()
    }
}

pub const NOT_NEEDED: &str = "alloc not needed due to job update";
pub const UPDATED: &str = "alloc is being updated due to job update";
pub const MIGRATED: &str = "alloc is being migrated";
pub const LOST: &str = "alloc is lost since its node is down";

/// What the scheduler does of itself.
impl Cluster {
    pub fn evaluate(&mut self, key: &JobKey) {
        let Some(job) = self.jobs.get(key) else { return };
        let (version, spec, is_stopped) = (job.version(), job.spec.clone(), job.is_stopped);
        let mut plan = Plan::default();
        self.cancel_older(key, version, is_stopped, &mut plan);
        if is_stopped {
            self.stop_where(|allocation| allocation.key == *key && allocation.is_live(), &mut plan);
            plan.with_job = true;
            self.jobs.get_mut(key).unwrap().status = "pending";
            self.commit("PlanResult", &plan, key);
            self.jobs.get_mut(key).unwrap().status = "dead";
            self.commit("EvaluationUpdated", &Plan { with_job: true, ..Plan::default() }, key);
            return;
        }
        let given_up: BTreeSet<String> = self
            .deployments
            .values()
            .filter(|deployment| !deployment.is_active())
            .map(|deployment| deployment.id.clone())
            .collect();
        let is_unneeded = |allocation: &Allocation| {
            let is_given_up = allocation.deployment.as_ref().is_some_and(|id| given_up.contains(id));
            allocation.key == *key && allocation.desired == "run" && allocation.is_canary() && is_given_up
        };
        self.stop_where(is_unneeded, &mut plan);
        if let Some(id) = self.deployment_of(key, version, &spec) {
            for (name, group) in &spec.groups {
                self.reconcile(&id, name, group, &mut plan);
            }
            let deployment = &self.deployments[&id];
            let is_through = deployment.groups.iter().all(|(name, group)| {
                let is_rolling = self
                    .allocations
                    .values()
                    .any(|other| other.key == *key && other.group == *name && other.is_live() && other.version != version);
                let is_promoted = group.desired_canaries == 0 || group.promoted;
                is_promoted && group.healthy >= group.desired_total && !is_rolling
            });
            if is_through && plan.placed.is_empty() {
                let deployment = self.deployment(&id);
                deployment.status = "successful";
                "Deployment completed successfully".clone_into(&mut deployment.description);
                plan.deployments.insert(id);
            }
        }
        if !plan.is_empty() {
            self.commit("PlanResult", &plan, key);
        }
    }

    fn cancel_older(&mut self, key: &JobKey, version: u64, is_stopped: bool, plan: &mut Plan) {
        let older =
            self.deployments.values_mut().filter(|older| older.key == *key && older.is_active() && older.version < version);
        for older in older {
            older.status = "cancelled";
            let why = if is_stopped { "Cancelled because job is stopped" } else { "Cancelled due to newer version of job" };
            why.clone_into(&mut older.description);
            plan.deployments.insert(older.id.clone());
        }
    }

    /// The active deployment of the version in force, which is made if there was none yet.
    fn deployment_of(&mut self, key: &JobKey, version: u64, spec: &Spec) -> Option<String> {
        let known = self.deployments.values().find(|known| known.key == *key && known.version == version);
        if let Some(known) = known {
            return known.is_active().then(|| known.id.clone());
        }
        let index = self.index + 1;
        let job = &self.jobs[key];
        let groups = spec.groups.iter().map(|(name, group)| {
            let is_replaced = self.allocations.values().any(|old| {
                old.key == *key && old.group == *name && old.is_live() && !old.is_canary() && old.content != group.content
            });
            let group = DeploymentGroup {
                auto_revert: group.auto_revert,
                auto_promote: group.auto_promote,
                promoted: false,
                canaries: Vec::new(),
                desired_canaries: if is_replaced { group.canary } else { 0 },
                desired_total: group.count,
                placed: 0,
                healthy: 0,
                unhealthy: 0,
                progress_deadline: group.progress_deadline,
                require_progress_by: clock::wall() + group.progress_deadline,
            };
            (name.clone(), group)
        });
        let groups: BTreeMap<String, DeploymentGroup> = groups.collect();
        let needs_promotion = groups.values().any(|group| group.desired_canaries > 0);
        let description = match needs_promotion {
            true if spec.groups.values().any(|group| group.auto_promote) => "Deployment is running pending automatic promotion",
            true => "Deployment is running but requires manual promotion",
            false => "Deployment is running",
        };
        let deployment = Deployment {
            id: uuid(),
            key: key.clone(),
            version,
            status: "running",
            description: description.to_owned(),
            groups,
            job_create_index: job.create_index,
            job_modify_index: job.job_modify_index,
            create_index: index,
            modify_index: index,
            create_time: clock::wall(),
        };
        let id = deployment.id.clone();
        self.deployments.insert(id.clone(), deployment);
        Some(id)
    }

    fn reconcile(&mut self, id: &str, name: &str, group: &Group, plan: &mut Plan) {
        let deployment = self.deployments[id].clone();
        let stand = &deployment.groups[name];
        self.update_in_place(&deployment, name, group, plan);
        let of_group: Vec<Allocation> =
            self.allocations.values().filter(|found| found.key == deployment.key && found.group == name).cloned().collect();
        let is_canary = |allocation: &Allocation| stand.canaries.contains(&allocation.id);
        let canaries: Vec<&Allocation> = of_group.iter().filter(|found| is_canary(found) && found.desired == "run").collect();
        let mut live: Vec<&Allocation> = of_group.iter().filter(|found| found.is_live() && !is_canary(found)).collect();
        live.sort_by_key(|allocation| allocation.number());
        let awaits_promotion = stand.desired_canaries > 0 && !stand.promoted;

        let counted = live.len() + if awaits_promotion { 0 } else { canaries.len() };
        let surplus = counted.saturating_sub(group.count as usize);
        let names: BTreeSet<&str> = canaries.iter().map(|canary| canary.name.as_str()).collect();
        let mut victims: Vec<&Allocation> = live.iter().copied().filter(|old| old.version != deployment.version).collect();
        victims.sort_by_key(|old| (!names.contains(old.name.as_str()), std::cmp::Reverse(old.number())));
        let victims: BTreeSet<String> = victims.into_iter().take(surplus).map(|old| old.id.clone()).collect();
        let old: Vec<Allocation> = live
            .iter()
            .filter(|old| old.version != deployment.version && !victims.contains(&old.id))
            .map(|old| (*old).clone())
            .collect();
        let missing = (group.count as usize).saturating_sub(counted);
        let taken: BTreeSet<u32> = live.iter().chain(&canaries).map(|allocation| allocation.number()).collect();
        for victim in &victims {
            self.stop(victim, NOT_NEEDED);
            plan.stopped.push(victim.clone());
        }
        if deployment.status == "paused" {
            return;
        }
        if awaits_promotion {
            for at in canaries.len()..stand.desired_canaries as usize {
                let number = old.get(at).map_or(at as u32, Allocation::number);
                let canary = self.place(&deployment, name, group, number, true, plan);
                self.deployment(id).groups.get_mut(name).unwrap().canaries.push(canary);
            }
            return;
        }
        let mut free = (0..).filter(|number| !taken.contains(number));
        for number in free.by_ref().take(missing) {
            self.place(&deployment, name, group, number, false, plan);
        }
        let is_under_way = |found: &&Allocation| {
            found.deployment.as_deref() == Some(id)
                && found.is_live()
                && found.health.is_none_or(|(_, healthy, _)| healthy.is_none())
        };
        let under_way = of_group.iter().filter(is_under_way).count() + missing;
        let newer: BTreeSet<u32> =
            of_group.iter().filter(|new| new.is_live() && new.version == deployment.version).map(Allocation::number).collect();
        for old in old.iter().take(group.max_parallel.saturating_sub(under_way)) {
            let number = if newer.contains(&old.number()) { free.next().unwrap_or_default() } else { old.number() };
            let new = self.place(&deployment, name, group, number, false, plan);
            self.allocation(&new).previous = Some(old.id.clone());
            self.stop(&old.id, UPDATED);
            self.allocation(&old.id).next = Some(new);
            plan.stopped.push(old.id.clone());
        }
    }

    /// What runs already what the new version wants is only told so.
    fn update_in_place(&mut self, deployment: &Deployment, name: &str, group: &Group, plan: &mut Plan) {
        let mut updated = 0;
        for found in self.allocations.values_mut() {
            let is_meant = found.key == deployment.key && found.group == name && found.is_live() && !found.is_canary();
            if !is_meant || found.version == deployment.version || found.content != group.content {
                continue;
            }
            (found.version, found.deployment, found.health) = (deployment.version, Some(deployment.id.clone()), None);
            found.tags.clone_from(&group.tags);
            self.orders.push_back(Order::Update(found.task()));
            plan.updated.push(found.id.clone());
            updated += 1;
        }
        if updated > 0 {
            self.deployment(&deployment.id).groups.get_mut(name).unwrap().placed += updated;
            plan.deployments.insert(deployment.id.clone());
        }
    }

    fn place(
        &mut self,
        deployment: &Deployment,
        name: &str,
        group: &Group,
        number: u32,
        is_canary: bool,
        plan: &mut Plan,
    ) -> String {
        let index = self.index + 1;
        let allocation = Allocation {
            id: uuid(),
            name: format!("{}.{name}[{number}]", deployment.key.job),
            key: deployment.key.clone(),
            group: name.to_owned(),
            version: deployment.version,
            content: group.content.clone(),
            tags: group.tags.clone(),
            deployment: Some(deployment.id.clone()),
            desired: "run",
            desired_description: "",
            client: "pending",
            health: is_canary.then_some((true, None, index)),
            is_reported: false,
            is_asked: false,
            next: None,
            previous: None,
            create_index: index,
            modify_index: index,
        };
        self.add(allocation, plan)
    }

    /// One more of the same version and deployment, however old these are.
    pub fn place_like(&mut self, old: &Allocation, plan: &mut Plan) -> String {
        let index = self.index + 1;
        let is_canary = old.is_canary();
        let new = self.add(
            Allocation {
                id: uuid(),
                desired: "run",
                desired_description: "",
                client: "pending",
                health: is_canary.then_some((true, None, index)),
                is_reported: false,
                is_asked: false,
                next: None,
                previous: None,
                create_index: index,
                modify_index: index,
                ..old.clone()
            },
            plan,
        );
        if is_canary && let Some(deployment) = old.deployment.as_ref().and_then(|id| self.deployments.get_mut(id)) {
            deployment.groups.get_mut(&old.group).unwrap().canaries.push(new.clone());
        }
        new
    }

    fn add(&mut self, allocation: Allocation, plan: &mut Plan) -> String {
        let id = allocation.id.clone();
        if let Some(deployment) = allocation.deployment.as_ref().and_then(|id| self.deployments.get_mut(id)) {
            deployment.groups.get_mut(&allocation.group).unwrap().placed += 1;
            plan.deployments.insert(deployment.id.clone());
        }
        self.orders.push_back(Order::Start(allocation.task()));
        self.allocations.insert(id.clone(), allocation);
        plan.placed.push(id.clone());
        id
    }

    /// What was taken away is replaced: a canary while its deployment runs, anything else always.
    pub fn replace(&mut self, id: &str, plan: &mut Plan) {
        let old = self.allocation(id).clone();
        let deployment = old.deployment.as_ref().and_then(|id| self.deployments.get(id));
        if old.is_canary() {
            if deployment.is_some_and(|deployment| deployment.status == "running") {
                self.place_like(&old, plan);
            }
            return;
        }
        let new = self.place_like(&old, plan);
        self.allocation(&new).previous = Some(id.to_owned());
        self.allocation(id).next = Some(new);
    }

    pub fn stop(&mut self, id: &str, why: &'static str) {
        let allocation = self.allocation(id);
        let is_live = allocation.is_live();
        (allocation.desired, allocation.desired_description) = ("stop", why);
        if is_live {
            self.orders.push_back(Order::Stop { allocation: id.to_owned() });
        }
    }

    fn stop_where(&mut self, is_meant: impl Fn(&Allocation) -> bool, plan: &mut Plan) {
        let meant: Vec<String> =
            self.allocations.values().filter(|found| is_meant(found)).map(|found| found.id.clone()).collect();
        for id in meant {
            self.stop(&id, NOT_NEEDED);
            plan.stopped.push(id);
        }
    }

    pub fn end_failed(&mut self, id: &str, why: &str) -> (u64, Option<u64>) {
        let deployment = self.deployments[id].clone();
        let key = deployment.key.clone();
        let is_reverted = deployment.groups.values().any(|group| group.auto_revert);
        let last_good = self.deployments.values().filter(|good| good.key == key && good.status == "successful");
        let to = last_good.map(|good| good.version).max().filter(|_| is_reverted);
        let failed = self.deployment(id);
        failed.status = "failed";
        failed.description = to.map_or(why.to_owned(), |to| format!("{why} - rolling back to job version {to}"));
        if let Some(to) = to {
            let job = self.jobs.get_mut(&key).unwrap();
            job.spec = job.versions[to as usize].clone();
            job.versions.push(job.spec.clone());
            job.job_modify_index = self.index + 1;
        }
        let index = self.commit_deployment("DeploymentStatusUpdate", id);
        self.evaluate(&key);
        (index, to)
    }
}

fn uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
