//! Where a rollout stands.
//!
//! The whole way is DETECT, PROBE, RAMP, DRAIN, PROMOTE, WATCH, with SUSPEND, CONFIRM and FAIL beside it. While Nomad is only
//! watched, a canary appears by itself (no DETECT) and [`Phase::Earned`] is the end of the ramp: where DRAIN and PROMOTE
//! begin once somebody may be asked to promote. [`Phase::Failed`] is where FAIL is sent from.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reader::Counts;

/// Where one rollout stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// The canary has no share; our own requests find out whether it answers.
    Probe {
        /// Good answers in a row.
        good: u8,
    },
    /// It carries the share of this step and is judged.
    Ramp {
        /// Counted from 0.
        step: usize,
    },
    /// Its share is taken away until it is known who is to blame.
    Suspended(Suspension),
    /// It passed every step: each instance counts the same, and it is still judged.
    Earned {
        /// Since when.
        since: Duration,
    },
    /// Nothing could be concluded: no share, and a new beginning later.
    Hold {
        /// When it begins anew.
        until: Duration,
    },
    /// Nothing could be concluded again and again: no share, and no longer judged. A person decides.
    Released {
        /// Since when.
        at: Duration,
    },
    /// It is to blame. It keeps no share, and serves only before nobody does.
    Failed {
        /// When that was found.
        at: Duration,
    },
}

impl Phase {
    /// One word, as metrics and the API print it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Probe { .. } => "probe",
            Self::Ramp { .. } => "ramp",
            Self::Suspended(_) => "suspended",
            Self::Earned { .. } => "earned",
            Self::Hold { .. } => "hold",
            Self::Released { .. } => "released",
            Self::Failed { .. } => "failed",
        }
    }
}

/// A share taken away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspension {
    /// What ends it.
    pub ends: Ends,
    /// Since when.
    pub at: Duration,
    /// When the oldest epoch of the evidence began: stable is asked about the span from there on.
    pub evidence_from: Duration,
    /// What stable did in that span.
    pub stable: Counts,
    /// What it did in the last seconds of it: an outage that has only begun drowns in a long span.
    pub lately: Counts,
    /// Since when that counts.
    pub lately_from: Duration,
    /// Stable's attempts since the share was taken away.
    #[serde(default)]
    pub after: u32,
    /// The step to go back to; none means [`Phase::Earned`].
    pub step: Option<usize>,
    /// Several requests in a row failed or hung: how it was seen, which a few among many may do by chance.
    pub in_row: bool,
    /// Good probes in a row.
    pub good: u8,
    /// When a probe was last answered in time, or the suspension began.
    pub answered: Duration,
    /// What our own requests saw in a doubt, and when the last of them was told.
    #[serde(default)]
    pub probes: Counts,
    /// See `probes`.
    #[serde(default)]
    pub probed: Duration,
}

/// What ends a suspension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ends {
    /// It failed: CONFIRM asks how stable does at the same time.
    Confirmed,
    /// It failed a little too often to go on, and not often enough to be blamed: CONFIRM asks stable, and probes ask the canary.
    Weighed,
    /// It was slow: probes tell when it answers in time again.
    Probed,
}
