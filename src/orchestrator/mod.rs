//! Nomad's deployments: what Nomad says about them, and the only part that asks Nomad to do something.
//!
//! Nothing of it is on the request path. The values below are what the rest of Tidegate knows of Nomad; its JSON stays in here.
//! A [`View`] is folded from lists and the event stream.

pub mod access;
pub mod answer;
pub mod client;
pub mod connect;
pub mod deploy;
pub mod event;
mod source;
pub mod stream;
pub mod view;
pub mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A job within its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobKey {
    /// Nomad's namespace.
    pub namespace: String,
    /// The job's id.
    pub job: String,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace == "default" { f.write_str(&self.job) } else { write!(f, "{}/{}", self.namespace, self.job) }
    }
}

/// One deployment, as Nomad's API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Its id, a UUID.
    pub id: String,
    /// Whose it is.
    pub job: JobKey,
    /// The version of the job that it rolls out.
    pub job_version: u64,
    /// Part of a deployment over several regions, which we only observe.
    pub is_multiregion: bool,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// Nomad's sentence about the status.
    pub description: String,
    /// Its groups by name.
    pub groups: BTreeMap<String, DeploymentGroup>,
    /// Nomad's index of its last change: of two views the higher one is newer.
    pub modify_index: u64,
}

/// One group of a deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeploymentGroup {
    /// Failing brings back the last stable version.
    pub auto_revert: bool,
    /// Nomad would promote by itself; a pause holds that, and a resume does not bring it back.
    pub auto_promote: bool,
    /// Its canaries have been promoted.
    pub promoted: bool,
    /// Every canary that was ever placed, dead ones included: it only grows.
    pub placed_canaries: Vec<String>,
    /// Canaries wanted; 0 means a rolling or in-place update, which is not judged.
    pub desired_canaries: u32,
    /// Instances wanted in the end.
    pub desired_total: u32,
    /// Placed so far.
    pub placed: u32,
    /// Called healthy so far. Goes on counting the dead.
    pub healthy: u32,
    /// Called unhealthy so far.
    pub unhealthy: u32,
    /// When the whole deployment fails unless this group has progressed by then.
    pub require_progress_by: Option<SystemTime>,
}

/// Where a deployment stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeploymentStatus {
    /// `running`.
    Running,
    /// `paused`.
    Paused,
    /// `initializing`, `pending`, `blocked`, `unblocking`: active, but nothing for us to do.
    Waiting,
    /// `successful`.
    Successful,
    /// `failed`.
    Failed,
    /// `cancelled`.
    Cancelled,
    /// A word that this version does not know: nothing is done.
    Other(String),
}

impl DeploymentStatus {
    /// Whether it has ended for good.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Successful | Self::Failed | Self::Cancelled)
    }
}

/// One allocation: what runs as an instance in Consul, under a service id that contains the allocation's.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Its id, a UUID.
    pub id: String,
    /// Its name, such as `cljdoc.cljdoc[0]`; a canary carries the name of the one it is to replace.
    pub name: String,
    /// Whose it is.
    pub job: JobKey,
    /// Its task group.
    pub group: String,
    /// The job version it runs. Events do not say it; lists do.
    pub job_version: Option<u64>,
    /// The deployment that placed it, which may be an old one.
    pub deployment: Option<String>,
    /// What Nomad wants of it.
    pub desired: Desired,
    /// What its client says of it.
    pub client: ClientStatus,
    /// Nomad's verdict on its health, once there is one. Stays true when it dies later.
    pub healthy: Option<bool>,
    /// Nomad's own mark; gone after promotion.
    pub is_canary: bool,
    /// Nomad's index of its last change.
    pub modify_index: u64,
    /// The allocation that took its place after a failure.
    pub next: Option<String>,
}

impl Allocation {
    /// Whether it is wanted and may serve. A `lost` one is not told to stop and may well still answer: that is for its health to say.
    pub fn is_wanted(&self) -> bool {
        self.desired == Desired::Run && matches!(self.client, ClientStatus::Pending | ClientStatus::Running)
    }
}

/// What Nomad wants of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// `run`.
    Run,
    /// `stop` or `evict`: its port dies within milliseconds.
    Stop,
}

/// What a client says of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStatus {
    /// `pending`.
    Pending,
    /// `running`.
    Running,
    /// `complete`.
    Complete,
    /// `failed`.
    Failed,
    /// `lost`: its node does not answer Nomad; it may still serve.
    Lost,
    /// `unknown`: its node is disconnected; it may still serve.
    Unknown,
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// `service`, `system`, `batch`, ...
    pub kind: String,
    /// The version in force.
    pub version: u64,
    /// It was stopped.
    pub is_stopped: bool,
}

/// Everything Nomad said, at one index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// By id: all active ones, and the latest of those that ended.
    pub deployments: BTreeMap<String, Deployment>,
    /// By id: all that run, and the latest of those that ended.
    pub allocations: BTreeMap<String, Allocation>,
    /// By namespace and id. A job that was purged is missing.
    pub jobs: BTreeMap<JobKey, Job>,
    /// The highest index taken in.
    pub index: u64,
}

/// Something we ask Nomad to do with a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Hold it.
    Pause,
    /// Let it go on. Sent with an explicit `Pause: false`.
    Resume,
    /// Promote the canaries of these groups, all in one call.
    Promote {
        /// The groups' names.
        groups: Vec<String>,
    },
    /// Give it up.
    Fail,
    /// Stop one allocation, so that Nomad replaces it.
    Stop {
        /// The allocation's id.
        allocation: String,
    },
    /// Bring an older version of the job back.
    Revert {
        /// The version to bring back.
        to: u64,
        /// The version that must be in force, else nothing is done.
        from: u64,
    },
}

/// How a call ended, as far as its answer says. What really happened is read back from the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// 200. Says nothing about the effect: promoting an unknown group gets it too.
    Accepted {
        /// Nomad's index of the change: a view at or above it shows the effect.
        index: u64,
    },
    /// Nomad refused, in its words.
    Refused {
        /// The answer's status.
        status: u16,
        /// The answer's text, cut to a limit.
        message: String,
    },
    /// Nothing came back, or nothing that could be understood: it may or may not have happened.
    Unknown {
        /// What went wrong.
        error: String,
    },
}

/// How the view of Nomad is to be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct NomadState {
    /// The newest view. The last good one stays when Nomad no longer answers.
    pub view: std::sync::Arc<View>,
    /// Whether lists have been read at least once.
    pub is_complete: bool,
    /// Why the view may be old, if it may.
    pub doubt: Option<String>,
}

/// The allocation behind a Consul service id that Nomad registered: `_nomad-task-<uuid>-...`. Only the prefix and the UUID mean something.
pub fn allocation_of(service_id: &str) -> Option<&str> {
    let rest = service_id.strip_prefix("_nomad-task-")?;
    let id = rest.get(..36)?;
    let is_uuid = id.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    (is_uuid && rest.as_bytes().get(36) == Some(&b'-')).then_some(id)
}

/// How long one whole call to Nomad may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(service_id: &str, allocation: Option<&str>) {
        assert_eq!(allocation_of(service_id), allocation);
    }

    #[test]
    fn an_allocation_is_read_from_a_service_id_of_nomad() {
        let id = "b4e61df9-b095-d64e-f241-23860da1375f";
        check("_nomad-task-b4e61df9-b095-d64e-f241-23860da1375f-backend-cljdoc-http", Some(id));
        check("_nomad-task-b4e61df9-b095-d64e-f241-23860da1375f-group-cljdoc-web-", Some(id));
        check("_nomad-task-b4e61df9-b095-d64e-f241-23860da1375f", None);
        check("_nomad-task-b4e61df9-b095-d64e-f241-23860da1375ü-x", None);
        check("_nomad-server-b4e61df9-b095-d64e-f241-23860da1375f-x", None);
        check("web-1", None);
    }
}
