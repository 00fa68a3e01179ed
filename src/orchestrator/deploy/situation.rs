//! What control tells a deployment at a step: Nomad's view, what requests show, the settings, and what a person said.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::install::{AtMaxHold, Mode};
use crate::orchestrator::{Call, CallOutcome, View};

/// What control tells at a step.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// What Nomad shows.
    pub view: &'a View,
    /// Control's monotonic timeline, which a restarted process goes on with; its downtime has passed on it, too.
    pub now: Duration,
    /// The wall clock, for nothing but Nomad's own deadlines.
    pub wall: SystemTime,
    /// Whether the view is up to date. If not, nothing is asked of Nomad.
    pub nomad_is_current: bool,
    /// By name, the groups of which a live route of ours uses a service.
    pub groups: &'a BTreeMap<String, GroupSeen>,
    /// What may be asked of Nomad.
    pub mode: Mode,
    /// How long it may be held.
    pub hold_max: Duration,
    /// What happens then.
    pub at_max_hold: AtMaxHold,
    /// The job may be reverted.
    pub reverts: bool,
    /// The state can be written to disk. If not, nothing is asked but to resume.
    pub can_write: bool,
    /// How the call that was asked for ended.
    pub outcome: Option<(Call, CallOutcome)>,
    /// What a person said.
    pub order: Option<Order>,
}

/// What requests show of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupSeen {
    /// The judgement of its services, the worst of them.
    pub verdict: Verdict,
    /// Requests under way at each of its allocations that is no canary.
    pub stable_in_flight: BTreeMap<String, u32>,
    /// Requests under way at its canaries.
    pub canary_in_flight: u32,
    /// Each of its canaries answered a request or a probe of ours within the last seconds.
    pub canary_answers: bool,
    /// A canary is being restarted in place: the same allocation went and came back, or has not come back yet.
    pub canary_restarted: bool,
}

/// How the judgement of a group stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// There is no canary to judge.
    #[default]
    Waiting,
    /// Our own requests find out whether it answers.
    Probing,
    /// It carries a share and is judged.
    Ramping,
    /// Its share is taken away for now.
    Suspended,
    /// It passed every step.
    Earned,
    /// It is to blame. While a promoted version is watched: it fails more often than before.
    Failed {
        /// The sentence of the judgement.
        why: String,
    },
    /// Nothing can be concluded, and it is no longer judged.
    Undecided {
        /// The sentence of the judgement.
        why: String,
    },
}

impl Verdict {
    /// One word, after "is".
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "not there yet",
            Self::Probing => "being probed",
            Self::Ramping => "being judged",
            Self::Suspended => "suspended",
            Self::Earned => "good",
            Self::Failed { .. } => "failed",
            Self::Undecided { .. } => "undecided",
        }
    }
}

/// What a person may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Hold it, whatever the mode, and neither promote nor fail it. The hold begins anew.
    Hold,
    /// No longer hold it by a person's word: the mode decides again.
    Resume,
    /// Drain and promote it, whatever the verdict.
    Promote,
    /// Fail it.
    Abort,
    /// Give it back to Nomad and only observe it from now on.
    Release,
}

impl Order {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Release => "release",
        }
    }
}
