//! Folds what Nomad says, in lists and in events, into one [`View`], and answers what a proxy asks of it.
//!
//! Of an object the version with the higher index wins, however it came. A list says in addition what is gone. An event
//! does not say which version of its job an allocation runs: the deployment that placed it does, or a list.

use std::collections::BTreeSet;

use super::answer::ListedJob;
use super::event::{Batch, Event};
use super::{Allocation, ClientStatus, Deployment, DeploymentStatus, Desired, Job, JobKey, View};
use crate::names::Track;

/// So many deployments that ended are kept, the latest.
pub const ENDED_DEPLOYMENTS_MAX: usize = 256;
/// So many allocations that ended are kept, the latest: Consul may list them for a while yet.
pub const ENDED_ALLOCATIONS_MAX: usize = 2048;

/// What lists say of one namespace or of all, read in the order of the fields. A part that was not asked for is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The namespace; `None` is every one.
    pub namespace: Option<String>,
    /// `/v1/jobs`, with its index.
    pub jobs: Option<(Vec<ListedJob>, u64)>,
    /// `/v1/allocations`, with its index.
    pub allocations: Option<(Vec<Allocation>, u64)>,
    /// `/v1/deployments`, with its index.
    pub deployments: Option<(Vec<Deployment>, u64)>,
}

impl Listing {
    fn indices(&self) -> [Option<u64>; 3] {
        [
            self.jobs.as_ref().map(|(_, index)| *index),
            self.allocations.as_ref().map(|(_, index)| *index),
            self.deployments.as_ref().map(|(_, index)| *index),
        ]
    }

    fn covers(&self, job: &JobKey) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == job.namespace)
    }
}

/// How far one source of lists and events has been taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Up to this index everything was taken in.
    floor: u64,
    /// The index of the last event about a job.
    jobs_floor: u64,
    /// The indices of the last lists of jobs, allocations and deployments.
    listed: [u64; 3],
}

/// How the indices of lists compare with those of the lists before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The same or higher.
    Forward,
    /// Lower: Nomad's state was wiped or restored, and what was known before means nothing.
    Backwards,
}

impl Progress {
    fn is_forward(&self, listing: &Listing) -> bool {
        self.listed.iter().zip(listing.indices()).all(|(old, new)| new.is_none_or(|new| new >= *old))
    }

    fn step(&mut self, listing: &Listing) -> Moved {
        let moved = if self.is_forward(listing) { Moved::Forward } else { Moved::Backwards };
        if moved == Moved::Backwards {
            *self = Self::default();
        }
        let indices = listing.indices();
        for (old, new) in self.listed.iter_mut().zip(indices) {
            *old = new.unwrap_or(*old);
        }
        // The three are asked for one after the other, so everything up to the index of the first is in them.
        if let [Some(jobs), Some(_), Some(_)] = indices {
            self.floor = self.floor.max(jobs);
        }
        moved
    }
}

/// Where an allocation belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Whose it is.
    pub job: JobKey,
    /// Its task group.
    pub group: String,
    /// The version of the job that it runs, once known.
    pub version: Option<u64>,
    /// The deployment whose canary it is; of a stable one the deployment that placed it, if that is known.
    pub deployment: Option<String>,
    /// A canary, until it is promoted.
    pub track: Track,
    /// It was told to stop, or has ended: it wants no new request. Not so one that is `lost`, which may well still answer.
    pub is_stopping: bool,
}

/// An allocation of which the view knows too little.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unclear {
    /// Its namespace.
    pub namespace: String,
    /// Its id.
    pub allocation: String,
}

impl View {
    /// Takes one line of events in. A stream that tells its history again changes nothing.
    pub fn fold(&mut self, batch: Batch, progress: &mut Progress) {
        if batch.index <= progress.floor {
            return;
        }
        progress.floor = batch.index;
        for event in batch.events {
            match event {
                Event::Deployment(deployment) => self.take_deployment(deployment),
                Event::Allocation { allocation, is_plan } => self.take_allocation(allocation, is_plan),
                Event::Job(listed) => {
                    progress.jobs_floor = batch.index;
                    self.take_job(&listed);
                }
                Event::Purged(listed) => {
                    progress.jobs_floor = batch.index;
                    self.purge(&listed.key);
                }
            }
        }
        self.fill_versions();
        self.forget_ended();
        self.index = self.index.max(batch.index);
    }

    /// Takes lists in: what they cover and do not name is gone, unless it is newer than they are.
    pub fn cover(&mut self, mut listing: Listing, progress: &mut Progress) -> Moved {
        let moved = progress.step(&listing);
        if moved == Moved::Backwards {
            self.index = 0;
        }
        let is_old = |modify_index: u64, index: u64| moved == Moved::Backwards || modify_index <= index;
        if let Some((deployments, index)) = listing.deployments.take() {
            let named = named(&deployments, |deployment| &deployment.id, moved);
            let is_gone =
                |old: &Deployment| listing.covers(&old.job) && is_old(old.modify_index, index) && !named.contains(&old.id);
            self.deployments.retain(|_, old| !is_gone(old));
            deployments.into_iter().for_each(|deployment| self.take_deployment(deployment));
            self.index = self.index.max(index);
        }
        if let Some((allocations, index)) = listing.allocations.take() {
            let named = named(&allocations, |allocation| &allocation.id, moved);
            let is_gone =
                |old: &Allocation| listing.covers(&old.job) && is_old(old.modify_index, index) && !named.contains(&old.id);
            self.allocations.retain(|_, old| !is_gone(old));
            allocations.into_iter().for_each(|allocation| self.take_allocation(allocation, false));
            self.index = self.index.max(index);
        }
        self.fill_versions();
        // Jobs carry no index of their own here: a list that was read before the last event about a job is passed over.
        if let Some((jobs, index)) = listing.jobs.take().filter(|(_, index)| *index >= progress.jobs_floor) {
            let named: BTreeSet<&JobKey> = jobs.iter().map(|job| &job.key).filter(|_| moved == Moved::Forward).collect();
            self.jobs.retain(|key, _| !listing.covers(key) || named.contains(key));
            jobs.iter().for_each(|job| self.take_job(job));
            self.index = self.index.max(index);
        }
        self.forget_ended();
        moved
    }

    /// Whether lists would take away everything that runs. A token that lost its rights is answered with empty lists, and
    /// stopped allocations are listed for a while, so this is no news of Nomad's.
    pub fn is_emptied_by(&self, listing: &Listing, progress: &Progress) -> bool {
        let is_empty = listing.allocations.as_ref().is_some_and(|(allocations, _)| allocations.is_empty());
        let runs = |allocation: &Allocation| listing.covers(&allocation.job) && is_serving(allocation);
        is_empty && progress.is_forward(listing) && self.allocations.values().any(runs)
    }

    /// Takes in what one allocation says of itself.
    pub fn complete(&mut self, allocation: Allocation) {
        self.take_allocation(allocation, false);
    }

    /// The deployments that have not ended.
    pub fn active_deployments(&self) -> impl Iterator<Item = &Deployment> {
        self.deployments.values().filter(|deployment| !deployment.status.is_terminal())
    }

    /// The canaries of a deployment's group that are wanted and may serve. Of those ever placed some may be dead.
    pub fn live_canaries(&self, deployment: &str, group: &str) -> Vec<&Allocation> {
        let group = self.deployments.get(deployment).and_then(|deployment| deployment.groups.get(group));
        let placed = group.map(|group| group.placed_canaries.as_slice()).unwrap_or_default();
        placed.iter().filter_map(|id| self.allocations.get(id)).filter(|allocation| allocation.is_wanted()).collect()
    }

    /// The allocations of a group that carry its traffic without being canaries, and are not told to stop.
    pub fn live_stables<'v>(&'v self, job: &JobKey, group: &str) -> Vec<&'v Allocation> {
        let of_group = self.allocations.values().filter(|allocation| allocation.job == *job && allocation.group == group);
        of_group.filter(|allocation| is_serving(allocation) && self.track(allocation).0 == Track::Stable).collect()
    }

    /// Where an allocation belongs; `None` when Nomad never named it to us.
    pub fn track_of(&self, allocation: &str) -> Option<Placement> {
        let allocation = self.allocations.get(allocation)?;
        let (track, deployment) = self.track(allocation);
        Some(Placement {
            job: allocation.job.clone(),
            group: allocation.group.clone(),
            version: allocation.job_version,
            deployment: deployment.map(|deployment| deployment.id.clone()).or_else(|| allocation.deployment.clone()),
            track,
            is_stopping: is_stopping(allocation),
        })
    }

    /// Which allocations must be asked about: canaries that were placed without our hearing of it, and those whose version
    /// nothing has said.
    pub fn unclear(&self) -> BTreeSet<Unclear> {
        let unclear = |job: &JobKey, id: &String| Unclear { namespace: job.namespace.clone(), allocation: id.clone() };
        let mut found = BTreeSet::new();
        for deployment in self.active_deployments() {
            let placed = deployment.groups.values().flat_map(|group| &group.placed_canaries);
            let unheard = placed.filter(|id| !self.allocations.contains_key(*id));
            found.extend(unheard.map(|id| unclear(&deployment.job, id)));
        }
        let without = self.allocations.values().filter(|allocation| allocation.job_version.is_none() && is_serving(allocation));
        found.extend(without.map(|allocation| unclear(&allocation.job, &allocation.id)));
        found
    }

    /// Which track it is on, and whose canary it is.
    fn track(&self, allocation: &Allocation) -> (Track, Option<&Deployment>) {
        if let Some(deployment) = self.canary_of(allocation) {
            return (Track::Canary, Some(deployment));
        }
        // Its deployment may be news that is still on its way; then Nomad's own mark decides.
        let is_placed = |deployment: &Deployment| {
            let group = deployment.groups.get(&allocation.group);
            group.is_some_and(|group| group.placed_canaries.contains(&allocation.id))
        };
        let is_early = allocation.is_canary && !self.deployments.values().any(is_placed);
        (if is_early { Track::Canary } else { Track::Stable }, None)
    }

    /// The deployment whose unpromoted canary it is. One of a deployment that failed or was cancelled is still a canary,
    /// in the milliseconds until it is told to stop.
    fn canary_of(&self, allocation: &Allocation) -> Option<&Deployment> {
        let deployment = self.deployments.values().find(|deployment| {
            deployment.job == allocation.job
                && deployment.status != DeploymentStatus::Successful
                && allocation.deployment.as_ref().is_none_or(|id| *id == deployment.id)
                // An update in place takes an allocation to another version, and out of its old deployment.
                && allocation.job_version.is_none_or(|version| version == deployment.job_version)
                && has_canary(deployment, allocation)
        })?;
        let is_version_stable = self.allocations.values().any(|other| {
            other.job == allocation.job
                && other.group == allocation.group
                && other.job_version == Some(deployment.job_version)
                && is_serving(other)
                && !other.is_canary
                && !has_canary(deployment, other)
        });
        (!is_version_stable).then_some(deployment)
    }

    fn take_deployment(&mut self, deployment: Deployment) {
        // When Nomad reverts a job by itself, no event about the job says so.
        if let Some(job) = self.jobs.get_mut(&deployment.job) {
            job.version = job.version.max(deployment.job_version);
        }
        match self.deployments.get_mut(&deployment.id) {
            Some(old) if old.modify_index > deployment.modify_index => {}
            Some(old) => *old = deployment,
            None => _ = self.deployments.insert(deployment.id.clone(), deployment),
        }
    }

    fn take_allocation(&mut self, mut allocation: Allocation, is_plan: bool) {
        let Some(old) = self.allocations.get_mut(&allocation.id) else {
            self.allocations.insert(allocation.id.clone(), allocation);
            return;
        };
        if old.modify_index > allocation.modify_index {
            return;
        }
        if allocation.job_version.is_some() {
            // Lists do not say which deployment it is; it stays the same as long as the version does.
            let is_same = old.job_version.is_none_or(|version| Some(version) == allocation.job_version);
            allocation.deployment = allocation.deployment.or_else(|| old.deployment.take().filter(|_| is_same));
            // Of a purged job the end is known before Nomad has written it down.
            if old.modify_index == allocation.modify_index {
                allocation.desired = if old.desired == Desired::Stop { Desired::Stop } else { allocation.desired };
            }
        } else {
            let is_same = allocation.deployment == old.deployment && (allocation.deployment.is_some() || !is_plan);
            allocation.job_version = old.job_version.filter(|_| is_same || allocation.desired == Desired::Stop);
        }
        *old = allocation;
    }

    fn take_job(&mut self, listed: &ListedJob) {
        let known = self.jobs.get(&listed.key).map_or(0, |job| job.version);
        // A list does not say the version; it is at least the highest that something of the job has.
        let version = listed.version.unwrap_or_else(|| known.max(self.version_seen(&listed.key)));
        self.jobs.insert(listed.key.clone(), Job { version, ..listed.job(version) });
    }

    fn version_seen(&self, key: &JobKey) -> u64 {
        let deployments = self.deployments.values().filter(|deployment| deployment.job == *key).map(|found| found.job_version);
        let allocations =
            self.allocations.values().filter(|allocation| allocation.job == *key).filter_map(|found| found.job_version);
        deployments.chain(allocations).max().unwrap_or_default()
    }

    /// A job is gone: with it go its deployments, and its allocations are stopped, without an event that would say so.
    fn purge(&mut self, key: &JobKey) {
        self.jobs.remove(key);
        self.deployments.retain(|_, deployment| deployment.job != *key);
        for allocation in self.allocations.values_mut().filter(|allocation| allocation.job == *key) {
            allocation.desired = Desired::Stop;
        }
    }

    /// What a deployment placed runs the deployment's version.
    fn fill_versions(&mut self) {
        for allocation in self.allocations.values_mut().filter(|allocation| allocation.job_version.is_none()) {
            let deployment = allocation.deployment.as_ref().and_then(|id| self.deployments.get(id));
            allocation.job_version = deployment.map(|deployment| deployment.job_version);
        }
    }

    fn forget_ended(&mut self) {
        let ended = self.deployments.values().filter(|deployment| deployment.status.is_terminal());
        if let Some(oldest) = oldest_kept(ended.map(|deployment| deployment.modify_index), ENDED_DEPLOYMENTS_MAX) {
            self.deployments.retain(|_, old| !old.status.is_terminal() || old.modify_index >= oldest);
        }
        let ended = self.allocations.values().filter(|allocation| has_ended(allocation));
        if let Some(oldest) = oldest_kept(ended.map(|allocation| allocation.modify_index), ENDED_ALLOCATIONS_MAX) {
            self.allocations.retain(|_, old| !has_ended(old) || old.modify_index >= oldest);
        }
    }
}

/// The ids that a list names; none after a step backwards, when nothing of before is kept.
fn named<T>(list: &[T], id: impl Fn(&T) -> &String, moved: Moved) -> BTreeSet<String> {
    list.iter().filter(|_| moved == Moved::Forward).map(|item| id(item).clone()).collect()
}

/// The lowest of the `max` highest indices; `None` when there are no more than these.
fn oldest_kept(indices: impl Iterator<Item = u64> + Clone, max: usize) -> Option<u64> {
    let surplus = indices.clone().count().checked_sub(max).filter(|surplus| *surplus > 0)?;
    let mut indices: Vec<u64> = indices.collect();
    indices.sort_unstable();
    indices.get(surplus).copied()
}

fn has_canary(deployment: &Deployment, allocation: &Allocation) -> bool {
    let group = deployment.groups.get(&allocation.group).filter(|group| !group.promoted);
    group.is_some_and(|group| group.placed_canaries.contains(&allocation.id))
}

fn has_ended(allocation: &Allocation) -> bool {
    matches!(allocation.client, ClientStatus::Complete | ClientStatus::Failed)
        || allocation.desired == Desired::Stop && allocation.client == ClientStatus::Lost
}

/// Nomad says `stop` of a lost one too, but cannot tell it.
fn is_stopping(allocation: &Allocation) -> bool {
    match allocation.client {
        ClientStatus::Pending | ClientStatus::Running => allocation.desired == Desired::Stop,
        ClientStatus::Complete | ClientStatus::Failed => true,
        ClientStatus::Lost | ClientStatus::Unknown => false,
    }
}

fn is_serving(allocation: &Allocation) -> bool {
    allocation.desired == Desired::Run && !is_stopping(allocation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::answer::{parse_allocation, parse_deployment};

    fn deployment(id: usize, status: &str) -> Deployment {
        parse_deployment(format!(r#"{{"ID":"d{id}","JobID":"web","Status":"{status}","ModifyIndex":{id}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn of_what_has_ended_only_the_latest_is_kept() {
        let (mut view, mut progress) = (View::default(), Progress::default());
        let ended = 1..=ENDED_DEPLOYMENTS_MAX + 3;
        let events = ended.map(|id| Event::Deployment(deployment(id, "failed")));
        let events = std::iter::once(Event::Deployment(deployment(0, "paused"))).chain(events).collect();
        view.fold(Batch { index: 1000, events, skipped: 0 }, &mut progress);
        assert_eq!((view.active_deployments().count(), view.deployments.len()), (1, ENDED_DEPLOYMENTS_MAX + 1));
        assert!(!view.deployments.contains_key("d3") && view.deployments.contains_key("d4"));
    }

    /// Takes in what a list said, then what an event says, and compares the version that is known then.
    #[track_caller]
    fn check(listed: &str, event: &str, is_plan: bool, expected: Option<u64>) {
        let allocation = |more: &str| {
            let client = r#""ClientStatus":"running""#;
            parse_allocation(format!(r#"{{"ID":"a","JobID":"web",{client},{more}}}"#).as_bytes()).unwrap()
        };
        let (mut view, mut progress) = (View::default(), Progress::default());
        view.complete(allocation(&format!(r#""ModifyIndex":5,{listed}"#)));
        let told = allocation(&format!(r#""ModifyIndex":6,{event}"#));
        let events = vec![Event::Allocation { allocation: told, is_plan }, Event::Deployment(deployment(6, "running"))];
        view.fold(Batch { index: 6, events, skipped: 0 }, &mut progress);
        assert_eq!((view.allocations["a"].job_version, view.unclear().is_empty()), (expected, expected.is_some()));
    }

    #[test]
    fn a_version_is_forgotten_when_an_update_in_place_may_have_changed_it() {
        let listed = r#""JobVersion":3"#;
        check(listed, r#""DesiredStatus":"run""#, false, Some(3));
        check(listed, r#""DesiredStatus":"run""#, true, None);
        // Of a deployment that is not known nothing is known.
        check(r#""JobVersion":3"#, r#""DeploymentID":"old""#, false, None);
        check(r#""JobVersion":3,"DeploymentID":"old""#, r#""DeploymentID":"old""#, true, Some(3));
        // Of the deployment that is known the version is known.
        check(r#""JobVersion":3,"DeploymentID":"old""#, r#""DeploymentID":"d6""#, true, Some(0));
    }

    #[test]
    fn a_canary_is_known_before_its_deployment_is() {
        let mut view = View::default();
        let early =
            r#"{"ID":"a","JobID":"web","TaskGroup":"g","JobVersion":4,"ModifyIndex":5,"DeploymentStatus":{"Canary":true}}"#;
        view.complete(parse_allocation(early.as_bytes()).unwrap());
        assert_eq!(view.track_of("a").unwrap().track, Track::Canary);
        // What runs the version of stable ones is stable, whatever placed it.
        let group = r#"{"g":{"PlacedCanaries":["a"],"DesiredCanaries":1}}"#;
        let placed =
            format!(r#"{{"ID":"d","JobID":"web","JobVersion":4,"Status":"running","TaskGroups":{group},"ModifyIndex":6}}"#);
        view.take_deployment(parse_deployment(placed.as_bytes()).unwrap());
        assert_eq!(view.track_of("a").unwrap().track, Track::Canary);
        let stable = r#"{"ID":"b","JobID":"web","TaskGroup":"g","JobVersion":4,"ClientStatus":"running","ModifyIndex":3}"#;
        view.complete(parse_allocation(stable.as_bytes()).unwrap());
        assert_eq!(view.track_of("a").unwrap().track, Track::Stable);
        assert_eq!(view.track_of("nobody"), None);
    }
}
