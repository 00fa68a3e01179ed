//! A rollout in sentences, for a person who asks: what was seen, where it stands, why it waits, what comes next and when.

use std::fmt::Write;
use std::time::Duration;

use super::evidence::{CONFIRM_MIN, DOUBT_AT, could_have_missed};
use super::machine::{Arm, Report};
use super::policy::FEW;
use super::reader::Counts;
use super::suspension::{DOUBT_PROBES, SILENT_MAX, UNCLEAR_THIN_AFTER};
use super::trial::{ENVIRONMENT_MAX, PROBES_GOOD, UNCLEAR_AFTER, WATCH};
use crate::names::Share;

/// Evidence below this is everyday noise, and not worth a sentence.
const EVIDENCE_TOLD: f64 = 2.0;

/// Explains where a rollout stands. Empty when there is none.
pub fn explain(report: &Report) -> Vec<String> {
    let Some(version) = &report.version else { return Vec::new() };
    let mut sentences = vec![headline(report, version)];
    if let Some(fixed) = report.fixed_share
        && matches!(report.phase, "probe" | "ramp" | "suspended" | "earned" | "hold")
    {
        sentences.push(format!(
            "A person has fixed its share at {}: it moves no further by itself, but is still taken away if the canary fails. \
             `tidegate rollout resume` lets it be judged on.",
            Share::from_fraction(fixed)
        ));
    }
    sentences.extend(seen(report));
    sentences.extend(evidence(report));
    sentences.extend(next(report));
    sentences.extend(remarks(report));
    if !report.said.is_empty() {
        sentences.push(format!("Last decision: {}.", report.said));
    }
    sentences
}

fn headline(report: &Report, version: &str) -> String {
    let (share, since) = (Share::from_fraction(report.share), span(report.phase_seconds));
    match report.phase {
        "probe" => format!("The canary ({version}) has been probed by us for {since} and gets no request yet."),
        "ramp" => {
            let (step, steps) = (report.step, report.steps);
            format!("The canary ({version}) gets {share} of the requests, in step {step} of {steps} for {since} now.")
        }
        "suspended" => format!(
            "The canary ({version}) has been suspended for {since}: it gets no request until it is known who is to blame."
        ),
        "earned" => format!("The canary ({version}) passed every step {since} ago and gets {share} of the requests."),
        "hold" => format!(
            "The canary ({version}) has been put off for {since}, because nothing could be concluded: it gets no request."
        ),
        "released" => format!("The canary ({version}) has not been judged for {since}; it gets {share} of the requests."),
        _ => format!("The canary ({version}) failed {since} ago. It gets no request unless nobody else can serve."),
    }
}

/// What was seen in each arm, and how blind that is.
fn seen(report: &Report) -> Vec<String> {
    let judged = Duration::from_secs_f64(report.judged_at_seconds.max(0.0));
    let arm = |name: &str, arm: Arm, counts: Counts| {
        let Counts { all, fail, slow } = counts;
        let mut sentence = format!("{name} ({} of {} instances fit): ", arm.fit, arm.instances);
        let _ = match all {
            0 => write!(sentence, "no requests that count yet"),
            _ => write!(sentence, "{fail} of {} failed", plural(all, "request")),
        };
        if slow > 0 {
            let _ = write!(sentence, ", {slow} had no first byte after {}", span(judged.as_secs_f64()));
        }
        sentence
    };
    let canary = format!("{}.", arm("Canary", report.canary_arm, report.canary));
    let hour = report.stable_hour;
    let mut stable = arm("Stable", report.stable_arm, report.stable);
    if report.stable.all > 0 {
        stable.push_str(" beside it");
    }
    if hour.all > 0 {
        let _ = write!(stable, "; {} of {} in its last hour", hour.fail, hour.all);
    }
    stable.push('.');
    let mut sentences = vec![canary, stable];
    let Counts { all, fail, .. } = report.canary;
    if all > 0 && fail == 0 {
        let missed = percent(could_have_missed(all));
        sentences.push(format!("0 failures in {}: a failure rate above {missed} would have shown.", plural(all, "request")));
    } else if fail > 0 {
        let (rate, allowed) = (percent(f64::from(fail) / f64::from(all.max(1))), percent(report.tolerated_rate));
        let allowed = if report.has_history {
            format!("stable's last hour allows {allowed}")
        } else {
            "stable's last hour had too few requests to say what is usual".to_owned()
        };
        sentences.push(format!("{} in {}: that is {rate}, and {allowed}.", plural(fail, "failure"), plural(all, "request")));
    }
    sentences
}

/// What leans against it, or for it.
fn evidence(report: &Report) -> Vec<String> {
    let tests = [
        (report.evidence_concurrent, "that it fails more than stable at the same time", "takes its share away"),
        (report.evidence_history, "that it fails more than stable's last hour allows", "takes its share away"),
        (report.evidence_slow, "that it is slow more often than stable", "takes its share away"),
        (report.evidence_better, "that it fails less than stable", "gives it every step at once"),
    ];
    let told = |(value, what, does): (f64, &str, &str)| {
        let counts = report.has_history || !what.contains("last hour");
        let doubts = if what.contains("last hour") { format!("{DOUBT_AT:.0} puts it in doubt once, ") } else { String::new() };
        (value >= EVIDENCE_TOLD && counts)
            .then(|| format!("The evidence {what} stands at {value:.0}; {doubts}{:.0} {does}.", report.threshold))
    };
    tests.into_iter().filter_map(told).collect()
}

/// Why it waits, what comes next, and when at the latest.
fn next(report: &Report) -> Vec<String> {
    match report.phase {
        "probe" => next_of_probe(report),
        "ramp" | "earned" if report.stable_arm.fit == 0 => {
            vec!["No stable instance is fit, so the canary serves as the last resort, and nothing counts until one is.".to_owned()]
        }
        "ramp" | "earned" if report.fixed_share.is_some() => Vec::new(),
        "ramp" => next_of_ramp(report),
        "suspended" if report.confirms => next_of_suspension(report),
        "suspended" => vec![format!(
            "It was slow, so we probe it once a second: {} in a row of {PROBES_GOOD} that give its share back. If it answers none \
             for {} it has failed; at the latest in {} it is put off.",
            plural(report.good_probes.into(), "good answer"),
            span(SILENT_MAX.as_secs_f64()),
            left(UNCLEAR_AFTER, report.phase_seconds),
        )],
        "earned" if report.by_age => vec![format!(
            "It is still judged. Next: it counts as one of the others, in {} unless it fails or stable is disturbed.",
            left(WATCH, report.step_seconds)
        )],
        "earned" => vec![
            "Every instance counts the same, and it is still judged. Next: whoever declared it a canary promotes it, or the older \
             instances leave; we do not set a time for that."
                .to_owned(),
        ],
        "hold" => {
            let again = span(report.begins_anew_seconds.unwrap_or_default());
            vec![format!("Next: it is judged anew from the beginning, in {again}. `tidegate rollout resume` begins at once.")]
        }
        "released" => vec![
            "Nothing comes next by itself until it or the older instances leave. `tidegate rollout resume` judges it anew, \
             `tidegate rollout promote` makes it stable."
                .to_owned(),
        ],
        _ => vec!["Nothing comes next by itself. `tidegate rollout resume` judges it anew.".to_owned()],
    }
}

fn next_of_probe(report: &Report) -> Vec<String> {
    if report.canary_arm.fit == 0 {
        return vec![
            "It waits until one of its instances passes its checks. We set no time for that: without an answer it gets no request."
                .to_owned(),
        ];
    }
    vec![format!(
        "It waits for {PROBES_GOOD} good answers in a row to our own requests, a second apart: {} so far. Next: step 1 of {}. We \
         set no time for that: without an answer it gets no request.",
        report.good_probes, report.steps
    )]
}

fn next_of_ramp(report: &Report) -> Vec<String> {
    let Report { step_canary: seen, step_requests_min: asked, .. } = *report;
    let mut sentences = Vec::new();
    if report.anomaly {
        sentences.push(format!(
            "Stable fails unusually often just now, so nothing advances until it is well; after {} of that the canary is put off.",
            span(UNCLEAR_AFTER.as_secs_f64())
        ));
    }
    let (so_far, min) = (span(report.step_seconds), span(report.step_seconds_min));
    sentences.push(format!(
        "This step asks for {} of the canary ({} so far) and {min} ({so_far} so far).",
        plural(asked, "request"),
        seen.all
    ));
    let next = if report.step < report.steps {
        format!("step {} of {}", report.step + 1, report.steps)
    } else {
        "every instance counts the same".to_owned()
    };
    let more = asked.saturating_sub(seen.all);
    let pace = report.rate * report.share;
    let expected = f64::from(more) / pace.max(f64::MIN_POSITIVE);
    let expected = expected.max(report.step_seconds_min - report.step_seconds).max(0.0);
    let (latest, few) = (report.step_seconds_max - report.step_seconds, FEW);
    sentences.push(if seen.fail > 0 {
        let about = if pace > 0.0 {
            format!(" At the present {:.1} requests a second that is in about {}.", report.rate, span(expected))
        } else {
            String::new()
        };
        format!("Next: {next}.{about} There is no latest time, because it has failed a request in this step.")
    } else if latest <= 0.0 {
        format!("Next, as soon as it has answered {few} requests without a failure ({} so far): {next}.", seen.all)
    } else {
        let about = if expected < latest {
            format!(" in about {} at the present {:.1} requests a second, and", span(expected), report.rate)
        } else {
            String::new()
        };
        format!(
            "Next: {next},{about} at the latest in {}, if it has then answered at least {few} requests and failed none.",
            span(latest)
        )
    });
    sentences
}

fn next_of_suspension(report: &Report) -> Vec<String> {
    let Counts { all, fail, .. } = report.span_stable;
    let after = report.span_after;
    let asks = format!("We ask how stable does over the same time: {fail} of {} failed", plural(all, "request"));
    let wants = if after < CONFIRM_MIN {
        format!(", {after} of them since the share was taken away; {CONFIRM_MIN} of those tell")
    } else {
        String::new()
    };
    let latest = left(if all < CONFIRM_MIN { UNCLEAR_THIN_AFTER } else { UNCLEAR_AFTER }, report.phase_seconds);
    let environment = "if stable failed too it was the environment, and the canary gets its share back when stable is well again";
    let Some(Counts { all: probes, fail: failed, .. }) = report.doubt_probes else {
        let next =
            format!("Next: if stable is well the canary has failed; {environment}; at the latest in {latest} it is put off.");
        return vec![format!("{asks}{wants}."), next];
    };
    let doubt = format!(
        "It failed too often to go on and not often enough to be blamed, so we ask it ourselves: {failed} of {} failed, and \
         {DOUBT_PROBES} or more tell.",
        plural(probes, "request")
    );
    let next = format!(
        "Next: if these and stable speak for it, it gets its share back; if stable is well and the evidence comes to {:.0}, it has \
         failed; {environment}; at the latest in {latest} it is put off.",
        report.threshold
    );
    vec![doubt, format!("{asks}{wants}."), next]
}

fn remarks(report: &Report) -> Vec<String> {
    let mut sentences = Vec::new();
    if report.thin {
        sentences.push("A step was passed with few requests, because traffic is thin.".to_owned());
    }
    if report.slower {
        sentences.push("It is slower than stable; probes are answered in time, so that no longer stops it.".to_owned());
    }
    if report.by_environment > 0 {
        let times = plural(report.by_environment.into(), "time");
        sentences.push(format!("The environment disturbed it {times}; at {ENVIRONMENT_MAX} it is put off."));
    }
    sentences
}

fn left(limit: Duration, passed: f64) -> String {
    span((limit.as_secs_f64() - passed).max(0.0))
}

/// `40 s`, `4 min 48 s`, `3 h 5 min`.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

fn plural(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_people_tell_them() {
        let check = |seconds: f64, expected: &str| assert_eq!(span(seconds), expected);
        check(0.4, "0 s");
        check(59.6, "1 min");
        check(288.0, "4 min 48 s");
        check(3599.9, "1 h");
        check(11_100.0, "3 h 5 min");
    }

    #[test]
    fn without_a_canary_there_is_nothing_to_explain() {
        assert!(explain(&Report::default()).is_empty());
    }
}
