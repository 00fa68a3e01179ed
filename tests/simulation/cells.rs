//! What is simulated, and what is promised of it.

use crate::world::{Behaviour, Scene};

/// Requests a second.
pub const RATES: [f64; 4] = [1.0, 3.0, 10.0, 300.0];

/// What one kind of rollout must show at every rate.
#[derive(Clone, Copy, Debug)]
pub enum Promise {
    /// At most this part of all rollouts fails.
    FailsAtMost(f64),
    /// At least these parts fail, at the rates in their order.
    FailsAtLeast([f64; 4]),
    /// All fail, and at most these parts keep their share for longer than a minute.
    Fails([f64; 4]),
    /// None passes.
    DoesNotPass,
}

/// One kind of rollout.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// What it is, in the table.
    pub name: &'static str,
    /// The rollout, but for its rate.
    pub scene: Scene,
    /// What it must show.
    pub promise: Promise,
    /// What the design's own simulation showed at 1, 3 and 10 requests a second, where it had such a cell: the share of
    /// rollouts that failed, and the seconds to the suspension or to the end of the ramp.
    pub design: Option<&'static str>,
}

const fn cell(name: &'static str, stable: f64, canary: f64, promise: Promise) -> Cell {
    let (stable, canary) = (Behaviour::failing(stable), Behaviour::failing(canary));
    Cell { name, scene: Scene::plain(stable, canary), promise, design: None }
}

impl Cell {
    const fn design(self, design: &'static str) -> Self {
        Self { design: Some(design), ..self }
    }

    const fn with(self, scene: Scene) -> Self {
        Self { scene, ..self }
    }
}

/// False rollbacks stay below this.
const FALSE: Promise = Promise::FailsAtMost(0.01);
/// Nothing is promised but an end.
const REPORTED: Promise = Promise::FailsAtLeast([0.0; 4]);

/// Canaries as good as stable.
pub fn equal() -> Vec<Cell> {
    let half = cell("equal 1 %, the hour before 0.5 %", 0.01, 0.01, FALSE);
    vec![
        cell("equal 0.2 %", 0.002, 0.002, FALSE).design("0/0/0 in 239/151/120 s"),
        cell("equal 1 %", 0.01, 0.01, FALSE).design("0/0/0"),
        cell("equal 2 %", 0.02, 0.02, FALSE),
        cell("equal 5 %", 0.05, 0.05, FALSE),
        half.with(Scene { stable_before: Some(0.005), ..half.scene }),
    ]
}

/// Both arms fail for a minute.
pub fn outages() -> Vec<Cell> {
    let outage = |name, failing| {
        let cell = cell(name, 0.002, 0.002, FALSE);
        cell.with(Scene { outage: Some((40.0, 100.0, failing)), ..cell.scene })
    };
    let early = outage("outage both 50 % from the start", 0.5);
    vec![
        outage("outage both 50 % 60 s", 0.5).design("0/.003/0"),
        outage("outage both 20 % 60 s", 0.2).design(".003/.003/0"),
        outage("outage both 100 % 60 s", 1.0),
        early.with(Scene { outage: Some((5.0, 65.0, 0.5)), ..early.scene }),
    ]
}

/// Canaries that are a little worse than stable.
pub fn worse() -> Vec<Cell> {
    vec![
        cell("canary 1 %", 0.002, 0.01, REPORTED),
        cell("canary 2 %", 0.002, 0.02, REPORTED).design(".11/.09/.31"),
        cell("canary 5 %", 0.002, 0.05, Promise::FailsAtLeast([0.65, 0.62, 0.90, 0.95])).design(".76/.67/.98 in 119/87/73 s"),
        cell("canary 2 %, stable 1 %", 0.01, 0.02, REPORTED),
        cell("canary 5 %, stable 1 %", 0.01, 0.05, REPORTED).design(".09/.18/.44 in 121/94/97 s"),
    ]
}

/// Canaries that must not stay: all fail, and nearly all lose their share within a minute. One request a second shows too few
/// failures in a minute to tell always; results.txt has the bounds.
pub fn bad() -> Vec<Cell> {
    let probes = cell("canary 20 %, its probes too", 0.002, 0.2, Promise::Fails([0.003, 0.001, 0.001, 0.001]));
    let probes_1 = cell("canary 20 %, its probes too, stable 1 %", 0.01, 0.2, Promise::Fails([0.012, 0.001, 0.001, 0.001]));
    let with_probes = |cell: Cell| cell.with(Scene { probes_fail: true, ..cell.scene });
    vec![
        cell("canary 20 %", 0.002, 0.2, Promise::Fails([0.003, 0.001, 0.001, 0.001])).design("1/1/1 in 23/17/12 s"),
        cell("canary 20 %, stable 1 %", 0.01, 0.2, Promise::Fails([0.012, 0.001, 0.001, 0.001])),
        with_probes(probes),
        with_probes(probes_1),
        cell("canary 50 %", 0.002, 0.5, Promise::Fails([0.001; 4])),
        cell("canary 100 %", 0.002, 1.0, Promise::Fails([0.0; 4])).design("1/1/1 in 4/2/3 s"),
        cell("canary 100 %, stable 1 %", 0.01, 1.0, Promise::Fails([0.0; 4])),
        cell("canary 100 %, stable 2 %", 0.02, 1.0, Promise::Fails([0.0; 4])),
    ]
}

/// Canaries that mend stable.
pub fn hotfixes() -> Vec<Cell> {
    vec![
        cell("hotfix: stable 20 %", 0.2, 0.002, Promise::FailsAtMost(0.0)),
        cell("hotfix: stable 5 %", 0.05, 0.002, Promise::FailsAtMost(0.0)),
    ]
}

/// Answers and failures that come late, in one arm or in both.
pub fn late() -> Vec<Cell> {
    let mut late = cell("equal 1 %, stable fails late", 0.01, 0.01, FALSE);
    late.scene.stable.fails_after = (1.5, 1.95);
    let mut early = cell("equal 1 %, canary answers late", 0.01, 0.01, FALSE);
    (early.scene.canary.answers_after, early.scene.canary.fails_after) = (0.3, (0.001, 0.01));
    let mut both = cell("outage 50 %, stable fails late", 0.002, 0.002, FALSE);
    (both.scene.outage, both.scene.stable.fails_after) = (Some((40.0, 100.0, 0.5)), (1.5, 1.95));
    let mut broken = cell("equal 2 %, bodies break in 20 s", 0.02, 0.02, FALSE);
    (broken.scene.stable.fails_after, broken.scene.canary.fails_after) = ((1.0, 20.0), (1.0, 20.0));
    vec![late, early, both, broken]
}

/// Arms that are slow, and such that answer now and then nothing in time.
pub fn slow() -> Vec<Cell> {
    let mut slower = cell("canary ten times slower", 0.002, 0.002, FALSE);
    slower.scene.canary.answers_after = 0.5;
    let mut hangs = cell("canary hangs in 10 %", 0.002, 0.002, FALSE);
    hangs.scene.canary.hangs = 0.1;
    let mut equal = cell("both hang in 10 %", 0.002, 0.002, FALSE);
    (equal.scene.canary.hangs, equal.scene.stable.hangs) = (0.1, 0.1);
    vec![slower, hangs, equal]
}

/// Canaries that answer no more.
pub fn silent() -> Vec<Cell> {
    let mut silent = cell("canary hangs after 20 s", 0.002, 0.002, Promise::Fails([1.0; 4]));
    silent.scene.hangs_from = Some(20.0);
    let mut answers = cell("... but answers probes", 0.002, 0.002, Promise::DoesNotPass);
    (answers.scene.hangs_from, answers.scene.answers_probes) = (Some(20.0), true);
    vec![silent, answers]
}

/// Clients that a cookie keeps on one arm, among them one whose requests fail wherever they go.
pub fn sticky() -> Vec<Cell> {
    let carried = |cell: Cell| cell.with(Scene { carried: 0.5, carried_fails: 0.2, ..cell.scene });
    vec![
        carried(cell("equal 0.2 %, half by cookie", 0.002, 0.002, FALSE)),
        carried(cell("canary 20 %, half by cookie", 0.002, 0.2, Promise::Fails([1.0, 1.0, 0.001, 0.001]))),
    ]
}

/// The proxy is killed again and again, and goes on with what it wrote.
pub fn killed() -> Vec<Cell> {
    let killed = |cell: Cell| cell.with(Scene { killed_every: Some(20.0), ..cell.scene });
    let mut outage = cell("outage 50 %, killed every 20 s", 0.002, 0.002, FALSE);
    outage.scene.outage = Some((40.0, 100.0, 0.5));
    vec![
        killed(cell("equal 1 %, killed every 20 s", 0.01, 0.01, FALSE)),
        killed(cell("canary 20 %, killed every 20 s", 0.002, 0.2, Promise::Fails([1.0, 1.0, 1.0, 0.001]))),
        killed(cell("canary 100 %, killed every 20 s", 0.002, 1.0, Promise::Fails([0.01; 4]))),
        killed(outage),
    ]
}

/// All of them, in the order of the table.
pub fn all() -> Vec<Cell> {
    [equal(), outages(), worse(), bad(), hotfixes(), late(), slow(), silent(), sticky(), killed()].concat()
}
