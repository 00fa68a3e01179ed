//! What comes next, phase by phase.

use std::collections::BTreeSet;
use std::time::Duration;

use super::hold::{HOLD_MIN, Hold};
use super::look::{GroupLook, Look, Trouble};
use super::steer::is_buckled;
use super::why::{By, Wait, Why};
use super::{DRAIN_MAX, DRAIN_MIN, Deploy, Outcome, Phase, REPLACED_MAX, Turn, Verdict, WATCH};
use crate::config::install::{AtMaxHold, Mode};
use crate::orchestrator::{Call, DeploymentStatus};

/// How long a drained deployment waits for its canary to answer, or for the disk.
const READY_MAX: Duration = Duration::from_secs(10);
/// How long it may take from the drain to the promotion, with all its tries.
const PROMOTE_MAX: Duration = Duration::from_secs(60);
/// How long nothing may use it before it is given back: routes come and go with their instances.
const UNUSED_MAX: Duration = Duration::from_secs(30);
/// How long a revert may take to be accepted.
const REVERT_MAX: Duration = Duration::from_secs(60);
/// How long Nomad may take to replace the rest while we look on.
const ROLL_MAX: Duration = Duration::from_secs(3600);

impl Deploy {
    pub(super) fn advance(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let status = look.deployment.map(|deployment| &deployment.status);
        if let Some(DeploymentStatus::Waiting | DeploymentStatus::Other(_)) = status {
            return self.wait_for(Wait::Observing { reason: "its status is none that we know what to do in".to_owned() });
        }
        match self.phase.clone() {
            Phase::Detect => self.detect(look, turn),
            Phase::Judge => self.judge(look, turn),
            Phase::Replace => {
                if status == Some(&DeploymentStatus::Paused) {
                    self.ask(Call::Resume, turn);
                } else if self.intent.is_none() {
                    self.go(Phase::Detect);
                }
            }
            Phase::Drain { by } => self.drain(by, look, turn),
            Phase::Promote { .. } => self.promote(look, turn),
            Phase::Settle { by } => self.settle(by, look, turn),
            Phase::Watch { by, is_breached } => self.watch(by, is_breached, look, turn),
            Phase::Fail { by, .. } => self.fail_drained(by, look, turn),
            Phase::Revert { .. } => self.revert(look, turn),
            Phase::Release { for_good, why } => self.give_back(why, for_good, look, turn),
            Phase::Over { .. } => {}
        }
    }

    /// How far we may go: what a person said outranks the mode.
    fn reach(&self, mode: Mode) -> Mode {
        if self.is_kept || self.is_promotion_ordered {
            mode.max(Mode::Hold)
        } else if self.hands_off.is_some() {
            Mode::Observe
        } else {
            mode
        }
    }

    fn may_hold(&self, look: &Look<'_>, turn: &Turn<'_, '_>) -> bool {
        let is_foreign = look.deployment.is_some_and(|deployment| deployment.status == DeploymentStatus::Paused);
        self.reach(turn.situation.mode) >= Mode::Hold && self.hands_off.is_none() && !(is_foreign && self.hold.is_none())
    }

    fn detect(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let is_replaced = self.hold.is_some();
        // One that ended by itself is never replaced: there is nothing to wait for.
        let has_ended = |group: &GroupLook<'_>| matches!(group.trouble(&self.known(group)), Some(Trouble::Ended { .. }));
        let is_placed = |group: &&GroupLook<'_>| {
            if is_replaced { group.is_complete() || has_ended(group) } else { group.is_placed() }
        };
        let missing = look.open().find(|group| !is_placed(group));
        let end = self.held_until(look, turn.situation).unwrap_or_default();
        let now = self.now();
        if self.intent.is_none() && (self.is_held() || !self.may_hold(look, turn)) {
            self.go(Phase::Judge);
        } else if look.job.is_none() {
            self.wait_for(Wait::JobUnknown);
        } else if look.open().next().is_none() {
            self.wait_for(Wait::Unused);
        } else if let Some(group) = missing {
            let (placed, desired) = (group.canaries.len(), group.desired());
            self.wait_for(Wait::Placing { group: group.name.to_owned(), placed, desired });
        } else if let (until, Some(group)) = end
            && !self.is_promotion_ordered
            && until < now.saturating_add(HOLD_MIN)
        {
            self.wait_for(Wait::TooShort { group });
        } else if self.ask(Call::Pause, turn) && self.hold.is_none() {
            self.hold = Some(Hold { from: now, is_paused: false, may_come: false });
        }
    }

    fn judge(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        if self.intent.is_some() {
            // Asked in another phase: its answer says where we are.
            if let Some(call) = self.intent.as_ref().map(|intent| intent.call.clone()) {
                self.wait_for(Wait::Answer { call });
            }
        } else if self.is_promotion_ordered && (self.is_held() || !self.may_hold(look, turn)) {
            self.promote_as_ordered(look, turn);
        } else if !self.is_held() {
            self.observe(look, turn);
        } else if self.reach(turn.situation.mode) == Mode::Observe {
            let why = self.hands_off.clone().unwrap_or_else(|| "the mode is `observe` now".to_owned());
            self.release(why, self.hands_off.is_some(), turn);
        } else if !self.is_unused(look, turn) {
            self.judge_held(look, turn);
        }
    }

    fn promote_as_ordered(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        match look.open().find(|group| !group.is_ready()) {
            None => {
                self.is_promotion_ordered = false;
                self.begin_drain(By::Person, look, turn);
            }
            Some(group) => {
                let wait = if group.is_healthy() {
                    Wait::NotAnswering { group: group.name.to_owned() }
                } else {
                    Wait::Unhealthy { group: group.name.to_owned() }
                };
                if self.elapsed() >= READY_MAX {
                    self.is_promotion_ordered = false;
                    self.note(Why::DrainUndone { reason: wait.to_string() }, turn);
                }
                self.wait_for(wait);
            }
        }
    }

    fn observe(&mut self, look: &Look<'_>, turn: &Turn<'_, '_>) {
        if self.may_hold(look, turn) {
            return self.go(Phase::Detect);
        }
        // Nothing of ours is in force, and nothing may come.
        self.hold = self.hold.filter(|hold| hold.may_come);
        if let Some(reason) = self.hands_off.clone() {
            self.wait_for(Wait::Observing { reason });
        } else if self.here.is_foreign {
            self.wait_for(Wait::HeldByOther);
        } else {
            self.wait_for(Wait::Observing { reason: "the mode is `observe`".to_owned() });
        }
    }

    /// No live route uses it any more, so it is none of ours to hold.
    fn is_unused(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) -> bool {
        if !look.groups.is_empty() {
            self.unused_since = None;
            return false;
        }
        let since = *self.unused_since.get_or_insert(self.here.now);
        self.wait_for(Wait::Unused);
        if self.now().saturating_sub(since) > UNUSED_MAX {
            self.release("no live route uses a service of it any more".to_owned(), false, turn);
        }
        true
    }

    /// Dead canaries and the end of the hold come before any verdict: a pause is never left, whatever is still open.
    fn judge_held(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let is_over = self.here.until.is_some_and(|until| self.now() >= until);
        if is_over {
            return self.at_max_hold("it was held for as long as allowed", look, turn);
        }
        if self.mind_canaries(look, turn) {
            return;
        }
        if self.is_kept {
            return self.wait_for(Wait::KeptByPerson);
        }
        if self.now() < self.judged_from {
            let after = self.judged_from.saturating_sub(self.now());
            if self.here.wait.is_none() {
                self.wait_for(Wait::SecondTry { after });
            }
            return;
        }
        if let Some((group, why)) = look.open().find_map(|group| match &group.seen.verdict {
            Verdict::Failed { why } => Some((group.name, why)),
            _ => None,
        }) {
            let why = if look.groups.len() > 1 { format!("group {group}: {why}") } else { why.clone() };
            return self.should_fail(why, turn);
        }
        if self.here.wait.is_some() {
            return;
        }
        match look.open().find_map(|group| self.open_question(group)) {
            Some(Wait::Undecided { why, .. }) if turn.situation.mode == Mode::Auto => {
                self.at_max_hold(&format!("nothing can be concluded ({why})"), look, turn);
            }
            Some(wait) => {
                self.here.recommended = None;
                self.wait_for(wait);
            }
            None if turn.situation.mode < Mode::Auto => self.recommend(true, "every judged group has earned it".to_owned(), turn),
            None if !turn.situation.can_write => self.wait_for(Wait::Disk),
            None => self.begin_drain(By::Verdict, look, turn),
        }
    }

    fn known(&self, group: &GroupLook<'_>) -> BTreeSet<String> {
        self.groups.get(group.name).map(|known| known.canaries.clone()).unwrap_or_default()
    }

    /// What became of the canaries that are missing. Whether that says what is to be done.
    fn mind_canaries(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) -> bool {
        for group in look.open() {
            let name = group.name.to_owned();
            match group.trouble(&self.known(group)) {
                Some(Trouble::Ended { allocation }) if !self.is_kept => {
                    let why = format!("canary {allocation} of group {name} ended by itself, and Nomad does not replace it");
                    self.should_fail(why, turn);
                    return true;
                }
                Some(Trouble::Taken { .. }) if self.replaced >= REPLACED_MAX => {
                    let why = Why::TakenTooOften { times: self.replaced }.to_string();
                    self.release(why, true, turn);
                    return true;
                }
                Some(Trouble::Taken { allocation, lost }) => {
                    self.replaced += 1;
                    self.note(Why::Taken { group: name, allocation, lost, times: self.replaced }, turn);
                    self.go(Phase::Replace);
                    return true;
                }
                Some(_) => self.wait_for(Wait::CanaryAway { group: name }),
                None => {}
            }
        }
        false
    }

    /// Why a group cannot be promoted yet.
    fn open_question(&self, group: &GroupLook<'_>) -> Option<Wait> {
        let name = group.name.to_owned();
        match &group.seen.verdict {
            Verdict::Undecided { why } => Some(Wait::Undecided { group: name, why: why.clone() }),
            _ if !group.is_healthy() => Some(Wait::Unhealthy { group: name }),
            verdict if !self.is_good(verdict) && group.olds.is_empty() => Some(Wait::StableAway { group: name }),
            verdict if !self.is_good(verdict) => Some(Wait::Verdict { group: name, word: verdict.word() }),
            _ if !group.seen.canary_answers => Some(Wait::NotAnswering { group: name }),
            _ => None,
        }
    }

    /// What brings an older version back was good before: it has only to answer.
    fn is_good(&self, verdict: &Verdict) -> bool {
        *verdict == Verdict::Earned || self.is_revert && *verdict == Verdict::Ramping
    }

    fn should_fail(&mut self, why: String, turn: &mut Turn<'_, '_>) {
        if turn.situation.mode == Mode::Auto { self.fail(why, By::Verdict, turn) } else { self.recommend(false, why, turn) }
    }

    fn recommend(&mut self, promote: bool, why: String, turn: &mut Turn<'_, '_>) {
        if self.here.recommended != Some(promote) {
            self.here.recommended = Some(promote);
            self.note(Why::Recommend { promote, why }, turn);
        }
        self.wait_for(Wait::Person { promote });
    }

    fn at_max_hold(&mut self, why: &str, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let policy = if turn.situation.mode == Mode::Auto && !self.is_kept && !self.is_max_hold_tried && turn.situation.can_write
        {
            turn.situation.at_max_hold
        } else {
            AtMaxHold::Release
        };
        self.is_max_hold_tried = true;
        match policy {
            AtMaxHold::Release => self.release(why.to_owned(), true, turn),
            AtMaxHold::Fail => self.fail(format!("{why}, and `atMaxHold` fails it"), By::MaxHold, turn),
            AtMaxHold::Promote if look.open().all(GroupLook::is_ready) => self.begin_drain(By::MaxHold, look, turn),
            AtMaxHold::Promote => self.release(format!("{why}, and the canary does not answer"), true, turn),
        }
    }

    fn begin_drain(&mut self, by: By, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let allocations = look.open().map(|group| group.stopped_by_promotion().len()).sum();
        self.note(Why::Draining { by, allocations }, turn);
        self.go(Phase::Drain { by });
    }

    fn drain(&mut self, by: By, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        if self.mind_the_drain(look, turn) {
            return;
        }
        let open = open_at(look, |group| group.in_flight(&group.stopped_by_promotion()));
        let elapsed = self.elapsed();
        if elapsed < DRAIN_MIN || open > 0 && elapsed < DRAIN_MAX {
            return self.wait_for(Wait::InFlight { open });
        }
        if !turn.situation.can_write {
            self.wait_for(Wait::Disk);
        } else if let Some(group) = look.open().find(|group| !group.is_ready()) {
            let group = group.name.to_owned();
            self.wait_for(Wait::NotAnswering { group });
        } else {
            self.note(Why::Drained { after: elapsed, left: open }, turn);
            self.go(Phase::Promote { by });
        }
    }

    /// Undoes a drain that the canary does not stand or that takes too long, also while Nomad is away.
    pub(super) fn mind_the_drain(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) -> bool {
        let (by, limit) = match self.phase {
            Phase::Drain { by } => (by, DRAIN_MAX + READY_MAX),
            Phase::Promote { by } if self.intent.is_none() => (by, PROMOTE_MAX),
            _ => return false,
        };
        let is_too_far = matches!(by, By::Verdict | By::MaxHold) && turn.situation.mode < Mode::Auto;
        if look.groups.is_empty() {
            self.note(Why::DrainUndone { reason: Wait::Unused.to_string() }, turn);
        } else if is_too_far {
            self.note(Why::DrainUndone { reason: "the mode no longer allows it".to_owned() }, turn);
        } else if let Some(group) = look.open().find(|group| is_buckled(group, by)) {
            let why = match &group.seen.verdict {
                _ if group.seen.canary_restarted => "it is being restarted".to_owned(),
                _ if !group.is_complete() => "a canary is gone".to_owned(),
                _ if !group.seen.canary_answers => "it does not answer".to_owned(),
                Verdict::Failed { why } | Verdict::Undecided { why } => why.clone(),
                verdict => format!("it is {}", verdict.word()),
            };
            self.note(Why::Buckled { group: group.name.to_owned(), why }, turn);
        } else if self.elapsed() >= limit {
            let reason = match &self.here.wait {
                Some(wait) => wait.to_string(),
                None if !turn.situation.can_write => Wait::Disk.to_string(),
                None => "the canary does not answer, or Nomad does not promote it".to_owned(),
            };
            self.note(Why::DrainUndone { reason }, turn);
        } else {
            return false;
        }
        self.go(Phase::Judge);
        true
    }

    fn promote(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        if self.mind_the_drain(look, turn) {
            return;
        }
        if self.intent.is_none()
            && let Some(group) = look.open().find(|group| !group.is_ready())
        {
            let group = group.name.to_owned();
            return self.wait_for(Wait::NotAnswering { group });
        }
        // All of them in one call, and none that is promoted already.
        let groups: Vec<String> = look.open().map(|group| group.name.to_owned()).collect();
        if !groups.is_empty() {
            self.ask(Call::Promote { groups }, turn);
        }
    }

    fn settle(&mut self, by: By, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let is_paused = look.deployment.is_some_and(|deployment| deployment.status == DeploymentStatus::Paused);
        if !is_paused || self.hold.is_none() {
            if self.intent.is_none() {
                self.hold = None;
                self.go(Phase::Watch { by, is_breached: false });
            }
            return;
        }
        let open = look.groups.iter().map(|group| {
            let next: Vec<_> = group.stopped_by_promotion().into_iter().chain(group.stopped_by_resume()).collect();
            group.in_flight(&next)
        });
        let open: u32 = open.fold(0, u32::saturating_add);
        if self.elapsed() < DRAIN_MIN || open > 0 && self.elapsed() < DRAIN_MAX {
            return self.wait_for(Wait::InFlight { open });
        }
        self.ask(Call::Resume, turn);
    }

    fn watch(&mut self, by: By, is_breached: bool, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let outcome = Outcome::Promoted { by };
        match look.job {
            None if self.is_job_known => return self.finish(outcome, Why::Purged, turn),
            Some(job) if job.is_stopped => return self.finish(outcome, Why::Stopped, turn),
            Some(job) if job.version > self.version => {
                return self.finish(outcome, Why::Newer { version: job.version }, turn);
            }
            _ => {}
        }
        let status = look.deployment.map(|deployment| &deployment.status);
        if let (Some(DeploymentStatus::Failed), Some(deployment)) = (status, look.deployment) {
            self.expects_revert = look.reverts_itself();
            let why = Why::FailedByNomad { description: deployment.description.clone() };
            return self.finish(Outcome::Failed { by: By::Other }, why, turn);
        }
        let breach = self.groups.keys().find_map(|name| match &turn.situation.groups.get(name)?.verdict {
            Verdict::Failed { why } => Some(why.clone()),
            _ => None,
        });
        self.is_verdict_old &= breach.is_some();
        if let Some(why) = breach.filter(|_| !is_breached && !self.is_verdict_old) {
            // What a person or somebody else promoted, they bring back themselves.
            let allowed = by == By::Verdict && turn.situation.reverts && turn.situation.mode == Mode::Auto;
            let to = self.older.filter(|_| allowed);
            self.note(Why::Breach { why, reverts: to.is_some() }, turn);
            // The watch goes on from where it began.
            self.phase = Phase::Watch { by, is_breached: true };
            if let Some(to) = to {
                self.go(Phase::Revert { to, outcome });
            }
            return;
        }
        let is_rolling = status.is_some_and(|status| !status.is_terminal()) && self.elapsed() < ROLL_MAX;
        if self.elapsed() < WATCH {
            self.wait_for(Wait::Watching { after: WATCH.saturating_sub(self.elapsed()) });
        } else if is_rolling {
            self.wait_for(Wait::Rolling);
        } else if is_breached {
            self.close(outcome);
        } else {
            self.finish(outcome, Why::Watched { after: self.elapsed() }, turn);
        }
    }

    pub(super) fn fail(&mut self, why: String, by: By, turn: &mut Turn<'_, '_>) {
        self.note(Why::Failing { why: why.clone() }, turn);
        self.go(Phase::Fail { why, by });
    }

    fn fail_drained(&mut self, by: By, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let open = open_at(look, |group| group.seen.canary_in_flight);
        if self.intent.is_none() && by != By::Person && turn.situation.mode < Mode::Auto {
            return self.go(Phase::Judge);
        }
        let is_past = self.here.until.is_some_and(|until| self.now() >= until);
        if self.intent.is_none() && is_past && !turn.situation.can_write {
            return self.release("it cannot be failed while the state cannot be written".to_owned(), true, turn);
        }
        if self.elapsed() < DRAIN_MIN || open > 0 && self.elapsed() < DRAIN_MAX {
            return self.wait_for(Wait::InFlight { open });
        }
        self.ask(Call::Fail, turn);
    }

    pub(super) fn revert(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let Phase::Revert { to, outcome } = self.phase.clone() else { return };
        match look.job {
            None => return self.finish(outcome, Why::Purged, turn),
            Some(job) if job.is_stopped => return self.finish(outcome, Why::Stopped, turn),
            Some(job) if job.version != self.version => {
                return self.finish(outcome, Why::Newer { version: job.version }, turn);
            }
            Some(_) => {}
        }
        if self.intent.is_none() && self.elapsed() > REVERT_MAX {
            return self.finish(outcome, Why::StaysBad { older: self.older }, turn);
        }
        self.ask(Call::Revert { to, from: self.version }, turn);
    }

    /// Gives it back. `for_good`: nothing is asked of Nomad afterwards unless a person says so.
    pub(super) fn release(&mut self, why: String, for_good: bool, turn: &mut Turn<'_, '_>) {
        if self.hold.is_some() {
            self.note(Why::GivingBack { why: why.clone() }, turn);
        }
        self.go(Phase::Release { why, for_good });
    }

    fn give_back(&mut self, why: String, for_good: bool, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        let is_paused = look.deployment.is_some_and(|deployment| deployment.status == DeploymentStatus::Paused);
        if self.hold.is_some() && (is_paused || self.intent.is_some()) {
            self.ask(Call::Resume, turn);
            return;
        }
        self.hold = None;
        self.is_kept = false;
        if for_good {
            self.hands_off = Some(why);
        }
        let auto_promote = look.open().any(|group| group.group.auto_promote);
        self.note(Why::GivenBack { auto_promote }, turn);
        self.go(Phase::Judge);
    }
}

fn open_at(look: &Look<'_>, count: impl Fn(&GroupLook<'_>) -> u32) -> u32 {
    look.open().map(count).fold(0, u32::saturating_add)
}
