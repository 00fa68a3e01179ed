//! What the newest view shows of one deployment: its judged groups, their canaries, the older allocations, and which of those
//! Nomad's next call stops.

use std::collections::BTreeSet;

use super::{GroupSeen, Situation};
use crate::orchestrator::{Allocation, ClientStatus, Deployment, DeploymentGroup, Desired, Job, JobKey};

/// One deployment in the view of this step.
pub(super) struct Look<'a> {
    pub(super) job: Option<&'a Job>,
    pub(super) deployment: Option<&'a Deployment>,
    /// The groups with canaries of which a live route of ours uses a service.
    pub(super) groups: Vec<GroupLook<'a>>,
    /// Allocations of the used groups that are told to stop and may still have their port open.
    pub(super) stopping: Vec<&'a str>,
}

/// One judged group in the view of this step.
pub(super) struct GroupLook<'a> {
    pub(super) name: &'a str,
    pub(super) group: &'a DeploymentGroup,
    pub(super) seen: &'a GroupSeen,
    /// Those of the placed canaries that are wanted and may serve.
    pub(super) canaries: Vec<&'a Allocation>,
    /// Placed canaries that are not: stopped, dead, lost.
    pub(super) dead: Vec<&'a Allocation>,
    /// Wanted allocations that this deployment is to replace.
    pub(super) olds: Vec<&'a Allocation>,
}

/// What became of canaries that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It ended by itself after Nomad had called it healthy: Nomad never replaces it.
    Ended { allocation: String },
    /// It was stopped, drained or lost: a paused deployment gets no other one.
    Taken { allocation: String, lost: bool },
    /// Another one comes, paused or not, or it has not been shown yet.
    Coming,
}

impl<'a> Look<'a> {
    pub(super) fn new(id: &str, key: &JobKey, version: u64, situation: &Situation<'a>) -> Self {
        let view = situation.view;
        let deployment = view.deployments.get(id);
        let allocations = || view.allocations.values().filter(|allocation| allocation.job == *key);
        let mut groups = Vec::new();
        for (name, group) in deployment.iter().flat_map(|deployment| &deployment.groups) {
            let Some(seen) = situation.groups.get(name) else { continue };
            if group.desired_canaries == 0 {
                continue;
            }
            let placed: BTreeSet<&str> = group.placed_canaries.iter().map(String::as_str).collect();
            let (ours, others): (Vec<_>, Vec<_>) = allocations()
                .filter(|allocation| allocation.group == *name)
                .partition(|allocation| placed.contains(allocation.id.as_str()));
            let (canaries, dead) = ours.into_iter().partition(|allocation| allocation.is_wanted());
            let is_old = |other: &&Allocation| other.job_version != Some(version) && other.deployment.as_deref() != Some(id);
            let olds = others.into_iter().filter(|other| other.is_wanted() && is_old(other)).collect();
            groups.push(GroupLook { name, group, seen, canaries, dead, olds });
        }
        let may_serve = |client| !matches!(client, ClientStatus::Complete | ClientStatus::Failed);
        let stopping = allocations()
            .filter(|allocation| situation.groups.contains_key(&allocation.group))
            .filter(|allocation| allocation.desired == Desired::Stop && may_serve(allocation.client))
            .map(|allocation| allocation.id.as_str())
            .collect();
        Self { job: view.jobs.get(key), deployment, groups, stopping }
    }

    /// The judged groups that nobody has promoted yet.
    pub(super) fn open(&self) -> impl Iterator<Item = &GroupLook<'a>> {
        self.groups.iter().filter(|group| !group.group.promoted)
    }

    pub(super) fn are_all_promoted(&self) -> bool {
        !self.groups.is_empty() && self.groups.iter().all(|group| group.group.promoted)
    }

    /// Nomad reverts the job by itself when this deployment fails.
    pub(super) fn reverts_itself(&self) -> bool {
        self.deployment.is_some_and(|deployment| deployment.groups.values().any(|group| group.auto_revert))
    }
}

impl<'a> GroupLook<'a> {
    /// As many canaries were ever placed as are wanted.
    pub(super) fn is_placed(&self) -> bool {
        self.group.placed_canaries.len() >= self.desired()
    }

    /// As many are there now as are wanted.
    pub(super) fn is_complete(&self) -> bool {
        self.canaries.len() >= self.desired()
    }

    pub(super) fn desired(&self) -> usize {
        self.group.desired_canaries as usize
    }

    /// Whether Nomad would promote, and whoever is promoted can serve: `HealthyAllocs` goes on counting the dead.
    pub(super) fn is_ready(&self) -> bool {
        self.is_complete() && self.canaries.iter().all(|canary| is_running_well(canary)) && self.seen.canary_answers
    }

    /// Nomad has called every canary healthy.
    pub(super) fn is_healthy(&self) -> bool {
        self.is_complete() && self.canaries.iter().all(|canary| is_running_well(canary))
    }

    /// What became of those that are missing, of which `known` are remembered.
    pub(super) fn trouble(&self, known: &BTreeSet<String>) -> Option<Trouble> {
        if self.is_complete() || self.group.promoted {
            return None;
        }
        let mut taken = None;
        for dead in &self.dead {
            let is_remembered = known.is_empty() || known.contains(&dead.id);
            if !is_remembered || dead.next.is_some() {
                continue;
            }
            let allocation = dead.id.clone();
            match (dead.desired, dead.client) {
                (Desired::Stop, _) => taken = Some(Trouble::Taken { allocation, lost: false }),
                (_, ClientStatus::Lost) => taken = Some(Trouble::Taken { allocation, lost: true }),
                (_, ClientStatus::Failed | ClientStatus::Complete) if dead.healthy == Some(true) => {
                    return Some(Trouble::Ended { allocation });
                }
                _ => {}
            }
        }
        Some(taken.unwrap_or(Trouble::Coming))
    }

    /// The older ones that a promotion may stop at once while the deployment is paused: as many as there are too many, those
    /// with a canary's name first, then the highest numbers (`computeStop` in Nomad's reconciler). None when the count was raised by
    /// as much. Which of several with a canary's name go, when not all do, is Nomad's chance: then it is all of them here.
    pub(super) fn stopped_by_promotion(&self) -> Vec<&'a Allocation> {
        let surplus = (self.canaries.len() + self.olds.len()).saturating_sub(self.group.desired_total as usize);
        let names: BTreeSet<&str> = self.canaries.iter().map(|canary| canary.name.as_str()).collect();
        let is_namesake = |old: &Allocation| names.contains(old.name.as_str());
        let namesakes = self.olds.iter().filter(|old| is_namesake(old)).count();
        let mut olds = self.olds.clone();
        olds.sort_by_key(|old| (!is_namesake(old), std::cmp::Reverse(number(&old.name))));
        olds.truncate(if surplus == 0 { 0 } else { surplus.max(namesakes) });
        olds
    }

    /// The promotion leaves none of the older ones.
    pub(super) fn replaces_all(&self) -> bool {
        self.stopped_by_promotion().len() == self.olds.len()
    }

    /// The older one that a promoted deployment stops first when it is resumed: the lowest number. How many go together, its
    /// `max_parallel`, is not shown; one is certain.
    pub(super) fn stopped_by_resume(&self) -> Option<&'a Allocation> {
        self.olds.iter().copied().min_by_key(|old| number(&old.name))
    }

    /// Requests that are still open at these.
    pub(super) fn in_flight(&self, allocations: &[&Allocation]) -> u32 {
        let open = allocations.iter().filter_map(|allocation| self.seen.stable_in_flight.get(&allocation.id));
        open.fold(0, |sum, open| sum.saturating_add(*open))
    }

    /// The version that the older ones run.
    pub(super) fn older_version(&self) -> Option<u64> {
        self.olds.iter().filter_map(|old| old.job_version).max()
    }
}

fn is_running_well(canary: &Allocation) -> bool {
    canary.client == ClientStatus::Running && canary.healthy == Some(true)
}

/// The number in `cljdoc.cljdoc[3]`.
fn number(name: &str) -> u32 {
    name.rsplit_once('[').and_then(|(_, rest)| rest.strip_suffix(']')).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
