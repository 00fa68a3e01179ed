//! How long a deployment may stay paused by us.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::look::Look;
use super::{Deploy, Situation};

/// A hold ends this long before Nomad would fail the deployment because another group makes no progress.
const PROGRESS_MARGIN: Duration = Duration::from_secs(60);
/// A hold shorter than this is not begun.
pub(super) const HOLD_MIN: Duration = Duration::from_secs(10);

/// Our pause.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Hold {
    /// Since when it may be in force.
    pub(super) from: Duration,
    /// It was read back.
    pub(super) is_paused: bool,
    /// A try without an answer may still pause it: such a pause is ours, too.
    pub(super) may_come: bool,
}

impl Deploy {
    /// Until when a hold, this one or one that began now, lasts at most; and the group whose progress deadline says so. It is read
    /// anew at each step, as Nomad moves deadlines on with every healthy allocation.
    ///
    /// A group that waits for its canaries is measured by those alone (`shouldFail` in Nomad's deployment watcher), and a pause
    /// does not keep them from becoming healthy; every other group that is short of healthy allocations is kept from them by it.
    pub(super) fn held_until(&mut self, look: &Look<'_>, situation: &Situation<'_>) -> Option<(Duration, Option<String>)> {
        let deployment = look.deployment?;
        let from = self.hold.map_or(situation.now, |hold| hold.from);
        let mut until = (from.saturating_add(situation.hold_max), None);
        for (name, group) in &deployment.groups {
            let waits_for_canaries = group.desired_canaries > 0 && !group.promoted;
            if waits_for_canaries || group.healthy >= group.desired_total {
                continue;
            }
            let Some(by) = group.require_progress_by else { continue };
            let deadline = self.here.deadlines.entry(name.clone()).or_insert((by, Duration::MAX));
            if deadline.0 != by || deadline.1 == Duration::MAX {
                let left = by.duration_since(situation.wall).unwrap_or_default();
                *deadline = (by, situation.now.saturating_add(left));
            }
            let end = deadline.1.saturating_sub(PROGRESS_MARGIN);
            if end < until.0 {
                until = (end, Some(name.clone()));
            }
        }
        Some(until)
    }
}
