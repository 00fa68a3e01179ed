//! What a person decides about a rollout, and what that changes.
//!
//! A fixed share never overrides protection: what is seen still counts, three failures in a row and every other suspicion still
//! take the share away, and a canary that has failed stays failed. Only what would *give* share by itself stands still: steps,
//! traffic, instances. When a suspension ends well the canary gets the fixed share back.

use super::decision::{Decision, Did, Why};
use super::machine::Nature;
use super::phase::Phase;
use super::reader::Counts;
use super::trial::{Context, Trial};
use crate::names::Share;

/// What a person decides about a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// The share stays as it is, until [`Steer::Resume`].
    Hold,
    /// The share is this one, until [`Steer::Resume`]. A canary that was given up is judged again, beginning with its probes.
    SetShare(Share),
    /// It is judged on; one that was given up is judged anew.
    Resume,
    /// It has earned its traffic, whatever was seen. One told by its age is stable at once.
    Promote,
    /// It has failed, whatever was seen.
    Abort,
    /// It is no longer judged, and keeps the share that it has.
    Release,
}

/// A decision with who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// What is decided.
    pub steer: Steer,
    /// By whom.
    pub by: String,
}

/// Why an order changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Pointless {
    /// There is no canary.
    #[error("there is no rollout")]
    NoRollout,
    /// It has failed.
    #[error("the canary has failed already")]
    Failed,
    /// It is not judged any more.
    #[error("the canary is no longer judged")]
    Released,
    /// It has no share now, and is judged anew later.
    #[error("nothing is going on: it begins anew later")]
    Waits,
    /// Nobody has fixed anything.
    #[error("nobody holds it: it is being judged")]
    Judged,
}

/// Whether an order changes anything in this phase.
pub(super) fn check(steer: Steer, phase: &Phase, is_fixed: bool) -> Result<(), Pointless> {
    match (steer, phase) {
        (Steer::Hold | Steer::Abort | Steer::Release, Phase::Failed { .. }) => Err(Pointless::Failed),
        (Steer::Hold | Steer::Release, Phase::Released { .. }) => Err(Pointless::Released),
        (Steer::Hold, Phase::Hold { .. }) => Err(Pointless::Waits),
        (Steer::Resume, Phase::Probe { .. } | Phase::Ramp { .. } | Phase::Suspended(_) | Phase::Earned { .. }) if !is_fixed => {
            Err(Pointless::Judged)
        }
        _ => Ok(()),
    }
}

impl Trial {
    /// Does what a person decided.
    pub(super) fn obey(&mut self, cx: &mut Context<'_>, Steered { steer, by }: Steered) {
        match steer {
            Steer::Hold => {
                self.fixed = Some(self.share);
                self.say(cx, self.share(), Why::Person { by, did: Did::Held });
            }
            Steer::SetShare(share) => self.fix(cx, share, by),
            Steer::Resume => {
                self.fixed = None;
                match self.phase {
                    Phase::Ramp { step } => self.resume(cx, Some(step), Why::Person { by, did: Did::Resumed }),
                    Phase::Earned { .. } => self.resume(cx, None, Why::Person { by, did: Did::Resumed }),
                    Phase::Probe { .. } | Phase::Suspended(_) => {
                        self.say(cx, self.share(), Why::Person { by, did: Did::Resumed });
                    }
                    Phase::Hold { .. } | Phase::Released { .. } | Phase::Failed { .. } => {
                        self.begin_anew(cx, None);
                        self.say(cx, Share::ZERO, Why::Person { by, did: Did::Renewed });
                    }
                }
            }
            Steer::Promote if cx.seen.situation.nature == Nature::ByAge => {
                cx.decisions.push(Decision::Adopt { why: Why::Person { by, did: Did::Promoted } });
            }
            Steer::Promote => {
                if let Phase::Probe { .. } = self.phase {
                    self.get_ready(cx);
                }
                self.forget(cx);
                self.slowness.reset();
                self.fixed = None;
                self.earn(cx, Why::Person { by, did: Did::Promoted });
            }
            Steer::Abort => {
                self.fixed = None;
                self.phase = Phase::Failed { at: cx.now };
                self.say(cx, Share::ZERO, Why::Person { by, did: Did::Aborted });
            }
            Steer::Release => {
                self.fixed = None;
                self.phase = Phase::Released { at: cx.now };
                self.say(cx, self.share(), Why::Person { by, did: Did::Released });
            }
        }
    }

    fn fix(&mut self, cx: &mut Context<'_>, share: Share, by: String) {
        self.fixed = Some(share.ten_thousandths());
        match self.phase {
            Phase::Ramp { .. } | Phase::Earned { .. } => self.say(cx, share, Why::Person { by, did: Did::Fixed }),
            Phase::Probe { .. } => self.say(cx, Share::ZERO, Why::Person { by, did: Did::FixedAfterProbes(share) }),
            Phase::Suspended(_) => self.say(cx, Share::ZERO, Why::Person { by, did: Did::FixedAfterSuspension(share) }),
            Phase::Hold { .. } | Phase::Released { .. } | Phase::Failed { .. } => {
                self.begin_anew(cx, self.fixed);
                self.say(cx, Share::ZERO, Why::Person { by, did: Did::FixedAfterProbes(share) });
            }
        }
    }

    /// Everything from the beginning, as if the canary had just come.
    fn begin_anew(&mut self, cx: &Context<'_>, fixed: Option<u16>) {
        // The share is said to have changed from what it was.
        *self = Self { anew: true, fixed, share: self.share, met: self.met, ..Self::new(&self.version, cx.now) };
    }

    /// What was seen until now is not held against it.
    pub(super) fn forget(&mut self, cx: &Context<'_>) {
        self.rate.reset();
        self.doubted = None;
        self.failures.reset();
        self.better.reset();
        (self.canary, self.stable) = (Counts::default(), Counts::default());
        (self.failed_from, self.stable_since_failure) = (None, Counts::default());
        self.rows = 0;
        self.evidence_from = cx.now;
    }
}
