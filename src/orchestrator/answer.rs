//! Nomad's JSON, as far as a deployment needs it, made into ours.
//!
//! Fields that are unknown are passed over, and `null` is the same as missing: both change between Nomad's versions.
//! What has no id, or the wrong type where we look, is an error: to go on without it would be to take it for gone.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Allocation, ClientStatus, Deployment, DeploymentGroup, DeploymentStatus, Desired, Job, JobKey};

/// A job as `/v1/jobs` shows it: without its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedJob {
    /// Which.
    pub key: JobKey,
    /// `service`, `system`, ...
    pub kind: String,
    /// The version in force, where the answer says it.
    pub version: Option<u64>,
    /// It was stopped.
    pub is_stopped: bool,
    /// Nomad's index of its last change.
    pub modify_index: u64,
}

impl ListedJob {
    /// What is known of the job, if its version is `version` unless the answer said otherwise.
    pub fn job(&self, version: u64) -> Job {
        Job { kind: self.kind.clone(), version: self.version.unwrap_or(version), is_stopped: self.is_stopped }
    }
}

/// `/v1/deployments`.
pub fn parse_deployments(body: &[u8]) -> Result<Vec<Deployment>, serde_json::Error> {
    parse_list::<RawDeployment, _>(body)
}

/// `/v1/deployment/ID`.
pub fn parse_deployment(body: &[u8]) -> Result<Deployment, serde_json::Error> {
    serde_json::from_slice::<RawDeployment>(body).map(Deployment::from)
}

/// `/v1/allocations`, `/v1/job/ID/allocations`, `/v1/deployment/allocations/ID`.
pub fn parse_allocations(body: &[u8]) -> Result<Vec<Allocation>, serde_json::Error> {
    parse_list::<RawAllocation, _>(body)
}

/// `/v1/allocation/ID`.
pub fn parse_allocation(body: &[u8]) -> Result<Allocation, serde_json::Error> {
    serde_json::from_slice::<RawAllocation>(body).map(Allocation::from)
}

/// `/v1/jobs`.
pub fn parse_jobs(body: &[u8]) -> Result<Vec<ListedJob>, serde_json::Error> {
    parse_list::<RawJob, _>(body)
}

/// `/v1/job/ID`.
pub fn parse_job(body: &[u8]) -> Result<ListedJob, serde_json::Error> {
    serde_json::from_slice::<RawJob>(body).map(ListedJob::from)
}

/// The index of the change that an accepted call made.
pub fn parse_accepted(body: &[u8]) -> Result<u64, serde_json::Error> {
    serde_json::from_slice::<RawAccepted>(body).map(|accepted| accepted.index)
}

/// A list, which is `null` when it is empty in some versions.
fn parse_list<Raw: DeserializeOwned, T: From<Raw>>(body: &[u8]) -> Result<Vec<T>, serde_json::Error> {
    let list: Option<Vec<Raw>> = serde_json::from_slice(body)?;
    Ok(list.unwrap_or_default().into_iter().map(T::from).collect())
}

#[derive(Deserialize)]
struct RawAccepted {
    #[serde(rename = "Index")]
    index: u64,
}

/// What an event carries, by topic.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawPayload {
    pub(super) deployment: Option<RawDeployment>,
    pub(super) allocation: Option<RawAllocation>,
    pub(super) job: Option<RawJob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawDeployment {
    #[serde(rename = "ID")]
    id: String,
    namespace: Option<String>,
    #[serde(rename = "JobID")]
    job_id: String,
    job_version: Option<u64>,
    is_multiregion: Option<bool>,
    status: String,
    status_description: Option<String>,
    task_groups: Option<BTreeMap<String, Option<RawGroup>>>,
    modify_index: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawGroup {
    auto_revert: Option<bool>,
    auto_promote: Option<bool>,
    promoted: Option<bool>,
    placed_canaries: Option<Vec<String>>,
    desired_canaries: Option<u32>,
    desired_total: Option<u32>,
    placed_allocs: Option<u32>,
    healthy_allocs: Option<u32>,
    unhealthy_allocs: Option<u32>,
    require_progress_by: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawAllocation {
    #[serde(rename = "ID")]
    id: String,
    name: Option<String>,
    namespace: Option<String>,
    #[serde(rename = "JobID")]
    job_id: String,
    task_group: Option<String>,
    job_version: Option<u64>,
    job: Option<RawVersion>,
    #[serde(rename = "DeploymentID")]
    deployment_id: Option<String>,
    desired_status: Option<String>,
    client_status: Option<String>,
    deployment_status: Option<RawHealth>,
    modify_index: u64,
    next_allocation: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawVersion {
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealth {
    healthy: Option<bool>,
    canary: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawJob {
    #[serde(rename = "ID")]
    id: String,
    namespace: Option<String>,
    #[serde(rename = "Type")]
    kind: Option<String>,
    version: Option<u64>,
    stop: Option<bool>,
    modify_index: u64,
}

fn key(namespace: Option<String>, job: String) -> JobKey {
    JobKey { namespace: filled(namespace).unwrap_or_else(|| "default".to_owned()), job }
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl From<RawDeployment> for Deployment {
    fn from(raw: RawDeployment) -> Self {
        let groups = raw.task_groups.unwrap_or_default();
        Self {
            id: raw.id,
            job: key(raw.namespace, raw.job_id),
            job_version: raw.job_version.unwrap_or_default(),
            is_multiregion: raw.is_multiregion.unwrap_or_default(),
            status: status(raw.status),
            description: raw.status_description.unwrap_or_default(),
            groups: groups.into_iter().map(|(name, group)| (name, group.unwrap_or_default().into())).collect(),
            modify_index: raw.modify_index,
        }
    }
}

impl From<RawGroup> for DeploymentGroup {
    fn from(raw: RawGroup) -> Self {
        Self {
            auto_revert: raw.auto_revert.unwrap_or_default(),
            auto_promote: raw.auto_promote.unwrap_or_default(),
            promoted: raw.promoted.unwrap_or_default(),
            placed_canaries: raw.placed_canaries.unwrap_or_default(),
            desired_canaries: raw.desired_canaries.unwrap_or_default(),
            desired_total: raw.desired_total.unwrap_or_default(),
            placed: raw.placed_allocs.unwrap_or_default(),
            healthy: raw.healthy_allocs.unwrap_or_default(),
            unhealthy: raw.unhealthy_allocs.unwrap_or_default(),
            require_progress_by: raw.require_progress_by.as_deref().and_then(time),
        }
    }
}

/// A time of Go's, whose zero (the year 1) means none.
fn time(text: &str) -> Option<SystemTime> {
    let time = text.parse::<jiff::Timestamp>().ok()?;
    (time > jiff::Timestamp::UNIX_EPOCH).then(|| SystemTime::from(time))
}

fn status(word: String) -> DeploymentStatus {
    match word.as_str() {
        "running" => DeploymentStatus::Running,
        "paused" => DeploymentStatus::Paused,
        "initializing" | "pending" | "blocked" | "unblocking" => DeploymentStatus::Waiting,
        "successful" => DeploymentStatus::Successful,
        "failed" => DeploymentStatus::Failed,
        "cancelled" => DeploymentStatus::Cancelled,
        _ => DeploymentStatus::Other(word),
    }
}

impl From<RawAllocation> for Allocation {
    fn from(raw: RawAllocation) -> Self {
        let health = raw.deployment_status.unwrap_or(RawHealth { healthy: None, canary: None });
        Self {
            id: raw.id,
            name: raw.name.unwrap_or_default(),
            job: key(raw.namespace, raw.job_id),
            group: raw.task_group.unwrap_or_default(),
            job_version: raw.job_version.or_else(|| raw.job.and_then(|job| job.version)),
            deployment: filled(raw.deployment_id),
            desired: match raw.desired_status.as_deref() {
                Some("stop" | "evict") => Desired::Stop,
                _ => Desired::Run,
            },
            client: match raw.client_status.as_deref() {
                Some("pending") => ClientStatus::Pending,
                Some("running") => ClientStatus::Running,
                Some("complete") => ClientStatus::Complete,
                Some("failed") => ClientStatus::Failed,
                Some("lost") => ClientStatus::Lost,
                _ => ClientStatus::Unknown,
            },
            healthy: health.healthy,
            is_canary: health.canary.unwrap_or_default(),
            modify_index: raw.modify_index,
            next: filled(raw.next_allocation),
        }
    }
}

impl From<RawJob> for ListedJob {
    fn from(raw: RawJob) -> Self {
        Self {
            key: key(raw.namespace, raw.id),
            kind: filled(raw.kind).unwrap_or_else(|| "service".to_owned()),
            version: raw.version,
            is_stopped: raw.stop.unwrap_or_default(),
            modify_index: raw.modify_index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_without_most_of_its_fields_is_read_all_the_same() {
        let body = br#"{"ID":"d","JobID":"web","Status":"rolling","ModifyIndex":7,"New":{"a":[1]},
            "TaskGroups":{"a":null,"b":{"PlacedCanaries":null,"RequireProgressBy":"0001-01-01T00:00:00Z"}}}"#;
        let deployment = parse_deployment(body).unwrap();
        assert_eq!(deployment.job.to_string(), "web");
        assert_eq!(deployment.status, DeploymentStatus::Other("rolling".to_owned()));
        assert_eq!(deployment.groups["a"], DeploymentGroup::default());
        assert_eq!(deployment.groups["b"], DeploymentGroup::default());
    }

    #[test]
    fn a_deadline_keeps_its_fraction_of_a_second() {
        let at = time("2026-11-23T15:54:32.655147431Z").unwrap();
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!((since.as_secs(), since.subsec_nanos()), (1_795_449_272, 655_147_431));
        assert_eq!(time("soon"), None);
    }

    #[track_caller]
    fn check_allocation(more: &str, expected: (Option<u64>, Desired, ClientStatus, Option<bool>, bool)) {
        let body = format!(r#"{{"ID":"a","JobID":"web","ModifyIndex":7{more}}}"#);
        let found = parse_allocation(body.as_bytes()).unwrap();
        assert_eq!((found.job_version, found.desired, found.client, found.healthy, found.is_canary), expected);
    }

    #[test]
    fn an_allocation_is_read_from_lists_events_and_by_itself() {
        let unknown = ClientStatus::Unknown;
        check_allocation("", (None, Desired::Run, unknown, None, false));
        check_allocation(r#","JobVersion":3,"ClientStatus":"lost""#, (Some(3), Desired::Run, ClientStatus::Lost, None, false));
        check_allocation(r#","Job":{"Version":4},"DesiredStatus":"evict""#, (Some(4), Desired::Stop, unknown, None, false));
        let health = r#","Job":null,"DeploymentStatus":{"Healthy":false,"Canary":true}"#;
        check_allocation(health, (None, Desired::Run, unknown, Some(false), true));
    }

    #[test]
    fn a_list_is_read_whole_or_not_at_all() {
        assert_eq!(parse_deployments(b"null").unwrap(), []);
        assert_eq!(parse_jobs(b"[]").unwrap(), []);
        assert!(parse_allocations(br#"[{"JobID":"web","ModifyIndex":7}]"#).is_err());
        assert!(parse_deployments(b"<html>").is_err());
    }
}
