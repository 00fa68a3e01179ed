//! Moves a service's traffic from its stable to its canary servers by what requests saw.
//!
//! [`ledger`] is the request path's side: it draws the arm and counts. [`machine`] decides, without input or output: it is told the
//! time and what was seen, and the same observations at the same times give the same decisions. [`tracks`] says which
//! instances are canary when nothing else does. A [`Rollout`] ties machine and ledger together for control.

pub mod decision;
pub mod evidence;
pub mod explain;
mod latency;
pub mod ledger;
pub mod machine;
pub mod phase;
pub mod policy;
pub mod reader;
pub mod steer;
mod suspension;
pub mod tracks;
mod trial;

use std::time::Duration;

pub use decision::{Decision, Outcome, Why};
pub use ledger::{Draw, Ledger, Verdict};
pub use machine::{Arm, Direction, Machine, Nature, Probed, Report, Seen};
pub use policy::Policy;
pub use steer::{Pointless, Steer, Steered};

use reader::{Live, Reader, Tally};

/// Control's handle on one service's rollout: reads the ledger, asks the machine, sets the share.
#[derive(Debug)]
pub struct Rollout {
    machine: Machine,
    reader: Reader,
    begun: u32,
    /// Told from outside that the canary failed several times in a row.
    is_tripped: bool,
}

/// What control knows about the two arms at a step.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What is being rolled out: the canary's version, or anything else that changes when another canary takes its place.
    pub version: &'a str,
    /// Whether somebody declared the canary, or only its age tells.
    pub nature: Nature,
    /// The canary's instances.
    pub canary: Arm,
    /// Stable's instances.
    pub stable: Arm,
    /// The answer to a probe that came in since the last step.
    pub probed: Option<Probed>,
}

impl Rollout {
    /// Takes over a machine: a new one, or one read from disk, which goes on where it was.
    pub fn new(now: Duration, ledger: &Ledger, mut machine: Machine) -> Self {
        // A trip set before is not dealt with.
        machine.go_on(now, ledger.trips().wrapping_sub(1));
        Self { reader: Reader::new(now, ledger), begun: machine.begun(), machine, is_tripped: false }
    }

    /// One step, at the latest after [`Machine::step_within`], and at once when instances or a probe's answer arrive. The ledger's
    /// share is set already when this returns; the rest is for control: log lines, probes, adoption.
    ///
    /// `now` is control's monotonic timeline; one that a restarted process goes on with where the last one was.
    pub fn step(&mut self, now: Duration, ledger: &Ledger, situation: &Situation<'_>) -> Vec<Decision> {
        let mut tallies: Vec<Tally> = Vec::new();
        let settled = self.machine.policy().judged_at;
        self.reader.turn(now, ledger, self.machine.share(), self.machine.trips(), settled, &mut tallies);
        let mut live = self.reader.live(ledger);
        if std::mem::take(&mut self.is_tripped) && !live.tripped {
            live = Live { tripped: true, failing_from: now, ..live };
        }
        let seen = Seen { tallies: &tallies, live, situation };
        let before = self.machine.share();
        let decisions = self.machine.step(now, &seen);
        if self.machine.begun() != self.begun {
            self.begun = self.machine.begun();
            ledger.begin();
        }
        if self.machine.share() != before {
            tallies.clear();
            self.reader.turn(now, ledger, self.machine.share(), self.machine.trips(), settled, &mut tallies);
            self.machine.absorb(&tallies);
        }
        decisions
    }

    /// Goes on under another policy.
    pub fn set_policy(&mut self, policy: Policy) {
        self.machine.set_policy(policy);
    }

    /// What counts as several failures of the canary in a row has happened outside of any request; the next step acts on it.
    pub fn trip(&mut self) {
        self.is_tripped = true;
    }

    /// The machine, to be directed: what is asked of it takes effect with the next step.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// A person decides; the next step, which must come at once, does it.
    ///
    /// # Errors
    /// It would change nothing.
    pub fn steer(&mut self, steered: Steered) -> Result<(), Pointless> {
        self.machine.steer(steered)
    }

    /// The machine: its report, and what is kept on disk.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }
}

#[cfg(test)]
mod tests;
