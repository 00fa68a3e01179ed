//! What the runs of a cell showed: its row of the table, and whether it is what was promised.

use crate::cells::{Cell, Promise, RATES};
use crate::rollout::ledger::TRIP_AFTER;
use crate::world::{Course, End, Scene, run};

/// What a cell's runs showed at one rate.
#[derive(Debug)]
pub struct Shown {
    cell: Cell,
    rate: f64,
    courses: Vec<Course>,
}

/// Runs a cell so often at this rate.
pub fn show(cell: &Cell, rate: f64, runs: u32, seed: u64) -> Shown {
    let scene = Scene { rate, ..cell.scene };
    let named = cell.name.bytes().fold(rate as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ named;
    let courses = (0..runs).map(|n| run(&scene, seed.wrapping_add(u64::from(n) * 104_729))).collect();
    Shown { cell: *cell, rate, courses }
}

/// The head of the table.
pub const HEAD: &str = "\
seconds count from the first share            |failed|   share taken away   |verdict|canary failures|users'|  passed  |suspended for nothing | longest
cell                                     req/s|  %   |first s  95 % <60 s % |   s   |median    worst|fails |    s     |    %     costs s     |    s";

impl Shown {
    /// Its row under [`HEAD`].
    pub fn row(&self) -> String {
        let failed = || self.of(End::Failed);
        let passed = || self.of(End::Passed);
        let first = sorted(failed().filter_map(|course| course.suspended_first));
        let verdict = sorted(failed().map(|course| course.took));
        let failures = sorted(failed().map(|course| f64::from(course.canary_failures)));
        let users = self.courses.iter().map(|course| f64::from(course.user_failures)).sum::<f64>() / self.runs();
        let quick = sorted(passed().filter(|course| course.suspensions == 0).map(|course| course.took));
        let delayed = sorted(passed().filter(|course| course.suspensions > 0).map(|course| course.took));
        let for_nothing = delayed.len() as f64 / (passed().count() as f64) * 100.0;
        let longest = self.courses.iter().map(|course| course.took).fold(0.0, f64::max);
        let within = failed().count() as f64 - self.kept_longer() as f64;
        let columns = [
            format!("{:<40} {:>4} ", self.cell.name, self.rate),
            number(failed().count() as f64 / self.runs() * 100.0, 6, 1),
            number(at(&first, 0.5), 7, 1)
                + &number(at(&first, 0.95), 7, 1)
                + &number(within / failed().count() as f64 * 100.0, 8, 1),
            number(at(&verdict, 0.5), 7, 1),
            number(at(&failures, 0.5), 6, 0) + &number(f64::from(self.worst()), 9, 0),
            number(users, 6, 2),
            number(at(&quick, 0.5), 9, 1) + " ",
            number(for_nothing, 7, 1) + &number(at(&delayed, 0.5) - at(&quick, 0.5), 10, 1) + "     ",
            number(longest, 9, 0),
        ];
        columns.join("|")
    }

    /// Whether it showed what was promised, as far as so many runs can tell: see [`at_most`]. The error is what it showed instead.
    pub fn keeps_promise(&self) -> Result<(), String> {
        let (runs, failed) = (self.courses.len() as u32, self.of(End::Failed).count() as u32);
        let first = |end: End| self.of(end).next().map(|course| format!("{course:?}"));
        let index = RATES.iter().position(|rate| *rate == self.rate).unwrap_or(0);
        let here = |parts: [f64; 4]| parts.get(index).copied().unwrap_or(0.0);
        let scene = &self.cell.scene;
        let broken = match self.cell.promise {
            _ if self.of(End::Stuck).next().is_some() => format!("stuck: {:?}", first(End::Stuck)),
            _ if scene.canary.fails >= 1.0 && scene.killed_every.is_none() && self.worst() > TRIP_AFTER => {
                format!("{} failures before the share was taken away", self.worst())
            }
            Promise::FailsAtMost(part) if failed > at_most(runs, part) => {
                format!("{failed} of {runs} failed: {:?}", first(End::Failed))
            }
            Promise::FailsAtLeast(parts) if failed + at_most(runs, 1.0 - here(parts)) < runs => {
                format!("{failed} of {runs} failed: {:?}", first(End::Passed))
            }
            Promise::Fails(_) if failed < runs => {
                let other = self.courses.iter().find(|course| course.end != End::Failed);
                format!("{failed} of {runs} failed: {other:?}")
            }
            Promise::Fails(parts) if self.kept_longer() > at_most(runs, here(parts)) => {
                format!("{} of {runs} kept their share for more than a minute", self.kept_longer())
            }
            Promise::DoesNotPass if self.of(End::Passed).next().is_some() => format!("passed: {:?}", first(End::Passed)),
            _ => return Ok(()),
        };
        Err(format!("{} at {}: {broken}", self.cell.name, self.rate))
    }

    /// The most failures that the canary of a run could show before its share was first taken away.
    fn worst(&self) -> u32 {
        self.courses.iter().map(|course| course.failures_until_suspended).max().unwrap_or(0)
    }

    fn of(&self, end: End) -> impl Iterator<Item = &Course> {
        self.courses.iter().filter(move |course| course.end == end)
    }

    fn runs(&self) -> f64 {
        self.courses.len() as f64
    }

    /// Those that failed and had their share for longer than a minute.
    fn kept_longer(&self) -> u32 {
        self.of(End::Failed).filter(|course| course.suspended_first.is_none_or(|at| at > 60.0)).count() as u32
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn at(sorted: &[f64], part: f64) -> f64 {
    sorted.get((sorted.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

/// What there is none of is a dash.
fn number(value: f64, width: usize, digits: usize) -> String {
    if value.is_nan() { format!("{:>width$}", "-") } else { format!("{value:width$.digits$}") }
}

/// The most events of probability `part` in `runs` that are still believable: more happen in less than one of 10 000 cells.
pub fn at_most(runs: u32, part: f64) -> u32 {
    if part >= 1.0 {
        return runs;
    }
    let (n, p) = (f64::from(runs), part.max(0.0));
    let mut term = (1.0 - p).powf(n);
    let (mut sum, mut most) = (term, 0);
    while sum < 1.0 - 1e-4 && most < runs {
        term *= (n - f64::from(most)) / (f64::from(most) + 1.0) * p / (1.0 - p);
        most += 1;
        sum += term;
    }
    most
}

/// What no rule that looks only at the canary's requests can do better: rows of a table.
///
/// In a minute at this share the canary shows a Poisson number of failures. A rule can miss no less than the chance that it shows
/// none; and one that suspends no more than one of twenty canaries that are as good as stable, no less than the most powerful
/// test of that level (Neyman and Pearson) misses.
pub fn bounds(share: f64, rate: f64) -> Vec<String> {
    let attempts = share * rate * 60.0;
    let missed = |stable: f64| {
        let (well, bad) = (poisson(stable * attempts), poisson(0.2 * attempts));
        let mut above = 1.0;
        let mut below = 0.0;
        for (good, bad) in well.iter().zip(&bad) {
            // Suspending at this many failures and more is not too often any more: some of those with one failure fewer may be, too.
            let next = above - good;
            if next <= FALSE_SUSPENSIONS {
                return below + bad * (1.0 - (FALSE_SUSPENSIONS - next) / good);
            }
            (above, below) = (next, below + bad);
        }
        below
    };
    [0.002, 0.01, 0.02]
        .map(|stable| {
            let (none, least) = ((-0.2 * attempts).exp() * 100.0, missed(stable) * 100.0);
            format!(
                "{rate:>6} {:>9.1} {attempts:>9.0} {:>9.1} {none:>12.4} {:>9.1} {least:>12.4}",
                share * 100.0,
                attempts * 0.2,
                stable * 100.0
            )
        })
        .to_vec()
}

const FALSE_SUSPENSIONS: f64 = 0.05;

/// The probabilities of 0, 1, 2 .. events.
fn poisson(mean: f64) -> Vec<f64> {
    let mut term = (-mean).exp();
    (0..200)
        .map(|n| {
            let now = term;
            term *= mean / (f64::from(n) + 1.0);
            now
        })
        .collect()
}
