//! Decides what is asked of Nomad about one deployment: hold it while its canary is judged, drain and promote it, or fail it.
//!
//! A [`Deploy`] has no input or output. It is told the time, what Nomad shows, and what the judgement by requests says of each
//! group (that is `rollout`'s), and answers with [`Action`]s, each with its sentence. It can be written to disk at any moment and
//! read back: what it wants of Nomad is written down before it is asked ([`Deploy::step`] sets the intent, control writes the
//! state, then posts), and read back from the deployment before it is asked again.
//!
//! Three promises: nothing that we paused stays paused beyond the hold; a promoted group is never promoted again; without a disk to
//! write the intent to, nothing is asked but to resume.

mod action;
mod advance;
mod all;
mod ask;
mod hold;
mod look;
mod notice;
mod phase;
mod situation;
mod steer;
mod why;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use action::{Action, Steering};
pub use all::Deploys;
pub use phase::{Outcome, Phase};
pub use situation::{GroupSeen, Order, Situation, Verdict};
pub use why::{By, Wait, Why};

use super::{Call, JobKey};
use ask::{Intent, Retry};
use hold::Hold;
use look::Look;
use steer::Told;

/// How long a promoted version is watched.
pub const WATCH: Duration = Duration::from_secs(300);
/// How often canaries that were stopped or lost under our pause are replaced.
pub const REPLACED_MAX: u8 = 3;
/// How long a drain waits for open requests.
pub const DRAIN_MAX: Duration = Duration::from_secs(30);
/// A share or a drain reaches every request under way within this: no count of open requests is believed before.
pub const DRAIN_MIN: Duration = Duration::from_millis(200);
/// Between two steps while nothing presses.
const STEP: Duration = Duration::from_millis(500);
/// Sentences that are remembered.
const SAID_MAX: usize = 20;
/// Changes of phase in one step.
const PHASES_MAX: usize = 8;

/// One deployment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deploy {
    id: String,
    job: JobKey,
    version: u64,
    phase: Phase,
    /// Since when it is in this phase.
    since: Duration,
    /// Our pause, asked for or read back, until it is given back.
    hold: Option<Hold>,
    /// Why nothing is asked of Nomad any more unless a person says so.
    hands_off: Option<String>,
    /// A person holds it.
    is_kept: bool,
    /// A person wants it promoted.
    is_promotion_ordered: bool,
    /// What a person said while nothing could be done about it.
    order: Option<Order>,
    intent: Option<Intent>,
    retry: Retry,
    groups: BTreeMap<String, Known>,
    is_job_known: bool,
    /// It brings an older version back: answered probes are enough.
    is_revert: bool,
    /// This version failed before: not judged earlier than this.
    judged_from: Duration,
    is_max_hold_tried: bool,
    replaced: u8,
    /// The version that the older instances run.
    older: Option<u64>,
    reverts_itself: bool,
    /// The job is to be, or is being, brought back: a deployment of a later version does that.
    expects_revert: bool,
    unused_since: Option<Duration>,
    /// It was promoted in spite of its verdict: that one is no breach afterwards.
    is_verdict_old: bool,
    said: VecDeque<Said>,
    #[serde(skip)]
    here: Here,
}

/// What is remembered of a group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Known {
    canaries: BTreeSet<String>,
    is_promoted: bool,
    is_restarted: bool,
    is_stable_away: bool,
}

/// What only this process knows: after a restart it is found out, or said, again.
#[derive(Clone, Debug, Default)]
struct Here {
    told: Told,
    /// Nomad's progress deadlines: on the wall, and on the timeline as they were when they were first read. A wall clock that
    /// jumps later moves none of them.
    deadlines: BTreeMap<String, (SystemTime, Duration)>,
    wait: Option<Wait>,
    until: Option<Duration>,
    is_doubted: bool,
    /// Somebody else has paused it.
    is_foreign: bool,
    /// Since when the deployment is shown as failed by us.
    failed_at: Option<Duration>,
    recommended: Option<bool>,
    is_met: bool,
    now: Duration,
}

/// One sentence that was said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// When.
    pub at: Duration,
    /// What.
    pub sentence: String,
}

/// One step's situation, and what comes of it.
struct Turn<'a, 'v> {
    situation: &'a Situation<'v>,
    actions: Vec<Action>,
    /// Comes last: whoever the call stops gets nothing more by then.
    call: Option<Call>,
}

impl Deploy {
    /// A deployment that has just been seen. `is_revert`: it brings an older version back. `judged_from`: not judged earlier,
    /// because this version has failed before.
    pub fn new(deployment: &super::Deployment, now: Duration, is_revert: bool, judged_from: Duration) -> Self {
        Self {
            id: deployment.id.clone(),
            job: deployment.job.clone(),
            version: deployment.job_version,
            phase: Phase::Detect,
            since: now,
            hold: None,
            hands_off: None,
            is_kept: false,
            is_promotion_ordered: false,
            order: None,
            intent: None,
            retry: Retry::default(),
            groups: BTreeMap::new(),
            is_job_known: false,
            is_revert,
            judged_from,
            is_max_hold_tried: false,
            replaced: 0,
            older: None,
            reverts_itself: false,
            expects_revert: false,
            unused_since: None,
            is_verdict_old: true,
            said: VecDeque::new(),
            here: Here::default(),
        }
    }

    /// One step: at the latest after [`Deploy::step_within`], and at once when Nomad's view, a verdict, a call's outcome or an order arrives. The
    /// same situation again gives no action again.
    pub fn step(&mut self, situation: &Situation<'_>) -> Vec<Action> {
        let mut turn = Turn { situation, actions: Vec::new(), call: None };
        self.here.now = situation.now;
        if self.is_over() {
            return turn.actions;
        }
        self.here.wait = None;
        self.order = situation.order.or(self.order);
        if let Some((call, outcome)) = &situation.outcome {
            self.take(call, outcome, &mut turn);
        }
        let look = Look::new(&self.id, &self.job, self.version, situation);
        if situation.nomad_is_current && !self.is_over() {
            self.doubt(false, &mut turn);
            self.meet(&look, &mut turn);
        } else if !self.is_over() {
            self.doubt(true, &mut turn);
            self.wait_for(Wait::Nomad);
            self.mind_the_drain(&look, &mut turn);
        }
        self.tell(&look, &mut turn);
        turn.actions.extend(turn.call.take().map(Action::Call));
        if let Phase::Over { outcome } = &self.phase {
            turn.actions.push(Action::Ended(outcome.clone()));
        }
        turn.actions
    }

    /// Nomad is up to date: what happened there first, then what a person said, then what comes next.
    fn meet(&mut self, look: &Look<'_>, turn: &mut Turn<'_, '_>) {
        self.read_back(look, turn);
        if self.is_over() || self.end(look, turn) {
            return;
        }
        self.notice(look, turn);
        self.obey(look, turn);
        self.here.until = self.held_until(look, turn.situation).filter(|_| self.is_held()).map(|(until, _)| until);
        for _ in 0..PHASES_MAX {
            let before = std::mem::discriminant(&self.phase);
            self.here.wait = None;
            self.advance(look, turn);
            if std::mem::discriminant(&self.phase) == before {
                break;
            }
        }
    }

    fn doubt(&mut self, is_doubted: bool, turn: &mut Turn<'_, '_>) {
        if std::mem::replace(&mut self.here.is_doubted, is_doubted) != is_doubted && !self.said.is_empty() {
            let why = if is_doubted { Why::NomadAway } else { Why::NomadBack };
            self.note(why, turn);
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whose it is.
    pub fn job(&self) -> &JobKey {
        &self.job
    }

    /// The version it rolls out.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// It has ended, for us.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over { .. })
    }

    /// We have paused it, or asked for it, and not given it back.
    pub fn is_ours_to_resume(&self) -> bool {
        self.hold.is_some()
    }

    /// Until when the next step must come.
    pub fn step_within(&self) -> Duration {
        match self.phase {
            Phase::Drain { .. } | Phase::Promote { .. } | Phase::Settle { .. } | Phase::Fail { .. } => DRAIN_MIN,
            Phase::Over { .. } => WATCH,
            _ => STEP,
        }
    }

    /// Where it stands, for people, the API and metrics.
    pub fn report(&self) -> Report {
        Report {
            deployment: self.id.clone(),
            job: self.job.clone(),
            version: self.version,
            phase: self.phase.name(),
            since: self.since,
            is_held: self.is_held(),
            is_kept: self.is_kept,
            held_until: self.here.until,
            waits: self.here.wait.as_ref().map(ToString::to_string),
            hands_off: self.hands_off.clone(),
            outcome: match &self.phase {
                Phase::Over { outcome } => Some(outcome.clone()),
                _ => None,
            },
            canaries: self.groups.iter().map(|(name, known)| (name.clone(), known.canaries.clone())).collect(),
            asked: self.intent.as_ref().map(|intent| intent.call.clone()),
            said: self.said.iter().cloned().collect(),
        }
    }

    fn now(&self) -> Duration {
        self.here.now
    }

    fn elapsed(&self) -> Duration {
        self.here.now.saturating_sub(self.since)
    }

    fn is_held(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.is_paused)
    }

    fn go(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = self.here.now;
        self.retry = Retry::default();
    }

    fn finish(&mut self, outcome: Outcome, why: Why, turn: &mut Turn<'_, '_>) {
        // Of a deployment that never was ours to judge nothing is said at all.
        if !self.said.is_empty() {
            self.note(why, turn);
        }
        self.close(outcome);
    }

    fn close(&mut self, outcome: Outcome) {
        self.hold = None;
        self.intent = None;
        self.order = None;
        self.go(Phase::Over { outcome });
    }

    fn note(&mut self, why: Why, turn: &mut Turn<'_, '_>) {
        let sentence = why.to_string();
        if self.said.back().is_none_or(|last| last.sentence != sentence) {
            self.said.push_back(Said { at: self.here.now, sentence });
        }
        while self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
        turn.actions.push(Action::Note(why));
    }

    fn wait_for(&mut self, wait: Wait) {
        self.here.wait = Some(wait);
    }
}

/// Where a deployment stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its id.
    pub deployment: String,
    /// Whose it is.
    pub job: JobKey,
    /// The version it rolls out.
    pub version: u64,
    /// The phase in one word.
    pub phase: &'static str,
    /// Since when, on the timeline.
    pub since: Duration,
    /// It is paused by us.
    pub is_held: bool,
    /// A person holds it.
    pub is_kept: bool,
    /// Until when it is held at most, on the timeline.
    pub held_until: Option<Duration>,
    /// Why nothing happens just now.
    pub waits: Option<String>,
    /// Why nothing is asked of Nomad any more.
    pub hands_off: Option<String>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The canaries' allocations by group.
    pub canaries: BTreeMap<String, BTreeSet<String>>,
    /// What Nomad is being asked.
    pub asked: Option<Call>,
    /// What was said, the newest last.
    pub said: Vec<Said>,
}
#[cfg(test)]
mod tests;
#[cfg(test)]
mod toy;
#[cfg(test)]
mod walk;
