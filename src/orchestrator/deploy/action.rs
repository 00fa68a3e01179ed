//! What a deployment asks of control.

use std::fmt;

use super::phase::Outcome;
use super::why::Why;
use crate::orchestrator::Call;

/// What control has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write the state to disk, then ask Nomad, then tell the outcome in the next step. The write may fail for [`Call::Resume`] only.
    Call(Call),
    /// From now on this is the canary's share in all services of the group.
    Steer {
        /// The group.
        group: String,
        /// Its share.
        to: Steering,
    },
    /// No new request to this allocation.
    Drain {
        /// Its id.
        allocation: String,
    },
    /// It takes part again.
    Undrain {
        /// Its id.
        allocation: String,
    },
    /// Another canary has come: the judgement of the group begins anew.
    Restart {
        /// The group.
        group: String,
    },
    /// Counts as several failures in a row of the group's canary.
    Trip {
        /// The group.
        group: String,
    },
    /// One log line and one event.
    Note(Why),
    /// Nothing more will come. Shares go back to the judgement; what is drained stays so until it is gone.
    Ended(Outcome),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(call) => write!(f, "call {call:?}"),
            Self::Steer { group, to } => write!(f, "steer {group} {to:?}"),
            Self::Drain { allocation } => write!(f, "drain {allocation}"),
            Self::Undrain { allocation } => write!(f, "undrain {allocation}"),
            Self::Restart { group } => write!(f, "restart {group}"),
            Self::Trip { group } => write!(f, "trip {group}"),
            Self::Note(why) => why.fmt(f),
            Self::Ended(outcome) => write!(f, "ended: {outcome}"),
        }
    }
}

/// The share of a canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steering {
    /// None.
    Withhold,
    /// As the judgement says.
    #[default]
    Judge,
    /// Everything.
    AllToCanary,
}
