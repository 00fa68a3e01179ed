//! Which arm gets what, and which instances get nothing: worked out anew at each step from where the deployment stands, and told
//! where it differs from what was told. So a restarted process tells it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::look::{GroupLook, Look};
use super::why::{By, Wait};
use super::{Action, Deploy, Phase, Steering, Turn, Verdict};

/// What control was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    steering: BTreeMap<String, Steering>,
    drained: BTreeSet<String>,
}

impl Deploy {
    pub(super) fn tell(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        if self.is_over() {
            return;
        }
        let now = turn.situation.now;
        // First who gets nothing, then who gets everything: no request is to find an instance that is about to stop.
        let drained = self.drained(look);
        for allocation in drained.difference(&self.here.told.drained) {
            turn.actions.push(Action::Drain { allocation: allocation.clone() });
        }
        let mut steering: BTreeMap<String, Steering> =
            self.here.told.steering.keys().map(|name| (name.clone(), Steering::Judge)).collect();
        steering.extend(look.groups.iter().map(|group| (group.name.to_owned(), self.steering(group, now))));
        for (group, to) in &steering {
            if self.here.told.steering.get(group).copied().unwrap_or_default() != *to {
                turn.actions.push(Action::Steer { group: group.clone(), to: *to });
            }
        }
        steering.retain(|_, to| *to != Steering::Judge);
        for allocation in self.here.told.drained.difference(&drained) {
            let is_there = turn.situation.view.allocations.get(allocation).is_some_and(|allocation| allocation.is_wanted());
            if is_there {
                turn.actions.push(Action::Undrain { allocation: allocation.clone() });
            }
        }
        self.here.told = Told { steering, drained };
    }

    fn steering(&self, group: &GroupLook<'_>, now: Duration) -> Steering {
        if group.group.promoted {
            return Steering::Judge;
        }
        match &self.phase {
            Phase::Detect => match &self.here.wait {
                Some(Wait::Placing { .. } | Wait::Answer { .. } | Wait::Retry { .. }) => Steering::Withhold,
                _ => Steering::Judge,
            },
            Phase::Replace | Phase::Fail { .. } => Steering::Withhold,
            Phase::Judge if self.is_held() && !self.is_kept && now < self.judged_from => Steering::Withhold,
            Phase::Drain { by } | Phase::Promote { by } if group.replaces_all() && !is_buckled(group, *by) => {
                Steering::AllToCanary
            }
            _ => Steering::Judge,
        }
    }

    /// Those that Nomad stops, and those that it stops with our next call.
    fn drained(&self, look: &Look<'_>) -> BTreeSet<String> {
        let mut drained: BTreeSet<String> = look.stopping.iter().map(|id| (*id).to_owned()).collect();
        let settles = matches!(self.phase, Phase::Settle { .. }) && self.hold.is_some();
        for group in &look.groups {
            let stops = match &self.phase {
                // Between the promotion and the plan that carries it out.
                _ if group.group.promoted => true,
                // Where none of the older ones stays, their share is taken; they are there if the canary does not stand it.
                Phase::Drain { by } => !group.replaces_all() && !is_buckled(group, *by),
                Phase::Promote { by } => !is_buckled(group, *by),
                _ => false,
            };
            if stops {
                drained.extend(group.stopped_by_promotion().iter().map(|old| old.id.clone()));
            }
            if settles && group.group.promoted && !group.canaries.is_empty() {
                drained.extend(group.stopped_by_resume().map(|old| old.id.clone()));
            }
        }
        drained
    }
}

/// It does not stand what it was given to prove itself.
pub(super) fn is_buckled(group: &GroupLook<'_>, by: By) -> bool {
    let is_bad = matches!(group.seen.verdict, Verdict::Suspended | Verdict::Failed { .. } | Verdict::Undecided { .. });
    by == By::Verdict && is_bad || !group.is_complete() || !group.seen.canary_answers || group.seen.canary_restarted
}
