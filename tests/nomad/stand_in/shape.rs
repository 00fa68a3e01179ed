//! How the stand-in writes things: as the recorded Nomad did, by filling in its own answers.

use std::sync::LazyLock;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tidegate::orchestrator::JobKey;

use super::cluster::{Allocation, Deployment, Job};

/// An allocation as an event shows it once its client has written of it and it was told to stop.
static ALLOCATION_EVENT: LazyLock<Value> = LazyLock::new(|| {
    let lines = include_str!("../recorded/events_stable_drained_paused.ndjson").lines();
    let mut events = lines
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .flat_map(|mut line| line["Events"].as_array_mut().map(std::mem::take).unwrap_or_default());
    let shown = events.find(|event| event["Payload"]["Allocation"]["DesiredStatus"] == "stop");
    shown.expect("a recorded allocation")["Payload"]["Allocation"].clone()
});
static ALLOCATION: LazyLock<Value> = LazyLock::new(|| body(include_str!("../recorded/allocation_canary_stopped.http")));
static ALLOCATION_LISTED: LazyLock<Value> = LazyLock::new(|| body(include_str!("../recorded/job_allocations.http"))[0].clone());
static JOB: LazyLock<Value> = LazyLock::new(|| body(include_str!("../recorded/job.http")));

fn body(recorded: &str) -> Value {
    serde_json::from_str(recorded.rsplit_once("\n\n").expect("a body").1).expect("recorded JSON")
}

pub fn event(index: u64, topic: &str, kind: &str, key: &JobKey, id: &str, filter: &[&str], payload: Value) -> Value {
    let filter = if filter.is_empty() { Value::Null } else { json!(filter) };
    json!({
        "FilterKeys": filter, "Index": index, "Key": id, "Namespace": key.namespace,
        "Payload": {topic: payload}, "Topic": topic, "Type": kind,
    })
}

pub fn deployment(deployment: &Deployment) -> Value {
    let groups: Map<String, Value> = deployment.groups.iter().map(|(name, group)| {
        let canaries = if group.canaries.is_empty() { Value::Null } else { json!(group.canaries) };
        let group = json!({
            "AutoPromote": group.auto_promote, "AutoRevert": group.auto_revert, "DesiredCanaries": group.desired_canaries,
            "DesiredTotal": group.desired_total, "HealthyAllocs": group.healthy, "PlacedAllocs": group.placed,
            "PlacedCanaries": canaries, "ProgressDeadline": u64::try_from(group.progress_deadline.as_nanos()).unwrap(),
            "Promoted": group.promoted, "RequireProgressBy": text(group.require_progress_by), "UnhealthyAllocs": group.unhealthy,
        });
        (name.clone(), group)
    }).collect();
    json!({
        "CreateIndex": deployment.create_index, "CreateTime": nanoseconds(deployment.create_time), "EvalPriority": 50,
        "ID": deployment.id, "IsMultiregion": false, "JobCreateIndex": deployment.job_create_index, "JobID": deployment.key.job,
        "JobModifyIndex": deployment.job_modify_index, "JobSpecModifyIndex": deployment.job_modify_index,
        "JobVersion": deployment.version, "ModifyIndex": deployment.modify_index, "ModifyTime": nanoseconds(deployment.create_time),
        "Namespace": deployment.key.namespace, "Status": deployment.status, "StatusDescription": deployment.description,
        "TaskGroups": groups,
    })
}

/// What is missing from an event is what is empty.
pub fn allocation_event(allocation: &Allocation) -> Value {
    let mut shown = ALLOCATION_EVENT.clone();
    fill(&mut shown, allocation);
    let fields = shown.as_object_mut().unwrap();
    if !allocation.is_reported {
        for field in ["ClientDescription", "NetworkStatus", "TaskStates"] {
            fields.shift_remove(field);
        }
    }
    if allocation.desired_description.is_empty() {
        fields.shift_remove("DesiredDescription");
    }
    if !allocation.is_asked {
        fields.shift_remove("DesiredTransition");
    }
    match health(allocation) {
        Value::Null => _ = fields.shift_remove("DeploymentStatus"),
        health => _ = fields.insert("DeploymentStatus".to_owned(), health),
    }
    for (field, other) in [("NextAllocation", &allocation.next), ("PreviousAllocation", &allocation.previous)] {
        match other {
            Some(other) => _ = fields.insert(field.to_owned(), json!(other)),
            None => _ = fields.shift_remove(field),
        }
    }
    shown
}

/// `/v1/allocation/ID`.
pub fn allocation(allocation: &Allocation, job: Option<&Job>) -> Value {
    let mut shown = ALLOCATION.clone();
    fill(&mut shown, allocation);
    let fields = shown.as_object_mut().unwrap();
    match health(allocation) {
        Value::Null => _ = fields.shift_remove("DeploymentStatus"),
        health => _ = fields.insert("DeploymentStatus".to_owned(), health),
    }
    if allocation.desired_description.is_empty() {
        fields.shift_remove("DesiredDescription");
    }
    if !allocation.is_asked {
        fields.shift_remove("DesiredTransition");
    }
    let mut of_job = job.map_or_else(|| JOB.clone(), |job| self::job(&allocation.key, job));
    of_job["Version"] = json!(allocation.version);
    fields.insert("Job".to_owned(), of_job);
    shown
}

/// One of a list: it does not say the deployment.
pub fn allocation_listed(allocation: &Allocation, with_states: bool) -> Value {
    let mut shown = ALLOCATION_LISTED.clone();
    fill(&mut shown, allocation);
    let fields = shown.as_object_mut().unwrap();
    fields.shift_remove("DeploymentID");
    fields.shift_remove("AllocModifyIndex");
    fields.insert("DeploymentStatus".to_owned(), health(allocation));
    fields.insert("JobVersion".to_owned(), json!(allocation.version));
    fields.insert("NextAllocation".to_owned(), json!(allocation.next.clone().unwrap_or_default()));
    if !with_states {
        fields.insert("TaskStates".to_owned(), Value::Null);
    }
    shown
}

fn fill(shown: &mut Value, allocation: &Allocation) {
    let of_allocation = json!({
        "ID": allocation.id, "Name": allocation.name, "Namespace": allocation.key.namespace, "JobID": allocation.key.job,
        "TaskGroup": allocation.group, "DeploymentID": allocation.deployment.clone().unwrap_or_default(),
        "DesiredStatus": allocation.desired, "DesiredDescription": allocation.desired_description, "ClientStatus": allocation.client,
        "CreateIndex": allocation.create_index, "ModifyIndex": allocation.modify_index, "AllocModifyIndex": allocation.create_index,
    });
    shown.as_object_mut().unwrap().extend(of_allocation.as_object().unwrap().clone());
}

fn health(allocation: &Allocation) -> Value {
    let Some((is_canary, is_healthy, index)) = allocation.health else { return Value::Null };
    let at = is_healthy.map(|_| "2026-11-23T15:44:32.655147431Z");
    json!({"Canary": is_canary, "Healthy": is_healthy, "ModifyIndex": index, "Timestamp": at})
}

/// `/v1/job/ID`.
pub fn job(key: &JobKey, job: &Job) -> Value {
    let mut shown = JOB.clone();
    let groups: Vec<Value> = job
        .spec
        .groups
        .iter()
        .map(|(name, group)| {
            let mut shown = JOB["TaskGroups"][0].clone();
            (shown["Name"], shown["Count"]) = (json!(name), json!(group.count));
            shown["Update"]["Canary"] = json!(group.canary);
            shown["Update"]["AutoRevert"] = json!(group.auto_revert);
            shown["Update"]["AutoPromote"] = json!(group.auto_promote);
            shown["Update"]["MaxParallel"] = json!(group.max_parallel);
            shown
        })
        .collect();
    let of_job = json!({
        "ID": key.job, "Name": key.job, "Namespace": key.namespace, "Type": job.spec.kind, "Version": job.version(),
        "Stop": job.is_stopped, "Status": job.status, "CreateIndex": job.create_index, "JobModifyIndex": job.job_modify_index,
        "ModifyIndex": job.modify_index, "TaskGroups": groups,
    });
    shown.as_object_mut().unwrap().extend(of_job.as_object().unwrap().clone());
    shown
}

/// One of `/v1/jobs`, as Nomad's API describes it (none was recorded): without the version.
pub fn job_listed(key: &JobKey, job: &Job) -> Value {
    json!({
        "ID": key.job, "ParentID": "", "Name": key.job, "Namespace": key.namespace, "Datacenters": ["dc1"], "NodePool": "default",
        "Multiregion": null, "Type": job.spec.kind, "Priority": 50, "Periodic": false, "ParameterizedJob": false,
        "Stop": job.is_stopped, "Status": job.status, "StatusDescription": "", "JobSummary": null,
        "CreateIndex": job.create_index, "ModifyIndex": job.modify_index, "JobModifyIndex": job.job_modify_index, "SubmitTime": 0,
    })
}

fn nanoseconds(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn text(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap().to_string()
}
