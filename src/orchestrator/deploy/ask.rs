//! One question to Nomad at a time: written down, asked, answered, read back, and asked again only if it did not happen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::look::Look;
use super::why::{Wait, Why};
use super::{Deploy, Outcome, Phase, Turn};
use crate::orchestrator::{CALL_TIMEOUT, Call, CallOutcome, DeploymentStatus};

/// Tries of one call in one phase; a resume is tried until it works.
const TRIES_MAX: u8 = 4;
/// Between two tries, doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a call without an answer may take to show its effect.
const UNSURE: Duration = Duration::from_secs(3);
/// How long the view may take to reach the index of an accepted call.
const READ_BACK_MAX: Duration = Duration::from_secs(15);

/// What is being asked of Nomad.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) call: Call,
    at: Duration,
    answer: Answer,
    /// Asked by this process: its answer is still to come.
    #[serde(skip)]
    is_here: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Answer {
    Open,
    Accepted { index: u64, at: Duration },
    Unsure { since: Duration, error: String },
}

/// Tries that came to nothing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Retry {
    tries: u8,
    not_before: Duration,
}

impl Deploy {
    /// Asks Nomad, if nothing stands against it now; else that is why we wait.
    pub(super) fn ask(&mut self, call: Call, turn: &mut Turn<'_, '_>) -> bool {
        let now = self.now();
        if let Some(intent) = &self.intent {
            let call = intent.call.clone();
            self.wait_for(Wait::Answer { call });
        } else if !turn.situation.can_write && call != Call::Resume {
            self.wait_for(Wait::Disk);
        } else if now < self.retry.not_before {
            self.wait_for(Wait::Retry { call, after: self.retry.not_before.saturating_sub(now) });
        } else {
            self.intent = Some(Intent { call: call.clone(), at: now, answer: Answer::Open, is_here: true });
            self.wait_for(Wait::Answer { call: call.clone() });
            turn.call = Some(call);
            return true;
        }
        false
    }

    /// The answer to what was asked. An answer to anything else comes too late to matter.
    pub(super) fn take(&mut self, call: &Call, outcome: &CallOutcome, turn: &mut Turn<'_, '_>) {
        let now = self.now();
        let Some(intent) = self.intent.as_mut().filter(|intent| intent.call == *call) else { return };
        match outcome {
            CallOutcome::Accepted { index } => intent.answer = Answer::Accepted { index: *index, at: now },
            CallOutcome::Unknown { error } => intent.answer = Answer::Unsure { since: now, error: error.clone() },
            CallOutcome::Refused { status, message } => {
                self.intent = None;
                self.refused(call, *status, message, turn);
            }
        }
    }

    fn refused(&mut self, call: &Call, status: u16, message: &str, turn: &mut Turn<'_, '_>) {
        if status == 403 || message.contains("Permission denied") {
            self.note(Why::Forbidden { call: call.clone() }, turn);
            self.retry.not_before = self.now().saturating_add(RETRY_MAX);
            self.give_up(call, "the token may not do it", turn);
        } else if message.contains("not found") {
            self.finish(Outcome::Gone, Why::Gone, turn);
        } else if *call == Call::Resume && message.contains("terminal") {
            // It has ended meanwhile: that is what the resume was for.
            self.hold = None;
        } else {
            self.tried(call, message, turn);
        }
    }

    /// Whether what was asked has happened, as far as Nomad shows it.
    pub(super) fn read_back(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let Some(intent) = self.intent.clone() else { return };
        let (now, index) = (self.now(), turn.situation.view.index);
        if self.has_happened(&intent.call, look) {
            self.intent = None;
            self.retry = Retry::default();
            self.done(&intent.call, look, turn);
            return;
        }
        match intent.answer {
            Answer::Open if !intent.is_here || now.saturating_sub(intent.at) > CALL_TIMEOUT * 2 => {
                let error = if intent.is_here { "no answer came" } else { "we were restarted before its answer came" };
                self.answer(Answer::Unsure { since: now, error: error.to_owned() });
            }
            Answer::Open => {}
            Answer::Accepted { index: asked, at } => {
                let is_shown = index >= asked || look.deployment.is_some_and(|deployment| deployment.modify_index >= asked);
                if is_shown || now.saturating_sub(at) > READ_BACK_MAX {
                    self.intent = None;
                    self.note(Why::NoEffect { call: intent.call.clone() }, turn);
                    self.tried(&intent.call, "nothing changed", turn);
                }
            }
            Answer::Unsure { since, error } => {
                if now.saturating_sub(since) > UNSURE {
                    self.intent = None;
                    if let Some(hold) = self.hold.as_mut().filter(|_| intent.call == Call::Pause) {
                        hold.may_come = true;
                    }
                    self.tried(&intent.call, &error, turn);
                }
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(intent) = &mut self.intent {
            intent.answer = answer;
        }
    }

    fn has_happened(&self, call: &Call, look: &Look<'_>) -> bool {
        if let Call::Revert { from, .. } = call {
            return look.job.is_some_and(|job| job.version != *from);
        }
        let Some(deployment) = look.deployment else {
            // It ended where we could not see it. A promotion is told by what is left.
            return !matches!(call, Call::Promote { .. });
        };
        let status = &deployment.status;
        match call {
            Call::Pause => *status == DeploymentStatus::Paused,
            Call::Resume => *status != DeploymentStatus::Paused,
            Call::Promote { groups } => {
                let is_promoted = |group: &String| deployment.groups.get(group).is_some_and(|group| group.promoted);
                groups.iter().all(is_promoted)
            }
            Call::Fail => status.is_terminal(),
            Call::Stop { .. } | Call::Revert { .. } => false,
        }
    }

    fn done(&mut self, call: &Call, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        match call {
            Call::Pause => {
                if look.deployment.is_some_and(|deployment| deployment.status == DeploymentStatus::Paused) {
                    self.note_held(look, turn);
                }
            }
            Call::Resume if self.phase == Phase::Replace => {
                if let Some(hold) = &mut self.hold {
                    hold.is_paused = false;
                }
            }
            Call::Resume => {
                self.hold = None;
                if matches!(self.phase, Phase::Settle { .. }) {
                    self.note(Why::Resumed, turn);
                }
            }
            Call::Promote { .. } => {
                if let Phase::Promote { by } = self.phase {
                    self.promoted(by, turn);
                }
            }
            Call::Revert { to, .. } => {
                if let Phase::Revert { outcome, .. } = &self.phase {
                    let outcome = outcome.clone();
                    self.expects_revert = true;
                    self.finish(outcome, Why::Reverted { to: *to }, turn);
                }
            }
            Call::Fail | Call::Stop { .. } => {}
        }
    }

    fn note_held(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        if let Some(hold) = &mut self.hold {
            hold.is_paused = true;
            hold.may_come = false;
        }
        let (until, group) = self.held_until(look, turn.situation).unwrap_or_default();
        self.note(Why::Held { for_at_most: until.saturating_sub(self.now()), group }, turn);
    }

    /// A try came to nothing.
    fn tried(&mut self, call: &Call, answer: &str, turn: &mut Turn<'_, '_>) {
        let wait = RETRY_FIRST.saturating_mul(1 << self.retry.tries.min(4)).min(RETRY_MAX);
        self.retry.tries = self.retry.tries.saturating_add(1);
        self.retry.not_before = self.now().saturating_add(wait);
        self.note(Why::CallFailed { call: call.clone(), answer: answer.to_owned(), tries: self.retry.tries }, turn);
        if self.retry.tries >= TRIES_MAX && *call != Call::Resume {
            self.note(Why::GaveUp { call: call.clone(), tries: self.retry.tries }, turn);
            self.give_up(call, "Nomad did not do it", turn);
        }
    }

    /// Nomad will not do it. What we paused is given back; a resume is asked for again and again.
    fn give_up(&mut self, call: &Call, reason: &str, turn: &mut Turn<'_, '_>) {
        match call {
            Call::Resume | Call::Stop { .. } => {}
            Call::Pause => {
                self.hands_off = Some(format!("it could not be paused, because {reason}"));
                self.go(Phase::Judge);
            }
            Call::Promote { .. } => self.release(format!("it could not be promoted, because {reason}"), true, turn),
            Call::Fail => self.release(format!("it could not be failed, because {reason}"), true, turn),
            Call::Revert { .. } => {
                if let Phase::Revert { outcome, .. } = &self.phase {
                    let outcome = outcome.clone();
                    self.finish(outcome, Why::StaysBad { older: self.older }, turn);
                }
            }
        }
    }
}
