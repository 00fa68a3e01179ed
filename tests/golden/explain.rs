//! What `tidegate rollout show` says, in each phase: from where a rollout stands to sentences.

use tidegate::rollout::explain::explain;
use tidegate::rollout::reader::Counts;
use tidegate::rollout::{Arm, Report};

fn counts(all: u32, fail: u32) -> Counts {
    Counts { all, fail, slow: 0 }
}

/// A canary beside two stable instances, of which nothing bad was seen.
fn report(phase: &'static str) -> Report {
    Report {
        version: Some("v2".to_owned()),
        phase,
        phase_seconds: 12.0,
        steps: 3,
        canary_arm: Arm { instances: 1, fit: 1 },
        stable_arm: Arm { instances: 2, fit: 2 },
        threshold: 100.0,
        tolerated_rate: 0.005,
        has_history: true,
        stable_hour: counts(21_600, 12),
        step_requests_min: 40,
        step_seconds_min: 30.0,
        step_seconds_max: 300.0,
        judged_at_seconds: 2.0,
        rate: 6.0,
        ..Report::default()
    }
}

/// In the second step, with 41 requests.
fn ramp() -> Report {
    Report {
        step: 2,
        share: 0.2,
        canary: counts(41, 0),
        stable: counts(512, 1),
        step_canary: counts(13, 0),
        step_seconds: 12.0,
        said: "canary share 6.67 % -> 20 %: 0 of 28 canary requests failed in 61 s".to_owned(),
        ..report("ramp")
    }
}

#[track_caller]
fn check(name: &str, report: &Report) {
    insta::with_settings!({ snapshot_path => "explain", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, explain(report).join("\n"));
    });
}

#[test]
fn a_canary_that_is_probed() {
    check("probe", &Report { good_probes: 1, ..report("probe") });
    check("probe-unfit", &Report { canary_arm: Arm { instances: 1, fit: 0 }, ..report("probe") });
}

#[test]
fn a_canary_in_the_ramp() {
    check("ramp", &ramp());
    let last = Report { step: 3, share: 0.5, rate: 0.01, ..ramp() };
    check("ramp-thin", &Report { step_canary: counts(3, 0), step_seconds: 290.0, thin: true, ..last.clone() });
    check("ramp-late", &Report { step_canary: counts(3, 0), step_seconds: 412.0, ..last });
    let failing = Report { canary: Counts { all: 41, fail: 1, slow: 2 }, step_canary: counts(13, 1), ..ramp() };
    check("ramp-failing", &Report { evidence_history: 23.0, step_requests_min: 160, ..failing });
    check("ramp-disturbed", &Report { anomaly: true, by_environment: 1, ..ramp() });
    check("ramp-held", &Report { fixed_share: Some(0.2), ..ramp() });
    check("ramp-stable-lost", &Report { stable_arm: Arm { instances: 2, fit: 0 }, ..ramp() });
}

#[test]
fn a_canary_whose_share_was_taken_away() {
    let suspended = Report { canary: counts(44, 3), said: "canary share 20 % -> 0 %: why".to_owned(), ..report("suspended") };
    check("suspended-failing", &Report { confirms: true, span_stable: counts(31, 0), span_after: 12, ..suspended.clone() });
    let beside = Report { confirms: true, span_stable: counts(64, 22), span_after: 41, ..suspended.clone() };
    check("suspended-environment", &beside);
    check(
        "suspended-doubt",
        &Report { doubt_probes: Some(counts(12, 1)), span_stable: counts(64, 0), evidence_history: 14.0, ..beside },
    );
    check("suspended-slow", &Report { good_probes: 1, has_history: false, ..suspended });
}

#[test]
fn a_canary_after_the_ramp() {
    let earned = Report { share: 0.3333, canary: counts(124, 0), stable: counts(903, 2), step_seconds: 61.0, ..report("earned") };
    check("earned", &earned);
    check("earned-by-age", &Report { by_age: true, slower: true, ..earned });
}

#[test]
fn a_canary_of_which_nothing_more_is_expected() {
    let given_up = Report { canary: counts(44, 3), stable: counts(500, 0), ..report("failed") };
    check("failed", &given_up);
    check("released", &Report { share: 0.2, phase: "released", ..given_up.clone() });
    check("hold", &Report { phase: "hold", begins_anew_seconds: Some(588.0), ..given_up });
}
