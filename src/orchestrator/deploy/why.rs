//! What was seen of a deployment, what it means, and why it waits: the sentences that operators read.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::orchestrator::Call;

/// Who brought something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// We, by what requests showed.
    Verdict,
    /// A person, through us.
    Person,
    /// We, because the hold was over.
    MaxHold,
    /// Somebody else, at Nomad.
    Other,
}

/// What was seen and what it means. Its `Display` is the sentence of one log line and one event.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the sentences below say what each field is")]
pub enum Why {
    Found { canaries: usize, reverted: bool },
    Observed { reason: &'static str },
    Held { for_at_most: Duration, group: Option<String> },
    Adopted,
    HeldByOther,
    ResumedByOther,
    PromotedByOther { group: String },
    Replaced { group: String },
    Taken { group: String, allocation: String, lost: bool, times: u8 },
    TakenTooOften { times: u8 },
    Restarted { group: String },
    StableAway { group: String },
    StableBack { group: String },
    Recommend { promote: bool, why: String },
    Ordered { order: &'static str },
    TooLate { order: &'static str },
    NothingToDo { order: &'static str, reason: &'static str },
    Draining { by: By, allocations: usize },
    Drained { after: Duration, left: u32 },
    Buckled { group: String, why: String },
    DrainUndone { reason: String },
    Promoted { by: By },
    Resumed,
    Finished,
    Failing { why: String },
    Failed { why: String },
    FailedByNomad { description: String },
    RevertsItself,
    StaysBad { older: Option<u64> },
    Reverting { to: u64 },
    Reverted { to: u64 },
    Breach { why: String, reverts: bool },
    Watched { after: Duration },
    GivingBack { why: String },
    GivenBack { auto_promote: bool },
    CallFailed { call: Call, answer: String, tries: u8 },
    NoEffect { call: Call },
    Forbidden { call: Call },
    GaveUp { call: Call, tries: u8 },
    SecondTry { after: Duration },
    NomadAway,
    NomadBack,
    Newer { version: u64 },
    Cancelled { description: String },
    Stopped,
    Purged,
    Gone,
    Unjudged,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { canaries, reverted } => {
                write!(f, "a deployment with {canaries} canaries has begun")?;
                if *reverted { f.write_str("; it brings the older version back, so it is probed and promoted") } else { Ok(()) }
            }
            Self::Observed { reason } => write!(f, "it is only observed: {reason}"),
            Self::Held { for_at_most, group } => {
                write!(f, "it is paused while its canary is judged, for {} at most", Span(*for_at_most))?;
                group.as_ref().map_or(Ok(()), |group| write!(f, ", because group {group} must make progress then"))
            }
            Self::Adopted => f.write_str("it is still paused by us from before the restart, and is judged on"),
            Self::HeldByOther => f.write_str("somebody else has paused it, so nothing is asked of Nomad until they resume it"),
            Self::ResumedByOther => f.write_str("somebody else has resumed it, so it is only observed from now on"),
            Self::PromotedByOther { group } => write!(f, "somebody else has promoted group {group}"),
            Self::Restarted { group } => {
                write!(f, "a canary of group {group} was restarted in place, which counts as several failures in a row")
            }
            Self::StableAway { group } => {
                write!(f, "no older instance of group {group} is left, so the canary serves alone and the judgement waits")
            }
            Self::StableBack { group } => write!(f, "an older instance of group {group} is back"),
            Self::Watched { after } => write!(f, "nothing was seen in the {} since the promotion", Span(*after)),
            Self::SecondTry { after } => {
                write!(f, "this version has failed before, so it is not judged again for another {}", Span(*after))
            }
            Self::NomadAway => f.write_str("what is known of Nomad may be old, so nothing is asked of it"),
            Self::NomadBack => f.write_str("Nomad is up to date again"),
            Self::Replaced { .. } | Self::Taken { .. } | Self::TakenTooOften { .. } | Self::Buckled { .. } => self.canary(f),
            Self::Recommend { .. } | Self::Ordered { .. } | Self::TooLate { .. } | Self::NothingToDo { .. } => self.person(f),
            Self::CallFailed { .. } | Self::NoEffect { .. } | Self::Forbidden { .. } | Self::GaveUp { .. } => self.call(f),
            Self::Newer { .. }
            | Self::Cancelled { .. }
            | Self::Stopped
            | Self::Purged
            | Self::Gone
            | Self::Unjudged
            | Self::Finished => self.end(f),
            _ => self.way(f),
        }
    }
}

impl Why {
    fn canary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced { group } => write!(f, "another canary of group {group} has come, so it is judged from the beginning"),
            Self::Taken { group, allocation, lost, times } => {
                let how = if *lost { "was lost with its node" } else { "was stopped" };
                write!(f, "canary {allocation} of group {group} {how}, and Nomad places another one only when resumed: ")?;
                write!(f, "it is resumed and paused again (time {times} of {})", super::REPLACED_MAX)
            }
            Self::TakenTooOften { times } => write!(f, "its canaries were stopped or lost {times} times"),
            Self::Buckled { group, why } => {
                write!(f, "group {group} does not stand the whole traffic ({why}), so the older instances serve again")
            }
            _ => Ok(()),
        }
    }

    fn person(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recommend { promote: true, why } => write!(f, "it may be promoted: {why}; a person decides"),
            Self::Recommend { promote: false, why } => write!(f, "it should be failed: {why}; a person decides"),
            Self::Ordered { order } => write!(f, "a person said `{order}`"),
            Self::TooLate { order } => write!(f, "`{order}` comes too late"),
            Self::NothingToDo { order, reason } => write!(f, "`{order}` changes nothing: {reason}"),
            _ => Ok(()),
        }
    }

    fn way(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining { by, allocations } => {
                match by {
                    By::Verdict | By::Other => f.write_str("every judged group has earned it")?,
                    By::Person => f.write_str("a person wants it promoted")?,
                    By::MaxHold => f.write_str("the hold is over and `atMaxHold` promotes")?,
                }
                write!(f, ", so the {allocations} instances that the promotion stops get no new requests")
            }
            Self::Drained { after, left: 0 } => write!(f, "they have no open request after {}; it is promoted", Span(*after)),
            Self::Drained { after, left } => {
                write!(f, "they have {left} open requests after {}, longer is not waited; it is promoted", Span(*after))
            }
            Self::DrainUndone { reason } => write!(f, "it is not promoted now and the older instances serve again: {reason}"),
            Self::Promoted { by: By::Other } => f.write_str("it is promoted, by somebody else"),
            Self::Promoted { by: By::Person } => f.write_str("it is promoted, as a person said"),
            Self::Promoted { .. } => f.write_str("it is promoted"),
            Self::Resumed => f.write_str("Nomad goes on with the rest; each older instance is drained when Nomad says it stops"),
            Self::Failing { why } => {
                write!(f, "the canary has failed ({why}): it gets no requests, and is failed when it has none")
            }
            Self::Failed { why } => write!(f, "it is failed: {why}"),
            Self::FailedByNomad { description } => write!(f, "Nomad shows it as failed: {description}"),
            Self::RevertsItself => f.write_str("Nomad brings the last stable version back by itself"),
            Self::StaysBad { older: Some(older) } => {
                write!(f, "the job's current version stays the failed one: the next change brings it back unless ")?;
                write!(f, "the job is reverted to version {older}")
            }
            Self::StaysBad { older: None } => {
                f.write_str("the job's current version stays the failed one: the next change brings it back")
            }
            Self::Reverting { to } => write!(f, "the job is reverted to version {to}"),
            Self::Reverted { to } => write!(f, "the job is back at version {to}"),
            Self::Breach { why, reverts } => {
                write!(f, "after the promotion: {why}; ")?;
                f.write_str(if *reverts { "the job is reverted" } else { "nothing is done about it, a person decides" })
            }
            Self::GivingBack { why } => write!(f, "it is given back to Nomad: {why}"),
            Self::GivenBack { auto_promote: true } => {
                f.write_str("it runs on without us; `auto_promote` does not fire after a pause, so somebody has to promote it")
            }
            Self::GivenBack { auto_promote: false } => f.write_str("it runs on without us"),
            _ => Ok(()),
        }
    }

    fn call(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CallFailed { call, answer, tries } => {
                write!(f, "Nomad did not {} (try {tries}): {answer}", Verb(call))
            }
            Self::NoEffect { call } => write!(f, "Nomad accepted to {}, but it did not happen", Verb(call)),
            Self::Forbidden { call } => {
                write!(f, "the token may not {}: it needs the capability `submit-job` (or `{}`)", Verb(call), narrow(call))
            }
            Self::GaveUp { call, tries } => write!(f, "Nomad did not {} in {tries} tries", Verb(call)),
            _ => Ok(()),
        }
    }

    fn end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer { version } => write!(f, "version {version} of the job has taken its place"),
            Self::Cancelled { description } => write!(f, "Nomad shows it as cancelled: {description}"),
            Self::Stopped => f.write_str("the job was stopped"),
            Self::Purged => f.write_str("the job was purged"),
            Self::Gone => f.write_str("Nomad no longer knows it"),
            Self::Unjudged => f.write_str("it ended with no canary to judge"),
            Self::Finished => f.write_str("Nomad shows it as successful"),
            _ => Ok(()),
        }
    }
}

/// Why nothing happens just now. Its `Display` is a sentence.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the sentences below say what each field is")]
pub enum Wait {
    Nomad,
    Disk,
    Answer { call: Call },
    Retry { call: Call, after: Duration },
    JobUnknown,
    Unused,
    Placing { group: String, placed: usize, desired: usize },
    TooShort { group: String },
    HeldByOther,
    Verdict { group: String, word: &'static str },
    Undecided { group: String, why: String },
    Unhealthy { group: String },
    NotAnswering { group: String },
    CanaryAway { group: String },
    StableAway { group: String },
    Person { promote: bool },
    KeptByPerson,
    SecondTry { after: Duration },
    InFlight { open: u32 },
    Watching { after: Duration },
    Rolling,
    Observing { reason: String },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nomad => f.write_str("Nomad does not tell how things stand, so nothing is asked of it"),
            Self::Disk => f.write_str("the state cannot be written to disk, so nothing is asked of Nomad but to resume"),
            Self::Answer { call } => write!(f, "Nomad was asked to {}", Verb(call)),
            Self::Retry { call, after } => write!(f, "Nomad is asked again to {} in {}", Verb(call), Span(*after)),
            Self::JobUnknown => f.write_str("nothing is known of the job yet"),
            Self::Unused => f.write_str("no live route uses a service of a group with canaries"),
            Self::Placing { group, placed, desired } => {
                write!(f, "{placed} of {desired} canaries of group {group} are placed")
            }
            Self::TooShort { group } => {
                write!(f, "it cannot be paused, because group {group} must make progress before its deadline")
            }
            Self::HeldByOther => f.write_str("somebody else has paused it"),
            Self::Verdict { group, word } => write!(f, "the canary of group {group} is {word}"),
            Self::Undecided { group, why } => write!(f, "nothing can be concluded about group {group}: {why}"),
            Self::Unhealthy { group } => {
                write!(f, "Nomad has not called the canary of group {group} healthy; it fails the deployment unless that ")?;
                f.write_str("happens before its progress deadline, paused or not")
            }
            Self::NotAnswering { group } => write!(f, "the canary of group {group} does not answer us now"),
            Self::CanaryAway { group } => write!(f, "a canary of group {group} is gone and another one is expected"),
            Self::StableAway { group } => write!(f, "no older instance of group {group} is left to compare with"),
            Self::Person { promote: true } => f.write_str("it may be promoted, and a person decides"),
            Self::Person { promote: false } => f.write_str("it should be failed, and a person decides"),
            Self::KeptByPerson => f.write_str("a person holds it"),
            Self::SecondTry { after } => write!(f, "this version has failed before and is judged again in {}", Span(*after)),
            Self::InFlight { open } => write!(f, "{open} requests are still open"),
            Self::Watching { after } => write!(f, "the promoted version is watched for another {}", Span(*after)),
            Self::Rolling => f.write_str("Nomad replaces the other instances"),
            Self::Observing { reason } => write!(f, "it is only observed: {reason}"),
        }
    }
}

/// What a call does, after "to".
struct Verb<'a>(&'a Call);

impl fmt::Display for Verb<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Call::Pause => f.write_str("pause the deployment"),
            Call::Resume => f.write_str("resume the deployment"),
            Call::Promote { groups } => write!(f, "promote {}", groups.join(", ")),
            Call::Fail => f.write_str("fail the deployment"),
            Call::Stop { allocation } => write!(f, "stop allocation {allocation}"),
            Call::Revert { to, .. } => write!(f, "revert the job to version {to}"),
        }
    }
}

fn narrow(call: &Call) -> &'static str {
    match call {
        Call::Pause | Call::Resume => "pause-deployment",
        Call::Promote { .. } => "promote-deployment",
        Call::Fail => "fail-deployment",
        Call::Stop { .. } => "alloc-lifecycle",
        Call::Revert { .. } => "submit-job",
    }
}

/// "40 s" or "9 min".
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 120.0 { write!(f, "{seconds:.0} s") } else { write!(f, "{:.0} min", seconds / 60.0) }
    }
}
