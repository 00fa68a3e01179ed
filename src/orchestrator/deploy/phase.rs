//! Where a deployment stands, and how it ends.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::why::By;

/// Where one deployment stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Its canaries are being placed, or it is being paused.
    Detect,
    /// Its canary is judged: held, or only observed.
    Judge,
    /// A canary was stopped or lost under our pause: resumed, so that Nomad places another, and paused again.
    Replace,
    /// What the promotion stops gets no new requests.
    Drain {
        /// Who wants the promotion.
        by: By,
    },
    /// Nomad is asked to promote.
    Promote {
        /// Who wants it.
        by: By,
    },
    /// Promoted and still paused by us: what the resume stops is drained, then it is resumed.
    Settle {
        /// Who promoted it.
        by: By,
    },
    /// The promoted version is watched.
    Watch {
        /// Who promoted it.
        by: By,
        /// It failed more often than before.
        is_breached: bool,
    },
    /// The canary gets nothing more, then Nomad is asked to fail the deployment.
    Fail {
        /// The reason.
        why: String,
        /// Who wants it.
        by: By,
    },
    /// Nomad is asked to bring the older version back.
    Revert {
        /// The version.
        to: u64,
        /// How the deployment itself ended.
        outcome: Outcome,
    },
    /// It is given back to Nomad.
    Release {
        /// The reason.
        why: String,
        /// Nothing is asked of Nomad afterwards.
        for_good: bool,
    },
    /// It has ended.
    Over {
        /// How.
        outcome: Outcome,
    },
}

impl Phase {
    /// One word, as metrics and the API print it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Judge => "judge",
            Self::Replace => "replace",
            Self::Drain { .. } => "drain",
            Self::Promote { .. } => "promote",
            Self::Settle { .. } => "settle",
            Self::Watch { .. } => "watch",
            Self::Fail { .. } => "fail",
            Self::Revert { .. } => "revert",
            Self::Release { .. } => "release",
            Self::Over { .. } => "over",
        }
    }
}

/// How a deployment ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Its canaries were promoted.
    Promoted {
        /// By whom.
        by: By,
    },
    /// It failed.
    Failed {
        /// By whom.
        by: By,
    },
    /// A newer version of the job took its place.
    Superseded,
    /// Nomad cancelled it for another reason.
    Cancelled,
    /// The job was stopped.
    Stopped,
    /// The job was purged.
    Purged,
    /// Nomad no longer knows the deployment.
    Gone,
    /// It ended well, with no canary to judge.
    Unjudged,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promoted { by: By::Other } => "promoted by somebody else",
            Self::Promoted { by: By::Person } => "promoted as a person said",
            Self::Promoted { .. } => "promoted",
            Self::Failed { by: By::Other } => "failed by Nomad or somebody else",
            Self::Failed { by: By::Person } => "failed as a person said",
            Self::Failed { .. } => "failed",
            Self::Superseded => "a newer version took its place",
            Self::Cancelled => "cancelled",
            Self::Stopped => "the job was stopped",
            Self::Purged => "the job was purged",
            Self::Gone => "gone",
            Self::Unjudged => "successful, with nothing to judge",
        })
    }
}
