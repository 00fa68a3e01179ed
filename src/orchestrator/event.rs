//! One line of Nomad's event stream, made into what it says.
//!
//! A line is the work of one index: a plan that stops one allocation and places another arrives as one. What cannot be
//! read is counted, so that whoever folds the rest knows that it has missed something.

use serde::Deserialize;
use serde_json::Value;

use super::answer::{ListedJob, RawPayload};
use super::{Allocation, Deployment};

/// What a line is.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// `{}`, at first and then every 30 s: the stream lives.
    Heartbeat,
    /// What happened at one index.
    Batch(Batch),
    /// The server says in plain text that it ends the stream.
    Closed,
    /// Something else.
    Unreadable,
}

/// What happened at one index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Nomad's index.
    pub index: u64,
    /// In the order of the line, in which an allocation may come before its deployment.
    pub events: Vec<Event>,
    /// How many of the line's events could not be read.
    pub skipped: usize,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// How a deployment stands now.
    Deployment(Deployment),
    /// How an allocation stands now. Its job version is never said.
    Allocation {
        /// The allocation.
        allocation: Allocation,
        /// A plan touched it, which may have moved it to another version of its job.
        is_plan: bool,
    },
    /// How a job stands now.
    Job(ListedJob),
    /// A job is gone, with all that belonged to it, of which no event tells.
    Purged(ListedJob),
}

/// The line with which a server ends the stream begins so.
const CLOSED: &[u8] = b"subscription closed";

/// Reads one line, without its line end.
pub fn parse_line(line: &[u8]) -> Line {
    let line = line.trim_ascii();
    if line.starts_with(CLOSED) {
        return Line::Closed;
    }
    let Ok(raw) = serde_json::from_slice::<RawLine>(line) else { return Line::Unreadable };
    let Some(events) = raw.events else {
        return if raw.index.is_none() { Line::Heartbeat } else { Line::Unreadable };
    };
    let Some(index) = raw.index else { return Line::Unreadable };
    let mut batch = Batch { index, ..Batch::default() };
    for event in events {
        match serde_json::from_value::<RawEvent>(event) {
            Ok(event) => batch.events.extend(event.read(index)),
            Err(_unreadable) => batch.skipped += 1,
        }
    }
    Line::Batch(batch)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawLine {
    index: Option<u64>,
    events: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawEvent {
    topic: String,
    #[serde(rename = "Type")]
    kind: String,
    payload: RawPayload,
}

impl RawEvent {
    /// `None` where the topic is none of ours.
    fn read(self, index: u64) -> Option<Event> {
        let RawPayload { deployment, allocation, job } = self.payload;
        match self.topic.as_str() {
            "Deployment" => deployment.map(|raw| Event::Deployment(raw.into())),
            "Allocation" => {
                let is_plan = self.kind == "PlanResult";
                allocation.map(|raw| Event::Allocation { allocation: raw.into(), is_plan })
            }
            "Job" => {
                let job = ListedJob::from(job?);
                // A job that is only stopped is changed by that; of one that is purged the last state is shown.
                let is_purged = self.kind.ends_with("Deregistered") && (!job.is_stopped || job.modify_index < index);
                Some(if is_purged { Event::Purged(job) } else { Event::Job(job) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &Line) {
        assert_eq!(parse_line(line.as_bytes()), *expected, "{line}");
    }

    fn batch(index: u64, skipped: usize) -> Line {
        Line::Batch(Batch { index, events: Vec::new(), skipped })
    }

    #[test]
    fn a_line_is_what_it_looks_like() {
        check("{}", &Line::Heartbeat);
        check("{}\r", &Line::Heartbeat);
        check("subscription closed by server, client should resubscribe", &Line::Closed);
        check("", &Line::Unreadable);
        check("<html>", &Line::Unreadable);
        check(r#"{"Index":7"#, &Line::Unreadable);
        check(r#"{"Index":7}"#, &Line::Unreadable);
        check(r#"{"Index":7,"Events":[]}"#, &batch(7, 0));
    }

    #[test]
    fn events_of_other_topics_are_none_of_ours_and_unreadable_ones_are_counted() {
        check(r#"{"Index":7,"Events":[{"Topic":"Node","Type":"NodeDrain","Payload":{"Node":{}}}]}"#, &batch(7, 0));
        check(r#"{"Index":7,"Events":[{"Topic":"Deployment","Type":"x","Payload":{"Deployment":{"ID":1}}}]}"#, &batch(7, 1));
        check(r#"{"Index":7,"Events":[{"Topic":"Deployment"},3]}"#, &batch(7, 2));
    }

    #[track_caller]
    fn check_job(kind: &str, stop: bool, modify_index: u64, is_purged: bool) {
        let job = format!(r#"{{"ID":"web","Version":1,"Stop":{stop},"ModifyIndex":{modify_index}}}"#);
        let line = format!(r#"{{"Index":9,"Events":[{{"Topic":"Job","Type":"{kind}","Payload":{{"Job":{job}}}}}]}}"#);
        let Line::Batch(batch) = parse_line(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(matches!(batch.events[..], [Event::Purged(_)]), is_purged, "{line}");
    }

    #[test]
    fn a_purge_is_told_from_a_stop() {
        check_job("JobDeregistered", true, 9, false);
        check_job("JobDeregistered", false, 7, true);
        // Stopped before, purged now.
        check_job("JobDeregistered", true, 7, true);
        check_job("JobBatchDeregistered", true, 7, true);
        check_job("JobRegistered", false, 9, false);
        check_job("EvaluationUpdated", true, 7, false);
    }
}
