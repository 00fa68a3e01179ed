//! What happened at Nomad since the last step, and what a person said.

use std::collections::BTreeSet;
use std::time::Duration;

use super::look::{GroupLook, Look};
use super::why::{By, Why};
use super::{Action, Deploy, Order, Outcome, Phase, Turn};
use crate::config::install::Mode;
use crate::orchestrator::{Deployment, DeploymentStatus};

/// How long a failed deployment's canaries may take to be told to stop: 2 ms on an idle machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);

impl Deploy {
    /// Whether it has ended, or is about to with nothing left to do.
    pub(super) fn end(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) -> bool {
        if matches!(self.phase, Phase::Watch { .. } | Phase::Revert { .. }) {
            return false;
        }
        self.is_job_known |= look.job.is_some();
        let newer = look.job.map(|job| job.version).filter(|version| *version > self.version);
        if look.job.is_none() && self.is_job_known {
            self.finish(Outcome::Purged, Why::Purged, turn);
        } else if look.job.is_some_and(|job| job.is_stopped) {
            self.finish(Outcome::Stopped, Why::Stopped, turn);
        } else if let Some(deployment) = look.deployment {
            match deployment.status {
                DeploymentStatus::Failed => self.failed(look, deployment, turn),
                DeploymentStatus::Successful => return self.succeeded(look, turn),
                DeploymentStatus::Cancelled => match newer {
                    Some(version) => self.finish(Outcome::Superseded, Why::Newer { version }, turn),
                    None => {
                        let description = deployment.description.clone();
                        self.finish(Outcome::Cancelled, Why::Cancelled { description }, turn);
                    }
                },
                _ => return false,
            }
            return true;
        } else if matches!(self.phase, Phase::Settle { .. }) {
            return false;
        } else if let Phase::Promote { by } = self.phase
            && newer.is_none()
            && self.have_canaries_stayed(turn)
        {
            // It ended while we were away, and what is left are its canaries.
            self.intent = None;
            self.promoted(by, turn);
            return false;
        } else {
            match newer {
                Some(version) => self.finish(Outcome::Superseded, Why::Newer { version }, turn),
                None => self.finish(Outcome::Gone, Why::Gone, turn),
            }
        }
        true
    }

    fn have_canaries_stayed(&self, turn: &Turn<'_, '_>) -> bool {
        let mut canaries = self.groups.values().flat_map(|known| &known.canaries).peekable();
        let allocations = &turn.situation.view.allocations;
        canaries.peek().is_some()
            && canaries.all(|id| allocations.get(id).is_some_and(|canary| canary.is_wanted() && !canary.is_canary))
    }

    fn failed(&mut self, look: &Look<'_>, deployment: &Deployment, turn: &mut Turn<'_, '_>) {
        let Phase::Fail { why, by } = self.phase.clone() else {
            self.expects_revert = look.reverts_itself();
            let description = deployment.description.clone();
            return self.finish(Outcome::Failed { by: By::Other }, Why::FailedByNomad { description }, turn);
        };
        self.hold = None;
        self.intent = None;
        let since = *self.here.failed_at.get_or_insert(turn.situation.now);
        // Until its canaries are told to stop nothing is given back to them.
        let is_left = look.open().any(|group| !group.canaries.is_empty());
        if is_left && turn.situation.now.saturating_sub(since) < STOPPED_WITHIN {
            return;
        }
        self.note(Why::Failed { why }, turn);
        let outcome = Outcome::Failed { by };
        if look.reverts_itself() {
            self.expects_revert = true;
            self.finish(outcome, Why::RevertsItself, turn);
        } else if let Some(to) = self.older.filter(|_| turn.situation.reverts && turn.situation.mode == Mode::Auto) {
            self.note(Why::Reverting { to }, turn);
            self.go(Phase::Revert { to, outcome });
            self.revert(look, turn);
        } else {
            self.finish(outcome, Why::StaysBad { older: self.older }, turn);
        }
    }

    fn succeeded(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) -> bool {
        self.hold = None;
        self.intent = None;
        match self.phase {
            Phase::Settle { by } => {
                self.note(Why::Finished, turn);
                self.go(Phase::Watch { by, is_breached: false });
            }
            _ if look.are_all_promoted() => {
                self.note(Why::Promoted { by: By::Other }, turn);
                self.go(Phase::Watch { by: By::Other, is_breached: false });
            }
            _ => {
                self.finish(Outcome::Unjudged, Why::Unjudged, turn);
                return true;
            }
        }
        false
    }

    /// Its canaries are promoted, and Nomad shows it.
    pub(super) fn promoted(&mut self, by: By, turn: &mut Turn<'_, '_>) {
        self.note(Why::Promoted { by }, turn);
        self.groups.values_mut().for_each(|known| known.is_promoted = true);
        self.go(Phase::Settle { by });
    }

    pub(super) fn notice(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let Some(deployment) = look.deployment else { return };
        self.reverts_itself = look.reverts_itself();
        let is_first = !std::mem::replace(&mut self.here.is_met, true);
        if self.said.is_empty() && !look.groups.is_empty() {
            let canaries = look.groups.iter().map(GroupLook::desired).sum();
            self.note(Why::Found { canaries, reverted: self.is_revert }, turn);
            let after = self.judged_from.saturating_sub(self.now());
            if !after.is_zero() {
                self.note(Why::SecondTry { after }, turn);
            }
        }
        if let Some(reason) = out_of_scope(look, deployment)
            && self.hands_off.is_none()
        {
            if !look.groups.is_empty() {
                self.note(Why::Observed { reason }, turn);
            }
            self.hands_off = Some(reason.to_owned());
        }
        self.notice_pause(deployment, is_first, turn);
        for group in &look.groups {
            self.notice_group(group, turn);
        }
        let follows = !matches!(self.phase, Phase::Settle { .. } | Phase::Watch { .. } | Phase::Revert { .. });
        if follows && look.are_all_promoted() {
            self.promoted(By::Other, turn);
        }
    }

    fn notice_pause(&mut self, deployment: &Deployment, is_first: bool, turn: &mut Turn<'_, '_>) {
        let is_paused = deployment.status == DeploymentStatus::Paused;
        let is_foreign = is_paused && self.hold.is_none();
        if std::mem::replace(&mut self.here.is_foreign, is_foreign) != is_foreign && is_foreign && !self.said.is_empty() {
            self.note(Why::HeldByOther, turn);
        }
        let Some(hold) = &mut self.hold else { return };
        let was_paused = hold.is_paused;
        if self.intent.is_some() || is_paused == was_paused {
            if is_first && is_paused && was_paused {
                self.note(Why::Adopted, turn);
            }
            return;
        }
        // Without a question of ours that is open: a pause of ours that came late, or somebody's resume.
        hold.is_paused = is_paused;
        if was_paused
            && matches!(
                self.phase,
                Phase::Detect | Phase::Judge | Phase::Drain { .. } | Phase::Promote { .. } | Phase::Fail { .. }
            )
        {
            self.hold = None;
            self.is_kept = false;
            self.hands_off = Some("somebody else has resumed it".to_owned());
            self.note(Why::ResumedByOther, turn);
            self.go(Phase::Judge);
        }
    }

    fn notice_group(&mut self, group: &GroupLook<'_>, turn: &mut Turn<'_, '_>) {
        let name = group.name.to_owned();
        let mut known = self.groups.remove(&name).unwrap_or_default();
        if group.group.promoted {
            let is_ours = matches!(self.phase, Phase::Settle { .. } | Phase::Watch { .. });
            if !std::mem::replace(&mut known.is_promoted, true) && !is_ours {
                self.note(Why::PromotedByOther { group: name.clone() }, turn);
            }
            self.groups.insert(name, known);
            return;
        }
        self.older = group.older_version().or(self.older);
        let now: BTreeSet<String> = group.canaries.iter().map(|canary| canary.id.clone()).collect();
        if now.difference(&known.canaries).next().is_some() {
            if known.canaries.difference(&now).next().is_some() {
                self.note(Why::Replaced { group: name.clone() }, turn);
                turn.actions.push(Action::Restart { group: name.clone() });
            }
            known.canaries = now;
        }
        let is_restarted = group.seen.canary_restarted;
        if std::mem::replace(&mut known.is_restarted, is_restarted) != is_restarted && is_restarted {
            self.note(Why::Restarted { group: name.clone() }, turn);
            turn.actions.push(Action::Trip { group: name.clone() });
        }
        let is_away = group.olds.is_empty();
        if std::mem::replace(&mut known.is_stable_away, is_away) != is_away {
            let group = name.clone();
            self.note(if is_away { Why::StableAway { group } } else { Why::StableBack { group } }, turn);
        }
        self.groups.insert(name, known);
    }

    /// Carries out what a person said. It outranks the mode, the verdict, and whatever made us take our hands off.
    pub(super) fn obey(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let Some(order) = self.order.take() else { return };
        let name = order.name();
        let is_promoting = self.intent.as_ref().is_some_and(|intent| !matches!(intent.call, crate::orchestrator::Call::Pause));
        let reason = match &self.phase {
            _ if look.deployment.is_none_or(|deployment| out_of_scope(look, deployment).is_some()) => Some("it is only observed"),
            _ if look.open().next().is_none() && order != Order::Release => {
                Some("it has no canary of a route of ours to promote")
            }
            _ => None,
        };
        if let Some(reason) = reason {
            return self.note(Why::NothingToDo { order: name, reason }, turn);
        }
        if is_promoting || matches!(self.phase, Phase::Settle { .. } | Phase::Watch { .. } | Phase::Revert { .. }) {
            return self.note(Why::TooLate { order: name }, turn);
        }
        self.note(Why::Ordered { order: name }, turn);
        self.here.recommended = None;
        match order {
            Order::Hold => self.keep(turn),
            Order::Resume => self.is_kept = false,
            Order::Promote => {
                self.hands_off = None;
                self.is_promotion_ordered = true;
                self.is_kept = false;
                self.go(Phase::Judge);
            }
            Order::Abort => self.fail("a person said so".to_owned(), By::Person, turn),
            Order::Release => {
                self.is_kept = false;
                self.is_promotion_ordered = false;
                self.release("a person said so".to_owned(), true, turn);
            }
        }
    }

    fn keep(&mut self, turn: &Turn<'_, '_>) {
        self.is_kept = true;
        self.is_promotion_ordered = false;
        self.hands_off = None;
        if let Some(hold) = &mut self.hold {
            hold.from = turn.situation.now;
        }
        self.go(Phase::Judge);
    }
}

/// Why it is none of ours to pause.
fn out_of_scope(look: &Look<'_>, deployment: &Deployment) -> Option<&'static str> {
    if deployment.is_multiregion {
        Some("it is part of a deployment over several regions")
    } else if look.job.is_some_and(|job| job.kind != "service") {
        Some("its job is not of type `service`")
    } else {
        None
    }
}
