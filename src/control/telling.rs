//! What is answered to `list` and `show`: the same values once as text for people and once as JSON. Pure.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::chronicle::{Ended, Line};
use crate::names::Share;
use crate::orchestrator::deploy;
use crate::rollout::explain::explain;
use crate::rollout::reader::Counts;
use crate::rollout::{Outcome, Report};
use crate::steering::event::rfc3339;

/// One service's rollout.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    /// `web@consulcatalog`.
    pub service: String,
    /// The job behind it.
    pub job: Option<String>,
    /// Where it stands.
    pub report: Report,
    /// What was said lately.
    pub lines: Vec<&'a Line>,
    /// How the last one ended.
    pub ended: Option<&'a Ended>,
    /// How it ended, for whoever waits for that; none while it is open.
    pub verdict: Option<&'static str>,
    /// The deployment that brings it.
    pub deployment: Option<Deployment>,
}

/// A deployment of Nomad's, at a moment of control's timeline.
#[derive(Debug)]
pub(super) struct Deployment {
    pub report: deploy::Report,
    pub now: Duration,
}

impl Deployment {
    /// Where it stands, and why it goes no further just now.
    fn sentences(&self) -> Vec<String> {
        let deploy::Report { version, phase, is_held, is_kept, held_until, waits, hands_off, outcome, .. } = &self.report;
        if let Some(outcome) = outcome {
            return vec![format!("The deployment of version {version} has ended: {outcome}.")];
        }
        let mut first = format!("The deployment of version {version} is in phase {phase}");
        if *is_held {
            first.push_str(", paused by us");
        }
        if let Some(until) = held_until {
            let _ = write!(first, " for at most {} min more", until.saturating_sub(self.now).as_secs().div_ceil(60));
        }
        first.push('.');
        let mut sentences = vec![first];
        if *is_kept {
            sentences.push("A person holds it: it is neither promoted nor failed before `tidegate rollout resume`.".to_owned());
        }
        sentences.extend(hands_off.iter().map(|why| format!("Nomad is no longer asked for anything: {why}.")));
        sentences.extend(waits.iter().map(|why| format!("It waits: {why}.")));
        sentences
    }
}

/// A drained server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drained {
    /// Its service.
    pub service: String,
    /// Its URL.
    pub server: String,
    /// Its instance.
    pub instance: Option<String>,
    /// Requests that it still has.
    pub in_flight: u32,
    /// It gets no request even when nobody else can serve.
    pub is_closed: bool,
}

/// The table of `list`.
pub(super) fn list(rollouts: &[Shown<'_>], drained: &[Drained]) -> (String, Value) {
    let mut text = String::new();
    let rows: Vec<[String; 7]> = rollouts.iter().map(row).collect();
    if rows.is_empty() {
        text.push_str("No rollout is under way.\n");
    } else {
        table(&mut text, ["SERVICE", "JOB", "VERSION", "PHASE", "SHARE", "CANARY FAILED", "STABLE FAILED"], &rows);
    }
    for Drained { service, server, in_flight, is_closed, .. } in drained {
        let even = if *is_closed { ", even if nobody else serves" } else { "" };
        let _ = writeln!(text, "Drained: {server} of {service}, {in_flight} requests running{even}.");
    }
    let rollouts: Vec<Value> =
        rollouts.iter().map(|shown| json!({ "service": shown.service, "job": shown.job, "rollout": shown.report })).collect();
    let drained: Vec<Value> = drained
        .iter()
        .map(|one| {
            json!({
                "service": one.service, "server": one.server, "instance": one.instance, "in_flight": one.in_flight,
                "closed": one.is_closed,
            })
        })
        .collect();
    (text, json!({ "rollouts": rollouts, "drained": drained }))
}

fn row(shown: &Shown<'_>) -> [String; 7] {
    let report = &shown.report;
    let phase =
        if report.step > 0 { format!("{} {}/{}", report.phase, report.step, report.steps) } else { report.phase.to_owned() };
    let share = Share::from_fraction(report.share).to_string();
    let counts = |Counts { all, fail, .. }: Counts| format!("{fail} of {all}");
    [
        shown.service.clone(),
        shown.job.clone().unwrap_or_else(|| "-".to_owned()),
        report.version.clone().unwrap_or_default(),
        phase,
        if report.fixed_share.is_some() { format!("{share} (fixed)") } else { share },
        counts(report.canary),
        counts(report.stable),
    ]
}

fn table<const N: usize>(text: &mut String, head: [&str; N], rows: &[[String; N]]) {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
}

/// The sentences of `show`.
pub(super) fn show(now: SystemTime, started: SystemTime, rollouts: &[Shown<'_>]) -> (String, Value) {
    if rollouts.is_empty() {
        return ("No rollout is under way.\n".to_owned(), json!({ "started": moment(started), "rollouts": [] }));
    }
    let mut texts = Vec::new();
    let mut values = Vec::new();
    for Shown { service, job, report, lines, ended, verdict, deployment } in rollouts {
        let mut sentences = explain(report);
        if sentences.is_empty() {
            sentences.push("There is no rollout.".to_owned());
            sentences.extend(ended.map(|ended| last(now, ended)));
        }
        sentences.extend(deployment.iter().flat_map(Deployment::sentences));
        let mut text = match job {
            Some(job) => format!("{service} (job {job})\n"),
            None => format!("{service}\n"),
        };
        for sentence in &sentences {
            let _ = writeln!(text, "  {sentence}");
        }
        texts.push(text);
        let rollout = report.version.is_some().then_some(report);
        values.push(json!({
            "service": service, "job": job, "verdict": verdict, "sentences": sentences, "rollout": rollout, "log": lines, "ended": ended,
            "deployment": deployment.as_ref().map(|deployment| &deployment.report),
        }));
    }
    (texts.join("\n"), json!({ "started": moment(started), "rollouts": values }))
}

fn last(now: SystemTime, ended: &Ended) -> String {
    let how = match ended.outcome {
        Outcome::Promoted => "was promoted",
        Outcome::Failed => "failed",
        Outcome::Released => "was released",
        Outcome::Gone => "left",
    };
    let minutes = now.duration_since(ended.at).unwrap_or_default().as_secs() / 60;
    format!("The last canary ({}) {how} {minutes} min ago: {}.", ended.version, ended.sentence)
}

fn moment(at: SystemTime) -> Value {
    rfc3339(&at, serde_json::value::Serializer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            version: Some("v2".to_owned()),
            phase: "ramp",
            step: 1,
            steps: 3,
            share: 0.05,
            canary: Counts { all: 41, fail: 0, slow: 0 },
            stable: Counts { all: 812, fail: 2, slow: 0 },
            ..Report::default()
        }
    }

    fn shown(report: Report) -> Shown<'static> {
        let service = "web@consulcatalog".to_owned();
        Shown {
            service,
            job: Some("blue/web".to_owned()),
            report,
            lines: Vec::new(),
            ended: None,
            verdict: None,
            deployment: None,
        }
    }

    #[test]
    fn a_list_is_a_table_and_says_which_servers_are_drained() {
        let drained = Drained {
            service: "web@consulcatalog".to_owned(),
            server: "http://10.0.0.1:80".to_owned(),
            instance: None,
            in_flight: 3,
            is_closed: false,
        };
        let (text, value) = list(&[shown(report())], &[drained]);
        let expected = "\
SERVICE            JOB       VERSION  PHASE     SHARE  CANARY FAILED  STABLE FAILED
web@consulcatalog  blue/web  v2       ramp 1/3  5 %    0 of 41        2 of 812
Drained: http://10.0.0.1:80 of web@consulcatalog, 3 requests running.
";
        assert_eq!(text, expected);
        assert_eq!((&value["rollouts"][0]["rollout"]["phase"], &value["drained"][0]["in_flight"]), (&json!("ramp"), &json!(3)));
        assert_eq!(list(&[], &[]).0, "No rollout is under way.\n");
    }

    #[test]
    fn a_fixed_share_is_told_in_the_list() {
        let (text, _) = list(&[shown(Report { fixed_share: Some(0.05), ..report() })], &[]);
        assert!(text.contains("5 % (fixed)"), "{text}");
    }

    #[test]
    fn a_service_without_a_canary_says_so() {
        let now = SystemTime::UNIX_EPOCH;
        let (text, value) = show(now, now, &[shown(Report::default())]);
        assert_eq!(text, "web@consulcatalog (job blue/web)\n  There is no rollout.\n");
        assert_eq!(value["started"], "1970-01-01T00:00:00Z");
        assert!(value["rollouts"][0]["rollout"].is_null());
    }
}
