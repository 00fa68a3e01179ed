//! What the machine asks of control, and the one sentence that goes with it: what was seen, what it means.

use std::fmt;
use std::time::Duration;

use super::evidence::{ACT_AT, DOUBT_AT, could_have_missed};
use super::ledger::TRIP_AFTER;
use super::reader::Counts;
use super::trial::ENVIRONMENT_MAX;
use crate::names::Share;

/// What control has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The canary's share changes; one log line.
    Share {
        /// The share until now.
        from: Share,
        /// The share from now on.
        to: Share,
        /// What was seen and what it means.
        why: Why,
    },
    /// The share stays, but something was concluded; one log line.
    Note {
        /// The share.
        share: Share,
        /// What was seen and what it means.
        why: Why,
    },
    /// Ask one canary instance (another one each time) for the probe path, and tell the answer in the next step, at once.
    Probe,
    /// The canary's instances are stable from now on.
    Adopt {
        /// Why.
        why: Why,
    },
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share { from, to, why } => write!(f, "canary share {from} -> {to}: {why}"),
            Self::Note { share, why } => write!(f, "canary share stays {share}: {why}"),
            Self::Probe => f.write_str("canary is probed"),
            Self::Adopt { why } => write!(f, "canary is stable now: {why}"),
        }
    }
}

/// What was seen and what it means. Its `Display` is the sentence that operators read.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the sentences below say what each field is")]
pub enum Why {
    Answers { good: u8 },
    Passed { seen: Counts, after: Duration },
    PassedThin { seen: Counts, after: Duration },
    Earned { seen: Counts },
    Better { evidence: f64, canary: Counts, stable: Counts },
    Suspected(Suspicion),
    Environment { stable: Counts, times: u8 },
    Chance { attempts: u32, tolerated: f64 },
    Dismissed { evidence: f64, probes: Counts },
    AnswersAgain { good: u8 },
    Blamed { stable: Counts },
    DoesNotAnswer { after: Duration },
    TooSlow { times: u8 },
    SlowAgain { times: u8, again: Duration },
    SlowButAnswers { times: u8 },
    Released { holds: u8 },
    Inconclusive { times: u8, again: Duration },
    Unclear { stable: Counts, after: Duration, again: Duration },
    Again,
    Instances { canaries: u16, stables: u16 },
    Traffic { rate: f64 },
    OlderLeft,
    Watched { seen: Counts, after: Duration },
    Gone,
    Replaced,
    Person { by: String, did: Did },
}

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the sentences below say what each one is")]
pub enum Did {
    Held,
    Fixed,
    FixedAfterProbes(Share),
    FixedAfterSuspension(Share),
    Resumed,
    Renewed,
    Promoted,
    Aborted,
    Released,
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The canary is stable now.
    Promoted,
    /// The canary was to blame, or a person said so.
    Failed,
    /// It is no longer judged.
    Released,
    /// The canary left, or another version took its place.
    Gone,
}

impl Outcome {
    /// One word, as events and the API print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Failed => "failed",
            Self::Released => "released",
            Self::Gone => "gone",
        }
    }
}

impl Decision {
    /// How the rollout ends by this decision, if it does. A canary that failed or is no longer judged may stay for long.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Adopt { .. } => Some(Outcome::Promoted),
            Self::Probe => None,
            Self::Share { why, .. } | Self::Note { why, .. } => match why {
                Why::Blamed { .. } | Why::DoesNotAnswer { .. } | Why::TooSlow { .. } => Some(Outcome::Failed),
                Why::Person { did: Did::Aborted, .. } => Some(Outcome::Failed),
                Why::Released { .. } | Why::Person { did: Did::Released, .. } => Some(Outcome::Released),
                Why::Gone | Why::Replaced => Some(Outcome::Gone),
                _ => None,
            },
        }
    }

    /// What kind of news it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            _ if self.outcome().is_some() => self.outcome().map_or("", Outcome::as_str),
            Self::Share { why: Why::Suspected(_), .. } | Self::Note { why: Why::Suspected(_), .. } => "suspended",
            Self::Share { .. } => "share",
            _ => "note",
        }
    }
}

/// What takes a canary's share away until it is known who is to blame.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the sentences below say what each field is")]
pub enum Suspicion {
    InRow { stable: Counts },
    ArmDown { fit: u16, instances: u16 },
    FailsMore { evidence: f64, canary: Counts, stable: Counts },
    FailsOften { evidence: f64, canary: Counts, tolerated: f64 },
    Doubtful { evidence: f64, canary: Counts, tolerated: f64 },
    SlowInRow { slow: u32, limit: Duration },
    Slower { evidence: f64, canary: Counts, stable: Counts, limit: Duration },
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InRow { stable } => {
                write!(
                    f,
                    "{TRIP_AFTER} canary requests in a row failed while stable had {} failures in {}",
                    stable.fail, stable.all
                )
            }
            Self::ArmDown { fit, instances } => write!(f, "only {fit} of {instances} canary instances are fit"),
            Self::FailsMore { evidence, canary, stable } => {
                write!(f, "it fails more than stable at the same time ({canary} against {stable}; {})", Evidence(*evidence))
            }
            Self::FailsOften { evidence, canary, tolerated } => {
                let allowed = tolerated * 100.0;
                write!(f, "{}, stable's last hour allows {allowed:.1} % ({})", Failed(canary), Evidence(*evidence))
            }
            Self::Doubtful { evidence, canary, tolerated } => {
                let allowed = tolerated * 100.0;
                write!(f, "{}, stable's last hour allows {allowed:.1} %: a doubt, so it is asked by ourselves ", Failed(canary))?;
                write!(f, "(evidence {evidence:.0}, {DOUBT_AT:.0} doubts, {ACT_AT:.0} acts)")
            }
            Self::SlowInRow { slow, limit } => {
                write!(f, "{slow} canary requests in a row had no answer after {} while stable answers in time", Seconds(limit))
            }
            Self::Slower { evidence, canary, stable, limit } => {
                let (limit, evidence) = (Seconds(limit), Evidence(*evidence));
                write!(f, "no answer after {limit} for {} of {} canary requests", canary.slow, canary.all)?;
                write!(f, " against {} of {} of stable ({evidence})", stable.slow, stable.all)
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { good } => write!(f, "it answered {good} probes in a row"),
            Self::Passed { seen, after } => write!(f, "{} in {}, {}", Failed(seen), Seconds(after), Missed(seen)),
            Self::PassedThin { seen, after } => {
                write!(f, "traffic is thin, and {} in {}; {}", Failed(seen), Seconds(after), Missed(seen))
            }
            Self::Earned { seen } => {
                write!(f, "every step is passed with {}, so each instance counts the same; {}", Failed(seen), Missed(seen))
            }
            Self::Better { evidence, canary, stable } => {
                write!(f, "it fails less than stable at the same time ({canary} against {stable}; {})", Evidence(*evidence))
            }
            Self::Suspected(suspicion) => suspicion.fmt(f),
            Self::Environment { stable, times } => {
                write!(f, "stable failed at the same time ({stable}) and is well again, so it was the environment")?;
                write!(f, " (time {times} of {ENVIRONMENT_MAX})")
            }
            Self::Chance { attempts, tolerated } => {
                let rate = tolerated * 50.0;
                write!(
                    f,
                    "{TRIP_AFTER} failures in a row can be chance in {attempts} canary requests where stable fails {rate:.1} %"
                )
            }
            Self::Dismissed { evidence, probes } => {
                let Counts { all, fail, .. } = probes;
                write!(f, "stable is well, and {fail} of {all} probes failed: too little to blame it ({})", Evidence(*evidence))
            }
            Self::AnswersAgain { good } => write!(f, "it answered {good} probes in a row in time"),
            Self::Blamed { stable } => {
                write!(
                    f,
                    "stable is well at the same time ({stable}), so the canary has failed; it serves only if nobody else can"
                )
            }
            Self::DoesNotAnswer { after } => write!(f, "it answered no probe for {}, so it has failed", Seconds(after)),
            Self::TooSlow { times } => write!(f, "it was suspended {times} times for latency, so it has failed"),
            Self::SlowAgain { times, again } => {
                write!(f, "it was suspended {times} times for latency; it begins anew in {}", Seconds(again))
            }
            Self::SlowButAnswers { times } => {
                write!(f, "it answers probes in time again; suspended {times} times for being slower, it is no longer for that")
            }
            Self::Released { holds } => {
                write!(
                    f,
                    "nothing could be concluded {holds} times, so it is no longer judged; it serves only if nobody else can"
                )
            }
            Self::Inconclusive { times, again } => {
                write!(
                    f,
                    "the environment disturbed it {times} times, so nothing is concluded; it begins anew in {}",
                    Seconds(again)
                )
            }
            Self::Unclear { stable, after, again } => {
                write!(f, "after {} it is not known who is to blame (stable: {stable}); ", Seconds(after))?;
                write!(f, "it begins anew in {}", Seconds(again))
            }
            Self::Again => f.write_str("it is judged anew from the beginning"),
            Self::Instances { canaries, stables } => write!(f, "there are {canaries} canary and {stables} stable instances now"),
            Self::Traffic { rate } => write!(f, "traffic is {rate:.1} requests a second now"),
            Self::OlderLeft => f.write_str("the older instances have left"),
            Self::Watched { seen, after } => write!(f, "{} in the {} since it passed", Failed(seen), Seconds(after)),
            Self::Gone => f.write_str("there is no canary any more"),
            Self::Replaced => f.write_str("another version has taken the canary's place"),
            Self::Person { by, did } => write!(f, "{by} {did}"),
        }
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("holds it there until `tidegate rollout resume`, unless it fails"),
            Self::Fixed => f.write_str("fixed it there until `tidegate rollout resume`, unless it fails"),
            Self::FixedAfterProbes(share) => {
                write!(f, "fixed it at {share} from when it has answered its probes, until `tidegate rollout resume`")
            }
            Self::FixedAfterSuspension(share) => {
                write!(f, "fixed it at {share} from when its suspension has ended well, until `tidegate rollout resume`")
            }
            Self::Resumed => f.write_str("lets it be judged on"),
            Self::Renewed => f.write_str("lets it be judged anew from the beginning"),
            Self::Promoted => f.write_str("promoted it"),
            Self::Aborted => f.write_str("aborted it, so it has failed; it serves only if nobody else can"),
            Self::Released => f.write_str("released it, so it is no longer judged"),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} failed", self.fail, self.all)
    }
}

/// "0 of 44 canary requests failed".
struct Failed<'a>(&'a Counts);

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} canary requests failed", self.0.fail, self.0.all)
    }
}

struct Evidence(f64);

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evidence {:.0}, {ACT_AT:.0} acts", self.0)
    }
}

/// How blind so few requests are.
struct Missed<'a>(&'a Counts);

impl fmt::Display for Missed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fail > 0 {
            return f.write_str("no more than stable's");
        }
        write!(f, "a failure rate above {:.1} % would have shown", could_have_missed(self.0.all) * 100.0)
    }
}

struct Seconds<'a>(&'a Duration);

impl fmt::Display for Seconds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(decision: &Decision, expected: &str) {
        assert_eq!(decision.to_string(), expected);
    }

    fn counts(all: u32, fail: u32) -> Counts {
        Counts { all, fail, slow: 0 }
    }

    #[test]
    fn a_decision_is_one_sentence_that_says_what_was_seen() {
        let from = Share::from_fraction(0.05);
        let to = Share::ZERO;
        let why = Why::Suspected(Suspicion::InRow { stable: counts(212, 0) });
        check(
            &Decision::Share { from, to, why },
            "canary share 5 % -> 0 %: 3 canary requests in a row failed while stable had 0 failures in 212",
        );
        let why = Why::Passed { seen: counts(44, 0), after: Duration::from_secs(31) };
        check(
            &Decision::Share { from, to: Share::from_fraction(0.2), why },
            "canary share 5 % -> 20 %: 0 of 44 canary requests failed in 31 s, a failure rate above 6.8 % would have shown",
        );
        let why = Why::Blamed { stable: counts(31, 0) };
        check(
            &Decision::Note { share: to, why },
            "canary share stays 0 %: stable is well at the same time (0 of 31 failed), so the canary has failed; \
             it serves only if nobody else can",
        );
    }
}
