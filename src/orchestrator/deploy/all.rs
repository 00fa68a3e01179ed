//! All deployments that are known to us, and what outlives one: which versions failed, and which jobs are being brought back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, Deploy, Outcome, Situation};
use crate::orchestrator::{Deployment, JobKey, View};

/// After we failed a version it is not judged again for this long.
pub const SECOND_TRY_AFTER: Duration = Duration::from_secs(600);
/// How long a deployment that brings an older version back is waited for.
const REVERT_WITHIN: Duration = Duration::from_secs(600);
/// How long one that has ended can still be asked about.
const OVER_KEPT: Duration = Duration::from_secs(3600);
/// Deployments that are followed at the same time; later ones are left to themselves.
const DEPLOYS_MAX: usize = 512;
/// Ended ones that are kept, and memories of failures and reverts.
const OVER_MAX: usize = 64;

/// All deployments by id. Serialize it at each step that gave an action, and before each call.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Deploys {
    deploys: BTreeMap<String, Deploy>,
    failed: Vec<Memory>,
    reverting: Vec<Memory>,
}

/// A version of a job that something happened to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memory {
    job: JobKey,
    version: u64,
    at: Duration,
}

impl Deploys {
    /// Meets the active deployments of a view that is up to date, and forgets those that ended long ago. All that are left are to
    /// be stepped, the ended ones may be.
    pub fn meet(&mut self, view: &View, now: Duration) {
        self.failed.retain(|memory| now.saturating_sub(memory.at) < SECOND_TRY_AFTER);
        self.reverting.retain(|memory| now.saturating_sub(memory.at) < REVERT_WITHIN);
        self.deploys.retain(|_, deploy| !deploy.is_over() || now.saturating_sub(deploy.since) < OVER_KEPT);
        let over = |deploys: &BTreeMap<String, Deploy>| deploys.values().filter(|deploy| deploy.is_over()).count();
        while over(&self.deploys) > OVER_MAX {
            let ended = self.deploys.values().filter(|deploy| deploy.is_over());
            let Some(oldest) = ended.min_by_key(|deploy| deploy.since).map(|deploy| deploy.id.clone()) else { break };
            self.deploys.remove(&oldest);
        }
        for deployment in view.deployments.values() {
            let is_new = !deployment.status.is_terminal() && !self.deploys.contains_key(&deployment.id);
            if is_new && self.deploys.len() < DEPLOYS_MAX + OVER_MAX {
                let deploy = self.new_deploy(deployment, now);
                self.deploys.insert(deployment.id.clone(), deploy);
            }
        }
    }

    fn new_deploy(&self, deployment: &Deployment, now: Duration) -> Deploy {
        let of_job = |memory: &&Memory| memory.job == deployment.job;
        let is_revert =
            self.reverting.iter().filter(of_job).any(|memory| memory.version.checked_add(1) == Some(deployment.job_version));
        let failed = self.failed.iter().filter(of_job).filter(|memory| memory.version == deployment.job_version);
        let judged_from = failed.map(|memory| memory.at.saturating_add(SECOND_TRY_AFTER)).max().unwrap_or_default();
        Deploy::new(deployment, now, is_revert, judged_from)
    }

    /// Steps one of them.
    pub fn step(&mut self, id: &str, situation: &Situation<'_>) -> Vec<Action> {
        let Some(deploy) = self.deploys.get_mut(id) else { return Vec::new() };
        let actions = deploy.step(situation);
        let ended = actions.iter().find_map(|action| match action {
            Action::Ended(outcome) => Some(outcome),
            _ => None,
        });
        if let Some(outcome) = ended {
            let memory = Memory { job: deploy.job.clone(), version: deploy.version, at: situation.now };
            if deploy.expects_revert {
                remember(&mut self.reverting, memory.clone());
            }
            if matches!(outcome, Outcome::Failed { .. }) {
                remember(&mut self.failed, memory);
            }
        }
        actions
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<&Deploy> {
        self.deploys.get(id)
    }

    /// All of them, the ended ones of the last hour too.
    pub fn iter(&self) -> impl Iterator<Item = &Deploy> {
        self.deploys.values()
    }

    /// The newest one of a job.
    pub fn of_job(&self, job: &JobKey) -> Option<&Deploy> {
        self.deploys
            .values()
            .filter(|deploy| deploy.job == *job)
            .max_by_key(|deploy| (!deploy.is_over(), deploy.version, deploy.since))
    }

    /// Those that we hold paused: what `release --all` gives back.
    pub fn held(&self) -> impl Iterator<Item = &Deploy> {
        self.deploys.values().filter(|deploy| deploy.is_ours_to_resume())
    }
}

fn remember(memories: &mut Vec<Memory>, memory: Memory) {
    if memories.len() >= OVER_MAX {
        memories.remove(0);
    }
    memories.push(memory);
}
